//! `xvsctl detach`: removes what a dead process left.

use std::io;
use std::io::Write;
use std::process::ExitCode;

use serde_json::json;
use xvs::Instance;

use crate::global::Global;

/// Remove what an instance whose process is dead left behind
///
/// Its program was detached when the process died; the pins of its maps go
/// now. An instance whose process lives is left alone: stop the process.
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
        let object = json!({
            "type": "detached",
            "instance": global.instance,
            "pins": detached.pins,
        });
        writeln!(out, "{object}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let pins = detached.pins.join(", ");
    writeln!(out, "instance `{}`: removed the pins {pins}", global.instance)?;
    Ok(ExitCode::SUCCESS)
}
