//! Asks for the features of an interface through generic netlink (5.6).

use std::collections::BTreeSet;
use std::io;

use neli::attr::Attribute;
use neli::genl::Nlattr;
use neli::types::Buffer;

use super::genl;
use super::genl::Genl;

// From linux/ethtool_netlink.h.
const ETHTOOL_MSG_FEATURES_GET: u8 = 11;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_FEATURES_ACTIVE: u16 = 4;
const ETHTOOL_A_HEADER_DEV_INDEX: u16 = 1;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;

/// The names of the features that are on; `None` if the answer has none.
pub(super) fn active_features(index: u32) -> io::Result<Option<BTreeSet<String>>> {
    let device = genl::attribute(ETHTOOL_A_HEADER_DEV_INDEX, &index.to_ne_bytes())?;
    let header =
        genl::attribute(ETHTOOL_A_FEATURES_HEADER, &[])?.nest(&device).map_err(io::Error::other)?;
    let answers = genl::ask("ethtool", ETHTOOL_MSG_FEATURES_GET, vec![header])?;
    Ok(answers.into_iter().flatten().find_map(|answer| features(&answer)))
}

/// A bitset without a mask lists the bits that are set, by name.
fn features(answer: &Genl) -> Option<BTreeSet<String>> {
    let attributes = answer.attrs().get_attr_handle();
    let active = attributes.get_nested_attributes::<u16>(ETHTOOL_A_FEATURES_ACTIVE).ok()?;
    let bits = active.get_nested_attributes::<u16>(ETHTOOL_A_BITSET_BITS).ok()?;
    let name = |bit: &Nlattr<u16, Buffer>| {
        let bit = bit.get_attr_handle::<u16>().ok()?;
        let name = bit.get_attribute(ETHTOOL_A_BITSET_BIT_NAME)?.payload().as_ref();
        Some(String::from_utf8_lossy(name.strip_suffix(&[0])?).into_owned())
    };
    Some(bits.iter().filter_map(name).collect())
}
