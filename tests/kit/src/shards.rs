//! The shards of one host, as its daemon makes them.

use std::net::Ipv4Addr;
use std::sync::Arc;

use machnet_core::addr::MacAddr;
use machnet_core::time::Instant;
use machnet_nic::NicQueue;
use machnet_proto::flow::FlowLimits;
use machnet_shards::counters::{EntryKey, Registry};
use machnet_shards::mailbox::{Outlet, ShardId, ToCoordinator, ToShard, mailbox};
use machnet_shards::shard::{Settings, Shard};

/// What all shards of a host are told alike.
pub(crate) struct ShardPlan {
    /// How many there are.
    pub(crate) shards: u16,
    pub(crate) mac: MacAddr,
    pub(crate) ip: Ipv4Addr,
    pub(crate) mtu_bytes: u16,
    pub(crate) boot_id: u64,
    pub(crate) secret: [u8; 16],
    /// In the table of each.
    pub(crate) flows_max: usize,
    pub(crate) half_open_max: usize,
    pub(crate) flow: Arc<FlowLimits>,
    /// That the mailbox of each holds.
    pub(crate) mailbox_messages: usize,
    /// Where they count.
    pub(crate) registry: Registry,
}

/// A shard, and what its coordinator has of it.
pub(crate) struct NewShard<Q: NicQueue> {
    pub(crate) shard: Shard<Q>,
    pub(crate) to_shard: Outlet<ToShard>,
    pub(crate) entry: EntryKey,
}

impl ShardPlan {
    /// The shard with this number, on its queue; `table_seed` keys the hash of its flow table.
    #[inline]
    pub(crate) fn shard<Q: NicQueue>(
        &self,
        id: ShardId,
        table_seed: (u64, u64),
        queue: Q,
        to_coordinator: Outlet<ToCoordinator>,
        now: Instant,
    ) -> NewShard<Q> {
        let (to_shard, inlet) = mailbox(self.mailbox_messages).expect("a descriptor");
        let (entry, counts) = self.registry.enter();
        let settings = Settings {
            id,
            is_alone: self.shards == 1,
            mac: self.mac,
            ip: self.ip,
            mtu_bytes: self.mtu_bytes,
            boot_id: self.boot_id,
            secret: self.secret,
            table_seed,
            flows_max: self.flows_max,
            half_open_max: self.half_open_max,
            flow: Arc::clone(&self.flow),
        };
        NewShard { shard: Shard::new(settings, queue, inlet, to_coordinator, counts, now), to_shard, entry }
    }
}
