//! Fuzz targets: one for each boundary where bytes of somebody else come in. Each takes any bytes, and panics when a
//! promise is broken.
//!
//! `make fuzz` runs them under libFuzzer, led by coverage, on a stable compiler. A test runs them on the corpora, with
//! what fuzzing has found so far.

mod arp;
mod channel;
mod config;
mod control;
mod echo;
mod flow_state;
mod fragments;
mod frame;
mod handshake;
mod packet;
mod peer;
mod records;
mod report;

/// A boundary.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name of the target and of its corpus.
    pub name: &'static str,
    /// Feeds it these bytes.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: [Target; 13] = [
    Target { name: "arp", run: arp::run },
    Target { name: "channel", run: channel::run },
    Target { name: "config", run: config::run },
    Target { name: "control", run: control::run },
    Target { name: "echo", run: echo::run },
    Target { name: "flow_state", run: flow_state::run },
    Target { name: "fragments", run: fragments::run },
    Target { name: "frame", run: frame::run },
    Target { name: "handshake", run: handshake::run },
    Target { name: "packet", run: packet::run },
    Target { name: "peer", run: peer::run },
    Target { name: "records", run: records::run },
    Target { name: "report", run: report::run },
];

/// The target with this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
