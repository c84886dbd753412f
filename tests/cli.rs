//! The `xvsctl` command as its users meet it: arguments, errors, output.

#![cfg(feature = "cli")]

#[path = "common/netns.rs"]
mod netns;

use std::fs;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::path::Path;
use std::process::Child;
use std::process::ChildStdin;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use netns::Namespace;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use nix::unistd::geteuid;
use serde_json::Value;
use serde_json::json;
use xvs::Reasons;

/// A command line that is right in everything, to vary.
const BALANCE: [&str; 5] = ["balance", "eth0", "10.1.2.0/24", "192.168.100.1", "10.1.2.3"];

fn xvsctl(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xvsctl"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs to the end; whatever happens, there must be no panic.
fn run(arguments: &[&str]) -> (i32, String, String) {
    finished(arguments, xvsctl(arguments).output().expect("xvsctl runs"))
}

fn finished(arguments: &[&str], output: Output) -> (i32, String, String) {
    let stdout = String::from_utf8(output.stdout).expect("output is UTF-8");
    let stderr = String::from_utf8(output.stderr).expect("errors are UTF-8");
    assert!(!stderr.contains("panicked"), "{arguments:?}: {stderr}");
    (output.status.code().expect("no signal ends it"), stdout, stderr)
}

/// `BALANCE` with one argument replaced, or with more of them.
fn varied(index: usize, argument: &'static str) -> Vec<&'static str> {
    let mut arguments = BALANCE.to_vec();
    arguments[index] = argument;
    arguments
}

fn extended(more: &[&'static str]) -> Vec<&'static str> {
    [&BALANCE, more].concat()
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
        (extended(&["--attach-pause", "long"]), "seconds"),
        (extended(&["--weight", "10.1.2.3"]), "RIP=N"),
        (extended(&["--weight", "web=3"]), "web"),
        (extended(&["--weight", "10.1.2.3=heavy"]), "heavy"),
        (extended(&["--mode", "fast"]), "fast"),
        (extended(&["--tunnel", "string"]), "string"),
        (extended(&["--flows", "many"]), "many"),
        (extended(&["--duration", "long"]), "long"),
        (extended(&["--duration=-1"]), "-1"),
        (extended(&["--loud"]), "--loud"),
        (vec!["show", "everything"], "everything"),
        (vec!["explain", "sctp", "10.0.0.1", "192.168.100.1:80"], "sctp"),
        (vec!["explain", "tcp", "client", "192.168.100.1:80"], "client"),
        (vec!["explain", "tcp", "10.0.0.1", "192.168.100.1"], "192.168.100.1"),
        (vec!["explain", "tcp", "10.0.0.1"], "VIP:PORT"),
        (vec!["explain", "udp", "10.0.0.1", "192.168.100.1:53", "--syn"], "--syn"),
        (vec!["completions", "sh"], "sh"),
    ] {
        let (code, stdout, stderr) = run(&arguments);
        assert_eq!(code, 2, "{arguments:?}: {stderr}");
        assert_eq!(stdout, "", "{arguments:?}");
        assert!(stderr.contains(part), "{arguments:?}: {stderr} lacks {part}");
        assert!(stderr.contains("--help"), "{arguments:?}: {stderr}");
    }
    assert_eq!(run(&[]).0, 2);
}

/// Asserts exit code 1 and one line on standard error that has every part.
fn assert_fails(arguments: &[&str], (code, stdout, stderr): (i32, String, String), parts: &[&str]) {
    assert_eq!(code, 1, "{arguments:?}: {stdout}{stderr}");
    assert!(stderr.starts_with("xvsctl: "), "{arguments:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{arguments:?}: {stderr} lacks {part}");
    }
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
        (extended(&["--weight", "10.1.2.3=65536"]), "weight 65536"),
        (extended(&["--weight", "10.1.2.4=2"]), "10.1.2.4"),
        (extended(&["--weight", "10.1.2.3=2", "--weight", "10.1.2.3=3"]), "10.1.2.3"),
        (extended(&["--vlan", "0=10.2.0.0/16"]), "VLAN 0"),
        (extended(&["--vlan", "4095=10.2.0.0/16"]), "VLAN 4095"),
        (extended(&["--vlan", "2=10.1.0.0/16"]), "10.1.0.0/16"),
        (extended(&["--mtu", "1=67"]), "from 68"),
        (extended(&["--mtu", "7=1500"]), "VLAN 7"),
        (extended(&["--attach-pause", "61"]), "attach_pause"),
        (extended(&["--flows", "1"]), "flows"),
        (extended(&["--instance", "a/b"]), "a/b"),
        (vec!["show", "--instance", "a b"], "a b"),
        (vec!["detach", "--instance", "../.."], "../.."),
        (vec!["explain", "tcp", "10.0.0.1", "[2001:db8::1]:80"], "2001:db8::1"),
    ] {
        assert_fails(&arguments, run(&arguments), &[part]);
    }
}

#[test]
fn completions_are_scripts() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, stderr) = run(&["completions", shell]);
        assert_eq!((code, stderr.as_str()), (0, ""), "{shell}");
        for word in ["balance", "explain", "detach", "bpffs"] {
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

/// A balancer and its network in namespaces: `eth0` with 10.1.2.1/24, beyond
/// it the hosts 10.1.2.3 and 10.1.2.4; `eth1` with 10.1.3.1/24 and nobody
/// beyond it; and `down0`, which is down.
struct Lab {
    balancer: Namespace,
    _network: Namespace,
    instance: String,
}

impl Lab {
    /// None, with the reason printed, where the tests may not make one.
    fn new(label: &str) -> Option<Self> {
        if !geteuid().is_root() {
            eprintln!("skipped: needs root for network namespaces and BPF");
            return None;
        }
        let balancer = Namespace::new(label);
        let network = Namespace::new("network");
        balancer.sh(&format!(
            "ip link add eth0 type veth peer name eth0 netns {}
            ip address add 10.1.2.1/24 dev eth0
            ip link set eth0 up
            ip link add eth1 type veth peer name peer1
            ip address add 10.1.3.1/24 dev eth1
            ip link set eth1 up
            ip link add down0 type veth peer name down1",
            network.name()
        ));
        network.sh("ip address add 10.1.2.3/24 dev eth0
            ip address add 10.1.2.4/24 dev eth0
            ip link set eth0 up");
        let instance = balancer.name().to_owned();
        Some(Self { balancer, _network: network, instance })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = xvsctl(arguments);
        command.args(["--instance", &self.instance]);
        command
    }

    /// Runs `xvsctl` inside, for this instance, to its end.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.balancer.enter(|| self.command(arguments).output());
        finished(arguments, output.expect("xvsctl runs"))
    }

    /// What `xvsctl ... --json` prints.
    fn objects(&self, arguments: &[&str]) -> Vec<Value> {
        let arguments = [arguments, &["--json"]].concat();
        let (code, stdout, stderr) = self.run(&arguments);
        assert_eq!((code, stderr.as_str()), (0, ""), "{arguments:?}");
        stdout.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
    }

    /// Starts `xvsctl balance ... --json` inside.
    fn balance(&self, arguments: &[&str]) -> Balance {
        let arguments = [&["balance", "--json"], arguments].concat();
        let mut child = self.balancer.enter(|| {
            self.command(&arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("xvsctl runs")
        });
        let (sender, events) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in stdout.lines() {
                let event = serde_json::from_str(&line.unwrap()).expect("a line is JSON");
                if sender.send(event).is_err() {
                    break;
                }
            }
        });
        let stdin = child.stdin.take().unwrap();
        Balance { child, stdin, events }
    }
}

/// A running `xvsctl balance --json`, killed when dropped.
struct Balance {
    child: Child,
    stdin: ChildStdin,
    events: Receiver<Value>,
}

impl Balance {
    /// The next event of this name; others are skipped.
    fn event(&self, name: &str) -> Value {
        loop {
            let event: Value = self
                .events
                .recv_timeout(Duration::from_secs(20))
                .unwrap_or_else(|_| panic!("there should be an event {name}"));
            if event["event"] == name {
                return event;
            }
        }
    }

    /// The answer to a command.
    fn tell(&mut self, command: &str, answer: &str) -> Value {
        writeln!(self.stdin, "{command}").unwrap();
        let event = self.event(answer);
        assert_eq!(event["input"], command);
        event
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // What a killed balancer left; usually nothing.
        let _ = self.command(&["detach"]).output();
    }
}

impl Drop for Balance {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks until it is so; panics if that takes longer than 20 seconds.
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "not within 20 s: {what}");
        thread::yield_now();
    }
}

/// The keys of an object, with spaces between them.
fn keys(object: &Value) -> String {
    let keys = object.as_object().expect("it is an object").keys();
    keys.map(String::as_str).collect::<Vec<_>>().join(" ")
}

const WEB: [&str; 5] = ["eth0", "10.1.2.0/24", "192.168.100.1", "10.1.2.3", "10.1.2.4"];

#[test]
fn what_the_host_lacks_is_named() {
    let Some(lab) = Lab::new("lacks") else { return };
    for (arguments, parts) in [
        (["balance", "eth7", "10.1.2.0/24", "192.168.100.1", "10.1.2.3"], ["eth7", "no interface"]),
        (["balance", "down0", "10.1.2.0/24", "192.168.100.1", "10.1.2.3"], ["down0", "down"]),
        (["balance", "eth0,eth0", "10.1.2.0/24", "192.168.100.1", "10.1.2.3"], ["eth0", "list"]),
    ] {
        assert_fails(&arguments, lab.run(&arguments), &parts);
    }
    for arguments in [
        &["show"][..],
        &["show", "flows", "--json"],
        &["detach"],
        &["explain", "tcp", "10.0.0.1", "192.168.100.1:80"],
    ] {
        assert_fails(arguments, lab.run(arguments), &[&lab.instance, "no instance"]);
    }
}

#[test]
fn balance_runs_obeys_and_leaves_nothing() {
    let Some(lab) = Lab::new("runs") else { return };
    let options = ["--port", "80", "--port", "53/udp", "--weight", "10.1.2.4=3"];
    let mut balance = lab.balance(&[&WEB[..], &options].concat());
    let ready = balance.event("ready");
    assert_eq!(keys(&ready), "event instance interfaces services");
    assert_eq!(ready["instance"], lab.instance);
    assert_eq!(ready["interfaces"][0]["name"], "eth0");

    let weights = || {
        let all = lab.objects(&["show", "destinations"]);
        assert_eq!(all.len() % 2, 0, "both services have the same: {all:?}");
        all.iter()
            .map(|d| (d["address"].to_string(), d["weight"].as_u64(), d["disabled"].as_bool()))
            .collect::<Vec<_>>()
    };
    assert!(weights().contains(&("\"10.1.2.4\"".to_owned(), Some(3), Some(false))));
    balance.tell("weight 10.1.2.3 7", "ok");
    balance.tell("disable 10.1.2.3", "ok");
    let changed = ("\"10.1.2.3\"".to_owned(), Some(7), Some(true));
    assert_eq!(weights().iter().filter(|d| **d == changed).count(), 2);
    balance.tell("enable 10.1.2.3", "ok");
    balance.tell("remove 10.1.2.4", "ok");
    assert_eq!(weights().len(), 2);
    balance.tell("add 10.1.2.4", "ok");
    assert_eq!(weights().len(), 4);
    for (command, part) in [
        ("weight 10.1.2.3 0", "weight 0"),
        ("disable 10.1.2.9", "10.1.2.9"),
        ("add 10.1.2.3", "already"),
        ("dance", "dance"),
    ] {
        let message = balance.tell(command, "error")["message"].to_string();
        assert!(message.contains(part), "{message}");
    }

    let again = [&["balance"][..], &WEB].concat();
    assert_fails(&again, lab.run(&again), &["is run by process"]);
    let process = balance.child.id().to_string();
    let same = ["balance", "eth1", "10.1.3.0/24", "192.168.100.2", "10.1.3.3"];
    assert_fails(&same, lab.run(&same), &[&lab.instance, &process]);
    assert_fails(&["detach"], lab.run(&["detach"]), &[&lab.instance, &process]);

    balance.signal(Signal::SIGTERM);
    let stopped = balance.event("stopped");
    assert_eq!(keys(&stopped), "cause duration_seconds event stats");
    assert_eq!(stopped["cause"], "SIGTERM");
    assert_eq!(balance.child.wait().unwrap().code(), Some(0));
    assert!(!lab.balancer.sh("ip link show eth0").contains("xdp"));
    assert_eq!(lab.run(&["show"]).0, 1);
}

#[test]
fn balance_ends_by_time_and_by_command() {
    let Some(lab) = Lab::new("ends") else { return };
    let arguments = [&["balance"][..], &WEB, &["--duration", "1.5"]].concat();
    let (code, stdout, stderr) = lab.run(&arguments);
    assert_eq!(code, 0, "{stderr}");
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(matches!(lines[..], ["ready", summary] if summary.starts_with("stopped (duration)")));

    let mut balance = lab.balance(&WEB);
    balance.event("ready");
    balance.tell("quit", "ok");
    assert_eq!(balance.event("stopped")["cause"], "quit");
    assert_eq!(balance.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_vlan_that_cannot_be_reached_is_told_with_the_reason() {
    let Some(lab) = Lab::new("vlans") else { return };
    let vlans = ["--vlan", "9=10.9.9.0/24", "--mtu", "9=1400"];
    let arguments = ["eth0", "10.1.2.0/24", "192.168.100.1", "10.9.9.3"];
    let balance = lab.balance(&[&arguments[..], &vlans].concat());
    let told = balance.event("vlan");
    assert_eq!(
        (&told["vlan"], &told["prefix"], &told["status"]),
        (&json!(9), &json!("10.9.9.0/24"), &json!("no_interface"))
    );
    assert_eq!(balance.event("waiting")["destinations"][0]["status"], "no_interface");
    let shown = &lab.objects(&["show", "vlans"])[1];
    assert_eq!((&shown["status"], &shown["interface"]), (&json!("no_interface"), &json!(null)));
    let (_, table, _) = lab.run(&["show", "vlans"]);
    assert!(table.contains("no interface has an address in it"), "{table}");

    lab.balancer.sh("ip link add other type veth peer name unused && ip link set other up
         ip addr add 10.9.9.1/24 dev other");
    let shown = || lab.objects(&["show", "vlans"])[1].clone();
    assert_eq!(balance.event("vlan")["status"], "elsewhere");
    assert_eq!(shown()["status"], "elsewhere");
    lab.balancer.sh("ip addr add 10.9.9.2/24 dev eth0
         ip route add default via 10.9.9.254 dev eth0");
    assert_eq!(balance.event("vlan")["status"], "usable");
    wait_until("the gateway is seen", || shown()["gateway"] == "10.9.9.254");
    let shown = shown();
    assert_eq!(
        (&shown["interface"], &shown["address"], &shown["mtu"]),
        (&json!("eth0"), &json!("10.9.9.2"), &json!(1400))
    );
}

#[test]
fn an_unreachable_server_is_told_with_the_reason() {
    let Some(lab) = Lab::new("unreachable") else {
        return;
    };
    let balance = lab.balance(&["eth0", "10.1.2.0/24", "192.168.100.1", "10.1.2.3", "10.9.9.9"]);
    let waiting = balance.event("waiting");
    assert_eq!(waiting["destinations"][0]["address"], "10.9.9.9");
    assert_eq!(waiting["destinations"][0]["status"], "no_prefix");
    let service = &lab.objects(&["show", "services"])[0];
    assert_eq!(
        (service["status"].as_str(), service["usable"].as_u64()),
        (Some("forwarding"), Some(1))
    );
    let (_, table, _) = lab.run(&["show", "destinations"]);
    assert!(table.contains("in no VLAN's prefix"), "{table}");
    drop(balance);

    let balance = lab.balance(&["eth0", "10.1.2.0/24", "192.168.100.1", "10.9.9.9"]);
    assert_eq!(balance.event("waiting")["services"][0]["status"], "unreachable");
    let (_, table, _) = lab.run(&["show", "services"]);
    assert!(table.contains("forwards nothing: ") && table.contains("(10.9.9.9: "), "{table}");
}

#[test]
fn what_a_dead_process_left_is_detached() {
    let Some(lab) = Lab::new("dead") else { return };
    let balance = lab.balance(&WEB);
    balance.event("ready");
    drop(balance);
    let (code, _, stderr) = lab.run(&["show"]);
    assert!(code == 0 && stderr.contains("is gone"), "{stderr}");
    let (code, stdout, stderr) = lab.run(&["detach"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains(&lab.instance), "{stdout}");
    assert!(!lab.balancer.sh("ip link show eth0").contains("xdp"));
    assert_eq!(lab.run(&["detach"]).0, 1);
}

const STATS: &str = "active fin flows octets packets reasons recent rst syn";

#[test]
fn show_tells_all_with_stable_keys() {
    let Some(lab) = Lab::new("show") else { return };
    let balance = lab.balance(&WEB);
    balance.event("ready");

    let both = lab.objects(&["show"]);
    let [info, service] = both.as_slice() else { panic!("info and one service: {both:?}") };
    assert_eq!(
        keys(info),
        "alive destinations destinations_limit flows flows_limit instance interfaces latency_ns \
         process services services_limit stats table_size type uptime_seconds vips"
    );
    assert_eq!(info["process"], balance.child.id());
    assert_eq!(
        keys(&info["interfaces"][0]),
        "attached driver index mode mtu name offloads_off offloads_on rx_queues tx_queues up"
    );
    assert_eq!(info["interfaces"][0]["mtu"], 1500);
    assert_eq!(keys(&info["vips"][0]), "address services stats");
    assert_eq!(keys(&info["stats"]), STATS);
    assert_eq!(
        keys(&info["stats"]["reasons"]).split(' ').count(),
        Reasons::default().iter().count()
    );
    assert_eq!(
        keys(service),
        "address closing_seconds destinations idle_seconds port protocol reason service stats \
         status sticky type unreachable usable"
    );
    assert_eq!(service["status"], "forwarding");
    assert_eq!(service["usable"], 2);
    assert_eq!(keys(&service["stats"]), STATS);

    let destinations = lab.objects(&["show", "destinations"]);
    assert_eq!(destinations.len(), 2);
    assert_eq!(
        keys(&destinations[0]),
        "address disabled interface interface_index mac reason service stats status tunnel type \
         weight"
    );
    assert_eq!(destinations[0]["interface"], "eth0");
    assert_eq!(destinations[0]["mac"].as_str().map(str::len), Some(17));

    assert!(lab.objects(&["show", "flows"]).is_empty());
    let vlans = lab.objects(&["show", "vlans"]);
    assert_eq!(
        keys(&vlans[0]),
        "address gateway interface interface_index mtu prefix reason status type vlan"
    );
    assert_eq!(
        (&vlans[0]["prefix"], &vlans[0]["interface"]),
        (&"10.1.2.0/24".into(), &"eth0".into())
    );
    let neighbours = lab.objects(&["show", "neighbours"]);
    assert_eq!(keys(&neighbours[0]), "address interface interface_index mac managed state type");
    assert!(neighbours.iter().any(|neighbour| neighbour["address"] == "10.1.2.3"));

    for subject in ["info", "services", "destinations", "flows", "vlans", "neighbours"] {
        let (code, stdout, stderr) = lab.run(&["show", subject]);
        assert_eq!((code, stderr.as_str()), (0, ""), "{subject}");
        assert!(!stdout.is_empty(), "{subject}");
    }

    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let output = lab.balancer.enter(|| lab.command(&["show"]).stdout(writer).output().unwrap());
    assert_eq!(finished(&["show"], output), (0, String::new(), String::new()));
}

#[test]
fn explain_tells_where_packets_go_and_why() {
    let Some(lab) = Lab::new("explain") else {
        return;
    };
    let mut balance = lab.balance(&WEB);
    balance.event("ready");
    let explain = |arguments: &[&str]| {
        let mut all = lab.objects(&[&["explain"], arguments].concat());
        assert_eq!(all.len(), 1);
        all.remove(0)
    };

    let syn = explain(&["tcp", "10.7.7.7:1234", "192.168.100.1:80", "--syn"]);
    assert_eq!(keys(&syn), "destination flow reason service shares steps table_index type verdict");
    assert_eq!((&syn["verdict"], &syn["reason"]), (&"forward".into(), &"forwarded_syn".into()));
    assert!(syn["table_index"].is_u64() && syn["destination"]["mac"].is_string());
    let ack = explain(&["tcp", "10.7.7.7:1234", "192.168.100.1:80"]);
    assert_eq!(ack["reason"], "forwarded_new");
    assert_eq!(ack["table_index"], syn["table_index"]);

    let any = explain(&["tcp", "10.7.7.7", "192.168.100.1:80"]);
    assert_eq!(any["shares"].as_array().map(Vec::len), Some(2));
    let sum: f64 =
        any["shares"].as_array().unwrap().iter().filter_map(|s| s["share"].as_f64()).sum();
    assert!((sum - 1.0).abs() < 1e-6, "{any}");

    assert_eq!(explain(&["tcp", "10.7.7.7:1", "192.168.100.9:80"])["reason"], "not_vip");
    let (_, steps, _) = lab.run(&["explain", "udp", "10.7.7.7:1", "192.168.100.1:53"]);
    assert!(steps.contains("no_service") && steps.contains("192.168.100.1:80/tcp"), "{steps}");
    balance.tell("disable 10.1.2.3", "ok");
    balance.tell("disable 10.1.2.4", "ok");
    let (_, steps, _) = lab.run(&["explain", "tcp", "10.7.7.7:1", "192.168.100.1:80"]);
    assert!(steps.contains("no_destination") && steps.contains("disabled"), "{steps}");
}

#[test]
fn check_judges_the_host_and_its_interfaces() {
    let Some(lab) = Lab::new("check") else { return };
    let (code, table, stderr) = lab.run(&["check", "eth0"]);
    assert_eq!((code, stderr.as_str()), (0, ""), "{table}");
    for line in table.lines().skip(1) {
        assert!(["ok ", "warn "].iter().any(|level| line.starts_with(level)), "{line}");
    }
    let findings = lab.objects(&["check", "eth0"]);
    for finding in &findings {
        assert_eq!(keys(finding), "found interface level remedy subject type");
    }
    for subject in ["kernel", "BTF", "bpffs", "JIT", "capabilities", "memlock", "XDP", "MTU"] {
        assert!(findings.iter().any(|finding| finding["subject"] == subject), "{subject}");
    }
    for (interface, part) in [("eth7", "no such interface"), ("down0", "ip link set down0 up")] {
        let (code, table, _) = lab.run(&["check", interface]);
        assert_eq!(code, 1, "{table}");
        assert!(table.lines().any(|l| l.starts_with("fail") && l.contains(part)), "{table}");
    }
    assert_eq!(lab.run(&["check", "eth0", "--bpffs", "/nowhere"]).0, 1);

    let balance = lab.balance(&WEB);
    balance.event("ready");
    let (code, table, _) = lab.run(&["check", "eth0"]);
    assert_eq!(code, 0, "{table}");
    assert!(table.contains(&format!("instance `{}` is attached", lab.instance)), "{table}");
}
