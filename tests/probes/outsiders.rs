//! Nobody but the host itself gets anything by NAT addresses.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::time::Duration;

use xvs::Client;
use xvs::Destination;
use xvs::Service;

use crate::checker::any;
use crate::counted;
use crate::frame::ACK;
use crate::frame::ETHERNET;
use crate::frame::Ip;
use crate::frame::RST;
use crate::frame::SYN;
use crate::frame::UDP as UDP_HEADER;
use crate::lab::Lab;
use crate::lab::UDP;
use crate::lab::VIPS;
use crate::lab::ip;
use crate::lab::wait;
use crate::reasons;
use crate::server::Connection;
use crate::server::PATIENCE;
use crate::server::ask;
use crate::server::udp_from;
use crate::tunnelled::address;
use crate::tunnelled::serve;
use crate::wire::Wire;
use crate::xdp;

/// The hardware addresses of the client, of `lb` in both subnets, and of nobody.
const CLIENT: [u8; 6] = [2, 0, 0, 0, 0, 0x64];
const LB: [u8; 6] = [2, 0, 0, 0, 0, 1];
const LB1: [u8; 6] = [2, 0, 0, 0, 1, 1];
const NOBODY: [u8; 6] = [2, 0, 0, 0, 9, 9];

/// The client's addresses, and those of `lb` that probes have.
const FROM: [&str; 2] = ["10.1.2.100", "fd00:1:2::100"];
const OWN: [&str; 2] = ["10.1.2.1", "fd00:1:2::1"];

/// Serves the first VIP of a family at all backends; their NAT addresses.
fn start(lab: &Lab, balancer: &Client, number: usize) -> Vec<IpAddr> {
    let service = Service::tcp(ip(VIPS[number]), 80);
    let servers: Vec<IpAddr> = lab.backends.iter().map(|b| address(b, number)).collect();
    serve(balancer, &service, &servers.iter().copied().map(Destination::new).collect::<Vec<_>>());
    let nat = |server| balancer.nat_service(&service, server).expect("it has one");
    servers.into_iter().map(nat).collect()
}

/// What came in that a test asks for; all else is thrown away.
fn arrived(wire: &Wire, is_it: impl Fn(&[u8]) -> bool) -> usize {
    std::iter::from_fn(|| wire.receive()).filter(|arrival| is_it(&arrival.frame)).count()
}

/// Whether the packet of a frame without a tag is for this address.
fn is_for(frame: &[u8], to: IpAddr) -> bool {
    let at = |start: usize, octets: &[u8]| frame.get(start..start + octets.len()) == Some(octets);
    match to {
        IpAddr::V4(v4) => at(12, &[8, 0]) && at(30, &v4.octets()),
        IpAddr::V6(v6) => at(12, &[0x86, 0xdd]) && at(38, &v6.octets()),
    }
}

/// Frames of every kind for an address of a NAT prefix.
fn frames(from: IpAddr, to: IpAddr, mac: [u8; 6]) -> Vec<(&'static str, Vec<u8>)> {
    let packet = Ip::new(from, to).macs(CLIENT, mac);
    let echo = if to.is_ipv4() { 8 } else { 128 };
    let error = if to.is_ipv4() { 3 } else { 1 };
    let mut frames = vec![
        ("SYN", packet.tcp((40_000, 80), SYN, &[])),
        ("ACK", packet.tcp((40_000, 80), ACK, &[7; 700])),
        ("UDP", packet.udp((40_000, 53), b"who")),
        ("echo", packet.icmp(echo, 0, [0, 1, 0, 1], &[7; 56])),
        ("error", packet.icmp(error, 0, [0; 4], &[7; 56])),
        ("first fragment", packet.clone().fragment(5, 0, true).raw(UDP_HEADER, &[7; 640])),
        ("later fragment", packet.clone().fragment(5, 640, false).raw(UDP_HEADER, &[7; 64])),
        ("unknown protocol", packet.raw(200, &[7; 64])),
    ];
    if to.is_ipv4() {
        frames.push(("options", packet.clone().options(&[1; 8]).udp((1, 2), b"who")));
    } else {
        frames.push(("extensions", packet.clone().padded_extension(0, 0).udp((1, 2), b"who")));
    }
    frames.push(("priority tag", crate::frame::tagged(packet.udp((1, 2), b"who"), 0xe000)));
    frames
}

#[test]
fn frames_from_the_wire_to_nat_addresses_are_dropped() {
    let lab = Lab::new(1);
    let balancer = lab.balancer();
    let index = xdp::index(&lab.client, "eth0");
    let client = lab.client.enter(Wire::new);
    let host = lab.lb.enter(Wire::new);
    let dropped = |what: &str, frame: &[u8]| {
        let before = reasons(&balancer).nat_from_wire;
        client.send(index, frame);
        counted(&balancer, what, before, 1, |r| r.nat_from_wire);
    };
    for number in [0, 1] {
        let nat = start(&lab, &balancer, number)[0];
        let (own, nobodys, last) = match number {
            0 => ("255.0.0.0", "255.0.3.7", "255.31.255.255"),
            _ => {
                ("fd6b:9f3c:e1a7:255::", "fd6b:9f3c:e1a7:255::307", "fd6b:9f3c:e1a7:255::ffff:ffff")
            }
        };
        for to in [nat, ip(own), ip(nobodys), ip(last)] {
            for (what, frame) in frames(ip(FROM[number]), to, LB) {
                dropped(&format!("{what} to {to}"), &frame);
            }
            // Of an error the host sees nothing either, nor of what a VIP sends.
            let spoofed = Ip::new(ip(VIPS[number]), to).macs(CLIENT, LB);
            dropped("from a VIP", &spoofed.tcp((80, 40_000), ACK, &[]));
            assert_eq!(arrived(&host, |frame| is_for(frame, to)), 0, "{to}");

            // Frames to others pass: nothing tells whether they come by here only
            // because of a bridge.
            let before = reasons(&balancer);
            let others = frames(ip(FROM[number]), to, NOBODY);
            let untagged = others.iter().filter(|(what, _)| !what.contains("tag"));
            for (_, frame) in untagged.clone() {
                client.send(index, frame);
            }
            let mut seen = 0;
            wait(&format!("frames to another host for {to}"), PATIENCE, || {
                seen += arrived(&host, |frame| is_for(frame, to) && frame[..6] == NOBODY);
                (seen == untagged.clone().count()).then_some(())
            });
            assert_eq!(reasons(&balancer).nat_from_wire, before.nat_from_wire);
        }
    }
}

#[test]
fn what_is_beside_the_prefixes_passes() {
    let lab = Lab::new(1);
    let balancer = lab.balancer();
    let index = xdp::index(&lab.client, "eth0");
    let client = lab.client.enter(Wire::new);
    let host = lab.lb.enter(Wire::new);
    let _nat = [start(&lab, &balancer, 0), start(&lab, &balancer, 1)];
    for to in [
        "255.255.255.255",
        "255.32.0.0",
        "254.255.255.255",
        "fd6b:9f3c:e1a7:255:0:1::",
        "fd6b:9f3c:e1a7:254:ffff:ffff:ffff:ffff",
    ] {
        let (to, from) = (ip(to), FROM[usize::from(to.contains(':'))]);
        let mut seen = 0;
        for (_, frame) in &frames(ip(from), to, LB)[..3] {
            client.send(index, frame);
        }
        wait(&format!("three frames for {to}"), PATIENCE, || {
            seen += arrived(&host, |frame| is_for(frame, to));
            (seen == 3).then_some(())
        });
    }
    assert_eq!(reasons(&balancer).nat_from_wire, 0);
}

/// The port that the probes of an open connection have at the server.
fn translated(server: &Wire, connection: &mut Connection, vip: IpAddr) -> u16 {
    connection.exchange(b"look").expect("it goes on");
    let segment = wait("the probe at its server", PATIENCE, || {
        let arrival = server.receive()?;
        (is_for(&arrival.frame, vip) && arrival.frame.ends_with(b"look")).then_some(arrival.frame)
    });
    let at = ETHERNET + if vip.is_ipv4() { 20 } else { 40 };
    u16::from_be_bytes([segment[at], segment[at + 1]])
}

/// What a VIP is said to send to the host.
fn answer(number: usize, mac: [u8; 6], from: u16, to: u16) -> Vec<u8> {
    Ip::new(ip(VIPS[number]), ip(OWN[number])).macs(CLIENT, mac).tcp((from, to), RST | ACK, &[])
}

#[test]
fn spoofed_answers_are_no_answers() {
    let lab = Lab::with_two_subnets(1);
    let balancer =
        lab.balancer_with(lab.options(), &["eth0", "eth1"]).expect("the balancer starts");
    let client = (lab.client.enter(Wire::new), xdp::index(&lab.client, "eth0"));
    let backend = &lab.backends[0].namespace;
    let server = (backend.enter(Wire::new), xdp::index(backend, "eth0"));
    let host = lab.lb.enter(Wire::new);
    for number in [0, 1] {
        let nat = start(&lab, &balancer, number)[0];
        let to = SocketAddr::new(nat, 80);
        let opened = lab.lb.enter(|| Connection::open(to, PATIENCE));
        let mut connection = opened.expect("the server answers");
        let port = translated(&server.0, &mut connection, ip(VIPS[number]));
        assert!((1_024..32_768).contains(&port), "{port}");

        // By the other interface.
        let before = reasons(&balancer);
        client.0.send(client.1, &answer(number, LB1, 80, port));
        counted(&balancer, "probe_refused", before.probe_refused, 1, |r| r.probe_refused);
        connection.exchange(b"still here").expect("the connection goes on");

        // By the right one, of another port either side, or from another VIP: the
        // host gets it as it is.
        let other = Ip::new(ip(VIPS[number + 2]), ip(OWN[number])).macs(CLIENT, LB);
        let wrong = [
            answer(number, LB, 81, port),
            answer(number, LB, 80, if port == 32_767 { 1_024 } else { port + 1 }),
            other.tcp((80, port), RST | ACK, &[]),
        ];
        for frame in wrong {
            let before = reasons(&balancer);
            server.0.send(server.1, &frame);
            wait("the frame at the host", PATIENCE, || {
                let arrival = host.receive()?;
                (arrival.frame == frame).then_some(())
            });
            let refused = reasons(&balancer).probe_refused;
            assert_eq!(refused, before.probe_refused);
            assert!(reasons(&balancer).not_vip > before.not_vip);
        }
        connection.exchange(b"still here").expect("the connection goes on");
        // The same frame by the right way is an answer, though of no use.
        let before = reasons(&balancer).probe_answered;
        server.0.send(server.1, &answer(number, LB, 80, port));
        counted(&balancer, "probe_answered", before, 1, |r| r.probe_answered);
        connection.exchange(b"still here").expect("the connection goes on");
    }
}

#[test]
fn only_the_hosts_own_address_is_a_probes() {
    let lab = Lab::new(1);
    let balancer = lab.balancer();
    let backend = &lab.backends[0].namespace;
    let server = backend.enter(Wire::new);
    for number in [0, 1] {
        let nat = start(&lab, &balancer, number)[0];
        let nobodys = match nat {
            IpAddr::V4(_) => ip("255.0.3.7"),
            IpAddr::V6(_) => ip("fd6b:9f3c:e1a7:255::307"),
        };
        let send = |from: IpAddr, to: IpAddr, octets: &[u8]| {
            lab.lb.enter(|| {
                let socket = UdpSocket::bind((from, 0)).expect("the host has the address");
                socket.send_to(octets, (to, UDP)).expect("it is routed");
            });
        };
        for (what, from, to, octets, frames) in [
            ("another address", ip(OWN[number]), nat, &[7; 3][..], 1),
            ("nobody's number", any(nat), nobodys, &[7; 3], 1),
            ("fragments", any(nat), nat, &[7; 4_000], 3),
        ] {
            let before = reasons(&balancer);
            send(from, to, octets);
            let what = format!("{what}, {from} to {to}");
            counted(&balancer, &what, before.probe_refused, frames, |r| r.probe_refused);
            assert_eq!(reasons(&balancer).probe_forwarded, before.probe_forwarded);
        }
        // What had reached the server would have done so before this.
        let to = SocketAddr::new(nat, UDP);
        let retry = Duration::from_secs(1);
        lab.lb.enter(|| ask(&udp_from(any(nat), 0), to, retry)).expect("it is answered");
        let vip = ip(VIPS[number]);
        let all = std::iter::from_fn(|| server.receive());
        let got: Vec<_> = all.filter(|arrival| is_for(&arrival.frame, vip)).collect();
        assert!(!got.is_empty());
        assert!(got.iter().all(|arrival| arrival.frame.ends_with(b"who")), "{got:?}");
    }
}

/// The host forwards nothing to NAT addresses.
#[test]
fn clients_cannot_route_to_nat_addresses() {
    let lab = Lab::new(1);
    lab.lb.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    let balancer = lab.balancer();
    lab.client.sh("ip route add 255.0.0.0/11 via 10.1.2.1
         ip route add fd6b:9f3c:e1a7:255::/64 via fd00:1:2::1");
    for number in [0, 1] {
        let nat = start(&lab, &balancer, number)[0];
        let before = reasons(&balancer);
        lab.client.enter(|| {
            udp_from(any(nat), 0).send_to(b"who", (nat, UDP)).expect("it is routed");
        });
        counted(&balancer, "nat_from_wire", before.nat_from_wire, 1, |r| r.nat_from_wire);
        assert_eq!(reasons(&balancer).probe_forwarded, 0);
    }
}
