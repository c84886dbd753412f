//! Probes beside the traffic of clients.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;

use xvs::Client;
use xvs::Destination;
use xvs::Service;
use xvs::Stats;

use crate::checker::all;
use crate::checker::allow_echo;
use crate::checker::octets;
use crate::lab::Lab;
use crate::lab::vip;
use crate::lab::wait;
use crate::server::Connection;
use crate::server::PATIENCE;
use crate::tunnelled::address;
use crate::tunnelled::serve;

/// The counters of a service's destinations, and its own.
fn counters(balancer: &Client, service: &Service) -> Vec<Stats> {
    let shown = balancer.destinations(service).expect("it is there").into_iter();
    let own = balancer.service(service).expect("it is there").stats;
    // These two follow a scan of the flows.
    let lasting = |stats: Stats| {
        let mut stats = stats;
        (stats.active, stats.recent, stats.live) = (0, 0, 0);
        stats
    };
    shown.map(|destination| destination.stats).chain([own]).map(lasting).collect()
}

/// Waits until the last of the clients' packets is counted.
fn at_rest(balancer: &Client, service: &Service) -> Vec<Stats> {
    let mut before = counters(balancer, service);
    wait("no traffic", PATIENCE, || {
        thread::sleep(std::time::Duration::from_millis(100));
        let now = std::mem::replace(&mut before, counters(balancer, service));
        (now == before).then_some(())
    });
    before
}

#[test]
fn clients_notice_nothing_of_probes() {
    let lab = Lab::new(2);
    allow_echo(&lab);
    let balancer = &lab.balancer();
    for number in [0, 1] {
        let to = vip(number, 80);
        let service = Service::tcp(to.ip(), to.port());
        let destinations = lab.backends.iter().map(|b| Destination::new(address(b, number)));
        serve(balancer, &service, &destinations.collect::<Vec<_>>());
        let open = || Connection::open(to, PATIENCE).expect("a server answers");
        let mut connections: Vec<Connection> = (0..8).map(|_| lab.client.enter(open)).collect();
        let probe = || {
            for backend in &lab.backends {
                let nat = balancer.nat_service(&service, address(backend, number));
                all(&lab, balancer, (nat.expect("it has one"), 80).into(), backend, "live");
            }
        };

        let before = at_rest(balancer, &service);
        println!("{before:?}");
        probe();
        assert_eq!(counters(balancer, &service), before);
        assert_eq!(before[2].flows, 8);

        let done = &AtomicBool::new(false);
        let (connections, rounds) = thread::scope(|scope| {
            let traffic = scope.spawn(move || {
                let mut rounds = 0_u64;
                while !done.load(Ordering::Relaxed) {
                    for connection in &mut connections {
                        connection.exchange(&octets(100)).expect("the connection goes on");
                    }
                    rounds += 1;
                }
                (connections, rounds)
            });
            for _ in 0..5 {
                probe();
            }
            done.store(true, Ordering::Relaxed);
            traffic.join().expect("no exchange fails")
        });
        assert!(rounds > 0);
        let after = at_rest(balancer, &service)[2];
        assert_eq!(after.flows, 8, "{after:?}");
        assert_eq!((after.syn, after.fin, after.rst), (8, 0, 0), "{after:?}");
        assert!(after.packets - before[2].packets >= 8 * rounds, "{after:?}");
        for mut connection in connections {
            connection.exchange(b"still here").expect("the connection goes on");
        }
    }
}
