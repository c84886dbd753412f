//! What can be seen of a data plane, in lines that can be compared.

use std::net::IpAddr;
use std::time::Duration;

use libbpf_rs::MapCore;
use libbpf_rs::MapFlags;
use xvs::Client;
use xvs::DestinationStatus;
use xvs::Protocol;
use xvs::Service;
use xvs::Stats;

use crate::common::dataplane::Dataplane;
use crate::common::dataplane::Port;
use crate::common::frame;
use crate::common::frame::ACK;
use crate::common::frame::Ip;
use crate::common::frame::SYN;

/// The services that there may be.
pub fn keys() -> impl Iterator<Item = Service> {
    let vips = [
        IpAddr::from([192, 168, 100, 1]),
        IpAddr::from([192, 168, 100, 2]),
        IpAddr::from([0xfd00, 0x100, 0, 0, 0, 0, 0, 1]),
        IpAddr::from([0xfd00, 0x100, 0, 0, 0, 0, 0, 2]),
    ];
    vips.into_iter().flat_map(|vip| {
        let tcp = [80, 443, 8000, 8080, 9000]
            .map(|port| Service::tcp(vip, port).transition(Duration::ZERO));
        tcp.into_iter().chain([Service::udp(vip, 53)])
    })
}

/// Frames of flows to a service, or of SYNs, which leave no flow.
fn frames(service: &Service, flags: u8) -> impl Iterator<Item = Vec<u8>> + use<> {
    let (vip, port) = (service.address, service.port);
    let protocol = service.protocol;
    (1..4u8).map(move |host| {
        let client = match vip {
            IpAddr::V4(_) => IpAddr::from([198, 51, 100, host]),
            IpAddr::V6(_) => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into()]),
        };
        let ports = (50_000 + u16::from(flags), port);
        match protocol {
            Protocol::Tcp => Ip::new(client, vip).tcp(ports, flags, b"data"),
            _ => Ip::new(client, vip).udp(ports, b"data"),
        }
    })
}

/// The first packets of connections to all services.
pub fn firsts() -> impl Iterator<Item = Vec<u8>> {
    keys().filter(|key| key.protocol == Protocol::Tcp).flat_map(|key| frames(&key, SYN))
}

/// Packets of flows to all services.
pub fn laters() -> impl Iterator<Item = Vec<u8>> {
    keys().flat_map(|key| frames(&key, ACK))
}

/// What becomes of packets: the verdict, and the frame afterwards.
pub fn packets(dataplane: &Dataplane, frames: impl Iterator<Item = Vec<u8>>) -> Vec<String> {
    let run = |frame: Vec<u8>| {
        let (verdict, output) = dataplane.run(Port::Lb0, &frame);
        format!("{}\n  {verdict:?}\n{}", frame::hex(&frame), frame::hex(&output))
    };
    frames.map(run).collect()
}

/// What the API tells of what is wanted and comes of it, which follows from no more
/// than that.
pub fn wanted(client: &Client) -> Vec<String> {
    told(client, |_| Stats::default())
}

/// All that the API tells, but what is counted in the background.
pub fn everything(client: &Client) -> Vec<String> {
    let counted = |stats: &Stats| {
        let mut stats = *stats;
        (stats.active, stats.recent, stats.live) = (0, 0, 0);
        stats
    };
    let mut lines = told(client, counted);
    let info = client.info().expect("info");
    lines.push(format!("{:?}", counted(&info.stats)));
    for (service, destinations) in client.all().expect("services") {
        for destination in destinations {
            let address = destination.destination.address;
            let nat = client.nat_service(&service.service, address).expect("it is there");
            lines.push(format!("{} at {address}: {nat}", service.service));
        }
    }
    lines.push(format!("inherited: {:?}", client.inherited()));
    lines
}

fn told(client: &Client, counted: impl Fn(&Stats) -> Stats) -> Vec<String> {
    let info = client.info().expect("info");
    let mut lines = vec![
        format!("{:?}", client.config()),
        format!("{} services, {} destinations", info.services, info.destinations),
        format!("{:?}", client.instance().vlans().expect("VLANs")),
    ];
    for (mut service, destinations) in client.all().expect("services") {
        service.stats = counted(&service.stats);
        lines.push(format!("{service:?}"));
        for mut destination in destinations {
            destination.stats = counted(&destination.stats);
            // Times go by.
            destination.drain = None;
            if destination.status != DestinationStatus::Reachable {
                // The last way stays for flows.
                (destination.mac, destination.interface) = (None, None);
                (destination.source, destination.mtu) = (None, None);
            }
            lines.push(format!("{destination:?}"));
        }
    }
    for mut vip in client.vips().expect("VIPs") {
        vip.stats = counted(&vip.stats);
        lines.push(format!("{vip:?}"));
    }
    lines
}

/// The entries of hash maps, by which packets find what there is.
pub fn entries(dataplane: &Dataplane) -> Vec<String> {
    let entries = |name: &str| {
        let map = dataplane.map(name);
        let entry = |key: Vec<u8>| {
            let value = map.lookup(&key, MapFlags::ANY).expect("a lookup");
            format!("{name} {key:02x?}: {value:02x?}")
        };
        let mut entries: Vec<String> = map.keys().map(entry).collect();
        entries.sort();
        entries
    };
    ["service_ids", "vip_ids", "nats"].iter().flat_map(|name| entries(name)).collect()
}

/// Asserts that two states are the same; what differs is told.
pub fn same(what: &str, left: &[String], right: &[String]) {
    let only = |these: &[String], others: &[String], sign: &str| {
        let only = these.iter().filter(|line| !others.contains(line));
        only.map(|line| format!("{sign} {line}\n")).collect::<String>()
    };
    assert!(left == right, "{what}:\n{}{}", only(left, right, "-"), only(right, left, "+"));
}
