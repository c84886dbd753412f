//! TCP and UDP headers, protocols and ports, and the time to live.

use super::case::Case;
use super::case::Entry;
use super::case::Server;
use super::world::*;
use crate::common::dataplane::Port;
use crate::common::frame::*;

/// Length and flags of TCP.
pub fn tcp(w: &World) -> Vec<Case> {
    let offset = w.either(46, 66);
    let segment = || w.ip().tcp((w.unique(), WEB), ACK, b"payload");
    let offset_of = |words: u8| broken(segment(), offset, &[words << 4]);
    let mut cases = vec![
        w.case("a TCP header of 0 octets", w.ip().raw(TCP, &[])).malformed(w.vip),
        w.case("a TCP header of 4 octets", w.ip().raw(TCP, &[1, 2, 0, 80])).malformed(w.vip),
        w.case("a TCP header of 19 octets", w.ip().raw(TCP, &segment()[w.either(34, 54)..][..19]))
            .malformed(w.vip),
        w.case("data offset 0", offset_of(0)).malformed(w.vip),
        w.case("data offset 4", offset_of(4)).malformed(w.vip),
        w.case("data offset 6 of 27 octets", offset_of(6)).forwards("forwarded_new", w.web()),
        w.case("data offset 7 of 27 octets", offset_of(7)).malformed(w.vip),
        w.case("data offset 15 of 27 octets", offset_of(15)).malformed(w.vip),
        w.case("60 octets of TCP header", {
            w.ip().tcp_with_options((w.unique(), WEB), ACK, &[1; 40], b"")
        })
        .forwards("forwarded_new", w.web()),
        w.case("no payload", w.ip().tcp((w.unique(), WEB), ACK, b""))
            .forwards("forwarded_new", w.web()),
        w.case("a TCP checksum that is wrong", broken(segment(), offset + 4, &[0xde, 0xad]))
            .forwards("forwarded_new", w.web()),
        w.case("source port 0", w.ip().tcp((0, WEB), ACK, b"")).forwards("forwarded_new", w.web()),
        w.case("source port 65,535", w.ip().tcp((65_535, WEB), ACK, b""))
            .forwards("forwarded_new", w.web()),
        w.case("source and destination port the same", w.ip().tcp((WEB, WEB), ACK, b""))
            .forwards("forwarded_new", w.web()),
        w.case("from the VIP itself", Ip::new(w.vip, w.vip).tcp((w.unique(), WEB), ACK, b""))
            .forwards("forwarded_new", w.web()),
    ];

    const FLAGS: [(&str, u8, &[&str], Entry); 12] = [
        ("no flags", 0, &[], Entry::Open),
        ("ACK", ACK, &[], Entry::Open),
        ("PSH and ACK", PSH | ACK, &[], Entry::Open),
        ("SYN and ACK", SYN | ACK, &[], Entry::Open),
        ("FIN", FIN, &["fin"], Entry::Closing),
        ("FIN and ACK", FIN | ACK, &["fin"], Entry::Closing),
        ("RST", RST, &["rst"], Entry::Closing),
        ("RST and ACK", RST | ACK, &["rst"], Entry::Closing),
        ("FIN and RST", FIN | RST, &["fin", "rst"], Entry::Closing),
        ("all flags", ALL_FLAGS, &["fin", "rst"], Entry::Closing),
        ("SYN, FIN and ACK", SYN | FIN | ACK, &["fin"], Entry::Closing),
        ("URG, ECE and CWR", 0xe0, &[], Entry::Open),
    ];
    for (name, flags, counted, entry) in FLAGS {
        let source = w.unique();
        let frame = w.ip().tcp((source, WEB), flags, b"");
        cases.push(
            w.case(&format!("{name} without a flow"), frame)
                .forwards("forwarded_new", w.web())
                .counts(counted)
                .leaves(&w.key(source, WEB), entry),
        );
    }
    const SYNS: [(&str, u8, &[&str]); 5] = [
        ("SYN", SYN, &["syn"]),
        ("SYN, ECE and CWR", SYN | 0xc0, &["syn"]),
        ("SYN and FIN", SYN | FIN, &["syn", "fin"]),
        ("SYN and RST", SYN | RST, &["syn", "rst"]),
        ("all flags but ACK", ALL_FLAGS & !ACK, &["syn", "fin", "rst"]),
    ];
    for (name, flags, counted) in SYNS {
        let source = w.unique();
        let frame = w.ip().tcp((source, WEB), flags, b"");
        cases.push(
            w.case(&format!("{name} without a flow"), frame)
                .forwards("forwarded_syn", w.web())
                .counts(counted)
                .leaves(&w.key(source, WEB), Entry::Absent),
        );
    }
    cases
}

/// Lengths and checksums of UDP.
pub fn udp(w: &World) -> Vec<Case> {
    let length = w.either(38, 58);
    let datagram = |payload: &[u8]| w.ip().udp((w.unique(), DNS), payload);
    let lying = |octets: u16| broken(datagram(b"12345678"), length, &octets.to_be_bytes());
    let source = w.unique();
    vec![
        w.case("UDP", w.ip().udp((source, DNS), b"query"))
            .forwards("forwarded_new", w.dns())
            .leaves(&w.udp_key(source, DNS), Entry::Open),
        w.case("UDP of a flow", w.ip().udp((source, DNS), b"next"))
            .forwards("forwarded_flow", w.dns())
            .leaves(&w.udp_key(source, DNS), Entry::Open),
        w.case("UDP without payload", datagram(b"")).forwards("forwarded_new", w.dns()),
        w.case("UDP of 1,472 octets", datagram(&[9; 1472 - 40])).forwards("forwarded_new", w.dns()),
        w.case("a UDP header of 0 octets", w.ip().raw(UDP, &[])).malformed(w.vip),
        w.case("a UDP header of 4 octets", w.ip().raw(UDP, &[1, 2, 0, 53])).malformed(w.vip),
        w.case("a UDP header of 7 octets", w.ip().raw(UDP, &[1, 2, 0, 53, 0, 8, 0]))
            .malformed(w.vip),
        w.case("UDP length 0", lying(0)).malformed(w.vip),
        w.case("UDP length 7", lying(7)).malformed(w.vip),
        w.case("UDP length 8 of 16 octets", lying(8)).forwards("forwarded_new", w.dns()),
        w.case("UDP length 17 of 16 octets", lying(17)).malformed(w.vip),
        w.case("UDP length 65,535 of 16 octets", lying(65_535)).malformed(w.vip),
        w.case("UDP length that only the padding fills", trailed(lying(20), &[0; 20]))
            .malformed(w.vip),
        w.case("UDP checksum 0", broken(datagram(b"x"), length + 2, &[0, 0]))
            .forwards("forwarded_new", w.dns()),
        w.case("a UDP checksum that is wrong", broken(datagram(b"x"), length + 2, &[0xba, 0xad]))
            .forwards("forwarded_new", w.dns()),
    ]
}

/// Protocols and ports that no service has, and services without servers.
pub fn services(w: &World) -> Vec<Case> {
    let raw = |protocol: u8| w.ip().raw(protocol, &[0; 32]);
    let source = w.unique();
    let refused = || w.ip().tcp((source, UNRESOLVED), ACK, b"");
    let other_family = w.either([0xfd00, 1, 2, 0, 0, 0, 0, 3].into(), [10, 1, 2, 3].into());
    let mixed = Server::new(&w.tcp(MIXED), other_family);
    let mut cases = vec![
        w.case("a TCP port without a service", w.segment(CLOSED, ACK)),
        w.case("a SYN to a port without a service", w.segment(CLOSED, SYN)),
        w.case("a RST to a port without a service", w.segment(CLOSED, RST)),
        w.case("TCP to a UDP service", w.segment(DNS, ACK)),
        w.case("UDP to a TCP service", w.ip().udp((w.unique(), WEB), b"x")),
        w.case("port 0", w.segment(0, ACK)),
        w.case("a port's octets swapped", w.segment(WEB.swap_bytes(), SYN)),
        w.case("TTL 1 to a port without a service", w.ip().ttl(1).tcp((1, CLOSED), ACK, b"")),
        w.case("IGMP", raw(2)),
        w.case("IP in IP", raw(4)),
        w.case("IPv6 in IP", raw(41)),
        w.case("GRE", raw(47)),
        w.case("SCTP", raw(132)),
        w.case("UDP-Lite", raw(136)),
        w.case("protocol 255", raw(255)),
        w.case("the other family's ICMP", raw(w.either(ICMPV6, ICMP))),
        w.case("an echo request of the other family's ICMP", {
            w.ip().raw(w.either(ICMPV6, ICMP), &[w.either(128, 8), 0, 0, 0, 0, 0, 0, 0])
        }),
        w.case("an unknown protocol without payload", {
            w.ip().raw(w.either(253, 253), w.either(b"", b"x"))
        }),
    ]
    .into_iter()
    .map(|case| case.drops("no_service", w.on_vip()))
    .collect::<Vec<_>>();
    for (what, port) in [("no", EMPTY), ("disabled", DISABLED), ("unresolved", UNRESOLVED)] {
        for (kind, flags) in [("a SYN", SYN), ("an ACK", ACK), ("a RST", RST)] {
            let name = format!("{kind} to a service with {what} servers");
            cases.push(
                w.case(&name, w.segment(port, flags)).drops("no_destination", w.on_tcp(port)),
            );
        }
    }
    cases.extend([
        w.case("nothing is stored without a server", refused())
            .after(refused())
            .drops("no_destination", w.on_tcp(UNRESOLVED))
            .leaves(&w.key(source, UNRESOLVED), Entry::Absent),
        w.case("a server of the other family", w.segment(MIXED, ACK))
            .forwards("forwarded_new", mixed),
        w.case("a SYN to a server of the other family", w.segment(MIXED, SYN))
            .forwards("forwarded_syn", mixed)
            .counts(&["syn"]),
    ]);
    cases
}

/// The time to live, or hop limit, and the checksum that covers it.
pub fn time_to_live(w: &World) -> Vec<Case> {
    let mut cases = Vec::new();
    for ttl in [0, 1] {
        for (name, flags) in [("a SYN", SYN), ("an ACK", ACK)] {
            let source = w.unique();
            let frame = w.ip().ttl(ttl).tcp((source, WEB), flags, b"");
            cases.push(
                w.case(&format!("{name} with TTL {ttl}"), frame)
                    .drops("ttl_expired", w.on_tcp(WEB))
                    .leaves(&w.key(source, WEB), Entry::Absent),
            );
        }
    }
    let source = w.unique();
    let segment = |ttl: u8| w.ip().ttl(ttl).tcp((source, WEB), ACK, b"");
    cases.extend([
        w.case("UDP with TTL 1", w.ip().ttl(1).udp((w.unique(), DNS), b"x"))
            .drops("ttl_expired", super::case::On::Service(w.udp(DNS).key())),
        w.case("TTL 1 to a service without servers", w.ip().ttl(1).tcp((1, EMPTY), ACK, b""))
            .drops("ttl_expired", w.on_tcp(EMPTY)),
        w.case("TTL 1 of a live flow", segment(1))
            .after(segment(64))
            .drops("ttl_expired", w.on_tcp(WEB))
            .leaves(&w.key(source, WEB), Entry::Unchanged),
        w.case("TTL 2 of a live flow", segment(2)).forwards("forwarded_flow", w.web()),
        w.case("TTL 255 of a live flow", segment(255)).forwards("forwarded_flow", w.web()),
        w.case("TTL 128 of a live flow", segment(128)).forwards("forwarded_flow", w.web()),
    ]);
    cases
}

/// IPv4 headers whose checksum is on the edge of a carry (RFC 1624,
/// section 3: 0xfeff must become 0x0000, not 0xffff).
pub fn carries(w: &World) -> Vec<Case> {
    let edges = [
        0x0000, 0x0001, 0x00fe, 0x00ff, 0x0100, 0x7fff, 0x8000, 0xfe00, 0xfefe, 0xfeff, 0xff00,
        0xff01, 0xfffe,
    ];
    let with_checksum = |checksum: u16| {
        let source = w.unique();
        let frames =
            (0..=u16::MAX).map(|id| w.ip().identification(id).tcp((source, WEB), ACK, b""));
        let mut fitting = frames.filter(|frame| frame[24..26] == checksum.to_be_bytes());
        fitting.next().expect("some identification gives this checksum")
    };
    let mut cases: Vec<Case> = edges
        .into_iter()
        .map(|checksum| {
            let name = format!("header checksum {checksum:#06x}");
            w.case(&name, with_checksum(checksum)).forwards("forwarded_new", w.web())
        })
        .collect();
    // The same written out, so that no sum of the test's is in between.
    let frame = with_checksum(0xfeff);
    let out = forwarded(&frame, Port::Lb0.mac(), w.web().mac);
    cases.push(w.case("header checksum 0xfeff becomes 0x0000", frame).forwards_as(
        "forwarded_new",
        w.web(),
        broken(out, 24, &[0, 0]),
    ));
    cases
}
