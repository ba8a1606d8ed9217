//! The threads of shards and coordinator: named, pinned where the configuration says so, each with one task.
//!
//! glommio's executor runs the task where it can. Where io_uring is refused, as the seccomp profiles of containers do,
//! or memory may not be locked, the same task runs on the bare thread. That costs nothing on a message's way: no task
//! ever waits inside glommio, whose park sends a membarrier to every core of the daemon and adds 10 to 35 µs to a wake.
//!
//! glommio 0.9 panics where the first ring cannot be made, where the operations of io_uring cannot be listed, where its
//! helper thread cannot be started, and where a submission is refused; it ends the process where an operation is
//! missing, and panics over a CPU that it does not find in sysfs. None of these is an error that it returns. So all of
//! it is asked of the kernel beforehand, the thread is pinned here, and an executor has no helper thread.

use std::fmt;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use glommio::{LocalExecutor, LocalExecutorBuilder, Placement, PoolPlacement};
use io_uring::{IoUring, Probe, opcode};
use rustix::process::{Resource, getrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use thiserror::Error;

/// glommio's preempt timer. No task is ever to be preempted here, and only a timer that does not fire cannot make the
/// executor park before its task has begun.
const PREEMPT: Duration = Duration::from_secs(3600);

/// Memory for file I/O, which no task does: glommio takes its own least, and locks it three times.
const IO_MEMORY_BYTES: usize = 0;

/// What glommio must be allowed to lock (`MIN_MEMLOCK_LIMIT` in its `sys/uring.rs`).
const LOCKED_BYTES_MIN: u64 = 512 << 10;

/// How long a thread may take until its task begins: far more than a host takes that is busy.
const START_WITHIN: Duration = Duration::from_secs(10);

/// The operations of io_uring that glommio must find (`GLOMMIO_URING_OPS` in its `sys/uring.rs`).
const OPERATIONS: [u8; 23] = [
    opcode::Nop::CODE,
    opcode::Readv::CODE,
    opcode::Writev::CODE,
    opcode::Fsync::CODE,
    opcode::ReadFixed::CODE,
    opcode::WriteFixed::CODE,
    opcode::PollAdd::CODE,
    opcode::PollRemove::CODE,
    opcode::SendMsg::CODE,
    opcode::RecvMsg::CODE,
    opcode::Timeout::CODE,
    opcode::TimeoutRemove::CODE,
    opcode::Accept::CODE,
    opcode::LinkTimeout::CODE,
    opcode::Connect::CODE,
    opcode::Fallocate::CODE,
    opcode::OpenAt::CODE,
    opcode::Close::CODE,
    opcode::Statx::CODE,
    opcode::Read::CODE,
    opcode::Write::CODE,
    opcode::Send::CODE,
    opcode::Recv::CODE,
];

/// What runs the tasks of this process: glommio, or the bare threads. Its text is one sentence.
#[derive(Debug)]
pub struct Executor {
    obstacle: Option<Obstacle>,
}

/// Why glommio cannot run here.
#[derive(Debug, Error)]
enum Obstacle {
    #[error("{} memory may be locked, and it wants 512 KiB (`ulimit -l`)", kibibytes(*.0))]
    Locked(u64),
    #[error("{call} is refused ({error}), {}", who_refuses())]
    Refused { call: &'static str, error: io::Error },
    #[error("this kernel's io_uring lacks what it needs")]
    Operations,
    #[error("its executor cannot be made ({0})")]
    Other(String),
}

/// Why a thread does not run.
#[derive(Debug, Error)]
pub enum SpawnError {
    /// There can be no further thread.
    #[error("the system refused to start a thread: {0}; look at its limits (`ulimit -u`, the container's pids)")]
    Thread(io::Error),
    /// The thread may not run where it should.
    #[error("CPU {cpu} cannot be used: {source}; choose another one in cpu_mask")]
    Cpu {
        /// The number of the CPU.
        cpu: usize,
        /// The system's answer.
        source: io::Error,
    },
    /// The thread is there, and its task has not begun.
    #[error("its task has not begun after {} s; the host is overloaded, or the thread is stuck", START_WITHIN.as_secs())]
    NotBegun,
}

/// A thread whose task has begun.
#[derive(Debug)]
pub struct Thread(JoinHandle<io::Result<()>>);

impl Thread {
    /// Waits for the end of the task; gives what it gave.
    ///
    /// # Errors
    /// The task's own, or that it panicked.
    pub fn join(self) -> io::Result<()> {
        self.0.join().unwrap_or_else(|_| Err(io::Error::other("it panicked")))
    }
}

impl Executor {
    /// Looks what can run here.
    pub fn look() -> Self {
        Self { obstacle: try_glommio().err() }
    }

    /// Whether it is glommio.
    pub fn is_glommio(&self) -> bool {
        self.obstacle.is_none()
    }

    /// Starts a thread of this name (the kernel keeps 15 bytes of it), pinned to `cpu` or anywhere in the process's
    /// affinity, and returns when its task has begun.
    ///
    /// # Errors
    /// When the task cannot begin: nothing of it has been done then, unless it was only late.
    pub fn spawn(
        &self,
        name: &str,
        cpu: Option<usize>,
        task: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> Result<Thread, SpawnError> {
        let (begins, begun) = sync_channel(1);
        let with_glommio = self.is_glommio();
        let body = move || run(cpu, with_glommio, &begins, task);
        let thread = Builder::new().name(name.to_owned()).spawn(body).map_err(SpawnError::Thread)?;
        match begun.recv_timeout(START_WITHIN) {
            Ok(begun) => begun.map(|()| Thread(thread)),
            Err(_) => Err(SpawnError::NotBegun),
        }
    }
}

impl fmt::Display for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.obstacle {
            None => f.write_str("threads run their tasks with glommio, by io_uring"),
            Some(obstacle) => obstacle.sentence(f),
        }
    }
}

impl Obstacle {
    fn sentence(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "threads run their tasks without glommio, because {self}; messages are as fast as with it, for no task \
             ever waits inside glommio"
        )
    }
}

/// A thread's life.
fn run(
    cpu: Option<usize>,
    with_glommio: bool,
    begins: &SyncSender<Result<(), SpawnError>>,
    task: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    // Before anything is allocated: memory comes from the node of the CPU that asks first.
    if let Some(cpu) = cpu
        && let Err(source) = pin(cpu)
    {
        let _ = begins.send(Err(SpawnError::Cpu { cpu, source }));
        return Ok(());
    }
    let executor = with_glommio.then(make_glommio).and_then(|made| match made {
        Ok(executor) => Some(executor),
        Err(obstacle) => {
            // It was possible for the first, and is no more: descriptors or memory have run out meanwhile.
            tracing::info!("{}", Executor { obstacle: Some(obstacle) });
            None
        }
    });
    let task = move || {
        // Whoever waits has given up if this fails, and ends the process.
        let _ = begins.send(Ok(()));
        task()
    };
    match executor {
        Some(executor) => executor.run(async move { task() }),
        None => task(),
    }
}

/// From now on the thread runs on this CPU only.
fn pin(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::Error::from(rustix::io::Errno::INVAL));
    }
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    sched_setaffinity(None, &cpus)?;
    Ok(())
}

/// Asks the kernel for all that glommio takes for granted, then makes an executor.
fn try_glommio() -> Result<(), Obstacle> {
    if let Some(bytes) = getrlimit(Resource::Memlock).current
        && bytes < LOCKED_BYTES_MIN
    {
        return Err(Obstacle::Locked(bytes));
    }
    let refused = |call| move |error| Obstacle::Refused { call, error };
    let ring = IoUring::new(2).map_err(refused("io_uring_setup"))?;
    let mut operations = Probe::new();
    ring.submitter().register_probe(&mut operations).map_err(refused("io_uring_register"))?;
    ring.submitter().submit().map_err(refused("io_uring_enter"))?;
    if !OPERATIONS.iter().all(|operation| operations.is_supported(*operation)) {
        return Err(Obstacle::Operations);
    }
    make_glommio().map(drop)
}

fn make_glommio() -> Result<LocalExecutor, Obstacle> {
    LocalExecutorBuilder::new(Placement::Unbound)
        .blocking_thread_pool_placement(PoolPlacement::Custom(Vec::new()))
        .io_memory(IO_MEMORY_BYTES)
        .preempt_timer(PREEMPT)
        .make()
        .map_err(|error| Obstacle::Other(error.to_string()))
}

/// Who it is, usually, that refuses a call of io_uring, as a subordinate clause.
fn who_refuses() -> String {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    match disabled.trim() {
        level @ ("1" | "2") => format!("as kernel.io_uring_disabled is {level}"),
        _ => "as the seccomp profiles of Docker and Kubernetes do".into(),
    }
}

fn kibibytes(bytes: u64) -> String {
    if bytes == 0 { "no".into() } else { format!("only {} KiB of", bytes >> 10) }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use machnet_config::CpuMask;
    use rustix::process::{Rlimit, setrlimit};
    use rustix::thread::sched_getaffinity;

    use super::*;

    /// What can run everywhere.
    fn plain() -> Executor {
        Executor { obstacle: Some(Obstacle::Locked(0)) }
    }

    fn both() -> [Executor; 2] {
        [Executor::look(), plain()]
    }

    #[test]
    fn a_task_has_begun_when_its_thread_is_there_and_gives_what_it_gives() {
        for executor in both() {
            let (tell, told) = channel();
            let (go_on, goes_on) = channel::<()>();
            let task = move || {
                tell.send(std::thread::current().name().map(str::to_owned)).expect("the test listens");
                goes_on.recv().expect("the test lets it go on");
                Err(io::Error::other("as it should"))
            };
            let thread = executor.spawn("shard-7", None, task).expect("a thread");
            assert_eq!(told.recv(), Ok(Some("shard-7".to_owned())));
            go_on.send(()).expect("it waits");
            assert_eq!(thread.join().expect_err("its own error").to_string(), "as it should");
        }
    }

    #[test]
    fn a_pinned_thread_runs_on_its_cpu_before_its_task_begins() {
        let cpu = CpuMask::allowed().expect("the kernel tells").cpus().last().expect("there is one");
        for executor in both() {
            let (tell, told) = channel();
            let task = move || {
                let allowed = sched_getaffinity(None)?;
                tell.send((rustix::thread::sched_getcpu(), allowed.count(), allowed.is_set(cpu))).expect("it listens");
                Ok(())
            };
            executor.spawn("pinned", Some(cpu), task).expect("a thread").join().expect("no error");
            assert_eq!(told.recv(), Ok((cpu, 1, true)));
        }
    }

    #[test]
    fn a_cpu_that_is_not_there_is_an_error_that_names_it() {
        for cpu in [1_000, CpuSet::MAX_CPU, usize::MAX] {
            for executor in both() {
                let error = executor.spawn("nowhere", Some(cpu), || unreachable!("it has no CPU")).expect_err("none");
                let said = error.to_string();
                let wanted = [&format!("CPU {cpu} cannot be used: Invalid argument"), "choose another one in cpu_mask"];
                assert!(wanted.iter().all(|words| said.contains(*words)), "{said}");
            }
        }
    }

    #[test]
    fn many_threads_run_at_once() {
        for executor in both() {
            let (go_on, goes_on) = channel::<()>();
            let goes_on = std::sync::Arc::new(std::sync::Mutex::new(goes_on));
            let threads: Vec<_> = (0..16)
                .map(|number| {
                    let goes_on = std::sync::Arc::clone(&goes_on);
                    let task = move || {
                        // An error tells all of them that the test goes on.
                        let _ = goes_on.lock().expect("nobody panics").recv();
                        Ok(())
                    };
                    executor.spawn(&format!("shard-{number}"), None, task).expect("a thread")
                })
                .collect();
            drop(go_on);
            for thread in threads {
                thread.join().expect("no error");
            }
        }
    }

    #[test]
    fn a_thread_whose_executor_cannot_be_made_any_more_runs_without() {
        let limit = getrlimit(Resource::Memlock);
        setrlimit(Resource::Memlock, Rlimit { current: Some(0), ..limit }).expect("less is allowed");
        let (tell, told) = channel();
        let task = move || {
            tell.send(()).expect("the test listens");
            Ok(())
        };
        let thread = Executor { obstacle: None }.spawn("late", None, task);
        setrlimit(Resource::Memlock, limit).expect("it was allowed before");
        thread.expect("a thread").join().expect("no error");
        assert_eq!(told.recv(), Ok(()));
    }

    #[test]
    fn what_runs_the_tasks_is_one_sentence() {
        assert_eq!(Executor { obstacle: None }.to_string(), "threads run their tasks with glommio, by io_uring");
        let refused = Obstacle::Refused { call: "io_uring_setup", error: io::Error::from_raw_os_error(libc::EPERM) };
        let obstacles = [
            (refused, "io_uring_setup is refused (Operation not permitted (os error 1)), as "),
            (Obstacle::Locked(0), "no memory may be locked, and it wants 512 KiB (`ulimit -l`)"),
            (Obstacle::Locked(64 << 10), "only 64 KiB of memory may be locked, and it wants 512 KiB (`ulimit -l`)"),
            (Obstacle::Operations, "this kernel's io_uring lacks what it needs"),
            (Obstacle::Other("no".into()), "its executor cannot be made (no)"),
        ];
        for (obstacle, why) in obstacles {
            let executor = Executor { obstacle: Some(obstacle) };
            assert!(!executor.is_glommio());
            let said = executor.to_string();
            assert!(said.starts_with(&format!("threads run their tasks without glommio, because {why}")), "{said}");
            assert!(
                said.ends_with("; messages are as fast as with it, for no task ever waits inside glommio"),
                "{said}"
            );
        }
    }
}
