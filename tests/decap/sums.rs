//! Outer checksums: right, wrong and absent.

use crate::case::Case;
use crate::case::run_all;
use crate::frame::*;
use crate::tunnel::*;

#[test]
fn a_wrong_outer_ipv4_checksum_is_the_end() {
    let mut cases = Vec::new();
    for kind in Kind::ALL {
        let frame = Tunnel::new(kind, Family::V4).wrap(&client(Family::V4).tcp((1, 80), ACK, b""));
        for bit in 0..16 {
            let [high, low] = u16::from_be_bytes([frame[24], frame[25]]).to_be_bytes();
            let wrong = (u16::from_be_bytes([high, low]) ^ 1 << bit).to_be_bytes();
            let name = format!("{kind:?}, bit {bit}");
            cases.push(Case::drops(name, broken(frame.clone(), 24, &wrong), "outer_checksum"));
        }
        let ttl = broken(frame, 22, &[63]);
        cases.push(Case::drops(format!("{kind:?}, TTL"), ttl, "outer_checksum"));
    }
    run_all(&cases);
}

/// Packets whose sum follows from headers, and others.
fn inner_frames(family: Family) -> [(&'static str, Vec<u8>); 5] {
    let ip = client(family);
    [
        ("TCP", ip.tcp((40_000, 80), ACK, b"some payload")),
        ("UDP", ip.udp((40_000, 53), b"some payload")),
        ("ICMP", ip.icmp(family.of([8, 128]), 0, [0, 1, 0, 1], b"some payload")),
        ("a fragment", ip.clone().fragment(7, 64, true).raw(UDP, b"some payload")),
        ("another protocol", ip.raw(253, b"some payload")),
    ]
}

#[test]
fn a_wrong_outer_udp_checksum_is_the_end() {
    let mut cases = Vec::new();
    for tunnel in Tunnel::all().into_iter().filter(|tunnel| tunnel.kind.is_udp()) {
        for family in Family::ALL {
            for (name, inner) in inner_frames(family) {
                let frame = tunnel.wrap(&inner);
                let name = format!("{} of {family:?}: {name}", tunnel.name());
                let udp = ETHERNET + tunnel.outer.header();
                let right = u16::from_be_bytes([frame[udp + 6], frame[udp + 7]]);
                for bit in 0..16 {
                    let wrong = right ^ 1 << bit;
                    if wrong == 0 {
                        continue;
                    }
                    let frame = broken(frame.clone(), udp + 6, &wrong.to_be_bytes());
                    cases.push(Case::drops(format!("{name}, bit {bit}"), frame, "udp_checksum"));
                }
                let port = broken(frame.clone(), udp, &[1, 2]);
                cases.push(Case::drops(format!("{name}, source port"), port, "udp_checksum"));
                let at = tunnel.outer.of([29, 37]);
                let foreign = patched(frame.clone(), at, &[frame[at] ^ 1]);
                cases.push(Case::passes(format!("{name}, source"), foreign, "foreign_source"));
            }
        }
    }
    run_all(&cases);
}

/// What the inner checksum does not cover is summed; what it covers the stack checks.
#[test]
fn a_wrong_octet_inside_is_found_here_or_in_the_stack() {
    let mut cases = Vec::new();
    for tunnel in Tunnel::all().into_iter().filter(|tunnel| tunnel.kind.is_udp()) {
        for family in Family::ALL {
            for (kind, inner) in inner_frames(family) {
                let frame = tunnel.wrap(&inner);
                let name = format!("{} of {family:?}: {kind}", tunnel.name());
                let last = frame.len() - 1;
                let wrong = broken(frame.clone(), last, &[frame[last] ^ 0x10]);
                cases.push(match kind {
                    "a fragment" | "another protocol" => Case::drops(name, wrong, "udp_checksum"),
                    _ => {
                        let last = inner.len() - 1;
                        let right = broken(inner.clone(), last, &[inner[last] ^ 0x10]);
                        assert!(verify(&right).is_err(), "{name}: the stack finds it");
                        Case::takes_out(name, wrong, tunnel.kind.reason(), right)
                    }
                });
            }
        }
    }
    run_all(&cases);
}
