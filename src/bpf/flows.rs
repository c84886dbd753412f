//! The flow tables, as `bpf/flow.h` has them. Nothing else knows what they are
//! made of.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::ops::ControlFlow;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use super::Maps;
use super::types::*;
use crate::hash::HashKey;
use crate::hash::Tuple;

/// A flow's addresses, ports and protocol.
pub(crate) type FlowKey = Tuple;

const SLOT: u64 = (1 << FlowOwner::XVS_FLOW_SLOT_BITS.0) - 1;
const CHECK: u64 = (1 << FlowOwner::XVS_FLOW_CHECK_BITS.0) - 1;
const SEEN: u32 = (1 << FlowMeta::XVS_FLOW_SEEN_BITS.0) - 1;
const FREED: u64 = FlowOwner::XVS_FLOW_FREED.0 as u64;

/// Ticks by which a CPU's clock may be ahead of this one.
const AHEAD: u32 = 16;

/// Places in a group, and in one of its buckets.
const GROUP: usize = 256;
const BUCKET: usize = 4;

/// A flow of one of the tables, whose slot is its destination's still.
#[derive(Clone, Debug)]
pub(crate) struct StoredFlow {
    pub(crate) key: FlowKey,
    pub(crate) slot: u32,
    pub(crate) destination: DestinationRecord,
    meta: u32,
}

impl StoredFlow {
    /// Whether the client has sent FIN or RST.
    pub(crate) const fn closing(&self) -> bool {
        self.meta & FlowMeta::XVS_FLOW_CLOSING.0 != 0
    }

    /// The ticks since its last packet, which may have come after `now`.
    pub(crate) const fn silence(&self, now: u32) -> u32 {
        let silence = now.wrapping_sub(self.meta) & SEEN;
        if silence > SEEN - AHEAD { 0 } else { silence }
    }

    /// The ticks that it may be silent.
    pub(crate) const fn limit(&self) -> u32 {
        if self.closing() { self.destination.closing } else { self.destination.idle }
    }
}

/// What a place of a table has; a place that nothing is in is not told of.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    owner: &'a AtomicU64,
    seen_owner: u64,
    /// `None` when the destination that it went to is gone.
    pub(crate) flow: Option<StoredFlow>,
}

impl Place<'_> {
    /// Frees the place for others, unless it has been taken since it was read.
    /// Its flow must be dead for the data plane too.
    pub(crate) fn free(&self) {
        let _ = self.owner.compare_exchange(
            self.seen_owner,
            FREED,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }
}

impl Maps {
    /// What is stored of a flow, unless its destination is gone.
    pub(crate) fn flow(&self, key: &FlowKey) -> Option<StoredFlow> {
        let secret = self.flow_secret();
        let hash = key.hash(secret);
        let groups = self.flows4.len();
        let group = (((hash >> 32) * u64::from(groups)) >> 32) as u32;
        let bits = |from: u32| (hash >> from) as usize % GROUP;
        let start = bits(26);
        let other = start ^ ((bits(34) & !(BUCKET - 1)) | BUCKET);
        let words = match key.source {
            IpAddr::V4(_) => self.flows4.words(group),
            IpAddr::V6(_) => self.flows6.words(group),
        };
        [start, other]
            .into_iter()
            .flat_map(|start| (0..BUCKET).map(move |way| start ^ way))
            .filter_map(|place| self.place(words, place, secret)?.flow)
            .find(|flow| flow.key == *key)
    }

    /// Calls `each` with every place in use, of both families, until it breaks.
    pub(crate) fn for_each_flow(&self, mut each: impl FnMut(&Place<'_>) -> ControlFlow<()>) {
        let secret = self.flow_secret();
        let groups = (0..self.flows4.len()).map(|group| self.flows4.words(group));
        let groups = groups.chain((0..self.flows6.len()).map(|group| self.flows6.words(group)));
        let _ = groups
            .flat_map(|words| (0..GROUP).filter_map(move |place| self.place(words, place, secret)))
            .try_for_each(|place| each(&place));
    }

    /// A place of a group, if something is in it.
    fn place<'a>(
        &self,
        words: &'a [AtomicU64],
        place: usize,
        secret: HashKey,
    ) -> Option<Place<'a>> {
        let v4 = words.len() == 2 * GROUP;
        let (bucket, way) = (place / BUCKET, place % BUCKET);
        let at = 2 * if v4 { place } else { 2 * bucket * BUCKET + way };
        let owner = &words[at];
        let seen_owner = owner.load(Ordering::Acquire);
        let slot = (seen_owner & SLOT) as u32;
        if slot == 0 {
            return None;
        }
        let word = words[at + 1].load(Ordering::Acquire);
        let source = if v4 {
            IpAddr::V4(Ipv4Addr::from((word as u32).to_ne_bytes()))
        } else {
            // Behind all places of the bucket.
            let half = |i: usize| words[at + 2 * BUCKET + i].load(Ordering::Acquire).to_ne_bytes();
            let mut octets = [0; 16];
            octets[..8].copy_from_slice(&half(0));
            octets[8..].copy_from_slice(&half(1));
            IpAddr::V6(Ipv6Addr::from(octets))
        };
        if owner.load(Ordering::Acquire) != seen_owner {
            // It is being written.
            return None;
        }
        let flow = self.stored(source, seen_owner, (word >> 32) as u32, secret);
        Some(Place { owner, seen_owner, flow })
    }

    fn stored(&self, source: IpAddr, owner: u64, meta: u32, secret: HashKey) -> Option<StoredFlow> {
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
        let check = key.hash(secret).wrapping_add(u64::from(destination.generation)) & CHECK;
        let same =
            destination.service != 0 && (owner >> FlowOwner::XVS_FLOW_SLOT_BITS.0) & CHECK == check;
        same.then_some(StoredFlow { key, slot, destination, meta })
    }

    fn flow_secret(&self) -> HashKey {
        let settings = self.instance.read(0).settings;
        HashKey { k0: settings.flow_k0, k1: settings.flow_k1 }
    }
}
