//! What happens in the background, for the application and others to read.

mod log;

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use nix::sys::eventfd::EfdFlags;
use nix::sys::eventfd::EventFd;

use crate::DestinationStatus;
use crate::Error;
use crate::Offload;
use crate::Prefix;
use crate::Result;
use crate::ServiceKey;
use crate::VlanStatus;
use crate::bpf::Maps;
pub use log::EventReader;
use log::Log;
pub use log::Since;

/// Something that happened without a call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are what the message names")]
pub enum Event {
    /// The driver takes no native program; the interface runs generic, slower.
    GenericMode { interface: String, reason: String },
    /// A receive offload that harms is on and cannot be turned off.
    OffloadOn { interface: String, offload: Offload },
    /// A destination's next hop is known: it gets new flows now.
    Resolved { service: ServiceKey, address: IpAddr },
    /// A destination gets no new flows any more.
    Unreachable { service: ServiceKey, address: IpAddr, status: DestinationStatus },
    /// An interface of the instance, or a member of its bond, went down or away.
    InterfaceDown { interface: String },
    /// An interface of the instance, or a member of its bond, is up again.
    InterfaceUp { interface: String },
    /// An interface of the instance, or a member of its bond, came, and the
    /// program is on it.
    Attached { interface: String },
    /// A prefix of a VLAN can be reached, or cannot, from now on.
    Vlan { vlan: u16, prefix: Prefix, status: VlanStatus },
    /// Routers say how long packets in tunnels to a server may be, in octets with
    /// the tunnel's headers; `None`: that was 10 minutes ago, and longer ones are
    /// tried again.
    PathMtu { server: IpAddr, mtu: Option<u32> },
    /// The data plane that another process had left forwarding was taken over.
    TakenOver { process: u32 },
    /// So many events were dropped, for nobody read them.
    Dropped(u64),
    /// The kernel had more news than could be read; everything was read anew.
    EventsLost,
    /// Something in the background failed; it is tried again.
    Failed(String),
    /// The hash table of a service was replaced, because of the network or of a
    /// call; so many destinations get new flows by it.
    TableRebuilt { service: ServiceKey, destinations: usize },
    /// Packets for a service are over its limit, and refused, from now on.
    FloodBegan { service: ServiceKey },
    /// Packets for a service are within its limit again; so many were refused.
    FloodEnded { service: ServiceKey, packets: u64 },
    /// A disabled destination has no flows any more. So many were left at its
    /// deadline, and are hashed anew.
    Drained { service: ServiceKey, address: IpAddr, moved: u64 },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GenericMode { interface, reason } => {
                write!(f, "interface `{interface}` runs in generic mode, which is slow: {reason}")
            }
            Self::OffloadOn { interface, offload } => write!(
                f,
                "interface `{interface}`: {offload} is on and cannot be turned off: {}",
                offload.effect()
            ),
            Self::Resolved { service, address } => {
                write!(f, "service {service}: destination {address} is reachable")
            }
            Self::Unreachable { service, address, status } => {
                write!(f, "service {service}: destination {address} gets no new flows: {status}")
            }
            Self::InterfaceDown { interface } => write!(f, "interface `{interface}` is down"),
            Self::InterfaceUp { interface } => write!(f, "interface `{interface}` is up"),
            Self::Attached { interface } => write!(f, "interface `{interface}` is attached to"),
            Self::Vlan { vlan, prefix, status } => write!(f, "VLAN {vlan}: {prefix}: {status}"),
            Self::PathMtu { server, mtu: Some(mtu) } => {
                write!(f, "the path of tunnels to {server} takes {mtu} octets")
            }
            Self::PathMtu { server, mtu: None } => {
                write!(f, "what the path of tunnels to {server} takes is tried again")
            }
            Self::TakenOver { process } => {
                write!(f, "what process {process} had left forwarding was taken over")
            }
            Self::EventsLost => f.write_str("netlink events were lost; the network was read again"),
            Self::Dropped(count) => write!(f, "{count} events were dropped unread"),
            Self::Failed(what) => write!(f, "background failure: {what}"),
            Self::TableRebuilt { service, destinations } => {
                write!(
                    f,
                    "service {service}: its table was rebuilt over {destinations} of its destinations"
                )
            }
            Self::FloodBegan { service } => {
                write!(f, "service {service}: packets over its limit are refused")
            }
            Self::FloodEnded { service, packets } => {
                write!(
                    f,
                    "service {service}: within its limit again; {packets} packets were refused"
                )
            }
            Self::Drained { service, address, moved: 0 } => {
                write!(f, "service {service}: destination {address} is drained of its flows")
            }
            Self::Drained { service, address, moved } => write!(
                f,
                "service {service}: destination {address} is drained; {moved} flows were left \
                 at its deadline and go to others"
            ),
        }
    }
}

/// Events that nobody in this process has read yet, of which the oldest go when
/// there are too many; and the log of them for other processes.
#[derive(Debug)]
pub(crate) struct Events {
    unread: Mutex<Unread>,
    some: Condvar,
    /// Readable while there are some.
    readable: EventFd,
}

#[derive(Debug, Default)]
struct Unread {
    events: VecDeque<Event>,
    dropped: u64,
    log: Option<Log>,
}

impl Events {
    const KEPT: usize = 1024;

    pub(crate) fn new() -> Result<Self> {
        let readable = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| Error::System { call: "eventfd", source: errno.into() })?;
        Ok(Self { unread: Mutex::default(), some: Condvar::new(), readable })
    }

    pub(crate) fn push(&self, event: Event) {
        let mut unread = self.lock();
        if let Some(log) = &mut unread.log {
            log.write(&event);
        }
        if unread.events.len() == Self::KEPT {
            unread.events.pop_front();
            unread.dropped += 1;
        }
        unread.events.push_back(event);
        if unread.events.len() == 1 {
            // A counter of one is never full.
            let _ = self.readable.write(1);
        }
        self.some.notify_all();
    }

    /// Writes events to the log of an instance from now on, first those that are
    /// unread.
    pub(crate) fn log_to(&self, maps: Arc<Maps>) {
        let mut unread = self.lock();
        let mut log = Log::new(maps);
        unread.events.iter().for_each(|event| log.write(event));
        unread.log = Some(log);
    }

    /// All of them, and first how many were dropped before them.
    pub(crate) fn take(&self) -> Vec<Event> {
        self.take_from(&mut self.lock())
    }

    /// The same, once there is at least one, or after this time.
    pub(crate) fn wait(&self, timeout: Duration) -> Vec<Event> {
        let is_empty = |unread: &mut Unread| unread.events.is_empty();
        let waited = self.some.wait_timeout_while(self.lock(), timeout, is_empty);
        self.take_from(&mut waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    fn take_from(&self, unread: &mut Unread) -> Vec<Event> {
        // Nothing to be read is fine.
        let _ = self.readable.read();
        let dropped = std::mem::take(&mut unread.dropped);
        let dropped = (dropped > 0).then_some(Event::Dropped(dropped));
        dropped.into_iter().chain(unread.events.drain(..)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Unread> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readable.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use nix::poll::PollFd;
    use nix::poll::PollFlags;
    use nix::poll::PollTimeout;
    use nix::poll::poll;

    use super::*;

    #[test]
    fn the_oldest_are_dropped_and_counted() {
        let events = Events::new().expect("an eventfd");
        for number in 0..Events::KEPT + 3 {
            events.push(Event::Failed(number.to_string()));
        }
        let taken = events.take();
        assert_eq!(taken.len(), Events::KEPT + 1);
        assert_eq!(taken[..2], [Event::Dropped(3), Event::Failed("3".to_owned())]);
        assert!(events.take().is_empty());
    }

    #[test]
    fn the_file_is_readable_while_events_are_unread() {
        let events = Events::new().expect("an eventfd");
        let is_readable = || {
            let mut files = [PollFd::new(events.as_fd(), PollFlags::POLLIN)];
            poll(&mut files, PollTimeout::ZERO).expect("it can be asked") == 1
        };
        for _ in 0..2 {
            assert!(!is_readable());
            events.push(Event::EventsLost);
            events.push(Event::EventsLost);
            assert!(is_readable());
            assert_eq!(events.take().len(), 2);
        }
        assert!(!is_readable());
    }

    #[test]
    fn waiting_ends_with_an_event_or_the_time() {
        let events = Events::new().expect("an eventfd");
        assert!(events.wait(Duration::from_millis(1)).is_empty());
        thread::scope(|scope| {
            scope.spawn(|| events.push(Event::EventsLost));
            assert_eq!(events.wait(Duration::from_secs(60)), [Event::EventsLost]);
        });
    }
}
