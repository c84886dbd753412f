//! Lookup tables in the data plane: written whole, swapped by one word of the
//! service's record, written over when no packet can be using them.

use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::ids::GRACE;
use crate::Result;
use crate::bpf::CHUNK;
use crate::bpf::Chunk;
use crate::bpf::Maps;
use crate::bpf::table_number;
use crate::hash::HashKey;
use crate::maglev;
use crate::maglev::Member;

/// Tables that a service may have: its own, and the one from before a change.
const EACH: u32 = 2;

/// Tables that there may be beside those that services have.
const SPARE: u32 = 128;

/// Tables in the largest blocks.
const LARGEST: u32 = 256;

/// A destination of a table: what its share follows from, and its slot.
pub(super) type Entry = (Member, u32);

#[derive(Debug)]
pub(super) struct Tables {
    maps: Arc<Maps>,
    size: u32,
    key: HashKey,
    /// How many there may be.
    limit: u32,
    /// How many blocks and tables there is memory for so far.
    blocks: u32,
    made: u32,
    /// Numbers that no service has had yet.
    fresh: Vec<u32>,
    /// Numbers that no service has any more, and since when.
    old: VecDeque<(Instant, u32)>,
    /// The last table by members, for services often have the same servers.
    last: (Vec<Member>, Vec<u32>),
}

impl Tables {
    pub(super) const fn new(maps: Arc<Maps>, size: u32, key: HashKey, services: u32) -> Self {
        Self {
            maps,
            size,
            key,
            limit: EACH * services + SPARE,
            blocks: 0,
            made: 0,
            fresh: Vec::new(),
            old: VecDeque::new(),
            last: (Vec::new(), Vec::new()),
        }
    }

    /// How many blocks the tables of so many services can be in.
    pub(super) fn blocks(services: u32) -> u32 {
        let (mut blocks, mut tables) = (0, 0);
        while tables < EACH * services + SPARE {
            blocks += 1;
            tables += block_tables(blocks);
        }
        blocks
    }

    /// Takes the memory that there is over, in which services have these tables.
    pub(super) fn take(&mut self, used: &BTreeSet<u32>) -> Result<()> {
        while self.made < self.limit && self.maps.tables.has(self.blocks + 1)? {
            let block = self.next_block();
            self.fresh.extend(block.filter(|table| !used.contains(table)));
        }
        Ok(())
    }

    /// The slots that a table names; `None` if there is no such table.
    pub(super) fn slots_of(&self, table: u32) -> Option<BTreeSet<u32>> {
        let read = |chunk| self.maps.tables.read(table, chunk).ok();
        let chunks: Option<Vec<Chunk>> = (0..self.size.div_ceil(CHUNK)).map(read).collect();
        let chunks = chunks.filter(|_| table != 0)?;
        let slots = chunks.iter().flat_map(|chunk| chunk.slot).take(self.size as usize);
        Some(slots.collect())
    }

    /// Whether a table is the one over these destinations.
    pub(super) fn is_of(&mut self, table: u32, entries: &[Entry]) -> bool {
        if entries.is_empty() || table == 0 {
            return entries.is_empty() && table == 0;
        }
        let slots = self.slots(entries);
        (0..).zip(slots.chunks(CHUNK as usize)).all(|(chunk, slots)| {
            let found = self.maps.tables.read(table, chunk);
            found.is_ok_and(|found| found.slot[..slots.len()] == *slots)
        })
    }

    /// Writes a table over these destinations and returns its number: 0, which
    /// is no table, when there are none.
    pub(super) fn build(&mut self, entries: &[Entry]) -> Result<u32> {
        if entries.is_empty() {
            return Ok(0);
        }
        let slots = self.slots(entries);
        let number = self.take_number()?;
        let written = self.maps.tables.write(number, &slots);
        if written.is_err() {
            self.retire(number);
        }
        written.map(|()| number)
    }

    /// The slots of a table over these destinations, which are not none.
    fn slots(&mut self, entries: &[Entry]) -> Vec<u32> {
        let members: Vec<Member> = entries.iter().map(|(member, _)| *member).collect();
        if self.last.0 != members {
            let table = maglev::table(self.size, self.key, &members);
            self.last = (members, table);
        }
        self.last.1.iter().map(|i| entries[*i as usize].1).collect()
    }

    /// Room for a table. What was freed long enough ago comes first, so that
    /// there is no more memory than was needed at a time.
    fn take_number(&mut self) -> Result<u32> {
        if self.old.front().is_none_or(|(since, _)| since.elapsed() < GRACE) {
            if self.fresh.is_empty() && self.made < self.limit {
                let grown = self.grow();
                // Without more memory what was freed just now will do.
                if self.old.is_empty() {
                    grown?;
                }
            }
            if let Some(number) = self.fresh.pop() {
                return Ok(number);
            }
        }
        // SANITY: services have fewer tables than there may be.
        let (since, number) = self.old.pop_front().expect("there are spare tables");
        thread::sleep(GRACE.saturating_sub(since.elapsed()));
        Ok(number)
    }

    /// Makes the next block.
    fn grow(&mut self) -> Result<()> {
        let number = self.blocks + 1;
        let chunks = self.size.div_ceil(CHUNK);
        self.maps.tables.make(number, self.block_tables(number) * chunks)?;
        let block = self.next_block();
        self.fresh.extend(block);
        Ok(())
    }

    /// How many tables the next block, which has this number, is made for.
    fn block_tables(&self, number: u32) -> u32 {
        block_tables(number).min(self.limit - self.made)
    }

    /// Counts the next block in; the numbers of its tables, the last one first.
    fn next_block(&mut self) -> impl Iterator<Item = u32> + use<> {
        let number = self.blocks + 1;
        let tables = self.block_tables(number);
        let chunks = self.size.div_ceil(CHUNK);
        self.blocks = number;
        self.made += tables;
        (0..tables).rev().map(move |i| table_number(number, i * chunks))
    }

    /// Lets a table go that no service's record names any more.
    pub(super) fn retire(&mut self, number: u32) {
        if number != 0 {
            self.old.push_back((Instant::now(), number));
        }
    }
}

/// How many tables a block has room for, the first being number 1: as many as
/// all before it, so that memory goes with the services and grows seldom.
fn block_tables(number: u32) -> u32 {
    1 << (number - 1).min(LARGEST.ilog2())
}
