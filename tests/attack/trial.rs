//! One attack: the neighbours before it and beside it, and what is left of daemons and flows.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::attacker::Attacker;
use crate::neighbours::{Client, SERVER, Server, newcomer};
use crate::stage::{Site, Stage, status};
use crate::table::{Attack, record};

/// How long the neighbours are measured without an attack.
const ALONE: Duration = Duration::from_millis(300);
/// No message of the neighbours, and no answer of a coordinator, takes so long: one that waits for an attacker does,
/// since attacks that hold something hold it for longer.
pub(crate) const STALL: Duration = Duration::from_secs(2);
/// Messages that somebody new gets answered.
const NEWCOMERS_ANSWERS: usize = 16;
/// How often a coordinator is asked for its status.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// What a daemon has more after an attack than before, at most: connections, channels and flows that were allowed.
const DESCRIPTORS_MORE_MAX: usize = 3_000;
const MEMORY_MORE_KIB_MAX: u64 = 256 << 10;

/// How long an attack is kept up that goes on and on, by default in seconds.
const SECONDS: &str = "MACHNET_ATTACK_SECONDS";

/// How long an attack is kept up that goes on and on.
pub(crate) fn lasts() -> Duration {
    Duration::from_secs(std::env::var(SECONDS).map_or(1, |seconds| seconds.parse().expect("it is a number of seconds")))
}

/// One attack at a time: what the neighbours see of it is measured.
static TURN: Mutex<()> = Mutex::new(());

/// The attack, and everybody who is concerned.
pub(crate) struct Trial {
    /// The server on the left, which the neighbours' client asks.
    pub(crate) server: Server,
    /// The neighbours' client, on the right.
    pub(crate) client: Client,
    /// The server on the right.
    other_server: Server,
    watch: Watch,
    /// Those who go on until it is over.
    attackers: Vec<Attacker>,
    /// Dropped after those who are on it.
    pub(crate) stage: Stage,
}

impl Attack {
    /// Makes the attack, which `attack` does: it gives what attackers got for it, for a person.
    pub(crate) fn run(self, change: impl Fn(&mut Value), attack: impl FnOnce(&mut Trial) -> String) {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(stage) = Stage::start(change) else { return };
        let tried = catch_unwind(AssertUnwindSafe(|| Trial::start(stage).hold(attack)));
        match tried {
            Ok(now) => record(self, now),
            Err(panic) => {
                record(self, "HARM, as the test says".to_owned());
                resume_unwind(panic);
            }
        }
    }
}

impl Trial {
    fn start(stage: Stage) -> Self {
        let Stage { left, right, .. } = &stage;
        let ips = [left.ip(), right.ip()];
        let server = Server::start(left.host.socket(), left.at(SERVER), ips);
        let other_server = Server::start(right.host.socket(), right.at(SERVER), ips);
        let client = Client::start(right.host.socket(), right.ip(), left.at(SERVER));
        let watch = Watch::start([left, right].map(|site| site.host.socket()));
        Self { server, client, other_server, watch, attackers: Vec::new(), stage }
    }

    /// Starts an attacker, who is ready when this returns, and stays until the trial is over.
    pub(crate) fn attacker(&mut self, name: &str, more: &[(&str, String)]) {
        let attacker = Attacker::start(&self.stage, &self.stage.third, name, more);
        self.attackers.push(attacker);
    }

    /// The same, on the switch.
    pub(crate) fn attacker_on_the_switch(&mut self, name: &str, more: &[(&str, String)]) {
        let attacker = Attacker::start(&self.stage, &self.stage.switch, name, more);
        self.attackers.push(attacker);
    }

    /// The attacker who came last.
    pub(crate) fn last_attacker(&mut self) -> &mut Attacker {
        self.attackers.last_mut().expect("one has come")
    }

    /// Ends the attacker who came last.
    pub(crate) fn end_attacker(&mut self) {
        drop(self.attackers.pop());
    }

    /// Somebody new comes to each server, and is answered like everybody.
    pub(crate) fn newcomers(&self) -> Duration {
        let Stage { left, right, .. } = &self.stage;
        let ways = [(left, right), (right, left)];
        let times = ways.map(|(from, to)| newcomer(from.host.socket(), from.ip(), to.at(SERVER), NEWCOMERS_ANSWERS));
        times.into_iter().max().expect("two came")
    }

    /// The whole of it.
    fn hold(mut self, attack: impl FnOnce(&mut Self) -> String) -> String {
        std::thread::sleep(ALONE);
        let before = self.stage.sites().map(Left::of);
        self.client.attack_begins();
        let got = attack(&mut self);
        let newcomer = self.newcomers();
        let after = self.stage.sites().map(Left::of);
        let Self { mut stage, server, client, other_server, watch, attackers } = self;
        let [mut alone, mut attacked] = client.finish();
        drop(attackers);
        let answer = watch.finish();
        server.finish();
        other_server.finish();
        for (site, (before, after)) in stage.sites().into_iter().zip(before.into_iter().zip(after)) {
            assert!(site.daemon().is_running(), "{}", site.daemon().failure("is dead"));
            after.is_bounded(&before);
        }
        assert!(attacked.silence < STALL, "the neighbours stood still for {:?}", attacked.silence);
        assert!(answer < STALL, "a coordinator took {answer:?} to answer");
        let ([p50, p99], [p50_now, p99_now]) = (alone.p50_p99_us(), attacked.p50_p99_us());
        format!(
            "{got}\nneighbours: p50 {p50} → {p50_now} µs, p99 {p99} → {p99_now} µs, silent {:.0?} → {:.0?}, {} answers, \
             0 lost; somebody new: {newcomer:.0?}; status: {answer:.0?}",
            alone.silence,
            attacked.silence,
            attacked.answers(),
        )
    }
}

/// What a daemon has.
struct Left {
    descriptors: usize,
    memory_kib: u64,
}

impl Left {
    fn of(site: &mut Site) -> Self {
        Self { descriptors: site.descriptors(), memory_kib: site.memory_kib() }
    }

    /// Whether it is not too much more than before.
    fn is_bounded(&self, before: &Self) {
        let [now, then] = [self.descriptors, before.descriptors];
        assert!(now <= then + DESCRIPTORS_MORE_MAX, "a daemon has {now} descriptors, {then} before");
        let [now, then] = [self.memory_kib, before.memory_kib];
        assert!(now <= then + MEMORY_MORE_KIB_MAX, "a daemon has {now} KiB of memory, {then} before");
    }
}

/// Asks daemons for their status, over and over: their coordinators answer whatever happens.
struct Watch {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Duration>>,
}

impl Watch {
    fn start(sockets: [PathBuf; 2]) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let watch = |socket: PathBuf| {
            let is_over = Arc::clone(&is_over);
            std::thread::spawn(move || {
                let mut longest = Duration::ZERO;
                while !is_over.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    status(&socket);
                    longest = longest.max(asked.elapsed());
                    std::thread::sleep(ASK_AGAIN);
                }
                longest
            })
        };
        let threads = sockets.map(watch).into();
        Self { is_over, threads }
    }

    /// Ends it. The longest time that one took.
    fn finish(mut self) -> Duration {
        self.is_over.store(true, Ordering::Relaxed);
        let longest = std::mem::take(&mut self.threads).into_iter().map(JoinHandle::join);
        longest.map(|longest| longest.unwrap_or_else(|panic| resume_unwind(panic))).max().unwrap_or_default()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}
