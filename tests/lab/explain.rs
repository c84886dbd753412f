//! What `Instance::explain` tells is what the wire shows.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::UdpSocket;

use xvs::Destination;
use xvs::Explanation;
use xvs::Instance;
use xvs::Packet;
use xvs::Protocol;
use xvs::Service;
use xvs::Verdict;

use super::web::serve;
use super::web::usable;
use crate::lab::CLIENTS;
use crate::lab::Lab;
use crate::lab::TCP;
use crate::lab::UDP;
use crate::lab::ip;
use crate::lab::vip;
use crate::server::Connection;
use crate::server::PATIENCE;
use crate::server::ask;
use crate::server::udp_from;

/// How many clients of each service: 8 services make 200 tuples.
const PER_SERVICE: u16 = 25;

struct Tuple {
    protocol: Protocol,
    source: SocketAddr,
    to: SocketAddr,
}

impl Tuple {
    fn explain(&self, instance: &Instance, syn: bool) -> Explanation {
        let packet = Packet {
            protocol: self.protocol,
            source: self.source.ip(),
            source_port: Some(self.source.port()),
            destination: self.to.ip(),
            destination_port: self.to.port(),
            syn,
        };
        instance.explain(&packet).expect("the instance runs")
    }
}

/// A socket that keeps its flow, and who is at its other end.
enum Talk {
    Tcp(Connection),
    Udp(UdpSocket, SocketAddr),
}

impl Talk {
    fn begin(tuple: &Tuple) -> Self {
        match tuple.protocol {
            Protocol::Tcp => {
                Self::Tcp(Connection::open_from(tuple.source, tuple.to).expect("a server answers"))
            }
            _ => Self::Udp(udp_from(tuple.source.ip(), tuple.source.port()), tuple.to),
        }
    }

    fn server(&mut self) -> String {
        match self {
            Self::Tcp(connection) => {
                connection.exchange(b"still there?").expect("the connection goes on");
                connection.server.clone()
            }
            Self::Udp(socket, to) => ask(socket, *to, PATIENCE).expect("a server answers"),
        }
    }
}

fn services() -> Vec<Service> {
    let mut all = Vec::new();
    for number in 0..4 {
        let address = vip(number, 0).ip();
        // The second VIP of each family is sticky.
        let sticky = number >= 2;
        all.push(Service::tcp(address, TCP[0]).sticky(sticky));
        all.push(Service::udp(address, UDP).sticky(sticky));
    }
    all
}

fn tuples(services: &[Service]) -> Vec<Tuple> {
    let mut all = Vec::new();
    for service in services {
        for number in 0..PER_SERVICE {
            let host = 100 + number % CLIENTS;
            let net = if service.address.is_ipv4() { "10.1.2." } else { "fd00:1:2::" };
            all.push(Tuple {
                protocol: service.protocol,
                source: SocketAddr::new(ip(&format!("{net}{host}")), 20_000 + all.len() as u16),
                to: SocketAddr::new(service.address, service.port),
            });
        }
    }
    all
}

fn name_of(lab: &Lab, explanation: &Explanation) -> String {
    let destination = explanation.destination.as_ref().expect("it is forwarded");
    let address: IpAddr = destination.destination.address;
    let backend = lab.backends.iter().find(|b| b.v4 == address || b.v6 == address);
    backend.expect("it is one of the backends").name.clone()
}

#[test]
fn explanations_are_what_the_wire_shows() {
    let lab = Lab::new(4);
    let balancer = lab.balancer_with(lab.options().hash_key(*b"a key of 16 byte"), &["eth0"]);
    let balancer = balancer.expect("it starts");
    let services = services();
    for service in &services {
        serve(&lab, &balancer, service);
    }
    let instance = Instance::open(lab.bpffs(), "lab").expect("it is pinned");
    let tuples = tuples(&services);
    assert_eq!(tuples.len(), 200);

    let mut talks: Vec<Talk> = Vec::new();
    let mut servers: Vec<String> = Vec::new();
    for tuple in &tuples {
        let syn = tuple.protocol == Protocol::Tcp;
        let told = tuple.explain(&instance, syn);
        assert_eq!(told.verdict, Verdict::Forward);
        assert_eq!(told.reason, if syn { "forwarded_syn" } else { "forwarded_new" });
        assert!(told.flow.is_none() && told.table_index.is_some(), "the hash decides: {told:?}");
        let mut talk = lab.client.enter(|| Talk::begin(tuple));
        let server = talk.server();
        assert_eq!(name_of(&lab, &told), server, "{} -> {}", tuple.source, tuple.to);
        assert_eq!(talk.server(), server);
        talks.push(talk);
        servers.push(server);
    }

    // Now the table changes, and the flows decide.
    for service in &services {
        let b = &lab.backends[0];
        let real = if service.address.is_ipv4() { b.v4 } else { b.v6 };
        let b1 = Destination::new(real).disabled(true);
        balancer.update_destination(service, &b1).expect("b1 is disabled");
        usable(&balancer, service, 3);
    }
    let mut on_b1 = 0;
    for ((tuple, talk), server) in tuples.iter().zip(&mut talks).zip(&servers) {
        let told = tuple.explain(&instance, false);
        assert_eq!((told.verdict, told.reason), (Verdict::Forward, "forwarded_flow"));
        let flow = told.flow.as_ref().expect("there is one");
        assert_eq!(flow.source, tuple.source);
        assert_eq!(&name_of(&lab, &told), server);
        assert_eq!(&talk.server(), server);
        on_b1 += usize::from(server == "b1");
    }
    assert!(on_b1 > 0, "some flows are on the disabled server");
    println!("200 tuples as explained, {on_b1} of them on a server disabled since");

    // A tuple that nobody has used goes elsewhere.
    for tuple in &tuples {
        let fresh = Tuple {
            source: SocketAddr::new(tuple.source.ip(), tuple.source.port() + 1000),
            ..*tuple
        };
        let told = fresh.explain(&instance, tuple.protocol == Protocol::Tcp);
        assert_ne!(name_of(&lab, &told), "b1");
    }
}

#[test]
fn what_is_not_forwarded_is_explained() {
    let lab = Lab::new(1);
    let balancer = lab.balancer();
    let empty = Service::tcp(ip("192.168.100.1"), 81);
    balancer.create_service(&empty).expect("it is made");
    let instance = Instance::open(lab.bpffs(), "lab").expect("it is pinned");
    for (to, verdict, reason) in [
        ("192.168.100.1:81", Verdict::Drop, "no_destination"),
        ("192.168.100.1:82", Verdict::Drop, "no_service"),
        ("192.168.100.2:81", Verdict::Pass, "not_vip"),
        ("[fd00:100::1]:81", Verdict::Pass, "not_vip"),
    ] {
        let to: SocketAddr = to.parse().expect("a socket address");
        let source = if to.is_ipv4() { "10.1.2.100:1" } else { "[fd00:1:2::100]:1" };
        let source = source.parse().expect("a socket address");
        let told = Tuple { protocol: Protocol::Tcp, source, to }.explain(&instance, true);
        assert_eq!((told.verdict, told.reason), (verdict, reason), "{to}");
        assert!(told.destination.is_none());
    }
}
