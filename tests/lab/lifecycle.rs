//! The host is found and left as it was; what others attached stays.

use std::time::Duration;
use std::time::Instant;

use xvs::Client;
use xvs::Config;
use xvs::Destination;
use xvs::DestinationStatus;
use xvs::Error;
use xvs::Event;
use xvs::Instance;
use xvs::Mode;
use xvs::Service;

use super::web::serve;
use super::web::usable;
use crate::lab::Lab;
use crate::lab::UDP;
use crate::lab::ip;
use crate::lab::vip;
use crate::lab::wait;
use crate::server::PATIENCE;
use crate::server::ask;
use crate::server::udp_from;
use crate::xdp;
use crate::xvsctl;
use crate::xvsctl::Balance;

fn forwards(lab: &Lab) -> bool {
    let socket = lab.client.enter(|| udp_from(ip("0.0.0.0"), 0));
    ask(&socket, vip(0, UDP), Duration::from_millis(50)).is_ok()
}

fn serve_udp(lab: &Lab, balancer: &Client) -> Service {
    let service = Service::udp(vip(0, UDP).ip(), UDP);
    serve(lab, balancer, &service);
    service
}

/// Whether the kernel keeps neighbours resolved by itself. v5.16:
/// 7482e3841d520a368426ac196720601687e2dc47 ("net, neigh: Add NTF_MANAGED flag for
/// managed neighbor entries").
fn manages(lab: &Lab, device: &str) -> bool {
    let shown = lab.lb.sh(&format!(
        "ip neigh add 10.1.2.200 managed dev {device} 2>/dev/null || true
         ip neigh show 10.1.2.200 dev {device}
         ip neigh del 10.1.2.200 dev {device} 2>/dev/null || true"
    ));
    shown.contains("managed")
}

/// All that a balancer could have left behind.
fn traces(lab: &Lab) -> String {
    // Without managed entries one that was found is an ordinary one in the end.
    let ordinary = if manages(lab, "eth0") { &["STALE"][..] } else { &["STALE", "REACHABLE"] };
    let pins = lab.bpffs().join("xvs").exists();
    let xdp = xdp::attached(&lab.lb, "eth0");
    let neighbours = lab.lb.sh("ip neigh show; ip -6 neigh show");
    let kept: Vec<&str> = neighbours
        .lines()
        // A server that asks for the balancer's own MAC address makes such an
        // entry, also after the balancer has removed its own.
        .filter(|line| {
            line.contains("managed") || !ordinary.iter().any(|state| line.contains(state))
        })
        .filter(|line| {
            line.contains("managed")
                || lab.backends.iter().any(|b| {
                    let address = line.split_whitespace().next();
                    address == Some(&b.v4.to_string()) || address == Some(&b.v6.to_string())
                })
        })
        .collect();
    format!("pins: {pins}, XDP program {xdp:?}, neighbours {kept:?}")
}

#[test]
fn a_dropped_client_leaves_nothing() {
    let lab = Lab::new(2);
    let before = traces(&lab);
    for _ in 0..3 {
        let balancer = lab.balancer();
        serve_udp(&lab, &balancer);
        serve(&lab, &balancer, &Service::udp(vip(1, UDP).ip(), UDP));
        assert!(forwards(&lab));
        assert_eq!(Instance::list(lab.bpffs()).expect("it is mounted"), ["lab"]);
        assert!(xdp::attached(&lab.lb, "eth0").is_some());
        drop(balancer);
        assert_eq!(traces(&lab), before);
        assert!(Instance::list(lab.bpffs()).expect("it is mounted").is_empty());
        let gone = Instance::open(lab.bpffs(), "lab");
        assert!(matches!(gone, Err(Error::InstanceNotFound { .. })));
    }
}

#[test]
fn what_a_killed_process_left_is_removed() {
    killed(&Lab::new(1), "eth0");
}

#[test]
fn what_a_killed_process_left_on_a_mac_vlan_is_removed() {
    let lab = Lab::new(1);
    lab.move_to_mac_vlan();
    killed(&lab, "mac0");
}

/// Neighbours are on this device.
fn killed(lab: &Lab, device: &str) {
    let start = || {
        let balance = Balance::start(lab, &[], xvsctl::program(), &["--port=53/udp"]);
        balance.expect("ready", PATIENCE);
        assert!(forwards(lab));
        balance
    };
    let kill = |balance: Balance| {
        // Dropping it kills it: it has no chance to clean up.
        drop(balance);
        let detached = || xdp::attached(&lab.lb, "eth0").is_none().then_some(());
        wait("the program goes with its process", PATIENCE, detached);
        assert_eq!(Instance::list(lab.bpffs()).expect("it is mounted"), ["lab"]);
    };
    let managed = || {
        let entry = lab.lb.sh(&format!("ip neigh show 10.1.2.11 dev {device}"));
        entry.contains("managed")
    };
    // Without managed entries nothing is left.
    let manages = manages(lab, device);
    kill(start());
    assert_eq!(managed(), manages, "the kernel knows nothing of the process's end");
    let detach = || Instance::detach(lab.bpffs(), "lab").expect("nobody runs it");
    let detached = lab.lb.enter(detach);
    assert!(!managed());
    println!("{detached:?}");
    assert!(Instance::list(lab.bpffs()).expect("it is mounted").is_empty());

    kill(start());
    assert!(start().stop().success(), "the next process takes the name over");
    assert!(!managed());
    assert!(Instance::list(lab.bpffs()).expect("it is mounted").is_empty());
    assert_eq!(xdp::attached(&lab.lb, "eth0"), None);
}

#[test]
fn an_entry_of_the_administrators_stays() {
    let lab = Lab::new(1);
    let mac = lab.backends[0].mac().map(|octet| format!("{octet:02x}")).join(":");
    lab.lb.sh(&format!("ip neigh add 10.1.2.11 lladdr {mac} dev eth0 nud permanent"));
    let balancer = lab.balancer();
    serve_udp(&lab, &balancer);
    assert!(forwards(&lab));
    let kept = || lab.lb.sh("ip neigh show 10.1.2.11 dev eth0");
    assert!(kept().contains("PERMANENT"), "{}", kept());
    drop(balancer);
    assert!(kept().contains("PERMANENT") && kept().contains(&mac), "{}", kept());
}

#[test]
fn a_foreign_program_is_named_and_left_alone() {
    let lab = Lab::new(1);
    xdp::attach_pass(&lab.lb, "eth0", "somebody_elses");
    let foreign = xdp::attached(&lab.lb, "eth0");
    assert!(foreign.is_some());
    for mode in [Mode::Auto, Mode::Native, Mode::Generic] {
        let refused = lab.balancer_with(lab.options().mode(mode), &["eth0"]).err();
        match refused {
            Some(Error::ForeignProgram { interface, program }) => {
                println!("{mode:?}: {interface}: {program}");
                assert_eq!(interface, "eth0");
                let id = foreign.expect("it is attached").to_string();
                assert!(program.contains("somebody_els") || program.contains(&id), "{program}");
            }
            other => panic!("{mode:?}: {other:?}"),
        }
        assert_eq!(xdp::attached(&lab.lb, "eth0"), foreign);
        assert!(Instance::list(lab.bpffs()).expect("it is mounted").is_empty());
    }
}

#[test]
fn a_second_client_is_refused_and_the_first_goes_on() {
    let lab = Lab::with_two_subnets(1);
    let balancer = lab.balancer();
    serve_udp(&lab, &balancer);
    let program = xdp::attached(&lab.lb, "eth0");

    let mut options = lab.options();
    options.config = Config::default().vlan(9, "10.1.9.0/24".parse().expect("a prefix"));
    let second = lab.balancer_with(options, &["eth1"]).err();
    assert!(matches!(second, Some(Error::InstanceBusy { .. })), "{second:?}");
    println!("{}", second.expect("it was refused"));
    assert_eq!(xdp::attached(&lab.lb, "eth1"), None);

    let other_name = lab.balancer_with(lab.options().instance("other"), &["eth0"]).err();
    assert!(matches!(other_name, Some(Error::ForeignProgram { .. })), "{other_name:?}");
    println!("{}", other_name.expect("it was refused"));
    assert_eq!(xdp::attached(&lab.lb, "eth0"), program);
    assert_eq!(Instance::list(lab.bpffs()).expect("it is mounted"), ["lab"]);

    let detached = Instance::detach(lab.bpffs(), "lab").err();
    assert!(matches!(detached, Some(Error::InstanceBusy { .. })), "{detached:?}");
    assert_eq!(xdp::attached(&lab.lb, "eth0"), program);
    assert!(balancer.info().is_ok());
}

#[test]
fn an_interface_may_go_and_come_back() {
    let lab = Lab::new(1);
    let balancer = lab.balancer();
    serve_udp(&lab, &balancer);
    assert!(forwards(&lab));
    lab.lb.sh("ip link set eth0 down");
    let service = Service::udp(vip(0, UDP).ip(), UDP);
    usable(&balancer, &service, 0);
    lab.lb.sh("ip link set eth0 up");
    usable(&balancer, &service, 1);
    wait("it forwards again", PATIENCE, || forwards(&lab).then_some(()));

    let before = Destination::new(lab.backends[0].v4);
    let shown = &balancer.destinations(&service).expect("it is there")[0].destination;
    assert_eq!(*shown, before, "what was wanted has not changed");
}

#[test]
fn an_interface_that_is_gone_is_told_once() {
    let lab = Lab::new(1);
    let balancer = lab.balancer();
    let service = serve_udp(&lab, &balancer);
    for host in 60..80 {
        let unanswered = Destination::new([10, 1, 2, host].into());
        balancer.create_destination(&service, &unanswered).expect("a destination");
    }
    assert!(forwards(&lab));
    lab.lb.sh("ip link del eth0");
    let mut events = Vec::new();
    wait("the interface is missed", PATIENCE, || {
        events.extend(balancer.events());
        events.contains(&Event::InterfaceDown { interface: "eth0".to_owned() }).then_some(())
    });
    usable(&balancer, &service, 0);
    // What fails is asked again every second; two of these go by.
    let end = Instant::now() + Duration::from_millis(2500);
    wait("time goes by", PATIENCE, || {
        events.extend(balancer.events());
        (Instant::now() > end).then_some(())
    });
    let failed = events.iter().filter(|e| matches!(e, Event::Failed(_) | Event::Dropped(_)));
    assert!(failed.count() <= 3, "{events:?}");
    let all = balancer.destinations(&service).expect("it is there");
    assert!(all.iter().all(|d| d.status == DestinationStatus::NoInterface), "{all:?}");
}

#[test]
fn one_interface_without_native_xdp_makes_all_generic() {
    let lab = Lab::new(1);
    // The kernel's bridge runs no native programs.
    lab.lb.sh("ip link add bare type bridge && ip link set bare up");
    let both = ["eth0", "bare"];
    let refused = lab.balancer_with(lab.options().mode(Mode::Native), &both).err();
    assert!(matches!(refused, Some(Error::NativeUnsupported { .. })), "{refused:?}");
    assert_eq!(xdp::attached(&lab.lb, "eth0"), None);

    let balancer =
        lab.balancer_with(lab.options().mode(Mode::Auto), &both).expect("generic works everywhere");
    let interfaces = balancer.info().expect("it runs").interfaces;
    assert_eq!(interfaces.len(), 2);
    assert!(interfaces.iter().all(|i| i.mode == Mode::Generic), "{interfaces:?}");
    assert!(
        balancer.events().iter().any(|event| matches!(
            event,
            Event::GenericMode { interface, .. } if interface == "bare"
        )),
        "the slow one is named"
    );
    serve_udp(&lab, &balancer);
    assert!(forwards(&lab));
}
