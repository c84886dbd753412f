//! `xvsctl flows`: the flows that an instance remembers, filtered or counted.

use std::io;
use std::io::BufWriter;
use std::io::Write;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::bail;
use clap::ValueEnum;
use serde_json::json;
use xvs::Flow;
use xvs::FlowFilter;
use xvs::FlowState;
use xvs::Instance;
use xvs::Prefix;
use xvs::Protocol;
use xvs::Service;
use xvs::ServiceKey;

use crate::global::Global;
use crate::output;
use crate::output::or_dash;
use crate::words;

/// List or count the flows that are remembered
///
/// AGE tells in how many ticks of 1.07 s packets of a flow came: once, twice, thrice,
/// or often, which is four or more.
#[derive(clap::Args)]
pub struct Args {
    /// Those to a service, such as 192.168.100.1:80 or 192.168.100.1:53/udp
    #[arg(long, value_name = "VIP:PORT[/PROTOCOL]", value_parser = service)]
    service: Option<ServiceKey>,

    /// Those to a real server
    #[arg(long, value_name = "IP")]
    server: Option<IpAddr>,

    /// Those from a client, or from all in a prefix
    #[arg(long, value_name = "IP|PREFIX", value_parser = clients)]
    client: Option<Prefix>,

    /// Those that are open, or whose client sent FIN or RST
    #[arg(long, value_enum)]
    state: Option<StateName>,

    /// Tell how many there are, by service and real server
    #[arg(long)]
    count: bool,

    /// Stop after so many flows, whichever are found first
    #[arg(long, value_name = "N", conflicts_with = "count")]
    limit: Option<usize>,

    /// Print JSON, one object per line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum StateName {
    Open,
    Closing,
}

impl From<StateName> for FlowState {
    fn from(name: StateName) -> Self {
        match name {
            StateName::Open => Self::Open,
            StateName::Closing => Self::Closing,
        }
    }
}

/// `VIP:PORT[/PROTOCOL]`.
fn service(text: &str) -> Result<ServiceKey, String> {
    let (address, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let address: SocketAddr =
        address.parse().map_err(|_| format!("`{address}` is no VIP with a port"))?;
    let protocol: Protocol = protocol.parse().map_err(|error: xvs::Error| error.to_string())?;
    Ok(ServiceKey { address: address.ip(), port: address.port(), protocol })
}

/// `IP` or `PREFIX`.
fn clients(text: &str) -> Result<Prefix, String> {
    if text.contains('/') {
        return text.parse().map_err(|error: xvs::Error| error.to_string());
    }
    let address: IpAddr =
        text.parse().map_err(|_| "it is neither an IP address nor a prefix".to_owned())?;
    let length = if address.is_ipv4() { 32 } else { 128 };
    // SANITY: these are the lengths of whole addresses.
    Ok(Prefix::containing(address, length).expect("an address is a prefix"))
}

pub fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let instance = global.open()?;
    check(args, &instance)?;
    let filter = &filter(args);
    let mut out = BufWriter::new(io::stdout().lock());
    match (args.count, args.json) {
        (true, json) => print_counts(&instance, filter, json, &mut out)?,
        (false, true) => {
            for flow in sorted(&instance, filter, args.limit.unwrap_or(usize::MAX))? {
                writeln!(out, "{}", output::flow(&flow))?;
            }
        }
        (false, false) => {
            print_table(&sorted(&instance, filter, args.limit.unwrap_or(usize::MAX))?, &mut out)?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn filter(args: &Args) -> FlowFilter {
    let mut filter = FlowFilter::new();
    filter.service = args.service;
    filter.destination = args.server;
    filter.client = args.client;
    filter.state = args.state.map(FlowState::from);
    filter
}

/// Refuses a service or server that is not there: it would look as if it had no flows.
fn check(args: &Args, instance: &Instance) -> anyhow::Result<()> {
    if let Some(ServiceKey { address, port, protocol }) = args.service {
        instance.service(&Service::new(address, port, protocol))?;
    }
    let Some(server) = args.server else {
        return Ok(());
    };
    let mut services = instance.all()?;
    services.retain(|(service, _)| args.service.is_none_or(|key| key == service.service.key()));
    if !services.iter().any(|(_, all)| all.iter().any(|d| d.destination.address == server)) {
        let whose =
            args.service.map_or_else(|| "no service".to_owned(), |key| format!("not {key}"));
        bail!(
            "--server {server}: {whose} has this real server; `xvsctl show destinations` lists all"
        );
    }
    Ok(())
}

/// The flows that match, in order.
pub fn sorted(instance: &Instance, filter: &FlowFilter, limit: usize) -> xvs::Result<Vec<Flow>> {
    let mut flows = instance.flows_matching(filter, limit)?;
    flows.sort_unstable_by_key(|flow| (flow.service, flow.source));
    Ok(flows)
}

/// A million rows would make a table library slow: columns by hand.
pub fn print_table(flows: &[Flow], out: &mut impl Write) -> io::Result<()> {
    let rows: Vec<[String; 6]> = flows
        .iter()
        .map(|flow| {
            [
                flow.source.to_string(),
                flow.service.to_string(),
                or_dash(flow.destination),
                words::flow_state(flow.state).to_owned(),
                words::flow_age_name(flow.age).to_owned(),
                words::time(flow.idle),
            ]
        })
        .collect();
    let headings = ["SOURCE", "SERVICE", "DESTINATION", "STATE", "AGE", "IDLE"];
    let [a, b, c, d, e, _] = output::widths(headings, &rows);
    let mut line = |[source, service, destination, state, age, idle]: [&str; 6]| {
        writeln!(out, "{source:a$}  {service:b$}  {destination:c$}  {state:d$}  {age:e$}  {idle}")
    };
    line(headings)?;
    rows.iter().try_for_each(|row| line(row.each_ref().map(String::as_str)))
}

fn print_counts(
    instance: &Instance,
    filter: &FlowFilter,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let counts = instance.count_flows(filter)?;
    if json {
        for ((service, destination), flows) in counts {
            let object = json!({
                "type": "flow_count",
                "service": service.to_string(),
                "destination": destination,
                "flows": flows,
            });
            writeln!(out, "{object}")?;
        }
        return Ok(());
    }
    let mut table = output::table(&["SERVICE", "DESTINATION", "FLOWS"]);
    let sum: u64 = counts.values().sum();
    for ((service, destination), flows) in counts {
        table.add_row([service.to_string(), or_dash(destination), flows.to_string()]);
    }
    table.add_row(["all".to_owned(), String::new(), sum.to_string()]);
    output::print_table(out, &table)?;
    Ok(())
}
