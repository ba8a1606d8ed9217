//! Handshakes with a peer that says anything: no flow without our nonce, a bounded table, answers hardly longer than
//! what they answer.

use std::net::Ipv4Addr;

use arbitrary::{Result, Unstructured};
use machnet_core::time::{Duration, Instant};
use machnet_proto::addr::FlowKey;
use machnet_proto::dialect::Dialect;
use machnet_proto::handshake::{Acceptor, Answer, Connector, Terms};
use machnet_proto::packet::Packet;

const HALF_OPEN_MAX: usize = 8;
const MTU_BYTES: u16 = 1_500;
/// What a SYN-ACK has that a SYN has not: the nonce that it answers.
const ECHO_BYTES: usize = 6;

pub(crate) fn run(bytes: &[u8]) {
    let mut hosts = Hosts::new();
    // The end of the bytes ends it.
    let _ = hosts.play(&mut Unstructured::new(bytes));
}

/// One host that listens and one that connects.
struct Hosts {
    acceptor: Acceptor<u32>,
    connector: Connector,
    now: Instant,
    /// What both have said, for the peer to repeat.
    said: Vec<Vec<u8>>,
}

impl Hosts {
    fn new() -> Self {
        let now = Instant::from_nanos(3_600_000_000_000);
        let terms = Terms::of_interface(MTU_BYTES, 1).with_nonce(12_345);
        let mut connector = Connector::new(terms, now + Duration::from_secs(3));
        connector.begin(Duration::from_millis(5), now);
        let acceptor = Acceptor::new([7; 16], Terms::of_interface(MTU_BYTES, 2), HALF_OPEN_MAX);
        Self { acceptor, connector, now, said: Vec::new() }
    }

    fn play(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        while !input.is_empty() {
            match input.int_in_range(0..=3)? {
                0 => self.wait(Duration::from_micros(input.arbitrary::<u32>()?.into())),
                1 => {
                    let datagram = self.datagram(input)?;
                    self.ask(input.arbitrary()?, &datagram);
                }
                2 => {
                    let datagram = self.datagram(input)?;
                    self.answer(&datagram);
                }
                _ => {
                    if let Some(syn) = self.connector.poll_transmit(self.now) {
                        self.said.push(Dialect::OURS.write(&syn).to_vec());
                    }
                }
            }
        }
        Ok(())
    }

    /// Anything, or what was said before with some bytes of it changed.
    fn datagram(&self, input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
        if self.said.is_empty() || input.ratio(1, 4)? {
            let length = input.int_in_range(0..=80)?;
            return Ok(input.bytes(length)?.to_vec());
        }
        let mut datagram = input.choose(&self.said)?.clone();
        for _ in 0..input.int_in_range(0..=3)? {
            let at = input.choose_index(datagram.len())?;
            datagram[at] = input.arbitrary()?;
        }
        Ok(datagram)
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.acceptor.expire(self.now);
        assert!(self.acceptor.half_open() == 0 || self.acceptor.deadline().is_some_and(|due| due > self.now));
    }

    /// Something comes to the host that listens.
    fn ask(&mut self, port: u8, datagram: &[u8]) {
        let key = FlowKey {
            local_ip: Ipv4Addr::new(10, 0, 0, 2),
            remote_ip: Ipv4Addr::new(10, 0, 0, 1),
            local_port: 888,
            remote_port: u16::from(port),
        };
        let dialect = Dialect::recognize(datagram);
        match dialect.read(datagram) {
            Ok((Packet::Syn(syn), _)) => {
                let answer = self.acceptor.accept(&key, (dialect, &syn), 0, self.now);
                assert!(matches!(answer, Packet::SynAck(answer) if answer.echo == syn.terms.offer.nonce));
                let written = dialect.write(&answer).to_vec();
                let bytes = (datagram.len(), written.len());
                assert!(bytes.1 <= bytes.0 + ECHO_BYTES, "somebody is made to send {} bytes for {}", bytes.1, bytes.0);
                self.said.push(written);
                self.said.truncate(64);
            }
            Ok((Packet::Segment(segment), _)) => {
                let Some(half_open) = self.acceptor.take(&key) else { return };
                let confirmed = self.acceptor.confirm(&key, &half_open, &segment, self.now, || Some(true));
                if let Ok(birth) = confirmed {
                    let offered = self.said.iter().any(|said| acknowledges(said, birth.send_from.get()));
                    assert!(offered, "only who has seen an answer knows its nonce");
                    assert!(birth.max_payload <= Dialect::OURS.payload_budget(MTU_BYTES, 0));
                }
            }
            _ => {}
        }
        assert!(self.acceptor.half_open() <= HALF_OPEN_MAX);
    }

    /// Something comes to the host that connects.
    fn answer(&self, datagram: &[u8]) {
        let dialect = Dialect::recognize(datagram);
        let Ok((packet, _)) = dialect.read(datagram) else { return };
        if let Answer::Accepted(birth) = self.connector.on_packet(dialect, &packet) {
            assert!(matches!(packet, Packet::SynAck(syn_ack) if syn_ack.echo == 12_345));
            assert!(birth.max_payload <= Dialect::OURS.payload_budget(MTU_BYTES, 0));
        }
    }
}

/// Whether the SYN-ACK that was said has the nonce which this acknowledges.
fn acknowledges(said: &[u8], send_from: u32) -> bool {
    let Ok((Packet::SynAck(syn_ack), _)) = Dialect::recognize(said).read(said) else { return false };
    syn_ack.terms.offer.nonce.wrapping_add(1) == send_from
}
