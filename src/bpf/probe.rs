//! The programs that take probes to servers, and their answers back.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;

use libbpf_rs::MapCore;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use libbpf_rs::ProgramMut;
use libbpf_rs::skel::OpenSkel;
use libbpf_rs::skel::SkelBuilder;

use self::skeleton::ProbeSkelBuilder;
use super::Attachment;
use super::Directory;
use super::map_fault;
use super::types::ProgramNumber;
use super::types::Settings;
use super::types::octets;
use crate::Error;
use crate::Mode;
use crate::Result;

/// The skeleton that libbpf-cargo makes of `bpf/probe.bpf.c`.
#[allow(unsafe_code, unused_imports, rust_2018_idioms, missing_docs, clippy::all)]
#[allow(clippy::undocumented_unsafe_blocks, clippy::semicolon_if_nothing_returned)]
mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/probe.skel.rs"));
}

/// The loaded programs; the one for answers is where the data plane finds it.
#[derive(Debug)]
pub(crate) struct ProbePrograms {
    request: OwnedFd,
    pass: OwnedFd,
}

impl ProbePrograms {
    /// Loads them with the maps that are pinned in the folder.
    pub(super) fn load(settings: &Settings, directory: &Directory) -> Result<Self> {
        let fault = |error: libbpf_rs::Error| Error::Load { source: error.into() };
        let mut object = MaybeUninit::uninit();
        let mut open = ProbeSkelBuilder::default().open(&mut object).map_err(fault)?;
        for mut map in open.open_object_mut().maps_mut() {
            let name = map.name().to_string_lossy().into_owned();
            // Constants are each object's own.
            if !name.ends_with(".rodata") {
                let () = map.reuse_pinned_map(directory.pin(&name)).map_err(fault)?;
            }
        }
        // The same constants as those of the data plane.
        let () = open.maps.rodata.set_initial_value(octets(settings)).map_err(fault)?;
        let progs = &mut open.progs;
        if settings.frags != 0 {
            // A program calls only those that take the same frames.
            for program in
                [&mut progs.probe_request, &mut progs.probe_answer, &mut progs.probe_pass]
            {
                program.set_flags(libbpf_sys::BPF_F_XDP_HAS_FRAGS);
            }
        }
        let skeleton = open.load().map_err(fault)?;
        let programs = MapHandle::from_pinned_path(directory.pin("programs"))
            .map_err(|error| map_fault("programs", "opening", &error))?;
        let answer = skeleton.progs.probe_answer.as_fd().as_raw_fd();
        programs
            .update(
                &ProgramNumber::XVS_PROGRAM_ANSWER.0.to_ne_bytes(),
                &answer.to_ne_bytes(),
                MapFlags::ANY,
            )
            .map_err(|error| map_fault("programs", "insertion", &error))?;
        let owned = |program: &ProgramMut<'_>| {
            let fd = program.as_fd().try_clone_to_owned();
            fd.map_err(|source| Error::System { call: "dup", source })
        };
        Ok(Self {
            request: owned(&skeleton.progs.probe_request)?,
            pass: owned(&skeleton.progs.probe_pass)?,
        })
    }

    /// Attaches to the inner end of the probe interface: in generic mode, for some
    /// drivers drop what native programs redirect to them from any CPU.
    pub(crate) fn attach_request(&self, ifindex: u32) -> io::Result<Attachment> {
        Attachment::new(&self.request, ifindex, Mode::Generic)
    }

    /// Puts the programs in place of those that the links of the inner end and of the
    /// host's have.
    pub(crate) fn replace(&self, [request, pass]: [&Attachment; 2]) -> io::Result<()> {
        let () = request.replace(&self.request)?;
        pass.replace(&self.pass)
    }

    /// Attaches to the host's end, natively: the kernel gives it frames of native
    /// programs only if it has one.
    pub(crate) fn attach_pass(&self, ifindex: u32) -> io::Result<Attachment> {
        Attachment::new(&self.pass, ifindex, Mode::Native)
    }
}
