//! The program that takes packets out of tunnels, for real servers.

use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;

use libbpf_rs::MapCore;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use libbpf_rs::skel::OpenSkel;
use libbpf_rs::skel::SkelBuilder;

use self::skeleton::DecapSkelBuilder;
pub(crate) use self::skeleton::types::xvs_decap_reason as ReasonCode;
pub(crate) use self::skeleton::types::xvs_decap_role as RoleCode;
use self::skeleton::types::xvs_decap_settings as Settings;
use super::Attachment;
use super::Hash;
use super::address_octets;
use super::map_fault;
use crate::Error;
use crate::Mode;
use crate::Result;

/// The skeleton that libbpf-cargo makes of `bpf/decap.bpf.c`.
#[allow(unsafe_code, unused_imports, rust_2018_idioms, missing_docs, clippy::all)]
#[allow(clippy::undocumented_unsafe_blocks, clippy::semicolon_if_nothing_returned)]
mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/decap.skel.rs"));
}

/// The loaded program with its maps, which nobody else has.
#[derive(Debug)]
pub(crate) struct DecapProgram {
    program: OwnedFd,
    /// What an address is: roles, or'd together.
    addresses: Hash<[u8; 16], u32>,
    reasons: MapHandle,
}

impl DecapProgram {
    /// Loads the program for these UDP ports, 0 for none, with room for so many
    /// addresses. Frames may be in several buffers, or not.
    pub(crate) fn load(fou: u16, gue: u16, addresses: u32, frags: bool) -> Result<Self> {
        let fault = |error: libbpf_rs::Error| Error::Load { source: error.into() };
        let mut object = MaybeUninit::uninit();
        let mut open = DecapSkelBuilder::default().open(&mut object).map_err(fault)?;
        let () = open.maps.addresses.set_max_entries(addresses).map_err(fault)?;
        if let Some(rodata) = &mut open.maps.rodata_data {
            rodata.settings = Settings {
                fou: fou.to_be().into(),
                gue: gue.to_be().into(),
                reasons: ReasonCode::XVS_DECAP_REASONS,
            };
        }
        if frags {
            open.progs.decap.set_flags(libbpf_sys::BPF_F_XDP_HAS_FRAGS);
        }
        let skeleton = open.load().map_err(fault)?;
        let addresses = MapHandle::try_from(&skeleton.maps.addresses).map_err(fault)?;
        let program = skeleton.progs.decap.as_fd().try_clone_to_owned();
        Ok(Self {
            program: program.map_err(|source| Error::System { call: "dup", source })?,
            addresses: Hash::new("addresses", addresses)?,
            reasons: MapHandle::try_from(&skeleton.maps.reasons).map_err(fault)?,
        })
    }

    /// Attaches to an interface in native or generic mode.
    pub(crate) fn attach(&self, ifindex: u32, mode: Mode) -> io::Result<Attachment> {
        Attachment::new(&self.program, ifindex, mode)
    }

    /// Tells the program what an address is; 0 for nothing.
    pub(crate) fn set_roles(&self, address: IpAddr, roles: u32) -> Result<()> {
        let key = address_octets(address);
        match roles {
            0 => self.addresses.remove(&key),
            roles => self.addresses.insert(&key, &roles),
        }
    }

    /// How many packets ended with each reason, by its number.
    pub(crate) fn counts(&self) -> Result<Vec<u64>> {
        (0..ReasonCode::XVS_DECAP_REASONS.0).map(|reason| self.count(reason)).collect()
    }

    /// The sum of what each CPU has counted.
    fn count(&self, reason: u32) -> Result<u64> {
        let values = self.reasons.lookup_percpu(&reason.to_ne_bytes(), MapFlags::ANY);
        let values = values.map_err(|error| map_fault("reasons", "lookup", &error))?;
        let counts = values.iter().flatten().filter_map(|value| value.first_chunk().copied());
        Ok(counts.map(u64::from_ne_bytes).sum())
    }
}
