//! A process that is killed while it changes things: the next one is right.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use xvs::Destination;
use xvs::DestinationExtended;
use xvs::OnExit;
use xvs::Service;

use crate::lab::Lab;
use crate::lab::VIPS;
use crate::lab::ip;
use crate::lab::wait;
use crate::random::Random;
use crate::random::share;
use crate::server::PATIENCE;
use crate::talk::open;
use crate::talk::talk;
use crate::xvsctl;
use crate::xvsctl::Balance;

/// How often a process is killed.
const KILLS: usize = 40;
/// Servers that stay as they are; the others come and go.
const STEADY: usize = 2;

/// Changes the servers that are not steady, until the pipe is full of it.
fn change(balance: &mut Balance, lab: &Lab, random: &mut Random) {
    for _ in 0..200 {
        let server = &lab.backends[STEADY + random.below(lab.backends.len() - STEADY)].v4;
        balance.tell(&match random.below(4) {
            0 => format!("add {server}"),
            1 => format!("remove {server}"),
            2 => format!("disable {server}"),
            _ => format!("weight {server} {}", 1 + random.below(9)),
        });
    }
}

#[test]
fn whatever_was_half_done_is_made_whole() {
    let lab = Lab::new(6);
    let mut random = Random::from_environment(0x5eed_0801);
    let services: Vec<Service> = [0, 1]
        .iter()
        .flat_map(|n| [80, 8080].map(|port| Service::tcp(ip(VIPS[*n]), port)))
        .collect();
    let options = || lab.options().flows(1_000_000).persist(OnExit::Keep);
    let start = || {
        let options = ["--port=80", "--port=8080", "--persist", "--mode=native"];
        let balance = Balance::start(&lab, &[], xvsctl::program(), &options);
        balance.expect("ready", 12 * PATIENCE);
        balance
    };
    let steady: Vec<Destination> =
        lab.backends[..STEADY].iter().map(|b| Destination::new(b.v4)).collect();
    // Connections of before anything else was there: all to steady servers.
    let balancer = lab.balancer_with(options(), &["eth0"]).expect("a balancer");
    let set_steady = |balancer: &xvs::Client| {
        for service in &services {
            balancer.set_service(service, &steady).expect("it can be set");
            wait("both are usable", PATIENCE, || {
                (balancer.service(service).expect("it is there").usable == STEADY).then_some(())
            });
        }
    };
    set_steady(&balancer);
    let connections = open(&lab, 200);
    drop(balancer);
    let mut surprised = 0;
    talk(connections, |talk| {
        for kill in 0..share(KILLS) {
            let mut balance = start();
            change(&mut balance, &lab, &mut random);
            // It has begun.
            balance.expect("ok", 12 * PATIENCE);
            thread::sleep(Duration::from_micros(random.below(60_000) as u64));
            // Dropping it kills it.
            drop(balance);

            let balancer = lab.balancer_with(options(), &["eth0"]).expect("it is taken over");
            let all = balancer.all().expect("it can be read");
            let found: Vec<_> = all.iter().map(|(s, _)| s.service.key()).collect();
            assert_eq!(found, services.iter().map(Service::key).collect::<Vec<_>>(), "kill {kill}");
            for (service, destinations) in &all {
                let weights: BTreeMap<_, _> = destinations
                    .iter()
                    .map(|d| (d.destination.address, d.destination.weight))
                    .collect();
                assert_eq!(weights.len(), destinations.len(), "kill {kill}: {destinations:?}");
                for (address, weight) in weights {
                    let number = lab.backends.iter().position(|b| b.v4 == address);
                    let number = number.expect("one of the lab's");
                    assert!((1..=9).contains(&weight), "kill {kill}: {service:?}");
                    assert!(number >= STEADY || weight == 1, "kill {kill}: {destinations:?}");
                }
                for server in &steady {
                    let there = destinations.iter().any(|d| d.destination == *server);
                    assert!(there, "kill {kill}: {destinations:?}");
                }
            }
            let whole = |(_, d): &(_, Vec<DestinationExtended>)| {
                d.len() == lab.backends.len() && d.iter().all(|d| d.destination.weight == 1)
            };
            surprised += usize::from(!all.iter().all(whole));
            set_steady(&balancer);
            let kept = balancer.all().expect("it can be read");
            assert!(kept.iter().all(|(_, d)| d.len() == STEADY), "kill {kill}: {kept:?}");
            assert_eq!(balancer.instance().nats().expect("numbers").len(), services.len() * STEADY);
            let info = balancer.info().expect("it runs");
            let of_all: u64 = kept.iter().map(|(service, _)| service.stats.packets).sum();
            assert_eq!(info.stats.packets.max(of_all), info.stats.packets, "sums do not shrink");
        }
        assert_eq!(talk.go_on(), BTreeMap::new(), "connections broken, by server");
    });
    println!("{surprised} of {} while it changed things", share(KILLS));
    assert!(surprised > 0, "no process was killed while it changed things");
    let balancer = lab.balancer_with(options(), &["eth0"]).expect("it is taken over");
    balancer.detach().expect("its pins can be removed");
}
