//! How the flows of a channel share its transmit buffers.
//!
//! A buffer that a flow has taken comes back when the peer has acknowledged what was in it. A flow whose peer does not
//! read, or has died, would keep all of them. So
//!
//! * each flow has a **guaranteed part**, which nobody else gets: the first flows of a channel a larger one than those
//!   that come when there are many;
//! * of the buffers that are in nobody's part a flow may hold as many as it leaves free, and three times as many if it
//!   is the only one: the dynamic threshold of Choudhury and Hahne ("Dynamic Queue Length Thresholds for Shared-Memory
//!   Packet Switches", 1998). One that stands still keeps half of them, the next one half of the rest; those that move
//!   share what is left, since what they hold comes back. The application can set a lower limit.
//!
//! A channel with fewer buffers than [`FIRST_FLOWS`] is not divided.
//!
//! A flow that holds nothing may go beyond that for one message, so that a message of any length can be sent. While
//! such a message waits, what comes back is kept for it.
//!
//! A flow that sends message after message is lent some buffers at a time, as long as it may take all of them. They
//! count as held, so nothing is reckoned for each; what it has not taken it gives back when somebody else asks.

/// One of so many buffers is in somebody's guaranteed part. The longest message fits into the others.
pub(super) const GUARANTEED_OF: usize = 8;

/// So many flows share half of what is guaranteed, twice as many half of the rest, and so on.
const FIRST_FLOWS: usize = 64;

/// Buffers that are lent to a flow whose messages follow each other.
const LOAN_BUFFERS: usize = 64;

/// A flow among those that share: where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u32);

/// Where nobody stands.
const NOWHERE: Place = Place(u32::MAX);

/// What is full when there is no room for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Full {
    /// The flow: it holds all that it may. Other flows of the endpoint have room.
    Flow,
    /// The endpoint: other flows hold what this message needs.
    Endpoint,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct TxShares {
    /// Buffers that nobody has, the most recently used last.
    free: Vec<u32>,
    /// By buffer: who has taken it.
    owners: Box<[Owner]>,
    loan: Loan,
    returned: Returned,
    usages: Vec<Usage>,
    /// Places that nobody has.
    vacant: Vec<Place>,
    guaranteed: Guaranteed,
    /// Flows that share.
    open: usize,
    /// Buffers that are in nobody's part and that no flow holds.
    left: usize,
    claim: Option<Claim>,
}

#[derive(Clone, Copy, Debug)]
struct Owner {
    place: Place,
    bytes: u32,
}

/// Nobody has this buffer.
const NOBODY: Owner = Owner { place: NOWHERE, bytes: 0 };

/// What a flow may take without asking again.
#[derive(Clone, Copy, Debug)]
struct Loan {
    /// Who asked last.
    place: Place,
    /// Buffers that count as held and have not been taken.
    buffers: usize,
    /// Bytes of messages in those that have been, and which do not count yet.
    bytes: u64,
}

/// Buffers of one flow that have come back and still count as held.
#[derive(Clone, Copy, Debug)]
struct Returned {
    place: Place,
    buffers: usize,
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Usage {
    /// Buffers that the flow holds, or has been lent.
    used: usize,
    /// Bytes of messages in them.
    bytes: u64,
    /// Buffers that nobody else gets.
    part: usize,
    /// The most that it may hold.
    limit: usize,
    /// Buffers that the message needs which was refused last; 0: none was, or one as long has been sent since.
    wanted: usize,
    is_open: bool,
}

impl Usage {
    /// Buffers that it holds beyond its part.
    #[inline]
    fn beyond(&self) -> usize {
        self.used.saturating_sub(self.part)
    }

    /// Whether the flow may hold so many when so many are `left` for all: what it holds beyond its part must be at most
    /// `factor` times what is left then.
    #[inline]
    fn is_below_threshold(&self, held: usize, left: usize, factor: usize) -> bool {
        self.above_threshold(held, left, factor) == 0
    }

    /// `factor + 1` times the buffers that it would hold too many.
    #[inline]
    fn above_threshold(&self, held: usize, left: usize, factor: usize) -> usize {
        ((factor + 1) * held.saturating_sub(self.part)).saturating_sub(factor * (left + self.beyond()))
    }
}

/// A message waits that is longer than its flow may hold otherwise.
#[derive(Clone, Copy, Debug)]
struct Claim {
    place: Place,
    buffers: usize,
    /// Buffers that come back until it counts no more: whoever waits asks again before.
    lasts: usize,
}

impl TxShares {
    pub(super) fn new(buffers: u32) -> Self {
        let free = (0..buffers).rev().collect();
        let buffers = buffers as usize;
        Self {
            free,
            owners: vec![NOBODY; buffers].into(),
            loan: Loan { place: NOWHERE, buffers: 0, bytes: 0 },
            returned: Returned { place: NOWHERE, buffers: 0, bytes: 0 },
            usages: Vec::new(),
            vacant: Vec::new(),
            guaranteed: Guaranteed::new(guaranteed_of(buffers)),
            open: 0,
            left: buffers - guaranteed_of(buffers),
            claim: None,
        }
    }

    // ---- Flows -----------------------------------------------------------------------------------------------------

    /// A flow begins to share.
    pub(super) fn enter(&mut self) -> Place {
        self.open += 1;
        let (part, limit) = (self.guaranteed.take(), self.owners.len());
        let usage = Usage { used: 0, bytes: 0, part, limit, wanted: 0, is_open: true };
        if let Some(place) = self.vacant.pop() {
            *self.usage(place) = usage;
            return place;
        }
        self.usages.push(usage);
        Place(u32::try_from(self.usages.len() - 1).expect("not more flows than there are names for"))
    }

    /// A flow sends nothing more. What it holds comes back as before.
    pub(super) fn leave(&mut self, place: Place) {
        if self.loan.place == place {
            self.end_loan();
            self.loan.place = NOWHERE;
        }
        self.open -= 1;
        self.claim.take_if(|claim| claim.place == place);
        let usage = self.usage(place);
        usage.is_open = false;
        if usage.used == 0 {
            self.vacate(place);
        }
    }

    #[cold]
    fn vacate(&mut self, place: Place) {
        let part = self.usage(place).part;
        self.guaranteed.give_back(part);
        self.vacant.push(place);
    }

    /// The most buffers that a flow may hold from now on; at least one. What it holds already, it keeps.
    pub(super) fn set_limit(&mut self, place: Place, buffers: usize) {
        self.end_loan();
        self.usage(place).limit = buffers.max(1);
    }

    /// Bytes of messages in the buffers that a flow holds.
    pub(super) fn bytes(&self, place: Place) -> u64 {
        let lent = if self.loan.place == place { self.loan.bytes } else { 0 };
        self.usages[place.0 as usize].bytes + lent
    }

    // ---- Messages --------------------------------------------------------------------------------------------------

    /// Buffers that nobody has.
    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// Whether a flow has been lent so many buffers, which it may take.
    #[inline]
    pub(super) fn has_lent(&self, place: Place, buffers: usize) -> bool {
        self.loan.place == place && self.loan.buffers >= buffers
    }

    /// Lends a flow so many buffers if it may take them. If it goes on, some more, so that there are `most`, if it may.
    /// Gives how many there are.
    pub(super) fn lend(&mut self, place: Place, buffers: usize, most: usize) -> Result<usize, Full> {
        self.end_loan();
        let goes_on = self.loan.place == place;
        self.loan.place = place;
        let usage = self.usage(place);
        if !goes_on && usage.used + buffers <= usage.part.min(usage.limit) && usage.wanted == 0 {
            // Nobody else can have them.
            usage.used += buffers;
            self.loan.buffers = buffers;
            return Ok(buffers);
        }
        self.lend_shared(place, buffers, if goes_on { most } else { buffers })
    }

    /// The same, of buffers that others may have, too.
    fn lend_shared(&mut self, place: Place, buffers: usize, most: usize) -> Result<usize, Full> {
        let more = most.clamp(buffers, LOAN_BUFFERS.max(buffers));
        let lent = if self.is_within(place, more) {
            more
        } else if more > buffers && self.is_within(place, buffers) {
            buffers
        } else {
            self.may_take_otherwise(place, buffers).map(|()| buffers)?
        };
        let usage = self.usage(place);
        let before = usage.beyond();
        usage.used += lent;
        // What is guaranteed to others is never lent: see `missing`.
        self.left -= self.usage(place).beyond() - before;
        self.loan.buffers = lent;
        Ok(lent)
    }

    /// What has been lent and not taken is for everybody again.
    #[inline]
    fn end_loan(&mut self) {
        let Loan { place, buffers, bytes } = self.loan;
        if buffers > 0 || bytes > 0 {
            self.loan = Loan { place, buffers: 0, bytes: 0 };
            self.usage(place).bytes += bytes;
            self.hold_less(place, buffers);
        }
    }

    /// A flow holds so many buffers less.
    #[inline]
    fn hold_less(&mut self, place: Place, buffers: usize) {
        let usage = self.usage(place);
        let before = usage.used;
        usage.used -= buffers;
        if before > usage.part {
            let part = usage.part.max(usage.used);
            self.left += before - part;
        }
    }

    /// Whether nothing is to be said against a flow that takes so many buffers more.
    #[inline]
    fn is_within(&self, place: Place, buffers: usize) -> bool {
        let usage = &self.usages[place.0 as usize];
        let held = usage.used + buffers;
        let is_below = held <= usage.limit && usage.is_below_threshold(held, self.left, self.factor());
        is_below && buffers <= self.free.len() && usage.wanted == 0 && self.claim.is_none()
    }

    #[cold]
    fn may_take_otherwise(&mut self, place: Place, buffers: usize) -> Result<(), Full> {
        if self.missing(place, buffers) == 0 {
            let usage = self.usage(place);
            // A smaller message may go before the one that was refused.
            if buffers >= usage.wanted {
                usage.wanted = 0;
                self.claim.take_if(|claim| claim.place == place);
            }
            return Ok(());
        }
        let usage = self.usage(place);
        usage.wanted = buffers;
        let full = if usage.used >= usage.part.clamp(1, usage.limit) { Full::Flow } else { Full::Endpoint };
        if usage.used == 0 && self.claim.is_none_or(|claim| claim.place == place) {
            self.claim = Some(Claim { place, buffers, lasts: 2 * self.owners.len() });
        }
        Err(full)
    }

    /// The most buffers that one message of the flow can have.
    pub(super) fn longest(&self, place: Place) -> usize {
        let buffers = self.owners.len();
        buffers - guaranteed_of(buffers) + self.usages[place.0 as usize].part
    }

    /// How many buffers have to come back, at least, before the flow may take so many; 0: it may.
    fn missing(&self, place: Place, buffers: usize) -> usize {
        let usage = &self.usages[place.0 as usize];
        let of_pool = buffers.saturating_sub(self.free.len());
        if usage.used == 0 {
            // One message of any length, as long as the parts of others stay what they are.
            return of_pool.max(buffers.saturating_sub(usage.part).saturating_sub(self.left));
        }
        if !self.is_divided() {
            return of_pool;
        }
        let claim = self.claim.filter(|claim| claim.place != place);
        let left = self.left.saturating_sub(claim.map_or(0, |claim| claim.buffers));
        let held = usage.used + buffers;
        let of_limit = held.saturating_sub(usage.limit);
        // Each that comes back leaves one more, and one of the flow's own is one less that it holds.
        let of_threshold = usage.above_threshold(held, left, self.factor()).div_ceil(self.factor() + 1);
        // A claim is over after some have come back.
        let of_threshold = claim.map_or(of_threshold, |claim| of_threshold.min(claim.lasts));
        // Or else it waits until it holds nothing.
        of_pool.max(of_limit.max(of_threshold).min(usage.used))
    }

    /// How many times as many as it leaves a flow may hold.
    #[inline]
    fn factor(&self) -> usize {
        if self.open == 1 { 3 } else { 1 }
    }

    fn is_divided(&self) -> bool {
        guaranteed_of(self.owners.len()) > 0
    }

    /// A flow takes a buffer that it has been [lent](Self::lend), for so many bytes of messages.
    #[inline]
    pub(super) fn take(&mut self, bytes: u32) -> u32 {
        self.loan.buffers = self.loan.buffers.checked_sub(1).expect("one was lent");
        self.loan.bytes += u64::from(bytes);
        let buffer = self.free.pop().expect("what is lent is free");
        self.owners[buffer as usize] = Owner { place: self.loan.place, bytes };
        buffer
    }

    /// So many bytes of messages more are in a buffer that a flow has taken.
    #[inline]
    pub(super) fn add_bytes(&mut self, place: Place, buffer: u32, bytes: usize) {
        self.owners[buffer as usize].bytes += u32::try_from(bytes).expect("they fit a buffer");
        self.usage(place).bytes += bytes as u64;
    }

    /// A buffer has come back; `false` if nobody had taken it. It counts once [`TxShares::count_returned`] is called.
    #[inline]
    #[must_use]
    pub(super) fn give_back(&mut self, buffer: u32) -> bool {
        let Some(owner) = self.owners.get_mut(buffer as usize) else { return false };
        let Owner { place, bytes } = std::mem::replace(owner, NOBODY);
        if place != self.returned.place {
            self.count_returned();
            self.returned.place = place;
        }
        if place == NOWHERE {
            return false;
        }
        self.free.push(buffer);
        self.returned.buffers += 1;
        self.returned.bytes += u64::from(bytes);
        true
    }

    /// Whoever is asked now knows all that has come back.
    pub(super) fn count_returned(&mut self) {
        let Returned { place, buffers, bytes } = self.returned;
        self.returned = Returned { place: NOWHERE, buffers: 0, bytes: 0 };
        if buffers == 0 {
            return;
        }
        if self.loan.place == place {
            let lent = std::mem::take(&mut self.loan.bytes);
            self.usage(place).bytes += lent;
        }
        self.usage(place).bytes -= bytes;
        self.hold_less(place, buffers);
        let usage = self.usage(place);
        if usage.used == 0 && !usage.is_open {
            self.vacate(place);
        }
        if let Some(claim) = &mut self.claim {
            claim.lasts = claim.lasts.saturating_sub(buffers);
            self.claim.take_if(|claim| claim.lasts == 0);
        }
    }

    /// How many buffers have to come back, at least, before the message may be sent that was refused last; 0: it may,
    /// or none was refused.
    pub(super) fn awaited(&mut self, place: Place) -> usize {
        self.end_loan();
        match self.usages[place.0 as usize].wanted {
            0 => 0,
            wanted => self.missing(place, wanted),
        }
    }

    #[inline]
    fn usage(&mut self, place: Place) -> &mut Usage {
        &mut self.usages[place.0 as usize]
    }
}

/// Of so many buffers, how many are guaranteed to flows.
fn guaranteed_of(buffers: usize) -> usize {
    if buffers < FIRST_FLOWS { 0 } else { buffers / GUARANTEED_OF }
}

/// The parts that flows of a channel can have.
#[derive(Debug)]
struct Guaranteed {
    /// Buffers in a part, and how many such parts are left; largest first.
    parts: Vec<(usize, usize)>,
}

impl Guaranteed {
    /// Of so many buffers.
    fn new(mut buffers: usize) -> Self {
        let (mut flows, mut half) = (FIRST_FLOWS, buffers / 2);
        let mut parts = Vec::new();
        while buffers > 0 {
            let part = (half / flows).max(1);
            let count = flows.min(buffers / part);
            parts.push((part, count));
            buffers -= part * count;
            (flows, half) = (flows * 2, half / 2);
        }
        Self { parts }
    }

    /// The largest part that is left; 0: there are too many flows.
    fn take(&mut self) -> usize {
        let Some((part, left)) = self.parts.iter_mut().find(|(_, left)| *left > 0) else { return 0 };
        *left -= 1;
        *part
    }

    /// A flow needs its part no more.
    fn give_back(&mut self, part: usize) {
        if let Some((_, left)) = self.parts.iter_mut().find(|(size, _)| *size == part) {
            *left += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUFFERS: u32 = 8_544;
    /// Of [`MESSAGE_BYTES_MAX`](machnet_core::message::MESSAGE_BYTES_MAX), in packets of 1,500 bytes.
    const LONGEST: usize = 5_916;

    /// A channel's buffers, and flows that take them.
    struct Pool {
        shares: TxShares,
        held: Vec<(Place, Vec<u32>)>,
    }

    impl Pool {
        fn new(buffers: u32) -> Self {
            Self { shares: TxShares::new(buffers), held: Vec::new() }
        }

        fn enter(&mut self) -> usize {
            self.held.push((self.shares.enter(), Vec::new()));
            self.held.len() - 1
        }

        fn send(&mut self, flow: usize, buffers: usize) -> Result<(), Full> {
            let (place, held) = &mut self.held[flow];
            if !self.shares.has_lent(*place, buffers) {
                self.shares.lend(*place, buffers, LOAN_BUFFERS)?;
            }
            for _ in 0..buffers {
                held.push(self.shares.take(10));
            }
            Ok(())
        }

        /// Sends messages of one buffer until there is no room; gives how many the flow holds then.
        fn fill(&mut self, flow: usize) -> (usize, Full) {
            loop {
                if let Err(full) = self.send(flow, 1) {
                    return (self.held[flow].1.len(), full);
                }
            }
        }

        fn come_back(&mut self, flow: usize, buffers: usize) {
            for buffer in self.held[flow].1.drain(..buffers) {
                assert!(self.shares.give_back(buffer));
            }
            self.shares.count_returned();
        }

        fn awaited(&mut self, flow: usize) -> usize {
            self.shares.awaited(self.held[flow].0)
        }
    }

    #[test]
    fn one_that_stands_still_leaves_as_many_as_it_holds() {
        let mut pool = Pool::new(BUFFERS);
        let [stuck, also_stuck, quiet] = [0; 3].map(|_| pool.enter());
        let (first, full) = pool.fill(stuck);
        assert_eq!((first, full), (8 + 3_738, Full::Flow));
        let (second, full) = pool.fill(also_stuck);
        assert_eq!((second, full), (8 + 1_869, Full::Flow));
        // A third one that moves has half of the rest at any time.
        for _ in 0..10 {
            let (held, _) = pool.fill(quiet);
            assert_eq!(held, 8 + 934);
            pool.come_back(quiet, held);
        }
    }

    #[test]
    fn the_only_one_leaves_a_quarter_and_the_next_half_of_that() {
        let mut pool = Pool::new(BUFFERS);
        let alone = pool.enter();
        assert_eq!(pool.fill(alone), (8 + 5_607, Full::Flow));
        let next = pool.enter();
        assert_eq!(pool.fill(next), (8 + 934, Full::Flow));
    }

    #[test]
    fn however_many_stand_still_the_next_has_its_part() {
        let mut pool = Pool::new(BUFFERS);
        let mut parts = Vec::new();
        for _ in 0..400 {
            let flow = pool.enter();
            let (held, full) = pool.fill(flow);
            assert!(held >= 1, "flow {flow}: {full:?}");
            parts.push(held);
        }
        assert_eq!((parts[40], parts[100], parts[300]), (8, 2, 1));
        assert_eq!(pool.shares.free() - pool.shares.left, BUFFERS as usize / 8 - 64 * 8 - 128 * 2 - 208);
    }

    #[test]
    fn a_part_is_given_to_the_next_flow_once_all_its_buffers_are_back() {
        let mut pool = Pool::new(64);
        let part = |pool: &Pool, flow: usize| pool.shares.usages[pool.held[flow].0.0 as usize].part;
        let first = [0; 8].map(|_| pool.enter());
        let ninth = pool.enter();
        assert_eq!((first.map(|flow| part(&pool, flow)), part(&pool, ninth)), ([1; 8], 0));
        let (held, _) = pool.fill(first[0]);
        assert_eq!(held, 1 + 28);
        pool.shares.leave(pool.held[first[0]].0);
        pool.come_back(first[0], held - 1);
        let early = pool.enter();
        assert_eq!(part(&pool, early), 0, "a buffer is still to come back");
        pool.come_back(first[0], 1);
        let next = pool.enter();
        assert_eq!((pool.held[next].0, part(&pool, next)), (pool.held[first[0]].0, 1));
    }

    #[test]
    fn one_message_may_be_of_any_length_and_room_is_kept_for_it() {
        let mut pool = Pool::new(BUFFERS);
        let [long, busy] = [0; 2].map(|_| pool.enter());
        pool.send(long, LONGEST).expect("nothing else is under way");
        assert_eq!(pool.send(long, 1), Err(Full::Flow));
        pool.come_back(long, LONGEST);
        let (held, _) = pool.fill(busy);
        assert_eq!(pool.send(long, LONGEST), Err(Full::Endpoint));
        assert_eq!(pool.awaited(long), LONGEST - 8 - (7_476 - 3_738));
        // Whatever comes back meanwhile is not for the busy one, but for its part.
        let mut back = 0;
        while pool.awaited(long) > 0 {
            pool.come_back(busy, 1);
            back += 1;
            if pool.held[busy].1.len() >= 8 {
                assert_eq!(pool.send(busy, 1), Err(Full::Flow));
            }
        }
        assert!(back <= held, "{back}");
        pool.send(long, LONGEST).expect("room was kept");
        assert_eq!(pool.awaited(long), 0);
    }

    #[test]
    fn a_claim_that_nobody_repeats_is_forgotten() {
        let mut pool = Pool::new(64);
        let [long, busy] = [0; 2].map(|_| pool.enter());
        pool.fill(busy);
        assert_eq!(pool.send(long, 48), Err(Full::Endpoint));
        for _ in 0..128 {
            pool.come_back(busy, 1);
            let _ = pool.send(busy, 1);
        }
        assert_eq!(pool.fill(busy).0, 1 + 28);
    }

    #[test]
    fn what_is_awaited_is_never_more_than_is_needed() {
        let mut pool = Pool::new(200);
        let mut seed = 7_u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        let flows = [0; 5].map(|_| pool.enter());
        for _ in 0..20_000 {
            let flow = flows[random(5)];
            if random(50) == 0 {
                pool.shares.set_limit(pool.held[flow].0, 1 + random(100));
            }
            let buffers = [1, 1, 1, 5, 60, 140][random(6)];
            if pool.send(flow, buffers).is_err() {
                let awaited = pool.awaited(flow);
                assert!(awaited > 0);
                for come in 0..awaited {
                    assert!(pool.shares.missing(pool.held[flow].0, buffers) > 0, "{come} of {awaited}");
                    let some = flows[random(5)];
                    let holder = if pool.held[some].1.is_empty() { flow } else { some };
                    if pool.held[holder].1.is_empty() {
                        break;
                    }
                    pool.come_back(holder, 1);
                }
            }
            let beyond: usize =
                flows.iter().map(|flow| pool.shares.usages[pool.held[*flow].0.0 as usize].beyond()).sum();
            assert_eq!(pool.shares.left + beyond, 175);
        }
    }

    #[test]
    fn the_application_may_set_a_limit_and_see_what_is_under_way() {
        let mut pool = Pool::new(BUFFERS);
        let flow = pool.enter();
        let place = pool.held[flow].0;
        pool.shares.set_limit(place, 3);
        assert_eq!(pool.fill(flow), (3, Full::Flow));
        assert_eq!(pool.shares.bytes(place), 30);
        pool.shares.add_bytes(place, pool.held[flow].1[0], 5);
        assert_eq!(pool.shares.bytes(place), 35);
        pool.come_back(flow, 1);
        assert_eq!(pool.shares.bytes(place), 20);
        pool.come_back(flow, 2);
        pool.send(flow, 8).expect("one message, whatever its length");
        assert_eq!(pool.shares.bytes(place), 80);
    }

    #[test]
    fn a_buffer_comes_back_once() {
        let mut pool = Pool::new(64);
        let flow = pool.enter();
        pool.send(flow, 1).expect("room");
        let buffer = pool.held[flow].1[0];
        assert!(pool.shares.give_back(buffer));
        assert!(!pool.shares.give_back(buffer) && !pool.shares.give_back(64));
    }
}
