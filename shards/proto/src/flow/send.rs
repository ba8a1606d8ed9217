//! The sending half of a flow: pieces from their first transmission to their acknowledgement.

use alloc::collections::VecDeque;

use super::Piece;
#[cfg(feature = "serde")]
use super::limits::WINDOW_PACKETS_MAX;
use super::path::{Arrived, LEAST_PAYLOAD_BYTES};
use super::recovery::{Found, Rack};
use super::rtt::Rtt;
use super::timestamps::stamp;
use crate::packet::Segment;
use crate::seq::SeqNo;
#[cfg(feature = "serde")]
use crate::state::{Unsound, ensure, ensure_past};
use machnet_core::time::{Duration, Instant};

/// What is known of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) enum Fate {
    /// In the network, as far as is known.
    InFlight,
    /// Lost, and not yet sent again.
    Lost,
    /// Reported by SACK. The peer may still drop it (RFC 2018, section 8), so the token stays.
    Arrived,
}

/// A packet sent and not yet acknowledged.
#[derive(Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Sent<S> {
    pub(super) piece: Piece<S>,
    /// When it was sent last.
    pub(super) at: Instant,
    pub(super) fate: Fate,
    /// How often it was sent again, saturating.
    pub(super) repeats: u8,
}

impl<S> Sent<S> {
    #[inline]
    pub(super) fn was_repeated(&self) -> bool {
        self.repeats > 0
    }

    #[inline]
    fn arrival(&self, was_spurious: bool) -> Arrival {
        Arrival { payload_bytes: self.piece.len, sent_at: self.at, was_repeated: self.was_repeated(), was_spurious }
    }
}

/// What an acknowledgement has brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Acked {
    /// Packets acknowledged for good.
    pub(super) cumulative: u32,
    /// Packets that were not known to have arrived before.
    pub(super) arrived: u32,
    /// The longest of those, and of several the one sent last, if not every path carries it.
    pub(super) longest: Option<Arrived>,
    /// Those that had only been late when they were sent again.
    pub(super) spurious: u32,
}

impl Acked {
    #[inline]
    fn add_arrival(&mut self, arrival: Arrival) {
        self.arrived += 1;
        self.spurious += u32::from(arrival.was_spurious);
        let Arrival { payload_bytes, sent_at, .. } = arrival;
        if payload_bytes > LEAST_PAYLOAD_BYTES
            && self.longest.is_none_or(|longest| (longest.payload_bytes, longest.sent_at) < (payload_bytes, sent_at))
        {
            self.longest = Some(Arrived { payload_bytes, sent_at });
        }
    }
}

/// A packet that was not known to have arrived before.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    payload_bytes: u16,
    sent_at: Instant,
    was_repeated: bool,
    was_spurious: bool,
}

/// See the [module](self).
#[derive(Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Sender<S> {
    /// `ring[i]` is the packet `una + i`. At most the flow's window of them; allocated on first use.
    ring: VecDeque<Sent<S>>,
    /// The first packet that is not acknowledged (RFC 9293's SND.UNA).
    una: SeqNo,
    /// The first packet the peer has not granted.
    edge: SeqNo,
    /// How many in `ring` are [`Fate::Arrived`], [`Fate::Lost`] and retransmitted: what makes the loss-free case
    /// free of scans.
    #[cfg_attr(feature = "serde", serde(skip))]
    arrived: u32,
    #[cfg_attr(feature = "serde", serde(skip))]
    lost: u32,
    #[cfg_attr(feature = "serde", serde(skip))]
    retransmitted: u32,
    /// Packets ever acknowledged, saturating.
    acknowledged_packets: u32,
    acknowledged_messages: u64,
    /// Tokens the caller has not taken back yet.
    freed: VecDeque<S>,
    rack: Rack,
    /// When the last packet was sent, of those acknowledged without timestamps, that was sent only once.
    sent_once_at: Option<Instant>,
}

/// How far behind an acknowledgement may be and still belong to a packet the network delayed (RFC 5961, section 5.2).
const STALE_PACKETS: u32 = 1024;

impl<S> Sender<S> {
    /// Nothing sent; the first packet will be `first`.
    pub(super) fn new(first: SeqNo, window_packets: u16) -> Self {
        Self {
            ring: VecDeque::new(),
            una: first,
            edge: first + u32::from(window_packets),
            arrived: 0,
            lost: 0,
            retransmitted: 0,
            acknowledged_packets: 0,
            acknowledged_messages: 0,
            freed: VecDeque::new(),
            rack: Rack::default(),
            sent_once_at: None,
        }
    }

    /// The number of the next packet to be sent first time.
    pub(super) fn next(&self) -> SeqNo {
        self.una + self.outstanding()
    }

    /// The first packet that is not acknowledged.
    pub(super) fn una(&self) -> SeqNo {
        self.una
    }

    /// Packets sent and not acknowledged.
    #[allow(clippy::cast_possible_truncation)] // bounded by the window
    pub(super) fn outstanding(&self) -> u32 {
        self.ring.len() as u32
    }

    /// Packets that are in the network, as far as is known (RFC 6675's pipe).
    pub(super) fn in_flight(&self) -> u32 {
        self.outstanding() - self.arrived - self.lost
    }

    pub(super) fn acknowledged_messages(&self) -> u64 {
        self.acknowledged_messages
    }

    /// Whether an acknowledgement with this number can come from a correct peer. `extra`: numbers used beyond
    /// [`next`](Self::next).
    pub(super) fn is_plausible(&self, ack: SeqNo, extra: u32) -> bool {
        let oldest = self.una - self.acknowledged_packets.min(STALE_PACKETS);
        !ack.is_before(oldest) && !ack.is_after(self.next() + extra)
    }

    /// Whether the peer has granted the next new packet.
    pub(super) fn is_granted(&self) -> bool {
        self.next().is_before(self.edge)
    }

    /// Whether the peer takes nothing at all: not even the first packet that is not acknowledged.
    pub(super) fn is_shut(&self) -> bool {
        !self.una.is_before(self.edge)
    }

    /// The window in the latest segment. It may move back: the peer's buffers are shared.
    pub(super) fn on_window(&mut self, segment: &Segment) {
        self.edge = segment.ack + u32::from(segment.window_packets);
    }

    /// Takes the acknowledgement in `segment`, which [`is_plausible`](Self::is_plausible). `echo` is the proof it
    /// carries.
    pub(super) fn on_ack(&mut self, now: Instant, segment: &Segment, echo: Option<Instant>, rtt: &Rtt) -> Acked {
        let mut acked = Acked::default();
        let Some(ahead) = segment.ack.distance_from(self.una) else { return acked };
        let has_times = segment.times.ts.is_some();
        acked.cumulative = ahead.min(self.outstanding());
        for _ in 0..acked.cumulative {
            if let Some(arrival) = self.settle_first(now, echo, rtt) {
                acked.add_arrival(arrival);
                if !has_times {
                    self.sent_once(arrival);
                }
            }
        }
        if !segment.sack.is_empty() {
            for index in segment.sack.iter() {
                if let Some(arrival) = self.mark_arrived(index as usize + 1, now, echo, rtt) {
                    acked.add_arrival(arrival);
                    if !has_times {
                        self.sent_once(arrival);
                    }
                }
            }
        }
        if self.ring.front().is_some_and(|first| first.fate == Fate::Arrived) {
            // The peer had it and expects it again: it has dropped what it held.
            self.on_reneging();
        }
        self.rack.on_echo(now, echo, self.una);
        acked
    }

    /// A packet has arrived, as an acknowledgement says that has no timestamps.
    #[cold]
    fn sent_once(&mut self, arrival: Arrival) {
        if !arrival.was_repeated {
            self.sent_once_at = self.sent_once_at.max(Some(arrival.sent_at));
        }
    }

    /// When a packet was sent whose acknowledgement measures a round trip although it has no timestamps: what was sent
    /// again does not (Karn's rule; RFC 6298, section 3).
    pub(super) fn take_sent_once(&mut self) -> Option<Instant> {
        self.sent_once_at.take()
    }

    /// The first packet is acknowledged; gives it if that is news.
    fn settle_first(&mut self, now: Instant, echo: Option<Instant>, rtt: &Rtt) -> Option<Arrival> {
        let sent = self.ring.pop_front()?;
        let seq = self.una;
        self.una += 1;
        self.acknowledged_packets = self.acknowledged_packets.saturating_add(1);
        self.acknowledged_messages += u64::from(sent.piece.content.messages());
        self.retransmitted -= u32::from(sent.was_repeated());
        match sent.fate {
            Fate::Arrived => self.arrived -= 1,
            Fate::Lost => self.lost -= 1,
            Fate::InFlight => {}
        }
        let news = sent.fate != Fate::Arrived;
        let was_spurious = news && self.rack.on_arrival(now, &sent, seq, echo, rtt);
        let arrival = sent.arrival(was_spurious);
        self.freed.push_back(sent.piece.token);
        news.then_some(arrival)
    }

    /// SACK reports the packet `una + index`; gives it if that is news.
    fn mark_arrived(&mut self, index: usize, now: Instant, echo: Option<Instant>, rtt: &Rtt) -> Option<Arrival> {
        let sent = self.ring.get_mut(index)?;
        match sent.fate {
            Fate::Arrived => return None,
            Fate::Lost => self.lost -= 1,
            Fate::InFlight => {}
        }
        sent.fate = Fate::Arrived;
        self.arrived += 1;
        #[allow(clippy::cast_possible_truncation)] // an index of the SACK field
        let seq = self.una + index as u32;
        let was_spurious = self.rack.on_arrival(now, sent, seq, echo, rtt);
        Some(sent.arrival(was_spurious))
    }

    fn on_reneging(&mut self) {
        for sent in &mut self.ring {
            if sent.fate == Fate::Arrived {
                sent.fate = Fate::Lost;
            }
        }
        self.lost += self.arrived;
        self.arrived = 0;
        self.rack.forget_order();
    }

    /// Nothing was heard for a whole timeout: whatever is not acknowledged counts as lost, what SACK has reported
    /// included (RFC 2018, section 8). The answer to the next packet reports again what has arrived.
    pub(super) fn on_timeout(&mut self) {
        for sent in &mut self.ring {
            sent.fate = Fate::Lost;
        }
        self.lost = self.outstanding();
        self.arrived = 0;
        self.rack.forget_order();
        self.rack.enter_recovery(self.next());
    }

    /// The timeout was a mistake: what has not been sent again may still be on its way.
    pub(super) fn on_timeout_undone(&mut self) {
        for sent in &mut self.ring {
            if sent.fate == Fate::Lost {
                sent.fate = Fate::InFlight;
            }
        }
        self.lost = 0;
        self.rack.leave_recovery();
    }

    /// Whether something is under way, and nothing speaks for a hole in it: what is lost can only be its end.
    pub(super) fn is_tail_all(&self) -> bool {
        self.arrived == 0 && self.lost == 0 && !self.rack.is_recovering() && self.outstanding() > 0
    }

    /// Marks what is lost by now.
    #[inline]
    pub(super) fn find_lost(&mut self, now: Instant, rtt: &Rtt, smoothed: Duration) -> Found {
        // Without retransmissions the ring is in the order of sending.
        let in_order = self.retransmitted == 0;
        if !self.rack.suspects(&self.ring, self.una, in_order) {
            return Found::default();
        }
        let patience = self.rack.patience(self.arrived, rtt, smoothed);
        let found = self.rack.find_lost(&mut self.ring, self.una, in_order, now, patience);
        self.lost += found.lost;
        if found.lost > 0 {
            self.rack.enter_recovery(self.next());
        }
        found
    }

    /// The first lost packet the peer would take.
    pub(super) fn next_lost(&self) -> Option<usize> {
        if self.lost == 0 {
            return None;
        }
        let index = self.ring.iter().position(|sent| sent.fate == Fate::Lost)?;
        self.is_index_granted(index).then_some(index)
    }

    /// The last packet not known to have arrived: what a tail loss probe sends again.
    pub(super) fn last_unknown(&self) -> Option<usize> {
        let index = self.ring.iter().rposition(|sent| sent.fate != Fate::Arrived)?;
        self.is_index_granted(index).then_some(index)
    }

    #[allow(clippy::cast_possible_truncation)] // an index of the ring
    fn is_index_granted(&self, index: usize) -> bool {
        (self.una + index as u32).is_before(self.edge)
    }

    /// The packet at `index` is sent once more; gives when it was sent before, and how often again.
    pub(super) fn retransmit(&mut self, index: usize, now: Instant) -> (Instant, u8) {
        let sent = &mut self.ring[index];
        debug_assert!(sent.fate != Fate::Arrived);
        self.lost -= u32::from(sent.fate == Fate::Lost);
        self.retransmitted += u32::from(!sent.was_repeated());
        let before = (sent.at, sent.repeats);
        sent.fate = Fate::InFlight;
        sent.repeats = sent.repeats.saturating_add(1);
        sent.at = stamp(now);
        before
    }

    /// The path is another one: what was lost on it before speaks no longer against it.
    pub(super) fn forgive_losses(&mut self) {
        for sent in &mut self.ring {
            sent.repeats = sent.repeats.min(1);
        }
    }

    /// A new packet is sent; gives its index.
    pub(super) fn push(&mut self, piece: Piece<S>, now: Instant) -> usize {
        self.ring.push_back(Sent { piece, at: stamp(now), fate: Fate::InFlight, repeats: 0 });
        self.ring.len() - 1
    }

    /// The number of the packet at `index`.
    #[allow(clippy::cast_possible_truncation)] // an index of the ring
    pub(super) fn seq(&self, index: usize) -> SeqNo {
        self.una + index as u32
    }

    pub(super) fn piece(&self, index: usize) -> &Piece<S> {
        &self.ring[index].piece
    }

    pub(super) fn poll_freed(&mut self) -> Option<S> {
        self.freed.pop_front()
    }

    /// Gives back memory that holds nothing.
    pub(super) fn rest(&mut self) {
        self.ring.shrink_to_fit();
        self.freed.shrink_to_fit();
    }

    /// Every token, acknowledged or not.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = S> + '_ {
        (self.arrived, self.lost, self.retransmitted) = (0, 0, 0);
        self.freed.drain(..).chain(self.ring.drain(..).map(|sent| sent.piece.token))
    }
}

#[cfg(feature = "serde")]
impl<S> Sender<S> {
    /// What was read, if it can be, with the tokens that it stands for.
    pub(super) fn restore<T>(
        self,
        now: Instant,
        max_payload: u16,
        mut claim: impl FnMut(S) -> Result<T, Unsound>,
    ) -> Result<Sender<T>, Unsound> {
        let reaches =
            self.edge.is_near(self.una, STALE_PACKETS + u32::from(WINDOW_PACKETS_MAX), u32::from(u16::MAX) + 1);
        ensure(reaches, "the peer grants packets that are far from all that were sent")?;
        let has_gap = self.ring.front().is_none_or(|first| first.fate != Fate::Arrived);
        ensure(has_gap, "the first packet that is not acknowledged has arrived")?;
        self.rack.check(now, self.una)?;
        ensure_past(now, &[self.sent_once_at])?;
        let ring: VecDeque<_> =
            self.ring.into_iter().map(|sent| sent.restore(now, max_payload, &mut claim)).collect::<Result<_, _>>()?;
        let count = |is: fn(&Sent<T>) -> bool| ring.iter().map(|sent| u32::from(is(sent))).sum();
        Ok(Sender {
            una: self.una,
            edge: self.edge,
            arrived: count(|sent| sent.fate == Fate::Arrived),
            lost: count(|sent| sent.fate == Fate::Lost),
            retransmitted: count(Sent::was_repeated),
            ring,
            acknowledged_packets: self.acknowledged_packets,
            acknowledged_messages: self.acknowledged_messages,
            freed: self.freed.into_iter().map(claim).collect::<Result<_, _>>()?,
            rack: self.rack,
            sent_once_at: self.sent_once_at,
        })
    }
}

#[cfg(feature = "serde")]
impl<S> Sent<S> {
    fn restore<T>(
        self,
        now: Instant,
        max_payload: u16,
        claim: &mut impl FnMut(S) -> Result<T, Unsound>,
    ) -> Result<Sent<T>, Unsound> {
        let Self { piece, at, fate, repeats } = self;
        ensure_past(now, &[Some(at)])?;
        Ok(Sent { piece: piece.restore(max_payload, claim)?, at, fate, repeats })
    }
}

#[cfg(test)]
impl<S> Sender<S> {
    pub(super) fn memory_slots(&self) -> usize {
        self.ring.capacity() + self.freed.capacity()
    }

    pub(super) fn check_invariants(&self) {
        let count = |is: fn(&Sent<S>) -> bool| self.ring.iter().filter(|sent| is(sent)).count();
        assert_eq!(self.arrived as usize, count(|sent| sent.fate == Fate::Arrived));
        assert_eq!(self.lost as usize, count(|sent| sent.fate == Fate::Lost));
        assert_eq!(self.retransmitted as usize, count(Sent::was_repeated));
        assert!(self.ring.front().is_none_or(|first| first.fate != Fate::Arrived));
    }
}
