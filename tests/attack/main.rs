//! An attacker's visit: everything that once did harm is tried anew, with real processes, beside two neighbours who
//! talk to each other and are measured.
//!
//! ```text
//!   left: machnet-shards ════╗ ┌────────┐ ╔════ right: machnet-shards
//!   the attacked daemon      ╠═│ switch │═╣     and a client, who asks the server on the left
//!   and a server             ║ └────────┘ ║
//!                            ╚════════════╩════ third: where attackers run
//! ```
//!
//! An attacker is a process of its own: an application of another user, who may open the control socket of `left` and
//! nothing else; a host on the link, which has no daemon and sends what it likes; or a host elsewhere, which knows
//! addresses and ports and sees no answer. Beside each attack nothing of the neighbours' is lost or wrong, none of
//! their flows ends, both daemons live and answer, and strangers can still open flows and ask. What the neighbours'
//! messages took is measured and printed, not asserted; only a stall of seconds is a failure.
//!
//! `make attack` keeps each up for longer. Either way there is a table in the end.

mod attacker;
mod neighbours;
mod stage;
mod table;
mod trial;
mod user;
mod wire;

mod application;
mod host;
mod off_path;
