//! Waiting for a file.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;

/// Waits until a file can be read from, at most so long, without end if that is not
/// given; whether it can. A signal ends it before.
pub(crate) fn wait_readable(file: &impl AsFd, time: Option<Duration>) -> io::Result<bool> {
    // Rounded up, lest whoever has to wait longer spins in the last millisecond.
    let time = time.map(|time| time.saturating_add(Duration::from_micros(999)));
    let timeout = time.and_then(|time| PollTimeout::try_from(time).ok());
    let mut files = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    match poll(&mut files, timeout.unwrap_or(PollTimeout::MAX)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
