//! What the kernel's programs can do, found out by loading one.
#![allow(unsafe_code, reason = "calls into libbpf")]

use std::mem::size_of;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::ptr;

// From the low octet up: operation, registers, offset, immediate.
const RETURN_0: u64 = 0x0000_0000_0000_00b7; // r0 = 0
const EXIT: u64 = 0x0000_0000_0000_0095; // return r0

/// Whether programs may exchange a word of memory atomically.
pub(super) fn has_exchange() -> bool {
    // v5.12: 5ffa25502b5ab3d639829a2d1e316cff7f59a41e ("bpf: Add instructions
    // for atomic_[cmp]xchg")
    let program = [
        RETURN_0,
        0x0000_0001_0000_01b7, // r1 = 1
        0x0000_0000_fff8_0a7b, // *(u64 *)(r10 - 8) = r0
        0x0000_00f1_fff8_1adb, // r0 = cmpxchg(r10 - 8, r0, r1)
        EXIT,
    ];
    loads(&program, 0)
}

/// Whether programs may take frames that are in several buffers.
pub(crate) fn has_frags() -> bool {
    // v5.18: c2f2cdbeffda7b153c19e0f3d73149c41026c0db ("bpf: introduce
    // BPF_F_XDP_HAS_FRAGS flag in prog_flags loading the ebpf program")
    loads(&[RETURN_0, EXIT], libbpf_sys::BPF_F_XDP_HAS_FRAGS)
}

/// Whether the kernel takes an XDP program with these flags.
fn loads(program: &[u64], flags: u32) -> bool {
    let mut options = libbpf_sys::bpf_prog_load_opts {
        sz: size_of::<libbpf_sys::bpf_prog_load_opts>() as libbpf_sys::size_t,
        prog_flags: flags,
        ..Default::default()
    };
    // SAFETY: there are so many instructions of 8 octets, the license ends
    // with a zero, no name is given, and the options say how long they are.
    let fd = unsafe {
        libbpf_sys::bpf_prog_load(
            libbpf_sys::BPF_PROG_TYPE_XDP,
            ptr::null(),
            c"Dual BSD/GPL".as_ptr(),
            program.as_ptr().cast(),
            program.len() as libbpf_sys::size_t,
            &raw mut options,
        )
    };
    let has = fd >= 0;
    if has {
        // SAFETY: a number that is not negative is a new file's, owned by nobody.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    has
}
