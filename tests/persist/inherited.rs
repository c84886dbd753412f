//! What the next process finds, and what becomes of it.

use std::net::IpAddr;

use xvs::Client;
use xvs::Destination;
use xvs::DestinationExtended;
use xvs::DestinationStatus;
use xvs::Error;
use xvs::Event;
use xvs::Instance;
use xvs::OnExit;
use xvs::Options;
use xvs::Service;
use xvs::ServiceKey;
use xvs::Tunnel;

use crate::cycles::client;
use crate::cycles::services;
use crate::lab::Lab;
use crate::lab::VIPS;
use crate::lab::ip;
use crate::lab::vip;
use crate::lab::wait;
use crate::server::Connection;
use crate::server::PATIENCE;
use crate::server::udp_from;
use crate::stream::Stream;
use crate::xdp;

fn keep(lab: &Lab) -> Options {
    lab.options().persist(OnExit::Keep)
}

fn take_over(lab: &Lab) -> Client {
    let client = lab.balancer_with(keep(lab), &["eth0"]).expect("it is taken over");
    let taken = |event: &Event| matches!(event, Event::TakenOver { process } if *process == std::process::id());
    assert!(client.events().iter().any(taken));
    client
}

/// Everything that is told, but for what traffic changes.
fn told(client: &Client) -> Vec<(Service, Vec<Told>)> {
    let way =
        |d: &DestinationExtended| (d.mac.map(|mac| mac.to_string()), d.interface, d.mtu, d.source);
    let all = client.all().expect("it can be read");
    let destination = |d: DestinationExtended| (d.destination.clone(), d.status, way(&d));
    all.into_iter()
        .map(|(service, all)| (service.service, all.into_iter().map(destination).collect()))
        .collect()
}

/// MAC address, interface, MTU and source.
type Way = (Option<String>, Option<u32>, Option<u32>, Option<IpAddr>);
type Told = (Destination, DestinationStatus, Way);

#[test]
fn all_of_it_is_found_as_it_was() {
    let lab = Lab::new(3);
    let first = client(&lab, keep(&lab));
    let all = services();
    let changed = all[0].clone().sticky(true).idle(std::time::Duration::from_secs(77));
    first.update_service(&changed).expect("a setting");
    let heavy = Destination::new(lab.backends[0].v4).weight(9);
    first.update_destination(&changed, &heavy).expect("a weight");
    let idle = Destination::new(lab.backends[1].v4).disabled(true);
    first.update_destination(&changed, &idle).expect("it is disabled");

    let mut connections: Vec<Connection> = lab.client.enter(|| {
        let open = |i: usize| Connection::open(vip(i % 2, 80), PATIENCE).expect("a server answers");
        (0..20).map(open).collect()
    });
    let mut exchange = || {
        connections.iter_mut().for_each(|c| c.exchange(b"still here").expect("it goes on"));
    };
    exchange();
    let before = told(&first);
    let nats = first.instance().nats().expect("it can be read");
    let stats = first.info().expect("it runs").stats;
    let vips = first.vips().expect("it runs").len();
    drop(first);
    exchange();

    let next = take_over(&lab);
    assert_eq!(told(&next), before, "at once, without waiting for anything");
    assert_eq!(next.instance().nats().expect("it can be read"), nats);
    assert_eq!(next.vips().expect("it runs").len(), vips);
    let now = next.info().expect("it runs").stats;
    assert!(now.packets >= stats.packets + 20, "what was counted goes on: {stats:?}, {now:?}");
    assert_eq!(now.flows, stats.flows, "no flow is stored anew");
    exchange();
    assert_eq!(next.info().expect("it runs").stats.flows, stats.flows);
    // Nothing that was taken is given to anybody else.
    let service = Service::tcp(ip(VIPS[2]), 80);
    next.set_service(&service, &[Destination::new(lab.backends[2].v4)]).expect("one more");
    let numbers = next.instance().nats().expect("it can be read");
    let mut addresses: Vec<IpAddr> = numbers.iter().map(|nat| nat.address).collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), nats.len() + 1, "{numbers:?}");
    exchange();
    next.detach().expect("its pins can be removed");
}

#[test]
fn what_no_call_names_goes_when_told() {
    let lab = Lab::new(3);
    drop(client(&lab, keep(&lab)));
    let next = take_over(&lab);
    let all = services();
    let key = |number: usize| all[number].key();
    let found: Vec<ServiceKey> = next.inherited().into_iter().map(|(key, _)| key).collect();
    let mut keys: Vec<ServiceKey> = all.iter().map(Service::key).collect();
    keys.sort_unstable();
    assert_eq!(found, keys);

    // The first: all of it. The second: the service and one server. The third: one server
    // alone. The fourth: nothing.
    let real = |service: &Service, n: usize| {
        let backend = &lab.backends[n];
        Destination::new(if service.address.is_ipv4() { backend.v4 } else { backend.v6 })
    };
    let three: Vec<Destination> = (0..3).map(|n| real(&all[0], n)).collect();
    next.set_service(&all[0], &three).expect("it is taken");
    next.create_service(&all[1]).expect("it is taken");
    let twice = next.create_service(&all[1]).expect_err("it is ours now");
    assert!(matches!(twice, Error::ServiceExists { .. }), "{twice:?}");
    next.create_destination(&all[1], &real(&all[1], 0).weight(3)).expect("it is taken");
    let twice = next.create_destination(&all[1], &real(&all[1], 0)).expect_err("it is ours now");
    assert!(matches!(twice, Error::DestinationExists { .. }), "{twice:?}");
    next.update_destination(&all[2], &real(&all[2], 1).weight(5)).expect("it is there");
    next.update_service(&all[2]).expect("it is there");

    let left = next.inherited();
    let addresses = |number: usize| {
        let found = left.iter().find(|(found, _)| *found == key(number));
        found.map(|(_, addresses)| addresses.len())
    };
    assert_eq!([0, 1, 2, 3].map(addresses), [None, Some(2), Some(2), Some(3)], "{left:?}");
    let removed = next.remove_inherited().expect("it is removed");
    assert_eq!(removed, left);
    assert!(next.inherited().is_empty());
    let now = next.all().expect("it can be read");
    let now: Vec<(ServiceKey, Vec<u32>)> = now
        .into_iter()
        .map(|(service, all)| {
            (service.service.key(), all.iter().map(|d| d.destination.weight).collect())
        })
        .collect();
    let mut right = vec![(key(0), vec![1, 1, 1]), (key(1), vec![3]), (key(2), vec![5])];
    right.sort_unstable();
    assert_eq!(now, right);
    assert!(next.remove_inherited().expect("nothing is left").is_empty());
    next.detach().expect("its pins can be removed");
}

#[test]
fn neighbours_that_the_kernel_has_forgotten_are_known() {
    let lab = Lab::new(3);
    drop(client(&lab, keep(&lab)));
    let stream = Stream::start(&lab, 2_000);
    stream.go_on(200);
    // As it does after a while where it does not keep them.
    lab.lb.sh("ip neigh flush dev eth0; ip -6 neigh flush dev eth0
               ip neigh show | cut -d' ' -f1 | xargs -rn1 ip neigh del dev eth0 2>/dev/null || true
               ip -6 neigh show | cut -d' ' -f1 | xargs -rn1 ip neigh del dev eth0 2>/dev/null || true");
    let next = take_over(&lab);
    let statuses = next.all().expect("it can be read");
    assert!(statuses.iter().all(|(service, _)| service.usable == 3), "{statuses:?}");
    stream.go_on(2_000);
    let ended = stream.end(&lab);
    assert_eq!((ended.lost, ended.moved), (0, 0), "{ended:?}");
    wait("the kernel has them again", PATIENCE, || {
        let entries = lab.lb.sh("ip neigh show dev eth0; ip -6 neigh show dev eth0");
        let known = |b: &crate::lab::Backend| {
            [b.v4, b.v6].iter().all(|a| {
                entries.lines().any(|l| l.starts_with(&format!("{a} ")) && l.contains("lladdr"))
            })
        };
        lab.backends.iter().all(known).then_some(())
    });
    next.detach().expect("its pins can be removed");
}

#[test]
fn ways_through_tunnels_are_found_as_they_were() {
    let lab = Lab::behind_routers(2, 2);
    lab.lb.sh(&format!(
        "ip route add 10.1.9.0/24 nexthop via {} nexthop via {}
         ip route add fd00:1:9::/64 via {}",
        lab.routers[0].gateways[0], lab.routers[1].gateways[0], lab.routers[0].gateways[1],
    ));
    let first = lab.balancer_with(keep(&lab), &["eth0"]).expect("a balancer");
    let tunnels = [Tunnel::Ipip, Tunnel::Gre, Tunnel::fou(6080), Tunnel::gue(6081)];
    for (port, tunnel) in (1000..).zip(tunnels) {
        for (vip, server) in [(0, lab.backends[0].v4), (1, lab.backends[1].v6)] {
            let service = Service::tcp(ip(VIPS[vip]), port);
            let destination = Destination::new(server).tunnel(tunnel);
            first.set_service(&service, &[destination]).expect("a service");
            wait("it is usable", PATIENCE, || {
                (first.service(&service).expect("it is there").usable == 1).then_some(())
            });
        }
    }
    let before = told(&first);
    assert!(before.iter().all(|(_, all)| all[0].2.3.is_some()), "{before:?}");
    drop(first);
    let next = take_over(&lab);
    assert_eq!(told(&next), before);
    next.detach().expect("its pins can be removed");
}

#[test]
fn an_interface_that_is_named_no_longer_is_left() {
    let lab = Lab::with_two_subnets(1);
    let both = lab.balancer_with(keep(&lab), &["eth0", "eth1"]).expect("a balancer");
    drop(both);
    assert!(xdp::attached(&lab.lb, "eth0").is_some() && xdp::attached(&lab.lb, "eth1").is_some());
    let one = take_over(&lab);
    assert!(xdp::attached(&lab.lb, "eth0").is_some());
    assert_eq!(xdp::attached(&lab.lb, "eth1"), None);
    drop(one);
    let both = lab.balancer_with(keep(&lab), &["eth0", "eth1"]).expect("it is taken over");
    assert!(xdp::attached(&lab.lb, "eth1").is_some(), "one more is attached to");
    both.detach().expect("its pins can be removed");
    assert_eq!(xdp::attached(&lab.lb, "eth0"), None);
    assert_eq!(xdp::attached(&lab.lb, "eth1"), None);
    assert!(Instance::list(lab.bpffs()).expect("it is mounted").is_empty());
}

#[test]
fn an_interface_that_is_gone_meanwhile_is_made_good() {
    let lab = Lab::new(2);
    drop(client(&lab, keep(&lab)));
    lab.lb.sh("ip link del eth0");
    lab.plug_balancer();
    let next = client(&lab, keep(&lab));
    let answered = lab.client.enter(|| Connection::open(vip(0, 80), PATIENCE));
    assert!(answered.is_ok(), "{:?}", answered.err());
    next.detach().expect("its pins can be removed");
    assert!(Instance::list(lab.bpffs()).expect("it is mounted").is_empty());
}

#[test]
fn an_interface_that_came_later_stays_as_well() {
    let lab = Lab::new(1);
    let first = client(&lab, keep(&lab));
    lab.lb.sh("ip link del eth0");
    lab.plug_balancer();
    wait("it is attached to again", PATIENCE, || xdp::attached(&lab.lb, "eth0"));
    let mut connection = wait("it forwards again", PATIENCE, || {
        lab.client.enter(|| Connection::open(vip(0, 80), PATIENCE)).ok()
    });
    connection.exchange(b"before").expect("it goes on");
    let stored = first.info().expect("it runs").stats.flows;
    drop(first);
    assert!(xdp::attached(&lab.lb, "eth0").is_some());
    connection.exchange(b"meanwhile").expect("it goes on");
    let next = take_over(&lab);
    connection.exchange(b"afterwards").expect("it goes on");
    assert_eq!(next.info().expect("it runs").stats.flows, stored, "its flow is the same");
    next.detach().expect("its pins can be removed");
}

#[test]
fn without_a_usable_server_nothing_is_forwarded() {
    let lab = Lab::new(1);
    drop(client(&lab, keep(&lab)));
    lab.backends[0].namespace.sh("ip link set eth0 down");
    lab.lb.sh("ip neigh flush dev eth0; ip -6 neigh flush dev eth0");
    let socket = lab.lb.enter(|| udp_from(ip("0.0.0.0"), 0));
    let failed = || {
        let entries = lab.lb.sh(&format!("ip neigh show {} dev eth0", lab.backends[0].v4));
        if entries.is_empty() {
            // Where the kernel does not ask by itself, somebody has to: once, for it
            // does not give up while it is asked again and again.
            let _ = socket.send_to(b"", (lab.backends[0].v4, 9));
        }
        entries.contains("FAILED").then_some(())
    };
    wait("the kernel has given the server up", 2 * PATIENCE, failed);
    let next = take_over(&lab);
    let service = Service::tcp(vip(0, 80).ip(), 80);
    assert_eq!(next.service(&service).expect("it is there").usable, 0);
    let before = next.info().expect("it runs").stats.reasons.no_destination;
    let refused =
        lab.client.enter(|| Connection::open(vip(0, 80), std::time::Duration::from_millis(300)));
    assert!(refused.is_err());
    assert!(next.info().expect("it runs").stats.reasons.no_destination > before);

    // What is not to get new flows gets none when it is back.
    let idle = Destination::new(lab.backends[0].v4).disabled(true);
    next.set_service(&service, &[idle]).expect("it can be set");
    lab.backends[0].namespace.sh("ip link set eth0 up");
    wait("it answers again", 2 * PATIENCE, || {
        let all = next.destinations(&service).expect("it is there");
        (all[0].status == DestinationStatus::Reachable).then_some(())
    });
    let before = next.info().expect("it runs").stats.reasons.no_destination;
    let refused =
        lab.client.enter(|| Connection::open(vip(0, 80), std::time::Duration::from_millis(300)));
    assert!(refused.is_err());
    assert!(next.info().expect("it runs").stats.reasons.no_destination > before);
    next.detach().expect("its pins can be removed");
}

#[test]
fn half_a_probe_interface_is_made_anew() {
    let lab = Lab::new(1);
    for pin in ["link_probe_pass", "link_probe_request"] {
        drop(client(&lab, keep(&lab)));
        std::fs::remove_file(lab.bpffs().join("xvs/lab").join(pin)).expect("it is pinned");
        let next = take_over(&lab);
        let nat = next.nat(ip(VIPS[0]), lab.backends[0].v4).expect("it has one");
        let answers =
            lab.lb.enter(|| Connection::open(std::net::SocketAddr::new(nat, 80), PATIENCE));
        assert!(answers.is_ok(), "{pin}: {:?}", answers.err());
        next.detach().expect("its pins can be removed");
    }
}

#[test]
fn an_address_for_probes_rests_also_over_a_restart() {
    let lab = Lab::new(3);
    let service = Service::tcp(ip(VIPS[0]), 80);
    let first = lab.balancer_with(keep(&lab), &["eth0"]).expect("a balancer");
    let real = |n: usize| Destination::new(lab.backends[n].v4);
    first.set_service(&service, &[real(0), real(1)]).expect("a service");
    let gone = first.nat_service(&service, lab.backends[1].v4).expect("it has one");
    first.remove_destination(&service, &real(1)).expect("it goes");
    drop(first);
    let next = take_over(&lab);
    next.create_destination(&service, &real(2)).expect("another one");
    let new = next.nat_service(&service, lab.backends[2].v4).expect("it has one");
    assert_ne!(new, gone, "nobody is told of one server what another one answers");
    next.detach().expect("its pins can be removed");
}
