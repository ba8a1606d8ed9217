//! Frames that are of no flow: dropped and counted, answered, or passed on.

use machnet_proto::wire::arp;
use machnet_proto::wire::checksum::Sum;
use machnet_proto::wire::icmp::{ECHO_HEADERS_BYTES, EchoReply, EchoRequest};
use machnet_proto::wire::unreachable::Obstacle;

use super::*;

/// Where the IPv4 header begins.
const IP: usize = 14;

/// Makes the IPv4 header's checksum right again.
fn with_ip_checksum(mut frame: Vec<u8>) -> Vec<u8> {
    frame[IP + 10..IP + 12].fill(0);
    let checksum = Sum::ZERO.add_bytes(&frame[IP..IP + 20]).finish();
    frame[IP + 10..IP + 12].copy_from_slice(&checksum.to_be_bytes());
    frame
}

fn changed(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

const ARP_REQUEST: arp::ArpPacket = arp::ArpPacket::request(PEER_MAC, PEER_IP, OUR_IP);

fn arp_request() -> Vec<u8> {
    ARP_REQUEST.frame(MacAddr::BROADCAST).to_vec()
}

/// An echo request of the peer.
fn ping(destination: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xa0; ECHO_HEADERS_BYTES + 1];
    let (source_mac, destination_mac) = (PEER_MAC, OUR_MAC);
    let (source_ip, destination_ip) = (PEER_IP, destination);
    let (identifier, sequence) = (7, 8);
    EchoRequest { source_mac, destination_mac, source_ip, destination_ip, identifier, sequence }.write(&mut frame);
    frame
}

/// What the peer's kernel says of a frame of ours that nobody there takes.
fn port_unreachable(ours: &[u8]) -> Vec<u8> {
    let mut message = [&[3, 3, 0, 0, 0, 0, 0, 0], &ours[IP..]].concat();
    let checksum = Sum::ZERO.add_bytes(&message).finish();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let length = u16::try_from(20 + message.len()).unwrap().to_be_bytes();
    let headers = with_ip_checksum(changed(ping(OUR_IP)[..IP + 20].to_vec(), IP + 2, &length));
    [headers, message].concat()
}

#[test]
fn that_a_syn_does_not_arrive_is_told_while_its_answer_is_expected() {
    let mut rig = Rig::new();
    let syn = Packet::Syn(Syn { terms: PEER_TERMS });
    let written = Dialect::OURS.write(&syn);
    let ours = |bytes: &[u8]| {
        let mut frame = [&[0; HEADERS_BYTES][..], bytes].concat();
        Template::new(OUR_MAC, PEER_MAC, &OURS).write(&mut frame);
        port_unreachable(&frame)
    };
    rig.put(&ours(&written));
    rig.assert_quiet();
    assert_eq!(rig.drops(), [(DropReason::UnknownFlow, 1)]);

    rig.post(ToShard::Expect { key: OURS });
    rig.put(&ours(&written));
    rig.turn();
    let told = rig.told();
    let [ToCoordinator::Unreachable { key: OURS, packet, obstacle: Obstacle::NoPort }] = told[..] else {
        panic!("{told:?}")
    };
    assert_eq!(packet, syn);
    rig.put(&ours(&written[..8]));
    rig.assert_quiet();
    assert!(rig.drops().contains(&(DropReason::Malformed, 1)), "it quotes too little: {:?}", rig.drops());
}

#[test]
fn every_bad_frame_is_dropped_and_counted_by_its_reason() {
    let good = packet(&OURS, &Rig::new().segment(WHOLE, 201, 101), b"data");
    let elsewhere = FlowKey { local_ip: Ipv4Addr::new(10, 0, 0, 9), ..OURS };
    let cases = [
        ("nothing", Vec::new(), DropReason::Malformed),
        ("half a header", good[..20].to_vec(), DropReason::Malformed),
        ("cut off", good[..good.len() - 1].to_vec(), DropReason::Malformed),
        ("IP longer than the frame", with_ip_checksum(changed(good.clone(), IP + 2, &[9])), DropReason::Malformed),
        ("UDP longer than IP", changed(good.clone(), 38, &[9]), DropReason::Malformed),
        ("a first fragment", with_ip_checksum(changed(good.clone(), IP + 6, &[0x20])), DropReason::IpFragment),
        ("a last fragment", with_ip_checksum(changed(good.clone(), IP + 7, &[0xb9])), DropReason::IpFragment),
        ("another VLAN", tagged(&good, [0, 7]), DropReason::OtherVlan),
        ("a tag cut off", tagged(&good, [0, 0])[..17].to_vec(), DropReason::Malformed),
        ("a wrong IP checksum", changed(good.clone(), IP + 10, &[0xaa]), DropReason::BadChecksum),
        ("a wrong UDP checksum", changed(good.clone(), HEADERS_BYTES - 1, &[good[41] ^ 1]), DropReason::BadChecksum),
        ("no UDP checksum", changed(good.clone(), HEADERS_BYTES - 2, &[0, 0]), DropReason::BadChecksum),
        ("another MAC", changed(good.clone(), 5, &[9]), DropReason::NotForUs),
        ("everybody's MAC", changed(good.clone(), 0, &[0xff; 6]), DropReason::NotForUs),
        ("another IP", packet(&elsewhere, &Rig::new().segment(WHOLE, 201, 101), b"data"), DropReason::NotForUs),
        ("another IP's ping", ping(Ipv4Addr::new(10, 0, 0, 9)), DropReason::NotForUs),
        ("everybody's ping", changed(ping(OUR_IP), 0, &[0xff; 6]), DropReason::NotForUs),
        ("a damaged ping", changed(ping(OUR_IP), ECHO_HEADERS_BYTES, &[0xa1]), DropReason::BadChecksum),
        ("half a ping", ping(OUR_IP)[..ECHO_HEADERS_BYTES].to_vec(), DropReason::Malformed),
        // Its checksum is that of the request, whose type was 8.
        ("a ping's answer", changed(ping(OUR_IP), 34, &[0, 0, 0x5f, 0xf0]), DropReason::OtherProtocol),
        ("our own MAC", changed(good.clone(), 6, &OUR_MAC.0), DropReason::OwnFrame),
        ("IPv6", changed(good.clone(), 12, &[0x86, 0xdd]), DropReason::OtherProtocol),
        ("TCP", with_ip_checksum(changed(good.clone(), IP + 9, &[6])), DropReason::OtherProtocol),
        ("DNS, say", datagram(&OURS, &[7; 70]), DropReason::NotMachnet),
        ("a short datagram", datagram(&OURS, &[7; 5]), DropReason::NotMachnet),
        ("an unknown kind", datagram(&OURS, &[&[0x4e, 0x53, 0x44], &good[45..]].concat()), DropReason::NotMachnet),
        ("a header cut off", datagram(&OURS, &good[HEADERS_BYTES..][..53]), DropReason::Malformed),
        (
            "a SYN cut off",
            datagram(&OURS, &Dialect::OURS.write(&Packet::Syn(Syn { terms: PEER_TERMS }))[..60]),
            DropReason::Malformed,
        ),
    ];
    for (what, frame, reason) in cases {
        let (mut rig, mut app, _) = Rig::connected();
        rig.put(&frame);
        rig.assert_quiet();
        assert_eq!(rig.drops(), [(reason, 1)], "{what}");
        assert!(app.recv().unwrap().is_none(), "{what}");
    }
    let (mut rig, mut app, _) = Rig::connected();
    rig.put(&good);
    rig.turn();
    assert_eq!(
        (rig.drops(), messages(&mut app)),
        (vec![], vec![b"data".to_vec()]),
        "otherwise nothing is wrong with it"
    );
}

/// The same frame with a tag of IEEE 802.1Q.
fn tagged(frame: &[u8], tag: [u8; 2]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0x00], &tag, &frame[12..]].concat()
}

#[test]
fn a_priority_in_a_tag_does_not_matter() {
    let (mut rig, mut app, _) = Rig::connected();
    let frame = packet(&OURS, &rig.segment(WHOLE, 201, 101), b"x");
    rig.put(&tagged(&frame, [0xe0, 0]));
    rig.put(&tagged(&arp_request(), [0xe0, 0]));
    rig.put(&tagged(&ping(OUR_IP), [0xe0, 0]));
    rig.turn();
    assert_eq!((messages(&mut app), rig.drops()), (vec![b"x".to_vec()], vec![]));
    let told: Vec<_> = rig.told();
    assert!(told.iter().any(is_question) && told.iter().any(is_ping), "{told:?}");
}

#[test]
fn padding_behind_the_packet_does_not_matter() {
    let (mut rig, mut app, _) = Rig::connected();
    let frame = packet(&OURS, &rig.segment(WHOLE, 201, 101), b"x");
    rig.put(&[frame, vec![0xaa; 7]].concat());
    rig.turn();
    assert_eq!(messages(&mut app), [b"x"]);
}

fn is_ping(message: &ToCoordinator) -> bool {
    let expected = EchoReply {
        destination_mac: PEER_MAC,
        destination_ip: PEER_IP,
        source_ip: OUR_IP,
        identifier: 7,
        sequence: 8,
        ttl: 64,
        data: &[0xa0],
    };
    matches!(message, ToCoordinator::Ping { shard: ShardId(3), answer } if EchoReply::parse(answer) == Some(expected))
}

fn is_question(message: &ToCoordinator) -> bool {
    matches!(message, ToCoordinator::Arp { shard: ShardId(3), packet } if *packet == ARP_REQUEST)
}

#[test]
fn arp_and_ping_go_to_the_coordinator_as_fast_as_their_buckets_allow() {
    let mut rig = Rig::new();
    // The second flood finds its bucket full: neither takes from the other. 500 at once, 5,000 a second, and 600 µs
    // pass; a full bucket takes in no more before the first has passed.
    let floods = [(ping(OUR_IP), 503, is_ping as fn(&_) -> _), (arp_request(), 502, is_question)];
    for (frame, passed_on, is_it) in floods {
        for _ in 0..600 {
            rig.put(&frame);
            rig.turn();
        }
        let told = rig.told();
        assert!(told.iter().all(is_it), "{told:?}");
        assert_eq!(told.len(), passed_on);
    }
    assert_eq!(rig.drops(), [(DropReason::RateLimited, 97 + 98)]);
    assert_eq!(rig.counted(Counter::ToCoordinator), 503 + 502);
    rig.pass(Duration::from_micros(9_800));
    for _ in 0..60 {
        rig.put(&arp_request());
    }
    rig.turn();
    assert_eq!(rig.told().len(), 50);
}

#[test]
fn a_peer_that_answers_without_end_does_not_fill_the_mailbox() {
    let mut rig = Rig::with(settings(), 8_192);
    rig.post(ToShard::Expect { key: OURS });
    rig.turn();
    let answer = datagram(&OURS, &Dialect::OURS.write(&Packet::SynAck(syn_ack(&OURS))));
    for _ in 0..5_000 {
        rig.put(&answer);
        rig.turn();
    }
    // 4,000 at once, 100,000 a second, and 5 ms have passed.
    assert_eq!(rig.told().len(), 4_500);
}

#[test]
fn a_coordinator_that_does_not_read_costs_frames_and_nothing_else() {
    let mut rig = Rig::with(settings(), 4);
    for _ in 0..10 {
        rig.put(&arp_request());
    }
    rig.turn();
    assert_eq!(rig.told().len(), 4);
    assert_eq!(rig.drops(), [(DropReason::MailboxFull, 6)]);
}

#[test]
fn a_packet_of_an_unknown_flow_is_reset_once_per_token() {
    let mut rig = Rig::new();
    let header = rig.segment(WHOLE, 201, 101);
    rig.receive(&OURS, &header, b"who?");
    assert_eq!(rig.packets(&OURS), [reset(101, 201, CloseReason::NoSuchFlow)]);
    for _ in 0..149 {
        rig.receive(&OURS, &header, b"who?");
    }
    // 100 at once, 1,000 a second, and 150 µs have passed.
    assert_eq!(rig.packets(&OURS).len(), 99);
    assert_eq!(rig.drops(), [(DropReason::UnknownFlow, 100), (DropReason::RateLimited, 50)]);
    rig.pass(Duration::from_millis(3));
    for _ in 0..10 {
        rig.receive(&OURS, &header, b"who?");
    }
    assert_eq!(rig.packets(&OURS), [(); 3].map(|()| reset(101, 201, CloseReason::NoSuchFlow)));
    assert_eq!(rig.counted(Counter::ResetsSent), 103);
}

#[test]
fn neither_a_reset_nor_a_v1_host_is_answered_by_a_reset() {
    let mut rig = Rig::new();
    rig.receive(&OURS, &rig.segment(Body::Reset { reason: CloseReason::Other }, 201, 101), &[]);
    rig.receive(&OURS, &Segment { times: Times::NONE, ..rig.segment(WHOLE, 201, 101) }, b"v1");
    rig.assert_quiet();
    assert_eq!(rig.drops(), [(DropReason::UnknownFlow, 2)]);
}

#[test]
fn what_the_device_has_found_right_is_not_summed_again_unless_there_is_no_checksum() {
    let (mut rig, mut app, _) = Rig::connected();
    let message = |rig: &Rig, seq, text: &[u8], checksum: [u8; 2]| {
        changed(packet(&OURS, &rig.segment(WHOLE, seq, 101), text), HEADERS_BYTES - 2, &checksum)
    };
    let wrong = message(&rig, 201, b"taken on trust", [0x12, 0x34]);
    rig.put(&wrong);
    rig.turn();
    assert_eq!((messages(&mut app), rig.dropped(DropReason::BadChecksum)), (vec![], 1));
    rig.put_as(&wrong, Checksum::Verified);
    rig.turn();
    assert_eq!(messages(&mut app), [b"taken on trust"]);
    let none = message(&rig, 202, b"no checksum", [0, 0]);
    rig.put_as(&none, Checksum::Verified);
    rig.turn();
    assert_eq!((messages(&mut app), rig.dropped(DropReason::BadChecksum)), (vec![], 2));
}
