//! What the control plane costs: services made, tables built, flows told, records of
//! flows exchanged, memory. The figures also go to `target/bench-control.json`.
#![allow(missing_docs)]

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use libbpf_rs::Program;
use serde_json::Value;
use serde_json::json;
use xvs::Client;
use xvs::Destination;
use xvs::FlowRecord;
use xvs::MAX_NEW_FLOWS;
use xvs::Options;
use xvs::Service;

#[path = "../tests/common/frame.rs"]
#[allow(dead_code, reason = "tests use more of it")]
mod frame;
#[path = "packets/harness.rs"]
#[allow(dead_code, reason = "the other benchmark uses more of it")]
mod harness;
#[path = "../src/hash.rs"]
#[allow(dead_code, unused_imports, reason = "the crate uses more of it")]
mod hash;
#[path = "../src/maglev.rs"]
#[allow(dead_code, unused_imports, reason = "its tests run in the crate")]
mod maglev;
#[path = "../tests/common/netns.rs"]
#[allow(dead_code, reason = "tests use more of it")]
mod netns;
#[path = "../tests/common/xdp.rs"]
#[allow(dead_code, reason = "tests use more of it")]
mod xdp;

use harness::FRAME;
use harness::Harness;
use harness::Packets;
use harness::SCATTER;
use hash::HashKey;
use maglev::Member;
use netns::Namespace;

const SERVICES: u16 = 1000;
const DESTINATIONS: u8 = 100;
const FLOWS: u32 = 1_000_000;
const BPFFS: &str = "/sys/fs/bpf";
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xb0];
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 100, 1));

fn main() {
    let lb = Namespace::new("lb");
    lb.sh(&format!(
        "ip link add lb0 address {} type veth peer name peer0
         ip address add 10.1.2.1/24 dev lb0
         ip link set lb0 up
         ip link set peer0 up
         for i in $(seq 2 101); do
           echo neigh add 10.1.2.$i dev lb0 lladdr 02:00:00:00:01:$(printf %02x $i) nud permanent
         done | ip -batch -",
        xvs::Mac(MAC)
    ));
    let tables = tables();
    let figures = lb.enter(|| {
        json!({
            "tables_ms": tables,
            "services": services(),
            "flows": flows(),
            "sharing": sharing(),
        })
    });
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    fs::create_dir_all(&folder).expect("folders can be made");
    fs::write(folder.join("bench-control.json"), format!("{figures:#}\n"))
        .expect("the figures can be written");
}

fn options() -> Options {
    Options::new()
        .instance(format!("bench-{}", std::process::id()))
        .vlan(1, "10.1.2.0/24".parse().expect("a prefix"))
}

fn destinations() -> Vec<Destination> {
    (2..2 + DESTINATIONS).map(|i| Destination::new([10, 1, 2, i].into())).collect()
}

/// Lookup tables over destinations of several weights, made but not written.
fn tables() -> Value {
    let table = |what: &str, weight: fn(u32) -> u32| {
        let member = |i: u8| Member { address: [10, 1, 2, i].into(), weight: weight(i.into()) };
        let members: Vec<Member> = (1..=DESTINATIONS).map(member).collect();
        let key = HashKey::from(*b"sixteen octets!!");
        let time = median(101, || {
            assert_eq!(maglev::table(65_537, key, &members).len(), 65_537);
        });
        println!("a table of {DESTINATIONS} destinations {what}: median {time:?}");
        ms(time)
    };
    json!({
        "weights_1_to_100": table("of weights 1 to 100", |i| i),
        "equal": table("of weight 1", |_| 1),
        "one_of_100": table("of weight 1, but one of 100", |i| if i == 1 { 100 } else { 1 }),
    })
}

/// Many services, and changes among them.
fn services() -> Value {
    let before = Memory::now();
    let start = Instant::now();
    let client =
        Client::with_options(options().destinations(200_000), &["lb0"]).expect("it starts");
    let started = start.elapsed();
    let memory_started = before.more();
    println!("start: {started:?}; {memory_started}");

    let destinations = destinations();
    let single = Service::udp(VIP, 1);
    let start = Instant::now();
    client.create_service(&single).expect("a service");
    for destination in &destinations {
        client.create_destination(&single, destination).expect("a destination");
    }
    let one_by_one = start.elapsed();
    println!("one service, {DESTINATIONS} destinations added one by one: {one_by_one:?}");

    let start = Instant::now();
    let mut ports = 1..=SERVICES;
    let each = median(SERVICES.into(), || {
        let port = ports.next().expect("a port for each");
        client.set_service(&Service::tcp(VIP, port), &destinations).expect("a service");
    });
    let all = start.elapsed();
    let memory_all = before.more();
    println!(
        "{SERVICES} services of {DESTINATIONS} destinations: {all:?}, median {each:?} each; {memory_all}"
    );

    let service = Service::tcp(VIP, 500);
    let mut weights = 2..;
    let weight = median(50, || {
        let weight = weights.next().expect("numbers do not end");
        let changed = destinations[0].clone().weight(weight);
        client.update_destination(&service, &changed).expect("an update");
    });
    println!("one destination's weight changed among them: median {weight:?}");

    let mut rounds = 1..;
    let table = median(21, || {
        let round = rounds.next().expect("numbers do not end");
        let weighted: Vec<Destination> =
            (1..).zip(&destinations).map(|(i, d)| d.clone().weight(i * round % 97 + 1)).collect();
        client.set_service(&service, &weighted).expect("the service is replaced");
    });
    println!(
        "all {DESTINATIONS} weights changed by one `set_service`: median {table:?} (the records \
         compared and written, one table of 65,537 entries built and written)"
    );

    let statistics = median(21, || {
        let services = client.services().expect("statistics");
        assert_eq!(services.len(), usize::from(SERVICES) + 1);
    });
    println!("statistics of all services: median {statistics:?}");
    let everything = median(21, || {
        let all = client.all().expect("statistics");
        assert_eq!(all.len(), usize::from(SERVICES) + 1);
    });
    println!("statistics of all services and destinations: median {everything:?}");
    json!({
        "start_ms": ms(started),
        "start_memory": memory_started.json(),
        "one_by_one_ms": ms(one_by_one),
        "all_ms": ms(all),
        "each_ms": ms(each),
        "all_memory": memory_all.json(),
        "one_weight_ms": ms(weight),
        "all_weights_ms": ms(table),
        "statistics_ms": ms(statistics),
        "all_statistics_ms": ms(everything),
    })
}

/// Many flows, made by packets, and told.
fn flows() -> Value {
    let before = Memory::now();
    let client = balancer(options());
    store(&client);

    let start = Instant::now();
    let flows = client.instance().flows(usize::MAX).expect("flows");
    let time = start.elapsed();
    let memory = before.more();
    println!("{} flows told: {time:?}; {memory}", flows.len());
    let told = flows.len() as f64 / f64::from(FLOWS);
    assert!((0.99..=1.0).contains(&told), "all flows but a few are told");
    json!({ "flows": flows.len(), "told_ms": ms(time), "memory": memory.json() })
}

/// A balancer of one service, with room for twice as many flows: a full table drops some.
fn balancer(options: Options) -> Client {
    let client = Client::with_options(options.flows(2 * FLOWS), &["lb0"]).expect("it starts");
    let service = Service::tcp(VIP, 80).new_flows(MAX_NEW_FLOWS);
    client.set_service(&service, &destinations()).expect("a service");
    client
}

/// Lets packets of many flows come in.
fn store(client: &Client) {
    let pin = Path::new(BPFFS).join("xvs").join(options().instance).join("xvs");
    let program = Program::fd_from_pinned_path(pin).expect("the program is pinned");
    let mut harness = Harness::new("lb0");
    let program = harness.add(program.as_fd());
    let ip = frame::Ip::new([10, 64, 0, 0].into(), VIP).macs([2, 0, 0, 0, 0, 9], MAC);
    let frame = frame::padded(ip.tcp((40000, 80), frame::ACK, b""), FRAME);
    let packets = Packets { frame, offset: 26, mask: (1 << 20) - 1 };
    harness.store(program, &packets, SCATTER, FLOWS);
    let stored = client.info().expect("info").stats.flows;
    assert!(stored.abs_diff(FLOWS.into()) <= u64::from(FLOWS) / 1000, "{stored} flows stored");
}

/// Records of many flows: told, written by another balancer, written once more, exported.
fn sharing() -> Value {
    let mut records = Vec::new();
    let mut told = 0;
    let client = balancer(options().share_flows(true).share_ring(128 << 20));
    let mut reader = client.flow_reader().expect("flows are shared");
    store(&client);
    let read = per_record(|| {
        loop {
            let some = reader.read(Duration::ZERO).expect("the ring can be read");
            if some.is_empty() {
                break;
            }
            told += some.len() as u64;
            records.extend(some.iter().flat_map(FlowRecord::to_bytes));
        }
        told
    });
    assert_eq!(client.info().expect("info").sharing.lost, 0);
    assert!(told >= u64::from(FLOWS) * 999 / 1000, "{told} told");
    drop((reader, client));

    let client = balancer(options());
    let mut stored = 0;
    let written = per_record(|| {
        let accepted = client.write_flows(&records);
        assert_eq!(accepted.refused() - accepted.no_room, 0, "{accepted:?}");
        stored = accepted.stored;
        told
    });
    assert!(stored >= u64::from(FLOWS) * 99 / 100, "{stored} stored");
    let again = per_record(|| {
        let accepted = client.write_flows(&records);
        assert!(accepted.stored <= told / 1000, "nearly all are there: {accepted:?}");
        told
    });
    let mut octets = Vec::new();
    let exported = per_record(|| {
        let mut number = 0;
        client.export_flows(|some| {
            number += some.len() as u64;
            octets.clear();
            octets.extend(some.iter().flat_map(FlowRecord::to_bytes));
        });
        number
    });
    println!(
        "{told} records of flows: read {read:.0} ns each, written {written:.0} ns, written again \
         {again:.0} ns, exported {exported:.0} ns"
    );
    json!({
        "records": told,
        "read_ns": read.round(),
        "written_ns": written.round(),
        "written_again_ns": again.round(),
        "exported_ns": exported.round(),
    })
}

/// Nanoseconds for each record of a job that tells how many it had.
fn per_record(job: impl FnOnce() -> u64) -> f64 {
    let start = Instant::now();
    let number = job();
    start.elapsed().as_nanos() as f64 / number as f64
}

/// The median time of something that is done so often.
fn median(times: usize, mut job: impl FnMut()) -> Duration {
    let mut all: Vec<Duration> = (0..times)
        .map(|_| {
            let start = Instant::now();
            job();
            start.elapsed()
        })
        .collect();
    all.sort();
    all[times / 2]
}

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1000.0
}

/// Memory in use, in mebibytes.
#[derive(Clone, Copy)]
struct Memory {
    /// Of the host, the kernel's maps included.
    host: i64,
    /// Of this process, what it maps of the kernel's maps included.
    process: i64,
}

impl Memory {
    fn now() -> Self {
        let number = |path: &str, field: &str| -> i64 {
            let text = fs::read_to_string(path).expect("every Linux tells its memory");
            let line = text.lines().find(|line| line.starts_with(field)).expect("the field");
            let kib = line.split_whitespace().nth(1).expect("a value");
            kib.parse::<i64>().expect("a number") / 1024
        };
        Self {
            host: -number("/proc/meminfo", "MemFree:"),
            process: number("/proc/self/status", "VmRSS:"),
        }
    }

    /// How much more the host has in use now, and what the process has.
    fn more(&self) -> Self {
        let now = Self::now();
        Self { host: now.host - self.host, process: now.process }
    }

    fn json(self) -> Value {
        json!({ "host_more_mib": self.host, "process_mib": self.process })
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the host has {} MiB more in use, the process {} MiB", self.host, self.process)
    }
}
