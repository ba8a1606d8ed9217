//! Endpoints that share a port.

use super::*;

impl Rig {
    fn share(&mut self, connection: ConnectionId, port: u16) {
        self.ask(connection, Request::Listen { local: (OUR_IP, port).into(), shared: true });
    }

    fn sharer(&mut self) -> ConnectionId {
        let connection = self.attached();
        self.share(connection, 888);
        self.confirm_listeners();
        assert!(matches!(self.replies(connection).last(), Some(Reply::Listening { port: 888 })));
        connection
    }
}

#[test]
fn endpoints_that_all_want_to_share_a_port_share_it() {
    let mut rig = Rig::new();
    let first = rig.sharer();
    let second = rig.sharer();
    assert_eq!(rig.status(Part::Listeners).listeners().len(), 2);
    assert!(rig.status(Part::Listeners).listeners()[1].shared);
    rig.handle(Input::Disconnected { connection: first });
    let Some(ToShard::Unlisten { port: 888, listener: ListenerId(1) }) = rig.take(0).into_iter().next() else {
        panic!("only its own listener ends")
    };
    rig.skip_posts();
    rig.ask(second, Request::Unlisten { local: (OUR_IP, 888).into() });
    assert_eq!(rig.reply(second), Reply::Unlistened {});
    rig.skip_posts();
    rig.listener();
}

#[test]
fn who_does_not_share_or_is_another_user_has_no_part_in_it() {
    let mut rig = Rig::new();
    rig.sharer();
    let alone = rig.attached();
    rig.listen(alone, 888);
    assert_eq!(rig.error(alone), ControlError::AddressInUse);
    let stranger = ConnectionId(100);
    rig.handle(Input::Connected { connection: stranger, peer: Peer { pid: None, uid: 2000, gid: 2000 } });
    rig.ask(stranger, Request::attach("stranger", Binding::All));
    rig.replies(stranger);
    rig.share(stranger, 888);
    assert_eq!(rig.error(stranger), ControlError::AddressInUse);
    rig.quiet();
}

#[test]
fn an_endpoint_listens_once_on_a_port() {
    let mut rig = Rig::new();
    let connection = rig.sharer();
    rig.share(connection, 888);
    assert_eq!(rig.error(connection), ControlError::AddressInUse);
    rig.quiet();
}
