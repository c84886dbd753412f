//! A balancer in a process of its own.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::path::Path;
use std::process::Child;
use std::process::ChildStdin;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::Value;

use super::lab::Lab;

/// The program as it was built for this test.
pub fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_xvsctl"))
}

/// `xvsctl balance --json` for all backends, killed when dropped.
pub struct Balance {
    child: Child,
    input: ChildStdin,
    events: Receiver<Value>,
}

impl Balance {
    /// Starts it in `lb` with both VIPs of number 1, with what comes before
    /// the program's name and options after it.
    pub fn start(lab: &Lab, before: &[String], program: &Path, options: &[&str]) -> Self {
        let mut words = before.to_vec();
        words.push(program.display().to_string());
        words.push("balance".to_owned());
        words.push(format!("--bpffs={}", lab.bpffs().display()));
        let fixed =
            "--instance=lab --json eth0 10.1.2.0/24,fd00:1:2::/64 192.168.100.1,fd00:100::1";
        words.extend(fixed.split(' ').map(str::to_owned));
        words.extend(lab.backends.iter().map(|backend| backend.v4.to_string()));
        words.extend(options.iter().map(|option| (*option).to_owned()));
        let mut child = lab.lb.enter(|| {
            Command::new(&words[0])
                .args(&words[1..])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("the program starts")
        });
        let input = child.stdin.take().expect("it is piped");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let (told, events) = mpsc::channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = told.send(serde_json::from_str(&line).expect("each line is JSON"));
            }
        });
        Self { child, input, events }
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for an event of a kind.
    pub fn expect(&self, kind: &str, limit: Duration) -> Value {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(left);
            let event = event.unwrap_or_else(|error| panic!("no event `{kind}`: {error}"));
            if event["event"] == kind {
                return event;
            }
        }
    }

    /// Says something on its standard input.
    pub fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("it is there");
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.id()).expect("process ids are small");
        kill(Pid::from_raw(id), signal).expect("it is our child");
    }

    /// Ends it as an administrator would.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.child.wait().expect("it is our child")
    }
}

impl Drop for Balance {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
