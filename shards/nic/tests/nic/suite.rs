//! What every queue does, whatever the device.

use machnet_core::addr::MacAddr;
use machnet_nic::{Capabilities, Checksum, ETHERNET_HEADER_BYTES, Frame, NicQueue, Wake};
use machnet_proto::addr::FlowKey;
use machnet_proto::wire::frame::{HEADERS_BYTES, Parsed, Template, parse};
use machnet_proto::wire::gso;
use machnet_test_kit::waiting::{eventually, once};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// Two NICs on one link.
pub(crate) struct Pair<Q> {
    pub(crate) near: End<Q>,
    pub(crate) far: End<Q>,
}

/// One of them.
pub(crate) struct End<Q> {
    pub(crate) capabilities: Capabilities,
    pub(crate) queues: Vec<Q>,
}

/// One promise, put to the test.
type Step<Q> = fn(&mut Pair<Q>);

/// How long a frame may take. Generous: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a call that does not block may take: it may lose its CPU in between.
const AT_ONCE: Duration = Duration::from_millis(500);
/// Larger than any receive ring in the suite.
const FLOOD_FRAMES: u32 = 6_000;

/// Runs it all. The pair is as good as new afterwards.
pub(crate) fn run<Q: NicQueue>(pair: &mut Pair<Q>) {
    let steps: [(&str, Step<Q>); 9] = [
        ("bytes arrive unchanged and in order", bytes_arrive_unchanged),
        ("a burst stays within its limits", a_burst_stays_within_its_limits),
        ("frames run out and come back", frames_run_out_and_come_back),
        ("a flood blocks nobody and breaks nothing", a_flood_blocks_nobody),
        ("flows spread and none is split", flows_spread_and_none_is_split),
        ("a sleeper is woken", a_sleeper_is_woken),
        ("everything leaves before a sleep", everything_leaves_before_a_sleep),
        ("what is left to the device arrives complete", what_is_left_arrives_complete),
        ("bytes arrive unchanged after all this", bytes_arrive_unchanged),
    ];
    for (name, step) in steps {
        println!("  {name}");
        step(pair);
        settle(pair);
    }
}

/// Marks the suite's frames: an EtherType for experiments (IEEE 802), then this. Kernels send frames of their own.
const EXPERIMENTAL: [u8; 2] = [0x88, 0xb5];
const MARK: [u8; 4] = *b"nic?";

/// A frame of `len` bytes with a number and bytes that depend on it.
pub(crate) fn numbered<Q: NicQueue>(
    queue: &mut Q,
    to: MacAddr,
    from: MacAddr,
    number: u32,
    len: usize,
) -> Option<Q::Frame> {
    let mut frame = queue.allocate()?;
    assert!(frame.bytes().is_empty(), "a fresh frame is empty");
    frame.set_len(len);
    let bytes = frame.bytes_mut();
    bytes[..6].copy_from_slice(&to.0);
    bytes[6..12].copy_from_slice(&from.0);
    bytes[12..14].copy_from_slice(&EXPERIMENTAL);
    bytes[14..18].copy_from_slice(&MARK);
    bytes[18..22].copy_from_slice(&number.to_be_bytes());
    bytes[22..].iter_mut().zip(pattern(number)).for_each(|(byte, value)| *byte = value);
    Some(frame)
}

fn pattern(number: u32) -> impl Iterator<Item = u8> {
    (0u32..).map(move |index| index.wrapping_mul(31).wrapping_add(number).to_le_bytes()[0])
}

/// The number of a frame of the suite, after a look at all its bytes.
pub(crate) fn number_of(bytes: &[u8]) -> Option<u32> {
    if bytes.get(12..18)? != [EXPERIMENTAL.as_slice(), MARK.as_slice()].concat() {
        return None;
    }
    let number = u32::from_be_bytes(bytes[18..22].try_into().expect("four bytes"));
    assert!(bytes[22..].iter().copied().eq(pattern(number).take(bytes.len() - 22)), "frame {number} has changed");
    Some(number)
}

/// Hands over all frames, however often that takes.
pub(crate) fn send_all<Q: NicQueue>(queue: &mut Q, frames: &mut Vec<Q::Frame>) {
    eventually(PATIENCE, || {
        queue.transmit(frames);
        let _ = queue.flush();
        once(frames.is_empty(), || format!("{} frames were never taken", frames.len()))
    });
}

/// Receives numbered frames until there are `count`: number and length of each.
fn receive_numbered<Q: NicQueue>(queues: &mut [Q], count: usize) -> Vec<(u32, usize)> {
    let mut found = Vec::new();
    let mut burst = Vec::with_capacity(32);
    eventually(PATIENCE, || {
        for queue in queues.iter_mut() {
            queue.receive(&mut burst, 32);
            found.extend(burst.iter().filter_map(|frame| Some((number_of(frame.bytes())?, frame.bytes().len()))));
            queue.recycle(&mut burst);
        }
        once(found.len() >= count, || format!("{} of {count} frames arrived", found.len()))
    });
    found
}

/// Drops whatever still arrives, until nothing has for a while.
fn settle<Q: NicQueue>(pair: &mut Pair<Q>) {
    let mut quiet_since = Instant::now();
    let mut burst = Vec::with_capacity(64);
    eventually(PATIENCE, || {
        for queue in pair.near.queues.iter_mut().chain(&mut pair.far.queues) {
            if !queue.flush() || queue.receive(&mut burst, 64) > 0 {
                quiet_since = Instant::now();
            }
            queue.recycle(&mut burst);
        }
        (quiet_since.elapsed() >= Duration::from_millis(20)).then_some(()).ok_or("frames arrive without end")
    });
}

fn bytes_arrive_unchanged<Q: NicQueue>(pair: &mut Pair<Q>) {
    let longest = ETHERNET_HEADER_BYTES + usize::from(pair.near.capabilities.mtu_bytes);
    let lengths = [60, 61, 63, 64, 65, 127, 128, 590, longest - 1, longest];
    let (near, far) = (&mut pair.near, &mut pair.far);
    for round in 0..2 {
        let (to, from) = (far.capabilities.mac, near.capabilities.mac);
        let mut frames: Vec<_> = (0..)
            .zip(lengths)
            .map(|(number, len)| numbered(&mut near.queues[0], to, from, number, len).expect("frames are left"))
            .collect();
        assert!(frames[0].capacity() >= longest);
        send_all(&mut near.queues[0], &mut frames);
        let expected: Vec<_> = (0..).zip(lengths).collect();
        assert_eq!(receive_numbered(&mut far.queues, lengths.len()), expected, "round {round}");
        std::mem::swap(near, far);
    }
}

fn a_burst_stays_within_its_limits<Q: NicQueue>(pair: &mut Pair<Q>) {
    let (to, from) = (pair.far.capabilities.mac, pair.near.capabilities.mac);
    let near = &mut pair.near.queues[0];
    let mut frames: Vec<_> = (0..40).filter_map(|number| numbered(near, to, from, number, 60)).collect();
    send_all(near, &mut frames);
    // Room for 5, asked for 3; then asked for 100. Both hold, and what is there already stays.
    let mut numbers = Vec::new();
    eventually(PATIENCE, || {
        for queue in &mut pair.far.queues {
            let mut burst = Vec::with_capacity(5);
            let capacity = burst.capacity();
            let first = queue.receive(&mut burst, 3);
            assert!(first <= 3 && first == burst.len());
            let second = queue.receive(&mut burst, 100);
            assert_eq!(first + second, burst.len());
            assert_eq!(burst.capacity(), capacity, "a burst makes no vector grow");
            numbers.extend(burst.iter().filter_map(|frame| number_of(frame.bytes())));
        }
        once(numbers.len() >= 40, || format!("{} of 40 frames arrived", numbers.len()))
    });
    assert_eq!(numbers, (0..40).collect::<Vec<_>>());
}

fn frames_run_out_and_come_back<Q: NicQueue>(pair: &mut Pair<Q>) {
    let queue = &mut pair.near.queues[0];
    let mut take_all = || {
        let mut all: Vec<_> = std::iter::from_fn(|| queue.allocate()).take(100_000).collect();
        let count = all.len();
        assert!((64..100_000).contains(&count), "{count} frames");
        // Half by dropping, half in one go.
        all.truncate(count / 2);
        queue.recycle(&mut all);
        assert!(all.is_empty());
        count
    };
    let count = take_all();
    assert_eq!(take_all(), count);
}

fn a_flood_blocks_nobody<Q: NicQueue>(pair: &mut Pair<Q>) {
    let (to, from) = (pair.far.capabilities.mac, pair.near.capabilities.mac);
    let near = &mut pair.near.queues[0];
    let mut frames = Vec::with_capacity(64);
    let mut next = 0;
    let (mut taken, mut full) = (0, 0);
    while next < FLOOD_FRAMES && full < 1_000 {
        while frames.len() < 64
            && let Some(frame) = numbered(near, to, from, next, 1000)
        {
            frames.push(frame);
            next += 1;
        }
        let before = frames.len();
        let called = Instant::now();
        let burst = near.transmit(&mut frames);
        assert!(called.elapsed() < AT_ONCE, "transmit blocked for {:?}", called.elapsed());
        assert_eq!(before - frames.len(), burst);
        taken += burst;
        full = if burst == 0 { full + 1 } else { 0 };
    }
    near.recycle(&mut frames);
    assert!(taken >= 256, "{taken} frames were taken");
    // Some found no room at the far end; those that did are whole, in order on their queue, and none comes twice.
    let mut numbers = vec![Vec::new(); pair.far.queues.len()];
    let mut burst = Vec::with_capacity(64);
    let mut quiet_since = Instant::now();
    while quiet_since.elapsed() < Duration::from_millis(50) {
        for (queue, numbers) in pair.far.queues.iter_mut().zip(&mut numbers) {
            if queue.receive(&mut burst, 64) > 0 {
                quiet_since = Instant::now();
            }
            numbers.extend(burst.iter().filter_map(|frame| number_of(frame.bytes())));
            queue.recycle(&mut burst);
        }
        // The device may still hold some, and need a push.
        let _ = pair.near.queues[0].flush();
    }
    assert!(numbers.iter().all(|numbers| numbers.is_sorted_by(|a, b| a < b)), "out of order");
    let mut numbers = numbers.concat();
    numbers.sort_unstable();
    assert!(numbers.is_sorted_by(|a, b| a < b), "a frame arrived twice");
    assert!(numbers.len() >= 128, "{} frames arrived", numbers.len());
    println!("    {taken} taken, {} arrived, full {full} times in the end", numbers.len());
}

/// Where [`datagram`] goes.
pub(crate) const DESTINATION_IP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

/// An IPv4/UDP datagram from `port`.
pub(crate) fn datagram<Q: NicQueue>(queue: &mut Q, to: MacAddr, from: MacAddr, port: u16) -> Q::Frame {
    let mut frame = queue.allocate().expect("frames are left");
    frame.set_len(60);
    let bytes = frame.bytes_mut();
    bytes.fill(0);
    bytes[..6].copy_from_slice(&to.0);
    bytes[6..12].copy_from_slice(&from.0);
    // 46 bytes of IPv4, do not fragment, TTL 64, UDP, header checksum; 198.18.0.1 to 198.18.0.2 (RFC 2544).
    bytes[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17]);
    bytes[26..34].copy_from_slice(&[198, 18, 0, 1, 198, 18, 0, 2]);
    let sum: u32 = bytes[14..34].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let checksum = !u16::try_from((sum & 0xffff) + (sum >> 16)).expect("ten words carry once");
    bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
    bytes[34..36].copy_from_slice(&port.to_be_bytes());
    bytes[36..40].copy_from_slice(&[0x03, 0x78, 0, 26]);
    frame
}

const FLOWS: u16 = 64;
const PORTS_FROM: u16 = 20_000;

/// Sends a frame of a flow, each flow by one queue: some links have no hash, and what queue k sends, queue k receives.
fn send_flow<Q: NicQueue>(queues: &mut [Q], to: MacAddr, from: MacAddr, flow: u16) {
    let sender = usize::from(flow) % queues.len();
    let queue = &mut queues[sender];
    let mut frame = vec![datagram(queue, to, from, PORTS_FROM + flow)];
    send_all(queue, &mut frame);
}

fn flows_spread_and_none_is_split<Q: NicQueue>(pair: &mut Pair<Q>) {
    let (to, from) = (pair.far.capabilities.mac, pair.near.capabilities.mac);
    for _ in 0..4 {
        for flow in 0..FLOWS {
            send_flow(&mut pair.near.queues, to, from, flow);
        }
    }
    let mut queue_of = [None; FLOWS as usize];
    let mut per_queue = vec![0; pair.far.queues.len()];
    let mut burst = Vec::with_capacity(64);
    eventually(PATIENCE, || {
        for (index, queue) in pair.far.queues.iter_mut().enumerate() {
            queue.receive(&mut burst, 64);
            for frame in burst.drain(..).filter(|frame| frame.bytes().get(26..30) == Some(&[198, 18, 0, 1])) {
                let port = u16::from_be_bytes([frame.bytes()[34], frame.bytes()[35]]);
                let owner = queue_of[usize::from(port - PORTS_FROM)].get_or_insert(index);
                assert_eq!(*owner, index, "the flow from port {port} is on two queues");
                per_queue[index] += 1;
            }
        }
        once(per_queue.iter().sum::<u16>() >= 4 * FLOWS, || format!("{per_queue:?} frames arrived"))
    });
    assert!(per_queue.iter().all(|frames| *frames > 0), "a queue got no flow: {per_queue:?}");
    println!("    frames per queue: {per_queue:?}");
}

/// Whether the queue's descriptor is readable within `timeout`.
pub(crate) fn is_readable<Q: NicQueue>(queue: &Q, timeout: Duration) -> Option<bool> {
    let Wake::Fd(fd) = queue.wake() else { return None };
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let timeout = Timespec::try_from(timeout).expect("short");
    Some(poll(&mut fds, Some(&timeout)).expect("poll") > 0)
}

fn a_sleeper_is_woken<Q: NicQueue>(pair: &mut Pair<Q>) {
    let (to, from) = (pair.far.capabilities.mac, pair.near.capabilities.mac);
    if matches!(pair.far.queues[0].wake(), Wake::Steps) {
        println!("    nothing wakes: sleep in steps");
        return;
    }
    let mut woken = vec![0; pair.far.queues.len()];
    for flow in 0..FLOWS {
        assert!(pair.far.queues.iter_mut().all(NicQueue::arm));
        for queue in &pair.far.queues {
            assert_eq!(is_readable(queue, Duration::ZERO), Some(false), "readable without a frame");
        }
        send_flow(&mut pair.near.queues, to, from, flow);
        let ready = |queue| is_readable(queue, Duration::from_millis(1)) == Some(true);
        let index = eventually(PATIENCE, || pair.far.queues.iter().position(ready).ok_or("nobody woke"));
        let queue = &mut pair.far.queues[index];
        assert_eq!(is_readable(queue, Duration::ZERO), Some(true), "readable until received");
        queue.disarm();
        let mut burst = Vec::with_capacity(8);
        assert!(queue.receive(&mut burst, 8) > 0, "queue {index} woke for a frame of another queue");
        woken[index] += 1;
    }
    assert!(woken.iter().all(|wakes| *wakes > 0), "a queue never woke: {woken:?}");
    pair.far.queues.iter_mut().for_each(NicQueue::disarm);
}

fn everything_leaves_before_a_sleep<Q: NicQueue>(pair: &mut Pair<Q>) {
    let (to, from) = (pair.far.capabilities.mac, pair.near.capabilities.mac);
    let near = &mut pair.near.queues[0];
    for number in 0..100 {
        let mut frames: Vec<_> = (0..3).filter_map(|index| numbered(near, to, from, 3 * number + index, 200)).collect();
        send_all(near, &mut frames);
        eventually(PATIENCE, || near.flush().then_some(()).ok_or("a push is for ever wanted"));
        assert!(near.flush(), "nothing was handed over since");
        assert_eq!(receive_numbered(&mut pair.far.queues, 3).len(), 3);
    }
}

/// Checksums, and GSO batches.
fn what_is_left_arrives_complete<Q: NicQueue>(pair: &mut Pair<Q>) {
    if !pair.near.queues[0].completes() {
        println!("    this device takes only what is complete");
        return;
    }
    let (to, from) = (pair.far.capabilities.mac, pair.near.capabilities.mac);
    let key = FlowKey {
        local_ip: Ipv4Addr::new(198, 18, 0, 1),
        remote_ip: DESTINATION_IP,
        local_port: PORTS_FROM,
        remote_port: 888,
    };
    let template = Template::new(from, to, &key);
    let longest = usize::from(pair.near.capabilities.mtu_bytes) + ETHERNET_HEADER_BYTES - HEADERS_BYTES;
    let mut cases = vec![(1, 1, 1), (100, 1, 100), (longest, 1, longest)];
    if let Some(limits) = pair.near.queues[0].gso_limits() {
        cases.extend([(100, 2, 100), (longest, 3, 1), (120, limits.packets_max, 7)]);
        let is_short = |(segment, packets, last)| HEADERS_BYTES + segment * (packets - 1) + last <= limits.bytes_max;
        assert!(cases.iter().all(|&case| is_short(case)));
    }
    for (segment, packets, last) in cases {
        let payload_bytes = segment * (packets - 1) + last;
        send_gso_batch(&mut pair.near.queues[0], &template, payload_bytes, if packets == 1 { 0 } else { segment });
        let mut arrived: Vec<Vec<u8>> = Vec::new();
        let mut burst = Vec::with_capacity(64);
        eventually(PATIENCE, || {
            for queue in &mut pair.far.queues {
                queue.receive(&mut burst, 64);
                burst.drain(..).for_each(|frame| arrived.extend(packets_of(&frame)));
            }
            once(arrived.len() >= packets, || format!("{} of {packets} packets arrived", arrived.len()))
        });
        let lengths: Vec<_> = arrived.iter().map(Vec::len).collect();
        assert!(
            lengths[..packets - 1].iter().all(|len| *len == segment) && lengths[packets - 1] == last,
            "{lengths:?}"
        );
        let expected = pattern(7).take(payload_bytes);
        assert!(arrived.concat().into_iter().eq(expected), "the bytes are others");
    }
}

fn send_gso_batch<Q: NicQueue>(queue: &mut Q, template: &Template, payload_bytes: usize, segment_bytes: usize) {
    let mut frame = queue.allocate().expect("frames are left");
    frame.set_len(HEADERS_BYTES + payload_bytes);
    frame.bytes_mut()[HEADERS_BYTES..].iter_mut().zip(pattern(7)).for_each(|(byte, value)| *byte = value);
    template.write(frame.bytes_mut());
    template.seal_partly(frame.bytes_mut());
    frame.set_offloads(Checksum::Partial, u16::try_from(segment_bytes).expect("a packet is short"));
    send_all(queue, &mut vec![frame]);
}

/// The UDP payloads of a frame, if it is UDP.
fn packets_of<F: Frame>(frame: &F) -> Vec<Vec<u8>> {
    let Ok(Parsed::Udp(datagram)) = parse(frame.bytes()) else { return Vec::new() };
    match frame.segment_bytes() {
        0 => {
            let is_good = datagram.checksum_is_good() == Some(true) || frame.checksum() != Checksum::Unverified;
            assert!(is_good, "a checksum is wrong");
            vec![datagram.payload.to_vec()]
        }
        segment_bytes => gso::payloads(frame.bytes(), segment_bytes).map(<[u8]>::to_vec).collect(),
    }
}
