//! Attacks of a host on the link, which sends what it likes.

pub(crate) mod addresses;
pub(crate) mod closing;
pub(crate) mod hoarding;
pub(crate) mod replay;
