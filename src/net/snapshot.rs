//! The kernel's network at one moment, as plain values.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::Mac;
use crate::Prefix;

/// The links, addresses and neighbours of a network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Interfaces by index.
    pub(crate) links: BTreeMap<u32, Link>,
    /// The host's own addresses of both families, in order, link-local and
    /// tentative ones included.
    pub(crate) addresses: Vec<Address>,
    /// Neighbour entries of both families by interface and address.
    pub(crate) neighbours: BTreeMap<(u32, IpAddr), Neighbour>,
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
    /// The index of the bond or bridge that it is a member of.
    pub(crate) master: Option<u32>,
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
}

impl Snapshot {
    /// Takes a change in; returns whether it was news.
    pub(super) fn apply(&mut self, change: Change) -> bool {
        match change {
            Change::Link(link) => {
                let news = self.links.get(&link.index) != Some(&link);
                self.links.insert(link.index, link);
                news
            }
            Change::LinkGone(index) => {
                let known = self.links.remove(&index).is_some();
                self.addresses.retain(|address| address.index != index);
                self.neighbours.retain(|key, _| key.0 != index);
                known
            }
            Change::Address(address) => match self.addresses.binary_search(&address) {
                Ok(_) => false,
                Err(place) => {
                    self.addresses.insert(place, address);
                    true
                }
            },
            Change::AddressGone(address) => match self.addresses.binary_search(&address) {
                Ok(place) => {
                    self.addresses.remove(place);
                    true
                }
                Err(_) => false,
            },
            Change::Neighbour(key, neighbour) => {
                let old = self.neighbours.insert(key, neighbour);
                old.is_none_or(|old| old.essence() != neighbour.essence())
            }
            Change::NeighbourGone(key) => self.neighbours.remove(&key).is_some(),
        }
    }
}
