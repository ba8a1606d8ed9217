//! What waits in transmit buffers, and what is on its way.
//!
//! Lists are threaded through the buffers, so that nothing grows on the packet path: what lies in a buffer is a link at
//! the buffer's index. It waits in its flow's list for the window, and hangs, when it goes out together with others, on
//! the first of them until the packet is acknowledged.

use std::collections::HashSet;

use machnet::daemon::channel::{Lent, ShardEnd, TxBuffer};
use machnet_core::message::Content;
use machnet_core::records;
use machnet_proto::flow::Piece;
use machnet_proto::state::{Unsound, ensure};
use serde::{Deserialize, Serialize};

/// By index of the transmit buffer: what lies in it, as long as the shard has it.
pub(super) struct TxLists(Box<[ListNode]>);

/// What lies in a transmit buffer.
#[derive(Debug)]
struct ListNode {
    /// `None`: nothing, the buffer is not the shard's.
    piece: Option<Piece<TxBuffer>>,
    /// What comes behind it, in the list of what waits or in the same packet.
    next: Option<u32>,
}

/// What one packet carries: the first of its buffers, on which the others hang. Whoever has it gives it back to its
/// channel. Neither `Clone` nor `Copy`.
///
/// It is written as the number of its first buffer; whoever reads that [claims](TxLists::claim_load) the load.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[must_use = "a load that is not completed is lost to the application"]
pub(in crate::shard) struct Load(u32);

/// What one flow's application has published and waits for the flow's window, oldest first: a list of links.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(in crate::shard) struct WaitingList {
    ends: Option<(u32, u32)>,
}

impl WaitingList {
    pub(in crate::shard) fn is_empty(self) -> bool {
        self.ends.is_none()
    }
}

/// A [`ListNode`] with something in it, as it is written.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct SavedLink {
    index: u32,
    len: u16,
    content: Content,
    next: Option<u32>,
}

/// Links that were read, and stand in no flow's list or load so far.
#[derive(Debug)]
pub(super) struct Unclaimed(HashSet<u32>);

impl Unclaimed {
    /// Whether every link has found its list or load.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Messages that are to share a packet.
#[derive(Clone, Copy, Debug)]
struct Packed {
    /// With their lengths.
    bytes: usize,
    count: u16,
    /// The last of them.
    tail: u32,
}

impl ListNode {
    #[inline]
    fn piece(&self) -> &Piece<TxBuffer> {
        self.piece.as_ref().expect("what is listed or on its way is the shard's")
    }
}

impl TxLists {
    /// For so many transmit buffers, all of them the application's.
    pub(super) fn new(buffers: usize) -> Self {
        Self((0..buffers).map(|_| ListNode { piece: None, next: None }).collect())
    }

    /// What lies in the shard's buffers, to be written.
    pub(super) fn save(&self) -> Vec<SavedLink> {
        let saved = |link: &ListNode| {
            let Piece { token, len, content } = link.piece.as_ref()?;
            Some(SavedLink { index: token.index(), len: *len, content: *content, next: link.next })
        };
        self.0.iter().filter_map(saved).collect()
    }

    /// For so many transmit buffers of so many bytes, of which the shard has those of these links, and no others.
    pub(super) fn restore(
        (buffers, buffer_bytes): (usize, usize),
        saved: &[SavedLink],
        lent: &mut Lent,
    ) -> Result<(Self, Unclaimed), Unsound> {
        let mut lists = Self::new(buffers);
        for &SavedLink { index, len, content, next } in saved {
            let token = lent.take_tx(index).ok_or(Unsound("something lies in a buffer that is the application's"))?;
            ensure((1..=buffer_bytes).contains(&usize::from(len)), "a piece is empty, or longer than its buffer")?;
            lists.0[index as usize] = ListNode { piece: Some(Piece { token, len, content }), next };
        }
        Ok((lists, Unclaimed(saved.iter().map(|link| link.index).collect())))
    }

    /// The load that begins with this buffer.
    pub(super) fn claim_load(&self, first: u32, unclaimed: &mut Unclaimed) -> Result<Load, Unsound> {
        self.claim(first, unclaimed)?;
        Ok(Load(first))
    }

    /// The list that was read, if it is one.
    pub(super) fn claim_list(&self, list: WaitingList, unclaimed: &mut Unclaimed) -> Result<WaitingList, Unsound> {
        if let Some((first, last)) = list.ends {
            ensure(self.claim(first, unclaimed)? == last, "a list of pieces ends elsewhere than it says")?;
        }
        Ok(list)
    }

    /// Claims the links from this one on, each for the first time; gives the last.
    fn claim(&self, first: u32, unclaimed: &mut Unclaimed) -> Result<u32, Unsound> {
        let (mut last, mut next) = (first, Some(first));
        while let Some(index) = next {
            ensure(unclaimed.0.remove(&index), "a piece is in two lists, or in a buffer without one")?;
            (last, next) = (index, self.0[index as usize].next);
        }
        Ok(last)
    }

    /// How many buffers there are.
    pub(super) fn buffers(&self) -> usize {
        self.0.len()
    }

    /// Puts a piece at the end of a flow's list.
    #[inline]
    pub(super) fn push(&mut self, list: &mut WaitingList, piece: Piece<TxBuffer>) {
        let index = piece.token.index();
        self.0[index as usize] = ListNode { piece: Some(piece), next: None };
        list.ends = match list.ends {
            None => Some((index, index)),
            Some((first, last)) => {
                self.0[last as usize].next = Some(index);
                Some((first, index))
            }
        };
    }

    /// Takes what the next packet of a flow shall carry: the oldest piece, and with it the small messages behind it
    /// that fit into `together_bytes`, with their lengths. 0: messages do not share packets.
    #[inline]
    pub(super) fn pop(&mut self, list: &mut WaitingList, together_bytes: u16) -> Option<Piece<Load>> {
        let (first, last) = list.ends?;
        let link = &self.0[first as usize];
        let (&Piece { len, content, .. }, mut next) = (link.piece(), link.next);
        let mut packed = Packed { bytes: records::LENGTH_BYTES + usize::from(len), count: 1, tail: first };
        if content.is_whole() {
            while let Some(index) = next {
                let link = &self.0[index as usize];
                let bytes = packed.bytes + records::LENGTH_BYTES + usize::from(link.piece().len);
                if !link.piece().content.is_whole() || bytes > usize::from(together_bytes) {
                    break;
                }
                packed = Packed { bytes, count: packed.count + 1, tail: index };
                next = link.next;
            }
        }
        self.0[packed.tail as usize].next = None;
        list.ends = next.map(|next| (next, last));
        let token = Load(first);
        if packed.count == 1 {
            return Some(Piece { token, len, content });
        }
        let len = u16::try_from(packed.bytes).expect("not more than a payload");
        Some(Piece { token, len, content: Content::Records(packed.count) })
    }

    /// Copies what a packet carries out of the application's memory.
    #[inline]
    pub(super) fn copy_from(&self, end: &ShardEnd, piece: &Piece<Load>, into: &mut [u8]) {
        let Load(first) = piece.token;
        let alone = self.0[first as usize].piece();
        let is_packed = matches!(piece.content, Content::Records(_)) && alone.content.is_whole();
        if !is_packed {
            return end.copy_from(&alone.token, into);
        }
        let (mut next, mut rest) = (Some(first), into);
        while let Some(index) = next {
            let link = &self.0[index as usize];
            let Piece { token, len, .. } = link.piece();
            // The piece has room for its records, unless a state was read that says otherwise.
            let Some((length, behind)) = rest.split_first_chunk_mut() else { break };
            *length = len.to_be_bytes();
            let Some((message, behind)) = behind.split_at_mut_checked(usize::from(*len)) else { break };
            end.copy_from(token, message);
            (next, rest) = (link.next, behind);
        }
    }

    /// Takes the buffers of a load out, one after the other: they are to be completed.
    #[inline]
    pub(super) fn take(&mut self, Load(first): Load, mut complete: impl FnMut(TxBuffer)) {
        let mut next = Some(first);
        while let Some(index) = next {
            let link = &mut self.0[index as usize];
            next = link.next.take();
            complete(link.piece.take().expect("a load's buffers are the shard's").token);
        }
    }
}
