//! The tools as their users run them.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use machnet_test_kit::fake_daemon::FakeDaemon;

fn tool(path: &str, daemon: &FakeDaemon, flags: &str) -> Command {
    let mut command = Command::new(path);
    command.arg("--socket").arg(daemon.socket()).args(flags.split_whitespace());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn msg_gen(daemon: &FakeDaemon, flags: &str) -> Command {
    tool(env!("CARGO_BIN_EXE_msg_gen"), daemon, flags)
}

/// A program that is stopped with the test.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Self {
        Self(command.spawn().unwrap())
    }

    /// Waits until it listens.
    fn wait_until_it_listens(&mut self) {
        let mut line = String::new();
        let said = match self.0.stderr.take() {
            Some(stderr) => BufReader::new(stderr).read_line(&mut line),
            None => panic!("it was waited for before"),
        };
        assert!(said.is_ok() && line.starts_with("Listening"), "{line}");
    }

    fn interrupt(&self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    }

    fn end(mut self) -> (bool, String) {
        let status = self.0.wait().unwrap();
        let mut said = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        (status.success(), said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server of msg_gen that answers what it is asked.
fn server(daemon: &FakeDaemon, flags: &str) -> Running {
    let mut server = Running::start(msg_gen(daemon, flags));
    server.wait_until_it_listens();
    server
}

fn json(output: &[u8]) -> serde_json::Value {
    let text = String::from_utf8_lossy(output);
    serde_json::from_str(text.lines().last().expect("there is a last line")).unwrap()
}

fn assert_success(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_client_measures_and_a_server_answers() {
    let daemon = FakeDaemon::start();
    let server = server(&daemon, "--local_ip 10.0.0.1 --verify");
    for (size, window, requests) in [(64, 1, 200), (64, 32, 5000), (1500, 8, 2000), (8_388_608, 2, 4)] {
        let flags = format!(
            "--local-ip 10.0.0.1 --remote_ip=10.0.0.1 --msg_size {size} --msg-window {window} --msg_nr {requests} \
             --verify --json"
        );
        let output = msg_gen(&daemon, &flags).output().unwrap();
        assert_success(&output);
        let totals = json(&output.stdout);
        assert_eq!((&totals["msg_size"], &totals["msg_window"]), (&size.into(), &window.into()));
        for (key, expected) in [("sent", requests), ("received", requests), ("errors", 0)] {
            assert_eq!(totals[key], expected, "{key} of {totals}");
        }
        for key in ["seconds", "msgs_per_s", "gbps"] {
            assert!(totals[key].as_f64().unwrap() > 0.0, "{key} of {totals}");
        }
        let [p50, p99, p99_9, max] = ["p50", "p99", "p99_9", "max"].map(|key| totals["rtt_us"][key].as_f64().unwrap());
        assert!(0.0 < p50 && p50 <= p99 && p99 <= p99_9 && p99_9 <= max, "{totals}");
    }
    server.interrupt();
    let (success, said) = server.end();
    assert!(success && said.contains("Sent 7204, received 7204, errors 0"), "{said}");
}

#[test]
fn a_servers_own_size_and_a_duration() {
    let daemon = FakeDaemon::start();
    let _server = server(&daemon, "--local_port 9 --msg_size 2000");
    let flags = "--remote_ip 10.0.0.1 --remote_port 9 --msg_size 8 --duration 0.3 --json";
    let totals = json(&msg_gen(&daemon, flags).output().unwrap().stdout);
    let [received, gbps, rate] = ["received", "gbps", "msgs_per_s"].map(|key| totals[key].as_f64().unwrap());
    assert!(received > 0.0 && (0.3..5.0).contains(&totals["seconds"].as_f64().unwrap()), "{totals}");
    assert!((gbps - rate * 2000.0 * 8e-9).abs() < gbps * 1e-6, "answers have 2,000 bytes: {totals}");
}

#[test]
fn a_wrong_byte_is_found_and_makes_it_fail() {
    for (nth, by) in [(10, "client"), (9, "server")] {
        let daemon = FakeDaemon::start();
        daemon.corrupt(nth);
        let server = server(&daemon, "--verify --msg_size 100");
        let flags = "--remote_ip 10.0.0.1 --msg_size 100 --msg_window 1 --msg_nr 20 --verify --json";
        let client = msg_gen(&daemon, flags).output().unwrap();
        let wrong = json(&client.stdout)["errors"].as_u64();
        server.interrupt();
        let (server_succeeded, said) = server.end();
        match by {
            "client" => assert!(!client.status.success() && wrong == Some(1) && server_succeeded, "{said}"),
            _ => assert!(!server_succeeded && said.contains("errors 1") && client.status.success(), "{said}"),
        }
    }
}

#[test]
fn a_lost_message_is_noticed_and_ctrl_c_prints_the_totals() {
    let daemon = FakeDaemon::start();
    let _server = server(&daemon, "");
    daemon.lose(11);
    let client = Running::start(msg_gen(&daemon, "--remote_ip 10.0.0.1 --msg_window 1 --json"));
    // Six requests take a few milliseconds; the seventh is never sent.
    std::thread::sleep(Duration::from_secs(1));
    client.interrupt();
    let (success, said) = client.end();
    assert!(!success);
    let totals = json(said.as_bytes());
    assert_eq!((&totals["sent"], &totals["received"], &totals["errors"]), (&6.into(), &5.into(), &1.into()));
    assert!(said.contains("Sent 6, received 5, errors 1"), "{said}");
}

#[test]
fn the_end_of_the_other_side_ends_a_client_with_the_reason() {
    let daemon = FakeDaemon::start();
    let server = server(&daemon, "");
    let client = Running::start(msg_gen(&daemon, "--remote_ip 10.0.0.1"));
    std::thread::sleep(Duration::from_millis(200));
    drop(server);
    let mut client = client;
    let mut stderr = String::new();
    client.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert!(!client.end().0 && stderr.contains("ended without closing the flow"), "{stderr}");
}

#[test]
fn hello_world() {
    let daemon = FakeDaemon::start();
    let mut receiver = Running::start(tool(env!("CARGO_BIN_EXE_hello_world"), &daemon, "--local 10.0.0.1"));
    let mut lines = BufReader::new(receiver.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().as_deref(), Some("Listening on 10.0.0.1:31580."));
    for count in 1..=2 {
        let flags = "--local=10.0.0.1 --remote 10.0.0.1";
        let sent = tool(env!("CARGO_BIN_EXE_hello_world"), &daemon, flags).output().unwrap();
        assert_success(&sent);
        assert_eq!(sent.stdout, b"Sent to 10.0.0.1:31580, and the other host has it.\n");
        assert_eq!(lines.next(), Some(format!("Received message: Hello World!, count = {count}")));
    }
}

#[test]
fn without_a_daemon_a_tool_says_what_to_do() {
    for tool in [env!("CARGO_BIN_EXE_msg_gen"), env!("CARGO_BIN_EXE_hello_world")] {
        let output = Command::new(tool)
            .args(["--socket", "/nonexistent/ctrl.sock"])
            .args(if tool.ends_with("hello_world") { ["--local", "10.0.0.1"] } else { ["--local_ip", "10.0.0.1"] })
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("start machnet-shards"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn the_address_and_the_socket_come_from_the_configuration() {
    let daemon = FakeDaemon::start();
    let file = daemon.socket().with_file_name("config.json");
    let text = serde_json::json!({
        "machnet_config": { "02:00:00:00:00:01": { "ip": "10.0.0.1" } },
        "machnet_shards": { "socket": daemon.socket() },
    });
    std::fs::write(&file, text.to_string()).unwrap();
    let _server = server(&daemon, "");
    let output = Command::new(env!("CARGO_BIN_EXE_msg_gen"))
        .args(["--remote_ip", "10.0.0.1", "--msg_nr", "10", "--config_file"])
        .arg(&file)
        .env_remove("MACHNET_SOCKET")
        .output()
        .unwrap();
    assert_success(&output);
}
