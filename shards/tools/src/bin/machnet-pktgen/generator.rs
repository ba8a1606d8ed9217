//! The frames that an active generator sends, made beforehand.

use machnet_core::addr::MacAddr;
use machnet_proto::addr::FlowKey;
use machnet_proto::wire::frame::{HEADERS_BYTES, Template};
use machnet_tools::Responder;
use std::net::Ipv4Addr;

/// Machnet's port: of every destination, and the source of flow 0.
pub(crate) const PORT: u16 = 6666;

/// Where frames go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// Our own addresses.
    pub(crate) host: Responder,
    /// The next hop.
    pub(crate) mac: MacAddr,
    /// Who shall get them.
    pub(crate) ip: Ipv4Addr,
}

impl Target {
    /// The headers of a flow. Flow i comes from port 6666 + i.
    pub(crate) fn template(&self, flow: u16) -> Template {
        let key = FlowKey { local_ip: self.host.ip, remote_ip: self.ip, local_port: PORT + flow, remote_port: PORT };
        Template::new(self.host.mac, self.mac, &key)
    }
}

/// The frames of some flows, one flow after the other, as many as there are to send. Their checksums are computed once:
/// frames of a flow are all alike.
#[derive(Debug)]
pub(crate) struct Generator {
    headers: Box<[[u8; HEADERS_BYTES]]>,
    /// Of every frame.
    payload: Box<[u8]>,
    next: usize,
    left: u64,
}

impl Generator {
    /// `frames` frames of `pkt_size` bytes, of `flows` in turn; `None` without flows.
    pub(crate) fn new(target: &Target, flows: &[u16], pkt_size: u16, frames: u64) -> Option<Self> {
        let mut frame = vec![0; pkt_size.into()];
        for (byte, value) in frame[HEADERS_BYTES..].iter_mut().zip((0..=u8::MAX).cycle()) {
            *byte = value;
        }
        let mut headers = |flow: &u16| {
            let template = target.template(*flow);
            template.write(&mut frame);
            template.seal(&mut frame);
            *frame.first_chunk().expect("a frame is longer than its headers")
        };
        let headers = flows.iter().map(&mut headers).collect();
        let payload = frame[HEADERS_BYTES..].into();
        (!flows.is_empty()).then_some(Self { headers, payload, next: 0, left: frames })
    }

    /// Frames not yet written.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// The length of every frame.
    pub(crate) fn frame_bytes(&self) -> usize {
        HEADERS_BYTES + self.payload.len()
    }

    /// Writes the next frame.
    pub(crate) fn write(&mut self, frame: &mut [u8]) {
        let (headers, payload) = frame.split_at_mut(HEADERS_BYTES);
        headers.copy_from_slice(&self.headers[self.next]);
        payload.copy_from_slice(&self.payload);
        self.next = (self.next + 1) % self.headers.len();
        self.left -= 1;
    }
}

/// The flows that one of several queues sends: each flow belongs to one queue.
pub(crate) fn flows_of(queue: usize, queues: usize, flows: u16) -> Vec<u16> {
    (0..flows).skip(queue).step_by(queues).collect()
}

/// How many of `count` frames, dealt out to all flows in turn, belong to these flows.
pub(crate) fn share(count: Option<u64>, flows: u16, of: &[u16]) -> u64 {
    let Some(count) = count else { return u64::MAX };
    let (each, rest) = (count / u64::from(flows), count % u64::from(flows));
    of.iter().map(|flow| each + u64::from(u64::from(*flow) < rest)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use machnet_proto::wire::frame::{Parsed, parse};

    const TARGET: Target = Target {
        host: Responder { mac: MacAddr([2, 0, 0, 0, 0, 1]), ip: Ipv4Addr::new(10, 0, 0, 1) },
        mac: MacAddr([2, 0, 0, 0, 0, 2]),
        ip: Ipv4Addr::new(10, 0, 0, 2),
    };

    #[test]
    fn frames_are_udp_with_right_checksums_flow_after_flow() {
        for pkt_size in [64, 65, 1500, 1514] {
            let mut generator = Generator::new(&TARGET, &[0, 3], pkt_size, 5).unwrap();
            for flow in [0, 3, 0, 3, 0] {
                let mut frame = vec![0xee; generator.frame_bytes()];
                assert_eq!(frame.len(), usize::from(pkt_size));
                generator.write(&mut frame);
                let Ok(Parsed::Udp(datagram)) = parse(&frame) else { panic!("not UDP") };
                let key = FlowKey {
                    local_ip: TARGET.ip,
                    remote_ip: TARGET.host.ip,
                    local_port: 6666,
                    remote_port: 6666 + flow,
                };
                assert_eq!((datagram.key, datagram.checksum_is_good()), (key, Some(true)));
                assert_eq!((datagram.source_mac, datagram.destination_mac), (TARGET.host.mac, TARGET.mac));
                assert_eq!(datagram.payload.len(), usize::from(pkt_size) - 42);
                assert!(datagram.payload.iter().zip((0..=255).cycle()).all(|(byte, expected)| *byte == expected));
            }
            assert_eq!(generator.left(), 0);
        }
        assert!(Generator::new(&TARGET, &[], 64, 5).is_none());
    }

    #[test]
    fn every_flow_has_one_queue_and_every_frame_one_flow() {
        for (queues, flows) in [(1, 1), (2, 1), (2, 64), (3, 10), (4, 4), (16, 10_000)] {
            let parts: Vec<_> = (0..queues).map(|queue| flows_of(queue, queues, flows)).collect();
            let mut all = parts.concat();
            all.sort_unstable();
            assert!(all.into_iter().eq(0..flows));
            for count in [1, 2, 63, 64, 65, 1_000_003] {
                let total: u64 = parts.iter().map(|part| share(Some(count), flows, part)).sum();
                assert_eq!(total, count, "{queues} queues, {flows} flows");
            }
        }
        assert_eq!(share(Some(5), 4, &[0, 2]), 3);
        assert_eq!(share(None, 4, &[0]), u64::MAX);
    }
}
