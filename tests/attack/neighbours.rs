//! The neighbours: a client asks, a server answers, and every byte, every answer and every wait is looked at.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use machnet::{Delivery, Endpoint, Event, Flow, Full, SendError};
use machnet_nic::faults::Dice;
use machnet_test_kit::deliveries::next_delivery;
use machnet_test_kit::waiting::NEVER;

/// Where servers listen.
pub(crate) const SERVER: u16 = 888;
/// Questions of the client that wait for an answer at most.
const WINDOW: usize = 8;
/// From one question to the next.
const PAUSE: Duration = Duration::from_micros(500);
/// The lengths of the messages, one after the other: most are small, one takes several packets.
const SIZES: [usize; 6] = [64, 8, 64, 1_000, 64, 3_000];
/// How long a server sleeps at most before it looks whether it is over.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Fills a message with what follows from its number: a byte of another message is a wrong byte.
fn fill(index: u64, message: &mut Vec<u8>) {
    let len = SIZES[usize::try_from(index).unwrap() % SIZES.len()];
    let mut dice = Dice::new(index);
    message.clear();
    while message.len() < len {
        message.extend(dice.throw().to_le_bytes());
    }
    message.truncate(len);
}

/// Answers everybody with what it was asked, until it is dropped.
pub(crate) struct Server {
    is_over: Arc<AtomicBool>,
    /// Answers that found no room, to strangers.
    refused: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at `at`. What comes from `neighbours` is to be answered whatever happens.
    pub(crate) fn start(socket: PathBuf, at: SocketAddr, neighbours: [IpAddr; 2]) -> Self {
        let (is_over, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut endpoint = Endpoint::attach_to(socket).unwrap();
        endpoint.listen(at).unwrap();
        let (over, count) = (Arc::clone(&is_over), Arc::clone(&refused));
        let thread = std::thread::spawn(move || serve(endpoint, neighbours, &over, &count));
        Self { is_over, refused, thread: Some(thread) }
    }

    /// How many answers to strangers found no room.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Ends it. Fails if it could not do what it is for.
    pub(crate) fn finish(mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn serve(mut endpoint: Endpoint, neighbours: [IpAddr; 2], is_over: &AtomicBool, refused: &AtomicU64) {
    let mut answer = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let flow = match endpoint.recv_in_place().unwrap() {
            Some(Delivery::Message(message)) => {
                answer.clear();
                answer.extend_from_slice(&message.bytes());
                message.flow()
            }
            Some(Delivery::Event(_)) => continue,
            None => {
                endpoint.wait(Some(LOOK_AGAIN)).unwrap();
                continue;
            }
        };
        let asked_by = endpoint.tuple(flow).map(|tuple| tuple.remote.ip());
        match endpoint.send(flow, &answer) {
            Ok(()) | Err(SendError::Closed) => {}
            Err(SendError::NoRoom(Full::Flow)) if asked_by.is_none_or(|ip| !neighbours.contains(&ip)) => {
                refused.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => panic!("an answer to {asked_by:?} was not taken: {error}"),
        }
    }
}

/// What the client saw for a while.
#[derive(Default)]
pub(crate) struct Figures {
    /// From question to answer, each, in microseconds.
    times_us: Vec<u32>,
    /// The longest time without any answer.
    pub(crate) silence: Duration,
}

impl Figures {
    /// How many questions were answered.
    pub(crate) fn answers(&self) -> usize {
        self.times_us.len()
    }

    /// From question to answer in microseconds: the median, and what 99 of 100 do not exceed.
    pub(crate) fn p50_p99_us(&mut self) -> [u32; 2] {
        self.times_us.sort_unstable();
        let at = |percent: usize| self.times_us.get(self.times_us.len() * percent / 100).copied().unwrap_or(0);
        [at(50), at(99)]
    }
}

const ALONE: u8 = 0;
const ATTACKED: u8 = 1;
const OVER: u8 = 2;

/// Asks on and on, until it is dropped.
pub(crate) struct Client {
    stage: Arc<AtomicU8>,
    /// The port that it asks from.
    pub(crate) port: u16,
    thread: Option<JoinHandle<[Figures; 2]>>,
}

impl Client {
    pub(crate) fn start(socket: PathBuf, local_ip: IpAddr, server: SocketAddr) -> Self {
        let mut endpoint = Endpoint::attach_to(socket).unwrap();
        let flow = endpoint.connect(local_ip, server).unwrap();
        let port = endpoint.tuple(flow).expect("it has just been opened").local.port();
        let stage = Arc::new(AtomicU8::new(ALONE));
        let now = Arc::clone(&stage);
        let thread = std::thread::spawn(move || Asking::new(endpoint, flow).ask(&now));
        Self { stage, port, thread: Some(thread) }
    }

    /// What it sees from now on, it sees under attack.
    pub(crate) fn attack_begins(&self) {
        self.stage.store(ATTACKED, Ordering::Relaxed);
    }

    /// What it saw alone, and under attack; when all is answered that it asked.
    pub(crate) fn finish(mut self) -> [Figures; 2] {
        self.stage.store(OVER, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is finished once");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stage.store(OVER, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The client's thread.
struct Asking {
    endpoint: Endpoint,
    flow: Flow,
    /// When the questions were asked that wait for their answers.
    asked: VecDeque<Instant>,
    answered: u64,
    message: Vec<u8>,
}

impl Asking {
    fn new(endpoint: Endpoint, flow: Flow) -> Self {
        Self { endpoint, flow, asked: VecDeque::new(), answered: 0, message: Vec::new() }
    }

    fn ask(mut self, stage: &AtomicU8) -> [Figures; 2] {
        let mut figures = [Figures::default(), Figures::default()];
        let (mut next, mut heard) = (Instant::now(), Instant::now());
        loop {
            let now = Instant::now();
            let is_over = stage.load(Ordering::Relaxed) == OVER;
            if is_over && self.asked.is_empty() {
                return figures;
            }
            let current = &mut figures[usize::from(stage.load(Ordering::Relaxed) != ALONE)];
            if !is_over && now >= next && self.asked.len() < WINDOW {
                fill(self.answered + self.asked.len() as u64, &mut self.message);
                let sent = self.endpoint.send(self.flow, &self.message);
                sent.unwrap_or_else(|error| panic!("after {} answers no question is taken: {error}", self.answered));
                self.asked.push_back(now);
                next = now + PAUSE;
            }
            while self.hear(current) {
                heard = Instant::now();
            }
            current.silence = current.silence.max(heard.elapsed());
            let waited = heard.elapsed();
            assert!(waited < NEVER, "{} questions are not answered after {waited:?}", self.asked.len());
            let wait = if is_over || self.asked.len() == WINDOW { LOOK_AGAIN } else { next - now.min(next) };
            self.endpoint.wait(Some(wait)).unwrap();
        }
    }

    /// Takes an answer, if there is one.
    fn hear(&mut self, figures: &mut Figures) -> bool {
        let answer = match self.endpoint.recv_in_place().unwrap() {
            Some(Delivery::Message(message)) => message,
            Some(Delivery::Event(Event::Closed { reason, .. })) => {
                panic!("the neighbours' flow ended after {} answers: {reason}", self.answered)
            }
            Some(Delivery::Event(_)) | None => return false,
        };
        let asked = self.asked.pop_front().expect("no answer without a question");
        fill(self.answered, &mut self.message);
        assert!(answer.flow() == self.flow && *answer.bytes() == self.message, "answer {} is wrong", self.answered);
        self.answered += 1;
        figures.times_us.push(u32::try_from(asked.elapsed().as_micros()).unwrap_or(u32::MAX));
        true
    }
}

/// Somebody new opens a flow and gets so many answers. Gives how long that took.
pub(crate) fn newcomer(socket: PathBuf, local_ip: IpAddr, server: SocketAddr, answers: usize) -> Duration {
    let came = Instant::now();
    let mut endpoint = Endpoint::attach_to(socket).unwrap();
    let flow = endpoint.connect(local_ip, server).unwrap();
    let mut message = Vec::new();
    for index in 0..answers as u64 {
        fill(index, &mut message);
        endpoint.send(flow, &message).unwrap();
    }
    for index in 0..answers as u64 {
        fill(index, &mut message);
        next_delivery(&mut endpoint, NEVER, "an answer to somebody new", |delivery| match delivery {
            Delivery::Message(answer) => {
                assert_eq!(*answer.bytes(), message, "answer {index}");
                Some(())
            }
            Delivery::Event(Event::Closed { reason, .. }) => panic!("the flow of somebody new ended: {reason}"),
            Delivery::Event(_) => None,
        })
        .unwrap();
    }
    came.elapsed()
}
