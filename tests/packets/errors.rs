//! ICMP errors: they go to the server whose packet they quote.

use std::time::Duration;

use xvs::Destination;

use super::case::Case;
use super::case::Entry;
use super::case::On;
use super::case::Server;
use super::case::Step;
use super::world::*;
use crate::common::dataplane::Port;
use crate::common::dataplane::set_neighbour;
use crate::common::frame::*;

/// An error from a router about a packet that the VIP sent.
fn error(w: &World, kind: u8, quote: &[u8]) -> Vec<u8> {
    Ip::new(w.router, w.vip).icmp(kind, 0, [0, 0, 5, 0], quote)
}

/// The type of "destination unreachable".
fn unreachable(w: &World) -> u8 {
    w.either(3, 1)
}

/// A packet of the VIP to the client: the IP packet without Ethernet header.
fn sent(w: &World, ip: impl Fn(Ip) -> Ip, ports: (u16, u16)) -> Vec<u8> {
    ip(Ip::new(w.vip, w.client)).tcp(ports, ACK, b"answer")[ETHERNET..].to_vec()
}

/// Errors of each type that quote the VIP's packets, more or less of them.
pub fn errors(w: &World) -> Vec<Case> {
    let header = w.either(20, 40);
    let whole = |port: u16| sent(w, |ip| ip, (port, w.unique()));
    let quote = |port: u16| whole(port)[..header + 8].to_vec();
    let udp = |port: u16| {
        Ip::new(w.vip, w.client).udp((port, w.unique()), b"answer")[ETHERNET..].to_vec()
    };
    let forwarded =
        |name: &str, frame: Vec<u8>, to: Server| w.case(name, frame).forwards("forwarded_icmp", to);
    let mut cases: Vec<Case> = w
        .either(&[3, 11, 12][..], &[1, 2, 3, 4, 5, 99, 100, 101, 126, 127])
        .iter()
        .map(|kind| {
            forwarded(
                &format!("an ICMP error of type {kind}"),
                error(w, *kind, &quote(WEB)),
                w.web(),
            )
        })
        .collect();
    let kind = unreachable(w);
    let with_code = |code: u8| Ip::new(w.router, w.vip).icmp(kind, code, [0, 0, 5, 0], &quote(WEB));
    for code in [1, 3, 4, 13, 255] {
        cases.push(forwarded(&format!("an ICMP error with code {code}"), with_code(code), w.web()));
    }
    let source = w.unique();
    let about = |source: u16| error(w, kind, &sent(w, |ip| ip, (WEB, source))[..header + 8]);
    cases.extend([
        forwarded(
            "a quote with 4 octets of ports",
            error(w, kind, &whole(WEB)[..header + 4]),
            w.web(),
        ),
        forwarded("a quote of a whole packet", error(w, kind, &whole(WEB)), w.web()),
        forwarded(
            "a quote of 1,200 octets",
            {
                let packet = Ip::new(w.vip, w.client).tcp((WEB, w.unique()), ACK, &[5; 1400]);
                error(w, kind, &packet[ETHERNET..][..1200])
            },
            w.web(),
        ),
        forwarded(
            "an error with octets behind it",
            trailed(error(w, kind, &quote(WEB)), &[1; 50]),
            w.web(),
        ),
        forwarded("a quote of UDP", error(w, kind, &udp(DNS)[..header + 8]), w.dns()),
        forwarded(
            "a quote of UDP to the far server",
            error(w, kind, &udp(FAR)),
            Server::new(&w.udp(FAR), w.server(Port::Lb1, 3)),
        ),
        forwarded("a quote to the far server", error(w, kind, &quote(FAR)), w.far()),
        forwarded("an error in on lb1", error(w, kind, &quote(FAR)), w.far()).on_lb1(),
        forwarded(
            "an error from the client itself",
            Ip::new(w.client, w.vip).icmp(kind, 3, [0; 4], &quote(WEB)),
            w.web(),
        ),
        forwarded(
            "a quote of a first fragment",
            error(w, kind, &sent(w, |ip| ip.fragment(5, 0, true), (WEB, 7))[..header + 16]),
            w.web(),
        ),
        forwarded(
            "a quote with TTL 0",
            error(w, kind, &sent(w, |ip| ip.ttl(0), (WEB, 7))),
            w.web(),
        ),
        forwarded(
            "an error whose checksum is wrong",
            broken(error(w, kind, &quote(WEB)), w.either(36, 56), &[0xba, 0xad]),
            w.web(),
        ),
        forwarded("an error stores no flow", about(source), w.web())
            .leaves(&w.key(source, WEB), Entry::Absent),
        forwarded("an error does not refresh a flow", about(source), w.web())
            .after(w.ip().tcp((source, WEB), ACK, b""))
            .step(Step::AgeFlow(w.key(source, WEB), Duration::from_secs(100)))
            .leaves(&w.key(source, WEB), Entry::Unchanged),
        forwarded(
            "an error with TTL 2",
            Ip::new(w.router, w.vip).ttl(2).icmp(kind, 0, [0; 4], &quote(WEB)),
            w.web(),
        ),
        w.case("an error with TTL 1", {
            Ip::new(w.router, w.vip).ttl(1).icmp(kind, 0, [0; 4], &quote(WEB))
        })
        .drops("ttl_expired", w.on_tcp(WEB)),
        w.case("a quote from a port without a service", error(w, kind, &quote(CLOSED)))
            .drops("no_service", w.on_vip()),
        w.case("a quote of TCP from a UDP service", error(w, kind, &quote(DNS)))
            .drops("no_service", w.on_vip()),
        w.case("a quote of UDP from a TCP service", error(w, kind, &udp(WEB)))
            .drops("no_service", w.on_vip()),
        w.case("a quote whose ports are swapped", {
            error(w, kind, &sent(w, |ip| ip, (w.unique(), WEB)))
        })
        .drops("no_service", w.on_vip()),
    ]);
    for (what, port) in [("no", EMPTY), ("disabled", DISABLED), ("unresolved", UNRESOLVED)] {
        cases.push(
            w.case(
                &format!("a quote from a service with {what} servers"),
                error(w, kind, &quote(port)),
            )
            .drops("no_destination", w.on_tcp(port)),
        );
    }
    if w.is_v4() {
        for length in [4, 20, 40] {
            let optioned = || sent(w, |ip| ip.options(&vec![1; length]), (WEB, w.unique()));
            cases.push(forwarded(
                &format!("a quote with {length} octets of options"),
                error(w, kind, &optioned()[..28 + length]),
                w.web(),
            ));
        }
        cases.push(forwarded(
            "an error with options",
            {
                let ip = Ip::new(w.router, w.vip).options(&[1; 12]);
                ip.icmp(kind, 1, [0; 4], &quote(WEB))
            },
            w.web(),
        ));
    } else {
        for length in [1, 2, 7, 8] {
            let chain = sent(
                w,
                |ip| (0..length).fold(ip, |ip, _| ip.padded_extension(DESTINATION_OPTIONS, 0)),
                (WEB, w.unique()),
            );
            cases.push(forwarded(
                &format!("a quote with {length} extension headers"),
                error(w, kind, &chain[..48 + 8 * length]),
                w.web(),
            ));
        }
        cases.push(forwarded(
            "a quote of an atomic fragment",
            error(w, kind, &sent(w, |ip| ip.fragment(5, 0, false), (WEB, 7))[..56]),
            w.web(),
        ));
        cases.push(forwarded(
            "an error behind extension headers",
            {
                let ip = Ip::new(w.router, w.vip).padded_extension(HOP_BY_HOP, 0);
                ip.icmp(kind, 1, [0; 4], &quote(WEB))
            },
            w.web(),
        ));
        cases.push(forwarded(
            "an error and a quote with 8 extension headers each",
            {
                let chain =
                    |ip: Ip| (0..8).fold(ip, |ip, _| ip.padded_extension(DESTINATION_OPTIONS, 0));
                let quoted = sent(w, chain, (WEB, w.unique()));
                chain(Ip::new(w.router, w.vip)).icmp(kind, 1, [0; 4], &quoted)
            },
            w.web(),
        ));
    }
    cases
}

/// Errors that quote nothing of the VIP's.
pub fn unowned(w: &World) -> Vec<Case> {
    let kind = unreachable(w);
    let header = w.either(20, 40);
    let whole = || sent(w, |ip| ip, (WEB, w.unique()));
    let foreign = |source, protocol: u8, payload: &[u8]| {
        Ip::new(source, w.client).raw(protocol, payload)[ETHERNET..].to_vec()
    };
    let mut quotes = vec![
        ("no quote", Vec::new()),
        ("a quote of 1 octet", whole()[..1].to_vec()),
        ("a quote one octet short of an IP header", whole()[..header - 1].to_vec()),
        ("a quote of an IP header alone", whole()[..header].to_vec()),
        ("a quote with 3 octets of ports", whole()[..header + 3].to_vec()),
        ("a quote from another address", foreign(w.stranger, TCP, &whole()[header..])),
        ("a quote to the VIP", {
            Ip::new(w.client, w.vip).tcp((w.unique(), WEB), ACK, b"")[ETHERNET..].to_vec()
        }),
        ("a quote of ICMP", {
            foreign(w.vip, w.either(ICMP, ICMPV6), &[w.either(0, 129), 0, 0, 0, 0, 80, 0, 80])
        }),
        ("a quote of GRE", foreign(w.vip, 47, &whole()[header..])),
        ("a quote of a later fragment", sent(w, |ip| ip.fragment(5, 8, true), (WEB, 7))),
        ("a quote of the last fragment", sent(w, |ip| ip.fragment(5, 800, false), (WEB, 7))),
        ("a quote of version 5", {
            let mut quote = whole();
            quote[0] = 0x55;
            quote
        }),
        ("a quote of the other family's version", {
            let mut quote = whole();
            quote[0] = w.either(0x65, 0x45);
            quote
        }),
    ];
    if w.is_v4() {
        quotes.extend([
            ("a quote with IHL 4", {
                let mut quote = whole();
                quote[0] = 0x44;
                quote
            }),
            ("a quote whose options are cut off", {
                sent(w, |ip| ip.options(&[1; 40]), (WEB, 7))[..40].to_vec()
            }),
            ("a quote with options and 3 octets of ports", {
                sent(w, |ip| ip.options(&[1; 40]), (WEB, 7))[..63].to_vec()
            }),
        ]);
    } else {
        let chain = |length: usize| {
            sent(
                w,
                |ip| (0..length).fold(ip, |ip, _| ip.padded_extension(DESTINATION_OPTIONS, 0)),
                (WEB, 7),
            )
        };
        quotes.extend([
            ("a quote with 9 extension headers", chain(9)),
            ("a quote with half an extension header", chain(1)[..44].to_vec()),
            ("a quote with an extension header alone", chain(1)[..48].to_vec()),
            ("a quote with an extension header and 3 octets of ports", chain(1)[..51].to_vec()),
        ]);
    }
    let mut cases: Vec<Case> = quotes
        .into_iter()
        .map(|(name, quote)| w.case(name, error(w, kind, &quote)).drops("icmp_unowned", w.on_vip()))
        .collect();
    // What lies behind the packet is none of it.
    let cut_short = error(w, kind, &whole()[..header + 2]);
    cases.push(
        w.case("a quote whose ports are in the padding", trailed(cut_short, &[0x1f, 0x90, 0, 0]))
            .drops("icmp_unowned", w.on_vip()),
    );
    let headless = error(w, kind, b"");
    cases.push(
        w.case("a quote that is all padding", trailed(headless, &whole()))
            .drops("icmp_unowned", w.on_vip()),
    );
    cases.push(
        w.case("an unowned error with TTL 1", {
            Ip::new(w.router, w.vip).ttl(1).icmp(kind, 0, [0; 4], b"")
        })
        .drops("icmp_unowned", w.on_vip()),
    );
    cases
}

/// Errors about flows go to the flow's server, whatever the hash says now.
pub fn owners(w: &World, port: u16) -> Vec<Case> {
    let service = w.tcp(port);
    let (x, y) = (w.server(Port::Lb0, 13), w.server(Port::Lb1, 14));
    let to = |address| Server::new(&service, address);
    let (a, b) = (w.unique(), w.unique());
    let ack = |source: u16| w.ip().tcp((source, port), ACK, b"");
    let quote = |source: u16| sent(w, |ip| ip, (port, source));
    let about = |source: u16| error(w, unreachable(w), &quote(source));
    let id = u32::from(w.unique());
    let fragmented = Ip::new(w.router, w.vip).fragment(id, 0, true);
    let rest = Ip::new(w.router, w.vip).fragment(id, 64, false);
    let protocol = w.either(ICMP, ICMPV6);
    let moved = [0x02, 0xbb, 0, 0, 0, 0x13];
    let (s1, s2, s3, s4, s5, s6) = (
        service.clone(),
        service.clone(),
        service.clone(),
        service.clone(),
        service.clone(),
        service.clone(),
    );
    let key = w.key(a, port);
    let idle = Duration::from_secs(7300);
    vec![
        w.case("a flow that errors will be about", ack(a))
            .change(move |dataplane| dataplane.serve(&s1, &[Destination::new(x)]))
            .forwards("forwarded_new", to(x)),
        w.case("an error about a flow of a disabled server", about(a))
            .change(move |dataplane| {
                dataplane.serve(&s2, &[Destination::new(x).disabled(true), Destination::new(y)]);
            })
            .forwards("forwarded_icmp", to(x)),
        w.case("an error about no flow goes by the hash", about(b))
            .forwards("forwarded_icmp", to(y)),
        w.case(
            "a first fragment of an error",
            fragmented.icmp(unreachable(w), 0, [0; 4], &quote(a)),
        )
        .forwards("forwarded_icmp", to(x)),
        w.case("the rest of an error", rest.raw(protocol, b"rest"))
            .forwards("forwarded_fragment", to(x)),
        w.case("an error after the server's MAC address changed", about(a))
            .change(move |dataplane| dataplane.move_server(&s3, x, moved))
            .forwards("forwarded_icmp", to(x).mac(moved)),
        w.case("an error about a flow that is idle too long", about(a))
            .step(Step::AgeFlow(key.clone(), idle))
            .forwards("forwarded_icmp", to(y))
            .leaves(&key, Entry::Dead),
        w.case("an error about a flow of a server that was removed", about(a))
            .after(ack(a))
            .change(move |dataplane| {
                dataplane.serve(&s4, &[Destination::new(x)]);
                set_neighbour(x, crate::common::dataplane::server_mac(x));
                dataplane.move_server(&s4, x, crate::common::dataplane::server_mac(x));
            })
            .forwards("forwarded_icmp", to(x)),
        w.case("an error about a flow when no server is left", about(a))
            .change(move |dataplane| dataplane.serve(&s5, &[]))
            .drops("no_destination", On::Service(service.key())),
        w.case("an error about a service that was removed", about(a))
            .change(move |dataplane| {
                dataplane.client.remove_service(&s6).expect("the service is there");
            })
            .drops("no_service", w.on_vip()),
    ]
}
