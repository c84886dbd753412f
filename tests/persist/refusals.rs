//! What cannot be taken over is refused, and goes on.

use std::io::Write;
use std::process::Command;

use libbpf_rs::MapCore;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use xvs::Client;
use xvs::Destination;
use xvs::Error;
use xvs::Instance;
use xvs::Mode;
use xvs::OnExit;
use xvs::Options;
use xvs::Service;

use crate::exits::answers;
use crate::lab::Lab;
use crate::lab::UDP;
use crate::lab::VIPS;
use crate::lab::ip;
use crate::lab::wait;
use crate::server::PATIENCE;
use crate::xdp;
use crate::xvsctl;

/// Leaves a data plane forwarding without a process.
fn left(lab: &Lab) -> Option<u32> {
    let balancer = lab.balancer_with(lab.options().persist(OnExit::Keep), &["eth0"]);
    let balancer = balancer.expect("a balancer");
    for vip in [VIPS[0], VIPS[1]] {
        let service = Service::udp(ip(vip), UDP);
        balancer.set_service(&service, &[Destination::new(lab.backends[0].v4)]).expect("set");
        wait("its server is usable", PATIENCE, || {
            (balancer.service(&service).expect("it is there").usable == 1).then_some(())
        });
    }
    drop(balancer);
    assert!(answers(lab));
    xdp::attached(&lab.lb, "eth0")
}

fn refused(lab: &Lab, options: Options, interfaces: &[&str]) -> Error {
    match lab.balancer_with(options, interfaces) {
        Err(error) => {
            println!("{error}");
            assert!(answers(lab), "it goes on");
            error
        }
        Ok(_) => panic!("it was taken over"),
    }
}

#[test]
fn other_options_are_named() {
    let lab = Lab::new(1);
    let program = left(&lab);
    let options = || lab.options().persist(OnExit::Keep);
    let prefix = |text: &str| text.parse().expect("a prefix");
    let cases = [
        ("flows", options().flows(131_072)),
        ("table_size", options().table_size(251)),
        ("services", options().services(7)),
        ("destinations", options().destinations(99)),
        ("hash_key", options().hash_key([7; 16])),
        ("nat4", options().nat4(prefix("254.0.0.0/8"))),
        ("nat6", options().nat6(prefix("fd01:2:3::/64"))),
        ("native", options().mode(Mode::Generic)),
        ("flows, services", options().services(7).flows(131_072)),
    ];
    for (name, options) in cases {
        let error = refused(&lab, options, &["eth0"]);
        assert!(matches!(error, Error::TakeOver { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(name) && text.contains("`xvsctl detach`"), "{text}");
        assert_eq!(xdp::attached(&lab.lb, "eth0"), program, "{name}");
    }
    let balancer = lab.balancer_with(options(), &["eth0"]).expect("with the same it is taken over");
    assert_ne!(xdp::attached(&lab.lb, "eth0"), program);
    assert!(answers(&lab));
    let error = lab.balancer_with(options(), &["eth0"]).expect_err("it has a process");
    assert!(matches!(error, Error::InstanceBusy { process: Some(_), .. }), "{error:?}");
    assert!(answers(&lab));
    balancer.detach().expect("its pins can be removed");
}

#[test]
fn it_stays_in_its_network_namespace() {
    let lab = Lab::new(1);
    left(&lab);
    let options = lab.options();
    let error = lab.client.enter(|| Client::with_options(options, &["eth0"]));
    let error = error.expect_err("it is elsewhere");
    println!("{error}");
    assert!(matches!(&error, Error::TakeOver { reason, .. } if reason.contains("namespace")));
    assert!(answers(&lab));
}

#[test]
fn a_foreign_program_is_left_alone_and_so_is_ours() {
    let lab = Lab::with_two_subnets(1);
    let options = lab.options().persist(OnExit::Keep);
    let balancer = lab.balancer_with(options.clone(), &["eth0"]).expect("a balancer");
    drop(balancer);
    let program = xdp::attached(&lab.lb, "eth0");
    xdp::attach_pass(&lab.lb, "eth1", "somebody_elses");
    let error = lab.balancer_with(options, &["eth0", "eth1"]).expect_err("it is occupied");
    assert!(matches!(&error, Error::ForeignProgram { interface, .. } if interface == "eth1"));
    assert_eq!(xdp::attached(&lab.lb, "eth0"), program);
    assert!(program.is_some());
}

#[test]
fn an_unknown_layout_is_refused_and_goes_on() {
    let lab = Lab::new(1);
    left(&lab);
    let pin = lab.bpffs().join("xvs/lab/instance");
    let map = MapHandle::from_pinned_path(&pin).expect("it is pinned");
    let key = 0u32.to_ne_bytes();
    let record = map.lookup(&key, MapFlags::ANY).expect("a lookup").expect("a record");
    let set = |layout: u32| {
        let mut record = record.clone();
        record[..4].copy_from_slice(&layout.to_ne_bytes());
        map.update(&key, &record, MapFlags::ANY).expect("it is written");
    };
    for layout in [0, 7, 999] {
        set(layout);
        let error = refused(&lab, lab.options(), &["eth0"]);
        assert!(matches!(error, Error::Layout { found, .. } if found == layout), "{error:?}");
        assert!(error.to_string().contains("xvsctl detach"), "{error}");
    }
    let detach = || {
        let mut command = Command::new(xvsctl::program());
        command.arg(format!("--bpffs={}", lab.bpffs().display()));
        lab.lb.enter(|| command.args(["--instance=lab", "detach"]).output().expect("it runs"))
    };
    let output = detach();
    std::io::stdout().write_all(&output.stdout).expect("stdout is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(xdp::attached(&lab.lb, "eth0"), None);
    assert!(Instance::list(lab.bpffs()).expect("it is mounted").is_empty());
    assert!(!answers(&lab));
}
