//! Applications: attach, listen, channels, their end.

use std::net::{IpAddr, Ipv6Addr};

use machnet::daemon::control::message::{Attach, VERSIONS, Versions};

use super::*;

#[test]
fn attach_tells_the_addresses_and_uses_the_highest_version_that_both_speak() {
    let mut rig = Rig::new();
    let connection = rig.connection();
    rig.listen(connection, 888);
    assert!(matches!(rig.error(connection), ControlError::Malformed(_)), "not attached");
    let Versions { lowest, highest } = VERSIONS;
    let attach = |name: String, lowest, highest| {
        Request::Attach(Attach { name, versions: Versions { lowest, highest }, binding: Binding::All })
    };
    let too_old_too_new_and_nonsense = [(0, lowest - 1), (highest + 1, u16::MAX), (u16::MAX, 0)];
    for (from, to) in too_old_too_new_and_nonsense {
        rig.ask(connection, attach("n".into(), from, to));
        assert_eq!(rig.error(connection), ControlError::NoCommonVersion(VERSIONS), "{from} to {to}");
    }
    for (from, to, version) in [(0, u16::MAX, highest), (highest, highest + 1, highest), (0, lowest, lowest)] {
        let connection = rig.connection();
        rig.ask(connection, attach("n".into(), from, to));
        assert!(matches!(rig.reply(connection), Reply::Attached { version: used, .. } if used == version));
        rig.handle(Input::Disconnected { connection });
    }
    rig.ask(connection, Request::attach("ü".repeat(1000), Binding::All));
    let (daemon, addresses) = (env!("CARGO_PKG_VERSION").into(), vec![OUR_IP.into()]);
    assert_eq!(rig.reply(connection), Reply::Attached { daemon, version: highest, addresses });
    let report = rig.status(Part::Channels);
    assert_eq!(report.channels()[0].owner.name, Some("ü".repeat(32)), "long names are cut");
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
    assert_eq!(granted.collect::<Vec<_>>(), [(0, IpAddr::from(OUR_IP), 0), (1, OUR_IP.into(), 1)]);
    rig.mail(ToCoordinator::Listening { shard: ShardId(1), listener: ListenerId(1) });
    rig.quiet();
    rig.mail(ToCoordinator::Listening { shard: ShardId(0), listener: ListenerId(1) });
    assert_eq!(rig.reply(connection), Reply::Listening { port: 888 });
    // The next listener uses the same channels.
    rig.listen(connection, 889);
    assert_eq!(rig.posts(0), ["Listen 889"]);
}

#[test]
fn ipv6_is_not_carried_yet_and_an_ipv4_address_in_it_is() {
    let mut rig = Rig::new();
    let connection = rig.attached();
    let (ours, ipv6, timeout_ms, shard) = (IpAddr::from(OUR_IP), Ipv6Addr::LOCALHOST, 0, None);
    for request in [
        Request::Listen { local: (ipv6, 888).into(), shared: false },
        Request::Unlisten { local: (ipv6, 888).into() },
        Request::Connect { local_ip: ipv6.into(), remote: (PEER_IP, 888).into(), timeout_ms, shard },
        Request::Connect { local_ip: ours, remote: (ipv6, 888).into(), timeout_ms, shard },
    ] {
        rig.ask(connection, request);
        assert_eq!(rig.error(connection), ControlError::NotYetIpv6(ipv6));
    }
    rig.quiet();
    rig.ask(connection, Request::Listen { local: (OUR_IP.to_ipv6_mapped(), 888).into(), shared: false });
    assert_eq!((rig.posts(0).last().map(String::as_str)), Some("Listen 888"));
}

#[test]
fn an_address_and_port_has_one_owner() {
    let mut rig = Rig::new();
    let first = rig.listener();
    let second = rig.attached();
    rig.listen(second, 888);
    assert_eq!(rig.error(second), ControlError::AddressInUse);
    rig.ask(second, Request::Unlisten { local: (OUR_IP, 888).into() });
    assert_eq!(rig.error(second), ControlError::NotListening);
    rig.ask(second, Request::Listen { local: (PEER_IP, 888).into(), shared: false });
    assert_eq!(rig.error(second), ControlError::NoSuchAddress(vec![OUR_IP.into()]));
    rig.quiet();
    rig.ask(first, Request::Unlisten { local: (OUR_IP, 888).into() });
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
    rig.ask(connection, Request::Unlisten { local: (OUR_IP, 49_152).into() });
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
    rig.handle(Input::Disconnected { connection: first });
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
    let limit = |plan: &mut CoordinatorPlan| plan.limits.max_channel_bytes_per_user = 40 << 20;
    let mut rig = Rig::with(2, 1024, limit);
    let first = rig.attached();
    rig.listen(first, 888);
    assert_eq!(rig.replies(first).len(), 2);
    let second = rig.attached();
    rig.listen(second, 889);
    assert!(matches!(rig.error(second), ControlError::Limit(_)));
    rig.handle(Input::Disconnected { connection: first });
    rig.listen(second, 889);
    assert!(matches!(rig.error(second), ControlError::Limit(_)), "the shards still have it");
    assert_eq!(rig.summary().control.channels_ending, 2);
    for channel in 1..=2 {
        rig.mail(ToCoordinator::ChannelGone { shard: ShardId(0), channel: ChannelId(channel), end: None });
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
    rig.handle(Input::Disconnected { connection });
    rig.quiet();
}

#[test]
fn an_application_whose_bell_cannot_be_heard_is_ended_and_no_other() {
    let mut rig = Rig::new();
    let (other, connection) = (rig.attached(), rig.listener());
    let error = std::io::Error::from_raw_os_error(libc::ENOSPC);
    rig.mail(ToCoordinator::Unheard { channel: ChannelId(2), error });
    match rig.coordinator.poll_effect() {
        Some(Effect::Disconnect { connection: ended }) => assert_eq!(ended, connection),
        effect => panic!("not ended: {effect:?}"),
    }
    rig.listen(other, 889);
    assert_eq!(rig.posts(0), ["Unlisten 888", "RemoveChannel", "AddChannel", "Listen 889"]);
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
