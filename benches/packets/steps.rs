//! What single steps of a data plane cost: `benches/steps.bpf.c`.

use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use libbpf_rs::MapCore;
use libbpf_rs::MapFlags;
use libbpf_rs::skel::OpenSkel;
use libbpf_rs::skel::SkelBuilder;

use super::harness::Harness;
use super::harness::Packets;
use super::harness::Program;
use super::harness::take_frags;
use super::measure::ROUNDS;
use super::measure::XDP_TX;

#[allow(unused_imports, rust_2018_idioms, unsafe_code, clippy::all)]
#[allow(clippy::undocumented_unsafe_blocks, clippy::semicolon_if_nothing_returned)]
mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/steps.skel.rs"));
}

/// So often each program takes its step.
const STEPS: f64 = 8.0;
/// Packets of a round.
const PACKETS: u32 = 1 << 17;

/// What a step costs, in nanoseconds, by rounds.
pub struct Step {
    pub name: &'static str,
    pub times: Vec<f64>,
}

/// Times the steps in turn, on packets of the reference.
pub fn measure(harness: &mut Harness, packets: &Packets) -> Vec<Step> {
    let mut object = MaybeUninit::uninit();
    let builder = skeleton::StepsSkelBuilder::default();
    let mut open = builder.open(&mut object).expect("the steps can be read");
    let cpus = libbpf_rs::num_possible_cpus().expect("the kernel tells its CPUs") as u32;
    let settings = &mut open.maps.rodata_data.as_mut().expect("there are settings").settings;
    (settings.k0, settings.k1) = (0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
    (settings.cpus, settings.divisor) = (cpus, 65_537);
    open.maps.rows.set_max_entries(cpus).expect("the map is not made yet");
    take_frags(open.open_object_mut());
    let skeleton = open.load().expect("the steps load");
    let maps = &skeleton.maps;
    fill(&maps.services, 1000, |i| [vec![0; 16], i.to_ne_bytes().into()].concat());
    fill(&maps.chunks, 66, |i| [1u32.to_ne_bytes(), i.to_ne_bytes()].concat());
    for map in [&maps.flows4 as &dyn MapCore, &maps.flows6] {
        let zeros = vec![0; map.key_size() as usize - 4];
        fill(map, 1024, |i| [i.to_ne_bytes().into(), zeros.clone()].concat());
    }

    let progs = &skeleton.progs;
    let nothing = harness.add(progs.no_step.as_fd());
    let mut steps: Vec<(Program, Step)> = [
        ("bpf_ktime_get_ns", &progs.clock),
        ("bpf_ktime_get_coarse_ns", &progs.coarse_clock),
        ("bpf_jiffies64", &progs.jiffies),
        ("bpf_get_smp_processor_id", &progs.cpu_number),
        ("bpf_get_prandom_u32", &progs.random),
        ("32-bit modulo by a constant of rodata", &progs.modulo),
        ("per-CPU array, counter", &progs.percpu_counter),
        ("array, row of the CPU, counter", &progs.row_counter),
        ("array, 64 KiB", &progs.array_lookup),
        ("array of maps, then array, 64 KiB in all", &progs.nested_lookup),
        ("64 MiB: a random word read", &progs.far_read),
        ("64 MiB: a random word written", &progs.far_write),
        ("64 MiB: a random word exchanged", &progs.far_exchange),
        ("hash, key of 20 octets, 1,000 entries", &progs.service_lookup),
        ("hash, value of 4,000 octets, 66 entries", &progs.chunk_lookup),
        ("LRU hash, key of 16 octets, 1,024 entries", &progs.flow4_lookup),
        ("LRU hash, key of 40 octets, 1,024 entries", &progs.flow6_lookup),
        ("SipHash-1-3 of 13 octets", &progs.siphash13),
        ("SipHash-1-3 of 37 octets", &progs.siphash37),
        ("UDP checksum from the one inside (LCO)", &progs.datagram_sum),
        ("bpf_spin_lock and bpf_spin_unlock", &progs.spin_lock),
        ("bpf_xdp_adjust_head", &progs.adjust_head),
    ]
    .into_iter()
    .map(|(name, program)| (harness.add(program.as_fd()), Step { name, times: Vec::new() }))
    .collect();
    for round in 0..=ROUNDS {
        let time = |program| {
            let (verdict, time) = harness.run(program, packets, 0, PACKETS);
            assert_eq!(verdict, XDP_TX, "a step found nothing");
            time
        };
        let nothing = time(nothing);
        for (program, step) in &mut steps {
            let time = (time(*program) - nothing) / STEPS;
            if round > 0 {
                step.times.push(time);
            }
        }
    }
    steps.into_iter().map(|(_, step)| step).collect()
}

/// Gives a map so many keys, each with zeros.
fn fill(map: &dyn MapCore, count: u32, key: impl Fn(u32) -> Vec<u8>) {
    let value = vec![0; map.value_size() as usize];
    for i in 0..count {
        map.update(&key(i), &value, MapFlags::ANY).expect("the entry fits");
    }
}
