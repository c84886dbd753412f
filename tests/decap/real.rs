//! A real server with the program, run on single frames by BPF_PROG_TEST_RUN.

use std::collections::BTreeMap;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;

use xvs::Decap;
use xvs::DecapOptions;

use crate::netns::Namespace;
use crate::netns::sh;
use crate::test_run::test_run;
use crate::tunnel::BALANCERS;
use crate::tunnel::FOU;
use crate::tunnel::GUE;
use crate::tunnel::VIPS;
use crate::xdp;

/// What the program returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Drop,
    Pass,
}

/// The program on `eth0`, where nobody else sends.
pub struct Real {
    /// What is tested.
    pub decap: Decap,
    program: OwnedFd,
}

impl Real {
    /// Runs a test on a thread inside a new namespace.
    pub fn with<T: Send>(test: impl FnOnce(&Self) -> T + Send) -> T {
        Self::with_options(options(), test)
    }

    /// The same with other options.
    pub fn with_options<T: Send>(options: DecapOptions, test: impl FnOnce(&Self) -> T + Send) -> T {
        let (real, _peer) = network();
        real.enter(|| {
            let decap = Decap::new(options, &["eth0"]).expect("the program loads and attaches");
            test(&Self::new(&real, decap))
        })
    }

    fn new(namespace: &Namespace, decap: Decap) -> Self {
        let id = xdp::attached(namespace, "eth0").expect("the program is on the interface");
        Self { decap, program: program(id) }
    }

    /// How many packets ended with each reason.
    pub fn reasons(&self) -> BTreeMap<&'static str, u64> {
        self.decap.stats().expect("counters").iter().collect()
    }

    /// Runs the program on a frame: the verdict and the frame afterwards.
    pub fn run(&self, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let result = test_run(&self.program, frame, None);
        let (returned, output) = result.expect("the kernel runs the program on the frame");
        let verdict = match returned {
            1 => Verdict::Drop,
            2 => Verdict::Pass,
            other => panic!("the program returned {other}"),
        };
        (verdict, output)
    }
}

/// What the real server of the tests is told.
pub fn options() -> DecapOptions {
    let mut options = DecapOptions::new().fou(FOU).gue(GUE);
    options.balancers = BALANCERS.to_vec();
    options.vips = VIPS.to_vec();
    options
}

/// A real server's namespace with `eth0`, and that with its other end, `peer0`, which
/// sends nothing of its own accord.
pub fn network() -> (Namespace, Namespace) {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let peer = Namespace::new("peer");
    peer.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
    let real = Namespace::new("real");
    real.enter(|| {
        sh(&format!(
            "ip link add eth0 address 02:00:00:00:00:10 type veth peer name peer0 netns {0}
             ip link set eth0 up
             ip -n {0} link set peer0 up
             ip address add 10.1.2.3/24 dev eth0
             ip address add fd00:1:2::3/64 dev eth0 nodad
             ip address add 192.168.100.1/32 dev lo
             ip address add fd00:100::1/128 dev lo nodad",
            peer.name()
        ));
    });
    (real, peer)
}

/// A program by its id.
#[expect(unsafe_code, reason = "libbpf's C API")]
fn program(id: u32) -> OwnedFd {
    // SAFETY: a plain number.
    let fd = unsafe { libbpf_sys::bpf_prog_get_fd_by_id(id) };
    assert!(fd >= 0, "root may open program {id}");
    // SAFETY: the call returned a new descriptor, which nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
