//! What a client changes of its host, and what packets do that come in there.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use libbpf_rs::Program;
use nix::libc;
use xvs::Options;

use crate::common::frame;
use crate::common::netns::sh;
use crate::common::test_run::test_run;
use crate::state::same;

/// The interfaces.
pub const PORTS: [&str; 2] = ["lb0", "lb1"];

/// All that a client may leave: pins, programs, links, addresses, routes, offloads.
pub fn host(options: &Options) -> Vec<String> {
    let mut lines = pins(&options.bpffs);
    let told = sh("ip -o -d link show
        ip -o address show
        ip route show table all
        ip -6 route show table all
        ethtool -k lb0
        ethtool -k lb1");
    lines.extend(told.lines().map(str::to_owned));
    lines.sort();
    lines.dedup();
    lines
}

/// Waits until the host is as it was before, but for what the kernel does later.
pub fn restored(what: &str, before: &[String], options: &Options) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while host(options) != before && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    same(what, before, &host(options));
}

/// What is in a BPF file system.
fn pins(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).expect("the folder is there");
    let mut pins = Vec::new();
    for entry in entries {
        let path = entry.expect("an entry").path();
        pins.push(path.display().to_string());
        if path.is_dir() {
            pins.extend(self::pins(&path));
        }
    }
    pins.sort();
    pins
}

/// What becomes of packets that come in by each interface: the verdict of the program
/// that is there, and the frame afterwards.
pub fn packets(frames: impl Iterator<Item = Vec<u8>>) -> Vec<String> {
    let frames: Vec<Vec<u8>> = frames.collect();
    let on = |port: &str| {
        let link = sh(&format!("ip -o -d link show dev {port}"));
        let (index, _) = link.split_once(':').expect("it begins with the index");
        let Some((_, id)) = link.split_once("prog/xdp id ") else {
            return vec![format!("no program on {port}")];
        };
        let id = id.split_whitespace().next().and_then(|id| id.parse().ok()).expect("an id");
        let program = Program::fd_from_id(id).expect("root opens programs");
        let context = |frame: &[u8]| libbpf_sys::xdp_md {
            data_end: frame.len() as u32,
            ingress_ifindex: index.parse().expect("a number"),
            ..Default::default()
        };
        let run = |frame: &Vec<u8>| {
            let result = test_run(&program, frame, Some(&context(frame))).or_else(|error| {
                // Before 5.15 they take no context.
                match error.raw_os_error() {
                    Some(libc::EINVAL) => test_run(&program, frame, None),
                    _ => Err(error),
                }
            });
            let (verdict, output) = result.expect("the kernel runs the program on the frame");
            format!("{port} {}\n  {verdict}\n{}", frame::hex(frame), frame::hex(&output))
        };
        frames.iter().map(run).collect()
    };
    PORTS.iter().flat_map(|port| on(port)).collect()
}
