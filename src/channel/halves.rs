//! What the two halves of an application's end share, in private memory: one thread may send while another receives.

use super::FlowId;
use super::bell::{Bell, Ear};
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
    sleepers: Mutex<Sleepers>,
    ear: Ear,
    bell: Bell,
}

#[derive(Debug, Default)]
struct Sleepers {
    sender: bool,
    receiver: bool,
}

impl Sleepers {
    fn of(&mut self, half: Half) -> &mut bool {
        match half {
            Half::Sender => &mut self.sender,
            Half::Receiver => &mut self.receiver,
        }
    }
}

impl Halves {
    pub(super) fn new(ear: Ear, bell: Bell) -> Self {
        Self {
            has_news: AtomicBool::new(false),
            news: Mutex::new(Vec::new()),
            sleepers: Mutex::new(Sleepers::default()),
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

    pub(super) fn ear(&self) -> &Ear {
        &self.ear
    }

    /// Says in the segment that this half sleeps. The caller looks once more afterwards.
    pub(super) fn arm(&self, half: Half, word: &Word, value: u64) {
        {
            let mut sleepers = lock(&self.sleepers);
            *sleepers.of(half) = true;
            word.store(value, Ordering::Relaxed);
        }
        // SYNC POINT: either the shard, having published, sees us armed, or we see what it published. Pairs with the
        // fence of `ShardEnd::flush`.
        fence(Ordering::SeqCst);
    }

    pub(super) fn disarm(&self, half: Half, word: &Word) {
        let mut sleepers = lock(&self.sleepers);
        *sleepers.of(half) = false;
        word.store(0, Ordering::Relaxed);
    }

    /// Drains the bell, unless the other half sleeps: then it wakes by the same byte, and drains it.
    pub(super) fn drain_bell(&self, half: Half) {
        let mut sleepers = lock(&self.sleepers);
        let other = match half {
            Half::Sender => Half::Receiver,
            Half::Receiver => Half::Sender,
        };
        if !*sleepers.of(other) {
            self.ear.drain();
        }
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
