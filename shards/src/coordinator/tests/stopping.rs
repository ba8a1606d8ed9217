//! The end of the daemon.

use super::*;

#[test]
fn the_daemon_stops_when_every_shard_has() {
    let mut rig = Rig::new();
    let (asking, ..) = rig.asking();
    let listening = rig.attached();
    rig.listen(listening, 888);
    rig.replies(listening);
    rig.skip_posts();
    rig.handle(Input::Stop);
    rig.handle(Input::Stop);
    for shard in 0..2 {
        assert_eq!(rig.posts(shard), ["Stop", "Forget"]);
    }
    let mut refused = Vec::new();
    while let Some(effect) = rig.coordinator.poll_effect() {
        match effect {
            Effect::Reply { connection, reply, .. } => {
                assert_eq!(reply.body, Reply::Failed { error: ControlError::Stopping });
                refused.push(connection);
            }
            other => panic!("not a refusal: {other:?}"),
        }
    }
    refused.sort_unstable();
    assert_eq!(refused, [asking, listening]);
    rig.listen(listening, 889);
    assert_eq!(rig.error(listening), ControlError::Stopping);
    rig.mail(ToCoordinator::Stopped { shard: ShardId(1) });
    rig.quiet();
    rig.mail(ToCoordinator::Stopped { shard: ShardId(0) });
    assert!(matches!(rig.coordinator.poll_effect(), Some(Effect::Stopped)));
    rig.mail(ToCoordinator::Stopped { shard: ShardId(0) });
    rig.pass(Duration::from_secs(1));
    rig.quiet();
}

#[test]
fn a_shard_that_hangs_is_not_waited_for() {
    let mut rig = Rig::new();
    rig.handle(Input::Stop);
    rig.mail(ToCoordinator::Stopped { shard: ShardId(1) });
    rig.skip_posts();
    rig.pass(Duration::from_millis(499));
    rig.quiet();
    rig.pass(MILLISECOND);
    assert!(matches!(rig.coordinator.poll_effect(), Some(Effect::Stopped)));
}
