//! How fast do two hosts on this machine exchange messages through machnet-shards, beside kernel TCP on the same wire?
//!
//! Makes two hosts (network namespaces joined by veth), starts a daemon on each, pings them, says hello, measures round
//! trips and rates of both stacks in turn, and prints one table. Leaves nothing behind, however it ends. `make demo`
//! runs it.

mod table;

use std::io::Write;
use std::net::SocketAddrV4;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use machnet_test_kit::Failure;
use machnet_test_kit::hosts::{Confinement, Host, Hosts, Program, VethPair};
use machnet_test_kit::measurement::{Measurement, size};
use machnet_test_kit::tcp;
use rustix::io::Errno;
use rustix::process::Signal;

use table::{Row, print_table, summary};

/// Two hosts on this machine exchange messages, ours against kernel TCP.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Shards of each daemon.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    shards: u16,
    /// Keeps io_uring from both hosts, as the seccomp profiles of containers do.
    #[arg(long)]
    without_io_uring: bool,
    #[command(subcommand)]
    part: Option<tcp::Part>,
}

/// Bytes of a message, and how many are on their way at a time.
const LOADS: [(usize, usize); 8] =
    [(64, 1), (64, 32), (1 << 10, 1), (1 << 10, 32), (64 << 10, 1), (64 << 10, 32), (1 << 20, 1), (1 << 20, 32)];
/// The TCP port of the rival.
const TCP_PORT: u16 = 888;
/// How long a client may take beyond its measuring, and anything to end.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.part {
        Some(part) => part
            .run()
            .map(|measured| measured.iter().for_each(|measured| println!("{}", measured.to_line())))
            .map_err(|why| Failure(format!("kernel TCP: {why}"))),
        None => Demo::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("\n{why}");
            ExitCode::FAILURE
        }
    }
}

/// The demo under way.
struct Demo {
    started: Instant,
    seconds: u64,
    hosts: Hosts,
    /// Left, right.
    daemons: [Program; 2],
}

impl Demo {
    fn run(arguments: &Arguments) -> Result<(), Failure> {
        let started = Instant::now();
        progress(started, "making two hosts, network namespaces joined by veth");
        let mut hosts = Hosts::new(VethPair { queues: arguments.shards, ..VethPair::default() })?;
        if arguments.without_io_uring {
            for host in [&mut hosts.left, &mut hosts.right] {
                host.confinement = Some(Confinement::WithoutIoUring(Errno::PERM));
            }
        }
        progress(started, "starting machnet-shards on each");
        let start = |host: &Host| host.start_daemon(&host.config_of_shards(arguments.shards));
        let daemons = [start(&hosts.left)?, start(&hosts.right)?];
        let mut demo = Self { started, seconds: arguments.seconds, hosts, daemons };
        let rows = match demo.show() {
            Ok(rows) => rows,
            Err(why) => return Err(demo.with_logs(&why)),
        };
        print_table(&rows, arguments.shards);
        demo.stop()?;
        let took = started.elapsed().as_secs_f64();
        println!("\nDone in {took:.0} s; the two hosts are gone again.");
        Ok(())
    }

    /// Everything between the start of the daemons and the table.
    fn show(&self) -> Result<Vec<Row>, Failure> {
        let Hosts { left, right } = &self.hosts;
        for (from, to) in [(left, right), (right, left)] {
            let said = from.ping(to.machnet_ip, 56, 20)?;
            let summary = said.lines().last().unwrap_or_default();
            progress(self.started, &format!("the kernel's ping to {}: {summary}", to.machnet_ip));
        }
        let said = self.say_hello()?;
        progress(self.started, &format!("hello_world on {}: {said}", right.machnet_ip));
        progress(self.started, &format!("measuring, {} s each, every byte verified", self.seconds));
        LOADS.iter().map(|&(msg_size, msg_window)| self.measure(msg_size, msg_window)).collect()
    }

    /// One load over both stacks, one after the other.
    fn measure(&self, msg_size: usize, msg_window: usize) -> Result<Row, Failure> {
        print!("         {:>6}, window {msg_window:>2}", size(msg_size));
        let _ = std::io::stdout().flush();
        let ours = self.measure_ours(msg_size, msg_window)?;
        print!("   machnet-shards {}", summary(&ours));
        let _ = std::io::stdout().flush();
        let tcp = self.measure_tcp(msg_size, msg_window, &[])?;
        print!("   kernel TCP {}", summary(&tcp));
        let _ = std::io::stdout().flush();
        let worth_gathering = msg_window > 1 && msg_size <= tcp::GATHER_BYTES;
        let gathered = worth_gathering.then(|| self.measure_tcp(msg_size, msg_window, &["--gather"])).transpose()?;
        println!();
        Ok(Row { ours, tcp, gathered })
    }

    /// What the hello of the left host looks like on the right one.
    fn say_hello(&self) -> Result<String, Failure> {
        let [left, right] = [&self.hosts.left, &self.hosts.right].map(|host| host.machnet_ip.to_string());
        let mut server = self.hosts.right.start_server("hello_world", ["--local", &right])?;
        let mut client = self.hosts.left.start_ours("hello_world", ["--local", &left, "--remote", &right])?;
        client.finish(PATIENCE)?;
        let greeting =
            |server: &Program| server.stdout().lines().find(|line| line.contains("Hello")).map(str::to_owned);
        server.wait_until("the greeting", PATIENCE, greeting)
    }

    fn measure_ours(&self, msg_size: usize, msg_window: usize) -> Result<Measurement, Failure> {
        let [left, right] = [&self.hosts.left, &self.hosts.right].map(|host| host.machnet_ip.to_string());
        let (size, window, seconds) = (msg_size.to_string(), msg_window.to_string(), self.seconds.to_string());
        let both = |local| ["--local_ip", local, "--msg_size", &size, "--verify"];
        let of_client = ["--remote_ip", &right, "--msg_window", &window, "--duration", &seconds, "--json"];
        let mut server = self.hosts.right.start_server("msg_gen", both(&right))?;
        let mut client = self.hosts.left.start_ours("msg_gen", both(&left).into_iter().chain(of_client))?;
        let written = client.finish(Duration::from_secs(self.seconds) + PATIENCE)?;
        // The server has checked the requests: its status says whether all were right.
        server.signal(Signal::TERM);
        server.finish(PATIENCE)?;
        complete(&client, &written)
    }

    fn measure_tcp(&self, msg_size: usize, msg_window: usize, flags: &[&str]) -> Result<Measurement, Failure> {
        let this = std::env::current_exe().map_err(|why| Failure(format!("the demo does not find itself: {why}")))?;
        let this = this.to_string_lossy();
        let address = SocketAddrV4::new(self.hosts.right.kernel_ip, TCP_PORT).to_string();
        let (size, window, seconds) = (msg_size.to_string(), msg_window.to_string(), self.seconds.to_string());
        let mut server = self.hosts.right.start(&this, [&["tcp-serve", &address, &size], flags].concat())?;
        let arguments = [&["tcp-call", &address, &size, &window, &seconds], flags].concat();
        let mut client = self.hosts.left.start(&this, arguments)?;
        let written = client.finish(Duration::from_secs(self.seconds) + PATIENCE)?;
        server.finish(PATIENCE)?;
        complete(&client, &written)
    }

    /// Stops the daemons in order and takes the hosts away.
    fn stop(mut self) -> Result<(), Failure> {
        self.daemons.iter_mut().for_each(|daemon| daemon.signal(Signal::TERM));
        self.daemons.iter_mut().try_for_each(|daemon| daemon.finish(PATIENCE).map(drop))
    }

    /// `why`, and what the daemons have to say about it.
    fn with_logs(&mut self, why: &Failure) -> Failure {
        let mut text = why.to_string();
        for (daemon, name) in self.daemons.iter_mut().zip(["left", "right"]) {
            let state = if daemon.is_running() { "runs" } else { "has ended" };
            text.push_str(&format!("\n\n{}", daemon.failure(&format!("of the {name} host {state}"))));
        }
        Failure(text)
    }
}

fn progress(started: Instant, what: &str) {
    println!("[{:4.1} s] {what}", started.elapsed().as_secs_f64());
}

/// What `client` has measured, if nothing was lost or wrong.
fn complete(client: &Program, written: &str) -> Result<Measurement, Failure> {
    let measurement = Measurement::from_last_line(written).filter(Measurement::is_complete);
    measurement.ok_or_else(|| client.failure("lost messages, found wrong bytes or gave no totals"))
}
