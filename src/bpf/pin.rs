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
use nix::errno::Errno;
use nix::fcntl::Flock;
use nix::fcntl::FlockArg;
use nix::mount::MsFlags;
use nix::mount::mount;
use nix::sys::statfs::BPF_FS_MAGIC;
use nix::sys::statfs::statfs;

use super::Maps;
use super::types::InstanceRecord;
use super::types::LAYOUT;
use crate::Error;
use crate::Result;

/// Every instance is in a folder of this folder.
const FOLDER: &str = "xvs";
/// The pin of the program.
pub(super) const PROGRAM: &str = "xvs";
/// The pin that tells the layout of the others.
const DESCRIPTION: &str = "instance";

/// The folder of an instance, locked by the process that runs it.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Directory {
    /// Makes and locks the folder of a new instance. What a process that has
    /// died left there must be of this version's layout.
    pub(crate) fn create(bpffs: &Path, instance: &str) -> Result<Self> {
        mount_bpffs(bpffs)?;
        let path = folder(bpffs, instance);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|source| fault(&path, source))?;
        let directory = Self::lock(path, instance)?;
        let found = layout(&directory.path)?;
        if let Some(found) = found.filter(|found| *found != LAYOUT) {
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
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => {
                let process = owner(&path);
                return Err(Error::InstanceBusy { instance: instance.to_owned(), process });
            }
            Err((_, errno)) => return Err(fault(&path, errno.into())),
        };
        // Who had it before may have removed it between the two calls, and
        // somebody else made it anew.
        let (ours, there) = (lock.metadata(), fs::metadata(&path));
        match (ours, there) {
            (Ok(ours), Ok(there)) if ours.ino() == there.ino() => Ok(Self { path, _lock: lock }),
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

    /// Removes all pins; their names are returned.
    pub(crate) fn clear(&self) -> Result<Vec<String>> {
        let fault = |source| fault(&self.path, source);
        let mut removed = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(fault)? {
            let entry = entry.map_err(fault)?;
            fs::remove_file(entry.path()).map_err(fault)?;
            removed.push(entry.file_name().to_string_lossy().into_owned());
        }
        removed.sort();
        Ok(removed)
    }

    /// Removes the folder with all pins; their names are returned.
    pub(crate) fn remove(self) -> Result<Vec<String>> {
        // The folder itself goes when this is dropped, still locked.
        self.clear()
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
        // Neither is removed while there is something in it.
        let _ = fs::remove_dir(&self.path);
        if let Some(parent) = self.path.parent() {
            let _ = fs::remove_dir(parent);
        }
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
