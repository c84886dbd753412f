//! Frames of a running instance, by what became of them.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use crate::Error;
use crate::Instance;
use crate::Reasons;
use crate::Result;
use crate::bpf::CAPTURE_MOST;
use crate::bpf::CaptureBuffers;
use crate::bpf::CapturedFrame;
use crate::bpf::Wanted;
use crate::clock::now_ns;
use crate::host;

/// The fewest octets of a frame: Ethernet, a tag, and an IPv4 header.
const LEAST: u32 = 38;

/// How often it is looked whether the instance is still there.
const TICK: Duration = Duration::from_millis(500);

/// Frames of a running instance, by what became of them.
///
/// The data plane copies those that are asked for, until this is dropped or the
/// process ends; what becomes of packets does not change. Up to four captures of an
/// instance work beside each other. What is captured is the frame as the data plane
/// leaves it: as it came, if it is dropped or passed; with new headers, if it is
/// sent.
///
/// ```no_run
/// use std::path::Path;
/// use std::time::Duration;
/// use xvs::{Capture, CaptureOptions, Instance};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let instance = Instance::open(Path::new("/sys/fs/bpf"), "default")?;
/// let mut capture = Capture::new(&instance, CaptureOptions::new().reason("malformed"))?;
/// for frame in capture.frames(Duration::from_secs(10))? {
///     println!("{} octets: {:02x?}", frame.length, frame.octets);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Capture {
    instance: String,
    buffers: CaptureBuffers,
    looked: Instant,
    frames: u64,
}

impl Capture {
    /// Starts a capture of an instance.
    ///
    /// # Errors
    ///
    /// When an option is wrong, the instance is captured by four already, the kernel
    /// has no room for buffers, or the process lacks CAP_BPF or CAP_PERFMON (on
    /// Debian CAP_SYS_ADMIN, as long as `kernel.perf_event_paranoid` is 3).
    pub fn new(instance: &Instance, options: CaptureOptions) -> Result<Self> {
        options.validate()?;
        let mut missing = host::missing_capabilities();
        missing.retain(|name| *name != "CAP_NET_ADMIN");
        if !missing.is_empty() {
            return Err(Error::MissingCapability { missing });
        }
        let wanted =
            Wanted { reasons: options.mask()?, rate: options.rate, snaplen: options.snaplen };
        let buffers = CaptureBuffers::start(Arc::clone(&instance.maps), wanted)?;
        let looked = Instant::now();
        Ok(Self { instance: instance.name().to_owned(), buffers, looked, frames: 0 })
    }

    /// The frames that have come since the last call, by time; waits so long for
    /// one.
    ///
    /// # Errors
    ///
    /// [`Error::InstanceEnded`] when the instance has ended, after what it left was
    /// returned.
    pub fn frames(&mut self, timeout: Duration) -> Result<Vec<Frame>> {
        let found = self.buffers.frames(timeout)?;
        if self.looked.elapsed() >= TICK {
            self.looked = Instant::now();
            self.buffers.ask();
            if found.is_empty() && !self.buffers.is_current() {
                return Err(Error::InstanceEnded { instance: self.instance.clone() });
            }
        }
        self.frames += found.len() as u64;
        let (wall, now) = (SystemTime::now(), now_ns());
        let time = |frame: &CapturedFrame| {
            wall - Duration::from_nanos(now.saturating_sub(frame.record.time))
        };
        Ok(found.into_iter().map(|frame| Frame::new(time(&frame), frame)).collect())
    }

    /// Ends it. Frames that have come before can still be read.
    pub fn stop(&mut self) {
        self.buffers.stop();
    }

    /// What was captured so far, and what was not.
    pub fn stats(&self) -> CaptureStats {
        let (over_rate, lost) = self.buffers.counts();
        CaptureStats { frames: self.frames, over_rate, lost }
    }
}

/// Readable when there are frames.
impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.buffers.fd()
    }
}

/// What is captured.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CaptureOptions {
    /// Names of [`Reasons`]. If there are none, any.
    pub reasons: Vec<String>,
    /// How many octets of a frame, from 38 to 65,000.
    pub snaplen: u32,
    /// How many frames in a second, of each CPU, at least 1.
    pub rate: u32,
}

impl CaptureOptions {
    /// Of any reason: 256 octets of up to 1,000 frames in a second, of each CPU.
    pub const fn new() -> Self {
        Self { reasons: Vec::new(), snaplen: 256, rate: 1000 }
    }

    /// Adds a reason; others than those that are added do not count then.
    pub fn reason(mut self, name: &str) -> Self {
        self.reasons.push(name.to_owned());
        self
    }

    /// Sets how many octets of a frame are captured.
    pub const fn snaplen(mut self, octets: u32) -> Self {
        self.snaplen = octets;
        self
    }

    /// Sets how many frames are captured in a second, of each CPU.
    pub const fn rate(mut self, frames: u32) -> Self {
        self.rate = frames;
        self
    }

    fn validate(&self) -> Result<()> {
        for (option, value, least, most) in
            [("snaplen", self.snaplen, LEAST, CAPTURE_MOST), ("rate", self.rate, 1, u32::MAX)]
        {
            if !(least..=most).contains(&value) {
                return Err(Error::OptionRange { option, value, least, most });
            }
        }
        Ok(())
    }

    /// A bit for each reason.
    fn mask(&self) -> Result<u64> {
        if self.reasons.is_empty() {
            return Ok(Reasons::CODES.iter().fold(0, |mask, (_, code)| mask | 1 << code.0));
        }
        self.reasons.iter().try_fold(0, |mask, reason| {
            match Reasons::CODES.iter().find(|(name, _)| name == reason) {
                Some((_, code)) => Ok(mask | 1 << code.0),
                None => Err(Error::UnknownReason {
                    reason: reason.clone(),
                    known: Reasons::CODES.iter().map(|(name, _)| *name).collect(),
                }),
            }
        })
    }
}

impl Default for CaptureOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// A frame, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Frame {
    /// When the data plane was done with it.
    pub time: SystemTime,
    /// The index of the interface that it came in by: of a bond, the member.
    pub interface: u32,
    /// Why: the name of one of the [`Reasons`].
    pub reason: &'static str,
    /// What the data plane had the kernel do with it.
    pub action: Action,
    /// Octets of the whole frame, from its Ethernet header on.
    pub length: u32,
    /// The first of them.
    pub octets: Vec<u8>,
}

impl Frame {
    fn new(time: SystemTime, frame: CapturedFrame) -> Self {
        let record = frame.record;
        let named = Reasons::CODES.iter().find(|(_, code)| code.0 == record.reason);
        Self {
            time,
            interface: record.ifindex,
            reason: named.map_or("unknown", |(name, _)| name),
            action: Action::new(record.verdict),
            length: record.length,
            octets: frame.octets,
        }
    }
}

/// What the kernel was to do with a frame: an XDP program's verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Drop it, and call that an error.
    Aborted,
    /// Drop it.
    Drop,
    /// Give it to the host's stack.
    Pass,
    /// Send it by the interface that it came in by.
    Transmit,
    /// Send it by another interface.
    Redirect,
}

impl Action {
    const ALL: [Self; 5] = [Self::Aborted, Self::Drop, Self::Pass, Self::Transmit, Self::Redirect];

    /// The kernel takes numbers that are no verdict for the first one.
    fn new(number: u32) -> Self {
        Self::ALL.get(number as usize).copied().unwrap_or(Self::Aborted)
    }

    /// Its number in `enum xdp_action` of the kernel.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// Its name there, without `XDP_`, in small letters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aborted => "aborted",
            Self::Drop => "drop",
            Self::Pass => "pass",
            Self::Transmit => "tx",
            Self::Redirect => "redirect",
        }
    }
}

/// What a capture got, and what it did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CaptureStats {
    /// Frames captured.
    pub frames: u64,
    /// Frames of the reasons asked for that were more than the rate.
    pub over_rate: u64,
    /// Frames that were lost: they came faster than they were read.
    pub lost: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::ReasonCode;

    #[test]
    fn reasons_are_bits() {
        let all = CaptureOptions::new().mask().unwrap();
        assert_eq!(all, (1 << Reasons::CODES.len()) - 1);
        let options = CaptureOptions::new().reason("not_ip").reason("malformed");
        let bit = |code: ReasonCode| 1_u64 << code.0;
        let right = bit(ReasonCode::XVS_NOT_IP) | bit(ReasonCode::XVS_MALFORMED);
        assert_eq!(options.mask().unwrap(), right);
    }

    #[test]
    fn a_reason_that_is_none_is_refused_with_those_there_are() {
        for name in ["unknown", "not_i", ""] {
            let error = CaptureOptions::new().reason(name).mask().unwrap_err().to_string();
            assert!(error.contains("no_service, no_destination"), "{error}");
        }
    }

    #[test]
    fn options_have_ranges() {
        for snaplen in [LEAST, CAPTURE_MOST] {
            CaptureOptions::new().snaplen(snaplen).validate().unwrap();
        }
        for options in [
            CaptureOptions::new().snaplen(LEAST - 1),
            CaptureOptions::new().snaplen(CAPTURE_MOST + 1),
            CaptureOptions::new().rate(0),
        ] {
            let error = options.validate().unwrap_err();
            assert!(matches!(error, Error::OptionRange { .. }), "{error}");
        }
    }
}
