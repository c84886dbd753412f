//! Array maps, mapped into memory: reading and writing a record takes no
//! system call.
#![allow(unsafe_code, reason = "the memory is shared with the kernel")]

use std::fmt;
use std::marker::PhantomData;
use std::mem::size_of;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use libbpf_rs::MapCore;
use libbpf_rs::MapHandle;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::mmap;
use nix::sys::mman::munmap;

use super::types::Record;
use crate::Error;
use crate::Result;

/// An array map with values of type `T`, whose size is whole words.
///
/// Values are read and written word by word, in order. A word is never seen
/// half-written; two words of one value may be of different writes.
pub(crate) struct Array<T> {
    words: NonNull<AtomicU64>,
    length: NonZeroUsize,
    entries: u32,
    _values: PhantomData<T>,
}

// SAFETY: the memory stays mapped as long as the value lives, whichever thread
// has it, and all access to it is atomic.
unsafe impl<T: Record> Send for Array<T> {}
// SAFETY: as above.
unsafe impl<T: Record> Sync for Array<T> {}

impl<T: Record> Array<T> {
    const WORDS: usize = {
        assert!(size_of::<T>().is_multiple_of(8), "values are whole words");
        size_of::<T>() / 8
    };

    /// Maps the array's memory.
    pub(super) fn new(name: &'static str, map: &MapHandle) -> Result<Self> {
        let fault = |source| Error::Map { map: name, operation: "mapping into memory", source };
        let length = map.max_entries() as usize * size_of::<T>();
        if map.value_size() as usize != size_of::<T>() {
            return Err(fault(std::io::Error::other("its values have another size")));
        }
        let length = NonZeroUsize::new(length.next_multiple_of(4096))
            .ok_or_else(|| fault(std::io::Error::other("it has no entries")))?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let memory = unsafe {
            mmap(
                None,
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                map.as_fd(),
                0,
            )
        };
        let memory = memory.map_err(|errno| fault(errno.into()))?;
        Ok(Self { words: memory.cast(), length, entries: map.max_entries(), _values: PhantomData })
    }

    /// The number of entries.
    pub(crate) const fn len(&self) -> u32 {
        self.entries
    }

    /// The values that a thing has in each row of as many entries as there
    /// are `ids`: one row for each CPU.
    pub(crate) fn column(&self, ids: u32, id: u32) -> impl Iterator<Item = T> + '_ {
        (0..self.entries / ids).map(move |row| self.read(row * ids + id))
    }

    /// The words of the value at `index`.
    pub(super) fn words(&self, index: u32) -> &[AtomicU64] {
        assert!(index < self.entries, "index {index} of {} entries", self.entries);
        // SAFETY: the entry lies within the mapping, which is aligned to a
        // page, and lives as long as `self`.
        unsafe {
            std::slice::from_raw_parts(
                self.words.as_ptr().add(index as usize * Self::WORDS),
                Self::WORDS,
            )
        }
    }

    /// The value at `index`.
    pub(crate) fn read(&self, index: u32) -> T {
        let mut value = T::default();
        let target = (&raw mut value).cast::<u64>();
        for (i, word) in self.words(index).iter().enumerate() {
            let word = word.load(Ordering::Acquire);
            // SAFETY: `value` has `WORDS` words, and any are a `Record`.
            unsafe { target.add(i).write_unaligned(word) };
        }
        value
    }

    /// Puts the value at `index`.
    pub(crate) fn write(&self, index: u32, value: &T) {
        let source = (&raw const *value).cast::<u64>();
        for (i, word) in self.words(index).iter().enumerate() {
            // SAFETY: `value` has `WORDS` words, all of them initialized.
            let new = unsafe { source.add(i).read_unaligned() };
            // Lines that stay clean stay in the caches of the CPUs that read.
            if word.load(Ordering::Relaxed) != new {
                word.store(new, Ordering::Release);
            }
        }
    }
}

impl<T> Drop for Array<T> {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more.
        let _ = unsafe { munmap(self.words.cast(), self.length.get()) };
    }
}

impl<T> fmt::Debug for Array<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Array").field("entries", &self.entries).finish_non_exhaustive()
    }
}
