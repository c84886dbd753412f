//! What is counted agrees with itself and with the wire.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use xvs::Client;
use xvs::Destination;
use xvs::DestinationExtended;
use xvs::Service;
use xvs::Stats;

use super::web::serve;
use crate::lab::Lab;
use crate::lab::UDP;
use crate::lab::VIPS;
use crate::lab::ip;
use crate::lab::vip;
use crate::lab::wait;
use crate::server::Connection;
use crate::server::PATIENCE;
use crate::server::ask;
use crate::server::udp_from;
use crate::sniffer::Sniffer;

/// Packets, octets, flows, SYN, FIN, RST.
type Numbers = [u64; 6];

const fn numbers(stats: &Stats) -> Numbers {
    [stats.packets, stats.octets, stats.flows, stats.syn, stats.fin, stats.rst]
}

fn sum(all: impl Iterator<Item = Numbers>) -> Numbers {
    all.fold([0; 6], |sum, one| std::array::from_fn(|i| sum[i] + one[i]))
}

/// What arrived at each backend for a VIP, flows left out.
fn on_the_wire(sniffers: &[Sniffer]) -> Vec<Numbers> {
    let one = |sniffer: &Sniffer| {
        sum(sniffer
            .seen()
            .iter()
            .map(|p| [1, p.octets, 0, p.is_syn().into(), p.is_fin().into(), p.is_rst().into()]))
    };
    sniffers.iter().map(one).collect()
}

fn traffic(lab: &Lab, services: &[Service]) {
    lab.client.enter(|| {
        for service in services {
            let to = SocketAddr::new(service.address, service.port);
            // Open to the end: a port that is used again is no new flow.
            let mut sockets = Vec::new();
            for i in 0..30 {
                if service.protocol == xvs::Protocol::Udp {
                    let any = ip(if to.is_ipv4() { "0.0.0.0" } else { "::" });
                    sockets.push(udp_from(any, 0));
                    for _ in 0..4 {
                        ask(&sockets[i], to, PATIENCE).expect("a server answers");
                    }
                    continue;
                }
                let mut connection = Connection::open(to, PATIENCE).expect("a server answers");
                connection.exchange(&vec![7; i * 40 + 1]).expect("it goes on");
                if i % 4 == 0 {
                    connection.reset();
                }
            }
            // Nobody serves this port.
            let nobody = udp_from(ip(if to.is_ipv4() { "0.0.0.0" } else { "::" }), 0);
            nobody.send_to(b"who", (to.ip(), 999)).expect("it can be sent");
        }
    });
}

/// The destinations' numbers by address, over all services.
fn by_destination(balancer: &Client, services: &[Service]) -> BTreeMap<IpAddr, Numbers> {
    let mut all = BTreeMap::new();
    for service in services {
        for d in balancer.destinations(service).expect("it is there") {
            let entry = all.entry(d.destination.address).or_insert([0; 6]);
            *entry = sum([*entry, numbers(&d.stats)].into_iter());
        }
    }
    all
}

#[test]
fn statistics_agree_with_each_other_and_the_wire() {
    let lab = Lab::new(3);
    let balancer = lab.balancer();
    let mut services = Vec::new();
    for address in VIPS.map(ip) {
        services.push(Service::tcp(address, 80));
        services.push(Service::tcp(address, 8080).sticky(true));
        services.push(Service::udp(address, UDP));
    }
    for service in &services {
        serve(&lab, &balancer, service);
    }
    let sniffers: Vec<Sniffer> = lab
        .backends
        .iter()
        .map(|backend| {
            let mac = backend.mac();
            Sniffer::start(&backend.namespace, move |seen| {
                seen.mac == mac && VIPS.iter().any(|vip| ip(vip) == seen.to)
            })
        })
        .collect();
    traffic(&lab, &services);

    let mut last = 0;
    wait("as many packets counted as seen, and no more coming", PATIENCE, || {
        std::thread::sleep(Duration::from_millis(50));
        let seen: u64 = on_the_wire(&sniffers).iter().map(|n| n[0]).sum();
        let before = std::mem::replace(&mut last, seen);
        let counted = balancer.info().expect("it runs").stats.packets;
        (seen == counted && seen == before).then_some(())
    });

    let total = numbers(&balancer.info().expect("it runs").stats);
    let vips = balancer.vips().expect("it runs");
    println!("packets, octets, flows, SYN, FIN, RST: {total:?}");
    assert_eq!(vips.len(), VIPS.len());
    assert_eq!(sum(vips.iter().map(|v| numbers(&v.stats))), total, "VIPs");
    let all = balancer.services().expect("it runs");
    assert_eq!(sum(all.iter().map(|s| numbers(&s.stats))), total, "services");
    let of_destinations = by_destination(&balancer, &services);
    assert_eq!(sum(of_destinations.values().copied()), total, "destinations");
    let everything = balancer.all().expect("it runs");
    assert_eq!(everything.len(), all.len());
    for (service, destinations) in everything {
        let numbered = |all: &[DestinationExtended]| -> Vec<(Destination, Numbers)> {
            all.iter().map(|d| (d.destination.clone(), numbers(&d.stats))).collect()
        };
        let shown = balancer.destinations(&service.service).expect("it is there");
        assert_eq!(numbered(&destinations), numbered(&shown), "{}", service.service);
        let counted = sum(destinations.iter().map(|d| numbers(&d.stats)));
        assert_eq!(numbers(&service.stats), counted, "{}", service.service);
    }

    for (backend, mut seen) in lab.backends.iter().zip(on_the_wire(&sniffers)) {
        let counted = sum([of_destinations[&backend.v4], of_destinations[&backend.v6]].into_iter());
        seen[2] = counted[2];
        assert_eq!(seen, counted, "the wire at {} and what is counted", backend.name);
    }
    let tcp = all.iter().filter(|s| s.service.protocol == xvs::Protocol::Tcp);
    // Every connection is one flow and at least one SYN, and ends once.
    assert_eq!(sum(tcp.map(|s| numbers(&s.stats)))[2], 8 * 30);
    assert_eq!(total[2], 12 * 30);
    assert!(total[3] >= 8 * 30, "{total:?}");
    reasons_agree(&balancer);
    removed_ones_still_count(&lab, &balancer, &services, total);
}

/// Each packet has one reason; what was not forwarded is told by VIP as well.
fn reasons_agree(balancer: &Client) {
    let stats = balancer.info().expect("it runs").stats;
    let forwarded = |(name, _): &(&str, u64)| name.starts_with("forwarded_");
    let packets: u64 = stats.reasons.iter().filter(forwarded).map(|(_, n)| n).sum();
    assert_eq!(packets, stats.packets, "{:?}", stats.reasons);
    assert_eq!(stats.reasons.forwarded_new, stats.flows, "each of them stores a flow");
    // One of each service.
    assert_eq!(stats.reasons.no_service, 12);
    let mut of_vips: BTreeMap<&str, u64> = BTreeMap::new();
    for vip in balancer.vips().expect("it runs") {
        assert_eq!(vip.services, 3);
        assert_eq!(vip.stats.reasons.no_service, 3, "{}", vip.address);
        for (name, number) in vip.stats.reasons.iter() {
            *of_vips.entry(name).or_default() += number;
        }
    }
    let foreign = ["not_ip", "not_vip", "other_host"];
    for (name, total) in stats.reasons.iter() {
        if !foreign.contains(&name) && !name.starts_with("forwarded_") {
            assert_eq!(of_vips[name], total, "{name}");
        }
    }
}

/// A total never falls because a destination or a service is removed.
fn removed_ones_still_count(lab: &Lab, balancer: &Client, services: &[Service], total: Numbers) {
    let service = &services[0];
    let before = numbers(&balancer.service(service).expect("it is there").stats);
    let gone = Destination::new(lab.backends[0].v4);
    balancer.remove_destination(service, &gone).expect("b1 is removed");
    assert_eq!(numbers(&balancer.service(service).expect("it is there").stats), before);
    assert_eq!(numbers(&balancer.info().expect("it runs").stats), total);

    balancer.create_destination(service, &gone).expect("b1 comes back");
    let back = balancer.destinations(service).expect("it is there");
    let back = back.iter().find(|d| d.destination.address == gone.address).expect("it is there");
    assert_eq!(numbers(&back.stats), [0; 6], "it begins at 0");

    balancer.remove_service(service).expect("it is removed");
    assert_eq!(numbers(&balancer.info().expect("it runs").stats), total);
    assert_eq!(balancer.vip(vip(0, 80).ip()).expect("others are there").services, 2);
}

#[test]
fn no_sum_shrinks_while_destinations_come_and_go() {
    let lab = Lab::new(2);
    let balancer = lab.balancer();
    let kept = Service::udp(vip(0, UDP).ip(), UDP);
    let fleeting = Service::udp(vip(0, UDP).ip(), UDP + 1);
    serve(&lab, &balancer, &kept);
    let destinations = || balancer.destinations(&kept).expect("the service is there");
    let real = destinations()[0].destination.clone();
    let stop = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        let sender = scope.spawn(|| {
            lab.client.enter(|| {
                let socket = udp_from(ip("0.0.0.0"), 0);
                let mut sent = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    sent += u64::from(socket.send_to(b"x", vip(0, UDP)).is_ok());
                }
                sent
            })
        });
        let reader = scope.spawn(|| {
            let (mut reads, mut last) = (0, (0, 0));
            while !stop.load(Ordering::Relaxed) {
                let service = balancer.service(&kept).expect("it is there").stats.packets;
                let all = balancer.info().expect("it runs").stats.packets;
                assert!(service >= last.0 && all >= last.1, "{last:?}, then {service}, {all}");
                last = (service, all);
                reads += 1;
            }
            reads
        });
        for _ in 0..200 {
            balancer.remove_destination(&kept, &real).expect("it is there");
            balancer.create_destination(&kept, &real).expect("there is room");
            balancer.set_service(&fleeting, std::slice::from_ref(&real)).expect("there is room");
            balancer.remove_service(&fleeting).expect("it is there");
        }
        stop.store(true, Ordering::Relaxed);
        let reads = reader.join().expect("no sum shrank");
        println!("{reads} reads during 200 changes");
        sender.join().expect("the client sends")
    });
    let counted = || {
        let info = balancer.info().expect("it runs");
        let reasons: u64 = info
            .stats
            .reasons
            .iter()
            .filter(|(name, _)| name.starts_with("forwarded"))
            .map(|(_, count)| count)
            .sum();
        (info.stats.packets, reasons)
    };
    let mut last = counted();
    wait("the last packets are counted", PATIENCE, || {
        let before = std::mem::replace(&mut last, counted());
        (before == last).then_some(())
    });
    let (packets, reasons) = last;
    println!("{sent} sent; {packets} by destination, {reasons} by reason");
    // What is on its way at the moment of a removal may be counted nowhere,
    // but never twice.
    assert!(packets <= reasons && reasons - packets <= 400, "{packets} of {reasons}");
    assert!(packets > 0);
}
