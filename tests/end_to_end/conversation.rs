//! Both sides of flows that say many messages and check every byte of what they hear.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use machnet::{CloseReason, Delivery, Endpoint, Event, Flow, SendError, Tuple};
use machnet_nic::faults::Dice;
use machnet_test_kit::deliveries::next_delivery;
use machnet_test_kit::waiting::{eventually, once};

/// How long a side sleeps at most before it looks whether its time is up.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Fills `message`: every byte follows from the flow, the direction and the number of the message, so that a byte of
/// another message is a wrong byte.
pub(crate) fn fill(direction: Direction, index: usize, message: &mut [u8]) {
    let stream = u64::from(direction.port) << 1 | u64::from(direction.is_from_connector);
    let mut dice = Dice::new(Dice::new(stream).throw() ^ index as u64);
    for word in message.chunks_mut(8) {
        word.copy_from_slice(&dice.throw().to_le_bytes()[..word.len()]);
    }
}

/// Whether `message` is what [`fill`] makes of a message as long.
pub(crate) fn is_as_filled(direction: Direction, index: usize, message: &[u8], scratch: &mut Vec<u8>) -> bool {
    scratch.resize(message.len(), 0);
    fill(direction, index, scratch);
    scratch == message
}

/// One direction of a flow, in words that both sides share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Direction {
    /// The port of the side that connected.
    pub(crate) port: u16,
    /// Whether that side sends.
    pub(crate) is_from_connector: bool,
}

/// A side of a conversation: on each of its flows it says the same list of sizes, and hears it.
pub(crate) struct Speaker<'a> {
    pub(crate) endpoint: Endpoint,
    sizes: &'a [usize],
    flows: BTreeMap<Flow, Line>,
    /// Flows that have more to say, the next one first.
    speaking: VecDeque<Flow>,
    /// The message that comes next on the first of `speaking`, if it has been made.
    made: Option<Flow>,
    message: Vec<u8>,
    scratch: Vec<u8>,
}

/// How far a flow is.
struct Line {
    is_connector: bool,
    port: u16,
    said: usize,
    heard: usize,
}

impl Line {
    fn new(tuple: Tuple, is_connector: bool) -> Self {
        let port = if is_connector { tuple.local.port() } else { tuple.remote.port() };
        Self { is_connector, port, said: 0, heard: 0 }
    }
}

impl<'a> Speaker<'a> {
    pub(crate) fn new(endpoint: Endpoint, sizes: &'a [usize]) -> Self {
        let (flows, speaking) = Default::default();
        Self { endpoint, sizes, flows, speaking, made: None, message: Vec::new(), scratch: Vec::new() }
    }

    /// Opens a flow.
    pub(crate) fn connect(&mut self, local_ip: IpAddr, remote: SocketAddr) {
        let flow = self.endpoint.connect(local_ip, remote).unwrap();
        let tuple = self.endpoint.tuple(flow).expect("it has just been opened");
        self.flows.insert(flow, Line::new(tuple, true));
        self.speaking.push_back(flow);
    }

    /// Waits for so many flows from the other side.
    pub(crate) fn accept(&mut self, flows: usize, limit: Duration) {
        eventually(limit, || {
            if !self.hear() {
                self.endpoint.wait(Some(LOOK_AGAIN)).unwrap();
            }
            once(self.flows.len() >= flows, || format!("only {} of {flows} flows were opened", self.flows.len()))
        });
    }

    /// Says the next messages of all flows in turn, as many as there is room for. Whether there was room for any.
    pub(crate) fn say(&mut self) -> bool {
        let mut any = false;
        while let Some(&flow) = self.speaking.front() {
            let line = self.flows.get_mut(&flow).expect("it speaks");
            let Some(&len) = self.sizes.get(line.said) else {
                self.speaking.pop_front();
                continue;
            };
            if self.made != Some(flow) {
                self.message.resize(len, 0);
                let direction = Direction { port: line.port, is_from_connector: line.is_connector };
                fill(direction, line.said, &mut self.message);
                self.made = Some(flow);
            }
            match self.endpoint.send(flow, &self.message) {
                Ok(()) => {}
                Err(SendError::NoRoom(_)) => break,
                Err(error) => panic!("message {} of {len} bytes was not taken: {error}", line.said),
            }
            line.said += 1;
            self.made = None;
            any = true;
            self.speaking.rotate_left(1);
        }
        any
    }

    /// Whether everything has been said.
    pub(crate) fn is_silent(&self) -> bool {
        self.speaking.is_empty()
    }

    /// Takes everything that has arrived. Whether there was anything.
    pub(crate) fn hear(&mut self) -> bool {
        let mut any = false;
        while let Some(delivery) = self.endpoint.recv_in_place().unwrap() {
            any = true;
            let message = match delivery {
                Delivery::Message(message) => message,
                Delivery::Event(Event::Opened { flow, tuple, accepted: true, .. }) => {
                    self.flows.insert(flow, Line::new(tuple, false));
                    self.speaking.push_back(flow);
                    continue;
                }
                Delivery::Event(Event::Closed { flow, reason, .. }) => {
                    let Line { port, said, heard, .. } = self.flows[&flow];
                    panic!("the flow from port {port} ended after {said} said and {heard} heard: {reason}");
                }
                Delivery::Event(_) => continue,
            };
            let line = self.flows.get_mut(&message.flow()).expect("it was opened before");
            let direction = Direction { port: line.port, is_from_connector: !line.is_connector };
            let expected = self.sizes.get(line.heard);
            assert_eq!(Some(&message.len()), expected, "the length of message {} of {direction:?}", line.heard);
            let is_right = is_as_filled(direction, line.heard, &message.bytes(), &mut self.scratch);
            assert!(is_right, "message {} of {direction:?} has a wrong byte", line.heard);
            line.heard += 1;
        }
        any
    }

    /// Whether everything has been said and heard.
    pub(crate) fn is_done(&self) -> bool {
        let all = self.sizes.len();
        self.flows.values().all(|line| line.said == all && line.heard == all)
    }

    /// Says and hears everything.
    pub(crate) fn converse(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let any = self.say() | self.hear();
            if self.is_done() {
                return;
            }
            if Instant::now() >= deadline {
                let open = self.flows.values().filter(|line| line.said.min(line.heard) < self.sizes.len()).count();
                let (said, heard) =
                    self.flows.values().fold((0, 0), |sum, line| (sum.0 + line.said, sum.1 + line.heard));
                panic!("{open} flows are not done after {limit:?}; said {said}, heard {heard} messages");
            }
            if !any {
                match self.speaking.front() {
                    Some(flow) => self.endpoint.wait_either(*flow, Some(LOOK_AGAIN)).unwrap(),
                    None => self.endpoint.wait(Some(LOOK_AGAIN)).unwrap(),
                };
            }
        }
    }
}

/// Opens flows from one endpoint, at this address, to another, which listens there, and lets both say `sizes` on each
/// of them at once.
pub(crate) fn converse(
    (connector, local_ip): (Endpoint, IpAddr),
    (acceptor, remote): (Endpoint, SocketAddr),
    flows: usize,
    sizes: &[usize],
    limit: Duration,
) {
    let (mut connector, mut acceptor) = (Speaker::new(connector, sizes), Speaker::new(acceptor, sizes));
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            acceptor.accept(flows, limit);
            acceptor.converse(limit);
            acceptor
        });
        for _ in 0..flows {
            connector.connect(local_ip, remote);
        }
        connector.converse(limit);
        // Both live until both have heard everything: an endpoint that is dropped has only a while to deliver.
        drop(other.join().unwrap());
    });
}

/// Waits until a flow ends and gives the reason; messages that come before are passed over.
pub(crate) fn await_closed(endpoint: &mut Endpoint, wanted: Flow, limit: Duration) -> CloseReason {
    next_delivery(endpoint, limit, "the end of the flow", |delivery| match delivery {
        Delivery::Event(Event::Closed { flow, reason, .. }) if flow == wanted => Some(reason),
        _ => None,
    })
    .unwrap()
}

/// Waits until a flow is opened from outside.
pub(crate) fn await_opened(endpoint: &mut Endpoint, limit: Duration) -> Flow {
    next_delivery(endpoint, limit, "a flow from outside", |delivery| match delivery {
        Delivery::Event(Event::Opened { flow, accepted: true, .. }) => Some(flow),
        _ => None,
    })
    .unwrap()
}
