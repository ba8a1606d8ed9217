//! The other stacks: kernel TCP and UDP with blocking calls, and frames over the bare device.

use std::time::Duration;

use machnet_test_kit::Failure;
use machnet_test_kit::hosts::{Hosts, Program};
use machnet_test_kit::measurement::Measurement;
use machnet_test_kit::tcp::GATHER_BYTES;

use crate::daemons::{clear_memif, cpu_of_ended_children, memif_arguments, until_memif_listens};
use crate::section::{Load, Round, Stack, Wire};
use crate::table::{Costed, together};

const PORT: u16 = 888;
/// How long a program may take beyond its measuring.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rival {
    /// A system call for each message.
    Tcp,
    /// One for all messages that are ready, as `msg_gen` appends them.
    TcpGathering,
    Udp,
    /// The same device without any protocol, both sides spinning: a limit, not a stack.
    Bare,
}

/// A rival on hosts of its own.
pub(crate) struct Running {
    rival: Rival,
    hosts: Hosts,
    wire: Wire,
}

impl Running {
    pub(crate) fn new(rival: Rival, hosts: Hosts, wire: Wire) -> Self {
        Self { rival, hosts, wire }
    }

    /// `how`: what both programs are told besides. Each client has a server of its own. Gives what the clients wrote.
    fn of_kernel(&self, protocol: &str, how: &[&str], round: &Round) -> Result<Vec<String>, Failure> {
        let this = this_program()?;
        let (size, window) = (round.msg_size.to_string(), round.window.to_string());
        let seconds = round.length.as_secs_f64().to_string();
        let pause = round.pause.map(|pause| pause.as_micros().to_string());
        let pause: Vec<&str> = pause.iter().flat_map(|pause| ["--pause-us", pause]).collect();
        let [serve, call] = ["serve", "call"].map(|part| format!("{protocol}-{part}"));
        let (mut servers, mut clients) = (Vec::new(), Vec::new());
        for number in 0..round.clients {
            let address = format!("{}:{}", self.hosts.right.kernel_ip, PORT + number);
            let serve = match protocol {
                "tcp" => vec![&*serve, &*address, &*size],
                _ => vec![&*serve, &*address],
            };
            servers.push(self.hosts.right.start(&this, [&serve[..], how].concat())?);
            let call = [&[&*call, &*address, &*size], how, &pause, &[&*window, &*seconds]].concat();
            clients.push(self.hosts.left.start(&this, call)?);
        }
        let finish = |client: &mut Program| client.finish(round.length + PATIENCE);
        let written = clients.iter_mut().map(finish).collect::<Result<_, _>>()?;
        servers.iter_mut().try_for_each(|server| server.finish(PATIENCE).map(drop))?;
        Ok(written)
    }

    /// The echo is on the left, where memif has its server.
    fn of_bare_device(&self, &Round { msg_size, window, length, .. }: &Round) -> Result<String, Failure> {
        let Hosts { left, right } = &self.hosts;
        let arguments = |host| memif_arguments(self.wire, &self.hosts, host).unwrap_or_else(|| "kernel".to_owned());
        let mtu = match self.wire {
            Wire::Veth { mtu_bytes } => mtu_bytes,
            Wire::Memif => 1500,
        };
        if self.wire == Wire::Memif {
            clear_memif(&self.hosts);
        }
        let mut echo = left.start_example("bare", [&*left.mac, &arguments(left), &mtu.to_string(), "echo"])?;
        if self.wire == Wire::Memif {
            until_memif_listens(&mut echo, &self.hosts)?;
        }
        let (seconds, load) = (length.as_secs_f64().to_string(), format!("{msg_size}:{window}"));
        let call = [&*right.mac, &arguments(right), &mtu.to_string(), "call", &*left.mac, &seconds, &load];
        let mut client = right.start_example("bare", call)?;
        client.finish(length + PATIENCE).map_err(|why| Failure(format!("{why}\n\n{}", echo.failure("(the echo)"))))
    }
}

impl Stack for Running {
    fn name(&self) -> &'static str {
        match self.rival {
            Rival::Tcp => "kernel TCP",
            Rival::TcpGathering => "TCP, gathering",
            Rival::Udp => "kernel UDP",
            Rival::Bare => "(bare device)",
        }
    }

    fn takes(&self, (msg_size, window): Load) -> bool {
        match self.rival {
            Rival::Tcp | Rival::Bare => true,
            Rival::TcpGathering => window > 1 && msg_size <= GATHER_BYTES,
            // Nobody repeats what finds a receive buffer full.
            Rival::Udp => msg_size * window <= 32 << 10,
        }
    }

    fn measure(&mut self, round: &Round) -> Result<Costed, Failure> {
        let before = cpu_of_ended_children();
        let written = match self.rival {
            Rival::Tcp => self.of_kernel("tcp", &[], round)?,
            Rival::TcpGathering => self.of_kernel("tcp", &["--gather"], round)?,
            Rival::Udp => self.of_kernel("udp", &[], round)?,
            Rival::Bare => vec![self.of_bare_device(round)?],
        };
        let cpu_s = cpu_of_ended_children() - before;
        let total = |written: &String| {
            let measurement = Measurement::from_last_line(written).filter(|measured| measured.received > 0);
            measurement.ok_or_else(|| Failure(format!("{} gave no totals: {written}", self.name())))
        };
        let measured = written.iter().map(total).collect::<Result<Vec<_>, _>>()?;
        Ok(Costed { measurement: together(&measured), cpu_s })
    }

    fn stop(self: Box<Self>) -> Result<(), Failure> {
        Ok(())
    }
}

pub(crate) fn this_program() -> Result<String, Failure> {
    let this = std::env::current_exe().map_err(|why| Failure(format!("the bench does not find itself: {why}")))?;
    Ok(this.to_string_lossy().into_owned())
}
