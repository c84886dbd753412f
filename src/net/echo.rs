//! Asks a host and waits for its answer: ICMP echo requests and UDP datagrams,
//! none of them ever fragmented.

use std::hash::BuildHasher;
use std::hash::Hasher;
use std::hash::RandomState;
use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::time::Duration;
use std::time::Instant;

use nix::errno::Errno;
use nix::getsockopt_impl;
use nix::libc;
// What `sockopt_impl` makes uses them.
use nix::setsockopt_impl;
use nix::sockopt_impl;
use nix::sys::socket;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::SockaddrStorage;
use nix::sys::socket::sockopt;

use super::icmp::LONGEST;
use super::icmp::ipv4;
use super::icmp::open_v4;
use super::icmp::open_v6;
use super::icmp::sum;
use crate::readable::wait_readable;

/// Types of RFC 792 and RFC 4443.
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

/// Octets of an ICMP echo's header, and of UDP's.
const HEADER: usize = 8;

// `IP_PMTUDISC_PROBE` and its like of IPv6: nothing is fragmented, and what the
// host remembers of path MTUs does not count.
sockopt_impl!(Discover, SetOnly, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::c_int);
sockopt_impl!(DiscoverV6, SetOnly, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::c_int);
sockopt_impl!(Mtu, GetOnly, libc::IPPROTO_IP, libc::IP_MTU, libc::c_int);
sockopt_impl!(MtuV6, GetOnly, libc::IPPROTO_IPV6, libc::IPV6_MTU, libc::c_int);

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It was answered.
    Replied,
    /// The host has no such port.
    Refused,
    /// It cannot be delivered, as a router, the host or this one's stack says.
    Unreachable(Errno),
    /// It is too large for a link of the path.
    TooBig,
    /// Nothing came in time.
    Silent,
}

/// Sends an ICMP echo request that is an IP packet of `length` octets, and again
/// after half of the time. It needs CAP_NET_RAW.
pub(crate) fn echo(to: IpAddr, length: usize, timeout: Duration) -> io::Result<Answer> {
    let header = if to.is_ipv4() { 20 } else { 40 };
    let payload = vec![0; length.saturating_sub(header + HEADER)];
    let id = (RandomState::new().build_hasher().finish() as u16).to_be_bytes();
    let fd = match to {
        IpAddr::V4(_) => open_v4(ECHO_REPLY)?,
        IpAddr::V6(_) => open_v6(&[ECHO_REPLY_V6])?,
    };
    socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(to, 0)))?;
    let kind = if to.is_ipv4() { ECHO_REQUEST } else { ECHO_REQUEST_V6 };
    let request = |number: u8| {
        let start = [kind, 0, 0, 0, id[0], id[1], 0, number];
        let mut request = [&start, payload.as_slice()].concat();
        // The kernel makes that of IPv6.
        if to.is_ipv4() {
            let sum = !sum(&request);
            request[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        request
    };
    let is_reply = |packet: &[u8]| {
        let message = if to.is_ipv4() { ipv4(packet).map(|(_, m)| m) } else { Some(packet) };
        let own = |message: &[u8]| matches!(message, [ECHO_REPLY | ECHO_REPLY_V6, 0, _, _, a, b, ..] if [*a, *b] == id);
        message.is_some_and(own)
    };
    ask(&fd, to, request, is_reply, timeout)
}

/// Sends a UDP datagram, and again after half of the time, and takes any answer.
pub(crate) fn datagram(to: SocketAddr, payload: &[u8], timeout: Duration) -> io::Result<Answer> {
    let socket = connected(to)?;
    socket.set_nonblocking(true)?;
    ask(&socket, to.ip(), |_| payload.to_vec(), |_| true, timeout)
}

/// The path MTU to a host as this one's stack knows it, in octets.
pub(crate) fn path_mtu(to: IpAddr) -> io::Result<u32> {
    let socket = connected(SocketAddr::new(to, 9))?;
    let mtu = match to {
        IpAddr::V4(_) => socket::getsockopt(&socket, Mtu)?,
        IpAddr::V6(_) => socket::getsockopt(&socket, MtuV6)?,
    };
    Ok(mtu.unsigned_abs())
}

fn connected(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    Ok(socket)
}

/// Sends requests on a connected socket until there is an answer.
fn ask(
    fd: &(impl AsFd + AsRawFd),
    to: IpAddr,
    request: impl Fn(u8) -> Vec<u8>,
    is_reply: impl Fn(&[u8]) -> bool,
    timeout: Duration,
) -> io::Result<Answer> {
    if to.is_ipv4() {
        socket::setsockopt(fd, Discover, &libc::IP_PMTUDISC_PROBE)?;
        socket::setsockopt(fd, sockopt::Ipv4RecvErr, &true)?;
    } else {
        socket::setsockopt(fd, DiscoverV6, &libc::IPV6_PMTUDISC_PROBE)?;
        socket::setsockopt(fd, sockopt::Ipv6RecvErr, &true)?;
    }
    let start = Instant::now();
    let mut buffer = vec![0; LONGEST];
    for (number, end) in [(1, start + timeout / 2), (2, start + timeout)] {
        match socket::send(fd.as_raw_fd(), &request(number), MsgFlags::empty()) {
            // An interface has dropped it.
            Ok(_) | Err(Errno::ENOBUFS) => {}
            Err(errno) => return answer_of(errno),
        }
        while wait(fd, end)? {
            match socket::recv(fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) if is_reply(&buffer[..length]) => return Ok(Answer::Replied),
                Ok(_) | Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => return answer_of(errno),
            }
        }
    }
    Ok(Answer::Silent)
}

/// Waits until there is something to receive; `false` when the time is up.
fn wait(fd: &impl AsFd, end: Instant) -> io::Result<bool> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        if wait_readable(fd, Some(left))? {
            return Ok(true);
        }
    }
}

/// What the kernel makes of ICMP errors, and what is no answer at all.
fn answer_of(errno: Errno) -> io::Result<Answer> {
    match errno {
        Errno::ECONNREFUSED => Ok(Answer::Refused),
        Errno::EMSGSIZE => Ok(Answer::TooBig),
        _ if is_unreachable(errno) => Ok(Answer::Unreachable(errno)),
        _ => Err(errno.into()),
    }
}

/// Whether the kernel says so for an ICMP "destination unreachable" or its like, or
/// for a route that leads nowhere.
pub(crate) fn is_unreachable(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EHOSTUNREACH
            | Errno::ENETUNREACH
            | Errno::EHOSTDOWN
            | Errno::ENONET
            | Errno::ENOPROTOOPT
            | Errno::EOPNOTSUPP
            | Errno::EPROTO
            | Errno::EACCES
    )
}
