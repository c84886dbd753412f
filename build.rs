//! Compiles the BPF programs to skeletons in `OUT_DIR`.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use libbpf_cargo::SkeletonBuilder;

fn main() {
    for input in ["bpf", "include", "vmlinux", "benches/packets.bpf.c", "benches/steps.bpf.c"] {
        println!("cargo:rerun-if-changed={input}");
    }
    println!("cargo:rerun-if-env-changed=CLANG");

    compile("bpf/xvs.bpf.c", "xvs.skel.rs");
    compile("bpf/probe.bpf.c", "probe.skel.rs");
    compile("bpf/decap.bpf.c", "decap.skel.rs");
    compile("bpf/capture.bpf.c", "capture.skel.rs");
    if env::var_os("CARGO_FEATURE_BENCH").is_some() {
        compile("benches/packets.bpf.c", "packets.skel.rs");
        compile("benches/steps.bpf.c", "steps.skel.rs");
    }
}

fn compile(source: &str, skeleton: &str) {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    if let Err(error) = SkeletonBuilder::new()
        .source(source)
        .clang(clang())
        .clang_args([
            "-Wall",
            "-Wextra",
            "-Werror",
            // The instructions of the oldest kernel that is supported, 5.10.
            "-mcpu=v3",
            "-Iinclude",
            "-Ivmlinux",
        ])
        .reference_obj(true)
        .build_and_generate(out.join(skeleton))
    {
        eprintln!("{error:#}");
        eprintln!("cannot compile {source}; `make setup` installs what that needs");
        std::process::exit(1);
    }
}

/// `$CLANG`, else the version that the project is made with, else any.
fn clang() -> PathBuf {
    if let Some(clang) = env::var_os("CLANG") {
        return clang.into();
    }
    let works = |name: &&str| Command::new(name).arg("--version").output().is_ok();
    ["clang-19", "clang"].iter().find(|name| works(name)).unwrap_or(&"clang-19").into()
}
