//! Balancers that share flows: what one tells, another takes, and no connection
//! ends with the balancer that it went by.

mod common;
#[path = "common/lab.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod lab;
#[path = "common/server.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod server;
#[path = "common/talk.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod talk;
mod share {
    pub mod failover;
    pub mod link;
    pub mod news;
    pub mod written;
}

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::time::Duration;

use common::dataplane::Dataplane;
use common::dataplane::FlowKey;
use common::dataplane::Port;
use common::dataplane::Verdict;
use common::frame::Ip;
use common::frame::destination_mac;
use common::netns;
use common::xdp;
use xvs::Destination;
use xvs::FlowReader;
use xvs::FlowRecord;
use xvs::Protocol;
use xvs::Service;

const VIPS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 168, 100, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 1)),
];

/// Client number `n` of the family of a virtual address.
fn client(vip: IpAddr, n: u32) -> SocketAddr {
    let address = match vip {
        IpAddr::V4(_) => IpAddr::from((0x0a40_0000 + n / 100).to_be_bytes()),
        IpAddr::V6(_) => {
            let host = n / 100;
            let [high, low] = [(host >> 16) as u16, host as u16];
            IpAddr::from([0x2001, 0xdb8, 7, 0, 0, 0, high, low])
        }
    };
    SocketAddr::new(address, 40_000 + (n % 100) as u16)
}

/// Real servers by the last part of their address, of the family of the VIP.
fn server(vip: IpAddr, host: u8) -> IpAddr {
    match vip {
        IpAddr::V4(_) => [10, 1, 2, host].into(),
        IpAddr::V6(_) => [0xfd00, 1, 2, 0, 0, 0, 0, u16::from(host)].into(),
    }
}

fn servers(vip: IpAddr, hosts: impl IntoIterator<Item = u8>) -> Vec<Destination> {
    hosts.into_iter().map(|host| Destination::new(server(vip, host))).collect()
}

/// Sends a TCP packet and tells the server's MAC address it went to.
fn send(dataplane: &Dataplane, client: SocketAddr, service: &Service, flags: u8) -> [u8; 6] {
    let frame =
        Ip::new(client.ip(), service.address).tcp((client.port(), service.port), flags, b"");
    let (verdict, output) = dataplane.run(Port::Lb0, &frame);
    assert!(matches!(verdict, Verdict::Tx | Verdict::Redirect), "{client} {service}: {verdict:?}");
    destination_mac(&output)
}

fn key(client: SocketAddr, service: &Service) -> FlowKey {
    FlowKey::new(client, SocketAddr::new(service.address, service.port), Protocol::Tcp)
}

/// What there is to read now.
fn read(reader: &mut FlowReader) -> Vec<FlowRecord> {
    let mut all = Vec::new();
    loop {
        let some = reader.read(Duration::ZERO).expect("the ring can be read");
        if some.is_empty() {
            return all;
        }
        all.extend(some);
    }
}
