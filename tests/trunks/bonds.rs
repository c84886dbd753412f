//! Bonds of two cables, with VLAN devices on them.

use std::io;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::time::Duration;
use std::time::Instant;

use xvs::Client;
use xvs::DestinationStatus;
use xvs::Error;
use xvs::Event;
use xvs::Mode;
use xvs::Options;
use xvs::Service;

use crate::features::has_devices;
use crate::lab::Bonding;
use crate::lab::Lab;
use crate::lab::UDP;
use crate::lab::VIPS;
use crate::lab::ip;
use crate::lab::vip;
use crate::lab::wait;
use crate::requests_cross;
use crate::serve;
use crate::server::Connection;
use crate::server::PATIENCE;
use crate::server::udp_from;
use crate::sniffer::Sniffer;
use crate::xdp;

/// Connections that are held while members fail.
const HELD: usize = 500;

/// A lab on a bond, unless the kernel has none.
pub fn lab(backends: usize, bonding: Bonding) -> Option<Lab> {
    let has = has_devices("link trunk name trunk.7 type vlan id 7", "8021q")
        && has_devices("name bond0 type bond", "bonding");
    has.then(|| {
        let lab = Lab::on_a_bond(backends, bonding);
        both_up(&lab, bonding);
        lab
    })
}

/// Waits until both members can be used, at both ends.
pub fn both_up(lab: &Lab, bonding: Bonding) {
    // LACP takes some seconds, more in a machine that is emulated.
    wait("both members are up", Duration::from_secs(60), || {
        let ends = [(&lab.lb, "eth"), (&lab.sw, "lb")];
        let up = |(namespace, name): &(&crate::netns::Namespace, &str), number: u8| {
            let link = namespace.sh(&format!("ip -d link show dev {name}{number}"));
            match bonding {
                Bonding::Aggregate => link.contains("state ACTIVE mii_status UP"),
                Bonding::ActiveBackup => {
                    !link.contains("NO-CARRIER") && !link.contains("mii_status DOWN")
                }
            }
        };
        ends.iter().all(|end| up(end, 0) && up(end, 1)).then_some(())
    });
}

/// How the program gets on a bond.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// As the kernel can: on the bond, or on its members.
    Native,
    /// On its members.
    Members,
    Generic,
}

const WAYS: [(Bonding, Way); 6] = [
    (Bonding::ActiveBackup, Way::Native),
    (Bonding::ActiveBackup, Way::Members),
    (Bonding::ActiveBackup, Way::Generic),
    (Bonding::Aggregate, Way::Native),
    (Bonding::Aggregate, Way::Members),
    (Bonding::Aggregate, Way::Generic),
];

impl Way {
    pub fn options(self, lab: &Lab) -> Options {
        let options = lab.trunk_options();
        match self {
            Self::Native => options,
            Self::Members => options.attach_pause(Duration::from_millis(1)),
            Self::Generic => options.mode(Mode::Generic),
        }
    }

    /// A balancer on the bond that has the program where it belongs.
    fn balancer(self, lab: &Lab, interfaces: &[&str]) -> Client {
        self.balancer_with(lab, self.options(lab), interfaces)
    }

    /// The same with other options.
    pub fn balancer_with(self, lab: &Lab, options: Options, interfaces: &[&str]) -> Client {
        let balancer = lab.balancer_with(options, interfaces).expect("it starts");
        let mut names: Vec<String> = Vec::new();
        for interface in balancer.info().expect("it runs").interfaces {
            assert_eq!(interface.mode == Mode::Generic, matches!(self, Self::Generic));
            names.push(interface.name);
        }
        println!("{self:?}: the program is on {names:?}");
        match self {
            Self::Native if names == ["bond0"] => {}
            _ => assert_eq!(names, ["eth0", "eth1"]),
        }
        balancer
    }
}

#[test]
fn members_stand_for_their_bond() {
    let Some(lab) = lab(1, Bonding::ActiveBackup) else { return };
    for interfaces in [&["eth1"][..], &["eth0", "eth1"]] {
        requests_cross(&lab, &Way::Native.balancer(&lab, interfaces));
    }
    let pause = Duration::from_millis(700);
    let start = Instant::now();
    let paused = lab.balancer_with(lab.trunk_options().attach_pause(pause), &["bond0"]);
    assert!(start.elapsed() >= pause, "there is a pause between two members");
    let start = Instant::now();
    drop(paused.expect("it starts"));
    assert!(start.elapsed() >= pause, "also when they are detached from");

    let both = lab.balancer_with(lab.trunk_options(), &["bond0", "eth1"]).err();
    let named = |error: &Error| error.to_string().contains("`eth1` is a member of `bond0`");
    assert!(both.as_ref().is_some_and(named), "{both:?}");
    assert_eq!(xdp::attached(&lab.lb, "bond0"), None);
}

/// Every connection goes on with its server.
pub fn all_go_on(lab: &Lab, balancer: &Client, held: &mut [Connection], what: &str) {
    for connection in held {
        if let Err(error) = connection.exchange(what.as_bytes()) {
            panic!("{what}: {}: {error}\n{}", connection.server, state(lab, balancer));
        }
    }
}

/// What may tell why a packet was lost.
fn state(lab: &Lab, balancer: &Client) -> String {
    let info = balancer.info();
    let all = balancer.all();
    let links = lab.lb.sh("ip -d -s link; ip neigh; ip -6 neigh");
    let switch = lab.sw.sh("ip -d -s link; bridge fdb");
    format!("{info:?}\n{all:#?}\n{links}\n{switch}")
}

#[test]
fn requests_cross_a_bond_and_connections_outlive_its_members() {
    for (bonding, way) in WAYS {
        let Some(lab) = lab(3, bonding) else { return };
        println!("{bonding:?}, {way:?}");
        let balancer = way.balancer(&lab, &["bond0"]);
        requests_cross(&lab, &balancer);
        let stored = balancer.info().expect("it runs").stats.flows;
        let mut held: Vec<Connection> = lab.client.enter(|| {
            let open = |i| Connection::open(vip(i % 2, 80), PATIENCE).expect("a server answers");
            (0..HELD).map(open).collect()
        });
        for member in [0, 1] {
            lab.sw.sh(&format!("ip link set lb{member} down"));
            all_go_on(&lab, &balancer, &mut held, "one member is down");
            lab.sw.sh(&format!("ip link set lb{member} up"));
            both_up(&lab, bonding);
            all_go_on(&lab, &balancer, &mut held, "both members are up");
        }
        let stored = balancer.info().expect("it runs").stats.flows - stored;
        assert!((1..=HELD as u64).contains(&stored), "none was stored twice: {stored}");
        drop(balancer);
        for interface in ["bond0", "eth0", "eth1"] {
            assert_eq!(xdp::attached(&lab.lb, interface), None, "{interface} is left as it was");
        }
    }
}

/// How often a datagram was sent until an answer came.
fn sends_until_answered(socket: &UdpSocket, to: SocketAddr) -> io::Result<usize> {
    let mut answer = [0; 64];
    socket.set_read_timeout(Some(PATIENCE / 5))?;
    for sends in 1..=5 {
        socket.send_to(b"who", to)?;
        match socket.recv_from(&mut answer) {
            Ok(_) => return Ok(sends),
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
            Err(_) => {}
        }
    }
    Err(ErrorKind::TimedOut.into())
}

/// A switch that does not know where the balancer is sends a frame to both
/// members.
#[test]
fn a_frame_that_comes_by_both_members_is_forwarded_once() {
    const DATAGRAMS: usize = 50;
    for way in [Way::Native, Way::Members, Way::Generic] {
        let Some(lab) = lab(1, Bonding::ActiveBackup) else { return };
        let balancer = way.balancer(&lab, &["bond0"]);
        lab.sw.sh("ip link set lb type bridge ageing_time 0");
        for (number, any) in ["0.0.0.0", "::"].into_iter().enumerate() {
            let to = vip(number, UDP);
            serve(&lab, &balancer, &Service::udp(to.ip(), to.port()));
            let others = || balancer.info().expect("it runs").stats.reasons.other_host as usize;
            let before = others();
            let sniffer =
                Sniffer::start(&lab.backends[0].namespace, move |seen| seen.to == to.ip());
            // Each is answered before the next one is sent.
            let sent = lab.client.enter(|| {
                let socket = udp_from(ip(any), 0);
                let answered = |_| {
                    let sends = sends_until_answered(&socket, to);
                    sends.unwrap_or_else(|e| panic!("{to}: {e}\n{}", state(&lab, &balancer)))
                };
                (0..DATAGRAMS).map(answered).sum::<usize>()
            });
            let seen = || Some(sniffer.seen().len()).filter(|seen| *seen >= DATAGRAMS);
            let seen = wait("all datagrams are seen", PATIENCE, seen);
            assert!(seen <= sent, "{way:?}, {to}: {seen} of {sent} that were sent");
            assert!(others() - before >= DATAGRAMS, "{way:?}, {to}: they did come twice");
        }
    }
}

#[test]
fn members_may_come_and_go() {
    let Some(lab) = lab(2, Bonding::ActiveBackup) else { return };
    let balancer = Way::Members.balancer(&lab, &["bond0"]);
    serve(&lab, &balancer, &Service::tcp(ip(VIPS[0]), 80));
    let mut held: Vec<Connection> = lab.client.enter(|| {
        (0..20).map(|_| Connection::open(vip(0, 80), PATIENCE).expect("a server answers")).collect()
    });
    let names = || -> Vec<String> {
        let interfaces = balancer.info().expect("it runs").interfaces;
        interfaces.into_iter().map(|interface| interface.name).collect()
    };
    for member in [0, 1] {
        lab.lb.sh(&format!("ip link del eth{member}"));
        wait("it is seen to be gone", PATIENCE, || (names().len() == 1).then_some(()));
        all_go_on(&lab, &balancer, &mut held, "one member is gone");
        lab.add_member(member);
        let interface = format!("eth{member}");
        let told = Event::Attached { interface: interface.clone() };
        wait("it is attached to", PATIENCE, || balancer.events().contains(&told).then_some(()));
        assert!(xdp::attached(&lab.lb, &interface).is_some());
        both_up(&lab, Bonding::ActiveBackup);
        all_go_on(&lab, &balancer, &mut held, "both members are there");
    }
    lab.lb.sh("ip link set eth1 nomaster");
    wait("a member that left is detached from", PATIENCE, || {
        (names() == ["eth0"] && xdp::attached(&lab.lb, "eth1").is_none()).then_some(())
    });
    all_go_on(&lab, &balancer, &mut held, "one member has left");
}

/// A member that cannot have the program joins an aggregate: nothing is sent by it,
/// and that is told.
#[test]
fn nothing_is_sent_by_a_member_without_the_program() {
    let Some(lab) = lab(4, Bonding::Aggregate) else { return };
    let balancer = Way::Members.balancer(&lab, &["bond0"]);
    let service = Service::tcp(ip(VIPS[0]), 80);
    serve(&lab, &balancer, &service);
    lab.lb.sh("ip link del eth1");
    lab.add_member_with(1, || xdp::attach_pass(&lab.lb, "eth1", "somebody_elses"));
    both_up(&lab, Bonding::Aggregate);
    let foreign = |event: &Event| matches!(event, Event::Failed(text) if text.contains("eth1"));
    wait("the failure is told", PATIENCE, || balancer.events().iter().any(foreign).then_some(()));
    let eth0 = xdp::index(&lab.lb, "eth0");
    for destination in balancer.destinations(&service).expect("it is there") {
        assert_eq!(destination.interface, Some(eth0), "{destination:?}");
        assert_eq!(destination.status, DestinationStatus::Reachable);
    }
    let interfaces = balancer.info().expect("it runs").interfaces;
    assert!(interfaces.iter().all(|interface| interface.name == "eth0"), "{interfaces:?}");
}
