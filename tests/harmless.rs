//! Do no harm: random and mutated frames that are for no virtual address, or
//! for another host, are passed on, not a bit changed. Those for a virtual
//! address are forwarded whole or not at all.

mod common;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::iter;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::ops::Range;

use common::dataplane::Dataplane;
use common::dataplane::Port;
use common::dataplane::Verdict;
use common::dataplane::server_mac;
use common::frame::*;
use common::random::Random;
use common::random::share;
use xvs::Destination;
use xvs::Service;

/// Virtual addresses of each family: enough for foreign addresses to share
/// what a filter in front of them keeps of an address.
const VIPS: usize = 60;

const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3));

struct Generator {
    random: Random,
    vips4: BTreeSet<[u8; 4]>,
    vips6: BTreeSet<[u8; 16]>,
}

impl Generator {
    fn new(mut random: Random) -> Self {
        let mut vips4 = BTreeSet::new();
        let mut vips6 = BTreeSet::new();
        while vips4.len() < VIPS {
            vips4.insert([192, 168, random.octet(), random.octet()]);
        }
        while vips6.len() < VIPS {
            let mut address = [0; 16];
            address[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
            address[4..].copy_from_slice(&random.octets(12));
            vips6.insert(address);
        }
        Self { random, vips4, vips6 }
    }

    fn vip(&mut self, v4: bool) -> IpAddr {
        let index = self.random.below(VIPS);
        if v4 {
            IpAddr::from(*self.vips4.iter().nth(index).expect("there are that many"))
        } else {
            IpAddr::from(*self.vips6.iter().nth(index).expect("there are that many"))
        }
    }

    fn foreigner(&mut self, v4: bool) -> IpAddr {
        let octets = self.random.octets(16);
        if v4 {
            IpAddr::from(<[u8; 4]>::try_from(&octets[..4]).expect("four octets"))
        } else {
            IpAddr::from(<[u8; 16]>::try_from(octets).expect("16 octets"))
        }
    }

    fn payload(&mut self) -> Vec<u8> {
        let length = *self.random.pick(&[0, 1, 6, 8, 40, 100, 600, 1400]);
        self.random.octets(length)
    }

    fn macs(&mut self, ip: Ip) -> Ip {
        let own = Port::Lb0.mac();
        let octets: [u8; 6] = self.random.octets(6).try_into().expect("six octets");
        match self.random.below(8) {
            0 => ip.macs(ROUTER, [0xff; 6]),
            1 => ip.macs(octets, [0x33, 0x33, 0, 0, 0, octets[0]]),
            2 => ip.macs(own, octets),
            _ => ip.macs(ROUTER, own),
        }
    }

    /// Some source: a virtual address, one of few clients, anybody.
    fn source(&mut self, v4: bool) -> IpAddr {
        let number = self.random.below(4) as u8;
        match self.random.below(8) {
            0 => self.vip(v4),
            1..5 if v4 => IpAddr::from([198, 51, 100, number]),
            1..5 => IpAddr::from([0x2001, 0xdb8, 7, 0, 0, 0, 0, u16::from(number)]),
            _ => self.foreigner(v4),
        }
    }

    /// A frame as some host sends it, often to a virtual address.
    fn valid(&mut self) -> Vec<u8> {
        let v4 = self.random.chance(50);
        let source = self.source(v4);
        let destination = match self.random.chance(70) {
            true => self.vip(v4),
            false => self.foreigner(v4),
        };
        let mut ip = Ip::new(source, destination);
        ip = self.macs(ip).ttl(*self.random.pick(&[0, 1, 2, 64, 64, 64, 64, 255]));
        let words = self.random.below(11);
        if v4 && self.random.chance(20) {
            ip = ip.options(&vec![1; words * 4]);
        }
        if !v4 && self.random.chance(30) {
            for _ in 0..words {
                let kind = *self.random.pick(&[HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS]);
                ip = ip.padded_extension(kind, self.random.below(3) as u8);
            }
        }
        if self.random.chance(25) {
            let offset = *self.random.pick(&[0, 0, 8, 1480, 65_528]);
            let identification = self.random.below(4) as u32;
            ip = ip.fragment(identification, offset, self.random.chance(50));
        }
        let source_port = match self.random.chance(50) {
            true => self.random.below(4) as u16,
            false => self.random.next() as u16,
        };
        let ports = (source_port, *self.random.pick(&[80, 80, 53, 53, 443, 0]));
        let payload = self.payload();
        match self.random.below(10) {
            0..4 => ip.tcp(ports, self.random.octet(), &payload),
            4..6 => ip.udp(ports, &payload),
            6 => {
                let kind = if v4 { 8 } else { 128 };
                ip.icmp(kind, 0, [0, 1, 0, 2], &payload)
            }
            7 => {
                // An error about a packet that the address sent.
                let quote = Ip::new(destination, self.source(v4));
                let quote = quote.tcp((ports.1, ports.0), ACK, &payload);
                let quoted = self.random.below(quote.len() - ETHERNET + 1);
                let kind = if v4 { 3 } else { 1 };
                ip.icmp(kind, 4, [0, 0, 5, 0], &quote[ETHERNET..][..quoted])
            }
            8 => {
                let kind = *self.random.pick(&[133, 134, 135, 136, 137, 10, 0]);
                ip.icmp(kind, 0, [0; 4], &payload)
            }
            _ => ip.raw(self.random.octet(), &payload),
        }
    }

    /// A frame that no IP packet is in, at least not where one should be.
    fn other(&mut self) -> Vec<u8> {
        let mut frame = self.valid();
        match self.random.below(4) {
            0 => {
                frame.truncate(12);
                frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1 + self.random.below(2) as u8]);
                frame.extend(self.random.octets(16));
                match self.vip(true) {
                    IpAddr::V4(v4) => frame.extend(v4.octets()),
                    IpAddr::V6(_) => unreachable!("an IPv4 address was asked for"),
                }
                frame.resize(60, 0);
            }
            1 => {
                let tags = *self.random.pick(&[[0x81, 0], [0x88, 0xa8], [0x91, 0]]);
                frame = tagged(frame, self.random.next() as u16);
                if tags == [0x81, 0] || self.random.chance(50) {
                    frame = tagged(frame, self.random.next() as u16);
                }
                frame[12..14].copy_from_slice(&tags);
            }
            2 => {
                let kind = self.random.octets(2);
                frame[12..14].copy_from_slice(&kind);
            }
            _ => {
                let length = 14 + self.random.below(200);
                frame = self.random.octets(length);
                if self.random.chance(70) {
                    let kind = *self.random.pick(&[[8, 0], [0x86, 0xdd]]);
                    frame[12..14].copy_from_slice(&kind);
                }
            }
        }
        frame
    }

    fn mutate(&mut self, frame: &mut Vec<u8>) {
        for _ in 0..1 + self.random.below(4) {
            let length = frame.len();
            // Mostly in the headers.
            let at = match self.random.chance(80) {
                true => 12 + self.random.below(length.min(80) - 12),
                false => self.random.below(length),
            };
            match self.random.below(6) {
                0 | 1 => frame[at] ^= 1 << self.random.below(8),
                2 => frame[at] = self.random.octet(),
                3 => frame[at] = *self.random.pick(&[0, 1, 0x7f, 0x80, 0xff]),
                4 => frame.truncate((at + 1).max(ETHERNET)),
                _ => {
                    let more = self.random.below(64);
                    frame.extend(self.random.octets(more));
                }
            }
        }
    }

    /// A frame that may be anything.
    fn any(&mut self) -> Vec<u8> {
        let mut frame = if self.random.chance(80) { self.valid() } else { self.other() };
        if self.random.chance(30) {
            // Of no VLAN, or of one that the host is most likely not in.
            let bits = *self.random.pick(&[0xf000, 0xf000, 0xffff]);
            frame = tagged(frame, self.random.next() as u16 & bits);
        }
        if self.random.chance(70) {
            self.mutate(&mut frame);
        }
        frame
    }

    /// Where a frame has its destination address, if it is an IP packet.
    fn place(frame: &[u8]) -> Option<Range<usize>> {
        let tag = if untagged(frame).is_some() { 4 } else { 0 };
        let places = |range: Range<usize>| Some(range.start + tag..range.end + tag);
        match frame[tag + 12..tag + 14] {
            [8, 0] if frame.len() >= tag + 34 => places(30..34),
            [0x86, 0xdd] if frame.len() >= tag + 54 => places(38..54),
            _ => None,
        }
    }

    fn is_for_vip(&self, frame: &[u8]) -> bool {
        let Some(place) = Self::place(frame) else { return false };
        let address = &frame[place];
        self.vips4.iter().any(|vip| vip == address) || self.vips6.iter().any(|vip| vip == address)
    }

    /// Addresses a frame to a virtual address, if it is an IP packet.
    fn aim(&mut self, frame: &mut Vec<u8>) {
        let Some(place) = Self::place(frame) else { return };
        if !self.is_for_vip(frame) {
            match self.vip(place.len() == 4) {
                IpAddr::V4(vip) => frame[place].copy_from_slice(&vip.octets()),
                IpAddr::V6(vip) => frame[place].copy_from_slice(&vip.octets()),
            }
        }
        if self.random.chance(80) {
            match untagged(frame) {
                None => mend_ipv4(frame),
                Some((control, mut inner)) => {
                    mend_ipv4(&mut inner);
                    *frame = tagged(inner, control);
                }
            }
        }
    }

    /// A frame that is for no virtual address.
    fn foreign(&mut self) -> Vec<u8> {
        loop {
            let frame = self.any();
            if !self.is_for_vip(&frame) {
                return frame;
            }
        }
    }

    /// A frame that is for no virtual address, but is one bit from it.
    fn near(&mut self) -> Vec<u8> {
        loop {
            let mut frame = self.any();
            let Some(place) = Self::place(&frame) else { continue };
            self.aim(&mut frame);
            let bit = self.random.below(place.len() * 8);
            frame[place.start + bit / 8] ^= 1 << (bit % 8);
            if !self.is_for_vip(&frame) {
                return frame;
            }
        }
    }
}

/// Draws a frame; they are numbered.
type Draw = fn(&mut Generator, usize) -> Vec<u8>;

/// What must be true of a frame, the verdict and the frame that came out.
type Check = fn(&Dataplane, &[u8], Verdict, &[u8]) -> Result<(), &'static str>;

impl Generator {
    /// Creates services on every virtual address and runs so many frames, or
    /// the share that is asked for; each is counted once, under one of these
    /// reasons, and all of them occur unless the frames are too few.
    fn run(mut self, full: usize, reasons: &[&str], draw: Draw, check: Check) {
        let frames = share(full);
        Dataplane::with(
            |options| options.services(256).destinations(256),
            |dataplane| {
                let v4 = self.vips4.iter().map(|octets| IpAddr::from(*octets));
                let v6 = self.vips6.iter().map(|octets| IpAddr::from(*octets));
                let addresses: Vec<IpAddr> = v4.chain(v6).collect();
                for address in addresses {
                    dataplane.serve(&Service::tcp(address, 80), &[Destination::new(SERVER)]);
                    dataplane.serve(&Service::udp(address, 53), &[Destination::new(SERVER)]);
                }
                let before = dataplane.client.info().expect("info").stats;
                for number in 0..frames {
                    let mut frames = iter::repeat_with(|| draw(&mut self, number));
                    let frame = frames.find(|frame| !is_for_nat(frame));
                    let frame = frame.expect("it goes on");
                    let (verdict, output) = dataplane.run(Port::Lb0, &frame);
                    if let Err(fault) = check(dataplane, &frame, verdict, &output) {
                        panic!(
                            "frame {number}: {fault}: {verdict:?}\n{}became\n{}",
                            hex(&frame),
                            hex(&output)
                        );
                    }
                }
                let after = dataplane.client.info().expect("info").stats;
                let moved: BTreeMap<_, _> = after
                    .reasons
                    .iter()
                    .zip(before.reasons.iter())
                    .map(|((name, after), (_, before))| (name, after - before))
                    .filter(|(_, moved)| *moved > 0)
                    .collect();
                println!("{frames} frames: {moved:?}");
                if frames == full {
                    assert_eq!(moved.keys().copied().collect::<Vec<_>>(), reasons);
                }
                assert!(moved.keys().all(|reason| reasons.contains(reason)), "{moved:?}");
                assert_eq!(moved.values().sum::<u64>(), frames as u64, "each is counted once");
                let forwarded: u64 = moved
                    .iter()
                    .filter(|(name, _)| name.starts_with("forwarded"))
                    .map(|(_, count)| count)
                    .sum();
                assert_eq!(after.packets - before.packets, forwarded);
            },
        );
    }
}

/// Whether a frame is for an IPv4 NAT address, where nothing comes from outside
/// (tests/probes).
fn is_for_nat(frame: &[u8]) -> bool {
    let inner = untagged(frame).map(|(_, inner)| inner);
    let frame = inner.as_deref().unwrap_or(frame);
    frame.len() >= 34 && frame[12..14] == [8, 0] && frame[30] == 255 && frame[31] < 32
}

fn untouched(
    _: &Dataplane,
    frame: &[u8],
    verdict: Verdict,
    output: &[u8],
) -> Result<(), &'static str> {
    match verdict {
        Verdict::Pass if output == frame => Ok(()),
        _ => Err("it must pass untouched"),
    }
}

#[test]
fn foreign_frames_pass_untouched() {
    let generator = Generator::new(Random::from_environment(0x5eed_0001));
    let draw: Draw = |generator, number| match number % 2 {
        0 => generator.near(),
        _ => generator.foreign(),
    };
    generator.run(200_000, &["not_ip", "not_vip"], draw, untouched);
}

#[test]
fn frames_for_other_hosts_pass_untouched() {
    let generator = Generator::new(Random::from_environment(0x5eed_0005));
    let draw: Draw = |generator, _| {
        let mut frame = generator.any();
        generator.aim(&mut frame);
        // One bit off lb0's address, in a bit that lb1's does not differ in.
        frame[..6].copy_from_slice(&Port::Lb0.mac());
        let bit = generator.random.below(47);
        frame[bit / 8] ^= 0x80 >> (bit % 8);
        frame
    };
    generator.run(50_000, &["not_ip", "other_host"], draw, untouched);
}

/// What comes out for a virtual address is the frame that came in, or that
/// frame forwarded, or a reply; nothing half done.
#[test]
fn frames_for_a_vip_are_forwarded_whole_or_not_at_all() {
    let generator = Generator::new(Random::from_environment(0x5eed_0006));
    let draw: Draw = |generator, _| {
        let mut frame = generator.any();
        generator.aim(&mut frame);
        frame[..6].copy_from_slice(&Port::Lb0.mac());
        frame
    };
    let reasons = [
        "echo_replied",
        "forwarded_flow",
        "forwarded_fragment",
        "forwarded_icmp",
        "forwarded_new",
        "forwarded_syn",
        "fragment_orphan",
        "icmp_unowned",
        "icmp_unsupported",
        "malformed",
        "neighbour_discovery",
        "no_service",
        "not_ip",
        "other_host",
        "too_big_limited",
        "too_big_replied",
        "ttl_expired",
    ];
    generator.run(100_000, &reasons, draw, whole);
}

fn whole(
    dataplane: &Dataplane,
    frame: &[u8],
    verdict: Verdict,
    output: &[u8],
) -> Result<(), &'static str> {
    if matches!(verdict, Verdict::Pass | Verdict::Drop) {
        return if output == frame { Ok(()) } else { Err("it must be untouched") };
    }
    // What is forwarded leaves without a tag, what is answered with the same.
    if let Some((control, inner)) = untagged(frame) {
        return match untagged(output) {
            Some((_, reply)) if destination_mac(&reply) == server_mac(SERVER) => {
                Err("it leaves without a tag")
            }
            Some((found, reply)) if found == control => whole(dataplane, &inner, verdict, &reply),
            Some(_) => Err("a reply has another tag"),
            None if destination_mac(output) == server_mac(SERVER) => {
                whole(dataplane, &inner, verdict, output)
            }
            None => Err("a reply lacks the tag of its request"),
        };
    }
    let v4 = frame[12..14] == [8, 0];
    let (ttl, checksum) = if v4 { (22, 24..26) } else { (21, 21..21) };
    if destination_mac(output) == server_mac(SERVER) {
        if verdict != dataplane.forwards(Port::Lb0, Port::Lb0) {
            return Err("it leaves by lb0");
        }
        let mut right = forwarded(frame, Port::Lb0.mac(), server_mac(SERVER));
        let mut mended = frame.to_vec();
        mend_ipv4(&mut mended);
        if mended != frame {
            // The checksum was wrong before.
            right[checksum.clone()].copy_from_slice(&output[checksum]);
        }
        return if output == right { Ok(()) } else { Err("more changed than must") };
    }
    if verdict != Verdict::Tx || output[..6] != frame[6..12] || output[6..12] != frame[..6] {
        return Err("a reply goes back to where the frame came from");
    }
    let (source, destination) = if v4 { (26..30, 30..34) } else { (22..38, 38..54) };
    if output[source.clone()] != frame[destination.clone()]
        || output[destination] != frame[source]
        || output[ttl] != 64
    {
        return Err("a reply is from the VIP to the client");
    }
    let is_error = output.len() == ETHERNET + if v4 { 576 } else { 1280 };
    if is_error && frame.len() > ETHERNET + 1500 {
        return verify(output).map_err(|_| "an error is a whole packet");
    }
    if output.len() == frame.len() { Ok(()) } else { Err("a reply is as long as its request") }
}
