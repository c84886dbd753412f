//! What the data plane does with single frames: for each case the verdict, the
//! octets that come out, the counters and the flow table must be right.

mod common;
mod packets {
    pub mod case;
    pub mod echo;
    pub mod errors;
    pub mod flows;
    pub mod foreign;
    pub mod fragments;
    pub mod jumbo;
    pub mod network;
    pub mod tagging;
    pub mod transport;
    pub mod tunnels;
    pub mod ways_out;
    pub mod world;
}

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use std::time::Instant;

use common::cpu;
use common::dataplane::Dataplane;
use common::dataplane::Port;
use common::dataplane::Verdict;
use common::dataplane::server_mac;
use common::dataplane::set_neighbour;
use common::dataplane::wait_for;
use common::frame::ACK;
use common::frame::Ip;
use common::frame::SYN;
use common::frame::destination_mac;
use common::frame::tagged;
use common::netns::sh;
use libbpf_rs::MapCore;
use libbpf_rs::MapFlags;
use packets::case::Case;
use packets::case::Entry;
use packets::case::Server;
use packets::tagging::Tagging;
use packets::world::FAR;
use packets::world::WEB;
use packets::world::World;
use packets::{
    echo, errors, flows, foreign, fragments, jumbo, network, transport, tunnels, ways_out,
};
use xvs::Destination;
use xvs::DestinationStatus;
use xvs::Options;
use xvs::Packet;
use xvs::Protocol;

/// Every case, in the order in which they run.
fn cases(v4: &World, v6: &World) -> Vec<Case> {
    let mut cases = foreign::other_protocols(v4);
    for w in [v4, v6] {
        cases.extend(foreign::other_addresses(w));
        cases.extend(foreign::other_hosts(w));
        cases.extend(network::lengths(w));
        cases.extend(transport::tcp(w));
        cases.extend(transport::udp(w));
        cases.extend(transport::services(w));
        cases.extend(transport::time_to_live(w));
        cases.extend(fragments::orders(w));
        cases.extend(fragments::firsts(w));
        cases.extend(fragments::changes(w, 9001));
        cases.extend(echo::echo(w));
        cases.extend(echo::unsupported(w));
        cases.extend(errors::errors(w));
        cases.extend(errors::unowned(w));
        cases.extend(errors::owners(w, 9002));
        cases.extend(flows::tcp(w));
        cases.extend(flows::times(w));
        cases.extend(flows::changes(w, 9003));
        cases.extend(flows::addresses(w));
        cases.extend(ways_out::interfaces(w));
        cases.extend(ways_out::too_big(w));
        cases.extend(tunnels::kinds(w));
    }
    cases.extend(network::options(v4));
    cases.extend(transport::carries(v4));
    cases.extend(network::extensions(v6));
    cases.extend(fragments::headers(v6));
    cases
}

#[test]
fn every_case_comes_out_right() {
    run_cases(Tagging::default());
}

#[test]
fn every_case_comes_out_right_when_tags_are_taken_off() {
    run_cases(Tagging { ingress: Some(0xa007), egress: None });
}

#[test]
fn every_case_comes_out_right_when_tags_are_put_on() {
    run_cases(Tagging { ingress: None, egress: Some(9) });
}

#[test]
fn every_case_comes_out_right_when_tags_change() {
    run_cases(Tagging { ingress: Some(0x7fff), egress: Some(0x0801) });
}

#[test]
fn every_case_comes_out_right_with_a_priority_alone() {
    run_cases(Tagging { ingress: Some(0xe000), egress: Some(4094) });
}

fn run_cases(tagging: Tagging) {
    Dataplane::with(
        |options| options.services(128).destinations(128),
        |dataplane| {
            let (v4, v6) = (World::v4(), World::v6());
            for w in [&v4, &v6] {
                w.set_up(dataplane);
                tunnels::set_up(w, dataplane);
            }
            let cases = cases(&v4, &v6);
            let failed: Vec<String> =
                cases.iter().filter_map(|case| case.run_tagged(dataplane, tagging).err()).collect();
            println!("{} cases ran, {} failed", cases.len(), failed.len());
            assert!(failed.is_empty(), "{} failed:\n\n{}", failed.len(), failed.join("\n"));
            assert!(cases.len() >= 150, "{} cases are too few", cases.len());
        },
    );
}

/// A frame of a VLAN that the host is not in is none of its business; one with a
/// priority alone is of no VLAN.
#[test]
fn frames_of_other_vlans_pass() {
    for w in [World::v4(), World::v6()] {
        Dataplane::with(
            |options| options,
            |dataplane| {
                w.set_up(dataplane);
                let run = |case: Case| case.run(dataplane).unwrap_or_else(|e| panic!("{e}"));
                let segment = || w.segment(WEB, SYN);
                for control in [0x0001, 0x0007, 0xa040, 0x0fff, 0xffff] {
                    let frame = tagged(segment(), control);
                    let name = format!("tag {control:#06x}");
                    run(w.case(&name, frame).passes("other_host", w.on_vip()));
                }
                for control in [0x0000, 0x1000, 0xe000, 0xf000] {
                    let case = w.case("a SYN", segment()).forwards("forwarded_syn", w.web());
                    let tagging = Tagging { ingress: Some(control), egress: None };
                    let result = case.counts(&["syn"]).run_tagged(dataplane, tagging);
                    result.unwrap_or_else(|e| panic!("{e}"));
                }
            },
        );
    }
}

/// The flow stays while its server's interface is down, and works again.
#[test]
fn a_flow_outlives_an_interface_that_is_down() {
    for w in [World::v4(), World::v6()] {
        Dataplane::with(
            |options| options,
            |dataplane| {
                let service = w.tcp(FAR);
                let address = w.server(Port::Lb1, 3);
                let server = Server::new(&service, address);
                dataplane.serve(&service, &[Destination::new(address)]);
                let source = w.unique();
                let frame = || w.ip().tcp((source, FAR), ACK, b"x");
                let status = |right: DestinationStatus| {
                    wait_for("the destination's status", &right, || {
                        let destinations = dataplane.client.destinations(&service);
                        destinations.expect("the service is there")[0].status
                    });
                };
                let run = |case: Case| case.run(dataplane).unwrap_or_else(|e| panic!("{e}"));
                run(w.case("up", frame()).forwards("forwarded_new", server));
                sh("ip link set lb1 down");
                status(DestinationStatus::InterfaceDown);
                run(w
                    .case("down", frame())
                    .drops("no_destination", w.on_tcp(FAR))
                    .leaves(&w.key(source, FAR), Entry::Open));
                run(w
                    .case("a SYN while it is down", w.segment(FAR, SYN))
                    .drops("no_destination", w.on_tcp(FAR)));
                sh("ip link set lb1 up");
                Port::Lb1.add_addresses();
                set_neighbour(address, server_mac(address));
                status(DestinationStatus::Reachable);
                dataplane.settle(&service, 1);
                run(w.case("up again", frame()).forwards("forwarded_flow", server));
            },
        );
    }
}

/// Frames that are in several buffers are handled like others.
#[test]
fn jumbo_frames_come_out_right() {
    for tagging in [
        Tagging::default(),
        Tagging { ingress: Some(0xa007), egress: None },
        Tagging { ingress: None, egress: Some(9) },
        Tagging { ingress: Some(0x7fff), egress: Some(0x0801) },
    ] {
        Dataplane::with(
            |options| options,
            |dataplane| {
                if !jumbo::works(dataplane) {
                    return;
                }
                for w in [World::v4(), World::v6()] {
                    w.set_up(dataplane);
                    dataplane.set_mtu(Port::Lb0, 9000);
                    dataplane.set_mtu(Port::Lb1, 9000);
                    let run = |cases: Vec<Case>| {
                        let results = cases.iter().map(|case| case.run_tagged(dataplane, tagging));
                        let failed: Vec<String> = results.filter_map(Result::err).collect();
                        assert!(failed.is_empty(), "{}", failed.join("\n"));
                    };
                    run(jumbo::to_where_it_came_from(&w));
                    run(jumbo::to_one_buffer(&w));
                    let index = dataplane.index(Port::Lb1).to_ne_bytes();
                    let ways_out = dataplane.frags_ways_out();
                    ways_out.update(&index, &index, MapFlags::ANY).expect("lb1 is there");
                    run(jumbo::to_several_buffers(&w));
                    ways_out.delete(&index).expect("it was put there");
                    dataplane.set_mtu(Port::Lb0, 1500);
                    run(jumbo::too_big(&w));
                }
            },
        );
    }
}

/// What a driver puts into the first buffer is its own matter. Nothing is read
/// or written beyond it.
#[test]
fn first_buffers_may_be_short() {
    for w in [World::v4(), World::v6()] {
        Dataplane::with(
            |options| options,
            |dataplane| {
                if !jumbo::works(dataplane) {
                    return;
                }
                w.set_up(dataplane);
                let index = dataplane.index(Port::Lb1).to_ne_bytes();
                let ways_out = dataplane.frags_ways_out();
                ways_out.update(&index, &index, MapFlags::ANY).expect("lb1 is there");
                for tag in [None, Some(0x2000)] {
                    jumbo::run_split(&w, dataplane, Tagging { ingress: tag, egress: None });
                }
            },
        );
    }
}

/// What cannot leave is dropped as it came, and counted.
#[test]
fn a_way_out_that_is_gone_is_no_destination() {
    for w in [World::v4(), World::v6()] {
        Dataplane::with(
            |options| options,
            |dataplane| {
                w.set_up(dataplane);
                let run = |case: Case| case.run(dataplane).unwrap_or_else(|e| panic!("{e}"));
                let segment = |source: u16| w.ip().tcp((source, FAR), ACK, b"x");
                let source = w.unique();
                run(w.case("there", segment(source)).forwards("forwarded_new", w.far()));

                let ways_out = dataplane.ways_out();
                let index = dataplane.index(Port::Lb1).to_ne_bytes();
                ways_out.delete(&index).expect("the interface is in the map");
                let gone = |name: &str, frame: Vec<u8>| {
                    w.case(name, frame).drops("no_destination", w.on_tcp(FAR))
                };
                run(gone("a flow", segment(source)).leaves(&w.key(source, FAR), Entry::Open));
                run(gone("a SYN", w.segment(FAR, SYN)));
                run(gone("no flow yet", w.segment(FAR, ACK)));
                let first = w.ip().fragment(1, 0, true);
                run(gone("a first fragment", first.tcp((w.unique(), FAR), ACK, &[0; 12])));
                let later = w.ip().fragment(1, 32, false);
                run(w.case("its rest", later.raw(6, &[0; 8])).drops("fragment_orphan", w.on_vip()));
                let tagging = Tagging { ingress: Some(0x0002), egress: None };
                let tagged = gone("a tagged frame", segment(source)).run_tagged(dataplane, tagging);
                tagged.unwrap_or_else(|e| panic!("{e}"));
                run(w
                    .case("another way out", w.segment(WEB, ACK))
                    .forwards("forwarded_new", w.web()));

                ways_out.update(&index, &index, MapFlags::ANY).expect("the interface is there");
                run(w.case("there again", segment(source)).forwards("forwarded_flow", w.far()));
            },
        );
    }
}

/// The kernel keeps no interface for the map's sake.
#[test]
fn an_interface_that_goes_is_no_way_out_any_more() {
    Dataplane::with(
        |options| options,
        |dataplane| {
            let has = |port: Port| {
                let index = dataplane.index(port).to_ne_bytes();
                let entry = dataplane.ways_out().lookup(&index, MapFlags::ANY);
                entry.expect("a lookup").is_some()
            };
            assert!(has(Port::Lb0) && has(Port::Lb1));
            sh("ip link delete lb1");
            assert!(has(Port::Lb0) && !has(Port::Lb1));
        },
    );
}

/// Each CPU tells only so many clients a second.
#[test]
fn errors_are_limited() {
    const RATE: u32 = 5;
    for w in [World::v4(), World::v6()] {
        Dataplane::with(
            |options| options.icmp_rate(RATE),
            |dataplane| {
                cpu::stay();
                let service = w.tcp(FAR);
                dataplane.serve(&service, &[Destination::new(w.server(Port::Lb1, 3))]);
                let send = || {
                    let frame = w.ip().tcp((w.unique(), FAR), ACK, &[0; 1400]);
                    let (verdict, output) = dataplane.run(Port::Lb0, &frame);
                    match verdict {
                        Verdict::Tx => true,
                        Verdict::Drop => {
                            assert_eq!(output, frame, "a dropped frame is not changed");
                            false
                        }
                        other => panic!("{other:?}"),
                    }
                };
                let reasons = || dataplane.client.info().expect("info").stats.reasons;
                assert!(send(), "the first one is answered");
                let began = Instant::now();
                let replied = (0..1000).filter(|_| send()).count() + 1;
                let most = (began.elapsed().as_secs_f64() + 2.0) * f64::from(RATE);
                assert!(
                    replied as f64 <= most,
                    "{replied} of 1,001 answered in {:?}",
                    began.elapsed()
                );
                assert_eq!(reasons().too_big_replied, replied as u64);
                assert_eq!(reasons().too_big_limited, 1001 - replied as u64);
                let stats = dataplane.client.service(&service).expect("the service").stats;
                assert_eq!(stats.reasons.too_big_limited, 1001 - replied as u64);
                assert_eq!(stats.packets, 0);
                let began = Instant::now();
                wait_for("an answer's permission", &true, send);
                assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
            },
        );
    }
}

/// One client that sends nothing but large packets does not keep others from
/// hearing of theirs.
#[test]
fn errors_to_each_client_are_limited() {
    const RATE: u32 = 5;
    for w in [World::v4(), World::v6()] {
        Dataplane::with(
            |options| options.icmp_source_rate(RATE),
            |dataplane| {
                let service = w.tcp(FAR);
                dataplane.serve(&service, &[Destination::new(w.server(Port::Lb1, 3))]);
                let send = |source: IpAddr| {
                    let frame = Ip::new(source, w.vip).tcp((w.unique(), FAR), ACK, &[0; 1400]);
                    dataplane.run(Port::Lb0, &frame).0 == Verdict::Tx
                };
                let began = Instant::now();
                let replied = (0..1000).filter(|_| send(w.client)).count();
                let most = 17.0 + began.elapsed().as_secs_f64() * f64::from(RATE);
                assert!(replied >= 16, "{replied} at once");
                assert!(replied as f64 <= most, "{replied} in {:?}", began.elapsed());
                let reasons = dataplane.client.info().expect("info").stats.reasons;
                assert_eq!(reasons.too_big_replied, replied as u64);
                assert_eq!(reasons.too_big_limited, 1000 - replied as u64);

                // One or the other may have the same hash.
                let others = (10..30).filter(|host| send(w.server(Port::Lb0, *host))).count();
                assert!(others >= 18, "{others} of 20 other clients were answered");
                wait_for("an answer's permission", &true, || send(w.client));
            },
        );
    }
}

/// Tables lie in blocks of memory, several chunks each; what a service leaves
/// another one gets.
#[test]
fn each_of_many_services_has_a_table_of_its_own() {
    /// Seven blocks have room for 127.
    const SERVICES: u16 = 140;
    let w = World::v4();
    let limits = |options: Options| {
        options.services(SERVICES.into()).destinations(4 * u32::from(SERVICES)).table_size(4_099)
    };
    Dataplane::with(limits, |dataplane| {
        let servers = |n: u16| -> [IpAddr; 3] {
            std::array::from_fn(|i| w.server(Port::Lb0, 3 + ((7 * n + i as u16) % 37) as u8))
        };
        let serve = |port: u16, servers: [IpAddr; 3]| {
            dataplane.serve(&w.tcp(port), &servers.map(Destination::new));
        };
        // It opens the pins before there are tables.
        let reader = dataplane.reader();
        let check = |services: &[(u16, [IpAddr; 3])]| {
            for (port, servers) in services {
                let mut used = BTreeSet::new();
                for client in 1..=32 {
                    let client = IpAddr::from([198, 51, 100, client]);
                    let frame = Ip::new(client, w.vip).tcp((4000, *port), SYN, b"");
                    let (verdict, output) = dataplane.run(Port::Lb0, &frame);
                    assert_eq!(verdict, dataplane.forwards(Port::Lb0, Port::Lb0));
                    let mac = destination_mac(&output);
                    let server = servers.iter().find(|server| server_mac(**server) == mac);
                    let server = server.unwrap_or_else(|| panic!("port {port}: {mac:02x?}"));
                    used.insert(*server);
                    for reader in [&reader, dataplane.client.instance()] {
                        let explanation = reader.explain(&Packet {
                            protocol: Protocol::Tcp,
                            source: client,
                            source_port: Some(4000),
                            destination: w.vip,
                            destination_port: *port,
                            syn: true,
                        });
                        let chosen = explanation.expect("maps that can be read").destination;
                        let chosen = chosen.map(|chosen| chosen.destination.address);
                        assert_eq!(chosen, Some(*server), "port {port}");
                    }
                }
                assert!(used.len() > 1, "port {port}: 32 clients use one server");
            }
        };
        let mut services: Vec<_> = (0..SERVICES).map(|n| (9100 + n, servers(n))).collect();
        for (port, servers) in &services {
            serve(*port, *servers);
        }
        check(&services);
        // One goes and another comes, all others change.
        for (n, (port, changed)) in (0..).zip(&mut services) {
            *changed = servers(n + 5);
            if n % 3 == 0 {
                dataplane.client.remove_service(&w.tcp(*port)).expect("it was there");
                *port += 500;
            }
            serve(*port, *changed);
        }
        check(&services);
    });
}

/// A sticky service sends a client to one server, whatever its ports.
#[test]
fn a_sticky_client_has_one_server() {
    for w in [World::v4(), World::v6()] {
        Dataplane::with(
            |options| options,
            |dataplane| {
                let hosts = [21, 22, 23, 24];
                let servers = hosts.map(|host| Destination::new(w.server(Port::Lb0, host)));
                let (sticky, plain) = (w.tcp(8001).sticky(true), w.tcp(8002));
                dataplane.serve(&sticky, &servers);
                dataplane.serve(&plain, &servers);
                let server_of = |client: u8, port: u16, source: u16, flags: u8| {
                    let address = match w.is_v4() {
                        true => [198, 51, 100, client].into(),
                        false => [0x2001, 0xdb8, 7, 0, 0, 0, 0, u16::from(client)].into(),
                    };
                    let frame = Ip::new(address, w.vip);
                    let frame = frame.tcp((source, port), flags, b"");
                    let (verdict, output) = dataplane.run(Port::Lb0, &frame);
                    assert_eq!(verdict, dataplane.forwards(Port::Lb0, Port::Lb0));
                    destination_mac(&output)
                };
                let mut all = BTreeSet::new();
                for client in 1..=64 {
                    let of_client: BTreeSet<_> = (1000..1016)
                        .flat_map(|source| [(source, SYN), (source, ACK)])
                        .map(|(source, flags)| server_of(client, 8001, source, flags))
                        .collect();
                    assert_eq!(of_client.len(), 1, "client {client} has {of_client:02x?}");
                    all.extend(of_client);
                }
                assert_eq!(all.len(), hosts.len(), "64 clients use every server");
                let spread: BTreeSet<_> =
                    (1000..1064).map(|source| server_of(1, 8002, source, SYN)).collect();
                assert_eq!(spread.len(), hosts.len(), "64 connections use every server");
            },
        );
    }
}
