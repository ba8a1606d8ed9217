//! How the flows of a channel share its receive buffers.

use machnet_core::flow::FlowId;
use machnet_core::time::{Duration, Instant};
use machnet_proto::flow::Need;

/// How long data of a flow counts it among those that share the receive buffers.
const EPOCH: Duration = Duration::from_millis(5);

/// The most buffers granted to one flow: what a window can say.
const GRANT_MAX: usize = machnet_proto::packet::SACK_PACKETS as usize;

/// Ended flows that may stand in the list of starved ones before it is tidied up.
const STARVED_SPARE: usize = 64;

/// Who receives, and who waits for buffers.
pub(super) struct ReceiveShare {
    /// Receive buffers of the channel.
    buffers: usize,
    /// Of those, the ones for pieces in order: those go to the application at once and come back when it reads, so
    /// flows that wait for a hole cannot lock the pool.
    kept_back: usize,
    epoch: Epoch,
    /// Flows whose receive window is closed for want of buffers; each stands here once.
    starved: Vec<FlowId>,
}

/// Counts the flows that received data lately.
#[derive(Clone, Copy, Debug, Default)]
struct Epoch {
    number: u32,
    since: Instant,
    receiving_now: usize,
    receiving_before: usize,
}

impl ReceiveShare {
    pub(super) fn new(buffers: usize, kept_back: usize, now: Instant) -> Self {
        let epoch = Epoch { since: now, ..Epoch::default() };
        Self { buffers, kept_back, epoch, starved: Vec::new() }
    }

    /// Data of a flow arrived; `seen` is the flow's own memory of the epoch it was last counted in.
    #[inline]
    pub(super) fn count(&mut self, seen: &mut u32, now: Instant) {
        if now.saturating_since(self.epoch.since) >= EPOCH {
            let missed = now.saturating_since(self.epoch.since) >= 2 * EPOCH;
            self.epoch = Epoch {
                number: self.epoch.number.wrapping_add(1),
                since: now,
                receiving_now: 0,
                receiving_before: if missed { 0 } else { self.epoch.receiving_now },
            };
        }
        if *seen != self.epoch.number {
            *seen = self.epoch.number;
            self.epoch.receiving_now += 1;
        }
    }

    /// How many of so many `free` buffers one of so many `flows` may count on: an equal share of half of them among
    /// those that receive, or of all of them among all flows if that is more. The shares overlap by half at most; a
    /// piece that finds no buffer is dropped, counted and sent again.
    ///
    /// One of those kept back for pieces in order is for a flow that `has_hole`: its peer must be allowed to send the
    /// piece that fills the hole, or flows that wait for such pieces could hold all others for ever.
    pub(super) fn grant(&self, free: usize, flows: usize, has_hole: bool) -> u16 {
        let beyond = free.saturating_sub(self.kept_back);
        if beyond == 0 {
            return u16::from(has_hole && free > 0);
        }
        let receiving = self.epoch.receiving_now.max(self.epoch.receiving_before).max(1);
        let share = (beyond / flows.max(1)).max(beyond / (2 * receiving)).clamp(1, GRANT_MAX);
        u16::try_from(share).expect("a window fits")
    }

    /// Buffers that this need must leave alone.
    #[inline]
    pub(super) fn reserve(&self, need: Need) -> usize {
        match need {
            Need::InOrder => 0,
            Need::OutOfOrder => self.kept_back,
        }
    }

    /// Whether flows with a closed window may be told that there is room again.
    pub(super) fn has_room_again(&self, free: usize) -> bool {
        free >= self.buffers / 4
    }

    /// A flow's window is closed for want of buffers.
    pub(super) fn starve(&mut self, flow: FlowId) {
        self.starved.push(flow);
    }

    /// Whether flows wait for buffers.
    pub(super) fn is_starving(&self) -> bool {
        !self.starved.is_empty()
    }

    /// The flows that wait for buffers, which they do no more.
    pub(super) fn drain_starved(&mut self) -> std::vec::Drain<'_, FlowId> {
        self.starved.drain(..)
    }

    /// One of now so many `flows` has ended: forgets such ones, now and then.
    pub(super) fn tidy(&mut self, flows: usize, lives: impl Fn(FlowId) -> bool) {
        if self.starved.len() > 2 * flows + STARVED_SPARE {
            self.starved.retain(|flow| lives(*flow));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn the_last_buffers_are_for_the_piece_that_fills_a_hole() {
        let share = ReceiveShare::new(16, 2, ms(0));
        assert_eq!((share.grant(2, 1, false), share.grant(2, 1, true)), (0, 1));
        assert_eq!((share.grant(0, 1, false), share.grant(0, 1, true)), (0, 0), "nobody can take anything");
        assert_eq!((share.reserve(Need::InOrder), share.reserve(Need::OutOfOrder)), (0, 2));
    }

    #[test]
    fn those_that_receive_share_half_and_the_others_have_an_equal_part() {
        let mut share = ReceiveShare::new(2_000, 0, ms(0));
        let mut seen = [u32::MAX; 4];
        seen.iter_mut().for_each(|seen| share.count(seen, ms(1)));
        seen.iter_mut().for_each(|seen| share.count(seen, ms(2)));
        assert_eq!(share.grant(800, 1_000, false), 100, "four receive");
        assert_eq!(share.grant(800, 4, false), 192, "an equal part of all is more, and what a window can say");
        share.count(&mut seen[0], ms(6));
        assert_eq!(share.grant(800, 1_000, false), 100, "those of the epoch before count");
        share.count(&mut seen[0], ms(30));
        assert_eq!(share.grant(800, 1_000, false), 192, "one receives");
    }
}
