//! A channel whose application writes anything anywhere into the segment while the shard works: the shard says what is
//! wrong and its own accounts stay right.

use std::os::fd::OwnedFd;

use arbitrary::{Result, Unstructured};
use machnet::daemon::channel::{AppEnd, FromApp, Geometry, Opened, RxBuffer, ShardEnd, TxBuffer, Violation};
use machnet_core::flow::FlowId;
use machnet_core::message::Content;
use std::io::IoSlice;

const FLOW: FlowId = FlowId(1);
const PAYLOAD_BYTES_MAX: u16 = 64;
const WORD_BYTES: usize = 8;

pub(crate) fn run(bytes: &[u8]) {
    let geometry = Geometry::from_parts(PAYLOAD_BYTES_MAX.into(), 8, 8).expect("good measures");
    let (end, handles) = ShardEnd::create(geometry).expect("a channel");
    let segment = handles.segment.try_clone().expect("a descriptor");
    let app = AppEnd::open(geometry, handles).expect("its other end");
    let mut both = Both { shard: Shard { end, transmit: Vec::new(), receive: Vec::new() }, app, segment };
    let _ = both.play(&mut Unstructured::new(bytes));
}

struct Both {
    shard: Shard,
    app: AppEnd,
    /// Of the memory between them.
    segment: OwnedFd,
}

struct Shard {
    end: ShardEnd,
    /// What the application has sent, not completed.
    transmit: Vec<TxBuffer>,
    /// Taken to be filled.
    receive: Vec<RxBuffer>,
}

impl Both {
    fn play(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        self.shard.open();
        while !input.is_empty() {
            match input.int_in_range(0..=5)? {
                0 => self.scribble(input)?,
                1 => self.act(input)?,
                _ => {
                    if let Err(violation) = self.shard.act(input)? {
                        assert_eq!(self.shard.end.violation(), Some(violation), "it stays broken");
                    }
                }
            }
            self.shard.assert_accounts();
        }
        Ok(())
    }

    /// Changes a word of the segment: to anything, by a bit, or by a little.
    fn scribble(&self, input: &mut Unstructured<'_>) -> Result<()> {
        let words = self.shard.end.geometry().segment_bytes() / WORD_BYTES;
        let at = (input.choose_index(words)? * WORD_BYTES) as u64;
        let mut word = [0; WORD_BYTES];
        let read = rustix::io::pread(&self.segment, &mut word, at).expect("the segment");
        assert_eq!(read, WORD_BYTES);
        let before = u64::from_ne_bytes(word);
        let after = match input.int_in_range(0..=2)? {
            0 => input.arbitrary()?,
            1 => before ^ 1 << input.int_in_range(0..=63)?,
            _ => before.wrapping_add_signed(input.arbitrary::<i8>()?.into()),
        };
        rustix::io::pwrite(&self.segment, &after.to_ne_bytes(), at).expect("the segment");
        Ok(())
    }

    /// The application does what it should; the daemon may have told it nonsense, since it wrote that itself.
    fn act(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let message = [7; 200];
        match input.int_in_range(0..=4)? {
            0 => {
                let length = input.int_in_range(0..=message.len())?;
                let _ = self.app.send(FLOW, &[IoSlice::new(&message[..length])]);
            }
            1 => {
                let length = input.int_in_range(0..=40)?;
                let _ = self.app.append(FLOW, &[IoSlice::new(&message[..length])]);
            }
            2 => self.app.flush(),
            3 => while let Ok(Some(_)) = self.app.recv() {},
            _ => {
                let _ = self.app.arm();
                self.app.disarm();
            }
        }
        Ok(())
    }
}

impl Shard {
    fn open(&mut self) {
        let opened = Opened {
            local: ([10, 0, 0, 1], 50_000).into(),
            remote: ([10, 0, 0, 2], 888).into(),
            max_payload: PAYLOAD_BYTES_MAX,
            accepted: false,
            takes_records: true,
        };
        assert!(self.end.publish_opened(FLOW, &opened), "an empty ring has room");
        self.end.flush();
    }

    fn act(&mut self, input: &mut Unstructured<'_>) -> Result<std::result::Result<(), Violation>> {
        match input.int_in_range(0..=7)? {
            0 | 1 => return Ok(self.take()),
            2 => return Ok(self.end.poll_fill().map(drop)),
            3 => self.transmit.drain(..).for_each(|buffer| self.end.complete(buffer)),
            4 => self.receive.extend(self.end.allocate()),
            5 => {
                if let Some(buffer) = self.receive.pop() {
                    self.end.copy_to(&buffer, &[1; PAYLOAD_BYTES_MAX as usize]);
                    self.end.publish(FLOW, buffer, PAYLOAD_BYTES_MAX, Content::WHOLE);
                }
            }
            6 => {
                let _ = self.end.publish_silent(FLOW);
            }
            _ => {
                let _ = self.end.arm_wanting_buffers();
                self.end.flush();
                self.end.disarm();
            }
        }
        Ok(Ok(()))
    }

    fn take(&mut self) -> std::result::Result<(), Violation> {
        let mut taken = Vec::with_capacity(4);
        let polled = self.end.poll_tx(&mut taken);
        for one in taken {
            if let FromApp::Piece { buffer, len, .. } = one {
                assert!(len > 0 && len <= PAYLOAD_BYTES_MAX);
                self.end.copy_from(&buffer, &mut [0; PAYLOAD_BYTES_MAX as usize][..usize::from(len)]);
                self.transmit.push(buffer);
            }
        }
        polled.map(drop)
    }

    /// Whatever the application did.
    fn assert_accounts(&self) {
        assert_eq!(self.end.tx_buffers_held(), self.transmit.len());
        let all = self.end.geometry().rx_buffers() as usize;
        assert_eq!(self.end.free_buffers() + self.receive.len() + self.end.buffers_with_app(), all);
    }
}
