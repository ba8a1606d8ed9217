//! Probes that another host sends back, and how long that takes.

use std::net::Ipv4Addr;

use machnet_core::addr::MacAddr;
use machnet_core::time::{Duration, Instant};

use super::Failure;
use super::lanes::{Fate, Station};
use super::probe::{Probe, Reply};
use super::resolve::resolve;
use super::stop::Stop;
use machnet::daemon::sleep::Clock;
use machnet_nic::NicQueue;
use machnet_nic::devices::OpenInterface;

/// Frames of a station's own that probes, and the search for their next hop, need room for.
pub const SEND_MAX: usize = 8;
/// Probes whose answer may still come. Older ones are lost.
const WINDOW: usize = 1024;
/// Back to back, how long an answer is waited for before the next probe.
const LOST_AFTER: Duration = Duration::from_millis(100);
/// How long a probe that the device does not take is kept back.
const RETRY: Duration = Duration::from_micros(250);
/// How long the last answers are waited for, when the run has come to its end.
const LAST_WITHIN: Duration = Duration::from_secs(3);
/// The same when the user has ended it.
const LAST_WITHIN_WHEN_STOPPED: Duration = Duration::from_millis(100);
/// Time between two [`PingEvent::Second`]s.
const SECOND: Duration = Duration::from_secs(1);

/// When probes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Between two probes. `None`: the next follows as soon as one has come back or is lost.
    pub gap: Option<Duration>,
    /// How many.
    pub count: Option<u64>,
    /// For how long.
    pub duration: Option<Duration>,
}

/// What became of a probe.
#[derive(Clone, Copy, Debug)]
pub enum PingEvent {
    /// A probe came back, in its turn.
    Reply {
        /// The answer.
        reply: Reply,
        /// How long it took.
        rtt: Duration,
    },
    /// One came back a second time, after a later one, or was never sent. It does not count.
    OutOfSequence {
        /// The low 16 bits of its sequence number.
        sequence: u16,
    },
    /// Another second has passed.
    Second,
}

/// What became of all probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Probes sent.
    pub sent: u64,
    /// Probes that came back in their turn.
    pub received: u64,
    /// Those that came back otherwise.
    pub out_of_sequence: u64,
    /// From the first probe to the end.
    pub elapsed: Duration,
}

/// The host on an interface that was opened, at work in this thread, and the MAC of the neighbor that leads to the one
/// that is pinged.
///
/// # Errors
/// When the system refuses something, or the neighbor is not found.
pub fn start<Q: NicQueue>(
    opened: OpenInterface<Q>,
    next_hop: Ipv4Addr,
    stop: &Stop,
) -> Result<(Station<'_, Q>, MacAddr), Failure> {
    let cpu = opened.interface.shard_cpus.first().copied();
    let mut station = Station::new(opened, SEND_MAX, stop).map_err(|error| Failure::system(&error))?;
    station.enter_thread(cpu)?;
    let mac = resolve(&mut station, next_hop)?;
    Ok((station, mac))
}

/// Sends probes and takes their answers until the schedule or the user ends it. `on_event` is told, together with what
/// all probes came to so far.
///
/// # Errors
/// When the kernel does not let it sleep.
pub fn run<Q: NicQueue>(
    station: &mut Station<'_, Q>,
    probe: &impl Probe,
    schedule: &Schedule,
    mut on_event: impl FnMut(PingEvent, &Tally),
) -> Result<Tally, Failure> {
    let mut outstanding = Outstanding::new();
    let mut tally = Tally::default();
    let begin = Clock.now();
    let mut second = begin + SECOND;
    let mut agenda = Agenda::new(schedule, begin);
    loop {
        let now = Clock.now();
        tally.elapsed = now.saturating_since(begin);
        let received = station.receive(|frame| {
            if let Some(reply) = probe.read(frame) {
                let event = match outstanding.answered(reply.sequence, Clock.now()) {
                    Some(rtt) => {
                        tally.received += 1;
                        PingEvent::Reply { reply, rtt }
                    }
                    None => {
                        tally.out_of_sequence += 1;
                        PingEvent::OutOfSequence { sequence: reply.sequence }
                    }
                };
                on_event(event, &tally);
            }
            Fate::Done
        });
        if now >= second {
            second = now + SECOND;
            on_event(PingEvent::Second, &tally);
        }
        let is_waiting = outstanding.is_newest_missing();
        agenda.end_if_over(&tally, station.stop().is_asked(), now);
        if agenda.is_over(is_waiting, now) {
            return Ok(tally);
        }
        if agenda.is_due(is_waiting, now) {
            if station.send(probe.frame_bytes(), |frame| probe.write(frame, outstanding.next)) {
                outstanding.sent(Clock.now());
                agenda.sent(now);
                tally.sent += 1;
            } else {
                agenda.next = now + RETRY;
            }
        }
        let sent = station.transmit();
        let until = agenda.next().min(second);
        station.rest(received + sent > 0, now, Some(until)).map_err(|error| Failure::system(&error))?;
    }
}

/// When to send, and when to end.
#[derive(Debug)]
struct Agenda<'a> {
    schedule: &'a Schedule,
    /// When the next probe is sent, at the latest.
    next: Instant,
    end: Option<Instant>,
    /// No more probes: when the last answers are given up.
    give_up: Option<Instant>,
}

impl<'a> Agenda<'a> {
    fn new(schedule: &'a Schedule, begin: Instant) -> Self {
        let end = schedule.duration.map(|duration| begin + duration);
        Self { schedule, next: begin, end, give_up: None }
    }

    /// Sends no more once the schedule or the user says so.
    fn end_if_over(&mut self, tally: &Tally, is_stopped: bool, now: Instant) {
        let is_done = self.schedule.count.is_some_and(|count| tally.sent >= count);
        let is_late = self.end.is_some_and(|end| now >= end);
        if is_stopped {
            let latest = now + LAST_WITHIN_WHEN_STOPPED;
            self.give_up = Some(self.give_up.map_or(latest, |give_up| give_up.min(latest)));
        } else if self.give_up.is_none() && (is_done || is_late) {
            self.give_up = Some(now + LAST_WITHIN);
        }
    }

    /// Whether nothing is left to be done. `is_waiting`: the answer to the latest probe is not there.
    fn is_over(&self, is_waiting: bool, now: Instant) -> bool {
        self.give_up.is_some_and(|give_up| !is_waiting || now >= give_up)
    }

    fn is_due(&self, is_waiting: bool, now: Instant) -> bool {
        let is_due = match self.schedule.gap {
            Some(_) => now >= self.next,
            None => !is_waiting || now >= self.next,
        };
        is_due && self.give_up.is_none()
    }

    fn sent(&mut self, now: Instant) {
        self.next = match self.schedule.gap {
            None => now + LOST_AFTER,
            // What could not be sent in time is not sent in a bunch later.
            Some(gap) if self.next + gap < now => now + gap,
            Some(gap) => self.next + gap,
        };
    }

    /// When to look again, if no frame arrives.
    fn next(&self) -> Instant {
        self.give_up.unwrap_or(self.end.map_or(self.next, |end| end.min(self.next)))
    }
}

/// When the latest probes were sent.
#[derive(Debug)]
struct Outstanding {
    /// By the sequence number modulo the window; `None` once answered.
    sent_at: Box<[Option<Instant>; WINDOW]>,
    /// The next probe's sequence number.
    next: u64,
    /// Probes below this have been answered, or overtaken by an answer.
    answered_below: u64,
}

impl Outstanding {
    fn new() -> Self {
        Self { sent_at: Box::new([None; WINDOW]), next: 0, answered_below: 0 }
    }

    fn sent(&mut self, now: Instant) {
        self.sent_at[slot(self.next)] = Some(now);
        self.next += 1;
    }

    /// The round trip of the probe with these low bits, if it is one of the latest, no later one has been answered, and
    /// neither has it.
    fn answered(&mut self, low: u16, now: Instant) -> Option<Duration> {
        let newest = self.next.checked_sub(1)?;
        let [.., high, lowest] = newest.to_be_bytes();
        let age = u16::from_be_bytes([high, lowest]).wrapping_sub(low);
        let sequence = newest.checked_sub(age.into()).filter(|_| usize::from(age) < WINDOW)?;
        if sequence < self.answered_below {
            return None;
        }
        self.answered_below = sequence + 1;
        let sent_at = self.sent_at[slot(sequence)].take()?;
        Some(now.saturating_since(sent_at))
    }

    /// Whether the latest probe has not been answered.
    fn is_newest_missing(&self) -> bool {
        self.answered_below < self.next
    }
}

fn slot(sequence: u64) -> usize {
    usize::try_from(sequence % WINDOW as u64).expect("below the window")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: u64) -> Instant {
        Instant::ZERO + Duration::from_micros(us)
    }

    fn us(us: u64) -> Option<Duration> {
        Some(Duration::from_micros(us))
    }

    #[test]
    fn an_answer_counts_once_and_in_its_turn() {
        let mut outstanding = Outstanding::new();
        assert_eq!(outstanding.answered(0, at(0)), None, "nothing was sent");
        for probe in 0..5 {
            outstanding.sent(at(probe));
        }
        assert_eq!(outstanding.answered(0, at(10)), us(10));
        assert_eq!(outstanding.answered(0, at(11)), None, "twice");
        assert_eq!(outstanding.answered(2, at(12)), us(10));
        assert_eq!(outstanding.answered(1, at(13)), None, "overtaken");
        assert_eq!(outstanding.answered(5, at(14)), None, "never sent");
        assert!(outstanding.is_newest_missing());
        assert_eq!(outstanding.answered(4, at(15)), us(11));
        assert!(!outstanding.is_newest_missing());
    }

    #[test]
    fn sequence_numbers_wrap_and_old_probes_are_lost() {
        let mut outstanding = Outstanding::new();
        for probe in 0..70_000 {
            outstanding.sent(at(probe));
        }
        let low = |sequence: u64| u16::try_from(sequence % 65_536).unwrap();
        let window = WINDOW as u64;
        assert_eq!(outstanding.answered(low(70_000 - window - 1), at(70_001)), None, "too old");
        assert_eq!(outstanding.answered(low(70_000 - window), at(70_001)), us(window + 1));
        assert_eq!(outstanding.answered(low(69_999), at(70_001)), us(2));
    }

    const EVERY_10_US: Schedule = Schedule { gap: Some(Duration::from_micros(10)), count: Some(3), duration: None };

    #[test]
    fn probes_are_sent_in_time_and_not_in_a_bunch_when_late() {
        let mut agenda = Agenda::new(&EVERY_10_US, at(0));
        assert!(agenda.is_due(false, at(0)));
        agenda.sent(at(0));
        assert!(!agenda.is_due(true, at(9)) && agenda.is_due(true, at(10)));
        agenda.sent(at(12));
        assert_eq!(agenda.next(), at(20), "a little late is not later and later");
        agenda.sent(at(100));
        assert_eq!(agenda.next(), at(110));
    }

    #[test]
    fn back_to_back_waits_for_the_answer_but_not_for_ever() {
        let schedule = Schedule { gap: None, ..EVERY_10_US };
        let mut agenda = Agenda::new(&schedule, at(0));
        assert!(agenda.is_due(false, at(0)));
        agenda.sent(at(0));
        assert!(agenda.is_due(false, at(1)) && !agenda.is_due(true, at(1)));
        assert!(agenda.is_due(true, at(0) + LOST_AFTER));
    }

    #[test]
    fn the_end_waits_for_the_last_answer() {
        let mut agenda = Agenda::new(&EVERY_10_US, at(0));
        let tally = |sent| Tally { sent, ..Tally::default() };
        agenda.end_if_over(&tally(2), false, at(20));
        assert!(!agenda.is_over(false, at(20)));
        agenda.end_if_over(&tally(3), false, at(30));
        assert!(!agenda.is_due(false, at(100)) && agenda.is_over(false, at(30)) && !agenda.is_over(true, at(30)));
        assert!(agenda.is_over(true, at(30) + LAST_WITHIN));
        agenda.end_if_over(&tally(3), true, at(40));
        assert!(agenda.is_over(true, at(40) + LAST_WITHIN_WHEN_STOPPED));
        agenda.end_if_over(&tally(3), true, at(90_000));
        assert!(agenda.is_over(true, at(40) + LAST_WITHIN_WHEN_STOPPED), "asking on does not put it off");

        let timed = Schedule { duration: us(25), count: None, ..EVERY_10_US };
        let mut agenda = Agenda::new(&timed, at(0));
        agenda.end_if_over(&tally(2), false, at(24));
        assert!(!agenda.is_over(false, at(24)));
        agenda.end_if_over(&tally(2), false, at(25));
        assert!(agenda.is_over(false, at(25)));
    }
}
