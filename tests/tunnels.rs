//! Real servers behind tunnels and routers: real sockets in network namespaces,
//! through a balancer, to servers that take the packets out by our program or by
//! the kernel's own devices.

#[path = "common/following.rs"]
mod following;
#[path = "common/frame.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod frame;
#[path = "common/lab.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod lab;
#[path = "common/netns.rs"]
mod netns;
#[path = "common/server.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod server;
#[path = "common/sniffer.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod sniffer;
#[path = "common/wire.rs"]
mod wire;
#[path = "common/xdp.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod xdp;
#[path = "common/xvsctl.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod xvsctl;

#[path = "tunnels/decap.rs"]
mod decap;
#[path = "tunnels/destinations.rs"]
mod destinations;
#[path = "tunnels/errors.rs"]
mod errors;
#[path = "tunnels/kernel.rs"]
mod kernel;
#[path = "tunnels/manual.rs"]
mod manual;
#[path = "tunnels/paths.rs"]
mod paths;
#[path = "tunnels/routes.rs"]
mod routes;
#[path = "tunnels/upload.rs"]
mod upload;
#[path = "tunnels/web.rs"]
mod web;

use std::net::IpAddr;

use lab::Backend;
use lab::Lab;
use lab::VIPS;
use lab::ip;
use lab::wait;
use server::PATIENCE;
use xvs::Client;
use xvs::Decap;
use xvs::DecapOptions;
use xvs::Destination;
use xvs::Mode;
use xvs::Options;
use xvs::Service;
use xvs::Tunnel;

/// The ports of docs/backends.md: FOU has one for each family inside.
const FOU: [u16; 2] = [5555, 5556];
const GUE: u16 = 6080;

/// The balancer's addresses.
const BALANCER: [&str; 2] = ["10.1.2.1", "fd00:1:2::1"];

/// Options for a balancer here. One client does to it what many do elsewhere.
fn options(lab: &Lab) -> Options {
    lab.options().icmp_source_rate(1_000)
}

/// A balancer with these options.
fn balancer(lab: &Lab, options: Options) -> Client {
    lab.balancer_with(options, &["eth0"]).expect("the balancer starts")
}

/// The backend's address of the family by its place in [`VIPS`].
fn address(backend: &Backend, family: usize) -> IpAddr {
    [backend.v4, backend.v6][family]
}

/// Our program on every backend.
fn take_out(lab: &Lab, mode: Mode) -> Vec<Decap> {
    let mut options = DecapOptions::new().fou(FOU[0]).gue(GUE).mode(mode);
    options.balancers = BALANCER.map(ip).to_vec();
    options.vips = VIPS.map(ip).to_vec();
    let start = |backend: &Backend| {
        let options = options.clone();
        backend.namespace.enter(|| Decap::new(options, &["eth0"]).expect("it attaches"))
    };
    lab.backends.iter().map(start).collect()
}

/// Makes a service of these destinations, and waits until all are usable.
fn serve(balancer: &Client, service: &Service, destinations: &[Destination]) {
    balancer.set_service(service, destinations).expect("the service is made");
    wait(&format!("usable destinations of {service}"), PATIENCE, || {
        let usable = balancer.service(service).expect("the service is there").usable;
        (usable == destinations.len()).then_some(())
    });
}

/// Each kind of tunnel, those with UDP with and without a checksum.
fn all_tunnels(fou: u16) -> [Tunnel; 6] {
    let (fou, gue) = (Tunnel::fou(fou), Tunnel::gue(GUE));
    let [with, without] = [true, false];
    [
        Tunnel::Ipip,
        Tunnel::Gre,
        fou.checksum(without),
        fou.checksum(with),
        gue.checksum(without),
        gue.checksum(with),
    ]
}

/// How a tunnel is told of in messages.
fn title(tunnel: Tunnel, vip: IpAddr, server: IpAddr) -> String {
    let checksum = tunnel.udp().and_then(|udp| udp.checksum);
    let checksum = checksum.map(|sum| if sum { " with a checksum" } else { " without one" });
    format!("{tunnel}{} for {vip} to {server}", checksum.unwrap_or_default())
}
