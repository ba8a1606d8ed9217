//! Messages and events, in both directions.

use machnet_core::defaults;
use std::io::IoSlice;

use super::*;
use crate::channel::{AppEnd, Armed, Broken, ChannelSendError, FromShard, Full, Geometry, Opened, ShardEnd};
use machnet_core::flow::FlowId;
use machnet_core::message::{Content, MESSAGE_BYTES_MAX};

const PAYLOAD: u16 = 1418;

fn sizes() -> impl Iterator<Item = usize> {
    let payload = usize::from(PAYLOAD);
    [1, 2, payload - 1, payload, payload + 1, 64 * payload, 64 * payload + 1, 1 << 20].into_iter()
}

#[test]
fn every_size_is_sent_byte_for_byte() {
    let (mut shard, mut app) =
        channel(Geometry::for_payload(PAYLOAD, defaults::SEND_BYTES as usize, defaults::RECEIVE_BYTES as usize));
    shard.open(FLOW, PAYLOAD);
    for bytes in sizes().chain([MESSAGE_BYTES_MAX - 1, MESSAGE_BYTES_MAX]) {
        let sent = message(bytes, bytes);
        assert_eq!(send(&mut app, FLOW, &sent), Ok(()));
        assert!(shard.take().expect("no violation") == [Took::Message(FLOW, sent)], "{bytes} bytes");
    }
    assert_eq!(shard.end.tx_buffers_held(), 0);
    assert_eq!(app.free_tx_buffers(), Ok(shard.end.geometry().tx_buffers() as usize));
}

#[test]
fn a_flow_between_ipv6_addresses_is_announced_in_one_go() {
    let (mut shard, mut app) = channel(small(4, 16));
    let ends = |opened: Opened| (opened.local.to_string(), opened.remote.to_string());
    let wide = Opened {
        local: "[2001:db8::1]:888".parse().expect("an address"),
        remote: "[2001:db8::2]:50000".parse().expect("an address"),
        ..opened(64)
    };
    // Both families, until nothing more finds room; each wholly or not at all.
    let mut published = Vec::new();
    for (number, flow) in (0..).map(FlowId).enumerate() {
        let opened = if number % 3 == 0 { wide } else { opened(64) };
        if !shard.end.publish_opened(flow, &opened) {
            break;
        }
        published.push((flow, opened));
    }
    shard.end.flush();
    assert!(published.len() > 15, "{}", published.len());
    for (flow, opened) in published {
        assert_eq!(app.is_open(flow), Ok(true), "known before it is received");
        assert_eq!(recv(&mut app), Some(Got::Opened(flow, opened)), "{:?}", ends(opened));
    }
    assert_eq!(recv(&mut app), None);
}

#[test]
fn the_largest_message_fits_whatever_the_payload_and_the_budget() {
    for max_payload in [1024, PAYLOAD, 8_948] {
        let geometry = Geometry::for_payload(max_payload, 0, 0);
        let (mut shard, mut app) = channel(geometry);
        // The peer's pieces may be smaller than ours.
        shard.open(FLOW, 1024);
        let sent = message(1, MESSAGE_BYTES_MAX);
        assert_eq!(send(&mut app, FLOW, &sent), Ok(()));
        assert!(shard.take().expect("no violation") == [Took::Message(FLOW, sent)]);
    }
}

#[test]
fn every_size_is_received_byte_for_byte() {
    let (mut shard, mut app) = channel(Geometry::for_payload(PAYLOAD, 0, defaults::RECEIVE_BYTES as usize));
    shard.open(FLOW, PAYLOAD);
    assert_eq!(recv(&mut app), Some(Got::Opened(FLOW, opened(PAYLOAD))));
    for bytes in sizes() {
        let sent = message(bytes, bytes);
        shard.deliver(FLOW, &sent, usize::from(PAYLOAD));
        assert!(recv(&mut app) == Some(Got::Message(FLOW, sent)), "{bytes} bytes");
        assert_eq!(recv(&mut app), None);
        shard.end.poll_fill().expect("no violation");
        assert_eq!(shard.end.buffers_with_app(), 0, "{bytes} bytes: all buffers came back");
    }
}

#[test]
fn the_largest_message_needs_few_receive_buffers() {
    let (mut shard, mut app) = channel(Geometry::for_payload(PAYLOAD, 0, 0));
    shard.open(FLOW, PAYLOAD);
    assert!(recv(&mut app).is_some());
    let sent = message(3, MESSAGE_BYTES_MAX);
    let pieces = sent.chunks(usize::from(PAYLOAD));
    let count = pieces.len();
    for (index, piece) in pieces.enumerate() {
        shard.deliver_piece(FLOW, piece, index == 0, index + 1 == count);
        shard.end.flush();
        if index + 1 < count {
            assert_eq!(recv(&mut app), None);
        }
        shard.end.poll_fill().expect("no violation");
    }
    assert!(recv(&mut app) == Some(Got::Message(FLOW, sent)));
}

#[test]
fn one_piece_is_one_slice_and_many_pieces_lie_where_they_arrived() {
    let (mut shard, mut app) = channel(small(4, 64));
    shard.deliver(FLOW, &message(1, 64), 64);
    shard.deliver(FLOW, &message(2, 130), 64);
    let Ok(Some(FromShard::Message { message: one, .. })) = app.recv() else { panic!("a message") };
    assert_eq!(one.as_slice(), Some(&message(1, 64)[..]));
    let Ok(Some(FromShard::Message { message: many, .. })) = app.recv() else { panic!("a message") };
    assert_eq!(many.as_slice(), None);
    assert_eq!(many.slices().map(<[u8]>::len).collect::<Vec<_>>(), [64, 64, 2]);
    let mut beginning = [0; 65];
    assert_eq!(many.copy_to(&mut beginning), 65);
    assert_eq!(beginning[..], message(2, 130)[..65]);
}

#[test]
fn parts_are_joined_without_a_seam() {
    let (mut shard, mut app) = channel(small(16, 16));
    shard.open(FLOW, 50);
    let sent = message(9, 201);
    for cuts in [[0, 0, 201], [1, 49, 50], [50, 100, 200], [64, 65, 66], [201, 201, 201]] {
        let [a, b, c] = cuts;
        let parts = [&sent[..a], &sent[a..b], &[], &sent[b..c], &sent[c..]].map(IoSlice::new);
        assert_eq!(app.send(FLOW, &parts), Ok(()));
        assert_eq!(shard.take(), Ok(vec![Took::Message(FLOW, sent.clone())]));
    }
}

#[test]
fn what_cannot_be_sent_is_refused_and_nothing_of_it_is_published() {
    let (mut shard, mut app) = channel(small(4, 4));
    shard.open(FLOW, 64);
    assert_eq!(send(&mut app, OTHER, &[1]), Err(ChannelSendError::Closed));
    assert_eq!(send(&mut app, FLOW, &[]), Err(ChannelSendError::Empty));
    assert_eq!(app.send(FLOW, &[]), Err(ChannelSendError::Empty));
    assert_eq!(send(&mut app, FLOW, &[1; 257]), Err(ChannelSendError::TooLong), "never fits four buffers");
    assert_eq!(send(&mut app, FLOW, &[1; 128]), Ok(()));
    assert_eq!(send(&mut app, FLOW, &[2; 129]), Err(ChannelSendError::NoRoom(Full::Flow)));
    assert_eq!(send(&mut app, FLOW, &[3; 128]), Ok(()));
    let took = [Took::Message(FLOW, vec![1; 128]), Took::Message(FLOW, vec![3; 128])];
    assert_eq!(shard.take(), Ok(took.into()));
    assert_eq!(send(&mut app, FLOW, &[4; 256]), Ok(()));

    let (mut shard, mut app) = channel(Geometry::for_payload(PAYLOAD, 0, 0));
    shard.open(FLOW, PAYLOAD);
    assert_eq!(send(&mut app, FLOW, &vec![0; MESSAGE_BYTES_MAX + 1]), Err(ChannelSendError::TooLong));
    assert_eq!(shard.take(), Ok(vec![]));
}

#[test]
fn pieces_of_flows_may_be_mixed() {
    let (mut shard, mut app) = channel(small(4, 64));
    shard.deliver_piece(FLOW, &[1], true, false);
    shard.deliver_piece(OTHER, &[2], true, false);
    shard.deliver_piece(FlowId(3), &[3], true, true);
    shard.deliver_piece(FLOW, &[4], false, true);
    shard.deliver_piece(OTHER, &[5], false, true);
    shard.end.flush();
    assert_eq!(recv(&mut app), Some(Got::Message(FlowId(3), vec![3])));
    assert_eq!(recv(&mut app), Some(Got::Message(FLOW, vec![1, 4])));
    assert_eq!(recv(&mut app), Some(Got::Message(OTHER, vec![2, 5])));
    assert_eq!(recv(&mut app), None);
}

#[test]
fn partial_messages_of_many_flows_cannot_lock_the_pool() {
    let (mut shard, mut app) = channel(small(4, 16));
    for round in 0..32 {
        for flow in 0..8 {
            shard.deliver_piece(FlowId(flow), &[round], round == 0, round == 31);
            shard.end.flush();
            let got = recv(&mut app);
            assert_eq!(got.is_some(), round == 31);
            shard.end.poll_fill().expect("no violation");
        }
        assert!(shard.end.free_buffers() >= 12, "a quarter of the pool is held at most");
    }
    assert_eq!(recv(&mut app), None);
    shard.end.poll_fill().expect("no violation");
    assert_eq!(shard.end.free_buffers(), 16);
}

#[test]
fn events_and_messages_come_in_the_order_in_which_they_were_published() {
    let (mut shard, mut app) = channel(small(4, 16));
    shard.open(FLOW, 64);
    shard.deliver(FLOW, &[1], 64);
    assert!(shard.end.publish_silent(FLOW));
    assert!(shard.end.publish_alive(FLOW));
    shard.deliver(FLOW, &[2], 64);
    assert!(shard.end.publish_closed(FLOW, 3, u64::MAX - 1));
    assert_eq!(recv(&mut app), Some(Got::Opened(FLOW, opened(64))));
    shard.end.flush();
    assert_eq!(recv(&mut app), Some(Got::Message(FLOW, vec![1])));
    assert_eq!(recv(&mut app), Some(Got::Silent(FLOW)));
    assert_eq!(recv(&mut app), Some(Got::Alive(FLOW)));
    assert_eq!(recv(&mut app), Some(Got::Message(FLOW, vec![2])));
    assert_eq!(recv(&mut app), Some(Got::Closed(FLOW, 3, u64::MAX - 1)));
    assert_eq!(recv(&mut app), None);
}

#[test]
fn a_closed_flow_is_released_once_and_after_everything_else_about_it() {
    let (mut shard, mut app) = channel(small(4, 16));
    shard.open(FLOW, 64);
    assert_eq!(send(&mut app, FLOW, &[1]), Ok(()));
    assert!(shard.end.publish_closed(FLOW, 1, 0));
    shard.end.flush();
    assert_eq!(send(&mut app, FLOW, &[2]), Ok(()), "the application has not heard of the end yet");
    assert_eq!(recv(&mut app), Some(Got::Opened(FLOW, opened(64))));
    assert_eq!(recv(&mut app), Some(Got::Closed(FLOW, 1, 0)));
    assert_eq!(send(&mut app, FLOW, &[3]), Err(ChannelSendError::Closed));
    assert_eq!(recv(&mut app), None);
    let took = [Took::Message(FLOW, vec![1]), Took::Message(FLOW, vec![2]), Took::Release(FLOW)];
    assert_eq!(shard.take(), Ok(took.into()));
    assert_eq!(app.close_flow(FLOW), Ok(()));
    assert_eq!(shard.take(), Ok(vec![]), "nothing is said about a flow that was released");
    shard.open(FLOW, 64);
    assert_eq!(recv(&mut app), Some(Got::Opened(FLOW, opened(64))));
    assert_eq!(send(&mut app, FLOW, &[4]), Ok(()), "its name may be used again");
}

#[test]
fn closing_a_flow_ends_sending_but_not_receiving() {
    let (mut shard, mut app) = channel(small(4, 16));
    shard.open(FLOW, 64);
    assert_eq!(send(&mut app, FLOW, &[1]), Ok(()));
    assert_eq!(app.close_flow(FLOW), Ok(()));
    assert_eq!(app.close_flow(FLOW), Ok(()));
    assert_eq!(send(&mut app, FLOW, &[2]), Err(ChannelSendError::Closed));
    assert_eq!(shard.take(), Ok(vec![Took::Message(FLOW, vec![1]), Took::Close(FLOW)]));
    shard.deliver(FLOW, &[3], 64);
    assert!(shard.end.publish_closed(FLOW, 1, 1));
    shard.end.flush();
    assert_eq!(recv(&mut app), Some(Got::Opened(FLOW, opened(64))));
    assert_eq!(recv(&mut app), Some(Got::Message(FLOW, vec![3])));
    assert_eq!(recv(&mut app), Some(Got::Closed(FLOW, 1, 1)));
    assert_eq!(recv(&mut app), None);
    assert_eq!(shard.take(), Ok(vec![Took::Release(FLOW)]));
}

#[test]
fn a_flow_can_be_used_before_its_opened_is_received() {
    let (mut shard, mut app) = channel(small(4, 16));
    shard.deliver(OTHER, &[1], 64);
    assert_eq!(app.is_open(FLOW), Ok(false));
    shard.open(FLOW, 64);
    assert_eq!(app.is_open(FLOW), Ok(true));
    assert_eq!(send(&mut app, FLOW, &[2]), Ok(()));
    assert_eq!(app.close_flow(FLOW), Ok(()));
    assert_eq!(recv(&mut app), Some(Got::Message(OTHER, vec![1])));
    assert_eq!(recv(&mut app), Some(Got::Opened(FLOW, opened(64))), "it is received all the same");
    assert_eq!(send(&mut app, FLOW, &[3]), Err(ChannelSendError::Closed), "and does not open the flow again");
    assert_eq!(shard.take(), Ok(vec![Took::Message(FLOW, vec![2]), Took::Close(FLOW)]));
}

#[test]
fn a_message_that_is_put_back_is_the_next_one() {
    let (mut shard, mut app) = channel(small(4, 16));
    shard.deliver(FLOW, &[1; 100], 64);
    shard.deliver(FLOW, &[2], 64);
    for _ in 0..3 {
        let Ok(Some(FromShard::Message { message, .. })) = app.recv() else { panic!("a message") };
        assert_eq!((message.len(), message.flow()), (100, FLOW));
        message.put_back();
        assert_eq!(app.arm(), Ok(Armed::Ready), "there is something to receive");
    }
    assert_eq!(recv(&mut app), Some(Got::Message(FLOW, vec![1; 100])));
    assert_eq!(recv(&mut app), Some(Got::Message(FLOW, vec![2])));
    assert_eq!(recv(&mut app), None);
}

#[test]
fn a_message_keeps_its_buffers_until_there_is_asked_for_more() {
    let asks: [fn(&mut AppEnd); 3] = [
        |app| assert_eq!(recv(app), None),
        |app| assert_eq!(app.arm(), Ok(Armed::Armed)),
        |app| assert_eq!(app.set_aside(), Ok(())),
    ];
    for ask_for_more in asks {
        let (mut shard, mut app) = channel(small(4, 64));
        shard.deliver(FLOW, &[1; 100], 64);
        let Ok(Some(FromShard::Message { message, .. })) = app.recv() else { panic!("a message") };
        assert_eq!(message.len(), 100);
        app.flush();
        assert_eq!(shard.end.poll_fill(), Ok(0));
        ask_for_more(&mut app);
        assert_eq!(shard.end.poll_fill(), Ok(2));
        shard.assert_no_receive_buffer_lost();
    }
}

#[test]
fn what_is_set_aside_makes_room_and_is_received_in_order() {
    let (mut shard, mut app) = channel(small(4, 16));
    shard.open(FLOW, 64);
    shard.deliver(FLOW, &[1; 100], 64);
    let mut silent = 0;
    while shard.end.publish_silent(FLOW) {
        silent += 1;
    }
    shard.end.flush();
    assert!(!shard.end.publish_closed(FLOW, 1, 0));
    assert_eq!(app.set_aside(), Ok(()));
    assert!(shard.end.publish_closed(FLOW, 1, 0));
    shard.end.flush();
    assert_eq!(app.set_aside(), Ok(()));
    assert!(app.has_input());
    assert_eq!(send(&mut app, FLOW, &[2]), Ok(()), "the end waits to be received");
    assert_eq!(recv(&mut app), Some(Got::Opened(FLOW, opened(64))));
    assert_eq!(recv(&mut app), Some(Got::Message(FLOW, vec![1; 100])));
    for _ in 0..silent {
        assert_eq!(recv(&mut app), Some(Got::Silent(FLOW)));
    }
    assert_eq!(shard.take(), Ok(vec![Took::Message(FLOW, vec![2])]), "not released while its end is not received");
    assert_eq!(recv(&mut app), Some(Got::Closed(FLOW, 1, 0)));
    assert_eq!(recv(&mut app), None);
    assert!(!app.has_input());
    assert_eq!(shard.take(), Ok(vec![Took::Release(FLOW)]));
}

#[test]
fn a_flow_that_ends_within_a_message_gives_its_buffers_back() {
    let (mut shard, mut app) = channel(small(4, 16));
    for flow in [FLOW, OTHER] {
        for index in 0..6 {
            shard.deliver_piece(flow, &[index], index == 0, false);
        }
        assert!(shard.end.publish_closed(flow, 4, 0));
    }
    shard.end.flush();
    assert_eq!(recv(&mut app), Some(Got::Closed(FLOW, 4, 0)));
    assert_eq!(recv(&mut app), Some(Got::Closed(OTHER, 4, 0)));
    assert_eq!(recv(&mut app), None);
    shard.end.poll_fill().expect("no violation");
    assert_eq!(shard.end.free_buffers(), 16);
}

#[test]
fn events_leave_room_for_every_buffer_and_wait_for_more() {
    let (mut shard, mut app) = channel(small(4, 16));
    let mut published = 0;
    while shard.end.publish_silent(FLOW) {
        published += 1;
    }
    assert!(published >= 64, "there is always room for some events");
    while let Some(buffer) = shard.end.allocate() {
        shard.end.publish(FLOW, buffer, 1, Content::WHOLE);
    }
    assert!(!shard.end.publish_opened(OTHER, &opened(64)));
    shard.end.flush();
    for _ in 0..published {
        assert_eq!(recv(&mut app), Some(Got::Silent(FLOW)));
    }
    for _ in 0..16 {
        assert_eq!(recv(&mut app), Some(Got::Message(FLOW, vec![0])));
    }
    assert_eq!(recv(&mut app), None);
    assert!(shard.end.publish_opened(OTHER, &opened(64)));
    assert_eq!(shard.end.violation(), None);
}

#[test]
fn commands_leave_room_for_every_piece_and_none_is_lost() {
    const FLOWS: u32 = 1000;
    let (mut shard, mut app) = channel(small(8, 16));
    let mut opened_flows = 0;
    while opened_flows < FLOWS {
        shard.end.flush();
        while recv(&mut app).is_some() {}
        while opened_flows < FLOWS && shard.end.publish_opened(FlowId(opened_flows), &opened(64)) {
            opened_flows += 1;
        }
    }
    shard.end.flush();
    while recv(&mut app).is_some() {}
    for flow in 1..FLOWS {
        assert_eq!(app.close_flow(FlowId(flow)), Ok(()));
    }
    for _ in 0..8 {
        assert_eq!(send(&mut app, FlowId(0), &[1; 64]), Ok(()), "commands never take a piece's slot");
    }
    let mut took = Vec::new();
    loop {
        let more = shard.take().expect("no violation");
        if more.is_empty() {
            break;
        }
        took.extend(more);
        assert_eq!(recv(&mut app), None);
    }
    let closed = took.iter().filter_map(|took| if let Took::Close(FlowId(flow)) = took { Some(*flow) } else { None });
    assert!(closed.eq(1..FLOWS));
    assert_eq!(took.iter().filter(|took| **took == Took::Message(FlowId(0), vec![1; 64])).count(), 8);
}

#[test]
fn a_daemon_that_contradicts_itself_is_noticed() {
    let pieces_that_do_not_fit = [
        // Not the first, of a message that has not begun.
        vec![(FLOW, false, true)],
        // First, of a flow whose message has not ended.
        vec![(FLOW, true, false), (FLOW, true, false)],
        vec![(FLOW, true, false), (FLOW, true, true)],
    ];
    for pieces in pieces_that_do_not_fit {
        let (mut shard, mut app) = channel(small(4, 16));
        for (flow, first, last) in pieces {
            shard.deliver_piece(flow, &[1], first, last);
        }
        shard.end.flush();
        assert!(matches!(app.recv(), Err(Broken)));
    }
    let (mut shard, mut app) = channel(small(4, 16));
    shard.open(FLOW, 65);
    assert!(matches!(app.recv(), Err(Broken)), "pieces of 65 bytes do not fit buffers of 64");
}

#[test]
fn a_descriptor_that_is_no_segment_of_the_geometry_is_refused() {
    let (_end, handles) = ShardEnd::create(small(4, 16)).expect("a channel");
    assert!(AppEnd::open(small(4096, 16), handles).is_err());
    let (_end, mut handles) = ShardEnd::create(small(4, 16)).expect("a channel");
    let unsealed = rustix::fs::memfd_create("unsealed", rustix::fs::MemfdFlags::ALLOW_SEALING).expect("a memfd");
    rustix::fs::ftruncate(&unsealed, small(4, 16).segment_bytes() as u64).expect("its size");
    handles.segment = unsealed;
    assert!(AppEnd::open(small(4, 16), handles).is_err(), "it could be truncated under us");
}

#[test]
fn two_threads_send_and_receive_at_once() {
    const MESSAGES: usize = 20_000;
    let (mut shard, mut app) = channel(small(64, 64));
    shard.open(FLOW, 64);
    assert!(recv(&mut app).is_some());
    let (mut sender, mut receiver) = app.split();
    let echo = std::thread::spawn(move || {
        let mut echoed = 0;
        while echoed < MESSAGES {
            for took in shard.take().expect("no violation") {
                let Took::Message(flow, bytes) = took else { panic!("only messages") };
                while shard.end.free_buffers() < bytes.len().div_ceil(64) {
                    shard.end.poll_fill().expect("no violation");
                    std::thread::yield_now();
                }
                shard.deliver(flow, &bytes, 64);
                echoed += 1;
            }
            std::thread::yield_now();
        }
        shard
    });
    let sending = std::thread::spawn(move || {
        for number in 0..MESSAGES {
            let sent = message(number, number % 200 + 1);
            while sender.send(FLOW, &[IoSlice::new(&sent)]).is_err() {
                std::thread::yield_now();
            }
        }
    });
    for number in 0..MESSAGES {
        loop {
            match receiver.recv().expect("a whole channel") {
                Some(FromShard::Message { message: got, .. }) => {
                    assert!(got.slices().flatten().copied().eq(message(number, number % 200 + 1)));
                    break;
                }
                Some(other) => panic!("{other:?}"),
                None => std::thread::yield_now(),
            }
        }
    }
    sending.join().expect("no panic");
    echo.join().expect("no panic").assert_no_receive_buffer_lost();
}

#[test]
fn events_never_take_the_slots_that_held_buffers_will_need() {
    let (mut shard, mut app) = channel(small(4, 16));
    for round in 0..3 {
        for number in 0..16 {
            shard.deliver(FLOW, &message(number, 64), 64);
        }
        // Now every buffer is with the application, and no slot is taken by any.
        app.set_aside().expect("a whole channel");
        let events = (0..1000).take_while(|_| shard.end.publish_silent(FLOW)).count();
        shard.end.flush();
        assert!((64..1000).contains(&events), "round {round}: {events}");
        for number in 0..16 {
            assert_eq!(recv(&mut app), Some(Got::Message(FLOW, message(number, 64))));
        }
        // They come back while the events still lie in the ring.
        shard.end.poll_fill().expect("no violation");
        for number in 0..shard.end.free_buffers() {
            shard.deliver(FLOW, &message(number, 64), 64);
        }
        assert_eq!(shard.end.violation(), None);
        while recv(&mut app).is_some() {}
        shard.end.poll_fill().expect("no violation");
        assert_eq!(shard.end.free_buffers(), 16);
    }
}

#[test]
fn an_event_after_a_whole_ring_of_pieces_is_no_harm() {
    let (mut shard, mut app) = channel(small(4, 8));
    let mut exchange = |piece: u8| {
        shard.deliver(FLOW, &[piece], 64);
        assert_eq!(recv(&mut app), Some(Got::Message(FLOW, vec![piece])));
        assert_eq!(recv(&mut app), None);
        assert_eq!(shard.end.poll_fill(), Ok(1));
        // 8 buffers and 64 slots to spare: the ring has 128.
        if piece % 128 == 127 {
            assert!(shard.end.publish_silent(FLOW));
            shard.end.flush();
            assert_eq!(recv(&mut app), Some(Got::Silent(FLOW)));
        }
    };
    (0..=u8::MAX).for_each(&mut exchange);
    (0..=u8::MAX).for_each(&mut exchange);
}

#[test]
fn commands_never_take_the_slots_that_held_buffers_will_need() {
    let (mut shard, mut app) = channel(small(4, 4));
    // More flows than the ring has slots.
    let flows: Vec<_> = (0..200).map(FlowId).collect();
    for &flow in &flows {
        shard.open(flow, 64);
        while recv(&mut app).is_some() {}
    }
    for number in 0..4 {
        assert_eq!(send(&mut app, flows[0], &message(number, 64)), Ok(()));
    }
    // Now every buffer is with the shard, and no slot is taken by any.
    let mut held = Vec::new();
    assert_eq!(shard.take_and_hold(&mut held).map(|taken| taken.len()), Ok(4));
    for &flow in &flows[1..] {
        app.close_flow(flow).expect("a whole channel");
    }
    held.into_iter().for_each(|buffer| shard.end.complete(buffer));
    shard.end.flush();
    for number in 0..4 {
        assert_eq!(send(&mut app, flows[0], &message(number, 64)), Ok(()));
    }
    let mut taken = Vec::new();
    for _ in 0..4 {
        taken.extend(shard.take().expect("no violation"));
        assert_eq!(app.is_open(flows[0]), Ok(true));
        assert_eq!(app.recv().map(|received| received.is_some()), Ok(false));
    }
    let messages = taken.iter().filter(|took| matches!(took, Took::Message(..))).count();
    assert_eq!((messages, taken.len() - messages), (4, flows.len() - 1), "nothing was lost or overwritten");
}

#[test]
fn appended_messages_share_a_buffer() {
    let (mut shard, mut app) = channel(small(4, 4));
    shard.open(FLOW, 64);
    let messages: Vec<_> = (0..7).map(|seed| message(seed, 20)).collect();
    for message in &messages {
        assert_eq!(app.append(FLOW, &[IoSlice::new(message)]), Ok(()));
    }
    let mut held = Vec::new();
    // Two fit a buffer, with their lengths.
    app.flush();
    let took = shard.take_and_hold(&mut held).expect("no violation");
    assert_eq!(took, messages.into_iter().map(|message| Took::Message(FLOW, message)).collect::<Vec<_>>());
    assert_eq!(held.len(), 4);
}

#[test]
fn what_was_appended_goes_before_what_is_sent() {
    let (mut shard, mut app) = channel(small(4, 4));
    shard.open(FLOW, 64);
    let [first, long, last] = [(1, 5), (2, 100), (3, 5)].map(|(seed, bytes)| message(seed, bytes));
    assert_eq!(app.append(FLOW, &[IoSlice::new(&first)]), Ok(()));
    assert_eq!(app.append(FLOW, &[IoSlice::new(&long)]), Ok(()));
    assert_eq!(send(&mut app, FLOW, &last), Ok(()));
    let took = shard.take().expect("no violation");
    assert_eq!(took, [first, long, last].map(|message| Took::Message(FLOW, message)));
}

#[test]
fn a_flow_that_cannot_share_buffers_gets_a_piece_for_each_message() {
    let (mut shard, mut app) = channel(small(4, 4));
    let opened = Opened { takes_records: false, ..opened(64) };
    assert!(shard.end.publish_opened(FLOW, &opened));
    shard.end.flush();
    assert_eq!(recv(&mut app), Some(Got::Opened(FLOW, opened)));
    for seed in 0..2 {
        assert_eq!(app.append(FLOW, &[IoSlice::new(&message(seed, 5))]), Ok(()));
    }
    app.flush();
    let mut held = Vec::new();
    assert_eq!(shard.take_and_hold(&mut held).expect("no violation").len(), 2);
    assert_eq!(held.len(), 2);
}

#[test]
fn messages_of_one_buffer_give_it_back_with_the_last() {
    let (mut shard, mut app) = channel(small(4, 2));
    shard.open(FLOW, 64);
    assert!(recv(&mut app).is_some());
    let messages = [message(1, 10), message(2, 20), message(3, 1)];
    shard.deliver_together(FLOW, &[&messages[0], &messages[1], &messages[2]]);
    for message in messages {
        assert_eq!(shard.end.poll_fill(), Ok(0));
        assert_eq!(recv(&mut app), Some(Got::Message(FLOW, message)));
    }
    assert_eq!(recv(&mut app), None);
    assert_eq!(shard.end.poll_fill(), Ok(1));
}

#[test]
fn what_was_appended_goes_before_the_release_of_its_flow() {
    let (mut shard, mut app) = channel(small(4, 4));
    shard.open(FLOW, 64);
    assert!(recv(&mut app).is_some());
    assert_eq!(app.append(FLOW, &[IoSlice::new(&message(1, 5))]), Ok(()));
    assert!(shard.end.publish_closed(FLOW, 1, 0));
    shard.end.flush();
    assert_eq!(recv(&mut app), Some(Got::Closed(FLOW, 1, 0)));
    assert_eq!(recv(&mut app), None);
    let took = shard.take().expect("no violation");
    assert_eq!(took, [Took::Message(FLOW, message(1, 5)), Took::Release(FLOW)], "later it would name no flow");
}
