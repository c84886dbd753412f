//! The batch operations of maps (since Linux 5.6), which libbpf-rs has in a
//! form that loses entries.
#![allow(unsafe_code, reason = "calls into libbpf")]

use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::ptr;

use super::types::Record;

/// Puts all entries; when that fails, some may be there.
pub(super) fn insert<K: Record, V: Record>(
    fd: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> io::Result<()> {
    assert_eq!(keys.len(), values.len(), "a value for each key");
    let mut done = 0;
    while done < keys.len() {
        let mut count = (keys.len() - done) as u32;
        // SAFETY: there are `count` keys and values from `done` on.
        let result = unsafe {
            libbpf_sys::bpf_map_update_batch(
                fd.as_raw_fd(),
                keys.as_ptr().add(done).cast(),
                values.as_ptr().add(done).cast(),
                &raw mut count,
                ptr::null(),
            )
        };
        proceed(result, count, &mut done)?;
    }
    Ok(())
}

/// Removes all entries with these keys that are there.
pub(super) fn remove<K: Record>(fd: BorrowedFd<'_>, keys: &[K]) -> io::Result<()> {
    let mut done = 0;
    while done < keys.len() {
        let mut count = (keys.len() - done) as u32;
        // SAFETY: there are `count` keys from `done` on.
        let result = unsafe {
            libbpf_sys::bpf_map_delete_batch(
                fd.as_raw_fd(),
                keys.as_ptr().add(done).cast(),
                &raw mut count,
                ptr::null(),
            )
        };
        if -result == libc_errno::ENOENT {
            // The key after those that were removed is not there.
            done += count as usize + 1;
        } else {
            proceed(result, count, &mut done)?;
        }
    }
    Ok(())
}

/// Counts what a call has done; an interrupted one is to be repeated.
fn proceed(result: i32, count: u32, done: &mut usize) -> io::Result<()> {
    match -result {
        0 | libc_errno::EINTR | libc_errno::EAGAIN => {
            *done += count as usize;
            Ok(())
        }
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// The numbers of errors that are told apart here.
mod libc_errno {
    use nix::errno::Errno;

    pub(super) const ENOENT: i32 = Errno::ENOENT as i32;
    pub(super) const EINTR: i32 = Errno::EINTR as i32;
    pub(super) const EAGAIN: i32 = Errno::EAGAIN as i32;
}
