//! Wanted state (what the API was told) and observed state (the network) in,
//! the data plane's records out. Only what differs is written.
//!
//! A change is prepared first: numbers are taken and the lookup table is
//! written, where no packet sees them. What can fail has failed by then. Only
//! after that are the records written that packets follow.

mod adopt;
mod calls;
mod drain;
mod follow;
mod gate;
mod ids;
mod nat;
pub(crate) mod records;
pub(crate) mod retire;
mod share;
mod tables;
mod transition;
mod ways;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::Config;
use crate::Destination;
use crate::DestinationStatus;
use crate::Error;
use crate::Event;
use crate::Options;
use crate::Prefix;
use crate::Result;
use crate::Service;
use crate::ServiceKey;
use crate::Tunnel;
use crate::VlanStatus;
use crate::bpf::Gate;
use crate::bpf::Maps;
use crate::bpf::NatRecord;
use crate::bpf::ServiceRecord;
use crate::bpf::address_octets;
use crate::event::Events;
use crate::hash::HashKey;
use crate::maglev::Member;
use crate::nat::NatPrefixes;
use crate::net::Snapshot;
use crate::pathmtu::PathMtus;
use crate::ports::Port;
use crate::routing::Way;
use crate::vlans::VlanPrefix;
use adopt::Inherited;
use drain::Drained;
use drain::Drains;
use ids::Ids;
use nat::Origin;
pub(crate) use records::key_record;
use tables::Entry;
use tables::Tables;
use transition::Transition;

/// A service as it is in the data plane.
#[derive(Debug)]
struct Balanced {
    service: Service,
    id: u32,
    table: u32,
    /// What the table was made of.
    entries: Vec<Entry>,
    targets: BTreeMap<IpAddr, Target>,
    transition: Transition,
}

impl Balanced {
    /// Whether its table is made of these entries. What one is made of that another process
    /// has left is not known.
    fn has_table_of(&self, entries: &[Entry]) -> bool {
        self.entries == entries && (self.table == 0) == entries.is_empty()
    }
}

/// A destination as it is in the data plane.
#[derive(Clone, Debug)]
struct Target {
    destination: Destination,
    slot: u32,
    status: DestinationStatus,
    /// The ways there, also while no neighbour answers: flows keep them. Of
    /// those through a tunnel there may be several.
    ways: Vec<Way>,
    /// The number of its NAT address.
    nat: u32,
    /// What probes of it are sent from, if there is a way.
    origin: Option<Origin>,
    /// What is known of its last flows, if it is disabled.
    drained: Option<Drained>,
}

/// A virtual address as it is in the data plane.
#[derive(Debug)]
struct Virtual {
    id: u32,
    services: usize,
}

/// The state of the data plane and what it follows from.
#[derive(Debug)]
pub(crate) struct Control {
    maps: Arc<Maps>,
    events: Arc<Events>,
    config: Config,
    ports: Vec<Port>,
    /// The members of bonds among them, and whether they can be used.
    members: BTreeMap<String, bool>,
    prefixes: Vec<VlanPrefix>,
    /// What was told of each prefix last.
    vlan_statuses: BTreeMap<Prefix, VlanStatus>,
    /// The network as last heard of; [`Self::observe`] follows a change.
    pub(crate) observed: Snapshot,
    services: BTreeMap<ServiceKey, Balanced>,
    /// The longest packets that tunnels' paths take, where that was learned.
    path_mtus: PathMtus,
    /// Services whose table does not fit their destinations any more.
    stale: BTreeSet<ServiceKey>,
    /// When services' transitions end, and may have ended before.
    ends: BTreeSet<(Instant, ServiceKey)>,
    /// Those whose table could not be built, until [`Self::retry`].
    unbuilt: BTreeSet<ServiceKey>,
    /// Whether what [`Self::neighbours`] follows from may have changed.
    pub(crate) neighbours_changed: bool,
    vips: BTreeMap<IpAddr, Virtual>,
    /// The gate as it was written last.
    gate: Box<Gate>,
    limits: Limits,
    service_ids: Ids,
    vip_ids: Ids,
    slots: Ids,
    /// Numbers of NAT addresses.
    nats: Ids,
    /// What could not be written of them so far; `None`: the number is to lead nowhere.
    nats_due: BTreeMap<u32, Option<NatRecord>>,
    /// The first NAT addresses, which are the host's own.
    nat: NatPrefixes,
    /// By slot; a flow that names another generation is a miss.
    generations: Vec<u32>,
    tables: Tables,
    inherited: Inherited,
    drains: Drains,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    services: u32,
    destinations: u32,
    table_size: u32,
}

impl Control {
    /// The state of a data plane; nothing is written yet.
    pub(crate) fn new(
        options: &Options,
        maps: Arc<Maps>,
        events: Arc<Events>,
        ports: Vec<Port>,
        observed: Snapshot,
    ) -> Self {
        Self {
            tables: Tables::new(
                Arc::clone(&maps),
                options.table_size,
                HashKey::from(options.hash_key),
                options.services,
            ),
            maps,
            events,
            config: options.config.clone(),
            ports,
            members: BTreeMap::new(),
            prefixes: Vec::new(),
            vlan_statuses: BTreeMap::new(),
            observed,
            services: BTreeMap::new(),
            path_mtus: PathMtus::default(),
            stale: BTreeSet::new(),
            ends: BTreeSet::new(),
            unbuilt: BTreeSet::new(),
            neighbours_changed: true,
            vips: BTreeMap::new(),
            gate: Box::default(),
            limits: Limits {
                services: options.services,
                destinations: options.destinations,
                table_size: options.table_size,
            },
            service_ids: Ids::new(options.services),
            vip_ids: Ids::new(options.services),
            slots: Ids::new(options.destinations),
            nats: Ids::new(options.nat_prefixes().numbers()),
            nats_due: BTreeMap::new(),
            nat: options.nat_prefixes(),
            generations: vec![1; options.destinations as usize + 1],
            inherited: Inherited::default(),
            drains: Drains::new(),
        }
    }

    /// Begins with a data plane that has no services.
    pub(crate) fn start(mut self) -> Self {
        self.write_gate();
        self.tell_members();
        self.find_vlans();
        self
    }

    /// How many blocks of lookup tables the data plane needs room for.
    pub(crate) fn table_blocks(options: &Options) -> u32 {
        Tables::blocks(options.services)
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// The service and its destinations as configured.
    pub(crate) fn service(&self, key: ServiceKey) -> Result<(Service, Vec<Destination>)> {
        let balanced = self.services.get(&key).ok_or(Error::ServiceNotFound { service: key })?;
        let destinations = balanced.targets.values().map(|t| t.destination.clone()).collect();
        Ok((balanced.service.clone(), destinations))
    }

    /// Makes the service exactly so, whole or not at all.
    fn set_service(&mut self, service: &Service, destinations: Vec<Destination>) -> Result<()> {
        service.validate()?;
        self.check_nat(service.address, "VIP")?;
        let mut wanted = BTreeMap::new();
        for destination in destinations {
            destination.validate()?;
            let address = destination.address;
            self.check_nat(address, "server")?;
            if wanted.insert(address, destination).is_some() {
                return Err(Error::DestinationExists { service: service.key(), address });
            }
        }
        self.check_limits(service.key(), &wanted)?;
        let prepared = self.prepare(service, wanted)?;
        let new_vip = !self.vips.contains_key(&service.address);
        self.commit(prepared)?;
        if new_vip {
            self.follow_vip(service.address);
        }
        Ok(())
    }

    /// Follows that a VIP is one now, or no longer: while it is, no tunnel's packets
    /// are sent from it.
    fn follow_vip(&mut self, vip: IpAddr) {
        let concerns = |target: &Target| {
            target.status == DestinationStatus::NoAddress
                || target.origin.is_none_or(|origin| origin.address == vip)
                || target.ways.iter().any(|way| way.local == vip)
        };
        let mut targets = self.services.values().flat_map(|b| b.targets.values());
        if self.observed.is_own(vip) && targets.any(concerns) {
            self.refresh();
            self.rebuild(Duration::MAX);
        }
    }

    fn check_limits(&self, key: ServiceKey, wanted: &BTreeMap<IpAddr, Destination>) -> Result<()> {
        let present = self.services.get(&key);
        if present.is_none() && self.service_ids.left() == 0 {
            return Err(Error::LimitExceeded {
                limit: "services",
                maximum: self.limits.services as usize,
                remedy: "`Options::services` raises it",
            });
        }
        if wanted.len() > self.limits.table_size as usize {
            return Err(Error::LimitExceeded {
                limit: "destinations of one service",
                maximum: self.limits.table_size as usize,
                remedy: "`Options::table_size` raises it",
            });
        }
        let known = |a: &&IpAddr| present.is_some_and(|b| b.targets.contains_key(*a));
        let new = wanted.keys().filter(|a| !known(a)).count();
        let gone =
            present.map_or(0, |b| b.targets.keys().filter(|a| !wanted.contains_key(*a)).count());
        if new > self.slots.left() + gone {
            return Err(Error::LimitExceeded {
                limit: "destinations",
                maximum: self.limits.destinations as usize,
                remedy: "`Options::destinations` raises it",
            });
        }
        Ok(())
    }

    /// Takes numbers and writes the table of a service to be. When that
    /// fails, nothing has changed.
    fn prepare(
        &mut self,
        service: &Service,
        wanted: BTreeMap<IpAddr, Destination>,
    ) -> Result<Prepared> {
        let key = service.key();
        let full = Error::LimitExceeded {
            limit: "destinations",
            maximum: self.limits.destinations as usize,
            remedy: "`Options::destinations` raises it, or remove some before others are added",
        };
        self.write_due_nats();
        let senders = self.senders();
        let mut taken = Vec::new();
        let mut targets = BTreeMap::new();
        for (address, destination) in wanted {
            let old = self.services.get(&key).and_then(|b| b.targets.get(&address));
            // A server's neighbour is not that of a tunnel to it.
            let is_direct = destination.tunnel == Tunnel::None;
            let same = old.filter(|t| t.is_direct() == is_direct);
            let last = same.map_or_else(Vec::new, |t| t.ways.clone());
            let old = old.cloned();
            let drained = Drained::of(&destination, old.as_ref());
            let slot = match old.as_ref().map(|t| t.slot) {
                Some(slot) => slot,
                None => match self.slots.take() {
                    Some(slot) => {
                        // What was stored while nobody had the slot is a miss.
                        self.next_generation(slot);
                        self.open_slot(slot);
                        slot
                    }
                    None => {
                        self.give_back(&taken);
                        return Err(full);
                    }
                },
            };
            let (status, ways) = self.resolve(service, &destination, &last);
            let origin = self.origin(service.address, &ways, &senders);
            let nat = match old {
                Some(target) => target.nat,
                None => match self.take_nat(slot, origin) {
                    Ok(nat) => {
                        taken.push((slot, nat));
                        nat
                    }
                    Err(error) => {
                        self.slots.free(slot);
                        self.give_back(&taken);
                        return Err(error);
                    }
                },
            };
            let target = Target { destination, slot, status, ways, nat, origin, drained };
            targets.insert(address, target);
        }
        let present = self.services.get(&key);
        let entries = entries(&targets);
        let (table, id, vip) = match present {
            Some(b) if b.has_table_of(&entries) => (Ok(b.table), b.id, 0),
            Some(b) => {
                let id = b.id;
                (self.build_table(&entries), id, 0)
            }
            None => {
                let table = self.build_table(&entries);
                // SANITY: there are as many as services, and one is left.
                let id = self.service_ids.take().expect("the limit was checked");
                self.open_service(id);
                let vip = match self.vips.get(&service.address) {
                    Some(vip) => vip.id,
                    None => {
                        let vip = self.vip_ids.take();
                        // SANITY: every VIP has a service.
                        let vip = vip.expect("there are no more VIPs than services");
                        self.open_vip(vip);
                        vip
                    }
                };
                (table, id, vip)
            }
        };
        let prepared = Prepared { service: service.clone(), id, vip, table: 0, entries, targets };
        match table {
            Ok(table) => Ok(Prepared { table, ..prepared }),
            Err(error) => {
                self.give_back(&taken);
                self.abandon_ids(&prepared);
                Err(error)
            }
        }
    }

    fn give_back(&mut self, taken: &[(u32, u32)]) {
        for (slot, nat) in taken {
            self.slots.free(*slot);
            self.put_back_nat(*nat);
        }
    }

    /// Gives back the ids of a service that comes to nothing.
    fn abandon_ids(&mut self, prepared: &Prepared) {
        if !self.services.contains_key(&prepared.service.key()) {
            self.service_ids.free(prepared.id);
            if !self.vips.contains_key(&prepared.service.address) {
                self.vip_ids.free(prepared.vip);
            }
        }
    }

    /// Writes the records that packets follow.
    fn commit(&mut self, prepared: Prepared) -> Result<()> {
        let key = prepared.service.key();
        let Prepared { service, id, vip, table, entries, targets } = prepared;
        let transition = Transition::new(Instant::now());
        let mut balanced = Balanced { service, id, table, entries, targets, transition };
        let mut old = self.services.remove(&key);
        let (vip, replaced) = match &mut old {
            Some(old) => (self.vips[&key.address].id, self.succeed(old, &mut balanced)),
            None => (vip, [0; 2]),
        };
        for target in balanced.targets.values() {
            self.write_target(&balanced, target);
        }
        self.write_service(&balanced, vip);
        replaced.into_iter().for_each(|table| self.tables.retire(table));
        self.neighbours_changed |= old.as_ref().is_none_or(|old| {
            let asked = |t: &Target| (t.destination.address, t.is_direct());
            !old.targets.values().map(asked).eq(balanced.targets.values().map(asked))
        });

        self.services.insert(key, balanced);
        match old {
            None => self.publish(key, vip),
            Some(old) => {
                let new = &self.services[&key];
                if new.table != old.table {
                    let destinations = new.entries.len();
                    self.events.push(Event::TableRebuilt { service: key, destinations });
                }
                let gone: Vec<Target> = old
                    .targets
                    .into_values()
                    .filter(|t| !new.targets.contains_key(&t.destination.address))
                    .collect();
                self.count_change();
                for target in gone {
                    self.retire_target(id, &target);
                }
                self.count_change();
                self.note_drains(key);
                Ok(())
            }
        }
    }

    /// Makes packets find a service whose records are written. When that
    /// fails, the service is gone again.
    fn publish(&mut self, key: ServiceKey, vip: u32) -> Result<()> {
        let new_vip = !self.vips.contains_key(&key.address);
        self.vips.entry(key.address).or_insert(Virtual { id: vip, services: 0 }).services += 1;
        let id = self.services[&key].id;
        let result = if new_vip {
            self.maps.vip_ids.insert(&address_octets(key.address), &vip)
        } else {
            Ok(())
        };
        if new_vip {
            self.write_gate();
        }
        let result = result.and_then(|()| self.maps.service_ids.insert(&key_record(key), &id));
        if result.is_err() {
            if new_vip {
                // It may not have been put, and then it is not missed.
                let _ = self.maps.vip_ids.remove(&address_octets(key.address));
            }
            let targets = self.services.get_mut(&key).map(|b| std::mem::take(&mut b.targets));
            targets.iter().flat_map(BTreeMap::values).for_each(|t| self.abandon_target(t));
            self.forget_service(key);
        } else {
            self.maps.service_hints.write(gate::hint_index(key), &u64::from(id));
        }
        result
    }

    /// Removes a service with all its destinations.
    fn remove_service(&mut self, key: ServiceKey) -> Result<()> {
        if !self.services.contains_key(&key) {
            return Err(Error::ServiceNotFound { service: key });
        }
        self.maps.service_ids.remove(&key_record(key))?;
        let last = self.vips.get(&key.address).is_some_and(|vip| vip.services == 1);
        if last && let Err(error) = self.maps.vip_ids.remove(&address_octets(key.address)) {
            self.maps.service_ids.insert(&key_record(key), &self.services[&key].id)?;
            return Err(error);
        }
        self.forget_service(key);
        if last {
            self.follow_vip(key.address);
        }
        Ok(())
    }

    /// Removes the records of a service that packets do not find any more.
    fn forget_service(&mut self, key: ServiceKey) {
        let Some(balanced) = self.services.remove(&key) else {
            return;
        };
        self.neighbours_changed = true;
        self.count_change();
        self.maps.services.write(balanced.id, &ServiceRecord::default());
        self.tables.retire(balanced.table);
        self.forget_transition(&balanced);
        for target in balanced.targets.values() {
            self.retire_target(balanced.id, target);
        }
        if let Some(vip) = self.vips.get_mut(&key.address) {
            vip.services -= 1;
            let (vip, last) = (vip.id, vip.services == 0);
            self.retire_service(balanced.id, vip);
            self.service_ids.free(balanced.id);
            if last {
                self.vips.remove(&key.address);
                self.write_gate();
                self.retire_vip(vip);
                self.vip_ids.free(vip);
            }
        }
        self.count_change();
    }

    /// Sets the VLANs; destinations follow.
    pub(crate) fn set_config(&mut self, config: Config) -> Result<()> {
        config.validate()?;
        self.config = config;
        self.find_vlans();
        self.refresh();
        self.rebuild(Duration::MAX);
        Ok(())
    }
}

/// What is ready to be committed.
struct Prepared {
    service: Service,
    id: u32,
    vip: u32,
    table: u32,
    entries: Vec<Entry>,
    targets: BTreeMap<IpAddr, Target>,
}

/// The destinations that get new flows.
fn entries(targets: &BTreeMap<IpAddr, Target>) -> Vec<Entry> {
    targets
        .values()
        .filter(|t| !t.destination.disabled && t.status == DestinationStatus::Reachable)
        .map(|t| {
            let Destination { address, weight, .. } = t.destination;
            (Member { address, weight }, t.slot)
        })
        .collect()
}
