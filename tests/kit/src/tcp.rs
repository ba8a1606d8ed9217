//! The rival: requests and answers of a fixed size over one kernel TCP connection, with blocking calls.
//!
//! It is given what a good TCP program has: no Nagle, and buffered reading. Each message is handed to the kernel by a
//! call of its own; or, asked to gather, all that are ready by one call, as `msg_gen` appends what is ready.

use std::io::{self, BufReader, BufWriter, Error, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use clap::Subcommand;
use hdrhistogram::Histogram;

use crate::measurement::Measurement;
use crate::waiting::within;

/// Messages up to this size are worth gathering.
pub const GATHER_BYTES: usize = 1 << 10;
/// What a message begins with: when its request was sent, in ns since the client started.
const STAMP_BYTES: usize = 8;
/// How much is read and written at a time.
const BUFFER_BYTES: usize = 64 << 10;
/// As much as both kernels surely hold between them: a client that has not more on its way cannot block for ever in a
/// write.
const ONE_THREAD_BYTES: usize = 128 << 10;
/// How long the client waits for the server to listen.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// What a program that measures starts of itself inside the hosts.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Part {
    /// Answers every request that comes over one TCP connection.
    #[command(hide = true)]
    TcpServe {
        /// Where it listens.
        address: SocketAddrV4,
        /// Bytes of a message.
        msg_size: usize,
        /// Hands over by one call all answers that are ready.
        #[arg(long)]
        gather: bool,
    },
    /// Sends requests over one TCP connection and measures.
    #[command(hide = true)]
    TcpCall {
        /// Where the server listens.
        address: SocketAddrV4,
        /// Bytes of a message.
        msg_size: usize,
        /// Requests on their way at a time.
        msg_window: usize,
        /// How long requests are sent.
        seconds: f64,
        /// Hands over by one call all requests that are ready.
        #[arg(long)]
        gather: bool,
        /// Sends the whole window at once, so many microseconds after the last answers.
        #[arg(long)]
        pause_us: Option<u64>,
    },
}

impl Part {
    /// Does it; a client gives what it has measured.
    ///
    /// # Errors
    /// What the kernel says; what the peer sends is wrong.
    pub fn run(self) -> io::Result<Option<Measurement>> {
        match self {
            Self::TcpServe { address, msg_size, gather } => serve(address, msg_size, gather).map(|()| None),
            Self::TcpCall { address, msg_size, msg_window, seconds, gather, pause_us } => {
                let pause = pause_us.map(Duration::from_micros);
                call(address, msg_size, msg_window, Duration::from_secs_f64(seconds), gather, pause).map(Some)
            }
        }
    }
}

/// Answers the requests of one connection until it ends.
fn serve(address: SocketAddrV4, msg_size: usize, gather: bool) -> io::Result<()> {
    let (stream, _) = TcpListener::bind(address)?.accept()?;
    let (mut reader, mut writer) = ends(&stream)?;
    let mut request = vec![0; msg_size];
    let mut answer = pattern(msg_size);
    loop {
        match reader.read_exact(&mut request) {
            Err(why) if why.kind() == ErrorKind::UnexpectedEof => return writer.flush(),
            read => read?,
        }
        answer[..STAMP_BYTES].copy_from_slice(&request[..STAMP_BYTES]);
        writer.write_all(&answer)?;
        if !gather || reader.buffer().len() < msg_size {
            writer.flush()?;
        }
    }
}

/// Sends requests for `duration`, `window` of them on their way at a time, and waits for all answers. With a pause, the
/// whole window at once, so long after the last answers.
fn call(
    address: SocketAddrV4,
    msg_size: usize,
    window: usize,
    duration: Duration,
    gather: bool,
    pause: Option<Duration>,
) -> io::Result<Measurement> {
    let stream = connect(address)?;
    let (reader, writer) = ends(&stream)?;
    let started = Instant::now();
    let sender = Sender { writer, message: pattern(msg_size), started, deadline: started + duration, gather, sent: 0 };
    let histogram = Histogram::new(3).map_err(Error::other)?;
    let receiver =
        Receiver { reader, answer: vec![0; msg_size], pattern: pattern(msg_size), started, histogram, errors: 0 };
    let (sent, receiver) = if window * msg_size <= ONE_THREAD_BYTES {
        in_one_thread(sender, receiver, window, pause)?
    } else {
        assert!(pause.is_none(), "a window that is sent at once fits into the kernels' buffers");
        in_two_threads(sender, receiver, window)?
    };
    let seconds = started.elapsed().as_secs_f64();
    Ok(Measurement::of((msg_size, window), seconds, (sent, receiver.errors), &receiver.histogram))
}

/// The client's requests.
struct Sender<'s> {
    writer: BufWriter<&'s TcpStream>,
    message: Vec<u8>,
    started: Instant,
    deadline: Instant,
    /// Whether a request may wait for the next flush.
    gather: bool,
    sent: u64,
}

impl Sender<'_> {
    /// Sends a request, unless the time is over.
    fn send(&mut self) -> io::Result<bool> {
        let now = Instant::now();
        if now >= self.deadline {
            return Ok(false);
        }
        self.message[..STAMP_BYTES].copy_from_slice(&nanoseconds(now - self.started).to_le_bytes());
        self.writer.write_all(&self.message)?;
        if !self.gather {
            self.writer.flush()?;
        }
        self.sent += 1;
        Ok(true)
    }
}

/// The client's answers.
struct Receiver<'s> {
    reader: BufReader<&'s TcpStream>,
    answer: Vec<u8>,
    pattern: Vec<u8>,
    started: Instant,
    histogram: Histogram<u64>,
    errors: u64,
}

impl Receiver<'_> {
    /// Waits for an answer and checks every byte of it.
    fn receive(&mut self) -> io::Result<()> {
        self.reader.read_exact(&mut self.answer)?;
        let (stamp, rest) = self.answer.split_first_chunk().ok_or(ErrorKind::InvalidData)?;
        let round_trip = nanoseconds(self.started.elapsed()).saturating_sub(u64::from_le_bytes(*stamp));
        self.histogram.record(round_trip).map_err(Error::other)?;
        self.errors += u64::from(rest != &self.pattern[STAMP_BYTES..]);
        Ok(())
    }
}

fn in_one_thread<'s>(
    mut sender: Sender<'s>,
    mut receiver: Receiver<'s>,
    window: usize,
    pause: Option<Duration>,
) -> io::Result<(u64, Receiver<'s>)> {
    let mut outstanding = fill(&mut sender, window)?;
    while outstanding > 0 {
        receiver.receive()?;
        outstanding -= 1;
        if let Some(pause) = pause {
            if outstanding == 0 {
                std::thread::sleep(pause);
                outstanding = fill(&mut sender, window)?;
            }
            continue;
        }
        outstanding += u64::from(sender.send()?);
        if receiver.reader.buffer().len() < receiver.answer.len() {
            sender.writer.flush()?;
        }
    }
    Ok((sender.sent, receiver))
}

/// Sends so many requests, unless the time is over; gives how many that was.
fn fill(sender: &mut Sender<'_>, window: usize) -> io::Result<u64> {
    let before = sender.sent;
    for _ in 0..window {
        sender.send()?;
    }
    sender.writer.flush()?;
    Ok(sender.sent - before)
}

/// Requests are written by a thread of their own, so that the two ends never wait in their writes for each other.
fn in_two_threads<'s>(
    mut sender: Sender<'s>,
    mut receiver: Receiver<'s>,
    window: usize,
) -> io::Result<(u64, Receiver<'s>)> {
    let (answered, may_send) = mpsc::sync_channel(window);
    for _ in 0..window {
        answered.send(()).map_err(Error::other)?;
    }
    // The scope owns `answered`: when the answers end, the requests do not wait for more of them.
    std::thread::scope(move |scope| {
        let requests = scope.spawn(move || {
            while may_send.recv().is_ok() && sender.send()? {
                sender.writer.flush()?;
            }
            // The server answers what it has and ends; then the answers end.
            sender.writer.get_ref().shutdown(Shutdown::Write)?;
            Ok(sender.sent)
        });
        loop {
            match receiver.receive() {
                Err(why) if why.kind() == ErrorKind::UnexpectedEof => break,
                received => received?,
            }
            // The requests may have ended already.
            let _ = answered.send(());
        }
        drop(answered);
        let sent = requests.join().unwrap_or_else(|_| Err(Error::other("the sending thread panicked")))?;
        Ok((sent, receiver))
    })
}

fn connect(address: SocketAddrV4) -> io::Result<TcpStream> {
    within(CONNECT_LIMIT, || match TcpStream::connect(address) {
        Err(why) if why.kind() == ErrorKind::ConnectionRefused => Err(why),
        connected => Ok(connected),
    })?
}

fn ends(stream: &TcpStream) -> io::Result<(BufReader<&TcpStream>, BufWriter<&TcpStream>)> {
    stream.set_nodelay(true)?;
    Ok((BufReader::with_capacity(BUFFER_BYTES, stream), BufWriter::with_capacity(BUFFER_BYTES, stream)))
}

/// As `msg_gen` fills a message: byte i is i modulo 256.
fn pattern(msg_size: usize) -> Vec<u8> {
    (0..=u8::MAX).cycle().take(msg_size).collect()
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
