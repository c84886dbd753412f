//! What a running balancer waits for: signals, and lines of input.

use std::fs::File;
use std::io;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use anyhow::Context;
use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;
use nix::sys::signalfd::SfdFlags;
use nix::sys::signalfd::SignalFd;

/// Waits for a signal, input or events.
pub fn wait(
    signals: &Signals,
    input: &Input,
    events: BorrowedFd<'_>,
    timeout: Duration,
) -> anyhow::Result<()> {
    let watch = |fd| PollFd::new(fd, PollFlags::POLLIN);
    let mut fds = vec![watch(signals.0.as_fd()), watch(events)];
    if let Some(file) = &input.file {
        fds.push(watch(file.as_fd()));
    }
    wait_for(&mut fds, timeout)
}

fn wait_for(fds: &mut [PollFd<'_>], timeout: Duration) -> anyhow::Result<()> {
    // At least one millisecond: less would be no wait at all.
    let timeout = PollTimeout::try_from(timeout.max(Duration::from_millis(1)))?;
    match poll(fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error).context("poll"),
    }
}

/// The signals that end a balancer, to be read instead of interrupting.
pub struct Signals(SignalFd);

impl Signals {
    pub fn block() -> anyhow::Result<Self> {
        let ending = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
        ending.thread_block().context("cannot block signals")?;
        // In the background of a terminal a read then fails with EIO, instead
        // of stopping the balancer.
        SigSet::from(Signal::SIGTTIN).thread_block().context("cannot block SIGTTIN")?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Self(SignalFd::with_flags(&ending, flags).context("cannot read signals")?))
    }

    /// Waits for one of them.
    pub fn wait(&self, timeout: Duration) -> anyhow::Result<()> {
        wait_for(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], timeout)
    }

    /// Waits for one of them, or for something to read.
    pub fn wait_or_read(&self, other: &impl AsFd, timeout: Duration) -> anyhow::Result<()> {
        let mut fds = [self.0.as_fd(), other.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        wait_for(&mut fds, timeout)
    }

    /// The name of the signal that has come, if one has.
    pub fn received(&self) -> anyhow::Result<Option<&'static str>> {
        let Some(info) = self.0.read_signal().context("cannot read signals")? else {
            return Ok(None);
        };
        Ok(Some(Signal::try_from(i32::try_from(info.ssi_signo)?)?.as_str()))
    }
}

/// The lines of standard input, without ever waiting for one.
pub struct Input {
    /// Nothing after the end of the input.
    file: Option<File>,
    /// The start of a line whose end has not come yet.
    pending: Vec<u8>,
}

impl Input {
    /// Longer lines are no commands.
    const LONGEST: usize = 4096;

    pub fn new() -> Self {
        let file = io::stdin().as_fd().try_clone_to_owned().ok().map(File::from);
        Self { file, pending: Vec::new() }
    }

    /// The lines that have come since the last call.
    pub fn lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut block = [0; Self::LONGEST];
        let Some(mut file) = self.file.as_ref().filter(|file| is_readable(file)) else {
            return lines;
        };
        match file.read(&mut block) {
            Ok(0) | Err(_) => {
                self.file = None;
                self.pending.push(b'\n');
            }
            Ok(length) => self.pending.extend_from_slice(&block[..length]),
        }
        while let Some(end) = self.pending.iter().position(|octet| *octet == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            lines.push(String::from_utf8_lossy(&line).into_owned());
        }
        if self.pending.len() > Self::LONGEST {
            lines.push(String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into());
        }
        lines
    }
}

fn is_readable(file: &File) -> bool {
    let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}
