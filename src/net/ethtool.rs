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
const ETHTOOL_MSG_PRIVFLAGS_GET: u8 = 13;
const ETHTOOL_MSG_CHANNELS_GET: u8 = 17;
/// Since 6.3: 7112a04664bf ("ethtool: add netlink based get rss support").
const ETHTOOL_MSG_RSS_GET: u8 = 38;

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

const ETHTOOL_A_PRIVFLAGS_FLAGS: u16 = 2;

const ETHTOOL_A_CHANNELS_RX_COUNT: u16 = 6;
const ETHTOOL_A_CHANNELS_COMBINED_COUNT: u16 = 9;

const ETHTOOL_A_RSS_HFUNC: u16 = 3;
const ETHTOOL_A_RSS_INDIR: u16 = 4;
const ETHTOOL_A_RSS_HKEY: u16 = 5;

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

/// How many channels that receive, which have interrupts of their own, are in
/// use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Channels {
    /// Those that do nothing else.
    pub(crate) rx: u32,
    /// Those that transmit, too.
    pub(crate) combined: u32,
}

/// Receive-side scaling: which packet comes by which queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rss {
    /// The queue for each low part of the hash; empty if it is not told.
    pub(crate) indirection: Vec<u32>,
    /// The hash function, a bit; `None` if it is not told.
    pub(crate) function: Option<u32>,
    /// The key of the hash; empty if it is not told.
    pub(crate) key: Vec<u8>,
}

impl Ethtool {
    /// `None` where the kernel has no such family.
    pub(crate) fn new() -> io::Result<Option<Self>> {
        Ok(Family::open("ethtool")?.map(|family| Self { family }))
    }

    /// The features of an interface.
    pub(crate) fn features(&mut self, index: u32) -> io::Result<Features> {
        Ok(features(&self.get(ETHTOOL_MSG_FEATURES_GET, index)?))
    }

    /// The names of the driver's own flags that are on.
    pub(crate) fn private_flags(&mut self, index: u32) -> io::Result<BTreeSet<String>> {
        let answer = supported(self.get(ETHTOOL_MSG_PRIVFLAGS_GET, index))?;
        let flags = answer.and_then(|answer| names(&answer, ETHTOOL_A_PRIVFLAGS_FLAGS));
        Ok(flags.unwrap_or_default())
    }

    /// Asks for features to be on (true) or off, and leaves all others as they
    /// are. The kernel takes the request also where it cannot be met: what
    /// became of it is in the features afterwards.
    pub(crate) fn set_features<'a>(
        &mut self,
        index: u32,
        wanted: impl IntoIterator<Item = (&'a str, bool)>,
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

    /// The channels of an interface; `None` where the driver does not tell.
    pub(crate) fn channels(&mut self, index: u32) -> io::Result<Option<Channels>> {
        let answer = supported(self.get(ETHTOOL_MSG_CHANNELS_GET, index))?;
        Ok(answer.as_ref().map(channels))
    }

    /// The receive-side scaling of an interface; `None` where the kernel or
    /// the driver does not tell.
    pub(crate) fn rss(&mut self, index: u32) -> io::Result<Option<Rss>> {
        let answer = supported(self.get(ETHTOOL_MSG_RSS_GET, index))?;
        Ok(answer.as_ref().map(rss))
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

fn features(answer: &Genl) -> Features {
    let names = |attribute| names(answer, attribute).unwrap_or_default();
    let fixed = names(ETHTOOL_A_FEATURES_NOCHANGE);
    let mut changeable = names(ETHTOOL_A_FEATURES_HW);
    changeable.retain(|name| !fixed.contains(name));
    Features { active: names(ETHTOOL_A_FEATURES_ACTIVE), changeable }
}

fn channels(answer: &Genl) -> Channels {
    let attributes = answer.attrs().get_attr_handle();
    let count = |attribute| attributes.get_attr_payload_as(attribute).unwrap_or(0);
    Channels {
        rx: count(ETHTOOL_A_CHANNELS_RX_COUNT),
        combined: count(ETHTOOL_A_CHANNELS_COMBINED_COUNT),
    }
}

fn rss(answer: &Genl) -> Rss {
    let attributes = answer.attrs().get_attr_handle();
    let octets = |attribute| match attributes.get_attribute(attribute) {
        Some(found) => found.payload().as_ref().to_vec(),
        None => Vec::new(),
    };
    let indirection = octets(ETHTOOL_A_RSS_INDIR);
    let (queues, _) = indirection.as_chunks();
    Rss {
        indirection: queues.iter().map(|queue| u32::from_ne_bytes(*queue)).collect(),
        function: attributes.get_attr_payload_as(ETHTOOL_A_RSS_HFUNC).ok(),
        key: octets(ETHTOOL_A_RSS_HKEY),
    }
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

/// `None` where the driver, or the family of this kernel, has no answer.
fn supported<T>(answer: io::Result<T>) -> io::Result<Option<T>> {
    match answer {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(None),
        answer => answer.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use neli::genl::GenlmsghdrBuilder;
    use neli::types::GenlBuffer;

    use super::*;

    fn attribute(kind: u16, payload: &[u8]) -> Nlattr<u16, Buffer> {
        genl::attribute(kind, payload).unwrap()
    }

    fn nested(kind: u16, inner: Vec<Nlattr<u16, Buffer>>) -> Nlattr<u16, Buffer> {
        inner.iter().fold(attribute(kind, &[]), |outer, inner| nest(outer, inner).unwrap())
    }

    fn answer(attributes: Vec<Nlattr<u16, Buffer>>) -> Genl {
        let attributes = GenlBuffer::from_iter(attributes);
        GenlmsghdrBuilder::default().cmd(1).version(1).attrs(attributes).build().unwrap()
    }

    fn bit(name: &str, more: Vec<Nlattr<u16, Buffer>>) -> Nlattr<u16, Buffer> {
        let name = genl::text(ETHTOOL_A_BITSET_BIT_NAME, name).unwrap();
        nested(ETHTOOL_A_BITSET_BITS_BIT, [vec![name], more].concat())
    }

    /// As the kernel lists what is set, without a mask.
    fn list(kind: u16, names: &[&str]) -> Nlattr<u16, Buffer> {
        let bits = names.iter().map(|name| bit(name, Vec::new())).collect();
        let without_mask = attribute(ETHTOOL_A_BITSET_NOMASK, &[]);
        nested(kind, vec![without_mask, nested(ETHTOOL_A_BITSET_BITS, bits)])
    }

    #[test]
    fn features_that_are_fixed_are_not_changeable() {
        let set = || vec![attribute(ETHTOOL_A_BITSET_BIT_VALUE, &[])];
        let bits = vec![bit("a", set()), bit("b", Vec::new()), bit("c", set())];
        let features = features(&answer(vec![
            nested(ETHTOOL_A_FEATURES_HW, vec![nested(ETHTOOL_A_BITSET_BITS, bits)]),
            list(ETHTOOL_A_FEATURES_ACTIVE, &["a", "b"]),
            list(ETHTOOL_A_FEATURES_NOCHANGE, &["c", "d"]),
        ]));
        assert_eq!(features.active, ["a", "b"].map(str::to_owned).into());
        assert_eq!(features.changeable, ["a"].map(str::to_owned).into());
    }

    #[test]
    fn channels_that_are_not_told_are_none() {
        let combined = attribute(ETHTOOL_A_CHANNELS_COMBINED_COUNT, &8_u32.to_ne_bytes());
        assert_eq!(channels(&answer(vec![combined])), Channels { rx: 0, combined: 8 });
    }

    #[test]
    fn what_a_driver_has_of_rss_is_told() {
        let table: Vec<u8> = [0_u32, 1, 0, 1].iter().flat_map(|n| n.to_ne_bytes()).collect();
        let all = rss(&answer(vec![
            attribute(ETHTOOL_A_RSS_HFUNC, &1_u32.to_ne_bytes()),
            attribute(ETHTOOL_A_RSS_INDIR, &table),
            attribute(ETHTOOL_A_RSS_HKEY, &[7; 40]),
        ]));
        let expected = Rss { indirection: vec![0, 1, 0, 1], function: Some(1), key: vec![7; 40] };
        assert_eq!(all, expected);
        let nothing = Rss { indirection: Vec::new(), function: None, key: Vec::new() };
        assert_eq!(rss(&answer(Vec::new())), nothing);
    }
}
