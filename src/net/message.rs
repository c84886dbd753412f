//! Reads rtnetlink messages about links, addresses, neighbours and routes.

use std::io::Cursor;
use std::net::IpAddr;

use neli::FromBytesWithInput;
use neli::attr::Attribute;
use neli::consts::nl::NlmF;
use neli::consts::rtnl::Ifa;
use neli::consts::rtnl::IfaF;
use neli::consts::rtnl::Iff;
use neli::consts::rtnl::Ifla;
use neli::consts::rtnl::IflaInfo;
use neli::consts::rtnl::IflaVlan;
use neli::consts::rtnl::Nda;
use neli::consts::rtnl::Ntf;
use neli::consts::rtnl::Nud;
use neli::consts::rtnl::RtAddrFamily;
use neli::consts::rtnl::RtaType;
use neli::consts::rtnl::Rtm;
use neli::rtnl::Ifaddrmsg;
use neli::rtnl::Ifinfomsg;
use neli::rtnl::Ndmsg;
use neli::rtnl::RtAttrHandle;

use super::route;
use super::routes::Order;
use super::snapshot::Address;
use super::snapshot::Change;
use super::snapshot::Link;
use super::snapshot::Neighbour;
use super::snapshot::NeighbourState;
use super::snapshot::Rank;
use super::snapshot::Stacked;
use super::snapshot::XdpMode;
use super::snapshot::XdpProgram;
use super::socket::Message;
use crate::Mac;
use crate::Prefix;

/// Flags of a neighbour entry for which `ndm_flags` has no room, in
/// linux/neighbour.h since 5.16; neli does not have it yet.
pub(super) const NDA_FLAGS_EXT: u16 = 15;

/// The kernel keeps the entry resolved: 7482e3841d52 ("net, neigh: Add
/// NTF_MANAGED flag for managed neighbor entries").
pub(super) const NTF_EXT_MANAGED: u32 = 1;

/// From linux/rtnetlink.h since 5.3; neli does not have them yet.
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;

/// The state of a bond's member, from linux/if_link.h and linux/if_bonding.h.
const IFLA_BOND_SLAVE_STATE: u16 = 1;
const BOND_STATE_BACKUP: u8 = 1;

/// The attributes inside `IFLA_XDP`, from linux/if_link.h.
mod ifla_xdp {
    pub(super) const ATTACHED: u16 = 2;
    pub(super) const PROG_ID: u16 = 4;
    pub(super) const DRV_PROG_ID: u16 = 5;
    pub(super) const SKB_PROG_ID: u16 = 6;
    pub(super) const HW_PROG_ID: u16 = 7;
}

/// What a message says; `None` if it is about something else.
pub(super) fn change(message: &Message) -> Option<Change> {
    match Rtm::from(*message.nl_type()) {
        Rtm::Newlink => link(&payload(message)?).map(Change::Link),
        Rtm::Dellink => link_gone(&payload(message)?).map(Change::LinkGone),
        Rtm::Newaddr => address(&payload(message)?).map(Change::Address),
        Rtm::Deladdr => address(&payload(message)?).map(Change::AddressGone),
        Rtm::Newneigh => entry(message).map(|entry| Change::Neighbour(entry.key, entry.neighbour)),
        Rtm::Delneigh => entry(message).map(|entry| Change::NeighbourGone(entry.key)),
        Rtm::Newroute => {
            let (prefix, route) = route::route(&payload(message)?)?;
            let flags = message.nl_flags();
            // A list has them in order.
            let order = match flags.intersects(NlmF::APPEND | NlmF::MULTI) {
                _ if flags.contains(NlmF::REPLACE) => Order::Instead,
                true => Order::Last,
                false => Order::First,
            };
            Some(Change::Route(prefix, route, order))
        }
        Rtm::Delroute => {
            let (prefix, route) = route::route(&payload(message)?)?;
            Some(Change::RouteGone(prefix, route))
        }
        Rtm::UnrecognizedConst(RTM_NEWNEXTHOP | RTM_DELNEXTHOP) => {
            route::object(message).map(Change::Object)
        }
        _ => None,
    }
}

/// A neighbour entry with its flags.
pub(super) struct Entry {
    pub(super) key: (u32, IpAddr),
    pub(super) neighbour: Neighbour,
    pub(super) flags: Ntf,
}

/// The entry that a neighbour message is about.
pub(super) fn entry(message: &Message) -> Option<Entry> {
    let message: Ndmsg = payload(message)?;
    let flags = *message.ndm_flags();
    // Proxy entries answer for others; those of the families below IP are a bridge's.
    if flags.contains(Ntf::PROXY) || !is_ip(*message.ndm_family()) {
        return None;
    }
    let attributes = message.rtattrs().get_attr_handle();
    let extended: Option<u32> = attributes.get_attr_payload_as(Nda::from(NDA_FLAGS_EXT)).ok();
    Some(Entry {
        key: (u32::try_from(*message.ndm_index()).ok()?, ip(&attributes, Nda::Dst)?),
        neighbour: Neighbour {
            mac: mac(&attributes, Nda::Lladdr),
            state: state(*message.ndm_state()),
            managed: extended.is_some_and(|flags| flags & NTF_EXT_MANAGED != 0),
        },
        flags,
    })
}

fn link(message: &Ifinfomsg) -> Option<Link> {
    // A bridge tells of its ports in messages of its own family.
    if *message.ifi_family() != RtAddrFamily::Unspecified {
        return None;
    }
    let attributes = message.rtattrs().get_attr_handle();
    let number = |attribute| attributes.get_attr_payload_as::<u32>(attribute).ok();
    let flags = *message.ifi_flags();
    let kind = attributes
        .get_nested_attributes::<IflaInfo>(Ifla::Linkinfo)
        .ok()
        .and_then(|info| Some(text(info.get_attribute(IflaInfo::Kind)?.payload().as_ref())));
    // Only some event messages lack a name or an MTU; they describe no link.
    Some(Link {
        index: u32::try_from(*message.ifi_index()).ok()?,
        name: text(attributes.get_attribute(Ifla::Ifname)?.payload().as_ref()),
        mac: mac(&attributes, Ifla::Address).unwrap_or_default(),
        up: flags.contains(Iff::UP),
        running: flags.contains(Iff::UP | Iff::RUNNING | Iff::LOWERUP),
        mtu: number(Ifla::Mtu)?,
        stacked: stacked(&attributes, kind.as_deref()),
        kind,
        master: number(Ifla::Master),
        backup: backup(&attributes).unwrap_or(false),
        rx_queues: number(Ifla::NumRxQueues).unwrap_or(1),
        tx_queues: number(Ifla::NumTxQueues).unwrap_or(1),
        xdp: xdp(&attributes),
    })
}

/// What the interface is on, if XDP on that sees its frames.
fn stacked(attributes: &RtAttrHandle<'_, Ifla>, kind: Option<&str>) -> Option<Stacked> {
    // The index is one of another namespace.
    if attributes.get_attribute(Ifla::LinkNetnsid).is_some() {
        return None;
    }
    let lower = attributes.get_attr_payload_as(Ifla::Link).ok()?;
    let tag = match kind? {
        "macvlan" => None,
        "vlan" => {
            let info = attributes.get_nested_attributes::<IflaInfo>(Ifla::Linkinfo).ok()?;
            let vlan = info.get_nested_attributes::<IflaVlan>(IflaInfo::Data).ok()?;
            let protocol = vlan.get_attr_payload_as(IflaVlan::Protocol).ok()?;
            Some((u16::from_be(protocol), vlan.get_attr_payload_as(IflaVlan::Id).ok()?))
        }
        _ => return None,
    };
    Some(Stacked { lower, tag })
}

/// Whether the interface is a bond's member that is not in use.
fn backup(attributes: &RtAttrHandle<'_, Ifla>) -> Option<bool> {
    let info = attributes.get_nested_attributes::<IflaInfo>(Ifla::Linkinfo).ok()?;
    if text(info.get_attribute(IflaInfo::SlaveKind)?.payload().as_ref()) != "bond" {
        return None;
    }
    let member = info.get_nested_attributes::<u16>(IflaInfo::SlaveData).ok()?;
    let state: u8 = member.get_attr_payload_as(IFLA_BOND_SLAVE_STATE).ok()?;
    Some(state == BOND_STATE_BACKUP)
}

fn link_gone(message: &Ifinfomsg) -> Option<u32> {
    // A bridge says so of a port that leaves it, too.
    if *message.ifi_family() != RtAddrFamily::Unspecified {
        return None;
    }
    u32::try_from(*message.ifi_index()).ok()
}

fn xdp(attributes: &RtAttrHandle<'_, Ifla>) -> Option<XdpProgram> {
    let xdp = attributes.get_nested_attributes::<u16>(Ifla::Xdp).ok()?;
    let id = |attribute| xdp.get_attr_payload_as::<u32>(attribute).ok();
    let mode = match xdp.get_attr_payload_as::<u8>(ifla_xdp::ATTACHED).ok()? {
        1 => XdpMode::Native,
        2 => XdpMode::Generic,
        3 => XdpMode::Offloaded,
        4 => XdpMode::Several,
        _ => return None,
    };
    let id = id(ifla_xdp::PROG_ID)
        .or_else(|| id(ifla_xdp::DRV_PROG_ID))
        .or_else(|| id(ifla_xdp::SKB_PROG_ID))
        .or_else(|| id(ifla_xdp::HW_PROG_ID))?;
    Some(XdpProgram { id, mode })
}

fn address(message: &Ifaddrmsg) -> Option<Address> {
    if !is_ip(*message.ifa_family()) {
        return None;
    }
    let attributes = message.rtattrs().get_attr_handle();
    // On a point-to-point link IFA_ADDRESS is the peer's, and so is the prefix.
    let network = ip(&attributes, Ifa::Address);
    let local = ip(&attributes, Ifa::Local).or(network)?;
    Some(Address {
        index: *message.ifa_index(),
        prefix: Prefix::containing(network.unwrap_or(local), *message.ifa_prefixlen())?,
        address: local,
        rank: rank(message, local.is_ipv4()),
    })
}

fn rank(message: &Ifaddrmsg, v4: bool) -> Rank {
    let all = message.rtattrs().get_attr_handle().get_attr_payload_as::<u32>(Ifa::Flags);
    // What matters is in the low octet, which the header has, too.
    let flags = all.map_or(*message.ifa_flags(), |all| IfaF::from(all as u8));
    if flags.intersects(IfaF::TENTATIVE | IfaF::DADFAILED | IfaF::DEPRECATED) {
        return Rank::Unfit;
    }
    // The same bit is IFA_F_SECONDARY and IFA_F_TEMPORARY.
    match flags.contains(IfaF::SECONDARY) {
        true if v4 => Rank::Secondary,
        true => Rank::Unfit,
        false => Rank::Primary,
    }
}

fn state(nud: Nud) -> NeighbourState {
    match nud {
        Nud::INCOMPLETE => NeighbourState::Incomplete,
        Nud::REACHABLE => NeighbourState::Reachable,
        Nud::STALE => NeighbourState::Stale,
        Nud::DELAY => NeighbourState::Delay,
        Nud::PROBE => NeighbourState::Probe,
        Nud::FAILED => NeighbourState::Failed,
        Nud::NOARP => NeighbourState::NoArp,
        Nud::PERMANENT => NeighbourState::Permanent,
        _ => NeighbourState::None,
    }
}

pub(super) fn payload<P: FromBytesWithInput<Input = usize>>(message: &Message) -> Option<P> {
    let bytes = message.get_payload()?;
    P::from_bytes_with_input(&mut Cursor::new(bytes.as_ref()), bytes.len()).ok()
}

pub(super) fn is_ip(family: RtAddrFamily) -> bool {
    matches!(family, RtAddrFamily::Inet | RtAddrFamily::Inet6)
}

pub(super) fn ip<T: RtaType>(attributes: &RtAttrHandle<'_, T>, attribute: T) -> Option<IpAddr> {
    octets_ip(attributes.get_attribute(attribute)?.payload().as_ref())
}

pub(super) fn octets_ip(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(octets.into());
    }
    <[u8; 16]>::try_from(octets).ok().map(IpAddr::from)
}

fn mac<T: RtaType>(attributes: &RtAttrHandle<'_, T>, attribute: T) -> Option<Mac> {
    attributes.get_attribute(attribute)?.payload().as_ref().try_into().ok().map(Mac)
}

/// A string with a NUL at its end; names need not be UTF-8.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use neli::Size;
    use neli::ToBytes;
    use neli::consts::rtnl::Arphrd;
    use neli::consts::rtnl::RtScope;
    use neli::consts::rtnl::RtTable;
    use neli::consts::rtnl::Rta;
    use neli::consts::rtnl::Rtn;
    use neli::consts::rtnl::Rtprot;
    use neli::nl::NlPayload;
    use neli::nl::NlmsghdrBuilder;
    use neli::rtnl::IfaddrmsgBuilder;
    use neli::rtnl::IfinfomsgBuilder;
    use neli::rtnl::NdmsgBuilder;
    use neli::rtnl::Rtattr;
    use neli::rtnl::RtattrBuilder;
    use neli::rtnl::RtmsgBuilder;
    use neli::types::Buffer;
    use neli::types::RtBuffer;

    use super::*;
    use crate::net::routes::Hop;
    use crate::net::routes::Route;
    use crate::net::socket;

    fn attribute<T: RtaType>(kind: T, payload: &[u8]) -> Rtattr<T, Buffer> {
        let payload = Buffer::from(payload);
        RtattrBuilder::default().rta_type(kind).rta_payload(payload).build().unwrap()
    }

    fn bytes(kind: Rtm, payload: impl Size + ToBytes) -> Vec<u8> {
        let message = NlmsghdrBuilder::default()
            .nl_type(u16::from(kind))
            .nl_flags(NlmF::empty())
            .nl_payload(NlPayload::Payload(payload))
            .build()
            .unwrap();
        let mut cursor = Cursor::new(Vec::new());
        message.to_bytes(&mut cursor).unwrap();
        cursor.into_inner()
    }

    fn read(datagram: &[u8]) -> Option<Change> {
        change(&socket::messages(datagram)?.pop()?)
    }

    fn link_bytes(kind: Rtm, family: u8, attributes: Vec<Rtattr<Ifla, Buffer>>) -> Vec<u8> {
        let message = IfinfomsgBuilder::default()
            .ifi_family(family.into())
            .ifi_type(Arphrd::Ether)
            .ifi_index(7)
            .ifi_flags(Iff::UP | Iff::RUNNING)
            .rtattrs(RtBuffer::from_iter(attributes))
            .build();
        bytes(kind, message.unwrap())
    }

    fn described() -> Vec<Rtattr<Ifla, Buffer>> {
        let kind = attribute(IflaInfo::Kind, b"veth\0");
        let member = attribute(IflaInfo::SlaveKind, b"bond\0");
        let state = attribute(IFLA_BOND_SLAVE_STATE, &[BOND_STATE_BACKUP]);
        let state = attribute(IflaInfo::SlaveData, &[]).nest(&state).unwrap();
        let info = attribute(Ifla::Linkinfo, &[]).nest(&kind).unwrap();
        let info = info.nest(&member).unwrap().nest(&state).unwrap();
        let program = attribute(ifla_xdp::SKB_PROG_ID, &41_u32.to_ne_bytes());
        let several = attribute(ifla_xdp::ATTACHED, &[4]);
        vec![
            attribute(Ifla::Ifname, b"eth0.7\0"),
            attribute(Ifla::Mtu, &9000_u32.to_ne_bytes()),
            attribute(Ifla::Address, &[2, 0, 0, 0, 0, 1]),
            attribute(Ifla::Master, &3_u32.to_ne_bytes()),
            info,
            attribute(Ifla::Xdp, &[]).nest(&several).unwrap().nest(&program).unwrap(),
        ]
    }

    fn neighbour_bytes(family: RtAddrFamily, address: &[u8], flags: Ntf) -> Vec<u8> {
        let message = NdmsgBuilder::default()
            .ndm_family(family)
            .ndm_index(7)
            .ndm_state(Nud::PROBE)
            .ndm_flags(flags)
            .ndm_type(Rtn::Unicast)
            .rtattrs(RtBuffer::from_iter([
                attribute(Nda::Dst, address),
                attribute(Nda::Lladdr, &[2, 0, 0, 0, 0, 9]),
                attribute(Nda::from(NDA_FLAGS_EXT), &NTF_EXT_MANAGED.to_ne_bytes()),
            ]))
            .build();
        bytes(Rtm::Newneigh, message.unwrap())
    }

    fn address_bytes() -> Vec<u8> {
        let message = IfaddrmsgBuilder::default()
            .ifa_family(RtAddrFamily::Inet)
            .ifa_prefixlen(31)
            .ifa_flags(IfaF::PERMANENT)
            .ifa_scope(RtScope::Universe)
            .ifa_index(7)
            .rtattrs(RtBuffer::from_iter([
                attribute(Ifa::Address, &[10, 0, 0, 3]),
                attribute(Ifa::Local, &[10, 0, 0, 1]),
            ]))
            .build();
        bytes(Rtm::Newaddr, message.unwrap())
    }

    #[test]
    fn links_are_read() {
        let expected = Link {
            index: 7,
            name: "eth0.7".to_owned(),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            up: true,
            running: false,
            mtu: 9000,
            kind: Some("veth".to_owned()),
            stacked: None,
            master: Some(3),
            backup: true,
            rx_queues: 1,
            tx_queues: 1,
            xdp: Some(XdpProgram { id: 41, mode: XdpMode::Several }),
        };
        let read_link = read(&link_bytes(Rtm::Newlink, 0, described()));
        assert_eq!(read_link, Some(Change::Link(expected)));
        assert_eq!(read(&link_bytes(Rtm::Dellink, 0, Vec::new())), Some(Change::LinkGone(7)));
    }

    #[test]
    fn what_a_link_is_on_is_read() {
        let read_stacked = |kind: &[u8], more: Vec<Rtattr<Ifla, Buffer>>| {
            let id = attribute(IflaVlan::Id, &70_u16.to_ne_bytes());
            let protocol = attribute(IflaVlan::Protocol, &[0x81, 0x00]);
            let data = attribute(IflaInfo::Data, &[]).nest(&id).unwrap().nest(&protocol).unwrap();
            let kind = attribute(IflaInfo::Kind, kind);
            let mut attributes = vec![
                attribute(Ifla::Ifname, b"up\0"),
                attribute(Ifla::Mtu, &1500_u32.to_ne_bytes()),
                attribute(Ifla::Link, &3_u32.to_ne_bytes()),
                attribute(Ifla::Linkinfo, &[]).nest(&kind).unwrap().nest(&data).unwrap(),
            ];
            attributes.extend(more);
            match read(&link_bytes(Rtm::Newlink, 0, attributes)) {
                Some(Change::Link(link)) => link.stacked,
                other => panic!("{other:?}"),
            }
        };
        let tag = Some((0x8100, 70));
        assert_eq!(read_stacked(b"vlan\0", Vec::new()), Some(Stacked { lower: 3, tag }));
        assert_eq!(read_stacked(b"macvlan\0", Vec::new()), Some(Stacked { lower: 3, tag: None }));
        // Its index is the other end's.
        assert_eq!(read_stacked(b"veth\0", Vec::new()), None);
        let elsewhere = attribute(Ifla::LinkNetnsid, &0_u32.to_ne_bytes());
        assert_eq!(read_stacked(b"vlan\0", vec![elsewhere]), None);
    }

    #[test]
    fn what_describes_no_link_is_ignored() {
        const AF_BRIDGE: u8 = 7;
        assert_eq!(read(&link_bytes(Rtm::Newlink, AF_BRIDGE, described())), None);
        assert_eq!(read(&link_bytes(Rtm::Dellink, AF_BRIDGE, described())), None);
        // A wireless event: a name and little else.
        let event = vec![attribute(Ifla::Ifname, b"wlan0\0")];
        assert_eq!(read(&link_bytes(Rtm::Newlink, 0, event)), None);
        assert_eq!(read(&link_bytes(Rtm::Newroute, 0, described())), None);
    }

    #[test]
    fn a_point_to_point_address_has_the_prefix_of_its_peer() {
        let address = Address {
            index: 7,
            prefix: "10.0.0.2/31".parse().unwrap(),
            address: "10.0.0.1".parse().unwrap(),
            rank: Rank::Primary,
        };
        assert_eq!(read(&address_bytes()), Some(Change::Address(address)));
    }

    #[test]
    fn the_rank_of_an_address_follows_from_its_flags() {
        const MANAGETEMPADDR: u32 = 0x100;
        let read_rank = |family, header: IfaF, all: Option<u32>| {
            let address: &[u8] = match family {
                RtAddrFamily::Inet => &[10, 0, 0, 1],
                _ => &[0xfd; 16],
            };
            let mut attributes = vec![attribute(Ifa::Address, address)];
            attributes.extend(all.map(|all| attribute(Ifa::Flags, &all.to_ne_bytes())));
            let message = IfaddrmsgBuilder::default()
                .ifa_family(family)
                .ifa_prefixlen(24)
                .ifa_flags(header)
                .ifa_scope(RtScope::Universe)
                .ifa_index(7)
                .rtattrs(RtBuffer::from_iter(attributes))
                .build();
            match read(&bytes(Rtm::Newaddr, message.unwrap())) {
                Some(Change::Address(address)) => address.rank,
                other => panic!("{other:?}"),
            }
        };
        let (v4, v6) = (RtAddrFamily::Inet, RtAddrFamily::Inet6);
        for (family, flags, expected) in [
            (v4, IfaF::empty(), Rank::Primary),
            (v4, IfaF::PERMANENT, Rank::Primary),
            (v4, IfaF::PERMANENT | IfaF::SECONDARY, Rank::Secondary),
            (v4, IfaF::DEPRECATED | IfaF::SECONDARY, Rank::Unfit),
            (v4, IfaF::DEPRECATED, Rank::Unfit),
            (v6, IfaF::empty(), Rank::Primary),
            (v6, IfaF::PERMANENT | IfaF::NODAD, Rank::Primary),
            (v6, IfaF::TEMPORARY, Rank::Unfit),
            (v6, IfaF::DEPRECATED, Rank::Unfit),
            (v6, IfaF::TENTATIVE | IfaF::PERMANENT, Rank::Unfit),
            (v6, IfaF::TENTATIVE | IfaF::OPTIMISTIC, Rank::Unfit),
            (v6, IfaF::DADFAILED | IfaF::PERMANENT, Rank::Unfit),
        ] {
            assert_eq!(read_rank(family, flags, None), expected, "{flags:?}");
            let all = u32::from(flags.bits()) | MANAGETEMPADDR;
            assert_eq!(read_rank(family, IfaF::empty(), Some(all)), expected, "{flags:?}, all");
        }
        let attribute_counts = read_rank(v4, IfaF::DEPRECATED, Some(0));
        assert_eq!(attribute_counts, Rank::Primary);
    }

    #[test]
    fn neighbours_are_read() {
        let neighbour = Neighbour {
            mac: Some(Mac([2, 0, 0, 0, 0, 9])),
            state: NeighbourState::Probe,
            managed: true,
        };
        let key = (7, "10.0.0.9".parse().unwrap());
        let address = [10, 0, 0, 9];
        let own = neighbour_bytes(RtAddrFamily::Inet, &address, Ntf::empty());
        assert_eq!(read(&own), Some(Change::Neighbour(key, neighbour)));
        let proxy = neighbour_bytes(RtAddrFamily::Inet, &address, Ntf::PROXY);
        assert_eq!(read(&proxy), None);
        let bridge = neighbour_bytes(RtAddrFamily::from(7), &address, Ntf::empty());
        assert_eq!(read(&bridge), None);
        let short = neighbour_bytes(RtAddrFamily::Inet6, &address[..3], Ntf::empty());
        assert_eq!(read(&short), None);
    }

    fn route_bytes() -> Vec<u8> {
        // Two of `struct rtnexthop`, one with a gateway.
        let several = [16, 0, 0, 2, 7, 0, 0, 0, 8, 0, 5, 0, 10, 1, 2, 9, 8, 0, 0, 0, 8, 0, 0, 0];
        let message = RtmsgBuilder::default()
            .rtm_family(RtAddrFamily::Inet)
            .rtm_dst_len(16)
            .rtm_src_len(0)
            .rtm_tos(0)
            .rtm_table(RtTable::Main)
            .rtm_protocol(Rtprot::Static)
            .rtm_scope(RtScope::Universe)
            .rtm_type(Rtn::Unicast)
            .rtattrs(RtBuffer::from_iter([
                attribute(Rta::Dst, &[10, 9, 0, 0]),
                attribute(Rta::Priority, &5_u32.to_ne_bytes()),
                attribute(Rta::Multipath, &several),
            ]))
            .build();
        bytes(Rtm::Newroute, message.unwrap())
    }

    #[test]
    fn routes_are_read() {
        let hop = |interface, weight, gateway: Option<&str>| {
            let gateway = gateway.map(|gateway| gateway.parse().unwrap());
            Hop { interface, gateway, weight, source: None, mtu: None }
        };
        let hops = vec![hop(7, 3, Some("10.1.2.9")), hop(8, 1, None)];
        let route = Route { metric: 5, hops, object: None };
        let prefix = "10.9.0.0/16".parse().unwrap();
        assert_eq!(read(&route_bytes()), Some(Change::Route(prefix, route, Order::First)));
    }

    #[test]
    fn garbage_is_survived() {
        let datagrams = [
            route_bytes(),
            link_bytes(Rtm::Newlink, 0, described()),
            address_bytes(),
            neighbour_bytes(RtAddrFamily::Inet, &[10, 0, 0, 9], Ntf::empty()),
        ];
        for datagram in datagrams {
            for length in 0..datagram.len() {
                assert_eq!(read(&datagram[..length]), None);
            }
            for place in (0..4).chain(16..datagram.len()) {
                for value in [0, 1, 3, 4, 5, 127, 255] {
                    let mut damaged = datagram.clone();
                    damaged[place] = value;
                    read(&damaged);
                }
            }
        }
    }
}
