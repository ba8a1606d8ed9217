//! Generates, measures and returns raw UDP frames, with the flags of Machnet's pktgen.

mod args;
mod counts;
mod generator;
mod ping;
mod traffic;
mod worker;

use std::net::Ipv4Addr;
use std::process::ExitCode;

use machnet_nic::devices::OpenInterface;
use machnet_nic::devices::WithQueues;
use machnet_nic::{ETHERNET_HEADER_BYTES, NicQueue};
use machnet_tools::{Failure, Stop, program};

use args::{Args, Mode};

fn main() -> ExitCode {
    let (args, mode) = Args::parse_command_line();
    program::run(args::NAME, || run(&args, mode))
}

/// Whether the run came to anything.
fn run(args: &Args, mode: Mode) -> Result<bool, Failure> {
    let chosen = args.nic.choose()?;
    let remote = match mode {
        Mode::Passive => None,
        Mode::Active(remote) | Mode::Ping(remote) => Some((remote, chosen.next_hop(remote)?)),
    };
    let stop = Stop::on_signals()?;
    chosen.open(Run { args, mode, remote, stop: &stop })
}

/// The run, once the interface is open.
struct Run<'a> {
    args: &'a Args,
    mode: Mode,
    /// Whom it is about, and the neighbor that leads there.
    remote: Option<(Ipv4Addr, Ipv4Addr)>,
    stop: &'a Stop,
}

impl WithQueues for Run<'_> {
    type Output = Result<bool, Failure>;

    fn run<Q>(self, opened: OpenInterface<Q>) -> Result<bool, Failure>
    where
        Q: NicQueue<Frame: Send> + Send + 'static,
    {
        let Self { args, mode, remote, stop } = self;
        let mtu_bytes = usize::from(opened.capabilities.mtu_bytes);
        let largest = mtu_bytes + ETHERNET_HEADER_BYTES;
        if remote.is_some() && usize::from(args.pkt_size) > largest {
            let size = args.pkt_size;
            let sentence =
                format!("--pkt_size {size} does not fit the MTU of {mtu_bytes} bytes: give {largest} at most");
            return Err(Failure::new(2, sentence));
        }
        work(args, mode, remote, opened, stop)
    }
}

fn work<Q>(
    args: &Args,
    mode: Mode,
    remote: Option<(Ipv4Addr, Ipv4Addr)>,
    opened: OpenInterface<Q>,
    stop: &Stop,
) -> Result<bool, Failure>
where
    Q: NicQueue<Frame: Send> + Send,
{
    match (mode, remote) {
        (Mode::Ping(_), Some(remote)) => ping::run(args, opened, remote, stop),
        _ => traffic::run(args, remote, opened, stop).map(|()| true),
    }
}
