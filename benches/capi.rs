//! What does a message cost through the C API, beside the same in Rust, and in Python on top of it?
//!
//! Both send, receive and answer 64 B through a channel whose shard is a mirror in the same thread; C's functions are
//! called in `libmachnet.so`, as programs call them. With one flow it is the same each time; of a thousand, each is
//! another than the one before. Rounds of the two alternate, so that a busy machine treats both alike; the figures are
//! medians. Python sends and receives through the same library, of a process of its own, in bursts as short; its shard
//! turns on another CPU.
//!
//! `cargo bench --bench capi`, after `make`; seconds.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::hint::black_box;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use machnet::{Delivery, Endpoint, Flow};
use machnet_test_kit::Scratch;
use machnet_test_kit::cpus;
use machnet_test_kit::mirror::{BURST, MirrorDaemon, Shard};

const FLOWS: [usize; 2] = [1, 1000];
const MESSAGE_BYTES: usize = 64;
const ROUNDS: usize = 400;
const BURSTS_PER_ROUND: usize = 100;

/// As C lays it out.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct MachnetFlow {
    ends: [u32; 2],
    ports: [u16; 2],
}

/// What a program does with its channel.
trait Program {
    /// Sends a message over the flow with this number.
    fn send(&mut self, flow: usize, message: &[u8]);
    /// Receives a message, which is there.
    fn receive(&mut self, into: &mut [u8]);
    /// Receives a message, and sends it back where it came from.
    fn answer(&mut self, into: &mut [u8]);
}

struct InRust {
    endpoint: Endpoint,
    flows: Vec<Flow>,
}

impl Program for InRust {
    #[inline]
    fn send(&mut self, flow: usize, message: &[u8]) {
        self.endpoint.send(self.flows[flow], message).expect("there is room");
    }

    #[inline]
    fn receive(&mut self, into: &mut [u8]) {
        match self.endpoint.recv(into).expect("the buffer is large enough") {
            Some(machnet::Received::Message { flow, .. }) => _ = black_box(flow),
            other => panic!("no message: {other:?}"),
        }
    }

    #[inline]
    fn answer(&mut self, into: &mut [u8]) {
        match self.endpoint.recv(into).expect("the buffer is large enough") {
            Some(machnet::Received::Message { flow, len }) => {
                self.endpoint.send(flow, &into[..len]).expect("there is room");
            }
            other => panic!("no message: {other:?}"),
        }
    }
}

struct InC {
    channel: *mut c_void,
    send: unsafe extern "C" fn(*const c_void, MachnetFlow, *const c_void, usize) -> c_int,
    recv: unsafe extern "C" fn(*const c_void, *mut c_void, usize, *mut MachnetFlow) -> isize,
    flows: Vec<MachnetFlow>,
}

impl Program for InC {
    #[inline]
    fn send(&mut self, flow: usize, message: &[u8]) {
        // SAFETY: the channel was attached, and the message is there.
        let sent = unsafe { (self.send)(self.channel, self.flows[flow], message.as_ptr().cast(), message.len()) };
        assert_eq!(sent, 0);
    }

    #[inline]
    fn receive(&mut self, into: &mut [u8]) {
        let mut flow = MachnetFlow::default();
        // SAFETY: the channel was attached, buffer and flow may be written.
        let received = unsafe { (self.recv)(self.channel, into.as_mut_ptr().cast(), into.len(), &mut flow) };
        assert_eq!(received, into.len().cast_signed());
        black_box(flow);
    }

    #[inline]
    fn answer(&mut self, into: &mut [u8]) {
        let mut flow = MachnetFlow::default();
        // SAFETY: as in `receive`.
        let received = unsafe { (self.recv)(self.channel, into.as_mut_ptr().cast(), into.len(), &mut flow) };
        assert_eq!(received, into.len().cast_signed());
        let MachnetFlow { ends: [src_ip, dst_ip], ports: [src_port, dst_port] } = flow;
        let back = MachnetFlow { ends: [dst_ip, src_ip], ports: [dst_port, src_port] };
        // SAFETY: as in `send`.
        assert_eq!(unsafe { (self.send)(self.channel, back, into.as_ptr().cast(), into.len()) }, 0);
    }
}

/// The C library, loaded as programs in other languages do it.
struct Library {
    handle: *mut c_void,
    /// Where it is.
    scratch: Scratch,
}

impl Library {
    /// Makes it of what Cargo has built.
    fn load() -> Self {
        let this = std::env::current_exe().expect("this program");
        let release = this.parent().and_then(Path::parent).expect("the directory of the build");
        let scratch = Scratch::new().expect("a directory");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/capi/libraries");
        let made = Command::new(script).arg(release).arg(scratch.path()).status().expect("the script can be started");
        assert!(made.success(), "there is no libmachnet_shim.a: run make before");
        let path = CString::new(scratch.file("libmachnet.so").to_str().expect("a text")).expect("no zero");
        // SAFETY: a path that ends with a zero; the library does nothing when it is loaded.
        let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        assert!(!library.is_null(), "the library can be loaded");
        Self { handle: library, scratch }
    }

    /// The function of this name, as a pointer of the right type.
    fn function<T: Copy>(&self, name: &CStr) -> T {
        // SAFETY: the library stays loaded, the name ends with a zero.
        let function = unsafe { libc::dlsym(self.handle, name.as_ptr()) };
        assert!(!function.is_null() && size_of::<T>() == size_of_val(&function), "{name:?}");
        // SAFETY: whoever calls this names the type that machnet.h says, a pointer to a function.
        unsafe { std::mem::transmute_copy(&function) }
    }
}

fn in_rust(daemon: &MirrorDaemon, flows: usize) -> InRust {
    let mut endpoint = Endpoint::attach_to(daemon.socket()).expect("the daemon is there");
    let connect = |_| {
        let flow = endpoint.connect([10, 0, 0, 1].into(), ([10, 0, 0, 1], 888).into()).expect("a flow");
        while let Some(Delivery::Event(_)) = endpoint.recv_in_place().expect("the daemon is there") {}
        flow
    };
    let flows = (0..flows).map(connect).collect();
    InRust { endpoint, flows }
}

fn in_c(library: &Library, daemon: &MirrorDaemon, flows: usize) -> InC {
    type Attach = unsafe extern "C" fn(*const c_char, i32) -> *mut c_void;
    type Connect = unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char, u16, *mut MachnetFlow) -> c_int;
    let attach: Attach = library.function(c"machnet_x_attach");
    let connect: Connect = library.function(c"machnet_connect");
    let socket = CString::new(daemon.socket().to_str().expect("a text")).expect("no zero");
    // SAFETY: a path that ends with a zero.
    let channel = unsafe { attach(socket.as_ptr(), -1) };
    assert!(!channel.is_null(), "the daemon is there");
    let mut program = InC {
        channel,
        send: library.function(c"machnet_send"),
        recv: library.function(c"machnet_recv"),
        flows: Vec::new(),
    };
    for _ in 0..flows {
        let (mut flow, ip) = (MachnetFlow::default(), c"10.0.0.1".as_ptr());
        // SAFETY: the channel was attached, the texts end with a zero, and the flow may be written.
        assert_eq!(unsafe { connect(channel, ip, ip, 888, &mut flow) }, 0);
        program.flows.push(flow);
        // SAFETY: no message has come, and events are passed over, so that nothing is written.
        assert_eq!(unsafe { (program.recv)(channel, std::ptr::null_mut(), 0, &mut flow) }, 0);
    }
    program
}

/// The nanoseconds of sending, of receiving, and of receiving and answering a message, in one round.
fn round(program: &mut impl Program, shard: &mut Shard, flows: usize) -> [f64; 3] {
    let (message, mut answer) = ([1; MESSAGE_BYTES], [0; MESSAGE_BYTES]);
    let mut took = [0.0; 3];
    let mut flow = 0;
    for _ in 0..BURSTS_PER_ROUND {
        let began = Instant::now();
        for _ in 0..BURST {
            program.send(flow, black_box(&message));
            flow = if flow + 1 < flows { flow + 1 } else { 0 };
        }
        took[0] += began.elapsed().as_secs_f64();
        while shard.turn(true) > 0 {}
        let began = Instant::now();
        for _ in 0..BURST {
            program.answer(black_box(&mut answer));
        }
        took[2] += began.elapsed().as_secs_f64();
        while shard.turn(true) > 0 {}
        let began = Instant::now();
        for _ in 0..BURST {
            program.receive(black_box(&mut answer));
        }
        took[1] += began.elapsed().as_secs_f64();
    }
    took.map(|seconds| seconds * 1e9 / (BURSTS_PER_ROUND * BURST) as f64)
}

/// What Python is given to do: it says the nanoseconds of sending and of receiving a message.
const IN_PYTHON: &str = r#"
import sys, statistics, time, machnet
channel, bursts, burst, message = machnet.Channel(sys.argv[1]), 300, int(sys.argv[2]), bytes(int(sys.argv[3]))
flow = channel.connect("10.0.0.1", 888)
print("connected", flush=True)
sends, receives = [], []
while not isinstance(channel.receive(), machnet.Opened):
    pass
for _ in range(bursts):
    began = time.perf_counter_ns()
    for _ in range(burst):
        channel.send(flow, message)
    sends.append(time.perf_counter_ns() - began)
    time.sleep(0.001)
    began = time.perf_counter_ns()
    for _ in range(burst):
        assert channel.receive().data == message
    receives.append(time.perf_counter_ns() - began)
print(statistics.median(sends) / burst, statistics.median(receives) / burst)
"#;

fn in_python(library: &Library) -> Option<[f64; 2]> {
    let [_, other_cpu, ..] = cpus::allowed()[..] else { return None };
    let daemon = MirrorDaemon::start();
    let mut child = Command::new("python3")
        .args(["-c", IN_PYTHON, daemon.socket().to_str()?, &BURST.to_string(), &MESSAGE_BYTES.to_string()])
        .env("PYTHONPATH", Path::new(env!("CARGO_MANIFEST_DIR")).join("src/python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("MACHNET_LIBRARY", library.scratch.file("libmachnet.so"))
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let mut lines = BufReader::new(child.stdout.take()?).lines();
    lines.next()?.ok()?;
    let _running = daemon.shard().run(other_cpu, true);
    let figures = lines.next()?.ok()?;
    child.wait().ok()?;
    let (sends, receives) = figures.split_once(' ')?;
    Some([sends.parse().ok()?, receives.parse().ok()?])
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn main() {
    let library = Library::load();
    println!("ns per message of {MESSAGE_BYTES} B        Rust      C   more");
    for flows in FLOWS {
        let (daemon, other) = (MirrorDaemon::start(), MirrorDaemon::start());
        let (mut rust, mut c) = (in_rust(&daemon, flows), in_c(&library, &other, flows));
        let (mut shard, mut other_shard) = (daemon.shard(), other.shard());
        let (mut of_rust, mut of_c) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            of_rust.push(round(&mut rust, &mut shard, flows));
            of_c.push(round(&mut c, &mut other_shard, flows));
        }
        for (what, part) in [("send", 0), ("receive", 1), ("answer", 2)] {
            let [rust, c] = [&of_rust, &of_c].map(|rounds| median(rounds.iter().map(|round| round[part]).collect()));
            println!("{what:8} {flows:5} flows      {rust:6.1} {c:6.1} {:6.1}", c - rust);
        }
    }
    match in_python(&library) {
        Some([send, receive]) => println!("Python: send {send:.0}, receive {receive:.0}"),
        None => println!("Python: not measured, it takes two CPUs and python3"),
    }
}
