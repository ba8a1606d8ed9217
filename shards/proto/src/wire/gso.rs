//! GSO batches: UDP packets of one flow as one frame, with one set of headers before them, as UDP segmentation offload
//! has it.
//!
//! ```text
//!   Ethernet │ IPv4 │ UDP │ payload, segment_bytes long │ payload, segment_bytes long │ payload, at most so long
//! ```
//!
//! The lengths in the headers are those of the whole frame, and the UDP checksum is that of the pseudo header only.
//! Whoever puts the packets on a wire cuts the batch; here that is done for those who cannot leave it to a device.

use zerocopy::FromBytes;

use super::frame::HEADERS_BYTES;
use super::{ethernet, ipv4, udp};

/// The payloads of a GSO batch of IPv4 and UDP frames, in order. Nothing says that its headers are sound.
pub fn payloads(batch: &[u8], segment_bytes: u16) -> impl Iterator<Item = &[u8]> {
    let all = batch.get(HEADERS_BYTES..).unwrap_or_default();
    all.chunks(usize::from(segment_bytes).max(1))
}

/// Writes the frame of one packet of a GSO batch: the batch's headers with lengths and checksums of their own, then the
/// payload.
///
/// # Panics
///
/// If `into` is not as long as headers and payload, or the batch shorter than its headers.
pub fn write_packet(batch: &[u8], payload: &[u8], into: &mut [u8]) {
    assert_eq!(into.len(), HEADERS_BYTES + payload.len(), "the frame has room for just this packet");
    into[..HEADERS_BYTES].copy_from_slice(&batch[..HEADERS_BYTES]);
    into[HEADERS_BYTES..].copy_from_slice(payload);
    complete(into);
}

/// Writes lengths and checksums of an IPv4 and UDP frame that is one whole packet.
///
/// # Panics
///
/// If it is shorter than its headers, or longer than IPv4 allows.
pub fn complete(frame: &mut [u8]) {
    let packet = &mut frame[ethernet::HEADER_BYTES..];
    let length = |bytes: &[u8]| u16::try_from(bytes.len()).expect("an IPv4 packet's length has 16 bits");
    let total_bytes = length(packet);
    let (ip, segment) = ipv4::RawHeader::mut_from_prefix(packet).expect("the frame has its headers");
    let protocol_sum = ip.rewrite_length(total_bytes);
    let segment_bytes = length(segment);
    let (header, payload) = udp::RawHeader::mut_from_prefix(segment).expect("the frame has its headers");
    header.set_length(segment_bytes);
    let sum = header.add_to(protocol_sum.add_u16(segment_bytes)).add_bytes(payload);
    header.set_checksum(sum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::FlowKey;
    use crate::wire::frame::{Parsed, Template, parse};
    use alloc::vec;
    use alloc::vec::Vec;
    use core::net::Ipv4Addr;
    use machnet_core::addr::MacAddr;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_gso_batch_that_is_cut_is_the_packets_it_was_made_of(
            segment_bytes in 1u16..400,
            whole in 0usize..20,
            rest in 1usize..400,
            seed: u8,
        ) {
            let key = FlowKey {
                local_ip: Ipv4Addr::new(10, 0, 0, 1),
                remote_ip: Ipv4Addr::new(10, 0, 0, 2),
                local_port: 4_000,
                remote_port: 888,
            };
            let template = Template::new(MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]), &key);
            let rest = rest.min(usize::from(segment_bytes));
            let len = whole * usize::from(segment_bytes) + rest;
            let bytes: Vec<u8> = (0..=u8::MAX).cycle().map(|byte| byte ^ seed).take(len).collect();
            let mut batch = vec![0; HEADERS_BYTES];
            batch.extend(&bytes);
            template.write(&mut batch);
            let mut joined: Vec<u8> = Vec::new();
            for payload in payloads(&batch, segment_bytes) {
                let mut cut = vec![0xee; HEADERS_BYTES + payload.len()];
                write_packet(&batch, payload, &mut cut);
                let mut expected = vec![0; HEADERS_BYTES];
                expected.extend(payload);
                template.write(&mut expected);
                template.seal(&mut expected);
                prop_assert_eq!(&cut, &expected, "as if it had been sent by itself");
                let Ok(Parsed::Udp(datagram)) = parse(&cut) else { panic!("not UDP") };
                prop_assert_eq!(datagram.checksum_is_good(), Some(true));
                joined.extend(datagram.payload);
            }
            prop_assert_eq!(joined, bytes);
        }
    }

    #[test]
    fn what_is_too_short_for_headers_has_no_packets() {
        assert_eq!(payloads(&[0; HEADERS_BYTES], 10).count(), 0);
        assert_eq!(payloads(&[0; 3], 10).count(), 0);
        assert_eq!(payloads(&[0; HEADERS_BYTES + 3], 0).count(), 3, "a length of nothing is taken for one");
    }
}
