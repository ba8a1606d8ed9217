//! What a process must be allowed for packet sockets.

use std::process::Command;

use machnet_nic::error::OpenError;
use machnet_nic::packet;
use machnet_nic::plan::plan;

use crate::devices::{NEAR, interface};

/// Set for a process that opens `near` with some of all capabilities, to whether that is enough.
pub(crate) const ALLOWED: &str = "NIC_TEST_RIGHTS_ALLOWED";

/// CAP_NET_RAW is enough, and CAP_NET_ADMIN is not: the sentence names the one that is missing.
pub(crate) fn packet_sockets_take_net_raw() {
    for (capability, allowed) in [("net_raw", "yes"), ("net_admin", "no")] {
        let this = std::env::current_exe().expect("we run");
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", &format!("-all,+{capability}"), "--"]).arg(this).env(ALLOWED, allowed);
        assert!(command.status().expect("setpriv is installed").success(), "with {capability} alone");
    }
}

/// Opens `near`, if that is allowed.
pub(crate) fn open() {
    let planned = plan(&interface(NEAR, 2));
    if std::env::var(ALLOWED).is_ok_and(|allowed| allowed == "yes") {
        packet::open(&planned.expect("it is allowed"), "near", None).unwrap_or_else(|error| panic!("{error}"));
        return;
    }
    let refused = planned.expect_err("it is not allowed");
    assert!(matches!(refused, OpenError::PacketNotAllowed { .. }), "{refused}");
    assert!(refused.to_string().ends_with("CAP_NET_RAW with `setcap cap_net_raw+ep`"), "{refused}");
}
