//! What is said about probes reaches the socket that sent them.

use std::io;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::net::IpAddr;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use xvs::Client;
use xvs::Destination;
use xvs::Mode;
use xvs::Service;
use xvs::Tunnel;

use crate::checker::any;
use crate::checker::octets;
use crate::checker::wrong_sums;
use crate::counted;
use crate::lab::Lab;
use crate::lab::vip;
use crate::lab::wait;
use crate::reasons;
use crate::server::Connection;
use crate::server::PATIENCE;
use crate::tunnelled::FOU;
use crate::tunnelled::GUE;
use crate::tunnelled::address;
use crate::tunnelled::serve;
use crate::tunnelled::take_out;
use crate::tunnelled::title;

/// A port that nobody serves.
const CLOSED: u16 = 9;

/// A connected socket, which errors are told to.
fn connected(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((any(to.ip()), 0)).expect("a port");
    socket.connect(to).expect("it is routed");
    socket
}

#[test]
fn a_closed_port_is_told() {
    let lab = Lab::new(1);
    // Of these errors the kernel sends six at once and one each second.
    lab.backends[0].namespace.sh("sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0");
    let _decap = take_out(&lab, Mode::Native);
    let balancer = lab.balancer();
    for number in [0, 1] {
        let service = Service::tcp(vip(number, 80).ip(), 80);
        for family in [0, 1] {
            let server = address(&lab.backends[0], family);
            for tunnel in [Tunnel::None, Tunnel::Ipip, Tunnel::gue(GUE)] {
                let title = title(tunnel, service.address, server);
                serve(&balancer, &service, &[Destination::new(server).tunnel(tunnel)]);
                let nat = balancer.nat_service(&service, server).expect("it has one");
                let to = SocketAddr::new(nat, CLOSED);
                let (tcp, udp) = lab.lb.enter(|| {
                    let tcp = Connection::open(to, PATIENCE).err().map(|error| error.kind());
                    let socket = connected(to);
                    socket.send(b"who").expect("nothing is known yet");
                    socket.set_read_timeout(Some(PATIENCE)).expect("it can be set");
                    (tcp, socket.recv(&mut [0; 9]).map_err(|error| error.kind()))
                });
                assert_eq!(tcp, Some(ErrorKind::ConnectionRefused), "TCP: {title}");
                assert_eq!(udp, Err(ErrorKind::ConnectionRefused), "UDP: {title}");
            }
        }
    }
    assert_eq!(wrong_sums(&lab), 0);
}

/// Never lets the kernel cut the socket's packets to size, nor send any that is larger
/// than it knows to pass.
#[expect(unsafe_code, reason = "nix has not these options")]
fn do_not_fragment(socket: &UdpSocket, v4: bool) {
    let (level, name, value) = if v4 {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)
    };
    // SAFETY: the pointer is to a value of the size that is told.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "the kernel finds out path MTUs");
}

/// What the kernel of the balancer's host knows of the way to an address.
fn route(lab: &Lab, to: IpAddr) -> String {
    lab.lb.sh(&format!("ip route get {to}"))
}

/// Forgets what that kernel has learned of paths.
fn forget_paths(lab: &Lab) {
    lab.lb.sh("ip route flush cache && ip -6 route flush cache");
}

/// What is too large is told, with what is not: so many octets of a packet.
fn learns_by_udp(lab: &Lab, balancer: &Client, to: SocketAddr, mtu: u32, title: &str) {
    let header = if to.is_ipv4() { 28 } else { 48 };
    lab.lb.enter(|| {
        let socket = connected(to);
        do_not_fragment(&socket, to.is_ipv4());
        let fits = vec![7; mtu as usize - header];
        let too_large = vec![7; fits.len() + 1];
        let errno = |error: io::Error| Errno::from_raw(error.raw_os_error().expect("an errno"));
        wait(&format!("EMSGSIZE: {title}"), PATIENCE, || {
            match socket.send(&too_large).map_err(errno) {
                Ok(_) => None,
                Err(error) => {
                    assert_eq!(error, Errno::EMSGSIZE, "{title}");
                    Some(())
                }
            }
        });
        // What the kernel was told is told once more.
        let _ = socket.take_error().expect("the socket is open");
        let before = reasons(balancer).probe_forwarded;
        socket.send(&fits).unwrap_or_else(|error| panic!("{title}: {mtu} octets: {error}"));
        counted(balancer, title, before, 1, |r| r.probe_forwarded);
    });
    let route = route(lab, to.ip());
    assert!(route.contains(&format!(" mtu {mtu} ")), "{title}: not {mtu}: {route}");
}

/// Sends so many octets by TCP, and reads them back.
fn upload(lab: &Lab, balancer: &Client, to: SocketAddr, length: usize, title: &str) {
    let sent = octets(length);
    let exchange = || {
        let connection = Connection::open(to, PATIENCE)?;
        let mut reader = connection.stream.try_clone()?;
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut writer = &connection.stream;
                writer.write_all(&sent).expect("it is sent");
                writer.shutdown(Shutdown::Write).expect("it is open");
            });
            let mut back = Vec::new();
            reader.read_to_end(&mut back).map(|_| back)
        })
    };
    let back = lab.lb.enter(exchange);
    let back = back.unwrap_or_else(|error: io::Error| {
        panic!("{title}: {error}: {:?}", reasons(balancer));
    });
    assert!(back == sent, "{title}: other octets came back");
}

#[test]
fn what_a_tunnel_takes_is_learned() {
    for mode in [Mode::Native, Mode::Generic] {
        let lab = Lab::new(1);
        let _decap = take_out(&lab, mode);
        let balancer = lab.balancer_with(lab.options().mode(mode), &["eth0"]).expect("it starts");
        for number in [0, 1] {
            let service = Service::tcp(vip(number, 80).ip(), 80);
            for family in [0, 1] {
                let server = address(&lab.backends[0], family);
                for tunnel in [Tunnel::Ipip, Tunnel::Gre, Tunnel::fou(FOU[0]), Tunnel::gue(GUE)] {
                    let title = title(tunnel, service.address, server);
                    serve(&balancer, &service, &[Destination::new(server).tunnel(tunnel)]);
                    let nat = balancer.instance().nat_of(&service, server).expect("it has one");
                    let mtu = 1_500 - tunnel.overhead(server);
                    assert_eq!(nat.mtu, Some(mtu), "{title}");

                    forget_paths(&lab);
                    learns_by_udp(&lab, &balancer, (nat.address, 53).into(), mtu, &title);
                    forget_paths(&lab);
                    let before = reasons(&balancer);
                    upload(&lab, &balancer, (nat.address, 80).into(), 100_000, &title);
                    let after = reasons(&balancer);
                    let told = after.too_big_replied - before.too_big_replied;
                    assert!(told > 0, "{title}: {after:?}");
                    assert_eq!(after.too_big_limited, 0, "{title}: {after:?}");
                    let route = route(&lab, nat.address);
                    assert!(route.contains(&format!(" mtu {mtu} ")), "{title}: {route}");
                }
            }
        }
    }
}

/// At layer 2 a probe is as large as a client's packet may be.
#[test]
fn full_size_probes_need_no_tunnel() {
    let lab = Lab::new(1);
    let balancer = lab.balancer();
    for number in [0, 1] {
        let service = Service::tcp(vip(number, 80).ip(), 80);
        let server = address(&lab.backends[0], number);
        serve(&balancer, &service, &[Destination::new(server)]);
        let nat = balancer.instance().nat_of(&service, server).expect("it has one");
        assert_eq!(nat.mtu, Some(1_500));
        upload(&lab, &balancer, (nat.address, 80).into(), 100_000, "layer 2");
    }
    assert_eq!(reasons(&balancer).too_big_replied, 0);
}

/// A router on the way takes less than the interface does.
#[test]
fn what_a_path_takes_is_learned() {
    let lab = Lab::behind_routers(1, 1);
    let _decap = take_out(&lab, Mode::Native);
    let router = &lab.routers[0];
    lab.lb.sh(&format!(
        "ip route add 10.1.9.0/24 via {}
         ip route add fd00:1:9::/64 via {}",
        router.gateways[0], router.gateways[1]
    ));
    router.namespace.sh("ip link set eth9 mtu 1400");
    let balancer = lab.balancer();
    for number in [0, 1] {
        let service = Service::tcp(vip(number, 80).ip(), 80);
        for family in [0, 1] {
            let server = address(&lab.backends[0], family);
            let tunnel = Tunnel::Gre;
            let title = title(tunnel, service.address, server);
            serve(&balancer, &service, &[Destination::new(server).tunnel(tunnel)]);
            let nat = || balancer.instance().nat_of(&service, server).expect("it has one");
            let mtu = 1_400 - tunnel.overhead(server);
            upload(&lab, &balancer, (nat().address, 80).into(), 100_000, &title);
            assert_eq!(nat().mtu, Some(mtu), "{title}");
            forget_paths(&lab);
            learns_by_udp(&lab, &balancer, (nat().address, 53).into(), mtu, &title);
        }
    }
}

/// A server that is not there, and one whose tunnel nobody takes out.
#[test]
fn silence_is_silence() {
    let lab = Lab::new(1);
    let balancer = lab.balancer();
    let server = lab.backends[0].v4;
    for number in [0, 1] {
        let service = Service::tcp(vip(number, 80).ip(), 80);
        serve(&balancer, &service, &[Destination::new(server).tunnel(Tunnel::gue(GUE))]);
        let nat = balancer.nat_service(&service, server).expect("it has one");
        let patience = Duration::from_millis(300);
        let opened = lab.lb.enter(|| Connection::open((nat, 80).into(), patience));
        let error = opened.err().expect("nobody answers").kind();
        assert_eq!(error, ErrorKind::TimedOut);
    }
    assert_eq!(reasons(&balancer).probe_answered, 0);
}
