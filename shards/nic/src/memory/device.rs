//! What can be asked of a NIC that is memory.

use crate::error::OpenError;
use crate::{DeviceControl, DeviceDrops};

/// It can be opened again at any time, and counts no losses of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryDevice;

impl DeviceControl for MemoryDevice {
    fn drops(&mut self) -> DeviceDrops {
        DeviceDrops::default()
    }

    fn can_reopen(&self) -> bool {
        true
    }

    fn reopen(&mut self, _kernel_interface: u32) -> Result<(), OpenError> {
        Ok(())
    }
}
