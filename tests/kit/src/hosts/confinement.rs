//! What a container's runtime, or a service manager, keeps from the programs it starts.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit};

/// Something that is kept from a program, and from what it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confinement {
    /// Every call of io_uring fails with this error, as under the seccomp profiles of Docker and Kubernetes.
    WithoutIoUring(Errno),
    /// No memory may be locked.
    WithoutLockedMemory,
}

impl Confinement {
    /// The program that `command` starts is confined.
    pub(super) fn apply(self, command: &mut Command) {
        match self {
            Self::WithoutIoUring(errno) => {
                let filter = filter(errno);
                let confine = move || install(&filter);
                // SAFETY: between fork and exec it makes two system calls and neither allocates nor locks.
                unsafe { command.pre_exec(confine) };
            }
            Self::WithoutLockedMemory => {
                let none = || Ok(setrlimit(Resource::Memlock, Rlimit { current: Some(0), maximum: Some(0) })?);
                // SAFETY: between fork and exec it makes one system call and neither allocates nor locks.
                unsafe { command.pre_exec(none) };
            }
        }
    }
}

/// The length of the filter.
const STEPS: u16 = 6;
type Filter = [libc::sock_filter; STEPS as usize];

/// A filter for the number of the system call, which is the same for io_uring's calls on all architectures.
fn filter(errno: Errno) -> Filter {
    let step = |code: u32, k: u32, jt: u8| libc::sock_filter {
        code: u16::try_from(code).expect("all are short"),
        jt,
        jf: 0,
        k,
    };
    let load_number = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let offset = std::mem::offset_of!(libc::seccomp_data, nr);
    // A match goes so many steps further, to the last one.
    let is = |call: libc::c_long, to_last| {
        let call = u32::try_from(call).expect("the numbers of calls are small");
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, call, to_last)
    };
    let ret = libc::BPF_RET | libc::BPF_K;
    [
        step(load_number, u32::try_from(offset).expect("it is small"), 0),
        is(libc::SYS_io_uring_setup, 3),
        is(libc::SYS_io_uring_enter, 2),
        is(libc::SYS_io_uring_register, 1),
        step(ret, libc::SECCOMP_RET_ALLOW, 0),
        step(ret, libc::SECCOMP_RET_ERRNO | errno.raw_os_error().cast_unsigned(), 0),
    ]
}

fn install(filter: &Filter) -> io::Result<()> {
    let program = libc::sock_fprog { len: STEPS, filter: filter.as_ptr().cast_mut() };
    // SAFETY: it takes numbers only.
    let is_done = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } == 0;
    // SAFETY: the program and its steps outlive the call, which copies them.
    let is_done = is_done && unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) } == 0;
    if is_done { Ok(()) } else { Err(io::Error::last_os_error()) }
}
