//! Every message arrives once, in order, byte for byte.

use std::time::Duration;

use machnet::{MESSAGE_BYTES_MAX, SendError};
use machnet_shards::counters::{Counter, DropReason};
use serde_json::{Value, json};

use crate::conversation::{self, Speaker, await_opened};
use crate::pair::{NEVER, Pair, Site, counted, dropped, faults, with_faults};

const PORT: u16 = 888;

/// Around the boundaries: of a message, of a packet with 1,500 bytes of IP, and the largest that there may be.
const SIZES: [usize; 8] = [1, 1417, 1418, 1419, 64 << 10, 1 << 20, MESSAGE_BYTES_MAX - 1, MESSAGE_BYTES_MAX];

/// Lets `flows` flows from one endpoint on `here` to one on `there` say `sizes`, in both directions at once.
fn converse(here: &Site, there: &Site, flows: usize, sizes: &[usize], limit: Duration) {
    let acceptor = there.listener(PORT);
    conversation::converse((here.attach(), here.ip()), (acceptor, there.at(PORT)), flows, sizes, limit);
}

/// What the daemons of a pair counted: for a test that needs faults to have struck.
fn assert_struck(pair: &Pair, drops: &[DropReason]) {
    for site in [&pair.left, &pair.right] {
        let status = site.status();
        assert!(counted(&status, Counter::Retransmissions) > 0, "{status:#?}");
        for reason in drops {
            assert!(dropped(&status, *reason) > 0, "no frame was dropped as {reason:?}: {status:#?}");
        }
    }
}

#[test]
fn messages_of_every_size_arrive_both_ways() {
    let Some(pair) = Pair::start(|_| ()) else { return };
    converse(&pair.left, &pair.right, 1, &SIZES, NEVER);
}

#[test]
fn messages_of_every_size_arrive_through_faults() {
    let Some(pair) = Pair::start(with_faults) else { return };
    converse(&pair.left, &pair.right, 1, &SIZES, NEVER);
    assert_struck(&pair, &[DropReason::Duplicate]);
}

#[test]
fn a_damaged_frame_is_dropped_and_counted_never_delivered() {
    // ARP has no checksum: the neighbors find each other before most frames are damaged.
    let damage = |config: &mut Value| faults(config, json!({ "corruption_percent": 2.0, "seed": 3 }));
    let Some(pair) = Pair::start(damage) else { return };
    converse(&pair.left, &pair.right, 4, &[1, 1418, 1419, 64 << 10, 1 << 20], NEVER);
    assert_struck(&pair, &[DropReason::BadChecksum]);
}

#[test]
fn a_thousand_flows_of_one_endpoint_talk_at_once_through_faults() {
    const FLOWS: usize = 1000;
    let Some(pair) = Pair::start(with_faults) else { return };
    let sizes = [1, 64, 1418, 3000, 64];
    let mut acceptor = Speaker::new(pair.right.attach(), &sizes);
    acceptor.endpoint.listen(pair.right.at(PORT)).unwrap();
    let mut connector = Speaker::new(pair.left.attach(), &sizes);
    for _ in 0..FLOWS {
        connector.connect(pair.left.ip(), pair.right.at(PORT));
    }
    // Everything of every flow is under way before the other side takes the first message: it fits the buffers.
    while !connector.is_silent() {
        assert!(connector.say(), "a thousand flows with {} bytes each have room", sizes.iter().sum::<usize>());
    }
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            acceptor.accept(FLOWS, NEVER);
            acceptor.converse(NEVER);
            acceptor
        });
        connector.converse(NEVER);
        drop(other.join().unwrap());
    });
    assert_struck(&pair, &[DropReason::Duplicate]);
}

#[test]
fn flows_within_one_daemon_need_no_wire() {
    let Some(pair) = Pair::start(|_| ()) else { return };
    pair.left.host.ip("link set machnet0 down").unwrap();
    converse(&pair.left, &pair.left, 3, &SIZES[..6], NEVER);
}

#[test]
fn what_is_no_message_is_refused_and_the_flow_goes_on() {
    let Some(pair) = Pair::start(|_| ()) else { return };
    let mut reader = pair.right.listener(PORT);
    let mut writer = pair.left.attach();
    let flow = writer.connect(pair.left.ip(), pair.right.at(PORT)).unwrap();

    assert_eq!(writer.send(flow, &[]), Err(SendError::Empty));
    assert!(SendError::Empty.to_string().contains("at least one byte"));
    assert_eq!(writer.send(flow, &vec![0; MESSAGE_BYTES_MAX + 1]), Err(SendError::TooLong));
    assert!(SendError::TooLong.to_string().contains("at most 8388608 bytes"));

    writer.send(flow, b"after all").unwrap();
    await_opened(&mut reader, NEVER);
    assert!(reader.wait(Some(NEVER)).unwrap());
    let mut buffer = [0; 64];
    let received = reader.recv(&mut buffer).unwrap();
    assert!(matches!(received, Some(machnet::Received::Message { len: 9, .. })), "{received:?}");
    assert_eq!(&buffer[..9], b"after all");
}
