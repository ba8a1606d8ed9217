//! Hosts whose devices are driven in unlike ways: what one leaves to a device the other has to get along with.

use machnet_test_kit::hosts::VethPair;

use crate::conversation::converse;
use crate::pair::{NEVER, Pair, Side, Site, memif, set};

const PORT: u16 = 888;

/// Small messages, packets just full and just too large, and long ones, which packet sockets send as GSO batches.
const SIZES: [usize; 7] = [1, 64, 1418, 1419, 20_000, 200_000, 64];

/// What a host's device is driven by.
#[derive(Clone, Copy, Debug)]
enum Driver {
    /// Packet sockets of our own.
    AfPacket,
    /// XDP sockets.
    AfXdp,
    /// DPDK's own packet sockets.
    DpdkPacket,
    /// A tap device, which a bridge of the kernel joins with the wire.
    Tap,
}

impl Driver {
    fn write_to(self, config: &mut serde_json::Value) {
        match self {
            Self::AfPacket => set(config, "driver", "af_packet"),
            Self::AfXdp => set(config, "driver", "af_xdp"),
            Self::DpdkPacket => set(config, "device", "net_af_packet0,iface=machnet0"),
            Self::Tap => set(config, "device", "net_tap0,iface=tapped"),
        }
    }

    /// What is still to be done when the daemon runs.
    fn join(self, site: &Site) {
        if let Self::Tap = self {
            // The MAC is the daemon's, and it is behind the tap device.
            for command in [
                "link set machnet0 address 02:00:00:00:00:77",
                "link add br0 type bridge",
                "link set machnet0 master br0",
                "link set tapped master br0 up",
                "link set br0 up",
            ] {
                site.host.ip(command).unwrap();
            }
        }
    }
}

/// Flows in both directions, with every byte looked at.
fn talk(pair: &Pair) {
    let Pair { left, right, .. } = pair;
    for (from, to) in [(left, right), (right, left)] {
        let mut acceptor = to.attach();
        acceptor.listen(to.at(PORT)).unwrap();
        converse((from.attach(), from.ip()), (acceptor, to.at(PORT)), 3, &SIZES, NEVER);
    }
}

#[test]
fn hosts_with_unlike_drivers_talk() {
    use Driver::{AfPacket, AfXdp, DpdkPacket, Tap};
    let unlike = [
        [AfPacket, AfXdp],
        [AfPacket, DpdkPacket],
        [AfPacket, Tap],
        [AfXdp, DpdkPacket],
        [AfXdp, Tap],
        [DpdkPacket, Tap],
    ];
    for [left, right] in unlike {
        let pair = Pair::start_over(VethPair::default(), |side, config| {
            if side == Side::Left { left } else { right }.write_to(config);
        });
        let Some(pair) = pair else { return };
        left.join(&pair.left);
        right.join(&pair.right);
        talk(&pair);
    }
}

#[test]
fn hosts_joined_by_a_memif_talk() {
    let Some(pair) = Pair::start_over(VethPair::default(), |side, config| memif(side, config, 1)) else { return };
    talk(&pair);
}
