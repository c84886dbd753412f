//! `xvsctl decap`: a real server takes packets out of tunnels until it is stopped.

use std::fmt::Display;
use std::io;
use std::io::Write;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;
use xvs::Decap;
use xvs::DecapOptions;
use xvs::DecapOutcome;
use xvs::DecapReasons;

use crate::balance::List;
use crate::balance::ModeName;
use crate::balance::input::Signals;
use crate::balance::seconds;
use crate::words;

/// How often the host's addresses are read.
const TICK: Duration = Duration::from_secs(5);

/// Take packets out of tunnels on a real server, until SIGINT, SIGTERM or SIGHUP
///
/// What comes from a balancer by IP-in-IP, GRE, FOU or GUE to an address of this
/// host and is for a VIP reaches the host's stack without its tunnel; no tunnel
/// devices are needed. Other packets are left as they are. `ready` is printed once
/// the program is on all interfaces; at the end it is told what became of the
/// packets, and the host is left as it was.
#[derive(clap::Args)]
#[command(after_long_help = "\
Example:
  xvsctl decap eth0 --balancer 10.1.2.1,10.1.2.2 --vip 192.168.100.1 --gue 6080")]
pub struct Args {
    /// Interfaces to attach to; a bond, or any of its members, for the bond
    #[arg(value_name = "IFACE[,IFACE...]")]
    interfaces: List<String>,

    /// Addresses that balancers send from; may be repeated
    #[arg(long = "balancer", value_name = "ADDR[,...]", required = true)]
    balancers: Vec<List<IpAddr>>,

    /// Virtual addresses; may be repeated
    #[arg(long = "vip", value_name = "ADDR[,...]", required = true)]
    vips: Vec<List<IpAddr>>,

    /// Addresses of this host that balancers send to; may be repeated (default: all
    /// it has but VIPs and loopback addresses, read again every 5 seconds)
    #[arg(long = "local", value_name = "ADDR[,...]")]
    local: Vec<List<IpAddr>>,

    /// The UDP port of FOU (default: none is taken out)
    #[arg(long, value_name = "PORT")]
    fou: Option<u16>,

    /// The UDP port of GUE (default: none is taken out)
    #[arg(long, value_name = "PORT")]
    gue: Option<u16>,

    /// How to attach: native XDP where the driver can, or only that, or generic
    #[arg(long, value_enum, default_value = "auto")]
    mode: ModeName,

    /// Stop after this time
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    duration: Option<Duration>,

    /// Print events as JSON, one object per line
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let options = options(args);
    options.validate()?;
    let signals = Signals::block()?;
    let interfaces: Vec<&str> = args.interfaces.0.iter().map(String::as_str).collect();
    let mut decap = Decap::new(options, &interfaces)?;
    let started = Instant::now();
    tell_ready(&decap, args.json);
    let cause = serve(&mut decap, &signals, started, args.duration)?;
    summarize(&decap.stats()?, cause, started, args.json);
    Ok(ExitCode::SUCCESS)
}

fn options(args: &Args) -> DecapOptions {
    let all = |lists: &[List<IpAddr>]| lists.iter().flat_map(|list| list.0.clone()).collect();
    let mut options = DecapOptions::new().mode(args.mode.into());
    options.balancers = all(&args.balancers);
    options.vips = all(&args.vips);
    options.local = all(&args.local);
    options.fou = args.fou;
    options.gue = args.gue;
    options
}

/// Works until there is a reason to stop, and returns that.
fn serve(
    decap: &mut Decap,
    signals: &Signals,
    started: Instant,
    duration: Option<Duration>,
) -> anyhow::Result<&'static str> {
    loop {
        let left = duration.map(|duration| duration.saturating_sub(started.elapsed()));
        if left == Some(Duration::ZERO) {
            return Ok("duration");
        }
        signals.wait(left.map_or(TICK, |left| left.min(TICK)))?;
        if let Some(signal) = signals.received()? {
            return Ok(signal);
        }
        // It goes on with the addresses that it knows.
        if let Err(error) = decap.refresh() {
            warn(&error);
        }
    }
}

fn tell_ready(decap: &Decap, json: bool) {
    let mode = words::mode(decap.mode());
    if json {
        let interfaces: Vec<Value> =
            decap.interfaces().iter().map(|name| json!({"name": name, "mode": mode})).collect();
        tell(&json!({
            "event": "ready",
            "interfaces": interfaces,
            "fallback": decap.fallback(),
        }));
        return;
    }
    if let Some(reason) = decap.fallback() {
        warn(&format!(
            "generic XDP, which is several times slower, for native is refused: {reason}"
        ));
    }
    tell(&"ready");
}

/// Tells what became of all packets.
fn summarize(reasons: &DecapReasons, cause: &str, started: Instant, json: bool) {
    let seconds = started.elapsed().as_secs_f64();
    if json {
        let all: Map<String, Value> =
            reasons.iter().map(|(name, count)| (name.to_owned(), count.into())).collect();
        tell(&json!({
            "event": "stopped",
            "cause": cause,
            "duration_seconds": seconds,
            "reasons": all,
        }));
        return;
    }
    let mut line = format!("stopped ({cause}) after {seconds:.1} s");
    for (label, outcome) in [
        ("taken out", DecapOutcome::TakenOut),
        ("left as they were", DecapOutcome::Passed),
        ("dropped", DecapOutcome::Dropped),
    ] {
        let counted: Vec<String> = reasons
            .of(outcome)
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        if !counted.is_empty() {
            line = format!("{line}; {label}: {}", counted.join(", "));
        }
    }
    tell(&line);
}

/// Prints a line. Nothing stops because nobody reads what is said.
fn tell(line: &impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

fn warn(line: &impl Display) {
    let _ = writeln!(io::stderr(), "xvsctl: {line}");
}
