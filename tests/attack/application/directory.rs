//! Any user holds locks where the daemon starts.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use machnet::Endpoint;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;

use crate::attacker::{Mission, at_it, tell, variable};
use crate::table::Attack;
use crate::trial::STALL;
use crate::user::{self, become_stranger};

const DIRECTORY: Attack = Attack {
    number: "15",
    who: "any user",
    tries: "holds a lock on the directory of the control socket, and tries to get that of the start",
    before: "the daemon did not start while somebody held it",
};

/// Tells the attacker where.
const WHERE: &str = "MACHNET_ATTACK_DIRECTORY";

#[test]
fn a_lock_on_the_directory_of_its_socket_stops_no_daemon() {
    if !user::are_two() {
        return;
    }
    DIRECTORY.run(
        |_| (),
        |trial| {
            // A daemon beside the neighbours', so that they are not disturbed by its start.
            let directory = trial.stage.third.directory().display().to_string();
            trial.attacker("lock a directory", &[(WHERE, directory)]);
            let third = &trial.stage.third;
            let began = Instant::now();
            let daemon = third.start_daemon(&third.config()).unwrap();
            let took = began.elapsed();
            drop(Endpoint::attach_to(third.socket()).unwrap());
            drop(daemon);
            trial.last_attacker().wait();
            let attacker = trial.last_attacker();
            assert_eq!((attacker.said("held"), attacker.said("got")), (1, 0));
            assert!(took < 5 * STALL, "the daemon took {took:?} to start");
            format!("the daemon started in {took:.0?}; its own lock was not to be had")
        },
    );
}

/// Some user.
pub(crate) fn lock_a_directory(mission: &Mission) {
    become_stranger();
    let directory = variable(WHERE);
    let held = open(&directory, OFlags::RDONLY, Mode::empty()).unwrap();
    flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
    tell("held", 1);
    at_it();
    // While the daemon starts: its own file comes and goes.
    let began = Instant::now();
    let mut got = Vec::new();
    while began.elapsed() < mission.lasts {
        let files = std::fs::read_dir(&directory).unwrap().flatten();
        got.extend(files.filter_map(|file| lock(&file.path())));
        std::thread::sleep(Duration::from_micros(100));
    }
    tell("got", got.len() as u64);
}

/// The lock of a start, if this is one and can be had.
fn lock(file: &Path) -> Option<OwnedFd> {
    if file.extension()? != "lock" {
        return None;
    }
    match open(file, OFlags::RDONLY, Mode::empty()) {
        Ok(file) => Some(file),
        Err(Errno::ACCESS | Errno::NOENT) => None,
        Err(error) => panic!("{error}"),
    }
}
