//! The ways that a packet can take, each with packets that take it.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use xvs::Destination;
use xvs::Tunnel;

use super::frame::ACK;
use super::frame::ETHERNET;
use super::frame::Ip;
use super::frame::SYN;
use super::frame::UDP;
use super::frame::padded;
use super::frame::tagged;
use super::harness::FRAME;
use super::harness::Packets;
use super::report::grouped;

/// The MAC address that frames are sent to.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xb0];
/// The virtual addresses.
pub const VIPS: [&str; 2] = ["192.168.100.1", "fd00:100::1"];
/// Ports of the services.
pub const TCP: u16 = 80;
pub const UDP_PORT: u16 = 53;
pub const STICKY: u16 = 81;
/// Of UDP, where hardly a flow is stored.
pub const LIMITED: u16 = 54;
/// Of TCP too, with destinations in the VLAN [`OUT`].
pub const TAGGED: u16 = 82;
/// The id of that VLAN.
pub const OUT: u16 = 9;
/// The first one of TCP with destinations behind tunnels.
const TUNNELLED: u16 = 100;
/// The last part of the servers' addresses.
pub const SERVERS: RangeInclusive<u8> = 2..=9;
/// Octets of a long frame, which fits the MTU behind the headers of any tunnel.
const LONG: usize = 1400;
/// The control word of a tag: a priority, but no VLAN, as the host is in none.
const IN: u16 = 0xa000;
/// Flows of each family that the tables have room for.
pub const FLOWS: u32 = 2_000_000;
/// The number of flows that ratios are to.
pub const USUAL: u32 = 1024;
/// The number of flows with which the reference waits for memory as much as a packet
/// does that has no flow: both are slower when others use the machine's caches.
const WAITING: u32 = 1 << 16;

/// Packets of a round, unless there are more flows.
const PACKETS: u32 = 1 << 18;
/// Clients that have a flow before a flood, so few that there stays room.
const FEW: u32 = 1 << 14;
/// 2^24 clients.
const CLIENTS: u32 = (1 << 24) - 1;

/// What the paths are paths of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The program that does the least, which sends everything back.
    Reference,
    /// The data plane, and the reason that it counts such packets under.
    Xvs(&'static str),
}

/// One path.
pub struct Case {
    pub name: String,
    pub subject: Subject,
    pub packets: Packets,
    /// How many flows the packets are of, where that is what matters.
    pub flows: Option<u32>,
    /// How many flows the reference has that waits for memory as much.
    pub beside: u32,
    /// Sent before each round, so that there is what the packets refer to.
    pub before: Option<Packets>,
    /// Packets of a round.
    pub count: u32,
    /// Clients that store a flow before the first round.
    pub first: u32,
    /// The control word of the tag that a packet leaves with.
    pub tag: Option<u16>,
    /// The way through a tunnel that it leaves by.
    pub way: Option<Way>,
}

impl Case {
    fn new(name: impl Into<String>, subject: Subject, packets: Packets) -> Self {
        Self {
            name: name.into(),
            subject,
            packets,
            flows: None,
            beside: USUAL,
            before: None,
            count: PACKETS,
            first: PACKETS,
            tag: None,
            way: None,
        }
    }

    fn flows(mut self, flows: u32) -> Self {
        self.packets.mask = flows - 1;
        self.flows = Some(flows);
        self.beside(flows).packets(PACKETS.max(flows))
    }

    fn beside(mut self, flows: u32) -> Self {
        self.beside = flows;
        self
    }

    fn before(mut self, packets: Packets) -> Self {
        self.before = Some(packets);
        self
    }

    fn packets(mut self, count: u32) -> Self {
        self.count = count;
        self.first = count;
        self
    }

    fn first(mut self, count: u32) -> Self {
        self.first = count;
        self
    }

    fn tag(mut self, control: u16) -> Self {
        self.tag = Some(control);
        self
    }

    fn way(mut self, way: Way) -> Self {
        self.way = Some(way);
        self
    }
}

/// A way through a tunnel.
#[derive(Clone)]
pub struct Way {
    name: String,
    /// Of the service with these destinations.
    pub port: u16,
    tunnel: Tunnel,
    servers: Vec<IpAddr>,
}

impl Way {
    /// The destinations of its service.
    pub fn destinations(&self) -> Vec<Destination> {
        let servers = self.servers.iter();
        servers.map(|server| Destination::new(*server).tunnel(self.tunnel)).collect()
    }

    /// Octets that it puts in front of a packet.
    pub fn overhead(&self) -> usize {
        self.tunnel.overhead(self.servers[0]) as usize
    }

    /// Whether it has a checksum over all that it carries.
    pub fn is_summed(&self) -> bool {
        self.tunnel.udp().is_some_and(|udp| udp.checksum == Some(true))
    }
}

/// All tunnels, to servers of both families.
pub fn ways() -> Vec<Way> {
    let (fou, gue) = (Tunnel::fou(5555), Tunnel::gue(6080));
    let tunnels = [
        ("IPIP", Tunnel::Ipip),
        ("GRE", Tunnel::Gre),
        ("FOU", fou.checksum(false)),
        ("summed FOU", fou.checksum(true)),
        ("GUE", gue.checksum(false)),
        ("summed GUE", gue.checksum(true)),
    ];
    let servers: [(_, Vec<IpAddr>); 2] = [
        ("IPv4", SERVERS.map(|i| [10, 1, 2, i].into()).collect()),
        ("IPv6", SERVERS.map(|i| [0xfd00, 1, 2, 0, 0, 0, 0, i.into()].into()).collect()),
    ];
    let pairs = servers.iter().flat_map(|servers| tunnels.map(|tunnel| (tunnel, servers)));
    (TUNNELLED..)
        .zip(pairs)
        .map(|(port, ((name, tunnel), (family, servers)))| {
            let name = format!("{name} over {family}");
            Way { name, port, tunnel, servers: servers.clone() }
        })
        .collect()
}

/// All paths. Those of a group do not disturb each other, and are run in turn;
/// the tables hold the flows of all of them at once. A later group leaves the
/// tables as no earlier one may find them. Each group begins with the
/// references that its ratios are to.
pub fn groups() -> Vec<Vec<Case>> {
    let [v4, v6] = VIPS.map(Family::new);
    let reference = |flows| {
        let packets = v4.by_clients(v4.tcp((40000, TCP), ACK), 0);
        let name = format!("reference, {}", counted(flows));
        Case::new(name, Subject::Reference, packets).flows(flows)
    };
    let mut steady: Vec<Case> = [USUAL, 1, WAITING, 1 << 20].map(reference).into();
    for family in [&v4, &v6] {
        steady.extend(family.flows());
        steady.extend(family.tags());
        steady.extend(family.without_flow());
        steady.extend(family.fragments());
        steady.extend(family.icmp());
    }
    steady.push(arp());
    let mut tunnels = vec![reference(USUAL)];
    tunnels.extend([&v4, &v6].into_iter().flat_map(Family::tunnels));
    let new = |port: u16, service: u16, kind: &str, first: u32| {
        let mut group: Vec<Case> = [USUAL, WAITING].map(reference).into();
        for family in [&v4, &v6] {
            let packets = family.by_clients(family.udp((port, service)), CLIENTS);
            let name = format!("{kind}, {}", family.name);
            let case = Case::new(name, Subject::Xvs("forwarded_new"), packets);
            group.push(case.beside(WAITING).first(first));
        }
        group
    };
    vec![
        steady,
        tunnels,
        new(42000, UDP_PORT, "new flow", FEW),
        new(43000, UDP_PORT, "new flow, table full", 2 * FLOWS),
        new(44000, LIMITED, "new flow, over the limit", FEW),
    ]
}

/// What differs between IPv4 and IPv6.
struct Family {
    name: &'static str,
    vip: IpAddr,
    client: IpAddr,
    /// An address that is no virtual one.
    other: IpAddr,
    /// Offsets of the last words of a packet's source, and of the destination
    /// of one that an ICMP error quotes.
    source: u32,
    quoted: u32,
    /// The word that ends with a fragment's identification, and the bits of
    /// that.
    identification: (u32, u32),
}

impl Family {
    fn new(vip: &str) -> Self {
        let address = |text: &str| text.parse().expect("an address");
        let vip = address(vip);
        match vip {
            IpAddr::V4(_) => Self {
                name: "IPv4",
                vip,
                client: address("10.64.0.0"),
                other: address("10.1.2.1"),
                source: 26,
                quoted: 58,
                identification: (16, 0xffff),
            },
            IpAddr::V6(_) => Self {
                name: "IPv6",
                vip,
                client: address("2001:db8::"),
                other: address("fd00:1:2::1"),
                source: 34,
                quoted: 98,
                identification: (58, CLIENTS),
            },
        }
    }

    fn ip(&self) -> Ip {
        Ip::new(self.client, self.vip).macs([2, 0, 0, 0, 0, 9], MAC)
    }

    fn tcp(&self, ports: (u16, u16), flags: u8) -> Vec<u8> {
        filled(|payload| self.ip().tcp(ports, flags, payload))
    }

    fn udp(&self, ports: (u16, u16)) -> Vec<u8> {
        filled(|payload| self.ip().udp(ports, payload))
    }

    /// By one client after the other.
    fn by_clients(&self, frame: Vec<u8>, mask: u32) -> Packets {
        Packets { frame, offset: self.source, mask }
    }

    /// The same of frames with a tag.
    fn by_tagged_clients(&self, build: impl Fn(&[u8]) -> Vec<u8>, mask: u32) -> Packets {
        let frame = filled(|payload| tagged(build(payload), IN));
        Packets { frame, offset: self.source + 4, mask }
    }

    /// Packets of flows that are known.
    fn flows(&self) -> Vec<Case> {
        let hit = |protocol: &str, frame: Vec<u8>, flows: u32| {
            let name = format!("{protocol} over {}, {}", self.name, counted(flows));
            let packets = self.by_clients(frame, 0);
            Case::new(name, Subject::Xvs("forwarded_flow"), packets).flows(flows)
        };
        let tcp = self.tcp((40000, TCP), ACK);
        let mut cases: Vec<Case> =
            [1, USUAL, WAITING, 1 << 20].map(|flows| hit("TCP", tcp.clone(), flows)).into();
        cases.push(hit("UDP", self.udp((40000, UDP_PORT)), USUAL));
        cases
    }

    /// The same where a tag is rewritten, comes or goes.
    fn tags(&self) -> Vec<Case> {
        let hit = |name: &str, packets| {
            let name = format!("tag {name}, {}", self.name);
            Case::new(name, Subject::Xvs("forwarded_flow"), packets).flows(USUAL)
        };
        let plain = self.by_clients(self.tcp((45000, TAGGED), ACK), 0);
        let tagged =
            |port| self.by_tagged_clients(|payload| self.ip().tcp((46000, port), ACK, payload), 0);
        vec![
            hit("rewritten", tagged(TAGGED)).tag(IN | OUT),
            hit("pushed", plain).tag(OUT),
            hit("popped", tagged(TCP)),
        ]
    }

    /// The same through tunnels, of short and of long frames.
    fn tunnels(&self) -> Vec<Case> {
        let hit = |way: Way, length: usize| {
            let mut name = format!("{} in {}", self.name, way.name);
            if length != FRAME {
                name += &format!(", {} octets", grouped(length as u64));
            }
            let build = |payload: &[u8]| self.ip().tcp((47000, way.port), ACK, payload);
            let packets = self.by_clients(filled_to(length, build), 0);
            Case::new(name, Subject::Xvs("forwarded_flow"), packets).flows(USUAL).way(way)
        };
        ways()
            .into_iter()
            .flat_map(|way| [FRAME, LONG].map(|length| hit(way.clone(), length)))
            .collect()
    }

    /// What makes no flow.
    fn without_flow(&self) -> Vec<Case> {
        let case = |name: &str, reason, frame, mask| {
            let name = format!("{name}, {}", self.name);
            Case::new(name, Subject::Xvs(reason), self.by_clients(frame, mask))
        };
        let syn = |port| self.tcp((41000, port), SYN);
        let foreign = Ip::new(self.client, self.other).macs([2, 0, 0, 0, 0, 9], MAC);
        let foreign = |payload: &[u8]| foreign.tcp((40000, 22), ACK, payload);
        let tagged = self.by_tagged_clients(foreign, USUAL - 1);
        let tagged_name = format!("other address, tagged, {}", self.name);
        vec![
            case("SYN", "forwarded_syn", syn(TCP), CLIENTS).beside(WAITING),
            case("SYN, sticky service", "forwarded_syn", syn(STICKY), CLIENTS).beside(WAITING),
            case("no service", "no_service", self.tcp((40000, 9), ACK), USUAL - 1),
            case("other address", "not_vip", filled(foreign), USUAL - 1),
            Case::new(tagged_name, Subject::Xvs("not_vip"), tagged).tag(IN),
        ]
    }

    fn fragments(&self) -> Vec<Case> {
        let (offset, most) = self.identification;
        let numbered = |frame, mask| Packets { frame, offset, mask };
        let first =
            filled(|payload| self.ip().fragment(0, 0, true).udp((44000, UDP_PORT), payload));
        let later = filled(|payload| self.ip().fragment(0, 64, false).raw(UDP, payload));
        let case = |name: &str, reason, packets| {
            Case::new(format!("{name}, {}", self.name), Subject::Xvs(reason), packets)
        };
        vec![
            case("first fragment", "forwarded_flow", numbered(first.clone(), most)),
            case("later fragment", "forwarded_fragment", numbered(later, USUAL - 1))
                .before(numbered(first, USUAL - 1)),
        ]
    }

    fn icmp(&self) -> Vec<Case> {
        let (echo, error, code, rest) = match self.vip {
            IpAddr::V4(_) => (8, 3, 4, [0, 0, 5, 120]),
            IpAddr::V6(_) => (128, 2, 0, [0, 0, 5, 120]),
        };
        let echo = filled(|payload| self.ip().icmp(echo, 0, [0, 1, 0, 1], payload));
        // The server's packet that was too big.
        let sent = Ip::new(self.vip, self.client).tcp((TCP, 40000), ACK, &[0; FRAME]);
        let quote = &sent[ETHERNET..];
        let quote = match self.vip {
            IpAddr::V4(_) => &quote[..28],
            IpAddr::V6(_) => &quote[..66],
        };
        let error = padded(self.ip().icmp(error, code, rest, quote), FRAME);
        let quoting = Packets { frame: error, offset: self.quoted, mask: USUAL - 1 };
        let quoted = self.by_clients(self.tcp((40000, TCP), ACK), USUAL - 1);
        let case = |name: &str, reason, packets| {
            Case::new(format!("{name}, {}", self.name), Subject::Xvs(reason), packets)
        };
        vec![
            case("ICMP echo", "echo_replied", self.by_clients(echo, USUAL - 1)),
            case("ICMP error", "forwarded_icmp", quoting).before(quoted),
        ]
    }
}

/// Requests by one host after the other.
fn arp() -> Case {
    let mut frame = [[0xff; 6], [2, 0, 0, 0, 0, 9]].concat();
    // ARP for IPv4 over Ethernet: a request.
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend([2, 0, 0, 0, 0, 9, 10, 1, 0, 0]);
    frame.extend([0, 0, 0, 0, 0, 0, 10, 1, 2, 1]);
    let packets = Packets { frame: padded(frame, FRAME), offset: 28, mask: USUAL - 1 };
    Case::new("ARP", Subject::Xvs("not_ip"), packets)
}

/// A frame with as much payload as it has room for.
fn filled(build: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    filled_to(FRAME, build)
}

fn filled_to(length: usize, build: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let headers = build(&[]).len();
    build(&vec![0; length - headers])
}

fn counted(flows: u32) -> String {
    let plural = if flows == 1 { "" } else { "s" };
    format!("{} flow{plural}", grouped(flows.into()))
}
