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
    next.detach();
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
    next.detach();
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
    let ended = stream.end();
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
    next.detach();
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
    next.detach();
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
    both.detach();
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
    next.detach();
    assert!(Instance::list(lab.bpffs()).expect("it is mounted").is_empty());
}
