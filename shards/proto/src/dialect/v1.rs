//! Packets of Microsoft's Machnet: those of a handshake, which are all that is understood of it so far. It is not
//! spoken: no flow comes of them.

use zerocopy::IntoBytes;
use zerocopy::byteorder::network_endian::U32;

use super::ReadError;
use super::layout::{MAGIC, RawHeader, kind};
use super::written::Written;
use crate::packet::Packet;
use crate::seq::SeqNo;
use crate::wire::WireError;

/// A packet of a handshake in a dialect that is understood, but not spoken: Microsoft's Machnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unspoken {
    /// What it does.
    pub step: HandshakeStep,
    /// The sender's number.
    pub seq: SeqNo,
    /// SYN-ACK and RST: the SYN's number + 1.
    pub ack: SeqNo,
}

/// A step of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeStep {
    /// Opens a flow.
    Syn,
    /// Accepts it.
    SynAck,
    /// Refuses it.
    Refuse,
}

impl Unspoken {
    /// The refusal of this SYN: a v1 host believes an RST only if its number is 0.
    pub fn refused(&self) -> Self {
        Self { step: HandshakeStep::Refuse, seq: SeqNo::new(0), ack: self.seq + 1 }
    }
}

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
            Ok(Packet::Unspoken(Unspoken { step: HandshakeStep::SynAck, seq: number(4), ack: number(8) }))
        }
        Some(&(kind::SYN | kind::ACK)) if is_old => Err(ReadError::OldGeneration),
        _ => Err(WireError::Truncated.into()),
    }
}

/// Reads a packet that has no offer. v1 sends the header alone: what has more behind it is one of our own, damaged.
#[cold]
pub(super) fn read(raw: &RawHeader, rest: &[u8]) -> Result<Packet, ReadError> {
    let step = match raw.kind {
        kind::SYN => HandshakeStep::Syn,
        kind::SYN_ACK => HandshakeStep::SynAck,
        kind::RESET => HandshakeStep::Refuse,
        _ => return Err(WireError::Unknown.into()),
    };
    if !rest.is_empty() {
        return Err(WireError::BadField.into());
    }
    Ok(Packet::Unspoken(Unspoken { step, seq: SeqNo::new(raw.seq.get()), ack: SeqNo::new(raw.ack.get()) }))
}

pub(super) fn write(handshake: &Unspoken) -> Written {
    let kind = match handshake.step {
        HandshakeStep::Syn => kind::SYN,
        HandshakeStep::SynAck => kind::SYN_ACK,
        HandshakeStep::Refuse => kind::RESET,
    };
    let (seq, ack) = (U32::new(handshake.seq.get()), U32::new(handshake.ack.get()));
    let raw = RawHeader { kind, seq, ack, ..RawHeader::BLANK };
    let mut written = Written::new();
    written.header().copy_from_slice(raw.as_bytes());
    written
}

#[cfg(test)]
mod tests {
    use zerocopy::FromBytes;

    use super::super::Dialect;
    use super::super::layout::HEADER_BYTES;
    use super::*;

    fn read(datagram: &[u8]) -> Result<(Packet, &[u8]), ReadError> {
        Dialect::recognize(datagram).read(datagram)
    }

    fn write(packet: &Packet) -> Written {
        Dialect::OURS.write(packet)
    }

    /// The examples of the specification of v1, section 3.3.
    #[test]
    fn handshakes_are_v1s_byte_by_byte() {
        let cases = [
            ([0x4e, 0x53, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0], HandshakeStep::Syn, 0),
            ([0x4e, 0x53, 0x03, 0, 0, 0, 0, 0, 0, 0, 0, 1], HandshakeStep::SynAck, 1),
            ([0x4e, 0x53, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 1], HandshakeStep::Refuse, 1),
        ];
        for (start, step, ack) in cases {
            let mut expected = [0; HEADER_BYTES];
            expected[..12].copy_from_slice(&start);
            let packet = Packet::Unspoken(Unspoken { step, seq: SeqNo::new(0), ack: SeqNo::new(ack) });
            assert_eq!(write(&packet)[..], expected);
            assert_eq!(read(&expected), Ok((packet, &[][..])));
            let (raw, rest) = RawHeader::ref_from_prefix(&expected).expect("it is as long");
            assert_eq!(super::read(raw, rest), Ok(packet));
        }
        let syn = Unspoken { step: HandshakeStep::Syn, seq: SeqNo::new(0), ack: SeqNo::new(0) };
        let refusal = Unspoken { step: HandshakeStep::Refuse, seq: SeqNo::new(0), ack: SeqNo::new(1) };
        assert_eq!(syn.refused(), refusal);
    }

    #[test]
    fn what_v1_may_leave_in_a_handshake_is_no_offer() {
        // A flow opened again keeps SACK bits in its SYN-ACK (specification of v1, section 10).
        let syn_ack =
            Packet::Unspoken(Unspoken { step: HandshakeStep::SynAck, seq: SeqNo::new(0), ack: SeqNo::new(1) });
        let mut bytes = write(&syn_ack).to_vec();
        bytes[12..46].fill(0xff);
        assert_eq!(read(&bytes), Ok((syn_ack, &[][..])));
        for offer in [[0x4d, 0x53, 0, 2, 3, 4, 5, 6], [0x4d, 0x54, 1, 2, 3, 4, 5, 6]] {
            bytes[46..].copy_from_slice(&offer);
            assert_eq!(read(&bytes), Ok((syn_ack, &[][..])), "{offer:02x?}");
        }
    }

    #[test]
    fn the_older_generation_is_told_from_noise() {
        let syn_ack = Unspoken { step: HandshakeStep::SynAck, seq: SeqNo::new(0x0102_0304), ack: SeqNo::new(1) };
        let cases = [
            (0x01, Err(ReadError::OldGeneration)),
            (0x02, Err(ReadError::OldGeneration)),
            (0x03, Ok((Packet::Unspoken(syn_ack), &[][..]))),
        ];
        for (kind, expected) in cases {
            let mut packet = [0; OLD_HEADER_BYTES];
            packet[..12].copy_from_slice(&[0x4e, 0x53, kind, 0, 1, 2, 3, 4, 0, 0, 0, 1]);
            assert_eq!(read(&packet), expected);
            assert_eq!(read(&packet[..29]), Err(WireError::Truncated.into()));
            packet[0] = 0;
            assert_eq!(read(&packet), Err(WireError::Unknown.into()));
        }
    }
}
