//! Fragments: what is put together is what was sent, piece by piece and in order, and never longer than a packet.

use std::collections::HashMap;

use arbitrary::{Result, Unstructured};
use machnet_core::flow::FlowId;
use machnet_proto::flow::fragments::Fragments;
use machnet_proto::packet::Fragment;
use machnet_proto::seq::SeqNo;

const PAYLOAD_BYTES_MAX: u16 = 200;

pub(crate) fn run(bytes: &[u8]) {
    let _ = play(&mut Unstructured::new(bytes));
}

fn play(input: &mut Unstructured<'_>) -> Result<()> {
    let mut fragments = Fragments::default();
    // What each flow has sent since its last beginning.
    let mut begun: HashMap<u8, (u8, Vec<u8>)> = HashMap::new();
    while !input.is_empty() {
        let (flow, seq): (u8, u8) = (input.arbitrary::<u8>()? % 80, input.arbitrary()?);
        let fragment = Fragment { before_bytes: input.arbitrary::<u8>()?.into(), more: input.arbitrary()? };
        let length = input.int_in_range(0..=255)?;
        let payload = input.bytes(length)?;
        let added = fragments.add(FlowId(flow.into()), SeqNo::new(seq.into()), fragment, payload, PAYLOAD_BYTES_MAX);
        let Ok(added) = added else { continue };
        let (of_seq, expected) = begun.entry(flow).or_default();
        if fragment.before_bytes == 0 {
            (*of_seq, *expected) = (seq, Vec::new());
        }
        assert_eq!((*of_seq, expected.len()), (seq, usize::from(fragment.before_bytes)));
        expected.extend_from_slice(payload);
        assert_eq!(added.is_some(), !fragment.more);
        if let Some(whole) = added {
            assert!(whole.len() <= usize::from(PAYLOAD_BYTES_MAX));
            assert_eq!(whole, *expected);
        }
    }
    Ok(())
}
