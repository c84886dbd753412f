//! What a line says of a frame: whose packet is in it.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

/// The packet in a frame, as far as its octets tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// By IANA's list, after IPv6 extension headers.
    pub protocol: u8,
    /// Of TCP and UDP, unless it is a later fragment.
    pub ports: Option<(u16, u16)>,
}

impl Packet {
    /// None when there is no IP packet, or less than its header.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let mut at = 12;
        while matches!(word(frame, at)?, 0x8100 | 0x88a8) {
            at += 4;
        }
        let rest = frame.get(at + 2..)?;
        match word(frame, at)? {
            0x0800 => Self::parse_v4(rest),
            0x86dd => Self::parse_v6(rest),
            _ => None,
        }
    }

    fn parse_v4(packet: &[u8]) -> Option<Self> {
        let address = |at: usize| Some(Ipv4Addr::from(*packet.get(at..)?.first_chunk::<4>()?));
        let protocol = *packet.get(9)?;
        let is_later = word(packet, 6)? & 0x1fff != 0;
        let header = usize::from(packet[0] & 0xf) * 4;
        let transport = packet.get(header..).filter(|_| !is_later);
        Some(Self {
            source: address(12)?.into(),
            destination: address(16)?.into(),
            protocol,
            ports: ports(protocol, transport.unwrap_or_default()),
        })
    }

    fn parse_v6(packet: &[u8]) -> Option<Self> {
        let address = |at: usize| Some(Ipv6Addr::from(*packet.get(at..)?.first_chunk::<16>()?));
        let (source, destination) = (address(8)?.into(), address(24)?.into());
        let mut protocol = packet[6];
        let mut rest = &packet[40..];
        // Hop-by-hop and destination options, routing, fragment (RFC 8200, section 4).
        while matches!(protocol, 0 | 43 | 44 | 60) {
            let &[next, units, ..] = rest else { break };
            let is_fragment = protocol == 44;
            let is_later = is_fragment && word(rest, 2).is_some_and(|offset| offset & 0xfff8 != 0);
            let length = if is_fragment { 8 } else { 8 + 8 * usize::from(units) };
            protocol = next;
            rest = rest.get(length..).filter(|_| !is_later).unwrap_or_default();
        }
        Some(Self { source, destination, protocol, ports: ports(protocol, rest) })
    }

    /// The protocol's name, or its number.
    pub fn protocol_name(&self) -> String {
        match self.protocol {
            1 => "icmp".to_owned(),
            4 => "ipip".to_owned(),
            6 => "tcp".to_owned(),
            17 => "udp".to_owned(),
            41 => "ipv6".to_owned(),
            47 => "gre".to_owned(),
            58 => "icmpv6".to_owned(),
            number => format!("protocol {number}"),
        }
    }
}

fn ports(protocol: u8, transport: &[u8]) -> Option<(u16, u16)> {
    match protocol {
        6 | 17 => Some((word(transport, 0)?, word(transport, 2)?)),
        _ => None,
    }
}

fn word(octets: &[u8], at: usize) -> Option<u16> {
    octets.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: [u8; 38] = [
        2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 24, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0,
        0, 1, 10, 0, 0, 2, 0x9c, 0x40, 0, 53,
    ];

    #[test]
    fn an_ipv4_packet_is_read_behind_tags() {
        let right = Packet {
            source: [10, 0, 0, 1].into(),
            destination: [10, 0, 0, 2].into(),
            protocol: 17,
            ports: Some((40_000, 53)),
        };
        assert_eq!(Packet::parse(&V4), Some(right));
        let mut tagged = V4.to_vec();
        tagged.splice(12..12, [0x81, 0, 0, 9]);
        assert_eq!(Packet::parse(&tagged), Some(right));
    }

    #[test]
    fn a_later_fragment_has_no_ports() {
        let mut frame = V4;
        frame[21] = 1;
        assert_eq!(Packet::parse(&frame).unwrap().ports, None);
    }

    #[test]
    fn ipv6_extension_headers_are_passed_over() {
        let mut frame = V4[..12].to_vec();
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 0, 64]);
        frame.extend(Ipv6Addr::LOCALHOST.octets());
        frame.extend(Ipv6Addr::UNSPECIFIED.octets());
        frame.extend([44, 0, 1, 4, 0, 0, 0, 0, 6, 0, 0, 1, 0, 0, 0, 9, 0x9c, 0x40, 0, 80]);
        let packet = Packet::parse(&frame).unwrap();
        assert_eq!(packet.source, IpAddr::from(Ipv6Addr::LOCALHOST));
        assert_eq!((packet.protocol, packet.ports), (6, Some((40_000, 80))));
    }

    #[test]
    fn what_is_cut_short_tells_what_it_has() {
        for length in 0..V4.len() {
            let packet = Packet::parse(&V4[..length]);
            assert_eq!(packet.is_some(), length >= 34, "{length}");
            assert_eq!(packet.and_then(|packet| packet.ports), None, "{length}");
        }
    }
}
