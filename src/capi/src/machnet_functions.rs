//! The functions of Microsoft's Machnet. `machnet.h` says what each of them does.

use std::ffi::{c_char, c_int, c_void};
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;

use machnet::{AttachOptions, ConnectOptions};

use crate::channel::{Channel, Handle, local_ip, remote_ip};
use crate::failure::{Failure, given, note, status};
use crate::layout::{MachnetFlow, MachnetIovec, MachnetMsgHdr};
use crate::memory::{self, Destination};

/// The channel behind a pointer, and its own process.
///
/// # Safety
/// The pointer is null, or one that `machnet_attach` gave and `machnet_detach` has not taken back; nobody else uses it
/// while the reference is used.
#[inline]
pub(crate) unsafe fn channel<'a>(handle: Handle) -> Result<&'a mut Channel, Failure> {
    // SAFETY: it was made from a `Box<Channel>`, by `attached`; the caller says the rest. That its type says const is
    // Machnet's.
    let channel = unsafe { memory::own(handle.cast_mut().cast::<Channel>()) }?;
    channel.check_process()?;
    Ok(channel)
}

/// A new channel's pointer, or null.
pub(crate) fn attached(outcome: Result<Channel, Failure>) -> *mut c_void {
    given(outcome.map(|channel| Box::into_raw(Box::new(channel)).cast()), ptr::null_mut())
}

#[unsafe(no_mangle)]
extern "C" fn machnet_init() -> c_int {
    status(Channel::attach(None, AttachOptions::new()).map(drop))
}

#[unsafe(no_mangle)]
extern "C" fn machnet_attach() -> *mut c_void {
    attached(Channel::attach(None, AttachOptions::new()))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn machnet_detach(handle: *mut c_void) {
    // SAFETY: as the header asks.
    let is_ours = unsafe { channel(handle) }.is_ok();
    // A forked child's copy names memory that the child does not have.
    if is_ours {
        // SAFETY: as in `channel`; whoever detaches uses the pointer no more.
        drop(unsafe { Box::from_raw(handle.cast::<Channel>()) });
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn machnet_listen(handle: *mut c_void, local: *const c_char, port: u16) -> c_int {
    // SAFETY: as the header asks.
    let local = match local_ip(unsafe { memory::text(local) }) {
        Ok(local) => local,
        Err(failure) => {
            note(failure);
            return -libc::EINVAL;
        }
    };
    // SAFETY: as the header asks.
    let channel = unsafe { channel(handle) };
    status(channel.and_then(|channel| match port {
        0 => Err(Failure::Argument("port 0 is nobody's: machnet_x_listen takes a free one")),
        port => channel.listen(local, port, false).map(drop),
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn machnet_connect(
    handle: *mut c_void,
    local: *const c_char,
    remote: *const c_char,
    remote_port: u16,
    flow: *mut MachnetFlow,
) -> c_int {
    // SAFETY: as the header asks.
    status(unsafe { connect(handle, [local, remote], remote_port, ConnectOptions::new(), flow) })
}

/// # Safety
/// As `machnet_connect`.
pub(crate) unsafe fn connect(
    handle: Handle,
    [local, remote]: [*const c_char; 2],
    remote_port: u16,
    options: ConnectOptions,
    flow: *mut MachnetFlow,
) -> Result<(), Failure> {
    // SAFETY: as the header asks.
    let channel = unsafe { channel(handle) }?;
    memory::is_place(flow)?;
    // SAFETY: as the header asks.
    let local = local_ip(unsafe { memory::text(local) })?;
    // SAFETY: as the header asks.
    let remote = remote_ip(unsafe { memory::text(remote) })?;
    let ends = channel.connect(local, (remote, remote_port), options)?;
    // SAFETY: as the header asks.
    unsafe { memory::write(flow, ends.into()) };
    Ok(())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn machnet_send(handle: Handle, flow: MachnetFlow, buf: *const c_void, len: usize) -> c_int {
    // SAFETY: as the header asks.
    status(unsafe { channel(handle) }.and_then(|channel| {
        // SAFETY: as the header asks.
        let message = unsafe { memory::bytes(buf, len) }?;
        channel.send(flow.into(), message)
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn machnet_sendmsg(handle: Handle, msghdr: *const MachnetMsgHdr) -> c_int {
    // SAFETY: as the header asks.
    status(unsafe { channel(handle) }.and_then(|channel| {
        // SAFETY: as the header asks.
        let MachnetMsgHdr { msg_size, flow_info, msg_iov, msg_iovlen, .. } = unsafe { memory::read(msghdr) }?;
        // SAFETY: as the header asks.
        let message = unsafe { memory::gather(msg_iov, msg_iovlen, msg_size) }?;
        channel.send_parts(flow_info.into(), message.parts())
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn machnet_sendmmsg(handle: Handle, msghdrs: *const MachnetMsgHdr, vlen: c_int) -> c_int {
    // SAFETY: as the header asks.
    let channel = match unsafe { channel(handle) } {
        Ok(channel) => channel,
        Err(failure) => return given(Err(failure), 0),
    };
    let mut sent = 0;
    while sent < vlen {
        // Of nothing there is no second.
        let msghdr = if msghdrs.is_null() { msghdrs } else { msghdrs.wrapping_offset(sent as isize) };
        // SAFETY: as the header asks.
        if let Err(failure) = unsafe { append(channel, msghdr) } {
            note(failure);
            break;
        }
        sent += 1;
    }
    channel.flush();
    sent
}

/// # Safety
/// As `machnet_sendmsg`.
unsafe fn append(channel: &mut Channel, msghdr: *const MachnetMsgHdr) -> Result<(), Failure> {
    // SAFETY: as the header asks.
    let MachnetMsgHdr { msg_size, flow_info, msg_iov, msg_iovlen, .. } = unsafe { memory::read(msghdr) }?;
    // SAFETY: as the header asks.
    let message = unsafe { memory::gather(msg_iov, msg_iovlen, msg_size) }?;
    channel.append(flow_info.into(), message.parts())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn machnet_recv(handle: Handle, buf: *mut c_void, len: usize, flow: *mut MachnetFlow) -> isize {
    // SAFETY: as the header asks.
    let received = unsafe { channel(handle) }.and_then(|channel| {
        let part = MachnetIovec { base: buf, len };
        // SAFETY: as the header asks.
        channel.recv(unsafe { Destination::whole(&part) }?)
    });
    given(
        received.map(|received| {
            let Some((size, ends)) = received else { return 0 };
            // SAFETY: as the header asks. Who does not want it passes null.
            unsafe { memory::write(flow, ends.reversed().into()) };
            size.cast_signed()
        }),
        -1,
    )
}

#[unsafe(no_mangle)]
unsafe extern "C" fn machnet_recvmsg(handle: Handle, msghdr: *mut MachnetMsgHdr) -> c_int {
    // SAFETY: as the header asks.
    given(unsafe { recvmsg(handle, msghdr) }.map(c_int::from), -1)
}

/// # Safety
/// As `machnet_recvmsg`.
unsafe fn recvmsg(handle: Handle, msghdr: *mut MachnetMsgHdr) -> Result<bool, Failure> {
    // SAFETY: as the header asks.
    let channel = unsafe { channel(handle) }?;
    // SAFETY: as the header asks.
    let mut header = unsafe { memory::read(msghdr) }?;
    // SAFETY: as the header asks.
    let destination = unsafe { Destination::scattered(header.msg_iov, header.msg_iovlen) }?;
    let size_of = |size: usize| u32::try_from(size).expect("no message is as long");
    let received = channel.recv(destination);
    match &received {
        Ok(None) => {}
        Ok(Some((size, ends))) => (header.msg_size, header.flow_info) = (size_of(*size), ends.reversed().into()),
        Err(failure) => header.msg_size = failure.needed_bytes().map_or(header.msg_size, size_of),
    }
    // SAFETY: as the header asks.
    unsafe { memory::write(msghdr, header) };
    received.map(|received| received.is_some())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn machnet_bind(shm_fd: c_int, channel_size: *mut usize) -> *mut c_void {
    // SAFETY: as the header asks. Who does not want it passes null.
    unsafe { memory::write(channel_size, 0) };
    if shm_fd >= 0 {
        // SAFETY: it is no -1, and whoever calls this gives the descriptor away.
        drop(unsafe { OwnedFd::from_raw_fd(shm_fd) });
    }
    given(Err(Failure::NotHere("a channel is what machnet_attach gives: there is no memory to bind")), ptr::null_mut())
}
