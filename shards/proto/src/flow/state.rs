//! Where a flow stands: its states, in one table, and its life among them.

use super::Role;
#[cfg(feature = "serde")]
use crate::state::{Unsound, ensure};
use machnet_core::flow::CloseReason;

/// Where a flow stands. It is born after the handshake, so nothing here knows of SYNs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) enum State {
    /// An acceptor's flow whose peer has not shown yet that it knows our nonce: nothing may be sent.
    Unconfirmed,
    /// Both ways are open.
    Established,
    /// This side sends what it still has, then CLOSE; what arrives is discarded.
    Closing,
    /// The flow has ended.
    Closed,
}

/// What moves a flow from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The first valid packet of the peer.
    Confirm,
    /// Our application wants no more.
    CloseCalled,
    /// The peer has acknowledged our CLOSE.
    CloseAcknowledged,
    /// The peer's CLOSE, in order.
    PeerClosed,
    /// Reset by either side, or given up.
    End,
}

impl State {
    /// The state after `step`; `None` if the step is impossible here.
    pub(super) const fn after(self, step: Step) -> Option<Self> {
        use State::{Closed, Closing, Established, Unconfirmed};
        match (self, step) {
            (Unconfirmed, Step::Confirm) => Some(Established),
            (Established, Step::CloseCalled) => Some(Closing),
            // The application was never told of an unconfirmed flow: there is nothing to send first.
            (Unconfirmed, Step::CloseCalled) => Some(Closed),
            (Closing, Step::CloseAcknowledged) => Some(Closed),
            (Established | Closing, Step::PeerClosed) => Some(Closed),
            (Unconfirmed | Established | Closing, Step::End) => Some(Closed),
            _ => None,
        }
    }
}

/// Where a flow stands, why it ends, and what of that its owner has not been told.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Life {
    state: State,
    /// The peer has shown that it knows our nonce.
    confirmed: bool,
    /// Why the application has closed the flow, or why it has ended.
    reason: CloseReason,
    /// Nobody was told yet that the peer has confirmed the flow, or that it has ended.
    untold_confirmed: bool,
    untold_end: bool,
}

impl Life {
    /// After the handshake.
    pub(super) fn new(role: Role) -> Self {
        let confirmed = role == Role::Connector;
        Self {
            state: if confirmed { State::Established } else { State::Unconfirmed },
            confirmed,
            reason: CloseReason::Other,
            untold_confirmed: false,
            untold_end: false,
        }
    }

    #[inline]
    pub(super) fn state(&self) -> State {
        self.state
    }

    pub(super) fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    #[inline]
    pub(super) fn reason(&self) -> CloseReason {
        self.reason
    }

    /// Takes `step`, if that is possible here, and gives the state after it. `reason` counts if the flow closes or
    /// ends with it.
    pub(super) fn step(&mut self, step: Step, reason: CloseReason) -> Option<State> {
        let next = self.state.after(step)?;
        self.state = next;
        match next {
            State::Unconfirmed => {}
            State::Established => (self.confirmed, self.untold_confirmed) = (true, true),
            State::Closing => self.reason = reason,
            State::Closed => (self.reason, self.untold_end) = (reason, true),
        }
        Some(next)
    }

    /// Whether somebody is to be told something.
    #[inline]
    pub(super) fn has_event(&self) -> bool {
        self.untold_confirmed | self.untold_end
    }

    /// Whether it is to be told that the peer has confirmed the flow; it is told now.
    pub(super) fn take_confirmed(&mut self) -> bool {
        core::mem::take(&mut self.untold_confirmed)
    }

    /// Whether the end is to be told; it is told now.
    pub(super) fn take_end(&mut self) -> bool {
        core::mem::take(&mut self.untold_end)
    }

    /// Whether what was read can be, of a flow that has sent `outstanding` packets that are not acknowledged, and CLOSE
    /// or not.
    #[cfg(feature = "serde")]
    pub(super) fn check(&self, outstanding: u32, close_sent: bool) -> Result<(), Unsound> {
        let state = self.state;
        let is_open = matches!(state, State::Established | State::Closing);
        ensure(self.confirmed || !is_open, "the flow is open, but the peer has not confirmed it")?;
        let is_silent = !self.confirmed && outstanding == 0 && !close_sent;
        ensure(is_silent || state != State::Unconfirmed, "something was sent before the peer confirmed the flow")?;
        let may_close = matches!(state, State::Closing | State::Closed) && outstanding == 0;
        ensure(may_close || !close_sent, "CLOSE was sent before all that comes before it had arrived")?;
        ensure(state == State::Closed || !self.untold_end, "the end of a flow is to be told that has not ended")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_what_it_should_be() {
        use State::{Closed, Closing, Established, Unconfirmed};
        let steps = [Step::Confirm, Step::CloseCalled, Step::CloseAcknowledged, Step::PeerClosed, Step::End];
        let table = [
            (Unconfirmed, [Some(Established), Some(Closed), None, None, Some(Closed)]),
            (Established, [None, Some(Closing), None, Some(Closed), Some(Closed)]),
            (Closing, [None, None, Some(Closed), Some(Closed), Some(Closed)]),
            (Closed, [None; 5]),
        ];
        for (state, row) in table {
            assert_eq!(steps.map(|step| state.after(step)), row, "{state:?}");
        }
    }

    #[test]
    fn what_happens_is_told_once_and_the_first_reason_counts() {
        let mut life = Life::new(Role::Acceptor);
        assert!(!life.is_confirmed() && !life.has_event());
        assert_eq!(life.step(Step::CloseAcknowledged, CloseReason::Closed), None);
        assert_eq!(life.step(Step::Confirm, CloseReason::Other), Some(State::Established));
        assert!(life.is_confirmed() && life.has_event() && life.take_confirmed());
        assert!(!life.has_event() && !life.take_confirmed() && !life.take_end());
        assert_eq!(life.step(Step::CloseCalled, CloseReason::AppGone), Some(State::Closing));
        assert_eq!(life.step(Step::CloseCalled, CloseReason::Closed), None);
        assert_eq!((life.reason(), life.has_event()), (CloseReason::AppGone, false));
        assert_eq!(life.step(Step::End, CloseReason::Reset), Some(State::Closed));
        assert_eq!(life.step(Step::End, CloseReason::PeerGone), None);
        assert_eq!((life.reason(), life.take_end(), life.take_end()), (CloseReason::Reset, true, false));
        assert!(Life::new(Role::Connector).is_confirmed() && !Life::new(Role::Connector).has_event());
    }
}
