//! Datagrams with sequence numbers from a few flows, one way, and what came of them.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use nix::sys::socket;
use nix::sys::socket::sockopt;
use serde_json::Value;

use super::lab::Lab;
use super::lab::VIPS;
use super::lab::ip;
use super::lab::wait;
use super::server::PATIENCE;

/// The UDP port that the datagrams go to.
pub const PORT: u16 = 5000;
/// How many flows there are of each family.
const FLOWS: u16 = 16;
/// Datagrams that are sent at once.
const BURST: u64 = 10;

/// A flow's number and the server that a datagram of it came to, with how many.
type Arrivals = BTreeMap<(u64, String), BTreeSet<u64>>;

/// What the lab's queues have dropped so far, for want of a CPU to take it from them.
fn overflows(lab: &Lab) -> u64 {
    let namespaces = lab.backends.iter().map(|backend| &backend.namespace);
    let namespaces = namespaces.chain([&lab.client, &lab.lb, &lab.sw]);
    let interfaces = namespaces.flat_map(|namespace| {
        let shown = namespace.sh("ip -s -j link show type veth");
        let links: Vec<Value> = serde_json::from_str(&shown).expect("`ip -j` prints JSON");
        links
    });
    let of_interfaces: u64 = interfaces
        .map(|link| {
            let dropped = |way: &str| link["stats64"][way]["dropped"].as_u64().unwrap_or(0);
            dropped("rx") + dropped("tx")
        })
        .sum();
    let softnet = fs::read_to_string("/proc/net/softnet_stat").expect("every kernel has it");
    let of_cpu = |line: &str| {
        let dropped = line.split_whitespace().nth(1).expect("the second number is what it dropped");
        u64::from_str_radix(dropped, 16).expect("a hexadecimal number")
    };
    of_interfaces + softnet.lines().map(of_cpu).sum::<u64>()
}

/// A stream of datagrams to the first VIP of each family, until it is ended.
pub struct Stream {
    stop: Arc<AtomicBool>,
    /// Whether nobody waits for datagrams any more.
    done: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    arrivals: Arc<Mutex<Arrivals>>,
    threads: Vec<JoinHandle<()>>,
    /// [`overflows`] before it began.
    before: u64,
}

impl Stream {
    /// Starts sending so many per second.
    pub fn start(lab: &Lab, rate: u64) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let arrivals = Arc::new(Mutex::new(Arrivals::new()));
        let mut threads = Vec::new();
        for backend in &lab.backends {
            for vip in [VIPS[0], VIPS[1]] {
                let socket = backend.namespace.enter(|| {
                    UdpSocket::bind(SocketAddr::new(ip(vip), PORT)).expect("the VIP is on lo")
                });
                socket.set_read_timeout(Some(Duration::from_millis(100))).expect("it has one");
                // What waits while the machine is busy is not lost.
                let force = socket::setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20));
                force.expect("root may have large buffers");
                let (done, arrivals) = (Arc::clone(&done), Arc::clone(&arrivals));
                let name = backend.name.clone();
                threads.push(thread::spawn(move || receive(&socket, &name, &done, &arrivals)));
            }
        }
        let sockets: Vec<(UdpSocket, SocketAddr)> = lab.client.enter(|| {
            let flow = |number: u16| {
                let vip = VIPS[usize::from(number % 2)];
                let any = if vip.contains(':') { "::" } else { "0.0.0.0" };
                let socket = UdpSocket::bind(SocketAddr::new(ip(any), 0)).expect("a port is free");
                (socket, SocketAddr::new(ip(vip), PORT))
            };
            (0..2 * FLOWS).map(flow).collect()
        });
        let sent = Arc::new(AtomicU64::new(0));
        let (ended, count) = (Arc::clone(&stop), Arc::clone(&sent));
        threads.push(thread::spawn(move || send(&sockets, rate, &ended, &count)));
        Self { stop, done, sent, arrivals, threads, before: overflows(lab) }
    }

    /// Waits until so many more were sent.
    pub fn go_on(&self, number: u64) {
        let until = self.sent.load(Ordering::Relaxed) + number;
        wait("datagrams are sent", 4 * PATIENCE, || {
            (self.sent.load(Ordering::Relaxed) >= until).then_some(())
        });
    }

    /// How many have arrived so far.
    fn arrived(&self) -> u64 {
        let arrivals = self.arrivals.lock().expect("no thread panics with it");
        arrivals.values().map(|numbers| numbers.len() as u64).sum()
    }

    /// How many have been sent, and how many of these have not arrived, once nothing
    /// more comes; the most servers that one flow came to.
    pub fn end(mut self, lab: &Lab) -> Ended {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.threads.pop() {
            sender.join().expect("the sender does not panic");
        }
        let sent = self.sent.load(Ordering::Relaxed);
        let deadline = Instant::now() + PATIENCE;
        while self.arrived() < sent && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        let arrivals = self.arrivals.lock().expect("no thread panics with it");
        let mut servers: BTreeMap<u64, usize> = BTreeMap::new();
        for (flow, _) in arrivals.keys() {
            *servers.entry(*flow).or_default() += 1;
        }
        let arrived: u64 = arrivals.values().map(|numbers| numbers.len() as u64).sum();
        let moved = servers.values().filter(|servers| **servers > 1).count();
        let missing = sent - arrived;
        let overflown = (overflows(lab) - self.before).min(missing);
        Ended { sent, overflown, lost: missing - overflown, flows: servers.len(), moved }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.done.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What has become of a stream.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that the lab's own queues dropped, on a busy machine.
    pub overflown: u64,
    /// Others that came to no server.
    pub lost: u64,
    /// Flows that came to servers.
    pub flows: usize,
    /// Flows that came to more than one.
    pub moved: usize,
}

fn send(sockets: &[(UdpSocket, SocketAddr)], rate: u64, stop: &AtomicBool, sent: &AtomicU64) {
    let pause = Duration::from_micros(1_000_000 * BURST / rate);
    let mut next = Instant::now();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..BURST {
            let flow = number % sockets.len() as u64;
            let (socket, vip) = &sockets[flow as usize];
            let datagram = [flow.to_be_bytes(), number.to_be_bytes()].concat();
            socket.send_to(&datagram, vip).expect("the client has a route");
            number += 1;
        }
        sent.store(number, Ordering::Relaxed);
        next += pause;
        // Whoever was kept waiting does not send all of it at once.
        next = next.max(Instant::now() - 2 * pause);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn receive(socket: &UdpSocket, name: &str, done: &AtomicBool, arrivals: &Mutex<Arrivals>) {
    let mut datagram = [0; 16];
    loop {
        match socket.recv(&mut datagram) {
            Ok(16) => {}
            Ok(length) => panic!("a datagram of {length} octets"),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                continue;
            }
            Err(error) => panic!("{error}"),
        }
        let half = |at: usize| u64::from_be_bytes(datagram[at..at + 8].try_into().expect("8"));
        let mut arrivals = arrivals.lock().expect("no thread panics with it");
        arrivals.entry((half(0), name.to_owned())).or_default().insert(half(8));
    }
}
