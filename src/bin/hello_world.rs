//! The smallest program: without `--remote` it prints what it receives, with `--remote` it sends one message.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};

use clap::Parser;
use machnet::{Delivery, Endpoint, Event};
use machnet_config::flags;

/// Where the receiver listens; Machnet's.
const PORT: u16 = 31_580;

/// Prints what it receives (without --remote), or sends one message (with)
#[derive(Parser)]
#[command(name = "hello_world", version)]
struct Args {
    /// Our address, one of the daemon's
    #[arg(long, value_name = "IP")]
    local: IpAddr,
    /// The other host's address
    #[arg(long, value_name = "IP")]
    remote: Option<IpAddr>,
    /// The daemon's control socket; by default $MACHNET_SOCKET or the usual one
    #[arg(long, value_name = "PATH")]
    socket: Option<std::path::PathBuf>,
}

fn main() {
    let args = Args::parse_from(flags::normalize(std::env::args_os()));
    if let Err(error) = run(&args) {
        eprintln!("hello_world: {error}");
        std::process::exit(1);
    }
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let endpoint = match &args.socket {
        Some(path) => Endpoint::attach_to(path)?,
        None => Endpoint::attach()?,
    };
    match args.remote {
        Some(remote) => send(endpoint, args.local, SocketAddr::new(remote, PORT)),
        None => receive(endpoint, args.local),
    }
}

fn send(mut endpoint: Endpoint, local: IpAddr, remote: SocketAddr) -> Result<(), Box<dyn Error>> {
    let flow = endpoint.connect(local, remote)?;
    endpoint.send(flow, b"Hello World!")?;
    endpoint.close(flow);
    // Closing is orderly: the last event says how many messages the other host has.
    loop {
        let Some(delivery) = endpoint.recv_in_place()? else {
            endpoint.wait(None)?;
            continue;
        };
        match delivery {
            Delivery::Event(Event::Closed { acknowledged_messages: 1, .. }) => {
                println!("Sent to {remote}, and the other host has it.");
                return Ok(());
            }
            Delivery::Event(Event::Closed { reason, .. }) => return Err(format!("not delivered: {reason}").into()),
            _ => {}
        }
    }
}

fn receive(mut endpoint: Endpoint, local: IpAddr) -> Result<(), Box<dyn Error>> {
    let local = endpoint.listen(SocketAddr::new(local, PORT))?;
    println!("Listening on {local}.");
    let mut count = 0;
    loop {
        while let Some(delivery) = endpoint.recv_in_place()? {
            if let Delivery::Message(message) = delivery {
                count += 1;
                println!("Received message: {}, count = {count}", String::from_utf8_lossy(&message.bytes()));
            }
        }
        endpoint.wait(None)?;
    }
}
