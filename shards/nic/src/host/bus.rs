//! Devices on the buses of this host, as sysfs shows them: PCI, and Hyper-V's VMBUS.

use std::fs;
use std::path::{Path, PathBuf};

use machnet_core::addr::MacAddr;

/// Kernel drivers that hand a PCI device to user space.
const USER_SPACE_DRIVERS: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];
/// Kernel drivers that share a PCI device with user space.
const BIFURCATED_DRIVERS: [&str; 2] = ["mlx5_core", "mlx4_core"];
/// The class of a network device on the VMBUS.
const VMBUS_NETWORK: &str = "{f8615163-df3e-46c5-913f-f2d2f965ed0e}";

/// The devices below one sysfs.
#[derive(Debug)]
pub(crate) struct Buses {
    sysfs: PathBuf,
}

/// A PCI device that was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PciDevice {
    /// Nothing has this address.
    Missing,
    /// DPDK can use it.
    ForDpdk,
    /// Its kernel driver keeps it, or it has none.
    Kept {
        /// The kernel driver.
        driver: Option<String>,
    },
}

impl Buses {
    /// What this sysfs shows.
    pub(crate) fn at(sysfs: impl Into<PathBuf>) -> Self {
        Self { sysfs: sysfs.into() }
    }

    /// The PCI device with this address, in sysfs's spelling.
    pub(crate) fn pci_device(&self, address: &str) -> PciDevice {
        let device = self.sysfs.join("bus/pci/devices").join(address);
        if address.contains('/') || !device.exists() {
            return PciDevice::Missing;
        }
        match driver_of(&device) {
            Some(driver) if is_for_dpdk(&driver) => PciDevice::ForDpdk,
            driver => PciDevice::Kept { driver },
        }
    }

    /// The addresses of PCI network devices that user space has.
    pub(crate) fn pci_candidates(&self) -> Vec<String> {
        let mut candidates = Vec::new();
        for device in entries(&self.sysfs.join("bus/pci/devices")) {
            let class = fs::read_to_string(device.join("class")).unwrap_or_default();
            let is_network = class.trim().starts_with("0x02");
            if is_network && driver_of(&device).is_some_and(|driver| USER_SPACE_DRIVERS.contains(&driver.as_str())) {
                candidates.push(file_name(&device));
            }
        }
        candidates.sort();
        candidates
    }

    /// Whether user space has a network device on the VMBUS.
    pub(crate) fn has_vmbus_candidate(&self) -> bool {
        entries(&self.sysfs.join("bus/vmbus/devices")).iter().any(|device| {
            let class = fs::read_to_string(device.join("class_id")).unwrap_or_default();
            class.trim() == VMBUS_NETWORK && driver_of(device).is_some_and(|driver| driver == "uio_hv_generic")
        })
    }

    /// The PCI address behind a kernel interface whose kernel driver shares its device. The MAC is compared, for sysfs
    /// may show the interfaces of another namespace.
    pub(crate) fn bifurcated(&self, interface: &str, mac: MacAddr) -> Option<String> {
        let directory = self.sysfs.join("class/net").join(interface);
        let shown: MacAddr = fs::read_to_string(directory.join("address")).ok()?.trim().parse().ok()?;
        let device = fs::canonicalize(directory.join("device")).ok()?;
        let driver = driver_of(&device)?;
        (shown == mac && BIFURCATED_DRIVERS.contains(&driver.as_str())).then(|| file_name(&device))
    }
}

fn is_for_dpdk(driver: &str) -> bool {
    USER_SPACE_DRIVERS.contains(&driver) || BIFURCATED_DRIVERS.contains(&driver)
}

fn driver_of(device: &Path) -> Option<String> {
    fs::read_link(device.join("driver")).ok().map(|link| file_name(&link))
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::symlink;

    use machnet_test_kit::Scratch;

    use super::*;

    /// A sysfs with PCI devices, each with its address and kernel driver; removed when dropped.
    pub(crate) struct Sysfs(Scratch);

    impl Sysfs {
        pub(crate) fn new(devices: &[(&str, Option<&str>)]) -> Self {
            let root = Scratch::new().expect("a temporary directory");
            for (address, driver) in devices {
                let device = root.file("bus/pci/devices").join(address);
                fs::create_dir_all(&device).expect("a temporary directory");
                fs::write(device.join("class"), "0x020000\n").expect("a temporary file");
                if let Some(driver) = driver {
                    symlink(Path::new("../../drivers").join(driver), device.join("driver")).expect("a link");
                }
            }
            Self(root)
        }

        pub(crate) fn buses(&self) -> Buses {
            Buses::at(self.0.path())
        }
    }

    #[test]
    fn a_device_belongs_to_whom_its_driver_says() {
        let devices = [
            ("0000:01:00.0", Some("vfio-pci")),
            ("0000:02:00.0", Some("ixgbe")),
            ("0000:03:00.0", None),
            ("0000:04:00.0", Some("mlx5_core")),
        ];
        let sysfs = Sysfs::new(&devices);
        let buses = sysfs.buses();
        assert_eq!(buses.pci_device("0000:01:00.0"), PciDevice::ForDpdk);
        assert_eq!(buses.pci_device("0000:02:00.0"), PciDevice::Kept { driver: Some("ixgbe".to_owned()) });
        assert_eq!(buses.pci_device("0000:03:00.0"), PciDevice::Kept { driver: None });
        assert_eq!(buses.pci_device("0000:04:00.0"), PciDevice::ForDpdk);
        assert_eq!(buses.pci_device("0000:09:00.0"), PciDevice::Missing);
        assert_eq!(buses.pci_device("../devices/0000:01:00.0"), PciDevice::Missing);
        // The kernel shares the last one and may have an interface of it: it is found by that.
        assert_eq!(buses.pci_candidates(), ["0000:01:00.0"]);
        assert!(!buses.has_vmbus_candidate());
    }

    #[test]
    fn a_vmbus_device_of_user_space_is_a_candidate() {
        let sysfs = Sysfs::new(&[]);
        let device = sysfs.0.file("bus/vmbus/devices/one");
        fs::create_dir_all(&device).expect("a temporary directory");
        fs::write(device.join("class_id"), format!("{VMBUS_NETWORK}\n")).expect("a temporary file");
        assert!(!sysfs.buses().has_vmbus_candidate(), "the kernel's driver has it, or none");
        symlink("../../drivers/uio_hv_generic", device.join("driver")).expect("a link");
        assert!(sysfs.buses().has_vmbus_candidate());
    }

    #[test]
    fn a_shared_device_is_found_by_its_interface() {
        let sysfs = Sysfs::new(&[("0000:04:00.0", Some("mlx5_core"))]);
        let interface = sysfs.0.file("class/net/eth0");
        fs::create_dir_all(&interface).expect("a temporary directory");
        fs::write(interface.join("address"), "02:00:00:00:00:01\n").expect("a temporary file");
        symlink("../../../bus/pci/devices/0000:04:00.0", interface.join("device")).expect("a link");
        let found = |last| sysfs.buses().bifurcated("eth0", MacAddr([2, 0, 0, 0, 0, last]));
        assert_eq!(found(1), Some("0000:04:00.0".to_owned()));
        assert_eq!(found(2), None, "an eth0 of another namespace");
    }
}
