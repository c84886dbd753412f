//! `xvsctl decap`: arguments, right and wrong, and what it prints.

use std::io::BufRead;
use std::io::BufReader;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::process::Stdio;

use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::Value;
use xvs::DecapReasons;

use crate::assert_fails;
use crate::finished;
use crate::lab::Lab;
use crate::lab::keys;
use crate::run;

/// A command line that is right in everything, to extend.
const DECAP: [&str; 6] =
    ["decap", "eth0", "--balancer", "10.1.2.3,fd00::3", "--vip", "192.168.100.1"];

fn extended(more: &[&'static str]) -> Vec<&'static str> {
    [&DECAP, more].concat()
}

#[test]
fn wrong_usage_of_decap_exits_2_and_names_the_argument() {
    for (arguments, part) in [
        (vec!["decap"], "IFACE"),
        (vec!["decap", "--balancer", "10.1.2.1", "--vip", "192.168.100.1"], "IFACE"),
        (vec!["decap", "eth0", "--vip", "192.168.100.1"], "--balancer"),
        (vec!["decap", "eth0", "--balancer", "10.1.2.1"], "--vip"),
        (extended(&["--balancer", "lb.example"]), "lb.example"),
        (extended(&["--balancer", "10.1.2.4,"]), "--balancer"),
        (extended(&["--vip", "192.168.100"]), "192.168.100"),
        (extended(&["--local", "eth0"]), "--local"),
        (extended(&["--fou", "http"]), "http"),
        (extended(&["--fou", "65536"]), "65536"),
        (extended(&["--gue=-1"]), "-1"),
        (extended(&["--mode", "fast"]), "fast"),
        (extended(&["--duration", "long"]), "long"),
        (extended(&["eth1"]), "eth1"),
    ] {
        let (code, stdout, stderr) = run(&arguments);
        assert_eq!(code, 2, "{arguments:?}: {stderr}");
        assert_eq!(stdout, "", "{arguments:?}");
        assert!(stderr.contains(part), "{arguments:?}: {stderr} lacks {part}");
        assert!(stderr.contains("--help"), "{arguments:?}: {stderr}");
    }
}

#[test]
fn values_that_decap_refuses_exit_1_and_are_named() {
    for (arguments, parts) in [
        (extended(&["--balancer", "10.1.2.3"]), ["balancer", "10.1.2.3 is named twice"]),
        (extended(&["--vip", "192.168.100.1"]), ["vip", "192.168.100.1 is named twice"]),
        (extended(&["--vip", "10.1.2.3"]), ["10.1.2.3", "virtual address too"]),
        (extended(&["--local", "192.168.100.1"]), ["local", "192.168.100.1"]),
        (extended(&["--local", "10.1.2.1,10.1.2.1"]), ["local", "twice"]),
        (extended(&["--balancer", "0.0.0.0"]), ["balancer", "0.0.0.0"]),
        (extended(&["--vip", "224.0.0.1"]), ["vip", "224.0.0.1"]),
        (extended(&["--vip", "::ffff:10.0.0.1"]), ["vip", "write it as IPv4"]),
        (extended(&["--fou", "0"]), ["fou", "port 0"]),
        (extended(&["--gue", "0"]), ["gue", "port 0"]),
        (extended(&["--fou", "6080", "--gue", "6080"]), ["gue", "6080"]),
    ] {
        assert_fails(&arguments, run(&arguments), &parts);
    }
}

#[test]
fn the_man_page_has_every_reason_of_decap() {
    let man = include_str!("../../docs/xvsctl.8");
    for (reason, _) in DecapReasons::default().iter() {
        assert!(man.contains(reason), "the man page lacks {reason}");
    }
}

#[test]
fn decap_runs_tells_and_leaves_nothing() {
    let Some(lab) = Lab::new("decap") else { return };
    for (interfaces, parts) in [
        ("eth7", ["eth7", "no interface"]),
        ("down0", ["down0", "down"]),
        ("eth0,eth0", ["eth0", "twice"]),
    ] {
        let mut arguments = DECAP.to_vec();
        arguments[1] = interfaces;
        assert_fails(&arguments, lab.run(&arguments), &parts);
    }

    let arguments = extended(&["--fou", "5555", "--json"]);
    let mut child = lab.balancer.enter(|| {
        let mut command = lab.command(&arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("xvsctl runs")
    });
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut event = || -> Value {
        let line = lines.next().expect("a line").expect("it can be read");
        serde_json::from_str(&line).expect("a line is JSON")
    };
    let ready = event();
    assert_eq!(keys(&ready), "event fallback interfaces");
    assert_eq!(ready["event"], "ready");
    assert_eq!(ready["interfaces"][0]["name"], "eth0");
    assert!(lab.balancer.sh("ip link show dev eth0").contains("xdp"));
    assert_fails(&DECAP, lab.run(&DECAP), &["eth0", "another XDP program", "decap"]);
    // Its refusal comes in by the interface.
    let refused = lab.balancer.enter(|| TcpStream::connect(("10.1.2.3", 9)));
    assert_eq!(refused.expect_err("nobody listens").kind(), ErrorKind::ConnectionRefused);

    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    let stopped = event();
    assert_eq!(keys(&stopped), "cause duration_seconds event reasons");
    assert_eq!((&stopped["event"], &stopped["cause"]), (&"stopped".into(), &"SIGTERM".into()));
    let names: Vec<&str> = DecapReasons::default().iter().map(|(name, _)| name).collect();
    for name in &names {
        assert!(stopped["reasons"][name].is_u64(), "{stopped} lacks {name}");
    }
    assert!(stopped["reasons"]["not_tunnel"].as_u64() > Some(0), "{stopped}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!lab.balancer.sh("ip link show dev eth0").contains("xdp"));

    let arguments = extended(&["--mode", "generic", "--duration", "0.1"]);
    let output = lab.balancer.enter(|| lab.command(&arguments).output().expect("xvsctl runs"));
    let (code, stdout, stderr) = finished(&arguments, output);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{stdout}");
    assert_eq!(lines[0], "ready");
    assert!(lines[1].starts_with("stopped (duration) after 0.1 s"), "{stdout}");
}
