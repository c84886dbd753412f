//! `xvsctl explain`: what would happen to a packet, and why.

use std::io;
use std::io::Write;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::bail;
use clap::Args as _;
use clap::ValueEnum;
use clap::error::ErrorKind;
use serde_json::Value;
use serde_json::json;
use xvs::DestinationExtended;
use xvs::Explanation;
use xvs::Flow;
use xvs::Info;
use xvs::Instance;
use xvs::Packet;
use xvs::Protocol;
use xvs::Service;
use xvs::ServiceExtended;
use xvs::ServiceKey;
use xvs::ServiceStatus;
use xvs::Verdict;

use crate::global::Global;
use crate::output;
use crate::output::Links;
use crate::words;

/// Explain what would happen to a packet, step by step
///
/// Nothing is sent and nothing changes.
#[derive(clap::Args)]
#[command(after_help = "IPv6 addresses with a port are written [ADDRESS]:PORT.")]
pub struct Args {
    /// The packet's protocol
    #[arg(value_enum)]
    protocol: ProtocolName,

    /// The client; without a port, the shares of new connections are told
    #[arg(value_name = "SRC[:PORT]")]
    source: Source,

    /// The service
    #[arg(value_name = "VIP:PORT")]
    service: SocketAddr,

    /// It is a SYN, the first packet of a TCP connection
    #[arg(long)]
    syn: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ProtocolName {
    Tcp,
    Udp,
}

/// `SRC[:PORT]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Source {
    address: IpAddr,
    port: Option<u16>,
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return Ok(Self { address: socket.ip(), port: Some(socket.port()) });
        }
        let bare = text.strip_prefix('[').and_then(|s| s.strip_suffix(']')).unwrap_or(text);
        match bare.parse() {
            Ok(address) => Ok(Self { address, port: None }),
            Err(_) => Err("it is no ADDRESS or ADDRESS:PORT".to_owned()),
        }
    }
}

pub fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    if args.syn && args.protocol == ProtocolName::Udp {
        Args::augment_args(clap::Command::new("xvsctl explain"))
            .error(ErrorKind::ArgumentConflict, "--syn is for tcp: UDP has no SYN")
            .exit();
    }
    if args.source.address.is_ipv4() != args.service.is_ipv4() {
        bail!("{} and {} are not of one IP family", args.source.address, args.service.ip());
    }
    let protocol = match args.protocol {
        ProtocolName::Tcp => Protocol::Tcp,
        ProtocolName::Udp => Protocol::Udp,
    };
    let packet = Packet {
        protocol,
        source: args.source.address,
        source_port: args.source.port,
        destination: args.service.ip(),
        destination_port: args.service.port(),
        syn: args.syn,
    };
    let instance = global.open()?;
    let explanation = instance.explain(&packet)?;
    let context = Context::read(&instance)?;
    let steps = context.steps(&packet, &explanation);

    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", object(&explanation, &steps, &context.links))?;
        return Ok(ExitCode::SUCCESS);
    }
    for (number, step) in steps.iter().enumerate() {
        writeln!(out, "{}. {step}", number + 1)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn object(explanation: &Explanation, steps: &[String], links: &Links) -> Value {
    let service = explanation.service.as_ref().map(Service::key);
    let destination = explanation
        .destination
        .as_ref()
        .zip(service)
        .map(|(destination, service)| output::destination(&service, destination, links));
    let shares: Vec<Value> = explanation
        .shares
        .iter()
        .map(|(address, share)| json!({"address": address, "share": share}))
        .collect();
    json!({
        "type": "explanation",
        "verdict": words::verdict(explanation.verdict),
        "reason": explanation.reason,
        "service": service.map(|key| key.to_string()),
        "flow": explanation.flow.as_ref().map(output::flow),
        "destination": destination,
        "table_index": explanation.table_index,
        "previous_table": explanation.is_previous,
        "shares": shares,
        "steps": steps,
    })
}

/// What the sentences need besides the explanation.
struct Context {
    info: Info,
    services: Vec<ServiceExtended>,
    links: Links,
}

impl Context {
    fn read(instance: &Instance) -> anyhow::Result<Self> {
        Ok(Self {
            info: instance.info()?,
            services: instance.services()?,
            links: Links::read(instance)?,
        })
    }

    /// One sentence or two for each step of the packet's way.
    fn steps(&self, packet: &Packet, explanation: &Explanation) -> Vec<String> {
        let mut steps = vec![self.vip_step(packet)];
        if explanation.reason != "not_vip" {
            steps.push(self.service_step(packet, explanation.service.as_ref()));
        }
        if let Some(service) = &explanation.service {
            steps.push(flow_step(packet, explanation.flow.as_ref()));
            steps.extend(self.choice_step(service, explanation));
        }
        if let Some(destination) = &explanation.destination {
            steps.push(self.destination_step(destination));
        }
        steps.push(verdict_step(explanation));
        steps
    }

    fn vip_step(&self, packet: &Packet) -> String {
        let vip = packet.destination;
        let here = self.services.iter().filter(|s| s.service.address == vip).count();
        if here > 0 {
            return format!("{vip} is a virtual address with {}.", words::count(here, "service"));
        }
        let mut vips: Vec<String> =
            self.services.iter().map(|s| s.service.address.to_string()).collect();
        vips.dedup();
        let instance = &self.info.instance;
        match vips.as_slice() {
            [] => format!("{vip} is no virtual address: instance `{instance}` has no services."),
            vips => format!(
                "{vip} is no virtual address of instance `{instance}`; it has {}.",
                vips.join(", ")
            ),
        }
    }

    fn service_step(&self, packet: &Packet, service: Option<&Service>) -> String {
        let key = ServiceKey {
            address: packet.destination,
            port: packet.destination_port,
            protocol: packet.protocol,
        };
        let Some(service) = service else {
            let others: Vec<String> = self
                .services
                .iter()
                .filter(|s| s.service.address == packet.destination)
                .map(|s| s.service.to_string())
                .collect();
            return format!("There is no service {key}; its address has {}.", others.join(", "));
        };
        let sticky = if service.sticky { "sticky " } else { "" };
        let Some(known) = self.services.iter().find(|s| s.service.key() == key) else {
            return format!("{key} is a {sticky}service.");
        };
        let usable = known.usable;
        let all = words::count(known.destinations, "destination");
        let mut sentence = format!("{key} is a {sticky}service; {usable} of {all} usable");
        if known.status != ServiceStatus::Forwarding {
            sentence = format!("{sentence}; it {}", words::service_status(known.status));
        }
        sentence + "."
    }

    fn choice_step(&self, service: &Service, explanation: &Explanation) -> Option<String> {
        if !explanation.shares.is_empty() {
            let shares: Vec<String> = explanation
                .shares
                .iter()
                .map(|(address, share)| format!("{address} {:.1} %", share * 100.0))
                .collect();
            return Some(format!("The client's port decides. Shares: {}.", shares.join(", ")));
        }
        let index = explanation.table_index?;
        let what = if service.sticky {
            "the client's address (sticky)"
        } else {
            "both addresses, both ports and the protocol"
        };
        let size = self.info.table_size;
        let table = if explanation.is_previous {
            "table from before its last change, which connections without a flow go by for now"
        } else {
            "table"
        };
        Some(format!("The hash of {what} gives entry {index} of {size} in the service's {table}."))
    }

    fn destination_step(&self, destination: &DestinationExtended) -> String {
        let disabled = if destination.destination.disabled {
            ", disabled (it keeps its flows and gets no new ones)"
        } else {
            ""
        };
        let mut sentence = format!(
            "The destination is {}, weight {}{disabled}, {}",
            destination.destination.address, destination.destination.weight, destination.status
        );
        if let Some(source) = destination.source {
            let tunnel = destination.destination.tunnel;
            sentence = format!("{sentence}, through a tunnel ({tunnel}) from {source}");
        }
        if let Some(mac) = destination.mac {
            sentence = format!("{sentence}, MAC {mac}");
        }
        if let Some(index) = destination.interface {
            sentence = format!("{sentence}, out of {}", self.links.name(index));
        }
        sentence + "."
    }
}

fn flow_step(packet: &Packet, flow: Option<&Flow>) -> String {
    let Some(flow) = flow else {
        return match packet.source_port {
            Some(port) => {
                let source = SocketAddr::new(packet.source, port);
                format!("No live flow from {source} is known.")
            }
            None => "Without a port of the client no flow is looked up.".to_owned(),
        };
    };
    let state = words::flow_state(flow.state);
    let idle = words::time(flow.idle);
    let whose = match flow.destination {
        Some(address) => format!("of destination {address}"),
        None => "of a destination that is no more".to_owned(),
    };
    format!("A flow from {} is known: {state}, silent for {idle}, {whose}.", flow.source)
}

fn verdict_step(explanation: &Explanation) -> String {
    let verdict = match explanation.verdict {
        Verdict::Pass => "passed",
        Verdict::Drop => "dropped",
        Verdict::Forward => "forwarded",
    };
    let reason = explanation.reason;
    format!("The packet is {verdict} ({reason}): {}.", words::reason(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_have_a_port_or_none() {
        for (text, address, port) in [
            ("10.0.0.1", "10.0.0.1", None),
            ("10.0.0.1:5", "10.0.0.1", Some(5)),
            ("2001:db8::5", "2001:db8::5", None),
            ("[2001:db8::5]", "2001:db8::5", None),
            ("[2001:db8::5]:5", "2001:db8::5", Some(5)),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(text.parse(), Ok(Source { address, port }), "{text}");
        }
        for text in ["", "10.0.0", "10.0.0.1:", "10.0.0.1:65536", "[::1", "host:80"] {
            assert!(text.parse::<Source>().is_err(), "{text}");
        }
    }
}
