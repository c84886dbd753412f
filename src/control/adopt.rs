//! Taking over the data plane of a process that is gone. That may have been killed
//! between any two words that it wrote: what is whole is kept, the rest is as if its
//! last call had never been made, or had come to its end.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use std::time::Instant;

use super::Balanced;
use super::Control;
use super::Target;
use super::Virtual;
use super::drain::Drained;
use super::entries;
use super::gate;
use super::ids::Ids;
use super::key_record;
use super::retire::since;
use super::transition::Transition;
use crate::DestinationStatus;
use crate::MAX_WEIGHT;
use crate::Mac;
use crate::Result;
use crate::Service;
use crate::ServiceKey;
use crate::Tunnel;
use crate::bpf::DestinationRecord;
use crate::bpf::Gauge;
use crate::bpf::PATHS;
use crate::bpf::Retired;
use crate::bpf::ServiceRecord;
use crate::bpf::WayRecord;
use crate::bpf::address_octets;
use crate::bpf::octets_address;
use crate::discovery::NextHop;
use crate::net::Neighbour;
use crate::net::NeighbourState;
use crate::routing;
use crate::routing::Way;

/// A service that is whole.
struct Found {
    id: u32,
    record: ServiceRecord,
    service: Service,
    targets: Vec<Target>,
}

impl Control {
    /// Takes over what the maps have, and follows the network.
    pub(crate) fn take_over(mut self) -> Result<Self> {
        let destinations = &self.maps.destinations;
        self.generations =
            (0..destinations.len()).map(|slot| destinations.read(slot).generation).collect();
        let mut found = self.find_services();
        self.take_slots(&found);
        self.take_nats(&mut found)?;
        let vips = self.take_vips(&found)?;
        self.tell_members();
        self.find_vlans();

        let records = found.iter().map(|found| &found.record);
        let tables = records.flat_map(|record| [record.table, record.previous]).collect();
        self.tables.take(&tables)?;
        self.remember_neighbours(&found);
        for Found { id, record, service, targets } in found {
            let key = service.key();
            let last = |target: Target| Target { ways: self.last_ways(&target), ..target };
            let targets = targets.into_iter().map(last);
            let targets = targets.map(|target| (target.destination.address, target)).collect();
            // One that was just taking the place of the other is not the former one yet.
            let previous = Some(record.previous).filter(|table| *table != record.table);
            let previous = previous.and_then(|table| self.tables.slots_of(table));
            let previous = previous.map(|slots| (record.previous, slots, record.until));
            let balanced = Balanced {
                service,
                id,
                table: record.table,
                transition: Transition::of_left(previous),
                entries: Vec::new(),
                targets,
            };
            self.await_end(&balanced);
            self.inherited.add(key, balanced.targets.keys().copied().collect());
            self.services.insert(key, balanced);
        }
        self.vips = vips;
        self.publish_all()?;
        self.remember_path_mtus();
        self.refresh();
        self.keep_tables();
        self.write_all();
        self.rebuild(Duration::MAX);
        let keys: Vec<ServiceKey> = self.services.keys().copied().collect();
        keys.into_iter().for_each(|key| self.note_drains(key));
        Ok(self)
    }

    /// The services whose records are whole, with their destinations.
    fn find_services(&mut self) -> Vec<Found> {
        let mut targets: BTreeMap<u32, Vec<Target>> = BTreeMap::new();
        for slot in 1..self.maps.destination_infos.len() {
            if let Some((service, target)) = self.find_target(slot) {
                targets.entry(service).or_default().push(target);
            }
        }
        let mut known = BTreeSet::new();
        let mut found = Vec::new();
        for id in 1..self.maps.services.len() {
            let record = self.maps.services.read(id);
            let service = record.service().filter(|service| {
                service.validate().is_ok()
                    && self.check_nat(service.address, "VIP").is_ok()
                    && known.insert(service.key())
            });
            let Some(service) = service else {
                self.maps.services.write(id, &ServiceRecord::default());
                continue;
            };
            let mut addresses = BTreeSet::new();
            let mut targets = targets.remove(&id).unwrap_or_default();
            targets.retain(|target| addresses.insert(target.destination.address));
            found.push(Found { id, record, service, targets });
        }
        found
    }

    /// The destination that has a slot, with the id of its service, if what packets
    /// follow and what readers are told agree.
    fn find_target(&self, slot: u32) -> Option<(u32, Target)> {
        let info = self.maps.destination_infos.read(slot);
        let record = self.maps.destinations.read(slot);
        let same = info.service != 0
            && (info.service, info.generation) == (record.service, record.generation);
        let mut destination = info.destination();
        // One that was being changed: the call is going to be made again.
        destination.weight = destination.weight.clamp(1, MAX_WEIGHT);
        if destination.tunnel.validate(destination.address).is_err() {
            destination.tunnel = Tunnel::None;
        }
        let whole = same && destination.validate().is_ok();
        let target = Target {
            destination,
            slot,
            status: crate::instance::status(info.status),
            ways: Vec::new(),
            nat: info.nat,
            origin: None,
            drained: (info.disabled != 0)
                .then(|| Drained::of_left(info.disabled_ns, info.drained != 0)),
        };
        whole.then_some((info.service, target))
    }

    /// Takes the slots of destinations. Packets find nobody in any other.
    fn take_slots(&mut self, found: &[Found]) {
        let taken = found.iter().flat_map(|found| &found.targets).map(|target| target.slot);
        let taken: BTreeSet<u32> = taken.collect();
        for slot in (1..self.maps.destinations.len()).filter(|slot| !taken.contains(slot)) {
            let packets = self.maps.destinations.read(slot).service != 0;
            let info = self.maps.destination_infos.read(slot);
            if !packets && info.service != 0 && info.service < self.maps.services.len() {
                // What it had counted was to be its service's.
                let traffic = since(self.maps.traffic_of_slot(slot), info.base);
                self.add_retired(info.service, &Retired { traffic, ..Default::default() });
            }
            if packets {
                let generation = self.next_generation(slot);
                let record = DestinationRecord { generation, ..Default::default() };
                self.maps.destinations.write(slot, &record);
            }
            if packets || info.service != 0 {
                self.open_slot(slot);
                self.maps.gauges.write(slot, &Gauge::default());
            }
        }
        self.slots = Ids::with_taken(self.limits.destinations, &taken);
        let ids: BTreeSet<u32> = found.iter().map(|found| found.id).collect();
        self.service_ids = Ids::with_taken(self.limits.services, &ids);
    }

    /// Takes the NAT addresses of destinations; those without one get one.
    fn take_nats(&mut self, found: &mut [Found]) -> Result<()> {
        let numbers = self.nat.numbers();
        let mut taken = BTreeSet::new();
        let targets = || found.iter().flat_map(|found| &found.targets);
        let lacking: BTreeSet<u32> = targets()
            .filter(|target| !(1..=numbers).contains(&target.nat) || !taken.insert(target.nat))
            .map(|target| target.slot)
            .collect();
        for number in self.maps.nats.keys() {
            if !taken.contains(&number) {
                let () = self.maps.nats.remove(&number)?;
            }
        }
        let given = self.maps.instance.read(0).nats.max(taken.last().copied().unwrap_or(0));
        self.nats = Ids::with_given(numbers, given, &taken);
        for target in found.iter_mut().flat_map(|found| &mut found.targets) {
            if lacking.contains(&target.slot) {
                target.nat = self.take_nat(target.slot, None)?;
            }
        }
        Ok(())
    }

    /// The ids of VIPs: those that packets find, else those that services name.
    fn take_vips(&mut self, found: &[Found]) -> Result<BTreeMap<IpAddr, Virtual>> {
        let limit = self.limits.services;
        let mut vips: BTreeMap<IpAddr, Virtual> = BTreeMap::new();
        let mut taken = BTreeSet::new();
        let mut lacking = Vec::new();
        for Found { service, record, .. } in found {
            if let Some(vip) = vips.get_mut(&service.address) {
                vip.services += 1;
                continue;
            }
            let known = self.maps.vip_ids.get(&address_octets(service.address))?;
            let id = known.unwrap_or(record.vip);
            if !(1..=limit).contains(&id) || !taken.insert(id) {
                lacking.push(service.address);
            }
            vips.insert(service.address, Virtual { id, services: 1 });
        }
        self.vip_ids = Ids::with_taken(limit, &taken);
        for address in lacking {
            // SANITY: there are no more VIPs than services, and no more of these than ids.
            let id = self.vip_ids.take().expect("an id is left");
            self.open_vip(id);
            vips.get_mut(&address).expect("it is there").id = id;
        }
        Ok(vips)
    }

    /// Has packets find all services and VIPs, and no others.
    fn publish_all(&mut self) -> Result<()> {
        let vips: BTreeMap<[u8; 16], u32> =
            self.vips.iter().map(|(address, vip)| (address_octets(*address), vip.id)).collect();
        for (address, id) in &vips {
            if self.maps.vip_ids.get(address)? != Some(*id) {
                let () = self.maps.vip_ids.insert(address, id)?;
            }
        }
        self.write_gate();
        for (key, balanced) in &self.services {
            let record = key_record(*key);
            if self.maps.service_ids.get(&record)? != Some(balanced.id) {
                let () = self.maps.service_ids.insert(&record, &balanced.id)?;
            }
            self.maps.service_hints.write(gate::hint_index(*key), &u64::from(balanced.id));
        }
        for record in self.maps.service_ids.keys() {
            if record.key().is_none_or(|key| !self.services.contains_key(&key)) {
                let () = self.maps.service_ids.remove(&record)?;
            }
        }
        for address in self.maps.vip_ids.keys() {
            if !vips.contains_key(&address) {
                let () = self.maps.vip_ids.remove(&address)?;
            }
        }
        Ok(())
    }

    /// Has the neighbours that packets go to count as known while the kernel has no
    /// entry for them, as one that does not keep them resolved has none after a while.
    fn remember_neighbours(&mut self, found: &[Found]) {
        let mut known = Vec::new();
        let targets = found.iter().flat_map(|found| &found.targets);
        for target in targets.filter(|target| target.status == DestinationStatus::Reachable) {
            let way = self.way_records(target).next();
            if let (Some((way, _)), [neighbour]) = (way, &self.next_neighbours(target)[..]) {
                known.push((*neighbour, Mac(way.mac)));
            }
        }
        for (neighbour, mac) in known {
            self.observed.neighbours.entry(neighbour).or_insert(Neighbour {
                mac: Some(mac),
                state: NeighbourState::Stale,
                managed: false,
            });
        }
    }

    /// The ways that the data plane has to a destination, as far as it is known which
    /// neighbours they lead to: flows keep them while those do not answer.
    fn last_ways(&self, target: &Target) -> Vec<Way> {
        let neighbours = self.next_neighbours(target);
        let only = neighbours.len() == 1;
        let way = |(interface, neighbour): &(u32, IpAddr)| {
            let known = self.observed.neighbours.get(&(*interface, *neighbour));
            let mac = known.and_then(Neighbour::usable);
            let mut records = self.way_records(target);
            let (record, source) = records.find(|(way, _)| only || mac == Some(Mac(way.mac)))?;
            let hop = NextHop {
                interface: *interface,
                egress: record.ifindex,
                tag: u16::from_be(record.vlan),
                source: Mac(record.source_mac),
                destination: Mac(record.mac),
                mtu: record.mtu + target.overhead(),
            };
            Some(Way { hop, neighbour: *neighbour, local: source, weight: 1 })
        };
        neighbours.iter().filter_map(way).collect()
    }

    /// The records of the ways to a destination that lead anywhere, each with our address
    /// that packets are sent from, which without a tunnel is the server's.
    fn way_records(&self, target: &Target) -> impl Iterator<Item = (WayRecord, IpAddr)> {
        let slot = target.slot;
        let records: Vec<(WayRecord, IpAddr)> = match target.is_direct() {
            true => {
                vec![(self.maps.destinations.read(slot).way, target.destination.address)]
            }
            false => (0..PATHS)
                .map(|path| self.maps.tunnels.read(slot * PATHS + path))
                .map(|tunnel| (tunnel.way, octets_address(tunnel.source)))
                .collect(),
        };
        records.into_iter().filter(|(way, _)| way.ifindex != 0)
    }

    /// The neighbours that lead to a destination, each with its interface.
    fn next_neighbours(&self, target: &Target) -> Vec<(u32, IpAddr)> {
        let address = target.destination.address;
        let (prefixes, observed) = (&self.prefixes, &self.observed);
        if target.is_direct() {
            let prefix = prefixes.iter().find(|p| p.prefix.contains(address));
            let place = prefix.and_then(|prefix| prefix.place);
            return place.iter().map(|place| (place.interface, address)).collect();
        }
        let routes = &self.config.routes;
        routing::neighbours(address, routes, prefixes, &self.ports, observed).into_keys().collect()
    }

    /// Keeps the tables that are what they would be made now.
    fn keep_tables(&mut self) {
        for (key, balanced) in &mut self.services {
            let entries = entries(&balanced.targets);
            if self.tables.is_of(balanced.table, &entries) {
                balanced.entries = entries;
                self.stale.remove(key);
            } else {
                self.stale.insert(*key);
            }
        }
    }

    /// Learns the path MTUs of tunnels that the last process had learned, before any way
    /// is written anew: its ways take less than they would.
    fn remember_path_mtus(&mut self) {
        let mut learned = Vec::new();
        for Balanced { service, targets, .. } in self.services.values() {
            for target in targets.values().filter(|target| !target.is_direct()) {
                let left = self.way_records(target).map(|(way, _)| way.mtu + target.overhead());
                let (_, ways) = self.resolve(service, &target.destination, &target.ways);
                let found = ways.iter().map(|way| way.hop.mtu).min();
                if let (Some(left), Some(found)) = (left.min(), found)
                    && left < found
                {
                    learned.push((target.destination.address, left));
                }
            }
        }
        let now = Instant::now();
        for (server, mtu) in learned {
            self.path_mtus.learn(server, mtu, now);
        }
    }

    /// Writes all records, should any be half-written.
    fn write_all(&mut self) {
        let services = std::mem::take(&mut self.services);
        for balanced in services.values() {
            for target in balanced.targets.values() {
                self.write_target(balanced, target);
            }
            self.write_service(balanced, self.vips[&balanced.service.address].id);
        }
        self.services = services;
    }
}

/// What was found and no call has named since.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    services: BTreeSet<ServiceKey>,
    destinations: BTreeMap<ServiceKey, BTreeSet<IpAddr>>,
}

impl Inherited {
    fn add(&mut self, service: ServiceKey, destinations: BTreeSet<IpAddr>) {
        self.services.insert(service);
        if !destinations.is_empty() {
            self.destinations.insert(service, destinations);
        }
    }

    /// A call has named the service; whether that was one.
    pub(super) fn take_service(&mut self, service: ServiceKey) -> bool {
        self.services.remove(&service)
    }

    /// A call has named all of its destinations.
    pub(super) fn take_destinations(&mut self, service: ServiceKey) {
        self.destinations.remove(&service);
    }

    /// A call has named a destination.
    pub(super) fn take_destination(&mut self, service: ServiceKey, address: IpAddr) {
        if let Some(destinations) = self.destinations.get_mut(&service) {
            destinations.remove(&address);
            if destinations.is_empty() {
                self.destinations.remove(&service);
            }
        }
    }

    pub(super) fn has_service(&self, service: ServiceKey) -> bool {
        self.services.contains(&service)
    }

    pub(super) fn has_destination(&self, service: ServiceKey, address: IpAddr) -> bool {
        self.destinations.get(&service).is_some_and(|all| all.contains(&address))
    }

    /// All of it, by service.
    pub(super) fn all(&self) -> Vec<(ServiceKey, Vec<IpAddr>)> {
        let services: BTreeSet<ServiceKey> =
            self.services.iter().chain(self.destinations.keys()).copied().collect();
        let destinations = |key| self.destinations.get(key).into_iter().flatten().copied();
        services.iter().map(|key| (*key, destinations(key).collect())).collect()
    }
}
