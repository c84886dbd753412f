//! The flows that the data plane remembers: told, and counted.

mod filter;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use crate::Instance;
use crate::Protocol;
use crate::Result;
use crate::ServiceKey;
use crate::bpf::At;
use crate::bpf::Gauge;
use crate::bpf::Maps;
use crate::bpf::StoredFlow;
use crate::bpf::Tick;
use crate::clock::duration;
use crate::clock::now_ns;
use crate::clock::now_tick;
pub use filter::FlowFilter;

/// How far a TCP connection is, as its client's packets tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FlowState {
    /// Neither FIN nor RST was seen.
    Open,
    /// The client sent FIN or RST.
    Closing,
}

/// In how many ticks of 2^30 ns (1.07 s) packets of a flow came: the older a flow is
/// known to be, the longer it may be silent before another takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FlowAge {
    /// In one.
    Once,
    /// In two.
    Twice,
    /// In three.
    Thrice,
    /// In four or more.
    Often,
}

/// A flow that the data plane remembers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Flow {
    /// The client.
    pub source: SocketAddr,
    /// The service.
    pub service: ServiceKey,
    /// The real server it goes to; `None` when that was removed just now.
    pub destination: Option<IpAddr>,
    /// How far it is.
    pub state: FlowState,
    /// How long it has been silent, within 2 seconds.
    pub idle: Duration,
    /// How old it is known to be.
    pub age: FlowAge,
}

impl Instance {
    /// Flows that are alive, at most so many, in no order.
    pub fn flows(&self, limit: usize) -> Result<Vec<Flow>> {
        self.flows_matching(&FlowFilter::new(), limit)
    }

    /// Flows that are alive and match, at most so many, in no order.
    pub fn flows_matching(&self, filter: &FlowFilter, limit: usize) -> Result<Vec<Flow>> {
        let mut flows = Vec::new();
        self.each_flow(filter, |flow| {
            if flows.len() == limit {
                return ControlFlow::Break(());
            }
            flows.push(flow);
            ControlFlow::Continue(())
        });
        Ok(flows)
    }

    /// How many flows are alive and match, by service and real server; `None` for
    /// servers that were removed just now.
    pub fn count_flows(
        &self,
        filter: &FlowFilter,
    ) -> Result<BTreeMap<(ServiceKey, Option<IpAddr>), u64>> {
        let mut counts = BTreeMap::new();
        self.each_flow(filter, |flow| {
            *counts.entry((flow.service, flow.destination)).or_default() += 1;
            ControlFlow::Continue(())
        });
        Ok(counts)
    }

    fn each_flow(&self, filter: &FlowFilter, mut each: impl FnMut(Flow) -> ControlFlow<()>) {
        let now = now_tick();
        self.maps.for_each_flow(|place| {
            let live = place.flow.as_ref().filter(|flow| is_live(flow, now));
            match live.and_then(|flow| self.flow(flow, now)).filter(|flow| filter.matches(flow)) {
                Some(flow) => each(flow),
                None => ControlFlow::Continue(()),
            }
        });
    }

    /// A flow as the types of the API.
    pub(crate) fn flow(&self, flow: &StoredFlow, now: u32) -> Option<Flow> {
        Some(Flow {
            source: flow.source(),
            service: flow.service()?,
            destination: self.destination_address(flow.slot, flow.destination.generation),
            state: flow.state(),
            idle: duration(flow.silence(now)),
            age: match flow.age() {
                0 => FlowAge::Once,
                1 => FlowAge::Twice,
                2 => FlowAge::Thrice,
                _ => FlowAge::Often,
            },
        })
    }
}

/// Whether a flow is alive, as `flow_find` in `bpf/flow.h` has it.
pub(crate) const fn is_live(flow: &StoredFlow, now: u32) -> bool {
    flow.silence(now) <= flow.limit()
}

/// Whether a flow is dead for every CPU, whose clocks may be behind a little.
const fn is_dead(flow: &StoredFlow, now: u32) -> bool {
    const MARGIN: u32 = 4;
    flow.silence(now) > flow.limit() + MARGIN
}

/// What a count of all flows leaves for the next one.
#[derive(Debug, Default)]
pub(crate) struct Leftover {
    /// Places that were half-written. What still is has been left so.
    half_written: Vec<At>,
    /// When traffic was read last, and the packets of each disabled destination, by
    /// slot.
    traffic: (u64, HashMap<u32, u64>),
}

/// Counts all flows by destination, writes what has changed for readers, and
/// frees the places of dead flows, unless it is stopped before it is done.
pub(crate) fn count(maps: &Maps, leftover: &mut Leftover, stopped: impl Fn() -> bool) {
    /// So many flows are counted between two looks at `stopped`.
    const LOOK: u32 = 4096;
    let mut now = now_tick();
    let mut places = 0u32;
    let before = std::mem::take(&mut leftover.half_written);
    let mut gauges = vec![Gauge::default(); maps.gauges.len() as usize];
    maps.for_each_flow(|place| {
        places = places.wrapping_add(1);
        if places.is_multiple_of(LOOK) {
            now = now_tick();
            if stopped() {
                return ControlFlow::Break(());
            }
        }
        if place.is_half_written() && !before.contains(&place.at) {
            leftover.half_written.push(place.at);
            return ControlFlow::Continue(());
        }
        // A flow that was seen since this thread last looked at the clock seems
        // to have been silent for ever: it may have slept.
        let dead = |flow: &StoredFlow| is_dead(flow, now) && is_dead(flow, now_tick());
        let Some(flow) = place.flow.as_ref().filter(|flow| !dead(flow)) else {
            place.free();
            return ControlFlow::Continue(());
        };
        if !is_live(flow, now) {
            return ControlFlow::Continue(());
        }
        let open = flow.key.protocol == Protocol::Tcp.number() && !flow.closing();
        let recent = flow.silence(now) <= Tick::XVS_TICKS_RECENT.0;
        gauges[0].flows += 1;
        let seen = now.wrapping_sub(flow.silence(now));
        let gauge = &mut gauges[flow.slot as usize];
        if gauge.flows == 0 || (seen.wrapping_sub(gauge.newest) as i32) > 0 {
            gauge.newest = seen;
        }
        gauge.flows += 1;
        gauge.active += u32::from(open);
        gauge.recent += u32::from(recent);
        ControlFlow::Continue(())
    });
    if stopped() {
        return;
    }
    leftover.traffic = rate(maps, &leftover.traffic, &mut gauges);
    for (slot, gauge) in (0..).zip(&gauges) {
        maps.gauges.write(slot, gauge);
    }
}

/// Puts down what traffic disabled destinations had since it was read last, and
/// returns what there is to compare with next time.
fn rate(
    maps: &Maps,
    (last, before): &(u64, HashMap<u32, u64>),
    gauges: &mut [Gauge],
) -> (u64, HashMap<u32, u64>) {
    let now = now_ns();
    let mut packets = HashMap::new();
    for (slot, gauge) in (0..).zip(gauges) {
        if maps.destination_infos.read(slot).disabled == 0 {
            continue;
        }
        let counted = maps.traffic_of_slot(slot).packets;
        if let Some(before) = before.get(&slot) {
            gauge.packets = counted - before;
            gauge.interval = now - last;
        }
        packets.insert(slot, counted);
    }
    (now, packets)
}
