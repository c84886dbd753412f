//! What subcommands share to print: tables for people, objects for programs.

use std::io;
use std::io::Write;
use std::time::SystemTime;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;
use xvs::DestinationExtended;
use xvs::Drain;
use xvs::Flow;
use xvs::Instance;
use xvs::Interface;
use xvs::Offload;
use xvs::Reasons;
use xvs::ServiceKey;
use xvs::Stats;
use xvs::host;
use xvs::host::HostLink;

use crate::words;

/// A table without lines, with these headings.
pub fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    table.set_header(headings);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

pub fn print_table(out: &mut impl Write, table: &Table) -> io::Result<()> {
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// A value, or that there is none.
pub fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A moment in JSON: seconds since 1970.
pub fn time(time: SystemTime) -> Value {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64().into()
}

/// How wide columns are that have these headings and rows, by octets.
pub fn widths<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> [usize; N] {
    let mut widths = headings.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    widths
}

/// What interfaces are called: as the instance knows its own, and as this
/// network namespace has them.
pub struct Links {
    attached: Vec<Interface>,
    host: Vec<HostLink>,
}

impl Links {
    /// Where the host's interfaces cannot be read, the instance's will do.
    pub fn read(instance: &Instance) -> xvs::Result<Self> {
        let host = host::links().unwrap_or_default();
        Ok(Self { attached: instance.info()?.interfaces, host })
    }

    /// The host's view of an interface of the instance; none when that is in
    /// another network namespace.
    pub fn find(&self, interface: &Interface) -> Option<&HostLink> {
        self.host.iter().find(|l| l.index == interface.index && l.name == interface.name)
    }

    /// The name, or the index where there is no name.
    pub fn name(&self, index: u32) -> String {
        let attached = self.attached.iter().map(|interface| (interface.index, &interface.name));
        let host = self.host.iter().map(|link| (link.index, &link.name));
        let found = attached.chain(host).find(|(i, _)| *i == index);
        found.map_or_else(|| format!("#{index}"), |(_, name)| name.clone())
    }
}

pub fn stats(stats: &Stats) -> Value {
    json!({
        "packets": stats.packets,
        "octets": stats.octets,
        "flows": stats.flows,
        "syn": stats.syn,
        "fin": stats.fin,
        "rst": stats.rst,
        "active": stats.active,
        "recent": stats.recent,
        "limited": stats.limited,
        "live": stats.live,
        "reasons": reasons(&stats.reasons),
    })
}

fn reasons(reasons: &Reasons) -> Value {
    let all: Map<String, Value> =
        reasons.iter().map(|(name, count)| (name.to_owned(), count.into())).collect();
    all.into()
}

pub fn destination(of: &ServiceKey, destination: &DestinationExtended, links: &Links) -> Value {
    json!({
        "type": "destination",
        "service": of.to_string(),
        "address": destination.destination.address,
        "tunnel": destination.destination.tunnel.to_string(),
        "weight": destination.destination.weight,
        "disabled": destination.destination.disabled,
        "status": words::destination_status_name(destination.status),
        "reason": destination.status.to_string(),
        "mac": destination.mac.map(|mac| mac.to_string()),
        "interface": destination.interface.map(|index| links.name(index)),
        "interface_index": destination.interface,
        "source": destination.source,
        "mtu": destination.mtu,
        "stats": stats(&destination.stats),
        "drain": destination.drain.as_ref().map(drain),
    })
}

fn drain(drain: &Drain) -> Value {
    json!({
        "done": drain.done,
        "flows": drain.flows,
        "packets_per_second": drain.packets_per_second,
        "newest_seconds": drain.newest.map(|time| time.as_secs_f64()),
        "since_seconds": drain.since.as_secs_f64(),
        "left_seconds": drain.left.map(|time| time.as_secs_f64()),
    })
}

/// Their names, as `ethtool -K` takes them.
pub fn offloads(offloads: &[Offload]) -> Value {
    offloads.iter().map(|offload| offload.name()).collect()
}

pub fn flow(flow: &Flow) -> Value {
    json!({
        "type": "flow",
        "source": flow.source.ip(),
        "source_port": flow.source.port(),
        "service": flow.service.to_string(),
        "destination": flow.destination,
        "state": words::flow_state(flow.state),
        "idle_seconds": flow.idle.as_secs_f64(),
        "age": words::flow_age_name(flow.age),
    })
}
