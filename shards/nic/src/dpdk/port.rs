//! Ports: setting up the queues of a device, starting, and closing.

use super::descriptors::Snapshot;
use super::eal::{Eal, refused};
use super::gate::Gate;
use super::log;
use super::memif;
use super::packet_ring;
use super::pool::Pool;
use super::probe::{describe, text};
use super::queue::{DpdkQueue, Socket, WakeSource};
use super::rss;
use crate::backend::{DpdkDevice, Pmd};
use crate::error::OpenError;
use crate::plan::DevicePlan;
use crate::survey::Finding;
use crate::{Capabilities, DeviceControl, DeviceDrops, OpenDevice};
use rustix::event::epoll;
use rustix::fd::{AsRawFd, OwnedFd, RawFd};
use rustix::net::AddressFamily;
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// A port. Stopped and closed when its last queue is dropped, or when it cannot be opened.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) number: u16,
    is_started: AtomicBool,
    /// What keeps its queues from a port that is started again while they live; a port that never is has none.
    pub(super) gate: Option<Gate>,
    /// Whether the device completes checksums.
    pub(super) completes: bool,
    /// Epoll descriptors that DPDK put interrupts into. They outlive the port: DPDK takes them out again.
    interrupts: Vec<OwnedFd>,
    pools: Vec<Pool>,
    /// Keeps the library alive.
    _eal: Arc<Eal>,
}

impl Drop for Port {
    fn drop(&mut self) {
        if *self.is_started.get_mut() {
            // SAFETY: a started port, and its queues are gone: no thread is in a burst on it.
            unsafe { dpdk_sys::shim_stop(self.number) };
        }
        // SAFETY: not started, or stopped above, and nobody else knows the number.
        unsafe { dpdk_sys::shim_close(self.number) };
        self.interrupts.clear();
    }
}

/// Asks the ports of an interface, for as long as their queues live.
#[derive(Debug)]
pub(super) struct PortControl(Vec<Weak<Port>>);

impl PortControl {
    pub(super) fn new(ports: Vec<Weak<Port>>) -> Self {
        Self(ports)
    }

    fn open(&self) -> impl Iterator<Item = Arc<Port>> {
        self.0.iter().filter_map(Weak::upgrade)
    }
}

impl DeviceControl for PortControl {
    fn drops(&mut self) -> DeviceDrops {
        self.open().map(|port| port.losses()).fold(DeviceDrops::default(), |sum, port| DeviceDrops {
            missed: sum.missed + port.missed,
            no_frame: sum.no_frame + port.no_frame,
        })
    }

    fn link_is_up(&mut self) -> Option<bool> {
        let ports: Vec<_> = self.open().collect();
        let is_up = |port: &Arc<Port>| describe(port.number).is_ok_and(|found| found.link_up != 0);
        (!ports.is_empty()).then(|| ports.iter().all(is_up))
    }

    fn seek_peer(&mut self) {
        self.open().for_each(|port| port.connect_again());
    }
}

impl Port {
    pub(super) fn pool(&self, queue: u16) -> &Pool {
        &self.pools[usize::from(queue)]
    }

    /// The client of a memif whose server is gone: stops, and starts again until there is one; a part of it each time,
    /// and nobody is waited for.
    fn connect_again(&self) {
        let Some(gate) = &self.gate else { return };
        let queues = u16::try_from(self.pools.len()).expect("as many as queues");
        if !gate.shut(queues) {
            return;
        }
        if self.is_started.swap(false, Ordering::Relaxed) {
            // SAFETY: a started port, and all its queues are outside: no thread is in a burst on it.
            log::quietly(|| unsafe { dpdk_sys::shim_stop(self.number) });
        }
        // SAFETY: all queues are set up, and the port is not started.
        if log::quietly(|| unsafe { dpdk_sys::shim_start(self.number) }) == 0 {
            self.is_started.store(true, Ordering::Relaxed);
            gate.open();
        }
    }

    /// Frames the device dropped for want of a slot or a frame. For [`PortControl`], of which a port has one.
    fn losses(&self) -> DeviceDrops {
        let mut drops = DeviceDrops::default();
        let DeviceDrops { missed, no_frame } = &mut drops;
        // SAFETY: a port; both numbers are written during the call; its one `PortControl` is asked by `&mut`.
        unsafe { dpdk_sys::shim_losses(self.number, &raw mut *missed, &raw mut *no_frame) };
        drops
    }
}

/// Slots asked of each receive and each transmit ring; PMDs adjust it to what they can.
const RING_SLOTS: u16 = 512;
/// The MTU to be used: what was asked, if the device can. Only real devices have a limit of their own.
fn mtu(plan: &DevicePlan, device: &DpdkDevice, port: &dpdk_sys::Port, findings: &mut Vec<Finding>) -> u16 {
    if !device.is_on_a_bus() || plan.mtu_bytes <= port.max_mtu {
        return plan.mtu_bytes;
    }
    let limit_bytes = port.max_mtu;
    if let Some(asked_bytes) = plan.interface.mtu_bytes {
        findings.push(Finding::MtuLimited { device: plan.device(), limit_bytes, asked_bytes });
    }
    limit_bytes
}

/// How long a real device, which brings its link up anew when it is started, is waited for.
const LINK_WITHIN: Duration = Duration::from_secs(3);
const LINK_STEP: Duration = Duration::from_millis(10);

/// How long a memif client tries to connect, how long a try takes at most, and how often it looks.
const MEMIF_WITHIN: Duration = Duration::from_secs(5);
const MEMIF_AGAIN: Duration = Duration::from_millis(200);
const MEMIF_STEP: Duration = Duration::from_millis(1);

/// Whether the link is up.
fn link(plan: &DevicePlan, device: &DpdkDevice, number: u16, findings: &mut Vec<Finding>) -> Result<bool, OpenError> {
    let within = if device.is_on_a_bus() { LINK_WITHIN } else { Duration::ZERO };
    let is_up = comes_up(number, within, LINK_STEP)?;
    if !is_up && device.is_on_a_bus() {
        findings.push(Finding::LinkDown { device: plan.device() });
    }
    Ok(is_up)
}

/// Whether the link comes up within this time; looks at it once in a `step`.
fn comes_up(number: u16, within: Duration, step: Duration) -> Result<bool, OpenError> {
    let deadline = Instant::now() + within;
    loop {
        if describe(number)?.link_up != 0 {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        thread::sleep(step);
    }
}

impl Port {
    /// Sets up and starts a port that was just made, with so many queues; closes it on failure.
    pub(super) fn open(
        eal: &Arc<Eal>,
        plan: &DevicePlan,
        device: &DpdkDevice,
        number: u16,
        wanted: u16,
        before: &Snapshot,
    ) -> Result<(OpenDevice<DpdkQueue>, Weak<Port>), OpenError> {
        let mut port = Port {
            number,
            is_started: AtomicBool::new(false),
            gate: None,
            completes: false,
            interrupts: Vec::new(),
            pools: Vec::new(),
            _eal: Arc::clone(eal),
        };
        let found = describe(number)?;
        let max_queues = found.max_rx_queues.min(found.max_tx_queues);
        let queues = wanted.min(max_queues);
        if queues == 0 {
            return Err(OpenError::NoQueues { device: plan.device() });
        }
        let mut findings = Vec::new();
        if queues < wanted {
            findings.push(Finding::FewerQueues { device: plan.device(), queues, asked: wanted });
        }
        let mtu_bytes = mtu(plan, device, &found, &mut findings);
        let driven_by = text(&found.driver);
        let pmd = Pmd::named(&driven_by);
        for _ in 0..queues {
            port.pools.push(Pool::new(eal, plan, device, found.socket)?);
        }
        let has_interrupts = port.start(plan, device, &found, mtu_bytes)?;
        if memif::is_client(device) {
            port.connect_memif(plan, device, &mut findings)?;
            port.gate = Some(Gate::new(!*port.is_started.get_mut()));
        }
        let wakers = port.wakers(plan, device, pmd, has_interrupts, before)?;
        let capabilities = Capabilities {
            mac: plan.interface.mac,
            mtu_bytes,
            queues,
            max_queues,
            rss: if queues > 1 { rss::settle(number, device.is_on_a_bus(), &found, queues) } else { None },
            kernel_interface: (found.kernel_interface != 0).then_some(found.kernel_interface),
            link_up: link(plan, device, number, &mut findings)?,
            numa_node: u16::try_from(found.socket).ok(),
            driven_by,
        };
        let (port, mac) = (Arc::new(port), plan.interface.mac);
        let weak = Arc::downgrade(&port);
        let control = Box::new(PortControl(vec![weak.clone()]));
        let queues =
            (0..queues).zip(wakers).map(|(queue, waker)| DpdkQueue::new(Arc::clone(&port), queue, waker, pmd, mac));
        Ok((OpenDevice { capabilities, queues: queues.collect(), control, findings }, weak))
    }

    /// Configures and starts, with receive interrupts, a key of ours and checksums made by the device where it has
    /// them; whether it has interrupts.
    fn start(
        &mut self,
        plan: &DevicePlan,
        device: &DpdkDevice,
        found: &dpdk_sys::Port,
        mtu_bytes: u16,
    ) -> Result<bool, OpenError> {
        let is_real = device.is_on_a_bus();
        let (key, key_len) = if is_real { rss::random_key(found.hash_key_size) } else { ([0; 64], 0) };
        let plainest = dpdk_sys::Configuration {
            queues: u16::try_from(self.pools.len()).expect("as many as queues"),
            // Asked of af_packet, this would be the kernel's MTU.
            mtu: if is_real { mtu_bytes } else { 0 },
            key_len: 0,
            interrupts: 0,
            checksums: 0,
            key,
        };
        let may_interrupt = u8::from(is_real || Pmd::named(&text(&found.driver)) == Some(Pmd::Tap));
        // From the best to what every device can.
        let ways = [(may_interrupt, key_len), (may_interrupt, 0), (0, key_len), (0, 0)];
        let with = |checksums| ways.map(|(interrupts, key_len)| (interrupts, key_len, checksums));
        let mut attempts = if found.checksums_udp != 0 { [with(1), with(0)].concat() } else { with(0).to_vec() };
        attempts.dedup();
        loop {
            let (interrupts, key_len, checksums) = attempts.remove(0);
            let asked = dpdk_sys::Configuration { interrupts, key_len, checksums, ..plainest };
            match self.try_start(plan, device, found.socket, &asked) {
                Ok(is_started) => {
                    *self.is_started.get_mut() = is_started;
                    self.completes = checksums != 0;
                    self.receive_all(device);
                    return Ok(interrupts != 0);
                }
                Err(error) if attempts.is_empty() => return Err(error),
                Err(error) => tracing::debug!(
                    "not with interrupts {interrupts}, a key of {key_len} bytes and checksums {checksums}: {error}"
                ),
            }
        }
    }

    /// The frames to us carry the MAC of config.json, which a device the file names may not know. Devices without a
    /// filter refuse this, and need not do it.
    fn receive_all(&self, device: &DpdkDevice) {
        if matches!(device, DpdkDevice::Arguments(_)) {
            // SAFETY: a port.
            unsafe { dpdk_sys::shim_promiscuous(self.number) };
        }
    }

    fn try_start(
        &self,
        plan: &DevicePlan,
        device: &DpdkDevice,
        node: c_int,
        asked: &dpdk_sys::Configuration,
    ) -> Result<bool, OpenError> {
        let check = |step, result| if result == 0 { Ok(()) } else { Err(refused(step, &plan.device(), result)) };
        let number = self.number;
        log::forget();
        // SAFETY: a port that is not started.
        check("configure", unsafe { dpdk_sys::shim_configure(number, asked) })?;
        for (queue, pool) in (0..asked.queues).zip(&self.pools) {
            let pool = pool.as_ptr();
            // SAFETY: configured above, not started; a port is closed before its pools are dropped.
            let result = unsafe { dpdk_sys::shim_queue_setup(number, queue, RING_SLOTS, RING_SLOTS, node, pool) };
            check("set up a queue of", result)?;
        }
        self.launch(plan, device)
    }

    /// Starts the port, which is set up; whether it has begun. A memif client cannot before its server listens, waits a
    /// while for that, and begins later if need be.
    fn launch(&self, plan: &DevicePlan, device: &DpdkDevice) -> Result<bool, OpenError> {
        // SAFETY: all queues are set up, and the port is not started.
        let start = || unsafe { dpdk_sys::shim_start(self.number) };
        if !memif::is_client(device) {
            return match start() {
                0 => Ok(true),
                result => Err(refused("start", &plan.device(), result)),
            };
        }
        let deadline = Instant::now() + MEMIF_WITHIN;
        loop {
            match log::quietly(start) {
                0 => return Ok(true),
                _ if Instant::now() >= deadline => return Ok(false),
                _ => thread::sleep(MEMIF_AGAIN),
            }
        }
    }

    /// The client of a memif connects when it is started and does not try again, and a server refuses it that is not
    /// started yet, although it listens: starts again until they are connected.
    fn connect_memif(
        &mut self,
        plan: &DevicePlan,
        device: &DpdkDevice,
        findings: &mut Vec<Finding>,
    ) -> Result<(), OpenError> {
        let deadline = Instant::now() + MEMIF_WITHIN;
        while !comes_up(self.number, MEMIF_AGAIN, MEMIF_STEP)? {
            if !*self.is_started.get_mut() || Instant::now() >= deadline {
                findings.push(Finding::ServerSilent { device: plan.device() });
                return Ok(());
            }
            log::forget();
            // SAFETY: a started port; none of its queues is given out yet.
            unsafe { dpdk_sys::shim_stop(self.number) };
            *self.is_started.get_mut() = self.launch(plan, device)?;
        }
        Ok(())
    }

    /// How each queue wakes a sleeper.
    fn wakers(
        &mut self,
        plan: &DevicePlan,
        device: &DpdkDevice,
        pmd: Option<Pmd>,
        has_interrupts: bool,
        before: &Snapshot,
    ) -> Result<Vec<WakeSource>, OpenError> {
        let queues = u16::try_from(self.pools.len()).expect("as many as queues");
        match pmd {
            Some(Pmd::AfPacket) => {
                let slots = packet_slots(device);
                self.sockets(plan, AddressFamily::PACKET, before, |fd| Socket::packet(fd, slots))
            }
            Some(Pmd::AfXdp) => self.sockets(plan, AddressFamily::XDP, before, Socket::xdp),
            Some(Pmd::Tap) if has_interrupts => Ok((0..queues).map(|queue| tap_waker(self.number, queue)).collect()),
            _ if has_interrupts => Ok((0..queues).map(|queue| self.interrupt_waker(queue)).collect()),
            _ => Ok((0..queues).map(|_| WakeSource::None).collect()),
        }
    }

    /// The sockets the PMD opened: one for each queue, in order.
    fn sockets(
        &self,
        plan: &DevicePlan,
        family: AddressFamily,
        before: &Snapshot,
        socket: impl Fn(RawFd) -> Socket,
    ) -> Result<Vec<WakeSource>, OpenError> {
        let found = before.new_sockets(family);
        if found.len() != self.pools.len() {
            return Err(OpenError::NoSocket { device: plan.device() });
        }
        Ok(found.into_iter().map(|fd| WakeSource::Socket(socket(fd))).collect())
    }

    /// The interrupt of a real device, in an epoll descriptor of its own: DPDK then quiets it as its kind wants.
    fn interrupt_waker(&mut self, queue: u16) -> WakeSource {
        let Ok(epoll) = epoll::create(epoll::CreateFlags::CLOEXEC) else { return WakeSource::None };
        let fd = epoll.as_raw_fd();
        // SAFETY: a started queue, interrupts were asked for; the port keeps the descriptor beyond its own life.
        if unsafe { dpdk_sys::shim_interrupt_watch(self.number, queue, fd) } != 0 {
            return WakeSource::None;
        }
        self.interrupts.push(epoll);
        // SAFETY: a started queue. What a device says it can do is believed only when it does it.
        if unsafe { dpdk_sys::shim_interrupt_enable(self.number, queue) } != 0 {
            return WakeSource::None;
        }
        // SAFETY: a started queue.
        unsafe { dpdk_sys::shim_interrupt_disable(self.number, queue) };
        WakeSource::Interrupt(fd)
    }
}

/// Slots of a packet socket's transmit ring: ours, unless the file says otherwise.
fn packet_slots(device: &DpdkDevice) -> u16 {
    device.argument("framecnt").and_then(|slots| slots.parse().ok()).unwrap_or(packet_ring::SLOTS)
}

/// A tap device is read by its PMD, and readable when frames wait; the PMD tells the descriptor.
fn tap_waker(number: u16, queue: u16) -> WakeSource {
    // SAFETY: a started queue, interrupts were asked for.
    match unsafe { dpdk_sys::shim_interrupt_fd(number, queue) } {
        fd if fd >= 0 => WakeSource::Readable(fd),
        _ => WakeSource::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_rings_have_the_slots_the_file_says() {
        let slots = |arguments: &str| packet_slots(&DpdkDevice::Arguments(arguments.to_owned()));
        assert_eq!(slots("net_af_packet0,iface=eth0,framecnt=128"), 128);
        assert_eq!(slots("net_af_packet0,iface=eth0"), packet_ring::SLOTS);
    }
}
