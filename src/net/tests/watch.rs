//! What is read and heard is what the kernel has.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use super::netns::sh;
use super::*;
use crate::net::watch::Changes;

#[test]
fn snapshot_sees_links_addresses_and_neighbours() {
    if !root() {
        return;
    }
    let (a, _b) = pair();
    a.sh("ip link set va mtu 1400
          ip addr add 10.7.0.1 peer 10.7.0.2/30 dev va
          ip neigh add 10.1.2.50 lladdr 02:00:00:00:00:50 dev va nud permanent
          ip neigh add 2001:db8::50 lladdr 02:00:00:00:00:50 dev va nud stale
          ip neigh add proxy 10.1.2.51 dev va
          ip link add bare type veth peer name other numrxqueues 3 numtxqueues 4");
    let snapshot = a.enter(|| Net::new().unwrap().snapshot().unwrap());
    let va = snapshot.link("va").unwrap();
    assert_eq!(va.mac.to_string(), MAC_A);
    assert_eq!((va.up, va.running, va.mtu), (true, true, 1400));
    assert_eq!((va.kind.as_deref(), va.xdp), (Some("veth"), None));
    let bare = snapshot.link("bare").unwrap();
    assert_eq!((bare.up, bare.running), (false, false));
    let other = snapshot.link("other").unwrap();
    assert_eq!((other.rx_queues, other.tx_queues), (3, 4));
    let lo = snapshot.link("lo").unwrap();
    assert_eq!((lo.mac, lo.up, lo.running, &lo.kind), (Mac::default(), true, true, &None));

    let on_va: Vec<String> = snapshot
        .addresses
        .iter()
        .filter(|address| address.index == va.index)
        .map(|address| format!("{} {}", address.address, address.prefix))
        .collect();
    for expected in ["10.1.2.1 10.1.2.0/24", "10.7.0.1 10.7.0.0/30", "2001:db8::1 2001:db8::/64"] {
        assert!(on_va.iter().any(|found| found == expected), "{expected}: {on_va:?}");
    }
    assert!(on_va.iter().any(|found| found.starts_with("fe80::")), "{on_va:?}");
    assert!(snapshot.addresses.is_sorted());

    let mac = Some("02:00:00:00:00:50".parse().unwrap());
    for (address, state) in
        [("10.1.2.50", NeighbourState::Permanent), ("2001:db8::50", NeighbourState::Stale)]
    {
        let neighbour = snapshot.neighbours[&(va.index, ip(address))];
        assert_eq!(neighbour, Neighbour { mac, state, managed: false });
    }
    assert!(!snapshot.neighbours.contains_key(&(va.index, ip("10.1.2.51"))));
}

#[test]
fn watcher_sees_each_change() {
    if !root() {
        return;
    }
    let (a, b) = pair();
    let mut seen = a.enter(|| Seen::new(Watcher::new().unwrap()));
    let va = seen.index("va");
    for (address, other) in [("10.1.2.9", "10.1.2.10"), ("2001:db8::9", "2001:db8::10")] {
        a.sh(&format!("ip neigh add {address} lladdr {MAC_A} dev va nud permanent"));
        let has = |mac: &'static str| {
            move |s: &Snapshot| {
                let neighbour = s.neighbours.get(&(va, ip(address)));
                neighbour.and_then(Neighbour::usable) == Some(mac.parse().unwrap())
            }
        };
        seen.until("the neighbour is there", has(MAC_A));
        a.sh(&format!("ip neigh replace {address} lladdr {MAC_B} dev va nud permanent"));
        seen.until("its MAC changed", has(MAC_B));
        a.sh(&format!(
            "ip neigh add proxy {address} dev va; ip neigh del proxy {address} dev va
              ip neigh add {other} lladdr {MAC_B} dev va nud permanent"
        ));
        seen.until("the next one is there", |s| s.neighbours.contains_key(&(va, ip(other))));
        assert!(seen.neighbour(va, address).is_some(), "a proxy entry is none of these");
        a.sh(&format!("ip neigh del {address} dev va"));
        seen.until("it is gone", |s| !s.neighbours.contains_key(&(va, ip(address))));
    }

    for address in ["10.3.3.3", "2001:db8:3::3"] {
        let present = |s: &Snapshot| s.addresses.iter().any(|a| a.address == ip(address));
        a.sh(&format!("ip addr add {address}/28 dev va"));
        seen.until("the address is there", present);
        a.sh(&format!("ip addr del {address}/28 dev va"));
        seen.until("the address is gone", |s| !present(s));
    }

    b.sh("ip link set vb down");
    seen.until("no carrier", |s| s.links[&va].up && !s.links[&va].running);
    b.sh("ip link set vb up");
    seen.until("carrier", |s| s.links[&va].running);
    a.sh("ip link set va down");
    seen.until("down", |s| !s.links[&va].up && !s.links[&va].running);
    a.sh("ip link set va name renamed mtu 1300 address 02:00:00:00:00:33");
    seen.until("renamed", |s| s.links[&va].name == "renamed");
    seen.until("another MTU", |s| s.links[&va].mtu == 1300);
    seen.until("another MAC", |s| s.links[&va].mac == "02:00:00:00:00:33".parse().unwrap());
    a.sh("ip link set renamed up");
    seen.until("up", |s| s.links[&va].running);

    // A port that leaves a bridge is told as deleted, in the bridge's family.
    a.sh(
        "ip link add bridge0 type bridge; ip link set bridge0 up; ip link set renamed master bridge0
          ip link set renamed nomaster; ip link add extra type veth peer name artxe",
    );
    seen.until("the last one is there", |s| s.link("artxe").is_some());
    assert!(seen.snapshot.links.contains_key(&va), "it only left the bridge");
    seen.until("the bridge is down", |s| s.link("bridge0").is_some_and(|link| !link.running));
    seen.agrees();

    a.sh("ip link del renamed");
    seen.until("deleted", |s| !s.links.contains_key(&va));
    assert!(!seen.snapshot.addresses.iter().any(|address| address.index == va));
    assert!(!seen.snapshot.neighbours.keys().any(|(index, _)| *index == va));
    assert!(!seen.lost);
}

#[test]
fn an_address_has_one_entry_whatever_becomes_of_it() {
    if !root() {
        return;
    }
    let (a, b) = pair();
    let mut seen = a.enter(|| Seen::new(Watcher::new().unwrap()));
    let rank = |s: &Snapshot, address: &str| {
        let ranks = s.addresses.iter().filter(|a| a.address == ip(address)).map(|a| a.rank);
        let ranks: Vec<Rank> = ranks.collect();
        assert!(ranks.len() < 2, "{address}: {ranks:?}");
        ranks.first().copied()
    };
    // A numerically lower one that is added later, and IPv6, which has no such thing.
    a.sh("ip addr add 10.1.2.0/24 dev va; ip addr add 2001:db8::/64 dev va");
    seen.until("secondary", |s| rank(s, "10.1.2.0") == Some(Rank::Secondary));
    seen.until("not secondary", |s| rank(s, "2001:db8::") == Some(Rank::Primary));
    assert_eq!(rank(&seen.snapshot, "10.1.2.1"), Some(Rank::Primary));

    for address in ["10.1.2.1/24", "2001:db8::1/64"] {
        let (plain, _) = address.split_once('/').unwrap();
        for (lifetime, expected) in [("0", Rank::Unfit), ("forever", Rank::Primary)] {
            let before = seen.snapshot.clone();
            a.sh(&format!(
                "ip addr change {address} dev va valid_lft forever preferred_lft {lifetime}"
            ));
            seen.until("another rank", |s| rank(s, plain) == Some(expected));
            assert_ne!(seen.snapshot, before);
            assert!(seen.snapshot.is_own(ip(plain)));
            assert!(seen.snapshot.addresses.is_sorted());
            seen.agrees();
        }
    }

    // With the other end's address it is a duplicate.
    a.sh("sysctl -qw net.ipv6.conf.all.accept_dad=1 net.ipv6.conf.va.accept_dad=1
          ip addr add 2001:db8::2/64 dev va");
    seen.until("tentative", |s| rank(s, "2001:db8::2") == Some(Rank::Unfit));
    let failed = || a.sh("ip addr show dev va to 2001:db8::2").contains("dadfailed");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !failed() {
        assert!(Instant::now() < deadline, "no duplicate");
        std::thread::sleep(Duration::from_millis(20));
    }
    seen.agrees();
    assert_eq!(rank(&seen.snapshot, "2001:db8::2"), Some(Rank::Unfit));
    // Without it, it is ours after a while.
    b.sh("ip addr flush dev vb");
    a.sh("ip addr del 2001:db8::2/64 dev va; ip addr add 2001:db8::2/64 dev va");
    seen.until("not tentative", |s| rank(s, "2001:db8::2") == Some(Rank::Primary));
    // The secondary one is promoted.
    a.sh("sysctl -qw net.ipv4.conf.va.promote_secondaries=1; ip addr del 10.1.2.1/24 dev va");
    seen.until("promoted", |s| rank(s, "10.1.2.0") == Some(Rank::Primary));
    a.sh("ip addr del 10.1.2.0/24 dev va");
    seen.until("gone", |s| !s.is_own(ip("10.1.2.0")));
    seen.agrees();
}

#[test]
fn watcher_sees_xdp_programs() {
    if !root() {
        return;
    }
    let works = |name: &String| Command::new(name).arg("--version").output().is_ok();
    let names = env::var("CLANG").into_iter().chain(["clang-19".into(), "clang".into()]);
    let Some(clang) = names.into_iter().find(works) else {
        println!("skipped: there is no clang to make a program with");
        return;
    };
    let object = env::temp_dir().join(format!("xvs-net-{}.o", std::process::id()));
    let object = object.display();
    sh(&format!(
        "echo '__attribute__((section(\"xdp\"))) int pass(void *ctx) {{ return 2; }}' |
             {clang} -O2 -target bpf -x c -c -o {object} -"
    ));
    let (a, _b) = pair();
    let mut seen = a.enter(|| Seen::new(Watcher::new().unwrap()));
    let va = seen.index("va");
    let mut ids = Vec::new();
    for (how, mode) in [("xdpgeneric", XdpMode::Generic), ("xdpdrv", XdpMode::Native)] {
        a.sh(&format!("ip link set va {how} obj {object} sec xdp"));
        let attached = |s: &Snapshot| s.links[&va].xdp.is_some_and(|xdp| xdp.mode == mode);
        seen.until("attached", attached);
        seen.agrees();
        ids.push(seen.snapshot.links[&va].xdp.unwrap().id);
        a.sh(&format!("ip link set va {how} off"));
        seen.until("detached", |s| s.links[&va].xdp.is_none());
    }
    let _ = fs::remove_file(object.to_string());
    assert!(ids[0] != 0 && ids[0] != ids[1], "{ids:?}");
}

#[test]
fn overflow_is_told_and_a_new_snapshot_is_right() {
    if !root() {
        return;
    }
    let (a, _b) = pair();
    let mut seen = a.enter(|| Seen::new(Watcher::with_receive_buffer(4096).unwrap()));
    let va = seen.index("va");
    let mut batch = String::new();
    for i in 0..5000 {
        let (high, low) = (i / 250, i % 250 + 1);
        let (three, six) = (format!("10.8.{high}.{low}"), format!("2001:db8:8::{i:x}"));
        for address in [three, six] {
            let mac = format!("02:00:00:00:{high:02x}:{low:02x}");
            writeln!(batch, "neigh replace {address} lladdr {mac} dev va nud permanent").unwrap();
        }
    }
    let file = env::temp_dir().join(format!("xvs-net-{}.batch", std::process::id()));
    fs::write(&file, batch).unwrap();
    let file = file.display();
    a.sh(&format!(
        "sysctl -qw net.ipv4.neigh.default.gc_thresh3=100000 2>/dev/null || true
         ip -batch {file}"
    ));
    fs::remove_file(file.to_string()).unwrap();

    let changes = seen.watcher.drain(&mut seen.snapshot).unwrap();
    assert_eq!(changes, Changes { any: true, lost: true, ..Changes::default() });
    let some = seen.snapshot.neighbours.len();
    assert!(some < 10_000, "{some} entries although messages were lost");
    seen.snapshot = seen.net.snapshot().unwrap();
    let (three, six) = (ip("10.8.19.250"), ip("2001:db8:8::1387"));
    let mac = Some(Mac([2, 0, 0, 0, 19, 250]));
    for address in [three, six] {
        let neighbour = seen.snapshot.neighbours[&(va, address)];
        let state = NeighbourState::Permanent;
        assert_eq!(neighbour, Neighbour { mac, state, managed: false });
    }
    let table: usize = a.sh("ip neigh show nud permanent | wc -l").trim().parse().unwrap();
    let permanent = |n: &&Neighbour| n.state == NeighbourState::Permanent;
    assert_eq!(seen.snapshot.neighbours.values().filter(permanent).count(), table);
    assert_eq!(table, 10_000);

    // The watcher goes on, and says so once only.
    a.sh(&format!("ip neigh del {three} dev va"));
    let changes = seen.watcher.drain(&mut seen.snapshot).unwrap();
    assert_eq!(changes, Changes { any: true, ..Changes::default() });
    seen.agrees();
}
