//! A run with a thread for each queue: active or passive.
//!
//! ```text
//!   this thread: a line each second, the end ── sent_all, end ──► worker 0..N
//!                                            ◄──── TrafficCounts ──────
//! ```

use std::net::Ipv4Addr;
use std::thread;

use machnet::daemon::sleep::Clock;
use machnet_core::time::{Duration, Instant};
use machnet_nic::NicQueue;
use machnet_nic::devices::OpenInterface;
use machnet_tools::{Failure, Station, Stop, resolve};

use crate::args::Args;
use crate::counts::{Tally, TrafficCounts, json, line, sum, summary};
use crate::generator::{Generator, Target, flows_of, share};
use crate::worker::{Role, Worker};
use machnet_tools::program::say;

/// Between two lines.
const SECOND: Duration = Duration::from_secs(1);
/// How often the counts are looked at when their number ends the run.
const LOOK: Duration = Duration::from_millis(10);
/// After the last frame was sent: frames that nothing has followed for so long are the last that came back.
const QUIET: Duration = Duration::from_secs(1);
/// Whatever happens, the run is over then.
const DRAIN_WITHIN: Duration = Duration::from_secs(3);

/// Runs until the flags, a signal or a thread that fails ends it; prints what it came to. Active if there is a
/// `remote`, which comes with its next hop.
///
/// # Errors
/// When the remote host is not found, or a thread cannot run.
pub(crate) fn run<Q>(
    args: &Args,
    remote: Option<(Ipv4Addr, Ipv4Addr)>,
    opened: OpenInterface<Q>,
    stop: &Stop,
) -> Result<(), Failure>
where
    Q: NicQueue<Frame: Send> + Send,
{
    let cpus = opened.interface.shard_cpus.clone();
    let mut station = Station::new(opened, args.tx_batch_size.into(), stop).map_err(|error| Failure::system(&error))?;
    let target = match remote {
        None => None,
        Some((ip, next_hop)) => Some(Target { host: station.host(), mac: resolve(&mut station, next_hop)?, ip }),
    };
    // After the signal nothing new is sent, and what is still on its way is waited for.
    let (sent_all, end) = (Stop::new()?, Stop::new()?);
    let stations = station.split(&end).map_err(|error| Failure::system(&error))?;
    let counts: Vec<TrafficCounts> = stations.iter().map(|_| TrafficCounts::default()).collect();
    let roles = roles(args, target.as_ref(), stations.len());
    let control = Control { args, is_active: target.is_some(), counts: &counts, stop };
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (index, ((station, role), counts)) in stations.into_iter().zip(roles).zip(&counts).enumerate() {
            let worker = Worker { station, role, counts, sent_all: &sent_all };
            let cpu = cpus.get(index).copied();
            let work = move || worker.run(cpu).inspect_err(|_| stop.ask());
            let thread = thread::Builder::new().name(format!("queue-{index}")).spawn_scoped(scope, work);
            threads.push(thread.map_err(|error| {
                end.ask();
                Failure::system(&error)
            })?);
        }
        let time = control.watch();
        sent_all.ask();
        control.drain();
        end.ask();
        for thread in threads {
            thread.join().expect("a panic ends the process")?;
        }
        control.tell(target.as_ref(), time);
        Ok(())
    })
}

/// What each queue does.
fn roles(args: &Args, target: Option<&Target>, queues: usize) -> Vec<Role> {
    let Some(target) = target else { return (0..queues).map(|_| Role::Passive).collect() };
    let flows = flows(args, queues);
    let role = |queue| {
        let own = flows_of(queue, queues, flows);
        let generator = Generator::new(target, &own, args.pkt_size, share(args.count, flows, &own));
        Role::Active { generator, remote: target.ip, flows }
    };
    (0..queues).map(role).collect()
}

fn flows(args: &Args, queues: usize) -> u16 {
    args.flows.unwrap_or_else(|| u16::try_from(queues).expect("the configuration limits the queues"))
}

/// What the main thread has in view.
struct Control<'a> {
    args: &'a Args,
    is_active: bool,
    counts: &'a [TrafficCounts],
    stop: &'a Stop,
}

impl Control<'_> {
    fn tallies(&self) -> Vec<Tally> {
        self.counts.iter().map(TrafficCounts::read).collect()
    }

    /// Prints a line each second until the run is over. Gives how long it was.
    fn watch(&self) -> Duration {
        let begin = Clock.now();
        let end = self.args.duration.map(|duration| begin + duration.into());
        let (mut last, mut before) = (begin, Tally::default());
        loop {
            let now = Clock.now();
            let total = sum(&self.tallies());
            let is_counted = self.args.count.is_some_and(|count| total.sent >= count);
            if self.stop.is_asked() || is_counted || end.is_some_and(|end| now >= end) {
                return now.saturating_since(begin);
            }
            if now >= last + SECOND {
                if let Some(line) = line(&before, &total, now.saturating_since(last)) {
                    say(line);
                }
                (last, before) = (now, total);
            }
            let look = self.args.count.map(|_| now + LOOK);
            let until = [Some(last + SECOND), end, look].into_iter().flatten().min();
            self.stop.wait_until(until.unwrap_or(now));
        }
    }

    /// Waits for frames that are still on their way back to an active generator.
    fn drain(&self) {
        let give_up = Clock.now() + DRAIN_WITHIN;
        let mut last = (Tally::default(), Instant::ZERO);
        loop {
            let (now, total) = (Clock.now(), sum(&self.tallies()));
            if last.0 != total {
                last = (total, now);
            }
            let is_all = !self.is_active || total.received >= total.sent;
            if is_all || now >= last.1 + QUIET || now >= give_up {
                return;
            }
            thread::sleep(LOOK.to_std());
        }
    }

    /// The end of a run that took so long.
    fn tell(&self, target: Option<&Target>, time: Duration) {
        let tallies = self.tallies();
        say(summary(&tallies, time));
        if !self.args.json {
            return;
        }
        let mut json = json(&tallies, time);
        json["mode"] = if self.is_active { "active" } else { "passive" }.into();
        if let Some(target) = target {
            json["remote_ip"] = target.ip.to_string().into();
            json["pkt_size"] = self.args.pkt_size.into();
            json["flows"] = flows(self.args, tallies.len()).into();
        }
        say(json);
    }
}
