//! Probes of servers on loopback, and in namespaces where networks can fail.

use std::io::Read;
use std::io::Write;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::TcpListener;
use std::net::UdpSocket;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;

use nix::sys::socket::Backlog;
use nix::sys::socket::listen;
use nix::unistd::Uid;

use super::*;
use crate::ServiceKey;
use crate::net::tests::netns::Namespace;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes";

/// A server that is reached without translation.
fn nat(address: IpAddr) -> Nat {
    Nat {
        service: ServiceKey { address, port: 80, protocol: Protocol::Tcp },
        destination: address,
        address,
        source: Some(address),
        tunnel: Tunnel::None,
        status: DestinationStatus::Reachable,
        mtu: Some(1500),
    }
}

fn local() -> Nat {
    nat(Ipv4Addr::LOCALHOST.into())
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Answers each request with the same octets, and gives the port.
fn serve(address: IpAddr, answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        // Whoever's request is lost keeps nobody else waiting.
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut request = Vec::new();
                let mut buffer = [0; 4096];
                while !request.ends_with(b"\r\n\r\n") {
                    match stream.read(&mut buffer) {
                        Ok(length @ 1..) => request.extend(&buffer[..length]),
                        _ => break,
                    }
                }
                let _ = stream.write_all(answer);
            });
        }
    });
    port
}

/// Answers each datagram with itself, and gives the port.
fn serve_udp(address: IpAddr) -> u16 {
    let socket = UdpSocket::bind((address, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
    port
}

fn quick(probe: Probe) -> Probe {
    probe.timeout(Duration::from_millis(200))
}

fn names(report: &Report) -> String {
    let names: Vec<&str> = report.steps.iter().map(|step| step.name).collect();
    names.join(" ")
}

/// Whether the process may make namespaces and raw sockets.
fn root() -> bool {
    let root = Uid::effective().is_root();
    if !root {
        println!("skipped: network namespaces and raw sockets need root");
    }
    root
}

#[test]
fn http_statuses_are_judged() {
    let check = |answer| Probe::http(serve(local().address, answer), "/").run(&local()).verdict;
    assert!(check(OK).is_ok());
    assert!(check(b"HTTP/1.0 302 Found\r\nLocation: /x\r\n\r\n").is_ok());
    assert!(check(b"HTTP/1.1 204\r\n\r\n").is_ok());
    for (answer, expected) in [
        (&b"HTTP/1.1 404 Not Found\r\n\r\n"[..], 404),
        (b"HTTP/1.1 500 Internal Server Error\r\n\r\n", 500),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n", 103),
    ] {
        let verdict = check(answer);
        assert!(
            matches!(verdict, Err(Failure::HttpStatus { status, .. }) if status == expected),
            "{verdict:?}"
        );
    }
    for answer in
        [&b"SSH-2.0-x\r\n"[..], b"HTTP/1.1 2000 OK\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\0"]
    {
        let verdict = check(answer);
        assert!(matches!(verdict, Err(Failure::NotHttp { .. })), "{verdict:?}");
    }
    let verdict = check(b"");
    assert!(matches!(verdict, Err(Failure::Closed { .. })), "{verdict:?}");
}

#[test]
fn an_answer_without_end_is_not_read_for_ever() {
    let endless: &'static [u8] = Box::leak(vec![b'H'; 1 << 20].into_boxed_slice());
    let verdict = Probe::http(serve(local().address, endless), "/").run(&local()).verdict;
    assert!(matches!(verdict, Err(Failure::NotHttp { .. })), "{verdict:?}");
    let header = [&b"HTTP/1.1 200 OK\r\nX: "[..], &vec![b'x'; 1 << 20]].concat();
    let endless: &'static [u8] = Box::leak(header.into_boxed_slice());
    assert!(Probe::http(serve(local().address, endless), "/").run(&local()).verdict.is_ok());
}

#[test]
fn requests_name_the_host() {
    let vip = |text: &str| text.parse().unwrap();
    let host = |vip, host| {
        let request = String::from_utf8(request(vip, "/a?b", host).unwrap()).unwrap();
        assert!(request.starts_with("GET /a?b HTTP/1.1\r\nHost: "), "{request}");
        assert!(request.ends_with("\r\nConnection: close\r\n\r\n"), "{request}");
        request.lines().nth(1).unwrap()["Host: ".len()..].to_owned()
    };
    assert_eq!(host(vip("192.0.2.1:80"), None), "192.0.2.1");
    assert_eq!(host(vip("192.0.2.1:8080"), None), "192.0.2.1:8080");
    assert_eq!(host(vip("[2001:db8::1]:80"), None), "[2001:db8::1]");
    assert_eq!(host(vip("[2001:db8::1]:81"), None), "[2001:db8::1]:81");
    assert_eq!(host(vip("192.0.2.1:80"), Some("www.example.net")), "www.example.net");
    for (path, host) in
        [("", None), ("a", None), ("/a b", None), ("/\r\nX: y", None), ("/", Some(""))]
    {
        assert!(request(vip("192.0.2.1:80"), path, host).is_err(), "{path:?} {host:?}");
    }
    assert!(request(vip("192.0.2.1:80"), "/", Some("a\r\nX: y")).is_err());
}

#[test]
fn closed_ports_and_silent_programs_are_told_apart() {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = free.local_addr().unwrap().port();
    // It accepts, by the kernel, and says nothing.
    let report = quick(Probe::http(port, "/")).run(&local());
    assert!(matches!(report.verdict, Err(Failure::NoReply { .. })), "{report:?}");
    assert_eq!(names(&report), "way connect request");
    assert!(Probe::tcp(port).run(&local()).verdict.is_ok());
    drop(free);
    for probe in [Probe::tcp(port), Probe::http(port, "/"), Probe::udp(port)] {
        let report = probe.run(&local());
        assert!(matches!(report.verdict, Err(Failure::PortClosed { .. })), "{report:?}");
    }
}

#[test]
fn a_port_that_takes_no_connections_is_told_from_a_silent_vip() {
    if !root() {
        return;
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let to = listener.local_addr().unwrap();
    let short = Duration::from_millis(200);
    let queued: Vec<_> = (0..4).map(|_| TcpStream::connect_timeout(&to, short)).collect();
    assert!(queued.last().unwrap().is_err());
    let report = quick(Probe::tcp(to.port())).run(&local());
    assert!(matches!(report.verdict, Err(Failure::PortFiltered { .. })), "{report:?}");
    assert_eq!(names(&report), "way connect echo");
}

#[test]
fn datagrams_are_answered_or_not() {
    assert!(Probe::udp(serve_udp(local().address)).run(&local()).verdict.is_ok());
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = silent.local_addr().unwrap().port();
    if root() {
        for size in [Size::Small, Size::Full] {
            let report = quick(Probe::udp(port).size(size)).run(&local());
            assert!(matches!(report.verdict, Err(Failure::NoReply { .. })), "{report:?}");
        }
    }
    drop(silent);
}

#[test]
fn without_a_way_nothing_is_sent() {
    let probe = |status| {
        let report = Probe::tcp(80).run(&Nat { status, ..local() });
        assert_eq!(names(&report), "way");
        report.verdict.unwrap_err()
    };
    for status in
        [DestinationStatus::NoRoute, DestinationStatus::NoPrefix, DestinationStatus::NoInterface]
    {
        assert!(matches!(probe(status), Failure::NoRoute { .. }));
    }
    for status in [DestinationStatus::NoNeighbour, DestinationStatus::Resolving] {
        assert!(matches!(probe(status), Failure::NoNeighbour { .. }));
    }
    for status in [
        DestinationStatus::NoAddress,
        DestinationStatus::InterfaceDown,
        DestinationStatus::MtuTooSmall,
        DestinationStatus::NotAttached,
    ] {
        let failure = probe(status);
        assert!(matches!(failure, Failure::Unusable { .. }));
        assert!(failure.to_string().contains(&status.to_string()), "{failure}");
    }
    let report = Probe::tcp(80).run(&Nat { source: None, ..local() });
    assert!(matches!(report.verdict, Err(Failure::NoSource { .. })), "{report:?}");
}

#[test]
fn another_network_namespace_is_told() {
    if !root() {
        return;
    }
    let namespace = Namespace::new("empty");
    for nat in [nat(address("255.0.0.1")), nat(address("fd6b::1"))] {
        let report = namespace.enter(|| Probe::tcp(80).run(&nat));
        assert!(matches!(report.verdict, Err(Failure::NoNatRoute { .. })), "{report:?}");
    }
}

/// A prober, and a server that it knows by its addresses.
const SERVERS: [&str; 2] = ["10.1.2.2", "2001:db8::2"];
/// Addresses that nobody answers for, and that frames are sent for all the same.
const NOBODY: [&str; 2] = ["10.1.2.9", "2001:db8::9"];

fn network() -> (Namespace, Namespace) {
    let (prober, server) = (Namespace::new("prober"), Namespace::new("server"));
    prober.sh(&format!(
        "ip link add p type veth peer name s netns {}
         ip addr add 10.1.2.1/24 dev p; ip addr add 2001:db8::1/64 dev p
         ip link set p up
         ip neigh add 10.1.2.9 lladdr 02:00:00:00:00:09 dev p
         ip neigh add 2001:db8::9 lladdr 02:00:00:00:00:09 dev p",
        server.name()
    ));
    // The server does not know its own MTU, as if the smaller one was further away.
    server.sh("sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0
         ip addr add 10.1.2.2/24 dev s; ip addr add 2001:db8::2/64 dev s
         ip link set s up
         ip route replace 10.1.2.0/24 dev s advmss 1460
         ip -6 route add 2001:db8::1 dev s advmss 1440");
    (prober, server)
}

#[test]
fn a_silent_vip_is_told() {
    if !root() {
        return;
    }
    let (prober, _server) = network();
    for silent in NOBODY {
        for probe in [Probe::tcp(80), Probe::udp(80), Probe::udp(80).size(Size::Full)] {
            let report = prober.enter(|| quick(probe).run(&nat(address(silent))));
            assert!(
                matches!(report.verdict, Err(Failure::NoAnswer { error: None, .. })),
                "{report:?}"
            );
        }
    }
    // The neighbour does not answer, as the stack says.
    let slow = Probe::tcp(80).timeout(Duration::from_secs(5));
    let report = prober.enter(|| slow.run(&nat(address("10.1.2.8"))));
    assert!(matches!(&report.verdict, Err(Failure::NoAnswer { error: Some(_), .. })), "{report:?}");
    let text = report.verdict.unwrap_err().to_string();
    assert!(text.contains("No route to host") && !text.contains("os error"), "{text}");
}

#[test]
fn a_refused_tunnel_is_told() {
    if !root() {
        return;
    }
    let (prober, _server) = network();
    for (silent, server) in NOBODY.into_iter().zip(SERVERS) {
        for (port, told) in [(6080, true), (6081, false)] {
            let nat = Nat {
                destination: address(server),
                tunnel: Tunnel::gue(6080),
                ..nat(address(silent))
            };
            let done = AtomicBool::new(false);
            let report = prober.enter(|| {
                thread::scope(|scope| {
                    // What the balancer would send.
                    scope.spawn(|| {
                        while !done.load(Ordering::Relaxed) {
                            let socket = connected(server, port);
                            let _ = socket.send(b"tunnel");
                            thread::sleep(Duration::from_millis(20));
                        }
                    });
                    let probe = match told {
                        // Until something is told, on a busy machine too.
                        true => Probe::tcp(80).timeout(Duration::from_secs(2)),
                        false => quick(Probe::tcp(80)),
                    };
                    let report = probe.run(&nat);
                    done.store(true, Ordering::Relaxed);
                    report
                })
            });
            match &report.verdict {
                Err(Failure::TunnelNotAnswered { from, what, .. }) => {
                    assert!(told && *from == address(server), "{report:?}");
                    assert_eq!(*what, "port unreachable");
                }
                Err(Failure::NoAnswer { .. }) => assert!(!told, "{report:?}"),
                _ => panic!("{report:?}"),
            }
        }
    }
}

fn connected(server: &str, port: u16) -> UdpSocket {
    let any = if address(server).is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect((address(server), port)).unwrap();
    socket
}

#[test]
fn packets_of_full_size_are_just_that() {
    if !root() {
        return;
    }
    let (prober, server) = network();
    for timestamps in [1, 0] {
        server.sh(&format!("sysctl -qw net.ipv4.tcp_timestamps={timestamps}"));
        for (address, mtu) in SERVERS.map(address).into_iter().flat_map(|a| [(a, 1500), (a, 1400)])
        {
            let nat = Nat { mtu: Some(mtu), ..nat(address) };
            let http = server.enter(|| serve(address, OK));
            let udp = server.enter(|| serve_udp(address));
            let probes = [Probe::http(http, "/"), Probe::udp(udp), Probe::tcp(http)];
            // A veth takes 4 octets more, for a tag that may be there.
            for (limit, fits) in [(mtu - 4, true), (mtu - 5, false)] {
                server.sh(&format!("ip link set s mtu {limit}"));
                for probe in &probes {
                    let small = prober.enter(|| probe.clone().run(&nat));
                    assert!(small.verdict.is_ok(), "{small:?}");
                    let full = quick(probe.clone()).size(Size::Full);
                    let report = prober.enter(|| full.run(&nat));
                    match &report.verdict {
                        Ok(()) => assert!(fits, "{report:?}"),
                        Err(Failure::Mtu { size, path: None, .. }) => {
                            assert!(!fits && *size == mtu, "{report:?}");
                        }
                        Err(_) => panic!("{report:?}"),
                    }
                }
            }
            server.sh("ip link set s mtu 1500");
        }
    }
}

#[test]
fn a_path_mtu_that_the_host_is_told_is_named() {
    if !root() {
        return;
    }
    let namespace = Namespace::new("narrow");
    namespace.sh("ip link set lo mtu 1400");
    for nat in [local(), nat(address("::1"))] {
        let (udp, tcp) = namespace.enter(|| (serve_udp(nat.address), serve(nat.address, OK)));
        for probe in [Probe::udp(udp), Probe::tcp(tcp)] {
            let report = namespace.enter(|| probe.size(Size::Full).run(&nat));
            assert!(
                matches!(report.verdict, Err(Failure::Mtu { size: 1500, path: Some(1400), .. })),
                "{report:?}"
            );
        }
    }
}
