//! The servers of a lab's backends and what its clients do with them.

use std::io;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use nix::sys::socket;
use nix::sys::socket::AddressFamily;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockType;
use nix::sys::socket::sockopt;

use super::netns::Namespace;

/// How long one answer may take.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A TCP server that tells its name, then echoes; and UDP servers that
/// answer each datagram with their name and its content. Ends when dropped.
pub struct Server {
    alive: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves TCP ports of every address and UDP on the addresses given,
    /// which answers then have as their source.
    pub fn start(namespace: &Namespace, name: &str, tcp: &[u16], udp: &[SocketAddr]) -> Self {
        let (listeners, sockets): (Vec<TcpListener>, Vec<UdpSocket>) = namespace.enter(|| {
            let any = |port: &u16| TcpListener::bind(("::", *port)).expect("the port is free");
            let one = |address: &SocketAddr| UdpSocket::bind(address).expect("the VIP is on lo");
            (tcp.iter().map(any).collect(), udp.iter().map(one).collect())
        });
        let (alive, ended) = UnixStream::pair().expect("a socket pair");
        let name = format!("{name}\n");
        let thread = thread::spawn(move || serve(&name, &ended, &listeners, &sockets));
        Self { alive: Some(alive), thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.alive.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(name: &str, ended: &UnixStream, tcp: &[TcpListener], udp: &[UdpSocket]) {
    let mut connections: Vec<TcpStream> = Vec::new();
    let mut buffer = vec![0; 65_536];
    loop {
        let watch = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds: Vec<PollFd<'_>> = [watch(ended.as_fd())]
            .into_iter()
            .chain(tcp.iter().map(|l| watch(l.as_fd())))
            .chain(udp.iter().map(|s| watch(s.as_fd())))
            .chain(connections.iter().map(|c| watch(c.as_fd())))
            .collect();
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other.expect("poll works"),
        };
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any() == Some(true)).collect();
        let (ended, ready) = (ready[0], &ready[1..]);
        if ended {
            return;
        }
        let (listening, ready) = ready.split_at(tcp.len());
        let (asked, talking) = ready.split_at(udp.len());
        let mut talking = talking.iter();
        connections.retain_mut(|c| !talking.next().unwrap_or(&false) || echo(c, &mut buffer));
        for socket in chosen(udp, asked) {
            answer(socket, name, &mut buffer);
        }
        for listener in chosen(tcp, listening) {
            let Ok((mut connection, _)) = listener.accept() else {
                continue;
            };
            let _ = connection.set_write_timeout(Some(PATIENCE));
            if connection.write_all(name.as_bytes()).is_ok() {
                connections.push(connection);
            }
        }
    }
}

fn chosen<'a, T>(all: &'a [T], ready: &'a [bool]) -> impl Iterator<Item = &'a T> {
    all.iter().zip(ready).filter_map(|(item, ready)| ready.then_some(item))
}

/// Whether the connection goes on.
fn echo(connection: &mut TcpStream, buffer: &mut [u8]) -> bool {
    match connection.read(buffer) {
        Ok(0) | Err(_) => false,
        Ok(n) => connection.write_all(&buffer[..n]).is_ok(),
    }
}

fn answer(socket: &UdpSocket, name: &str, buffer: &mut [u8]) {
    if let Ok((n, client)) = socket.recv_from(buffer) {
        let _ = socket.send_to(&[name.as_bytes(), &buffer[..n]].concat(), client);
    }
}

/// A TCP connection to a [`Server`].
pub struct Connection {
    /// The connection; its reads and writes have a deadline.
    pub stream: TcpStream,
    /// The name of the server at its other end.
    pub server: String,
}

impl Connection {
    /// Connects from the thread's namespace and reads the server's name.
    pub fn open(to: SocketAddr, patience: Duration) -> io::Result<Self> {
        Self::greet(TcpStream::connect_timeout(&to, patience)?, patience)
    }

    /// Connects from an address and port of the client's own.
    pub fn open_from(from: SocketAddr, to: SocketAddr) -> io::Result<Self> {
        let family = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let fd: OwnedFd = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        socket::setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        bind_and_connect(&fd, from, to)?;
        Self::greet(TcpStream::from(fd), PATIENCE)
    }

    fn greet(mut stream: TcpStream, patience: Duration) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let mut server = Vec::new();
        let mut octet = [0];
        loop {
            stream.read_exact(&mut octet)?;
            if octet[0] == b'\n' {
                break;
            }
            server.push(octet[0]);
        }
        stream.set_read_timeout(Some(PATIENCE))?;
        let server = String::from_utf8(server).map_err(io::Error::other)?;
        Ok(Self { stream, server })
    }

    /// Sends octets and reads the same ones back.
    pub fn exchange(&mut self, octets: &[u8]) -> io::Result<()> {
        self.stream.write_all(octets)?;
        let mut back = vec![0; octets.len()];
        self.stream.read_exact(&mut back)?;
        if back == octets { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
    }

    /// Closes with a RST instead of a FIN.
    pub fn reset(self) {
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        socket::setsockopt(&self.stream, sockopt::Linger, &linger).expect("SO_LINGER can be set");
    }
}

/// The standard library binds no TCP socket before it connects it.
#[expect(unsafe_code, reason = "libc's socket calls")]
fn bind_and_connect(fd: &OwnedFd, from: SocketAddr, to: SocketAddr) -> io::Result<()> {
    let (from, to) = (sockaddr(from), sockaddr(to));
    let fd = fd.as_raw_fd();
    // SAFETY: the pointer is valid for the call, the length is the vector's.
    let bound = unsafe { nix::libc::bind(fd, from.as_ptr().cast(), from.len() as u32) };
    Errno::result(bound)?;
    // SAFETY: as above.
    let connected = unsafe { nix::libc::connect(fd, to.as_ptr().cast(), to.len() as u32) };
    Errno::result(connected)?;
    Ok(())
}

/// The octets of a `sockaddr_in` or `sockaddr_in6`.
fn sockaddr(address: SocketAddr) -> Vec<u8> {
    let port = address.port().to_be_bytes();
    match address.ip() {
        IpAddr::V4(v4) => {
            let family = (AddressFamily::Inet as u16).to_ne_bytes();
            [&family[..], &port, &v4.octets(), &[0; 8]].concat()
        }
        IpAddr::V6(v6) => {
            let family = (AddressFamily::Inet6 as u16).to_ne_bytes();
            [&family[..], &port, &[0; 4], &v6.octets(), &[0; 4]].concat()
        }
    }
}

/// The name of the UDP server that answers a datagram, asked again every
/// `retry` until the patience ends.
pub fn ask(socket: &UdpSocket, to: SocketAddr, retry: Duration) -> io::Result<String> {
    let mut answer = [0; 64];
    let deadline = Instant::now() + PATIENCE;
    socket.set_read_timeout(Some(retry))?;
    loop {
        socket.send_to(b"who", to)?;
        match socket.recv_from(&mut answer) {
            Ok((n, from)) => {
                assert_eq!(from, to, "the answer comes from the VIP");
                let text = String::from_utf8_lossy(&answer[..n]).into_owned();
                let (name, payload) = text.split_once('\n').ok_or(ErrorKind::InvalidData)?;
                assert_eq!(payload, "who");
                return Ok(name.to_owned());
            }
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => {}
        }
    }
}

/// A UDP socket on an address of the client's, any port if it is 0.
pub fn udp_from(address: IpAddr, port: u16) -> UdpSocket {
    UdpSocket::bind((address, port)).expect("the client has this address")
}
