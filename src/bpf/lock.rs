//! Locks on folders, by which one process at a time has what is in them.
#![allow(unsafe_code, reason = "a system call whose wrapper panics when unlocking fails")]

use std::fs::File;
use std::fs::Metadata;
use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;

/// An open file that this process alone has locked, until it is dropped.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    /// Locks a file, if no other process has; [`io::ErrorKind::WouldBlock`] if one has.
    pub(super) fn new(file: File) -> io::Result<Self> {
        let () = flock(&file, libc::LOCK_EX | libc::LOCK_NB)?;
        Ok(Self(file))
    }

    pub(super) fn metadata(&self) -> io::Result<Metadata> {
        self.0.metadata()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A process that was forked meanwhile may have the file open, too. When nobody
        // has, closing it unlocks it all the same.
        let _ = flock(&self.0, libc::LOCK_UN);
    }
}

fn flock(file: &File, operation: i32) -> io::Result<()> {
    // SAFETY: the file is open.
    let result = unsafe { libc::flock(file.as_raw_fd(), operation) };
    Ok(Errno::result(result).map(drop)?)
}
