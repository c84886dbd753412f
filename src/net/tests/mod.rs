//! Against the real kernel, in namespaces of their own; they need root.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;
use std::time::Instant;

use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use nix::unistd::Uid;

use self::netns::Namespace;
use super::*;

mod device;
mod ethtool;
mod icmp;
mod neighbour;
mod routes;
mod veth;
mod watch;

#[path = "../../../tests/common/netns.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
pub(crate) mod netns;

const MAC_A: &str = "02:00:00:00:00:0a";
const MAC_B: &str = "02:00:00:00:00:0b";

/// Whether to run; namespaces need root.
fn root() -> bool {
    let root = Uid::effective().is_root();
    if !root {
        println!("skipped: making network namespaces needs root");
    }
    root
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Two namespaces joined by a veth pair, each end with an address.
fn pair() -> (Namespace, Namespace) {
    let (a, b) = (Namespace::new("a"), Namespace::new("b"));
    a.sh(&format!(
        "ip link add va address {MAC_A} type veth peer name vb address {MAC_B} netns {}
         ip addr add 10.1.2.1/24 dev va; ip addr add 2001:db8::1/64 dev va; ip link set va up",
        b.name()
    ));
    b.sh("ip addr add 10.1.2.2/24 dev vb; ip addr add 2001:db8::2/64 dev vb; ip link set vb up");
    for namespace in [&a, &b] {
        let mut seen = namespace.enter(|| Seen::new(Watcher::new().unwrap()));
        let running = |name, s: &Snapshot| s.link(name).is_some_and(|link| link.running);
        seen.until("the pair is up", |s| running("va", s) || running("vb", s));
    }
    (a, b)
}

/// A watcher with the snapshot that it keeps up to date.
struct Seen {
    watcher: Watcher,
    net: Net,
    snapshot: Snapshot,
    lost: bool,
}

impl Seen {
    fn new(watcher: Watcher) -> Self {
        let mut net = Net::new().unwrap();
        let snapshot = net.snapshot().unwrap();
        Self { watcher, net, snapshot, lost: false }
    }

    fn index(&self, name: &str) -> u32 {
        self.snapshot.link(name).unwrap().index
    }

    fn neighbour(&self, index: u32, address: &str) -> Option<Neighbour> {
        self.snapshot.neighbours.get(&(index, ip(address))).copied()
    }

    fn until(&mut self, what: &str, condition: impl Fn(&Snapshot) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            self.lost |= self.watcher.drain(&mut self.snapshot).unwrap().lost;
            if condition(&self.snapshot) {
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "not so after 10 s: {what}\n{:#?}", self.snapshot);
            let mut fds = [PollFd::new(self.watcher.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::try_from(left).unwrap()).unwrap();
        }
    }

    /// Reads the entry itself; the watcher is not told of each state.
    fn now(&mut self, index: u32, address: &str) -> Option<Neighbour> {
        self.net.snapshot().unwrap().neighbours.get(&(index, ip(address))).copied()
    }

    /// What the watcher made of the changes is what the kernel says.
    fn agrees(&mut self) {
        self.watcher.drain(&mut self.snapshot).unwrap();
        let fresh = self.net.snapshot().unwrap();
        assert_eq!(self.snapshot.links, fresh.links);
        assert_eq!(self.snapshot.addresses, fresh.addresses);
        assert_eq!(self.snapshot.routes, fresh.routes);
        // Neighbours come and go by themselves: those of the tests are enough.
        let fixed = |snapshot: &Snapshot| -> BTreeMap<(u32, IpAddr), Neighbour> {
            let entries = snapshot.neighbours.iter().map(|(key, value)| (*key, *value));
            entries.filter(|(_, n)| n.state == NeighbourState::Permanent).collect()
        };
        assert_eq!(fixed(&self.snapshot), fixed(&fresh));
    }
}
