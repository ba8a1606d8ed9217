//! Bells and arming: who is woken, by what, and how often.

use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::channel::{Armed, ChannelSendError, Full, ShardEnd};

/// Long enough for a lost wake-up to be one.
const PATIENCE: Duration = Duration::from_secs(10);

fn events(bell: BorrowedFd<'_>, patience: Duration) -> PollFlags {
    let mut fds = [PollFd::from_borrowed_fd(bell, PollFlags::IN)];
    let timeout = Timespec::try_from(patience).expect("a short time");
    poll(&mut fds, Some(&timeout)).expect("polled");
    fds[0].revents()
}

fn rang(bell: BorrowedFd<'_>) -> bool {
    events(bell, Duration::ZERO).contains(PollFlags::IN)
}

#[test]
fn a_shard_that_is_awake_is_never_rung() {
    let (mut shard, mut app) = channel(small(4, 16));
    shard.open(FLOW, 64);
    assert_eq!(send(&mut app, FLOW, &[1]), Ok(()));
    assert!(!shard.is_rung());
}

#[test]
fn an_armed_shard_is_rung_once_for_descriptors() {
    let (mut shard, mut app) = channel(small(4, 16));
    shard.open(FLOW, 64);
    for _ in 0..2 {
        assert_eq!(shard.end.arm(), Armed::Armed);
        assert!(!shard.is_rung());
        assert_eq!(send(&mut app, FLOW, &[1]), Ok(()));
        assert!(shard.is_rung());
        assert_eq!(send(&mut app, FLOW, &[2]), Ok(()));
        assert!(!shard.is_rung(), "one arming, one ring");
        assert_eq!(shard.end.arm(), Armed::Ready, "there is something to take");
        let took = [Took::Message(FLOW, vec![1]), Took::Message(FLOW, vec![2])];
        assert_eq!(shard.take(), Ok(took.into()));
    }
}

#[test]
fn buffers_given_back_ring_only_a_shard_that_wants_them() {
    for wants_buffers in [false, true] {
        let (mut shard, mut app) = channel(small(4, 16));
        shard.deliver(FLOW, &[1], 64);
        let armed = if wants_buffers { shard.end.arm_wanting_buffers() } else { shard.end.arm() };
        assert_eq!(armed, Armed::Armed);
        assert_eq!(recv(&mut app), Some(Got::Message(FLOW, vec![1])));
        assert_eq!(recv(&mut app), None);
        assert_eq!(shard.is_rung(), wants_buffers);
        assert_eq!(shard.end.arm(), Armed::Armed);
        assert_eq!(shard.end.arm_wanting_buffers(), Armed::Ready);
    }
}

#[test]
fn an_armed_application_is_rung_once_for_what_arrives_and_not_for_buffers() {
    let (mut shard, mut app) = channel(small(4, 16));
    shard.open(FLOW, 64);
    assert!(!rang(app.bell()), "it is awake");
    assert_eq!(app.arm(), Ok(Armed::Ready));
    assert!(recv(&mut app).is_some());
    assert_eq!(send(&mut app, FLOW, &[1]), Ok(()));
    assert_eq!(app.arm(), Ok(Armed::Armed));
    assert!(shard.take().is_ok());
    assert!(!rang(app.bell()), "a completion is no input");
    shard.deliver(FLOW, &[1], 64);
    assert!(rang(app.bell()));
    app.drain_bell();
    shard.deliver(FLOW, &[2], 64);
    assert!(!rang(app.bell()), "it is awake again");
    assert_eq!(recv(&mut app), Some(Got::Message(FLOW, vec![1])));
    assert_eq!(recv(&mut app), Some(Got::Message(FLOW, vec![2])));
}

#[test]
fn who_waits_for_room_is_rung_when_there_is_enough() {
    let (mut shard, mut app) = channel(small(4, 16));
    shard.open(FLOW, 64);
    assert_eq!(app.arm_room(FLOW), Ok(Armed::Ready), "everything is free");
    for _ in 0..4 {
        assert_eq!(send(&mut app, FLOW, &[1]), Ok(()));
    }
    assert_eq!(send(&mut app, FLOW, &[2; 129]), Err(ChannelSendError::NoRoom(Full::Flow)));
    let mut held = Vec::new();
    assert_eq!(shard.take_and_hold(&mut held).map(|took| took.len()), Ok(4));
    assert_eq!(app.arm_room(FLOW), Ok(Armed::Armed));
    for enough in [false, false, true] {
        assert!(!rang(app.bell()));
        shard.end.complete(held.pop().expect("four were held"));
        shard.end.flush();
        assert_eq!(rang(app.bell()), enough);
    }
    app.drain_bell();
    assert_eq!(app.arm_room(FLOW), Ok(Armed::Ready));
    assert_eq!(send(&mut app, FLOW, &[2; 129]), Ok(()));
}

#[test]
fn the_end_of_one_side_is_seen_by_the_application_only() {
    let (shard, app) = channel(small(4, 16));
    drop(app);
    assert_eq!(events(shard.end.bell(), Duration::ZERO), PollFlags::empty(), "the control socket tells the daemon");
    assert!(!shard.is_rung());
    let (mut shard, mut app) = channel(small(4, 16));
    shard.open(FLOW, 64);
    assert_eq!(shard.end.arm(), Armed::Armed);
    drop(shard);
    assert!(events(app.bell(), Duration::ZERO).contains(PollFlags::HUP));
    assert_eq!(send(&mut app, FLOW, &[1]), Ok(()), "a dead daemon may be rung");
}

/// Whether `act` comes back; it is given up after a while.
fn comes_back(act: impl FnOnce() + Send + 'static) -> bool {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        act();
        let _ = tell.send(());
    });
    told.recv_timeout(PATIENCE).is_ok()
}

/// Whoever copies into or out of a pipe holds its lock, from a page that never comes for ever.
#[test]
fn no_bell_is_a_pipe() {
    let (_end, handles) = ShardEnd::create(small(4, 16)).expect("a channel");
    for bell in [&handles.bell_in, &handles.bell_out] {
        let mode = rustix::fs::fstat(bell).expect("an open descriptor").st_mode;
        assert_ne!(rustix::fs::FileType::from_raw_mode(mode), rustix::fs::FileType::Fifo);
    }
}

#[test]
fn every_ring_is_heard_although_nothing_is_read() {
    let (mut shard, mut app) = channel(small(4, 16));
    shard.open(FLOW, 64);
    for _ in 0..100 {
        assert_eq!(shard.end.arm(), Armed::Armed);
        assert!(!shard.is_rung());
        assert_eq!(send(&mut app, FLOW, &[1]), Ok(()));
        assert!(shard.is_rung());
        shard.take().expect("no violation");
    }
}

#[test]
fn an_application_that_never_hears_its_bell_is_rung_all_the_same_and_then_hears_it_once() {
    let rung = comes_back({
        let (bell, ear) = crate::channel::bell::towards_app().expect("a bell");
        move || {
            (0..1_000).for_each(|_| bell.ring());
            let ear = crate::channel::bell::AppEar::received(ear);
            assert!(rang(ear.fd()));
            ear.drain();
            assert!(!rang(ear.fd()), "what was not heard is heard at once");
            drop(ear);
            bell.ring();
        }
    });
    assert!(rung);
}

#[test]
fn an_application_can_send_nothing_to_the_daemon_by_its_bell() {
    let (_end, handles) = ShardEnd::create(small(4, 16)).expect("a channel");
    let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
    let sent = rustix::net::send(&handles.bell_in, &[1], flags);
    assert_eq!(sent, Err(rustix::io::Errno::PIPE));
}

#[test]
fn halves_that_sleep_on_one_bell_are_both_woken() {
    const ROUNDS: u32 = 2_000;
    let (mut shard, mut app) = channel(small(2, 16));
    shard.open(FLOW, 64);
    assert!(recv(&mut app).is_some());
    let (mut sender, mut receiver) = app.split();
    let sending = std::thread::spawn(move || {
        for round in 0..ROUNDS {
            while sender.send(FLOW, &[IoSlice::new(&round.to_le_bytes())]).is_err() {
                if sender.arm_room(FLOW) == Ok(Armed::Armed) {
                    assert!(
                        events(sender.alarm().bell(), PATIENCE).contains(PollFlags::IN),
                        "lost wake-up of the sender"
                    );
                    sender.alarm().drain_bell();
                }
                sender.alarm().disarm();
            }
        }
        sender
    });
    let receiving = std::thread::spawn(move || {
        let mut received = 0;
        while received < ROUNDS {
            if receiver.recv().expect("a whole channel").is_some() {
                received += 1;
                continue;
            }
            if receiver.arm() == Armed::Armed {
                assert!(
                    events(receiver.alarm().bell(), PATIENCE).contains(PollFlags::IN),
                    "lost wake-up of the receiver"
                );
                receiver.alarm().drain_bell();
            }
            receiver.alarm().disarm();
        }
        receiver
    });
    let mut echoed = 0;
    while echoed < ROUNDS {
        for took in shard.take().expect("no violation") {
            let Took::Message(flow, bytes) = took else { panic!("only messages") };
            while shard.end.free_buffers() == 0 {
                shard.end.poll_fill().expect("no violation");
                std::thread::yield_now();
            }
            shard.deliver(flow, &bytes, 64);
            echoed += 1;
        }
        if echoed < ROUNDS && shard.end.arm() == Armed::Armed {
            assert!(shard.is_rung_within(PATIENCE), "lost wake-up of the shard");
        }
        shard.end.disarm();
    }
    sending.join().expect("no panic");
    receiving.join().expect("no panic");
}
