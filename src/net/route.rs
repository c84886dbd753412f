//! Reads default routes.

use std::io;
use std::io::Cursor;
use std::net::IpAddr;

use neli::FromBytesWithInput;
use neli::Size;
use neli::ToBytes;
use neli::attr::Attribute;
use neli::consts::rtnl::RtAddrFamily;
use neli::consts::rtnl::RtScope;
use neli::consts::rtnl::RtTable;
use neli::consts::rtnl::Rta;
use neli::consts::rtnl::Rtn;
use neli::consts::rtnl::Rtprot;
use neli::rtnl::RtAttrHandle;
use neli::rtnl::Rtmsg;
use neli::rtnl::RtmsgBuilder;
use neli::types::Buffer;
use neli::types::RtBuffer;

use super::message;
use super::snapshot::DefaultRoute;
use super::snapshot::Gateway;

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

/// The gateways of a default route of the main table; `None` for other routes.
pub(super) fn gateways(message: &Rtmsg) -> Option<(DefaultRoute, Vec<Gateway>)> {
    let family = *message.rtm_family();
    if *message.rtm_dst_len() != 0
        || *message.rtm_table() != RtTable::Main
        || *message.rtm_type() != Rtn::Unicast
        || !message::is_ip(family)
    {
        return None;
    }
    let attributes = message.rtattrs().get_attr_handle();
    let metric = attributes.get_attr_payload_as(Rta::Priority).unwrap_or(0);
    let route = DefaultRoute { v4: family == RtAddrFamily::Inet, metric };
    let hops = match attributes.get_attribute(Rta::Multipath) {
        Some(list) => several_hops(list.payload().as_ref()),
        None => {
            let interface = attributes.get_attr_payload_as(Rta::Oif).ok();
            interface.zip(gateway(&attributes)).into_iter().collect()
        }
    };
    let gateways = hops.into_iter();
    Some((
        route,
        gateways.map(|(interface, address)| Gateway { route, interface, address }).collect(),
    ))
}

/// The address of the gateway, be it of the other family.
fn gateway(attributes: &RtAttrHandle<'_, Rta>) -> Option<IpAddr> {
    message::ip(attributes, Rta::Gateway).or_else(|| {
        // A `struct rtvia`: the family, and the address.
        let via = attributes.get_attribute(Rta::Via)?.payload().as_ref();
        message::octets_ip(via.get(2..)?)
    })
}

/// The interfaces and gateways of a list of `struct rtnexthop`
/// (linux/rtnetlink.h), each with its attributes behind it.
fn several_hops(mut list: &[u8]) -> Vec<(u32, IpAddr)> {
    const HEADER: usize = 8;
    let mut hops = Vec::new();
    while let Some(&[a, b, _, _, index @ ..]) = list.first_chunk::<HEADER>() {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let Some(attributes) = list.get(HEADER..length) else {
            break;
        };
        let read = RtBuffer::<Rta, Buffer>::from_bytes_with_input(
            &mut Cursor::new(attributes),
            attributes.len(),
        );
        let address = read.ok().and_then(|read| gateway(&read.get_attr_handle()));
        hops.extend(address.map(|address| (u32::from_ne_bytes(index), address)));
        list = list.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    hops
}
