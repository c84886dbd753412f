//! `xvsctl probe`: one check of a VIP on one real server.

use std::io;
use std::io::Write;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args as _;
use clap::ValueEnum;
use clap::error::ErrorKind;
use serde_json::Value;
use serde_json::json;
use xvs::Error;
use xvs::Instance;
use xvs::Nat;
use xvs::Probe;
use xvs::Protocol;
use xvs::Report;
use xvs::ServiceKey;
use xvs::Size;

use crate::balance::seconds;
use crate::global::Global;
use crate::words;

/// Check a VIP on one real server, and say what fails
///
/// The check goes through the NAT address of the server in that service: as a
/// packet for the VIP, by the server's own tunnel and VLAN. It needs no service
/// on that port, if the VIP has the server in another one. It must be run in
/// the network namespace of the balancer.
#[derive(clap::Args)]
#[command(after_help = "IPv6 addresses with a port are written [ADDRESS]:PORT.")]
pub struct Args {
    /// The service, or its VIP and another port
    #[arg(value_name = "VIP:PORT")]
    service: SocketAddr,

    /// The real server
    #[arg(value_name = "RIP")]
    server: IpAddr,

    /// Open a TCP connection (this is the default)
    #[arg(long, conflicts_with_all = ["udp", "http"])]
    tcp: bool,

    /// Send a UDP datagram and wait for any answer
    #[arg(long, conflicts_with = "http")]
    udp: bool,

    /// Get this path by HTTP; a status from 200 to 399 is right
    #[arg(long, value_name = "PATH", value_parser = path)]
    http: Option<String>,

    /// The host to name in the HTTP request; default: the VIP
    #[arg(long, value_name = "NAME", requires = "http", value_parser = host)]
    host: Option<String>,

    /// How large the packets are; `full` tests the MTU of the way
    #[arg(long, value_enum, default_value_t = SizeName::Small)]
    size: SizeName,

    /// How long each step may take
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "2")]
    timeout: Duration,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SizeName {
    Small,
    Full,
}

fn path(text: &str) -> Result<String, String> {
    if text.starts_with('/') && text.bytes().all(|octet| octet.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err("it is no path such as /health, in ASCII and without spaces".to_owned())
}

fn host(text: &str) -> Result<String, String> {
    if !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err("it is no host name".to_owned())
}

pub fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    if args.service.port() == 0 {
        wrong_usage("the port must be from 1 to 65535");
    }
    if args.timeout.is_zero() {
        wrong_usage("--timeout must be more than 0 seconds");
    }
    let instance = global.open()?;
    let protocol = if args.udp { Protocol::Udp } else { Protocol::Tcp };
    let nat = find(&instance, args.service, protocol, args.server)?;
    if !instance.is_here() {
        let process = instance.info()?.process;
        bail!(
            "instance `{}` runs in another network namespace, where probes must be sent; \
             `nsenter --net=/proc/{process}/ns/net xvsctl probe ...` enters it",
            global.instance
        );
    }
    let report = probe(args).run(&nat);

    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", object(args, &nat, &report))?;
    } else {
        print(args, &report, &mut out)?;
    }
    Ok(if report.verdict.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn wrong_usage(message: &str) -> ! {
    let command = Args::augment_args(clap::Command::new("xvsctl probe"));
    command.clone().error(ErrorKind::ValueValidation, message).exit()
}

fn probe(args: &Args) -> Probe {
    let port = args.service.port();
    let probe = match &args.http {
        Some(path) => Probe::http(port, path),
        None if args.udp => Probe::udp(port),
        None => Probe::tcp(port),
    };
    let probe = match &args.host {
        Some(host) => probe.host(host),
        None => probe,
    };
    let size = match args.size {
        SizeName::Small => Size::Small,
        SizeName::Full => Size::Full,
    };
    probe.size(size).timeout(args.timeout)
}

/// The NAT address of the server in the service, or, if there is no such
/// service, in another one of the VIP.
fn find(
    instance: &Instance,
    service: SocketAddr,
    protocol: Protocol,
    server: IpAddr,
) -> anyhow::Result<Nat> {
    let key = ServiceKey { address: service.ip(), port: service.port(), protocol };
    let services = instance.services()?;
    let mut of_vip = services.iter().filter(|s| s.service.address == key.address).peekable();
    if of_vip.peek().is_none() {
        return Err(Error::VipNotFound { address: key.address }.into());
    }
    if let Some(known) = of_vip.find(|s| s.service.key() == key) {
        return Ok(instance.nat_of(&known.service, server)?);
    }
    let nats = instance.nats()?;
    let found = nats
        .into_iter()
        .find(|nat| (nat.service.address, nat.destination) == (key.address, server));
    match found {
        Some(nat) => Ok(nat),
        None => bail!("there is no service {key}, and no other one of its VIP has {server}"),
    }
}

fn print(args: &Args, report: &Report, out: &mut impl Write) -> io::Result<()> {
    for step in &report.steps {
        let mark = if step.ok { "ok" } else { "fail" };
        let time = format!("{:.1} ms", milliseconds(step.time));
        writeln!(out, "{mark:4}  {:9}  {time:>11}  {}", step.name, step.detail)?;
    }
    match &report.verdict {
        Ok(()) => writeln!(out, "{} on {} answers", args.service, args.server),
        Err(failure) => writeln!(out, "failed: {failure}"),
    }
}

fn object(args: &Args, nat: &Nat, report: &Report) -> Value {
    let failure = report.verdict.as_ref().err();
    let steps: Vec<Value> = report
        .steps
        .iter()
        .map(|step| {
            json!({
                "step": step.name,
                "ms": milliseconds(step.time),
                "ok": step.ok,
                "detail": step.detail,
            })
        })
        .collect();
    json!({
        "type": "probe",
        "service": nat.service.to_string(),
        "port": args.service.port(),
        "destination": nat.destination,
        "nat": nat.address,
        "ok": failure.is_none(),
        "failure": failure.map(words::probe_failure_name),
        "reason": failure.map(ToString::to_string),
        "steps": steps,
    })
}

fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1_000.0
}
