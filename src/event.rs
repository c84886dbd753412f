//! What happens in the background, for the application to read.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use crate::DestinationStatus;
use crate::Offload;
use crate::Prefix;
use crate::ServiceKey;
use crate::VlanStatus;

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
        }
    }
}

/// Events that nobody has read yet; the oldest go when there are too many.
#[derive(Debug, Default)]
pub(crate) struct Events(Mutex<Unread>);

#[derive(Debug, Default)]
struct Unread {
    events: VecDeque<Event>,
    dropped: u64,
}

impl Events {
    const KEPT: usize = 1024;

    pub(crate) fn push(&self, event: Event) {
        let mut unread = self.lock();
        if unread.events.len() == Self::KEPT {
            unread.events.pop_front();
            unread.dropped += 1;
        }
        unread.events.push_back(event);
    }

    /// All of them, and first how many were dropped before them.
    pub(crate) fn take(&self) -> Vec<Event> {
        let mut unread = self.lock();
        let dropped = std::mem::take(&mut unread.dropped);
        let dropped = (dropped > 0).then_some(Event::Dropped(dropped));
        dropped.into_iter().chain(unread.events.drain(..)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Unread> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_dropped_and_counted() {
        let events = Events::default();
        for number in 0..Events::KEPT + 3 {
            events.push(Event::Failed(number.to_string()));
        }
        let taken = events.take();
        assert_eq!(taken.len(), Events::KEPT + 1);
        assert_eq!(taken[..2], [Event::Dropped(3), Event::Failed("3".to_owned())]);
        assert!(events.take().is_empty());
    }
}
