//! Tables from before a change of a service's destinations, which the middle of
//! connections goes by for a while. So balancers agree on connections that began
//! before it, whichever of them has their flows.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use super::Balanced;
use super::Control;
use super::Target;
use super::ids::GRACE;
use super::tables::Entry;
use crate::Protocol;
use crate::Result;
use crate::Service;
use crate::ServiceKey;
use crate::clock::duration;
use crate::clock::now_tick;
use crate::clock::ticks;

/// A table that stood for less had few connections begin under it, as those of a
/// start, when destinations come one by one.
const STOOD: Duration = Duration::from_secs(5);

/// Since when a service has had its table, and the one from before.
#[derive(Clone, Debug)]
pub(super) struct Transition {
    since: Instant,
    pub(super) previous: Option<Previous>,
}

/// A table that was replaced, and still counts.
#[derive(Clone, Debug)]
pub(super) struct Previous {
    pub(super) table: u32,
    /// The slots that it names.
    slots: BTreeSet<u32>,
    until: Instant,
    /// The last tick in which packets go by it.
    pub(super) tick: u32,
}

impl Transition {
    /// That of a service whose first table is there since now.
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, previous: None }
    }

    /// That of a service which another process has left, with a table from before that
    /// names these slots and counts until a tick. Its present one has stood, for all that
    /// is known.
    pub(super) fn of_left(previous: Option<(u32, BTreeSet<u32>, u32)>) -> Self {
        let now = Instant::now();
        let previous = previous.map(|(table, slots, tick)| {
            let left = tick.wrapping_sub(now_tick()).cast_signed().max(0).cast_unsigned();
            Previous { table, slots, until: now + duration(left), tick }
        });
        Self { since: now.checked_sub(STOOD).unwrap_or(now), previous }
    }

    /// Follows that a table was replaced now. The number of the table that no packet
    /// goes by any more, 0 if there is none.
    fn replace(
        &mut self,
        service: &Service,
        table: u32,
        slots: BTreeSet<u32>,
        now: Instant,
    ) -> u32 {
        let stood = now - std::mem::replace(&mut self.since, now);
        let (window, is_tcp) = (service.transition, service.protocol == Protocol::Tcp);
        let counts = table != 0 && is_tcp && !window.is_zero() && stood >= STOOD.min(window);
        if self.previous.is_some() || !counts {
            return table;
        }
        let tick = now_tick().wrapping_add(ticks(window));
        self.previous = Some(Previous { table, slots, until: now + window, tick });
        0
    }

    /// Follows that the service has this window, which may be shorter.
    fn limit(&mut self, window: Duration, now: Instant) {
        if let Some(previous) = &mut self.previous
            && previous.until > now + window
        {
            previous.until = now + window;
            previous.tick = now_tick().wrapping_add(ticks(window));
        }
    }

    /// Takes the table from before, if it counts no more then: its number, or 0.
    fn take_ended(&mut self, then: Instant) -> u32 {
        let ended = self.previous.take_if(|previous| previous.until <= then);
        ended.map_or(0, |previous| previous.table)
    }

    /// When packets go by the present table alone.
    pub(super) fn end(&self) -> Option<Instant> {
        self.previous.as_ref().map(|previous| previous.until)
    }
}

impl Control {
    /// Takes over from what a service was. The numbers of the tables that no packet goes by
    /// once the service's record is written, or 0.
    pub(super) fn succeed(&mut self, old: &mut Balanced, new: &mut Balanced) -> [u32; 2] {
        self.release_slots(old, new);
        let now = Instant::now();
        new.transition = old.transition.clone();
        new.transition.limit(new.service.transition, now);
        let ended = new.transition.take_ended(now);
        let replaced = match new.table == old.table {
            true => 0,
            false => {
                let slots = self.slots_named(old.table, &old.entries);
                new.transition.replace(&new.service, old.table, slots, now)
            }
        };
        self.await_end(new);
        [ended, replaced]
    }

    /// Follows that a service has another table in place of one that was made of these
    /// entries, and writes its record.
    pub(super) fn swap_table(&mut self, key: ServiceKey, table: u32, entries: Vec<Entry>) {
        let Some(mut balanced) = self.services.remove(&key) else {
            return;
        };
        let old = std::mem::replace(&mut balanced.table, table);
        let entries = std::mem::replace(&mut balanced.entries, entries);
        let now = Instant::now();
        let ended = balanced.transition.take_ended(now);
        let slots = self.slots_named(old, &entries);
        let replaced = balanced.transition.replace(&balanced.service, old, slots, now);
        self.await_end(&balanced);
        self.write_service(&balanced, self.vips[&key.address].id);
        self.tables.retire(ended);
        self.tables.retire(replaced);
        self.services.insert(key, balanced);
    }

    /// The slots that a table made of these entries names. Of one that another process has
    /// left they are not known.
    fn slots_named(&self, table: u32, entries: &[Entry]) -> BTreeSet<u32> {
        match entries.is_empty() {
            true => self.tables.slots_of(table).unwrap_or_default(),
            false => entries.iter().map(|(_, slot)| *slot).collect(),
        }
    }

    /// Drops the table from before if it names a slot that another destination of the
    /// service is about to have. No packet goes by it when this returns.
    fn release_slots(&mut self, old: &mut Balanced, new: &Balanced) {
        let Some(previous) = &old.transition.previous else {
            return;
        };
        let is_new = |target: &Target| !old.targets.contains_key(&target.destination.address);
        let mut taken = new.targets.values().filter(|target| is_new(target)).map(|t| t.slot);
        if taken.any(|slot| previous.slots.contains(&slot)) {
            let table = previous.table;
            old.transition.previous = None;
            self.write_service(old, self.vips[&old.service.address].id);
            thread::sleep(GRACE);
            self.tables.retire(table);
        }
    }

    /// Ends the transitions that are over.
    pub(crate) fn end_transitions(&mut self, now: Instant) {
        while let Some((until, key)) = self.ends.first().copied()
            && until <= now
        {
            self.ends.pop_first();
            self.end_transition(key, now);
        }
    }

    /// Ends that of a service if its table from before names a slot. No packet goes by it
    /// when this returns.
    pub(super) fn leave_slot(&mut self, key: ServiceKey, slot: u32) {
        let previous = self.services.get(&key).and_then(|b| b.transition.previous.as_ref());
        let end = previous.filter(|p| p.slots.contains(&slot)).map(|previous| previous.until);
        if let Some(end) = end
            && self.end_transition(key, end)
        {
            thread::sleep(GRACE);
        }
    }

    /// Ends that of a service, if it is over by then; whether it has ended.
    fn end_transition(&mut self, key: ServiceKey, by: Instant) -> bool {
        let Some(mut balanced) = self.services.remove(&key) else {
            return false;
        };
        let table = balanced.transition.take_ended(by);
        if table != 0 {
            self.write_service(&balanced, self.vips[&key.address].id);
            self.tables.retire(table);
        }
        self.services.insert(key, balanced);
        table != 0
    }

    /// Notes when a service's transition ends. What was noted before and does not hold
    /// any more wakes the background thread for nothing.
    pub(super) fn await_end(&mut self, balanced: &Balanced) {
        if let Some(end) = balanced.transition.end() {
            self.ends.insert((end, balanced.service.key()));
        }
    }

    /// Lets the table from before go with its service, whose record is gone.
    pub(super) fn forget_transition(&mut self, balanced: &Balanced) {
        if let Some(previous) = &balanced.transition.previous {
            self.ends.remove(&(previous.until, balanced.service.key()));
            self.tables.retire(previous.table);
        }
    }

    /// Builds a table. When there is no memory for it, one from before a change goes.
    pub(super) fn build_table(&mut self, entries: &[Entry]) -> Result<u32> {
        let built = self.tables.build(entries);
        if built.is_ok() {
            return built;
        }
        while let Some((until, key)) = self.ends.pop_first() {
            if self.end_transition(key, until) {
                return self.tables.build(entries);
            }
        }
        built
    }
}
