//! What the hardware of an interface does, through generic netlink (5.6).

use std::collections::BTreeSet;
use std::io;

use neli::attr::Attribute;
use neli::genl::Nlattr;
use neli::types::Buffer;

use super::genl;
use super::genl::Family;
use super::genl::Genl;

// From linux/ethtool_netlink.h.
const ETHTOOL_MSG_FEATURES_GET: u8 = 11;
const ETHTOOL_MSG_FEATURES_SET: u8 = 12;

/// The number of the header in the requests of every kind.
const ETHTOOL_A_HEADER: u16 = 1;
const ETHTOOL_A_HEADER_DEV_INDEX: u16 = 1;

const ETHTOOL_A_FEATURES_HW: u16 = 2;
const ETHTOOL_A_FEATURES_WANTED: u16 = 3;
const ETHTOOL_A_FEATURES_ACTIVE: u16 = 4;
const ETHTOOL_A_FEATURES_NOCHANGE: u16 = 5;

const ETHTOOL_A_BITSET_NOMASK: u16 = 1;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;
const ETHTOOL_A_BITSET_BIT_VALUE: u16 = 3;

/// Requests to one network namespace: that of the thread that made it.
pub(crate) struct Ethtool {
    family: Family,
}

/// Features by the kernel's names for them (net/ethtool/common.c).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features {
    /// Those that are on.
    pub(crate) active: BTreeSet<String>,
    /// Those that can be turned on and off.
    pub(crate) changeable: BTreeSet<String>,
}

impl Ethtool {
    /// `None` where the kernel has no such family.
    pub(crate) fn new() -> io::Result<Option<Self>> {
        Ok(Family::open("ethtool")?.map(|family| Self { family }))
    }

    /// The features of an interface.
    pub(crate) fn features(&mut self, index: u32) -> io::Result<Features> {
        let answer = self.get(ETHTOOL_MSG_FEATURES_GET, index)?;
        let names = |attribute| names(&answer, attribute).unwrap_or_default();
        let fixed = names(ETHTOOL_A_FEATURES_NOCHANGE);
        let mut changeable = names(ETHTOOL_A_FEATURES_HW);
        changeable.retain(|name| !fixed.contains(name));
        Ok(Features { active: names(ETHTOOL_A_FEATURES_ACTIVE), changeable })
    }

    /// Asks for features to be on (true) or off, and leaves all others as they
    /// are. The kernel takes the request also where it cannot be met: what
    /// became of it is in the features afterwards.
    pub(crate) fn set_features(
        &mut self,
        index: u32,
        wanted: impl IntoIterator<Item = (&'static str, bool)>,
    ) -> io::Result<()> {
        let mut bits = genl::attribute(ETHTOOL_A_BITSET_BITS, &[])?;
        for (name, on) in wanted {
            let name = genl::text(ETHTOOL_A_BITSET_BIT_NAME, name)?;
            let mut bit = nest(genl::attribute(ETHTOOL_A_BITSET_BITS_BIT, &[])?, &name)?;
            if on {
                bit = nest(bit, &genl::attribute(ETHTOOL_A_BITSET_BIT_VALUE, &[])?)?;
            }
            bits = nest(bits, &bit)?;
        }
        let wanted = nest(genl::attribute(ETHTOOL_A_FEATURES_WANTED, &[])?, &bits)?;
        self.family.ask(ETHTOOL_MSG_FEATURES_SET, vec![header(index)?, wanted])?;
        Ok(())
    }

    fn get(&mut self, command: u8, index: u32) -> io::Result<Genl> {
        let answers = self.family.ask(command, vec![header(index)?])?;
        answers.into_iter().next().ok_or_else(|| io::Error::other("there is no answer"))
    }
}

/// The interface that a request is about.
fn header(index: u32) -> io::Result<Nlattr<u16, Buffer>> {
    let device = genl::attribute(ETHTOOL_A_HEADER_DEV_INDEX, &index.to_ne_bytes())?;
    nest(genl::attribute(ETHTOOL_A_HEADER, &[])?, &device)
}

fn nest(
    outer: Nlattr<u16, Buffer>,
    inner: &Nlattr<u16, Buffer>,
) -> io::Result<Nlattr<u16, Buffer>> {
    outer.nest(inner).map_err(io::Error::other)
}

/// The names of the bits that are set in a bitset of an answer. One without a
/// mask lists these alone, others list all that the mask has.
fn names(answer: &Genl, attribute: u16) -> Option<BTreeSet<String>> {
    let attributes = answer.attrs().get_attr_handle();
    let bitset = attributes.get_nested_attributes::<u16>(attribute).ok()?;
    let bits = bitset.get_nested_attributes::<u16>(ETHTOOL_A_BITSET_BITS).ok()?;
    let masked = bitset.get_attribute(ETHTOOL_A_BITSET_NOMASK).is_none();
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
