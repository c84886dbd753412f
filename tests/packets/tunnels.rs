//! Packets for servers behind tunnels: every kind, both families inside and
//! outside, with checksums made anew over all octets.

use std::net::IpAddr;

use xvs::Destination;
use xvs::Service;
use xvs::Tunnel;

use super::case::Case;
use super::case::Entry;
use super::case::Server;
use super::ways_out::answer;
use super::world::World;
use crate::common::dataplane::Dataplane;
use crate::common::dataplane::FlowKey;
use crate::common::dataplane::Port;
use crate::common::dataplane::server_mac;
use crate::common::frame::*;

/// The first port of the services with tunnels.
const PORTS: u16 = 200;
/// The ports of FOU and GUE.
const FOU: u16 = 5555;
const GUE: u16 = 6080;
/// Protocol numbers (IANA).
const IPIP: u8 = 4;
const IPV6: u8 = 41;
const GRE: u8 = 47;

/// A service with one server behind a tunnel.
#[derive(Clone, Copy)]
struct Tunnelled {
    port: u16,
    tunnel: Tunnel,
    server: IpAddr,
}

/// One service for each kind of tunnel to servers of both families.
fn tunnelled() -> Vec<Tunnelled> {
    let kinds = [
        Tunnel::Ipip,
        Tunnel::Gre,
        Tunnel::fou(FOU),
        Tunnel::gue(GUE),
        Tunnel::fou(FOU).checksum(true),
        Tunnel::gue(GUE).checksum(true),
        Tunnel::fou(FOU).checksum(false),
        Tunnel::gue(GUE).checksum(false),
    ];
    let mut all = Vec::new();
    for (number, tunnel) in (0..).zip(kinds) {
        // By the interface that the packets come by, and by the other one.
        let port = if number % 2 == 0 { Port::Lb0 } else { Port::Lb1 };
        for world in [World::v4(), World::v6()] {
            let server = world.server(port, 20 + number);
            all.push(Tunnelled { port: PORTS + all.len() as u16, tunnel, server });
        }
    }
    all
}

/// Creates the services of a virtual address.
pub fn set_up(w: &World, dataplane: &Dataplane) {
    for Tunnelled { port, tunnel, server } in tunnelled() {
        let destination = [Destination::new(server).tunnel(tunnel)];
        dataplane.serve(&w.tcp(port), &destination);
        dataplane.serve(&w.udp(port), &destination);
    }
}

impl Tunnelled {
    fn out(&self) -> Port {
        Port::of(self.server)
    }

    /// The balancer's address that its packets come from.
    fn local(&self) -> IpAddr {
        let net = if self.out() == Port::Lb0 { 2 } else { 3 };
        match self.server {
            IpAddr::V4(_) => IpAddr::from([10, 1, net, 1]),
            IpAddr::V6(_) => IpAddr::from([0xfd00, 1, u16::from(net), 0, 0, 0, 0, 1]),
        }
    }

    fn at(&self, service: &Service) -> Server {
        Server::new(service, self.server)
    }

    /// The longest packet of a client.
    fn mtu(&self) -> u16 {
        let ip = if self.server.is_ipv4() { 20 } else { 40 };
        let rest = match self.tunnel {
            Tunnel::Gre => 4,
            Tunnel::Fou(_) => 8,
            Tunnel::Gue(_) => 12,
            _ => 0,
        };
        self.out().mtu() - ip - rest
    }

    /// The frame that must leave: `frame` with its packet in the tunnel. The
    /// entropy is of the flow's hash; `summed` says whether the packet has a
    /// checksum of its own.
    fn wrap(&self, frame: &[u8], entropy: u64, summed: bool) -> Vec<u8> {
        let whole = forwarded(frame, [0; 6], [0; 6]);
        let packet = &whole[ETHERNET..][..ip_length(frame) as usize];
        let is_v4 = packet[0] >> 4 == 4;
        let class = if is_v4 { packet[1] } else { packet[0] << 4 | packet[1] >> 4 };
        let outer = Ip::new(self.local(), self.server)
            .macs(self.out().mac(), server_mac(self.server))
            .ttl(64)
            .class(class)
            .flow_label(entropy as u32 & 0xf_ffff)
            .dont_fragment();
        let protocol = if is_v4 { IPIP } else { IPV6 };
        let udp = |to: u16, checksum: Option<bool>, payload: &[u8]| {
            let from = 0xc000 | entropy as u16 & 0x3fff;
            let mut datagram = outer.udp_datagram((from, to), payload);
            if !summed || !checksum.unwrap_or(self.server.is_ipv6()) {
                datagram[6..8].fill(0);
            }
            outer.raw(UDP, &datagram)
        };
        match self.tunnel {
            Tunnel::Ipip => outer.raw(protocol, packet),
            Tunnel::Gre => {
                let kind: [u8; 2] = if is_v4 { [0x08, 0x00] } else { [0x86, 0xdd] };
                outer.raw(GRE, &[&[0, 0], &kind, packet].concat())
            }
            Tunnel::Fou(to) => udp(to.port, to.checksum, packet),
            Tunnel::Gue(to) => udp(to.port, to.checksum, &[&[0, protocol, 0, 0], packet].concat()),
            other => panic!("no case is about {other}"),
        }
    }
}

/// What packets of a flow are spread by.
fn entropy(key: &FlowKey) -> u64 {
    key.hash(&[0; 16]) >> 32
}

/// Every kind, with packets of every sort.
pub fn kinds(w: &World) -> Vec<Case> {
    let mut cases = Vec::new();
    for t in tunnelled() {
        let name = |what: &str| format!("{what} by {} to {}", t.tunnel, t.server);
        let (tcp, udp) = (t.at(&w.tcp(t.port)), t.at(&w.udp(t.port)));
        let segment = |ip: Ip, source: u16, flags: u8, length: usize| {
            let frame = ip.tcp((source, t.port), flags, &vec![0xa5; length]);
            let right = t.wrap(&frame, entropy(&w.key(source, t.port)), true);
            (frame, right)
        };
        let datagram = |ip: Ip, source: u16, length: usize| {
            let frame = ip.udp((source, t.port), &vec![0x3c; length]);
            let right = t.wrap(&frame, entropy(&w.udp_key(source, t.port)), true);
            (frame, right)
        };
        let (a, b) = (w.unique(), w.unique());

        let (frame, right) = segment(w.ip(), a, SYN, 0);
        cases.push(
            w.case(&name("a SYN"), frame.clone())
                .forwards_as("forwarded_syn", tcp, right.clone())
                .counts(&["syn"]),
        );
        cases.push(
            w.case(&name("a SYN with padding"), padded(frame, 80))
                .forwards_as("forwarded_syn", tcp, right)
                .counts(&["syn"]),
        );
        let (frame, right) = segment(w.ip(), b, ACK, 333);
        cases.push(
            w.case(&name("a flow"), frame.clone())
                .forwards_as("forwarded_new", tcp, right.clone())
                .leaves(&w.key(b, t.port), Entry::Open),
        );
        cases.push(
            w.case(&name("a flow's packet with octets behind it"), trailed(frame, &[0xee; 451]))
                .forwards_as("forwarded_flow", tcp, right),
        );
        let header = usize::from(w.either(20_u16, 40)) + 20;
        let most = usize::from(t.mtu()) - header;
        let (frame, right) = segment(w.ip().class(0xbb).ttl(2), b, PSH | ACK, most);
        cases.push(
            w.case(&name("the largest packet, congested, of a class, with TTL 2"), frame)
                .forwards_as("forwarded_flow", tcp, right),
        );
        let (frame, _) = segment(w.ip(), b, ACK, most + 1);
        let right = answer(w, Port::Lb0, t.mtu(), &frame);
        cases.push(
            w.case(&name("a packet that is too large by an octet"), trailed(frame, &[1; 9]))
                .replies("too_big_replied", right, w.on_tcp(t.port)),
        );
        cases.push(
            w.case(&name("TTL 1"), w.ip().ttl(1).tcp((b, t.port), ACK, b""))
                .drops("ttl_expired", w.on_tcp(t.port)),
        );
        for length in [0, 1, 64, 1001] {
            let (frame, right) = datagram(w.ip().class(0x2e), w.unique(), length);
            cases.push(w.case(&name(&format!("UDP of {length} octets")), frame).forwards_as(
                "forwarded_new",
                udp,
                right,
            ));
        }
        cases.extend(without_sum(w, &t, udp));
        cases.extend(fragments(w, &t, tcp));
        cases.extend(errors(w, &t, tcp));
    }
    cases
}

/// Packets that no outer checksum follows from.
fn without_sum(w: &World, t: &Tunnelled, udp: Server) -> Vec<Case> {
    let (a, b, c) = (w.unique(), w.unique(), w.unique());
    let port = t.port;
    let source = |source: u16| entropy(&w.udp_key(source, port));
    let udp_at = ETHERNET + usize::from(w.either(20_u16, 40));
    let name = |what: &str| format!("{what} by {} to {}", t.tunnel, t.server);
    let bare = broken(w.ip().udp((a, port), b"no checksum"), udp_at + 6, &[0, 0]);
    let short = {
        // The datagram ends before the packet does.
        let datagram = [&w.ip().udp_datagram((b, port), b"short")[..], b"surplus"].concat();
        w.ip().raw(UDP, &datagram)
    };
    let mut cases = vec![
        w.case(&name("UDP without a checksum"), bare.clone()).forwards_as(
            "forwarded_new",
            udp,
            t.wrap(&bare, source(a), false),
        ),
        w.case(&name("UDP shorter than its packet"), short.clone()).forwards_as(
            "forwarded_new",
            udp,
            t.wrap(&short, source(b), false),
        ),
    ];
    let frame = match w.is_v4() {
        true => w.ip().options(&[1; 12]).udp((c, port), b"options"),
        false => w.ip().padded_extension(HOP_BY_HOP, 1).udp((c, port), b"extensions"),
    };
    // IPv4 options are part of what sums up to nothing.
    let right = t.wrap(&frame, source(c), w.is_v4());
    cases.push(w.case(&name("options"), frame).forwards_as("forwarded_new", udp, right));
    cases
}

/// Fragments, by tunnels whose headers do not depend on them.
fn fragments(w: &World, t: &Tunnelled, tcp: Server) -> Vec<Case> {
    if !t.server.is_ipv4() || !matches!(t.tunnel, Tunnel::Ipip | Tunnel::Gre) {
        return Vec::new();
    }
    let id = w.unique();
    let first = w.ip().fragment(id.into(), 0, true).tcp((id, t.port), ACK, b"twelve bytes");
    let last = w.ip().fragment(id.into(), 32, false).raw(TCP, b"the end");
    let name = |what: &str| format!("{what} by {} to {}", t.tunnel, t.server);
    let right = |frame: &[u8]| t.wrap(frame, 0, false);
    vec![
        w.case(&name("a first fragment"), first.clone()).forwards_as(
            "forwarded_new",
            tcp,
            right(&first),
        ),
        w.case(&name("its last fragment"), padded(last.clone(), 99)).forwards_as(
            "forwarded_fragment",
            tcp,
            right(&last),
        ),
    ]
}

/// ICMP errors about the VIP's packets.
fn errors(w: &World, t: &Tunnelled, tcp: Server) -> Vec<Case> {
    let client = w.unique();
    let quote = Ip::new(w.vip, w.client).tcp((t.port, client), ACK, &[0; 99]);
    let right = entropy(&w.key(client, t.port));
    let header = usize::from(w.either(20_u16, 40));
    [header + 8, header + 60]
        .into_iter()
        .map(|length| {
            let quote = &quote[ETHERNET..][..length];
            let kind = w.either((3, 4), (2, 0));
            let frame = Ip::new(w.router, w.vip).icmp(kind.0, kind.1, [0, 0, 5, 0x14], quote);
            let name = format!("an error by {} to {}", t.tunnel, t.server);
            let octets = t.wrap(&frame, right, true);
            w.case(&name, frame).forwards_as("forwarded_icmp", tcp, octets)
        })
        .collect()
}
