//! IP headers: lengths, versions, options, extension headers, padding.

use super::case::Case;
use super::world::*;
use crate::common::dataplane::Port;
use crate::common::frame::*;

/// Both families' lengths and versions.
pub fn lengths(w: &World) -> Vec<Case> {
    let vip = w.vip;
    let segment = || w.ip().tcp((w.unique(), WEB), ACK, b"");
    let (header, length) = w.either((20, 16), (40, 18));
    let shortest = ETHERNET + header;
    let total = |octets: u16| patched(segment(), length, &octets.to_be_bytes());
    let mut cases = vec![
        w.case("version 5", patched(segment(), 14, &[0x55])).malformed(vip),
        w.case("version 0", patched(segment(), 14, &[0x05])).malformed(vip),
        w.case("the other family's version", patched(segment(), 14, &[w.either(0x65, 0x45)]))
            .malformed(vip),
        w.case("length 0", total(0)).malformed(vip),
        w.case("length 65,535", total(65_535)).malformed(vip),
        w.case("one octet longer than the frame", total(w.either(41, 21))).malformed(vip),
        w.case("cut after the IP header", cut(segment(), shortest)).malformed(vip),
        w.case("cut in the TCP header", cut(segment(), shortest + 10)).malformed(vip),
        w.case("cut one octet short", {
            let frame = segment();
            let length = frame.len() - 1;
            cut(frame, length)
        })
        .malformed(vip),
        w.case("as long as can be seen of a jumbo frame", {
            w.ip().tcp((w.unique(), WEB), ACK, &[7; 1400])
        })
        .forwards("forwarded_new", w.web()),
        w.case("class and flow label stay", {
            let ip = w.ip().class(0xbb).flow_label(0xf_1234).identification(0xbeef);
            ip.dont_fragment().tcp((w.unique(), WEB), ACK, b"x")
        })
        .forwards("forwarded_new", w.web()),
    ];
    for (name, frame) in [
        ("padded with zeros", padded(segment(), w.either(60, 80))),
        ("one octet of padding", trailed(segment(), &[0xff])),
        ("1,000 octets behind the packet", trailed(segment(), &[0xa5; 1000])),
    ] {
        cases.push(w.case(name, frame).forwards("forwarded_new", w.web()));
    }
    for (name, frame) in [
        ("a SYN, padded", padded(w.segment(WEB, SYN), 90)),
        ("a SYN that is not padded", w.segment(WEB, SYN)),
    ] {
        cases.push(w.case(name, frame).forwards("forwarded_syn", w.web()).counts(&["syn"]));
    }
    // The octets behind the packet are none of its own.
    cases.push(
        w.case("a TCP header that ends in the padding", total(w.either(39, 19))).malformed(vip),
    );
    cases.push(
        w.case("a UDP header that ends in the padding", {
            trailed(w.ip().raw(UDP, &[0x40, 0, 0, 53, 0, 8, 0]), &[0, 0, 0])
        })
        .malformed(vip),
    );
    cases
}

/// Options and header lengths of IPv4.
pub fn options(w: &World) -> Vec<Case> {
    let mut cases = Vec::new();
    for length in (4..=40).step_by(4) {
        let mut options = vec![1; length];
        options[length - 1] = 0;
        let frame = w.ip().options(&options).tcp((w.unique(), WEB), ACK, b"x");
        let name = format!("{length} octets of options");
        cases.push(w.case(&name, frame).forwards("forwarded_new", w.web()));
    }
    let router_alert = w.ip().options(&[0x94, 4, 0, 0]);
    let segment = || w.ip().tcp((w.unique(), WEB), ACK, b"");
    let wrong = broken(segment(), 24, &[0x12, 0x34]);
    let still_wrong = forwarded(&wrong, Port::Lb0.mac(), w.web().mac);
    let still_wrong = broken(still_wrong, 24, &[0x13, 0x34]);
    cases.extend([
        w.case("options before UDP", router_alert.udp((w.unique(), DNS), b"q"))
            .forwards("forwarded_new", w.dns()),
        w.case("options that are garbage", {
            w.ip().options(&[0x07, 0xff, 0xff, 0xff]).tcp((w.unique(), WEB), SYN, b"")
        })
        .forwards("forwarded_syn", w.web())
        .counts(&["syn"]),
        w.case("IHL 0", patched(segment(), 14, &[0x40])).malformed(w.vip),
        w.case("IHL 4", patched(segment(), 14, &[0x44])).malformed(w.vip),
        w.case("IHL 15 in a packet of 40 octets", broken(segment(), 14, &[0x4f])).malformed(w.vip),
        w.case("IHL 15 in a packet of 60 octets without a TCP header", {
            w.ip().options(&[1; 40]).raw(TCP, &[])
        })
        .malformed(w.vip),
        w.case("total length of the header alone", {
            patched(segment(), 16, &20_u16.to_be_bytes())
        })
        .malformed(w.vip),
        w.case("total length below the header's", patched(segment(), 16, &[0, 19]))
            .malformed(w.vip),
        w.case("a header's checksum that is wrong stays as wrong", wrong).forwards_as(
            "forwarded_new",
            w.web(),
            still_wrong,
        ),
        w.case("the reserved flag", patched(segment(), 20, &[0x80, 0]))
            .forwards("forwarded_new", w.web()),
        w.case("the flag DF", patched(segment(), 20, &[0x40, 0]))
            .forwards("forwarded_new", w.web()),
    ]);
    cases
}

/// Extension headers of IPv6.
pub fn extensions(w: &World) -> Vec<Case> {
    let tcp = |ip: Ip| ip.tcp((w.unique(), WEB), ACK, b"x");
    let forwarded = |name: &str, ip: Ip| w.case(name, tcp(ip)).forwards("forwarded_new", w.web());
    let malformed = |name: &str, frame: Vec<u8>| w.case(name, frame).malformed(w.vip);
    let chain = |length: usize| {
        (0..length).fold(w.ip(), |ip, _| ip.padded_extension(DESTINATION_OPTIONS, 0))
    };
    let mut cases: Vec<Case> = (1..=8)
        .map(|length| forwarded(&format!("{length} extension headers"), chain(length)))
        .collect();
    let all_kinds = || {
        w.ip()
            .padded_extension(HOP_BY_HOP, 0)
            .padded_extension(DESTINATION_OPTIONS, 1)
            .extension(
                ROUTING,
                &[0, 2, 4, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8],
            )
            .fragment(77, 0, false)
            .padded_extension(DESTINATION_OPTIONS, 0)
    };
    let one = || tcp(w.ip().padded_extension(HOP_BY_HOP, 0));
    cases.extend([
        malformed("9 extension headers", tcp(chain(9))),
        malformed("12 extension headers", tcp(chain(12))),
        malformed("8 extension headers and an atomic fragment", {
            tcp(chain(8).fragment(1, 0, false))
        }),
        malformed("9 extension headers before an unknown protocol", chain(9).raw(200, &[0; 20])),
        forwarded("7 extension headers and an atomic fragment", chain(7).fragment(1, 0, false)),
        forwarded("hop-by-hop options", w.ip().padded_extension(HOP_BY_HOP, 0)),
        forwarded("hop-by-hop options that are not first", {
            chain(1).padded_extension(HOP_BY_HOP, 0)
        }),
        forwarded("a routing header", w.ip().extension(ROUTING, &[0, 0, 2, 0, 0, 0, 0, 0])),
        malformed("a routing header with a segment left", {
            tcp(w.ip().extension(ROUTING, &[0, 0, 2, 1, 0, 0, 0, 0]))
        }),
        forwarded("destination options of 1,024 octets", {
            w.ip().padded_extension(DESTINATION_OPTIONS, 127)
        }),
        forwarded("every kind of extension header", all_kinds()),
        w.case("every kind before UDP", all_kinds().udp((w.unique(), DNS), b"q"))
            .forwards("forwarded_new", w.dns()),
        w.case("every kind before a SYN", all_kinds().tcp((w.unique(), WEB), SYN, b""))
            .forwards("forwarded_syn", w.web())
            .counts(&["syn"]),
        forwarded("an atomic fragment", w.ip().fragment(9, 0, false)),
        forwarded("an extension header, padded frame", chain(1)),
        malformed(
            "an extension header of 2,048 octets in a short packet",
            broken(one(), 55, &[255]),
        ),
        malformed("an extension header that ends in the TCP header", broken(one(), 55, &[2])),
        malformed("an extension header that ends one octet behind the packet", {
            let frame = w.ip().extension(HOP_BY_HOP, &[0, 1, 1, 4, 0, 0, 0, 0]).raw(TCP, &[0; 7]);
            trailed(frame, &[0; 64])
        }),
        malformed("4 octets of an extension header", w.ip().raw(HOP_BY_HOP, &[6, 0, 1, 4])),
        malformed("4 octets of a fragment header", w.ip().raw(FRAGMENT, &[6, 0, 0, 0])),
        malformed("4 octets of an extension header and padding", {
            trailed(w.ip().raw(HOP_BY_HOP, &[6, 0, 1, 4]), &[0; 40])
        }),
        malformed("an extension header and nothing", chain(1).raw(TCP, &[])),
        malformed("cut in an extension header", cut(one(), 60)),
        malformed("an empty packet without a next header", w.ip().raw(59, &[])),
        w.case("no next header", w.ip().raw(59, &[0; 8])).drops("no_service", w.on_vip()),
        w.case("no next header behind options", chain(1).raw(59, &[0; 8]))
            .drops("no_service", w.on_vip()),
        w.case("an authentication header", w.ip().raw(51, &[6, 4, 0, 0, 0, 0, 0, 0]))
            .drops("no_service", w.on_vip()),
        w.case("ESP", w.ip().raw(50, &[0; 24])).drops("no_service", w.on_vip()),
        w.case("a mobility header", w.ip().raw(135, &[59, 0, 0, 0, 0, 0, 0, 0]))
            .drops("no_service", w.on_vip()),
    ]);
    cases
}
