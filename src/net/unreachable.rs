//! Hears hosts and routers say that packets which this host sent could not be
//! delivered.

use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::socket;
use nix::sys::socket::SockaddrIn6;

use super::icmp::DESTINATION_UNREACHABLE;
use super::icmp::FRAGMENTATION_NEEDED;
use super::icmp::ICMP;
use super::icmp::LONGEST;
use super::icmp::ipv4;
use super::icmp::open_v4;
use super::icmp::open_v6;
use super::icmp::ports;
use super::icmp::sum;
use super::icmp::total_length;

/// So many messages are looked at.
const BATCH: usize = 4_096;

/// Types of RFC 4443.
const DESTINATION_UNREACHABLE_V6: u8 = 1;
const PARAMETER_PROBLEM_V6: u8 = 4;

/// A host's or router's answer that a packet could not be delivered.
///
/// Anybody can send one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreachable {
    /// Whose answer it is.
    pub(crate) from: IpAddr,
    /// Where the packet was to go.
    pub(crate) destination: IpAddr,
    /// Its IP protocol number.
    pub(crate) protocol: u8,
    /// The source and destination port of a UDP packet, if the answer has them.
    pub(crate) ports: Option<(u16, u16)>,
    /// What it says, such as `port unreachable`.
    pub(crate) what: &'static str,
}

/// Hears the ICMP errors of one IP family.
pub(crate) struct UnreachableListener {
    fd: OwnedFd,
    v4: bool,
}

impl UnreachableListener {
    /// Starts to listen for errors about packets to addresses of the family of this
    /// one, in the network namespace of the thread. It needs CAP_NET_RAW.
    pub(crate) fn new(family_of: IpAddr) -> io::Result<Self> {
        let v4 = family_of.is_ipv4();
        let fd = match v4 {
            true => open_v4(DESTINATION_UNREACHABLE)?,
            false => open_v6(&[DESTINATION_UNREACHABLE_V6, PARAMETER_PROBLEM_V6])?,
        };
        Ok(Self { fd, v4 })
    }

    /// Takes what has come, up to a limit; never blocks.
    pub(crate) fn read(&self) -> Vec<Unreachable> {
        let mut found = Vec::new();
        let mut buffer = vec![0; LONGEST];
        for _ in 0..BATCH {
            let fd = self.fd.as_raw_fd();
            let (length, from) = if self.v4 {
                (socket::recv(fd, &mut buffer, socket::MsgFlags::MSG_DONTWAIT), None)
            } else {
                match socket::recvfrom::<SockaddrIn6>(fd, &mut buffer) {
                    Ok((length, from)) => (Ok(length), from.map(|from| from.ip())),
                    Err(errno) => (Err(errno), None),
                }
            };
            match (length, from) {
                (Ok(length), None) => found.extend(parse_v4(&buffer[..length])),
                (Ok(length), Some(from)) => found.extend(parse_v6(from, &buffer[..length])),
                (Err(Errno::EINTR), _) => {}
                (Err(_), _) => break,
            }
        }
        found
    }
}

/// Reads an IPv4 packet, as a raw socket gives it.
fn parse_v4(packet: &[u8]) -> Option<Unreachable> {
    let (header, _) = ipv4(packet)?;
    let (_, message) = ipv4(packet.get(..total_length(header).into())?)?;
    let [DESTINATION_UNREACHABLE, code, _, _, _, _, _, _, quote @ ..] = message else {
        return None;
    };
    if header[9] != ICMP || *code == FRAGMENTATION_NEEDED || sum(message) != u16::MAX {
        return None;
    }
    let (quoted, payload) = ipv4(quote)?;
    Some(Unreachable {
        from: Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
        destination: Ipv4Addr::new(quoted[16], quoted[17], quoted[18], quoted[19]).into(),
        protocol: quoted[9],
        ports: ports(quoted[9], payload),
        // RFC 1812, 5.2.7.1
        what: match code {
            0 | 6 | 11 => "network unreachable",
            1 | 7 | 12 => "host unreachable",
            2 => "protocol unreachable",
            3 => "port unreachable",
            9 | 10 | 13 => "administratively prohibited",
            _ => "destination unreachable",
        },
    })
}

/// Reads an ICMPv6 message, as a raw socket gives it: without IP header.
fn parse_v6(from: Ipv6Addr, message: &[u8]) -> Option<Unreachable> {
    let [kind, code, _, _, _, _, _, _, quote @ ..] = message else {
        return None;
    };
    // RFC 4443, 3.1 and 3.4
    let what = match (*kind, *code) {
        (DESTINATION_UNREACHABLE_V6, 0) => "no route",
        (DESTINATION_UNREACHABLE_V6, 1) => "administratively prohibited",
        (DESTINATION_UNREACHABLE_V6, 3) => "address unreachable",
        (DESTINATION_UNREACHABLE_V6, 4) => "port unreachable",
        (DESTINATION_UNREACHABLE_V6, _) => "destination unreachable",
        (PARAMETER_PROBLEM_V6, 1) => "unrecognized next header",
        _ => return None,
    };
    let (quoted, payload) = quote.split_first_chunk::<40>()?;
    Some(Unreachable {
        from: from.into(),
        destination: Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|i| quoted[24 + i])).into(),
        protocol: quoted[6],
        ports: ports(quoted[6], payload),
        what,
    })
}

#[cfg(test)]
mod tests {
    use etherparse::Icmpv4Type;
    use etherparse::Icmpv6Type;
    use etherparse::IpNumber;
    use etherparse::Ipv4Header;
    use etherparse::Ipv6Header;
    use etherparse::PacketBuilder;
    use etherparse::icmpv4::DestUnreachableHeader;
    use etherparse::icmpv6;

    use super::*;

    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
    const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 2);
    /// The ports 50,000 and 6,080.
    const PAYLOAD: [u8; 8] = [0xc3, 0x50, 0x17, 0xc0, 0, 8, 0, 0];

    fn packet_v4(header: DestUnreachableHeader, protocol: u8) -> Vec<u8> {
        let quoted =
            Ipv4Header::new(8, 64, IpNumber(protocol), [10, 1, 2, 1], SERVER.octets()).unwrap();
        let quote = [quoted.to_bytes().as_slice(), &PAYLOAD].concat();
        let mut packet = Vec::new();
        PacketBuilder::ipv4(SERVER.octets(), [10, 1, 2, 1], 63)
            .icmpv4(Icmpv4Type::DestinationUnreachable(header))
            .write(&mut packet, &quote)
            .unwrap();
        packet
    }

    fn message_v6(icmp: Icmpv6Type) -> Vec<u8> {
        let quoted = Ipv6Header {
            payload_length: 8,
            next_header: IpNumber(17),
            destination: SERVER_V6.octets(),
            ..Default::default()
        };
        let quote = [quoted.to_bytes().as_slice(), &PAYLOAD].concat();
        let mut packet = Vec::new();
        PacketBuilder::ipv6(SERVER_V6.octets(), [1; 16], 63)
            .icmpv6(icmp)
            .write(&mut packet, &quote)
            .unwrap();
        packet.split_off(40)
    }

    #[test]
    fn errors_are_read() {
        for (header, protocol, what) in [
            (DestUnreachableHeader::Port, 17, "port unreachable"),
            (DestUnreachableHeader::Protocol, 4, "protocol unreachable"),
            (DestUnreachableHeader::Host, 47, "host unreachable"),
        ] {
            let ports = (protocol == 17).then_some((50_000, 6_080));
            let server = SERVER.into();
            let expected = Unreachable { from: server, destination: server, protocol, ports, what };
            assert_eq!(parse_v4(&packet_v4(header, protocol)), Some(expected));
        }
        let unrecognized = icmpv6::ParameterProblemHeader {
            code: icmpv6::ParameterProblemCode::UnrecognizedNextHeader,
            pointer: 6,
        };
        for (icmp, what) in [
            (
                Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port),
                "port unreachable",
            ),
            (Icmpv6Type::ParameterProblem(unrecognized), "unrecognized next header"),
        ] {
            let (server, ports) = (SERVER_V6.into(), Some((50_000, 6_080)));
            let expected =
                Unreachable { from: server, destination: server, protocol: 17, ports, what };
            assert_eq!(parse_v6(SERVER_V6, &message_v6(icmp)), Some(expected));
        }
    }

    #[test]
    fn others_are_none() {
        let too_large = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 };
        assert_eq!(parse_v4(&packet_v4(too_large, 4)), None);
        assert_eq!(parse_v6(SERVER_V6, &message_v6(Icmpv6Type::PacketTooBig { mtu: 1400 })), None);
        let packet = packet_v4(DestUnreachableHeader::Port, 17);
        for length in 0..packet.len() {
            assert_eq!(parse_v4(&packet[..length]), None, "{length} octets");
        }
        let port = Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port);
        let message = message_v6(port);
        for length in 0..48 {
            assert_eq!(parse_v6(SERVER_V6, &message[..length]), None, "{length} octets");
        }
    }
}
