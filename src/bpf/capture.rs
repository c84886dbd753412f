//! The program that sends frames to captures, and those who capture.
#![allow(unsafe_code, reason = "records come from the kernel as octets")]

use std::mem::MaybeUninit;
use std::mem::size_of;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::process;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use libbpf_rs::MapCore;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use libbpf_rs::PerfBuffer;
use libbpf_rs::PerfBufferBuilder;
use libbpf_rs::skel::OpenSkel;
use libbpf_rs::skel::SkelBuilder;

use self::skeleton::CaptureSkelBuilder;
use self::skeleton::types::xvs_capture as CaptureRecord;
use self::skeleton::types::xvs_captured as CapturedRecord;
use super::Array;
use super::Directory;
use super::Maps;
use super::map_fault;
use super::types::Cpu;
use super::types::ProgramNumber;
use super::types::Record;
use super::types::Settings;
use super::types::octets;
use super::types::record;
use crate::Error;
use crate::Result;
use crate::host;
use crate::readable::wait_readable;

/// The skeleton that libbpf-cargo makes of `bpf/capture.bpf.c`.
#[allow(unsafe_code, unused_imports, rust_2018_idioms, missing_docs, clippy::all)]
#[allow(clippy::undocumented_unsafe_blocks, clippy::semicolon_if_nothing_returned)]
mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/capture.skel.rs"));
}

/// The most octets of a frame: a record of perf events has room for 65,535 with its
/// headers.
pub(crate) const CAPTURE_MOST: u32 = 65_000;

/// Each capture's map of buffers.
const FRAMES: [&str; 4] = ["frames0", "frames1", "frames2", "frames3"];

/// Frames that each CPU's buffer is to have room for, and what it has at least and
/// at most, in pages.
const ROOM: usize = 64;
const PAGES: (usize, usize) = (64, 1024);

/// Where words are in their records.
const REASONS: usize = std::mem::offset_of!(CaptureRecord, reasons) / 8;
const PROCESS: usize = std::mem::offset_of!(CaptureRecord, process) / 8;
const CAPTURES: usize = std::mem::offset_of!(Cpu, captures) / 8;

/// `struct xvs_captured_frame`, which the skeleton has not, as no map's type names
/// it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct FrameRecord {
    pub(crate) time: u64,
    pub(crate) reason: u32,
    pub(crate) verdict: u32,
    pub(crate) ifindex: u32,
    pub(crate) length: u32,
    captured: u32,
    pad: u32,
}

const _: () = assert!(size_of::<FrameRecord>() == 32);
// SAFETY: `repr(C)` without padding (the size above is the sum of its fields), and
// made of integers alone.
unsafe impl Record for FrameRecord {}
const _: () = assert!(size_of::<CaptureRecord>() == 32);
// SAFETY: as above.
unsafe impl Record for CaptureRecord {}
const _: () = assert!(size_of::<CapturedRecord>() == 64);
// SAFETY: as above.
unsafe impl Record for CapturedRecord {}

/// Loads the program, and puts it where the others find it. Its maps are pinned
/// beside theirs.
pub(super) fn load(settings: &Settings, directory: &Directory) -> Result<()> {
    let fault = |error: libbpf_rs::Error| Error::Load { source: error.into() };
    let mut object = MaybeUninit::uninit();
    let mut open = CaptureSkelBuilder::default().open(&mut object).map_err(fault)?;
    let rows = FRAMES.len() as u32 * settings.cpus;
    let () = open.maps.captured.set_max_entries(rows).map_err(fault)?;
    for mut map in open.open_object_mut().maps_mut() {
        let pin = directory.pin(&map.name().to_string_lossy());
        if pin.exists() {
            let () = map.reuse_pinned_map(pin).map_err(fault)?;
        }
    }
    // The same constants as those of the data plane.
    let () = open.maps.rodata.set_initial_value(octets(settings)).map_err(fault)?;
    if settings.frags != 0 {
        // A program calls only those that take the same frames.
        open.progs.capture.set_flags(libbpf_sys::BPF_F_XDP_HAS_FRAGS);
    }
    let mut skeleton = open.load().map_err(fault)?;
    let maps = &mut skeleton.maps;
    for (map, name) in [
        (&mut maps.captures, "captures"),
        (&mut maps.captured, "captured"),
        (&mut maps.frames0, FRAMES[0]),
        (&mut maps.frames1, FRAMES[1]),
        (&mut maps.frames2, FRAMES[2]),
        (&mut maps.frames3, FRAMES[3]),
    ] {
        let pin = directory.pin(name);
        if !pin.exists() {
            map.pin(pin).map_err(|error| map_fault(name, "pinning", &error))?;
        }
    }
    let program = skeleton.progs.capture.as_fd().as_raw_fd();
    let number = ProgramNumber::XVS_PROGRAM_CAPTURE.0.to_ne_bytes();
    let programs = &skeleton.maps.programs;
    let inserted = programs.update(&number, &program.to_ne_bytes(), MapFlags::ANY);
    inserted.map_err(|error| map_fault("programs", "insertion", &error))
}

/// What a capture asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// A bit for each.
    pub(crate) reasons: u64,
    /// Frames in a second, of each CPU.
    pub(crate) rate: u32,
    /// Octets of a frame.
    pub(crate) snaplen: u32,
}

/// A frame as the program sent it.
#[derive(Clone, Debug)]
pub(crate) struct CapturedFrame {
    pub(crate) record: FrameRecord,
    pub(crate) octets: Vec<u8>,
}

impl CapturedFrame {
    fn parse(sample: &[u8]) -> Option<Self> {
        let (head, rest) = sample.split_at_checked(size_of::<FrameRecord>())?;
        let record: FrameRecord = record(head);
        // The kernel pads samples.
        let octets = rest.get(..record.captured as usize)?.to_vec();
        Some(Self { record, octets })
    }
}

/// One capture of an instance, over when this is dropped.
#[derive(Debug)]
pub(crate) struct CaptureBuffers {
    /// `None` once it is over; gone before the number is given up.
    buffer: Option<PerfBuffer<'static>>,
    _frames: MapHandle,
    received: Arc<Mutex<Vec<CapturedFrame>>>,
    number: u32,
    reasons: u64,
    captures: Array<CaptureRecord>,
    captured: Array<CapturedRecord>,
    maps: Arc<Maps>,
    /// What was counted before it began.
    before: (u64, u64),
}

impl CaptureBuffers {
    /// Starts a capture of the instance that has these maps.
    pub(crate) fn start(maps: Arc<Maps>, wanted: Wanted) -> Result<Self> {
        let open = |name: &'static str| {
            MapHandle::from_pinned_path(maps.folder.join(name))
                .map_err(|error| map_fault(name, "opening", &error))
        };
        let captures = Array::new("captures", &open("captures")?)?;
        let captured = Array::new("captured", &open("captured")?)?;
        let number = claim(&captures)?;
        let opened = open(FRAMES[number as usize]).and_then(|frames| {
            let received = Arc::default();
            let buffer = buffer(&frames, wanted.snaplen as usize, Arc::clone(&received))?;
            Ok((buffer, frames, received))
        });
        let (buffer, frames, received) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                captures.write(number, &CaptureRecord::default());
                return Err(error);
            }
        };
        let mut started = Self {
            buffer: Some(buffer),
            _frames: frames,
            received,
            number,
            reasons: wanted.reasons,
            captures,
            captured,
            maps,
            before: (0, 0),
        };
        started.before = started.counted();
        // The reasons last: they are what sets it going.
        let record = CaptureRecord {
            reasons: 0,
            rate: wanted.rate.into(),
            snaplen: wanted.snaplen.into(),
            process: process::id().into(),
        };
        started.captures.write(number, &record);
        started.captures.words(number)[REASONS].store(wanted.reasons, Ordering::Release);
        started.ask();
        Ok(started)
    }

    /// Asks each CPU for frames. One may have forgotten that it was asked, if it was
    /// just then that it found another capture to be over.
    pub(crate) fn ask(&self) {
        for word in self.asked() {
            word.fetch_or(self.reasons, Ordering::AcqRel);
        }
    }

    /// Ends it; frames that have come can still be read.
    pub(crate) fn stop(&mut self) {
        self.reasons = 0;
        let words = self.captures.words(self.number);
        // Another one may have the number by now.
        if words[PROCESS].load(Ordering::Acquire) != u64::from(process::id()) {
            return;
        }
        words[REASONS].store(0, Ordering::Release);
        let reasons = (0..self.captures.len())
            .map(|i| self.captures.words(i)[REASONS].load(Ordering::Acquire));
        let others = reasons.fold(0, |all, reasons| all | reasons);
        for word in self.asked() {
            word.fetch_and(others, Ordering::AcqRel);
        }
    }

    /// What each CPU is asked for.
    fn asked(&self) -> impl Iterator<Item = &AtomicU64> {
        (0..self.maps.cpus.len()).map(|row| &self.maps.cpus.words(row)[CAPTURES])
    }

    /// The frames that have come, by time; waits for one.
    pub(crate) fn frames(&self, timeout: Duration) -> Result<Vec<CapturedFrame>> {
        if !timeout.is_zero() {
            let waited = wait_readable(&self.fd(), Some(timeout));
            let _ = waited.map_err(|source| Error::System { call: "poll", source })?;
        }
        // Whether a buffer has something is told once, to whoever waits for it; so all
        // of them are looked into.
        let () = self.buffer().consume().map_err(|error| map_fault("frames", "reading", &error))?;
        let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        let mut frames = std::mem::take(&mut *received);
        // Each CPU has a buffer of its own.
        frames.sort_by_key(|frame| frame.record.time);
        Ok(frames)
    }

    /// How many frames were more than the rate, and for how many there was no room.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let (over, lost) = self.counted();
        (over.wrapping_sub(self.before.0), lost.wrapping_sub(self.before.1))
    }

    fn counted(&self) -> (u64, u64) {
        let rows = self.captured.len() / self.captures.len();
        let rows = (0..rows).map(|row| self.captured.read(self.number * rows + row));
        rows.fold((0, 0), |(over, lost), row| (over + row.over, lost + row.lost))
    }

    /// Whether the instance's program is the one that it was.
    pub(crate) fn is_current(&self) -> bool {
        self.maps.is_current()
    }

    fn buffer(&self) -> &PerfBuffer<'static> {
        // SANITY: it is there until this is dropped.
        self.buffer.as_ref().expect("a buffer")
    }

    /// Readable when frames have come.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the buffer keeps it open as long as `self` lives.
        unsafe { BorrowedFd::borrow_raw(self.buffer().epoll_fd()) }
    }
}

impl Drop for CaptureBuffers {
    fn drop(&mut self) {
        self.stop();
        // The kernel is told to forget whatever buffers have the number.
        self.buffer = None;
        let process = u64::from(process::id());
        let word = &self.captures.words(self.number)[PROCESS];
        // If it is not ours any more, it is right so.
        let _ = word.compare_exchange(process, 0, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// Takes a number that no living process has.
fn claim(captures: &Array<CaptureRecord>) -> Result<u32> {
    let ours = u64::from(process::id());
    let is_alive = |process: u64| Path::new("/proc").join(process.to_string()).exists();
    for number in 0..captures.len() {
        let words = captures.words(number);
        let owner = words[PROCESS].load(Ordering::Acquire);
        if owner != 0 && is_alive(owner) {
            continue;
        }
        let claimed =
            words[PROCESS].compare_exchange(owner, ours, Ordering::AcqRel, Ordering::Relaxed);
        if claimed.is_ok() {
            words[REASONS].store(0, Ordering::Release);
            return Ok(number);
        }
    }
    Err(Error::LimitExceeded {
        limit: "captures of an instance",
        maximum: captures.len() as usize,
        remedy: "end another one first",
    })
}

/// Buffers for all CPUs that are online, in the map.
fn buffer(
    frames: &MapHandle,
    snaplen: usize,
    received: Arc<Mutex<Vec<CapturedFrame>>>,
) -> Result<PerfBuffer<'static>> {
    PerfBufferBuilder::new(frames)
        .pages(pages(snaplen))
        .sample_cb(move |_, sample: &[u8]| {
            let frame = CapturedFrame::parse(sample);
            received.lock().unwrap_or_else(PoisonError::into_inner).extend(frame);
        })
        .build()
        .map_err(|error| Error::CaptureBuffers {
            restriction: (error.kind() == libbpf_rs::ErrorKind::PermissionDenied)
                .then(host::perf_event_paranoid)
                .flatten()
                .filter(|level| *level > 2),
            source: error.into(),
        })
}

/// A power of two.
fn pages(snaplen: usize) -> usize {
    let octets = ROOM * (snaplen + 64);
    octets.div_ceil(4096).next_power_of_two().clamp(PAGES.0, PAGES.1)
}
