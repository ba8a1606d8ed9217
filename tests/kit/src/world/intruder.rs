//! Somebody on the link who belongs to nobody: frames that are for others, frames that say what is not true, frames
//! sent again. He knows every tuple and hears some frames, and he guesses numbers as anybody would.

use std::net::Ipv4Addr;

use machnet_core::addr::MacAddr;
use machnet_core::flow::CloseReason;
use machnet_core::message::Content;
use machnet_nic::faults::Dice;
use machnet_nic::memory::{MemoryQueue, Network, NicOptions};
use machnet_nic::{Frame, NicQueue};
use machnet_proto::addr::FlowKey;
use machnet_proto::dialect::{Dialect, HandshakeStep, Unspoken};
use machnet_proto::handshake::Terms;
use machnet_proto::packet::{Body, Data, Marks, Packet, Refuse, Sack, Segment, Stamp, Syn, SynAck, Times};
use machnet_proto::seq::SeqNo;
use machnet_proto::wire::arp::ArpPacket;
use machnet_proto::wire::checksum::Sum;
use machnet_proto::wire::frame::{HEADERS_BYTES, Template};

/// The last byte of his addresses.
const NUMBER: u8 = 66;
/// Frames of a flood, at most.
const FLOOD_FRAMES_MAX: usize = 400;
/// Where a frame has its EtherType, and its IP header.
const ETHER_TYPE: usize = 12;
const IP: usize = 14;

/// What he does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intrusion {
    /// A frame that is not for this stack, or for nobody.
    Stray,
    /// A packet with the tuple of a flow, and numbers that are guessed.
    Guess,
    /// A frame that was heard, once more.
    Replay,
    /// Many frames of a kind that costs whoever receives them something.
    Flood,
    /// An ARP packet by which another host's address is at his MAC.
    ArpLie,
    /// An ICMP message by which a SYN that was heard did not arrive. A connect may fail by it.
    Rejection,
}

/// A host of the network, and what he aims at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) mac: MacAddr,
    /// A flow, or what might be one, as its victim sees it.
    pub(crate) key: FlowKey,
    /// The MAC of the other end.
    pub(crate) peer_mac: MacAddr,
}

/// See the module's documentation.
pub(crate) struct Intruder {
    queue: MemoryQueue,
    mac: MacAddr,
    ip: Ipv4Addr,
    dice: Dice,
}

impl Intruder {
    pub(crate) fn new(network: &Network, seed: u64) -> Self {
        let mac = NicOptions::mac_of(NUMBER);
        let queue = network.plug(&NicOptions { mac, mtu_bytes: 9_000, ..NicOptions::default() }).into_queue();
        Self { queue, mac, ip: Ipv4Addr::new(10, 0, 0, NUMBER), dice: Dice::new(seed) }
    }

    /// Does it, once; `heard` are frames that others sent.
    pub(crate) fn act(&mut self, intrusion: Intrusion, target: &Target, heard: &[Vec<u8>]) {
        // What came to him, because it was for everybody.
        let mut arrived = Vec::with_capacity(1024);
        self.queue.receive(&mut arrived, 1024);
        drop(arrived);
        match intrusion {
            Intrusion::Stray => self.stray(target),
            Intrusion::Guess => {
                let packet = self.guess();
                self.send_packet(target, &packet);
            }
            Intrusion::Replay if !heard.is_empty() => {
                let frame = &heard[self.dice.below(heard.len())];
                self.send(frame);
            }
            Intrusion::Replay => {}
            Intrusion::Flood => self.flood(target),
            Intrusion::ArpLie => {
                let mut lie = ArpPacket::request(self.mac, target.key.remote_ip, target.key.local_ip);
                if self.dice.chance(0.5) {
                    let asked = ArpPacket::request(target.mac, target.key.local_ip, target.key.remote_ip);
                    lie = asked.answered_by(self.mac);
                }
                self.send(&lie.frame(target.mac));
            }
            Intrusion::Rejection => {
                let syns: Vec<&Vec<u8>> = heard.iter().filter(|frame| is_syn(frame)).collect();
                if !syns.is_empty() {
                    let quoted = syns[self.dice.below(syns.len())];
                    let answer = self.rejection(quoted);
                    self.send(&answer);
                }
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        let Some(mut frame) = self.queue.allocate() else { return };
        frame.set_len(bytes.len());
        frame.bytes_mut().copy_from_slice(bytes);
        self.queue.transmit(&mut vec![frame]);
    }

    fn number(&mut self) -> u32 {
        u32::try_from(self.dice.throw() >> 32).expect("32 bits")
    }

    /// A packet as his peer might send it to the target: from that one's MAC or his own.
    fn send_packet(&mut self, target: &Target, packet: &Packet) {
        let datagram = Dialect::OURS.write(packet);
        let has_data = matches!(packet, Packet::Segment(Segment { body: Body::Data(_), .. }));
        let len = if has_data { self.dice.below(64) } else { 0 };
        let frame = self.datagram(target, &[&datagram[..], &vec![0x5A; len]].concat());
        self.send(&frame);
    }

    fn datagram(&mut self, target: &Target, payload: &[u8]) -> Vec<u8> {
        let source = if self.dice.chance(0.5) { target.peer_mac } else { self.mac };
        let template = Template::new(source, target.mac, &target.key.reversed());
        let mut frame = vec![0; HEADERS_BYTES];
        frame.extend_from_slice(payload);
        template.write(&mut frame);
        template.seal(&mut frame);
        frame
    }

    /// A packet with numbers of which nobody told him.
    fn guess(&mut self) -> Packet {
        let reason = CloseReason::ALL[self.dice.below(CloseReason::ALL.len())];
        let (nonce, echo) = (self.number(), self.number());
        let mut terms = Terms::of_interface(1_500, self.dice.throw());
        terms.offer.nonce = nonce;
        let data = Data { content: Content::WHOLE, answer_now: true, fragment: None };
        let body = match self.dice.below(9) {
            0 => return Packet::Syn(Syn { terms }),
            1 => return Packet::SynAck(SynAck { terms, echo }),
            2 => return Packet::Refuse(Refuse { echo, reason }),
            3 => {
                let step = [HandshakeStep::Syn, HandshakeStep::SynAck, HandshakeStep::Refuse][self.dice.below(3)];
                return Packet::Unspoken(Unspoken { step, seq: SeqNo::new(nonce), ack: SeqNo::new(echo) });
            }
            4 => Body::Ack { padding_bytes: 0 },
            5 => Body::Probe { padding_bytes: 0 },
            6 => Body::Close { reason },
            7 => Body::Data(data),
            _ => Body::Reset { reason },
        };
        Packet::Segment(Segment {
            seq: SeqNo::new(nonce),
            ack: SeqNo::new(echo),
            sack: Sack::EMPTY,
            window_packets: 192,
            marks: Marks::empty(),
            times: Times { ts: Stamp::new(self.number()), echo: Stamp::new(self.number()), hold_us: 0 },
            body,
        })
    }

    fn flood(&mut self, target: &Target) {
        let kind = self.dice.below(3);
        for _ in 0..1 + self.dice.below(FLOOD_FRAMES_MAX) {
            match kind {
                0 => {
                    let asked = ArpPacket::request(self.mac, self.ip, target.key.local_ip);
                    self.send(&asked.frame(target.mac));
                }
                1 => {
                    let packet = self.guess();
                    self.send_packet(target, &packet);
                }
                _ => {
                    let mut terms = Terms::of_interface(1_500, 1);
                    terms.offer.nonce = self.number();
                    let remote_port = u16::try_from(1 + self.dice.below(60_000)).expect("a port");
                    let key = FlowKey { remote_ip: self.ip, remote_port, ..target.key };
                    let target = Target { key, peer_mac: self.mac, ..*target };
                    self.send_packet(&target, &Packet::Syn(Syn { terms }));
                }
            }
        }
    }

    /// What is on links beside us.
    fn stray(&mut self, target: &Target) {
        let mut frame = self.datagram(target, b"\x12\x34 of some other program");
        match self.dice.below(9) {
            0 => frame[ETHER_TYPE..IP].copy_from_slice(&[0x86, 0xdd]), // IPv6
            1 => {
                let tag = [0x81, 0x00, 0x00, 0x05]; // VLAN 5
                frame.splice(ETHER_TYPE..ETHER_TYPE, tag);
            }
            2 => change_ip(&mut frame, |ip| ip[6] |= 0x20), // more fragments follow
            3 => change_ip(&mut frame, |ip| ip[9] = 6),     // TCP
            4 => change_ip(&mut frame, |ip| ip[19] = 99),   // another host's
            5 => frame[6..ETHER_TYPE].copy_from_slice(&target.mac.0),
            6 => frame.truncate(self.dice.below(HEADERS_BYTES)),
            // A SYN of the older generation: it has this length.
            7 => {
                let datagram = [&Dialect::OURS.write(&old_syn())[..3], &[0; 27]].concat();
                frame = self.datagram(target, &datagram);
            }
            _ => {}
        }
        self.send(&frame);
    }

    /// Quotes a frame to who sent it.
    fn rejection(&mut self, quoted: &[u8]) -> Vec<u8> {
        let packet = &quoted[IP..];
        let mut frame = vec![0; IP + 20 + 8];
        frame[..6].copy_from_slice(&quoted[6..12]);
        frame[6..12].copy_from_slice(&self.mac.0);
        frame[ETHER_TYPE..IP].copy_from_slice(&[0x08, 0x00]);
        let total = u16::try_from(20 + 8 + packet.len()).expect("a SYN is short");
        let ip = &mut frame[IP..IP + 20];
        (ip[0], ip[8], ip[9]) = (0x45, 64, 1);
        ip[2..4].copy_from_slice(&total.to_be_bytes());
        ip[12..16].copy_from_slice(&self.ip.octets());
        ip[16..20].copy_from_slice(&packet[12..16]);
        frame[IP + 20] = 3;
        frame[IP + 21] = [0, 3, 13][self.dice.below(3)];
        frame.extend_from_slice(packet);
        let sum = Sum::ZERO.add_bytes(&frame[IP + 20..]).finish();
        frame[IP + 22..IP + 24].copy_from_slice(&sum.to_be_bytes());
        change_ip(&mut frame, |_| ());
        frame
    }
}

fn old_syn() -> Packet {
    Packet::Unspoken(Unspoken { step: HandshakeStep::Syn, seq: SeqNo::new(1), ack: SeqNo::new(0) })
}

/// Changes the IP header of a frame, whose checksum is right then.
fn change_ip(frame: &mut [u8], change: impl FnOnce(&mut [u8])) {
    let ip = &mut frame[IP..IP + 20];
    change(ip);
    ip[10..12].fill(0);
    let sum = Sum::ZERO.add_bytes(ip).finish();
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
}

pub(crate) fn is_syn(frame: &[u8]) -> bool {
    let read = frame.get(HEADERS_BYTES..).map(|datagram| Dialect::recognize(datagram).read(datagram));
    matches!(read, Some(Ok((Packet::Syn(_), _))))
}
