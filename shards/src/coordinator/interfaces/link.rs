//! Whether an interface carries frames, and what its kernel interface is like.

use machnet::daemon::control::message::ControlError;
use machnet_core::link::LinkState;
use machnet_core::time::{Duration, Instant};
use machnet_nic::error::OpenError;
use machnet_nic::links::Link;

use crate::coordinator::input::DeviceLost;
use crate::coordinator::plan::InterfacePlan;
use crate::repeats::Repeats;

/// What is known of the link of an interface.
#[derive(Debug, Default)]
pub(crate) struct InterfaceLink {
    /// What was said of it last, by the kernel or by the device.
    last: Option<Link>,
    /// When the device is asked again, if nobody tells.
    poll_at: Option<Instant>,
    /// Lines of the log about it.
    said: Repeats<Event>,
}

/// How often a device is asked for its link that nobody else tells of.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// What the log says of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    State(LinkState),
    MadeAgain,
    Renamed,
    Mtu,
}

/// Whether something passes, and if not, why.
pub(super) type Usable = Result<(), ControlError>;

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
    /// That of an interface that is opened at `now`.
    pub(super) fn new(interface: &InterfacePlan, now: Instant) -> Self {
        let is_polled = interface.kernel_interface.is_none() && interface.control.is_some();
        Self { poll_at: is_polled.then_some(now), ..Self::default() }
    }

    /// When [`InterfaceLink::poll`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.poll_at
    }

    /// Asks the device, which looks for a peer if it has none.
    pub(super) fn poll(&mut self, interface: &mut InterfacePlan, now: Instant) -> Turnout {
        let turnout = self.ask(interface, now);
        if self.check().is_err()
            && let Some(device) = &mut interface.control
        {
            device.seek_peer();
        }
        turnout
    }

    /// Asks the device, so that nobody is refused for a link that has just come up.
    pub(super) fn ask_if_down(&mut self, interface: &mut InterfacePlan, now: Instant) -> Turnout {
        let is_doubtful = self.poll_at.is_some() && self.check().is_err();
        if is_doubtful { self.ask(interface, now) } else { Turnout::Nothing }
    }

    fn ask(&mut self, interface: &mut InterfacePlan, now: Instant) -> Turnout {
        let is_up = interface.control.as_deref_mut().and_then(|device| device.link_is_up());
        self.poll_at = is_up.map(|_| now + POLL_EVERY);
        let Some(is_up) = is_up else { return Turnout::Nothing };
        let state = if is_up { LinkState::Up } else { LinkState::Down };
        let (name, mtu_bytes) = (interface.device.clone(), interface.mtu_bytes.into());
        self.change(Link { state, is_set_down: false, name, mtu_bytes }, None, interface, now)
    }

    /// Whether frames pass, as far as is known.
    pub(crate) fn state(&self) -> LinkState {
        self.last.as_ref().map_or(LinkState::Up, |link| link.state)
    }

    /// What it is at, unless that is gone.
    pub(crate) fn present(&self) -> Option<&Link> {
        self.last.as_ref().filter(|link| link.state != LinkState::Gone)
    }

    /// Why nothing passes, if nothing does.
    pub(crate) fn check(&self) -> Usable {
        match &self.last {
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
        self.last = Some(link);
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
                    tracing::warn!(interface, left_out, "the link is down: nobody is at the other end");
                }
                LinkState::Gone => {
                    tracing::error!(interface, left_out, "the interface is gone");
                }
            }
        }
        let Some(before) = &self.last else { return };
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
        assert_eq!((link.check(), link.present()), (Ok(()), None));
        let mut change = |state| {
            let turnout = link.change(eth0(state), None, &mut plan, now);
            (turnout, link.check(), link.present().is_some())
        };
        let (nothing, name) = (Turnout::Nothing, || "eth0".to_owned());
        assert_eq!(change(LinkState::Up), (Turnout::Nothing, Ok(()), true));
        assert_eq!(change(LinkState::Down), (nothing, Err(ControlError::InterfaceDown(name())), true));
        assert_eq!(change(LinkState::Up), (Turnout::Back, Ok(()), true));
        assert_eq!(change(LinkState::Gone), (Turnout::Nothing, Err(ControlError::InterfaceGone(name())), false));
    }

    /// A device of which nobody tells; what it answers, the next last, and how often it sought its peer.
    #[derive(Debug)]
    struct Peer(Vec<Option<bool>>, Arc<Mutex<u32>>);

    impl DeviceControl for Peer {
        fn drops(&mut self) -> DeviceDrops {
            DeviceDrops::default()
        }

        fn link_is_up(&mut self) -> Option<bool> {
            self.0.pop().flatten()
        }

        fn seek_peer(&mut self) {
            *self.1.lock().expect("nobody panics") += 1;
        }
    }

    #[test]
    fn a_device_that_nobody_tells_of_is_asked_every_second_and_seeks_its_peer() {
        let (answers, sought) = (vec![None, Some(true), Some(false), Some(false)], Arc::default());
        let control: Box<dyn DeviceControl> = Box::new(Peer(answers, Arc::clone(&sought)));
        let mut plan = InterfacePlan { control: Some(control), ..interface(1) };
        let mut link = InterfaceLink::new(&plan, Instant::ZERO);
        let mut turnouts = Vec::new();
        while let Some(due) = link.deadline() {
            turnouts.push((due, link.poll(&mut plan, due), link.state()));
        }
        let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
        let expected = [
            (at(0), Turnout::Nothing, LinkState::Down),
            (at(1), Turnout::Nothing, LinkState::Down),
            (at(2), Turnout::Back, LinkState::Up),
            (at(3), Turnout::Nothing, LinkState::Up),
        ];
        assert_eq!(turnouts, expected, "and no more when it cannot tell");
        assert_eq!(*sought.lock().expect("nobody panics"), 2);
        let of_kernel = InterfacePlan { kernel_interface: Some(3), ..of_device(Device(Ok(Arc::default()))) };
        assert_eq!(InterfaceLink::new(&of_kernel, Instant::ZERO).deadline(), None);
        assert_eq!(InterfaceLink::new(&interface(1), Instant::ZERO).deadline(), None);
    }

    #[test]
    fn a_link_that_was_down_is_looked_at_for_whoever_needs_it_now() {
        let answers = vec![Some(true), Some(false)];
        let mut plan = InterfacePlan { control: Some(Box::new(Peer(answers, Arc::default()))), ..interface(1) };
        let (mut link, now) = (InterfaceLink::new(&plan, Instant::ZERO), Instant::ZERO);
        link.poll(&mut plan, now);
        assert!(link.check().is_err());
        assert_eq!((link.ask_if_down(&mut plan, now), link.check()), (Turnout::Back, Ok(())));
        assert_eq!(link.ask_if_down(&mut plan, now), Turnout::Nothing, "it is not asked while it is up");
        assert_eq!(link.state(), LinkState::Up);
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
