//! Captures: each frame that is asked for, to the last octet, and no other one.

#![cfg(feature = "cli")]

mod common;
#[path = "capture/pcapng.rs"]
mod pcapng;

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::net::IpAddr;
use std::process::Child;
use std::process::ChildStderr;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use common::cpu;
use common::dataplane::Dataplane;
use common::dataplane::Port;
use common::dataplane::Verdict;
use common::dataplane::wait_for;
use common::frame::*;
use libbpf_rs::MapCore;
use libbpf_rs::MapFlags;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use xvs::Action;
use xvs::Capture;
use xvs::CaptureOptions;
use xvs::Destination;
use xvs::Error;
use xvs::Service;

/// TCP has a service there.
const WEB: u16 = 80;
/// Nobody has one there.
const NOTHING: u16 = 81;

/// Where the bits of reasons that are captured are in a CPU's record.
const CAPTURES: usize = 8 * 34;

/// A VIP with one service, and who asks for it.
#[derive(Clone, Copy)]
struct Family {
    vip: IpAddr,
    client: IpAddr,
    server: IpAddr,
    /// The host's own address.
    own: IpAddr,
}

impl Family {
    fn all() -> [Self; 2] {
        let address = |text: &str| text.parse().expect("an address");
        [
            Self {
                vip: address("192.168.100.1"),
                client: address("198.51.100.7"),
                server: address("10.1.2.3"),
                own: address("10.1.2.1"),
            },
            Self {
                vip: address("2001:db8:100::1"),
                client: address("2001:db8:7::7"),
                server: address("fd00:1:2::3"),
                own: address("fd00:1:2::1"),
            },
        ]
    }

    fn serve(self, dataplane: &Dataplane) {
        dataplane.serve(&Service::tcp(self.vip, WEB), &[Destination::new(self.server)]);
    }

    fn ip(self) -> Ip {
        Ip::new(self.client, self.vip)
    }

    /// One that no service takes; the payload tells it from others.
    fn refused(self, payload: &[u8]) -> Vec<u8> {
        self.ip().udp((40_000, NOTHING), payload)
    }

    /// Frames with the reason that each must end with.
    fn frames(self) -> Vec<(&'static str, Vec<u8>)> {
        let ip = self.ip();
        let echo = if self.vip.is_ipv4() { 8 } else { 128 };
        let short = ip.tcp((40_001, WEB), ACK, b"0123456789");
        vec![
            ("not_vip", Ip::new(self.client, self.own).udp((40_000, 53), b"to the host")),
            ("no_service", self.refused(b"to nobody")),
            ("other_host", tagged(self.refused(b"in no VLAN of the host"), 0x6002)),
            ("ttl_expired", self.ip().ttl(1).tcp((40_000, WEB), ACK, b"late")),
            ("malformed", cut(short.clone(), short.len() - 5)),
            ("forwarded_new", ip.tcp((40_002, WEB), ACK, b"new")),
            ("forwarded_flow", ip.tcp((40_002, WEB), ACK, b"known")),
            ("forwarded_syn", ip.tcp((40_003, WEB), SYN, b"")),
            ("echo_replied", ip.icmp(echo, 0, [1, 2, 3, 4], b"echo")),
        ]
    }
}

/// Frames of these reasons, up to the time that none come.
fn capture(dataplane: &Dataplane, options: CaptureOptions) -> Capture {
    Capture::new(&dataplane.reader(), options).expect("the instance runs")
}

fn of(reasons: &[&str]) -> CaptureOptions {
    reasons.iter().fold(CaptureOptions::new(), |options, reason| options.reason(reason))
}

/// What has come; a test run is over when the frame is in the buffer.
fn captured(capture: &mut Capture) -> Vec<xvs::Frame> {
    capture.frames(Duration::ZERO).expect("the instance runs")
}

/// The bits of each CPU.
fn asked(dataplane: &Dataplane) -> Vec<u64> {
    let cpus = dataplane.map("cpus");
    let rows = (0..cpus.max_entries()).map(|row| {
        let record = cpus.lookup(&row.to_ne_bytes(), MapFlags::ANY).expect("a lookup");
        let record = record.expect("the row is within the array");
        u64::from_ne_bytes(*record[CAPTURES..].first_chunk().expect("a word is there"))
    });
    rows.collect()
}

/// `xvsctl capture`, killed when dropped.
struct Process {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Process {
    /// Returns once it captures.
    fn start(dataplane: &Dataplane, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_xvsctl"))
            .args(["capture", "--instance", dataplane.reader().name()])
            .arg("--bpffs")
            .arg(dataplane.bpffs())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("xvsctl runs");
        let mut stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut line = String::new();
        stderr.read_line(&mut line).expect("it is text");
        assert!(line.starts_with("capturing frames of instance"), "{line}");
        Self { child, stderr }
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.id().try_into().expect("process ids are small");
        kill(Pid::from_raw(id), signal).expect("it is our child");
    }

    /// Its exit code, standard output, and what it told at the end.
    fn end(mut self) -> (Option<i32>, Vec<u8>, String) {
        let (mut output, mut told) = (Vec::new(), String::new());
        let stdout = self.child.stdout.as_mut().expect("it is piped");
        stdout.read_to_end(&mut output).expect("it can be read");
        self.stderr.read_to_string(&mut told).expect("it is text");
        let status = self.child.wait().expect("it is our child");
        (status.code(), output, told)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The frame after a run, with its verdict's number.
fn run(dataplane: &Dataplane, frame: &[u8]) -> (u64, Vec<u8>) {
    let (verdict, after) = dataplane.run(Port::Lb0, frame);
    (verdict as u64, after)
}

/// The interface that test runs say frames come by.
fn interface(dataplane: &Dataplane) -> &'static str {
    if dataplane.has_context() { "lb0" } else { "lo" }
}

#[test]
fn a_file_has_each_frame_with_its_reason_and_octets() {
    Dataplane::with(
        |options| options,
        |dataplane| {
            let path = std::env::temp_dir().join(format!("xvs-{}.pcapng", std::process::id()));
            let file = path.to_str().expect("it is UTF-8");
            let reasons = "not_vip,no_service,other_host,ttl_expired,malformed,forwarded_new,\
                           forwarded_flow,forwarded_syn,echo_replied";
            Family::all().iter().for_each(|family| family.serve(dataplane));
            let process = Process::start(dataplane, &["--write", file, "--reason", reasons]);
            let began = SystemTime::now();
            let mut right = Vec::new();
            for (reason, frame) in Family::all().into_iter().flat_map(Family::frames) {
                let (verdict, after) = run(dataplane, &frame);
                if !reason.starts_with("forwarded_") && reason != "echo_replied" {
                    assert_eq!(hex(&after), hex(&frame), "{reason}: nothing is changed");
                }
                right.push((reason, verdict, after));
            }
            process.signal(Signal::SIGTERM);
            let (code, output, told) = process.end();
            assert_eq!((code, output.len()), (Some(0), 0), "{told}");
            assert!(told.starts_with("stopped (SIGTERM)"), "{told}");
            assert!(told.ends_with("frames: 18, over the rate: 0, lost: 0\n"), "{told}");

            let octets = fs::read(&path).expect("it wrote the file");
            fs::remove_file(&path).expect("it is ours");
            let frames = pcapng::read(&octets);
            assert_eq!(frames.len(), right.len());
            let ns = |time: SystemTime| {
                time.duration_since(SystemTime::UNIX_EPOCH).expect("it is later").as_nanos() as u64
            };
            let during = ns(began) - 1_000_000..=ns(SystemTime::now());
            for (frame, (reason, verdict, after)) in frames.iter().zip(&right) {
                assert_eq!(frame.comment, *reason);
                assert_eq!(hex(&frame.octets), hex(after), "{reason}");
                assert_eq!(frame.length as usize, after.len(), "{reason}");
                assert_eq!(frame.verdict, *verdict, "{reason}");
                assert_eq!(frame.interface, interface(dataplane), "{reason}");
                assert!(during.contains(&frame.time), "{reason}: {}", frame.time);
            }
        },
    );
}

#[test]
fn nothing_of_another_reason_is_captured() {
    Dataplane::with(
        |options| options,
        |dataplane| {
            let families = Family::all();
            families.iter().for_each(|family| family.serve(dataplane));
            // Without reasons, the command asks for all of what is dropped.
            let process =
                Process::start(dataplane, &["--json", "--count", "6", "--duration", "60"]);
            let mut one = capture(dataplane, of(&["ttl_expired"]));
            for (_, frame) in families.into_iter().flat_map(Family::frames) {
                run(dataplane, &frame);
            }
            let frames = captured(&mut one);
            assert_eq!(frames.len(), 2, "{frames:?}");
            assert!(frames.iter().all(|frame| frame.reason == "ttl_expired"), "{frames:?}");
            assert!(frames.iter().all(|frame| frame.action == Action::Drop), "{frames:?}");

            let (code, output, told) = process.end();
            assert_eq!((code, told.as_str()), (Some(0), ""));
            let lines: Vec<serde_json::Value> = String::from_utf8(output)
                .expect("it is text")
                .lines()
                .map(|line| serde_json::from_str(line).expect("a line is JSON"))
                .collect();
            let told: Vec<&str> =
                lines[..6].iter().map(|line| line["reason"].as_str().expect("a name")).collect();
            let once = ["no_service", "ttl_expired", "malformed"];
            assert_eq!(told, [once, once].concat());
            assert_eq!(lines[0]["source"], "198.51.100.7");
            assert_eq!(lines[0]["destination_port"], NOTHING);
            assert_eq!(lines[3]["destination"], "2001:db8:100::1");
            assert_eq!(lines[6]["cause"], "count");
            assert_eq!(lines[6]["frames"], 6);
            assert_eq!(lines.len(), 7);
        },
    );
}

#[test]
fn what_is_more_than_the_rate_is_counted() {
    Dataplane::with(
        |options| options,
        |dataplane| {
            let [v4, _] = Family::all();
            v4.serve(dataplane);
            cpu::stay();
            let mut capture = capture(dataplane, of(&["no_service"]).rate(5));
            let began = Instant::now();
            for _ in 0..50 {
                run(dataplane, &v4.refused(b""));
            }
            let seconds = began.elapsed().as_secs() + 1;
            let frames = captured(&mut capture).len() as u64;
            let stats = capture.stats();
            assert!(frames >= 5 && frames <= 5 * seconds, "{frames} in {seconds} s");
            assert_eq!((stats.frames, stats.frames + stats.over_rate), (frames, 50));
            assert_eq!(stats.lost, 0);
            // Each second has as many.
            wait_for("frames of a later second", &true, || {
                run(dataplane, &v4.refused(b""));
                capture.stats().over_rate + frames < dataplane_refused(dataplane)
            });
            assert!(!captured(&mut capture).is_empty());
        },
    );
}

/// How many packets no service took.
fn dataplane_refused(dataplane: &Dataplane) -> u64 {
    dataplane.client.info().expect("info").stats.reasons.no_service
}

#[test]
fn a_buffer_that_nobody_reads_loses_frames_and_says_so() {
    Dataplane::with(
        |options| options,
        |dataplane| {
            let [v4, _] = Family::all();
            v4.serve(dataplane);
            cpu::stay();
            let mut capture = capture(dataplane, of(&["no_service"]).rate(100_000).snaplen(1400));
            // More than 256 KiB.
            let frame = v4.refused(&[7; 1300]);
            for _ in 0..300 {
                run(dataplane, &frame);
            }
            let frames = captured(&mut capture).len() as u64;
            let stats = capture.stats();
            assert!(stats.lost > 0, "{stats:?}");
            assert_eq!((stats.frames, frames + stats.lost, stats.over_rate), (frames, 300, 0));
        },
    );
}

#[test]
fn a_frame_is_cut_at_the_snap_length() {
    Dataplane::with(
        |options| options,
        |dataplane| {
            for family in Family::all() {
                family.serve(dataplane);
                let payload: Vec<u8> = (0..1200).map(|i| (i * 31 + i / 256) as u8).collect();
                let frame = family.refused(&payload);
                for (snaplen, right) in [(38, 38), (256, 256), (1241, 1241), (65_000, frame.len())]
                {
                    let mut capture = capture(dataplane, of(&["no_service"]).snaplen(snaplen));
                    run(dataplane, &frame);
                    let frames = captured(&mut capture);
                    assert_eq!(frames.len(), 1);
                    assert_eq!(hex(&frames[0].octets), hex(&frame[..right]), "{snaplen}");
                    assert_eq!(frames[0].length as usize, frame.len());
                }
            }
        },
    );
}

#[test]
fn a_frame_in_several_buffers_is_captured_from_all_of_them() {
    Dataplane::with(
        |options| options,
        |dataplane| {
            let [v4, _] = Family::all();
            v4.serve(dataplane);
            let payload: Vec<u8> = (0..8000).map(|i| (i * 31 + i / 256) as u8).collect();
            let frame = v4.refused(&payload);
            let mut capture = capture(dataplane, of(&["no_service"]).snaplen(9000));
            if let Err(error) = dataplane.run_split(Port::Lb0, &frame, 3000) {
                println!(
                    "skipped: the kernel tests no frames that are longer than a page: {error}"
                );
                return;
            }
            let frames = captured(&mut capture);
            assert_eq!(frames.len(), 1);
            assert_eq!(hex(&frames[0].octets), hex(&frame));
            assert_eq!(frames[0].length as usize, frame.len());
        },
    );
}

#[test]
fn four_captures_work_beside_each_other() {
    Dataplane::with(
        |options| options,
        |dataplane| {
            let [family, _] = Family::all();
            family.serve(dataplane);
            let reasons = ["no_service", "ttl_expired", "malformed", "no_service"];
            let mut captures: Vec<Capture> =
                reasons.iter().map(|reason| capture(dataplane, of(&[reason]))).collect();
            let fifth = Capture::new(&dataplane.reader(), CaptureOptions::new());
            assert!(matches!(fifth, Err(Error::LimitExceeded { maximum: 4, .. })), "{fifth:?}");

            let counts = |captures: &mut [Capture]| -> Vec<usize> {
                family.frames().iter().for_each(|(_, frame)| drop(run(dataplane, frame)));
                captures.iter_mut().map(|capture| captured(capture).len()).collect()
            };
            assert_eq!(counts(&mut captures), [1, 1, 1, 1]);
            // The end of one leaves the others alone, and makes room.
            drop(captures.remove(0));
            assert_eq!(counts(&mut captures), [1, 1, 1]);
            captures.push(capture(dataplane, of(&["not_vip"])));
            assert_eq!(counts(&mut captures), [1, 1, 1, 1]);
            captures[0].stop();
            assert_eq!(counts(&mut captures), [0, 1, 1, 1]);
        },
    );
}

#[test]
fn nothing_is_left_of_a_capture_that_has_ended() {
    Dataplane::with(
        |options| options,
        |dataplane| {
            let [family, _] = Family::all();
            family.serve(dataplane);
            let none = vec![0; asked(dataplane).len()];
            assert_eq!(asked(dataplane), none);
            let process = Process::start(dataplane, &["--reason", "no_service"]);
            assert!(asked(dataplane).iter().all(|bits| bits.count_ones() == 1));
            process.signal(Signal::SIGINT);
            let (code, _, told) = process.end();
            assert_eq!(code, Some(0), "{told}");
            assert_eq!(asked(dataplane), none);
        },
    );
}

#[test]
fn a_capture_that_was_killed_is_forgotten_at_the_next_frame() {
    Dataplane::with(
        |options| options,
        |dataplane| {
            let [family, _] = Family::all();
            family.serve(dataplane);
            cpu::stay();
            // So many that numbers of dead ones must be taken.
            for _ in 0..5 {
                let process = Process::start(dataplane, &["--reason", "no_service"]);
                process.signal(Signal::SIGKILL);
                let (code, ..) = process.end();
                assert_eq!(code, None);
                let before = asked(dataplane);
                assert!(before.iter().all(|bits| bits.count_ones() == 1), "{before:?}");
                let (verdict, _) = run(dataplane, &family.refused(b""));
                assert_eq!(verdict, Verdict::Drop as u64);
                let after = asked(dataplane);
                assert_eq!(after.iter().filter(|bits| **bits == 0).count(), 1, "{after:?}");
            }
            let mut capture = capture(dataplane, of(&["no_service"]));
            run(dataplane, &family.refused(b"again"));
            assert_eq!(captured(&mut capture).len(), 1);
            drop(capture);
            assert!(asked(dataplane).iter().all(|bits| *bits == 0));
        },
    );
}

#[test]
fn a_capture_ends_when_its_instance_does() {
    let (mut capture, process) = Dataplane::with(
        |options| options,
        |dataplane| (capture(dataplane, CaptureOptions::new()), Process::start(dataplane, &[])),
    );
    let ended = (0..100).find_map(|_| capture.frames(Duration::from_millis(100)).err());
    assert!(matches!(ended, Some(Error::InstanceEnded { .. })), "{ended:?}");
    let (code, _, told) = process.end();
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("has ended"), "{told}");
}
