//! Which interface and which neighbour lead to a destination: pure, no I/O.

use std::net::IpAddr;

use crate::Config;
use crate::DestinationStatus;
use crate::Error;
use crate::Mac;
use crate::Prefix;
use crate::Result;
use crate::net::Link;
use crate::net::Neighbour;
use crate::net::NeighbourState;
use crate::net::Snapshot;

/// A prefix of the configuration and the interface that it is reached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PrefixInterface {
    /// The id of the VLAN that has the prefix.
    pub(crate) vlan: u16,
    /// The prefix as configured.
    pub(crate) prefix: Prefix,
    /// The index of the interface.
    pub(crate) interface: u32,
    /// How its frames leave.
    pub(crate) exit: Exit,
}

/// How frames of an interface leave: by which port, in which VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    /// The index of the port.
    pub(crate) port: u32,
    /// The id of their 802.1Q tag, 0 without one.
    pub(crate) tag: u16,
}

/// How a packet reaches a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NextHop {
    /// The index of the interface that the neighbour is on.
    pub(crate) interface: u32,
    /// How the packet leaves for it.
    pub(crate) exit: Exit,
    /// That interface's own address.
    pub(crate) source: Mac,
    /// The neighbour's address.
    pub(crate) destination: Mac,
    /// The longest IP packet that the interface sends, in octets.
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

/// The protocol of the tags that are understood (IEEE 802.1Q).
const TAG_PROTOCOL: u16 = 0x8100;

/// How frames of an interface leave by one of the ports: it is one of them, or a
/// VLAN or MAC VLAN on one. Frames with two tags do not.
pub(crate) fn exit(interface: u32, ports: &[u32], snapshot: &Snapshot) -> Option<Exit> {
    let (mut port, mut tag) = (interface, None);
    // No interface is on itself, but its description may be an old one.
    for _ in 0..=snapshot.links.len() {
        if ports.contains(&port) {
            return Some(Exit { port, tag: tag.unwrap_or_default() });
        }
        let stacked = snapshot.links.get(&port)?.stacked?;
        tag = match stacked.tag {
            None => tag,
            Some((TAG_PROTOCOL, id)) if tag.is_none() => Some(id),
            Some(_) => return None,
        };
        port = stacked.lower;
    }
    None
}

/// Finds the interface of each prefix: of `ports` and what is stacked on them
/// the one with an address inside it, by preference an address whose own prefix
/// is as long, then one in the VLAN, then a port, then the one with the lowest
/// index.
pub(crate) fn resolve_prefixes(
    config: &Config,
    ports: &[u32],
    snapshot: &Snapshot,
) -> Result<Vec<PrefixInterface>> {
    config
        .prefixes()
        .map(|(vlan, prefix)| {
            resolve_prefix(vlan, prefix, ports, snapshot).ok_or_else(|| {
                let interfaces = names(ports, snapshot);
                Error::PrefixNotFound { vlan, prefix, interfaces }
            })
        })
        .collect()
}

/// Finds the interface of one prefix in the same way.
pub(crate) fn resolve_prefix(
    vlan: u16,
    prefix: Prefix,
    ports: &[u32],
    snapshot: &Snapshot,
) -> Option<PrefixInterface> {
    let addresses = snapshot.addresses.iter().filter(|a| prefix.contains(a.address));
    let (interface, exit) = addresses
        .filter_map(|a| Some((a, exit(a.index, ports, snapshot)?)))
        .min_by_key(|(a, exit)| {
            let stacked = exit.port != a.index;
            (a.prefix.length() != prefix.length(), exit.tag != vlan, stacked, a.index)
        })
        .map(|(a, exit)| (a.index, exit))?;
    Some(PrefixInterface { vlan, prefix, interface, exit })
}

/// Finds the way to an address in one of the prefixes.
pub(crate) fn next_hop(
    address: IpAddr,
    prefixes: &[PrefixInterface],
    snapshot: &Snapshot,
) -> std::result::Result<NextHop, Unreachable> {
    // No two prefixes of a configuration overlap.
    let Some(&PrefixInterface { interface, exit, .. }) =
        prefixes.iter().find(|p| p.prefix.contains(address))
    else {
        return Err(Unreachable { status: DestinationStatus::NoPrefix, interface: None });
    };
    if snapshot.addresses.iter().any(|own| own.address == address) {
        // No neighbour answers for it, and asking would announce it.
        return Err(Unreachable { status: DestinationStatus::NoNeighbour, interface: None });
    }
    let unreachable = |status| Unreachable { status, interface: Some(interface) };
    let running = |index| snapshot.links.get(index).filter(|link: &&Link| link.running);
    // Not everything is down when what it is on is.
    let link = running(&interface)
        .filter(|_| running(&exit.port).is_some())
        .ok_or_else(|| unreachable(DestinationStatus::InterfaceDown))?;
    let neighbour = snapshot.neighbours.get(&(interface, address));
    let destination = destination(neighbour).map_err(unreachable)?;
    Ok(NextHop { interface, exit, source: link.mac, destination, mtu: link.mtu })
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

fn names(interfaces: &[u32], snapshot: &Snapshot) -> Vec<String> {
    interfaces
        .iter()
        .map(|index| match snapshot.links.get(index) {
            Some(link) => link.name.clone(),
            None => format!("interface {index}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Address;
    use crate::net::Stacked;

    const ROUTER: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const SERVER: Mac = Mac([2, 0, 0, 0, 0, 9]);

    fn link(index: u32, name: &str, running: bool) -> Link {
        Link {
            index,
            name: name.to_owned(),
            mac: ROUTER,
            up: true,
            running,
            mtu: 1500,
            kind: None,
            stacked: None,
            master: None,
            rx_queues: 1,
            tx_queues: 1,
            xdp: None,
        }
    }

    fn snapshot(addresses: &[(u32, &str)]) -> Snapshot {
        let links = [link(2, "eth0", true), link(3, "eth1", true), link(4, "eth2", false)];
        let mut snapshot = Snapshot {
            links: links.into_iter().map(|link| (link.index, link)).collect(),
            ..Snapshot::default()
        };
        for (index, text) in addresses {
            let (address, length) = text.split_once('/').unwrap();
            let address: IpAddr = address.parse().unwrap();
            let prefix = Prefix::containing(address, length.parse().unwrap()).unwrap();
            snapshot.addresses.push(Address { index: *index, prefix, address });
        }
        snapshot.addresses.sort();
        snapshot
    }

    const fn untagged(port: u32) -> Exit {
        Exit { port, tag: 0 }
    }

    #[test]
    fn interfaces_leave_by_the_port_below() {
        let mut snapshot = snapshot(&[(10, "10.1.2.1/24")]);
        let stacked = [
            (10, 2, Some((0x8100, 7))),
            (11, 2, None),
            (12, 11, Some((0x8100, 8))),
            (13, 10, None),
            (14, 10, Some((0x8100, 9))),
            (15, 2, Some((0x88a8, 10))),
            (16, 99, Some((0x8100, 11))),
            (17, 18, None),
            (18, 17, None),
        ];
        for (index, lower, tag) in stacked {
            let stacked = Some(Stacked { lower, tag });
            snapshot.links.insert(index, Link { stacked, ..link(index, "stacked", true) });
        }
        let tagged = |tag| Some(Exit { port: 2, tag });
        let cases = [
            ("a port", 2, tagged(0)),
            ("no port", 3, None),
            ("a VLAN", 10, tagged(7)),
            ("a MAC VLAN", 11, tagged(0)),
            ("a VLAN on a MAC VLAN", 12, tagged(8)),
            ("a MAC VLAN on a VLAN", 13, tagged(7)),
            ("a VLAN in a VLAN", 14, None),
            ("a service provider's VLAN", 15, None),
            ("on what is gone", 16, None),
            ("on itself", 17, None),
            ("gone", 99, None),
        ];
        for (what, interface, expected) in cases {
            assert_eq!(exit(interface, &[2], &snapshot), expected, "{what}");
        }
        assert_eq!(exit(14, &[10], &snapshot), Some(Exit { port: 10, tag: 9 }), "a VLAN as port");

        let prefix: Prefix = "10.1.2.0/24".parse().unwrap();
        let found = resolve_prefix(1, prefix, &[2], &snapshot).unwrap();
        assert_eq!((found.interface, found.exit), (10, Exit { port: 2, tag: 7 }));
    }

    #[test]
    fn prefixes_find_their_interface() {
        type Case = (
            &'static str,
            &'static [(u32, &'static str)],
            &'static str,
            &'static [u32],
            Option<u32>,
        );
        let cases: [Case; 11] = [
            ("the only one", &[(2, "10.1.2.1/24")], "10.1.2.0/24", &[2, 3], Some(2)),
            ("none", &[(2, "10.1.3.1/24")], "10.1.2.0/24", &[2, 3], None),
            ("not ours", &[(4, "10.1.2.1/24")], "10.1.2.0/24", &[2, 3], None),
            (
                "the lowest index",
                &[(3, "10.1.2.1/24"), (2, "10.1.2.2/24")],
                "10.1.2.0/24",
                &[3, 2],
                Some(2),
            ),
            (
                "the same length before the lowest index",
                &[(2, "10.1.2.1/25"), (3, "10.1.2.129/24")],
                "10.1.2.0/24",
                &[2, 3],
                Some(3),
            ),
            (
                "any length if none is the same",
                &[(3, "10.1.2.1/32"), (2, "10.1.99.1/24")],
                "10.1.2.0/24",
                &[2, 3],
                Some(3),
            ),
            ("an address on a shorter prefix", &[(2, "10.1.2.1/8")], "10.1.2.0/24", &[2], Some(2)),
            (
                "an address elsewhere in the shorter prefix",
                &[(2, "10.9.9.9/8")],
                "10.1.2.0/24",
                &[2],
                None,
            ),
            (
                "IPv6",
                &[(2, "10.1.2.1/24"), (3, "2001:db8::1/64"), (2, "fe80::1/64")],
                "2001:db8::/64",
                &[2, 3],
                Some(3),
            ),
            ("the other family", &[(2, "0.0.0.1/0")], "::/0", &[2], None),
            ("an interface that is down", &[(4, "10.1.2.1/24")], "10.1.2.0/24", &[4], Some(4)),
        ];
        for (what, addresses, prefix, interfaces, expected) in cases {
            let prefix: Prefix = prefix.parse().unwrap();
            let config = Config::default().vlan(7, prefix);
            let resolved = resolve_prefixes(&config, interfaces, &snapshot(addresses));
            match (resolved, expected) {
                (Ok(found), Some(interface)) => {
                    let exit = untagged(interface);
                    let expected = PrefixInterface { vlan: 7, prefix, interface, exit };
                    assert_eq!(found, [expected], "{what}");
                }
                (Err(Error::PrefixNotFound { vlan: 7, .. }), None) => {}
                (other, _) => panic!("{what}: {other:?}"),
            }
        }
    }

    #[test]
    fn missing_prefix_names_the_interfaces() {
        let config = Config::default()
            .vlan(1, "10.1.2.0/24".parse().unwrap())
            .vlan(2, "10.1.3.0/24".parse().unwrap());
        let error = resolve_prefixes(&config, &[2, 9], &snapshot(&[(2, "10.1.2.1/24")]));
        let text = error.unwrap_err().to_string();
        for part in ["VLAN 2", "10.1.3.0/24", "eth0, interface 9"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn every_prefix_is_resolved_in_order() {
        let config = Config::default()
            .vlan(2, "10.1.3.0/24".parse().unwrap())
            .vlan(1, "2001:db8::/64".parse().unwrap())
            .vlan(1, "10.1.2.0/24".parse().unwrap());
        let snapshot = snapshot(&[(2, "10.1.2.1/24"), (3, "10.1.3.1/24"), (2, "2001:db8::1/64")]);
        let found = resolve_prefixes(&config, &[2, 3], &snapshot).unwrap();
        let found: Vec<_> = found.iter().map(|p| (p.vlan, p.interface)).collect();
        assert_eq!(found, [(1, 2), (1, 2), (2, 3)]);
    }

    #[test]
    fn next_hops() {
        use DestinationStatus::*;
        use NeighbourState as S;
        let broadcast = Some(Mac([0xff; 6]));
        let known = Some(SERVER);
        let reached = |interface| {
            let exit = untagged(interface);
            Ok(NextHop { interface, exit, source: ROUTER, destination: SERVER, mtu: 1500 })
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
            ("gone", "10.1.5.3", Some((S::Permanent, known)), failed(InterfaceDown, Some(5))),
        ];
        let prefixes: Vec<PrefixInterface> =
            [("10.1.2.0/24", 2), ("2001:db8::/64", 3), ("10.1.4.0/24", 4), ("10.1.5.0/24", 5)]
                .into_iter()
                .map(|(prefix, interface)| PrefixInterface {
                    vlan: 1,
                    prefix: prefix.parse().unwrap(),
                    interface,
                    exit: untagged(interface),
                })
                .collect();
        for (what, address, neighbour, expected) in cases {
            let address: IpAddr = address.parse().unwrap();
            let mut snapshot = snapshot(&[(2, "10.1.2.1/24"), (3, "2001:db8::1/64")]);
            if let Some((state, mac)) = neighbour {
                for index in 2..6 {
                    let neighbour = Neighbour { mac, state, managed: false };
                    snapshot.neighbours.insert((index, address), neighbour);
                }
            }
            assert_eq!(next_hop(address, &prefixes, &snapshot), expected, "{what}");
        }
    }

    #[test]
    fn a_neighbour_of_another_interface_does_not_count() {
        let prefix = "10.1.2.0/24".parse().unwrap();
        let exit = untagged(2);
        let prefixes = [PrefixInterface { vlan: 1, prefix, interface: 2, exit }];
        let address: IpAddr = "10.1.2.3".parse().unwrap();
        let mut snapshot = snapshot(&[(2, "10.1.2.1/24")]);
        let state = NeighbourState::Reachable;
        let neighbour = Neighbour { mac: Some(SERVER), state, managed: true };
        snapshot.neighbours.insert((3, address), neighbour);
        let status = DestinationStatus::Resolving;
        let expected = Err(Unreachable { status, interface: Some(2) });
        assert_eq!(next_hop(address, &prefixes, &snapshot), expected);
    }
}
