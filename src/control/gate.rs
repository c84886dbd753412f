//! The filter that lets packets for VIPs in, and the host's MAC addresses.

use std::net::IpAddr;

use super::Control;
use crate::Mac;
use crate::ServiceKey;
use crate::bpf::Gate;

impl Control {
    /// Writes the filter anew. A VIP's bit may stay a moment too long, which
    /// costs a lookup; it is never missing.
    pub(super) fn write_gate(&self) {
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
        self.maps.gate.write(0, &gate);
    }

    /// The MAC addresses that frames for this host have.
    /// In the order of the ports, so that a change is one word.
    fn macs(&self) -> Vec<Mac> {
        let links = self.ports.iter().filter_map(|p| self.observed.links.get(&p.index));
        links.map(|link| link.mac).filter(|mac| *mac != Mac::default()).collect()
    }
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
