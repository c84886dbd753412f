//! Hash maps with typed keys and values.

use std::io;
use std::marker::PhantomData;

use libbpf_rs::ErrorKind;
use libbpf_rs::MapCore;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;

use super::map_fault;
use super::types::Record;
use super::types::octets;
use super::types::record;
use crate::Error;
use crate::Result;

/// A hash map with keys of type `K` and values of type `V`.
#[derive(Debug)]
pub(crate) struct Hash<K, V> {
    name: &'static str,
    map: MapHandle,
    _entries: PhantomData<(K, V)>,
}

impl<K: Record, V: Record> Hash<K, V> {
    /// Takes a map whose keys and values have these sizes.
    pub(super) fn new(name: &'static str, map: MapHandle) -> Result<Self> {
        if map.key_size() as usize != size_of::<K>() || map.value_size() as usize != size_of::<V>()
        {
            let source = io::Error::other("its keys or values have another size");
            return Err(Error::Map { map: name, operation: "opening", source });
        }
        Ok(Self { name, map, _entries: PhantomData })
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &K) -> Result<Option<V>> {
        let value = self.map.lookup(octets(key), MapFlags::ANY);
        let value = value.map_err(|error| self.fault("lookup", &error))?;
        Ok(value.map(|octets| record(&octets)))
    }

    /// Puts an entry.
    pub(crate) fn insert(&self, key: &K, value: &V) -> Result<()> {
        self.map
            .update(octets(key), octets(value), MapFlags::ANY)
            .map_err(|error| self.fault("insertion", &error))
    }

    /// Removes an entry, if it is there.
    pub(crate) fn remove(&self, key: &K) -> Result<()> {
        match self.map.delete(octets(key)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(self.fault("removal", &error)),
            _ => Ok(()),
        }
    }

    /// The keys there are.
    pub(crate) fn keys(&self) -> Vec<K> {
        self.map.keys().map(|octets| record(&octets)).collect()
    }

    fn fault(&self, operation: &'static str, error: &libbpf_rs::Error) -> Error {
        map_fault(self.name, operation, error)
    }
}
