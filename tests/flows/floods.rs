//! Floods of packets that have no flow: no more of them store one than the service
//! may in a tick, other services are none the worse, and flows that live are found
//! all the same.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use libbpf_rs::MapCore;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use nix::time::ClockId;
use nix::time::clock_gettime;
use xvs::Destination;
use xvs::MAX_NEW_FLOWS;
use xvs::Protocol;
use xvs::Service;
use xvs::Stats;

use crate::VIP4;
use crate::VIP6;
use crate::common::cpu;
use crate::common::dataplane::Dataplane;
use crate::common::dataplane::FlowKey;
use crate::common::dataplane::now;
use crate::common::dataplane::wait_for;
use crate::common::frame::ACK;
use crate::common::frame::SYN;
use crate::common::random::Random;
use crate::common::random::share;
use crate::reasons;
use crate::send;
use crate::servers;

/// Flows that the flooded service may store in a tick.
const LIMIT: u32 = 100;
/// Packets of a flood between two others.
const BETWEEN: usize = 31;
/// What ticks of different clocks may differ by.
const MARGIN: Duration = Duration::from_millis(30);

/// One service of a data plane, and a flood for it.
struct Flood<'a> {
    dataplane: &'a Dataplane,
    service: Service,
    random: Random,
}

impl Flood<'_> {
    /// Runs a test for each family.
    fn each(flows: u32, test: impl Fn(&mut Flood<'_>) + Sync) {
        for vip in [VIP4, VIP6] {
            Dataplane::with(
                |options| options.flows(flows),
                |dataplane| {
                    cpu::stay();
                    let service = Service::tcp(vip, 80).new_flows(LIMIT);
                    dataplane.serve(&service, &servers(3..40));
                    let random = Random::from_environment(0x5eed_0200);
                    test(&mut Flood { dataplane, service, random });
                },
            );
        }
    }

    /// A client that no other test has, and that comes once.
    fn client(&mut self) -> SocketAddr {
        let number = self.random.next();
        let address = match self.service.address {
            IpAddr::V4(_) => IpAddr::from((0x1400_0000 + (number as u32 >> 7)).to_be_bytes()),
            IpAddr::V6(_) => IpAddr::from([0x2001, 0xdb8, 9, 0, 0, 0, number as u16, 1]),
        };
        SocketAddr::new(address, (number >> 48) as u16)
    }

    /// So many packets, each by another client.
    fn packets(&mut self, number: usize) {
        for _ in 0..number {
            let client = self.client();
            send(self.dataplane, client, &self.service, ACK);
        }
    }

    /// What the service has counted so far.
    fn stats(&self) -> Stats {
        self.dataplane.client.service(&self.service).expect("it is there").stats
    }

    fn has(&self, client: SocketAddr, service: &Service) -> bool {
        let vip = SocketAddr::new(service.address, service.port);
        self.dataplane.tables.find(&FlowKey::new(client, vip, Protocol::Tcp)).is_some()
    }

    /// Gives the service this limit, and waits until ticks have it.
    fn set_limit(&mut self, limit: u32) {
        self.service.new_flows = limit;
        self.dataplane.client.update_service(&self.service).expect("it is there");
        wait_for_tick(now() + 2);
    }

    /// The tick that the program has counted new flows in last, by its own clock.
    fn tick(&self) -> Option<u32> {
        let inflows = MapHandle::from_pinned_path(self.dataplane.pin("inflows"));
        let inflows = inflows.expect("the map is pinned by its name");
        let ticks = inflows.keys().filter_map(|key| {
            let record = inflows.lookup(&key, MapFlags::ANY).expect("a lookup");
            let tick = record?[..4].try_into().expect("four octets");
            Some(u32::from_ne_bytes(tick))
        });
        let now = now();
        ticks.filter(|tick| now.abs_diff(*tick) < 100).max()
    }

    /// A flood of so many packets that begins and ends in one tick, in which there was
    /// none before: what was counted by then, and what afterwards.
    fn one_tick(&mut self, packets: usize) -> [Stats; 2] {
        let end = Instant::now() + Duration::from_secs(30);
        while Instant::now() < end {
            let (last, before) = (self.tick(), self.stats());
            self.packets(1);
            let tick = self.tick();
            self.packets(packets - 1);
            if tick != last && self.tick() == tick {
                return [before, self.stats()];
            }
        }
        panic!("no flood was over within a tick");
    }
}

/// Time since a tick began; zero before.
fn elapsed(tick: u32) -> Duration {
    let clock = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a monotonic clock");
    Duration::from(clock).saturating_sub(Duration::from_nanos(u64::from(tick) << 30))
}

/// Waits until it is this tick by any clock.
fn wait_for_tick(tick: u32) {
    wait_for(&format!("whether it is tick {tick}"), &true, || elapsed(tick) > MARGIN);
}

#[test]
fn of_a_flood_as_many_flows_are_stored_as_the_service_may() {
    const PACKETS: usize = 3 * LIMIT as usize;
    Flood::each(32_768, |flood| {
        for limit in [LIMIT, LIMIT, 1, 2 * LIMIT] {
            flood.set_limit(limit);
            let [before, after] = flood.one_tick(PACKETS);
            assert_eq!(after.flows - before.flows, u64::from(limit), "stored in one tick");
            assert_eq!(after.limited - before.limited, PACKETS as u64 - u64::from(limit));
            assert_eq!(after.packets - before.packets, PACKETS as u64, "all are forwarded");
        }
        let stats = flood.stats();
        assert_eq!(stats.flows + stats.limited, reasons(flood.dataplane)["forwarded_new"]);
    });
}

/// What is limited is counted for the service, its VIP and all, and stays counted when
/// they are gone.
#[test]
fn limited_packets_are_counted() {
    Flood::each(32_768, |flood| {
        let of_vip = |flood: &Flood<'_>| {
            flood.dataplane.client.vip(flood.service.address).expect("it is there").stats.limited
        };
        let of_all = |flood: &Flood<'_>| flood.dataplane.client.info().expect("info").stats.limited;
        flood.packets(1_000);
        let limited = flood.stats().limited;
        assert!(limited > 0, "a thousand packets are more than the service may store");
        assert_eq!([of_vip(flood), of_all(flood)], [limited; 2]);

        let other = Service::tcp(flood.service.address, 81).new_flows(1);
        flood.dataplane.serve(&other, &servers([3]));
        flood.dataplane.client.remove_service(&flood.service).expect("it is there");
        assert_eq!([of_vip(flood), of_all(flood)], [limited; 2], "the service is gone");
        flood.dataplane.client.remove_service(&other).expect("it is there");
        assert_eq!(of_all(flood), limited, "the VIP is gone");

        // One that comes to have the numbers of these begins with nothing.
        for _ in 0..70 {
            flood.dataplane.serve(&flood.service, &[]);
            assert_eq!([flood.stats().limited, of_vip(flood)], [0; 2]);
            flood.dataplane.client.remove_service(&flood.service).expect("it is there");
        }
        assert_eq!(of_all(flood), limited);
    });
}

#[test]
fn a_flood_keeps_no_other_service_from_storing() {
    Flood::each(32_768, |flood| {
        let other_vip = match flood.service.address {
            IpAddr::V4(_) => IpAddr::from([192, 168, 100, 9]),
            IpAddr::V6(_) => IpAddr::from([0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 9]),
        };
        let others = [Service::tcp(other_vip, 80), Service::tcp(flood.service.address, 81)];
        for other in &others {
            flood.dataplane.serve(other, &servers(3..10));
        }
        flood.packets(1_000);
        assert!(flood.stats().limited > 0, "it is a flood");
        for _ in 0..share(300) {
            for other in &others {
                flood.packets(BETWEEN);
                let client = flood.client();
                send(flood.dataplane, client, other, ACK);
                assert!(flood.has(client, other), "{client} to {other} is stored at once");
            }
        }
        for other in &others {
            let stats = flood.dataplane.client.service(other).expect("it is there").stats;
            assert_eq!((stats.flows, stats.limited), (share(300) as u64, 0), "{other}");
        }
    });
}

/// A service that has the number of a flooded one has all of its new flows.
#[test]
fn a_flood_is_not_the_next_services() {
    Flood::each(32_768, |flood| {
        // More than there are numbers.
        for _ in 0..70 {
            flood.packets(LIMIT as usize + 1);
            flood.dataplane.client.remove_service(&flood.service).expect("it is there");
            flood.dataplane.serve(&flood.service, &servers([3]));
            let client = flood.client();
            send(flood.dataplane, client, &flood.service, ACK);
            assert!(flood.has(client, &flood.service.clone()), "{client} is stored");
        }
    });
}

#[test]
fn a_flow_that_goes_on_is_stored_in_a_flood() {
    const FLOWS: usize = 10;
    Flood::each(32_768, |flood| {
        let flows: Vec<SocketAddr> = (0..FLOWS).map(|_| flood.client()).collect();
        flood.packets(1_000);
        let right: Vec<[u8; 6]> =
            flows.iter().map(|flow| send(flood.dataplane, *flow, &flood.service, SYN)).collect();
        // In each tick the first packets are stored, whoever sends them.
        wait_for("how many of the flows are stored", &FLOWS, || {
            for (flow, right) in flows.iter().zip(&right) {
                let mac = send(flood.dataplane, *flow, &flood.service, ACK);
                assert_eq!(mac, *right, "{flow}, stored or not");
            }
            flows.iter().filter(|flow| flood.has(**flow, &flood.service)).count()
        });
    });
}

/// Of flows that had one packet each, those that are silent give way; they are
/// counted.
#[test]
fn flows_that_lose_their_place_are_counted() {
    Flood::each(1_024, |flood| {
        flood.set_limit(MAX_NEW_FLOWS);
        let held = |flood: &Flood<'_>| {
            flood.dataplane.client.instance().flows(usize::MAX).expect("flows").len() as u64
        };
        let replaced =
            |flood: &Flood<'_>| flood.dataplane.client.info().expect("info").flows_replaced;
        flood.packets(250);
        assert_eq!((held(flood), replaced(flood)), (250, 0), "there is room");
        flood.packets(flood.dataplane.tables.places() as usize);
        // What came in the same tick is as good as what comes.
        wait_for_tick(now() + 2);
        flood.packets(1_000);
        let (stored, held) = (flood.stats().flows, held(flood));
        assert!(stored > held, "not all of {stored} have a place");
        assert_eq!(replaced(flood), stored - held);
    });
}

/// A flow that was seen in two ticks stays, while floods of others take each other's
/// places.
#[test]
fn flows_that_were_seen_again_stay_in_a_flood() {
    const FLOWS: usize = 500;
    Flood::each(1_024, |flood| {
        flood.set_limit(MAX_NEW_FLOWS);
        let flows: Vec<SocketAddr> = (0..FLOWS).map(|_| flood.client()).collect();
        let hits = |flood: &Flood<'_>| {
            let before = reasons(flood.dataplane)["forwarded_flow"];
            for client in &flows {
                send(flood.dataplane, *client, &flood.service, ACK);
            }
            reasons(flood.dataplane)["forwarded_flow"] - before
        };
        assert_eq!(hits(flood), 0, "all are new");
        wait_for_tick(now() + 2);
        assert_eq!(hits(flood), FLOWS as u64, "in another tick all are known");
        let places = flood.dataplane.tables.places() as usize;
        for _ in 0..3 {
            wait_for_tick(now() + 2);
            flood.packets(2 * places);
        }
        let replaced = flood.dataplane.client.info().expect("info").flows_replaced;
        assert!(replaced > places as u64 / 2, "floods replaced {replaced} flows of floods");
        assert_eq!(hits(flood), FLOWS as u64, "and none that was known");
    });
}

#[test]
fn flows_that_live_are_found_in_a_flood() {
    const FLOWS: usize = 100;
    const PACKETS: usize = 10;
    Flood::each(32_768, |flood| {
        flood.set_limit(MAX_NEW_FLOWS);
        let flows: Vec<(SocketAddr, [u8; 6])> = (0..FLOWS)
            .map(|_| {
                let client = flood.client();
                (client, send(flood.dataplane, client, &flood.service, ACK))
            })
            .collect();
        // The hash now has other servers for half of them.
        let changed: Vec<Destination> = servers(3..40)
            .into_iter()
            .enumerate()
            .map(|(n, destination)| destination.disabled(n % 2 == 0))
            .collect();
        flood.service.new_flows = LIMIT;
        flood.dataplane.serve(&flood.service, &changed);
        flood.packets(1_000);
        let before = reasons(flood.dataplane);
        for _ in 0..PACKETS {
            for (client, mac) in &flows {
                flood.packets(BETWEEN);
                let now = send(flood.dataplane, *client, &flood.service, ACK);
                assert_eq!(now, *mac, "{client} stays where it is");
            }
        }
        let after = reasons(flood.dataplane);
        let more = |reason: &str| after[reason] - before[reason];
        assert_eq!(more("forwarded_flow"), (FLOWS * PACKETS) as u64);
        assert_eq!(more("forwarded_new"), (FLOWS * PACKETS * BETWEEN) as u64);
    });
}

/// Two services that share a CPU and the flow tables; a flood of acknowledgements from a
/// million sources is for one of them.
#[test]
fn a_million_sources_move_no_flow_that_lives() {
    const FLOWS: usize = 10_000;
    const ROUNDS: usize = 10;
    let sources = share(1_000_000);
    Flood::each(131_072, |flood| {
        flood.service = flood.service.clone().new_flows(MAX_NEW_FLOWS).transition(Duration::ZERO);
        let mut other = flood.service.clone();
        other.port = 81;
        let all = servers(3..20);
        for service in [&flood.service, &other] {
            flood.dataplane.serve(service, &all);
        }
        let flows: Vec<(Service, SocketAddr, [u8; 6])> = [flood.service.clone(), other.clone()]
            .into_iter()
            .flat_map(|service| (0..FLOWS).map(move |_| service.clone()))
            .map(|service| {
                let client = flood.client();
                let mac = send(flood.dataplane, client, &service, ACK);
                (service, client, mac)
            })
            .collect();
        let talk = |flood: &Flood<'_>, what: &str| {
            let before = reasons(flood.dataplane)["forwarded_flow"];
            let is_moved = |(service, client, mac): &&(Service, SocketAddr, [u8; 6])| {
                send(flood.dataplane, *client, service, ACK) != *mac
            };
            let moved = flows.iter().filter(is_moved).count();
            assert_eq!(moved, 0, "{what}");
            reasons(flood.dataplane)["forwarded_flow"] - before
        };
        let stored = talk(flood, "nothing has changed");
        assert_eq!(stored, 2 * FLOWS as u64, "all are stored");
        wait_for_tick(now() + 2);
        talk(flood, "nothing has changed");

        // As services have it that nothing was said of.
        flood.set_limit(Service::tcp(VIP4, 80).new_flows);
        for _ in 0..ROUNDS {
            flood.packets(sources / ROUNDS);
            talk(flood, "the table is the same");
        }
        let stats = flood.stats();
        println!("{sources} sources: {} flows stored, {} not", stats.flows, stats.limited);
        // The hash now has other servers for half of them.
        let disabled = |(n, d): (usize, Destination)| d.disabled(n % 2 == 0);
        let changed: Vec<Destination> = all.iter().cloned().enumerate().map(disabled).collect();
        for service in [&flood.service, &other] {
            flood.dataplane.serve(service, &changed);
        }
        let known = talk(flood, "after a change of both tables");
        assert_eq!(known, stored, "all that were stored are known");
    });
}
