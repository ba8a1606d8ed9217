//! An application: a connection to its host's daemon, a channel per shard, and what it knows of its flows.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use machnet::daemon::channel::{AppEnd, AppHandles, Armed, ChannelSendError, FromShard, Geometry, Opened};
use machnet::daemon::control::message::{ChannelGeometry, Numbered, Reply, Request};
use machnet_core::flow::FlowId;
use machnet_core::time::{Duration, Instant};
use machnet_core::wait::{Next, Policy, Seen, Wait};
use machnet_nic::faults::Dice;
use machnet_proto::addr::FlowKey;
use machnet_shards::coordinator::ConnectionId;

use super::checker::SideId;
use super::runner::{Stirs, YIELD_NANOS_MAX, readable};

/// An application of a world. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppId(pub(crate) usize);

/// A living application.
pub struct Application {
    /// The number of its host.
    pub host: usize,
    /// The user whose it is.
    pub(crate) uid: u32,
    pub(crate) connection: ConnectionId,
    /// In the order of their indices.
    pub channels: Vec<Channel>,
    /// What it asked and has no answer to.
    pub asked: BTreeMap<u32, Asked>,
    last_request: u32,
    /// It does nothing before.
    pub(crate) ready_at: Instant,
    /// It does not look at what arrives before.
    pub(crate) reads_from: Instant,
    /// How it waits when nothing has arrived; without this it looks on and on.
    wait: Option<Wait>,
    is_asleep: bool,
    /// Something was appended, and the shard is told when the application next finds nothing.
    pub(crate) has_appended: bool,
    /// What had stirred its host when it last listened for its bells.
    heard: Stirs,
    /// Where it listens: as it asked, and as far as it was answered.
    pub listens: Vec<u16>,
}

/// A request under way.
#[derive(Clone, Debug)]
pub struct Asked {
    pub(crate) request: Request,
    pub(crate) at: Instant,
    /// Other endpoints that its user had there then.
    pub(crate) others: usize,
}

/// A channel and the flows in it.
pub struct Channel {
    end: AppEnd,
    /// Its memory once more, for who would write where he may not.
    pub(crate) segment: OwnedFd,
    tx_buffers: usize,
    pub(crate) rx_buffers: usize,
    /// Flows that are open, by their names.
    pub flows: BTreeMap<FlowId, SideId>,
}

/// What came out of a channel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arrival {
    Opened { flow: FlowId, key: FlowKey, max_payload: usize },
    Message { flow: FlowId },
    Silence { flow: FlowId, is_silent: bool },
    Closed { flow: FlowId, reason: u16, acknowledged: u64 },
}

impl Channel {
    /// The next message, whose bytes go to `message`, or event.
    pub(crate) fn take(&mut self, message: &mut Vec<u8>) -> Option<Arrival> {
        Some(match self.end.recv().expect("the daemon keeps the channel whole")? {
            FromShard::Opened { flow, opened } => {
                Arrival::Opened { flow, key: key(&opened), max_payload: usize::from(opened.max_payload) }
            }
            FromShard::Message { flow, message: arrived } => {
                message.clear();
                arrived.slices().for_each(|slice| message.extend_from_slice(slice));
                assert_eq!(message.len(), arrived.len(), "a message is as long as its slices");
                Arrival::Message { flow }
            }
            FromShard::Silent { flow } => Arrival::Silence { flow, is_silent: true },
            FromShard::Alive { flow } => Arrival::Silence { flow, is_silent: false },
            FromShard::Closed { flow, reason, acknowledged_messages } => {
                Arrival::Closed { flow, reason, acknowledged: acknowledged_messages }
            }
        })
    }

    /// Sends a message, cut at up to two places as a scatter-gather sender would have it; or appends it, so that the
    /// shard is told when the application next finds nothing to receive.
    pub fn send(
        &mut self,
        flow: FlowId,
        message: &[u8],
        cut: (usize, usize),
        is_appended: bool,
    ) -> Result<(), ChannelSendError> {
        let (rest, third) = message.split_at(cut.0.max(cut.1));
        let (first, second) = rest.split_at(cut.0.min(cut.1));
        let parts = [first, second, third].map(IoSlice::new);
        if is_appended { self.end.append(flow, &parts) } else { self.end.send(flow, &parts) }
    }

    pub fn close(&mut self, flow: FlowId) {
        self.end.close_flow(flow).expect("the daemon keeps the channel whole");
    }

    pub fn abort(&mut self, flow: FlowId) {
        self.end.abort_flow(flow).expect("the daemon keeps the channel whole");
    }

    /// Whether the message would be taken now that was refused last on this flow.
    pub(crate) fn has_room(&mut self, flow: FlowId) -> bool {
        self.end.has_room(flow).expect("the daemon keeps the channel whole")
    }

    /// Bytes of this flow that the application waits for to be acknowledged.
    pub(crate) fn unacknowledged_bytes(&mut self, flow: FlowId) -> u64 {
        self.end.unacknowledged_bytes(flow).expect("the daemon keeps the channel whole")
    }

    /// Transmit buffers that the application may fill now.
    pub(crate) fn free_tx_buffers(&mut self) -> usize {
        self.end.free_tx_buffers().expect("the daemon keeps the channel whole")
    }

    /// Those that it may not.
    pub(crate) fn absent_tx_buffers(&mut self) -> usize {
        self.tx_buffers - self.free_tx_buffers()
    }
}

/// The tuple of a flow as its application is told of it.
fn key(opened: &Opened) -> FlowKey {
    let (SocketAddr::V4(local), SocketAddr::V4(remote)) = (opened.local, opened.remote) else {
        panic!("the daemon carries IPv4 alone: {opened:?}")
    };
    FlowKey { local_ip: *local.ip(), local_port: local.port(), remote_ip: *remote.ip(), remote_port: remote.port() }
}

/// Asks for the bells of all channels; or for none, if something has arrived: `false`.
fn arm(channels: &mut [Channel]) -> bool {
    for index in 0..channels.len() {
        if channels[index].end.arm().expect("the daemon keeps the channel whole") == Armed::Ready {
            channels[..index].iter_mut().for_each(|channel| channel.end.disarm());
            return false;
        }
    }
    true
}

impl Application {
    pub(crate) fn new(host: usize, uid: u32, connection: ConnectionId, likes_to_sleep: bool, now: Instant) -> Self {
        Self {
            host,
            uid,
            connection,
            channels: Vec::new(),
            asked: BTreeMap::new(),
            last_request: 0,
            ready_at: now,
            reads_from: now,
            wait: likes_to_sleep.then(|| Wait::new(Policy::Adaptive, now)),
            is_asleep: false,
            has_appended: false,
            heard: Stirs::default(),
            listens: Vec::new(),
        }
    }

    /// A request as it goes to the daemon; its answer is waited for from now on.
    pub fn ask(&mut self, request: Request, others: usize, now: Instant) -> Numbered<Request> {
        self.last_request += 1;
        self.asked.insert(self.last_request, Asked { request: request.clone(), at: now, others });
        Numbered { id: self.last_request, body: request }
    }

    /// Takes a channel the daemon granted.
    pub(crate) fn take_channel(&mut self, index: u16, geometry: ChannelGeometry, fds: Vec<OwnedFd>) {
        assert_eq!(usize::from(index), self.channels.len(), "channels are numbered without gaps");
        let [segment, bell_in, bell_out] = <[OwnedFd; 3]>::try_from(fds).expect("three descriptors beside a channel");
        let ChannelGeometry { buffer_bytes, tx_buffers, rx_buffers } = geometry;
        let geometry = Geometry::from_parts(buffer_bytes, tx_buffers, rx_buffers).expect("measures of a channel");
        let own = segment.try_clone().expect("a descriptor");
        let end = AppEnd::open(geometry, AppHandles { segment, bell_in, bell_out }).expect("the segment can be mapped");
        let [tx_buffers, rx_buffers] =
            [tx_buffers, rx_buffers].map(|count| usize::try_from(count).expect("32 bits fit"));
        self.channels.push(Channel { end, segment: own, tx_buffers, rx_buffers, flows: BTreeMap::new() });
    }

    /// The request this reply is the final answer to.
    pub(crate) fn settle(&mut self, reply: &Numbered<Reply>) -> Asked {
        self.asked.remove(&reply.id).unwrap_or_else(|| panic!("an answer nobody waits for: {reply:?}"))
    }

    /// After a look that took something or nothing: looks on or goes to sleep, as the library's threads do. Says
    /// whether another look follows at once.
    pub(crate) fn rest(&mut self, took: bool, now: Instant, dice: &mut Dice) -> bool {
        let Some(wait) = &mut self.wait else { return took };
        wait.look(now);
        match wait.next(Seen { worked: took, has_come: took, ..Seen::default() }, now) {
            Next::Look => {}
            Next::Disarm => self.channels.iter_mut().for_each(|channel| channel.end.disarm()),
            Next::Spin | Next::Yield => {
                wait.leave(now);
                self.ready_at = now + Duration::from_nanos(1 + dice.below(YIELD_NANOS_MAX) as u64);
                return false;
            }
            Next::Arm if arm(&mut self.channels) => wait.armed(true),
            Next::Arm => wait.refused(now),
            Next::Sleep => {
                self.is_asleep = true;
                return false;
            }
        }
        true
    }

    /// Wakes if a bell rings; says whether it is awake.
    pub(crate) fn is_awake(&mut self, stirs: Stirs) -> bool {
        let rang = |channels: &[Channel]| readable(channels.iter().map(|channel| channel.end.bell())).contains(&true);
        if self.is_asleep && stirs.are_news(&mut self.heard) && rang(&self.channels) {
            self.wake();
        }
        !self.is_asleep
    }

    /// A bell rang, or there was something on the control socket.
    pub(crate) fn wake(&mut self) {
        self.is_asleep = false;
        if let Some(wait) = self.wait.as_mut().filter(|wait| wait.is_armed()) {
            wait.woke(false);
            for channel in &mut self.channels {
                channel.end.drain_bell();
                channel.end.disarm();
            }
        }
    }

    /// The channel and the flow's name in it.
    pub(crate) fn find(&self, side: SideId) -> Option<(usize, FlowId)> {
        let channels = self.channels.iter().enumerate();
        channels.into_iter().find_map(|(index, channel)| {
            channel.flows.iter().find(|(_, other)| **other == side).map(|(flow, _)| (index, *flow))
        })
    }

    /// All its open flows.
    pub fn sides(&self) -> impl Iterator<Item = SideId> + '_ {
        self.channels.iter().flat_map(|channel| channel.flows.values().copied())
    }
}
