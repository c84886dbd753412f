//! What a process that has died left of its instance, and undoing it.

use std::path::Path;

use super::Instance;
use crate::Error;
use crate::Offload;
use crate::Result;
use crate::bpf::Directory;
use crate::bpf::record_name;
use crate::config::validate_instance;
use crate::net::Net;
use crate::net::Snapshot;
use crate::net::probe_names;
use crate::offloads;
use crate::ports;

/// What [`Instance::detach`] removed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Detached {
    /// The names of the pins that were removed.
    pub pins: Vec<String>,
    /// The offloads that the process had turned off.
    pub offloads: Vec<PutBack>,
    /// The probe interface, if it was still there.
    pub probe_interface: Option<String>,
    /// Whether it was made by another version, so that these could not be read, and
    /// stay off.
    pub unread: bool,
}

/// A receive offload that a process which has died had turned off.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PutBack {
    /// The name of its interface.
    pub interface: String,
    /// The offload.
    pub offload: Offload,
    /// Whether it is on again. It is not if the interface is gone or in another
    /// network namespace, or the process may not change it.
    pub on: bool,
}

impl Instance {
    /// Removes what a process that has died left of its instance: its pins,
    /// and, in the network namespace that the thread is in, what it asked of
    /// neighbour entries, and its probe interface. The offloads that it had turned off
    /// there are turned on again.
    ///
    /// # Errors
    ///
    /// [`Error::InstanceBusy`] when the process lives, which is then left
    /// alone; [`Error::InstanceNotFound`].
    pub fn detach(bpffs: &Path, name: &str) -> Result<Detached> {
        validate_instance(name)?;
        let directory = Directory::take(bpffs, name)?;
        // First of all: it may go on forwarding.
        let mut pins = directory.detach_links()?;
        let (mut offloads, mut probe_interface, mut unread) = (Vec::new(), None, false);
        match Self::open(bpffs, name) {
            Ok(left) => {
                let mut net = Net::new()?;
                // A neighbour entry that stays managed harms nobody.
                let _ = left.disown_neighbours(&mut net);
                offloads = left.put_back_offloads(&mut net)?;
                if left.is_here() {
                    let (host, _) = probe_names(name);
                    probe_interface = net.remove_probe_pair(&host)?.then_some(host);
                }
            }
            // It is removed all the same, as is one that was never whole.
            Err(error) => unread = !matches!(error, Error::InstanceNotFound { .. }),
        }
        pins.extend(directory.remove()?);
        pins.sort();
        Ok(Detached { pins, offloads, probe_interface, unread })
    }

    /// Ends what the process of this instance, which has died, asked the
    /// kernel to do for its destinations' neighbours.
    pub(crate) fn disown_neighbours(&self, net: &mut Net) -> Result<()> {
        let snapshot = net.snapshot()?;
        let interfaces = self.interfaces().into_iter();
        let here = interfaces.filter(|i| self.has_here(i.index, &i.name, &snapshot));
        let ports = ports::of_devices(here.map(|i| i.index), &snapshot);
        for (index, address) in self.neighbours_needed()? {
            if ports::exit(index, &ports, &snapshot).is_some() {
                net.disown(index, address)?;
            }
        }
        Ok(())
    }

    /// Turns on again what the process of this instance, which has died, had
    /// turned off.
    pub(crate) fn put_back_offloads(&self, net: &mut Net) -> Result<Vec<PutBack>> {
        let snapshot = net.snapshot()?;
        let mut all = Vec::new();
        for card in self.cards() {
            let (index, interface) = (card.ifindex, record_name(&card.name));
            let offloads = offloads::of_codes(card.offloads_off);
            let on = match self.has_here(index, &interface, &snapshot) {
                true => offloads::put_back(index, &offloads),
                false => Vec::new(),
            };
            all.extend(offloads.into_iter().map(|offload| PutBack {
                interface: interface.clone(),
                offload,
                on: on.contains(&offload),
            }));
        }
        Ok(all)
    }

    /// Whether an interface of the instance is in the network namespace of the
    /// thread, which may be another one with the same names and indices.
    fn has_here(&self, index: u32, name: &str, snapshot: &Snapshot) -> bool {
        self.is_here() && snapshot.links.get(&index).is_some_and(|link| link.name == name)
    }
}
