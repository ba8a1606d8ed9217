//! Every implementation of `NicQueue` passes one suite.
//!
//! DPDK is started once per process and kernel interfaces belong to a namespace, so this program runs itself once for
//! each device: `nic DEVICE` is the part inside. Namespaces have no names and end with their process, which the kernel
//! kills when this program ends; nothing stays behind, whatever happens.
//!
//! `cargo test --test nic [FILTER]` runs the devices whose name contains the filter.

mod devices;
mod owners;
mod rights;
mod sleeping;
mod suite;
mod xdp;

use std::env;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use machnet_test_kit::waiting::within;

/// What is run, and in which surroundings.
const DEVICES: [(&str, Surroundings, fn()); 12] = [
    ("cable", Surroundings::Here, devices::cable),
    ("ring", Surroundings::Here, devices::ring),
    ("memif", Surroundings::Here, devices::memif),
    ("packet", Surroundings::Namespace, devices::packet),
    ("packet_queues", Surroundings::Namespace, devices::packet_queues),
    ("dpdk_packet", Surroundings::Namespace, devices::dpdk_packet),
    ("dpdk_stalled", Surroundings::Namespace, devices::dpdk_packet_stalled),
    ("tap", Surroundings::Namespace, devices::tap),
    ("xdp", Surroundings::RootNamespace, devices::xdp),
    ("xdp_programs", Surroundings::RootNamespace, xdp::programs_of_others),
    ("owners", Surroundings::Namespace, owners::one_for_each_device),
    ("rights", Surroundings::Namespace, rights::packet_sockets_take_net_raw),
];

#[derive(Clone, Copy, PartialEq)]
enum Surroundings {
    /// A process of its own is enough.
    Here,
    /// A network namespace with two interfaces, `near` and `far`, joined.
    Namespace,
    /// The same, with real root.
    RootNamespace,
}

/// The longest a device may take; some take 5 s on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if env::var_os(xdp::OTHER).is_some() {
        xdp::be_another();
        return ExitCode::SUCCESS;
    }
    if env::var_os(rights::ALLOWED).is_some() {
        rights::open();
        return ExitCode::SUCCESS;
    }
    if env::var_os(owners::ASKER).is_some() {
        owners::ask();
        return ExitCode::SUCCESS;
    }
    if let Ok(inside) = env::var("NIC_TEST_DEVICE") {
        let (_, surroundings, run) = DEVICES.iter().find(|device| device.0 == inside).expect("set by ourselves below");
        match surroundings {
            Surroundings::Here => {}
            Surroundings::Namespace => devices::join_near_and_far(4000),
            Surroundings::RootNamespace => devices::join_near_and_far(1500),
        }
        run();
        return ExitCode::SUCCESS;
    }
    if env::args().any(|argument| argument == "--list") {
        DEVICES.iter().for_each(|device| println!("{}: test", device.0));
        return ExitCode::SUCCESS;
    }
    let mut failed = Vec::new();
    for (name, surroundings, _) in DEVICES {
        if !arguments.is_empty() && !arguments.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        if surroundings == Surroundings::RootNamespace && !is_root() {
            println!("nic {name} ... skipped: it needs root outside any user namespace");
            continue;
        }
        let started = Instant::now();
        let result = run(name, surroundings);
        println!(
            "nic {name} ... {} ({:.1} s)",
            result.as_ref().map_or("FAILED", |()| "ok"),
            started.elapsed().as_secs_f64()
        );
        if let Err(error) = result {
            println!("nic {name}: {error}");
            failed.push(name);
        }
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs this program in the surroundings of a device, for no longer than the limit.
fn run(name: &str, surroundings: Surroundings) -> Result<(), String> {
    let program = env::current_exe().map_err(|error| error.to_string())?;
    // The death signal comes last: a process that enters a user namespace loses it.
    let inside = ["setpriv", "--pdeathsig", "KILL", "--"];
    let unshare: &[&str] = match surroundings {
        Surroundings::Here => &[],
        _ if is_root() => &["unshare", "--net", "--"],
        _ => &["unshare", "--user", "--map-root-user", "--net", "--"],
    };
    let words: Vec<&str> = unshare.iter().chain(&inside).copied().collect();
    let child = Command::new(words[0]).args(&words[1..]).arg(program).env("NIC_TEST_DEVICE", name).spawn();
    let mut child = child.map_err(|error| format!("{} did not run: {error}", words[0]))?;
    match wait(&mut child) {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(status.to_string()),
        None => {
            let _ = child.kill();
            let _ = child.wait();
            Err(format!("it was not finished after {} s", LIMIT.as_secs()))
        }
    }
}

/// How the child ended; `None` if it has not within the limit.
fn wait(child: &mut Child) -> Option<ExitStatus> {
    within(LIMIT, || child.try_wait().ok().flatten().ok_or(())).ok()
}

/// Whether this is root, and not only in a user namespace.
fn is_root() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    rustix::process::geteuid().is_root() && map.split_whitespace().eq(["0", "0", "4294967295"])
}
