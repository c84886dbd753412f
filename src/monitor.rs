//! The background thread: it hears of changes in the network, keeps
//! neighbours resolved and counts flows.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;

use crate::Event;
use crate::bpf::Maps;
use crate::client::Shared;
use crate::flows;
use crate::net::Net;
use crate::net::Watcher;

/// Destinations without an answer are asked again after this.
const ASK: Duration = Duration::from_secs(1);
/// The whole network is read again after this, should news have been missed.
const REREAD: Duration = Duration::from_secs(60);
/// Flows are counted again after this, or after as long as makes counting a
/// tenth of one CPU's work, but not after more than the longest.
const COUNT: Duration = Duration::from_secs(2);
const COUNT_LONGEST: Duration = Duration::from_secs(4);
/// Old lookup tables are removed after this.
const CLEAN: Duration = Duration::from_millis(50);

/// The thread's state.
pub(crate) struct Monitor {
    shared: Arc<Shared>,
    maps: Arc<Maps>,
    net: Net,
    watcher: Watcher,
    kept: BTreeSet<(u32, IpAddr)>,
    /// The failure that was told last: one that lasts is told once.
    told: Option<String>,
}

impl Monitor {
    pub(crate) const fn new(
        shared: Arc<Shared>,
        maps: Arc<Maps>,
        net: Net,
        watcher: Watcher,
    ) -> Self {
        Self { shared, maps, net, watcher, kept: BTreeSet::new(), told: None }
    }

    /// Runs until the client is dropped.
    pub(crate) fn run(mut self) {
        let start = Instant::now();
        let (mut ask, mut reread, mut count) = (start, start + REREAD, start);
        while !self.shared.stopped() {
            self.keep_neighbours();
            let now = Instant::now();
            if now >= ask {
                self.ask_neighbours();
                ask = now + ASK;
            }
            if now >= reread {
                self.read_network();
                reread = now + REREAD;
            }
            if now >= count {
                if let Err(error) = flows::count(&self.maps) {
                    self.tell(error.to_string());
                }
                count = now + (now.elapsed() * 10).clamp(COUNT, COUNT_LONGEST);
            }
            let mut next = ask.min(reread).min(count);
            if self.shared.control().clean() {
                next = next.min(Instant::now() + CLEAN);
            }
            self.wait(next);
        }
        for (interface, address) in std::mem::take(&mut self.kept) {
            // What is gone already needs no release.
            let _ = self.net.release(interface, address);
        }
    }

    /// Waits for news, for a call, or for the time; takes what there is.
    fn wait(&mut self, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1));
        let mut files = [
            PollFd::new(self.watcher.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.shared.wake.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut files, timeout.unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => self.tell(format!("poll: {errno}")),
        }
        // It only wakes: an empty counter is fine.
        let _ = self.shared.wake.read();

        let mut control = self.shared.control();
        let changes = self.watcher.drain(&mut control.observed);
        if changes.as_ref().is_ok_and(|changes| changes.any) {
            control.observe();
        }
        drop(control);
        match changes {
            Ok(changes) if changes.lost => {
                self.shared.events.push(Event::EventsLost);
                self.read_network();
            }
            Ok(_) => {}
            Err(error) => {
                self.tell(error.to_string());
                self.read_network();
            }
        }
    }

    /// Reads the whole network again.
    fn read_network(&mut self) {
        match self.net.snapshot() {
            Ok(snapshot) => {
                let mut control = self.shared.control();
                control.observed = snapshot;
                control.observe();
            }
            Err(error) => self.tell(error.to_string()),
        }
    }

    /// Has the kernel keep the neighbours of all destinations resolved, and
    /// no others.
    fn keep_neighbours(&mut self) {
        let control = self.shared.control();
        let wanted = control.neighbours();
        // The kernel drops kept entries when their interface goes down.
        let unmanaged = self.net.keeps_managed() == Some(false);
        let holds = |key: &(u32, IpAddr)| {
            let entry = control.observed.neighbours.get(key);
            entry.is_some_and(|n| n.managed || n.state.is_fixed() || unmanaged)
        };
        let missing: Vec<(u32, IpAddr)> =
            wanted.keys().filter(|key| !self.kept.contains(*key) || !holds(key)).copied().collect();
        drop(control);
        let gone: Vec<(u32, IpAddr)> =
            self.kept.iter().filter(|key| !wanted.contains_key(*key)).copied().collect();
        for (interface, address) in gone {
            self.kept.remove(&(interface, address));
            // What is gone already needs no release.
            let _ = self.net.release(interface, address);
        }
        for (interface, address) in missing {
            match self.net.keep(interface, address) {
                Ok(()) => {
                    self.kept.insert((interface, address));
                }
                Err(error) => self.tell(format!("neighbour {address}: {error}")),
            }
        }
    }

    /// Asks again for the neighbours that have not answered; where the kernel
    /// does not keep entries fresh by itself, for all of them.
    fn ask_neighbours(&mut self) {
        let wanted = self.shared.control().neighbours();
        let all = self.net.keeps_managed() == Some(false);
        for ((interface, address), resolved) in wanted {
            if (all || !resolved)
                && let Err(error) = self.net.kick(interface, address)
            {
                self.tell(format!("neighbour {address}: {error}"));
            }
        }
    }

    /// Tells a failure, unless it is the one that was told last.
    fn tell(&mut self, failure: String) {
        if self.told.as_ref() != Some(&failure) {
            self.told = Some(failure.clone());
            self.shared.events.push(Event::Failed(failure));
        }
    }
}
