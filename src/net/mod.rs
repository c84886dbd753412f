//! The kernel's network: netlink in, plain values out.
//!
//! [`Net`] asks and orders, [`Watcher`] hears what changes, [`Snapshot`] is
//! what both are about.

mod device;
mod echo;
mod ethtool;
mod genl;
mod icmp;
mod mac;
mod message;
mod neighbour;
mod netdev;
mod route;
mod routes;
#[cfg(test)]
pub(crate) mod sample;
mod snapshot;
mod socket;
mod unreachable;
mod veth;
mod watch;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use neli::Size;
use neli::ToBytes;
use neli::consts::rtnl::Ifla;
use neli::consts::rtnl::RtAddrFamily;
use neli::consts::rtnl::RtScope;
use neli::consts::rtnl::RtaType;
use neli::consts::rtnl::Rtm;
use neli::rtnl::IfaddrmsgBuilder;
use neli::rtnl::IfinfomsgBuilder;
use neli::rtnl::Rtattr;
use neli::rtnl::RtattrBuilder;
use neli::types::Buffer;
use neli::types::RtBuffer;
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use self::neighbour::Origin;
use self::socket::Socket;
use crate::Error;
use crate::Result;

pub(crate) use self::device::driver;
pub(crate) use self::device::hides_headers;
pub(crate) use self::device::rp_filter;
pub(crate) use self::echo::Answer;
pub(crate) use self::echo::datagram;
pub(crate) use self::echo::echo;
pub(crate) use self::echo::is_unreachable;
pub(crate) use self::echo::path_mtu;
pub(crate) use self::ethtool::Ethtool;
pub(crate) use self::ethtool::Features;
pub(crate) use self::icmp::IcmpListener;
pub(crate) use self::icmp::PathError;
pub use self::mac::InvalidMac;
pub use self::mac::Mac;
pub use self::netdev::XdpFeatures;
pub(crate) use self::netdev::xdp_features;
pub(crate) use self::routes::Hop;
pub(crate) use self::snapshot::Address;
pub(crate) use self::snapshot::Link;
pub(crate) use self::snapshot::Neighbour;
pub(crate) use self::snapshot::NeighbourState;
pub(crate) use self::snapshot::Rank;
pub(crate) use self::snapshot::Snapshot;
#[cfg(test)]
pub(crate) use self::snapshot::Stacked;
pub(crate) use self::snapshot::XdpMode;
pub(crate) use self::unreachable::Unreachable;
pub(crate) use self::unreachable::UnreachableListener;
pub(crate) use self::veth::PROBE_MTU;
pub(crate) use self::veth::ProbeEnds;
pub(crate) use self::veth::ProbePair;
pub(crate) use self::veth::overlap;
pub(crate) use self::veth::probe_names;
pub(crate) use self::watch::Watcher;

/// Leaves statistics out of link messages (linux/rtnetlink.h).
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;

/// Requests to one network namespace.
pub(crate) struct Net {
    socket: Socket,
    /// Whether the kernel has managed neighbour entries, once tried.
    manages: Option<bool>,
    /// The neighbour entries that are kept, and where they came from.
    kept: BTreeMap<(u32, IpAddr), Origin>,
}

impl Net {
    /// Opens the network namespace that the calling thread is in; another
    /// thread may use it afterwards.
    pub(crate) fn new() -> Result<Self> {
        let socket = Socket::for_requests(SockProtocol::NetlinkRoute).map_err(netlink("socket"))?;
        Ok(Self { socket, manages: None, kept: BTreeMap::new() })
    }

    /// Reads all links, addresses, neighbours and routes. Open a
    /// [`Watcher`] before: what changes meanwhile is then in its queue.
    pub(crate) fn snapshot(&mut self) -> Result<Snapshot> {
        let mut snapshot = Snapshot::default();
        self.dump(&mut snapshot, Rtm::Getlink, links_request).map_err(netlink("list of links"))?;
        for family in [RtAddrFamily::Inet, RtAddrFamily::Inet6] {
            self.dump(&mut snapshot, Rtm::Getroute, || route::list_request(family))
                .map_err(netlink("list of routes"))?;
            self.dump(&mut snapshot, Rtm::Getaddr, || addresses_request(family))
                .map_err(netlink("list of addresses"))?;
            self.dump(&mut snapshot, Rtm::Getneigh, || neighbour::list_request(family))
                .map_err(netlink("list of neighbours"))?;
        }
        Ok(snapshot)
    }

    /// Reads the host's own addresses alone, of both families.
    pub(crate) fn addresses(&mut self) -> Result<Vec<IpAddr>> {
        let mut snapshot = Snapshot::default();
        for family in [RtAddrFamily::Inet, RtAddrFamily::Inet6] {
            self.dump(&mut snapshot, Rtm::Getaddr, || addresses_request(family))
                .map_err(netlink("list of addresses"))?;
        }
        Ok(snapshot.addresses.iter().map(|address| address.address).collect())
    }

    fn dump<P: Size + ToBytes>(
        &mut self,
        snapshot: &mut Snapshot,
        kind: Rtm,
        payload: impl Fn() -> io::Result<P>,
    ) -> io::Result<()> {
        let (found, changing) = self.socket.dump(kind.into(), payload, message::change)?;
        // Routes may never rest; what changed meanwhile is heard, too.
        if changing && kind != Rtm::Getroute {
            return Err(io::Error::other("what is listed keeps changing"));
        }
        for change in found {
            snapshot.apply(change);
        }
        Ok(())
    }
}

fn links_request() -> io::Result<impl Size + ToBytes> {
    let filter = attribute(Ifla::ExtMask, RTEXT_FILTER_SKIP_STATS.to_ne_bytes().to_vec())?;
    IfinfomsgBuilder::default()
        .ifi_family(RtAddrFamily::Unspecified)
        .rtattrs(RtBuffer::from_iter([filter]))
        .build()
        .map_err(io::Error::other)
}

fn addresses_request(family: RtAddrFamily) -> io::Result<impl Size + ToBytes> {
    IfaddrmsgBuilder::default()
        .ifa_family(family)
        .ifa_prefixlen(0)
        .ifa_scope(RtScope::Universe)
        .ifa_index(0)
        .build()
        .map_err(io::Error::other)
}

/// An attribute of a request.
fn attribute<T: RtaType>(kind: T, payload: Vec<u8>) -> io::Result<Rtattr<T, Buffer>> {
    RtattrBuilder::default()
        .rta_type(kind)
        .rta_payload(Buffer::from(payload))
        .build()
        .map_err(io::Error::other)
}

/// An entry or an interface that is not there is no error.
fn absent_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT | Errno::ENODEV) => Ok(None),
            _ => Err(error),
        },
    }
}

/// Names the request that failed; the kernel's errno stays inside.
fn netlink(request: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Netlink { request, source: source.into() }
}
