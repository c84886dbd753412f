//! Servers behind tunnels, which take the packets out by our program.

use std::net::IpAddr;

use xvs::Client;
use xvs::Decap;
use xvs::DecapOptions;
use xvs::Destination;
use xvs::Mode;
use xvs::Service;
use xvs::Tunnel;

use super::lab::Backend;
use super::lab::Lab;
use super::lab::VIPS;
use super::lab::ip;
use super::lab::wait;
use super::server::PATIENCE;

/// The ports of docs/backends.md: FOU has one for each family inside.
pub const FOU: [u16; 2] = [5555, 5556];
/// The port of GUE there.
pub const GUE: u16 = 6080;

/// The balancer's addresses.
const BALANCER: [&str; 2] = ["10.1.2.1", "fd00:1:2::1"];

/// The backend's address of the family by its place in [`VIPS`].
pub fn address(backend: &Backend, family: usize) -> IpAddr {
    [backend.v4, backend.v6][family]
}

/// Our program on every backend.
pub fn take_out(lab: &Lab, mode: Mode) -> Vec<Decap> {
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
pub fn serve(balancer: &Client, service: &Service, destinations: &[Destination]) {
    balancer.set_service(service, destinations).expect("the service is made");
    wait(&format!("usable destinations of {service}"), PATIENCE, || {
        let usable = balancer.service(service).expect("the service is there").usable;
        (usable == destinations.len()).then_some(())
    });
}

/// Each kind of tunnel, those with UDP with and without a checksum.
pub fn all_tunnels(fou: u16) -> [Tunnel; 6] {
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
pub fn title(tunnel: Tunnel, vip: IpAddr, server: IpAddr) -> String {
    let checksum = tunnel.udp().and_then(|udp| udp.checksum);
    let checksum = checksum.map(|sum| if sum { " with a checksum" } else { " without one" });
    format!("{tunnel}{} for {vip} to {server}", checksum.unwrap_or_default())
}
