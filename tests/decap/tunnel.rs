//! Packets in tunnels, built from the inside out with etherparse.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use crate::frame::*;

/// Where balancers send from.
pub const BALANCERS: [IpAddr; 2] = both([10, 1, 2, 1], [0xfd00, 1, 2, 0, 0, 0, 0, 1]);
/// Where they send to.
pub const LOCAL: [IpAddr; 2] = both([10, 1, 2, 3], [0xfd00, 1, 2, 0, 0, 0, 0, 3]);
/// Whom clients send to.
pub const VIPS: [IpAddr; 2] = both([192, 168, 100, 1], [0xfd00, 0x100, 0, 0, 0, 0, 0, 1]);
/// Clients.
pub const CLIENTS: [IpAddr; 2] = both([10, 7, 7, 7], [0xfd00, 7, 0, 0, 0, 0, 0, 7]);
/// Who is nobody of them.
pub const STRANGERS: [IpAddr; 2] = both([10, 9, 9, 9], [0xfd00, 9, 0, 0, 0, 0, 0, 9]);

pub const FOU: u16 = 5555;
pub const GUE: u16 = 6080;

/// Protocol numbers (IANA).
pub const IPIP: u8 = 4;
pub const IPV6: u8 = 41;
pub const GRE: u8 = 47;

const fn both(v4: [u8; 4], v6: [u16; 8]) -> [IpAddr; 2] {
    let [a, b, c, d, e, f, g, h] = v6;
    let v4 = Ipv4Addr::new(v4[0], v4[1], v4[2], v4[3]);
    [IpAddr::V4(v4), IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h))]
}

/// An IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The one of a pair.
    pub const fn of<T: Copy>(self, pair: [T; 2]) -> T {
        pair[self as usize]
    }

    /// Octets of its header.
    pub const fn header(self) -> usize {
        self.of([20, 40])
    }
}

/// A kind of tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ipip,
    Gre,
    Fou,
    Gue,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Ipip, Self::Gre, Self::Fou, Self::Gue];

    /// What is counted.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Ipip => "ipip",
            Self::Gre => "gre",
            Self::Fou => "fou",
            Self::Gue => "gue",
        }
    }

    /// Whether it is in UDP.
    pub const fn is_udp(self) -> bool {
        matches!(self, Self::Fou | Self::Gue)
    }
}

/// A tunnel of a kind over a family, from a balancer to the host.
#[derive(Clone)]
pub struct Tunnel {
    pub kind: Kind,
    pub outer: Family,
    /// The outer packet to be.
    pub ip: Ip,
    /// What is between the outer IP or UDP header and the inner packet, if it is not
    /// the kind's usual header.
    pub header: Option<Vec<u8>>,
    /// Whether the UDP header has a checksum.
    pub checksum: bool,
}

impl Tunnel {
    pub fn new(kind: Kind, outer: Family) -> Self {
        let ip = Ip::new(outer.of(BALANCERS), outer.of(LOCAL));
        Self { kind, outer, ip, header: None, checksum: true }
    }

    pub fn ip(mut self, ip: Ip) -> Self {
        self.ip = ip;
        self
    }

    pub fn header(mut self, header: &[u8]) -> Self {
        self.header = Some(header.to_vec());
        self
    }

    pub const fn without_checksum(mut self) -> Self {
        self.checksum = false;
        self
    }

    /// Every kind over each family.
    pub fn all() -> Vec<Self> {
        let over = |kind| Family::ALL.map(|outer| Self::new(kind, outer));
        Kind::ALL.into_iter().flat_map(over).collect()
    }

    /// The name for messages.
    pub fn name(&self) -> String {
        let checksum = if self.kind.is_udp() && !self.checksum { ", no checksum" } else { "" };
        format!("{:?} over {:?}{checksum}", self.kind, self.outer)
    }

    /// The frame with the packet of another frame in it.
    pub fn wrap(&self, inner: &[u8]) -> Vec<u8> {
        self.wrap_packet(inner_family(inner), &inner[ETHERNET..])
    }

    /// The frame with these octets as a packet of a family.
    pub fn wrap_packet(&self, inner: Family, packet: &[u8]) -> Vec<u8> {
        let protocol = inner.of([IPIP, IPV6]);
        let usual = match self.kind {
            Kind::Ipip | Kind::Fou => vec![],
            Kind::Gre => inner.of([[0, 0, 0x08, 0x00], [0, 0, 0x86, 0xdd]]).to_vec(),
            Kind::Gue => vec![0, protocol, 0, 0],
        };
        let header = self.header.clone().unwrap_or(usual);
        let payload = [&header[..], packet].concat();
        match self.kind {
            Kind::Ipip => self.ip.raw(protocol, &payload),
            Kind::Gre => self.ip.raw(GRE, &payload),
            Kind::Fou | Kind::Gue => self.ip.raw(UDP, &self.datagram(&payload)),
        }
    }

    /// A UDP datagram to the kind's port.
    pub fn datagram(&self, payload: &[u8]) -> Vec<u8> {
        let port = if self.kind == Kind::Fou { FOU } else { GUE };
        let mut datagram = self.ip.udp_datagram((50_000, port), payload);
        if !self.checksum {
            datagram[6..8].fill(0);
        }
        datagram
    }

    /// Where in the frame the inner packet begins.
    pub fn inner_offset(&self) -> usize {
        let usual = match self.kind {
            Kind::Ipip => 0,
            Kind::Gre => 4,
            Kind::Fou => 8,
            Kind::Gue => 12,
        };
        ETHERNET + self.outer.header() + usual
    }

    /// Where in the frame all is there that tells a tunnel of this kind.
    pub fn known_from(&self) -> usize {
        ETHERNET + self.outer.header() + if self.kind.is_udp() { 8 } else { 0 }
    }
}

/// The family of a frame's packet.
pub fn inner_family(frame: &[u8]) -> Family {
    if frame[12..14] == [0x08, 0x00] { Family::V4 } else { Family::V6 }
}

/// A client's packet to a VIP, to be.
pub fn client(family: Family) -> Ip {
    Ip::new(family.of(CLIENTS), family.of(VIPS))
}
