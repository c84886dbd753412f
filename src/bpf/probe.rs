//! What the kernel's programs can do, found out by loading one.
#![allow(unsafe_code, reason = "calls into libbpf")]

use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::ptr;

/// Whether programs may exchange a word of memory atomically.
pub(super) fn has_exchange() -> bool {
    // v5.12: 5ffa25502b5ab3d639829a2d1e316cff7f59a41e ("bpf: Add instructions
    // for atomic_[cmp]xchg")
    // From the low octet up: operation, registers, offset, immediate.
    let program: [u64; 5] = [
        0x0000_0000_0000_00b7, // r0 = 0
        0x0000_0001_0000_01b7, // r1 = 1
        0x0000_0000_fff8_0a7b, // *(u64 *)(r10 - 8) = r0
        0x0000_00f1_fff8_1adb, // r0 = cmpxchg(r10 - 8, r0, r1)
        0x0000_0000_0000_0095, // return r0
    ];
    // SAFETY: there are so many instructions of 8 octets, the license ends
    // with a zero, and no name and options are given.
    let fd = unsafe {
        libbpf_sys::bpf_prog_load(
            libbpf_sys::BPF_PROG_TYPE_XDP,
            ptr::null(),
            c"Dual BSD/GPL".as_ptr(),
            program.as_ptr().cast(),
            program.len() as libbpf_sys::size_t,
            ptr::null_mut(),
        )
    };
    let has = fd >= 0;
    if has {
        // SAFETY: a number that is not negative is a new file's, owned by nobody.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    has
}
