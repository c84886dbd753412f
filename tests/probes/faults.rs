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

/// A lab of one server, behind a tunnel or not.
struct Bench {
    // Dropped in this order.
    balancer: Client,
    decap: Vec<Decap>,
    lab: Lab,
    vip: IpAddr,
    server: IpAddr,
}

impl Bench {
    fn new(family: usize, tunnel: Tunnel) -> Self {
        let lab = Lab::new(1);
        let decap = take_out(&lab, Mode::Native);
        let balancer = lab.balancer();
        let (vip, server) = (ip(VIPS[family]), address(&lab.backends[0], family));
        let destination = Destination::new(server).tunnel(tunnel);
        serve(&balancer, &Service::tcp(vip, PORT), &[destination]);
        Self { balancer, decap, lab, vip, server }
    }

    /// `xvsctl probe` of a port, with more options.
    fn probe(&self, port: u16, options: &[&str]) -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xvsctl"));
        command.arg("probe").arg(SocketAddr::new(self.vip, port).to_string());
        command.arg(self.server.to_string());
        command.arg(format!("--bpffs={}", self.lab.bpffs().display()));
        command.args(["--instance=lab", "--json", "--timeout=1"]).args(options);
        let output = self.lab.lb.enter(|| command.output().expect("the program starts"));
        let errors = String::from_utf8_lossy(&output.stderr);
        let value: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {output:?}, {errors}"));
        assert_eq!(output.status.code(), Some(i32::from(value["ok"] != true)), "{value}");
        value
    }

    fn server(&self, command: &str) {
        self.lab.backends[0].namespace.sh(command);
    }

    /// What fails, or that nothing does.
    fn check(&self, port: u16, options: &[&str], failure: Option<&str>) {
        let found = self.probe(port, options);
        let failed = found["failure"].as_str();
        assert_eq!(failed, failure, "{} at {}, {port} {options:?}: {found}", self.vip, self.server);
        let steps = found["steps"].as_array().expect("a list of steps");
        assert!(steps.iter().all(|step| step["ms"].as_f64().is_some()), "{found}");
    }
}

/// Every fault of one server, with each family.
fn every_fault(tunnels: [Tunnel; 2]) {
    thread::scope(|scope| {
        for (family, tunnel) in tunnels.into_iter().enumerate() {
            scope.spawn(move || every_fault_of(&mut Bench::new(family, tunnel), tunnel));
        }
    });
}

fn every_fault_of(bench: &mut Bench, tunnel: Tunnel) {
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
    let rules = |what: &str| {
        let family = if bench.vip.is_ipv4() { "-4" } else { "-6" };
        format!("ip {family} rule {what}")
    };
    bench.server(&format!(
        "{}; {}; {}",
        rules("add pref 10 lookup local"),
        rules("add pref 5 ipproto tcp dport 80 blackhole"),
        rules("del pref 0")
    ));
    bench.check(PORT, &[], Some("port_filtered"));
    bench.server(&format!("{}; {}", rules("add pref 0 lookup local"), rules("del pref 5")));
    bench.check(PORT, &[], None);

    // The VIP is missing, also where the server would route it elsewhere.
    let length = if bench.vip.is_ipv4() { 32 } else { 128 };
    let vip = format!("{}/{length}", bench.vip);
    bench.server(&format!("ip address del {vip} dev lo"));
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
         ip -6 route del fd00:100::1/128 via fd00:1:2::1",
    );
    bench.server(&format!("ip address add {vip} dev lo"));
    bench.check(PORT, &[], None);

    if tunnel != Tunnel::None {
        bench.decap.clear();
        bench.check(PORT, &[], Some("tunnel_not_answered"));
    }
}

#[test]
fn faults_at_layer_2_have_their_names() {
    every_fault([Tunnel::None; 2]);
}

#[test]
fn faults_behind_ipip_have_their_names() {
    every_fault([Tunnel::Ipip; 2]);
}

#[test]
fn faults_behind_gre_have_their_names() {
    every_fault([Tunnel::Gre; 2]);
}

#[test]
fn faults_behind_fou_have_their_names() {
    every_fault([Tunnel::fou(FOU[0]); 2]);
}

#[test]
fn faults_behind_gue_have_their_names() {
    every_fault([Tunnel::gue(GUE); 2]);
}

#[test]
fn a_server_that_is_gone_has_no_neighbour() {
    for family in [0, 1] {
        let bench = Bench::new(family, Tunnel::None);
        let service = Service::tcp(bench.vip, PORT);
        let gone = ip(["10.1.2.99", "fd00:1:2::99"][family]);
        bench.balancer.create_destination(&service, &Destination::new(gone)).expect("it is new");
        let bench = Bench { server: gone, ..bench };
        let status = || {
            let all = bench.balancer.destinations(&service).expect("the service is there");
            let found = all.into_iter().find(|d| d.destination.address == gone);
            (found?.status == DestinationStatus::NoNeighbour).then_some(())
        };
        wait("nobody answers for it", 2 * PATIENCE, status);
        bench.check(PORT, &[], Some("no_neighbour"));
    }
}
