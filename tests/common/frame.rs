//! Frames, built and checked with etherparse where it can.

use std::net::IpAddr;

use etherparse::IpFragOffset;
use etherparse::IpNumber;
use etherparse::Ipv4Header;
use etherparse::Ipv6FlowLabel;
use etherparse::Ipv6Header;
use etherparse::TcpHeader;
use etherparse::UdpHeader;
use etherparse::checksum::Sum16BitWords;

/// TCP flags.
pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const ALL_FLAGS: u8 = 0xff;

/// Protocol numbers (IANA).
pub const HOP_BY_HOP: u8 = 0;
pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const ICMPV6: u8 = 58;
pub const DESTINATION_OPTIONS: u8 = 60;

/// Octets of an Ethernet header.
pub const ETHERNET: usize = 14;

/// The router that frames come from, unless told otherwise.
pub const ROUTER: [u8; 6] = [0x02, 0, 0, 0, 0, 0xfe];

/// An IP packet to be, in an Ethernet frame.
#[derive(Clone)]
pub struct Ip {
    source_mac: [u8; 6],
    destination_mac: [u8; 6],
    source: IpAddr,
    destination: IpAddr,
    ttl: u8,
    class: u8,
    flow_label: u32,
    identification: u16,
    dont_fragment: bool,
    more_fragments: bool,
    /// In units of 8 octets.
    fragment_offset: u16,
    options: Vec<u8>,
    extensions: Vec<(u8, Vec<u8>)>,
}

impl Ip {
    /// From one address to another of its family, TTL 64.
    pub fn new(source: IpAddr, destination: IpAddr) -> Self {
        assert_eq!(source.is_ipv4(), destination.is_ipv4());
        Self {
            source_mac: ROUTER,
            destination_mac: [0x02, 0, 0, 0, 0, 0x10],
            source,
            destination,
            ttl: 64,
            class: 0,
            flow_label: 0,
            identification: 0,
            dont_fragment: false,
            more_fragments: false,
            fragment_offset: 0,
            options: Vec::new(),
            extensions: Vec::new(),
        }
    }

    /// Between these MAC addresses.
    pub const fn macs(mut self, source: [u8; 6], destination: [u8; 6]) -> Self {
        self.source_mac = source;
        self.destination_mac = destination;
        self
    }

    /// The TTL or hop limit.
    pub const fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// The octet that was the type of service, or the traffic class.
    pub const fn class(mut self, class: u8) -> Self {
        self.class = class;
        self
    }

    /// The IPv6 flow label.
    pub const fn flow_label(mut self, label: u32) -> Self {
        self.flow_label = label;
        self
    }

    /// The IPv4 identification.
    pub const fn identification(mut self, identification: u16) -> Self {
        self.identification = identification;
        self
    }

    /// Sets the IPv4 flag DF.
    pub const fn dont_fragment(mut self) -> Self {
        self.dont_fragment = true;
        self
    }

    /// IPv4 options, a multiple of 4 octets.
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// Appends an IPv6 extension header of a type; its first octet is set
    /// when the frame is built.
    pub fn extension(mut self, kind: u8, octets: &[u8]) -> Self {
        self.extensions.push((kind, octets.to_vec()));
        self
    }

    /// Appends an IPv6 extension header of `8 + 8 * units` octets, of padding.
    pub fn padded_extension(self, kind: u8, units: u8) -> Self {
        let rest = 4 + 8 * usize::from(units);
        let mut octets = vec![0, units];
        let mut left = rest + 2;
        while left > 0 {
            // PadN holds up to 255 octets of zeros (RFC 8200, section 4.2).
            let length = left.min(257);
            let length = if left - length == 1 { length - 1 } else { length };
            octets.extend([1, (length - 2) as u8]);
            octets.extend(std::iter::repeat_n(0, length - 2));
            left -= length;
        }
        self.extension(kind, &octets)
    }

    /// Makes it a fragment, the offset in octets. For IPv6 this appends the
    /// fragment header.
    pub fn fragment(mut self, identification: u32, offset: u16, more: bool) -> Self {
        assert_eq!(offset % 8, 0);
        if self.source.is_ipv6() {
            let mut octets = vec![0, 0];
            octets.extend((offset | u16::from(more)).to_be_bytes());
            octets.extend(identification.to_be_bytes());
            return self.extension(FRAGMENT, &octets);
        }
        self.identification = identification as u16;
        self.fragment_offset = offset / 8;
        self.more_fragments = more;
        self
    }

    /// The frame with any payload of a protocol.
    pub fn raw(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = [self.destination_mac, self.source_mac].concat();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend([0x08, 0x00]);
                let mut header = Ipv4Header::new(
                    payload.len() as u16,
                    self.ttl,
                    IpNumber(protocol),
                    source.octets(),
                    destination.octets(),
                )
                .expect("the payload fits");
                header.options =
                    self.options[..].try_into().expect("options of a multiple of 4 octets");
                header.set_payload_len(payload.len()).expect("the payload fits");
                header.dscp = (self.class >> 2).try_into().expect("6 bits");
                header.ecn = (self.class & 3).try_into().expect("2 bits");
                header.identification = self.identification;
                header.dont_fragment = self.dont_fragment;
                header.more_fragments = self.more_fragments;
                header.fragment_offset =
                    IpFragOffset::try_new(self.fragment_offset).expect("13 bits");
                header.header_checksum = header.calc_header_checksum();
                frame.extend(header.to_bytes());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend([0x86, 0xdd]);
                let mut next = protocol;
                let mut extensions = Vec::new();
                for (kind, octets) in self.extensions.iter().rev() {
                    let mut octets = octets.clone();
                    octets[0] = next;
                    next = *kind;
                    extensions.splice(0..0, octets);
                }
                let header = Ipv6Header {
                    traffic_class: self.class,
                    flow_label: Ipv6FlowLabel::try_new(self.flow_label).expect("20 bits"),
                    payload_length: (extensions.len() + payload.len()) as u16,
                    next_header: IpNumber(next),
                    hop_limit: self.ttl,
                    source: source.octets(),
                    destination: destination.octets(),
                };
                frame.extend(header.to_bytes());
                frame.extend(extensions);
            }
            _ => unreachable!("the families are the same"),
        }
        frame.extend(payload);
        frame
    }

    /// The frame with a TCP segment.
    pub fn tcp(&self, ports: (u16, u16), flags: u8, payload: &[u8]) -> Vec<u8> {
        self.tcp_with_options(ports, flags, &[], payload)
    }

    /// The frame with a TCP segment that has options, a multiple of 4 octets.
    pub fn tcp_with_options(
        &self,
        (source, destination): (u16, u16),
        flags: u8,
        options: &[u8],
        payload: &[u8],
    ) -> Vec<u8> {
        let mut header = TcpHeader::new(source, destination, 0x0102_0304, 4096);
        header.set_options_raw(options).expect("the options fit");
        header.fin = flags & FIN != 0;
        header.syn = flags & SYN != 0;
        header.rst = flags & RST != 0;
        header.psh = flags & PSH != 0;
        header.ack = flags & ACK != 0;
        header.urg = flags & 0x20 != 0;
        header.ece = flags & 0x40 != 0;
        header.cwr = flags & 0x80 != 0;
        header.checksum = self.tcp_checksum(&header, payload);
        let mut segment = header.to_bytes().to_vec();
        segment.extend(payload);
        self.raw(TCP, &segment)
    }

    fn tcp_checksum(&self, header: &TcpHeader, payload: &[u8]) -> u16 {
        match (self.source, self.destination) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                header.calc_checksum_ipv4_raw(s.octets(), d.octets(), payload)
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                header.calc_checksum_ipv6_raw(s.octets(), d.octets(), payload)
            }
            _ => unreachable!("the families are the same"),
        }
        .expect("the payload fits")
    }

    /// The octets of a UDP datagram, without an IP header.
    pub fn udp_datagram(&self, (source, destination): (u16, u16), payload: &[u8]) -> Vec<u8> {
        let mut header = UdpHeader {
            source_port: source,
            destination_port: destination,
            length: (8 + payload.len()) as u16,
            checksum: 0,
        };
        header.checksum = match (self.source, self.destination) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                header.calc_checksum_ipv4_raw(s.octets(), d.octets(), payload)
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                header.calc_checksum_ipv6_raw(s.octets(), d.octets(), payload)
            }
            _ => unreachable!("the families are the same"),
        }
        .expect("the payload fits");
        let mut datagram = header.to_bytes().to_vec();
        datagram.extend(payload);
        datagram
    }

    /// The frame with a UDP datagram.
    pub fn udp(&self, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
        self.raw(UDP, &self.udp_datagram(ports, payload))
    }

    /// The frame with an ICMP message of the family.
    pub fn icmp(&self, kind: u8, code: u8, rest: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut message = vec![kind, code, 0, 0];
        message.extend(rest);
        message.extend(payload);
        let sum = self.icmp_sum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        self.raw(if self.source.is_ipv4() { ICMP } else { ICMPV6 }, &message)
    }

    fn icmp_sum(&self, message: &[u8]) -> u16 {
        let mut sum = Sum16BitWords::new();
        if let (IpAddr::V6(source), IpAddr::V6(destination)) = (self.source, self.destination) {
            // The pseudo-header of RFC 8200, section 8.1.
            sum = sum
                .add_16bytes(source.octets())
                .add_16bytes(destination.octets())
                .add_4bytes((message.len() as u32).to_be_bytes())
                .add_2bytes([0, ICMPV6]);
        }
        sum.add_slice(message).ones_complement().to_be()
    }
}

/// Fills a frame up with zeros, as the sender of a short one does.
pub fn padded(mut frame: Vec<u8>, length: usize) -> Vec<u8> {
    assert!(frame.len() <= length);
    frame.resize(length, 0);
    frame
}

/// Appends octets behind the IP packet.
pub fn trailed(mut frame: Vec<u8>, trailer: &[u8]) -> Vec<u8> {
    frame.extend(trailer);
    frame
}

/// Cuts a frame short; the lengths in its headers stay.
pub fn cut(mut frame: Vec<u8>, length: usize) -> Vec<u8> {
    assert!(length < frame.len());
    frame.truncate(length);
    frame
}

/// Overwrites octets of a frame; the IPv4 header's checksum stays right.
pub fn patched(mut frame: Vec<u8>, offset: usize, octets: &[u8]) -> Vec<u8> {
    frame[offset..offset + octets.len()].copy_from_slice(octets);
    mend_ipv4(&mut frame);
    frame
}

/// Overwrites octets of a frame and nothing else.
pub fn broken(mut frame: Vec<u8>, offset: usize, octets: &[u8]) -> Vec<u8> {
    frame[offset..offset + octets.len()].copy_from_slice(octets);
    frame
}

/// Writes the checksum that the IPv4 header of a frame must have, summed over
/// all of it.
pub fn mend_ipv4(frame: &mut [u8]) {
    if frame[12..14] != [0x08, 0x00] {
        return;
    }
    let length = usize::from(frame[14] & 0x0f) * 4;
    if length < 20 || ETHERNET + length > frame.len() {
        return;
    }
    frame[24..26].fill(0);
    let sum = Sum16BitWords::new().add_slice(&frame[ETHERNET..ETHERNET + length]);
    frame[24..26].copy_from_slice(&sum.ones_complement().to_be().to_be_bytes());
}

/// The frame that forwarding must make of one that is whole: other MAC
/// addresses, the TTL or hop limit one less, the header's checksum anew.
pub fn forwarded(frame: &[u8], source: [u8; 6], destination: [u8; 6]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[..6].copy_from_slice(&destination);
    frame[6..12].copy_from_slice(&source);
    if frame[12..14] == [0x08, 0x00] {
        frame[22] -= 1;
        mend_ipv4(&mut frame);
    } else {
        frame[21] -= 1;
    }
    frame
}

/// The frame with an 802.1Q tag of this control word: priority, DEI and id.
pub fn tagged(mut frame: Vec<u8>, control: u16) -> Vec<u8> {
    let [high, low] = control.to_be_bytes();
    frame.splice(12..12, [0x81, 0, high, low]);
    frame
}

/// The control word of a frame's tag, and the frame without it, if it has one
/// before a type.
pub fn untagged(frame: &[u8]) -> Option<(u16, Vec<u8>)> {
    if frame.len() < ETHERNET + 4 || frame[12..14] != [0x81, 0] {
        return None;
    }
    let control = u16::from_be_bytes([frame[14], frame[15]]);
    Some((control, [&frame[..12], &frame[16..]].concat()))
}

/// The octets of a frame's IP packet by its header.
pub fn ip_length(frame: &[u8]) -> u64 {
    let at = |i: usize| u64::from(u16::from_be_bytes([frame[i], frame[i + 1]]));
    if frame[12..14] == [0x08, 0x00] { at(16) } else { at(18) + 40 }
}

/// The destination's MAC address in a frame.
pub fn destination_mac(frame: &[u8]) -> [u8; 6] {
    frame[..6].try_into().expect("six octets")
}

/// Whether a frame is the right one. A checksum of 0xffff may stand for one of
/// 0x0000: in ones' complement both are zero, and a receiver's sum is the same
/// (RFC 1071). The reverse does not hold when all that is summed is zero.
pub fn is_same(frame: &[u8], right: &[u8]) -> bool {
    let differing: Vec<usize> =
        (0..right.len().min(frame.len())).filter(|i| frame[*i] != right[*i]).collect();
    frame.len() == right.len()
        && match differing[..] {
            [] => true,
            [at, next] => {
                at + 1 == next && frame[at..=next] == [0xff; 2] && right[at..=next] == [0; 2]
            }
            _ => false,
        }
}

/// Checks every length and checksum of an unfragmented frame.
pub fn verify(frame: &[u8]) -> Result<(), String> {
    let sliced = etherparse::SlicedPacket::from_ethernet(frame).map_err(|e| e.to_string())?;
    let same = |what: &str, found: u16, right: u16| match (found, right) {
        _ if found == right => Ok(()),
        (0xffff, 0) => Ok(()),
        _ => Err(format!("{what} checksum {found:#06x}, {right:#06x} is right")),
    };
    let (source, destination, payload): (IpAddr, IpAddr, _) = match sliced.net {
        Some(etherparse::NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            same("IPv4", header.header_checksum, header.calc_header_checksum())?;
            (header.source.into(), header.destination.into(), ip.payload().clone())
        }
        Some(etherparse::NetSlice::Ipv6(ip)) => {
            let header = ip.header().to_header();
            (header.source.into(), header.destination.into(), ip.payload().clone())
        }
        other => return Err(format!("no IP packet: {other:?}")),
    };
    let ip = Ip::new(source, destination);
    let octets = payload.payload;
    match payload.ip_number {
        IpNumber::TCP => {
            let (header, payload) = TcpHeader::from_slice(octets).map_err(|e| e.to_string())?;
            same("TCP", header.checksum, ip.tcp_checksum(&header, payload))
        }
        IpNumber::UDP => {
            let (header, payload) = UdpHeader::from_slice(octets).map_err(|e| e.to_string())?;
            let right = ip.udp_datagram((header.source_port, header.destination_port), payload);
            same("UDP", header.checksum, u16::from_be_bytes([right[6], right[7]]))
        }
        IpNumber::ICMP | IpNumber::IPV6_ICMP => {
            let mut message = octets.to_vec();
            message[2..4].fill(0);
            same("ICMP", u16::from_be_bytes([octets[2], octets[3]]), ip.icmp_sum(&message))
        }
        number => Err(format!("protocol {number:?}")),
    }
}

/// A frame as lines of hexadecimal octets.
pub fn hex(frame: &[u8]) -> String {
    let line = |octets: &[u8]| octets.iter().map(|o| format!("{o:02x}")).collect::<Vec<_>>();
    frame.chunks(16).map(|c| format!("    {}\n", line(c).join(" "))).collect()
}
