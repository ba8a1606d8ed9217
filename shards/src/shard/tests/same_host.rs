//! Flows between two applications of one host, within one shard.

use machnet_proto::handshake::{Answer, Connector};

use super::*;

/// The two applications' sides of the flow.
const NEAR: FlowKey = FlowKey { local_ip: OUR_IP, remote_ip: OUR_IP, local_port: 50_000, remote_port: PORT };

/// Two applications on one shard, and the flow between them as each names it.
fn pair() -> (Rig, [(AppEnd, FlowId); 2]) {
    let (mut rig, mut server) = Rig::listening();
    let mut client = rig.add_channel(2);
    // The coordinator's SYN is for ourselves: it never gets to the device.
    rig.post(ToShard::Expect { key: NEAR });
    let (dialect, packet) = (Dialect::OURS, Packet::Syn(Syn { terms: PEER_TERMS }));
    rig.post(ToShard::Send { next_hop: OUR_MAC, key: NEAR, dialect, packet });
    rig.turn();
    rig.turn();
    let told = rig.told();
    let [ToCoordinator::Answer { key: NEAR, source_mac: OUR_MAC, dialect, packet, .. }] = told[..] else {
        panic!("{told:?}")
    };
    assert_eq!(packet, Packet::SynAck(syn_ack(&NEAR.reversed())));
    let mut connector = Connector::new(PEER_TERMS, rig.now + Duration::from_secs(1));
    connector.begin(Duration::from_millis(5), rig.now);
    let Answer::Accepted(birth) = connector.on_packet(dialect, &packet) else { panic!("{packet:?}") };
    let (connect, channel) = (ConnectId(5), ChannelId(2));
    rig.post(ToShard::Create { connect, key: NEAR, next_hop: OUR_MAC, birth, channel });
    for _ in 0..4 {
        rig.turn();
    }
    let told = rig.told();
    let [ToCoordinator::Created { outcome: Ok(_), .. }, ToCoordinator::Accepted { key, channel: ChannelId(1), .. }] =
        told[..]
    else {
        panic!("{told:?}")
    };
    assert_eq!(key, NEAR.reversed());
    let ((near, of_near), (far, of_far)) = (opened(&mut client), opened(&mut server));
    assert_eq!((of_near.accepted, of_far.accepted), (false, true));
    assert_eq!((of_near.local.port(), of_far.local.port()), (NEAR.local_port, PORT));
    (rig, [(client, near), (server, far)])
}

#[test]
fn messages_go_both_ways_and_never_over_the_wire() {
    let (mut rig, [(mut client, near), (mut server, far)]) = pair();
    let long: Vec<u8> = (0..=u8::MAX).cycle().take(10_000).collect();
    for message in [b"ping", &long[..]] {
        send(&mut client, near, message);
        send(&mut server, far, message);
        for _ in 0..10 {
            rig.turn();
        }
        assert_eq!(messages(&mut server), [message]);
        assert_eq!(messages(&mut client), [message]);
    }
    rig.turn();
    for app in [&mut client, &mut server] {
        assert_eq!(app.free_tx_buffers().unwrap(), TX_BUFFERS as usize);
    }
    assert_eq!(rig.free_receive_buffers(), 2 * RX_BUFFERS as usize);
    assert_eq!((rig.drops(), rig.counted(Counter::Retransmissions)), (vec![], 0));
    rig.assert_quiet();
}

#[test]
fn one_side_closes_and_the_other_is_told() {
    let (mut rig, [(mut client, near), (mut server, _)]) = pair();
    send(&mut client, near, b"that is all");
    client.close_flow(near).unwrap();
    for _ in 0..10 {
        rig.turn();
    }
    assert!(matches!(server.recv().unwrap(), Some(FromShard::Message { message, .. }) if message.len() == 11));
    assert_eq!(closed(&mut server), (CloseReason::Closed, 0));
    assert_eq!(closed(&mut client), (CloseReason::Closed, 1));
    assert_eq!(rig.told().len(), 2);
    assert_eq!(rig.frames().len(), 0);
}
