//! The interfaces that a balancer runs on, and what is stacked on them: pure, no
//! I/O.

use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::net::IpAddr;

use crate::Error;
use crate::Result;
use crate::bpf::InterfacesRecord;
use crate::net::Link;
use crate::net::Snapshot;

/// The most interfaces that programs can be attached to, members of bonds counted
/// one by one.
pub(crate) const MAX_DEVICES: usize = InterfacesRecord::ROOM;

/// An interface that frames come in and leave by. A bond is one, its members are
/// none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    /// Its index; another one after it was removed and made anew.
    pub(crate) index: u32,
    /// Its name when the balancer was started.
    pub(crate) name: String,
    /// Whether it can send.
    pub(crate) up: bool,
    /// Whether the program is on each member of a bond, not on the bond.
    pub(crate) split: bool,
    /// The interfaces that have the program, of all ports.
    pub(crate) attached: Vec<u32>,
}

/// An interface that the program has to be on.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    /// Its index.
    pub(crate) index: u32,
    /// Its present name.
    pub(crate) name: String,
    /// The bond of which it is one of several with the program.
    pub(crate) bond: Option<u32>,
    /// Its present MTU.
    pub(crate) mtu: u32,
    /// Whether it is a bond.
    pub(crate) is_bond: bool,
    /// The interface that it is a VLAN or MAC VLAN on.
    pub(crate) on: Option<String>,
    /// What its frames come in by: itself, or the members of a bond.
    pub(crate) cards: Vec<Card>,
}

/// An interface whose receive offloads matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Card {
    /// Its index.
    pub(crate) index: u32,
    /// Its name.
    pub(crate) name: String,
}

/// How frames of an interface leave: by which port, in which VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    /// The index of the port.
    pub(crate) port: u32,
    /// The id of their 802.1Q tag, 0 without one.
    pub(crate) tag: u16,
}

/// The protocol of the tags that are understood (IEEE 802.1Q).
const TAG_PROTOCOL: u16 = 0x8100;

impl Device {
    /// Whether the program would be on the same interface for the same port.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.index == other.index && self.bond == other.bond
    }

    /// The card of this index.
    pub(crate) fn card(&self, index: u32) -> Option<&Card> {
        self.cards.iter().find(|card| card.index == index)
    }
}

impl Port {
    /// Finds the port again when its interface was removed and made anew.
    pub(crate) fn follow(&mut self, snapshot: &Snapshot) {
        if !snapshot.links.contains_key(&self.index)
            && let Some(link) = snapshot.link(&self.name)
        {
            self.index = link.index;
        }
    }

    /// Whether it can send now.
    pub(crate) fn runs(&self, snapshot: &Snapshot) -> bool {
        snapshot.links.get(&self.index).is_some_and(|link| link.running)
    }

    /// The interfaces that the program has to be on.
    pub(crate) fn devices(&self, snapshot: &Snapshot) -> Vec<Device> {
        let bond = self.split.then_some(self.index);
        let card = |link: &Link| Card { index: link.index, name: link.name.clone() };
        let device = |link: &Link| Device {
            index: link.index,
            name: link.name.clone(),
            bond,
            mtu: link.mtu,
            is_bond: is_bond(link),
            on: link.stacked.and_then(|s| Some(snapshot.links.get(&s.lower)?.name.clone())),
            cards: match is_bond(link) {
                true => snapshot.members(link.index).map(card).collect(),
                false => vec![card(link)],
            },
        };
        match bond {
            Some(bond) => snapshot.members(bond).map(device).collect(),
            None => snapshot.links.get(&self.index).into_iter().map(device).collect(),
        }
    }

    /// Whether any of its interfaces has the program.
    pub(crate) fn is_attached(&self, snapshot: &Snapshot) -> bool {
        self.devices(snapshot).iter().any(|device| self.attached.contains(&device.index))
    }

    /// The interface that frames for a neighbour leave by: of a bond with the
    /// program on its members one that is in use, the same one for a neighbour
    /// as long as it is. Packets leave only by what has the program.
    pub(crate) fn egress(&self, neighbour: IpAddr, snapshot: &Snapshot) -> Option<u32> {
        let is_attached = |index: &u32| self.attached.contains(index);
        if !self.split {
            return Some(self.index).filter(is_attached);
        }
        let usable = snapshot.members(self.index).filter(|link| link.running && !link.backup);
        usable.map(|link| link.index).filter(is_attached).max_by_key(|member| {
            let mut hasher = DefaultHasher::new();
            (member, neighbour).hash(&mut hasher);
            hasher.finish()
        })
    }
}

/// The ports of these names. A bond's members stand for the bond.
pub(crate) fn resolve(names: &[&str], snapshot: &Snapshot) -> Result<Vec<Port>> {
    let list = |reason: String| Error::InterfaceList { reason };
    if names.is_empty() {
        return Err(list("it is empty".to_owned()));
    }
    let mut links: Vec<&Link> = Vec::new();
    let mut ports: Vec<Port> = Vec::new();
    for name in names {
        let interface = (*name).to_owned();
        let Some(link) = snapshot.link(name) else {
            return Err(Error::InterfaceNotFound { interface });
        };
        if links.iter().any(|other| other.index == link.index) {
            return Err(list(format!("`{name}` is there twice")));
        }
        let same = |a: &Link, b: &Link| bond(a, snapshot).index == b.index;
        if let Some(other) = links.iter().find(|other| same(other, link) || same(link, other)) {
            let (bond, member) = if same(link, other) { (*other, link) } else { (link, *other) };
            let (bond, member) = (&bond.name, &member.name);
            return Err(list(format!(
                "`{member}` is a member of `{bond}`, which is there too; name one of them"
            )));
        }
        links.push(link);
        let link = bond(link, snapshot);
        if !link.up {
            return Err(Error::InterfaceDown { interface: link.name.clone() });
        }
        // Other members may have been named before.
        if !ports.iter().any(|port| port.index == link.index) {
            ports.push(Port {
                index: link.index,
                name: link.name.clone(),
                up: link.running,
                split: false,
                attached: Vec::new(),
            });
        }
    }
    let devices = |port: &Port| snapshot.members(port.index).count().max(1);
    let devices: usize = ports.iter().map(devices).sum();
    if devices > MAX_DEVICES {
        return Err(list(format!("{devices} are over the limit of {MAX_DEVICES}")));
    }
    Ok(ports)
}

/// The bond that an interface is a member of, or the interface itself.
fn bond<'a>(link: &'a Link, snapshot: &'a Snapshot) -> &'a Link {
    let master = link.master.and_then(|master| snapshot.links.get(&master));
    master.filter(|master| is_bond(master)).unwrap_or(link)
}

/// Whether the interface is a bond.
pub(crate) fn is_bond(link: &Link) -> bool {
    link.kind.as_deref() == Some("bond")
}

/// The indices of the ports that programs on these interfaces belong to.
pub(crate) fn of_devices(devices: impl Iterator<Item = u32>, snapshot: &Snapshot) -> Vec<u32> {
    let links = devices.filter_map(|device| snapshot.links.get(&device));
    links.map(|link| bond(link, snapshot).index).collect()
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Stacked;
    use crate::net::sample::bonded;
    use crate::net::sample::link;
    use crate::net::sample::snapshot;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn names_become_ports() {
        let mut snapshot = bonded(&[]);
        snapshot.links.insert(5, Link { up: false, ..link(5, "eth3", false) });
        snapshot.links.insert(6, link(6, "br0", true));
        snapshot.links.insert(7, Link { master: Some(6), ..link(7, "eth4", true) });
        type Case<'a> = (&'a [&'a str], std::result::Result<&'a [u32], &'a str>);
        let cases: [Case<'_>; 13] = [
            (&["eth2"], Ok(&[4])),
            (&["eth2", "bond0"], Ok(&[4, 10])),
            (&["bond0"], Ok(&[10])),
            (&["eth0"], Ok(&[10])),
            (&["eth1", "eth2", "eth0"], Ok(&[10, 4])),
            // A member of a bridge is none of a bond.
            (&["eth4", "br0"], Ok(&[7, 6])),
            (&[], Err("empty")),
            (&["eth2", "eth2"], Err("`eth2` is there twice")),
            (&["eth0", "eth0"], Err("`eth0` is there twice")),
            (&["bond0", "eth1"], Err("`eth1` is a member of `bond0`")),
            (&["eth1", "bond0"], Err("`eth1` is a member of `bond0`")),
            (&["eth3"], Err("`eth3` is down")),
            (&["eth9"], Err("`eth9`")),
        ];
        for (names, expected) in cases {
            let found = resolve(names, &snapshot);
            match (found, expected) {
                (Ok(ports), Ok(expected)) => {
                    let found: Vec<u32> = ports.iter().map(|port| port.index).collect();
                    assert_eq!(found, expected, "{names:?}");
                }
                (Err(error), Err(part)) => {
                    assert!(error.to_string().contains(part), "{names:?}: {error}");
                }
                (found, _) => panic!("{names:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn members_count_against_the_limit() {
        let mut snapshot = bonded(&[]);
        for index in 100..100 + MAX_DEVICES as u32 {
            snapshot.links.insert(index, Link { master: Some(10), ..link(index, "member", true) });
        }
        let error = resolve(&["bond0"], &snapshot).unwrap_err().to_string();
        assert!(error.contains("66 are over the limit of 64"), "{error}");
    }

    fn split(snapshot: &Snapshot) -> Port {
        let mut port = resolve(&["bond0"], snapshot).unwrap().remove(0);
        port.split = true;
        port.attached = vec![2, 3];
        port
    }

    #[test]
    fn a_split_bond_has_the_program_on_its_members() {
        let snapshot = bonded(&[]);
        let whole = resolve(&["bond0"], &snapshot).unwrap().remove(0);
        let names = |port: &Port| -> Vec<String> {
            port.devices(&snapshot).into_iter().map(|device| device.name).collect()
        };
        assert_eq!(names(&whole), ["bond0"]);
        let cards = &whole.devices(&snapshot)[0].cards;
        assert_eq!(cards.iter().map(|card| card.index).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(names(&split(&snapshot)), ["eth0", "eth1"]);
        assert_eq!(of_devices([2, 4, 99].into_iter(), &snapshot), [10, 4]);
    }

    #[test]
    fn frames_leave_by_members_in_use() {
        let mut snapshot = bonded(&[]);
        let mut whole = resolve(&["bond0"], &snapshot).unwrap().remove(0);
        let mut port = split(&snapshot);
        assert_eq!(whole.egress(ip("10.1.2.3"), &snapshot), None, "it is not attached to");
        assert!(!whole.is_attached(&snapshot) && port.is_attached(&snapshot));
        whole.attached = vec![10];
        assert_eq!(whole.egress(ip("10.1.2.3"), &snapshot), Some(10));
        assert_eq!(port.egress(ip("10.1.2.3"), &snapshot), Some(2), "the other is a backup");

        snapshot.links.get_mut(&3).unwrap().backup = false;
        let neighbours: Vec<IpAddr> = (0..100).map(|host| IpAddr::from([10, 1, 2, host])).collect();
        let by = |port: &Port, snapshot: &Snapshot| -> Vec<Option<u32>> {
            neighbours.iter().map(|neighbour| port.egress(*neighbour, snapshot)).collect()
        };
        let both = by(&port, &snapshot);
        let first = both.iter().filter(|member| **member == Some(2)).count();
        assert!((30..=70).contains(&first), "{first} of 100 by the first member");

        snapshot.links.get_mut(&2).unwrap().running = false;
        assert!(by(&port, &snapshot).iter().all(|member| *member == Some(3)));
        snapshot.links.get_mut(&2).unwrap().running = true;
        assert_eq!(by(&port, &snapshot), both, "they come back to where they were");

        port.attached = vec![3];
        assert!(
            neighbours.iter().all(|n| port.egress(*n, &snapshot) == Some(3)),
            "none by a member without the program"
        );
        snapshot.links.retain(|index, _| *index != 2 && *index != 3);
        assert_eq!(port.egress(ip("10.1.2.3"), &snapshot), None);
    }

    #[test]
    fn a_port_is_found_again_by_its_name() {
        let mut snapshot = snapshot(&[]);
        let mut port = resolve(&["eth0"], &snapshot).unwrap().remove(0);
        let mut renamed = snapshot.links[&2].clone();
        renamed.name = "uplink".to_owned();
        snapshot.links.insert(2, renamed);
        snapshot.links.insert(20, link(20, "eth0", true));
        port.follow(&snapshot);
        assert_eq!(port.index, 2, "another name is no other interface");
        snapshot.links.remove(&2);
        assert!(!port.runs(&snapshot));
        port.follow(&snapshot);
        assert_eq!(port.index, 20);
        assert!(port.runs(&snapshot));
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
    }
}
