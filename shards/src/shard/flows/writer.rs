//! A flow's packets, into frames.

use machnet_nic::NicQueue;
use machnet_proto::dialect::Dialect;
use machnet_proto::flow::{Outgoing, fragments};
use machnet_proto::packet::{Kind, Marks};
use machnet_proto::wire::frame::Template;

use super::super::channels::{Channel, Load};
use super::super::egress::Egress;
use super::super::turn::Turn;
use super::way::Way;
use crate::counters::Counter;

/// Writes the packets of one flow, one after the other.
pub(super) struct Writer<'a, 'turn, Q: NicQueue> {
    pub(super) egress: &'a mut Egress<Q>,
    pub(super) way: &'a mut Way,
    pub(super) dialect: Dialect,
    pub(super) turn: &'a mut Turn<'turn>,
    /// A packet that is not in one piece; kept for its memory.
    pub(super) whole: &'a mut Vec<u8>,
}

impl<Q: NicQueue> Writer<'_, '_, Q> {
    /// Whether one more packet can be written.
    #[inline]
    pub(super) fn prepare(&mut self) -> bool {
        self.egress.prepare(self.way.to_ourselves, self.turn.counts)
    }

    /// Writes a packet, after [`Writer::prepare`]; gives in how many frames' worth.
    #[inline]
    pub(super) fn write(&mut self, mut packet: Outgoing<'_, Load>, channel: &Channel) -> usize {
        if self.turn.has_just_woken {
            packet.segment.marks |= Marks::ASLEEP;
        }
        if packet.segment.kind() == Kind::Data {
            let counter = if packet.is_retransmission { Counter::Retransmissions } else { Counter::TxPieces };
            self.turn.counts.count(counter);
        }
        let payload_bytes = packet.payload_bytes();
        match packet.piece {
            Some(piece) if piece.len > packet.path_bytes => return self.write_fragments(&packet, channel),
            Some(_) => {}
            // Behind data it would make a GSO batch of a packet that may be too long for the path: a veth, which cuts
            // no GSO batches, lets that pass.
            None => {
                if packet.segment.kind() == Kind::Probe
                    && let Some(template) = self.way.next_to_ask(packet.segment.times.ts)
                {
                    return self.ask_elsewhere(&packet, &template);
                }
                self.egress.finish(&self.way.template);
            }
        }
        let Way { template, to_ourselves, .. } = &*self.way;
        let bytes = self.dialect.header_bytes() + usize::from(payload_bytes);
        let into = self.egress.append(bytes, *to_ourselves, template);
        let payload = self.dialect.write_segment(&packet.segment, into);
        let messages = match packet.piece {
            Some(piece) => {
                channel.copy_from(piece, payload);
                piece.content.messages()
            }
            None => {
                payload.fill(0);
                0
            }
        };
        self.egress.wrote(messages, template, self.turn.counts);
        1
    }

    /// Writes a PROBE to somebody who may be the peer.
    #[cold]
    fn ask_elsewhere(&mut self, packet: &Outgoing<'_, Load>, template: &Template) -> usize {
        self.egress.finish(&self.way.template);
        let bytes = self.dialect.header_bytes() + usize::from(packet.payload_bytes());
        let into = self.egress.append(bytes, self.way.to_ourselves, template);
        self.dialect.write_segment(&packet.segment, into).fill(0);
        self.egress.wrote(0, template, self.turn.counts);
        self.egress.finish(template);
        1
    }

    /// Writes a packet in fragments, also if the device does not keep up with all of them. If frames run out those
    /// before are lost, and the flow repeats the packet.
    #[cold]
    fn write_fragments(&mut self, packet: &Outgoing<'_, Load>, channel: &Channel) -> usize {
        let Some(piece) = packet.piece else { return 0 };
        self.turn.counts.count(Counter::Fragmented);
        self.whole.resize(usize::from(piece.len), 0);
        channel.copy_from(piece, self.whole);
        let Way { template, to_ourselves, .. } = &*self.way;
        let mut sent = 0;
        for (segment, range) in fragments::cut(&packet.segment, piece.len, packet.path_bytes) {
            if !self.egress.prepare_more(*to_ourselves, self.turn.counts) {
                break;
            }
            let bytes = self.dialect.header_bytes() + range.len();
            let into = self.egress.append(bytes, *to_ourselves, template);
            let payload = self.dialect.write_segment(&segment, into);
            payload.copy_from_slice(&self.whole[range]);
            sent += 1;
        }
        sent
    }

    /// No more packets of this flow follow for now.
    #[inline]
    pub(super) fn finish(&mut self) {
        self.egress.finish(&self.way.template);
    }
}
