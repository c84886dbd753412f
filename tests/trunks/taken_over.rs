//! What is left on a bond goes on, and the next process takes it over.

use xvs::Client;
use xvs::Event;
use xvs::OnExit;
use xvs::Service;

use crate::bonds;
use crate::bonds::Way;
use crate::lab::Bonding;
use crate::lab::Lab;
use crate::lab::VIPS;
use crate::lab::ip;
use crate::lab::vip;
use crate::lab::wait;
use crate::random::share;
use crate::serve;
use crate::server::Connection;
use crate::server::PATIENCE;
use crate::stream::PORT;
use crate::stream::Stream;
use crate::xdp;

/// Processes that take over.
const CYCLES: usize = 5;
/// Datagrams per second meanwhile.
const RATE: u64 = 500;

/// A balancer that has been started as the way has it, and whose data plane stays.
fn start(lab: &Lab, way: Way) -> Client {
    way.balancer_with(lab, way.options(lab).persist(OnExit::Keep), &["bond0"])
}

/// The programs of the bond and of its members.
fn programs(lab: &Lab) -> [Option<u32>; 3] {
    ["bond0", "eth0", "eth1"].map(|interface| xdp::attached(&lab.lb, interface))
}

#[test]
fn the_next_process_takes_over_a_bond() {
    for (bonding, way) in [
        (Bonding::ActiveBackup, Way::Native),
        (Bonding::ActiveBackup, Way::Members),
        (Bonding::ActiveBackup, Way::Generic),
        (Bonding::Aggregate, Way::Members),
    ] {
        let Some(lab) = bonds::lab(3, bonding) else { return };
        println!("{bonding:?}, {way:?}");
        let first = start(&lab, way);
        for vip in &VIPS[..2] {
            serve(&lab, &first, &Service::tcp(ip(vip), 80));
            serve(&lab, &first, &Service::udp(ip(vip), PORT));
        }
        let mut held: Vec<Connection> = lab.client.enter(|| {
            let open =
                |i: usize| Connection::open(vip(i % 2, 80), PATIENCE).expect("a server answers");
            (0..40).map(open).collect()
        });
        let stream = Stream::start(&lab, RATE);
        let mut balancer = first;
        for _ in 0..share(CYCLES) {
            let left = programs(&lab);
            drop(balancer);
            assert_eq!(programs(&lab), left, "the programs stay where they are");
            stream.go_on(RATE / 10);
            for connection in &mut held {
                connection.exchange(b"nobody is there").expect("it goes on");
            }
            balancer = start(&lab, way);
            let taken = |event: &Event| matches!(event, Event::TakenOver { .. });
            assert!(balancer.events().iter().any(taken));
            for (left, now) in left.into_iter().zip(programs(&lab)) {
                assert_eq!(left.is_some(), now.is_some(), "it is on the same interfaces");
                assert!(now.is_none() || now != left, "the process brought its own");
            }
            stream.go_on(RATE / 10);
        }
        let ended = stream.end(&lab);
        assert_eq!((ended.lost, ended.moved), (0, 0), "{ended:?}");
        bonds::all_go_on(&lab, &balancer, &mut held, "processes came and went");

        // A member fails while nobody is there to see it.
        drop(balancer);
        lab.sw.sh("ip link set lb0 down");
        let balancer = start(&lab, way);
        bonds::all_go_on(&lab, &balancer, &mut held, "one member is down");
        balancer.detach().expect("its pins can be removed");
        wait("it is off", PATIENCE, || (programs(&lab) == [None; 3]).then_some(()));
    }
}
