//! Neighbors that have another address, and how far flows have been told.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use machnet_core::addr::MacAddr;
use machnet_proto::flow::FlowTable;
use machnet_proto::state::{Unsound, ensure};
use serde::{Deserialize, Serialize};

use super::entry::Entry;

/// Places of the table that a change of many flows looks at in one turn.
const PLACES_PER_TURN: usize = 256;

/// Changes of next hops that are told a part each turn; beyond, the oldest is told at once.
const MOVES_MAX: usize = 64;

/// A neighbor has another address.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(in crate::shard) struct Move {
    /// The address that flows to this peer used so far.
    pub(in crate::shard) previous: MacAddr,
    /// The new one.
    pub(in crate::shard) current: MacAddr,
    /// The peer whose flows it is about; `None` for all that used `previous`.
    pub(in crate::shard) peer: Option<Ipv4Addr>,
}

impl Move {
    fn apply(&self, entry: &mut Entry) {
        if entry.way.next_hop() == self.previous && self.peer.is_none_or(|peer| peer == entry.key.remote_ip) {
            entry.way.redirect(self.current);
        }
    }
}

/// Changes that not all flows have heard of: a part of them is told each turn, any other when it is served.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Moves(VecDeque<(Move, usize)>);

impl Moves {
    /// One more.
    pub(super) fn add(&mut self, change: Move, table: &mut FlowTable<Entry>) {
        if self.0.len() >= MOVES_MAX
            && let Some((oldest, told)) = self.0.pop_front()
        {
            table.visit(told, usize::MAX, |entry| oldest.apply(entry));
        }
        self.0.push_back((change, 0));
    }

    /// Whether all flows have heard of everything.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells one flow of all of them.
    #[inline]
    pub(super) fn tell(&self, entry: &mut Entry) {
        for (change, _) in &self.0 {
            change.apply(entry);
        }
    }

    /// Tells the next part of the flows.
    pub(super) fn go_on(&mut self, table: &mut FlowTable<Entry>) {
        let Some((change, told)) = self.0.front_mut() else { return };
        let is_over = table.visit(*told, PLACES_PER_TURN, |entry| change.apply(entry));
        *told += PLACES_PER_TURN;
        if is_over {
            self.0.pop_front();
        }
    }

    /// Whether what was read can be.
    pub(super) fn check(&self) -> Result<(), Unsound> {
        ensure(self.0.len() <= MOVES_MAX, "more neighbors have moved than can be told at a time")
    }
}
