//! All maps of an instance, from the loaded program or from their pins.

use std::io;
use std::path::Path;

use libbpf_rs::MapHandle;

use super::Array;
use super::Hash;
use super::TableMemory;
use super::types::*;
use crate::Error;
use crate::Result;

/// The maps that the control plane and readers of an instance use.
#[derive(Debug)]
pub(crate) struct Maps {
    pub(crate) gate: Array<Gate>,
    pub(super) flows4: Array<FlowGroup4>,
    pub(super) flows6: Array<FlowGroup6>,
    pub(super) tags4: Array<FlowTags>,
    pub(super) tags6: Array<FlowTags>,
    pub(crate) destinations: Array<DestinationRecord>,
    pub(crate) service_ids: Hash<ServiceKeyRecord, u32>,
    pub(crate) service_hints: Array<u64>,
    pub(crate) services: Array<ServiceRecord>,
    pub(crate) tables: TableMemory,
    pub(crate) vip_ids: Hash<[u8; 16], u32>,
    pub(crate) cpus: Array<Cpu>,
    pub(crate) traffic: Array<Traffic>,
    pub(crate) service_refused: Array<Refused>,
    pub(crate) vip_refused: Array<Refused>,
    pub(crate) instance: Array<InstanceRecord>,
    pub(crate) prefixes: Array<PrefixRecord>,
    pub(crate) destination_infos: Array<DestinationInfo>,
    pub(crate) gauges: Array<Gauge>,
    pub(crate) retired: Array<Retired>,
}

impl Maps {
    /// Opens the maps that are pinned in a folder.
    pub(super) fn pinned(path: &Path) -> Result<Self> {
        fn array<T: Record>(
            name: &'static str,
            open: impl Fn(&'static str) -> Result<MapHandle>,
        ) -> Result<Array<T>> {
            Array::new(name, &open(name)?)
        }
        fn hash<K: Record, V: Record>(
            name: &'static str,
            open: impl Fn(&'static str) -> Result<MapHandle>,
        ) -> Result<Hash<K, V>> {
            Hash::new(name, open(name)?)
        }
        let open = |name| {
            MapHandle::from_pinned_path(path.join(name)).map_err(|error| Error::Map {
                map: name,
                operation: "opening",
                source: io::Error::other(error.to_string()),
            })
        };
        Ok(Self {
            gate: array("gate", &open)?,
            flows4: array("flows4", &open)?,
            flows6: array("flows6", &open)?,
            tags4: array("tags4", &open)?,
            tags6: array("tags6", &open)?,
            destinations: array("destinations", &open)?,
            service_ids: hash("service_ids", &open)?,
            service_hints: array("service_hints", &open)?,
            services: array("services", &open)?,
            tables: TableMemory::new(open("tables")?, path),
            vip_ids: hash("vip_ids", &open)?,
            cpus: array("cpus", &open)?,
            traffic: array("traffic", &open)?,
            service_refused: array("service_refused", &open)?,
            vip_refused: array("vip_refused", &open)?,
            instance: array("instance", &open)?,
            prefixes: array("prefixes", &open)?,
            destination_infos: array("destination_infos", &open)?,
            gauges: array("gauges", &open)?,
            retired: array("retired", &open)?,
        })
    }
}
