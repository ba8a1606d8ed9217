//! What cannot be done is said at once, in an error that names what is in the way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use machnet::{AttachError, ConnectError, ConnectOptions, Endpoint, Flow, ListenError, Rejection};
use machnet_shards::counters::Gauge;
use serde_json::json;

use crate::conversation::await_opened;
use crate::pair::{NEVER, Pair, Site, gauge};

const PORT: u16 = 888;
/// On the link, and nobody's.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 255, 77));

/// Connects with this much patience.
fn connect(endpoint: &mut Endpoint, from: &Site, to: SocketAddr, patience_ms: u64) -> Result<Flow, ConnectError> {
    endpoint.connect_with(from.ip(), to, ConnectOptions::new().timeout(Duration::from_millis(patience_ms)))
}

#[test]
fn a_connect_that_fails_says_why() {
    let Some(pair) = Pair::start(|_| ()) else { return };
    let Pair { left, right, .. } = &pair;
    let mut endpoint = left.attach();
    let started = Instant::now();
    assert_eq!(connect(&mut endpoint, left, right.at(PORT), 60_000), Err(ConnectError::Refused));
    assert!(started.elapsed() < NEVER / 2, "a refusal is an answer, nothing is waited for");
    assert_eq!(connect(&mut endpoint, left, SocketAddr::new(NOBODY, PORT), 300), Err(ConnectError::Unreachable));
    // A host that is there and speaks no Machnet: its kernel answers ARP, and says that nobody has the port.
    let no_daemon = SocketAddr::from((right.host.kernel_ip, PORT));
    let started = Instant::now();
    let rejected = Err(ConnectError::Rejected(Rejection::NoDaemon));
    assert_eq!(connect(&mut endpoint, left, no_daemon, 60_000), rejected);
    assert!(started.elapsed() < NEVER / 2, "it is not asked again and again");
    // IPv6, at either end.
    let ipv6 = Ipv6Addr::LOCALHOST;
    assert_eq!(connect(&mut endpoint, left, (ipv6, PORT).into(), 300), Err(ConnectError::NotYetIpv6(ipv6)));
    assert_eq!(endpoint.connect(ipv6.into(), right.at(PORT)), Err(ConnectError::NotYetIpv6(ipv6)));
    assert_eq!(endpoint.listen((ipv6, PORT).into()), Err(ListenError::NotYetIpv6(ipv6)));
    // Off the subnet, and no gateway.
    let far = SocketAddr::from(([10, 9, 9, 9], PORT));
    assert_eq!(connect(&mut endpoint, left, far, 300), Err(ConnectError::Unreachable));
    let error = endpoint.connect(NOBODY, right.at(PORT)).unwrap_err();
    assert_eq!(error, ConnectError::NoSuchAddress(vec![left.ip()]));
    // None of this did the endpoint any harm.
    let mut listener = right.listener(PORT);
    connect(&mut endpoint, left, right.at(PORT), 60_000).unwrap();
    // A listener that went away refuses, and the flows it has live on.
    await_opened(&mut listener, NEVER);
    listener.unlisten(right.at(PORT)).unwrap();
    assert_eq!(connect(&mut endpoint, left, right.at(PORT), 60_000), Err(ConnectError::Refused));
    left.await_status("the one flow", |status| gauge(status, Gauge::Flows) == 1);
}

#[test]
fn a_listener_has_its_address_for_itself() {
    let Some(pair) = Pair::start(|_| ()) else { return };
    let site = &pair.left;
    let (mut one, mut other) = (site.attach(), site.attach());
    assert_eq!(one.listen(site.at(PORT)), Ok(site.at(PORT)));
    assert_eq!(other.listen(site.at(PORT)), Err(ListenError::AddressInUse));
    assert_eq!(one.listen(site.at(PORT)), Err(ListenError::AddressInUse));
    assert_eq!(other.listen(SocketAddr::new(NOBODY, PORT)), Err(ListenError::NoSuchAddress(vec![site.ip()])));
    let chosen = other.listen(site.at(0)).unwrap().port();
    assert!(chosen != 0 && chosen != PORT, "{chosen}");
    assert_eq!(other.unlisten(site.at(PORT)), Err(ListenError::NotListening));
    one.unlisten(site.at(PORT)).unwrap();
    assert_eq!(other.listen(site.at(PORT)), Ok(site.at(PORT)));
    // The end of an endpoint frees what it had.
    drop(other);
    site.await_status("a free port", |status| status.listeners.is_empty());
    assert_eq!(one.listen(site.at(PORT)), Ok(site.at(PORT)));
}

#[test]
fn a_limit_is_an_error_that_names_it() {
    let tight = |config: &mut serde_json::Value| {
        let settings = &mut config["machnet_shards"];
        settings["max_endpoints_per_user"] = json!(3);
        settings["max_channel_bytes_per_user"] = json!(40 << 20);
        settings["max_flows_per_shard"] = json!(5);
    };
    let Some(pair) = Pair::start(tight) else { return };
    let Pair { left, right, .. } = &pair;
    let [mut one, mut two, mut three] = [left.attach(), left.attach(), left.attach()];
    match Endpoint::attach_to(left.host.socket()) {
        Err(AttachError::Limit(text)) => {
            assert!(text.contains("max_endpoints_per_user"), "{text}")
        }
        other => panic!("{other:?}"),
    }

    one.listen(left.at(1)).unwrap();
    two.listen(left.at(2)).unwrap();
    match three.listen(left.at(3)) {
        Err(ListenError::Limit(text)) => assert!(text.contains("max_channel_bytes_per_user"), "{text}"),
        other => panic!("{other:?}"),
    }
    drop(two);
    left.await_status("memory that is given back", |status| gauge(status, Gauge::Channels) == 1);
    left.await_status("a channel that is gone", |status| status.summary.control.channels_ending == 0);
    assert_eq!(three.listen(left.at(3)), Ok(left.at(3)));

    // A shard has as many flows as it may: whoever opens one more is told.
    let _listener = right.listener(PORT);
    let flows: Vec<_> = (0..5).map(|_| connect(&mut one, left, right.at(PORT), 60_000).unwrap()).collect();
    match connect(&mut one, left, right.at(PORT), 2_000) {
        Err(ConnectError::Limit(text)) => assert!(text.contains("max_flows_per_shard"), "{text}"),
        // The other shard is as full, and asked first.
        Err(ConnectError::Refused) => {}
        other => panic!("{other:?}"),
    }
    one.close(flows[0]);
    for site in [left, right] {
        // To its shard and to the coordinator, which hears of it from the shard.
        site.await_status("one flow less", |status| gauge(status, Gauge::Flows) == 4 && status.flows.len() == 4);
    }
    connect(&mut one, left, right.at(PORT), 60_000).unwrap();
}

#[test]
fn an_endpoint_listens_at_so_many_ports_and_no_more() {
    const MOST: usize = 1024;
    let Some(pair) = Pair::start(|_| ()) else { return };
    let mut endpoint = pair.left.attach();
    for number in 0..MOST {
        assert!(endpoint.listen(pair.left.at(0)).is_ok(), "listener {number}");
    }
    match endpoint.listen(pair.left.at(0)) {
        Err(ListenError::Limit(text)) => assert!(text.contains("1024 listeners"), "{text}"),
        other => panic!("{other:?}"),
    }
}
