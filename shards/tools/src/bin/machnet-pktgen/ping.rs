//! `--ping`: one frame at a time, and how long it takes to come back.

use std::net::Ipv4Addr;

use machnet_core::time::Duration;
use machnet_nic::devices::OpenInterface;
use machnet_nic::{ETHERNET_HEADER_BYTES, NicQueue};
use machnet_proto::addr::FlowKey;
use machnet_proto::wire::frame::{self, HEADERS_BYTES, Parsed};
use machnet_proto::wire::ipv4;
use machnet_tools::pinger::{self, PingEvent, Schedule};
use machnet_tools::program::say;
use machnet_tools::{Failure, Probe, Reply, RttReport, RttStats, Stop};

use crate::args::Args;
use crate::generator::{PORT, Target};

/// Between two frames, unless they are sent back to back.
const GAP: Duration = Duration::from_millis(1);

/// Where the payload has the sequence number, as Machnet's: 8 bytes, little-endian.
const SEQUENCE: std::ops::Range<usize> = HEADERS_BYTES..HEADERS_BYTES + 8;

/// Measures until the run ends. Whether anything came back.
///
/// # Errors
/// When the remote host is not found, or the log cannot be written.
pub(crate) fn run<Q: NicQueue>(
    args: &Args,
    opened: OpenInterface<Q>,
    (remote, next_hop): (Ipv4Addr, Ipv4Addr),
    stop: &Stop,
) -> Result<bool, Failure> {
    let mut stats = RttStats::new(args.rtt_log.as_deref())?;
    let (mut station, mac) = pinger::start(opened, next_hop, stop)?;
    let target = Target { host: station.host(), mac, ip: remote };
    let probe = Datagram { target, frame_bytes: args.pkt_size.into() };
    let gap = (!args.back_to_back).then_some(GAP);
    let schedule = Schedule { gap, count: args.count, duration: args.duration.map(Into::into) };
    let mut received_before = 0;
    let tally = pinger::run(&mut station, &probe, &schedule, |event, tally| match event {
        PingEvent::Reply { rtt, .. } => stats.record(rtt),
        PingEvent::OutOfSequence { .. } => {}
        PingEvent::Second => {
            let received = tally.received - received_before;
            received_before = tally.received;
            say(format_args!("Sent {}, received {}, {received} in the last second", tally.sent, tally.received));
        }
    })?;
    let of_this_mode = [("mode", "ping".into()), ("pkt_size", args.pkt_size.into())];
    RttReport::new(&tally, &stats).say(remote, args.json.then_some(&of_this_mode));
    stats.finish()?;
    Ok(tally.received > 0)
}

/// Frames of flow 0 with a sequence number.
struct Datagram {
    target: Target,
    frame_bytes: usize,
}

impl Probe for Datagram {
    fn frame_bytes(&self) -> usize {
        self.frame_bytes
    }

    fn write(&self, frame: &mut [u8], sequence: u64) {
        frame[SEQUENCE.end..].fill(0);
        frame[SEQUENCE].copy_from_slice(&sequence.to_le_bytes());
        let template = self.target.template(0);
        template.write(frame);
        template.seal(frame);
    }

    fn read(&self, frame: &[u8]) -> Option<Reply> {
        let Ok(Parsed::Udp(datagram)) = frame::parse(frame) else { return None };
        let Target { host, ip, .. } = self.target;
        let key = FlowKey { local_ip: host.ip, remote_ip: ip, local_port: PORT, remote_port: PORT };
        let is_ours = datagram.destination_mac == host.mac && datagram.key == key;
        let is_intact = || frame.len() == self.frame_bytes && datagram.checksum_is_good() == Some(true);
        let [low, high, ..] = *datagram.payload.first_chunk::<8>()?;
        (is_ours && is_intact()).then(|| Reply {
            sequence: u16::from_le_bytes([low, high]),
            ttl: ipv4::ttl(&frame[ETHERNET_HEADER_BYTES..]),
            frame_bytes: frame.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machnet_core::addr::MacAddr;
    use machnet_proto::wire::bounce::turn_round;
    use machnet_tools::Responder;

    #[test]
    fn a_frame_that_comes_back_intact_is_a_reply() {
        let host = Responder { mac: MacAddr([2, 0, 0, 0, 0, 1]), ip: Ipv4Addr::new(10, 0, 0, 1) };
        let target = Target { host, mac: MacAddr([2, 0, 0, 0, 0, 2]), ip: Ipv4Addr::new(10, 0, 0, 2) };
        for frame_bytes in [64, 1514] {
            let probe = Datagram { target, frame_bytes };
            let mut frame = vec![0xee; frame_bytes];
            probe.write(&mut frame, 0x1_0203);
            assert_eq!(probe.read(&frame), None, "on its way there");
            assert!(turn_round(&mut frame, target.mac, target.ip));
            assert_eq!(probe.read(&frame), Some(Reply { sequence: 0x0203, ttl: 64, frame_bytes }));
            assert_eq!(Datagram { frame_bytes: 65, ..probe }.read(&frame), None, "of another length");
            frame[frame_bytes - 1] ^= 1;
            assert_eq!(probe.read(&frame), None, "damaged");
        }
    }
}
