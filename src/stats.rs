//! What is counted, and how it is told.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::Destination;
use crate::Mac;
use crate::Mode;
use crate::Offload;
use crate::OnExit;
use crate::Prefix;
use crate::Service;
use crate::Sharing;
use crate::bpf::ReasonCode;
use crate::bpf::Traffic;

/// Traffic of a destination, a service, a virtual address or all of them.
///
/// A service's numbers are the sums of its destinations', removed ones
/// included, and so on upwards. Octets are counted by the IP header's length:
/// neither Ethernet headers nor padding count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Packets forwarded.
    pub packets: u64,
    /// Octets of the IP packets forwarded.
    pub octets: u64,
    /// Flows that began with a packet forwarded.
    pub flows: u64,
    /// TCP SYN packets forwarded.
    pub syn: u64,
    /// TCP FIN packets forwarded.
    pub fin: u64,
    /// TCP RST packets forwarded.
    pub rst: u64,
    /// TCP connections that are open now; no more than 5 seconds old. A
    /// client that vanishes without FIN or RST counts until its idle timeout.
    pub active: u64,
    /// Flows that had a packet in the last minute; no more than 5 seconds old.
    pub recent: u64,
    /// Packets that stored no flow because of [`Service::new_flows`], of a service or
    /// what it is part of; of a destination 0.
    pub limited: u64,
    /// Packets for the service or address that were not forwarded.
    pub reasons: Reasons,
    /// Flows that are remembered and live; no more than 5 seconds old.
    pub live: u64,
}

impl Stats {
    pub(crate) fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.octets += other.octets;
        self.flows += other.flows;
        self.syn += other.syn;
        self.fin += other.fin;
        self.rst += other.rst;
        self.active += other.active;
        self.recent += other.recent;
        self.limited += other.limited;
        self.reasons.add(&other.reasons);
        self.live += other.live;
    }

    pub(crate) fn add_traffic(&mut self, traffic: &Traffic) {
        self.packets += traffic.packets;
        self.octets += traffic.octets;
        self.flows += traffic.flows;
        self.syn += traffic.syn;
        self.fin += traffic.fin;
        self.rst += traffic.rst;
    }
}

/// Makes [`Reasons`] of names and the data plane's codes.
macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident: $code:ident,)*) => {
        /// Packets by what became of them.
        ///
        /// `not_*`, `other_host`, `neighbour_discovery`, `probe_answered` and `unattended`
        /// were passed to the host's stack, `forwarded_*`, `probe_forwarded` and `*_replied`
        /// were sent, the others dropped.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Reasons {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Reasons {
            /// The names, with the data plane's codes.
            pub(crate) const CODES: &'static [(&'static str, ReasonCode)] =
                &[$((stringify!($name), ReasonCode::$code)),*];

            /// The name and the count of each reason.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }

            /// Adds the counts that the data plane has by number.
            pub(crate) fn add_counts(&mut self, counts: &[u64]) {
                $(self.$name += counts[ReasonCode::$code.0 as usize];)*
            }

            pub(crate) fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

reasons! {
    /// Passed: no IP packet (ARP, two VLAN tags and the like).
    not_ip: XVS_NOT_IP,
    /// Passed: an IP packet for no virtual address.
    not_vip: XVS_NOT_VIP,
    /// Passed: for a virtual address, but in a frame to another host's MAC
    /// address (a switch flooded it, or the interface is promiscuous).
    other_host: XVS_OTHER_HOST,
    /// Passed: IPv6 neighbour discovery for a virtual address.
    neighbour_discovery: XVS_NEIGHBOUR_DISCOVERY,
    /// Forwarded: to the destination of a known flow.
    forwarded_flow: XVS_FORWARDED_FLOW,
    /// Forwarded: no flow was known, the hash chose; the flow is stored, unless the
    /// service's limit ([`Service::new_flows`]) was reached.
    forwarded_new: XVS_FORWARDED_NEW,
    /// Forwarded: a SYN whose destination the hash chose.
    forwarded_syn: XVS_FORWARDED_SYN,
    /// Forwarded: a later fragment, after its first one.
    forwarded_fragment: XVS_FORWARDED_FRAGMENT,
    /// Forwarded: an ICMP error to the owner of the packet it quotes.
    forwarded_icmp: XVS_FORWARDED_ICMP,
    /// Answered: an ICMP echo request.
    echo_replied: XVS_ECHO_REPLIED,
    /// Answered: too large for the way out, the client is told so.
    too_big_replied: XVS_TOO_BIG_REPLIED,
    /// Dropped: too large for the way out, and no answer was due: enough were
    /// sent this second, or it is an ICMP error or a later fragment.
    too_big_limited: XVS_TOO_BIG_LIMITED,
    /// Dropped: no service has this port and protocol.
    no_service: XVS_NO_SERVICE,
    /// Dropped: the service has no usable destination.
    no_destination: XVS_NO_DESTINATION,
    /// Dropped: time to live or hop limit used up.
    ttl_expired: XVS_TTL_EXPIRED,
    /// Dropped: lengths, versions or headers that contradict each other.
    malformed: XVS_MALFORMED,
    /// Dropped: a later fragment whose first one was not seen.
    fragment_orphan: XVS_FRAGMENT_ORPHAN,
    /// Dropped: an ICMP message that is neither echo request nor error, or
    /// an echo request in fragments or from no single host.
    icmp_unsupported: XVS_ICMP_UNSUPPORTED,
    /// Dropped: an ICMP error that quotes no packet of the virtual address.
    icmp_unowned: XVS_ICMP_UNOWNED,
    /// Dropped: the driver leaves no room in front of a frame for a VLAN tag or a
    /// tunnel's headers, or has more in several buffers than the packet.
    no_headroom: XVS_NO_HEADROOM,
    /// Dropped: from outside to a NAT address.
    nat_from_wire: XVS_NAT_FROM_WIRE,
    /// Dropped: what looks like a probe's packet, but is for no destination, from
    /// another address than the host's, in fragments, or an answer that came in by
    /// another way than the probe's.
    probe_refused: XVS_PROBE_REFUSED,
    /// Sent: a packet of the host's own to a NAT address.
    probe_forwarded: XVS_PROBE_FORWARDED,
    /// Handed to the host: what a probe's packet was answered with.
    probe_answered: XVS_PROBE_ANSWERED,
    /// Passed: no process saw to the balancer for longer than
    /// [`OnExit::KeepFor`] allows.
    unattended: XVS_UNATTENDED,
}

/// Why a destination gets traffic or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DestinationStatus {
    /// Its next hop is known.
    Reachable,
    /// Its address is in no VLAN's prefix.
    NoPrefix,
    /// The interface that leads there is down.
    InterfaceDown,
    /// The neighbour entry, its own or its gateway's, has no MAC address yet.
    Resolving,
    /// The kernel asked for the MAC address and got no answer.
    NoNeighbour,
    /// Its VLAN has no interface, or its route leads out by one that is none of the
    /// balancer's.
    NoInterface,
    /// The MTU of the way there is too small: 1,280 octets are the least for
    /// IPv6 (RFC 8200, section 5), 68 for IPv4 (RFC 791), of the packet in a
    /// tunnel too.
    MtuTooSmall,
    /// The program could not be attached to the interface that leads there.
    NotAttached,
    /// No route leads to the other end of its tunnel.
    NoRoute,
    /// There is no address to send from to the other end of its tunnel: the route
    /// there has no `src`, and its interface no address of the family that is there
    /// to stay. VIPs, link-local IPv6 addresses, and those that are tentative,
    /// duplicate, deprecated or temporary are none.
    NoAddress,
}

impl fmt::Display for DestinationStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Reachable => "reachable",
            Self::NoPrefix => "its address is in no VLAN's prefix",
            Self::InterfaceDown => "the interface that leads there is down",
            Self::Resolving => "the MAC address of its next hop is not known yet",
            Self::NoNeighbour => "no neighbour answers for its address or its gateway's",
            Self::NoInterface => "no interface of the balancer's leads there",
            Self::MtuTooSmall => "the MTU of the way there is too small",
            Self::NotAttached => "the program is not on the interface that leads there",
            Self::NoRoute => "no route leads there",
            Self::NoAddress => {
                "the interface that leads there has no lasting address of its family"
            }
        })
    }
}

/// Why a service forwards or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServiceStatus {
    /// At least one destination is usable.
    Forwarding,
    /// Destinations are reachable, and its table is being built.
    Starting,
    /// It has no destinations.
    Empty,
    /// Every destination is disabled.
    Disabled,
    /// No enabled destination is reachable, this one for this reason.
    Unreachable(IpAddr, DestinationStatus),
}

impl fmt::Display for ServiceStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forwarding => f.pad("forwarding"),
            Self::Starting => f.pad("its table is being built"),
            Self::Empty => f.pad("it has no destinations"),
            Self::Disabled => f.pad("all its destinations are disabled"),
            Self::Unreachable(address, status) => {
                f.pad(&format!("no destination is reachable ({address}: {status})"))
            }
        }
    }
}

/// A service with what is known of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServiceExtended {
    /// The service as configured.
    pub service: Service,
    /// Why it forwards or does not.
    pub status: ServiceStatus,
    /// How many destinations it has.
    pub destinations: usize,
    /// How many of them get new flows.
    pub usable: usize,
    /// Its traffic.
    pub stats: Stats,
}

/// A destination with what is known of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DestinationExtended {
    /// The destination as configured.
    pub destination: Destination,
    /// Why it gets traffic or does not.
    pub status: DestinationStatus,
    /// The MAC address that packets are sent to, once known; where a tunnel's
    /// packets take several ways, of the first.
    pub mac: Option<Mac>,
    /// The index of the interface that packets leave by, once known.
    pub interface: Option<u32>,
    /// The address of this host that a tunnel's packets come from, once known;
    /// where they take several ways, of the first.
    pub source: Option<IpAddr>,
    /// The longest packet of a client that it can be sent, in octets, once known.
    pub mtu: Option<u32>,
    /// Its traffic.
    pub stats: Stats,
    /// How far it is with its last flows, if it is disabled.
    pub drain: Option<Drain>,
}

/// How far a disabled destination is on its way to having no flows.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Drain {
    /// Its live flows; no more than 5 seconds old.
    pub flows: u64,
    /// Packets forwarded to it per second, between the last two counts of flows, which
    /// are 2 to 5 seconds apart; `None` before there were two since it was disabled.
    pub packets_per_second: Option<f64>,
    /// How long ago the last packet of any of its live flows came, within 2 seconds;
    /// `None` if it has no flow.
    pub newest: Option<Duration>,
    /// How long it has been disabled.
    pub since: Duration,
    /// How long it takes until its flows are hashed anew, if it has a deadline.
    pub left: Option<Duration>,
    /// Whether it has had no live flow at some moment since it was disabled, or its
    /// deadline moved those it had: it can be taken away.
    pub done: bool,
}

/// A virtual address with its traffic.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Vip {
    /// The address.
    pub address: IpAddr,
    /// How many services it has.
    pub services: usize,
    /// Its traffic.
    pub stats: Stats,
}

/// An interface that the data plane is attached to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its name when it was attached to.
    pub name: String,
    /// [`Mode::Native`] or [`Mode::Generic`].
    pub mode: Mode,
    /// What was turned off on it, and is turned on again at the end.
    pub offloads_off: Vec<Offload>,
    /// What is on, for it could not be turned off.
    pub offloads_on: Vec<Offload>,
}

/// The state of an instance.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Info {
    /// The instance's name.
    pub instance: String,
    /// The process that runs it.
    pub process: u32,
    /// For how long it has run.
    pub uptime: Duration,
    /// The interfaces it is attached to.
    pub interfaces: Vec<Interface>,
    /// Services there are.
    pub services: u32,
    /// Services there may be.
    pub services_limit: u32,
    /// Destinations there are.
    pub destinations: u32,
    /// Destinations there may be.
    pub destinations_limit: u32,
    /// Flows remembered, of both families; no more than 5 seconds old.
    pub flows: u64,
    /// Flows that may be remembered, of each family.
    pub flows_limit: u32,
    /// Flows that lost their place to another one while they lived, since the start: as
    /// many as the tables had no room for.
    pub flows_replaced: u64,
    /// The size of each service's hash table.
    pub table_size: u32,
    /// What becomes of the data plane when the process is gone.
    pub persist: OnExit,
    /// The mean time that the data plane spends on a packet, in nanoseconds,
    /// over a sample of the packets; `None` before the first sample.
    pub latency: Option<u64>,
    /// The traffic of all virtual addresses, with the reasons of all packets,
    /// foreign ones included.
    pub stats: Stats,
    /// Flows shared with other balancers.
    pub sharing: Sharing,
}

/// Whether a prefix of a VLAN can be reached, and why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VlanStatus {
    /// It has an interface that can send.
    Usable,
    /// No interface has an address in it.
    NoInterface,
    /// Only interfaces that the instance does not run on have an address in it.
    Elsewhere,
    /// Its interface, or the one below that, is down.
    Down,
    /// Its interface's MTU is below what IPv6 needs, 1,280 octets (RFC 8200,
    /// section 5).
    MtuTooSmall,
    /// The program could not be attached to the interface that leads there.
    NotAttached,
}

impl fmt::Display for VlanStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Usable => "usable",
            Self::NoInterface => "no interface has an address in it",
            Self::Elsewhere => "the interface with an address in it is none of the instance's",
            Self::Down => "its interface is down",
            Self::MtuTooSmall => "the MTU of its interface is below 1280, too small for IPv6",
            Self::NotAttached => "the program is not on the interface that leads there",
        })
    }
}

/// A prefix of a VLAN with what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VlanInfo {
    /// The VLAN's id.
    pub id: u16,
    /// The prefix.
    pub prefix: Prefix,
    /// Whether it can be reached, and why not.
    pub status: VlanStatus,
    /// The index of the interface that it is reached by, or was last.
    pub interface: Option<u32>,
    /// The id of the 802.1Q tag that frames leave with, which need not be that of
    /// the VLAN; `None` if they leave without one.
    pub tag: Option<u16>,
    /// The host's address in it.
    pub address: Option<IpAddr>,
    /// The gateway of the interface's default route.
    pub gateway: Option<IpAddr>,
    /// The longest IP packet that is sent there, in octets.
    pub mtu: Option<u32>,
}
