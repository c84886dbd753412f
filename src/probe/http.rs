//! As much HTTP/1.1 as a check needs.

use std::io;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::Duration;
use std::time::Instant;

/// So much of an HTTP answer is read at most, to find the end of its header.
const LONGEST_HEADER: usize = 65_536;

/// What came back for an HTTP request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Http {
    Status(u16),
    Other(String),
    Closed,
    Silent,
}

/// Whether a status is one of success or redirection.
pub(super) fn is_fine(status: u16) -> bool {
    (200..400).contains(&status)
}

/// A `GET` request, which ends with an empty line.
pub(super) fn request(vip: SocketAddr, path: &str, host: Option<&str>) -> io::Result<Vec<u8>> {
    let is_plain = |text: &str| text.bytes().all(|octet| octet.is_ascii_graphic());
    if !path.starts_with('/') || !is_plain(path) {
        let what = format!("`{path}` is no path such as /health, in ASCII and without spaces");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let host = match (host, vip) {
        (Some(host), _) if !host.is_empty() && is_plain(host) => host.to_owned(),
        (Some(host), _) => {
            let what = format!("`{host}` is no host name");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        (None, SocketAddr::V4(vip)) if vip.port() == 80 => vip.ip().to_string(),
        (None, SocketAddr::V6(vip)) if vip.port() == 80 => format!("[{}]", vip.ip()),
        (None, vip) => vip.to_string(),
    };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: xvs-probe\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n"
    );
    Ok(request.into_bytes())
}

/// Sends a request and reads the header of its answer.
pub(super) fn exchange(
    mut stream: TcpStream,
    request: &[u8],
    timeout: Duration,
) -> io::Result<Http> {
    let end = Instant::now() + timeout;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(timeout))?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4_096];
    let mut result = stream.write_all(request);
    while result.is_ok() && !is_decided(&answer) {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Http::Silent);
        }
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        result = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                answer.extend(&buffer[..length]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        };
    }
    if let Err(error) = result {
        return match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Ok(Http::Silent),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Ok(Http::Closed),
            _ => Err(error),
        };
    }
    Ok(match status(&answer) {
        Some(status) => Http::Status(status),
        None if answer.is_empty() => Http::Closed,
        None => Http::Other(start_of(&answer)),
    })
}

/// Whether enough of an answer was read to judge it.
fn is_decided(answer: &[u8]) -> bool {
    const PROTOCOL: &[u8] = b"HTTP/1.";
    let common = answer.len().min(PROTOCOL.len());
    answer[..common] != PROTOCOL[..common]
        || answer.len() >= LONGEST_HEADER
        || answer.windows(4).any(|end| end == b"\r\n\r\n")
        || answer.windows(2).any(|end| end == b"\n\n")
}

/// The status of an HTTP/1 answer (RFC 9112, section 4).
fn status(answer: &[u8]) -> Option<u16> {
    let rest = answer.strip_prefix(b"HTTP/1.")?;
    let [minor, b' ', a, b, c, b' ' | b'\r' | b'\n', ..] = rest else {
        return None;
    };
    let digits = [a, b, c].map(|digit| char::from(*digit).to_digit(10));
    let [Some(a @ 1..), Some(b), Some(c)] = digits else {
        return None;
    };
    minor.is_ascii_digit().then_some((a * 100 + b * 10 + c) as u16)
}

/// The start of an answer, fit to print.
fn start_of(answer: &[u8]) -> String {
    answer[..answer.len().min(32)].escape_ascii().to_string()
}
