//! The flow tables, as `bpf/flow.h` has them. Nothing else knows what they are
//! made of.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use super::Maps;
use super::types::*;
use crate::FlowState;
use crate::Protocol;
use crate::ServiceKey;
use crate::hash::FlowHash;
use crate::hash::HashKey;
use crate::hash::Tuple;

/// A flow's addresses, ports and protocol.
pub(crate) type FlowKey = Tuple;

pub(super) const SLOT: u64 = (1 << FlowOwner::XVS_FLOW_SLOT_BITS.0) - 1;
pub(super) const CHECK: u64 = (1 << FlowOwner::XVS_FLOW_CHECK_BITS.0) - 1;
pub(super) const SEEN: u32 = (1 << FlowMeta::XVS_FLOW_SEEN_BITS.0) - 1;
const FREED: u64 = FlowOwner::XVS_FLOW_FREED.0 as u64;
const FREED_TAG: u64 = FlowTag::XVS_TAG_FREED.0 as u64;

const AHEAD: u32 = Tick::XVS_TICKS_AHEAD.0;

/// Places in a group.
const GROUP: usize = {
    const fn length<T, const N: usize>(_: fn(FlowGroup4) -> [T; N]) -> usize {
        N
    }
    length(|group| group.places)
};

/// Places in a bucket.
pub(super) const BUCKET: usize = {
    const fn length<const N: usize>(_: fn(FlowTags) -> [u64; N]) -> usize {
        N
    }
    GROUP / length(|tags| tags.buckets)
};

/// A flow of one of the tables, whose slot is its destination's still.
#[derive(Clone, Debug)]
pub(crate) struct StoredFlow {
    pub(crate) key: FlowKey,
    pub(crate) slot: u32,
    pub(crate) destination: DestinationRecord,
    pub(super) meta: u32,
}

impl StoredFlow {
    /// Whether the client has sent FIN or RST.
    pub(crate) const fn closing(&self) -> bool {
        self.meta & FlowMeta::XVS_FLOW_CLOSING.0 != 0
    }

    /// The ticks since its last packet, which may have come after `now`.
    pub(crate) const fn silence(&self, now: u32) -> u32 {
        silence(self.meta, now)
    }

    /// In how many later ticks than its first packets came, 3 for any more.
    pub(crate) const fn age(&self) -> u32 {
        age(self.meta)
    }

    /// The service's key; none if its protocol is none that is balanced.
    pub(crate) fn service(&self) -> Option<ServiceKey> {
        Some(ServiceKey {
            address: self.key.destination,
            port: self.key.destination_port,
            protocol: Protocol::from_number(self.key.protocol)?,
        })
    }

    /// The client.
    pub(crate) const fn source(&self) -> SocketAddr {
        SocketAddr::new(self.key.source, self.key.source_port)
    }

    /// How far it is.
    pub(crate) const fn state(&self) -> FlowState {
        if self.closing() { FlowState::Closing } else { FlowState::Open }
    }

    /// The ticks that it may be silent.
    pub(crate) const fn limit(&self) -> u32 {
        if self.closing() { self.destination.closing } else { self.destination.idle }
    }
}

/// The ticks since the last packet of a flow, by what is known of it.
pub(super) const fn silence(meta: u32, now: u32) -> u32 {
    let silence = now.wrapping_sub(meta) & SEEN;
    if silence > SEEN - AHEAD { 0 } else { silence }
}

/// In how many later ticks packets of a flow came, by what is known of it.
pub(super) const fn age(meta: u32) -> u32 {
    (meta / FlowMeta::XVS_FLOW_AGE.0) & FlowMeta::XVS_FLOW_AGE_MAX.0
}

/// The words from a place of IPv6 on to its client's address, which is behind all places of
/// the bucket.
pub(super) const CLIENT6: usize = 2 * BUCKET;

/// Where a flow can be.
pub(super) struct Spot {
    pub(super) hash: u64,
    v4: bool,
    group: u32,
    /// Places of its buckets that are looked at first.
    starts: [usize; 2],
}

impl Spot {
    /// The tag of the flow's place.
    pub(super) const fn tag(&self) -> u64 {
        (self.hash >> 8 & 0xffff) | 1
    }

    /// The places in the order in which they are looked at.
    pub(super) fn places(&self) -> impl Iterator<Item = At> + '_ {
        let (v4, group) = (self.v4, self.group);
        let places = self.starts.iter().flat_map(|start| (0..BUCKET).map(move |way| start ^ way));
        places.map(move |place| At { v4, group, place })
    }

    /// The first place of each bucket.
    pub(super) fn buckets(&self) -> [At; 2] {
        let (v4, group) = (self.v4, self.group);
        self.starts.map(|start| At { v4, group, place: start & !(BUCKET - 1) })
    }
}

/// Which place of which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub(super) v4: bool,
    pub(super) group: u32,
    pub(super) place: usize,
}

/// What a place of a table has; a place that nothing is in is not told of.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    pub(crate) at: At,
    owner: &'a AtomicU64,
    pub(super) seen_owner: u64,
    /// Half of the client's address, or bits of the hash, and what is known of the flow.
    word: &'a AtomicU64,
    pub(super) seen_word: u64,
    tags: &'a AtomicU64,
    /// `None` when the destination that it went to is gone, or nothing is there
    /// but a tag: somebody is writing the place, or stopped half-way.
    pub(crate) flow: Option<StoredFlow>,
}

impl Place<'_> {
    /// Whether there is a tag and no owner.
    pub(crate) const fn is_half_written(&self) -> bool {
        self.seen_owner & SLOT == 0
    }

    /// Frees the place for others, unless it has been taken since it was read.
    /// Its flow must be dead for the data plane too.
    pub(crate) fn free(&self) {
        // In this order: while there is a tag and no owner, nobody takes it.
        let seen = [self.seen_owner, self.seen_word];
        if exchange_owner(self.owner, self.word, seen, FREED) {
            let shift = tag_shift(self.at.place);
            let free = |tags| Some(tags & !(0xffff << shift) | FREED_TAG << shift);
            let _ = self.tags.fetch_update(Ordering::AcqRel, Ordering::Relaxed, free);
        }
    }
}

/// Gives a place another owner, which is no flow's, if its owner and its word are still
/// those that were seen; whether they were. A flow that has begun anew since, or had a
/// packet, has the same owner.
pub(super) fn exchange_owner(
    owner: &AtomicU64,
    word: &AtomicU64,
    [seen_owner, seen_word]: [u64; 2],
    new: u64,
) -> bool {
    let exchange =
        |from, to| owner.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    if !exchange(seen_owner, new) {
        return false;
    }
    let same = word.load(Ordering::Acquire) == seen_word;
    if !same {
        exchange(new, seen_owner);
    }
    same
}

pub(super) const fn tag_shift(place: usize) -> usize {
    place % BUCKET * 16
}

impl Maps {
    /// What is stored of a flow, unless its destination is gone.
    pub(crate) fn flow(&self, key: &FlowKey) -> Option<StoredFlow> {
        let hasher = self.flow_hash();
        self.place_of(key, &self.spot(key, hasher), hasher)?.flow
    }

    /// Where a flow can be.
    pub(super) fn spot(&self, key: &FlowKey, hasher: FlowHash) -> Spot {
        let hash = hasher.of(key);
        let groups = self.flows4.len();
        let group = (((hash >> 32) * u64::from(groups)) >> 32) as u32;
        let bits = |from: u32| (hash >> from) as usize % GROUP;
        let start = bits(26);
        let other = start ^ ((bits(34) & !(BUCKET - 1)) | BUCKET);
        Spot { hash, v4: key.source.is_ipv4(), group, starts: [start, other] }
    }

    /// The place that a flow has.
    pub(super) fn place_of(
        &self,
        key: &FlowKey,
        spot: &Spot,
        hasher: FlowHash,
    ) -> Option<Place<'_>> {
        let has = |place: &Place<'_>| place.flow.as_ref().is_some_and(|flow| flow.key == *key);
        spot.places().filter_map(|at| self.place(at, hasher)).find(has)
    }

    /// The flow that there are news of, unless its destination is gone.
    pub(crate) fn flow_of(&self, news: &FlowNews) -> Option<StoredFlow> {
        let slot = news.slot;
        if slot >= self.destinations.len() {
            return None;
        }
        let destination = self.destinations.read(slot);
        let key = FlowKey {
            source: octets_address(news.client),
            destination: octets_address(destination.address),
            source_port: u16::from_be(news.port),
            destination_port: u16::from_be(destination.port),
            protocol: destination.protocol,
        };
        let same = destination.service != 0 && destination.generation == news.generation;
        same.then_some(StoredFlow { key, slot, destination, meta: news.meta })
    }

    /// Calls `each` with every place in use, of both families, until it breaks.
    pub(crate) fn for_each_flow(&self, mut each: impl FnMut(&Place<'_>) -> ControlFlow<()>) {
        let hasher = self.flow_hash();
        let tables = [(true, self.flows4.len()), (false, self.flows6.len())];
        let _ = tables
            .into_iter()
            .flat_map(|(v4, groups)| (0..groups).map(move |group| (v4, group)))
            .flat_map(|(v4, group)| (0..GROUP).map(move |place| At { v4, group, place }))
            .filter_map(|at| self.place(at, hasher))
            .try_for_each(|place| each(&place));
    }

    /// A place, if something is in it.
    fn place(&self, at: At, hasher: FlowHash) -> Option<Place<'_>> {
        let tags = self.tags_of(at);
        if tags.load(Ordering::Acquire) >> tag_shift(at.place) & 1 == 0 {
            return None;
        }
        let words = self.words_of(at);
        let (owner, word) = (&words[0], &words[1]);
        let seen_owner = owner.load(Ordering::Acquire);
        let seen_word = word.load(Ordering::Acquire);
        let place = Place { at, owner, seen_owner, word, seen_word, tags, flow: None };
        if place.is_half_written() {
            return Some(place);
        }
        let source = if at.v4 {
            IpAddr::V4(Ipv4Addr::from((seen_word as u32).to_ne_bytes()))
        } else {
            let half = |i: usize| words[CLIENT6 + i].load(Ordering::Acquire).to_ne_bytes();
            let mut octets = [0; 16];
            octets[..8].copy_from_slice(&half(0));
            octets[8..].copy_from_slice(&half(1));
            IpAddr::V6(Ipv6Addr::from(octets))
        };
        if owner.load(Ordering::Acquire) != seen_owner {
            // It is being written.
            return None;
        }
        let flow = self.stored(source, seen_owner, (seen_word >> 32) as u32, hasher);
        Some(Place { flow, ..place })
    }

    /// The word with the tags of a place's bucket.
    pub(super) fn tags_of(&self, at: At) -> &AtomicU64 {
        let tags = if at.v4 { &self.tags4 } else { &self.tags6 };
        &tags.words(at.group)[at.place / BUCKET]
    }

    /// The words of a place: its owner, its client with what is known of the flow, and,
    /// for IPv6, from [`CLIENT6`] on the client's address.
    pub(super) fn words_of(&self, at: At) -> &[AtomicU64] {
        let (bucket, way) = (at.place / BUCKET, at.place % BUCKET);
        match at.v4 {
            true => &self.flows4.words(at.group)[2 * at.place..],
            false => &self.flows6.words(at.group)[2 * (2 * bucket * BUCKET + way)..],
        }
    }

    fn stored(
        &self,
        source: IpAddr,
        owner: u64,
        meta: u32,
        hasher: FlowHash,
    ) -> Option<StoredFlow> {
        let slot = (owner & SLOT) as u32;
        if slot >= self.destinations.len() {
            return None;
        }
        let destination = self.destinations.read(slot);
        let key = FlowKey {
            source,
            destination: octets_address(destination.address),
            source_port: u16::from_be((owner >> FlowOwner::XVS_FLOW_PORT_SHIFT.0) as u16),
            destination_port: u16::from_be(destination.port),
            protocol: destination.protocol,
        };
        let check = hasher.of(&key).wrapping_add(u64::from(destination.generation)) & CHECK;
        let same =
            destination.service != 0 && (owner >> FlowOwner::XVS_FLOW_SLOT_BITS.0) & CHECK == check;
        same.then_some(StoredFlow { key, slot, destination, meta })
    }

    pub(super) fn flow_hash(&self) -> FlowHash {
        let settings = self.instance.read(0).settings;
        FlowHash {
            key: HashKey { k0: settings.k0, k1: settings.k1 },
            secret: HashKey { k0: settings.flow_k0, k1: settings.flow_k1 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: u64 = 7 << FlowOwner::XVS_FLOW_PORT_SHIFT.0 | 3;
    const DEAD: u64 = 5;
    const TAGS: u64 = 0x0009_0007_0005_0003;

    /// What a place has (its owner, its word, the tags) once it is freed of a flow that it
    /// had when it was read.
    fn freed(owner: u64, word: u64) -> (u64, u64, u64) {
        let at = At { v4: true, group: 0, place: 1 };
        let [owner, word, tags] = [owner, word, TAGS].map(AtomicU64::new);
        let place = Place {
            at,
            owner: &owner,
            seen_owner: OWNER,
            word: &word,
            seen_word: DEAD,
            tags: &tags,
            flow: None,
        };
        place.free();
        (owner.into_inner(), word.into_inner(), tags.into_inner())
    }

    #[test]
    fn only_what_is_dead_is_freed() {
        let tags = TAGS & !0xffff_0000 | FREED_TAG << 16;
        assert_eq!(freed(OWNER, DEAD), (FREED, DEAD, tags));
        let another = OWNER + 1;
        assert_eq!(freed(another, DEAD), (another, DEAD, TAGS), "another flow has the place");
        let anew = DEAD + (1 << 32);
        assert_eq!(freed(OWNER, anew), (OWNER, anew, TAGS), "its flow has begun anew");
    }
}
