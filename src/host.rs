//! What this host is and can do.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use nix::sys::utsname::uname;

use crate::Error;
use crate::Mac;
use crate::Mode;
use crate::Offload;
use crate::Result;
use crate::net::Ethtool;
use crate::net::Net;
pub use crate::net::XdpFeatures;
use crate::net::XdpMode;
use crate::net::driver;
use crate::net::rp_filter;
use crate::net::xdp_features;

/// The oldest kernel that works.
const OLDEST: (u32, u32) = (5, 10);

/// A network interface of this host.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HostLink {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address.
    pub mac: Mac,
    /// Whether it is administratively up.
    pub up: bool,
    /// The longest IP packet that it sends, in octets.
    pub mtu: u32,
    /// The kind of a virtual interface, such as `veth`.
    pub kind: Option<String>,
    /// The index of the bond or bridge that it is a member of.
    pub master: Option<u32>,
    /// The name of its driver.
    pub driver: Option<String>,
    /// Receive queues it has.
    pub rx_queues: u32,
    /// Transmit queues it has.
    pub tx_queues: u32,
    /// The receive offloads that are on, of those that harm; `None` when it
    /// cannot be told.
    pub offloads: Option<Vec<Offload>>,
    /// Those of them that cannot be turned off.
    pub fixed_offloads: Vec<Offload>,
    /// The strictest of its and the host's reverse-path filters (0 to 2).
    pub rp_filter: Option<u8>,
    /// The id of the XDP program that is attached, and its mode.
    pub xdp: Option<(u32, Mode)>,
}

/// A neighbour entry of this host.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NeighbourInfo {
    /// The neighbour's IP address.
    pub address: std::net::IpAddr,
    /// The index of the interface it is on.
    pub interface: u32,
    /// Its MAC address, if known.
    pub mac: Option<Mac>,
    /// The kernel's state of it, such as `reachable`.
    pub state: String,
    /// Whether the kernel keeps it resolved without traffic.
    pub managed: bool,
}

/// The network interfaces of the network namespace that the thread is in.
pub fn links() -> Result<Vec<HostLink>> {
    let snapshot = Net::new()?.snapshot()?;
    let mut ethtool = Ethtool::new().ok().flatten();
    Ok(snapshot
        .links
        .values()
        .map(|link| {
            let features = ethtool.as_mut().and_then(|e| e.features(link.index).ok());
            HostLink {
                index: link.index,
                name: link.name.clone(),
                mac: link.mac,
                up: link.up,
                mtu: link.mtu,
                kind: link.kind.clone(),
                master: link.master,
                driver: driver(link),
                rx_queues: link.rx_queues,
                tx_queues: link.tx_queues,
                offloads: features.as_ref().map(Offload::active),
                fixed_offloads: features.as_ref().map(Offload::fixed).unwrap_or_default(),
                rp_filter: rp_filter(&link.name),
                xdp: link.xdp.map(|xdp| match xdp.mode {
                    XdpMode::Generic => (xdp.id, Mode::Generic),
                    _ => (xdp.id, Mode::Native),
                }),
            }
        })
        .collect())
}

/// The neighbour entries of the network namespace that the thread is in.
pub fn neighbours() -> Result<Vec<NeighbourInfo>> {
    let snapshot = Net::new()?.snapshot()?;
    Ok(snapshot
        .neighbours
        .iter()
        .map(|((interface, address), neighbour)| NeighbourInfo {
            address: *address,
            interface: *interface,
            mac: neighbour.mac,
            state: format!("{:?}", neighbour.state).to_lowercase(),
            managed: neighbour.managed,
        })
        .collect())
}

/// What XDP the driver of an interface does, which it is asked without
/// attaching a program; `None` where the kernel does not tell (before 6.3).
pub fn native_xdp(index: u32) -> Result<Option<XdpFeatures>> {
    xdp_features(index)
        .map_err(|source| Error::Netlink { request: "XDP features", source: source.into() })
}

/// How an interface spreads what it receives over its queues.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ReceiveQueues {
    /// How many are in use; `None` where the driver does not tell.
    pub count: Option<u32>,
    /// Which packet comes by which; `None` where the kernel (before 6.3) or
    /// the driver does not tell.
    pub rss: Option<Rss>,
}

/// Receive-side scaling: a packet's hash tells its queue.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Rss {
    /// The queue for each low part of the hash.
    pub indirection: Vec<u32>,
    /// The name of the hash function, as `ethtool -X` takes it; `None` where
    /// the driver does not tell.
    pub function: Option<&'static str>,
    /// Whether the hash has a key.
    pub keyed: bool,
}

/// The receive queues of an interface of the network namespace that the thread
/// is in.
pub fn receive_queues(index: u32) -> Result<ReceiveQueues> {
    let fault = |source: io::Error| Error::Netlink { request: "queues", source: source.into() };
    let Some(mut ethtool) = Ethtool::new().map_err(fault)? else {
        return Ok(ReceiveQueues::default());
    };
    let channels = ethtool.channels(index).map_err(fault)?;
    let rss = ethtool.rss(index).map_err(fault)?;
    Ok(ReceiveQueues {
        count: channels.map(|channels| channels.rx + channels.combined),
        rss: rss.map(|rss| Rss {
            indirection: rss.indirection,
            function: rss.function.and_then(hash_function),
            keyed: !rss.key.is_empty(),
        }),
    })
}

/// The name of a hash function by its bit (`ETH_RSS_HASH_*` in
/// include/linux/ethtool.h).
const fn hash_function(bit: u32) -> Option<&'static str> {
    match bit {
        1 => Some("toeplitz"),
        2 => Some("xor"),
        4 => Some("crc32"),
        _ => None,
    }
}

/// The name of an XDP program, or its id where the name may not be asked.
pub fn program_name(id: u32) -> String {
    crate::bpf::program_name(id)
}

/// The capabilities of the process that the balancer needs and it lacks.
///
/// CAP_PERFMON is one of them: without it the verifier takes no program that
/// reads a packet at an offset which the packet itself tells, as that of the
/// transport header is (Linux 5.8: 2c78ee898d8f, "bpf: Implement CAP_BPF"),
/// unless the host has turned the CPU's mitigations off.
pub fn missing_capabilities() -> Vec<&'static str> {
    const SYS_ADMIN: u32 = 21;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default();
    let has = |number: u32| effective & 1 << number != 0;
    let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let unmitigated = command_line.split_whitespace().any(|word| word == "mitigations=off");
    [
        ("CAP_BPF", has(39) || has(SYS_ADMIN)),
        ("CAP_PERFMON", has(38) || has(SYS_ADMIN) || unmitigated),
        ("CAP_NET_ADMIN", has(12)),
    ]
    .into_iter()
    .filter_map(|(name, held)| (!held).then_some(name))
    .collect()
}

/// What the host asks of who opens perf events (sysctl kernel.perf_event_paranoid).
/// Linux knows up to 2, all of which CAP_PERFMON overrides; Debian's and Ubuntu's
/// kernels know more.
pub(crate) fn perf_event_paranoid() -> Option<u32> {
    let level = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").ok()?;
    level.trim().parse().ok()
}

/// The inode number of the network namespace that the thread is in
/// (namespaces(7)), which no other one has meanwhile; 0 where it is not told.
pub(crate) fn network_namespace() -> Result<u64> {
    match fs::metadata("/proc/thread-self/ns/net") {
        Ok(metadata) => Ok(metadata.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(source) => Err(Error::System { call: "statx of the network namespace", source }),
    }
}

pub(crate) fn check_capabilities() -> Result<()> {
    let missing = missing_capabilities();
    if missing.is_empty() { Ok(()) } else { Err(Error::MissingCapability { missing }) }
}

/// The release of the running kernel.
pub fn kernel_release() -> Result<String> {
    let name = uname().map_err(|errno| Error::System { call: "uname", source: errno.into() })?;
    Ok(name.release().to_string_lossy().into_owned())
}

pub(crate) fn check_kernel() -> Result<()> {
    let release = kernel_release()?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < OLDEST {
        return Err(Error::Kernel { release, needs: "Linux 5.10 or newer" });
    }
    Ok(())
}

/// How many CPUs have counters: those that are in the machine now.
pub(crate) fn cpus() -> Result<u32> {
    count_cpus("present")
}

/// How many CPUs there could be.
pub(crate) fn possible_cpus() -> Result<u32> {
    count_cpus("possible")
}

/// The end of a list of CPUs that the kernel has.
fn count_cpus(list: &str) -> Result<u32> {
    let path = format!("/sys/devices/system/cpu/{list}");
    let list = fs::read_to_string(path)
        .map_err(|source| Error::System { call: "read of the list of CPUs", source })?;
    // A list of ranges in order, such as `0-3,8-11`.
    let last = list.trim().rsplit([',', '-']).next().and_then(|last| last.parse::<u32>().ok());
    Ok(last.unwrap_or(0) + 1)
}
