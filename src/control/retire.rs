//! What becomes of the counters of things that are removed: they are added to
//! those of what they were part of, so that no sum ever shrinks.

use super::Control;
use super::Target;
use crate::bpf::DestinationInfo;
use crate::bpf::DestinationRecord;
use crate::bpf::Gauge;
use crate::bpf::Refused;
use crate::bpf::Retired;
use crate::bpf::Traffic;

impl Control {
    /// Takes a destination out: its flows are misses from now on.
    pub(super) fn retire_target(&mut self, service: u32, target: &Target) {
        let slot = target.slot;
        let generation = &mut self.generations[slot as usize];
        *generation = generation.wrapping_add(1);
        let record = DestinationRecord { generation: *generation, ..Default::default() };
        self.maps.destinations.write(slot, &record);
        self.maps.destination_infos.write(slot, &DestinationInfo::default());
        self.maps.gauges.write(slot, &Gauge::default());

        let mut retired = self.maps.retired.read(service);
        for index in rows(&self.maps.traffic, self.maps.destinations.len(), slot) {
            add_traffic(&mut retired.traffic, &self.maps.traffic.read(index));
            self.maps.traffic.write(index, &Traffic::default());
        }
        self.maps.retired.write(service, &retired);
        self.slots.free(slot);
    }

    /// Moves the counters of a service to its VIP.
    pub(super) fn retire_service(&self, service: u32, vip: u32) {
        let mut moved = self.maps.retired.read(service);
        for index in rows(&self.maps.service_refused, self.maps.services.len(), service) {
            add_refused(&mut moved.refused, &self.maps.service_refused.read(index));
            self.maps.service_refused.write(index, &Refused::default());
        }
        self.maps.retired.write(service, &Retired::default());
        self.add_retired(self.maps.services.len() + vip, &moved);
    }

    /// Moves the counters of a VIP to those of all former ones.
    pub(super) fn retire_vip(&self, vip: u32) {
        let former = self.maps.services.len() + vip;
        let mut moved = self.maps.retired.read(former);
        for index in rows(&self.maps.vip_refused, self.maps.services.len(), vip) {
            add_refused(&mut moved.refused, &self.maps.vip_refused.read(index));
            self.maps.vip_refused.write(index, &Refused::default());
        }
        self.maps.retired.write(former, &Retired::default());
        self.add_retired(0, &moved);
    }

    fn add_retired(&self, index: u32, more: &Retired) {
        let mut retired = self.maps.retired.read(index);
        add_traffic(&mut retired.traffic, &more.traffic);
        add_refused(&mut retired.refused, &more.refused);
        self.maps.retired.write(index, &retired);
    }
}

/// The indices that a thing's counters have in each CPU's row.
fn rows<T: crate::bpf::Record>(
    array: &crate::bpf::Array<T>,
    row: u32,
    id: u32,
) -> impl Iterator<Item = u32> + use<T> {
    (0..array.len() / row).map(move |cpu| cpu * row + id)
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
