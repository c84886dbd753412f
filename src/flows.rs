//! The flows that the data plane remembers: told, and counted.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use crate::Instance;
use crate::Protocol;
use crate::Result;
use crate::ServiceKey;
use crate::bpf::DestinationRecord;
use crate::bpf::FlowKey;
use crate::bpf::FlowRecord;
use crate::bpf::FlowStateCode;
use crate::bpf::Gauge;
use crate::bpf::Maps;
use crate::bpf::Tick;
use crate::clock::duration;
use crate::clock::now_tick;

/// How far a TCP connection is, as its client's packets tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FlowState {
    /// Neither FIN nor RST was seen.
    Open,
    /// The client sent FIN or RST.
    Closing,
}

/// A flow that the data plane remembers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Flow {
    /// The client.
    pub source: SocketAddr,
    /// The service.
    pub service: ServiceKey,
    /// The real server it goes to; `None` when that is removed.
    pub destination: Option<IpAddr>,
    /// How far it is.
    pub state: FlowState,
    /// How long it has been silent, within 2 seconds.
    pub idle: Duration,
}

impl Instance {
    /// Flows that are alive, at most so many, in no order.
    pub fn flows(&self, limit: usize) -> Result<Vec<Flow>> {
        let mut flows = Vec::new();
        let now = now_tick();
        self.maps.flows.for_each(|key, record| {
            if flows.len() == limit {
                return ControlFlow::Break(());
            }
            if live(&self.maps, record, now).is_some() {
                flows.extend(self.flow(&key, record, now));
            }
            ControlFlow::Continue(())
        })?;
        Ok(flows)
    }

    /// A record as the types of the API.
    pub(crate) fn flow(&self, key: &FlowKey, record: &FlowRecord, now: u32) -> Option<Flow> {
        Some(Flow {
            source: SocketAddr::new(key.source, key.source_port),
            service: ServiceKey {
                address: key.destination,
                port: key.destination_port,
                protocol: Protocol::from_number(key.protocol)?,
            },
            destination: self.destination_address(record.slot, record.generation),
            state: if closing(record) { FlowState::Closing } else { FlowState::Open },
            idle: duration(silence(record, now)),
        })
    }
}

/// The destination of a flow while it lives, as `flow_destination` in
/// `bpf/flow.h` has it.
pub(crate) fn live(maps: &Maps, flow: &FlowRecord, now: u32) -> Option<DestinationRecord> {
    if flow.slot >= maps.destinations.len() {
        return None;
    }
    let destination = maps.destinations.read(flow.slot);
    let limit = if closing(flow) { destination.closing } else { destination.idle };
    let same = destination.generation == flow.generation;
    (same && silence(flow, now) <= limit).then_some(destination)
}

/// Whether the client has sent FIN or RST.
pub(crate) fn closing(flow: &FlowRecord) -> bool {
    flow.state == FlowStateCode::XVS_FLOW_CLOSING
}

/// The ticks since a flow's last packet, which may have come after `now`.
pub(crate) fn silence(flow: &FlowRecord, now: u32) -> u32 {
    (now.wrapping_sub(flow.seen) as i32).max(0).cast_unsigned()
}

/// Counts all flows by destination and writes what has changed for readers,
/// unless it is stopped before it is done.
pub(crate) fn count(maps: &Maps, stopped: impl Fn() -> bool) -> Result<()> {
    /// So many flows are counted between two looks at `stopped`.
    const LOOK: u32 = 4096;
    let now = now_tick();
    let mut gauges = vec![Gauge::default(); maps.gauges.len() as usize];
    maps.flows.for_each(|key, flow| {
        gauges[0].flows = gauges[0].flows.saturating_add(1);
        if gauges[0].flows.is_multiple_of(LOOK) && stopped() {
            return ControlFlow::Break(());
        }
        if live(maps, flow, now).is_none() {
            return ControlFlow::Continue(());
        }
        let open = key.protocol == Protocol::Tcp.number() && !closing(flow);
        let recent = silence(flow, now) <= Tick::XVS_TICKS_RECENT.0;
        let gauge = &mut gauges[flow.slot as usize];
        gauge.flows += 1;
        gauge.active += u32::from(open);
        gauge.recent += u32::from(recent);
        ControlFlow::Continue(())
    })?;
    if stopped() {
        return Ok(());
    }
    for (slot, gauge) in (0..).zip(&gauges) {
        let old = maps.gauges.read(slot);
        if (old.active, old.recent, old.flows) != (gauge.active, gauge.recent, gauge.flows) {
            maps.gauges.write(slot, gauge);
        }
    }
    Ok(())
}
