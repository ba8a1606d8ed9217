//! The structures of `machnet.h`, as C lays them out, its numbers, and its data.

use std::ffi::{c_char, c_int, c_uchar, c_void};

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MachnetFlow {
    pub(crate) src_ip: u32,
    pub(crate) dst_ip: u32,
    pub(crate) src_port: u16,
    pub(crate) dst_port: u16,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct MachnetIovec {
    pub(crate) base: *mut c_void,
    pub(crate) len: usize,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct MachnetMsgHdr {
    pub(crate) msg_size: u32,
    pub(crate) flow_info: MachnetFlow,
    pub(crate) msg_iov: *mut MachnetIovec,
    pub(crate) msg_iovlen: usize,
    /// None has an effect.
    pub(crate) flags: u16,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct MachnetXItem {
    pub(crate) kind: u32,
    pub(crate) flow: MachnetFlow,
    pub(crate) segments: *const MachnetIovec,
    pub(crate) segments_len: usize,
    pub(crate) msg_size: usize,
    pub(crate) acknowledged_messages: u64,
    pub(crate) reason: u16,
    pub(crate) accepted: u16,
}

/// The kinds of a [`MachnetXItem`].
pub(crate) const MESSAGE: u32 = 1;
pub(crate) const OPENED: u32 = 2;
pub(crate) const CLOSED: u32 = 3;
pub(crate) const SILENT: u32 = 4;
pub(crate) const ALIVE: u32 = 5;

/// Which shards, for who attaches.
pub(crate) const ALL_SHARDS: i32 = -1;
pub(crate) const LEAST_LOADED_SHARD: i32 = -2;
/// The same for who connects.
pub(crate) const ANY_SHARD: i32 = -1;

/// The flag of who listens.
pub(crate) const SHARED: u32 = 1;

#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
static mut g_ctrl_socket: c_int = -1;

#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
static mut g_app_uuid: [c_uchar; 16] = [0; 16];

#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
static mut g_app_uuid_str: [c_char; 37] = text(b"00000000-0000-0000-0000-000000000000\0");

#[allow(clippy::cast_possible_wrap)] // of ASCII, whatever the sign of a character is here
const fn text<const LENGTH: usize>(bytes: &[u8; LENGTH]) -> [c_char; LENGTH] {
    let mut text = [0; LENGTH];
    let mut at = 0;
    while at < LENGTH {
        text[at] = bytes[at] as c_char;
        at += 1;
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::mem::{offset_of, size_of};
    use std::path::Path;
    use std::process::Command;

    use machnet::{CloseReason, MESSAGE_BYTES_MAX};
    use machnet_test_kit::Scratch;

    use super::*;

    const HEADER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/include");

    fn number(bytes: usize) -> i64 {
        bytes.try_into().unwrap()
    }

    /// `(what C calls it, how many bytes or what number it is here)`.
    macro_rules! fields {
        ($type:ty, $c:literal: $($field:ident),*) => {
            [(format!("sizeof({})", $c), number(size_of::<$type>()))]
                .into_iter()
                .chain([$((format!("offsetof({}, {})", $c, stringify!($field)), number(offset_of!($type, $field)))),*])
        };
    }

    fn expected() -> Vec<(String, i64)> {
        let mut all = Vec::new();
        all.extend(fields!(MachnetFlow, "MachnetFlow_t": src_ip, dst_ip, src_port, dst_port));
        all.extend(fields!(MachnetIovec, "MachnetIovec_t": base, len));
        all.extend(fields!(MachnetMsgHdr, "MachnetMsgHdr_t": msg_size, flow_info, msg_iov, msg_iovlen, flags));
        all.extend(fields!(
            MachnetXItem, "MachnetXItem_t":
            kind, flow, segments, segments_len, msg_size, acknowledged_messages, reason, accepted
        ));
        let version = |part: &str| part.parse::<i64>().unwrap();
        let numbers = [
            ("MACHNET_MSG_MAX_LEN", number(MESSAGE_BYTES_MAX)),
            ("MACHNET_X_MESSAGE", MESSAGE.into()),
            ("MACHNET_X_OPENED", OPENED.into()),
            ("MACHNET_X_CLOSED", CLOSED.into()),
            ("MACHNET_X_SILENT", SILENT.into()),
            ("MACHNET_X_ALIVE", ALIVE.into()),
            ("MACHNET_X_ALL_SHARDS", ALL_SHARDS.into()),
            ("MACHNET_X_LEAST_LOADED_SHARD", LEAST_LOADED_SHARD.into()),
            ("MACHNET_X_ANY_SHARD", ANY_SHARD.into()),
            ("MACHNET_X_SHARED", SHARED.into()),
            ("MACHNET_X_VERSION_MAJOR", version(env!("CARGO_PKG_VERSION_MAJOR"))),
            ("MACHNET_X_VERSION_MINOR", version(env!("CARGO_PKG_VERSION_MINOR"))),
            ("MACHNET_X_VERSION_PATCH", version(env!("CARGO_PKG_VERSION_PATCH"))),
            // Machnet's own layout, which programs were compiled with (its header, version 0.0.1).
            ("sizeof(MachnetFlow_t)", 12),
            ("sizeof(MachnetIovec_t)", 16),
            ("sizeof(MachnetMsgHdr_t)", 40),
            ("offsetof(MachnetMsgHdr_t, flow_info)", 4),
            ("offsetof(MachnetMsgHdr_t, msg_iov)", 16),
            ("offsetof(MachnetMsgHdr_t, msg_iovlen)", 24),
            ("offsetof(MachnetMsgHdr_t, flags)", 32),
            ("MACHNET_MSGBUF_NOTIFY_DELIVERY", 1 << 7),
            ("sizeof(g_app_uuid)", 16),
            ("sizeof(g_app_uuid_str)", 37),
        ];
        all.extend(numbers.map(|(name, number)| (name.to_owned(), number)));
        for reason in CloseReason::ALL {
            // `PeerGone` is `PEER_GONE`.
            let mut name = String::new();
            for letter in format!("{reason:?}").chars() {
                let between = if letter.is_uppercase() && !name.is_empty() { "_" } else { "" };
                write!(name, "{between}{}", letter.to_ascii_uppercase()).unwrap();
            }
            all.push((format!("MACHNET_X_REASON_{name}"), reason.to_wire().into()));
        }
        all
    }

    /// Compiles and runs a program with the header as `compiler` does, and compares.
    fn compare(compiler: &[&str], file: &str) {
        let scratch = Scratch::new().unwrap();
        let mut source = String::from("#include <machnet.h>\n#include <stdio.h>\n\nint main(void) {\n");
        for (what, _) in expected() {
            writeln!(source, "  printf(\"%lld\\n\", (long long)({what}));").unwrap();
        }
        source.push_str("  return 0;\n}\n");
        let (file, program) = (scratch.file(file), scratch.file("layout"));
        std::fs::write(&file, source).unwrap();
        let warnings = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-I", HEADER];
        let mut command = Command::new(compiler[0]);
        command.args(&compiler[1..]).args(warnings).arg(&file).arg("-o").arg(&program);
        let compiled = command.output().unwrap_or_else(|why| panic!("{} is needed: {why}", compiler[0]));
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let said = Command::new(&program).output().unwrap();
        let numbers = String::from_utf8(said.stdout).unwrap();
        let in_c: Vec<i64> = numbers.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(in_c.len(), expected().len());
        for ((what, here), there) in expected().into_iter().zip(in_c) {
            assert_eq!(here, there, "{what} by {compiler:?}");
        }
    }

    #[test]
    fn c_and_cpp_lay_out_what_is_laid_out_here() {
        assert!(Path::new(HEADER).join("machnet.h").is_file());
        compare(&["cc", "-std=c11"], "layout.c");
        compare(&["c++", "-std=c++17"], "layout.cpp");
    }
}
