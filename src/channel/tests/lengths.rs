//! How long pieces may be, as the shard says it; and who hears of that.

use super::*;
use crate::channel::{ChannelSendError, FromApp, Geometry};

const PAYLOAD: u16 = 1418;

/// Takes and completes the pieces that were sent; gives their lengths.
fn taken_lengths(shard: &mut Shard) -> Vec<u16> {
    let mut taken = Vec::with_capacity(64);
    shard.end.poll_tx(&mut taken).expect("no violation");
    let lengths = taken.into_iter().map(|from_app| {
        let FromApp::Piece { buffer, len, .. } = from_app else { panic!("{from_app:?}") };
        shard.end.complete(buffer);
        len
    });
    lengths.collect()
}

#[test]
fn messages_are_cut_as_the_shard_says_last() {
    let (mut shard, mut app) = channel(Geometry::for_payload(8_918, 0, 0));
    shard.open(FLOW, PAYLOAD);
    assert_eq!(send(&mut app, FLOW, &message(1, 8_918)), Ok(()));
    assert_eq!(taken_lengths(&mut shard), [1418, 1418, 1418, 1418, 1418, 1418, 410]);
    for (max_payload, expected) in [(8_918, vec![8_918]), (5_000, vec![5_000, 3_918]), (8_918, vec![8_918])] {
        assert!(shard.end.publish_max_payload(FLOW, max_payload));
        shard.end.flush();
        assert!(!matches!(recv(&mut app), Some(Got::Message(..))), "nothing for the application");
        assert_eq!(recv(&mut app), None);
        assert_eq!(send(&mut app, FLOW, &message(1, 8_918)), Ok(()));
        assert_eq!(taken_lengths(&mut shard), expected);
    }
    // Of a flow that is closed it means nothing.
    app.close_flow(FLOW).expect("a whole channel");
    assert!(shard.end.publish_max_payload(FLOW, PAYLOAD));
    shard.end.flush();
    assert_eq!(recv(&mut app), None);
    assert_eq!(send(&mut app, FLOW, b"late"), Err(ChannelSendError::Closed));
}

#[test]
fn who_only_sends_hears_of_the_end_and_of_the_length_of_pieces_all_the_same() {
    let (mut shard, mut app) = channel(Geometry::for_payload(8_918, 0, 0));
    shard.open(FLOW, PAYLOAD);
    assert_eq!(send(&mut app, FLOW, b"the first"), Ok(()));
    assert!(shard.end.publish_max_payload(FLOW, 8_918));
    shard.end.flush();
    let mut longest = 0;
    for _ in 0..300 {
        assert_eq!(send(&mut app, FLOW, &message(1, 8_918)), Ok(()));
        longest = longest.max(taken_lengths(&mut shard).into_iter().max().unwrap_or(0));
    }
    assert_eq!(longest, 8_918);
    assert!(shard.end.publish_closed(FLOW, 3, 0));
    shard.end.flush();
    let refused = (0..300).find_map(|_| send(&mut app, FLOW, b"too late").err());
    assert_eq!(refused, Some(ChannelSendError::Closed));
    // Only when the end is received is the name free.
    assert!(shard.take().expect("no violation").iter().all(|took| matches!(took, Took::Message(..))));
    assert!(matches!(recv(&mut app), Some(Got::Opened(..))));
    assert_eq!(recv(&mut app), Some(Got::Closed(FLOW, 3, 0)));
    assert_eq!(recv(&mut app), None);
    assert_eq!(shard.take().expect("no violation"), [Took::Release(FLOW)]);
}

#[test]
fn a_payload_that_fits_no_buffer_breaks_the_channel() {
    for max_payload in [0, u16::MAX] {
        let (mut shard, mut app) = channel(Geometry::for_payload(PAYLOAD, 0, 0));
        shard.open(FLOW, PAYLOAD);
        assert!(shard.end.publish_max_payload(FLOW, max_payload));
        shard.end.flush();
        assert!(matches!(recv(&mut app), Some(Got::Opened(..))));
        assert!(app.recv().is_err(), "{max_payload}");
    }
}
