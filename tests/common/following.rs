//! How soon packets follow a change, while a client sends.

use std::io::Write;
use std::net::SocketAddr;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use super::lab::Lab;
use super::lab::ip;
use super::lab::wait;
use super::netns::Namespace;
use super::server::PATIENCE;
use super::server::udp_from;
use super::sniffer::Sniffer;

/// An `ip` that waits for commands: none of its start is in what is measured.
pub struct Ip {
    child: Child,
}

impl Ip {
    /// Starts one inside.
    pub fn new(namespace: &Namespace) -> Self {
        let child = namespace.enter(|| {
            Command::new("ip")
                .args(["-batch", "-"])
                .stdin(Stdio::piped())
                .spawn()
                .expect("iproute2 is there")
        });
        Self { child }
    }

    /// The time just before the command was sent.
    pub fn run(&mut self, command: &str) -> Instant {
        let start = Instant::now();
        let stdin = self.child.stdin.as_mut().expect("it is piped");
        stdin.write_all(format!("{command}\n").as_bytes()).expect("no command failed");
        start
    }
}

impl Drop for Ip {
    fn drop(&mut self) {
        self.child.stdin.take();
        let _ = self.child.wait();
    }
}

/// Lets a closure run while a client sends a datagram every 200 us.
pub fn under_load<T>(lab: &Lab, to: SocketAddr, closure: impl FnOnce() -> T) -> T {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
    let socket = lab.client.enter(|| udp_from(ip(any), 0));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = socket.send_to(b"who", to);
                // The rate of the load, not a wait.
                thread::sleep(Duration::from_micros(200));
            }
        });
        let _stop = Stop(&stop);
        closure()
    })
}

/// A hardware address that nobody has had yet, and how `ip` writes it.
pub fn new_mac(round: u8) -> ([u8; 6], String) {
    ([2, 0, 0, 9, 0, round], format!("02:00:00:09:00:{round:02x}"))
}

/// The time from a change to the first packet to the new address.
pub fn followed(sniffer: &Sniffer, mac: [u8; 6], start: Instant) -> Duration {
    wait("a packet to the new hardware address", PATIENCE, || {
        let first = sniffer.take().into_iter().find(|seen| seen.mac == mac)?;
        Some(first.at.saturating_duration_since(start))
    })
}

/// Asserts the median of ten changes.
pub fn within_50_ms(what: &str, mut change: impl FnMut(u8) -> Duration) {
    let mut times: Vec<Duration> = (1..=10).map(&mut change).collect();
    println!("{what}: {times:?}");
    times.sort();
    println!("{what}: median {:?}, worst {:?}", times[5], times[9]);
    assert!(times[5] <= Duration::from_millis(50), "median {:?}", times[5]);
}
