//! Receive offloads that harm are off while a balancer runs, and as they were
//! afterwards, however it ends.

use std::thread;
use std::time::Instant;

use libbpf_rs::MapCore;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use serde_json::Value;
use serde_json::json;
use xvs::Error;
use xvs::Instance;
use xvs::Mode;
use xvs::Offload;

use crate::lab::Lab;
use crate::lab::wait;
use crate::netns::Namespace;
use crate::random::share;
use crate::server::PATIENCE;
use crate::xdp;
use crate::xvsctl;
use crate::xvsctl::Balance;

/// What a veth has of them.
const TAGS: [Offload; 2] = [Offload::RxVlan, Offload::RxVlanStag];

fn set(lab: &Lab, interface: &str, setting: &str) {
    let both = format!("rxvlan {setting} rx-vlan-stag-hw-parse {setting}");
    lab.lb.sh(&format!("ethtool -K {interface} {both}"));
}

/// Whether VLAN tags are taken off on reception.
fn strips(lab: &Lab, interface: &str) -> bool {
    let features = lab.lb.sh(&format!("ethtool -k {interface}"));
    let line = features.lines().find_map(|line| line.strip_prefix("rx-vlan-offload: "));
    line.expect("ethtool tells it").starts_with("on")
}

/// What `xvsctl` prints, in the namespace of the balancer.
fn run(lab: &Lab, command: &str) -> String {
    let (program, bpffs) = (xvsctl::program().display(), lab.bpffs().display());
    lab.lb.sh(&format!("{program} {command} --instance lab --bpffs {bpffs}"))
}

/// Its only object.
fn object(lab: &Lab, command: &str) -> Value {
    serde_json::from_str(&run(lab, &format!("{command} --json"))).expect("one object")
}

fn start(lab: &Lab) -> Balance {
    let balance = Balance::start(lab, &[], xvsctl::program(), &["--port=53/udp"]);
    balance.expect("ready", PATIENCE);
    assert!(!strips(lab, "eth0"));
    balance
}

fn kill(lab: &Lab, balance: Balance) {
    // Dropping it kills it: it has no chance to clean up.
    drop(balance);
    let detached = || xdp::attached(&lab.lb, "eth0").is_none().then_some(());
    wait("the program goes with its process", PATIENCE, detached);
    assert!(!strips(lab, "eth0"));
}

#[test]
fn they_are_off_while_a_client_runs() {
    let lab = Lab::new(1);
    set(&lab, "eth0", "on");
    for _ in 0..2 {
        let balancer = lab.balancer();
        assert!(!strips(&lab, "eth0"));
        let interface = &balancer.info().expect("it runs").interfaces[0];
        assert_eq!(interface.offloads_off, TAGS);
        assert!(interface.offloads_on.is_empty());
        let shown = run(&lab, "show info");
        assert!(shown.contains("; turned off: rxvlan, rx-vlan-stag-hw-parse\n"), "{shown}");
        let shown = &object(&lab, "show info")["interfaces"][0];
        assert_eq!(
            (&shown["offloads_off"], &shown["offloads_on"]),
            (&json!(["rxvlan", "rx-vlan-stag-hw-parse"]), &json!([]))
        );
        drop(balancer);
        assert!(strips(&lab, "eth0"));
    }
}

#[test]
fn what_others_turn_off_or_on_is_theirs() {
    let lab = Lab::new(1);
    set(&lab, "eth0", "off");
    let balancer = lab.balancer();
    assert!(balancer.info().expect("it runs").interfaces[0].offloads_off.is_empty());
    let shown = run(&lab, "show info");
    assert!(!shown.contains("turned off"), "{shown}");
    drop(balancer);
    assert!(!strips(&lab, "eth0"), "it was off before");

    let balance = start(&lab);
    set(&lab, "eth0", "on");
    let check = run(&lab, "check eth0");
    let told = |line: &str| line.starts_with("warn") && line.contains("ethtool -K eth0 rxvlan off");
    assert!(check.lines().any(told), "{check}");
    assert!(balance.stop().success());
    assert!(strips(&lab, "eth0"));
    let check = run(&lab, "check eth0");
    let told = |line: &str| line.starts_with("ok") && line.contains("turns it off while it runs");
    assert!(check.lines().any(told), "{check}");
}

#[test]
fn detaching_puts_back_what_a_killed_process_turned_off() {
    let lab = Lab::new(1);
    set(&lab, "eth0", "on");
    kill(&lab, start(&lab));
    let detached = run(&lab, "detach");
    assert!(detached.contains("interface `eth0`: rxvlan is on again"), "{detached}");
    assert!(strips(&lab, "eth0"));

    kill(&lab, start(&lab));
    let on = json!([
        {"interface": "eth0", "offload": "rxvlan", "on": true},
        {"interface": "eth0", "offload": "rx-vlan-stag-hw-parse", "on": true},
    ]);
    assert_eq!(object(&lab, "detach")["offloads"], on);
    assert!(strips(&lab, "eth0"));

    set(&lab, "eth0", "off");
    kill(&lab, start(&lab));
    assert_eq!(object(&lab, "detach")["offloads"], json!([]));
    assert!(!strips(&lab, "eth0"), "it was off before");
}

#[test]
fn detaching_tells_what_it_cannot_read() {
    let lab = Lab::new(1);
    set(&lab, "eth0", "on");
    let of_another_version = || {
        kill(&lab, start(&lab));
        let record = MapHandle::from_pinned_path(lab.bpffs().join("xvs/lab/instance"));
        let record = record.expect("the map is pinned by its name");
        let zero = 0_u32.to_ne_bytes();
        let mut value = record.lookup(&zero, MapFlags::ANY).expect("a lookup").expect("an entry");
        // The layout comes first.
        value[..4].copy_from_slice(&999_u32.to_ne_bytes());
        record.update(&zero, &value, MapFlags::EXIST).expect("the entry is there");
    };
    of_another_version();
    let detached = run(&lab, "detach");
    assert!(detached.contains("made by another version"), "{detached}");
    assert!(!strips(&lab, "eth0"), "nothing is guessed");
    of_another_version();
    assert_eq!(object(&lab, "detach")["unread"], true);
    assert!(Instance::list(lab.bpffs()).expect("it is mounted").is_empty());
}

#[test]
fn a_kill_at_any_moment_leaves_enough_to_put_back() {
    let lab = Lab::new(1);
    set(&lab, "eth0", "on");
    let begun = Instant::now();
    let balance = start(&lab);
    let time = begun.elapsed();
    kill(&lab, balance);

    let mut killed_when_off = 0;
    let moments = share(20).max(5) as u32;
    for moment in 0..moments {
        let balance = Balance::start(&lab, &[], xvsctl::program(), &["--port=53/udp"]);
        thread::sleep(time * moment / moments);
        drop(balance);
        killed_when_off += u32::from(!strips(&lab, "eth0"));
        // The first ones left nothing, not even a name.
        let detached = lab.lb.enter(|| Instance::detach(lab.bpffs(), "lab"));
        assert!(strips(&lab, "eth0"), "{moment}: {detached:?}");
        assert!(Instance::list(lab.bpffs()).expect("it is mounted").is_empty());
    }
    println!("{killed_when_off} of {moments} were killed when it was off");
}

#[test]
fn detaching_elsewhere_touches_no_interface() {
    let lab = Lab::new(1);
    set(&lab, "eth0", "on");
    kill(&lab, start(&lab));
    let index = lab.lb.sh("ip -o link show eth0").split(':').next().map(str::to_owned);
    // Every namespace has an eth0, and all count from 1.
    let index = index.expect("it begins the line");
    let elsewhere = Namespace::new("elsewhere");
    elsewhere.sh(&format!(
        "ip link add eth0 index {index} type veth peer name other index 1000
         ethtool -K eth0 rxvlan off"
    ));
    let detach = || Instance::detach(lab.bpffs(), "lab").expect("nobody runs it");
    let detached = elsewhere.enter(detach);
    assert_eq!(detached.offloads.len(), 2);
    assert!(detached.offloads.iter().all(|offload| !offload.on), "{detached:?}");
    assert!(!strips(&lab, "eth0"));
    assert!(elsewhere.sh("ethtool -k eth0").contains("rx-vlan-offload: off"));
}

#[test]
fn the_next_process_knows_what_was_on_before_a_killed_one() {
    let lab = Lab::new(1);
    set(&lab, "eth0", "on");
    kill(&lab, start(&lab));
    kill(&lab, start(&lab));
    assert!(start(&lab).stop().success());
    assert!(strips(&lab, "eth0"));

    set(&lab, "eth0", "off");
    kill(&lab, start(&lab));
    assert!(start(&lab).stop().success());
    assert!(!strips(&lab, "eth0"), "it was off before");
}

#[test]
fn what_is_not_attached_in_the_end_is_put_back() {
    let lab = Lab::new(1);
    set(&lab, "eth0", "on");
    // The kernel's bridge runs no native programs.
    lab.lb.sh("ip link add bare type bridge && ip link set bare up");
    for both in [["eth0", "bare"], ["bare", "eth0"]] {
        let refused = lab.balancer_with(lab.options().mode(Mode::Native), &both).err();
        assert!(matches!(refused, Some(Error::NativeUnsupported { .. })), "{refused:?}");
        assert!(strips(&lab, "eth0"));

        // Attached once more, generic.
        let balancer = lab.balancer_with(lab.options().mode(Mode::Auto), &both);
        let balancer = balancer.expect("generic works everywhere");
        assert!(!strips(&lab, "eth0"));
        let interfaces = balancer.info().expect("it runs").interfaces;
        let names: Vec<&str> = interfaces.iter().map(|i| i.name.as_str()).collect();
        assert_eq!(names, both);
        for interface in &interfaces {
            let off = interface.offloads_off.contains(&Offload::RxVlan);
            assert_eq!(off, interface.name == "eth0", "{interface:?}");
            assert_eq!(interface.mode, Mode::Generic);
        }
        drop(balancer);
        assert!(strips(&lab, "eth0"));
    }
}

#[test]
fn each_interface_gets_back_what_it_had() {
    let lab = Lab::with_two_subnets(1);
    set(&lab, "eth0", "off");
    set(&lab, "eth1", "on");
    let balancer = lab.balancer_with(lab.options(), &["eth0", "eth1"]).expect("it starts");
    let interfaces = balancer.info().expect("it runs").interfaces;
    assert!(interfaces[0].offloads_off.is_empty());
    assert_eq!(interfaces[1].offloads_off, TAGS);
    assert!(!strips(&lab, "eth0") && !strips(&lab, "eth1"));
    drop(balancer);
    assert!(!strips(&lab, "eth0") && strips(&lab, "eth1"));
}
