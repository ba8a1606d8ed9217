//! Connects that nobody waits for: from the request to the event that answers it.
//!
//! The daemon answers on the control socket, and tells of the flow in its channel; either may be seen first. A flow's
//! event says which connect it answers. So it is held back, and with it what its channel has brought since, until the
//! answer is read: the daemon's coordinator sends it as soon as the shard has the flow.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::time::{Duration, Instant};

use super::received::{ConnectId, Event, Flow};
use crate::channel::FlowHasher;
use crate::error::{BeginConnectError, CONNECTS_UNDER_WAY_MAX, ConnectError, Disconnected};

/// While there always is something to receive, answers are looked for after so many looks: that is a system call.
const LOOK_EVERY: u32 = 64;

/// Connects whose event has not been received. At most [`CONNECTS_UNDER_WAY_MAX`], over all fields.
#[derive(Debug, Default)]
pub(super) struct Connects {
    /// Requests without an answer, by their numbers, and when the daemon has been silent for too long.
    unanswered: BTreeMap<u32, (ConnectId, Instant)>,
    /// Flows whose events have not been received.
    established: HashMap<Flow, ConnectId, BuildHasherDefault<FlowHasher>>,
    /// Failures that have not been received, oldest first.
    failed: VecDeque<(ConnectId, ConnectError)>,
    /// Looks since answers were looked for.
    looks: u32,
}

impl Connects {
    /// Whether there is nothing to do for any.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.unanswered.is_empty() && self.established.is_empty() && self.failed.is_empty()
    }

    /// Whether an answer is to come.
    pub(super) fn await_answers(&self) -> bool {
        !self.unanswered.is_empty()
    }

    /// Whether this is the number of a request whose answer is to come.
    pub(super) fn awaits(&self, request: u32) -> bool {
        self.unanswered.contains_key(&request)
    }

    /// Whether a failure waits to be received.
    pub(super) fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// When the first answer is overdue.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.unanswered.values().map(|(_, deadline)| *deadline).min()
    }

    /// Whether one more may begin.
    pub(super) fn check_room(&self) -> Result<(), BeginConnectError> {
        let under_way = self.unanswered.len() + self.established.len() + self.failed.len();
        if under_way < CONNECTS_UNDER_WAY_MAX { Ok(()) } else { Err(BeginConnectError::TooMany) }
    }

    /// A request has been sent.
    pub(super) fn begin(&mut self, request: u32, connect: ConnectId, patience: Duration) {
        self.unanswered.insert(request, (connect, Instant::now() + patience));
    }

    /// A request was answered.
    ///
    /// # Errors
    /// There is no such request, or no such answer to one.
    pub(super) fn answer(
        &mut self,
        request: u32,
        answer: Result<Flow, Option<ConnectError>>,
    ) -> Result<(), Disconnected> {
        let (connect, _) = self.unanswered.remove(&request).ok_or(Disconnected::Unreadable)?;
        match answer {
            Ok(flow) => drop(self.established.insert(flow, connect)),
            Err(error) => self.failed.push_back((connect, error.ok_or(Disconnected::Unreadable)?)),
        }
        Ok(())
    }

    /// No more answers come.
    pub(super) fn give_up(&mut self) {
        self.unanswered.clear();
    }

    /// Whether answers are to be looked for although there is something else to receive.
    pub(super) fn is_due(&mut self) -> bool {
        self.looks = (self.looks + 1) % LOOK_EVERY;
        self.looks == 0
    }

    /// Whether it is known whose flow this is, that this endpoint has opened.
    pub(super) fn know(&self, flow: Flow) -> bool {
        self.unanswered.is_empty() || self.established.contains_key(&flow)
    }

    /// The connect that opened a flow whose event is received now.
    pub(super) fn opened(&mut self, flow: Flow) -> Option<ConnectId> {
        if self.established.is_empty() { None } else { self.established.remove(&flow) }
    }

    /// The oldest failure.
    pub(super) fn next_failure(&mut self) -> Option<Event> {
        let (connect, error) = self.failed.pop_front()?;
        Some(Event::ConnectFailed { connect, error })
    }
}

#[cfg(test)]
mod tests {
    use machnet_core::flow::FlowId;

    use super::super::received::EndpointId;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    #[test]
    fn what_has_been_answered_and_not_received_is_still_under_way() {
        let (endpoint, mut connects) = (EndpointId::next(), Connects::default());
        let id = |number| ConnectId { endpoint, number };
        let flow = |number| Flow { endpoint, channel: 0, id: FlowId(number) };
        for number in (0..).take(CONNECTS_UNDER_WAY_MAX) {
            assert_eq!(connects.check_room(), Ok(()));
            connects.begin(number, id(number), PATIENCE);
        }
        assert_eq!(connects.check_room(), Err(BeginConnectError::TooMany));
        assert!(!connects.know(flow(7)));
        connects.answer(0, Ok(flow(7))).unwrap();
        connects.answer(1, Err(Some(ConnectError::Refused))).unwrap();
        assert_eq!(connects.check_room(), Err(BeginConnectError::TooMany));
        assert!(connects.know(flow(7)) && !connects.know(flow(8)));
        assert_eq!((connects.opened(flow(8)), connects.opened(flow(7))), (None, Some(id(0))));
        assert_eq!(connects.check_room(), Ok(()));
        let failure = Event::ConnectFailed { connect: id(1), error: ConnectError::Refused };
        assert_eq!((connects.next_failure(), connects.next_failure()), (Some(failure), None));
    }

    #[test]
    fn an_answer_to_nothing_and_one_that_is_none_are_nonsense() {
        let (endpoint, mut connects) = (EndpointId::next(), Connects::default());
        assert_eq!(connects.answer(1, Err(Some(ConnectError::Refused))), Err(Disconnected::Unreadable));
        connects.begin(1, ConnectId { endpoint, number: 1 }, PATIENCE);
        assert_eq!(connects.answer(1, Err(None)), Err(Disconnected::Unreadable));
        assert!(connects.is_idle());
    }
}
