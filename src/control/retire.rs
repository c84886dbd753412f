//! What becomes of the counters of things that are removed: they are added to
//! those of what they were part of, so that no sum ever shrinks.
//!
//! The data plane's own counters are never written here, for a packet may be
//! adding to them. What a slot or an id had counted before its present owner
//! is its base, and taken off by readers.

use super::Control;
use super::Target;
use crate::bpf::DestinationInfo;
use crate::bpf::DestinationRecord;
use crate::bpf::Gauge;
use crate::bpf::Maps;
use crate::bpf::Refused;
use crate::bpf::Retired;
use crate::bpf::Traffic;
use crate::clock::now_tick;

impl Control {
    /// Tells readers that what they read between the two calls of this, the
    /// second of which ends it, does not add up.
    pub(super) fn count_change(&self) {
        let mut instance = self.maps.instance.read(0);
        instance.changes += 1;
        self.maps.instance.write(0, &instance);
    }

    /// Makes flows that name a slot's present generation misses.
    pub(super) fn next_generation(&mut self, slot: u32) -> u32 {
        let generation = &mut self.generations[slot as usize];
        *generation = generation.wrapping_add(1);
        *generation
    }

    /// Prepares a slot for its next destination.
    pub(super) fn open_slot(&self, slot: u32) {
        let base = self.maps.traffic_of_slot(slot);
        let info = DestinationInfo { base, ..Default::default() };
        self.maps.destination_infos.write(slot, &info);
    }

    /// Prepares the id of a service for the next one.
    pub(super) fn open_service(&self, id: u32) {
        let base = self.maps.refused_by_service(id);
        let limited_base = self.maps.limited(id);
        self.maps.retired.write(id, &Retired { base, limited_base, ..Default::default() });
        // It has all of its new flows: the last one's tick is over.
        self.maps.end_inflows(id, now_tick().wrapping_sub(1 << 31));
    }

    /// Prepares the id of a VIP for the next one.
    pub(super) fn open_vip(&self, id: u32) {
        let base = self.maps.refused_by_vip(id);
        let index = self.maps.retired_vip(id);
        self.maps.retired.write(index, &Retired { base, ..Default::default() });
    }

    /// Takes a destination out: its flows are misses from now on.
    pub(super) fn retire_target(&mut self, service: u32, target: &Target) {
        self.close_slot(target.slot);
        let base = self.maps.destination_infos.read(target.slot).base;
        let traffic = since(self.maps.traffic_of_slot(target.slot), base);
        self.add_retired(service, &Retired { traffic, ..Default::default() });
        self.retire_nat(target.nat);
        self.free_slot(target.slot);
    }

    /// Takes a destination out that no packet has found, and nobody was told of.
    pub(super) fn abandon_target(&mut self, target: &Target) {
        self.close_slot(target.slot);
        self.put_back_nat(target.nat);
        self.free_slot(target.slot);
    }

    fn close_slot(&mut self, slot: u32) {
        let generation = self.next_generation(slot);
        let record = DestinationRecord { generation, ..Default::default() };
        self.maps.destinations.write(slot, &record);
    }

    fn free_slot(&mut self, slot: u32) {
        self.open_slot(slot);
        self.maps.gauges.write(slot, &Gauge::default());
        self.slots.free(slot);
    }

    /// Moves the counters of a service to its VIP.
    pub(super) fn retire_service(&self, service: u32, vip: u32) {
        let mut moved = self.maps.retired.read(service);
        let refused = refused_since(self.maps.refused_by_service(service), moved.base);
        add_refused(&mut moved.refused, &refused);
        moved.limited += self.maps.limited(service).saturating_sub(moved.limited_base);
        self.add_retired(self.maps.retired_vip(vip), &moved);
        self.open_service(service);
    }

    /// Moves the counters of a VIP to those of all former ones.
    pub(super) fn retire_vip(&self, vip: u32) {
        let mut moved = self.maps.retired.read(self.maps.retired_vip(vip));
        let refused = refused_since(self.maps.refused_by_vip(vip), moved.base);
        add_refused(&mut moved.refused, &refused);
        self.add_retired(0, &moved);
        self.open_vip(vip);
    }

    /// Adds what was counted, without its base.
    pub(super) fn add_retired(&self, index: u32, counted: &Retired) {
        let mut retired = self.maps.retired.read(index);
        add_traffic(&mut retired.traffic, &counted.traffic);
        add_refused(&mut retired.refused, &counted.refused);
        retired.limited += counted.limited;
        self.maps.retired.write(index, &retired);
    }
}

impl Maps {
    /// What a slot has counted since the start.
    pub(crate) fn traffic_of_slot(&self, slot: u32) -> Traffic {
        let mut sum = Traffic::default();
        for traffic in self.traffic.column(self.destinations.len(), slot) {
            add_traffic(&mut sum, &traffic);
        }
        sum
    }

    /// What the id of a service has counted since the start.
    pub(crate) fn refused_by_service(&self, id: u32) -> Refused {
        let mut sum = Refused::default();
        for refused in self.service_refused.column(self.services.len(), id) {
            add_refused(&mut sum, &refused);
        }
        sum
    }

    /// How many packets of the id of a service stored no flow since the start, as its
    /// limit was reached.
    pub(crate) fn limited(&self, id: u32) -> u64 {
        self.inflows.column(self.services.len(), id).map(|inflow| inflow.limited).sum()
    }

    /// What the id of a VIP has counted since the start.
    pub(crate) fn refused_by_vip(&self, id: u32) -> Refused {
        let mut sum = Refused::default();
        for refused in self.vip_refused.column(self.services.len(), id) {
            add_refused(&mut sum, &refused);
        }
        sum
    }

    /// The index of what is retired of a VIP, after that of all services.
    pub(crate) const fn retired_vip(&self, id: u32) -> u32 {
        self.services.len() + id
    }
}

/// What was counted after the base.
pub(crate) fn since(now: Traffic, base: Traffic) -> Traffic {
    Traffic {
        packets: now.packets.saturating_sub(base.packets),
        octets: now.octets.saturating_sub(base.octets),
        flows: now.flows.saturating_sub(base.flows),
        syn: now.syn.saturating_sub(base.syn),
        fin: now.fin.saturating_sub(base.fin),
        rst: now.rst.saturating_sub(base.rst),
        ..Default::default()
    }
}

/// What was counted after the base.
pub(crate) fn refused_since(mut now: Refused, base: Refused) -> Refused {
    for (now, base) in now.reasons.iter_mut().zip(base.reasons) {
        *now = now.saturating_sub(base);
    }
    now
}

fn add_traffic(to: &mut Traffic, more: &Traffic) {
    to.packets += more.packets;
    to.octets += more.octets;
    to.flows += more.flows;
    to.syn += more.syn;
    to.fin += more.fin;
    to.rst += more.rst;
}

fn add_refused(to: &mut Refused, more: &Refused) {
    for (to, more) in to.reasons.iter_mut().zip(more.reasons) {
        *to += more;
    }
}
