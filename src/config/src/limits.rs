//! `machnet_shards`: what concerns the whole daemon.

use std::path::PathBuf;

use machnet_core::defaults;
use machnet_core::time::Duration;

use super::ConfigError;
use super::keys::{CHANNEL_BYTES_MAX, DaemonKeys};
use super::place::Place;
use super::value::{Group, Mode, SocketPath, Switch, Text, Whole, whole_number};

/// The control socket. `--socket` and `MACHNET_SOCKET` have precedence over its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlSocket {
    /// `socket`: an absolute path.
    pub path: PathBuf,
    /// `socket_mode`: its permissions.
    pub mode: u32,
    /// `socket_group`: the name of its group, or its number; `None`: `machnet` if there is such a group, else the
    /// daemon's.
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
    /// `send_bytes`: buffers to send, per channel. Memory is touched only as it is used.
    pub send_bytes: u32,
    /// `receive_bytes`: buffers to receive, per channel.
    pub receive_bytes: u32,
    /// `max_endpoints_per_user`: endpoints attached at the same time, per uid.
    pub max_endpoints_per_user: u32,
    /// `max_channel_bytes_per_user`: memory of all channels, per uid.
    pub max_channel_bytes_per_user: u64,
    /// `max_flows_per_shard`: at the limit a shard answers a new SYN with a reset.
    pub max_flows_per_shard: u32,
    /// `max_neighbors`: MACs known per interface; at the limit the least recently used goes.
    pub max_neighbors: u32,
    /// `linger_ms`: how long what a closed endpoint has published is still sent.
    pub linger: Duration,
    /// `silent_after_ms`: how long nothing comes from a peer until it is called silent.
    pub silent_after: Duration,
    /// `gone_after_ms`: how long until it is given up and its flows are closed.
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

/// What stands in `machnet_shards` about the control socket.
pub(super) fn control_socket(keys: &DaemonKeys) -> ControlSocket {
    let default = ControlSocket::default();
    ControlSocket {
        path: keys.socket.as_ref().map_or(default.path, |Text(SocketPath(path))| path.clone()),
        mode: keys.socket_mode.as_ref().map_or(default.mode, |Text(Mode(mode))| *mode),
        group: keys.socket_group.as_ref().map(|Text(Group(group))| group.clone()),
    }
}

/// Checks what stands in `machnet_shards`, at `place`, about budgets and time limits.
pub(super) fn check(keys: &DaemonKeys, place: &Place<'_>) -> Result<Limits, ConfigError> {
    let limits = chosen(keys);
    if let Some(bytes) = &keys.max_channel_bytes_per_user {
        let one_channel = u64::from(limits.send_bytes) + u64::from(limits.receive_bytes);
        if bytes.0 < one_channel {
            let remedy = whole_number(one_channel, CHANNEL_BYTES_MAX);
            return Err(place.below("max_channel_bytes_per_user").wrong(bytes, &remedy));
        }
    }
    if limits.gone_after <= limits.silent_after {
        let remedy = "a peer is silent before it is gone, make gone_after_ms the larger one";
        return Err(match (&keys.gone_after_ms, &keys.silent_after_ms) {
            (Some(gone), _) => place.below("gone_after_ms").wrong(gone, remedy),
            (None, silent) => place.below("silent_after_ms").wrong(silent, remedy),
        });
    }
    Ok(limits)
}

/// What the keys say, and the defaults where they say nothing.
fn chosen(keys: &DaemonKeys) -> Limits {
    fn or<T: Copy, const MIN: u64, const MAX: u64>(key: &Option<Whole<T, MIN, MAX>>, default: T) -> T {
        key.as_ref().map_or(default, |Whole(number)| *number)
    }
    fn time<const MIN: u64, const MAX: u64>(key: &Option<Whole<u64, MIN, MAX>>, default: Duration) -> Duration {
        key.as_ref().map_or(default, |Whole(number)| Duration::from_millis(*number))
    }
    let default = Limits::default();
    Limits {
        send_bytes: or(&keys.send_bytes, default.send_bytes),
        receive_bytes: or(&keys.receive_bytes, default.receive_bytes),
        max_endpoints_per_user: or(&keys.max_endpoints_per_user, default.max_endpoints_per_user),
        max_channel_bytes_per_user: or(&keys.max_channel_bytes_per_user, default.max_channel_bytes_per_user),
        max_flows_per_shard: or(&keys.max_flows_per_shard, default.max_flows_per_shard),
        max_neighbors: or(&keys.max_neighbors, default.max_neighbors),
        linger: time(&keys.linger_ms, default.linger),
        silent_after: time(&keys.silent_after_ms, default.silent_after),
        gone_after: time(&keys.gone_after_ms, default.gone_after),
    }
}

/// The other direction: what would have to stand in the file.
pub(super) fn keys(control: &ControlSocket, confine: bool, limits: &Limits) -> DaemonKeys {
    fn time<const MIN: u64, const MAX: u64>(time: Duration) -> Option<Whole<u64, MIN, MAX>> {
        Some(Whole(time.as_millis()))
    }
    DaemonKeys {
        socket: Some(Text(SocketPath(control.path.clone()))),
        socket_mode: Some(Text(Mode(control.mode))),
        socket_group: control.group.clone().map(Group).map(Text),
        confine: Some(Switch(confine)),
        send_bytes: Some(Whole(limits.send_bytes)),
        receive_bytes: Some(Whole(limits.receive_bytes)),
        max_endpoints_per_user: Some(Whole(limits.max_endpoints_per_user)),
        max_channel_bytes_per_user: Some(Whole(limits.max_channel_bytes_per_user)),
        max_flows_per_shard: Some(Whole(limits.max_flows_per_shard)),
        max_neighbors: Some(Whole(limits.max_neighbors)),
        linger_ms: time(limits.linger),
        silent_after_ms: time(limits.silent_after),
        gone_after_ms: time(limits.gone_after),
    }
}
