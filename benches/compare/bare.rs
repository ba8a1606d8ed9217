//! The lower bound for `benches/compare`: frames over the same device without any protocol.
//!
//! ```text
//! bare MAC DEVICE MTU echo                                  returns every frame to its sender, until it is killed
//! bare MAC DEVICE MTU call MAC SECONDS SIZE:WINDOW ...      measures each load, and prints a line of JSON for each
//! bare MAC DEVICE MTU flood MAC IP PER_SECOND SECONDS       asks that host for its MAC and pings it, in turn
//! ```
//!
//! DEVICE: DPDK's device arguments, or `kernel` for the interface with this MAC. A message is as many full frames
//! as machnet-shards needs for it, with the same bytes of headers; nothing is checked or repeated, and both sides look
//! for frames without sleeping.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use machnet_config::{Attachment, Interface};
use machnet_core::addr::MacAddr;
use machnet_nic::backend::Backend;
use machnet_nic::dpdk::Dpdk;
use machnet_nic::packet;
use machnet_nic::plan::plan;
use machnet_nic::{ETHERNET_HEADER_BYTES, Frame, NicQueue};
use machnet_proto::addr::FlowKey;
use machnet_proto::dialect::HEADER_BYTES;
use machnet_proto::wire::frame::{HEADERS_BYTES, Template};
use machnet_proto::wire::{arp, icmp};
use serde_json::json;
use std::net::Ipv4Addr;

/// Bytes of a frame before the message, as machnet-shards has them.
const BEFORE_MESSAGE_BYTES: usize = HEADERS_BYTES + HEADER_BYTES;
/// What a piece of a message begins with: when the message's first frame was sent, and whether this is the last frame.
const STAMP_BYTES: usize = 8;
/// Frames on their way at a time, as with machnet-shards.
const IN_FLIGHT_MAX: usize = 192;
const BURST_FRAMES: usize = 32;
/// Frames that have not come back after this long are lost.
const LOST_AFTER: Duration = Duration::from_millis(20);
/// How long the client waits for the first frame to come back: devices connect and come up.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [mac, device, mtu, part @ ("echo" | "call" | "flood"), ref rest @ ..] = arguments[..] else {
        panic!("bare MAC DEVICE MTU echo|call|flood ...");
    };
    let mtu_bytes: u16 = mtu.parse().unwrap();
    let mac = parse_mac(mac);
    let attachment = match device {
        "kernel" => Attachment::Found,
        device => Attachment::Device(device.to_owned()),
    };
    // Its address is of no matter: whatever comes is received.
    let interface = Interface::new(mac, Ipv4Addr::UNSPECIFIED.into());
    let interface = Interface { attachment, mtu_bytes: Some(mtu_bytes), ..interface };
    let part = Part { name: part, mac, mtu_bytes, rest };
    let plan = plan(&interface).unwrap_or_else(|error| panic!("{error}"));
    match &plan.backend {
        Backend::AfPacket { interface } => {
            let mut opened = packet::open(&plan, interface, None).unwrap_or_else(|error| panic!("{error}"));
            part.run(opened.queues.remove(0));
        }
        Backend::Dpdk(_) => {
            let dpdk = Dpdk::start(std::slice::from_ref(&plan)).unwrap_or_else(|error| panic!("{error}"));
            let mut opened = dpdk.open(&plan).unwrap_or_else(|error| panic!("{error}"));
            part.run(opened.queues.remove(0));
        }
    }
}

/// What is to be done with a queue.
struct Part<'a> {
    name: &'a str,
    mac: MacAddr,
    mtu_bytes: u16,
    rest: &'a [&'a str],
}

impl Part<'_> {
    fn run<Q: NicQueue>(self, mut queue: Q) {
        queue.enter_thread();
        let Self { name, mac, mtu_bytes, rest } = self;
        match (name, rest) {
            ("echo", []) => echo(&mut queue, mac),
            ("flood", [peer, ip, per_second, seconds]) => {
                let (peer, ip) = (parse_mac(peer), ip.parse().unwrap());
                flood(&mut queue, (mac, peer, ip), per_second.parse().unwrap(), seconds.parse().unwrap());
            }
            ("call", [peer, seconds, loads @ ..]) => {
                let length = Duration::from_secs_f64(seconds.parse().unwrap());
                let max_payload_bytes = ETHERNET_HEADER_BYTES + usize::from(mtu_bytes) - BEFORE_MESSAGE_BYTES;
                let mut client = Client::new(queue, mac, parse_mac(peer), max_payload_bytes);
                client.connect();
                for load in loads {
                    let (size, window) = load.split_once(':').unwrap();
                    println!("{}", client.measure(size.parse().unwrap(), window.parse().unwrap(), length));
                }
            }
            _ => panic!("bare: other arguments are wanted"),
        }
    }
}

fn parse_mac(text: &str) -> MacAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no MAC"))
}

/// Returns every frame that is for us to its sender.
fn echo<Q: NicQueue>(queue: &mut Q, mac: MacAddr) -> ! {
    let mut burst = Vec::with_capacity(BURST_FRAMES);
    loop {
        let room = BURST_FRAMES - burst.len();
        queue.receive(&mut burst, room);
        burst.retain_mut(|frame: &mut Q::Frame| {
            let bytes = frame.bytes_mut();
            if bytes[..6] == mac.0 {
                bytes.copy_within(6..12, 0);
                bytes[6..12].copy_from_slice(&mac.0);
            }
            // What the device did not take before is turned round already.
            bytes[6..12] == mac.0
        });
        if burst.is_empty() || queue.transmit(&mut burst) == 0 {
            std::thread::yield_now();
        }
    }
}

/// Sends requests of ARP and ICMP to a host, for `seconds`, in small bursts at a steady pace; then prints how many.
fn flood<Q: NicQueue>(queue: &mut Q, (mac, peer, ip): (MacAddr, MacAddr, Ipv4Addr), per_second: u32, seconds: f64) {
    // An address of nobody, so that no kernel answers for it.
    let ours = Ipv4Addr::new(198, 18, 0, 1);
    let ask = arp::ArpPacket::request(mac, ours, ip).frame(MacAddr([0xff; 6])).to_vec();
    let mut ping = vec![0; 64];
    icmp::EchoRequest {
        source_mac: mac,
        destination_mac: peer,
        source_ip: ours,
        destination_ip: ip,
        identifier: 1,
        sequence: 1,
    }
    .write(&mut ping);
    let frames = [ask, ping];
    let pause = Duration::from_secs_f64(BURST_FRAMES as f64 / f64::from(per_second));
    let (started, mut sent, mut bursts) = (Instant::now(), 0, 0);
    let (mut burst, mut arrived) = (Vec::with_capacity(BURST_FRAMES), Vec::with_capacity(BURST_FRAMES));
    while started.elapsed().as_secs_f64() < seconds {
        while burst.len() < BURST_FRAMES {
            let Some(mut frame) = queue.allocate() else { break };
            let bytes = &frames[burst.len() % frames.len()];
            frame.set_len(bytes.len());
            frame.bytes_mut().copy_from_slice(bytes);
            burst.push(frame);
        }
        sent += queue.transmit(&mut burst);
        while queue.receive(&mut arrived, BURST_FRAMES) > 0 {
            queue.recycle(&mut arrived);
        }
        bursts += 1;
        std::thread::sleep((pause * bursts).saturating_sub(started.elapsed()));
    }
    println!("{}", json!({ "sent": sent, "seconds": started.elapsed().as_secs_f64() }));
}

/// Sends messages and takes their answers.
struct Client<Q: NicQueue> {
    queue: Q,
    mac: MacAddr,
    template: Template,
    max_payload_bytes: usize,
    started: Instant,
    /// Filled, and not yet taken by the device.
    outgoing: Vec<Q::Frame>,
    arrived: Vec<Q::Frame>,
    in_flight: usize,
    last_arrival: Instant,
}

/// One load under way.
struct Load {
    frames_per_message: usize,
    /// Bytes of the last frame of a message, and of all others.
    last_bytes: usize,
    in_flight_max: usize,
    /// The frame of its message that is sent next, and when the first one was.
    next: usize,
    stamp: u64,
    sent: u64,
    received: u64,
    frames_received: u64,
    histogram: Histogram<u64>,
}

impl<Q: NicQueue> Client<Q> {
    fn new(queue: Q, mac: MacAddr, peer: MacAddr, max_payload_bytes: usize) -> Self {
        // Addresses of nobody, so that no kernel answers.
        let ip = |last| Ipv4Addr::new(198, 18, 0, last);
        let key = FlowKey { local_ip: ip(1), remote_ip: ip(2), local_port: 7_777, remote_port: 7_777 };
        let now = Instant::now();
        let template = Template::new(mac, peer, &key);
        let burst = || Vec::with_capacity(BURST_FRAMES);
        let (outgoing, arrived) = (burst(), burst());
        Self {
            queue,
            mac,
            template,
            max_payload_bytes,
            started: now,
            outgoing,
            arrived,
            in_flight: 0,
            last_arrival: now,
        }
    }

    /// Sends single frames until one comes back.
    fn connect(&mut self) {
        let mut load = Load::new(64, 1, self.max_payload_bytes);
        while load.frames_received == 0 {
            assert!(self.started.elapsed() < CONNECT_LIMIT, "nobody returns frames");
            self.send(&mut load);
            self.receive(&mut load);
        }
        self.finish(&mut load);
    }

    fn measure(&mut self, size: usize, window: usize, length: Duration) -> serde_json::Value {
        let mut load = Load::new(size, window, self.max_payload_bytes);
        let started = Instant::now();
        while started.elapsed() < length {
            self.send(&mut load);
            self.receive(&mut load);
        }
        let seconds = started.elapsed().as_secs_f64();
        let messages = load.frames_received as f64 / load.frames_per_message as f64;
        self.finish(&mut load);
        let us = |quantile| load.histogram.value_at_quantile(quantile) as f64 / 1e3;
        json!({
            "msg_size": size,
            "msg_window": window,
            "seconds": seconds,
            "sent": load.sent,
            "received": load.received,
            "errors": 0,
            "msgs_per_s": messages / seconds,
            "gbps": messages / seconds * size as f64 * 8.0 / 1e9,
            "rtt_us": { "p50": us(0.5), "p99": us(0.99), "p99_9": us(0.999), "max": us(1.0) },
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).expect("no run takes 584 years")
    }

    /// Sends until the window is full or the device takes no more.
    fn send(&mut self, load: &mut Load) {
        while self.in_flight + self.outgoing.len() < load.in_flight_max && self.outgoing.len() < BURST_FRAMES {
            let Some(mut frame) = self.queue.allocate() else { break };
            if load.next == 0 {
                load.stamp = self.now();
                load.sent += 1;
            }
            let is_last = load.next + 1 == load.frames_per_message;
            let payload_bytes = if is_last { load.last_bytes } else { self.max_payload_bytes };
            frame.set_len(BEFORE_MESSAGE_BYTES + payload_bytes);
            self.template.write(frame.bytes_mut());
            let payload = &mut frame.bytes_mut()[BEFORE_MESSAGE_BYTES..];
            let stamp = load.stamp << 1 | u64::from(is_last);
            payload[..STAMP_BYTES].copy_from_slice(&stamp.to_le_bytes());
            load.next = if is_last { 0 } else { load.next + 1 };
            self.outgoing.push(frame);
        }
        self.in_flight += self.queue.transmit(&mut self.outgoing);
    }

    /// Takes what has come back; what has not in time never will.
    fn receive(&mut self, load: &mut Load) {
        let received = self.queue.receive(&mut self.arrived, BURST_FRAMES);
        let now = self.now();
        for frame in &self.arrived {
            let Some(payload) = frame.bytes().get(BEFORE_MESSAGE_BYTES..).filter(|_| frame.bytes()[..6] == self.mac.0)
            else {
                continue;
            };
            let Some(stamp) = payload.first_chunk().copied().map(u64::from_le_bytes) else { continue };
            load.frames_received += 1;
            if stamp & 1 == 1 {
                load.received += 1;
                load.histogram.record(now.saturating_sub(stamp >> 1)).expect("the histogram grows");
            }
            self.in_flight = self.in_flight.saturating_sub(1);
            self.last_arrival = Instant::now();
        }
        self.queue.recycle(&mut self.arrived);
        if received == 0 {
            if self.in_flight > 0 && self.last_arrival.elapsed() > LOST_AFTER {
                self.in_flight = 0;
                self.last_arrival = Instant::now();
            }
            std::thread::yield_now();
        }
    }

    /// Waits for what is still on its way.
    fn finish(&mut self, load: &mut Load) {
        while self.in_flight > 0 {
            self.receive(load);
        }
    }
}

impl Load {
    fn new(size: usize, window: usize, max_payload_bytes: usize) -> Self {
        let frames_per_message = size.div_ceil(max_payload_bytes);
        Self {
            frames_per_message,
            last_bytes: (size - (frames_per_message - 1) * max_payload_bytes).max(STAMP_BYTES),
            in_flight_max: (window * frames_per_message).min(IN_FLIGHT_MAX),
            next: 0,
            stamp: 0,
            sent: 0,
            received: 0,
            frames_received: 0,
            histogram: Histogram::new(3).expect("three digits are allowed"),
        }
    }
}
