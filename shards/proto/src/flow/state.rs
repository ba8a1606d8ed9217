//! The states of a flow, in one table.

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
}
