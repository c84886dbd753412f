//! Attaching to interfaces by BPF links, which nobody else can replace.
#![allow(unsafe_code, reason = "calls into libbpf")]

use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;

use libbpf_rs::Program;

use crate::Mode;

/// From `linux/if_link.h`: in the stack, or in the driver.
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// A program on an interface, detached when this is dropped.
#[derive(Debug)]
pub(crate) struct Attachment {
    _link: OwnedFd,
}

impl Attachment {
    /// Attaches in native or generic mode; the error is the kernel's.
    pub(super) fn new(program: &OwnedFd, ifindex: u32, mode: Mode) -> io::Result<Self> {
        let options = libbpf_sys::bpf_link_create_opts {
            sz: size_of::<libbpf_sys::bpf_link_create_opts>() as libbpf_sys::size_t,
            flags: match mode {
                Mode::Generic => XDP_FLAGS_SKB_MODE,
                Mode::Auto | Mode::Native => XDP_FLAGS_DRV_MODE,
            },
            ..Default::default()
        };
        // SAFETY: the program is open, and the options say how long they are.
        let result = unsafe {
            libbpf_sys::bpf_link_create(
                program.as_raw_fd(),
                ifindex as i32,
                libbpf_sys::BPF_XDP,
                &raw const options,
            )
        };
        if result < 0 {
            return Err(io::Error::from_raw_os_error(-result));
        }
        // SAFETY: the call made this descriptor for us.
        Ok(Self { _link: unsafe { OwnedFd::from_raw_fd(result) } })
    }
}

/// A program's name and id for people; the name needs CAP_SYS_ADMIN.
pub(crate) fn program_name(id: u32) -> String {
    name_of(id).map_or_else(|| format!("id {id}"), |name| format!("`{name}` (id {id})"))
}

fn name_of(id: u32) -> Option<String> {
    let program = Program::fd_from_id(id).ok()?;
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut length = size_of::<libbpf_sys::bpf_prog_info>() as u32;
    // SAFETY: the record is as long as said, and asks for no other memory.
    let result = unsafe {
        libbpf_sys::bpf_prog_get_info_by_fd(
            program.as_fd().as_raw_fd(),
            &raw mut info,
            &raw mut length,
        )
    };
    if result != 0 {
        return None;
    }
    // SAFETY: the kernel ends the name with a zero within its array.
    let name = unsafe { CStr::from_ptr(info.name.as_ptr()) };
    name.to_str().ok().filter(|name| !name.is_empty()).map(str::to_owned)
}
