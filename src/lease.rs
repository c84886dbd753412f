//! How long the data plane goes on without a process.

use std::sync::Arc;
use std::time::Duration;

use crate::OnExit;
use crate::bpf::Maps;
use crate::client::Shared;

/// A process says that it is there so often in the time that it may be away.
const BEATS: u32 = 4;
/// And after this at the latest.
const LONGEST: Duration = Duration::from_secs(1);

/// Says again and again that there is a process, until the client is dropped. It waits
/// for no lock that others hold while they wait for the kernel.
pub(crate) fn run(shared: &Shared, maps: &Maps, time: Duration) {
    loop {
        maps.renew_lease(time);
        if shared.wait_for_stop((time / BEATS).min(LONGEST)) {
            return;
        }
    }
}

/// A take-over is given so long before a lease that has not run out yet does.
const TAKE_OVER: Duration = Duration::from_secs(300);
/// The same for what is done between the end of its process's threads and its own.
const SHUTDOWN: Duration = Duration::from_secs(60);

/// Has a lease outlast the end of a process, which says afterwards how long it is.
pub(crate) fn extend(maps: &Maps, time: Duration) {
    maps.renew_lease(time + SHUTDOWN);
}

/// Says how long packets are forwarded without a process that is there now.
pub(crate) fn set(maps: &Maps, on_exit: OnExit) {
    match on_exit {
        OnExit::KeepFor(time) => maps.renew_lease(time),
        OnExit::Keep | OnExit::Detach => maps.set_lease(0),
    }
}

/// The lease of a data plane that is being taken over: it does not run out meanwhile,
/// unless it has before, and is as it was if that comes to nothing.
#[derive(Debug)]
pub(crate) struct Suspended {
    maps: Arc<Maps>,
    /// `None`: it is not touched.
    lease: Option<u32>,
}

impl Suspended {
    pub(crate) fn new(maps: &Arc<Maps>) -> Self {
        let lease = maps.lease();
        let lives = lease != 0 && !maps.is_unattended();
        if lives {
            maps.renew_lease(TAKE_OVER);
        }
        Self { maps: Arc::clone(maps), lease: lives.then_some(lease) }
    }

    /// The data plane has a process again, which sees to the lease from now on.
    pub(crate) fn end(mut self) {
        self.lease = None;
    }
}

impl Drop for Suspended {
    fn drop(&mut self) {
        if let Some(lease) = self.lease {
            self.maps.set_lease(lease);
        }
    }
}
