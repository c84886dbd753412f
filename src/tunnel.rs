//! How packets travel to a real server.

use std::fmt;
use std::net::IpAddr;

use crate::Error;
use crate::Result;

/// How packets travel from the balancer to a destination.
///
/// Through a tunnel the whole IP packet travels inside another one, from an
/// address of the balancer to the server's own, so the server can be anywhere.
/// Both can be of either family, whatever the virtual address's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tunnel {
    /// Layer 2: the packet is sent unchanged to the server's MAC address, so
    /// the server must be in one of the balancer's VLANs.
    #[default]
    None,
    /// IP in IP, of any two families (RFC 2003, RFC 2473, RFC 4213).
    Ipip,
    /// Generic Routing Encapsulation without optional fields (RFC 2784,
    /// RFC 7676).
    Gre,
    /// Foo over UDP: the IP packet behind a UDP header. One port is for
    /// packets of one family.
    Fou(Udp),
    /// Generic UDP Encapsulation, version 0 (draft-ietf-intarea-gue-09).
    Gue(Udp),
}

/// The UDP header of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Udp {
    /// The port that the server takes the tunnel's packets on, 1 to 65,535.
    pub port: u16,
    /// Whether datagrams have a checksum. `None`, the default: over IPv6, and
    /// not over IPv4.
    ///
    /// It follows from the checksum inside, so packets that have none (fragments,
    /// UDP without a checksum, IPv6 with extension headers) go without, which
    /// RFC 6935 allows tunnels over IPv6 too.
    pub checksum: Option<bool>,
}

impl Tunnel {
    /// Foo over UDP to a port.
    pub const fn fou(port: u16) -> Self {
        Self::Fou(Udp { port, checksum: None })
    }

    /// Generic UDP Encapsulation to a port.
    pub const fn gue(port: u16) -> Self {
        Self::Gue(Udp { port, checksum: None })
    }

    /// Sets whether UDP datagrams have a checksum. Other tunnels have none.
    pub const fn checksum(mut self, checksum: bool) -> Self {
        if let Self::Fou(udp) | Self::Gue(udp) = &mut self {
            udp.checksum = Some(checksum);
        }
        self
    }

    /// The UDP header, if it has one.
    pub const fn udp(self) -> Option<Udp> {
        match self {
            Self::Fou(udp) | Self::Gue(udp) => Some(udp),
            Self::None | Self::Ipip | Self::Gre => None,
        }
    }

    /// The octets that a tunnel to a server puts in front of a packet.
    pub const fn overhead(self, server: IpAddr) -> u32 {
        let ip = if server.is_ipv4() { 20 } else { 40 };
        match self {
            Self::None => 0,
            Self::Ipip => ip,
            Self::Gre => ip + 4,
            Self::Fou(_) => ip + 8,
            Self::Gue(_) => ip + 12,
        }
    }

    /// The protocol of the outer IP header of packets to a virtual address (IANA).
    pub(crate) const fn protocol(self, vip: IpAddr) -> Option<u8> {
        match self {
            Self::None => None,
            Self::Ipip if vip.is_ipv4() => Some(4),
            Self::Ipip => Some(41),
            Self::Gre => Some(47),
            Self::Fou(_) | Self::Gue(_) => Some(17),
        }
    }

    /// Checks the port.
    pub(crate) fn validate(self, server: IpAddr) -> Result<()> {
        match self.udp() {
            Some(Udp { port: 0, .. }) => {
                Err(Error::InvalidTunnelPort { address: server, tunnel: self.name() })
            }
            _ => Ok(()),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Ipip => "ipip",
            Self::Gre => "gre",
            Self::Fou(_) => "fou",
            Self::Gue(_) => "gue",
        }
    }
}

/// `none`, `ipip`, `gre`, `fou` or `gue`, the last two with their port: `gue:6080`.
impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.udp() {
            Some(udp) => f.pad(&format!("{}:{}", self.name(), udp.port)),
            None => f.pad(self.name()),
        }
    }
}
