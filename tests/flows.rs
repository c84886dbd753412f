//! The flow tables under load: from two CPUs at once no packet follows a flow
//! that is not its own, nothing that fits is lost, and floods push out no flow
//! that lives.

mod common;
mod flows {
    pub mod filters;
    pub mod floods;
    pub mod transition;
}
#[path = "model/maglev.rs"]
mod maglev;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use common::cpu::pin;
use common::dataplane::Dataplane;
use common::dataplane::FlowKey;
use common::dataplane::Port;
use common::dataplane::Verdict;
use common::dataplane::server_mac;
use common::dataplane::wait_for;
use common::frame::ACK;
use common::frame::FIN;
use common::frame::Ip;
use common::frame::SYN;
use common::frame::destination_mac;
use common::random::Random;
use common::random::share;
use xvs::Destination;
use xvs::MAX_NEW_FLOWS;
use xvs::Protocol;
use xvs::Service;

const VIP4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 100, 1));
const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 1));
const CPUS: usize = 2;

/// A TCP service whose flows are all stored.
const fn tcp(vip: IpAddr, port: u16) -> Service {
    Service::tcp(vip, port).new_flows(MAX_NEW_FLOWS)
}

/// Client number `n` of the family of a virtual address; many share a port.
fn client(vip: IpAddr, n: u32, ports: u32) -> SocketAddr {
    let port = 40_000 + (n % ports) as u16;
    let host = n / ports;
    let address = match vip {
        IpAddr::V4(_) => IpAddr::from((0x0a40_0000 + host).to_be_bytes()),
        IpAddr::V6(_) => {
            let [high, low] = [(host >> 16) as u16, host as u16];
            IpAddr::from([0x2001, 0xdb8, 7, 0, 0, 0, high, low])
        }
    };
    SocketAddr::new(address, port)
}

fn frame(client: SocketAddr, service: &Service, flags: u8) -> Vec<u8> {
    Ip::new(client.ip(), service.address).tcp((client.port(), service.port), flags, b"")
}

/// Sends a packet and tells the server's MAC address it went to.
fn send(dataplane: &Dataplane, client: SocketAddr, service: &Service, flags: u8) -> [u8; 6] {
    let (verdict, output) = dataplane.run(Port::Lb0, &frame(client, service, flags));
    assert!(matches!(verdict, Verdict::Tx | Verdict::Redirect), "{client} {service}: {verdict:?}");
    destination_mac(&output)
}

fn servers(hosts: impl IntoIterator<Item = u8>) -> Vec<Destination> {
    hosts.into_iter().map(|host| Destination::new([10, 1, 2, host].into())).collect()
}

/// How many packets had each reason so far.
fn reasons(dataplane: &Dataplane) -> BTreeMap<&'static str, u64> {
    dataplane.client.info().expect("info").stats.reasons.iter().collect()
}

/// No table is changed, so that a packet may only go where the hash says,
/// whether its flow is known or not. Far more flows than there is room for
/// come, go and replace each other from all CPUs, beside a service whose
/// servers change all the time and readers that free what is dead.
#[test]
fn no_packet_follows_another_flow() {
    const CLIENTS: u32 = 4_000;
    /// So few that flows differ in as little as can be.
    const PORTS: u32 = 4;
    let packets = share(150_000);
    Dataplane::with(
        |options| options.flows(1_024).destinations(400),
        |dataplane| {
            let services: Vec<Service> =
                [VIP4, VIP6].into_iter().flat_map(|vip| [tcp(vip, 80), tcp(vip, 81)]).collect();
            dataplane.serve(&services[0], &servers(3..20));
            dataplane.serve(&services[1], &servers(20..40));
            dataplane.serve(&services[2], &servers(3..20));
            dataplane.serve(&services[3], &servers(20..40));
            // A SYN of no flow leaves none, and goes where the hash says.
            let right: Vec<Vec<[u8; 6]>> = services
                .iter()
                .map(|service| {
                    (0..CLIENTS)
                        .map(|n| {
                            let client = client(service.address, n, PORTS);
                            send(dataplane, client, service, SYN)
                        })
                        .collect()
                })
                .collect();
            assert_eq!(dataplane.client.instance().flows(1).expect("flows").len(), 0);

            let done = AtomicBool::new(false);
            let turns = AtomicU64::new(0);
            thread::scope(|scope| {
                let senders: Vec<_> = (0..CPUS)
                    .map(|cpu| {
                        let (services, right) = (&services, &right);
                        scope.spawn(move || {
                            pin(cpu);
                            let mut random = Random::new(0x5eed_0100 + cpu as u64);
                            let known = client(VIP4, CLIENTS + cpu as u32, PORTS);
                            for number in 0..packets {
                                // In turn most packets have a flow or have none: tags
                                // are read after places or before.
                                if number / 5_000 % 2 == 1 {
                                    (0..2).for_each(|_| {
                                        send(dataplane, known, &services[0], ACK);
                                    });
                                }
                                let which = random.below(services.len());
                                let n = random.below(CLIENTS as usize);
                                let flags = *random.pick(&[ACK, ACK, ACK, SYN, FIN | ACK]);
                                let service = &services[which];
                                let client = client(service.address, n as u32, PORTS);
                                let mac = send(dataplane, client, service, flags);
                                assert_eq!(mac, right[which][n], "{client} to {service}");
                            }
                        })
                    })
                    .collect();
                scope.spawn(|| {
                    let service = tcp(VIP4, 90);
                    for host in (3..40u8).cycle() {
                        dataplane.serve(&service, &servers([host]));
                        let mac = server_mac([10, 1, 2, host].into());
                        for n in 0..20 {
                            let client = client(VIP4, n, PORTS);
                            assert_eq!(send(dataplane, client, &service, ACK), mac, "{client}");
                        }
                        turns.fetch_add(1, Ordering::Relaxed);
                        if done.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                });
                let results: Vec<_> = senders.into_iter().map(ScopedJoinHandle::join).collect();
                done.store(true, Ordering::Relaxed);
                results.into_iter().for_each(|result| result.expect("no packet went astray"));
            });
            let info = dataplane.client.info().expect("info");
            let reasons = info.stats.reasons;
            println!(
                "{} packets of flows, {} flows stored, {} SYNs, {} changes of a service",
                reasons.forwarded_flow,
                info.stats.flows,
                reasons.forwarded_syn,
                turns.load(Ordering::Relaxed),
            );
            assert!(reasons.forwarded_flow > packets as u64 / 20, "flows are found");
            assert!(info.stats.flows > 8_192.min(packets as u64 / 16), "places are taken anew");
        },
    );
}

/// How far a thread is.
#[derive(Default)]
struct Step(AtomicU32);

/// Lets the others go on when the thread ends, however it does.
struct Last<'a>(&'a Step);

impl Drop for Last<'_> {
    fn drop(&mut self) {
        self.0.0.store(u32::MAX, Ordering::Release);
    }
}

/// Two CPUs that store flows at once, the same and others of the same groups,
/// lose none that has a place; at most they store one twice.
#[test]
fn nothing_is_lost_when_two_cpus_store_at_once() {
    // A quarter of the places of each table: once in a hundred times there is a
    // flow that finds all of its places taken.
    let count = share(15_000) as u32;
    // Whether a flow is of both CPUs.
    let both = |n: u32| n % 3 == 2;
    Dataplane::with(
        |options| options.flows(32_768).destinations(100),
        |dataplane| {
            for vip in [VIP4, VIP6] {
                let service = tcp(vip, 80);
                dataplane.serve(&service, &servers(3..40));
                let stored = dataplane.client.info().expect("info").stats.flows;
                let steps: [Step; CPUS] = std::array::from_fn(|_| Step::default());
                thread::scope(|scope| {
                    for cpu in 0..CPUS {
                        let (service, steps) = (&service, &steps);
                        scope.spawn(move || {
                            pin(cpu);
                            let _last = Last(&steps[cpu]);
                            for n in 0..count {
                                if n.is_multiple_of(32) {
                                    steps[cpu].0.store(n, Ordering::Release);
                                    let others = |step: &Step| step.0.load(Ordering::Acquire) < n;
                                    while steps.iter().any(others) {
                                        thread::yield_now();
                                    }
                                }
                                if both(n) || n as usize % CPUS == cpu {
                                    send(dataplane, client(vip, n, 100), service, ACK);
                                }
                            }
                        });
                    }
                });
                let stored = dataplane.client.info().expect("info").stats.flows - stored;
                let mut found: BTreeMap<SocketAddr, u32> = BTreeMap::new();
                for flow in dataplane.client.instance().flows(usize::MAX).expect("flows") {
                    if flow.service == service.key() {
                        *found.entry(flow.source).or_default() += 1;
                    }
                }
                let twice = found.values().filter(|times| **times > 1).count();
                println!("{vip}: {} flows of {count} sent, {twice} twice", found.len());
                let vip = SocketAddr::new(vip, 80);
                let lost: Vec<FlowKey> = (0..count)
                    .map(|n| client(vip.ip(), n, 100))
                    .filter(|source| !found.contains_key(source))
                    .map(|source| FlowKey::new(source, vip, Protocol::Tcp))
                    .collect();
                assert!(lost.len() as u32 <= count / 1_000, "{} are lost", lost.len());
                let had_room = lost.iter().filter(|key| !dataplane.tables.is_crowded_out(key));
                // A flow without a place may take another's, if a tick passed.
                let replaced = stored - u64::from(found.values().sum::<u32>());
                assert!(
                    had_room.count() as u64 <= replaced,
                    "of {lost:?} {replaced} were replaced"
                );
                // Each CPU may take a place for a packet that both have at the
                // same time, which few are.
                assert!(twice as u32 <= count / 3 / 10, "{twice} of {count} are there twice");
            }
        },
    );
}

/// The share of flows that a table holds at a load, as it was filled, and when
/// a flood of packets of other flows, each sent twice, came over it.
fn held(dataplane: &Dataplane, service: &Service, percent: u32) -> (f64, f64) {
    let vip = service.address;
    let count = dataplane.tables.places() * percent / 100;
    for n in 0..count {
        send(dataplane, client(vip, n, 50), service, ACK);
    }
    // Each is seen again in a later tick.
    dataplane.tables.make_known(vip.is_ipv4());
    let hits = |dataplane: &Dataplane| {
        let before = reasons(dataplane)["forwarded_flow"];
        for n in 0..count {
            send(dataplane, client(vip, n, 50), service, ACK);
        }
        (reasons(dataplane)["forwarded_flow"] - before) as f64 / f64::from(count)
    };
    let filled = hits(dataplane);
    dataplane.tables.make_known(vip.is_ipv4());
    for n in 0..4 * count {
        for _ in 0..2 {
            send(dataplane, client(vip, 0x0100_0000 + n, 50), service, ACK);
        }
    }
    (filled, hits(dataplane))
}

#[test]
fn floods_push_out_no_flow_that_lives() {
    let flows = share(32_768).max(8_192) as u32;
    for vip in [VIP4, VIP6] {
        // By the places of the table: at the limit of flows it is 56 % full.
        let loads = [(25, 0.9995), (50, 0.998), (56, 0.996), (75, 0.975), (90, 0.93)];
        for (percent, least) in loads {
            Dataplane::with(
                |options| options.flows(flows),
                |dataplane| {
                    let service = tcp(vip, 80);
                    dataplane.serve(&service, &servers(3..40));
                    let (filled, flooded) = held(dataplane, &service, percent);
                    println!(
                        "{vip}: {percent} % of places: {:.3} % held, {:.3} % after a flood",
                        filled * 100.0,
                        flooded * 100.0
                    );
                    assert!(filled >= least, "{filled} of {percent} %");
                    assert!(flooded >= filled, "a flood took places: {filled} -> {flooded}");
                },
            );
        }
    }
}

/// Where a flow lies is a secret of the instance.
#[test]
fn places_cannot_be_foreseen() {
    let group = || {
        Dataplane::with(
            |options| options.flows(1 << 20),
            |dataplane| {
                let service = tcp(VIP4, 80);
                dataplane.serve(&service, &servers([3]));
                let source = client(VIP4, 1, 1);
                send(dataplane, source, &service, ACK);
                let key = FlowKey::new(source, SocketAddr::new(VIP4, 80), Protocol::Tcp);
                dataplane.tables.find(&key).expect("the flow was stored").0
            },
        )
    };
    let groups = [group(), group(), group()];
    assert!(groups[0] != groups[1] || groups[1] != groups[2], "always in group {}", groups[0]);
}

/// The census frees places of dead flows and what writers left half-written,
/// and leaves flows that live.
#[test]
fn the_census_frees_what_is_dead() {
    Dataplane::with(
        |options| options.flows(1_024),
        |dataplane| {
            for vip in [VIP4, VIP6] {
                let service = Service::udp(vip, 53).idle(Duration::from_secs(600));
                dataplane.serve(&service, &servers([3]));
                let query = |client: SocketAddr| {
                    let frame = Ip::new(client.ip(), vip).udp((client.port(), 53), b"");
                    dataplane.run(Port::Lb0, &frame);
                };
                let key = |client| FlowKey::new(client, SocketAddr::new(vip, 53), Protocol::Udp);
                // What is free has port 0 too.
                let clients = [40_000, 0].map(|port| {
                    let mut client = client(vip, 1, 1);
                    client.set_port(port);
                    client
                });
                let lives = client(vip, 2, 1);
                query(lives);
                for client in clients {
                    query(client);
                    assert!(dataplane.age_flow(&key(client), Duration::from_secs(700)));
                    wait_for("whether a dead flow has a place", &false, || {
                        dataplane.tables.find(&key(client)).is_some()
                    });
                    query(client);
                    query(client);
                    assert!(dataplane.tables.find(&key(client)).is_some(), "{client} has its tag");
                    let told = dataplane.client.instance().flows(9).expect("flows");
                    let told = told.iter().filter(|flow| flow.source == client).count();
                    assert_eq!(told, 1, "{client} is told once");
                }
                assert!(dataplane.tables.find(&key(lives)).is_some(), "a flow that lives stays");

                dataplane.tables.half_write(&key(lives));
                wait_for("whether a half-written place has its tag", &false, || {
                    dataplane.tables.has_tag(&key(lives))
                });
            }
        },
    );
}

/// A client's port to one service says nothing of the same port to another,
/// when both have the same bucket and the first service is gone.
#[test]
fn services_do_not_share_places() {
    Dataplane::with(
        |options| options.flows(1_024),
        |dataplane| {
            for vip in [VIP4, VIP6] {
                let [first, second] = [80, 81].map(|port| tcp(vip, port));
                dataplane.serve(&first, &servers([3]));
                dataplane.serve(&second, &servers([4]));
                let key = |client, service: &Service| {
                    FlowKey::new(client, SocketAddr::new(vip, service.port), Protocol::Tcp)
                };
                let same = (0..100_000).map(|n| client(vip, n, 1)).find(|client| {
                    dataplane.tables.bucket(&key(*client, &first))
                        == dataplane.tables.bucket(&key(*client, &second))
                });
                let client = same.expect("of so many clients one has");
                send(dataplane, client, &first, ACK);
                dataplane.client.remove_service(&first).expect("it is there");
                let before = reasons(dataplane);
                for _ in 0..3 {
                    let mac = send(dataplane, client, &second, ACK);
                    assert_eq!(mac, server_mac([10, 1, 2, 4].into()));
                }
                send(dataplane, client, &second, SYN);
                let after = reasons(dataplane);
                assert_eq!(after["forwarded_new"], before["forwarded_new"] + 1);
                assert_eq!(after["forwarded_flow"], before["forwarded_flow"] + 3);
                assert!(dataplane.tables.find(&key(client, &second)).is_some(), "it has its tag");
            }
        },
    );
}
