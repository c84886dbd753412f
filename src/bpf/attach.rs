//! Attaching to interfaces by BPF links, which nobody else can replace.
#![allow(unsafe_code, reason = "calls into libbpf")]

use std::ffi::CStr;
use std::ffi::CString;
use std::fs;
use std::io;
use std::mem::size_of;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use libbpf_rs::Program;

use crate::Mode;

/// From `linux/if_link.h`: in the stack, or in the driver.
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// A program on an interface, detached when this is dropped.
#[derive(Debug)]
pub(crate) struct Attachment {
    link: OwnedFd,
    /// Where the link is pinned: it lives as long as the pin.
    pin: Option<PathBuf>,
    /// Whether the program goes when this is dropped.
    goes: bool,
}

/// What a pinned link is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkInfo {
    /// The interface's index, 0 when it is gone.
    pub(crate) ifindex: u32,
    /// The id of the program.
    pub(crate) program: u32,
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
        // SAFETY: if it is one, the call made this descriptor for us.
        Ok(Self { link: unsafe { owned(result)? }, pin: None, goes: true })
    }

    /// Opens a pinned link, which stays as it is until it is [taken](Self::take).
    pub(super) fn open(pin: &Path) -> io::Result<Self> {
        let path = c_path(pin)?;
        // SAFETY: the path ends with a zero.
        let result = unsafe { libbpf_sys::bpf_obj_get(path.as_ptr()) };
        // SAFETY: if it is one, the call made this descriptor for us.
        Ok(Self { link: unsafe { owned(result)? }, pin: None, goes: false })
    }

    /// Has the pin of a link that was opened go with this.
    pub(crate) fn take(&mut self, pin: PathBuf) {
        self.pin = Some(pin);
        self.goes = true;
    }

    /// Pins the link: it stays when this process dies.
    pub(crate) fn pin(&mut self, pin: PathBuf) -> io::Result<()> {
        let path = c_path(&pin)?;
        // What is there is that of an interface which had the index before.
        let _ = fs::remove_file(&pin);
        // SAFETY: the link is open, and the path ends with a zero.
        let result = unsafe { libbpf_sys::bpf_obj_pin(self.link.as_raw_fd(), path.as_ptr()) };
        let () = checked(result)?;
        self.pin = Some(pin);
        Ok(())
    }

    /// Lets the link live on, if it is pinned.
    pub(crate) fn leave(&mut self) {
        self.goes = false;
    }

    /// Has the link end with this, also if the process is killed.
    pub(crate) fn unpin(&mut self) -> io::Result<()> {
        if let Some(pin) = &self.pin {
            let () = fs::remove_file(pin)?;
        }
        self.pin = None;
        Ok(())
    }

    /// Takes the program off at once, whoever else has the link: a process that was just
    /// forked, or on some kernels the pin for a while after it is removed.
    pub(super) fn detach(&self) -> io::Result<()> {
        // SAFETY: the link is open.
        checked(unsafe { libbpf_sys::bpf_link_detach(self.link.as_raw_fd()) })
    }

    /// What it is on, and which program.
    pub(crate) fn info(&self) -> io::Result<LinkInfo> {
        let mut info = libbpf_sys::bpf_link_info::default();
        let mut length = size_of::<libbpf_sys::bpf_link_info>() as u32;
        // SAFETY: the record is as long as said.
        let result = unsafe {
            libbpf_sys::bpf_link_get_info_by_fd(
                self.link.as_raw_fd(),
                &raw mut info,
                &raw mut length,
            )
        };
        let () = checked(result)?;
        if info.type_ != libbpf_sys::BPF_LINK_TYPE_XDP {
            return Err(io::Error::other("it is no link of an XDP program"));
        }
        // SAFETY: the kernel has written the part of this type, and any octets are
        // a number.
        let ifindex = unsafe { info.__bindgen_anon_1.xdp.ifindex };
        Ok(LinkInfo { ifindex, program: info.prog_id })
    }

    /// Puts another program in place of the one that is there: each packet gets one of
    /// them.
    pub(super) fn replace(&self, program: &OwnedFd) -> io::Result<()> {
        // SAFETY: both are open, and no options are given.
        let result = unsafe {
            libbpf_sys::bpf_link_update(
                self.link.as_raw_fd(),
                program.as_raw_fd(),
                std::ptr::null(),
            )
        };
        checked(result)
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if !self.goes {
            return;
        }
        // Both fail only if somebody else has done so, or the interface is gone.
        let _ = self.detach();
        if let Some(pin) = &self.pin {
            let _ = fs::remove_file(pin);
        }
    }
}

/// The error that libbpf returns as a negative number.
fn checked(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}

/// The descriptor that libbpf returned, unless it is an error.
///
/// # Safety
///
/// The descriptor is nobody else's.
unsafe fn owned(result: i32) -> io::Result<OwnedFd> {
    let () = checked(result)?;
    // SAFETY: the caller's word.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
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
