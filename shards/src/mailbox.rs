//! Every message between shards and coordinator, and both ends of the mailboxes they travel in: the
//! daemon's concurrency on one page.
//!
//! ```text
//!                 ToShard                      one mailbox per shard
//!   Coordinator ───────────▶ Shard 0..N
//!        ▲                     │
//!        └─────────────────────┘
//!              ToCoordinator                   one mailbox, shared by all shards
//! ```
//!
//! Nobody ever blocks on a mailbox. A shard that finds the coordinator's mailbox full keeps what must not be lost as
//! state and tries again next turn; the coordinator keeps a bounded outbox per shard. Frames on the data path never
//! travel here: a mailbox is for control, and takes a lock inside.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use machnet::daemon::channel::{ShardEnd, Violation};
use machnet_core::addr::MacAddr;
use machnet_core::flow::{CloseReason, FlowId};
use machnet_core::time::Duration;
use machnet_proto::Incarnation;
use machnet_proto::addr::FlowKey;
use machnet_proto::dialect::Dialect;
use machnet_proto::flow::Birth;
use machnet_proto::handshake;
use machnet_proto::packet::{Packet, Segment};
use machnet_proto::wire::arp;
use machnet_proto::wire::echo_parts::EchoPart;
use machnet_proto::wire::unreachable::Obstacle;
use rustix::event::{EventfdFlags, eventfd};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

use crate::counters::ChannelCounts;
use crate::handover;

/// A shard, counted over all interfaces of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardId(pub u16);

/// A channel: an endpoint's memory shared with one shard. Never used twice in a daemon's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChannelId(pub u64);

/// A connect request the coordinator is working on. Never used twice in a daemon's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConnectId(pub u64);

/// An endpoint that accepts flows on one address and port. Never used twice in a daemon's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ListenerId(pub u64);

/// Where a shard finds the channel of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AcceptTarget {
    /// Here: flows are accepted into this channel.
    Channel(ChannelId),
    /// At another shard, the only one to which the endpoint has a channel: frames of its flows are handed over.
    Shard(ShardId),
}

/// A flow that is half open at a shard, with the address that its SYN came from and its frames will go to.
pub type HalfOpenFlow = handshake::HalfOpenFlow<MacAddr>;

/// A packet of a flow that the shard it came to does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnmatchedPacket {
    /// Where the NIC put it.
    pub landed: ShardId,
    /// The shard that has no such flow: the same one, or the one it was handed over to.
    pub reporter: ShardId,
    /// The flow it belongs to.
    pub key: FlowKey,
    /// Who sent the frame.
    pub source_mac: MacAddr,
    /// What it is written in, and its answer.
    pub dialect: Dialect,
    /// The RST for a peer whose flow nobody has; `None` if the packet wants no answer.
    pub answer: Option<Segment>,
    /// It is the first packet of a flow that some shard of this daemon offered to accept: it proves knowledge of the
    /// nonce in our SYN-ACK. That shard has the half-open flow.
    pub confirms: bool,
}

/// What the coordinator asks of a shard.
#[derive(Debug)]
pub enum ToShard {
    /// Serve this channel from now on.
    AddChannel {
        /// Its name in later messages.
        channel: ChannelId,
        /// The shard's end of it.
        end: Box<ShardEnd>,
        /// Where the shard says how the channel is.
        counts: ChannelCounts,
    },
    /// The channel's application is gone or misbehaved: accept nothing new for it, deliver what it published within
    /// `linger`, close its flows with `reason`, free it, answer [`ToCoordinator::ChannelGone`].
    RemoveChannel {
        /// The channel.
        channel: ChannelId,
        /// What the peers are told.
        reason: CloseReason,
        /// How long messages already published may take to be acknowledged.
        linger: Duration,
    },
    /// Accept flows to this port of the interface's address for this listener; answer [`ToCoordinator::Listening`].
    /// Several listeners of one port share its flows.
    Listen {
        /// UDP port of the listener.
        port: u16,
        /// Its name in later messages.
        listener: ListenerId,
        /// Where accepted flows go.
        target: AcceptTarget,
    },
    /// Accept no more flows for this listener. Flows already accepted live on.
    Unlisten {
        /// UDP port of the listener.
        port: u16,
        /// Which of those that share it.
        listener: ListenerId,
    },
    /// Transmit this frame (ARP, ICMP), as it is.
    Transmit {
        /// A whole Ethernet frame without its checksum.
        frame: Box<[u8]>,
    },
    /// Send this packet, which carries no messages.
    Send {
        /// The MAC address it goes to; the interface's own if it goes to this very interface.
        next_hop: MacAddr,
        /// The tuple of the flow it is about.
        key: FlowKey,
        /// What it is written in.
        dialect: Dialect,
        /// The packet, read.
        packet: Packet,
    },
    /// A SYN was sent for this tuple: pass answers to it on, as [`ToCoordinator::Answer`].
    Expect {
        /// The flow that would be.
        key: FlowKey,
    },
    /// The connect is over: answers to it are those of an unknown flow again.
    Forget {
        /// The flow that is or is not to be.
        key: FlowKey,
    },
    /// The peer accepted: create the flow, established, and answer [`ToCoordinator::Created`].
    Create {
        /// The connect this ends.
        connect: ConnectId,
        /// The flow's tuple.
        key: FlowKey,
        /// Where its frames go: the peer, or the gateway.
        next_hop: MacAddr,
        /// What the handshake agreed on.
        birth: Birth,
        /// The connecting endpoint's channel on this shard.
        channel: ChannelId,
    },
    /// The flow that was accepted here is in the directory: no other shard has it. A shard that is not alone waits for
    /// this or [`ToShard::Drop`] after [`ToCoordinator::Accepted`].
    Keep {
        /// The flow's tuple.
        key: FlowKey,
        /// Tells this flow from another one with the same tuple.
        incarnation: Incarnation,
    },
    /// The flow is not to be, or not here: forget it, silently towards the peer.
    Drop {
        /// The flow's tuple.
        key: FlowKey,
        /// Tells this flow from another one with the same tuple.
        incarnation: Incarnation,
        /// What its application is told, if it knows the flow.
        reason: CloseReason,
    },
    /// The flow lives at another shard: hand its frames over. In force until [`ToShard::Unhint`].
    Hint {
        /// The flow's tuple.
        key: FlowKey,
        /// The shard that has it. [`ToShard::HandTo`] has come before.
        owner: ShardId,
    },
    /// The flow is no more, or here.
    Unhint {
        /// The flow's tuple.
        key: FlowKey,
    },
    /// From now on frames can be handed over to this shard.
    HandTo {
        /// The shard that takes the frames.
        owner: ShardId,
        /// The way there.
        producer: handover::Producer,
    },
    /// From now on frames may be handed over by this shard.
    TakeFrom {
        /// The shard on which the frames landed.
        landed: ShardId,
        /// The way from there.
        consumer: handover::Consumer,
    },
    /// If the half-open flow of this packet is here, give it up in [`ToCoordinator::Yielded`]; it shall live where its
    /// packets arrive.
    Yield {
        /// Whose flow it may be.
        packet: Box<UnmatchedPacket>,
    },
    /// Another shard has given up this half-open flow because its packets arrive here.
    Adopt {
        /// The flow's tuple.
        key: FlowKey,
        /// What is known of it.
        flow: HalfOpenFlow,
    },
    /// A neighbor's address changed: flows whose next hop was `previous` now send to `current`.
    NextHop {
        /// The address that flows to this peer used so far.
        previous: MacAddr,
        /// The new one.
        current: MacAddr,
        /// The peer whose flows it is about; `None` for all that used `previous` (the gateway moved).
        peer: Option<Ipv4Addr>,
    },
    /// The device was opened again: use that from now on.
    Renew,
    /// Tell all peers, then answer [`ToCoordinator::Stopped`] and run no more.
    Stop,
}

/// What a shard tells the coordinator.
#[derive(Debug)]
pub enum ToCoordinator {
    /// An ARP packet. At most as many per second as the shard's budget allows.
    Arp {
        /// Where it was received.
        shard: ShardId,
        /// The packet, read.
        packet: arp::ArpPacket,
    },
    /// An echo request to the interface's address (ICMP). At most as many per second as the shard's budget allows.
    Ping {
        /// Where it was received.
        shard: ShardId,
        /// The frame that answers it, to be sent if the address is ours.
        answer: Box<[u8]>,
    },
    /// A part of an ICMP packet to the interface's address that was cut. At most as many per second as the shard's
    /// budget for echo requests allows.
    PingPart {
        /// Where it was received.
        shard: ShardId,
        /// The part, read.
        part: EchoPart<'static>,
    },
    /// Somebody says that a packet of ours, for an expected tuple, does not arrive (ICMP). At most as many per second
    /// as the shard's budget allows.
    Unreachable {
        /// The flow that would be.
        key: FlowKey,
        /// The packet that is quoted, read.
        packet: Packet,
        /// Why it does not arrive.
        obstacle: Obstacle,
    },
    /// An answer to a SYN: SYN-ACK or refusal for an expected tuple.
    Answer {
        /// Where it was received: the shard the flow shall live on.
        shard: ShardId,
        /// The flow it answers for.
        key: FlowKey,
        /// Who sent the frame.
        source_mac: MacAddr,
        /// What it is written in.
        dialect: Dialect,
        /// The packet, read.
        packet: Packet,
    },
    /// A packet of no flow of this shard came in. At most as many per second as the shard's token buckets allow.
    Unmatched(Box<UnmatchedPacket>),
    /// The answer to [`ToShard::Yield`].
    Yielded {
        /// By this shard.
        shard: ShardId,
        /// The packet that was asked about.
        packet: Box<UnmatchedPacket>,
        /// The half-open flow; `None` if it is not here.
        flow: Option<HalfOpenFlow>,
    },
    /// [`ToShard::Listen`] is in force.
    Listening {
        /// On this shard.
        shard: ShardId,
        /// For this listener.
        listener: ListenerId,
    },
    /// [`ToShard::Create`] was carried out, or why not.
    Created {
        /// By this shard.
        shard: ShardId,
        /// For this connect.
        connect: ConnectId,
        /// The flow as the application names it, within the channel.
        outcome: Result<FlowId, NotCreated>,
    },
    /// A peer's flow was accepted and confirmed.
    Accepted {
        /// By this shard.
        shard: ShardId,
        /// Its handle there.
        flow: FlowId,
        /// The flow's tuple.
        key: FlowKey,
        /// The listening endpoint's channel.
        channel: ChannelId,
        /// Tells this flow from the next one with the same tuple.
        incarnation: Incarnation,
        /// Where its packets arrive.
        landed: ShardId,
    },
    /// A flow that was created or accepted is no more.
    Closed {
        /// On this shard.
        shard: ShardId,
        /// The flow's tuple.
        key: FlowKey,
    },
    /// The application broke the rules of its channel, which is now closed; its endpoint should be ended.
    Broken {
        /// The channel.
        channel: ChannelId,
        /// The rule that was broken.
        violation: Violation,
    },
    /// The bell of a channel cannot be heard; the channel is closed as a broken one, its endpoint should be ended.
    Unheard {
        /// The channel.
        channel: ChannelId,
        /// What the host said.
        error: io::Error,
    },
    /// The channel is free: nothing of it is left on the shard.
    ChannelGone {
        /// On this shard.
        shard: ShardId,
        /// The channel.
        channel: ChannelId,
        /// What was the shard's end of it, to be dropped where nobody waits for messages: to unmap 16 MiB takes
        /// milliseconds. `None` if the shard has never had the channel.
        end: Option<Box<ShardEnd>>,
    },
    /// The peer of a flow is silent: its MAC address may have changed.
    Suspect {
        /// The peer's address.
        peer: Ipv4Addr,
        /// On this shard.
        shard: ShardId,
    },
    /// The shard has told its peers and will not run again.
    Stopped {
        /// The shard that has stopped.
        shard: ShardId,
    },
}

/// Why a shard could not create a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotCreated {
    /// Its flow table is full.
    TableFull,
    /// It has a flow with this tuple.
    Exists,
    /// The channel has ended meanwhile.
    NoChannel,
}

/// Makes a mailbox of at most `capacity` messages.
///
/// # Errors
/// When the process may not open one more descriptor.
pub fn mailbox<T>(capacity: usize) -> io::Result<(Outlet<T>, Inlet<T>)> {
    let (sender, receiver) = flume::bounded(capacity);
    let bell = Arc::new(Bell {
        mail: AtomicBool::new(false),
        asleep: AtomicBool::new(false),
        event: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
    });
    Ok((Outlet { sender, bell: Arc::clone(&bell) }, Inlet { receiver, bell }))
}

/// The end that posts.
#[derive(Debug)]
pub struct Outlet<T> {
    sender: flume::Sender<T>,
    bell: Arc<Bell>,
}

impl<T> Clone for Outlet<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), bell: Arc::clone(&self.bell) }
    }
}

impl<T> Outlet<T> {
    /// Posts a message and wakes the reader if it sleeps.
    ///
    /// # Errors
    /// Gives the message back when the mailbox is full, or its reader is gone.
    pub fn post(&self, message: T) -> Result<(), T> {
        self.sender.try_send(message).map_err(flume::TrySendError::into_inner)?;
        self.bell.ring();
        Ok(())
    }

    /// Wakes the reader as if there were mail: for the watchdog.
    pub fn nudge(&self) {
        self.bell.write();
    }

    /// What wakes the reader for something that is not in the mailbox.
    pub fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.bell))
    }
}

/// Wakes the reader of a mailbox, if it sleeps, to look at something that is not in there.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Bell>);

impl Waker {
    /// What was written before this call, an awake reader sees in its next turn, a sleeping one is woken for.
    pub fn wake(&self) {
        self.0.ring();
    }
}

/// The end that reads; one thread has it.
#[derive(Debug)]
pub struct Inlet<T> {
    receiver: flume::Receiver<T>,
    bell: Arc<Bell>,
}

impl<T> Inlet<T> {
    /// The next message, if there is one. Costs one relaxed load when there is none, and a look into the queue after a
    /// [`Waker`] was used.
    pub fn take(&self) -> Option<T> {
        if !self.bell.mail.load(Ordering::Relaxed) {
            return None;
        }
        if let Ok(message) = self.receiver.try_recv() {
            return Some(message);
        }
        // Clear first, look again after: a message posted in between sets the flag anew.
        self.bell.mail.swap(false, Ordering::SeqCst);
        let message = self.receiver.try_recv().ok()?;
        self.bell.mail.store(true, Ordering::Relaxed);
        Some(message)
    }

    /// Announces that the reader is about to sleep on [`Inlet::fd`]; `false` if there is mail and it must not.
    #[must_use]
    pub fn arm(&self) -> bool {
        self.bell.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.bell.mail.load(Ordering::Relaxed) {
            self.disarm();
            return false;
        }
        true
    }

    /// The reader is awake again.
    pub fn disarm(&self) {
        self.bell.asleep.store(false, Ordering::Relaxed);
    }

    /// Readable when an armed reader has mail.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.bell.event.as_fd()
    }

    /// Makes [`Inlet::fd`] unreadable again, after a wake by it.
    pub fn quiet(&self) {
        let mut count = [0; 8];
        // Nothing to read means nobody rang: as good.
        let _ = rustix::io::read(&self.bell.event, &mut count);
    }
}

/// What lets a poster see that the reader sleeps, and wake it.
#[derive(Debug)]
#[repr(align(128))]
struct Bell {
    /// There may be mail.
    mail: AtomicBool,
    /// The reader sleeps, or is about to.
    asleep: AtomicBool,
    event: OwnedFd,
}

const _: () = assert!(align_of::<Bell>() == 128);

impl Bell {
    fn ring(&self) {
        self.mail.store(true, Ordering::Relaxed);
        // SYNC POINT: either the reader, arming, sees `mail`, or we see `asleep`.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) {
            self.write();
        }
    }

    fn write(&self) {
        // A full counter means it has been rung: as good.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_in_order_and_a_full_mailbox_gives_them_back() {
        let (outlet, inlet) = mailbox(2).expect("a descriptor");
        assert_eq!(inlet.take(), None);
        assert_eq!(outlet.post(1), Ok(()));
        assert_eq!(outlet.post(2), Ok(()));
        assert_eq!(outlet.post(3), Err(3));
        assert_eq!(inlet.take(), Some(1));
        assert_eq!(outlet.post(3), Ok(()));
        assert_eq!((inlet.take(), inlet.take(), inlet.take()), (Some(2), Some(3), None));
    }

    #[test]
    fn only_a_sleeper_is_rung() {
        let (outlet, inlet) = mailbox(2).expect("a descriptor");
        let rung = || rustix::io::read(inlet.fd(), &mut [0; 8]).is_ok();
        assert_eq!(outlet.post(1), Ok(()));
        assert!(!rung());
        assert!(!inlet.arm(), "there is mail");
        assert_eq!((inlet.take(), inlet.take()), (Some(1), None));
        assert!(inlet.arm());
        assert_eq!(outlet.post(2), Ok(()));
        assert!(rung());
        inlet.disarm();
        assert_eq!(inlet.take(), Some(2));
    }

    #[test]
    fn no_message_is_left_behind_by_the_flag() {
        let (outlet, inlet) = mailbox(64).expect("a descriptor");
        let poster = std::thread::spawn(move || {
            for n in 0..100_000 {
                let mut message = n;
                while let Err(back) = outlet.post(message) {
                    message = back;
                    std::thread::yield_now();
                }
            }
        });
        let mut next = 0;
        while next < 100_000 {
            match inlet.take() {
                Some(n) => {
                    assert_eq!(n, next);
                    next += 1;
                }
                None => std::thread::yield_now(),
            }
        }
        poster.join().expect("the poster ends");
    }
}
