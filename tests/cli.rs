//! The `xvsctl` command as its users meet it: arguments, errors, output.

#![cfg(feature = "cli")]

#[path = "cli/capture.rs"]
mod capture;
#[path = "cli/decap.rs"]
mod decap;
#[path = "cli/drain.rs"]
mod drain;
#[path = "cli/events.rs"]
mod events;
#[path = "cli/flows.rs"]
mod flows;
#[path = "cli/lab.rs"]
mod lab;
#[path = "common/netns.rs"]
mod netns;
#[path = "cli/running.rs"]
mod running;
#[path = "cli/top.rs"]
mod top;
#[path = "cli/usage.rs"]
mod usage;

use std::process::Command;
use std::process::Output;
use std::process::Stdio;

fn xvsctl(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xvsctl"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs to the end; whatever happens, there must be no panic.
fn run(arguments: &[&str]) -> (i32, String, String) {
    finished(arguments, xvsctl(arguments).output().expect("xvsctl runs"))
}

fn finished(arguments: &[&str], output: Output) -> (i32, String, String) {
    let stdout = String::from_utf8(output.stdout).expect("output is UTF-8");
    let stderr = String::from_utf8(output.stderr).expect("errors are UTF-8");
    assert!(!stderr.contains("panicked"), "{arguments:?}: {stderr}");
    (output.status.code().expect("no signal ends it"), stdout, stderr)
}

/// Asserts exit code 1 and one line on standard error that has every part.
fn assert_fails(arguments: &[&str], (code, stdout, stderr): (i32, String, String), parts: &[&str]) {
    assert_eq!(code, 1, "{arguments:?}: {stdout}{stderr}");
    assert!(stderr.starts_with("xvsctl: "), "{arguments:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{arguments:?}: {stderr} lacks {part}");
    }
}
