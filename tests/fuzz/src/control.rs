//! Messages of the control socket: any packet is one, or refused in a sentence; one that is written is read as it was.

use std::fmt::Debug;

use machnet::daemon::control::message::{Numbered, PACKET_BYTES_MAX, Reply, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) fn run(packet: &[u8]) {
    trip::<Request>(packet);
    trip::<Reply>(packet);
}

fn trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(packet: &[u8]) {
    let Ok(message) = Numbered::<T>::decode(packet) else { return };
    let again = message.encode();
    // What grows when it is written may be too long then.
    if again.len() <= PACKET_BYTES_MAX {
        assert_eq!(Numbered::decode(&again).as_ref(), Ok(&message));
    }
}
