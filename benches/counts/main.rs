//! How many instructions does each part of a message's way take?
//!
//! Times on a busy machine cannot say what a change has cost or saved; callgrind's count can. `make counts` writes them
//! to `table.txt` beside this file, which is under version control: a change shows as a difference. They depend on the
//! compiler, so compare tables of the same one. Needs valgrind, and says so when it is not there.

use std::hint::black_box;
use std::process::ExitCode;

use machnet_proto::wire::frame::{self, Parsed};
use machnet_test_kit::back_to_back::{BackToBack, BackToBackPlan};
use machnet_test_kit::callgrind;
use machnet_test_kit::flow_pair::FlowPair;
use machnet_test_kit::frames::{PAYLOADS_BYTES, build, frame_with_payload, segment, take_apart, template};
use machnet_test_kit::mirror::{BURST, append, channel, receive, send};

/// The argument with which a process runs what is counted; the name of the part follows.
const CHILD: &str = "--count";

const ROUNDS: u64 = 2_000;

/// A part of the way: its name, and what runs it and says how often that was.
type Part = (&'static str, fn() -> u64);

const PARTS: [Part; 18] = [
    ("channel: 64 B sent, taken, published, received", channel_round_trip),
    ("channel: 64 B sent and taken, 32 in a turn", || channel_stream(|app, bytes, _| send(app, bytes))),
    ("channel: 64 B appended and taken, 32 in a turn", || channel_stream(append)),
    ("wire: 64 B frame built", || wire_build(PAYLOADS_BYTES[0])),
    ("wire: 64 B frame taken apart", || wire_take_apart(PAYLOADS_BYTES[0])),
    ("wire: full frame built", || wire_build(PAYLOADS_BYTES[1])),
    ("wire: full frame taken apart", || wire_take_apart(PAYLOADS_BYTES[1])),
    ("wire: checksum of a 64 B frame", || wire_check(PAYLOADS_BYTES[0])),
    ("wire: checksum of a full frame", || wire_check(PAYLOADS_BYTES[1])),
    // Every packet is acknowledged by itself.
    ("flow: packet and acknowledgement, 1 flow", || flow(1)),
    ("flow: packet and acknowledgement, 1000 flows", || flow(1_000)),
    ("shard: turn with nothing to do", idle_turn),
    ("shard: 64 B message, window 1", || shard(64, 1, 1)),
    ("shard: 64 B message, window 32", || shard(64, 32, 1)),
    ("shard: 64 B message, window 32 over 32 flows", || shard(64, 32, 32)),
    ("shard: 64 B message, window 32 over 1000 flows", || shard(64, 32, 1_000)),
    ("shard: full packet, window 32", || shard(1_418, 32, 1)),
    ("shard: packet of 64 KB messages, window 4", || shard(64 << 10, 4, 1)),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match &arguments[..] {
        [] if !callgrind::is_there() => println!("instructions: not counted, valgrind is not installed"),
        [] => {
            println!("Instructions, counted by callgrind; `make counts` writes this table.\n");
            println!("Of shards and flows: out of one and into another, both applications' part included.\n");
            for (name, _) in PARTS {
                println!("{:>7.0}  {name}", callgrind::count(&[CHILD, name]).instructions);
            }
        }
        [child, wanted] if child == CHILD => {
            let (_, run) = PARTS.iter().find(|(name, _)| name == wanted).expect("one of the parts");
            println!("{}", run());
        }
        _ => {
            eprintln!("counts: takes no arguments");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// callgrind counts what is called from here, after as much that is not counted.
#[inline(never)]
fn count_here(act: &mut impl FnMut()) {
    for _ in 0..ROUNDS {
        act();
    }
}

fn counted(mut act: impl FnMut()) -> u64 {
    for _ in 0..ROUNDS {
        act();
    }
    count_here(&mut act);
    ROUNDS
}

fn channel_round_trip() -> u64 {
    let (mut shard, mut app) = channel();
    let mut answer = [0; 64];
    counted(|| {
        assert!(send(&mut app, &[1; 64]));
        shard.turn(true);
        assert!(receive(&mut app, &mut answer));
    })
}

fn channel_stream(send: impl Fn(&mut machnet::daemon::channel::AppEnd, &[u8], usize) -> bool) -> u64 {
    let (mut shard, mut app) = channel();
    let rounds = counted(|| {
        for number in 0..BURST {
            assert!(send(&mut app, &[1; 64], number));
        }
        shard.turn(false);
    });
    rounds * BURST as u64
}

fn wire_build(payload_bytes: usize) -> u64 {
    let (template, header, mut frame) = (template(), segment(), frame_with_payload(payload_bytes));
    counted(|| build(black_box(&template), black_box(&header), black_box(&mut frame)))
}

fn wire_take_apart(payload_bytes: usize) -> u64 {
    let mut frame = frame_with_payload(payload_bytes);
    build(&template(), &segment(), &mut frame);
    counted(|| assert_eq!(take_apart(black_box(&frame)), payload_bytes))
}

fn wire_check(payload_bytes: usize) -> u64 {
    let mut frame = frame_with_payload(payload_bytes);
    build(&template(), &segment(), &mut frame);
    let Ok(Parsed::Udp(datagram)) = frame::parse(&frame) else { panic!("not UDP") };
    counted(|| assert_eq!(black_box(&datagram).checksum_is_good(), Some(true)))
}

fn flow(flows: usize) -> u64 {
    let mut pair = FlowPair::new(flows);
    counted(|| pair.transfer())
}

fn idle_turn() -> u64 {
    let mut world = BackToBack::new(&BackToBackPlan::default());
    let now = world.now();
    counted(|| {
        black_box(world.client[0].shard.poll_once(now));
    })
}

/// Messages of so many bytes there and back; gives how many packets that were.
fn shard(bytes: usize, window: usize, flows: usize) -> u64 {
    let mut world = BackToBack::new(&BackToBackPlan { flows, ..BackToBackPlan::default() });
    let message = vec![7; bytes];
    world.run(&message, window, 10 * ROUNDS);
    run_here(&mut world, &message, window)
}

/// As [`count_here`], by the number of packets.
#[inline(never)]
fn run_here(world: &mut BackToBack, message: &[u8], window: usize) -> u64 {
    world.run(message, window, 10 * ROUNDS)
}
