//! An instance as its pinned maps show it, to any process that may read them.

mod left;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::Config;
use crate::DestinationExtended;
use crate::DestinationStatus;
use crate::Drain;
use crate::Error;
use crate::Info;
use crate::Interface;
use crate::Mac;
use crate::Mode;
use crate::Offload;
use crate::OnExit;
use crate::Prefix;
use crate::Protocol;
use crate::Result;
use crate::Service;
use crate::ServiceExtended;
use crate::ServiceKey;
use crate::ServiceStatus;
use crate::Stats;
use crate::Tunnel;
use crate::Vip;
use crate::VlanInfo;
use crate::VlanStatus;
use crate::bpf::CardRecord;
use crate::bpf::DestinationInfo;
use crate::bpf::Directory;
use crate::bpf::Maps;
use crate::bpf::OffloadCode;
use crate::bpf::PATHS;
use crate::bpf::PrefixRecord;
use crate::bpf::ServiceRecord;
use crate::bpf::StatusCode;
use crate::bpf::VlanCode;
use crate::bpf::octets_address;
use crate::bpf::record_name;
use crate::clock::duration;
use crate::clock::now_ns;
use crate::clock::now_tick;
use crate::config::validate_instance;
use crate::control::retire::refused_since;
use crate::control::retire::since;
use crate::host;
use crate::host::NeighbourInfo;
use crate::offloads;

pub use left::Detached;
pub use left::PutBack;

/// A running instance, seen from any process that may read its pins.
///
/// Everything it tells is read when it is asked for.
#[derive(Clone, Debug)]
pub struct Instance {
    name: String,
    pub(crate) maps: Arc<Maps>,
}

impl Instance {
    /// Opens the instance of this name.
    ///
    /// # Errors
    ///
    /// When there is none, it was made by another version, or its pins may
    /// not be read.
    pub fn open(bpffs: &Path, name: &str) -> Result<Self> {
        validate_instance(name)?;
        Ok(Self { name: name.to_owned(), maps: Arc::new(Maps::open(bpffs, name)?) })
    }

    pub(crate) fn new(name: &str, maps: Arc<Maps>) -> Self {
        Self { name: name.to_owned(), maps }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The names of the instances there are.
    pub fn list(bpffs: &Path) -> Result<Vec<String>> {
        Directory::list(bpffs)
    }

    /// The state of the instance as a whole.
    pub fn info(&self) -> Result<Info> {
        Ok(self.settled(|| self.read_info()))
    }

    /// Whether it has not ended: another one of the same name that was started later is
    /// not this one, but one that was taken over is.
    pub fn is_current(&self) -> bool {
        self.maps.is_current()
    }

    /// Whether the thread is in the network namespace that the instance runs in.
    pub fn is_here(&self) -> bool {
        let netns = self.maps.instance.read(0).netns;
        host::network_namespace().is_ok_and(|here| here == netns)
    }

    fn read_info(&self) -> Info {
        let record = self.maps.instance.read(0);
        let found = self.gather();
        let mut stats = found.former();
        for vip in found.vips().values() {
            stats.add(&vip.stats);
        }
        // What happened to foreign packets is known of all packets only.
        stats.reasons = Default::default();
        let (mut time, mut samples, mut flows_replaced) = (0, 0, 0);
        for row in 0..self.maps.cpus.len() {
            let cpu = self.maps.cpus.read(row);
            stats.reasons.add_counts(&cpu.reasons);
            time += cpu.sample_ns;
            samples += cpu.samples;
            flows_replaced += cpu.replaced;
        }
        Info {
            instance: self.name.clone(),
            process: record.process,
            uptime: Duration::from_nanos(now_ns().saturating_sub(record.started_ns)),
            interfaces: self.interfaces(),
            services: found.services.len() as u32,
            services_limit: record.settings.services - 1,
            destinations: found.destinations.iter().map(Vec::len).sum::<usize>() as u32,
            destinations_limit: record.settings.destinations - 1,
            flows: u64::from(self.maps.gauges.read(0).flows),
            flows_limit: record.flows,
            flows_replaced,
            table_size: record.settings.table_size,
            persist: OnExit::from_keep_ns(record.keep_ns),
            latency: u64::checked_div(time, samples),
            stats,
            sharing: self.sharing(),
        }
    }

    /// What the program is on.
    fn interfaces(&self) -> Vec<Interface> {
        let record = self.maps.interfaces.read(0);
        let attached = record.list.iter().take_while(|i| i.ifindex != 0);
        let offloads = |index, of: fn(&CardRecord) -> OffloadCode| {
            let cards = self.cards().filter(|card| card.device == index);
            let found: BTreeSet<Offload> =
                cards.flat_map(|card| offloads::of_codes(of(&card))).collect();
            found.into_iter().collect()
        };
        attached
            .map(|i| Interface {
                index: i.ifindex,
                name: record_name(&i.name),
                mode: if i.generic != 0 { Mode::Generic } else { Mode::Native },
                offloads_off: offloads(i.ifindex, |card| card.offloads_off),
                offloads_on: offloads(i.ifindex, |card| card.offloads_on),
            })
            .collect()
    }

    /// The VLANs as configured, without the routes.
    pub fn config(&self) -> Result<Config> {
        let prefixes = self.prefixes();
        Ok(prefixes.fold(Config::default(), |config, (prefix, record)| {
            let id = record.vlan as u16;
            let config = config.vlan(id, prefix);
            if record.limit == 0 { config } else { config.mtu(id, record.limit) }
        }))
    }

    /// The prefixes of the VLANs, each with its interface and why it cannot be
    /// reached, if it cannot.
    pub fn vlans(&self) -> Result<Vec<VlanInfo>> {
        let some = |octets| Some(octets).filter(|o| *o != [0; 16]).map(octets_address);
        let number = |number| Some(number).filter(|number| *number != 0);
        let vlan = |(prefix, record): (Prefix, PrefixRecord)| VlanInfo {
            id: record.vlan as u16,
            prefix,
            status: vlan_status(record.status),
            interface: number(record.ifindex),
            tag: number(record.tag).map(|tag| tag as u16),
            address: some(record.own),
            gateway: some(record.gateway),
            mtu: number(record.mtu),
        };
        Ok(self.prefixes().map(vlan).collect())
    }

    fn prefixes(&self) -> impl Iterator<Item = (Prefix, PrefixRecord)> + '_ {
        let count = self.maps.instance.read(0).prefixes.min(self.maps.prefixes.len());
        (0..count).filter_map(|i| {
            let record = self.maps.prefixes.read(i);
            let address = octets_address(record.address);
            let length =
                if address.is_ipv4() { record.length.checked_sub(96)? } else { record.length };
            Some((Prefix::containing(address, length as u8)?, record))
        })
    }

    /// The neighbour entries that the destinations need, as the network
    /// namespace that the thread is in has them. A destination without an
    /// entry, or in no prefix, is left out.
    pub fn neighbours(&self) -> Result<Vec<NeighbourInfo>> {
        let needed = self.neighbours_needed()?;
        let mut all = host::neighbours()?;
        all.retain(|n| needed.contains(&(n.interface, n.address)));
        Ok(all)
    }

    /// The interfaces and addresses of the destinations' neighbours.
    pub(crate) fn neighbours_needed(&self) -> Result<BTreeSet<(u32, IpAddr)>> {
        let vlans = self.vlans()?;
        let found = self.gather();
        Ok(found
            .destinations
            .iter()
            .flatten()
            .filter_map(|slot| {
                let address = octets_address(self.maps.destination_infos.read(*slot).address);
                let vlan = vlans.iter().find(|vlan| vlan.prefix.contains(address))?;
                Some((vlan.interface?, address))
            })
            .collect())
    }

    /// The cards whose offloads were on.
    fn cards(&self) -> impl Iterator<Item = CardRecord> {
        let cards = self.maps.cards.read(0);
        cards.list.into_iter().filter(|card| card.ifindex != 0)
    }

    /// All services, by address, port and protocol.
    pub fn services(&self) -> Result<Vec<ServiceExtended>> {
        Ok(self.settled(|| {
            let found = self.gather();
            found.services.iter().map(|(id, service)| found.service(*id, service).0).collect()
        }))
    }

    /// One service.
    pub fn service(&self, service: &Service) -> Result<ServiceExtended> {
        self.settled(|| {
            let found = self.gather();
            let (id, service) = found.find(service.key())?;
            Ok(found.service(id, service).0)
        })
    }

    /// The destinations of a service, by address.
    pub fn destinations(&self, service: &Service) -> Result<Vec<DestinationExtended>> {
        self.settled(|| {
            let found = self.gather();
            let (id, _) = found.find(service.key())?;
            Ok(found.destinations(id))
        })
    }

    /// All services, by address, port and protocol, each with its
    /// destinations, by address: everything is read once, so that sums agree.
    pub fn all(&self) -> Result<Vec<(ServiceExtended, Vec<DestinationExtended>)>> {
        Ok(self.settled(|| {
            let found = self.gather();
            found.services.iter().map(|(id, service)| found.service(*id, service)).collect()
        }))
    }

    /// All virtual addresses.
    pub fn vips(&self) -> Result<Vec<Vip>> {
        Ok(self.settled(|| self.gather().vips().into_values().collect()))
    }

    /// One virtual address.
    pub fn vip(&self, address: IpAddr) -> Result<Vip> {
        let vip = self.settled(|| self.gather().vips().remove(&address));
        vip.ok_or(Error::VipNotFound { address })
    }

    /// The slots of all destinations.
    pub(crate) fn slots(&self) -> Result<Vec<u32>> {
        Ok(self.settled(|| self.gather().destinations.concat()))
    }

    /// The destination of a slot.
    pub(crate) fn destination(&self, slot: u32, info: &DestinationInfo) -> DestinationExtended {
        self.destination_by(slot, info, 0)
    }

    /// The same as packets reach it by one of the ways through its tunnel.
    pub(crate) fn destination_by(
        &self,
        slot: u32,
        info: &DestinationInfo,
        path: u32,
    ) -> DestinationExtended {
        let destination = info.destination();
        let (way, source) = if destination.tunnel == Tunnel::None {
            (self.maps.destinations.read(slot).way, None)
        } else {
            let record = self.maps.tunnels.read(slot * PATHS + path);
            (record.way, Some(octets_address(record.source)))
        };
        let known = way.ifindex != 0;
        DestinationExtended {
            drain: destination.disabled.then(|| self.drain(slot, info)),
            destination,
            status: status(info.status),
            mac: known.then_some(Mac(way.mac)),
            interface: known.then_some(way.ifindex),
            mtu: known.then_some(way.mtu),
            source: source.filter(|_| known),
            stats: self.traffic(slot, info),
        }
    }

    /// How far a disabled destination is.
    fn drain(&self, slot: u32, info: &DestinationInfo) -> Drain {
        let gauge = self.maps.gauges.read(slot);
        let since = Duration::from_nanos(now_ns().saturating_sub(info.disabled_ns));
        let seconds = Duration::from_nanos(gauge.interval).as_secs_f64();
        let newest = now_tick().wrapping_sub(gauge.newest);
        let left = |time| Duration::from_nanos(time).saturating_sub(since);
        Drain {
            flows: u64::from(gauge.flows),
            packets_per_second: (seconds > 0.0).then(|| gauge.packets as f64 / seconds),
            newest: (gauge.flows > 0).then(|| duration(newest)),
            since,
            left: Some(info.deadline_ns).filter(|time| *time != 0).map(left),
            done: info.drained != 0,
        }
    }

    /// The address of a slot's destination, unless the slot was used anew
    /// since this generation.
    pub(crate) fn destination_address(&self, slot: u32, generation: u32) -> Option<IpAddr> {
        if slot >= self.maps.destination_infos.len() {
            return None;
        }
        let info = self.maps.destination_infos.read(slot);
        (info.service != 0 && info.generation == generation).then(|| octets_address(info.address))
    }

    fn traffic(&self, slot: u32, info: &DestinationInfo) -> Stats {
        let gauge = self.maps.gauges.read(slot);
        let mut stats = Stats {
            active: u64::from(gauge.active),
            recent: u64::from(gauge.recent),
            live: u64::from(gauge.flows),
            ..Default::default()
        };
        stats.add_traffic(&since(self.maps.traffic_of_slot(slot), info.base));
        stats
    }

    /// What is read when no counters move from one record to another, so that
    /// sums agree. A process that died while they did is not waited for.
    fn settled<T>(&self, read: impl Fn() -> T) -> T {
        const TRIES: usize = 100;
        for _ in 0..TRIES {
            let before = self.maps.instance.read(0).changes;
            if before.is_multiple_of(2) {
                let value = read();
                if self.maps.instance.read(0).changes == before {
                    return value;
                }
            }
            thread::yield_now();
        }
        read()
    }

    /// What services and destinations there are.
    fn gather(&self) -> Found<'_> {
        let used = |id: &u32| self.maps.services.read(*id).used != 0;
        let services = (1..self.maps.services.len())
            .filter(used)
            .filter_map(|id| Some((id, Known::new(&self.maps.services.read(id))?)));
        let mut services: Vec<(u32, Known)> = services.collect();
        services.sort_by_key(|(_, known)| known.service.key());
        let infos = &self.maps.destination_infos;
        let mut destinations = vec![Vec::new(); self.maps.services.len() as usize];
        for slot in 1..infos.len() {
            let service = infos.read(slot).service as usize;
            if service != 0
                && let Some(slots) = destinations.get_mut(service)
            {
                slots.push(slot);
            }
        }
        Found { instance: self, services, destinations }
    }
}

/// A service's record as the types of the API.
struct Known {
    service: Service,
    vip: u32,
}

impl Known {
    /// `None` for a record that is just being written or removed.
    fn new(record: &ServiceRecord) -> Option<Self> {
        Some(Self { service: record.service()?, vip: record.vip })
    }
}

impl ServiceRecord {
    /// The service as configured.
    pub(crate) fn service(&self) -> Option<Service> {
        let protocol = Protocol::from_number(self.protocol)?;
        let address = octets_address(self.address);
        let service = Service::new(address, u16::from_be(self.port), protocol)
            .sticky(self.sticky != 0)
            .idle(Duration::from_nanos(self.idle_ns))
            .closing(Duration::from_nanos(self.closing_ns))
            .new_flows(self.new_flows)
            .transition(Duration::from_millis(self.transition_ms.into()));
        (self.used != 0).then_some(service)
    }
}

/// What there is at one moment.
struct Found<'a> {
    instance: &'a Instance,
    services: Vec<(u32, Known)>,
    /// The slots in use, by the id of their service.
    destinations: Vec<Vec<u32>>,
}

impl Found<'_> {
    fn find(&self, key: ServiceKey) -> Result<(u32, &Known)> {
        let (id, known) = self
            .services
            .iter()
            .find(|(_, known)| known.service.key() == key)
            .ok_or(Error::ServiceNotFound { service: key })?;
        Ok((*id, known))
    }

    /// The destinations of a service, by address.
    fn destinations(&self, service: u32) -> Vec<DestinationExtended> {
        let infos = &self.instance.maps.destination_infos;
        let slots = self.destinations[service as usize].iter();
        let mut all: Vec<DestinationExtended> =
            slots.map(|slot| self.instance.destination(*slot, &infos.read(*slot))).collect();
        all.sort_by_key(|d| d.destination.address);
        all
    }

    /// A service with its destinations.
    fn service(&self, id: u32, known: &Known) -> (ServiceExtended, Vec<DestinationExtended>) {
        let maps = &self.instance.maps;
        let mut stats = retired(maps, id);
        let former = maps.retired.read(id);
        let refused = refused_since(maps.refused_by_service(id), former.base);
        stats.reasons.add_counts(&refused.reasons);
        stats.limited += maps.limited(id).saturating_sub(former.limited_base);
        let destinations = self.destinations(id);
        let (mut usable, mut obstacle) = (0, None);
        for DestinationExtended { destination, status, stats: traffic, .. } in &destinations {
            stats.add(traffic);
            match status {
                _ if destination.disabled => {}
                DestinationStatus::Reachable => usable += 1,
                status => obstacle = Some((destination.address, *status)),
            }
        }
        let is_built = maps.services.read(id).table != 0;
        let status = match obstacle {
            _ if usable > 0 && !is_built => ServiceStatus::Starting,
            _ if usable > 0 => ServiceStatus::Forwarding,
            _ if destinations.is_empty() => ServiceStatus::Empty,
            Some((address, status)) => ServiceStatus::Unreachable(address, status),
            None => ServiceStatus::Disabled,
        };
        let service = ServiceExtended {
            service: known.service.clone(),
            status,
            destinations: destinations.len(),
            usable: if is_built { usable } else { 0 },
            stats,
        };
        (service, destinations)
    }

    fn vips(&self) -> BTreeMap<IpAddr, Vip> {
        let maps = &self.instance.maps;
        let mut vips = BTreeMap::new();
        for (id, known) in &self.services {
            let address = known.service.address;
            let vip = vips.entry(address).or_insert_with(|| {
                let index = maps.retired_vip(known.vip);
                let mut stats = retired(maps, index);
                let base = maps.retired.read(index).base;
                let refused = refused_since(maps.refused_by_vip(known.vip), base);
                stats.reasons.add_counts(&refused.reasons);
                Vip { address, services: 0, stats }
            });
            vip.services += 1;
            vip.stats.add(&self.service(*id, known).0.stats);
        }
        vips
    }

    /// The traffic of virtual addresses that are gone.
    fn former(&self) -> Stats {
        retired(&self.instance.maps, 0)
    }
}

fn retired(maps: &Maps, index: u32) -> Stats {
    let record = maps.retired.read(index);
    let mut stats = Stats::default();
    stats.add_traffic(&record.traffic);
    stats.limited = record.limited;
    stats.reasons.add_counts(&record.refused.reasons);
    stats
}

/// What a code of a destination's status means.
pub(crate) fn status(code: StatusCode) -> DestinationStatus {
    match code {
        StatusCode::XVS_REACHABLE => DestinationStatus::Reachable,
        StatusCode::XVS_NO_PREFIX => DestinationStatus::NoPrefix,
        StatusCode::XVS_INTERFACE_DOWN => DestinationStatus::InterfaceDown,
        StatusCode::XVS_NO_NEIGHBOUR => DestinationStatus::NoNeighbour,
        StatusCode::XVS_NO_INTERFACE => DestinationStatus::NoInterface,
        StatusCode::XVS_MTU_TOO_SMALL => DestinationStatus::MtuTooSmall,
        StatusCode::XVS_NOT_ATTACHED => DestinationStatus::NotAttached,
        StatusCode::XVS_NO_ROUTE => DestinationStatus::NoRoute,
        StatusCode::XVS_NO_ADDRESS => DestinationStatus::NoAddress,
        _ => DestinationStatus::Resolving,
    }
}

/// What a code of a prefix's status means.
pub(crate) fn vlan_status(code: VlanCode) -> VlanStatus {
    match code {
        VlanCode::XVS_VLAN_USABLE => VlanStatus::Usable,
        VlanCode::XVS_VLAN_ELSEWHERE => VlanStatus::Elsewhere,
        VlanCode::XVS_VLAN_DOWN => VlanStatus::Down,
        VlanCode::XVS_VLAN_MTU_TOO_SMALL => VlanStatus::MtuTooSmall,
        VlanCode::XVS_VLAN_NOT_ATTACHED => VlanStatus::NotAttached,
        _ => VlanStatus::NoInterface,
    }
}
