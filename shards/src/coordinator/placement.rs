//! Where a new flow, or the flows of a new listener, are to live. Asks the parts who has how much; changes nothing.

use machnet::daemon::control::message::{Binding, ControlError};

use super::ConnectionId;
use super::applications::Applications;
use super::connects::Connects;
use super::flow_director::FlowDirector;
use super::plan::InterfacePlan;
use crate::mailbox::ShardId;

/// What the choice rests on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placement<'a> {
    pub(super) applications: &'a Applications,
    pub(super) connects: &'a Connects,
    pub(super) flow_director: &'a FlowDirector,
}

impl Placement<'_> {
    /// The one shard of an interface that an endpoint has, or shall have; `None` if it has all of them.
    pub(super) fn home(
        &self,
        endpoint: ConnectionId,
        interface: &InterfacePlan,
    ) -> Result<Option<ShardId>, ControlError> {
        let (_, binding) = self.applications.attached(endpoint)?;
        match binding {
            Binding::All => Ok(None),
            Binding::Shard(queue) => interface.shard_at(queue).map(Some),
            Binding::LeastLoaded => {
                let has = |shard: &ShardId| self.applications.channel_on(endpoint, *shard).is_some();
                let present = interface.shards.iter().copied().find(has);
                Ok(Some(present.unwrap_or_else(|| self.least_loaded(&interface.shards))))
            }
        }
    }

    /// The shard that a flow of an endpoint must live on, if it may not live where its answer arrives. `queue` is the
    /// number of the shard's queue that the application wants.
    pub(super) fn owner(
        &self,
        endpoint: ConnectionId,
        interface: &InterfacePlan,
        queue: Option<u16>,
    ) -> Result<Option<ShardId>, ControlError> {
        let home = self.home(endpoint, interface)?;
        let wanted = queue.map(|queue| interface.shard_at(queue)).transpose()?;
        match (home, wanted) {
            (Some(home), Some(wanted)) if home != wanted => {
                Err(ControlError::Invalid("the endpoint is bound to another shard than the flow".into()))
            }
            (home, wanted) => Ok(home.or(wanted)),
        }
    }

    /// The shard with the fewest flows, and of those the one with the fewest channels.
    ///
    /// # Panics
    /// When there is none to choose from: our own mistake.
    pub(super) fn least_loaded(&self, shards: &[ShardId]) -> ShardId {
        let load = |shard: &ShardId| {
            let flows = self.flow_director.directory().count(*shard) + self.connects.count_on(*shard);
            (flows, self.applications.channels().count_on(*shard))
        };
        shards.iter().copied().min_by_key(load).expect("an interface has shards")
    }
}

#[cfg(test)]
mod tests {
    use machnet::daemon::control::Peer;
    use machnet_config::Limits;
    use machnet_core::time::Instant;

    use super::*;
    use crate::coordinator::action::Actions;
    use crate::coordinator::plan::tests::interface;
    use crate::counters::Registry;

    #[test]
    fn an_endpoint_has_the_shard_it_asks_for_or_the_least_loaded_or_all() {
        let (connects, flow_director, interface) = (Connects::default(), FlowDirector::new(3, 10), interface(3));
        let mut applications = Applications::new(&Limits::default(), Registry::default());
        let mut actions = Actions::default();
        let bindings = [Binding::All, Binding::Shard(2), Binding::Shard(3), Binding::LeastLoaded];
        let endpoints = (1..).map(ConnectionId).zip(bindings);
        for (endpoint, binding) in endpoints.clone() {
            applications.connected(endpoint, Peer { pid: None, uid: 7, gid: 7 }, Instant::ZERO, &mut actions);
            applications.attach(endpoint, String::new(), binding).expect("it is the first time");
        }
        let mut homes = |present: &[ShardId]| {
            applications.grant((ConnectionId(1), 9), &interface, present, &mut actions).expect("there is room");
            let placement =
                Placement { applications: &applications, connects: &connects, flow_director: &flow_director };
            let owner = |endpoint, queue| placement.owner(endpoint, &interface, queue);
            assert_eq!(owner(ConnectionId(1), Some(1)), Ok(Some(ShardId(1))));
            assert_eq!(owner(ConnectionId(2), Some(2)), Ok(Some(ShardId(2))));
            assert!(matches!(owner(ConnectionId(2), Some(1)), Err(ControlError::Invalid(_))));
            endpoints.clone().map(|(endpoint, _)| placement.home(endpoint, &interface)).collect::<Vec<_>>()
        };
        let no_such = Err(ControlError::NoSuchShard(3));
        let first = [Ok(None), Ok(Some(ShardId(2))), no_such.clone(), Ok(Some(ShardId(0)))];
        assert_eq!(homes(&[]), first);
        let later = [Ok(None), Ok(Some(ShardId(2))), no_such, Ok(Some(ShardId(1)))];
        assert_eq!(homes(&[ShardId(0)]), later, "shard 0 has a channel now");
    }
}
