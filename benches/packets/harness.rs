//! Runs a program on many packets, one after the other: a wrapper writes the
//! frame anew, with another client's address or the like in it, and calls the
//! program under test.
#![allow(unsafe_code, reason = "runs programs by libbpf")]

use std::io;
use std::mem::MaybeUninit;
use std::mem::size_of;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::time::Duration;

use libbpf_rs::MapCore;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use libbpf_rs::OpenObject;
use libbpf_rs::skel::OpenSkel;
use libbpf_rs::skel::SkelBuilder;
use nix::time::ClockId;
use nix::time::clock_gettime;

use crate::xdp::has_frags;

#[allow(unused_imports, rust_2018_idioms, clippy::all)]
#[allow(clippy::undocumented_unsafe_blocks, clippy::semicolon_if_nothing_returned)]
mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/packets.skel.rs"));
}

/// Octets of a frame, unless it is a longer one. So many are written anew.
pub const FRAME: usize = 128;

/// Makes programs take frames as the data plane does. v5.18: f45d5b6ce2e8 ("bpf:
/// generalise tail call map compatibility check") wants that of who calls whom.
pub fn take_frags(object: &mut OpenObject) {
    if has_frags() {
        object.progs_mut().for_each(|mut p| p.set_flags(libbpf_sys::BPF_F_XDP_HAS_FRAGS));
    }
}

/// A program that the wrapper can call.
#[derive(Clone, Copy)]
pub struct Program(u32);

/// Frames that differ in some bits of one word.
#[derive(Clone)]
pub struct Packets {
    /// What they have in common, [`FRAME`] octets or more.
    pub frame: Vec<u8>,
    /// Where the word is.
    pub offset: u32,
    /// The low bits of the word, which is big-endian, that differ.
    pub mask: u32,
}

/// Between packets in a row that are by clients in the order of their numbers.
pub const IN_ORDER: u32 = 1;
/// The same in no order: an odd number, so that all values of the mask come by.
pub const SCATTER: u32 = 0x9e37_79b1;

/// The wrapper with the programs that it can call.
pub struct Harness {
    wrapper: OwnedFd,
    programs: MapHandle,
    plans: MapHandle,
    /// Of the programs.
    number: u32,
    /// The index of the interface that the packets come in on.
    ingress: u32,
    /// Sends every packet back: what it costs is to be subtracted.
    pub nothing: Program,
    /// The least that a balancer must do.
    pub reference: Program,
}

impl Harness {
    /// Loads the wrapper, for packets that come in on this interface.
    pub fn new(interface: &str) -> Self {
        let mut object = MaybeUninit::uninit();
        let mut open = skeleton::PacketsSkelBuilder::default()
            .open(&mut object)
            .expect("the wrapper is an object");
        take_frags(open.open_object_mut());
        let skeleton = open.load().expect("the wrapper loads");
        let map = |map| MapHandle::try_from(map).expect("the map is loaded");
        let wrapper = skeleton.progs.wrapper.as_fd().try_clone_to_owned();
        let mut harness = Self {
            wrapper: wrapper.expect("a descriptor is free"),
            programs: map(&skeleton.maps.programs),
            plans: map(&skeleton.maps.plans),
            number: 0,
            ingress: index(interface),
            nothing: Program(0),
            reference: Program(0),
        };
        harness.nothing = harness.add(skeleton.progs.nothing.as_fd());
        harness.reference = harness.add(skeleton.progs.reference.as_fd());
        harness
    }

    /// Lets the wrapper call a program.
    pub fn add(&mut self, program: BorrowedFd<'_>) -> Program {
        let fd = program.as_raw_fd().to_ne_bytes();
        let index = self.number;
        self.programs
            .update(&index.to_ne_bytes(), &fd, MapFlags::ANY)
            .expect("the program fits the array");
        self.number += 1;
        Program(index)
    }

    /// Runs a program on so many packets from a number on, in no order: the
    /// verdict of the last one, and the processor's time in nanoseconds per
    /// packet.
    pub fn run(&self, program: Program, packets: &Packets, first: u32, count: u32) -> (u32, f64) {
        self.run_by(SCATTER, program, packets, first, count)
    }

    /// Lets so many clients send a packet each.
    pub fn store(&self, program: Program, packets: &Packets, stride: u32, clients: u32) {
        self.run_by(stride, program, packets, 0, clients);
    }

    fn run_by(
        &self,
        stride: u32,
        program: Program,
        packets: &Packets,
        first: u32,
        count: u32,
    ) -> (u32, f64) {
        self.plan(stride, program, packets, first);
        let (verdict, time, _) = self.test_run(&packets.frame, count).expect("the wrapper runs");
        (verdict, time.as_nanos() as f64 / f64::from(count))
    }

    /// What a program makes of the first packet.
    pub fn frame(&self, program: Program, packets: &Packets) -> Vec<u8> {
        self.plan(0, program, packets, 0);
        self.test_run(&packets.frame, 1).expect("the wrapper runs").2
    }

    fn plan(&self, stride: u32, program: Program, packets: &Packets, first: u32) {
        let Packets { frame, offset, mask } = packets;
        let length = frame.len() as u32;
        let words = [program.0, *mask, first, *offset, stride, length];
        let mut plan: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        plan.extend(&frame[..FRAME]);
        self.plans.update(&0u32.to_ne_bytes(), &plan, MapFlags::ANY).expect("the plan fits");
    }

    /// The verdict and the frame of the last run, and the time of all.
    fn test_run(&self, frame: &[u8], count: u32) -> io::Result<(u32, Duration, Vec<u8>)> {
        let mut output = vec![0; frame.len() + 64];
        let mut context = libbpf_sys::xdp_md {
            data_end: frame.len() as u32,
            ingress_ifindex: self.ingress,
            ..Default::default()
        };
        let mut options = libbpf_sys::bpf_test_run_opts {
            sz: size_of::<libbpf_sys::bpf_test_run_opts>() as libbpf_sys::size_t,
            data_in: frame.as_ptr().cast(),
            data_size_in: frame.len() as u32,
            data_out: output.as_mut_ptr().cast(),
            data_size_out: output.len() as u32,
            ctx_in: (&raw mut context).cast(),
            ctx_size_in: size_of::<libbpf_sys::xdp_md>() as u32,
            repeat: count as i32,
            ..Default::default()
        };
        let start = thread_time();
        // SAFETY: the options say how long the frames and the context are.
        let result = unsafe {
            libbpf_sys::bpf_prog_test_run_opts(self.wrapper.as_raw_fd(), &raw mut options)
        };
        let time = thread_time() - start;
        if result != 0 {
            return Err(io::Error::from_raw_os_error(-result));
        }
        output.truncate(options.data_size_out as usize);
        Ok((options.retval, time, output))
    }
}

/// The time that this thread had a processor: what others do on it meanwhile
/// does not count.
fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every Linux has this clock").into()
}

fn index(interface: &str) -> u32 {
    let links = xvs::host::links().expect("the links of this namespace");
    links.iter().find(|link| link.name == interface).expect("the link is there").index
}
