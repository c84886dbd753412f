//! `xvsctl events` follows balancers that run.

use std::io::BufRead;
use std::io::BufReader;
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::assert_fails;
use crate::lab::Lab;
use crate::lab::keys;

const WEB: [&str; 5] = ["eth0", "10.1.2.0/24", "192.168.100.1", "10.1.2.3", "10.1.2.4"];

#[test]
fn events_are_followed_until_the_instance_ends() {
    let Some(lab) = Lab::new("events") else { return };
    assert_fails(&["events"], lab.run(&["events"]), &[&lab.instance, "no instance"]);
    let mut balance = lab.balance(&WEB);
    balance.event("ready");

    let resolved = |event: &&Value| event["event"] == "resolved";
    let kept = lab.objects(&["events", "--all", "--duration", "0"]);
    let resolved: Vec<&Value> = kept.iter().filter(resolved).collect();
    assert_eq!(resolved.len(), 2, "{kept:?}");
    assert_eq!(keys(resolved[0]), "address event message service time");
    assert_eq!(resolved[0]["service"], "192.168.100.1:80/tcp");
    let (code, text, stderr) = lab.run(&["events", "--all", "--count", "1"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let (time, _) = text.split_once(' ').expect("a time comes first");
    assert!(text.lines().count() == 1 && time.ends_with('Z') && time.len() == 27, "{text}");

    let mut follower = lab.balancer.enter(|| {
        let arguments = ["events", "--json", "--all"];
        let mut command = lab.command(&arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("xvsctl runs")
    });
    let lines = BufReader::new(follower.stdout.take().expect("it is piped")).lines();
    let mut events = lines.map(|line| -> Value {
        serde_json::from_str(&line.expect("it is text")).expect("a line is JSON")
    });
    assert!(events.by_ref().take(kept.len()).eq(kept), "what is kept comes first");
    balance.tell("disable 10.1.2.3", "ok");
    let live = events.next().expect("it follows");
    assert_eq!(keys(&live), "destinations event message service time");
    assert_eq!((&live["event"], &live["destinations"]), (&"table_rebuilt".into(), &1.into()));
    let mut told = balance.event("table_rebuilt");
    while told["destinations"] != 1 {
        told = balance.event("table_rebuilt");
    }
    assert_eq!(told["message"], live["message"], "both are told alike");

    balance.signal(Signal::SIGTERM);
    balance.event("stopped");
    let rest: Vec<Value> = events.collect();
    let output = follower.wait_with_output().expect("it ends");
    let stderr = String::from_utf8(output.stderr).expect("it is text");
    assert_eq!(output.status.code(), Some(0), "{rest:?} {stderr}");
    assert!(stderr.contains(&lab.instance) && stderr.contains("has ended"), "{stderr}");
}
