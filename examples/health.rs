//! A load balancer that checks its web servers:
//!
//!     health eth0 10.1.2.0/24 192.168.100.1:80 10.1.2.3 10.1.2.4
//!
//! asks each server for a page, at the VIP: the request goes to the server's NAT
//! address and so takes the way that clients' packets take. A server that fails is
//! disabled, so that its connections stay, until it succeeds again.

use std::io;
use std::io::Read;
use std::io::Write;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use clap::Parser;
use clap::value_parser;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;
use xvs::Client;
use xvs::Destination;
use xvs::Mode;
use xvs::Options;
use xvs::Prefix;
use xvs::Service;
use xvs::ServiceStatus;

/// Balance a web service over real servers that are checked by HTTP
///
/// Each counts as healthy until it has failed. When all have failed, all are disabled,
/// and new clients get no answer.
#[derive(Parser)]
struct Args {
    /// The interface that packets come in by
    #[arg(value_name = "IFACE")]
    interface: String,

    /// The prefix in which the real servers are
    prefix: Prefix,

    /// The virtual address and its port
    #[arg(value_name = "VIP:PORT")]
    vip: SocketAddr,

    /// Real servers
    #[arg(value_name = "RIP", required = true)]
    reals: Vec<IpAddr>,

    /// From the beginning of one check to that of the next
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    interval: Duration,

    /// How long one check may take
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    timeout: Duration,

    /// So many successes in a row enable a server
    #[arg(
        long,
        value_name = "N",
        default_value = "2",
        value_parser = value_parser!(u32).range(1..)
    )]
    rise: u32,

    /// So many failures in a row disable it
    #[arg(
        long,
        value_name = "N",
        default_value = "3",
        value_parser = value_parser!(u32).range(1..)
    )]
    fall: u32,

    /// What to ask for; a status from 200 to 399 is a success
    #[arg(long, default_value = "/")]
    path: String,

    /// The name of the instance
    #[arg(long, value_name = "NAME", default_value = "health")]
    instance: String,

    /// Where the BPF file system is mounted
    #[arg(long, value_name = "PATH", default_value = "/sys/fs/bpf")]
    bpffs: PathBuf,

    /// Attach in generic mode
    #[arg(long)]
    generic: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| "it is no number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(Duration::ZERO) => Err("it must be longer than 0".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    // Before the client, so that its threads leave the signals to us.
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    signals.thread_block()?;

    let options = Options::new()
        .instance(&args.instance)
        .bpffs(&args.bpffs)
        .mode(if args.generic { Mode::Generic } else { Mode::Auto })
        .vlan(1, args.prefix);
    let client = Client::with_options(options, &[&args.interface])?;
    let service = Service::tcp(args.vip.ip(), args.vip.port());
    let destinations: Vec<Destination> = args.reals.iter().map(|r| Destination::new(*r)).collect();
    client.set_service(&service, &destinations)?;
    let mut checkers = Vec::new();
    for real in &args.reals {
        let address = client.nat_service(&service, *real)?;
        let nat = SocketAddr::new(address, args.vip.port());
        checkers.push(Checker {
            client: &client,
            service: &service,
            real: *real,
            nat,
            args: &args,
        });
    }

    thread::scope(|scope| {
        // Each thread ends when its sender is dropped.
        let mut running = Vec::new();
        let mut stopped = || {
            let (sender, receiver) = mpsc::channel();
            running.push(sender);
            receiver
        };
        for checker in &checkers {
            let stopped = stopped();
            scope.spawn(move || checker.run(&stopped));
        }
        let stopped = stopped();
        scope.spawn(|| tell_ready(&client, &service, stopped));
        signals.wait()
    })?;
    Ok(())
}

/// Waits until there is traffic on some destination.
fn tell_ready(client: &Client, service: &Service, stopped: Receiver<()>) {
    let forwards = || client.service(service).is_ok_and(|s| s.status == ServiceStatus::Forwarding);
    while pause(&stopped, Duration::from_millis(20)) {
        if forwards() {
            return say("ready");
        }
    }
}

/// False when it is time to stop.
fn pause(stopped: &Receiver<()>, time: Duration) -> bool {
    stopped.recv_timeout(time) == Err(RecvTimeoutError::Timeout)
}

/// One line for whoever reads; it is no fault if nobody does.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// What checks one destination.
struct Checker<'a> {
    client: &'a Client,
    service: &'a Service,
    real: IpAddr,
    nat: SocketAddr,
    args: &'a Args,
}

impl Checker<'_> {
    fn run(&self, stopped: &Receiver<()>) {
        let mut health = Health::new(self.args.rise, self.args.fall);
        loop {
            let begun = Instant::now();
            let result = self.check(begun + self.args.timeout);
            let next = health.after(result.is_ok());
            if next.up == health.up {
                health = next;
            } else {
                let destination = Destination::new(self.real).disabled(health.up);
                match self.client.update_destination(self.service, &destination) {
                    Ok(()) => {
                        say(&self.change(&result));
                        health = next;
                    }
                    // The next check tries again.
                    Err(error) => eprintln!("{}: {error}", self.real),
                }
            }
            if !pause(stopped, self.args.interval.saturating_sub(begun.elapsed())) {
                return;
            }
        }
    }

    /// The line that tells of a change.
    fn change(&self, result: &anyhow::Result<()>) -> String {
        match result {
            Ok(()) => format!("{} up after {}", self.real, self.args.rise),
            Err(error) => format!("{} down after {}: {error:#}", self.real, self.args.fall),
        }
    }

    /// One HTTP request; an error says what is wrong with the server.
    fn check(&self, deadline: Instant) -> anyhow::Result<()> {
        let status = self.request(deadline).map_err(|error| match error.kind() {
            // What a socket's timeout is to read and write.
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut,
            kind => kind,
        });
        let status = status.map_err(io::Error::from)?;
        let status = String::from_utf8_lossy(&status);
        let mut words = status.split_whitespace();
        let is_http = words.next().is_some_and(|version| version.starts_with("HTTP/1."));
        let code = words.next().filter(|_| is_http).context("it does not speak HTTP")?;
        anyhow::ensure!(code.starts_with(['2', '3']), "HTTP status {code}");
        Ok(())
    }

    /// The beginning of the answer, at least its first line.
    fn request(&self, deadline: Instant) -> io::Result<Vec<u8>> {
        // Zero would be no timeout at all.
        let left =
            || deadline.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let Args { vip, path, .. } = self.args;
        let mut stream = TcpStream::connect_timeout(&self.nat, left())?;
        stream.set_write_timeout(Some(left()))?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {vip}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;

        let mut answer = Vec::new();
        let mut part = [0; 512];
        while !answer.contains(&b'\n') && answer.len() < part.len() {
            stream.set_read_timeout(Some(left()))?;
            match stream.read(&mut part)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                length => answer.extend_from_slice(&part[..length]),
            }
        }
        Ok(answer)
    }
}

/// What is thought of a server by its checks so far.
#[derive(Clone, Copy, Debug)]
struct Health {
    rise: u32,
    fall: u32,
    up: bool,
    /// Checks in a row that say otherwise.
    against: u32,
}

impl Health {
    const fn new(rise: u32, fall: u32) -> Self {
        Self { rise, fall, up: true, against: 0 }
    }

    /// What is thought of it after one more check.
    const fn after(self, success: bool) -> Self {
        if success == self.up {
            return Self { against: 0, ..self };
        }
        let against = self.against + 1;
        let enough = if self.up { self.fall } else { self.rise };
        if against < enough {
            return Self { against, ..self };
        }
        Self { up: success, against: 0, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The checks that succeed (`+`) and fail (`-`), and after which it is up (`+`).
    fn assert_follows(rise: u32, fall: u32, checks: &str, up: &str) {
        let mut health = Health::new(rise, fall);
        let mut seen = String::new();
        for check in checks.chars() {
            health = health.after(check == '+');
            seen.push(if health.up { '+' } else { '-' });
        }
        assert_eq!(seen, up, "rise {rise}, fall {fall}, checks {checks}");
    }

    #[test]
    fn a_server_falls_and_rises_by_checks_in_a_row() {
        assert_follows(2, 3, "+++", "+++");
        assert_follows(2, 3, "----", "++--");
        assert_follows(2, 3, "---++", "++--+");
        assert_follows(1, 1, "-+-+", "-+-+");
        assert_follows(3, 1, "-+++", "---+");
    }

    #[test]
    fn a_check_that_agrees_begins_the_row_anew() {
        assert_follows(2, 3, "--+--+", "++++++");
        assert_follows(2, 3, "---+-+-++", "++------+");
        assert_follows(2, 3, "---++--+---", "++--++++++-");
    }

    #[test]
    fn a_time_is_longer_than_nothing() {
        assert_eq!(seconds("0.2"), Ok(Duration::from_millis(200)));
        for wrong in ["0", "-1", "soon", "inf"] {
            seconds(wrong).unwrap_err();
        }
    }

    #[test]
    fn arguments_are_as_clap_wants_them() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }
}
