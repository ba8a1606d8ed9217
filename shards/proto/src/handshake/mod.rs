//! How two hosts open a flow: what each brings into it, and what they agree on.
//!
//! ```text
//!   Connector                                   Acceptor
//!     SYN      terms, its nonce          ---->
//!              <----  SYN-ACK  terms, its nonce, echo of the connector's
//!           or <----  refusal  the connector's nonce, why
//!     the flow's first packet            ---->  the flow is established
//! ```
//!
//! A SYN repeated is byte for byte the same; so is its answer, whichever shard gives it: the acceptor's nonce is a
//! keyed hash of the flow's addresses and the connector's nonce. The first DATA of a side has the number after its
//! nonce.
//!
//! * [`Connector`]: one flow that this side is about to open: SYNs, retries, and what the answer means.
//! * [`Acceptor`]: all flows that peers are about to open: answers, and what becomes of them.

mod acceptor;
mod connector;
mod half_open;

#[cfg(feature = "serde")]
pub use acceptor::SavedAcceptor;
pub use acceptor::{Acceptor, NONCE_LIFETIME, NotConfirmed};
#[cfg(feature = "serde")]
pub use connector::SavedConnector;
pub use connector::{Answer, Connector, Patience};
pub use half_open::HalfOpenFlow;

use bitflags::bitflags;
use machnet_core::payload::MTU_MIN;

use crate::dialect::Dialect;

/// The version of the extension spoken here.
pub const VERSION: u8 = 1;

/// The least a host may offer as its largest payload.
pub const PAYLOAD_BYTES_MIN: u16 = Dialect::OURS.payload_budget(MTU_MIN, 0);

/// Packets that a peer is taken to have buffers for until its first segment says so: it overcommits one for each flow.
const FIRST_WINDOW_PACKETS: u16 = 1;

bitflags! {
    /// What a flow may use if both sides offer it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
    pub struct Features: u8 {
        /// A packet may carry several small messages.
        const RECORDS = 1 << 0;
        /// Every packet has a UDP checksum, and one that is missing or wrong is dropped.
        const CHECKSUM = 1 << 1;
        /// PROBEs with padding are answered with its length, and fragments of packets are put together.
        const PATH_PROBES = 1 << 2;
    }
}

impl Features {
    /// What this implementation can do.
    pub const SUPPORTED: Self = Self::all();

    /// Whether a packet counts whose UDP checksum is right, wrong, or not there (`None`), where these were agreed on.
    /// The checksum is looked at only if that matters.
    #[inline]
    pub fn admit(self, checksum_is_good: impl FnOnce() -> Option<bool>) -> bool {
        !self.contains(Self::CHECKSUM) || checksum_is_good() == Some(true)
    }
}

/// What one side offers in its SYN, or accepts in its SYN-ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Offer {
    /// The highest version of the extension the sender speaks.
    pub version: u8,
    /// What it can do; unknown bits are kept, and vanish when intersected with ours.
    pub features: Features,
    /// Random: names this incarnation of the flow and offsets the sender's sequence space.
    pub nonce: u32,
}

/// What one side brings into a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Terms {
    /// Version, features and nonce.
    pub offer: Offer,
    /// The largest payload it can receive in one packet, in bytes; at least [`PAYLOAD_BYTES_MIN`].
    pub max_payload: u16,
    /// Random, new with every start of its daemon: tells a restarted host from a slow one.
    pub boot_id: u64,
}

impl Terms {
    /// What this implementation brings on an interface with this MTU. The nonce is still to be put in.
    pub fn of_interface(mtu_bytes: u16, boot_id: u64) -> Self {
        let offer = Offer { version: VERSION, features: Features::SUPPORTED, nonce: 0 };
        Self { offer, max_payload: Dialect::OURS.payload_budget(mtu_bytes, 0), boot_id }
    }

    /// The same, for one flow.
    #[must_use]
    pub fn with_nonce(self, nonce: u32) -> Self {
        Self { offer: Offer { nonce, ..self.offer }, ..self }
    }
}

/// What both sides of a flow hold to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Agreed {
    /// What the flow speaks.
    pub dialect: Dialect,
    /// The lower of the two versions.
    pub version: u8,
    /// The features that both offered.
    pub features: Features,
    /// The lower of the two largest payloads, in bytes.
    pub max_payload: u16,
}

/// What two sides agree on who speak this dialect; either side comes to the same result.
pub fn agree(dialect: Dialect, ours: &Terms, theirs: &Terms) -> Agreed {
    Agreed {
        dialect,
        version: ours.offer.version.min(theirs.offer.version),
        features: ours.offer.features & theirs.offer.features,
        max_payload: ours.max_payload.min(theirs.max_payload),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms {
        offer: Offer { version: VERSION, features: Features::SUPPORTED, nonce: 0xa1b2_c3d4 },
        max_payload: 1_418,
        boot_id: 0x0123_4567_89ab_cdef,
    };

    #[test]
    fn the_lower_version_the_common_features_and_the_smaller_payload_are_agreed() {
        let offer = Offer { version: 9, features: Features::from_bits_retain(0xff), nonce: 1 };
        let newer = Terms { offer, max_payload: 8_918, boot_id: 5 };
        let dialect = Dialect::OURS;
        let expected = Agreed { dialect, version: VERSION, features: Features::SUPPORTED, max_payload: 1_418 };
        assert_eq!(agree(dialect, &TERMS, &newer), expected);
        assert_eq!(agree(dialect, &newer, &TERMS), expected);
        let plain = Terms { offer: Offer { features: Features::CHECKSUM, ..newer.offer }, ..newer };
        let agreed = agree(dialect, &TERMS, &plain).features;
        assert!(agreed.contains(Features::CHECKSUM) && !agreed.contains(Features::RECORDS));
        assert!((Features::RECORDS | Features::CHECKSUM).contains(Features::RECORDS));
    }

    #[test]
    fn a_checksum_matters_where_it_was_agreed_on() {
        for (good, counts) in [(Some(true), true), (Some(false), false), (None, false)] {
            assert_eq!(Features::SUPPORTED.admit(|| good), counts);
            assert!(Features::RECORDS.admit(|| panic!("nobody need look")));
            assert_eq!(Dialect::OURS.admits_without_flow(good), counts);
        }
    }
}
