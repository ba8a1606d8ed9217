//! The segment and the bells as loom models them: in the heap, between threads. Payload lies in cells that
//! loom watches, so that a copy which races with another is found.
#![allow(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::{BorrowedFd, OwnedFd};

use loom::cell::UnsafeCell;
use loom::sync::Condvar;

use super::layout::{Layout, WORD_BYTES};
use super::sync::{Arc, Mutex, Word, lock};

/// The memory of one channel.
#[derive(Debug)]
pub(super) struct Segment {
    words: Vec<Word>,
    /// One for each buffer, both pools.
    payload: Vec<UnsafeCell<Vec<u8>>>,
    layout: Layout,
}

// SAFETY: words are atomics; loom itself fails the test if two threads touch one payload cell at the same time.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Segment {
    pub(super) fn create(_: &Layout) -> io::Result<(Self, OwnedFd)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn open(_: BorrowedFd<'_>, _: &Layout) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    #[cfg(test)]
    pub(super) fn model(layout: &Layout) -> Self {
        let words = (layout.fill.slots_at + layout.fill.slots * WORD_BYTES) / WORD_BYTES;
        let tx_buffers = (layout.rx_pool_at - layout.tx_pool_at) / layout.buffer_bytes;
        let rx_buffers = (layout.segment_bytes - layout.rx_pool_at) / layout.buffer_bytes;
        let cell = || UnsafeCell::new(vec![0; layout.buffer_bytes]);
        Self {
            words: std::iter::repeat_with(Word::new).take(words).collect(),
            payload: std::iter::repeat_with(cell).take(tx_buffers + rx_buffers).collect(),
            layout: *layout,
        }
    }

    pub(super) fn copy_in(&self, at: usize, bytes: &[u8]) {
        let (cell, skip) = self.cell(at);
        // SAFETY: loom checks that nobody else is in this cell.
        cell.with_mut(|buffer| unsafe { &mut *buffer }[skip..skip + bytes.len()].copy_from_slice(bytes));
    }

    /// Caches are not modelled.
    pub(super) fn prefetch(&self, _at: usize) {}

    pub(super) fn copy_out(&self, at: usize, into: &mut [u8]) {
        let (cell, skip) = self.cell(at);
        // SAFETY: loom checks that nobody writes this cell meanwhile.
        cell.with(|buffer| into.copy_from_slice(&unsafe { &*buffer }[skip..skip + into.len()]));
    }

    /// # Safety
    ///
    /// As for a real segment; loom checks it at the time of the call.
    pub(super) unsafe fn slice(&self, at: usize, len: usize) -> &[u8] {
        let (cell, skip) = self.cell(at);
        // SAFETY: by the contract nobody writes while the slice lives.
        cell.with(|buffer| &unsafe { &*buffer }[skip..skip + len])
    }

    fn cell(&self, at: usize) -> (&UnsafeCell<Vec<u8>>, usize) {
        let offset = at - self.layout.tx_pool_at;
        (&self.payload[offset / self.layout.buffer_bytes], offset % self.layout.buffer_bytes)
    }
}

/// Words of a segment, which they keep.
#[derive(Debug)]
pub(super) struct Shared<T: ?Sized> {
    segment: Arc<Segment>,
    first: usize,
    count: usize,
    target: PhantomData<fn(&T)>,
}

impl Shared<[Word]> {
    pub(super) fn words(segment: &Arc<Segment>, at: usize, count: usize) -> Self {
        Self { segment: Arc::clone(segment), first: at / WORD_BYTES, count, target: PhantomData }
    }
}

impl Shared<Word> {
    pub(super) fn word(segment: &Arc<Segment>, at: usize) -> Self {
        Self { segment: Arc::clone(segment), first: at / WORD_BYTES, count: 1, target: PhantomData }
    }
}

impl Deref for Shared<[Word]> {
    type Target = [Word];

    fn deref(&self) -> &[Word] {
        &self.segment.words[self.first..self.first + self.count]
    }
}

impl Deref for Shared<Word> {
    type Target = Word;

    fn deref(&self) -> &Word {
        &self.segment.words[self.first]
    }
}

#[derive(Debug, Default)]
struct Rope {
    rung: Mutex<bool>,
    changed: Condvar,
}

/// The end that hears.
#[derive(Debug)]
pub(super) struct Ear(Arc<Rope>);

/// The end that rings.
#[derive(Debug)]
pub(super) struct Bell(Arc<Rope>);

/// Both bells are modelled alike.
pub(super) type AppEar = Ear;
pub(super) type AppBell = Bell;
pub(super) type ShardEar = Ear;
pub(super) type ShardBell = Bell;

pub(super) fn towards_app() -> io::Result<(Bell, OwnedFd)> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn towards_shard() -> io::Result<(Ear, OwnedFd)> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A bell between two threads.
#[cfg(test)]
pub(super) fn between_threads() -> (Ear, Bell) {
    let rope = Arc::new(Rope::default());
    (Ear(Arc::clone(&rope)), Bell(rope))
}

impl Ear {
    pub(super) fn received(_: OwnedFd) -> Self {
        panic!("a modelled bell has no descriptor")
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        panic!("a modelled bell has no descriptor")
    }

    /// Sleeps until the bell has been rung, as `poll` does.
    #[cfg(test)]
    pub(super) fn wait(&self) {
        let mut rung = lock(&self.0.rung);
        while !*rung {
            rung = self.0.changed.wait(rung).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    pub(super) fn drain(&self) {
        *lock(&self.0.rung) = false;
    }
}

impl Bell {
    pub(super) fn received(_: OwnedFd) -> Self {
        panic!("a modelled bell has no descriptor")
    }

    pub(super) fn ring(&self) {
        *lock(&self.0.rung) = true;
        self.0.changed.notify_all();
    }
}
