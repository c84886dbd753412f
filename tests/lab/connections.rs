//! Many connections at once, while the destinations change.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use xvs::Client;
use xvs::Destination;
use xvs::Service;
use xvs::Stats;

use super::web::serve;
use super::web::usable;
use crate::lab::Lab;
use crate::lab::vip;
use crate::talk::by_server;
use crate::talk::open;
use crate::talk::talk;

/// How many connections there are.
const CONNECTIONS: usize = 1000;

#[test]
fn only_connections_of_a_removed_destination_break() {
    let lab = Lab::new(5);
    let balancer = lab.balancer();
    let services = [0, 1].map(|n| Service::tcp(vip(n, 80).ip(), 80));
    let real = |service: &Service, n: usize| {
        if service.address.is_ipv4() { lab.backends[n].v4 } else { lab.backends[n].v6 }
    };
    for service in &services {
        serve(&lab, &balancer, service);
        balancer.remove_destination(service, &Destination::new(real(service, 4))).expect("b5 goes");
        usable(&balancer, service, 4);
    }
    let connections = open(&lab, CONNECTIONS);
    let at_first = by_server(&connections);
    println!("1,000 connections: {at_first:?}");
    assert_eq!(at_first.values().sum::<usize>(), CONNECTIONS);
    // 250 expected, standard deviation 13.7.
    for name in ["b1", "b2", "b3", "b4"] {
        assert!((180..=320).contains(&at_first[name]), "{at_first:?}");
    }

    let nobody = BTreeMap::new();
    talk(connections, |talk| {
        assert_eq!(talk.go_on(), nobody, "nothing has changed yet");

        for service in &services {
            let b5 = Destination::new(real(service, 4));
            balancer.create_destination(service, &b5).expect("b5 is added");
            usable(&balancer, service, 5);
        }
        assert_eq!(talk.go_on(), nobody, "broken by adding b5");
        let new = by_server(&open(&lab, 200));
        println!("b5 added: none broken, 200 new ones: {new:?}");
        assert_eq!(new.len(), 5, "{new:?}");

        for service in &services {
            let b2 = Destination::new(real(service, 1)).disabled(true);
            balancer.update_destination(service, &b2).expect("b2 is disabled");
            usable(&balancer, service, 4);
        }
        assert_eq!(talk.go_on(), nobody, "broken by disabling b2");
        let new = by_server(&open(&lab, 200));
        println!("b2 disabled: none broken, 200 new ones: {new:?}");
        assert!(new.len() == 4 && !new.contains_key("b2"), "{new:?}");

        for service in &services {
            let b3 = Destination::new(real(service, 2));
            balancer.remove_destination(service, &b3).expect("b3 is removed");
            usable(&balancer, service, 3);
        }
        let broken = talk.go_on();
        let new = by_server(&open(&lab, 200));
        println!("b3 removed: broken {broken:?}, 200 new ones: {new:?}");
        assert_eq!(broken, BTreeMap::from([("b3".to_owned(), at_first["b3"])]));
        assert!(new.len() == 3 && !new.contains_key("b2") && !new.contains_key("b3"), "{new:?}");
    });
}

fn sum(balancer: &Client, services: &[Service], number: fn(&Stats) -> u64) -> u64 {
    services.iter().map(|s| number(&balancer.service(s).expect("it is there").stats)).sum()
}

/// Waits until the number is right to 2 %, at the destinations too.
fn becomes(balancer: &Client, services: &[Service], number: fn(&Stats) -> u64, right: u64) {
    let start = Instant::now();
    let limit = Duration::from_secs(5);
    let mut last: u64 = 0;
    while last.abs_diff(right) * 50 > right {
        assert!(start.elapsed() < limit, "{last} instead of {right} after {limit:?}");
        thread::sleep(Duration::from_millis(10));
        last = sum(balancer, services, number);
    }
    println!("{last} for {right} after {:?}", start.elapsed());
    let of_destinations: u64 = services
        .iter()
        .flat_map(|s| balancer.destinations(s).expect("it is there"))
        .map(|d| number(&d.stats))
        .sum();
    assert!(of_destinations.abs_diff(right) * 50 <= right, "{of_destinations} of {right}");
    let of_all = number(&balancer.info().expect("it runs").stats);
    assert!(of_all.abs_diff(right) * 50 <= right, "{of_all} of {right}");
}

#[test]
fn active_connections_are_right_within_five_seconds() {
    let lab = Lab::new(4);
    let balancer = lab.balancer();
    let services = [0, 1].map(|n| Service::tcp(vip(n, 80).ip(), 80));
    for service in &services {
        serve(&lab, &balancer, service);
    }
    let mut connections = open(&lab, CONNECTIONS);
    becomes(&balancer, &services, |s| s.active, 1000);
    becomes(&balancer, &services, |s| s.recent, 1000);
    let closed = connections.split_off(CONNECTIONS / 2);
    for (i, connection) in closed.into_iter().enumerate() {
        match i % 5 {
            0 => connection.reset(),
            _ => drop(connection),
        }
    }
    becomes(&balancer, &services, |s| s.active, 500);
    becomes(&balancer, &services, |s| s.recent, 1000);
    assert_eq!(sum(&balancer, &services, |s| s.flows), 1000, "each flow is stored once");
    for connection in &mut connections {
        connection.exchange(b"still here").expect("the other half goes on");
    }
}
