//! What becomes of traffic when the process is gone is what was declared.

use std::time::Duration;
use std::time::Instant;

use xvs::Client;
use xvs::Instance;
use xvs::OnExit;
use xvs::Packet;
use xvs::Protocol;
use xvs::Verdict;

use crate::cycles::client;
use crate::lab::Lab;
use crate::lab::UDP;
use crate::lab::VIPS;
use crate::lab::ip;
use crate::lab::vip;
use crate::lab::wait;
use crate::server::PATIENCE;
use crate::server::ask;
use crate::server::udp_from;
use crate::stream::Stream;
use crate::xdp;
use crate::xvsctl;
use crate::xvsctl::Balance;

/// A client whose VIP of each family answers to UDP requests.
fn answering(lab: &Lab, on_exit: OnExit) -> Client {
    let client = client(lab, lab.options().persist(on_exit));
    for vip in [VIPS[0], VIPS[1]] {
        let service = xvs::Service::udp(ip(vip), UDP);
        let server = if vip.contains(':') { lab.backends[0].v6 } else { lab.backends[0].v4 };
        client.set_service(&service, &[xvs::Destination::new(server)]).expect("a service");
        wait("its server is usable", PATIENCE, || {
            (client.service(&service).expect("it is there").usable == 1).then_some(())
        });
    }
    client
}

/// Whether the VIPs of both families answer, to one of a few requests.
pub fn answers(lab: &Lab) -> bool {
    (0..2).all(|number| {
        let any = if number == 0 { "0.0.0.0" } else { "::" };
        lab.client.enter(|| {
            let socket = udp_from(ip(any), 0);
            socket.set_read_timeout(Some(Duration::from_millis(200))).expect("it has one");
            (0..5).any(|_| {
                socket.send_to(b"who", vip(number, UDP)).expect("there is a route");
                socket.recv(&mut [0; 64]).is_ok()
            })
        })
    })
}

fn unattended(lab: &Lab) -> u64 {
    let instance = Instance::open(lab.bpffs(), "lab").expect("it is pinned");
    instance.info().expect("it can be read").stats.reasons.unattended
}

/// Everything that may be left in the namespace of the balancer.
fn traces(lab: &Lab) -> (bool, Option<u32>, String) {
    let links = lab.lb.sh("ip -o link show type veth | cut -d: -f2 | cut -d@ -f1");
    (lab.bpffs().join("xvs").exists(), xdp::attached(&lab.lb, "eth0"), links)
}

#[test]
fn without_persistence_nothing_goes_on() {
    let lab = Lab::new(1);
    let before = traces(&lab);
    let balancer = answering(&lab, OnExit::Detach);
    assert!(answers(&lab));
    assert_eq!(balancer.info().expect("it runs").persist, OnExit::Detach);
    drop(balancer);
    assert!(!answers(&lab));
    assert_eq!(traces(&lab), before);
}

#[test]
fn what_is_kept_is_detached_by_whoever_says_so() {
    let lab = Lab::new(1);
    let before = traces(&lab);
    let kept = || {
        drop(answering(&lab, OnExit::Keep));
        assert!(answers(&lab));
        assert_ne!(traces(&lab), before);
    };
    kept();
    let detached = lab.lb.enter(|| Instance::detach(lab.bpffs(), "lab")).expect("nobody runs it");
    assert!(detached.pins.iter().any(|pin| pin.starts_with("link_")), "{detached:?}");
    assert_eq!(detached.probe_interface.as_deref(), Some("xvs-lab"));
    assert_eq!(traces(&lab), before);

    kept();
    answering(&lab, OnExit::Keep).detach().expect("its pins can be removed");
    assert_eq!(traces(&lab), before);

    kept();
    // The next one keeps nothing.
    drop(answering(&lab, OnExit::Detach));
    assert_eq!(traces(&lab), before);
    assert!(!answers(&lab));
}

#[test]
fn what_is_kept_for_a_time_ends_then() {
    const TIME: Duration = Duration::from_secs(3);
    let lab = Lab::new(1);
    let balancer = answering(&lab, OnExit::KeepFor(TIME));
    assert_eq!(balancer.info().expect("it runs").persist, OnExit::KeepFor(TIME));
    drop(balancer);
    let gone = Instant::now();
    assert!(answers(&lab));
    assert_eq!(unattended(&lab), 0);
    wait("it ends", TIME + 2 * PATIENCE, || (!answers(&lab)).then_some(()));
    assert!(gone.elapsed() > TIME, "after {:?}", gone.elapsed());
    assert!(unattended(&lab) > 0);
    let instance = Instance::open(lab.bpffs(), "lab").expect("it is pinned");
    let packet = Packet {
        protocol: Protocol::Udp,
        source: ip("10.1.2.100"),
        source_port: Some(4000),
        destination: ip(VIPS[0]),
        destination_port: UDP,
        syn: false,
    };
    let explained = instance.explain(&packet).expect("it can be explained");
    assert_eq!((explained.verdict, explained.reason), (Verdict::Pass, "unattended"));
    let socket = lab.client.enter(|| udp_from(ip("0.0.0.0"), 0));
    socket.send_to(b"who", vip(0, UDP)).expect("there is a route");

    let _balancer = answering(&lab, OnExit::KeepFor(TIME));
    assert!(answers(&lab), "the next process ends that");
    assert!(ask(&socket, vip(0, UDP), Duration::from_millis(100)).is_ok());
}

#[test]
fn a_process_that_lives_is_known_to_live() {
    let lab = Lab::new(2);
    let _balancer = client(&lab, lab.options().persist(OnExit::KeepFor(Duration::from_secs(1))));
    let stream = Stream::start(&lab, 1_000);
    // Four times as long as it may be away.
    stream.go_on(4_000);
    let ended = stream.end(&lab);
    assert_eq!((ended.lost, ended.moved), (0, 0), "{ended:?}");
}

#[test]
fn a_killed_process_is_missed() {
    let lab = Lab::new(1);
    let options = ["--port=53/udp", "--persist=2"];
    let balance = Balance::start(&lab, &[], xvsctl::program(), &options);
    balance.expect("ready", 4 * PATIENCE);
    assert!(answers(&lab));
    // Dropping it kills it.
    drop(balance);
    assert!(answers(&lab));
    wait("it ends", 4 * PATIENCE, || (!answers(&lab)).then_some(()));
    assert!(unattended(&lab) > 0);
    let balance = Balance::start(&lab, &[], xvsctl::program(), &options);
    balance.expect("taken_over", 4 * PATIENCE);
    balance.expect("ready", 4 * PATIENCE);
    assert!(answers(&lab));
    lab.lb.enter(|| Instance::detach(lab.bpffs(), "lab")).expect_err("it lives");
}

#[test]
fn a_process_that_keeps_nothing_ends_what_it_has_taken_over() {
    let lab = Lab::new(1);
    let before = traces(&lab);
    drop(answering(&lab, OnExit::Keep));
    assert!(answers(&lab));
    let balance = Balance::start(&lab, &[], xvsctl::program(), &["--port=53/udp", "--flows=65536"]);
    balance.expect("taken_over", 4 * PATIENCE);
    balance.expect("ready", 4 * PATIENCE);
    assert!(answers(&lab));
    // Dropping it kills it.
    drop(balance);
    wait("the program goes with its process", PATIENCE, || {
        xdp::attached(&lab.lb, "eth0").is_none().then_some(())
    });
    assert!(!answers(&lab));
    lab.lb.enter(|| Instance::detach(lab.bpffs(), "lab")).expect("nobody runs it");
    assert_eq!(traces(&lab), before);
}
