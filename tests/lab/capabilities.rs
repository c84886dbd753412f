//! Root is not needed: three capabilities and a BPF file system are.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::lab::Lab;
use crate::lab::vip;
use crate::netns::sh;
use crate::server::Connection;
use crate::server::PATIENCE;
use crate::xdp;
use crate::xvsctl;
use crate::xvsctl::Balance;

/// What is needed, with the capabilities' numbers. Without CAP_PERFMON the
/// kernel lets no program add a variable to a packet's address, for fear of
/// speculation.
const NEEDED: [(&str, u32); 3] = [("net_admin", 12), ("perfmon", 38), ("bpf", 39)];

/// The start of a command that is run by nobody with these capabilities only.
fn as_nobody_with(capabilities: &[&str]) -> Vec<String> {
    // Up to Linux 5.10 BPF memory counts as locked memory.
    let limit = "ulimit -l unlimited 2>/dev/null; exec \"$@\"";
    let mut words = ["sh", "-c", limit, "sh", "setpriv"].map(str::to_owned).to_vec();
    words.extend(["--reuid=65534", "--regid=65534", "--clear-groups"].map(str::to_owned));
    let set: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
    for which in ["inh-caps", "ambient-caps", "bounding-set"] {
        words.push(format!("--{which}=-all{set}"));
    }
    words
}

/// A copy of the program and a BPF file system that nobody can use.
fn prepare(lab: &Lab) -> PathBuf {
    // Where the program is built may be closed to others.
    let program = lab.directory().join("xvsctl");
    fs::copy(xvsctl::program(), &program).expect("it can be copied");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
    sh(&format!("chown 65534:65534 {0} && chmod 0700 {0}", lab.bpffs().display()));
    program
}

/// Whether nobody can capture for a moment; what it tells on standard error.
fn capture(lab: &Lab, capabilities: &[&str], program: &Path) -> (bool, String) {
    let before = as_nobody_with(capabilities);
    let output = lab.lb.enter(|| {
        Command::new(&before[0])
            .args(&before[1..])
            .arg(program)
            .args(["capture", "--instance=lab", "--duration=0.1", "--bpffs"])
            .arg(lab.bpffs())
            .output()
            .expect("the program starts")
    });
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let captured = output.status.code() == Some(0);
    assert!(captured || output.status.code() == Some(1), "{told}");
    (captured, told)
}

/// The sysctl that tells who may open perf events. Linux knows levels up to 2,
/// all of which CAP_PERFMON overrides.
fn perf_event_paranoid() -> i32 {
    let level = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid");
    level.expect("it is told").trim().parse().expect("it is a number")
}

/// A field of the process's status.
fn status(process: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.expect("the kernel tells it").trim().to_owned()
}

/// Asserts that only the owner may look at what is pinned; how many pins.
fn private(directory: &Path) -> usize {
    let mode = fs::metadata(directory).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o7777, 0o700, "{}", directory.display());
    let mut pins = 0;
    for entry in fs::read_dir(directory).expect("root may read it") {
        let entry = entry.expect("root may read it");
        let metadata = entry.metadata().expect("it is there");
        if metadata.is_dir() {
            pins += private(&entry.path());
        } else {
            let mode = metadata.permissions().mode();
            assert_eq!(mode & 0o7777, 0o600, "{}", entry.path().display());
            pins += 1;
        }
    }
    pins
}

#[test]
fn three_capabilities_are_enough() {
    let lab = Lab::new(3);
    let program = prepare(&lab);
    let before = as_nobody_with(&NEEDED.map(|(name, _)| name));
    let balance = Balance::start(&lab, &before, &program, &["--mode=native"]);
    balance.expect("ready", 2 * PATIENCE);

    assert_eq!(status(balance.id(), "Uid"), "65534\t65534\t65534\t65534");
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        let has = u64::from_str_radix(&status(balance.id(), set), 16).expect("it is hexadecimal");
        assert_eq!(has, NEEDED.iter().map(|(_, bit)| 1 << bit).sum::<u64>(), "{set}");
    }
    let pins = private(&lab.bpffs().join("xvs"));
    println!("{pins} pins, all of them private");
    assert!(pins > 1);

    for number in [0, 1] {
        let mut answered: Vec<String> = lab.client.enter(|| {
            let request = |_| Connection::open(vip(number, 80), PATIENCE).expect("it is served");
            (0..40).map(request).map(|connection| connection.server).collect()
        });
        answered.sort();
        answered.dedup();
        assert_eq!(answered, ["b1", "b2", "b3"], "{}", vip(number, 80));
    }

    let (captured, told) = capture(&lab, &["sys_admin"], &program);
    assert!(captured && told.contains("stopped (duration)"), "{told}");
    let (captured, told) = capture(&lab, &["perfmon", "bpf"], &program);
    if captured {
        assert!(told.contains("stopped (duration)"), "{told}");
    } else {
        assert!(perf_event_paranoid() > 2, "it is enough: {told}");
        assert!(told.contains("CAP_SYS_ADMIN"), "{told}");
        assert!(told.contains("sysctl kernel.perf_event_paranoid=2"), "{told}");
    }
    let (captured, told) = capture(&lab, &["bpf"], &program);
    assert!(!captured && told.contains("CAP_PERFMON"), "{told}");

    assert!(balance.stop().success());
    assert_eq!(xdp::attached(&lab.lb, "eth0"), None);
    assert!(!lab.bpffs().join("xvs").exists(), "it leaves no pins");
    let alone = lab.client.enter(|| Connection::open(vip(0, 80), Duration::from_millis(100)));
    assert!(alone.is_err(), "nobody forwards any more");
}

#[test]
fn a_missing_capability_is_named() {
    let lab = Lab::new(1);
    let program = prepare(&lab);
    for (missing, _) in NEEDED {
        let others: Vec<&str> =
            NEEDED.iter().map(|(name, _)| *name).filter(|name| *name != missing).collect();
        let mut words = as_nobody_with(&others);
        words.push(program.display().to_string());
        words.push(format!("--bpffs={}", lab.bpffs().display()));
        words.extend(
            "balance --duration=3 eth0 10.1.2.0/24 192.168.100.1 10.1.2.11"
                .split(' ')
                .map(str::to_owned),
        );
        let output = lab.lb.enter(|| Command::new(&words[0]).args(&words[1..]).output());
        let output = output.expect("the program starts");
        let told = String::from_utf8_lossy(&output.stderr);
        println!("without {missing}: {}", told.lines().last().unwrap_or_default());
        assert_eq!(output.status.code(), Some(1));
        let name = format!("CAP_{}", missing.to_uppercase());
        assert!(told.contains(&name), "{name} is named: {told}");
        assert_eq!(xdp::attached(&lab.lb, "eth0"), None);
    }
}
