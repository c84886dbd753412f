//! The data plane as the control plane sees it: the only tree with unsafe
//! code, and the only one that knows libbpf.

mod array;
mod attach;
mod capture;
mod decap;
mod flow_write;
mod flows;
mod hash;
mod kernel;
mod load;
mod lock;
mod maps;
mod pin;
mod ports;
mod probe;
mod ring;
mod tables;
mod types;

pub(crate) use array::Array;
pub(crate) use attach::Attachment;
pub(crate) use attach::LinkInfo;
pub(crate) use attach::program_name;
pub(crate) use capture::CAPTURE_MOST;
pub(crate) use capture::CaptureBuffers;
pub(crate) use capture::CapturedFrame;
pub(crate) use capture::Wanted;
pub(crate) use decap::DecapProgram;
pub(crate) use decap::ReasonCode as DecapReasonCode;
pub(crate) use decap::RoleCode as DecapRoleCode;
pub(crate) use flow_write::FlowWriter;
pub(crate) use flow_write::Outcome;
pub(crate) use flows::At;
pub(crate) use flows::FlowKey;
pub(crate) use flows::StoredFlow;
pub(crate) use hash::Hash;
pub(crate) use kernel::has_frags;
pub(crate) use load::Dataplane;
pub(crate) use load::Sizes;
pub(crate) use maps::Maps;
pub(crate) use pin::Directory;
pub(crate) use ports::Ports;
pub(crate) use probe::ProbePrograms;
pub(crate) use ring::NewsRing;
pub(crate) use tables::CHUNK;
pub(crate) use tables::TableMemory;
pub(crate) use tables::table_number;
pub(crate) use types::*;

/// What went wrong with a map.
fn map_fault(map: &'static str, operation: &'static str, error: &libbpf_rs::Error) -> crate::Error {
    let source = std::io::Error::other(error.to_string());
    crate::Error::Map { map, operation, source }
}

/// The skeleton that libbpf-cargo makes of `bpf/xvs.bpf.c`.
#[allow(unsafe_code, unused_imports, rust_2018_idioms, missing_docs, clippy::all)]
#[allow(clippy::undocumented_unsafe_blocks, clippy::semicolon_if_nothing_returned)]
mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/xvs.skel.rs"));
}
