//! One life of a flow.

use crate::seq::SeqNo;

/// Names one life of a flow among all that have the same tuple. A daemon makes the names up as it pleases; they never
/// leave it.
///
/// Between hosts with the extension it is the peer's nonce, which is random and new with each SYN; a host without one
/// gets a name of our own making.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// The name of the flow whose peer showed this nonce.
    pub fn of_nonce(nonce: u32) -> Self {
        Self(u64::from(nonce))
    }
}

/// The first number of a side that showed this nonce: the nonce stands for the number of its SYN.
pub(crate) fn first_seq(nonce: u32) -> SeqNo {
    SeqNo::new(nonce) + 1
}
