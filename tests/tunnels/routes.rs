//! Servers behind routers: by the kernel's routes and by configured ones, while
//! these change.

use std::collections::BTreeSet;
use std::net::IpAddr;

use xvs::Client;
use xvs::Destination;
use xvs::Mode;
use xvs::Options;
use xvs::Service;
use xvs::Tunnel;

use crate::GUE;
use crate::address;
use crate::balancer;
use crate::following::Ip;
use crate::following::followed;
use crate::following::new_mac;
use crate::following::under_load;
use crate::following::within_50_ms;
use crate::lab::Lab;
use crate::lab::UDP;
use crate::lab::vip;
use crate::options;
use crate::serve;
use crate::server::Connection;
use crate::server::PATIENCE;
use crate::sniffer::Sniffer;
use crate::take_out;

/// The subnet of the servers, of either family.
const FAR: [&str; 2] = ["10.1.9.0/24", "fd00:1:9::/64"];

/// Tunnels to servers of a family, one for each backend.
const TUNNELS: [Tunnel; 2] = [Tunnel::Ipip, Tunnel::gue(GUE)];

fn destinations(lab: &Lab, family: usize) -> Vec<Destination> {
    let far = lab.backends.iter().map(|backend| address(backend, family));
    far.zip(TUNNELS.iter().cycle())
        .map(|(address, tunnel)| Destination::new(address).tunnel(*tunnel))
        .collect()
}

/// Hears what a router is given for the servers.
fn listen(lab: &Lab, router: usize) -> Sniffer {
    let mac = lab.routers[router].mac;
    let servers: Vec<IpAddr> =
        lab.backends.iter().flat_map(|backend| [backend.v4, backend.v6]).collect();
    let namespace = &lab.routers[router].namespace;
    Sniffer::start(namespace, move |seen| seen.mac == mac && servers.contains(&seen.to))
}

/// The routers that carry connections to the servers, which all must answer.
fn carriers(lab: &Lab, balancer: &Client, family: usize) -> BTreeSet<usize> {
    let sniffers: Vec<Sniffer> = (0..lab.routers.len()).map(|i| listen(lab, i)).collect();
    for number in [0, 1] {
        let to = vip(number, 80);
        serve(balancer, &Service::tcp(to.ip(), to.port()), &destinations(lab, family));
        let mut missing: BTreeSet<&str> = lab.backends.iter().map(|b| b.name.as_str()).collect();
        // Of four pairs of a backend and a router one is missed once in 20,000 times.
        for _ in 0..40 {
            let connection = lab.client.enter(|| Connection::open(to, PATIENCE));
            let mut connection = connection.expect("a server answers");
            connection.exchange(b"hello").expect("it goes on");
            missing.remove(connection.server.as_str());
        }
        assert!(missing.is_empty(), "{to}: no answer by {missing:?}");
    }
    let carried = |i: &usize| !sniffers[*i].seen().is_empty();
    (0..sniffers.len()).filter(carried).collect()
}

#[test]
fn servers_behind_routers_are_reached() {
    let lab = Lab::behind_routers(2, 2);
    let _decap = take_out(&lab, Mode::Native);
    let gateway = |router: usize, kind: usize| lab.routers[router].gateways[kind];
    let configured = |family: usize, gateway: IpAddr| {
        options(&lab).route(FAR[family].parse().expect("a prefix"), 1, gateway)
    };
    let check = |what: &str, routes: &str, options: Options, family: usize, by: &[usize]| {
        lab.lb.sh(routes);
        let balancer = balancer(&lab, options);
        let carriers = carriers(&lab, &balancer, family);
        assert_eq!(carriers, by.iter().copied().collect(), "{what}");
        lab.lb.sh(&format!("ip route flush {} && ip -6 route flush {}", FAR[0], FAR[1]));
        println!("{what} to {}", FAR[family]);
    };
    for family in [0, 1] {
        let far = FAR[family];
        let by = |router: usize, kind: usize| match gateway(router, kind) {
            gateway if kind == 2 => format!("via {gateway} dev eth0"),
            gateway => format!("via {gateway}"),
        };
        let one = |kind: usize| format!("ip route add {far} {}", by(0, kind));
        check("by the kernel's route", &one(family), options(&lab), family, &[0]);
        let other = configured(family, gateway(1, family));
        check("by a configured route instead", &one(family), other, family, &[1]);
        let link_local = configured(family, gateway(1, 2));
        check("by a configured link-local gateway", "true", link_local, family, &[1]);
        let both =
            format!("ip route add {far} nexthop {} nexthop {}", by(0, family), by(1, family));
        check("by two equal routes", &both, options(&lab), family, &[0, 1]);
    }
    // An IPv4 network behind an IPv6 router: RFC 5549, in kernels from 5.2 on.
    let far = FAR[0];
    let routes = format!("ip route add {far} via inet6 {} dev eth0", gateway(0, 2));
    check("by a gateway of the other family", &routes, options(&lab), 0, &[0]);
    let routes = format!("ip route add {} via {} dev eth0", FAR[1], gateway(1, 2));
    check("by a link-local gateway", &routes, options(&lab), 1, &[1]);
}

#[test]
fn traffic_follows_gateways_and_routes_within_50_ms() {
    let lab = Lab::behind_routers(1, 2);
    let _decap = take_out(&lab, Mode::Native);
    let balancer = balancer(&lab, options(&lab));
    let router = &lab.routers[0];
    // The kernel tells the neighbours itself of its new hardware address.
    router
        .namespace
        .sh("sysctl -qw net.ipv4.conf.eth2.arp_notify=1 net.ipv6.conf.eth2.ndisc_notify=1");
    for family in [0, 1] {
        let (far, server) = (FAR[family], address(&lab.backends[0], family));
        let [first, second] = [0, 1].map(|i: usize| lab.routers[i].gateways[family]);
        lab.lb.sh(&format!("ip route replace {far} via {first}"));
        let (to, talk) = (vip(family, UDP), vip(family, 80));
        for service in [Service::udp(to.ip(), to.port()), Service::tcp(talk.ip(), talk.port())] {
            serve(&balancer, &service, &destinations(&lab, family));
        }
        let connection = lab.client.enter(|| Connection::open(talk, PATIENCE));
        let mut connection = connection.expect("a server answers");

        let sniffers = [0, 1].map(|i: usize| {
            Sniffer::start(&lab.routers[i].namespace, move |seen| seen.to == server)
        });
        under_load(&lab, to, || {
            let mut at_router = Ip::new(&router.namespace);
            within_50_ms(&format!("{far}, from before the gateway's change"), |round| {
                let (mac, text) = new_mac(family as u8 * 0x10 + round);
                let start = at_router.run(&format!("link set dev eth2 address {text}"));
                let taken = followed(&sniffers[0], mac, start);
                connection.exchange(b"still here").expect("the connection is held");
                taken
            });
            let now = new_mac(family as u8 * 0x10 + 10).0;
            let mut at_lb = Ip::new(&lab.lb);
            within_50_ms(&format!("{far}, from before `ip route replace`"), |round| {
                let odd = usize::from(round % 2);
                let (gateway, mac) = [(first, now), (second, lab.routers[1].mac)][odd];
                sniffers[odd].take();
                let start = at_lb.run(&format!("route replace {far} via {gateway}"));
                let taken = followed(&sniffers[odd], mac, start);
                connection.exchange(b"still here").expect("the connection is held");
                taken
            });
        });
    }
}
