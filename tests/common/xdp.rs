//! XDP programs that are not the balancer's: they pass every packet.

use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::ptr;

use super::netns::Namespace;

/// Attaches a program that passes every packet to an interface's driver,
/// where it stays until the interface goes.
pub fn attach_pass(namespace: &Namespace, interface: &str, name: &str) {
    let index = index(namespace, interface);
    let flags = if has_frags() { libbpf_sys::BPF_F_XDP_HAS_FRAGS } else { 0 };
    let program = load_pass(name, flags).expect("the kernel takes a program that passes");
    namespace.enter(|| attach(index, &program).expect("the driver takes a program"));
}

/// The name of the XDP program of an interface, as `ip link` tells its id.
pub fn attached(namespace: &Namespace, interface: &str) -> Option<u32> {
    let link = namespace.sh(&format!("ip -d link show dev {interface}"));
    let (_, program) = link.split_once("prog/xdp id ")?;
    program.split_whitespace().next()?.parse().ok()
}

/// The index of an interface.
pub fn index(namespace: &Namespace, interface: &str) -> u32 {
    let link = namespace.sh(&format!("ip -o link show dev {interface}"));
    let (index, _) = link.split_once(':').expect("`ip -o link` begins with the index");
    index.parse().expect("the index is a number")
}

/// Whether programs may take frames that are in several buffers (5.18).
pub fn has_frags() -> bool {
    load_pass("frags", libbpf_sys::BPF_F_XDP_HAS_FRAGS).is_ok()
}

#[expect(unsafe_code, reason = "libbpf's C API")]
fn load_pass(name: &str, flags: u32) -> io::Result<OwnedFd> {
    let name = CString::new(name).expect("a name has no NUL");
    let instruction = |code, imm| libbpf_sys::bpf_insn { code, imm, ..Default::default() };
    // r0 = XDP_PASS; exit
    let program = [instruction(0xb7, 2), instruction(0x95, 0)];
    let mut options = libbpf_sys::bpf_prog_load_opts {
        sz: size_of::<libbpf_sys::bpf_prog_load_opts>() as _,
        prog_flags: flags,
        ..Default::default()
    };
    // SAFETY: all pointers are valid for the call, the count is the array's,
    // and the options say how long they are.
    let fd = unsafe {
        libbpf_sys::bpf_prog_load(
            libbpf_sys::BPF_PROG_TYPE_XDP,
            name.as_ptr(),
            c"BSD".as_ptr(),
            program.as_ptr(),
            program.len() as _,
            &raw mut options,
        )
    };
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(-fd));
    }
    // SAFETY: the call returned a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[expect(unsafe_code, reason = "libbpf's C API")]
fn attach(index: u32, program: &OwnedFd) -> io::Result<()> {
    let flags = libbpf_sys::XDP_FLAGS_DRV_MODE | libbpf_sys::XDP_FLAGS_UPDATE_IF_NOEXIST;
    // SAFETY: plain numbers, and null options are the defaults.
    let result = unsafe {
        libbpf_sys::bpf_xdp_attach(index as i32, program.as_raw_fd(), flags, ptr::null())
    };
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}
