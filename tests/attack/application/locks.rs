//! An application holds every lock that the kernel lets it hold.
//!
//! Whoever reads or writes a pipe holds its lock while bytes are copied. If they are copied from a page that never
//! comes, whoever else touches the pipe waits in the kernel, O_NONBLOCK or not.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use machnet::Endpoint;
use machnet::daemon::control::message::{Query, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mm::{MapFlags, ProtFlags, UserfaultfdFlags};

use super::{HOSTILE, Hostile};
use crate::attacker::{Mission, at_it, tell};
use crate::table::Attack;
use crate::trial::{STALL, lasts};
use crate::user::{self, STRANGER, become_stranger};

const LOCKS: Attack = Attack {
    number: "1",
    who: "application",
    tries: "holds the locks of bells, segment and control socket, by a page that never comes",
    before: "the shard stood as long as the application liked, flows ended; kill -9 of the daemon did not help",
};

/// Longer than nobody may stand still.
const HOLDS: Duration = Duration::from_millis(1_000).saturating_add(STALL);

#[test]
fn locks_that_an_application_holds_stall_nobody() {
    if !user::are_two() {
        return;
    }
    LOCKS.run(
        |_| (),
        |trial| {
            trial.attacker("hold locks", &[]);
            std::thread::sleep(HOLDS.max(lasts()));
            trial.newcomers();
            let attacker = trial.last_attacker();
            assert_eq!(attacker.said("a pipe stands"), 1, "the page comes: this test tries nothing");
            let held = attacker.said("held");
            assert_eq!(held, 4, "each call of the application waits for its page");
            // It dies with all that it holds, and nothing of it stays.
            trial.end_attacker();
            let is_his = |uid: &Option<u32>| *uid == Some(STRANGER);
            trial.stage.left.await_status("the end of the application's channels", |status| {
                !status.channels.iter().any(|channel| is_his(&channel.uid))
            });
            format!("{held} descriptors were held for {:?}, in vain", HOLDS.max(lasts()))
        },
    );
}

/// The application: it holds what it can until it is killed.
pub(crate) fn attack(mission: &Mission) {
    let page = Page::that_never_comes();
    become_stranger();
    let (read_end, write_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
    page.hold(&write_end, Way::Write);
    let writes = Arc::new(AtomicU64::new(0));
    let done = Arc::clone(&writes);
    std::thread::spawn(move || {
        // The other end stays open as long as this goes on.
        let _read_end = read_end;
        loop {
            let _ = rustix::io::write(&write_end, &[1]);
            done.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(1));
        }
    });

    let mut application = Hostile::attach(&mission.socket);
    application.listen(mission.victim_ip(), HOSTILE);
    let [segment, ear, bell] = &application.channels[0];
    // As if it were asleep, so that the shard rings for the flow that comes next.
    rustix::io::pwrite(segment, &1_u64.to_ne_bytes(), INPUT_ASLEEP_AT).unwrap();
    let mut other = Endpoint::attach_to(&mission.socket).unwrap();
    let mut rings = [PollFd::new(ear, PollFlags::IN)];
    while poll(&mut rings, Some(&Timespec { tv_sec: 0, tv_nsec: 5_000_000 })) != Ok(1) {
        other.connect(mission.victim_ip(), (mission.victim.ip, HOSTILE).into()).unwrap();
    }
    let held = [
        page.hold(bell, Way::Write),
        page.hold(ear, Way::Read),
        page.hold(segment, Way::Write),
        // An answer that it never gets to read.
        {
            application.client.send(Request::Status(Query::default())).unwrap();
            page.hold(&application.client.as_fd().try_clone_to_owned().unwrap(), Way::Read)
        },
    ];
    // Whatever does not wait is back by then.
    let before = writes.load(Ordering::Relaxed);
    std::thread::sleep(BACK_WITHIN);
    tell("a pipe stands", u64::from(writes.load(Ordering::Relaxed) == before));
    tell("held", held.iter().filter(|is_back| !is_back.load(Ordering::Relaxed)).count() as u64);
    at_it();
    // The shard is to ring and to be rung meanwhile.
    for _ in 0.. {
        let _ = other.connect(mission.victim_ip(), (mission.victim.ip, HOSTILE).into());
        rustix::io::pwrite(segment, &1_u64.to_ne_bytes(), INPUT_ASLEEP_AT).unwrap();
        let _ = rustix::io::write(bell, &1_u64.to_ne_bytes());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A call that does not wait takes no longer.
const BACK_WITHIN: Duration = Duration::from_millis(500);

/// Where an application writes into its segment that it sleeps, in bytes from the beginning.
const INPUT_ASLEEP_AT: u64 = 2 * 128;

/// What a call does with the page.
#[derive(Clone, Copy)]
enum Way {
    Read,
    Write,
}

/// A page of this process whose bytes somebody else is to bring, who never does: whoever touches it waits.
struct Page {
    address: usize,
    _who_never_brings_it: OwnedFd,
}

impl Page {
    const BYTES: usize = 4096;

    /// Only root can have the kernel wait, which anybody can by a file system of his own; a test of root's needs none.
    fn that_never_comes() -> Self {
        // SAFETY: the descriptor is new, and what it does it does to the page below.
        let waiter = unsafe { rustix::mm::userfaultfd(UserfaultfdFlags::CLOEXEC) };
        let waiter = waiter.expect("this kernel lets nobody wait for pages: userfaultfd is missing or forbidden");
        // SAFETY: the kernel chooses the address.
        let address = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                Self::BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        };
        let address = address.unwrap() as usize;
        // `struct uffdio_api`: the version, features, and room for an answer.
        ioctl(waiter.as_raw_fd(), 0xc018_aa3f, &mut [0xaa, 0, 0]);
        // `struct uffdio_register`: where, how long, the mode "missing", and room for an answer.
        ioctl(waiter.as_raw_fd(), 0xc020_aa00, &mut [address as u64, Self::BYTES as u64, 1, 0]);
        Self { address, _who_never_brings_it: waiter }
    }

    /// Makes a call that needs the page, in a thread; tells when the call is back.
    fn hold(&self, fd: &OwnedFd, way: Way) -> Arc<AtomicBool> {
        let is_back = Arc::new(AtomicBool::new(false));
        let (returns, fd, address) = (Arc::clone(&is_back), fd.try_clone().unwrap(), self.address);
        std::thread::spawn(move || {
            let page = std::ptr::without_provenance_mut(address);
            match way {
                // SAFETY: the page is mapped as long as this process lives, and nobody else touches it.
                Way::Read => unsafe { libc::read(fd.as_raw_fd(), page, 8) },
                // SAFETY: as above.
                Way::Write => unsafe { libc::write(fd.as_raw_fd(), page, 8) },
            };
            returns.store(true, Ordering::Relaxed);
        });
        is_back
    }
}

fn ioctl<const WORDS: usize>(fd: RawFd, request: libc::c_ulong, words: &mut [u64; WORDS]) {
    // SAFETY: the request's number says how long its argument is, and that is the array.
    let status = unsafe { libc::ioctl(fd, request, words.as_mut_ptr()) };
    assert_eq!(status, 0, "request {request:#x}: {}", std::io::Error::last_os_error());
}
