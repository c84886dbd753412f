//! Frames that a running balancer drops, from its network to the screen.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::net::UdpSocket;
use std::process::Child;
use std::process::ChildStderr;
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::assert_fails;
use crate::lab::Lab;
use crate::lab::keys;

const WEB: [&str; 4] = ["eth0", "10.1.2.0/24", "192.168.100.1", "10.1.2.3"];

/// A capture that has begun, with the rest of its standard error.
fn start(lab: &Lab, arguments: &[&str]) -> (Child, BufReader<ChildStderr>) {
    let mut child = lab.balancer.enter(|| {
        let mut command = lab.command(&[&["capture"], arguments].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("xvsctl runs")
    });
    let mut stderr = BufReader::new(child.stderr.take().expect("it is piped"));
    let mut line = String::new();
    stderr.read_line(&mut line).expect("it is text");
    assert_eq!(line, format!("capturing frames of instance `{}`\n", lab.instance));
    (child, stderr)
}

/// The exit code and all output.
fn end((mut child, mut stderr): (Child, BufReader<ChildStderr>)) -> (Option<i32>, String, String) {
    let (mut output, mut told) = (String::new(), String::new());
    child.stdout.take().expect("it is piped").read_to_string(&mut output).expect("it is text");
    stderr.read_to_string(&mut told).expect("it is text");
    (child.wait().expect("it is our child").code(), output, told)
}

/// Sends datagrams to ports of the VIP that have no service.
fn send(lab: &Lab, datagrams: usize) {
    lab.network.sh("ip route replace 192.168.100.1 via 10.1.2.1");
    lab.network.enter(|| {
        let socket = UdpSocket::bind("10.1.2.3:40000").expect("the address is there");
        for _ in 0..datagrams {
            socket.send_to(b"nobody", "192.168.100.1:99").expect("there is a route");
        }
    });
}

#[test]
fn what_a_balancer_drops_is_told() {
    let Some(lab) = Lab::new("captures") else { return };
    let balance = lab.balance(&WEB);
    balance.event("ready");
    let text = start(&lab, &["--count", "2", "--duration", "60"]);
    let json = start(&lab, &["--json", "--reason", "no_service", "--count=1", "--duration=60"]);
    send(&lab, 2);
    let (code, output, told) = end(text);
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(output.lines().count(), 2, "{output}");
    for line in output.lines() {
        let (time, rest) = line.split_once(' ').expect("a time and more");
        assert!(time.starts_with("20") && time.ends_with('Z'), "{line}");
        let right = "eth0 no_service drop 10.1.2.3:40000 > 192.168.100.1:99 udp, 48 octets";
        assert_eq!(rest, right);
    }
    assert!(told.starts_with("stopped (count)"), "{told}");
    assert!(told.ends_with("frames: 2, over the rate: 0, lost: 0\n"), "{told}");

    let (code, output, told) = end(json);
    assert_eq!((code, told.as_str()), (Some(0), ""));
    let lines: Vec<Value> =
        output.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect();
    assert_eq!(lines.len(), 2, "{output}");
    assert_eq!(
        keys(&lines[0]),
        "destination destination_port interface interface_index length octets protocol reason \
         source source_port time type verdict"
    );
    let octets = lines[0]["octets"].as_str().expect("hexadecimal");
    assert_eq!((octets.len(), &octets[84..]), (2 * 48, "6e6f626f6479"));
    assert_eq!(keys(&lines[1]), "cause duration_seconds frames lost over_rate type");
}

/// Requests and answers are other programs' than clients' packets.
#[test]
fn probes_and_their_answers_are_captured() {
    let Some(lab) = Lab::new("probes") else { return };
    let balance = lab.balance(&WEB);
    balance.event("ready");
    // Nothing listens: the answer is a reset.
    lab.network.sh("ip address add 192.168.100.1/32 dev lo");
    let reasons = "--reason=probe_forwarded,probe_answered";
    let capture = start(&lab, &["--json", reasons, "--count=2", "--duration=60"]);
    let (code, output, _) = lab.run(&["probe", "192.168.100.1:80", "10.1.2.3"]);
    assert_eq!(code, 1, "the port is closed: {output}");
    let (code, output, told) = end(capture);
    assert_eq!((code, told.as_str()), (Some(0), ""));
    let lines: Vec<Value> =
        output.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect();
    assert_eq!(lines[0]["reason"], "probe_forwarded", "{output}");
    assert_eq!(lines[0]["verdict"], "redirect");
    assert_eq!(lines[0]["destination"], "192.168.100.1");
    assert_eq!(lines[0]["destination_port"], 80);
    assert_eq!(lines[1]["reason"], "probe_answered", "{output}");
    assert_eq!(lines[1]["verdict"], "redirect");
    assert_eq!(lines[1]["interface"], "eth0");
    assert_eq!(lines[1]["source_port"], 80);
    // As it leaves: from the server's NAT address.
    assert_eq!(lines[1]["source"], "255.0.0.1", "{output}");
}

#[test]
fn a_file_that_cannot_be_written_is_named_and_nothing_is_captured() {
    let Some(lab) = Lab::new("nofile") else { return };
    let balance = lab.balance(&WEB);
    balance.event("ready");
    let arguments = ["capture", "--write", "/nowhere/frames.pcapng"];
    assert_fails(&arguments, lab.run(&arguments), &["/nowhere/frames.pcapng", "No such file"]);
}

#[test]
fn a_capture_ends_with_its_balancer() {
    let Some(lab) = Lab::new("ends") else { return };
    for (signal, part) in [(Signal::SIGTERM, "has ended"), (Signal::SIGKILL, "is gone")] {
        let mut balance = lab.balance(&WEB);
        balance.event("ready");
        let capture = start(&lab, &["--duration", "60"]);
        balance.signal(signal);
        balance.child.wait().expect("it is our child");
        let (code, output, told) = end(capture);
        assert_eq!((code, output.as_str()), (Some(1), ""), "{told}");
        let [first, last] = told.lines().collect::<Vec<_>>()[..] else {
            panic!("two lines, not {told}");
        };
        assert!(first.starts_with("stopped (failed)"), "{told}");
        assert!(last.contains(&lab.instance) && last.contains(part), "{told}");
    }
}

#[test]
fn a_reader_that_goes_ends_the_capture() {
    let Some(lab) = Lab::new("reader") else { return };
    let balance = lab.balance(&WEB);
    balance.event("ready");
    let (mut child, stderr) = start(&lab, &["--write", "-", "--duration", "60"]);
    drop(child.stdout.take());
    send(&lab, 1);
    let status = child.wait().expect("it is our child");
    let told = stderr.lines().map_while(Result::ok).collect::<Vec<_>>().join("; ");
    assert_eq!(status.code(), Some(0), "{told}");
    assert!(told.starts_with("stopped (reader gone)"), "{told}");
}
