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
use super::kernel;
use super::map_fault;
use super::pin::PROGRAM;
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
}

/// The loaded data plane. Its pins go when it does.
#[derive(Debug)]
pub(crate) struct Dataplane {
    program: OwnedFd,
    probes: ProbePrograms,
    directory: Option<Directory>,
}

impl Dataplane {
    /// Loads the program and pins it with its maps.
    pub(crate) fn load(sizes: &Sizes, directory: Directory) -> Result<(Self, Maps)> {
        match load_into(sizes, &directory) {
            Ok((program, probes, maps)) => {
                Ok((Self { program, probes, directory: Some(directory) }, maps))
            }
            Err(error) => {
                // Nothing stays of what was pinned before it failed.
                let _ = directory.remove();
                Err(error)
            }
        }
    }

    /// Attaches to an interface in native or generic mode.
    pub(crate) fn attach(&self, ifindex: u32, mode: Mode) -> io::Result<Attachment> {
        Attachment::new(&self.program, ifindex, mode)
    }

    /// The programs of the probe interface.
    pub(crate) const fn probes(&self) -> &ProbePrograms {
        &self.probes
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        if let Some(directory) = self.directory.take() {
            // What cannot be removed now is removed by the next instance.
            let _ = directory.remove();
        }
    }
}

/// Loads the program and pins everything in the folder.
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
        (&mut maps.cpus, rows),
        (&mut maps.traffic, rows * settings.destinations),
        (&mut maps.service_refused, rows * settings.services),
        (&mut maps.vip_refused, rows * settings.services),
        (&mut maps.prefixes, sizes.prefixes),
        (&mut maps.destination_infos, settings.destinations),
        (&mut maps.gauges, settings.destinations),
        (&mut maps.retired, 2 * settings.services),
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
    let mut skeleton = open.load().map_err(fault)?;
    let pinned = |map: &mut libbpf_rs::MapMut<'_>, name: &'static str| {
        map.pin(directory.pin(name)).map_err(|error| map_fault(name, "pinning", &error))
    };
    let maps = &mut skeleton.maps;
    for (map, name) in [
        (&mut maps.instance, "instance"),
        (&mut maps.interfaces, "interfaces"),
        (&mut maps.cards, "cards"),
        (&mut maps.gate, "gate"),
        (&mut maps.flows4, "flows4"),
        (&mut maps.flows6, "flows6"),
        (&mut maps.tags4, "tags4"),
        (&mut maps.tags6, "tags6"),
        (&mut maps.flow_locks, "flow_locks"),
        (&mut maps.destinations, "destinations"),
        (&mut maps.tunnels, "tunnels"),
        (&mut maps.service_ids, "service_ids"),
        (&mut maps.service_hints, "service_hints"),
        (&mut maps.services, "services"),
        (&mut maps.tables, "tables"),
        (&mut maps.vip_ids, "vip_ids"),
        (&mut maps.fragments, "fragments"),
        (&mut maps.ports, "ports"),
        (&mut maps.frags_ports, "frags_ports"),
        (&mut maps.icmp_sources, "icmp_sources"),
        (&mut maps.programs, "programs"),
        (&mut maps.probe_link, "probe_link"),
        (&mut maps.nats, "nats"),
        (&mut maps.probes, "probes"),
        (&mut maps.probe_flows, "probe_flows"),
        (&mut maps.port_devices, "port_devices"),
        (&mut maps.cpus, "cpus"),
        (&mut maps.traffic, "traffic"),
        (&mut maps.service_refused, "service_refused"),
        (&mut maps.vip_refused, "vip_refused"),
        (&mut maps.prefixes, "prefixes"),
        (&mut maps.destination_infos, "destination_infos"),
        (&mut maps.gauges, "gauges"),
        (&mut maps.retired, "retired"),
    ] {
        pinned(map, name)?;
    }
    let progs = &mut skeleton.progs;
    let program = if exchange { &mut progs.xvs } else { &mut progs.xvs_locks };
    program.pin(directory.pin(PROGRAM)).map_err(fault)?;
    let maps = Maps::pinned(directory.path())?;
    let program = program
        .as_fd()
        .try_clone_to_owned()
        .map_err(|source| Error::System { call: "dup", source })?;
    let probes = ProbePrograms::load(&settings, directory)?;
    Ok((program, probes, maps))
}
