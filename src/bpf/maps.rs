//! All maps of an instance, from the loaded program or from their pins.

use std::mem::offset_of;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use libbpf_rs::MapHandle;

use super::Array;
use super::Hash;
use super::Ports;
use super::TableMemory;
use super::map_fault;
use super::pin::identity;
use super::types::*;
use crate::Result;
use crate::clock::now_tick;
use crate::clock::ticks;

/// The maps that the control plane and readers of an instance use.
#[derive(Debug)]
pub(crate) struct Maps {
    /// Where they are pinned.
    pub(super) folder: PathBuf,
    /// [`identity`] of the pins.
    pins: (u64, u64),
    pub(crate) gate: Array<Gate>,
    pub(super) flows4: Array<FlowGroup4>,
    pub(super) flows6: Array<FlowGroup6>,
    pub(super) tags4: Array<FlowTags>,
    pub(super) tags6: Array<FlowTags>,
    pub(crate) destinations: Array<DestinationRecord>,
    pub(crate) tunnels: Array<TunnelRecord>,
    pub(crate) service_ids: Hash<ServiceKeyRecord, u32>,
    pub(crate) service_hints: Array<u64>,
    pub(crate) services: Array<ServiceRecord>,
    pub(crate) tables: TableMemory,
    pub(crate) vip_ids: Hash<[u8; 16], u32>,
    pub(crate) ports: Ports,
    pub(crate) nats: Hash<u32, NatRecord>,
    pub(crate) probe_link: Array<ProbeLinkRecord>,
    pub(crate) cpus: Array<Cpu>,
    pub(crate) traffic: Array<Traffic>,
    pub(crate) service_refused: Array<Refused>,
    pub(crate) vip_refused: Array<Refused>,
    pub(crate) inflows: Array<Inflow>,
    pub(crate) instance: Array<InstanceRecord>,
    pub(crate) interfaces: Array<InterfacesRecord>,
    pub(crate) cards: Array<CardsRecord>,
    pub(crate) prefixes: Array<PrefixRecord>,
    pub(crate) destination_infos: Array<DestinationInfo>,
    pub(crate) gauges: Array<Gauge>,
    pub(crate) retired: Array<Retired>,
    pub(super) flow_news: MapHandle,
    pub(crate) share: Array<ShareRecord>,
    pub(crate) event_log: Array<EventRecord>,
}

impl Maps {
    /// Opens the maps that are pinned in a folder.
    pub(super) fn pinned(path: &Path) -> Result<Self> {
        fn open(path: &Path, name: &'static str) -> Result<MapHandle> {
            MapHandle::from_pinned_path(path.join(name))
                .map_err(|error| map_fault(name, "opening", &error))
        }
        fn array<T: Record>(path: &Path, name: &'static str) -> Result<Array<T>> {
            Array::new(name, &open(path, name)?)
        }
        fn hash<K: Record, V: Record>(path: &Path, name: &'static str) -> Result<Hash<K, V>> {
            Hash::new(name, open(path, name)?)
        }
        // First: what is pinned in their place meanwhile is another.
        let pins = identity(path)?;
        Ok(Self {
            folder: path.to_owned(),
            pins,
            gate: array(path, "gate")?,
            flows4: array(path, "flows4")?,
            flows6: array(path, "flows6")?,
            tags4: array(path, "tags4")?,
            tags6: array(path, "tags6")?,
            destinations: array(path, "destinations")?,
            tunnels: array(path, "tunnels")?,
            service_ids: hash(path, "service_ids")?,
            service_hints: array(path, "service_hints")?,
            services: array(path, "services")?,
            tables: TableMemory::new(open(path, "tables")?, path),
            vip_ids: hash(path, "vip_ids")?,
            ports: Ports::new(
                hash(path, "ports")?,
                hash(path, "frags_ports")?,
                hash(path, "port_devices")?,
            ),
            nats: hash(path, "nats")?,
            probe_link: array(path, "probe_link")?,
            cpus: array(path, "cpus")?,
            traffic: array(path, "traffic")?,
            service_refused: array(path, "service_refused")?,
            vip_refused: array(path, "vip_refused")?,
            inflows: array(path, "inflows")?,
            instance: array(path, "instance")?,
            interfaces: array(path, "interfaces")?,
            cards: array(path, "cards")?,
            prefixes: array(path, "prefixes")?,
            destination_infos: array(path, "destination_infos")?,
            gauges: array(path, "gauges")?,
            retired: array(path, "retired")?,
            flow_news: open(path, "flow_news")?,
            share: array(path, "share")?,
            event_log: array(path, "event_log")?,
        })
    }

    /// Whether these are the maps that are pinned in the folder still.
    pub(crate) fn is_current(&self) -> bool {
        identity(&self.folder).is_ok_and(|pins| pins == self.pins)
    }

    /// The number of the event that is at an index of the log.
    pub(crate) fn event_number(&self, index: u32) -> u64 {
        const WORD: usize = offset_of!(EventRecord, number) / size_of::<u64>();
        self.event_log.words(index)[WORD].load(Ordering::Acquire)
    }

    /// Has all CPUs find that a service's last flows were stored in this tick, while they
    /// count beside that.
    pub(crate) fn end_inflows(&self, service: u32, tick: u32) {
        let inflow = Inflow { tick, left: 0, ..Default::default() };
        let word = octets(&inflow).first_chunk().copied().map_or(0, u64::from_ne_bytes);
        let services = self.services.len();
        for row in 0..self.inflows.len() / services {
            self.inflows.words(row * services + service)[0].store(word, Ordering::Release);
        }
    }

    /// The tick until which packets are forwarded without a process; 0: no limit.
    pub(crate) fn lease(&self) -> u32 {
        self.cpus.read(0).lease as u32
    }

    /// Whether no process has said for too long that it is there.
    pub(crate) fn is_unattended(&self) -> bool {
        let lease = self.lease();
        lease != 0 && now_tick().wrapping_sub(lease).cast_signed() > 0
    }

    /// Sets it for all CPUs, while they count beside it.
    pub(crate) fn set_lease(&self, tick: u32) {
        const WORD: usize = offset_of!(Cpu, lease) / size_of::<u64>();
        for row in 0..self.cpus.len() {
            self.cpus.words(row)[WORD].store(tick.into(), Ordering::Release);
        }
    }

    /// Lets packets be forwarded for so long from now on.
    pub(crate) fn renew_lease(&self, time: Duration) {
        // Ticks are counted whole, and 0 has a meaning of its own.
        let until = now_tick().wrapping_add(ticks(time) + 1);
        self.set_lease(until.max(1));
    }
}
