//! The filter that lets packets for VIPs in, and the host's MAC addresses.

use std::net::IpAddr;

use super::Control;
use crate::Mac;
use crate::ServiceKey;
use crate::bpf::Gate;
use crate::net::Link;
use crate::ports;
use crate::ports::Exit;

impl Control {
    /// Writes the filter anew. A VIP's bit may stay a moment too long, which
    /// costs a lookup; it is never missing.
    pub(super) fn write_gate(&mut self) {
        let mut gate = Gate::default();
        for vip in self.vips.keys() {
            let bit = filter_bit(*vip);
            gate.filter[bit as usize / 64] |= 1 << (bit % 64);
        }
        for (word, mac) in gate.macs.iter_mut().zip(self.macs()) {
            let mut octets = [0; 8];
            octets[..6].copy_from_slice(&mac.0);
            *word = u64::from_ne_bytes(octets);
        }
        for id in self.vlans() {
            gate.vlans[usize::from(id) / 64] |= 1 << (id % 64);
        }
        let members = self.ports.iter().flat_map(|port| self.observed.members(port.index));
        let backups = members.filter(|link| link.backup);
        for (index, backup) in gate.backups.iter_mut().zip(backups) {
            *index = backup.index;
        }
        self.nat.open(&mut gate);
        if is_same(&gate, &self.gate) {
            return;
        }
        self.maps.gate.write(0, &gate);
        *self.gate = gate;
    }

    /// What is stacked on the ports and up, with the way that its frames take.
    fn stacked(&self) -> impl Iterator<Item = (&Link, Exit)> {
        let ports = self.port_indices();
        let links = self.observed.links.values();
        links.filter(|link| link.up).filter_map(move |link| {
            let exit = ports::exit(link.index, &ports, &self.observed)?;
            (exit.port != link.index).then_some((link, exit))
        })
    }

    /// The VLANs that this host is in; 0 is that of frames without a tag.
    fn vlans(&self) -> impl Iterator<Item = u16> {
        std::iter::once(0).chain(self.stacked().map(|(_, exit)| exit.tag))
    }

    /// The MAC addresses that frames for this host have: the ports', in their
    /// order, so that a change is one word, then others of what is stacked on
    /// them.
    fn macs(&self) -> Vec<Mac> {
        let own = self.ports.iter().filter_map(|port| self.observed.links.get(&port.index));
        let stacked = self.stacked().map(|(link, _)| link);
        let mut macs: Vec<Mac> = Vec::new();
        for mac in own.chain(stacked).map(|link| link.mac) {
            if mac != Mac::default() && !macs.contains(&mac) {
                macs.push(mac);
            }
        }
        macs
    }
}

fn is_same(a: &Gate, b: &Gate) -> bool {
    let nat = |gate: &Gate| (gate.nat4, gate.nat4_mask, gate.nat6);
    a.filter == b.filter
        && a.macs == b.macs
        && a.vlans == b.vlans
        && a.backups == b.backups
        && nat(a) == nat(b)
}

/// The bit of an address, as `gate_has_vip` in `bpf/packet.h` finds it.
fn filter_bit(address: IpAddr) -> u32 {
    folded(address).wrapping_mul(GOLDEN) >> 16
}

/// The entry of a service's hint, as `service_hinted` in `bpf/service.h` finds it.
pub(super) fn hint_index(key: ServiceKey) -> u32 {
    let port = u32::from(key.port.to_be()) | u32::from(key.protocol.number()) << 16;
    (folded(key.address) ^ port.wrapping_mul(0x85eb_ca6b)).wrapping_mul(GOLDEN) >> 18
}

/// 2^32 divided by the golden ratio, which spreads numbers well.
const GOLDEN: u32 = 0x9e37_79b1;

/// The words of an address in one.
fn folded(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(v4) => u32::from_ne_bytes(v4.octets()),
        IpAddr::V6(v6) => {
            let octets = v6.octets();
            let (words, _) = octets.as_chunks::<4>();
            words.iter().fold(0, |all, word| all ^ u32::from_ne_bytes(*word))
        }
    }
}
