//! Ping: echo requests to our addresses are answered, odd and even sizes, up to the MTU.

use machnet_proto::wire::icmp;

use super::Coordinator;
use crate::mailbox::{ShardId, ToShard};

impl Coordinator {
    /// Answers an echo request through the shard that received it; anything else of ICMP is nothing to us.
    pub(super) fn echo(&mut self, shard: ShardId, frame: &[u8]) {
        let interface = self.link(shard).interface();
        if let Some(reply) = icmp::echo_reply(frame, interface.mac, interface.ip) {
            self.outboxes.post(shard, ToShard::Transmit { frame: reply.into() });
        }
    }
}
