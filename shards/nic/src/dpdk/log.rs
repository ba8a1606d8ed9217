//! What DPDK logs: into our log, and its latest complaints into our errors.

use std::collections::VecDeque;
use std::ffi::{c_char, c_int};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Complaints kept for the next error.
const RECENT_MAX: usize = 4;
/// DPDK's levels (rte_log.h): lower is worse.
const LEVEL_WARNING: u32 = 5;
const LEVEL_INFO: u32 = 7;

static IS_QUIET: AtomicBool = AtomicBool::new(false);
static RECENT: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// Sends DPDK's lines here. A failure only means that they go to stderr.
pub(super) fn redirect() -> Result<(), c_int> {
    // SAFETY: `line` neither unwinds nor keeps the text; this is called by the thread that starts DPDK.
    match unsafe { dpdk_sys::shim_log_to(line) } {
        0 => Ok(()),
        error => Err(error),
    }
}

/// Does something that may well fail, and is done again and again: what DPDK complains of is for who debugs.
pub(super) fn quietly<T>(what: impl FnOnce() -> T) -> T {
    IS_QUIET.store(true, Ordering::Relaxed);
    let done = what();
    IS_QUIET.store(false, Ordering::Relaxed);
    done
}

/// Forgets earlier complaints, before a call whose failure is to be explained.
pub(super) fn forget() {
    recent().clear();
}

/// The complaints since [`forget`], in one line.
pub(super) fn complaints() -> String {
    recent().drain(..).collect::<Vec<_>>().join("; ")
}

fn recent() -> MutexGuard<'static, VecDeque<String>> {
    RECENT.lock().unwrap_or_else(PoisonError::into_inner)
}

extern "C" fn line(level: u32, text: *const c_char, len: usize) {
    // SAFETY: DPDK gives `len` initialized bytes at `text`, which stay as they are during this call.
    let text = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), len) };
    let text = String::from_utf8_lossy(text);
    let text = text.trim();
    if text.is_empty() {
        return;
    }
    if level > LEVEL_INFO {
        tracing::trace!(target: "dpdk", "{text}");
    } else if level > LEVEL_WARNING || IS_QUIET.load(Ordering::Relaxed) {
        tracing::debug!(target: "dpdk", "{text}");
    } else {
        tracing::warn!(target: "dpdk", "{text}");
        let mut recent = recent();
        if recent.len() == RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back(text.to_owned());
    }
}
