//! Questions to the kernel of this network namespace (rtnetlink(7)): its interfaces, its addresses, its routes.
//!
//! Not by sysfs, which shows the namespace it was mounted in, and that is not always ours.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use machnet_core::addr::MacAddr;
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, XdpAttached,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{self, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::{Address, KernelInterface, XdpMode, XdpProgram};

/// What the kernel fills at most (NLMSG_GOODSIZE doubled up to 32 KiB), and as much again.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How often a list is asked for anew when it changes while the kernel writes it down.
const ATTEMPTS_MAX: u32 = 4;

/// All Ethernet interfaces.
pub(super) fn interfaces() -> io::Result<Vec<KernelInterface>> {
    let messages = list(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let interface = |message| match message {
        RouteNetlinkMessage::NewLink(link) => interface(&link),
        _ => None,
    };
    Ok(messages.into_iter().filter_map(interface).collect())
}

/// All IPv4 addresses of the kernel.
pub(super) fn addresses() -> io::Result<Vec<Address>> {
    let mut request = AddressMessage::default();
    request.header.family = AddressFamily::Inet;
    let messages = list(&RouteNetlinkMessage::GetAddress(request))?;
    let address = |message| match message {
        RouteNetlinkMessage::NewAddress(address) => self::address(&address),
        _ => None,
    };
    Ok(messages.into_iter().filter_map(address).collect())
}

/// Whether the kernel would send a packet for `to` on to somebody, that came from `from` by the interface with this
/// index. Also no if the kernel does not say.
pub(crate) fn forwards(index: u32, from: Ipv4Addr, to: Ipv4Addr) -> bool {
    let mut request = RouteMessage::default();
    request.header.address_family = AddressFamily::Inet;
    (request.header.destination_prefix_length, request.header.source_prefix_length) = (32, 32);
    request.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet(to)),
        RouteAttribute::Source(RouteAddress::Inet(from)),
        RouteAttribute::Iif(index),
    ];
    let answer = Conversation::begin(&RouteNetlinkMessage::GetRoute(request), 0).and_then(|mut asked| asked.next());
    // What it would not send on, nor take for itself, it says by an error.
    matches!(answer, Ok(Some(RouteNetlinkMessage::NewRoute(route))) if route.header.kind == RouteType::Unicast)
}

/// RTNLGRP_LINK as a bit of a netlink address (RTMGRP_LINK of linux/rtnetlink.h).
const LINK_GROUP: u32 = 1;

/// What the kernel says whenever an interface comes, changes or goes.
#[derive(Debug)]
pub(crate) struct LinkEvents(OwnedFd);

impl LinkEvents {
    /// Says everything that happens from now on.
    pub(crate) fn subscribe() -> io::Result<Self> {
        let socket = socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        net::bind(&socket, &SocketAddrNetlink::new(0, LINK_GROUP))?;
        Ok(Self(socket))
    }

    /// Readable when something has happened.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// The numbers of the interfaces that something has happened to; no list if that was more than the kernel keeps, or
    /// is not understood. `None`: nothing more.
    pub(crate) fn next(&mut self) -> Option<Option<Vec<u32>>> {
        let answer = match Answer::receive(&self.0) {
            Ok(answer) => answer,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(_) => return Some(None),
        };
        Some(changed(answer))
    }
}

/// The numbers of the interfaces that a datagram of events is about; `None` if it is not understood.
fn changed(mut answer: Answer) -> Option<Vec<u32>> {
    let mut indices = Vec::new();
    while let Some(message) = answer.next().ok()? {
        match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link)) => {
                indices.push(link.header.index);
            }
            _ => return None,
        }
    }
    Some(indices)
}

/// A netlink socket. No protocol is protocol 0, which is NETLINK_ROUTE.
fn socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(net::socket_with(net::AddressFamily::NETLINK, SocketType::RAW, flags, None)?)
}

/// All the kernel has of what is asked for.
fn list(request: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
    for _ in 0..ATTEMPTS_MAX {
        let mut conversation = Conversation::begin(request, NLM_F_DUMP)?;
        let mut messages = Vec::new();
        while let Some(message) = conversation.next()? {
            messages.push(message);
        }
        if !conversation.was_interrupted {
            return Ok(messages);
        }
    }
    Err(io::Error::other("it never stays the same for long enough"))
}

/// One question, and what the kernel says to it.
struct Conversation {
    socket: OwnedFd,
    answer: Answer,
    /// Something changed while the kernel wrote down what it has.
    was_interrupted: bool,
}

impl Conversation {
    fn begin(request: &RouteNetlinkMessage, flags: u16) -> io::Result<Self> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request.clone()));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let socket = socket(SocketFlags::CLOEXEC)?;
        net::send(&socket, &bytes, SendFlags::empty())?;
        Ok(Self { socket, answer: Answer::default(), was_interrupted: false })
    }

    /// The next message; `None` after the last.
    fn next(&mut self) -> io::Result<Option<RouteNetlinkMessage>> {
        loop {
            let Some(NetlinkMessage { header, payload, .. }) = self.answer.next()? else {
                self.answer = Answer::receive(&self.socket)?;
                continue;
            };
            self.was_interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
            match payload {
                NetlinkPayload::InnerMessage(message) => return Ok(Some(message)),
                NetlinkPayload::Done(_) => return Ok(None),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Overrun(_) => return Err(Errno::NOBUFS.into()),
                _ => {}
            }
        }
    }
}

/// A datagram of messages, and how far it has been read.
#[derive(Default)]
struct Answer {
    bytes: Vec<u8>,
    read: usize,
}

impl Answer {
    fn receive(socket: &OwnedFd) -> io::Result<Self> {
        let mut bytes = vec![0; ANSWER_BYTES_MAX];
        let (len, _) = net::recv(socket, &mut bytes[..], RecvFlags::empty())?;
        bytes.truncate(len);
        Ok(Self { bytes, read: 0 })
    }

    /// The next message, empty if it is not understood; `None` at the end of the datagram.
    fn next(&mut self) -> io::Result<Option<NetlinkMessage<RouteNetlinkMessage>>> {
        let rest = self.bytes.get(self.read..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        let length = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?.length();
        let message = &rest[..usize::try_from(length).expect("checked against what is there")];
        self.read += message.len().next_multiple_of(4);
        Ok(Some(NetlinkMessage::deserialize(message).unwrap_or_else(|error| {
            // One interface with something new about it must not hide all others.
            tracing::debug!("the kernel says something that is not understood: {error}");
            NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::Noop)
        })))
    }
}

/// An Ethernet interface with an address.
fn interface(link: &LinkMessage) -> Option<KernelInterface> {
    if link.header.link_layer_type != LinkLayerType::Ether {
        return None;
    }
    let mut interface = KernelInterface {
        index: link.header.index,
        name: String::new(),
        mac: MacAddr([0; 6]),
        mtu_bytes: 0,
        is_up: link.header.flags.contains(LinkFlags::Up),
        has_carrier: link.header.flags.contains(LinkFlags::LowerUp),
        lower: None,
        master: None,
        kind: None,
        xdp: None,
    };
    let (mut has_mac, mut is_lower_elsewhere) = (false, false);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(address) => {
                interface.mac = MacAddr(address.as_slice().try_into().ok()?);
                has_mac = true;
            }
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Mtu(bytes) => interface.mtu_bytes = *bytes,
            LinkAttribute::Link(index) => interface.lower = Some(*index),
            LinkAttribute::LinkNetNsId(_) => is_lower_elsewhere = true,
            LinkAttribute::Controller(index) => interface.master = Some(*index),
            LinkAttribute::LinkInfo(facts) => interface.kind = facts.iter().find_map(kind),
            LinkAttribute::Xdp(facts) => interface.xdp = xdp_program(facts),
            _ => {}
        }
    }
    interface.lower = interface.lower.filter(|_| !is_lower_elsewhere);
    (has_mac && !interface.name.is_empty()).then_some(interface)
}

fn kind(fact: &LinkInfo) -> Option<String> {
    match fact {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }
}

fn xdp_program(facts: &[LinkXdp]) -> Option<XdpProgram> {
    let attached = facts.iter().find_map(|fact| match fact {
        LinkXdp::Attached(how) => Some(*how),
        _ => None,
    });
    let number = facts.iter().find_map(|fact| match fact {
        LinkXdp::ProgId(number) => Some(*number),
        _ => None,
    });
    let mode = match attached? {
        XdpAttached::None => return None,
        XdpAttached::SocketBuffer => XdpMode::Generic,
        XdpAttached::Hardware => XdpMode::Hardware,
        _ => XdpMode::Driver,
    };
    Some(XdpProgram { number, mode })
}

fn address(message: &AddressMessage) -> Option<Address> {
    let (mut ip, mut label) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            // The other one, IFA_ADDRESS, is the other end's on a point-to-point link.
            AddressAttribute::Local(IpAddr::V4(local)) => ip = Some(*local),
            AddressAttribute::Label(text) => label = Some(text),
            _ => {}
        }
    }
    // The interface's name, and perhaps `:` and more.
    let interface = label?.split(':').next()?.to_owned();
    Some(Address { ip: ip?, prefix_bits: message.header.prefix_len, interface })
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::DoneMessage;
    use netlink_packet_route::link::InfoKind;

    use super::*;

    fn datagram(messages: &[NetlinkMessage<RouteNetlinkMessage>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for message in messages {
            let mut message = message.clone();
            message.finalize();
            let from = bytes.len();
            bytes.resize(from + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut bytes[from..]);
        }
        bytes
    }

    fn link(attributes: Vec<LinkAttribute>) -> NetlinkMessage<RouteNetlinkMessage> {
        let mut link = LinkMessage::default();
        link.header.index = 7;
        link.header.link_layer_type = LinkLayerType::Ether;
        link.header.flags = LinkFlags::Up;
        link.attributes = attributes;
        RouteNetlinkMessage::NewLink(link).into()
    }

    fn plainest() -> Vec<LinkAttribute> {
        let mac = vec![2, 0, 0, 0, 0, 1];
        vec![LinkAttribute::IfName("eth0".to_owned()), LinkAttribute::Mtu(1500), LinkAttribute::Address(mac)]
    }

    fn eth0() -> KernelInterface {
        KernelInterface {
            index: 7,
            name: "eth0".to_owned(),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            mtu_bytes: 1500,
            is_up: true,
            has_carrier: false,
            lower: None,
            master: None,
            kind: None,
            xdp: None,
        }
    }

    /// What is read of a datagram: the interfaces, and whether it was the last one.
    fn read(bytes: &[u8]) -> io::Result<(Vec<KernelInterface>, bool)> {
        let mut answer = Answer { bytes: bytes.to_vec(), read: 0 };
        let mut found = Vec::new();
        while let Some(message) = answer.next()? {
            match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => found.extend(interface(&link)),
                NetlinkPayload::Done(_) => return Ok((found, true)),
                _ => {}
            }
        }
        Ok((found, false))
    }

    #[test]
    fn a_dump_is_read_to_its_end() {
        let done = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::Done(DoneMessage::default()));
        let bytes = datagram(&[link(plainest()), done]);
        assert_eq!(read(&bytes).expect("it is whole"), (vec![eth0()], true));
        // Cut anywhere, it is refused or unfinished, never more than it was.
        for len in 0..bytes.len() {
            assert!(read(&bytes[..len]).is_err() || !read(&bytes[..len]).expect("not refused").1, "{len}");
        }
    }

    #[test]
    fn what_is_not_understood_hides_nothing() {
        let mut bytes = datagram(&[link(plainest()), link(plainest())]);
        // The length of the first attribute of the first link, behind two headers of 16 bytes.
        bytes[32] = 0xff;
        assert_eq!(read(&bytes).expect("both have their length"), (vec![eth0()], false));
    }

    #[test]
    fn what_belongs_to_an_interface_is_known() {
        let whole = [
            plainest(),
            vec![
                LinkAttribute::Link(3),
                LinkAttribute::Controller(9),
                LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vlan)]),
                LinkAttribute::Xdp(vec![LinkXdp::Attached(XdpAttached::Driver), LinkXdp::ProgId(5)]),
            ],
        ];
        let expected = KernelInterface {
            lower: Some(3),
            master: Some(9),
            kind: Some("vlan".to_owned()),
            xdp: Some(XdpProgram { number: Some(5), mode: XdpMode::Driver }),
            ..eth0()
        };
        assert_eq!(read(&datagram(&[link(whole.concat())])).expect("whole").0, [expected]);
        // The peer of a veth in another namespace has a number of there.
        let elsewhere = [plainest(), vec![LinkAttribute::Link(3), LinkAttribute::LinkNetNsId(0)]];
        assert_eq!(read(&datagram(&[link(elsewhere.concat())])).expect("whole").0, [eth0()]);
        let no_program = [plainest(), vec![LinkAttribute::Xdp(vec![LinkXdp::Attached(XdpAttached::None)])]];
        assert_eq!(read(&datagram(&[link(no_program.concat())])).expect("whole").0, [eth0()]);
    }

    #[test]
    fn an_event_names_its_interface() {
        let event = |bytes| changed(Answer { bytes, read: 0 });
        let mut gone = LinkMessage::default();
        gone.header.index = 9;
        let gone = RouteNetlinkMessage::DelLink(gone).into();
        assert_eq!(event(datagram(&[link(plainest()), gone])), Some(vec![7, 9]));
        assert_eq!(event(vec![0xff; 3]), None, "whatever it is, it may be about any");
        assert_eq!(LinkEvents::subscribe().expect("a descriptor").next(), None);
    }

    #[test]
    fn an_address_is_at_an_interface() {
        let mut message = AddressMessage::default();
        message.header.prefix_len = 24;
        let [ours, peers] = [1, 2].map(|last| Ipv4Addr::new(10, 0, 0, last));
        let label = AddressAttribute::Label("eth0:1".to_owned());
        message.attributes = vec![AddressAttribute::Address(peers.into()), AddressAttribute::Local(ours.into()), label];
        let expected = Address { ip: ours, prefix_bits: 24, interface: "eth0".to_owned() };
        assert_eq!(address(&message), Some(expected));
    }

    #[test]
    fn the_kernel_answers() {
        let found = interfaces().expect("anybody may ask");
        assert!(found.iter().all(|interface| !interface.name.is_empty()));
        addresses().expect("anybody may ask");
        assert!(!forwards(u32::MAX, Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)), "no such interface");
    }
}
