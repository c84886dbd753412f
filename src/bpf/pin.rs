//! The folder of an instance in the BPF file system, and who may use it.

use std::fs;
use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

use libbpf_rs::MapCore;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use libbpf_rs::ProgramMut;
use nix::mount::MsFlags;
use nix::mount::mount;
use nix::sys::statfs::BPF_FS_MAGIC;
use nix::sys::statfs::statfs;

use super::Attachment;
use super::LinkInfo;
use super::Maps;
use super::lock::Lock;
use super::types::InstanceRecord;
use super::types::LAYOUT;
use crate::Error;
use crate::Result;

/// Every instance is in a folder of this folder.
const FOLDER: &str = "xvs";
/// The pin of the program.
const PROGRAM: &str = "xvs";
/// The pin of the ring for news of flows.
const RING: &str = "flow_news";
/// Where it is pinned before it takes the place of another.
const NEXT_PROGRAM: &str = "xvs_next";
/// The pin that tells the layout of the others.
const DESCRIPTION: &str = "instance";
/// What the pins of links to interfaces begin with; the index follows.
const LINK: &str = "link_";
/// The pins of the links to both ends of the probe interface.
const PROBE_LINKS: [&str; 2] = ["link_probe_request", "link_probe_pass"];

/// The folder of an instance, locked by the process that runs it.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    /// Whether its pins stay when this is dropped.
    stays: bool,
    _lock: Lock,
}

impl Directory {
    /// Makes and locks the folder of a new instance. What a process that has
    /// died left there must be of this version's layout.
    pub(crate) fn create(bpffs: &Path, instance: &str) -> Result<Self> {
        mount_bpffs(bpffs)?;
        let path = folder(bpffs, instance);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        let locked = made
            .map_err(|source| fault(&path, source))
            .and_then(|()| Self::lock(path.clone(), instance));
        let directory = locked.inspect_err(|error| {
            if !matches!(error, Error::InstanceBusy { .. }) {
                remove_empty(&path);
            }
        })?;
        let found = layout(&directory.path)?;
        // One that says nothing and is on no interface was killed while it started.
        let is_whole = |found: &u32| *found != 0 || directory.links().is_ok_and(|l| !l.is_empty());
        if let Some(found) = found.filter(|found| *found != LAYOUT && is_whole(found)) {
            return Err(Error::Layout { path: directory.path.clone(), found, expected: LAYOUT });
        }
        Ok(directory)
    }

    /// Locks the folder of an instance whose process has died.
    pub(crate) fn take(bpffs: &Path, instance: &str) -> Result<Self> {
        let path = folder(bpffs, instance);
        let found = fs::metadata(&path);
        if found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Err(Error::InstanceNotFound { instance: instance.to_owned(), path });
        }
        Self::lock(path, instance)
    }

    fn lock(path: PathBuf, instance: &str) -> Result<Self> {
        let file = File::open(&path).map_err(|source| fault(&path, source))?;
        let lock = match Lock::new(file) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let process = owner(&path);
                return Err(Error::InstanceBusy { instance: instance.to_owned(), process });
            }
            Err(source) => return Err(fault(&path, source)),
        };
        // Who had it before may have removed it between the two calls, and
        // somebody else made it anew.
        let ours = lock.metadata().map_err(|source| fault(&path, source))?;
        match fs::metadata(&path) {
            Ok(there) if there.ino() == ours.ino() => Ok(Self { path, stays: true, _lock: lock }),
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(fault(&path, source)),
            _ => Err(Error::InstanceBusy { instance: instance.to_owned(), process: None }),
        }
    }

    /// The folder itself.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where a map or the program is pinned.
    pub(super) fn pin(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Pins the program in place of the one that is there, for readers to see at any
    /// moment one of them.
    pub(super) fn pin_program(&self, program: &mut ProgramMut<'_>) -> Result<()> {
        let (next, pin) = (self.pin(NEXT_PROGRAM), self.pin(PROGRAM));
        // A process that was killed may have left it.
        let _ = fs::remove_file(&next);
        let pinned = program.pin(&next);
        pinned.map_err(|error| fault(&next, io::Error::other(error.to_string())))?;
        fs::rename(&next, &pin).map_err(|source| fault(&pin, source))
    }

    /// Unpins a ring for news of flows that has another size: what is in it is nobody's
    /// any more, and a new one is made.
    pub(super) fn drop_ring_unless(&self, size: u32) {
        let pin = self.pin(RING);
        let ring = MapHandle::from_pinned_path(&pin);
        if ring.is_ok_and(|ring| ring.max_entries() != size) {
            // If it stays, it cannot be loaded with.
            let _ = fs::remove_file(&pin);
        }
    }

    /// Has the pins stay when this is dropped, as they do at first, or go.
    pub(crate) const fn set_stays(&mut self, stays: bool) {
        self.stays = stays;
    }

    /// Where the link to an interface is pinned.
    pub(crate) fn link_pin(&self, ifindex: u32) -> PathBuf {
        self.pin(&format!("{LINK}{ifindex}"))
    }

    /// Where the links to the probe interface are pinned: that of the program for
    /// requests, and that of the other end.
    pub(crate) fn probe_pins(&self) -> [PathBuf; 2] {
        PROBE_LINKS.map(|name| self.pin(name))
    }

    /// The pinned links to interfaces that are still there, in order of their index.
    /// They stay as they are until they are taken.
    pub(crate) fn links(&self) -> Result<Vec<(LinkInfo, Attachment)>> {
        let mut links = Vec::new();
        for name in self.names()? {
            let index = name.strip_prefix(LINK).and_then(|index| index.parse::<u32>().ok());
            let Some(index) = index else { continue };
            let pin = self.pin(&name);
            let opened = Attachment::open(&pin).and_then(|link| Ok((link.info()?, link)));
            let (info, link) = opened.map_err(|source| fault(&pin, source))?;
            if info.ifindex == index {
                links.push((info, link));
            }
        }
        links.sort_by_key(|(info, _)| info.ifindex);
        Ok(links)
    }

    /// The pinned links to both ends of the probe interface, as far as they are there.
    pub(crate) fn probe_links(&self) -> [Option<(LinkInfo, Attachment)>; 2] {
        self.probe_pins().map(|pin| {
            let link = Attachment::open(&pin).ok()?;
            Some((link.info().ok()?, link))
        })
    }

    /// Takes the programs off all interfaces, and removes the pins of these links; their
    /// names are returned.
    pub(crate) fn detach_links(&self) -> Result<Vec<String>> {
        let mut names = self.names()?;
        names.retain(|name| name.starts_with(LINK));
        for name in &names {
            let pin = self.pin(name);
            if let Ok(link) = Attachment::open(&pin) {
                // Of an interface that is gone there is nothing to take off.
                let _ = link.detach();
            }
            fs::remove_file(&pin).map_err(|source| fault(&pin, source))?;
        }
        Ok(names)
    }

    fn names(&self) -> Result<Vec<String>> {
        let fault = |source| fault(&self.path, source);
        let entries = fs::read_dir(&self.path).map_err(fault)?;
        let name = |entry: io::Result<fs::DirEntry>| {
            entry.map(|entry| entry.file_name().to_string_lossy().into_owned())
        };
        let mut names: Vec<String> = entries.map(name).collect::<io::Result<_>>().map_err(fault)?;
        names.sort();
        Ok(names)
    }

    /// Removes all pins; their names are returned.
    pub(crate) fn clear(&self) -> Result<Vec<String>> {
        // Nothing reaches the program any more when its maps go.
        let links = self.detach_links()?;
        let mut names = self.names()?;
        for name in &names {
            let pin = self.pin(name);
            fs::remove_file(&pin).map_err(|source| fault(&pin, source))?;
        }
        names.extend(links);
        names.sort();
        Ok(names)
    }

    /// Removes the folder with all pins; their names are returned.
    pub(crate) fn remove(self) -> Result<Vec<String>> {
        // The folder itself goes when this is dropped, still locked.
        self.clear()
    }

    /// Removes what is left in the folder; what is pinned from now on goes with this.
    pub(crate) fn start_anew(&mut self) -> Result<()> {
        let _ = self.clear()?;
        self.stays = false;
        Ok(())
    }

    /// The names of the instances there are.
    pub(crate) fn list(bpffs: &Path) -> Result<Vec<String>> {
        let path = bpffs.join(FOLDER);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(fault(&path, source)),
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .collect();
        names.sort();
        Ok(names)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.stays {
            // What cannot be removed now is removed by the next instance.
            let _ = self.clear();
        }
        remove_empty(&self.path);
    }
}

/// Removes a folder of an instance, and that of all instances, unless there is
/// something in it.
fn remove_empty(path: &Path) {
    let _ = fs::remove_dir(path);
    if let Some(parent) = path.parent() {
        let _ = fs::remove_dir(parent);
    }
}

impl Maps {
    /// Opens the pinned maps of an instance, whichever process runs it.
    pub(crate) fn open(bpffs: &Path, instance: &str) -> Result<Self> {
        let path = folder(bpffs, instance);
        match layout(&path)? {
            None => Err(Error::InstanceNotFound { instance: instance.to_owned(), path }),
            Some(LAYOUT) => Self::pinned(&path),
            Some(found) => Err(Error::Layout { path, found, expected: LAYOUT }),
        }
    }
}

fn fault(path: &Path, source: io::Error) -> Error {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied => Error::PinAccess { path, source },
        _ => Error::Pins { path, source },
    }
}

fn folder(bpffs: &Path, instance: &str) -> PathBuf {
    bpffs.join(FOLDER).join(instance)
}

/// Makes sure that there is a BPF file system at the path, as tools for BPF
/// do: it is mounted where there is none yet.
fn mount_bpffs(path: &Path) -> Result<()> {
    let fault = |source| Error::Bpffs { path: path.to_owned(), source };
    let found = statfs(path).map_err(|errno| fault(errno.into()))?;
    if found.filesystem_type() == BPF_FS_MAGIC {
        return Ok(());
    }
    mount(Some("bpf"), path, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .map_err(|errno| fault(errno.into()))
}

/// What tells the pins in a folder from others that are made in their place.
pub(super) fn identity(path: &Path) -> Result<(u64, u64)> {
    let pin = path.join(DESCRIPTION);
    let found = fs::metadata(&pin).map_err(|source| fault(&pin, source))?;
    Ok((found.dev(), found.ino()))
}

/// The octets of the pinned description, if there is one.
fn description(path: &Path) -> Option<Vec<u8>> {
    let map = MapHandle::from_pinned_path(path.join(DESCRIPTION)).ok()?;
    map.lookup(&0u32.to_ne_bytes(), MapFlags::ANY).ok()?
}

/// The layout of the pins in a folder; `None` when there are none.
fn layout(path: &Path) -> Result<Option<u32>> {
    let pin = path.join(DESCRIPTION);
    match fs::symlink_metadata(&pin) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(fault(&pin, source)),
        Ok(_) => {}
    }
    // The layout is the first word, whatever else another version has there.
    let octets = description(path).unwrap_or_default();
    let word = octets.first_chunk().copied().unwrap_or_default();
    Ok(Some(u32::from_ne_bytes(word)))
}

/// The process that runs the instance in a folder, as it wrote there itself.
fn owner(path: &Path) -> Option<u32> {
    let octets = description(path)?;
    let start = std::mem::offset_of!(InstanceRecord, process);
    let word = octets.get(start..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*word)).filter(|process| *process != 0)
}
