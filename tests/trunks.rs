//! VLAN trunks with the kernel's own 802.1Q devices and bonds: a client, a
//! balancer and backends in VLANs of their own.

#[path = "common/features.rs"]
mod features;
#[path = "common/lab.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod lab;
#[path = "common/netns.rs"]
mod netns;
#[path = "common/random.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod random;
#[path = "common/server.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod server;
#[path = "common/sniffer.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod sniffer;
#[path = "common/stream.rs"]
mod stream;
#[path = "common/xdp.rs"]
mod xdp;
#[path = "common/xvsctl.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod xvsctl;

#[path = "trunks/bonds.rs"]
mod bonds;
#[path = "trunks/devices.rs"]
mod devices;
#[path = "trunks/taken_over.rs"]
mod taken_over;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use lab::Lab;
use lab::UDP;
use lab::VIPS;
use lab::ip;
use lab::vip;
use lab::wait;
use server::Connection;
use server::PATIENCE;
use server::ask;
use server::udp_from;
use xvs::Client;
use xvs::Destination;
use xvs::Service;

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

/// Asks until every backend has answered.
fn reaches_all(lab: &Lab, to: SocketAddr) {
    let mut missing: BTreeSet<&str> = lab.backends.iter().map(|b| b.name.as_str()).collect();
    // Of three backends one is missed once in a million times.
    for _ in 0..36 {
        let server = lab.client.enter(|| {
            let mut connection = Connection::open(to, PATIENCE).expect("a server answers");
            connection.exchange(b"GET / HTTP/1.0\r\n\r\n").expect("it goes on answering");
            connection.server
        });
        missing.remove(server.as_str());
        if missing.is_empty() {
            return;
        }
    }
    panic!("{to}: no answer by {missing:?}");
}

/// Requests over both families reach all backends, from one VLAN to another.
fn requests_cross(lab: &Lab, balancer: &Client) {
    for (number, address) in VIPS[..2].iter().enumerate() {
        let address = ip(address);
        serve(lab, balancer, &Service::tcp(address, 80));
        serve(lab, balancer, &Service::udp(address, UDP));
        reaches_all(lab, vip(number, 80));
        let answer = lab.client.enter(|| {
            let any = if address.is_ipv4() { "0.0.0.0" } else { "::" };
            ask(&udp_from(ip(any), 0), vip(number, UDP), PATIENCE).expect("a server answers")
        });
        assert!(lab.backends.iter().any(|b| b.name == answer), "{answer}");
    }
    let reasons = balancer.info().expect("info").stats.reasons;
    assert!(reasons.forwarded_syn >= 2 * lab.backends.len() as u64, "{reasons:?}");
}
