//! Rates, from two readings of the counters and the time between them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;
use std::time::Instant;

use xvs::Instance;
use xvs::ServiceKey;
use xvs::Stats;

use crate::words;
use crate::words::Outcome;

/// What was counted until a moment.
pub struct Reading {
    pub at: Instant,
    /// Of all packets, foreign ones included.
    pub total: Stats,
    pub services: BTreeMap<ServiceKey, (Stats, BTreeMap<IpAddr, Stats>)>,
}

impl Reading {
    pub fn take(instance: &Instance) -> xvs::Result<Self> {
        let at = Instant::now();
        let services = instance.all()?.into_iter().map(|(service, destinations)| {
            let destinations = destinations.iter().map(|d| (d.destination.address, d.stats));
            (service.service.key(), (service.stats, destinations.collect()))
        });
        let services = services.collect();
        Ok(Self { at, total: instance.info()?.stats, services })
    }
}

/// What came in each second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates {
    pub packets: f64,
    pub bits: f64,
    /// Flows that were stored.
    pub flows: f64,
    pub syn: f64,
    /// Packets dropped, by those reasons that there were, the most frequent first.
    pub refused: Vec<(&'static str, f64)>,
    /// Flows that live, at the end.
    pub live: u64,
}

impl Rates {
    fn between(before: &Stats, after: &Stats, seconds: f64) -> Self {
        // A counter that shrank is one of something new with the same name.
        let rate = |before: u64, after: u64| {
            let counted = after.checked_sub(before).unwrap_or(after);
            counted as f64 / seconds
        };
        let reasons = before.reasons.iter().zip(after.reasons.iter());
        let mut refused: Vec<(&str, f64)> = reasons
            .filter(|(_, (name, _))| words::outcome(name) == Outcome::Dropped)
            .map(|((_, before), (name, after))| (name, rate(before, after)))
            .filter(|(_, rate)| *rate > 0.0)
            .collect();
        refused.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        Self {
            packets: rate(before.packets, after.packets),
            bits: 8.0 * rate(before.octets, after.octets),
            flows: rate(before.flows, after.flows),
            syn: rate(before.syn, after.syn),
            refused,
            live: after.live,
        }
    }

    /// Packets dropped, for whatever reason.
    pub fn refused(&self) -> f64 {
        self.refused.iter().map(|(_, rate)| rate).sum()
    }

    /// All packets, by which is sorted.
    fn all(&self) -> f64 {
        self.packets + self.refused()
    }
}

/// The rates of everything, the busiest first.
pub struct Top {
    pub interval: Duration,
    pub total: Rates,
    pub services: Vec<ServiceRates>,
}

/// Those of a service, and of its destinations.
pub struct ServiceRates {
    pub service: ServiceKey,
    pub rates: Rates,
    pub destinations: Vec<(IpAddr, Rates)>,
}

/// The rates between two readings. What is gone by the second one is left out;
/// what came after the first one began at 0.
pub fn compare(before: &Reading, after: &Reading) -> Top {
    let interval = after.at - before.at;
    let seconds = interval.as_secs_f64();
    let nothing = (Stats::default(), BTreeMap::new());
    let services = after.services.iter().map(|(key, (stats, destinations))| {
        let (old, old_destinations) = before.services.get(key).unwrap_or(&nothing);
        let one = |(address, stats): (&IpAddr, &Stats)| {
            let old = old_destinations.get(address).unwrap_or(&nothing.0);
            (*address, Rates::between(old, stats, seconds))
        };
        let mut destinations: Vec<(IpAddr, Rates)> = destinations.iter().map(one).collect();
        destinations.sort_by(|(_, one), (_, other)| other.all().total_cmp(&one.all()));
        let rates = Rates::between(old, stats, seconds);
        ServiceRates { service: *key, rates, destinations }
    });
    let mut services: Vec<ServiceRates> = services.collect();
    services.sort_by(|one, other| other.rates.all().total_cmp(&one.rates.all()));
    Top { interval, total: Rates::between(&before.total, &after.total, seconds), services }
}

#[cfg(test)]
mod tests {
    use xvs::Protocol;

    use super::*;

    fn key(port: u16) -> ServiceKey {
        ServiceKey { address: IpAddr::from([192, 168, 100, 1]), port, protocol: Protocol::Tcp }
    }

    fn server(host: u8) -> IpAddr {
        IpAddr::from([10, 1, 2, host])
    }

    fn stats(packets: u64) -> Stats {
        let mut stats = Stats::default();
        stats.packets = packets;
        stats.octets = 100 * packets;
        stats
    }

    /// Packets of a service by its port, and of each destination by its host.
    type Counted<'a> = (u16, u64, &'a [(u8, u64)]);

    fn reading(at: Instant, services: &[Counted<'_>]) -> Reading {
        let services = services.iter().map(|(port, packets, destinations)| {
            let all = destinations.iter().map(|(host, packets)| (server(*host), stats(*packets)));
            (key(*port), (stats(*packets), all.collect()))
        });
        Reading { at, total: Stats::default(), services: services.collect() }
    }

    #[test]
    fn rates_are_counts_by_time() {
        let start = Instant::now();
        let (mut before, mut after) = (reading(start, &[]), reading(start, &[]));
        after.at += Duration::from_millis(2_500);
        before.total = stats(100);
        before.total.reasons.no_service = 7;
        after.total = stats(350);
        (after.total.flows, after.total.syn, after.total.live) = (5, 10, 3);
        after.total.reasons.no_service = 17;
        after.total.reasons.malformed = 100;
        after.total.reasons.not_vip = 1_000;
        after.total.reasons.forwarded_flow = 250;
        let top = compare(&before, &after);
        assert_eq!(top.interval, Duration::from_millis(2_500));
        let expected = Rates {
            packets: 100.0,
            bits: 80_000.0,
            flows: 2.0,
            syn: 4.0,
            refused: vec![("malformed", 40.0), ("no_service", 4.0)],
            live: 3,
        };
        assert_eq!((top.total.refused(), &top.total), (44.0, &expected));
    }

    #[test]
    fn the_busiest_come_first_and_new_ones_begin_at_nothing() {
        let start = Instant::now();
        let before =
            reading(start, &[(80, 1_000, &[(3, 900), (4, 100)]), (81, 500, &[]), (82, 9, &[])]);
        let later = start + Duration::from_secs(1);
        let after = reading(
            later,
            // The second was made anew, the last is new; one is gone.
            &[(80, 1_010, &[(3, 902), (4, 108), (5, 4)]), (81, 20, &[]), (83, 15, &[])],
        );
        let top = compare(&before, &after);
        let rates: Vec<(u16, f64)> =
            top.services.iter().map(|one| (one.service.port, one.rates.packets)).collect();
        assert_eq!(rates, [(81, 20.0), (83, 15.0), (80, 10.0)]);
        let web = &top.services[2].destinations;
        let rates: Vec<(IpAddr, f64)> =
            web.iter().map(|(ip, rates)| (*ip, rates.packets)).collect();
        assert_eq!(rates, [(server(4), 8.0), (server(5), 4.0), (server(3), 2.0)]);
    }
}
