//! Every program of the build is taken by the kernel: what the verifier had
//! to do for it, and what the JIT made of it.

use std::ffi::CStr;
use std::fs;
use std::mem::size_of;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::path::PathBuf;

use libbpf_rs::AsRawLibbpf;
use libbpf_rs::ObjectBuilder;

#[path = "common/netns.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod netns;
#[path = "common/xdp.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod xdp;

/// The verifier gives up after a million instructions. What stays within half
/// of that has room for what other kernels and compilers make of it.
const MOST: u64 = 500_000;

/// Octets of stack that a program may use itself. Old kernels round them and those of
/// what it calls up to 32 each, and take 512 in all.
const STACK: u64 = 480;

/// Octets of `struct xvs_settings`, the constants of the data plane, and where
/// `frags` and `share` are in it.
const SETTINGS: usize = 104;
const FRAGS: usize = 52;
const SHARE: usize = 96;

/// What the data plane is loaded for.
#[derive(Clone, Copy)]
struct Case {
    /// Frames may be in several buffers.
    frags: bool,
    /// News of flows are told.
    share: bool,
}

/// The objects that the skeletons of this build include.
fn objects() -> Vec<PathBuf> {
    let skeletons = fs::read_dir(env!("OUT_DIR")).expect("the build left it");
    skeletons
        .map(|entry| entry.expect("it can be listed").path())
        .filter(|path| path.to_string_lossy().ends_with(".skel.rs"))
        .map(|path| {
            let skeleton = fs::read_to_string(&path).expect("the build wrote it");
            let (_, rest) = skeleton.split_once("include_bytes!(").expect("it names its object");
            rest.split('"').nth(1).expect("as a string").into()
        })
        .collect()
}

/// The number between two pieces of the verifier's log.
fn number(log: &str, before: &str, after: &str) -> u64 {
    let found = log.split_once(before).and_then(|(_, rest)| rest.split_once(after));
    let (number, _) = found.unwrap_or_else(|| panic!("the log tells `{before}`: {log}"));
    number.parse().expect("a number")
}

#[expect(unsafe_code, reason = "libbpf-rs sets no log buffer")]
fn set_log(program: &libbpf_rs::OpenProgramMut<'_>, log: &mut [u8]) {
    let program = program.as_libbpf_object().as_ptr();
    // SAFETY: the buffer is as long as said, and outlives the load.
    let result = unsafe {
        libbpf_sys::bpf_program__set_log_buf(program, log.as_mut_ptr().cast(), log.len() as _)
    };
    assert_eq!(result, 0, "libbpf takes a buffer for the log");
}

/// Octets of machine code.
#[expect(unsafe_code, reason = "libbpf's C API")]
fn jited(program: BorrowedFd<'_>) -> u32 {
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut length = size_of::<libbpf_sys::bpf_prog_info>() as u32;
    // SAFETY: the record is as long as said, and asks for no other memory.
    let result = unsafe {
        libbpf_sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &raw mut info, &raw mut length)
    };
    assert_eq!(result, 0, "the kernel describes its programs");
    info.jited_prog_len
}

/// Whether programs may have atomic exchanges: from 5.12 on.
fn has_exchange() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("it has a number");
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (5, 12)
}

/// An object's programs, loaded with a log of a level: the log of each, and
/// the octets of its machine code.
fn load(
    path: &Path,
    case: Case,
    level: u32,
    room: usize,
) -> Result<Vec<(String, String, u32)>, Vec<String>> {
    let mut open = ObjectBuilder::default().open_file(path).expect("libbpf reads its own output");
    for mut map in open.maps_mut() {
        if !map.name().to_string_lossy().ends_with(".rodata") {
            continue;
        }
        // The verifier cuts off what a constant of zero makes unreachable.
        let mut constants = map.initial_value().expect("constants have values").to_vec();
        for word in constants.chunks_exact_mut(4).filter(|word| **word == [0; 4]) {
            word.copy_from_slice(&1021_u32.to_ne_bytes());
        }
        if constants.len() == SETTINGS {
            constants[FRAGS..][..4].copy_from_slice(&u32::from(case.frags).to_ne_bytes());
            constants[SHARE..][..4].copy_from_slice(&u32::from(case.share).to_ne_bytes());
        }
        map.set_initial_value(&constants).expect("it is as long as before");
    }
    let mut logs = Vec::new();
    for mut program in open.progs_mut() {
        if program.name() == "xvs" && !has_exchange() {
            println!("xvs: not for this kernel, which has no atomic exchanges");
            program.set_autoload(false);
            continue;
        }
        if case.frags {
            program.set_flags(libbpf_sys::BPF_F_XDP_HAS_FRAGS);
        }
        program.set_log_level(level);
        let mut log = vec![0_u8; room];
        set_log(&program, &mut log);
        logs.push((program.name().to_string_lossy().into_owned(), log));
    }
    let loaded = open.load();
    let logs = logs.into_iter().map(|(name, log)| {
        let log = CStr::from_bytes_until_nul(&log).expect("the log ends with a zero");
        (name, log.to_string_lossy().into_owned())
    });
    let Ok(loaded) = loaded else { return Err(logs.map(|(_, log)| log).collect()) };
    let of = |name: &str| {
        let program = loaded.progs().find(|program| program.name() == name);
        jited(program.expect("it is loaded").as_fd())
    };
    Ok(logs.map(|(name, log)| (name.clone(), log, of(&name))).collect())
}

#[test]
fn every_program_is_far_from_the_limit() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let has_frags = xdp::has_frags();
    for object in objects() {
        let case = Case { frags: has_frags, share: false };
        for (name, log, octets) in loaded(&object, case) {
            check(&format!("program {name}"), &log, octets);
        }
        for (name, log, octets) in loaded(&object, Case { share: true, ..case }) {
            check(&format!("sharing flows, {name}"), &log, octets);
        }
        // As on kernels that have one buffer for a frame.
        if has_frags {
            for (name, log, octets) in loaded(&object, Case { frags: false, ..case }) {
                check(&format!("without frags, {name}"), &log, octets);
            }
        }
    }
}

/// An object's programs with the verifier's account of each.
fn loaded(object: &Path, case: Case) -> Vec<(String, String, u32)> {
    // v5.2: 06ee7115b0d1 ("bpf: add verifier stats and log_level bit 2")
    if let Ok(programs) = load(object, case, 4, 1 << 16) {
        return programs;
    }
    // Once more with what the verifier saw on its way to the fault.
    for log in load(object, case, 1, 1 << 24).expect_err("it failed before") {
        let lines: Vec<&str> = log.lines().collect();
        println!("{}", lines[lines.len().saturating_sub(100)..].join("\n"));
    }
    panic!("the kernel does not take {}", object.display());
}

fn check(name: &str, log: &str, octets: u32) {
    let instructions = number(log, "processed ", " insns");
    let microseconds = number(log, "verification time ", " usec");
    println!("{name}: {instructions} instructions, {microseconds} us, {octets} octets");
    assert!(instructions <= MOST, "{name} takes more than {MOST} instructions");
    // Of the program itself first, then of what it calls; on later kernels of the
    // longest way through both, of which the kernel has 512.
    let told = log.lines().find_map(|line| Some(line.split_once("stack depth")?.1));
    let most = if told.is_some_and(|told| told.contains("max")) { 512 } else { STACK };
    let mut numbers = told.unwrap_or_default().split(|c: char| !c.is_ascii_digit());
    let stack = numbers.find_map(|number| number.parse::<u64>().ok());
    let stack = stack.unwrap_or_else(|| panic!("{name}: no stack depth in `{told:?}`"));
    assert!(stack <= most, "{name} uses {stack} octets of stack, {most} are all there are");
}
