//! Asks for the features of an interface, and for what only its driver knows,
//! through generic netlink (5.6).

use std::collections::BTreeSet;
use std::io;

use neli::attr::Attribute;
use neli::genl::Nlattr;
use neli::types::Buffer;

use super::genl;
use super::genl::Genl;

// From linux/ethtool_netlink.h.
const ETHTOOL_MSG_FEATURES_GET: u8 = 11;
const ETHTOOL_MSG_PRIVFLAGS_GET: u8 = 13;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_FEATURES_ACTIVE: u16 = 4;
const ETHTOOL_A_PRIVFLAGS_HEADER: u16 = 1;
const ETHTOOL_A_PRIVFLAGS_FLAGS: u16 = 2;
const ETHTOOL_A_HEADER_DEV_INDEX: u16 = 1;
const ETHTOOL_A_BITSET_NOMASK: u16 = 1;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;
const ETHTOOL_A_BITSET_BIT_VALUE: u16 = 3;

/// The names of the features that are on; `None` if the answer has none.
pub(super) fn active_features(index: u32) -> io::Result<Option<BTreeSet<String>>> {
    ask(index, ETHTOOL_MSG_FEATURES_GET, ETHTOOL_A_FEATURES_HEADER, ETHTOOL_A_FEATURES_ACTIVE)
}

/// The names of the driver's own flags that are on; `None` if the answer has none.
pub(super) fn active_private_flags(index: u32) -> io::Result<Option<BTreeSet<String>>> {
    ask(index, ETHTOOL_MSG_PRIVFLAGS_GET, ETHTOOL_A_PRIVFLAGS_HEADER, ETHTOOL_A_PRIVFLAGS_FLAGS)
}

/// The names of the bits that are set in a bitset of the answer.
fn ask(index: u32, command: u8, header: u16, set: u16) -> io::Result<Option<BTreeSet<String>>> {
    let device = genl::attribute(ETHTOOL_A_HEADER_DEV_INDEX, &index.to_ne_bytes())?;
    let header = genl::attribute(header, &[])?.nest(&device).map_err(io::Error::other)?;
    let answers = genl::ask("ethtool", command, vec![header])?;
    Ok(answers.into_iter().flatten().find_map(|answer| names(&answer, set)))
}

/// A bitset without a mask lists the bits that are set, by name; with one, all
/// that there are.
fn names(answer: &Genl, set: u16) -> Option<BTreeSet<String>> {
    let attributes = answer.attrs().get_attr_handle();
    let set = attributes.get_nested_attributes::<u16>(set).ok()?;
    let masked = set.get_attribute(ETHTOOL_A_BITSET_NOMASK).is_none();
    let bits = set.get_nested_attributes::<u16>(ETHTOOL_A_BITSET_BITS).ok()?;
    let name = |bit: &Nlattr<u16, Buffer>| {
        let bit = bit.get_attr_handle::<u16>().ok()?;
        if masked && bit.get_attribute(ETHTOOL_A_BITSET_BIT_VALUE).is_none() {
            return None;
        }
        let name = bit.get_attribute(ETHTOOL_A_BITSET_BIT_NAME)?.payload().as_ref();
        Some(String::from_utf8_lossy(name.strip_suffix(&[0])?).into_owned())
    };
    Some(bits.iter().filter_map(name).collect())
}
