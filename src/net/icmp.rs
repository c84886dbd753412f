//! Hears routers say that packets which this host sent are too large.
//!
//! The data plane sends tunnel packets past the host's stack, which therefore
//! learns no path MTU from the answers. Raw sockets get a copy of them.

use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::libc;
// What `sockopt_impl` makes uses it.
use nix::setsockopt_impl;
use nix::sockopt_impl;
use nix::sys::socket;
use nix::sys::socket::AddressFamily;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockProtocol;
use nix::sys::socket::SockType;

/// So many messages of each family are read at once; who sends many must not
/// keep the reader from its other work.
pub(super) const BATCH: usize = 64;

/// No IP packet is longer.
pub(super) const LONGEST: usize = 65_535;

/// IP protocol numbers.
pub(super) const ICMP: u8 = 1;
const UDP: u8 = 17;

/// Types and codes of RFC 792 and RFC 4443.
pub(super) const DESTINATION_UNREACHABLE: u8 = 3;
pub(super) const FRAGMENTATION_NEEDED: u8 = 4;
const PACKET_TOO_BIG: u8 = 2;

/// `ICMP_FILTER` of linux/icmp.h, `ICMPV6_FILTER` of linux/icmpv6.h.
const ICMP_FILTER: libc::c_int = 1;
const ICMPV6_FILTER: libc::c_int = 1;

// Both take a bit for each type that is not wanted.
sockopt_impl!(IcmpFilter, SetOnly, libc::SOL_RAW, ICMP_FILTER, u32);
sockopt_impl!(Icmpv6Filter, SetOnly, libc::IPPROTO_ICMPV6, ICMPV6_FILTER, [u32; 8]);

/// A router's answer that a packet was too large for a link of its path.
///
/// Anybody can send one: it is worth something only if the packet is one that
/// this host may have sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PathError {
    /// The source of the packet.
    pub(crate) source: IpAddr,
    /// Where it was to go.
    pub(crate) destination: IpAddr,
    /// Its IP protocol number.
    pub(crate) protocol: u8,
    /// The source and destination port of a UDP packet, if the answer has them.
    pub(crate) ports: Option<(u16, u16)>,
    /// The longest IP packet that the link takes, in octets, as the router says.
    pub(crate) mtu: u32,
}

/// Hears ICMPv4 "fragmentation needed" and ICMPv6 "packet too big".
pub(crate) struct IcmpListener {
    sockets: Vec<RawSocket>,
    buffer: Vec<u8>,
}

struct RawSocket {
    fd: OwnedFd,
    parse: fn(&[u8]) -> Option<PathError>,
}

impl IcmpListener {
    /// Starts to listen in the network namespace that the calling thread is
    /// in; another thread may use it afterwards. It needs CAP_NET_RAW.
    pub(crate) fn new() -> io::Result<Self> {
        let v4 = open_v4(DESTINATION_UNREACHABLE)?;
        let mut sockets = vec![RawSocket { fd: v4, parse: parse_v4 }];
        match open_v6(&[PACKET_TOO_BIG]) {
            Ok(v6) => sockets.push(RawSocket { fd: v6, parse: parse_v6 }),
            // The kernel was started with `ipv6.disable=1`.
            Err(Errno::EAFNOSUPPORT) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(Self { sockets, buffer: vec![0; LONGEST] })
    }

    /// The file descriptors that are readable when there is something to
    /// [`read`](Self::read).
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().map(|socket| socket.fd.as_fd())
    }

    /// Takes what is queued, up to a limit; never blocks. What is lost with an
    /// error is told again when the next packet is too large.
    pub(crate) fn read(&mut self) -> io::Result<Vec<PathError>> {
        let mut errors = Vec::new();
        for socket in &self.sockets {
            for _ in 0..BATCH {
                let fd = socket.fd.as_raw_fd();
                match socket::recv(fd, &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                    Ok(length) => errors.extend((socket.parse)(&self.buffer[..length])),
                    Err(Errno::EINTR) => {}
                    Err(Errno::EAGAIN) => break,
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        Ok(errors)
    }
}

/// A raw socket that hears ICMPv4 messages of one type. The types have a bit each,
/// so it is below 32.
pub(super) fn open_v4(wanted: u8) -> nix::Result<OwnedFd> {
    let fd = open(AddressFamily::Inet, SockProtocol::Icmp)?;
    socket::setsockopt(&fd, IcmpFilter, &!(1 << wanted))?;
    Ok(fd)
}

/// A raw socket that hears ICMPv6 messages of some types.
pub(super) fn open_v6(wanted: &[u8]) -> nix::Result<OwnedFd> {
    let fd = open(AddressFamily::Inet6, SockProtocol::IcmpV6)?;
    let mut unwanted = [u32::MAX; 8];
    for kind in wanted {
        unwanted[usize::from(kind / 32)] &= !(1 << (kind % 32));
    }
    socket::setsockopt(&fd, Icmpv6Filter, &unwanted)?;
    Ok(fd)
}

fn open(family: AddressFamily, protocol: SockProtocol) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    socket::socket(family, SockType::Raw, flags, protocol)
}

/// Reads an IPv4 packet, as a raw socket gives it: with its IP header, and the
/// ICMP checksum not verified.
fn parse_v4(packet: &[u8]) -> Option<PathError> {
    let (header, _) = ipv4(packet)?;
    let (_, message) = ipv4(packet.get(..total_length(header).into())?)?;
    let [DESTINATION_UNREACHABLE, FRAGMENTATION_NEEDED, _, _, _, _, high, low, quote @ ..] =
        message
    else {
        return None;
    };
    if header[9] != ICMP || sum(message) != u16::MAX {
        return None;
    }
    let (quoted, payload) = ipv4(quote)?;
    // Tunnel packets are no fragments, and only the first one has ports.
    let offset = u16::from_be_bytes([quoted[6], quoted[7]]) & 0x1fff;
    if offset != 0 {
        return None;
    }
    let mtu = match u16::from_be_bytes([*high, *low]) {
        0 => plateau(total_length(quoted)),
        mtu => mtu,
    };
    Some(PathError {
        source: Ipv4Addr::new(quoted[12], quoted[13], quoted[14], quoted[15]).into(),
        destination: Ipv4Addr::new(quoted[16], quoted[17], quoted[18], quoted[19]).into(),
        protocol: quoted[9],
        ports: ports(quoted[9], payload),
        mtu: mtu.into(),
    })
}

/// Reads an ICMPv6 message, as a raw socket gives it: without IP header, and
/// only if its checksum is right.
fn parse_v6(message: &[u8]) -> Option<PathError> {
    // The code is of no meaning (RFC 4443, 3.2).
    let [PACKET_TOO_BIG, _, _, _, a, b, c, d, quote @ ..] = message else {
        return None;
    };
    let (quoted, payload) = quote.split_first_chunk::<40>()?;
    if quoted[0] >> 4 != 6 {
        return None;
    }
    let address = |at: usize| Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|i| quoted[at + i]));
    Some(PathError {
        source: address(8).into(),
        destination: address(24).into(),
        // Tunnel packets have no extension headers.
        protocol: quoted[6],
        ports: ports(quoted[6], payload),
        mtu: u32::from_be_bytes([*a, *b, *c, *d]),
    })
}

/// The IPv4 header without its options, and what comes after these; a quote may
/// end before.
pub(super) fn ipv4(packet: &[u8]) -> Option<(&[u8; 20], &[u8])> {
    let (header, rest) = packet.split_first_chunk::<20>()?;
    if header[0] >> 4 != 4 {
        return None;
    }
    let options = usize::from(header[0] & 0xf).checked_sub(5)? * 4;
    Some((header, rest.get(options..).unwrap_or_default()))
}

pub(super) fn total_length(header: &[u8; 20]) -> u16 {
    u16::from_be_bytes([header[2], header[3]])
}

pub(super) fn ports(protocol: u8, payload: &[u8]) -> Option<(u16, u16)> {
    match payload {
        [a, b, c, d, ..] if protocol == UDP => {
            Some((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])))
        }
        _ => None,
    }
}

/// The ones' complement sum of RFC 1071; all ones if a checksum inside is right.
pub(super) fn sum(message: &[u8]) -> u16 {
    let (words, last) = message.as_chunks::<2>();
    let last = last.first().map_or(0, |octet| u64::from(*octet) << 8);
    let mut sum = last + words.iter().map(|w| u64::from(u16::from_be_bytes(*w))).sum::<u64>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The next smaller MTU that is common (RFC 1191, 7.1), for routers that are
/// older than the field and leave it 0.
fn plateau(length: u16) -> u16 {
    const PLATEAUS: [u16; 10] = [32_000, 17_914, 8_166, 4_352, 2_002, 1_492, 1_006, 508, 296, 68];
    PLATEAUS.into_iter().find(|plateau| *plateau < length).unwrap_or(68)
}

#[cfg(test)]
mod tests {
    use etherparse::IcmpEchoHeader;
    use etherparse::Icmpv4Type;
    use etherparse::Icmpv6Type;
    use etherparse::IpFragOffset;
    use etherparse::IpNumber;
    use etherparse::Ipv4Header;
    use etherparse::Ipv6Header;
    use etherparse::PacketBuilder;
    use etherparse::UdpHeader;
    use etherparse::icmpv4::DestUnreachableHeader;

    use super::*;

    const ROUTER_V4: [u8; 4] = [10, 0, 0, 254];
    const LB_V4: [u8; 4] = [10, 0, 0, 1];
    const SERVER_V4: [u8; 4] = [10, 9, 0, 2];
    const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xfe);
    const LB_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 2);

    /// Where UDP tunnel packets come from and go to.
    const PORTS: (u16, u16) = (50_000, 6_080);
    const PROTOCOLS: [u8; 4] = [4, 41, 47, UDP];

    /// The start of a tunnel packet's payload: UDP's header, for all protocols.
    fn payload(length: u16) -> Vec<u8> {
        let udp =
            UdpHeader { source_port: PORTS.0, destination_port: PORTS.1, length, checksum: 0 };
        [udp.to_bytes().as_slice(), &[0x45; 24]].concat()
    }

    /// The header of a tunnel packet of 1,500 octets.
    fn header_v4(protocol: u8, options: &[u8]) -> Ipv4Header {
        let mut header = Ipv4Header::new(0, 64, IpNumber(protocol), LB_V4, SERVER_V4).unwrap();
        header.dont_fragment = true;
        header.options = options.try_into().unwrap();
        header.total_len = 1500;
        header.header_checksum = header.calc_header_checksum();
        header
    }

    fn quote_v4(protocol: u8, options: &[u8]) -> Vec<u8> {
        [header_v4(protocol, options).to_bytes().as_slice(), &payload(1480)].concat()
    }

    fn quote_v6(protocol: u8) -> Vec<u8> {
        let header = Ipv6Header {
            payload_length: 1460,
            next_header: IpNumber(protocol),
            hop_limit: 64,
            source: LB_V6.octets(),
            destination: SERVER_V6.octets(),
            ..Default::default()
        };
        [header.to_bytes().as_slice(), &payload(1460)].concat()
    }

    /// What a raw socket gives for a message with the quote.
    fn packet_v4(icmp: Icmpv4Type, quote: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4(ROUTER_V4, LB_V4, 63).icmpv4(icmp);
        builder.write(&mut packet, quote).unwrap();
        packet
    }

    fn too_large_v4(next_hop_mtu: u16, quote: &[u8]) -> Vec<u8> {
        let header = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu };
        packet_v4(Icmpv4Type::DestinationUnreachable(header), quote)
    }

    fn message_v6(icmp: Icmpv6Type, quote: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv6(ROUTER_V6.octets(), LB_V6.octets(), 63).icmpv6(icmp);
        builder.write(&mut packet, quote).unwrap();
        packet.split_off(40)
    }

    fn too_large_v6(mtu: u32, quote: &[u8]) -> Vec<u8> {
        message_v6(Icmpv6Type::PacketTooBig { mtu }, quote)
    }

    fn expected_v4(protocol: u8, mtu: u32) -> PathError {
        let ports = (protocol == UDP).then_some(PORTS);
        let (source, destination) = (LB_V4.into(), SERVER_V4.into());
        PathError { source, destination, protocol, ports, mtu }
    }

    fn expected_v6(protocol: u8, mtu: u32) -> PathError {
        let ports = (protocol == UDP).then_some(PORTS);
        let (source, destination) = (LB_V6.into(), SERVER_V6.into());
        PathError { source, destination, protocol, ports, mtu }
    }

    #[test]
    fn messages_are_read() {
        for protocol in PROTOCOLS {
            for options in [&[][..], &[1; 4], &[1; 40]] {
                let quote = quote_v4(protocol, options);
                let read = parse_v4(&too_large_v4(1400, &quote));
                assert_eq!(read, Some(expected_v4(protocol, 1400)), "{options:?}");
            }
            for mtu in [0, 1279, 1280, 1400, u32::MAX] {
                let read = parse_v6(&too_large_v6(mtu, &quote_v6(protocol)));
                assert_eq!(read, Some(expected_v6(protocol, mtu)));
            }
        }
    }

    #[test]
    fn quotes_may_end_anywhere() {
        for protocol in PROTOCOLS {
            for options in [&[][..], &[1; 8]] {
                let quote = quote_v4(protocol, options);
                for length in 0..quote.len() {
                    let mut expected = (length >= 20).then_some(expected_v4(protocol, 1400));
                    if length < 20 + options.len() + 4 {
                        expected = expected.map(|e| PathError { ports: None, ..e });
                    }
                    let read = parse_v4(&too_large_v4(1400, &quote[..length]));
                    assert_eq!(read, expected, "{length} octets of {protocol}");
                }
            }
            let quote = quote_v6(protocol);
            for length in 0..quote.len() {
                let mut expected = (length >= 40).then_some(expected_v6(protocol, 1400));
                if length < 40 + 4 {
                    expected = expected.map(|e| PathError { ports: None, ..e });
                }
                let read = parse_v6(&too_large_v6(1400, &quote[..length]));
                assert_eq!(read, expected, "{length} octets of {protocol}");
            }
        }
    }

    #[test]
    fn the_message_may_have_ip_options_and_what_follows_it_does_not_count() {
        let plain = too_large_v4(1400, &quote_v4(4, &[]));
        let mut header = Ipv4Header::from_slice(&plain).unwrap().0;
        header.options = [1; 12].into();
        header.total_len += 12;
        let mut packet = [header.to_bytes().as_slice(), &plain[20..]].concat();
        assert_eq!(parse_v4(&packet), Some(expected_v4(4, 1400)));
        packet.extend([0xff; 9]);
        assert_eq!(parse_v4(&packet), Some(expected_v4(4, 1400)));
    }

    #[test]
    fn truncated_messages_are_none() {
        let packet = too_large_v4(1400, &quote_v4(UDP, &[]));
        for length in 0..packet.len() {
            assert_eq!(parse_v4(&packet[..length]), None, "{length} octets");
        }
        // The kernel gives whole ones; what is missing here ends the quote.
        let message = too_large_v6(1400, &quote_v6(UDP));
        for length in 0..message.len() {
            assert_eq!(parse_v6(&message[..length]).is_some(), length >= 48, "{length} octets");
        }
    }

    #[test]
    fn other_messages_are_none() {
        let quote = quote_v4(4, &[]);
        let host = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host);
        let echo = IcmpEchoHeader { id: 1, seq: 1 };
        for icmp in [host, Icmpv4Type::EchoReply(echo)] {
            assert_eq!(parse_v4(&packet_v4(icmp, &quote)), None);
        }
        assert_eq!(parse_v6(&message_v6(Icmpv6Type::EchoReply(echo), &quote_v6(4))), None);
        // The other family is quoted, or nothing of the kind.
        assert_eq!(parse_v4(&too_large_v4(1400, &quote_v6(4))), None);
        assert_eq!(parse_v6(&too_large_v6(1400, &quote_v4(4, &[1; 20]))), None);

        let mut later = header_v4(UDP, &[]);
        later.fragment_offset = IpFragOffset::try_new(8).unwrap();
        assert_eq!(parse_v4(&too_large_v4(1400, &later.to_bytes())), None);
        let mut short = quote;
        short[0] = 0x44;
        assert_eq!(parse_v4(&too_large_v4(1400, &short)), None);
        let mut udp = too_large_v4(1400, &quote_v4(4, &[]));
        udp[9] = UDP;
        assert_eq!(parse_v4(&udp), None);
    }

    #[test]
    fn damage_is_noticed_by_the_checksum() {
        let packet = too_large_v4(1400, &[quote_v4(4, &[]), vec![7]].concat());
        assert_eq!(parse_v4(&packet), Some(expected_v4(4, 1400)));
        for bit in 20 * 8..packet.len() * 8 {
            let mut damaged = packet.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse_v4(&damaged), None, "bit {bit}");
        }
    }

    #[test]
    fn garbage_is_survived() {
        let mut state = 1_u64;
        let mut octet = || {
            // The generator of Knuth's MMIX.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        let (v4, v6) = (too_large_v4(0, &quote_v4(UDP, &[1; 4])), too_large_v6(0, &quote_v6(UDP)));
        for _ in 0..20_000 {
            let mut garbage: Vec<u8> = (0..octet()).map(|_| octet()).collect();
            parse_v4(&garbage);
            parse_v6(&garbage);
            // The checksum is made right, so that the quote is looked at.
            garbage.truncate(100);
            parse_v4(&too_large_v4(u16::from(octet()), &garbage));
            parse_v6(&too_large_v6(u32::from(octet()), &garbage));
            let (mut v4, mut v6) = (v4.clone(), v6.clone());
            let (v4_length, v6_length) = (v4.len(), v6.len());
            v4[usize::from(octet()) % v4_length] = octet();
            v6[usize::from(octet()) % v6_length] = octet();
            parse_v4(&v4);
            parse_v6(&v6);
        }
    }

    #[test]
    fn without_an_mtu_the_next_plateau_is_taken() {
        for (length, expected) in [
            (65_535, 32_000),
            (9_000, 8_166),
            (1_500, 1_492),
            (1_492, 1_006),
            (1_007, 1_006),
            (576, 508),
            (69, 68),
            (68, 68),
            (0, 68),
        ] {
            let mut header = header_v4(4, &[]);
            header.total_len = length;
            let read = parse_v4(&too_large_v4(0, &header.to_bytes()));
            assert_eq!(read.map(|error| error.mtu), Some(expected), "{length}");
        }
    }
}
