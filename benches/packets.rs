//! Nanoseconds per packet on each path, beside a program that does the least.
//!
//! A wrapper writes the frame anew and calls the program under test; the time
//! of the wrapper with a program that does nothing is subtracted. Programs
//! are run in turn, and each figure is the median of many rounds.
#![allow(unsafe_code, reason = "runs programs by libbpf")]
#![allow(missing_docs)]

use std::io;
use std::mem::MaybeUninit;
use std::mem::size_of;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

use etherparse::PacketBuilder;
use libbpf_rs::MapCore;
use libbpf_rs::MapFlags;
use libbpf_rs::Program;
use libbpf_rs::skel::OpenSkel;
use libbpf_rs::skel::SkelBuilder;
use xvs::Client;
use xvs::Destination;
use xvs::Options;
use xvs::Service;

#[path = "../tests/common/netns.rs"]
#[allow(dead_code, reason = "tests use more of it")]
mod netns;

use netns::Namespace;

#[allow(unused_imports, rust_2018_idioms, clippy::all)]
#[allow(clippy::undocumented_unsafe_blocks, clippy::semicolon_if_nothing_returned)]
mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/packets.skel.rs"));
}

const ROUNDS: usize = 21;
const PACKETS: u32 = 1_000_000;
/// So many cases at the end of the list make a new flow with each packet.
const MISSES: usize = 2;
/// Octets of each frame.
const FRAME: usize = 128;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xb0];
/// The case that is not sent back.
const FOREIGN: &str = "foreign IPv4";
/// From `linux/bpf.h`.
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const BPFFS: &str = "/sys/fs/bpf";

/// Indices of the programs.
const NOTHING: u32 = 0;
const REFERENCE: u32 = 1;
const XVS: u32 = 2;

/// One path of a program.
struct Case {
    name: &'static str,
    program: u32,
    frame: Vec<u8>,
    /// Bits in which source addresses differ: flows less one.
    mask: u32,
    /// Where the last word of the source address is.
    offset: u32,
    /// What the program must say.
    verdict: u32,
    times: Vec<f64>,
}

fn main() {
    let instance = format!("bench-{}", std::process::id());
    let lb = Namespace::new("lb");
    lb.sh(&format!(
        "ip link add lb0 address 02:00:00:00:00:b0 type veth peer name peer0
         ip address add 10.1.2.1/24 dev lb0
         ip -6 address add fd00:1:2::1/64 dev lb0 nodad
         ip link set lb0 up
         ip link set peer0 up
         for i in $(seq 2 9); do
           ip neigh add 10.1.2.$i dev lb0 lladdr 02:00:00:00:01:0$i nud permanent
         done
         mountpoint -q {BPFFS} || mount -t bpf bpf {BPFFS}"
    ));
    lb.enter(|| run(&instance));
}

fn run(instance: &str) {
    let options = Options::new()
        .instance(instance)
        .flows(2_000_000)
        .vlan(1, "10.1.2.0/24".parse().expect("a prefix"));
    let start = Instant::now();
    let client = Client::with_options(options, &["lb0"]).expect("the balancer starts");
    let started = start.elapsed();
    for vip in ["192.168.100.1", "fd00:100::1"] {
        for service in [
            Service::tcp(vip.parse().expect("an address"), 80),
            Service::udp(vip.parse().expect("an address"), 53),
        ] {
            let destinations: Vec<Destination> =
                (2..=9).map(|i| Destination::new([10, 1, 2, i].into())).collect();
            client.set_service(&service, &destinations).expect("a service");
        }
    }
    let services = client.services().expect("services");
    assert!(services.iter().all(|s| s.usable == 8), "neighbours are permanent");

    let mut object = MaybeUninit::uninit();
    let skeleton = skeleton::PacketsSkelBuilder::default()
        .open(&mut object)
        .and_then(OpenSkel::load)
        .expect("the wrapper loads");
    let pin = Path::new(BPFFS).join("xvs").join(instance).join("xvs");
    let program = Program::fd_from_pinned_path(pin).expect("the program is pinned");
    for (index, fd) in [
        (NOTHING, skeleton.progs.nothing.as_fd()),
        (REFERENCE, skeleton.progs.reference.as_fd()),
        (XVS, program.as_fd()),
    ] {
        let fd = fd.as_raw_fd().to_ne_bytes();
        skeleton
            .maps
            .programs
            .update(&index.to_ne_bytes(), &fd, MapFlags::ANY)
            .expect("the program fits the array");
    }
    let ingress = interface_index("lb0");
    let mut cases = cases();
    let wrapper = skeleton.progs.wrapper.as_fd();
    // Misses push other flows out of the tables, so they come last.
    let steady = cases.len() - MISSES;
    let (steady, misses) = cases.split_at_mut(steady);
    for group in [steady, misses] {
        for round in 0..=ROUNDS {
            for case in &mut *group {
                let plan = plan(case);
                skeleton
                    .maps
                    .plans
                    .update(&0u32.to_ne_bytes(), &plan, MapFlags::ANY)
                    .expect("the plan fits");
                // The first round makes the flows, so it must see each.
                let flows = case.mask.saturating_add(1).min(1 << 20);
                let repeat = if round == 0 { PACKETS.max(flows) } else { PACKETS };
                let time = time(wrapper, case, ingress, repeat).expect("the program runs");
                if round > 0 {
                    case.times.push(time);
                }
            }
        }
    }
    report(&mut cases);
    println!();
    println!("started in {} ms: loaded, pinned, attached", started.as_millis());
    program_facts(&program);
}

fn cases() -> Vec<Case> {
    let v4 = || {
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], MAC).ipv4(
            [10, 64, 0, 0],
            [192, 168, 100, 1],
            64,
        )
    };
    let vip6 = [0xfd00, 0x100, 0, 0, 0, 0, 0, 1].map(u16::to_be_bytes).concat();
    let client6 = [0x2001, 0xdb8, 0, 0, 0, 0, 0, 0].map(u16::to_be_bytes).concat();
    let vip6: [u8; 16] = vip6.try_into().expect("16 octets");
    let client6: [u8; 16] = client6.try_into().expect("16 octets");
    let v6 = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], MAC).ipv6(client6, vip6, 64);
    let foreign = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], MAC)
        .ipv4([10, 64, 0, 0], [10, 1, 2, 1], 64)
        .tcp(40000, 22, 1, 1000)
        .ack(1);
    let payload = |headers: usize| vec![0; FRAME - headers];
    let build4 = |step: etherparse::PacketBuilderStep<etherparse::TcpHeader>, headers| {
        let mut frame = Vec::new();
        step.write(&mut frame, &payload(headers)).expect("a vector takes it");
        frame
    };
    let ack4 = build4(v4().tcp(40000, 80, 1, 1000).ack(1), 54);
    let syn4 = build4(v4().tcp(40000, 80, 1, 1000).syn(), 54);
    let ack6 = build4(v6().tcp(40000, 80, 1, 1000).ack(1), 74);
    let syn6 = build4(v6().tcp(40000, 80, 1, 1000).syn(), 74);
    let foreign = build4(foreign, 54);
    let mut udp4 = Vec::new();
    v4().udp(40000, 53).write(&mut udp4, &payload(42)).expect("a vector takes it");
    let mut udp6 = Vec::new();
    v6().udp(40000, 53).write(&mut udp6, &payload(62)).expect("a vector takes it");
    let mut echo4 = Vec::new();
    v4().icmpv4_echo_request(1, 1).write(&mut echo4, &payload(42)).expect("a vector takes it");
    let mut echo6 = Vec::new();
    v6().icmpv6_echo_request(1, 1).write(&mut echo6, &payload(62)).expect("a vector takes it");

    let many = (1 << 20) - 1;
    let case = |name, program, frame: &[u8], mask, offset| Case {
        name,
        program,
        frame: frame.to_vec(),
        mask,
        offset,
        verdict: if name == FOREIGN { XDP_PASS } else { XDP_TX },
        times: Vec::new(),
    };
    const V4: u32 = 26;
    const V6: u32 = 34;
    vec![
        case("nothing (subtracted below)", NOTHING, &ack4, 1023, V4),
        case("reference, 1 flow", REFERENCE, &ack4, 0, V4),
        case("reference, 1,024 flows", REFERENCE, &ack4, 1023, V4),
        case("reference, 1,048,576 flows", REFERENCE, &ack4, many, V4),
        case("TCP over IPv4, 1 flow", XVS, &ack4, 0, V4),
        case("TCP over IPv4, 1,024 flows", XVS, &ack4, 1023, V4),
        case("TCP over IPv4, 1,048,576 flows", XVS, &ack4, many, V4),
        case("TCP over IPv6, 1 flow", XVS, &ack6, 0, V6),
        case("TCP over IPv6, 1,024 flows", XVS, &ack6, 1023, V6),
        case("TCP over IPv6, 1,048,576 flows", XVS, &ack6, many, V6),
        case("SYN over IPv4", XVS, &syn4, many << 4 | 15, V4),
        case("SYN over IPv6", XVS, &syn6, many << 4 | 15, V6),
        case(FOREIGN, XVS, &foreign, 1023, V4),
        case("ICMP echo", XVS, &echo4, 1023, V4),
        case("ICMPv6 echo", XVS, &echo6, 1023, V6),
        case("miss, UDP over IPv4", XVS, &udp4, u32::MAX >> 4, V4),
        case("miss, UDP over IPv6", XVS, &udp6, u32::MAX >> 4, V6),
    ]
}

/// The octets of `struct bench_plan`.
fn plan(case: &Case) -> Vec<u8> {
    // Misses go on with addresses that were not used in earlier rounds.
    let next = if case.mask >= 1 << 24 { case.times.len() as u32 * PACKETS + PACKETS } else { 0 };
    let words = [case.program, case.mask, next, case.offset];
    let mut plan: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    plan.extend(&case.frame[..96]);
    plan
}

/// Nanoseconds per run of the wrapper.
fn time(wrapper: BorrowedFd<'_>, case: &Case, ingress: u32, repeat: u32) -> io::Result<f64> {
    let frame = &case.frame;
    let mut context = libbpf_sys::xdp_md {
        data_end: frame.len() as u32,
        ingress_ifindex: ingress,
        ..Default::default()
    };
    let mut options = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as libbpf_sys::size_t,
        data_in: frame.as_ptr().cast(),
        data_size_in: frame.len() as u32,
        ctx_in: (&raw mut context).cast(),
        ctx_size_in: size_of::<libbpf_sys::xdp_md>() as u32,
        repeat: repeat as i32,
        ..Default::default()
    };
    let start = Instant::now();
    // SAFETY: the options say how long the frame and the context are.
    let result =
        unsafe { libbpf_sys::bpf_prog_test_run_opts(wrapper.as_raw_fd(), &raw mut options) };
    let time = start.elapsed();
    if result != 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    assert_eq!(options.retval, case.verdict, "{}", case.name);
    Ok(time.as_nanos() as f64 / f64::from(repeat))
}

fn report(cases: &mut [Case]) {
    for case in cases.iter_mut() {
        case.times.sort_by(f64::total_cmp);
    }
    let median = |case: &Case| case.times[case.times.len() / 2];
    let harness = median(&cases[0]);
    println!("ns per packet of {FRAME} octets, net of the harness; {ROUNDS} rounds of {PACKETS}");
    println!("{:34}{:>9}{:>9}{:>9}{:>9}", "", "median", "least", "most", "ratio");
    // Ratios are to the reference at 1,024 flows.
    let reference = median(&cases[2]) - harness;
    let mut json = Vec::new();
    for (i, case) in cases.iter().enumerate() {
        let net = |time: f64| if i == 0 { time } else { time - harness };
        let (least, most) = (case.times[0], case.times[case.times.len() - 1]);
        let ratio = net(median(case)) / reference;
        println!(
            "{:34}{:9.1}{:9.1}{:9.1}{ratio:9.2}",
            case.name,
            net(median(case)),
            net(least),
            net(most),
        );
        json.push(serde_json::json!({
            "path": case.name,
            "median_ns": net(median(case)),
            "least_ns": net(least),
            "most_ns": net(most),
            "ratio": ratio,
        }));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench.json");
    let text = serde_json::Value::Array(json).to_string();
    std::fs::write(path, text + "\n").expect("target/bench.json can be written");
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

fn interface_index(name: &str) -> u32 {
    let links = xvs::host::links().expect("the links of this namespace");
    links.iter().find(|link| link.name == name).expect("the link is there").index
}
