//! Nanoseconds per packet on each path, beside a program that does the least.
//!
//! The time of a program that does nothing is subtracted. Paths are run in
//! turn, and each figure is the median of many rounds. `check` as an argument
//! compares the paths' ratios with `benches/baseline.json`, `baseline` makes
//! that file of the last run's figures.
#![allow(unsafe_code, reason = "asks the kernel about a program")]
#![allow(missing_docs)]

use std::mem::size_of;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use libbpf_rs::Program;
use xvs::Client;
use xvs::Destination;
use xvs::MAX_NEW_FLOWS;
use xvs::Options;
use xvs::Service;

mod packets {
    pub mod baseline;
    pub mod cases;
    pub mod harness;
    pub mod measure;
    pub mod report;
    pub mod steps;

    #[path = "../../tests/common/frame.rs"]
    #[allow(dead_code, reason = "tests use more of it")]
    pub mod frame;
}
#[path = "../tests/common/netns.rs"]
#[allow(dead_code, reason = "tests use more of it")]
mod netns;
#[path = "../tests/common/vlans.rs"]
#[allow(dead_code, reason = "tests use more of it")]
mod vlans;
#[path = "../tests/common/xdp.rs"]
#[allow(dead_code, reason = "tests use more of it")]
mod xdp;

use netns::Namespace;
use packets::baseline;
use packets::cases;
use packets::cases::Case;
use packets::harness::Harness;
use packets::measure::Measured;
use packets::measure::measure;
use packets::report;
use packets::steps;

const BPFFS: &str = "/sys/fs/bpf";

fn main() -> ExitCode {
    // `cargo bench` adds an argument of its own.
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let result = match (arguments.next().as_deref(), arguments.next()) {
        (None, None) => all(),
        (Some("check"), None) => check(),
        (Some("baseline"), None) => baseline::make(),
        _ => Err("usage: packets [check | baseline]".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

/// Measures the paths and the steps.
fn all() -> Result<(), String> {
    lab().enter(|| {
        let groups = cases::groups();
        let measured = measure_paths(&groups);
        println!();
        let mut harness = Harness::new("lb0");
        let steps = steps::measure(&mut harness, &groups[0][0].packets);
        report::print_steps(&steps);
        report::write(&measured, &steps);
    });
    Ok(())
}

/// Measures the paths and compares them with the baseline.
fn check() -> Result<(), String> {
    let groups = cases::groups();
    let ratios = baseline::load(&groups)?;
    lab().enter(|| {
        let run = || {
            let measured = measure_paths(&groups);
            report::write(&measured, &[]);
            baseline::compare(&measured, &ratios)
        };
        let first = run();
        if first.is_empty() {
            return Ok(());
        }
        baseline::print(&first);
        println!("once more, as others may have used the machine");
        let mut worse = run();
        worse.retain(|w| first.iter().any(|f| f.name == w.name));
        if worse.is_empty() {
            return Ok(());
        }
        baseline::print(&worse);
        Err("worse than benches/baseline.json, twice".to_owned())
    })
}

/// A namespace with an interface, and with servers that need not be there.
fn lab() -> Namespace {
    let lb = Namespace::new("lb");
    lb.sh(&format!(
        "ip link add lb0 address {} type veth peer name peer0
         ip address add 10.1.2.1/24 dev lb0
         ip -6 address add fd00:1:2::1/64 dev lb0 nodad
         ip link set lb0 up
         ip link set peer0 up
         for i in $(seq {} {}); do
           for server in 10.1.2.$i fd00:1:2::$i; do
             ip neigh add $server dev lb0 lladdr 02:00:00:00:01:0$i nud permanent
           done
         done
         mountpoint -q {BPFFS} || mount -t bpf bpf {BPFFS}",
        xvs::Mac(cases::MAC),
        cases::SERVERS.start(),
        cases::SERVERS.end()
    ));
    lb
}

/// Starts a balancer, measures its paths and prints them.
fn measure_paths(groups: &[Vec<Case>]) -> Measured {
    let instance = format!("bench-{}", std::process::id());
    // Few services and destinations, so that statistics are soon read.
    let options = Options::new()
        .instance(&instance)
        .services(64)
        .destinations(512)
        .flows(cases::FLOWS)
        .vlan(1, "10.1.2.0/24".parse().expect("a prefix"))
        .vlan(1, "fd00:1:2::/64".parse().expect("a prefix"));
    let start = Instant::now();
    let client = Client::with_options(options, &["lb0"]).expect("the balancer starts");
    let started = start.elapsed();
    let destinations: Vec<Destination> =
        cases::SERVERS.map(|i| Destination::new([10, 1, 2, i].into())).collect();
    for vip in cases::VIPS.map(|vip| vip.parse().expect("an address")) {
        for service in [
            Service::tcp(vip, cases::TCP),
            Service::tcp(vip, cases::STICKY).sticky(true),
            Service::tcp(vip, cases::TAGGED),
            Service::udp(vip, cases::UDP_PORT),
        ] {
            let service = service.new_flows(MAX_NEW_FLOWS);
            client.set_service(&service, &destinations).expect("a service");
        }
        let limited = Service::udp(vip, cases::LIMITED).new_flows(1);
        client.set_service(&limited, &destinations).expect("a service");
        for way in cases::ways() {
            let service = Service::tcp(vip, way.port);
            client.set_service(&service, &way.destinations()).expect("a service");
        }
    }
    let services = client.services().expect("services");
    assert!(services.iter().all(|s| s.usable == 8), "neighbours are permanent");

    let pins = Path::new(BPFFS).join("xvs").join(&instance);
    vlans::tag_ways_out(&pins, cases::TAGGED..=cases::TAGGED, cases::OUT);
    let program = Program::fd_from_pinned_path(pins.join("xvs")).expect("the program is pinned");
    let measured = measure(&mut Harness::new("lb0"), &client, program.as_fd(), groups);
    report::print_paths(&measured);
    println!();
    println!("started in {} ms: loaded, pinned, attached", started.as_millis());
    program_facts(&program);
    measured
}

/// What the verifier and the compiler made of the program.
fn program_facts(program: &OwnedFd) {
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut length = size_of::<libbpf_sys::bpf_prog_info>() as u32;
    // SAFETY: the record is as long as said, and asks for no other memory.
    let result = unsafe {
        libbpf_sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &raw mut info, &raw mut length)
    };
    assert_eq!(result, 0, "the program tells about itself");
    println!(
        "program: {} instructions, {} processed by the verifier, {} octets of machine code",
        info.xlated_prog_len / 8,
        info.verified_insns,
        info.jited_prog_len
    );
}
