//! Every command that is shown, and how it is known to work.

use std::process::Command as Process;

use machnet_test_kit::hosts::{Host, Hosts, Program, VethPair};
use machnet_test_kit::waiting::{NEVER, eventually};
use rustix::process::Signal;

use crate::pages::{pages, top};

/// How a command is known to work.
enum How {
    /// It is run in this world, on each of these hosts, ends with status 0, and says this.
    Ends(World, &'static [Side], &'static str),
    /// It is run there, says this and goes on until SIGINT, at the end of all.
    Stays(World, &'static [Side], &'static str),
    /// It is known to `make`, which would run this; a test may do so.
    Make(&'static str),
    /// It is too long for a test, or needs what a test does not have. This file has these words, without which the
    /// command would not do what is said.
    Rests { on: &'static str, words: &'static str },
    /// It is about a machine that no test has.
    Not(#[allow(dead_code, reason = "for readers of the table")] &'static str),
}

/// What runs on the hosts before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum World {
    /// A configuration. The table starts the daemons.
    Daemons,
    /// A configuration, and no daemon: for tools that own a NIC.
    Bare,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

use How::{Ends, Make, Not, Rests, Stays};
use Side::{Left, Right};
use World::{Bare, Daemons};

/// All commands. Those of a world run in this order.
const COMMANDS: &[(&str, How)] = &[
    ("machnet-shards --config_file FILE", Rests { on: "tests/kit/src/hosts/host.rs", words: "\"--config_file\"" }),
    ("machnet-shards --config_file config.json --check", Ends(Daemons, &[Left], "control socket ")),
    ("machnet-shards --config_file config.json", Stays(Daemons, &[Left, Right], "ready socket=")),
    ("hello_world --local 10.0.255.2", Stays(Daemons, &[Right], "Listening on")),
    ("msg_gen --local_ip 10.0.255.2", Stays(Daemons, &[Right], "")),
    // It says nothing by itself: here it is seen to listen.
    ("machnet-shards listeners", Ends(Daemons, &[Right], "msg_gen")),
    ("hello_world --local 10.0.255.1 --remote 10.0.255.2", Ends(Daemons, &[Left], "the other host has it")),
    (
        "msg_gen --local_ip 10.0.255.1 --remote_ip 10.0.255.2 --msg_size 1024 --msg_window 32 --duration 1 --verify \
         --json",
        Ends(Daemons, &[Left], "\"errors\":0"),
    ),
    ("machnet-shards status", Ends(Daemons, &[Left], "Interfaces\n")),
    ("machnet-shards status --counters", Ends(Daemons, &[Left], "retransmissions")),
    ("machnet-shards status --json", Ends(Daemons, &[Left], "\"busy_share\"")),
    ("machnet-shards status --watch", Stays(Daemons, &[Left], "rx packets/s")),
    ("machnet-shards flows", Ends(Daemons, &[Left], "Flows\n")),
    ("machnet-shards flows --shard 1", Ends(Daemons, &[Left], "Flows\n")),
    ("machnet-shards channels", Ends(Daemons, &[Right], "msg_gen")),
    ("machnet-shards channels --shard 1", Ends(Daemons, &[Left], "Channels\n")),
    ("machnet-shards neighbors", Ends(Daemons, &[Left], "02:00:00:00:00:02")),
    ("machnet-pktgen", Stays(Bare, &[Right], "")),
    (
        "machnet-ping --remote_ip 10.0.255.2 --count 3 --interval_ms 200",
        Ends(Bare, &[Left], "3 packets transmitted, 3 received"),
    ),
    (
        "machnet-pktgen --remote_ip 10.0.255.2 --active_generator --flows 64 --pkt_size 1514 --duration 3",
        Ends(Bare, &[Left], "  queue 0: sent "),
    ),
    (
        "machnet-pktgen --remote_ip 10.0.255.2 --ping --back_to_back --count 1000 --rtt_log rtt.ns",
        Ends(Bare, &[Left], "1000 packets transmitted, "),
    ),
    ("make", Make("cargo build --release")),
    ("make demo", Make("cargo run --quiet --release --example demo")),
    ("make test", Make("cargo test --workspace")),
    ("make soak MINUTES=60", Make("SIM_MINUTES=60 cargo test --test sim -- soak --ignored --nocapture")),
    ("make attack", Make("cargo test --test attack")),
    ("make failures", Make("cargo test --test end_to_end -- --test-threads=1 killed_")),
    ("make fuzz", Make("tests/fuzz/run 30")),
    ("make fuzz FUZZ=\"600 peer channel\"", Make("tests/fuzz/run 600 peer channel")),
    ("make test-rig", Make("cargo test --test rig -- --ignored")),
    ("make lint", Make("cargo clippy --workspace --all-targets -- -D warnings")),
    ("make bench", Make("cargo bench --bench compare")),
    ("make bench BENCH=\"--baseline DIR\"", Make("cargo bench --bench compare -- --baseline DIR")),
    ("make benches", Make("cargo bench --workspace")),
    ("make counts", Make("cargo bench --quiet --package machnet-shards --bench counts")),
    ("make install", Make("install -m 644 config.json")),
    ("sudo make install PREFIX=/usr/local", Make("install -m 644 config.json")),
    (
        "cargo build --release --no-default-features --package machnet-shards",
        Rests { on: "Makefile", words: "cargo clippy --package machnet-shards --no-default-features" },
    ),
    (
        "cc hello_world.c $(pkg-config --cflags --libs machnet) -o hello_world",
        Rests { on: "tests/capi/examples.rs", words: "{name} $(pkg-config --cflags --libs machnet) -o {built}" },
    ),
    ("cargo bench --bench capi", Rests { on: "Cargo.toml", words: "name = \"capi\"" }),
    ("cargo bench --bench channel", Rests { on: "Cargo.toml", words: "name = \"channel\"" }),
    ("cargo bench --bench recovery", Rests { on: "Cargo.toml", words: "name = \"recovery\"" }),
    ("cargo bench --bench storm", Rests { on: "Cargo.toml", words: "name = \"storm\"" }),
    (
        "cargo bench --package machnet-shards --bench shard",
        Rests { on: "shards/Cargo.toml", words: "name = \"shard\"\npath" },
    ),
    (
        "cargo bench --package machnet-shards --bench shards",
        Rests { on: "shards/Cargo.toml", words: "name = \"shards\"" },
    ),
    ("cargo doc --workspace --no-deps --open", Rests { on: "Makefile", words: "cargo doc --workspace --no-deps" }),
    (
        "SIM_SEED=17 cargo test --test sim -- replay --nocapture",
        Rests { on: "tests/sim/seeds.rs", words: "fn replay()" },
    ),
    (
        "MACHNET_TEST_RENEW=1 cargo test --test config",
        Rests { on: "tests/config.rs", words: "MACHNET_TEST_RENEW=1 cargo test --test config" },
    ),
    (
        "MACHNET_TEST_RENEW=1 cargo test --package machnet-shards --lib counters",
        Rests { on: "shards/src/counters/table.rs", words: "MACHNET_TEST_RENEW" },
    ),
    ("ethtool -K eth0 rx-udp-gro-forwarding on", Not("needs a NIC")),
    ("ethtool -K eth0 tx-udp-segmentation off", Not("needs a NIC")),
    (
        "ethtool -L eth0 combined 2",
        Rests { on: "shards/nic/src/error.rs", words: "ethtool -L {interface} combined {queues}" },
    ),
    (
        "dpdk-devbind.py --bind=vfio-pci 0000:01:00.0",
        Rests { on: "shards/nic/src/error.rs", words: "dpdk-devbind.py --bind=vfio-pci {address}" },
    ),
    ("sysctl vm.nr_hugepages=64", Rests { on: "shards/nic/src/error.rs", words: "sysctl vm.nr_hugepages=N" }),
];

/// A table entry of a command as it is shown, if there is one.
fn how(shown: &str) -> Option<&'static How> {
    COMMANDS.iter().find(|(text, _)| *text == shown).map(|(_, how)| how)
}

#[test]
fn every_command_is_in_the_table_and_the_table_has_no_other() {
    let mut complaints = Vec::new();
    let mut shown = Vec::new();
    for page in pages() {
        for command in page.commands() {
            if how(&command.text).is_none() {
                let at = page.at(command.line);
                complaints.push(format!("{at}: `{}` is in no test: add it to COMMANDS", command.text));
            }
            shown.push(command.text);
        }
    }
    for (text, _) in COMMANDS {
        if !shown.iter().any(|shown| shown == text) {
            complaints.push(format!("`{text}` of COMMANDS is shown nowhere: remove it"));
        }
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn what_commands_rest_on_is_there() {
    for (text, how) in COMMANDS {
        if let Rests { on, words } = how {
            let file = std::fs::read_to_string(top().join(on)).unwrap_or_else(|why| panic!("{text}: {on}: {why}"));
            assert!(file.contains(words), "`{text}` is shown, and {on} has no {words:?} any more");
        }
    }
}

#[test]
fn make_knows_its_targets() {
    for (text, how) in COMMANDS {
        let Make(runs) = how else { continue };
        let dry = text.trim_start_matches("sudo ").replacen("make", "make --dry-run --no-print-directory", 1);
        let would = Process::new("sh")
            .args(["-c", &dry])
            .current_dir(top())
            .env_remove("MAKEFLAGS")
            .env_remove("MAKELEVEL")
            .env_remove("CARGO_TARGET_DIR")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&would.stdout);
        assert!(would.status.success() && said.contains(runs), "`{text}` would not run {runs}: {would:?}");
    }
}

/// Runs what is shown to install, with the programs of this build, into a directory of ours.
#[test]
fn make_install_installs() {
    let scratch = machnet_test_kit::Scratch::new().unwrap();
    let programs = Host::ours("machnet-shards").unwrap();
    let (build, into) = (scratch.path().join("target"), scratch.path().join("into"));
    std::fs::create_dir(&build).unwrap();
    std::os::unix::fs::symlink(programs.parent().unwrap(), build.join("release")).unwrap();
    let installed = Process::new("make")
        .args(["install", "PREFIX=/usr/local"])
        .current_dir(top())
        .env_remove("MAKEFLAGS")
        .env("CARGO_TARGET_DIR", &build)
        .env("DESTDIR", &into)
        .output()
        .unwrap();
    assert!(installed.status.success(), "{installed:?}");
    for file in ["bin/machnet-shards", "bin/machnet-ping", "bin/machnet-pktgen", "bin/msg_gen", "bin/hello_world"] {
        assert!(into.join("usr/local").join(file).is_file(), "{file} is not installed");
    }
    for file in ["share/machnet/config.json", "include/machnet.h", "lib/libmachnet.so", "lib/pkgconfig/machnet.pc"] {
        assert!(into.join("usr/local").join(file).is_file(), "{file} is not installed");
    }
}

/// What `make demo` runs.
#[test]
fn the_demo_runs() {
    let Some(hosts) = Hosts::or_skip(VethPair::default()) else { return };
    drop(hosts);
    let programs = Host::ours("machnet-shards").unwrap();
    let program = programs.with_file_name("examples").join("demo");
    assert!(program.exists(), "{} is not there: build it with cargo build --examples", program.display());
    let shown = Process::new(program).args(["--seconds", "1"]).output().unwrap();
    let said = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.status.success() && said.contains("kernel TCP"), "{shown:?}");
}

#[test]
fn commands_do_what_is_said_of_them_where_daemons_run() {
    run(Daemons, 2);
}

#[test]
fn commands_do_what_is_said_of_them_without_daemons() {
    run(Bare, 2);
}

/// Runs all commands of a world in their order.
fn run(world: World, shards: u16) {
    let Some(hosts) = Hosts::or_skip(VethPair::default()) else { return };
    for host in [&hosts.left, &hosts.right] {
        let mut config = host.config();
        config["machnet_config"][&host.mac]["engine_threads"] = shards.into();
        std::fs::write(host.config_file(), config.to_string()).unwrap();
    }
    let mut staying = Vec::new();
    for (text, how) in COMMANDS {
        let (Ends(within, sides, says) | Stays(within, sides, says)) = how else { continue };
        if *within != world {
            continue;
        }
        for side in *sides {
            let host = if *side == Left { &hosts.left } else { &hosts.right };
            if matches!(how, Ends(..)) {
                end(host, text, says);
            } else {
                let mut program = start(host, text);
                program.until_it_says(says, NEVER).unwrap();
                check_headings(text, &said(&program));
                staying.push((text, program));
            }
        }
    }
    while let Some((text, mut program)) = staying.pop() {
        assert!(program.is_running(), "{}", program.failure(&format!("({text}) ended too early")));
        program.signal(Signal::INT);
        let status = program.wait(NEVER).unwrap();
        // A program without a handler is ended by the signal itself.
        let by_signal = std::os::unix::process::ExitStatusExt::signal(&status) == Some(Signal::INT.as_raw());
        assert!(status.success() || by_signal, "{}", program.failure(&format!("({text}) ended with {status}")));
    }
}

/// Runs a command to its good end; again, if what it shall show has only just begun.
fn end(host: &Host, text: &str, says: &str) {
    let program = eventually(NEVER, || {
        let mut program = start(host, text);
        let status = program.wait(NEVER).unwrap();
        assert!(status.success(), "{}", program.failure(&format!("({text}) ended with {status}")));
        let has_said = said(&program).contains(says);
        if has_said { Ok(program) } else { Err(program.failure(&format!("({text}) does not say {says:?}"))) }
    });
    check_headings(text, &said(&program));
}

/// Checks that every table that is shown and was printed now has the same columns.
fn check_headings(text: &str, said: &str) {
    let plain = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let printed: Vec<String> = said.lines().map(plain).collect();
    for shown in pages().iter().flat_map(|page| page.commands()).filter(|command| command.text == text) {
        for lines in shown.printed.windows(2) {
            let [title, heading] = [&lines[0], &lines[1]];
            let is_table = !title.is_empty() && !title.starts_with(' ') && heading.starts_with("  ");
            if is_table && !heading.contains(char::is_numeric) && printed.contains(&plain(title)) {
                assert!(printed.contains(&plain(heading)), "`{text}` shows no\n{heading}\nbut\n{said}");
            }
        }
    }
}

fn said(program: &Program) -> String {
    program.stdout() + &program.stderr()
}

/// Starts a command as a shell would, in the directory of the configuration, with our programs in the path.
fn start(host: &Host, text: &str) -> Program {
    let programs = Host::ours("machnet-shards").unwrap();
    let path = programs.parent().unwrap().display();
    // The log belongs into the failure of this test, and not into /tmp.
    let script = format!("PATH={path}:$PATH GLOG_logtostderr=1; export PATH GLOG_logtostderr; exec {text}");
    host.start("sh", ["-c", &script]).unwrap()
}
