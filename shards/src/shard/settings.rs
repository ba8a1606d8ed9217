//! What a shard is told when it is made.

use std::net::Ipv4Addr;
use std::sync::Arc;

use machnet_core::addr::MacAddr;
use machnet_proto::flow::FlowLimits;

use crate::mailbox::ShardId;

/// What a shard is told when it is made.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its number.
    pub id: ShardId,
    /// Whether it is the only one of its interface: then every flow of the interface is here.
    pub is_alone: bool,
    /// The interface's MAC address.
    pub mac: MacAddr,
    /// The interface's IP address.
    pub ip: Ipv4Addr,
    /// The longest IP packet the interface takes.
    pub mtu_bytes: u16,
    /// Names this start of the daemon; peers see it in the handshake.
    pub boot_id: u64,
    /// Keys the acceptor's nonces; the same on all shards of a daemon.
    pub secret: [u8; 16],
    /// Keys the flow table's hash.
    pub table_seed: (u64, u64),
    /// The most flows in the table.
    pub flows_max: usize,
    /// The most flows whose handshake is half done; beyond it the oldest is forgotten.
    pub half_open_max: usize,
    /// Of each flow.
    pub flow: Arc<FlowLimits>,
}
