//! Several shards on an interface: flows live where the device delivers them, whatever its hash, and all arrives.

use machnet::daemon::control::report::{FullReport, ShardReport};
use machnet::{AttachOptions, Binding, Delivery, Endpoint, Event, ListenOptions};
use machnet_shards::counters::Counter;
use machnet_test_kit::deliveries::next_delivery;
use machnet_test_kit::hosts::{Program, VethPair};
use machnet_test_kit::waiting::{eventually, once};

use crate::conversation::converse;
use crate::pair::{NEVER, Pair, Side, Site, counted, memif, set};

const PORT: u16 = 888;

/// Small messages, packets just full and just too large, and long ones.
const SIZES: [usize; 6] = [1, 64, 1418, 1419, 20_000, 64];

/// Hosts with so many shards, on the kernel interface by this driver.
fn pair(shards: [u16; 2], driver: &str) -> Option<Pair> {
    let queues = if driver == "af_xdp" { shards[0].max(shards[1]) } else { 1 };
    Pair::start_over(VethPair { queues, ..VethPair::default() }, |side, config| {
        set(config, "engine_threads", shards[usize::from(side == Side::Right)]);
        set(config, "driver", driver);
    })
}

fn bound(site: &Site, binding: Binding) -> Endpoint {
    Endpoint::attach_with(site.host.socket(), AttachOptions::new().binding(binding)).unwrap()
}

/// Lets endpoints that are bound so talk over `flows` flows.
fn talk(pair: &Pair, flows: usize, binding: Binding) {
    let mut acceptor = bound(&pair.right, binding);
    acceptor.listen(pair.right.at(PORT)).unwrap();
    let connector = (bound(&pair.left, binding), pair.left.ip());
    converse(connector, (acceptor, pair.right.at(PORT)), flows, &SIZES, NEVER);
}

/// Whether no flow is left, and no hint. (The parts of a status are not of one moment.)
fn is_over(status: &FullReport) -> bool {
    let is_free = status.summary.shards.iter().all(|shard| shard.flows == 0 && shard.hints == 0);
    is_free && status.flows.is_empty()
}

/// Whether a shard ever had a flow.
fn had_flows(shard: &ShardReport) -> bool {
    [Counter::FlowsConnected, Counter::FlowsAccepted].iter().any(|counter| counter.of(&shard.counters) > 0)
}

/// Every shard of the site had a part in it, and nothing of it is left.
fn assert_shared(site: &Site, shards: usize) {
    let status = site.await_status("the end of all flows and hints", is_over);
    assert_eq!(status.summary.shards.len(), shards);
    assert!(status.summary.shards.iter().all(had_flows), "a shard had no flow: {status:#?}");
}

#[test]
fn hosts_with_different_numbers_of_shards_talk_over_a_hash_nobody_knows() {
    for shards in [[1, 3], [2, 2], [4, 1]] {
        let Some(pair) = pair(shards, "af_packet") else { return };
        talk(&pair, 40, Binding::All);
        assert_shared(&pair.left, shards[0].into());
        assert_shared(&pair.right, shards[1].into());
    }
}

#[test]
fn an_af_xdp_port_for_each_queue_is_a_shard() {
    let Some(pair) = pair([2, 2], "af_xdp") else { return };
    talk(&pair, 24, Binding::All);
    assert_shared(&pair.left, 2);
    assert_shared(&pair.right, 2);
}

#[test]
fn memif_has_a_ring_for_each_shard() {
    let pair = Pair::start_over(VethPair::default(), |side, config| memif(side, config, 2));
    let Some(pair) = pair else { return };
    talk(&pair, 24, Binding::All);
    assert_shared(&pair.left, 2);
    assert_shared(&pair.right, 2);
}

#[test]
fn an_endpoint_of_one_shard_gets_flows_that_land_on_any() {
    for binding in [Binding::Shard(1), Binding::LeastLoaded] {
        let Some(pair) = pair([3, 2], "af_packet") else { return };
        talk(&pair, 40, binding);
        for site in [&pair.left, &pair.right] {
            let status = site.await_status("the end of all flows and hints", is_over);
            assert!(counted(&status, Counter::TakenOver) > 0, "{status:#?}");
            let owners = status.summary.shards.iter().filter(|shard| had_flows(shard));
            assert_eq!(owners.count(), 1, "one shard has all flows: {status:#?}");
        }
    }
}

#[test]
fn endpoints_share_a_port_and_the_others_go_on_when_one_is_killed() {
    let Some(pair) = pair([2, 3], "af_packet") else { return };
    let share = |site: &Site| {
        let mut endpoint = site.attach();
        endpoint.listen_with(site.at(PORT), ListenOptions::new().shared(true)).unwrap();
        endpoint
    };
    let mut sharers: Vec<Endpoint> = (0..3).map(|_| share(&pair.right)).collect();
    let mut alone = pair.right.attach();
    assert!(alone.listen(pair.right.at(PORT)).is_err(), "the port is shared, not free");

    let mut connector = pair.left.attach();
    let mut connect = || connector.connect(pair.left.ip(), pair.right.at(PORT)).unwrap();
    for _ in 0..60 {
        connect();
    }
    let flows = opened(&mut sharers, 60);
    assert!(flows.iter().all(|flows| *flows >= 5), "the flows are spread: {flows:?}");

    drop(sharers.remove(0));
    let is_two = |status: &FullReport| status.listeners.len() == 2;
    pair.right.await_status("the end of a listener", is_two);
    for _ in 0..20 {
        connect();
    }
    // None is lost to the one that is gone.
    opened(&mut sharers, 20);
}

/// How many of so many flows each endpoint was given by others.
fn opened(endpoints: &mut [Endpoint], all: usize) -> Vec<usize> {
    let mut flows = vec![0; endpoints.len()];
    eventually(NEVER, || {
        for (endpoint, flows) in endpoints.iter_mut().zip(&mut flows) {
            while let Some(delivery) = endpoint.recv_in_place().unwrap() {
                *flows += usize::from(matches!(delivery, Delivery::Event(Event::Opened { .. })));
            }
        }
        once(flows.iter().sum::<usize>() >= all, || format!("only {flows:?} of {all} flows were opened"))
    });
    flows
}

#[test]
fn more_shards_than_cpus_start_and_say_what_to_do() {
    let pair = Pair::start(|config| {
        set(config, "engine_threads", 3);
        set(config, "cpu_mask", "0x1");
        set(config, "poll", "busy");
    });
    let Some(mut pair) = pair else { return };
    let warnings = |daemon: &mut Program| {
        daemon.until_it_says("ready", NEVER).unwrap();
        daemon.stderr().lines().filter(|line| line.contains("share CPU 0")).map(str::to_owned).collect::<Vec<_>>()
    };
    for site in [&mut pair.left, &mut pair.right] {
        let said = warnings(site.daemon());
        assert_eq!(said.len(), 1, "one warning: {said:?}");
        assert!(said[0].contains("do not spin") && said[0].contains("engine_threads"), "{said:?}");
    }
    let mut server = pair.right.listener(PORT);
    let mut client = pair.left.attach();
    let flow = client.connect(pair.left.ip(), pair.right.at(PORT)).unwrap();
    client.send(flow, b"all share one CPU").unwrap();
    let heard = next_delivery(&mut server, NEVER, "a message", |delivery| match delivery {
        Delivery::Message(message) => Some(message.bytes().into_owned()),
        Delivery::Event(_) => None,
    });
    assert_eq!(heard.unwrap(), b"all share one CPU");
}
