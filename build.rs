//! Compiles the data plane to a skeleton in `OUT_DIR`.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use libbpf_cargo::SkeletonBuilder;

const SOURCE: &str = "bpf/xvs.bpf.c";

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for input in ["bpf", "include", "vmlinux"] {
        println!("cargo:rerun-if-changed={input}");
    }
    println!("cargo:rerun-if-env-changed=CLANG");

    if let Err(error) = SkeletonBuilder::new()
        .source(SOURCE)
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
        .build_and_generate(out.join("xvs.skel.rs"))
    {
        eprintln!("{error:?}");
        panic!("cannot compile {SOURCE}; `make setup` installs what that needs");
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
