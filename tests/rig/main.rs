//! The daemon on PCI NICs that have queues, a hash key, an indirection table and interrupts: in virtual machines.
//!
//! ```text
//!   this process
//!     │ processes                                    │ serial port: commands, and what they write
//!   host: machnet-shards on af_packet ══ tap ══ guest: machnet-shards on vfio-pci, a shard for each queue
//! ```
//!
//! A guest is a kernel and an initramfs with the daemon, `msg_gen` and DPDK's drivers. QEMU emulates its CPUs and its
//! NIC, so nothing here tells how fast anything is. `make test-rig` fetches what is needed and runs this.

mod guest;
mod initramfs;
mod packages;

use std::time::{Duration, Instant};

use machnet::daemon::control::report::{OpenedBy, Report};
use machnet_shards::counters::Counter;
use machnet_test_kit::Failure;
use machnet_test_kit::hosts::{Host, Program, lone_host};
use rustix::process::Signal;
use serde_json::json;

use guest::{Guest, Nic, WIRE_MTU_BYTES};
use packages::Packages;

/// The guest's NIC and its address.
const MAC: &str = "02:00:00:00:00:02";
const IP: &str = "10.0.255.2";

/// Applications that run, and flows that are open, at the same time.
const CLIENTS: u64 = 16;
/// How often the host's applications run. The NIC's hash decides which shards get their 48 flows: that one of four gets
/// none happens once in 250,000 times.
const ROUNDS: u64 = 3;
/// Messages of a flow, each way.
const MESSAGES: u64 = 40;
/// One packet if the MTU is that of the wire, else several.
const MESSAGE_BYTES: u64 = 3000;
/// How long a client at the host may take: the other side of its flow is emulated.
const CLIENT_LIMIT: Duration = Duration::from_secs(60);

#[test]
#[ignore = "boots a virtual machine: make test-rig"]
fn virtio_net() {
    on(Nic::Virtio).unwrap();
}

#[test]
#[ignore = "boots a virtual machine: make test-rig"]
fn igb() {
    on(Nic::Igb).unwrap();
}

/// Two shards on a NIC named by its PCI address, with the longest packets the wire takes, killed in the end; then four
/// on one found by its MAC, without hugepages.
fn on(nic: Nic) -> Result<(), Failure> {
    let host = lone_host()?;
    let packages = Packages::find()?;
    let initramfs = host.directory().join("initramfs");
    let programs = [Host::ours("machnet-shards")?, Host::ours("msg_gen")?];
    initramfs::write(&initramfs, &packages, &programs)?;
    let mut guest = Guest::boot(&packages, &initramfs, &host, nic, MAC)?;

    let mut config = host.config();
    config["machnet_config"][&host.mac]["engine_threads"] = json!(2);
    config["machnet_config"][&host.mac]["mtu"] = json!(WIRE_MTU_BYTES);
    let _daemon = host.start_daemon(&config)?;
    let mut server = host.start_server("msg_gen", ["--local_ip", &host.machnet_ip.to_string(), "--verify"])?;

    guest.start_daemon(&guest::config(MAC, IP, 2, json!({ "pcie": guest.nic, "mtu": WIRE_MTU_BYTES })))?;
    open_flows_from_guest(&host, &mut server, &mut guest, 2)?;
    open_flows_from_host(&host, &mut guest)?;
    let status = check(&mut guest, 2)?;
    // The first messages of a flow come in three pieces each, before the path has been tried.
    let [pieces, messages] =
        [Counter::RxPieces, Counter::RxMessages].map(|counter| counters(&status, counter).iter().sum::<u64>());
    if pieces >= 2 * messages {
        return Err(
            guest.failure(&format!("got messages in pieces, though the MTU has room for all of one: {status:#?}"))
        );
    }
    guest.kill_daemon()?;

    guest.run("echo 0 >/proc/sys/vm/nr_hugepages")?;
    guest.start_daemon(&guest::config(MAC, IP, 4, json!({})))?;
    open_flows_from_guest(&host, &mut server, &mut guest, 4)?;
    open_flows_from_host(&host, &mut guest)?;
    check(&mut guest, 4)?;
    guest.stop_daemon()
}

/// A client ends with another status than 0 if it cannot connect, or if an answer is missing or wrong.
fn client_flags(local_ip: &str, remote_ip: &str) -> String {
    format!(
        "--local_ip {local_ip} --remote_ip {remote_ip} \
         --msg_nr {MESSAGES} --msg_size {MESSAGE_BYTES} --msg_window 4 --verify"
    )
}

/// Applications in the guest open flows, which are all where the guest's daemon wanted them, and get their answers.
fn open_flows_from_guest(host: &Host, server: &mut Program, guest: &mut Guest, shards: u64) -> Result<(), Failure> {
    // Flows stay open as long as nobody answers.
    server.signal(Signal::STOP);
    let flags = client_flags(IP, &host.machnet_ip.to_string());
    guest.run(&format!(
        "clients=; rm -f /run/client.*; for n in $(seq {CLIENTS}); do \
         msg_gen {flags} >/run/client.$n 2>&1 & clients=\"$clients $!\"; done"
    ))?;
    let deadline = Instant::now() + CLIENT_LIMIT;
    let (flows, opened) = loop {
        let flows = guest.ask("flows")?;
        let opened = opened_by_us(&flows, shards);
        if opened.iter().sum::<u64>() == CLIENTS || Instant::now() > deadline {
            break (flows, opened);
        }
    };
    server.signal(Signal::CONT);
    guest.run(
        "failed=; for client in $clients; do wait $client || failed=1; done; \
         [ -z \"$failed\" ] || { cat /run/client.*; false; }",
    )?;
    // Each connect goes to the shard with the fewest flows.
    if opened.iter().all(|flows| *flows == CLIENTS / shards) {
        return Ok(());
    }
    Err(guest.failure(&format!("had its flows at the shards {opened:?}, where it did not want them: {flows:#?}")))
}

/// How many of the flows that the daemon's own applications opened are at each shard.
fn opened_by_us(report: &Report, shards: u64) -> Vec<u64> {
    let flows = report.flows().iter().filter(|flow| flow.opened_by == OpenedBy::Us);
    let at: Vec<u64> = flows.map(|flow| flow.shard.into()).collect();
    (0..shards).map(|shard| at.iter().map(|at| u64::from(*at == shard)).sum()).collect()
}

/// Applications at the host open flows to one in the guest, and get their answers.
fn open_flows_from_host(host: &Host, guest: &mut Guest) -> Result<(), Failure> {
    guest.run(&format!(
        "rm -f /run/server; msg_gen --local_ip {IP} --verify >/run/server 2>&1 & server=$!; \
         until grep -qs Listening /run/server || ! kill -0 $server; do usleep 50000; done; kill -0 $server"
    ))?;
    let flags = client_flags(&host.machnet_ip.to_string(), IP);
    for _ in 0..ROUNDS {
        let clients = (0..CLIENTS).map(|_| host.start_ours("msg_gen", flags.split_ascii_whitespace()));
        for mut client in clients.collect::<Result<Vec<_>, _>>()? {
            client.finish(CLIENT_LIMIT)?;
        }
    }
    guest.run("kill $server; wait $server || { cat /run/server; false; }").map(drop)
}

/// Whether the guest's daemon knows its NIC, and the NIC used all of its queues; the daemon's status.
fn check(guest: &mut Guest, shards: u64) -> Result<Report, Failure> {
    let status = guest.ask("status")?;
    let interface = status.summary().and_then(|summary| summary.interfaces.first());
    let Some(interface) = interface else { return Err(guest.failure("has no interface")) };
    let accepted = counters(&status, Counter::FlowsAccepted);
    let wrong = if !interface.rss_known {
        "does not know the key or the table of its NIC"
    } else if (interface.predictions_right, interface.predictions_wrong) != (CLIENTS, 0) {
        "was wrong about the queue of a flow"
    } else if accepted.len() as u64 != shards || accepted.iter().sum::<u64>() != CLIENTS * ROUNDS {
        "misses a flow"
    } else if accepted.contains(&0) {
        "has a queue that no flow came to"
    } else {
        ""
    };
    if !wrong.is_empty() {
        return Err(guest.failure(&format!("{wrong}: {status:#?}")));
    }
    guest.run("grep 'checksums=.by the device' /run/log")?;
    // The first is for everything that is not a queue.
    let interrupts = guest.interrupts()?;
    if interrupts.len() as u64 != shards + 1 || interrupts[1..].contains(&0) {
        return Err(guest.failure(&format!("has a queue that woke nobody: {interrupts:?} interrupts")));
    }
    Ok(status)
}

/// A counter of each shard.
fn counters(status: &Report, counter: Counter) -> Vec<u64> {
    let shards = status.summary().into_iter().flat_map(|summary| &summary.shards);
    shards.map(|shard| counter.of(&shard.counters)).collect()
}
