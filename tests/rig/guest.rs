//! A virtual machine with one NIC, joined to a host of this machine by a tap device.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use machnet::daemon::control::report::Report;
use machnet_test_kit::Failure;
use machnet_test_kit::hosts::{Host, Program};
use serde_json::{Value, json};

use crate::packages::Packages;

/// How long a guest may live. Every wait ends then at the latest.
const LIFE_LIMIT: Duration = Duration::from_secs(150);
/// How long a command may take on emulated CPUs.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// How long QEMU may take until it listens; it has not booted then.
const QEMU_LIMIT: Duration = Duration::from_secs(20);

/// Memory: 40 MiB for the initramfs, hugepages, and the rest for the kernel and applications.
const MEBIBYTES: u32 = 384;
/// Hugepages of 2 MiB. The frames of four shards take 38.
const HUGEPAGES: u32 = 56;
/// CPUs, and queues of a NIC that can be told how many it has: one for each of four shards.
const CPUS: u32 = 4;

/// Longest IP packet the wire takes.
pub(crate) const WIRE_MTU_BYTES: u16 = 4000;

/// The NIC of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nic {
    /// virtio-net that computes the hash the guest asks for.
    Virtio,
    /// Intel's 82576, without its virtual functions.
    Igb,
}

impl Nic {
    /// The kind of tap device behind it: virtio-net has as many queues as its tap.
    fn tap(self) -> &'static str {
        match self {
            Self::Virtio => "multi_queue",
            Self::Igb => "",
        }
    }

    /// QEMU's arguments for the tap and for the NIC.
    fn arguments(self, mac: &str) -> [String; 2] {
        let tap = "tap,id=tap,ifname=machnet0,script=no,downscript=no";
        match self {
            Self::Virtio => [
                format!("{tap},queues={CPUS},vhost=off"),
                format!(
                    "virtio-net-pci,netdev=tap,mac={mac},mq=on,rss=on,iommu_platform=on,disable-legacy=on,romfile="
                ),
            ],
            Self::Igb => [tap.to_owned(), format!("igb,netdev=tap,mac={mac},romfile=")],
        }
    }
}

/// A running guest; killed when dropped.
pub(crate) struct Guest {
    /// The PCI address of its NIC, which is bound to vfio-pci.
    pub(crate) nic: String,
    qemu: Program,
    /// The second serial port.
    line: UnixStream,
    /// What came from there and was not asked for yet.
    unread: Vec<u8>,
    commands: u32,
    /// What the kernel writes.
    console: PathBuf,
    dies: Instant,
}

impl Guest {
    /// Boots a guest at the other end of `host`'s interface, which becomes a tap; `mac` is that of the guest's NIC.
    pub(crate) fn boot(
        packages: &Packages,
        initramfs: &Path,
        host: &Host,
        nic: Nic,
        mac: &str,
    ) -> Result<Self, Failure> {
        let dies = Instant::now() + LIFE_LIMIT;
        host.make_tap(nic.tap(), WIRE_MTU_BYTES)?;
        let arguments = arguments(packages, initramfs, nic, mac);
        let mut qemu = host.start("setpriv", arguments)?;
        let socket = host.directory().join("line");
        let line = qemu
            .wait_until("its serial port", QEMU_LIMIT, |_| UnixStream::connect(&socket).ok())
            .map_err(|why| Failure(format!("QEMU did not start: {why}")))?;
        let console = host.directory().join("console");
        let mut guest = Self { nic: String::new(), qemu, line, unread: Vec::new(), commands: 0, console, dies };
        let ready = guest.read_until("\n", LIFE_LIMIT, "boot")?;
        let address = ready.trim().strip_prefix("ready ").filter(|address| address.contains(':'));
        guest.nic = address.ok_or_else(|| guest.failure(&format!("came up with {ready:?}")))?.to_owned();
        Ok(guest)
    }

    /// Runs a line of shell: what it wrote, if its status is 0. Variables and background jobs stay for the next one.
    pub(crate) fn run(&mut self, command: &str) -> Result<String, Failure> {
        self.commands += 1;
        let token = format!("end-of-{}", self.commands);
        let sent = self.line.write_all(format!("{token} {command}\n").as_bytes());
        sent.map_err(|why| self.failure(&format!("does not take {command:?}: {why}")))?;
        let end = format!("\n{token} ");
        let output = self.read_until(&end, COMMAND_LIMIT, command)?;
        let status = self.read_until("\n", COMMAND_LIMIT, command)?;
        let output = output.strip_suffix(&end).unwrap_or_default();
        if status.trim() != "0" {
            let what = format!("ended {command:?} with status {}; it wrote:\n{output}", status.trim());
            return Err(self.failure(&what));
        }
        Ok(output.to_owned())
    }

    /// Starts the daemon and waits until applications can attach.
    pub(crate) fn start_daemon(&mut self, config: &Value) -> Result<(), Failure> {
        self.run(&format!("echo '{config}' >/run/config.json"))?;
        self.run("machnet-shards --config_file /run/config.json --logtostderr >/run/log 2>&1 & daemon=$!")?;
        self.run(
            "until machnet-shards status >/run/status 2>&1; do \
             kill -0 $daemon && usleep 50000 || { cat /run/log; break; }; done; kill -0 $daemon",
        )?;
        Ok(())
    }

    /// Asks the daemon to end, which it does with status 0.
    pub(crate) fn stop_daemon(&mut self) -> Result<(), Failure> {
        self.run("kill $daemon; wait $daemon || { cat /run/log; false; }").map(drop)
    }

    /// Kills the daemon.
    pub(crate) fn kill_daemon(&mut self) -> Result<(), Failure> {
        self.run("kill -9 $daemon; wait $daemon; [ $? = 137 ]").map(drop)
    }

    /// What the daemon says about itself (`status`), or about its `flows`.
    pub(crate) fn ask(&mut self, command: &str) -> Result<Report, Failure> {
        let text = self.run(&format!("machnet-shards {command} --json"))?;
        serde_json::from_str(&text).map_err(|why| self.failure(&format!("gave no {command} ({why}) but {text}")))
    }

    /// How many interrupts each of the NIC's vectors has had since the daemon was started.
    pub(crate) fn interrupts(&mut self) -> Result<Vec<u64>, Failure> {
        // "26:  0  190  0  0  IR-PCI-MSI 16385-edge  vfio-msix[1](0000:00:01.0)": a column for each CPU.
        let lines = self.run("grep vfio-msix /proc/interrupts")?;
        let count = |line: &str| {
            let columns = line.split_ascii_whitespace().skip(1).take(CPUS as usize);
            columns.map(|column| column.parse::<u64>().unwrap_or(0)).sum()
        };
        Ok(lines.lines().map(count).collect())
    }

    /// Takes what came up to and including `end`.
    fn read_until(&mut self, end: &str, limit: Duration, doing: &str) -> Result<String, Failure> {
        let deadline = self.dies.min(Instant::now() + limit);
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|bytes| bytes == end.as_bytes()) {
                let rest = self.unread.split_off(at + end.len());
                let read = std::mem::replace(&mut self.unread, rest);
                return Ok(String::from_utf8_lossy(&read).into_owned());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let text = String::from_utf8_lossy(&self.unread);
                return Err(self.failure(&format!("was not finished in time with {doing:?}; it wrote:\n{text}")));
            }
            let mut buffer = [0; 4096];
            let read = self.line.set_read_timeout(Some(left)).and_then(|()| self.line.read(&mut buffer));
            match read {
                Ok(0) => return Err(self.failure(&format!("is gone during {doing:?}"))),
                Ok(len) => self.unread.extend(&buffer[..len]),
                Err(why) if matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(why) => return Err(self.failure(&format!("cannot be read from: {why}"))),
            }
        }
    }

    /// What the guest did, with the last lines that it and QEMU wrote.
    pub(crate) fn failure(&self, what: &str) -> Failure {
        let console = std::fs::read(&self.console).unwrap_or_default();
        let last_lines = |text: &str| {
            let lines: Vec<_> = text.lines().map(str::trim_end).collect();
            lines[lines.len().saturating_sub(20)..].join("\n")
        };
        let (console, qemu) = (last_lines(&String::from_utf8_lossy(&console)), last_lines(&self.qemu.stderr()));
        Failure(format!("the guest {what}\n--- its console, last lines ---\n{console}\n--- QEMU ---\n{qemu}"))
    }
}

/// The configuration of the daemon in a guest: what differs goes into `interface`.
pub(crate) fn config(mac: &str, ip: &str, shards: u64, mut interface: Value) -> Value {
    interface["ip"] = json!(ip);
    interface["prefix"] = json!(24);
    interface["engine_threads"] = json!(shards);
    json!({ "machnet_config": { mac: interface } })
}

/// The command line of QEMU, for `setpriv`.
fn arguments(packages: &Packages, initramfs: &Path, nic: Nic, mac: &str) -> Vec<String> {
    let mut libraries = std::ffi::OsString::from("LD_LIBRARY_PATH=");
    libraries.push(packages.libraries());
    let mut arguments = vec![
        // Where it may, QEMU lets a BPF program compute the hash, which sees of a frame what is not in another page:
        // of those from a packet socket's ring nothing but the Ethernet header, so that all go to queue 0.
        "--bounding-set=-bpf,-sys_admin".to_owned(),
        "env".to_owned(),
        libraries.to_string_lossy().into_owned(),
        packages.qemu.to_string_lossy().into_owned(),
    ];
    // Without KVM, which is not everywhere. vfio wants an IOMMU. QEMU waits until somebody listens to the second port.
    let machine = "-M q35 -accel tcg,thread=single -cpu max -nodefaults -no-reboot -display none \
                   -device intel-iommu,intremap=on \
                   -serial file:console -chardev socket,id=line,path=line,server=on,wait=on -serial chardev:line";
    arguments.extend(machine.split_ascii_whitespace().map(str::to_owned));
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let kernel = "console=ttyS0 panic=-1 quiet nokaslr intel_iommu=on no_timer_check";
    let [tap, device] = nic.arguments(mac);
    for (flag, value) in [
        ("-m", MEBIBYTES.to_string()),
        ("-smp", CPUS.to_string()),
        ("-kernel", text(&packages.kernel)),
        ("-initrd", text(initramfs)),
        ("-append", format!("{kernel} hugepages={HUGEPAGES}")),
        ("-netdev", tap),
        ("-device", device),
    ] {
        arguments.extend([flag.to_owned(), value]);
    }
    arguments.extend(packages.firmware().flat_map(|directory| ["-L".to_owned(), text(&directory)]));
    arguments
}
