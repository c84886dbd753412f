//! Reads routes.

use std::io;
use std::io::Cursor;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use neli::FromBytesWithInput;
use neli::Size;
use neli::ToBytes;
use neli::attr::Attribute;
use neli::consts::rtnl::RtAddrFamily;
use neli::consts::rtnl::RtScope;
use neli::consts::rtnl::RtTable;
use neli::consts::rtnl::Rta;
use neli::consts::rtnl::RtaType;
use neli::consts::rtnl::RtmF;
use neli::consts::rtnl::Rtn;
use neli::consts::rtnl::Rtprot;
use neli::rtnl::RtAttrHandle;
use neli::rtnl::Rtmsg;
use neli::rtnl::RtmsgBuilder;
use neli::types::Buffer;
use neli::types::RtBuffer;

use super::message;
use super::routes::Hop;
use super::routes::Route;
use super::socket::Message;
use crate::Prefix;

/// The nexthop object that a route is by, in linux/rtnetlink.h since 5.3; neli does
/// not have it yet.
const RTA_NH_ID: u16 = 30;

/// From linux/rtnetlink.h: the MTU among a route's metrics.
const RTAX_MTU: u16 = 2;

/// Asks for all routes of a family.
pub(super) fn list_request(family: RtAddrFamily) -> io::Result<impl Size + ToBytes> {
    RtmsgBuilder::default()
        .rtm_family(family)
        .rtm_dst_len(0)
        .rtm_src_len(0)
        .rtm_tos(0)
        .rtm_table(RtTable::Unspec)
        .rtm_protocol(Rtprot::Unspec)
        .rtm_scope(RtScope::Universe)
        .rtm_type(Rtn::Unspec)
        .build()
        .map_err(io::Error::other)
}

/// A route of the main table for packets of any source and type of service, and
/// where it leads to; `None` for others.
pub(super) fn route(message: &Rtmsg) -> Option<(Prefix, Route)> {
    let family = *message.rtm_family();
    if *message.rtm_table() != RtTable::Main
        || *message.rtm_src_len() != 0
        || *message.rtm_tos() != 0
        || message.rtm_flags().contains(RtmF::CLONED)
        || !message::is_ip(family)
    {
        return None;
    }
    let attributes = message.rtattrs().get_attr_handle();
    let first = match family {
        RtAddrFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let address = message::ip(&attributes, Rta::Dst).unwrap_or(first);
    let prefix = Prefix::containing(address, *message.rtm_dst_len())?;
    let metric = attributes.get_attr_payload_as(Rta::Priority).unwrap_or(0);
    let object = attributes.get_attr_payload_as(Rta::from(RTA_NH_ID)).ok();
    let hops = match message.rtm_type() {
        Rtn::Unicast => hops(&attributes),
        // Unreachable, blackhole, prohibit and the like.
        _ => Vec::new(),
    };
    Some((prefix, Route { metric, hops, object }))
}

fn hops(attributes: &RtAttrHandle<'_, Rta>) -> Vec<Hop> {
    let metrics = attributes.get_nested_attributes::<u16>(Rta::Metrics).ok();
    let mtu = metrics.and_then(|metrics| metrics.get_attr_payload_as::<u32>(RTAX_MTU).ok());
    let source = message::ip(attributes, Rta::Prefsrc);
    let hop = |interface, gateway, weight| Hop { interface, gateway, weight, source, mtu };
    match attributes.get_attribute(Rta::Multipath) {
        Some(list) => several_hops(list.payload().as_ref(), hop),
        None => {
            let interface = attributes.get_attr_payload_as(Rta::Oif).ok();
            interface.zip(gateway(attributes)).map(|(i, g)| hop(i, g, 1)).into_iter().collect()
        }
    }
}

/// The address of the gateway, be it of the other family, or that there is none;
/// nothing for a hop that asks for an encapsulation of its own.
fn gateway(attributes: &RtAttrHandle<'_, Rta>) -> Option<Option<IpAddr>> {
    if attributes.get_attribute(Rta::EncapType).is_some() {
        return None;
    }
    let via = || {
        // A `struct rtvia`: the family, and the address.
        let via = attributes.get_attribute(Rta::Via)?.payload().as_ref();
        message::octets_ip(via.get(2..)?)
    };
    Some(message::ip(attributes, Rta::Gateway).or_else(via))
}

/// The next hops of a list of `struct rtnexthop` (linux/rtnetlink.h), each with its
/// attributes behind it.
fn several_hops(mut list: &[u8], hop: impl Fn(u32, Option<IpAddr>, u16) -> Hop) -> Vec<Hop> {
    const HEADER: usize = 8;
    let mut hops = Vec::new();
    while let Some(&[a, b, _, more, index @ ..]) = list.first_chunk::<HEADER>() {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let Some(attributes) = list.get(HEADER..length).and_then(attributes::<Rta>) else {
            break;
        };
        let gateway = gateway(&attributes.get_attr_handle());
        let weight = u16::from(more) + 1;
        hops.extend(gateway.map(|gateway| hop(u32::from_ne_bytes(index), gateway, weight)));
        list = list.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    hops
}

/// The id of the nexthop object that a message is about.
pub(super) fn object(message: &Message) -> Option<u32> {
    /// The length of a `struct nhmsg`, from linux/nexthop.h.
    const HEADER: usize = 8;
    const NHA_ID: u16 = 1;
    let payload = message.get_payload()?;
    let attributes = attributes::<u16>(payload.as_ref().get(HEADER..)?)?;
    attributes.get_attr_handle().get_attr_payload_as(NHA_ID).ok()
}

fn attributes<T: RtaType>(octets: &[u8]) -> Option<RtBuffer<T, Buffer>> {
    RtBuffer::from_bytes_with_input(&mut Cursor::new(octets), octets.len()).ok()
}
