//! Flows between two applications of one host, within one shard.

use super::*;

/// The two applications' sides of the flow.
const NEAR: FlowKey = FlowKey { local_ip: OUR_IP, remote_ip: OUR_IP, local_port: 50_000, remote_port: PORT };

/// Two applications on one shard, and the flow between them as each names it.
fn pair() -> (Rig, [(AppEnd, FlowId); 2]) {
    let (mut rig, mut server) = Rig::listening();
    let mut client = rig.add_channel(2);
    // The coordinator's SYN is for ourselves: it never gets to the device.
    let packet = Packet::syn(&PEER_TERMS);
    let mut frame = [&[0; HEADERS_BYTES], &packet[..]].concat();
    let template = Template::new(OUR_MAC, OUR_MAC, &NEAR);
    template.write(&mut frame);
    template.seal(&mut frame);
    rig.post(ToShard::Expect { key: NEAR });
    rig.post(ToShard::Transmit { frame: frame.into() });
    rig.turn();
    rig.turn();
    let told = rig.told();
    let [ToCoordinator::Answer { key: NEAR, source_mac: OUR_MAC, payload, .. }] = &told[..] else { panic!("{told:?}") };
    let accepted = acceptance(&NEAR.reversed());
    assert_eq!(payload[..], accepted.packet[..]);
    let birth = Birth {
        role: Role::Connector,
        local_nonce: CONNECTOR,
        remote_nonce: accepted.ours.offer.nonce,
        max_payload: MAX_PAYLOAD,
        peer_window_packets: 1,
        rtt: None,
        records: true,
        probes_path: true,
    };
    let (connect, channel) = (ConnectId(5), ChannelId(2));
    let features = accepted.agreed.features;
    rig.post(ToShard::Create { connect, key: NEAR, next_hop: OUR_MAC, birth, features, channel });
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
    assert_eq!((of_near.local_port, of_far.local_port), (NEAR.local_port, PORT));
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
    assert!(matches!(server.recv().unwrap(), Some(Received::Message { message, .. }) if message.len() == 11));
    assert_eq!(closed(&mut server), (CloseReason::Closed, 0));
    assert_eq!(closed(&mut client), (CloseReason::Closed, 1));
    assert_eq!(rig.told().len(), 2);
    assert_eq!(rig.frames().len(), 0);
}
