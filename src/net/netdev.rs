//! Asks what XDP a driver does, through generic netlink (6.3: d3d854fd6a1d,
//! "netdev-genl: create a simple family for netdev stuff").

use std::io;

use super::genl;
use super::genl::Family;

// From linux/netdev.h.
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NETDEV_XDP_ACT_BASIC: u64 = 1 << 0;
const NETDEV_XDP_ACT_RX_SG: u64 = 1 << 5;
const NETDEV_XDP_ACT_NDO_XMIT_SG: u64 = 1 << 6;

/// What XDP an interface's driver does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct XdpFeatures {
    /// Whether it runs native programs.
    pub native: bool,
    /// Whether it hands them frames that are in several buffers.
    pub receives_frags: bool,
    /// Whether such frames can be redirected to it. Most drivers say so only
    /// while they have a program.
    pub sends_frags: bool,
}

/// What XDP the interface's driver does; `None` where the kernel does not tell.
pub(crate) fn xdp_features(index: u32) -> io::Result<Option<XdpFeatures>> {
    let Some(mut family) = Family::open("netdev")? else { return Ok(None) };
    let device = genl::attribute(NETDEV_A_DEV_IFINDEX, &index.to_ne_bytes())?;
    let answers = family.ask(NETDEV_CMD_DEV_GET, vec![device])?;
    let features = answers.iter().find_map(|answer| {
        let attributes = answer.attrs().get_attr_handle();
        attributes.get_attr_payload_as::<u64>(NETDEV_A_DEV_XDP_FEATURES).ok()
    });
    Ok(features.map(|features| XdpFeatures {
        native: features & NETDEV_XDP_ACT_BASIC != 0,
        receives_frags: features & NETDEV_XDP_ACT_RX_SG != 0,
        sends_frags: features & NETDEV_XDP_ACT_NDO_XMIT_SG != 0,
    }))
}
