//! Random frames: nothing from others is touched, and nothing comes out of a tunnel
//! that should not.

use std::net::IpAddr;

use crate::frame::*;
use crate::random::Random;
use crate::random::share;
use crate::real::Real;
use crate::real::Verdict;
use crate::tunnel::*;

/// A random packet in a random tunnel from an address of each family.
fn tunnelled(random: &mut Random, sources: [IpAddr; 2]) -> Vec<u8> {
    let tunnels = Tunnel::all();
    let tunnel = random.pick(&tunnels).clone();
    let outer = tunnel.outer;
    let tunnel = match random.chance(30) {
        true => tunnel.without_checksum(),
        false => tunnel,
    };
    let tunnel = tunnel.ip(Ip::new(outer.of(sources), outer.of(LOCAL)).class(random.octet()));
    let family = *random.pick(&Family::ALL);
    let ip = client(family).class(random.octet());
    let length = random.below(200);
    let payload = random.octets(length);
    let packet = match random.below(4) {
        0 => ip.tcp((1_000, 80), ACK, &payload),
        1 => ip.udp((1_000, 53), &payload),
        2 => ip.icmp(family.of([8, 128]), 0, [0; 4], &payload),
        _ => ip.fragment(7, 64, true).raw(UDP, &payload),
    };
    let frame = tunnel.wrap(&packet);
    if random.chance(30) { tagged(frame, 7) } else { frame }
}

/// Flips, overwrites, cuts or extends; the addresses' octets stay.
fn mutate(random: &mut Random, frame: &mut Vec<u8>, keep: std::ops::Range<usize>) {
    for _ in 0..random.below(4) {
        let at = 12 + random.below(frame.len() - 12);
        if !keep.contains(&at) {
            frame[at] = match random.chance(50) {
                true => frame[at] ^ 1 << random.below(8),
                false => random.octet(),
            };
        }
    }
    match random.below(8) {
        0 => {
            let length = 14 + random.below(frame.len() - 14);
            frame.truncate(length);
        }
        1 => {
            let length = random.below(64);
            frame.extend(random.octets(length));
        }
        _ => {}
    }
}

/// Where the outer source is in a frame that has one of the two types.
fn source(frame: &[u8]) -> std::ops::Range<usize> {
    let tag = if frame[12..14] == [0x81, 0] { 4 } else { 0 };
    match frame[12 + tag] {
        0x08 => 26 + tag..30 + tag,
        _ => 22 + tag..38 + tag,
    }
}

#[test]
fn what_is_not_from_a_balancer_is_never_touched() {
    let mut random = Random::from_environment(1);
    Real::with(|real| {
        let frames = share(20_000);
        for number in 0..frames {
            let frame = if random.chance(20) {
                let length = 14 + random.below(1_486);
                let mut frame = random.octets(length);
                let kind: [u8; 2] = *random.pick(&[[8, 0], [0x86, 0xdd], [0x81, 0]]);
                frame[12..14].copy_from_slice(&kind);
                frame
            } else {
                let mut frame = tunnelled(&mut random, STRANGERS);
                let keep = source(&frame);
                mutate(&mut random, &mut frame, keep);
                frame
            };
            let (verdict, output) = real.run(&frame);
            let fault = format!("frame {number}:\n{}", hex(&frame));
            assert_eq!((verdict, &output), (Verdict::Pass, &frame), "{fault}");
        }
        let reasons = real.reasons();
        let passed = reasons["not_tunnel"] + reasons["foreign_source"];
        assert_eq!(passed, frames as u64, "{reasons:?}");
        assert!(reasons["foreign_source"] > passed / 4, "most are tunnels: {reasons:?}");
    });
}

#[test]
fn what_comes_out_is_for_a_vip_and_is_what_was_sent() {
    let mut random = Random::from_environment(2);
    Real::with(|real| {
        for number in 0..share(20_000) {
            let mut frame = tunnelled(&mut random, BALANCERS);
            mutate(&mut random, &mut frame, 0..0);
            let (verdict, output) = real.run(&frame);
            let fault = format!("frame {number}:\n{}came out:\n{}", hex(&frame), hex(&output));
            if verdict == Verdict::Drop || output.len() == frame.len() {
                assert_eq!(output, frame, "{fault}");
                continue;
            }
            let removed = frame.len() - output.len();
            let (mut head, mut packet) = (14, &output[14..]);
            if output[12..14] == [0x81, 0] {
                (head, packet) = (18, &output[18..]);
            }
            assert_eq!(output[..head - 2], frame[..head - 2], "{fault}");
            let family = if output[head - 2..head] == [8, 0] { Family::V4 } else { Family::V6 };
            let to: IpAddr = match family {
                Family::V4 => <[u8; 4]>::try_from(&packet[16..20]).expect("four octets").into(),
                Family::V6 => <[u8; 16]>::try_from(&packet[24..40]).expect("16 octets").into(),
            };
            assert_eq!(to, family.of(VIPS), "{fault}");
            // All but ECN and the IPv4 checksum is what it was.
            let header = family.of([12, 2]);
            let before = &frame[head + removed..];
            assert_eq!(packet[header..], before[header..], "{fault}");
            assert!(is_sum_right(&frame, head, before), "{fault}");
        }
        let reasons = real.reasons();
        println!("{reasons:?}");
        for taken in ["ipip", "gre", "fou", "gue"] {
            assert!(reasons[taken] > 0, "{reasons:?}");
        }
    });
}

/// Whether the outer UDP checksum is right or there is none, or else the stack finds
/// what is wrong by an inner one.
fn is_sum_right(frame: &[u8], head: usize, packet: &[u8]) -> bool {
    let (protocol, header) = match frame[head - 2] {
        0x08 => (frame[head + 9], 20),
        _ => (frame[head + 6], 40),
    };
    let udp = head + header;
    if protocol != UDP || frame[udp + 6..udp + 8] == [0, 0] {
        return true;
    }
    let length = usize::from(u16::from_be_bytes([frame[udp + 4], frame[udp + 5]]));
    let addresses = if header == 20 { head + 12..head + 20 } else { head + 8..head + 40 };
    is_valid(&frame[addresses], UDP, &frame[udp..udp + length]) || !is_inner_right(packet)
}

/// Whether what has checksums of its own, and nothing but the packet, has right ones.
fn is_inner_right(packet: &[u8]) -> bool {
    let length = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    let (addresses, protocol, transport) = match packet[0] >> 4 {
        4 => {
            let header = usize::from(packet[0] & 15) * 4;
            if sum(&packet[..header]) != 0xffff {
                return false;
            }
            if length(6) & 0x3fff != 0 {
                return true;
            }
            (&packet[12..20], packet[9], &packet[header..length(2)])
        }
        _ => (&packet[8..40], packet[6], &packet[40..40 + length(4)]),
    };
    match protocol {
        ICMP if addresses.len() == 8 => sum(transport) == 0xffff,
        TCP | UDP | ICMPV6 => is_valid(addresses, protocol, transport),
        _ => true,
    }
}

/// Whether a transport's checksum is right, pseudo-header included.
fn is_valid(addresses: &[u8], protocol: u8, segment: &[u8]) -> bool {
    let [_, _, high, low] = (segment.len() as u32).to_be_bytes();
    sum(&[addresses, &[0, protocol, high, low], segment].concat()) == 0xffff
}

/// The sum of RFC 1071, word by word.
fn sum(octets: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    let mut sum: u64 = octets.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum
}
