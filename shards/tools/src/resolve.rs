//! Which MAC a neighbor has.

use machnet_core::addr::MacAddr;
use machnet_core::time::Duration;
use machnet_proto::neighbor::{Action, NeighborCache, NeighborLimits, Resolution};
use machnet_proto::wire::arp;
use machnet_proto::wire::frame::{self, Parsed};
use std::net::Ipv4Addr;

use super::lanes::{Fate, Station};
use super::open::Failure;
use machnet::daemon::sleep::Clock;
use machnet_nic::NicQueue;

/// How long a neighbor is asked for; as long as Machnet's tools do.
const RESOLVE_WITHIN: Duration = Duration::from_secs(5);

/// Asks by ARP for the MAC of `ip`. It is not asked again later: a run with a neighbor whose MAC changes is a run
/// against a host that is gone.
///
/// # Errors
/// When nobody has answered after 5 s, or the run was stopped before.
pub fn resolve<Q: NicQueue>(station: &mut Station<'_, Q>, ip: Ipv4Addr) -> Result<MacAddr, Failure> {
    let host = station.host();
    let mut cache = NeighborCache::new(host.ip, NeighborLimits::default());
    let give_up = Clock.now() + RESOLVE_WITHIN;
    loop {
        let now = Clock.now();
        let received = station.receive(|frame| {
            if let Ok(Parsed::Arp(packet)) = frame::parse(frame) {
                cache.on_arp(&packet, now);
            }
            Fate::Done
        });
        if let Resolution::Known(mac) = cache.resolve(ip, now) {
            return Ok(mac);
        }
        if station.stop().is_asked() {
            return Err(Failure::new(1, format!("stopped before {ip} had answered ARP")));
        }
        if now >= give_up {
            let seconds = RESOLVE_WITHIN.as_secs();
            return Err(Failure::new(
                1,
                format!(
                    "{ip} has not answered ARP for {seconds} s: is it running, on the same link, with that address, \
                     and is the link up?"
                ),
            ));
        }
        while let Some(action) = cache.poll(now) {
            if let Action::Request { ip, unicast_to } = action {
                let request = arp::ArpPacket::request(host.mac, host.ip, ip);
                let request = request.frame(unicast_to.unwrap_or(MacAddr::BROADCAST));
                // One that cannot be sent is followed by the next.
                station.send(request.len(), |frame| frame.copy_from_slice(&request));
            }
        }
        let sent = station.transmit();
        let until = cache.deadline().map_or(give_up, |next| next.min(give_up));
        station.rest(received + sent > 0, now, Some(until)).map_err(|error| Failure::system(&error))?;
    }
}
