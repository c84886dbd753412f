//! Loading the program with maps of the right sizes.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;

use libbpf_rs::skel::OpenSkel;
use libbpf_rs::skel::SkelBuilder;

use super::Attachment;
use super::Directory;
use super::Maps;
use super::ProbePrograms;
use super::capture;
use super::kernel;
use super::skeleton::XvsSkelBuilder;
use super::types::PATHS;
use super::types::Settings;
use crate::Error;
use crate::Mode;
use crate::Result;

/// The fewest packets in fragments that are followed at once.
const FRAGMENTS: u32 = 16_384;

/// What the maps' sizes follow from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) settings: Settings,
    pub(crate) table_blocks: u32,
    pub(crate) prefixes: u32,
    pub(crate) possible_cpus: u32,
    /// Octets of the ring that news of flows are in.
    pub(crate) news: u32,
}

/// The loaded data plane, and the folder of its pins.
#[derive(Debug)]
pub(crate) struct Dataplane {
    program: OwnedFd,
    probes: ProbePrograms,
    directory: Directory,
}

impl Dataplane {
    /// Loads the programs with the maps that are pinned in the folder; those that are
    /// not there are made and pinned.
    pub(crate) fn load(sizes: &Sizes, directory: Directory) -> Result<(Self, Maps)> {
        let (program, probes, maps) = load_into(sizes, &directory)?;
        Ok((Self { program, probes, directory }, maps))
    }

    /// Attaches to an interface in native or generic mode.
    pub(crate) fn attach(&self, ifindex: u32, mode: Mode) -> io::Result<Attachment> {
        Attachment::new(&self.program, ifindex, mode)
    }

    /// Puts the program in place of the one that a link has.
    pub(crate) fn replace(&self, attachment: &Attachment) -> io::Result<()> {
        attachment.replace(&self.program)
    }

    /// The programs of the probe interface.
    pub(crate) const fn probes(&self) -> &ProbePrograms {
        &self.probes
    }

    /// The folder of the pins.
    pub(crate) const fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Has the pins stay when this is dropped, or go.
    pub(crate) const fn set_stays(&mut self, stays: bool) {
        self.directory.set_stays(stays);
    }
}

/// Loads the programs; what is not pinned in the folder comes to be.
fn load_into(sizes: &Sizes, directory: &Directory) -> Result<(OwnedFd, ProbePrograms, Maps)> {
    let fault = |error: libbpf_rs::Error| Error::Load { source: error.into() };
    let mut object = MaybeUninit::uninit();
    let mut open = XvsSkelBuilder::default().open(&mut object).map_err(fault)?;

    let settings = sizes.settings;
    let rows = settings.cpus;
    let maps = &mut open.maps;
    for (map, entries) in [
        (&mut maps.flows4, settings.flow_groups),
        (&mut maps.flows6, settings.flow_groups),
        (&mut maps.tags4, settings.flow_groups),
        (&mut maps.tags6, settings.flow_groups),
        (&mut maps.destinations, settings.destinations),
        (&mut maps.tunnels, settings.destinations * PATHS),
        (&mut maps.service_ids, settings.services),
        (&mut maps.services, settings.services),
        // Block 0 is none.
        (&mut maps.tables, sizes.table_blocks + 1),
        (&mut maps.vip_ids, settings.services),
        // An LRU keeps free entries back for each CPU.
        (&mut maps.fragments, FRAGMENTS.max(256 * rows)),
        (&mut maps.nats, settings.destinations),
        (&mut maps.cpus, sizes.possible_cpus),
        (&mut maps.traffic, rows * settings.destinations),
        (&mut maps.service_refused, rows * settings.services),
        (&mut maps.vip_refused, rows * settings.services),
        (&mut maps.inflows, rows * settings.services),
        (&mut maps.prefixes, sizes.prefixes),
        (&mut maps.destination_infos, settings.destinations),
        (&mut maps.gauges, settings.destinations),
        (&mut maps.retired, 2 * settings.services),
        (&mut maps.flow_news, sizes.news),
    ] {
        let () = map.set_max_entries(entries).map_err(fault)?;
    }
    if let Some(rodata) = &mut maps.rodata_data {
        rodata.settings = settings;
    }

    let exchange = kernel::has_exchange();
    let progs = &mut open.progs;
    progs.xvs.set_autoload(exchange);
    progs.xvs_locks.set_autoload(!exchange);
    if settings.frags != 0 {
        progs.xvs.set_flags(libbpf_sys::BPF_F_XDP_HAS_FRAGS);
        progs.xvs_locks.set_flags(libbpf_sys::BPF_F_XDP_HAS_FRAGS);
    }
    directory.drop_ring_unless(open.maps.flow_news.max_entries());
    for mut map in open.open_object_mut().maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        // Constants are the program's own.
        if !name.ends_with(".rodata") {
            let () = map.set_pin_path(directory.pin(&name)).map_err(fault)?;
        }
    }
    let mut skeleton = open.load().map_err(fault)?;
    let progs = &mut skeleton.progs;
    let program = if exchange { &mut progs.xvs } else { &mut progs.xvs_locks };
    let () = directory.pin_program(program)?;
    let maps = Maps::pinned(directory.path())?;
    let program = program
        .as_fd()
        .try_clone_to_owned()
        .map_err(|source| Error::System { call: "dup", source })?;
    let probes = ProbePrograms::load(&settings, directory)?;
    let () = capture::load(&settings, directory)?;
    Ok((program, probes, maps))
}
