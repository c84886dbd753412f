//! docs/backends.md, from which the tests take the commands that they run.

use crate::lab::Backend;

const MANUAL: &str = include_str!("../../docs/backends.md");

/// The commands below a heading, without those below further ones.
pub fn commands(heading: &str) -> String {
    let mut lines = MANUAL.lines();
    let is_heading = |line: &str| line.starts_with('#');
    let found =
        lines.any(|line| is_heading(line) && line.trim_start_matches('#').trim() == heading);
    assert!(found, "docs/backends.md has no `{heading}`");
    let lines = lines.take_while(|line| !is_heading(line));
    let commands: Vec<&str> = lines.filter_map(|line| line.strip_prefix("    ")).collect();
    assert!(!commands.is_empty(), "`{heading}` has commands");
    commands.join("\n")
}

/// Gives a backend the VIPs of the manual by its commands, in place of the lab's.
/// Reverse-path filtering is strict but where the manual has it otherwise.
pub fn set_up_vips(backend: &Backend) {
    backend.namespace.sh("ip address del 192.168.100.1/32 dev lo
         ip address del fd00:100::1/128 dev lo
         sysctl -qw net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.all.arp_announce=0 \
             net.ipv4.conf.all.rp_filter=1");
    backend.namespace.sh(&commands("IPv4"));
    backend.namespace.sh(&commands("IPv6"));
}
