//! Applications that break the rules of their channel: it ends, and nothing else is affected.

use std::collections::HashSet;
use std::fs::File;
use std::io::IoSlice;
use std::os::unix::fs::FileExt;

use machnet::daemon::channel::Violation;

use super::*;

/// The flow of the application that behaves.
const OTHER: FlowKey = FlowKey { local_port: 50_001, ..OURS };

/// The bit of an entry that says that it is there.
const PHASE: u64 = 1 << 63;

/// An application that writes into its segment what it likes, and one that does not, with a flow each.
struct Scene {
    rig: Rig,
    hostile: AppEnd,
    flow: FlowId,
    segment: File,
    honest: AppEnd,
    honest_flow: FlowId,
}

impl Scene {
    fn new() -> Self {
        let mut rig = Rig::new();
        let (mut hostile, segment) = rig.add_channel_and_segment(1);
        let mut honest = rig.add_channel(2);
        let flow = rig.connect(&mut hostile, 1, OURS);
        let honest_flow = rig.connect(&mut honest, 2, OTHER);
        Self { rig, hostile, flow, segment: segment.into(), honest, honest_flow }
    }

    /// Where two calls of [`Scene::send`] put their descriptors: what each changes and the other does not, from the
    /// beginning of the segment. (The payloads come behind the rings.)
    fn send_two(&mut self) -> [u64; 2] {
        let mut memories = vec![memory(&self.segment)];
        for _ in 0..2 {
            self.send();
            memories.push(memory(&self.segment));
        }
        let (first, second) = (changes(&memories[0], &memories[1]), changes(&memories[1], &memories[2]));
        let slot = |one: &[u64], other: &[u64]| *one.iter().find(|at| !other.contains(at)).unwrap();
        [slot(&first, &second), slot(&second, &first)]
    }

    /// What the shard says of the hostile channel in its next turn, if it breaks it. The honest application must not
    /// notice anything.
    fn verdict(mut self) -> Option<Violation> {
        self.rig.turn();
        let violation = self.rig.told().iter().find_map(|message| match message {
            ToCoordinator::Broken { channel: ChannelId(1), violation } => Some(*violation),
            ToCoordinator::Closed { key: OURS, .. } => None,
            other => panic!("{other:?}"),
        });
        if violation.is_some() {
            let frames = self.rig.frames();
            let payload = udp_payload(frames.last().unwrap(), &OURS);
            assert_eq!(segment_of(&payload).0.body, Body::Reset { reason: CloseReason::AppGone });
            assert_eq!(self.rig.counted(Counter::ChannelsBroken), 1);
            let _ = self.hostile.send(self.flow, &[IoSlice::new(b"nobody looks at it any more")]);
            self.rig.assert_quiet();
        }
        self.exchange_honestly();
        self.rig.post(ToShard::RemoveChannel {
            channel: ChannelId(1),
            reason: CloseReason::AppGone,
            linger: Duration::ZERO,
        });
        self.rig.turn();
        let told = self.rig.told();
        let gone = told.iter().filter(|message| matches!(message, ToCoordinator::ChannelGone { .. }));
        assert_eq!(gone.count(), 1, "{told:?}");
        violation
    }

    fn exchange_honestly(&mut self) {
        send(&mut self.honest, self.honest_flow, b"undisturbed");
        self.rig.turn();
        let frames = self.rig.frames();
        let ours = frames.iter().filter_map(|frame| match frame::parse(frame) {
            Ok(Parsed::Udp(datagram)) if datagram.key == OTHER.reversed() => Some(segment_of(datagram.payload)),
            _ => None,
        });
        let sent: Vec<_> = ours.map(|(segment, payload)| (segment.kind(), segment.seq, payload)).collect();
        assert_eq!(sent, [(Kind::Data, SeqNo::new(101), &b"undisturbed"[..])]);
        self.rig.receive_data(&OTHER, 201, 102, b"undisturbed, too");
        assert_eq!(messages(&mut self.honest), [b"undisturbed, too"]);
    }

    fn read(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.segment.read_exact_at(&mut bytes, at).unwrap();
        u64::from_le_bytes(bytes)
    }

    fn write(&self, at: u64, word: u64) {
        self.segment.write_all_at(&word.to_le_bytes(), at).unwrap();
    }

    fn send(&mut self) {
        send(&mut self.hostile, self.flow, b"a piece");
    }
}

fn memory(segment: &File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(segment.metadata().unwrap().len()).unwrap()];
    segment.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// The offsets of the words that differ, in order.
fn changes(before: &[u8], after: &[u8]) -> Vec<u64> {
    let words = before.chunks(8).zip(after.chunks(8));
    (0..).step_by(8).zip(words).filter(|(_, (before, after))| before != after).map(|(at, _)| at).collect()
}

#[test]
fn a_descriptor_with_any_one_bit_wrong_harms_its_own_channel_at_most() {
    let mut violations = HashSet::new();
    for bit in 0..128 {
        let mut scene = Scene::new();
        let [slot, _] = scene.send_two();
        let at = slot + bit / 64 * 8;
        scene.write(at, scene.read(at) ^ 1 << (bit % 64));
        violations.insert(scene.verdict());
    }
    let expected = [
        None,
        Some(Violation::UnknownFlow),
        Some(Violation::BufferOutOfRange),
        Some(Violation::LengthTooLarge),
        Some(Violation::UnknownKind),
    ];
    for violation in expected {
        assert!(violations.contains(&violation), "{violation:?} is not among {violations:?}");
    }
}

#[test]
fn a_flow_of_another_application_is_not_reached() {
    let mut scene = Scene::new();
    let [slot, _] = scene.send_two();
    let foreign = u64::from(scene.flow.0 ^ scene.honest_flow.0);
    scene.write(slot, scene.read(slot) ^ foreign);
    assert_eq!(scene.verdict(), Some(Violation::UnknownFlow));
}

#[test]
fn a_buffer_sent_twice_is_noticed() {
    let mut scene = Scene::new();
    let [slot, next] = scene.send_two();
    for word in [0, 8] {
        scene.write(next + word, scene.read(slot + word));
    }
    assert_eq!(scene.verdict(), Some(Violation::BufferNotOwned));
}

#[test]
fn a_piece_longer_than_its_flow_allows_is_noticed() {
    let mut scene = Scene::new();
    let [slot, _] = scene.send_two();
    let longer = u64::from(PAYLOAD_BYTES_MAX + 1) << 32;
    scene.write(slot, scene.read(slot) & !(0xffff << 32) | longer);
    assert_eq!(scene.verdict(), Some(Violation::LengthTooLarge));
}

#[test]
fn a_receive_buffer_given_back_twice_or_invented_is_noticed() {
    let after_giving_back = |lie: fn(u64) -> u64| {
        let mut scene = Scene::new();
        for seq in 201..205 {
            scene.rig.receive_data(&OURS, seq, 101, b"a piece");
        }
        let Scene { hostile, segment, .. } = &mut scene;
        let is_message = |app: &mut AppEnd| matches!(app.recv().unwrap(), Some(FromShard::Message { .. }));
        assert!(is_message(hostile));
        // The buffer of a message is given back when the next one is taken: written down at once, and published later.
        // The first one is number 0, which changes nothing.
        let slots = [(); 3].map(|()| {
            let before = memory(segment);
            assert!(is_message(hostile));
            changes(&before, &memory(segment))
        });
        let [[], [first], [second]] = [&slots[0][..], &slots[1][..], &slots[2][..]] else { panic!("{slots:?}") };
        assert!(hostile.recv().unwrap().is_none());
        scene.write(*second, lie(scene.read(*first)));
        scene.verdict()
    };
    assert_eq!(after_giving_back(|first| first), Some(Violation::BufferNotOwned));
    assert_eq!(
        after_giving_back(|first| first & PHASE | u64::from(RX_BUFFERS - 1)),
        Some(Violation::BufferNotOwned),
        "it was never published"
    );
    assert_eq!(after_giving_back(|first| first & PHASE | u64::from(RX_BUFFERS)), Some(Violation::BufferOutOfRange));
    assert_eq!(after_giving_back(|_| u64::MAX), Some(Violation::BufferOutOfRange));
}

#[test]
fn a_channel_whose_application_is_gone_is_not_looked_at_although_somebody_still_writes() {
    let mut scene = Scene::new();
    scene.send();
    let linger = Duration::from_millis(50);
    scene.rig.post(ToShard::RemoveChannel { channel: ChannelId(1), reason: CloseReason::AppGone, linger });
    scene.rig.turn();
    assert_eq!(scene.rig.packets(&OURS), [data(101, 201, b"a piece")]);
    let [slot, _] = scene.send_two();
    scene.write(slot, u64::MAX);
    scene.rig.assert_quiet();
    scene.rig.receive(&OURS, &scene.rig.segment(ACK, 201, 102), &[]);
    assert_eq!(scene.rig.packets(&OURS).len(), 1, "CLOSE, nothing of what was written since");
    scene.rig.receive(&OURS, &scene.rig.segment(ACK, 201, 103), &[]);
    let told = scene.rig.told();
    assert!(matches!(told.last(), Some(ToCoordinator::ChannelGone { channel: ChannelId(1), .. })), "{told:?}");
    scene.exchange_honestly();
}

#[test]
fn random_bytes_all_over_the_segment_harm_nobody_else() {
    let mut random = 1_u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        random >> 11
    };
    for _ in 0..200 {
        let mut scene = Scene::new();
        scene.send();
        let bytes = scene.segment.metadata().unwrap().len();
        // The rings are at the beginning.
        for _ in 0..1 + next() % 64 {
            let at = next() % (bytes / 8) / (1 + next() % 16) * 8;
            scene.write(at, if next() % 2 == 0 { next() % 128 } else { next() });
        }
        scene.verdict();
    }
}

#[test]
fn all_peers_of_an_application_that_breaks_the_rules_are_told() {
    all_peers_are_told(|rig, segment| {
        for at in (0..4096).step_by(8) {
            segment.write_all_at(&u64::MAX.to_le_bytes(), at).unwrap();
        }
        // Its bell rings.
        rig.shard.channels.warm(0);
    });
}

#[test]
fn all_peers_of_an_application_that_has_gone_are_told() {
    all_peers_are_told(|rig, _| {
        let (reason, linger) = (CloseReason::AppGone, Duration::ZERO);
        rig.post(ToShard::RemoveChannel { channel: ChannelId(1), reason, linger });
    });
}

/// An application with many flows ends like this.
fn all_peers_are_told(end: impl FnOnce(&mut Rig, &File)) {
    const FLOWS: u16 = 1_000;
    let mut rig = Rig::new();
    let (mut hostile, segment) = rig.add_channel_and_segment(1);
    for number in 0..FLOWS {
        rig.create(1, FlowKey { local_port: 1_000 + number, ..OURS });
        rig.frames();
        rig.told();
        while hostile.recv().unwrap().is_some() {}
    }
    assert_eq!(rig.shard.flows.len(), usize::from(FLOWS));
    end(&mut rig, &File::from(segment));
    let mut told = HashSet::new();
    // The device takes all; what the shard does not say in one turn it says in the next.
    for _ in 0..20 {
        rig.turn();
        for frame in rig.frames() {
            let Ok(Parsed::Udp(datagram)) = frame::parse(&frame) else { panic!("not UDP") };
            if segment_of(datagram.payload).0.reason() == Some(CloseReason::AppGone) {
                told.insert(datagram.key.remote_port);
            }
        }
    }
    assert_eq!((told.len(), rig.shard.flows.len()), (usize::from(FLOWS), 0));
    assert_eq!(rig.counted(Counter::ResetsSent), u64::from(FLOWS));
}
