//! The library as its users have it.

use super::descriptors::Snapshot;
use super::eal::{Eal, Memory};
use super::port::{Port, PortControl};
use super::queue::DpdkQueue;
use super::{eal, memif, probe};
use crate::OpenDevice;
use crate::backend::{DpdkDevice, Pmd};
use crate::error::OpenError;
use crate::plan::DevicePlan;
use std::sync::Arc;

/// DPDK, started. Clones are the same; it ends when they and all queues are dropped.
#[derive(Clone, Debug)]
pub struct Dpdk(Arc<Eal>);

impl Dpdk {
    /// Starts DPDK with memory enough for those of these interfaces that it drives; devices are added by
    /// [`open`](Self::open). The calling thread keeps its affinity, no worker threads are made. Takes some 200 ms, most
    /// of it to load its PMDs.
    ///
    /// # Errors
    ///
    /// When it was started before in this process, also unsuccessfully, or refuses to start.
    pub fn start(plans: &[DevicePlan]) -> Result<Self, OpenError> {
        Eal::start(plans).map(|eal| Self(Arc::new(eal)))
    }

    /// Where the frames live.
    pub fn memory(&self) -> Memory {
        self.0.memory()
    }

    /// The version of the library, as `DPDK 22.11.0`.
    pub fn version() -> String {
        eal::version()
    }

    /// Opens an interface whose backend is DPDK: probes its device, sets up a queue for each shard, and starts it.
    ///
    /// # Errors
    ///
    /// One sentence that says what to do. Nothing stays open.
    pub fn open(&self, plan: &DevicePlan) -> Result<OpenDevice<DpdkQueue>, OpenError> {
        let Some(device) = plan.backend.dpdk_device() else {
            return Err(OpenError::BadDevice { device: plan.device() });
        };
        let (number, before) = match device {
            DpdkDevice::AfXdp { interface } => return self.open_xdp(plan, device, interface),
            DpdkDevice::Arguments(arguments) => {
                memif::remove_stale_socket(device);
                let before = Snapshot::take();
                (probe::probe(&self.0, arguments)?, before)
            }
            DpdkDevice::Pci { address } | DpdkDevice::Bifurcated { address, .. } => {
                (probe::pci_port(&self.0, plan, address)?, Snapshot::take())
            }
            DpdkDevice::Search { candidates } => (probe::search(&self.0, plan, candidates)?, Snapshot::take()),
        };
        Port::open(&self.0, plan, device, number, plan.queues, &before).map(|(opened, _)| opened)
    }

    /// Two interfaces joined in memory by DPDK's `net_ring`: what one's queue k transmits, the other's queue k
    /// receives. To measure and test all of the way but a device.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open); at most 16 queues.
    pub fn open_ring_pair(&self, plans: [&DevicePlan; 2]) -> Result<[OpenDevice<DpdkQueue>; 2], OpenError> {
        let queues = plans[0].queues;
        let ports = probe::make_ring_pair(&self.0, queues)?;
        let before = Snapshot::take();
        let ring = DpdkDevice::Arguments("net_ring".to_owned());
        let [near, far] = [0, 1].map(|end| Port::open(&self.0, plans[end], &ring, ports[end], queues, &before));
        Ok([near?.0, far?.0])
    }

    /// One port for each queue: the PMD takes several queues only from some devices.
    fn open_xdp(
        &self,
        plan: &DevicePlan,
        device: &DpdkDevice,
        interface: &str,
    ) -> Result<OpenDevice<DpdkQueue>, OpenError> {
        let mut all: Option<OpenDevice<DpdkQueue>> = None;
        let mut ports = Vec::new();
        for queue in 0..plan.queues {
            let before = Snapshot::take();
            let number = probe::probe(
                &self.0,
                &format!(
                    "{},iface={interface},start_queue={queue},queue_count=1",
                    probe::device_name(Pmd::AfXdp.name())
                ),
            )?;
            let (opened, port) = Port::open(&self.0, plan, device, number, 1, &before)?;
            ports.push(port);
            match &mut all {
                None => all = Some(opened),
                Some(all) => all.queues.extend(opened.queues),
            }
        }
        let mut all = all.ok_or_else(|| OpenError::NoQueues { device: plan.device() })?;
        all.capabilities.queues = plan.queues;
        all.capabilities.max_queues = plan.queues;
        all.control = Box::new(PortControl::new(ports));
        Ok(all)
    }
}
