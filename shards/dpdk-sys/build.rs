//! Compiles the shim against the system's libdpdk, found by pkg-config.

use std::process::Command;

/// What to do when a tool or libdpdk is missing.
const REMEDY: &str = "install libdpdk (22.11 or later) and pkg-config: apt-get install libdpdk-dev pkg-config";

fn main() {
    for input in ["shim.c", "shim.h"] {
        println!("cargo:rerun-if-changed={input}");
    }
    println!("cargo:rerun-if-env-changed=PKG_CONFIG_PATH");

    pkg_config(&["--atleast-version=22.11"]);
    let mut build = cc::Build::new();
    build.file("shim.c").warnings(true).extra_warnings(true).flag("-Wno-unused-parameter");
    // The flags as they are: `-include rte_config.h` and `-march` decide the layout of what the headers inline.
    for flag in pkg_config(&["--cflags"]).split_whitespace() {
        build.flag(flag.strip_prefix("-I").map_or(flag.to_owned(), |path| format!("-isystem{path}")));
    }
    build.define("ALLOW_EXPERIMENTAL_API", None).compile("dpdk_shim");

    for flag in pkg_config(&["--libs"]).split_whitespace() {
        if let Some(path) = flag.strip_prefix("-L") {
            println!("cargo:rustc-link-search=native={path}");
        }
    }
    // What the shim calls. The drivers are loaded by EAL at run time, all but net_ring, which is called by name.
    for library in ["rte_eal", "rte_ethdev", "rte_mempool", "rte_mbuf", "rte_ring", "rte_net_ring"] {
        println!("cargo:rustc-link-lib=dylib={library}");
    }
}

/// The output of pkg-config for libdpdk.
fn pkg_config(arguments: &[&str]) -> String {
    let output = Command::new("pkg-config").args(arguments).arg("libdpdk").output();
    let output = output.unwrap_or_else(|error| panic!("pkg-config did not run ({error}); {REMEDY}"));
    assert!(output.status.success(), "libdpdk was not found by pkg-config; {REMEDY}");
    String::from_utf8(output.stdout).expect("pkg-config prints text")
}
