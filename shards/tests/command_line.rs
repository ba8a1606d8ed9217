//! The daemon's command line, as a user meets it: what it says, and with which status it ends.

use std::process::{Command, Output};

use machnet_test_kit::Scratch;

/// A directory that the program runs in.
struct Place(Scratch);

impl Place {
    fn new() -> Self {
        Self(Scratch::new().expect("a directory of our own"))
    }

    /// Runs the program here.
    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_machnet-shards"));
        command.args(arguments).current_dir(self.0.path()).env("GLOG_logtostderr", "1");
        for variable in ["MACHNET_SOCKET", "RUST_LOG"] {
            command.env_remove(variable);
        }
        command.output().expect("it runs")
    }

    /// Runs the program with this configuration; its one sentence on stderr.
    fn mistake(&self, config: &str) -> String {
        std::fs::write(self.0.file("config.json"), config).expect("written");
        let output = self.run(&["--socket", "socket"]);
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(2), "{config}: {said}");
        assert_eq!(said.lines().count(), 1, "{config}: {said}");
        assert!(!self.0.file("socket").exists(), "nothing was started");
        said
    }
}

#[test]
fn a_mistake_in_the_configuration_is_one_sentence_and_status_2() {
    let place = Place::new();
    let interface = |keys: &str| format!(r#"{{"machnet_config": {{"02:00:00:00:00:01": {{{keys}}}}}}}"#);
    let cases = [
        (String::new(), "not JSON"),
        ("{}".into(), "machnet_config"),
        (interface(""), "ip"),
        (interface(r#""ip": "10.0.0.256""#), "10.0.0.256"),
        (interface(r#""ip": "10.0.0.1", "engine_threads": 0"#), "engine_threads"),
        (interface(r#""ip": "10.0.0.1", "engine_threads": 10000"#), "10000"),
        (interface(r#""ip": "10.0.0.1", "cpu_mask": "0x0""#), "cpu_mask"),
        (interface(&format!(r#""ip": "10.0.0.1", "cpu_mask": "0x8{}""#, "0".repeat(1000))), "does not exist here"),
        (interface(r#""ip": "10.0.0.1", "speed": 9"#), "speed"),
        (interface(r#""ip": "10.0.0.1""#), "the MAC of no device"),
        (interface(r#""ip": "10.0.0.1", "pcie": "ffff:ff:1f.7""#), "pcie"),
    ];
    for (config, part) in cases {
        let said = place.mistake(&config);
        assert!(said.starts_with("machnet-shards: config.json"), "{said}");
        assert!(said.contains(part), "{part:?} is not in {said:?}");
    }
}

/// A cpuset, or `taskset`, that leaves out the CPUs of a mask.
#[test]
fn a_mask_without_a_cpu_that_may_be_used_is_a_mistake_with_status_2() {
    let place = Place::new();
    let allowed = rustix::thread::sched_getaffinity(None).expect("the kernel says");
    let cpu = (0..1024).find(|cpu| allowed.is_set(*cpu)).expect("there is one");
    let mut only = rustix::thread::CpuSet::new();
    only.set(cpu);
    // This thread, and what it starts.
    rustix::thread::sched_setaffinity(None, &only).expect("it may");
    let mask = format!("{:#x}", !(1_u128 << cpu));
    let config =
        format!(r#"{{"machnet_config": {{"02:00:00:00:00:01": {{"ip": "10.0.0.1", "cpu_mask": "{mask}"}}}}}}"#);
    let said = place.mistake(&config);
    assert!(said.contains(&format!(".cpu_mask is \"{mask}\": ")), "{said}");
    assert!(said.ends_with(&format!(", choose CPU {cpu}\n")), "{said}");
    let check = place.run(&["--check"]);
    assert_eq!((check.status.code(), String::from_utf8(check.stderr).expect("text")), (Some(2), said));
}

#[test]
fn a_file_that_is_not_there_is_named_however_the_flag_is_spelled() {
    let place = Place::new();
    for flag in ["--config_file", "--config-file", "--config_json", "--config-json"] {
        for arguments in [vec![flag, "no_such-file.json"], vec![flag, "no_such-file.json", "--check"]] {
            let output = place.run(&arguments);
            assert_eq!(output.status.code(), Some(2));
            let said = String::from_utf8(output.stderr).expect("text");
            assert!(said.contains("no_such-file.json"), "{said}");
        }
    }
}

#[test]
fn help_and_version_succeed_and_unknown_flags_do_not() {
    let place = Place::new();
    let help = place.run(&["--help"]);
    assert!(help.status.success());
    let text = String::from_utf8(help.stdout).expect("text");
    for part in [
        "--config-file",
        "--config-json",
        "--check",
        "--socket",
        "--logtostderr",
        "--version",
        "status",
        "flows",
        "channels",
        "listeners",
        "neighbors",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let version = place.run(&["--version"]);
    assert_eq!(version.stdout, format!("machnet-shards {}\n", env!("CARGO_PKG_VERSION")).into_bytes());
    assert_eq!(place.run(&["--confg_file", "x"]).status.code(), Some(2));
}

#[test]
fn without_a_daemon_every_command_says_what_to_do() {
    let place = Place::new();
    for command in ["status", "flows", "channels", "listeners", "neighbors"] {
        for arguments in [[command, "--socket", "nowhere"].as_slice(), &[command, "--json", "--socket", "nowhere"]] {
            let output = place.run(arguments);
            assert_eq!(output.status.code(), Some(1));
            assert!(output.stdout.is_empty());
            let said = String::from_utf8(output.stderr).expect("text");
            assert!(said.contains("nowhere") && said.contains("--socket"), "{said}");
        }
    }
}

#[test]
fn a_watch_that_is_too_quick_or_no_number_is_refused() {
    let place = Place::new();
    for (seconds, part) in [("0.01", "from 0.1 to 86400"), ("soon", "not a number"), ("NaN", "from 0.1 to 86400")] {
        let output = place.run(&["status", "--watch", seconds]);
        assert_eq!(output.status.code(), Some(2), "{seconds}");
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(said.contains(part), "{said}");
    }
}
