//! Disabled destinations keep their flows, tell of them, and are drained in the
//! end, by themselves or by a deadline.

use std::net::IpAddr;
use std::net::UdpSocket;
use std::time::Duration;
use std::time::Instant;

use xvs::Client;
use xvs::Destination;
use xvs::Drain;
use xvs::Event;
use xvs::FlowFilter;
use xvs::Instance;
use xvs::Service;

use super::web::serve;
use super::web::usable;
use crate::lab::Lab;
use crate::lab::UDP;
use crate::lab::ip;
use crate::lab::vip;
use crate::lab::wait;
use crate::server::Connection;
use crate::server::PATIENCE;
use crate::server::ask;
use crate::server::udp_from;

/// Longer than it takes to count all flows twice.
const COUNTS: Duration = Duration::from_secs(12);

fn drain(balancer: &Client, service: &Service, address: IpAddr) -> Option<Drain> {
    let all = balancer.destinations(service).expect("the service is there");
    all.iter().find(|d| d.destination.address == address).expect("it is there").drain
}

/// How many destinations were told to be drained, and of how many flows.
fn drained(balancer: &Client, address: IpAddr) -> Vec<u64> {
    let events = balancer.events().into_iter();
    let moved = events.filter_map(|event| match event {
        Event::Drained { address: drained, moved, .. } if drained == address => Some(moved),
        _ => None,
    });
    moved.collect()
}

/// Sockets with flows, and the server that each talks to.
fn udp_flows(lab: &Lab, number: usize) -> Vec<(UdpSocket, String)> {
    lab.client.enter(|| {
        let one = |_| {
            let socket = udp_from(ip("0.0.0.0"), 0);
            let mut server = String::new();
            // Flows of one packet each would be a flood, of which few are stored.
            for _ in 0..4 {
                server = ask(&socket, vip(0, UDP), PATIENCE).expect("a server answers");
            }
            (socket, server)
        };
        (0..number).map(one).collect()
    })
}

fn of_server(flows: &[(UdpSocket, String)], name: &str) -> u64 {
    flows.iter().filter(|(_, server)| server == name).count() as u64
}

#[test]
fn a_disabled_destination_is_drained_with_its_last_flow() {
    let lab = Lab::new(2);
    let balancer = lab.balancer();
    // As long as packets without a flow may go there by the table from before, it is none.
    let transition = Duration::from_secs(2);
    let service =
        Service::tcp(vip(0, 80).ip(), 80).closing(Duration::from_secs(1)).transition(transition);
    serve(&lab, &balancer, &service);
    let mut connections: Vec<Connection> = lab.client.enter(|| {
        let open = |_| {
            let mut connection = Connection::open(vip(0, 80), PATIENCE).expect("it answers");
            connection.exchange(b"hello").expect("it goes on");
            connection
        };
        (0..24).map(open).collect()
    });
    let b1 = lab.backends[0].v4;
    let of_b1 = connections.iter().filter(|c| c.server == "b1").count() as u64;
    assert!((1..24).contains(&of_b1), "both have some: {of_b1}");
    assert!(drain(&balancer, &service, b1).is_none(), "it is not disabled");

    let start = Instant::now();
    let disabled = Destination::new(b1).disabled(true);
    balancer.update_destination(&service, &disabled).expect("it is there");
    let rate = wait("its packets are counted", COUNTS, || {
        for connection in connections.iter_mut().filter(|c| c.server == "b1") {
            connection.exchange(b"still there?").expect("it keeps its flows");
        }
        let drain = drain(&balancer, &service, b1).expect("it is disabled");
        assert!(!drain.done && drain.left.is_none(), "{drain:?}");
        assert!(drain.since <= start.elapsed(), "{drain:?}");
        let newest = drain.newest.unwrap_or_default();
        let rate = drain.packets_per_second.filter(|rate| *rate > 0.0)?;
        (drain.flows == of_b1 && newest < Duration::from_secs(8)).then_some(rate)
    });
    println!("{of_b1} flows, {rate} packets/s");
    let other = Instance::open(lab.bpffs(), "lab").expect("it is pinned");
    let shown = other.destinations(&service).expect("it is there");
    let shown = shown.iter().find(|d| d.destination == disabled).expect("it is told as it is");
    assert_eq!((shown.stats.live, shown.stats.active), (of_b1, of_b1));
    assert_eq!(other.service(&service).expect("it is there").stats.live, 24);
    assert!(drained(&balancer, b1).is_empty(), "it has flows");

    connections.retain(|connection| connection.server != "b1");
    let told = wait("its last flow is gone", COUNTS, || {
        Some(drained(&balancer, b1)).filter(|told| !told.is_empty())
    });
    assert_eq!(told, [0], "nothing had to be moved");
    let done = drain(&balancer, &service, b1).expect("it is disabled");
    assert!(done.done && done.flows == 0 && done.newest.is_none(), "{done:?}");
    for connection in &mut connections {
        connection.exchange(b"and you?").expect("others go on");
    }

    balancer.update_destination(&service, &disabled.clone().weight(2)).expect("it is there");
    assert!(drain(&balancer, &service, b1).expect("it is disabled").done, "it stays drained");
    balancer.update_destination(&service, &Destination::new(b1)).expect("it is there");
    assert!(drain(&balancer, &service, b1).is_none());
    // What was told once is not told again, until it is disabled again.
    balancer.update_destination(&service, &disabled).expect("it is there");
    let told = wait("it is drained again", COUNTS, || {
        Some(drained(&balancer, b1)).filter(|told| !told.is_empty())
    });
    assert_eq!(told, [0]);
}

#[test]
fn a_deadline_moves_what_is_left_to_others() {
    let lab = Lab::new(2);
    let balancer = lab.balancer();
    let service = Service::udp(vip(0, UDP).ip(), UDP);
    serve(&lab, &balancer, &service);
    let flows = udp_flows(&lab, 24);
    let of_b1 = of_server(&flows, "b1");
    assert!((1..24).contains(&of_b1), "both have some: {of_b1}");
    let server = |socket: &UdpSocket| ask(socket, vip(0, UDP), PATIENCE).expect("it answers");

    let b1 = lab.backends[0].v4;
    let deadline = Duration::from_secs(2);
    let disabled = Destination::new(b1).disabled(true).deadline(deadline);
    balancer.update_destination(&service, &disabled).expect("it is there");
    let start = Instant::now();
    let kept = drain(&balancer, &service, b1).expect("it is disabled");
    assert!(kept.left.is_some_and(|left| left + kept.since == deadline), "{kept:?}");
    for (socket, before) in &flows {
        assert_eq!(server(socket), *before, "until then each stays where it is");
    }
    let told = wait("its deadline comes", COUNTS, || {
        Some(drained(&balancer, b1)).filter(|told| !told.is_empty())
    });
    println!("moved {:?} after the call", start.elapsed());
    assert!(start.elapsed() > Duration::from_millis(1_900), "{:?}", start.elapsed());
    assert_eq!(told, [of_b1]);
    for (socket, _) in &flows {
        assert_eq!(server(socket), "b2");
    }
    let done = drain(&balancer, &service, b1).expect("it stays, disabled");
    assert!(done.done && done.left == Some(Duration::ZERO), "{done:?}");
    let shown = balancer.destinations(&service).expect("it is there");
    assert!(shown.iter().any(|d| d.destination == disabled), "as it was asked for: {shown:?}");
    let live = balancer.instance().flows(usize::MAX).expect("flows");
    assert!(live.iter().all(|flow| flow.destination != Some(b1)), "{live:?}");

    // It takes flows again, and keeps them, like any other.
    balancer.update_destination(&service, &Destination::new(b1)).expect("it is there");
    assert!(of_server(&udp_flows(&lab, 24), "b1") > 0);
}

#[test]
fn enabling_it_before_the_deadline_takes_that_back() {
    let lab = Lab::new(2);
    let balancer = lab.balancer();
    let service = Service::udp(vip(0, UDP).ip(), UDP);
    serve(&lab, &balancer, &service);
    let flows = udp_flows(&lab, 16);
    let [b1, b2] = [0, 1].map(|number: usize| lab.backends[number].v4);
    let deadline = Duration::from_secs(1);
    // A service that is made anew has nothing of the one before.
    let anew = Service::tcp(vip(0, 80).ip(), 80);
    serve(&lab, &balancer, &anew);
    let disabled = Destination::new(b1).disabled(true).deadline(deadline);
    balancer.update_destination(&anew, &disabled).expect("it is there");
    balancer.remove_service(&anew).expect("it is there");
    balancer.set_service(&anew, &[Destination::new(b1)]).expect("it is made anew");
    usable(&balancer, &anew, 1);
    let mut connection = lab.client.enter(|| {
        let mut connection = Connection::open(vip(0, 80), PATIENCE).expect("it answers");
        connection.exchange(b"hello").expect("it goes on");
        connection
    });
    for address in [b1, b2] {
        let disabled = Destination::new(address).disabled(true).deadline(deadline);
        balancer.update_destination(&service, &disabled).expect("it is there");
    }
    balancer.update_destination(&service, &Destination::new(b1)).expect("it is there");
    // By the same count that moves these flows all others would go.
    wait("the other's flows are moved", COUNTS, || {
        let events = balancer.wait_events(COUNTS);
        let drained = |of: IpAddr| {
            let is =
                |event: &Event| matches!(event, Event::Drained { address, .. } if *address == of);
            events.iter().any(is)
        };
        assert!(!drained(b1), "{events:?}");
        drained(b2).then_some(())
    });
    assert!(drain(&balancer, &service, b1).is_none() && drain(&balancer, &anew, b1).is_none());
    connection.exchange(b"still there?").expect("it goes on");
    let live = balancer.instance().flows_matching(&FlowFilter::new().service(anew.key()), 2);
    assert_eq!(live.expect("flows").len(), 1);
    let mut kept = 0;
    for (socket, before) in flows.iter().filter(|(_, before)| before == "b1") {
        assert_eq!(ask(socket, vip(0, UDP), PATIENCE).expect("it answers"), *before);
        kept += 1;
    }
    assert!(kept > 0);
}

/// For a while after the change packets without a flow go by the table from before, which
/// names the server: not those that its deadline moves.
#[test]
fn a_deadline_moves_connections_of_tables_from_before() {
    /// As long as a table has to stand to be one from before.
    const STOOD: Duration = Duration::from_secs(5);
    let lab = Lab::new(2);
    let balancer = lab.balancer();
    let service = Service::tcp(vip(0, 80).ip(), 80);
    serve(&lab, &balancer, &service);
    let built = Instant::now();
    let b1 = lab.backends[0].v4;
    let mut connections: Vec<Connection> = lab.client.enter(|| {
        let open = |_| Connection::open(vip(0, 80), PATIENCE).expect("a server answers");
        (0..24).map(open).collect()
    });
    wait("the table has stood", 2 * STOOD, || (built.elapsed() > STOOD).then_some(()));
    connections.iter_mut().for_each(|c| c.exchange(b"before").expect("it goes on"));
    let of_b1 = connections.iter().filter(|c| c.server == "b1").count();
    assert!((1..24).contains(&of_b1), "both have some: {of_b1}");

    let disabled = Destination::new(b1).disabled(true).deadline(Duration::from_secs(1));
    balancer.update_destination(&service, &disabled).expect("it is there");
    let told = wait("its deadline comes", COUNTS, || {
        Some(drained(&balancer, b1)).filter(|told| !told.is_empty())
    });
    assert_eq!(told, [of_b1 as u64]);
    for connection in &mut connections {
        let goes_on = connection.exchange(b"afterwards").is_ok();
        assert_eq!(goes_on, connection.server == "b2", "another server does not know it");
    }
    let live = balancer.instance().flows(usize::MAX).expect("flows");
    assert!(live.iter().all(|flow| flow.destination != Some(b1)), "{live:?}");
}
