//! Which flows have numbers that others have not seen yet.

use machnet_core::flow::FlowId;
use machnet_proto::flow::FlowTable;

use super::entry::Entry;

/// Flows that were served since their numbers were published last; each stands here once, and may have ended meanwhile.
#[derive(Default)]
pub(super) struct Unpublished(Vec<FlowId>);

impl Unpublished {
    /// Makes room for so many flows: when one is opened, not when packets come.
    pub(super) fn make_room(&mut self, flows: usize) {
        self.0.reserve(flows.saturating_sub(self.0.len()));
    }

    /// A flow is being served.
    #[inline]
    pub(super) fn add(&mut self, id: FlowId, entry: &mut Entry) {
        if !std::mem::replace(&mut entry.lists.is_unpublished, true) {
            self.0.push(id);
        }
    }

    /// Lets others see the numbers of all of them.
    pub(super) fn publish(&mut self, table: &mut FlowTable<Entry>) {
        for id in self.0.drain(..) {
            if let Some(entry) = table.get_mut(id) {
                entry.lists.is_unpublished = false;
                entry.publish_counts();
            }
        }
    }
}
