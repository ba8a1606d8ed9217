//! The shard's end goes on in another process: what the application has is not touched, and it notices nothing.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::channel::{Armed, Geometry, NotAdopted, ShardEnd, ShardEndState, Violation};

fn rang(bell: std::os::fd::BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(bell, PollFlags::IN)];
    let now = Timespec::try_from(Duration::ZERO).expect("no time");
    poll(&mut fds, Some(&now)).expect("polled") > 0
}

/// Traffic in both directions, laps around every ring, and a handover in the middle of each exchange: with pieces that
/// are half sent, buffers that are held, pieces that are half arrived, and buffers that the application has.
#[test]
fn traffic_goes_on_where_it_was() {
    let (mut shard, mut app) = channel(small(8, 8));
    shard.open(FLOW, 64);
    assert!(recv(&mut app).is_some());
    for round in 0..100 {
        let long = message(round, 64 * 5);
        assert_eq!(send(&mut app, FLOW, &long), Ok(()));
        assert_eq!(send(&mut app, FLOW, &[7]), Ok(()));
        let mut held = Vec::new();
        let took = shard.take_and_hold(&mut held).expect("nothing is broken");
        assert_eq!(took, [Took::Message(FLOW, long.clone()), Took::Message(FLOW, vec![7])]);
        // Two of six have been acknowledged, and what else the application sends comes before and after.
        held.drain(..2).for_each(|buffer| shard.end.complete(buffer));
        assert_eq!(send(&mut app, FLOW, &[8]), Ok(()));
        shard.deliver_piece(FLOW, &long[..64], true, false);
        let mut arrived = vec![shard.end.allocate().expect("a free buffer")];
        shard.end.copy_to(&arrived[0], &long[64..128]);

        shard = shard.handed_over(&mut held, &mut arrived);

        assert_eq!(shard.end.tx_buffers_held(), 4);
        assert_eq!((shard.end.buffers_with_app(), shard.end.free_buffers()), (1, 6));
        let mut bytes = [0; 1];
        shard.end.copy_from(held.last().expect("four"), &mut bytes);
        assert_eq!(bytes, [7], "what is held may have to be sent again");
        let content =
            machnet_core::message::Content::Piece(machnet_core::message::Position { first: false, last: true });
        shard.end.publish(FLOW, arrived.remove(0), 64, content);
        shard.end.flush();
        assert_eq!(recv(&mut app), Some(Got::Message(FLOW, long[..128].to_vec())));
        assert_eq!(recv(&mut app), None);
        held.into_iter().for_each(|buffer| shard.end.complete(buffer));
        assert_eq!(shard.take(), Ok(vec![Took::Message(FLOW, vec![8])]));
        assert_eq!(app.free_tx_buffers(), Ok(8));
        shard.assert_no_receive_buffer_lost();
        assert_eq!(shard.end.free_buffers(), 8);
    }
}

#[test]
fn what_was_pushed_and_not_flushed_is_seen_and_wakes_whoever_sleeps() {
    let (mut shard, mut app) = channel(small(4, 16));
    shard.open(FLOW, 64);
    assert!(recv(&mut app).is_some());
    assert_eq!(app.arm(), Ok(Armed::Armed));
    shard.deliver_piece(FLOW, &[1], true, true);
    assert!(!rang(app.bell()));
    let mut shard = shard.handed_over(&mut [], &mut []);
    assert!(rang(app.bell()));
    app.drain_bell();
    assert_eq!(recv(&mut app), Some(Got::Message(FLOW, vec![1])));
    assert_eq!(shard.take(), Ok(vec![]));
}

#[test]
fn one_that_slept_is_awake_and_can_sleep_and_be_woken_again() {
    for has_rung in [false, true] {
        let (mut shard, mut app) = channel(small(4, 16));
        shard.open(FLOW, 64);
        for round in 0..3 {
            assert_eq!(shard.end.arm(), Armed::Armed);
            if has_rung {
                assert_eq!(send(&mut app, FLOW, &[1]), Ok(()));
                assert!(shard.is_rung());
            }
            shard = shard.handed_over(&mut [], &mut []);
            // A bell that rang before is heard after.
            assert_eq!(shard.is_rung(), has_rung || round > 0);
            assert_eq!(send(&mut app, FLOW, &[2]), Ok(()));
            assert!(!shard.is_rung(), "who is awake is not rung");
            shard.take().expect("nothing is broken");
            assert_eq!(shard.end.arm(), Armed::Armed);
            assert_eq!(send(&mut app, FLOW, &[3]), Ok(()));
            assert!(shard.is_rung(), "an arming is not taken for one that was answered before");
            assert_eq!(shard.take(), Ok(vec![Took::Message(FLOW, vec![3])]));
        }
    }
}

#[test]
fn an_application_is_rung_once_for_each_time_it_goes_to_sleep() {
    let (mut shard, mut app) = channel(small(4, 16));
    shard.open(FLOW, 64);
    assert!(recv(&mut app).is_some());
    for _ in 0..3 {
        assert_eq!(app.arm(), Ok(Armed::Armed));
        shard.deliver(FLOW, &[1], 64);
        assert!(rang(app.bell()));
        app.drain_bell();
        // It is not awake yet: its word says what it said when its bell rang.
        shard = shard.handed_over(&mut [], &mut []);
        shard.deliver(FLOW, &[2], 64);
        assert!(!rang(app.bell()));
        assert_eq!(recv(&mut app), Some(Got::Message(FLOW, vec![1])));
        assert_eq!(recv(&mut app), Some(Got::Message(FLOW, vec![2])));
        assert_eq!(recv(&mut app), None);
    }
}

#[test]
fn a_full_ring_of_events_is_known_to_be_full() {
    let (mut shard, mut app) = channel(small(4, 16));
    let fill = |shard: &mut Shard| {
        let mut count = 0;
        while shard.end.publish_silent(FLOW) {
            count += 1;
        }
        shard.end.flush();
        count
    };
    shard.open(FLOW, 64);
    let all = 2 + fill(&mut shard);
    assert_eq!(all, 128 - 16, "the slots that no buffer can claim");
    let mut shard = shard.handed_over(&mut [], &mut []);
    assert_eq!(fill(&mut shard), 0);
    for buffer in 0..16 {
        shard.deliver(FLOW, &[buffer], 64);
    }
    assert!(recv(&mut app).is_some() && recv(&mut app).is_some());
    app.set_aside().expect("a whole channel");
    assert_eq!(fill(&mut shard), all);
}

#[test]
fn a_broken_channel_stays_broken() {
    let (mut shard, mut app) = channel(small(4, 16));
    shard.open(FLOW, 64);
    assert!(recv(&mut app).is_some());
    assert_eq!(send(&mut app, FLOW, &[1]), Ok(()));
    let mut held = Vec::new();
    assert!(shard.take_and_hold(&mut held).is_ok());
    let (mut state, handles) = shard.end.save();
    state.violation = Some(Violation::EmptyPiece);
    let (mut end, _lent) = ShardEnd::adopt(state, handles).expect("a good state");
    assert_eq!(end.poll_fill(), Err(Violation::EmptyPiece));
}

/// What a state says when it has been saved in the middle of everything, and whether it is adopted after a change.
fn adopted(change: impl Fn(&mut ShardEndState)) -> Result<(), NotAdopted> {
    let (mut shard, mut app) = channel(small(4, 4));
    shard.open(FLOW, 64);
    assert!(recv(&mut app).is_some());
    assert_eq!(send(&mut app, FLOW, &[1]), Ok(()));
    assert!(shard.take_and_hold(&mut Vec::new()).is_ok());
    shard.deliver(FLOW, &[1], 64);
    assert!(shard.end.allocate().is_some());
    let (mut state, handles) = shard.end.save();
    assert_eq!((state.transmit.held.len(), state.receive.free.len(), state.receive.with_app.len()), (1, 2, 1));
    change(&mut state);
    ShardEnd::adopt(state, handles).map(|_| ())
}

#[test]
fn a_state_that_contradicts_itself_is_refused() {
    assert!(adopted(|_| {}).is_ok());
    let refused = |change: &dyn Fn(&mut ShardEndState)| match adopted(change) {
        Err(NotAdopted::State(why)) => why,
        other => panic!("{other:?}"),
    };
    let twice = "a buffer with two owners";
    let strange = "a buffer that does not exist";
    assert_eq!(refused(&|state| state.transmit.held.push(state.transmit.held[0])), twice);
    assert_eq!(refused(&|state| state.transmit.held[0] = 4), strange);
    assert_eq!(refused(&|state| state.receive.free.push(state.receive.with_app[0])), twice);
    assert_eq!(refused(&|state| state.receive.free[0] = state.receive.free[1]), twice);
    assert_eq!(refused(&|state| state.receive.with_app[0] = u32::MAX), strange);
    let counts = "more entries of a ring than there can have been";
    assert_eq!(refused(&|state| state.counts.tx = u64::MAX), counts);
    assert_eq!(refused(&|state| state.counts.fill = u64::MAX), counts);
    assert_eq!(refused(&|state| state.counts.rx = u64::MAX), counts);
    assert_eq!(refused(&|state| state.counts.completion = u64::MAX), counts);
    assert_eq!(refused(&|state| state.sleep.armings = u64::MAX), "more armings than there can have been");
    let events = "entries of the rx ring";
    assert_eq!(refused(&|state| state.events.push(state.counts.rx)), events);
    assert_eq!(refused(&|state| state.events = vec![1, 1]), events);
    assert_eq!(refused(&|state| state.events = (0..state.counts.rx).chain(0..200).collect()), events);
}

#[test]
fn memory_of_another_size_is_refused_and_impossible_measures_cannot_be_read() {
    let refused = adopted(|state| state.geometry = small(200, 4));
    assert!(matches!(refused, Err(NotAdopted::Memory(_))), "{refused:?}");
    let (state, _) = ShardEnd::create(small(4, 4)).expect("a channel").0.save();
    let mut bytes = postcard::to_allocvec(&state).expect("a state can be written");
    assert_eq!(bytes[0], 64, "buffers of 64 bytes");
    bytes[0] = 63;
    assert!(postcard::from_bytes::<ShardEndState>(&bytes).is_err());
}

/// Whatever bytes are read, and whatever then lies in the memory: an error or an end that holds to its rules.
#[test]
fn bytes_that_were_damaged_do_no_harm() {
    let (mut shard, mut app) = channel(small(4, 4));
    shard.open(FLOW, 64);
    assert!(recv(&mut app).is_some() && send(&mut app, FLOW, &[1]).is_ok());
    assert!(shard.take_and_hold(&mut Vec::new()).is_ok());
    shard.deliver(FLOW, &[1], 64);
    let (state, handles) = shard.end.save();
    let bytes = postcard::to_allocvec(&state).expect("a state can be written");
    let copy = |fd: &std::os::fd::OwnedFd| fd.as_fd().try_clone_to_owned().expect("a descriptor");
    let (mut adopted, mut refused) = (0, 0);
    for place in 0..bytes.len() {
        for bit in 0..8 {
            let mut bytes = bytes.clone();
            bytes[place] ^= 1 << bit;
            let Ok(state) = postcard::from_bytes::<ShardEndState>(&bytes) else {
                refused += 1;
                continue;
            };
            let handles = crate::channel::ShardHandles {
                memory: copy(&handles.memory),
                ear: copy(&handles.ear),
                bell: copy(&handles.bell),
            };
            let Ok((mut end, _lent)) = ShardEnd::adopt(state, handles) else {
                refused += 1;
                continue;
            };
            adopted += 1;
            for _ in 0..3 {
                let mut descriptors = Vec::with_capacity(4);
                let _ = end.poll_tx(&mut descriptors);
                let _ = end.poll_fill();
                let _ = end.publish_closed(FLOW, 1, 2);
                if let Some(buffer) = end.allocate() {
                    end.copy_to(&buffer, &[1; 64]);
                    end.publish(FLOW, buffer, 64, machnet_core::message::Content::WHOLE);
                }
                let _ = end.arm_wanting_buffers();
                end.flush();
            }
        }
    }
    assert!(adopted > 0 && refused > 0, "{adopted} adopted, {refused} refused");
}

#[test]
fn the_measures_survive() {
    let geometry = Geometry::for_payload(1400, 1 << 20, 1 << 18);
    let (end, _app) = ShardEnd::create(geometry).expect("a channel");
    let (state, handles) = end.save();
    let (end, lent) = ShardEnd::adopt(state, handles).expect("a good state");
    assert_eq!(*end.geometry(), geometry);
    assert!(lent.is_empty() && end.free_buffers() == geometry.rx_buffers() as usize);
}
