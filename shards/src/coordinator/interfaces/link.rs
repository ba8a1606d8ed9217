//! Whether an interface carries frames, and what its kernel interface is like.

use machnet::daemon::control::message::ControlError;
use machnet_core::link::LinkState;
use machnet_core::time::Instant;
use machnet_nic::error::OpenError;
use machnet_nic::links::Link;

use crate::coordinator::input::DeviceLost;
use crate::coordinator::plan::InterfacePlan;
use crate::repeats::Repeats;

/// What is known of the link of an interface.
#[derive(Debug, Default)]
pub(crate) struct InterfaceLink {
    /// Its kernel interface, if it is at one and the kernel has said something of it.
    kernel: Option<Link>,
    /// Lines of the log about it.
    said: Repeats<Event>,
}

/// What the log says of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    State(LinkState),
    MadeAgain,
    Renamed,
    Mtu,
}

/// What follows from a change.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turnout {
    /// Nothing for anybody.
    Nothing,
    /// Frames pass again.
    Back,
    /// The device was opened again: its queues are to be renewed.
    Renewed,
    /// The device cannot be used any more.
    Lost(DeviceLost),
}

impl InterfaceLink {
    /// Whether frames pass, as far as is known.
    pub(crate) fn state(&self) -> LinkState {
        self.kernel.as_ref().map_or(LinkState::Up, |link| link.state)
    }

    /// The kernel interface, unless it is gone.
    pub(crate) fn kernel(&self) -> Option<&Link> {
        self.kernel.as_ref().filter(|link| link.state != LinkState::Gone)
    }

    /// Why nothing passes, if nothing does.
    pub(crate) fn check(&self) -> Result<(), ControlError> {
        match &self.kernel {
            Some(Link { state: LinkState::Down, name, .. }) => Err(ControlError::InterfaceDown(name.clone())),
            Some(Link { state: LinkState::Gone, name, .. }) => Err(ControlError::InterfaceGone(name.clone())),
            Some(Link { state: LinkState::Up, .. }) | None => Ok(()),
        }
    }

    /// The kernel interface is not as it was; if it is another one, it has the number `made_again`, and the device is
    /// opened there.
    pub(super) fn change(
        &mut self,
        link: Link,
        made_again: Option<u32>,
        interface: &mut InterfacePlan,
        now: Instant,
    ) -> Turnout {
        let before = self.state();
        let name = link.name.clone();
        self.say(&link, interface.mtu_bytes, now);
        let is_back = before != LinkState::Up && link.state == LinkState::Up;
        let is_gone = link.state == LinkState::Gone;
        self.kernel = Some(link);
        let control = interface.control.as_deref_mut();
        if is_gone && !control.as_ref().is_some_and(|device| device.can_reopen()) {
            return Turnout::Lost(DeviceLost { interface: name, why: OpenError::NotReopened.to_string() });
        }
        let Some(number) = made_again else {
            return if is_back { Turnout::Back } else { Turnout::Nothing };
        };
        match control.map_or(Err(OpenError::NotReopened), |device| device.reopen(number)) {
            Ok(()) => {
                if let Some(left_out) = self.said.allows(Event::MadeAgain, now) {
                    tracing::info!(interface = name, left_out, "the interface is there again; the device was reopened");
                }
                Turnout::Renewed
            }
            // What has become of it meanwhile is told next.
            Err(OpenError::GoneAgain) => Turnout::Nothing,
            Err(error) => Turnout::Lost(DeviceLost { interface: name, why: error.to_string() }),
        }
    }

    /// Says in the log what is new; `used_bytes` is the MTU that shards go by.
    fn say(&mut self, link: &Link, used_bytes: u16, now: Instant) {
        let Link { state, is_set_down, name: interface, mtu_bytes } = link;
        if self.state() != *state
            && let Some(left_out) = self.said.allows(Event::State(*state), now)
        {
            match state {
                LinkState::Up => tracing::info!(interface, left_out, "the link is up again"),
                LinkState::Down if *is_set_down => {
                    tracing::warn!(interface, left_out, "the interface was set down: `ip link set {interface} up`");
                }
                LinkState::Down => {
                    tracing::warn!(interface, left_out, "the link is down: nobody is at the other end of the cable");
                }
                LinkState::Gone => {
                    tracing::error!(interface, left_out, "the interface is gone");
                }
            }
        }
        let Some(before) = &self.kernel else { return };
        if before.name != *interface
            && let Some(left_out) = self.said.allows(Event::Renamed, now)
        {
            tracing::info!(interface, before = before.name, left_out, "the interface was renamed");
        }
        if before.mtu_bytes != *mtu_bytes
            && let Some(left_out) = self.said.allows(Event::Mtu, now)
        {
            match u32::from(used_bytes) > *mtu_bytes {
                true => tracing::warn!(
                    interface,
                    mtu_bytes,
                    used_bytes,
                    left_out,
                    "the interface takes shorter packets than it did: longer ones are lost until it is as before, or \
                     the daemon is started again"
                ),
                false => tracing::info!(interface, mtu_bytes, used_bytes, left_out, "the MTU of the interface changed"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use machnet_nic::{DeviceControl, DeviceDrops};

    use super::*;
    use crate::coordinator::plan::tests::interface;

    /// A device that is opened again as often as it is asked to, or never; and under which numbers it was.
    #[derive(Debug)]
    struct Device(Result<Arc<Mutex<Vec<u32>>>, OpenError>);

    impl DeviceControl for Device {
        fn drops(&mut self) -> DeviceDrops {
            DeviceDrops::default()
        }

        fn can_reopen(&self) -> bool {
            !matches!(self.0, Err(OpenError::NotReopened))
        }

        fn reopen(&mut self, kernel_interface: u32) -> Result<(), OpenError> {
            self.0.as_ref().map_err(Clone::clone)?.lock().expect("nobody panics").push(kernel_interface);
            Ok(())
        }
    }

    fn of_device(device: Device) -> InterfacePlan {
        InterfacePlan { control: Some(Box::new(device)), ..interface(1) }
    }

    fn eth0(state: LinkState) -> Link {
        Link { state, is_set_down: false, name: "eth0".into(), mtu_bytes: 1500 }
    }

    fn lost(why: OpenError) -> Turnout {
        Turnout::Lost(DeviceLost { interface: "eth0".into(), why: why.to_string() })
    }

    #[test]
    fn frames_pass_until_the_kernel_says_otherwise() {
        let (mut link, mut plan, now) =
            (InterfaceLink::default(), of_device(Device(Ok(Arc::default()))), Instant::ZERO);
        assert_eq!((link.check(), link.kernel()), (Ok(()), None));
        let mut change = |state| {
            let turnout = link.change(eth0(state), None, &mut plan, now);
            (turnout, link.check(), link.kernel().is_some())
        };
        let (nothing, name) = (Turnout::Nothing, || "eth0".to_owned());
        assert_eq!(change(LinkState::Up), (Turnout::Nothing, Ok(()), true));
        assert_eq!(change(LinkState::Down), (nothing, Err(ControlError::InterfaceDown(name())), true));
        assert_eq!(change(LinkState::Up), (Turnout::Back, Ok(()), true));
        assert_eq!(change(LinkState::Gone), (Turnout::Nothing, Err(ControlError::InterfaceGone(name())), false));
    }

    #[test]
    fn a_device_is_opened_again_where_its_interface_is_made_again() {
        let numbers = Arc::default();
        let mut plan = of_device(Device(Ok(Arc::clone(&numbers))));
        let (mut link, now) = (InterfaceLink::default(), Instant::ZERO);
        assert_eq!(link.change(eth0(LinkState::Gone), None, &mut plan, now), Turnout::Nothing);
        assert_eq!(link.change(eth0(LinkState::Down), Some(9), &mut plan, now), Turnout::Renewed);
        assert_eq!(link.change(eth0(LinkState::Up), None, &mut plan, now), Turnout::Back);
        assert_eq!(link.change(eth0(LinkState::Up), Some(11), &mut plan, now), Turnout::Renewed);
        assert_eq!(*numbers.lock().expect("nobody panics"), [9, 11]);
    }

    #[test]
    fn what_cannot_be_opened_again_is_lost() {
        let (mut link, now) = (InterfaceLink::default(), Instant::ZERO);
        for mut plan in [interface(1), of_device(Device(Err(OpenError::NotReopened)))] {
            assert_eq!(link.change(eth0(LinkState::Gone), None, &mut plan, now), lost(OpenError::NotReopened));
            assert_eq!(link.change(eth0(LinkState::Up), Some(9), &mut plan, now), lost(OpenError::NotReopened));
        }
        // An interface that is gone once more is told of next.
        for (error, turnout) in [(OpenError::GoneAgain, Turnout::Nothing), (OpenError::NoDpdk, lost(OpenError::NoDpdk))]
        {
            let mut plan = of_device(Device(Err(error)));
            assert_eq!(link.change(eth0(LinkState::Gone), None, &mut plan, now), Turnout::Nothing);
            assert_eq!(link.change(eth0(LinkState::Up), Some(9), &mut plan, now), turnout);
        }
    }
}
