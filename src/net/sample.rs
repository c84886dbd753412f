//! Small networks for tests of what is derived from them.

use std::net::IpAddr;

use super::Address;
use super::Hop;
use super::Link;
use super::Mac;
use super::Rank;
use super::Snapshot;
use super::routes::Order;
use super::routes::Route;
use crate::Prefix;

/// The address of every interface.
pub(crate) const ROUTER: Mac = Mac([2, 0, 0, 0, 0, 1]);

/// An interface that is up.
pub(crate) fn link(index: u32, name: &str, running: bool) -> Link {
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
        backup: false,
        rx_queues: 1,
        tx_queues: 1,
        xdp: None,
    }
}

/// `eth0` to `eth2` with indices 2 to 4, of which the last has no carrier, and
/// these addresses with the length of their prefix.
pub(crate) fn snapshot(addresses: &[(u32, &str)]) -> Snapshot {
    let links = [link(2, "eth0", true), link(3, "eth1", true), link(4, "eth2", false)];
    let mut snapshot = Snapshot {
        links: links.into_iter().map(|link| (link.index, link)).collect(),
        ..Snapshot::default()
    };
    for (index, text) in addresses {
        let (address, length) = text.split_once('/').unwrap();
        let address: IpAddr = address.parse().unwrap();
        let prefix = Prefix::containing(address, length.parse().unwrap()).unwrap();
        snapshot.addresses.push(Address { index: *index, prefix, address, rank: Rank::Primary });
    }
    snapshot.addresses.sort();
    snapshot
}

/// The same with a bond, `bond0` of index 10, that has `eth0`, in use, and `eth1`
/// as members.
pub(crate) fn bonded(addresses: &[(u32, &str)]) -> Snapshot {
    let mut snapshot = snapshot(addresses);
    let kind = Some("bond".to_owned());
    snapshot.links.insert(10, Link { kind, ..link(10, "bond0", true) });
    for (index, backup) in [(2, false), (3, true)] {
        let member = snapshot.links.get_mut(&index).unwrap();
        *member = Link { master: Some(10), backup, ..member.clone() };
    }
    snapshot
}

/// A next hop on an interface, without a gateway if that is empty.
pub(crate) fn hop(interface: u32, gateway: &str) -> Hop {
    let gateway = (!gateway.is_empty()).then(|| gateway.parse().unwrap());
    Hop { interface, gateway, weight: 1, source: None, mtu: None }
}

/// Adds a route to a prefix behind those that it has.
pub(crate) fn add_route(snapshot: &mut Snapshot, prefix: &str, metric: u32, hops: &[Hop]) {
    let route = Route { metric, hops: hops.to_vec(), object: None };
    snapshot.routes.add(prefix.parse().unwrap(), route, Order::Last);
}
