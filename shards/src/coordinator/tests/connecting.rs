//! Connects, from the request to the flow or the reason why there is none.

use super::*;

#[test]
fn a_flow_is_created_where_its_answer_arrives() {
    let mut rig = Rig::new();
    let connection = rig.attached();
    rig.connect_to(connection, PEER_IP);
    assert_eq!(rig.replies(connection).len(), 2, "channels");
    assert_eq!(rig.posts(0), ["AddChannel", "ARP Request 10.0.0.2"]);
    assert_eq!(rig.posts(1), ["AddChannel"]);
    rig.arp(arp::ArpPacket::request(US, OUR_IP, PEER_IP).answered_by(PEER));
    assert_eq!(rig.posts(1), ["Expect"]);
    let messages = rig.take(0);
    assert!(matches!(&messages[0], ToShard::Expect { .. }), "before the SYN");
    let (key, terms, mac) = syn_of(&messages[1]).expect("a SYN");
    assert_eq!((key.local_ip, key.remote_ip, key.remote_port, mac), (OUR_IP, PEER_IP, 888, PEER));
    assert_eq!(terms.max_payload, 1500 - 20 - 8 - 54);

    rig.answer(1, key, syn_ack(&key, terms));
    rig.answer(0, key, syn_ack(&key, terms)); // a duplicate
    assert_eq!(rig.posts(0), [""; 0]);
    let [ToShard::Create { connect, key: created, next_hop: PEER, birth, .. }] = &rig.take(1)[..] else {
        panic!("exactly one flow is created");
    };
    let first = SeqNo::new(terms.offer.nonce) + 1;
    assert_eq!((*created, birth.send_from, birth.max_payload), (key, first, 1000));
    assert!(rig.replies(connection).is_empty());

    rig.mail(ToCoordinator::Created { shard: ShardId(1), connect: *connect, outcome: Ok(FlowId(5)) });
    let connected = Reply::Connected { channel: 1, flow: 5, local_port: key.local_port };
    assert_eq!(rig.reply(connection), connected);
    assert_eq!((rig.posts(0), rig.posts(1)), (vec!["Forget".into()], vec!["Forget".into()]));
    assert_eq!(rig.coordinator.connects.len(), 0);
}

#[test]
fn the_same_syn_is_repeated_with_back_off_until_the_time_is_up() {
    let mut rig = Rig::new();
    let (connection, key, terms) = rig.asking();
    let start = rig.now;
    let mut sent = Vec::new();
    while rig.now < start + Duration::from_millis(999) {
        rig.pass(MILLISECOND);
        for message in rig.take(0) {
            if let Some((again_key, again, _)) = syn_of(&message) {
                assert_eq!((again_key, again), (key, terms));
                sent.push((rig.now - start).as_millis());
            }
        }
    }
    assert_eq!(sent, [5, 15, 35, 75, 155, 315, 635]);
    rig.quiet();
    rig.pass(MILLISECOND);
    assert_eq!(rig.error(connection), ControlError::TimedOut);
    assert_eq!((rig.posts(0), rig.posts(1)), (vec!["Forget".into()], vec!["Forget".into()]));
    rig.answer(0, key, syn_ack(&key, terms));
    rig.quiet();
}

#[test]
fn whoever_quotes_our_syn_ends_the_connect_unless_it_is_answered_before_the_next() {
    let cases = [
        (Obstacle::NoPort, Rejection::NoDaemon),
        (Obstacle::NoRoute, Rejection::NoRoute),
        (Obstacle::Prohibited, Rejection::Prohibited),
    ];
    for (obstacle, rejection) in cases {
        let mut rig = Rig::new();
        let (connection, key, terms) = rig.asking();
        let quoted = Packet::Syn(Syn { terms });
        rig.mail(ToCoordinator::Unreachable { key, packet: quoted, obstacle });
        rig.quiet();
        rig.pass(Duration::from_millis(5));
        assert_eq!(rig.error(connection), ControlError::Rejected(rejection));
        assert_eq!((rig.posts(0), rig.posts(1)), (vec!["Forget".into()], vec!["Forget".into()]));
    }

    let mut rig = Rig::new();
    let (_, key, terms) = rig.asking();
    let obstacle = Obstacle::NoPort;
    rig.mail(ToCoordinator::Unreachable { key, packet: Packet::Syn(Syn { terms }), obstacle });
    rig.answer(0, key, syn_ack(&key, terms));
    assert!(matches!(&rig.take(0)[..], [ToShard::Create { .. }]), "a kernel that has the daemon's address, too");
}

#[test]
fn whoever_only_guesses_our_syn_ends_nothing() {
    let mut rig = Rig::new();
    let (_, key, terms) = rig.asking();
    let obstacle = Obstacle::NoPort;
    let guessed = Packet::Syn(Syn { terms: terms.with_nonce(terms.offer.nonce ^ 1) });
    rig.mail(ToCoordinator::Unreachable { key, packet: guessed, obstacle });
    let other = FlowKey { remote_port: key.remote_port + 1, ..key };
    rig.mail(ToCoordinator::Unreachable { key: other, packet: Packet::Syn(Syn { terms }), obstacle });
    rig.pass(Duration::from_millis(5));
    assert!(matches!(&rig.take(0)[..], [again] if syn_of(again).is_some()), "it goes on");
}

#[test]
fn a_peer_that_nobody_finds_is_unreachable() {
    let mut rig = Rig::new();
    let connection = rig.attached();
    let ask = |timeout_ms| Request::Connect {
        local_ip: OUR_IP.into(),
        remote: (PEER_IP, 888).into(),
        timeout_ms,
        shard: None,
    };
    rig.ask(connection, ask(100));
    rig.ask(connection, ask(60_000));
    rig.replies(connection);
    rig.pass(Duration::from_millis(100));
    assert_eq!(rig.error(connection), ControlError::Unreachable, "the time is up");
    rig.pass(Duration::from_secs(20));
    assert_eq!(rig.error(connection), ControlError::Unreachable, "ARP was given up");
    rig.take(0);
    assert_eq!(rig.posts(1), ["AddChannel"], "no SYN, nothing to forget");
}

#[test]
fn every_answer_that_is_no_acceptance_is_reported() {
    let full = ControlError::Limit("the other host has no room for another flow".into());
    type Answer = fn(&Terms) -> Packet;
    let answers: [(Answer, ControlError); 4] = [
        (|syn| refusal(syn.offer.nonce, CloseReason::Refused), ControlError::Refused),
        (|syn| refusal(syn.offer.nonce, CloseReason::Limit), full),
        (|_| of_v1(HandshakeStep::SynAck), ControlError::Incompatible),
        (|_| of_v1(HandshakeStep::Refuse), ControlError::Refused),
    ];
    for (answer, expected) in answers {
        let mut rig = Rig::new();
        let (connection, key, terms) = rig.asking();
        rig.answer(1, key, answer(&terms));
        assert_eq!(rig.error(connection), expected);
        assert_eq!((rig.posts(0), rig.posts(1)), (vec!["Forget".into()], vec!["Forget".into()]), "nothing is sent");
    }
}

#[test]
fn guesses_and_noise_change_nothing() {
    let mut rig = Rig::new();
    let (_, key, terms) = rig.asking();
    let guess = terms.with_nonce(terms.offer.nonce ^ 1);
    rig.answer(0, key, syn_ack(&key, guess));
    rig.answer(0, key, refusal(guess.offer.nonce, CloseReason::Refused));
    rig.answer(0, key, Packet::Syn(Syn { terms }));
    rig.answer(0, key, of_v1(HandshakeStep::Syn));
    rig.answer(0, FlowKey { local_port: 1, ..key }, syn_ack(&key, terms));
    rig.quiet();
    rig.answer(0, key, syn_ack(&key, terms));
    assert_eq!(rig.posts(0), ["Create"]);
}

#[test]
fn an_endpoint_that_ends_leaves_nothing_behind_at_any_stage() {
    // Resolving.
    let mut rig = Rig::new();
    let connection = rig.attached();
    rig.connect_to(connection, PEER_IP);
    rig.replies(connection);
    rig.skip_posts();
    rig.handle(Input::Disconnected { connection });
    assert_eq!(rig.posts(0), ["RemoveChannel"]);
    assert_eq!(rig.coordinator.connects.len(), 0);
    // Asking.
    let mut rig = Rig::new();
    let (connection, key, terms) = rig.asking();
    rig.handle(Input::Disconnected { connection });
    assert_eq!(rig.posts(0), ["Forget", "RemoveChannel"]);
    rig.skip_posts();
    rig.answer(0, key, syn_ack(&key, terms));
    rig.quiet();
    // Creating: the flow will be, and end with its channel; its tuple is taken until then.
    for outcome in [Ok(FlowId(5)), Err(NotCreated::NoChannel)] {
        let mut rig = Rig::new();
        let (connection, key, connect) = rig.creating();
        rig.skip_posts();
        rig.handle(Input::Disconnected { connection });
        assert_eq!(rig.posts(1), ["RemoveChannel"]);
        rig.skip_posts();
        rig.mail(ToCoordinator::Created { shard: ShardId(1), connect, outcome });
        assert_eq!(rig.posts(1), ["Forget"]);
        assert_eq!(rig.coordinator.flow_director.directory().find(&key).is_some(), outcome.is_ok());
        rig.mail(ToCoordinator::Closed { shard: ShardId(1), key });
        assert_eq!(rig.coordinator.flow_director.directory().len(), 0);
        assert_eq!(rig.coordinator.connects.len(), 0);
        assert_eq!(rig.status(Part::Neighbors).neighbors()[0].flows, 0);
    }
}

#[test]
fn a_flow_that_a_shard_cannot_create_is_reported() {
    for why in [NotCreated::TableFull, NotCreated::Exists, NotCreated::NoChannel] {
        let mut rig = Rig::new();
        let (connection, _, connect) = rig.creating();
        rig.mail(ToCoordinator::Created { shard: ShardId(1), connect, outcome: Err(why) });
        let error = rig.error(connection);
        assert!(matches!(
            (why, error),
            (NotCreated::TableFull, ControlError::Limit(_))
                | (NotCreated::Exists, ControlError::AddressInUse)
                | (NotCreated::NoChannel, ControlError::System(_))
        ));
        assert_eq!(rig.coordinator.connects.len(), 0);
    }
}

#[test]
fn frames_go_to_the_peer_the_gateway_or_ourselves() {
    let mut rig = Rig::new();
    rig.neighbor(PEER_IP, PEER);
    rig.neighbor(GATEWAY_IP, GATEWAY);
    let connection = rig.attached();
    for (ip, mac) in [(PEER_IP, PEER), (FAR_IP, GATEWAY), (OUR_IP, US)] {
        rig.connect_to(connection, ip);
        let messages: Vec<ToShard> = (0..2).flat_map(|shard| rig.take(shard)).collect();
        let (key, _, destination) = messages.iter().find_map(syn_of).expect("a SYN");
        assert_eq!((key.remote_ip, destination), (ip, mac));
    }
}

#[test]
fn what_cannot_be_reached_at_all_is_refused_at_once() {
    let mut rig = Rig::with(1, 1024, |plan| {
        plan.interfaces[0].subnet = Some(Subnet { prefix_bits: 24, gateway: None });
    });
    let connection = rig.attached();
    rig.connect_to(connection, FAR_IP);
    assert_eq!(rig.error(connection), ControlError::Unreachable);
    for ip in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"] {
        rig.connect_to(connection, ip.parse().expect("an address"));
        assert!(matches!(rig.error(connection), ControlError::Invalid(_)), "{ip}");
    }
    let (local_ip, timeout_ms) = (OUR_IP.into(), 0);
    let to = |port| (PEER_IP, port).into();
    rig.ask(connection, Request::Connect { local_ip, remote: to(0), timeout_ms, shard: None });
    assert!(matches!(rig.error(connection), ControlError::Invalid(_)));
    rig.ask(connection, Request::Connect { local_ip, remote: to(1), timeout_ms, shard: Some(1) });
    assert_eq!(rig.error(connection), ControlError::NoSuchShard(1));
    assert_eq!(rig.posts(0), ["announcement"]);
}

#[test]
fn a_wanted_shard_gets_the_flow_wherever_its_answer_lands() {
    let mut rig = Rig::new();
    rig.neighbor(PEER_IP, PEER);
    let connection = rig.attached();
    let (local_ip, remote, timeout_ms) = (OUR_IP.into(), (PEER_IP, 888).into(), 0);
    rig.ask(connection, Request::Connect { local_ip, remote, timeout_ms, shard: Some(1) });
    assert!(matches!(rig.reply(connection), Reply::Channel { index: 0, shard: 1, .. }));
    assert_eq!(rig.posts(0), ["Expect"]);
    let (key, terms) = rig.syn(1);
    rig.answer(0, key, syn_ack(&key, terms));
    assert_eq!(
        (rig.posts(0), rig.posts(1)),
        (vec!["HandTo 1".into(), "Hint 1".into()], vec!["TakeFrom 0".into(), "Create".into()])
    );
    rig.quiet();
}

#[test]
fn flows_are_spread_over_the_shards() {
    let mut rig = Rig::new();
    rig.neighbor(PEER_IP, PEER);
    let connection = rig.attached();
    for _ in 0..10 {
        rig.connect_to(connection, PEER_IP);
    }
    let syns = |messages: Vec<ToShard>| messages.iter().filter_map(syn_of).count();
    assert_eq!((syns(rig.take(0)), syns(rig.take(1))), (5, 5));
}

#[test]
fn a_nic_that_says_how_it_spreads_delivers_the_answer_to_the_shard_that_asked() {
    let key: Vec<u8> = (0_u8..40).map(|n| n.wrapping_mul(37) ^ 11).collect();
    let rss = Rss::new(&key, &[0, 1, 1, 0], HashInput::AddressesAndPorts).expect("a key and a table");
    let mut rig = Rig::with(2, 1024, |plan| plan.interfaces[0].rss = Some(rss.clone()));
    rig.neighbor(PEER_IP, PEER);
    let connection = rig.attached();
    for _ in 0..50 {
        rig.connect_to(connection, PEER_IP);
        for shard in 0..2 {
            for (key, ..) in rig.take(shard).iter().filter_map(syn_of) {
                assert_eq!(usize::from(rss.queue_of(&key)), shard);
            }
        }
    }
}

#[test]
fn a_neighbor_that_moves_meanwhile_gets_the_next_syn() {
    let mut rig = Rig::new();
    let (_, key, terms) = rig.asking();
    let moved = MacAddr([2, 0, 0, 0, 0, 9]);
    rig.moves(PEER_IP, moved);
    rig.skip_posts();
    rig.pass(300 * MILLISECOND);
    let syns: Vec<_> = rig.take(0).iter().filter_map(syn_of).collect();
    assert!(!syns.is_empty() && syns.iter().all(|syn| *syn == (key, terms, moved)), "{syns:?}");
}

#[test]
fn where_answers_take_their_time_syns_are_repeated_later() {
    let mut rig = Rig::new();
    rig.neighbor(PEER_IP, PEER);
    let connection = rig.attached();
    let connect = |rig: &mut Rig| {
        rig.connect_to(connection, PEER_IP);
        rig.replies(connection);
        let both = [rig.take(0), rig.take(1)];
        both.iter().flatten().find_map(syn_of).expect("a SYN")
    };
    for _ in 0..40 {
        let (key, terms, _) = connect(&mut rig);
        rig.pass(20 * MILLISECOND);
        rig.skip_posts();
        rig.answer(1, key, syn_ack(&key, terms));
        rig.skip_posts();
    }
    connect(&mut rig);
    rig.pass(70 * MILLISECOND);
    let repeated = |rig: &mut Rig| [rig.take(0), rig.take(1)].iter().flatten().filter_map(syn_of).count();
    assert_eq!(repeated(&mut rig), 0, "four times what answers take");
    rig.pass(20 * MILLISECOND);
    assert_eq!(repeated(&mut rig), 1);
}
