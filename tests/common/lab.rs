//! A network of namespaces: a switch, a balancer, a client and backends.
//!
//! ```text
//!   client ──┐
//!   lb ──────┤ sw (a bridge)     10.1.2.0/24, fd00:1:2::/64
//!   b1..bN ──┘
//! ```
//!
//! The VIPs are on the backends' loopback; the client's routes to them lead
//! through `lb`, whose interface is `eth0` as everywhere. With a second
//! bridge the client is in 10.1.9.0/24 and fd00:1:9::/64, where `lb` has an
//! `eth1`, and the backends' answers are routed by `sw`. On a trunk `lb` has
//! both subnets on `eth0`, in VLANs 20 and 90, and backends are in both by turns.
//! Behind routers all backends are in the second subnet, to which `r1..rM` lead
//! from the first; what answers is routed by `sw`.

use std::fmt::Write;
use std::fs;
use std::fs::Permissions;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::resource::setrlimit;
use xvs::Client;
use xvs::Mode;
use xvs::Options;

use super::netns::Namespace;
use super::netns::sh;
use super::server::Server;
use super::xdp;

/// The virtual addresses, two of each family.
pub const VIPS: [&str; 4] = ["192.168.100.1", "fd00:100::1", "192.168.100.2", "fd00:100::2"];
/// The TCP ports that every backend serves.
pub const TCP: [u16; 2] = [80, 8080];
/// The UDP port that every backend serves on the VIPs.
pub const UDP: u16 = 53;
/// How many addresses of each family the client has, from .100 on.
pub const CLIENTS: u16 = 16;

/// An address that a test writes down.
pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an IP address")
}

/// A VIP's port by the VIP's place in [`VIPS`].
pub fn vip(number: usize, port: u16) -> SocketAddr {
    SocketAddr::new(ip(VIPS[number]), port)
}

/// Polls until the condition gives a value; panics if that takes longer.
pub fn wait<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A backend with its server.
pub struct Backend {
    /// Its name, which its server tells.
    pub name: String,
    /// Its IPv4 address.
    pub v4: IpAddr,
    /// Its IPv6 address.
    pub v6: IpAddr,
    subnet: u8,
    server: Option<Server>,
    /// Where it is.
    pub namespace: Namespace,
}

impl Backend {
    fn new(number: usize, subnet: u8) -> Self {
        let host = 10 + number;
        Self {
            name: format!("b{number}"),
            v4: ip(&format!("10.1.{subnet}.{host}")),
            v6: ip(&format!("fd00:1:{subnet}::{host}")),
            subnet,
            server: None,
            namespace: Namespace::new(&format!("b{number}")),
        }
    }

    /// The hardware address that it has at first.
    pub fn mac(&self) -> [u8; 6] {
        let number: u8 = self.name[1..].parse().expect("names end in a number");
        [2, 0, 0, 0, 0, 10 + number]
    }
}

/// The network; taken down when dropped.
pub struct Lab {
    /// The backends, b1 first.
    pub backends: Vec<Backend>,
    /// Where the clients are.
    pub client: Namespace,
    /// Where the balancer belongs.
    pub lb: Namespace,
    /// The switch; its ports are named like what they lead to.
    pub sw: Namespace,
    /// The routers between the two subnets, r1 first, if there are any.
    pub routers: Vec<Router>,
    directory: Directory,
    is_bonded: bool,
    // One lab at a time: the tests measure times, and the machine may be small.
    _turn: MutexGuard<'static, ()>,
}

/// A router with an interface in each subnet, named `eth2` and `eth9`.
pub struct Router {
    /// Its addresses in the subnet of `lb`: of IPv4, IPv6, and that link alone.
    pub gateways: [IpAddr; 3],
    /// The hardware address that `eth2` has at first.
    pub mac: [u8; 6],
    /// Where it is.
    pub namespace: Namespace,
}

/// How `lb` is connected.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wiring {
    OneSubnet,
    TwoInterfaces,
    Routed,
    Trunk,
    Bond(Bonding),
}

/// How the two cables of a bonded trunk work together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bonding {
    /// The switch knows nothing of it.
    ActiveBackup,
    /// An aggregate (IEEE 802.3ad) with LACP.
    Aggregate,
}

impl Wiring {
    /// The subnet of a backend: on a trunk they are in both by turns.
    const fn subnet(self, backend: usize) -> u8 {
        match self {
            Self::Trunk | Self::Bond(_) if backend.is_multiple_of(2) => 9,
            Self::Routed => 9,
            _ => 2,
        }
    }
}

impl Lab {
    /// A lab with everything in one subnet.
    pub fn new(backends: usize) -> Self {
        Self::build(backends, Wiring::OneSubnet)
    }

    /// A lab whose client is behind a second interface of `lb`.
    pub fn with_two_subnets(backends: usize) -> Self {
        Self::build(backends, Wiring::TwoInterfaces)
    }

    /// A lab whose backends are behind so many routers. `lb` has no routes yet.
    pub fn behind_routers(backends: usize, routers: u8) -> Self {
        let mut lab = Self::build(backends, Wiring::Routed);
        lab.routers = (1..=routers).map(|number| lab.make_router(number)).collect();
        lab
    }

    /// A lab with both subnets in VLANs of the one interface of `lb`. The kernel
    /// needs 802.1Q devices.
    pub fn on_a_trunk(backends: usize) -> Self {
        Self::build(backends, Wiring::Trunk)
    }

    /// The same on `bond0` of `lb`, with `eth0` and `eth1` as members, which are
    /// on the ports `lb0` and `lb1` of the switch. The kernel needs bonds, too.
    pub fn on_a_bond(backends: usize, bonding: Bonding) -> Self {
        Self::build(backends, Wiring::Bond(bonding))
    }

    fn build(backends: usize, wiring: Wiring) -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(nix::unistd::geteuid().is_root(), "the lab's namespaces need root");
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("there is a limit of files");
        setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("the soft limit may be raised");

        let lab = Self {
            backends: (1..=backends).map(|n| Backend::new(n, wiring.subnet(n))).collect(),
            client: Namespace::new("client"),
            lb: Namespace::new("lb"),
            sw: Namespace::new("sw"),
            routers: Vec::new(),
            directory: Directory::new(),
            is_bonded: matches!(wiring, Wiring::Bond(_)),
            _turn: turn,
        };
        let is_near = matches!(wiring, Wiring::OneSubnet | Wiring::Routed);
        let subnet = if is_near { 2 } else { 9 };
        lab.set_up_switch();
        match wiring {
            Wiring::OneSubnet | Wiring::Routed => lab.plug_balancer(),
            Wiring::TwoInterfaces => {
                lab.plug_balancer();
                lab.plug(&lab.lb, "eth1", "lb1", "02:00:00:00:01:01", 9);
                lab.address(&lab.lb, "eth1", 9, 1..=1);
            }
            Wiring::Trunk => {
                lab.connect(&lab.lb, "eth0", "lb", "02:00:00:00:00:01");
                lab.lb.sh("ip link set eth0 up");
                lab.make_trunk();
            }
            Wiring::Bond(bonding) => {
                lab.make_bond(bonding);
                lab.make_trunk();
            }
        }
        lab.plug(&lab.client, "eth0", "client", "02:00:00:00:00:64", subnet);
        lab.address(&lab.client, "eth0", subnet, 100..=99 + CLIENTS);
        lab.client.sh(&format!(
            "ip route add 192.168.100.0/24 via 10.1.{subnet}.1
             ip route add fd00:100::/64 via fd00:1:{subnet}::1"
        ));
        for backend in &lab.backends {
            let mac = backend.mac().map(|octet| format!("{octet:02x}")).join(":");
            lab.set_up_backend(backend, &mac);
        }
        lab.start_servers()
    }

    fn set_up_switch(&self) {
        // A bridge without an address of its own has another one with each change
        // of its ports, and for the hosts it is the router.
        self.sw.sh("ip -batch - <<END
link add br2 address 02:00:00:00:fe:02 type bridge mcast_snooping 0
link add br9 address 02:00:00:00:fe:09 type bridge mcast_snooping 0
link set br2 up
link set br9 up
END
            sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
                net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0 \
                net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0");
        for subnet in [2, 9] {
            self.address(&self.sw, &format!("br{subnet}"), subnet, 254..=254);
        }
    }

    /// Makes `eth0` of `lb`; also anew, after it was removed.
    pub fn plug_balancer(&self) {
        self.plug(&self.lb, "eth0", "lb", "02:00:00:00:00:01", 2);
        self.address(&self.lb, "eth0", 2, 1..=1);
    }

    /// Connects an interface to a port of the switch, in a subnet's bridge.
    pub fn plug(&self, host: &Namespace, interface: &str, port: &str, mac: &str, subnet: u8) {
        self.connect(host, interface, port, mac);
        host.sh(&format!("ip link set {interface} up"));
        self.sw.sh(&format!("ip link set {port} master br{subnet} up"));
    }

    /// Makes a cable from a new interface to a new port of the switch. Tags are in
    /// the frames, and checksums are whole, as they are on a wire.
    fn connect(&self, host: &Namespace, interface: &str, port: &str, mac: &str) {
        let (sw, name) = (self.sw.name(), host.name());
        sh(&format!(
            "ip link add {interface} address {mac} netns {name} type veth peer {port} netns {sw}"
        ));
        host.sh(&format!(
            "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.{interface}.rp_filter=0
             ethtool -K {interface} tx off txvlan off >/dev/null"
        ));
        self.sw.sh(&format!("ethtool -K {port} tx off txvlan off >/dev/null"));
        // A veth takes at once what its peer's XDP program sends only if it
        // has a program itself. NAPI, which GRO turns on, is not enough: what
        // XDP_TX sends then waits for the next packet that comes otherwise.
        xdp::attach_pass(&self.sw, port, "pass");
    }

    /// Makes `bond0` of `lb`, and what its members lead to, `lb` of the switch.
    fn make_bond(&self, bonding: Bonding) {
        let aggregate = "type bond mode 802.3ad miimon 20 lacp_rate fast";
        let (balancer, switch) = match bonding {
            Bonding::ActiveBackup => {
                ("type bond mode active-backup miimon 20", "type bridge mcast_snooping 0")
            }
            Bonding::Aggregate => (aggregate, aggregate),
        };
        self.lb.sh(&format!("ip link add bond0 address 02:00:00:00:00:01 {balancer}"));
        self.sw.sh(&format!("ip link add lb address 02:00:00:00:fe:01 {switch}"));
        for number in [0, 1] {
            self.add_member(number);
        }
        self.lb.sh("ip link set bond0 up");
        self.sw.sh("ip link set lb up");
    }

    /// Makes a member of `bond0` and its cable.
    pub fn add_member(&self, number: u8) {
        self.add_member_with(number, || ());
    }

    /// The same, with something done to it before the bond has it.
    pub fn add_member_with(&self, number: u8, prepare: impl FnOnce()) {
        let (interface, port) = (format!("eth{number}"), format!("lb{number}"));
        self.connect(&self.lb, &interface, &port, &format!("02:00:00:00:02:0{number}"));
        prepare();
        // A bond takes only what is down, and brings it up itself.
        self.lb.sh(&format!("ip link set {interface} master bond0"));
        self.sw.sh(&format!("ip link set {port} master lb && ip link set {port} up"));
    }

    /// The interface of `lb` that has both subnets in VLANs.
    fn trunk(&self) -> &'static str {
        if self.is_bonded { "bond0" } else { "eth0" }
    }

    /// Makes a trunk of the port `lb`: no frame there goes without a tag.
    fn make_trunk(&self) {
        self.sw.sh("ip link set lb up");
        for subnet in [2, 9] {
            self.sw.sh(&format!(
                "ip link add link lb name lb.{subnet}0 type vlan id {subnet}0
                 ip link set lb.{subnet}0 master br{subnet} up"
            ));
            self.add_vlan(subnet);
        }
    }

    /// Moves the addresses of `lb` to a MAC VLAN, `mac0`, on its `eth0`.
    pub fn move_to_mac_vlan(&self) {
        self.lb.sh("ip address flush dev eth0
             ip link add link eth0 name mac0 address 02:00:00:00:00:02 type macvlan mode bridge
             sysctl -qw net.ipv4.conf.mac0.rp_filter=0
             ip link set mac0 up");
        self.address(&self.lb, "mac0", 2, 1..=1);
        // The client may know the address of eth0.
        self.client.sh("ip neigh flush dev eth0");
    }

    /// Gives `lb` its device in the VLAN of a subnet.
    pub fn add_vlan(&self, subnet: u8) {
        let trunk = self.trunk();
        self.lb.sh(&format!(
            "ip link add link {trunk} name {trunk}.{subnet}0 type vlan id {subnet}0
             sysctl -qw net.ipv4.conf.{trunk}/{subnet}0.rp_filter=0
             ip link set {trunk}.{subnet}0 up"
        ));
        self.address(&self.lb, &format!("{trunk}.{subnet}0"), subnet, 1..=1);
    }

    /// Gives an interface these addresses of both families in a subnet.
    pub fn address(
        &self,
        host: &Namespace,
        interface: &str,
        subnet: u8,
        hosts: impl Iterator<Item = u16>,
    ) {
        let mut batch = String::new();
        for number in hosts {
            let _ = writeln!(batch, "addr add 10.1.{subnet}.{number}/24 dev {interface}");
            let _ = writeln!(batch, "addr add fd00:1:{subnet}::{number}/64 dev {interface} nodad");
        }
        host.sh(&format!("ip -batch - <<END\n{batch}END"));
    }

    fn make_router(&self, number: u8) -> Router {
        let namespace = Namespace::new(&format!("r{number}"));
        let host = 200 + number;
        let mac = |subnet: u8| [2, 0, 0, 0, subnet, host];
        for subnet in [2, 9] {
            let (interface, port) = (format!("eth{subnet}"), format!("r{number}eth{subnet}"));
            let mac = mac(subnet).map(|octet| format!("{octet:02x}")).join(":");
            self.plug(&namespace, &interface, &port, &mac, subnet);
            self.address(&namespace, &interface, subnet, host.into()..=host.into());
        }
        namespace.sh(&format!(
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
             ip address add fe80::{host}/64 dev eth2 nodad"
        ));
        let gateways =
            [format!("10.1.2.{host}"), format!("fd00:1:2::{host}"), format!("fe80::{host}")];
        Router { gateways: gateways.map(|address| ip(&address)), mac: mac(2), namespace }
    }

    fn set_up_backend(&self, backend: &Backend, mac: &str) {
        let (host, name) = (&backend.namespace, &backend.name);
        let subnet = backend.subnet;
        self.plug(host, "eth0", name, mac, subnet);
        let mut batch = String::new();
        for vip in VIPS {
            // Without `nodad` it would be tentative for a moment.
            let nodad = if vip.contains(':') { "nodad" } else { "" };
            let _ = writeln!(batch, "addr add {vip} dev lo {nodad}");
        }
        let _ = write!(
            batch,
            "addr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\n\
             route add default via 10.1.{subnet}.254\n\
             route add default via fd00:1:{subnet}::254\n",
            backend.v4, backend.v6
        );
        host.sh(&format!(
            "sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
             ip -batch - <<END\n{batch}END"
        ));
    }

    fn start_servers(mut self) -> Self {
        let udp: Vec<SocketAddr> = (0..VIPS.len()).map(|number| vip(number, UDP)).collect();
        for backend in &mut self.backends {
            let server = Server::start(&backend.namespace, &backend.name, &TCP, &udp);
            backend.server = Some(server);
        }
        self
    }

    /// Changes the MTU of everything but `lo`.
    pub fn set_mtu(&self, mtu: usize) {
        let backends = self.backends.iter().map(|backend| &backend.namespace);
        for namespace in backends.chain([&self.client, &self.lb, &self.sw]) {
            namespace.sh(&format!(
                "for i in $(ip -o link show type veth | cut -d: -f2 | cut -d@ -f1); do
                     ip link set $i mtu {mtu}
                 done"
            ));
        }
        self.sw.sh(&format!("ip link set br2 mtu {mtu}; ip link set br9 mtu {mtu}"));
    }

    /// Where BPF objects are pinned.
    pub fn bpffs(&self) -> &Path {
        &self.directory.bpffs
    }

    /// Where a test may leave files.
    pub fn directory(&self) -> &Path {
        &self.directory.path
    }

    /// Options for a balancer on `eth0` here: native mode, both prefixes.
    pub fn options(&self) -> Options {
        Options::new()
            .instance("lab")
            .bpffs(self.bpffs())
            .mode(Mode::Native)
            .flows(65_536)
            .vlan(1, "10.1.2.0/24".parse().expect("a prefix"))
            .vlan(1, "fd00:1:2::/64".parse().expect("a prefix"))
    }

    /// Options for a balancer on a trunk: both VLANs by their ids.
    pub fn trunk_options(&self) -> Options {
        let prefix = |text: &str| text.parse().expect("a prefix");
        Options::new()
            .instance("lab")
            .bpffs(self.bpffs())
            .mode(Mode::Native)
            .flows(65_536)
            .vlan(20, prefix("10.1.2.0/24"))
            .vlan(20, prefix("fd00:1:2::/64"))
            .vlan(90, prefix("10.1.9.0/24"))
            .vlan(90, prefix("fd00:1:9::/64"))
    }

    /// A balancer on `eth0` of `lb`.
    pub fn balancer(&self) -> Client {
        self.balancer_with(self.options(), &["eth0"]).expect("the balancer starts")
    }

    /// A balancer on interfaces of `lb`.
    pub fn balancer_with(&self, options: Options, interfaces: &[&str]) -> xvs::Result<Client> {
        self.lb.enter(|| Client::with_options(options, interfaces))
    }
}

/// A directory of the lab's own, with a BPF file system in it.
struct Directory {
    path: PathBuf,
    bpffs: PathBuf,
}

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("xvs-{}-{number}", std::process::id()));
        let directory = Self { bpffs: path.join("bpf"), path };
        fs::create_dir_all(&directory.bpffs).expect("a directory can be made");
        for path in [&directory.path, &directory.bpffs] {
            fs::set_permissions(path, Permissions::from_mode(0o755)).expect("it is ours");
        }
        sh(&format!("mount -t bpf bpf {}", directory.bpffs.display()));
        directory
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.bpffs).status();
        let _ = fs::remove_dir(&self.bpffs);
        let _ = fs::remove_dir_all(&self.path);
    }
}
