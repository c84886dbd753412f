//! Fragments: later ones follow their first one.

use std::time::Duration;

use xvs::Destination;

use super::case::Case;
use super::case::Entry;
use super::case::On;
use super::case::Server;
use super::case::Step;
use super::world::*;
use crate::common::dataplane::Port;
use crate::common::frame::*;

/// A first fragment with 32 octets of TCP.
fn first(w: &World, id: u16) -> Vec<u8> {
    w.ip().fragment(id.into(), 0, true).tcp((id, WEB), ACK, b"twelve bytes")
}

/// A fragment in the middle.
fn middle(w: &World, id: u16) -> Vec<u8> {
    w.ip().fragment(id.into(), 32, true).raw(TCP, b"eight by")
}

/// The last fragment.
fn last(w: &World, id: u16) -> Vec<u8> {
    w.ip().fragment(id.into(), 40, false).raw(TCP, b"end")
}

/// In order, out of order, twice, too late.
pub fn orders(w: &World) -> Vec<Case> {
    let orphan =
        |name: &str, frame: Vec<u8>| w.case(name, frame).drops("fragment_orphan", w.on_vip());
    let follows =
        |name: &str, frame: Vec<u8>| w.case(name, frame).forwards("forwarded_fragment", w.web());
    let (a, b, c, d, e) = (w.unique(), w.unique(), w.unique(), w.unique(), w.unique());
    let seconds = |n: u64| Step::AgeFragments(Duration::from_secs(n));
    vec![
        w.case("a first fragment", first(w, a))
            .forwards("forwarded_new", w.web())
            .leaves(&w.key(a, WEB), Entry::Open),
        follows("the middle fragment", middle(w, a)),
        follows("the last fragment", last(w, a)).leaves(&w.key(a, WEB), Entry::Unchanged),
        follows("the last fragment, padded", padded(last(w, a), w.either(60, 80))),
        follows("the last fragment again", last(w, a)),
        w.case("the first fragment again", first(w, a)).forwards("forwarded_flow", w.web()),
        orphan("the last fragment before the first", last(w, b)),
        follows("the last fragment after the first came late", last(w, b)).after(first(w, b)),
        follows("25 s after the first", middle(w, c)).after(first(w, c)).step(seconds(25)),
        orphan("35 s after the first", last(w, c)).step(seconds(10)),
        follows("after the first came again", last(w, c)).after(first(w, c)),
        follows("20 s after the first", middle(w, d)).after(first(w, d)).step(seconds(20)),
        orphan("40 s after the first, 20 s after another", last(w, d)).step(seconds(20)),
        orphan("a fragment whose first one was seen nowhere", middle(w, w.unique())),
        orphan("another identification", last(w, a + 10_000)),
        orphan("another source", {
            Ip::new(w.router, w.vip).fragment(a.into(), 40, false).raw(TCP, b"end")
        }),
        orphan("another protocol", w.ip().fragment(a.into(), 40, false).raw(UDP, b"end")),
        orphan("a protocol that no service has", {
            w.ip().fragment(w.unique().into(), 40, false).raw(47, b"end")
        }),
        orphan("a later fragment of an ICMP message", {
            w.ip().fragment(w.unique().into(), 8, false).raw(w.either(ICMP, ICMPV6), &[0; 64])
        }),
        orphan("an empty later fragment with TTL 1", {
            w.ip().ttl(1).fragment(w.unique().into(), 8, true).raw(TCP, b"x")
        }),
        w.case(
            "a later fragment with TTL 1",
            w.ip().ttl(1).fragment(e.into(), 32, true).raw(TCP, b"x"),
        )
        .after(first(w, e))
        .drops("ttl_expired", w.on_tcp(WEB)),
        follows(
            "a later fragment with TTL 2",
            w.ip().ttl(2).fragment(e.into(), 32, true).raw(TCP, b"x"),
        ),
        follows(
            "a later fragment that is empty",
            w.ip().fragment(e.into(), 64, false).raw(TCP, w.either(b"", b"")),
        ),
        follows("a later fragment at the largest offset", {
            w.ip().fragment(e.into(), 65_528, false).raw(TCP, b"seven b")
        }),
    ]
}

/// First fragments of every kind.
pub fn firsts(w: &World) -> Vec<Case> {
    let ip = |id: u16| w.ip().fragment(id.into(), 0, true);
    let later = |id: u16, protocol: u8| w.ip().fragment(id.into(), 64, false).raw(protocol, b"x");
    let tcp = |id: u16, flags: u8| ip(id).tcp((id, WEB), flags, b"twelve bytes");
    let (a, b, c, d, e, f) =
        (w.unique(), w.unique(), w.unique(), w.unique(), w.unique(), w.unique());
    let (g, h, i) = (w.unique(), w.unique(), w.unique());
    // More octets than the fragment has are no lie: the rest follows.
    let long = broken(ip(c).udp((c, DNS), b"12345678"), w.either(38, 66), &[5, 0]);
    let small = broken(ip(d).udp((d, DNS), b"12345678"), w.either(38, 66), &[0, 7]);
    let orphan =
        |name: &str, frame: Vec<u8>| w.case(name, frame).drops("fragment_orphan", w.on_vip());
    vec![
        w.case("a SYN that is a first fragment", tcp(a, SYN))
            .forwards("forwarded_syn", w.web())
            .counts(&["syn"])
            .leaves(&w.key(a, WEB), Entry::Absent),
        w.case("the rest of a SYN", later(a, TCP)).forwards("forwarded_fragment", w.web()),
        w.case("a FIN that is a first fragment", tcp(b, FIN | ACK))
            .forwards("forwarded_new", w.web())
            .counts(&["fin"])
            .leaves(&w.key(b, WEB), Entry::Closing),
        w.case("the rest of a FIN", later(b, TCP)).forwards("forwarded_fragment", w.web()),
        w.case("a first fragment of UDP, longer than the fragment", long)
            .forwards("forwarded_new", w.dns()),
        w.case("the rest of UDP", later(c, UDP)).forwards("forwarded_fragment", w.dns()),
        w.case("a first fragment of UDP with length 7", small).malformed(w.vip),
        orphan("the rest of a malformed first fragment", later(d, UDP)),
        w.case("a first fragment with 16 octets of TCP", ip(e).raw(TCP, &[0; 16])).malformed(w.vip),
        w.case(
            "a first fragment with 20 octets of TCP and options to come",
            broken(ip(e).tcp((e, WEB), ACK, b"1234"), w.either(46, 74), &[0xf0]),
        )
        .malformed(w.vip),
        w.case("a first fragment with 0 octets of UDP", ip(e).raw(UDP, w.either(b"", b"")))
            .malformed(w.vip),
        w.case("a first fragment for a port without a service", ip(f).tcp((f, CLOSED), ACK, b""))
            .drops("no_service", w.on_vip()),
        orphan("the rest for a port without a service", later(f, TCP)),
        w.case(
            "a first fragment with TTL 1",
            w.ip().ttl(1).fragment(g.into(), 0, true).tcp((g, WEB), ACK, b""),
        )
        .drops("ttl_expired", w.on_tcp(WEB)),
        orphan("the rest after TTL 1", later(g, TCP)),
        w.case("a first fragment without servers", ip(h).tcp((h, EMPTY), ACK, b""))
            .drops("no_destination", w.on_tcp(EMPTY)),
        orphan("the rest without servers", later(h, TCP)),
        w.case("a first fragment of an echo request", {
            ip(w.unique()).icmp(w.either(8, 128), 0, [0; 4], &[0; 24])
        })
        .drops("icmp_unsupported", w.on_vip()),
        w.case(
            "a first fragment of a protocol that no service has",
            ip(w.unique()).raw(47, &[0; 24]),
        )
        .drops("no_service", w.on_vip()),
        w.case("a first fragment to the far server", ip(i).tcp((i, FAR), ACK, b"x"))
            .forwards("forwarded_new", w.far()),
        w.case("the rest to the far server", w.ip().fragment(i.into(), 64, true).raw(TCP, b"x"))
            .forwards("forwarded_fragment", w.far()),
        w.case("the rest, in by lb1", later(i, TCP))
            .on_lb1()
            .forwards("forwarded_fragment", w.far()),
    ]
}

/// Fragment headers of IPv6 among other extension headers.
pub fn headers(w: &World) -> Vec<Case> {
    let (a, b, c) = (w.unique(), w.unique(), w.unique());
    // The protocol of a fragment is what its header names next.
    let optioned = |id: u16| {
        let ip = w.ip().padded_extension(HOP_BY_HOP, 0).fragment(id.into(), 0, true);
        ip.padded_extension(DESTINATION_OPTIONS, 0).tcp((id, WEB), ACK, b"")
    };
    let later = |id: u16, next: u8| {
        w.ip().padded_extension(HOP_BY_HOP, 0).fragment(id.into(), 64, false).raw(next, b"x")
    };
    vec![
        w.case("a fragment header between options", optioned(a)).forwards("forwarded_new", w.web()),
        w.case("the rest by the fragment header's next header", later(a, DESTINATION_OPTIONS))
            .forwards("forwarded_fragment", w.web()),
        w.case("the rest with the transport's protocol instead", later(a, TCP))
            .drops("fragment_orphan", w.on_vip()),
        w.case("a later fragment with garbage behind its header", {
            later(b, DESTINATION_OPTIONS)
        })
        .drops("fragment_orphan", w.on_vip()),
        w.case("32 bits of identification", {
            w.ip().fragment(0x0001_0000 | u32::from(a), 64, false).raw(DESTINATION_OPTIONS, b"x")
        })
        .drops("fragment_orphan", w.on_vip()),
        w.case("an atomic fragment is not remembered", later(c, TCP))
            .after(w.ip().fragment(c.into(), 0, false).tcp((c, WEB), ACK, b""))
            .drops("fragment_orphan", w.on_vip()),
        w.case("an atomic fragment of an echo request is answered", {
            w.ip().fragment(c.into(), 0, false).icmp(128, 0, [0, 1, 0, 2], b"ping")
        })
        .replies(
            "echo_replied",
            w.reply(Port::Lb0).fragment(c.into(), 0, false).icmp(129, 0, [0, 1, 0, 2], b"ping"),
            w.on_vip(),
        ),
        w.case("reserved bits of a fragment header", {
            let frame = w.ip().fragment(c.into(), 0, false).tcp((w.unique(), WEB), ACK, b"");
            broken(frame, 57, &[0x06])
        })
        .forwards("forwarded_new", w.web()),
    ]
}

/// What changes between the first fragment and the rest.
pub fn changes(w: &World, port: u16) -> Vec<Case> {
    let service = w.tcp(port);
    let (x, y) = (w.server(Port::Lb0, 11), w.server(Port::Lb1, 12));
    let to = |address| Server::new(&service, address);
    let first = |id: u16| w.ip().fragment(id.into(), 0, true).tcp((id, port), ACK, b"twelve bytes");
    let later = |id: u16| w.ip().fragment(id.into(), 32, true).raw(TCP, b"x");
    let (a, b) = (w.unique(), w.unique());
    let moved = [0x02, 0xaa, 0, 0, 0, 0x11];
    let (s1, s2, s3, s4, s5) =
        (service.clone(), service.clone(), service.clone(), service.clone(), service.clone());
    vec![
        w.case("a first fragment of a service that will change", first(a))
            .change(move |dataplane| dataplane.serve(&s1, &[Destination::new(x)]))
            .forwards("forwarded_new", to(x)),
        w.case("the rest after the server's MAC address changed", later(a))
            .change(move |dataplane| dataplane.move_server(&s2, x, moved))
            .forwards("forwarded_fragment", to(x).mac(moved)),
        w.case("the rest after the server was disabled", later(a))
            .change(move |dataplane| {
                dataplane.serve(&s3, &[Destination::new(x).disabled(true), Destination::new(y)]);
            })
            .forwards("forwarded_fragment", to(x).mac(moved)),
        w.case("the rest after the server was removed", later(a))
            .change(move |dataplane| dataplane.serve(&s4, &[Destination::new(y)]))
            .drops("fragment_orphan", w.on_vip()),
        w.case("the first fragment is hashed again", first(a)).forwards("forwarded_new", to(y)),
        w.case("the rest follows it", later(a)).forwards("forwarded_fragment", to(y)),
        w.case("the rest after the service was removed", later(b))
            .after(first(b))
            .change(move |dataplane| {
                dataplane.client.remove_service(&s5).expect("the service is there");
            })
            .drops("fragment_orphan", On::Vip(w.vip)),
    ]
}
