//! What a balancer makes of flows that others tell of.

use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use xvs::Accepted;
use xvs::Error;
use xvs::FlowRecord;
use xvs::FlowState;
use xvs::Protocol;
use xvs::Service;
use xvs::Written;

use crate::VIPS;
use crate::client;
use crate::common::cpu::pin;
use crate::common::dataplane::Dataplane;
use crate::common::dataplane::Port;
use crate::common::dataplane::server_mac;
use crate::common::frame::ACK;
use crate::common::frame::FIN;
use crate::common::frame::Ip;
use crate::common::frame::SYN;
use crate::common::frame::destination_mac;
use crate::common::random::share;
use crate::key;
use crate::read;
use crate::send;
use crate::server;
use crate::servers;

const TICK: Duration = Duration::from_nanos(1 << 30);

fn record(source: SocketAddr, service: &Service, host: u8) -> FlowRecord {
    FlowRecord::new(source, service.key(), server(service.address, host))
}

fn octets(records: &[FlowRecord]) -> Vec<u8> {
    records.iter().flat_map(FlowRecord::to_bytes).collect()
}

fn accepted(dataplane: &Dataplane) -> Accepted {
    dataplane.reader().info().expect("info").sharing.accepted
}

/// The counts that are not 0.
fn counts(accepted: &Accepted) -> Vec<(&'static str, u64)> {
    accepted.iter().filter(|(_, count)| *count > 0).collect()
}

/// What the flow of a client is exported as.
fn told(dataplane: &Dataplane, source: SocketAddr) -> Option<FlowRecord> {
    let mut found = Vec::new();
    dataplane.client.export_flows(|some| {
        found.extend(some.iter().filter(|record| record.source == source).copied());
    });
    assert!(found.len() <= 1, "it is there once: {found:?}");
    found.pop()
}

#[test]
fn packets_follow_written_flows() {
    const FLOWS: u32 = 500;
    Dataplane::with(
        |options| options.share_flows(true),
        |dataplane| {
            let mut reader = dataplane.client.flow_reader().expect("flows are shared");
            let mut written = 0;
            for vip in VIPS {
                let service = Service::tcp(vip, 80);
                dataplane.serve(&service, &servers(vip, 3..20));
                // Each to the server after the one that the hash has for it.
                let hashed = |n| {
                    let mac = send(dataplane, client(vip, n), &service, SYN);
                    (3..20).find(|host| server_mac(server(vip, *host)) == mac).expect("a server")
                };
                let records: Vec<FlowRecord> = (0..FLOWS)
                    .map(|n| record(client(vip, n), &service, 3 + (hashed(n) - 3 + 1) % 17))
                    .collect();
                let became = dataplane.client.write_flows(&octets(&records));
                assert_eq!(counts(&became), [("stored", u64::from(FLOWS))]);
                let before = dataplane.client.info().expect("info").stats;
                for record in &records {
                    let mac = send(dataplane, record.source, &service, ACK);
                    assert_eq!(mac, server_mac(record.destination), "{}", record.source);
                }
                let after = dataplane.client.info().expect("info").stats;
                let found = after.reasons.forwarded_flow - before.reasons.forwarded_flow;
                assert_eq!(found, u64::from(FLOWS));
                assert_eq!(after.flows, before.flows, "none is stored by its packet");

                let became = dataplane.client.write_flows(&octets(&records));
                assert_eq!(counts(&became), [("refreshed", u64::from(FLOWS))]);
                written += u64::from(FLOWS);
                let all = accepted(dataplane);
                assert_eq!(counts(&all), [("stored", written), ("refreshed", written)]);
            }
            // A tick may have passed, and then a packet that came here is news.
            let news = read(&mut reader);
            assert!(news.iter().all(|record| record.seen > 1), "no record comes back: {news:?}");
        },
    );
}

/// Flows of UDP are shared like those of TCP on the same port, and apart from them.
#[test]
fn flows_of_udp_are_shared() {
    Dataplane::with(
        |options| options.share_flows(true),
        |dataplane| {
            for vip in VIPS {
                let tcp = Service::tcp(vip, 53);
                let udp = Service::udp(vip, 53);
                dataplane.serve(&tcp, &servers(vip, [3]));
                dataplane.serve(&udp, &servers(vip, [4, 5]));
                let source = client(vip, 1);
                let query = || {
                    let frame = Ip::new(source.ip(), vip).udp((source.port(), 53), b"");
                    destination_mac(&dataplane.run(Port::Lb0, &frame).1)
                };
                let chosen = query();
                let told = dataplane.client.read_flow(Duration::from_secs(5)).expect("told");
                let [record] = told.as_slice() else { panic!("one record: {told:?}") };
                assert_eq!((record.source, record.service), (source, udp.key()));
                assert_eq!(server_mac(record.destination), chosen);

                let mut moved = *record;
                moved.destination = [4, 5]
                    .map(|host| server(vip, host))
                    .into_iter()
                    .find(|a| *a != record.destination)
                    .expect("the other server");
                moved.seen = 2;
                let became = dataplane.client.write_flow(&moved).expect("it is taken");
                assert_eq!(became, Written::Stored);
                assert_eq!(query(), server_mac(moved.destination), "the record knew better");
                let mac = send(dataplane, source, &tcp, ACK);
                assert_eq!(mac, server_mac(server(vip, 3)));
                // What TCP and the query's later tick told.
                dataplane.client.read_flow(Duration::ZERO).expect("told");
            }
        },
    );
}

#[test]
fn a_record_brings_what_is_known_of_its_flow() {
    Dataplane::with(
        |options| options,
        |dataplane| {
            for vip in VIPS {
                let service = Service::tcp(vip, 80);
                dataplane.serve(&service, &servers(vip, [3, 4]));
                let mut sent = record(client(vip, 1), &service, 3);
                (sent.seen, sent.idle) = (3, 10 * TICK);
                assert_eq!(dataplane.client.write_flow(&sent).expect("written"), Written::Stored);
                let of = || told(dataplane, sent.source).expect("it lives");
                let first = of();
                assert_eq!((first.destination, first.seen), (sent.destination, 3));
                assert!(first.idle >= 9 * TICK && first.idle <= 13 * TICK, "{first:?}");

                // What is older, or knows less, changes nothing.
                (sent.seen, sent.idle) = (2, 100 * TICK);
                let again = dataplane.client.write_flow(&sent).expect("written");
                assert_eq!(again, Written::Refreshed);
                assert!(of().seen == 3 && of().idle <= 13 * TICK, "{:?}", of());
                // What is later, or knows more, does.
                (sent.seen, sent.idle, sent.state) = (4, Duration::ZERO, FlowState::Closing);
                dataplane.client.write_flow(&sent).expect("written");
                assert!(of().seen == 4 && of().idle <= 3 * TICK, "{:?}", of());
                assert_eq!(of().state, FlowState::Closing);
                // It stays closed for what is no later than that.
                (sent.seen, sent.idle, sent.state) = (4, 5 * TICK, FlowState::Open);
                dataplane.client.write_flow(&sent).expect("written");
                assert_eq!(of().state, FlowState::Closing);
                // Opened anew, it is not.
                assert!(dataplane.age_flow(&key(sent.source, &service), 20 * TICK));
                (sent.seen, sent.idle) = (1, TICK);
                dataplane.client.write_flow(&sent).expect("written");
                assert_eq!((of().state, of().seen), (FlowState::Open, 1));
            }
        },
    );
}

/// Two balancers have different servers for a flow.
#[test]
fn a_flow_that_lives_stays_unless_the_record_knows_better() {
    type Case = (&'static str, fn(&Dataplane, &Service, SocketAddr), u8, bool);
    let cases: [Case; 7] = [
        ("both were seen once", |_, _, _| (), 1, false),
        ("a packet was here before its record", |_, _, _| (), 4, true),
        (
            "it is as well known here",
            |dataplane, service, source| {
                assert!(dataplane.age_flow(&key(source, service), 2 * TICK));
                send(dataplane, source, service, ACK);
            },
            4,
            false,
        ),
        (
            "it is closing, and was opened anew since",
            |dataplane, service, source| {
                send(dataplane, source, service, FIN | ACK);
                assert!(dataplane.age_flow(&key(source, service), 5 * TICK));
            },
            1,
            true,
        ),
        (
            "it is silent for as long as a SYN opens it anew",
            |dataplane, service, source| {
                dataplane.tables.make_known(source.is_ipv4());
                assert!(dataplane.age_flow(&key(source, service), 70 * TICK));
            },
            1,
            true,
        ),
        (
            "it is silent for less",
            |dataplane, service, source| {
                dataplane.tables.make_known(source.is_ipv4());
                assert!(dataplane.age_flow(&key(source, service), 40 * TICK));
            },
            1,
            false,
        ),
        (
            "it is dead",
            |dataplane, service, source| {
                dataplane.tables.make_known(source.is_ipv4());
                assert!(dataplane.age_flow(&key(source, service), Duration::from_secs(7_300)));
            },
            1,
            true,
        ),
    ];
    Dataplane::with(
        |options| options,
        |dataplane| {
            for vip in VIPS {
                let service = Service::tcp(vip, 80);
                dataplane.serve(&service, &servers(vip, 3..20));
                for (n, (what, prepare, seen, replaced)) in (0..).zip(&cases) {
                    let source = client(vip, n);
                    let here = send(dataplane, source, &service, ACK);
                    let other = (3..20).find(|host| server_mac(server(vip, *host)) != here);
                    let mut record = record(source, &service, other.expect("there are more"));
                    record.seen = *seen;
                    prepare(dataplane, &service, source);
                    let right = if *replaced { Written::Stored } else { Written::Kept };
                    let became = dataplane.client.write_flow(&record).expect("it is taken");
                    // The census may have freed a dead one.
                    assert_eq!(became, right, "{vip}: {what}");
                    let now = send(dataplane, source, &service, ACK);
                    let there = server_mac(record.destination);
                    assert_eq!(now, if *replaced { there } else { here }, "{vip}: {what}");
                }
            }
        },
    );
}

#[test]
fn what_is_refused_is_named_and_counted() {
    Dataplane::with(
        |options| options,
        |dataplane| {
            let vip = VIPS[0];
            let service = Service::tcp(vip, 80);
            dataplane.serve(&service, &servers(vip, [3]));
            let good = record(client(vip, 1), &service, 3);
            let with = |change: fn(&mut FlowRecord)| {
                let mut record = good;
                change(&mut record);
                record
            };
            let port = with(|record| record.service.port = 81);
            let protocol = with(|record| record.service.protocol = Protocol::Udp);
            let unknown = with(|record| record.destination = server(VIPS[0], 4));
            let expired = with(|record| record.idle = Duration::from_secs(7_201));
            let closed = with(|record| {
                (record.state, record.idle) = (FlowState::Closing, Duration::from_secs(61));
            });
            let mixed = with(|record| record.source = client(VIPS[1], 1));
            let refused = |record: &FlowRecord| {
                dataplane.client.write_flow(record).expect_err("it is refused")
            };
            for (record, parts) in [
                (&port, &["192.168.100.1:81/tcp"][..]),
                (&protocol, &["192.168.100.1:80/udp"]),
                (&unknown, &["192.168.100.1:80/tcp", "10.1.2.4"]),
                (&expired, &["7201s", "7200s", "192.168.100.1:80/tcp"]),
                (&closed, &["61s", "60s"]),
                (&mixed, &["2001:db8:7::", "192.168.100.1", "family"]),
            ] {
                let error = refused(record).to_string();
                assert!(parts.iter().all(|part| error.contains(part)), "{error} lacks {parts:?}");
            }
            assert!(matches!(refused(&unknown), Error::DestinationNotFound { .. }));
            let once = [("no_service", 2), ("no_destination", 2), ("expired", 2), ("bad", 1)];
            assert_eq!(counts(&accepted(dataplane)), once);

            let mut newer = good.to_bytes();
            newer[1] = 2;
            let mut corrupted = good.to_bytes();
            corrupted[40] ^= 1;
            let sent = [
                &octets(&[port, unknown, expired])[..],
                &newer,
                &corrupted,
                &good.to_bytes(),
                &good.to_bytes()[..63],
            ];
            let became = dataplane.client.write_flows(&sent.concat());
            let right = [
                ("stored", 1),
                ("no_service", 1),
                ("no_destination", 1),
                ("expired", 1),
                ("bad", 3),
            ];
            assert_eq!(counts(&became), right);
            assert_eq!(became.refused(), 6);
            let all = [
                ("stored", 1),
                ("no_service", 3),
                ("no_destination", 3),
                ("expired", 3),
                ("bad", 4),
            ];
            assert_eq!(counts(&accepted(dataplane)), all);
            let flows = dataplane.client.instance().flows(9).expect("flows");
            assert_eq!(flows.len(), 1, "nothing else was stored: {flows:?}");
        },
    );
}

/// Writes as many records as the table has places, of flows from a number on.
fn fill(
    dataplane: &Dataplane,
    service: &Service,
    first: u32,
    (seen, idle): (u8, Duration),
) -> Accepted {
    let flows = first..first + dataplane.tables.places();
    let records: Vec<FlowRecord> = flows
        .map(|n| {
            let mut record = record(client(service.address, n), service, 3);
            (record.seen, record.idle) = (seen, idle);
            record
        })
        .collect();
    dataplane.client.write_flows(&octets(&records))
}

const MINUTE: Duration = Duration::from_secs(60);

/// Calls the closure for a service of each family, with one server, and few places for
/// flows.
fn with_few_places(test: impl Fn(&Dataplane, &Service) + Sync) {
    for vip in VIPS {
        Dataplane::with(
            |options| options.flows(1_024),
            |dataplane| {
                let service = Service::tcp(vip, 80);
                dataplane.serve(&service, &servers(vip, [3]));
                test(dataplane, &service);
            },
        );
    }
}

/// A full table takes no flow that has not more right than one that is there.
#[test]
fn flows_that_are_known_well_stay() {
    with_few_places(|dataplane, service| {
        let places = u64::from(dataplane.tables.places());
        let count = || {
            let flows = dataplane.client.instance().flows(usize::MAX);
            flows.expect("flows").len() as u64
        };
        // Hardly a place is left.
        let known = (4, MINUTE);
        let full = fill(dataplane, service, 0, known).stored
            + fill(dataplane, service, 10_000, known).stored;
        assert!(full * 100 >= places * 98, "{full} of {places}");
        assert_eq!(count(), full);

        // A flow is not replaced before it was silent for 70 minutes.
        for (first, known) in [(20_000, (1, Duration::ZERO)), (30_000, (4, 2 * MINUTE))] {
            let before = count();
            let new = fill(dataplane, service, first, known);
            assert_eq!(new.stored + new.no_room, places, "{new:?}");
            assert_eq!(count(), before + new.stored, "none was replaced");
        }
        let old = (4, 90 * MINUTE);
        let before = count();
        let new = fill(dataplane, service, 40_000, old);
        assert_eq!(count(), before + new.stored, "none was replaced");
    });
}

/// Of flows that were seen once, a minute ago, each goes for one that was seen since.
#[test]
fn flows_with_less_right_go() {
    with_few_places(|dataplane, service| {
        let places = u64::from(dataplane.tables.places());
        fill(dataplane, service, 0, (1, MINUTE));
        fill(dataplane, service, 10_000, (1, MINUTE));
        let new = fill(dataplane, service, 20_000, (2, Duration::ZERO));
        // But where all eight places have such flows already.
        assert!(new.stored * 100 >= places * 80, "{new:?} of {places}");
        let told = dataplane.client.instance().flows(usize::MAX).expect("flows");
        assert!(told.len() as u64 <= places);
        let recent = told.iter().filter(|flow| flow.idle < MINUTE / 2).count() as u64;
        assert_eq!(recent, new.stored);
    });
}

/// Whether programs have atomic exchanges: from 5.12 on.
fn has_exchange() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("it has a number");
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5, 12)
}

/// Packets store flows on both CPUs while records are written to the same groups.
#[test]
fn nothing_is_lost_when_packets_store_flows_meanwhile() {
    // A quarter of the places of the table.
    let count = share(12_000) as u32;
    Dataplane::with(
        |options| options.flows(32_768).destinations(100),
        |dataplane| {
            for vip in VIPS {
                let service = Service::tcp(vip, 80);
                dataplane.serve(&service, &servers(vip, 3..40));
                let known = client(vip, 1_000_000);
                // Of three flows one is written, the others are stored by packets.
                let of = |who: u32| (0..count).filter(move |n| n % 3 == who);
                let records: Vec<FlowRecord> =
                    of(2).map(|n| record(client(vip, n), &service, 3)).collect();
                let began = AtomicBool::new(false);
                thread::scope(|scope| {
                    for cpu in 0..2 {
                        let (service, began) = (&service, &began);
                        scope.spawn(move || {
                            pin(cpu);
                            for n in of(cpu as u32) {
                                // Most packets have a flow, or this would be a flood.
                                send(dataplane, client(vip, n), service, ACK);
                                (0..2).for_each(|_| {
                                    send(dataplane, known, service, ACK);
                                });
                                began.store(true, Ordering::Release);
                            }
                        });
                    }
                    while !began.load(Ordering::Acquire) {
                        thread::yield_now();
                    }
                    for some in records.chunks(16) {
                        let became = dataplane.client.write_flows(&octets(some));
                        assert_eq!(became.stored, some.len() as u64, "{became:?}");
                        thread::yield_now();
                    }
                });
                let lost: Vec<SocketAddr> = (0..count)
                    .map(|n| client(vip, n))
                    .filter(|source| dataplane.flow(&key(*source, &service)).is_none())
                    .collect();
                println!("{vip}: {} of {count} have no place", lost.len());
                // Where packets take locks, one may write over what a record wrote.
                let most = if has_exchange() { 0 } else { 3 };
                let had_room =
                    lost.iter().filter(|s| !dataplane.tables.is_crowded_out(&key(**s, &service)));
                assert!(had_room.count() <= most, "of {lost:?}");
                assert!(lost.len() as u32 <= count / 1_000, "{} are lost", lost.len());
                for record in &records {
                    if !lost.contains(&record.source) {
                        let mac = send(dataplane, record.source, &service, ACK);
                        assert_eq!(mac, server_mac(record.destination), "{}", record.source);
                    }
                }
            }
        },
    );
}

/// A balancer that joins is told of all flows, and chooses as the other did.
#[test]
fn all_flows_are_exported() {
    const FLOWS: u32 = 3_000;
    let first = Dataplane::with(
        |options| options,
        |dataplane| {
            let mut sent = Vec::new();
            for vip in VIPS {
                let service = Service::tcp(vip, 80);
                dataplane.serve(&service, &servers(vip, 3..30));
                for n in 0..FLOWS {
                    let source = client(vip, n);
                    let mac = [(); 3].map(|()| send(dataplane, source, &service, ACK))[0];
                    sent.push((source, service.clone(), mac));
                }
            }
            let mut told = Vec::new();
            dataplane.client.export_flows(|some| {
                assert!(!some.is_empty() && some.len() <= 1_024);
                told.extend(octets(some));
            });
            (sent, told)
        },
    );
    let (sent, told) = first;
    assert_eq!(told.len(), 64 * sent.len());
    Dataplane::with(
        |options| options.hash_key(*b"another key here"),
        |dataplane| {
            for vip in VIPS {
                dataplane.serve(&Service::tcp(vip, 80), &servers(vip, 3..30));
            }
            let became = dataplane.client.write_flows(&told);
            assert_eq!(counts(&became), [("stored", sent.len() as u64)]);
            for (source, service, mac) in &sent {
                assert_eq!(send(dataplane, *source, service, ACK), *mac, "{source}");
            }
        },
    );
}
