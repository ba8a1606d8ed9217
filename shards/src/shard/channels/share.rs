//! How the flows of a channel share its receive buffers.

use std::collections::VecDeque;

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
    /// Flows whose receive window is closed for want of buffers, in the order in which they are woken; each stands here
    /// once.
    starved: VecDeque<FlowId>,
    /// Until then nobody is looked for who has more than its part: nobody had.
    content_until: Instant,
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
        Self { buffers, kept_back, epoch, starved: VecDeque::new(), content_until: now }
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

    /// Buffers that this need of one of so many `flows` must leave alone. The last quarter before those kept back is
    /// for flows that have no more than their part.
    #[inline]
    pub(super) fn reserve(&self, need: Need, flows: usize) -> usize {
        match need {
            Need::InOrder => 0,
            Need::OutOfOrder { held } if (held as usize) < self.part(flows) => self.kept_back,
            Need::OutOfOrder { .. } => self.kept_back + self.buffers / 4,
        }
    }

    /// How many pieces that wait for earlier ones each of so many `flows` may have while others starve: as long as
    /// none has more there is something for everybody.
    pub(super) fn part(&self, flows: usize) -> usize {
        ((self.buffers - self.kept_back) / flows.max(1)).max(1)
    }

    /// Whether there are enough buffers for nobody to look out for more.
    pub(super) fn has_plenty(&self, free: usize) -> bool {
        free >= self.buffers / 4
    }

    /// A flow's window is closed for want of buffers.
    pub(super) fn starve(&mut self, flow: FlowId) {
        self.starved.push_back(flow);
    }

    /// Whether flows wait for buffers, or there is less than one for each of so many `flows`.
    #[inline]
    pub(super) fn is_short(&self, free: usize, flows: usize) -> bool {
        free < self.kept_back + flows || self.is_starving()
    }

    /// Whether some flow must give up what it has beyond its part, if one of now so many `flows` has that: there is not
    /// one buffer for each, and more lies in pieces that wait for earlier ones than one flow may have.
    pub(super) fn is_time_to_renege(&self, (free, with_app): (usize, usize), flows: usize, now: Instant) -> bool {
        let held = self.buffers.saturating_sub(free + with_app);
        free < self.kept_back + flows && held > self.part(flows) && self.content_until <= now
    }

    /// No flow had more than its part: not to be looked for again so soon, every flow is looked at for that.
    pub(super) fn nobody_reneges(&mut self, now: Instant) {
        self.content_until = now + EPOCH;
    }

    /// How many of the flows with a closed window may be told that there is room again: one for each free buffer. While
    /// the application has so many that it can give back a quarter of all, they wait for that, so that windows do not
    /// open by single packets (RFC 9293, section 3.8.6.2.2).
    fn to_wake(&self, (free, with_app): (usize, usize)) -> usize {
        let is_time = self.has_plenty(free) || with_app < self.buffers / 4;
        if is_time { free.saturating_sub(self.kept_back).min(self.starved.len()) } else { 0 }
    }

    /// Whether flows wait for buffers.
    pub(super) fn is_starving(&self) -> bool {
        !self.starved.is_empty()
    }

    /// The flows that have waited longest and for which there is room now: they wait no more.
    pub(super) fn wake(&mut self, buffers: (usize, usize)) -> impl Iterator<Item = FlowId> + '_ {
        let woken = self.to_wake(buffers);
        self.starved.drain(..woken)
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
        assert_eq!((share.reserve(Need::InOrder, 1), share.reserve(Need::OutOfOrder { held: 0 }, 1)), (0, 2));
    }

    #[test]
    fn the_last_quarter_is_for_flows_that_have_no_more_than_their_part() {
        let share = ReceiveShare::new(64, 8, ms(0));
        let reserve = |held, flows| share.reserve(Need::OutOfOrder { held }, flows);
        assert_eq!((share.part(1), share.part(7), share.part(100)), (56, 8, 1));
        assert_eq!((reserve(55, 1), reserve(7, 7), reserve(0, 100)), (8, 8, 8));
        assert_eq!((reserve(56, 1), reserve(8, 7), reserve(1, 100)), (24, 24, 24));
    }

    #[test]
    fn one_starved_flow_is_woken_for_each_buffer_in_turn() {
        let mut share = ReceiveShare::new(64, 8, ms(0));
        (0..5).for_each(|flow| share.starve(FlowId(flow)));
        let mut woken = |free, with_app| share.wake((free, with_app)).map(|flow| flow.0).collect::<Vec<_>>();
        assert_eq!(woken(8, 0), [0; 0], "these are kept back");
        assert_eq!(woken(10, 16), [0; 0], "the application can give back a quarter");
        assert_eq!(woken(10, 15), [0, 1]);
        assert_eq!(woken(16, 48), [2, 3, 4]);
        assert!(!share.is_starving());
    }

    #[test]
    fn whoever_has_more_is_looked_for_while_others_starve_and_not_again_and_again() {
        let mut share = ReceiveShare::new(64, 8, ms(0));
        assert!(share.is_time_to_renege((14, 0), 7, ms(0)));
        assert!(!share.is_time_to_renege((15, 0), 7, ms(0)), "there is one for each");
        assert!(!share.is_time_to_renege((8, 48), 7, ms(0)), "the application has the others");
        share.nobody_reneges(ms(0));
        assert!(!share.is_time_to_renege((8, 0), 7, ms(4)) && share.is_time_to_renege((8, 0), 7, ms(5)));
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
