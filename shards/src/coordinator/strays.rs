//! Strays: packets of flows that the shard they came to does not have.
//!
//! The NIC may have put a frame at another shard than its flow's; that flow must not be reset. But a peer whose flow
//! nobody has, because this daemon was restarted, is told at once.

use machnet_proto::addr::{FlowKey, MacAddr};

use super::Coordinator;
use super::connects::datagram;
use crate::mailbox::{ShardId, ToShard};

impl Coordinator {
    /// Sends the RST that the shard has made ready, unless some shard has the flow, or is about to.
    pub(super) fn stray(&mut self, shard: ShardId, key: &FlowKey, source_mac: MacAddr, answer: &[u8]) {
        if self.directory.find(key).is_some() || self.connects.is_under_way(key) {
            return;
        }
        let frame = datagram(self.link(shard).interface().mac, source_mac, key, answer);
        self.outboxes.post(shard, ToShard::Transmit { frame });
    }
}
