//! What is settled before services are: limits, interfaces' mode, VLANs.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::Error;
use crate::Prefix;
use crate::Result;
use crate::nat::NatPrefixes;
use crate::service::MAX_IDLE;

/// How the XDP programs are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Native where the driver can, otherwise generic with a warning
    /// ([`Event::GenericMode`](crate::Event::GenericMode)).
    #[default]
    Auto,
    /// In the driver, before the kernel makes a socket buffer.
    Native,
    /// In the network stack: works everywhere, several times slower.
    Generic,
}

/// What happens to the traffic of virtual addresses when the process is gone, whether
/// it has dropped its client or was killed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExit {
    /// The programs are detached: the host is left as it was found, and the traffic
    /// goes where it would without a balancer.
    #[default]
    Detach,
    /// The data plane goes on as it was left: flows stay, new ones are stored, and
    /// nothing follows the network. The next client of the instance takes it over; what
    /// that is not told to balance goes on until
    /// [`Client::remove_inherited`](crate::Client::remove_inherited).
    Keep,
    /// The same, but after so long without a process packets are passed to the host's
    /// stack, as if the programs were detached. From 1 second to 30 days.
    KeepFor(Duration),
}

/// The longest time of [`OnExit::KeepFor`]: 30 days.
const MAX_KEEP: Duration = MAX_IDLE;

/// What can change while services run: the network that destinations are in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The IP prefixes of each VLAN. The interface is the one with an address in
    /// the prefix; frames leave with the tag that it has on the wire. On an
    /// untagged interface the VLAN id is only a label.
    pub vlans: BTreeMap<u16, Vec<Prefix>>,
    /// The longest IP packet that is sent into a VLAN, in octets, where that is
    /// less than the MTU of its interface.
    pub mtus: BTreeMap<u16, u32>,
    /// Routes to destinations behind a tunnel, in place of the kernel's own. The one
    /// with the longest prefix counts; what is in a VLAN's prefix needs none.
    pub routes: Vec<Route>,
}

/// A route to destinations behind a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Route {
    /// Where it leads.
    pub prefix: Prefix,
    /// The VLAN that the gateway is in.
    pub vlan: u16,
    /// The router that packets go to, which may be of the other family (RFC 5549).
    pub gateway: IpAddr,
}

impl Config {
    /// Adds a prefix to a VLAN.
    pub fn vlan(mut self, id: u16, prefix: Prefix) -> Self {
        self.vlans.entry(id).or_default().push(prefix);
        self
    }

    /// Limits the IP packets that are sent into a VLAN to so many octets.
    pub fn mtu(mut self, id: u16, octets: u32) -> Self {
        self.mtus.insert(id, octets);
        self
    }

    /// Adds a route to destinations behind a tunnel, by a gateway in a VLAN.
    pub fn route(mut self, prefix: Prefix, vlan: u16, gateway: IpAddr) -> Self {
        self.routes.push(Route { prefix, vlan, gateway });
        self
    }

    /// Every prefix with the id of its VLAN.
    pub fn prefixes(&self) -> impl Iterator<Item = (u16, Prefix)> + '_ {
        self.vlans.iter().flat_map(|(id, prefixes)| prefixes.iter().map(|p| (*id, *p)))
    }

    /// Checks VLAN ids (1 to 4,094), that no two prefixes overlap, and MTUs: at
    /// least 68 octets for IPv4 (RFC 791), 1,280 for IPv6 (RFC 8200, section 5).
    /// No two routes may have the same prefix, and each has its gateway in a prefix
    /// of its VLAN, or a link-local IPv6 one.
    pub fn validate(&self) -> Result<()> {
        let all: Vec<(u16, Prefix)> = self.prefixes().collect();
        for (i, (id, prefix)) in all.iter().enumerate() {
            if !(1..=4094).contains(id) {
                return Err(Error::InvalidVlan { vlan: *id });
            }
            if let Some((_, other)) = all[..i].iter().find(|(_, p)| p.overlaps(prefix)) {
                return Err(Error::PrefixOverlap { prefix: *prefix, other: *other });
            }
        }
        for (&vlan, &mtu) in &self.mtus {
            let prefixes = self.vlans.get(&vlan).ok_or(Error::UnknownVlan { vlan })?;
            let least = prefixes.iter().map(|prefix| least_mtu(prefix.address())).max();
            let least = least.unwrap_or(MIN_MTU4);
            if !(least..=65_535).contains(&mtu) {
                return Err(Error::InvalidMtu { vlan, mtu, least });
            }
        }
        if all.len() > MAX_PREFIXES {
            return Err(Error::LimitExceeded {
                limit: "prefixes",
                maximum: MAX_PREFIXES,
                remedy: "join neighbouring prefixes into larger ones",
            });
        }
        self.validate_routes()
    }

    fn validate_routes(&self) -> Result<()> {
        let mut gateways = BTreeMap::new();
        for route in &self.routes {
            let Route { prefix, vlan, gateway } = *route;
            let invalid = |reason| Err(Error::InvalidRoute { prefix, reason });
            match gateways.entry(prefix) {
                Entry::Vacant(entry) => entry.insert(gateway),
                Entry::Occupied(entry) => {
                    let other = entry.get();
                    return invalid(format!(
                        "it is there twice, by {other} and by {gateway}; keep one of them"
                    ));
                }
            };
            let Some(prefixes) = self.vlans.get(&vlan) else {
                return invalid(format!(
                    "VLAN {vlan} of its gateway {gateway} has no prefix; \
                     a VLAN is made by its prefixes"
                ));
            };
            if gateway.is_unspecified() || gateway.is_multicast() || gateway.is_loopback() {
                return invalid(format!("its gateway {gateway} is no router's address"));
            }
            if !is_link_local6(gateway) && !prefixes.iter().any(|p| p.contains(gateway)) {
                return invalid(format!(
                    "its gateway {gateway} is in no prefix of VLAN {vlan}; \
                     add one, or name the VLAN that the gateway is in"
                ));
            }
            let within = |p: &Prefix| p.length() <= prefix.length() && p.contains(prefix.address());
            if let Some((id, around)) = self.prefixes().find(|(_, p)| within(p)) {
                return invalid(format!(
                    "all of it is in {around}, which VLAN {id} reaches without a gateway; \
                     drop the route, or make the VLAN's prefix smaller"
                ));
            }
        }
        if self.routes.len() > MAX_ROUTES {
            return Err(Error::LimitExceeded {
                limit: "routes",
                maximum: MAX_ROUTES,
                remedy: "join neighbouring prefixes, or leave them to the kernel's routing table",
            });
        }
        Ok(())
    }
}

/// Whether the address means something only on its link (RFC 4291, section 2.5.6).
pub(crate) fn is_link_local6(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// The least MTU of a link with IPv4 (RFC 791).
const MIN_MTU4: u32 = 68;
/// The least MTU of a link with IPv6 (RFC 8200, section 5).
pub(crate) const MIN_MTU6: u32 = 1_280;

/// The least MTU of a link with the family of an address.
pub(crate) const fn least_mtu(address: IpAddr) -> u32 {
    if address.is_ipv4() { MIN_MTU4 } else { MIN_MTU6 }
}

/// The most prefixes that a [`Config`] can have.
pub const MAX_PREFIXES: usize = 4096;

/// The most routes that a [`Config`] can have.
pub const MAX_ROUTES: usize = 1024;

/// What is fixed when a [`Client`](crate::Client) is made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The name of the instance: letters, digits, `-` and `_`, at most 64.
    pub instance: String,
    /// Where the BPF file system is mounted.
    pub bpffs: PathBuf,
    /// How programs are attached.
    pub mode: Mode,
    /// The initial VLANs.
    pub config: Config,
    /// How long to wait between one member of a bond and the next when programs
    /// are attached and detached, for cards that lose their link for a moment
    /// then. Unless it is 0, the default, a bond's members are attached to one
    /// by one even where the kernel could attach to the bond. At most 60 s.
    pub attach_pause: Duration,
    /// The most services, 1 to 65,535. Default: 4,096.
    pub services: u32,
    /// The most destinations of all services together, 1 to 1,048,575.
    /// Default: 65,535.
    pub destinations: u32,
    /// The most flows of each IP family that are remembered, 1,024 to
    /// 67,108,864. Default: 1,000,000.
    pub flows: u32,
    /// The size of each service's hash table, a prime from 251 to 131,071.
    /// Default: 65,537.
    pub table_size: u32,
    /// The key of all hashing. Balancers that share their clients need the
    /// same key (and table size) to choose alike; a secret one keeps others
    /// from aiming at a destination. Default: all zero.
    pub hash_key: [u8; 16],
    /// The most ICMP errors that each CPU originates per second. Default: 1,000.
    pub icmp_rate: u32,
    /// The most ICMP errors per second to one client, after 16 at once. Clients
    /// with the same hash of 12 bits count as one. Default: 10.
    pub icmp_source_rate: u32,
    /// Where the NAT addresses of VIPs' destinations are ([`Nat`](crate::Nat)). No
    /// address or route of the host's may overlap the part that is used: the first
    /// 2,097,152 addresses of a /11 or shorter. Default: 255.0.0.0/8.
    pub nat4: Prefix,
    /// The same for IPv6 VIPs: the first 2^32 addresses are used. Default:
    /// fd6b:9f3c:e1a7:255::/64.
    pub nat6: Prefix,
    /// What becomes of the data plane when the process is gone. Default: it is
    /// detached.
    pub persist: OnExit,
    /// Whether what becomes of flows is told, for other balancers
    /// ([`Client::flow_reader`](crate::Client::flow_reader)). Default: no.
    pub share_flows: bool,
    /// The octets of memory for what was told and not read yet, 4,096 to 1,073,741,824,
    /// which are made a power of two; each news takes 40. Default: 8,388,608.
    pub share_ring: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            instance: "default".to_owned(),
            bpffs: PathBuf::from("/sys/fs/bpf"),
            mode: Mode::Auto,
            config: Config::default(),
            attach_pause: Duration::ZERO,
            services: 4_096,
            destinations: 65_535,
            flows: 1_000_000,
            table_size: 65_537,
            hash_key: [0; 16],
            icmp_rate: 1_000,
            icmp_source_rate: 10,
            nat4: NatPrefixes::default().v4,
            nat6: NatPrefixes::default().v6,
            persist: OnExit::Detach,
            share_flows: false,
            share_ring: 8 << 20,
        }
    }
}

impl Options {
    /// The default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the name of the instance.
    pub fn instance(mut self, name: impl Into<String>) -> Self {
        self.instance = name.into();
        self
    }

    /// Sets where the BPF file system is mounted.
    pub fn bpffs(mut self, path: impl Into<PathBuf>) -> Self {
        self.bpffs = path.into();
        self
    }

    /// Sets how programs are attached.
    pub const fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Adds a prefix to a VLAN.
    pub fn vlan(mut self, id: u16, prefix: Prefix) -> Self {
        self.config = self.config.vlan(id, prefix);
        self
    }

    /// Limits the IP packets that are sent into a VLAN to so many octets.
    pub fn mtu(mut self, id: u16, octets: u32) -> Self {
        self.config = self.config.mtu(id, octets);
        self
    }

    /// Adds a route to destinations behind a tunnel, by a gateway in a VLAN.
    pub fn route(mut self, prefix: Prefix, vlan: u16, gateway: IpAddr) -> Self {
        self.config = self.config.route(prefix, vlan, gateway);
        self
    }

    /// Sets the pause between attaching to members of a bond.
    pub const fn attach_pause(mut self, pause: Duration) -> Self {
        self.attach_pause = pause;
        self
    }

    /// Sets what becomes of the data plane when the process is gone.
    pub const fn persist(mut self, on_exit: OnExit) -> Self {
        self.persist = on_exit;
        self
    }

    /// Sets the most services.
    pub const fn services(mut self, limit: u32) -> Self {
        self.services = limit;
        self
    }

    /// Sets the most destinations of all services together.
    pub const fn destinations(mut self, limit: u32) -> Self {
        self.destinations = limit;
        self
    }

    /// Sets the most flows of each IP family that are remembered.
    pub const fn flows(mut self, limit: u32) -> Self {
        self.flows = limit;
        self
    }

    /// Sets the size of each service's hash table.
    pub const fn table_size(mut self, size: u32) -> Self {
        self.table_size = size;
        self
    }

    /// Sets the key of all hashing.
    pub const fn hash_key(mut self, key: [u8; 16]) -> Self {
        self.hash_key = key;
        self
    }

    /// Sets the most ICMP errors that each CPU originates per second.
    pub const fn icmp_rate(mut self, per_second: u32) -> Self {
        self.icmp_rate = per_second;
        self
    }

    /// Sets the most ICMP errors per second to one client.
    pub const fn icmp_source_rate(mut self, per_second: u32) -> Self {
        self.icmp_source_rate = per_second;
        self
    }

    /// Sets where the NAT addresses of IPv4 VIPs' destinations are.
    pub const fn nat4(mut self, prefix: Prefix) -> Self {
        self.nat4 = prefix;
        self
    }

    /// Sets where the NAT addresses of IPv6 VIPs' destinations are.
    pub const fn nat6(mut self, prefix: Prefix) -> Self {
        self.nat6 = prefix;
        self
    }

    /// Sets whether what becomes of flows is told, for other balancers.
    pub const fn share_flows(mut self, share: bool) -> Self {
        self.share_flows = share;
        self
    }

    /// Sets the octets of memory for what was told and not read yet.
    pub const fn share_ring(mut self, octets: u32) -> Self {
        self.share_ring = octets;
        self
    }

    pub(crate) const fn nat_prefixes(&self) -> NatPrefixes {
        NatPrefixes { v4: self.nat4, v6: self.nat6 }
    }

    /// Checks every option; the error names the one that is wrong.
    pub fn validate(&self) -> Result<()> {
        validate_instance(&self.instance)?;
        for (option, value, least, most) in [
            ("services", self.services, 1, 65_535),
            ("destinations", self.destinations, 1, 1_048_575),
            ("flows", self.flows, 1_024, 67_108_864),
            ("table_size", self.table_size, 251, 131_071),
            ("icmp_rate", self.icmp_rate, 1, 1_000_000),
            ("icmp_source_rate", self.icmp_source_rate, 1, 1_000_000),
            ("share_ring", self.share_ring, 4_096, 1 << 30),
        ] {
            if !(least..=most).contains(&value) {
                return Err(Error::OptionRange { option, value, least, most });
            }
        }
        if self.attach_pause > MAX_ATTACH_PAUSE {
            return Err(Error::OptionRange {
                option: "attach_pause (seconds)",
                value: u32::try_from(self.attach_pause.as_secs()).unwrap_or(u32::MAX),
                least: 0,
                most: MAX_ATTACH_PAUSE.as_secs() as u32,
            });
        }
        if let OnExit::KeepFor(time) = self.persist
            && !(Duration::from_secs(1)..=MAX_KEEP).contains(&time)
        {
            return Err(Error::OptionRange {
                option: "persist (seconds)",
                value: u32::try_from(time.as_secs()).unwrap_or(u32::MAX),
                least: 1,
                most: MAX_KEEP.as_secs() as u32,
            });
        }
        if !is_prime(self.table_size) {
            return Err(Error::TableSize { size: self.table_size });
        }
        self.nat_prefixes().validate()?;
        self.config.validate()
    }
}

/// The longest [`Options::attach_pause`].
const MAX_ATTACH_PAUSE: Duration = Duration::from_secs(60);

/// Checks the name of an instance, which is also that of a folder.
pub(crate) fn validate_instance(name: &str) -> Result<()> {
    let named = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 64 || !name.chars().all(named) {
        return Err(Error::InvalidInstance { instance: name.to_owned() });
    }
    Ok(())
}

fn is_prime(n: u32) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        Options::new().validate().unwrap();
        let least = |prefix: &str, mtu| Options::new().vlan(7, prefix.parse().unwrap()).mtu(7, mtu);
        least("10.0.0.0/8", 68).validate().unwrap();
        least("fd00::/64", 1_280).validate().unwrap();
        for (options, part) in [
            (Options::new().instance(""), "instance"),
            (Options::new().instance("a/b"), "a/b"),
            (Options::new().services(0), "services"),
            (Options::new().destinations(2_000_000), "destinations"),
            (Options::new().flows(1), "flows"),
            (Options::new().table_size(65_536), "prime"),
            (Options::new().icmp_rate(0), "icmp_rate"),
            (Options::new().icmp_source_rate(0), "icmp_source_rate"),
            (Options::new().share_ring(4_095), "share_ring"),
            (Options::new().share_ring(1 << 31), "share_ring"),
            (Options::new().vlan(0, "10.0.0.0/8".parse().unwrap()), "VLAN 0"),
            (
                Options::new()
                    .vlan(1, "10.0.0.0/8".parse().unwrap())
                    .vlan(2, "10.1.0.0/16".parse().unwrap()),
                "10.1.0.0/16",
            ),
            (Options::new().vlan(4095, "10.0.0.0/8".parse().unwrap()), "VLAN 4095"),
            (Options::new().mtu(7, 1_500), "VLAN 7"),
            (Options::new().vlan(7, "10.0.0.0/8".parse().unwrap()).mtu(7, 67), "67"),
            (Options::new().vlan(7, "10.0.0.0/8".parse().unwrap()).mtu(7, 65_536), "65536"),
            (Options::new().vlan(7, "fd00::/64".parse().unwrap()).mtu(7, 1_279), "1280"),
            (Options::new().attach_pause(Duration::from_secs(61)), "attach_pause"),
            (Options::new().persist(OnExit::KeepFor(Duration::from_millis(999))), "persist"),
        ] {
            let error = options.validate().unwrap_err().to_string();
            assert!(error.contains(part), "{error} lacks {part}");
        }
    }

    #[test]
    fn routes_are_checked() {
        let with = |routes: &[(&str, u16, &str)]| {
            let prefixes = [(1, "10.1.2.0/24"), (1, "2001:db8::/64"), (2, "10.2.0.0/16")];
            let config = prefixes
                .iter()
                .fold(Config::default(), |config, (id, p)| config.vlan(*id, p.parse().unwrap()));
            let add = |config: Config, (prefix, vlan, gateway): &(&str, u16, &str)| {
                config.route(prefix.parse().unwrap(), *vlan, gateway.parse().unwrap())
            };
            routes.iter().fold(config, add).validate()
        };
        for routes in [
            &[][..],
            &[("0.0.0.0/0", 1, "10.1.2.254"), ("10.0.0.0/8", 2, "10.2.0.1")],
            &[("10.9.0.0/16", 1, "10.1.2.254"), ("10.9.0.0/17", 1, "10.1.2.254")],
            &[("2001:db8:9::/48", 1, "2001:db8::1"), ("::/0", 2, "fe80::1")],
            &[("10.9.0.0/16", 1, "2001:db8::1")],
        ] {
            with(routes).unwrap();
        }
        type Case<'a> = (&'a [(&'a str, u16, &'a str)], &'a [&'a str]);
        let cases: [Case<'_>; 10] = [
            (&[("10.9.0.0/16", 9, "10.1.2.1")], &["10.9.0.0/16", "VLAN 9", "no prefix"]),
            (
                &[("10.9.0.0/16", 1, "10.1.2.1"), ("10.9.0.0/16", 2, "10.2.0.1")],
                &["10.9.0.0/16", "10.1.2.1", "10.2.0.1", "twice"],
            ),
            (&[("10.9.0.0/16", 1, "10.2.0.1")], &["10.2.0.1 is in no prefix of VLAN 1"]),
            (&[("10.9.0.0/16", 1, "169.254.0.1")], &["169.254.0.1 is in no prefix"]),
            (&[("10.9.0.0/16", 1, "0.0.0.0")], &["gateway 0.0.0.0 is no router's"]),
            (&[("10.9.0.0/16", 1, "224.0.0.1")], &["gateway 224.0.0.1"]),
            (&[("10.9.0.0/16", 1, "127.0.0.1")], &["gateway 127.0.0.1"]),
            (&[("::/0", 1, "ff02::1")], &["gateway ff02::1"]),
            (&[("10.1.2.0/24", 1, "10.1.2.1")], &["10.1.2.0/24", "VLAN 1", "without a gateway"]),
            (&[("10.2.3.0/24", 1, "10.1.2.1")], &["10.2.3.0/24", "10.2.0.0/16", "VLAN 2"]),
        ];
        for (routes, parts) in cases {
            let error = with(routes).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error} lacks {parts:?}");
        }
        let many: Vec<String> = (0..=MAX_ROUTES).map(|i| format!("2001:db8:{i:x}::/48")).collect();
        let many: Vec<_> = many.iter().skip(1).map(|p| (p.as_str(), 1, "fe80::1")).collect();
        with(&many).unwrap();
        let over = [&many[..], &[("::/0", 1, "fe80::1")]].concat();
        assert!(with(&over).unwrap_err().to_string().contains("1024 routes"));
    }
}
