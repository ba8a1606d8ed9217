//! Tests of the channel: what both ends promise each other.

#[cfg(not(loom))]
mod adoption;
#[cfg(not(loom))]
mod bells;
#[cfg(not(loom))]
mod caches;
#[cfg(not(loom))]
mod death;
#[cfg(not(loom))]
mod hostile;
#[cfg(not(loom))]
mod lengths;
#[cfg(not(loom))]
mod messages;
#[cfg(loom)]
mod races;
#[cfg(not(loom))]
mod random;

#[cfg(not(loom))]
use both::*;

#[cfg(not(loom))]
mod both {
    use std::collections::HashMap;
    use std::io::IoSlice;
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use rustix::buffer::spare_capacity;
    use rustix::event::{Timespec, epoll};

    use crate::channel::{
        AppEnd, ChannelSendError, FromApp, FromShard, Geometry, Opened, RxBuffer, ShardEnd, TxBuffer, Violation,
    };
    use machnet_core::flow::FlowId;
    use machnet_core::message::{Content, Position};

    /// Descriptors the shard takes at a time.
    const DESCRIPTORS: usize = 64;

    pub(super) const FLOW: FlowId = FlowId(7);
    pub(super) const OTHER: FlowId = FlowId(0xffff_fffe);

    pub(super) fn channel(geometry: Geometry) -> (Shard, AppEnd) {
        let (end, handles) = ShardEnd::create(geometry).expect("a channel");
        let app = AppEnd::open(geometry, handles).expect("its other end");
        (Shard::new(end), app)
    }

    pub(super) fn small(tx_buffers: u32, rx_buffers: u32) -> Geometry {
        Geometry::from_parts(64, tx_buffers, rx_buffers).expect("good measures")
    }

    pub(super) fn opened(max_payload: u16) -> Opened {
        Opened {
            local: ([10, 0, 0, 1], 50_000).into(),
            remote: ([10, 255, 0, 2], 888).into(),
            max_payload,
            accepted: true,
            takes_records: true,
        }
    }

    /// Bytes that differ from message to message.
    pub(super) fn message(seed: usize, bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at.wrapping_mul(31) ^ at >> 8 ^ seed.wrapping_mul(97)).to_le_bytes()[0]).collect()
    }

    pub(super) fn send(app: &mut AppEnd, flow: FlowId, bytes: &[u8]) -> Result<(), ChannelSendError> {
        app.send(flow, &[IoSlice::new(bytes)])
    }

    /// What was received, without the guards.
    #[derive(Debug, PartialEq, Eq)]
    pub(super) enum Got {
        Opened(FlowId, Opened),
        Message(FlowId, Vec<u8>),
        Silent(FlowId),
        Alive(FlowId),
        Closed(FlowId, u16, u64),
    }

    pub(super) fn recv(app: &mut AppEnd) -> Option<Got> {
        app.recv().expect("a whole channel").map(|received| match received {
            FromShard::Opened { flow, opened } => Got::Opened(flow, opened),
            FromShard::Message { flow, message } => {
                let mut bytes = vec![0; message.len() + 1];
                assert_eq!(message.copy_to(&mut bytes), message.len());
                bytes.pop();
                assert_eq!(message.slices().flatten().copied().collect::<Vec<u8>>(), bytes);
                assert!(message.as_slice().is_none_or(|slice| slice == bytes));
                Got::Message(flow, bytes)
            }
            FromShard::Silent { flow } => Got::Silent(flow),
            FromShard::Alive { flow } => Got::Alive(flow),
            FromShard::Closed { flow, reason, acknowledged_messages } => {
                Got::Closed(flow, reason, acknowledged_messages)
            }
        })
    }

    /// What the shard took, with pieces put together.
    #[derive(Debug, PartialEq, Eq)]
    pub(super) enum Took {
        Message(FlowId, Vec<u8>),
        Close(FlowId),
        Abort(FlowId),
        Release(FlowId),
    }

    /// The messages of a buffer that has several.
    fn split_records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        while let Some((length, rest)) = bytes.split_first_chunk() {
            let (message, behind) = rest.split_at(usize::from(u16::from_be_bytes(*length)));
            messages.push(message.to_vec());
            bytes = behind;
        }
        messages
    }

    /// A shard's end, and the little that a shard does with it.
    pub(super) struct Shard {
        pub(super) end: ShardEnd,
        partial: HashMap<FlowId, Vec<u8>>,
        /// Over its bell.
        epoll: OwnedFd,
    }

    impl Shard {
        pub(super) fn new(end: ShardEnd) -> Self {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("a descriptor");
            let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
            epoll::add(&epoll, end.bell(), epoll::EventData::new_u64(0), flags).expect("it can be watched");
            Self { end, partial: HashMap::new(), epoll }
        }

        /// Whether its bell has rung since the last call, or rings within this time.
        pub(super) fn is_rung_within(&self, patience: Duration) -> bool {
            let mut events = Vec::with_capacity(1);
            let timeout = Timespec::try_from(patience).expect("a short time");
            epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout)).expect("waited") > 0
        }

        /// Whether its bell has rung since the last call.
        pub(super) fn is_rung(&self) -> bool {
            self.is_rung_within(Duration::ZERO)
        }

        /// Takes everything, and completes the buffers.
        pub(super) fn take(&mut self) -> Result<Vec<Took>, Violation> {
            let mut held = Vec::new();
            let all = self.take_and_hold(&mut held)?;
            for buffer in held {
                self.end.complete(buffer);
            }
            self.end.poll_fill()?;
            self.end.flush();
            Ok(all)
        }

        /// Takes everything, and keeps the buffers.
        pub(super) fn take_and_hold(&mut self, held: &mut Vec<TxBuffer>) -> Result<Vec<Took>, Violation> {
            let mut all = Vec::new();
            let mut descriptors = Vec::with_capacity(DESCRIPTORS);
            while self.end.poll_tx(&mut descriptors)? > 0 {
                for descriptor in descriptors.drain(..) {
                    match descriptor {
                        FromApp::Piece { flow, buffer, len, content: Content::Piece(Position { first, last }) } => {
                            let bytes = self.partial.entry(flow).or_default();
                            assert_eq!(first, bytes.is_empty(), "pieces are in order");
                            let from = bytes.len();
                            bytes.resize(from + usize::from(len), 0);
                            self.end.copy_from(&buffer, &mut bytes[from..]);
                            if last {
                                all.push(Took::Message(flow, self.partial.remove(&flow).expect("just added")));
                            }
                            held.push(buffer);
                        }
                        FromApp::Piece { flow, buffer, len, content: Content::Records(records) } => {
                            let mut bytes = vec![0; usize::from(len)];
                            self.end.copy_from(&buffer, &mut bytes);
                            let messages = split_records(&bytes);
                            assert_eq!(messages.len(), usize::from(records));
                            all.extend(messages.into_iter().map(|message| Took::Message(flow, message)));
                            held.push(buffer);
                        }
                        FromApp::Close { flow } => all.push(Took::Close(flow)),
                        FromApp::Abort { flow } => all.push(Took::Abort(flow)),
                        FromApp::Release { flow } => all.push(Took::Release(flow)),
                    }
                }
            }
            Ok(all)
        }

        pub(super) fn open(&mut self, flow: FlowId, max_payload: u16) {
            assert!(self.end.publish_opened(flow, &opened(max_payload)), "there is room");
            self.end.flush();
        }

        /// Publishes a message, if there are buffers; taking back those that were given back before each piece.
        pub(super) fn deliver(&mut self, flow: FlowId, bytes: &[u8], max_payload: usize) {
            let pieces = bytes.chunks(max_payload);
            let count = pieces.len();
            for (index, piece) in pieces.enumerate() {
                self.deliver_piece(flow, piece, index == 0, index + 1 == count);
            }
            self.end.flush();
        }

        pub(super) fn deliver_piece(&mut self, flow: FlowId, piece: &[u8], first: bool, last: bool) {
            let buffer = self.end.allocate().expect("a free buffer");
            self.end.copy_to(&buffer, piece);
            let len = u16::try_from(piece.len()).expect("a piece");
            self.end.publish(flow, buffer, len, Content::Piece(Position { first, last }));
        }

        /// Publishes several messages in one buffer, if there is one.
        pub(super) fn deliver_together(&mut self, flow: FlowId, messages: &[&[u8]]) {
            let records = messages.iter().flat_map(|message| {
                let length = u16::try_from(message.len()).expect("a small message").to_be_bytes();
                length.into_iter().chain(message.iter().copied())
            });
            let bytes: Vec<u8> = records.collect();
            let buffer = self.end.allocate().expect("a free buffer");
            self.end.copy_to(&buffer, &bytes);
            let len = u16::try_from(bytes.len()).expect("they fit a buffer");
            let count = u16::try_from(messages.len()).expect("a few");
            self.end.publish(flow, buffer, len, Content::Records(count));
            self.end.flush();
        }

        /// The same shard as another process goes on with it: its end through bytes, what the kernel holds passed on.
        /// The buffers that it held are its again.
        pub(super) fn handed_over(self, transmit: &mut [TxBuffer], receive: &mut [RxBuffer]) -> Self {
            let (state, handles) = self.end.save();
            let bytes = postcard::to_allocvec(&state).expect("a state can be written");
            let read = postcard::from_bytes(&bytes).expect("a state can be read");
            assert_eq!(read, state);
            let (end, mut lent) = ShardEnd::adopt(read, handles).expect("a good state");
            for buffer in transmit {
                *buffer = lent.take_tx(buffer.index()).expect("it was held");
                assert_eq!(lent.take_tx(buffer.index()), None, "once");
            }
            for buffer in receive {
                *buffer = lent.take_rx(buffer.index()).expect("it was held");
                assert_eq!(lent.take_rx(buffer.index()), None, "once");
            }
            assert!(lent.is_empty());
            Self { partial: self.partial, ..Self::new(end) }
        }

        pub(super) fn has_partial(&self) -> bool {
            !self.partial.is_empty()
        }

        /// Every receive buffer is free or with the application.
        pub(super) fn assert_no_receive_buffer_lost(&self) {
            let all = self.end.geometry().rx_buffers() as usize;
            assert_eq!(self.end.free_buffers() + self.end.buffers_with_app(), all);
        }
    }
}
