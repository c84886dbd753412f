//! Pairs for probes.

use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::thread;

use etherparse::NetSlice;
use etherparse::SlicedPacket;
use etherparse::TransportSlice;
use nix::sys::socket;
use nix::sys::socket::AddressFamily;
use nix::sys::socket::LinkAddr;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockType;
use nix::sys::socket::sockopt;
use nix::sys::time::TimeVal;
use nix::sys::time::TimeValLike;

use super::*;
use crate::Prefix;
use crate::net::veth::ProbeEnds;

fn wanted() -> ProbePair {
    let (host, wire) = probe_names("default");
    let prefix = |text: &str| -> Prefix { text.parse().unwrap() };
    ProbePair {
        host,
        wire,
        v4: Some(("255.0.0.0".parse().unwrap(), prefix("255.0.0.0/11"))),
        v6: Some(("fd6b:9f3c:e1a7:255::".parse().unwrap(), prefix("fd6b:9f3c:e1a7:255::/64"))),
    }
}

fn net(namespace: &Namespace) -> Net {
    namespace.enter(|| Net::new().unwrap())
}

fn make(namespace: &Namespace, net: &mut Net) -> Result<ProbeEnds> {
    namespace.enter(|| net.make_probe_pair(&wanted()))
}

/// What a namespace has, in words.
fn state(namespace: &Namespace) -> String {
    namespace.sh("ip -br link; ip -br addr; ip route show table all; ip -6 route show table all")
}

/// Listens to all interfaces of a namespace.
fn listen(namespace: &Namespace) -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = namespace.enter(|| {
        socket::socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).unwrap()
    });
    socket::setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(5)).unwrap();
    socket::setsockopt(&fd, sockopt::RcvBufForce, &(16 << 20)).unwrap();
    fd
}

/// The next frame that arrives at an interface, with IP and a port or fragments.
fn next(listener: &OwnedFd, index: u32) -> Vec<u8> {
    /// From linux/if_packet.h.
    const PACKET_OUTGOING: u8 = 4;
    let mut frame = [0; 1 << 16];
    loop {
        let (length, from) =
            socket::recvfrom::<LinkAddr>(listener.as_raw_fd(), &mut frame).expect("a frame");
        let from = from.unwrap();
        if from.ifindex() == index as usize && from.pkttype() != PACKET_OUTGOING {
            return frame[..length].to_vec();
        }
    }
}

/// The source and destination of a frame whose checksums are right.
fn checked(frame: &[u8]) -> (IpAddr, IpAddr) {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    match (sliced.net.unwrap(), sliced.transport.unwrap()) {
        (NetSlice::Ipv4(ip), transport) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            let (told, right) = match transport {
                TransportSlice::Udp(udp) => {
                    let right = udp.to_header().calc_checksum_ipv4(&header, udp.payload());
                    (udp.checksum(), right.unwrap())
                }
                TransportSlice::Tcp(tcp) => {
                    let right = tcp.calc_checksum_ipv4(header.source, header.destination);
                    (tcp.checksum(), right.unwrap())
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(told, right, "{frame:02x?}");
            (header.source.into(), header.destination.into())
        }
        (NetSlice::Ipv6(ip), transport) => {
            let header = ip.header().to_header();
            let (told, right) = match transport {
                TransportSlice::Udp(udp) => {
                    let right = udp.to_header().calc_checksum_ipv6(&header, udp.payload());
                    (udp.checksum(), right.unwrap())
                }
                TransportSlice::Tcp(tcp) => (
                    tcp.checksum(),
                    tcp.calc_checksum_ipv6(header.source, header.destination).unwrap(),
                ),
                other => panic!("{other:?}"),
            };
            assert_eq!(told, right, "{frame:02x?}");
            (header.source.into(), header.destination.into())
        }
        (other, _) => panic!("{other:?}"),
    }
}

#[test]
fn a_pair_is_made_taken_over_and_removed() {
    if !root() {
        return;
    }
    let namespace = Namespace::new("probes");
    let mut net = net(&namespace);
    let before = state(&namespace);
    // Modules for tunnels have devices in each namespace.
    let links = net.snapshot().unwrap().links.len();
    assert!(!net.remove_probe_pair("xvs-default").unwrap());
    let ends = make(&namespace, &mut net).unwrap();
    assert!(ends.v6);
    for (name, end) in [("xvs-default", ends.host), ("xvw-default", ends.wire)] {
        let shown = namespace.sh(&format!("ip -d link show {name}"));
        let mac = format!("link/ether {} ", end.mac);
        for part in
            ["NOARP", ",UP", "mtu 1500", "addrgenmode none", "numtxqueues 1 numrxqueues 1", &mac]
        {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(shown.contains("veth") && end.mac.is_unicast(), "{shown}");
        assert!(namespace.sh("cat /proc/net/dev").contains(name));
        let features = namespace.enter(|| Ethtool::new().unwrap().unwrap().features(end.index));
        let active = features.unwrap().active;
        assert!(!active.iter().any(|name| name.starts_with("tx-checksum")), "{active:?}");
        for feature in ["tx-tcp-segmentation", "tx-udp-segmentation", "tx-gso-list"] {
            assert!(!active.contains(feature), "{active:?}");
        }
    }
    assert_ne!(ends.host.mac, ends.wire.mac);
    let snapshot = net.snapshot().unwrap();
    assert_eq!(snapshot.link("xvs-default").unwrap().index, ends.host.index);
    assert_eq!(snapshot.link("xvw-default").unwrap().index, ends.wire.index);
    let of_ends = |a: &&Address| [ends.host.index, ends.wire.index].contains(&a.index);
    let own: Vec<_> = snapshot.addresses.iter().filter(of_ends).collect();
    let [v4, v6] = own[..] else { panic!("{own:?}") };
    assert_eq!((v4.address, v4.prefix.length()), (ip("255.0.0.0"), 32));
    assert_eq!((v6.address, v6.prefix.length()), (ip("fd6b:9f3c:e1a7:255::"), 128));
    // Nobody takes them to send from.
    assert_eq!([v4, v6].map(|a| (a.index, a.rank)), [(ends.host.index, Rank::Unfit); 2]);
    for (address, source) in [("255.0.0.9", v4.address), ("fd6b:9f3c:e1a7:255::9", v6.address)] {
        let hops = &snapshot.routes.to(ip(address)).unwrap().hops;
        let [hop] = hops[..] else { panic!("{hops:?}") };
        assert_eq!((hop.interface, hop.gateway, hop.source), (ends.host.index, None, Some(source)));
    }

    // One that was left is made anew.
    namespace.sh("ip link set xvw-default down");
    let again = make(&namespace, &mut net).unwrap();
    assert_ne!(again.host.index, ends.host.index);
    assert_eq!((again.host.mac, again.wire.mac), (ends.host.mac, ends.wire.mac));
    let snapshot = net.snapshot().unwrap();
    assert!(snapshot.links[&again.wire.index].up);
    assert_eq!(snapshot.links.len(), links + 2);

    assert!(net.remove_probe_pair("xvs-default").unwrap());
    assert!(!net.remove_probe_pair("xvs-default").unwrap());
    assert_eq!(state(&namespace), before);
}

#[test]
fn packets_reach_the_wire_end_whole() {
    if !root() {
        return;
    }
    let namespace = Namespace::new("probes");
    namespace.sh("sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1
         ip link add va type veth peer name vb; ip link set va up; ip link set vb up
         ip addr add 10.1.2.1/24 dev va; ip addr add 2001:db8::1/64 dev va nodad
         ip route add default via 10.1.2.2; ip route add default via 2001:db8::2");
    let broadcast = || namespace.sh("ip route get 255.255.255.255; ip route get 255.240.0.1");
    let before = broadcast();
    let mut net = net(&namespace);
    let ends = make(&namespace, &mut net).unwrap();
    assert_eq!(broadcast(), before);
    let listener = listen(&namespace);
    for (own, other, any) in [
        ("255.0.0.0", "255.0.0.5", "0.0.0.0:0"),
        ("fd6b:9f3c:e1a7:255::", "fd6b:9f3c:e1a7:255::5", "[::]:0"),
    ] {
        let (own, other) = (ip(own), ip(other));
        let ip_frame = |kind: u8| loop {
            let frame = next(&listener, ends.wire.index);
            let at = if other.is_ipv4() { 23 } else { 20 };
            if frame.get(at) == Some(&kind) {
                assert_eq!(frame[..6], ends.host.mac.0, "nobody is asked for one");
                assert_eq!(frame[6..12], ends.host.mac.0);
                break frame;
            }
        };
        let udp = namespace.enter(|| {
            let udp = UdpSocket::bind(any).unwrap();
            udp.connect((other, 9)).unwrap();
            udp
        });
        assert_eq!(udp.local_addr().unwrap().ip(), own);
        udp.send(b"probe").unwrap();
        assert_eq!(checked(&ip_frame(17)), (own, other));
        assert_eq!(udp.send(&[7; 1_400]).unwrap(), 1_400);
        assert_eq!(checked(&ip_frame(17)), (own, other));

        let _ = namespace
            .enter(|| TcpStream::connect_timeout(&(other, 80).into(), Duration::from_millis(10)));
        assert_eq!(checked(&ip_frame(6)), (own, other));
    }
    // What comes back is taken, by the strict filter, too.
    namespace.sh("ip route get 255.0.0.0 from 255.0.0.5 iif xvs-default");
    let other = namespace.enter(|| {
        let route = "ip route get 255.0.0.0 from 255.0.0.5 iif va";
        std::process::Command::new("sh").args(["-c", route]).output().unwrap()
    });
    assert!(!other.status.success(), "the filter is strict");
}

#[test]
fn no_frame_is_longer_than_the_mtu() {
    const OCTETS: usize = 1 << 20;
    if !root() {
        return;
    }
    let (namespace, elsewhere) = (Namespace::new("probes"), Namespace::new("elsewhere"));
    let ends = make(&namespace, &mut net(&namespace)).unwrap();
    // What the host sends has its own MAC address as destination, too.
    namespace.sh(&format!("ip link set xvw-default netns {}", elsewhere.name()));
    elsewhere.sh(&format!(
        "ip link set xvw-default address {} up; ip addr add 255.0.0.5/32 dev xvw-default
         ip route add 255.0.0.0/32 dev xvw-default",
        ends.host.mac
    ));
    let listener = listen(&elsewhere);
    let server = elsewhere.enter(|| TcpListener::bind("255.0.0.5:80").unwrap());
    let reader = thread::spawn(move || {
        let mut received = Vec::new();
        server.accept().unwrap().0.read_to_end(&mut received).unwrap();
        received.len()
    });
    let server = (ip("255.0.0.5"), 80).into();
    let mut stream =
        namespace.enter(|| TcpStream::connect_timeout(&server, Duration::from_secs(5))).unwrap();
    stream.write_all(&vec![7; OCTETS]).unwrap();
    drop(stream);
    assert_eq!(reader.join().unwrap(), OCTETS);
    let index = elsewhere.enter(|| Net::new().unwrap().snapshot().unwrap());
    let index = index.link("xvw-default").unwrap().index;
    let lengths: Vec<usize> = (0..100).map(|_| next(&listener, index).len()).collect();
    assert_eq!(lengths.iter().max(), Some(&1514));
}

#[test]
fn without_ipv6_it_has_ipv4() {
    if !root() {
        return;
    }
    let namespace = Namespace::new("probes");
    namespace
        .sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
    let mut net = net(&namespace);
    let ends = make(&namespace, &mut net).unwrap();
    assert!(!ends.v6);
    let snapshot = net.snapshot().unwrap();
    assert!(snapshot.is_own(ip("255.0.0.0")) && !snapshot.is_own(ip("fd6b:9f3c:e1a7:255::")));
    assert!(snapshot.routes.to(ip("255.31.255.255")).is_some());
    assert!(snapshot.routes.to(ip("fd6b:9f3c:e1a7:255::1")).is_none());
}

#[test]
fn interfaces_of_others_are_left_alone() {
    if !root() {
        return;
    }
    let namespace = Namespace::new("probes");
    let elsewhere = Namespace::new("elsewhere");
    let peer = format!("peer name xvw-default netns {}", elsewhere.name());
    let mut net = net(&namespace);
    for (command, name, part) in [
        ("ip link add xvs-default type bridge", "xvs-default", "kind bridge"),
        ("ip link add xvw-default type bridge", "xvw-default", "kind bridge"),
        ("ip link add xvs-default type veth peer name other", "xvs-default", "`xvw-default`"),
        ("ip link add other type veth peer name xvw-default", "xvw-default", "`xvs-default`"),
        (&format!("ip link add xvs-default type veth {peer}"), "xvs-default", "`xvw-default`"),
    ] {
        namespace.sh(command);
        let before = state(&namespace);
        let error = make(&namespace, &mut net).unwrap_err();
        assert!(matches!(&error, Error::ProbeInterface { interface, .. } if interface == name));
        let error = error.to_string();
        assert!(error.contains(&format!("`{name}`")) && error.contains(part), "{error}");
        assert_eq!(state(&namespace), before, "{command}");
        let veth = command.contains("veth") && name == "xvs-default";
        assert_eq!(net.remove_probe_pair("xvs-default").unwrap(), veth, "{command}");
        namespace.sh(&format!("ip link del {name} 2>/dev/null || true"));
    }
    make(&namespace, &mut net).unwrap();
}

#[test]
fn nothing_stays_of_one_that_fails() {
    if !root() {
        return;
    }
    let namespace = Namespace::new("probes");
    let mut net = net(&namespace);
    for (route, step) in [
        ("blackhole 255.0.0.0/11", "IPv4 route"),
        ("blackhole fd6b:9f3c:e1a7:255::/64 metric 1024", "IPv6 route"),
    ] {
        namespace.sh(&format!("ip route add {route}"));
        let before = state(&namespace);
        match make(&namespace, &mut net) {
            Err(error) => {
                assert!(matches!(error, Error::Netlink { .. }), "{error:?}");
                assert!(error.to_string().contains(step), "{error}");
            }
            made => panic!("{made:?}"),
        }
        assert_eq!(state(&namespace), before);
        namespace.sh(&format!("ip route del {route}"));
    }
    let long = ProbePair { host: "xvs-much-too-long-a-name".to_owned(), ..wanted() };
    assert!(namespace.enter(|| net.make_probe_pair(&long)).is_err());
}
