//! Tags on real interfaces, in native and in generic mode: frames leave by the
//! right port, with the right tag, and right to the last octet.

mod common;

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use common::dataplane::Dataplane;
use common::dataplane::Port;
use common::dataplane::server_mac;
use common::frame::*;
use common::netns::sh;
use common::wire::Wire;
use common::xdp;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use xvs::Destination;
use xvs::Mode;
use xvs::Service;
use xvs::Stats;

/// The control words of tags that frames come in with: priority, DEI and id.
const IN: [Option<u16>; 3] = [None, Some(0xa007), Some(0xf000)];
/// The ids of ways out.
const OUT: [Option<u16>; 2] = [None, Some(9)];
const PORTS: [Port; 2] = [Port::Lb0, Port::Lb1];

/// How long a frame may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A virtual address, with services for each port that a server is behind.
struct Family {
    name: &'static str,
    vip: IpAddr,
    client: IpAddr,
    servers: [IpAddr; 2],
}

impl Family {
    fn all() -> [Self; 2] {
        let address = |text: &str| text.parse().expect("an address");
        [
            Self {
                name: "IPv4",
                vip: address("192.168.100.1"),
                client: address("198.51.100.7"),
                servers: ["10.1.2.3", "10.1.3.3"].map(address),
            },
            Self {
                name: "IPv6",
                vip: address("2001:db8:100::1"),
                client: address("2001:db8:7::7"),
                servers: ["fd00:1:2::3", "fd00:1:3::3"].map(address),
            },
        ]
    }

    fn serve(&self, dataplane: &Dataplane) {
        for egress in PORTS {
            let server = Destination::new(self.servers[egress as usize]);
            for service in [Service::tcp, Service::udp] {
                let service = service(self.vip, service_of(egress));
                dataplane.serve(&service, std::slice::from_ref(&server));
            }
        }
    }

    /// A packet that opens a flow.
    fn packet(&self, ingress: Port, build: impl Fn(&Ip, u16) -> Vec<u8>) -> Vec<u8> {
        static NEXT: AtomicU16 = AtomicU16::new(20_000);
        let ip = Ip::new(self.client, self.vip).macs(ROUTER, ingress.mac()).class(0x28);
        build(&ip, NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// As long as both ports take; with more padding than payload; with so much
    /// padding as it needs together with a tag.
    fn packets(&self, ingress: Port, egress: Port) -> [(&'static str, Vec<u8>); 3] {
        let service = service_of(egress);
        let longest = ETHERNET + usize::from(ingress.mtu().min(egress.mtu()));
        let padding_to = if self.vip.is_ipv4() { 60 } else { 80 };
        let short = |length| {
            self.packet(ingress, |ip, source| padded(ip.udp((source, service), b"xy"), length))
        };
        let long = self.packet(ingress, |ip, source| {
            let segment = |payload: &[u8]| ip.tcp((source, service), ACK, payload);
            let room = longest - segment(b"").len();
            segment(&(0..room).map(|i| i as u8).collect::<Vec<_>>())
        });
        [
            ("the longest", long),
            ("a padded one", short(padding_to)),
            ("one padded with its tag", short(padding_to - 4)),
        ]
    }
}

/// The port of the services whose server is behind a port.
const fn service_of(egress: Port) -> u16 {
    80 + egress as u16
}

/// Where a frame is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At the balancer's port, on its way into the host.
    Host(Port),
    /// At the other end of the port's link.
    Peer(Port),
}

/// A data plane, and what comes by at both ends of its ports' links.
struct Links<'a> {
    dataplane: &'a Dataplane,
    host: Wire,
    peer: Wire,
    /// The indices of the ports' peers.
    peers: [u32; 2],
}

impl Links<'_> {
    fn with(mode: Mode, test: impl FnOnce(&Links<'_>, &[Family]) + Send) {
        Dataplane::with(
            |options| options.mode(mode),
            |dataplane| {
                let peers = PORTS.map(|port| {
                    let peer = format!("p{}", port.name());
                    // Frames are whole, with their tags in them, as on a wire.
                    let off = "tx off rxvlan off txvlan off >/dev/null";
                    sh(&format!("ethtool -K {} {off}", port.name()));
                    dataplane.peer.sh(&format!("ethtool -K {peer} {off}"));
                    // A veth takes what its peer's program sends if it has one too.
                    xdp::attach_pass(&dataplane.peer, &peer, "pass");
                    xdp::index(&dataplane.peer, &peer)
                });
                let families = Family::all();
                for family in &families {
                    family.serve(dataplane);
                }
                let interfaces = dataplane.client.info().expect("info").interfaces;
                assert!(interfaces.iter().all(|i| i.mode == mode), "{interfaces:?}");
                let (host, peer) = (Wire::new(), dataplane.peer.enter(Wire::new));
                test(&Links { dataplane, host, peer, peers }, &families);
            },
        );
    }

    fn stats(&self) -> Stats {
        self.dataplane.client.info().expect("an instance that runs").stats
    }

    /// Sends a frame in by a port: what comes of it, and where.
    fn send(&self, ingress: Port, frame: &[u8]) -> Result<(Place, Vec<u8>), String> {
        let timeout = PollTimeout::try_from(PATIENCE).expect("it is short");
        self.peer.send(self.peers[ingress as usize], frame);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(arrival) = self.peer.receive() {
                let is_it = |port: &Port| self.peers[*port as usize] == arrival.interface;
                let port = PORTS.into_iter().find(is_it).expect("there are no others");
                return Ok((Place::Peer(port), arrival.frame));
            }
            if let Some(arrival) = self.host.receive() {
                let is_it = |port: &Port| self.dataplane.index(*port) == arrival.interface;
                let port = PORTS.into_iter().find(is_it).expect("there are no others");
                return Ok((Place::Host(port), arrival.frame));
            }
            let mut sockets =
                [&self.host, &self.peer].map(|wire| PollFd::new(wire.as_fd(), PollFlags::POLLIN));
            poll(&mut sockets, timeout).expect("sockets can be waited for");
        }
        Err(format!("nothing came of it in {PATIENCE:?}"))
    }

    /// The same with the host in every VLAN, and what was counted before.
    fn send_by_vlan(&self, ingress: Port, frame: &[u8]) -> Result<(Stats, Place, Vec<u8>), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.dataplane.join_all_vlans();
            let before = self.stats();
            let (place, seen) = self.send(ingress, frame)?;
            let refused = self.stats().reasons.other_host - before.reasons.other_host;
            // The control plane may have followed a change just then: the host is
            // in no VLAN by that.
            if refused == 0 || Instant::now() > deadline {
                return Ok((before, place, seen));
            }
        }
    }

    /// Sends a frame by a way out with this id, and checks all that comes of it.
    fn cross(&self, crossing: &Crossing, vlan: Option<u16>) -> Result<(), String> {
        self.dataplane.tag_ways_out(vlan.unwrap_or(0));
        let frame = crossing.frame_in();
        let result = self.send_by_vlan(crossing.ingress, &frame).and_then(|(before, at, seen)| {
            let right = crossing.frame_out(vlan);
            if (at, &seen) != (Place::Peer(crossing.egress), &right) {
                return Err(format!("{at:?} saw\n{}, must be\n{}", hex(&seen), hex(&right)));
            }
            let after = self.stats();
            let moved = [
                after.packets - before.packets,
                after.octets - before.octets,
                after.reasons.forwarded_new - before.reasons.forwarded_new,
            ];
            let right = [1, ip_length(&crossing.frame), 1];
            match moved == right {
                true => Ok(()),
                false => Err(format!("counters moved by {moved:?}, must be {right:?}")),
            }
        });
        let Crossing { name, ingress, egress, tag, .. } = crossing;
        result.map_err(|fault| {
            let way = format!("{ingress:?} to {egress:?}, tag {tag:04x?} to VLAN {vlan:?}");
            format!("{name}, {way}: {fault}\nframe in:\n{}", hex(&frame))
        })
    }
}

/// A frame that comes in, and the port that it must leave by.
struct Crossing {
    name: String,
    ingress: Port,
    egress: Port,
    server: IpAddr,
    /// The control word of the frame's tag.
    tag: Option<u16>,
    /// The frame without it.
    frame: Vec<u8>,
}

impl Crossing {
    fn frame_in(&self) -> Vec<u8> {
        match self.tag {
            Some(control) => tagged(self.frame.clone(), control),
            None => self.frame.clone(),
        }
    }

    fn frame_out(&self, vlan: Option<u16>) -> Vec<u8> {
        let frame = forwarded(&self.frame, self.egress.mac(), server_mac(self.server));
        // The priority stays.
        let priority = self.tag.unwrap_or(0) & 0xf000;
        match vlan {
            Some(id) => tagged(frame, priority | id),
            None => frame,
        }
    }
}

fn every_crossing(mode: Mode) {
    Links::with(mode, |links, families| {
        let mut results = Vec::new();
        for family in families {
            for (ingress, egress) in PORTS.into_iter().flat_map(|i| PORTS.map(|e| (i, e))) {
                let server = family.servers[egress as usize];
                for (tag, vlan) in IN.into_iter().flat_map(|tag| OUT.map(|vlan| (tag, vlan))) {
                    for (name, frame) in family.packets(ingress, egress) {
                        let name = format!("{}, {name}", family.name);
                        let crossing = Crossing { name, ingress, egress, server, tag, frame };
                        results.push(links.cross(&crossing, vlan));
                    }
                }
            }
        }
        let ran = results.len();
        let failed: Vec<String> = results.into_iter().filter_map(Result::err).collect();
        println!("{ran} frames crossed, {} of them wrongly", failed.len());
        assert!(failed.is_empty(), "{}", failed.join("\n"));
    });
}

#[test]
fn every_crossing_is_right_in_native_mode() {
    every_crossing(Mode::Native);
}

#[test]
fn every_crossing_is_right_in_generic_mode() {
    every_crossing(Mode::Generic);
}

/// What is behind two tags is nobody's packet, whatever the outer one's kind.
fn two_tags_pass(mode: Mode) {
    Links::with(mode, |links, families| {
        for family in families {
            for (outer, vlan) in
                [[0x88, 0xa8], [0x81, 0]].into_iter().flat_map(|o| OUT.map(|v| (o, v)))
            {
                let [ingress, egress] = PORTS;
                let packet = || {
                    family.packet(ingress, |ip, source| {
                        ip.tcp((source, service_of(egress)), SYN, b"x")
                    })
                };
                let frame = broken(tagged(tagged(packet(), 0xa008), 0x6007), 12, &outer);
                links.dataplane.tag_ways_out(vlan.unwrap_or(0));
                let (before, place, seen) =
                    links.send_by_vlan(ingress, &frame).unwrap_or_else(|e| panic!("{e}"));
                assert_eq!((place, hex(&seen)), (Place::Host(ingress), hex(&frame)));
                let after = links.stats();
                assert_eq!(after.reasons.not_ip - before.reasons.not_ip, 1);
                assert_eq!(after.packets, before.packets);
                assert_eq!(links.peer.receive(), None);
            }
        }
    });
}

#[test]
fn two_tags_pass_in_native_mode() {
    two_tags_pass(Mode::Native);
}

#[test]
fn two_tags_pass_in_generic_mode() {
    two_tags_pass(Mode::Generic);
}
