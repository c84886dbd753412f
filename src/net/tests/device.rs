//! What is known of an interface outside rtnetlink.

use super::*;

#[test]
fn devices_tell_their_drivers() {
    if !root() {
        return;
    }
    let (a, _b) = pair();
    let snapshot = a.enter(|| Net::new().unwrap().snapshot().unwrap());
    let va = snapshot.link("va").unwrap();
    assert_eq!(a.enter(|| driver(va)).as_deref(), Some("veth"));
}

#[test]
fn members_tell_their_master() {
    if !root() {
        return;
    }
    let (a, _b) = pair();
    a.sh("ip link add br0 type bridge && ip link set va master br0");
    let snapshot = a.enter(|| Net::new().unwrap().snapshot().unwrap());
    let (va, bridge) = (snapshot.link("va").unwrap(), snapshot.link("br0").unwrap());
    assert_eq!((va.master, bridge.master), (Some(bridge.index), None));
}

#[test]
fn rp_filter_is_the_larger_setting() {
    if !root() {
        return;
    }
    let (a, _b) = pair();
    a.sh("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.va.rp_filter=2");
    assert_eq!(a.enter(|| rp_filter("va")), Some(2));
    a.sh("sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.va.rp_filter=0");
    assert_eq!(a.enter(|| rp_filter("va")), Some(1));
    assert_eq!(a.enter(|| rp_filter("nothing")), None);
}
