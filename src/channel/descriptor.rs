//! What a slot of `tx` and `rx` says, as two words.
//!
//! ```text
//! word 0   flow: 32 │ number: 16 │ flags: 8 │ kind: 7 │ the ring's phase tag: 1      (from the lowest bit)
//! word 1   buffer: 32 │ records: 16, or ports, or half an address, or a count
//! ```

use super::layout::DESCRIPTOR_WORDS;
use super::opened::Head;
use machnet_core::flow::FlowId;
use machnet_core::message::{Content, Position};

const PIECE: u8 = 1;
const CLOSE: u8 = 2;
const RELEASE: u8 = 3;
const OPENED: u8 = 4;
const ADDRESS: u8 = 5;
const SILENT: u8 = 6;
const ALIVE: u8 = 7;
const CLOSED: u8 = 8;
const RECORDS: u8 = 9;
const PAYLOAD_MAX: u8 = 10;
const ABORT: u8 = 11;

const FIRST: u8 = 1 << 0;
const LAST: u8 = 1 << 1;
const ACCEPTED: u8 = 1 << 0;
const TAKES_RECORDS: u8 = 1 << 1;
const IPV6: u8 = 1 << 2;

pub(super) type Words = [u64; DESCRIPTOR_WORDS];

/// One slot, understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Descriptor {
    /// `tx`, `rx`: a piece of a message, or several whole ones.
    Piece { flow: FlowId, buffer: u32, len: u16, content: Content },
    /// `tx`: nothing more will be sent.
    Close { flow: FlowId },
    /// `tx`: the flow is to end at once.
    Abort { flow: FlowId },
    /// `tx`: the application knows that the flow ended.
    Release { flow: FlowId },
    /// `rx`: a flow is established. The next slots say its addresses.
    Opened { flow: FlowId, head: Head },
    /// `rx`: a word of the addresses of an `Opened`, published together with it.
    Address { flow: FlowId, word: u64 },
    /// `rx`: the peer does not answer at present.
    Silent { flow: FlowId },
    /// `rx`: the peer answers again.
    Alive { flow: FlowId },
    /// `rx`: how many bytes a piece should have from now on. Longer ones are taken all the same.
    MaxPayload { flow: FlowId, max_payload: u16 },
    /// `rx`: the flow ended.
    Closed { flow: FlowId, reason: u16, acknowledged_messages: u64 },
}

impl Descriptor {
    #[inline]
    pub(super) fn encode(self) -> Words {
        match self {
            Self::Piece { flow, buffer, len, content: Content::Piece(position) } => {
                let flags = if position.first { FIRST } else { 0 } | if position.last { LAST } else { 0 };
                [head(PIECE, flags, len, flow), u64::from(buffer)]
            }
            Self::Piece { flow, buffer, len, content: Content::Records(records) } => {
                [head(RECORDS, 0, len, flow), u64::from(buffer) | u64::from(records) << 32]
            }
            Self::Close { flow } => [head(CLOSE, 0, 0, flow), 0],
            Self::Abort { flow } => [head(ABORT, 0, 0, flow), 0],
            Self::Release { flow } => [head(RELEASE, 0, 0, flow), 0],
            Self::Opened { flow, head: opened } => {
                let Head { max_payload, accepted, takes_records, is_ipv6, local_port, remote_port } = opened;
                let flags = [(accepted, ACCEPTED), (takes_records, TAKES_RECORDS), (is_ipv6, IPV6)];
                let flags = flags.into_iter().filter(|(is_set, _)| *is_set).fold(0, |all, (_, flag)| all | flag);
                [head(OPENED, flags, max_payload, flow), u64::from(local_port) << 16 | u64::from(remote_port)]
            }
            Self::Address { flow, word } => [head(ADDRESS, 0, 0, flow), word],
            Self::Silent { flow } => [head(SILENT, 0, 0, flow), 0],
            Self::Alive { flow } => [head(ALIVE, 0, 0, flow), 0],
            Self::MaxPayload { flow, max_payload } => [head(PAYLOAD_MAX, 0, max_payload, flow), 0],
            Self::Closed { flow, reason, acknowledged_messages } => {
                [head(CLOSED, 0, reason, flow), acknowledged_messages]
            }
        }
    }

    /// `None`: no descriptor of this release.
    #[inline]
    pub(super) fn decode([head, body]: Words) -> Option<Self> {
        let [.., flags, kind] = head.to_le_bytes();
        let number = low_u16(head >> 32);
        let flow = FlowId(low_u32(head));
        Some(match kind {
            PIECE => {
                let position = Position { first: flags & FIRST != 0, last: flags & LAST != 0 };
                let content = Content::Piece(position);
                Self::Piece { flow, buffer: u32::try_from(body).ok()?, len: number, content }
            }
            RECORDS => {
                let records = u16::try_from(body >> 32).ok().filter(|records| *records > 0)?;
                Self::Piece { flow, buffer: low_u32(body), len: number, content: Content::Records(records) }
            }
            CLOSE => Self::Close { flow },
            ABORT => Self::Abort { flow },
            RELEASE => Self::Release { flow },
            OPENED => {
                let head = Head {
                    max_payload: number,
                    accepted: flags & ACCEPTED != 0,
                    takes_records: flags & TAKES_RECORDS != 0,
                    is_ipv6: flags & IPV6 != 0,
                    local_port: low_u16(body >> 16),
                    remote_port: low_u16(body),
                };
                Self::Opened { flow, head }
            }
            ADDRESS => Self::Address { flow, word: body },
            SILENT => Self::Silent { flow },
            ALIVE => Self::Alive { flow },
            PAYLOAD_MAX => Self::MaxPayload { flow, max_payload: number },
            CLOSED => Self::Closed { flow, reason: number, acknowledged_messages: body },
            _ => return None,
        })
    }
}

#[inline]
fn head(kind: u8, flags: u8, number: u16, flow: FlowId) -> u64 {
    u64::from(flow.0) | u64::from(number) << 32 | u64::from(flags) << 48 | u64::from(kind) << 56
}

fn low_u16(word: u64) -> u16 {
    let [a, b, ..] = word.to_le_bytes();
    u16::from_le_bytes([a, b])
}

fn low_u32(word: u64) -> u32 {
    let [a, b, c, d, ..] = word.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}
