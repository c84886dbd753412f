//! Servers take packets out of tunnels by the kernel's own devices, set up as
//! docs/backends.md tells.

use std::time::Duration;

use xvs::Client;
use xvs::Destination;
use xvs::Failure;
use xvs::Probe;
use xvs::Service;
use xvs::Size;
use xvs::Tunnel;

use crate::FOU;
use crate::GUE;
use crate::address;
use crate::balancer;
use crate::lab::Lab;
use crate::lab::vip;
use crate::manual;
use crate::netns::Namespace;
use crate::options;
use crate::serve;
use crate::title;
use crate::upload::upload;
use crate::web::PORT;
use crate::web::Web;
use crate::web::get;

/// Whether the kernel makes such devices; if not, that is told.
fn has_devices() -> bool {
    let probe = Namespace::new("probe");
    for (what, command) in [
        ("ipip", "ip link add probe type ipip local 10.0.0.1 remote 10.0.0.2"),
        ("sit", "ip link add probe type sit local 10.0.0.1 remote 10.0.0.2"),
        ("ip6tnl", "ip link add probe type ip6tnl mode any local fd00::1 remote fd00::2"),
        ("gre", "ip link add probe type gre local 10.0.0.1 remote 10.0.0.2"),
        ("ip6gre", "ip link add probe type ip6gre local fd00::1 remote fd00::2"),
        ("FOU", "ip fou add port 7777 ipproto 4"),
    ] {
        let made = probe.sh(&format!(
            "{command} 2>/dev/null && echo yes || echo no
             ip link del probe 2>/dev/null || true"
        ));
        if made.trim() != "yes" {
            println!("skipped: the kernel has no {what} devices");
            return false;
        }
    }
    true
}

/// The tunnels that the commands of a section are for, by the VIP's family.
fn tunnels(section: &str, vip: usize) -> Vec<Tunnel> {
    let udp = |tunnel: Tunnel| vec![tunnel.checksum(false), tunnel.checksum(true)];
    match section {
        "IPIP" => vec![Tunnel::Ipip],
        "GRE" => vec![Tunnel::Gre],
        "FOU" => udp(Tunnel::fou(FOU[vip])),
        "GUE" => udp(Tunnel::gue(GUE)),
        other => panic!("no tunnel is called {other}"),
    }
}

fn answers(lab: &Lab, balancer: &Client, section: &str, family: usize) {
    let server = address(&lab.backends[0], family);
    for number in [0, 1] {
        let to = vip(number, PORT);
        let service = Service::tcp(to.ip(), to.port());
        for tunnel in tunnels(section, number) {
            let title = title(tunnel, to.ip(), server);
            let _ = balancer.remove_service(&service);
            serve(balancer, &service, &[Destination::new(server).tunnel(tunnel)]);
            let answered = lab.client.enter(|| get(to)).unwrap_or_else(|error| {
                let links = lab.backends[0].namespace.sh("ip -s link show up; nstat -as");
                panic!("{title}: {error}\n{links}");
            });
            assert_eq!(answered, "b1", "{title}");
            println!("{title}:");
            upload(lab, balancer, &service, 200_000, 1_500 - tunnel.overhead(server));
        }
    }
}

/// Probes by the last tunnel of each VIP find it right, and once its devices are down,
/// that.
fn probes(lab: &Lab, balancer: &Client, section: &str, family: usize) {
    let server = address(&lab.backends[0], family);
    let probe = |number: usize, size: Size| {
        let to = vip(number, PORT);
        let nat = balancer.instance().nat_of(&Service::tcp(to.ip(), to.port()), server);
        let nat = nat.expect("there is such a destination");
        let probe = Probe::tcp(PORT).size(size).timeout(Duration::from_secs(1));
        let report = lab.lb.enter(|| probe.run(&nat));
        (format!("{nat:?}: {:?}", report.steps), report.verdict)
    };
    for number in [0, 1] {
        for size in [Size::Small, Size::Full] {
            let (steps, verdict) = probe(number, size);
            assert!(verdict.is_ok(), "{verdict:?}, {steps}");
        }
    }
    let devices = "for i in xvs xvs4 xvs6; do ip link set $i down 2>/dev/null || true; done";
    lab.backends[0].namespace.sh(devices);
    for number in [0, 1] {
        let (steps, verdict) = probe(number, Size::Small);
        let right = matches!(verdict, Err(Failure::TunnelNotAnswered { .. }));
        assert!(right, "{section} is down: {verdict:?}, {steps}");
    }
}

/// What the sections of a tunnel's kind make is gone again.
fn tear_down(backend: &Namespace) {
    backend.sh("for i in xvs xvs4 xvs6; do ip link del $i 2>/dev/null || true; done
         for i in 5555 5556 6080; do
             ip fou del port $i 2>/dev/null || true
             ip fou del port $i -6 2>/dev/null || true
         done");
}

#[test]
fn the_kernels_tunnels_take_what_is_sent() {
    if !has_devices() {
        return;
    }
    let lab = Lab::new(1);
    let _web = Web::start_all(&lab);
    let backend = &lab.backends[0];
    manual::set_up_vips(backend);
    let balancer = balancer(&lab, options(&lab));
    for (family, outer) in ["IPv4", "IPv6"].into_iter().enumerate() {
        for section in ["IPIP", "GRE", "FOU", "GUE"] {
            let set_up = |section: &str| {
                backend.namespace.sh(&manual::commands(&format!("{section} over {outer}")));
            };
            // UDP is taken off first, and what is left is for the devices of IPIP.
            if ["FOU", "GUE"].contains(&section) {
                set_up("IPIP");
            }
            set_up(section);
            answers(&lab, &balancer, section, family);
            probes(&lab, &balancer, section, family);
            tear_down(&backend.namespace);
        }
    }
}
