//! The public API: wanted state in.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::process;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::eventfd::EfdFlags;
use nix::sys::eventfd::EventFd;

use crate::Config;
use crate::Destination;
use crate::DestinationExtended;
use crate::Error;
use crate::Event;
use crate::Info;
use crate::Instance;
use crate::Mode;
use crate::Options;
use crate::PutBack;
use crate::Result;
use crate::Service;
use crate::ServiceExtended;
use crate::Vip;
use crate::attachments::Attachments;
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
use crate::census;
use crate::clock::jiffy_ns;
use crate::clock::now_ns;
use crate::config::MAX_PREFIXES;
use crate::control::Control;
use crate::event::Events;
use crate::hash::HashKey;
use crate::host;
use crate::monitor::Monitor;
use crate::net::Net;
use crate::net::Snapshot;
use crate::net::Watcher;
use crate::ports;
use crate::ports::Port;
use crate::probe_link::ProbeLink;
use crate::probe_link::check_prefixes;

/// A load balancer on some interfaces of this host.
///
/// It forwards from the moment it is made until it is dropped, which detaches
/// it and leaves the host as it was found. Meanwhile the receive offloads that
/// XDP cannot have are off ([`Offload`](crate::Offload)). No call waits for the
/// network: what a call wants is in the data plane when it returns, except
/// that a destination gets traffic only when its neighbour entry is resolved,
/// which a background thread sees to.
///
/// Each call happens whole or, with an error, not at all.
#[derive(Debug)]
pub struct Client {
    instance: Instance,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the API and the background thread have in common.
pub(crate) struct Shared {
    /// Dropped before what answers to probes reach it by.
    probe_link: Mutex<ProbeLink>,
    control: Mutex<Control>,
    attachments: Mutex<Attachments>,
    pub(crate) events: Arc<Events>,
    /// Wakes the background thread.
    pub(crate) wake: EventFd,
    stop: Mutex<bool>,
    stopping: Condvar,
}

impl Client {
    /// A balancer with default options on these interfaces.
    ///
    /// # Errors
    ///
    /// As [`Client::with_options`].
    pub fn new(interfaces: &[&str]) -> Result<Self> {
        Self::with_options(Options::new(), interfaces)
    }

    /// A balancer on these interfaces. A bond, or any members of one, stand for the
    /// bond and all of its members.
    ///
    /// # Errors
    ///
    /// When an option or interface is wrong, one of them has another XDP program,
    /// another process runs the instance, NAT addresses would be what the host has or
    /// reaches otherwise, an interface has the name of the one for probes, capabilities are missing (CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN), or
    /// the kernel refuses the program. Nothing is attached then.
    pub fn with_options(options: Options, interfaces: &[&str]) -> Result<Self> {
        options.validate()?;
        host::check_kernel()?;
        host::check_capabilities()?;
        // The watcher first: what changes while all is read is in its queue.
        let watcher = Watcher::new()?;
        let mut net = Net::new()?;
        ports::resolve(interfaces, &net.snapshot()?)?;

        let directory = Directory::create(&options.bpffs, &options.instance)?;
        // Again, for the last process of this instance may just have ended.
        let observed = net.snapshot()?;
        let mut ports = ports::resolve(interfaces, &observed)?;
        check_unoccupied(&ports, &observed)?;
        check_prefixes(&options, &observed)?;
        let events = Arc::new(Events::default());
        if let Ok(left) = Instance::open(&options.bpffs, &options.instance) {
            clean_up(&left, &mut net, &events);
        }
        let mut start = |directory, mode| {
            start(&options, mode == Mode::Generic, directory, &mut ports, &observed, &events)
        };
        let (attachments, maps) = match start(directory, options.mode) {
            Err(Error::NativeUnsupported { interface, source }) if options.mode == Mode::Auto => {
                events.push(Event::GenericMode { interface, reason: source.to_string() });
                let directory = Directory::create(&options.bpffs, &options.instance)?;
                start(directory, Mode::Generic)?
            }
            started => started?,
        };
        let dataplane = attachments.dataplane();
        let probe_link = ProbeLink::new(&options, dataplane, Arc::clone(&maps), &events)?;
        let control =
            Control::new(&options, Arc::clone(&maps), Arc::clone(&events), ports, observed);

        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| Error::System { call: "eventfd", source: errno.into() })?;
        let shared = Arc::new(Shared {
            probe_link: Mutex::new(probe_link),
            control: Mutex::new(control),
            attachments: Mutex::new(attachments),
            events,
            wake,
            stop: Mutex::new(false),
            stopping: Condvar::new(),
        });
        let mut client = Self {
            instance: Instance::new(&options.instance, Arc::clone(&maps)),
            shared: Arc::clone(&shared),
            threads: Vec::new(),
        };
        let monitor = Monitor::new(Arc::clone(&shared), net, watcher);
        client.spawn("xvs-monitor", move || monitor.run())?;
        client.spawn("xvs-census", move || census::run(&shared, &maps))?;
        Ok(client)
    }

    /// The state of the instance as a whole.
    pub fn info(&self) -> Result<Info> {
        let _still = self.shared.control();
        self.instance.info()
    }

    /// The VLANs and routes as configured.
    pub fn config(&self) -> Config {
        self.shared.control().config().clone()
    }

    /// Sets the VLANs and routes; destinations follow, and flows stay. A VLAN that cannot be
    /// reached is no error: [`Instance::vlans`] tells why it cannot.
    ///
    /// # Errors
    ///
    /// When the configuration is wrong.
    pub fn set_config(&self, config: Config) -> Result<()> {
        self.change(|control| control.set_config(config))
    }

    /// All services, by address, port and protocol.
    pub fn services(&self) -> Result<Vec<ServiceExtended>> {
        let _still = self.shared.control();
        self.instance.services()
    }

    /// One service.
    ///
    /// # Errors
    ///
    /// [`Error::ServiceNotFound`].
    pub fn service(&self, service: &Service) -> Result<ServiceExtended> {
        let _still = self.shared.control();
        self.instance.service(service)
    }

    /// Adds a service without destinations.
    ///
    /// # Errors
    ///
    /// When the service is wrong or exists, or there are too many.
    pub fn create_service(&self, service: &Service) -> Result<()> {
        self.change(|control| {
            if control.has_service(service.key()) {
                return Err(Error::ServiceExists { service: service.key() });
            }
            control.set_service(service, Vec::new())
        })
    }

    /// Changes the settings of a service; its destinations and flows stay.
    ///
    /// # Errors
    ///
    /// When a setting is wrong, or there is no such service.
    pub fn update_service(&self, service: &Service) -> Result<()> {
        self.change(|control| {
            let (_, destinations) = control.service(service.key())?;
            control.set_service(service, destinations)
        })
    }

    /// Makes a service exactly so, with exactly these destinations: adds,
    /// changes and removes what differs.
    ///
    /// # Errors
    ///
    /// When the service or a destination is wrong, or there are too many.
    pub fn set_service(&self, service: &Service, destinations: &[Destination]) -> Result<()> {
        self.change(|control| control.set_service(service, destinations.to_vec()))
    }

    /// Removes a service with its destinations and flows.
    ///
    /// # Errors
    ///
    /// [`Error::ServiceNotFound`].
    pub fn remove_service(&self, service: &Service) -> Result<()> {
        self.change(|control| control.remove_service(service.key()))
    }

    /// The destinations of a service, by address.
    ///
    /// # Errors
    ///
    /// [`Error::ServiceNotFound`].
    pub fn destinations(&self, service: &Service) -> Result<Vec<DestinationExtended>> {
        let _still = self.shared.control();
        self.instance.destinations(service)
    }

    /// All services, by address, port and protocol, each with its
    /// destinations, by address: everything is read once, so that sums agree.
    pub fn all(&self) -> Result<Vec<(ServiceExtended, Vec<DestinationExtended>)>> {
        let _still = self.shared.control();
        self.instance.all()
    }

    /// Adds a destination. It gets traffic as soon as its next hop is known.
    ///
    /// # Errors
    ///
    /// When it is wrong or exists, there is no such service, or there are too
    /// many destinations.
    pub fn create_destination(&self, service: &Service, destination: &Destination) -> Result<()> {
        self.change(|control| {
            let (service, mut all) = control.service(service.key())?;
            // One that is there already is refused below, as one given twice.
            all.push(destination.clone());
            control.set_service(&service, all)
        })
    }

    /// Changes a destination's weight or disables it; its flows stay.
    ///
    /// # Errors
    ///
    /// When it is wrong, or there is no such service or destination.
    pub fn update_destination(&self, service: &Service, destination: &Destination) -> Result<()> {
        self.change(|control| {
            let (service, mut all) = control.service(service.key())?;
            *find(&service, &mut all, destination)? = destination.clone();
            control.set_service(&service, all)
        })
    }

    /// Removes a destination; its flows are hashed anew.
    ///
    /// # Errors
    ///
    /// When there is no such service or destination.
    pub fn remove_destination(&self, service: &Service, destination: &Destination) -> Result<()> {
        self.change(|control| {
            let (service, mut all) = control.service(service.key())?;
            let address = find(&service, &mut all, destination)?.address;
            all.retain(|d| d.address != address);
            control.set_service(&service, all)
        })
    }

    /// All virtual addresses.
    pub fn vips(&self) -> Result<Vec<Vip>> {
        let _still = self.shared.control();
        self.instance.vips()
    }

    /// One virtual address.
    ///
    /// # Errors
    ///
    /// [`Error::VipNotFound`].
    pub fn vip(&self, address: IpAddr) -> Result<Vip> {
        let _still = self.shared.control();
        self.instance.vip(address)
    }

    /// The NAT address of a VIP on one server: of the first of its services that has
    /// the server. What this host sends there reaches that server as a packet for the
    /// VIP, by the destination's own tunnel and VLAN.
    ///
    /// # Errors
    ///
    /// [`Error::VipNotFound`]; [`Error::DestinationNotFound`], naming the VIP's first
    /// service, when none of them has the server.
    pub fn nat(&self, vip: IpAddr, rip: IpAddr) -> Result<IpAddr> {
        self.shared.control().nat(vip, rip)
    }

    /// The NAT address of a service on one server, where services of a VIP differ in
    /// their tunnels.
    ///
    /// # Errors
    ///
    /// [`Error::ServiceNotFound`], [`Error::DestinationNotFound`].
    pub fn nat_service(&self, service: &Service, rip: IpAddr) -> Result<IpAddr> {
        self.shared.control().nat_of(service.key(), rip)
    }

    /// What happened in the background since the last call, oldest first. At
    /// most 1,024 events are kept.
    pub fn events(&self) -> Vec<Event> {
        self.shared.events.take()
    }

    /// The view that other processes have of this instance.
    pub const fn instance(&self) -> &Instance {
        &self.instance
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(run)
            .map_err(|source| Error::System { call: "clone", source })?;
        self.threads.push(thread);
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut Control) -> Result<()>) -> Result<()> {
        let result = change(&mut self.shared.control());
        self.shared.wake();
        result
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        *self.shared.stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.stopping.notify_all();
        self.shared.wake();
        for thread in self.threads.drain(..) {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// The state, which no panic leaves half-changed where packets see it.
    pub(crate) fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the program is on. It is locked while interfaces are attached to,
    /// which takes long: never by a call.
    pub(crate) fn attachments(&self) -> MutexGuard<'_, Attachments> {
        self.attachments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn probe_link(&self) -> MutexGuard<'_, ProbeLink> {
        self.probe_link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stopped(&self) -> bool {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits, for less than this when the client is dropped; whether it is.
    pub(crate) fn wait_for_stop(&self, time: Duration) -> bool {
        let stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        let result = self.stopping.wait_timeout_while(stop, time, |stop| !*stop);
        *result.unwrap_or_else(PoisonError::into_inner).0
    }

    fn wake(&self) {
        // The counter can only be full of wake-ups that were not heard yet.
        let _ = self.wake.write(1);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

fn find<'a>(
    service: &Service,
    all: &'a mut [Destination],
    wanted: &Destination,
) -> Result<&'a mut Destination> {
    let (service, address) = (service.key(), wanted.address);
    all.iter_mut()
        .find(|d| d.address == address)
        .ok_or(Error::DestinationNotFound { service, address })
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

/// Loads the data plane and attaches it to the ports, native or generic.
fn start(
    options: &Options,
    generic: bool,
    directory: Directory,
    ports: &mut [Port],
    observed: &Snapshot,
    events: &Arc<Events>,
) -> Result<(Attachments, Arc<Maps>)> {
    directory.clear()?;
    let settings = settings(options, generic)?;
    let sizes = Sizes {
        settings,
        table_blocks: Control::table_blocks(options),
        prefixes: MAX_PREFIXES as u32,
    };
    let (dataplane, maps) = Dataplane::load(&sizes, directory)?;
    let maps = Arc::new(maps);
    maps.instance.write(
        0,
        &InstanceRecord {
            layout: Layout::XVS_LAYOUT_VERSION,
            reasons: ReasonCode::XVS_REASONS,
            tick: Tick::XVS_TICK_SHIFT,
            flow_owner: FlowOwner::XVS_FLOW_SLOT_BITS,
            flow_meta: FlowMeta::XVS_FLOW_SEEN_BITS,
            flow_tag: FlowTag::XVS_TAG_UNUSED,
            tables: Tables::XVS_CHUNK,
            process: process::id(),
            started_ns: now_ns(),
            settings,
            flows: options.flows,
            netns: host::network_namespace(),
            nat4: address_octets(options.nat_prefixes().used4().address()),
            nat6: address_octets(options.nat_prefixes().used6().address()),
            programs: ProgramNumber::XVS_PROGRAM_ANSWER,
            ..Default::default()
        },
    );
    let pause = options.attach_pause;
    let shared = Arc::clone(&maps);
    let attachments = Attachments::new(dataplane, shared, generic, pause, ports, observed, events)?;
    Ok((attachments, maps))
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
