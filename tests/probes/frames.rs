//! Probes' frames themselves: tags, what sockets do not send, and how long an answer
//! is waited for.

use std::io::Read;
use std::io::Write;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::PathBuf;

use libbpf_rs::MapCore;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use xvs::Client;
use xvs::Destination;
use xvs::Service;

use crate::checker::any;
use crate::counted;
use crate::frame::ACK;
use crate::frame::ETHERNET;
use crate::frame::Ip;
use crate::frame::SYN;
use crate::frame::UDP as UDP_HEADER;
use crate::frame::tagged;
use crate::frame::untagged;
use crate::frame::verify;
use crate::lab::Lab;
use crate::lab::UDP;
use crate::lab::VIPS;
use crate::lab::ip;
use crate::lab::wait;
use crate::reasons;
use crate::server::PATIENCE;
use crate::server::udp_from;
use crate::tunnelled::address;
use crate::tunnelled::serve;
use crate::vlans;
use crate::wire::Wire;
use crate::xdp;

/// The hardware addresses of `lb` and of the backend.
const LB: [u8; 6] = [2, 0, 0, 0, 0, 1];
const B1: [u8; 6] = [2, 0, 0, 0, 0, 11];

/// What probes are sent from.
const OWN: [&str; 2] = ["10.1.2.1", "fd00:1:2::1"];

fn pins(lab: &Lab) -> PathBuf {
    lab.bpffs().join("xvs/lab")
}

fn map(lab: &Lab, name: &str) -> MapHandle {
    MapHandle::from_pinned_path(pins(lab).join(name)).expect("the map is pinned by its name")
}

/// Changes each record of a hash table.
fn change(lab: &Lab, name: &str, change: impl Fn(&mut [u8])) {
    let map = map(lab, name);
    for key in map.keys() {
        let record = map.lookup(&key, MapFlags::ANY).expect("a lookup");
        let mut record = record.expect("nobody removes it");
        change(&mut record);
        map.update(&key, &record, MapFlags::EXIST).expect("it is there");
    }
}

/// Serves the first VIP of a family at the first backend; its NAT address.
fn start(lab: &Lab, balancer: &Client, number: usize) -> IpAddr {
    let service = Service::tcp(ip(VIPS[number]), 80);
    let server = address(&lab.backends[0], number);
    serve(balancer, &service, &[Destination::new(server)]);
    balancer.nat_service(&service, server).expect("it has one")
}

/// The octets where the transport header of a frame without a tag is.
fn transport(vip: IpAddr) -> usize {
    ETHERNET + if vip.is_ipv4() { 20 } else { 40 }
}

/// The next frame at a server that ends in these octets.
fn next(server: &Wire, end: &[u8]) -> Vec<u8> {
    wait("the probe at its server", PATIENCE, || {
        server.receive().map(|arrival| arrival.frame).filter(|frame| frame.ends_with(end))
    })
}

/// The control plane would have told the programs of a VLAN; this needs no device.
#[test]
fn probes_travel_in_the_destinations_vlan() {
    let lab = Lab::new(1);
    let balancer = lab.balancer();
    let backend = &lab.backends[0].namespace;
    let server = backend.enter(Wire::new);
    let index = xdp::index(backend, "eth0");
    for number in [0, 1] {
        let vip = ip(VIPS[number]);
        let nat = start(&lab, &balancer, number);
        vlans::tag_ways_out(&pins(&lab), .., 20);
        vlans::join_all_vlans(&pins(&lab));
        change(&lab, "nats", |record| record[4..6].copy_from_slice(&20_u16.to_be_bytes()));

        let socket = lab.lb.enter(|| udp_from(any(nat), 0));
        socket.set_read_timeout(Some(PATIENCE)).expect("it can be set");
        let own = socket.local_addr().expect("it is bound").port();
        socket.send_to(b"probe", (nat, 7_777)).expect("it is routed");
        let frame = next(&server, b"probe");
        let (control, frame) = untagged(&frame).expect("it has a tag");
        assert_eq!(control & 0xfff, 20);
        verify(&frame).expect("checksums are right");
        let at = transport(vip);
        let port = u16::from_be_bytes([frame[at], frame[at + 1]]);
        assert_ne!(port, own);
        let right = Ip::new(ip(OWN[number]), vip).macs(LB, B1).udp((port, 7_777), b"probe");
        let addresses = at - if vip.is_ipv4() { 8 } else { 32 };
        assert_eq!(frame[..ETHERNET], right[..ETHERNET]);
        assert_eq!(frame[addresses..], right[addresses..]);

        let answer = Ip::new(vip, ip(OWN[number])).macs(B1, LB);
        let answer = answer.udp((7_777, port), b"answer");
        for wrong in [answer.clone(), tagged(answer.clone(), 0), tagged(answer.clone(), 21)] {
            let before = reasons(&balancer).probe_refused;
            server.send(index, &wrong);
            counted(&balancer, "another VLAN", before, 1, |r| r.probe_refused);
        }
        server.send(index, &tagged(answer, 0xe000 | 20));
        let mut got = [0; 64];
        let (length, from) = socket.recv_from(&mut got).expect("an answer");
        assert_eq!(&got[..length], b"answer");
        assert_eq!(from, SocketAddr::new(nat, 7_777));
        // The next one has its way without a tag.
        balancer.remove_service(&Service::tcp(vip, 80)).expect("it is there");
    }
}

/// What only a packet socket sends to the probe interface.
#[test]
fn odd_frames_of_the_host_do_no_harm() {
    let lab = Lab::new(1);
    let balancer = lab.balancer();
    let server = lab.backends[0].namespace.enter(Wire::new);
    let host = lab.lb.enter(Wire::new);
    let interface = xdp::index(&lab.lb, "xvs-lab");
    for number in [0, 1] {
        let nat = start(&lab, &balancer, number);
        let vip = ip(VIPS[number]);
        let own = ip(["255.0.0.0", "fd6b:9f3c:e1a7:255::"][number]);
        let packet = Ip::new(own, nat).ttl(255);
        let at = transport(vip);

        // No checksum at all: over IPv6 it is none that a host takes, but no business
        // of ours.
        let mut plain = packet.udp((4_000, UDP), b"no sum");
        plain[at + 6..at + 8].fill(0);
        host.send(interface, &plain);
        let frame = next(&server, b"no sum");
        assert_eq!(frame[at + 6..at + 8], [0; 2]);
        // IPv4 options travel on.
        if vip.is_ipv4() {
            let options = packet.clone().options(&[1, 1, 1, 0]).udp((4_001, UDP), b"options");
            host.send(interface, &options);
            verify(&next(&server, b"options")).expect("checksums are right");
        }
        // Whatever they had, probes arrive with 2: no server passes them on for long.
        // In IPv6 the host's own have 255, and others may have been forwarded.
        for ttl in [0, 1, 64, 255] {
            let before = reasons(&balancer).probe_refused;
            host.send(interface, &packet.clone().ttl(ttl).udp((4_002, UDP), b"ttl"));
            if vip.is_ipv6() && ttl < 255 {
                counted(&balancer, "probe_refused", before, 1, |r| r.probe_refused);
                continue;
            }
            let frame = next(&server, b"ttl");
            verify(&frame).expect("checksums are right");
            assert_eq!(frame[if vip.is_ipv4() { 22 } else { 21 }], 2);
        }
        let (echo, reply, error) = if vip.is_ipv4() { (8, 0, 3) } else { (128, 129, 1) };
        let from = |address: &str| Ip::new(ip(address), nat);
        let refused = [
            ("an echo reply", packet.icmp(reply, 0, [0, 1, 0, 1], &[7; 8])),
            ("an error", packet.icmp(error, 0, [0; 4], &[7; 64])),
            ("another protocol", packet.raw(200, &[7; 64])),
            ("no room for ports", packet.raw(UDP_HEADER, &[7; 7])),
            ("no room for TCP", packet.raw(6, &[7; 19])),
            ("a fragment", packet.clone().fragment(7, 0, true).raw(UDP_HEADER, &[7; 64])),
            ("a last fragment", packet.clone().fragment(7, 64, false).raw(UDP_HEADER, &[7; 64])),
            ("our address", from(OWN[number]).ttl(255).udp((4_003, UDP), b"x")),
            ("from the VIP", from(VIPS[number]).ttl(255).udp((4_003, UDP), b"x")),
            ("cut short", packet.udp((4_003, UDP), &[7; 600])[..200].to_vec()),
        ];
        for (what, frame) in refused {
            let before = reasons(&balancer).probe_refused;
            host.send(interface, &frame);
            counted(&balancer, what, before, 1, |r| r.probe_refused);
        }
        // What is for no NAT address, or not from the host's stack, is nobody's.
        let tag = tagged(packet.tcp((4_004, 80), SYN, &[]), 20);
        let elsewhere = Ip::new(own, vip).tcp((4_004, 80), SYN, &[]);
        for frame in [tag, elsewhere, vec![0xff; 64]] {
            host.send(interface, &frame);
        }
        let before = reasons(&balancer).probe_forwarded;
        host.send(interface, &packet.icmp(echo, 0, [0, 9, 0, 9], b"the last one"));
        next(&server, b"the last one");
        assert_eq!(reasons(&balancer).probe_forwarded, before + 1);
    }
}

/// Makes all probes silent for so many ticks of 1.07 s more.
fn age(lab: &Lab, ticks: u32) {
    change(lab, "probes", |record| {
        let seen = u32::from_ne_bytes(record[4..8].try_into().expect("four octets"));
        record[4..8].copy_from_slice(&seen.wrapping_sub(ticks).to_ne_bytes());
    });
}

/// A probe that is connected, and its server's end.
fn connect(lab: &Lab, nat: IpAddr, port: u16) -> (TcpStream, TcpStream) {
    let listener = lab.backends[0].namespace.enter(|| TcpListener::bind(("::", port)));
    let listener = listener.expect("the port is free");
    let ours = lab.lb.enter(|| TcpStream::connect_timeout(&(nat, port).into(), PATIENCE));
    let (ours, (theirs, _)) = (ours.expect("it is served"), listener.accept().expect("it came"));
    for stream in [&ours, &theirs] {
        stream.set_read_timeout(Some(PATIENCE)).expect("it can be set");
        stream.set_nodelay(true).expect("it can be set");
    }
    (ours, theirs)
}

#[test]
fn slow_servers_are_waited_for() {
    let lab = Lab::new(1);
    let balancer = lab.balancer();
    for number in [0, 1] {
        let nat = start(&lab, &balancer, number);
        let (mut ours, mut theirs) = connect(&lab, nat, 7_001);
        let mut word = [0; 5];
        ours.write_all(b"hello").expect("it is open");
        theirs.read_exact(&mut word).expect("it comes");
        age(&lab, 50);
        theirs.write_all(b"world").expect("it is open");
        ours.read_exact(&mut word).expect("it comes");
        assert_eq!(&word, b"world");

        // Nor is a server done when the host has said all.
        ours.shutdown(std::net::Shutdown::Write).expect("it is open");
        assert_eq!(theirs.read(&mut word).expect("the end comes"), 0);
        age(&lab, 50);
        theirs.write_all(b"later").expect("it is open");
        ours.read_exact(&mut word).expect("it comes");
        assert_eq!(&word, b"later");
        age(&lab, 50);
        drop(theirs);
        assert_eq!(ours.read(&mut word).expect("the end comes"), 0);
    }
}

#[test]
fn answers_after_the_end_are_none() {
    let lab = Lab::new(1);
    let balancer = lab.balancer();
    let backend = &lab.backends[0].namespace;
    let server = (backend.enter(Wire::new), xdp::index(backend, "eth0"));
    for number in [0, 1] {
        let vip = ip(VIPS[number]);
        let nat = start(&lab, &balancer, number);
        let answers = |what: &str, port: u16, are_taken: bool| {
            let packet = Ip::new(vip, ip(OWN[number])).macs(B1, LB);
            let before = reasons(&balancer).probe_answered;
            let passed = reasons(&balancer).not_vip;
            server.0.send(server.1, &packet.tcp((7_002, port), ACK, &[]));
            wait(what, PATIENCE, || {
                let now = reasons(&balancer);
                let counter = if are_taken { now.probe_answered } else { now.not_vip };
                (counter > if are_taken { before } else { passed }).then_some(())
            });
            if !are_taken {
                assert_eq!(reasons(&balancer).probe_answered, before, "{what}");
            }
        };
        let port_of = |theirs: &TcpStream| theirs.peer_addr().expect("it is connected").port();

        let (ours, theirs) = connect(&lab, nat, 7_002);
        let port = port_of(&theirs);
        answers("open", port, true);
        age(&lab, 62);
        answers("silent for too long", port, false);
        drop((ours, theirs));

        let (ours, theirs) = connect(&lab, nat, 7_002);
        let port = port_of(&theirs);
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        nix::sys::socket::setsockopt(&ours, nix::sys::socket::sockopt::Linger, &linger)
            .expect("it can be set");
        drop(ours);
        let closed = wait("the RST", PATIENCE, || theirs.take_error().expect("it is open"));
        println!("{closed}");
        age(&lab, 3);
        answers("just closed", port, true);
        age(&lab, 6);
        answers("closed", port, false);
    }
}
