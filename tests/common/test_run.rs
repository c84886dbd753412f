//! BPF_PROG_TEST_RUN of programs that others have loaded.

use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;

/// Runs an XDP program once on a frame, which a context says more of: what it
/// returned, and the frame afterwards.
#[expect(unsafe_code, reason = "libbpf-rs runs only programs of its own objects")]
pub fn test_run(
    program: &OwnedFd,
    frame: &[u8],
    context: Option<&libbpf_sys::xdp_md>,
) -> io::Result<(u32, Vec<u8>)> {
    let mut output = vec![0; frame.len() + 512];
    let mut options = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as _,
        data_in: frame.as_ptr().cast(),
        data_size_in: frame.len() as u32,
        data_out: output.as_mut_ptr().cast(),
        data_size_out: output.len() as u32,
        repeat: 1,
        ..Default::default()
    };
    if let Some(context) = context {
        options.ctx_in = std::ptr::from_ref(context).cast();
        options.ctx_size_in = size_of_val(context) as u32;
    }
    // SAFETY: the pointers in `options` are to buffers of the sizes that it
    // gives, which live until the call returns.
    let result =
        unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &raw mut options) };
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    output.truncate(options.data_size_out as usize);
    Ok((options.retval, output))
}
