//! How long the data plane goes on without a process.

use std::sync::Arc;
use std::time::Duration;

use crate::bpf::Maps;
use crate::client::Shared;

/// A process says that it is there so often in the time that it may be away.
const BEATS: u32 = 4;
/// And after this at the latest.
const LONGEST: Duration = Duration::from_secs(1);

/// Says again and again that there is a process, until the client is dropped. No lock
/// is waited for.
pub(crate) fn run(shared: &Shared, maps: &Maps, time: Duration) {
    loop {
        maps.renew_lease(time);
        if shared.wait_for_stop((time / BEATS).min(LONGEST)) {
            return;
        }
    }
}

/// The lease of a data plane that is being taken over: it does not run out meanwhile,
/// and is as it was if that comes to nothing.
#[derive(Debug)]
pub(crate) struct Suspended {
    maps: Arc<Maps>,
    lease: u32,
}

impl Suspended {
    pub(crate) fn new(maps: &Arc<Maps>) -> Self {
        let lease = maps.lease();
        maps.set_lease(0);
        Self { maps: Arc::clone(maps), lease }
    }

    /// The data plane has a process again, which sees to the lease from now on.
    pub(crate) fn end(mut self) {
        self.lease = self.maps.lease();
    }
}

impl Drop for Suspended {
    fn drop(&mut self) {
        self.maps.set_lease(self.lease);
    }
}
