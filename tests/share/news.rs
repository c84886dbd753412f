//! What a balancer tells of its flows.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::ScopedJoinHandle;
use std::time::Duration;
use std::time::Instant;

use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use xvs::FlowState;
use xvs::Service;

use crate::VIPS;
use crate::client;
use crate::common::cpu::pin;
use crate::common::dataplane::Dataplane;
use crate::common::dataplane::now;
use crate::common::dataplane::server_mac;
use crate::common::frame::ACK;
use crate::common::frame::FIN;
use crate::common::frame::SYN;
use crate::common::random::share;
use crate::key;
use crate::read;
use crate::send;
use crate::server;
use crate::servers;

const TICK: Duration = Duration::from_nanos(1 << 30);

#[test]
fn what_becomes_of_a_flow_is_told() {
    Dataplane::with(
        |options| options.share_flows(true),
        |dataplane| {
            let mut reader = dataplane.client.flow_reader().expect("flows are shared");
            for vip in VIPS {
                let service = Service::tcp(vip, 80);
                dataplane.serve(&service, &servers(vip, 3..20));
                let source = client(vip, 7);
                let key = key(source, &service);
                send(dataplane, source, &service, SYN);
                assert_eq!(read(&mut reader), [], "a SYN stores nothing");

                let mac = send(dataplane, source, &service, ACK);
                let told = read(&mut reader);
                let [stored] = told.as_slice() else { panic!("one record: {told:?}") };
                assert_eq!((stored.source, stored.service), (source, service.key()));
                assert_eq!(server_mac(stored.destination), mac, "its server is told");
                assert_eq!((stored.state, stored.seen), (FlowState::Open, 1));
                assert!(stored.idle <= 3 * TICK, "{stored:?}");

                // A later tick, three times: it is known better.
                for seen in 2..=4 {
                    assert!(dataplane.age_flow(&key, 2 * TICK));
                    send(dataplane, source, &service, ACK);
                    let told = read(&mut reader);
                    assert_eq!(told.len(), 1, "{told:?}");
                    assert_eq!((told[0].seen, told[0].destination), (seen, stored.destination));
                }
                // Then only the first packet of a period is told: whatever begins it, one
                // that comes a period later than another is.
                for _ in 0..5 {
                    assert!(dataplane.age_flow(&key, 32 * TICK));
                    send(dataplane, source, &service, ACK);
                    let told = read(&mut reader);
                    assert_eq!(told.len(), 1, "{told:?}");
                    assert_eq!((told[0].seen, told[0].state), (4, FlowState::Open));
                }
                send(dataplane, source, &service, ACK);
                read(&mut reader);

                send(dataplane, source, &service, FIN | ACK);
                let told = read(&mut reader);
                assert_eq!(told.len(), 1, "{told:?}");
                assert_eq!((told[0].state, told[0].seen), (FlowState::Closing, 4));
                assert_eq!(told[0].destination, stored.destination);
            }
        },
    );
}

/// Flows that go on are told of in one tick of 32, not all in the same, and in one of 8
/// if they are forgotten soon.
#[test]
fn a_flow_that_goes_on_is_told_now_and_then() {
    const FLOWS: u32 = 320;
    Dataplane::with(
        |options| options.share_flows(true),
        |dataplane| {
            let mut reader = dataplane.client.flow_reader().expect("flows are shared");
            let vip = VIPS[0];
            for (seconds, period) in [(7_200, 32), (60, 8)] {
                let service = Service::tcp(vip, 80).idle(Duration::from_secs(seconds));
                dataplane.serve(&service, &servers(vip, 3..20));
                for n in 0..FLOWS {
                    for _ in 0..2 {
                        send(dataplane, client(vip, n), &service, ACK);
                    }
                }
                dataplane.tables.make_known(true);
                read(&mut reader);
                for n in 0..FLOWS {
                    let key = key(client(vip, n), &service);
                    let mut flow = dataplane.flow(&key).expect("it is stored");
                    flow.set_seen(now() - 1);
                    dataplane.set_flow(&key, &flow);
                    send(dataplane, client(vip, n), &service, ACK);
                }
                let told = read(&mut reader).len() as f64;
                let (mean, share) = (f64::from(FLOWS / period), 1.0 / f64::from(period));
                println!("idle {seconds} s: {told} of {FLOWS} told, expected {mean}");
                let spread = (mean * (1.0 - share)).sqrt();
                assert!((told - mean).abs() <= 5.0 * spread, "{told} instead of {mean}");
            }
        },
    );
}

#[test]
fn a_reader_waits_and_can_be_polled() {
    Dataplane::with(
        |options| options.share_flows(true),
        |dataplane| {
            let service = Service::tcp(VIPS[0], 80);
            dataplane.serve(&service, &servers(VIPS[0], 3..20));
            let mut reader = dataplane.client.flow_reader().expect("flows are shared");
            let error = dataplane.client.flow_reader().expect_err("there is one");
            assert!(error.to_string().contains("read already"), "{error}");
            let error = dataplane.client.read_flow(Duration::ZERO).expect_err("there is one");
            assert!(error.to_string().contains("read already"), "{error}");

            let start = Instant::now();
            assert_eq!(reader.read(Duration::from_millis(20)).expect("it can be read"), []);
            assert!(start.elapsed() >= Duration::from_millis(20));

            let is_ready = |reader: &crate::FlowReader| {
                let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
                poll(&mut fds, PollTimeout::ZERO).expect("it can be polled") == 1
            };
            assert!(!is_ready(&reader));
            send(dataplane, client(VIPS[0], 1), &service, ACK);
            assert!(is_ready(&reader));
            thread::scope(|scope| {
                let reading = scope.spawn(|| {
                    let mut all = Vec::new();
                    while all.len() < 2 {
                        let some = reader.read(Duration::from_secs(10)).expect("it can be read");
                        assert!(!some.is_empty(), "the second flow is told: {all:?}");
                        all.extend(some);
                    }
                    all
                });
                send(dataplane, client(VIPS[0], 2), &service, ACK);
                let all = reading.join().expect("it reads");
                let sources: Vec<_> = all.iter().map(|record| record.source).collect();
                assert_eq!(sources, [1, 2].map(|n| client(VIPS[0], n)));
            });

            drop(reader);
            assert_eq!(dataplane.client.read_flow(Duration::ZERO).expect("it has its own"), []);
            send(dataplane, client(VIPS[0], 3), &service, ACK);
            let told = dataplane.client.read_flow(Duration::from_secs(5)).expect("told");
            assert_eq!(told.iter().map(|r| r.source).collect::<Vec<_>>(), [client(VIPS[0], 3)]);
        },
    );
}

/// Flows that both CPUs store are all told, right, while they are read.
#[test]
fn what_two_cpus_tell_arrives() {
    let count = share(8_000) as u32;
    Dataplane::with(
        |options| options.share_flows(true).flows(131_072),
        |dataplane| {
            for vip in VIPS {
                let service = Service::tcp(vip, 80);
                dataplane.serve(&service, &servers(vip, 3..20));
                let mut reader = dataplane.client.flow_reader().expect("flows are shared");
                let done = AtomicBool::new(false);
                let (sent, told) = thread::scope(|scope| {
                    let senders = [0, 1].map(|cpu| {
                        let service = &service;
                        scope.spawn(move || {
                            pin(cpu);
                            let known = client(vip, 1_000_000 + cpu as u32);
                            let flows = (0..count).map(|n| 2 * n + cpu as u32);
                            let sent = flows.map(|n| {
                                let source = client(vip, n);
                                let mac = send(dataplane, source, service, ACK);
                                // Most packets have a flow, or this would be a flood.
                                (0..2).for_each(|_| {
                                    send(dataplane, known, service, ACK);
                                });
                                (source, mac)
                            });
                            sent.collect::<BTreeMap<_, _>>()
                        })
                    });
                    let reading = scope.spawn(|| {
                        let mut told = Vec::new();
                        while !done.load(Ordering::Acquire) {
                            let some = reader.read(Duration::from_millis(5));
                            told.extend(some.expect("the ring can be read"));
                        }
                        told.extend(read(&mut reader));
                        told
                    });
                    let sent = senders.map(ScopedJoinHandle::join);
                    done.store(true, Ordering::Release);
                    let sent = sent.map(|sent| sent.expect("no packet went astray"));
                    (sent, reading.join().expect("it reads"))
                });
                let mut sent: BTreeMap<_, _> = sent.into_iter().flatten().collect();
                for record in told.iter().filter(|record| sent.contains_key(&record.source)) {
                    assert_eq!((record.seen, record.service), (1, service.key()), "{record:?}");
                    assert_eq!(sent[&record.source], server_mac(record.destination), "{record:?}");
                }
                told.iter().for_each(|record| {
                    sent.remove(&record.source);
                });
                assert!(sent.is_empty(), "not told: {sent:?}");
                assert_eq!(dataplane.client.info().expect("info").sharing.lost, 0);
            }
        },
    );
}

/// What nobody reads is counted, and what came before is still there.
#[test]
fn news_that_find_no_room_are_counted() {
    const FLOWS: u32 = 500;
    Dataplane::with(
        |options| options.share_flows(true).share_ring(4_096),
        |dataplane| {
            let service = Service::tcp(VIPS[1], 80);
            dataplane.serve(&service, &servers(VIPS[1], 3..20));
            let mut reader = dataplane.client.flow_reader().expect("flows are shared");
            for n in 0..FLOWS {
                for _ in 0..2 {
                    send(dataplane, client(VIPS[1], n), &service, ACK);
                }
            }
            let mut told = read(&mut reader);
            let sharing = dataplane.reader().info().expect("info").sharing;
            println!("{} told, {} lost", told.len(), sharing.lost);
            assert!(sharing.enabled && sharing.lost > 0, "{sharing:?}");
            // Some are told again, in a later tick.
            assert!(told.len() as u64 + sharing.lost >= u64::from(FLOWS), "{sharing:?}");
            assert!(told.len() >= 4_096 / 40 - 1, "the ring was full");
            // One whose second packet came in the next tick is there twice, in a row.
            told.dedup_by_key(|record| record.source);
            for (n, record) in (0..).zip(&told) {
                assert_eq!(record.source, client(VIPS[1], n), "the oldest first");
            }
            // There is room again.
            send(dataplane, client(VIPS[1], FLOWS), &service, ACK);
            assert_eq!(read(&mut reader).len(), 1);
        },
    );
}

#[test]
fn flows_of_removed_servers_are_not_told() {
    Dataplane::with(
        |options| options.share_flows(true),
        |dataplane| {
            let vip = VIPS[0];
            let service = Service::tcp(vip, 80);
            dataplane.serve(&service, &servers(vip, [3]));
            let mut reader = dataplane.client.flow_reader().expect("flows are shared");
            send(dataplane, client(vip, 1), &service, ACK);
            dataplane.serve(&service, &servers(vip, [4]));
            send(dataplane, client(vip, 2), &service, ACK);
            let told: Vec<_> =
                read(&mut reader).iter().map(|r| (r.source, r.destination)).collect();
            assert_eq!(told, [(client(vip, 2), server(vip, 4))]);
        },
    );
}

#[test]
fn nothing_is_told_unless_asked_for() {
    Dataplane::with(
        |options| options,
        |dataplane| {
            let service = Service::tcp(VIPS[0], 80);
            dataplane.serve(&service, &servers(VIPS[0], [3]));
            let error = dataplane.client.flow_reader().expect_err("none are shared");
            assert!(error.to_string().contains("Options::share_flows"), "{error}");
            // Far more than a page has room for.
            for n in 0..500 {
                send(dataplane, client(VIPS[0], n), &service, ACK);
            }
            let sharing = dataplane.client.info().expect("info").sharing;
            assert_eq!(sharing, Default::default());
        },
    );
}
