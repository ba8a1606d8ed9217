//! What a daemon is made of, as far as the coordinator must know; it does not change while the daemon runs.

use std::net::Ipv4Addr;

use machnet::daemon::control::message::ControlError;
use machnet_config::{Limits, Subnet};
use machnet_core::addr::{self, MacAddr};
use machnet_nic::DeviceControl;
use machnet_proto::dialect::Dialect;
use machnet_proto::rss::Rss;

use crate::mailbox::ShardId;

/// What the daemon is made of, as far as the coordinator must know.
#[derive(Debug)]
pub struct CoordinatorPlan {
    /// The interfaces. Every shard belongs to one of them.
    pub interfaces: Vec<InterfacePlan>,
    /// Budgets and time limits.
    pub limits: Limits,
    /// This start of the daemon.
    pub boot: Boot,
}

/// An interface and its shards.
#[derive(Debug)]
pub struct InterfacePlan {
    /// What runs it, for people: driver and device.
    pub device: String,
    /// Its address on the link.
    pub mac: MacAddr,
    /// Its IP.
    pub ip: Ipv4Addr,
    /// The largest IP packet that passes, in bytes; at least 576.
    pub mtu_bytes: u16,
    /// What is on the link; `None`: every peer.
    pub subnet: Option<Subnet>,
    /// By the number of its queue. At least one.
    pub shards: Vec<ShardId>,
    /// How the device spreads flows over the queues, if it says so.
    pub rss: Option<Rss>,
    /// The number of the kernel interface that the device is at, if it is at one.
    pub kernel_interface: Option<u32>,
    /// What can be asked of the device, if anything.
    pub control: Option<Box<dyn DeviceControl>>,
}

/// What tells this start of the daemon from all others. Random.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Boot {
    /// Shown to peers.
    pub id: u64,
    /// Shown to nobody; the shards have the same.
    pub secret: [u8; 16],
}

impl InterfacePlan {
    /// The largest payload of a packet, in bytes.
    pub(super) fn max_payload_bytes(&self) -> u16 {
        Dialect::OURS.payload_budget(self.mtu_bytes, 0)
    }

    /// The neighbor that frames to `peer` go to; `None` for ourselves.
    pub(super) fn next_hop(&self, peer: Ipv4Addr) -> Result<Option<Ipv4Addr>, ControlError> {
        if peer == self.ip {
            return Ok(None);
        }
        match self.subnet {
            Some(subnet) => {
                let next_hop = subnet.next_hop(self.ip.into(), peer.into()).ok_or(ControlError::Unreachable)?;
                Ok(Some(addr::ipv4(next_hop)?))
            }
            None => Ok(Some(peer)),
        }
    }

    /// The shard of the queue with this number, counted from 0.
    pub(super) fn shard_at(&self, queue: u16) -> Result<ShardId, ControlError> {
        let number = u16::try_from(self.shards.len()).expect("shards have 16-bit numbers");
        self.shards.get(usize::from(queue)).copied().ok_or(ControlError::NoSuchShard(number))
    }

    /// The number of a shard's queue; `None` if it is no shard of this interface.
    pub(super) fn queue_of(&self, shard: ShardId) -> Option<u16> {
        let queue = self.shards.iter().position(|other| *other == shard)?;
        Some(u16::try_from(queue).expect("shards have 16-bit numbers"))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    pub(crate) const OUR_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    pub(crate) const THEIRS: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    pub(crate) const THEIR_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    pub(crate) const GATEWAY_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
    const FAR_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 7);

    /// An interface with so many shards, numbered from 0.
    pub(crate) fn interface(shards: u16) -> InterfacePlan {
        InterfacePlan {
            device: "memory".into(),
            mac: OURS,
            ip: OUR_IP,
            mtu_bytes: 1500,
            subnet: Some(Subnet { prefix_bits: 24, gateway: Some(GATEWAY_IP.into()) }),
            shards: (0..shards).map(ShardId).collect(),
            rss: None,
            kernel_interface: None,
            control: None,
        }
    }

    #[test]
    fn frames_go_to_the_peer_the_gateway_or_nowhere() {
        let mut interface = interface(1);
        assert_eq!(interface.next_hop(THEIR_IP), Ok(Some(THEIR_IP)));
        assert_eq!(interface.next_hop(FAR_IP), Ok(Some(GATEWAY_IP)));
        assert_eq!(interface.next_hop(OUR_IP), Ok(None), "to ourselves");
        interface.subnet = Some(Subnet { prefix_bits: 24, gateway: None });
        assert_eq!(interface.next_hop(FAR_IP), Err(ControlError::Unreachable));
        interface.subnet = None;
        assert_eq!(interface.next_hop(FAR_IP), Ok(Some(FAR_IP)), "everybody is on the link");
    }

    #[test]
    fn shards_are_counted_from_0_by_their_queues() {
        let interface = InterfacePlan { shards: vec![ShardId(5), ShardId(7)], ..interface(0) };
        assert_eq!(interface.shard_at(1), Ok(ShardId(7)));
        assert_eq!(interface.shard_at(2), Err(ControlError::NoSuchShard(2)));
        assert_eq!((interface.queue_of(ShardId(7)), interface.queue_of(ShardId(0))), (Some(1), None));
    }
}
