//! Which interface packets leave by, and those too large for it.

use super::case::Case;
use super::case::Entry;
use super::case::On;
use super::case::Server;
use super::world::*;
use crate::common::dataplane::Port;
use crate::common::frame::*;

/// In by one interface, out by the same or the other.
pub fn interfaces(w: &World) -> Vec<Case> {
    let syn = |port: u16| w.segment(port, SYN);
    let source = w.unique();
    let ack = || w.ip().tcp((source, FAR), ACK, b"x");
    vec![
        w.case("in by lb0, out by lb0", syn(WEB))
            .forwards("forwarded_syn", w.web())
            .counts(&["syn"]),
        w.case("in by lb0, out by lb1", syn(FAR))
            .forwards("forwarded_syn", w.far())
            .counts(&["syn"]),
        w.case("in by lb1, out by lb0", syn(WEB))
            .on_lb1()
            .forwards("forwarded_syn", w.web())
            .counts(&["syn"]),
        w.case("in by lb1, out by lb1", syn(FAR))
            .on_lb1()
            .forwards("forwarded_syn", w.far())
            .counts(&["syn"]),
        w.case("a flow in by lb0", ack()).forwards("forwarded_new", w.far()),
        w.case("the same flow in by lb1", ack()).on_lb1().forwards("forwarded_flow", w.far()),
        w.case("UDP in by lb1, out by lb0", w.ip().udp((w.unique(), DNS), b"x"))
            .on_lb1()
            .forwards("forwarded_new", w.dns()),
    ]
}

/// The answer to a packet that is larger than the way out allows.
pub fn answer(w: &World, ingress: Port, mtu: u16, frame: &[u8]) -> Vec<u8> {
    let reply = w.reply(ingress);
    if w.is_v4() {
        let [high, low] = mtu.to_be_bytes();
        let quote = &frame[ETHERNET..][..548];
        reply.dont_fragment().icmp(3, 4, [0, 0, high, low], quote)
    } else {
        reply.icmp(2, 0, u32::from(mtu).to_be_bytes(), &frame[ETHERNET..][..1232])
    }
}

/// Packets that are as large as the way out allows, and larger.
pub fn too_big(w: &World) -> Vec<Case> {
    let header = w.either(20, 40) + 20;
    let sized = |port: u16, flags: u8, octets: usize| {
        w.ip().tcp((w.unique(), port), flags, &vec![0x5a; octets - header])
    };
    let too_big = |name: &str, port: u16, mtu: u16, frame: Vec<u8>| {
        let right = answer(w, Port::Lb0, mtu, &frame);
        w.case(name, frame).replies("too_big_replied", right, w.on_tcp(port))
    };
    let (a, b, c) = (w.unique(), w.unique(), w.unique());
    let large = |source: u16, flags: u8| w.ip().tcp((source, FAR), flags, &[1; 1400]);
    let far_udp = Server::new(&w.udp(FAR), w.server(Port::Lb1, 3));
    let datagram = |octets: usize| w.ip().udp((w.unique(), FAR), &vec![3; octets - header + 12]);
    let largest = datagram(1400);
    let larger = datagram(1401);
    let mut cases = vec![
        w.case("1,400 octets for an MTU of 1,400", sized(FAR, ACK, 1400))
            .forwards("forwarded_new", w.far()),
        too_big("1,401 octets for an MTU of 1,400", FAR, 1400, sized(FAR, ACK, 1401)),
        too_big("1,402 octets for an MTU of 1,400", FAR, 1400, sized(FAR, ACK, 1402)),
        too_big("1,500 octets for an MTU of 1,400", FAR, 1400, sized(FAR, ACK, 1500)),
        w.case("1,400 octets and padding for an MTU of 1,400", {
            trailed(sized(FAR, ACK, 1400), &[0; 100])
        })
        .forwards("forwarded_new", w.far()),
        too_big("1,401 octets and octets behind them", FAR, 1400, {
            trailed(sized(FAR, ACK, 1401), &[0xee; 37])
        }),
        w.case("1,500 octets for an MTU of 1,500", sized(WEB, ACK, 1500))
            .forwards("forwarded_new", w.web()),
        too_big("1,501 octets for an MTU of 1,500", WEB, 1500, sized(WEB, ACK, 1501)),
        too_big("3,000 octets for an MTU of 1,500", WEB, 1500, sized(WEB, ACK, 3000)),
        too_big("a SYN that is too large", FAR, 1400, sized(FAR, SYN, 1450)),
        w.case("UDP of 1,400 octets", largest).forwards("forwarded_new", far_udp),
        w.case("UDP of 1,401 octets", larger.clone()).replies(
            "too_big_replied",
            answer(w, Port::Lb0, 1400, &larger),
            On::Service(w.udp(FAR).key()),
        ),
        too_big("a class and a flow label are quoted, not copied", FAR, 1400, {
            let ip = w.ip().class(0xb9).flow_label(0xa_bcde).identification(0x1111).ttl(7);
            ip.tcp((w.unique(), FAR), ACK, &[2; 1400])
        }),
        too_big("a packet of a live flow that is too large", FAR, 1400, large(a, ACK))
            .after(w.ip().tcp((a, FAR), ACK, b""))
            .leaves(&w.key(a, FAR), Entry::Open),
        too_big("a FIN of a live flow that is too large", FAR, 1400, large(a, FIN | ACK))
            .leaves(&w.key(a, FAR), Entry::Closing),
        too_big("a SYN that is too large deletes what a SYN deletes", FAR, 1400, large(a, SYN))
            .leaves(&w.key(a, FAR), Entry::Absent),
        too_big("a first fragment that is too large", FAR, 1400, {
            w.ip().fragment(c.into(), 0, true).tcp((c, FAR), ACK, &[4; 1404])
        }),
        w.case("a packet with TTL 1 that is too large", {
            w.ip().ttl(1).tcp((w.unique(), FAR), ACK, &[1; 1400])
        })
        .drops("ttl_expired", w.on_tcp(FAR)),
    ];
    // What was stored for a packet that was too large serves the next one.
    cases.push(
        w.case("a flow whose first packet was too large", w.ip().tcp((b, FAR), ACK, b""))
            .after(large(b, ACK))
            .forwards("forwarded_flow", w.far()),
    );
    // No error is an answer to an error, to a later fragment, or to nobody.
    let quote = Ip::new(w.vip, w.client).tcp((FAR, w.unique()), ACK, &[7; 1400]);
    let error = Ip::new(w.router, w.vip).icmp(w.either(3, 1), 1, [0; 4], &quote[ETHERNET..]);
    cases.push(
        w.case("an ICMP error that is too large", error).drops("too_big_limited", w.on_tcp(FAR)),
    );
    let whole = w.unique();
    cases.push(
        w.case("a later fragment that is too large", {
            w.ip().fragment(whole.into(), 32, false).raw(TCP, &[8; 1420])
        })
        .after(w.ip().fragment(whole.into(), 0, true).tcp((whole, FAR), ACK, &[8; 12]))
        .drops("too_big_limited", w.on_tcp(FAR)),
    );
    for source in w.either(["127.0.0.1", "239.1.2.3"], ["::1", "ff0e::7"]) {
        let ip = Ip::new(source.parse().expect("an address"), w.vip);
        cases.push(
            w.case(&format!("a packet from {source} that is too large"), {
                ip.tcp((w.unique(), FAR), ACK, &[9; 1400])
            })
            .drops("too_big_limited", w.on_tcp(FAR)),
        );
    }
    // The answer goes back by the way the packet came.
    let frame = large(w.unique(), ACK);
    let case = w.case("a packet in by lb1 that is too large", frame.clone()).on_lb1();
    let mut seen = frame;
    seen[..6].copy_from_slice(&Port::Lb1.mac());
    let right = answer(w, Port::Lb1, 1400, &seen);
    cases.push(case.replies("too_big_replied", right, w.on_tcp(FAR)));
    if w.is_v4() {
        for length in [4, 20, 40] {
            let frame = {
                let ip = w.ip().options(&vec![1; length]);
                ip.tcp((w.unique(), FAR), ACK, &[6; 1400])
            };
            cases.push(too_big(
                &format!("a packet with {length} octets of options that is too large"),
                FAR,
                1400,
                frame,
            ));
        }
        cases.push(too_big("a packet with DF that is too large", FAR, 1400, {
            w.ip().dont_fragment().tcp((w.unique(), FAR), ACK, &[6; 1400])
        }));
    } else {
        cases.push(too_big("a packet with extension headers that is too large", FAR, 1400, {
            let ip =
                w.ip().padded_extension(HOP_BY_HOP, 1).padded_extension(DESTINATION_OPTIONS, 9);
            ip.tcp((w.unique(), FAR), ACK, &[6; 1400])
        }));
    }
    cases
}
