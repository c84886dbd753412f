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
    /// The interface on which the address is to be resolved, if any.
    pub(crate) interface: Option<u32>,
}

/// Finds the way to an address in one of the prefixes.
pub(crate) fn next_hop(
    address: IpAddr,
    prefixes: &[VlanPrefix],
    ports: &[Port],
    snapshot: &Snapshot,
) -> Result<NextHop, Unreachable> {
    let nowhere = |status| Unreachable { status, interface: None };
    // No two prefixes of a configuration overlap.
    let prefix = prefixes.iter().find(|p| p.prefix.contains(address));
    let prefix = prefix.ok_or(nowhere(DestinationStatus::NoPrefix))?;
    if snapshot.addresses.iter().any(|own| own.address == address) {
        // No neighbour answers for it, and asking would announce it.
        return Err(nowhere(DestinationStatus::NoNeighbour));
    }
    let place = prefix.place.ok_or(nowhere(DestinationStatus::NoInterface))?;
    let unreachable = |status| Unreachable { status, interface: Some(place.interface) };
    let status = match prefix.status(snapshot) {
        VlanStatus::Usable => None,
        VlanStatus::NoInterface | VlanStatus::Elsewhere => Some(DestinationStatus::NoInterface),
        VlanStatus::Down => Some(DestinationStatus::InterfaceDown),
        VlanStatus::MtuTooSmall => Some(DestinationStatus::MtuTooSmall),
    };
    if let Some(status) = status {
        return Err(unreachable(status));
    }
    let down = unreachable(DestinationStatus::InterfaceDown);
    let link = prefix.link(snapshot).ok_or(down)?;
    let port = ports.iter().find(|port| port.index == place.exit.port);
    let egress = port.and_then(|port| port.egress(address, snapshot)).ok_or(down)?;
    let neighbour = snapshot.neighbours.get(&(place.interface, address));
    let destination = destination(neighbour).map_err(unreachable)?;
    Ok(NextHop {
        interface: place.interface,
        egress,
        tag: place.exit.tag,
        source: link.mac,
        destination,
        mtu: prefix.mtu(link),
    })
}

fn destination(neighbour: Option<&Neighbour>) -> std::result::Result<Mac, DestinationStatus> {
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
        ports::resolve(&["eth0", "eth1", "eth2"], snapshot).unwrap()
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
        let failed = |status, interface| Err(Unreachable { status, interface });
        let cases = [
            ("in no prefix", "10.9.9.9", None, failed(NoPrefix, None)),
            ("of the other family", "::10.1.2.3", None, failed(NoPrefix, None)),
            ("not asked for", "10.1.2.3", None, failed(Resolving, Some(2))),
            ("none yet", "10.1.2.3", Some((S::None, None)), failed(Resolving, Some(2))),
            ("asked", "10.1.2.3", Some((S::Incomplete, None)), failed(Resolving, Some(2))),
            ("silent", "10.1.2.3", Some((S::Failed, None)), failed(NoNeighbour, Some(2))),
            ("silent now", "10.1.2.3", Some((S::Failed, known)), failed(NoNeighbour, Some(2))),
            ("no MAC", "10.1.2.3", Some((S::NoArp, None)), failed(Resolving, Some(2))),
            ("reachable", "10.1.2.3", Some((S::Reachable, known)), reached(2)),
            ("stale", "10.1.2.3", Some((S::Stale, known)), reached(2)),
            ("delay", "10.1.2.3", Some((S::Delay, known)), reached(2)),
            ("probe", "10.1.2.3", Some((S::Probe, known)), reached(2)),
            ("permanent", "10.1.2.3", Some((S::Permanent, known)), reached(2)),
            ("no ARP", "10.1.2.3", Some((S::NoArp, known)), reached(2)),
            ("IPv6", "2001:db8::3", Some((S::Reachable, known)), reached(3)),
            ("a group", "10.1.2.255", Some((S::NoArp, broadcast)), failed(NoNeighbour, Some(2))),
            ("our own", "10.1.2.1", Some((S::Reachable, known)), failed(NoNeighbour, None)),
            ("down", "10.1.4.3", Some((S::Permanent, known)), failed(InterfaceDown, Some(4))),
            ("gone", "10.1.5.3", Some((S::Permanent, known)), failed(NoInterface, Some(5))),
            ("nowhere", "10.1.6.3", Some((S::Permanent, known)), failed(NoInterface, None)),
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
                next_hop(address, &prefixes, &all_ports(&snapshot), &snapshot),
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
        let status = DestinationStatus::Resolving;
        let expected = Err(Unreachable { status, interface: Some(2) });
        assert_eq!(next_hop(address, &prefixes, &all_ports(&snapshot), &snapshot), expected);
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
        let whole = next_hop(address, &prefixes, &ports, &snapshot).unwrap();
        assert_eq!((whole.egress, whole.tag, whole.mtu), (10, 7, 1400));

        ports[0].split = true;
        let split = next_hop(address, &prefixes, &ports, &snapshot).unwrap();
        assert_eq!(split, NextHop { egress: 2, ..whole }, "the member in use");
        snapshot.links.get_mut(&2).unwrap().running = false;
        let status = DestinationStatus::InterfaceDown;
        let down = Unreachable { status, interface: Some(10) };
        assert_eq!(next_hop(address, &prefixes, &ports, &snapshot), Err(down));
    }
}
