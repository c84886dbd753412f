//! What the user wants balanced: services and their destinations.

use std::fmt;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use crate::Error;
use crate::Result;
use crate::Tunnel;
use crate::pathmtu::Outer;

/// The largest weight of a destination.
pub const MAX_WEIGHT: u32 = 65_535;

/// The longest idle time of a flow: 30 days.
pub const MAX_IDLE: Duration = Duration::from_secs(30 * 86_400);

/// The most flows that a CPU may store per second for one service.
pub const MAX_NEW_FLOWS: u32 = 10_000_000;

/// A transport protocol that services are balanced for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// Transmission Control Protocol (RFC 9293).
    Tcp,
    /// User Datagram Protocol (RFC 768).
    Udp,
}

impl Protocol {
    /// The number of the protocol in the IP header, as assigned by IANA.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// The protocol of an IANA number, if services can be balanced for it.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl FromStr for Protocol {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(Error::InvalidProtocol { protocol: s.to_owned() }),
        }
    }
}

/// What identifies a service: its virtual address, port and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// The virtual address (VIP).
    pub address: IpAddr,
    /// The port, 1 to 65,535.
    pub port: u16,
    /// The transport protocol.
    pub protocol: Protocol,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.address, self.port), self.protocol)
    }
}

/// A service: a port of a virtual address, balanced over destinations.
///
/// The address, port and protocol identify it; the rest are settings that
/// [`Client::update_service`](crate::Client::update_service) changes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Service {
    /// The virtual address (VIP).
    pub address: IpAddr,
    /// The port, 1 to 65,535.
    pub port: u16,
    /// The transport protocol.
    pub protocol: Protocol,
    /// Whether the destination is chosen by the client's address alone, so
    /// that all connections of one client reach the same server.
    pub sticky: bool,
    /// How long a silent flow is remembered, 1 second to [`MAX_IDLE`].
    /// Default: 2 hours for TCP, 120 seconds for UDP.
    pub idle: Duration,
    /// How long a silent TCP flow is remembered after its client's FIN or
    /// RST, 1 second to [`MAX_IDLE`]. Default: 60 seconds.
    pub closing: Duration,
    /// The most flows that each CPU stores per second (2^30 ns) for this service, 1 to
    /// [`MAX_NEW_FLOWS`]. Packets over it go by the hash and store nothing, so that a
    /// flood fills no table and costs other services nothing. Default: 10,000.
    pub new_flows: u32,
    /// For how long after a change of the destinations a TCP packet that is no SYN and has
    /// no flow goes to the destination that the hash had for it before, if that is still
    /// one of the service's: to keep connections where they are whose flow another
    /// balancer has, or none. The destinations from before count that were there for 5
    /// seconds, or as long as this; while changes follow each other within this time,
    /// those from before the first one. A SYN goes by the present ones, and its flow is
    /// stored if they differ; where no more may be stored ([`Self::new_flows`]) it goes by
    /// those from before, as what follows it does. UDP goes by the present ones.
    ///
    /// In whole milliseconds, 0 turns it off, at most [`MAX_IDLE`]. Default: 60 seconds.
    pub transition: Duration,
}

impl Service {
    /// A TCP service with default settings.
    pub const fn tcp(address: IpAddr, port: u16) -> Self {
        Self::new(address, port, Protocol::Tcp)
    }

    /// A UDP service with default settings.
    pub const fn udp(address: IpAddr, port: u16) -> Self {
        Self::new(address, port, Protocol::Udp)
    }

    /// A service with default settings.
    pub const fn new(address: IpAddr, port: u16, protocol: Protocol) -> Self {
        let idle = match protocol {
            Protocol::Tcp => Duration::from_secs(7200),
            Protocol::Udp => Duration::from_secs(120),
        };
        Self {
            address,
            port,
            protocol,
            sticky: false,
            idle,
            closing: Duration::from_secs(60),
            new_flows: 10_000,
            transition: Duration::from_secs(60),
        }
    }

    /// Sets whether all connections of one client go to the same server.
    pub const fn sticky(mut self, sticky: bool) -> Self {
        self.sticky = sticky;
        self
    }

    /// Sets how long a silent flow is remembered.
    pub const fn idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// Sets how long a silent flow is remembered after FIN or RST.
    pub const fn closing(mut self, closing: Duration) -> Self {
        self.closing = closing;
        self
    }

    /// Sets how many flows each CPU stores per second for this service, at most.
    pub const fn new_flows(mut self, new_flows: u32) -> Self {
        self.new_flows = new_flows;
        self
    }

    /// Sets for how long connections without a flow stay where the hash had them.
    pub const fn transition(mut self, transition: Duration) -> Self {
        self.transition = transition;
        self
    }

    /// What identifies this service.
    pub const fn key(&self) -> ServiceKey {
        ServiceKey { address: self.address, port: self.port, protocol: self.protocol }
    }

    /// Checks every field; the error names the one that is wrong.
    pub fn validate(&self) -> Result<()> {
        if let Some(reason) = address_fault(self.address) {
            return Err(Error::InvalidVip { address: self.address, reason });
        }
        if self.port == 0 {
            return Err(Error::InvalidPort { service: self.key() });
        }
        for (name, value) in [("idle", self.idle), ("closing", self.closing)] {
            if value < Duration::from_secs(1) || value > MAX_IDLE {
                return Err(Error::InvalidTimeout { service: self.key(), name, value });
            }
        }
        let value = self.transition;
        if value > MAX_IDLE {
            return Err(Error::InvalidTransition { service: self.key(), value });
        }
        let new_flows = self.new_flows;
        if new_flows == 0 || new_flows > MAX_NEW_FLOWS {
            return Err(Error::InvalidNewFlows { service: self.key(), new_flows });
        }
        Ok(())
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key().fmt(f)
    }
}

/// One real server of a service; its address identifies it there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Destination {
    /// The real server's own address, of either family whatever the VIP's.
    pub address: IpAddr,
    /// How packets travel to it. Default: layer 2.
    pub tunnel: Tunnel,
    /// Its share of new flows relative to the others, 1 to [`MAX_WEIGHT`].
    /// Default: 1.
    pub weight: u32,
    /// Whether it gets no new flows; those it has stay. Default: no.
    pub disabled: bool,
    /// How long the flows of a disabled destination stay, from when it has this deadline,
    /// 1 second to [`MAX_IDLE`]; then they are hashed anew, to other destinations.
    /// Default: as long as they live.
    pub deadline: Option<Duration>,
}

impl Destination {
    /// An enabled layer-2 destination of weight 1.
    pub const fn new(address: IpAddr) -> Self {
        Self { address, tunnel: Tunnel::None, weight: 1, disabled: false, deadline: None }
    }

    /// Sets its share of new flows.
    pub const fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// Sets whether it gets no new flows.
    pub const fn disabled(mut self, disabled: bool) -> Self {
        self.disabled = disabled;
        self
    }

    /// Sets how long its flows stay once it is disabled.
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Sets how packets travel to it.
    pub const fn tunnel(mut self, tunnel: Tunnel) -> Self {
        self.tunnel = tunnel;
        self
    }

    /// The outer header of packets to a virtual address, if it is behind a tunnel.
    pub(crate) fn outer(&self, vip: IpAddr) -> Option<Outer> {
        let protocol = self.tunnel.protocol(vip)?;
        let port = self.tunnel.udp().map(|udp| udp.port);
        Some(Outer { server: self.address, protocol, port })
    }

    /// Checks every field; the error names the one that is wrong.
    pub fn validate(&self) -> Result<()> {
        if let Some(reason) = address_fault(self.address) {
            return Err(Error::InvalidDestination { address: self.address, reason });
        }
        if self.weight == 0 || self.weight > MAX_WEIGHT {
            return Err(Error::InvalidWeight { address: self.address, weight: self.weight });
        }
        if let Some(deadline) = self.deadline {
            let is_in_range = (Duration::from_secs(1)..=MAX_IDLE).contains(&deadline);
            if !self.disabled || !is_in_range {
                let Self { address, disabled, .. } = *self;
                return Err(Error::InvalidDeadline { address, deadline, disabled });
            }
        }
        self.tunnel.validate(self.address)
    }
}

/// Why an address can belong neither to a service nor to a real server.
pub(crate) fn address_fault(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        return Some("it is the unspecified address");
    }
    if address.is_loopback() {
        return Some("it is a loopback address");
    }
    if address.is_multicast() {
        return Some("it is a multicast address");
    }
    match address {
        IpAddr::V4(v4) if v4.is_broadcast() => Some("it is the broadcast address"),
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Some("0.0.0.0/8 names no host"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Some("it is an IPv4 address mapped into IPv6; write it as IPv4")
        }
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            Some("it is link-local, which names no host without an interface")
        }
        _ => None,
    }
}
