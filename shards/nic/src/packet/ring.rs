//! The two rings of a packet socket.
//!
//! A slot has one owner at any moment, the kernel or us. Its status word says who, and is what hands it over.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use libc::{
    TP_STATUS_AVAILABLE, TP_STATUS_CSUM_VALID, TP_STATUS_CSUMNOTREADY, TP_STATUS_KERNEL, TP_STATUS_SEND_REQUEST,
    TP_STATUS_USER, TP_STATUS_VLAN_VALID, TP_STATUS_WRONG_FORMAT, TPACKET2_HDRLEN, sockaddr_ll, tpacket_req,
    tpacket2_hdr,
};
use machnet_proto::wire::ethernet::VLAN_NUMBER;
use rustix::fd::BorrowedFd;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::frame::{PacketFrame, Slot};
use crate::{Checksum, ETHERNET_HEADER_BYTES, Frame, GsoLimits};

/// The longest frame: the kernel cuts what is as long as its `gso_max_size`, 65,536.
const GSO_BYTES_MAX: usize = 65_535;
/// Packets in a GSO batch, at the most. The kernel takes 64 (UDP_MAX_SEGMENTS before Linux 6.9); with fewer the other
/// host works at the first ones while the last ones are still being sent, and 16 save nearly all of what GSO batches
/// can save.
const GSO_PACKETS_MAX: usize = 16;

/// Bytes of a slot before a received frame: the kernel's headers, aligned together with an Ethernet header, and its
/// virtio header. Rounded up.
const BEFORE_FRAME_BYTES: usize = 128;
/// TPACKET_ALIGNMENT.
const SLOT_ALIGNMENT_BYTES: usize = 16;

/// The kernel allocates a ring in blocks, which no slot crosses. Large ones, so that little is left over in each.
const BLOCK_BYTES: usize = 1 << 20;
/// What the rings of all queues of an interface may take together.
const INTERFACE_BYTES_MAX: usize = 128 << 20;
/// Blocks of a receive ring and of a transmit ring: with many queues at least so many, with few at the most.
const RECEIVE_BLOCKS: (usize, usize) = (10, 32);
const TRANSMIT_BLOCKS: (usize, usize) = (4, 16);

/// The virtio header of linux/virtio_net.h, as packet sockets use it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct VirtioHeader {
    flags: u8,
    segments: u8,
    headers_bytes: u16,
    segment_bytes: u16,
    checksum_from: u16,
    checksum_at: u16,
}

const VIRTIO_HEADER_BYTES: usize = 10;
const _: () = assert!(size_of::<VirtioHeader>() == VIRTIO_HEADER_BYTES);

/// VIRTIO_NET_HDR_F_NEEDS_CSUM: the checksum is the pseudo header's only; the frame never was on a wire.
const NEEDS_CHECKSUM: u8 = 1;
/// VIRTIO_NET_HDR_GSO_UDP_L4.
const SEGMENTS_UDP: u8 = 5;

/// Ethernet, IPv4 and UDP headers of the frames we send; where UDP's begins, and its checksum within it.
const HEADERS_BYTES: u16 = 42;
const UDP_AT: u16 = 34;
const UDP_CHECKSUM_AT: u16 = 6;

/// Where in its slot a frame to transmit begins, or the virtio header before it.
const TRANSMIT_AT: usize = TPACKET2_HDRLEN - size_of::<sockaddr_ll>();
/// A packet's headers, 96 bytes, end in the cache line behind the one they begin in, which the virtio header is in too.
const PREFETCHED_BYTES: usize = 64;
/// Where in its slot the address of a received frame lies.
const ADDRESS_AT: usize = size_of::<tpacket2_hdr>().next_multiple_of(SLOT_ALIGNMENT_BYTES);

/// How large rings and slots are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measures {
    slot_bytes: usize,
    slots_per_block: usize,
    receive_blocks: usize,
    transmit_blocks: usize,
    /// The longest frame that fits.
    frame_bytes: usize,
    /// `None`: the kernel's virtio header does not know them, and is not asked for.
    gso_limits: Option<GsoLimits>,
}

impl Measures {
    pub(super) fn new(mtu_bytes: u16, has_gso: bool, queues: u16) -> Self {
        let plain = ETHERNET_HEADER_BYTES + usize::from(mtu_bytes);
        let frame_bytes = if has_gso { GSO_BYTES_MAX } else { plain };
        let slot_bytes = (frame_bytes + BEFORE_FRAME_BYTES).next_multiple_of(SLOT_ALIGNMENT_BYTES);
        let blocks = INTERFACE_BYTES_MAX / BLOCK_BYTES / usize::from(queues);
        Self {
            slot_bytes,
            slots_per_block: BLOCK_BYTES / slot_bytes,
            receive_blocks: (blocks * 2 / 3).clamp(RECEIVE_BLOCKS.0, RECEIVE_BLOCKS.1),
            transmit_blocks: (blocks / 3).clamp(TRANSMIT_BLOCKS.0, TRANSMIT_BLOCKS.1),
            frame_bytes,
            gso_limits: has_gso.then_some(GsoLimits { bytes_max: GSO_BYTES_MAX, packets_max: GSO_PACKETS_MAX }),
        }
    }

    /// What a GSO batch may be, if there are any, and with them the virtio header.
    pub(super) fn gso_limits(&self) -> Option<GsoLimits> {
        self.gso_limits
    }

    /// What the kernel is asked for: the receive ring, the transmit ring.
    pub(super) fn requests(&self) -> [tpacket_req; 2] {
        [self.receive_blocks, self.transmit_blocks].map(|blocks| {
            let number = |number: usize| u32::try_from(number).expect("rings have megabytes");
            tpacket_req {
                tp_block_size: number(BLOCK_BYTES),
                tp_block_nr: number(blocks),
                tp_frame_size: number(self.slot_bytes),
                tp_frame_nr: number(blocks * self.slots_per_block),
            }
        })
    }

    /// What the rings of one queue take.
    pub(super) fn bytes(&self) -> usize {
        (self.receive_blocks + self.transmit_blocks) * BLOCK_BYTES
    }
}

/// Both rings of one socket.
pub(super) struct Rings {
    base: NonNull<u8>,
    measures: Measures,
    receive: Box<[Slot]>,
    transmit: Box<[Slot]>,
    /// The slot the kernel fills next.
    next_received: usize,
    /// The slot of the transmit ring that is handed to the kernel next, which takes them in order; and how many from
    /// there on were given out as frames.
    next_submitted: usize,
    allocated: usize,
    refusal: Option<Refusal>,
}

/// The device has no room for a frame, as the kernel puts it, which tries again at every push and takes no other one
/// before. Either that is so, and passes; or something behind the device drops this very frame, as a veth does that
/// leads to one with a smaller MTU, and that would be the end of the queue.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    /// The slot of the transmit ring.
    at: usize,
    times: u32,
    since: Instant,
}

/// When a frame is given up: after so many pushes, and so long; but at the second push if it is longer than what every
/// Ethernet carries, and so possibly sent to see whether it passes. (Whatever its length, a GSO batch passes a veth.)
const REFUSALS_MAX: u32 = 16;
const REFUSED_MAX: Duration = Duration::from_millis(50);
const ORDINARY_BYTES: usize = ETHERNET_HEADER_BYTES + 1_500;

// SAFETY: the mapping belongs to the process; who has the `Rings` uses it.
unsafe impl Send for Rings {}

/// What was found in the next slot of the receive ring.
pub(super) enum RingFrame {
    /// Nothing yet.
    Nothing,
    Frame(PacketFrame),
    /// Sent by this host.
    Own,
    /// Of a VLAN.
    OtherVlan,
    /// Longer than a slot.
    Oversized,
}

impl Rings {
    /// Maps the rings that were set up with these measures.
    pub(super) fn map(socket: BorrowedFd<'_>, measures: &Measures) -> rustix::io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses the address, so nothing that exists is replaced; a failure is an error.
        let base = unsafe { mmap(std::ptr::null_mut(), measures.bytes(), protection, MapFlags::SHARED, socket, 0) }?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(rustix::io::Errno::NOMEM)?;
        let slots = |first_block: usize, blocks: usize| {
            let slot = |index: usize| {
                let block = first_block + index / measures.slots_per_block;
                let within = index % measures.slots_per_block * measures.slot_bytes;
                // SAFETY: within the mapping, which has so many blocks of so many slots.
                let header = unsafe { base.add(block * BLOCK_BYTES + within) }.cast();
                // SAFETY: aligned, as blocks and slots are; `Drop` leaves it mapped while a frame stands for it.
                unsafe { Slot::new(header) }
            };
            (0..blocks * measures.slots_per_block).map(slot).collect()
        };
        Ok(Self {
            base,
            measures: *measures,
            receive: slots(0, measures.receive_blocks),
            transmit: slots(measures.receive_blocks, measures.transmit_blocks),
            next_received: 0,
            next_submitted: 0,
            allocated: 0,
            refusal: None,
        })
    }

    pub(super) fn measures(&self) -> &Measures {
        &self.measures
    }

    /// Takes the next slot that the kernel has filled.
    pub(super) fn receive(&mut self) -> RingFrame {
        let slot = &self.receive[self.next_received];
        // SYNC POINT: the frame. Pairs with the kernel's write of the status behind its copy.
        let status = slot.status().load(Ordering::Acquire);
        if status & TP_STATUS_USER == 0 || slot.is_held.load(Ordering::Relaxed) {
            return RingFrame::Nothing;
        }
        self.next_received = if self.next_received + 1 == self.receive.len() { 0 } else { self.next_received + 1 };
        self.receive[self.next_received].prefetch(0);
        let header: tpacket2_hdr = slot.read(0);
        let address: sockaddr_ll = slot.read(ADDRESS_AT);
        // The kernel has taken the tag out of the frame. Number 0 is no VLAN: such a tag only carries a priority.
        let is_of_vlan = status & TP_STATUS_VLAN_VALID != 0 && header.tp_vlan_tci & VLAN_NUMBER != 0;
        let unwanted = match address.sll_pkttype {
            libc::PACKET_OUTGOING => Some(RingFrame::Own),
            _ if is_of_vlan => Some(RingFrame::OtherVlan),
            _ if header.tp_snaplen != header.tp_len => Some(RingFrame::Oversized),
            _ => None,
        };
        if let Some(unwanted) = unwanted {
            slot.status().store(TP_STATUS_KERNEL, Ordering::Release);
            return unwanted;
        }
        let at = usize::from(header.tp_mac);
        // The frame is looked at after all others of the burst have been taken.
        slot.prefetch(at + PREFETCHED_BYTES);
        let mut checksum = match status {
            _ if status & TP_STATUS_CSUMNOTREADY != 0 => Checksum::Partial,
            _ if status & TP_STATUS_CSUM_VALID != 0 => Checksum::Verified,
            _ => Checksum::Unverified,
        };
        let mut segment_bytes = 0;
        if self.measures.gso_limits.is_some() {
            let virtio: VirtioHeader = slot.read(at - VIRTIO_HEADER_BYTES);
            if virtio.flags & NEEDS_CHECKSUM != 0 {
                checksum = Checksum::Partial;
            }
            segment_bytes = if virtio.segments == SEGMENTS_UDP { virtio.segment_bytes } else { 0 };
        }
        RingFrame::Frame(PacketFrame::received(slot, at, header.tp_snaplen, segment_bytes, checksum))
    }

    /// A frame in the next free slot of the transmit ring.
    pub(super) fn allocate(&mut self) -> Option<PacketFrame> {
        // Frames that were dropped again, the youngest first.
        while self.allocated > 0 && !self.ahead(self.allocated - 1).is_held.load(Ordering::Acquire) {
            self.allocated -= 1;
        }
        if self.allocated == self.transmit.len() || !is_free(self.ahead(self.allocated)) {
            return None;
        }
        self.allocated += 1;
        Some(self.frame_in(self.ahead(self.allocated - 1)))
    }

    /// Hands over frames from the front, in order, as many as there are slots for. A frame in the slot that is next
    /// stays where it is; any other is copied there.
    pub(super) fn transmit(&mut self, frames: &mut Vec<PacketFrame>) -> usize {
        let mut taken = 0;
        while let Some(frame) = frames.get(taken) {
            if !frame.is_in(self.ahead(0)) && !self.make_way(&mut frames[taken..]) {
                break;
            }
            self.submit(&frames[taken]);
            taken += 1;
        }
        frames.drain(..taken);
        taken
    }

    /// Puts the first of `frames`, which lies elsewhere, into the next slot. False if that is not ours, or somebody
    /// holds it who does not want to transmit it now.
    fn make_way(&mut self, frames: &mut [PacketFrame]) -> bool {
        let slot = self.ahead(0);
        if slot.is_held.load(Ordering::Acquire) {
            let Some(holder) = frames.iter_mut().find(|frame| frame.is_in(slot)) else { return false };
            holder.move_to_heap();
        } else if self.allocated == 0 {
            if !is_free(slot) {
                return false;
            }
            self.allocated = 1;
        }
        let mut moved = self.frame_in(self.ahead(0));
        let frame = &mut frames[0];
        // What was received, or fitted into a slot before, does so again.
        moved.set_len(frame.bytes().len());
        moved.bytes_mut().copy_from_slice(frame.bytes());
        moved.set_offloads(frame.checksum(), frame.segment_bytes());
        *frame = moved;
        true
    }

    /// Gives the next slot to the kernel, with the frame that lies in it.
    fn submit(&mut self, frame: &PacketFrame) {
        let mut len = frame.bytes().len();
        let slot = self.ahead(0);
        if self.measures.gso_limits.is_some() {
            let mut virtio = VirtioHeader::default();
            if frame.checksum() == Checksum::Partial {
                virtio.flags = NEEDS_CHECKSUM;
                (virtio.checksum_from, virtio.checksum_at) = (UDP_AT, UDP_CHECKSUM_AT);
                virtio.headers_bytes = HEADERS_BYTES;
            }
            if frame.segment_bytes() != 0 {
                (virtio.segments, virtio.segment_bytes) = (SEGMENTS_UDP, frame.segment_bytes());
            }
            slot.write(TRANSMIT_AT, virtio);
            len += VIRTIO_HEADER_BYTES;
        }
        slot.set_len(u32::try_from(len).expect("slots have kilobytes"));
        // SYNC POINT: the frame. Pairs with the kernel's read of the status.
        slot.status().store(TP_STATUS_SEND_REQUEST, Ordering::Release);
        self.next_submitted = if self.next_submitted + 1 == self.transmit.len() { 0 } else { self.next_submitted + 1 };
        self.allocated -= 1;
    }

    /// A push has ended because the device had no room. Says whether a frame was given up for it.
    pub(super) fn give_up_refused(&mut self) -> bool {
        let waits = |at: usize| self.transmit[at].status().load(Ordering::Acquire) == TP_STATUS_SEND_REQUEST;
        let now = Instant::now();
        let refusal = match self.refusal.filter(|refusal| waits(refusal.at)) {
            Some(refusal) => Refusal { times: refusal.times + 1, ..refusal },
            None => {
                // The kernel takes them in order, so the next one to be written is the first one after the oldest.
                let mut in_order = (self.next_submitted..self.transmit.len()).chain(0..self.next_submitted);
                let Some(at) = in_order.find(|at| waits(*at)) else { return false };
                Refusal { at, times: 1, since: now }
            }
        };
        let is_long_refused = refusal.times >= REFUSALS_MAX && now.duration_since(refusal.since) >= REFUSED_MAX;
        let gives_up = is_long_refused || refusal.times >= 2 && self.is_long_packet(refusal.at);
        if gives_up {
            // Shorter than any header, and so malformed: with PACKET_LOSS the kernel skips it. It looks at slots during
            // a push only.
            self.transmit[refusal.at].set_len(1);
        }
        self.refusal = (!gives_up).then_some(refusal);
        gives_up
    }

    /// A push has ended for another reason, or with everything sent.
    pub(super) fn forget_refusal(&mut self) {
        self.refusal = None;
    }

    /// Whether a slot of the transmit ring holds one packet, and a longer one than every Ethernet carries.
    fn is_long_packet(&self, at: usize) -> bool {
        let slot = &self.transmit[at];
        let mut len = slot.read::<tpacket2_hdr>(0).tp_len as usize;
        if self.measures.gso_limits.is_some() {
            len = len.saturating_sub(VIRTIO_HEADER_BYTES);
            if slot.read::<VirtioHeader>(TRANSMIT_AT).segments != 0 {
                return false;
            }
        }
        len > ORDINARY_BYTES
    }

    /// The slot of the transmit ring so many behind the one that is handed over next.
    fn ahead(&self, distance: usize) -> &Slot {
        let index = self.next_submitted + distance;
        &self.transmit[if index < self.transmit.len() { index } else { index - self.transmit.len() }]
    }

    /// An empty frame in a slot of the transmit ring.
    fn frame_in(&self, slot: &Slot) -> PacketFrame {
        let before = if self.measures.gso_limits.is_some() { VIRTIO_HEADER_BYTES } else { 0 };
        let capacity = u32::try_from(self.measures.frame_bytes).expect("slots have kilobytes");
        PacketFrame::to_transmit(slot, TRANSMIT_AT + before, capacity)
    }
}

/// Whether the kernel is done with a slot of the transmit ring.
fn is_free(slot: &Slot) -> bool {
    // SYNC POINT: the kernel has read the slot. Pairs with its write of the status.
    match slot.status().load(Ordering::Acquire) {
        TP_STATUS_AVAILABLE => true,
        // Refused for its form: the interface's MTU has become smaller. Lost, as on any wire.
        status if status & TP_STATUS_WRONG_FORMAT != 0 => {
            slot.status().store(TP_STATUS_AVAILABLE, Ordering::Relaxed);
            true
        }
        _ => false,
    }
}

impl Drop for Rings {
    fn drop(&mut self) {
        let slots = self.receive.iter().chain(&self.transmit);
        if slots.into_iter().any(|slot| slot.is_held.load(Ordering::Acquire)) {
            // A frame that outlives its queue keeps what it points to, for good.
            std::mem::forget((std::mem::take(&mut self.receive), std::mem::take(&mut self.transmit)));
            return;
        }
        // SAFETY: mapped by `map` with this length, unmapped once; no frame points into it.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.measures.bytes()) };
    }
}
