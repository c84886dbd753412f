//! `xvsctl events`: what happens to an instance, as it happens.

use std::io;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use serde_json::Value;
use serde_json::json;
use xvs::Event;
use xvs::Since;

use crate::balance::seconds;
use crate::global::Global;
use crate::global::runs;
use crate::output;
use crate::words;

/// Print the events of a running instance as they come
///
/// Any number of these can follow one instance. It ends when the instance does.
#[derive(clap::Args)]
pub struct Args {
    /// Begin with the oldest event that is kept, of 1,024
    #[arg(long)]
    all: bool,

    /// Stop after so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Stop after this time
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    duration: Option<Duration>,

    /// Print JSON, one object per line
    #[arg(long)]
    json: bool,
}

/// How often it is looked whether the instance still runs.
const LOOK: Duration = Duration::from_millis(500);

pub fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let instance = global.open()?;
    let mut reader = instance.events(if args.all { Since::Oldest } else { Since::Now });
    let (start, mut left) = (Instant::now(), args.count.unwrap_or(u64::MAX));
    let mut out = io::stdout().lock();
    loop {
        let time = args.duration.map(|duration| duration.saturating_sub(start.elapsed()));
        // First, so that what it told last is read before this ends.
        let runs = runs(&instance);
        let patience = if runs { LOOK } else { Duration::ZERO };
        for (time, event) in reader.wait(time.map_or(patience, |time| time.min(patience))) {
            match args.json {
                true => writeln!(out, "{}", timed_object(time, &event))?,
                false => writeln!(out, "{} {event}", words::utc(time))?,
            }
            left -= 1;
            if left == 0 {
                return Ok(ExitCode::SUCCESS);
            }
        }
        out.flush()?;
        if !runs {
            global.tell_ended();
            return Ok(ExitCode::SUCCESS);
        }
        if time == Some(Duration::ZERO) {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn timed_object(time: SystemTime, event: &Event) -> Value {
    let mut object = object(event);
    object["time"] = output::time(time);
    object
}

/// An event for programs.
pub fn object(event: &Event) -> Value {
    let mut object = match event {
        Event::GenericMode { interface, reason } => {
            json!({"event": "generic_mode", "interface": interface, "reason": reason})
        }
        Event::OffloadOn { interface, offload } => {
            json!({"event": "offload_on", "interface": interface, "offload": offload.name()})
        }
        Event::Resolved { service, address } => {
            json!({"event": "resolved", "service": service.to_string(), "address": address})
        }
        Event::Unreachable { service, address, status } => json!({
            "event": "unreachable",
            "service": service.to_string(),
            "address": address,
            "status": words::destination_status_name(*status),
        }),
        Event::InterfaceDown { interface } => {
            json!({"event": "interface_down", "interface": interface})
        }
        Event::InterfaceUp { interface } => {
            json!({"event": "interface_up", "interface": interface})
        }
        Event::Attached { interface } => json!({"event": "attached", "interface": interface}),
        Event::Vlan { vlan, prefix, status } => json!({
            "event": "vlan",
            "vlan": vlan,
            "prefix": prefix.to_string(),
            "status": words::vlan_status_name(*status),
        }),
        Event::PathMtu { server, mtu } => {
            json!({"event": "path_mtu", "server": server, "mtu": mtu})
        }
        Event::Dropped(count) => json!({"event": "dropped", "count": count}),
        Event::TakenOver { process } => json!({"event": "taken_over", "process": process}),
        Event::EventsLost => json!({"event": "events_lost"}),
        Event::Failed(_) => json!({"event": "failed"}),
        Event::TableRebuilt { service, destinations } => json!({
            "event": "table_rebuilt",
            "service": service.to_string(),
            "destinations": destinations,
        }),
        Event::FloodBegan { service } => {
            json!({"event": "flood_began", "service": service.to_string()})
        }
        Event::FloodEnded { service, packets } => json!({
            "event": "flood_ended",
            "service": service.to_string(),
            "packets": packets,
        }),
        Event::Drained { service, address, moved } => json!({
            "event": "drained",
            "service": service.to_string(),
            "address": address,
            "moved": moved,
        }),
        _ => json!({"event": "other"}),
    };
    object["message"] = event.to_string().into();
    object
}
