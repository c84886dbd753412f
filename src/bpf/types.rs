//! The structs of `include/xvs.h`, and what makes them octets and back.
#![allow(unsafe_code, reason = "records cross the border to the kernel as octets")]

use std::mem::size_of;
use std::net::IpAddr;
use std::net::Ipv6Addr;

pub(crate) use super::skeleton::types::xvs_card as CardRecord;
pub(crate) use super::skeleton::types::xvs_cards as CardsRecord;
pub(crate) use super::skeleton::types::xvs_cpu as Cpu;
pub(crate) use super::skeleton::types::xvs_destination as DestinationRecord;
pub(crate) use super::skeleton::types::xvs_destination_info as DestinationInfo;
pub(crate) use super::skeleton::types::xvs_event as EventRecord;
pub(crate) use super::skeleton::types::xvs_event_kind as EventKind;
pub(crate) use super::skeleton::types::xvs_flow_meta as FlowMeta;
pub(crate) use super::skeleton::types::xvs_flow_owner as FlowOwner;
pub(crate) use super::skeleton::types::xvs_flow_tag as FlowTag;
pub(crate) use super::skeleton::types::xvs_flows4 as FlowGroup4;
pub(crate) use super::skeleton::types::xvs_flows6 as FlowGroup6;
pub(crate) use super::skeleton::types::xvs_gate as Gate;
pub(crate) use super::skeleton::types::xvs_gauge as Gauge;
pub(crate) use super::skeleton::types::xvs_inflow as Inflow;
pub(crate) use super::skeleton::types::xvs_instance as InstanceRecord;
pub(crate) use super::skeleton::types::xvs_interface as InterfaceRecord;
pub(crate) use super::skeleton::types::xvs_interfaces as InterfacesRecord;
pub(crate) use super::skeleton::types::xvs_layout as Layout;
pub(crate) use super::skeleton::types::xvs_nat as NatRecord;
pub(crate) use super::skeleton::types::xvs_offload as OffloadCode;
pub(crate) use super::skeleton::types::xvs_prefix as PrefixRecord;
pub(crate) use super::skeleton::types::xvs_probe_link as ProbeLinkRecord;
pub(crate) use super::skeleton::types::xvs_program as ProgramNumber;
pub(crate) use super::skeleton::types::xvs_reason as ReasonCode;
pub(crate) use super::skeleton::types::xvs_refused as Refused;
pub(crate) use super::skeleton::types::xvs_retired as Retired;
pub(crate) use super::skeleton::types::xvs_service as ServiceRecord;
pub(crate) use super::skeleton::types::xvs_service_key as ServiceKeyRecord;
pub(crate) use super::skeleton::types::xvs_settings as Settings;
pub(crate) use super::skeleton::types::xvs_share as ShareRecord;
pub(crate) use super::skeleton::types::xvs_status as StatusCode;
pub(crate) use super::skeleton::types::xvs_tables as Tables;
pub(crate) use super::skeleton::types::xvs_tags as FlowTags;
pub(crate) use super::skeleton::types::xvs_tick as Tick;
pub(crate) use super::skeleton::types::xvs_traffic as Traffic;
pub(crate) use super::skeleton::types::xvs_tunnel as TunnelRecord;
pub(crate) use super::skeleton::types::xvs_tunnel_flags as TunnelFlags;
pub(crate) use super::skeleton::types::xvs_tunnel_kind as TunnelCode;
use super::skeleton::types::xvs_tunnel_paths as Paths;
pub(crate) use super::skeleton::types::xvs_vlan_status as VlanCode;
pub(crate) use super::skeleton::types::xvs_way as WayRecord;

/// The layout of the maps that this version makes and reads.
pub(crate) const LAYOUT: u32 = Layout::XVS_LAYOUT_VERSION.0;

/// `struct xvs_chunk`, which the skeleton has not, as no map's type names it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Chunk {
    pub(crate) slot: [u32; Tables::XVS_CHUNK.0 as usize],
}

impl Default for Chunk {
    fn default() -> Self {
        Self { slot: [0; Tables::XVS_CHUNK.0 as usize] }
    }
}

/// `struct xvs_flow_news`, which the skeleton has not either.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct FlowNews {
    pub(crate) client: [u8; 16],
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    pub(crate) meta: u32,
    pub(crate) port: u16,
    _pad: u16,
}

/// A record that the kernel copies octet by octet.
///
/// # Safety
///
/// The type is `repr(C)`, has no padding, and every pattern of octets is a
/// value of it.
pub(crate) unsafe trait Record: Copy + Default + Send + Sync + 'static {}

macro_rules! records {
    ($($name:ty: $size:literal,)*) => {
        $(
            const _: () = assert!(size_of::<$name>() == $size);
            // SAFETY: generated as `repr(C)` from a C struct that names its
            // padding (the size above is the sum of its fields), and made of
            // integers, arrays of them and transparent wrappers alone.
            unsafe impl Record for $name {}
        )*
    };
}

records! {
    u32: 4,
    u64: 8,
    [u8; 16]: 16,
    Chunk: 4096,
    Cpu: 384,
    DestinationRecord: 64,
    DestinationInfo: 136,
    FlowGroup4: 4096,
    FlowGroup6: 8192,
    FlowTags: 512,
    Gate: 9272,
    Gauge: 32,
    CardsRecord: 2048,
    Inflow: 16,
    InstanceRecord: 224,
    InterfacesRecord: 1536,
    NatRecord: 32,
    PrefixRecord: 80,
    ProbeLinkRecord: 24,
    Refused: 256,
    Retired: 592,
    ServiceRecord: 64,
    Settings: 104,
    ServiceKeyRecord: 20,
    Traffic: 64,
    TunnelRecord: 64,
    FlowNews: 32,
    ShareRecord: 64,
    EventRecord: 512,
}

/// The octets of a record.
pub(super) fn octets<T: Record>(record: &T) -> &[u8] {
    // SAFETY: a `Record` has no padding, so each of its octets is initialized.
    unsafe { std::slice::from_raw_parts((&raw const *record).cast(), size_of::<T>()) }
}

/// The record of these octets; they are as many as it has.
pub(super) fn record<T: Record>(octets: &[u8]) -> T {
    assert_eq!(octets.len(), size_of::<T>(), "a record has its size");
    // SAFETY: there are enough octets, and any are a value of a `Record`.
    unsafe { octets.as_ptr().cast::<T>().read_unaligned() }
}

/// An address as 16 octets, IPv4 mapped into IPv6.
pub(crate) fn address_octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The address of 16 octets.
pub(crate) fn octets_address(octets: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(octets).to_canonical()
}

/// A name as records have it, with a zero at its end.
pub(crate) fn name_record(name: &str) -> [i8; 16] {
    let mut record = [0; 16];
    for (to, from) in record.iter_mut().zip(name.bytes()).take(15) {
        *to = from as i8;
    }
    record
}

/// The name in a record.
pub(crate) fn record_name(record: &[i8; 16]) -> String {
    record.iter().take_while(|c| **c != 0).map(|c| *c as u8 as char).collect()
}

/// How many ways the flows of a destination behind a tunnel are spread over.
pub(crate) const PATHS: u32 = Paths::XVS_PATHS.0;

impl InterfacesRecord {
    /// The most interfaces of an instance.
    pub(crate) const ROOM: usize = {
        const fn length<const N: usize>(_: fn(InterfacesRecord) -> [InterfaceRecord; N]) -> usize {
            N
        }
        length(|record| record.list)
    };
}
