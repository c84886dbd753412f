//! What is taken out, octet by octet.

use crate::case::Case;
use crate::case::run_all;
use crate::frame::*;
use crate::tunnel::*;

/// Packets of all sorts that a client may send to a VIP.
fn inner_frames(family: Family) -> Vec<(String, Vec<u8>)> {
    let ip = client(family);
    let payload = |octets: usize| -> Vec<u8> { (0..octets).map(|i| (i * 7) as u8).collect() };
    let mut frames = vec![
        ("a SYN with options".to_owned(), {
            ip.tcp_with_options((40_000, 80), SYN, &[2, 4, 5, 180], b"")
        }),
        ("an echo request".to_owned(), { ip.icmp(family.of([8, 128]), 0, [0, 1, 0, 1], b"ping") }),
        ("a UDP datagram without payload".to_owned(), ip.udp((40_000, 53), b"")),
        ("a UDP datagram without checksum".to_owned(), {
            let at = ETHERNET + family.header() + 6;
            broken(ip.udp((40_000, 53), b"odd"), at, &[0, 0])
        }),
        ("a UDP datagram shorter than its packet".to_owned(), {
            let datagram = ip.udp_datagram((40_000, 53), b"short");
            ip.raw(UDP, &[&datagram[..], b"more"].concat())
        }),
        ("a first fragment".to_owned(), {
            let datagram = ip.udp_datagram((40_000, 53), &payload(200));
            ip.clone().fragment(7, 0, true).raw(UDP, &datagram[..104])
        }),
        ("a later fragment of odd length".to_owned(), {
            ip.clone().fragment(7, 104, false).raw(UDP, &payload(77))
        }),
        ("a protocol without checksum".to_owned(), ip.raw(253, &payload(33))),
        ("no payload at all".to_owned(), ip.raw(TCP, b"")),
        ("half of a TCP header".to_owned(), ip.raw(TCP, &payload(10))),
        ("another traffic class and TTL".to_owned(), {
            ip.clone().class(0xb8).ttl(3).flow_label(0x12345).tcp((1, 80), ACK, b"x")
        }),
        ("addresses that are all ones in part".to_owned(), {
            let source = family.of(["255.255.0.1".parse().unwrap(), "ffee::1".parse().unwrap()]);
            Ip::new(source, family.of(VIPS)).udp((65_535, 65_535), b"\xff\xff\xff")
        }),
    ];
    match family {
        Family::V4 => frames.push(("IPv4 options".to_owned(), {
            ip.clone().options(&[1, 1, 1, 0]).tcp((40_000, 80), ACK, b"options")
        })),
        Family::V6 => {
            for (name, kind) in [("hop-by-hop", HOP_BY_HOP), ("destination", DESTINATION_OPTIONS)] {
                frames.push((format!("{name} options"), {
                    ip.clone().padded_extension(kind, 1).tcp((40_000, 80), ACK, b"extension")
                }));
            }
            let many = (0..6).fold(ip.clone(), |ip, _| ip.padded_extension(DESTINATION_OPTIONS, 0));
            frames.push(("six extension headers".to_owned(), many.tcp((1, 80), ACK, b"")));
        }
    }
    for octets in [1, 2, 3, 4, 63, 64, 65, 511, 512, 513, 1_300, 1_400] {
        let payload = payload(octets);
        frames.push((format!("TCP, {octets} octets"), ip.tcp((40_000, 80), ACK, &payload)));
        frames.push((format!("UDP, {octets} octets"), ip.udp((40_000, 53), &payload)));
        let message = ip.icmp(family.of([8, 128]), 0, [0, 1, 0, 2], &payload);
        frames.push((format!("ICMP, {octets} octets"), message));
        let rest = ip.clone().fragment(9, 1_400, true).raw(UDP, &payload);
        frames.push((format!("a fragment, {octets} octets"), rest));
    }
    frames
}

#[test]
fn every_kind_over_and_with_every_family() {
    let mut cases = Vec::new();
    for tunnel in Tunnel::all() {
        for family in Family::ALL {
            for (name, inner) in inner_frames(family) {
                let tunnels = match tunnel.kind.is_udp() {
                    true => vec![tunnel.clone(), tunnel.clone().without_checksum()],
                    false => vec![tunnel.clone()],
                };
                for tunnel in tunnels {
                    let name = format!("{}: {family:?}: {name}", tunnel.name());
                    let reason = tunnel.kind.reason();
                    cases.push(Case::takes_out(name, tunnel.wrap(&inner), reason, inner.clone()));
                }
            }
        }
    }
    run_all(&cases);
}

#[test]
fn octets_behind_packets_stay_behind() {
    let mut cases = Vec::new();
    for tunnel in Tunnel::all() {
        for family in Family::ALL {
            let inner = client(family).tcp((40_000, 80), ACK, b"x");
            let name = format!("{}: {family:?}", tunnel.name());
            let reason = tunnel.kind.reason();
            // Behind the outer packet.
            let frame = trailed(tunnel.wrap(&inner), b"ethernet");
            let right = trailed(inner.clone(), b"ethernet");
            cases.push(Case::takes_out(format!("{name}, padded"), frame, reason, right));
            // Behind the inner packet, and in the outer one.
            let right = trailed(inner.clone(), b"inside");
            let frame = tunnel.wrap(&right);
            cases.push(Case::takes_out(format!("{name}, padded inside"), frame, reason, right));
        }
    }
    run_all(&cases);
}

#[test]
fn gre_may_have_a_key_and_a_sequence_number() {
    let mut cases = Vec::new();
    for outer in Family::ALL {
        for family in Family::ALL {
            let inner = client(family).udp((40_000, 53), b"x");
            for (flags, fields) in [(0x20, 4), (0x10, 4), (0x30, 8)] {
                let [high, low] = family.of([[0x08, 0x00], [0x86, 0xdd]]);
                let header = [&[flags, 0, high, low][..], &vec![0xa5; fields]].concat();
                let frame = Tunnel::new(Kind::Gre, outer).header(&header).wrap(&inner);
                let name = format!("GRE over {outer:?} of {family:?}, flags {flags:#x}");
                cases.push(Case::takes_out(name, frame, "gre", inner.clone()));
            }
        }
    }
    run_all(&cases);
}

#[test]
fn a_frame_may_be_in_several_buffers() {
    if !crate::xdp::has_frags() {
        println!("skipped: the kernel has one buffer for a frame");
        return;
    }
    let mut cases = Vec::new();
    for tunnel in Tunnel::all() {
        let ip = client(Family::V4);
        let inner = ip.tcp((40_000, 80), ACK, &[0x5a; 8_000]);
        let reason = tunnel.kind.reason();
        cases.push(Case::takes_out(tunnel.name(), tunnel.wrap(&inner), reason, inner));
        // Its sum takes more than is in the first buffer.
        let inner = ip.fragment(7, 0, true).raw(UDP, &[0x5a; 8_000]);
        let frame = tunnel.wrap(&inner);
        cases.push(match tunnel.kind.is_udp() {
            true => Case::drops(tunnel.name(), frame, "unverifiable"),
            false => Case::takes_out(tunnel.name(), frame, reason, inner),
        });
    }
    run_all(&cases);
}
