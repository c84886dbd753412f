//! Packets follow a server's hardware address.

use std::fs;
use std::io::Write;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::Signal;
use xvs::Event;
use xvs::Service;

use super::web::serve;
use crate::following::Ip;
use crate::following::followed;
use crate::following::new_mac;
use crate::following::under_load;
use crate::following::within_50_ms;
use crate::lab::Lab;
use crate::lab::UDP;
use crate::lab::vip;
use crate::lab::wait;
use crate::netns::Namespace;
use crate::server::PATIENCE;
use crate::sniffer::Sniffer;
use crate::xvsctl;
use crate::xvsctl::Balance;

#[test]
fn traffic_follows_a_new_hardware_address_within_50_ms() {
    let lab = Lab::new(1);
    let balancer = lab.balancer();
    let backend = &lab.backends[0].namespace;
    // The kernel tells the neighbours itself, by gratuitous ARP and
    // unsolicited neighbour advertisements.
    backend.sh("sysctl -qw net.ipv4.conf.all.arp_notify=1 net.ipv4.conf.eth0.arp_notify=1 \
        net.ipv6.conf.all.ndisc_notify=1 net.ipv6.conf.eth0.ndisc_notify=1");
    for number in [0, 1] {
        let to = vip(number, UDP);
        serve(&lab, &balancer, &Service::udp(to.ip(), to.port()));
        let sniffer = Sniffer::start(backend, move |seen| seen.to == to.ip());
        let mut at_backend = Ip::new(backend);
        under_load(&lab, to, || {
            let title = format!("{to}, from before the backend's change");
            within_50_ms(&title, |round| {
                let (mac, text) = new_mac(number as u8 * 0x10 + round);
                let start = at_backend.run(&format!("link set dev eth0 address {text}"));
                followed(&sniffer, mac, start)
            });
        });
    }
}

#[test]
fn traffic_follows_the_kernels_neighbour_entry_within_50_ms() {
    let lab = Lab::new(1);
    let balancer = lab.balancer();
    for (number, real) in [(0, lab.backends[0].v4), (1, lab.backends[0].v6)] {
        let to = vip(number, UDP);
        serve(&lab, &balancer, &Service::udp(to.ip(), to.port()));
        // The switch floods what it does not know, so the backend sees it.
        let sniffer = Sniffer::start(&lab.backends[0].namespace, move |seen| seen.to == to.ip());
        let mut at_lb = Ip::new(&lab.lb);
        under_load(&lab, to, || {
            let title = format!("{to}, from before `ip neigh replace`");
            within_50_ms(&title, |round| {
                let (mac, text) = new_mac(0x40 + round);
                let entry = format!("{real} lladdr {text} dev eth0 nud reachable");
                let start = at_lb.run(&format!("neigh replace {entry}"));
                followed(&sniffer, mac, start)
            });
        });
    }
}

/// How many messages were dropped for the full buffers of netlink sockets.
fn netlink_drops(namespace: &Namespace) -> u64 {
    let table = namespace.enter(|| fs::read_to_string("/proc/thread-self/net/netlink"));
    let table = table.expect("the kernel has netlink");
    let column = |line: &str| line.split_whitespace().nth(8)?.parse::<u64>().ok();
    table.lines().filter_map(column).sum()
}

/// Neighbour changes by the thousands, none of them of a destination.
fn storm(namespace: &Namespace, changes: usize) {
    let mut child = namespace.enter(|| {
        Command::new("ip")
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("iproute2 is there")
    });
    let mut batch = String::new();
    for i in 0..changes {
        let (host, mac) = (200 + i % 4, i / 4 % 256);
        batch += &format!(
            "neigh replace 10.1.2.{host} lladdr 02:00:00:0a:00:{mac:02x} dev eth0 nud permanent\n"
        );
    }
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(batch.as_bytes()).expect("no command failed");
    drop(stdin);
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn traffic_follows_after_a_storm_of_neighbour_changes() {
    let lab = Lab::new(1);
    let balancer = lab.balancer();
    let backend = &lab.backends[0].namespace;
    backend.sh("sysctl -qw net.ipv4.conf.all.arp_notify=1");
    let to = vip(0, UDP);
    serve(&lab, &balancer, &Service::udp(to.ip(), to.port()));
    let sniffer = Sniffer::start(backend, move |seen| seen.to == to.ip());
    let mut at_backend = Ip::new(backend);
    under_load(&lab, to, || {
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| storm(&lab.lb, 20_000));
            }
        });
        let (mac, text) = new_mac(1);
        let start = at_backend.run(&format!("link set dev eth0 address {text}"));
        let taken = followed(&sniffer, mac, start);
        let drops = netlink_drops(&lab.lb);
        let lost = balancer.events().iter().any(|e| matches!(e, Event::EventsLost));
        println!("60,000 changes: {drops} messages dropped, noticed: {lost}; then {taken:?}");
        assert!(drops == 0 || lost, "lost messages are told");
    });
}

#[test]
fn a_process_that_missed_events_reads_everything_again() {
    let lab = Lab::new(1);
    let backend = &lab.backends[0].namespace;
    backend.sh("sysctl -qw net.ipv4.conf.all.arp_notify=1");
    let to = vip(0, UDP);
    let balance = Balance::start(&lab, &[], xvsctl::program(), &["--port=53/udp"]);
    balance.expect("ready", PATIENCE);
    let sniffer = Sniffer::start(backend, move |seen| seen.to == to.ip());
    under_load(&lab, to, || {
        balance.signal(Signal::SIGSTOP);
        let mut rounds = 0;
        while netlink_drops(&lab.lb) == 0 {
            storm(&lab.lb, 20_000);
            rounds += 1;
            assert!(rounds < 100, "the socket's buffer takes everything");
        }
        let (mac, text) = new_mac(1);
        backend.sh(&format!("ip link set dev eth0 address {text}"));
        let learned = || lab.lb.sh("ip neigh show 10.1.2.11").contains(&text).then_some(());
        wait("the kernel knows the new address", PATIENCE, learned);
        balance.signal(Signal::SIGCONT);
        let taken = followed(&sniffer, mac, Instant::now());
        println!("{rounds} times 20,000 changes until one was lost; then {taken:?}");
        balance.expect("events_lost", PATIENCE);
        assert!(taken < Duration::from_secs(2), "{taken:?}");
    });
    assert!(balance.stop().success());
}
