//! The services that the cases are about, of one family or the other.

use std::net::IpAddr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering;

use xvs::Destination;
use xvs::Protocol;
use xvs::Service;

use super::case::Case;
use super::case::On;
use super::case::Server;
use crate::common::dataplane::Dataplane;
use crate::common::dataplane::FlowKey;
use crate::common::dataplane::Port;
use crate::common::frame::Ip;
use crate::common::frame::ROUTER;

/// TCP, one server on lb0.
pub const WEB: u16 = 80;
/// UDP, one server on lb0.
pub const DNS: u16 = 53;
/// TCP and UDP, one server on lb1, whose MTU is smaller.
pub const FAR: u16 = 81;
/// TCP, no servers.
pub const EMPTY: u16 = 82;
/// TCP, one server, disabled.
pub const DISABLED: u16 = 83;
/// TCP, one server without a neighbour entry.
pub const UNRESOLVED: u16 = 84;
/// TCP, one server of the other family.
pub const MIXED: u16 = 85;
/// TCP, one server; idle 10 s, closing 5 s.
pub const HASTY: u16 = 86;
/// No service.
pub const CLOSED: u16 = 9;

/// What the cases of a family have in common.
pub struct World {
    /// The virtual address.
    pub vip: IpAddr,
    /// The client's address.
    pub client: IpAddr,
    /// The address of a router on the way, where ICMP errors come from.
    pub router: IpAddr,
    /// An address that is none of ours.
    pub stranger: IpAddr,
    next: AtomicU16,
}

impl World {
    /// Of IPv4.
    pub fn v4() -> Self {
        Self {
            vip: IpAddr::from([192, 168, 100, 1]),
            client: IpAddr::from([198, 51, 100, 7]),
            router: IpAddr::from([203, 0, 113, 9]),
            stranger: IpAddr::from([192, 168, 100, 3]),
            next: AtomicU16::new(20_000),
        }
    }

    /// Of IPv6.
    pub fn v6() -> Self {
        let address = |text: &str| IpAddr::V6(text.parse().expect("an address"));
        Self {
            vip: address("2001:db8:100::1"),
            client: address("2001:db8:7::7"),
            router: address("2001:db8:ff::9"),
            stranger: address("2001:db8:100::3"),
            next: AtomicU16::new(20_000),
        }
    }

    /// Whether this is IPv4.
    pub const fn is_v4(&self) -> bool {
        self.vip.is_ipv4()
    }

    /// A value of IPv4 or of IPv6.
    pub fn either<T>(&self, v4: T, v6: T) -> T {
        if self.is_v4() { v4 } else { v6 }
    }

    /// A number that no other case of the family has: a client's port or a
    /// fragment's identification.
    pub fn unique(&self) -> u16 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A real server's address behind a port.
    pub fn server(&self, port: Port, host: u8) -> IpAddr {
        let net = if port == Port::Lb0 { 2 } else { 3 };
        if self.is_v4() {
            IpAddr::from([10, 1, net, host])
        } else {
            IpAddr::from([0xfd00, 1, u16::from(net), 0, 0, 0, 0, u16::from(host)])
        }
    }

    /// A TCP service.
    pub fn tcp(&self, port: u16) -> Service {
        // What goes by the hash goes by the present table, however long it stands.
        let service = Service::tcp(self.vip, port).transition(std::time::Duration::ZERO);
        if port != HASTY {
            return service;
        }
        let seconds = std::time::Duration::from_secs;
        service.idle(seconds(10)).closing(seconds(5))
    }

    /// A UDP service.
    pub fn udp(&self, port: u16) -> Service {
        Service::udp(self.vip, port)
    }

    /// The server of the service on [`WEB`].
    pub fn web(&self) -> Server {
        Server::new(&self.tcp(WEB), self.server(Port::Lb0, 3))
    }

    /// The server of the service on [`DNS`].
    pub fn dns(&self) -> Server {
        Server::new(&self.udp(DNS), self.server(Port::Lb0, 3))
    }

    /// The server of the TCP service on [`FAR`].
    pub fn far(&self) -> Server {
        Server::new(&self.tcp(FAR), self.server(Port::Lb1, 3))
    }

    /// The virtual address, whose counters tell of a frame.
    pub const fn on_vip(&self) -> On {
        On::Vip(self.vip)
    }

    /// A TCP service, whose counters tell of a frame.
    pub fn on_tcp(&self, port: u16) -> On {
        On::Service(self.tcp(port).key())
    }

    /// A packet from the client to the VIP.
    pub fn ip(&self) -> Ip {
        Ip::new(self.client, self.vip)
    }

    /// A packet from the balancer's port back to the client.
    pub fn reply(&self, port: Port) -> Ip {
        Ip::new(self.vip, self.client).macs(port.mac(), ROUTER)
    }

    /// A TCP packet of a flow that no other case has.
    pub fn segment(&self, port: u16, flags: u8) -> Vec<u8> {
        self.ip().tcp((self.unique(), port), flags, b"payload")
    }

    /// The key of a TCP flow of the client.
    pub fn key(&self, source: u16, port: u16) -> FlowKey {
        self.key_of(source, port, Protocol::Tcp)
    }

    /// The key of a UDP flow of the client.
    pub fn udp_key(&self, source: u16, port: u16) -> FlowKey {
        self.key_of(source, port, Protocol::Udp)
    }

    fn key_of(&self, source: u16, port: u16, protocol: Protocol) -> FlowKey {
        let client = SocketAddr::new(self.client, source);
        FlowKey::new(client, SocketAddr::new(self.vip, port), protocol)
    }

    /// A case named after the family.
    pub fn case(&self, name: &str, frame: Vec<u8>) -> Case {
        Case::new(format!("{}: {name}", self.either("IPv4", "IPv6")), frame)
    }

    /// Creates the services.
    pub fn set_up(&self, dataplane: &Dataplane) {
        let near = Destination::new(self.server(Port::Lb0, 3));
        let far = Destination::new(self.server(Port::Lb1, 3));
        let other = if self.is_v4() {
            IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 2, 0, 0, 0, 0, 3))
        } else {
            IpAddr::from([10, 1, 2, 3])
        };
        let lost = Destination::new(self.server(Port::Lb0, 99));
        dataplane.serve(&self.tcp(WEB), std::slice::from_ref(&near));
        dataplane.serve(&self.udp(DNS), std::slice::from_ref(&near));
        dataplane.serve(&self.tcp(FAR), std::slice::from_ref(&far));
        dataplane.serve(&self.udp(FAR), std::slice::from_ref(&far));
        dataplane.serve(&self.tcp(EMPTY), &[]);
        dataplane.serve(&self.tcp(DISABLED), &[near.clone().disabled(true)]);
        dataplane.client.set_service(&self.tcp(UNRESOLVED), &[lost]).expect("the service fits");
        dataplane.serve(&self.tcp(MIXED), &[Destination::new(other)]);
        dataplane.serve(&self.tcp(HASTY), &[near]);
    }
}
