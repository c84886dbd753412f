//! Many probes at once.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Barrier;
use std::thread;

use xvs::Destination;
use xvs::Service;

use crate::checker::any;
use crate::checker::octets;
use crate::lab::Lab;
use crate::lab::VIPS;
use crate::lab::ip;
use crate::reasons;
use crate::server::Connection;
use crate::server::Server;
use crate::tunnelled::address;
use crate::tunnelled::serve;

/// The services' ports, half of each family's VIP.
const PORTS: [u16; 10] = [9_000, 9_001, 9_002, 9_003, 9_004, 9_005, 9_006, 9_007, 9_008, 9_009];

/// A pair of a service and a destination.
struct Pair {
    to: SocketAddr,
    /// What the server of that port there tells.
    name: String,
}

/// Of a thousand connections to a hundred pairs each hundred has one source port.
#[test]
fn a_thousand_probes_from_equal_ports_reach_their_servers() {
    let lab = Lab::new(10);
    lab.lb.sh("sysctl -qw net.ipv4.tcp_syn_retries=2");
    let mut servers = Vec::new();
    for backend in &lab.backends {
        for port in PORTS {
            let name = format!("{}:{port}", backend.name);
            servers.push(Server::start(&backend.namespace, &name, &[port], &[]));
        }
    }
    let balancer = lab.balancer();
    let mut pairs = Vec::new();
    for port in PORTS {
        let number = usize::from(port % 2);
        let service = Service::tcp(ip(VIPS[number]), port);
        let addresses: Vec<IpAddr> = lab.backends.iter().map(|b| address(b, number)).collect();
        let destinations: Vec<Destination> =
            addresses.iter().copied().map(Destination::new).collect();
        serve(&balancer, &service, &destinations);
        for (backend, server) in lab.backends.iter().zip(addresses) {
            let nat = balancer.nat_service(&service, server).expect("it has one");
            let name = format!("{}:{port}", backend.name);
            pairs.push(Pair { to: SocketAddr::new(nat, port), name });
        }
    }

    let all_open = Barrier::new(10);
    let (pairs, all_open) = (&pairs, &all_open);
    lab.lb.enter(|| {
        thread::scope(|scope| {
            for source in 20_000..20_010 {
                scope.spawn(move || {
                    let open = |pair: &Pair| {
                        let from = SocketAddr::new(any(pair.to.ip()), source);
                        Connection::open_from(from, pair.to)
                    };
                    // The first that fails is enough.
                    let mut opened = Vec::new();
                    for pair in pairs {
                        opened.push(open(pair));
                        if opened.last().is_some_and(Result::is_err) {
                            break;
                        }
                    }
                    all_open.wait();
                    for (pair, connection) in pairs.iter().zip(opened) {
                        let title = format!("{source} to {}", pair.to);
                        let mut connection =
                            connection.unwrap_or_else(|error| panic!("{title}: {error}"));
                        assert_eq!(connection.server, pair.name, "{title}");
                        let own = octets(usize::from(source % 100) + 40);
                        let exchanged = connection.exchange(&own);
                        exchanged.unwrap_or_else(|error| panic!("{title}: {error}"));
                    }
                });
            }
        });
    });
    let reasons = reasons(&balancer);
    println!("{reasons:?}");
    assert_eq!(reasons.probe_refused, 0, "{reasons:?}");
    assert!(reasons.probe_forwarded >= 3_000, "{reasons:?}");
}
