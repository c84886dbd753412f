//! One check of a VIP on one server, through its NAT address.

mod failure;
mod http;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::Duration;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::TcpMaxSeg;

use self::failure::words;
use self::http::Http;
use self::http::exchange;
use self::http::is_fine;
use self::http::request;
use crate::DestinationStatus;
use crate::Nat;
use crate::Protocol;
use crate::Tunnel;
use crate::net::Answer;
use crate::net::PROBE_MTU;
use crate::net::Unreachable;
use crate::net::UnreachableListener;
use crate::net::datagram;
use crate::net::echo;
use crate::net::is_unreachable;
use crate::net::path_mtu;

pub use self::failure::Failure;

/// Octets of a small echo request, which every link takes: that of `ping`.
const SMALL: u32 = 84;

/// Octets of TCP's header, and of its timestamps option with padding (RFC 7323).
const TCP: u32 = 20;
const TIMESTAMPS: u32 = 12;

/// Octets of UDP's header.
const UDP: u32 = 8;

/// One check of a virtual address on one server.
///
/// It must be run in the network namespace of the balancer, while that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probe {
    /// The port of the VIP, which no service need have.
    pub port: u16,
    /// What is asked.
    pub check: Check,
    /// How large the packets are. Default: [`Size::Small`].
    pub size: Size,
    /// How long each step may take. Default: 2 seconds.
    pub timeout: Duration,
}

/// What a [`Probe`] asks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Check {
    /// That a TCP connection is accepted.
    Tcp,
    /// That a UDP datagram is answered, by whatever.
    Udp {
        /// What it carries.
        payload: Vec<u8>,
    },
    /// That an HTTP/1.1 `GET` is answered with a status from 200 to 399.
    Http {
        /// The path, from `/` on.
        path: String,
        /// The `Host` header; `None` for the VIP.
        host: Option<String>,
    },
}

/// How large the packets of a [`Probe`] are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Size {
    /// As small as they come.
    #[default]
    Small,
    /// The largest that fit the way to the server, and must not be fragmented: a padded
    /// HTTP request or UDP datagram; after a TCP connection an ICMP echo request.
    Full,
}

impl Probe {
    /// Asks for a TCP connection.
    pub const fn tcp(port: u16) -> Self {
        Self::new(port, Check::Tcp)
    }

    /// Sends a UDP datagram of an empty line.
    pub fn udp(port: u16) -> Self {
        Self::new(port, Check::Udp { payload: b"\n".to_vec() })
    }

    /// Asks for a path by HTTP.
    pub fn http(port: u16, path: &str) -> Self {
        Self::new(port, Check::Http { path: path.to_owned(), host: None })
    }

    /// Makes any check.
    pub const fn new(port: u16, check: Check) -> Self {
        Self { port, check, size: Size::Small, timeout: Duration::from_secs(2) }
    }

    /// Sets the `Host` header; of HTTP alone.
    pub fn host(mut self, name: &str) -> Self {
        if let Check::Http { host, .. } = &mut self.check {
            *host = Some(name.to_owned());
        }
        self
    }

    /// Sets the size of the packets.
    pub const fn size(mut self, size: Size) -> Self {
        self.size = size;
        self
    }

    /// Sets how long each step may take; at least a millisecond.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Checks the VIP on the server of a NAT address.
    ///
    /// A server to which there is no way is not probed. What has not answered is
    /// told from what has by an ICMP echo request, for which the process needs
    /// CAP_NET_RAW.
    pub fn run(&self, nat: &Nat) -> Report {
        let timeout = self.timeout.max(Duration::from_millis(1));
        // Only what is heard from now on is about this probe.
        let listener = match nat.tunnel {
            Tunnel::None => None,
            _ => UnreachableListener::new(nat.destination).ok(),
        };
        let mut run = Run { probe: self, nat, timeout, listener, steps: Vec::new() };
        let verdict = run.check();
        Report { steps: run.steps, verdict }
    }
}

/// What a [`Probe`] found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Report {
    /// What was done, in order.
    pub steps: Vec<Step>,
    /// Why the check failed, if it did.
    pub verdict: std::result::Result<(), Failure>,
}

/// One step of a [`Probe`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Step {
    /// `way` (is there one), `connect`, `request`, `datagram`, `echo`, `full_echo`, or
    /// `control` (a small packet after one of full size that was not answered).
    pub name: &'static str,
    /// How long it took.
    pub time: Duration,
    /// Whether it went well.
    pub ok: bool,
    /// What happened, in words.
    pub detail: String,
}

type Checked<T = ()> = std::result::Result<T, Failure>;

/// A probe under way.
struct Run<'a> {
    probe: &'a Probe,
    nat: &'a Nat,
    timeout: Duration,
    listener: Option<UnreachableListener>,
    steps: Vec<Step>,
}

impl Run<'_> {
    fn check(&mut self) -> Checked {
        self.way()?;
        match &self.probe.check {
            Check::Tcp => self.tcp(),
            Check::Udp { payload } => self.udp(payload),
            Check::Http { path, host } => self.http(path, host.as_deref()),
        }
    }

    /// Whether there is a way that probes can take.
    fn way(&mut self) -> Checked {
        let start = Instant::now();
        let Nat { destination: server, status, tunnel, .. } = *self.nat;
        let failure = match status {
            DestinationStatus::Reachable => None,
            DestinationStatus::NoRoute
            | DestinationStatus::NoPrefix
            | DestinationStatus::NoInterface => Some(Failure::NoRoute { server, status }),
            DestinationStatus::NoNeighbour | DestinationStatus::Resolving => {
                Some(Failure::NoNeighbour { server, status })
            }
            _ => Some(Failure::Unusable { server, status }),
        };
        if let Some(failure) = failure {
            self.step("way", start, false, status.to_string());
            return Err(failure);
        }
        let Some(source) = self.nat.source else {
            self.step("way", start, false, "there is no address to send from");
            return Err(Failure::NoSource { server, vip: self.nat.service.address });
        };
        if let Err(error) = path_mtu(self.nat.address) {
            self.step("way", start, false, words(&error));
            return Err(match error.kind() {
                io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
                    Failure::NoNatRoute { nat: self.nat.address }
                }
                _ => Failure::Local { action: "the route to the NAT address", source: error },
            });
        }
        let mut detail = format!("{server} is {status}, from {source}");
        if tunnel != Tunnel::None {
            detail = format!("{detail}, tunnel {tunnel}");
        }
        if let Some(mtu) = self.nat.mtu {
            detail = format!("{detail}, packets of up to {mtu} octets");
        }
        self.step("way", start, true, detail);
        Ok(())
    }

    fn tcp(&mut self) -> Checked {
        drop(self.connect()?);
        match self.probe.size {
            Size::Small => Ok(()),
            Size::Full => self.full_echo(),
        }
    }

    fn connect(&mut self) -> Checked<TcpStream> {
        let start = Instant::now();
        let error = match TcpStream::connect_timeout(&self.address(), self.timeout) {
            Ok(stream) => {
                self.step("connect", start, true, "connected");
                return Ok(stream);
            }
            Err(error) => error,
        };
        if error.kind() == io::ErrorKind::TimedOut {
            self.step("connect", start, false, "no answer");
            let (vip, server) = (self.vip(), self.nat.destination);
            return Err(self.silence(Failure::PortFiltered { vip, server }));
        }
        self.step("connect", start, false, words(&error));
        Err(match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ECONNREFUSED) => self.port_closed(),
            Some(errno) if is_unreachable(errno) => self.no_answer(Some(error)),
            _ => Failure::Local { action: "TCP connection", source: error },
        })
    }

    fn udp(&mut self, payload: &[u8]) -> Checked {
        let full = self.probe.size == Size::Full;
        let mut sent = payload.to_vec();
        if full {
            let length = self.full_size().saturating_sub(self.ip_header() + UDP);
            sent.resize(sent.len().max(length as usize), 0);
        }
        let size = sent.len() as u32 + self.ip_header() + UDP;
        let first = self.datagram("datagram", &sent)?;
        if first != Answer::Silent {
            return self.answered(first, size);
        }
        let (vip, server, protocol) = (self.vip(), self.nat.destination, Protocol::Udp);
        let silent = Failure::NoReply { vip, server, protocol };
        if !full {
            return Err(self.silence(silent));
        }
        match self.datagram("control", payload)? {
            // The program may care for the one and not for the other.
            Answer::Replied => match self.echo("full_echo", size) {
                Ok(Answer::Replied) => Err(silent),
                _ => Err(self.mtu(size, None)),
            },
            Answer::Silent => match self.silence(silent) {
                silent @ Failure::NoReply { .. } => match self.echo("full_echo", size) {
                    Ok(Answer::Replied) | Err(_) => Err(silent),
                    Ok(_) => Err(self.mtu(size, None)),
                },
                other => Err(other),
            },
            other => self.answered(other, size),
        }
    }

    fn datagram(&mut self, name: &'static str, payload: &[u8]) -> Checked<Answer> {
        let start = Instant::now();
        let answer = datagram(self.address(), payload, self.timeout);
        let octets = payload.len() as u32 + self.ip_header() + UDP;
        self.ask_step(name, start, octets, &answer);
        answer.map_err(|source| Failure::Local { action: "UDP datagram", source })
    }

    /// The verdict by an answer that is one.
    fn answered(&mut self, answer: Answer, size: u32) -> Checked {
        Err(match answer {
            Answer::Replied => return Ok(()),
            Answer::Refused => self.port_closed(),
            Answer::Unreachable(errno) => self.no_answer(Some(errno.into())),
            Answer::TooBig => self.mtu(size, self.path_below(size)),
            Answer::Silent => self.no_answer(None),
        })
    }

    fn http(&mut self, path: &str, host: Option<&str>) -> Checked {
        let vip = self.vip();
        let request = request(vip, path, host)
            .map_err(|source| Failure::Local { action: "HTTP request", source })?;
        let stream = self.connect()?;
        let known = path_mtu(self.nat.address).unwrap_or(PROBE_MTU);
        let (sent, size) = match self.probe.size {
            Size::Small => (request.clone(), 0),
            Size::Full => self.padded(&request, &stream, known),
        };

        let start = Instant::now();
        let answer = exchange(stream, &sent, self.timeout);
        let (ok, mut detail) = match &answer {
            Ok(Http::Status(status)) => (is_fine(*status), format!("HTTP status {status}")),
            Ok(Http::Other(_)) => (false, "an answer that is not HTTP/1".to_owned()),
            Ok(Http::Closed) => (false, "the connection was closed".to_owned()),
            Ok(Http::Silent) => (false, "no answer".to_owned()),
            Err(error) => (false, words(error)),
        };
        if size > 0 {
            detail = format!("{detail}, to a packet of {size} octets");
        }
        self.step("request", start, ok, detail);

        let server = self.nat.destination;
        let answer = answer.map_err(|source| Failure::Local { action: "HTTP request", source })?;
        if size > 0
            && answer == Http::Silent
            && (self.answers_small(&request) || self.only_small_echo(size))
        {
            return Err(self.mtu(size, self.path_below(size)));
        }
        match answer {
            Http::Status(status) if is_fine(status) => {}
            Http::Status(status) => return Err(Failure::HttpStatus { server, status }),
            Http::Other(start) => return Err(Failure::NotHttp { vip, server, start }),
            Http::Closed => return Err(Failure::Closed { vip, server }),
            Http::Silent => {
                return Err(Failure::NoReply { vip, server, protocol: Protocol::Tcp });
            }
        }
        // It was told to be too large, and sent again in smaller ones.
        match self.path_below(size.min(known)) {
            Some(path) => Err(self.mtu(size, Some(path))),
            None => Ok(()),
        }
    }

    /// The request padded to one packet of full size, and the size of the packet.
    fn padded(&self, request: &[u8], stream: &TcpStream, known: u32) -> (Vec<u8>, u32) {
        const PADDING: &[u8] = b"X-Padding: ";
        let full = self.full_size().min(known);
        let fixed = self.ip_header() + TCP;
        let segment = getsockopt(stream, TcpMaxSeg).unwrap_or(u32::MAX);
        // What the kernel leaves for options, unless the server wants smaller segments.
        let headers = match known.checked_sub(segment) {
            Some(headers) if headers == fixed => fixed,
            _ => fixed + TIMESTAMPS,
        };
        let length = segment.min(full.saturating_sub(headers)) as usize;
        let mut sent = request.to_vec();
        let missing = length.saturating_sub(sent.len());
        if let Some(letters) = missing.checked_sub(PADDING.len() + 2) {
            sent.truncate(sent.len() - 2);
            sent.extend(PADDING);
            sent.resize(sent.len() + letters, b'x');
            sent.extend(b"\r\n\r\n");
        }
        let size = (sent.len().min(length) as u32).saturating_add(headers);
        (sent, size)
    }

    /// Whether the server answers the request when it is not padded.
    fn answers_small(&mut self, request: &[u8]) -> bool {
        let start = Instant::now();
        let stream = TcpStream::connect_timeout(&self.address(), self.timeout);
        let answer = stream.and_then(|stream| exchange(stream, request, self.timeout));
        let answers = matches!(answer, Ok(Http::Status(_) | Http::Other(_)));
        let detail = if answers { "a small request is answered" } else { "no answer" };
        self.step("control", start, answers, detail);
        answers
    }

    /// Whether an echo request of full size is answered.
    fn full_echo(&mut self) -> Checked {
        let size = self.full_size();
        let local = |source| Failure::Local { action: "ICMP echo request", source };
        let answer = self.echo("full_echo", size).map_err(local)?;
        if answer != Answer::Silent {
            return self.answered(answer, size);
        }
        match self.echo("control", SMALL).map_err(local)? {
            Answer::Replied => Err(self.mtu(size, None)),
            Answer::Silent => {
                let (vip, server) = (self.nat.service.address, self.nat.destination);
                Err(Failure::NoEcho { vip, server })
            }
            answer => self.answered(answer, SMALL),
        }
    }

    /// Whether small echo requests are answered, and none of this size.
    fn only_small_echo(&mut self, size: u32) -> bool {
        matches!(self.echo("full_echo", size), Ok(answer) if answer != Answer::Replied)
            && matches!(self.echo("echo", SMALL), Ok(Answer::Replied))
    }

    fn echo(&mut self, name: &'static str, size: u32) -> io::Result<Answer> {
        let start = Instant::now();
        let answer = echo(self.nat.address, size as usize, self.timeout);
        self.ask_step(name, start, size, &answer);
        answer
    }

    /// What it means that a port does not answer: `answers` if the VIP does otherwise.
    fn silence(&mut self, answers: Failure) -> Failure {
        match self.echo("echo", SMALL) {
            Ok(Answer::Replied) => answers,
            Ok(Answer::Unreachable(errno)) => self.no_answer(Some(errno.into())),
            Ok(Answer::TooBig) => self.mtu(SMALL, self.path_below(SMALL)),
            Ok(Answer::Refused | Answer::Silent) => self.no_answer(None),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Failure::Silent { vip: self.vip(), server: self.nat.destination }
            }
            Err(source) => Failure::Local { action: "ICMP echo request", source },
        }
    }

    /// The VIP does not answer: because of the tunnel, if that was heard.
    fn no_answer(&self, error: Option<io::Error>) -> Failure {
        let Nat { destination: server, tunnel, .. } = *self.nat;
        let heard = self.listener.as_ref().map(UnreachableListener::read).unwrap_or_default();
        match heard.iter().find(|heard| self.is_ours(heard)) {
            Some(Unreachable { from, what, .. }) => {
                Failure::TunnelNotAnswered { server, tunnel, from: *from, what }
            }
            None => Failure::NoAnswer { vip: self.nat.service.address, server, tunnel, error },
        }
    }

    /// Whether a packet may be one of the tunnel's.
    fn is_ours(&self, heard: &Unreachable) -> bool {
        let Nat { destination, tunnel, .. } = *self.nat;
        let port = heard.ports.map(|(_, port)| port);
        heard.destination == destination
            && tunnel.protocol(self.nat.service.address) == Some(heard.protocol)
            && tunnel.udp().is_none_or(|udp| port == Some(udp.port))
    }

    fn port_closed(&self) -> Failure {
        Failure::PortClosed { vip: self.vip(), server: self.nat.destination }
    }

    fn mtu(&self, size: u32, path: Option<u32>) -> Failure {
        let (vip, server) = (self.nat.service.address, self.nat.destination);
        Failure::Mtu { vip, server, size, path }
    }

    /// The path MTU that this host has learned, if it is less.
    fn path_below(&self, size: u32) -> Option<u32> {
        path_mtu(self.nat.address).ok().filter(|path| *path < size)
    }

    fn ask_step(
        &mut self,
        name: &'static str,
        start: Instant,
        size: u32,
        answer: &io::Result<Answer>,
    ) {
        let (ok, what) = match answer {
            Ok(Answer::Replied) => (true, "answered".to_owned()),
            Ok(Answer::Refused) => (false, "refused".to_owned()),
            Ok(Answer::Unreachable(errno)) => (false, errno.desc().to_owned()),
            Ok(Answer::TooBig) => (false, "too large".to_owned()),
            Ok(Answer::Silent) => (false, "no answer".to_owned()),
            Err(error) => (false, words(error)),
        };
        self.step(name, start, ok, format!("{what}, to a packet of {size} octets"));
    }

    fn step(&mut self, name: &'static str, start: Instant, ok: bool, detail: impl Into<String>) {
        self.steps.push(Step { name, time: start.elapsed(), ok, detail: detail.into() });
    }

    /// Where probes are sent.
    fn address(&self) -> SocketAddr {
        SocketAddr::new(self.nat.address, self.probe.port)
    }

    /// Where they arrive.
    fn vip(&self) -> SocketAddr {
        SocketAddr::new(self.nat.service.address, self.probe.port)
    }

    /// The longest packet that should get through, in octets.
    fn full_size(&self) -> u32 {
        self.nat.mtu.unwrap_or(PROBE_MTU).min(PROBE_MTU)
    }

    fn ip_header(&self) -> u32 {
        if self.nat.address.is_ipv4() { 20 } else { 40 }
    }
}
