//! What holds where nobody says otherwise: the daemon's configuration, the library's options and the protocol's limits
//! all begin with these.

use crate::time::Duration;

/// Where the daemon's control socket is.
pub const SOCKET: &str = "/var/run/machnet/machnet_ctrl.sock";

/// The environment variable that names another control socket.
pub const SOCKET_VARIABLE: &str = "MACHNET_SOCKET";

/// Buffers to send, in bytes of a channel. Memory is touched only as it is used.
pub const SEND_BYTES: u32 = 12 << 20;

/// Buffers to receive, in bytes of a channel.
pub const RECEIVE_BYTES: u32 = 4 << 20;

/// How long another host may take to accept a flow.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long what an application has published is still delivered after its end.
pub const LINGER: Duration = Duration::from_secs(1);

/// How long nothing comes from a peer until it is called silent.
pub const SILENT_AFTER: Duration = Duration::from_secs(3);

/// How long nothing comes from a peer until it is given up and its flows end.
pub const GONE_AFTER: Duration = Duration::from_secs(15);
