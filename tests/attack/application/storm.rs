//! An application breaks the rules as often as it can, each time with a new channel.

use std::time::Instant;

use machnet_shards::counters::Counter;

use super::Hostile;
use crate::attacker::{Mission, at_it, tell};
use crate::stage::counted;
use crate::table::Attack;
use crate::user::become_stranger;

const STORM: Attack = Attack {
    number: "13a",
    who: "application",
    tries: "breaks channels, one after the other",
    before: "a line of the log for each: 650 KB/s",
};

/// What the log may grow by in all, whatever an application does.
const LOG_BYTES_MAX: usize = 4 << 10;

#[test]
fn channels_that_are_broken_one_after_the_other_fill_no_log() {
    STORM.run(
        |_| (),
        |trial| {
            let (log, before) =
                (trial.stage.left.log_bytes(), counted(&trial.stage.left.status(), Counter::ChannelsBroken));
            trial.attacker("break channels", &[]);
            trial.last_attacker().wait();
            let tried = trial.last_attacker().said("broken");
            assert!(tried > 0, "no channel was broken");
            // A shard tells what it has counted now and then.
            trial.stage.left.await_status("the number of broken channels", |status| {
                counted(status, Counter::ChannelsBroken) - before == tried
            });
            let log = trial.stage.left.log_bytes() - log;
            assert!(log <= LOG_BYTES_MAX, "{log} bytes of log for {tried} broken channels");
            format!("{tried} channels broken, {log} bytes of log")
        },
    );
}

/// The application.
pub(crate) fn break_channels(mission: &Mission) {
    become_stranger();
    at_it();
    let (began, mut broken) = (Instant::now(), 0);
    while began.elapsed() < mission.lasts {
        let mut application = Hostile::attach(&mission.socket);
        application.listen(mission.victim_ip(), 0);
        application.break_channel();
        // The end of the connection is the end of the channel.
        application.await_end();
        broken += 1;
    }
    tell("broken", broken);
}
