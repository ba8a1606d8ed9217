//! How a thread of the application waits: it looks on, giving way to others, then sleeps.
//!
//! Application and daemon often share cores. Giving way to the other (`sched_yield`) for some rounds answers as fast as
//! spinning does, and a sleep after that leaves an idle machine idle; a sleep at once costs several times the latency.
//! How long it looks on is [`Wait`]'s to say.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use machnet_core::flow::FlowId;
use machnet_core::wait::{Next, Policy, Seen, Sleep, Wait};
use rustix::event::epoll;
use rustix::io::Errno;

use super::liveness::Liveness;
use super::received::Flow;
use super::waker::Waker;
use crate::channel::{Alarm, AppEnd, AppReceiver, AppSender, Armed, Broken};
use crate::error::Disconnected;
use crate::sleep::{Clock, timeout};

/// Bells heard in one go; the others are heard in the next.
const BELLS_AT_ONCE: usize = 16;

/// Mark the daemon and the waker among the sources of an epoll; all others are indices of channels.
const DAEMON: u64 = u64::MAX;
const WAKER: u64 = u64::MAX - 1;

/// What is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Want {
    /// Something to receive, in any channel.
    pub(super) input: bool,
    /// Room on this flow for the message that was refused there last.
    pub(super) room: Option<Flow>,
    /// An answer on the control socket.
    pub(super) answer: bool,
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waited {
    /// What is wanted is there.
    There,
    /// The daemon has said something, which is to be read.
    Answer,
    /// The time is up, a signal came, or a waker wants it.
    Over,
}

impl Want {
    pub(super) const INPUT: Self = Self { input: true, room: None, answer: false };

    /// Room on this flow.
    pub(super) const fn room(flow: Flow) -> Self {
        Self { input: false, room: Some(flow), answer: false }
    }

    /// Input, or room on this flow.
    pub(super) const fn either(flow: Flow) -> Self {
        Self { input: true, ..Self::room(flow) }
    }

    /// The part of it that is about one channel: input, and room on one of its flows.
    fn of(self, channel: usize) -> (bool, Option<FlowId>) {
        let room = self.room.filter(|flow| usize::from(flow.channel) == channel);
        (self.input, room.map(|flow| flow.id))
    }
}

/// An application's end of a channel, or one half of it, as somebody waits for it.
pub(super) trait Waitable {
    /// What sends, and what receives, as far as this has it.
    fn parts(&mut self) -> (Option<&mut AppSender>, Option<&mut AppReceiver>);
    /// What hears the bell.
    fn alarm(&self) -> &Alarm;

    /// Lets the shard see what was appended.
    fn flush_appended(&mut self) {
        if let Some(sender) = self.parts().0 {
            sender.flush();
        }
    }

    /// Whether what is wanted is there.
    fn is_ready(&mut self, (input, room): (bool, Option<FlowId>)) -> Result<bool, Broken> {
        let (sender, receiver) = self.parts();
        if input && receiver.is_some_and(|receiver| receiver.has_input()) {
            return Ok(true);
        }
        match (sender, room) {
            (Some(sender), Some(flow)) => sender.has_room(flow),
            _ => Ok(false),
        }
    }

    /// Asks for the bell when it is.
    fn arm(&mut self, (input, room): (bool, Option<FlowId>)) -> Result<Armed, Broken> {
        let (sender, receiver) = self.parts();
        let room_armed = match (sender, room) {
            (Some(sender), Some(flow)) => sender.arm_room(flow)?,
            (Some(sender), None) => {
                sender.attend()?;
                sender.flush();
                Armed::Armed
            }
            (None, _) => Armed::Armed,
        };
        match receiver.filter(|_| input && room_armed == Armed::Armed) {
            Some(receiver) => Ok(receiver.arm()),
            None => Ok(room_armed),
        }
    }

    /// Awake again, also when it was not armed.
    fn disarm(&mut self) {
        let (sender, receiver) = self.parts();
        let alarms = [sender.map(|sender| sender.alarm()), receiver.map(|receiver| receiver.alarm())];
        alarms.into_iter().flatten().for_each(Alarm::disarm);
    }
}

/// Where a thread sleeps: an epoll over all bells, the waker and the control socket.
#[derive(Debug)]
pub(super) struct Waiter {
    epoll: OwnedFd,
    liveness: Arc<Liveness>,
    waker: Waker,
    wait: Wait,
}

impl Waiter {
    pub(super) fn new(liveness: Arc<Liveness>) -> Result<Self, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, liveness.as_fd(), epoll::EventData::new_u64(DAEMON), epoll::EventFlags::IN)?;
        let waker = Waker::new()?;
        epoll::add(&epoll, waker.bell(), epoll::EventData::new_u64(WAKER), epoll::EventFlags::IN)?;
        Ok(Self { epoll, liveness, waker, wait: Wait::new(Policy::Adaptive, Clock.now()) })
    }

    /// What ends a wait here.
    pub(super) fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Listens to the bell of one more channel.
    pub(super) fn add(&self, channel: usize, alarm: &Alarm) -> Result<(), Errno> {
        epoll::add(&self.epoll, alarm.bell(), epoll::EventData::new_u64(channel as u64), epoll::EventFlags::IN)
    }

    /// Waits until what is wanted is there, or there is another reason to end.
    pub(super) fn wait<E: Waitable>(
        &mut self,
        ends: &mut [E],
        want: Want,
        timeout: Option<Duration>,
    ) -> Result<Waited, Disconnected> {
        let began = Clock.now();
        let deadline = timeout.map(|timeout| began + timeout.into());
        self.wait.begin(began);
        let mut end = None;
        loop {
            let now = Clock.now();
            self.wait.look(now);
            let is_there = self.is_ready(ends, want)?;
            let next = self.wait.next(Seen { worked: is_there, has_come: is_there, ..Seen::default() }, now);
            if is_there {
                if next == Next::Disarm {
                    ends.iter_mut().for_each(E::disarm);
                }
                return Ok(Waited::There);
            }
            self.liveness.check()?;
            // A wake is left waiting while this is armed: it ends the sleep.
            if deadline.is_some_and(|deadline| deadline <= now) || (!self.wait.is_armed() && self.waker.take()) {
                end = Some(Waited::Over);
            }
            if let Some(end) = end
                && !self.wait.is_armed()
            {
                self.wait.give_up(now);
                return Ok(end);
            }
            match next {
                Next::Look | Next::Spin | Next::Yield => {
                    self.wait.leave(now);
                    rustix::thread::sched_yield();
                }
                Next::Arm => match self.arm(ends, want)? {
                    false => self.wait.armed(true),
                    true => self.wait.refused(now),
                },
                Next::Disarm => ends.iter_mut().for_each(E::disarm),
                Next::Sleep => {
                    let length = self.wait.sleep(now, deadline, false);
                    end = match self.hear(ends, length) {
                        Ok(has_spoken) => (has_spoken && want.answer).then_some(Waited::Answer),
                        // The program may want to look at what its signal handler did.
                        Err(_) => Some(Waited::Over),
                    };
                    ends.iter_mut().for_each(E::disarm);
                    self.wait.woke(false);
                }
            }
        }
    }

    /// Prepares a sleep on [`Waiter::as_fd`]: true if what is wanted is there already or a waker wants no sleep, and
    /// nothing is armed.
    pub(super) fn prepare<E: Waitable>(&self, ends: &mut [E], want: Want) -> Result<bool, Disconnected> {
        // What rang since the last sleep would end the next one at once. An interrupted look is as good as none.
        let _ = self.hear(ends, Sleep::Not);
        if self.is_ready(ends, want)? {
            return Ok(true);
        }
        self.liveness.check()?;
        if self.waker.take() {
            return Ok(true);
        }
        self.arm(ends, want)
    }

    fn is_ready<E: Waitable>(&self, ends: &mut [E], want: Want) -> Result<bool, Disconnected> {
        for (channel, end) in ends.iter_mut().enumerate() {
            if self.liveness.unless_broken(end.is_ready(want.of(channel)))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Arms all, or none if what is wanted is there: true.
    fn arm<E: Waitable>(&self, ends: &mut [E], want: Want) -> Result<bool, Disconnected> {
        for channel in 0..ends.len() {
            let armed = ends[channel].arm(want.of(channel));
            if armed != Ok(Armed::Armed) {
                ends[..=channel].iter_mut().for_each(E::disarm);
                return self.liveness.unless_broken(armed.map(|_| true));
            }
        }
        Ok(false)
    }

    /// Sleeps until a bell rings, a waker wakes or the daemon says something or is gone, drains the bells and notes the
    /// end. Gives whether the daemon has said something, which is still to be read. An error is a signal.
    fn hear<E: Waitable>(&self, ends: &mut [E], length: Sleep) -> Result<bool, Errno> {
        let nothing = epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(DAEMON) };
        let mut events = [nothing; BELLS_AT_ONCE];
        let heard = epoll::wait(&self.epoll, &mut events, timeout(length).as_ref())?;
        let mut has_spoken = false;
        for &epoll::Event { flags, data } in &events[..heard] {
            let end = usize::try_from(data.u64()).ok().and_then(|channel| ends.get_mut(channel));
            match end {
                // The daemon keeps its end of a bell as long as the channel lives.
                Some(_) if flags.contains(epoll::EventFlags::HUP) => drop(self.liveness.give_up(Disconnected::Gone)),
                Some(end) => {
                    end.disarm();
                    end.alarm().drain_bell();
                }
                None if data.u64() == WAKER => self.waker.drain(),
                None => has_spoken = self.liveness.look().is_ok(),
            }
        }
        Ok(has_spoken)
    }
}

impl AsFd for Waiter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl Waitable for AppEnd {
    fn parts(&mut self) -> (Option<&mut AppSender>, Option<&mut AppReceiver>) {
        let (sender, receiver) = self.halves();
        (Some(sender), Some(receiver))
    }

    fn alarm(&self) -> &Alarm {
        self.alarm()
    }
}

impl Waitable for AppSender {
    fn parts(&mut self) -> (Option<&mut AppSender>, Option<&mut AppReceiver>) {
        (Some(self), None)
    }

    fn alarm(&self) -> &Alarm {
        self.alarm()
    }
}

impl Waitable for AppReceiver {
    fn parts(&mut self) -> (Option<&mut AppSender>, Option<&mut AppReceiver>) {
        (None, Some(self))
    }

    fn alarm(&self) -> &Alarm {
        self.alarm()
    }
}
