//! What is refused is named, and changes nothing.

use std::fmt::Debug;
use std::time::Duration;

use xvs::Client;
use xvs::Destination;
use xvs::Error;
use xvs::Instance;
use xvs::MAX_IDLE;
use xvs::Service;

use crate::lab::Lab;
use crate::lab::ip;
use crate::xdp;

#[test]
fn a_client_that_cannot_start_leaves_nothing() {
    let lab = Lab::with_two_subnets(0);
    lab.lb.sh("ip link set eth1 down");
    let small = lab.options().vlan(7, "fd00:77::/64".parse().expect("a prefix")).mtu(7, 1_279);
    let absent = lab.options().bpffs("/proc/no-bpffs");
    let cases = [
        (lab.options(), vec!["eth1"], "eth1"),
        (lab.options(), vec!["eth0", "eth1"], "eth1"),
        (lab.options(), vec!["eth7"], "eth7"),
        (lab.options(), vec![], "interface"),
        (lab.options(), vec!["eth0", "eth0"], "eth0"),
        (small, vec!["eth0"], "1280"),
        (absent, vec!["eth0"], "/proc/no-bpffs"),
    ];
    for (options, interfaces, named) in cases {
        let error = lab.balancer_with(options, &interfaces).expect_err("it is refused");
        println!("{interfaces:?}: {error}");
        let right = match named {
            "eth1" => matches!(&error, Error::InterfaceDown { interface } if interface == named),
            "eth7" => {
                matches!(&error, Error::InterfaceNotFound { interface } if interface == named)
            }
            "interface" | "eth0" => matches!(&error, Error::InterfaceList { .. }),
            "1280" => matches!(&error, Error::InvalidMtu { vlan: 7, .. }),
            _ => matches!(&error, Error::Bpffs { .. }),
        };
        assert!(right && error.to_string().contains(named), "{error:?}");
        for interface in ["eth0", "eth1"] {
            assert_eq!(xdp::attached(&lab.lb, interface), None);
        }
        assert!(Instance::list(lab.bpffs()).expect("it is mounted").is_empty());
    }
    drop(lab.balancer());
}

/// All that was wanted of the balancer.
fn state(balancer: &Client) -> String {
    let services = balancer.services().expect("it runs");
    let with_destinations: Vec<_> = services
        .iter()
        .map(|s| {
            let all = balancer.destinations(&s.service).expect("it is there");
            let all: Vec<Destination> = all.into_iter().map(|d| d.destination).collect();
            (s.service.clone(), all)
        })
        .collect();
    let info = balancer.info().expect("it runs");
    let vips: Vec<_> = balancer.vips().expect("it runs").into_iter().map(|v| v.address).collect();
    let numbers = (info.services, info.destinations);
    format!("{with_destinations:?} {:?} {numbers:?} {vips:?}", balancer.config())
}

fn refused<T: Debug>(
    balancer: &Client,
    call: impl FnOnce(&Client) -> xvs::Result<T>,
    right: impl FnOnce(&Error) -> bool,
    named: &str,
) {
    let before = state(balancer);
    let error = call(balancer).expect_err("it is refused");
    println!("{error}");
    assert!(right(&error), "{error:?}");
    assert!(error.to_string().contains(named), "`{error}` names {named}");
    assert_eq!(state(balancer), before);
}

fn destinations(hosts: &[u8]) -> Vec<Destination> {
    hosts.iter().map(|host| Destination::new(ip(&format!("10.1.2.{host}")))).collect()
}

#[test]
fn a_refused_call_changes_nothing() {
    let lab = Lab::new(0);
    let options = lab.options().services(2).destinations(3);
    let balancer = &lab.balancer_with(options, &["eth0"]).expect("it starts");
    let service = Service::tcp(ip("192.168.100.1"), 80);
    let other = Service::tcp(ip("fd00:100::1"), 80);
    let third = Service::udp(ip("192.168.100.3"), 80);
    let [b1, b2, b9] = [11, 12, 19].map(|host| Destination::new(ip(&format!("10.1.2.{host}"))));
    balancer.set_service(&service, &[b1.clone(), b2.clone()]).expect("two destinations");
    balancer.create_service(&other).expect("a second service");

    let limit = |e: &Error| matches!(e, Error::LimitExceeded { .. });
    let no_service = |e: &Error| matches!(e, Error::ServiceNotFound { .. });
    let no_destination = |e: &Error| matches!(e, Error::DestinationNotFound { .. });

    refused(
        balancer,
        |c| c.create_service(&service),
        |e| matches!(e, Error::ServiceExists { .. }),
        "192.168.100.1:80/tcp",
    );
    refused(
        balancer,
        |c| c.create_destination(&service, &b1),
        |e| matches!(e, Error::DestinationExists { .. }),
        "10.1.2.11",
    );
    refused(
        balancer,
        |c| c.set_service(&service, &[b1.clone(), b1.clone()]),
        |e| matches!(e, Error::DestinationExists { .. }),
        "10.1.2.11",
    );
    refused(balancer, |c| c.create_service(&third), limit, "services");
    refused(balancer, |c| c.set_service(&third, &[]), limit, "services");
    let more = |c: &Client| c.set_service(&service, &destinations(&[21, 22, 23, 24]));
    refused(balancer, more, limit, "destinations");
    let more = |c: &Client| c.set_service(&other, &destinations(&[21, 22]));
    refused(balancer, more, limit, "destinations");

    refused(balancer, |c| c.service(&third), no_service, "192.168.100.3:80/udp");
    refused(balancer, |c| c.update_service(&third), no_service, "192.168.100.3:80/udp");
    refused(balancer, |c| c.remove_service(&third), no_service, "192.168.100.3:80/udp");
    refused(balancer, |c| c.destinations(&third), no_service, "192.168.100.3:80/udp");
    refused(balancer, |c| c.create_destination(&third, &b1), no_service, "192.168.100.3:80/udp");
    refused(balancer, |c| c.update_destination(&service, &b9), no_destination, "10.1.2.19");
    refused(balancer, |c| c.remove_destination(&service, &b9), no_destination, "10.1.2.19");
    refused(
        balancer,
        |c| c.vip(ip("192.168.100.3")),
        |e| matches!(e, Error::VipNotFound { .. }),
        "192.168.100.3",
    );

    let zero = Service::tcp(ip("192.168.100.1"), 0);
    let port = |e: &Error| matches!(e, Error::InvalidPort { .. });
    refused(balancer, |c| c.create_service(&zero), port, "port");
    let multicast = Service::tcp(ip("224.0.0.1"), 80);
    let no_vip = |e: &Error| matches!(e, Error::InvalidVip { .. });
    refused(balancer, |c| c.set_service(&multicast, &[]), no_vip, "224.0.0.1");
    let weightless = b9.weight(0);
    let weight = |e: &Error| matches!(e, Error::InvalidWeight { .. });
    refused(balancer, |c| c.create_destination(&service, &weightless), weight, "weight 0");
    let mixed = [b1, weightless.clone()];
    refused(balancer, |c| c.set_service(&service, &mixed), weight, "weight 0");
    let deadline = |e: &Error| matches!(e, Error::InvalidDeadline { .. });
    let (short, long) = (Duration::from_millis(999), MAX_IDLE + Duration::from_nanos(1));
    for (wrong, part) in [
        (b2.clone().deadline(Duration::from_secs(60)), "a deadline of 60s is for one that is dis"),
        (b2.clone().disabled(true).deadline(short), "not from 1 second to 30 days"),
        (b2.clone().disabled(true).deadline(long), "not from 1 second to 30 days"),
    ] {
        refused(balancer, |c| c.update_destination(&service, &wrong), deadline, part);
    }

    let id = |e: &Error| matches!(e, Error::InvalidVlan { .. });
    for wrong in [0, 4_095] {
        let config = balancer.config().vlan(wrong, "10.99.0.0/16".parse().expect("a prefix"));
        refused(balancer, |c| c.set_config(config), id, &format!("VLAN {wrong}"));
    }
    let mtu = |e: &Error| matches!(e, Error::InvalidMtu { .. });
    refused(balancer, |c| c.set_config(balancer.config().mtu(1, 1_279)), mtu, "1280");
    let no_vlan = |e: &Error| matches!(e, Error::UnknownVlan { .. });
    refused(balancer, |c| c.set_config(balancer.config().mtu(9, 1_500)), no_vlan, "VLAN 9");
    let overlap = |e: &Error| matches!(e, Error::PrefixOverlap { .. });
    let twice = balancer.config().vlan(9, "10.1.0.0/16".parse().expect("a prefix"));
    refused(balancer, |c| c.set_config(twice), overlap, "10.1.0.0/16");

    // What a limit refused is accepted once there is room.
    balancer.remove_service(&other).expect("it is removed");
    balancer.set_service(&third, &destinations(&[21])).expect("there is room");
    balancer.remove_destination(&service, &b2).expect("b2 is removed");
    balancer.create_destination(&third, &b2).expect("there is room");
}
