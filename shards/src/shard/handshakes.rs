//! Flows that are about to be: SYNs of peers, and answers to ours.

use std::collections::HashSet;

use machnet_core::addr::MacAddr;
use machnet_core::flow::CloseReason;
use machnet_core::time::Instant;
use machnet_proto::addr::FlowKey;
use machnet_proto::dialect::Dialect;
use machnet_proto::flow::Birth;
use machnet_proto::handshake::{Acceptor, HalfOpenFlow, NotConfirmed, SavedAcceptor, Terms};
use machnet_proto::packet::{Packet, Segment, Syn};
use machnet_proto::state::Unsound;
use machnet_proto::wire::frame::UdpDatagram;
use serde::{Deserialize, Serialize};

use super::Settings;
use super::listeners::{Listeners, SavedListeners};
use crate::counters::DropReason;
use crate::mailbox::{AcceptTarget, ChannelId, ListenerId};

/// Who listens, which flows are half open, and whose answers are awaited.
#[derive(Serialize)]
pub(super) struct Handshakes {
    acceptor: Acceptor<MacAddr>,
    listeners: Listeners,
    /// Tuples that a SYN of ours was sent for.
    expected: HashSet<FlowKey>,
}

/// [`Handshakes`] as they were read.
#[derive(Deserialize)]
pub(super) struct SavedHandshakes {
    acceptor: SavedAcceptor<MacAddr>,
    listeners: SavedListeners,
    expected: HashSet<FlowKey>,
}

impl SavedHandshakes {
    /// Otherwise as [`Handshakes::new`].
    pub(super) fn restore(self, settings: &Settings, now: Instant) -> Result<Handshakes, Unsound> {
        let Self { acceptor, listeners, expected } = self;
        let terms = Terms::of_interface(settings.mtu_bytes, settings.boot_id);
        Ok(Handshakes {
            acceptor: acceptor.restore(settings.secret, terms, settings.half_open_max, now)?,
            listeners: listeners.restore(settings.secret)?,
            expected,
        })
    }
}

impl Handshakes {
    pub(super) fn new(settings: &Settings) -> Self {
        let terms = Terms::of_interface(settings.mtu_bytes, settings.boot_id);
        Self {
            acceptor: Acceptor::new(settings.secret, terms, settings.half_open_max),
            listeners: Listeners::new(settings.secret),
            expected: HashSet::new(),
        }
    }

    // ---- Listeners -------------------------------------------------------------------------------------------------

    /// Accepts flows to this port for this listener.
    pub(super) fn listen(&mut self, port: u16, listener: ListenerId, target: AcceptTarget) {
        self.listeners.add(port, listener, target);
    }

    /// Accepts no more flows for this listener.
    pub(super) fn unlisten(&mut self, port: u16, listener: ListenerId) {
        self.listeners.remove(port, listener);
    }

    /// Accepts no more flows into this channel.
    pub(super) fn remove_channel(&mut self, channel: ChannelId) {
        self.listeners.remove_channel(channel);
    }

    /// Accepts no more flows at all.
    pub(super) fn stop(&mut self) {
        self.listeners.clear();
    }

    /// Whether anybody listens on this port.
    pub(super) fn is_listening(&self, port: u16) -> bool {
        self.listeners.has(port)
    }

    /// Who takes this flow among those that are `able` to.
    pub(super) fn choose(&self, key: &FlowKey, able: impl Fn(AcceptTarget) -> bool) -> Option<AcceptTarget> {
        self.listeners.choose(key, able)
    }

    // ---- Flows that peers open -------------------------------------------------------------------------------------

    /// The answer to a SYN that was accepted before.
    pub(super) fn answer(&self, key: &FlowKey, syn: &Syn, now: Instant) -> Packet {
        self.acceptor.answer(key, syn, now)
    }

    /// Whether a SYN may be accepted where as many flows as this are established, and at most so many may be. A place
    /// in the table is promised with the answer: peers must not connect to what cannot be confirmed.
    pub(super) fn may_promise(&self, key: &FlowKey, syn: &Syn, established: usize, flows_max: usize) -> bool {
        established + self.acceptor.half_open() < flows_max || self.acceptor.has_answered(key, syn)
    }

    /// Accepts a SYN that came in this dialect from this address; gives the answer.
    pub(super) fn accept(&mut self, key: &FlowKey, syn: (Dialect, &Syn), source_mac: MacAddr, now: Instant) -> Packet {
        self.acceptor.accept(key, syn, source_mac, now)
    }

    /// The refusal of a SYN.
    pub(super) fn refuse(syn: &Syn, reason: CloseReason) -> Packet {
        Acceptor::<MacAddr>::refuse(syn, reason)
    }

    /// Whether a flow with this tuple is half open, for a listener that is still there.
    pub(super) fn is_half_open(&self, key: &FlowKey) -> bool {
        self.acceptor.find(key).is_some() && self.is_listening(key.local_port)
    }

    /// A packet for a half-open flow: if it shows that the peer has our SYN-ACK, what the flow is born with, and where
    /// its SYN came from.
    pub(super) fn confirm(
        &self,
        datagram: &UdpDatagram<'_>,
        segment: &Segment,
        now: Instant,
    ) -> Result<(Birth, MacAddr), DropReason> {
        let flow = self.acceptor.find(&datagram.key).ok_or(DropReason::UnknownFlow)?;
        match self.acceptor.confirm(&datagram.key, flow, segment, now, || datagram.checksum_is_good()) {
            Ok(birth) => Ok((birth, *flow.attached())),
            Err(NotConfirmed::Guess) => Err(DropReason::Invalid),
            Err(NotConfirmed::BadChecksum) => Err(DropReason::BadChecksum),
        }
    }

    /// Whether a segment proves that some shard of this daemon has offered to accept its flow.
    pub(super) fn proves_handshake(&self, key: &FlowKey, segment: &Segment, now: Instant) -> bool {
        self.is_listening(key.local_port) && self.acceptor.proves_handshake(key, segment, now)
    }

    /// Takes a half-open flow out: it is established, is to be half open elsewhere, or its promise cannot be kept.
    pub(super) fn take(&mut self, key: &FlowKey) -> Option<HalfOpenFlow<MacAddr>> {
        self.acceptor.take(key)
    }

    /// Takes on a half-open flow that another shard has given up.
    pub(super) fn adopt(&mut self, key: FlowKey, flow: HalfOpenFlow<MacAddr>, now: Instant) {
        if self.is_listening(key.local_port) {
            self.acceptor.adopt(key, flow, now);
        }
    }

    /// How many flows are half open.
    pub(super) fn half_open(&self) -> usize {
        self.acceptor.half_open()
    }

    /// When the first of them is forgotten.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.acceptor.deadline()
    }

    /// Forgets those that were not confirmed in time.
    pub(super) fn expire(&mut self, now: Instant) {
        self.acceptor.expire(now);
    }

    // ---- Flows that we open ----------------------------------------------------------------------------------------

    /// A SYN was sent for this tuple.
    pub(super) fn expect(&mut self, key: FlowKey) {
        self.expected.insert(key);
    }

    /// The connect is over.
    pub(super) fn forget(&mut self, key: &FlowKey) {
        self.expected.remove(key);
    }

    /// Whether an answer to a SYN of ours is awaited for this tuple.
    pub(super) fn is_expected(&self, key: &FlowKey) -> bool {
        self.expected.contains(key)
    }
}
