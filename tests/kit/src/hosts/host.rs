//! One host: its addresses, its configuration, its programs.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Confinement, Ground, Program, VethPair};
use crate::Failure;

/// The interface of every host; each has a network of its own, so the name need not be unique.
const INTERFACE: &str = "machnet0";
/// The subnet of both hosts.
const PREFIX_BITS: u8 = 24;
/// How long setting up something by `ip` may take.
const SET_UP_LIMIT: Duration = Duration::from_secs(10);
/// How long a daemon may take until applications can attach, and what it logs then.
const DAEMON_START_LIMIT: Duration = Duration::from_secs(20);
const READY: &str = "ready socket=";
/// The same of one of our applications that serves others.
const SERVER_START_LIMIT: Duration = Duration::from_secs(10);
const LISTENS: &str = "Listening";

/// A host.
pub struct Host {
    /// The MAC of its interface.
    pub mac: String,
    /// The address for the daemon. The kernel does not own it.
    pub machnet_ip: Ipv4Addr,
    /// The kernel's own address.
    pub kernel_ip: Ipv4Addr,
    /// The CPU that all programs started from now on run on; by default any.
    pub cpu: Option<usize>,
    /// What is kept from all programs started from now on; by default nothing.
    pub confinement: Option<Confinement>,
    directory: PathBuf,
    ground: Arc<Ground>,
    programs_started: AtomicU32,
}

impl Host {
    pub(super) fn new(
        ground: Arc<Ground>,
        name: &str,
        mac: [u8; 6],
        [machnet_ip, kernel_ip]: [Ipv4Addr; 2],
    ) -> Result<Self, Failure> {
        let directory = ground.scratch.path().join(name);
        std::fs::create_dir(&directory)
            .map_err(|why| Failure::io(&format!("cannot make {}", directory.display()), &why))?;
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        Ok(Self {
            mac,
            machnet_ip,
            kernel_ip,
            cpu: None,
            confinement: None,
            directory,
            ground,
            programs_started: AtomicU32::new(0),
        })
    }

    /// Lays the wire: an interface in each host, with its MAC and the kernel's address. The one there was is gone.
    pub fn connect_to(&self, other: &Self, link: VethPair) -> Result<(), Failure> {
        let VethPair { queues, mtu_bytes } = link;
        let end = |host: &Self| {
            let mac = &host.mac;
            format!("{INTERFACE} address {mac} mtu {mtu_bytes} numtxqueues {queues} numrxqueues {queues}")
        };
        let other_namespace = other.ground.namespace.pid();
        self.ip(&format!("link add {} type veth peer name {} netns {other_namespace}", end(self), end(other)))?;
        self.address_and_up()?;
        other.address_and_up()
    }

    /// Lays the wire to a bridge: an interface here, with its MAC and the kernel's address, and the `port` of the
    /// bridge there.
    pub(super) fn plug_into(&self, switch: &Self, port: &str, link: VethPair) -> Result<(), Failure> {
        let VethPair { queues, mtu_bytes } = link;
        let (mac, there) = (&self.mac, switch.ground.namespace.pid());
        let lengths = format!("mtu {mtu_bytes} numtxqueues {queues} numrxqueues {queues}");
        let here = format!("{INTERFACE} address {mac} {lengths}");
        self.ip(&format!("link add {here} type veth peer name {port} {lengths} netns {there}"))?;
        switch.ip(&format!("link set {port} addrgenmode none master switch up"))?;
        self.address_and_up()
    }

    /// Makes its interface a tap device, for a virtual machine at the other end; `kind` is for `ip tuntap`.
    pub fn make_tap(&self, kind: &str, mtu_bytes: u16) -> Result<(), Failure> {
        self.ip(&format!("tuntap add dev {INTERFACE} mode tap {kind}"))?;
        self.ip(&format!("link set {INTERFACE} address {} mtu {mtu_bytes}", self.mac))?;
        self.address_and_up()
    }

    /// The kernel's address, and no other: with a link-local one it would talk by itself.
    fn address_and_up(&self) -> Result<(), Failure> {
        self.ip(&format!("link set {INTERFACE} addrgenmode none"))?;
        self.ip(&format!("address add {}/{PREFIX_BITS} dev {INTERFACE}", self.kernel_ip))?;
        self.ip(&format!("link set {INTERFACE} up")).map(drop)
    }

    /// Runs `ip` of iproute2 inside, with these arguments between blanks.
    pub fn ip(&self, arguments: &str) -> Result<String, Failure> {
        self.start("ip", arguments.split_ascii_whitespace())?.finish(SET_UP_LIMIT)
    }

    /// Where this host's files are; gone with the host.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The daemon's control socket. It can be reached from outside the host too.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("machnet.sock")
    }

    /// Where [`start_daemon`](Self::start_daemon) writes the configuration.
    pub fn config_file(&self) -> PathBuf {
        self.directory.join("config.json")
    }

    /// The plainest configuration of this host's daemon, for the caller to add to.
    pub fn config(&self) -> Value {
        json!({
            "machnet_config": { &self.mac: { "ip": self.machnet_ip, "prefix": PREFIX_BITS } },
            "machnet_shards": { "socket": self.socket() },
        })
    }

    /// The same with so many shards.
    pub fn config_of_shards(&self, shards: u16) -> Value {
        let mut config = self.config();
        config["machnet_config"][&self.mac]["engine_threads"] = shards.into();
        config
    }

    /// Starts a program inside; its working directory is [`directory`](Self::directory) and `MACHNET_SOCKET` names the
    /// daemon's socket. A name without a slash is one of ours if we have it, else the system's. The program is
    /// killed when it is dropped, and when the thread that started it ends.
    pub fn start<I>(&self, program: &str, arguments: I) -> Result<Program, Failure>
    where
        I: IntoIterator<Item: AsRef<OsStr>>,
    {
        let path = built(program).unwrap_or_else(|| PathBuf::from(program));
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let number = self.programs_started.fetch_add(1, Ordering::Relaxed);
        let mut command = self.ground.namespace.command(&path, &self.directory, self.cpu);
        command.args(arguments).env("MACHNET_SOCKET", self.socket());
        if let Some(confinement) = self.confinement {
            confinement.apply(&mut command);
        }
        Program::start(&name, command, &self.directory.join(format!("{name}-{number}")), Arc::clone(&self.ground))
    }

    /// Starts one of our programs inside.
    pub fn start_ours<I>(&self, program: &str, arguments: I) -> Result<Program, Failure>
    where
        I: IntoIterator<Item: AsRef<OsStr>>,
    {
        Self::ours(program)?;
        self.start(program, arguments)
    }

    /// Starts `msg_gen` or `hello_world` as a server and waits until it listens.
    pub fn start_server<I>(&self, program: &str, arguments: I) -> Result<Program, Failure>
    where
        I: IntoIterator<Item: AsRef<OsStr>>,
    {
        Self::ours(program)?;
        self.start_server_of(program, arguments)
    }

    /// The same with the server that is this program: another release's, say.
    pub fn start_server_of<I>(&self, program: &str, arguments: I) -> Result<Program, Failure>
    where
        I: IntoIterator<Item: AsRef<OsStr>>,
    {
        let mut server = self.start(program, arguments)?;
        server.until_it_says(LISTENS, SERVER_START_LIMIT)?;
        Ok(server)
    }

    /// Starts one of our examples, of the build that this process belongs to.
    pub fn start_example<I>(&self, name: &str, arguments: I) -> Result<Program, Failure>
    where
        I: IntoIterator<Item: AsRef<OsStr>>,
    {
        let path = build_directory().join("examples").join(name);
        if path.is_file() {
            self.start(&path.to_string_lossy(), arguments)
        } else {
            Err(Failure(format!("{} is not there: build it with make", path.display())))
        }
    }

    /// Where one of our programs is, in the build that this process belongs to.
    pub fn ours(program: &str) -> Result<PathBuf, Failure> {
        built(program).ok_or_else(|| {
            let directory = build_directory();
            Failure(format!(
                "{} is not there: build it with cargo build --bins --features machnet-endpoint/tools{}",
                directory.join(program).display(),
                if directory.ends_with("release") { " --release" } else { "" }
            ))
        })
    }

    /// Writes `config`, starts the daemon with it and waits until applications can attach. Its log is its standard
    /// error.
    pub fn start_daemon(&self, config: &Value) -> Result<Program, Failure> {
        Self::ours("machnet-shards")?;
        self.start_daemon_of("machnet-shards", config)
    }

    /// The same with the daemon that is this program: another release, say.
    pub fn start_daemon_of(&self, program: &str, config: &Value) -> Result<Program, Failure> {
        let file = self.config_file();
        std::fs::write(&file, format!("{config:#}\n"))
            .map_err(|why| Failure::io(&format!("cannot write {}", file.display()), &why))?;
        let arguments = [OsStr::new("--config_file"), file.as_os_str(), OsStr::new("--logtostderr")];
        let mut daemon = self.start(program, arguments)?;
        daemon.until_it_says(READY, DAEMON_START_LIMIT)?;
        Ok(daemon)
    }

    /// Pings `ip` from the kernel of this host, `count` times with `payload_bytes` each. An error if one answer is
    /// missing.
    pub fn ping(&self, ip: Ipv4Addr, payload_bytes: usize, count: u32) -> Result<String, Failure> {
        let arguments = [
            "-n".to_owned(),
            "-i0.01".to_owned(),
            format!("-w{}", 2 + count / 50),
            format!("-c{count}"),
            format!("-s{payload_bytes}"),
            ip.to_string(),
        ];
        self.start("ping", arguments)?.finish(Duration::from_secs(u64::from(5 + count / 50)))
    }
}

/// Where the programs of this build are: beside this one, which is a test in `deps` or the demo in `examples`.
fn build_directory() -> PathBuf {
    let this = std::env::current_exe().unwrap_or_default();
    let directory = this.parent().unwrap_or(Path::new("."));
    match directory.file_name().and_then(OsStr::to_str) {
        Some("deps" | "examples") => directory.parent().unwrap_or(directory).to_owned(),
        _ => directory.to_owned(),
    }
}

fn built(program: &str) -> Option<PathBuf> {
    Some(build_directory().join(program)).filter(|path| path.is_file())
}
