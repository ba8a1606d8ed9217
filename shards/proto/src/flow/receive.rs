//! The receiving half of a flow: packets into pieces in order, the window, and SACK.

use alloc::collections::VecDeque;

use super::limits::WINDOW_PACKETS_MAX;
use super::{Need, Piece, Refusal, Verdict, Violation};
use crate::packet::{SACK_PACKETS, Sack};
use crate::seq::SeqNo;
#[cfg(feature = "serde")]
use crate::state::{Unsound, ensure};
use machnet_core::message::{Content, MESSAGE_BYTES_MAX, Position};

/// What a grant means for a peer that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// Nothing worth a packet.
    Small,
    /// Worth an acknowledgement of its own.
    Useful,
    /// The peer was told that the window is shut, and now it is open.
    Reopened,
}

/// See the [module](self).
#[derive(Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Receiver<R> {
    /// The next packet expected: all before it have arrived (RFC 9293's RCV.NXT).
    next: SeqNo,
    /// The first packet that is not granted.
    edge: SeqNo,
    /// The `edge` the peer knows, if all our packets arrive.
    announced: SeqNo,
    /// The furthest `edge` ever announced: the peer may have sent up to it even if the window has shrunk since.
    promised: SeqNo,
    /// The peer was told that the window is shut.
    told_shut: bool,
    /// `held[i]` is the packet `next + 1 + i`: SACK's bit `i`. Empty, or its last entry is there.
    held: VecDeque<Option<Piece<R>>>,
    #[cfg_attr(feature = "serde", serde(skip))]
    held_pieces: u32,
    /// What `held` looks like on the wire; rebuilt when somebody asks and it has changed.
    #[cfg_attr(feature = "serde", serde(skip))]
    sack: Sack,
    #[cfg_attr(feature = "serde", serde(skip))]
    sack_is_stale: bool,
    /// In order, and not yet delivered.
    ready: VecDeque<Piece<R>>,
    /// Bytes of the message that is arriving, if it has begun.
    message_bytes: Option<u32>,
    /// Nobody reads any more: pieces are acknowledged and forgotten.
    discarding: bool,
    /// Packets ever received in order, saturating.
    received_packets: u32,
}

/// How far behind the number of a packet may be that the network has delayed.
const STALE_PACKETS: u32 = 1024;

impl<R> Receiver<R> {
    /// Nothing received, nothing granted; the first packet will be `first`.
    pub(super) fn new(first: SeqNo) -> Self {
        Self {
            next: first,
            edge: first,
            announced: first,
            promised: first,
            told_shut: false,
            held: VecDeque::new(),
            held_pieces: 0,
            sack: Sack::EMPTY,
            sack_is_stale: false,
            ready: VecDeque::new(),
            message_bytes: None,
            discarding: false,
            received_packets: 0,
        }
    }

    /// The next packet expected.
    pub(super) fn next(&self) -> SeqNo {
        self.next
    }

    /// Whether a packet with this number can come from a correct peer.
    pub(super) fn is_plausible(&self, seq: SeqNo) -> bool {
        let oldest = self.next - self.received_packets.min(STALE_PACKETS);
        !seq.is_before(oldest) && !seq.is_after(self.next + SACK_PACKETS)
    }

    /// Whether this is a number that packets on their way may have.
    pub(super) fn is_in_reach(&self, seq: SeqNo) -> bool {
        seq.distance_from(self.next).is_some_and(|ahead| ahead <= SACK_PACKETS)
    }

    /// Whether nobody reads any more.
    #[cfg(feature = "serde")]
    pub(super) fn is_discarding(&self) -> bool {
        self.discarding
    }

    /// Packets granted beyond those in order.
    pub(super) fn granted(&self) -> u16 {
        if self.discarding {
            return WINDOW_PACKETS_MAX;
        }
        self.edge.distance_from(self.next).and_then(|packets| u16::try_from(packets).ok()).unwrap_or(0)
    }

    /// Pieces that wait for earlier ones.
    pub(super) fn held_pieces(&self) -> u32 {
        self.held_pieces
    }

    /// Pieces that are here, in order or not.
    pub(super) fn pieces(&self) -> usize {
        self.ready.len() + self.held_pieces as usize
    }

    /// See [`Flow::grant`](super::Flow::grant).
    pub(super) fn grant(&mut self, buffers: u16) -> Opening {
        let buffers = u32::from(buffers).min(SACK_PACKETS);
        self.edge = self.next + buffers;
        let known = self.announced.distance_from(self.next).unwrap_or(0);
        if buffers <= known {
            Opening::Small
        } else if self.told_shut {
            Opening::Reopened
        } else if known * 2 <= buffers {
            // RFC 9293, section 3.8.6.2.2: an update for less than half of the window would lead to silly ones.
            Opening::Useful
        } else {
            Opening::Small
        }
    }

    /// The window to put into a header; it is announced from now on.
    pub(super) fn announce(&mut self) -> u16 {
        let granted = self.granted();
        self.announced = self.next + u32::from(granted);
        if self.announced.is_after(self.promised) {
            self.promised = self.announced;
        }
        self.told_shut = granted == 0;
        granted
    }

    /// What to report beyond `next`.
    pub(super) fn sack(&mut self) -> Sack {
        if self.sack_is_stale {
            self.sack_is_stale = false;
            self.sack = Sack::EMPTY;
            for (index, _) in (0..).zip(&self.held).filter(|(_, slot)| slot.is_some()) {
                self.sack.set(index);
            }
        }
        self.sack
    }

    /// Takes a piece whose number [`is_plausible`](Self::is_plausible) and whose length is right.
    pub(super) fn on_data(
        &mut self,
        seq: SeqNo,
        content: Content,
        len: u16,
        accept: impl FnOnce(Need) -> Result<R, Refusal>,
    ) -> Verdict {
        let piece = |token| Piece { token, len, content };
        let Some(ahead) = seq.distance_from(self.next) else { return Verdict::Duplicate };
        if self.discarding {
            if ahead == 0 {
                self.expect_next();
            }
            return Verdict::Discarded;
        }
        if ahead == 0 {
            // Asked for even when the window is shut: the piece that fills the hole is what frees all others.
            return match accept(Need::InOrder) {
                Ok(token) => self.take_in_order(piece(token)),
                Err(Refusal::NoBuffer) => {
                    self.edge = self.next;
                    Verdict::NoBuffer
                }
                Err(Refusal::Unsound) => Verdict::Invalid(Violation::Message),
            };
        }
        if !seq.is_before(self.edge) && !seq.is_before(self.promised) {
            return Verdict::OutOfWindow;
        }
        let index = ahead as usize - 1;
        if self.held.get(index).is_some_and(Option::is_some) {
            return Verdict::Duplicate;
        }
        let token = match accept(Need::OutOfOrder { held: self.held_pieces }) {
            Ok(token) => token,
            Err(Refusal::NoBuffer) => return Verdict::NoBuffer,
            Err(Refusal::Unsound) => return Verdict::Invalid(Violation::Message),
        };
        while self.held.len() <= index {
            self.held.push_back(None);
        }
        self.held[index] = Some(piece(token));
        self.held_pieces += 1;
        self.sack_is_stale = true;
        Verdict::Accepted
    }

    /// The peer's CLOSE, which has a number of its own; says whether it is in order. Nothing comes after it: whoever
    /// has sent pieces beyond it breaks the rules.
    pub(super) fn on_close(&mut self, seq: SeqNo) -> Result<bool, Violation> {
        if seq != self.next {
            return Ok(false);
        }
        if self.held_pieces > 0 {
            return Err(Violation::Sequence);
        }
        self.expect_next();
        Ok(true)
    }

    /// The same, of a flow that has ended here: whether it is to be acknowledged, as one that is repeated or that has
    /// crossed ours. All other packets of such a flow change nothing.
    pub(super) fn on_close_after_end(&mut self, seq: SeqNo) -> bool {
        let has_crossed = self.discarding && seq == self.next;
        if has_crossed {
            self.expect_next();
        }
        has_crossed || seq.is_before(self.next)
    }

    /// The packet `next` has arrived, and with it those that waited for it.
    fn take_in_order(&mut self, piece: Piece<R>) -> Verdict {
        let mut piece = Some(piece);
        while let Some(arrived) = piece {
            if let Err(violation) = self.check_message(arrived.content, arrived.len) {
                // Never delivered; kept where `drain` finds it.
                self.held.push_front(Some(arrived));
                self.held_pieces += 1;
                return Verdict::Invalid(violation);
            }
            self.ready.push_back(arrived);
            piece = self.advance();
        }
        Verdict::Accepted
    }

    /// The packet `next` has come, and no piece waits for it.
    fn expect_next(&mut self) {
        self.next += 1;
        self.received_packets = self.received_packets.saturating_add(1);
        if self.edge.is_before(self.next) {
            self.edge = self.next;
        }
    }

    /// Expects one packet more; gives that packet if it waits here already.
    #[must_use]
    fn advance(&mut self) -> Option<Piece<R>> {
        self.expect_next();
        if self.held.is_empty() {
            return None;
        }
        self.sack_is_stale = true;
        let piece = self.held.pop_front().flatten();
        self.held_pieces -= u32::from(piece.is_some());
        piece
    }

    /// Pieces must form messages: first, more, last, and no more than [`MESSAGE_BYTES_MAX`] together.
    fn check_message(&mut self, content: Content, len: u16) -> Result<(), Violation> {
        let position = position(content);
        if position.first != self.message_bytes.is_none() {
            return Err(Violation::Message);
        }
        let bytes = self.message_bytes.unwrap_or(0) + u32::from(len);
        if bytes as usize > MESSAGE_BYTES_MAX {
            return Err(Violation::Message);
        }
        self.message_bytes = (!position.last).then_some(bytes);
        Ok(())
    }

    /// The next piece in order.
    #[must_use]
    pub(super) fn poll_deliver(&mut self) -> Option<Piece<R>> {
        if self.discarding { None } else { self.ready.pop_front() }
    }

    /// Drops the piece that is furthest ahead.
    #[must_use]
    pub(super) fn renege(&mut self) -> Option<R> {
        let piece = self.held.pop_back().flatten()?;
        while self.held.back().is_some_and(Option::is_none) {
            self.held.pop_back();
        }
        self.held_pieces -= 1;
        self.sack_is_stale = true;
        Some(piece.token)
    }

    /// Gives back memory that holds nothing.
    pub(super) fn rest(&mut self) {
        self.held.shrink_to_fit();
        self.ready.shrink_to_fit();
    }

    /// From now on nothing is delivered, and what arrives is only acknowledged.
    pub(super) fn discard(&mut self) {
        self.discarding = true;
        // What waits behind a hole leaves the sequence: the peer sends it again, and it is discarded then.
        // Nothing is held from now on.
        self.ready.extend(self.held.drain(..).flatten());
        self.held_pieces = 0;
        self.sack_is_stale = true;
    }

    /// Every token, in order or not.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = R> + '_ {
        self.held_pieces = 0;
        self.sack_is_stale = true;
        self.ready.drain(..).chain(self.held.drain(..).flatten()).map(|piece| piece.token)
    }
}

/// Where this stands in its message.
const fn position(content: Content) -> Position {
    match content {
        Content::Piece(position) => position,
        Content::Records(_) => Position::WHOLE,
    }
}

#[cfg(feature = "serde")]
impl<R> Receiver<R> {
    /// What was read, if it can be, with the tokens that it stands for.
    pub(super) fn restore<T>(
        self,
        max_payload: u16,
        mut claim: impl FnMut(R) -> Result<T, Unsound>,
    ) -> Result<Receiver<T>, Unsound> {
        self.check()?;
        let mut claim = |piece: Piece<R>| piece.restore(max_payload, &mut claim);
        let ready = self.ready.into_iter().map(&mut claim).collect::<Result<_, _>>()?;
        let held: VecDeque<_> =
            self.held.into_iter().map(|slot| slot.map(&mut claim).transpose()).collect::<Result<_, _>>()?;
        Ok(Receiver {
            next: self.next,
            edge: self.edge,
            announced: self.announced,
            promised: self.promised,
            told_shut: self.told_shut,
            held_pieces: held.iter().map(|slot| u32::from(slot.is_some())).sum(),
            held,
            sack: Sack::EMPTY,
            sack_is_stale: true,
            ready,
            message_bytes: self.message_bytes,
            discarding: self.discarding,
            received_packets: self.received_packets,
        })
    }

    fn check(&self) -> Result<(), Unsound> {
        // The peer is told with every packet that goes out; one that sends on without hearing any fills our buffers.
        const UNTOLD_PACKETS_MAX: u32 = 1 << 20;
        let is_told = |edge: SeqNo| edge.is_near(self.next, UNTOLD_PACKETS_MAX, SACK_PACKETS);
        let is_window =
            self.edge.is_near(self.next, 0, SACK_PACKETS) && is_told(self.announced) && is_told(self.promised);
        ensure(is_window, "the window reaches farther than it can, or lies behind what has arrived")?;
        let is_ending = self.held.back().is_none_or(Option::is_some);
        // One more if what was in order turned out to break the rules.
        ensure(
            is_ending && self.held.len() <= SACK_PACKETS as usize + 1,
            "packets wait beyond those that may be sent",
        )?;
        let in_message = self.message_bytes;
        ensure(in_message.is_none_or(|bytes| bytes as usize <= MESSAGE_BYTES_MAX), "a message is too long")?;
        let end = |piece: &Piece<R>| position(piece.content).last;
        let pairs = self.ready.iter().zip(self.ready.iter().skip(1));
        let are_messages = pairs.into_iter().all(|(one, next)| end(one) == position(next.content).first)
            && self.ready.back().is_none_or(|last| end(last) == in_message.is_none());
        ensure(are_messages || self.discarding, "pieces that wait to be delivered are no messages")
    }
}

#[cfg(test)]
impl<R> Receiver<R> {
    pub(super) fn memory_slots(&self) -> usize {
        self.held.capacity() + self.ready.capacity()
    }
}
