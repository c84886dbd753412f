//! VLAN trunks with the kernel's own 802.1Q devices: a client, a balancer and
//! backends in VLANs of their own.

#[path = "common/lab.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod lab;
#[path = "common/netns.rs"]
mod netns;
#[path = "common/server.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod server;
#[path = "common/xdp.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod xdp;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use lab::Lab;
use lab::UDP;
use lab::VIPS;
use lab::ip;
use lab::vip;
use lab::wait;
use netns::Namespace;
use server::Connection;
use server::PATIENCE;
use server::ask;
use server::udp_from;
use xvs::Client;
use xvs::Destination;
use xvs::DestinationStatus;
use xvs::Mode;
use xvs::Options;
use xvs::Service;

/// A lab on a trunk, unless the kernel has no 802.1Q devices.
fn lab(backends: usize) -> Option<Lab> {
    let probe = Namespace::new("vlan");
    let made = probe.sh("ip link add trunk type veth peer name other
         ip link add link trunk name trunk.7 type vlan id 7 2>/dev/null && echo yes || echo no");
    if made.trim() == "no" {
        println!("skipped: the kernel has no 802.1Q devices (module 8021q)");
        return None;
    }
    Some(Lab::on_a_trunk(backends))
}

/// Both VLANs by their ids, the backends' one first.
fn options(lab: &Lab) -> Options {
    let prefix = |text: &str| text.parse().expect("a prefix");
    let base = Options::new().instance("lab").bpffs(lab.bpffs()).mode(Mode::Native).flows(65_536);
    base.vlan(20, prefix("10.1.2.0/24"))
        .vlan(20, prefix("fd00:1:2::/64"))
        .vlan(90, prefix("10.1.9.0/24"))
        .vlan(90, prefix("fd00:1:9::/64"))
}

/// A service with all backends, once they are usable.
fn serve(lab: &Lab, balancer: &Client, service: &Service) {
    let v4 = service.address.is_ipv4();
    let destinations: Vec<Destination> =
        lab.backends.iter().map(|b| Destination::new(if v4 { b.v4 } else { b.v6 })).collect();
    balancer.set_service(service, &destinations).expect("the service is made");
    wait("usable destinations", PATIENCE, || {
        let usable = balancer.service(service).expect("the service is there").usable;
        (usable == destinations.len()).then_some(())
    });
}

/// Names of the servers that so many requests reach.
fn reached(lab: &Lab, to: SocketAddr, requests: usize) -> BTreeSet<String> {
    lab.client.enter(|| {
        (0..requests)
            .map(|_| {
                let mut connection = Connection::open(to, PATIENCE).expect("a server answers");
                connection.exchange(b"GET / HTTP/1.0\r\n\r\n").expect("it goes on answering");
                connection.server
            })
            .collect()
    })
}

fn requests_cross(mode: Mode) {
    let Some(lab) = lab(3) else { return };
    let balancer = lab.balancer_with(options(&lab).mode(mode), &["eth0"]).expect("it starts");
    let names: BTreeSet<String> = lab.backends.iter().map(|b| b.name.clone()).collect();
    for (number, address) in VIPS[..2].iter().enumerate() {
        let address = ip(address);
        serve(&lab, &balancer, &Service::tcp(address, 80));
        serve(&lab, &balancer, &Service::udp(address, UDP));
        assert_eq!(reached(&lab, vip(number, 80), 30), names, "{address}");
        let answer = lab.client.enter(|| {
            let any = if address.is_ipv4() { "0.0.0.0" } else { "::" };
            ask(&udp_from(ip(any), 0), vip(number, UDP), PATIENCE).expect("a server answers")
        });
        assert!(names.contains(&answer), "{answer}");
    }
    let reasons = balancer.info().expect("info").stats.reasons;
    assert!(reasons.forwarded_syn >= 60, "{reasons:?}");
}

#[test]
fn requests_cross_from_one_vlan_to_another() {
    requests_cross(Mode::Native);
}

#[test]
fn requests_cross_in_generic_mode() {
    requests_cross(Mode::Generic);
}

/// While a VLAN's device is away its destinations get no new flows; connections
/// that there are go on when it is back, though it is another interface then.
#[test]
fn a_vlan_device_may_go_and_come_back() {
    let Some(lab) = lab(2) else { return };
    let balancer = lab.balancer_with(options(&lab), &["eth0"]).expect("it starts");
    for (number, address) in VIPS[..2].iter().enumerate() {
        let service = Service::tcp(ip(address), 80);
        serve(&lab, &balancer, &service);
        let status = |right: DestinationStatus| {
            wait("the destinations' status", PATIENCE, || {
                let all = balancer.destinations(&service).expect("the service is there");
                all.iter().all(|d| d.status == right).then_some(())
            });
        };
        let mut held: Vec<Connection> = lab.client.enter(|| {
            (0..20).map(|_| Connection::open(vip(number, 80), PATIENCE).expect("open")).collect()
        });
        lab.lb.sh("ip link del eth0.20");
        status(DestinationStatus::NoInterface);
        lab.add_vlan(2);
        status(DestinationStatus::Reachable);
        lab.client.enter(|| {
            for connection in &mut held {
                connection.exchange(b"still there?").expect("the same server goes on");
            }
        });
    }
}
