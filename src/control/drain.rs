//! Disabled destinations, from when they get no new flows until their last flow
//! is gone or their deadline moves the rest.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;
use std::time::Instant;

use super::Control;
use super::Target;
use super::ids::GRACE;
use crate::Destination;
use crate::Error;
use crate::Event;
use crate::Result;
use crate::ServiceKey;
use crate::clock::now_ns;

/// What is known of a disabled destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Drained {
    /// When it was disabled, in ns of CLOCK_MONOTONIC.
    pub(super) since: u64,
    /// Whether it has no flows any more.
    pub(super) done: bool,
}

impl Drained {
    /// That of a destination which another process has left. One that was just being
    /// disabled does not say since when.
    pub(super) fn of_left(disabled_ns: u64, done: bool) -> Self {
        Self { since: if disabled_ns == 0 { now_ns() } else { disabled_ns }, done }
    }

    /// That of a destination as it is wanted, which is added or was like this.
    pub(super) fn of(wanted: &Destination, old: Option<&Target>) -> Option<Self> {
        // Another deadline counts from when it is set.
        let same = old.filter(|old| old.destination.deadline == wanted.deadline);
        let last = same.and_then(|target| target.drained);
        // What is added disabled cannot have flows.
        let new = || Self { since: now_ns(), done: old.is_none() };
        wanted.disabled.then(|| last.unwrap_or_else(new))
    }
}

/// A destination that may have flows still.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draining {
    /// When it was disabled: should it have been removed and added again since, this
    /// is of another one.
    since: u64,
    /// A count that began later tells what flows it has.
    countable: u64,
    /// When what is left is moved, in ns of CLOCK_MONOTONIC.
    due: Option<u64>,
}

/// Destinations that may have flows still, though they get no new ones.
pub(super) type Drains = BTreeMap<(ServiceKey, IpAddr), Draining>;

impl Control {
    /// Follows what destinations of a service are disabled, once its table is in
    /// use.
    pub(super) fn note_drains(&mut self, key: ServiceKey) {
        let Some(balanced) = self.services.get(&key) else {
            return;
        };
        // Packets may still be on their way by the last table, and those that have no flow
        // go by it for a while.
        let end = balanced.transition.end();
        let left =
            end.map_or(GRACE, |end| end.saturating_duration_since(Instant::now()).max(GRACE));
        let countable = now_ns() + left.as_nanos() as u64;
        for (address, target) in &balanced.targets {
            let place = (key, *address);
            match target.drained {
                Some(Drained { since, done: false }) => {
                    let deadline = target.destination.deadline;
                    let due = deadline.map(|time| since + time.as_nanos() as u64);
                    let known = self.drains.get(&place).filter(|known| known.since == since);
                    let countable = known.map_or(countable, |known| known.countable);
                    self.drains.insert(place, Draining { since, countable, due });
                }
                _ => _ = self.drains.remove(&place),
            }
        }
    }

    /// How long until the next deadline.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let due = self.drains.values().filter_map(|draining| draining.due).min()?;
        Some(Duration::from_nanos(due.saturating_sub(now_ns())))
    }

    /// Tells of disabled destinations that have no flows any more, as a count of
    /// flows found that began then, and moves the flows of those whose deadline had
    /// come.
    pub(crate) fn follow_drains(&mut self, began: u64) {
        for ((key, address), draining) in self.drains.clone() {
            let target = self.services.get(&key).and_then(|b| b.targets.get(&address));
            let open = Some(Drained { since: draining.since, done: false });
            let target = target.filter(|target| target.drained == open);
            let Some(slot) = target.map(|target| target.slot) else {
                self.drains.remove(&(key, address));
                continue;
            };
            let flows = self.maps.gauges.read(slot).flows;
            let is_due = draining.due.is_some_and(|due| began >= due);
            if !is_due && (flows > 0 || began < draining.countable) {
                continue;
            }
            self.drains.remove(&(key, address));
            if is_due {
                self.leave_slot(key, slot);
                self.next_generation(slot);
            }
            self.finish_drain(key, address);
            let moved = u64::from(flows);
            self.events.push(Event::Drained { service: key, address, moved });
        }
    }

    /// Follows that another balancer has told of a flow of a disabled destination, which may
    /// have had none any more.
    ///
    /// # Errors
    ///
    /// When its deadline has moved what it had.
    pub(super) fn reopen_drain(&mut self, key: ServiceKey, address: IpAddr) -> Result<()> {
        let target = self.services.get_mut(&key).and_then(|b| b.targets.get_mut(&address));
        let Some((target, drained)) =
            target.and_then(|t| Some((t.destination.deadline, t.drained.as_mut()?)))
        else {
            return Ok(());
        };
        if !drained.done {
            return Ok(());
        }
        let is_over = |time: Duration| now_ns() >= drained.since + time.as_nanos() as u64;
        if target.is_some_and(is_over) {
            return Err(Error::DestinationDrained { service: key, address });
        }
        drained.done = false;
        self.rewrite_target(key, address);
        self.note_drains(key);
        Ok(())
    }

    fn finish_drain(&mut self, key: ServiceKey, address: IpAddr) {
        let target = self.services.get_mut(&key).and_then(|b| b.targets.get_mut(&address));
        if let Some(drained) = target.and_then(|target| target.drained.as_mut()) {
            drained.done = true;
        }
        self.rewrite_target(key, address);
    }

    fn rewrite_target(&mut self, key: ServiceKey, address: IpAddr) {
        let Some(balanced) = self.services.remove(&key) else {
            return;
        };
        if let Some(target) = balanced.targets.get(&address) {
            self.write_target(&balanced, target);
        }
        self.services.insert(key, balanced);
    }
}
