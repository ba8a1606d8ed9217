//! A host without a daemon: frames as it likes them, and flows as far as it likes.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use machnet_core::addr::MacAddr;
use machnet_core::flow::CloseReason;
use machnet_core::message::Content;
use machnet_nic::faults::Dice;
use machnet_proto::addr::FlowKey;
use machnet_proto::dialect::Dialect;
use machnet_proto::handshake::Terms;
use machnet_proto::packet::{Body, Data, Marks, Packet, Sack, Segment, Stamp, Syn, Times};
use machnet_proto::seq::SeqNo;
use machnet_proto::wire::arp::{ArpPacket, Operation};
use machnet_proto::wire::frame::{self, HEADERS_BYTES, Parsed, Template};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};

use crate::attacker::{Mission, Place};

/// The interface of a host.
pub(crate) const INTERFACE: &str = "machnet0";
/// What the kernel keeps of frames that are not read yet.
const RECEIVE_BYTES: usize = 16 << 20;
/// The longest frame that is read whole; several packets may come as one.
const FRAME_BYTES_MAX: usize = 1 << 16;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// From one SYN to the next.
const SYN_AGAIN: Duration = Duration::from_millis(200);

/// All frames at an interface.
pub(crate) struct Wire {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Wire {
    pub(crate) fn open(interface: &str) -> Self {
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None).unwrap();
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BYTES);
        let name = std::ffi::CString::new(interface).unwrap();
        // SAFETY: all zeroes are an address.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
        address.sll_protocol = u16::try_from(libc::ETH_P_ALL).unwrap().to_be();
        // SAFETY: the name ends with a zero and outlives the call.
        address.sll_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) }.cast_signed();
        let len = libc::socklen_t::try_from(size_of_val(&address)).unwrap();
        // SAFETY: the address is valid for its length during the call.
        let status = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
        assert_eq!(status, 0, "{interface}: {}", io::Error::last_os_error());
        let on = 1_i32;
        let len = libc::socklen_t::try_from(size_of_val(&on)).unwrap();
        // SAFETY: the option's value is valid for its length during the call.
        let status = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_IGNORE_OUTGOING,
                (&raw const on).cast(),
                len,
            )
        };
        assert_eq!(status, 0, "{}", io::Error::last_os_error());
        Self { socket, buffer: vec![0; FRAME_BYTES_MAX] }
    }

    /// Sends a frame, and waits while the interface is full.
    pub(crate) fn send(&self, frame: &[u8]) {
        loop {
            match rustix::io::write(&self.socket, frame) {
                Ok(_) => return,
                Err(Errno::NOBUFS | Errno::AGAIN | Errno::INTR) => std::thread::sleep(Duration::from_micros(50)),
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The next frame, if one comes until then.
    pub(crate) fn receive(&mut self, until: Instant) -> Option<&[u8]> {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap();
        let ready = poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&timeout)).unwrap_or(0);
        if ready == 0 {
            return None;
        }
        let bytes = rustix::io::read(&self.socket, &mut self.buffer[..]).ok()?;
        Some(&self.buffer[..bytes])
    }
}

/// A host that speaks to the attacked daemon without one of its own. It answers ARP for every address that it speaks
/// from.
pub(crate) struct Peer {
    wire: Wire,
    own: Place,
    victim: Place,
    /// ARP requests that it heard.
    pub(crate) asked: u64,
    terms: Terms,
    dice: Dice,
    started: Instant,
}

/// What a peer heard: a packet of this flow, seen from the peer.
pub(crate) struct Heard {
    pub(crate) key: FlowKey,
    pub(crate) packet: Packet,
}

/// A flow of a peer's.
pub(crate) struct Flow {
    pub(crate) key: FlowKey,
    /// The number of the packet that it sends next.
    pub(crate) next: SeqNo,
    /// The number that it expects.
    pub(crate) expected: SeqNo,
    /// The window that it offers.
    pub(crate) window_packets: u16,
    /// The window that it is offered.
    pub(crate) offered_packets: u16,
    /// All before are acknowledged.
    pub(crate) acknowledged: SeqNo,
    echo: Option<Stamp>,
}

impl Peer {
    pub(crate) fn new(mission: &Mission) -> Self {
        let seed = u64::from(std::process::id());
        let mut dice = Dice::new(seed);
        let terms = Terms::of_interface(1_500, dice.throw());
        let Mission { own, victim, .. } = *mission;
        Self { wire: Wire::open(INTERFACE), own, victim, asked: 0, terms, dice, started: Instant::now() }
    }

    /// A flow's addresses, from one of ours.
    pub(crate) fn key(&self, from: Ipv4Addr, port: u16, to_port: u16) -> FlowKey {
        FlowKey { local_ip: from, remote_ip: self.victim.ip, local_port: port, remote_port: to_port }
    }

    /// Sends a packet, with a payload behind it.
    pub(crate) fn send(&self, key: &FlowKey, packet: &Packet, payload: &[u8]) {
        self.wire.send(&self.frame(self.own.mac, key, packet, payload));
    }

    /// A frame from this MAC to the attacked daemon.
    pub(crate) fn frame(&self, from: MacAddr, key: &FlowKey, packet: &Packet, payload: &[u8]) -> Vec<u8> {
        frame_to(self.victim.mac, from, key, packet, payload)
    }

    /// The next packet of any flow, if one comes until then; ARP is answered meanwhile.
    pub(crate) fn next(&mut self, until: Instant) -> Option<Heard> {
        loop {
            let own = self.own;
            let frame = self.wire.receive(until)?;
            match frame::parse(frame) {
                Ok(Parsed::Udp(datagram)) if datagram.destination_mac == own.mac => {
                    let key = datagram.key;
                    if let Ok((packet, _)) = Dialect::OURS.read(datagram.payload) {
                        return Some(Heard { key, packet });
                    }
                }
                Ok(Parsed::Arp(arp)) if arp.operation == Operation::Request => {
                    self.asked += 1;
                    if is_ours(own, arp.target_ip) {
                        let answer = arp.answered_by(own.mac).frame(arp.sender_mac);
                        self.wire.send(&answer);
                    }
                }
                _ => {}
            }
        }
    }

    /// Opens a flow, and confirms it.
    pub(crate) fn open(&mut self, key: FlowKey, window_packets: u16) -> Result<Flow, Option<CloseReason>> {
        let nonce = u32::try_from(self.dice.throw() >> 32).unwrap();
        let syn = Packet::Syn(Syn { terms: self.terms.with_nonce(nonce) });
        let began = Instant::now();
        while began.elapsed() < HANDSHAKE {
            self.send(&key, &syn, &[]);
            let again = Instant::now() + SYN_AGAIN;
            while let Some(heard) = self.next(again) {
                match heard.packet {
                    Packet::SynAck(answer) if heard.key == key && answer.echo == nonce => {
                        let (next, expected) = (SeqNo::new(nonce) + 1, SeqNo::new(answer.terms.offer.nonce) + 1);
                        let mut flow = Flow {
                            key,
                            next,
                            expected,
                            window_packets,
                            offered_packets: 1,
                            acknowledged: next,
                            echo: None,
                        };
                        self.say(&flow, Body::Probe { padding_bytes: 0 }, &[]);
                        self.listen(&mut flow, Instant::now() + SYN_AGAIN);
                        return Ok(flow);
                    }
                    Packet::Refuse(refusal) if heard.key == key && refusal.echo == nonce => {
                        return Err(Some(refusal.reason));
                    }
                    _ => {}
                }
            }
        }
        Err(None)
    }

    /// Takes the next packet of this flow, if one comes until then.
    pub(crate) fn listen(&mut self, flow: &mut Flow, until: Instant) -> Option<Segment> {
        while let Some(heard) = self.next(until) {
            if let (true, Packet::Segment(segment)) = (heard.key == flow.key, heard.packet) {
                flow.hear(&segment);
                return Some(segment);
            }
        }
        None
    }

    /// Sends a segment of a flow with its next number, which stays so.
    pub(crate) fn say(&self, flow: &Flow, body: Body, payload: &[u8]) {
        let segment = self.segment(flow, body);
        self.send(&flow.key, &Packet::Segment(segment), payload);
    }

    /// A segment as [`say`](Self::say) sends it, to be made worse.
    pub(crate) fn segment(&self, flow: &Flow, body: Body) -> Segment {
        let now = machnet_core::time::Instant::from_nanos(u64::try_from(self.started.elapsed().as_nanos()).unwrap());
        Segment {
            seq: flow.next,
            ack: flow.expected,
            sack: Sack::EMPTY,
            window_packets: flow.window_packets,
            marks: Marks::empty(),
            times: Times { ts: Some(Stamp::of(now)), echo: flow.echo, hold_us: 0 },
            body,
        }
    }
}

impl Flow {
    fn hear(&mut self, segment: &Segment) {
        self.echo = segment.times.ts;
        if !segment.ack.is_before(self.acknowledged) {
            self.acknowledged = segment.ack;
            self.offered_packets = segment.window_packets;
        }
        if segment.data().is_some() && segment.seq == self.expected && self.window_packets > 0 {
            self.expected += 1;
        }
    }
}

/// A whole message in one packet, whose answer is wanted at once.
pub(crate) fn message() -> Body {
    Body::Data(Data { content: Content::WHOLE, answer_now: true, fragment: None })
}

/// A frame from one MAC to another.
pub(crate) fn frame_to(to: MacAddr, from: MacAddr, key: &FlowKey, packet: &Packet, payload: &[u8]) -> Vec<u8> {
    let written = Dialect::OURS.write(packet);
    let mut frame = vec![0; HEADERS_BYTES];
    frame.extend_from_slice(&written);
    frame.extend_from_slice(payload);
    let template = Template::new(from, to, key);
    template.write(&mut frame);
    template.seal(&mut frame);
    frame
}

/// Says to the whole link that `mac` has `ip`.
pub(crate) fn announcement(mac: MacAddr, ip: Ipv4Addr) -> [u8; machnet_proto::wire::arp::FRAME_BYTES] {
    ArpPacket::announcement(mac, ip).frame(MacAddr::BROADCAST)
}

/// The addresses that a peer answers for: its own, and all of 10.1, 10.2 and so on.
fn is_ours(own: Place, ip: Ipv4Addr) -> bool {
    ip == own.ip || ip.octets()[0] == 10 && ip.octets()[1] > 0
}
