//! The thread that counts flows, apart from the one that hears of changes:
//! reading a large table takes time.

use std::time::Duration;
use std::time::Instant;

use crate::ServiceKey;
use crate::bpf::Maps;
use crate::client::Shared;
use crate::clock::now_ns;
use crate::flood::FloodWatch;
use crate::flows;

/// Flows are counted again after this, or after as long as makes counting a
/// tenth of one CPU's work.
const SHORTEST: Duration = Duration::from_secs(2);
/// They are counted again after this at the latest, so that no count is older
/// than five seconds as long as counting takes less than one.
const LONGEST: Duration = Duration::from_secs(4);

/// It is looked so often whether a deadline has been set that comes earlier.
const LOOK: Duration = Duration::from_millis(250);

/// Runs until the client is dropped.
pub(crate) fn run(shared: &Shared, maps: &Maps) {
    let mut leftover = flows::Leftover::default();
    let mut floods = FloodWatch::default();
    loop {
        let (start, began) = (Instant::now(), now_ns());
        flows::count(maps, &mut leftover, || shared.stopped());
        if shared.stopped() {
            return;
        }
        shared.control().follow_drains(began);
        floods.look(limited(maps)).into_iter().for_each(|event| shared.events.push(event));
        if wait(shared, start) {
            return;
        }
    }
}

/// Waits for the next count: for a destination's deadline if that comes before the
/// others are due, but most of the time all the same. Whether the client is dropped.
fn wait(shared: &Shared, start: Instant) -> bool {
    let took = start.elapsed();
    let (earliest, latest) = (start + took * 3, start + (took * 10).clamp(SHORTEST, LONGEST));
    loop {
        let now = Instant::now();
        let deadline = shared.control().next_deadline();
        let due = deadline.map_or(latest, |left| latest.min(earliest.max(now + left)));
        if now >= due {
            return false;
        }
        if shared.wait_for_stop((due - now).min(LOOK)) {
            return true;
        }
    }
}

/// How many packets of each service were over its limit since it began.
fn limited(maps: &Maps) -> Vec<(ServiceKey, u64)> {
    let services = (1..maps.services.len()).filter_map(|id| {
        let service = maps.services.read(id).service()?;
        let base = maps.retired.read(id).limited_base;
        Some((service.key(), maps.limited(id).saturating_sub(base)))
    });
    services.collect()
}
