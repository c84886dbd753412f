//! The veth pair that probes go through, made without anything left to ask for:
//! no link-local addresses, no neighbours, no offloads.

use std::fs;
use std::io;
use std::io::Cursor;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use neli::ToBytes;
use neli::consts::nl::NlmF;
use neli::consts::rtnl::Ifa;
use neli::consts::rtnl::IfaF;
use neli::consts::rtnl::Iff;
use neli::consts::rtnl::Ifla;
use neli::consts::rtnl::IflaInfo;
use neli::consts::rtnl::RtAddrFamily;
use neli::consts::rtnl::RtScope;
use neli::consts::rtnl::RtTable;
use neli::consts::rtnl::Rta;
use neli::consts::rtnl::RtaType;
use neli::consts::rtnl::Rtm;
use neli::consts::rtnl::Rtn;
use neli::consts::rtnl::Rtprot;
use neli::rtnl::IfaddrmsgBuilder;
use neli::rtnl::Ifinfomsg;
use neli::rtnl::IfinfomsgBuilder;
use neli::rtnl::Rtattr;
use neli::rtnl::RtmsgBuilder;
use neli::types::Buffer;
use neli::types::RtBuffer;
use nix::errno::Errno;

use super::Ethtool;
use super::Net;
use super::absent_is_none;
use super::attribute;
use super::message;
use super::netlink;
use super::routes::Route;
use super::snapshot::Change;
use super::snapshot::Snapshot;
use crate::Error;
use crate::Mac;
use crate::Prefix;
use crate::Result;

/// The longest packet that goes through a pair, in octets.
pub(crate) const PROBE_MTU: u32 = 1500;

// From linux/rtnetlink.h.
const RTAX_HOPLIMIT: u16 = 10;

// From linux/veth.h and linux/if_link.h; neli does not have them.
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;

/// The longest name of an instance that those of its interfaces have whole.
const WHOLE_NAME: usize = 11;

/// What a pair for probes is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProbePair {
    /// The name of the end that the host sends by.
    pub(crate) host: String,
    /// The name of the end that a program takes the packets from.
    pub(crate) wire: String,
    /// The host end's own IPv4 address, and the prefix that is routed there.
    pub(crate) v4: Option<(Ipv4Addr, Prefix)>,
    /// The same of IPv6.
    pub(crate) v6: Option<(Ipv6Addr, Prefix)>,
}

/// A pair for probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProbeEnds {
    pub(crate) host: End,
    pub(crate) wire: End,
    /// Whether it has IPv6: it was asked for, and the host end takes it.
    pub(crate) v6: bool,
}

/// One end of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) index: u32,
    pub(crate) mac: Mac,
}

/// The names of an instance's host end and wire end, of 15 characters at most.
pub(crate) fn probe_names(instance: &str) -> (String, String) {
    let rest = match instance.char_indices().nth(2) {
        Some((second, _)) if instance.len() > WHOLE_NAME => {
            format!("{}-{:08x}", &instance[..second], fnv1a(instance))
        }
        _ => instance.to_owned(),
    };
    (format!("xvs-{rest}"), format!("xvw-{rest}"))
}

/// The first address of the host, or else route of the main table, that shares
/// addresses with the prefix, in words. Default routes do not count, nor does what
/// only goes by the interface that is excepted.
pub(crate) fn overlap(prefix: &Prefix, snapshot: &Snapshot, except: Option<u32>) -> Option<String> {
    let name = |index: u32| match snapshot.links.get(&index) {
        Some(link) => format!("`{}`", link.name),
        None => format!("interface {index}"),
    };
    let mut addresses = snapshot.addresses.iter().filter(|own| except != Some(own.index));
    let shares = |own: Prefix| own.length() > 0 && own.overlaps(prefix);
    if let Some(own) = addresses.find(|own| prefix.contains(own.address) || shares(own.prefix)) {
        let (address, length) = (own.address, own.prefix.length());
        return Some(format!("address {address}/{length} of {}", name(own.index)));
    }
    let wider = |to: &Prefix| to.length() <= prefix.length();
    // Two halves are often put over a default route, and what no packet is to go to
    // (240.0.0.0/4, for one) is told to lead nowhere.
    let counts = |(to, route): &(Prefix, &Route)| match route.hops.is_empty() {
        true => !wider(to),
        false => to.length() > 1 && route.hops.iter().any(|hop| except != Some(hop.interface)),
    };
    let (to, route) = snapshot.routes.overlapping(*prefix).find(counts)?;
    let by: Vec<String> = route.hops.iter().map(|hop| name(hop.interface)).collect();
    Some(match by.is_empty() {
        true => format!("route {to}, which leads nowhere"),
        false => format!("route {to} by {}", by.join(", ")),
    })
}

/// Whether an interface of the thread's network namespace takes IPv6 addresses.
fn takes_v6(interface: &str) -> bool {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
    fs::read_to_string(path).is_ok_and(|disabled| disabled.trim() == "0")
}

/// An interface as it is found by its name.
struct Found {
    index: u32,
    kind: Option<String>,
    /// What it is on, or its other end, if that is in this namespace.
    peer: Option<u32>,
    has_program: bool,
}

impl Found {
    fn is_veth(&self) -> bool {
        self.kind.as_deref() == Some("veth")
    }
}

impl Net {
    /// Makes a pair for probes, up and with its addresses and routes; one of the
    /// same names is made anew. Where a step fails nothing stays of it. To be called
    /// by a thread in the network namespace that this was opened in.
    pub(crate) fn make_probe_pair(&mut self, wanted: &ProbePair) -> Result<ProbeEnds> {
        let () = self.make_room(wanted)?;
        let request = link_request(wanted).map_err(netlink("request to make a veth pair"))?;
        let flags = NlmF::CREATE | NlmF::EXCL;
        let made = self.socket.request(Rtm::Newlink.into(), flags, request);
        // Whoever was faster has it.
        let foreign =
            made.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists);
        let made = made.map_err(netlink("request to make a veth pair"));
        let made = made.and_then(|_| self.set_up(wanted));
        if made.is_err() && !foreign {
            // It may be there also if only the answer is lost.
            let _ = self.remove_probe_pair(&wanted.host);
        }
        made
    }

    /// The pair of these names that is there, if both ends are.
    pub(crate) fn probe_pair(&mut self, wanted: &ProbePair) -> Result<Option<ProbeEnds>> {
        let mut find = |name: &String| {
            let found = self.find(name).map_err(netlink("request for an interface"))?;
            let veth = found.filter(Found::is_veth);
            Ok(veth.map(|veth| End { index: veth.index, mac: mac(name) }))
        };
        let (host, wire) = (find(&wanted.host)?, find(&wanted.wire)?);
        let v6 = wanted.v6.is_some() && takes_v6(&wanted.host);
        Ok(host.zip(wire).map(|(host, wire)| ProbeEnds { host, wire, v6 }))
    }

    /// Deletes a pair for probes by the name of its host end; returns whether there
    /// was a veth of that name.
    pub(crate) fn remove_probe_pair(&mut self, host: &str) -> Result<bool> {
        let found = self.find(host).map_err(netlink("request for an interface"))?;
        match found.filter(Found::is_veth) {
            Some(veth) => self.delete(veth.index),
            None => Ok(false),
        }
    }

    /// Deletes a pair of these names, and nothing else.
    fn make_room(&mut self, wanted: &ProbePair) -> Result<()> {
        let find = |name: &String| self.find(name).map_err(netlink("request for an interface"));
        let [host, wire] = [&wanted.host, &wanted.wire].map(find);
        let (host, wire) = (host?, wire?);
        if let (Some(host), Some(wire)) = (&host, &wire)
            && host.is_veth()
            && wire.is_veth()
            && host.peer == Some(wire.index)
        {
            if wire.has_program {
                let reason = "a balancer runs here that has it; give this one another instance \
                              name, and other prefixes for NAT addresses";
                let (interface, reason) = (wanted.host.clone(), reason.to_owned());
                return Err(Error::ProbeInterface { interface, reason });
            }
            return self.delete(host.index).map(drop);
        }
        let ends = [(&wanted.host, &wanted.wire, host), (&wanted.wire, &wanted.host, wire)];
        for (interface, other, found) in ends {
            let Some(found) = found else { continue };
            let reason = match found.kind.as_deref() {
                Some("veth") => format!("it is a veth whose other end is not `{other}` here"),
                Some(kind) => format!("it is of kind {kind}, not a veth"),
                None => "it is not a veth".to_owned(),
            };
            return Err(Error::ProbeInterface { interface: interface.clone(), reason });
        }
        Ok(())
    }

    fn set_up(&mut self, wanted: &ProbePair) -> Result<ProbeEnds> {
        let find = |name: &String| {
            let found = self.find(name).and_then(|found| found.ok_or(Errno::ENODEV.into()));
            let index = found.map_err(netlink("request for the veth pair"))?.index;
            Ok(End { index, mac: mac(name) })
        };
        let [host, wire] = [&wanted.host, &wanted.wire].map(find);
        let (host, wire) = (host?, wire?);
        for end in [wire, host] {
            self.leave_out_link_local(end.index)
                .map_err(netlink("request for no link-local address on the veth pair"))?;
        }
        let () = turn_off_offloads([wire.index, host.index])
            .map_err(netlink("request to turn off the veth pair's offloads"))?;
        // The end that comes up last has its carrier at once.
        for end in [wire, host] {
            self.start(end.index).map_err(netlink("request to start the veth pair"))?;
        }
        if let Some((address, prefix)) = wanted.v4 {
            let address = IpAddr::V4(address);
            self.add_address(host.index, address)
                .map_err(netlink("request to add the probes' IPv4 address"))?;
            self.add_route(host.index, address, prefix)
                .map_err(netlink("request to add the probes' IPv4 route"))?;
        }
        let v6 = match wanted.v6 {
            Some((address, prefix)) => self.add_v6(host.index, IpAddr::V6(address), prefix)?,
            None => false,
        };
        Ok(ProbeEnds { host, wire, v6 })
    }

    /// Returns whether the interface takes IPv6.
    fn add_v6(&mut self, index: u32, address: IpAddr, prefix: Prefix) -> Result<bool> {
        match self.add_address(index, address) {
            Err(error) if has_no_v6(&error) => return Ok(false),
            added => added.map_err(netlink("request to add the probes' IPv6 address"))?,
        }
        self.add_route(index, address, prefix)
            .map_err(netlink("request to add the probes' IPv6 route"))?;
        Ok(true)
    }

    fn find(&mut self, name: &str) -> io::Result<Option<Found>> {
        let request = IfinfomsgBuilder::default()
            .ifi_family(RtAddrFamily::Unspecified)
            .rtattrs(RtBuffer::from_iter([attribute(Ifla::Ifname, text(name))?]))
            .build()
            .map_err(io::Error::other)?;
        let answers = self.socket.request(Rtm::Getlink.into(), NlmF::empty(), request);
        let answers = absent_is_none(answers)?.unwrap_or_default();
        Ok(answers.iter().find_map(|answer| {
            let Change::Link(link) = message::change(answer)? else { return None };
            let answer: Ifinfomsg = message::payload(answer)?;
            let attributes = answer.rtattrs().get_attr_handle();
            let here = attributes.get_attribute(Ifla::LinkNetnsid).is_none();
            let peer = attributes.get_attr_payload_as(Ifla::Link).ok().filter(|_| here);
            let has_program = link.xdp.is_some();
            Some(Found { index: link.index, kind: link.kind, peer, has_program })
        }))
    }

    /// Returns whether it was there.
    fn delete(&mut self, index: u32) -> Result<bool> {
        let deleted = link(index).and_then(|link| {
            let request = link.build().map_err(io::Error::other)?;
            self.socket.request(Rtm::Dellink.into(), NlmF::empty(), request)
        });
        let deleted = absent_is_none(deleted).map_err(netlink("request to delete a veth pair"))?;
        Ok(deleted.is_some())
    }

    /// The kernel takes this of an interface that it has, not of one to be made.
    fn leave_out_link_local(&mut self, index: u32) -> io::Result<()> {
        let mode = attribute(IFLA_INET6_ADDR_GEN_MODE, vec![IN6_ADDR_GEN_MODE_NONE])?;
        let family = u16::from(u8::from(RtAddrFamily::Inet6));
        let families = nest(Ifla::AfSpec, &[nest(family, &[mode])?])?;
        let request = link(index)?.rtattrs(RtBuffer::from_iter([families]));
        let request = request.build().map_err(io::Error::other)?;
        match self.socket.request(Rtm::Newlink.into(), NlmF::empty(), request) {
            Err(error) if has_no_v6(&error) => Ok(()),
            answer => answer.map(drop),
        }
    }

    fn start(&mut self, index: u32) -> io::Result<()> {
        let request = link(index)?.up().build().map_err(io::Error::other)?;
        self.socket.request(Rtm::Newlink.into(), NlmF::empty(), request).map(drop)
    }

    /// Adds an address that is there for those alone who ask for it: a deprecated
    /// one, of no use beyond the link.
    fn add_address(&mut self, index: u32, address: IpAddr) -> io::Result<()> {
        let (family, bits, octets) = parts(address);
        // `struct ifa_cacheinfo`: preferred for no time, valid for ever.
        let lifetimes = [0, u32::MAX, 0, 0].map(u32::to_ne_bytes).concat();
        let request = IfaddrmsgBuilder::default()
            .ifa_family(family)
            .ifa_prefixlen(bits)
            .ifa_flags(IfaF::NODAD)
            .ifa_scope(RtScope::Link)
            .ifa_index(index)
            .rtattrs(RtBuffer::from_iter([
                attribute(Ifa::Local, octets.clone())?,
                attribute(Ifa::Address, octets)?,
                attribute(Ifa::Cacheinfo, lifetimes)?,
            ]))
            .build()
            .map_err(io::Error::other)?;
        let flags = NlmF::CREATE | NlmF::EXCL;
        self.socket.request(Rtm::Newaddr.into(), flags, request).map(drop)
    }

    fn add_route(&mut self, index: u32, source: IpAddr, prefix: Prefix) -> io::Result<()> {
        let (family, _, destination) = parts(prefix.address());
        let request = RtmsgBuilder::default()
            .rtm_family(family)
            .rtm_dst_len(prefix.length())
            .rtm_src_len(0)
            .rtm_tos(0)
            .rtm_table(RtTable::Main)
            .rtm_protocol(Rtprot::Static)
            .rtm_scope(RtScope::Link)
            .rtm_type(Rtn::Unicast)
            .rtattrs(RtBuffer::from_iter([
                attribute(Rta::Dst, destination)?,
                attribute(Rta::Prefsrc, parts(source).2)?,
                attribute(Rta::Oif, index.to_ne_bytes().to_vec())?,
                // What this host sends has the most, which nothing forwarded has
                // (RFC 5082).
                nest(Rta::Metrics, &[attribute(RTAX_HOPLIMIT, 255_u32.to_ne_bytes().to_vec())?])?,
            ]))
            .build()
            .map_err(io::Error::other)?;
        let flags = NlmF::CREATE | NlmF::EXCL;
        self.socket.request(Rtm::Newroute.into(), flags, request).map(drop)
    }
}

/// Has the kernel fill in checksums and cut packets to size before a program sees
/// them.
fn turn_off_offloads(ends: [u32; 2]) -> io::Result<()> {
    let none = || io::Error::other("this kernel tells no features through netlink");
    let mut ethtool = Ethtool::new()?.ok_or_else(none)?;
    for end in ends {
        let changeable = ethtool.features(end)?.changeable;
        let off = changeable.iter().filter(|name| is_offload(name));
        ethtool.set_features(end, off.map(|name| (name.as_str(), false)))?;
        if let Some(name) = ethtool.features(end)?.active.iter().find(|name| is_offload(name)) {
            return Err(io::Error::other(format!("{name} stays on")));
        }
    }
    Ok(())
}

/// Whether what it names leaves checksums out, or lets larger packets through. The
/// generic segmentation is done above the driver.
fn is_offload(feature: &str) -> bool {
    let segments = feature.starts_with("tx-") && feature.ends_with("-segmentation");
    feature.starts_with("tx-checksum-")
        || feature.starts_with("tx-gso-")
        || segments && feature != "tx-generic-segmentation"
}

/// A request for both ends.
fn link_request(wanted: &ProbePair) -> io::Result<Ifinfomsg> {
    let mut peer = Cursor::new(Vec::new());
    end(&wanted.wire, None)?.to_bytes(&mut peer).map_err(io::Error::other)?;
    let peer = attribute(VETH_INFO_PEER, peer.into_inner())?;
    let kind = attribute(IflaInfo::Kind, text("veth"))?;
    let info = nest(Ifla::Linkinfo, &[kind, nest(IflaInfo::Data, &[peer])?])?;
    end(&wanted.host, Some(info))
}

/// An end to be made. An address of its own keeps udev from giving it another one.
fn end(name: &str, info: Option<Rtattr<Ifla, Buffer>>) -> io::Result<Ifinfomsg> {
    let attributes = [
        attribute(Ifla::Ifname, text(name))?,
        attribute(Ifla::Address, mac(name).0.to_vec())?,
        attribute(Ifla::Mtu, PROBE_MTU.to_ne_bytes().to_vec())?,
        attribute(Ifla::NumTxQueues, 1_u32.to_ne_bytes().to_vec())?,
        attribute(Ifla::NumRxQueues, 1_u32.to_ne_bytes().to_vec())?,
    ];
    IfinfomsgBuilder::default()
        .ifi_family(RtAddrFamily::Unspecified)
        .ifi_flags(Iff::NOARP)
        .ifi_change(Iff::NOARP)
        .rtattrs(RtBuffer::from_iter(attributes.into_iter().chain(info)))
        .build()
        .map_err(io::Error::other)
}

/// The MAC address of the end of this name, a locally administered one.
fn mac(name: &str) -> Mac {
    let [a, b, c, d] = fnv1a(name).to_be_bytes();
    Mac([0x02, b'x', a, b, c, d])
}

/// FNV-1a of 32 bits (draft-eastlake-fnv).
fn fnv1a(text: &str) -> u32 {
    text.bytes()
        .fold(0x811c_9dc5, |hash, octet| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193))
}

/// The beginning of a request about an interface.
fn link(index: u32) -> io::Result<IfinfomsgBuilder> {
    let index = index.try_into().map_err(io::Error::other)?;
    Ok(IfinfomsgBuilder::default().ifi_family(RtAddrFamily::Unspecified).ifi_index(index))
}

fn nest<T: RtaType, U: RtaType>(
    kind: T,
    inner: &[Rtattr<U, Buffer>],
) -> io::Result<Rtattr<T, Buffer>> {
    let outer = attribute(kind, Vec::new())?;
    inner.iter().try_fold(outer, |outer, inner| outer.nest(inner).map_err(io::Error::other))
}

fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// The family of an address, and its length in bits and octets.
fn parts(address: IpAddr) -> (RtAddrFamily, u8, Vec<u8>) {
    match address {
        IpAddr::V4(v4) => (RtAddrFamily::Inet, 32, v4.octets().to_vec()),
        IpAddr::V6(v6) => (RtAddrFamily::Inet6, 128, v6.octets().to_vec()),
    }
}

/// Whether IPv6 is turned off on an interface, or in the kernel.
fn has_no_v6(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EACCES | Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::sample::add_route;
    use crate::net::sample::hop;
    use crate::net::sample::snapshot;

    #[test]
    fn names_fit_and_tell_instances_apart() {
        // The test vectors of draft-eastlake-fnv.
        assert_eq!(
            [fnv1a(""), fnv1a("a"), fnv1a("foobar")],
            [0x811c_9dc5, 0xe40c_292c, 0xbf9c_f968]
        );
        let names = |host: &str, wire: &str| (host.to_owned(), wire.to_owned());
        assert_eq!(probe_names("default"), names("xvs-default", "xvw-default"));
        assert_eq!(probe_names("a"), names("xvs-a", "xvw-a"));
        assert_eq!(probe_names("elevenchars"), names("xvs-elevenchars", "xvw-elevenchars"));
        let hash = fnv1a("twelve-chars");
        let (host, wire) = (format!("xvs-tw-{hash:08x}"), format!("xvw-tw-{hash:08x}"));
        assert_eq!(probe_names("twelve-chars"), names(&host, &wire));
        assert!(host.len() == 15 && probe_names("twelve-chars2").0 != host);
    }

    fn found(prefix: &str, snapshot: &Snapshot, except: Option<u32>) -> Option<String> {
        overlap(&prefix.parse().unwrap(), snapshot, except)
    }

    #[test]
    fn addresses_that_are_shared_are_told() {
        let own = [(2, "255.0.0.9/24"), (3, "fd00::1/64"), (4, "254.0.0.1/8")];
        let snapshot = snapshot(&own);
        let eth0 = Some("address 255.0.0.9/24 of `eth0`".to_owned());
        assert_eq!(found("255.0.0.0/8", &snapshot, None), eth0);
        assert_eq!(found("255.0.0.128/25", &snapshot, None), eth0, "on-link there");
        assert_eq!(found("255.0.0.0/8", &snapshot, Some(3)), eth0);
        assert_eq!(found("255.0.0.0/8", &snapshot, Some(2)), None);
        assert_eq!(found("255.0.1.0/24", &snapshot, None), None);
        let eth1 = Some("address fd00::1/64 of `eth1`".to_owned());
        assert_eq!(found("fd00::/8", &snapshot, None), eth1);
        assert_eq!(found("fd00:0:0:1::/64", &snapshot, None), None);
    }

    #[test]
    fn an_address_has_its_peer_beside_it() {
        let mut snapshot = snapshot(&[(2, "10.7.0.1/32")]);
        snapshot.addresses[0].prefix = "255.7.0.2/32".parse().unwrap();
        for prefix in ["10.7.0.0/16", "255.7.0.0/16"] {
            assert!(found(prefix, &snapshot, None).is_some(), "{prefix}");
        }
        assert_eq!(found("10.8.0.0/16", &snapshot, None), None);
    }

    #[test]
    fn routes_that_are_shared_are_told() {
        let mut snapshot = snapshot(&[]);
        for prefix in ["0.0.0.0/0", "::/0"] {
            add_route(&mut snapshot, prefix, 0, &[hop(2, "")]);
        }
        for (prefix, hops) in [
            ("255.0.0.0/9", vec![hop(3, "")]),
            ("255.128.0.7/32", vec![hop(2, "10.1.2.9"), hop(9, "10.1.3.9")]),
            ("224.0.0.0/5", Vec::new()),
            ("128.0.0.0/1", vec![hop(3, "")]),
            ("fd6b::/16", vec![hop(3, "fe80::1")]),
        ] {
            add_route(&mut snapshot, prefix, 0, &hops);
        }
        add_route(&mut snapshot, "255.0.0.0/9", 7, &[hop(4, "")]);
        for (prefix, except, expected) in [
            ("255.0.0.0/10", None, "route 255.0.0.0/9 by `eth1`"),
            ("255.0.0.0/10", Some(3), "route 255.0.0.0/9 by `eth2`"),
            ("255.64.0.0/10", Some(2), "route 255.0.0.0/9 by `eth1`"),
            ("255.0.0.0/8", None, "route 255.128.0.7/32 by `eth0`, interface 9"),
            ("224.0.0.0/4", None, "route 224.0.0.0/5, which leads nowhere"),
            ("255.128.0.0/9", Some(2), "route 255.128.0.7/32 by `eth0`, interface 9"),
            ("fd6b:1::/64", None, "route fd6b::/16 by `eth1`"),
        ] {
            assert_eq!(found(prefix, &snapshot, except).as_deref(), Some(expected), "{prefix}");
        }
        for prefix in ["240.0.0.0/16", "fd6c::/16", "fd00::/24", "224.0.0.0/24", "192.0.2.0/24"] {
            assert_eq!(found(prefix, &snapshot, None), None);
        }
        assert_eq!(found("fd6b:1::/64", &snapshot, Some(3)), None);
    }
}
