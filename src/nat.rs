//! NAT addresses: each leads to a VIP on one given server.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use crate::Destination;
use crate::DestinationExtended;
use crate::DestinationStatus;
use crate::Error;
use crate::Instance;
use crate::Prefix;
use crate::Result;
use crate::Service;
use crate::ServiceKey;
use crate::Tunnel;
use crate::bpf::Gate;
use crate::bpf::octets_address;
use crate::net::PROBE_MTU;

/// The NAT address of one destination of one service.
///
/// What this host sends there, to any port, reaches that server as a packet for the
/// VIP, by the destination's own tunnel and VLAN, also while it is disabled; the
/// answer comes back from the NAT address.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Nat {
    /// The service, with the VIP.
    pub service: ServiceKey,
    /// The real server's address.
    pub destination: IpAddr,
    /// The NAT address, of the VIP's family.
    pub address: IpAddr,
    /// This host's address, of the VIP's family, that the server sees. Without one
    /// nothing is sent.
    pub source: Option<IpAddr>,
    /// How packets travel there.
    pub tunnel: Tunnel,
    /// Why there is a way, or none.
    pub status: DestinationStatus,
    /// The longest packet that is sent there, in octets, without a tunnel's headers: at
    /// most 1,500, as many as the probe interface takes.
    pub mtu: Option<u32>,
}

/// Where the NAT addresses of both families are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NatPrefixes {
    pub(crate) v4: Prefix,
    pub(crate) v6: Prefix,
}

/// Of a shorter IPv4 prefix the part with so many bits is used: no address of the
/// last one, 255.0.0.0/8, is that of all hosts (RFC 919, section 7).
const USED4: u8 = 11;
/// The same for IPv6.
const USED6: u8 = 96;

impl Default for NatPrefixes {
    fn default() -> Self {
        let of = |address| {
            let prefix = Prefix::containing(address, if address.is_ipv4() { 8 } else { 64 });
            // SANITY: both lengths are within those of their families.
            prefix.expect("a prefix")
        };
        Self {
            v4: of(Ipv4Addr::new(255, 0, 0, 0).into()),
            v6: of(Ipv6Addr::new(0xfd6b, 0x9f3c, 0xe1a7, 0x255, 0, 0, 0, 0).into()),
        }
    }
}

impl NatPrefixes {
    /// Checks both; the error names the one that is wrong.
    pub(crate) fn validate(&self) -> Result<()> {
        let wrong = |prefix, reason: &str| Err(Error::NatPrefix { prefix, reason: reason.into() });
        let (IpAddr::V4(v4), IpAddr::V6(v6)) = (self.v4.address(), self.v6.address()) else {
            let (prefix, family) = match self.v4.address() {
                IpAddr::V4(_) => (self.v6, "IPv6"),
                IpAddr::V6(_) => (self.v4, "IPv4"),
            };
            return wrong(prefix, &format!("it is not of {family}"));
        };
        if self.v4.length() > 30 {
            return wrong(self.v4, "it has no room; the longest is a /30");
        }
        if self.v6.length() > USED6 {
            return wrong(self.v6, "it is too long; the longest is a /96");
        }
        let first = v4.octets()[0];
        if first == 0 || first == 127 || v4.is_multicast() {
            return wrong(self.v4, "these are no addresses of hosts");
        }
        if self.used4().contains(Ipv4Addr::BROADCAST.into()) {
            return wrong(self.v4, "255.255.255.255 is the address of all hosts");
        }
        if v6.is_multicast() || v6.is_unicast_link_local() || v6.segments()[..5] == [0; 5] {
            return wrong(self.v6, "these are no addresses of hosts");
        }
        Ok(())
    }

    /// The part of the IPv4 prefix that is used.
    pub(crate) fn used4(&self) -> Prefix {
        used(self.v4, USED4)
    }

    /// The part of the IPv6 prefix that is used.
    pub(crate) fn used6(&self) -> Prefix {
        used(self.v6, USED6)
    }

    /// The mask of the IPv4 ones, as packets have addresses.
    pub(crate) fn mask4(&self) -> u32 {
        (u32::MAX << (32 - self.used4().length())).to_be()
    }

    /// How many NAT addresses there are for destinations; number 0 is the host's own.
    pub(crate) fn numbers(&self) -> u32 {
        (1 << (32 - self.used4().length())) - 1
    }

    /// The NAT address of a VIP's family that has a number.
    pub(crate) fn address(&self, vip: IpAddr, number: u32) -> IpAddr {
        nth(if vip.is_ipv4() { self.used4() } else { self.used6() }.address(), number)
    }

    /// Tells the data plane.
    pub(crate) fn open(&self, gate: &mut Gate) {
        if let (IpAddr::V4(v4), IpAddr::V6(v6)) = (self.v4.address(), self.v6.address()) {
            gate.nat4 = u32::from_ne_bytes(v4.octets());
            gate.nat4_mask = self.mask4();
            let octets = v6.octets();
            let (words, _) = octets.as_chunks::<8>();
            gate.nat6 = [u64::from_ne_bytes(words[0]), u64::from_ne_bytes(words[1])];
        }
    }
}

/// The beginning of a prefix.
fn used(prefix: Prefix, length: u8) -> Prefix {
    let used = Prefix::containing(prefix.address(), length.max(prefix.length()));
    used.unwrap_or(prefix)
}

/// An address so far behind the first.
fn nth(first: IpAddr, number: u32) -> IpAddr {
    match first {
        IpAddr::V4(first) => Ipv4Addr::from(u32::from(first) + number).into(),
        IpAddr::V6(first) => Ipv6Addr::from(u128::from(first) + u128::from(number)).into(),
    }
}

impl Instance {
    /// The NAT addresses of all destinations, by service and destination.
    pub fn nats(&self) -> Result<Vec<Nat>> {
        let mut all: Vec<Nat> = self.slots()?.iter().filter_map(|slot| self.nat(*slot)).collect();
        all.sort_by_key(|nat| (nat.service, nat.destination));
        Ok(all)
    }

    /// The NAT address of a service's destination.
    ///
    /// # Errors
    ///
    /// When there is no such service or destination.
    pub fn nat_of(&self, service: &Service, destination: IpAddr) -> Result<Nat> {
        let key = service.key();
        let _exists = self.service(service)?;
        let found = self
            .nats()?
            .into_iter()
            .find(|nat| nat.service == key && nat.destination == destination);
        found.ok_or(Error::DestinationNotFound { service: key, address: destination })
    }

    /// The NAT address of a slot's destination, `None` while its record is being
    /// written or removed.
    fn nat(&self, slot: u32) -> Option<Nat> {
        let info = self.maps.destination_infos.read(slot);
        let service = self.maps.services.read(info.service).service()?.key();
        let DestinationExtended { destination, status, mtu, .. } = self.destination(slot, &info);
        let Destination { address, tunnel, .. } = destination;
        let record = self.maps.nats.get(&info.nat).ok()??;
        let instance = self.maps.instance.read(0);
        let first = match service.address {
            IpAddr::V4(_) => instance.nat4,
            IpAddr::V6(_) => instance.nat6,
        };
        Some(Nat {
            service,
            destination: address,
            address: nth(octets_address(first), info.nat),
            source: Some(record.source).filter(|s| *s != [0; 16]).map(octets_address),
            tunnel,
            status,
            mtu: mtu.map(|mtu| mtu.min(PROBE_MTU)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(v4: &str, v6: &str) -> NatPrefixes {
        NatPrefixes { v4: v4.parse().unwrap(), v6: v6.parse().unwrap() }
    }

    #[test]
    fn prefixes_are_checked() {
        NatPrefixes::default().validate().unwrap();
        let ula = "fd00:9::/96";
        prefixes("10.9.0.0/30", ula).validate().unwrap();
        prefixes("0.0.0.0/0", ula).validate().unwrap_err();
        for (v4, v6, part) in [
            ("10.9.0.0/31", ula, "10.9.0.0/31"),
            ("fd00::/64", ula, "not of IPv4"),
            ("10.9.0.0/24", "10.8.0.0/24", "not of IPv6"),
            ("127.0.0.0/16", ula, "127.0.0.0/16"),
            ("224.0.0.0/8", ula, "224.0.0.0/8"),
            ("255.255.255.0/24", ula, "255.255.255.255"),
            ("10.9.0.0/24", "fd00:9::/97", "/96"),
            ("10.9.0.0/24", "fe80::/64", "fe80::/64"),
            ("10.9.0.0/24", "ff02::/64", "ff02::/64"),
            ("10.9.0.0/24", "::/96", "::/96"),
            ("10.9.0.0/24", "::ffff:0:0/96", "/96"),
        ] {
            let error = prefixes(v4, v6).validate().unwrap_err().to_string();
            assert!(error.contains(part), "{error} lacks {part}");
        }
    }

    #[test]
    fn a_part_of_long_prefixes_is_used() {
        let default = NatPrefixes::default();
        assert_eq!(default.used4().to_string(), "255.0.0.0/11");
        assert_eq!(default.used6().length(), 96);
        assert_eq!(default.numbers(), (1 << 21) - 1);
        assert_eq!(prefixes("10.9.0.0/30", "fd00:9::/64").numbers(), 3);
        assert_eq!(nth("10.9.0.0".parse().unwrap(), 258).to_string(), "10.9.1.2");
        assert_eq!(nth("fd00:9::".parse().unwrap(), 0x1_0002).to_string(), "fd00:9::1:2");
    }
}
