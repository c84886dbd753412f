//! Restarts and upgrades under traffic: nothing is lost, nothing moves.

use std::collections::BTreeMap;

use xvs::Client;
use xvs::Destination;
use xvs::Mode;
use xvs::OnExit;
use xvs::Options;
use xvs::Service;

use crate::lab::Lab;
use crate::lab::VIPS;
use crate::lab::ip;
use crate::lab::wait;
use crate::random::share;
use crate::server::PATIENCE;
use crate::stream::PORT;
use crate::stream::Stream;
use crate::talk::open;
use crate::talk::talk;
use crate::xdp;
use crate::xvsctl;
use crate::xvsctl::Balance;

/// How often a process goes and another comes.
const CYCLES: usize = 100;
/// Datagrams per second meanwhile.
const RATE: usize = 10_000;
const CONNECTIONS: usize = 1_000;

/// Runs so many cycles under traffic, none of which is lost or moved.
fn under_traffic(lab: &Lab, cycles: usize, mut cycle: impl FnMut()) {
    let rate = share(RATE);
    let stream = Stream::start(lab, rate as u64);
    stream.go_on(rate as u64 / 10);
    talk(open(lab, share(CONNECTIONS)), |talk| {
        for _ in 0..cycles {
            cycle();
            stream.go_on(rate as u64 / 10);
        }
        assert_eq!(talk.go_on(), BTreeMap::new(), "connections broken, by server");
    });
    let ended = stream.end(lab);
    println!("{cycles} cycles: {ended:?}");
    assert_eq!((ended.lost, ended.moved), (0, 0), "{ended:?}");
    // It is no excuse for losing many.
    assert!(ended.overflown * 100 <= ended.sent, "{ended:?}");
}

/// A process that goes on without end, once it is ready.
fn start(lab: &Lab) -> Balance {
    let options = ["--port=80/tcp", &format!("--port={PORT}/udp"), "--persist"];
    let balance = Balance::start(lab, &[], xvsctl::program(), &options);
    balance.expect("ready", 12 * PATIENCE);
    balance
}

#[test]
fn a_killed_process_and_the_next_one_lose_nothing() {
    let lab = Lab::new(5);
    let mut balance = Some(start(&lab));
    under_traffic(&lab, share(CYCLES), || {
        // Dropping it kills it.
        drop(balance.take());
        assert!(xdp::attached(&lab.lb, "eth0").is_some(), "the program stays");
        balance = Some(start(&lab));
    });
    assert!(balance.expect("the last one").stop().success());
    lab.lb.enter(|| xvs::Instance::detach(lab.bpffs(), "lab")).expect("nobody runs it");
    wait("it is off", PATIENCE, || xdp::attached(&lab.lb, "eth0").is_none().then_some(()));
}

/// A client of the lab with services for all of its traffic.
pub fn client(lab: &Lab, options: Options) -> Client {
    let client = lab.balancer_with(options, &["eth0"]).expect("a balancer");
    for service in services() {
        let destination = |b: &crate::lab::Backend| {
            Destination::new(if service.address.is_ipv4() { b.v4 } else { b.v6 })
        };
        let all: Vec<Destination> = lab.backends.iter().map(destination).collect();
        client.set_service(&service, &all).expect("a service");
        wait("all are usable", PATIENCE, || {
            let usable = client.service(&service).expect("it is there").usable;
            (usable == all.len()).then_some(())
        });
    }
    client
}

/// For TCP and for the stream, of each family.
pub fn services() -> Vec<Service> {
    let of = |vip: &&str| [Service::tcp(ip(vip), 80), Service::udp(ip(vip), PORT)];
    VIPS[..2].iter().flat_map(of).collect()
}

/// One process after the other, each with its own program.
fn replaced(mode: Mode, cycles: usize) {
    let lab = Lab::new(5);
    let options = || lab.options().mode(mode).persist(OnExit::Keep);
    let mut balancer = Some(client(&lab, options()));
    let mut programs = vec![xdp::attached(&lab.lb, "eth0")];
    under_traffic(&lab, cycles, || {
        drop(balancer.take());
        let next = client(&lab, options());
        assert_eq!(next.info().expect("it runs").interfaces[0].mode, mode);
        balancer = Some(next);
        programs.push(xdp::attached(&lab.lb, "eth0"));
    });
    assert!(!programs.contains(&None), "{programs:?}");
    let number = programs.len();
    programs.sort_unstable();
    programs.dedup();
    assert_eq!(programs.len(), number, "each process brings its own program");
    balancer.expect("the last one").detach().expect("its pins can be removed");
    assert_eq!(xdp::attached(&lab.lb, "eth0"), None);
}

#[test]
fn a_program_is_replaced_in_place() {
    replaced(Mode::Native, share(CYCLES));
}

#[test]
fn a_program_in_the_stack_is_replaced_in_place() {
    replaced(Mode::Generic, share(CYCLES / 5));
}
