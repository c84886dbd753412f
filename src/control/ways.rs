//! The records of ways out, and of those through tunnels.

use std::array;
use std::collections::hash_map::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::net::IpAddr;
use std::time::Duration;

use super::Control;
use super::Target;
use crate::Destination;
use crate::Tunnel;
use crate::bpf::DestinationInfo;
use crate::bpf::PATHS;
use crate::bpf::TunnelCode;
use crate::bpf::TunnelFlags;
use crate::bpf::TunnelRecord;
use crate::bpf::WayRecord;
use crate::bpf::address_octets;
use crate::bpf::octets_address;
use crate::discovery::NextHop;
use crate::routing::Way;

impl Target {
    /// Whether packets go to it as they are.
    pub(super) fn is_direct(&self) -> bool {
        self.destination.tunnel == Tunnel::None
    }

    /// The octets of its tunnel's headers.
    pub(super) const fn overhead(&self) -> u32 {
        self.destination.tunnel.overhead(self.destination.address)
    }

    /// The longest packet of a client that a way takes, in octets.
    pub(super) const fn mtu(&self, way: &Way) -> u32 {
        way.hop.mtu - self.overhead()
    }
}

impl Control {
    /// Writes the ways through a destination's tunnel.
    pub(super) fn write_tunnel(&self, target: &Target) {
        let ways = spread(&target.ways, target.destination.address);
        for (path, way) in (0..).zip(ways) {
            let index = target.slot * PATHS + path;
            let old = self.maps.tunnels.read(index);
            let new = tunnel_record(target, way, &old);
            if records_differ(&old, &new) {
                // A packet takes no way that it has seen an odd version of.
                let writing = old.version | 1;
                self.maps.tunnels.write(index, &TunnelRecord { version: writing, ..old });
                self.maps.tunnels.write(index, &TunnelRecord { version: writing, ..new });
                let version = writing.wrapping_add(1);
                self.maps.tunnels.write(index, &TunnelRecord { version, ..new });
            }
        }
    }
}

fn tunnel_record(target: &Target, way: Option<&Way>, old: &TunnelRecord) -> TunnelRecord {
    let address = target.destination.address;
    let tunnel = target.destination.tunnel;
    let mut flags = 0;
    if !address.is_ipv4() {
        flags |= TunnelFlags::XVS_TUNNEL_V6.0;
    }
    if tunnel.udp().is_some_and(|udp| udp.checksum.unwrap_or(!address.is_ipv4())) {
        flags |= TunnelFlags::XVS_TUNNEL_CHECKSUM.0;
    }
    TunnelRecord {
        overhead: target.overhead() as u8,
        pad: 0,
        kind: tunnel.code().0 as u8,
        flags: flags as u8,
        port: tunnel.udp().map_or(0, |udp| udp.port.to_be()),
        source: way.map_or(old.source, |way| address_octets(way.local)),
        destination: address_octets(address),
        way: match way {
            Some(way) => way_record(&way.hop, target.mtu(way)),
            None => WayRecord { ifindex: 0, mtu: 0, ..old.way },
        },
        version: old.version,
    }
}

fn records_differ(a: &TunnelRecord, b: &TunnelRecord) -> bool {
    let way = |w: &WayRecord| (w.mac, w.mac_vlan, w.source_mac, w.vlan, w.ifindex, w.mtu);
    let all = |t: &TunnelRecord| (t.kind, t.flags, t.port, t.source, t.destination, way(&t.way));
    all(a) != all(b)
}

/// A way out with the MTU that packets of clients may have.
pub(super) const fn way_record(hop: &NextHop, mtu: u32) -> WayRecord {
    WayRecord {
        mac: hop.destination.0,
        mac_vlan: hop.tag.to_be(),
        source_mac: hop.source.0,
        vlan: hop.tag.to_be(),
        ifindex: hop.egress,
        mtu,
    }
}

/// The ways that the records of a destination have: each as often as its weight
/// lets it, and of more than there are records others for other servers.
fn spread(ways: &[Way], server: IpAddr) -> [Option<&Way>; PATHS as usize] {
    let total: u64 = ways.iter().map(|way| u64::from(way.weight)).sum();
    let mut hasher = DefaultHasher::new();
    server.hash(&mut hasher);
    let start = hasher.finish() % total.max(1);
    array::from_fn(|path| {
        let step = total * (2 * path as u64 + 1) / (2 * u64::from(PATHS));
        let mut point = (start + step) % total.max(1);
        ways.iter().find(|way| {
            let weight = u64::from(way.weight);
            let found = point < weight;
            point = point.saturating_sub(weight);
            found
        })
    })
}

impl Tunnel {
    pub(super) const fn code(self) -> TunnelCode {
        match self {
            Self::None => TunnelCode::XVS_TUNNEL_NONE,
            Self::Ipip => TunnelCode::XVS_TUNNEL_IPIP,
            Self::Gre => TunnelCode::XVS_TUNNEL_GRE,
            Self::Fou(_) => TunnelCode::XVS_TUNNEL_FOU,
            Self::Gue(_) => TunnelCode::XVS_TUNNEL_GUE,
        }
    }
}

/// Whether a tunnel's datagrams have a checksum, as it was configured.
pub(super) fn checksum_code(tunnel: Tunnel) -> u8 {
    match tunnel.udp().map(|udp| udp.checksum) {
        None => 0,
        Some(None) => 1,
        Some(Some(false)) => 2,
        Some(Some(true)) => 3,
    }
}

impl DestinationInfo {
    /// The destination as it was configured.
    pub(crate) fn destination(&self) -> Destination {
        let disabled = self.disabled != 0;
        let deadline =
            (disabled && self.deadline_ns != 0).then_some(Duration::from_nanos(self.deadline_ns));
        Destination {
            address: octets_address(self.address),
            tunnel: self.tunnel(),
            weight: self.weight,
            disabled,
            deadline,
        }
    }

    /// The tunnel as it was configured.
    pub(crate) fn tunnel(&self) -> Tunnel {
        let port = u16::from_be(self.port);
        let tunnel = match self.tunnel {
            TunnelCode::XVS_TUNNEL_IPIP => Tunnel::Ipip,
            TunnelCode::XVS_TUNNEL_GRE => Tunnel::Gre,
            TunnelCode::XVS_TUNNEL_FOU => Tunnel::fou(port),
            TunnelCode::XVS_TUNNEL_GUE => Tunnel::gue(port),
            _ => Tunnel::None,
        };
        match self.checksum {
            2 => tunnel.checksum(false),
            3 => tunnel.checksum(true),
            _ => tunnel,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mac;

    fn way(interface: u32, weight: u16) -> Way {
        let server = IpAddr::from([10, 9, 9, 9]);
        let hop = NextHop {
            interface,
            egress: interface,
            tag: 0,
            source: Mac::default(),
            destination: Mac::default(),
            mtu: 1500,
        };
        Way { weight, ..Way::direct(server, hop) }
    }

    /// How often each interface is among the ways of so many servers.
    fn shares(ways: &[Way], servers: u8) -> Vec<usize> {
        let mut shares = vec![0; ways.len()];
        for server in 0..servers {
            for way in spread(ways, IpAddr::from([10, 9, 0, server])) {
                shares[way.expect("there are ways").hop.interface as usize] += 1;
            }
        }
        shares
    }

    #[test]
    fn flows_are_spread_over_ways_by_weight() {
        assert!(spread(&[], IpAddr::from([10, 9, 0, 1])).iter().all(Option::is_none));
        assert_eq!(shares(&[way(0, 7)], 1), [4]);
        for server in 0..20 {
            let of = |ways: &[Way]| {
                let ways = spread(ways, IpAddr::from([10, 9, 0, server]));
                let mut shares = [0; 4];
                ways.iter().for_each(|way| shares[way.unwrap().hop.interface as usize] += 1);
                shares
            };
            assert_eq!(of(&[way(0, 1), way(1, 1)]), [2, 2, 0, 0]);
            assert_eq!(of(&[way(0, 3), way(1, 1)]), [3, 1, 0, 0]);
            assert_eq!(of(&[way(0, 1), way(1, 1), way(2, 1), way(3, 1)]), [1; 4]);
            let three = of(&[way(0, 1), way(1, 1), way(2, 1)]);
            assert!(three[..3].iter().all(|n| (1..=2).contains(n)), "{three:?}");
        }
        // Of more ways than a server has room for, all are used by some.
        let eight: Vec<Way> = (0..8).map(|interface| way(interface, 1)).collect();
        let shares = shares(&eight, 200);
        assert!(shares.iter().all(|n| (60..=140).contains(n)), "{shares:?}");
    }
}
