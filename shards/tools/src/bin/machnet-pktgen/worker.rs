//! The thread of one queue: it generates or returns frames, and counts.

use machnet::daemon::sleep::Clock;
use machnet_core::time::Duration;
use machnet_nic::NicQueue;
use machnet_proto::wire::bounce::turn_round;
use machnet_proto::wire::frame::{self, Parsed, UdpDatagram};
use machnet_tools::{Failure, Fate, Responder, Station, Stop};
use std::net::Ipv4Addr;

use crate::counts::{Tally, TrafficCounts};
use crate::generator::{Generator, PORT};

/// How long a generator whose frames are all in use waits before it looks for one again, at the most.
const RETRY: Duration = Duration::from_micros(250);

/// What a thread does.
#[derive(Debug)]
pub(crate) enum Role {
    /// Returns frames to whoever sent them.
    Passive,
    /// Sends frames, if it has some, and counts those of the first `flows` flows that `remote` returns.
    Active { generator: Option<Generator>, remote: Ipv4Addr, flows: u16 },
}

/// One queue.
pub(crate) struct Worker<'a, Q: NicQueue> {
    pub(crate) station: Station<'a, Q>,
    pub(crate) role: Role,
    pub(crate) counts: &'a TrafficCounts,
    /// Ends the generating.
    pub(crate) sent_all: &'a Stop,
}

impl<Q: NicQueue> Worker<'_, Q> {
    /// Works until the run ends, on `cpu` if there is one.
    ///
    /// # Errors
    /// When it may not run there, or not sleep.
    pub(crate) fn run(mut self, cpu: Option<usize>) -> Result<(), Failure> {
        self.station.enter_thread(cpu)?;
        let mut tally = Tally::default();
        let mut ports = Ports::new();
        // Frames put behind the device's, whether it took them or not.
        let (mut queued, mut frame_bytes) = (0, 0);
        loop {
            let now = Clock.now();
            let is_ending = self.station.stop().is_asked();
            let received = self.receive(&mut tally, &mut ports, &mut queued);
            let mut is_hungry = false;
            if let Role::Active { generator: Some(generator), .. } = &mut self.role
                && !self.sent_all.is_asked()
            {
                frame_bytes = generator.frame_bytes() as u64;
                queued += fill(&mut self.station, generator);
                is_hungry = generator.left() > 0;
            }
            let sent = self.station.transmit();
            tally.sent = queued.saturating_sub(self.station.unsent() as u64);
            if matches!(self.role, Role::Active { .. }) {
                tally.sent_bytes = tally.sent * frame_bytes;
            }
            tally.answered = self.station.answered();
            self.counts.publish(&tally);
            if is_ending {
                return Ok(());
            }
            let until = is_hungry.then(|| now + RETRY);
            self.station.rest(received + sent > 0, now, until).map_err(|error| Failure::system(&error))?;
        }
    }

    fn receive(&mut self, tally: &mut Tally, ports: &mut Ports, queued: &mut u64) -> usize {
        let host = self.station.host();
        match &self.role {
            Role::Passive => self.station.receive(|frame| {
                let port = udp(frame).map(|datagram| datagram.key.remote_port);
                if !turn_round(frame, host.mac, host.ip) {
                    tally.ignored += 1;
                    return Fate::Done;
                }
                tally.received += 1;
                tally.received_bytes += frame.len() as u64;
                tally.sent_bytes += frame.len() as u64;
                tally.flows += u64::from(port.is_some_and(|port| ports.is_new(port)));
                *queued += 1;
                Fate::SendBack
            }),
            &Role::Active { remote, flows, .. } => self.station.receive(|frame| {
                match udp(frame).and_then(|datagram| returned(&datagram, host, remote, flows)) {
                    None => tally.ignored += 1,
                    Some(port) => {
                        tally.received += 1;
                        tally.received_bytes += frame.len() as u64;
                        tally.flows += u64::from(ports.is_new(port));
                    }
                }
                Fate::Done
            }),
        }
    }
}

/// Writes frames until there is no more room, or nothing more to send. Gives how many.
fn fill<Q: NicQueue>(station: &mut Station<'_, Q>, generator: &mut Generator) -> u64 {
    let mut count = 0;
    while generator.left() > 0 && station.send(generator.frame_bytes(), |frame| generator.write(frame)) {
        count += 1;
    }
    count
}

fn udp(frame: &[u8]) -> Option<UdpDatagram<'_>> {
    match frame::parse(frame) {
        Ok(Parsed::Udp(datagram)) => Some(datagram),
        _ => None,
    }
}

/// The source port of a frame of ours that `remote` has returned, ports as they were, if that is what this is.
fn returned(datagram: &UdpDatagram<'_>, host: Responder, remote: Ipv4Addr, flows: u16) -> Option<u16> {
    let key = datagram.key;
    let is_for_us = datagram.destination_mac == host.mac && key.local_ip == host.ip;
    let is_returned = key.remote_ip == remote && key.local_port == PORT;
    (is_for_us && is_returned && (PORT..PORT + flows).contains(&key.remote_port)).then_some(key.remote_port)
}

/// The ports that have been seen.
struct Ports(Box<[u64; 1024]>);

impl Ports {
    fn new() -> Self {
        Self(Box::new([0; 1024]))
    }

    /// Whether it was not there before; it is from now on.
    fn is_new(&mut self, port: u16) -> bool {
        let word = &mut self.0[usize::from(port / 64)];
        let bit = 1 << (port % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::Target;
    use machnet_core::addr::MacAddr;

    #[test]
    fn every_port_is_new_once() {
        let mut ports = Ports::new();
        assert!((0..=u16::MAX).all(|port| ports.is_new(port)));
        assert!((0..=u16::MAX).all(|port| !ports.is_new(port)));
    }

    #[test]
    fn a_frame_counts_if_the_remote_returned_it() {
        let us = Responder { mac: MacAddr([2, 0, 0, 0, 0, 1]), ip: Ipv4Addr::new(10, 0, 0, 1) };
        let target = Target { host: us, mac: MacAddr([2, 0, 0, 0, 0, 2]), ip: Ipv4Addr::new(10, 0, 0, 2) };
        let mut frame = [0; 64];
        target.template(5).write(&mut frame);
        let of = |frame: &[u8], remote, flows| returned(&udp(frame).expect("UDP"), us, remote, flows);
        assert_eq!(of(&frame, target.ip, 6), None, "on its way there");
        assert!(turn_round(&mut frame, target.mac, target.ip));
        assert_eq!(of(&frame, target.ip, 6), Some(6671));
        assert_eq!(of(&frame, target.ip, 5), None, "no flow of ours");
        assert_eq!(of(&frame, Ipv4Addr::new(10, 0, 0, 3), 6), None, "another host");
    }
}
