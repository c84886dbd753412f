//! VLAN devices on one interface.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Child;
use std::process::Command;

use serde_json::json;
use xvs::Config;
use xvs::DestinationExtended;
use xvs::DestinationStatus;
use xvs::Mode;
use xvs::Service;

use crate::features::has_devices;
use crate::lab::Backend;
use crate::lab::Lab;
use crate::lab::VIPS;
use crate::lab::ip;
use crate::lab::vip;
use crate::lab::wait;
use crate::reaches_all;
use crate::requests_cross;
use crate::serve;
use crate::server::Connection;
use crate::server::PATIENCE;
use crate::xvsctl;
use crate::xvsctl::Balance;

/// A lab on a trunk, unless the kernel has no 802.1Q devices.
fn lab(backends: usize) -> Option<Lab> {
    let has = has_devices("link trunk name trunk.7 type vlan id 7", "8021q");
    has.then(|| Lab::on_a_trunk(backends))
}

#[test]
fn requests_cross_from_one_vlan_to_another() {
    for mode in [Mode::Native, Mode::Generic] {
        let Some(lab) = lab(3) else { return };
        let balancer =
            lab.balancer_with(lab.trunk_options().mode(mode), &["eth0"]).expect("it starts");
        requests_cross(&lab, &balancer);
    }
}

/// nginx at a backend, ended when dropped.
struct Web(Child);

impl Web {
    fn start(lab: &Lab, backend: &Backend, root: &Path) -> Self {
        let home = lab.directory().join(&backend.name);
        fs::create_dir_all(&home).expect("the lab's directory is ours");
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {}/{kind};", home.display()));
        let configuration = format!(
            "daemon off; master_process off; pid {home}/pid; events {{}}
             http {{ access_log off; {temporary}
             server {{ listen 8000; listen [::]:8000; root {root}; }} }}",
            home = home.display(),
            temporary = temporary.join(" "),
            root = root.display()
        );
        let file = home.join("nginx.conf");
        fs::write(&file, configuration).expect("the lab's directory is ours");
        let nginx = backend.namespace.enter(|| {
            let mut command = Command::new("nginx");
            command.args(["-e", "stderr", "-p"]).arg(&home).arg("-c").arg(&file);
            command.spawn().expect("nginx is installed")
        });
        Self(nginx)
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Real HTTP: a megabyte from each server, in each VLAN, by both families.
#[test]
fn web_pages_come_from_backends_in_two_vlans() {
    let Some(lab) = lab(4) else { return };
    let root = lab.directory().join("pages");
    fs::create_dir_all(&root).expect("the lab's directory is ours");
    let page: Vec<u8> =
        (0..1_u32 << 18).flat_map(|i| i.wrapping_mul(0x9e37_79b1).to_be_bytes()).collect();
    fs::write(root.join("page"), &page).expect("the lab's directory is ours");
    let _servers: Vec<Web> = lab.backends.iter().map(|b| Web::start(&lab, b, &root)).collect();
    let balancer = lab.balancer_with(lab.trunk_options(), &["eth0"]).expect("it starts");
    for address in &VIPS[..2] {
        let service = Service::tcp(ip(address), 8000);
        serve(&lab, &balancer, &service);
        let url = match ip(address) {
            IpAddr::V4(v4) => format!("http://{v4}:8000/page"),
            IpAddr::V6(v6) => format!("http://[{v6}]:8000/page"),
        };
        let fetch = || {
            let fetched = lab.client.enter(|| {
                let retry = ["--retry", "20", "--retry-connrefused", "--retry-delay", "1"];
                let command =
                    Command::new("curl").args(["-sS", "--globoff"]).args(retry).arg(&url).output();
                command.expect("curl is installed")
            });
            assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
            assert!(fetched.stdout == page, "{url}: {} octets, not the page", fetched.stdout.len());
        };
        for _ in 0..20 {
            fetch();
        }
        let destinations = balancer.destinations(&service).expect("it is there");
        let served = |d: &DestinationExtended| d.stats.syn > 0;
        assert!(destinations.iter().all(served), "{url}: {destinations:?}");
    }
}

/// While a VLAN's device is away its destinations get no new flows; connections
/// that there are go on when it is back, though it is another interface then.
#[test]
fn a_vlan_device_may_go_and_come_back() {
    let Some(lab) = lab(2) else { return };
    let balancer = lab.balancer_with(lab.trunk_options(), &["eth0"]).expect("it starts");
    for (number, address) in VIPS[..2].iter().enumerate() {
        let service = Service::tcp(ip(address), 80);
        serve(&lab, &balancer, &service);
        let status = |right: DestinationStatus| {
            wait("the destinations' status", PATIENCE, || {
                let all = balancer.destinations(&service).expect("the service is there");
                let [first, second] = [all[0].status, all[1].status];
                // The other VLAN is none of it.
                assert_eq!(second, DestinationStatus::Reachable);
                (first == right).then_some(())
            });
        };
        let mut held: Vec<Connection> = lab.client.enter(|| {
            (0..20).map(|_| Connection::open(vip(number, 80), PATIENCE).expect("open")).collect()
        });
        lab.lb.sh("ip link del eth0.20");
        status(DestinationStatus::NoInterface);
        lab.add_vlan(2);
        status(DestinationStatus::Reachable);
        lab.client.enter(|| {
            for connection in &mut held {
                connection.exchange(b"still there?").expect("the same server goes on");
            }
        });
    }
}

/// The same by `xvsctl`, which tells what each VLAN is reached by.
#[test]
fn a_trunk_is_balanced_by_the_command() {
    let Some(lab) = lab(2) else { return };
    let vlans = ["--vlan=90=10.1.9.0/24", "--vlan=90=fd00:1:9::/64", "--mode=native"];
    let balance = Balance::start(&lab, &[], xvsctl::program(), &vlans);
    balance.expect("ready", 4 * PATIENCE);
    reaches_all(&lab, vip(0, 80));
    let (program, bpffs) = (xvsctl::program().display(), lab.bpffs().display());
    let shown = lab.lb.sh(&format!("{program} show vlans --json --instance lab --bpffs {bpffs}"));
    let ways: Vec<_> = shown
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a line is JSON"))
        .map(|vlan| (vlan["interface"].clone(), vlan["tag"].clone(), vlan["status"].clone()))
        .collect();
    let way = |interface, tag: u16| (json!(interface), json!(tag), json!("usable"));
    let [backends, client] = [way("eth0.20", 20), way("eth0.90", 90)];
    assert_eq!(ways, [backends.clone(), backends, client.clone(), client]);
    assert!(balance.stop().success());
}

/// How many frames an interface of the switch has received.
fn received(lab: &Lab, interface: &str) -> u64 {
    let told = lab.sw.sh(&format!("ip -json -statistics link show dev {interface}"));
    let told: serde_json::Value = serde_json::from_str(&told).expect("ip prints JSON");
    told[0]["stats64"]["rx"]["packets"].as_u64().expect("it counts packets")
}

/// Servers that are in another VLAN by the configuration are so for live
/// connections too.
#[test]
fn a_new_configuration_moves_live_connections_to_another_vlan() {
    let Some(lab) = lab(1) else { return };
    // Another VLAN of the same subnet.
    lab.sw.sh("ip link add link lb name lb.21 type vlan id 21
         ip link set lb.21 master br2 up");
    lab.lb.sh("ip link add link eth0 name eth0.21 address 02:00:00:00:00:21 type vlan id 21
         sysctl -qw net.ipv4.conf.eth0/21.rp_filter=0
         ip link set eth0.21 up
         ip addr add 10.1.2.2/25 dev eth0.21
         ip addr add fd00:1:2::2/65 dev eth0.21 nodad");
    let balancer = lab.balancer_with(lab.trunk_options(), &["eth0"]).expect("it starts");
    for (number, address) in VIPS[..2].iter().enumerate() {
        let service = Service::tcp(ip(address), 80);
        serve(&lab, &balancer, &service);
        let mut held: Vec<Connection> = lab.client.enter(|| {
            (0..20).map(|_| Connection::open(vip(number, 80), PATIENCE).expect("open")).collect()
        });
        let (before, prefix) = (balancer.config(), ["10.1.2.0/25", "fd00:1:2::/65"][number]);
        let moved = Config::default().vlan(21, prefix.parse().expect("a prefix"));
        balancer.set_config(moved).expect("it is well");
        let vlans = balancer.instance().vlans().expect("it runs");
        assert_eq!(vlans[0].tag, Some(21));
        wait("the server is found there", PATIENCE, || {
            let all = balancer.destinations(&service).expect("the service is there");
            (all[0].status == DestinationStatus::Reachable).then_some(())
        });
        let before_it = received(&lab, "lb.21");
        held.iter_mut().for_each(|c| c.exchange(b"still there?").expect("the server goes on"));
        assert!(received(&lab, "lb.21") >= before_it + held.len() as u64, "by the other VLAN");
        let reasons = balancer.info().expect("it runs").stats.reasons;
        assert_eq!(reasons.forwarded_new as usize, 20 * (number + 1), "no flow is a new one");
        balancer.set_config(before).expect("it is well");
    }
}
