//! What waits for room in the shards' mailboxes.

use std::collections::VecDeque;

use machnet_core::time::Duration;

use crate::mailbox::{Outlet, ShardId, ToShard, Waker};

/// How long the coordinator waits before it tries a full mailbox again. A shard empties its mailbox every turn, so that
/// this is seldom needed.
pub(super) const RETRY: Duration = Duration::from_micros(500);

/// Frames that may wait for one shard; more are dropped. A network may lose any frame anyway.
const MAX_FRAMES: usize = 256;

/// Messages that may wait for one shard before requests of applications are refused. What is posted without a request
/// undoes or ends something that a request made, or answers what shards report at a bounded rate.
const MAX_WAITING: usize = 4096;

/// One bounded outbox per shard, in front of its mailbox.
#[derive(Debug)]
pub(super) struct Outboxes {
    /// By the number of the shard.
    shards: Vec<Outbox>,
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
        Self { shards: shards.collect(), dropped_frames: 0 }
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
        if matches!(message, ToShard::Transmit { .. } | ToShard::Send { .. }) {
            if outbox.frames == MAX_FRAMES {
                self.dropped_frames += 1;
                return;
            }
            outbox.frames += 1;
        }
        outbox.waiting.push_back(message);
    }

    /// Tries again what waits.
    pub(super) fn flush(&mut self) {
        for outbox in &mut self.shards {
            while let Some(message) = outbox.waiting.pop_front() {
                let is_frame = matches!(message, ToShard::Transmit { .. } | ToShard::Send { .. });
                if let Err(back) = outbox.outlet.post(message) {
                    outbox.waiting.push_front(back);
                    break;
                }
                outbox.frames -= usize::from(is_frame);
            }
        }
    }

    /// What wakes a shard for something that is not in its mailbox.
    pub(super) fn waker(&self, shard: ShardId) -> Waker {
        self.shards[usize::from(shard.0)].outlet.waker()
    }

    /// Whether anything waits: [`Outboxes::flush`] is due after [`RETRY`].
    pub(super) fn is_waiting(&self) -> bool {
        self.shards.iter().any(|outbox| !outbox.waiting.is_empty())
    }

    /// Whether so much waits that requests must be refused.
    pub(super) fn is_backlogged(&self) -> bool {
        self.shards.iter().any(|outbox| outbox.waiting.len() >= MAX_WAITING)
    }

    /// Frames dropped because too many waited for a shard.
    pub(super) fn dropped_frames(&self) -> u64 {
        self.dropped_frames
    }
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
        assert!(outboxes.is_waiting());
        assert_eq!(ports(&inlet), [1, 2]);
        // There is room in the mailbox, but not at the head of the line.
        outboxes.post(ShardId(0), unlisten(6));
        outboxes.flush();
        assert_eq!(ports(&inlet), [3, 4]);
        outboxes.flush();
        assert_eq!(ports(&inlet), [5, 6]);
        assert!(!outboxes.is_waiting());
    }

    #[test]
    fn frames_that_wait_are_bounded_and_nothing_else_is_lost() {
        let (mut outboxes, inlet) = outboxes(1);
        outboxes.post(ShardId(0), unlisten(1));
        for _ in 0..MAX_FRAMES + 3 {
            outboxes.post(ShardId(0), ToShard::Transmit { frame: Box::new([9]) });
        }
        outboxes.post(ShardId(0), unlisten(2));
        assert_eq!(outboxes.dropped_frames(), 3);
        let mut seen = Vec::new();
        while outboxes.is_waiting() {
            seen.extend(ports(&inlet));
            outboxes.flush();
        }
        seen.extend(ports(&inlet));
        assert_eq!((seen.len(), seen[0], seen[MAX_FRAMES + 1]), (MAX_FRAMES + 2, 1, 2));
        assert_eq!(outboxes.shards[0].frames, 0);
    }

    #[test]
    fn a_shard_that_reads_nothing_makes_requests_be_refused() {
        let (mut outboxes, _inlet) = outboxes(1);
        for _ in 0..=MAX_WAITING {
            assert!(!outboxes.is_backlogged());
            outboxes.post(ShardId(0), unlisten(888));
        }
        assert!(outboxes.is_backlogged());
    }
}
