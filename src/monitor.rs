//! The background thread that hears of changes in the network and keeps
//! neighbours resolved.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;

use crate::Error;
use crate::Event;
use crate::attachments::Followed;
use crate::client::Shared;
use crate::net::IcmpListener;
use crate::net::Net;
use crate::net::Watcher;

/// Destinations without an answer are asked again after this, and requests
/// that failed are repeated.
const ASK: Duration = Duration::from_secs(1);
/// The whole network is read again after this, should news have been missed.
const REREAD: Duration = Duration::from_secs(60);
/// The neighbours of new destinations are kept resolved after this at most.
const KEEP: Duration = Duration::from_millis(100);
/// Routers are listened to again after this: whoever floods this host with errors
/// does not keep the thread busy.
const HEAR: Duration = Duration::from_millis(100);
/// Tables are built for so long before others get their turn.
const TURN: Duration = Duration::from_millis(10);

/// The thread's state.
pub(crate) struct Monitor {
    shared: Arc<Shared>,
    net: Net,
    watcher: Watcher,
    /// Hears of packets in tunnels that were too large, once there are tunnels.
    icmp: Option<IcmpListener>,
    /// Nothing more is heard by it before.
    icmp_due: Instant,
    /// The probe interface is not made anew before.
    probe_due: Instant,
    probe_broken: bool,
    kept: BTreeSet<(u32, IpAddr)>,
    /// Neighbours that could not be kept, until the next time of asking.
    failed: BTreeSet<(u32, IpAddr)>,
    /// When interfaces are attached to that must wait.
    attach_due: Option<Instant>,
    /// The failures that were told, until the network is read again.
    told: BTreeSet<String>,
}

impl Monitor {
    pub(crate) fn new(shared: Arc<Shared>, net: Net, watcher: Watcher) -> Self {
        Self {
            shared,
            net,
            watcher,
            icmp: None,
            icmp_due: Instant::now(),
            probe_due: Instant::now(),
            probe_broken: false,
            kept: BTreeSet::new(),
            failed: BTreeSet::new(),
            attach_due: None,
            told: BTreeSet::new(),
        }
    }

    /// Runs until the client is dropped.
    pub(crate) fn run(mut self) {
        let start = Instant::now();
        let (mut keep, mut ask, mut reread) = (start, start, start + REREAD);
        while !self.shared.stopped() {
            let now = Instant::now();
            if now >= keep {
                self.keep_neighbours();
                // Calls wait meanwhile: they get most of the time.
                keep = now + (now.elapsed() * 10).min(KEEP);
            }
            if self.attach_due.is_some_and(|due| now >= due) {
                self.attach();
            }
            if self.probe_broken && now >= self.probe_due {
                self.keep_probe_link();
            }
            if now >= ask {
                self.retry();
                self.ask_neighbours();
                ask = now + ASK;
            }
            if now >= reread {
                self.told.clear();
                self.read_network();
                reread = now + REREAD;
            }
            let mut control = self.shared.control();
            if control.next_expiry().is_some_and(|expiry| now >= expiry) {
                control.forget_path_mtus(now);
                control.end_transitions(now);
            }
            let mut next = ask.min(reread);
            next = next.min(self.attach_due.unwrap_or(next));
            next = next.min(control.next_expiry().unwrap_or(next));
            if control.neighbours_changed {
                next = next.min(keep);
            }
            if self.probe_broken {
                next = next.min(self.probe_due);
            }
            drop(control);
            self.wait(next);
        }
    }

    /// Waits for news, for a call, or for the time; takes what there is.
    fn wait(&mut self, until: Instant) {
        let now = Instant::now();
        let mut left = until.saturating_duration_since(now);
        let mut files = vec![
            PollFd::new(self.watcher.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.shared.wake.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(icmp) = &self.icmp {
            match self.icmp_due.checked_duration_since(now) {
                Some(due) if !due.is_zero() => left = left.min(due),
                _ => files.extend(icmp.fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN))),
            }
        }
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1));
        let polled = poll(&mut files, timeout.unwrap_or(PollTimeout::MAX));
        let heard = files[2..].iter().any(|file| file.any() == Some(true));
        match polled {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => self.tell(format!("poll: {errno}")),
        }
        // It only wakes: an empty counter is fine.
        let _ = self.shared.wake.read();

        let mut control = self.shared.control();
        let changes = self.watcher.drain(&mut control.observed);
        // What was taken before a failure must be followed too.
        if changes.as_ref().map_or(true, |c| c.any || c.routes && control.is_routed()) {
            control.observe();
        }
        drop(control);
        if heard {
            self.hear_routers();
        }
        if changes.as_ref().map_or(true, |c| c.any || c.routes) {
            self.keep_probe_link();
        }
        self.rebuild();
        self.attach();
        match changes {
            Ok(changes) if changes.lost => {
                self.shared.events.push(Event::EventsLost);
                self.read_network();
            }
            Ok(changes) if changes.outdated => self.read_network(),
            Ok(_) => {}
            Err(error) => {
                self.tell(error.to_string());
                self.read_network();
            }
        }
    }

    /// Makes the probe interface anew should somebody have changed it.
    fn keep_probe_link(&mut self) {
        let now = Instant::now();
        let mut link = self.shared.probe_link();
        self.probe_broken = link.is_broken(&self.shared.control().observed);
        if !self.probe_broken || now < self.probe_due {
            return;
        }
        // What is made is heard of, also if it comes to nothing.
        self.probe_due = now + ASK;
        let renewed = link.renew(self.shared.attachments().dataplane());
        let name = link.name().to_owned();
        drop(link);
        match renewed {
            Ok(()) => self.shared.events.push(Event::Failed(format!(
                "the interface `{name}`, which probes go by, was changed; it is made anew"
            ))),
            Err(error) => self.tell(format!("the interface `{name}`, for probes: {error}")),
        }
    }

    /// Learns path MTUs from what routers said.
    fn hear_routers(&mut self) {
        let now = Instant::now();
        let Some(icmp) = &mut self.icmp else {
            return;
        };
        self.icmp_due = now + HEAR;
        match icmp.read() {
            Ok(errors) => self.shared.control().learn(&errors, now),
            Err(error) => {
                self.icmp_due = now + ASK;
                self.tell(format!("ICMP errors about tunnels cannot be read: {error}"));
            }
        }
    }

    /// Begins to hear what routers say about tunnels.
    fn listen(&mut self) {
        match IcmpListener::new() {
            Ok(icmp) => self.icmp = Some(icmp),
            Err(error) => self.tell(format!(
                "the path MTU of tunnels is not learned: a raw ICMP socket: {error}; \
                 it needs CAP_NET_RAW"
            )),
        }
    }

    /// Reads the whole network again.
    fn read_network(&mut self) {
        match self.net.snapshot() {
            Ok(snapshot) => {
                let links = snapshot.links.values();
                let bare = links.filter(|link| link.xdp.is_none()).map(|link| link.index);
                let bare: Vec<u32> = bare.collect();
                let mut control = self.shared.control();
                control.observed = snapshot;
                control.observe();
                drop(control);
                self.rebuild();
                self.keep_probe_link();
                let followed = self.shared.attachments().reconcile(&bare);
                self.follow_attachments(followed);
                self.attach();
            }
            Err(error) => self.tell(error.to_string()),
        }
    }

    /// Has the program on all interfaces of the ports, and on no others.
    fn attach(&mut self) {
        let wanted = self.shared.control().devices();
        let followed = self.shared.attachments().follow(&wanted, &self.shared.events);
        self.attach_due = followed.due;
        let split = followed.split.clone();
        self.follow_attachments(followed);
        if !split.is_empty() {
            self.shared.control().split(&split);
            self.attach();
        }
    }

    /// Has packets leave only by what the program is on.
    fn follow_attachments(&mut self, followed: Followed) {
        if followed.changed {
            let attached = self.shared.attachments().indices();
            self.shared.control().set_attached(&attached);
            self.rebuild();
        }
        for failure in followed.failures {
            self.tell(failure.to_string());
        }
    }

    /// Builds the tables that have to change. Calls need not wait for all.
    fn rebuild(&self) {
        while self.shared.control().rebuild(TURN) && !self.shared.stopped() {
            thread::yield_now();
        }
    }

    /// Has the kernel keep the neighbours of all destinations resolved, and
    /// no others.
    fn keep_neighbours(&mut self) {
        let mut control = self.shared.control();
        if !std::mem::take(&mut control.neighbours_changed) {
            return;
        }
        let wanted = control.neighbours();
        let listens = self.icmp.is_none() && control.is_routed();
        // The kernel drops kept entries when their interface goes down.
        let unmanaged = self.net.keeps_managed() == Some(false);
        let holds = |key: &(u32, IpAddr)| {
            let entry = control.observed.neighbours.get(key);
            entry.is_some_and(|n| n.managed || n.state.is_fixed() || unmanaged)
        };
        let missing: Vec<(u32, IpAddr)> = wanted
            .keys()
            .filter(|key| !self.failed.contains(*key))
            .filter(|key| !self.kept.contains(*key) || !holds(key))
            .copied()
            .collect();
        drop(control);
        if listens {
            self.listen();
        }
        let gone: Vec<(u32, IpAddr)> =
            self.kept.iter().filter(|key| !wanted.contains_key(*key)).copied().collect();
        for (interface, address) in gone {
            self.release(interface, address);
        }
        for (interface, address) in missing {
            match self.net.keep(interface, address) {
                Ok(()) => {
                    self.kept.insert((interface, address));
                }
                Err(error) => {
                    self.failed.insert((interface, address));
                    self.tell_neighbour(address, &error);
                }
            }
        }
    }

    /// Tries again what failed, neighbours that could not be kept among it.
    fn retry(&mut self) {
        let mut control = self.shared.control();
        if !self.failed.is_empty() {
            self.failed.clear();
            control.neighbours_changed = true;
        }
        control.retry();
        drop(control);
        self.rebuild();
    }

    fn release(&mut self, interface: u32, address: IpAddr) {
        self.kept.remove(&(interface, address));
        // What is gone already needs no release.
        let _ = self.net.release(interface, address);
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
                self.tell_neighbour(address, &error);
            }
        }
    }

    /// Tells that a neighbour could not be asked for. That its interface went
    /// away is told for all of them at once.
    fn tell_neighbour(&mut self, address: IpAddr, error: &Error) {
        let source = std::error::Error::source(error).and_then(|e| e.downcast_ref::<io::Error>());
        let errno = source.and_then(io::Error::raw_os_error).map(Errno::from_raw);
        if !matches!(errno, Some(Errno::ENODEV | Errno::ENETDOWN)) {
            self.tell(format!("neighbour {address}: {error}"));
        }
    }

    /// Tells a failure once, until the network is read again.
    fn tell(&mut self, failure: String) {
        if self.told.insert(failure.clone()) {
            self.shared.events.push(Event::Failed(failure));
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // The next process needs them kept.
        if !self.shared.stays() {
            for (interface, address) in std::mem::take(&mut self.kept) {
                self.release(interface, address);
            }
        }
        if thread::panicking() {
            let what = "the background thread died; the network is followed no longer";
            self.shared.events.push(Event::Failed(what.to_owned()));
        }
    }
}
