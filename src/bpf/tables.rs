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

use super::Array;
use super::types::Chunk;
use super::types::TableMemoryUnit;
use crate::Error;
use crate::Result;

/// The map of the blocks.
const NAME: &str = "tables";

/// Entries in a chunk.
pub(crate) const CHUNK: u32 = TableMemoryUnit::XVS_CHUNK.0;

/// Chunks in a block.
pub(super) const BLOCK: u32 = TableMemoryUnit::XVS_BLOCK.0;

/// The map of blocks, and those of them that were used so far.
#[derive(Debug)]
pub(crate) struct TableMemory {
    map: MapHandle,
    /// Where each block is pinned under its number.
    directory: PathBuf,
    blocks: Mutex<BTreeMap<u32, Arc<Array<Chunk>>>>,
}

impl TableMemory {
    /// Takes the map of blocks that are pinned in a folder.
    pub(super) fn new(map: MapHandle, directory: &Path) -> Self {
        Self { map, directory: directory.to_owned(), blocks: Mutex::default() }
    }

    /// Makes the blocks that there are not yet, up to that with the last of so many
    /// chunks. The kernel takes an RCU grace period for each.
    pub(crate) fn reserve(&self, chunks: u32) -> Result<()> {
        for number in 0..chunks.div_ceil(BLOCK) {
            if !self.blocks().contains_key(&number) {
                let block = self.make(number)?;
                self.blocks().insert(number, Arc::new(block));
            }
        }
        Ok(())
    }

    fn make(&self, number: u32) -> Result<Array<Chunk>> {
        let options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as u64,
            map_flags: libbpf_sys::BPF_F_MMAPABLE,
            ..Default::default()
        };
        let (key, value) = (size_of::<u32>() as u32, size_of::<Chunk>() as u32);
        let created = MapHandle::create(MapType::Array, Some(NAME), key, value, BLOCK, &options);
        let mut map = created.map_err(|error| fault("more memory", &error))?;
        let array = Array::new(NAME, &map)?;
        let pin = self.pin(number);
        map.pin(&pin).map_err(|error| fault("pinning", &error))?;
        let (index, file) = (number.to_ne_bytes(), map.as_fd().as_raw_fd().to_ne_bytes());
        self.map.update(&index, &file, MapFlags::ANY).map_err(|error| {
            // Nobody refers to it.
            let _ = fs::remove_file(&pin);
            fault("more memory", &error)
        })?;
        Ok(array)
    }

    /// Writes the entries of a table from its first chunk on. There is memory for
    /// them.
    pub(crate) fn write(&self, first: u32, slots: &[u32]) -> Result<()> {
        for (chunk, part) in (first..).zip(slots.chunks(CHUNK as usize)) {
            let mut value = Chunk::default();
            value.slot[..part.len()].copy_from_slice(part);
            self.block(chunk / BLOCK)?.write(chunk % BLOCK, &value);
        }
        Ok(())
    }

    /// The entries of a chunk.
    pub(crate) fn read(&self, chunk: u32) -> Result<Chunk> {
        Ok(self.block(chunk / BLOCK)?.read(chunk % BLOCK))
    }

    /// A block that there is.
    fn block(&self, number: u32) -> Result<Arc<Array<Chunk>>> {
        if let Some(block) = self.blocks().get(&number) {
            return Ok(Arc::clone(block));
        }
        let map = MapHandle::from_pinned_path(self.pin(number));
        let block = Array::new(NAME, &map.map_err(|error| fault("opening", &error))?)?;
        Ok(Arc::clone(self.blocks().entry(number).or_insert(Arc::new(block))))
    }

    fn pin(&self, number: u32) -> PathBuf {
        self.directory.join(format!("{NAME}_{number}"))
    }

    fn blocks(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<Array<Chunk>>>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fault(operation: &'static str, error: &libbpf_rs::Error) -> Error {
    Error::Map { map: NAME, operation, source: io::Error::other(error.to_string()) }
}
