//! The interfaces that packets may leave by.

use super::Hash;
use crate::Result;

/// The maps of the interfaces that packets may leave by, by index.
#[derive(Debug)]
pub(crate) struct Ports {
    all: Hash<u32, u32>,
    frags: Hash<u32, u32>,
    /// The port that each device which frames come in by is, or is a member of.
    devices: Hash<u32, u32>,
}

impl Ports {
    pub(super) const fn new(
        all: Hash<u32, u32>,
        frags: Hash<u32, u32>,
        devices: Hash<u32, u32>,
    ) -> Self {
        Self { all, frags, devices }
    }

    /// Tells by which port frames come in that come in by a device.
    pub(crate) fn enter(&self, device: u32, port: u32) -> Result<()> {
        self.devices.insert(&device, &port)
    }

    /// Forgets that.
    pub(crate) fn leave(&self, device: u32) -> Result<()> {
        self.devices.remove(&device)
    }

    /// Adds an interface of the calling thread's network namespace. Frames that
    /// are in several buffers do not leave by it.
    pub(crate) fn insert(&self, ifindex: u32) -> Result<()> {
        self.all.insert(&ifindex, &ifindex)
    }

    /// Lets frames that are in several buffers leave by it too.
    pub(crate) fn allow_frags(&self, ifindex: u32) -> Result<()> {
        self.frags.insert(&ifindex, &ifindex)
    }

    /// No longer lets them.
    pub(crate) fn refuse_frags(&self, ifindex: u32) -> Result<()> {
        self.frags.remove(&ifindex)
    }

    /// Removes an interface, if it is there.
    pub(crate) fn remove(&self, ifindex: u32) -> Result<()> {
        let () = self.frags.remove(&ifindex)?;
        self.all.remove(&ifindex)
    }
}
