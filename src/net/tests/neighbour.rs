//! Neighbours are kept resolved, and those of others left alone.

use super::*;

/// An address of each family that is on-link and that nobody has.
const NOBODY: [&str; 2] = ["10.1.2.99", "2001:db8::99"];
/// The address of the other end of [`pair`].
const PEER: [&str; 2] = ["10.1.2.2", "2001:db8::2"];

#[test]
fn kept_neighbours_resolve_without_traffic() {
    if !root() {
        return;
    }
    let (a, _b) = pair();
    let mut seen = a.enter(|| Seen::new(Watcher::new().unwrap()));
    let va = seen.index("va");
    assert_eq!(seen.net.keeps_managed(), None);
    for address in PEER {
        seen.net.keep(va, ip(address)).unwrap();
        seen.until("resolved", |s| {
            let neighbour = s.neighbours.get(&(va, ip(address)));
            neighbour.and_then(Neighbour::usable) == Some(MAC_B.parse().unwrap())
        });
    }
    let managed = seen.net.keeps_managed().expect("an entry was kept");
    for address in PEER {
        assert_eq!(seen.now(va, address).unwrap().managed, managed);
    }
    for address in NOBODY {
        seen.net.keep(va, ip(address)).unwrap();
        assert_eq!(seen.now(va, address).unwrap().managed, managed);
    }
    for address in NOBODY {
        seen.until("nobody answers", |s| {
            let neighbour = s.neighbours.get(&(va, ip(address)));
            neighbour.is_some_and(|n| n.state == NeighbourState::Failed && n.mac.is_none())
        });
    }
    for address in PEER.into_iter().chain(NOBODY) {
        seen.net.release(va, ip(address)).unwrap();
        seen.until("gone", |s| !s.neighbours.contains_key(&(va, ip(address))));
        assert_eq!(seen.now(va, address), None);
        seen.net.release(va, ip(address)).unwrap();
    }
}

#[test]
fn kept_neighbours_follow_a_new_mac() {
    if !root() {
        return;
    }
    let (a, b) = pair();
    let mut seen = a.enter(|| Seen::new(Watcher::new().unwrap()));
    let va = seen.index("va");
    for address in PEER {
        seen.net.keep(va, ip(address)).unwrap();
    }
    b.sh("ip link set vb address 02:00:00:00:00:77
          sysctl -qw net.ipv4.conf.vb.arp_notify=1 net.ipv6.conf.vb.ndisc_notify=1
          ip link set vb down; ip link set vb up; ip addr replace 2001:db8::2/64 dev vb");
    // The carrier was lost, and with it the entries.
    seen.until("the carrier is back", |s| s.links[&va].running);
    for address in PEER {
        seen.net.keep(va, ip(address)).unwrap();
        seen.until("the new MAC", |s| {
            let neighbour = s.neighbours.get(&(va, ip(address)));
            neighbour.and_then(Neighbour::usable) == Some(Mac([2, 0, 0, 0, 0, 0x77]))
        });
    }
}

#[test]
fn entries_of_others_keep_their_mac_and_state() {
    if !root() {
        return;
    }
    let (a, _b) = pair();
    let mut seen = a.enter(|| Seen::new(Watcher::new().unwrap()));
    let va = seen.index("va");
    for address in NOBODY {
        for (nud, mark, state) in [
            ("permanent", "", NeighbourState::Permanent),
            ("noarp", "", NeighbourState::NoArp),
            ("reachable", "", NeighbourState::Reachable),
            ("reachable", "extern_learn", NeighbourState::Reachable),
            ("stale", "", NeighbourState::Stale),
            ("stale", "extern_learn", NeighbourState::Stale),
        ] {
            let what = format!("{address} {nud} {mark}");
            let add = format!("ip neigh add {address} lladdr {MAC_A} dev va nud {nud} {mark}");
            a.sh(&add);
            let before = seen.now(va, address).unwrap();
            assert_eq!(before.state, state, "{what}");
            let learned = || a.sh(&format!("ip neigh show {address}")).contains("extern_learn");
            let marked = learned();

            seen.net.keep(va, ip(address)).unwrap();
            let kept = seen.now(va, address).unwrap();
            assert_eq!(kept.usable(), before.mac, "{what}");
            assert_eq!(learned(), marked, "{what}");
            let managed = seen.net.keeps_managed() == Some(true) && !state.is_fixed();
            assert_eq!(kept.managed, managed, "{what}");
            if nud != "stale" {
                assert_eq!(kept.state, state, "{what}");
            }

            seen.net.kick(va, ip(address)).unwrap();
            let kicked = seen.now(va, address).unwrap();
            assert_eq!((kicked.mac, kicked.managed), (kept.mac, kept.managed), "{what}");
            assert_eq!(learned(), marked, "{what}");

            seen.net.release(va, ip(address)).unwrap();
            let after = seen.now(va, address).unwrap();
            assert_eq!(after.mac, before.mac, "{what}");
            assert!(!after.managed, "{what}");
            assert_eq!(learned(), marked, "{what}");
            if state.is_fixed() {
                assert_eq!(after, before, "{what}");
            } else {
                assert!(after.usable().is_some(), "{what}: {after:?}");
            }
            a.sh(&format!("ip neigh del {address} dev va"));
        }
    }
}

#[test]
fn entries_taken_over_by_others_are_left_to_them() {
    if !root() {
        return;
    }
    let (a, _b) = pair();
    let mut seen = a.enter(|| Seen::new(Watcher::new().unwrap()));
    let va = seen.index("va");
    for address in NOBODY {
        seen.net.keep(va, ip(address)).unwrap();
        a.sh(&format!("ip neigh replace {address} lladdr {MAC_A} dev va nud permanent"));
        seen.net.keep(va, ip(address)).unwrap();
        seen.net.kick(va, ip(address)).unwrap();
        seen.net.release(va, ip(address)).unwrap();
        let neighbour = seen.now(va, address).unwrap();
        assert_eq!(neighbour.mac, Some(MAC_A.parse().unwrap()));
        assert_eq!(neighbour.state, NeighbourState::Permanent);
    }
}

#[test]
fn entries_managed_by_others_stay_managed() {
    if !root() {
        return;
    }
    let (a, _b) = pair();
    let (mut one, mut two) = a.enter(|| (Net::new().unwrap(), Net::new().unwrap()));
    let va = one.snapshot().unwrap().link("va").unwrap().index;
    for address in NOBODY.map(ip) {
        one.keep(va, address).unwrap();
        if one.keeps_managed() == Some(false) {
            println!("skipped: this kernel has no managed neighbours");
            return;
        }
        two.keep(va, address).unwrap();
        two.kick(va, address).unwrap();
        two.release(va, address).unwrap();
        assert!(one.snapshot().unwrap().neighbours[&(va, address)].managed);
        one.release(va, address).unwrap();
        assert!(!one.snapshot().unwrap().neighbours.contains_key(&(va, address)));
    }
}

#[test]
fn without_managed_entries_resolution_is_started() {
    if !root() {
        return;
    }
    let (a, _b) = pair();
    let mut seen = a.enter(|| Seen::new(Watcher::new().unwrap()));
    let va = seen.index("va");
    seen.net.manages = Some(false);
    for (address, other) in PEER.into_iter().zip(NOBODY) {
        let add = |nud: &str| {
            a.sh(&format!("ip neigh replace {other} lladdr {MAC_A} dev va nud {nud}"));
        };
        seen.net.keep(va, ip(address)).unwrap();
        seen.until("resolved", |s| {
            let neighbour = s.neighbours.get(&(va, ip(address)));
            neighbour.is_some_and(|n| !n.managed && n.usable().is_some())
        });
        seen.net.keep(va, ip(address)).unwrap();
        seen.net.release(va, ip(address)).unwrap();
        assert_eq!(seen.now(va, address), None, "it was not there before");

        add("reachable");
        seen.net.keep(va, ip(other)).unwrap();
        seen.net.release(va, ip(other)).unwrap();
        assert!(seen.now(va, other).unwrap().usable().is_some(), "it was there before");
        a.sh(&format!("ip neigh del {other} dev va"));
        seen.net.keep(va, ip(other)).unwrap();
        add("permanent");
        seen.net.keep(va, ip(other)).unwrap();
        seen.net.release(va, ip(other)).unwrap();
        assert_eq!(seen.now(va, other).unwrap().state, NeighbourState::Permanent);
    }
}

#[test]
fn kick_creates_and_resolves() {
    if !root() {
        return;
    }
    let (a, _b) = pair();
    let mut seen = a.enter(|| Seen::new(Watcher::new().unwrap()));
    let va = seen.index("va");
    for address in PEER {
        seen.net.kick(va, ip(address)).unwrap();
        seen.until("resolved", |s| {
            let neighbour = s.neighbours.get(&(va, ip(address)));
            neighbour.is_some_and(|n| !n.managed && n.usable().is_some())
        });
        seen.net.release(va, ip(address)).unwrap();
        assert!(seen.now(va, address).is_some(), "only kept ones are released");
    }
}

#[test]
fn refusals_keep_their_errno() {
    if !root() {
        return;
    }
    let namespace = Namespace::new("a");
    let mut net = namespace.enter(|| Net::new().unwrap());
    let error = net.keep(4242, ip("10.1.2.3")).unwrap_err();
    let source = std::error::Error::source(&error).unwrap();
    let errno = source.downcast_ref::<io::Error>().unwrap().raw_os_error();
    assert_eq!(errno, Some(nix::libc::ENODEV), "{error}");
    net.release(4242, ip("10.1.2.3")).unwrap();
    net.snapshot().unwrap();
}
