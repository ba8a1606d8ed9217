//! What `machnet-shards status` shows.

use machnet_proto::time::Instant;
use serde_json::{Map, Value, json};

use super::directory::Origin;
use super::endpoints::Endpoint;
use super::neighbors::Link;
use super::{ConnectionId, Coordinator};
use crate::mailbox::{ChannelId, ShardId};

/// Flows listed one by one; beyond, only their number is told.
const MAX_FLOWS: usize = 20_000;

impl Coordinator {
    /// The daemon as it is now: one JSON document, whose keys are stable.
    pub(super) fn status(&self, now: Instant) -> Value {
        let endpoints = self.endpoints.iter().filter_map(|(id, endpoint)| self.endpoint(id, endpoint));
        let (ending_channels, ending_bytes) = self.endpoints.ending();
        json!({
            "daemon": {
                "version": env!("CARGO_PKG_VERSION"),
                "pid": std::process::id(),
                "uptime_s": (now - self.started).as_secs(),
                "boot_id": format!("{:016x}", self.boot.id),
                "stopping": self.stop.is_some(),
            },
            "interfaces": self.links.iter().map(interface).collect::<Vec<_>>(),
            "shards": (0..).zip(&self.entries).map(|(id, _)| self.shard(ShardId(id))).collect::<Vec<_>>(),
            "endpoints": endpoints.collect::<Vec<_>>(),
            "listeners": self.listeners().collect::<Vec<_>>(),
            "flows": self.flows(),
            "control": {
                "connects_under_way": self.connects.len(),
                "channels_ending": ending_channels,
                "channel_bytes_ending": ending_bytes,
                "frames_dropped_in_outboxes": self.outboxes.dropped_frames(),
                "hints_refused": self.steering.refused(),
            },
        })
    }

    fn shard(&self, id: ShardId) -> Value {
        let published = self.registry.read(self.entries[usize::from(id.0)]);
        let object = |pairs: Vec<(&'static str, u64)>| {
            Value::Object(pairs.into_iter().map(|(label, value)| (label.to_owned(), value.into())).collect())
        };
        let mut shard = Map::new();
        shard.insert("shard".into(), id.0.into());
        shard.insert("interface".into(), self.link(id).interface().mac.to_string().into());
        shard.insert("flows".into(), self.directory.count(id).into());
        shard.insert("hints".into(), self.steering.hints(id).into());
        if let Some(published) = published {
            shard.insert("counters".into(), object(published.counters));
            shard.insert("drops".into(), object(published.drops));
            shard.insert("gauges".into(), object(published.gauges));
        }
        shard.into()
    }

    /// `None` for a connection that has not attached: one that asks for the status, mostly.
    fn endpoint(&self, id: ConnectionId, endpoint: &Endpoint) -> Option<Value> {
        let name = endpoint.name.as_ref()?;
        let channels = endpoint.channels.iter().filter_map(|channel| {
            let channel = self.endpoints.channel(*channel)?;
            Some(json!({ "index": channel.index, "shard": channel.shard.0, "bytes": channel.bytes }))
        });
        Some(json!({
            "endpoint": id.0,
            "name": name,
            "pid": endpoint.peer.pid.map(std::num::NonZeroU32::get),
            "uid": endpoint.peer.uid,
            "channels": channels.collect::<Vec<_>>(),
            "listeners": endpoint.listeners.len(),
            "connects_under_way": endpoint.connects.len(),
        }))
    }

    fn listeners(&self) -> impl Iterator<Item = Value> {
        self.listeners.iter().map(|listener| {
            let (ip, port) = listener.place;
            json!({
                "ip": ip.to_string(),
                "port": port,
                "endpoint": listener.owner.0,
                "shared": listener.shared_by.is_some(),
                "in_force": listener.is_in_force(),
            })
        })
    }

    fn flows(&self) -> Value {
        let owner = |channel: Option<ChannelId>| Some(self.endpoints.channel(channel?)?.owner.0);
        let mut flows: Vec<_> = self.directory.iter().take(MAX_FLOWS).collect();
        flows.sort_unstable_by_key(|(key, _)| (key.remote_ip, key.remote_port, key.local_ip, key.local_port));
        let listed = flows.into_iter().map(|(key, flow)| {
            json!({
                "local": format!("{}:{}", key.local_ip, key.local_port),
                "remote": format!("{}:{}", key.remote_ip, key.remote_port),
                "shard": flow.shard.0,
                "endpoint": owner(flow.channel),
                "opened_by": if flow.origin == Origin::Connected { "us" } else { "peer" },
            })
        });
        listed.collect::<Vec<_>>().into()
    }
}

fn interface(link: &Link) -> Value {
    let interface = link.interface();
    let neighbors = link.cache().iter().map(|neighbor| {
        json!({
            "ip": neighbor.ip.to_string(),
            "mac": neighbor.mac.map(|mac| mac.to_string()),
            "state": neighbor.state,
            "flows": neighbor.holders,
        })
    });
    json!({
        "mac": interface.mac.to_string(),
        "ip": interface.ip.to_string(),
        "device": interface.device,
        "mtu_bytes": interface.mtu_bytes,
        "rss_known": link.believed_rss().is_some(),
        "predictions_right": link.predictions().right,
        "predictions_wrong": link.predictions().wrong,
        "shards": interface.shards.iter().map(|shard| shard.0).collect::<Vec<_>>(),
        "address_conflicts": link.conflicts(),
        "neighbors": neighbors.collect::<Vec<_>>(),
    })
}
