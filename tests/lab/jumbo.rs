//! Frames of an MTU of 9,000, natively.

use std::net::SocketAddr;

use libbpf_rs::MapCore;
use libbpf_rs::MapHandle;
use nix::sys::socket;
use nix::sys::socket::sockopt;
use xvs::Client;
use xvs::Mode;
use xvs::Service;
use xvs::host;

use super::web::serve;
use crate::lab::Lab;
use crate::lab::UDP;
use crate::lab::ip;
use crate::lab::vip;
use crate::server::Connection;
use crate::server::PATIENCE;
use crate::server::udp_from;
use crate::xdp;

const MTU: usize = 9000;

/// Octets that differ everywhere.
fn octets(number: usize) -> Vec<u8> {
    (0..number).map(|i| (i * 31 + i / 256) as u8).collect()
}

/// TCP sends full segments, UDP what fits one frame; all comes back as it was.
fn talk(lab: &Lab, balancer: &Client) {
    for number in [0, 1] {
        let (tcp, udp) = (vip(number, 80), vip(number, UDP));
        let segment = MTU - if number == 0 { 40 } else { 60 };
        serve(lab, balancer, &Service::tcp(tcp.ip(), tcp.port()));
        lab.client.enter(|| {
            let mut connection = Connection::open(tcp, PATIENCE).expect("a server answers");
            for _ in 0..8 {
                connection.exchange(&octets(100_000)).expect("all octets come back");
            }
            let most = socket::getsockopt(&connection.stream, sockopt::TcpMaxSeg);
            // Time stamps and the like take some.
            let most = most.expect("a connection has it") as usize;
            assert!((segment - 40..=segment).contains(&most), "segments of {most} octets");
        });
        let stats =
            balancer.service(&Service::tcp(tcp.ip(), tcp.port())).expect("it is there").stats;
        println!("{tcp}: {} octets in {} packets", stats.octets, stats.packets);
        assert!(stats.octets > 800_000, "all of it came by");
        assert_eq!(stats.reasons.too_big_replied, 0);

        serve(lab, balancer, &Service::udp(udp.ip(), udp.port()));
        for length in [1400, 3400, 3600, 4096, 8000, 8900] {
            datagram(lab, udp, &octets(length));
        }
        let reasons = balancer.info().expect("it runs").stats.reasons;
        assert_eq!(reasons.forwarded_fragment, 0, "each datagram was one frame");
    }
}

/// Sends a datagram whole and takes the answer, the server's name and the same.
fn datagram(lab: &Lab, to: SocketAddr, content: &[u8]) {
    lab.client.enter(|| {
        let socket = udp_from(ip(if to.is_ipv4() { "0.0.0.0" } else { "::" }), 0);
        socket.set_read_timeout(Some(PATIENCE)).expect("a time");
        socket.send_to(content, to).expect("the datagram fits a frame");
        let mut answer = vec![0; 65_536];
        let (length, from) = socket.recv_from(&mut answer).expect("a server answers");
        assert_eq!(from, to, "the answer comes from the VIP");
        assert!(answer[..length].ends_with(content), "{} octets come back", content.len());
        assert!(length <= content.len() + 8, "and the server's name alone before them");
    });
}

/// Whether the kernel has what this needs; if not, that is printed.
fn has_frags() -> bool {
    let has = xdp::has_frags();
    if !has {
        println!("skipped: the kernel has no programs for frames in several buffers");
    }
    has
}

#[test]
fn jumbo_frames_arrive_whole() {
    let lab = Lab::new(2);
    if !has_frags() {
        return;
    }
    lab.set_mtu(MTU);
    let balancer = lab.balancer();
    assert_eq!(balancer.info().expect("it runs").interfaces[0].mode, Mode::Native);
    talk(&lab, &balancer);
}

#[test]
fn jumbo_frames_arrive_whole_in_generic_mode() {
    let lab = Lab::with_two_subnets(2);
    if !has_frags() {
        return;
    }
    lab.set_mtu(MTU);
    let options = lab.options().mode(Mode::Generic);
    let balancer = lab.balancer_with(options, &["eth0", "eth1"]).expect("it starts");
    talk(&lab, &balancer);
}

/// By redirects, which the kernel and the driver have to be able to do.
#[test]
fn jumbo_frames_arrive_whole_by_another_interface() {
    let lab = Lab::with_two_subnets(2);
    if !has_frags() {
        return;
    }
    lab.set_mtu(MTU);
    let balancer = lab.balancer_with(lab.options(), &["eth0", "eth1"]).expect("it starts");
    let sends = |interface: &str| {
        let index = xdp::index(&lab.lb, interface);
        let features = lab.lb.enter(|| host::native_xdp(index)).expect("the kernel can be asked");
        features.is_some_and(|features| features.sends_frags)
    };
    if !sends("eth0") {
        println!("skipped: frames in several buffers cannot be redirected here");
        return;
    }
    talk(&lab, &balancer);
}

/// Clients that send segments of 9,000 octets are told of 1,500, and go on with
/// these.
fn clients_are_told(lab: &Lab, balancer: &Client) {
    for number in [0, 1] {
        let to = vip(number, 80);
        let service = Service::tcp(to.ip(), to.port());
        serve(lab, balancer, &service);
        lab.client.enter(|| {
            let mut connection = Connection::open(to, PATIENCE).expect("a server answers");
            connection.exchange(&octets(100_000)).expect("all octets come back");
        });
        let stats = balancer.service(&service).expect("it is there").stats;
        assert!(stats.reasons.too_big_replied > 0, "the client was told");
        let route = lab.client.sh(&format!("ip route get {}", to.ip()));
        assert!(route.contains("mtu 1500"), "{route}");
    }
}

/// Where they cannot be redirected, clients are told what can.
#[test]
fn clients_of_another_interface_are_told_what_can_be_redirected() {
    let lab = Lab::with_two_subnets(2);
    if !has_frags() {
        return;
    }
    lab.set_mtu(MTU);
    let balancer = lab.balancer_with(lab.options(), &["eth0", "eth1"]).expect("it starts");
    let ways_out = MapHandle::from_pinned_path(lab.bpffs().join("xvs/lab/frags_ports"));
    let index = xdp::index(&lab.lb, "eth0").to_ne_bytes();
    // It may not have been there.
    let _ = ways_out.expect("the map is pinned by its name").delete(&index);
    clients_are_told(&lab, &balancer);
}

/// Errors are made of frames in several buffers, and in generic mode of what the
/// kernel makes of them.
#[test]
fn clients_are_told_of_a_vlan_with_smaller_packets() {
    // Programs of the switch's are in the way of such frames, too.
    if !has_frags() {
        return;
    }
    for mode in [Mode::Native, Mode::Generic] {
        let lab = Lab::new(2);
        lab.set_mtu(MTU);
        let options = lab.options().mode(mode).mtu(1, 1_500);
        let balancer = lab.balancer_with(options, &["eth0"]).expect("it starts");
        clients_are_told(&lab, &balancer);
    }
}

/// Without frames of several buffers it is generic mode, and that is said.
#[test]
fn what_takes_no_jumbo_frames_is_named() {
    let lab = Lab::new(1);
    lab.lb.sh("ip link add bare type bridge && ip link set bare up mtu 9000");
    let options = lab.options().mode(Mode::Native);
    let refused = lab.balancer_with(options, &["eth0", "bare"]).expect_err("no native XDP");
    assert!(refused.to_string().contains("its MTU of 9000"), "{refused}");
    let options = lab.options().mode(Mode::Auto);
    let balancer = lab.balancer_with(options, &["eth0", "bare"]).expect("generic works");
    let events: Vec<String> = balancer.events().iter().map(ToString::to_string).collect();
    assert!(events.iter().any(|event| event.contains("its MTU of 9000")), "{events:?}");
}
