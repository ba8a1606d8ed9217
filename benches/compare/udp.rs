//! The other rival: datagrams of a fixed size over kernel UDP, with blocking calls. Nothing is repeated: a request
//! whose answer does not come in time is counted as an error.

use std::io::{self, Error, ErrorKind};
use std::net::{SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use machnet_test_kit::measurement::Measurement;
use machnet_test_kit::waiting::within;

/// How long an answer may take before it counts as lost.
const PATIENCE: Duration = Duration::from_millis(20);
/// How long the server waits for the next request, and the client for the server.
const LIMIT: Duration = Duration::from_secs(5);
/// Bytes of a datagram, at the most.
const DATAGRAM_BYTES_MAX: usize = 65_507;

/// Answers requests until one is empty, or none comes any more.
pub(crate) fn serve(address: SocketAddrV4) -> io::Result<()> {
    let socket = UdpSocket::bind(address)?;
    socket.set_read_timeout(Some(LIMIT))?;
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let (bytes, from) = socket.recv_from(&mut buffer)?;
        if bytes == 0 {
            return Ok(());
        }
        socket.send_to(&buffer[..bytes], from)?;
    }
}

/// Sends requests for `duration`, `window` of them on their way at a time. With a pause, the whole window at once, so
/// long after the last answers.
pub(crate) fn call(
    address: SocketAddrV4,
    msg_size: usize,
    window: usize,
    duration: Duration,
    pause: Option<Duration>,
) -> io::Result<Measurement> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut message = vec![7; msg_size];
    let mut answer = vec![0; msg_size];
    greet(&socket, &message, &mut answer)?;
    let mut histogram: Histogram<u64> = Histogram::new(3).map_err(Error::other)?;
    let (started, mut sent, mut in_flight, mut errors) = (Instant::now(), 0, 0, 0);
    loop {
        if let Some(pause) = pause.filter(|_| in_flight == 0) {
            std::thread::sleep(pause);
        }
        let room = if pause.is_none() || in_flight == 0 { window - in_flight } else { 0 };
        for _ in 0..room {
            if started.elapsed() >= duration {
                break;
            }
            message[..8].copy_from_slice(&nanoseconds(started).to_le_bytes());
            socket.send(&message)?;
            (sent, in_flight) = (sent + 1, in_flight + 1);
        }
        if in_flight == 0 {
            break;
        }
        match socket.recv(&mut answer) {
            Ok(_) => {
                let stamp = u64::from_le_bytes(*answer.first_chunk().ok_or(ErrorKind::InvalidData)?);
                histogram.record(nanoseconds(started).saturating_sub(stamp)).map_err(Error::other)?;
                in_flight -= 1;
            }
            Err(why) if matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                errors += in_flight as u64;
                in_flight = 0;
            }
            Err(why) => return Err(why),
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    socket.send(&[])?;
    Ok(Measurement::of((msg_size, window), seconds, (sent, errors), &histogram))
}

/// Until the server answers.
fn greet(socket: &UdpSocket, message: &[u8], answer: &mut [u8]) -> io::Result<()> {
    within(LIMIT, || socket.send(message).and_then(|_| socket.recv(answer))).map(drop)
}

fn nanoseconds(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
