//! What becomes of the kernel interfaces of devices that are open: removed, made again, down, renamed, of another MTU.
//!
//! The kernel tells of every change to an interface (RTNLGRP_LINK of rtnetlink(7)). Whoever has [`Links`] waits for
//! their descriptor among others, and takes a [look](Links::look) when it is readable: nobody polls, and no queue takes
//! part. A change to an interface that nobody watches costs a read of its message.
//!
//! An interface is known by its number, which stays when it is renamed. When it is gone, one that has its MAC is it,
//! made again; unless that was not the device's MAC either, as that of a tap device need not be.

use std::io;

use machnet_core::addr::MacAddr;
use machnet_core::link::LinkState;
use rustix::fd::BorrowedFd;

use crate::error::OpenError;
use crate::host::{HostView, KernelInterface, LinkEvents};

/// Messages of the kernel that are read in one look; the others keep the descriptor readable.
const MESSAGES_PER_LOOK: usize = 64;

/// Watches the kernel interfaces of some devices.
#[derive(Debug)]
pub struct Links {
    events: LinkEvents,
    watched: Vec<Watched>,
    /// The next look is at everything, whatever the kernel says.
    is_due: bool,
}

/// A device whose kernel interface is watched.
#[derive(Debug)]
struct Watched {
    device: usize,
    mac: MacAddr,
    /// The number of its interface; `None` while that is gone.
    index: Option<u32>,
    /// As it was at the last look; `None` before the first.
    link: Option<Link>,
    /// Whether the interface has the device's MAC, or has had it.
    has_mac: bool,
}

/// The kernel interface of a device, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whether it carries frames.
    pub state: LinkState,
    /// It is down because somebody has set it down, and not because nobody is at the other end.
    pub is_set_down: bool,
    /// Its name; the last one, when it is gone.
    pub name: String,
    /// The longest IP packet that it takes.
    pub mtu_bytes: u32,
}

/// The kernel interface of a device is not as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkChange {
    /// The number that the device was given when the watch began.
    pub device: usize,
    /// As it is now.
    pub link: Link,
    /// It is another one with the same MAC, and has this number: the device is to be opened again.
    pub made_again: Option<u32>,
}

impl Links {
    /// Watches the interfaces with these numbers. The first [look](Links::look) tells how all of them are.
    ///
    /// # Errors
    /// When there is no descriptor for it.
    pub fn watch(devices: impl IntoIterator<Item = WatchedDevice>) -> io::Result<Self> {
        let watched = devices.into_iter().map(|it| Watched {
            device: it.device,
            mac: it.mac,
            index: Some(it.kernel_interface),
            link: None,
            has_mac: false,
        });
        Ok(Self { events: LinkEvents::subscribe()?, watched: watched.collect(), is_due: true })
    }

    /// Readable when there is something to look at.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.events.fd()
    }

    /// What has changed since the last look.
    ///
    /// # Errors
    /// When the kernel does not say what it has; the next look is at everything then.
    pub fn look(&mut self) -> Result<Vec<LinkChange>, OpenError> {
        for _ in 0..MESSAGES_PER_LOOK {
            let Some(indices) = self.events.next() else { break };
            let is_missed = self.watched.iter().any(|watched| watched.index.is_none());
            let concerns = |index| self.watched.iter().any(|watched| watched.index == Some(index));
            // Without a list, the kernel had more to say than there was room for.
            self.is_due |= indices.is_none_or(|indices| is_missed || indices.into_iter().any(concerns));
        }
        if !std::mem::take(&mut self.is_due) {
            return Ok(Vec::new());
        }
        match HostView::look() {
            Ok(host) => Ok(self.compare(&host)),
            Err(error) => {
                self.is_due = true;
                Err(error)
            }
        }
    }

    /// What is not as it was at the last look.
    fn compare(&mut self, host: &HostView) -> Vec<LinkChange> {
        self.watched.iter_mut().filter_map(|watched| watched.compare(host)).collect()
    }
}

/// A device whose kernel interface is to be watched.
#[derive(Clone, Copy, Debug)]
pub struct WatchedDevice {
    /// Any number that names the device.
    pub device: usize,
    /// By this its interface is known when it has been made again.
    pub mac: MacAddr,
    /// The number of its interface.
    pub kernel_interface: u32,
}

impl Watched {
    fn compare(&mut self, host: &HostView) -> Option<LinkChange> {
        let same = self.index.and_then(|index| host.numbered(index));
        self.has_mac |= same.is_some_and(|interface| interface.mac == self.mac);
        let found = same.or_else(|| host.with_mac(self.mac).filter(|_| self.has_mac || self.link.is_none()));
        let made_again = found.filter(|_| same.is_none()).map(|interface| interface.index);
        self.index = found.map(|interface| interface.index);
        let link = match (found, &self.link) {
            (Some(interface), _) => Link::of(interface),
            (None, Some(last)) => Link { state: LinkState::Gone, is_set_down: false, ..last.clone() },
            (None, None) => {
                Link { state: LinkState::Gone, is_set_down: false, name: self.mac.to_string(), mtu_bytes: 0 }
            }
        };
        let is_new = self.link.as_ref() != Some(&link) || made_again.is_some();
        self.link = Some(link.clone());
        is_new.then_some(LinkChange { device: self.device, link, made_again })
    }
}

impl Link {
    fn of(interface: &KernelInterface) -> Self {
        let state = if interface.is_up && interface.has_carrier { LinkState::Up } else { LinkState::Down };
        Self { state, is_set_down: !interface.is_up, name: interface.name.clone(), mtu_bytes: interface.mtu_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::{host, interface};

    fn links() -> Links {
        let device = |device, index, last| WatchedDevice {
            device,
            mac: MacAddr([2, 0, 0, 0, 0, last]),
            kernel_interface: index,
        };
        Links::watch([device(7, 2, 1), device(8, 3, 2)]).expect("a descriptor")
    }

    /// What changes, in words.
    fn changes(links: &mut Links, interfaces: Vec<KernelInterface>) -> Vec<String> {
        let describe = |change: LinkChange| {
            let LinkChange { device, link: Link { state, is_set_down, name, mtu_bytes }, made_again } = change;
            let set_down = if is_set_down { " by somebody" } else { "" };
            let made_again = made_again.map(|index| format!(", made again as {index}")).unwrap_or_default();
            format!("{device}: {name} {}{set_down}, {mtu_bytes}{made_again}", state.as_str())
        };
        links.compare(&host(interfaces)).into_iter().map(describe).collect()
    }

    #[test]
    fn each_change_is_told_once() {
        let (mut links, other) = (links(), interface(3, "eth1", 2));
        let mut now =
            |eth0: Option<KernelInterface>| changes(&mut links, eth0.into_iter().chain([other.clone()]).collect());
        let eth0 = interface(2, "eth0", 1);
        assert_eq!(now(Some(eth0.clone())), ["7: eth0 up, 1500", "8: eth1 up, 1500"]);
        assert_eq!(now(Some(eth0.clone())), [""; 0]);
        let set_down = KernelInterface { is_up: false, has_carrier: false, ..eth0.clone() };
        assert_eq!(now(Some(set_down)), ["7: eth0 down by somebody, 1500"]);
        assert_eq!(now(Some(KernelInterface { has_carrier: false, ..eth0.clone() })), ["7: eth0 down, 1500"]);
        let changed = KernelInterface { name: "lan".into(), mtu_bytes: 1400, ..eth0 };
        assert_eq!(now(Some(changed.clone())), ["7: lan up, 1400"]);
        assert_eq!(now(None), ["7: lan gone, 1400"]);
        assert_eq!(now(None), [""; 0]);
        let again = KernelInterface { index: 9, is_up: false, ..changed };
        assert_eq!(now(Some(again.clone())), ["7: lan down by somebody, 1400, made again as 9"]);
        assert_eq!(now(Some(KernelInterface { is_up: true, ..again })), ["7: lan up, 1400"]);
    }

    #[test]
    fn an_interface_that_is_replaced_between_two_looks_is_made_again() {
        let mut links = links();
        changes(&mut links, vec![interface(2, "eth0", 1), interface(3, "eth1", 2)]);
        let told = changes(&mut links, vec![interface(4, "eth0", 1), interface(3, "eth1", 2)]);
        assert_eq!(told, ["7: eth0 up, 1500, made again as 4"]);
    }

    #[test]
    fn an_interface_that_was_gone_before_the_first_look_is_known_by_its_mac() {
        let told = changes(&mut links(), vec![interface(3, "eth1", 2)]);
        assert_eq!(told, ["7: 02:00:00:00:00:01 gone, 0", "8: eth1 up, 1500"]);
    }

    #[test]
    fn what_has_the_devices_mac_by_chance_is_not_its_interface() {
        let mut links = links();
        let tap = KernelInterface { index: 2, ..interface(2, "tap0", 9) };
        let both = |tap: Option<KernelInterface>| [Some(interface(3, "eth1", 1)), tap].into_iter().flatten().collect();
        assert_eq!(changes(&mut links, both(Some(tap)))[0], "7: tap0 up, 1500");
        assert_eq!(changes(&mut links, both(None)), ["7: tap0 gone, 1500"]);
    }

    #[test]
    fn the_kernel_is_asked_and_listened_to() {
        let mut links = links();
        let told = links.look().expect("anybody may ask");
        assert_eq!(told.iter().map(|change| change.device).collect::<Vec<_>>(), [7, 8]);
        assert_eq!(links.look().expect("anybody may ask"), []);
    }
}
