//! HTTP servers that tell their name, and a hash of what they are sent.

use std::hash::DefaultHasher;
use std::hash::Hasher;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::ErrorKind;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::fd::AsFd;
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
use nix::sys::socket::sockopt;

use crate::lab::Backend;
use crate::lab::Lab;
use crate::server::PATIENCE;

/// The port of these servers.
pub const PORT: u16 = 8000;

/// Octets that differ everywhere.
pub fn octets(number: usize) -> Vec<u8> {
    (0..number).map(|i| (i * 31 + i / 256) as u8).collect()
}

fn hash(octets: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    hasher.write(octets);
    format!("{:016x}", hasher.finish())
}

/// A server on [`PORT`] of a backend's addresses. Ends when dropped.
pub struct Web {
    alive: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Web {
    /// Starts one on every backend.
    pub fn start_all(lab: &Lab) -> Vec<Self> {
        lab.backends.iter().map(Self::start).collect()
    }

    fn start(backend: &Backend) -> Self {
        let listener = backend.namespace.enter(|| TcpListener::bind(("::", PORT)));
        let listener = listener.expect("the port is free");
        let (alive, ended) = UnixStream::pair().expect("a socket pair");
        let name = backend.name.clone();
        let thread = thread::spawn(move || serve(&name, &ended, &listener));
        Self { alive: Some(alive), thread: Some(thread) }
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.alive.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(name: &str, ended: &UnixStream, listener: &TcpListener) {
    loop {
        let watch = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = [watch(ended.as_fd()), watch(listener.as_fd())];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other.expect("poll works"),
        };
        if fds[0].any() == Some(true) {
            return;
        }
        if let Ok((connection, _)) = listener.accept() {
            let _ = answer(connection, name);
        }
    }
}

/// Answers one request: with the name, and the hash of its body.
fn answer(connection: TcpStream, name: &str) -> io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(connection);
    let body = body(&mut reader)?;
    let text = format!("{name} {}", hash(&body));
    let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", text.len());
    reader.get_mut().write_all(format!("{head}{text}").as_bytes())
}

/// What follows the head of a message, as long as that says.
fn body(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if line == "\r\n" {
            break;
        }
        if let Some(text) = line.strip_prefix("Content-Length: ") {
            length = text.trim().parse().map_err(io::Error::other)?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(body)
}

/// What became of a request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The name of the server.
    pub server: String,
    /// The largest segment that the client sends by now, in octets.
    pub segment: u32,
    /// How long it took.
    pub time: Duration,
}

/// Sends a server octets, from the thread's namespace; it must get the same ones.
pub fn post(to: SocketAddr, octets: &[u8]) -> io::Result<Answer> {
    let start = Instant::now();
    let connection = TcpStream::connect_timeout(&to, PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(connection);
    let head = format!("POST / HTTP/1.0\r\nContent-Length: {}\r\n\r\n", octets.len());
    reader.get_mut().write_all(head.as_bytes())?;
    reader.get_mut().write_all(octets)?;
    let text = String::from_utf8(body(&mut reader)?).map_err(io::Error::other)?;
    let (server, hashed) = text.split_once(' ').ok_or(ErrorKind::InvalidData)?;
    assert_eq!(hashed, hash(octets), "the server has got what was sent");
    let segment = socket::getsockopt(reader.get_ref(), sockopt::TcpMaxSeg)?;
    Ok(Answer { server: server.to_owned(), segment, time: start.elapsed() })
}

/// The name of the server that answers a request.
pub fn get(to: SocketAddr) -> io::Result<String> {
    post(to, b"").map(|answer| answer.server)
}
