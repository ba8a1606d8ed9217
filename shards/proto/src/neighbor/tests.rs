use super::*;
use crate::state::reread;
use alloc::format;
use alloc::vec::Vec;
use proptest::prelude::*;

const US: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OUR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const NEW_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

/// What goes out about [`PEER`].
const BROADCAST: Action = Action::Request { ip: PEER, unicast_to: None };
const UNICAST: Action = Action::Request { ip: PEER, unicast_to: Some(MAC) };
const FAILED: Action = Action::Failed { ip: PEER };

fn ms(ms: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(ms)
}

fn host(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 1, number)
}

fn reply(ip: Ipv4Addr, mac: MacAddr) -> ArpPacket {
    ArpPacket::request(OUR_MAC, US, ip).answered_by(mac)
}

fn cache() -> NeighborCache {
    NeighborCache::new(US, NeighborLimits::default())
}

/// A cache that learnt [`PEER`] at 0 by asking.
fn cache_with_peer() -> NeighborCache {
    let mut cache = cache();
    assert_eq!(cache.resolve(PEER, ms(0)), Resolution::Pending);
    assert_eq!(actions(&mut cache, ms(0)), [BROADCAST]);
    assert_eq!(cache.on_arp(&reply(PEER, MAC), ms(0)), Some(Change { ip: PEER, mac: MAC, previous: None }));
    cache
}

/// Everything the cache wants done at `now`.
fn actions(cache: &mut NeighborCache, now: Instant) -> Vec<Action> {
    let actions: Vec<_> = core::iter::from_fn(|| cache.poll(now)).collect();
    assert!(cache.deadline().is_none_or(|deadline| deadline > now), "nothing is left over");
    actions
}

/// The script of a cache left alone: its deadlines in ms up to `until`, and what it wants done at each.
fn left_alone(cache: &mut NeighborCache, until: Instant) -> Vec<(u64, Action)> {
    let mut script = Vec::new();
    while let Some(deadline) = cache.deadline().filter(|&deadline| deadline <= until) {
        let at = deadline.as_nanos() / 1_000_000;
        script.extend(actions(cache, deadline).into_iter().map(|action| (at, action)));
    }
    script
}

#[test]
fn a_search_backs_off_fails_and_is_begun_again_only_on_request() {
    let mut cache = cache();
    assert_eq!(cache.deadline(), None);
    assert_eq!(cache.resolve(PEER, ms(0)), Resolution::Pending);
    let script = left_alone(&mut cache, ms(7_299));
    let requests = [0, 100, 300, 700, 1_500, 3_100].map(|at| (at, BROADCAST));
    assert_eq!(script[..6], requests);
    assert_eq!(script[6..], [(6_300, FAILED)]);
    assert_eq!(cache.resolve(PEER, ms(7_299)), Resolution::Unreachable);
    assert_eq!(left_alone(&mut cache, ms(1_000_000)), [], "nobody asks any more");
    assert_eq!(cache.deadline(), None, "and it is forgotten");
    assert_eq!(cache.resolve(PEER, ms(1_000_000)), Resolution::Pending);
    assert_eq!(actions(&mut cache, ms(1_000_000)), [BROADCAST]);
}

#[test]
fn who_asks_at_the_end_of_a_failure_is_not_told_of_the_old_one() {
    let mut cache = cache();
    cache.resolve(PEER, ms(0));
    left_alone(&mut cache, ms(6_300));
    assert_eq!(cache.resolve(PEER, ms(7_300)), Resolution::Pending);
    assert_eq!(actions(&mut cache, ms(7_300)), [BROADCAST]);
}

#[test]
fn an_answer_is_believed_and_an_unused_neighbor_forgotten() {
    let mut cache = cache_with_peer();
    assert_eq!(cache.resolve(PEER, ms(1)), Resolution::Known(MAC));
    assert_eq!(left_alone(&mut cache, ms(600_000)), [], "nobody uses it, nobody asks");
    assert_eq!(cache.deadline(), Some(ms(600_001)), "ten minutes after its last use");
    left_alone(&mut cache, ms(600_001));
    assert_eq!(cache.resolve(PEER, ms(600_001)), Resolution::Pending);
}

#[test]
fn a_stale_neighbor_is_used_at_once_and_probed() {
    let mut cache = cache_with_peer();
    left_alone(&mut cache, ms(30_000));
    assert_eq!(cache.resolve(PEER, ms(40_000)), Resolution::Known(MAC));
    assert_eq!(actions(&mut cache, ms(40_000)), [UNICAST]);
    assert_eq!(cache.on_arp(&reply(PEER, MAC), ms(40_001)), None, "nothing changed");
    assert_eq!(left_alone(&mut cache, ms(100_000)), [], "answered");
}

#[test]
fn a_held_neighbor_is_refreshed_for_ever() {
    let mut cache = cache_with_peer();
    assert!(cache.hold(PEER, ms(0)));
    let mut at = 0;
    for gap in [1_000, 2_000, 4_000, 8_000, 16_000].into_iter().chain([30_000; 100]) {
        at += gap;
        assert_eq!(left_alone(&mut cache, ms(at)), [(at, UNICAST)]);
        assert_eq!(cache.on_arp(&reply(PEER, MAC), ms(at)), None);
    }
    cache.release(PEER, ms(at + 1));
    assert_eq!(left_alone(&mut cache, ms(at + 30_000)), []);
    assert_eq!(cache.deadline(), Some(ms(at + 1 + 600_000)), "forgotten ten minutes after the release");
}

#[test]
fn traffic_that_is_acknowledged_spares_the_requests() {
    let mut cache = cache_with_peer();
    assert!(cache.hold(PEER, ms(0)));
    for second in 1..1_000 {
        cache.confirm(PEER, ms(second * 1_000));
        assert_eq!(actions(&mut cache, ms(second * 1_000)), []);
    }
    assert_eq!(cache.deadline(), Some(ms(999_000 + 30_000)));
}

#[test]
fn a_confirmation_ends_a_probe_but_not_a_search() {
    let mut cache = cache_with_peer();
    cache.suspect(PEER, ms(2_000));
    assert_eq!(actions(&mut cache, ms(2_000)), [UNICAST]);
    cache.confirm(PEER, ms(2_050));
    assert_eq!(left_alone(&mut cache, ms(32_000)), []);

    assert_eq!(cache.resolve(host(1), ms(32_000)), Resolution::Pending);
    cache.confirm(host(1), ms(32_000));
    assert_eq!(cache.resolve(host(1), ms(32_000)), Resolution::Pending, "of no MAC anything was confirmed");
}

#[test]
fn a_lost_neighbor_is_asked_alone_then_everybody_then_given_up() {
    let mut cache = cache_with_peer();
    assert!(cache.hold(PEER, ms(0)));
    cache.suspect(PEER, ms(2_000));
    assert_eq!(cache.resolve(PEER, ms(2_000)), Resolution::Known(MAC), "used meanwhile");
    let script = left_alone(&mut cache, ms(8_300));
    let expected = [
        (2_000, UNICAST),
        (2_100, UNICAST),
        (2_300, UNICAST),
        (2_700, BROADCAST),
        (3_500, BROADCAST),
        (5_100, BROADCAST),
        (8_300, FAILED),
    ];
    assert_eq!(script, expected);
    assert_eq!(cache.resolve(PEER, ms(8_301)), Resolution::Unreachable);
    // Flows still hold it, so it is searched for again, and found at its new MAC.
    assert_eq!(left_alone(&mut cache, ms(9_300)), [(9_300, BROADCAST)]);
    assert_eq!(
        cache.on_arp(&reply(PEER, NEW_MAC), ms(9_301)),
        Some(Change { ip: PEER, mac: NEW_MAC, previous: Some(MAC) })
    );
    cache.release(PEER, ms(9_302));
}

#[test]
fn suspicion_right_after_an_answer_is_ignored() {
    let mut cache = cache_with_peer();
    cache.suspect(PEER, ms(999));
    assert_eq!(actions(&mut cache, ms(999)), []);
    cache.suspect(PEER, ms(1_000));
    assert_eq!(actions(&mut cache, ms(1_000)), [UNICAST]);
    cache.suspect(PEER, ms(1_001));
    assert_eq!(actions(&mut cache, ms(1_001)), [], "asked already");
    cache.suspect(host(1), ms(1_001));
    assert_eq!(actions(&mut cache, ms(1_001)), [], "of a stranger there is nothing to suspect");
}

/// Every way to say without being asked that a neighbor has another MAC.
fn tellings() -> [ArpPacket; 4] {
    let announcement = ArpPacket::announcement(NEW_MAC, PEER);
    let request = ArpPacket::request(NEW_MAC, PEER, US);
    [announcement, ArpPacket { operation: Operation::Reply, ..announcement }, request, reply(PEER, NEW_MAC)]
}

#[test]
fn a_told_mac_of_a_neighbor_that_was_known_long_ago_makes_us_ask_everybody_when_it_is_used() {
    for telling in tellings() {
        let mut cache = cache_with_peer();
        assert_eq!(left_alone(&mut cache, ms(31_000)), []);
        assert_eq!(cache.on_arp(&telling, ms(31_200)), None);
        assert_eq!(cache.resolve(PEER, ms(31_200)), Resolution::Pending);
        assert_eq!(actions(&mut cache, ms(31_200)), [BROADCAST], "it is told, and proves nothing");
        let change = Change { ip: PEER, mac: NEW_MAC, previous: Some(MAC) };
        assert_eq!(cache.on_arp(&reply(PEER, NEW_MAC), ms(31_201)), Some(change));
        assert_eq!(cache.resolve(PEER, ms(31_201)), Resolution::Known(NEW_MAC));
        assert_eq!(left_alone(&mut cache, ms(32_000)), []);
    }
}

#[test]
fn a_told_mac_is_learnt_without_anybody_wanting_it_once_the_old_one_does_not_answer() {
    for telling in tellings() {
        let mut cache = cache_with_peer();
        assert_eq!(cache.on_arp(&telling, ms(200)), None);
        assert_eq!(cache.resolve(PEER, ms(200)), Resolution::Known(MAC), "nobody else is believed yet");
        assert_eq!(left_alone(&mut cache, ms(600)), [(200, UNICAST), (600, BROADCAST)]);
        let change = Change { ip: PEER, mac: NEW_MAC, previous: Some(MAC) };
        assert_eq!(cache.on_arp(&reply(PEER, NEW_MAC), ms(601)), Some(change));
        assert_eq!(cache.resolve(PEER, ms(601)), Resolution::Known(NEW_MAC));
        assert_eq!(left_alone(&mut cache, ms(1_000)), []);
    }
}

#[test]
fn a_told_mac_of_a_held_neighbor_is_not_used_while_the_old_one_answers() {
    for telling in tellings() {
        let mut cache = cache_with_peer();
        assert!(cache.hold(PEER, ms(0)));
        for round in 1..100 {
            let at = round * 1_000;
            assert_eq!(cache.on_arp(&telling, ms(at)), None);
            assert_eq!(cache.resolve(PEER, ms(at)), Resolution::Known(MAC));
            assert_eq!(actions(&mut cache, ms(at)), [UNICAST]);
            assert_eq!(cache.on_arp(&telling, ms(at + 1)), None, "nobody but the old one was asked");
            assert_eq!(cache.on_arp(&reply(PEER, MAC), ms(at + 2)), None);
            assert_eq!(cache.on_arp(&telling, ms(at + 3)), None);
            assert_eq!(actions(&mut cache, ms(at + 3)), [], "it has just answered");
        }
        assert_eq!(cache.resolve(PEER, ms(99_004)), Resolution::Known(MAC));
    }
}

#[test]
fn a_held_neighbor_that_moves_is_found_when_the_old_mac_does_not_answer() {
    for telling in tellings() {
        let mut cache = cache_with_peer();
        assert!(cache.hold(PEER, ms(0)));
        assert_eq!(cache.on_arp(&telling, ms(1_000)), None);
        assert_eq!(left_alone(&mut cache, ms(1_400)), [(1_000, UNICAST), (1_400, BROADCAST)]);
        let change = Change { ip: PEER, mac: NEW_MAC, previous: Some(MAC) };
        assert_eq!(cache.on_arp(&reply(PEER, NEW_MAC), ms(1_401)), Some(change));
        assert_eq!(cache.resolve(PEER, ms(1_401)), Resolution::Known(NEW_MAC));
        let again = Action::Request { ip: PEER, unicast_to: Some(NEW_MAC) };
        assert_eq!(left_alone(&mut cache, ms(3_000)), [(2_401, again), (2_501, again), (2_701, again)]);
        assert_eq!(cache.on_arp(&reply(PEER, NEW_MAC), ms(3_000)), None);
        assert_eq!(left_alone(&mut cache, ms(4_999)), [], "it has answered twice");
    }
}

#[test]
fn who_lies_while_a_held_neighbor_is_away_is_believed_for_less_than_two_seconds() {
    let mut cache = cache();
    cache.resolve(PEER, ms(0));
    assert!(cache.hold(PEER, ms(0)));
    assert_eq!(actions(&mut cache, ms(0)), [BROADCAST]);
    let lie = Change { ip: PEER, mac: NEW_MAC, previous: None };
    assert_eq!(cache.on_arp(&reply(PEER, NEW_MAC), ms(1)), Some(lie));
    let asked: Vec<_> =
        left_alone(&mut cache, ms(1_999)).into_iter().map(|(at, action)| (at, action == BROADCAST)).collect();
    assert_eq!(asked, [(1_001, false), (1_101, false), (1_301, false), (1_701, true)]);
    let truth = Change { ip: PEER, mac: MAC, previous: Some(NEW_MAC) };
    assert_eq!(cache.on_arp(&reply(PEER, MAC), ms(1_702)), Some(truth));
}

#[test]
fn an_announcement_does_not_end_a_probe() {
    let mut cache = cache_with_peer();
    cache.suspect(PEER, ms(2_000));
    assert_eq!(actions(&mut cache, ms(2_000)), [UNICAST]);
    let announcement = ArpPacket { operation: Operation::Reply, ..ArpPacket::announcement(MAC, PEER) };
    assert_eq!(cache.on_arp(&announcement, ms(2_001)), None);
    assert_eq!(left_alone(&mut cache, ms(2_100)), [(2_100, UNICAST)]);
}

#[test]
fn who_asks_for_us_is_learnt_and_probed_when_used() {
    let mut cache = cache();
    let request = ArpPacket::request(MAC, PEER, US);
    assert_eq!(cache.on_arp(&request, ms(0)), Some(Change { ip: PEER, mac: MAC, previous: None }));
    assert_eq!(actions(&mut cache, ms(0)), []);
    assert_eq!(cache.resolve(PEER, ms(1)), Resolution::Known(MAC));
    assert_eq!(actions(&mut cache, ms(1)), [UNICAST]);
}

#[test]
fn a_request_of_the_one_searched_for_ends_the_search() {
    let mut cache = cache();
    cache.resolve(PEER, ms(0));
    assert_eq!(actions(&mut cache, ms(0)), [BROADCAST]);
    let change = Some(Change { ip: PEER, mac: MAC, previous: None });
    assert_eq!(cache.on_arp(&ArpPacket::request(MAC, PEER, US), ms(1)), change);
    assert_eq!(cache.resolve(PEER, ms(2)), Resolution::Known(MAC));
}

#[test]
fn what_does_not_concern_us_is_not_learnt() {
    let third = host(3);
    let unbelieved = [
        ("a stranger's announcement", ArpPacket::announcement(MAC, PEER)),
        ("a stranger's reply", reply(PEER, MAC)),
        ("a request for another host", ArpPacket::request(MAC, PEER, third)),
        ("a reply to another host", ArpPacket::request(OUR_MAC, third, PEER).answered_by(MAC)),
        ("our own address at another MAC", ArpPacket::request(MAC, US, US)),
        ("a probe for our address (RFC 5227)", ArpPacket::request(MAC, Ipv4Addr::UNSPECIFIED, US)),
    ];
    for (why, packet) in unbelieved {
        let mut cache = cache();
        assert_eq!(cache.on_arp(&packet, ms(0)), None, "{why}");
        assert_eq!(cache.deadline(), None, "{why}");
    }
    let mut cache = cache_with_peer();
    assert_eq!(cache.on_arp(&ArpPacket::request(NEW_MAC, PEER, third), ms(1)), None);
    assert_eq!(cache.resolve(PEER, ms(1)), Resolution::Known(MAC));
}

#[test]
fn addresses_of_no_single_host_are_unreachable() {
    for ip in [Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 1), Ipv4Addr::LOCALHOST] {
        let mut cache = cache();
        assert_eq!(cache.resolve(ip, ms(0)), Resolution::Unreachable, "{ip}");
        assert_eq!(cache.deadline(), None);
    }
}

#[test]
fn a_full_cache_evicts_the_one_unused_for_longest_but_none_held_or_searched_for() {
    let mut cache = NeighborCache::new(US, NeighborLimits { entries: 4, ..NeighborLimits::default() });
    for number in 1..=4 {
        cache.resolve(host(number), ms(u64::from(number)));
    }
    assert_eq!(cache.resolve(PEER, ms(5)), Resolution::Full, "all are searched for");
    actions(&mut cache, ms(5));
    for number in 1..=4 {
        assert!(cache.on_arp(&reply(host(number), MAC), ms(5)).is_some());
    }
    assert!(cache.hold(host(1), ms(6)));
    assert_eq!(cache.resolve(host(2), ms(7)), Resolution::Known(MAC));

    assert_eq!(cache.on_arp(&ArpPacket::request(MAC, PEER, US), ms(8)), None, "a stranger's request evicts nobody");
    assert_eq!(cache.resolve(PEER, ms(8)), Resolution::Pending);
    assert!(!cache.hold(host(3), ms(9)), "3 was unused for longest");
    for number in [1, 2, 4] {
        assert_eq!(cache.resolve(host(number), ms(10)), Resolution::Known(MAC), "{number}");
    }
}

#[test]
#[should_panic(expected = "released as often as it was held")]
fn a_release_too_many_is_our_mistake() {
    let mut cache = cache_with_peer();
    assert!(cache.hold(PEER, ms(0)));
    cache.release(PEER, ms(0));
    cache.release(PEER, ms(0));
}

#[test]
fn a_stranger_cannot_be_held() {
    assert!(!cache().hold(PEER, ms(0)));
}

#[test]
fn those_who_have_come_to_us_are_not_searched_for_and_leave_half_of_the_cache() {
    let mut cache = NeighborCache::new(US, NeighborLimits { entries: 8, ..NeighborLimits::default() });
    assert!(!cache.hold_if_known(PEER, ms(0)) && cache.is_empty(), "a stranger");
    assert_eq!(cache.resolve(PEER, ms(0)), Resolution::Pending);
    assert!(!cache.hold_if_known(PEER, ms(0)), "he is searched for already, and may never be found");
    left_alone(&mut cache, ms(20_000));
    for number in 1..=8 {
        assert!(cache.on_arp(&ArpPacket::request(MAC, host(number), US), ms(20_000)).is_some());
    }
    let held: Vec<_> = (1..=8).map(host).filter(|ip| cache.hold_if_known(*ip, ms(20_000))).collect();
    assert_eq!(held, [1, 2, 3, 4].map(host));
    assert!(cache.hold_if_known(host(1), ms(20_000)), "once more costs nothing");
    for number in 11..=14 {
        assert_eq!(cache.resolve(host(number), ms(20_001)), Resolution::Pending);
        assert!(cache.hold(host(number), ms(20_001)), "whom we look for has room");
    }
    cache.release(host(1), ms(20_002));
    cache.release(host(1), ms(20_002));
    assert_eq!(cache.held, 7);
}

#[derive(Clone, Debug)]
enum Step {
    Resolve(Ipv4Addr),
    Hold(Ipv4Addr),
    HoldIfKnown(Ipv4Addr),
    /// Of those held, the one at this place.
    Release(prop::sample::Index),
    Confirm(Ipv4Addr),
    Suspect(Ipv4Addr),
    Arp(ArpPacket),
    Sleep(Duration),
    SleepUntilDeadline,
    /// Written, and read back.
    HandOver,
}

fn any_step() -> impl Strategy<Value = Step> {
    let ip = || (0u8..12).prop_map(host);
    let mac = || (0u8..3).prop_map(|last| MacAddr([2, 0, 0, 0, 1, last]));
    let arp = (mac(), ip(), mac(), prop_oneof![Just(US), ip()], any::<bool>()).prop_map(
        |(sender_mac, sender_ip, target_mac, target_ip, is_reply)| ArpPacket {
            operation: if is_reply { Operation::Reply } else { Operation::Request },
            sender_mac,
            sender_ip,
            target_mac,
            target_ip,
        },
    );
    prop_oneof![
        3 => ip().prop_map(Step::Resolve),
        2 => ip().prop_map(Step::Hold),
        2 => ip().prop_map(Step::HoldIfKnown),
        2 => any::<prop::sample::Index>().prop_map(Step::Release),
        1 => ip().prop_map(Step::Confirm),
        1 => ip().prop_map(Step::Suspect),
        4 => arp.prop_map(Step::Arp),
        2 => (0u64..100_000).prop_map(|ms| Step::Sleep(Duration::from_millis(ms))),
        3 => Just(Step::SleepUntilDeadline),
        1 => Just(Step::HandOver),
    ]
}

/// What must be true of a cache at any time.
fn check(cache: &NeighborCache) {
    let due: BTreeSet<_> = cache.entries.iter().map(|(&ip, entry)| (entry.due(&cache.limits), ip)).collect();
    assert_eq!(cache.due, due);
    let evictable = cache.entries.iter().filter_map(|(&ip, entry)| Some((entry.evictable_since()?, ip)));
    assert_eq!(cache.evictable, evictable.collect());
    assert!(cache.entries.len() <= cache.limits.entries);
    assert_eq!(cache.held, cache.entries.values().filter(|entry| entry.holders > 0).count());
    for (ip, entry) in &cache.entries {
        assert!(entry.holders == 0 || !matches!(entry.state, State::Stale { .. }), "{ip} is held and stale");
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_cache_stays_sound(steps in proptest::collection::vec(any_step(), 0..200)) {
        let mut cache = NeighborCache::new(US, NeighborLimits { entries: 8, ..NeighborLimits::default() });
        let mut held = Vec::new();
        let mut now = ms(0);
        for step in steps {
            match step {
                Step::Resolve(ip) => {
                    let resolution = cache.resolve(ip, now);
                    prop_assert!(!held.contains(&ip) || resolution != Resolution::Full);
                }
                Step::Hold(ip) => if cache.hold(ip, now) { held.push(ip) },
                Step::HoldIfKnown(ip) => if cache.hold_if_known(ip, now) { held.push(ip) },
                Step::Release(at) => if !held.is_empty() {
                    cache.release(held.swap_remove(at.index(held.len())), now);
                },
                Step::Confirm(ip) => cache.confirm(ip, now),
                Step::Suspect(ip) => cache.suspect(ip, now),
                Step::Arp(packet) => if let Some(change) = cache.on_arp(&packet, now) {
                    prop_assert_eq!((change.ip, change.mac), (packet.sender_ip, packet.sender_mac));
                    prop_assert_ne!(change.previous, Some(change.mac));
                    check(&cache);
                    prop_assert_eq!(cache.resolve(change.ip, now), Resolution::Known(change.mac));
                },
                Step::Sleep(length) => now += length,
                Step::SleepUntilDeadline => now = cache.deadline().map_or(now, |deadline| deadline.max(now)),
                Step::HandOver => {
                    let before = format!("{cache:?}");
                    cache = reread::<_, SavedNeighbors>(&cache).restore(US, cache.limits, now).expect("it is one");
                    prop_assert_eq!(format!("{cache:?}"), before);
                }
            }
            check(&cache);
            let polled = actions(&mut cache, now);
            check(&cache);
            prop_assert!(polled.len() <= 8, "at most one action for each entry: {polled:?}");
            prop_assert!(held.iter().all(|ip| cache.entries.contains_key(ip)), "what is held stays");
        }
        held.into_iter().for_each(|ip| cache.release(ip, now));
        left_alone(&mut cache, now + Duration::from_secs(3_600));
        prop_assert_eq!(cache.deadline(), None, "in the end everything is forgotten");
        check(&cache);
    }
}

#[test]
fn a_neighbor_that_comes_back_with_another_mac_tells_where_flows_still_send() {
    let mut cache = NeighborCache::new(US, NeighborLimits::default());
    assert_eq!(cache.resolve(PEER, ms(0)), Resolution::Pending);
    assert!(cache.on_arp(&reply(PEER, MAC), ms(1)).is_some());
    assert!(cache.hold(PEER, ms(1)));
    cache.suspect(PEER, ms(60_000));
    let mut now = 60_000;
    loop {
        now += 1;
        if cache.poll(ms(now)) == Some(FAILED) {
            break;
        }
        assert!(now < 120_000, "nobody answers, so it is given up");
    }
    let change = cache.on_arp(&reply(PEER, NEW_MAC), ms(now + 1));
    assert_eq!(change, Some(Change { ip: PEER, mac: NEW_MAC, previous: Some(MAC) }));
}

#[test]
fn bytes_that_are_no_cache_are_told() {
    let entry = |state, holders| Entry { state, holders, used: ms(0), known_last: Some(MAC), answers: 0 };
    let restored = |entries: &[(Ipv4Addr, Entry)], entries_max| {
        let entries: BTreeMap<_, _> = entries.iter().map(|(ip, entry)| (*ip, entry)).collect();
        let saved: SavedNeighbors = reread(&entries);
        saved
            .restore(US, NeighborLimits { entries: entries_max, ..NeighborLimits::default() }, ms(1))
            .map(|cache| cache.len())
    };
    let reachable = || entry(State::Reachable { mac: MAC, confirmed: ms(1) }, 1);
    assert_eq!(restored(&[(PEER, reachable()), (host(1), entry(State::Stale { mac: MAC }, 0))], 2), Ok(2));
    assert!(restored(&[(PEER, reachable()), (host(1), reachable())], 1).is_err(), "more than may be known");
    assert!(restored(&[(Ipv4Addr::BROADCAST, reachable())], 2).is_err());
    for cannot_be in [
        entry(State::Stale { mac: MAC }, 1),
        entry(State::Reachable { mac: MAC, confirmed: ms(9) }, 1),
        entry(State::Failed { until: ms(1_000_000_000) }, 0),
        entry(State::searched_from(ms(1_000_000_000)), 0),
        Entry { used: ms(9), ..reachable() },
    ] {
        let shown = format!("{cannot_be:?}");
        assert!(restored(&[(PEER, cannot_be)], 2).is_err(), "{shown}");
    }
}
