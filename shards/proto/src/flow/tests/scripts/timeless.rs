//! A peer without timestamps: what its acknowledgements say about time is known from our own packets, and by Karn's
//! rule only from those that were sent once (RFC 6298, section 3; RFC 8985, section 6.2, step 2).

use super::*;

/// The peer acknowledges, and says nothing about time.
fn timeless(script: &Script, ack: u32, sacked: &[u32]) -> Segment {
    timed(script.ack(ack, sacked, 0), |_| Times::NONE)
}

/// What the round trip becomes that was R and smooth.
fn after(sample_us: u64) -> Duration {
    Duration::from_nanos((7 * R + sample_us * US) / 8)
}

/// One packet, which is sent again as a tail loss probe 200 µs after it.
fn sent_twice() -> Script {
    let mut script = Script::established();
    assert_eq!(script.send(1).said(), [(Kind::Data, 1)]);
    assert_eq!(script.says_until(200 * US), [(200, Kind::Data, 1)]);
    script
}

#[test]
fn a_packet_that_was_sent_once_measures_the_round_trip() {
    let mut script = Script::established();
    script.send(1).said();
    let ack = timeless(script.at(150 * US), 2, &[]);
    script.hear(ack);
    assert_eq!(script.flow.rtt(), after(150));
    // Heard again, it says nothing new.
    script.at(30 * US);
    script.hear(ack);
    assert_eq!(script.flow.rtt(), after(150));
}

#[test]
fn a_packet_that_was_sent_again_does_not() {
    let mut script = sent_twice();
    let ack = timeless(script.at(150 * US), 2, &[]);
    script.hear(ack);
    assert_eq!((script.freed(), script.flow.rtt()), (vec![0], Duration::from_nanos(R)));
    // It measures again with the next one that was not.
    script.send(1).said();
    let ack = timeless(script.at(150 * US), 3, &[]);
    script.hear(ack);
    assert_eq!(script.flow.rtt(), after(150));
}

#[test]
fn of_several_packets_the_last_that_was_sent_once_counts() {
    let mut script = Script::established();
    script.send(1).said();
    script.at(50 * US).send(1).said();
    let both = timeless(script.at(120 * US), 3, &[]);
    script.hear(both);
    assert_eq!(script.flow.rtt(), after(120));

    // The later one was repeated: there is the earlier one.
    let mut script = Script::established();
    script.send(2).said();
    assert_eq!(script.says_until(210 * US), [(200, Kind::Data, 2)]);
    let both = timeless(&script, 3, &[]);
    script.hear(both);
    assert_eq!(script.flow.rtt(), after(210));
}

#[test]
fn so_does_one_that_is_reported_beyond_a_hole() {
    let mut script = Script::established();
    script.send(2).said();
    let ack = timeless(script.at(150 * US), 1, &[2]);
    script.hear(ack);
    assert_eq!(script.flow.rtt(), after(150));
    script.at(10 * US);
    script.hear(ack);
    assert_eq!(script.flow.rtt(), after(150), "it was news once");
}

#[test]
fn a_peer_with_timestamps_whose_echo_tells_nothing_gives_no_sample() {
    for silent in [|times| Times { hold_us: u16::MAX, ..times }, |times| Times { echo: None, ..times }] {
        let mut script = Script::established();
        script.send(1).said();
        script.at(150 * US);
        let ack = timed(script.ack(2, &[], 150 * US), silent);
        script.hear(ack);
        assert_eq!((script.freed(), script.flow.rtt()), (vec![0], Duration::from_nanos(R)));
        // Nor is it kept for later.
        let later = timeless(script.at(10 * US), 2, &[]);
        script.hear(later);
        assert_eq!(script.flow.rtt(), Duration::from_nanos(R));
    }
}

/// Two packets, the second of which was sent again; then the peer reports the second, `later` than that.
fn second_reported(later: u64) -> Script {
    let mut script = Script::established();
    script.send(2).said();
    assert_eq!(script.says_until(200 * US), [(200, Kind::Data, 2)]);
    let ack = timeless(script.at(later), 1, &[2]);
    script.hear(ack);
    script
}

#[test]
fn an_answer_that_is_too_early_for_the_repetition_says_nothing_about_what_was_sent_before_that() {
    let mut script = second_reported(99 * US);
    assert_eq!(script.said(), []);
    assert_eq!(script.says_until(500 * US), [], "the first is not taken for lost before its timeout");
}

#[test]
fn an_answer_that_may_be_to_the_repetition_does() {
    assert_eq!(second_reported(101 * US).said(), [(Kind::Data, 1)]);
}
