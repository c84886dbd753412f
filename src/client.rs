//! The public API: wanted state in.

mod share;

use std::fmt;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
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
use crate::OnExit;
use crate::Options;
use crate::Result;
use crate::Service;
use crate::ServiceExtended;
use crate::ServiceKey;
use crate::Vip;
use crate::attachments::Attachments;
use crate::census;
use crate::control::Control;
use crate::event::Events;
use crate::host;
use crate::lease;
use crate::lease::Suspended;
use crate::monitor::Monitor;
use crate::net::Net;
use crate::net::Watcher;
use crate::probe_link::ProbeLink;
use crate::start::Started;
use crate::start::start;

/// A load balancer on some interfaces of this host.
///
/// It forwards from the moment it is made until it is dropped, which detaches
/// it and leaves the host as it was found, unless [`Options::persist`] says that the
/// data plane goes on; the next client of the instance takes that over. Meanwhile the receive offloads that
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
    on_exit: OnExit,
    threads: Vec<JoinHandle<()>>,
    reading: share::Reading,
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
    /// Whether the data plane goes on when this is dropped.
    stays: AtomicBool,
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
    /// reaches otherwise, an interface has the name of the one for probes, capabilities
    /// are missing (CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN), the kernel refuses the
    /// program, or what another process has left forwarding cannot be taken over with
    /// these options ([`Error::TakeOver`], [`Error::Layout`]). Nothing is attached then,
    /// and what was forwarding goes on.
    pub fn with_options(options: Options, interfaces: &[&str]) -> Result<Self> {
        options.validate()?;
        host::check_kernel()?;
        host::check_capabilities()?;
        // The watcher first: what changes while all is read is in its queue.
        let watcher = Watcher::new()?;
        let mut net = Net::new()?;
        let events = Arc::new(Events::new()?);
        let Started { attachments, probe_link, control, maps, lease } =
            start(&options, interfaces, &mut net, &events)?;

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
            stays: AtomicBool::new(lease.is_some()),
        });
        let mut client = Self {
            instance: Instance::new(&options.instance, Arc::clone(&maps)),
            shared: Arc::clone(&shared),
            on_exit: options.persist,
            threads: Vec::new(),
            reading: share::Reading::default(),
        };
        lease::set(&maps, options.persist);
        lease.into_iter().for_each(Suspended::end);
        let monitor = Monitor::new(Arc::clone(&shared), net, watcher);
        client.spawn("xvs-monitor", move || monitor.run())?;
        let (waits, counted) = (Arc::clone(&shared), Arc::clone(&maps));
        client.spawn("xvs-census", move || census::run(&waits, &counted))?;
        if let OnExit::KeepFor(time) = options.persist {
            client.spawn("xvs-lease", move || lease::run(&shared, &maps, time))?;
        }
        match options.persist {
            OnExit::Detach => client.unpin()?,
            OnExit::Keep | OnExit::KeepFor(_) => client.set_stays(true),
        }
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
        self.change(|control| control.create_service(service))
    }

    /// Changes the settings of a service; its destinations and flows stay.
    ///
    /// # Errors
    ///
    /// When a setting is wrong, or there is no such service.
    pub fn update_service(&self, service: &Service) -> Result<()> {
        self.change(|control| control.update_service(service))
    }

    /// Makes a service exactly so, with exactly these destinations: adds,
    /// changes and removes what differs.
    ///
    /// # Errors
    ///
    /// When the service or a destination is wrong, or there are too many.
    pub fn set_service(&self, service: &Service, destinations: &[Destination]) -> Result<()> {
        self.change(|control| control.replace_service(service, destinations.to_vec()))
    }

    /// Removes a service with its destinations and flows.
    ///
    /// # Errors
    ///
    /// [`Error::ServiceNotFound`].
    pub fn remove_service(&self, service: &Service) -> Result<()> {
        self.change(|control| control.end_service(service.key()))
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
        self.change(|control| control.create_destination(service.key(), destination))
    }

    /// Changes a destination's weight or disables it; its flows stay, until its
    /// deadline if it has one. [`Event::Drained`] tells when it has none any more.
    ///
    /// # Errors
    ///
    /// When it is wrong, or there is no such service or destination.
    pub fn update_destination(&self, service: &Service, destination: &Destination) -> Result<()> {
        self.change(|control| control.update_destination(service.key(), destination))
    }

    /// Removes a destination; its flows are hashed anew.
    ///
    /// # Errors
    ///
    /// When there is no such service or destination.
    pub fn remove_destination(&self, service: &Service, destination: &Destination) -> Result<()> {
        self.change(|control| control.remove_destination(service.key(), destination.address))
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

    /// What was found forwarding when this client took it over and no call has named
    /// since: services, or destinations of services, by service.
    ///
    /// It goes on as it was. A call that creates what is there already takes it, with the
    /// settings that the call has; flows stay. [`Self::remove_inherited`] ends the rest.
    pub fn inherited(&self) -> Vec<(ServiceKey, Vec<IpAddr>)> {
        self.shared.control().inherited()
    }

    /// Removes what was found and no call has named: all that is wanted has been told.
    /// What was removed is returned.
    ///
    /// # Errors
    ///
    /// When one of the services cannot be changed; those before it are.
    pub fn remove_inherited(&self) -> Result<Vec<(ServiceKey, Vec<IpAddr>)>> {
        self.change(Control::remove_inherited)
    }

    /// Detaches, whatever [`Options::persist`] says, and leaves the host as it was found.
    ///
    /// # Errors
    ///
    /// When pins cannot be removed; it is detached all the same.
    pub fn detach(self) -> Result<()> {
        self.unpin()
    }

    /// What happened in the background since the last call, oldest first. At
    /// most 1,024 events are kept.
    pub fn events(&self) -> Vec<Event> {
        self.shared.events.take()
    }

    /// The same, once there is at least one, or after this time.
    pub fn wait_events(&self, timeout: Duration) -> Vec<Event> {
        self.shared.events.wait(timeout)
    }

    /// A file for event loops: it is readable while there are events that
    /// [`Client::events`] has not returned. Only poll it, never read it.
    pub fn events_fd(&self) -> BorrowedFd<'_> {
        self.shared.events.as_fd()
    }

    /// The view that other processes have of this instance.
    pub const fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Has the data plane end with this process, also if that is killed.
    fn unpin(&self) -> Result<()> {
        self.set_stays(false);
        let () = self.shared.attachments().unpin()?;
        self.shared.probe_link().unpin()
    }

    /// Has the data plane go on when this is dropped, or end.
    fn set_stays(&self, stays: bool) {
        self.shared.stays.store(stays, Ordering::Relaxed);
        self.shared.attachments().set_stays(stays);
        self.shared.probe_link().set_stays(stays);
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(run)
            .map_err(|source| Error::System { call: "clone", source })?;
        self.threads.push(thread);
        Ok(())
    }

    fn change<T>(&self, change: impl FnOnce(&mut Control) -> Result<T>) -> Result<T> {
        let result = change(&mut self.shared.control());
        self.shared.wake();
        result
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let OnExit::KeepFor(time) = self.on_exit {
            lease::extend(&self.instance.maps, time);
        }
        *self.shared.stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.stopping.notify_all();
        self.shared.wake();
        for thread in self.threads.drain(..) {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
        lease::set(&self.instance.maps, self.on_exit);
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

    /// Whether the data plane goes on when the client is dropped.
    pub(crate) fn stays(&self) -> bool {
        self.stays.load(Ordering::Relaxed)
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
