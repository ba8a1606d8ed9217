//! What the coordinator is told.

use std::collections::VecDeque;

use crate::mailbox::{Outlet, ToCoordinator};

/// Messages that are kept while the coordinator's mailbox is full. Beyond that the shard opens no more flows, so that
/// what is still to be told stays bounded by the flows there are.
const WAITING_MAX: usize = 1024;

/// The way to the coordinator, and what it must hear and has no room for.
pub(super) struct Post {
    outlet: Outlet<ToCoordinator>,
    /// Oldest first.
    waiting: VecDeque<ToCoordinator>,
}

impl Post {
    pub(super) fn new(outlet: Outlet<ToCoordinator>) -> Self {
        Self { outlet, waiting: VecDeque::new() }
    }

    /// Tells something that must be heard, now or later.
    pub(super) fn tell(&mut self, message: ToCoordinator) {
        if !self.waiting.is_empty() {
            self.waiting.push_back(message);
        } else if let Err(message) = self.outlet.post(message) {
            self.waiting.push_back(message);
        }
    }

    /// Tells something that may be lost; `false` if it is.
    pub(super) fn try_tell(&self, message: ToCoordinator) -> bool {
        self.outlet.post(message).is_ok()
    }

    /// Tries again what waits.
    pub(super) fn send(&mut self) {
        while let Some(message) = self.waiting.pop_front() {
            if let Err(message) = self.outlet.post(message) {
                self.waiting.push_front(message);
                break;
            }
        }
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether so much waits that nothing should be begun that must be told.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::{ChannelId, ShardId, mailbox};

    fn gone(number: u64) -> ToCoordinator {
        ToCoordinator::ChannelGone { shard: ShardId(0), channel: ChannelId(number), end: None }
    }

    #[test]
    fn what_must_be_heard_waits_in_its_order_and_what_may_be_lost_is() {
        let (outlet, inlet) = mailbox(1).expect("a descriptor");
        let mut post = Post::new(outlet);
        for number in 1..=3 {
            post.tell(gone(number));
        }
        assert!(!post.try_tell(gone(9)) && !post.is_empty());
        let mut heard = Vec::new();
        for _ in 0..3 {
            heard.extend(inlet.take().map(|message| match message {
                ToCoordinator::ChannelGone { channel, .. } => channel.0,
                other => panic!("never told: {other:?}"),
            }));
            post.send();
        }
        assert_eq!((heard, post.is_empty()), (vec![1, 2, 3], true));
        assert!(post.try_tell(gone(4)));
    }

    #[test]
    fn it_says_when_nothing_more_should_be_begun() {
        let (outlet, _inlet) = mailbox(1).expect("a descriptor");
        let mut post = Post::new(outlet);
        for number in 0..=WAITING_MAX as u64 {
            assert!(!post.is_full());
            post.tell(gone(number));
        }
        assert!(post.is_full());
    }
}
