//! Packets on their way out: into frames, and with them to the device, or back to this shard when the peer is this very
//! interface.
//!
//! Packets of one flow that are written one after the other become a GSO batch, one frame, where the device takes such.

use std::collections::VecDeque;

use machnet_proto::wire::frame::{HEADERS_BYTES, Template};

use super::ingress::packets_in;
use crate::counters::{Counter, Counts, DropReason};
use machnet_nic::{Checksum, Frame, GsoLimits, NicQueue};

/// Frames that may wait for the device. A device that takes none stops the flows, not the other way round.
const OUTGOING_MAX: usize = 128;

/// Frames that may be on their way from this shard to itself.
const LOOPED_MAX: usize = 1024;

/// Memory of looped frames kept for the next ones.
const SPARE_LOOPED_MAX: usize = 64;

/// Messages written in one turn after which frames go to the device although the turn goes on: the other host begins
/// with these while this one writes the next. Twice as many each time, so that a long turn hands over seldom.
const EARLY_MESSAGES: u16 = 16;

/// A shard's queue, and the frames that are to go out through it.
pub(super) struct Egress<Q: NicQueue> {
    queue: Q,
    /// What the device takes as one frame; `None`: one packet.
    gso_limits: Option<GsoLimits>,
    /// Whether the device completes checksums.
    completes: bool,
    outgoing: Vec<Q::Frame>,
    /// Frames of this shard to itself.
    looped: VecDeque<Vec<u8>>,
    spare_looped: Vec<Vec<u8>>,
    /// Allocated, and not needed so far.
    spare: Option<Q::Frame>,
    /// The frame that packets are being written into.
    open: Option<Open<Q::Frame>>,
    early: Early,
}

/// What a turn hands over before it ends.
struct Early {
    /// Messages still to be written before the next time.
    after: u16,
    /// Messages from one time to the next.
    every: u16,
    /// Frames the device has taken so far in this turn.
    taken: usize,
}

impl Early {
    const START: Self = Self { after: EARLY_MESSAGES, every: EARLY_MESSAGES, taken: 0 };
}

/// A frame that more packets may join.
struct Open<F> {
    frame: F,
    packets: usize,
    /// Bytes of each packet, but perhaps of the last.
    segment_bytes: usize,
}

impl<Q: NicQueue> Egress<Q> {
    pub(super) fn new(queue: Q) -> Self {
        assert!(queue.completes() || queue.gso_limits().is_none(), "whoever cuts a GSO batch completes its packets");
        Self {
            gso_limits: queue.gso_limits(),
            completes: queue.completes(),
            queue,
            outgoing: Vec::with_capacity(OUTGOING_MAX + 1),
            looped: VecDeque::new(),
            spare_looped: Vec::new(),
            spare: None,
            open: None,
            early: Early::START,
        }
    }

    /// The queue. Frames that the device has not taken are lost, as on any wire.
    pub(super) fn into_queue(self) -> Q {
        self.queue
    }

    pub(super) fn queue(&mut self) -> &mut Q {
        &mut self.queue
    }

    /// The device was opened again. Frames that it has not taken are lost, as on any wire.
    pub(super) fn renew(&mut self) {
        self.outgoing.clear();
        (self.spare, self.open) = (None, None);
        self.queue.renew();
        (self.gso_limits, self.completes) = (self.queue.gso_limits(), self.queue.completes());
    }

    /// Whether the device keeps up: otherwise no flow is asked for more.
    pub(super) fn has_room(&self) -> bool {
        self.outgoing.len() < OUTGOING_MAX
    }

    // ---- Packets ------------------------------------------------------------------------------------------------

    /// Whether one more packet can be written: makes sure that there is a frame for it.
    #[inline]
    pub(super) fn prepare(&mut self, to_ourselves: bool, counts: &mut Counts) -> bool {
        if to_ourselves {
            let has_room = self.looped.len() < LOOPED_MAX;
            if !has_room {
                counts.drop(DropReason::LoopFull);
            }
            return has_room;
        }
        self.has_room() && self.find_frame(counts)
    }

    /// The same for what belongs to a packet that was begun, also if the device does not keep up.
    pub(super) fn prepare_more(&mut self, to_ourselves: bool, counts: &mut Counts) -> bool {
        if to_ourselves { self.prepare(true, counts) } else { self.find_frame(counts) }
    }

    #[inline]
    fn find_frame(&mut self, counts: &mut Counts) -> bool {
        if self.spare.is_none() {
            self.spare = self.queue.allocate();
            if self.spare.is_none() {
                counts.count(Counter::NoFrame);
            }
        }
        self.spare.is_some()
    }

    /// The UDP payload of one more packet to write, after [`Egress::prepare`]. All packets between two calls of
    /// [`Egress::finish`] are of one flow.
    #[inline]
    pub(super) fn append(&mut self, bytes: usize, to_ourselves: bool, template: &Template) -> &mut [u8] {
        if to_ourselves {
            return self.append_looped(bytes, template);
        }
        let joins = self.open.as_ref().is_some_and(|open| joins(open, bytes, self.gso_limits));
        if !joins {
            self.finish(template);
            let mut frame = self.spare.take().expect("prepared");
            frame.set_len(HEADERS_BYTES);
            self.open = Some(Open { frame, packets: 0, segment_bytes: bytes });
        }
        let open = self.open.as_mut().expect("opened above, or before");
        let before = open.frame.bytes().len();
        open.packets += 1;
        open.frame.set_len(before + bytes);
        &mut open.frame.bytes_mut()[before..]
    }

    /// A looped frame is never on a wire: it is written as it will be received, without a checksum.
    fn append_looped(&mut self, bytes: usize, template: &Template) -> &mut [u8] {
        let mut frame = self.spare_looped.pop().unwrap_or_default();
        frame.resize(HEADERS_BYTES + bytes, 0);
        template.write(&mut frame);
        self.looped.push_back(frame);
        let frame = self.looped.back_mut().expect("just pushed");
        &mut frame[HEADERS_BYTES..]
    }

    /// Ends the frame that packets were written into.
    #[inline]
    pub(super) fn finish(&mut self, template: &Template) {
        let Some(Open { mut frame, packets, segment_bytes }) = self.open.take() else { return };
        template.write(frame.bytes_mut());
        if self.completes {
            template.seal_partly(frame.bytes_mut());
            let segment_bytes = if packets > 1 { segment_bytes } else { 0 };
            frame.set_offloads(Checksum::Partial, u16::try_from(segment_bytes).expect("packets are short"));
        } else {
            template.seal(frame.bytes_mut());
        }
        self.outgoing.push(frame);
    }

    /// A packet with so many messages was written: hands over what there is if that is enough for the other host to
    /// begin with.
    #[inline]
    pub(super) fn wrote(&mut self, messages: u16, template: &Template, counts: &mut Counts) {
        self.early.after = self.early.after.saturating_sub(messages);
        if self.early.after == 0 {
            self.finish(template);
            self.early.taken += self.hand_over(counts);
            // A device that has not taken all is asked again when the turn ends.
            self.early.every = if self.outgoing.is_empty() { self.early.every.saturating_mul(2) } else { u16::MAX };
            self.early.after = self.early.every;
        }
    }

    /// One packet by itself, if there is room for it.
    pub(super) fn send(
        &mut self,
        template: &Template,
        payload: &[u8],
        to_ourselves: bool,
        counts: &mut Counts,
    ) -> bool {
        let has_room = self.prepare(to_ourselves, counts);
        if has_room {
            self.append(payload.len(), to_ourselves, template).copy_from_slice(payload);
            self.finish(template);
        }
        has_room
    }

    /// Sends these bytes as a frame to the device, if there is room for them.
    pub(super) fn send_frame(&mut self, bytes: &[u8], counts: &mut Counts) {
        if !self.prepare(false, counts) {
            return;
        }
        let mut frame = self.spare.take().expect("prepared");
        if bytes.len() <= frame.capacity() {
            frame.set_len(bytes.len());
            frame.bytes_mut().copy_from_slice(bytes);
            self.outgoing.push(frame);
        } else {
            self.spare = Some(frame);
        }
    }

    // ---- Frames -------------------------------------------------------------------------------------------------

    /// Takes the next frame that this shard sent to itself; give it back by [`Egress::recycle_looped`].
    pub(super) fn take_looped(&mut self) -> Option<Vec<u8>> {
        self.looped.pop_front()
    }

    pub(super) fn recycle_looped(&mut self, frame: Vec<u8>) {
        if self.spare_looped.len() < SPARE_LOOPED_MAX {
            self.spare_looped.push(frame);
        }
    }

    /// How many frames this shard has sent to itself.
    pub(super) fn looped(&self) -> usize {
        self.looped.len()
    }

    /// Whether frames wait, for the device or for this shard's next turn.
    pub(super) fn has_frames(&self) -> bool {
        !self.outgoing.is_empty() || !self.looped.is_empty()
    }

    /// At the end of a turn: hands over to the device what it takes. Gives how many frames the device has taken in this
    /// turn.
    pub(super) fn transmit(&mut self, counts: &mut Counts) -> usize {
        let early = std::mem::replace(&mut self.early, Early::START);
        let taken = early.taken + self.hand_over(counts);
        if !self.outgoing.is_empty() {
            counts.count(Counter::TxBackpressure);
        }
        taken
    }

    /// A GSO batch counts as its packets.
    fn hand_over(&mut self, counts: &mut Counts) -> usize {
        if self.outgoing.is_empty() {
            return 0;
        }
        let (frames_before, bytes_before) = totals(&self.outgoing);
        let taken = self.queue.transmit(&mut self.outgoing);
        let (frames_left, bytes_left) = totals(&self.outgoing);
        counts.add(Counter::TxFrames, frames_before - frames_left);
        counts.add(Counter::TxBytes, bytes_before - bytes_left);
        taken
    }
}

/// Whether a packet of so many bytes can join the frame.
#[inline]
fn joins<F: Frame>(open: &Open<F>, bytes: usize, gso_limits: Option<GsoLimits>) -> bool {
    let len = open.frame.bytes().len();
    // A shorter one is the last.
    let is_open = len == HEADERS_BYTES + open.packets * open.segment_bytes;
    gso_limits.is_some_and(|limits| {
        is_open && bytes <= open.segment_bytes && open.packets < limits.packets_max && len + bytes <= limits.bytes_max
    })
}

/// Packets and bytes in these frames.
fn totals<F: Frame>(frames: &[F]) -> (u64, u64) {
    let add = |(packets, bytes), frame: &F| (packets + packets_in(frame), bytes + frame.bytes().len() as u64);
    frames.iter().fold((0, 0), add)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use machnet_core::addr::MacAddr;
    use machnet_proto::addr::FlowKey;

    use super::*;
    use crate::counters::Registry;
    use machnet_nic::Wake;
    use machnet_nic::memory::{Cable, MemoryFrame, MemoryQueue, Network, NicOptions};

    /// A queue that remembers how many frames were handed over at a time.
    #[derive(Debug)]
    struct Watched {
        below: MemoryQueue,
        bursts: Vec<usize>,
        takes_none: bool,
        renewed: usize,
    }

    impl NicQueue for Watched {
        type Frame = MemoryFrame;

        fn receive(&mut self, into: &mut Vec<MemoryFrame>, max: usize) -> usize {
            self.below.receive(into, max)
        }

        fn allocate(&mut self) -> Option<MemoryFrame> {
            self.below.allocate()
        }

        fn gso_limits(&self) -> Option<GsoLimits> {
            self.below.gso_limits()
        }

        fn transmit(&mut self, frames: &mut Vec<MemoryFrame>) -> usize {
            self.bursts.push(frames.len());
            if self.takes_none { 0 } else { self.below.transmit(frames) }
        }

        fn flush(&mut self) -> bool {
            self.below.flush()
        }

        fn wake(&self) -> Wake<'_> {
            self.below.wake()
        }

        fn renew(&mut self) {
            self.renewed += 1;
        }
    }

    fn egress(gso_limits: Option<GsoLimits>) -> Egress<Watched> {
        let near = NicOptions { gso_limits, ..NicOptions::default() };
        let far = NicOptions { mac: NicOptions::mac_of(2), ..near.clone() };
        let Cable { near, .. } = Cable::between(Network::new(0), &near, &far);
        Egress::new(Watched { below: near.into_queue(), bursts: Vec::new(), takes_none: false, renewed: 0 })
    }

    fn template() -> Template {
        let key = FlowKey {
            local_ip: Ipv4Addr::new(10, 0, 0, 1),
            local_port: 1,
            remote_ip: Ipv4Addr::new(10, 0, 0, 2),
            remote_port: 2,
        };
        Template::new(MacAddr([2; 6]), MacAddr([4; 6]), &key)
    }

    /// The bursts of a turn that writes packets with so many messages each, to a device that takes GSO batches or not.
    fn bursts(messages: &[u16], gso_limits: Option<GsoLimits>) -> Vec<usize> {
        let (template, mut egress) = (template(), egress(gso_limits));
        let (_, mut counts) = Registry::default().enter();
        for &messages in messages {
            assert!(egress.prepare(false, &mut counts));
            egress.append(64, false, &template);
            egress.wrote(messages, &template, &mut counts);
        }
        egress.finish(&template);
        let handed_over = egress.transmit(&mut counts);
        assert_eq!(counts.get(Counter::TxFrames), messages.len() as u64);
        assert_eq!(handed_over, egress.queue().bursts.iter().sum::<usize>());
        assert!(!egress.has_frames());
        std::mem::take(&mut egress.queue().bursts)
    }

    #[test]
    fn a_device_that_was_opened_again_gets_none_of_the_frames_of_before() {
        let (template, mut egress) = (template(), egress(None));
        let (_, mut counts) = Registry::default().enter();
        egress.queue().takes_none = true;
        assert!(egress.send(&template, &[1; 64], false, &mut counts));
        egress.transmit(&mut counts);
        // One that is open, and one that is to be filled.
        assert!(egress.prepare(false, &mut counts));
        egress.append(64, false, &template);
        assert!(egress.prepare(false, &mut counts) && egress.has_frames());
        egress.renew();
        assert!(!egress.has_frames() && egress.open.is_none() && egress.spare.is_none());
        assert_eq!(egress.queue().renewed, 1);
        egress.queue().takes_none = false;
        assert!(egress.send(&template, &[2; 64], false, &mut counts));
        assert_eq!(egress.transmit(&mut counts), 1);
    }

    #[test]
    fn a_long_turn_hands_over_before_it_ends() {
        assert!(bursts(&[], None).is_empty());
        assert_eq!(bursts(&[1; 15], None), [15]);
        assert_eq!(bursts(&[1; 20], None), [16, 4]);
        assert_eq!(bursts(&[1; 100], None), [16, 32, 52]);
        // Packets full of messages, and such of long messages that do not end yet.
        assert_eq!(bursts(&[20, 20, 20], None), [1, 2]);
        assert_eq!(bursts(&[0; 60], None), [60]);
        // A GSO batch leaves with the packets it has.
        let gso_limits = Some(GsoLimits { bytes_max: 20_000, packets_max: 40 });
        assert_eq!(bursts(&[1; 15], gso_limits), [1]);
        assert_eq!(bursts(&[1; 20], gso_limits), [1, 1]);
        assert_eq!(bursts(&[1; 100], gso_limits), [1, 1, 2]);
    }
}
