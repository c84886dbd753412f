//! Which ways lead to the other end of a tunnel: pure, no I/O.
//!
//! A server in a VLAN's prefix is on-link. Any other is reached by the configured
//! route with the longest prefix, and without one as the kernel would: by its main
//! routing table.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::DestinationStatus;
use crate::Mac;
use crate::Prefix;
use crate::Route;
use crate::config::MIN_MTU6;
use crate::config::is_link_local6;
use crate::discovery;
use crate::discovery::NextHop;
use crate::net::Address;
use crate::net::Hop;
use crate::net::Rank;
use crate::net::Snapshot;
use crate::ports;
use crate::ports::Exit;
use crate::ports::Port;
use crate::vlans::VlanPrefix;

/// One of the ways to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// How packets leave.
    pub(crate) hop: NextHop,
    /// The server or the gateway that they leave to.
    pub(crate) neighbour: IpAddr,
    /// Our address that they are sent from, of the server's family.
    pub(crate) local: IpAddr,
    /// The share of flows among all ways, 1 to 256.
    pub(crate) weight: u16,
}

impl Way {
    /// The way to a server that is a neighbour itself.
    pub(crate) const fn direct(server: IpAddr, hop: NextHop) -> Self {
        Self { hop, neighbour: server, local: server, weight: 1 }
    }
}

/// Why no packet reaches a server now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unreachable {
    /// The reason: of several ways, that of the one that lacks least.
    pub(crate) status: DestinationStatus,
    /// The ways to where the neighbours were last, while they do not answer.
    pub(crate) last: Vec<Way>,
}

/// Where a way would begin.
#[derive(Clone, Copy, Debug)]
struct Start {
    /// The interface, if there is one.
    interface: Option<u32>,
    /// Whom packets are handed to.
    neighbour: IpAddr,
    /// Our address to send from, if the route says so.
    source: Option<IpAddr>,
    /// The VLAN's prefix: by preference our address is in it.
    prefix: Option<Prefix>,
    /// The longest packet that the route allows, in octets.
    mtu: Option<u32>,
    weight: u16,
}

/// Reasons not to use a way: the less it lacks, the earlier.
const REASONS: [DestinationStatus; 8] = [
    DestinationStatus::Resolving,
    DestinationStatus::NoNeighbour,
    DestinationStatus::NoAddress,
    DestinationStatus::NotAttached,
    DestinationStatus::MtuTooSmall,
    DestinationStatus::InterfaceDown,
    DestinationStatus::NoInterface,
    DestinationStatus::NoRoute,
];

/// Finds all ways to the server at the end of a tunnel that can be used now, in
/// order of interface and neighbour; `last` is what was found before. Nothing is sent
/// from a VIP unless a route says so.
pub(crate) fn ways(
    server: IpAddr,
    last: &[Way],
    routes: &[Route],
    prefixes: &[VlanPrefix],
    ports: &[Port],
    snapshot: &Snapshot,
    is_vip: &dyn Fn(IpAddr) -> bool,
) -> Result<Vec<Way>, Unreachable> {
    let unreachable = |status| Unreachable { status, last: Vec::new() };
    let starts = starts(server, routes, prefixes, snapshot).map_err(unreachable)?;
    let (mut found, mut kept, mut reason) = (Vec::new(), Vec::new(), REASONS.len() - 1);
    for start in starts {
        let local = local(server, start, last, snapshot, is_vip);
        match way(server, (start, local), last, prefixes, ports, snapshot) {
            Ok(way) => found.push(way),
            Err(Unreachable { status, last }) => {
                let place = REASONS.iter().position(|other| *other == status);
                reason = place.map_or(reason, |place| place.min(reason));
                kept.extend(last);
            }
        }
    }
    let key = |way: &Way| (way.hop.interface, way.neighbour);
    if found.is_empty() {
        kept.sort_by_key(key);
        kept.dedup_by_key(|way| key(way));
        return Err(Unreachable { status: REASONS[reason], last: kept });
    }
    found.sort_by_key(key);
    Ok(found)
}

/// The neighbours that must be kept resolved for a server at the end of a tunnel,
/// with whether they are.
pub(crate) fn neighbours(
    server: IpAddr,
    routes: &[Route],
    prefixes: &[VlanPrefix],
    ports: &[Port],
    snapshot: &Snapshot,
) -> BTreeMap<(u32, IpAddr), bool> {
    let starts = starts(server, routes, prefixes, snapshot).unwrap_or_default();
    let key = |start: Start| {
        let interface = start.interface.filter(|index| snapshot.links.contains_key(index))?;
        exit(interface, ports, snapshot)?;
        // Nobody else answers for an address of ours.
        let asked = (!snapshot.is_own(start.neighbour)).then_some(start.neighbour)?;
        Some((interface, asked))
    };
    let resolved =
        |key: &(u32, IpAddr)| discovery::destination(snapshot.neighbours.get(key)).is_ok();
    starts.into_iter().filter_map(key).map(|key| (key, resolved(&key))).collect()
}

/// Where ways to a server begin, one at least.
fn starts(
    server: IpAddr,
    routes: &[Route],
    prefixes: &[VlanPrefix],
    snapshot: &Snapshot,
) -> Result<Vec<Start>, DestinationStatus> {
    if snapshot.is_own(server) {
        return Err(DestinationStatus::NoNeighbour);
    }
    if let Some(prefix) = prefixes.iter().find(|p| p.prefix.contains(server)) {
        return Ok(vec![in_vlan(Some(prefix), server)]);
    }
    let routes = routes.iter().filter(|route| route.prefix.contains(server));
    if let Some(route) = routes.max_by_key(|route| route.prefix.length()) {
        let prefix = of_gateway(route, prefixes);
        return Ok(vec![in_vlan(prefix, route.gateway)]);
    }
    let route = snapshot.routes.to(server).filter(|route| !route.hops.is_empty());
    let route = route.ok_or(DestinationStatus::NoRoute)?;
    let by_kernel = |hop: &Hop| Start {
        interface: Some(hop.interface),
        neighbour: hop.gateway.unwrap_or(server),
        source: hop.source,
        prefix: None,
        mtu: hop.mtu,
        weight: hop.weight,
    };
    Ok(route.hops.iter().map(by_kernel).collect())
}

/// The prefix whose interface leads to a configured route's gateway. A link-local
/// one is in none; that of an IPv6 prefix is more likely to have it.
fn of_gateway<'a>(route: &Route, prefixes: &'a [VlanPrefix]) -> Option<&'a VlanPrefix> {
    let vlan = || prefixes.iter().filter(|p| p.vlan == route.vlan);
    let link_local = || vlan().min_by_key(|p| (p.place.is_none(), p.prefix.address().is_ipv4()));
    vlan().find(|p| p.prefix.contains(route.gateway)).or_else(link_local)
}

fn in_vlan(prefix: Option<&VlanPrefix>, neighbour: IpAddr) -> Start {
    Start {
        interface: prefix.and_then(|p| p.place).map(|place| place.interface),
        neighbour,
        source: None,
        prefix: prefix.map(|p| p.prefix),
        mtu: None,
        weight: 1,
    }
}

fn way(
    server: IpAddr,
    (start, local): (Start, Option<IpAddr>),
    last: &[Way],
    prefixes: &[VlanPrefix],
    ports: &[Port],
    snapshot: &Snapshot,
) -> Result<Way, Unreachable> {
    let unreachable = |status| Unreachable { status, last: Vec::new() };
    let no_interface = unreachable(DestinationStatus::NoInterface);
    let link = start.interface.and_then(|index| snapshot.links.get(&index));
    let link = link.ok_or(no_interface.clone())?;
    let (port, exit) = exit(link.index, ports, snapshot).ok_or(no_interface)?;
    if !link.running || !port.runs(snapshot) {
        return Err(unreachable(DestinationStatus::InterfaceDown));
    }
    let here = prefixes.iter().filter(|p| p.place.is_some_and(|p| p.interface == link.index));
    let mtu = here.map(|p| p.mtu(link)).chain(start.mtu).fold(link.mtu, u32::min);
    if server.is_ipv6() && mtu < MIN_MTU6 {
        return Err(unreachable(DestinationStatus::MtuTooSmall));
    }
    if !port.is_attached(snapshot) {
        return Err(unreachable(DestinationStatus::NotAttached));
    }
    let egress = port.egress(start.neighbour, snapshot);
    let egress = egress.ok_or(unreachable(DestinationStatus::InterfaceDown))?;
    let local = local.ok_or(unreachable(DestinationStatus::NoAddress))?;
    if snapshot.is_own(start.neighbour) {
        return Err(unreachable(DestinationStatus::NoNeighbour));
    }
    let to = |neighbour, destination| Way {
        hop: NextHop {
            interface: link.index,
            egress,
            tag: exit.tag,
            source: link.mac,
            destination,
            mtu,
        },
        neighbour,
        local,
        weight: start.weight,
    };
    let neighbour = snapshot.neighbours.get(&(link.index, start.neighbour));
    discovery::destination(neighbour)
        .map(|mac| to(start.neighbour, mac))
        .map_err(|status| Unreachable { status, last: lasting(start, last, to) })
}

/// The way that `last` had to a neighbour that does not answer. To a new one it
/// had none: until that answers, those to the others on its interface are better
/// than nothing.
fn lasting(start: Start, last: &[Way], to: impl Fn(IpAddr, Mac) -> Way) -> Vec<Way> {
    let there = || last.iter().filter(|way| Some(way.hop.interface) == start.interface);
    let again = |way: &Way| to(way.neighbour, way.hop.destination);
    match there().find(|way| way.neighbour == start.neighbour) {
        Some(way) => vec![again(way)],
        None => there().map(again).collect(),
    }
}

/// Our address to send from: the route's choice, else one of the interface's that is
/// there to stay and no VIP. Servers know us by it, so it is that of `last` while
/// there is that; at first by preference one in the VLAN's prefix, its own prefix as
/// long, then one in the prefix of the neighbour.
fn local(
    server: IpAddr,
    start: Start,
    last: &[Way],
    snapshot: &Snapshot,
    is_vip: &dyn Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    let of_family = |address: &IpAddr| address.is_ipv4() == server.is_ipv4();
    let own = snapshot.addresses.iter().filter(|own| {
        Some(own.index) == start.interface
            && of_family(&own.address)
            && !is_link_local6(own.address)
            && own.rank != Rank::Unfit
            && !is_vip(own.address)
    });
    let here = |way: &&Way| Some(way.hop.interface) == start.interface;
    let unlike = |own: &Address| {
        let mut used = last.iter().filter(here).filter(|way| way.local == own.address);
        let to_it = used.clone().any(|way| way.neighbour == start.neighbour);
        let outside = match start.prefix {
            Some(p) if p.contains(own.address) => u8::from(p.length() != own.prefix.length()),
            _ => 2,
        };
        (!to_it, used.next().is_none(), outside, !own.prefix.contains(start.neighbour), own.rank)
    };
    let own = own.min_by_key(|own| unlike(own));
    // Up to 6.1 an IPv6 route keeps its source when the address is gone.
    let source = start.source.filter(of_family).filter(|source| snapshot.is_own(*source));
    source.or_else(|| own.map(|own| own.address))
}

/// The port that frames of an interface leave by, and how.
fn exit<'a>(interface: u32, ports: &'a [Port], snapshot: &Snapshot) -> Option<(&'a Port, Exit)> {
    let indices: Vec<u32> = ports.iter().map(|port| port.index).collect();
    let exit = ports::exit(interface, &indices, snapshot)?;
    Some((ports.iter().find(|port| port.index == exit.port)?, exit))
}

#[cfg(test)]
mod tests;
