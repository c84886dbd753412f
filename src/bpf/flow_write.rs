//! Flows that other balancers tell of, written into the tables beside packets that do
//! the same: by the steps of `bpf/flow_store.h`.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use super::Maps;
use super::flows::At;
use super::flows::BUCKET;
use super::flows::CHECK;
use super::flows::CLIENT6;
use super::flows::FlowKey;
use super::flows::SEEN;
use super::flows::SLOT;
use super::flows::Spot;
use super::flows::StoredFlow;
use super::flows::age;
use super::flows::exchange_owner;
use super::flows::silence;
use super::flows::tag_shift;
use super::types::*;
use crate::hash::FlowHash;

const BUSY: u64 = FlowOwner::XVS_FLOW_BUSY.0 as u64;
const CROWDED: u32 = FlowTag::XVS_FLOW_CROWDED.0;
const AGE: u32 = FlowMeta::XVS_FLOW_AGE.0;
const CLOSING: u32 = FlowMeta::XVS_FLOW_CLOSING.0;
const RANK_SHIFT: u32 = FlowMeta::XVS_FLOW_RANK_SHIFT.0;
const RANK_AGE: u32 = FlowMeta::XVS_FLOW_RANK_AGE.0;
/// Times a tag: that tag in each place of a bucket.
const TAGS_EACH: u64 = 0x0001_0001_0001_0001;

/// What became of a flow that was to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It has a place.
    Stored,
    /// It had one, with that destination.
    Refreshed,
    /// It has one, with another destination, that has more right.
    Kept,
    /// All of its places are of flows with as much right to stay.
    NoRoom,
}

/// What to do with a flow that is there already and lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Merged {
    Keep,
    /// The destination is the same: this is known of the flow.
    Known(u32),
    Replace,
}

impl StoredFlow {
    /// A flow of a destination that has been silent for so many ticks.
    pub(crate) const fn new(
        key: FlowKey,
        slot: u32,
        destination: DestinationRecord,
        seen: u32,
    ) -> Self {
        Self { key, slot, destination, meta: seen & SEEN }
    }

    /// In how many later ticks packets came.
    pub(crate) fn aged(mut self, age: u32) -> Self {
        self.meta |= age.min(FlowMeta::XVS_FLOW_AGE_MAX.0) * AGE;
        self
    }

    /// The client has sent FIN or RST.
    pub(crate) fn closed(mut self) -> Self {
        self.meta |= CLOSING;
        self
    }

    /// What this flow, which lives here, and one told of by another balancer come to.
    fn merge(&self, other: &Self, now: u32) -> Merged {
        let is_later = other.silence(now) < self.silence(now);
        let same = self.slot == other.slot;
        let is_over = self.closing() || (!same && self.silence(now) > Tick::XVS_TICKS_SYN.0);
        // The same ports were opened again, as a SYN does.
        if is_later && is_over && !other.closing() {
            return if same { Merged::Known(other.meta) } else { Merged::Replace };
        }
        if same {
            let seen = if is_later { other.meta } else { self.meta } & SEEN;
            let age = self.age().max(other.age()) * AGE;
            return Merged::Known(seen | age | (self.meta | other.meta) & CLOSING);
        }
        // A packet came here before the record did, and went by the hash.
        if self.age() == 0 && other.age() > 0 { Merged::Replace } else { Merged::Keep }
    }
}

/// Writes flows into the tables.
#[derive(Debug)]
pub(crate) struct FlowWriter<'a> {
    maps: &'a Maps,
    hasher: FlowHash,
}

impl<'a> FlowWriter<'a> {
    pub(crate) fn new(maps: &'a Maps) -> Self {
        Self { maps, hasher: maps.flow_hash() }
    }

    /// Writes a flow that lives, unless one that is there has more right.
    pub(crate) fn write(&self, flow: &StoredFlow, now: u32) -> Outcome {
        /// Each time a packet was faster.
        const TRIES: usize = 8;
        let spot = self.maps.spot(&flow.key, self.hasher);
        let outcome = (0..TRIES).find_map(|_| self.try_write(flow, &spot, now));
        outcome.unwrap_or(Outcome::NoRoom)
    }

    /// `None` when a packet changed the same place meanwhile.
    fn try_write(&self, flow: &StoredFlow, spot: &Spot, now: u32) -> Option<Outcome> {
        let written = |done: bool| done.then_some(Outcome::Stored);
        if let Some(place) = self.maps.place_of(&flow.key, spot, self.hasher)
            && let Some(old) = &place.flow
        {
            let lives = old.silence(now) <= old.limit();
            return match old.merge(flow, now) {
                Merged::Keep if lives => Some(Outcome::Kept),
                Merged::Known(meta) if lives => {
                    self.set_known(place.at, old, meta).then_some(Outcome::Refreshed)
                }
                _ => written(self.take(place.at, [place.seen_owner, place.seen_word], flow, spot)),
            };
        }
        if let Some(done) = self.claim(flow, spot) {
            return written(done);
        }
        match self.worst(flow, spot, now) {
            Some((at, seen)) => written(self.take(at, seen, flow, spot)),
            None => Some(Outcome::NoRoom),
        }
    }

    /// Changes what is known of a flow; whether no packet did meanwhile. Should the place
    /// be another flow's by then, that has it until its next packet (`flow_touch`).
    fn set_known(&self, at: At, old: &StoredFlow, meta: u32) -> bool {
        if old.meta == meta {
            return true;
        }
        let word = &self.maps.words_of(at)[1];
        let seen = word.load(Ordering::Acquire);
        let new = u64::from(meta) << 32 | seen & 0xffff_ffff;
        (seen >> 32) as u32 == old.meta
            && word.compare_exchange(seen, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Claims a free place, as `flow_claim` does, and writes it; `None` if there is none.
    fn claim(&self, flow: &StoredFlow, spot: &Spot) -> Option<bool> {
        let flows = |tags: u64| ((tags & TAGS_EACH).wrapping_mul(TAGS_EACH) >> 48) as u32;
        let [first, second] =
            spot.buckets().map(|at| (at, self.maps.tags_of(at).load(Ordering::Acquire)));
        let crowded = flows(first.1) >= CROWDED;
        let (at, tags) = if crowded && flows(second.1) < flows(first.1) { second } else { first };
        let is_free = |way: &usize| tags >> tag_shift(*way) & 1 == 0;
        let way = (0..BUCKET).find(is_free)?;
        let at = At { place: at.place + way, ..at };
        let mine = with_tag(tags, at, spot.tag());
        let word = self.maps.tags_of(at);
        if word.compare_exchange(tags, mine, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return Some(false);
        }
        let words = self.maps.words_of(at);
        let seen = [0, 1].map(|i: usize| words[i].load(Ordering::Acquire));
        Some(self.take(at, seen, flow, spot))
    }

    /// The place that can be taken best, and its owner and word; none unless its flow has less
    /// right to it than this one has, and than a new one would have.
    fn worst(&self, flow: &StoredFlow, spot: &Spot, now: u32) -> Option<(At, [u64; 2])> {
        let least = rank(flow.meta, now).max(1 << RANK_SHIFT);
        let ranked = spot.places().filter_map(|at| {
            let words = self.maps.words_of(at);
            let seen = [0, 1].map(|i: usize| words[i].load(Ordering::Acquire));
            let rank = rank((seen[1] >> 32) as u32, now);
            (seen[0] & SLOT != 0 && rank > least).then_some((rank, at, seen))
        });
        ranked.max_by_key(|(rank, ..)| *rank).map(|(_, at, seen)| (at, seen))
    }

    /// Takes a place that is as it was seen, and writes it; whether that stayed.
    fn take(&self, at: At, seen: [u64; 2], flow: &StoredFlow, spot: &Spot) -> bool {
        let words = self.maps.words_of(at);
        if !exchange_owner(&words[0], &words[1], seen, BUSY) {
            return false;
        }
        let tags = self.maps.tags_of(at);
        let tagged = |tags| Some(with_tag(tags, at, spot.tag()));
        let _ = tags.fetch_update(Ordering::AcqRel, Ordering::Acquire, tagged);
        let half = match flow.key.source {
            IpAddr::V4(v4) => u32::from_ne_bytes(v4.octets()),
            IpAddr::V6(v6) => {
                let octets = v6.octets();
                let (halves, _) = octets.as_chunks::<8>();
                for (word, half) in words[CLIENT6..].iter().zip(halves) {
                    word.store(u64::from_ne_bytes(*half), Ordering::Release);
                }
                (spot.hash >> 32) as u32
            }
        };
        words[1].store(u64::from(flow.meta) << 32 | u64::from(half), Ordering::Release);
        let mine = flow.owner(spot.hash);
        let written = words[0].compare_exchange(BUSY, mine, Ordering::AcqRel, Ordering::Relaxed);
        // Where packets take locks, which this does not, one may have written over the tag.
        written.is_ok()
            && tags.load(Ordering::Acquire) >> tag_shift(at.place) & 0xffff == spot.tag()
            && words[0].load(Ordering::Acquire) == mine
    }
}

impl StoredFlow {
    /// The owner of the flow's place, as `flow_owner` in `bpf/flow.h` has it.
    fn owner(&self, hash: u64) -> u64 {
        let check = hash.wrapping_add(self.destination.generation.into()) & CHECK;
        u64::from(self.key.source_port.to_be()) << FlowOwner::XVS_FLOW_PORT_SHIFT.0
            | check << FlowOwner::XVS_FLOW_SLOT_BITS.0
            | u64::from(self.slot)
    }
}

/// How well a place can be taken from its flow, as `flow_rank` has it.
const fn rank(meta: u32, now: u32) -> u64 {
    let age = if meta & CLOSING == 0 { age(meta) } else { 0 };
    (silence(meta, now) as u64 + 1) << (RANK_SHIFT - RANK_AGE * age)
}

const fn with_tag(tags: u64, at: At, tag: u64) -> u64 {
    let shift = tag_shift(at.place);
    tags & !(0xffff << shift) | tag << shift
}
