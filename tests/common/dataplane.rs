//! The data plane between two interfaces that nobody else sends on, run on
//! single frames by BPF_PROG_TEST_RUN.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fmt::Write;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use libbpf_rs::MapCore;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use libbpf_rs::Program;
use nix::mount::MntFlags;
use nix::mount::MsFlags;
use nix::time::ClockId;
use nix::time::clock_gettime;
use xvs::Client;
use xvs::Destination;
use xvs::Instance;
use xvs::Options;
use xvs::Service;
use xvs::Stats;

use super::flowtable::FlowEntry;
pub use super::flowtable::FlowKey;
use super::flowtable::FlowTables;
use super::netns::Namespace;
use super::netns::sh;
use super::test_run::test_run;
use super::vlans;

/// What the program returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Aborted,
    Drop,
    Pass,
    Tx,
    Redirect,
}

/// One of the balancer's two interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// 10.1.2.1/24 and fd00:1:2::1/64, MTU 1500.
    Lb0,
    /// 10.1.3.1/24 and fd00:1:3::1/64, MTU 1400.
    Lb1,
}

impl Port {
    /// The interface's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lb0 => "lb0",
            Self::Lb1 => "lb1",
        }
    }

    /// The interface's MAC address.
    pub const fn mac(self) -> [u8; 6] {
        match self {
            Self::Lb0 => [0x02, 0, 0, 0, 0, 0x10],
            Self::Lb1 => [0x02, 0, 0, 0, 0, 0x11],
        }
    }

    /// The longest IP packet that it takes.
    pub const fn mtu(self) -> u16 {
        match self {
            Self::Lb0 => 1500,
            Self::Lb1 => 1400,
        }
    }

    /// The port that a real server is behind.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) if v4.octets()[2] == 2 => Self::Lb0,
            IpAddr::V6(v6) if v6.segments()[2] == 2 => Self::Lb0,
            _ => Self::Lb1,
        }
    }

    /// Gives it its addresses, which it loses when it goes down.
    pub fn add_addresses(self) {
        let net = if self == Self::Lb0 { 2 } else { 3 };
        sh(&format!(
            "ip address replace 10.1.{net}.1/24 dev {0}
             ip address replace fd00:1:{net}::1/64 dev {0} nodad",
            self.name()
        ));
    }
}

/// The MAC address of a real server, unless a test changes it.
pub fn server_mac(address: IpAddr) -> [u8; 6] {
    match address {
        IpAddr::V4(v4) => [0x02, 0x04, 0, v4.octets()[2], 0, v4.octets()[3]],
        IpAddr::V6(v6) => [0x02, 0x06, 0, v6.segments()[2] as u8, 0, v6.segments()[7] as u8],
    }
}

/// Makes a permanent neighbour entry for a real server, or changes it.
pub fn set_neighbour(address: IpAddr, mac: [u8; 6]) {
    sh(&format!("ip {}", neighbour(address, mac)));
}

/// What `ip` is told to make a neighbour entry.
fn neighbour(address: IpAddr, mac: [u8; 6]) -> String {
    let device = Port::of(address).name();
    format!("neigh replace {address} lladdr {} dev {device} nud permanent", xvs::Mac(mac))
}

/// A file system for pinned objects, unmounted when dropped.
struct Bpffs(PathBuf);

impl Bpffs {
    fn mount(name: &str) -> Self {
        let path = Path::new("/run").join(name);
        fs::create_dir_all(&path).expect("root may write to /run");
        let bpffs = Self(path);
        nix::mount::mount(Some("bpf"), &bpffs.0, Some("bpf"), MsFlags::empty(), None::<&str>)
            .expect("root may mount a BPF file system");
        bpffs
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.0);
    }
}

/// A client on both interfaces with the pinned program of its instance.
pub struct Dataplane {
    /// The control plane.
    pub client: Client,
    /// The flow tables of both families.
    pub tables: FlowTables,
    /// The first fragments of both families.
    pub fragments: MapHandle,
    /// Where the other ends of the interfaces are, plb0 and plb1.
    pub peer: Namespace,
    pins: PathBuf,
    program: OwnedFd,
    indices: [u32; 2],
    context: bool,
}

impl Dataplane {
    /// Runs a test on a thread inside a new namespace with a new data plane.
    /// Small limits are set; `options` may set others.
    pub fn with<T: Send>(
        options: impl FnOnce(Options) -> Options + Send,
        test: impl FnOnce(&Self) -> T + Send,
    ) -> T {
        Self::without(|limits, peer| {
            let options = options(limits);
            let pins = options.bpffs.join("xvs").join(&options.instance);
            let client = Client::with_options(options, &["lb0", "lb1"])
                .expect("the data plane loads and attaches");
            test(&Self::open(client, &pins, peer))
        })
    }

    /// Runs a test on a thread inside a new namespace with the two interfaces, which
    /// is given small limits, and where the other ends of the interfaces are.
    pub fn without<T: Send>(test: impl FnOnce(Options, Namespace) -> T + Send) -> T {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let instance = format!("test-{}-{number}", std::process::id());
        let bpffs = Bpffs::mount(&format!("xvs-{instance}"));
        let peer = Namespace::new("peer");
        peer.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
        let namespace = Namespace::new("lb");
        namespace.enter(|| {
            for port in [Port::Lb0, Port::Lb1] {
                sh(&format!(
                    "ip link add {0} address {1} mtu {2} type veth \
                         peer name p{0} mtu {2} netns {3}
                     ip link set {0} up
                     ip -n {3} link set p{0} up",
                    port.name(),
                    xvs::Mac(port.mac()),
                    port.mtu(),
                    peer.name()
                ));
                port.add_addresses();
            }
            // One command for all: in a VM that is emulated each takes long.
            let mut batch = String::new();
            for net in [2, 3] {
                for host in 3..=40 {
                    let v6 = [0xfd00, 1, u16::from(net), 0, 0, 0, 0, u16::from(host)];
                    for address in [IpAddr::from([10, 1, net, host]), IpAddr::from(v6)] {
                        let _ = writeln!(batch, "{}", neighbour(address, server_mac(address)));
                    }
                }
            }
            sh(&format!("ip -batch - <<END\n{batch}END"));
            let prefix = |text: &str| text.parse().expect("a prefix");
            let limits = Options::new()
                .instance(&instance)
                .bpffs(&bpffs.0)
                .services(64)
                .destinations(64)
                .flows(16_384)
                .table_size(251)
                .icmp_rate(1_000_000)
                .icmp_source_rate(1_000_000)
                .vlan(2, prefix("10.1.2.0/24"))
                .vlan(2, prefix("fd00:1:2::/64"))
                .vlan(3, prefix("10.1.3.0/24"))
                .vlan(3, prefix("fd00:1:3::/64"));
            test(limits, peer)
        })
    }

    fn open(client: Client, pins: &Path, peer: Namespace) -> Self {
        let map = |name: &str| {
            MapHandle::from_pinned_path(pins.join(name)).expect("the map is pinned by its name")
        };
        let index = |port: Port| {
            let info = client.info().expect("an instance that runs");
            let interface = info.interfaces.iter().find(|i| i.name == port.name());
            interface.expect("the client is on both interfaces").index
        };
        let mut dataplane = Self {
            tables: FlowTables::open(pins),
            fragments: map("fragments"),
            peer,
            pins: pins.to_owned(),
            program: Program::fd_from_pinned_path(pins.join("xvs")).expect("a pinned program"),
            indices: [index(Port::Lb0), index(Port::Lb1)],
            context: true,
            client,
        };
        // Before 5.15 test runs of XDP programs take no context.
        let refused = dataplane.test_run(Port::Lb0, &[0; 64], 64).err();
        dataplane.context = refused.and_then(|e| e.raw_os_error()) != Some(nix::libc::EINVAL);
        dataplane
    }

    /// Gives the way out of every destination this tag, as that by a VLAN has.
    pub fn tag_ways_out(&self, id: u16) {
        vlans::tag_ways_out(&self.pins, .., id);
    }

    /// Makes the program take the host for one that is in every VLAN.
    pub fn join_all_vlans(&self) {
        vlans::join_all_vlans(&self.pins);
    }

    /// The interfaces that the program may redirect to.
    pub fn ways_out(&self) -> MapHandle {
        self.map("ports")
    }

    /// Those of them that send frames which are in several buffers.
    pub fn frags_ways_out(&self) -> MapHandle {
        self.map("frags_ports")
    }

    /// Where the instance has an object of this name pinned.
    pub fn pin(&self, name: &str) -> PathBuf {
        self.pins.join(name)
    }

    /// A map of the instance, by its name.
    pub fn map(&self, name: &str) -> MapHandle {
        MapHandle::from_pinned_path(self.pin(name)).expect("the map is pinned by its name")
    }

    /// Changes the MTU of an interface and waits until its destinations follow.
    pub fn set_mtu(&self, port: Port, mtu: u32) {
        sh(&format!("ip link set {} mtu {mtu}", port.name()));
        let records = self.map("destinations");
        let index = self.index(port).to_ne_bytes();
        wait_for(&format!("the MTUs of ways out by {}", port.name()), &Vec::new(), || {
            let records = (1..records.max_entries()).filter_map(|slot| {
                let record = records.lookup(&slot.to_ne_bytes(), MapFlags::ANY);
                record.expect("a lookup")
            });
            // The last two words: the way out, and its MTU.
            let others = records
                .filter(|record| record[56..60] == index && record[60..] != mtu.to_ne_bytes());
            others.collect()
        });
    }

    /// The index of one of the balancer's interfaces.
    pub const fn index(&self, port: Port) -> u32 {
        self.indices[port as usize]
    }

    /// Where the BPF file system is that the instance is pinned in.
    pub fn bpffs(&self) -> &Path {
        self.pins.ancestors().nth(2).expect("the folder of instances is in one")
    }

    /// The instance as another process opens it.
    pub fn reader(&self) -> Instance {
        let bpffs = self.bpffs();
        let name = self.pins.file_name().and_then(|name| name.to_str()).expect("a name");
        Instance::open(bpffs, name).expect("the instance runs")
    }

    /// Whether the kernel lets a test say which interface a frame came by.
    pub const fn has_context(&self) -> bool {
        self.context
    }

    /// Runs the program on a frame: the verdict and the frame afterwards.
    pub fn run(&self, ingress: Port, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let result = self.test_run(ingress, frame, frame.len());
        result.expect("the kernel runs the program on the frame")
    }

    /// The same with so many octets of the frame in its first buffer; an error
    /// where tests cannot say that.
    pub fn run_split(
        &self,
        ingress: Port,
        frame: &[u8],
        first: usize,
    ) -> io::Result<(Verdict, Vec<u8>)> {
        if !self.context {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.test_run(ingress, frame, first)
    }

    fn test_run(
        &self,
        ingress: Port,
        frame: &[u8],
        first: usize,
    ) -> io::Result<(Verdict, Vec<u8>)> {
        let context = libbpf_sys::xdp_md {
            data: 0,
            data_end: first as u32,
            data_meta: 0,
            ingress_ifindex: self.index(ingress),
            rx_queue_index: 0,
            egress_ifindex: 0,
        };
        let context = self.context.then_some(&context);
        let (returned, output) = test_run(&self.program, frame, context)?;
        let verdict = match returned {
            0 => Verdict::Aborted,
            1 => Verdict::Drop,
            2 => Verdict::Pass,
            3 => Verdict::Tx,
            4 => Verdict::Redirect,
            other => panic!("the program returned {other}"),
        };
        Ok((verdict, output))
    }

    /// The verdict for a frame that came in on one port and leaves on another.
    pub fn forwards(&self, ingress: Port, egress: Port) -> Verdict {
        if self.context && ingress == egress { Verdict::Tx } else { Verdict::Redirect }
    }

    /// Creates a service with destinations and waits until those that are
    /// enabled are in use.
    pub fn serve(&self, service: &Service, destinations: &[Destination]) {
        let () = self.client.set_service(service, destinations).expect("the service fits");
        self.settle(service, destinations.iter().filter(|d| !d.disabled).count());
    }

    /// Waits until a service has this many usable destinations.
    pub fn settle(&self, service: &Service, usable: usize) {
        wait_for(&format!("usable destinations of {service}"), &usable, || {
            self.client.service(service).expect("the service exists").usable
        });
    }

    /// Changes a real server's MAC address and waits until packets of the
    /// service follow.
    pub fn move_server(&self, service: &Service, address: IpAddr, mac: [u8; 6]) {
        set_neighbour(address, mac);
        wait_for(&format!("the MAC address of {address}"), &Some(xvs::Mac(mac)), || {
            let destinations = self.client.destinations(service).expect("the service exists");
            destinations.iter().find(|d| d.destination.address == address).and_then(|d| d.mac)
        });
    }

    /// Every counter of the instance under a name that tells whose it is.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let mut counters = BTreeMap::new();
        let mut add = |whose: &str, stats: &Stats| {
            let traffic = [
                ("packets", stats.packets),
                ("octets", stats.octets),
                ("flows", stats.flows),
                ("syn", stats.syn),
                ("fin", stats.fin),
                ("rst", stats.rst),
                ("limited", stats.limited),
            ];
            for (name, value) in traffic.into_iter().chain(stats.reasons.iter()) {
                if value != 0 {
                    counters.insert(format!("{whose} {name}"), value);
                }
            }
        };
        add("all", &self.client.info().expect("info").stats);
        for vip in self.client.vips().expect("VIPs") {
            add(&format!("{}", vip.address), &vip.stats);
        }
        for (service, destinations) in self.client.all().expect("services") {
            let name = service.service.to_string();
            add(&name, &service.stats);
            for destination in destinations {
                let name = format!("{name} at {}", destination.destination.address);
                add(&name, &destination.stats);
            }
        }
        counters
    }

    /// The entry of a flow, whether it lives or not; none when its
    /// destination is gone.
    pub fn flow(&self, key: &FlowKey) -> Option<FlowEntry> {
        let (group, at) = self.tables.find(key)?;
        let words = self.tables.group(key.is_v4(), group);
        Some(FlowEntry { owner: words[at], word: words[at + 1] })
    }

    /// Writes the entry of a flow, unless it was freed meanwhile.
    pub fn set_flow(&self, key: &FlowKey, entry: &FlowEntry) {
        let Some((group, at)) = self.tables.find(key) else {
            return;
        };
        let mut words = self.tables.group(key.is_v4(), group);
        words[at + 1] = entry.word;
        self.tables.set_group(key.is_v4(), group, &words);
    }

    /// Makes a flow look as if its last packet had come so much earlier; whether
    /// it was there.
    pub fn age_flow(&self, key: &FlowKey, by: Duration) -> bool {
        let Some(mut entry) = self.flow(key) else {
            return false;
        };
        entry.set_seen(entry.seen().wrapping_sub(ticks(by)));
        self.set_flow(key, &entry);
        true
    }

    /// Makes every first fragment look as if it had come so much earlier.
    pub fn age_fragments(&self, by: Duration) {
        // An update moves an entry, so the keys are read before any is made.
        let keys: Vec<Vec<u8>> = self.fragments.keys().collect();
        for key in keys {
            let Some(mut value) = self.fragments.lookup(&key, MapFlags::ANY).expect("a lookup")
            else {
                continue;
            };
            let seen = u32::from_ne_bytes(value[8..12].try_into().expect("four octets"));
            value[8..12].copy_from_slice(&seen.wrapping_sub(ticks(by)).to_ne_bytes());
            self.fragments.update(&key, &value, MapFlags::EXIST).expect("the fragment is there");
        }
    }
}

/// A duration in the data plane's ticks of 2^30 ns.
pub fn ticks(duration: Duration) -> u32 {
    (duration.as_nanos() >> 30) as u32
}

/// The data plane's clock.
pub fn now() -> u32 {
    ticks(clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a monotonic clock").into())
}

/// Asks until the answer is the right one; panics when it is not within 5
/// seconds.
pub fn wait_for<T: PartialEq + Debug>(what: &str, right: &T, answer: impl Fn() -> T) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let last = answer();
        if last == *right {
            return;
        }
        assert!(Instant::now() < deadline, "{what} must be {right:?}, is {last:?} after 5 seconds");
        thread::park_timeout(Duration::from_millis(1));
    }
}
