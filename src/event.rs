//! What happens in the background, for the application to read.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::PoisonError;

use crate::DestinationStatus;
use crate::ServiceKey;

/// Something that happened without a call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are what the message names")]
pub enum Event {
    /// The driver takes no native program; the interface runs generic, slower.
    GenericMode { interface: String, reason: String },
    /// A destination's next hop is known: it gets new flows now.
    Resolved { service: ServiceKey, address: IpAddr },
    /// A destination gets no new flows any more.
    Unreachable { service: ServiceKey, address: IpAddr, status: DestinationStatus },
    /// An interface of the instance went down or away.
    InterfaceDown { interface: String },
    /// An interface of the instance is up again.
    InterfaceUp { interface: String },
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
            Self::Resolved { service, address } => {
                write!(f, "service {service}: destination {address} is reachable")
            }
            Self::Unreachable { service, address, status } => {
                write!(f, "service {service}: destination {address} gets no new flows: {status}")
            }
            Self::InterfaceDown { interface } => write!(f, "interface `{interface}` is down"),
            Self::InterfaceUp { interface } => write!(f, "interface `{interface}` is up"),
            Self::EventsLost => f.write_str("netlink events were lost; the network was read again"),
            Self::Failed(what) => write!(f, "background failure: {what}"),
        }
    }
}

/// Events that nobody has read yet; the oldest go when there are too many.
#[derive(Debug, Default)]
pub(crate) struct Events(Mutex<VecDeque<Event>>);

impl Events {
    const KEPT: usize = 1024;

    pub(crate) fn push(&self, event: Event) {
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if events.len() == Self::KEPT {
            events.pop_front();
        }
        events.push_back(event);
    }

    pub(crate) fn take(&self) -> Vec<Event> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }
}
