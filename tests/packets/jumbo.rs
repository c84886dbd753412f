//! Frames longer than a page, which are in several buffers.

use super::case::Case;
use super::case::Entry;
use super::case::On;
use super::case::Server;
use super::case::is_left;
use super::tagging::Tagging;
use super::ways_out::answer;
use super::world::*;
use crate::common::dataplane::Dataplane;
use crate::common::dataplane::Port;
use crate::common::dataplane::Verdict;
use crate::common::frame::*;

/// Whether the kernel runs the program on such frames; why not is printed.
pub fn works(dataplane: &Dataplane) -> bool {
    let result = dataplane.run_split(Port::Lb0, &[0; 8000], 8000);
    if let Err(error) = &result {
        println!("skipped: the kernel tests no frames that are longer than a page: {error}");
    }
    result.is_ok()
}

/// A TCP packet of so many octets, of a flow that no other case has.
fn sized(w: &World, port: u16, octets: usize) -> Vec<u8> {
    w.ip().tcp((w.unique(), port), ACK, &payload(octets - w.either(40, 60)))
}

/// Octets that differ everywhere.
fn payload(octets: usize) -> Vec<u8> {
    (0..octets).map(|i| (i * 31 + i / 256) as u8).collect()
}

/// Out by the interface that they came in by.
pub fn to_where_it_came_from(w: &World) -> Vec<Case> {
    let forwarded =
        |name: &str, frame: Vec<u8>| w.case(name, frame).forwards("forwarded_new", w.web());
    // About a page less what lies around the octets, a page, two.
    let lengths = [3000, 3480, 3500, 3501, 3502, 3503, 3504, 3505, 3506, 3507, 3520, 4096, 8000];
    let mut cases: Vec<Case> = lengths
        .into_iter()
        .chain([8191, 8192, 8193, 8999, 9000])
        .map(|octets| forwarded(&format!("{octets} octets"), sized(w, WEB, octets)))
        .collect();
    let too_large = sized(w, WEB, 9001);
    let right = answer(w, Port::Lb0, 9000, &too_large);
    cases.push(w.case("9,001 octets for an MTU of 9,000", too_large).replies(
        "too_big_replied",
        right,
        w.on_tcp(WEB),
    ));
    // What is missing may be in a later buffer, or in the first one.
    for octets in [1, 2, 100, 4000, 7000] {
        let frame = sized(w, WEB, 8000);
        let length = frame.len() - octets;
        let name = format!("8,000 octets of which {octets} are missing");
        cases.push(w.case(&name, cut(frame, length)).malformed(w.vip));
    }
    let source = w.unique();
    let datagram = w.ip().udp((w.unique(), DNS), &payload(8000));
    let (request, reply) = w.either((8, 0), (128, 129));
    cases.extend([
        forwarded("8,000 octets and octets behind them", {
            trailed(sized(w, WEB, 8000), &payload(500))
        }),
        forwarded("1,000 octets and 7,000 behind them", {
            trailed(sized(w, WEB, 1000), &payload(7000))
        }),
        w.case("a datagram of 8,000 octets", datagram.clone()).forwards("forwarded_new", w.dns()),
        w.case("a datagram whose length is too large", {
            broken(datagram, w.either(38, 58), &8009_u16.to_be_bytes())
        })
        .malformed(w.vip),
        w.case("a flow's packet", w.ip().tcp((source, WEB), ACK, &payload(8000)))
            .after(w.ip().tcp((source, WEB), ACK, b""))
            .forwards("forwarded_flow", w.web())
            .leaves(&w.key(source, WEB), Entry::Open),
        w.case("a FIN with data", w.ip().tcp((source, WEB), FIN | ACK, &payload(8000)))
            .forwards("forwarded_flow", w.web())
            .counts(&["fin"])
            .leaves(&w.key(source, WEB), Entry::Closing),
        w.case("no service", sized(w, CLOSED, 8000)).drops("no_service", w.on_vip()),
        w.case("a packet for nobody", {
            Ip::new(w.client, w.stranger).tcp((w.unique(), WEB), ACK, &payload(8000))
        })
        .passes("not_vip", On::Nobody),
        w.case("an echo request", w.ip().icmp(request, 0, [0x12, 0x34, 0, 1], &payload(8000)))
            .replies(
                "echo_replied",
                w.reply(Port::Lb0).icmp(reply, 0, [0x12, 0x34, 0, 1], &payload(8000)),
                w.on_vip(),
            ),
        w.case("an echo request of an odd length", {
            w.ip().icmp(request, 0, [0x12, 0x34, 0, 2], &payload(8001))
        })
        .replies(
            "echo_replied",
            w.reply(Port::Lb0).icmp(reply, 0, [0x12, 0x34, 0, 2], &payload(8001)),
            w.on_vip(),
        ),
    ]);
    let whole = w.unique();
    cases.extend([
        w.case("a first fragment", {
            let ip = w.ip().fragment(whole.into(), 0, true);
            ip.tcp((whole, WEB), ACK, &payload(8012))
        })
        .forwards("forwarded_new", w.web()),
        w.case("a later fragment", {
            w.ip().fragment(whole.into(), 8032, false).raw(TCP, &payload(7000))
        })
        .forwards("forwarded_fragment", w.web()),
    ]);
    let quote = Ip::new(w.vip, w.client).tcp((WEB, source), ACK, &payload(7000));
    let error = Ip::new(w.router, w.vip).icmp(w.either(3, 1), 1, [0; 4], &quote[ETHERNET..]);
    cases.push(w.case("an error with a long quote", error).forwards("forwarded_icmp", w.web()));
    cases.push(if w.is_v4() {
        forwarded("8,000 octets behind options", {
            w.ip().options(&[1; 40]).tcp((w.unique(), WEB), ACK, &payload(8000))
        })
    } else {
        forwarded("8,000 octets behind extension headers", {
            let ip = w.ip().padded_extension(HOP_BY_HOP, 1);
            ip.padded_extension(DESTINATION_OPTIONS, 9).tcp((w.unique(), WEB), ACK, &payload(8000))
        })
    });
    cases
}

/// Out by another interface, whose driver takes one buffer.
pub fn to_one_buffer(w: &World) -> Vec<Case> {
    let large = sized(w, FAR, 8000);
    let right = answer(w, Port::Lb0, 1500, &large);
    vec![
        w.case("1,500 octets", sized(w, FAR, 1500)).forwards("forwarded_new", w.far()),
        w.case("3,000 octets", sized(w, FAR, 3000)).forwards("forwarded_new", w.far()),
        w.case("8,000 octets", large).replies("too_big_replied", right, w.on_tcp(FAR)),
        w.case("8,000 octets, in by the same", sized(w, FAR, 8000))
            .on_lb1()
            .forwards("forwarded_new", w.far()),
    ]
}

/// Out by another interface, whose driver takes several buffers.
pub fn to_several_buffers(w: &World) -> Vec<Case> {
    let far_udp = Server::new(&w.udp(FAR), w.server(Port::Lb1, 3));
    let datagram = w.ip().udp((w.unique(), FAR), &payload(8000));
    let large = sized(w, FAR, 9001);
    let right = answer(w, Port::Lb0, 9000, &large);
    vec![
        w.case("8,000 octets", sized(w, FAR, 8000)).forwards("forwarded_new", w.far()),
        w.case("9,000 octets", sized(w, FAR, 9000)).forwards("forwarded_new", w.far()),
        w.case("a datagram", datagram).forwards("forwarded_new", far_udp),
        w.case("9,001 octets", large).replies("too_big_replied", right, w.on_tcp(FAR)),
    ]
}

/// Larger than the way out allows, by far.
pub fn too_big(w: &World) -> Vec<Case> {
    let too_big = |octets: usize| {
        let frame = sized(w, WEB, octets);
        let right = answer(w, Port::Lb0, 1500, &frame);
        let name = format!("{octets} octets for an MTU of 1,500");
        w.case(&name, frame).replies("too_big_replied", right, w.on_tcp(WEB))
    };
    let behind = trailed(sized(w, WEB, 1501), &payload(7000));
    let right = answer(w, Port::Lb0, 1500, &behind);
    let later = w.unique();
    let mut cases: Vec<Case> = [1501, 3500, 4096, 8000, 8001, 9000].map(too_big).into();
    cases.extend([
        w.case("1,501 octets and 7,000 behind them", behind).replies(
            "too_big_replied",
            right,
            w.on_tcp(WEB),
        ),
        w.case("1,500 octets and 7,000 behind them", {
            trailed(sized(w, WEB, 1500), &payload(7000))
        })
        .forwards("forwarded_new", w.web()),
        w.case("a later fragment", {
            w.ip().fragment(later.into(), 32, false).raw(TCP, &payload(8000))
        })
        .after(w.ip().fragment(later.into(), 0, true).tcp((later, WEB), ACK, &[8; 12]))
        .drops("too_big_limited", w.on_tcp(WEB)),
    ]);
    cases
}

/// Runs frames whose first buffer is shorter than it could be.
pub fn run_split(w: &World, dataplane: &Dataplane, tagging: Tagging) {
    let ethernet = tagging.wrap(&[0; ETHERNET]).len();
    let headers = ethernet + w.either(20, 40) + 20;
    let frame = |port: u16, octets: usize| tagging.wrap(&sized(w, port, octets));
    let reasons = || dataplane.client.info().expect("info").stats.reasons;
    let run = |frame: &[u8], first: usize| dataplane.run_split(Port::Lb0, frame, first);
    if let Err(error) = run(&frame(WEB, 1400), headers) {
        println!("skipped: the kernel tests no frames with short first buffers: {error}");
        return;
    }

    // With all headers in the first buffer they are forwarded.
    for first in [headers, headers + 1, 128, 1000] {
        for (port, server) in [(WEB, w.web()), (FAR, w.far())] {
            let frame = frame(port, 1400);
            let (verdict, output) = run(&frame, first).expect("it ran before");
            assert_eq!(verdict, dataplane.forwards(Port::Lb0, Port::of(server.address)));
            let bare = tagging.unwrap_reply(&frame).expect("it has its tag");
            let right = forwarded(&bare, Port::of(server.address).mac(), server.mac);
            assert_eq!(output, right, "{first} octets in the first buffer");
        }
    }

    // Without, they are dropped, or passed if it may be nobody's packet.
    let frame_web = frame(WEB, 1400);
    for first in ethernet + w.either(20, 40)..headers {
        let before = reasons().malformed;
        let (verdict, output) = run(&frame_web, first).expect("it ran before");
        assert_eq!((verdict, output == frame_web), (Verdict::Drop, true), "first {first}");
        assert_eq!(reasons().malformed, before + 1, "first {first}");
    }
    for first in ETHERNET..ethernet + w.either(20, 40) {
        let before = reasons().not_ip;
        let (verdict, output) = run(&frame_web, first).expect("it ran before");
        assert_eq!((verdict, output == frame_web), (Verdict::Pass, true), "first {first}");
        assert_eq!(reasons().not_ip, before + 1, "first {first}");
    }

    // An error's quote has to be in the first buffer: headers take the place of
    // what is cut off.
    let (quote, room) = w.either((548, 28), (1232, 48));
    let needed = ethernet + quote;
    for (first, answered) in [
        (headers, false),
        (needed - 1, false),
        (needed, true),
        (needed + room, true),
        (needed + room + 100, true),
    ] {
        let frame = frame(WEB, 3000);
        let before = reasons();
        let (verdict, output) = run(&frame, first).expect("it ran before");
        let after = reasons();
        if answered {
            assert_eq!(verdict, Verdict::Tx, "first {first}");
            let bare = tagging.unwrap_reply(&frame).expect("it has its tag");
            let reply = tagging.unwrap_reply(&output).expect("the answer has it too");
            let right = answer(w, Port::Lb0, 1500, &bare);
            assert!(is_same(&reply[..right.len()], &right), "first {first}");
            assert!(is_left(&bare, &reply, right.len()), "first {first}: padding is its own");
            assert_eq!(after.too_big_replied, before.too_big_replied + 1, "first {first}");
        } else {
            assert_eq!(verdict, Verdict::Drop, "first {first}");
            assert_eq!(after.too_big_limited, before.too_big_limited + 1, "first {first}");
        }
    }
}
