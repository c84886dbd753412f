//! Arguments, right and wrong, help and completions.

use std::fs;
use std::io;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use xvs::Reasons;

use crate::assert_fails;
use crate::finished;
use crate::run;
use crate::xvsctl;

/// A command line that is right in everything, to vary.
const BALANCE: [&str; 5] = ["balance", "eth0", "10.1.2.0/24", "192.168.100.1", "10.1.2.3"];

/// `BALANCE` with one argument replaced, or with more of them.
fn varied(index: usize, argument: &'static str) -> Vec<&'static str> {
    let mut arguments = BALANCE.to_vec();
    arguments[index] = argument;
    arguments
}

fn extended(more: &[&'static str]) -> Vec<&'static str> {
    [&BALANCE, more].concat()
}

fn probe(more: &[&'static str]) -> Vec<&'static str> {
    [&["probe", "192.168.100.1:80", "10.1.2.3"], more].concat()
}

#[test]
fn wrong_usage_exits_2_and_names_the_argument() {
    for (arguments, part) in [
        (vec!["juggle"], "juggle"),
        (vec!["balance"], "IFACE"),
        (BALANCE[..4].to_vec(), "RIP"),
        (varied(2, "10.1.2.0"), "10.1.2.0"),
        (varied(2, "10.1.2.3/24"), "10.1.2.0/24"),
        (varied(2, "10.1.2.0/24,10.1.3/24"), "10.1.3/24"),
        (varied(3, "vip.example"), "vip.example"),
        (varied(3, "192.168.100.1,"), "VIP"),
        (varied(4, "10.1.2"), "10.1.2"),
        (extended(&["--port", "http"]), "http"),
        (extended(&["--port", "65536"]), "65536"),
        (extended(&["--port", "/udp"]), "/udp"),
        (extended(&["--vlan", "10"]), "ID=PREFIX"),
        (extended(&["--vlan", "blue=10.2.0.0/16"]), "blue"),
        (extended(&["--vlan", "10=10.2.0.0"]), "10.2.0.0"),
        (extended(&["--mtu", "1400"]), "ID=OCTETS"),
        (extended(&["--mtu", "1=big"]), "big"),
        (extended(&["--route", "10.9.0.0/16"]), "PREFIX=GATEWAY[@ID]"),
        (extended(&["--route", "10.9.0.1/16=10.1.2.254"]), "10.9.0.0/16"),
        (extended(&["--route", "10.9.0.0/16=gateway"]), "`gateway` is no IP address"),
        (extended(&["--route", "10.9.0.0/16=10.1.2.254@blue"]), "blue"),
        (extended(&["--attach-pause", "long"]), "seconds"),
        (extended(&["--weight", "10.1.2.3"]), "RIP=N"),
        (extended(&["--weight", "web=3"]), "web"),
        (extended(&["--weight", "10.1.2.3=heavy"]), "heavy"),
        (extended(&["--mode", "fast"]), "fast"),
        (extended(&["--nat4", "255.0.0.0"]), "255.0.0.0"),
        (extended(&["--nat6", "fd00::1/64"]), "fd00::/64"),
        (extended(&["--tunnel", "string"]), "string"),
        (extended(&["--tunnel", "fou"]), "--tunnel-port"),
        (extended(&["--tunnel", "gue"]), "--tunnel-port"),
        (extended(&["--tunnel", "gue", "--tunnel-port", "gue"]), "invalid digit"),
        (extended(&["--tunnel", "gue", "--tunnel-port", "65536"]), "65536"),
        (extended(&["--tunnel-checksum", "maybe"]), "maybe"),
        (extended(&["--flows", "many"]), "many"),
        (extended(&["--duration", "long"]), "long"),
        (extended(&["--duration=-1"]), "-1"),
        (extended(&["--loud"]), "--loud"),
        (vec!["show", "everything"], "everything"),
        (vec!["events", "--count", "0"], "--count"),
        (vec!["top", "--interval", "0"], "0.1 to 3600"),
        (vec!["top", "--interval", "fast"], "seconds"),
        (vec!["flows", "--service", "192.168.100.1"], "no VIP with a port"),
        (vec!["flows", "--service", "192.168.100.1:80/sctp"], "sctp"),
        (vec!["flows", "--server", "web1"], "web1"),
        (vec!["flows", "--client", "10.1"], "neither an IP address nor a prefix"),
        (vec!["flows", "--client", "10.1.2.3/24"], "10.1.2.0/24"),
        (vec!["flows", "--state", "gone"], "gone"),
        (vec!["flows", "--limit", "few"], "few"),
        (vec!["flows", "--limit", "1", "--count"], "--count"),
        (vec!["events", "--duration", "long"], "long"),
        (vec!["explain", "sctp", "10.0.0.1", "192.168.100.1:80"], "sctp"),
        (vec!["explain", "tcp", "client", "192.168.100.1:80"], "client"),
        (vec!["explain", "tcp", "10.0.0.1", "192.168.100.1"], "192.168.100.1"),
        (vec!["explain", "tcp", "10.0.0.1"], "VIP:PORT"),
        (vec!["explain", "udp", "10.0.0.1", "192.168.100.1:53", "--syn"], "--syn"),
        (vec!["probe", "192.168.100.1:80"], "RIP"),
        (vec!["probe", "192.168.100.1", "10.1.2.3"], "192.168.100.1"),
        (vec!["probe", "192.168.100.1:0", "10.1.2.3"], "port"),
        (vec!["probe", "192.168.100.1:80", "web"], "web"),
        (probe(&["--host", "www.example.net"]), "--http"),
        (probe(&["--http", "/", "--udp"]), "--udp"),
        (probe(&["--http", "/", "--tcp"]), "--tcp"),
        (probe(&["--tcp", "--udp"]), "--udp"),
        (probe(&["--http", "health"]), "health"),
        (probe(&["--http", "/a b"]), "/a b"),
        (probe(&["--http", "/\r\nX-Y: z"]), "no path"),
        (probe(&["--http", "/", "--host", ""]), "host"),
        (probe(&["--size", "huge"]), "huge"),
        (probe(&["--timeout", "0"]), "--timeout"),
        (probe(&["--timeout=-1"]), "-1"),
        (vec!["completions", "sh"], "sh"),
        (vec!["capture", "--reason", "no_reason"], "no_service"),
        (vec!["capture", "--reason", "malformed,"], "malformed"),
        (vec!["capture", "--snaplen", "37"], "37"),
        (vec!["capture", "--snaplen", "65001"], "65001"),
        (vec!["capture", "--rate", "0"], "--rate"),
        (vec!["capture", "--count", "0"], "--count"),
        (vec!["capture", "--duration", "long"], "long"),
        (vec!["capture", "--json", "--write", "-"], "--write"),
    ] {
        let (code, stdout, stderr) = run(&arguments);
        assert_eq!(code, 2, "{arguments:?}: {stderr}");
        assert_eq!(stdout, "", "{arguments:?}");
        assert!(stderr.contains(part), "{arguments:?}: {stderr} lacks {part}");
        assert!(stderr.contains("--help"), "{arguments:?}: {stderr}");
    }
    assert_eq!(run(&[]).0, 2);
}

#[test]
fn refused_values_exit_1_and_are_named() {
    for (arguments, part) in [
        (varied(3, "127.0.0.1"), "127.0.0.1"),
        (varied(3, "0.0.0.0"), "0.0.0.0"),
        (varied(3, "224.0.0.1"), "224.0.0.1"),
        (varied(3, "255.255.255.255"), "255.255.255.255"),
        (varied(3, "::1"), "::1"),
        (varied(3, "::"), "::"),
        (varied(3, "ff02::1"), "ff02::1"),
        (varied(3, "fe80::1"), "fe80::1"),
        (varied(3, "::ffff:192.168.100.1"), "::ffff:192.168.100.1"),
        (varied(3, "192.168.100.1,127.0.0.1"), "127.0.0.1"),
        (varied(3, "192.168.100.1,192.168.100.1"), "twice"),
        (varied(4, "127.0.0.1"), "127.0.0.1"),
        (varied(4, "224.0.0.1"), "224.0.0.1"),
        (extended(&["10.1.2.3"]), "10.1.2.3 is named twice"),
        (extended(&["--port", "0"]), "192.168.100.1:0/tcp"),
        (extended(&["--port", "80/sctp"]), "sctp"),
        (extended(&["--port", "80", "--port", "80/tcp"]), "192.168.100.1:80/tcp"),
        (extended(&["--weight", "10.1.2.3=0"]), "weight 0"),
        (extended(&["--new-flows", "0"]), "new_flows of 0"),
        (extended(&["--transition", "2592001"]), "transition of 2592001s"),
        (extended(&["--new-flows", "10000001"]), "new_flows of 10000001"),
        (extended(&["--weight", "10.1.2.3=65536"]), "weight 65536"),
        (extended(&["--weight", "10.1.2.4=2"]), "10.1.2.4"),
        (extended(&["--weight", "10.1.2.3=2", "--weight", "10.1.2.3=3"]), "10.1.2.3"),
        (extended(&["--vlan", "0=10.2.0.0/16"]), "VLAN 0"),
        (extended(&["--vlan", "4095=10.2.0.0/16"]), "VLAN 4095"),
        (extended(&["--vlan", "2=10.1.0.0/16"]), "10.1.0.0/16"),
        (extended(&["--mtu", "1=67"]), "from 68"),
        (extended(&["--mtu", "7=1500"]), "VLAN 7"),
        (extended(&["--route", "10.9.0.0/16=10.3.3.3"]), "no VLAN has a prefix with 10.3.3.3"),
        (extended(&["--route", "::/0=fe80::1"]), "::/0=fe80::1@ID"),
        (extended(&["--route", "::/0=fe80::1@7"]), "VLAN 7"),
        (extended(&["--route", "10.1.2.0/25=10.1.2.254"]), "10.1.2.0/25"),
        (
            extended(&["--route", "10.9.0.0/16=10.1.2.1", "--route", "10.9.0.0/16=10.1.2.2"]),
            "twice",
        ),
        (extended(&["--tunnel", "gue", "--tunnel-port", "0"]), "10.1.2.3: a gue tunnel"),
        (extended(&["--tunnel", "gre", "--tunnel-port", "6080"]), "--tunnel gre has no UDP port"),
        (extended(&["--tunnel-port", "6080"]), "--tunnel none has no UDP port"),
        (extended(&["--tunnel", "ipip", "--tunnel-checksum", "on"]), "no UDP checksum"),
        (extended(&["--attach-pause", "61"]), "attach_pause"),
        (extended(&["--flows", "1"]), "flows"),
        (extended(&["--nat4", "fd00::/64"]), "fd00::/64: it is not of IPv4"),
        (extended(&["--nat4", "10.9.0.0/31"]), "10.9.0.0/31"),
        (extended(&["--nat6", "10.9.0.0/16"]), "10.9.0.0/16: it is not of IPv6"),
        (extended(&["--nat6", "fd00::/97"]), "`xvsctl balance --nat4`, `--nat6`"),
        (extended(&["--instance", "a/b"]), "a/b"),
        (vec!["show", "--instance", "a b"], "a b"),
        (vec!["detach", "--instance", "../.."], "../.."),
        (vec!["explain", "tcp", "10.0.0.1", "[2001:db8::1]:80"], "2001:db8::1"),
        (probe(&["--instance", "a b"]), "a b"),
    ] {
        assert_fails(&arguments, run(&arguments), &[part]);
    }
}

#[test]
fn completions_are_scripts() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, stderr) = run(&["completions", shell]);
        assert_eq!((code, stderr.as_str()), (0, ""), "{shell}");
        for word in ["balance", "explain", "probe", "detach", "bpffs"] {
            assert!(script.contains(word), "{shell} lacks {word}");
        }
        if shell != "bash" {
            continue;
        }
        let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
        bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(bash.wait().unwrap().success());
    }
}

/// Every subcommand, by the help of the command itself.
fn subcommands() -> Vec<String> {
    let (_, help, _) = run(&["--help"]);
    let list = help.split("Commands:\n").nth(1).expect("the help lists commands");
    let commands = list.lines().take_while(|line| !line.is_empty());
    commands.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

#[test]
fn help_fits_and_the_man_page_has_every_option() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/xvsctl.8");
    let man = fs::read_to_string(path).unwrap();
    for command in subcommands().iter().filter(|command| *command != "help") {
        assert!(man.contains(&format!("xvsctl {command}")), "the man page lacks {command}");
        let (code, help, stderr) = run(&[command, "--help"]);
        assert_eq!((code, stderr.as_str()), (0, ""), "{command}");
        for line in help.lines() {
            assert!(line.len() <= 100, "{command}: {line}");
            let Some(option) = line.trim_start().strip_prefix("--") else {
                continue;
            };
            let option: String =
                option.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
            let written = format!("\\-\\-{}", option.replace('-', "\\-"));
            assert!(man.contains(&written), "the man page lacks --{option}");
        }
    }
    for (reason, _) in Reasons::default().iter() {
        assert!(man.contains(reason), "the man page lacks {reason}");
    }
}

#[test]
fn nobody_listening_is_no_failure() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let arguments = ["completions", "bash"];
    let output = xvsctl(&arguments).stdout(writer).output().unwrap();
    assert_eq!(finished(&arguments, output), (0, String::new(), String::new()));

    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let status = xvsctl(&["show", "--instance", "a/b"]).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(1));
}
