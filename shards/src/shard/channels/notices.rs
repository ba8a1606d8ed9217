//! What an application is to hear of its flows, besides their messages.

use std::collections::{HashSet, VecDeque};

use machnet::daemon::channel::{Opened, ShardEnd};
use machnet_core::flow::{CloseReason, FlowId};
use serde::{Deserialize, Serialize};

/// Flows a channel may have that its application has not looked at: neither at their opening, which waits for room in
/// the ring, nor at their end. At the limit no flow is accepted into the channel: an application that never reads
/// cannot make the shard remember without end, nor take the places of others' flows.
pub(in crate::shard) const UNRELEASED_MAX: usize = 4096;

/// An event of a flow that the application is to hear of.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(in crate::shard) enum Notice {
    Opened { flow: FlowId, opened: Opened },
    Silent { flow: FlowId },
    Alive { flow: FlowId },
    MaxPayload { flow: FlowId, bytes: u16 },
    Closed { flow: FlowId, reason: CloseReason, acknowledged_messages: u64 },
}

/// Events that wait for room in the ring, and flows whose end the application has not said that it knows. None is lost.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Notices {
    /// Flows that have ended, until the application says that it knows.
    unreleased: HashSet<FlowId>,
    /// Events that found no room in the ring, oldest first.
    unpublished: VecDeque<Notice>,
    /// Of those, the openings. Follows from `unpublished`.
    #[serde(skip)]
    unannounced: usize,
}

impl Notices {
    /// What was read, with what follows from it.
    pub(super) fn restored(self) -> Self {
        let is_opening = |notice: &&Notice| matches!(notice, Notice::Opened { .. });
        Self { unannounced: self.unpublished.iter().filter(is_opening).count(), ..self }
    }

    /// Tells the application of an event, now or as soon as the ring has room; says whether that was now.
    pub(super) fn notify(&mut self, end: &mut ShardEnd, notice: Notice) -> bool {
        if let Notice::MaxPayload { flow, .. } = notice {
            // Only the last one counts.
            let is_older = |waiting: &Notice| matches!(waiting, Notice::MaxPayload { flow: of, .. } if *of == flow);
            self.unpublished.retain(|waiting| !is_older(waiting));
        }
        if !self.unpublished.is_empty() && self.cancels_out(&notice) {
            return true;
        }
        let published = self.unpublished.is_empty() && try_notify(end, &notice);
        if !published {
            self.unannounced += usize::from(matches!(notice, Notice::Opened { .. }));
            self.unpublished.push_back(notice);
        }
        published
    }

    /// Takes back an event that waits if this one undoes it, so that few wait for each flow however often its peer
    /// falls silent and speaks again.
    fn cancels_out(&mut self, notice: &Notice) -> bool {
        let undone = self.unpublished.iter().rposition(|waiting| match (waiting, notice) {
            (Notice::Silent { flow }, Notice::Alive { flow: other })
            | (Notice::Alive { flow }, Notice::Silent { flow: other }) => flow == other,
            _ => false,
        });
        undone.and_then(|index| self.unpublished.remove(index)).is_some()
    }

    /// Publishes what found no room before; `announced` gets the flows whose opening could be told only now.
    pub(super) fn publish(&mut self, end: &mut ShardEnd, announced: &mut Vec<FlowId>) {
        while let Some(notice) = self.unpublished.pop_front() {
            if !try_notify(end, &notice) {
                self.unpublished.push_front(notice);
                break;
            }
            if let Notice::Opened { flow, .. } = notice {
                self.unannounced -= 1;
                announced.push(flow);
            }
        }
    }

    /// A flow has ended: takes its opening back if that waits still; `false` if the application knows of the flow.
    pub(super) fn withdraw(&mut self, ended: FlowId) -> bool {
        let is_its = |waiting: &Notice| matches!(waiting, Notice::Opened { flow, .. } if *flow == ended);
        let withdrawn = self.unpublished.iter().rposition(is_its).and_then(|index| self.unpublished.remove(index));
        self.unannounced -= usize::from(withdrawn.is_some());
        withdrawn.is_some()
    }

    /// How many events wait.
    pub(super) fn waiting(&self) -> usize {
        self.unpublished.len()
    }

    /// A flow has ended; until the application says that it knows, it may name it.
    pub(super) fn ended(&mut self, flow: FlowId) {
        self.unreleased.insert(flow);
    }

    /// Whether the application has been told that this flow ended and has not answered yet.
    pub(super) fn is_unreleased(&self, flow: FlowId) -> bool {
        self.unreleased.contains(&flow)
    }

    /// The application knows that the flow ended. `false` if it never was, or is not over.
    pub(super) fn release(&mut self, flow: FlowId) -> bool {
        self.unreleased.remove(&flow)
    }

    /// Whether the application leaves too much unread.
    pub(super) fn is_full(&self) -> bool {
        self.unreleased.len() + self.unannounced >= UNRELEASED_MAX
    }
}

fn try_notify(end: &mut ShardEnd, notice: &Notice) -> bool {
    match *notice {
        Notice::Opened { flow, opened } => end.publish_opened(flow, &opened),
        Notice::Silent { flow } => end.publish_silent(flow),
        Notice::Alive { flow } => end.publish_alive(flow),
        Notice::MaxPayload { flow, bytes } => end.publish_max_payload(flow, bytes),
        Notice::Closed { flow, reason, acknowledged_messages } => {
            end.publish_closed(flow, reason.to_wire(), acknowledged_messages)
        }
    }
}
