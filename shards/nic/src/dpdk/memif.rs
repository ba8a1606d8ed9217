//! What is particular to a memif: it has a server and a client, which come and go.

use std::fs;
use std::os::unix::fs::FileTypeExt;

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::backend::{DpdkDevice, Pmd};

/// Where the PMD has its socket unless the arguments say otherwise.
const SOCKET: &str = "/run/memif.sock";

/// Whether the device is a memif that connects to another one: unless its arguments say that it is the server.
pub(super) fn is_client(device: &DpdkDevice) -> bool {
    device.pmd() == Some(Pmd::Memif) && !is_server(device)
}

fn is_server(device: &DpdkDevice) -> bool {
    matches!(device.argument("role"), Some("server" | "master"))
}

/// Removes the file of a server's socket if nobody listens there: a server that was killed has left it, and the next
/// one would be refused.
pub(super) fn remove_stale_socket(device: &DpdkDevice) {
    let has_file = device.pmd() == Some(Pmd::Memif) && device.argument("socket-abstract") == Some("no");
    if !has_file || !is_server(device) {
        return;
    }
    let path = device.argument("socket").unwrap_or(SOCKET);
    if is_abandoned(path) && fs::remove_file(path).is_ok() {
        tracing::info!(socket = path, "removed the socket of a memif server that is no more");
    }
}

/// Whether there is a socket to which nobody listens.
fn is_abandoned(path: &str) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let connect = || {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        net::connect(&socket, &SocketAddrUnix::new(path)?)
    };
    is_socket && connect() == Err(Errno::CONNREFUSED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_removed_when_nobody_listens_there() {
        let scratch = machnet_test_kit::Scratch::new().expect("a temporary directory");
        let path = scratch.file("memif.sock");
        let device = |role: &str, path: &std::path::Path| {
            DpdkDevice::Arguments(format!("net_memif0,role={role},socket={},socket-abstract=no", path.display()))
        };
        let (server, client) = (device("server", &path), device("client", &path));
        assert!(is_client(&client) && !is_client(&server));
        let socket = net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .expect("a descriptor");
        net::bind(&socket, &SocketAddrUnix::new(&path).expect("short")).expect("it is free");
        net::listen(&socket, 1).expect("it is bound");
        remove_stale_socket(&server);
        assert!(path.exists(), "somebody listens");
        drop(socket);
        remove_stale_socket(&client);
        assert!(path.exists(), "a client's server may be about to listen");
        remove_stale_socket(&server);
        assert!(!path.exists());
        fs::write(&path, "something else").expect("a temporary file");
        remove_stale_socket(&server);
        assert!(path.exists(), "that is no socket");
    }
}
