//! The memory itself: a sealed memfd, mapped. The only file of the channel that touches memory by pointer.
#![allow(unsafe_code)]

use std::fmt::{self, Debug, Formatter};
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::layout::{Layout, WORD_BYTES};
use super::sync::{Arc, Word, may_write};

const _: () = assert!(size_of::<Word>() == WORD_BYTES, "a word of a segment is eight bytes in every process");

/// A mapped segment. Another process maps the same pages and may write to them at any moment, so nothing
/// here ever makes a `&[u8]` or `&mut [u8]` of memory the other side may write: words are atomics, payload is copied.
pub(super) struct Segment {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a segment is an address range that stays mapped until drop, whichever thread drops it.
unsafe impl Send for Segment {}
// SAFETY: through `&Segment` words are reached as atomics only, and payload by copies whose callers own the buffer.
unsafe impl Sync for Segment {}

impl Segment {
    /// Makes a new segment, all zero, and the descriptor for the other side. Its size can never change, so a mapping of
    /// it never faults.
    pub(super) fn create(layout: &Layout) -> io::Result<(Self, OwnedFd)> {
        let fd = new_memfd()?;
        rustix::fs::ftruncate(&fd, layout.segment_bytes as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        let segment = Self::map(fd.as_fd(), layout.segment_bytes)?;
        Ok((segment, fd))
    }

    /// Maps a segment that the daemon made; an error if it is not of the size that the layout says or could shrink.
    pub(super) fn open(fd: BorrowedFd<'_>, layout: &Layout) -> io::Result<Self> {
        let bytes = u64::try_from(rustix::fs::fstat(fd)?.st_size).unwrap_or(0);
        let seals = rustix::fs::fcntl_get_seals(fd)?;
        if bytes != layout.segment_bytes as u64 || !seals.contains(SealFlags::SHRINK) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the descriptor is not a segment of this geometry"));
        }
        Self::map(fd, layout.segment_bytes)
    }

    fn map(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        // SAFETY: the kernel chooses the address (null hint, no MAP_FIXED), so no existing mapping is replaced; the
        // descriptor is open, and a failure is an error, not an address.
        let base = unsafe {
            rustix::mm::mmap(ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, fd, 0)
        }?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let segment = Self { base, bytes };
        // SAFETY: the range was mapped just above and belongs to `segment`; DONTFORK changes what a child inherits, not
        // what this process sees.
        unsafe { rustix::mm::madvise(segment.base.as_ptr().cast(), bytes, Advice::LinuxDontFork) }?;
        Ok(segment)
    }

    /// Copies `bytes` to offset `at`. The caller owns that part of the segment now.
    #[inline]
    pub(super) fn copy_in(&self, at: usize, bytes: &[u8]) {
        let to = self.reach(at, bytes.len());
        if !may_write() {
            return;
        }
        // SAFETY: `bytes` is readable for its length; `to` is writable for as many, as `reach` asserted; private
        // memory and a mapping of the segment never overlap; bytes need no alignment. No reference to the target
        // exists in this process, because a buffer has one owner. If a hostile process writes it at the same time, the
        // bytes it gets are its own affair: they are never interpreted here.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len()) };
    }

    /// Asks for the cache line at offset `at`, which is read soon.
    #[inline]
    pub(super) fn prefetch(&self, at: usize) {
        let line = self.reach(at, 1);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch reads nothing that the program sees, and faults at no address.
        unsafe {
            core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(line.as_ptr().cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = line;
    }

    /// Fills `into` from offset `at`. The caller owns that part of the segment now.
    #[inline]
    pub(super) fn copy_out(&self, at: usize, into: &mut [u8]) {
        let from = self.reach(at, into.len());
        // SAFETY: `from` is readable for `into.len()` bytes, as `reach` asserted; `into` is writable for its length;
        // private memory and a mapping of the segment never overlap; bytes need no alignment and every value is valid.
        // If a hostile process writes at the same time, we copy some mixture of its bytes, once, and use the copy.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), into.as_mut_ptr(), into.len()) };
    }

    /// The `len` bytes at offset `at`, in place.
    ///
    /// # Safety
    ///
    /// Nobody writes these bytes while the slice lives: for the application, the daemon's promise about a published
    /// receive buffer until it is given back.
    #[inline]
    pub(super) unsafe fn slice(&self, at: usize, len: usize) -> &[u8] {
        let from = self.reach(at, len);
        // SAFETY: `from` is readable for `len` bytes, as `reach` asserted, and stays mapped as long as `self`; the
        // bytes were initialised by the kernel (zero) or a writer; nobody writes them meanwhile, by this
        // function's contract.
        unsafe { std::slice::from_raw_parts(from.as_ptr(), len) }
    }

    /// The address of `len` bytes at offset `at`, which lie in the segment: anything else is our own mistake.
    #[inline]
    fn reach(&self, at: usize, len: usize) -> NonNull<u8> {
        assert!(at <= self.bytes && len <= self.bytes - at, "inside the segment");
        // SAFETY: `at` is within or one past the mapping, whose size fits an isize as every mapping's does.
        unsafe { self.base.add(at) }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `map` and is unmapped once; everything that points into it holds the
        // segment alive, so nothing does any more.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "unmapping what was mapped");
    }
}

impl Debug for Segment {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// Sealable, never executable where the kernel knows how to say so (Linux 6.3).
fn new_memfd() -> io::Result<OwnedFd> {
    const NAME: &str = "machnet-channel";
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match rustix::fs::memfd_create(NAME, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(rustix::io::Errno::INVAL) => Ok(rustix::fs::memfd_create(NAME, flags)?),
        made => Ok(made?),
    }
}

/// Words of a segment, which they keep mapped.
pub(super) struct Shared<T: ?Sized> {
    target: NonNull<T>,
    _segment: Arc<Segment>,
}

impl Shared<[Word]> {
    /// The `count` words at offset `at`.
    pub(super) fn words(segment: &Arc<Segment>, at: usize, count: usize) -> Self {
        assert!(at.is_multiple_of(WORD_BYTES), "words are aligned");
        let first = segment.reach(at, count * WORD_BYTES).cast::<Word>();
        Self { target: NonNull::slice_from_raw_parts(first, count), _segment: Arc::clone(segment) }
    }
}

impl Shared<Word> {
    /// The word at offset `at`.
    pub(super) fn word(segment: &Arc<Segment>, at: usize) -> Self {
        assert!(at.is_multiple_of(WORD_BYTES), "words are aligned");
        Self { target: segment.reach(at, WORD_BYTES).cast::<Word>(), _segment: Arc::clone(segment) }
    }
}

// SAFETY: it is a shared reference to a `T` together with what keeps it alive; `T: Sync` lets references move between
// threads, and the segment may be dropped on any.
unsafe impl<T: Sync + ?Sized> Send for Shared<T> {}
// SAFETY: all that a `&Shared<T>` gives is a `&T`, which `T: Sync` lets several threads have.
unsafe impl<T: Sync + ?Sized> Sync for Shared<T> {}

impl<T: ?Sized> Deref for Shared<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: made by `Shared::word` and `Shared::words` only, so the target lies in the mapping, is aligned, and
        // holds words, for which every bit pattern is valid; the segment held beside it keeps the mapping; only
        // shared references exist.
        unsafe { self.target.as_ref() }
    }
}

impl<T: ?Sized> Debug for Shared<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shared").field(&self.target).finish()
    }
}
