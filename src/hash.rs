//! SipHash-1-3, the keyed hash of the data plane, as `bpf/siphash.h` has it.
//!
//! The same function chooses a packet's entry in a service's table and, in
//! [`crate::maglev`], the order in which a destination prefers entries.

use std::net::IpAddr;

/// A key of 16 octets, read as two little-endian words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HashKey {
    pub(crate) k0: u64,
    pub(crate) k1: u64,
}

impl From<[u8; 16]> for HashKey {
    fn from(key: [u8; 16]) -> Self {
        let word = |i: usize| u64::from_le_bytes(std::array::from_fn(|j| key[i + j]));
        Self { k0: word(0), k1: word(8) }
    }
}

/// SipHash with one round per word and three at the end (Aumasson and
/// Bernstein, 2012).
pub(crate) fn siphash13(key: HashKey, data: &[u8]) -> u64 {
    let mut v = [
        key.k0 ^ 0x736f_6d65_7073_6575,
        key.k1 ^ 0x646f_7261_6e64_6f6d,
        key.k0 ^ 0x6c79_6765_6e65_7261,
        key.k1 ^ 0x7465_6462_7974_6573,
    ];
    let (words, rest) = data.as_chunks::<8>();
    for word in words {
        absorb(&mut v, u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    last[7] = data.len() as u8;
    absorb(&mut v, u64::from_le_bytes(last));
    v[2] ^= 0xff;
    for _ in 0..3 {
        round(&mut v);
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn absorb(v: &mut [u64; 4], word: u64) {
    v[3] ^= word;
    round(v);
    v[0] ^= word;
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[2] = v[2].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[1]);
    v[0] = v[0].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].rotate_left(32);
}

/// What a flow's place follows from: its packets' hash, in an order that only the
/// instance knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowHash {
    pub(crate) key: HashKey,
    pub(crate) secret: HashKey,
}

impl FlowHash {
    /// The hash of a flow, as `hash_flow` in `bpf/hash.h` has it.
    pub(crate) fn of(&self, flow: &Tuple) -> u64 {
        let hash = (flow.hash(self.key) ^ self.secret.k0).wrapping_mul(self.secret.k1);
        (hash ^ hash >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93)
    }
}

/// A packet's addresses and ports as its service sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tuple {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) protocol: u8,
}

impl Tuple {
    /// The hash of all of it.
    pub(crate) fn hash(&self, key: HashKey) -> u64 {
        let mut data = Octets::default();
        data.push_address(self.source);
        data.push_address(self.destination);
        data.push(&self.source_port.to_be_bytes());
        data.push(&self.destination_port.to_be_bytes());
        data.push(&[self.protocol]);
        siphash13(key, data.get())
    }

    /// The packet's entry in a table of `size` entries.
    pub(crate) fn index(&self, key: HashKey, size: u32) -> u32 {
        reduce(self.hash(key), size)
    }

    /// The entry of every packet of this source, for sticky services.
    pub(crate) fn sticky_index(&self, key: HashKey, size: u32) -> u32 {
        let mut data = Octets::default();
        data.push_address(self.source);
        reduce(siphash13(key, data.get()), size)
    }
}

/// What is hashed, as it is on the wire.
struct Octets {
    octets: [u8; 37],
    length: usize,
}

impl Default for Octets {
    fn default() -> Self {
        Self { octets: [0; 37], length: 0 }
    }
}

impl Octets {
    fn push(&mut self, more: &[u8]) {
        self.octets[self.length..][..more.len()].copy_from_slice(more);
        self.length += more.len();
    }

    fn push_address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.push(&v4.octets()),
            IpAddr::V6(v6) => self.push(&v6.octets()),
        }
    }

    fn get(&self) -> &[u8] {
        &self.octets[..self.length]
    }
}

/// Maps the low half of a hash to `0..size` without a division.
fn reduce(hash: u64, size: u32) -> u32 {
    (((hash & 0xffff_ffff) * u64::from(size)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use std::hash::Hasher;

    use siphasher::sip::SipHasher13;

    use super::*;

    #[test]
    fn equals_an_independent_siphash() {
        let key: [u8; 16] = std::array::from_fn(|i| i as u8 * 17);
        let data: Vec<u8> = (0..64u8).map(|i| i * 3 + 3).collect();
        for length in 0..=data.len() {
            let mut other = SipHasher13::new_with_key(&key);
            other.write(&data[..length]);
            assert_eq!(siphash13(key.into(), &data[..length]), other.finish(), "{length} octets");
        }
    }
}
