//! Each kind of probe by each kind of way.

use std::net::SocketAddr;

use xvs::Destination;
use xvs::Mode;
use xvs::Service;
use xvs::Tunnel;

use crate::checker::all;
use crate::checker::allow_echo;
use crate::checker::wrong_sums;
use crate::lab::Lab;
use crate::lab::TCP;
use crate::lab::vip;
use crate::reasons;
use crate::tunnelled::FOU;
use crate::tunnelled::address;
use crate::tunnelled::all_tunnels;
use crate::tunnelled::serve;
use crate::tunnelled::take_out;
use crate::tunnelled::title;

/// Both families of VIPs, by both families of servers, each tunnel and none.
fn probes_reach_their_servers(mode: Mode) {
    let lab = Lab::new(2);
    allow_echo(&lab);
    let _decap = take_out(&lab, mode);
    let balancer = lab.balancer_with(lab.options().mode(mode), &["eth0"]).expect("it starts");
    for number in [0, 1] {
        let service = Service::tcp(vip(number, TCP[0]).ip(), TCP[0]);
        for family in [0, 1] {
            let ways = [Tunnel::None].into_iter().chain(all_tunnels(FOU[0]));
            for tunnel in ways {
                let servers = lab.backends.iter().map(|backend| address(backend, family));
                let destinations: Vec<Destination> =
                    servers.map(|server| Destination::new(server).tunnel(tunnel)).collect();
                serve(&balancer, &service, &destinations);
                for (backend, port) in lab.backends.iter().zip(TCP) {
                    let server = address(backend, family);
                    let nat = balancer.nat_service(&service, server).expect("it has one");
                    assert_eq!(nat.is_ipv4(), service.address.is_ipv4());
                    let title = title(tunnel, service.address, server);
                    // The port need not be the service's, nor the protocol.
                    all(&lab, &balancer, SocketAddr::new(nat, port), backend, &title);
                }
            }
        }
    }
    assert_eq!(wrong_sums(&lab), 0);
    let reasons = reasons(&balancer);
    println!("{reasons:?}");
    assert_eq!(reasons.probe_refused, 0, "{reasons:?}");
    assert_eq!(reasons.nat_from_wire, 0, "{reasons:?}");
    let forwarded = reasons.iter().filter(|(name, _)| name.starts_with("forwarded"));
    assert_eq!(forwarded.map(|(_, count)| count).sum::<u64>(), 0, "{reasons:?}");
}

#[test]
fn probes_reach_their_servers_by_every_way() {
    probes_reach_their_servers(Mode::Native);
}

#[test]
fn probes_reach_their_servers_by_every_way_in_generic_mode() {
    probes_reach_their_servers(Mode::Generic);
}
