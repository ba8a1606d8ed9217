//! The caller's memory: every pointer and every length is looked at here before it is used.

use std::ffi::{CStr, c_char, c_void};
use std::io::IoSlice;
use std::marker::PhantomData;
use std::{ptr, slice};

use machnet::MESSAGE_BYTES_MAX;

use crate::failure::Failure;
use crate::layout::MachnetIovec;

/// The most parts that a message may be given in.
const PARTS_MAX: usize = 1 << 16;

const NULL: Failure = Failure::Argument("a pointer is null that must not be");
const PARTS: Failure = Failure::Argument("a message has at most 65536 parts");

/// A copy of what a pointer points to, at whatever address that is: other languages give bytes of their own. None if it
/// is null.
///
/// # Safety
/// Unless it is null, it points to a `T` that nobody changes meanwhile.
#[inline]
pub(crate) unsafe fn copied<T: Copy>(from: *const T) -> Option<T> {
    // SAFETY: it is not null; the caller says the rest.
    (!from.is_null()).then(|| unsafe { from.read_unaligned() })
}

/// The same, where there must be one.
///
/// # Safety
/// As that of [`copied`].
#[inline]
pub(crate) unsafe fn read<T: Copy>(from: *const T) -> Result<T, Failure> {
    // SAFETY: as the caller says.
    unsafe { copied(from) }.ok_or(NULL)
}

/// Writes to where a pointer points, at whatever address that is; nothing if it is null.
///
/// # Safety
/// Unless it is null, it points to a `T` that nobody else uses meanwhile.
#[inline]
pub(crate) unsafe fn write<T: Copy>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: it is not null; the caller says the rest.
        unsafe { to.write_unaligned(value) };
    }
}

/// That there is a place to write to.
#[inline]
pub(crate) fn is_place<T>(to: *mut T) -> Result<(), Failure> {
    if to.is_null() { Err(NULL) } else { Ok(()) }
}

/// What `from` points to, of this library's own.
///
/// # Safety
/// Unless it is null, it points to a `T` that nobody else uses while the reference is used.
#[inline]
pub(crate) unsafe fn own<'a, T>(from: *mut T) -> Result<&'a mut T, Failure> {
    if !from.is_aligned() {
        return Err(Failure::Argument("this is no channel that machnet_attach gave"));
    }
    // SAFETY: it is aligned, and no null pointer, or nothing is done; the caller says the rest.
    unsafe { from.as_mut() }.ok_or(NULL)
}

/// A text; none if it is null.
///
/// # Safety
/// Unless it is null, it points to bytes that end with a zero and that nobody changes meanwhile.
pub(crate) unsafe fn text<'a>(from: *const c_char) -> Option<&'a CStr> {
    // SAFETY: it is not null; the caller says the rest.
    (!from.is_null()).then(|| unsafe { CStr::from_ptr(from) })
}

/// A message to be sent.
///
/// # Safety
/// Unless it is null or `len` is out of bounds, `from` points to so many bytes that nobody changes meanwhile.
pub(crate) unsafe fn bytes<'a>(from: *const c_void, len: usize) -> Result<&'a [u8], Failure> {
    if len == 0 {
        return Ok(&[]);
    }
    if len > MESSAGE_BYTES_MAX {
        return Err(machnet::SendError::TooLong.into());
    }
    if from.is_null() {
        return Err(NULL);
    }
    // SAFETY: it is not null, bytes have no alignment, the length is far below `isize::MAX`; the caller says the rest.
    Ok(unsafe { slice::from_raw_parts(from.cast(), len) })
}

/// The parts of a message.
///
/// # Safety
/// Unless it is null or `count` is out of bounds, `from` points to so many of them, which nobody changes meanwhile.
unsafe fn parts<'a>(from: *const MachnetIovec, count: usize) -> Result<&'a [MachnetIovec], Failure> {
    if count == 0 {
        return Ok(&[]);
    }
    if count > PARTS_MAX {
        return Err(PARTS);
    }
    if from.is_null() {
        return Err(NULL);
    }
    if !from.is_aligned() {
        return Err(Failure::Argument("msg_iov points to no MachnetIovec_t: it is not aligned"));
    }
    // SAFETY: it is aligned and not null, and so many are far below `isize::MAX` bytes; the caller says the rest.
    Ok(unsafe { slice::from_raw_parts(from, count) })
}

/// A message to be sent in parts, which has `total` bytes.
///
/// # Safety
/// Unless it is null or `count` is out of bounds, `from` points to so many parts, and each of them, unless it is null
/// or its length out of bounds, to as many bytes as it says. Nobody changes any of it meanwhile.
pub(crate) unsafe fn gather<'a>(from: *const MachnetIovec, count: usize, total: u32) -> Result<Gathered<'a>, Failure> {
    const MISMATCH: Failure = Failure::Argument("the lengths of the parts are not msg_size together");
    // SAFETY: as the caller says.
    let parts = unsafe { parts(from, count) }?;
    let (total, mut sum, mut has_nulls) = (total as usize, 0_usize, false);
    for part in parts {
        sum = sum.checked_add(part.len).filter(|sum| *sum <= total).ok_or(MISMATCH)?;
        if part.base.is_null() {
            if part.len > 0 {
                return Err(NULL);
            }
            has_nulls = true;
        }
    }
    if sum != total {
        return Err(MISMATCH);
    }
    if total > MESSAGE_BYTES_MAX {
        return Err(machnet::SendError::TooLong.into());
    }
    if has_nulls {
        // SAFETY: each was looked at; the caller says the rest.
        let slice = |part: &MachnetIovec| IoSlice::new(unsafe { slice::from_raw_parts(part.base.cast(), part.len) });
        return Ok(Gathered::Copied(parts.iter().filter(|part| part.len > 0).map(slice).collect()));
    }
    // SAFETY: `IoSlice` is a `struct iovec` on Unix, as the standard library promises: a pointer and a length, as
    // `MachnetIovec` is. None of the pointers is null, no length is above the longest message; the caller says the
    // rest.
    Ok(Gathered::InPlace(unsafe { slice::from_raw_parts(parts.as_ptr().cast(), parts.len()) }))
}

/// The parts of a message to be sent.
pub(crate) enum Gathered<'a> {
    /// Where the caller has them.
    InPlace(&'a [IoSlice<'a>]),
    /// Without the empty ones, one of which is at no address.
    Copied(Vec<IoSlice<'a>>),
}

impl<'a> Gathered<'a> {
    pub(crate) fn parts(&self) -> &[IoSlice<'a>] {
        match self {
            Self::InPlace(parts) => parts,
            Self::Copied(parts) => parts,
        }
    }
}

/// Where a received message goes.
pub(crate) struct Destination<'a> {
    parts: &'a [MachnetIovec],
    room: usize,
    memory: PhantomData<&'a mut [u8]>,
}

impl<'a> Destination<'a> {
    /// So many parts of the caller's memory, one after the other.
    ///
    /// # Safety
    /// Unless it is null or `count` is out of bounds, `to` points to so many parts that nobody changes meanwhile, and
    /// each of them, unless it is null, to as many bytes as it says that nobody else uses meanwhile.
    pub(crate) unsafe fn scattered(to: *const MachnetIovec, count: usize) -> Result<Self, Failure> {
        // SAFETY: as the caller says.
        Self::of(unsafe { parts(to, count) }?)
    }

    /// One part.
    ///
    /// # Safety
    /// As that of [`scattered`](Self::scattered), of the memory of the part.
    pub(crate) unsafe fn whole(part: &'a MachnetIovec) -> Result<Self, Failure> {
        Self::of(slice::from_ref(part))
    }

    fn of(parts: &'a [MachnetIovec]) -> Result<Self, Failure> {
        let mut room = 0_usize;
        for part in parts {
            if part.base.is_null() && part.len > 0 {
                return Err(NULL);
            }
            room = room.saturating_add(part.len);
        }
        Ok(Self { parts, room, memory: PhantomData })
    }

    /// How many bytes fit.
    #[inline]
    pub(crate) fn room(&self) -> usize {
        self.room
    }

    /// Writes all `slices`, one after the other; they fit.
    #[inline]
    pub(crate) fn fill<'m>(self, slices: impl Iterator<Item = &'m [u8]>) {
        let mut parts = self.parts.iter();
        let mut base = ptr::null_mut::<u8>();
        let mut left = 0;
        for mut slice in slices {
            while !slice.is_empty() {
                if left == 0 {
                    let Some(part) = parts.next() else { return };
                    (base, left) = (part.base.cast(), part.len);
                    continue;
                }
                let taken = slice.len().min(left);
                // SAFETY: the caller of the constructor lent so many bytes at `base`; the slice is as long, and is
                // memory of a channel or of this library, so that it does not overlap.
                unsafe { ptr::copy_nonoverlapping(slice.as_ptr(), base, taken) };
                // SAFETY: within the same part, or one behind its end.
                base = unsafe { base.add(taken) };
                left -= taken;
                slice = &slice[taken..];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(bytes: &mut [u8]) -> MachnetIovec {
        MachnetIovec { base: bytes.as_mut_ptr().cast(), len: bytes.len() }
    }

    const NOWHERE: MachnetIovec = MachnetIovec { base: ptr::null_mut(), len: 0 };
    const WILD: MachnetIovec = MachnetIovec { base: ptr::null_mut(), len: 1 };

    fn argument<T>(outcome: Result<T, Failure>) -> String {
        match outcome {
            Ok(_) => panic!("it is accepted"),
            Err(failure) => failure.to_string(),
        }
    }

    #[test]
    #[allow(clippy::multiple_unsafe_ops_per_block)] // all of them for one reason
    fn null_and_nonsense_are_errors() {
        let mut four = [0; 4];
        let good = part(&mut four);
        // SAFETY: what is null is not looked at, and what is not null is there.
        unsafe {
            assert!(argument(read::<u32>(ptr::null())).contains("null"));
            assert!(argument(is_place::<u32>(ptr::null_mut())).contains("null"));
            assert!(argument(own::<u32>(ptr::null_mut())).contains("null"));
            assert!(argument(own::<u32>(ptr::without_provenance_mut(6))).contains("machnet_attach"));
            assert!(argument(gather(ptr::without_provenance(12), 1, 4)).contains("aligned"));
            write::<u32>(ptr::null_mut(), 1);
            assert!(text(ptr::null()).is_none());
            assert!(argument(bytes(ptr::null(), 1)).contains("null"));
            assert!(argument(bytes(ptr::from_ref(&four).cast(), usize::MAX)).contains("at most 8388608"));
            assert_eq!(bytes(ptr::null(), 0).unwrap(), [0_u8; 0]);
            assert!(argument(gather(ptr::null(), 1, 1)).contains("null"));
            assert!(argument(gather(&good, usize::MAX, 4)).contains("65536"));
            assert!(argument(gather(&WILD, 1, 1)).contains("null"));
            assert!(argument(Destination::scattered(ptr::null(), 1)).contains("null"));
            assert!(argument(Destination::scattered(&good, usize::MAX)).contains("65536"));
            assert!(argument(Destination::whole(&WILD)).contains("null"));
        }
    }

    #[test]
    fn values_may_be_anywhere() {
        let mut bytes = [0; 9];
        for at in 0..5 {
            let place = bytes[at..].as_mut_ptr().cast::<u32>();
            // SAFETY: four bytes are there, and nobody else uses them.
            unsafe { write(place, 0x0403_0201 + u32::try_from(at).unwrap()) };
            // SAFETY: as above.
            assert_eq!(unsafe { copied(place) }, Some(0x0403_0201 + u32::try_from(at).unwrap()));
        }
    }

    #[test]
    fn the_lengths_of_the_parts_must_be_the_messages() {
        let (mut four, mut two) = ([0; 4], [0; 2]);
        let mut parts = [part(&mut four), part(&mut two)];
        let gathered = |parts: &[MachnetIovec], total| {
            // SAFETY: the parts are there, or are refused by their lengths.
            unsafe { gather(parts.as_ptr(), parts.len(), total) }.map(|gathered| gathered.parts().len())
        };
        assert!(matches!(gathered(&parts, 6), Ok(2)));
        for wrong in [0, 5, 7] {
            assert!(argument(gathered(&parts, wrong)).contains("msg_size"));
        }
        parts[0].len = usize::MAX;
        assert!(argument(gathered(&parts, 6)).contains("msg_size"));
        assert!(matches!(gathered(&[NOWHERE, parts[1], NOWHERE], 2), Ok(1)), "empty parts may be anywhere");
    }

    #[test]
    fn a_message_is_scattered_over_parts_in_their_order() {
        let (mut first, mut second) = ([9; 3], [9; 4]);
        let parts = [NOWHERE, part(&mut first), NOWHERE, part(&mut second)];
        // SAFETY: all parts are there, and nobody else uses them.
        let destination = unsafe { Destination::scattered(parts.as_ptr(), parts.len()) }.unwrap();
        assert_eq!(destination.room(), 7);
        destination.fill([&[1, 2][..], &[], &[3, 4, 5]].into_iter());
        assert_eq!((first, second), ([1, 2, 3], [4, 5, 9, 9]));
    }
}
