//! The pairs the suite runs over.

use machnet_test_kit::Scratch;
use machnet_test_kit::waiting::{eventually, once};

use crate::sleeping;
use crate::suite::{self, End, Pair, number_of, numbered};
use machnet_config::{Attachment, Driver, Interface};
use machnet_core::addr::MacAddr;
use machnet_nic::backend::{Backend, DpdkDevice};
use machnet_nic::dpdk::{Dpdk, DpdkQueue};
use machnet_nic::error::OpenError;
use machnet_nic::memory::{Cable, MemoryNic, Network, NicOptions, Spread};
use machnet_nic::packet::{self, PacketQueue};
use machnet_nic::plan::{DevicePlan, plan};
use machnet_nic::{DeviceDrops, Frame, NicQueue, OpenDevice, Wake};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

pub(crate) const NEAR: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 1]);
const FAR: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 2]);
/// How long frames may take. Generous: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn cable() {
    let end = |nic: MemoryNic| End { capabilities: nic.capabilities, queues: nic.queues };
    for queues in [1, 4] {
        for spread in [Spread::Disclosed, Spread::Hidden, Spread::Wrong] {
            let near = NicOptions { mac: NEAR, queues, spread, ..NicOptions::default() };
            let far = NicOptions { mac: FAR, ..near.clone() };
            let Cable { network: _network, near, far } = Cable::between(Network::new(1), &near, &far);
            suite::run(&mut Pair { near: end(near), far: end(far) });
        }
    }
}

pub(crate) fn ring() {
    // The way is not looked at: these devices are made, not found.
    let plan = |mac, queues| DevicePlan::new(interface(mac, queues), dpdk_device("net_ring"));
    let plans = [plan(NEAR, 2), plan(FAR, 2)];
    // Memory for the most a device of the test has, 16 queues, and as much again.
    let plans_at_most = [plan(NEAR, 16), plan(FAR, 16)];
    let dpdk = Dpdk::start(&plans_at_most).expect("DPDK starts");
    assert_eq!(Dpdk::start(&plans).expect_err("it is running"), OpenError::StartedBefore);
    for queues in [1, 2] {
        let [near, far] =
            dpdk.open_ring_pair([&plan(NEAR, queues), &plan(FAR, queues)]).expect("rings need no privilege");
        suite::run(&mut pair(near, far));
    }
    frames_outlive_their_device(&dpdk, [&plans[0], &plans[1]]);
    refusals(&dpdk, &plans[0]);
}

/// A shard may still hold frames when its device is closed.
fn frames_outlive_their_device(dpdk: &Dpdk, plans: [&DevicePlan; 2]) {
    let [mut near, _far] = dpdk.open_ring_pair(plans).expect("rings need no privilege");
    let mut frame = numbered(&mut near.queues[0], FAR, NEAR, 7, 100).expect("a frame");
    drop(near);
    assert_eq!(number_of(frame.bytes()), Some(7));
    frame.set_len(0);
}

/// What cannot be opened says why, and breaks nothing.
fn refusals(dpdk: &Dpdk, plan: &DevicePlan) {
    let open = |arguments: &str| {
        dpdk.open(&DevicePlan { backend: dpdk_device(arguments), ..plan.clone() }).expect_err("there is no such device")
    };
    assert!(matches!(open(""), OpenError::BadDevice { .. }));
    assert!(matches!(open("net_ring\0"), OpenError::BadDevice { .. }));
    let refused = open("net_af_packet77,iface=nosuch0");
    assert!(refused.to_string().contains("net_af_packet77"), "{refused}");
    println!("    {refused}");
    println!("    {}", open("net_nosuchdriver0"));
    fakes(dpdk);
    limits(dpdk);
}

/// `net_null` claims that it spreads flows, with a table that sends all to one queue.
fn fakes(dpdk: &Dpdk) {
    let open = |device: &str, queues| {
        dpdk.open(&DevicePlan::new(interface(NEAR, queues), dpdk_device(device))).expect("a device that does nothing")
    };
    assert_eq!(open("net_null0", 1).capabilities.rss, None, "one queue needs no table");
    let two = open("net_null1", 2).capabilities;
    assert_eq!((two.queues, two.rss), (2, None), "its table is not believed");
}

/// A device with fewer queues than asked is used with what it has; one with more than fit is closed again.
fn limits(dpdk: &Dpdk) {
    let open = |device: &str, queues| dpdk.open(&DevicePlan::new(interface(NEAR, queues), dpdk_device(device)));
    let OpenDevice { capabilities: few, queues, mut control, findings } =
        open("net_ring8", 1000).expect("it has some queues");
    assert_eq!((usize::from(few.queues), few.max_queues), (queues.len(), few.queues));
    assert!(findings[0].to_string().contains("\"engine_threads\""), "{findings:?}");
    assert_eq!(control.drops(), DeviceDrops::default());
    drop(queues);
    assert_eq!(control.drops(), DeviceDrops::default(), "a closed device counts nothing");
    for attempt in 0..3 {
        let error = open(&format!("net_null1{attempt}"), 1000).expect_err("10 GB of frames");
        assert!(matches!(error, OpenError::NoMemory { .. }), "{error}");
    }
    open("net_null20", 16).expect("nothing stayed open");
}

pub(crate) fn packet() {
    let [near, far] = packet_sockets([interface(NEAR, 1), interface(FAR, 1)], None);
    assert!(near.queues[0].gso_limits().is_some(), "this kernel segments UDP");
    let mut pair = pair(near, far);
    suite::run(&mut pair);
    own_frames_are_not_received(&mut pair);
    sleeping::measure(pair);
    frames_outlive_their_socket();
    only_what_is_for_us_is_received();
    vlans_are_told_apart();
}

pub(crate) fn packet_queues() {
    let wanted = |mac, queues| Interface { mtu_bytes: Some(4000), ..interface(mac, queues) };
    let [near, far] = packet_sockets([wanted(NEAR, 1), wanted(FAR, 4)], None);
    assert_eq!((far.capabilities.queues, far.capabilities.mtu_bytes), (4, 4000));
    assert_eq!(far.capabilities.rss, None, "the kernel's hash is its secret");
    suite::run(&mut pair(near, far));
}

/// DPDK's own driver for packet sockets, which a configuration may name.
pub(crate) fn dpdk_packet() {
    let wanted = [(NEAR, "net_af_packet0,iface=near"), (FAR, "net_af_packet1,iface=far")];
    let plans = wanted.map(|(mac, device)| {
        let wanted = Interface { attachment: Attachment::Device(device.to_owned()), ..interface(mac, 1) };
        plan(&wanted).expect("the driver is there")
    });
    let [near, far] = start(&plans);
    let mut pair = pair(near, far);
    suite::run(&mut pair);
    own_frames_are_dropped(&mut pair);
    sleeping::measure(pair);
}

/// With a queueing discipline that lets nothing through, the transmit ring fills up and stays full.
pub(crate) fn dpdk_packet_stalled() {
    // On two CPUs a queueing discipline reorders what it holds back and what comes by meanwhile.
    let mut allowed = sched_getaffinity(None).expect("our own affinity");
    let first = (0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).expect("we run somewhere");
    allowed.clear();
    allowed.set(first);
    sched_setaffinity(None, &allowed).expect("one of our CPUs");
    let arguments = "net_af_packet9,iface=near,qpairs=1,qdisc_bypass=0,framecnt=256";
    let wanted = [(NEAR, arguments), (FAR, "net_af_packet8,iface=far")]
        .map(|(mac, device)| Interface { attachment: Attachment::Device(device.to_owned()), ..interface(mac, 1) });
    let plans = wanted.map(|wanted| plan(&wanted).expect("the driver is there"));
    let [near, far] = start(&plans);
    let mut pair = pair(near, far);
    if !succeeds("tc", "qdisc add dev near root tbf rate 8kbit burst 1600 limit 4000000") {
        println!("  skipped: the kernel has no tbf");
        return;
    }
    for (round, pushes) in [(0, false), (1, true)] {
        stall(&mut pair, pushes);
        println!("  round {round} is over, pushing: {pushes}");
    }
    run("tc", "qdisc del dev near root");
    suite::run(&mut pair);
}

/// Fills the ring, which stays full for a while, and lets it go.
fn stall(pair: &mut Pair<DpdkQueue>, pushes: bool) {
    run("tc", "qdisc change dev near root tbf rate 8kbit burst 1600 limit 4000000");
    let near = &mut pair.near.queues[0];
    let (mut made, mut taken, mut refusals) = (0, 0, 0);
    let mut frames = Vec::with_capacity(32);
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        while frames.len() < 32
            && let Some(frame) = numbered(near, FAR, NEAR, made, 1500)
        {
            frames.push(frame);
            made += 1;
        }
        let called = Instant::now();
        let count = near.transmit(&mut frames);
        let has_left = pushes && near.flush();
        assert!(called.elapsed() < Duration::from_millis(500), "blocked for {:?}", called.elapsed());
        assert!(!has_left || near.unsent_bytes() > Some(0), "nothing is stalled");
        taken += count;
        refusals += u32::from(count == 0);
    }
    println!("  {taken} frames were taken, then none {refusals} times");
    assert!(refusals > 0, "the ring was never full");
    assert!(near.unsent_bytes() > Some(0), "nothing is stalled");
    // What was taken is delivered once the way is free: all of it, and none of the rest.
    near.recycle(&mut frames);
    run("tc", "qdisc change dev near root tbf rate 8gbit burst 1000000 limit 4000000");
    let mut numbers = Vec::new();
    let mut burst = Vec::with_capacity(32);
    eventually(PATIENCE, || {
        pair.far.queues[0].receive(&mut burst, 32);
        numbers.extend(burst.drain(..).filter_map(|frame| number_of(frame.bytes())));
        let is_all = near.flush() && numbers.len() >= taken;
        once(is_all, || format!("{} of {taken} frames arrived", numbers.len()))
    });
    assert!(numbers.iter().copied().eq(0..u32::try_from(taken).expect("a ring is small")), "{numbers:?}");
}

/// One end is the tap device, the other its kernel interface.
pub(crate) fn tap() {
    if !std::path::Path::new("/dev/net/tun").exists() {
        println!("  skipped: there is no /dev/net/tun");
        return;
    }
    let arguments = "net_tap0,iface=tapped,mac=fixed";
    let wanted = Interface { attachment: Attachment::Device(arguments.to_owned()), ..interface(NEAR, 1) };
    let near = plan(&wanted).expect("any device may be tried");
    let kernel = MacAddr([0x02, 0, 0, 0, 0, 3]);
    let arguments = "net_af_packet0,iface=tapped";
    let wanted = Interface { attachment: Attachment::Device(arguments.to_owned()), ..interface(kernel, 1) };
    let far = plan(&wanted).expect("any device may be tried");
    let dpdk = Dpdk::start(&[near.clone(), far.clone()]).expect("DPDK starts");
    let near = dpdk.open(&near).unwrap_or_else(|error| panic!("{error}"));
    run("ip", &format!("link set tapped address {kernel} up"));
    let far = dpdk.open(&far).expect("it is up");
    let mut pair = pair(far, near);
    suite::run(&mut pair);
    let Pair { near: far, far: near } = pair;
    assert!(near.queues[0].completes(), "its driver completes checksums");
    suite::run(&mut Pair { near, far });
}

pub(crate) fn xdp() {
    let wanted = |mac| Interface { attachment: Attachment::Kernel(Driver::AfXdp), ..interface(mac, 2) };
    // The veth has two queues at each end: one shard would leave the other unread.
    let one = Interface { shards: 1, ..wanted(NEAR) };
    assert!(matches!(plan(&one), Err(OpenError::QueuesUnread { channels: 2, .. })));
    let more = plan(&Interface { shards: 3, ..wanted(NEAR) }).expect("fewer are used");
    assert_eq!((more.queues, more.findings.len()), (2, 1));
    let plans = [NEAR, FAR].map(|mac| plan(&wanted(mac)).expect("the interfaces are there"));
    let [near, far] = start(&plans);
    let mut pair = pair(near, far);
    suite::run(&mut pair);
    drop(pair);
    let links = Command::new("ip").args(["link", "show"]).output().expect("iproute2 is installed").stdout;
    assert!(!String::from_utf8_lossy(&links).contains("xdp"), "a program is still attached");
}

/// Two processes, as `net_memif` needs: this one and its child.
pub(crate) fn memif() {
    let scratch = Scratch::new().expect("a temporary directory");
    let role = std::env::var("NIC_TEST_MEMIF").ok();
    let socket = role.clone().unwrap_or_else(|| scratch.file("memif.sock").to_string_lossy().into_owned());
    let (mac, peer, kind) = if role.is_some() { (FAR, NEAR, "client") } else { (NEAR, FAR, "server") };
    let arguments = format!("net_memif0,role={kind},socket={socket},socket-abstract=no");
    let wanted = Interface { attachment: Attachment::Device(arguments), ..interface(mac, 1) };
    let found = plan(&wanted).expect("any device may be tried");
    let dpdk = Dpdk::start(std::slice::from_ref(&found)).expect("DPDK starts");
    let mut opened = dpdk.open(&found).expect("memif needs no privilege");
    let queue = &mut opened.queues[0];
    assert!(matches!(queue.wake(), Wake::Steps));
    if role.is_some() {
        return echo(queue, peer, mac);
    }
    let program = std::env::current_exe().expect("we run");
    let mut child = Command::new("setpriv");
    child.args(["--pdeathsig", "KILL", "--"]).arg(program);
    let mut child = child_of(child, &socket);
    let frames = 1_000;
    let (mut sent, mut returned) = (0, 0);
    let mut burst = Vec::with_capacity(32);
    eventually(PATIENCE, || {
        if sent < returned + 32 && sent < frames {
            let mut one: Vec<_> = numbered(queue, peer, mac, sent, 1000).into_iter().collect();
            sent += u32::try_from(queue.transmit(&mut one)).expect("one at most");
        }
        queue.receive(&mut burst, 32);
        for frame in burst.drain(..) {
            assert_eq!(number_of(frame.bytes()), Some(returned), "memif loses nothing within its ring");
            returned += 1;
        }
        once(returned >= frames, || format!("{returned} of {frames} frames came back"))
    });
    child.kill().expect("it is our child");
    child.wait().expect("it is our child");
}

fn child_of(mut command: Command, socket: &str) -> std::process::Child {
    command.env("NIC_TEST_MEMIF", socket).env("NIC_TEST_DEVICE", "memif").spawn().expect("setpriv is installed")
}

/// Returns every frame to its sender, until killed.
fn echo(queue: &mut DpdkQueue, to: MacAddr, from: MacAddr) {
    let mut burst = Vec::with_capacity(32);
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        queue.receive(&mut burst, 32);
        for frame in &mut burst {
            frame.bytes_mut()[..6].copy_from_slice(&to.0);
            frame.bytes_mut()[6..12].copy_from_slice(&from.0);
        }
        queue.transmit(&mut burst);
        thread::yield_now();
    }
}

/// Where the kernel of the near end sends from, and to.
const KERNEL_PORT: u16 = 7_777;

/// A datagram that the kernel of the near end has sent by the interface, and the far end has received.
fn send_from_the_kernel<Q: NicQueue>(pair: &mut Pair<Q>) {
    run("ip", "address replace 198.18.7.1/24 dev near");
    run("ip", &format!("neighbor replace 198.18.7.2 lladdr {FAR} dev near"));
    let kernel = UdpSocket::bind(("198.18.7.1", KERNEL_PORT)).expect("the address was added");
    kernel.send_to(b"from the kernel", ("198.18.7.2", KERNEL_PORT)).expect("the neighbor is known");
    let mut burst = Vec::with_capacity(32);
    eventually(PATIENCE, || {
        burst.clear();
        pair.far.queues[0].receive(&mut burst, 32);
        let is_there = burst.iter().any(|frame: &Q::Frame| is_from_the_kernel(frame.bytes()));
        is_there.then_some(()).ok_or("the far end never saw it")
    });
}

fn is_from_the_kernel(bytes: &[u8]) -> bool {
    bytes.get(36..38) == Some(&KERNEL_PORT.to_be_bytes())
}

/// The kernel's own datagrams leave by the interface, and are not shown as received.
fn own_frames_are_dropped(pair: &mut Pair<DpdkQueue>) {
    let before = pair.near.queues[0].drops().own;
    send_from_the_kernel(pair);
    let near = &mut pair.near.queues[0];
    let mut burst = Vec::with_capacity(32);
    eventually(PATIENCE, || {
        near.receive(&mut burst, 32);
        assert!(!burst.iter().any(|frame| is_from_the_kernel(frame.bytes())), "the kernel's own frame was received");
        near.recycle(&mut burst);
        (near.drops().own != before).then_some(()).ok_or("the near end never dropped it")
    });
}

/// The same where the kernel sorts them out itself.
fn own_frames_are_not_received(pair: &mut Pair<PacketQueue>) {
    send_from_the_kernel(pair);
    // Behind it comes one that is received.
    let near = pair.near.capabilities.mac;
    let far = &mut pair.far.queues[0];
    let mut frames = vec![numbered(far, near, FAR, 1, 60).expect("a frame")];
    suite::send_all(far, &mut frames);
    let mut burst = Vec::with_capacity(32);
    eventually(PATIENCE, || {
        pair.near.queues[0].receive(&mut burst, 32);
        let is_there = burst.iter().any(|frame: &packet::PacketFrame| number_of(frame.bytes()) == Some(1));
        is_there.then_some(()).ok_or("the near end never saw it")
    });
    assert!(!burst.iter().any(|frame| is_from_the_kernel(frame.bytes())), "the kernel's own frame was received");
}

/// A shard may still hold frames when its socket is closed.
fn frames_outlive_their_socket() {
    let [mut near, far] = packet_sockets([interface(NEAR, 1), interface(FAR, 1)], None);
    let mut frame = numbered(&mut near.queues[0], FAR, NEAR, 7, 100).expect("a frame");
    drop((near, far));
    assert_eq!(number_of(frame.bytes()), Some(7));
    frame.set_len(0);
}

/// With an address the kernel shows ARP, and IPv4 to that address, and nothing else.
fn only_what_is_for_us_is_received() {
    let wanted = [interface(NEAR, 1), interface(FAR, 1)];
    let [mut near, mut far] = packet_sockets(wanted, Some(suite::DESTINATION_IP));
    let (near, far) = (&mut near.queues[0], &mut far.queues[0]);
    let mut to_us = suite::datagram(near, FAR, NEAR, 1);
    let mut to_others = suite::datagram(near, FAR, NEAR, 2);
    to_others.bytes_mut()[33] += 1;
    let mut arp = suite::datagram(near, FAR, NEAR, 3);
    arp.bytes_mut()[12..14].copy_from_slice(&[8, 6]);
    let experiment = numbered(near, FAR, NEAR, 4, 60).expect("a frame");
    to_us.bytes_mut()[59] = 1;
    arp.bytes_mut()[59] = 2;
    suite::send_all(near, &mut vec![experiment, to_others, to_us, arp]);
    let mut burst = Vec::with_capacity(8);
    eventually(PATIENCE, || {
        far.receive(&mut burst, 8);
        once(burst.len() >= 2, || format!("{} of 2 frames arrived", burst.len()))
    });
    assert_eq!(burst.iter().map(|frame| frame.bytes()[59]).collect::<Vec<_>>(), [1, 2]);
}

/// A tag that names a VLAN is counted; one that does not is taken away.
fn vlans_are_told_apart() {
    let [mut near, mut far] = packet_sockets([interface(NEAR, 1), interface(FAR, 1)], Some(suite::DESTINATION_IP));
    let (near, far) = (&mut near.queues[0], &mut far.queues[0]);
    let mut tagged = |number, tag: [u8; 2]| {
        let mut frame = suite::datagram(near, FAR, NEAR, number);
        let bytes = [&frame.bytes()[..12], &[0x81, 0], &tag, &frame.bytes()[12..]].concat();
        frame.set_len(bytes.len());
        frame.bytes_mut().copy_from_slice(&bytes);
        frame
    };
    let mut frames = vec![tagged(1, [0, 7]), tagged(2, [0x60, 0])];
    let expected = [&frames[1].bytes()[..12], &frames[1].bytes()[16..]].concat();
    suite::send_all(near, &mut frames);
    let mut burst = Vec::with_capacity(8);
    eventually(PATIENCE, || {
        far.receive(&mut burst, 8);
        once(!burst.is_empty(), || "nothing arrived".to_owned())
    });
    assert_eq!(burst.iter().map(Frame::bytes).collect::<Vec<_>>(), [&expected[..]]);
    assert_eq!((far.drops().other_vlan, far.drops().own), (1, 0));
}

/// Two joined interfaces, of which the kernel shows IP packets to this address only, if it is given.
fn packet_sockets(wanted: [Interface; 2], ip: Option<Ipv4Addr>) -> [OpenDevice<PacketQueue>; 2] {
    wanted.map(|wanted| {
        let plan = plan(&wanted).expect("the interfaces are there");
        let Backend::AfPacket { interface } = &plan.backend else { panic!("not a kernel interface: {plan}") };
        let opened = packet::open(&plan, interface, ip).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(opened.capabilities.queues, wanted.shards);
        assert!(opened.capabilities.link_up);
        opened
    })
}

pub(crate) fn interface(mac: MacAddr, shards: u16) -> Interface {
    Interface { shards, ..Interface::new(mac, Ipv4Addr::new(198, 18, 8, mac.0[5]).into()) }
}

/// What a configuration may name in DPDK's own words.
fn dpdk_device(arguments: &str) -> Backend {
    Backend::Dpdk(DpdkDevice::Arguments(arguments.to_owned()))
}

fn start(plans: &[DevicePlan; 2]) -> [OpenDevice<DpdkQueue>; 2] {
    let dpdk = Dpdk::start(plans).expect("DPDK starts");
    plans.each_ref().map(|plan| {
        let opened = dpdk.open(plan).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(opened.capabilities.queues, plan.queues);
        assert!(opened.capabilities.link_up);
        opened
    })
}

fn pair<Q>(near: OpenDevice<Q>, far: OpenDevice<Q>) -> Pair<Q> {
    let end = |opened: OpenDevice<Q>| End { capabilities: opened.capabilities, queues: opened.queues };
    Pair { near: end(near), far: end(far) }
}

/// In a namespace of our own: two interfaces, joined, without a kernel that talks by itself.
pub(crate) fn join_near_and_far(mtu_bytes: u16) {
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    let queues = format!("mtu {mtu_bytes} numrxqueues 2 numtxqueues 2");
    run("ip", &format!("link add name near address {NEAR} {queues} type veth peer name far address {FAR} {queues}"));
    run("ip", "link set near up");
    run("ip", "link set far up");
}

pub(crate) fn run(program: &str, arguments: &str) {
    assert!(succeeds(program, arguments), "{program} {arguments}");
}

fn succeeds(program: &str, arguments: &str) -> bool {
    Command::new(program).args(arguments.split(' ')).status().expect("iproute2 is installed").success()
}
