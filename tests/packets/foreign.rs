//! What is for no virtual address, or not for this host, is passed as it is.

use super::case::Case;
use super::case::On;
use super::world::WEB;
use super::world::World;
use crate::common::frame::*;

/// Frames that are no IP packets.
pub fn other_protocols(v4: &World) -> Vec<Case> {
    let segment = v4.segment(WEB, ACK);
    let service_tagged = |frame: Vec<u8>| broken(tagged(frame, 7), 12, &[0x88, 0xa8]);
    let mut arp = segment[..12].to_vec();
    // Who has the VIP? (RFC 826)
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 0xfe, 10, 1, 2, 254]);
    arp.extend([0, 0, 0, 0, 0, 0, 192, 168, 100, 1]);
    let typed = |octets: [u8; 2]| broken(segment.clone(), 12, &octets);
    [
        ("ARP for the VIP", arp.clone()),
        ("ARP for the VIP, padded", padded(arp, 60)),
        ("802.1ad tag", service_tagged(segment.clone())),
        ("802.1ad and 802.1Q tag", service_tagged(tagged(segment.clone(), 8))),
        ("two 802.1Q tags", tagged(tagged(segment.clone(), 8), 7)),
        ("an 802.1Q tag and not all of a type", cut(tagged(segment.clone(), 7), 17)),
        ("MPLS", typed([0x88, 0x47])),
        ("LLDP", typed([0x88, 0xcc])),
        ("IEEE 802.3 length instead of a type", typed([0, 40])),
        ("type 0", typed([0, 0])),
        ("type 0xffff", typed([0xff, 0xff])),
        ("an Ethernet header alone", cut(segment.clone(), 14)),
        ("an IPv6 packet's type on 26 octets", {
            let mut frame = cut(segment.clone(), 40);
            frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            frame
        }),
    ]
    .into_iter()
    .map(|(name, frame)| Case::new(name, frame).passes("not_ip", On::Nobody))
    .collect()
}

/// IP packets that are for no virtual address.
pub fn other_addresses(w: &World) -> Vec<Case> {
    let elsewhere = || Ip::new(w.client, w.stranger);
    let last_octet = w.either(33, 53);
    let shortest = w.either(34, 54);
    let segment = w.segment(WEB, ACK);
    let whole = elsewhere().tcp((w.unique(), WEB), SYN, b"");
    let mut cases: Vec<Case> = [
        ("TCP to another address", whole.clone()),
        ("UDP to another address", elsewhere().udp((w.unique(), 53), b"x")),
        ("echo request to another address", {
            elsewhere().icmp(w.either(8, 128), 0, [0, 1, 0, 1], b"x")
        }),
        ("from the VIP to a client", Ip::new(w.vip, w.client).tcp((WEB, 1), ACK, b"")),
        ("a wrong version to another address", broken(whole.clone(), 14, &[0x55])),
        ("a header of no length to another address", broken(whole.clone(), 14, &[0x40])),
        ("a packet longer than its frame to another address", cut(whole.clone(), shortest)),
        ("the IP header alone, to another address", elsewhere().raw(TCP, &[])),
        ("TTL 0 to another address", elsewhere().ttl(0).tcp((1, WEB), ACK, b"")),
        ("a later fragment to another address", elsewhere().fragment(7, 64, true).raw(TCP, b"x")),
        ("protocol 255 to another address", elsewhere().raw(255, b"")),
        ("the VIP's last bit flipped", {
            let flipped = segment[last_octet] ^ 1;
            broken(segment.clone(), last_octet, &[flipped])
        }),
        ("the VIP's first bit flipped", {
            let at = w.either(30, 38);
            let flipped = segment[at] ^ 0x80;
            broken(segment.clone(), at, &[flipped])
        }),
        ("neighbour discovery for the VIP, to its solicited-node group", {
            match w.is_v4() {
                true => Ip::new(w.client, [224, 0, 0, 1].into()).udp((1, 53), b""),
                false => {
                    let group = "ff02::1:ff00:1".parse().expect("an address");
                    Ip::new(w.client, group).icmp(135, 0, [0; 4], &[0; 16])
                }
            }
        }),
    ]
    .into_iter()
    .map(|(name, frame)| w.case(name, frame).passes("not_vip", On::Nobody))
    .collect();

    for length in [15, w.either(20, 34), w.either(33, 53)] {
        let name = format!("a frame of {length} octets");
        let frame = cut(segment.clone(), length);
        cases.push(w.case(&name, frame).passes("not_ip", On::Nobody));
    }
    cases
}

/// Frames for the VIP that are not for this host.
pub fn other_hosts(w: &World) -> Vec<Case> {
    let to = |mac: [u8; 6]| w.ip().macs(ROUTER, mac).tcp((w.unique(), WEB), ACK, b"");
    let own = [0x02, 0, 0, 0, 0, 0x10];
    [
        ("another host's MAC address", to([0x02, 0, 0, 0, 0, 0x12])),
        ("a MAC address that differs in the first octet", to([0x06, 0, 0, 0, 0, 0x10])),
        ("broadcast", to([0xff; 6])),
        ("multicast", to([0x01, 0, 0x5e, 0, 0, 1])),
        ("MAC address zero", to([0; 6])),
        ("a malformed packet to another host", {
            broken(to([0x02, 0, 0, 0, 0, 0x12]), 14, &[0x55])
        }),
        ("an echo request to another host", {
            let ip = w.ip().macs(ROUTER, [0x02, 0, 0, 0, 0, 0x12]);
            ip.icmp(w.either(8, 128), 0, [0; 4], b"")
        }),
    ]
    .into_iter()
    .map(|(name, frame)| w.case(name, frame).passes("other_host", w.on_vip()))
    .chain([w
        .case("lb0's MAC address, in on lb0", w.ip().macs(ROUTER, own).tcp((1, WEB), SYN, b""))
        .forwards("forwarded_syn", w.web())
        .counts(&["syn"])])
    .collect()
}
