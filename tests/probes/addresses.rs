//! NAT addresses, and the interface that leads to them: how they come and go.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use xvs::Client;
use xvs::Destination;
use xvs::Error;
use xvs::Event;
use xvs::Instance;
use xvs::Options;
use xvs::Prefix;
use xvs::Service;
use xvs::Tunnel;

use crate::checker::tcp;
use crate::lab::Lab;
use crate::lab::VIPS;
use crate::lab::ip;
use crate::lab::wait;
use crate::server::Connection;
use crate::server::PATIENCE;
use crate::tunnelled::GUE;
use crate::tunnelled::address;
use crate::tunnelled::serve;
use crate::xdp;

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

/// The interfaces of `lb` for probes.
fn probe_interfaces(lab: &Lab) -> Vec<String> {
    let links = lab.lb.sh("ip -o link show");
    let names = links.lines().filter_map(|line| line.split_whitespace().nth(1));
    let names = names.filter(|name| name.starts_with("xvs-") || name.starts_with("xvw-"));
    names.map(ToOwned::to_owned).collect()
}

/// All that a balancer makes of addresses and routes of NAT addresses.
fn traces(lab: &Lab) -> String {
    lab.lb.sh("ip -o address show | grep -E '255\\.|fd6b:' || true
         ip route show table all | grep -E '255\\.0|10\\.200' || true
         ip -6 route show table all | grep fd6b: || true")
}

#[test]
fn an_address_lasts_as_long_as_its_destination() {
    let lab = Lab::new(2);
    let balancer = lab.balancer();
    for number in [0, 1] {
        let vip = ip(VIPS[number]);
        let [service, other] = [80, 8_080].map(|port| Service::tcp(vip, port));
        let [b1, b2] = [0, 1].map(|i: usize| address(&lab.backends[i], number));
        let of = |server: IpAddr| Destination::new(server);
        serve(&balancer, &service, &[of(b1), of(b2)]);
        let nat = |server| balancer.nat_service(&service, server).expect("it has one");
        let (first, second) = (nat(b1), nat(b2));
        assert_ne!(first, second);
        assert_eq!(first.is_ipv4(), vip.is_ipv4());

        let gue = Tunnel::gue(GUE);
        for changed in [
            of(b1).weight(7),
            of(b1).disabled(true),
            of(b1).tunnel(gue),
            of(b1).tunnel(gue).disabled(true),
            of(b1),
        ] {
            balancer.update_destination(&service, &changed).expect("it is there");
            assert_eq!((nat(b1), nat(b2)), (first, second), "{changed:?}");
        }
        balancer.update_service(&service.clone().sticky(true)).expect("it is there");
        balancer.set_service(&service, &[of(b2), of(b1)]).expect("in another order");
        assert_eq!((nat(b1), nat(b2)), (first, second));

        // Another service has addresses of its own, and the first one the VIP's.
        serve(&balancer, &other, &[of(b1).tunnel(gue)]);
        let others = balancer.nat_service(&other, b1).expect("it has one");
        assert!(![first, second].contains(&others));
        assert_eq!(balancer.nat(vip, b1).expect("the first service's"), first);
        let all = balancer.instance().nats().expect("it runs");
        let all: Vec<_> = all.iter().filter(|nat| nat.service.address == vip).collect();
        assert_eq!(all.len(), 3);
        let unique: BTreeSet<_> = all.iter().map(|nat| nat.address).collect();
        assert_eq!(unique, [first, second, others].into());
        let of_other = all.iter().find(|nat| nat.address == others).expect("it is listed");
        assert_eq!((of_other.service, of_other.destination), (other.key(), b1));
        assert_eq!(of_other.tunnel, gue);

        // A destination anew is another one.
        balancer.remove_destination(&service, &of(b1)).expect("it is there");
        assert_eq!(nat(b2), second);
        assert_eq!(balancer.nat(vip, b1).expect("of the other service"), others);
        serve(&balancer, &service, &[of(b1), of(b2)]);
        assert!(![first, second, others].contains(&nat(b1)), "{} again", nat(b1));
        balancer.remove_service(&service).expect("it is there");
        serve(&balancer, &service, &[of(b1), of(b2)]);
        assert!(![first, second, others].contains(&nat(b2)), "{} again", nat(b2));
        for backend in &lab.backends {
            tcp(&lab, &balancer, (nat(address(backend, number)), 80).into(), backend, "anew");
        }
    }
}

#[test]
fn what_is_unknown_is_named() {
    let lab = Lab::new(1);
    let balancer = lab.balancer();
    let backend = &lab.backends[0];
    let service = Service::tcp(ip(VIPS[0]), 80);
    let empty = Service::udp(ip(VIPS[1]), 53);
    balancer.set_service(&service, &[Destination::new(backend.v4)]).expect("it is made");
    balancer.create_service(&empty).expect("it is made");
    let named = |result: xvs::Result<IpAddr>, parts: &[&str]| {
        let error = result.expect_err("it is unknown");
        let text = error.to_string();
        for part in parts {
            assert!(text.contains(part), "`{text}` names {part}");
        }
        error
    };
    let nobody = ip("10.1.2.99");
    let error = named(balancer.nat(ip(VIPS[2]), backend.v4), &[VIPS[2]]);
    assert!(matches!(error, Error::VipNotFound { .. }), "{error:?}");
    let both = ["10.1.2.99", "192.168.100.1:80/tcp"];
    for result in [balancer.nat(ip(VIPS[0]), nobody), balancer.nat_service(&service, nobody)] {
        let error = named(result, &both);
        assert!(matches!(error, Error::DestinationNotFound { .. }), "{error:?}");
    }
    let error = named(balancer.nat(ip(VIPS[1]), backend.v4), &["10.1.2.11", VIPS[1]]);
    assert!(matches!(error, Error::DestinationNotFound { .. }), "{error:?}");
    let udp = Service::udp(ip(VIPS[0]), 80);
    let error = named(balancer.nat_service(&udp, backend.v4), &["192.168.100.1:80/udp"]);
    assert!(matches!(error, Error::ServiceNotFound { .. }), "{error:?}");
    let nat = balancer.instance().nat_of(&service, nobody);
    assert!(matches!(nat, Err(Error::DestinationNotFound { .. })), "{nat:?}");
}

#[test]
fn prefixes_that_the_host_has_otherwise_are_refused() {
    let lab = Lab::new(0);
    lab.lb.sh("ip route add 10.201.7.0/24 via 10.1.2.254
         ip route add blackhole 10.202.9.0/24
         ip route add blackhole 10.203.0.0/16
         ip -6 route add fd00:201:7::/64 via fd00:1:2::254
         ip address add 255.3.0.1/32 dev lo");
    let plain = |lab: &Lab| lab.options().nat4(prefix("10.200.0.0/24"));
    let of4 = |text: &str| lab.options().nat4(prefix(text));
    let of6 = |text: &str| plain(&lab).nat6(prefix(text));
    for (options, parts) in [
        (lab.options(), ["255.0.0.0/11", "255.3.0.1"]),
        (of4("10.1.2.128/25"), ["10.1.2.128/25", "10.1.2.1/24"]),
        (of4("10.0.0.0/8"), ["10.0.0.0/11", "10.1.2.1/24"]),
        (of4("10.201.0.0/16"), ["10.201.0.0/16", "10.201.7.0/24"]),
        (of4("10.201.7.16/28"), ["10.201.7.16/28", "10.201.7.0/24"]),
        (of4("10.202.0.0/16"), ["10.202.0.0/16", "10.202.9.0/24"]),
        (of6("fd00:1:2::/64"), ["fd00:1:2::/96", "fd00:1:2::1/64"]),
        (of6("fd00:201:7::/96"), ["fd00:201:7::/96", "fd00:201:7::/64"]),
    ] {
        let error = lab.balancer_with(options, &["eth0"]).expect_err("it is refused");
        let text = error.to_string();
        println!("{text}");
        assert!(matches!(error, Error::NatOverlap { .. }), "{error:?}");
        for part in parts {
            assert!(text.contains(part), "`{text}` names {part}");
        }
        assert_eq!(xdp::attached(&lab.lb, "eth0"), None);
        assert_eq!(probe_interfaces(&lab), [""; 0]);
        assert!(Instance::list(lab.bpffs()).expect("it is mounted").is_empty());
    }
    for (options, part) in [
        (of4("10.200.0.0/31"), "10.200.0.0/31"),
        (of4("fd00:9::/64"), "fd00:9::/64"),
        (of4("224.0.0.0/16"), "224.0.0.0/16"),
        (of6("fd00:9::/97"), "fd00:9::/97"),
    ] {
        let error = lab.balancer_with(options, &["eth0"]).expect_err("it is refused");
        assert!(matches!(error, Error::NatPrefix { .. }), "{error:?}");
        assert!(error.to_string().contains(part), "`{error}` names {part}");
        assert_eq!(probe_interfaces(&lab), [""; 0]);
    }
    // What is beside the part that is used does no harm.
    drop(lab.balancer_with(of4("10.201.8.0/21"), &["eth0"]).expect("it starts"));
    // Nor does that the host has no use for the addresses else.
    drop(lab.balancer_with(of4("10.203.9.0/24"), &["eth0"]).expect("it starts"));
    lab.lb.sh("ip address del 255.3.0.1/32 dev lo && ip address add 255.32.0.1/32 dev lo");
    drop(lab.balancer());
}

/// A prefix with room for three.
fn tiny(lab: &Lab) -> Options {
    lab.options().nat4(prefix("10.200.0.0/30"))
}

#[test]
fn more_destinations_than_addresses_are_refused() {
    let lab = Lab::new(1);
    let balancer = lab.balancer_with(tiny(&lab), &["eth0"]).expect("it starts");
    let [service, other] = [80, 8_080].map(|port| Service::tcp(ip(VIPS[0]), port));
    let of = |host: u8| Destination::new(ip(&format!("10.1.2.{host}")));
    balancer.set_service(&service, &[of(11), of(12)]).expect("two addresses");
    balancer.create_service(&other).expect("it has no destinations");
    let state = |balancer: &Client| {
        let nats = balancer.instance().nats().expect("it runs");
        let nats: Vec<_> = nats.iter().map(|n| (n.service, n.destination, n.address)).collect();
        let info = balancer.info().expect("it runs");
        let all = balancer.all().expect("it runs").into_iter();
        let wanted: Vec<_> = all
            .map(|(service, destinations)| {
                let destinations = destinations.into_iter().map(|d| d.destination);
                (service.service, destinations.collect::<Vec<_>>())
            })
            .collect();
        format!("{nats:?} {wanted:?} {} {}", info.services, info.destinations)
    };
    let before = state(&balancer);
    let third = Service::tcp(ip(VIPS[2]), 80);
    for (what, result) in [
        ("two more", balancer.set_service(&other, &[of(13), of(14)])),
        ("beside the old", balancer.set_service(&service, &[of(11), of(12), of(13), of(14)])),
        ("a service anew", balancer.set_service(&third, &[of(13), of(14)])),
    ] {
        let error = result.expect_err(what);
        println!("{error}");
        let is_limit = matches!(error, Error::LimitExceeded { limit: "NAT addresses", .. });
        assert!(is_limit, "{what}: {error:?}");
        assert_eq!(state(&balancer), before, "{what}");
    }
    balancer.create_destination(&other, &of(13)).expect("there is one more");
    let before = state(&balancer);
    let error = balancer.create_destination(&other, &of(14)).expect_err("that was the last");
    assert!(matches!(error, Error::LimitExceeded { .. }), "{error:?}");
    assert_eq!(state(&balancer), before);
    // Of one that goes the address rests.
    balancer.remove_destination(&service, &of(12)).expect("it is there");
    let error = balancer.create_destination(&other, &of(14)).expect_err("it is not free yet");
    assert!(matches!(error, Error::LimitExceeded { .. }), "{error:?}");
    // What was refused did no harm.
    let backend = &lab.backends[0];
    serve(&balancer, &service, &[of(11)]);
    let nat = balancer.nat_service(&service, backend.v4).expect("it has one");
    assert!(prefix("10.200.0.0/30").contains(nat), "{nat}");
    tcp(&lab, &balancer, (nat, 80).into(), backend, "a tiny prefix");
}

#[test]
fn the_interface_goes_with_the_balancer() {
    let lab = Lab::new(1);
    let before = (traces(&lab), probe_interfaces(&lab));
    assert_eq!(before.1, [""; 0]);
    let balancer = lab.balancer();
    assert_eq!(probe_interfaces(&lab).len(), 2);
    assert!(traces(&lab).contains("255.0.0.0/11"), "{}", traces(&lab));
    // It is not what the host has as its address anywhere else.
    assert!(lab.lb.sh("ip route get 10.1.2.11").contains("src 10.1.2.1 "));
    drop(balancer);
    assert_eq!((traces(&lab), probe_interfaces(&lab)), before);
    // Gone by another's hand it is missed by nobody.
    let balancer = lab.balancer();
    lab.lb.sh("ip link del xvs-lab");
    drop(balancer);
    assert_eq!((traces(&lab), probe_interfaces(&lab)), before);
}

#[test]
fn a_left_interface_is_taken_over() {
    let lab = Lab::new(1);
    lab.lb.sh("ip link add xvs-lab mtu 1300 type veth peer name xvw-lab
         ip link set xvs-lab up && ip link set xvw-lab up
         ip address add 255.0.0.0/32 dev xvs-lab
         ip route add 255.0.0.0/11 dev xvs-lab
         ip -6 address add fd6b:9f3c:e1a7:255::/128 dev xvs-lab nodad
         ip -6 route add fd6b:9f3c:e1a7:255::/96 dev xvs-lab");
    let balancer = lab.balancer();
    let backend = &lab.backends[0];
    for number in [0, 1] {
        let service = Service::tcp(ip(VIPS[number]), 80);
        let server = address(backend, number);
        serve(&balancer, &service, &[Destination::new(server)]);
        let nat = balancer.nat_service(&service, server).expect("it has one");
        tcp(&lab, &balancer, (nat, 80).into(), backend, "taken over");
    }
    drop(balancer);
    assert_eq!(probe_interfaces(&lab), [""; 0]);
}

#[test]
fn an_interface_of_another_kind_is_left_alone() {
    let lab = Lab::new(0);
    for (made, name) in [
        ("ip link add xvs-lab type bridge", "xvs-lab"),
        ("ip link add xvw-lab type bridge", "xvw-lab"),
        ("ip link add xvs-lab type veth peer name another", "xvs-lab"),
    ] {
        lab.lb.sh(made);
        let error = lab.balancer_with(lab.options(), &["eth0"]).expect_err("it is refused");
        assert!(matches!(error, Error::ProbeInterface { .. }), "{error:?}");
        assert!(error.to_string().contains(name), "`{error}` names {name}");
        assert!(lab.lb.sh("ip -o link show").contains(name), "it is still there");
        assert_eq!(xdp::attached(&lab.lb, "eth0"), None);
        assert!(Instance::list(lab.bpffs()).expect("it is mounted").is_empty());
        lab.lb.sh(&format!("ip link del {name}"));
    }
    drop(lab.balancer());
}

/// Two instances on one host have each their own addresses.
#[test]
fn instances_have_interfaces_of_their_own() {
    let lab = Lab::with_two_subnets(1);
    let first = lab.balancer();
    let second = lab.options().instance("a-second-instance");
    let error = lab.balancer_with(second.clone(), &["eth1"]).expect_err("the same prefixes");
    assert!(error.to_string().contains("xvs-lab"), "{error}");
    let second = second.nat4(prefix("10.200.0.0/16")).nat6(prefix("fd00:200::/64"));
    let second = lab.balancer_with(second, &["eth1"]).expect("other prefixes");
    let names = probe_interfaces(&lab);
    assert_eq!(names.len(), 4, "{names:?}");
    assert!(names.iter().all(|name| name.split('@').next().is_some_and(|n| n.len() <= 15)));
    drop(second);
    assert_eq!(probe_interfaces(&lab).len(), 2);
    drop(first);
    assert!(!Path::new(lab.bpffs()).join("xvs/lab").exists());
    assert_eq!(probe_interfaces(&lab), [""; 0]);
}

#[test]
fn an_interface_that_somebody_changes_is_made_anew() {
    let lab = Lab::new(1);
    let balancer = lab.balancer();
    let service = Service::tcp(ip(VIPS[0]), 80);
    let backend = &lab.backends[0];
    serve(&balancer, &service, &[Destination::new(backend.v4)]);
    let nat = balancer.nat(ip(VIPS[0]), backend.v4).expect("a NAT address");
    let answered = || {
        let to = SocketAddr::new(nat, 80);
        let connection = lab.lb.enter(|| Connection::open(to, Duration::from_secs(1)));
        connection.ok().map(|c| assert_eq!(c.server, backend.name))
    };
    wait("the first probe", PATIENCE, answered);
    for change in [
        "ip link del xvs-lab",
        "ip link set xvs-lab down",
        "ip link set xvw-lab down",
        "ip address flush dev xvs-lab",
        "ip route flush dev xvs-lab",
    ] {
        balancer.events();
        lab.lb.sh(change);
        let told = |event: &Event| event.to_string().contains("is made anew");
        wait(&format!("the event after `{change}`"), 2 * PATIENCE, || {
            balancer.events().iter().any(told).then_some(())
        });
        wait(&format!("a probe after `{change}`"), PATIENCE, answered);
    }
}
