//! All maps of an instance, from the loaded program or from their pins.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::ops::ControlFlow;

use libbpf_rs::MapHandle;

use super::Array;
use super::Hash;
use super::types::*;
use crate::Result;
use crate::hash::Tuple;

/// The maps that the control plane and readers of an instance use.
#[derive(Debug)]
pub(crate) struct Maps {
    pub(crate) gate: Array<Gate>,
    pub(crate) flows: Flows,
    pub(crate) destinations: Array<DestinationRecord>,
    pub(crate) service_ids: Hash<ServiceKeyRecord, u32>,
    pub(crate) services: Array<ServiceRecord>,
    pub(crate) tables: Hash<ChunkKey, Chunk>,
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
    /// Takes each map by its name.
    pub(super) fn new(open: impl Fn(&'static str) -> Result<MapHandle>) -> Result<Self> {
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
        Ok(Self {
            gate: array("gate", &open)?,
            flows: Flows { v4: hash("flows4", &open)?, v6: hash("flows6", &open)? },
            destinations: array("destinations", &open)?,
            service_ids: hash("service_ids", &open)?,
            services: array("services", &open)?,
            tables: hash("tables", &open)?,
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

/// The flow tables of both families. Nothing else knows what they are made of.
#[derive(Debug)]
pub(crate) struct Flows {
    v4: Hash<Flow4Key, FlowRecord>,
    v6: Hash<Flow6Key, FlowRecord>,
}

/// A flow's addresses, ports and protocol.
pub(crate) type FlowKey = Tuple;

impl Flows {
    /// What is known of a flow.
    pub(crate) fn get(&self, key: &FlowKey) -> Result<Option<FlowRecord>> {
        match (key.source, key.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => self.v4.get(&Flow4Key {
                saddr: u32::from_ne_bytes(source.octets()),
                daddr: u32::from_ne_bytes(destination.octets()),
                sport: key.source_port.to_be(),
                dport: key.destination_port.to_be(),
                protocol: key.protocol,
                pad: [0; 3],
            }),
            (IpAddr::V6(source), IpAddr::V6(destination)) => self.v6.get(&Flow6Key {
                saddr: source.octets(),
                daddr: destination.octets(),
                sport: key.source_port.to_be(),
                dport: key.destination_port.to_be(),
                protocol: key.protocol,
                pad: [0; 3],
            }),
            _ => Ok(None),
        }
    }

    /// Calls `each` with every flow, of both families, until it breaks.
    pub(crate) fn for_each(
        &self,
        mut each: impl FnMut(FlowKey, &FlowRecord) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut broken = false;
        self.v4.for_each(|key, flow| {
            let key = FlowKey {
                source: Ipv4Addr::from(key.saddr.to_ne_bytes()).into(),
                destination: Ipv4Addr::from(key.daddr.to_ne_bytes()).into(),
                source_port: u16::from_be(key.sport),
                destination_port: u16::from_be(key.dport),
                protocol: key.protocol,
            };
            let flow = each(key, flow);
            broken = flow.is_break();
            flow
        })?;
        if broken {
            return Ok(());
        }
        self.v6.for_each(|key, flow| {
            let key = FlowKey {
                source: Ipv6Addr::from(key.saddr).into(),
                destination: Ipv6Addr::from(key.daddr).into(),
                source_port: u16::from_be(key.sport),
                destination_port: u16::from_be(key.dport),
                protocol: key.protocol,
            };
            each(key, flow)
        })
    }
}
