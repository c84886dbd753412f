//! Times all paths in turn, and proves that each is the path it is called.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use xvs::Client;

use super::cases::Case;
use super::cases::Subject;
use super::frame::untagged;
use super::frame::verify;
use super::harness::Harness;
use super::harness::IN_ORDER;
use super::harness::Program;
use super::harness::SCATTER;

/// So often each path is timed.
pub const ROUNDS: usize = 9;

/// Packets before those of a round that are timed, unless these are fewer.
const WARM: u32 = 1 << 16;

/// The least share of a path's packets that must be counted for its reason:
/// a table of flows may drop some of very many.
const LEAST_SHARE: f64 = 0.99;

/// From `linux/bpf.h`.
pub const XDP_DROP: u32 = 1;
pub const XDP_PASS: u32 = 2;
pub const XDP_TX: u32 = 3;

/// What was found out about a path. The lists have a value for each round.
pub struct Path {
    pub name: String,
    pub subject: Subject,
    /// Flows of the reference that waits for memory as much.
    pub beside: u32,
    /// Packets of a round.
    pub packets: u32,
    /// Nanoseconds per packet, net of the harness.
    pub times: Vec<f64>,
    /// To the reference in the same round.
    pub ratios: Vec<f64>,
    /// To the reference that waits for memory as much, in the same round.
    pub beside_ratios: Vec<f64>,
    /// Shares of the packets that another reason was counted for.
    pub others: BTreeMap<&'static str, f64>,
}

/// What was found out.
pub struct Measured {
    /// Nanoseconds per packet of the harness alone.
    pub harness: Vec<f64>,
    pub paths: Vec<Path>,
}

/// Times the paths of each group in turn.
pub fn measure(
    harness: &mut Harness,
    client: &Client,
    program: BorrowedFd<'_>,
    groups: &[Vec<Case>],
) -> Measured {
    let xvs = harness.add(program);
    let mut measured = Measured { harness: Vec::new(), paths: Vec::new() };
    for group in groups {
        let (nothing, paths) = measure_group(harness, client, xvs, group);
        measured.harness.extend(nothing);
        // The references are there from the first group.
        let first = measured.paths.is_empty();
        let new = paths.into_iter().filter(|p| first || p.subject != Subject::Reference);
        measured.paths.extend(new);
    }
    measured
}

/// The times of the harness and of the paths.
fn measure_group(
    harness: &Harness,
    client: &Client,
    xvs: Program,
    group: &[Case],
) -> (Vec<f64>, Vec<Path>) {
    let mut runs: Vec<Run<'_>> = group
        .iter()
        .map(|case| match case.subject {
            Subject::Reference => Run::new(harness, harness.reference, case),
            Subject::Xvs(_) => Run::new(harness, xvs, case),
        })
        .collect();
    for run in &mut runs {
        run.refer();
        run.begin();
    }
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let (_, nothing) = harness.run(harness.nothing, &group[0].packets, 0, group[0].count);
        times.push(nothing);
        for i in 0..runs.len() {
            let time = runs[i].turn(client) - nothing;
            runs[i].path.times.push(time);
            let reference = runs[0].path.times[round];
            runs[i].path.ratios.push(time / reference);
        }
    }
    let mut paths: Vec<Path> = runs.into_iter().map(Run::path).collect();
    compare_beside(&mut paths);
    (times, paths)
}

/// A path that is being timed.
struct Run<'a> {
    harness: &'a Harness,
    program: Program,
    case: &'a Case,
    path: Path,
    /// Number of the next packet: each round goes on where the last one ended.
    next: u32,
    /// Packets that were timed, by reason.
    counts: BTreeMap<&'static str, u64>,
}

impl<'a> Run<'a> {
    fn new(harness: &'a Harness, program: Program, case: &'a Case) -> Self {
        let path = Path {
            name: case.name.clone(),
            subject: case.subject,
            beside: case.beside,
            packets: case.count,
            times: Vec::new(),
            ratios: Vec::new(),
            beside_ratios: Vec::new(),
            others: BTreeMap::new(),
        };
        Self { harness, program, case, path, next: 0, counts: BTreeMap::new() }
    }

    /// Makes the flows there are in the order of their numbers: memory that is
    /// laid out in the order in which flows begin is not read in that order.
    fn begin(&mut self) {
        self.check_frame();
        let Self { harness, program, case, .. } = self;
        if case.flows.is_some() {
            harness.store(*program, &case.packets, IN_ORDER, case.first);
        } else {
            harness.store(*program, &case.packets, SCATTER, case.first);
            self.next += case.first;
        }
    }

    /// Sees to it that a packet leaves with the right tag, or through its tunnel.
    fn check_frame(&self) {
        let Self { harness, program, case, .. } = self;
        let frame = harness.frame(*program, &case.packets);
        let control = untagged(&frame).map(|(control, _)| control);
        assert_eq!(control, case.tag, "{}: the tag", case.name);
        if let Some(way) = &case.way {
            let length = case.packets.frame.len() + way.overhead();
            assert_eq!(frame.len(), length, "{}: the length", case.name);
            // No datagram without a checksum, nor another packet, can be verified.
            assert_eq!(verify(&frame).is_ok(), way.is_summed(), "{}: the checksum", case.name);
        }
    }

    /// Runs so many packets: nanoseconds each.
    fn packets(&mut self, count: u32) -> f64 {
        let Self { harness, program, case, .. } = self;
        let (verdict, time) = harness.run(*program, &case.packets, self.next, count);
        let right = match case.subject {
            Subject::Xvs("not_ip" | "not_vip") => XDP_PASS,
            Subject::Xvs("no_service") => XDP_DROP,
            Subject::Xvs(_) | Subject::Reference => XDP_TX,
        };
        assert_eq!(verdict, right, "{}: the verdict", case.name);
        self.next += count;
        time
    }

    /// Nanoseconds per packet in one round, harness included.
    fn turn(&mut self, client: &Client) -> f64 {
        self.refer();
        // Caches still hold what other paths need.
        self.packets(self.case.count.min(WARM));
        let before = reasons(client);
        let time = self.packets(self.case.count);
        if let Subject::Xvs(_) = self.case.subject {
            for (reason, count) in reasons(client) {
                *self.counts.entry(reason).or_default() += count - before[reason];
            }
        }
        time
    }

    /// Sends what the packets refer to.
    fn refer(&self) {
        if let Some(packets) = &self.case.before {
            self.harness.run(self.program, packets, 0, packets.mask + 1);
        }
    }

    /// What was found out, if it is of the path that it is called.
    fn path(self) -> Path {
        let Self { case, mut path, counts, .. } = self;
        let Subject::Xvs(reason) = case.subject else { return path };
        let sent = (ROUNDS as u32 * case.count) as f64;
        path.others =
            counts.iter().filter(|(_, n)| **n > 0).map(|(r, n)| (*r, *n as f64 / sent)).collect();
        let share = path.others.remove(reason).unwrap_or_default();
        assert!(
            share >= LEAST_SHARE,
            "{}: {share} of the packets are {reason}, others {:?}",
            path.name,
            path.others
        );
        path
    }
}

/// How many packets each reason was counted for.
fn reasons(client: &Client) -> BTreeMap<&'static str, u64> {
    client.info().expect("an instance that runs").stats.reasons.iter().collect()
}

/// Compares paths with the reference that waits for memory as much.
fn compare_beside(paths: &mut [Path]) {
    let references: BTreeMap<u32, Vec<f64>> = paths
        .iter()
        .filter(|path| path.subject == Subject::Reference)
        .map(|path| (path.beside, path.times.clone()))
        .collect();
    for path in paths {
        let reference = &references[&path.beside];
        path.beside_ratios = path.times.iter().zip(reference).map(|(a, b)| a / b).collect();
    }
}

/// The value in the middle.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// The least and the greatest value.
pub fn range(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (least, most)
}
