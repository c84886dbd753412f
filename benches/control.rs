//! What the control plane costs: services made, tables built, memory.
#![allow(missing_docs)]

use std::fs;
use std::net::IpAddr;
use std::time::Duration;
use std::time::Instant;

use xvs::Client;
use xvs::Destination;
use xvs::Options;
use xvs::Service;

#[path = "../tests/common/netns.rs"]
#[allow(dead_code, reason = "tests use more of it")]
mod netns;

use netns::Namespace;

const SERVICES: u16 = 1000;
const DESTINATIONS: u8 = 100;

fn main() {
    let lb = Namespace::new("lb");
    lb.sh("ip link add lb0 type veth peer name peer0
         ip address add 10.1.2.1/24 dev lb0
         ip link set lb0 up
         ip link set peer0 up
         for i in $(seq 2 101); do
           echo neigh add 10.1.2.$i dev lb0 lladdr 02:00:00:00:01:$(printf %02x $i) nud permanent
         done | ip -batch -");
    lb.enter(run);
}

fn run() {
    let options = Options::new()
        .instance(format!("bench-{}", std::process::id()))
        .destinations(200_000)
        .vlan(1, "10.1.2.0/24".parse().expect("a prefix"));
    let before = memory();
    let start = Instant::now();
    let client = Client::with_options(options, &["lb0"]).expect("the balancer starts");
    println!("start: {:?}; {} MiB", start.elapsed(), memory() - before);

    let vip: IpAddr = [192, 168, 100, 1].into();
    let destinations: Vec<Destination> =
        (2..2 + DESTINATIONS).map(|i| Destination::new([10, 1, 2, i].into())).collect();

    let single = Service::udp(vip, 1);
    let start = Instant::now();
    client.create_service(&single).expect("a service");
    for destination in &destinations {
        client.create_destination(&single, destination).expect("a destination");
    }
    println!("one service, {DESTINATIONS} destinations added one by one: {:?}", start.elapsed());

    let mut times = Vec::new();
    let start = Instant::now();
    for port in 1..=SERVICES {
        let one = Instant::now();
        client.set_service(&Service::tcp(vip, port), &destinations).expect("a service");
        times.push(one.elapsed());
    }
    let all = start.elapsed();
    println!(
        "{SERVICES} services of {DESTINATIONS} destinations: {all:?}, median {:?} each; {} MiB",
        median(&mut times),
        memory() - before
    );

    let mut times = Vec::new();
    for weight in 2..52 {
        let one = Instant::now();
        let changed = destinations[0].clone().weight(weight);
        client.update_destination(&Service::tcp(vip, 500), &changed).expect("an update");
        times.push(one.elapsed());
    }
    println!("one destination's weight changed among them: median {:?}", median(&mut times));

    let mut times = Vec::new();
    for _ in 0..21 {
        let one = Instant::now();
        let services = client.services().expect("statistics");
        assert_eq!(services.len(), usize::from(SERVICES) + 1);
        times.push(one.elapsed());
    }
    println!("statistics of all services: median {:?}", median(&mut times));
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Mebibytes that the host has in use, the kernel's maps included.
fn memory() -> i64 {
    let info = fs::read_to_string("/proc/meminfo").expect("every Linux tells its memory");
    let line = info.lines().find(|line| line.starts_with("MemFree:")).expect("free memory");
    let free: i64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    -free / 1024
}
