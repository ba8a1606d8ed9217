//! How a segment is divided: computed by each side from the [`Geometry`], never read from the segment.

use super::tx_share::GUARANTEED_OF;
use machnet_core::message::MESSAGE_BYTES_MAX;

/// Distance between words that different sides write: two cache lines, because processors fetch them in pairs.
#[cfg(not(loom))]
const LINE_BYTES: usize = 128;
/// In the model there are no cache lines, and fewer words are quicker to explore.
#[cfg(loom)]
const LINE_BYTES: usize = WORD_BYTES;

/// Bytes of a word of a ring.
pub(super) const WORD_BYTES: usize = size_of::<u64>();

/// Words of a descriptor in `tx` and `rx`.
pub(super) const DESCRIPTOR_WORDS: usize = 2;

/// Words of an entry in `completion` and `fill`: a buffer's index.
pub(super) const INDEX_WORDS: usize = 1;

/// Pools begin at a page, so that copying never shares a page with the rings.
const PAGE_BYTES: usize = 4096;

/// Buffers are multiples of this: none shares a cache line with its neighbor.
const BUFFER_ALIGNMENT_BYTES: u32 = 64;

/// The largest buffer: a UDP payload fits.
const BUFFER_BYTES_MAX: u32 = 1 << 16;

/// Buffers a pool has at most.
const BUFFERS_MAX: u32 = 1 << 20;

/// Slots of `tx` and `rx` beyond one for each buffer: what is always there for the events of flows. The longest fits.
#[cfg(not(loom))]
const SPARE_SLOTS: u32 = 64;
#[cfg(not(loom))]
const _: () = assert!(SPARE_SLOTS as usize >= super::opened::SLOTS_MAX);
#[cfg(loom)]
const SPARE_SLOTS: u32 = 2;

/// A flow whose pieces are at least as large as this can carry a message of [`MESSAGE_BYTES_MAX`], also through
/// an interface whose own pieces are larger.
const FLOW_PAYLOAD_MIN: u16 = 1024;

/// The measures of a channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "(u32, u32, u32)", into = "(u32, u32, u32)")]
pub struct Geometry {
    buffer_bytes: u32,
    tx_buffers: u32,
    rx_buffers: u32,
}

/// Measures that no channel has: whoever sent them is not this release's daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("these are not the measures of a channel: use a daemon and a library of the same release")]
pub struct BadGeometry;

impl TryFrom<(u32, u32, u32)> for Geometry {
    type Error = BadGeometry;

    fn try_from((buffer_bytes, tx_buffers, rx_buffers): (u32, u32, u32)) -> Result<Self, BadGeometry> {
        Self::from_parts(buffer_bytes, tx_buffers, rx_buffers)
    }
}

impl From<Geometry> for (u32, u32, u32) {
    fn from(Geometry { buffer_bytes, tx_buffers, rx_buffers }: Geometry) -> Self {
        (buffer_bytes, tx_buffers, rx_buffers)
    }
}

impl Geometry {
    /// The measures for an interface whose pieces have at most `max_payload` bytes, and pools of about so many bytes.
    /// The transmit pool is enlarged until the largest message fits, and memory is used only when it is touched.
    pub fn for_payload(max_payload: u16, tx_bytes: usize, rx_bytes: usize) -> Self {
        let max_payload = max_payload.max(1);
        let buffer_bytes = u32::from(max_payload).next_multiple_of(BUFFER_ALIGNMENT_BYTES);
        let pieces = MESSAGE_BYTES_MAX.div_ceil(usize::from(max_payload.min(FLOW_PAYLOAD_MIN)));
        // Beside what is guaranteed to other flows.
        let at_least = pieces + pieces.div_ceil(GUARANTEED_OF - 1);
        let buffers = |bytes: usize, least: usize| {
            let count = (bytes / buffer_bytes as usize).max(least);
            u32::try_from(count).unwrap_or(BUFFERS_MAX).min(BUFFERS_MAX)
        };
        Self { buffer_bytes, tx_buffers: buffers(tx_bytes, at_least), rx_buffers: buffers(rx_bytes, 16) }
    }

    /// The measures that were received from elsewhere.
    pub fn from_parts(buffer_bytes: u32, tx_buffers: u32, rx_buffers: u32) -> Result<Self, BadGeometry> {
        let good_buffer =
            (1..=BUFFER_BYTES_MAX).contains(&buffer_bytes) && buffer_bytes.is_multiple_of(BUFFER_ALIGNMENT_BYTES);
        let good_counts = [tx_buffers, rx_buffers].iter().all(|count| (1..=BUFFERS_MAX).contains(count));
        if good_buffer && good_counts { Ok(Self { buffer_bytes, tx_buffers, rx_buffers }) } else { Err(BadGeometry) }
    }

    /// Bytes of one buffer.
    pub fn buffer_bytes(&self) -> u32 {
        self.buffer_bytes
    }

    /// Buffers of the transmit pool.
    pub fn tx_buffers(&self) -> u32 {
        self.tx_buffers
    }

    /// Buffers of the receive pool.
    pub fn rx_buffers(&self) -> u32 {
        self.rx_buffers
    }

    /// Receive buffers that the shard keeps for pieces that come in their order, which the application can do something
    /// with at once: those that wait for others must not take all.
    pub fn rx_buffers_kept_back(&self) -> u32 {
        (self.rx_buffers / 8).max(1)
    }

    /// Receive buffers that the application holds at most for messages that are not whole yet. Fewer than are kept
    /// back: or it could hold those that its messages wait for.
    pub(super) fn rx_buffers_held_max(&self) -> u32 {
        self.rx_buffers / 16
    }

    /// Bytes of the whole segment.
    pub fn segment_bytes(&self) -> usize {
        Layout::new(self).segment_bytes
    }
}

/// Where a ring lies, in bytes from the beginning of the segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RingLayout {
    /// The consumer's count.
    pub(super) head_at: usize,
    pub(super) slots_at: usize,
    /// A power of two.
    pub(super) slots: usize,
}

/// Where everything lies, in bytes from the beginning of the segment.
///
/// ```text
/// words the application writes │ words the shard writes │ tx │ completion │ rx │ fill │ transmit pool │ receive pool
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    pub(super) tx: RingLayout,
    pub(super) completion: RingLayout,
    pub(super) rx: RingLayout,
    pub(super) fill: RingLayout,
    /// 0: the receiving half is awake; else the number of its arming.
    pub(super) input_asleep_at: usize,
    /// 0: the sending half is awake; else 1 + the number of entries of `completion` it waits for.
    pub(super) room_asleep_at: usize,
    /// 0: the shard is awake; else twice the number of its arming, plus 1 if it wants buffers.
    pub(super) shard_asleep_at: usize,
    /// 0: not known; else 1 + the number of the CPU that the shard was seen on last.
    pub(super) shard_cpu_at: usize,
    pub(super) tx_pool_at: usize,
    pub(super) rx_pool_at: usize,
    pub(super) buffer_bytes: usize,
    pub(super) segment_bytes: usize,
}

impl Layout {
    pub(super) fn new(geometry: &Geometry) -> Self {
        let mut next = 0;
        let mut take = |bytes: usize| {
            let at = next;
            next += bytes;
            at
        };
        let (rx_head, completion_head) = (take(LINE_BYTES), take(LINE_BYTES));
        let (input_asleep_at, room_asleep_at) = (take(LINE_BYTES), take(LINE_BYTES));
        let (tx_head, fill_head) = (take(LINE_BYTES), take(LINE_BYTES));
        let (shard_asleep_at, shard_cpu_at) = (take(LINE_BYTES), take(LINE_BYTES));
        let mut ring = |head_at, slots: u32, words: usize| {
            let slots = slots.next_power_of_two() as usize;
            RingLayout { head_at, slots_at: take(slots * words * WORD_BYTES), slots }
        };
        let tx = ring(tx_head, geometry.tx_buffers + SPARE_SLOTS, DESCRIPTOR_WORDS);
        let completion = ring(completion_head, geometry.tx_buffers, INDEX_WORDS);
        let rx = ring(rx_head, geometry.rx_buffers + SPARE_SLOTS, DESCRIPTOR_WORDS);
        let fill = ring(fill_head, geometry.rx_buffers, INDEX_WORDS);
        let buffer_bytes = geometry.buffer_bytes as usize;
        let tx_pool_at = next.next_multiple_of(PAGE_BYTES);
        let rx_pool_at = (tx_pool_at + geometry.tx_buffers as usize * buffer_bytes).next_multiple_of(PAGE_BYTES);
        let segment_bytes = (rx_pool_at + geometry.rx_buffers as usize * buffer_bytes).next_multiple_of(PAGE_BYTES);
        Self {
            tx,
            completion,
            rx,
            fill,
            input_asleep_at,
            room_asleep_at,
            shard_asleep_at,
            shard_cpu_at,
            tx_pool_at,
            rx_pool_at,
            buffer_bytes,
            segment_bytes,
        }
    }
}
