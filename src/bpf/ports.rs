//! The interfaces that packets may leave by.

use super::Hash;
use crate::Result;

/// A map of the interfaces that packets may leave by, by index.
#[derive(Debug)]
pub(crate) struct Ports {
    all: Hash<u32, u32>,
}

impl Ports {
    pub(super) const fn new(all: Hash<u32, u32>) -> Self {
        Self { all }
    }

    /// Adds an interface of the calling thread's network namespace.
    pub(crate) fn insert(&self, ifindex: u32) -> Result<()> {
        self.all.insert(&ifindex, &ifindex)
    }

    /// Removes an interface, if it is there.
    pub(crate) fn remove(&self, ifindex: u32) -> Result<()> {
        self.all.remove(&ifindex)
    }
}
