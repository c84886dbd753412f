//! Datagrams in tunnels, sent by a packet socket, reach a socket on the VIP.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::time::Duration;

use xvs::Decap;
use xvs::Mode;

use crate::frame::*;
use crate::netns::sh;
use crate::real::network;
use crate::real::options;
use crate::tunnel::*;
use crate::wire::Wire;
use crate::xdp;

const PORT: u16 = 7_000;

/// What a socket gets of what is sent meanwhile.
fn received(socket: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    let mut octets = [0; 2_048];
    match socket.recv_from(&mut octets) {
        Ok((length, from)) => Some((octets[..length].to_vec(), from)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
        Err(error) => panic!("the socket can be read: {error}"),
    }
}

fn reaches_the_socket(mode: Mode) {
    let (real, peer) = network();
    let index = xdp::index(&peer, "peer0");
    let wire = peer.enter(Wire::new);
    let destination = [0x02, 0, 0, 0, 0, 0x10];
    real.enter(|| {
        // As docs/backends.md has it; clients are anywhere.
        sh("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0
            ip route add default via 10.1.2.254
            ip route add default via fd00:1:2::fe");
        let mut decap = Decap::new(options().mode(mode), &["eth0"]).expect("it attaches");
        for family in Family::ALL {
            let socket = UdpSocket::bind((family.of(VIPS), PORT)).expect("the host has the VIP");
            socket.set_read_timeout(Some(Duration::from_secs(5))).expect("it can be set");
            for tunnel in Tunnel::all() {
                for checksum in [true, false] {
                    let name = format!("{mode:?}: {} of {family:?}", tunnel.name());
                    let mut tunnel = tunnel.clone();
                    tunnel.checksum = checksum;
                    let ip = tunnel.ip.clone().macs(ROUTER, destination);
                    let inner = client(family).udp((40_000, PORT), name.as_bytes());
                    wire.send(index, &tunnel.clone().ip(ip).wrap(&inner));
                    let (octets, from) = received(&socket).unwrap_or_else(|| {
                        panic!("{name}: nothing came: {:?}", decap.stats());
                    });
                    assert_eq!(String::from_utf8_lossy(&octets), name);
                    assert_eq!(from, SocketAddr::from((family.of(CLIENTS), 40_000)), "{name}");

                    // What is wrong inside the stack finds, and others' is others'.
                    let last = inner.len() - 1;
                    let wrong = broken(inner.clone(), last, &[inner[last] ^ 1]);
                    let ip = tunnel.ip.clone().macs(ROUTER, destination);
                    wire.send(index, &tunnel.clone().ip(ip).wrap(&wrong));
                    let outer = tunnel.outer;
                    let ip =
                        Ip::new(outer.of(STRANGERS), outer.of(LOCAL)).macs(ROUTER, destination);
                    wire.send(index, &tunnel.ip(ip).wrap(&inner));
                }
            }
            socket.set_read_timeout(Some(Duration::from_millis(200))).expect("it can be set");
            assert_eq!(received(&socket), None, "{mode:?}: nothing else reaches the socket");
        }
        let stats = decap.stats().expect("counters");
        // Over and of each family, with a checksum outside and without: right, and with
        // a wrong octet inside, which no right checksum outside goes with.
        assert_eq!([stats.ipip, stats.gre, stats.fou, stats.gue], [16, 16, 12, 12], "{stats:?}");
        assert_eq!(stats.udp_checksum, 8, "{stats:?}");
        assert_eq!(stats.foreign_source, 32, "{stats:?}");

        // An address that came later counts when addresses are read again.
        let late = "10.1.2.99".parse().expect("an address");
        let socket = UdpSocket::bind((VIPS[0], PORT)).expect("the host has the VIP");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("it can be set");
        let ip = Ip::new(BALANCERS[0], late).macs(ROUTER, destination);
        let inner = client(Family::V4).udp((40_000, PORT), b"late");
        let frame = Tunnel::new(Kind::Ipip, Family::V4).ip(ip).wrap(&inner);
        wire.send(index, &frame);
        assert_eq!(received(&socket), None);
        sh("ip address add 10.1.2.99/24 dev eth0");
        decap.refresh().expect("addresses can be read");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("it can be set");
        wire.send(index, &frame);
        assert_eq!(received(&socket).expect("it came").0, b"late");
        sh("ip address del 10.1.2.99/24 dev eth0");
        decap.refresh().expect("addresses can be read");
        wire.send(index, &frame);
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("it can be set");
        assert_eq!(received(&socket), None);
        assert_eq!(decap.stats().expect("counters").not_local, 2);
    });
}

#[test]
fn a_datagram_reaches_a_socket_natively() {
    reaches_the_socket(Mode::Native);
}

#[test]
fn a_datagram_reaches_a_socket_in_generic_mode() {
    reaches_the_socket(Mode::Generic);
}
