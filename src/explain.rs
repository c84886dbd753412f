//! Where a packet would go, and why: the data plane's rules over its records,
//! without sending anything.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::DestinationExtended;
use crate::Error;
use crate::Flow;
use crate::Instance;
use crate::Protocol;
use crate::Result;
use crate::Service;
use crate::ServiceKey;
use crate::bpf::CHUNK;
use crate::bpf::FlowKey;
use crate::bpf::ServiceRecord;
use crate::bpf::Settings;
use crate::bpf::StoredFlow;
use crate::bpf::Tick;
use crate::bpf::address_octets;
use crate::clock::now_tick;
use crate::control::key_record;
use crate::flows;
use crate::hash::HashKey;

/// The packet that is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// Its protocol.
    pub protocol: Protocol,
    /// The client's address.
    pub source: IpAddr,
    /// The client's port; `None` asks about all of them.
    pub source_port: Option<u16>,
    /// The virtual address.
    pub destination: IpAddr,
    /// The service's port.
    pub destination_port: u16,
    /// Whether it opens a TCP connection.
    pub syn: bool,
}

/// What would happen to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The host's own stack gets it.
    Pass,
    /// It is dropped.
    Drop,
    /// It is sent to a destination.
    Forward,
}

/// What would happen to a packet, and what that follows from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Explanation {
    /// What would happen.
    pub verdict: Verdict,
    /// Why: the name of one of the [`Reasons`](crate::Reasons).
    pub reason: &'static str,
    /// The service it is for.
    pub service: Option<Service>,
    /// The flow that it belongs to.
    pub flow: Option<Flow>,
    /// The destination it would go to.
    pub destination: Option<DestinationExtended>,
    /// The entry of the service's table that the hash chose.
    pub table_index: Option<u32>,
    /// Whether that is an entry of the table from before the last change
    /// ([`Service::transition`]).
    pub is_previous: bool,
    /// When no source port was given and the answer depends on it: the share
    /// of each destination in the present table, by address.
    pub shares: Vec<(IpAddr, f64)>,
}

impl Explanation {
    const fn new(verdict: Verdict, reason: &'static str) -> Self {
        Self {
            verdict,
            reason,
            service: None,
            flow: None,
            destination: None,
            table_index: None,
            is_previous: false,
            shares: Vec::new(),
        }
    }
}

impl Instance {
    /// Tells where a packet would go; nothing is sent or changed.
    ///
    /// # Errors
    ///
    /// When the packet's addresses are of different families, or the maps
    /// cannot be read.
    pub fn explain(&self, packet: &Packet) -> Result<Explanation> {
        if packet.source.is_ipv4() != packet.destination.is_ipv4() {
            return Err(Error::MixedFamilies {
                source: packet.source,
                destination: packet.destination,
            });
        }
        if self.maps.vip_ids.get(&address_octets(packet.destination))?.is_none() {
            return Ok(Explanation::new(Verdict::Pass, "not_vip"));
        }
        if self.maps.is_unattended() {
            return Ok(Explanation::new(Verdict::Pass, "unattended"));
        }
        let key = ServiceKey {
            address: packet.destination,
            port: packet.destination_port,
            protocol: packet.protocol,
        };
        let Some(id) = self.maps.service_ids.get(&key_record(key))? else {
            return Ok(Explanation::new(Verdict::Drop, "no_service"));
        };
        let tuple = FlowKey {
            source: packet.source,
            destination: packet.destination,
            source_port: packet.source_port.unwrap_or_default(),
            destination_port: packet.destination_port,
            protocol: packet.protocol.number(),
        };
        let syn = packet.syn && packet.protocol == Protocol::Tcp;
        loop {
            let mut record = self.maps.services.read(id);
            let tables = (record.previous, record.table);
            if syn || packet.protocol != Protocol::Tcp || is_over(&record, now_tick()) {
                record.previous = 0;
            }
            let mut explanation = match packet.source_port {
                Some(_) => self.explain_tuple(&tuple, &record, syn)?,
                None if record.sticky != 0 => self.explain_hash(&tuple, &record, syn)?,
                None => self.explain_shares(&record, syn)?,
            };
            explanation.service = record.service();
            // A table that the service has left may be another one's by now.
            let now = self.maps.services.read(id);
            if (now.previous, now.table) == tables {
                return Ok(explanation);
            }
        }
    }

    fn explain_tuple(
        &self,
        tuple: &FlowKey,
        record: &ServiceRecord,
        syn: bool,
    ) -> Result<Explanation> {
        let now = now_tick();
        let Some(flow) = self.maps.flow(tuple).filter(|flow| flows::is_live(flow, now)) else {
            return self.explain_hash(tuple, record, syn);
        };
        if syn && !takes_syn(&flow, now) {
            return self.explain_hash(tuple, record, syn);
        }
        let mut explanation = if flow.destination.way.ifindex == 0 {
            Explanation::new(Verdict::Drop, "no_destination")
        } else {
            Explanation::new(Verdict::Forward, "forwarded_flow")
        };
        explanation.flow = self.flow(&flow, now);
        explanation.destination = Some(self.destination_of_slot(flow.slot, self.path(tuple)));
        Ok(explanation)
    }

    fn explain_hash(
        &self,
        tuple: &FlowKey,
        record: &ServiceRecord,
        syn: bool,
    ) -> Result<Explanation> {
        let settings = self.settings();
        let key = HashKey { k0: settings.k0, k1: settings.k1 };
        let index = match record.sticky {
            0 => tuple.index(key, settings.table_size),
            _ => tuple.sticky_index(key, settings.table_size),
        };
        let usable = |table| -> Result<Option<u32>> {
            let slot = self.table_slot(record, table, index)?;
            Ok(slot.filter(|slot| self.has_way(*slot)))
        };
        let previous = usable(record.previous)?;
        let Some(slot) = previous.map_or_else(|| usable(record.table), |slot| Ok(Some(slot)))?
        else {
            return Ok(Explanation::new(Verdict::Drop, "no_destination"));
        };
        let mut explanation = Explanation::new(Verdict::Forward, chosen(syn));
        explanation.is_previous = previous.is_some();
        explanation.table_index = Some(index);
        explanation.destination = Some(self.destination_of_slot(slot, self.path(tuple)));
        Ok(explanation)
    }

    fn explain_shares(&self, record: &ServiceRecord, syn: bool) -> Result<Explanation> {
        let size = self.settings().table_size;
        let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
        let chunks = if record.table == 0 { 0 } else { size.div_ceil(CHUNK) };
        for number in 0..chunks {
            let chunk = self.maps.tables.read(record.table, number)?;
            let entries = (size - number * CHUNK) as usize;
            for slot in chunk.slot.iter().take(entries) {
                *counts.entry(*slot).or_default() += 1;
            }
        }
        counts.retain(|slot, _| self.is_slot_of(*slot, record));
        if counts.is_empty() {
            return Ok(Explanation::new(Verdict::Drop, "no_destination"));
        }
        let mut explanation = Explanation::new(Verdict::Forward, chosen(syn));
        explanation.shares = counts
            .into_iter()
            .map(|(slot, count)| {
                let address = self.destination_of_slot(slot, 0).destination.address;
                (address, f64::from(count) / f64::from(size))
            })
            .collect();
        explanation.shares.sort_by_key(|(address, _)| *address);
        Ok(explanation)
    }

    /// The slot that one of the service's tables has at an index.
    fn table_slot(&self, record: &ServiceRecord, table: u32, index: u32) -> Result<Option<u32>> {
        if table == 0 {
            return Ok(None);
        }
        let chunk = self.maps.tables.read(table, index / CHUNK)?;
        let slot = chunk.slot[(index % CHUNK) as usize];
        Ok(Some(slot).filter(|slot| self.is_slot_of(*slot, record)))
    }

    /// Whether a slot is of a destination of the service: the table may have
    /// been written over meanwhile.
    fn is_slot_of(&self, slot: u32, record: &ServiceRecord) -> bool {
        if slot >= self.maps.destinations.len() {
            return false;
        }
        let destination = self.maps.destinations.read(slot);
        destination.service != 0
            && destination.address == record.address
            && destination.port == record.port
            && destination.protocol == record.protocol
    }

    fn has_way(&self, slot: u32) -> bool {
        self.maps.destinations.read(slot).way.ifindex != 0
    }

    fn destination_of_slot(&self, slot: u32, path: u32) -> DestinationExtended {
        self.destination_by(slot, &self.maps.destination_infos.read(slot), path)
    }

    /// The way of a packet through a tunnel, as `tunnel_find` in `bpf/tunnel.h` has it.
    fn path(&self, tuple: &FlowKey) -> u32 {
        let settings = self.settings();
        let hash = tuple.hash(HashKey { k0: settings.k0, k1: settings.k1 });
        (hash >> 62) as u32
    }

    fn settings(&self) -> Settings {
        self.maps.instance.read(0).settings
    }
}

/// Whether the table from before the service's last change counts no more, as
/// `service_slot` in `bpf/service.h` has it.
const fn is_over(record: &ServiceRecord, now: u32) -> bool {
    (record.until.wrapping_sub(now) as i32) < 0
}

/// The reason of a packet whose destination the hash chose.
const fn chosen(syn: bool) -> &'static str {
    if syn { "forwarded_syn" } else { "forwarded_new" }
}

/// Whether a SYN goes to the flow's destination, as `flow_takes_syn` in
/// `bpf/flow.h` has it.
fn takes_syn(flow: &StoredFlow, now: u32) -> bool {
    !flow.closing() && flow.silence(now) <= Tick::XVS_TICKS_SYN.0
}
