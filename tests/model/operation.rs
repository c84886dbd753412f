//! Random operations on the services and packets of random clients.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;

use xvs::Destination;
use xvs::Protocol;
use xvs::Service;
use xvs::ServiceKey;

use super::reference::Model;
use super::reference::Packet;
use super::reference::Shape;
use crate::common::frame::*;
use crate::common::random::Random;

/// The most destinations at once; fewer than there are slots.
const DESTINATIONS: usize = 48;

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Operation {
    CreateService(Service),
    UpdateService(Service),
    RemoveService(Service),
    SetService(Service, Vec<Destination>),
    CreateDestination(Service, Destination),
    UpdateDestination(Service, Destination),
    RemoveDestination(Service, Destination),
    /// The server's neighbour entry gets another MAC address.
    Move(IpAddr, [u8; 6]),
    AgeFlow((SocketAddr, ServiceKey), Duration),
    AgeFragments(Duration),
    Send(Packet),
    /// Packets of one service, each by a client that is seldom seen again.
    Flood(Vec<Packet>),
    /// The same packet so many times.
    Repeat(Packet, usize),
}

/// Draws one that makes sense now.
pub fn draw(random: &mut Random, model: &Model) -> Operation {
    let roll = random.below(100);
    let services = model.services();
    if services.len() < 3 || (roll < 3 && services.len() < 20) {
        let service = any_service(random);
        let service = settings(random, service);
        if model.has_service(&service.key()) {
            return Operation::UpdateService(service);
        }
        return Operation::CreateService(service);
    }
    let service = random.pick(&services).clone();
    let destinations = model.destinations(&service.key());
    let has_room = model.count() < DESTINATIONS;
    if destinations.is_empty() && has_room && random.chance(50) {
        return Operation::CreateDestination(service, destination(random));
    }
    match roll {
        0..4 if services.len() > 12 => Operation::RemoveService(service),
        0..5 => Operation::UpdateService(settings(random, service)),
        5..8 if has_room => {
            let mut some: Vec<Destination> = destinations;
            some.retain(|_| random.chance(60));
            for _ in 0..random.below(4) {
                let new = destination(random);
                if some.iter().all(|d| d.address != new.address) {
                    some.push(new);
                }
            }
            Operation::SetService(settings(random, service), some)
        }
        8..14 if has_room => {
            let new = destination(random);
            if destinations.iter().any(|d| d.address == new.address) {
                return Operation::UpdateDestination(service, new);
            }
            Operation::CreateDestination(service, new)
        }
        14..16 if !destinations.is_empty() => {
            Operation::RemoveDestination(service, random.pick(&destinations).clone())
        }
        16..19 if !destinations.is_empty() => {
            let mut changed = destination(random);
            changed.address = random.pick(&destinations).address;
            Operation::UpdateDestination(service, changed)
        }
        19..21 if !destinations.is_empty() => {
            let octets = random.octets(5);
            let mac = [0x02, octets[0], octets[1], octets[2], octets[3], octets[4]];
            Operation::Move(random.pick(&destinations).address, mac)
        }
        21..26 if !model.flows().is_empty() => {
            let seconds = *random.pick(&[3, 20, 45, 80, 150, 3000, 8000]);
            Operation::AgeFlow(*random.pick(&model.flows()), Duration::from_secs(seconds))
        }
        26 => Operation::AgeFragments(Duration::from_secs(*random.pick(&[3, 10, 20]))),
        27 if random.chance(30) => Operation::Flood(flood(random, &service.key())),
        27..30 => Operation::Repeat(one_of_flood(random, &service.key()), 100),
        _ => Operation::Send(packet(random, model, &service)),
    }
}

fn flood(random: &mut Random, service: &ServiceKey) -> Vec<Packet> {
    (0..60).map(|_| one_of_flood(random, service)).collect()
}

/// A packet by a client that is seldom seen again.
fn one_of_flood(random: &mut Random, service: &ServiceKey) -> Packet {
    let (high, low) = (random.octet(), random.octet());
    let address = match service.address.is_ipv4() {
        true => IpAddr::from([198, 18, high, low]),
        false => IpAddr::from([0x2001, 0xdb8, 8, 0, 0, 0, high.into(), low.into()]),
    };
    let client = SocketAddr::new(address, 50_000);
    let flags = if service.protocol == Protocol::Tcp { ACK } else { 0 };
    Packet::Transport { client, service: *service, flags, ttl: 64, shape: Shape::Whole }
}

fn any_service(random: &mut Random) -> Service {
    let number = random.below(3) as u8 + 1;
    let vip = match random.chance(50) {
        true => IpAddr::from([192, 168, 100, number]),
        false => IpAddr::from([0x2001, 0xdb8, 0x100, 0, 0, 0, 0, u16::from(number)]),
    };
    let port = *random.pick(&[53, 80, 443, 8000]);
    match random.chance(65) {
        // However long a table stands, the model knows no other.
        true => Service::tcp(vip, port).transition(Duration::ZERO),
        false => Service::udp(vip, port),
    }
}

fn settings(random: &mut Random, service: Service) -> Service {
    let idle = *random.pick(&[30, 120, 7200]);
    let closing = *random.pick(&[10, 60]);
    let seconds = Duration::from_secs;
    let new_flows = *random.pick(&[1, 30, 10_000]);
    service
        .sticky(random.chance(30))
        .idle(seconds(idle))
        .closing(seconds(closing))
        .new_flows(new_flows)
}

fn destination(random: &mut Random) -> Destination {
    let net = 2 + random.below(2) as u8;
    let host = 3 + random.below(8) as u8;
    let address = match random.chance(50) {
        true => IpAddr::from([10, 1, net, host]),
        false => IpAddr::from([0xfd00, 1, u16::from(net), 0, 0, 0, 0, u16::from(host)]),
    };
    let weight = *random.pick(&[1, 1, 1, 2, 3, 10, 100, 65_535]);
    Destination::new(address).weight(weight).disabled(random.chance(20))
}

fn client(random: &mut Random, v4: bool) -> SocketAddr {
    let number = 1 + random.below(6) as u8;
    let address = match v4 {
        true => IpAddr::from([198, 51, 100, number]),
        false => IpAddr::from([0x2001, 0xdb8, 7, 0, 0, 0, 0, u16::from(number)]),
    };
    SocketAddr::new(address, 50_000 + random.below(6) as u16)
}

fn packet(random: &mut Random, model: &Model, service: &Service) -> Packet {
    let mut service = service.key();
    let mut client = client(random, service.address.is_ipv4());
    match random.below(20) {
        0 => service = any_service(random).key(),
        1..11 => {
            let of_service = |flow: &&(SocketAddr, ServiceKey)| flow.1 == service;
            let flows: Vec<_> = model.flows().iter().filter(of_service).copied().collect();
            if !flows.is_empty() {
                client = random.pick(&flows).0;
            }
        }
        // A flow of a service that may be gone.
        11 if !model.flows().is_empty() => (client, service) = *random.pick(&model.flows()),
        _ => {}
    }
    if client.is_ipv4() != service.address.is_ipv4() {
        client = self::client(random, service.address.is_ipv4());
    }
    let ttl = if random.chance(3) { random.below(2) as u8 } else { 64 };
    let id = random.below(40) as u32;
    let shape = match random.below(20) {
        0 | 7 | 8 => Shape::First(id),
        1 => Shape::Later(id),
        2 | 3 if !model.firsts().is_empty() => {
            let (of, address, id) = *random.pick(&model.firsts());
            service = of;
            client.set_ip(address);
            Shape::Later(id)
        }
        4 | 5 => {
            return Packet::Error { client, service, ttl };
        }
        6 if random.chance(30) => {
            return Packet::Echo { client: client.ip(), vip: service.address };
        }
        _ => Shape::Whole,
    };
    let flags = match service.protocol {
        Protocol::Tcp => match random.below(12) {
            0..3 => SYN,
            3 => FIN | ACK,
            4 => RST,
            5 => random.octet(),
            6 => SYN | ACK,
            _ => ACK,
        },
        _ => 0,
    };
    Packet::Transport { client, service, flags, ttl, shape }
}

/// The frame of a packet.
pub fn frame(packet: &Packet) -> Vec<u8> {
    match packet {
        Packet::Transport { client, service, flags, ttl, shape } => {
            let ip = Ip::new(client.ip(), service.address).ttl(*ttl);
            let ip = match shape {
                Shape::Whole => ip,
                Shape::First(id) => ip.fragment(*id, 0, true),
                Shape::Later(id) => {
                    return ip.fragment(*id, 64, false).raw(service.protocol.number(), b"rest");
                }
            };
            let ports = (client.port(), service.port);
            match service.protocol {
                Protocol::Tcp => ip.tcp(ports, *flags, b"data"),
                _ => ip.udp(ports, b"data"),
            }
        }
        Packet::Error { client, service, ttl } => {
            let quoted = Ip::new(service.address, client.ip());
            let ports = (service.port, client.port());
            let quoted = match service.protocol {
                Protocol::Tcp => quoted.tcp(ports, ACK, b"answer"),
                _ => quoted.udp(ports, b"answer"),
            };
            let (router, kind) = match service.address.is_ipv4() {
                true => (IpAddr::from([203, 0, 113, 9]), 3),
                false => (IpAddr::from([0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 9]), 1),
            };
            let ip = Ip::new(router, service.address).ttl(*ttl);
            ip.icmp(kind, 1, [0; 4], &quoted[ETHERNET..])
        }
        Packet::Echo { client, vip } => {
            let kind = if vip.is_ipv4() { 8 } else { 128 };
            Ip::new(*client, *vip).icmp(kind, 0, [0, 1, 0, 2], b"ping")
        }
    }
}
