//! The log of events in an instance's maps, which any process can follow that may
//! read the pins.

use std::sync::Arc;
use std::thread;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use super::Event;
use crate::Instance;
use crate::Prefix;
use crate::bpf::EventKind;
use crate::bpf::EventRecord;
use crate::bpf::Maps;
use crate::bpf::OffloadCode;
use crate::bpf::StatusCode;
use crate::bpf::VlanCode;
use crate::bpf::address_octets;
use crate::bpf::octets_address;
use crate::control::key_record;
use crate::instance::status;
use crate::instance::vlan_status;
use crate::offloads;

/// Where a reader of an instance's events begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Since {
    /// With the oldest event that is kept, of 1,024 in all.
    Oldest,
    /// With what happens from now on.
    Now,
}

/// Follows the events of an instance, whichever process runs it.
#[derive(Debug)]
pub struct EventReader {
    maps: Arc<Maps>,
    /// The number of the next event.
    next: u64,
}

impl Instance {
    /// A reader of the instance's events. Any number of them can follow; none takes
    /// events away from others, or from [`Client::events`](crate::Client::events).
    pub fn events(&self, since: Since) -> EventReader {
        let maps = Arc::clone(&self.maps);
        let newest = newest(&maps);
        let next = match since {
            Since::Oldest => oldest(&maps, newest),
            Since::Now => newest + 1,
        };
        EventReader { maps, next }
    }
}

impl EventReader {
    /// How often it is looked for events while none come.
    const LOOK: Duration = Duration::from_millis(100);

    /// What happened since the last call, oldest first, each with its time by the
    /// system's clock. Where events were written over before they were read,
    /// [`Event::Dropped`] is in their place.
    pub fn read(&mut self) -> Vec<(SystemTime, Event)> {
        std::iter::from_fn(|| self.next()).collect()
    }

    /// The same, once something has happened, or after this time.
    pub fn wait(&mut self, timeout: Duration) -> Vec<(SystemTime, Event)> {
        let start = Instant::now();
        loop {
            let events = self.read();
            let left = timeout.saturating_sub(start.elapsed());
            if !events.is_empty() || left.is_zero() {
                return events;
            }
            thread::sleep(left.min(Self::LOOK));
        }
    }

    fn next(&mut self) -> Option<(SystemTime, Event)> {
        let log = &self.maps.event_log;
        loop {
            let index = index(&self.maps, self.next);
            let record = log.read(index);
            if record.number < self.next {
                if newest(&self.maps) < self.next {
                    return None;
                }
                // A process was killed while it wrote over this one.
                self.next += 1;
                continue;
            }
            // It may have been written over while it was read.
            if record.number > self.next || self.maps.event_number(index) != self.next {
                let oldest = oldest(&self.maps, newest(&self.maps)).max(self.next + 1);
                let dropped = oldest - self.next;
                self.next = oldest;
                return Some((SystemTime::now(), Event::Dropped(dropped)));
            }
            self.next += 1;
            if let Some(event) = decode(&record) {
                let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(record.time_ns);
                return Some((time, event));
            }
        }
    }
}

/// The number of the last event; 0 before the first one.
fn newest(maps: &Maps) -> u64 {
    let records = 0..maps.event_log.len();
    records.map(|index| maps.event_number(index)).max().unwrap_or(0)
}

/// The number of the oldest event that is kept when this one is the newest.
fn oldest(maps: &Maps, newest: u64) -> u64 {
    newest.saturating_sub(u64::from(maps.event_log.len())) + 1
}

fn index(maps: &Maps, number: u64) -> u32 {
    (number % u64::from(maps.event_log.len())) as u32
}

/// Writes the log.
#[derive(Debug)]
pub(super) struct Log {
    maps: Arc<Maps>,
    /// The number of the next event.
    next: u64,
}

impl Log {
    /// Goes on with the log of an instance.
    pub(super) fn new(maps: Arc<Maps>) -> Self {
        let next = newest(&maps) + 1;
        Self { maps, next }
    }

    pub(super) fn write(&mut self, event: &Event) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut record = EventRecord { time_ns: now.as_nanos() as u64, ..encode(event) };
        let index = index(&self.maps, self.next);
        // The number is the first word: it is 0 before others change.
        self.maps.event_log.write(index, &record);
        record.number = self.next;
        self.maps.event_log.write(index, &record);
        self.next += 1;
    }
}

/// An event as the log has it, without number and time.
fn encode(event: &Event) -> EventRecord {
    let mut record = EventRecord::default();
    record.kind = match event {
        Event::GenericMode { interface, reason } => {
            put_text(&mut record.interface, interface);
            put_text(&mut record.text, reason);
            EventKind::XVS_EVENT_GENERIC_MODE
        }
        Event::OffloadOn { interface, offload } => {
            put_text(&mut record.interface, interface);
            record.status = offload.code().0;
            EventKind::XVS_EVENT_OFFLOAD_ON
        }
        Event::Resolved { service, address } => {
            record.service = key_record(*service);
            record.address = address_octets(*address);
            EventKind::XVS_EVENT_RESOLVED
        }
        Event::Unreachable { service, address, status } => {
            record.service = key_record(*service);
            record.address = address_octets(*address);
            record.status = status.code().0;
            EventKind::XVS_EVENT_UNREACHABLE
        }
        Event::InterfaceDown { interface } => {
            put_text(&mut record.interface, interface);
            EventKind::XVS_EVENT_INTERFACE_DOWN
        }
        Event::InterfaceUp { interface } => {
            put_text(&mut record.interface, interface);
            EventKind::XVS_EVENT_INTERFACE_UP
        }
        Event::Attached { interface } => {
            put_text(&mut record.interface, interface);
            EventKind::XVS_EVENT_ATTACHED
        }
        Event::Vlan { vlan, prefix, status } => {
            record.vlan = u32::from(*vlan);
            record.address = address_octets(prefix.address());
            record.length = u32::from(prefix.length());
            record.status = status.code().0;
            EventKind::XVS_EVENT_VLAN
        }
        Event::PathMtu { server, mtu } => {
            record.address = address_octets(*server);
            record.count = mtu.map_or(0, u64::from);
            EventKind::XVS_EVENT_PATH_MTU
        }
        Event::Dropped(count) => {
            record.count = *count;
            EventKind::XVS_EVENT_DROPPED
        }
        Event::EventsLost => EventKind::XVS_EVENT_LOST,
        Event::Failed(what) => {
            put_text(&mut record.text, what);
            EventKind::XVS_EVENT_FAILED
        }
        Event::TableRebuilt { service, destinations } => {
            record.service = key_record(*service);
            record.count = *destinations as u64;
            EventKind::XVS_EVENT_TABLE_REBUILT
        }
        Event::FloodBegan { service } => {
            record.service = key_record(*service);
            EventKind::XVS_EVENT_FLOOD_BEGAN
        }
        Event::FloodEnded { service, packets } => {
            record.service = key_record(*service);
            record.count = *packets;
            EventKind::XVS_EVENT_FLOOD_ENDED
        }
        Event::Drained { service, address, moved } => {
            record.service = key_record(*service);
            record.address = address_octets(*address);
            record.count = *moved;
            EventKind::XVS_EVENT_DRAINED
        }
        Event::TakenOver { process } => {
            record.count = u64::from(*process);
            EventKind::XVS_EVENT_TAKEN_OVER
        }
    };
    record
}

/// The event of a record; none if its kind is one of a later version.
fn decode(record: &EventRecord) -> Option<Event> {
    let address = octets_address(record.address);
    let interface = text(&record.interface);
    let service = record.service.key();
    Some(match record.kind {
        EventKind::XVS_EVENT_GENERIC_MODE => {
            Event::GenericMode { interface, reason: text(&record.text) }
        }
        EventKind::XVS_EVENT_OFFLOAD_ON => {
            let offload = *offloads::of_codes(OffloadCode(record.status)).first()?;
            Event::OffloadOn { interface, offload }
        }
        EventKind::XVS_EVENT_RESOLVED => Event::Resolved { service: service?, address },
        EventKind::XVS_EVENT_UNREACHABLE => {
            let status = status(StatusCode(record.status));
            Event::Unreachable { service: service?, address, status }
        }
        EventKind::XVS_EVENT_INTERFACE_DOWN => Event::InterfaceDown { interface },
        EventKind::XVS_EVENT_INTERFACE_UP => Event::InterfaceUp { interface },
        EventKind::XVS_EVENT_ATTACHED => Event::Attached { interface },
        EventKind::XVS_EVENT_VLAN => Event::Vlan {
            vlan: record.vlan as u16,
            prefix: Prefix::containing(address, record.length as u8)?,
            status: vlan_status(VlanCode(record.status)),
        },
        EventKind::XVS_EVENT_PATH_MTU => {
            let mtu = Some(record.count as u32).filter(|mtu| *mtu != 0);
            Event::PathMtu { server: address, mtu }
        }
        EventKind::XVS_EVENT_DROPPED => Event::Dropped(record.count),
        EventKind::XVS_EVENT_LOST => Event::EventsLost,
        EventKind::XVS_EVENT_FAILED => Event::Failed(text(&record.text)),
        EventKind::XVS_EVENT_TABLE_REBUILT => {
            Event::TableRebuilt { service: service?, destinations: record.count as usize }
        }
        EventKind::XVS_EVENT_FLOOD_BEGAN => Event::FloodBegan { service: service? },
        EventKind::XVS_EVENT_FLOOD_ENDED => {
            Event::FloodEnded { service: service?, packets: record.count }
        }
        EventKind::XVS_EVENT_DRAINED => {
            Event::Drained { service: service?, address, moved: record.count }
        }
        EventKind::XVS_EVENT_TAKEN_OVER => Event::TakenOver { process: record.count as u32 },
        _ => return None,
    })
}

/// Puts as much of a text as there is room for, in whole characters.
fn put_text(room: &mut [u8], text: &str) {
    let most = text.len().min(room.len());
    // SANITY: 0 is a boundary.
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).expect("text begins");
    room[..end].copy_from_slice(&text.as_bytes()[..end]);
}

fn text(octets: &[u8]) -> String {
    let end = octets.iter().position(|octet| *octet == 0).unwrap_or(octets.len());
    String::from_utf8_lossy(&octets[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::DestinationStatus;
    use crate::Offload;
    use crate::Protocol;
    use crate::ServiceKey;
    use crate::VlanStatus;

    /// Events of every kind, and of every value of what their kinds tell.
    fn all() -> Vec<Event> {
        let service =
            |vip: &str| ServiceKey { address: ip(vip), port: 443, protocol: Protocol::Tcp };
        let ip4 = service("192.168.100.1");
        let udp = ServiceKey { protocol: Protocol::Udp, ..service("fd00:100::1") };
        let interface = || "fifteen-octets0".to_owned();
        let mut all = vec![
            Event::GenericMode { interface: interface(), reason: "it cannot".to_owned() },
            Event::Resolved { service: ip4, address: ip("10.1.2.3") },
            Event::InterfaceDown { interface: interface() },
            Event::InterfaceUp { interface: "é0".to_owned() },
            Event::Attached { interface: String::new() },
            Event::PathMtu { server: ip("fd00::1"), mtu: Some(1_400) },
            Event::PathMtu { server: ip("10.1.2.3"), mtu: None },
            Event::Dropped(u64::MAX),
            Event::EventsLost,
            Event::Failed("x".repeat(416)),
            Event::Failed("ä".repeat(208)),
            Event::TableRebuilt { service: ip4, destinations: 0 },
            Event::TableRebuilt { service: udp, destinations: 65_535 },
            Event::FloodBegan { service: udp },
            Event::FloodEnded { service: udp, packets: u64::MAX },
            Event::Drained { service: udp, address: ip("10.1.2.3"), moved: 7 },
            Event::TakenOver { process: 4_194_304 },
        ];
        all.extend(
            Offload::ALL.map(|offload| Event::OffloadOn { interface: interface(), offload }),
        );
        all.extend(
            [
                DestinationStatus::Reachable,
                DestinationStatus::NoPrefix,
                DestinationStatus::InterfaceDown,
                DestinationStatus::Resolving,
                DestinationStatus::NoNeighbour,
                DestinationStatus::NoInterface,
                DestinationStatus::MtuTooSmall,
                DestinationStatus::NotAttached,
                DestinationStatus::NoRoute,
                DestinationStatus::NoAddress,
            ]
            .map(|status| Event::Unreachable {
                service: ip4,
                address: ip("fd00::3"),
                status,
            }),
        );
        let statuses = [
            VlanStatus::Usable,
            VlanStatus::NoInterface,
            VlanStatus::Elsewhere,
            VlanStatus::Down,
            VlanStatus::MtuTooSmall,
            VlanStatus::NotAttached,
        ];
        for prefix in ["10.1.2.0/24", "0.0.0.0/0", "fd00:1::/64"] {
            let prefix = prefix.parse().expect("a prefix");
            all.extend(statuses.map(|status| Event::Vlan { vlan: 4_094, prefix, status }));
        }
        all
    }

    fn ip(text: &str) -> std::net::IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn every_kind_comes_back_as_it_was() {
        let mut kinds = BTreeSet::new();
        for event in all() {
            let record = encode(&event);
            assert_eq!(decode(&record), Some(event));
            kinds.insert(record.kind.0);
        }
        let every = EventKind::XVS_EVENT_NONE.0 + 1..EventKind::XVS_EVENT_KINDS.0;
        assert!(kinds.into_iter().eq(every), "each kind is tried");
        assert_eq!(decode(&EventRecord::default()), None);
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        for (long, short) in [
            ("x".repeat(417), "x".repeat(416)),
            (format!("x{}", "ä".repeat(208)), format!("x{}", "ä".repeat(207))),
        ] {
            let kept = decode(&encode(&Event::Failed(long)));
            assert_eq!(kept, Some(Event::Failed(short)));
        }
    }
}
