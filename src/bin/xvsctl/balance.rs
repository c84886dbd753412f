//! `xvsctl balance`: a load balancer that runs until it is stopped.

mod commands;
pub mod input;
mod running;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::bail;
use clap::ValueEnum;
use xvs::Client;
use xvs::Config;
use xvs::Destination;
use xvs::Mode;
use xvs::OnExit;
use xvs::Options;
use xvs::Prefix;
use xvs::Protocol;
use xvs::Service;
use xvs::Tunnel;

use crate::global::Global;
use input::Signals;
use running::Balancer;

/// Run a load balancer until SIGINT, SIGTERM or SIGHUP
///
/// Every port of every VIP becomes a service with all the RIPs (the real
/// servers) as destinations. `ready` is printed once every destination is
/// resolved and every service forwards. What needs attention goes to standard
/// error. At the end a summary is printed and the host is left as it was, unless
/// `--persist` says that the data plane goes on.
#[derive(clap::Args)]
#[command(after_long_help = "\
Commands on standard input, one per line, each answered by `ok` or `error: ...`:
  disable RIP     give a real server no new flows; it keeps those it has
  disable RIP S   the same, and after S seconds the rest of its flows go to others
  enable RIP      take that back
  weight RIP N    change its share of new flows
  add RIP         add a real server
  remove RIP      remove it; its flows go to others
  quit            end, as SIGTERM does
The end of the input ends nothing.

Example:
  xvsctl balance eth0 10.1.2.0/24 192.168.100.1 10.1.2.3 10.1.2.4 --port 80 --port 53/udp")]
pub struct Args {
    /// Interfaces to attach to; a bond, or any of its members, for the bond
    #[arg(value_name = "IFACE[,IFACE...]")]
    interfaces: List<String>,

    /// Prefixes of VLAN 1, in which the real servers are
    #[arg(value_name = "PREFIX[,PREFIX...]")]
    prefixes: List<Prefix>,

    /// Virtual addresses
    #[arg(value_name = "VIP[,VIP...]")]
    vips: List<IpAddr>,

    /// Real servers
    #[arg(value_name = "RIP", required = true)]
    reals: Vec<IpAddr>,

    /// A port to balance, such as 80, 80/tcp or 53/udp; may be repeated
    #[arg(long = "port", value_name = "PORT[/PROTOCOL]", default_value = "80/tcp")]
    ports: Vec<Port>,

    /// A prefix of a further VLAN; may be repeated
    #[arg(long = "vlan", value_name = "ID=PREFIX")]
    vlans: Vec<Vlan>,

    /// The longest IP packet to send into a VLAN, if less than its interface's
    /// MTU; may be repeated
    #[arg(long = "mtu", value_name = "ID=OCTETS")]
    mtus: Vec<Mtu>,

    /// A route to real servers behind a tunnel, in place of the kernel's; a
    /// link-local gateway needs its VLAN; may be repeated
    #[arg(long = "route", value_name = "PREFIX=GATEWAY[@ID]")]
    routes: Vec<Gateway>,

    /// Wait between the members of a bond when attaching to them
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    attach_pause: Option<Duration>,

    /// How packets travel to the real servers
    #[arg(long, value_enum, default_value = "none")]
    tunnel: TunnelName,

    /// The UDP port on which the real servers take FOU or GUE
    #[arg(
        long,
        value_name = "PORT",
        required_if_eq_any([("tunnel", "fou"), ("tunnel", "gue")])
    )]
    tunnel_port: Option<u16>,

    /// Whether FOU or GUE has UDP checksums (default: over IPv6 on, over IPv4 off)
    #[arg(long, value_enum, value_name = "STATE")]
    tunnel_checksum: Option<State>,

    /// Send all connections of one client to the same server
    #[arg(long)]
    sticky: bool,

    /// The most flows that each CPU stores per second for each service (default 10000)
    #[arg(long, value_name = "N")]
    new_flows: Option<u32>,

    /// For how long after a change connections without a flow stay where the hash had
    /// them (default 60; 0: not at all)
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    transition: Option<Duration>,

    /// The share of new flows of a real server, 1 to 65535 (default 1); may
    /// be repeated
    #[arg(long = "weight", value_name = "RIP=N")]
    weights: Vec<Weight>,

    /// How to attach: native XDP where the driver can, or only that, or generic
    #[arg(long, value_enum, default_value = "auto")]
    mode: ModeName,

    /// How many flows of each IP family to remember (default 1000000)
    #[arg(long, value_name = "N")]
    flows: Option<u32>,

    /// Where the NAT addresses for probes of IPv4 VIPs are (default 255.0.0.0/8)
    #[arg(long, value_name = "PREFIX")]
    nat4: Option<Prefix>,

    /// The same for IPv6 VIPs (default fd6b:9f3c:e1a7:255::/64)
    #[arg(long, value_name = "PREFIX")]
    nat6: Option<Prefix>,

    /// Have the data plane go on when this process is gone, for so many seconds or
    /// without end; the next one of the instance takes it over, `xvsctl detach` ends it
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "forever",
        value_parser = persistence
    )]
    persist: Option<OnExit>,

    /// Stop after this time
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    duration: Option<Duration>,

    /// Print events as JSON, one object per line
    #[arg(long)]
    json: bool,
}

/// Values with commas between them.
#[derive(Clone)]
pub struct List<T>(pub Vec<T>);

impl<T: FromStr<Err: Display>> FromStr for List<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let value = |part: &str| part.parse().map_err(|error: T::Err| format!("`{part}`: {error}"));
        text.split(',').map(value).collect::<Result<_, _>>().map(Self)
    }
}

/// `PORT[/PROTOCOL]`; whether there is such a protocol the library says.
#[derive(Clone)]
struct Port {
    number: u16,
    protocol: String,
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let number =
            number.parse().map_err(|_| format!("`{number}` is no port from 1 to 65535"))?;
        Ok(Self { number, protocol: protocol.to_owned() })
    }
}

/// `ID=PREFIX`.
#[derive(Clone)]
struct Vlan {
    id: u16,
    prefix: Prefix,
}

impl FromStr for Vlan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, prefix) = of_vlan(text, "PREFIX")?;
        Ok(Self { id, prefix: prefix.parse().map_err(|error: xvs::Error| error.to_string())? })
    }
}

/// `ID=OCTETS`.
#[derive(Clone)]
struct Mtu {
    id: u16,
    octets: u32,
}

impl FromStr for Mtu {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, octets) = of_vlan(text, "OCTETS")?;
        let octets = octets.parse().map_err(|_| format!("`{octets}` is no number of octets"))?;
        Ok(Self { id, octets })
    }
}

/// A VLAN's id and what is said of it.
fn of_vlan<'a>(text: &'a str, what: &str) -> Result<(u16, &'a str), String> {
    let (id, value) = text.split_once('=').ok_or_else(|| format!("it is not ID={what}"))?;
    Ok((vlan_id(id)?, value))
}

fn vlan_id(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("`{text}` is no VLAN id from 1 to 4094"))
}

/// `PREFIX=GATEWAY[@ID]`.
#[derive(Clone)]
struct Gateway {
    prefix: Prefix,
    address: IpAddr,
    vlan: Option<u16>,
}

impl FromStr for Gateway {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (prefix, gateway) = text.split_once('=').ok_or("it is not PREFIX=GATEWAY[@ID]")?;
        let (address, vlan) = match gateway.split_once('@') {
            Some((address, id)) => (address, Some(vlan_id(id)?)),
            None => (gateway, None),
        };
        Ok(Self {
            prefix: prefix.parse().map_err(|error: xvs::Error| error.to_string())?,
            address: address.parse().map_err(|_| format!("`{address}` is no IP address"))?,
            vlan,
        })
    }
}

impl Gateway {
    /// The VLAN that it is said to be in, or that has a prefix with it.
    fn vlan(&self, config: &Config) -> anyhow::Result<u16> {
        let Self { prefix, address, vlan } = self;
        let of_prefix = || config.prefixes().find(|(_, prefix)| prefix.contains(*address));
        match vlan.or_else(|| of_prefix().map(|(id, _)| id)) {
            Some(id) => Ok(id),
            None => bail!(
                "--route {prefix}={address}: no VLAN has a prefix with {address}; add one, or \
                 say which VLAN a link-local gateway is in: {prefix}={address}@ID"
            ),
        }
    }
}

/// `RIP=N`.
#[derive(Clone)]
struct Weight {
    real: IpAddr,
    weight: u32,
}

impl FromStr for Weight {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (real, weight) = text.split_once('=').ok_or("it is not RIP=N")?;
        let real = real.parse().map_err(|_| format!("`{real}` is no IP address"))?;
        let weight =
            weight.parse().map_err(|_| format!("`{weight}` is no weight from 1 to 65535"))?;
        Ok(Self { real, weight })
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum TunnelName {
    None,
    Ipip,
    Gre,
    Fou,
    Gue,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum State {
    On,
    Off,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum ModeName {
    Auto,
    Native,
    Generic,
}

impl From<ModeName> for Mode {
    fn from(name: ModeName) -> Self {
        match name {
            ModeName::Auto => Self::Auto,
            ModeName::Native => Self::Native,
            ModeName::Generic => Self::Generic,
        }
    }
}

pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| "it is no number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// `forever`, or a number of seconds.
fn persistence(text: &str) -> Result<OnExit, String> {
    if text == "forever" { Ok(OnExit::Keep) } else { seconds(text).map(OnExit::KeepFor) }
}

pub fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let options = options(args, global)?;
    let services = services(args)?;
    let destinations = destinations(args)?;

    // Before the client starts its threads, so that they are blocked there too.
    let signals = Signals::block()?;
    let interfaces: Vec<&str> = args.interfaces.0.iter().map(String::as_str).collect();
    let client = Client::with_options(options, &interfaces)?;
    let was_left = !client.inherited().is_empty();
    let destinations = as_left(&client, destinations)?;
    if let Err(error) = set(&client, &services, &destinations) {
        // What comes to nothing does not stay; what another process has left does.
        if !was_left {
            client.detach()?;
        }
        return Err(error.into());
    }
    let mut balancer = Balancer::new(client, services, destinations, args.json);
    let cause = balancer.serve(&signals, args.duration)?;
    balancer.summarize(cause)?;
    Ok(ExitCode::SUCCESS)
}

/// Destinations, of which those stay disabled that another process has left so.
fn as_left(client: &Client, mut destinations: Vec<Destination>) -> xvs::Result<Vec<Destination>> {
    let all = client.all()?;
    let left = all.iter().flat_map(|(_, all)| all).map(|known| &known.destination);
    for known in left.filter(|known| known.disabled) {
        let wanted = destinations.iter_mut().find(|wanted| wanted.address == known.address);
        if let Some(wanted) = wanted {
            (wanted.disabled, wanted.deadline) = (true, known.deadline);
        }
    }
    Ok(destinations)
}

/// Has the client balance exactly these services.
fn set(client: &Client, services: &[Service], destinations: &[Destination]) -> xvs::Result<()> {
    for service in services {
        client.set_service(service, destinations)?;
    }
    // What another process balanced besides is not wanted any more.
    client.remove_inherited().map(drop)
}

fn options(args: &Args, global: &Global) -> anyhow::Result<Options> {
    let mut options =
        Options::new().instance(&global.instance).bpffs(&global.bpffs).mode(args.mode.into());
    if let Some(flows) = args.flows {
        options = options.flows(flows);
    }
    if let Some(prefix) = args.nat4 {
        options = options.nat4(prefix);
    }
    if let Some(prefix) = args.nat6 {
        options = options.nat6(prefix);
    }
    for prefix in &args.prefixes.0 {
        options = options.vlan(1, *prefix);
    }
    for vlan in &args.vlans {
        options = options.vlan(vlan.id, vlan.prefix);
    }
    for mtu in &args.mtus {
        options = options.mtu(mtu.id, mtu.octets);
    }
    for gateway in &args.routes {
        let vlan = gateway.vlan(&options.config)?;
        options = options.route(gateway.prefix, vlan, gateway.address);
    }
    if let Some(on_exit) = args.persist {
        options = options.persist(on_exit);
    }
    if let Some(pause) = args.attach_pause {
        options = options.attach_pause(pause);
    }
    options.validate()?;
    Ok(options)
}

/// Every port of every VIP.
fn services(args: &Args) -> anyhow::Result<Vec<Service>> {
    let mut services: Vec<Service> = Vec::new();
    for vip in &args.vips.0 {
        for port in &args.ports {
            let protocol: Protocol = port.protocol.parse()?;
            let mut service = Service::new(*vip, port.number, protocol).sticky(args.sticky);
            if let Some(new_flows) = args.new_flows {
                service = service.new_flows(new_flows);
            }
            if let Some(transition) = args.transition {
                service = service.transition(transition);
            }
            service.validate()?;
            if services.iter().any(|other| other.key() == service.key()) {
                bail!("service {service} is named twice");
            }
            services.push(service);
        }
    }
    Ok(services)
}

/// How packets travel to every real server.
fn tunnel(args: &Args) -> anyhow::Result<Tunnel> {
    let port = args.tunnel_port.unwrap_or_default();
    let tunnel = match args.tunnel {
        TunnelName::None => Tunnel::None,
        TunnelName::Ipip => Tunnel::Ipip,
        TunnelName::Gre => Tunnel::Gre,
        TunnelName::Fou => Tunnel::fou(port),
        TunnelName::Gue => Tunnel::gue(port),
    };
    if tunnel.udp().is_none() {
        if args.tunnel_port.is_some() {
            bail!("--tunnel-port: --tunnel {tunnel} has no UDP port; fou and gue have");
        }
        if args.tunnel_checksum.is_some() {
            bail!("--tunnel-checksum: --tunnel {tunnel} has no UDP checksum; fou and gue have");
        }
    }
    Ok(match args.tunnel_checksum {
        Some(state) => tunnel.checksum(state == State::On),
        None => tunnel,
    })
}

/// Every real server with its weight.
fn destinations(args: &Args) -> anyhow::Result<Vec<Destination>> {
    let tunnel = tunnel(args)?;
    let mut weights = BTreeMap::new();
    for Weight { real, weight } in &args.weights {
        if !args.reals.contains(real) {
            bail!("--weight {real}={weight}: {real} is none of the real servers");
        }
        if weights.insert(*real, *weight).is_some() {
            bail!("--weight gives {real} two weights");
        }
    }
    let mut destinations: Vec<Destination> = Vec::new();
    for real in &args.reals {
        let weight = weights.get(real).copied().unwrap_or(1);
        let destination = Destination::new(*real).tunnel(tunnel).weight(weight);
        destination.validate()?;
        if destinations.iter().any(|other| other.address == *real) {
            bail!("real server {real} is named twice");
        }
        destinations.push(destination);
    }
    Ok(destinations)
}
