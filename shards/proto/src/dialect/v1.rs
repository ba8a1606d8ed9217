//! Packets of Microsoft's Machnet: those of a handshake, which are all that is understood of it so far.

use zerocopy::IntoBytes;
use zerocopy::byteorder::network_endian::U32;

use super::ReadError;
use super::layout::{MAGIC, RawHeader, kind};
use super::written::Written;
use crate::packet::{Packet, V1Handshake, V1Step};
use crate::seq::SeqNo;
use crate::wire::WireError;

/// UDP payload of every handshake packet of the older generation, whose header had one SACK word instead of four.
const OLD_HEADER_BYTES: usize = 30;

/// Reads what is too short for a header of today. SYN, SYN-ACK and the ACK after them start alike in every generation;
/// they are told from noise by their length. A SYN-ACK says all there is to know; nothing else of the older generation
/// is worth an answer.
#[cold]
pub(super) fn read_short(datagram: &[u8]) -> Result<Packet, ReadError> {
    if !datagram.starts_with(&MAGIC.to_be_bytes()) {
        return Err(WireError::Unknown.into());
    }
    let is_old = datagram.len() == OLD_HEADER_BYTES;
    match datagram.get(2) {
        Some(&kind::SYN_ACK) if is_old => {
            let number = |at| SeqNo::new(u32::from_be_bytes(*datagram[at..].first_chunk().expect("30 bytes")));
            Ok(Packet::V1(V1Handshake { step: V1Step::SynAck, seq: number(4), ack: number(8) }))
        }
        Some(&(kind::SYN | kind::ACK)) if is_old => Err(ReadError::OldGeneration),
        _ => Err(WireError::Truncated.into()),
    }
}

/// Reads a packet that has no offer. v1 sends the header alone: what has more behind it is one of our own, damaged.
#[cold]
pub(super) fn read(raw: &RawHeader, rest: &[u8]) -> Result<Packet, ReadError> {
    let step = match raw.kind {
        kind::SYN => V1Step::Syn,
        kind::SYN_ACK => V1Step::SynAck,
        kind::RESET => V1Step::Refuse,
        _ => return Err(WireError::Unknown.into()),
    };
    if !rest.is_empty() {
        return Err(WireError::BadField.into());
    }
    Ok(Packet::V1(V1Handshake { step, seq: SeqNo::new(raw.seq.get()), ack: SeqNo::new(raw.ack.get()) }))
}

pub(super) fn write(handshake: &V1Handshake) -> Written {
    let kind = match handshake.step {
        V1Step::Syn => kind::SYN,
        V1Step::SynAck => kind::SYN_ACK,
        V1Step::Refuse => kind::RESET,
    };
    let (seq, ack) = (U32::new(handshake.seq.get()), U32::new(handshake.ack.get()));
    let raw = RawHeader { kind, seq, ack, ..RawHeader::BLANK };
    let mut written = Written::new();
    written.header().copy_from_slice(raw.as_bytes());
    written
}

#[cfg(test)]
mod tests {
    use super::super::layout::HEADER_BYTES;
    use super::super::{read, write};
    use super::*;

    /// The examples of the specification of v1, section 3.3.
    #[test]
    fn handshakes_are_v1s_byte_by_byte() {
        let cases = [
            ([0x4e, 0x53, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0], V1Step::Syn, 0),
            ([0x4e, 0x53, 0x03, 0, 0, 0, 0, 0, 0, 0, 0, 1], V1Step::SynAck, 1),
            ([0x4e, 0x53, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 1], V1Step::Refuse, 1),
        ];
        for (start, step, ack) in cases {
            let mut expected = [0; HEADER_BYTES];
            expected[..12].copy_from_slice(&start);
            let packet = Packet::V1(V1Handshake { step, seq: SeqNo::new(0), ack: SeqNo::new(ack) });
            assert_eq!(write(&packet)[..], expected);
            assert_eq!(read(None, &expected), Ok((packet, &[][..])));
            assert_eq!(read(Some(super::super::Dialect::V1), &expected), Ok((packet, &[][..])));
        }
        let syn = V1Handshake { step: V1Step::Syn, seq: SeqNo::new(0), ack: SeqNo::new(0) };
        let refusal = V1Handshake { step: V1Step::Refuse, seq: SeqNo::new(0), ack: SeqNo::new(1) };
        assert_eq!(syn.refused(), refusal);
    }

    #[test]
    fn what_v1_may_leave_in_a_handshake_is_no_offer() {
        // A flow opened again keeps SACK bits in its SYN-ACK (specification of v1, section 10).
        let syn_ack = Packet::V1(V1Handshake { step: V1Step::SynAck, seq: SeqNo::new(0), ack: SeqNo::new(1) });
        let mut bytes = write(&syn_ack).to_vec();
        bytes[12..46].fill(0xff);
        assert_eq!(read(None, &bytes), Ok((syn_ack, &[][..])));
        for offer in [[0x4d, 0x53, 0, 2, 3, 4, 5, 6], [0x4d, 0x54, 1, 2, 3, 4, 5, 6]] {
            bytes[46..].copy_from_slice(&offer);
            assert_eq!(read(None, &bytes), Ok((syn_ack, &[][..])), "{offer:02x?}");
        }
    }

    #[test]
    fn the_older_generation_is_told_from_noise() {
        let syn_ack = V1Handshake { step: V1Step::SynAck, seq: SeqNo::new(0x0102_0304), ack: SeqNo::new(1) };
        let cases = [
            (0x01, Err(ReadError::OldGeneration)),
            (0x02, Err(ReadError::OldGeneration)),
            (0x03, Ok((Packet::V1(syn_ack), &[][..]))),
        ];
        for (kind, expected) in cases {
            let mut packet = [0; OLD_HEADER_BYTES];
            packet[..12].copy_from_slice(&[0x4e, 0x53, kind, 0, 1, 2, 3, 4, 0, 0, 0, 1]);
            assert_eq!(read(None, &packet), expected);
            assert_eq!(read(None, &packet[..29]), Err(WireError::Truncated.into()));
            packet[0] = 0;
            assert_eq!(read(None, &packet), Err(WireError::Unknown.into()));
        }
    }
}
