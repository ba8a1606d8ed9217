//! Applications: attach, listen, channels, their end.

use super::*;

#[test]
fn attach_tells_the_addresses_and_refuses_another_version() {
    let mut rig = Rig::new();
    let connection = rig.connection();
    rig.listen(connection, 888);
    assert!(matches!(rig.error(connection), ControlError::Malformed(_)), "not attached");
    rig.ask(connection, Request::Attach { name: "n".into(), version: VERSION + 1, binding: Binding::All });
    assert_eq!(rig.error(connection), ControlError::WrongVersion(VERSION));
    rig.ask(connection, Request::Attach { name: "ü".repeat(1000), version: VERSION, binding: Binding::All });
    let daemon = env!("CARGO_PKG_VERSION").into();
    assert_eq!(rig.reply(connection), Reply::Attached { daemon, addresses: vec![OUR_IP] });
    let channels = &rig.status(Part::Channels)["channels"];
    assert_eq!(channels[0]["name"], "ü".repeat(32), "long names are cut");
    rig.quiet();
}

#[test]
fn listen_grants_channels_and_answers_when_all_shards_confirmed() {
    let mut rig = Rig::new();
    let connection = rig.attached();
    rig.listen(connection, 888);
    for shard in 0..2 {
        let messages = rig.take(shard);
        assert_eq!(messages.iter().map(describe).collect::<Vec<_>>(), ["AddChannel", "Listen 888"]);
        assert!(matches!(messages[1], ToShard::Listen { listener: ListenerId(1), .. }));
    }
    let channels = rig.replies(connection);
    let granted = channels.iter().map(|reply| match reply {
        Reply::Channel { index, ip, shard, .. } => (*index, *ip, *shard),
        other => panic!("not a channel: {other:?}"),
    });
    assert_eq!(granted.collect::<Vec<_>>(), [(0, OUR_IP, 0), (1, OUR_IP, 1)]);
    rig.mail(ToCoordinator::Listening { shard: ShardId(1), listener: ListenerId(1) });
    rig.quiet();
    rig.mail(ToCoordinator::Listening { shard: ShardId(0), listener: ListenerId(1) });
    assert_eq!(rig.reply(connection), Reply::Listening { port: 888 });
    // The next listener uses the same channels.
    rig.listen(connection, 889);
    assert_eq!(rig.posts(0), ["Listen 889"]);
}

#[test]
fn an_address_and_port_has_one_owner() {
    let mut rig = Rig::new();
    let first = rig.listener();
    let second = rig.attached();
    rig.listen(second, 888);
    assert_eq!(rig.error(second), ControlError::AddressInUse);
    rig.ask(second, Request::Unlisten { ip: OUR_IP, port: 888 });
    assert_eq!(rig.error(second), ControlError::NotListening);
    rig.ask(second, Request::Listen { ip: PEER_IP, port: 888, shared: false });
    assert_eq!(rig.error(second), ControlError::NoSuchAddress(vec![OUR_IP]));
    rig.quiet();
    rig.ask(first, Request::Unlisten { ip: OUR_IP, port: 888 });
    assert_eq!(rig.reply(first), Reply::Unlistened {});
    assert_eq!((rig.posts(0), rig.posts(1)), (vec!["Unlisten 888".into()], vec!["Unlisten 888".into()]));
    rig.listen(second, 888);
    assert_eq!(rig.posts(0), ["AddChannel", "Listen 888"]);
}

#[test]
fn port_0_asks_for_a_free_one() {
    let mut rig = Rig::new();
    let connection = rig.attached();
    rig.listen(connection, 0);
    rig.listen(connection, 0);
    rig.replies(connection);
    rig.confirm_listeners();
    let given = [Reply::Listening { port: 49_152 }, Reply::Listening { port: 49_153 }];
    assert_eq!(rig.replies(connection), given);
    // The search goes on behind the last one given, and begins anew at the end.
    rig.ask(connection, Request::Unlisten { ip: OUR_IP, port: 49_152 });
    rig.replies(connection);
    rig.skip_posts();
    rig.listen(connection, 0);
    rig.confirm_listeners();
    assert_eq!(rig.reply(connection), Reply::Listening { port: 49_154 });
    rig.coordinator.listeners.search_from(u16::MAX);
    for port in [u16::MAX, 49_152, 49_155] {
        rig.listen(connection, 0);
        rig.confirm_listeners();
        assert_eq!(rig.reply(connection), Reply::Listening { port });
    }
}

#[test]
fn what_an_endpoint_had_is_free_when_it_ends_between_listen_and_its_answer() {
    let mut rig = Rig::new();
    let first = rig.attached();
    rig.listen(first, 888);
    rig.mail(ToCoordinator::Listening { shard: ShardId(0), listener: ListenerId(1) });
    rig.replies(first);
    rig.skip_posts();
    rig.handle(Event::Disconnected { connection: first });
    for shard in 0..2 {
        assert_eq!(rig.posts(shard), ["Unlisten 888", "RemoveChannel"]);
    }
    let second = rig.attached();
    rig.listen(second, 888);
    assert_eq!(rig.replies(second).len(), 2, "channels, no error");
    rig.mail(ToCoordinator::Listening { shard: ShardId(1), listener: ListenerId(1) });
    rig.mail(ToCoordinator::Listening { shard: ShardId(0), listener: ListenerId(2) });
    assert!(rig.replies(second).is_empty(), "one shard has not confirmed the second");
    rig.mail(ToCoordinator::Listening { shard: ShardId(1), listener: ListenerId(2) });
    assert_eq!(rig.reply(second), Reply::Listening { port: 888 });
}

#[test]
fn memory_is_limited_by_user_and_comes_back_when_the_shards_have_let_go() {
    let limit = |plan: &mut Plan| plan.limits.max_channel_bytes_per_user = 40 << 20;
    let mut rig = Rig::with(2, 1024, limit);
    let first = rig.attached();
    rig.listen(first, 888);
    assert_eq!(rig.replies(first).len(), 2);
    let second = rig.attached();
    rig.listen(second, 889);
    assert!(matches!(rig.error(second), ControlError::Limit(_)));
    rig.handle(Event::Disconnected { connection: first });
    rig.listen(second, 889);
    assert!(matches!(rig.error(second), ControlError::Limit(_)), "the shards still have it");
    assert_eq!(rig.status(Part::Summary)["control"]["channels_ending"], 2);
    for channel in 1..=2 {
        rig.mail(ToCoordinator::ChannelGone { shard: ShardId(0), channel: ChannelId(channel) });
    }
    rig.listen(second, 889);
    assert_eq!(rig.replies(second).len(), 2);
}

#[test]
fn an_application_that_breaks_the_rules_is_ended() {
    let mut rig = Rig::new();
    let connection = rig.listener();
    rig.mail(ToCoordinator::Broken { channel: ChannelId(2), violation: Violation::UnknownKind });
    match rig.coordinator.poll_effect() {
        Some(Effect::Disconnect { connection: ended }) => assert_eq!(ended, connection),
        other => panic!("not ended: {other:?}"),
    }
    for shard in 0..2 {
        assert_eq!(rig.posts(shard), ["Unlisten 888", "RemoveChannel"]);
    }
    // It may be told twice, and disconnect by itself too.
    rig.mail(ToCoordinator::Broken { channel: ChannelId(1), violation: Violation::UnknownKind });
    rig.handle(Event::Disconnected { connection });
    rig.quiet();
}

#[test]
fn a_shard_that_does_not_read_its_mail_gets_it_later() {
    let mut rig = Rig::with(1, 1, |_| {});
    rig.pass(Duration::from_secs(3));
    let connection = rig.attached();
    rig.listen(connection, 888);
    assert_eq!(rig.posts(0), ["announcement"]);
    rig.pass(MILLISECOND);
    assert_eq!(rig.posts(0), ["announcement"]);
    rig.pass(MILLISECOND);
    assert_eq!(rig.posts(0), ["AddChannel"]);
    rig.pass(MILLISECOND);
    assert_eq!(rig.posts(0), ["Listen 888"]);
    assert_eq!(rig.coordinator.deadline(), None);
}
