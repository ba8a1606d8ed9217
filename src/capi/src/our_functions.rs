//! What Machnet does not have. `machnet.h` says what each of the functions does.

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use machnet::{AttachOptions, Binding, CloseReason, ConnectOptions};

use crate::channel::{Awaited, Channel, Handle, local_ip};
use crate::failure::{self, Failure, given, status};
use crate::layout::{ALL_SHARDS, ANY_SHARD, LEAST_LOADED_SHARD, MachnetFlow, MachnetXItem, SHARED};
use crate::machnet_functions::{attached, channel, connect};
use crate::memory;

/// With a zero at the end.
const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => panic!("a version has no zero"),
};

#[unsafe(no_mangle)]
extern "C" fn machnet_x_version() -> *const c_char {
    VERSION.as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn machnet_x_error() -> *const c_char {
    failure::words()
}

#[unsafe(no_mangle)]
extern "C" fn machnet_x_reason(reason: u16) -> *const c_char {
    static WORDS: LazyLock<[CString; CloseReason::ALL.len()]> =
        LazyLock::new(|| CloseReason::ALL.map(|reason| CString::new(reason.to_string()).unwrap_or_default()));
    WORDS[usize::from(CloseReason::from_wire(reason).to_wire())].as_ptr()
}

// ---- Attach, listen, connect --------------------------------------------------------------------------------------

#[unsafe(no_mangle)]
unsafe extern "C" fn machnet_x_attach(socket_path: *const c_char, shard: i32) -> *mut c_void {
    // SAFETY: as the header asks.
    let socket = unsafe { memory::text(socket_path) };
    let socket = socket.map(|path| Path::new(OsStr::from_bytes(path.to_bytes())));
    attached(binding(shard).and_then(|binding| Channel::attach(socket, AttachOptions::new().binding(binding))))
}

fn binding(shard: i32) -> Result<Binding, Failure> {
    match shard {
        ALL_SHARDS => Ok(Binding::All),
        LEAST_LOADED_SHARD => Ok(Binding::LeastLoaded),
        shard => Ok(Binding::Shard(shard_number(shard)?)),
    }
}

fn shard_number(shard: i32) -> Result<u16, Failure> {
    u16::try_from(shard).map_err(|_| Failure::Argument("there is no shard of that number"))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn machnet_x_listen(handle: Handle, local: *const c_char, port: *mut u16, flags: u32) -> c_int {
    // SAFETY: as the header asks.
    status(unsafe { channel(handle) }.and_then(|channel| {
        // SAFETY: as the header asks.
        let wanted = unsafe { memory::read(port) }?;
        if flags & !SHARED != 0 {
            return Err(Failure::Argument("flags has a bit that this release does not know"));
        }
        // SAFETY: as the header asks.
        let local = local_ip(unsafe { memory::text(local) })?;
        let listening = channel.listen(local, wanted, flags == SHARED)?;
        // SAFETY: as the header asks.
        unsafe { memory::write(port, listening) };
        Ok(())
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn machnet_x_unlisten(handle: Handle, local: *const c_char, port: u16) -> c_int {
    // SAFETY: as the header asks.
    status(unsafe { channel(handle) }.and_then(|channel| {
        // SAFETY: as the header asks.
        channel.unlisten(local_ip(unsafe { memory::text(local) })?, port)
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn machnet_x_connect(
    handle: Handle,
    local: *const c_char,
    remote: *const c_char,
    remote_port: u16,
    timeout_us: i64,
    shard: i32,
    flow: *mut MachnetFlow,
) -> c_int {
    let options = connect_options(timeout_us, shard);
    status(options.and_then(|options| {
        // SAFETY: as the header asks.
        unsafe { connect(handle, [local, remote], remote_port, options, flow) }
    }))
}

fn connect_options(timeout_us: i64, shard: i32) -> Result<ConnectOptions, Failure> {
    let options = ConnectOptions::new();
    let options = match timeout(timeout_us) {
        Some(timeout) => options.timeout(timeout),
        None => options,
    };
    Ok(if shard == ANY_SHARD { options } else { options.shard(shard_number(shard)?) })
}

/// `None` is without an end.
fn timeout(timeout_us: i64) -> Option<Duration> {
    u64::try_from(timeout_us).ok().map(Duration::from_micros)
}

// ---- Flows --------------------------------------------------------------------------------------------------------

#[unsafe(no_mangle)]
unsafe extern "C" fn machnet_x_close(handle: Handle, flow: MachnetFlow) -> c_int {
    // SAFETY: as the header asks.
    status(unsafe { channel(handle) }.and_then(|channel| channel.close(flow.into())))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn machnet_x_abort(handle: Handle, flow: MachnetFlow) -> c_int {
    // SAFETY: as the header asks.
    status(unsafe { channel(handle) }.and_then(|channel| channel.abort(flow.into())))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn machnet_x_unacknowledged_bytes(handle: Handle, flow: MachnetFlow) -> i64 {
    // SAFETY: as the header asks.
    let bytes = unsafe { channel(handle) }.and_then(|channel| channel.unacknowledged_bytes(flow.into()));
    given(bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)), -1)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn machnet_x_limit_unacknowledged(handle: Handle, flow: MachnetFlow, bytes: usize) -> c_int {
    // SAFETY: as the header asks.
    status(unsafe { channel(handle) }.and_then(|channel| channel.limit_unacknowledged(flow.into(), bytes)))
}

// ---- Send and receive ---------------------------------------------------------------------------------------------

#[unsafe(no_mangle)]
unsafe extern "C" fn machnet_x_append(handle: Handle, flow: MachnetFlow, buf: *const c_void, len: usize) -> c_int {
    // SAFETY: as the header asks.
    status(unsafe { channel(handle) }.and_then(|channel| {
        // SAFETY: as the header asks.
        let message = unsafe { memory::bytes(buf, len) }?;
        channel.append(flow.into(), &[std::io::IoSlice::new(message)])
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn machnet_x_flush(handle: Handle) -> c_int {
    // SAFETY: as the header asks.
    status(unsafe { channel(handle) }.map(Channel::flush))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn machnet_x_next_size(handle: Handle) -> isize {
    // SAFETY: as the header asks.
    let size = unsafe { channel(handle) }.and_then(Channel::next_size);
    given(size.map(|size| size.unwrap_or(0).cast_signed()), -1)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn machnet_x_receive(handle: Handle, item: *mut MachnetXItem) -> c_int {
    // SAFETY: as the header asks.
    let received = unsafe { channel(handle) }.and_then(|channel| {
        memory::is_place(item)?;
        let received = channel.receive()?;
        if let Some(received) = received {
            // SAFETY: as the header asks.
            unsafe { memory::write(item, received) };
        }
        Ok(c_int::from(received.is_some()))
    });
    given(received, -1)
}

// ---- Waiting ------------------------------------------------------------------------------------------------------

#[unsafe(no_mangle)]
unsafe extern "C" fn machnet_x_wait(handle: Handle, room: *const MachnetFlow, timeout_us: i64) -> c_int {
    // SAFETY: as the header asks.
    let awaited = unsafe { input_or(room) };
    // SAFETY: as the header asks.
    let came = unsafe { channel(handle) }.and_then(|channel| channel.wait(awaited, timeout(timeout_us)));
    given(came.map(c_int::from), -1)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn machnet_x_wait_room(handle: Handle, flow: MachnetFlow, timeout_us: i64) -> c_int {
    // SAFETY: as the header asks.
    let came =
        unsafe { channel(handle) }.and_then(|channel| channel.wait(Awaited::Room(flow.into()), timeout(timeout_us)));
    given(came.map(c_int::from), -1)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn machnet_x_fd(handle: Handle) -> c_int {
    // SAFETY: as the header asks.
    given(unsafe { channel(handle) }.map(|channel| channel.fd()), -1)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn machnet_x_arm(handle: Handle, room: *const MachnetFlow) -> c_int {
    // SAFETY: as the header asks.
    let awaited = unsafe { input_or(room) };
    // SAFETY: as the header asks.
    let is_there = unsafe { channel(handle) }.and_then(|channel| channel.arm(awaited));
    given(is_there.map(c_int::from), -1)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn machnet_x_arm_room(handle: Handle, flow: MachnetFlow) -> c_int {
    // SAFETY: as the header asks.
    let is_there = unsafe { channel(handle) }.and_then(|channel| channel.arm(Awaited::Room(flow.into())));
    given(is_there.map(c_int::from), -1)
}

/// # Safety
/// As `machnet_x_wait`.
unsafe fn input_or(room: *const MachnetFlow) -> Awaited {
    // SAFETY: as the header asks. Who waits for no room passes null.
    unsafe { memory::copied(room) }.map_or(Awaited::Input, |room| Awaited::InputOrRoom(room.into()))
}
