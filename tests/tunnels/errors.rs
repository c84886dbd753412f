//! An ICMP error about a packet that a VIP sent reaches the server that sent it.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use xvs::Client;
use xvs::Destination;
use xvs::Mode;
use xvs::Service;
use xvs::Tunnel;

use crate::GUE;
use crate::balancer;
use crate::frame::ACK;
use crate::frame::ETHERNET;
use crate::frame::Ip;
use crate::lab::Lab;
use crate::lab::ip;
use crate::lab::vip;
use crate::options;
use crate::serve;
use crate::server::Connection;
use crate::server::PATIENCE;
use crate::take_out;
use crate::wire::Wire;
use crate::xdp;

/// The hardware addresses of the client and of `lb`.
const CLIENT: [u8; 6] = [2, 0, 0, 0, 0, 0x64];
const LB: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Three servers behind tunnels.
fn start(lab: &Lab) -> Client {
    let balancer = balancer(lab, options(lab));
    let [a, b, c] = [0, 1, 2].map(|i| &lab.backends[i]);
    for number in [0, 1] {
        let service = Service::tcp(vip(number, 80).ip(), 80);
        let destinations = [
            Destination::new(a.v4).tunnel(Tunnel::Ipip),
            Destination::new(b.v6).tunnel(Tunnel::Gre),
            Destination::new(c.v4).tunnel(Tunnel::gue(GUE)),
        ];
        serve(&balancer, &service, &destinations);
    }
    balancer
}

/// An error about an answer to a client, and its message alone. All differ by the
/// identifier that routers may set.
fn error(from: SocketAddr, to: SocketAddr, whole: bool) -> (Vec<u8>, Vec<u8>) {
    let v4 = from.is_ipv4();
    let answer = Ip::new(to.ip(), from.ip()).tcp((to.port(), from.port()), ACK, &[7; 400]);
    let header = if v4 { 20 } else { 40 };
    let end = if whole { answer.len() } else { ETHERNET + header + 8 };
    let quote = &answer[ETHERNET..end];
    let router = ip(if v4 { "10.1.2.99" } else { "fd00:1:2::99" });
    let packet = Ip::new(router, to.ip()).macs(CLIENT, LB);
    let frame = if v4 {
        packet.icmp(3, 4, [0, 0, 5, 0], quote)
    } else {
        packet.icmp(2, 0, [0, 0, 5, 0], quote)
    };
    let message = frame[ETHERNET + header..].to_vec();
    (frame, message)
}

/// Sends an error about each connection; who gets them.
fn reach_their_owners(lab: &Lab, title: &str, connections: &[(SocketAddr, SocketAddr, String)]) {
    let index = xdp::index(&lab.client, "eth0");
    let client = lab.client.enter(Wire::new);
    let servers: Vec<Wire> =
        lab.backends.iter().map(|backend| backend.namespace.enter(Wire::new)).collect();
    for whole in [false, true] {
        for (from, to, owner) in connections {
            let (frame, message) = error(*from, *to, whole);
            client.send(index, &frame);
            let mut got: Vec<&str> = Vec::new();
            let deadline = Instant::now() + PATIENCE;
            while got.is_empty() {
                for (wire, backend) in servers.iter().zip(&lab.backends) {
                    while let Some(arrival) = wire.receive() {
                        if arrival.frame.ends_with(&message) {
                            got.push(&backend.name);
                        }
                    }
                }
                assert!(Instant::now() < deadline, "{title}: {from}: nobody got an error");
                thread::sleep(Duration::from_micros(200));
            }
            assert_eq!(got, [owner], "{title}: {from} to {to}");
        }
    }
    // What had gone elsewhere as well would be there by now.
    for (wire, backend) in servers.iter().zip(&lab.backends) {
        let rest = std::iter::from_fn(|| wire.receive());
        let errors = rest.filter(|arrival| {
            connections.iter().any(|(from, to, _)| {
                [false, true]
                    .iter()
                    .any(|whole| arrival.frame.ends_with(&error(*from, *to, *whole).1))
            })
        });
        assert_eq!(errors.count(), 0, "{title}: {} got some twice", backend.name);
    }
}

#[test]
fn errors_reach_the_owner_through_its_tunnel() {
    let lab = Lab::new(3);
    let decap = take_out(&lab, Mode::Native);
    let mut balancer = Some(start(&lab));
    let mut held = Vec::new();
    let mut connections = Vec::new();
    for (number, from) in [(0, "10.1.2.100"), (1, "fd00:1:2::100")] {
        for port in 40_000..40_012 {
            let (from, to) = (SocketAddr::new(ip(from), port), vip(number, 80));
            let connection = lab.client.enter(|| Connection::open_from(from, to));
            let mut connection = connection.expect("a server answers");
            connection.exchange(b"hello").expect("it goes on");
            connections.push((from, to, connection.server.clone()));
            held.push(connection);
        }
    }
    for backend in &lab.backends {
        assert!(connections.iter().any(|(.., owner)| *owner == backend.name), "{connections:?}");
    }
    reach_their_owners(&lab, "by flows", &connections);
    let reasons = balancer.as_ref().expect("it runs").info().expect("info").stats.reasons;
    assert!(reasons.forwarded_icmp >= 48, "{reasons:?}");

    // A new balancer has no flows, and the same tables.
    drop(balancer.take());
    balancer = Some(start(&lab));
    reach_their_owners(&lab, "by the hash", &connections);
    let reasons = balancer.as_ref().expect("it runs").info().expect("info").stats.reasons;
    assert_eq!(reasons.forwarded_flow, 0, "{reasons:?}");
    for connection in &mut held {
        connection.exchange(b"still here").expect("the errors and the restart did no harm");
    }
    for decap in &decap {
        println!("{:?}", decap.stats().expect("counters"));
    }
}
