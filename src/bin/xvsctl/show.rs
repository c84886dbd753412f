//! `xvsctl show`: the state of an instance, whichever process runs it.

use std::io;
use std::io::BufWriter;
use std::io::Write;
use std::process::ExitCode;

use clap::ValueEnum;
use serde_json::Value;
use serde_json::json;
use xvs::Accepted;
use xvs::FlowFilter;
use xvs::Info;
use xvs::Instance;
use xvs::Interface;
use xvs::OnExit;
use xvs::ServiceExtended;
use xvs::ServiceStatus;
use xvs::Sharing;
use xvs::Vip;

use crate::flows;
use crate::global::Global;
use crate::global::is_alive;
use crate::output;
use crate::output::Links;
use crate::output::or_dash;
use crate::words;
use crate::words::Outcome;

/// Show the state of a running instance
///
/// Without a subject: info and services.
#[derive(clap::Args)]
pub struct Args {
    /// What to show
    subject: Option<Subject>,

    /// Print JSON, one object per line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Subject {
    /// Interfaces, limits, latency, and what became of all packets
    Info,
    /// Services, with the reason why one forwards nothing
    Services,
    /// The real servers of each service
    Destinations,
    /// The flows that are remembered
    Flows,
    /// The prefixes of each VLAN, its interface, and why one is unusable
    Vlans,
    /// The neighbour entries of the VLANs
    Neighbours,
    /// The NAT address of each destination of each service, for health checks
    Nat,
}

pub fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let instance = global.open()?;
    let subjects = match args.subject {
        Some(subject) => vec![subject],
        None => vec![Subject::Info, Subject::Services],
    };
    let mut out = BufWriter::new(io::stdout().lock());
    for (index, subject) in subjects.into_iter().enumerate() {
        if args.json {
            objects(subject, &instance, &mut out)?;
            continue;
        }
        if index > 0 {
            writeln!(out)?;
        }
        tables(subject, &instance, &mut out)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// For programs: one object per line.
fn objects(subject: Subject, instance: &Instance, out: &mut impl Write) -> anyhow::Result<()> {
    let links = Links::read(instance)?;
    match subject {
        Subject::Info => {
            let object = info_object(&instance.info()?, &instance.vips()?, &links);
            writeln!(out, "{object}")?;
        }
        Subject::Services => {
            for service in instance.services()? {
                writeln!(out, "{}", service_object(&service))?;
            }
        }
        Subject::Destinations => {
            for (service, destinations) in instance.all()? {
                let key = service.service.key();
                for destination in destinations {
                    writeln!(out, "{}", output::destination(&key, &destination, &links))?;
                }
            }
        }
        Subject::Flows => {
            for flow in flows::sorted(instance, &FlowFilter::new(), usize::MAX)? {
                writeln!(out, "{}", output::flow(&flow))?;
            }
        }
        Subject::Vlans => {
            for vlan in instance.vlans()? {
                let object = json!({
                    "type": "vlan",
                    "vlan": vlan.id,
                    "prefix": vlan.prefix.to_string(),
                    "status": words::vlan_status_name(vlan.status),
                    "reason": vlan.status.to_string(),
                    "interface": vlan.interface.map(|index| links.name(index)),
                    "interface_index": vlan.interface,
                    "tag": vlan.tag,
                    "address": vlan.address,
                    "gateway": vlan.gateway,
                    "mtu": vlan.mtu,
                });
                writeln!(out, "{object}")?;
            }
        }
        Subject::Neighbours => {
            for neighbour in instance.neighbours()? {
                let object = json!({
                    "type": "neighbour",
                    "address": neighbour.address,
                    "interface": links.name(neighbour.interface),
                    "interface_index": neighbour.interface,
                    "mac": neighbour.mac.map(|mac| mac.to_string()),
                    "state": neighbour.state,
                    "managed": neighbour.managed,
                });
                writeln!(out, "{object}")?;
            }
        }
        Subject::Nat => {
            for nat in instance.nats()? {
                let object = json!({
                    "type": "nat",
                    "nat": nat.address,
                    "service": nat.service.to_string(),
                    "destination": nat.destination,
                    "tunnel": nat.tunnel.to_string(),
                    "source": nat.source,
                    "mtu": nat.mtu,
                    "status": words::destination_status_name(nat.status),
                    "reason": nat.status.to_string(),
                });
                writeln!(out, "{object}")?;
            }
        }
    }
    Ok(())
}

fn info_object(info: &Info, vips: &[Vip], links: &Links) -> Value {
    let interfaces: Vec<Value> = info
        .interfaces
        .iter()
        .map(|interface| {
            let link = links.find(interface);
            json!({
                "name": interface.name,
                "index": interface.index,
                "mode": words::mode(interface.mode),
                "offloads_off": output::offloads(&interface.offloads_off),
                "offloads_on": output::offloads(&interface.offloads_on),
                "attached": link.map(|link| link.xdp.is_some()),
                "up": link.map(|link| link.up),
                "mtu": link.map(|link| link.mtu),
                "driver": link.and_then(|link| link.driver.as_deref()),
                "rx_queues": link.map(|link| link.rx_queues),
                "tx_queues": link.map(|link| link.tx_queues),
            })
        })
        .collect();
    let vips: Vec<Value> = vips
        .iter()
        .map(|vip| {
            json!({
                "address": vip.address,
                "services": vip.services,
                "stats": output::stats(&vip.stats),
            })
        })
        .collect();
    json!({
        "type": "info",
        "instance": info.instance,
        "process": info.process,
        "alive": is_alive(info.process),
        "uptime_seconds": info.uptime.as_secs_f64(),
        "interfaces": interfaces,
        "services": info.services,
        "services_limit": info.services_limit,
        "destinations": info.destinations,
        "destinations_limit": info.destinations_limit,
        "flows": info.flows,
        "flows_limit": info.flows_limit,
        "flows_replaced": info.flows_replaced,
        "table_size": info.table_size,
        "persist_seconds": persist_seconds(info.persist),
        "latency_ns": info.latency,
        "sharing": sharing_object(&info.sharing),
        "stats": output::stats(&info.stats),
        "vips": vips,
    })
}

/// How long the data plane goes on without a process: 0 for not at all, null for no end.
fn persist_seconds(persist: OnExit) -> Value {
    match persist {
        OnExit::Detach => json!(0.0),
        OnExit::Keep => Value::Null,
        OnExit::KeepFor(time) => json!(time.as_secs_f64()),
    }
}

fn sharing_object(sharing: &Sharing) -> Value {
    let accepted = sharing.accepted.iter().map(|(name, count)| (name.to_owned(), json!(count)));
    json!({
        "enabled": sharing.enabled,
        "lost": sharing.lost,
        "accepted": Value::Object(accepted.collect()),
    })
}

fn service_object(service: &ServiceExtended) -> Value {
    let unreachable = match service.status {
        ServiceStatus::Unreachable(address, status) => json!({
            "address": address,
            "status": words::destination_status_name(status),
        }),
        _ => Value::Null,
    };
    json!({
        "type": "service",
        "service": service.service.to_string(),
        "address": service.service.address,
        "port": service.service.port,
        "protocol": service.service.protocol.to_string(),
        "sticky": service.service.sticky,
        "idle_seconds": service.service.idle.as_secs_f64(),
        "closing_seconds": service.service.closing.as_secs_f64(),
        "new_flows": service.service.new_flows,
        "transition_seconds": service.service.transition.as_secs_f64(),
        "status": words::service_status_name(service.status),
        "reason": words::service_status(service.status),
        "unreachable": unreachable,
        "destinations": service.destinations,
        "usable": service.usable,
        "stats": output::stats(&service.stats),
    })
}

/// For people.
fn tables(subject: Subject, instance: &Instance, out: &mut impl Write) -> anyhow::Result<()> {
    let links = Links::read(instance)?;
    match subject {
        Subject::Info => info_table(&instance.info()?, &instance.vips()?, &links, out)?,
        Subject::Services => services_table(&instance.services()?, out)?,
        Subject::Destinations => destinations_table(instance, &links, out)?,
        Subject::Flows => {
            flows::print_table(&flows::sorted(instance, &FlowFilter::new(), usize::MAX)?, out)?;
        }
        Subject::Vlans => {
            let headings =
                ["VLAN", "PREFIX", "INTERFACE", "TAG", "ADDRESS", "GATEWAY", "MTU", "STATUS"];
            let mut table = output::table(&headings);
            for vlan in instance.vlans()? {
                table.add_row([
                    vlan.id.to_string(),
                    vlan.prefix.to_string(),
                    or_dash(vlan.interface.map(|index| links.name(index))),
                    or_dash(vlan.tag),
                    or_dash(vlan.address),
                    or_dash(vlan.gateway),
                    or_dash(vlan.mtu),
                    vlan.status.to_string(),
                ]);
            }
            output::print_table(out, &table)?;
        }
        Subject::Neighbours => {
            let mut table = output::table(&["ADDRESS", "MAC", "INTERFACE", "STATE", "MANAGED"]);
            for neighbour in instance.neighbours()? {
                table.add_row([
                    neighbour.address.to_string(),
                    or_dash(neighbour.mac),
                    links.name(neighbour.interface),
                    neighbour.state,
                    if neighbour.managed { "yes" } else { "no" }.to_owned(),
                ]);
            }
            output::print_table(out, &table)?;
        }
        Subject::Nat => {
            let headings = ["NAT", "SERVICE", "DESTINATION", "TUNNEL", "SOURCE", "MTU", "STATUS"];
            let mut table = output::table(&headings);
            for nat in instance.nats()? {
                table.add_row([
                    nat.address.to_string(),
                    nat.service.to_string(),
                    nat.destination.to_string(),
                    nat.tunnel.to_string(),
                    or_dash(nat.source),
                    or_dash(nat.mtu),
                    nat.status.to_string(),
                ]);
            }
            output::print_table(out, &table)?;
        }
    }
    Ok(())
}

fn info_table(info: &Info, vips: &[Vip], links: &Links, out: &mut impl Write) -> io::Result<()> {
    let uptime = words::time(info.uptime);
    let gone = if is_alive(info.process) { "" } else { " (GONE)" };
    let stats = &info.stats;
    let mut rows = vec![(
        "instance".to_owned(),
        format!("{}, process {}{gone}, up {uptime}", info.instance, info.process),
    )];
    let without = match info.persist {
        OnExit::Detach => "detached".to_owned(),
        OnExit::Keep => "goes on forwarding".to_owned(),
        OnExit::KeepFor(time) => format!("goes on forwarding for {}", words::time(time)),
    };
    rows.push(("without it".to_owned(), without));
    for interface in &info.interfaces {
        rows.push(("interface".to_owned(), interface_line(interface, links)));
    }
    rows.push(("services".to_owned(), format!("{} of {}", info.services, info.services_limit)));
    rows.push((
        "destinations".to_owned(),
        format!("{} of {}", info.destinations, info.destinations_limit),
    ));
    rows.push((
        "flows".to_owned(),
        format!("{} remembered, room for {} of each IP family", info.flows, info.flows_limit),
    ));
    for (label, count, meaning) in [
        ("limited", stats.limited, "packets stored no flow, for their service had enough new ones"),
        ("replaced", info.flows_replaced, "live flows lost their place to others"),
    ] {
        if count > 0 {
            rows.push((label.to_owned(), format!("{count} {meaning}")));
        }
    }
    let latency = match info.latency {
        Some(nanoseconds) => format!("{nanoseconds} ns per packet"),
        None => "not sampled yet".to_owned(),
    };
    rows.push(("latency".to_owned(), latency));
    rows.extend(sharing_line(&info.sharing).map(|line| ("sharing".to_owned(), line)));
    rows.push((
        "forwarded".to_owned(),
        format!(
            "{} packets, {} octets; {} active, {} recent",
            stats.packets, stats.octets, stats.active, stats.recent
        ),
    ));
    for vip in vips {
        rows.push(("vip".to_owned(), vip_line(vip)));
    }
    for (name, count) in stats.reasons.iter().filter(|(_, count)| *count > 0) {
        let outcome = words::outcome(name);
        let meaning = words::reason(name);
        rows.push((name.to_owned(), format!("{count} {outcome}: {meaning}")));
    }
    let width = rows.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    for (label, text) in rows {
        writeln!(out, "{label:width$}  {text}")?;
    }
    Ok(())
}

/// Flows shared with other balancers, if any are.
fn sharing_line(sharing: &Sharing) -> Option<String> {
    let accepted = &sharing.accepted;
    let counts = accepted.iter().filter(|(_, count)| *count > 0);
    let mut parts: Vec<String> =
        counts.map(|(name, count)| format!("{count} {}", name.replace('_', " "))).collect();
    if parts.is_empty() {
        parts.push("none came".to_owned());
    }
    let told = if sharing.enabled { "told" } else { "not told" };
    (sharing.enabled || accepted != &Accepted::default())
        .then(|| format!("{told}, {} lost; of others: {}", sharing.lost, parts.join(", ")))
}

fn interface_line(interface: &Interface, links: &Links) -> String {
    let mode = words::mode(interface.mode);
    let offloads = words::offloads(&interface.offloads_off, &interface.offloads_on);
    let Some(link) = links.find(interface) else {
        return format!("{}: {mode}, not in this network namespace{offloads}", interface.name);
    };
    let down = if link.up { "" } else { ", DOWN" };
    let detached = if link.xdp.is_some() { "" } else { ", NOT ATTACHED" };
    format!(
        "{}: {mode}{down}{detached}, driver {}, {} rx and {} tx queues, MTU {}{offloads}",
        interface.name,
        link.driver.as_deref().unwrap_or("unknown"),
        link.rx_queues,
        link.tx_queues,
        link.mtu
    )
}

fn vip_line(vip: &Vip) -> String {
    let mut line = format!("{}: {}", vip.address, words::count(vip.services, "service"));
    let counted = words::counted(&vip.stats.reasons, |outcome| outcome != Outcome::Forwarded);
    if !counted.is_empty() {
        line = format!("{line}; not forwarded: {counted}");
    }
    line
}

fn services_table(services: &[ServiceExtended], out: &mut impl Write) -> io::Result<()> {
    let mut table = output::table(&[
        "SERVICE",
        "USABLE",
        "PACKETS",
        "OCTETS",
        "ACTIVE",
        "RECENT",
        "STATUS",
        "NOT FORWARDED",
    ]);
    for service in services {
        let stats = &service.stats;
        table.add_row([
            service.service.to_string(),
            format!("{} of {}", service.usable, service.destinations),
            stats.packets.to_string(),
            stats.octets.to_string(),
            stats.active.to_string(),
            stats.recent.to_string(),
            words::service_status(service.status),
            words::counted(&stats.reasons, |outcome| outcome != Outcome::Forwarded),
        ]);
    }
    output::print_table(out, &table)
}

fn destinations_table(
    instance: &Instance,
    links: &Links,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let mut table = output::table(&[
        "SERVICE",
        "DESTINATION",
        "WEIGHT",
        "TUNNEL",
        "MAC",
        "INTERFACE",
        "PACKETS",
        "OCTETS",
        "ACTIVE",
        "RECENT",
        "STATUS",
    ]);
    for (service, destinations) in instance.all()? {
        for destination in destinations {
            let stats = &destination.stats;
            let status = destination.status;
            let disabled = destination.drain.as_ref().map(words::drain);
            let disabled = disabled.map_or_else(String::new, |text| format!("{text}; "));
            table.add_row([
                service.service.to_string(),
                destination.destination.address.to_string(),
                destination.destination.weight.to_string(),
                destination.destination.tunnel.to_string(),
                or_dash(destination.mac),
                or_dash(destination.interface.map(|index| links.name(index))),
                stats.packets.to_string(),
                stats.octets.to_string(),
                stats.active.to_string(),
                stats.recent.to_string(),
                format!("{disabled}{status}"),
            ]);
        }
    }
    output::print_table(out, &table)?;
    Ok(())
}
