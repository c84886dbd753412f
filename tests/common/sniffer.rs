//! What arrives at an interface, as a packet socket sees it.

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;
use std::time::Instant;

use nix::sys::socket;
use nix::sys::socket::AddressFamily;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockProtocol;
use nix::sys::socket::SockType;
use nix::sys::socket::sockopt;
use nix::sys::time::TimeVal;
use nix::sys::time::TimeValLike;

use super::netns::Namespace;

/// A frame with an IP packet.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// When it was read.
    pub at: Instant,
    /// The destination's hardware address.
    pub mac: [u8; 6],
    /// The destination's IP address.
    pub to: IpAddr,
    /// The length that the IP header tells.
    pub octets: u64,
    /// The flags of a TCP packet without IP options, 0 otherwise.
    pub flags: u8,
}

impl Seen {
    fn parse(frame: &[u8]) -> Option<Self> {
        let (mac, rest) = frame.split_first_chunk::<6>()?;
        let (kind, packet) = rest.get(6..)?.split_first_chunk::<2>()?;
        let length = |at: usize| Some(u64::from(u16::from_be_bytes(*packet[at..].first_chunk()?)));
        let (to, octets, protocol, transport) = match kind {
            [0x08, 0x00] if packet.len() >= 20 => {
                let to = Ipv4Addr::from(*packet[16..].first_chunk::<4>()?);
                (IpAddr::from(to), length(2)?, packet[9], &packet[20..])
            }
            [0x86, 0xdd] if packet.len() >= 40 => {
                let to = Ipv6Addr::from(*packet[24..].first_chunk::<16>()?);
                (IpAddr::from(to), 40 + length(4)?, packet[6], &packet[40..])
            }
            _ => return None,
        };
        let flags = if protocol == 6 { *transport.get(13)? } else { 0 };
        Some(Self { at: Instant::now(), mac: *mac, to, octets, flags })
    }

    /// Whether the TCP header has SYN without ACK.
    pub const fn is_syn(&self) -> bool {
        self.flags & 0x12 == 0x02
    }

    /// Whether the TCP header has FIN.
    pub const fn is_fin(&self) -> bool {
        self.flags & 0x01 != 0
    }

    /// Whether the TCP header has RST.
    pub const fn is_rst(&self) -> bool {
        self.flags & 0x04 != 0
    }
}

/// Collects what a filter lets through until it is dropped.
pub struct Sniffer {
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sniffer {
    /// Listens to all interfaces of a namespace.
    pub fn start(namespace: &Namespace, filter: impl Fn(&Seen) -> bool + Send + 'static) -> Self {
        let socket = namespace.enter(|| {
            socket::socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )
            .expect("root may open packet sockets")
        });
        socket::setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20)).expect("root may");
        // Only to look at `stop` now and then.
        let pause = TimeVal::milliseconds(20);
        socket::setsockopt(&socket, sockopt::ReceiveTimeout, &pause).expect("it can be set");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (log, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut socket = File::from(socket);
            let mut frame = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                let Ok(length) = socket.read(&mut frame) else {
                    continue;
                };
                if let Some(seen) = Seen::parse(&frame[..length]).filter(&filter) {
                    log.lock().expect("no thread panics with it").push(seen);
                }
            }
        });
        Self { seen, stop, thread: Some(thread) }
    }

    /// What was seen so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no thread panics with it").clone()
    }

    /// What was seen since the last time.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().expect("no thread panics with it"))
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
