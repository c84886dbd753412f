//! Lookup tables in the data plane: written whole, swapped by one word of the
//! service's record, written over when no packet can be using them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::ids::GRACE;
use crate::Result;
use crate::bpf::CHUNK;
use crate::bpf::Maps;
use crate::hash::HashKey;
use crate::maglev;
use crate::maglev::Member;

/// Tables that there may be beside those that services have.
const SPARE: u32 = 128;

/// A destination of a table: what its share follows from, and its slot.
pub(super) type Entry = (Member, u32);

#[derive(Debug)]
pub(super) struct Tables {
    maps: Arc<Maps>,
    size: u32,
    key: HashKey,
    /// How many there is memory for so far.
    made: u32,
    /// How many there may be.
    limit: u32,
    /// First chunks of those that no service has, and since when.
    old: VecDeque<(Instant, u32)>,
    /// The last table by members, for services often have the same servers.
    last: (Vec<Member>, Vec<u32>),
}

impl Tables {
    pub(super) const fn new(maps: Arc<Maps>, size: u32, key: HashKey, services: u32) -> Self {
        let limit = services + SPARE;
        Self {
            maps,
            size,
            key,
            made: 0,
            limit,
            old: VecDeque::new(),
            last: (Vec::new(), Vec::new()),
        }
    }

    /// How many chunks the tables of so many services of this size can take.
    pub(super) const fn chunks(services: u32, size: u32) -> u32 {
        first_chunk(services + SPARE, size)
    }

    /// Writes a table over these destinations and returns its first chunk: 0,
    /// which is no table, when there are none.
    pub(super) fn build(&mut self, entries: &[Entry]) -> Result<u32> {
        if entries.is_empty() {
            return Ok(0);
        }
        let members: Vec<Member> = entries.iter().map(|(member, _)| *member).collect();
        if self.last.0 != members {
            let table = maglev::table(self.size, self.key, &members);
            self.last = (members, table);
        }
        let slots: Vec<u32> = self.last.1.iter().map(|i| entries[*i as usize].1).collect();
        let first = self.take()?;
        let written = self.maps.tables.write(first, &slots);
        if written.is_err() {
            self.retire(first);
        }
        written.map(|()| first)
    }

    /// Room for a table. What was freed long enough ago comes first, so that
    /// there is no more memory than was needed at a time.
    fn take(&mut self) -> Result<u32> {
        let waited = self.old.front().map(|(since, _)| since.elapsed());
        if self.made < self.limit && waited.is_none_or(|time| time < GRACE) {
            let first = first_chunk(self.made, self.size);
            self.maps.tables.reserve(first_chunk(self.made + 1, self.size))?;
            self.made += 1;
            return Ok(first);
        }
        // SANITY: services have fewer than there may be.
        let (since, first) = self.old.pop_front().expect("there are spare tables");
        thread::sleep(GRACE.saturating_sub(since.elapsed()));
        Ok(first)
    }

    /// Lets a table go that no service's record names any more.
    pub(super) fn retire(&mut self, first: u32) {
        if first != 0 {
            self.old.push_back((Instant::now(), first));
        }
    }
}

/// The first chunk of table number `table`, counted from 0: chunk 0 is none's.
const fn first_chunk(table: u32, size: u32) -> u32 {
    1 + table * size.div_ceil(CHUNK)
}
