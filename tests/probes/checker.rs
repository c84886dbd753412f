//! What a checker on the balancer's host does by a NAT address.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;

use nix::sys::socket;
use nix::sys::socket::AddressFamily;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockProtocol;
use nix::sys::socket::SockType;

use crate::lab::Backend;
use crate::lab::Lab;
use crate::lab::UDP;
use crate::netns::Namespace;
use crate::reasons;
use crate::server::Connection;
use crate::server::PATIENCE;
use crate::server::ask;
use crate::server::udp_from;
use xvs::Client;

/// The address that stands for any of a family.
pub fn any(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { [0; 4].into() } else { [0; 16].into() }
}

/// Octets that differ everywhere.
pub fn octets(number: usize) -> Vec<u8> {
    (0..number).map(|i| (i * 31 + i / 256) as u8).collect()
}

/// A socket for echo requests, whose answers the kernel checks. `lb` must allow it:
/// [`allow_echo`].
pub fn echo_socket(to: IpAddr) -> UdpSocket {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let fd: OwnedFd = socket::socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)
        .expect("`ping_group_range` has the group");
    UdpSocket::from(fd)
}

/// Lets sockets for echo requests be made.
pub fn allow_echo(lab: &Lab) {
    lab.lb.sh("sysctl -qw net.ipv4.ping_group_range='0 2147483647'");
}

/// An echo request with this number and its answer, which must come from there.
pub fn echo(socket: &UdpSocket, to: IpAddr, number: u16, octets: &[u8]) -> io::Result<()> {
    let kind = |v4, v6| if to.is_ipv4() { v4 } else { v6 };
    let message = |kind: u8| {
        let header = [[kind, 0, 0, 0], [0, 0, (number >> 8) as u8, number as u8]].concat();
        [&header[..], octets].concat()
    };
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(&message(kind(8, 128)), (to, 0))?;
    let mut answer = vec![0; 2_048];
    let (length, from) = socket.recv_from(&mut answer)?;
    // The kernel fills in the checksum and the id.
    answer[2..6].fill(0);
    assert_eq!(from.ip(), to, "the answer's source");
    assert_eq!(answer[..length], message(kind(0, 129)), "the answer of {to}");
    Ok(())
}

/// The value of a counter of a namespace: the name as `nstat` has it.
fn counter(namespace: &Namespace, name: &str) -> u64 {
    let (group, rest) = ["Tcp", "Udp", "Icmp"]
        .iter()
        .find_map(|group| Some((*group, name.strip_prefix(group)?)))
        .unwrap_or(("", name));
    namespace.enter(|| {
        let read = |file: &str| fs::read_to_string(format!("/proc/thread-self/net/{file}"));
        if name.contains('6') {
            let text = read("snmp6").expect("the kernel has IPv6");
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            return line.unwrap_or_else(|| panic!("no {name}")).trim().parse().expect("a number");
        }
        let text = read("snmp").expect("the kernel tells");
        let mut lines =
            text.lines().filter_map(|line| line.strip_prefix(group)?.strip_prefix(": "));
        let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
        let mut pairs = names.split_whitespace().zip(values.split_whitespace());
        let (_, value) = pairs.find(|(name, _)| *name == rest).expect("it is counted");
        value.parse().expect("a number")
    })
}

/// The echo requests that a backend got.
fn echoes(backend: &Backend, v4: bool) -> u64 {
    counter(&backend.namespace, if v4 { "IcmpInEchos" } else { "Icmp6InEchos" })
}

/// What arrived anywhere with a wrong checksum.
pub fn wrong_sums(lab: &Lab) -> u64 {
    let all = lab.backends.iter().map(|backend| &backend.namespace).chain([&lab.lb]);
    let counters = ["TcpInCsumErrors", "UdpInCsumErrors", "IcmpInCsumErrors"];
    let counters6 = ["Udp6InCsumErrors", "Icmp6InCsumErrors"];
    all.flat_map(|n| counters.iter().chain(&counters6).map(|name| counter(n, name))).sum()
}

/// A TCP probe, which must reach the backend; it goes on with a large exchange.
pub fn tcp(lab: &Lab, balancer: &Client, to: SocketAddr, backend: &Backend, title: &str) {
    let connection = lab.lb.enter(|| Connection::open(to, PATIENCE));
    let mut connection = connection
        .unwrap_or_else(|error| panic!("{title}: {to}: {error}: {:?}", reasons(balancer)));
    assert_eq!(connection.server, backend.name, "{title}: {to}");
    let peer = connection.stream.peer_addr().expect("it is connected");
    assert_eq!(peer, to, "{title}");
    connection
        .exchange(&octets(5_000))
        .unwrap_or_else(|error| panic!("{title}: {to}: {error}: {:?}", reasons(balancer)));
}

/// A UDP probe of the backends' port for that.
pub fn udp(lab: &Lab, to: IpAddr, backend: &Backend, title: &str) {
    let to = SocketAddr::new(to, UDP);
    // It checks where the answer comes from.
    let answer = lab.lb.enter(|| ask(&udp_from(any(to.ip()), 0), to, PATIENCE));
    assert_eq!(answer.unwrap_or_else(|error| panic!("{title}: {to}: {error}")), backend.name);
}

/// An ICMP probe: the backend must have answered it, and no other.
pub fn icmp(lab: &Lab, to: IpAddr, backend: &Backend, title: &str) {
    let before: Vec<u64> = lab.backends.iter().map(|b| echoes(b, to.is_ipv4())).collect();
    for length in [0, 1, 56, 1_300] {
        let answer = lab.lb.enter(|| echo(&echo_socket(to), to, 7, &octets(length)));
        answer.unwrap_or_else(|error| panic!("{title}: {length} octets to {to}: {error}"));
    }
    for (other, before) in lab.backends.iter().zip(before) {
        let more = if other.name == backend.name { 4 } else { 0 };
        let now = echoes(other, to.is_ipv4());
        assert_eq!(now - before, more, "{title}: {to} at {}", other.name);
    }
}

/// All kinds of probes of a backend by its NAT address, TCP to this port.
pub fn all(lab: &Lab, balancer: &Client, to: SocketAddr, backend: &Backend, title: &str) {
    tcp(lab, balancer, to, backend, title);
    udp(lab, to.ip(), backend, title);
    icmp(lab, to.ip(), backend, title);
}
