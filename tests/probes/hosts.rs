//! Hosts of several kinds, and destinations that get no traffic.

use std::net::IpAddr;
use std::net::SocketAddr;

use xvs::Destination;
use xvs::DestinationStatus;
use xvs::Mode;
use xvs::Options;
use xvs::Service;
use xvs::Tunnel;

use crate::checker::all;
use crate::checker::allow_echo;
use crate::checker::wrong_sums;
use crate::features::has_devices;
use crate::lab::Bonding;
use crate::lab::Lab;
use crate::lab::VIPS;
use crate::lab::ip;
use crate::lab::vip;
use crate::lab::wait;
use crate::reasons;
use crate::server::PATIENCE;
use crate::tunnelled::GUE;
use crate::tunnelled::address;
use crate::tunnelled::serve;
use crate::tunnelled::take_out;
use crate::xdp;

/// Makes the host check that what comes in is from where it would be sent to, on
/// interfaces that are and on those to come.
fn check_paths_back(lab: &Lab) {
    lab.lb.sh("for i in all default eth0; do sysctl -qw net.ipv4.conf.$i.rp_filter=1; done");
}

/// Probes of all backends by both families.
fn probes_work(lab: &Lab, options: Options, interfaces: &[&str], title: &str) {
    allow_echo(lab);
    let balancer = lab.balancer_with(options, interfaces).expect("it starts");
    for number in [0, 1] {
        let service = Service::tcp(vip(number, 80).ip(), 80);
        for family in [0, 1] {
            let servers = lab.backends.iter().map(|b| address(b, family));
            serve(&balancer, &service, &servers.map(Destination::new).collect::<Vec<_>>());
            for backend in &lab.backends {
                let nat = balancer.nat_service(&service, address(backend, family));
                let to = SocketAddr::new(nat.expect("it has one"), 80);
                all(lab, &balancer, to, backend, title);
            }
        }
    }
    assert_eq!(wrong_sums(lab), 0, "{title}");
}

#[test]
fn probes_pass_a_strict_filter_of_paths_back() {
    for mode in [Mode::Native, Mode::Generic] {
        let lab = Lab::new(1);
        check_paths_back(&lab);
        let options = lab.options().mode(mode);
        probes_work(&lab, options, &["eth0"], &format!("{mode:?}"));
        let strict = lab.lb.sh("cat /proc/sys/net/ipv4/conf/all/rp_filter");
        assert_eq!(strict.trim(), "1");
    }
}

#[test]
fn probes_work_on_a_host_with_two_interfaces() {
    let lab = Lab::with_two_subnets(2);
    check_paths_back(&lab);
    probes_work(&lab, lab.options(), &["eth0", "eth1"], "two interfaces");
}

/// The host's only IPv4 address is on another interface than the way to the server,
/// which the answers come in by.
#[test]
fn answers_may_come_in_by_another_interface() {
    let lab = Lab::with_two_subnets(1);
    allow_echo(&lab);
    let _decap = take_out(&lab, Mode::Native);
    lab.lb.sh("ip -4 address flush dev eth0");
    let backend = &lab.backends[0];
    let balancer = lab.balancer_with(lab.options(), &["eth0", "eth1"]).expect("it starts");
    let service = Service::tcp(ip(VIPS[0]), 80);
    for tunnel in [Tunnel::None, Tunnel::Gre, Tunnel::gue(GUE)] {
        serve(&balancer, &service, &[Destination::new(backend.v6).tunnel(tunnel)]);
        let nat = balancer.instance().nat_of(&service, backend.v6).expect("it has one");
        assert_eq!(nat.source, Some(ip("10.1.9.1")), "{nat:?}");
        all(&lab, &balancer, (nat.address, 80).into(), backend, &tunnel.to_string());
    }
}

/// Without an address of the VIP's family nothing is sent; there may be one later.
#[test]
fn the_address_that_probes_have_is_told() {
    let lab = Lab::new(1);
    allow_echo(&lab);
    lab.lb.sh("ip -4 address flush dev eth0");
    let backend = &lab.backends[0];
    let balancer = lab.balancer();
    let service = Service::tcp(ip(VIPS[0]), 80);
    serve(&balancer, &service, &[Destination::new(backend.v6)]);
    let nat = || balancer.instance().nat_of(&service, backend.v6).expect("it has one");
    assert_eq!((nat().source, nat().status), (None, DestinationStatus::Reachable));
    let before = reasons(&balancer);
    lab.lb.enter(|| {
        let any = std::net::UdpSocket::bind("0.0.0.0:0").expect("a port");
        any.send_to(b"who", (nat().address, 53)).expect("it is routed");
    });
    crate::counted(&balancer, "no_destination", before.no_destination, 1, |r| r.no_destination);
    lab.lb.sh("ip address add 10.1.2.1/24 dev eth0");
    let own = wait("an address", PATIENCE, || nat().source);
    assert_eq!(own, ip("10.1.2.1"));
    all(&lab, &balancer, (nat().address, 80).into(), backend, "an address now");
}

#[test]
fn disabled_destinations_are_probed() {
    let lab = Lab::new(2);
    allow_echo(&lab);
    let balancer = lab.balancer();
    for number in [0, 1] {
        let service = Service::tcp(vip(number, 80).ip(), 80);
        let of = |i: usize| Destination::new(address(&lab.backends[i], number));
        serve(&balancer, &service, &[of(0), of(1)]);
        let to = |i: usize| {
            let nat = balancer.nat_service(&service, address(&lab.backends[i], number));
            SocketAddr::new(nat.expect("it has one"), 80)
        };
        let before = [to(0), to(1)];
        balancer.update_destination(&service, &of(0).disabled(true)).expect("it is there");
        assert_eq!([to(0), to(1)], before);
        all(&lab, &balancer, to(0), &lab.backends[0], "one is disabled");
        balancer.update_destination(&service, &of(1).disabled(true)).expect("it is there");
        for i in [0, 1] {
            all(&lab, &balancer, to(i), &lab.backends[i], "all are disabled");
        }
        let stats = balancer.service(&service).expect("it is there").stats;
        assert_eq!((stats.packets, stats.flows), (0, 0), "{stats:?}");
    }
}

#[test]
fn probes_are_tagged() {
    if !has_devices("link trunk name trunk.7 type vlan id 7", "8021q") {
        return;
    }
    for mode in [Mode::Native, Mode::Generic] {
        let lab = Lab::on_a_trunk(2);
        let options = lab.trunk_options().mode(mode);
        probes_work(&lab, options, &["eth0"], &format!("a trunk, {mode:?}"));
    }
}

#[test]
fn probes_go_by_a_bond() {
    if !has_devices("link trunk name trunk.7 type vlan id 7", "8021q")
        || !has_devices("name bond0 type bond", "bonding")
    {
        return;
    }
    let lab = Lab::on_a_bond(2, Bonding::ActiveBackup);
    // Not all kernels take a native program on a bond.
    let options = lab.trunk_options().mode(Mode::Auto);
    probes_work(&lab, options, &["bond0"], "a bond");
}

/// In tunnels too the host's path back is no other than the probe's.
#[test]
fn a_strict_filter_passes_answers_from_tunnels() {
    let lab = Lab::new(1);
    allow_echo(&lab);
    check_paths_back(&lab);
    let _decap = take_out(&lab, Mode::Native);
    let balancer = lab.balancer();
    let backend = &lab.backends[0];
    for number in [0, 1] {
        let service = Service::tcp(vip(number, 80).ip(), 80);
        let servers: [IpAddr; 2] = [backend.v4, backend.v6];
        for server in servers {
            serve(&balancer, &service, &[Destination::new(server).tunnel(Tunnel::gue(GUE))]);
            let nat = balancer.nat_service(&service, server).expect("it has one");
            all(&lab, &balancer, (nat, 80).into(), backend, "strict");
        }
    }
}

#[test]
fn probes_work_without_ipv6() {
    let lab = Lab::new(1);
    allow_echo(&lab);
    lab.lb.sh("for i in all default eth0; do sysctl -qw net.ipv6.conf.$i.disable_ipv6=1; done");
    let balancer = lab.balancer();
    let backend = &lab.backends[0];
    let service = Service::tcp(ip(VIPS[0]), 80);
    serve(&balancer, &service, &[Destination::new(backend.v4)]);
    let nat = balancer.nat_service(&service, backend.v4).expect("it has one");
    all(&lab, &balancer, (nat, 80).into(), backend, "no IPv6");
}

/// Probes follow the network, as clients' packets do.
#[test]
fn probes_follow_interfaces_and_addresses() {
    let lab = Lab::new(1);
    allow_echo(&lab);
    let balancer = lab.balancer();
    let backend = &lab.backends[0];
    let services = [0, 1].map(|number| Service::tcp(ip(VIPS[number]), 80));
    let nat = |number: usize| {
        let nat = balancer.instance().nat_of(&services[number], address(backend, number));
        nat.expect("it has one")
    };
    let probe = |title: &str| {
        for number in [0, 1] {
            wait(&format!("a way: {title}"), PATIENCE, || {
                let usable = balancer.service(&services[number]).expect("it is there").usable;
                (usable == 1 && nat(number).source.is_some()).then_some(())
            });
            all(&lab, &balancer, (nat(number).address, 80).into(), backend, title);
        }
    };
    for number in [0, 1] {
        serve(&balancer, &services[number], &[Destination::new(address(backend, number))]);
    }
    let before = [0, 1].map(|number| nat(number).address);
    probe("at first");

    lab.lb.sh("ip link del eth0");
    wait("no way", PATIENCE, || (nat(0).mtu.is_none() && nat(1).mtu.is_none()).then_some(()));
    lab.plug_balancer();
    probe("an interface anew");

    lab.lb.sh("ip address del 10.1.2.1/24 dev eth0 && ip address add 10.1.2.2/24 dev eth0
         ip address del fd00:1:2::1/64 dev eth0 && ip address add fd00:1:2::2/64 dev eth0 nodad");
    for (number, own) in [(0, "10.1.2.2"), (1, "fd00:1:2::2")] {
        wait("another address", PATIENCE, || (nat(number).source == Some(ip(own))).then_some(()));
    }
    probe("another address");
    assert_eq!([0, 1].map(|number| nat(number).address), before);
}

/// Large frames elsewhere: a probe's packets are those of any host.
#[test]
fn probes_work_beside_jumbo_frames() {
    let lab = Lab::new(1);
    if xdp::has_frags() {
        lab.set_mtu(9_000);
    } else {
        println!("skipped: no frames in several buffers, so no interface of a larger MTU");
        return;
    }
    probes_work(&lab, lab.options().mtu(1, 9_000), &["eth0"], "9,000 octets");
}
