//! Receive side scaling: by which key and table a device spreads flows over its queues.
//!
//! A real device is given a key of ours and a table that names its queues in turn; what counts is what it reports
//! afterwards. Devices that report nothing, or nothing that makes sense, keep their secret: nothing depends on it, for
//! a flow lives where its frames land.
//!
//! The prediction is Toeplitz over source and destination address and port, and the low bits of the hash into the
//! table. igb and virtio-net do so to the bit (`make test-rig`); virtio-net's table always has 128 entries. Frames that
//! are no IP (ARP), or not UDP, arrive at queue 0 of both.

use machnet_proto::rss::{HashInput, Rss};
use rustix::rand::{GetRandomFlags, getrandom};
use std::mem::MaybeUninit;

/// The shortest key that hashes what IPv6 and TCP would need, as every device has it that spreads flows at all.
const KEY_BYTES_MIN: u16 = 40;

/// A key for a device that takes `len` bytes, and how many of them there are: 0 if the device's own is to be used.
///
/// PMDs come with the same key everywhere, so that anybody could choose ports that all land on one shard.
pub(super) fn random_key(len: u16) -> ([u8; 64], u16) {
    let mut key = [0; 64];
    let is_random = match key.get_mut(..usize::from(len)) {
        Some(bytes) => getrandom(bytes, GetRandomFlags::empty()) == Ok(usize::from(len)),
        None => false,
    };
    (key, if is_random { len } else { 0 })
}

/// How a started port spreads flows, once its table names all queues in turn if it is `real`.
pub(super) fn settle(number: u16, is_real: bool, port: &dpdk_sys::Port, queues: u16) -> Option<Rss> {
    if port.reta_size == 0 {
        return None;
    }
    if is_real {
        // SAFETY: a started port, the length it gave; the shim checks it against the room.
        let result = unsafe { dpdk_sys::shim_rss_spread(number, port.reta_size, queues) };
        if result != 0 {
            tracing::debug!("port {number} keeps its indirection table (errno {})", -result);
        }
    }
    read(number, port, queues)
}

/// Key and table, if the device means what it says: PMDs answer more than they know.
fn read(number: u16, port: &dpdk_sys::Port, queues: u16) -> Option<Rss> {
    if port.hash_key_size < KEY_BYTES_MIN || port.hashes_udp == 0 {
        return None;
    }
    let mut rss = MaybeUninit::zeroed();
    // SAFETY: a started port, the lengths it gave; the shim checks them against the room.
    let result = unsafe { dpdk_sys::shim_rss_read(number, port.reta_size, port.hash_key_size, rss.as_mut_ptr()) };
    if result != 0 {
        return None;
    }
    // SAFETY: filled by the call, and all zeroes are a valid value.
    let rss: dpdk_sys::Rss = unsafe { rss.assume_init() };
    believe(&rss, queues)
}

/// Some PMDs invent a key of zeroes, or a table that leaves queues out.
fn believe(rss: &dpdk_sys::Rss, queues: u16) -> Option<Rss> {
    let key = &rss.key[..usize::from(rss.key_len)];
    let table = &rss.table[..usize::from(rss.table_len)];
    let is_meant = rss.hashes_udp != 0
        && key.iter().any(|byte| *byte != 0)
        && table.iter().all(|queue| *queue < queues)
        && (0..queues).all(|queue| table.contains(&queue));
    Rss::new(key, table, HashInput::AddressesAndPorts).ok().filter(|_| is_meant)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported() -> dpdk_sys::Rss {
        let mut rss = dpdk_sys::Rss { key: [0x6d; 64], key_len: 40, table_len: 128, table: [0; 2048], hashes_udp: 1 };
        rss.table.iter_mut().zip([0, 1, 2, 3].into_iter().cycle()).for_each(|(entry, queue)| *entry = queue);
        rss
    }

    #[test]
    fn only_a_key_and_a_table_that_mean_something_are_believed() {
        let table = [0, 1, 2, 3].repeat(32);
        let by_ports = Rss::new(&[0x6d; 40], &table, HashInput::AddressesAndPorts).ok();
        assert_eq!(believe(&reported(), 4), by_ports);

        for (what, rss, queues) in [
            ("ports are not hashed", dpdk_sys::Rss { hashes_udp: 0, ..reported() }, 4),
            ("a key of zeroes", dpdk_sys::Rss { key: [0; 64], ..reported() }, 4),
            ("no table", dpdk_sys::Rss { table_len: 0, ..reported() }, 4),
            ("one queue gets all", dpdk_sys::Rss { table: [0; 2048], ..reported() }, 4),
            ("a queue gets nothing", reported(), 5),
            ("a queue that is not there", reported(), 3),
        ] {
            assert_eq!(believe(&rss, queues), None, "{what}");
        }
    }

    #[test]
    fn a_key_is_as_long_as_the_device_takes_it_and_another_each_time() {
        let (key, len) = random_key(40);
        assert_eq!((len, key[40..].iter().all(|byte| *byte == 0)), (40, true));
        assert_ne!(random_key(40).0, key);
        assert_eq!(random_key(65).1, 0, "more than there is room for");
    }
}
