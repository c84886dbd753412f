//! Floods of packets that have no flow: few of them store one, and flows that
//! live are found all the same.

use std::net::IpAddr;
use std::net::SocketAddr;

use xvs::Destination;
use xvs::Protocol;
use xvs::Service;

use crate::VIP4;
use crate::VIP6;
use crate::common::cpu;
use crate::common::dataplane::Dataplane;
use crate::common::dataplane::FlowKey;
use crate::common::frame::ACK;
use crate::common::frame::SYN;
use crate::common::random::Random;
use crate::common::random::share;
use crate::reasons;
use crate::send;
use crate::servers;

/// Of the packets of a flood one in so many stores a flow.
const ONE_IN: f64 = 16.0;
/// So many first packets store a flow before it is a flood.
const BEFORE: usize = 33;
/// Packets of a flood between two others. A choice by counting to 16 would always
/// meet the others, or never.
const BETWEEN: usize = 31;

/// One service of a data plane, and a flood for it.
struct Flood<'a> {
    dataplane: &'a Dataplane,
    service: Service,
    random: Random,
}

impl Flood<'_> {
    /// Runs a test for each family.
    fn each(test: impl Fn(&mut Flood<'_>) + Sync) {
        for vip in [VIP4, VIP6] {
            Dataplane::with(
                |options| options.flows(32_768),
                |dataplane| {
                    cpu::stay();
                    let service = Service::tcp(vip, 80);
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

    /// Flows stored so far.
    fn stored(&self) -> u64 {
        self.dataplane.client.info().expect("info").stats.flows
    }

    fn has(&self, client: SocketAddr) -> bool {
        let vip = SocketAddr::new(self.service.address, self.service.port);
        self.dataplane.tables.find(&FlowKey::new(client, vip, Protocol::Tcp)).is_some()
    }
}

/// So often of `number` something with a probability happens, within five
/// standard deviations: one run in a million does not.
fn assert_share(what: &str, happened: f64, number: f64, probability: f64) {
    let mean = number * probability;
    let spread = (mean * (1.0 - probability)).sqrt();
    println!("{what}: {happened} of {number}, expected {mean:.0}");
    assert!((happened - mean).abs() <= 5.0 * spread, "{what}: {happened} instead of {mean:.0}");
}

#[test]
fn of_a_flood_few_flows_are_stored() {
    let packets = share(20_000);
    Flood::each(|flood| {
        flood.packets(BEFORE);
        assert_eq!(flood.stored(), BEFORE as u64, "no flood yet");
        flood.packets(packets);
        let stored = flood.stored() - BEFORE as u64;
        assert_share("stored", stored as f64, packets as f64, 1.0 / ONE_IN);
        assert_eq!(reasons(flood.dataplane)["forwarded_new"], (BEFORE + packets) as u64);
    });
}

#[test]
fn a_flow_that_goes_on_is_stored_in_a_flood() {
    const FLOWS: usize = 200;
    const CERTAIN: usize = 10;
    Flood::each(|flood| {
        flood.packets(1_000);
        let flows: Vec<SocketAddr> = (0..FLOWS).map(|_| flood.client()).collect();
        let right: Vec<[u8; 6]> =
            flows.iter().map(|flow| send(flood.dataplane, *flow, &flood.service, SYN)).collect();
        let round = |flood: &mut Flood<'_>, number: usize| {
            for (flow, right) in flows.iter().zip(&right).take(number) {
                flood.packets(BETWEEN);
                let mac = send(flood.dataplane, *flow, &flood.service, ACK);
                assert_eq!(mac, *right, "{flow}, stored or not");
            }
        };
        for packets in 1..=16 {
            round(flood, FLOWS);
            if [1, 4, 8, 16].contains(&packets) {
                let stored = flows.iter().filter(|flow| flood.has(**flow)).count();
                let probability = 1.0 - (1.0 - 1.0 / ONE_IN).powi(packets);
                let what = format!("stored after {packets} packets");
                assert_share(&what, stored as f64, FLOWS as f64, probability);
            }
        }
        // That one of ten is not after 200 packets is so probable: 2.5 in 100,000.
        for _ in 16..200 {
            round(flood, CERTAIN);
        }
        assert!(flows[..CERTAIN].iter().all(|flow| flood.has(*flow)), "after 200 packets");
    });
}

#[test]
fn without_a_flood_every_flow_is_stored_at_once() {
    Flood::each(|flood| {
        let flows = share(2_000);
        for _ in 0..flows {
            let client = flood.client();
            for _ in 0..3 {
                send(flood.dataplane, client, &flood.service, ACK);
            }
        }
        let reasons = reasons(flood.dataplane);
        assert_eq!(flood.stored(), flows as u64);
        assert_eq!(reasons["forwarded_new"], flows as u64, "by the first packet");
        assert_eq!(reasons["forwarded_flow"], 2 * flows as u64);
    });
}

/// When a flood is over, connections of a few packets are stored at once again.
#[test]
fn a_flood_ends() {
    const PACKETS: usize = 8;
    Flood::each(|flood| {
        flood.packets(1_000);
        let connections = |flood: &mut Flood<'_>| {
            for _ in 0..500 {
                let client = flood.client();
                for _ in 0..PACKETS {
                    send(flood.dataplane, client, &flood.service, ACK);
                }
            }
        };
        connections(flood);
        let stored = flood.stored();
        connections(flood);
        assert_eq!(flood.stored(), stored + 500);
    });
}

#[test]
fn flows_that_live_are_found_in_a_flood() {
    const FLOWS: usize = 100;
    const PACKETS: usize = 10;
    Flood::each(|flood| {
        let flows: Vec<(SocketAddr, [u8; 6])> = (0..FLOWS)
            .map(|_| {
                let client = flood.client();
                let macs = [(); 3].map(|()| send(flood.dataplane, client, &flood.service, ACK));
                (client, macs[0])
            })
            .collect();
        // The hash now has other servers for half of them.
        let changed: Vec<Destination> = servers(3..40)
            .into_iter()
            .enumerate()
            .map(|(n, destination)| destination.disabled(n % 2 == 0))
            .collect();
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
