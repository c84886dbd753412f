//! Memory for lookup tables: chunks of entries, in blocks that are made when
//! there are tables for them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::mem::size_of;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use libbpf_rs::MapCore;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use libbpf_rs::MapType;
use libbpf_sys::BPF_F_INNER_MAP;
use libbpf_sys::BPF_F_MMAPABLE;
use libbpf_sys::bpf_map_create_opts;

use super::Array;
use super::map_fault;
use super::types::Chunk;
use super::types::Tables;
use crate::Error;
use crate::Result;

/// The map of the blocks.
const NAME: &str = "tables";

/// Entries in a chunk.
pub(crate) const CHUNK: u32 = Tables::XVS_CHUNK.0;

/// Bits of a table's number that are its first chunk's in the block.
const SHIFT: u32 = Tables::XVS_BLOCK_SHIFT.0;

/// The number of the table that begins with this chunk of a block.
pub(crate) const fn table_number(block: u32, chunk: u32) -> u32 {
    block << SHIFT | chunk
}

/// The map of blocks, and those of them that were used so far.
#[derive(Debug)]
pub(crate) struct TableMemory {
    map: MapHandle,
    /// Where each block is pinned under its number: other processes may not
    /// open it by its id (that takes CAP_SYS_ADMIN).
    directory: PathBuf,
    blocks: Mutex<BTreeMap<u32, Arc<Array<Chunk>>>>,
}

impl TableMemory {
    /// Takes the map of blocks that are pinned in a folder.
    pub(super) fn new(map: MapHandle, directory: &Path) -> Self {
        Self { map, directory: directory.to_owned(), blocks: Mutex::default() }
    }

    /// Makes a block of so many chunks. The kernel waits for an RCU grace period
    /// (1ae80cf31938, "bpf: wait for running BPF programs when updating
    /// map-in-map").
    pub(crate) fn make(&self, number: u32, chunks: u32) -> Result<()> {
        let options = bpf_map_create_opts {
            sz: size_of::<bpf_map_create_opts>() as u64,
            map_flags: BPF_F_MMAPABLE | BPF_F_INNER_MAP,
            ..Default::default()
        };
        let (key, value) = (size_of::<u32>() as u32, size_of::<Chunk>() as u32);
        let created = MapHandle::create(MapType::Array, Some(NAME), key, value, chunks, &options);
        let mut map = created.map_err(|error| fault("enlargement", &error))?;
        let block = Array::new(NAME, &map)?;
        let pin = self.pin(number);
        // What is there comes from an attempt that failed below.
        let _ = fs::remove_file(&pin);
        map.pin(&pin).map_err(|error| fault("pinning", &error))?;
        let file = map.as_fd().as_raw_fd().to_ne_bytes();
        self.map.update(&number.to_ne_bytes(), &file, MapFlags::ANY).map_err(|error| {
            let _ = fs::remove_file(&pin);
            fault("insertion", &error)
        })?;
        self.blocks().insert(number, Arc::new(block));
        Ok(())
    }

    /// Whether there is a block of this number.
    pub(crate) fn has(&self, number: u32) -> Result<bool> {
        if number >= self.map.max_entries() {
            return Ok(false);
        }
        let block = self.map.lookup(&number.to_ne_bytes(), MapFlags::ANY);
        Ok(block.map_err(|error| fault("lookup", &error))?.is_some())
    }

    /// Writes the entries of a table.
    pub(crate) fn write(&self, table: u32, slots: &[u32]) -> Result<()> {
        let (block, first) = self.locate(table)?;
        for (chunk, part) in (first..).zip(slots.chunks(CHUNK as usize)) {
            let mut value = Chunk::default();
            value.slot[..part.len()].copy_from_slice(part);
            block.write(chunk, &value);
        }
        Ok(())
    }

    /// The entries of a table's chunk.
    pub(crate) fn read(&self, table: u32, chunk: u32) -> Result<Chunk> {
        let (block, first) = self.locate(table)?;
        Ok(block.read(first + chunk))
    }

    /// A table's block, and its first chunk there.
    fn locate(&self, table: u32) -> Result<(Arc<Array<Chunk>>, u32)> {
        let (number, first) = (table >> SHIFT, table % (1 << SHIFT));
        let known = self.blocks().get(&number).map(Arc::clone);
        let block = match known {
            Some(block) => block,
            None => {
                let block = Arc::new(self.open(number)?);
                self.blocks().insert(number, Arc::clone(&block));
                block
            }
        };
        Ok((block, first))
    }

    /// Opens a block that another process has made.
    fn open(&self, number: u32) -> Result<Array<Chunk>> {
        let opening = |error| fault("opening", &error);
        let map = MapHandle::from_pinned_path(self.pin(number)).map_err(opening)?;
        // For user space the value is the id of the map that is there.
        let wanted = self.map.lookup(&number.to_ne_bytes(), MapFlags::ANY).map_err(opening)?;
        let id = map.info().map_err(opening)?.info.id;
        if wanted.is_none_or(|wanted| wanted != id.to_ne_bytes()) {
            let source = io::Error::other("the instance was started anew; open it again");
            return Err(Error::Map { map: NAME, operation: "opening", source });
        }
        Array::new(NAME, &map)
    }

    fn pin(&self, number: u32) -> PathBuf {
        self.directory.join(format!("{NAME}_{number}"))
    }

    fn blocks(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<Array<Chunk>>>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fault(operation: &'static str, error: &libbpf_rs::Error) -> Error {
    map_fault(NAME, operation, error)
}
