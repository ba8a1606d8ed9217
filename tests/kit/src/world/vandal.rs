//! An application that writes into the memory of its channels what it likes, and nothing else any more.

use std::os::fd::{AsFd, OwnedFd};

use machnet_core::time::Instant;
use machnet_nic::faults::Dice;
use machnet_shards::coordinator::{ConnectionId, Input};

use super::World;
use super::application::{AppId, Application};
use super::checker::IncidentKind;

/// Its connection and its memory are all that is left of it.
pub(crate) struct Vandal {
    pub(crate) host: usize,
    connection: ConnectionId,
    /// Keeps its memory.
    application: Application,
    /// When it dies.
    dies_at: Instant,
}

impl Vandal {
    /// Its host and its user.
    pub(crate) fn owner(&self) -> (usize, u32) {
        (self.host, self.application.uid)
    }
}

/// Words that are written at a time, at most, and how long they are.
const WORDS_MAX: usize = 64;
const WORD_BYTES: usize = 8;
/// Where the indices of the rings are: half of all words go there.
const INDICES_BYTES: usize = 4096;

/// Writes noise into a segment.
fn scribble(segment: &OwnedFd, dice: &mut Dice) {
    let bytes = rustix::fs::fstat(segment.as_fd()).expect("a segment").st_size;
    let bytes = usize::try_from(bytes).expect("it is in memory");
    for _ in 0..1 + dice.below(WORDS_MAX) {
        let within = if dice.chance(0.5) { INDICES_BYTES.min(bytes) } else { bytes };
        let at = dice.below(within / WORD_BYTES) * WORD_BYTES;
        let word = match dice.below(3) {
            0 => dice.throw(),
            1 => dice.below(256) as u64,
            _ => u64::MAX,
        };
        let _ = rustix::io::pwrite(segment, &word.to_ne_bytes(), at as u64).expect("a segment can be written");
    }
}

impl World {
    /// An application scribbles over its channels, does nothing more, and dies at this moment. Nobody but its peers may
    /// notice; what those get of it is anything.
    pub fn vandalize(&mut self, app: AppId, dies_at: Instant) {
        let Some(mut application) = self.apps.remove(&app) else { return };
        self.trace.say(|| format!("{app:?} scribbles over its memory"));
        let (host, connection) = (application.host, application.connection);
        self.connections.remove(&connection);
        for side in application.sides() {
            self.checker.vandalized(side);
        }
        for port in &application.listens {
            self.control.ended(self.hosts[host].ip, *port);
        }
        self.checker.incident(IncidentKind::ApplicationDied, self.hosts[host].ip, self.now);
        self.checker.incident(IncidentKind::Vandalism, self.hosts[host].ip, self.now);
        for channel in &mut application.channels {
            scribble(&channel.segment, &mut self.dice);
        }
        self.vandals.push(Vandal { host, connection, application, dies_at });
        // It rings every bell it has.
        self.ring_all_bells();
        self.stir(host);
    }

    /// Vandals go whose time has come, and scribble till then.
    pub fn tend_vandals(&mut self) {
        if self.vandals.is_empty() {
            return;
        }
        for vandal in &mut self.vandals {
            for channel in &vandal.application.channels {
                scribble(&channel.segment, &mut self.dice);
            }
        }
        self.ring_all_bells();
        let now = self.now;
        let dead: Vec<_> = self.vandals.extract_if(.., |vandal| vandal.dies_at <= now).collect();
        for Vandal { host, connection, .. } in dead {
            self.checker.incident_over(IncidentKind::Vandalism, self.hosts[host].ip, now);
            self.checker.incident(IncidentKind::ApplicationDied, self.hosts[host].ip, now);
            if let Some(daemon) = &mut self.hosts[host].daemon {
                daemon.tell(Input::Disconnected { connection });
            }
            self.stir(host);
        }
    }

    /// All of them go now.
    pub fn end_vandals(&mut self) {
        let now = self.now;
        self.vandals.iter_mut().for_each(|vandal| vandal.dies_at = now);
        self.tend_vandals();
    }

    /// A daemon threw an application out that is no more than its connection.
    pub(super) fn bury(&mut self, connection: ConnectionId) {
        for Vandal { host, .. } in self.vandals.extract_if(.., |vandal| vandal.connection == connection) {
            self.checker.incident_over(IncidentKind::Vandalism, self.hosts[host].ip, self.now);
            self.checker.incident(IncidentKind::ApplicationDied, self.hosts[host].ip, self.now);
        }
    }
}
