//! A device has one owner.

use std::process::Command;

use machnet_config::{Attachment, Interface};
use machnet_nic::backend::Backend;
use machnet_nic::error::OpenError;
use machnet_nic::lock::{DeviceLock, Owner};
use machnet_nic::plan::{DevicePlan, plan};
use machnet_nic::survey::{Finding, survey};

use crate::devices::{NEAR, interface, run};

/// Interfaces with one MAC are told apart, one interface under two names is not, and a tap device has an owner before
/// it is there.
pub(crate) fn one_for_each_device() {
    let near = plan(&interface(NEAR, 1)).expect("it is there");
    let free = survey(&near).expect("anybody may look");
    assert!(!free.iter().any(|finding| matches!(finding, Finding::Owned { .. })), "{free:?}");
    let held = DeviceLock::take(&near).expect("nobody has it").expect("kernel interfaces have one");
    assert_owned(&near, "near");
    assert_owned(&named("net_af_packet0,iface=near"), "near");
    assert_eq!(said_in_a_container(), "a process of the host or of another container owns the interface near");

    // With the MAC of what it runs on, as a VLAN, of which not every kernel knows.
    run("ip", "link add link near name stacked type macvlan mode passthru");
    run("ip", &format!("link set stacked address {NEAR} up"));
    let stacked = DevicePlan::new(interface(NEAR, 1), Backend::AfPacket { interface: "stacked".to_owned() });
    let of_stacked = DeviceLock::take(&stacked).expect("it is another interface").expect("kernel interfaces have one");

    run("ip", "link set near down");
    run("ip", "link set near name renamed");
    run("ip", "link set renamed up");
    assert_owned(&plan(&interface(NEAR, 1)).expect("it is there"), "renamed");
    drop((held, of_stacked));
    let renamed = plan(&interface(NEAR, 1)).expect("it is there");
    DeviceLock::take(&renamed).expect("nobody has it any more");

    let tap = named("net_tap0,iface=tapped");
    let _held = DeviceLock::take(&tap).expect("nobody has it").expect("a tap device has one");
    assert_owned(&tap, "net_tap0,iface=tapped");
    DeviceLock::take(&named("net_tap0,iface=another")).expect("nobody has it");
    assert!(DeviceLock::take(&named("net_memif0,role=server")).expect("it has no owner").is_none());
}

/// Set for a process that asks from where its owner cannot be seen.
pub(crate) const ASKER: &str = "NIC_TEST_OWNERS_ASKER";

/// What a process of another pid namespace and the same network namespace hears of the owner of `near`.
fn said_in_a_container() -> String {
    let this = std::env::current_exe().expect("we run");
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--"]).arg(this).env(ASKER, "1");
    let output = command.output().expect("unshare is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).split(':').next().unwrap_or_default().to_owned()
}

/// Says what is found about `near`.
pub(crate) fn ask() {
    let near = plan(&interface(NEAR, 1)).expect("it is there");
    for finding in survey(&near).expect("anybody may look") {
        println!("{finding}");
    }
}

fn named(device: &str) -> DevicePlan {
    let attachment = Attachment::Device(device.to_owned());
    plan(&Interface { attachment, ..interface(NEAR, 1) }).expect("any device may be tried")
}

/// This process owns the device of a plan, which is said to whoever asks or wants it.
fn assert_owned(plan: &DevicePlan, device: &str) {
    let error = DeviceLock::take(plan).expect_err("it has an owner");
    let OpenError::Found(finding) = error else { panic!("{error}") };
    let Finding::Owned { device: owned, owner: Owner::Process { pid, .. } } = &finding else { panic!("{finding}") };
    assert_eq!((owned.as_str(), pid.get()), (device, std::process::id()));
    assert!(survey(plan).expect("anybody may look").contains(&finding));
}
