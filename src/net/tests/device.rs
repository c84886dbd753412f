//! What is known of an interface outside rtnetlink.

use super::*;

#[test]
fn devices_tell_driver_and_features() {
    if !root() {
        return;
    }
    let (a, _b) = pair();
    let snapshot = a.enter(|| Net::new().unwrap().snapshot().unwrap());
    let va = link(&snapshot, "va").unwrap().clone();
    let info = a.enter(|| device_info(&va));
    assert_eq!(info.driver.as_deref(), Some("veth"));
    if info.lro.is_none() {
        println!("this kernel tells no features through netlink");
        return;
    }
    assert_eq!((info.lro, info.gro_hw), (Some(false), Some(false)));
    for (setting, expected) in [("on", true), ("off", false)] {
        a.sh(&format!("ethtool -K va rxvlan {setting}"));
        let info = a.enter(|| device_info(&va));
        assert_eq!(info.vlan_strip, Some(expected));
    }
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
