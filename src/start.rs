//! Starting a balancer: anew, or with what another process has left forwarding.

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::process;
use std::sync::Arc;

use crate::Error;
use crate::Event;
use crate::Instance;
use crate::Mode;
use crate::Options;
use crate::PutBack;
use crate::Result;
use crate::attachments::Attachments;
use crate::attachments::Manner;
use crate::attachments::check_unoccupied;
use crate::bpf::Dataplane;
use crate::bpf::Directory;
use crate::bpf::FlowMeta;
use crate::bpf::FlowOwner;
use crate::bpf::FlowTag;
use crate::bpf::InstanceRecord;
use crate::bpf::Layout;
use crate::bpf::Maps;
use crate::bpf::ProgramNumber;
use crate::bpf::ReasonCode;
use crate::bpf::Settings;
use crate::bpf::Sizes;
use crate::bpf::Tables;
use crate::bpf::Tick;
use crate::bpf::address_octets;
use crate::bpf::has_frags;
use crate::clock::jiffy_ns;
use crate::clock::now_ns;
use crate::config::MAX_PREFIXES;
use crate::control::Control;
use crate::event::Events;
use crate::hash::HashKey;
use crate::host;
use crate::lease::Suspended;
use crate::net::Net;
use crate::net::Snapshot;
use crate::ports;
use crate::ports::Port;
use crate::probe_link::ProbeLink;
use crate::probe_link::check_prefixes;
use crate::takeover::Left;

/// A data plane on its interfaces, and what sees to it.
pub(crate) struct Started {
    pub(crate) probe_link: ProbeLink,
    pub(crate) control: Control,
    pub(crate) attachments: Attachments,
    pub(crate) maps: Arc<Maps>,
    /// That of a data plane which was taken over; `None`: it was started anew.
    pub(crate) lease: Option<Suspended>,
}

/// Starts an instance on these interfaces, or takes it over. When that fails what there
/// was goes on as it did, and nothing else is left.
pub(crate) fn start(
    options: &Options,
    interfaces: &[&str],
    net: &mut Net,
    events: &Arc<Events>,
) -> Result<Started> {
    ports::resolve(interfaces, &net.snapshot()?)?;
    let directory = Directory::create(&options.bpffs, &options.instance)?;
    // Again, for the last process of this instance may just have ended.
    let observed = net.snapshot()?;
    let ports = ports::resolve(interfaces, &observed)?;
    let left = Left::find(options, &directory, &observed)?;
    check_unoccupied(&ports, &observed, left.as_ref().map_or(&[], |left| &left.links))?;
    check_prefixes(options, &observed)?;
    match left {
        Some(left) => take_over(options, left, directory, ports, net, observed, events),
        None => start_anew(options, directory, ports, net, observed, events),
    }
}

fn start_anew(
    options: &Options,
    directory: Directory,
    mut ports: Vec<Port>,
    net: &mut Net,
    observed: Snapshot,
    events: &Arc<Events>,
) -> Result<Started> {
    if let Ok(left) = Instance::open(&options.bpffs, &options.instance) {
        clean_up(&left, net, events);
    }
    let mut load = |mut directory: Directory, mode| {
        directory.start_anew()?;
        let settings = settings(options, mode == Mode::Generic)?;
        let (dataplane, maps) = Dataplane::load(&sizes(options, settings)?, directory)?;
        let maps = Arc::new(maps);
        let record = InstanceRecord { started_ns: now_ns(), ..Default::default() };
        let () = describe(&maps, options, settings, record)?;
        let manner = Manner::new(options, mode == Mode::Generic, Vec::new());
        let shared = Arc::clone(&maps);
        let attachments =
            Attachments::new(dataplane, shared, manner, &mut ports, &observed, events)?;
        Ok((attachments, maps))
    };
    let (attachments, maps) = match load(directory, options.mode) {
        Err(Error::NativeUnsupported { interface, source }) if options.mode == Mode::Auto => {
            events.push(Event::GenericMode { interface, reason: source.to_string() });
            let directory = Directory::create(&options.bpffs, &options.instance)?;
            load(directory, Mode::Generic)?
        }
        loaded => loaded?,
    };
    events.log_to(Arc::clone(&maps));
    let dataplane = attachments.dataplane();
    let probe_link =
        ProbeLink::new(options, dataplane, Arc::clone(&maps), events, None, &observed)?;
    let control = Control::new(options, Arc::clone(&maps), Arc::clone(events), ports, observed);
    Ok(Started { probe_link, control: control.start(), attachments, maps, lease: None })
}

/// Puts this process's programs in place of those that are there, which have the same
/// maps: each packet meets one or the other.
fn take_over(
    options: &Options,
    left: Left,
    directory: Directory,
    mut ports: Vec<Port>,
    net: &mut Net,
    observed: Snapshot,
    events: &Arc<Events>,
) -> Result<Started> {
    let generic = left.generic;
    check_mode(options, generic)?;
    let settings = left.settings(options, settings(options, generic)?)?;
    let lease = Suspended::new(&left.instance.maps);
    let before = left.record();
    let (dataplane, maps) = Dataplane::load(&sizes(options, settings)?, directory)?;
    let maps = Arc::new(maps);
    events.log_to(Arc::clone(&maps));
    let manner = Manner::new(options, generic, left.links);
    let shared = Arc::clone(&maps);
    let attachments =
        match Attachments::new(dataplane, shared, manner, &mut ports, &observed, events) {
            // The others run native, and stay as they are.
            Err(Error::NativeUnsupported { interface, source }) => {
                let reason = format!(
                    "it runs in native mode, which interface `{interface}` does not take ({source})"
                );
                return Err(Error::TakeOver { instance: options.instance.clone(), reason });
            }
            attached => attached?,
        };
    let probe_link = ProbeLink::new(
        options,
        attachments.dataplane(),
        Arc::clone(&maps),
        events,
        Some(left.probe_links),
        &observed,
    )?;
    let control = Control::new(options, Arc::clone(&maps), Arc::clone(events), ports, observed);
    let control = control.take_over()?;
    let managed = |neighbour: &(u32, IpAddr)| {
        control.observed.neighbours.get(neighbour).is_some_and(|entry| entry.managed)
    };
    for (index, address) in control.neighbours().into_keys().filter(managed) {
        net.adopt(index, address);
    }
    let () = describe(&maps, options, settings, maps.instance.read(0))?;
    events.push(Event::TakenOver { process: before.process });
    Ok(Started { probe_link, control, attachments, maps, lease: Some(lease) })
}

/// A program that is attached stays where it is, in drivers or in the stack.
fn check_mode(options: &Options, generic: bool) -> Result<()> {
    let reason = match options.mode {
        Mode::Native if generic => "it runs in generic mode; start with that, or with auto",
        Mode::Generic if !generic => "it runs in native mode; start with that, or with auto",
        _ => return Ok(()),
    };
    Err(Error::TakeOver { instance: options.instance.clone(), reason: reason.to_owned() })
}

fn sizes(options: &Options, settings: Settings) -> Result<Sizes> {
    Ok(Sizes {
        settings,
        table_blocks: Control::table_blocks(options),
        prefixes: MAX_PREFIXES as u32,
        possible_cpus: host::possible_cpus()?,
        news: if options.share_flows { options.share_ring } else { 1 },
    })
}

/// Tells readers what they need to know of the instance.
fn describe(
    maps: &Maps,
    options: &Options,
    settings: Settings,
    before: InstanceRecord,
) -> Result<()> {
    let nat = options.nat_prefixes();
    let record = InstanceRecord {
        layout: Layout::XVS_LAYOUT_VERSION,
        reasons: ReasonCode::XVS_REASONS,
        tick: Tick::XVS_TICK_SHIFT,
        flow_owner: FlowOwner::XVS_FLOW_SLOT_BITS,
        flow_meta: FlowMeta::XVS_FLOW_SEEN_BITS,
        flow_tag: FlowTag::XVS_TAG_UNUSED,
        tables: Tables::XVS_CHUNK,
        process: process::id(),
        settings,
        flows: options.flows,
        netns: host::network_namespace()?,
        nat4: address_octets(nat.used4().address()),
        nat6: address_octets(nat.used6().address()),
        programs: ProgramNumber::XVS_PROGRAM_ANSWER,
        keep_ns: options.persist.keep_ns(),
        // A process that was killed may have been moving counters.
        changes: before.changes.next_multiple_of(2),
        ..before
    };
    maps.instance.write(0, &record);
    Ok(())
}

/// Undoes what the last process of the instance, which has died, left changed of
/// the host. What cannot be undone is told, and keeps nobody from starting.
fn clean_up(left: &Instance, net: &mut Net, events: &Events) {
    // A neighbour entry that stays managed is no harm.
    let _ = left.disown_neighbours(net);
    let stay_off = match left.put_back_offloads(net) {
        Ok(put_back) => put_back.into_iter().filter(|put_back| !put_back.on).collect(),
        Err(error) => {
            events.push(Event::Failed(error.to_string()));
            Vec::new()
        }
    };
    for PutBack { interface, offload, .. } in stay_off {
        events.push(Event::Failed(format!(
            "{offload} of `{interface}`, which the last process had turned off, stays off; \
             `ethtool -K {interface} {offload} on` turns it on"
        )));
    }
}

fn settings(options: &Options, generic: bool) -> Result<Settings> {
    let key = HashKey::from(options.hash_key);
    let secret = HashKey::from(secret()?);
    let interval = 1_000_000_000 / u64::from(options.icmp_rate);
    let source_interval = 1_000_000_000 / u64::from(options.icmp_source_rate);
    Ok(Settings {
        k0: key.k0,
        k1: key.k1,
        flow_k0: secret.k0,
        flow_k1: secret.k1 | 1,
        flow_groups: flow_groups(options.flows),
        table_size: options.table_size,
        // Number 0 is none.
        services: options.services + 1,
        destinations: options.destinations + 1,
        cpus: host::cpus()?,
        // A generic program that cannot have them gets frames in one buffer from
        // the kernel, which does not follow all that a program does to several.
        frags: u32::from(!generic && has_frags()),
        jiffy_ns: jiffy_ns(),
        icmp_interval: interval,
        // A tenth of a second's worth at once.
        icmp_burst: 100_000_000,
        icmp_source_interval: source_interval,
        icmp_source_burst: (ICMP_SOURCE_BURST - 1) * source_interval,
        share: u32::from(options.share_flows),
        pad: 0,
    })
}

/// How many ICMP errors a source can have at once: browsers open some connections
/// together.
const ICMP_SOURCE_BURST: u64 = 16;

/// The groups of 256 places that a flow table has: 16 places for 9 flows, so that
/// hardly one finds all of its places taken.
const fn flow_groups(flows: u32) -> u32 {
    flows.div_ceil(144)
}

/// Octets that nobody else knows.
fn secret() -> Result<[u8; 16]> {
    let mut octets = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut octets))
        .map_err(|source| Error::System { call: "reading /dev/urandom", source })?;
    Ok(octets)
}
