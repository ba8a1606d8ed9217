//! What only a program of its own can measure: how long it takes to attach and to connect, and the first message after
//! a long silence.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use machnet::{Delivery, Endpoint, Flow};
use machnet_test_kit::deliveries::next_delivery;
use serde::{Deserialize, Serialize};

/// How often it attaches, connects, and exchanges messages before the silence.
const TIMES: usize = 100;
/// How long nothing is said, and how often.
pub(crate) const SILENCE: Duration = Duration::from_secs(2);
pub(crate) const SILENCES: u32 = 7;
/// How long any one step may take.
const PATIENCE: Duration = Duration::from_secs(5);
const MESSAGE: [u8; 64] = [7; 64];

/// What was found, in microseconds.
#[derive(Serialize, Deserialize)]
pub(crate) struct Findings {
    /// Median of attaching.
    pub(crate) attach: f64,
    /// Median of connecting to a known neighbor.
    pub(crate) connect: f64,
    /// Median of a round trip of 64 bytes.
    pub(crate) round_trip: f64,
    /// Median of the first round trips after [`SILENCE`].
    pub(crate) after_silence: f64,
}

/// Attaches many endpoints that listen and do nothing, and waits for its end.
pub(crate) fn hold_endpoints(local: IpAddr, count: usize) -> Result<(), String> {
    let endpoints: Vec<Endpoint> = (0..count)
        .map(|_| {
            let mut endpoint = Endpoint::attach().map_err(|why| why.to_string())?;
            endpoint.listen(SocketAddr::new(local, 0)).map_err(|why| why.to_string())?;
            Ok(endpoint)
        })
        .collect::<Result<_, String>>()?;
    println!("attached");
    std::thread::sleep(SILENCES * SILENCE + 4 * PATIENCE);
    drop(endpoints);
    Ok(())
}

/// Runs inside a host, against a `msg_gen` that answers at `remote`. Says on stdout when the silence begins, and what
/// was found.
pub(crate) fn run(local: IpAddr, remote: SocketAddr) -> Result<(), String> {
    let attach = median(TIMES, || Endpoint::attach().map(drop).map_err(|why| why.to_string()))?;
    let mut endpoint = Endpoint::attach().map_err(|why| why.to_string())?;
    let connect = median(TIMES, || {
        let flow = endpoint.connect(local, remote).map_err(|why| why.to_string())?;
        endpoint.close(flow);
        Ok(())
    })?;
    let flow = endpoint.connect(local, remote).map_err(|why| why.to_string())?;
    let round_trip = median(TIMES, || exchange(&mut endpoint, flow))?;
    println!("silence");
    let mut firsts = Vec::new();
    for _ in 0..SILENCES {
        std::thread::sleep(SILENCE);
        firsts.push(median(1, || exchange(&mut endpoint, flow))?);
    }
    let after_silence = crate::table::median(&mut firsts);
    println!("{}", serde_json::json!(Findings { attach, connect, round_trip, after_silence }));
    Ok(())
}

/// The median of how long `step` takes, in microseconds.
fn median(times: usize, mut step: impl FnMut() -> Result<(), String>) -> Result<f64, String> {
    let mut lengths = Vec::with_capacity(times);
    for _ in 0..times {
        let started = Instant::now();
        step()?;
        lengths.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok(crate::table::median(&mut lengths))
}

/// Sends a message and waits for its answer.
fn exchange(endpoint: &mut Endpoint, flow: Flow) -> Result<(), String> {
    endpoint.send(flow, &MESSAGE).map_err(|why| why.to_string())?;
    let is_answer = |delivery: &Delivery<'_>| matches!(delivery, Delivery::Message(message) if message.flow() == flow);
    next_delivery(endpoint, PATIENCE, "an answer", |delivery| is_answer(&delivery).then_some(()))
        .map_err(|why| why.to_string())
}
