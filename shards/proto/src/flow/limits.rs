//! What a flow is born with: the facts of its handshake, and the limits all flows of a daemon share.

use machnet_core::defaults;

use crate::congestion::Congestion;
use crate::dialect::Dialect;
use crate::handshake::Features;
use crate::incarnation::Incarnation;
use crate::packet::SACK_PACKETS;
use crate::seq::SeqNo;
use machnet_core::time::Duration;

/// Limits and times of a flow; one set is shared by all flows of a daemon.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowLimits {
    /// Packets sent and not yet acknowledged, at most. More than [`SACK_PACKETS`] are never in flight.
    pub window_packets: u16,
    /// The retransmission timeout before the first round trip was measured.
    pub rto_initial: Duration,
    /// The shortest retransmission timeout: RFC 6298's floor of 1 s, scaled to a datacenter.
    pub rto_min: Duration,
    /// The longest interval between two retransmissions or probes, whatever the back-off. It also bounds how
    /// late a flow notices that a path works again, and must leave room for `probes_before_gone` tries
    /// before `gone_after`.
    pub rto_max: Duration,
    /// How long an acknowledgement may wait for data to ride on, unless the peer wants it at once. Zero: it does not.
    /// Much shorter than `tail_min`, so that a peer whose last packet has arrived does not repeat it.
    pub ack_delay: Duration,
    /// Packets with data after which an acknowledgement waits no longer (RFC 9293 has 2; ours report every packet
    /// one by one, and peers whose window is full say so).
    pub ack_every: u16,
    /// The shortest delay before a tail loss probe (RFC 8985, section 7.2): below it, a probe would only
    /// show that the peer's scheduler is slower than the network.
    pub tail_min: Duration,
    /// A flow that heard nothing for two thirds of this probes; after all of it, it reports
    /// [`FlowEvent::Silent`](super::FlowEvent::Silent). An acceptor's flow that was never confirmed ends after it.
    pub silent_after: Duration,
    /// A flow that heard nothing for this long, and had `probes_before_gone` tries unanswered, ends with
    /// [`CloseReason::PeerGone`](machnet_core::flow::CloseReason::PeerGone).
    pub gone_after: Duration,
    /// Tries that must stay unanswered before the peer is gone.
    pub probes_before_gone: u16,
    /// How much of the window the network may hold.
    pub congestion: Congestion,
}

impl Default for FlowLimits {
    fn default() -> Self {
        Self {
            window_packets: WINDOW_PACKETS_MAX,
            rto_initial: Duration::from_millis(10),
            rto_min: Duration::from_millis(1),
            rto_max: Duration::from_millis(500),
            ack_delay: Duration::from_micros(20),
            ack_every: 16,
            tail_min: Duration::from_micros(200),
            silent_after: defaults::SILENT_AFTER,
            gone_after: defaults::GONE_AFTER,
            probes_before_gone: 5,
            congestion: Congestion::default(),
        }
    }
}

/// The most packets the SACK field can report, and so the most that may be in flight.
pub(super) const WINDOW_PACKETS_MAX: u16 = 192;

const _: () = assert!(WINDOW_PACKETS_MAX as u32 == SACK_PACKETS);

/// Which side of the handshake this flow was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Role {
    /// It sent the SYN. Its first packet is a PROBE, repeated until the peer has answered anything.
    Connector,
    /// It answered the SYN. It sends nothing before the peer has shown that it knows our nonce.
    Acceptor,
}

/// What a flow is born with: what its handshake agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Birth {
    /// Which side we were.
    pub role: Role,
    /// What it speaks: for those who read and write its packets.
    pub dialect: Dialect,
    /// Names this life of the flow.
    pub incarnation: Incarnation,
    /// The number of our first packet.
    pub send_from: SeqNo,
    /// The number of the peer's first packet.
    pub receive_from: SeqNo,
    /// The longest payload of a packet that both hosts could use, in bytes, in both directions.
    pub max_payload: u16,
    /// Packets the peer is assumed to have buffers for before its first header says so.
    pub peer_window_packets: u16,
    /// The round trip the handshake took, if this side could measure it.
    pub rtt: Option<Duration>,
    /// What both can do.
    pub features: Features,
}
