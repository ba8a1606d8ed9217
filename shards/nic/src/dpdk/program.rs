//! BPF programs of the kernel, as far as their names.
#![allow(unsafe_code)]

use std::mem::offset_of;

use rustix::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Commands of bpf(2).
const BPF_PROG_GET_FD_BY_ID: u32 = 13;
const BPF_OBJ_GET_INFO_BY_FD: u32 = 15;

/// The beginning of `union bpf_attr` for the first of them; the kernel takes the rest for zeroes.
#[repr(C)]
struct ById {
    number: u32,
    next_number: u32,
    flags: u32,
}

/// And for the second.
#[repr(C)]
struct Ask {
    fd: u32,
    info_bytes: u32,
    info: u64,
}

/// The beginning of `struct bpf_prog_info`: the kernel fills as much as it is given.
#[repr(C)]
struct ProgramInfo {
    before: [u64; 8],
    name: [u8; 16],
}

const _: () = assert!(offset_of!(ProgramInfo, name) == 64);

/// The name of the program with this number. `None`: there is none, or we may not know.
pub(crate) fn program_name(number: u32) -> Option<String> {
    let mut by_id = ById { number, next_number: 0, flags: 0 };
    let fd = bpf(BPF_PROG_GET_FD_BY_ID, &mut by_id)?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows its number.
    let program = unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).ok()?) };
    let mut info = ProgramInfo { before: [0; 8], name: [0; 16] };
    let mut ask = Ask {
        fd: program.as_raw_fd().cast_unsigned(),
        info_bytes: u32::try_from(size_of::<ProgramInfo>()).expect("eighty"),
        info: (&raw mut info).expose_provenance() as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut ask)?;
    let name = info.name.split(|byte| *byte == 0).next().unwrap_or_default();
    Some(String::from_utf8_lossy(name).into_owned())
}

/// bpf(2); `None` if the kernel refuses.
fn bpf<A>(command: u32, attributes: &mut A) -> Option<libc::c_long> {
    let bytes = size_of::<A>();
    // SAFETY: the attributes are valid for their length during the call, and are the beginning of what this command
    // takes; what the second one points to has the length that it says, and any bytes are a value of it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), bytes) };
    (result >= 0).then_some(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_has_no_name() {
        assert_eq!(program_name(u32::MAX), None);
    }
}
