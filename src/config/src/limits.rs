//! `machnet_shards`: what concerns the whole daemon.

use std::path::PathBuf;
use std::time::Duration;

use super::ConfigError;
use super::document::{Object, Place};
use machnet_core::defaults;
use machnet_core::message::MESSAGE_BYTES_MAX;
use machnet_core::payload::{Dialect, MTU_MIN, payload_budget};

/// The control socket. `--socket` and `MACHNET_SOCKET` have precedence over `socket`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlSocket {
    /// `socket`: an absolute path. Default `/var/run/machnet/machnet_ctrl.sock`.
    pub path: PathBuf,
    /// `socket_mode`: its permissions, in octal digits. Default 0660.
    pub mode: u32,
    /// `socket_group`: the name of its group. Default: `machnet` if there is such a group, else the daemon's.
    pub group: Option<String>,
}

impl Default for ControlSocket {
    fn default() -> Self {
        Self { path: PathBuf::from(defaults::SOCKET), mode: 0o660, group: None }
    }
}

/// Budgets and time limits. At a budget's limit a request is refused with an error that names the limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `send_bytes`: buffers to send, per channel. Memory is touched only as it is used. Default 12 MiB.
    pub send_bytes: u32,
    /// `receive_bytes`: buffers to receive, per channel. Default 4 MiB.
    pub receive_bytes: u32,
    /// `max_endpoints_per_user`: endpoints attached at the same time, per uid. Default 256.
    pub max_endpoints_per_user: u32,
    /// `max_channel_bytes_per_user`: memory of all channels, per uid. Default 4 GiB.
    pub max_channel_bytes_per_user: u64,
    /// `max_flows_per_shard`: at the limit a shard answers a new SYN with a reset. Default 65,536.
    pub max_flows_per_shard: u32,
    /// `max_neighbors`: MACs known per interface; at the limit the least recently used goes. Default 4,096.
    pub max_neighbors: u32,
    /// `linger_ms`: how long what a closed endpoint has published is still sent. Default 1 s.
    pub linger: Duration,
    /// `silent_after_ms`: how long nothing comes from a peer until it is called silent. Default 3 s.
    pub silent_after: Duration,
    /// `gone_after_ms`: how long until it is given up and its flows are closed. Default 15 s.
    pub gone_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            send_bytes: defaults::SEND_BYTES,
            receive_bytes: defaults::RECEIVE_BYTES,
            max_endpoints_per_user: 256,
            max_channel_bytes_per_user: 4 << 30,
            max_flows_per_shard: 65_536,
            max_neighbors: 4096,
            linger: defaults::LINGER,
            silent_after: defaults::SILENT_AFTER,
            gone_after: defaults::GONE_AFTER,
        }
    }
}

const KEYS: [&str; 12] = [
    "socket",
    "socket_mode",
    "socket_group",
    "send_bytes",
    "receive_bytes",
    "max_endpoints_per_user",
    "max_channel_bytes_per_user",
    "max_flows_per_shard",
    "max_neighbors",
    "linger_ms",
    "silent_after_ms",
    "gone_after_ms",
];

/// The smallest `send_bytes`: sending is all or nothing, so the longest message must fit.
const MIN_SEND_BYTES: u64 = 10 << 20;
/// The largest budget of a channel: offsets into a segment are 32 bits.
const MAX_POOL_BYTES: u64 = 1 << 30;

/// A message of 8 MiB in buffers of a multiple of 64 bytes; at worst all but the last byte of the last 64 are waste.
const _: () = {
    let smallest_payload = payload_budget(MTU_MIN, Dialect::Extended, 0) as u64;
    let pieces = (MESSAGE_BYTES_MAX as u64).div_ceil(smallest_payload);
    assert!(pieces * (smallest_payload + 63) <= MIN_SEND_BYTES, "an 8 MiB message must fit the smallest send_bytes");
};

/// Reads `machnet_shards`, if it is there.
pub(super) fn read(place: Option<&Place<'_>>) -> Result<(ControlSocket, Limits), ConfigError> {
    let Some(place) = place else { return Ok(Default::default()) };
    let keys = place.object(&KEYS)?;
    Ok((read_socket(&keys)?, read_limits(&keys)?))
}

fn read_socket(keys: &Object<'_, '_>) -> Result<ControlSocket, ConfigError> {
    let mut socket = ControlSocket::default();
    if let Some(place) = keys.optional("socket") {
        socket.path = PathBuf::from(place.text("/var/run/machnet/machnet_ctrl.sock")?);
        // sun_path of unix(7): 108 bytes with the NUL at its end.
        if !socket.path.is_absolute() || socket.path.as_os_str().len() > 107 {
            return Err(place.wrong("write an absolute path of at most 107 bytes"));
        }
    }
    if let Some(place) = keys.optional("socket_mode") {
        let mode = u32::from_str_radix(place.text("0660")?, 8).ok().filter(|mode| *mode <= 0o777);
        socket.mode = mode.ok_or_else(|| place.wrong("write permissions in octal digits, such as \"0660\""))?;
    }
    if let Some(place) = keys.optional("socket_group") {
        match place.text("machnet")? {
            "" => return Err(place.wrong("write the name of a group, or remove the key")),
            group => socket.group = Some(group.to_owned()),
        }
    }
    Ok(socket)
}

fn read_limits(keys: &Object<'_, '_>) -> Result<Limits, ConfigError> {
    const MINUTE_MS: u64 = 60_000;
    let mut limits = Limits::default();
    let milliseconds = |name, range, into: &mut Duration| -> Result<(), ConfigError> {
        if let Some(place) = keys.optional(name) {
            *into = Duration::from_millis(place.number(range)?);
        }
        Ok(())
    };
    if let Some(place) = keys.optional("send_bytes") {
        limits.send_bytes = place.small_number(MIN_SEND_BYTES..=MAX_POOL_BYTES)?;
    }
    if let Some(place) = keys.optional("receive_bytes") {
        limits.receive_bytes = place.small_number(256 << 10..=MAX_POOL_BYTES)?;
    }
    if let Some(place) = keys.optional("max_endpoints_per_user") {
        limits.max_endpoints_per_user = place.small_number(1..=65_536)?;
    }
    if let Some(place) = keys.optional("max_channel_bytes_per_user") {
        let one_channel = u64::from(limits.send_bytes) + u64::from(limits.receive_bytes);
        limits.max_channel_bytes_per_user = place.number(one_channel..=1 << 40)?;
    }
    if let Some(place) = keys.optional("max_flows_per_shard") {
        limits.max_flows_per_shard = place.small_number(1..=1 << 20)?;
    }
    if let Some(place) = keys.optional("max_neighbors") {
        limits.max_neighbors = place.small_number(16..=65_536)?;
    }
    milliseconds("linger_ms", 0..=MINUTE_MS, &mut limits.linger)?;
    milliseconds("silent_after_ms", 10..=60 * MINUTE_MS, &mut limits.silent_after)?;
    milliseconds("gone_after_ms", 50..=60 * MINUTE_MS, &mut limits.gone_after)?;
    if limits.gone_after <= limits.silent_after {
        let place = keys.optional("gone_after_ms").or_else(|| keys.optional("silent_after_ms"));
        return match place {
            Some(place) => Err(place.wrong("a peer is silent before it is gone, make gone_after_ms the larger one")),
            None => Ok(limits),
        };
    }
    Ok(limits)
}
