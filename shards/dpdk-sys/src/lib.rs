//! Declarations of the C shim over libdpdk (`shim.h`); nothing is decided here.
//!
//! The shim makes macros, inline functions and thread-locals callable, one call per burst. Unless said
//! otherwise a result is 0 or a negative errno. DPDK is process-wide: one initialization per process.
//!
//! Common conditions, referred to as such below:
//!
//! * *initialized*: [`shim_eal_init`] has succeeded and [`shim_eal_cleanup`] has not been called;
//! * *port*: initialized, and the number was given by this library and not yet closed;
//! * *started queue*: a port after [`shim_start`] and before [`shim_stop`], the queue below the number configured,
//!   and no other thread in a burst of the same direction on it;
//! * strings are NUL-terminated and outlive the call.
#![no_std]

use core::ffi::{c_char, c_int};

/// A packet buffer of DPDK. Opaque.
#[repr(C)]
pub struct Mbuf {
    _opaque: [u8; 0],
}

/// A pool of packet buffers. Opaque.
#[repr(C)]
pub struct Mempool {
    _opaque: [u8; 0],
}

/// One packet buffer and where its bytes are (`struct shim_frame`).
#[repr(C)]
#[derive(Debug)]
pub struct Frame {
    /// The buffer; it has one segment, and one owner: whoever holds this.
    pub mbuf: *mut Mbuf,
    /// The first byte of the frame.
    pub data: *mut u8,
    /// Bytes of the frame, at most `capacity`. Written back into the buffer by [`shim_transmit`].
    pub len: u16,
    /// Bytes from `data` to the end of the buffer.
    pub capacity: u16,
    /// [`UNVERIFIED`], [`VERIFIED`] or [`PARTIAL`].
    pub checksum: u8,
}

/// Of a frame: nothing is known about its UDP checksum, and the device leaves it as it is.
pub const UNVERIFIED: u8 = 0;
/// Of a frame received: the device has found the UDP checksum right.
pub const VERIFIED: u8 = 1;
/// Of a frame received: the UDP checksum was never completed, and what it covers is sound. Of one to be transmitted:
/// the device completes the sum of the pseudo header that stands there; only to ports that were configured so.
pub const PARTIAL: u8 = 2;

/// What a port is (`struct shim_port`).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Port {
    /// Name of the driver, a C string.
    pub driver: [c_char; 64],
    /// Name of the device, a C string.
    pub device: [c_char; 64],
    /// The device's address; zero if it could not be read.
    pub mac: [u8; 6],
    /// The longest IP packet it can be configured for.
    pub max_mtu: u16,
    /// Receive queues it can have.
    pub max_rx_queues: u16,
    /// Transmit queues it can have.
    pub max_tx_queues: u16,
    /// Entries of its indirection table; 0 if it has none.
    pub reta_size: u16,
    /// Bytes of its hash key; 0 if it does not say.
    pub hash_key_size: u16,
    /// Its NUMA node; negative if it has none.
    pub socket: i32,
    /// The number of the kernel interface that it is at; 0 if it is at none.
    pub kernel_interface: u32,
    /// Whether it can hash the addresses and ports of UDP over IPv4.
    pub hashes_udp: u8,
    /// Whether it can complete the checksums of UDP over IPv4.
    pub checksums_udp: u8,
    /// Whether its link is up.
    pub link_up: u8,
}

/// How a port shall be set up (`struct shim_configuration`).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Configuration {
    /// Queues of each direction; flows are spread over them as far as the device can.
    pub queues: u16,
    /// The longest IP packet; 0 leaves it at what Ethernet has.
    pub mtu: u16,
    /// Bytes of the key that flows shall be spread by, as many as the device takes; 0 leaves the choice to its driver.
    pub key_len: u16,
    /// Whether receive interrupts are wanted.
    pub interrupts: u8,
    /// Whether the device shall complete UDP checksums, and check those it receives if it can.
    pub checksums: u8,
    /// The key; `key_len` bytes of it.
    pub key: [u8; 64],
}

/// Receive side scaling as the device reports it (`struct shim_rss`).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Rss {
    /// The key; `key_len` bytes of it.
    pub key: [u8; 64],
    /// At most 64.
    pub key_len: u16,
    /// At most 2048.
    pub table_len: u16,
    /// The queue of each entry; `table_len` of them.
    pub table: [u16; 2048],
    /// Whether addresses and ports of UDP over IPv4 are hashed.
    pub hashes_udp: u8,
}

/// Receives log lines: level (1 emergency to 8 debug), text that is not NUL-terminated, its length. Called on any
/// thread; it must not unwind.
pub type Sink = extern "C" fn(level: u32, text: *const c_char, len: usize);

unsafe extern "C" {
    /// Sends DPDK's log lines to `sink`, from now on. Callable before initialization, from one thread.
    pub fn shim_log_to(sink: Sink) -> c_int;
    /// Initializes EAL. Once per process, also after a failure. `argv` holds `argc` writable strings and a null; EAL
    /// reorders the pointers and keeps none of the strings.
    pub fn shim_eal_init(argc: c_int, argv: *mut *mut c_char) -> c_int;
    /// Ends EAL. Initialized; no port, pool, frame or registered thread is used afterwards.
    pub fn shim_eal_cleanup() -> c_int;
    /// The version of libdpdk, a static string.
    pub safe fn shim_version() -> *const c_char;
    /// Where EAL looks for drivers, a static string.
    pub safe fn shim_driver_directory() -> *const c_char;
    /// Gives the calling thread a cache in each pool. Initialized.
    pub fn shim_thread_register() -> c_int;
    /// Takes it back. Called on the same thread.
    pub fn shim_thread_unregister();

    /// Makes a pool of `frames` buffers on a NUMA node (-1: any), of `data_room` bytes each including 128 bytes of
    /// headroom. Null on failure, with `error` set. Initialized; the name is not in use and under 26 characters.
    pub fn shim_pool_create(
        name: *const c_char,
        frames: u32,
        cache: u32,
        data_room: u16,
        socket: c_int,
        is_contiguous: c_int,
        error: *mut c_int,
    ) -> *mut Mempool;
    /// How many buffers are in the pool and its caches. The pool lives.
    pub fn shim_pool_available(pool: *const Mempool) -> u32;
    /// Frees a pool. All its buffers are back, and no port uses it.
    pub fn shim_pool_free(pool: *mut Mempool);
    /// Takes `count` buffers, at most 64, or none; how many, or a negative errno. The pool lives, and `frames` has
    /// room for `count`.
    pub fn shim_allocate(pool: *mut Mempool, frames: *mut Frame, count: u32) -> c_int;
    /// Gives buffers back to their pools. The caller owned them, and does not use them afterwards.
    pub fn shim_free(frames: *const Frame, count: u32);

    /// Adds a device, named in DPDK's device-argument syntax. Initialized.
    pub fn shim_probe(device_arguments: *const c_char) -> c_int;
    /// Removes the device of a port, and all its ports. No queue of them is started.
    pub fn shim_remove(port: u16) -> c_int;
    /// The first port after `port` that no other port owns (-1: the first of all), or a negative errno. Initialized.
    pub fn shim_port_after(port: c_int) -> c_int;
    /// The port of a device. Initialized.
    pub fn shim_port_named(device: *const c_char, port: *mut u16) -> c_int;
    /// What a port is. A port.
    pub fn shim_port_describe(port: u16, into: *mut Port) -> c_int;
    /// Makes two ports joined by rings of `slots` (a power of two) per queue. Initialized; the name is not in use and
    /// under 16 characters; `ports` has room for two.
    pub fn shim_ring_pair(name: *const c_char, queues: u16, slots: u32, ports: *mut u16) -> c_int;
    /// Configures a port that is not started.
    pub fn shim_configure(port: u16, asked: *const Configuration) -> c_int;
    /// Sets up one queue pair. A configured port that is not started; the pool outlives it.
    pub fn shim_queue_setup(
        port: u16,
        queue: u16,
        rx_slots: u16,
        tx_slots: u16,
        socket: c_int,
        pool: *mut Mempool,
    ) -> c_int;
    /// Starts a port whose queues are set up.
    pub fn shim_start(port: u16) -> c_int;
    /// Receives frames to any address. A port.
    pub fn shim_promiscuous(port: u16) -> c_int;
    /// Makes the table name all queues in turn. A started port; the length is the one [`shim_port_describe`] gave.
    pub fn shim_rss_spread(port: u16, table_len: u16, queues: u16) -> c_int;
    /// Reads key and table. A started port; the lengths are those [`shim_port_describe`] gave.
    pub fn shim_rss_read(port: u16, table_len: u16, key_len: u16, into: *mut Rss) -> c_int;
    /// How many frames the device dropped for want of a slot, and of a buffer. A port; no other thread asks at the same
    /// time.
    pub fn shim_losses(port: u16, missed: *mut u64, no_buffer: *mut u64) -> c_int;
    /// Stops a port. No thread is in a burst on it.
    pub fn shim_stop(port: u16);
    /// Closes a stopped port; its number may be given to another afterwards.
    pub fn shim_close(port: u16);

    /// The descriptor of a queue's receive interrupt, or a negative number. A started queue, interrupts asked for.
    pub fn shim_interrupt_fd(port: u16, queue: u16) -> c_int;
    /// Adds a queue's interrupt to an epoll descriptor, which lives as long as the port is started.
    pub fn shim_interrupt_watch(port: u16, queue: u16, epoll_fd: c_int) -> c_int;
    /// Asks for an interrupt at the next frame. A started queue.
    pub fn shim_interrupt_enable(port: u16, queue: u16) -> c_int;
    /// No interrupts any more. A started queue.
    pub fn shim_interrupt_disable(port: u16, queue: u16) -> c_int;
    /// Quiets the interrupt that made `epoll_fd` readable, if any; how many. The descriptor was given to
    /// [`shim_interrupt_watch`], and nothing else was added to it.
    pub fn shim_interrupt_drain(epoll_fd: c_int) -> c_int;

    /// Receives up to `max` frames, at most 64 a call, of one segment each; frames of several are freed and added to
    /// `chained`. How many. A started queue; `into` has room for `max`.
    pub fn shim_receive(port: u16, queue: u16, into: *mut Frame, max: u16, chained: *mut u64) -> u16;
    /// Hands over frames, first to last; how many were taken: those belong to the device from now on. A started queue;
    /// each `len` is at most its `capacity`. Frames that the device cannot send as they are count as taken: they are
    /// freed and added to `refused`.
    pub fn shim_transmit(port: u16, queue: u16, frames: *const Frame, count: u16, refused: *mut u64) -> u16;
}
