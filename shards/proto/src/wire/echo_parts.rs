//! Echo requests that are longer than the link's packets (`ping -s 2000`), and so come in fragments.
//!
//! An echo is answered by itself, but for its type. So each fragment is answered as it comes, and nothing is put
//! together: what is remembered of a request is how much of it has come. A fragment that does not continue a request is
//! not answered, or two hosts would answer each other's for ever.

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, IntoBytes};

use super::WireError;
use super::checksum::Sum;
use super::ethernet::{self, EtherType};
use super::icmp::{ECHO_REPLY, ECHO_REQUEST, RawEcho};
use super::ipv4::{self, Fragment, Protocol};
use machnet_core::addr::MacAddr;
use machnet_core::time::{Duration, Instant};

/// Requests that are answered at a time. Whoever begins more loses the oldest.
const REQUESTS_MAX: usize = 8;

/// How long the next fragment of a request may take: they are sent one right after the other.
const NEXT_WITHIN: Duration = Duration::from_secs(1);

/// A fragment of an ICMP packet that came in. Nothing says yet that it is for this host, nor of which type it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EchoPart<'a> {
    ethernet: ethernet::Header,
    ip: ipv4::Header,
    fragment: Fragment,
    bytes: Cow<'a, [u8]>,
}

impl<'a> EchoPart<'a> {
    /// Reads a frame.
    ///
    /// # Errors
    /// [`WireError::Unknown`] of everything that is no fragment of ICMP; else what is wrong with it.
    pub fn parse(frame: &'a [u8]) -> Result<Self, WireError> {
        let (ethernet, mut packet) = ethernet::Header::parse(frame)?;
        if ethernet.ether_type == EtherType::TAG {
            // Whoever asks has found that this is no other VLAN's.
            packet = ethernet::Tag::parse(packet)?.1;
        }
        let (ip, fragment, bytes) = Fragment::parse(packet)?;
        if ip.protocol != Protocol::ICMP {
            return Err(WireError::Unknown);
        }
        // Only the last one may have another length (RFC 791, section 3.2).
        let is_whole = bytes.len().is_multiple_of(8) || !fragment.more;
        if bytes.is_empty() || !is_whole {
            return Err(WireError::BadLength);
        }
        Ok(Self { ethernet, ip, fragment, bytes: Cow::Borrowed(bytes) })
    }

    /// The same, without the frame.
    pub fn into_owned(self) -> EchoPart<'static> {
        EchoPart { bytes: Cow::Owned(self.bytes.into_owned()), ..self }
    }

    /// Whom the frame is for; may be a group.
    pub const fn destination_mac(&self) -> MacAddr {
        self.ethernet.destination
    }

    /// Whom the packet is for.
    pub const fn destination_ip(&self) -> Ipv4Addr {
        self.ip.destination
    }

    /// The frame that answers this part with these bytes.
    fn answer(&self, bytes: [&[u8]; 2]) -> Vec<u8> {
        let header = ipv4::Header { source: self.ip.destination, destination: self.ip.source, ecn: 0, ..self.ip };
        let (mut ip, sum) = ipv4::RawHeader::of_fragment(&header, self.fragment);
        let total_bytes = ipv4::HEADER_BYTES + self.bytes.len();
        ip.set_length(u16::try_from(total_bytes).expect("as long as the packet that came"), sum);
        let ethernet = ethernet::RawHeader::new(&ethernet::Header {
            destination: self.ethernet.source,
            source: self.ethernet.destination,
            ether_type: EtherType::IPV4,
        });
        [ethernet.as_bytes(), ip.as_bytes(), bytes[0], bytes[1]].concat()
    }
}

/// What has come of requests.
#[derive(Debug, Default)]
pub struct EchoParts {
    /// At most [`REQUESTS_MAX`], the latest begun last.
    requests: Vec<Request>,
}

#[derive(Debug)]
struct Request {
    source: Ipv4Addr,
    identification: u16,
    /// Bytes that have come.
    come: u16,
    expires: Instant,
}

impl EchoParts {
    /// The frame that answers this part, which was sent to just this host.
    ///
    /// # Errors
    /// [`WireError::Unknown`] if it is not the next one of an echo request.
    pub fn answer(&mut self, part: &EchoPart<'_>, now: Instant) -> Result<Vec<u8>, WireError> {
        let Fragment { identification, before_bytes, more } = part.fragment;
        let source = part.ip.source;
        if source.is_unspecified() {
            return Err(WireError::BadField);
        }
        let known = self.requests.iter().position(|one| (one.source, one.identification) == (source, identification));
        if before_bytes == 0 {
            known.map(|at| self.requests.remove(at));
            return self.begin(part, now);
        }
        let at = known.ok_or(WireError::Unknown)?;
        let request = &mut self.requests[at];
        let end = u16::try_from(part.bytes.len()).ok().and_then(|bytes| before_bytes.checked_add(bytes));
        let (Some(end), true) = (end, request.come == before_bytes && now < request.expires) else {
            return Err(WireError::Unknown);
        };
        (request.come, request.expires) = (end, now + NEXT_WITHIN);
        if !more {
            self.requests.remove(at);
        }
        Ok(part.answer([&part.bytes, &[]]))
    }

    fn begin(&mut self, part: &EchoPart<'_>, now: Instant) -> Result<Vec<u8>, WireError> {
        let (echo, data) = RawEcho::ref_from_prefix(&part.bytes).map_err(|_| WireError::Truncated)?;
        if (echo.kind, echo.code) != (ECHO_REQUEST, 0) {
            return Err(WireError::Unknown);
        }
        if self.requests.len() == REQUESTS_MAX {
            self.requests.remove(0);
        }
        self.requests.push(Request {
            source: part.ip.source,
            identification: part.fragment.identification,
            come: u16::try_from(part.bytes.len()).map_err(|_| WireError::BadLength)?,
            expires: now + NEXT_WITHIN,
        });
        let reply = RawEcho { kind: ECHO_REPLY, checksum: U16::new(reply_checksum(echo.checksum.get())), ..*echo };
        Ok(part.answer([reply.as_bytes(), data]))
    }
}

/// The checksum of the answer: right if that of the request is, which whoever asks finds out (RFC 1624, equation 3).
fn reply_checksum(of_request: u16) -> u16 {
    Sum::ZERO.add_u16(!of_request).add_u16(!(u16::from(ECHO_REQUEST) << 8)).finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame;
    use crate::wire::icmp::EchoReply;
    use alloc::vec;

    const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const THEIRS: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const OUR_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const THEIR_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const NOW: Instant = Instant::from_nanos(7_000_000_000);

    /// An ICMP message of this type with so many bytes of data.
    fn message(kind: u8, data_bytes: usize) -> Vec<u8> {
        let data: Vec<u8> = (0..=250).cycle().take(data_bytes).collect();
        let mut echo = RawEcho::read_from_bytes(&[kind, 0, 0, 0, 0x12, 0x34, 0, 9]).expect("eight bytes");
        echo.checksum.set(Sum::ZERO.add_bytes(echo.as_bytes()).add_bytes(&data).finish());
        [echo.as_bytes(), &data].concat()
    }

    fn fragment(message: &[u8], from: usize, to: usize) -> Vec<u8> {
        let header = ipv4::Header { source: THEIR_IP, destination: OUR_IP, protocol: Protocol::ICMP, dscp: 0, ecn: 0 };
        let before_bytes = u16::try_from(from).expect("short");
        let fragment = Fragment { identification: 77, before_bytes, more: to < message.len() };
        let part = EchoPart {
            ethernet: ethernet::Header { destination: THEIRS, source: OURS, ether_type: EtherType::IPV4 },
            ip: ipv4::Header { source: header.destination, destination: header.source, ..header },
            fragment,
            bytes: Cow::Borrowed(&message[from..to]),
        };
        // An answer in the other direction is a request in ours.
        part.answer([&part.bytes, &[]])
    }

    fn answer(parts: &mut EchoParts, frame: &[u8], now: Instant) -> Result<Vec<u8>, WireError> {
        parts.answer(&EchoPart::parse(frame).expect("a fragment of ICMP"), now)
    }

    #[test]
    fn answers_are_the_request_part_by_part_with_the_checksum_of_a_reply() {
        for data_bytes in [1_480, 2_000, 65_507] {
            let request = message(ECHO_REQUEST, data_bytes);
            let mut parts = EchoParts::default();
            let mut reply = Vec::new();
            for from in (0..request.len()).step_by(1_480) {
                let frame = fragment(&request, from, (from + 1_480).min(request.len()));
                let answer = answer(&mut parts, &frame, NOW).expect("the next part");
                assert_eq!(answer.len(), frame.len());
                let part = EchoPart::parse(&answer).expect("a part");
                assert_eq!((part.ethernet.destination, part.ip.destination), (THEIRS, THEIR_IP));
                assert_eq!(part.fragment, EchoPart::parse(&frame).expect("a part").fragment);
                reply.extend_from_slice(&part.bytes);
            }
            assert_eq!(reply, message(ECHO_REPLY, data_bytes));
            assert!(parts.requests.is_empty(), "nothing is remembered of what is over");
        }
    }

    #[test]
    fn a_fragment_that_continues_no_request_is_not_answered() {
        let request = message(ECHO_REQUEST, 4_000);
        let second = fragment(&request, 1_480, 2_960);
        let mut parts = EchoParts::default();
        assert_eq!(answer(&mut parts, &second, NOW), Err(WireError::Unknown), "nothing came before");
        let reply = message(ECHO_REPLY, 4_000);
        assert_eq!(answer(&mut parts, &fragment(&reply, 0, 1_480), NOW), Err(WireError::Unknown), "an answer");
        assert_eq!(answer(&mut parts, &second, NOW), Err(WireError::Unknown), "of an answer");

        answer(&mut parts, &fragment(&request, 0, 1_480), NOW).expect("a request");
        let third = fragment(&request, 2_960, request.len());
        assert_eq!(answer(&mut parts, &third, NOW), Err(WireError::Unknown), "one is missing");
        let late = NOW + NEXT_WITHIN;
        assert_eq!(answer(&mut parts, &second, late), Err(WireError::Unknown), "too late");
        answer(&mut parts, &second, NOW).expect("the next one");
        assert_eq!(answer(&mut parts, &second, NOW), Err(WireError::Unknown), "once");
        answer(&mut parts, &third, NOW).expect("the last one");
    }

    #[test]
    fn whoever_begins_many_requests_is_remembered_for_few() {
        let request = message(ECHO_REQUEST, 2_000);
        let mut parts = EchoParts::default();
        for last_byte in 0..100 {
            let mut first = fragment(&request, 0, 1_480);
            let identification = ethernet::HEADER_BYTES + 5;
            first[identification] = last_byte;
            let header = ethernet::HEADER_BYTES..ethernet::HEADER_BYTES + ipv4::HEADER_BYTES;
            first[header.start + 10..header.start + 12].fill(0);
            let checksum = Sum::ZERO.add_bytes(&first[header.clone()]).finish();
            first[header.start + 10..header.start + 12].copy_from_slice(&checksum.to_be_bytes());
            answer(&mut parts, &first, NOW).expect("a request");
        }
        assert_eq!(parts.requests.len(), REQUESTS_MAX);
    }

    #[test]
    fn what_is_no_fragment_of_icmp_is_none() {
        let whole = message(ECHO_REQUEST, 100);
        assert_eq!(EchoPart::parse(&fragment(&whole, 0, whole.len())), Err(WireError::Unknown));
        let mut udp = fragment(&whole, 0, 64);
        udp[ethernet::HEADER_BYTES + 9] = Protocol::UDP.0;
        assert!(EchoPart::parse(&udp).is_err());
        assert_eq!(EchoPart::parse(&fragment(&whole, 0, 63)), Err(WireError::BadLength), "more follow");
        assert!(matches!(frame::parse(&fragment(&whole, 0, 64)), Err(WireError::Fragment)));
        assert_eq!(EchoReply::parse(&fragment(&whole, 0, 64)), None);
        for end in 0..54 {
            let _ = EchoPart::parse(&vec![0; end]);
        }
    }
}
