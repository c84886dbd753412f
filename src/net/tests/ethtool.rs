//! What ethtool's netlink family tells of a veth, and takes.

use super::*;
use crate::net::ethtool::Channels;

const STRIP: &str = "rx-vlan-hw-parse";

/// Requests from inside, and the index of `va`; `None` if this kernel has no
/// such family.
fn open(a: &Namespace) -> Option<(Ethtool, u32)> {
    let (ethtool, snapshot) = a.enter(|| {
        let snapshot = Net::new().unwrap().snapshot().unwrap();
        (Ethtool::new().unwrap(), snapshot)
    });
    if ethtool.is_none() {
        println!("skipped: this kernel tells no features through netlink");
    }
    Some((ethtool?, snapshot.link("va").unwrap().index))
}

#[test]
fn features_are_read_and_set() {
    if !root() {
        return;
    }
    let (a, _b) = pair();
    let Some((mut ethtool, index)) = open(&a) else { return };
    for (setting, expected) in [("on", true), ("off", false), ("on", true)] {
        a.sh(&format!("ethtool -K va rxvlan {setting}"));
        let features = ethtool.features(index).unwrap();
        assert_eq!(features.active.contains(STRIP), expected);
        assert!(features.changeable.contains(STRIP));
        assert!(!features.changeable.contains("rx-lro"));
    }

    let before = ethtool.features(index).unwrap();
    ethtool.set_features(index, [(STRIP, false)]).unwrap();
    let mut without = before.clone();
    without.active.remove(STRIP);
    assert_eq!(ethtool.features(index).unwrap(), without, "nothing else changes");
    assert!(a.sh("ethtool -k va").contains("rx-vlan-offload: off"));
    ethtool.set_features(index, [(STRIP, true)]).unwrap();
    assert_eq!(ethtool.features(index).unwrap(), before);

    // What is fixed stays, without an error.
    ethtool.set_features(index, [("rx-lro", true), (STRIP, false)]).unwrap();
    assert_eq!(ethtool.features(index).unwrap(), without);

    assert!(ethtool.set_features(index, [("rx-nothing", true)]).is_err());
    assert!(ethtool.set_features(99, [(STRIP, true)]).is_err());
    assert!(ethtool.features(99).is_err());
}

#[test]
fn queues_are_told() {
    if !root() {
        return;
    }
    let (a, _b) = pair();
    let Some((mut ethtool, index)) = open(&a) else { return };
    // A veth receives and transmits by queues of their own, and hashes nothing.
    let one = Channels { rx: 1, combined: 0 };
    match ethtool.channels(index).unwrap() {
        None => println!("this kernel's veth has no channels"),
        Some(channels) => assert_eq!(channels, one),
    }
    assert_eq!(ethtool.rss(index).unwrap(), None);
    assert!(ethtool.channels(99).is_err());
    assert!(ethtool.rss(99).is_err() || ethtool.rss(99).unwrap().is_none());
}
