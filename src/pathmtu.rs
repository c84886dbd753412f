//! What is learned of the paths to servers behind tunnels: pure, no I/O.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use std::time::Instant;

use crate::config::MIN_MTU6;
use crate::net::PathError;

/// How long a path's MTU is believed after a router told of it. RFC 1191 (6.3)
/// and RFC 8201 (4) recommend 10 minutes, and demand 5.
const LIFETIME: Duration = Duration::from_secs(600);

/// No path over IPv4 is believed to take less: the kernel's default of
/// `net.ipv4.route.min_pmtu`.
const MIN_V4: u32 = 552;

/// The outside of a tunnel to a server, as far as all of its packets have it in
/// common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Outer {
    /// The other end of the tunnel.
    pub(crate) server: IpAddr,
    /// The IP protocol number.
    pub(crate) protocol: u8,
    /// The destination port, if the protocol is UDP.
    pub(crate) port: Option<u16>,
}

/// Whether the error is about a packet that one of the tunnels may have carried;
/// `is_source` tells whether an address is one that they send from.
pub(crate) fn matches(
    error: &PathError,
    tunnels: &BTreeSet<Outer>,
    is_source: impl FnOnce(IpAddr) -> bool,
) -> bool {
    let outer = Outer {
        server: error.destination,
        protocol: error.protocol,
        port: error.ports.map(|(_, destination)| destination),
    };
    tunnels.contains(&outer) && is_source(error.source)
}

/// The path MTUs that routers told, by server.
///
/// It grows with the servers that are given to [`learn`](Self::learn): those
/// that [`matches()`] found, which [`retain`](Self::retain) drops again.
#[derive(Debug, Default)]
pub(crate) struct PathMtus {
    learned: BTreeMap<IpAddr, Learned>,
}

#[derive(Clone, Copy, Debug)]
struct Learned {
    mtu: u32,
    expires: Instant,
}

impl PathMtus {
    /// Takes a router's word; whether the server's MTU is another one now.
    ///
    /// Only a smaller one is: whether the path takes more again is found out when
    /// this one expires, later if it is confirmed. Over IPv4 an MTU below
    /// [`MIN_V4`] is taken for that, as Linux does: a forged one could leave no
    /// room for more than headers. Over IPv6 such a message must be discarded
    /// (RFC 8201, 4).
    pub(crate) fn learn(&mut self, server: IpAddr, mtu: u32, now: Instant) -> bool {
        let mtu = match server {
            IpAddr::V4(_) => mtu.max(MIN_V4),
            IpAddr::V6(_) if mtu < MIN_MTU6 => return false,
            IpAddr::V6(_) => mtu,
        };
        let before = self.learned.get(&server).filter(|learned| now < learned.expires);
        let before = before.map(|learned| learned.mtu);
        if before.is_some_and(|before| before < mtu) {
            return false;
        }
        self.learned.insert(server, Learned { mtu, expires: now + LIFETIME });
        before != Some(mtu)
    }

    /// The longest packet that the path to the server takes, in octets and with
    /// the tunnel's headers, if a router told.
    pub(crate) fn mtu(&self, server: IpAddr) -> Option<u32> {
        self.learned.get(&server).map(|learned| learned.mtu)
    }

    /// Forgets what is too old; the servers that it was about.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<IpAddr> {
        let mut expired = Vec::new();
        self.learned.retain(|server, learned| {
            let keep = now < learned.expires;
            if !keep {
                expired.push(*server);
            }
            keep
        });
        expired
    }

    /// Whether nothing is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.learned.is_empty()
    }

    /// When to call [`expire`](Self::expire).
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.learned.values().map(|learned| learned.expires).min()
    }

    /// Forgets all other servers.
    pub(crate) fn retain(&mut self, keep: impl Fn(IpAddr) -> bool) {
        self.learned.retain(|server, _| keep(*server));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn mtus_are_only_lowered() {
        let (v4, v6) = (ip("10.9.0.2"), ip("2001:db8:9::2"));
        let mut paths = PathMtus::default();
        let now = Instant::now();
        assert_eq!((paths.mtu(v4), paths.next_expiry()), (None, None));
        for server in [v4, v6] {
            for (mtu, changed, expected) in [
                (1450, true, 1450),
                (1450, false, 1450),
                (1451, false, 1450),
                (65_535, false, 1450),
                (1449, true, 1449),
                (1280, true, 1280),
                (1400, false, 1280),
            ] {
                assert_eq!(paths.learn(server, mtu, now), changed, "{server} {mtu}");
                assert_eq!(paths.mtu(server), Some(expected), "{server} {mtu}");
            }
        }
        assert_eq!(paths.mtu(ip("10.9.0.3")), None);
    }

    #[test]
    fn mtus_have_a_floor() {
        let (v4, v6) = (ip("10.9.0.2"), ip("2001:db8:9::2"));
        let mut paths = PathMtus::default();
        let now = Instant::now();
        for mtu in [0, 68, 551, 552] {
            assert_eq!(paths.learn(v4, mtu, now), mtu == 0, "{mtu}");
            assert_eq!(paths.mtu(v4), Some(552), "{mtu}");
        }
        for mtu in [0, 68, 1279] {
            assert!(!paths.learn(v6, mtu, now), "{mtu}");
            assert_eq!(paths.mtu(v6), None, "{mtu}");
        }
        assert!(paths.learn(v6, 1280, now));
        assert_eq!(paths.mtu(v6), Some(1280));
    }

    #[test]
    fn mtus_are_forgotten_in_time() {
        let [a, b] = ["10.9.0.2", "2001:db8:9::2"].map(ip);
        let mut paths = PathMtus::default();
        let start = Instant::now();
        assert!(paths.learn(a, 1400, start));
        assert!(paths.learn(b, 1400, start + SECOND));
        assert_eq!(paths.next_expiry(), Some(start + LIFETIME));
        assert!(paths.expire(start + LIFETIME - SECOND).is_empty());
        assert_eq!(paths.expire(start + LIFETIME), [a]);
        assert_eq!((paths.mtu(a), paths.mtu(b)), (None, Some(1400)));
        assert_eq!(paths.next_expiry(), Some(start + SECOND + LIFETIME));
        assert_eq!(paths.expire(start + 2 * LIFETIME), [b]);
        assert_eq!(paths.next_expiry(), None);
    }

    #[test]
    fn only_what_is_no_larger_lives_longer() {
        let server = ip("10.9.0.2");
        let mut paths = PathMtus::default();
        let start = Instant::now();
        for (seconds, mtu, expires) in
            [(0, 1400, 600), (60, 1401, 600), (120, 1400, 720), (180, 1300, 780), (240, 1400, 780)]
        {
            paths.learn(server, mtu, start + seconds * SECOND);
            assert_eq!(paths.next_expiry(), Some(start + expires * SECOND), "{mtu}");
        }
        // Even a larger one is, once the smaller one is too old.
        assert!(paths.learn(server, 1450, start + 780 * SECOND));
        assert_eq!(paths.mtu(server), Some(1450));
    }

    #[test]
    fn servers_that_are_gone_are_forgotten() {
        let [a, b] = ["10.9.0.2", "2001:db8:9::2"].map(ip);
        let mut paths = PathMtus::default();
        let now = Instant::now();
        paths.learn(a, 1400, now);
        paths.learn(b, 1400, now);
        paths.retain(|server| server == b);
        assert_eq!((paths.mtu(a), paths.mtu(b)), (None, Some(1400)));
    }

    #[test]
    fn only_errors_about_our_tunnels_match() {
        let (own, server) = (ip("10.0.0.1"), ip("10.9.0.2"));
        let tunnels = BTreeSet::from([
            Outer { server, protocol: 4, port: None },
            Outer { server, protocol: 17, port: Some(6080) },
            Outer { server: ip("2001:db8:9::2"), protocol: 47, port: None },
        ]);
        let ipip =
            PathError { source: own, destination: server, protocol: 4, ports: None, mtu: 1400 };
        let gue = PathError { protocol: 17, ports: Some((50_000, 6080)), ..ipip };
        let (own_v6, server_v6) = (ip("2001:db8::1"), ip("2001:db8:9::2"));
        let gre = PathError { source: own_v6, destination: server_v6, protocol: 47, ..ipip };
        for (error, expected) in [
            (ipip, true),
            (gue, true),
            (gre, true),
            (PathError { source: ip("10.0.0.2"), ..ipip }, false),
            (PathError { destination: ip("10.9.0.3"), ..ipip }, false),
            (PathError { protocol: 47, ..ipip }, false),
            (PathError { protocol: 41, ..gre }, false),
            (PathError { ports: Some((50_000, 6081)), ..gue }, false),
            (PathError { ports: Some((6080, 50_000)), ..gue }, false),
            (PathError { ports: None, ..gue }, false),
            (PathError { protocol: 6, ..ipip }, false),
        ] {
            let is_source = |address| [own, own_v6].contains(&address);
            assert_eq!(matches(&error, &tunnels, is_source), expected, "{error:?}");
        }
    }
}
