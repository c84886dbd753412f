//! Which interface and which neighbour lead to a destination: pure, no I/O.

use std::net::IpAddr;

use crate::Config;
use crate::DestinationStatus;
use crate::Error;
use crate::Mac;
use crate::Prefix;
use crate::Result;
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
}

/// How a packet reaches a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NextHop {
    /// The index of the interface that it leaves by.
    pub(crate) interface: u32,
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

/// Finds the interface of each prefix: the one of `interfaces` with an
/// address inside it, by preference an address whose own prefix is as long,
/// then the one with the lowest index.
pub(crate) fn resolve_prefixes(
    config: &Config,
    interfaces: &[u32],
    snapshot: &Snapshot,
) -> Result<Vec<PrefixInterface>> {
    config
        .prefixes()
        .map(|(vlan, prefix)| {
            resolve_prefix(vlan, prefix, interfaces, snapshot).ok_or_else(|| {
                let interfaces = names(interfaces, snapshot);
                Error::PrefixNotFound { vlan, prefix, interfaces }
            })
        })
        .collect()
}

/// Finds the interface of one prefix in the same way.
pub(crate) fn resolve_prefix(
    vlan: u16,
    prefix: Prefix,
    interfaces: &[u32],
    snapshot: &Snapshot,
) -> Option<PrefixInterface> {
    let addresses = snapshot.addresses.iter();
    let interface = addresses
        .filter(|a| interfaces.contains(&a.index) && prefix.contains(a.address))
        .min_by_key(|a| (a.prefix.length() != prefix.length(), a.index))?
        .index;
    Some(PrefixInterface { vlan, prefix, interface })
}

/// Finds the way to an address in one of the prefixes.
pub(crate) fn next_hop(
    address: IpAddr,
    prefixes: &[PrefixInterface],
    snapshot: &Snapshot,
) -> std::result::Result<NextHop, Unreachable> {
    // No two prefixes of a configuration overlap.
    let Some(&PrefixInterface { interface, .. }) =
        prefixes.iter().find(|p| p.prefix.contains(address))
    else {
        return Err(Unreachable { status: DestinationStatus::NoPrefix, interface: None });
    };
    if snapshot.addresses.iter().any(|own| own.address == address) {
        // No neighbour answers for it, and asking would announce it.
        return Err(Unreachable { status: DestinationStatus::NoNeighbour, interface: None });
    }
    let unreachable = |status| Unreachable { status, interface: Some(interface) };
    let link = snapshot
        .links
        .get(&interface)
        .filter(|link| link.running)
        .ok_or_else(|| unreachable(DestinationStatus::InterfaceDown))?;
    let neighbour = snapshot.neighbours.get(&(interface, address));
    let destination = destination(neighbour).map_err(unreachable)?;
    Ok(NextHop { interface, source: link.mac, destination, mtu: link.mtu })
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
    use crate::net::Link;

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
                    let expected = PrefixInterface { vlan: 7, prefix, interface };
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
        let reached =
            |interface| Ok(NextHop { interface, source: ROUTER, destination: SERVER, mtu: 1500 });
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
        let prefixes = [PrefixInterface { vlan: 1, prefix, interface: 2 }];
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
