//! What the coordinator's parts want done. A part changes only itself; whatever else follows it says in an [`Action`],
//! and the coordinator does it, in order.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use machnet::daemon::control::message::{ControlError, Numbered, Reply};
use machnet_core::addr::MacAddr;
use machnet_proto::addr::FlowKey;

use super::interfaces::{Hold, InterfaceId};
use super::{AddressInUse, ConnectionId, DeviceLost, Effect};
use crate::mailbox::{ShardId, ToShard};

/// Something to be done outside the part that wants it.
#[derive(Debug)]
pub(super) enum Action {
    /// Post a message to a shard.
    Post {
        /// The shard.
        shard: ShardId,
        /// What it is told, or asked for.
        message: ToShard,
    },
    /// Have this done outside the coordinator.
    Effect(Effect),
    /// Every interface has its address: work may begin.
    Begin,
    /// Another host has the address of an interface: no work can begin.
    Refuse(AddressInUse),
    /// Nothing passes through an interface from now on, for this reason; or something does again.
    LinkFault {
        /// The interface.
        interface: InterfaceId,
        /// Why nothing does.
        fault: Option<ControlError>,
    },
    /// The device of an interface is no more: the daemon ends.
    Lose(DeviceLost),
    /// Frames that arrive at one shard may have to be handed over to another: see to it that there is a ring.
    MakeWay {
        /// Where they arrive.
        landed: ShardId,
        /// Where their flows are.
        owner: ShardId,
    },
    /// A SYN goes out: every shard of the interface is to pass on answers to it.
    Expect {
        /// The interface of the flow's local address.
        interface: InterfaceId,
        /// The flow that would be.
        key: FlowKey,
    },
    /// The connect is over: no shard needs to pass on answers any more.
    Forget {
        /// The interface of the flow's local address.
        interface: InterfaceId,
        /// The flow that is or is not to be.
        key: FlowKey,
    },
    /// Take back a shard's hint for a flow that does not come to be.
    Unhint {
        /// The flow.
        key: FlowKey,
        /// The shard.
        landed: ShardId,
    },
    /// The tuple of one of our own flows is not used any more.
    ReleasePort(FlowKey),
    /// Nobody needs this neighbor any more, as far as this hold goes.
    ReleaseNeighbor(Hold),
    /// A neighbor has answered something: its MAC is right.
    ConfirmNeighbor {
        /// On the link of this interface.
        interface: InterfaceId,
        /// The neighbor's address.
        ip: Ipv4Addr,
    },
    /// An answer arrived where the NIC's RSS said it would, or elsewhere.
    JudgePrediction {
        /// At this interface.
        interface: InterfaceId,
        /// Whether it did.
        was_right: bool,
    },
    /// A neighbor is known, or has another MAC: connects go on.
    NextHopFound {
        /// On the link of this interface.
        interface: InterfaceId,
        /// The neighbor's address.
        ip: Ipv4Addr,
        /// Its MAC from now on.
        mac: MacAddr,
    },
    /// Nobody answers for a neighbor: connects that wait for it fail.
    NextHopFailed {
        /// On the link of this interface.
        interface: InterfaceId,
        /// The neighbor's address.
        ip: Ipv4Addr,
    },
}

/// A queue of actions, lent to a part for a call.
#[derive(Debug, Default)]
pub(super) struct Actions(VecDeque<Action>);

impl Actions {
    /// After all that are there.
    pub(super) fn push(&mut self, action: Action) {
        self.0.push_back(action);
    }

    /// The oldest.
    pub(super) fn pop(&mut self) -> Option<Action> {
        self.0.pop_front()
    }

    /// Posts a message to a shard.
    pub(super) fn post(&mut self, shard: ShardId, message: ToShard) {
        self.push(Action::Post { shard, message });
    }

    /// Answers a request.
    pub(super) fn reply(&mut self, connection: ConnectionId, request: u32, reply: Reply) {
        self.reply_with(connection, request, reply, Vec::new());
    }

    /// Answers a request, with descriptors beside the answer.
    pub(super) fn reply_with(&mut self, connection: ConnectionId, request: u32, reply: Reply, fds: Vec<OwnedFd>) {
        let reply = Numbered { id: request, body: reply };
        self.push(Action::Effect(Effect::Reply { connection, reply, fds }));
    }

    /// Answers a request with an error.
    pub(super) fn fail(&mut self, connection: ConnectionId, request: u32, error: ControlError) {
        self.reply(connection, request, Reply::Failed { error });
    }
}

#[cfg(test)]
impl Actions {
    /// All of them, one word or a few for each, in the words that [`describe`](super::tests::describe) has for posts.
    pub(super) fn describe(&mut self) -> Vec<String> {
        let describe = |action| match action {
            Action::Post { shard, message } => format!("{}: {}", shard.0, super::tests::describe(&message)),
            Action::Effect(Effect::Reply { reply, .. }) => match reply.body {
                Reply::Failed { error } => format!("failed {error:?}"),
                reply => format!("{reply:?}"),
            },
            Action::Effect(effect) => format!("{effect:?}"),
            Action::Begin => "begin".into(),
            Action::Refuse(AddressInUse { other, .. }) => format!("address of {other}"),
            Action::LinkFault { fault, .. } => format!("fault {fault:?}"),
            Action::Lose(lost) => lost.to_string(),
            Action::MakeWay { landed, owner } => format!("way {} to {}", landed.0, owner.0),
            Action::Expect { key, .. } => format!("expect {}", key.local_port),
            Action::Forget { key, .. } => format!("forget {}", key.local_port),
            Action::Unhint { landed, .. } => format!("unhint {}", landed.0),
            Action::ReleasePort(key) => format!("release port {}", key.local_port),
            Action::ReleaseNeighbor(_) => "release neighbor".into(),
            Action::ConfirmNeighbor { ip, .. } => format!("confirm {ip}"),
            Action::JudgePrediction { was_right, .. } => format!("predicted {was_right}"),
            Action::NextHopFound { ip, mac, .. } => format!("{ip} is at {mac}"),
            Action::NextHopFailed { ip, .. } => format!("{ip} is nowhere"),
        };
        std::iter::from_fn(|| self.pop()).map(describe).collect()
    }
}
