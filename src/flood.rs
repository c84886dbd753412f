//! Tells when packets for a service begin to be over its limit, and when that is
//! over: pure, no I/O.

use std::collections::BTreeMap;

use crate::Event;
use crate::ServiceKey;

/// What is known of each service from the last look.
#[derive(Debug, Default)]
pub(crate) struct FloodWatch {
    /// `None` before the first look, which is what all later ones are compared with.
    services: Option<BTreeMap<ServiceKey, Seen>>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Packets over the limit so far.
    limited: u64,
    flood: Option<Flood>,
}

#[derive(Clone, Copy, Debug)]
struct Flood {
    /// Packets over the limit before it.
    before: u64,
    /// Looks since the last of its packets.
    quiet: u32,
}

impl FloodWatch {
    /// Looks without a packet after which a flood is over.
    const QUIET: u32 = 2;

    /// Takes how many packets of each service were over its limit so far, and
    /// returns what began or ended since the last look. A service that is not
    /// among them is gone, and forgotten.
    pub(crate) fn look(
        &mut self,
        limited: impl IntoIterator<Item = (ServiceKey, u64)>,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        let mut services = BTreeMap::new();
        for (service, limited) in limited {
            let mut seen = match &self.services {
                None => Seen { limited, flood: None },
                Some(services) => {
                    // A counter that shrank is one of a new service with the same key.
                    let last = services.get(&service).filter(|last| last.limited <= limited);
                    last.copied().unwrap_or(Seen { limited: 0, flood: None })
                }
            };
            let moved = limited > seen.limited;
            match &mut seen.flood {
                None if moved => {
                    seen.flood = Some(Flood { before: seen.limited, quiet: 0 });
                    events.push(Event::FloodBegan { service });
                }
                None => {}
                Some(flood) if moved => flood.quiet = 0,
                Some(flood) => {
                    flood.quiet += 1;
                    if flood.quiet == Self::QUIET {
                        let packets = limited - flood.before;
                        events.push(Event::FloodEnded { service, packets });
                        seen.flood = None;
                    }
                }
            }
            services.insert(service, Seen { limited, ..seen });
        }
        self.services = Some(services);
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Protocol;

    fn service(port: u16) -> ServiceKey {
        let address = "192.168.100.1".parse().expect("an address");
        ServiceKey { address, port, protocol: Protocol::Tcp }
    }

    #[test]
    fn a_flood_begins_once_and_ends_after_two_quiet_looks() {
        let mut watch = FloodWatch::default();
        let service = service(80);
        let mut look = |limited| watch.look([(service, limited)]);
        assert_eq!(look(0), [], "there is nothing to compare with");
        assert_eq!(look(10), [Event::FloodBegan { service }]);
        assert_eq!(look(30), []);
        assert_eq!(look(30), [], "one quiet look is not the end");
        assert_eq!(look(31), []);
        assert_eq!(look(31), []);
        assert_eq!(look(31), [Event::FloodEnded { service, packets: 31 }]);
        assert_eq!(look(31), []);
        assert_eq!(look(35), [Event::FloodBegan { service }]);
        assert_eq!(look(35), []);
        assert_eq!(look(35), [Event::FloodEnded { service, packets: 4 }]);
    }

    #[test]
    fn services_are_told_apart_and_forgotten() {
        let mut watch = FloodWatch::default();
        let (one, two) = (service(80), service(81));
        assert_eq!(watch.look([(one, 4), (two, 0)]), [], "what was before is no flood");
        assert_eq!(watch.look([(one, 5), (two, 0)]), [Event::FloodBegan { service: one }]);
        assert_eq!(watch.look([(two, 7)]), [Event::FloodBegan { service: two }]);
        // It is back, its counter began anew.
        assert_eq!(watch.look([(one, 0), (two, 8)]), []);
        assert_eq!(watch.look([(one, 1), (two, 1)]).len(), 2, "a counter that shrank began anew");
    }
}
