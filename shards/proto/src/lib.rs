//! The Machnet protocol, sans-IO. This crate reads no clock, allocates no packet memory, and knows
//! neither NICs nor applications: time and bytes come in as arguments, decisions come out as values.
//!
//! * [`flow`]: one reliable connection as a state machine, and the table and timers a shard keeps flows in.
//! * [`handshake`]: how two hosts agree to have one.
//! * [`packet`]: what two hosts say to each other; [`dialect`]: how that is written.
//! * [`congestion`]: how much of a flow may be in the network.
//! * [`neighbor`]: who has an address on this link; [`rss`]: how a NIC spreads flows over its queues.
//! * [`wire`]: formats around a packet, each parsed once into a type that cannot be wrong.
//! * `state` (feature `serde`): all of that as bytes, to be read back by another process.
//!
//! # Two peers
//!
//! A pipe that loses every third datagram lies between two peers. One opens a flow, both send a hundred messages, one
//! closes.
//!
//! ```
//! use std::{collections::VecDeque, iter, net::Ipv4Addr, sync::Arc};
//!
//! use machnet_core::{flow::CloseReason, message::Content, time::{Duration, Instant}};
//! use machnet_proto::addr::FlowKey;
//! use machnet_proto::dialect::Dialect;
//! use machnet_proto::flow::{Birth, FlowEvent, Flow, Piece};
//! use machnet_proto::handshake::{Acceptor, Answer, Connector, Terms};
//! use machnet_proto::packet::Packet;
//!
//! /// A flow and its application. What stands for the bytes of a message is here the message itself.
//! struct Peer {
//!     flow: Flow<Vec<u8>>,
//!     dialect: Dialect,
//!     to_send: VecDeque<Vec<u8>>,
//!     received: Vec<Vec<u8>>,
//! }
//!
//! impl Peer {
//!     fn new(birth: &Birth, text: &str, now: Instant) -> Self {
//!         let to_send = (0..100).map(|number| format!("{text} {number}").into_bytes()).collect();
//!         let flow = Flow::new(birth, &Arc::default(), now);
//!         Self { flow, dialect: birth.dialect, to_send, received: Vec::new() }
//!     }
//!
//!     fn receive(&mut self, datagram: &[u8], now: Instant) {
//!         let Ok((Packet::Segment(segment), bytes)) = self.dialect.read(datagram) else { return };
//!         self.flow.on_packet(now, &segment, bytes.len(), false, |_| Ok(bytes.to_vec()));
//!     }
//!
//!     /// All that is to be done now; gives the datagrams that go out.
//!     fn turn(&mut self, now: Instant) -> Vec<Vec<u8>> {
//!         self.flow.on_deadline(now);
//!         self.received.extend(iter::from_fn(|| self.flow.poll_deliver()).map(|piece| piece.token));
//!         while self.flow.poll_freed().is_some() {}
//!         self.flow.grant(64);
//!         let mut datagrams = Vec::new();
//!         loop {
//!             let waiting = !self.to_send.is_empty();
//!             let source = || {
//!                 let message = self.to_send.pop_front()?;
//!                 Some(Piece { len: message.len() as u16, token: message, content: Content::WHOLE })
//!             };
//!             let Some(packet) = self.flow.poll_transmit(now, waiting, source) else { return datagrams };
//!             let bytes = packet.piece.map_or(&[][..], |piece| &piece.token);
//!             datagrams.push([&self.dialect.write(&Packet::Segment(packet.segment)), bytes].concat());
//!         }
//!     }
//! }
//!
//! let mut sent = 0;
//! let mut arrives = || { sent += 1; sent % 3 != 0 };
//! let mut now = Instant::ZERO;
//!
//! // The handshake: one side asks until it has an answer, the other remembers what it has answered.
//! let (local_ip, remote_ip) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 1));
//! let key = FlowKey { local_ip, remote_ip, local_port: 888, remote_port: 40_000 };
//! let mut acceptor = Acceptor::new([7; 16], Terms::of_interface(1_500, 2), 1_000);
//! let nonce = 12_345; // random
//! let mut connector = Connector::new(Terms::of_interface(1_500, 1).with_nonce(nonce), now + Duration::from_secs(3));
//! connector.begin(Duration::from_millis(5), now);
//! let birth = loop {
//!     now = now.max(connector.deadline());
//!     let syn = connector.poll_transmit(now).expect("not for three seconds");
//!     let syn = Dialect::OURS.write(&syn);
//!     let asked_in = Dialect::recognize(&syn);
//!     let Ok((Packet::Syn(syn), _)) = asked_in.read(&syn) else { unreachable!() };
//!     let answer = if arrives() { acceptor.accept(&key, (asked_in, &syn), (), now) } else { continue };
//!     let answer = asked_in.write(&answer);
//!     let answered_in = Dialect::recognize(&answer);
//!     let (answer, _) = answered_in.read(&answer).unwrap();
//!     if arrives() && let Answer::Accepted(birth) = connector.on_packet(answered_in, &answer) { break birth }
//! };
//! let mut one = Peer::new(&birth, "ping", now);
//! // The first packet of the flow that arrives shows that the connector has the answer.
//! let first = loop {
//!     now += Duration::from_millis(1);
//!     if let Some(first) = one.turn(now).into_iter().find(|_| arrives()) { break first }
//! };
//! let Ok((Packet::Segment(segment), _)) = Dialect::recognize(&first).read(&first) else { unreachable!() };
//! let half_open = acceptor.take(&key).unwrap();
//! let birth = acceptor.confirm(&key, &half_open, &segment, now, || Some(true)).unwrap();
//! let mut other = Peer::new(&birth, "pong", now);
//! other.receive(&first, now);
//!
//! // Both take turns until one has closed and the other knows.
//! while !one.flow.is_closed() || !other.flow.is_closed() {
//!     now += Duration::from_micros(20);
//!     other.turn(now).iter().filter(|_| arrives()).for_each(|datagram| one.receive(datagram, now));
//!     one.turn(now).iter().filter(|_| arrives()).for_each(|datagram| other.receive(datagram, now));
//!     if one.received.len() == 100 {
//!         one.flow.close(CloseReason::Closed);
//!     }
//! }
//! assert_eq!((one.received[0].as_slice(), other.received[99].as_slice()), (&b"pong 0"[..], &b"ping 99"[..]));
//! let events: Vec<_> = iter::from_fn(|| other.flow.poll_event()).collect();
//! let closed = FlowEvent::Closed { reason: CloseReason::Closed, acknowledged_messages: 100 };
//! assert_eq!(events, [FlowEvent::Confirmed, closed]);
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod addr;
pub mod congestion;
pub mod dialect;
pub mod flow;
pub mod handshake;
mod incarnation;
pub mod neighbor;
pub mod packet;
pub mod rss;
pub mod seq;
#[cfg(feature = "serde")]
pub mod state;
pub mod wire;

pub use incarnation::Incarnation;
