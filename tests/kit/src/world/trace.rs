//! What happened, as one number: two runs of a seed are the same run if their traces are equal.

use std::cell::Cell;

use machnet_core::time::Instant;
use machnet_proto::dialect::Dialect;
use machnet_proto::wire::frame::{self, Parsed};

/// A running hash over everything that frames, daemons and applications did, in order.
///
/// With `SIM_LOG` in the environment every event is printed as well.
#[derive(Debug)]
pub struct Trace {
    hash: Cell<u64>,
    events: Cell<u64>,
    now: Cell<Instant>,
    is_loud: bool,
}

impl Trace {
    pub(crate) fn new() -> Self {
        let is_loud = std::env::var_os("SIM_LOG").is_some();
        Self { hash: Cell::new(0), events: Cell::new(0), now: Cell::new(Instant::ZERO), is_loud }
    }

    /// It is now this moment.
    pub(crate) fn advance_to(&self, now: Instant) {
        self.now.set(now);
    }

    /// Something happened that these numbers describe.
    pub(crate) fn note(&self, words: &[u64]) {
        let mut hash = mix(self.hash.get(), self.now.get().as_nanos());
        for word in words {
            hash = mix(hash, *word);
        }
        self.hash.set(hash);
        self.events.set(self.events.get() + 1);
    }

    /// A device sends this frame.
    pub(crate) fn frame(&self, bytes: &[u8]) {
        let (chunks, rest) = bytes.as_chunks::<8>();
        let mut hash = mix(self.hash.get(), self.now.get().as_nanos());
        for chunk in chunks {
            hash = mix(hash, u64::from_le_bytes(*chunk));
        }
        for byte in rest {
            hash = mix(hash, u64::from(*byte));
        }
        self.hash.set(hash);
        self.events.set(self.events.get() + 1);
        self.say(|| describe(bytes));
    }

    /// Says what happened, for people.
    pub(crate) fn say(&self, what: impl FnOnce() -> String) {
        if self.is_loud {
            println!("{:>14.3} us  {}", self.now.get().as_nanos() as f64 / 1e3, what());
        }
    }

    /// The number of everything so far.
    pub fn hash(&self) -> u64 {
        mix(self.hash.get(), self.events.get())
    }
}

/// A frame in a line.
fn describe(bytes: &[u8]) -> String {
    let Ok(Parsed::Udp(datagram)) = frame::parse(bytes) else {
        return format!("frame {:02x?}", &bytes[..42.min(bytes.len())]);
    };
    match Dialect::recognize(datagram.payload).read(datagram.payload) {
        Ok((packet, payload)) => {
            let beginning = &payload[..payload.len().min(8)];
            format!("frame {:?} {} bytes {beginning:02x?} {packet:?}", datagram.key.reversed(), payload.len())
        }
        Err(error) => format!("frame {:?} {error:?} {:02x?}", datagram.key.reversed(), datagram.payload),
    }
}

fn mix(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(29) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}
