//! The kernel's network interfaces of this network namespace.
//!
//! By rtnetlink, because sysfs shows the namespace it was mounted in, which is not always ours.

use machnet_core::addr::MacAddr;
use rustix::io::{self, Errno};
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketType};

/// One interface (rtnetlink(7)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mac: MacAddr,
    pub(super) mtu_bytes: u32,
    pub(super) is_up: bool,
    /// There is somebody at the other end.
    pub(super) has_carrier: bool,
    /// The index of the interface this one runs on (a VLAN), or of its peer (a veth).
    pub(super) link: Option<u32>,
    /// Whether another interface has enslaved it: a bond, a bridge, or the Hyper-V interface its virtual function.
    pub(super) has_master: bool,
}

/// All Ethernet interfaces.
pub(super) fn interfaces() -> io::Result<Vec<Interface>> {
    // No protocol is protocol 0, which is NETLINK_ROUTE.
    let socket = net::socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    net::send(&socket, &request(), SendFlags::empty())?;
    let mut interfaces = Vec::new();
    // What the kernel fills at most (NLMSG_GOODSIZE doubled up to 32 KiB).
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let (len, _) = net::recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        if parse(&buffer[..len], &mut interfaces)? {
            return Ok(interfaces);
        }
    }
}

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
/// NLM_F_REQUEST and NLM_F_DUMP.
const REQUEST_DUMP: u16 = 0x301;
const HEADER_BYTES: usize = 16;
const LINK_BYTES: usize = 16;
const ARPHRD_ETHER: u16 = 1;
const IFF_UP: u32 = 1;
const IFF_LOWER_UP: u32 = 1 << 16;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;

/// A request for all links: a netlink header, then an empty `struct ifinfomsg`.
fn request() -> [u8; HEADER_BYTES + LINK_BYTES] {
    let mut request = [0; HEADER_BYTES + LINK_BYTES];
    let len = u32::try_from(request.len()).expect("32");
    request[..4].copy_from_slice(&len.to_ne_bytes());
    request[4..6].copy_from_slice(&RTM_GETLINK.to_ne_bytes());
    request[6..8].copy_from_slice(&REQUEST_DUMP.to_ne_bytes());
    request
}

/// Adds the links of one datagram; whether it was the last.
fn parse(mut datagram: &[u8], into: &mut Vec<Interface>) -> io::Result<bool> {
    while let Some(len) = u32_at(datagram, 0).and_then(|len| usize::try_from(len).ok()) {
        let message = datagram.get(HEADER_BYTES..len).ok_or(Errno::BADMSG)?;
        match u16_at(datagram, 4) {
            Some(NLMSG_DONE) => return Ok(true),
            Some(NLMSG_ERROR) => {
                let error = u32_at(message, 0)
                    .map_or(Errno::BADMSG, |error| Errno::from_raw_os_error(error.cast_signed().saturating_neg()));
                return Err(error);
            }
            Some(RTM_NEWLINK) => into.extend(interface(message)),
            _ => {}
        }
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// An Ethernet interface with an address, out of `struct ifinfomsg` and its attributes.
fn interface(message: &[u8]) -> Option<Interface> {
    if u16_at(message, 2)? != ARPHRD_ETHER {
        return None;
    }
    let (mut name, mut mac, mut mtu_bytes, mut link, mut has_master) = (None, None, None, None, false);
    let mut attributes = message.get(LINK_BYTES..)?;
    while let (Some(len), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let value = attributes.get(4..usize::from(len))?;
        match kind {
            IFLA_ADDRESS => mac = value.try_into().ok().map(MacAddr),
            IFLA_IFNAME => name = std::str::from_utf8(value.strip_suffix(&[0])?).ok().map(str::to_owned),
            IFLA_MTU => mtu_bytes = u32_at(value, 0),
            IFLA_LINK => link = u32_at(value, 0),
            IFLA_MASTER => has_master = true,
            _ => {}
        }
        attributes = attributes.get(usize::from(len).next_multiple_of(4)..).unwrap_or_default();
    }
    Some(Interface {
        index: u32_at(message, 4)?,
        name: name?,
        mac: mac?,
        mtu_bytes: mtu_bytes?,
        is_up: u32_at(message, 8)? & IFF_UP != 0,
        has_carrier: u32_at(message, 8)? & IFF_LOWER_UP != 0,
        link,
        has_master,
    })
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let len = u16::try_from(4 + value.len()).expect("short");
        let mut bytes = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(HEADER_BYTES + payload.len()).expect("short");
        [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], payload].concat()
    }

    #[test]
    fn a_dump_is_read_to_its_end() {
        let mut link = [0; LINK_BYTES];
        link[2..4].copy_from_slice(&ARPHRD_ETHER.to_ne_bytes());
        link[4..8].copy_from_slice(&7u32.to_ne_bytes());
        link[8..12].copy_from_slice(&IFF_UP.to_ne_bytes());
        let payload = [
            link.to_vec(),
            attribute(IFLA_IFNAME, b"eth0\0"),
            attribute(IFLA_MTU, &1500u32.to_ne_bytes()),
            attribute(IFLA_ADDRESS, &[2, 0, 0, 0, 0, 1]),
        ];
        let mut datagram = message(RTM_NEWLINK, &payload.concat());
        datagram.extend(message(NLMSG_DONE, &[0; 4]));
        let mut found = Vec::new();
        assert_eq!(parse(&datagram, &mut found), Ok(true));
        let expected = Interface {
            index: 7,
            name: "eth0".to_owned(),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            mtu_bytes: 1500,
            is_up: true,
            has_carrier: false,
            link: None,
            has_master: false,
        };
        assert_eq!(found, [expected]);
        // Cut anywhere, it is refused or unfinished, never more than it was.
        for len in 0..datagram.len() {
            let mut found = Vec::new();
            assert!(parse(&datagram[..len], &mut found) != Ok(true), "{len}");
            assert!(found.len() <= 1);
        }
    }

    #[test]
    fn the_kernel_answers() {
        let found = interfaces().expect("anybody may ask");
        assert!(found.iter().all(|interface| !interface.name.is_empty()));
    }
}
