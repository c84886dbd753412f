//! Probes by NAT addresses: real sockets on the balancer's host, real servers.

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
#[path = "common/wire.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod wire;
#[path = "common/xdp.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod xdp;

use std::net::SocketAddr;

use lab::Lab;
use lab::VIPS;
use lab::ip;
use lab::wait;
use server::Connection;
use server::PATIENCE;
use xvs::Destination;
use xvs::Service;

#[test]
fn a_probe_reaches_the_server_it_is_for() {
    let lab = Lab::new(3);
    let balancer = lab.balancer();
    for (number, vip) in VIPS.iter().enumerate().take(2) {
        let service = Service::tcp(ip(vip), 80);
        let addresses = lab.backends.iter().map(|b| [b.v4, b.v6][number]);
        let destinations: Vec<Destination> = addresses.clone().map(Destination::new).collect();
        balancer.set_service(&service, &destinations).expect("the service is made");
        wait("usable destinations", PATIENCE, || {
            (balancer.service(&service).expect("it is there").usable == 3).then_some(())
        });
        for (backend, address) in lab.backends.iter().zip(addresses) {
            let nat = balancer.nat(ip(vip), address).expect("a NAT address");
            let to = SocketAddr::new(nat, 80);
            let connection = lab.lb.enter(|| Connection::open(to, PATIENCE));
            let mut connection = connection.unwrap_or_else(|error| {
                panic!("{to}: {error}: {:?}", balancer.info().expect("info").stats.reasons)
            });
            assert_eq!(connection.server, backend.name, "{to}");
            connection.exchange(&[7; 5_000]).expect("it goes on");
            eprintln!(
                "{to} {}",
                lab.lb.enter(|| netns::sh(&format!("ping -c1 -W2 {nat} | tail -2")))
            );
        }
    }
    eprintln!("{:?}", balancer.info().expect("info").stats.reasons);
}
