//! Destinations of several kinds under one virtual address, and such as cannot be
//! used.

use std::collections::BTreeSet;
use std::net::IpAddr;

use xvs::Destination;
use xvs::DestinationStatus;
use xvs::Mode;
use xvs::Service;
use xvs::ServiceStatus;
use xvs::Tunnel;

use crate::GUE;
use crate::address;
use crate::balancer;
use crate::lab::Lab;
use crate::lab::ip;
use crate::lab::vip;
use crate::lab::wait;
use crate::netns::sh;
use crate::options;
use crate::serve;
use crate::server::PATIENCE;
use crate::take_out;
use crate::web::PORT;
use crate::web::Web;
use crate::web::get;
use crate::web::octets;
use crate::web::post;
use crate::xvsctl;

#[test]
fn one_service_has_destinations_of_several_kinds() {
    let lab = Lab::new(4);
    let _web = Web::start_all(&lab);
    let _decap = take_out(&lab, Mode::Native);
    let balancer = balancer(&lab, options(&lab));
    for number in [0, 1] {
        let to = vip(number, PORT);
        let [a, b, c, d] = [0, 1, 2, 3].map(|i| &lab.backends[i]);
        let destinations = [
            Destination::new(address(a, number)),
            Destination::new(b.v4).tunnel(Tunnel::Ipip),
            Destination::new(c.v6).tunnel(Tunnel::gue(GUE)),
            Destination::new(d.v6).tunnel(Tunnel::Gre),
        ];
        serve(&balancer, &Service::tcp(to.ip(), to.port()), &destinations);
        let mut missing: BTreeSet<&str> = lab.backends.iter().map(|b| b.name.as_str()).collect();
        let mut requests = 0;
        // Of four backends one is missed once in a million times.
        while !missing.is_empty() && requests < 53 {
            // Some are told of a smaller MTU, some are not.
            let answer = lab.client.enter(|| post(to, &octets(20_000))).expect("it is answered");
            missing.remove(answer.server.as_str());
            requests += 1;
        }
        assert!(missing.is_empty(), "{to}: no answer by {missing:?}");
    }
}

/// The statuses of a service's destinations, its own, and what `xvsctl` shows.
#[test]
fn what_cannot_be_used_says_why() {
    let lab = Lab::new(2);
    let _web = Web::start_all(&lab);
    let _decap = take_out(&lab, Mode::Native);
    // A route leads to the IPv6 server, but there is no address to send from; the
    // one to 10.55.0.1 leaves 1,279 octets to the packet in the tunnel.
    lab.lb.sh("ip -6 address flush dev eth0 scope global
         ip -6 route add fd00:1:2::/64 via fe80::1 dev eth0
         ip route add 10.55.0.0/16 via 10.1.2.254 mtu 1299");
    lab.client.sh("ip route replace fd00:100::/64 via fe80::ff:fe00:1 dev eth0");
    let prefix = "10.1.2.0/24".parse().expect("a prefix");
    let base = xvs::Options::new().instance("lab").bpffs(lab.bpffs()).mode(Mode::Native);
    let balancer = balancer(&lab, base.flows(65_536).vlan(1, prefix));
    let gue = Tunnel::gue(GUE);
    let [near, far, small]: [IpAddr; 3] = [lab.backends[0].v6, ip("10.77.0.1"), ip("10.55.0.1")];
    for (vip_number, server, tunnel, status) in [
        (0, near, gue, DestinationStatus::NoAddress),
        (1, near, Tunnel::Ipip, DestinationStatus::NoAddress),
        (0, far, gue, DestinationStatus::NoRoute),
        (1, ip("fd00:77::1"), Tunnel::Gre, DestinationStatus::NoRoute),
        (1, small, Tunnel::Ipip, DestinationStatus::MtuTooSmall),
    ] {
        let to = vip(vip_number, PORT);
        let service = Service::tcp(to.ip(), to.port());
        let destination = Destination::new(server).tunnel(tunnel);
        balancer.set_service(&service, &[destination]).expect("it may come later");
        wait(&format!("{server}: {status:?}"), PATIENCE, || {
            let shown = balancer.destinations(&service).expect("it is there")[0].status;
            (shown == status).then_some(())
        });
        let told = balancer.service(&service).expect("it is there").status;
        assert_eq!(told, ServiceStatus::Unreachable(server, status));
        let shown = sh(&format!(
            "{} show destinations --bpffs={} --instance=lab",
            xvsctl::program().display(),
            lab.bpffs().display()
        ));
        assert!(shown.contains(&status.to_string()), "{status}: {shown}");

        // Beside one that can be used it does no harm.
        let usable = Destination::new(lab.backends[1].v4).tunnel(Tunnel::Ipip);
        balancer.create_destination(&service, &usable).expect("it joins");
        wait("a usable destination", PATIENCE, || {
            (balancer.service(&service).expect("it is there").usable == 1).then_some(())
        });
        for _ in 0..4 {
            assert_eq!(lab.client.enter(|| get(to)).expect("it is answered"), "b2");
        }
        balancer.remove_service(&service).expect("it is there");
    }
}
