//! Datagrams: what is read of one is written as it was.

use machnet_proto::dialect::Dialect;
use machnet_proto::packet::{Body, Packet};

pub(crate) fn run(datagram: &[u8]) {
    // Of no flow, and of one that speaks this.
    for dialect in [Dialect::recognize(datagram), Dialect::Extended] {
        let Ok((packet, payload)) = dialect.read(datagram) else { continue };
        let padding_bytes = match packet {
            Packet::Segment(segment) => match segment.body {
                Body::Probe { padding_bytes } => padding_bytes,
                _ => 0,
            },
            _ => 0,
        };
        let again = [&dialect.write(&packet), payload, &vec![0; padding_bytes.into()]].concat();
        assert_eq!(dialect.read(&again), Ok((packet, payload)));
    }
}
