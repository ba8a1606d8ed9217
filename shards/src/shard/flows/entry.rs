//! A flow, and what its shard keeps about it.

use machnet::daemon::channel::{Opened, RxBuffer, TxBuffer, Violation};
use machnet_core::addr::MacAddr;
use machnet_core::flow::{CloseReason, FlowId};
use machnet_core::message::Content;
use machnet_core::time::{Duration, Instant};
use machnet_proto::Incarnation;
use machnet_proto::addr::FlowKey;
use machnet_proto::dialect::Dialect;
use machnet_proto::flow::fragments::{self, Fragments};
use machnet_proto::flow::{Birth, Flow, Piece, Progress, Role, SavedFlow, Verdict};
use machnet_proto::handshake::Features;
use machnet_proto::packet::{Fragment, Segment, Stamp};
use machnet_proto::state::Unsound;
use serde::{Deserialize, Serialize};

use super::super::Settings;
use super::super::channels::{Channel, Load, Notice, Reclaiming, WaitingList};
use super::super::turn::Turn;
use super::way::{Sign, Way};
use crate::counters::{Counter, DropReason, FlowCounts, FlowRecord};

/// A flow and what the shard keeps about it. Read it as a [`SavedEntry`].
#[derive(Serialize)]
pub(super) struct Entry {
    pub(super) flow: Flow<Load, RxBuffer>,
    #[serde(skip)]
    pub(super) key: FlowKey,
    /// Tells this flow from another one with the same tuple.
    pub(super) incarnation: Incarnation,
    /// What its packets are written in.
    pub(super) dialect: Dialect,
    pub(super) way: Way,
    #[serde(skip)]
    pub(super) place: Place,
    /// Pieces its application published that wait for the window.
    pub(super) waiting: WaitingList,
    #[serde(skip)]
    pub(super) lists: Lists,
    pub(super) standing: Standing,
    /// What others are to see of it, as far as it is counted here.
    pub(super) counts: FlowCounts,
    /// Where they see it; `None` until it is in the table.
    #[serde(skip)]
    pub(super) record: Option<FlowRecord>,
    /// The channel's epoch in which data of this flow was counted last.
    #[serde(skip)]
    pub(super) epoch_seen: u32,
    /// How long the shard had not run, over all its life, when the flow was told of it last.
    absences_seen: Duration,
}

/// An [`Entry`] as it was read: what does not follow from its tuple, its place and the shard's settings.
#[derive(Deserialize)]
pub(super) struct SavedEntry {
    flow: SavedFlow<u32>,
    incarnation: Incarnation,
    dialect: Dialect,
    next_hop: MacAddr,
    waiting: WaitingList,
    standing: Standing,
    counts: FlowCounts,
    absences_seen: Duration,
}

impl SavedEntry {
    /// The entry of the flow with this tuple, at this place of its channel.
    pub(super) fn restore(
        self,
        key: &FlowKey,
        place: Place,
        channel: &mut Reclaiming,
        settings: &Settings,
        now: Instant,
    ) -> Result<Entry, Unsound> {
        let Self { flow, incarnation, dialect, next_hop, waiting, standing, counts, absences_seen } = self;
        let (flow, waiting) = channel.restore_flow(flow, waiting, &settings.flow, now)?;
        Ok(Entry {
            flow,
            key: *key,
            incarnation,
            dialect,
            way: Way::new(key, next_hop, settings),
            place,
            waiting,
            lists: Lists::default(),
            standing,
            counts,
            record: None,
            epoch_seen: u32::MAX,
            absences_seen,
        })
    }
}

/// Where a flow stands in its channel.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Slot of the channel.
    pub(super) slot: usize,
    /// Among the channel's flows.
    pub(super) index: usize,
}

/// The lists that a flow stands in.
#[derive(Default)]
pub(super) struct Lists {
    /// Those that may have something to deliver or to transmit.
    pub(super) is_ready: bool,
    /// Its channel's list of starved flows.
    pub(super) is_starved: bool,
    /// Those whose peer is to answer or to be answered: a count.
    pub(super) is_unsettled: bool,
    /// Those whose numbers others have not seen yet.
    pub(super) is_unpublished: bool,
}

/// Who knows of a flow.
#[derive(Serialize, Deserialize)]
pub(super) struct Standing {
    pub(super) origin: Origin,
    /// Whether no other shard can have the flow. A SYN that came twice may have left it half open at two shards; the
    /// coordinator decides which one keeps it. Until then nothing of it leaves the shard, neither to the application
    /// nor to the peer, who would take what only a copy has for delivered.
    pub(super) is_kept: bool,
    /// Whether its application has been told of it. Until then nothing of it is published, nor is its end: an
    /// application that does not read leaves no room for events, but always for pieces.
    pub(super) is_announced: bool,
}

/// Who opened a flow, and who knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Origin {
    /// Our application: it has the answer to its connect.
    Connected,
    /// A peer.
    Accepted,
}

impl Entry {
    /// A flow whose handshake has ended, in the channel of this slot; its index there is still to be said.
    pub(super) fn new(
        birth: &Birth,
        key: &FlowKey,
        next_hop: MacAddr,
        slot: usize,
        absences: Duration,
        turn: &Turn<'_>,
    ) -> Self {
        let settings = turn.settings;
        Self {
            flow: Flow::new(birth, &settings.flow, turn.now),
            key: *key,
            incarnation: birth.incarnation,
            dialect: birth.dialect,
            way: Way::new(key, next_hop, settings),
            place: Place { slot, index: 0 },
            waiting: WaitingList::default(),
            lists: Lists::default(),
            standing: Standing {
                origin: match birth.role {
                    Role::Connector => Origin::Connected,
                    Role::Acceptor => Origin::Accepted,
                },
                is_kept: birth.role == Role::Connector || settings.is_alone,
                is_announced: false,
            },
            counts: FlowCounts::default(),
            record: None,
            epoch_seen: u32::MAX,
            absences_seen: absences,
        }
    }

    /// Takes a part of a packet whose path has become too narrow for it; gives the packet if this was the last part.
    #[cold]
    pub(super) fn put_together(
        &self,
        fragments: &mut Fragments,
        id: FlowId,
        segment: &Segment,
        fragment: Fragment,
        payload: &[u8],
    ) -> Result<Option<(Segment, Vec<u8>)>, DropReason> {
        if !self.flow.expects(segment) {
            return Err(DropReason::Invalid);
        }
        let added = fragments.add(id, segment.seq, fragment, payload, self.max_payload());
        let payload = added.map_err(|fragments::Unfit| DropReason::Fragment)?;
        Ok(payload.map(|payload| (fragments::whole(segment), payload)))
    }

    /// What both hosts can take in one packet, in bytes.
    pub(super) fn max_payload(&self) -> u16 {
        self.flow.max_payload()
    }

    /// Whether several messages may share a packet.
    #[inline]
    pub(super) fn takes_records(&self) -> bool {
        self.flow.features().contains(Features::RECORDS)
    }

    /// What its application is told when the flow is there.
    pub(super) fn opened(&self, id: FlowId) -> Notice {
        let opened = Opened {
            local: (self.key.local_ip, self.key.local_port).into(),
            remote: (self.key.remote_ip, self.key.remote_port).into(),
            max_payload: self.flow.payload_bytes(),
            accepted: self.standing.origin == Origin::Accepted,
            takes_records: self.takes_records(),
        };
        Notice::Opened { flow: id, opened }
    }

    /// Whether what arrived may be published: its application knows of the flow, or there is none any more.
    #[inline]
    pub(super) fn is_deliverable(&self, channel: &Channel) -> bool {
        self.standing.is_announced || !channel.is_open()
    }

    /// Whether it has ended before its application was told of it, and there is nothing to tell: it goes at once,
    /// or whoever opens flows to an application that does not read could fill the table with such ones.
    pub(super) fn is_stillborn(&self) -> bool {
        self.standing.origin == Origin::Accepted && self.flow.is_closed() && self.flow.received() == 0
    }

    /// Takes what its application wants sent, to wait for the window.
    #[inline]
    pub(super) fn publish(
        &mut self,
        channel: &mut Channel,
        piece: Piece<TxBuffer>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Violation> {
        if piece.len > self.max_payload() {
            return Err(Violation::LengthTooLarge);
        }
        if matches!(piece.content, Content::Records(_)) && !self.takes_records() {
            return Err(Violation::ImpossibleRecords);
        }
        let messages = u64::from(piece.content.messages());
        turn.counts.add(Counter::TxMessages, messages);
        self.counts.tx_messages += messages;
        self.counts.tx_bytes += u64::from(piece.len);
        channel.push_waiting(&mut self.waiting, piece);
        Ok(())
    }

    /// Lets others see its numbers.
    pub(super) fn publish_counts(&mut self) {
        self.counts.acknowledged_messages = self.flow.acknowledged_messages();
        self.counts.in_flight_packets = self.flow.in_flight().into();
        self.counts.rtt_ns = self.flow.rtt().as_nanos();
        if let Some(record) = &self.record {
            record.publish(&self.counts);
        }
    }

    /// Ends the flow in order; nothing that arrived or arrives is delivered any more.
    pub(super) fn close(&mut self, channel: &mut Channel, reason: CloseReason) {
        self.flow.close(reason);
        for buffer in self.flow.drain_received() {
            channel.give_back(buffer);
        }
    }

    /// A packet came from a MAC that is not where the flow's frames go, or while it is being seen whether they are to
    /// go elsewhere. `echo`: which packet of ours it has seen last; `before`: how far the flow had got.
    #[cold]
    pub(super) fn find_way(&mut self, source: MacAddr, echo: Option<Stamp>, verdict: Verdict, before: Progress) {
        if matches!(verdict, Verdict::Invalid(_) | Verdict::Ended) {
            return;
        }
        let now = Progress::of(&self.flow);
        let is_news = verdict == Verdict::Accepted || now.acknowledged_to != before.acknowledged_to;
        let sign = if now.is_confirmed && !before.is_confirmed {
            Sign::Confirmation
        } else if self.way.is_answer(source, echo) {
            Sign::Answer
        } else if is_news {
            Sign::News
        } else {
            Sign::Nothing
        };
        if self.way.hear_from(source, sign) {
            self.flow.probe();
        }
    }

    /// The shard itself has not run for so long, over all its life: moves the deadlines by which the peer counts as
    /// silent by what is new of that.
    #[inline]
    pub(super) fn learn_absences(&mut self, absences: Duration) {
        if self.absences_seen != absences {
            self.flow.skip_gap(absences.saturating_sub(self.absences_seen));
            self.absences_seen = absences;
        }
    }
}
