//! After a change of its destinations a service's connections that have no flow stay
//! where the hash had them: what another balancer with the same key agrees on.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use xvs::Destination;
use xvs::MAX_NEW_FLOWS;
use xvs::Options;
use xvs::Packet;
use xvs::Protocol;
use xvs::Service;

use crate::VIP4;
use crate::VIP6;
use crate::client;
use crate::common::dataplane::Dataplane;
use crate::common::dataplane::FlowKey;
use crate::common::dataplane::Port;
use crate::common::dataplane::now as now_tick;
use crate::common::dataplane::server_mac;
use crate::common::dataplane::wait_for;
use crate::common::frame::ACK;
use crate::common::frame::ETHERNET;
use crate::common::frame::Ip;
use crate::common::frame::SYN;
use crate::common::frame::destination_mac;
use crate::common::netns::sh;
use crate::common::random::share;
use crate::maglev;
use crate::send;
use crate::servers;

/// Entries of the tables of most tests, and the key of their hashes.
const SIZE: u32 = 251;
const KEY: [u8; 16] = *b"a key that two h";
/// Clients of each step of a test.
const CLIENTS: u32 = 200;
/// No test takes as long: what ends the window is what ends it.
const WINDOW: Duration = Duration::from_secs(600);
/// Tables count that stood as long.
const STOOD: Duration = Duration::from_secs(5);

/// Where the hash has the clients of a service.
struct Hashed {
    service: Service,
    table: Vec<IpAddr>,
}

impl Hashed {
    /// By these servers.
    fn new(service: &Service, size: u32, hosts: &[u8]) -> Self {
        let members: Vec<(IpAddr, u32)> =
            servers(hosts.iter().copied()).iter().map(|d| (d.address, 1)).collect();
        Self { service: service.clone(), table: maglev::table(size, &KEY, &members) }
    }

    fn server(&self, client: SocketAddr) -> IpAddr {
        let vip = SocketAddr::new(self.service.address, self.service.port);
        let hash = FlowKey::new(client, vip, self.service.protocol).hash(&KEY) as u32;
        self.table[((u64::from(hash) * self.table.len() as u64) >> 32) as usize]
    }
}

fn server(host: u8) -> IpAddr {
    [10, 1, 2, host].into()
}

/// A data plane for each family, with a service that has this window.
fn each(window: Duration, destinations: u32, test: impl Fn(&Dataplane, &Service) + Sync) {
    for vip in [VIP4, VIP6] {
        Dataplane::with(
            |options| limits(options, SIZE).destinations(destinations),
            |dataplane| {
                let service = Service::tcp(vip, 80).transition(window).new_flows(MAX_NEW_FLOWS);
                test(dataplane, &service);
            },
        );
    }
}

fn limits(options: Options, size: u32) -> Options {
    options.hash_key(KEY).table_size(size)
}

/// Waits until the present tables have stood so long.
fn stand(time: Duration) {
    let began = Instant::now();
    let margin = Duration::from_millis(50);
    while began.elapsed() < time {
        std::thread::park_timeout((time + margin).saturating_sub(began.elapsed()));
    }
}

/// Clients that no step of a test has had.
struct Clients(u32);

impl Clients {
    fn take(&mut self, vip: IpAddr) -> Vec<SocketAddr> {
        self.0 += CLIENTS;
        (self.0 - CLIENTS..self.0).map(|n| client(vip, n, 50)).collect()
    }
}

/// Sends a packet of each client: it goes to the server that it should.
fn check(
    dataplane: &Dataplane,
    service: &Service,
    clients: &[SocketAddr],
    flags: u8,
    right: impl Fn(SocketAddr) -> IpAddr,
) {
    for client in clients {
        let mac = send(dataplane, *client, service, flags);
        let right = right(*client);
        assert_eq!(mac, server_mac(right), "{client} to {service} goes to {right}");
    }
}

/// What an instance says where the middle of a connection goes, and whether by the
/// table from before.
fn explained(dataplane: &Dataplane, service: &Service, client: SocketAddr) -> (IpAddr, bool) {
    let packet = Packet {
        protocol: service.protocol,
        source: client.ip(),
        source_port: Some(client.port()),
        destination: service.address,
        destination_port: service.port,
        syn: false,
    };
    let told = dataplane.client.instance().explain(&packet).expect("maps that can be read");
    let destination = told.destination.expect("it is forwarded").destination.address;
    (destination, told.is_previous)
}

#[test]
fn the_middle_of_a_connection_goes_by_the_table_from_before() {
    let hosts: Vec<u8> = (3..13).collect();
    each(WINDOW, 64, |dataplane, service| {
        let mut clients = Clients(0);
        let udp = Service::udp(service.address, 53).transition(WINDOW).new_flows(MAX_NEW_FLOWS);
        let before = Hashed::new(service, SIZE, &hosts);
        for service in [service, &udp] {
            dataplane.serve(service, &servers(hosts.iter().copied()));
        }
        stand(STOOD);

        // One goes, one is disabled, one comes.
        let mut changed: Vec<u8> = hosts[2..].to_vec();
        changed.push(20);
        let mut destinations = servers(changed.iter().copied());
        destinations.push(Destination::new(server(4)).disabled(true));
        for service in [service, &udp] {
            dataplane.serve(service, &destinations);
        }
        let now = Hashed::new(service, SIZE, &changed);
        let right = |client| match before.server(client) {
            gone if gone == server(3) => now.server(client),
            stays => stays,
        };
        let of_step = clients.take(service.address);
        let moved = |client: &&SocketAddr| right(**client) != now.server(**client);
        let on = |host| of_step.iter().any(|client| before.server(*client) == server(host));
        assert!(of_step.iter().any(|c| moved(&c)) && on(3) && on(4), "the clients tell");
        for client in &of_step {
            let (told, is_previous) = explained(dataplane, service, *client);
            assert_eq!(told, right(*client), "{client} as it is explained");
            assert_eq!(is_previous, before.server(*client) != server(3), "{client}");
        }
        check(dataplane, service, &of_step, ACK, right);

        // A SYN goes by the present table, and what follows it goes after it.
        let of_step = clients.take(service.address);
        let flows = || dataplane.client.service(service).expect("it is there").stats.flows;
        let stored = flows();
        check(dataplane, service, &of_step, SYN, |client| now.server(client));
        let moved = of_step.iter().filter(moved).count() as u64;
        assert_eq!(flows() - stored, moved, "the flows of those that moved are stored");
        check(dataplane, service, &of_step, ACK, |client| now.server(client));

        // UDP has no middle.
        let of_udp = Hashed::new(&udp, SIZE, &changed);
        for client in clients.take(service.address) {
            let frame =
                Ip::new(client.ip(), udp.address).udp((client.port(), udp.port), b"question");
            let (_, output) = dataplane.run(Port::Lb0, &frame);
            assert_eq!(destination_mac(&output), server_mac(of_udp.server(client)), "{client}");
        }

        // An ICMP error goes where the connection that it is about goes.
        for client in clients.take(service.address) {
            let sent = Ip::new(service.address, client.ip());
            let sent = sent.tcp((service.port, client.port()), ACK, &[0; 64]);
            let router = Ip::new(client.ip(), service.address);
            let error = match service.address {
                IpAddr::V4(_) => router.icmp(3, 1, [0; 4], &sent[ETHERNET..][..28]),
                IpAddr::V6(_) => router.icmp(1, 3, [0; 4], &sent[ETHERNET..][..66]),
            };
            let (_, output) = dataplane.run(Port::Lb0, &error);
            let mac = destination_mac(&output);
            assert_eq!(mac, server_mac(right(client)), "an error about {client}");
        }

        // Another change: the first table from before stays.
        let mut again: Vec<u8> = changed[1..].to_vec();
        again.push(21);
        dataplane.serve(service, &servers(again.iter().copied()));
        let last = Hashed::new(service, SIZE, &again);
        let right = |client| match before.server(client) {
            gone if !again.iter().any(|host| gone == server(*host)) => last.server(client),
            stays => stays,
        };
        let of_step = clients.take(service.address);
        assert!(of_step.iter().any(|client| right(*client) != last.server(*client)));
        check(dataplane, service, &of_step, ACK, right);

        let unseen = clients.take(service.address);
        let asked = *unseen.iter().find(|c| before.server(**c) == right(**c)).expect("most stay");
        assert!(explained(dataplane, service, asked).1, "it is the same window");
        let shortened = service.clone().transition(Duration::from_secs(1));
        dataplane.client.update_service(&shortened).expect("it is there");
        wait_for("whether the table from before counts", &false, || {
            explained(dataplane, service, asked).1
        });
        let of_step = clients.take(service.address);
        check(dataplane, service, &of_step, ACK, |client| last.server(client));
    });
}

/// A server that is lost keeps its connections, and all of them do when none is left for
/// new ones.
#[test]
fn connections_stay_on_servers_that_get_no_new_ones() {
    let hosts: Vec<u8> = (3..8).collect();
    each(WINDOW, 64, |dataplane, service| {
        let mut clients = Clients(0);
        let before = Hashed::new(service, SIZE, &hosts);
        dataplane.serve(service, &servers(hosts.iter().copied()));
        stand(STOOD);
        sh("ip neigh del 10.1.2.3 dev lb0");
        dataplane.settle(service, hosts.len() - 1);
        let of_step = clients.take(service.address);
        check(dataplane, service, &of_step, ACK, |client| before.server(client));

        let disabled: Vec<Destination> =
            servers(hosts.iter().copied()).into_iter().map(|d| d.disabled(true)).collect();
        dataplane.serve(service, &disabled);
        let of_step = clients.take(service.address);
        check(dataplane, service, &of_step, ACK, |client| before.server(client));
    });
}

/// Servers that come one by one, as at a start, are no table that connections began
/// under.
#[test]
fn a_table_that_stood_too_short_counts_no_more() {
    each(Duration::from_secs(60), 64, |dataplane, service| {
        let mut clients = Clients(0);
        dataplane.serve(service, &[]);
        for last in 3..8 {
            let hosts: Vec<u8> = (3..=last).collect();
            dataplane.serve(service, &servers(hosts.iter().copied()));
            let now = Hashed::new(service, SIZE, &hosts);
            let of_step = clients.take(service.address);
            check(dataplane, service, &of_step, ACK, |client| now.server(client));
        }
    });
}

#[test]
fn without_a_window_the_present_table_counts_at_once() {
    let hosts: Vec<u8> = (3..8).collect();
    each(WINDOW, 64, |dataplane, service| {
        let mut clients = Clients(0);
        let before = Hashed::new(service, SIZE, &hosts);
        let now = Hashed::new(service, SIZE, &hosts[1..]);
        let mut by = |table: &Hashed| {
            let of_step = clients.take(service.address);
            let stays = |client: &SocketAddr| before.server(*client) != server(3);
            let of_step: Vec<SocketAddr> = of_step.into_iter().filter(stays).collect();
            assert!(of_step.iter().any(|c| before.server(*c) != now.server(*c)), "some move");
            check(dataplane, service, &of_step, ACK, |client| table.server(client));
        };
        let off = service.clone().transition(Duration::ZERO);
        dataplane.serve(&off, &servers(hosts.iter().copied()));
        stand(STOOD);
        dataplane.serve(&off, &servers(hosts[1..].iter().copied()));
        by(&now);

        dataplane.serve(service, &servers(hosts.iter().copied()));
        stand(STOOD);
        dataplane.serve(service, &servers(hosts[1..].iter().copied()));
        by(&before);
        dataplane.client.update_service(&off).expect("it is there");
        by(&now);
    });
}

/// When the slot of a server that went is another one's, nobody follows the table that
/// has it for the first one.
#[test]
fn a_slot_that_is_used_anew_ends_the_window() {
    let hosts: Vec<u8> = (3..13).collect();
    // Two more than there are servers.
    each(WINDOW, 12, |dataplane, service| {
        let mut clients = Clients(0);
        let before = Hashed::new(service, SIZE, &hosts);
        dataplane.serve(service, &servers(hosts.iter().copied()));
        stand(STOOD);
        let mut present = hosts.clone();
        for (new, is_new_slot) in [(20, true), (21, true), (22, false)] {
            present.remove(0);
            present.push(new);
            dataplane.serve(service, &servers(present.iter().copied()));
            let now = Hashed::new(service, SIZE, &present);
            let of_step = clients.take(service.address);
            check(dataplane, service, &of_step, ACK, |client| match before.server(client) {
                stays if is_new_slot && present.iter().any(|host| stays == server(*host)) => stays,
                _ => now.server(client),
            });
        }
    });
}

/// Whether its flow can be stored or not, a connection that begins after the change stays
/// where its SYN went.
#[test]
fn an_ack_goes_where_its_syn_went() {
    let hosts: Vec<u8> = (3..8).collect();
    each(WINDOW, 64, |dataplane, service| {
        let mut clients = Clients(0);
        dataplane.serve(service, &servers(hosts.iter().copied()));
        stand(STOOD);
        let [before, now] =
            [&hosts[..], &hosts[1..]].map(|hosts| Hashed::new(service, SIZE, hosts));
        let moves = |c: SocketAddr| {
            before.server(c) != now.server(c) && before.server(c) != server(hosts[0])
        };
        for limit in [1, MAX_NEW_FLOWS] {
            let service = service.clone().new_flows(limit);
            dataplane.serve(&service, &servers(hosts[1..].iter().copied()));
            let tick = now_tick();
            wait_for("whether another tick has begun", &true, || now_tick() > tick + 1);
            // With the limit of 1 none is left, but in a later tick.
            let others = clients.take(service.address);
            others.iter().for_each(|client| _ = send(dataplane, *client, &service, ACK));
            let mut moved = 0;
            for client in clients.take(service.address).into_iter().filter(|c| moves(*c)) {
                let mac = send(dataplane, client, &service, SYN);
                assert_eq!(send(dataplane, client, &service, ACK), mac, "limit {limit}: {client}");
                moved += 1;
            }
            assert!(moved > 0, "some clients tell");
        }
    });
}

/// Where there is no memory for a table, one from before a change goes.
#[test]
fn a_table_from_before_gives_its_memory_to_a_change() {
    let hosts: Vec<u8> = (3..8).collect();
    each(WINDOW, 64, |dataplane, service| {
        let mut clients = Clients(0);
        // Where the third block would be pinned: two have room for three tables.
        let obstacle = dataplane.pin("tables_3");
        std::fs::create_dir(&obstacle).expect("a folder in a BPF file system");
        let other = Service::tcp(service.address, 81);
        dataplane.serve(service, &servers(hosts.iter().copied()));
        stand(STOOD);
        dataplane.serve(service, &servers(hosts[1..].iter().copied()));
        dataplane.serve(&other, &servers([3]));
        let [before, now] =
            [&hosts[..], &hosts[1..]].map(|hosts| Hashed::new(service, SIZE, hosts));
        let stays = |c: &SocketAddr| before.server(*c) != server(hosts[0]);
        let mut of_step = || {
            let clients = clients.take(service.address).into_iter().filter(stays);
            clients.collect::<Vec<SocketAddr>>()
        };
        check(dataplane, service, &of_step(), ACK, |client| before.server(client));
        dataplane.serve(&other, &servers([3, 4]));
        check(dataplane, service, &of_step(), ACK, |client| now.server(client));
        std::fs::remove_dir(&obstacle).expect("it is empty");
    });
}

/// A balancer stores connections; another one, with the same key, gets the same calls and
/// none of the flows. One of ten servers goes, and another one comes.
#[test]
fn a_second_balancer_agrees_on_connections_from_before() {
    const LARGE: u32 = 65_537;
    let count = share(100_000) as u32;
    let hosts: Vec<u8> = (3..13).collect();
    let gone = server(3);
    // Room for ten times as many. With room for twice as many, one table in ten has a
    // flow that finds all of its places taken, maybe by flows of the same tick.
    let options = |options: Options| limits(options, LARGE).flows(1_000_000);
    for vip in [VIP4, VIP6] {
        let service = Service::tcp(vip, 80).transition(WINDOW);
        let clients = || (0..count).map(|n| client(vip, n, 100));
        let first: Vec<[u8; 6]> = Dataplane::with(options, |dataplane| {
            let service = service.clone().new_flows(MAX_NEW_FLOWS);
            dataplane.serve(&service, &servers(hosts.iter().copied()));
            let macs = clients().map(|client| send(dataplane, client, &service, ACK)).collect();
            let stored = dataplane.client.service(&service).expect("it is there").stats.flows;
            assert_eq!(stored, count.into());
            macs
        });

        // The second one stores next to none: so its hash is asked each time.
        let service = service.new_flows(1);
        Dataplane::with(options, |dataplane| {
            dataplane.serve(&service, &servers(hosts.iter().copied()));
            stand(STOOD);
            let api = &dataplane.client;
            api.remove_destination(&service, &Destination::new(gone)).expect("it is there");
            api.create_destination(&service, &Destination::new(server(20))).expect("it is new");
            dataplane.settle(&service, hosts.len());
            let (mut stay, mut go) = (0, 0);
            for (client, mac) in clients().zip(&first) {
                let now = send(dataplane, client, &service, ACK);
                match *mac == server_mac(gone) {
                    true => go += 1,
                    false => {
                        assert_eq!(now, *mac, "{client} goes elsewhere");
                        stay += 1;
                    }
                }
            }
            println!("{vip}: {stay} stay, {go} were on the server that went");
            assert!(stay > 8 * go && go > 0, "one of ten went: {go} of {count}");

            let after = service.clone().transition(Duration::ZERO);
            api.update_service(&after).expect("it is there");
            let mut present = hosts[1..].to_vec();
            present.push(20);
            let hashed = Hashed::new(&service, LARGE, &present);
            let vip = SocketAddr::new(vip, 80);
            let mut moved = 0;
            for (client, mac) in clients().zip(&first) {
                let now = send(dataplane, client, &service, ACK);
                let right = server_mac(hashed.server(client));
                let is_stored = || {
                    let key = FlowKey::new(client, vip, Protocol::Tcp);
                    dataplane.tables.find(&key).is_some()
                };
                assert!(
                    now == right || now == *mac && is_stored(),
                    "{client} is where it should be"
                );
                moved += u32::from(now != *mac && *mac != server_mac(gone));
            }
            println!("{vip}: {moved} of {stay} move after the window");
            assert!(moved > 0, "Maglev moves some");
            // At most twice its share, for the one that goes and the one that comes.
            assert!(moved < count * 3 / 10, "{moved} of {count} move");
        });
    }
}
