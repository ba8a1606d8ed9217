//! A network and a mount namespace, kept alive by a process and entered by `nsenter`.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::Failure;

/// Gives the namespace the `/sys` of its own network (where the kernel does not let it, programs see the outer one),
/// says that it is there, and lives until its standard input breaks.
const HOLDER: &str = "mount -t sysfs sysfs /sys 2>/dev/null; ip link set lo up && echo && exec cat";

/// Runs its arguments, unless the process that asked for it has died before the parent-death signal was set.
const IF_PARENT_LIVES: &str = r#"[ "$PPID" = "$1" ] || exit 125; shift; exec "$@""#;

/// The namespaces of one host.
pub(super) struct Namespace {
    holder: Child,
    /// Whether they belong to a user namespace, which must be entered first.
    within_user: bool,
}

impl Namespace {
    /// Makes namespaces of our own right, else those of a new user namespace in which we are root.
    pub(super) fn new() -> Result<Self, Failure> {
        let direct = || Self::hold(Command::new("unshare").args(["--net", "--mount"]), false);
        let within_user =
            || Self::hold(Command::new("unshare").args(["--user", "--map-root-user", "--net", "--mount"]), true);
        direct().or_else(|of_root| {
            within_user().map_err(|of_user| {
                let this = std::env::current_exe().unwrap_or_default();
                Failure(format!(
                    "this machine does not let us make network namespaces ({of_root}; in a user namespace: {of_user}): \
                     run sudo {} (in a container, one that is --privileged), or let users make them, on Ubuntu by \
                     sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
                    this.display()
                ))
            })
        })
    }

    /// Makes namespaces that belong to the same user namespace as `other`.
    pub(super) fn beside(other: &Self) -> Result<Self, Failure> {
        if !other.within_user {
            return Self::hold(Command::new("unshare").args(["--net", "--mount"]), false);
        }
        let target = other.pid().to_string();
        let enter_user = ["--target", &target, "--user", "--preserve-credentials", "unshare", "--net", "--mount"];
        Self::hold(Command::new("nsenter").args(enter_user), true)
    }

    fn hold(unshare: &mut Command, within_user: bool) -> Result<Self, Failure> {
        let mut holder = unshare
            .args(["sh", "-c", HOLDER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|why| Failure::io("unshare of util-linux cannot be started", &why))?;
        let mut ready = String::new();
        if let Some(stdout) = holder.stdout.take() {
            let _ = BufReader::new(stdout).read_line(&mut ready);
        }
        if ready == "\n" {
            return Ok(Self { holder, within_user });
        }
        let mut why = String::new();
        if let Some(mut stderr) = holder.stderr.take() {
            let _ = stderr.read_to_string(&mut why);
        }
        let _ = holder.wait();
        Err(Failure(why.trim().replace('\n', "; ")))
    }

    /// The holder's pid, which names the namespaces.
    pub(super) fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// A command that runs `program` inside, in `directory`, as root of the host. It is killed when the thread that
    /// starts it ends. The process that is started becomes the program: its pid is the program's. It runs on one `cpu`
    /// only, if that is given.
    pub(super) fn command(&self, program: &Path, directory: &Path, cpu: Option<usize>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid().to_string(), "--net", "--mount"]);
        if self.within_user {
            command.args(["--user", "--preserve-credentials"]);
        }
        let mut working_directory = std::ffi::OsString::from("--wd=");
        working_directory.push(directory);
        command.arg(working_directory).args(["setpriv", "--pdeathsig", "KILL"]);
        command.args(["sh", "-c", IF_PARENT_LIVES, "sh", &std::process::id().to_string()]);
        if let Some(cpu) = cpu {
            command.args(["taskset", "--cpu-list", &cpu.to_string()]);
        }
        command.arg(program);
        // A terminal's Ctrl-C is for us; we end and take everything along.
        command.process_group(0);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
