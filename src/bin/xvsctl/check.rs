//! `xvsctl check`: what this host can do for a load balancer.

mod members;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::thread;

use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::statfs::BPF_FS_MAGIC;
use nix::sys::statfs::statfs;
use serde_json::json;
use xvs::Instance;
use xvs::Offload;
use xvs::host;
use xvs::host::HostLink;

use self::members::Member;
use crate::global::Global;
use crate::output;
use crate::words;

/// The oldest kernel that the data plane is made for.
const KERNEL: (u32, u32) = (5, 10);

/// From this kernel on BPF memory does not count against the memlock limit.
const KERNEL_WITHOUT_MEMLOCK: (u32, u32) = (5, 11);

/// The largest MTU that drivers with one page per frame take for native XDP:
/// 4,096 octets less 256 of headroom, 320 of the kernel's and 22 of Ethernet.
const NATIVE_MTU: u32 = 3_498;

/// Check what this host can do, and what to do about the rest
///
/// Each line is `ok`, `warn` (works, but not as well as it could) or `fail`
/// (does not work), with what was found and what to do. Nothing is changed.
/// Exit code 1 if anything fails.
#[derive(clap::Args)]
pub struct Args {
    /// Interfaces to look at; default: all that are up, but for loopback
    #[arg(value_name = "IFACE")]
    interfaces: Vec<String>,

    /// Print JSON, one object per line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Ok,
    Warn,
    Fail,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One line of the answer.
#[derive(Debug)]
struct Finding {
    level: Level,
    /// Of the host, if none.
    interface: Option<String>,
    subject: &'static str,
    found: String,
    remedy: Option<String>,
}

impl Finding {
    fn new(level: Level, subject: &'static str, found: impl Into<String>) -> Self {
        Self { level, interface: None, subject, found: found.into(), remedy: None }
    }

    fn ok(subject: &'static str, found: impl Into<String>) -> Self {
        Self::new(Level::Ok, subject, found)
    }

    fn warn(subject: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..Self::new(Level::Warn, subject, found) }
    }

    fn fail(subject: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..Self::new(Level::Fail, subject, found) }
    }
}

pub fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let mut findings = host_findings(&global.bpffs);
    let links = host::links()?;
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let owners = owners(&global.bpffs);
    let mut chosen: Vec<&HostLink> = Vec::new();
    if args.interfaces.is_empty() {
        chosen.extend(links.iter().filter(|link| link.up && link.name != "lo"));
    }
    for name in &args.interfaces {
        match links.iter().find(|link| link.name == *name) {
            Some(link) => chosen.push(link),
            None => findings.push(Finding {
                interface: Some(name.clone()),
                ..Finding::fail("link", "no such interface", "`ip link` lists those there are")
            }),
        }
    }
    for link in &chosen {
        findings.extend(link_findings(link, cpus, &owners));
    }
    for bond in bonds(&chosen, &links) {
        findings.extend(bond_findings(bond, &links));
    }
    print(&findings, args.json)?;
    let failed = findings.iter().any(|finding| finding.level == Level::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print(findings: &[Finding], json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        for finding in findings {
            let object = json!({
                "type": "check",
                "level": finding.level.name(),
                "interface": finding.interface,
                "subject": finding.subject,
                "found": finding.found,
                "remedy": finding.remedy,
            });
            writeln!(out, "{object}")?;
        }
        return Ok(());
    }
    let mut table = output::table(&["", "SUBJECT", "FOUND"]);
    for finding in findings {
        let subject = match &finding.interface {
            Some(interface) => format!("{interface}: {}", finding.subject),
            None => finding.subject.to_owned(),
        };
        let found = match &finding.remedy {
            Some(remedy) => format!("{}; {remedy}", finding.found),
            None => finding.found.clone(),
        };
        table.add_row([finding.level.name(), &subject, &found]);
    }
    output::print_table(&mut out, &table)
}

/// Which instance is attached to which interface of this network namespace.
fn owners(bpffs: &Path) -> Vec<(String, u32)> {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
    let mut owners = Vec::new();
    for name in Instance::list(bpffs).unwrap_or_default() {
        let info = Instance::open(bpffs, &name).and_then(|instance| instance.info());
        let Ok(info) = info else { continue };
        // Another namespace may use the same index.
        if namespace(&info.process.to_string()) == namespace("self") {
            owners.extend(info.interfaces.iter().map(|interface| (name.clone(), interface.index)));
        }
    }
    owners
}

fn host_findings(bpffs: &Path) -> Vec<Finding> {
    let release = host::kernel_release().unwrap_or_default();
    let version = version(&release);
    vec![
        kernel(&release, version),
        btf(Path::new("/sys/kernel/btf/vmlinux").exists()),
        file_system(bpffs),
        jit(&read("/proc/sys/net/core/bpf_jit_enable")),
        capabilities(&host::missing_capabilities()),
        memlock(version),
    ]
}

/// A file's text without white space around it; empty if it is not there.
fn read(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// The first two numbers of a kernel release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn kernel(release: &str, version: Option<(u32, u32)>) -> Finding {
    let (major, minor) = KERNEL;
    if version.is_some_and(|version| version >= KERNEL) {
        return Finding::ok("kernel", release);
    }
    Finding::fail("kernel", release, format!("{major}.{minor} or newer is needed"))
}

fn btf(there: bool) -> Finding {
    if there {
        return Finding::ok("BTF", "the kernel describes its types");
    }
    Finding::fail(
        "BTF",
        "/sys/kernel/btf/vmlinux is not there",
        "run a kernel with CONFIG_DEBUG_INFO_BTF=y",
    )
}

fn file_system(bpffs: &Path) -> Finding {
    let path = bpffs.display();
    let mount = format!("`mount -t bpf bpf {path}` does");
    match statfs(bpffs) {
        Ok(found) if found.filesystem_type() == BPF_FS_MAGIC => {
            Finding::ok("bpffs", format!("mounted at {path}"))
        }
        Ok(_) => {
            Finding::warn("bpffs", format!("{path} has none yet: a balancer mounts it"), mount)
        }
        Err(error) => Finding::fail("bpffs", format!("{path}: {error}"), mount),
    }
}

fn jit(setting: &str) -> Finding {
    match setting {
        "1" | "2" => Finding::ok("JIT", "BPF programs are compiled"),
        "0" => Finding::warn(
            "JIT",
            "BPF programs are interpreted, which is several times slower",
            "`sysctl -w net.core.bpf_jit_enable=1` compiles them",
        ),
        _ => Finding::ok(
            "JIT",
            "unknown: only the initial network namespace has net.core.bpf_jit_enable",
        ),
    }
}

fn capabilities(missing: &[&str]) -> Finding {
    if missing.is_empty() {
        return Finding::ok("capabilities", "all that are needed");
    }
    Finding::fail("capabilities", format!("{} missing", missing.join(", ")), "run as root")
}

fn memlock(version: Option<(u32, u32)>) -> Finding {
    if version.is_some_and(|version| version >= KERNEL_WITHOUT_MEMLOCK) {
        return Finding::ok("memlock", "does not limit BPF memory from kernel 5.11 on");
    }
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((u64::MAX, _)) => Finding::ok("memlock", "unlimited"),
        Ok((limit, _)) => Finding::warn(
            "memlock",
            format!("{limit} octets"),
            "`ulimit -l unlimited`, or LimitMEMLOCK=infinity for systemd, if maps cannot be made",
        ),
        Err(error) => Finding::warn("memlock", error.to_string(), "`ulimit -l` shows the limit"),
    }
}

fn link_findings(link: &HostLink, cpus: usize, owners: &[(String, u32)]) -> Vec<Finding> {
    let name = &link.name;
    let mut findings = vec![if link.up {
        Finding::ok("link", "up")
    } else {
        Finding::fail("link", "down", format!("`ip link set {name} up` starts it"))
    }];
    findings.push(xdp(link, owners));
    if link.xdp.is_none() {
        findings.push(native(link));
    }
    findings.push(mtu(link));
    findings.push(queues(link, cpus));
    // What a bond itself has is not what its members do to packets.
    if let Some(on) = link.offloads.as_ref().filter(|_| !is_bond(link)) {
        let is_owned = |index| owners.iter().any(|(_, owned)| *owned == index);
        let attached = is_owned(link.index) || link.master.is_some_and(is_owned);
        findings.extend(Offload::ALL.map(|each| match each {
            _ if !on.contains(&each) => Finding::ok(offload_subject(each), "off"),
            _ if link.fixed_offloads.contains(&each) => fixed_offload(name, each),
            _ if attached => stray_offload(name, each),
            _ => offload(each),
        }));
    }
    findings.extend(link.rp_filter.map(|value| rp_filter(name, value)));
    for finding in &mut findings {
        finding.interface = Some(name.clone());
    }
    findings
}

/// The bonds among the chosen interfaces, and those that one is a member of.
fn bonds<'a>(chosen: &[&HostLink], links: &'a [HostLink]) -> Vec<&'a HostLink> {
    let indices: BTreeSet<u32> =
        chosen.iter().flat_map(|link| [Some(link.index), link.master]).flatten().collect();
    links.iter().filter(|link| indices.contains(&link.index) && is_bond(link)).collect()
}

fn is_bond(link: &HostLink) -> bool {
    link.kind.as_deref() == Some("bond")
}

fn bond_findings(bond: &HostLink, links: &[HostLink]) -> Vec<Finding> {
    let of_bond = links.iter().filter(|link| link.master == Some(bond.index));
    let members: Vec<Member> = of_bond
        .map(|link| Member::new(link, &host::receive_queues(link.index).unwrap_or_default()))
        .collect();
    let mut findings = members::compare(&bond.name, &members);
    for finding in &mut findings {
        finding.interface = Some(bond.name.clone());
    }
    findings
}

fn xdp(link: &HostLink, owners: &[(String, u32)]) -> Finding {
    let Some((program, mode)) = link.xdp else {
        return Finding::ok("XDP", "no program is attached");
    };
    let mode = words::mode(mode);
    match owners.iter().find(|(_, index)| *index == link.index) {
        Some((instance, _)) => {
            Finding::ok("XDP", format!("instance `{instance}` is attached, {mode}"))
        }
        None => Finding::fail(
            "XDP",
            format!("{} of someone else is attached, {mode}", host::program_name(program)),
            format!("stop what attached it, or `ip link set {} xdp off`", link.name),
        ),
    }
}

fn native(link: &HostLink) -> Finding {
    let slower = "generic XDP works, several times slower";
    match host::native_xdp(link.index) {
        Ok(Some(xdp)) if xdp.native => Finding::ok("native XDP", "the driver has it"),
        Ok(Some(_)) => Finding::warn("native XDP", "the driver does not have it", slower),
        Ok(None) => Finding::ok("native XDP", "unknown: kernels before 6.3 do not tell"),
        Err(error) => Finding::warn("native XDP", error.to_string(), slower),
    }
}

fn mtu(link: &HostLink) -> Finding {
    if link.mtu <= NATIVE_MTU {
        return Finding::ok("MTU", link.mtu.to_string());
    }
    let warn = |remedy: String| Finding::warn("MTU", link.mtu.to_string(), remedy);
    let Ok(Some(xdp)) = host::native_xdp(link.index) else {
        return warn(format!("many drivers take native XDP up to about {NATIVE_MTU} only"));
    };
    match (xdp.receives_frags, xdp.sends_frags) {
        (false, _) => warn(format!(
            "the driver has no frames of several buffers for XDP: native XDP is up to about \
             {NATIVE_MTU} only"
        )),
        // It may say more when a program is attached.
        (true, false) => warn(
            "the driver takes redirected frames in one buffer only, unless that changes when a \
             program is attached: clients of other interfaces are told 1500"
                .to_owned(),
        ),
        (true, true) => Finding::ok("MTU", format!("{}, native XDP too", link.mtu)),
    }
}

fn queues(link: &HostLink, cpus: usize) -> Finding {
    let found = format!(
        "{} rx and {} tx for {}",
        link.rx_queues,
        link.tx_queues,
        words::count(cpus, "CPU")
    );
    if usize::try_from(link.rx_queues).is_ok_and(|queues| queues >= cpus) {
        return Finding::ok("queues", found);
    }
    let name = &link.name;
    let remedy = format!("`ethtool -L {name} combined {cpus}` lets every CPU work, if it can");
    Finding::warn("queues", found, remedy)
}

fn offload_subject(offload: Offload) -> &'static str {
    match offload {
        Offload::RxVlan => "VLAN offload",
        Offload::Lro => "LRO",
        Offload::GroHw => "hardware GRO",
        _ => "offload",
    }
}

fn offload(offload: Offload) -> Finding {
    Finding::ok(offload_subject(offload), "on: a balancer turns it off while it runs")
}

/// It was turned on since the instance was attached.
fn stray_offload(name: &str, offload: Offload) -> Finding {
    Finding::warn(
        offload_subject(offload),
        format!("on, though an instance is attached: {}", offload.effect()),
        format!("`ethtool -K {name} {offload} off`, and see who turned it on"),
    )
}

fn fixed_offload(name: &str, offload: Offload) -> Finding {
    let remedy = match offload {
        Offload::RxVlan => format!("use another interface than {name} for tagged frames"),
        _ => {
            "use a card that can, or have a virtual machine's host do it (docs/nics.md)".to_owned()
        }
    };
    let effect = offload.effect();
    Finding::warn(
        offload_subject(offload),
        format!("on, and the driver cannot turn it off: {effect}"),
        remedy,
    )
}

fn rp_filter(name: &str, value: u8) -> Finding {
    match value {
        1 => Finding::warn(
            "rp_filter",
            "strict: what comes in by another interface than its answer would leave by is lost \
             to the host (not to services)",
            format!("in several networks, `sysctl -w net.ipv4.conf.{name}.rp_filter=2`"),
        ),
        2 => Finding::ok("rp_filter", "loose"),
        _ => Finding::ok("rp_filter", "off"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_compared_by_number() {
        assert_eq!(version("6.18.0-rc1+"), Some((6, 18)));
        assert_eq!(version("5.9.16"), Some((5, 9)));
        assert_eq!(version(""), None);
        for (release, level) in
            [("5.10.0-30-amd64", Level::Ok), ("5.9.16", Level::Fail), ("what", Level::Fail)]
        {
            assert_eq!(kernel(release, version(release)).level, level, "{release}");
        }
    }

    #[test]
    fn what_is_not_ok_has_a_remedy() {
        for finding in [
            btf(false),
            jit("0"),
            capabilities(&["CAP_BPF"]),
            file_system(Path::new("/nowhere")),
            stray_offload("eth0", Offload::Lro),
            fixed_offload("eth0", Offload::RxVlan),
            rp_filter("eth0", 1),
        ] {
            assert_ne!(finding.level, Level::Ok);
            assert!(finding.remedy.is_some(), "{finding:?}");
        }
    }
}
