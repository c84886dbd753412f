//! The kernel's network at one moment, as plain values.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::mem;
use std::net::IpAddr;

use super::routes::Order;
use super::routes::Route;
use super::routes::Routes;
use crate::Mac;
use crate::Prefix;

/// The links, addresses, neighbours and routes of a network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Interfaces by index.
    pub(crate) links: BTreeMap<u32, Link>,
    /// The host's own addresses of both families, in order, link-local and
    /// tentative ones included.
    pub(crate) addresses: Vec<Address>,
    /// Neighbour entries of both families by interface and address.
    pub(crate) neighbours: BTreeMap<(u32, IpAddr), Neighbour>,
    /// The main table's routes.
    pub(crate) routes: Routes,
    /// The nexthop objects that routes are by, or were since all was read.
    pub(super) objects: BTreeSet<u32>,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// Its index, unique in the namespace.
    pub(crate) index: u32,
    /// Its present name.
    pub(crate) name: String,
    /// Its address; all zero if it is no Ethernet interface.
    pub(crate) mac: Mac,
    /// Whether it is administratively up.
    pub(crate) up: bool,
    /// Whether it is up and can send: there is a carrier and nothing else,
    /// such as a lower interface, keeps it down.
    pub(crate) running: bool,
    /// The longest IP packet that it sends, in octets.
    pub(crate) mtu: u32,
    /// The kind of a virtual interface, such as `veth` or `bond`.
    pub(crate) kind: Option<String>,
    /// What it is on, if it is a VLAN or a MAC VLAN of another interface.
    pub(crate) stacked: Option<Stacked>,
    /// The bond, bridge or the like that it is a member of.
    pub(crate) master: Option<u32>,
    /// Whether it is a member of a bond that neither sends by it nor takes
    /// what comes in there, for now.
    pub(crate) backup: bool,
    /// Receive queues it was made with.
    pub(crate) rx_queues: u32,
    /// Transmit queues it was made with.
    pub(crate) tx_queues: u32,
    /// The XDP program attached.
    pub(crate) xdp: Option<XdpProgram>,
}

/// An interface on top of another one of this namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stacked {
    /// The index of the interface below.
    pub(crate) lower: u32,
    /// The tag that its frames have there: protocol and id. None for a MAC
    /// VLAN.
    pub(crate) tag: Option<(u16, u16)>,
}

/// An XDP program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct XdpProgram {
    /// The id of the program, in the driver if there are several.
    pub(crate) id: u32,
    /// Where it runs.
    pub(crate) mode: XdpMode,
}

/// Where an XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum XdpMode {
    /// In the driver.
    Native,
    /// In the network stack.
    Generic,
    /// On the network card.
    Offloaded,
    /// There are several programs, in different places.
    Several,
}

/// One of the host's own addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address {
    /// The interface it is on.
    pub(crate) index: u32,
    /// The prefix that is on-link through it.
    pub(crate) prefix: Prefix,
    /// The address itself.
    pub(crate) address: IpAddr,
    /// Whether to send from it.
    pub(crate) rank: Rank,
}

impl Address {
    /// What the kernel knows it by; the rest may change.
    pub(super) const fn key(&self) -> (u32, Prefix, IpAddr) {
        (self.index, self.prefix, self.address)
    }
}

/// Whether an own address is one to send from for long, the better the less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// It is there to stay.
    Primary,
    /// There is an earlier one in the same IPv4 prefix.
    Secondary,
    /// It is not ours yet, or not for long: tentative, a duplicate, deprecated
    /// (RFC 4862) or temporary (RFC 8981).
    Unfit,
}

/// What the kernel knows of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Neighbour {
    /// Its address; `None` while or after it did not answer.
    pub(crate) mac: Option<Mac>,
    /// How far the kernel trusts it.
    pub(crate) state: NeighbourState,
    /// Whether the kernel keeps it resolved without traffic.
    pub(crate) managed: bool,
}

impl Neighbour {
    /// What matters of it: the kernel goes from reachable to stale and back
    /// all the time.
    fn essence(&self) -> (Option<Mac>, bool, bool, bool) {
        let failed = self.state == NeighbourState::Failed;
        (self.usable(), self.managed, self.state.is_fixed(), failed)
    }

    /// The address to send to, if it has one that is not in doubt.
    pub(crate) fn usable(&self) -> Option<Mac> {
        match self.state {
            NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::NoArp => self.mac,
            NeighbourState::Incomplete | NeighbourState::Failed | NeighbourState::None => None,
        }
    }
}

/// The states of a neighbour entry (RFC 4861 section 7.3.2, and Linux's own).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NeighbourState {
    /// Asked, not answered yet.
    Incomplete,
    /// Answered lately.
    Reachable,
    /// Answered long ago; asked again when used.
    Stale,
    /// Used while stale; asked soon.
    Delay,
    /// Asked again; the old address is used meanwhile.
    Probe,
    /// Did not answer.
    Failed,
    /// Needs no resolution.
    NoArp,
    /// Set by the administrator.
    Permanent,
    /// Not asked yet.
    None,
}

impl NeighbourState {
    /// Whether the kernel never resolves such an entry.
    pub(crate) const fn is_fixed(self) -> bool {
        matches!(self, Self::Permanent | Self::NoArp)
    }
}

/// One change of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Link(Link),
    LinkGone(u32),
    Address(Address),
    AddressGone(Address),
    Neighbour((u32, IpAddr), Neighbour),
    NeighbourGone((u32, IpAddr)),
    Route(Prefix, Route, Order),
    RouteGone(Prefix, Route),
    /// A nexthop object is another one now, or gone. No message tells what that
    /// does to the routes that are by it.
    Object(u32),
}

impl Snapshot {
    /// The interface of this name.
    pub(crate) fn link(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// The members of a bond, by index.
    pub(crate) fn members(&self, bond: u32) -> impl Iterator<Item = &Link> {
        self.links.values().filter(move |link| link.master == Some(bond))
    }

    /// The gateway of an interface's default route for destinations of a family. A
    /// route by several interfaces outlives one that is down, but is not by it.
    pub(crate) fn gateway(&self, interface: u32, v4: bool) -> Option<IpAddr> {
        self.links.get(&interface).filter(|link| link.up)?;
        let mut hops = self.routes.defaults(v4).flat_map(|route| &route.hops);
        hops.find(|hop| hop.interface == interface && hop.gateway.is_some())?.gateway
    }

    /// Whether the address is one of the host's.
    pub(crate) fn is_own(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.address == address)
    }

    /// Whether it takes reading everything again to follow a change.
    pub(super) fn is_outdated_by(&self, change: &Change) -> bool {
        let runs = |index| self.links.get(index).is_some_and(|link| link.running);
        match change {
            Change::Object(id) => self.objects.contains(id),
            // Nexthop objects go with their interface, and no message tells.
            Change::Link(link) => !self.objects.is_empty() && !link.running && runs(&link.index),
            Change::LinkGone(index) => !self.objects.is_empty() && runs(index),
            _ => false,
        }
    }

    /// Takes a change in; returns whether it was news.
    pub(super) fn apply(&mut self, change: Change) -> bool {
        match change {
            Change::Link(link) => {
                let (index, up) = (link.index, link.up);
                let old = self.links.insert(index, link);
                if !up && old.as_ref().is_some_and(|old| old.up) {
                    self.remove_dead_routes();
                }
                old.as_ref() != self.links.get(&index)
            }
            Change::LinkGone(index) => {
                let known = self.links.remove(&index).is_some();
                self.addresses.retain(|address| address.index != index);
                self.neighbours.retain(|key, _| key.0 != index);
                self.remove_dead_routes();
                known
            }
            Change::Address(address) => match self.find(&address) {
                Ok(place) => mem::replace(&mut self.addresses[place], address) != address,
                Err(place) => {
                    self.addresses.insert(place, address);
                    true
                }
            },
            Change::AddressGone(address) => match self.find(&address) {
                Ok(place) => {
                    self.addresses.remove(place);
                    if !self.is_own(address.address) {
                        self.routes.remove_source(address.address);
                    }
                    true
                }
                Err(_) => false,
            },
            Change::Neighbour(key, neighbour) => {
                let old = self.neighbours.insert(key, neighbour);
                old.is_none_or(|old| old.essence() != neighbour.essence())
            }
            Change::NeighbourGone(key) => self.neighbours.remove(&key).is_some(),
            Change::Route(prefix, route, order) => {
                self.objects.extend(route.object);
                self.routes.add(prefix, route, order)
            }
            Change::RouteGone(prefix, route) => self.routes.remove(prefix, &route),
            Change::Object(_) => false,
        }
    }

    /// The place of an address, whatever its rank, or where it would be.
    fn find(&self, address: &Address) -> Result<usize, usize> {
        self.addresses.binary_search_by_key(&address.key(), Address::key)
    }

    /// No message tells of IPv4 routes that go with their interfaces. One stays
    /// while one of its next hops is on an interface that is up.
    fn remove_dead_routes(&mut self) {
        let links = &self.links;
        self.routes.remove_by(|index| links.get(&index).is_none_or(|link| !link.up));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::sample::snapshot;

    #[test]
    fn another_rank_is_news_and_no_other_address() {
        let own = [(2, "10.1.2.1/24"), (2, "10.1.2.2/24"), (3, "10.1.2.1/24")];
        let mut snapshot = snapshot(&own);
        let before = snapshot.addresses.clone();
        for address in before.clone() {
            assert!(!snapshot.apply(Change::Address(address)), "as before");
            let other = Address { rank: Rank::Unfit, ..address };
            assert!(snapshot.apply(Change::Address(other)));
            assert!(!snapshot.apply(Change::Address(other)), "as before");
            assert!(snapshot.addresses.contains(&other) && !snapshot.addresses.contains(&address));
            assert_eq!(snapshot.addresses.len(), 3);
            assert!(snapshot.addresses.is_sorted() && snapshot.is_own(address.address));
        }
        assert!(snapshot.apply(Change::AddressGone(before[0])), "whatever its rank");
        assert!(!snapshot.apply(Change::AddressGone(before[0])));
        assert_eq!(snapshot.addresses.len(), 2);
    }
}
