//! Frames of 9,000 bytes over a path that carries them, and then does not, and then does again.

use std::time::{Duration, Instant};

use machnet::{Delivery, Endpoint, Event, Flow};
use machnet_shards::counters::{Counter, DropReason};
use machnet_test_kit::deliveries::next_delivery;
use machnet_test_kit::hosts::VethPair;
use machnet_test_kit::waiting::within;

use crate::conversation::{Direction, fill, is_as_filled};
use crate::pair::{NEVER, Pair, Site, counted, dropped, set};

const PORT: u16 = 888;
const JUMBO: u16 = 9_000;
/// One packet where the path carries long ones. (The kernel lets a GSO batch of such pass whatever the MTU is, because
/// it takes it for something that is still to be cut; so they go one by one.)
pub(crate) const MESSAGE_BYTES: usize = 8_000;

/// What goes forth and back.
pub(crate) struct Echo {
    near: Endpoint,
    far: Endpoint,
    flow: Flow,
    message_bytes: usize,
    sent: usize,
}

impl Echo {
    pub(crate) fn between(near: &Site, far: &Site, message_bytes: usize) -> Self {
        let (mut here, mut there) = (near.attach(), far.attach());
        there.listen(far.at(PORT)).unwrap();
        let flow = here.connect(near.ip(), far.at(PORT)).unwrap();
        Self { near: here, far: there, flow, message_bytes, sent: 0 }
    }

    /// One message there and back; the time that took.
    pub(crate) fn once(&mut self) -> Duration {
        let start = Instant::now();
        let direction = Direction { port: PORT, is_from_connector: true };
        let mut message = vec![0; self.message_bytes];
        fill(direction, self.sent, &mut message);
        self.near.send(self.flow, &message).unwrap();
        let (flow, heard) = hear(&mut self.far);
        self.far.send(flow, &heard).unwrap();
        let (_, heard) = hear(&mut self.near);
        assert!(is_as_filled(direction, self.sent, &heard, &mut Vec::new()), "message {} has a wrong byte", self.sent);
        assert_eq!(heard.len(), self.message_bytes);
        self.sent += 1;
        start.elapsed()
    }

    /// Messages, one after the other, until this many paths of a daemon have changed so.
    fn until(&mut self, site: &Site, counter: Counter, least: u64) {
        let reached = within(NEVER, || {
            let status = site.status();
            if counted(&status, counter) >= least {
                return Ok(());
            }
            self.once();
            Err(Box::new(status))
        });
        reached.unwrap_or_else(|status| panic!("{counter:?} is not {least} yet: {status:#?}"));
    }
}

/// The next message at an endpoint.
fn hear(endpoint: &mut Endpoint) -> (Flow, Vec<u8>) {
    let take = |delivery: Delivery<'_>| match delivery {
        Delivery::Message(message) => Some((message.flow(), message.bytes().to_vec())),
        Delivery::Event(Event::Closed { reason, .. }) => panic!("the flow ended: {reason}"),
        Delivery::Event(_) => None,
    };
    next_delivery(endpoint, NEVER, "a message", take).unwrap()
}

#[test]
fn long_packets_are_used_given_up_and_taken_up_again() {
    let link = VethPair { mtu_bytes: JUMBO, ..VethPair::default() };
    let Some(pair) = Pair::start_over(link, |_, config| set(config, "mtu", JUMBO)) else { return };
    let Pair { left, right, .. } = &pair;
    let mut echo = Echo::between(left, right, MESSAGE_BYTES);
    for site in [left, right] {
        echo.until(site, Counter::PathsWidened, 1);
    }
    let pieces = || counted(&left.status(), Counter::TxPieces);
    let before = pieces();
    for _ in 0..10 {
        echo.once();
    }
    assert!(pieces() - before < 20, "{} packets for 10 messages", pieces() - before);

    // The other end's MTU is what stops a frame on a veth.
    for (far, near) in [(right, left), (left, right)] {
        far.host.ip("link set machnet0 mtu 1500").unwrap();
        let stalled = echo.once();
        assert!(stalled < Duration::from_secs(2), "{stalled:?} until what is lost comes in fragments");
        echo.until(near, Counter::PathsNarrowed, 1);
        assert!(dropped(&near.status(), DropReason::Refused) > 0);
    }

    for site in [left, right] {
        site.host.ip(&format!("link set machnet0 mtu {JUMBO}")).unwrap();
    }
    for site in [left, right] {
        echo.until(site, Counter::PathsWidened, 2);
    }
    assert_eq!(counted(&left.status(), Counter::FlowsClosed), 0);
}

#[test]
fn a_path_that_carries_less_than_an_ethernet_is_measured() {
    let Some(pair) = Pair::start(|_| {}) else { return };
    let Pair { left, right, .. } = &pair;
    // One packet, too, and longer than the path carries from now on.
    let mut echo = Echo::between(left, right, 1_400);
    echo.once();
    // Not the daemons' business: only the other end's MTU stops a frame on a veth.
    for (far, near) in [(right, left), (left, right)] {
        far.host.ip("link set machnet0 mtu 1400").unwrap();
        let stalled = echo.once();
        assert!(stalled < Duration::from_secs(2), "{stalled:?} until what is lost comes in fragments");
        echo.until(near, Counter::PathsNarrowed, 1);
        echo.until(near, Counter::PathsWidened, 1);
    }
    assert_eq!(counted(&left.status(), Counter::FlowsClosed), 0);
}
