//! What waits for room in the shards' mailboxes.

use std::collections::{BTreeMap, VecDeque};

use machnet_core::time::{Duration, Instant};

use super::share::leaves_room;
use crate::mailbox::{Outlet, ShardId, ToShard, Waker};

/// How long the coordinator waits before it tries a full mailbox again. A shard empties its mailbox every turn, so that
/// this is seldom needed.
const RETRY: Duration = Duration::from_micros(500);

/// Frames that may wait for one shard; more are dropped. A network may lose any frame anyway.
const FRAMES_MAX: usize = 256;

/// Messages that requests of applications may make wait for one shard. What is posted without a request undoes or ends
/// something that a request made, or answers what shards report at a bounded rate.
const WAITING_MAX: usize = 4096;

/// Requests of a user that are granted however much others have made wait.
const SPARED: u64 = 64;

/// One bounded outbox per shard, in front of its mailbox.
#[derive(Debug)]
pub(super) struct Outboxes {
    /// By the number of the shard.
    shards: Vec<Outbox>,
    /// How many outboxes hold anything.
    waiting: usize,
    /// The requests of each user that were granted since something began to wait: at least as many as still wait.
    granted: BTreeMap<u32, u64>,
    /// When to try full mailboxes again; `None` when nothing waits.
    retry: Option<Instant>,
    /// Whether it was tried since the last decision when to.
    is_tried: bool,
    /// Frames dropped because too many waited.
    dropped_frames: u64,
}

#[derive(Debug)]
struct Outbox {
    outlet: Outlet<ToShard>,
    waiting: VecDeque<ToShard>,
    /// How many of `waiting` are frames.
    frames: usize,
}

impl Outboxes {
    pub(super) fn new(outlets: Vec<Outlet<ToShard>>) -> Self {
        let shards = outlets.into_iter().map(|outlet| Outbox { outlet, waiting: VecDeque::new(), frames: 0 });
        Self {
            shards: shards.collect(),
            waiting: 0,
            granted: BTreeMap::new(),
            retry: None,
            is_tried: false,
            dropped_frames: 0,
        }
    }

    /// Posts a message, after those that wait.
    ///
    /// # Panics
    /// When there is no such shard: our own mistake.
    pub(super) fn post(&mut self, shard: ShardId, message: ToShard) {
        let outbox = &mut self.shards[usize::from(shard.0)];
        let message = match outbox.waiting.is_empty() {
            true => match outbox.outlet.post(message) {
                Ok(()) => return,
                Err(back) => back,
            },
            false => message,
        };
        if is_frame(&message) {
            if outbox.frames == FRAMES_MAX {
                self.dropped_frames += 1;
                return;
            }
            outbox.frames += 1;
        }
        outbox.waiting.push_back(message);
        self.waiting += usize::from(outbox.waiting.len() == 1);
    }

    /// Tries again what waits.
    pub(super) fn flush(&mut self) {
        self.is_tried = true;
        for outbox in self.shards.iter_mut().filter(|outbox| !outbox.waiting.is_empty()) {
            outbox.flush();
            self.waiting -= usize::from(outbox.waiting.is_empty());
        }
        if self.waiting == 0 {
            self.granted.clear();
        }
    }

    /// Decides when full mailboxes are tried again, at the end of an event.
    pub(super) fn set_retry(&mut self, now: Instant) {
        let is_tried = std::mem::take(&mut self.is_tried);
        // What is due stays so until it is tried, however much is posted meanwhile.
        let still = self.retry.filter(|retry| !is_tried || *retry > now);
        self.retry = (self.waiting > 0).then(|| still.unwrap_or(now + RETRY));
    }

    /// When [`Outboxes::flush`] is due; `None` if nothing waits.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.retry
    }

    /// What wakes a shard for something that is not in its mailbox.
    pub(super) fn waker(&self, shard: ShardId) -> Waker {
        self.shards[usize::from(shard.0)].outlet.waker()
    }

    /// Grants a request of a user, unless so much waits that it must be refused: by the requests of this user, since
    /// those who ask for little are not refused for the sake of those who ask for much.
    pub(super) fn grant(&mut self, uid: u32) -> bool {
        if self.waiting == 0 {
            return true;
        }
        let waiting = self.shards.iter().map(|outbox| outbox.waiting.len()).max().unwrap_or_default();
        let own = self.granted.entry(uid).or_default();
        let has_room = *own < SPARED || leaves_room(*own, waiting as u64, WAITING_MAX as u64);
        *own += u64::from(has_room);
        has_room
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Frames dropped because too many waited for a shard.
    pub(super) fn dropped_frames(&self) -> u64 {
        self.dropped_frames
    }
}

impl Outbox {
    fn flush(&mut self) {
        while let Some(message) = self.waiting.pop_front() {
            let is_frame = is_frame(&message);
            if let Err(back) = self.outlet.post(message) {
                return self.waiting.push_front(back);
            }
            self.frames -= usize::from(is_frame);
        }
    }
}

fn is_frame(message: &ToShard) -> bool {
    matches!(message, ToShard::Transmit { .. } | ToShard::Send { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::{Inlet, ListenerId, mailbox};

    fn outboxes(capacity: usize) -> (Outboxes, Inlet<ToShard>) {
        let (outlet, inlet) = mailbox(capacity).expect("a descriptor");
        (Outboxes::new(vec![outlet]), inlet)
    }

    fn unlisten(port: u16) -> ToShard {
        ToShard::Unlisten { port, listener: ListenerId(0) }
    }

    fn ports(inlet: &Inlet<ToShard>) -> Vec<u16> {
        let port = |message| match message {
            ToShard::Unlisten { port, .. } => port,
            ToShard::Transmit { frame } => u16::from(frame[0]),
            other => panic!("not posted: {other:?}"),
        };
        std::iter::from_fn(|| inlet.take()).map(port).collect()
    }

    #[test]
    fn what_finds_no_room_waits_and_keeps_its_order() {
        let (mut outboxes, inlet) = outboxes(2);
        for port in 1..=5 {
            outboxes.post(ShardId(0), unlisten(port));
        }
        let start = Instant::ZERO;
        outboxes.set_retry(start);
        assert_eq!(outboxes.deadline(), Some(start + RETRY));
        assert_eq!(ports(&inlet), [1, 2]);
        // There is room in the mailbox, but not at the head of the line.
        outboxes.post(ShardId(0), unlisten(6));
        outboxes.flush();
        assert_eq!(ports(&inlet), [3, 4]);
        outboxes.set_retry(start + RETRY / 2);
        assert_eq!(outboxes.deadline(), Some(start + RETRY), "what is posted meanwhile puts nothing off");
        outboxes.set_retry(start + 3 * RETRY);
        assert_eq!(outboxes.deadline(), Some(start + RETRY), "what is due and was not tried is due");
        outboxes.flush();
        outboxes.set_retry(start + RETRY);
        assert_eq!(ports(&inlet), [5, 6]);
        assert_eq!(outboxes.deadline(), None);
    }

    #[test]
    fn frames_that_wait_are_bounded_and_nothing_else_is_lost() {
        let (mut outboxes, inlet) = outboxes(1);
        outboxes.post(ShardId(0), unlisten(1));
        for _ in 0..FRAMES_MAX + 3 {
            outboxes.post(ShardId(0), ToShard::Transmit { frame: Box::new([9]) });
        }
        outboxes.post(ShardId(0), unlisten(2));
        assert_eq!(outboxes.dropped_frames(), 3);
        let mut seen = Vec::new();
        while outboxes.waiting > 0 {
            seen.extend(ports(&inlet));
            outboxes.flush();
        }
        seen.extend(ports(&inlet));
        assert_eq!((seen.len(), seen[0], seen[FRAMES_MAX + 1]), (FRAMES_MAX + 2, 1, 2));
        assert_eq!(outboxes.shards[0].frames, 0);
    }

    #[test]
    fn a_shard_that_reads_nothing_makes_requests_be_refused_until_it_does() {
        let (mut outboxes, inlet) = outboxes(1);
        let grant = |outboxes: &mut Outboxes, uid| {
            let is_granted = outboxes.grant(uid);
            if is_granted {
                outboxes.post(ShardId(0), unlisten(888));
            }
            is_granted
        };
        // Whoever asks for all gets half.
        let granted = (0..10 * WAITING_MAX).take_while(|_| grant(&mut outboxes, 7)).count();
        assert!((WAITING_MAX / 2..=WAITING_MAX / 2 + 2).contains(&granted), "{granted}");
        // What nobody asked for comes on top of it, and whoever asks for little is granted it all the same.
        for _ in 0..WAITING_MAX {
            outboxes.post(ShardId(0), unlisten(888));
        }
        assert!(!grant(&mut outboxes, 7));
        let granted = (0..WAITING_MAX).take_while(|_| grant(&mut outboxes, 8)).count();
        assert_eq!(granted as u64, SPARED);
        // A shard that reads some makes room for no more than that.
        ports(&inlet);
        outboxes.flush();
        assert!(!grant(&mut outboxes, 7));
        while outboxes.waiting > 0 {
            ports(&inlet);
            outboxes.flush();
        }
        assert!(grant(&mut outboxes, 7) && outboxes.granted.is_empty(), "all is forgotten");
    }
}
