//! Where shards run when the host, or a container, has fewer CPUs than the configuration names.

use std::process::ExitStatus;

use machnet::daemon::control::report::Report;
use machnet_config::CpuMask;
use machnet_shards::counters::Gauge;
use machnet_test_kit::hosts::{Host, Hosts, Program, VethPair};
use rustix::process::Signal;
use serde_json::Value;

use crate::pair::{NEVER, set};

/// The default that Machnet's documentation gives.
const SIXTEEN_CPUS: &str = "0xffff";

/// The one CPU on which all programs of `host` run from now on, and the mask of another one.
fn restrict(host: &mut Host) -> (usize, String) {
    let cpu = CpuMask::allowed().unwrap().cpus().last().unwrap();
    host.cpu = Some(cpu);
    let other = if cpu == 0 { "0x2" } else { "0x1" };
    (cpu, other.to_owned())
}

fn run(host: &Host, config: &Value, arguments: &[&str]) -> (ExitStatus, Program) {
    std::fs::write(host.config_file(), config.to_string()).unwrap();
    let mut program = host.start_ours("machnet-shards", arguments).unwrap();
    (program.wait(NEVER).unwrap(), program)
}

#[test]
fn a_mask_with_more_cpus_than_there_are_is_used_as_far_as_it_goes_with_one_warning() {
    let Some(mut hosts) = Hosts::or_skip(VethPair::default()) else { return };
    let left = &mut hosts.left;
    let (cpu, _) = restrict(left);
    let mut config = left.config();
    set(&mut config, "cpu_mask", SIXTEEN_CPUS);
    let (status, check) = run(left, &config, &["--check", "--logtostderr"]);
    assert!(status.success(), "{}", check.failure("was to succeed"));
    let said = check.stdout();
    assert!(said.contains(&format!("1 shard, on CPU {cpu}\n")), "{said}");
    let warning = format!("cpu_mask is \"{SIXTEEN_CPUS}\": ");
    let warnings: Vec<_> = said.lines().filter(|line| line.contains(&warning)).collect();
    assert!(matches!(warnings[..], [one] if one.ends_with(&format!("CPU {cpu} is used"))), "{said}");

    let mut daemon = left.start_daemon(&config).unwrap();
    daemon.until_it_says("ready", NEVER).unwrap();
    let log = daemon.stderr();
    assert_eq!(log.lines().filter(|line| line.contains(&warning) && line.contains("WARN")).count(), 1, "{log}");
    let shown = left.start_ours("machnet-shards", ["status", "--json"]).unwrap().finish(NEVER).unwrap();
    let shown: Report = serde_json::from_str(&shown).unwrap();
    let gauges = &shown.summary().unwrap().shards[0].gauges;
    assert_eq!((Gauge::Pinned.of(gauges), Gauge::Cpu.of(gauges)), (1, cpu as u64), "{shown:#?}");
    daemon.signal(Signal::TERM);
    assert!(daemon.wait(NEVER).unwrap().success(), "{}", daemon.failure("was to stop well"));
}

#[test]
fn a_mask_without_a_cpu_that_may_be_used_is_a_mistake_of_the_configuration() {
    let Some(mut hosts) = Hosts::or_skip(VethPair::default()) else { return };
    let left = &mut hosts.left;
    let (cpu, other) = restrict(left);
    let mut config = left.config();
    set(&mut config, "cpu_mask", &*other);
    for arguments in [&["--logtostderr"][..], &["--check"]] {
        let (status, program) = run(left, &config, arguments);
        assert_eq!(status.code(), Some(2), "{}", program.failure("was to end with status 2"));
        let said = program.stderr();
        assert!(
            said.starts_with("machnet-shards: config.json: machnet_config.") && said.lines().count() == 1,
            "{said}"
        );
        assert!(said.contains(&format!("cpu_mask is \"{other}\": ")), "{said}");
        assert!(said.ends_with(&format!("choose CPU {cpu}\n")), "{said}");
        assert!(!left.socket().exists(), "nothing was started");
    }
}
