//! What only some kernels have.

use std::path::Path;

use super::netns::Namespace;

/// Whether the kernel has such a device; if not, that is told.
pub fn has_devices(link: &str, module: &str) -> bool {
    let probe = Namespace::new("probe");
    let made = probe.sh(&format!(
        "ip link add trunk type veth peer name other
         ip link add {link} 2>/dev/null && echo yes || echo no"
    ));
    let has = made.trim() == "yes";
    if !has {
        let is_loaded = Path::new("/sys/module").join(module).exists();
        assert!(!is_loaded, "the kernel has module {module}: `ip link add {link}` must work");
        println!("skipped: the kernel has no such devices (module {module})");
    }
    has
}
