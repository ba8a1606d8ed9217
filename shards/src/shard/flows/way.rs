//! Where a flow's frames go.
//!
//! The MAC in the SYN of a flow that a peer opens is all that is known of the way back, and no checksum covers it; the
//! peer may also move. But a MAC is believed only when it has been proved: one frame, forged, damaged or sent again,
//! turns nothing.

use machnet_core::addr::MacAddr;
use machnet_proto::addr::FlowKey;
use machnet_proto::packet::Stamp;
use machnet_proto::wire::frame::Template;
use serde::Serialize;

use super::super::Settings;

/// Where a flow's frames go. Written as the next hop.
#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct Way {
    #[serde(skip)]
    pub(super) template: Template,
    /// The MAC address in `template`.
    next_hop: MacAddr,
    /// The peer is this very interface.
    #[serde(skip)]
    pub(super) to_ourselves: bool,
    /// Where the frames might have to go.
    #[serde(skip)]
    candidate: Option<Candidate>,
}

/// Another MAC that packets of the flow came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Candidate {
    mac: MacAddr,
    asked: Asked,
    /// A packet with news has come from there.
    has_news: bool,
}

/// Whether a candidate was asked for a sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// The flow's next PROBE goes there.
    Next,
    /// One went there, with this timestamp: no other packet that the peer can have seen has it.
    With(Option<Stamp>),
}

/// What a packet says of the place that it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// Nothing: it may have been sent before, from elsewhere.
    Nothing,
    /// It brings what the flow did not know: the peer, or a frame of his that was damaged on its way.
    News,
    /// It answers the question that went there.
    Answer,
    /// It shows that our answer to the SYN has arrived there.
    Confirmation,
}

impl Way {
    pub(super) fn new(key: &FlowKey, next_hop: MacAddr, settings: &Settings) -> Self {
        let template = Template::of_flow(settings.mac, next_hop, key);
        Self { template, next_hop, to_ourselves: key.remote_ip == settings.ip, candidate: None }
    }

    /// Whether a packet from there may have something to say of the way.
    #[inline]
    pub(super) fn is_doubtful(&self, source: MacAddr) -> bool {
        source != self.next_hop || self.candidate.is_some()
    }

    /// A valid packet came from this MAC; says whether the flow is to ask for a sign of life.
    pub(super) fn hear_from(&mut self, source: MacAddr, sign: Sign) -> bool {
        if source == self.next_hop {
            if sign != Sign::Nothing {
                self.candidate = None;
            }
            return false;
        }
        let known = self.candidate.filter(|candidate| candidate.mac == source);
        let is_proved = match sign {
            Sign::Nothing => false,
            Sign::News => known.is_some_and(|candidate| candidate.has_news),
            Sign::Answer | Sign::Confirmation => true,
        };
        if is_proved {
            self.redirect(source);
            return false;
        }
        let has_news = sign != Sign::Nothing || known.is_some_and(|candidate| candidate.has_news);
        self.candidate = Some(Candidate { mac: source, asked: Asked::Next, has_news });
        true
    }

    /// Whether a packet from there that echoes this is the answer to the PROBE that went there alone.
    pub(super) fn is_answer(&self, source: MacAddr, echo: Option<Stamp>) -> bool {
        let is_it = |it: Candidate| it.mac == source && it.asked == Asked::With(echo);
        echo.is_some() && self.candidate.is_some_and(is_it)
    }

    /// Where a PROBE with this timestamp goes that is sent now, if not where everything goes: to a candidate, which is
    /// to show that it is the peer.
    pub(super) fn next_to_ask(&mut self, ts: Option<Stamp>) -> Option<Template> {
        let candidate = self.candidate.as_mut().filter(|candidate| candidate.asked == Asked::Next)?;
        candidate.asked = Asked::With(ts);
        let mut template = self.template;
        template.set_destination_mac(candidate.mac);
        Some(template)
    }

    /// From now on to this address.
    pub(super) fn redirect(&mut self, next_hop: MacAddr) {
        (self.next_hop, self.candidate) = (next_hop, None);
        self.template.set_destination_mac(next_hop);
    }

    pub(super) fn next_hop(&self) -> MacAddr {
        self.next_hop
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const OLD: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const NEW: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);

    fn way() -> Way {
        let key = FlowKey {
            local_ip: Ipv4Addr::new(10, 0, 0, 1),
            remote_ip: Ipv4Addr::new(10, 0, 0, 2),
            local_port: 1,
            remote_port: 2,
        };
        let template = Template::new(OTHER, OLD, &key);
        Way { template, next_hop: OLD, to_ourselves: false, candidate: None }
    }

    #[test]
    fn two_packets_with_news_or_an_answer_to_what_it_was_asked_prove_a_mac() {
        let mut moved = way();
        assert!(moved.hear_from(NEW, Sign::News) && moved.next_hop() == OLD);
        assert!(!moved.hear_from(NEW, Sign::News) && moved.next_hop() == NEW);

        let mut idle = way();
        let (ts, other) = (Stamp::new(5), Stamp::new(6));
        assert!(idle.hear_from(NEW, Sign::Nothing) && !idle.is_answer(NEW, ts) && idle.next_to_ask(ts).is_some());
        assert!(idle.next_to_ask(other).is_none(), "the next one goes where all go");
        assert!(idle.is_answer(NEW, ts) && !idle.is_answer(OTHER, ts));
        assert!(!idle.is_answer(NEW, other) && !idle.is_answer(NEW, None));
        assert!(!idle.hear_from(NEW, Sign::Answer) && idle.next_hop() == NEW);

        let mut born = way();
        assert!(!born.hear_from(NEW, Sign::Confirmation) && born.next_hop() == NEW);
    }

    #[test]
    fn nothing_else_does() {
        let mut way = way();
        for _ in 0..100 {
            assert!(way.hear_from(NEW, Sign::Nothing), "sent again by somebody");
            assert!(way.next_to_ask(Stamp::new(5)).is_some());
        }
        assert!(!way.hear_from(OLD, Sign::News) && !way.is_doubtful(OLD), "the peer is where it was");
        for _ in 0..100 {
            assert!(way.hear_from(NEW, Sign::News), "a damaged frame");
            assert!(way.hear_from(OTHER, Sign::News), "another one");
            assert!(!way.hear_from(OLD, Sign::News));
        }
        assert_eq!(way.next_hop(), OLD);
    }
}
