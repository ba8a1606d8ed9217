//! Whose the IP of an interface is: announced when we take it, and watched (RFC 5227).

use std::net::Ipv4Addr;

use machnet_core::addr::MacAddr;
use machnet_core::time::{Duration, Instant};
use machnet_proto::wire::arp;

/// How often we announce our address, and how far apart (RFC 5227, section 1.1: ANNOUNCE_NUM, ANNOUNCE_INTERVAL). A
/// device whose link comes up late misses the first.
const ANNOUNCEMENTS: u32 = 2;
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);

/// How often a conflict over our address is worth a line in the log.
const CONFLICT_INTERVAL: Duration = Duration::from_secs(60);

/// The IP of an interface.
#[derive(Debug)]
pub(super) struct Address {
    mac: MacAddr,
    ip: Ipv4Addr,
    /// Announcements still to be made, and when the next is due.
    announcements: u32,
    announce: Instant,
    /// When somebody else last claimed our address in the log; how often it happened.
    conflict_logged: Option<Instant>,
    conflicts: u64,
}

impl Address {
    /// `ip`, from now on that of the interface with this MAC.
    pub(super) fn new(mac: MacAddr, ip: Ipv4Addr, now: Instant) -> Self {
        Self { mac, ip, announcements: ANNOUNCEMENTS, announce: now, conflict_logged: None, conflicts: 0 }
    }

    /// What is to be sent to everybody now, if anything.
    pub(super) fn poll(&mut self, now: Instant) -> Option<arp::Packet> {
        if self.deadline()? > now {
            return None;
        }
        self.announcements -= 1;
        self.announce = now + ANNOUNCE_INTERVAL;
        Some(arp::Packet::announcement(self.mac, self.ip))
    }

    /// When [`Address::poll`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (self.announcements > 0).then_some(self.announce)
    }

    /// Whether a packet claims our address for somebody else; if it does, that is counted, and logged now and then.
    pub(super) fn is_conflict(&mut self, packet: &arp::Packet, now: Instant) -> bool {
        if packet.sender_ip != self.ip || packet.sender_mac == self.mac {
            return false;
        }
        self.conflicts += 1;
        if self.conflict_logged.is_none_or(|logged| logged + CONFLICT_INTERVAL <= now) {
            self.conflict_logged = Some(now);
            let (ip, other) = (self.ip, packet.sender_mac);
            tracing::warn!(%ip, %other, "another host uses our IP: give one of the two another");
        }
        true
    }

    /// How often another host claimed our address.
    pub(super) fn conflicts(&self) -> u64 {
        self.conflicts
    }
}
