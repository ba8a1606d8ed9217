//! What must be true of every run, whatever the workload did and the network did to it.
//!
//! The checker sees only what applications see: flows that opened and closed, messages that `send` took, messages that
//! `recv` gave. It knows what the messages must say by a rule (see [`content`]), keeps its own account of every flow,
//! and excuses a flow that ended early only if something happened that may end it.

use std::collections::{HashMap, HashSet};

use machnet_core::flow::CloseReason;
use machnet_core::time::{Duration, Instant};
use machnet_proto::addr::FlowKey;
use std::net::Ipv4Addr;

use super::application::AppId;
use super::content;

/// One side of a flow, as one application saw it. Never used twice. Also the number of the stream of messages that this
/// side sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SideId(pub(crate) u64);

/// One side of a flow.
#[derive(Debug)]
pub struct Side {
    pub(crate) app: AppId,
    /// Its tuple.
    pub key: FlowKey,
    /// Bytes of a piece.
    pub max_payload: usize,
    opened_at: Instant,
    /// What has become of it.
    pub life: Life,
    /// Its application has closed it, or aborted it.
    pub(crate) close_called: bool,
    /// Its application has aborted it.
    abort_called: bool,
    /// Its application was told that the peer is silent.
    pub is_silent: bool,
    /// The lengths of the messages `send` took.
    pub sent: Vec<u32>,
    /// Whose messages arrive here; known with the first one.
    from: Option<SideId>,
    /// Where this side's messages arrive.
    to: Option<SideId>,
    received: usize,
}

/// What became of a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Its application has it.
    Open,
    /// Its application was told that it ended.
    Closed {
        /// The reason that the application was given.
        reason: CloseReason,
        /// Its messages that the peer has acknowledged.
        acknowledged: u64,
    },
    /// Its application, or its daemon, died.
    Orphaned,
}

/// The account of a whole run.
#[derive(Debug, Default)]
pub struct Checker {
    sides: Vec<Side>,
    /// Every side with its tuple, oldest first.
    by_key: HashMap<FlowKey, Vec<SideId>>,
    open_keys: HashSet<FlowKey>,
    /// Tuples whose side there is a vandal's, or was one's.
    vandals: HashSet<FlowKey>,
    incidents: Vec<Incident>,
    /// Reused for what a message should say.
    expected: Vec<u8>,
    messages: u64,
    bytes: u64,
}

/// Something that may end flows.
#[derive(Clone, Copy, Debug)]
struct Incident {
    /// To this host.
    ip: Ipv4Addr,
    from: Instant,
    until: Instant,
    kind: IncidentKind,
}

/// What kind of thing it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IncidentKind {
    /// An application of the host died.
    ApplicationDied,
    /// The host's daemon died or stopped.
    DaemonEnded,
    /// An application of the host accepts no more flows to this port.
    ListenerEnded {
        /// The listener's.
        port: u16,
    },
    /// The host has few places for flows, half open or whole; one that was promised may be taken.
    FewFlows,
    /// Nothing reached the host.
    Unreachable,
    /// The host's clock jumped.
    ClockJumped,
    /// An application of the host writes what it likes into its memory.
    Vandalism,
}

impl IncidentKind {
    /// Whether it goes on: until it is over, or to the end of the run.
    fn is_lasting(self) -> bool {
        matches!(self, Self::Unreachable | Self::FewFlows | Self::DaemonEnded | Self::Vandalism)
    }
}

/// Silence that a flow must forgive: one that ends because its peer is gone had none from it for longer. The setting is
/// 15 s; a fault may begin in the middle of what else goes on.
const FORGIVEN: Duration = Duration::from_secs(10);

/// The same for a flow whose first packet did not arrive. The setting is 3 s.
const FORGIVEN_HALF_OPEN: Duration = Duration::from_secs(2);

/// Between two outages so much time is as good as none: a flow asks for signs of life only twice a second.
const BRIEF: Duration = Duration::from_secs(1);

impl Checker {
    // ---- What applications see ------------------------------------------------------------------------------------

    pub(crate) fn opened(&mut self, app: AppId, key: FlowKey, max_payload: usize, now: Instant) -> SideId {
        let id = SideId(self.sides.len() as u64);
        assert!(self.open_keys.insert(key), "{key:?} was opened while it was open");
        self.by_key.entry(key).or_default().push(id);
        self.sides.push(Side {
            app,
            key,
            max_payload,
            opened_at: now,
            life: Life::Open,
            close_called: false,
            abort_called: false,
            is_silent: false,
            sent: Vec::new(),
            from: None,
            to: None,
            received: 0,
        });
        id
    }

    /// `send` took a message.
    pub fn sent(&mut self, side: SideId, len: usize) {
        let side = self.side_mut(side);
        assert!(
            side.life == Life::Open && !side.close_called,
            "send took a message for a flow that is closed: {side:?}"
        );
        side.sent.push(u32::try_from(len).expect("messages are short"));
    }

    /// `recv` gave a message.
    pub(crate) fn received(&mut self, at: SideId, message: &[u8]) {
        if self.vandals.contains(&self.side(at).key.reversed()) {
            return;
        }
        let from = self.side(at).from.unwrap_or_else(|| self.introduce(at, message));
        let index = self.side(at).received;
        assert_eq!(self.side(at).life, Life::Open, "a message came after its flow had ended");
        let Some(len) = self.side(from).sent.get(index).copied() else {
            panic!("{at:?} received message {index} of {from:?}, which never sent one: {:?}", self.side(from));
        };
        assert_eq!(message.len(), len as usize, "{at:?} received message {index} of {from:?} with a wrong length");
        content::write(from.0, index as u64, message.len(), &mut self.expected);
        if let Some(byte) = message.iter().zip(&self.expected).position(|(is, should)| is != should) {
            panic!("{at:?} received message {index} ({len} bytes) of {from:?} with a wrong byte at {byte}");
        }
        self.side_mut(at).received += 1;
        self.messages += 1;
        self.bytes += u64::from(len);
    }

    /// The first message of a stream says whose it is.
    fn introduce(&mut self, at: SideId, message: &[u8]) -> SideId {
        let from = content::greeting(message).map(SideId).filter(|from| from.0 < self.sides.len() as u64);
        let from = from.unwrap_or_else(|| panic!("{at:?} received a first message that is none"));
        assert_eq!(self.side(from).key, self.side(at).key.reversed(), "a message arrived at a flow it was not sent on");
        assert_eq!(self.side(from).to, None, "two flows receive the messages of one");
        self.side_mut(from).to = Some(at);
        self.side_mut(at).from = Some(from);
        from
    }

    pub(crate) fn close_called(&mut self, side: SideId) {
        self.side_mut(side).close_called = true;
    }

    pub(crate) fn abort_called(&mut self, side: SideId) {
        let side = self.side_mut(side);
        (side.close_called, side.abort_called) = (true, true);
    }

    /// The application was told that the peer is silent, or not any more.
    pub(crate) fn silence(&mut self, side: SideId, is_silent: bool) {
        let side = self.side_mut(side);
        assert_ne!(side.is_silent, is_silent, "silent and alive take turns");
        side.is_silent = is_silent;
    }

    /// The application was told that the flow has ended.
    pub(crate) fn closed(&mut self, id: SideId, reason: u16, acknowledged: u64, now: Instant) {
        let reason = CloseReason::from_wire(reason);
        let side = self.side_mut(id);
        assert_eq!(side.life, Life::Open, "a flow ends once");
        assert!(acknowledged <= side.sent.len() as u64, "more was acknowledged than sent: {acknowledged} of {side:?}");
        side.life = Life::Closed { reason, acknowledged };
        let key = side.key;
        self.open_keys.remove(&key);
        assert!(self.is_excused(id, reason, now), "a flow ended by {reason:?} without a cause: {:?}", self.side(id));
    }

    // ---- What happens to applications and hosts -------------------------------------------------------------------

    /// The application of a side, or its daemon, is gone: it sees nothing more.
    pub(crate) fn orphaned(&mut self, id: SideId) {
        let side = self.side_mut(id);
        assert_eq!(side.life, Life::Open, "an application has only flows that are open");
        side.life = Life::Orphaned;
        let key = side.key;
        self.open_keys.remove(&key);
    }

    /// The application of a side has gone mad: it sees nothing more, and what it sends is anything.
    pub(crate) fn vandalized(&mut self, id: SideId) {
        self.vandals.insert(self.side(id).key);
        self.orphaned(id);
    }

    /// Something happened to this host that may end flows.
    pub fn incident(&mut self, kind: IncidentKind, ip: Ipv4Addr, now: Instant) {
        let until = if kind.is_lasting() { Instant::from_nanos(u64::MAX) } else { now };
        self.incidents.push(Incident { ip, from: now, until, kind });
    }

    /// Nothing reached this host from then until then.
    pub(crate) fn outage(&mut self, ip: Ipv4Addr, from: Instant, until: Instant) {
        self.incidents.push(Incident { ip, from, until, kind: IncidentKind::Unreachable });
    }

    /// What was the matter with a host is over.
    pub(crate) fn incident_over(&mut self, kind: IncidentKind, ip: Ipv4Addr, now: Instant) {
        let incidents = self.incidents.iter_mut().filter(|it| it.kind == kind && it.ip == ip);
        incidents.for_each(|incident| incident.until = incident.until.min(now));
    }

    /// Whether something happened that may end this flow so.
    fn is_excused(&self, id: SideId, reason: CloseReason, now: Instant) -> bool {
        let side = self.side(id);
        if self.vandals.contains(&side.key.reversed()) {
            return true;
        }
        let peers = || {
            let peers = self.by_key.get(&side.key.reversed()).into_iter().flatten();
            peers.map(|peer| self.side(*peer))
        };
        let peers_closed = || peers().any(|peer| peer.close_called);
        let was_reset = |peer: &Side| matches!(peer.life, Life::Closed { reason: CloseReason::NoSuchFlow, .. });
        let happened = |kind| self.incidents_of(side).any(|incident| incident.kind == kind);
        let application_died = || happened(IncidentKind::ApplicationDied);
        let daemon_ended = || happened(IncidentKind::DaemonEnded);
        match reason {
            CloseReason::Closed => side.close_called || peers_closed(),
            // A copy of the handshake of a flow that has ended may open it at another shard, which is told then.
            CloseReason::Reset => {
                let is_copy = side.received == 0 && self.by_key[&side.key].iter().any(|earlier| *earlier != id);
                side.abort_called || peers().any(|peer| peer.abort_called) || is_copy
            }
            CloseReason::AppGone => application_died(),
            // The peer has forgotten the flow while this side still waited for the last acknowledgement, or took us for
            // gone a little earlier than we took it, or never had the flow, because its listener ended between our SYN
            // and the first packet. Or the peer was told just that, and a copy of its SYN found the port's next
            // listener here.
            CloseReason::NoSuchFlow => {
                let never_heard = side.received == 0
                    && (happened(IncidentKind::ListenerEnded { port: side.key.remote_port })
                        || happened(IncidentKind::FewFlows)
                        || happened(IncidentKind::Vandalism)
                        || happened(IncidentKind::ClockJumped)
                        || self.longest_outage(side, now) >= FORGIVEN_HALF_OPEN);
                let given_up = self.longest_outage(side, now) >= FORGIVEN;
                let was_told =
                    happened(IncidentKind::ListenerEnded { port: side.key.local_port }) && peers().any(was_reset);
                was_told
                    || never_heard
                    || given_up
                    || side.close_called
                    || peers_closed()
                    || application_died()
                    || daemon_ended()
            }
            CloseReason::PeerRestarted | CloseReason::Shutdown => daemon_ended(),
            CloseReason::PeerGone => daemon_ended() || self.longest_outage(side, now) >= FORGIVEN,
            _ => false,
        }
    }

    /// What happened on either host while this side may have noticed.
    fn incidents_of(&self, side: &Side) -> impl Iterator<Item = &Incident> {
        let (key, noticed_from) = (side.key, side.opened_at.saturating_back(FORGIVEN));
        let concerns = move |it: &&Incident| it.ip == key.local_ip || it.ip == key.remote_ip;
        self.incidents.iter().filter(concerns).filter(move |it| it.until >= noticed_from)
    }

    /// The longest time in which next to nothing passed between the hosts of a flow.
    fn longest_outage(&self, side: &Side, now: Instant) -> Duration {
        let outages = self.incidents_of(side).filter(|it| it.kind == IncidentKind::Unreachable);
        let mut outages: Vec<(Instant, Instant)> = outages.map(|it| (it.from, it.until.min(now))).collect();
        outages.sort_unstable();
        let mut longest = Duration::ZERO;
        let mut current: Option<(Instant, Instant)> = None;
        for (from, until) in outages {
            let (began, ended) = match current {
                Some((began, ended)) if from <= ended + BRIEF => (began, ended.max(until)),
                _ => (from, until),
            };
            longest = longest.max(ended.saturating_since(began));
            current = Some((began, ended));
        }
        longest
    }

    // ---- The account ----------------------------------------------------------------------------------------------

    /// What is known of a side.
    pub fn side(&self, id: SideId) -> &Side {
        &self.sides[usize::try_from(id.0).expect("an index")]
    }

    fn side_mut(&mut self, id: SideId) -> &mut Side {
        &mut self.sides[usize::try_from(id.0).expect("an index")]
    }

    /// The open side with this tuple.
    pub fn open_side(&self, key: &FlowKey) -> Option<SideId> {
        let sides = self.by_key.get(key)?;
        sides.iter().rev().copied().find(|side| self.side(*side).life == Life::Open)
    }

    /// Messages, and their bytes, that arrived.
    pub fn totals(&self) -> (u64, u64) {
        (self.messages, self.bytes)
    }

    /// The reasons by which flows ended.
    pub fn ends(&self) -> impl Iterator<Item = CloseReason> + '_ {
        self.sides.iter().filter_map(|side| match side.life {
            Life::Closed { reason, .. } => Some(reason),
            Life::Open | Life::Orphaned => None,
        })
    }

    /// A side that is open though its other side is not, or never was: its application is still to be told.
    pub fn half_dead(&self) -> Option<&Side> {
        let is_alone = |side: &&Side| side.life == Life::Open && self.open_side(&side.key.reversed()).is_none();
        self.sides.iter().find(is_alone)
    }

    /// Messages that `send` took, and that `recv` gave, of applications of this host.
    pub fn messages_of(&self, ip: Ipv4Addr) -> (u64, u64) {
        let sides = self.sides.iter().filter(|side| side.key.local_ip == ip);
        sides.fold((0, 0), |(sent, received), side| (sent + side.sent.len() as u64, received + side.received as u64))
    }

    /// The most packets of one flow that have not arrived, as far as is known.
    pub fn pending_packets(&self) -> usize {
        let pending = |side: &Side| {
            let arrived = side.to.map_or(0, |to| self.side(to).received);
            let lens = side.sent.get(arrived..).unwrap_or_default().iter();
            lens.map(|len| (*len as usize).div_ceil(side.max_payload)).sum::<usize>()
        };
        self.sides.iter().filter(|side| side.life != Life::Orphaned).map(pending).max().unwrap_or(0)
    }

    /// Whether any application went mad.
    pub(crate) fn had_vandals(&self) -> bool {
        !self.vandals.is_empty()
    }

    /// Sides ever opened.
    pub fn sides(&self) -> impl Iterator<Item = (SideId, &Side)> {
        (0..).map(SideId).zip(&self.sides)
    }

    /// How many of a side's messages have arrived.
    pub fn arrived_of(&self, side: SideId) -> usize {
        self.side(side).to.map_or(0, |to| self.side(to).received)
    }

    /// A stream of which something is owed that has not arrived, and what; `None` when nothing is.
    pub fn missing(&self) -> Option<String> {
        self.sides().find_map(|(id, side)| self.missing_of(id, side))
    }

    fn missing_of(&self, id: SideId, side: &Side) -> Option<String> {
        let receiver = side.to.map(|to| self.side(to));
        let owed = match side.life {
            // Whoever has an open flow has a peer that reads, or will be told.
            Life::Open => side.sent.len(),
            Life::Orphaned => 0,
            Life::Closed { reason, acknowledged } => {
                // A side that closed, or died, threw away what it had not read.
                let is_reading = |to: &Side| to.life != Life::Orphaned && !to.close_called;
                match receiver {
                    Some(to) if !is_reading(to) => 0,
                    None if acknowledged == 0 || self.may_be_unread(side) => 0,
                    _ if reason == CloseReason::Closed && side.close_called => side.sent.len(),
                    _ => usize::try_from(acknowledged).expect("as many as were sent"),
                }
            }
        };
        let arrived = receiver.map_or(0, |to| to.received);
        (arrived < owed).then(|| {
            let ends = match receiver {
                Some(to) => format!("{:?} -> {:?}", side.life, to.life),
                None => format!("{:?} -> nobody", side.life),
            };
            format!("{arrived} of {owed} messages of {id:?} {:?} arrived at {:?} ({ends})", side.key, side.to)
        })
    }

    /// Whether a stream that introduced itself to nobody had a peer that could not read it.
    fn may_be_unread(&self, side: &Side) -> bool {
        let peers = self.by_key.get(&side.key.reversed()).into_iter().flatten();
        let peer_left = peers.map(|peer| self.side(*peer)).any(|peer| peer.life == Life::Orphaned || peer.close_called);
        peer_left || self.incidents.iter().any(|incident| incident.kind != IncidentKind::Unreachable)
    }
}
