//! The flow tables as octets: a second description of their layout, beside the
//! program's and the crate's.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::path::Path;

use libbpf_rs::MapCore;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use siphasher::sip::SipHasher13;
use xvs::Protocol;

/// A flow's addresses, ports and protocol, as they are hashed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowKey {
    client: SocketAddr,
    vip: SocketAddr,
    protocol: u8,
}

impl FlowKey {
    /// The flow of a client to a service.
    pub const fn new(client: SocketAddr, vip: SocketAddr, protocol: Protocol) -> Self {
        Self { client, vip, protocol: protocol.number() }
    }

    /// Whether it is a flow of IPv4.
    pub const fn is_v4(&self) -> bool {
        self.client.is_ipv4()
    }

    /// The hash of its packets.
    pub fn hash(&self, key: &[u8; 16]) -> u64 {
        SipHasher13::new_with_key(key).hash(&self.hashed())
    }

    fn hashed(&self) -> Vec<u8> {
        let mut data = [octets(self.client.ip()), octets(self.vip.ip())].concat();
        data.extend(self.client.port().to_be_bytes());
        data.extend(self.vip.port().to_be_bytes());
        data.push(self.protocol);
        data
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A flow's place: owner (20 bits slot, 28 bits check, 16 bits port), client
/// or hash, and what is known of it (24 bits seen, 2 bits age, closing).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowEntry {
    pub owner: u64,
    pub word: u64,
}

impl FlowEntry {
    const SEEN: u64 = 0xff_ffff;

    /// The destination's slot.
    pub const fn slot(&self) -> u32 {
        (self.owner & 0xf_ffff) as u32
    }

    /// When its last packet came: the low 24 bits of the tick.
    pub const fn seen(&self) -> u32 {
        (self.word >> 32 & Self::SEEN) as u32
    }

    /// Whether its client has sent FIN or RST.
    pub const fn is_closing(&self) -> bool {
        self.word >> 58 & 1 == 1
    }

    /// Sets when its last packet came.
    pub fn set_seen(&mut self, ticks: u32) {
        self.word &= !(Self::SEEN << 32);
        self.word |= (u64::from(ticks) & Self::SEEN) << 32;
    }
}

/// The maps that flows are in.
pub struct FlowTables {
    v4: MapHandle,
    v6: MapHandle,
    tags4: MapHandle,
    tags6: MapHandle,
    destinations: MapHandle,
    /// The key of the hash, and two words that make it a secret.
    key: [u8; 16],
    secret: [u64; 2],
}

impl FlowTables {
    /// Places in a group.
    const GROUP: usize = 256;

    /// Opens the maps of an instance.
    pub fn open(pins: &Path) -> Self {
        let map = |name: &str| {
            MapHandle::from_pinned_path(pins.join(name)).expect("the map is pinned by its name")
        };
        // In the settings, after ten numbers and two times.
        let instance = read(&map("instance"), 0);
        let word = |at: usize| instance[at..at + 8].try_into().expect("8 octets");
        let key = instance[56..72].try_into().expect("16 octets");
        let secret = [word(72), word(80)].map(u64::from_ne_bytes);
        Self {
            v4: map("flows4"),
            v6: map("flows6"),
            tags4: map("tags4"),
            tags6: map("tags6"),
            destinations: map("destinations"),
            key,
            secret,
        }
    }

    /// The group of a flow, and the first word of its place there.
    pub fn find(&self, key: &FlowKey) -> Option<(u32, usize)> {
        let (group, place) = self.find_place(key)?;
        Some((group, Self::at(key.is_v4(), place)))
    }

    /// The group and the place of a flow.
    fn find_place(&self, key: &FlowKey) -> Option<(u32, usize)> {
        let (hash, group, places) = self.candidates(key);
        let tags = read(self.tags(key), group);
        let words = self.group(key.is_v4(), group);
        let port = u64::from(key.client.port().to_be());
        let place = places.into_iter().find(|place| {
            let at = Self::at(key.is_v4(), *place);
            let (owner, word) = (words[at], words[at + 1]);
            let client: Vec<u8> = if key.is_v4() {
                (word as u32).to_ne_bytes().to_vec()
            } else {
                words[at + 8..at + 10].iter().flat_map(|half| half.to_ne_bytes()).collect()
            };
            let slot = owner & 0xf_ffff;
            let destination = read(&self.destinations, slot as u32);
            let generation = u32::from_ne_bytes(destination[..4].try_into().expect("4 octets"));
            let check = hash.wrapping_add(generation.into()) & 0xfff_ffff;
            slot != 0
                && tag_at(&tags, *place) == (hash >> 8) as u16 | 1
                && owner == port << 48 | check << 20 | slot
                && client == octets(key.client.ip())
        })?;
        Some((group, place))
    }

    /// The first word of a place: in a table of IPv6 four addresses follow four
    /// places.
    const fn at(v4: bool, place: usize) -> usize {
        if v4 { 2 * place } else { place / 4 * 16 + place % 4 * 2 }
    }

    /// The tags of a flow's family.
    const fn tags(&self, key: &FlowKey) -> &MapHandle {
        if key.is_v4() { &self.tags4 } else { &self.tags6 }
    }

    /// A flow's hash, its group, and the places that it can have there.
    fn candidates(&self, key: &FlowKey) -> (u64, u32, Vec<usize>) {
        let hash = key.hash(&self.key) ^ self.secret[0];
        let hash = hash.wrapping_mul(self.secret[1]);
        let hash = (hash ^ hash >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
        let group = (((hash >> 32) * u64::from(self.v4.max_entries())) >> 32) as u32;
        let bits = |from: u32| (hash >> from) as usize % 64;
        let (first, second) = (bits(28), bits(28) ^ (bits(36) | 1));
        let places = [first, second].map(|bucket| 4 * bucket..4 * bucket + 4);
        (hash, group, places.into_iter().flatten().collect())
    }

    /// The group of a flow and the first place of its first bucket.
    pub fn bucket(&self, key: &FlowKey) -> (u32, usize) {
        let (_, group, places) = self.candidates(key);
        (group, places[0])
    }

    /// Whether a place that a flow can have has its tag.
    pub fn has_tag(&self, key: &FlowKey) -> bool {
        let (hash, group, places) = self.candidates(key);
        let tags = read(self.tags(key), group);
        let tag = (hash >> 8) as u16 | 1;
        places.into_iter().any(|place| tag_at(&tags, place) == tag)
    }

    /// Whether every place that a flow can have is another flow's.
    pub fn is_crowded_out(&self, key: &FlowKey) -> bool {
        let (_, group, places) = self.candidates(key);
        let tags = read(self.tags(key), group);
        places.into_iter().all(|place| tag_at(&tags, place) & 1 == 1)
    }

    /// Leaves a flow's place as a writer does that stops before the end.
    pub fn half_write(&self, key: &FlowKey) {
        let (group, at) = self.find(key).expect("the flow is there");
        let mut words = self.group(key.is_v4(), group);
        // Busy, as the program has it.
        words[at] = 2 << 20;
        self.set_group(key.is_v4(), group, &words);
    }

    /// Frees a flow's place, if it has one.
    pub fn free(&self, key: &FlowKey) {
        let Some((group, place)) = self.find_place(key) else {
            return;
        };
        let mut words = self.group(key.is_v4(), group);
        words[Self::at(key.is_v4(), place)] = 1 << 20;
        self.set_group(key.is_v4(), group, &words);
        let map = self.tags(key);
        let mut tags = read(map, group);
        tags[2 * place..2 * place + 2].copy_from_slice(&2_u16.to_ne_bytes());
        map.update(&group.to_ne_bytes(), &tags, MapFlags::EXIST).expect("the group is there");
    }

    /// How many flows a table has places for.
    pub fn places(&self) -> u32 {
        self.v4.max_entries() * Self::GROUP as u32
    }

    /// Makes all flows of a table look as if they were seen in many ticks.
    pub fn make_known(&self, v4: bool) {
        for group in 0..self.v4.max_entries() {
            let mut words = self.group(v4, group);
            for place in 0..Self::GROUP {
                let at = Self::at(v4, place);
                if words[at] != 0 {
                    words[at + 1] |= 3 << 56;
                }
            }
            self.set_group(v4, group, &words);
        }
    }

    /// The words of a group.
    pub fn group(&self, v4: bool, group: u32) -> Vec<u64> {
        let octets = read(if v4 { &self.v4 } else { &self.v6 }, group);
        let (words, _) = octets.as_chunks::<8>();
        words.iter().map(|word| u64::from_ne_bytes(*word)).collect()
    }

    /// Writes the words of a group.
    pub fn set_group(&self, v4: bool, group: u32, words: &[u64]) {
        let octets: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let map = if v4 { &self.v4 } else { &self.v6 };
        map.update(&group.to_ne_bytes(), &octets, MapFlags::EXIST).expect("the group is there");
    }
}

/// The tag of a place among those of its group.
fn tag_at(tags: &[u8], place: usize) -> u16 {
    u16::from_ne_bytes([tags[2 * place], tags[2 * place + 1]])
}

fn read(map: &MapHandle, index: u32) -> Vec<u8> {
    let value = map.lookup(&index.to_ne_bytes(), MapFlags::ANY).expect("a lookup");
    value.expect("the index is within the array")
}
