//! Why a check fails, in words for people.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;

use nix::errno::Errno;

use crate::DestinationStatus;
use crate::Protocol;
use crate::Tunnel;

/// Why the check of a VIP on a server failed.
#[derive(Debug)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are what the message names")]
pub enum Failure {
    /// No route or interface leads to the server. Nothing was sent.
    NoRoute { server: IpAddr, status: DestinationStatus },
    /// The MAC address of the next hop to the server is not known. Nothing was sent.
    NoNeighbour { server: IpAddr, status: DestinationStatus },
    /// The way to the server cannot be used. Nothing was sent.
    Unusable { server: IpAddr, status: DestinationStatus },
    /// The balancer has no address of the VIP's family to send from.
    NoSource { server: IpAddr, vip: IpAddr },
    /// In this network namespace no route leads to the NAT address.
    NoNatRoute { nat: IpAddr },
    /// Packets of the tunnel are refused, as `from` says by ICMP.
    TunnelNotAnswered { server: IpAddr, tunnel: Tunnel, from: IpAddr, what: &'static str },
    /// The VIP does not answer on the server, not even an echo request.
    NoAnswer { vip: IpAddr, server: IpAddr, tunnel: Tunnel, error: Option<io::Error> },
    /// The port does not answer; whether the VIP does cannot be told without CAP_NET_RAW.
    Silent { vip: SocketAddr, server: IpAddr },
    /// The port refuses.
    PortClosed { vip: SocketAddr, server: IpAddr },
    /// The VIP answers, the port does not.
    PortFiltered { vip: SocketAddr, server: IpAddr },
    /// The VIP answers, but not this request or datagram.
    NoReply { vip: SocketAddr, server: IpAddr, protocol: Protocol },
    /// Small packets are answered, those of `size` octets are not. `path` is the longest
    /// that passes, if a router or this host said so.
    Mtu { vip: IpAddr, server: IpAddr, size: u32, path: Option<u32> },
    /// The VIP answers no echo requests, by which the size is tested.
    NoEcho { vip: IpAddr, server: IpAddr },
    /// The connection was closed before an HTTP answer.
    Closed { vip: SocketAddr, server: IpAddr },
    /// What answers is no HTTP/1 server; `start` is the start of what it says.
    NotHttp { vip: SocketAddr, server: IpAddr, start: String },
    /// An HTTP status that is not from 200 to 399.
    HttpStatus { server: IpAddr, status: u16 },
    /// This host could not do its part.
    Local { action: &'static str, source: io::Error },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoute { server, status } | Self::Unusable { server, status } => {
                write!(f, "{server} cannot be reached: {status}")
            }
            Self::NoNeighbour { server, status } => {
                write!(f, "{server} cannot be reached: {status}; is it up, and in that network?")
            }
            Self::NoSource { server, vip } => {
                let family = if vip.is_ipv4() { "IPv4" } else { "IPv6" };
                write!(
                    f,
                    "the balancer has no {family} address to send probes for {vip} to {server} from; \
                     give one to the interface that leads there"
                )
            }
            Self::NoNatRoute { nat } => write!(
                f,
                "no route leads to the NAT address {nat} here: probes are sent in the network \
                 namespace of the balancer, while it runs"
            ),
            Self::TunnelNotAnswered { server, tunnel, from, what } => write!(
                f,
                "{server} does not take the tunnel ({tunnel}): {from} answers `{what}`; look at \
                 `xvsctl decap` or the tunnel device on the server, and at its firewall"
            ),
            Self::NoAnswer { vip, server, tunnel, error } => {
                write!(f, "{vip} does not answer on {server}")?;
                if let Some(error) = error {
                    write!(f, " ({})", words(error))?;
                }
                write!(
                    f,
                    "; on the server, is the VIP on the loopback interface, and does no rp_filter \
                     drop its packets"
                )?;
                match tunnel {
                    Tunnel::None => write!(f, "?"),
                    tunnel => write!(f, ", and is the tunnel ({tunnel}) taken and up?"),
                }
            }
            Self::Silent { vip, server } => write!(
                f,
                "{vip} does not answer on {server}; only a process with CAP_NET_RAW can tell a \
                 filtered port from a VIP that does not answer at all"
            ),
            Self::PortClosed { vip, server } => write!(
                f,
                "{vip} is closed on {server}: no program listens on that port of the VIP, or a \
                 firewall refuses it"
            ),
            Self::PortFiltered { vip, server } => write!(
                f,
                "{vip} does not answer on {server}, which answers echo requests to the VIP: a \
                 firewall drops that port, or its program takes no more connections"
            ),
            Self::NoReply { vip, server, protocol: Protocol::Udp } => write!(
                f,
                "{vip} does not reply to a datagram on {server}, which answers echo requests to \
                 the VIP: its program may not care for this one, or a firewall drops that port"
            ),
            Self::NoReply { vip, server, .. } => write!(
                f,
                "{vip} accepts the connection on {server} and does not answer the request: look \
                 at the program that listens there"
            ),
            Self::Mtu { server, size, path: Some(path), .. } => write!(
                f,
                "a packet of {size} octets does not fit the way to {server}, whose path MTU is \
                 {path}; look for a link or tunnel with a smaller MTU"
            ),
            Self::Mtu { vip, server, size, path: None } => write!(
                f,
                "{vip} on {server} answers small packets and none of {size} octets, which are lost \
                 without a word; look for a link or tunnel with a smaller MTU"
            ),
            Self::NoEcho { vip, server } => write!(
                f,
                "{vip} answers no echo requests on {server}, with which the size is tested; a \
                 firewall drops them, or test with an HTTP request"
            ),
            Self::Closed { vip, server } => {
                write!(f, "{vip} closes the connection on {server} without an HTTP answer")
            }
            Self::NotHttp { vip, server, start } => {
                write!(f, "{vip} does not answer with HTTP/1 on {server}, but with `{start}`")
            }
            Self::HttpStatus { server, status } => {
                write!(f, "{server} answers with HTTP status {status}")
            }
            Self::Local { action, source } => {
                write!(f, "{action}: {}", words(source))?;
                match source.kind() {
                    io::ErrorKind::PermissionDenied => write!(f, "; CAP_NET_RAW may be missing"),
                    _ => Ok(()),
                }
            }
        }
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Local { source, .. } | Self::NoAnswer { error: Some(source), .. } => Some(source),
            _ => None,
        }
    }
}

/// An error without its number.
pub(super) fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}
