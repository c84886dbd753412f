//! Routes are what the kernel has, also after changes that it does not tell of.

use super::*;
use crate::net::routes::Route;
use crate::net::watch::Changes;

/// A namespace with an interface to each of two others, which take all that comes:
/// `va` of 10.1.2.0/24 and 2001:db8::/64, `vc` of 10.1.3.0/24 and 2001:db8:1::/64.
fn routed() -> (Namespace, Seen) {
    let namespace = Namespace::new("routes");
    namespace.sh("ip link add va type veth peer name vb; ip link add vc type veth peer name vd
         for i in va vb vc vd; do ip link set $i up; done
         sysctl -qw net.ipv6.conf.va.keep_addr_on_down=1 net.ipv6.conf.vc.keep_addr_on_down=1
         ip addr add 10.1.2.1/24 dev va; ip addr add 10.1.3.1/24 dev vc
         ip addr add 2001:db8::1/64 dev va; ip addr add 2001:db8:1::1/64 dev vc");
    let mut seen = namespace.enter(|| Seen::new(Watcher::new().unwrap()));
    let runs = |s: &Snapshot, name| s.link(name).is_some_and(|link| link.running);
    seen.until("the interfaces are up", |s| ["va", "vb", "vc", "vd"].iter().all(|n| runs(s, n)));
    (namespace, seen)
}

/// A route in words: metric, and for each next hop interface, gateway, weight,
/// source and MTU where there are any.
fn words(snapshot: &Snapshot, route: &Route) -> String {
    let name = |index| snapshot.links.get(&index).map_or("?", |link| &link.name);
    let hops = route.hops.iter().map(|hop| {
        let gateway = hop.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
        let weight = if hop.weight == 1 { String::new() } else { format!(" x{}", hop.weight) };
        let source = hop.source.map(|source| format!(" src {source}")).unwrap_or_default();
        let mtu = hop.mtu.map(|mtu| format!(" mtu {mtu}")).unwrap_or_default();
        format!("{}{gateway}{weight}{source}{mtu}", name(hop.interface))
    });
    let mut hops: Vec<String> = hops.collect();
    hops.sort();
    format!("{}: {}", route.metric, if hops.is_empty() { "none".into() } else { hops.join(", ") })
}

impl Seen {
    /// Runs a command; then the watcher says what a new snapshot does, and the route
    /// to an address is this one. A change that is outdated makes a reader read all
    /// again.
    fn follows(&mut self, namespace: &Namespace, command: &str, address: &str, expected: &str) {
        namespace.sh(command);
        let found = |s: &Snapshot| match s.routes.to(ip(address)) {
            Some(route) => words(s, route),
            None => "no route".to_owned(),
        };
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let changes = self.watcher.drain(&mut self.snapshot).unwrap();
            assert!(!changes.lost);
            if changes.outdated {
                self.snapshot = self.net.snapshot().unwrap();
            }
            let fresh = self.net.snapshot().unwrap();
            if found(&self.snapshot) == expected && self.snapshot.routes == fresh.routes {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "`{command}`: {}, not {expected}\n{:#?}\n{:#?}",
                found(&self.snapshot),
                self.snapshot.routes,
                fresh.routes
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn all_follow(&mut self, namespace: &Namespace, address: &str, cases: &[(&str, &str)]) {
        for (command, expected) in cases {
            self.follows(namespace, command, address, expected);
        }
    }
}

#[test]
fn ipv4_routes_are_followed() {
    if !root() {
        return;
    }
    let (a, mut seen) = routed();
    let cases = [
        ("true", "no route"),
        ("ip route add default via 10.1.2.254", "0: va via 10.1.2.254"),
        ("ip route add 10.9.0.0/16 via 10.1.2.9", "0: va via 10.1.2.9"),
        ("ip route add 10.9.0.0/16 via 10.1.3.9 metric 5", "0: va via 10.1.2.9"),
        ("ip route add 10.9.9.0/24 via 10.1.3.7 mtu 1400", "0: vc via 10.1.3.7 mtu 1400"),
        ("ip route replace 10.9.9.0/24 via 10.1.3.8", "0: vc via 10.1.3.8"),
        ("ip route add 10.9.9.9/32 dev va src 10.1.3.1", "0: va src 10.1.3.1"),
        ("ip route del 10.9.9.9/32", "0: vc via 10.1.3.8"),
        ("ip route add unreachable 10.9.9.8/30", "0: none"),
        ("ip route del unreachable 10.9.9.8/30", "0: vc via 10.1.3.8"),
        ("ip route add blackhole 10.9.9.8/30 metric 3", "3: none"),
        ("ip route del blackhole 10.9.9.8/30 metric 3", "0: vc via 10.1.3.8"),
        ("ip route add prohibit 10.9.9.8/30", "0: none"),
        ("ip route replace 10.9.9.8/30 via 10.1.2.8", "0: va via 10.1.2.8"),
        ("ip route del 10.9.9.8/30; ip route del 10.9.9.0/24", "0: va via 10.1.2.9"),
        // The same prefix and metric twice: one waits for the other.
        ("ip route append 10.9.0.0/16 via 10.1.2.10", "0: va via 10.1.2.9"),
        ("ip route prepend 10.9.0.0/16 via 10.1.2.8", "0: va via 10.1.2.8"),
        ("ip route replace 10.9.0.0/16 via 10.1.2.7", "0: va via 10.1.2.7"),
        ("ip route del 10.9.0.0/16 via 10.1.2.7", "0: va via 10.1.2.9"),
        ("ip route del 10.9.0.0/16 via 10.1.2.9", "0: va via 10.1.2.10"),
        ("ip route del 10.9.0.0/16 via 10.1.2.10", "5: vc via 10.1.3.9"),
        ("ip route add 10.9.0.0/16 via inet6 fe80::9 dev va", "0: va via fe80::9"),
        ("ip route del 10.9.0.0/16 dev va", "5: vc via 10.1.3.9"),
        // Others' tables and others' packets.
        ("ip route add 10.9.9.9/32 via 10.1.2.5 table 77", "5: vc via 10.1.3.9"),
        ("ip route add 10.9.9.9/32 via 10.1.2.5 tos 0x10", "5: vc via 10.1.3.9"),
        ("ip route del 10.9.0.0/16", "0: va via 10.1.2.254"),
        ("ip route del default", "no route"),
    ];
    seen.all_follow(&a, "10.9.9.9", &cases);
    seen.all_follow(&a, "10.1.2.77", &[("true", "0: va src 10.1.2.1")]);
}

#[test]
fn ipv4_routes_go_with_what_they_need() {
    if !root() {
        return;
    }
    let (a, mut seen) = routed();
    let both = "ip route add 10.9.0.0/16 nexthop via 10.1.2.9 weight 2 nexthop via 10.1.3.9";
    let cases = [
        ("ip route add 10.9.0.0/16 via 10.1.3.9", "0: vc via 10.1.3.9"),
        ("ip link set vc down", "no route"),
        ("ip link set vc up", "no route"),
        (both, "0: va via 10.1.2.9 x2, vc via 10.1.3.9"),
        ("ip link set vc down", "0: va via 10.1.2.9 x2, vc via 10.1.3.9"),
        ("ip link set vc up", "0: va via 10.1.2.9 x2, vc via 10.1.3.9"),
        ("ip link set vd down; ip link set vd up", "0: va via 10.1.2.9 x2, vc via 10.1.3.9"),
        ("ip link set vc down; ip link set va down", "no route"),
        ("ip link set vc up; ip link set va up", "no route"),
        (
            "ip addr add 10.7.7.7/32 dev lo; ip route add 10.9.0.0/16 via 10.1.2.9 src 10.7.7.7",
            "0: va via 10.1.2.9 src 10.7.7.7",
        ),
        ("ip addr del 10.7.7.7/32 dev lo", "no route"),
        ("ip route add 10.9.0.0/16 via 10.1.3.9; ip link del vc", "no route"),
    ];
    seen.all_follow(&a, "10.9.9.9", &cases);
}

#[test]
fn ipv6_routes_are_followed() {
    if !root() {
        return;
    }
    let (a, mut seen) = routed();
    let cases = [
        ("true", "no route"),
        ("ip -6 route add default via fe80::1 dev va metric 9", "9: va via fe80::1"),
        ("ip -6 route add default via 2001:db8:1::1:1 metric 8", "8: vc via 2001:db8:1::1:1"),
        ("ip -6 route add 2001:db8:9::/48 via 2001:db8::9", "1024: va via 2001:db8::9"),
        // Those with the same metric are used together.
        (
            "ip -6 route append 2001:db8:9::/48 via 2001:db8:1::9",
            "1024: va via 2001:db8::9, vc via 2001:db8:1::9",
        ),
        (
            "ip -6 route append 2001:db8:9::/48 via fe80::9 dev vc",
            "1024: va via 2001:db8::9, vc via 2001:db8:1::9, vc via fe80::9",
        ),
        (
            "ip -6 route del 2001:db8:9::/48 via 2001:db8::9",
            "1024: vc via 2001:db8:1::9, vc via fe80::9",
        ),
        (
            "ip -6 route replace 2001:db8:9::/48 via 2001:db8::8 mtu 1400",
            "1024: va via 2001:db8::8 mtu 1400",
        ),
        (
            "ip -6 route replace 2001:db8:9::/48 nexthop via 2001:db8::7 weight 3 \
             nexthop via 2001:db8:1::7",
            "1024: va via 2001:db8::7 x3, vc via 2001:db8:1::7",
        ),
        (
            "ip -6 route append 2001:db8:9::/48 nexthop via 2001:db8::6 nexthop via 2001:db8:1::6",
            "1024: va via 2001:db8::6, va via 2001:db8::7 x3, vc via 2001:db8:1::6, \
             vc via 2001:db8:1::7",
        ),
        ("ip -6 route add 2001:db8:9::/48 dev va metric 7", "7: va"),
        ("ip -6 route replace 2001:db8:9::/48 dev vc metric 7", "7: vc"),
        ("ip -6 route replace 2001:db8:9::/48 via 2001:db8::5 metric 7", "7: va via 2001:db8::5"),
        ("ip -6 route add unreachable 2001:db8:9::/64", "1024: none"),
        ("ip -6 route del unreachable 2001:db8:9::/64", "7: va via 2001:db8::5"),
        ("ip -6 route add blackhole 2001:db8:9::9/128", "1024: none"),
        ("ip -6 route del blackhole 2001:db8:9::9/128", "7: va via 2001:db8::5"),
        (
            "ip addr add 2001:db8::2/64 dev va nodad
             ip -6 route add 2001:db8:9::9/128 via 2001:db8::3 src 2001:db8::2",
            "1024: va via 2001:db8::3 src 2001:db8::2",
        ),
        // Up to 6.1 a source of another interface stays.
        ("ip addr del 2001:db8::2/64 dev va", "1024: va via 2001:db8::3"),
        ("ip -6 route del 2001:db8:9::9/128", "7: va via 2001:db8::5"),
        (
            "ip -6 route del 2001:db8:9::/48 metric 7; ip -6 route del 2001:db8:9::/48",
            "8: vc via 2001:db8:1::1:1",
        ),
        ("ip -6 route del default metric 8", "9: va via fe80::1"),
    ];
    seen.all_follow(&a, "2001:db8:9::9", &cases);
    seen.all_follow(&a, "2001:db8::77", &[("true", "256: va")]);
}

#[test]
fn ipv6_routes_go_with_what_they_need() {
    if !root() {
        return;
    }
    let (a, mut seen) = routed();
    let both = "1024: va via 2001:db8::9, vc via 2001:db8:1::9";
    let cases = [
        ("ip -6 route add 2001:db8:9::/48 nexthop via 2001:db8::9 nexthop via 2001:db8:1::9", both),
        ("ip link set vc down", both),
        ("ip link set vc up", both),
        ("ip link set vc down; ip link set va down", "no route"),
        ("ip link set vc up; ip link set va up", "no route"),
        (
            "sysctl -qw net.ipv6.route.skip_notify_on_dev_down=1
          ip -6 route add 2001:db8:9::/48 via fe80::9 dev vc",
            "1024: vc via fe80::9",
        ),
        ("ip link set vc down", "no route"),
    ];
    seen.all_follow(&a, "2001:db8:9::9", &cases);
}

#[test]
fn routes_to_some_are_told_apart() {
    if !root() {
        return;
    }
    let (a, mut seen) = routed();
    for (prefix, address) in [("10.9.0.0/16", "10.9.9.9"), ("default", "10.8.8.8")] {
        a.sh(&format!("ip route add {prefix} via 10.1.2.254"));
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut told = Changes::default();
        while seen.snapshot.routes.to(ip(address)).is_none() {
            assert!(Instant::now() < deadline, "{prefix} is not there");
            let changes = seen.watcher.drain(&mut seen.snapshot).unwrap();
            told.any |= changes.any;
            told.routes |= changes.routes;
        }
        assert!(if prefix == "default" { told.any } else { told.routes }, "{prefix}: {told:?}");
    }
}

#[test]
fn routes_by_nexthop_objects_are_followed() {
    if !root() {
        return;
    }
    let (a, mut seen) = routed();
    a.sh("ip nexthop add id 1 via 10.1.2.9 dev va; ip nexthop add id 2 via 10.1.3.9 dev vc
          ip nexthop add id 10 group 1/2,3
          ip nexthop add id 21 via fe80::9 dev va; ip nexthop add id 22 via fe80::9 dev vc
          ip nexthop add id 20 group 21/22");
    let cases = [
        ("ip route add 10.9.0.0/16 nhid 10", "0: va via 10.1.2.9, vc via 10.1.3.9 x3"),
        ("ip nexthop replace id 2 via 10.1.3.8 dev vc", "0: va via 10.1.2.9, vc via 10.1.3.8 x3"),
        ("ip nexthop del id 2", "0: va via 10.1.2.9"),
        ("ip nexthop replace id 10 group 1", "0: va via 10.1.2.9"),
        (
            "ip nexthop add id 3 via 10.1.3.7 dev vc; ip nexthop replace id 10 group 1/3",
            "0: va via 10.1.2.9, vc via 10.1.3.7",
        ),
        ("ip link set vc down", "0: va via 10.1.2.9"),
        ("ip link set vc up", "0: va via 10.1.2.9"),
        ("ip link set va down", "no route"),
    ];
    seen.all_follow(&a, "10.9.9.9", &cases);
    a.sh("ip link set va up; ip nexthop add id 22 via fe80::9 dev vc; ip nexthop add id 21 via fe80::9 dev va
          ip nexthop replace id 20 group 21/22");
    let cases = [
        ("ip -6 route add 2001:db8:9::/48 nhid 20", "1024: va via fe80::9, vc via fe80::9"),
        ("ip nexthop replace id 22 via fe80::8 dev vc", "1024: va via fe80::9, vc via fe80::8"),
        ("ip nexthop del id 22", "1024: va via fe80::9"),
        ("ip nexthop del id 20", "no route"),
    ];
    seen.all_follow(&a, "2001:db8:9::9", &cases);
}
