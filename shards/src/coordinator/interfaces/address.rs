//! Whose the IP of an interface is: asked for before it is used, announced when it is ours, then defended (RFC 5227).
//!
//! ```text
//!              nobody speaks up after 3 probes
//!   Probing ─────────────────────────────────────▶ Ours: another host's claim is counted,
//!      │                                                  and answered by an announcement once in 10 s
//!      └── another host has it, or probes for it too ──▶ Taken: the daemon does not start
//! ```
//!
//! The times of the RFC fit links on which a host may take seconds to answer. It leaves shorter ones to networks that
//! allow them (section 2.2), and a data center does: a host answers within a millisecond, a virtual network that learns
//! from the first packet where it has to go within tens of them. So every wait before the address is ours is the RFC's
//! divided by [`SCALE`], which keeps their proportions; a start takes 100 to 175 ms longer by it. How often something
//! is sent, and everything that comes after, is as the RFC says.
//!
//! No probe helps where the link comes up later, as that of a memif does when its server starts: nobody hears it. If
//! two hosts turn out to have one address then, each of them counts, logs and defends it, until somebody gives one of
//! them another.

use std::net::Ipv4Addr;

use machnet_core::addr::MacAddr;
use machnet_core::time::{Duration, Instant};
use machnet_proto::state::{Unsound, ensure, ensure_near};
use machnet_proto::wire::arp;
use serde::{Deserialize, Serialize};

use crate::budget::Cooldown;
use crate::coordinator::input::AddressInUse;
use crate::coordinator::random::Random;

/// What the RFC's waits for an address are divided by.
const SCALE: u64 = 40;

/// A wait of so many seconds in the RFC.
const fn scaled(seconds: u64) -> Duration {
    Duration::from_millis(seconds * 1_000 / SCALE)
}

/// The first probe comes within this time, so that hosts that start together do not ask all at once.
const PROBE_WAIT: Duration = scaled(1);
/// How many probes there are, and how far apart.
const PROBE_NUM: u32 = 3;
const PROBE_MIN: Duration = scaled(1);
const PROBE_MAX: Duration = scaled(2);
/// How long an answer to the last one is waited for.
const ANNOUNCE_WAIT: Duration = scaled(2);
/// How many announcements there are, and how far apart. A device whose link comes up late misses the first.
const ANNOUNCE_NUM: u32 = 2;
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);
/// How often the address is defended at the most: two hosts that both do so must not flood their link.
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// How often a conflict is worth a line in the log.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The IP of an interface, or what was to be it.
#[derive(Debug)]
pub(super) struct Address {
    mac: MacAddr,
    ip: Ipv4Addr,
    state: State,
    /// How often another host claimed our address.
    conflicts: u64,
    /// Of the log's saying so.
    logged: Cooldown,
}

#[derive(Debug)]
enum State {
    /// Nobody has spoken up so far.
    Probing {
        /// Probes that were sent.
        sent: u32,
        /// When the next is due; after the last: when the address is ours.
        next: Instant,
    },
    /// We have it, and do not give it up: it is what the configuration says (section 2.4 (c)).
    Ours {
        /// The next announcement; `None` after the last.
        announcement: Option<Announcement>,
        /// How long it is until the address may be defended again.
        defended: Cooldown,
    },
    /// Another host has it.
    Taken,
}

/// An announcement to be made.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Announcement {
    /// Counted from 1.
    number: u32,
    due: Instant,
}

/// What is written of an [`Address`]: how far it has got, and how often another host claimed it. When it was defended
/// last is not: the next defence comes early at worst.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct SavedAddress {
    state: SavedState,
    conflicts: u64,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum SavedState {
    Probing { sent: u32, next: Instant },
    Ours { announcement: Option<Announcement> },
    Taken,
}

impl SavedAddress {
    /// The state of `ip`, which is to be that of the interface with this MAC.
    pub(super) fn restore(self, mac: MacAddr, ip: Ipv4Addr, now: Instant) -> Result<Address, Unsound> {
        let Self { state, conflicts } = self;
        let state = match state {
            SavedState::Probing { sent, next } => {
                ensure(sent <= PROBE_NUM, "an address was asked for more often than any")?;
                ensure_near(now, &[Some(next)])?;
                State::Probing { sent, next }
            }
            SavedState::Ours { announcement } => {
                ensure_near(now, &[announcement.map(|announcement| announcement.due)])?;
                State::Ours { announcement, defended: Cooldown::new(DEFEND_INTERVAL) }
            }
            SavedState::Taken => State::Taken,
        };
        Ok(Address { mac, ip, state, conflicts, logged: Cooldown::new(LOG_INTERVAL) })
    }
}

/// What an ARP packet of another host means for our address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It says nothing about it.
    Nothing,
    /// It is not to be ours.
    Taken(AddressInUse),
    /// It is ours, and another host claims it; to be answered to everybody by this packet, if there is one.
    Conflict(Option<arp::ArpPacket>),
}

impl Address {
    /// `ip` is to be that of the interface with this MAC.
    pub(super) fn new(mac: MacAddr, ip: Ipv4Addr, random: &mut Random, now: Instant) -> Self {
        let next = now + random.duration(Duration::ZERO, PROBE_WAIT);
        Self { mac, ip, state: State::Probing { sent: 0, next }, conflicts: 0, logged: Cooldown::new(LOG_INTERVAL) }
    }

    /// What is to be written of it.
    pub(super) fn save(&self) -> SavedAddress {
        let state = match self.state {
            State::Probing { sent, next } => SavedState::Probing { sent, next },
            State::Ours { announcement, .. } => SavedState::Ours { announcement },
            State::Taken => SavedState::Taken,
        };
        SavedAddress { state, conflicts: self.conflicts }
    }

    /// Whether we have it.
    pub(super) fn is_ours(&self) -> bool {
        matches!(self.state, State::Ours { .. })
    }

    /// How often another host claimed our address.
    pub(super) fn conflicts(&self) -> u64 {
        self.conflicts
    }

    /// When [`Address::poll`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Probing { next, .. } => Some(next),
            State::Ours { announcement, .. } => announcement.map(|announcement| announcement.due),
            State::Taken => None,
        }
    }

    /// What is to be sent to everybody now, if anything. The address is ours from the first announcement on.
    pub(super) fn poll(&mut self, random: &mut Random, now: Instant) -> Option<arp::ArpPacket> {
        if self.deadline()? > now {
            return None;
        }
        if let State::Probing { sent: PROBE_NUM, .. } = self.state {
            let announcement = Some(Announcement { number: 1, due: now });
            self.state = State::Ours { announcement, defended: Cooldown::new(DEFEND_INTERVAL) };
        }
        match &mut self.state {
            State::Probing { sent, next } => {
                *sent += 1;
                let is_last = *sent == PROBE_NUM;
                *next = now + if is_last { ANNOUNCE_WAIT } else { random.duration(PROBE_MIN, PROBE_MAX) };
                Some(arp::ArpPacket::request(self.mac, Ipv4Addr::UNSPECIFIED, self.ip))
            }
            State::Ours { announcement, .. } => {
                let Announcement { number, .. } = announcement.take()?;
                if number < ANNOUNCE_NUM {
                    *announcement = Some(Announcement { number: number + 1, due: now + ANNOUNCE_INTERVAL });
                }
                Some(arp::ArpPacket::announcement(self.mac, self.ip))
            }
            State::Taken => None,
        }
    }

    /// Everybody on the link is to be told where it is, once more: the link was interrupted, and whoever was asked
    /// meanwhile has not heard us.
    pub(super) fn announce(&mut self, now: Instant) {
        if let State::Ours { announcement, .. } = &mut self.state {
            *announcement = Some(Announcement { number: 1, due: now });
        }
    }

    /// Another host said something.
    pub(super) fn hear(&mut self, packet: &arp::ArpPacket, now: Instant) -> Heard {
        let claims = packet.sender_ip == self.ip;
        let probes = packet.sender_ip.is_unspecified()
            && packet.target_ip == self.ip
            && packet.operation == arp::Operation::Request;
        match &mut self.state {
            State::Probing { .. } if claims || probes => {
                self.state = State::Taken;
                Heard::Taken(AddressInUse { ip: self.ip, interface: self.mac, other: packet.sender_mac })
            }
            State::Ours { defended, .. } if claims => {
                self.conflicts += 1;
                if self.logged.allows(now) {
                    let (ip, other) = (self.ip, packet.sender_mac);
                    tracing::warn!(%ip, %other, "another host uses our IP: give one of the two another");
                }
                Heard::Conflict(defended.allows(now).then(|| arp::ArpPacket::announcement(self.mac, self.ip)))
            }
            _ => Heard::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::plan::tests::{OUR_IP, OURS, THEIR_IP, THEIRS};

    const START: Instant = Instant::from_nanos(1_000_000_000);

    fn address(random: &mut Random) -> Address {
        Address::new(OURS, OUR_IP, random, START)
    }

    fn random() -> Random {
        Random::new(&[7; 16])
    }

    /// What is sent, and when, until nothing is due any more.
    fn sent(address: &mut Address, random: &mut Random) -> Vec<(Instant, arp::ArpPacket)> {
        let mut sent = Vec::new();
        while let Some(due) = address.deadline() {
            assert_eq!(address.poll(random, Instant::from_nanos(due.as_nanos() - 1)), None);
            sent.push((due, address.poll(random, due).expect("it is due")));
            assert_eq!(address.is_ours(), sent.len() > PROBE_NUM as usize);
        }
        sent
    }

    /// An address that is ours, and announced.
    fn ours() -> Address {
        let mut random = random();
        let mut address = address(&mut random);
        sent(&mut address, &mut random);
        address
    }

    #[test]
    fn an_address_that_nobody_has_is_ours_after_three_probes_and_announced_twice() {
        let mut random = random();
        for _ in 0..100 {
            let (times, packets): (Vec<_>, Vec<_>) = sent(&mut address(&mut random), &mut random).into_iter().unzip();
            let probe = arp::ArpPacket::request(OURS, Ipv4Addr::UNSPECIFIED, OUR_IP);
            let announcement = arp::ArpPacket::announcement(OURS, OUR_IP);
            assert_eq!(packets, [probe, probe, probe, announcement, announcement]);
            let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
            assert!(times[0] <= START + PROBE_WAIT, "{times:?}");
            assert!(gaps[..2].iter().all(|gap| (PROBE_MIN..=PROBE_MAX).contains(gap)), "{gaps:?}");
            assert_eq!(gaps[2..], [ANNOUNCE_WAIT, ANNOUNCE_INTERVAL]);
            assert!(times[3] <= START + Duration::from_millis(175), "a start is not held up for long");
        }
    }

    #[test]
    fn a_host_that_has_the_address_or_wants_it_too_keeps_us_from_taking_it() {
        let answer = arp::ArpPacket::request(OURS, Ipv4Addr::UNSPECIFIED, OUR_IP).answered_by(THEIRS);
        let question = arp::ArpPacket::request(THEIRS, OUR_IP, THEIR_IP);
        let probe = arp::ArpPacket::request(THEIRS, Ipv4Addr::UNSPECIFIED, OUR_IP);
        for packet in [answer, question, probe, arp::ArpPacket::announcement(THEIRS, OUR_IP)] {
            for probes in 0..=PROBE_NUM {
                let mut random = random();
                let mut address = address(&mut random);
                for _ in 0..probes {
                    let due = address.deadline().expect("it is asked for");
                    assert!(address.poll(&mut random, due).is_some());
                }
                let in_use = AddressInUse { ip: OUR_IP, interface: OURS, other: THEIRS };
                assert_eq!(address.hear(&packet, START), Heard::Taken(in_use));
                assert_eq!((address.deadline(), address.is_ours()), (None, false));
                assert_eq!(address.hear(&packet, START), Heard::Nothing, "said once");
            }
        }
    }

    #[test]
    fn what_is_about_other_addresses_keeps_us_from_nothing() {
        let mut address = address(&mut random());
        for packet in [
            arp::ArpPacket::request(THEIRS, THEIR_IP, OUR_IP),
            arp::ArpPacket::request(THEIRS, Ipv4Addr::UNSPECIFIED, THEIR_IP),
            arp::ArpPacket::request(OURS, Ipv4Addr::UNSPECIFIED, THEIR_IP).answered_by(THEIRS),
            arp::ArpPacket {
                operation: arp::Operation::Reply,
                ..arp::ArpPacket::request(THEIRS, Ipv4Addr::UNSPECIFIED, OUR_IP)
            },
        ] {
            assert_eq!(address.hear(&packet, START), Heard::Nothing, "{packet:?}");
        }
        assert!(address.deadline().is_some());
    }

    #[test]
    fn our_address_is_defended_once_in_ten_seconds_and_every_claim_is_counted() {
        let mut address = ours();
        let claim = arp::ArpPacket::announcement(THEIRS, OUR_IP);
        let mut defences = Vec::new();
        for tick in 0..250 {
            let now = START + tick * Duration::from_millis(100);
            match address.hear(&claim, now) {
                Heard::Conflict(Some(packet)) => {
                    assert_eq!(packet, arp::ArpPacket::announcement(OURS, OUR_IP));
                    defences.push((now - START).as_secs());
                }
                heard => assert_eq!(heard, Heard::Conflict(None)),
            }
        }
        assert_eq!((defences, address.conflicts()), (vec![0, 10, 20], 250));
        assert!(address.is_ours());
        // Who asks whether it is free is answered as any request for it; that is no claim.
        let probe = arp::ArpPacket::request(THEIRS, Ipv4Addr::UNSPECIFIED, OUR_IP);
        assert_eq!((address.hear(&probe, START), address.conflicts()), (Heard::Nothing, 250));
    }
}
