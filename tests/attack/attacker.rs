//! The attacker: a process of its own on a host of its own.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use machnet_core::addr::MacAddr;
use machnet_test_kit::hosts::{Host, Program};
use machnet_test_kit::waiting::NEVER;

use crate::stage::Stage;
use crate::trial::lasts;
use crate::{application, host, off_path};

/// What the process is told by its environment.
const NAME: &str = "MACHNET_ATTACK";
const SOCKET: &str = "MACHNET_ATTACK_SOCKET";
const VICTIM_IP: &str = "MACHNET_ATTACK_VICTIM_IP";
const VICTIM_MAC: &str = "MACHNET_ATTACK_VICTIM_MAC";
const PEER_IP: &str = "MACHNET_ATTACK_PEER_IP";
const PEER_MAC: &str = "MACHNET_ATTACK_PEER_MAC";
const OWN_IP: &str = "MACHNET_ATTACK_OWN_IP";
const OWN_MAC: &str = "MACHNET_ATTACK_OWN_MAC";
const MILLISECONDS: &str = "MACHNET_ATTACK_MILLISECONDS";
/// Before each word that it has for the test.
const MARK: &str = "attacker: ";
/// It is at it.
const AT_IT: &str = "at it";
/// It has done what it could.
const DONE: &str = "done";

/// An attacker, seen from the test.
pub(crate) struct Attacker(Program);

impl Attacker {
    /// Starts one in this host; it is at it when this returns. `more` are variables of its environment.
    pub(crate) fn start(stage: &Stage, within: &Host, name: &str, more: &[(&str, String)]) -> Self {
        let this = std::env::current_exe().unwrap();
        let [victim, peer] = [&stage.left.host, &stage.right.host];
        let variables = [
            (NAME, name.to_owned()),
            (SOCKET, victim.socket().display().to_string()),
            (VICTIM_IP, victim.machnet_ip.to_string()),
            (VICTIM_MAC, victim.mac.clone()),
            (PEER_IP, peer.machnet_ip.to_string()),
            (PEER_MAC, peer.mac.clone()),
            (OWN_IP, within.machnet_ip.to_string()),
            (OWN_MAC, within.mac.clone()),
            (MILLISECONDS, lasts().as_millis().to_string()),
        ];
        let variables = variables.iter().chain(more).map(|(name, value)| format!("{name}={value}"));
        let test = ["--exact", "attacker::attack", "--ignored", "--nocapture"].map(str::to_owned);
        let arguments = variables.chain([this.display().to_string()]).chain(test);
        let mut program = within.start("env", arguments).unwrap();
        program.until_it_says(&format!("{MARK}{AT_IT}"), NEVER).unwrap();
        Self(program)
    }

    /// Waits until it has done what it could.
    pub(crate) fn wait(&mut self) {
        self.0.until_it_says(&format!("{MARK}{DONE}"), NEVER).unwrap();
    }

    /// The number that it gave last under this name.
    pub(crate) fn said(&self, what: &str) -> u64 {
        let mark = format!("{MARK}{what} = ");
        let said = self.0.stdout();
        let last = said.lines().rev().find_map(|line| line.split_once(&mark));
        let (_, number) = last.unwrap_or_else(|| panic!("{}", self.0.failure(&format!("has not said {what}"))));
        number.trim().parse().unwrap()
    }
}

/// Not a test by itself: the attacker.
#[test]
#[ignore = "started by the tests of this program"]
fn attack() {
    let mission = Mission::of_environment();
    match variable(NAME).as_str() {
        "ask with a shut window" => host::hoarding::ask_with_a_shut_window(&mission),
        "break a channel with many flows" => application::resets::break_a_channel_with_many_flows(&mission),
        "break channels" => application::storm::break_channels(&mission),
        "come from everywhere" => host::addresses::come_from_everywhere(&mission),
        "forge announcements" => host::addresses::forge_announcements(&mission),
        "hoard connects" => application::hoards::hoard_connects(&mission),
        "hoard holes" => host::hoarding::hoard_holes(&mission),
        "hold locks" => application::locks::attack(&mission),
        "lock a directory" => application::directory::lock_a_directory(&mission),
        "move all the time" => host::addresses::move_all_the_time(&mission),
        "open and close" => host::hoarding::open_and_close(&mission),
        "read no report" => application::hoards::read_no_report(&mission),
        "say it all again" => host::replay::say_it_all_again(&mission),
        "guess" => off_path::guess(&mission),
        "send what lingers" => application::lingering::attack(&mission),
        "close early" => host::closing::close_early(&mission),
        "close what has ended" => host::closing::close_what_has_ended(&mission),
        other => panic!("nobody knows how to {other}"),
    }
    done(());
}

/// Says that it has done what it could, and holds what it has until the test ends this process, or forgets to.
pub(crate) fn done<T>(_held: T) {
    say(DONE);
    std::thread::sleep(NEVER);
}

/// Says that it is at it.
pub(crate) fn at_it() {
    say(AT_IT);
}

/// Gives a number to the test.
pub(crate) fn tell(what: &str, number: u64) {
    say(&format!("{what} = {number}"));
}

fn say(words: &str) {
    println!("{MARK}{words}");
}

/// What an attacker knows.
pub(crate) struct Mission {
    /// The control socket of the attacked daemon.
    pub(crate) socket: PathBuf,
    /// The attacked daemon's host.
    pub(crate) victim: Place,
    /// The host it talks to.
    pub(crate) peer: Place,
    /// Where the attacker is.
    pub(crate) own: Place,
    /// How long it goes on.
    pub(crate) lasts: Duration,
}

/// A host's addresses.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) ip: Ipv4Addr,
    pub(crate) mac: MacAddr,
}

impl Place {
    fn of_environment(ip: &str, mac: &str) -> Self {
        Self { ip: variable(ip).parse().unwrap(), mac: variable(mac).parse().unwrap() }
    }
}

impl Mission {
    fn of_environment() -> Self {
        Self {
            socket: variable(SOCKET).into(),
            victim: Place::of_environment(VICTIM_IP, VICTIM_MAC),
            peer: Place::of_environment(PEER_IP, PEER_MAC),
            own: Place::of_environment(OWN_IP, OWN_MAC),
            lasts: Duration::from_millis(variable(MILLISECONDS).parse().unwrap()),
        }
    }

    /// The attacked daemon's address.
    pub(crate) fn victim_ip(&self) -> IpAddr {
        self.victim.ip.into()
    }
}

/// A variable of the environment.
pub(crate) fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not in the environment"))
}
