//! Another shard goes on from the bytes of one that ends, with its queue and the memory of its channels.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use machnet::daemon::channel::ShardHandles;
use machnet_proto::state::LoadError;

use super::*;
use crate::shard::{NotRestored, SavedShard};
use crate::state::FORMAT;

impl Rig {
    /// A new shard on this queue, with mailboxes of its own, and the state from these bytes.
    fn restore(
        &mut self,
        saved: SavedShard,
        queue: MemoryQueue,
        handles: BTreeMap<ChannelId, ShardHandles>,
    ) -> Result<Shard<MemoryQueue>, NotRestored> {
        let (to_shard, inlet) = mailbox(64).unwrap();
        let (outlet, from_shard) = mailbox(2_048).unwrap();
        self.registry = Registry::default();
        let (entry, counts) = self.registry.enter();
        (self.to_shard, self.from_shard, self.entry) = (to_shard, from_shard, entry);
        let foundations = handles.into_iter().map(|(id, handles)| (id, (handles, self.registry.enter_channel().1)));
        let foundations = foundations.collect();
        let seed = (self.now.as_nanos(), 3);
        let new = Shard::new(Settings { table_seed: seed, ..settings() }, queue, inlet, outlet, counts, self.now);
        saved.restore(new, foundations, self.now)
    }

    /// The shard ends, and another one begins where it was.
    fn handed_over(self) -> Self {
        let Self { mut shard, wire, to_shard, from_shard, registry, entry, now, latest_ts } = self;
        while shard.wind_up(now) {}
        assert!(shard.is_quiet() && from_shard.take().is_none());
        let (state, queue, handles) = shard.save();
        let bytes = FORMAT.save(&state).unwrap();
        drop(state);
        let Cable { near, .. } = Cable::new(1);
        let (_, counts) = registry.enter();
        let placeholder = {
            let (_, inlet) = mailbox(1).unwrap();
            let (outlet, _) = mailbox(1).unwrap();
            Shard::new(settings(), near.into_queue(), inlet, outlet, counts, now)
        };
        let mut rig = Self { shard: placeholder, wire, to_shard, from_shard, registry, entry, now, latest_ts };
        rig.shard = rig.restore(FORMAT.load(&bytes).unwrap(), queue, handles).unwrap();
        rig
    }
}

/// What is under way in both directions at once: packets that are not acknowledged, messages that wait for the window
/// (alone, together, in pieces), a packet that came before the one it follows.
fn busy() -> (Rig, AppEnd, FlowId) {
    let (mut rig, mut app, flow) = Rig::sharing();
    send(&mut app, flow, b"first");
    rig.turn();
    assert_eq!(rig.packets(&OURS), [data(101, 201, b"first")]);
    send(&mut app, flow, b"a");
    send(&mut app, flow, b"b");
    send(&mut app, flow, &[7; 3_000]);
    rig.receive_data(&OURS, 202, 101, b"second");
    rig.packets(&OURS);
    assert!(messages(&mut app).is_empty());
    (rig, app, flow)
}

#[test]
fn what_is_under_way_in_both_directions_goes_on() {
    let (rig, mut app, flow) = busy();
    let mut rig = rig.handed_over();
    rig.turn();
    rig.packets(&OURS);
    rig.receive_data(&OURS, 201, 101, b"first of theirs");
    assert_eq!(messages(&mut app), [b"first of theirs".to_vec(), b"second".to_vec()]);
    rig.packets(&OURS);
    // Nothing is acknowledged: all of it comes again, as it was, and is acknowledged packet by packet.
    let mut seen = BTreeMap::new();
    for _ in 0..200 {
        rig.pass(Duration::from_millis(1));
        for sent in rig.packets(&OURS).into_iter().filter(|sent| sent.kind == Kind::Data) {
            seen.entry(sent.seq).or_insert(sent.data);
        }
        let mut acknowledged = 101;
        while seen.contains_key(&acknowledged) {
            acknowledged += 1;
        }
        rig.receive(&OURS, &rig.segment(ACK, 203, acknowledged), &[]);
    }
    let sent: Vec<u8> = seen.into_values().flatten().collect();
    let expected = [&b"first"[..], &[0, 1, b'a', 0, 1, b'b'], &[7; 3_000]].concat();
    let alone = [&b"first"[..], b"a", b"b", &[7; 3_000]].concat();
    assert!(sent == expected || sent == alone, "{sent:?}");
    assert_eq!(app.free_tx_buffers(), Ok(TX_BUFFERS as usize));
    rig.turn();
    assert_eq!(rig.free_receive_buffers(), RX_BUFFERS as usize);
    app.close_flow(flow).unwrap();
    // It has had nothing to do for so long that its bell is waited for.
    rig.shard.bell_rang(0);
    rig.pass(Duration::from_millis(1));
    assert!(rig.packets(&OURS).iter().any(|sent| sent.kind == Kind::Close));
}

#[test]
fn a_half_open_flow_is_confirmed_by_whoever_has_taken_over() {
    let (mut rig, mut app) = Rig::listening();
    rig.put(&syn(&THEIRS));
    rig.turn();
    assert_eq!(rig.frames().len(), 1);
    let mut rig = rig.handed_over();
    rig.receive(&THEIRS, &rig.segment(PROBE, CONNECTOR + 1, first_of_ours(&THEIRS)), &[]);
    let (flow, opened) = opened(&mut app);
    assert_eq!(opened.remote, (PEER_IP, 40_000).into());
    assert!(rig.told().iter().any(|told| matches!(told, ToCoordinator::Accepted { key: THEIRS, .. })));
    let mut rig = rig.handed_over();
    rig.receive_data(&THEIRS, CONNECTOR + 1, first_of_ours(&THEIRS), b"hello");
    assert_eq!(messages(&mut app), [b"hello".to_vec()]);
    send(&mut app, flow, b"hello too");
    rig.turn();
    assert!(rig.packets(&THEIRS).iter().any(|sent| sent.data == b"hello too"));
}

#[test]
fn an_application_that_has_gone_is_still_delivered_for() {
    let (rig, mut app, flow) = Rig::connected();
    send(&mut app, flow, b"last words");
    drop(app);
    let (reason, linger) = (CloseReason::AppGone, Duration::from_millis(50));
    rig.post(ToShard::RemoveChannel { channel: ChannelId(1), reason, linger });
    // The shard hears of it only now.
    let mut rig = rig.handed_over();
    rig.turn();
    assert_eq!(rig.packets(&OURS), [data(101, 201, b"last words")]);
    let mut rig = rig.handed_over();
    rig.turn();
    acknowledge(&mut rig, 102);
    let sent = rig.packets(&OURS);
    let close = Sent { reason: Some(CloseReason::AppGone), ..bare(Kind::Close, 102, 201) };
    assert_eq!(sent.last(), Some(&close), "{sent:?}");
    let mut rig = rig.handed_over();
    acknowledge(&mut rig, 103);
    let told = rig.told();
    let gone = told.iter().any(|told| matches!(told, ToCoordinator::ChannelGone { channel: ChannelId(1), .. }));
    assert!(gone, "{told:?}");
}

#[test]
fn counts_go_on_and_other_bytes_are_refused() {
    let (rig, _app, _) = busy();
    let before = rig.counted(Counter::TxPieces);
    assert!(before > 0);
    let mut rig = rig.handed_over();
    assert_eq!(rig.counted(Counter::TxPieces), before);
    rig.turn();
    let state = rig.shard.save().0;
    let mut bytes = FORMAT.save(&state).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    assert_eq!(FORMAT.load::<SavedShard>(&bytes).err(), Some(LoadError::Damaged));
    bytes[0] ^= 1;
    assert_eq!(FORMAT.load::<SavedShard>(&bytes).err(), Some(LoadError::Foreign));
}

/// Every single bit of a written shard turned over: it cannot be read, or is refused, or goes on without a panic.
#[test]
fn what_was_damaged_does_no_harm() {
    let (mut rig, mut app, _) = busy();
    let copy = |handles: &ShardHandles| {
        let copy = |fd: &OwnedFd| fd.as_fd().try_clone_to_owned().unwrap();
        ShardHandles { memory: copy(&handles.memory), ear: copy(&handles.ear), bell: copy(&handles.bell) }
    };
    let Cable { near, .. } = Cable::new(1);
    let (_, counts) = rig.registry.enter();
    let (_, inlet) = mailbox(1).unwrap();
    let (outlet, _) = mailbox(1).unwrap();
    let spare = Shard::new(settings(), near.into_queue(), inlet, outlet, counts, rig.now);
    let (state, _, handles) = std::mem::replace(&mut rig.shard, spare).save();
    let bytes = postcard::to_allocvec(&state).unwrap();
    let (mut unread, mut refused, mut restored) = (0, 0, 0);
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let Ok(saved) = postcard::from_bytes::<SavedShard>(&bytes) else {
            unread += 1;
            continue;
        };
        let Cable { near, .. } = Cable::new(1);
        let copies = handles.iter().map(|(id, handles)| (*id, copy(handles))).collect();
        let Ok(shard) = rig.restore(saved, near.into_queue(), copies) else {
            refused += 1;
            continue;
        };
        restored += 1;
        let _ = std::mem::replace(&mut rig.shard, shard);
        for _ in 0..3 {
            rig.turn();
        }
        rig.shard.poll_once(rig.now + Duration::from_millis(20));
        // What it has published is for an application that trusts its daemon: this one does not look.
        rig.shard.poll_once(rig.now + Duration::from_secs(4));
    }
    let _ = &mut app;
    assert!(unread > 0 && refused > 0 && restored > 0, "{unread}, {refused}, {restored}");
}
