//! What the two halves of an application's end share, in private memory: one thread may send while another receives.

use std::os::fd::BorrowedFd;

use super::FlowId;
use super::bell::{AppEar, ShardBell};
use super::layout::Layout;
use super::segment::{Segment, Shared};
use super::sync::{Arc, AtomicBool, Mutex, Ordering, Word, fence, lock};

/// A thread that may sleep on the application's bell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Half {
    Sender,
    Receiver,
}

/// What the receiver heard and the sender must know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum News {
    Opened {
        flow: FlowId,
        max_payload: u16,
        takes_records: bool,
    },
    MaxPayload {
        flow: FlowId,
        max_payload: u16,
    },
    /// Nothing more can be sent. The name still means this flow.
    Ended {
        flow: FlowId,
    },
    /// The application knows of the end.
    Closed {
        flow: FlowId,
    },
}

/// Shared by both halves; nothing here is touched for a message.
#[derive(Debug)]
pub(super) struct Halves {
    /// Whether `news` has any.
    has_news: AtomicBool,
    /// Of each flow at most that it was opened, the last of what its pieces may hold, and twice that it ended.
    news: Mutex<Vec<News>>,
    /// Who sleeps, or is about to. The bell is drained under this lock, and only while nobody else sleeps: a ring that
    /// is meant for the other half is not lost.
    asleep: Mutex<Asleep>,
    ear: AppEar,
    bell: ShardBell,
}

#[derive(Debug, Default)]
struct Asleep {
    sender: bool,
    receiver: bool,
}

impl Asleep {
    fn of(&mut self, half: Half) -> &mut bool {
        match half {
            Half::Sender => &mut self.sender,
            Half::Receiver => &mut self.receiver,
        }
    }
}

impl Halves {
    pub(super) fn new(ear: AppEar, bell: ShardBell) -> Self {
        Self {
            has_news: AtomicBool::new(false),
            news: Mutex::new(Vec::new()),
            asleep: Mutex::new(Asleep::default()),
            ear,
            bell,
        }
    }

    pub(super) fn tell(&self, news: News) {
        let mut all = lock(&self.news);
        if let News::MaxPayload { flow, .. } = news {
            all.retain(|older| !matches!(older, News::MaxPayload { flow: other, .. } if *other == flow));
        }
        all.push(news);
        self.has_news.store(true, Ordering::Release);
    }

    /// Whether there is something to hear.
    #[inline]
    pub(super) fn has_news(&self) -> bool {
        self.has_news.load(Ordering::Acquire)
    }

    /// Moves the news into `into`.
    pub(super) fn hear(&self, into: &mut Vec<News>) {
        let mut all = lock(&self.news);
        into.append(&mut all);
        self.has_news.store(false, Ordering::Relaxed);
    }
}

/// How one half sleeps and is woken. Both hear the same bell.
#[derive(Debug)]
pub struct Alarm {
    half: Half,
    /// The word of the segment that tells the shard of this half's sleep: 0 while it is awake.
    word: Shared<Word>,
    halves: Arc<Halves>,
}

impl Alarm {
    pub(super) fn new(half: Half, word: Shared<Word>, halves: &Arc<Halves>) -> Self {
        Self { half, word, halves: Arc::clone(halves) }
    }

    #[inline]
    pub(super) fn halves(&self) -> &Halves {
        &self.halves
    }

    /// Says in the segment that this half sleeps. The caller looks once more afterwards.
    pub(super) fn arm(&self, value: u64) {
        {
            let mut asleep = lock(&self.halves.asleep);
            *asleep.of(self.half) = true;
            self.word.store(value, Ordering::Relaxed);
        }
        // SYNC POINT: either the shard, having published, sees us armed, or we see what it published. Pairs with the
        // fence of `ShardEnd::flush`.
        fence(Ordering::SeqCst);
    }

    /// Awake again.
    pub fn disarm(&self) {
        let mut asleep = lock(&self.halves.asleep);
        *asleep.of(self.half) = false;
        self.word.store(0, Ordering::Relaxed);
    }

    /// Readable when an armed half has something to do. Both halves have the same.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.halves.ear.fd()
    }

    /// Makes [`Alarm::bell`] unreadable again, unless the other half sleeps: then it wakes by the same byte, and drains
    /// it. Call it after a wake, before the next look.
    pub fn drain_bell(&self) {
        let mut asleep = lock(&self.halves.asleep);
        let other = match self.half {
            Half::Sender => Half::Receiver,
            Half::Receiver => Half::Sender,
        };
        if !*asleep.of(other) {
            self.halves.ear.drain();
        }
    }

    #[cfg(all(test, loom))]
    pub(super) fn ear(&self) -> &AppEar {
        &self.halves.ear
    }
}

/// How one half sees whether the shard sleeps.
#[derive(Debug)]
pub(super) struct ShardSleep {
    asleep: Shared<Word>,
    /// What the word said when this half last rang: an arming is answered once.
    rung: u64,
}

impl ShardSleep {
    pub(super) fn new(segment: &Arc<Segment>, layout: &Layout) -> Self {
        Self { asleep: Shared::word(segment, layout.shard_asleep_at), rung: 0 }
    }

    /// After something was published: rings the shard's bell if it sleeps and wants to know. `only_buffers`: what was
    /// published are receive buffers given back.
    #[inline]
    pub(super) fn ring(&mut self, halves: &Halves, only_buffers: bool) {
        // SYNC POINT: either the shard, arming, sees what was published, or we see it armed. Pairs with the fence of
        // `ShardEnd::arm`.
        fence(Ordering::SeqCst);
        let asleep = self.asleep.load(Ordering::Relaxed);
        let wants_it = !only_buffers || asleep & 1 == 1;
        if asleep != 0 && asleep != self.rung && wants_it {
            self.rung = asleep;
            halves.bell.ring();
        }
    }
}
