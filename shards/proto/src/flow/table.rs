//! The flows of a shard, found by 4-tuple and by handle.

use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt;
use core::hash::{Hash, Hasher};

use hashbrown::HashTable;
use machnet_core::flow::FlowId;
use siphasher::sip::SipHasher13;

use crate::addr::FlowKey;
#[cfg(feature = "serde")]
use crate::state::{Unsound, ensure};

/// A [`FlowId`] is a slot of its table, and how often the slot was used before. One of a flow that was removed finds
/// nothing, until its slot has been reused 4,096 times; nor does one that never existed, whoever wrote it.
const SLOT_BITS: u32 = 20;
const GENERATIONS: u32 = 1 << (u32::BITS - SLOT_BITS);

/// The most flows a table can hold.
pub const FLOWS_MAX: usize = 1 << SLOT_BITS;

/// The slot, from 0: smaller than the table's capacity. Flows that live at the same time have different ones.
pub const fn slot_of(id: FlowId) -> usize {
    (id.0 % (1 << SLOT_BITS)) as usize
}

const fn generation(id: FlowId) -> u32 {
    id.0 >> SLOT_BITS
}

#[allow(clippy::cast_possible_truncation)] // a table has at most FLOWS_MAX slots
const fn id_of(slot: usize, generation: u32) -> FlowId {
    FlowId((generation % GENERATIONS) << SLOT_BITS | slot as u32)
}

/// Why a flow was not inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// The table holds as many flows as it may.
    Full,
    /// There is a flow with this key.
    Exists(FlowId),
}

impl fmt::Display for InsertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the flow table is full; raise its limit, or close flows",
            Self::Exists(_) => "there is a flow with these addresses and ports",
        })
    }
}

impl core::error::Error for InsertError {}

/// Flows by [`FlowKey`] and by [`FlowId`], at most a fixed number of them.
///
/// The hash of keys is SipHash-1-3 under a secret seed: peers choose their ports, and must not choose who shares a
/// bucket.
#[derive(Debug)]
pub struct FlowTable<F> {
    seed: (u64, u64),
    capacity: usize,
    slots: Vec<Slot<F>>,
    /// Slots that are free, the latest to become free last.
    free: Vec<usize>,
    /// Slots by key.
    index: HashTable<usize>,
    /// The slot that was found last: packets of one flow come in runs.
    last: Cell<usize>,
}

#[derive(Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Slot<F> {
    generation: u32,
    flow: Option<(FlowKey, F)>,
}

impl<F> FlowTable<F> {
    /// A table for at most `capacity` flows, itself at most [`FLOWS_MAX`]. Memory is taken as flows come. `seed`:
    /// random in production, chosen in a simulation.
    pub fn new(capacity: usize, seed: (u64, u64)) -> Self {
        Self {
            seed,
            capacity: capacity.min(FLOWS_MAX),
            slots: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            last: Cell::new(0),
        }
    }

    /// Adds a flow; gives it back if that cannot be.
    pub fn insert(&mut self, key: FlowKey, flow: F) -> Result<FlowId, (InsertError, F)> {
        if let Some(id) = self.find(&key) {
            return Err((InsertError::Exists(id), flow));
        }
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < self.capacity => {
                self.slots.push(Slot { generation: 0, flow: None });
                self.slots.len() - 1
            }
            None => return Err((InsertError::Full, flow)),
        };
        self.slots[slot].flow = Some((key, flow));
        self.index_slot(slot, &key);
        Ok(id_of(slot, self.slots[slot].generation))
    }

    /// The slot is found by this key from now on.
    fn index_slot(&mut self, slot: usize, key: &FlowKey) {
        let Self { seed, slots, index, .. } = self;
        index.insert_unique(hash(*seed, key), slot, |&other| match &slots[other].flow {
            Some((key, _)) => hash(*seed, key),
            None => unreachable!("the index names occupied slots only"),
        });
    }

    /// The flow with this key.
    pub fn find(&self, key: &FlowKey) -> Option<FlowId> {
        self.look_up(key).map(|(id, _)| id)
    }

    /// The flow with this key, and its handle.
    pub fn look_up(&self, key: &FlowKey) -> Option<(FlowId, &F)> {
        let at = |slot: usize| match self.slots.get(slot) {
            Some(Slot { generation, flow: Some((other, flow)) }) if other == key => {
                Some((id_of(slot, *generation), flow))
            }
            _ => None,
        };
        let last = at(self.last.get());
        if last.is_some() {
            return last;
        }
        let slot = *self.index.find(hash(self.seed, key), |slot| at(*slot).is_some())?;
        self.last.set(slot);
        at(slot)
    }

    /// The flow with this handle.
    pub fn get(&self, id: FlowId) -> Option<&F> {
        let slot = self.slots.get(slot_of(id)).filter(|slot| slot.is(id))?;
        slot.flow.as_ref().map(|(_, flow)| flow)
    }

    /// The flow with this handle.
    pub fn get_mut(&mut self, id: FlowId) -> Option<&mut F> {
        let slot = self.slots.get_mut(slot_of(id)).filter(|slot| slot.is(id))?;
        slot.flow.as_mut().map(|(_, flow)| flow)
    }

    /// The key of the flow with this handle.
    pub fn key(&self, id: FlowId) -> Option<&FlowKey> {
        let slot = self.slots.get(slot_of(id)).filter(|slot| slot.is(id))?;
        slot.flow.as_ref().map(|(key, _)| key)
    }

    /// Takes the flow out; its handle finds nothing any more.
    pub fn remove(&mut self, id: FlowId) -> Option<F> {
        let slot = self.slots.get_mut(slot_of(id)).filter(|slot| slot.is(id))?;
        let (key, flow) = slot.flow.take()?;
        slot.generation = (slot.generation + 1) % GENERATIONS;
        match self.index.find_entry(hash(self.seed, &key), |&slot| slot == slot_of(id)) {
            Ok(entry) => entry.remove(),
            Err(_) => unreachable!("every occupied slot is in the index"),
        };
        self.free.push(slot_of(id));
        Some(flow)
    }

    /// All flows, in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = (FlowId, &FlowKey, &F)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let (key, flow) = slot.flow.as_ref()?;
            Some((id_of(index, slot.generation), key, flow))
        })
    }

    /// Shows so many slots from `first` on, those that have a flow; says whether there are no more. A change of all
    /// flows need not be made at once.
    pub fn visit(&mut self, first: usize, slots: usize, mut see: impl FnMut(&mut F)) -> bool {
        let end = first.saturating_add(slots);
        let part = self.slots.iter_mut().take(end).skip(first);
        part.filter_map(|slot| slot.flow.as_mut()).for_each(|(_, flow)| see(flow));
        end >= self.slots.len()
    }

    /// All flows, in the order of their slots.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (FlowId, &FlowKey, &mut F)> {
        self.slots.iter_mut().enumerate().filter_map(|(index, slot)| {
            let (key, flow) = slot.flow.as_mut()?;
            Some((id_of(index, slot.generation), &*key, flow))
        })
    }

    /// How many flows there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }
}

impl<F> Slot<F> {
    fn is(&self, id: FlowId) -> bool {
        self.generation == generation(id)
    }
}

/// All flows with their handles, and which slots are free; what it holds at most, and its seed, are its owner's. Read
/// it as a [`SavedTable`].
#[cfg(feature = "serde")]
impl<F: serde::Serialize> serde::Serialize for FlowTable<F> {
    fn serialize<Z: serde::Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        (&self.slots, &self.free).serialize(serializer)
    }
}

/// A [`FlowTable`] that was written and read, and is still to be [restored](Self::restore). Its flows are as they were
/// read.
#[cfg(feature = "serde")]
#[derive(Debug, serde::Deserialize)]
pub struct SavedTable<F> {
    slots: Vec<Slot<F>>,
    free: Vec<usize>,
}

#[cfg(feature = "serde")]
impl<F> SavedTable<F> {
    /// The table, if what was read can be one; otherwise as [`FlowTable::new`]. Every flow keeps its handle; `restore`
    /// makes of each what it is to be.
    ///
    /// # Errors
    /// [`Unsound`]; also what `restore` says.
    pub fn restore<G>(
        self,
        capacity: usize,
        seed: (u64, u64),
        mut restore: impl FnMut(FlowId, &FlowKey, F) -> Result<G, Unsound>,
    ) -> Result<FlowTable<G>, Unsound> {
        let Self { slots, free } = self;
        let mut table = FlowTable::new(capacity, seed);
        ensure(slots.len() <= table.capacity, "there are more flows than the table may hold")?;
        let mut taken: Vec<_> = slots.iter().map(|slot| slot.flow.is_some()).collect();
        for &slot in &free {
            ensure(taken.get(slot) == Some(&false), "a slot is free that has a flow, or twice, or that is not there")?;
            taken[slot] = true;
        }
        ensure(!taken.contains(&false), "a slot has no flow, and is not free")?;
        table.slots.reserve(slots.len());
        for (index, Slot { generation, flow }) in slots.into_iter().enumerate() {
            ensure(generation < GENERATIONS, "a slot was used more often than can be told")?;
            let Some((key, flow)) = flow else {
                table.slots.push(Slot { generation, flow: None });
                continue;
            };
            ensure(table.find(&key).is_none(), "two flows have the same addresses and ports")?;
            let flow = restore(id_of(index, generation), &key, flow)?;
            table.slots.push(Slot { generation, flow: Some((key, flow)) });
            table.index_slot(index, &key);
        }
        table.free = free;
        Ok(table)
    }
}

fn hash(seed: (u64, u64), key: &FlowKey) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(seed.0, seed.1);
    key.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::reread;
    use core::net::Ipv4Addr;

    fn key(remote_port: u16) -> FlowKey {
        FlowKey {
            local_ip: Ipv4Addr::new(10, 0, 0, 1),
            remote_ip: Ipv4Addr::new(10, 0, 0, 2),
            local_port: 888,
            remote_port,
        }
    }

    #[test]
    fn flows_are_found_until_they_are_removed() {
        let mut table = FlowTable::new(1_000, (1, 2));
        let ids: Vec<_> = (0..1_000u16).map(|port| table.insert(key(port), port).expect("room")).collect();
        assert_eq!(table.insert(key(1_000), 1_000), Err((InsertError::Full, 1_000)));
        for (port, &id) in (0..).zip(&ids) {
            assert_eq!(table.find(&key(port)), Some(id));
            assert_eq!((table.get(id), table.key(id)), (Some(&port), Some(&key(port))));
        }
        assert_eq!(table.insert(key(7), 0), Err((InsertError::Exists(ids[7]), 0)));
        for &id in ids.iter().step_by(2) {
            assert!(table.remove(id).is_some());
            assert!(table.remove(id).is_none());
        }
        assert_eq!(table.len(), 500);
        assert!(
            table
                .iter()
                .all(|(id, key, &port)| port % 2 == 1 && key.remote_port == port && table.get(id) == Some(&port))
        );
        assert_eq!(table.find(&key(8)), None);
    }

    #[test]
    fn a_stale_handle_and_an_invented_one_find_nothing() {
        let mut table = FlowTable::new(4, (1, 2));
        let old = table.insert(key(1), 'a').expect("room");
        table.remove(old);
        let new = table.insert(key(1), 'b').expect("room");
        assert_eq!(slot_of(old), slot_of(new));
        assert_eq!((table.get(old), table.get(new)), (None, Some(&'b')));
        assert_eq!(table.get_mut(old), None);
        for value in [1, 3, 0xffff_ffff, 1 << 19] {
            assert_eq!(table.get(FlowId(value)), None);
        }
    }

    #[test]
    fn all_flows_are_seen_a_part_at_a_time() {
        let mut table = FlowTable::new(100, (1, 2));
        let ids: Vec<_> = (0..25u16).map(|port| table.insert(key(port), 0).expect("room")).collect();
        table.remove(ids[7]);
        let (mut first, mut is_over) = (0, false);
        while !is_over {
            is_over = table.visit(first, 10, |seen| *seen += 1);
            first += 10;
        }
        assert_eq!((first, table.len()), (30, 24));
        assert!(table.iter().all(|(_, _, seen)| *seen == 1));
        assert!(table.visit(0, usize::MAX, |seen| *seen += 1));
        assert!(table.iter().all(|(_, _, seen)| *seen == 2));
    }

    #[test]
    fn generations_wrap() {
        let mut table = FlowTable::new(1, (1, 2));
        for _ in 0..2 * GENERATIONS + 3 {
            let id = table.insert(key(1), ()).expect("room");
            assert_eq!(table.find(&key(1)), Some(id));
            assert!(table.remove(id).is_some());
        }
    }

    #[test]
    fn a_table_that_was_read_back_finds_the_same_flows_and_gives_out_the_same_handles() {
        let mut before = FlowTable::new(8, (1, 2));
        let ids: Vec<_> = (0..6u16).map(|port| before.insert(key(port), port).expect("room")).collect();
        for at in [4, 1] {
            before.remove(ids[at]);
        }
        let (_, ports): (Vec<_>, Vec<_>) = before.iter().map(|(id, key, _)| (id, key.remote_port)).unzip();
        let read = || reread::<_, SavedTable<u16>>(&before);
        let mut after = read().restore(8, (3, 4), |id, key, port| Ok((id, *key, port))).expect("it is one");
        assert_eq!(after.len(), ports.len());
        for port in ports {
            let id = after.find(&key(port)).expect("still there");
            assert_eq!((id, after.get(id)), (ids[usize::from(port)], Some(&(id, key(port), port))));
        }
        for port in 10..14 {
            let id = before.insert(key(port), port).expect("room");
            assert_eq!(after.insert(key(port), (id, key(port), port)), Ok(id));
        }
        assert!(after.insert(key(20), (ids[0], key(20), 20)).is_err(), "full");
    }

    #[test]
    fn bytes_that_are_no_table_are_told() {
        let slot = |port: Option<u16>| Slot { generation: 0, flow: port.map(|port| (key(port), port)) };
        let restored = |slots, free: &[usize]| {
            let saved = SavedTable { slots, free: free.to_vec() };
            saved.restore(3, (1, 2), |_, _, port| Ok(port)).map(|table| table.len())
        };
        let one_free = || alloc::vec![slot(Some(1)), slot(None)];
        assert_eq!(restored(one_free(), &[1]), Ok(1));
        for free in [&[][..], &[0], &[1, 1], &[1, 2], &[0, 1]] {
            assert!(restored(one_free(), free).is_err(), "{free:?}");
        }
        assert!(restored(alloc::vec![slot(Some(1)), slot(Some(1))], &[]).is_err(), "one key twice");
        assert!(restored((0..4).map(|port| slot(Some(port))).collect(), &[]).is_err(), "more than capacity");
        assert!(restored(alloc::vec![Slot { generation: GENERATIONS, ..slot(Some(1)) }], &[]).is_err());
        let refused = SavedTable { slots: one_free(), free: alloc::vec![1] };
        assert_eq!(refused.restore(3, (1, 2), |_, _, _| Err::<(), _>(Unsound("no"))).err(), Some(Unsound("no")));
    }
}
