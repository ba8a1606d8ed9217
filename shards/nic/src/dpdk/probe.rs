//! Devices of the library: adding them, making them, and finding their ports.

use super::eal::{Eal, refused};
use super::log;
use crate::backend::Pmd;
use crate::error::OpenError;
use crate::plan::DevicePlan;
use machnet_core::addr::MacAddr;
use std::ffi::{CStr, CString, c_char, c_int};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering};

/// Slots of a ring between two ports.
const RING_SLOTS: u16 = 512;

/// Makes the names of software devices differ within this process.
static NEXT_DEVICE: AtomicU32 = AtomicU32::new(0);

/// A name that no other device of this process has.
pub(super) fn device_name(kind: &str) -> String {
    format!("{kind}{}", NEXT_DEVICE.fetch_add(1, Ordering::Relaxed))
}

/// The port of a PCI device, which is probed if it is not there yet, that has the MAC which is wanted.
pub(super) fn pci_port(eal: &Eal, plan: &DevicePlan, address: &str) -> Result<u16, OpenError> {
    let wanted = plan.interface.mac;
    let number = match port_with(eal, wanted) {
        Some(number) => number,
        None => {
            let number = probe(eal, address)?;
            // One device may have several ports.
            port_with(eal, wanted).unwrap_or(number)
        }
    };
    let found = MacAddr(describe(number)?.mac);
    if found != wanted {
        return Err(OpenError::WrongMac { device: address.to_owned(), found, wanted });
    }
    Ok(number)
}

/// The port with the MAC, probing the candidates until it is there. Those with another MAC are let go.
pub(super) fn search(eal: &Eal, plan: &DevicePlan, candidates: &[String]) -> Result<u16, OpenError> {
    let wanted = plan.interface.mac;
    if let Some(number) = port_with(eal, wanted) {
        return Ok(number);
    }
    let mut seen = Vec::new();
    for address in candidates {
        match probe(eal, address) {
            Ok(_) if port_with(eal, wanted).is_some() => break,
            Ok(number) => {
                seen.push(format!("{address} ({})", MacAddr(describe(number)?.mac)));
                // SAFETY: a port that was just probed; none of its queues is started.
                unsafe { dpdk_sys::shim_remove(number) };
            }
            Err(error) => seen.push(format!("{address} ({error})")),
        }
    }
    let known = if seen.is_empty() { "no device that DPDK can use".to_owned() } else { seen.join(", ") };
    port_with(eal, wanted).ok_or(OpenError::NoSuchMac { mac: wanted, known })
}

/// The port with this MAC. Azure's netvsc before all others: its virtual function has the same address.
fn port_with(_: &Eal, mac: MacAddr) -> Option<u16> {
    let mut found = None;
    let mut last = -1;
    loop {
        // SAFETY: initialized.
        let Ok(number) = u16::try_from(unsafe { dpdk_sys::shim_port_after(last) }) else { return found };
        last = c_int::from(number);
        if let Ok(port) = describe(number)
            && MacAddr(port.mac) == mac
            && (found.is_none() || Pmd::named(&text(&port.driver)) == Some(Pmd::Netvsc))
        {
            found = Some(number);
        }
    }
}

/// Adds a device; its port.
pub(super) fn probe(_: &Eal, arguments: &str) -> Result<u16, OpenError> {
    let bad = || OpenError::BadDevice { device: arguments.to_owned() };
    let name = arguments.split(',').next().filter(|name| !name.is_empty()).ok_or_else(bad)?;
    let name = CString::new(name).map_err(|_| bad())?;
    let c_arguments = CString::new(arguments).map_err(|_| bad())?;
    tracing::debug!("probing {arguments}");
    log::forget();
    // SAFETY: initialized; the string outlives the call.
    let result = unsafe { dpdk_sys::shim_probe(c_arguments.as_ptr()) };
    if result != 0 {
        return Err(refused("open", arguments, result));
    }
    let mut number = 0;
    // SAFETY: initialized; the string outlives the call; `number` is written during it.
    let result = unsafe { dpdk_sys::shim_port_named(name.as_ptr(), &raw mut number) };
    if result != 0 { Err(refused("find the port of", arguments, result)) } else { Ok(number) }
}

/// Makes two ports that are joined in memory, with so many queues.
pub(super) fn make_ring_pair(_: &Eal, queues: u16) -> Result<[u16; 2], OpenError> {
    let name = CString::new(device_name("pair")).expect("no NUL in it");
    let mut ports = [0; 2];
    log::forget();
    // SAFETY: initialized; the name is new and short; `ports` has room for two.
    let result = unsafe { dpdk_sys::shim_ring_pair(name.as_ptr(), queues, RING_SLOTS.into(), ports.as_mut_ptr()) };
    if result != 0 { Err(refused("make", "a pair of ring devices", result)) } else { Ok(ports) }
}

/// What the library knows of a port.
pub(super) fn describe(number: u16) -> Result<dpdk_sys::Port, OpenError> {
    let mut port = MaybeUninit::zeroed();
    // SAFETY: initialized, as ports have numbers only then; the shim refuses a number without a port.
    let result = unsafe { dpdk_sys::shim_port_describe(number, port.as_mut_ptr()) };
    if result != 0 {
        return Err(refused("describe", &format!("port {number}"), result));
    }
    // SAFETY: filled by the call, and all zeroes are a valid value.
    Ok(unsafe { port.assume_init() })
}

/// A C string in a field.
pub(super) fn text(field: &[c_char]) -> String {
    let bytes: Vec<u8> = field.iter().map(|byte| byte.cast_unsigned()).collect();
    CStr::from_bytes_until_nul(&bytes).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
}
