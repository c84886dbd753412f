//! Each fault is called by its name, by `xvsctl probe`.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::process::Command;
use std::thread;

use serde_json::Value;
use xvs::Client;
use xvs::Decap;
use xvs::Destination;
use xvs::DestinationStatus;
use xvs::Mode;
use xvs::Service;
use xvs::Tunnel;

use crate::lab::Lab;
use crate::lab::VIPS;
use crate::lab::ip;
use crate::lab::wait;
use crate::server::PATIENCE;
use crate::tunnelled::FOU;
use crate::tunnelled::GUE;
use crate::tunnelled::address;
use crate::tunnelled::serve;
use crate::tunnelled::take_out;

/// The port that every server listens on.
const PORT: u16 = 80;

/// A lab of one server, which a service of each family has, behind a tunnel or not.
struct Bench {
    // Dropped in this order.
    balancer: Client,
    decap: Vec<Decap>,
    lab: Lab,
    services: [Service; 2],
    servers: [IpAddr; 2],
}

impl Bench {
    fn new(tunnel: Tunnel) -> Self {
        let lab = Lab::new(1);
        let decap = take_out(&lab, Mode::Native);
        let balancer = lab.balancer();
        let services = [0, 1].map(|family| Service::tcp(ip(VIPS[family]), PORT));
        let servers = [0, 1].map(|family| address(&lab.backends[0], family));
        for (service, server) in services.iter().zip(servers) {
            serve(&balancer, service, &[Destination::new(server).tunnel(tunnel)]);
        }
        Self { balancer, decap, lab, services, servers }
    }

    fn server(&self, command: &str) {
        self.lab.backends[0].namespace.sh(command);
    }

    /// What fails of both families, or that nothing does, by `xvsctl probe` of a port
    /// with more options.
    fn check(&self, port: u16, options: &[&str], failure: Option<&str>) {
        thread::scope(|scope| {
            for (service, server) in self.services.iter().zip(self.servers) {
                let vip = SocketAddr::new(service.address, port);
                scope.spawn(move || self.check_one(vip, server, options, failure));
            }
        });
    }

    fn check_one(&self, vip: SocketAddr, server: IpAddr, options: &[&str], failure: Option<&str>) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xvsctl"));
        command.arg("probe").arg(vip.to_string()).arg(server.to_string());
        command.arg(format!("--bpffs={}", self.lab.bpffs().display()));
        command.args(["--instance=lab", "--json", "--timeout=1"]).args(options);
        let output = self.lab.lb.enter(|| command.output().expect("the program starts"));
        let errors = String::from_utf8_lossy(&output.stderr);
        let found: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {output:?}, {errors}"));
        assert_eq!(output.status.code(), Some(i32::from(found["ok"] != true)), "{found}");
        assert_eq!(found["failure"].as_str(), failure, "{vip} at {server}, {options:?}: {found}");
        let steps = found["steps"].as_array().expect("a list of steps");
        assert!(steps.iter().all(|step| step["ms"].as_f64().is_some()), "{found}");
    }
}

/// Every fault of a server.
fn every_fault(tunnel: Tunnel) {
    let mut bench = Bench::new(tunnel);
    bench.check(PORT, &[], None);
    bench.check(PORT, &["--size=full"], None);
    // The process is gone.
    bench.check(81, &[], Some("port_closed"));

    // A router inside the path has a smaller MTU, and does not tell.
    bench.server("ip link set eth0 mtu 1400");
    bench.check(PORT, &["--size=full"], Some("mtu"));
    bench.check(PORT, &[], None);
    bench.server("ip link set eth0 mtu 1500");

    // The rules for one port come before those of own addresses.
    let rules = |commands: &str| format!("for f in -4 -6; do {commands}; done");
    bench.server(&rules(
        "ip $f rule add pref 10 lookup local
         ip $f rule add pref 5 ipproto tcp dport 80 blackhole
         ip $f rule del pref 0",
    ));
    bench.check(PORT, &[], Some("port_filtered"));
    bench.server(&rules("ip $f rule add pref 0 lookup local; ip $f rule del pref 5"));
    bench.check(PORT, &[], None);

    // The VIP is missing, also where the server would route it elsewhere.
    bench.server(
        "ip address del 192.168.100.1/32 dev lo
         ip address del fd00:100::1/128 dev lo",
    );
    bench.check(PORT, &[], Some("no_answer"));
    bench.server(
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
         ip route add 192.168.100.1/32 via 10.1.2.1
         ip -6 route add fd00:100::1/128 via fd00:1:2::1",
    );
    bench.check(PORT, &[], Some("no_answer"));
    bench.server(
        "sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0
         ip route del 192.168.100.1/32 via 10.1.2.1
         ip -6 route del fd00:100::1/128 via fd00:1:2::1
         ip address add 192.168.100.1/32 dev lo
         ip address add fd00:100::1/128 dev lo",
    );
    bench.check(PORT, &[], None);

    if tunnel != Tunnel::None {
        bench.decap.clear();
        bench.check(PORT, &[], Some("tunnel_not_answered"));
    }
}

#[test]
fn faults_at_layer_2_have_their_names() {
    every_fault(Tunnel::None);
}

#[test]
fn faults_behind_ipip_have_their_names() {
    every_fault(Tunnel::Ipip);
}

#[test]
fn faults_behind_gre_have_their_names() {
    every_fault(Tunnel::Gre);
}

#[test]
fn faults_behind_fou_have_their_names() {
    every_fault(Tunnel::fou(FOU[0]));
}

#[test]
fn faults_behind_gue_have_their_names() {
    every_fault(Tunnel::gue(GUE));
}

#[test]
fn a_server_that_is_gone_has_no_neighbour() {
    let bench = Bench::new(Tunnel::None);
    let servers = ["10.1.2.99", "fd00:1:2::99"].map(ip);
    let bench = Bench { servers, ..bench };
    for (service, gone) in bench.services.iter().zip(servers) {
        bench.balancer.create_destination(service, &Destination::new(gone)).expect("it is new");
        wait("nobody answers for it", 2 * PATIENCE, || {
            let all = bench.balancer.destinations(service).expect("the service is there");
            let found = all.into_iter().find(|d| d.destination.address == gone);
            (found?.status == DestinationStatus::NoNeighbour).then_some(())
        });
    }
    bench.check(PORT, &[], Some("no_neighbour"));
}
