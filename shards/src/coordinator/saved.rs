//! A coordinator that was written to bytes, and is read back by whoever takes over.

use std::collections::{BTreeMap, VecDeque};

use machnet_core::time::Instant;
use machnet_proto::state::{Unsound, ensure};
use serde::{Deserialize, Serialize, Serializer};

use super::applications::SavedApplications;
use super::connects::{Basis, Connects, SavedConnects};
use super::flow_director::SavedFlowDirector;
use super::interfaces::SavedInterfaces;
use super::listeners::SavedListeners;
use super::outboxes::Outboxes;
use super::ports::SavedPorts;
use super::random::Random;
use super::reports::SavedReports;
use super::shutdown::Shutdown;
use super::{Applications, Boot, Coordinator, CoordinatorPlan, FlowDirector, Identity, Interfaces};
use crate::counters::{ChannelCounts, EntryKey, Registry};
use crate::mailbox::{ChannelId, Outlet, ToShard};

/// All that a [quiet](Coordinator::is_quiet) coordinator is: this start's identity, and its parts. Not what is known
/// from elsewhere (plan, registry, mailboxes), nor the descriptors of its connections, which go by their numbers. Read
/// it as a [`SavedCoordinator`].
impl Serialize for Coordinator {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { interfaces, applications, listeners, connects, ports, flow_director, reports, .. } = self;
        let parts = (interfaces, applications, listeners, connects, ports, flow_director, reports);
        ((&self.identity.boot, self.identity.started), parts, self.random.drawn()).serialize(serializer)
    }
}

/// A [`Coordinator`] that was written and read, and is still to be [restored](Self::restore).
#[derive(Debug, Deserialize)]
pub struct SavedCoordinator {
    identity: (Boot, Instant),
    parts: SavedParts,
    drawn: u64,
}

#[derive(Debug, Deserialize)]
struct SavedParts {
    interfaces: SavedInterfaces,
    applications: SavedApplications,
    listeners: SavedListeners,
    connects: SavedConnects,
    ports: SavedPorts,
    flow_director: SavedFlowDirector,
    reports: SavedReports,
}

impl SavedCoordinator {
    /// What its start is known by. Whoever takes over goes by it too: its shards must have the same.
    pub fn boot(&self) -> &Boot {
        &self.identity.0
    }

    /// Goes on where the coordinator was, for the shards behind `outlets`; see [`Coordinator::new`]. The boot of `plan`
    /// is the saved one. Gives what each channel is counted in, for its shard.
    ///
    /// # Errors
    /// [`Unsound`]; also when the interfaces of `plan` are not those that there were.
    ///
    /// # Panics
    /// As [`Coordinator::new`].
    pub fn restore(
        self,
        plan: CoordinatorPlan,
        outlets: Vec<Outlet<ToShard>>,
        registry: Registry,
        entries: Vec<EntryKey>,
        now: Instant,
    ) -> Result<(Coordinator, BTreeMap<ChannelId, ChannelCounts>), Unsound> {
        let Self { identity: (boot, started), parts, drawn } = self;
        let CoordinatorPlan { interfaces, limits, .. } = plan;
        let shards = outlets.len();
        assert_eq!(entries.len(), shards, "every shard has an entry in the registry");
        let flows_max = usize::try_from(limits.max_flows_per_shard).expect("32 bits fit") * shards;
        let interfaces = parts.interfaces.restore(interfaces, shards, &limits, now)?;
        let (applications, counts) = parts.applications.restore(shards, &limits, registry.clone())?;
        let listeners = parts.listeners.restore(|owner| applications.attached(owner).is_ok())?;
        let connects = parts.connects.restore(now)?;
        let (flow_director, ways) = parts.flow_director.restore(shards, flows_max)?;
        let reports = parts.reports.restore(|connection| applications.find(connection).is_some(), now)?;
        for connect in connects.bases() {
            check_connect(&connect, &interfaces, &applications)?;
        }
        check_holds(&interfaces, &connects, &flow_director)?;
        let mut coordinator = Coordinator {
            interfaces,
            applications,
            listeners,
            connects,
            ports: parts.ports.restore()?,
            flow_director,
            reports,
            outboxes: Outboxes::new(outlets),
            shutdown: Shutdown::default(),
            random: Random::resume(&boot.secret, drawn),
            effects: VecDeque::new(),
            identity: Identity { boot, started, registry, entries },
        };
        ways.into_iter().for_each(|(landed, owner)| coordinator.make_way(landed, owner));
        Ok((coordinator, counts))
    }
}

/// Whether a connect can become a flow: of an interface that there is, in a channel that its endpoint has.
fn check_connect(connect: &Basis<'_>, interfaces: &Interfaces, applications: &Applications) -> Result<(), Unsound> {
    ensure(interfaces.has(connect.interface), "a connect is under way through an interface that there is not")?;
    let shards = &interfaces.get(connect.interface).shards;
    let are_its = shards.contains(&connect.via) && connect.owner.is_none_or(|owner| shards.contains(&owner));
    ensure(are_its, "a connect is under way at a shard of another interface")?;
    let Some(asker) = connect.asker else { return Err(Unsound("a connect is under way for nobody")) };
    let owners = connect.owner.as_ref().map_or(&shards[..], std::slice::from_ref);
    let has_channels = owners.iter().all(|owner| applications.channel_on(asker, *owner).is_some());
    ensure(has_channels, "a connect is under way for an endpoint without a channel for its flow")
}

/// Whether neighbors are held for what is there, and for nothing else.
fn check_holds(interfaces: &Interfaces, connects: &Connects, flow_director: &FlowDirector) -> Result<(), Unsound> {
    let of_connects = connects.bases().filter_map(|connect| connect.neighbor);
    let of_flows = flow_director.directory().iter_from(None).filter_map(|(_, flow)| flow.neighbor.as_ref());
    ensure(
        interfaces.are_held_by(of_connects.chain(of_flows)),
        "neighbors are held more often than they are used, or less",
    )
}
