//! `xvsctl detach`: removes what a dead process left.

use std::io;
use std::io::Write;
use std::process::ExitCode;

use serde_json::Value;
use serde_json::json;
use xvs::Instance;
use xvs::PutBack;

use crate::global::Global;

/// Remove what an instance whose process is dead left behind
///
/// Its programs are detached, if they go on forwarding without it; the pins of its
/// maps and the interface for probes go, and the receive offloads that it had turned
/// off are turned on again, in this network namespace. An instance whose process lives
/// is left alone: stop the process.
#[derive(clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    global.check_name()?;
    let detached = Instance::detach(&global.bpffs, &global.instance)
        .map_err(|error| global.with_others(error))?;
    let mut out = io::stdout().lock();
    if args.json {
        let offloads: Vec<Value> = detached
            .offloads
            .iter()
            .map(|put_back| {
                json!({
                    "interface": put_back.interface,
                    "offload": put_back.offload.name(),
                    "on": put_back.on,
                })
            })
            .collect();
        let object = json!({
            "type": "detached",
            "instance": global.instance,
            "pins": detached.pins,
            "offloads": offloads,
            "probe_interface": detached.probe_interface,
            "unread": detached.unread,
        });
        writeln!(out, "{object}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let pins = detached.pins.join(", ");
    writeln!(out, "instance `{}`: removed the pins {pins}", global.instance)?;
    if let Some(interface) = &detached.probe_interface {
        writeln!(out, "interface `{interface}`: removed, with its other end")?;
    }
    if detached.unread {
        writeln!(
            out,
            "it was made by another version: receive offloads that it had turned off stay off; \
             `ethtool -k` tells which are, `ethtool -K` turns them on"
        )?;
    }
    for PutBack { interface, offload, on, .. } in &detached.offloads {
        match on {
            true => writeln!(out, "interface `{interface}`: {offload} is on again")?,
            false => writeln!(
                out,
                "interface `{interface}`: {offload} stays off; where the interface is, \
                 `ethtool -K {interface} {offload} on` turns it on"
            )?,
        }
    }
    Ok(ExitCode::SUCCESS)
}
