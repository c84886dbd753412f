//! A host for balancers, and balancers on it.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::net::UdpSocket;
use std::process::Child;
use std::process::ChildStdin;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use nix::unistd::geteuid;
use serde_json::Value;

use crate::finished;
use crate::netns::Namespace;
use crate::xvsctl;

/// A balancer and its network in namespaces: `eth0` with 10.1.2.1/24, beyond
/// it the hosts 10.1.2.3 and 10.1.2.4; `eth1` with 10.1.3.1/24 and nobody
/// beyond it; and `down0`, which is down.
pub struct Lab {
    pub balancer: Namespace,
    pub network: Namespace,
    pub instance: String,
}

impl Lab {
    /// None, with the reason printed, where the tests may not make one.
    pub fn new(label: &str) -> Option<Self> {
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
        Some(Self { balancer, network, instance })
    }

    /// Sends datagrams to a VIP from so many ports of 10.1.2.3, so many from each. Nobody
    /// answers; what octets an IP packet has is returned.
    pub fn send(&self, vip: &str, flows: usize, packets: usize) -> usize {
        const PAYLOAD: [u8; 72] = [7; 72];
        self.network.sh("ip route replace 192.168.100.0/24 via 10.1.2.1");
        self.network.enter(|| {
            for _ in 0..flows {
                let socket = UdpSocket::bind("10.1.2.3:0").expect("it is its address");
                for _ in 0..packets {
                    socket.send_to(&PAYLOAD, vip).expect("there is a route");
                }
            }
        });
        20 + 8 + PAYLOAD.len()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = xvsctl(arguments);
        command.args(["--instance", &self.instance]);
        command
    }

    /// Runs `xvsctl` inside, for this instance, to its end.
    pub fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.balancer.enter(|| self.command(arguments).output());
        finished(arguments, output.expect("xvsctl runs"))
    }

    /// What `xvsctl ... --json` prints.
    pub fn objects(&self, arguments: &[&str]) -> Vec<Value> {
        let arguments = [arguments, &["--json"]].concat();
        let (code, stdout, stderr) = self.run(&arguments);
        assert_eq!((code, stderr.as_str()), (0, ""), "{arguments:?}");
        stdout.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
    }

    /// Starts `xvsctl balance ... --json` inside.
    pub fn balance(&self, arguments: &[&str]) -> Balance {
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
pub struct Balance {
    pub child: Child,
    stdin: ChildStdin,
    events: Receiver<Value>,
}

impl Balance {
    /// The next event of this name; others are skipped.
    pub fn event(&self, name: &str) -> Value {
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
    pub fn tell(&mut self, command: &str, answer: &str) -> Value {
        writeln!(self.stdin, "{command}").unwrap();
        let event = self.event(answer);
        assert_eq!(event["input"], command);
        event
    }

    pub fn signal(&self, signal: Signal) {
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
pub fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "not within 20 s: {what}");
        thread::yield_now();
    }
}

/// The keys of an object, with spaces between them.
pub fn keys(object: &Value) -> String {
    let keys = object.as_object().expect("it is an object").keys();
    keys.map(String::as_str).collect::<Vec<_>>().join(" ")
}
