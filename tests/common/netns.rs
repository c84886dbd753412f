//! Network namespaces that a test makes for itself and takes down again.

use std::fs::File;
use std::process::Command;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::thread;

use nix::sched::CloneFlags;
use nix::sched::setns;

/// Runs a shell command line; what it prints is returned, failure panics.
pub fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().expect("sh runs");
    assert!(
        output.status.success(),
        "`{command}` failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A network namespace with a name of its own, deleted when dropped.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one, with its loopback up and no IPv6 duplicate address
    /// detection (addresses are usable at once).
    pub fn new(label: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("xvs-{}-{number}-{label}", std::process::id());
        sh(&format!("ip netns add {name}"));
        let namespace = Self { name };
        namespace.sh("ip link set lo up
            sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0");
        namespace
    }

    /// The name that `ip netns` knows it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a shell command line inside; the mount namespace stays.
    pub fn sh(&self, command: &str) -> String {
        self.enter(|| sh(command))
    }

    /// Runs a closure on a thread inside; threads it starts are inside too.
    pub fn enter<T: Send>(&self, closure: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.name)).expect("the namespace is there");
        thread::scope(|scope| {
            scope
                .spawn(move || {
                    setns(file, CloneFlags::CLONE_NEWNET).expect("root may enter namespaces");
                    closure()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}
