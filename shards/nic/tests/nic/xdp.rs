//! XDP programs that are at an interface before ours.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use machnet_config::{Attachment, Config, Driver, Interface};
use machnet_nic::devices::{DevicesError, open_all, plan_all, survey_all};
use machnet_nic::dpdk::Dpdk;
use machnet_nic::error::OpenError;
use machnet_nic::plan::plan;
use machnet_nic::survey::Finding;
use machnet_test_kit::waiting::eventually;
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};
use rustix::fd::{AsRawFd, FromRawFd, OwnedFd};
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketType};

use crate::devices::{NEAR, interface, run};

/// Set for another process that opens an interface, to one of the next two.
pub(crate) const OTHER: &str = "NIC_TEST_XDP_OTHER";
/// It knows nothing of our lock.
const STRANGER: &str = "stranger";
/// It does as a daemon.
const DAEMON: &str = "daemon";

/// A program of somebody else's stays where it is, whoever he is; one that a killed process left behind is taken over.
pub(crate) fn programs_of_others() {
    let config = config();
    attach("near", &load("firewall"));
    let stays = program();
    let refused = refusal(&config);
    assert!(refused.contains("(firewall) at near is not ours") && refused.contains(&stays), "{refused}: {stays}");
    assert!(refused.contains("`ip link set near xdp off`"), "{refused}");
    assert_eq!(program(), stays, "a refused start leaves everything as it was");

    for (who, sentence) in [(STRANGER, "(xsk_def_prog) at near is not ours"), (DAEMON, "owns the interface near")] {
        run("ip", "link set near xdp off");
        let mut other = another(who);
        let theirs = program();
        let refused = refusal(&config);
        assert!(refused.contains(sentence), "{refused}");
        assert_eq!(program(), theirs, "a refused start leaves everything as it was");
        assert!(other.try_wait().expect("it is our child").is_none(), "the other one goes on");
        other.kill().expect("it is our child");
        other.wait().expect("it is our child");
        assert_eq!(program(), theirs, "nobody has taken it away");
    }

    let plans = plan_all(&config).expect("the interface is there");
    let opened = open_all(&config, &plans).unwrap_or_else(|error| panic!("{error}"));
    drop(opened);
    assert_eq!(program(), "", "ours goes with us");
}

fn config() -> Config {
    let interface = r#"{"ip": "10.0.0.1", "engine_threads": 2, "driver": "af_xdp"}"#;
    let text = format!(r#"{{"machnet_config": {{"{NEAR}": {interface}}}}}"#);
    Config::parse(Path::new("config.json"), text.as_bytes()).expect("a configuration")
}

/// Why a daemon with this configuration does not start, which a look around says, too.
fn refusal(config: &Config) -> String {
    let plans = plan_all(config).expect("the interface is there");
    let found = survey_all(config, &plans).expect("anybody may look").remove(0);
    let DevicesError::Device { source, .. } = open_all(config, &plans).expect_err("a program is in the way") else {
        panic!("the configuration is right")
    };
    assert!(matches!(source, OpenError::Found(Finding::ForeignXdp { .. } | Finding::Owned { .. })), "{source}");
    assert_eq!(source, found[0].clone().into());
    source.to_string()
}

/// What `ip` shows of a program at `near`: its number; nothing if there is none.
fn program() -> String {
    let shown = Command::new("ip").args(["-d", "link", "show", "near"]).output().expect("iproute2 is installed").stdout;
    let shown = String::from_utf8_lossy(&shown).into_owned();
    let number = shown.split_once("prog/xdp id ").and_then(|(_, rest)| rest.split_whitespace().next());
    number.unwrap_or_default().to_owned()
}

/// Another process that has XDP sockets at `near`.
fn another(who: &str) -> std::process::Child {
    let this = std::env::current_exe().expect("we run");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(this).env(OTHER, who);
    let other = command.spawn().expect("setpriv is installed");
    eventually(Duration::from_secs(20), || {
        (!program().is_empty()).then_some(()).ok_or("it does not open the interface")
    });
    other
}

/// Opens `near`, as who `OTHER` says, and keeps it until killed.
pub(crate) fn be_another() {
    if std::env::var(OTHER).is_ok_and(|who| who == DAEMON) {
        let config = config();
        let plans = plan_all(&config).expect("the interface is there");
        let _opened = open_all(&config, &plans).unwrap_or_else(|error| panic!("{error}"));
        thread::sleep(Duration::from_secs(60));
    }
    let attachment = Attachment::Kernel(Driver::AfXdp);
    let plan = plan(&Interface { attachment, ..interface(NEAR, 2) }).expect("the interface is there");
    let dpdk = Dpdk::start(std::slice::from_ref(&plan)).expect("DPDK starts");
    let _opened = dpdk.open(&plan).unwrap_or_else(|error| panic!("{error}"));
    thread::sleep(Duration::from_secs(60));
}

/// A program that lets all frames pass.
fn load(name: &str) -> OwnedFd {
    const BPF_PROG_LOAD: libc::c_long = 5;
    const BPF_PROG_TYPE_XDP: u32 = 6;
    /// `r0 = XDP_PASS; exit` (`struct bpf_insn`).
    const PASS: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 2, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
    /// The beginning of `union bpf_attr` for this command.
    #[repr(C)]
    struct Load {
        kind: u32,
        instructions: u32,
        at: u64,
        license: u64,
        log_level: u32,
        log_bytes: u32,
        log: u64,
        kernel: u32,
        flags: u32,
        name: [u8; 16],
    }
    let mut load = Load {
        kind: BPF_PROG_TYPE_XDP,
        instructions: 2,
        at: PASS.as_ptr().expose_provenance() as u64,
        license: c"MIT".as_ptr().expose_provenance() as u64,
        log_level: 0,
        log_bytes: 0,
        log: 0,
        kernel: 0,
        flags: 0,
        name: [0; 16],
    };
    load.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the attributes and what they point to live during the call, with the lengths they say.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<Load>()) };
    assert!(fd >= 0, "root may load a program: {}", std::io::Error::last_os_error());
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows its number.
    unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).expect("a descriptor")) }
}

/// Puts a program at an interface, where it stays.
fn attach(interface: &str, program: &OwnedFd) {
    let mut link = LinkMessage::default();
    let program = vec![LinkXdp::Fd(program.as_raw_fd()), LinkXdp::Flags(0)];
    link.attributes = vec![LinkAttribute::IfName(interface.to_owned()), LinkAttribute::Xdp(program)];
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let payload = NetlinkPayload::InnerMessage(RouteNetlinkMessage::SetLink(link));
    let mut message = NetlinkMessage::new(header, payload);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let socket = net::socket(AddressFamily::NETLINK, SocketType::RAW, None).expect("a socket");
    net::send(&socket, &bytes, SendFlags::empty()).expect("the kernel listens");
    let mut answer = [0; 4096];
    let (len, _) = net::recv(&socket, &mut answer[..], RecvFlags::empty()).expect("the kernel answers");
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer[..len]).expect("an answer");
    let NetlinkPayload::Error(answer) = answer.payload else { panic!("{answer:?}") };
    assert_eq!(answer.code, None, "root may attach a program: {}", answer.to_io());
}
