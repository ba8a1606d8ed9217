//! Who sleeps at either end, and the bells that end a sleep.

#[cfg(not(loom))]
use std::os::fd::OwnedFd;

use super::super::bell::{AppBell, ShardEar};
use super::super::layout::Layout;
use super::super::segment::{Segment, Shared};
use super::super::sync::{Arc, Ordering, Word, fence};
#[cfg(not(loom))]
use super::state::{COUNT_MAX, NotAdopted, SleepState};

/// The words by which each side says that it sleeps, and the bells.
#[derive(Debug)]
pub(super) struct Sleep {
    input_asleep: Shared<Word>,
    room_asleep: Shared<Word>,
    shard_asleep: Shared<Word>,
    shard_cpu: Shared<Word>,
    /// What the application's words said when its bell rang last: an arming is answered once.
    rung_input: u64,
    rung_room: u64,
    /// How often the shard has armed.
    armings: u64,
    ear: ShardEar,
    bell: AppBell,
}

impl Sleep {
    pub(super) fn new(segment: &Arc<Segment>, layout: &Layout, ear: ShardEar, bell: AppBell) -> Self {
        Self {
            input_asleep: Shared::word(segment, layout.input_asleep_at),
            room_asleep: Shared::word(segment, layout.room_asleep_at),
            shard_asleep: Shared::word(segment, layout.shard_asleep_at),
            shard_cpu: Shared::word(segment, layout.shard_cpu_at),
            rung_input: 0,
            rung_room: 0,
            armings: 0,
            ear,
            bell,
        }
    }

    /// Wakes the application if it sleeps and waits for what was published just now: something to receive, or entries
    /// of `completion`, of which there are so many by now.
    #[inline]
    pub(super) fn wake_app(&mut self, published: bool, completions: Option<u64>) {
        // SYNC POINT: either the application, arming, sees what was published, or we see it armed. Pairs with the
        // fences of `AppReceiver::arm` and `AppSender::arm_room`.
        fence(Ordering::SeqCst);
        let input = self.input_asleep.load(Ordering::Relaxed);
        let room = self.room_asleep.load(Ordering::Relaxed);
        let wakes_input = published && input != 0 && input != self.rung_input;
        // The word is one more than the number of entries that the application waits for.
        let has_come = completions.is_some_and(|completions| room.wrapping_sub(1) <= completions);
        let wakes_room = room != 0 && room != self.rung_room && has_come;
        if wakes_input {
            self.rung_input = input;
        }
        if wakes_room {
            self.rung_room = room;
        }
        if wakes_input || wakes_room {
            self.bell.ring();
        }
    }

    /// Tells the application which CPU the shard runs on.
    pub(super) fn tell_cpu(&self, cpu: usize) {
        self.shard_cpu.store(cpu as u64 + 1, Ordering::Relaxed);
    }

    /// Asks for the bell. Whoever does looks once more afterwards whether there is something already.
    pub(super) fn arm(&mut self, wants_buffers: bool) {
        self.armings += 1;
        self.shard_asleep.store(self.armings << 1 | u64::from(wants_buffers), Ordering::Relaxed);
        // SYNC POINT: either the application, having published, sees us armed, or we see what it published. Pairs with
        // the fence of `ShardSleep::ring`.
        fence(Ordering::SeqCst);
    }

    /// The shard looks by itself again.
    pub(super) fn disarm(&mut self) {
        self.shard_asleep.store(0, Ordering::Relaxed);
    }

    /// What hears the shard's bell.
    pub(super) fn ear(&self) -> &ShardEar {
        &self.ear
    }

    #[cfg(not(loom))]
    pub(super) fn save(self) -> (SleepState, OwnedFd, OwnedFd) {
        let Self { rung_input, rung_room, armings, ear, bell, .. } = self;
        (SleepState { rung_input, rung_room, armings }, ear.into_fd(), bell.into_fd())
    }

    /// Awake: whoever has just come looks by itself.
    #[cfg(not(loom))]
    pub(super) fn resume(&mut self, state: &SleepState) -> Result<(), NotAdopted> {
        if state.armings > COUNT_MAX {
            return Err(NotAdopted::State("more armings than there can have been"));
        }
        SleepState { rung_input: self.rung_input, rung_room: self.rung_room, armings: self.armings } = *state;
        self.disarm();
        Ok(())
    }
}
