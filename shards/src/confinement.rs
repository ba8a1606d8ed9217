//! What the daemon gives up once its devices are open, so that whoever finds a way into it finds no way on.
//!
//! | by | of whom | what goes |
//! |---|---|---|
//! | seccomp | every thread | running programs, tracing, modules, mounts, namespaces, users, clocks, unusual sockets |
//! | capabilities | every thread, if all devices are packet sockets | all but CAP_NET_RAW, if it was there |
//! | landlock | the same | files but the socket's directory; reading but in `/proc`, `/sys` and `/etc`; TCP; signals |
//!
//! Drivers of DPDK may open files of their devices and need any privilege as long as they run, so their daemons keep
//! capabilities and files. What the kernel does not know is left out, with a word in the log.
//!
//! The daemon calls [`confine`] between the opening of its devices and the start of its threads, which inherit all of
//! it. seccomp reaches threads that run already; those of the log are started by [`without_capabilities`].

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope, path_beneath_rules,
};
use machnet_nic::backend::Needs;
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// What was given up. Read it as a sentence.
#[derive(Debug)]
pub struct Confined {
    given_up: Vec<&'static str>,
    kept: Vec<String>,
}

impl fmt::Display for Confined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.given_up.is_empty() {
            true => f.write_str("nothing is given up")?,
            false => write!(f, "given up: {}", self.given_up.join(", "))?,
        }
        self.kept.iter().try_for_each(|kept| write!(f, "; {kept}"))
    }
}

/// Gives up what a daemon with such devices, whose control socket lies in `directory`, does not need from now on.
pub fn confine(needs: Needs, directory: &Path) -> Confined {
    let mut confined = Confined { given_up: Vec::new(), kept: Vec::new() };
    if needs == Needs::PacketSockets {
        confined.note("files and TCP", limit_files(directory).map_err(|why| format!("no landlock: {why}")));
        let limited = limit_capabilities(CapabilitySet::NET_RAW);
        confined.note("capabilities", limited.map_err(|why| format!("capabilities stay: {why}")));
    }
    confined.note("calls", limit_calls().map_err(|why| format!("no seccomp: {why}")));
    confined
}

impl Confined {
    fn note(&mut self, what: &'static str, done: Result<(), String>) {
        match done {
            Ok(()) => self.given_up.push(what),
            Err(why) => self.kept.push(why),
        }
    }
}

/// Does something on a thread that has no capabilities; threads that it starts have none either.
pub fn without_capabilities<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // None of them is used, so one that stays is no failure.
            let _ = limit_capabilities(CapabilitySet::empty());
            act()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Takes all capabilities but `kept` from this thread and those that it will start.
fn limit_capabilities(kept: CapabilitySet) -> Result<(), Errno> {
    let held = rustix::thread::capabilities(None)?;
    for capability in CapabilitySet::all().difference(kept) {
        // Without CAP_SETPCAP the set stays as it is, and does no harm: no program is run. What this kernel does not
        // know is refused, too.
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    let _ = rustix::thread::clear_ambient_capability_set();
    let left = held.permitted & kept;
    let sets =
        CapabilitySets { effective: held.effective & left, permitted: left, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)
}

/// From now on no file is opened but those that a daemon of packet sockets may want.
fn limit_files(directory: &Path) -> Result<(), String> {
    let enforced = || -> Result<RulesetStatus, RulesetError> {
        let abi = ABI::V6;
        let rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(abi))?
            .handle_access(AccessNet::from_all(abi))?
            .scope(Scope::from_all(abi))?
            .create()?
            .add_rules(path_beneath_rules(["/proc", "/sys", "/etc"], AccessFs::from_read(abi) & !AccessFs::Execute))?
            .add_rules(path_beneath_rules([directory], AccessFs::from_all(abi) & !AccessFs::Execute))?;
        Ok(rules.restrict_self()?.ruleset)
    };
    match enforced() {
        Ok(RulesetStatus::NotEnforced) => Err("this kernel has none".into()),
        Ok(_) => Ok(()),
        Err(why) => Err(why.to_string()),
    }
}

/// From now on no thread of the process makes a call of [`REFUSED`].
fn limit_calls() -> Result<(), String> {
    let whole = |call: &libc::c_long| (*call, Vec::new());
    let mut refused: BTreeMap<i64, Vec<SeccompRule>> = REFUSED.iter().map(whole).collect();
    refused.insert(libc::SYS_clone, vec![rule(&[no_thread()])]);
    refused.insert(libc::SYS_socket, other_sockets());
    refused.insert(libc::SYS_kill, vec![rule(&[argument(0, SeccompCmpOp::Ne, std::process::id().into())])]);
    // Its flags lie in memory. Without it the C library uses clone(2).
    let unknown = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    for (calls, errno) in [(unknown, Errno::NOSYS), (refused, Errno::PERM)] {
        let program = program(calls, errno).map_err(|why| why.to_string())?;
        seccompiler::apply_filter_all_threads(&program).map_err(|why| why.to_string())?;
    }
    Ok(())
}

/// A filter by which these calls fail.
fn program(calls: BTreeMap<i64, Vec<SeccompRule>>, errno: Errno) -> Result<BpfProgram, seccompiler::BackendError> {
    let action = SeccompAction::Errno(errno.raw_os_error().cast_unsigned());
    SeccompFilter::new(calls, SeccompAction::Allow, action, std::env::consts::ARCH.try_into()?)?.try_into()
}

fn rule(conditions: &[SeccompCondition]) -> SeccompRule {
    SeccompRule::new(conditions.to_vec()).expect("it has conditions")
}

fn argument(index: u8, is: SeccompCmpOp, value: u64) -> SeccompCondition {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, is, value).expect("a call has six arguments")
}

/// clone(2) that makes a process.
fn no_thread() -> SeccompCondition {
    argument(0, SeccompCmpOp::MaskedEq(libc::CLONE_THREAD as u64), 0)
}

/// socket(2) of a kind that neither daemon nor drivers use: TCP, and families with which the kernel has had trouble.
fn other_sockets() -> Vec<SeccompRule> {
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET, libc::AF_XDP];
    let others: Vec<_> =
        families.iter().map(|family| argument(0, SeccompCmpOp::Ne, family.cast_unsigned().into())).collect();
    let tcp = |family: libc::c_int| {
        let kind = SeccompCmpOp::MaskedEq(0xf);
        rule(&[
            argument(0, SeccompCmpOp::Eq, family.cast_unsigned().into()),
            argument(1, kind, libc::SOCK_STREAM as u64),
        ])
    };
    vec![rule(&others), tcp(libc::AF_INET), tcp(libc::AF_INET6)]
}

/// Calls that are refused with EPERM.
const REFUSED: &[libc::c_long] = &[
    // Other programs, and other processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_tkill,
    libc::SYS_kcmp,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    // The kernel.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    // Mounts and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_open_by_handle_at,
    // Users, and what they hold.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_capset,
    libc::SYS_personality,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Clocks and names of the host.
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind;
    use std::net::TcpListener;
    use std::path::PathBuf;
    use std::process::Command;

    use machnet_test_kit::Scratch;
    use rustix::net::{AddressFamily, SocketType, socket};

    use super::*;

    /// Where a confined process is told its directory.
    const DIRECTORY: &str = "MACHNET_TEST_CONFINED";

    #[test]
    fn a_confined_process_goes_on_working_and_nowhere_else() {
        if let Some(directory) = std::env::var_os(DIRECTORY) {
            return in_a_process_of_its_own(&PathBuf::from(directory));
        }
        let scratch = Scratch::new().expect("a directory");
        let program = std::env::current_exe().expect("this test has a program");
        let name = "confinement::tests::a_confined_process_goes_on_working_and_nowhere_else";
        let mut child = Command::new(program);
        child.args([name, "--exact", "--nocapture", "--test-threads=1"]).env(DIRECTORY, scratch.path());
        let output = child.output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(fs::read(scratch.path().join("socket")).expect("it was written"), b"mine");
    }

    fn in_a_process_of_its_own(directory: &Path) {
        let outside = directory.with_extension("outside");
        let log = without_capabilities(|| rustix::thread::capabilities(None).expect("they can be read"));
        assert!(log.permitted.is_empty(), "{log:?}");
        let confined = confine(Needs::PacketSockets, directory);
        assert_eq!(confined.to_string(), "given up: files and TCP, capabilities, calls");
        // What a daemon does.
        fs::write(directory.join("socket"), b"mine").expect("the socket's directory is the daemon's");
        fs::read_to_string("/proc/self/status").expect("the host can be looked at");
        std::thread::spawn(|| ()).join().expect("threads can be started");
        socket(AddressFamily::UNIX, SocketType::STREAM, None).expect("a socket of this host");
        // What whoever has got into it would do.
        let refused = |done: std::io::Result<()>| done.map_err(|why| why.kind());
        assert_eq!(refused(fs::write(&outside, b"not mine")), Err(ErrorKind::PermissionDenied));
        assert_eq!(refused(fs::read_dir("/root").map(drop)), Err(ErrorKind::PermissionDenied));
        assert_eq!(refused(Command::new("/bin/true").status().map(drop)), Err(ErrorKind::PermissionDenied));
        assert_eq!(refused(TcpListener::bind("127.0.0.1:0").map(drop)), Err(ErrorKind::PermissionDenied));
        let other =
            socket(AddressFamily::from_raw(libc::AF_VSOCK.try_into().expect("16 bits")), SocketType::STREAM, None);
        assert_eq!(other.map(drop), Err(Errno::PERM));
        let parent = rustix::process::getppid().expect("it has one");
        assert_eq!(rustix::process::kill_process(parent, rustix::process::Signal::CONT), Err(Errno::PERM));
        let left = rustix::thread::capabilities(None).expect("they can be read");
        assert_eq!(rustix::thread::set_capabilities(None, left), Err(Errno::PERM));
        assert!(CapabilitySet::NET_RAW.contains(left.permitted), "{left:?}");
    }
}
