//! Packets that come in parts, because their path has become too narrow for them.

use machnet_proto::packet::Fragment;

use super::*;

/// A part of the peer's packet: so many bytes come before it.
fn part(rig: &Rig, seq: u32, before_bytes: u16, more: bool) -> Segment {
    part_of(Content::Piece(Position::WHOLE), rig, seq, before_bytes, more)
}

fn part_of(content: Content, rig: &Rig, seq: u32, before_bytes: u16, more: bool) -> Segment {
    let data = Data { content, answer_now: false, fragment: Some(Fragment { before_bytes, more }) };
    rig.segment(Body::Data(data), seq, 101)
}

#[test]
fn the_parts_become_one_message_and_are_acknowledged_once() {
    let (mut rig, mut app, _) = Rig::connected();
    for (before, more, bytes) in [(0, true, b"abc"), (3, true, b"def"), (6, false, b"ghi")] {
        assert_eq!(messages(&mut app), [b""; 0]);
        assert_eq!(rig.packets(&OURS), []);
        let header = part(&rig, 201, before, more);
        rig.receive(&OURS, &header, bytes);
    }
    assert_eq!(messages(&mut app), [b"abcdefghi"]);
    assert_eq!(rig.packets(&OURS), [bare(Kind::Ack, 101, 202)]);
    assert_eq!(rig.drops(), []);
    // Repeated, it is a duplicate like any other.
    for (before, more) in [(0, true), (3, false)] {
        let header = part(&rig, 201, before, more);
        rig.receive(&OURS, &header, b"abc");
    }
    assert_eq!(rig.drops(), [(DropReason::Duplicate, 1)]);
    assert_eq!(rig.packets(&OURS), [bare(Kind::Ack, 101, 202)]);
}

#[test]
fn parts_that_do_not_fit_are_dropped_and_keep_nothing() {
    let (mut rig, mut app, _) = Rig::connected();
    let free = rig.free_receive_buffers();
    let middle = part(&rig, 201, 3, true);
    rig.receive(&OURS, &middle, b"def");
    let far_away = part(&rig, 5_000, 0, true);
    rig.receive(&OURS, &far_away, b"abc");
    let first = part(&rig, 201, 0, true);
    rig.receive(&OURS, &first, &[0; PAYLOAD_BYTES_MAX as usize]);
    let one_too_many = part(&rig, 201, PAYLOAD_BYTES_MAX, false);
    rig.receive(&OURS, &one_too_many, b"x");
    assert_eq!(rig.drops(), [(DropReason::Fragment, 2), (DropReason::Invalid, 1)]);
    assert_eq!((messages(&mut app), rig.free_receive_buffers()), (vec![], free));
    rig.receive_data(&OURS, 201, 101, b"whole");
    assert_eq!(messages(&mut app), [b"whole"], "the flow is none the worse");
}

#[test]
fn records_that_are_none_are_found_also_in_parts() {
    const TWO: Content = Content::Records(2);
    let (mut rig, mut app, _) = Rig::sharing();
    let sound = part_of(TWO, &rig, 201, 0, true);
    rig.receive(&OURS, &sound, &[0, 1, b'a', 0]);
    let rest = part_of(TWO, &rig, 201, 4, false);
    rig.receive(&OURS, &rest, b"\x02bc");
    assert_eq!(messages(&mut app), [&b"a"[..], b"bc"]);
    let unsound = part_of(TWO, &rig, 202, 0, true);
    rig.receive(&OURS, &unsound, &[0, 1, b'a', 0]);
    let rest = part_of(TWO, &rig, 202, 4, false);
    rig.receive(&OURS, &rest, b"\x03bc");
    assert_eq!(closed(&mut app), (CloseReason::Protocol, 0));
}
