//! ICMP for a virtual address that is no error: echo, neighbour discovery, the
//! rest.

use super::case::Case;
use super::world::*;
use crate::common::dataplane::Port;
use crate::common::frame::*;

/// Echo requests, and what is nearly one.
pub fn echo(w: &World) -> Vec<Case> {
    let (request, reply) = w.either((8, 0), (128, 129));
    let answered = |name: &str, ask: &dyn Fn(Ip, u8) -> Vec<u8>| {
        let frame = ask(w.ip(), request);
        w.case(name, frame).replies("echo_replied", ask(w.reply(Port::Lb0), reply), w.on_vip())
    };
    let sized = |octets: usize| {
        let payload: Vec<u8> = (0..octets).map(|i| (i * 7) as u8).collect();
        answered(&format!("an echo request of {octets} octets"), &|ip, kind| {
            ip.icmp(kind, 0, [0x12, 0x34, 0, 1], &payload)
        })
    };
    let mut cases: Vec<Case> = [0, 1, 2, 3, 7, 56, 57, 512, 1024, 1447].map(sized).into();
    for ttl in [0, 1, 2, 63, 65, 255] {
        let frame = w.ip().ttl(ttl).icmp(request, 0, [0, 1, 0, 2], b"ttl");
        let right = w.reply(Port::Lb0).icmp(reply, 0, [0, 1, 0, 2], b"ttl");
        cases.push(w.case(&format!("an echo request with TTL {ttl}"), frame).replies(
            "echo_replied",
            right,
            w.on_vip(),
        ));
    }
    // Sums on the edge of a carry.
    for checksum in [0x0000_u16, 0x0001, 0x00ff, 0x0100, 0xf7fe, 0xf7ff, 0xf800, 0xff00, 0xfffe] {
        let of = |ip: Ip, kind: u8, id: u16| {
            ip.icmp(
                kind,
                0,
                [id.to_be_bytes(), [0, 1]].concat().try_into().expect("four octets"),
                b"xy",
            )
        };
        let at = w.either(36, 56);
        let id = (0..=u16::MAX)
            .find(|id| of(w.ip(), request, *id)[at..at + 2] == checksum.to_be_bytes())
            .expect("some identifier gives this checksum");
        cases.push(
            w.case(
                &format!("an echo request with checksum {checksum:#06x}"),
                of(w.ip(), request, id),
            )
            .replies("echo_replied", of(w.reply(Port::Lb0), reply, id), w.on_vip()),
        );
    }
    let wrong = |kind: u8, ip: Ip, sum: [u8; 2]| {
        broken(ip.icmp(kind, 0, [0, 1, 0, 2], b"sum"), w.either(36, 56), &sum)
    };
    cases.extend([
        answered("an echo request of nothing but zeros", &|ip, kind| {
            ip.icmp(kind, 0, [0; 4], &[0; 56])
        }),
        answered("an echo request, padded", &|ip, kind| {
            padded(ip.icmp(kind, 0, [0, 1, 0, 2], b"ping"), w.either(60, 80))
        }),
        answered("an echo request and octets behind it", &|ip, kind| {
            trailed(ip.icmp(kind, 0, [0, 1, 0, 2], b"odd"), &[0xee; 33])
        }),
        answered("an echo request with a class", &|ip, kind| {
            let ip = ip.class(0x2d).flow_label(0x5_4321).identification(0x4242);
            ip.dont_fragment().icmp(kind, 0, [0, 1, 0, 2], b"ping")
        }),
        answered("an echo request with code 9", &|ip, kind| {
            ip.icmp(kind, 9, [0, 1, 0, 2], b"ping")
        }),
        w.case("an echo request in on lb1", w.ip().icmp(request, 0, [0, 1, 0, 2], b"x"))
            .on_lb1()
            .replies(
                "echo_replied",
                w.reply(Port::Lb1).icmp(reply, 0, [0, 1, 0, 2], b"x"),
                w.on_vip(),
            ),
        w.case("an echo request from another router", {
            w.ip().macs([2, 9, 9, 9, 9, 9], Port::Lb0.mac()).icmp(request, 0, [0, 1, 0, 2], b"x")
        })
        .replies(
            "echo_replied",
            w.reply(Port::Lb0).macs(Port::Lb0.mac(), [2, 9, 9, 9, 9, 9]).icmp(
                reply,
                0,
                [0, 1, 0, 2],
                b"x",
            ),
            w.on_vip(),
        ),
        // The request's sum is taken as it is: 8 or 128 goes, 0 or 129 comes.
        w.case("an echo request whose checksum is wrong", wrong(request, w.ip(), [0x40, 0x00]))
            .replies_broken(
                "echo_replied",
                wrong(reply, w.reply(Port::Lb0), w.either([0x48, 0x00], [0x3f, 0x00])),
                w.on_vip(),
            ),
    ]);
    let nobody = w.either(
        ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.5", "255.255.255.255"].as_slice(),
        ["::", "::1", "ff02::1", "ff0e::7"].as_slice(),
    );
    for source in nobody {
        let ip = Ip::new(source.parse().expect("an address"), w.vip);
        let frame = ip.icmp(request, 0, [0, 1, 0, 2], b"ping");
        let name = format!("an echo request from {source}");
        cases.push(w.case(&name, frame).drops("icmp_unsupported", w.on_vip()));
    }
    let itself = Ip::new(w.vip, w.vip).icmp(request, 0, [0, 1, 0, 2], b"ping");
    let group = w.ip().macs([3, 0, 0, 0, 0, 1], Port::Lb0.mac());
    cases.extend([
        w.case("an echo request from the virtual address itself", itself)
            .drops("icmp_unsupported", w.on_vip()),
        w.case("an echo request in a frame from a group", {
            group.icmp(request, 0, [0, 1, 0, 2], b"ping")
        })
        .drops("icmp_unsupported", w.on_vip()),
    ]);
    if w.is_v4() {
        for length in (4..=40).step_by(4) {
            cases.push(answered(
                &format!("an echo request with {length} octets of options"),
                &|ip, kind| ip.options(&vec![1; length]).icmp(kind, 0, [0, 1, 0, 2], b"ping"),
            ));
        }
    } else {
        cases.push(answered("an echo request behind extension headers", &|ip, kind| {
            let ip = ip.padded_extension(HOP_BY_HOP, 0).padded_extension(DESTINATION_OPTIONS, 2);
            ip.icmp(kind, 0, [0, 1, 0, 2], b"ping")
        }));
        cases.push(answered("an echo request behind 8 extension headers", &|ip, kind| {
            let ip = (0..8).fold(ip, |ip, _| ip.padded_extension(DESTINATION_OPTIONS, 0));
            ip.icmp(kind, 0, [0, 1, 0, 2], b"ping")
        }));
    }
    cases
}

/// Messages that are neither echo requests nor errors.
pub fn unsupported(w: &World) -> Vec<Case> {
    let raw = |octets: usize| w.ip().raw(w.either(ICMP, ICMPV6), &[w.either(8, 128); 8][..octets]);
    let types: &[u8] = w.either(
        &[0, 1, 2, 4, 5, 6, 7, 9, 10, 13, 14, 15, 17, 18, 30, 42, 128, 255],
        &[0, 129, 130, 131, 132, 138, 139, 141, 143, 160, 200, 255],
    );
    let mut cases: Vec<Case> = types
        .iter()
        .map(|kind| {
            w.case(
                &format!("an ICMP message of type {kind}"),
                w.ip().icmp(*kind, 0, [0; 4], &[0; 48]),
            )
            .drops("icmp_unsupported", w.on_vip())
        })
        .collect();
    for octets in [0, 1, 4, 7] {
        cases.push(w.case(&format!("{octets} octets of ICMP"), raw(octets)).malformed(w.vip));
    }
    cases.push(w.case("7 octets of ICMP and padding", trailed(raw(7), &[0; 20])).malformed(w.vip));
    if !w.is_v4() {
        for kind in 133..=137 {
            let frame = w.ip().ttl(255).icmp(kind, 0, [0; 4], &[0; 24]);
            cases.push(
                w.case(&format!("neighbour discovery of type {kind}"), frame)
                    .passes("neighbour_discovery", w.on_vip()),
            );
        }
        cases.push(
            w.case(
                "neighbour discovery with hop limit 1",
                w.ip().ttl(1).icmp(135, 0, [0; 4], &[0; 16]),
            )
            .passes("neighbour_discovery", w.on_vip()),
        );
        cases.push(
            w.case("neighbour discovery of 4 octets", w.ip().raw(ICMPV6, &[135, 0, 0, 0]))
                .malformed(w.vip),
        );
    }
    cases
}
