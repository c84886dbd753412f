//! Requests reach servers, over both families, however the network is built.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use xvs::Client;
use xvs::Destination;
use xvs::DestinationStatus;
use xvs::Event;
use xvs::Mode;
use xvs::Service;
use xvs::ServiceStatus;

use crate::lab::Lab;
use crate::lab::UDP;
use crate::lab::ip;
use crate::lab::vip;
use crate::lab::wait;
use crate::server::Connection;
use crate::server::PATIENCE;
use crate::server::Server;
use crate::server::ask;
use crate::server::udp_from;

/// A service with all backends of the lab, by addresses of the VIP's family,
/// once each of them is usable.
pub fn serve(lab: &Lab, balancer: &Client, service: &Service) {
    let destinations: Vec<Destination> = lab
        .backends
        .iter()
        .map(|b| Destination::new(if service.address.is_ipv4() { b.v4 } else { b.v6 }))
        .collect();
    balancer.set_service(service, &destinations).expect("the service is made");
    usable(balancer, service, destinations.len());
}

/// Waits until so many destinations of the service are usable.
pub fn usable(balancer: &Client, service: &Service, number: usize) {
    wait(&format!("{number} usable destinations of {service}"), PATIENCE, || {
        (balancer.service(service).expect("the service is there").usable == number).then_some(())
    });
}

/// How many of so many requests each server answered.
fn requests(lab: &Lab, to: SocketAddr, number: usize) -> BTreeMap<String, usize> {
    lab.client.enter(|| {
        let mut answered = BTreeMap::new();
        for _ in 0..number {
            let mut connection = Connection::open(to, PATIENCE).expect("a server answers");
            connection.exchange(b"GET / HTTP/1.0\r\n\r\n").expect("it goes on answering");
            *answered.entry(connection.server).or_default() += 1;
        }
        answered
    })
}

fn reaches_all(lab: &Lab, balancer: &Client) {
    for number in [0, 1] {
        let to = vip(number, 80);
        serve(lab, balancer, &Service::tcp(to.ip(), to.port()));
        let answered = requests(lab, to, 100);
        println!("{to}: {answered:?}");
        assert_eq!(answered.len(), lab.backends.len(), "{to}: {answered:?}");
        // Five standard deviations, which are at most 4.8.
        let mean = 100 / lab.backends.len();
        assert!(answered.values().all(|n| n.abs_diff(mean) <= 24), "{to}: {answered:?}");
    }
}

#[test]
fn requests_reach_all_backends() {
    let lab = Lab::new(4);
    reaches_all(&lab, &lab.balancer());
}

#[test]
fn requests_reach_all_backends_in_generic_mode() {
    let lab = Lab::new(4);
    let options = lab.options().mode(Mode::Generic);
    let balancer = lab.balancer_with(options, &["eth0"]).expect("it starts");
    assert_eq!(balancer.info().expect("it runs").interfaces[0].mode, Mode::Generic);
    reaches_all(&lab, &balancer);
}

/// The addresses are on a MAC VLAN: frames for its MAC address are taken, and
/// leave by the interface below.
#[test]
fn requests_reach_all_backends_by_a_mac_vlan() {
    for mode in [Mode::Native, Mode::Generic] {
        let lab = Lab::new(3);
        lab.move_to_mac_vlan();
        let balancer = lab.balancer_with(lab.options().mode(mode), &["eth0"]).expect("it starts");
        reaches_all(&lab, &balancer);
    }
}

#[test]
fn requests_cross_from_one_interface_to_another() {
    let lab = Lab::with_two_subnets(4);
    let balancer = lab.balancer_with(lab.options(), &["eth0", "eth1"]).expect("it starts");
    reaches_all(&lab, &balancer);
    // What is not the balancer's business passes: the host itself is reached.
    let _server = Server::start(&lab.lb, "lb", &[80], &[]);
    for host in ["10.1.9.1:80", "[fd00:1:9::1]:80"] {
        let host = host.parse().expect("a socket address");
        assert_eq!(requests(&lab, host, 1), BTreeMap::from([("lb".to_owned(), 1)]));
    }
}

#[test]
fn destinations_of_the_other_family_serve_a_vip() {
    let lab = Lab::new(2);
    let balancer = lab.balancer();
    let service = Service::tcp(ip("fd00:100::1"), 80);
    let both = [Destination::new(lab.backends[0].v4), Destination::new(lab.backends[1].v6)];
    balancer.set_service(&service, &both).expect("families may be mixed");
    usable(&balancer, &service, 2);
    assert_eq!(requests(&lab, vip(1, 80), 40).len(), 2);
}

#[test]
fn the_first_request_succeeds_within_a_second() {
    let lab = Lab::new(1);
    let balancer = lab.balancer();
    for (number, real) in [(0, lab.backends[0].v4), (1, lab.backends[0].v6)] {
        let service = Service::udp(ip(crate::lab::VIPS[number]), UDP);
        balancer.create_service(&service).expect("the service is made");
        lab.lb.sh("ip neigh flush all; ip -6 neigh flush all");
        let socket = lab.client.enter(|| udp_from(ip(["0.0.0.0", "::"][number]), 0));
        let start = Instant::now();
        balancer.create_destination(&service, &Destination::new(real)).expect("it is added");
        let created = start.elapsed();
        ask(&socket, vip(number, UDP), Duration::from_millis(2)).expect("the server answers");
        let taken = start.elapsed();
        println!("{real}: the call took {created:?}, the first answer came after {taken:?}");
        assert!(taken < Duration::from_secs(1), "{taken:?}");
    }
}

#[test]
fn a_backend_that_comes_up_later_is_used() {
    let lab = Lab::new(2);
    let balancer = lab.balancer();
    lab.sw.sh("ip link set b2 down");
    for number in [0, 1] {
        let to = vip(number, 80);
        let service = Service::tcp(to.ip(), to.port());
        let real = |n: usize| {
            if number == 0 { lab.backends[n].v4 } else { lab.backends[n].v6 }
        };
        let both = [Destination::new(real(0)), Destination::new(real(1))];
        balancer.set_service(&service, &both).expect("the service is made");
        let status = |n: usize| {
            let all = balancer.destinations(&service).expect("the service is there");
            all.iter().find(|d| d.destination.address == real(n)).expect("it is there").status
        };
        wait("b1 is used, b2 is known to be silent", 2 * PATIENCE, || {
            (status(0) == DestinationStatus::Reachable
                && status(1) == DestinationStatus::NoNeighbour)
                .then_some(())
        });
        assert_eq!(requests(&lab, to, 20).len(), 1);
    }
    balancer.events();
    lab.sw.sh("ip link set b2 up");
    let start = Instant::now();
    for number in [0, 1] {
        let service = Service::tcp(vip(number, 80).ip(), 80);
        wait(&format!("b2 is used for {service}"), 3 * PATIENCE, || {
            (balancer.service(&service).expect("it is there").usable == 2).then_some(())
        });
        println!("{service}: b2 used {:?} after it came up", start.elapsed());
        assert_eq!(requests(&lab, vip(number, 80), 40).len(), 2);
    }
    let resolved = balancer.events();
    for real in [lab.backends[1].v4, lab.backends[1].v6] {
        let told = |e: &Event| matches!(e, Event::Resolved { address, .. } if *address == real);
        assert!(resolved.iter().any(told), "{real} in {resolved:?}");
    }
}

#[test]
fn a_destination_outside_every_prefix_is_shown_unreachable() {
    let lab = Lab::new(1);
    let balancer = lab.balancer();
    let service = Service::tcp(ip("192.168.100.1"), 80);
    let outside = ip("10.77.0.1");
    balancer.set_service(&service, &[Destination::new(outside)]).expect("it may come later");
    let shown = &balancer.destinations(&service).expect("it is there")[0];
    assert_eq!(shown.status, DestinationStatus::NoPrefix);
    let status = balancer.service(&service).expect("it is there").status;
    assert_eq!(status, ServiceStatus::Unreachable(outside, DestinationStatus::NoPrefix));
    let refused = lab.client.enter(|| Connection::open(vip(0, 80), Duration::from_millis(100)));
    assert!(refused.is_err(), "nobody can answer");
    let dropped = balancer.service(&service).expect("it is there").stats.reasons.no_destination;
    assert!(dropped > 0, "the drop is counted for the service");

    balancer
        .create_destination(&service, &Destination::new(lab.backends[0].v4))
        .expect("a reachable one joins");
    usable(&balancer, &service, 1);
    assert_eq!(requests(&lab, vip(0, 80), 5).len(), 1);
}
