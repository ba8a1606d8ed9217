//! Endpoints and flows that come and go, and peers that do not answer.

use std::time::{Duration, Instant};

use machnet::{ConnectError, Delivery, Event};
use machnet_shards::counters::Gauge;
use machnet_test_kit::deliveries::next_delivery;
use machnet_test_kit::waiting::{eventually, once};

use crate::pair::{NEVER, Pair, Site, gauge};
use crate::times::{Times, end_of_churn};

const PORT: u16 = 890;
/// Lives after which a daemon has all the memory that it needs for them.
const WARM_UP: u32 = 50;
/// What its memory may grow by after that, whatever the number of lives: pages that the allocator holds.
const GROWTH_KIB: u64 = 2_048;

/// Attaches on both hosts, connects, says something long, and ends in one of the ways that there are.
fn live_shortly(left: &Site, right: &Site, number: u32) {
    let port = PORT + u16::try_from(number % 7).expect("a few");
    let mut listener = right.attach();
    listener.listen(right.at(port)).unwrap();
    let mut here = left.attach();
    let flow = here.connect(left.ip(), right.at(port)).unwrap();
    here.send(flow, &[7; 5_000]).unwrap();
    if number % 5 == 4 {
        // Nobody reads what is under way.
        return;
    }
    let heard = |delivery: Delivery<'_>| match delivery {
        Delivery::Message(message) => Some(message.flow()),
        Delivery::Event(_) => None,
    };
    let there = next_delivery(&mut listener, NEVER, "the message", heard).unwrap();
    let ended = |delivery: Delivery<'_>| match delivery {
        Delivery::Event(Event::Closed { .. }) => Some(()),
        _ => None,
    };
    match number % 5 {
        0 => here.close(flow),
        1 => listener.close(there),
        2 => here.abort(flow),
        _ => drop(here),
    }
    next_delivery(&mut listener, NEVER, "the end of the flow", ended).unwrap();
}

#[test]
fn short_lives_leave_no_memory_and_no_descriptor_behind() {
    let Some(mut pair) = Pair::start_alone(|_| ()) else { return };
    let mut life = Times::of("two applications attach, talk and end");
    let await_rest = |site: &Site| {
        site.await_status("all gone", |status| {
            let control = &status.summary.control;
            gauge(status, Gauge::Flows) == 0 && control.channels_ending == 0 && control.endpoints == 0
        });
    };
    let mut live = |pair: &Pair, number| {
        let start = Instant::now();
        live_shortly(&pair.left, &pair.right, number);
        life.add(start.elapsed());
    };
    (0..WARM_UP).for_each(|number| live(&pair, number));
    let measure = |site: &mut Site| {
        await_rest(site);
        (site.daemon().descriptors(), site.daemon().memory_kib())
    };
    let before = [measure(&mut pair.left), measure(&mut pair.right)];
    let (end, mut number) = (end_of_churn(), WARM_UP);
    while Instant::now() < end || number < 2 * WARM_UP {
        live(&pair, number);
        number += 1;
    }
    for (site, (descriptors, memory_kib)) in [&mut pair.left, &mut pair.right].into_iter().zip(before) {
        eventually(NEVER, || {
            let now = measure(site).0;
            once(now == descriptors, || format!("{now} descriptors after {number} lives, {descriptors} before"))
        });
        let grown = measure(site).1.saturating_sub(memory_kib);
        assert!(grown <= GROWTH_KIB, "after {number} lives {grown} KiB more than the {memory_kib} KiB before");
    }
    life.report(Duration::from_millis(100));
}

#[test]
fn a_peer_that_never_answers_costs_a_connect_its_time_and_no_more() {
    const LIMIT: Duration = Duration::from_millis(100);
    let Some(mut pair) = Pair::start_alone(|_| ()) else { return };
    let Pair { left, right, .. } = &mut pair;
    let mut times = Times::of("a connect ends after its time when nobody answers");
    let mut here = left.attach();
    // The hosts know each other.
    assert_eq!(here.connect(left.ip(), right.at(PORT)), Err(ConnectError::Refused));
    let to = right.at(PORT);
    let frozen = right.freeze();
    for _ in 0..10 {
        let options = machnet::ConnectOptions::new().timeout(LIMIT);
        let start = Instant::now();
        assert_eq!(here.connect_with(left.ip(), to, options), Err(ConnectError::TimedOut));
        times.add(start.elapsed().checked_sub(LIMIT).expect("not before its time"));
    }
    drop(frozen);
    assert_eq!(here.connect(left.ip(), to), Err(ConnectError::Refused), "it answers again");
    times.report(Duration::from_millis(10));
}
