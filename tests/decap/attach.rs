//! The program on interfaces: who else is there, and that it goes.

use xvs::Decap;
use xvs::Error;
use xvs::Mode;

use crate::netns::sh;
use crate::real::network;
use crate::real::options;
use crate::xdp;

#[test]
fn it_is_detached_when_dropped() {
    let (real, _peer) = network();
    for mode in [Mode::Native, Mode::Generic] {
        real.enter(|| {
            let decap = Decap::new(options().mode(mode), &["eth0"]).expect("it attaches");
            assert_eq!(decap.mode(), mode);
            assert_eq!(decap.interfaces(), ["eth0"]);
            assert!(decap.fallback().is_none());
            assert!(sh("ip link show dev eth0").contains("xdp"));
            drop(decap);
            assert!(!sh("ip link show dev eth0").contains("xdp"));
        });
    }
}

#[test]
fn it_falls_back_to_generic_mode_and_says_why() {
    let (real, _peer) = network();
    real.enter(|| {
        // A loopback interface has no native XDP.
        let decap = Decap::new(options(), &["lo"]).expect("it attaches");
        assert_eq!(decap.mode(), Mode::Generic);
        assert!(decap.fallback().expect("a reason").contains("lo"));
        drop(decap);
        let error = Decap::new(options().mode(Mode::Native), &["lo"]).expect_err("it cannot");
        assert!(matches!(error, Error::NativeUnsupported { .. }), "{error}");
    });
}

#[test]
fn another_program_stays() {
    let (real, _peer) = network();
    xdp::attach_pass(&real, "eth0", "foreign");
    let before = xdp::attached(&real, "eth0");
    real.enter(|| {
        let error = Decap::new(options(), &["eth0"]).expect_err("it is not replaced");
        assert!(matches!(error, Error::ForeignProgram { .. }), "{error}");
        assert!(error.to_string().contains("foreign"), "{error}");
    });
    assert_eq!(xdp::attached(&real, "eth0"), before);
}

#[test]
fn what_is_wrong_with_interfaces_is_named() {
    let (real, _peer) = network();
    real.enter(|| {
        for (names, part) in [(&["eth7"][..], "eth7"), (&["eth0", "eth0"], "eth0"), (&[], "empty")]
        {
            let error = Decap::new(options(), names).expect_err("it cannot attach");
            assert!(error.to_string().contains(part), "{error} lacks {part}");
        }
        sh("ip link set eth0 down");
        let error = Decap::new(options(), &["eth0"]).expect_err("it is down");
        assert!(matches!(error, Error::InterfaceDown { .. }), "{error}");
    });
}
