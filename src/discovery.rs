//! Which neighbour and which way lead to a destination: pure, no I/O.

use std::net::IpAddr;

use crate::DestinationStatus;
use crate::Mac;
use crate::VlanStatus;
use crate::net::Neighbour;
use crate::net::NeighbourState;
use crate::net::Snapshot;
use crate::ports::Port;
use crate::vlans::VlanPrefix;

/// How a packet reaches a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NextHop {
    /// The index of the interface that the neighbour is on.
    pub(crate) interface: u32,
    /// The index of the interface that the packet leaves by.
    pub(crate) egress: u32,
    /// The id of the 802.1Q tag that it leaves with, 0 without one.
    pub(crate) tag: u16,
    /// The address of the interface that the neighbour is on.
    pub(crate) source: Mac,
    /// The neighbour's address.
    pub(crate) destination: Mac,
    /// The longest IP packet that is sent there, in octets.
    pub(crate) mtu: u32,
}

/// Why no packet reaches a destination now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreachable {
    /// The reason.
    pub(crate) status: DestinationStatus,
    /// The way to where the neighbour was last, while it does not answer.
    pub(crate) last: Option<NextHop>,
}

/// Finds the way to an address in one of the prefixes; `last` is what was found
/// before.
pub(crate) fn next_hop(
    address: IpAddr,
    last: Option<NextHop>,
    prefixes: &[VlanPrefix],
    ports: &[Port],
    snapshot: &Snapshot,
) -> Result<NextHop, Unreachable> {
    let unreachable = |status| Unreachable { status, last: None };
    // No two prefixes of a configuration overlap.
    let prefix = prefixes.iter().find(|p| p.prefix.contains(address));
    let prefix = prefix.ok_or(unreachable(DestinationStatus::NoPrefix))?;
    if snapshot.is_own(address) {
        // No neighbour answers for it, and asking would announce it.
        return Err(unreachable(DestinationStatus::NoNeighbour));
    }
    let status = match prefix.status(ports, snapshot) {
        VlanStatus::Usable => None,
        VlanStatus::NoInterface | VlanStatus::Elsewhere => Some(DestinationStatus::NoInterface),
        VlanStatus::Down => Some(DestinationStatus::InterfaceDown),
        VlanStatus::MtuTooSmall => Some(DestinationStatus::MtuTooSmall),
        VlanStatus::NotAttached => Some(DestinationStatus::NotAttached),
    };
    if let Some(status) = status {
        return Err(unreachable(status));
    }
    let found = prefix.place.zip(prefix.link(snapshot));
    let (place, link) = found.ok_or(unreachable(DestinationStatus::NoInterface))?;
    let port = ports.iter().find(|port| port.index == place.exit.port);
    let egress = port.and_then(|port| port.egress(address, snapshot));
    let egress = egress.ok_or(unreachable(DestinationStatus::InterfaceDown))?;
    let to = |destination| NextHop {
        interface: place.interface,
        egress,
        tag: place.exit.tag,
        source: link.mac,
        destination,
        mtu: prefix.mtu(link),
    };
    let neighbour = snapshot.neighbours.get(&(place.interface, address));
    destination(neighbour).map(to).map_err(|status| {
        let last = last.filter(|last| last.interface == place.interface);
        Unreachable { status, last: last.map(|last| to(last.destination)) }
    })
}

/// The MAC address that leads to a neighbour.
pub(crate) fn destination(neighbour: Option<&Neighbour>) -> Result<Mac, DestinationStatus> {
    let Some(neighbour) = neighbour else {
        return Err(DestinationStatus::Resolving);
    };
    match neighbour.usable() {
        // The prefix's broadcast address, for one, resolves to a group's.
        Some(mac) if !mac.is_unicast() => Err(DestinationStatus::NoNeighbour),
        Some(mac) => Ok(mac),
        None if neighbour.state == NeighbourState::Failed => Err(DestinationStatus::NoNeighbour),
        None => Err(DestinationStatus::Resolving),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::sample::ROUTER;
    use crate::net::sample::bonded;
    use crate::net::sample::snapshot;
    use crate::ports;
    use crate::ports::Exit;
    use crate::vlans::Place;

    const SERVER: Mac = Mac([2, 0, 0, 0, 0, 9]);

    fn prefix(text: &str, interface: u32) -> VlanPrefix {
        let exit = Exit { port: interface, tag: 0 };
        let prefix = text.parse().unwrap();
        VlanPrefix { vlan: 1, prefix, limit: None, place: Some(Place { interface, exit }) }
    }

    fn all_ports(snapshot: &Snapshot) -> Vec<Port> {
        let mut ports = ports::resolve(&["eth0", "eth1", "eth2"], snapshot).unwrap();
        ports.iter_mut().for_each(|port| port.attached = vec![2, 3, 4]);
        ports
    }

    #[test]
    fn next_hops() {
        use DestinationStatus::*;
        use NeighbourState as S;
        let broadcast = Some(Mac([0xff; 6]));
        let known = Some(SERVER);
        let reached = |interface| {
            Ok(NextHop {
                interface,
                egress: interface,
                tag: 0,
                source: ROUTER,
                destination: SERVER,
                mtu: 1500,
            })
        };
        let failed = |status| Err(Unreachable { status, last: None });
        let cases = [
            ("in no prefix", "10.9.9.9", None, failed(NoPrefix)),
            ("of the other family", "::10.1.2.3", None, failed(NoPrefix)),
            ("not asked for", "10.1.2.3", None, failed(Resolving)),
            ("none yet", "10.1.2.3", Some((S::None, None)), failed(Resolving)),
            ("asked", "10.1.2.3", Some((S::Incomplete, None)), failed(Resolving)),
            ("silent", "10.1.2.3", Some((S::Failed, None)), failed(NoNeighbour)),
            ("silent now", "10.1.2.3", Some((S::Failed, known)), failed(NoNeighbour)),
            ("no MAC", "10.1.2.3", Some((S::NoArp, None)), failed(Resolving)),
            ("reachable", "10.1.2.3", Some((S::Reachable, known)), reached(2)),
            ("stale", "10.1.2.3", Some((S::Stale, known)), reached(2)),
            ("delay", "10.1.2.3", Some((S::Delay, known)), reached(2)),
            ("probe", "10.1.2.3", Some((S::Probe, known)), reached(2)),
            ("permanent", "10.1.2.3", Some((S::Permanent, known)), reached(2)),
            ("no ARP", "10.1.2.3", Some((S::NoArp, known)), reached(2)),
            ("IPv6", "2001:db8::3", Some((S::Reachable, known)), reached(3)),
            ("a group", "10.1.2.255", Some((S::NoArp, broadcast)), failed(NoNeighbour)),
            ("our own", "10.1.2.1", Some((S::Reachable, known)), failed(NoNeighbour)),
            ("down", "10.1.4.3", Some((S::Permanent, known)), failed(InterfaceDown)),
            ("gone", "10.1.5.3", Some((S::Permanent, known)), failed(NoInterface)),
            ("nowhere", "10.1.6.3", Some((S::Permanent, known)), failed(NoInterface)),
        ];
        let prefixes = [
            prefix("10.1.2.0/24", 2),
            prefix("2001:db8::/64", 3),
            prefix("10.1.4.0/24", 4),
            prefix("10.1.5.0/24", 5),
            VlanPrefix { place: None, ..prefix("10.1.6.0/24", 2) },
        ];
        for (what, address, neighbour, expected) in cases {
            let address: IpAddr = address.parse().unwrap();
            let mut snapshot = snapshot(&[(2, "10.1.2.1/24"), (3, "2001:db8::1/64")]);
            if let Some((state, mac)) = neighbour {
                for index in 2..6 {
                    let neighbour = Neighbour { mac, state, managed: false };
                    snapshot.neighbours.insert((index, address), neighbour);
                }
            }
            assert_eq!(
                next_hop(address, None, &prefixes, &all_ports(&snapshot), &snapshot),
                expected,
                "{what}"
            );
        }
    }

    #[test]
    fn a_neighbour_of_another_interface_does_not_count() {
        let prefixes = [prefix("10.1.2.0/24", 2)];
        let address: IpAddr = "10.1.2.3".parse().unwrap();
        let mut snapshot = snapshot(&[(2, "10.1.2.1/24")]);
        let state = NeighbourState::Reachable;
        let neighbour = Neighbour { mac: Some(SERVER), state, managed: true };
        snapshot.neighbours.insert((3, address), neighbour);
        let expected = Err(Unreachable { status: DestinationStatus::Resolving, last: None });
        assert_eq!(next_hop(address, None, &prefixes, &all_ports(&snapshot), &snapshot), expected);
    }

    #[test]
    fn a_way_out_has_the_tag_and_the_least_mtu() {
        let exit = Exit { port: 10, tag: 7 };
        let mut snapshot = bonded(&[(10, "10.1.2.1/24")]);
        let mut ports = ports::resolve(&["bond0"], &snapshot).unwrap();
        let address: IpAddr = "10.1.2.3".parse().unwrap();
        let neighbour =
            Neighbour { mac: Some(SERVER), state: NeighbourState::Reachable, managed: true };
        snapshot.neighbours.insert((10, address), neighbour);
        let place = Some(Place { interface: 10, exit });
        let prefixes = [VlanPrefix { place, limit: Some(1400), ..prefix("10.1.2.0/24", 10) }];
        ports[0].attached = vec![2, 3, 10];
        let whole = next_hop(address, None, &prefixes, &ports, &snapshot).unwrap();
        assert_eq!((whole.egress, whole.tag, whole.mtu), (10, 7, 1400));

        ports[0].split = true;
        let split = next_hop(address, None, &prefixes, &ports, &snapshot).unwrap();
        assert_eq!(split, NextHop { egress: 2, ..whole }, "the member in use");
        snapshot.links.get_mut(&2).unwrap().running = false;
        let down = Unreachable { status: DestinationStatus::InterfaceDown, last: None };
        assert_eq!(next_hop(address, None, &prefixes, &ports, &snapshot), Err(down));
    }

    /// Live flows stay with a neighbour that does not answer, by the way that
    /// there is now.
    #[test]
    fn a_silent_neighbour_keeps_its_address_and_no_more() {
        let mut snapshot = bonded(&[(10, "10.1.2.1/24")]);
        let mut ports = ports::resolve(&["bond0"], &snapshot).unwrap();
        ports[0].split = true;
        ports[0].attached = vec![2, 3];
        let address: IpAddr = "10.1.2.3".parse().unwrap();
        let prefixes = [prefix("10.1.2.0/24", 10)];
        let way = NextHop {
            interface: 10,
            egress: 3,
            tag: 7,
            source: Mac([2, 0, 0, 0, 0, 77]),
            destination: SERVER,
            mtu: 9000,
        };
        let silent = |last, snapshot: &Snapshot| {
            next_hop(address, Some(last), &prefixes, &ports, snapshot).unwrap_err()
        };
        let now = NextHop { egress: 2, tag: 0, source: ROUTER, mtu: 1500, ..way };
        let expected = Unreachable { status: DestinationStatus::Resolving, last: Some(now) };
        assert_eq!(silent(way, &snapshot), expected);
        let elsewhere = NextHop { interface: 4, ..way };
        assert_eq!(silent(elsewhere, &snapshot).last, None, "its address was one elsewhere");
        snapshot.links.get_mut(&10).unwrap().running = false;
        assert_eq!(silent(way, &snapshot).last, None, "there is no way");
    }
}
