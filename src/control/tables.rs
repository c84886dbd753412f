//! Lookup tables in the data plane: written whole, swapped by one word of the
//! service's record, removed when no packet can be using them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::ids::GRACE;
use crate::Result;
use crate::bpf::Chunk;
use crate::bpf::ChunkKey;
use crate::bpf::Maps;
use crate::hash::HashKey;
use crate::maglev;
use crate::maglev::Member;

/// Tables that are out of use but may be there still.
pub(super) const SPARE: u32 = 128;

/// A destination of a table: what its share follows from, and its slot.
pub(super) type Entry = (Member, u32);

#[derive(Debug)]
pub(super) struct Tables {
    maps: Arc<Maps>,
    size: u32,
    key: HashKey,
    next: u32,
    old: VecDeque<(Instant, u32)>,
    /// The last table by members, for services often have the same servers.
    last: (Vec<Member>, Vec<u32>),
}

impl Tables {
    pub(super) const fn new(maps: Arc<Maps>, size: u32, key: HashKey) -> Self {
        Self { maps, size, key, next: 0, old: VecDeque::new(), last: (Vec::new(), Vec::new()) }
    }

    /// How many chunks a table of this size has.
    pub(super) fn chunks(size: u32) -> u32 {
        size.div_ceil(Chunk::default().slot.len() as u32)
    }

    /// Writes a table over these destinations and returns its id: 0, which is
    /// no table, when there are none.
    pub(super) fn build(&mut self, entries: &[Entry]) -> Result<u32> {
        if entries.is_empty() {
            return Ok(0);
        }
        while self.old.len() >= SPARE as usize {
            if let Some((since, _)) = self.old.front() {
                thread::sleep(GRACE.saturating_sub(since.elapsed()));
            }
            self.clean()?;
        }
        let members: Vec<Member> = entries.iter().map(|(member, _)| *member).collect();
        if self.last.0 != members {
            let table = maglev::table(self.size, self.key, &members);
            self.last = (members, table);
        }
        let slots: Vec<u32> = self.last.1.iter().map(|i| entries[*i as usize].1).collect();
        let chunks: Vec<Chunk> = slots
            .chunks(Chunk::default().slot.len())
            .map(|part| {
                let mut chunk = Chunk::default();
                chunk.slot[..part.len()].copy_from_slice(part);
                chunk
            })
            .collect();
        let id = self.next.checked_add(1).unwrap_or(1);
        self.maps.tables.insert_all(&self.keys(id), &chunks)?;
        self.next = id;
        Ok(id)
    }

    /// Lets a table go that no service's record names any more.
    pub(super) fn retire(&mut self, id: u32) {
        if id != 0 {
            self.old.push_back((Instant::now(), id));
        }
    }

    /// Removes the tables that no packet can be using.
    pub(super) fn clean(&mut self) -> Result<()> {
        while let Some((since, id)) = self.old.front().copied() {
            if since.elapsed() < GRACE {
                break;
            }
            self.maps.tables.remove_all(&self.keys(id))?;
            self.old.pop_front();
        }
        Ok(())
    }

    /// Whether tables wait to be removed.
    pub(super) fn is_clean(&self) -> bool {
        self.old.is_empty()
    }

    fn keys(&self, table: u32) -> Vec<ChunkKey> {
        (0..Self::chunks(self.size)).map(|chunk| ChunkKey { table, chunk }).collect()
    }
}
