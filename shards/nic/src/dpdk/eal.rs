//! The library itself: started once, without devices, and ended when the last port is closed.

use super::log;
use super::pool::pool_bytes;
use crate::backend::Pmd;
use crate::error::OpenError;
use crate::plan::DevicePlan;
use rustix::thread::{CpuSet, sched_getaffinity};
use std::ffi::{CStr, CString, c_char, c_int};
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where DPDK's frames live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// In hugepages, which a PCI device reaches best.
    HugePages,
    /// In ordinary pages, taken at the start.
    Ordinary {
        /// How much.
        mebibytes: u64,
    },
}

#[derive(Debug)]
pub(super) struct Eal {
    memory: Memory,
}

static STARTED: AtomicBool = AtomicBool::new(false);

impl Eal {
    /// See [`Dpdk::start`](super::Dpdk::start).
    pub(super) fn start(plans: &[DevicePlan]) -> Result<Self, OpenError> {
        if STARTED.swap(true, Ordering::Relaxed) {
            return Err(OpenError::StartedBefore);
        }
        let memory = Memory::choose(plans);
        let devices: Vec<_> = plans.iter().filter_map(|plan| plan.backend.dpdk_device()).collect();
        let arguments = arguments(memory, devices.iter().any(|device| device.is_on_a_bus()))?;
        if devices.iter().any(|device| device.pmd() == Some(Pmd::AfXdp)) {
            skip_xdp_dispatcher();
        }
        if let Err(error) = log::redirect() {
            tracing::warn!("DPDK logs to stderr: its log could not be redirected (errno {})", -error);
        }
        tracing::debug!("DPDK starts with {arguments:?}");
        log::forget();
        let mut pointers: Vec<*mut c_char> = arguments.into_iter().map(CString::into_raw).collect();
        let count = c_int::try_from(pointers.len()).expect("a dozen arguments");
        pointers.push(std::ptr::null_mut());
        // SAFETY: `STARTED` makes this the only call ever. There are `count` writable strings and a null. EAL may keep
        // pointers into them (getopt does), so they are leaked: a few hundred bytes, once.
        let result = unsafe { dpdk_sys::shim_eal_init(count, pointers.as_mut_ptr()) };
        if result != 0 {
            return Err(refused("start", "itself", result));
        }
        Ok(Self { memory })
    }

    /// Where the frames live.
    pub(super) fn memory(&self) -> Memory {
        self.memory
    }
}

/// See [`Dpdk::version`](super::Dpdk::version).
pub(super) fn version() -> String {
    // SAFETY: the shim gives a static, NUL-terminated string.
    unsafe { CStr::from_ptr(dpdk_sys::shim_version()) }.to_string_lossy().into_owned()
}

/// Makes libxdp attach its program for XDP sockets as it is. Where a BPF file system is mounted it would attach a
/// dispatcher that calls it, which the PMD does not take away completely and no survey knows by its name.
fn skip_xdp_dispatcher() {
    // SAFETY: none of this process's threads reads the environment but through Rust's library, which takes turns; DPDK
    // and its PMDs do from here on, on this thread.
    unsafe { std::env::set_var("LIBXDP_SKIP_DISPATCHER", "1") };
}

/// Whether a PMD (`net_memif`) is installed. Where the PMDs are not where DPDK says they may be linked in.
///
/// # Errors
///
/// If it is not.
pub(crate) fn look_for_pmd(pmd: String) -> Result<(), OpenError> {
    // SAFETY: the shim gives a static, NUL-terminated string.
    let directory = unsafe { CStr::from_ptr(dpdk_sys::shim_driver_directory()) }.to_string_lossy().into_owned();
    let Ok(entries) = std::fs::read_dir(&directory) else { return Ok(()) };
    let library = format!("librte_{pmd}.so");
    let is_there = entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(&library));
    if is_there { Ok(()) } else { Err(OpenError::NoPmd { pmd, directory }) }
}

impl Drop for Eal {
    fn drop(&mut self) {
        // SAFETY: initialized, or there were no `Eal`. Ports, pools and queues hold references, so none is left. Frames
        // do not, but a pool that misses one when it is dropped leaks its reference, and this is never called.
        let result = unsafe { dpdk_sys::shim_eal_cleanup() };
        if result != 0 {
            tracing::debug!("DPDK did not end cleanly (errno {})", -result);
        }
    }
}

impl Memory {
    /// Hugepages if enough of them are free, with a spare part for the library itself.
    fn choose(plans: &[DevicePlan]) -> Self {
        let needed = |in_hugepages| {
            let frames = plans.iter().filter_map(|plan| {
                let of_queue = pool_bytes(plan.backend.dpdk_device()?, plan.mtu_bytes, in_hugepages);
                Some(of_queue * u64::from(plan.queues))
            });
            let frames: u64 = frames.sum();
            frames + frames / 8 + LIBRARY_BYTES
        };
        if free_hugepage_bytes(Path::new("/sys/kernel/mm/hugepages")) >= needed(true) {
            Self::HugePages
        } else {
            Self::Ordinary { mebibytes: needed(false).div_ceil(1 << 20) }
        }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HugePages => write!(f, "hugepages"),
            Self::Ordinary { mebibytes } => write!(f, "{mebibytes} MiB of ordinary pages"),
        }
    }
}

/// What the library and its PMDs allocate for themselves: rings, tables, device data.
const LIBRARY_BYTES: u64 = 32 << 20;

/// Free hugepages of all sizes; 0 if they cannot be counted.
fn free_hugepage_bytes(directory: &Path) -> u64 {
    let Ok(sizes) = std::fs::read_dir(directory) else { return 0 };
    let free = sizes.flatten().filter_map(|size| {
        let name = size.file_name().into_string().ok()?;
        let kibibytes: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let count: u64 = std::fs::read_to_string(size.path().join("free_hugepages")).ok()?.trim().parse().ok()?;
        Some(kibibytes * 1024 * count)
    });
    free.sum()
}

fn arguments(memory: Memory, any_on_a_bus: bool) -> Result<Vec<CString>, OpenError> {
    let mut arguments = vec!["machnet-shards".to_owned(), "--no-telemetry".to_owned()];
    match memory {
        Memory::HugePages => arguments.push("--in-memory".to_owned()),
        Memory::Ordinary { mebibytes } => {
            arguments.extend(["--no-huge", "--no-shconf", "-m"].map(str::to_owned));
            arguments.push(mebibytes.to_string());
        }
    }
    if any_on_a_bus {
        // Only what is probed later: a list of allowed devices that holds nothing but the host bridge.
        arguments.extend(["-a", "0000:00:00.0"].map(str::to_owned));
    } else {
        arguments.extend(["--no-pci", "--iova-mode=va"].map(str::to_owned));
    }
    arguments.extend(["--lcores".to_owned(), format!("0@({})", allowed_cpus()?)]);
    Ok(arguments.into_iter().map(|argument| CString::new(argument).expect("written above")).collect())
}

/// The CPUs this thread may run on, as EAL reads them. One lcore on all of them: nothing is pinned.
fn allowed_cpus() -> Result<String, OpenError> {
    let set = sched_getaffinity(None)
        .map_err(|error| OpenError::System { step: "tell the CPUs of this thread", error: error.to_string() })?;
    let cpus = (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).map(|cpu| cpu.to_string());
    Ok(cpus.collect::<Vec<_>>().join(","))
}

/// The error for a negative result of DPDK, with what it logged since [`log::forget`].
pub(super) fn refused(step: &'static str, device: &str, result: c_int) -> OpenError {
    OpenError::Refused { step, device: device.to_owned(), errno: result.saturating_neg(), log: log::complaints() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_hugepages_of_all_sizes_count() {
        let scratch = machnet_test_kit::Scratch::new().expect("a temporary directory");
        let directory = scratch.path();
        for (size, free) in [("hugepages-2048kB", "3\n"), ("hugepages-1048576kB", "1\n"), ("unrelated", "7\n")] {
            std::fs::create_dir_all(directory.join(size)).expect("a temporary directory");
            std::fs::write(directory.join(size).join("free_hugepages"), free).expect("a temporary file");
        }
        assert_eq!(free_hugepage_bytes(directory), (3 << 21) + (1 << 30));
        assert_eq!(free_hugepage_bytes(&scratch.file("nothing")), 0);
    }
}
