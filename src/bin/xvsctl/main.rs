//! `xvsctl` runs a load balancer from the command line and tells what any
//! running one does.

mod balance;
mod capture;
mod check;
mod completions;
mod decap;
mod detach;
mod events;
mod explain;
mod flows;
mod global;
mod output;
mod probe;
mod show;
mod top;
mod words;

use std::io;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clap::Subcommand;

use global::Global;

/// Runs and inspects xvs load balancers.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage.
#[derive(Parser)]
#[command(name = "xvsctl", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Balance(Box<balance::Args>),
    Show(show::Args),
    Explain(explain::Args),
    Probe(probe::Args),
    Check(check::Args),
    Decap(decap::Args),
    Detach(detach::Args),
    Completions(completions::Args),
    Capture(capture::Args),
    Events(events::Args),
    Flows(flows::Args),
    Top(top::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Balance(args) => balance::run(args, &cli.global),
        Command::Show(args) => show::run(args, &cli.global),
        Command::Explain(args) => explain::run(args, &cli.global),
        Command::Probe(args) => probe::run(args, &cli.global),
        Command::Check(args) => check::run(args, &cli.global),
        Command::Decap(args) => decap::run(args),
        Command::Detach(args) => detach::run(args, &cli.global),
        Command::Completions(args) => completions::run(args),
        Command::Capture(args) => capture::run(args, &cli.global),
        Command::Events(args) => events::run(args, &cli.global),
        Command::Flows(args) => flows::run(args, &cli.global),
        Command::Top(args) => top::run(args, &cli.global),
    };
    match result {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Not eprintln!, which panics when nobody reads stderr.
            let _ = writeln!(io::stderr(), "xvsctl: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// Whether the reader of our output has gone, as `head` does.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// The error and its causes in one line. A cause that the text before it
/// tells already is not repeated.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let text: Vec<&str> = text.lines().map(str::trim).filter(|s| !s.is_empty()).collect();
        let text = text.join("; ");
        if line.contains(&text) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&text);
    }
    line
}

#[cfg(test)]
mod tests {
    use anyhow::Context;
    use anyhow::anyhow;
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_error_is_one_line_without_repetition() {
        let inner = anyhow!("permission denied\n  by the verifier\n");
        assert_eq!(one_line(&inner), "permission denied; by the verifier");
        let outer = Err::<(), _>(inner).context("cannot load").unwrap_err();
        assert_eq!(one_line(&outer), "cannot load: permission denied; by the verifier");
        let told = Err::<(), _>(anyhow!("no such device")).context("eth0: no such device");
        assert_eq!(one_line(&told.unwrap_err()), "eth0: no such device");
    }

    #[test]
    fn only_a_closed_pipe_is_no_failure() {
        assert!(is_closed_pipe(&io::Error::from(io::ErrorKind::BrokenPipe).into()));
        assert!(!is_closed_pipe(&io::Error::from(io::ErrorKind::NotFound).into()));
    }
}
