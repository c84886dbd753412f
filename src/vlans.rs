//! Which interface a VLAN's prefix is reached by: pure, no I/O.

use std::net::IpAddr;

use crate::Config;
use crate::Prefix;
use crate::VlanStatus;
use crate::config::MIN_MTU6;
use crate::net::Link;
use crate::net::Snapshot;
use crate::ports;
use crate::ports::Exit;
use crate::ports::Port;

/// A prefix of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VlanPrefix {
    /// The id of the VLAN that has the prefix.
    pub(crate) vlan: u16,
    /// The prefix as configured.
    pub(crate) prefix: Prefix,
    /// The longest IP packet that may be sent, as configured, in octets.
    pub(crate) limit: Option<u32>,
    /// What it is reached by, if by anything.
    pub(crate) place: Option<Place>,
}

/// The interface that a prefix is reached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its index.
    pub(crate) interface: u32,
    /// How its frames leave.
    pub(crate) exit: Exit,
}

impl VlanPrefix {
    /// The interface, while there is one.
    pub(crate) fn link<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a Link> {
        snapshot.links.get(&self.place?.interface)
    }

    /// The host's address in the prefix, by preference one whose own prefix is as
    /// long.
    pub(crate) fn own_address(&self, snapshot: &Snapshot) -> Option<IpAddr> {
        let interface = self.place?.interface;
        let own = snapshot.addresses.iter();
        own.filter(|a| a.index == interface && self.prefix.contains(a.address))
            .min_by_key(|a| a.prefix.length() != self.prefix.length())
            .map(|a| a.address)
    }

    /// The longest IP packet that is sent, in octets.
    pub(crate) fn mtu(&self, link: &Link) -> u32 {
        self.limit.map_or(link.mtu, |limit| limit.min(link.mtu))
    }

    /// Whether its destinations can be reached, as far as that depends on
    /// interfaces.
    pub(crate) fn status(&self, ports: &[Port], snapshot: &Snapshot) -> VlanStatus {
        let runs = |index: u32| snapshot.links.get(&index).is_some_and(|link| link.running);
        let Some((place, link)) = self.place.zip(self.link(snapshot)) else {
            let elsewhere = snapshot.addresses.iter().any(|a| self.prefix.contains(a.address));
            return if elsewhere { VlanStatus::Elsewhere } else { VlanStatus::NoInterface };
        };
        let port = ports.iter().find(|port| port.index == place.exit.port);
        // Not everything is down when what it is on is.
        if !link.running || !runs(place.exit.port) {
            VlanStatus::Down
        } else if !self.prefix.address().is_ipv4() && link.mtu < MIN_MTU6 {
            VlanStatus::MtuTooSmall
        } else if !port.is_some_and(|port| port.is_attached(snapshot)) {
            VlanStatus::NotAttached
        } else {
            VlanStatus::Usable
        }
    }
}

/// Finds the interface of each prefix: of the ports and what is stacked on them
/// the one with an address inside it, by preference an address whose own prefix
/// is as long, then one in the VLAN, then a port, then the one with the lowest
/// index. A prefix whose address went away stays where it was last: IPv6
/// addresses go with a link that is down, and flows need no address of ours.
pub(crate) fn resolve(
    config: &Config,
    ports: &[u32],
    snapshot: &Snapshot,
    last: &[VlanPrefix],
) -> Vec<VlanPrefix> {
    let resolve = |(vlan, prefix): (u16, Prefix)| {
        let last = || {
            let last = last.iter().find(|last| last.prefix == prefix)?.place?;
            // It may have been put on another port.
            let exit = ports::exit(last.interface, ports, snapshot).unwrap_or(last.exit);
            Some(Place { exit, ..last })
        };
        let place = place(vlan, prefix, ports, snapshot).or_else(last);
        VlanPrefix { vlan, prefix, limit: config.mtus.get(&vlan).copied(), place }
    };
    config.prefixes().map(resolve).collect()
}

fn place(vlan: u16, prefix: Prefix, ports: &[u32], snapshot: &Snapshot) -> Option<Place> {
    let addresses = snapshot.addresses.iter().filter(|a| prefix.contains(a.address));
    addresses
        .filter_map(|a| Some((a, ports::exit(a.index, ports, snapshot)?)))
        .min_by_key(|(a, exit)| {
            let stacked = exit.port != a.index;
            (a.prefix.length() != prefix.length(), exit.tag != vlan, stacked, a.index)
        })
        .map(|(a, exit)| Place { interface: a.index, exit })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Stacked;
    use crate::net::sample::add_route;
    use crate::net::sample::hop;
    use crate::net::sample::link;
    use crate::net::sample::snapshot;

    const fn untagged(interface: u32) -> Place {
        Place { interface, exit: Exit { port: interface, tag: 0 } }
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
            let found = resolve(&config, interfaces, &snapshot(addresses), &[]);
            let place = expected.map(untagged);
            assert_eq!(found, [VlanPrefix { vlan: 7, prefix, limit: None, place }], "{what}");
        }
    }

    #[test]
    fn every_prefix_is_resolved_in_order() {
        let config = Config::default()
            .vlan(2, "10.1.3.0/24".parse().unwrap())
            .vlan(1, "2001:db8::/64".parse().unwrap())
            .vlan(1, "10.1.2.0/24".parse().unwrap())
            .mtu(2, 1400);
        let snapshot = snapshot(&[(2, "10.1.2.1/24"), (3, "10.1.3.1/24"), (2, "2001:db8::1/64")]);
        let found = resolve(&config, &[2, 3], &snapshot, &[]);
        let found: Vec<_> =
            found.iter().map(|p| (p.vlan, p.place.unwrap().interface, p.limit)).collect();
        assert_eq!(found, [(1, 2, None), (1, 2, None), (2, 3, Some(1400))]);
    }

    #[test]
    fn a_vlan_is_found_on_its_port() {
        let mut snapshot = snapshot(&[(10, "10.1.2.1/24"), (11, "10.1.2.2/24")]);
        for (index, tag) in [(10, 8), (11, 7)] {
            let stacked = Some(Stacked { lower: 2, tag: Some((0x8100, tag)) });
            snapshot.links.insert(index, Link { stacked, ..link(index, "vlan", true) });
        }
        let config = Config::default().vlan(7, "10.1.2.0/24".parse().unwrap());
        let found = resolve(&config, &[2], &snapshot, &[]);
        let place = Place { interface: 11, exit: Exit { port: 2, tag: 7 } };
        assert_eq!(found[0].place, Some(place), "its id decides");
    }

    #[test]
    fn a_prefix_stays_where_it_was() {
        let config = Config::default().vlan(7, "2001:db8::/64".parse().unwrap());
        let before = snapshot(&[(3, "2001:db8::1/64")]);
        let last = resolve(&config, &[2, 3], &before, &[]);
        let after = resolve(&config, &[2, 3], &snapshot(&[]), &last);
        assert_eq!(after, last);
        assert_eq!(after[0].own_address(&snapshot(&[])), None);
        let moved = resolve(&config, &[2, 3], &snapshot(&[(2, "2001:db8::2/64")]), &last);
        assert_eq!(moved[0].place, Some(untagged(2)), "until another interface has it");
    }

    #[test]
    fn what_is_wrong_with_a_vlan_is_told() {
        let v4 = VlanPrefix {
            vlan: 7,
            prefix: "10.1.2.0/24".parse().unwrap(),
            limit: None,
            place: Some(untagged(2)),
        };
        let v6 = VlanPrefix { prefix: "2001:db8::/64".parse().unwrap(), ..v4 };
        let with = |place| VlanPrefix { place, ..v4 };
        let tagged = Place { interface: 10, exit: Exit { port: 4, tag: 7 } };
        let mut small = snapshot(&[]);
        small.links.get_mut(&2).unwrap().mtu = 1279;
        let mut stacked = snapshot(&[]);
        stacked.links.insert(10, link(10, "eth2.7", true));
        let elsewhere = snapshot(&[(4, "10.1.2.1/24")]);
        let cases = [
            ("well", v4, snapshot(&[]), VlanStatus::Usable),
            ("without interface", with(None), snapshot(&[]), VlanStatus::NoInterface),
            ("gone", with(Some(untagged(99))), snapshot(&[]), VlanStatus::NoInterface),
            ("elsewhere", with(None), elsewhere, VlanStatus::Elsewhere),
            ("down", with(Some(untagged(4))), snapshot(&[]), VlanStatus::Down),
            ("its port is down", with(Some(tagged)), stacked, VlanStatus::Down),
            ("small for IPv4", v4, small.clone(), VlanStatus::Usable),
            ("too small for IPv6", v6, small, VlanStatus::MtuTooSmall),
            ("IPv6", v6, snapshot(&[]), VlanStatus::Usable),
            ("bare", with(Some(untagged(3))), snapshot(&[]), VlanStatus::NotAttached),
        ];
        for (what, prefix, snapshot, expected) in cases {
            let mut ports = ports::resolve(&["eth0", "eth1", "eth2"], &snapshot).unwrap();
            let attached = [2, 4].to_vec();
            ports.iter_mut().for_each(|port| port.attached.clone_from(&attached));
            assert_eq!(prefix.status(&ports, &snapshot), expected, "{what}");
        }
    }

    #[test]
    fn the_address_the_gateway_and_the_mtu_are_the_interfaces() {
        let mut snapshot = snapshot(&[(2, "10.1.2.1/32"), (2, "10.1.2.9/24"), (3, "10.1.2.3/24")]);
        for (prefix, metric, interface, gateway) in [
            ("0.0.0.0/0", 1, 2, ""),
            ("0.0.0.0/0", 5, 3, "10.1.2.252"),
            ("0.0.0.0/0", 20, 2, "10.1.2.253"),
            ("0.0.0.0/0", 10, 2, "10.1.2.254"),
            ("0.0.0.0/1", 1, 2, "10.1.2.251"),
            ("::/0", 1, 2, "fe80::1"),
        ] {
            add_route(&mut snapshot, prefix, metric, &[hop(interface, gateway)]);
        }
        let prefix = VlanPrefix {
            vlan: 7,
            prefix: "10.1.2.0/24".parse().unwrap(),
            limit: None,
            place: Some(untagged(2)),
        };
        let ip = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        assert_eq!(prefix.own_address(&snapshot), ip("10.1.2.9"));
        assert_eq!(snapshot.gateway(2, true), ip("10.1.2.254"), "the least metric");
        assert_eq!(snapshot.gateway(2, false), ip("fe80::1"));
        assert_eq!(snapshot.gateway(3, false), None);
        let link = prefix.link(&snapshot).unwrap();
        assert_eq!(prefix.mtu(link), 1500);
        let limited = |octets| VlanPrefix { limit: Some(octets), ..prefix }.mtu(link);
        assert_eq!((limited(1400), limited(9000)), (1400, 1500));
    }
}
