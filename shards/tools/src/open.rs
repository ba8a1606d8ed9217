//! The flags that say which interface, and the way from there to open queues.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use clap::Args;
use machnet_config::{Config, Interface, cpus, flags};
use machnet_core::addr;

use machnet_nic::NicQueue;
use machnet_nic::devices::OpenInterface;
use machnet_nic::devices::{DevicesError, WithQueues, open_all, plan_all};
use machnet_nic::plan::DevicePlan;

/// Why a tool ends early.
#[derive(Debug)]
pub struct Failure {
    /// The exit status: 2 for mistakes of configuration and arguments, else 1.
    pub status: u8,
    /// What was wrong and what to do, for the user.
    pub sentence: String,
}

impl Failure {
    /// With this exit status.
    pub fn new(status: u8, sentence: impl Into<String>) -> Self {
        Self { status, sentence: sentence.into() }
    }

    /// Something that the operating system refused.
    pub fn system(error: &dyn fmt::Display) -> Self {
        Self::new(1, error.to_string())
    }
}

impl From<DevicesError> for Failure {
    fn from(error: DevicesError) -> Self {
        let status = if matches!(error, DevicesError::Config(_)) { 2 } else { 1 };
        Self::new(status, error.to_string())
    }
}

/// Which NIC.
#[derive(Args, Clone, Debug, Default)]
pub struct NicArgs {
    /// The daemon's configuration, which says how to open the NIC. Default: config.json here, then
    /// /etc/machnet/config.json
    #[arg(long, visible_alias = "config-file", value_name = "FILE")]
    config_json: Option<PathBuf>,
    /// Our address, to choose an interface if the configuration has several
    #[arg(long, value_name = "IP", value_parser = flags::ipv4)]
    local_ip: Option<Ipv4Addr>,
}

/// An interface that can be opened.
#[derive(Debug)]
pub struct Chosen {
    /// With this interface only.
    config: Config,
    plans: Vec<DevicePlan>,
}

impl NicArgs {
    /// Settles which interface is meant and how it is reached. Starts nothing.
    ///
    /// # Errors
    /// Mistakes of the configuration, and devices that cannot be used.
    pub fn choose(&self) -> Result<Chosen, Failure> {
        let loaded = self.config_json.as_deref().map_or_else(Config::load_default, Config::load);
        let mut config = loaded.map_err(DevicesError::Config)?;
        let interface = pick(&config, self.local_ip)?.clone();
        config.interfaces = vec![interface];
        for warning in cpus::settle_here(&mut config).map_err(DevicesError::Config)?.into_iter().flatten() {
            tracing::warn!("{warning}");
        }
        let plans = plan_all(&config)?;
        Ok(Chosen { config, plans })
    }
}

fn pick(config: &Config, local_ip: Option<Ipv4Addr>) -> Result<&Interface, Failure> {
    let file = config.file.display();
    let addresses = || config.interfaces.iter().map(|other| other.ip.to_string()).collect::<Vec<_>>().join(", ");
    match (local_ip, &config.interfaces[..]) {
        (None, [only]) => Ok(only),
        (None, _) => {
            let addresses = addresses();
            Err(Failure::new(2, format!("{file} has several interfaces: choose one of {addresses} with --local_ip")))
        }
        (Some(ip), interfaces) => interfaces.iter().find(|interface| interface.ip == IpAddr::V4(ip)).ok_or_else(|| {
            let addresses = addresses();
            Failure::new(2, format!("{file} has no interface with the IP {ip}: choose among {addresses}"))
        }),
    }
}

impl Chosen {
    /// What the configuration says about it.
    pub fn interface(&self) -> &Interface {
        &self.config.interfaces[0]
    }

    /// The neighbor that packets for `remote` go to.
    ///
    /// # Errors
    /// When there is no way, or it is ourselves.
    pub fn next_hop(&self, remote: Ipv4Addr) -> Result<Ipv4Addr, Failure> {
        let Interface { ip, subnet, .. } = *self.interface();
        let file = self.config.file.display();
        if IpAddr::V4(remote) == ip {
            return Err(Failure::new(2, format!("{remote} is our own address in {file}: give another host's")));
        }
        let next_hop = subnet.map_or(Some(remote.into()), |subnet| subnet.next_hop(ip, remote.into()));
        let next_hop = next_hop.ok_or_else(|| {
            let sentence = format!("{remote} is not on the link of {ip}, and {file} has no \"gateway\": add one");
            Failure::new(2, sentence)
        })?;
        addr::ipv4(next_hop).map_err(|error| Failure::new(2, error.to_string()))
    }

    /// Opens it, unless another process owns it, and does something with its queues. All threads that use them must
    /// have ended with that.
    ///
    /// # Errors
    /// When another process owns the interface, or the device refuses; and those of what is done.
    pub fn open<W, T>(&self, what: W) -> Result<T, Failure>
    where
        W: WithQueues<Output = Result<T, Failure>>,
    {
        let mut devices = open_all(&self.config, &self.plans)?;
        let opened = devices.interfaces.pop().expect("one for each interface");
        opened.with_queues(WithinMtu(what))
    }
}

/// Lowers the device's MTU to the configured one.
struct WithinMtu<W>(W);

impl<W: WithQueues> WithQueues for WithinMtu<W> {
    type Output = W::Output;

    fn run<Q>(self, mut opened: OpenInterface<Q>) -> W::Output
    where
        Q: NicQueue<Frame: Send> + Send + 'static,
    {
        let limit = opened.interface.mtu_bytes.unwrap_or(u16::MAX);
        opened.capabilities.mtu_bytes = opened.capabilities.mtu_bytes.min(limit);
        self.0.run(opened)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(interfaces: &str) -> Config {
        let text = format!(r#"{{"machnet_config": {{{interfaces}}}}}"#);
        Config::parse(Path::new("c.json"), text.as_bytes()).expect("a configuration")
    }

    const ONE: &str = r#""02:00:00:00:00:01": {"ip": "10.0.0.1", "prefix": 24}"#;
    const TWO: &str = r#""02:00:00:00:00:02": {"ip": "10.0.1.1"}"#;

    #[test]
    fn the_interface_is_the_only_one_or_the_one_with_the_address() {
        let both = config(&format!("{ONE}, {TWO}"));
        let ip = |last: [u8; 4]| Some(Ipv4Addr::from(last));
        assert_eq!(pick(&config(ONE), None).expect("there is one").ip, IpAddr::from([10, 0, 0, 1]));
        assert_eq!(pick(&both, ip([10, 0, 1, 1])).expect("it is there").mac.0[5], 2);
        for (config, local_ip, part) in [
            (&both, None, "choose one of 10.0.0.1, 10.0.1.1 with --local_ip"),
            (&both, ip([10, 0, 2, 1]), "no interface with the IP 10.0.2.1"),
        ] {
            let failure = pick(config, local_ip).expect_err("no choice");
            assert!(failure.status == 2 && failure.sentence.contains(part), "{failure:?}");
        }
    }

    #[test]
    fn the_next_hop_is_the_peer_or_the_gateway() {
        let chosen = |interface| Chosen { config: config(interface), plans: Vec::new() };
        let (near, far) = (Ipv4Addr::new(10, 0, 0, 9), Ipv4Addr::new(10, 9, 9, 9));
        assert_eq!(chosen(ONE).next_hop(near).expect("on the link"), near);
        assert_eq!(chosen(TWO).next_hop(far).expect("all are on the link"), far);
        let routed = ONE.replace("24", r#"24, "gateway": "10.0.0.7""#);
        assert_eq!(chosen(&routed).next_hop(far).expect("there is a gateway"), Ipv4Addr::new(10, 0, 0, 7));
        for (remote, part) in [(far, "gateway"), (Ipv4Addr::new(10, 0, 0, 1), "our own address")] {
            let failure = chosen(ONE).next_hop(remote).expect_err("no way");
            assert!(failure.status == 2 && failure.sentence.contains(part), "{failure:?}");
        }
    }
}
