//! What is not taken out: passed as it is, or dropped, each with its reason.

use std::net::IpAddr;

use xvs::DecapOptions;

use crate::case::Case;
use crate::case::run_all;
use crate::case::run_all_with;
use crate::frame::*;
use crate::real::options;
use crate::tunnel::*;

/// A packet to a VIP that is right in everything.
fn inner(family: Family) -> Vec<u8> {
    client(family).tcp((40_000, 80), ACK, b"payload")
}

/// Cases of every kind over each family, with a packet of each.
fn of_all(mut cases: impl FnMut(&Tunnel, Family) -> Vec<Case>) -> Vec<Case> {
    let mut all = Vec::new();
    for tunnel in Tunnel::all() {
        for family in Family::ALL {
            all.extend(cases(&tunnel, family));
        }
    }
    all
}

#[test]
fn what_is_of_no_tunnel_is_passed() {
    let mut cases = Vec::new();
    for family in Family::ALL {
        let ip = Ip::new(family.of(BALANCERS), family.of(LOCAL));
        for (name, frame) in [
            ("TCP to the host", ip.tcp((1, 80), SYN, b"")),
            ("TCP to the port of GUE", ip.tcp((1, GUE), SYN, b"")),
            ("UDP to another port", ip.udp((GUE, 53), b"x")),
            ("an echo request", ip.icmp(family.of([8, 128]), 0, [0; 4], b"x")),
            ("a later fragment of UDP", ip.clone().fragment(7, 64, false).raw(UDP, &[0x45; 40])),
            ("UDP without ports", ip.raw(UDP, b"1234567")),
            ("ESP", ip.raw(50, &[1; 40])),
            ("to a VIP without a tunnel", inner(family)),
            ("GRE with Ethernet in it", {
                let tunnel = Tunnel::new(Kind::Gre, family).header(&[0, 0, 0x65, 0x58]);
                tunnel.wrap(&inner(Family::V4))
            }),
        ] {
            cases.push(Case::passes(format!("{family:?}: {name}"), frame, "not_tunnel"));
        }
        let many = (0..5).fold(ip, |ip, _| ip.padded_extension(DESTINATION_OPTIONS, 0));
        if family == Family::V6 {
            let frame = many.raw(IPIP, &inner(Family::V4)[ETHERNET..]);
            cases.push(Case::passes("five extension headers", frame, "not_tunnel"));
        }
    }
    let typed = |octets: [u8; 2]| broken(inner(Family::V4), 12, &octets);
    let service_tagged = broken(tagged(inner(Family::V4), 7), 12, &[0x88, 0xa8]);
    for (name, frame) in
        [("ARP", typed([8, 6])), ("MPLS", typed([0x88, 0x47])), ("802.1ad", service_tagged)]
    {
        cases.push(Case::passes(name, frame, "not_tunnel"));
    }
    run_all(&cases);
}

#[test]
fn what_is_others_is_passed() {
    let cases = of_all(|tunnel, family| {
        let name = format!("{} of {family:?}", tunnel.name());
        let outer = tunnel.outer;
        let from = |source: IpAddr, to: IpAddr| tunnel.clone().ip(Ip::new(source, to));
        let (balancer, local, vip) = (outer.of(BALANCERS), outer.of(LOCAL), outer.of(VIPS));
        let stranger = outer.of(STRANGERS);
        let mut cases = Vec::new();
        for (what, tunnel, reason) in [
            ("from a stranger", from(stranger, local), "foreign_source"),
            ("from the host itself", from(local, local), "foreign_source"),
            ("from a VIP", from(vip, local), "foreign_source"),
            ("from a stranger to a stranger", from(stranger, stranger), "foreign_source"),
            ("to a stranger", from(balancer, stranger), "not_local"),
            ("to the balancer", from(balancer, balancer), "not_local"),
            ("to a VIP", from(balancer, vip), "not_local"),
        ] {
            cases.push(Case::passes(
                format!("{name}, {what}"),
                tunnel.wrap(&inner(family)),
                reason,
            ));
        }
        for (what, to) in [
            ("a stranger", family.of(STRANGERS)),
            ("the host", family.of(LOCAL)),
            ("the balancer", family.of(BALANCERS)),
        ] {
            let packet = Ip::new(family.of(CLIENTS), to).tcp((1, 80), ACK, b"x");
            let frame = tunnel.wrap(&packet);
            cases.push(Case::passes(format!("{name}, inside to {what}"), frame, "not_vip"));
        }
        // Whose packet it is comes before what is wrong with it.
        let ip = Ip::new(stranger, local).options(outer.of([&[1, 1, 1, 1], &[]]));
        let frame = tunnel.clone().ip(ip).wrap(&inner(family));
        cases.push(Case::passes(format!("{name}, with options"), frame, "foreign_source"));
        let ip = Ip::new(stranger, local).fragment(7, 0, true);
        let frame = tunnel.clone().ip(ip).wrap(&inner(family));
        cases.push(Case::passes(format!("{name}, a fragment"), frame, "foreign_source"));
        cases
    });
    run_all(&cases);
}

/// What the real server is told, but without a port of FOU or of GUE.
fn lacking(fou: bool, gue: bool) -> DecapOptions {
    let mut options = options();
    options.fou = options.fou.filter(|_| !fou);
    options.gue = options.gue.filter(|_| !gue);
    options
}

#[test]
fn what_is_not_asked_for_is_of_no_tunnel() {
    for (without, options) in [
        (&[Kind::Fou][..], lacking(true, false)),
        (&[Kind::Gue], lacking(false, true)),
        (&[Kind::Fou, Kind::Gue], lacking(true, true)),
    ] {
        let cases = of_all(|tunnel, family| {
            let frame = tunnel.wrap(&inner(family));
            let name = format!("{} of {family:?}, without {without:?}", tunnel.name());
            vec![match without.contains(&tunnel.kind) {
                true => Case::passes(name, frame, "not_tunnel"),
                false => Case::takes_out(name, frame, tunnel.kind.reason(), inner(family)),
            }]
        });
        run_all_with(options, &cases);
    }
}

#[test]
fn given_addresses_are_the_only_local_ones() {
    let given = options().local(STRANGERS[0]).local(STRANGERS[1]);
    let cases = of_all(|tunnel, family| {
        let outer = tunnel.outer;
        let ip = Ip::new(outer.of(BALANCERS), outer.of(STRANGERS));
        let frame = tunnel.clone().ip(ip).wrap(&inner(family));
        let name = format!("{} of {family:?}", tunnel.name());
        vec![
            Case::takes_out(name.clone(), frame, tunnel.kind.reason(), inner(family)),
            Case::passes(name, tunnel.wrap(&inner(family)), "not_local"),
        ]
    });
    run_all_with(given, &cases);
}

/// ::ffff:10.1.2.1 is not 10.1.2.1, nor is a mapped VIP one.
#[test]
fn addresses_of_ipv4_count_in_ipv4_alone() {
    let mapped = |address: IpAddr| match address {
        IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
        IpAddr::V6(_) => address,
    };
    let [balancer, local, vip] = [BALANCERS, LOCAL, VIPS].map(|pair| mapped(pair[0]));
    let mut cases = Vec::new();
    for kind in Kind::ALL {
        let over = |from, to| Tunnel::new(kind, Family::V6).ip(Ip::new(from, to));
        let packet = inner(Family::V6);
        let frame = over(balancer, LOCAL[1]).wrap(&packet);
        cases.push(Case::passes(format!("{kind:?}, source"), frame, "foreign_source"));
        let frame = over(BALANCERS[1], local).wrap(&packet);
        cases.push(Case::passes(format!("{kind:?}, destination"), frame, "not_local"));
        let packet = Ip::new(CLIENTS[1], vip).tcp((1, 80), ACK, b"");
        let frame = Tunnel::new(kind, Family::V6).wrap(&packet);
        cases.push(Case::passes(format!("{kind:?}, inside"), frame, "not_vip"));
    }
    run_all(&cases);
}

#[test]
fn an_outer_packet_that_is_not_whole_and_plain_is_passed() {
    let cases = of_all(|tunnel, family| {
        let name = format!("{} of {family:?}", tunnel.name());
        let with = |ip: Ip| tunnel.clone().ip(ip).wrap(&inner(family));
        let ip = || tunnel.ip.clone();
        let mut cases = vec![
            Case::passes(
                format!("{name}, first fragment"),
                with(ip().fragment(7, 0, true)),
                "outer_fragment",
            ),
            Case::passes(
                format!("{name}, wrong version"),
                {
                    let frame = with(ip());
                    broken(frame.clone(), 14, &[frame[14] ^ 0xf0])
                },
                "outer_malformed",
            ),
        ];
        if !tunnel.kind.is_udp() {
            let frame = with(ip().fragment(7, 64, false));
            cases.push(Case::passes(format!("{name}, later fragment"), frame, "outer_fragment"));
        }
        match tunnel.outer {
            Family::V4 => {
                let frame = with(ip().options(&[1, 1, 1, 0]));
                cases.push(Case::passes(format!("{name}, options"), frame, "outer_options"));
                let frame = with(ip().dont_fragment());
                let reason = tunnel.kind.reason();
                let right = inner(family);
                cases.push(Case::takes_out(format!("{name}, DF"), frame, reason, right));
                // A header of less than its 20 octets, which hides where ports are.
                let frame = patched(with(ip()), 14, &[0x44]);
                let name = format!("{name}, header length");
                let reason = match tunnel.kind.is_udp() {
                    true => "not_tunnel",
                    false => "outer_malformed",
                };
                cases.push(Case::passes(name, frame, reason));
            }
            Family::V6 => {
                for kind in [HOP_BY_HOP, DESTINATION_OPTIONS, ROUTING] {
                    let frame = with(ip().padded_extension(kind, 2));
                    let name = format!("{name}, extension header {kind}");
                    cases.push(Case::passes(name, frame, "outer_options"));
                }
                // Neither offset nor more of them (RFC 6946).
                let frame = with(ip().fragment(7, 0, false));
                cases.push(Case::passes(format!("{name}, atomic"), frame, "outer_fragment"));
            }
        }
        cases
    });
    run_all(&cases);
}

#[test]
fn a_frame_cut_anywhere_is_left_to_the_stack() {
    let cases = of_all(|tunnel, family| {
        let frame = tunnel.wrap(&inner(family));
        // Ethernet is the least that the kernel gives a program.
        let cut_at = |length| {
            let name = format!("{} of {family:?}, cut to {length}", tunnel.name());
            let cut = cut(frame.clone(), length);
            let reason = match length < tunnel.known_from() {
                true => "not_tunnel",
                false => "outer_malformed",
            };
            Case::passes(name, cut, reason)
        };
        (14..frame.len()).map(cut_at).collect()
    });
    run_all(&cases);
}

/// The same with outer lengths that fit: what is inside is cut.
#[test]
fn an_inner_packet_is_all_there() {
    let cases = of_all(|tunnel, family| {
        let packet = &inner(family)[ETHERNET..];
        let cut_to = |length: usize| {
            let name = format!("{} of {family:?}, {length} octets inside", tunnel.name());
            let frame = tunnel.wrap_packet(family, &packet[..length]);
            // Whom it is for is not there, or is.
            match length < family.header() {
                true => Case::passes(name, frame, "outer_malformed"),
                false => Case::drops(name, frame, "malformed"),
            }
        };
        let mut cases: Vec<Case> = (0..packet.len()).map(cut_to).collect();

        let at = tunnel.inner_offset();
        let frame = tunnel.clone().without_checksum().wrap(&inner(family));
        let name = format!("{} of {family:?}", tunnel.name());
        let change = |offset: usize, octets: &[u8]| broken(frame.clone(), at + offset, octets);
        let length = family.of([2, 4]);
        for (what, frame) in [
            ("longer than the tunnel", change(length, &[5, 0])),
            ("of the longest length", change(length, &[0xff, 0xff])),
        ] {
            cases.push(Case::drops(format!("{name}, {what}"), frame, "malformed"));
        }
        for version in [0, 0xff] {
            let name = format!("{name}, first octet {version:#x}");
            cases.push(Case::passes(name, change(0, &[version]), "outer_malformed"));
        }
        // The version is all that tells FOU the family.
        let frame = change(0, &[family.of([0x65, 0x45])]);
        let other = format!("{name}, the other family's version");
        let reason = match tunnel.kind {
            Kind::Fou => "not_vip",
            _ => "outer_malformed",
        };
        cases.push(Case::passes(other, frame, reason));
        if family == Family::V4 {
            let frame = change(0, &[0x44]);
            cases.push(Case::drops(format!("{name}, header length"), frame, "malformed"));
            let frame = change(2, &[0, 19]);
            cases.push(Case::drops(format!("{name}, shorter than its header"), frame, "malformed"));
        }
        cases
    });
    run_all(&cases);
}

/// What devices of Linux send between the same two hosts, for no VIP.
#[test]
fn other_tunnels_between_the_same_hosts_are_untouched() {
    let mut cases = Vec::new();
    let others = |family: Family| {
        Ip::new(family.of(CLIENTS), family.of(STRANGERS)).tcp((1, 80), ACK, &[0x5a; 64])
    };
    for family in Family::ALL {
        for (whose, packet) in [("others", others(family)), ("a VIP", inner(family))] {
            let packet = &packet[ETHERNET..];
            let protocol = family.of([IPIP, IPV6]);
            let ip = |outer: Family| Tunnel::new(Kind::Ipip, outer).ip;
            let name = |what| format!("{what}, {family:?} for {whose}");

            // A limit of encapsulations, 4 (RFC 2473, section 4.1.1), and padding.
            let limit = [protocol, 0, 4, 1, 4, 1, 1, 0];
            let frame = ip(Family::V6).raw(DESTINATION_OPTIONS, &[&limit[..], packet].concat());
            cases.push(Case::passes(name("ip6tnl, encaplimit"), frame, "outer_options"));

            for outer in Family::ALL {
                let first = ip(outer).fragment(7, 0, true).raw(protocol, &packet[..40]);
                cases.push(Case::passes(name("first fragment"), first, "outer_fragment"));
                let later = ip(outer).fragment(7, 40, false).raw(protocol, &packet[40..]);
                cases.push(Case::passes(name("later fragment"), later, "outer_fragment"));

                let frame = [&[0x55; 12][..], &[0x08, 0x00], packet].concat();
                for (what, header) in [
                    ("gretap", &[0x00, 0x00, 0x65, 0x58][..]),
                    ("gretap, csum", &[0x80, 0x00, 0x65, 0x58, 0x12, 0x34, 0, 0]),
                    ("gretap, key, seq, csum", &[&[0xb0, 0x00, 0x65, 0x58], &[0; 12][..]].concat()),
                ] {
                    let frame = ip(outer).raw(GRE, &[header, &frame[..]].concat());
                    cases.push(Case::passes(name(what), frame, "not_tunnel"));
                }
                let gre = [&[0x80, 0x00][..], &family.of([[0x08, 0x00], [0x86, 0xdd]])].concat();
                let frame = ip(outer).raw(GRE, &[&gre[..], &[0x12, 0x34, 0, 0], packet].concat());
                cases.push(Case::passes(name("gre, csum"), frame, "unsupported"));
            }
        }
    }
    run_all(&cases);
}

#[test]
fn a_udp_header_tells_its_length() {
    let mut cases = Vec::new();
    for tunnel in Tunnel::all().into_iter().filter(|tunnel| tunnel.kind.is_udp()) {
        let frame = tunnel.clone().without_checksum().wrap(&inner(Family::V4));
        let at = ETHERNET + tunnel.outer.header() + 4;
        let right = u16::from_be_bytes([frame[at], frame[at + 1]]);
        for length in [0, 7, 8, right - 1, right + 1, u16::MAX] {
            let frame = broken(frame.clone(), at, &length.to_be_bytes());
            let name = format!("{}, UDP length {length}", tunnel.name());
            cases.push(Case::passes(name, frame, "outer_malformed"));
        }
        // Nothing in it, or not all of a header.
        for length in 0..4 {
            let frame = tunnel.ip.raw(UDP, &tunnel.datagram(&[0, 4, 0][..length.min(3)]));
            let name = format!("{}, {length} octets in it", tunnel.name());
            cases.push(Case::passes(name, frame, "outer_malformed"));
        }
    }
    run_all(&cases);
}

#[test]
fn other_forms_of_gre_and_gue_are_passed() {
    let mut cases = Vec::new();
    for outer in Family::ALL {
        let mut pass = |kind, name: &str, header: &[u8], reason| {
            let frame = Tunnel::new(kind, outer).header(header).wrap(&inner(Family::V4));
            cases.push(Case::passes(format!("{kind:?} over {outer:?}, {name}"), frame, reason));
        };
        for (name, header) in [
            ("version 1", &[0x00, 0x01, 0x08, 0x00][..]),
            ("version 7", &[0x00, 0x07, 0x08, 0x00]),
            ("a checksum", &[0x80, 0x00, 0x08, 0x00, 0, 0, 0, 0]),
            ("routing", &[0x40, 0x00, 0x08, 0x00, 0, 0, 0, 0]),
            ("a strict source route", &[0x08, 0x00, 0x08, 0x00]),
            ("bit 5", &[0x04, 0x00, 0x08, 0x00]),
        ] {
            pass(Kind::Gre, name, header, "unsupported");
        }
        for (name, header) in [
            ("version 1 as PPTP has it", &[0x20, 0x01, 0x88, 0x0b, 0, 0, 0, 0][..]),
            ("Ethernet with a checksum", &[0x80, 0x00, 0x65, 0x58, 0, 0, 0, 0]),
        ] {
            pass(Kind::Gre, name, header, "not_tunnel");
        }
        for (name, header) in [
            ("version 1", &[0x40, IPIP, 0, 0][..]),
            ("version 3", &[0xc0, IPIP, 0, 0]),
            ("a control message", &[0x20, IPIP, 0, 0]),
            ("optional fields", &[0x01, IPIP, 0, 0, 1, 2, 3, 4]),
            ("flags", &[0x00, IPIP, 0x80, 0]),
            ("the last flag", &[0x00, IPIP, 0, 1]),
            ("GRE in it", &[0x00, GRE, 0, 0, 0, 0, 0x08, 0x00]),
            ("no next header", &[0x00, 59, 0, 0]),
        ] {
            pass(Kind::Gue, name, header, "unsupported");
        }
        pass(Kind::Gue, "the other family's protocol", &[0x00, IPV6, 0, 0], "outer_malformed");
        pass(Kind::Gre, "the other family's protocol", &[0, 0, 0x86, 0xdd], "outer_malformed");
        pass(Kind::Fou, "what is no IP packet", &[0x10, 0, 0, 0], "outer_malformed");
        // Bits that a receiver is to ignore (RFC 2784, section 2.3).
        let header = [0x03, 0xf8, 0x08, 0x00];
        let frame = Tunnel::new(Kind::Gre, outer).header(&header).wrap(&inner(Family::V4));
        let name = format!("GRE over {outer:?}, reserved bits");
        cases.push(Case::takes_out(name, frame, "gre", inner(Family::V4)));
    }
    run_all(&cases);
}

#[test]
fn a_tunnel_in_the_tunnel_is_refused() {
    let cases = of_all(|tunnel, family| {
        let name = format!("{} of {family:?}", tunnel.name());
        let mut cases = Vec::new();
        for kind in Kind::ALL {
            let second = Tunnel::new(kind, family).ip(client(family));
            let frame = tunnel.wrap(&second.wrap(&inner(Family::V4)));
            cases.push(Case::drops(format!("{name}, {kind:?}"), frame, "nested"));
        }
        let ip6 = client(family).raw(IPV6, &inner(Family::V6)[ETHERNET..]);
        cases.push(Case::drops(format!("{name}, IPv6"), tunnel.wrap(&ip6), "nested"));
        let behind = match family {
            Family::V4 => client(family).options(&[1, 1, 1, 0]),
            Family::V6 => client(family).padded_extension(DESTINATION_OPTIONS, 0),
        };
        let frame = tunnel.wrap(&behind.udp((1, FOU), b"x"));
        cases.push(Case::drops(format!("{name}, behind options"), frame, "nested"));
        // Its port is what a later fragment has not.
        let packet =
            client(family).fragment(7, 64, false).raw(UDP, &[0, 1, 0x15, 0xb3, 0, 8, 0, 0]);
        let reason = tunnel.kind.reason();
        let name = format!("{name}, later fragment");
        cases.push(Case::takes_out(name, tunnel.wrap(&packet), reason, packet));
        cases
    });
    run_all(&cases);
}
