//! `config.json` as its users meet it: what is accepted, and the one sentence for every mistake.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use machnet_config::reference::{self, Key, Section};
use machnet_config::{
    Attachment, Config, ConfigError, ControlSocket, CpuMask, Driver, Interface, Limits, Subnet, cpus,
};
use machnet_core::addr::MacAddr;
use machnet_core::wait::Policy;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("here.json"), text.as_bytes())
}

/// A file with one interface that has `keys` besides its address.
fn one_interface(keys: &str) -> String {
    let comma = if keys.is_empty() { "" } else { ", " };
    format!(r#"{{"machnet_config": {{"02:00:00:00:00:01": {{"ip": "10.0.255.10"{comma}{keys}}}}}}}"#)
}

fn interface(keys: &str) -> Interface {
    parse(&one_interface(keys)).unwrap().interfaces.remove(0)
}

#[test]
fn the_smallest_file_has_the_defaults() {
    let config = parse(&one_interface("")).unwrap();
    let expected = Interface {
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        ip: IpAddr::from([10, 0, 255, 10]),
        shards: 1,
        cpu_mask: None,
        shard_cpus: vec![],
        attachment: Attachment::Found,
        mtu_bytes: None,
        subnet: None,
        poll: Policy::Adaptive,
        faults: None,
    };
    assert_eq!(Interface::new(expected.mac, expected.ip), expected);
    assert_eq!(config.interfaces, [expected]);
    assert_eq!(config.control, ControlSocket::default());
    assert_eq!(config.limits, Limits::default());
}

#[test]
fn a_file_of_machnet_is_read_as_it_is() {
    let file = r#"{"machnet_config": {"60:45:BD:0f:d7:6e": {"ip": "10.0.255.100", "engine_threads": "2",
        "cpu_mask": "0xfff0000000000000000000000000000000f", "pcie": "0000:01:00.0"}}}"#;
    let interface = parse(file).unwrap().interfaces.remove(0);
    assert_eq!(interface.mac.to_string(), "60:45:bd:0f:d7:6e");
    assert_eq!(interface.shards, 2);
    assert_eq!(interface.cpu_mask.unwrap().ranges(), "0-3,128-139");
    assert_eq!(interface.attachment, Attachment::Pci("0000:01:00.0".to_owned()));
}

#[test]
fn every_key_of_ours_is_read() {
    let keys = r#""driver": "af_xdp", "mtu": 9000, "prefix": "16", "gateway": "10.0.0.1", "poll": "busy""#;
    let full = interface(keys);
    assert_eq!(full.attachment, Attachment::Kernel(Driver::AfXdp));
    assert_eq!(full.mtu_bytes, Some(9000));
    assert_eq!(full.subnet, Some(Subnet { prefix_bits: 16, gateway: Some(IpAddr::from([10, 0, 0, 1])) }));
    assert_eq!(full.poll, Policy::Busy);
    assert_eq!(interface(r#""device": "net_tap0""#).attachment, Attachment::Device("net_tap0".to_owned()));
    assert_eq!(interface(r#""pcie": "3b:00.1""#).attachment, Attachment::Pci("3b:00.1".to_owned()));
}

#[test]
fn faults_are_rates_in_percent() {
    let faults = interface(r#""faults": {"loss_percent": 1, "reordering_percent": 0.25, "seed": 7}"#).faults.unwrap();
    assert_eq!((faults.loss.probability(), faults.reordering.probability(), faults.seed), (0.01, 0.0025, 7));
    assert_eq!((faults.duplication.probability(), faults.corruption.probability()), (0.0, 0.0));
    let all = interface(r#""faults": {"duplication_percent": 100, "corruption_percent": 0.0001}"#).faults.unwrap();
    assert_eq!((all.duplication.probability(), all.corruption.probability(), all.seed), (1.0, 0.000_001, 1));
    // What strikes nothing is no fault.
    for nothing in ["{}", r#"{"loss_percent": 0, "seed": 3}"#, r#"{"loss_percent": 0.0}"#] {
        assert_eq!(interface(&format!("\"faults\": {nothing}")).faults, None, "{nothing}");
    }
}

#[test]
fn a_mistake_in_faults_is_one_sentence() {
    let percent = "write a number from 0 to 100, such as 0.5";
    for (key, value, shown, remedy) in [
        ("loss_percent", "-1", "-1", percent),
        ("duplication_percent", "100.1", "100.1", percent),
        ("reordering_percent", "\"1\"", "\"1\"", percent),
        ("corruption_percent", "null", "null", percent),
        ("seed", "0.5", "0.5", "write a whole number from 0 to 18446744073709551615"),
    ] {
        let sentence = format!("here.json: machnet_config.\"02:00:00:00:00:01\".faults.{key} is {shown}: {remedy}");
        assert_sentence(&one_interface(&format!("\"faults\": {{\"{key}\": {value}}}")), &sentence);
    }
    assert_sentence(
        &one_interface("\"faults\": 1"),
        "here.json: machnet_config.\"02:00:00:00:00:01\".faults is 1: write an object, { ... }",
    );
}

/// The file in the repository is the documentation: it shows every key, and the daemon-wide ones with their defaults.
#[test]
fn the_file_in_the_repository_is_true_and_complete() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.json");
    let config = Config::load(&file).unwrap();
    assert_eq!(config.limits, Limits::default());
    assert!(config.confine);
    assert_eq!(config.control, ControlSocket { group: Some("machnet".to_owned()), ..ControlSocket::default() });

    let text = std::fs::read_to_string(&file).unwrap();
    for Key { section, name, .. } in reference::keys() {
        assert!(text.contains(&format!("\"{name}\": ")), "config.json does not show the {section:?} key {name}");
    }
}

/// What an error calls the known keys is the table's, too.
#[test]
fn an_unknown_key_is_told_the_keys_of_the_table() {
    for (section, unknown) in [
        (Section::File, r#"{"?": 0}"#.to_owned()),
        (Section::Interface, one_interface(r#""?": 0"#)),
        (Section::Faults, one_interface(r#""faults": {"?": 0}"#)),
        (Section::Daemon, with_settings(r#""?": 0"#)),
    ] {
        let keys = reference::keys();
        let known: Vec<_> = keys.iter().filter(|key| key.section == section).map(|key| key.name).collect();
        let sentence = parse(&unknown).unwrap_err().to_string();
        let end = format!("\"?\" is not a key: remove it, or use one of {}", known.join(", "));
        assert!(!known.is_empty() && sentence.ends_with(&end), "{sentence}");
    }
}

/// What the table shows is accepted.
#[test]
fn every_example_could_stand_there() {
    for Key { section, name, example, help, kind, .. } in reference::keys() {
        let entry = format!("\"{name}\": {example}");
        let file = match (section, name) {
            (Section::File, "machnet_shards") => {
                format!("{{{}, {entry}}}", &one_interface("")[1..].strip_suffix('}').unwrap())
            }
            (Section::File, _) => format!("{{{entry}}}"),
            (Section::Interface, "ip") => format!(r#"{{"machnet_config": {{"02:00:00:00:00:01": {{{entry}}}}}}}"#),
            (Section::Interface, "gateway") => one_interface(&format!("\"prefix\": 24, {entry}")),
            (Section::Interface, _) => one_interface(&entry),
            (Section::Faults, _) => one_interface(&format!("\"faults\": {{{entry}}}")),
            (Section::Daemon, _) => with_settings(&entry),
        };
        parse(&file).unwrap_or_else(|mistake| panic!("{mistake}"));
        assert!(help.ends_with('.') && !kind.is_empty(), "{name}: {help}");
    }
}

/// The page of the manual is printed from the table.
#[test]
fn the_reference_of_keys_is_up_to_date() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("shards/src/manual/configuration.md");
    let page = reference::markdown();
    if std::env::var_os("MACHNET_TEST_RENEW").is_some_and(|value| value == "1") {
        std::fs::write(&file, &page).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    let renew = "renew it with MACHNET_TEST_RENEW=1 cargo test --test config";
    assert!(written == page, "{} is not what the table of keys says: {renew}", file.display());
}

#[test]
fn a_configuration_is_written_as_it_can_be_read() {
    let file = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config.json")).unwrap();
    let faulty = r#""faults": {"loss_percent": 0.0001, "corruption_percent": 33.3333, "seed": 18446744073709551615}"#;
    for text in [
        one_interface(""),
        one_interface(faulty),
        one_interface(r#""driver": "af_xdp", "mtu": "9000", "prefix": 16, "gateway": "10.0.0.1", "poll": "busy""#),
        one_interface(r#""engine_threads": 3, "cpu_mask": "F00000000000000000000000000000001", "pcie": "3b:00.1""#),
        with_settings(
            r#""socket": "/s", "socket_mode": "7", "socket_group": "g", "linger_ms": "0", "gone_after_ms": 3001"#,
        ),
        file,
    ] {
        let config = parse(&text).unwrap();
        let written = serde_json::to_string_pretty(&config).unwrap();
        assert_eq!(parse(&written).as_ref(), Ok(&config), "{written}");
    }
}

#[test]
fn shards_take_the_cpus_of_their_masks_in_turn() {
    let file = r#"{"machnet_config": {
        "02:00:00:00:00:01": {"ip": "10.0.0.1", "engine_threads": 2, "cpu_mask": "0x1e"},
        "02:00:00:00:00:02": {"ip": "10.0.0.2", "engine_threads": 2, "cpu_mask": "1e"},
        "02:00:00:00:00:03": {"ip": "10.0.0.3", "engine_threads": 3, "cpu_mask": "0x20"},
        "02:00:00:00:00:04": {"ip": "10.0.0.4", "engine_threads": 3}}}"#;
    let config = parse(file).unwrap();
    let cpus: Vec<_> = config.interfaces.iter().map(|interface| interface.shard_cpus.as_slice()).collect();
    assert_eq!(cpus, [&[1, 2][..], &[3, 4], &[5, 5, 5], &[]]);
}

#[test]
fn a_subnet_tells_who_is_on_the_link() {
    let local = IpAddr::from([10, 0, 255, 10]);
    let on_link = |prefix_bits, peer: [u8; 4]| Subnet { prefix_bits, gateway: None }.on_link(local, peer.into());
    assert!(on_link(24, [10, 0, 255, 255]) && !on_link(24, [10, 0, 254, 10]));
    assert!(on_link(32, [10, 0, 255, 10]) && !on_link(32, [10, 0, 255, 11]));
    assert!(on_link(1, [127, 0, 0, 1]) && !on_link(1, [128, 0, 0, 1]));

    assert!(!Subnet { prefix_bits: 1, gateway: None }.on_link(local, "a00::1".parse().unwrap()), "another family");

    let [near, far, router] = [[10, 0, 255, 11], [10, 0, 254, 10], [10, 0, 255, 1]].map(IpAddr::from);
    let next_hop = |gateway, peer| Subnet { prefix_bits: 24, gateway }.next_hop(local, peer);
    assert_eq!((next_hop(None, near), next_hop(None, far)), (Some(near), None));
    assert_eq!((next_hop(Some(router), near), next_hop(Some(router), far)), (Some(near), Some(router)));
}

fn with_settings(keys: &str) -> String {
    let interface = one_interface("");
    format!(r#"{}, "machnet_shards": {{{keys}}}}}"#, interface.strip_suffix('}').unwrap())
}

/// What goes into a file, and the whole sentence that comes out.
fn assert_sentence(text: &str, sentence: &str) {
    match parse(text) {
        Ok(_) => panic!("accepted: {text}"),
        Err(mistake) => assert_eq!(mistake.to_string(), sentence, "{text}"),
    }
}

#[test]
fn a_mistake_in_the_document_is_one_sentence() {
    for (text, sentence) in [
        ("", "here.json is not JSON (EOF while parsing a value at line 1 column 0): correct it there"),
        ("{\"machnet_config\": {},\n}", "here.json is not JSON (trailing comma at line 2 column 1): correct it there"),
        ("[]", "here.json: the document is a list: write an object, { ... }"),
        ("{}", "here.json: machnet_config is missing: give an object with one entry per interface, named by its MAC"),
        (
            r#"{"machnet_config": {}}"#,
            "here.json: machnet_config is {}: add an interface, as in \"02:00:00:00:00:01\": { \"ip\": \"10.0.255.10\" }",
        ),
        (
            r#"{"machnet_config": {}, "machnet-shards": {}}"#,
            "here.json: \"machnet-shards\" is not a key: remove it, or use one of machnet_config, machnet_shards",
        ),
        (
            r#"{"machnet_config": {}, "machnet_config": {}}"#,
            "here.json: machnet_config is there twice: keep one of the two",
        ),
    ] {
        assert_sentence(text, sentence);
    }
}

#[test]
fn a_mistake_in_a_mac_is_one_sentence() {
    let no_mac = "is no MAC: write the MAC of the interface, six bytes such as \"02:00:00:00:00:01\"";
    for (mac, complaint) in [
        ("02:00:00:00:00", no_mac),
        ("2:0:0:0:0:1", no_mac),
        ("02-00-00-00-00-01", no_mac),
        ("02:00:00:00:00:+1", no_mac),
        ("00:00:00:00:00:00", "is the MAC of no interface: write the MAC of the interface"),
        ("ff:ff:ff:ff:ff:ff", "is the MAC of a group: write the MAC of the interface"),
    ] {
        let text = format!(r#"{{"machnet_config": {{"{mac}": {{"ip": "10.0.255.10"}}}}}}"#);
        assert_sentence(&text, &format!("here.json: machnet_config.\"{mac}\" {complaint}"));
    }
    let twice =
        r#"{"machnet_config": {"02:00:00:00:00:0A": {"ip": "10.0.0.1"}, "02:00:00:00:00:0a": {"ip": "10.0.0.2"}}}"#;
    assert_sentence(twice, "here.json: machnet_config.\"02:00:00:00:00:0a\" is there twice: keep one of the two");
}

#[test]
fn a_mistake_in_an_interface_is_one_sentence() {
    let threads = "write a whole number from 1 to 128";
    let mask = "write a hexadecimal mask with at least one CPU, such as \"0x3\" for CPUs 0 and 1";
    let pcie = "write a PCI address as lspci -D shows it, such as \"0000:01:00.0\"";
    let mtu = "write a whole number from 576 to 9216";
    for (key, value, shown, remedy) in [
        ("engine_threads", "0", "0", threads),
        ("engine_threads", "10000", "10000", threads),
        ("engine_threads", "-1", "-1", threads),
        ("engine_threads", "1.5", "1.5", threads),
        ("engine_threads", "\"two\"", "\"two\"", threads),
        ("engine_threads", "null", "null", threads),
        ("cpu_mask", "3", "3", "write a text, such as \"0x3\""),
        ("cpu_mask", "\"0x0\"", "\"0x0\"", mask),
        ("cpu_mask", "\"\"", "\"\"", mask),
        ("cpu_mask", "\"0-3\"", "\"0-3\"", mask),
        ("pcie", "\"eth0\"", "\"eth0\"", pcie),
        ("pcie", "\"0000:01:00.8\"", "\"0000:01:00.8\"", pcie),
        ("driver", "\"dpdk\"", "\"dpdk\"", "write \"af_packet\" or \"af_xdp\""),
        ("device", "\"\"", "\"\"", "write DPDK device arguments, such as \"net_memif0,role=server\""),
        ("mtu", "575", "575", mtu),
        ("mtu", "9217", "9217", mtu),
        ("prefix", "33", "33", "write a whole number from 1 to 32"),
        ("gateway", "\"10.0.255.1\"", "\"10.0.255.1\"", "give prefix too, it says which peers are behind the gateway"),
        ("poll", "true", "true", "write \"adaptive\" or \"busy\""),
    ] {
        let sentence = format!("here.json: machnet_config.\"02:00:00:00:00:01\".{key} is {shown}: {remedy}");
        assert_sentence(&one_interface(&format!("\"{key}\": {value}")), &sentence);
    }
    let keys = "ip, engine_threads, cpu_mask, pcie, driver, device, mtu, prefix, gateway, poll, faults";
    assert_sentence(
        &one_interface("\"engine_thread\": 2"),
        &format!(
            "here.json: machnet_config.\"02:00:00:00:00:01\".engine_thread is not a key: remove it, or use one of {keys}"
        ),
    );
    assert_sentence(
        &one_interface("\"ip\": \"10.0.0.2\""),
        "here.json: machnet_config.\"02:00:00:00:00:01\".ip is there twice: keep one of the two",
    );
}

#[test]
fn a_mistake_in_an_address_is_one_sentence() {
    let host = "write an address that one host can have, such as \"10.0.255.10\"";
    for (ip, shown, remedy) in [
        ("\"10.0.255\"", "\"10.0.255\"", "write an IPv4 address, such as \"10.0.255.10\""),
        (
            "\"fe80::1\"",
            "\"fe80::1\"",
            "fe80::1 is an IPv6 address, which machnet-shards does not carry yet: give an IPv4 address",
        ),
        ("\"10.0.255.10/24\"", "\"10.0.255.10/24\"", "write an IPv4 address, such as \"10.0.255.10\""),
        ("10", "10", "write a text, such as \"10.0.255.10\""),
        ("\"0.0.0.0\"", "\"0.0.0.0\"", host),
        ("\"127.0.0.1\"", "\"127.0.0.1\"", host),
        ("\"224.0.0.1\"", "\"224.0.0.1\"", host),
        ("\"255.255.255.255\"", "\"255.255.255.255\"", host),
    ] {
        let text = format!(r#"{{"machnet_config": {{"02:00:00:00:00:01": {{"ip": {ip}}}}}}}"#);
        assert_sentence(&text, &format!("here.json: machnet_config.\"02:00:00:00:00:01\".ip is {shown}: {remedy}"));
    }
    assert_sentence(
        &one_interface(r#""prefix": 24, "gateway": "fe80::1""#),
        "here.json: machnet_config.\"02:00:00:00:00:01\".gateway is \"fe80::1\": fe80::1 is an IPv6 address, which machnet-shards does not carry yet: give an IPv4 address",
    );
    assert_sentence(
        r#"{"machnet_config": {"02:00:00:00:00:01": {}}}"#,
        "here.json: machnet_config.\"02:00:00:00:00:01\".ip is missing: give the address of this interface, as in \"10.0.255.10\"",
    );
}

#[test]
fn keys_that_contradict_each_other_are_one_sentence() {
    let at = |key: &str| format!("here.json: machnet_config.\"02:00:00:00:00:01\".{key} is ");
    let only_one = "keep only one of pcie, driver and device, each says where the device is";
    for (keys, sentence) in [
        (r#""driver": "af_xdp", "device": "net_tap0""#, format!("{}\"af_xdp\": {only_one}", at("driver"))),
        (r#""pcie": "0000:01:00.0", "device": "net_tap0""#, format!("{}\"net_tap0\": {only_one}", at("device"))),
        (r#""pcie": "0000:01:00.0", "driver": "af_xdp""#, format!("{}\"af_xdp\": {only_one}", at("driver"))),
        (
            r#""prefix": 24, "gateway": "10.1.0.1""#,
            format!("{}\"10.1.0.1\": write the address of another host in the subnet 10.0.255.10/24", at("gateway")),
        ),
        (
            r#""prefix": 24, "gateway": "10.0.255.10""#,
            format!("{}\"10.0.255.10\": write the address of another host in the subnet 10.0.255.10/24", at("gateway")),
        ),
        (
            r#""prefix": 31, "gateway": "10.0.255.9""#,
            format!("{}\"10.0.255.9\": write the address of another host in the subnet 10.0.255.10/31", at("gateway")),
        ),
        (
            r#""prefix": 30, "gateway": "10.0.255.11""#,
            format!("{}\"10.0.255.11\": write the address of another host in the subnet 10.0.255.10/30", at("gateway")),
        ),
    ] {
        assert_sentence(&one_interface(keys), &sentence);
    }
    let two = |first: &str, second: &str| {
        format!(r#"{{"machnet_config": {{"02:00:00:00:00:01": {{{first}}}, "02:00:00:00:00:02": {{{second}}}}}}}"#)
    };
    assert_sentence(
        &two(r#""ip": "10.0.0.1""#, r#""ip": "10.0.0.1""#),
        "here.json: machnet_config.\"02:00:00:00:00:02\".ip is \"10.0.0.1\": 02:00:00:00:00:01 has this address already, write another",
    );
    assert_sentence(
        &two(r#""ip": "10.0.0.1", "engine_threads": 100"#, r#""ip": "10.0.0.2", "engine_threads": 29"#),
        "here.json: machnet_config.\"02:00:00:00:00:02\".engine_threads is 29: all interfaces together may have 128 threads, write smaller numbers",
    );
    assert_sentence(
        &two(r#""ip": "10.0.0.1", "prefix": 24"#, r#""ip": "10.1.0.255", "prefix": 24"#),
        "here.json: machnet_config.\"02:00:00:00:00:02\".ip is \"10.1.0.255\": a host of a /24 subnet cannot have it, write another",
    );
}

#[test]
fn a_mistake_in_the_settings_is_one_sentence() {
    for (key, value, shown, remedy) in [
        ("socket", "\"machnet.sock\"", "\"machnet.sock\"", "write an absolute path of at most 107 bytes"),
        ("socket_mode", "660", "660", "write a text, such as \"0660\""),
        ("socket_mode", "\"0680\"", "\"0680\"", "write permissions in octal digits, such as \"0660\""),
        ("socket_mode", "\"1777\"", "\"1777\"", "write permissions in octal digits, such as \"0660\""),
        ("socket_group", "\"\"", "\"\"", "write the name of a group, or remove the key"),
        ("send_bytes", "1048576", "1048576", "write a whole number from 10485760 to 1073741824"),
        ("receive_bytes", "0", "0", "write a whole number from 262144 to 1073741824"),
        ("max_channel_bytes_per_user", "1", "1", "write a whole number from 16777216 to 1099511627776"),
        ("linger_ms", "60001", "60001", "write a whole number from 0 to 60000"),
        ("gone_after_ms", "3000", "3000", "a peer is silent before it is gone, make gone_after_ms the larger one"),
        ("silent_after_ms", "20000", "20000", "a peer is silent before it is gone, make gone_after_ms the larger one"),
    ] {
        let sentence = format!("here.json: machnet_shards.{key} is {shown}: {remedy}");
        assert_sentence(&with_settings(&format!("\"{key}\": {value}")), &sentence);
    }
    let long = format!("\"socket\": \"/{}\"", "x".repeat(107));
    let shown = format!("\"/{}\"...", "x".repeat(59));
    assert_sentence(
        &with_settings(&long),
        &format!("here.json: machnet_shards.socket is {shown}: write an absolute path of at most 107 bytes"),
    );
}

/// A mask, the CPUs that are online, those that are allowed, and the sentence.
#[test]
fn a_mask_without_a_cpu_that_can_be_used_is_one_sentence() {
    let mistake = |mask: &str, online: &str, allowed: &str| {
        let mut config = parse(&one_interface(&format!(r#""cpu_mask": "{mask}""#))).unwrap();
        let [online, allowed] = [online, allowed].map(|ranges| CpuMask::from_ranges(ranges).unwrap());
        cpus::settle(&mut config, &online, &allowed).unwrap_err().to_string()
    };
    for (mask, online, allowed, sentence) in [
        ("0x10", "0-1,8", "0-1,8", "CPU 4 does not exist here, choose among CPUs 0-1,8"),
        ("0x70", "0-1,8", "0-1,8", "CPUs 4-6 do not exist here, choose among CPUs 0-1,8"),
        ("0x2", "0-1", "0", "this process may not run on CPU 1 (its cpuset or affinity), choose CPU 0"),
        (
            "0x2e",
            "0-3",
            "0",
            "CPU 5 does not exist here and this process may not run on CPUs 1-3 (its cpuset or affinity), choose CPU 0",
        ),
    ] {
        let begin = format!("here.json: machnet_config.\"02:00:00:00:00:01\".cpu_mask is \"{mask}\": ");
        assert_eq!(mistake(mask, online, allowed), begin + sentence);
    }
    assert!(CpuMask::online().unwrap().cpus().count() >= 1);
}

/// Machnet's documented default names more CPUs than most hosts have.
#[test]
fn a_mask_keeps_the_cpus_that_can_be_used_and_says_which_it_loses() {
    let file = r#"{"machnet_config": {
        "02:00:00:00:00:01": {"ip": "10.0.0.1", "engine_threads": 2, "cpu_mask": "0xffff"},
        "02:00:00:00:00:02": {"ip": "10.0.0.2", "engine_threads": 2, "cpu_mask": "0x6"},
        "02:00:00:00:00:03": {"ip": "10.0.0.3"}}}"#;
    let cpus = |ranges| CpuMask::from_ranges(ranges).unwrap();
    let mut config = parse(file).unwrap();
    let as_written = config.clone();
    assert_eq!(cpus::settle(&mut config, &cpus("0-15"), &cpus("0-15")), Ok(vec![None, None, None]));
    assert_eq!(config, as_written);

    let told = cpus::settle(&mut config, &cpus("0-3"), &cpus("1-2")).unwrap();
    let why = "cpu_mask is \"0xffff\": CPUs 4-15 do not exist here and this process may not run on CPUs 0,3 (its cpuset \
               or affinity), CPUs 1-2 are used";
    assert_eq!(told, [Some(why.to_owned()), None, None]);
    let shard_cpus: Vec<_> = config.interfaces.iter().map(|interface| interface.shard_cpus.as_slice()).collect();
    assert_eq!(shard_cpus, [&[1, 2][..], &[1, 2], &[]]);
    assert_eq!(config.interfaces[0].cpu_mask, Some(cpus("1-2")));
    assert_eq!(cpus::settle(&mut config, &cpus("0-3"), &cpus("1-2")), Ok(vec![None, None, None]), "it is settled");
}

#[test]
fn what_only_the_daemon_can_find_reads_like_the_rest() {
    let config = parse(&one_interface("")).unwrap();
    let interface = &config.interfaces[0];
    let mistake = config.mistake(interface, "", "no device here", "write the MAC of one of lo, eth0");
    assert_eq!(
        mistake.to_string(),
        "here.json: machnet_config.\"02:00:00:00:00:01\" is no device here: write the MAC of one of lo, eth0"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_one_sentence() {
    let sentence = |file: &str| Config::load(&PathBuf::from(file)).unwrap_err().to_string();
    assert_eq!(
        sentence("/nowhere/config.json"),
        "/nowhere/config.json cannot be read (No such file or directory (os error 2)): name a readable file with --config_file"
    );
    assert_eq!(
        sentence("/"),
        "/ cannot be read (Is a directory (os error 21)): name a readable file with --config_file"
    );
    assert_eq!(
        sentence("/dev/zero"),
        "/dev/zero is longer than 1048576 bytes: name a configuration file with --config_file"
    );
    assert!(ConfigError::NoDefaultFile.to_string().contains("neither config.json here nor /etc/machnet/config.json"));
}
