//! Routers' answers to packets that are too large are heard.

use std::env;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::process::Command;

use etherparse::Icmpv4Type;
use etherparse::IpNumber;
use etherparse::Ipv4Header;
use etherparse::Ipv6Header;
use etherparse::PacketBuilder;
use etherparse::UdpHeader;
use etherparse::icmpv4::DestUnreachableHeader;
use nix::libc;
use nix::sys::socket;
use nix::sys::socket::AddressFamily;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockProtocol;
use nix::sys::socket::SockType;
use nix::sys::socket::SockaddrStorage;

use super::*;
use crate::net::icmp::IcmpListener;
use crate::net::icmp::PathError;

const UDP: u8 = 17;
/// A protocol that no host has: it is for experiments (RFC 3692).
const UNKNOWN: u8 = 253;
const PORTS: (u16, u16) = (50_000, 6_080);

/// What tunnel packets are: source, destination, protocol.
const PACKETS: [(&str, &str, u8); 8] = [
    ("10.1.2.1", "10.9.0.2", 4),
    ("10.1.2.1", "10.9.0.2", 41),
    ("10.1.2.1", "10.9.0.2", 47),
    ("10.1.2.1", "10.9.0.2", UDP),
    ("2001:db8::1", "2001:db8:9::2", 4),
    ("2001:db8::1", "2001:db8:9::2", 41),
    ("2001:db8::1", "2001:db8:9::2", 47),
    ("2001:db8::1", "2001:db8:9::2", UDP),
];

/// A balancer, a router, and a server behind a link with a smaller MTU.
fn path() -> (Namespace, Namespace, Namespace) {
    let (balancer, router) = pair();
    let server = Namespace::new("c");
    router.sh(&format!(
        "ip link add vr mtu 1300 type veth peer name vs mtu 1300 netns {}
         ip addr add 10.9.0.1/24 dev vr; ip addr add 2001:db8:9::1/64 dev vr; ip link set vr up
         sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
         sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0",
        server.name()
    ));
    server.sh("ip link set vs up");
    balancer.sh("ip route add 10.9.0.0/24 via 10.1.2.2
                 ip route add 2001:db8:9::/64 via 2001:db8::2");
    (balancer, router, server)
}

/// A packet of so many octets, IP header included.
fn packet(source: IpAddr, destination: IpAddr, protocol: u8, length: u16) -> Vec<u8> {
    let mut packet = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let (source, destination) = (source.octets(), destination.octets());
            let mut header =
                Ipv4Header::new(length - 20, 64, IpNumber(protocol), source, destination).unwrap();
            header.dont_fragment = true;
            header.to_bytes().to_vec()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let (source, destination) = (source.octets(), destination.octets());
            let header = Ipv6Header {
                payload_length: length - 40,
                next_header: IpNumber(protocol),
                hop_limit: 64,
                source,
                destination,
                ..Default::default()
            };
            header.to_bytes().to_vec()
        }
        _ => unreachable!("a packet has one family"),
    };
    let udp = UdpHeader {
        source_port: PORTS.0,
        destination_port: PORTS.1,
        length: length - packet.len() as u16,
        checksum: 0,
    };
    packet.extend(udp.to_bytes());
    packet.resize(length.into(), 0x45);
    packet
}

/// Sends a packet with a header of its own; the kernel does not keep to what it
/// learned of the path then.
fn send(packet: &[u8], destination: IpAddr) {
    let family = match destination {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let raw = SockFlag::SOCK_CLOEXEC;
    let socket = socket::socket(family, SockType::Raw, raw, SockProtocol::Raw).unwrap();
    let to = SockaddrStorage::from(SocketAddr::new(destination, 0));
    let sent = socket::sendto(socket.as_raw_fd(), packet, &to, MsgFlags::empty());
    assert_eq!(sent, Ok(packet.len()));
}

fn polled(listener: &IcmpListener) -> Vec<PollFd<'_>> {
    listener.fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect()
}

/// Waits until a line of the kernel's counters is so.
fn came(namespace: &Namespace, line: &str, file: &str) {
    let command = format!("until grep -q '{line}' /proc/net/{file}; do sleep 0.1; done");
    namespace.sh(&format!("timeout 10 sh -c \"{command}\""));
}

/// What is heard within the time.
fn hear(listener: &mut IcmpListener, time: Duration) -> Vec<PathError> {
    poll(&mut polled(listener), PollTimeout::try_from(time).unwrap()).unwrap();
    listener.read().unwrap()
}

#[test]
fn routers_tell_what_is_too_large() {
    if !root() {
        return;
    }
    let (balancer, _router, _server) = path();
    let mut listener = balancer.enter(|| IcmpListener::new().unwrap());
    assert!(listener.read().unwrap().is_empty());
    for (source, destination, protocol) in PACKETS {
        let (source, destination) = (ip(source), ip(destination));
        let expected = PathError {
            source,
            destination,
            protocol,
            ports: (protocol == UDP).then_some(PORTS),
            mtu: 1300,
        };
        let large = packet(source, destination, protocol, 1500);
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut heard = Vec::new();
        while !heard.contains(&expected) {
            assert!(Instant::now() < deadline, "{expected:?} is not among {heard:?}");
            balancer.enter(|| send(&large, destination));
            heard.extend(hear(&mut listener, Duration::from_millis(200)));
        }
    }
}

#[test]
fn other_messages_do_not_wake() {
    if !root() {
        return;
    }
    let (balancer, _router, _server) = path();
    let mut listener = balancer.enter(|| IcmpListener::new().unwrap());
    let woken = |listener: &IcmpListener, time| {
        let mut fds = polled(listener);
        poll(&mut fds, time).unwrap();
        fds.iter().map(PollFd::any).collect::<Vec<_>>()
    };

    let (mut echo_v4, mut echo_v6) = (Vec::new(), Vec::new());
    let [own_v4, router_v4] = [[10, 1, 2, 1], [10, 1, 2, 2]];
    let [own_v6, router_v6] = [1, 2].map(|host| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host));
    let builder = PacketBuilder::ipv4(own_v4, router_v4, 64).icmpv4_echo_request(1, 1);
    builder.write(&mut echo_v4, b"echo").unwrap();
    let builder = PacketBuilder::ipv6(own_v6.octets(), router_v6.octets(), 64);
    builder.icmpv6_echo_request(1, 1).write(&mut echo_v6, b"echo").unwrap();
    // What the router does not know it answers with a parameter problem.
    let unknown = packet(own_v6.into(), router_v6.into(), UNKNOWN, 100);
    balancer.enter(|| {
        send(&echo_v4, router_v4.into());
        send(&echo_v6, router_v6.into());
        send(&unknown, router_v6.into());
    });
    came(&balancer, "^IcmpMsg: InType0", "snmp");
    came(&balancer, "^Icmp6InEchoReplies.*[1-9]$", "snmp6");
    came(&balancer, "^Icmp6InParmProblems.*[1-9]$", "snmp6");
    assert_eq!(woken(&listener, PollTimeout::ZERO), [Some(false), Some(false)]);

    // The same type as what is wanted, with another code.
    let unknown = packet(own_v4.into(), router_v4.into(), UNKNOWN, 100);
    balancer.enter(|| send(&unknown, router_v4.into()));
    assert_eq!(woken(&listener, 10_000_u16.into()), [Some(true), Some(false)]);
    assert!(listener.read().unwrap().is_empty());
}

#[test]
fn a_flood_is_read_in_batches() {
    if !root() {
        return;
    }
    let alone = Namespace::new("a");
    let mut listener = alone.enter(|| IcmpListener::new().unwrap());
    let lo = [127, 0, 0, 1];
    let header = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1300 };
    let quote = packet(lo.into(), lo.into(), 4, 1300);
    let mut message = Vec::new();
    let builder = PacketBuilder::ipv4(lo, lo, 64);
    let builder = builder.icmpv4(Icmpv4Type::DestinationUnreachable(header));
    builder.write(&mut message, &quote[..28]).unwrap();
    alone.enter(|| (0..100).for_each(|_| send(&message, lo.into())));
    came(&alone, "^IcmpMsg: 100 ", "snmp");
    let batches = [0; 3].map(|_| listener.read().unwrap().len());
    assert_eq!(batches, [64, 36, 0]);
}

#[test]
fn without_the_capability_the_error_says_so() {
    const INSIDE: &str = "XVS_TEST_WITHOUT_NET_RAW";
    if env::var_os(INSIDE).is_some() {
        let error = IcmpListener::new().err().expect("it is refused");
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
        return;
    }
    if !root() {
        return;
    }
    let output = Command::new("setpriv")
        .args(["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-net_raw", "--"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "net::tests::icmp::without_the_capability_the_error_says_so"])
        .env(INSIDE, "1")
        .output()
        .expect("setpriv runs");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
}
