//! `xvsctl top` tells rates that add up to what was sent.

use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::process::Child;
use std::process::Stdio;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;

use nix::pty::Winsize;
use nix::pty::openpty;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::Value;

use crate::assert_fails;
use crate::lab::Balance;
use crate::lab::Lab;
use crate::lab::keys;

const UDP: [&str; 6] =
    ["eth0", "10.1.2.0/24", "192.168.100.1", "10.1.2.3", "10.1.2.4", "--port=53/udp"];

const RATES: &str = "bits flows live packets reasons refused syn";

fn start(label: &str) -> Option<(Lab, Balance)> {
    let lab = Lab::new(label)?;
    let balance = lab.balance(&UDP);
    balance.event("ready");
    Some((lab, balance))
}

fn interrupt(child: &Child) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
}

/// What a rate comes to over its interval.
fn counted(object: &Value, rate: &Value) -> f64 {
    rate.as_f64().expect("a rate") * object["interval_seconds"].as_f64().expect("a time")
}

#[test]
fn rates_add_up_to_what_was_sent() {
    let Some((lab, balance)) = start("top") else { return };
    let mut top = lab.balancer.enter(|| {
        let mut command = lab.command(&["top", "--json", "--interval", "0.3"]);
        command.stdout(Stdio::piped()).spawn().expect("xvsctl runs")
    });
    let lines = BufReader::new(top.stdout.take().expect("it is piped")).lines();
    let mut objects = lines.map(|line| -> Value {
        serde_json::from_str(&line.expect("it is text")).expect("a line is JSON")
    });
    let first = objects.next().expect("it tells");
    assert_eq!(keys(&first), "interval_seconds rates services time type");
    assert_eq!(keys(&first["rates"]), RATES);
    let octets = lab.send("192.168.100.1:53", 10, 20) as f64;
    lab.send("192.168.100.1:99", 1, 30);

    // Packets, bits, flows, SYN, refused; of everything, of the service, of servers.
    let mut sums = [[0.0; 5]; 3];
    let expected = [200.0, 200.0 * octets * 8.0, 10.0, 0.0];
    let near = |sum: f64, expected: f64| (sum - expected).abs() < 0.01;
    let is_complete = |sums: &[[f64; 5]; 3]| {
        sums.iter().all(|sum| sum.iter().zip(expected).all(|(sum, all)| near(*sum, all)))
            && near(sums[0][4], 30.0)
    };
    for object in objects.by_ref().take(60) {
        let service = &object["services"][0];
        assert_eq!(keys(service), "destinations rates service");
        assert_eq!(service["service"], "192.168.100.1:53/udp");
        let destinations = service["destinations"].as_array().expect("a list");
        assert_eq!(destinations.len(), 2);
        assert_eq!(keys(&destinations[0]), "address rates");
        let mut add = |of: usize, rates: &Value| {
            for (sum, name) in
                sums[of].iter_mut().zip(["packets", "bits", "flows", "syn", "refused"])
            {
                *sum += counted(&object, &rates[name]);
            }
        };
        add(0, &object["rates"]);
        add(1, &service["rates"]);
        destinations.iter().for_each(|destination| add(2, &destination["rates"]));
        if let Some(rate) = object["rates"]["reasons"].get("no_service") {
            assert!(counted(&object, rate) > 0.99, "{object}");
        }
        if is_complete(&sums) {
            break;
        }
    }
    assert!(is_complete(&sums), "{sums:?}, {expected:?}");
    interrupt(&top);
    assert_eq!(top.wait().expect("it ends").code(), Some(0));

    drop(balance);
    let (code, _, stderr) = lab.run(&["top", "--json", "--interval", "0.1"]);
    assert!(code == 0 && stderr.contains("has ended"), "{stderr}");
    assert_eq!(lab.run(&["detach"]).0, 0);
    assert_fails(&["top"], lab.run(&["top"]), &[&lab.instance, "no instance"]);
}

#[test]
fn one_interval_is_told_at_once() {
    let Some((lab, _balance)) = start("once") else { return };
    let done = AtomicBool::new(false);
    let objects = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                lab.send("192.168.100.1:53", 1, 20);
            }
        });
        let objects = lab.objects(&["top", "--once"]);
        done.store(true, Ordering::Relaxed);
        objects
    });
    let [object] = objects.as_slice() else { panic!("one object: {objects:?}") };
    let rates = &object["services"][0]["rates"];
    let (packets, bits) = (rates["packets"].as_f64().unwrap(), rates["bits"].as_f64().unwrap());
    assert!(packets >= 1.0 && (bits / packets - 800.0).abs() < 1.0, "{object}");
    let time = object["interval_seconds"].as_f64().unwrap();
    assert!((1.0..5.0).contains(&time), "{object}");

    let (code, text, stderr) = lab.run(&["top", "--once", "--interval=0.1"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(!text.contains('\x1b'), "{text}");
    for part in [&lab.instance, "PACKETS/S", "\nall ", "\n192.168.100.1:53/udp ", "\n  10.1.2.4 "] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn a_terminal_is_drawn_on_in_place_and_left_as_it_was() {
    let Some((lab, _balance)) = start("terminal") else { return };
    let size = Winsize { ws_row: 4, ws_col: 30, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = openpty(&size, None).expect("a terminal");
    let mut top = lab.balancer.enter(|| {
        let mut command = lab.command(&["top", "--interval", "0.1"]);
        command.stdout(terminal.slave).spawn().expect("xvsctl runs")
    });
    let mut master = File::from(terminal.master);
    let mut text = String::new();
    let mut read = |text: &mut String| {
        let mut block = [0; 4096];
        // Nobody has the other end any more: EIO.
        let length = master.read(&mut block).unwrap_or(0);
        text.push_str(std::str::from_utf8(&block[..length]).expect("it is plain"));
        length > 0
    };
    while text.matches("\x1b[H").count() < 3 {
        assert!(read(&mut text), "it goes on: {text}");
    }
    interrupt(&top);
    while read(&mut text) {}
    assert_eq!(top.wait().expect("it ends").code(), Some(0));
    assert!(text.starts_with("\x1b[?1049h\x1b[?25l\x1b[H"), "{text:?}");
    assert!(text.ends_with("\x1b[?25h\x1b[?1049l"), "{text:?}");
    let frame = text.split("\x1b[H").nth(2).expect("there are two");
    let lines: Vec<&str> = frame.split("\r\n").collect();
    assert_eq!(lines.len(), 4, "{frame:?}");
    for line in &lines {
        let (line, end) = line.split_once('\x1b').expect("the rest is cleared");
        assert!(line.len() <= 30 && end.starts_with("[K"), "{line:?}");
    }
    assert!(lines[3].starts_with("... 3 more\x1b"), "{frame:?}");
}
