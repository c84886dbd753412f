//! System calls fail, each in turn: what was asked for is done whole, or not at all.

mod common;
#[path = "common/faults.rs"]
mod injection;

#[path = "faults/calls.rs"]
mod calls;
#[path = "faults/host.rs"]
mod host;
#[path = "faults/limits.rs"]
mod limits;
#[path = "faults/operation.rs"]
mod operation;
#[path = "faults/start.rs"]
mod start;
#[path = "faults/state.rs"]
mod state;
