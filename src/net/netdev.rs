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

/// Whether the interface's driver runs XDP programs; `None` where the kernel
/// does not tell.
pub(crate) fn runs_xdp(index: u32) -> io::Result<Option<bool>> {
    let Some(mut family) = Family::open("netdev")? else { return Ok(None) };
    let device = genl::attribute(NETDEV_A_DEV_IFINDEX, &index.to_ne_bytes())?;
    let answers = family.ask(NETDEV_CMD_DEV_GET, vec![device])?;
    let features = answers.iter().find_map(|answer| {
        let attributes = answer.attrs().get_attr_handle();
        attributes.get_attr_payload_as::<u64>(NETDEV_A_DEV_XDP_FEATURES).ok()
    });
    Ok(features.map(|features| features & NETDEV_XDP_ACT_BASIC != 0))
}
