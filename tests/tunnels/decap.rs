//! Servers take packets out of tunnels by our program.

use std::io::BufRead;
use std::io::BufReader;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use xvs::Destination;
use xvs::Mode;
use xvs::Service;
use xvs::Tunnel;

use crate::FOU;
use crate::GUE;
use crate::address;
use crate::all_tunnels;
use crate::balancer;
use crate::lab::Lab;
use crate::lab::vip;
use crate::manual;
use crate::options;
use crate::serve;
use crate::take_out;
use crate::title;
use crate::upload::forget_paths;
use crate::upload::upload;
use crate::web::PORT;
use crate::web::Web;
use crate::web::get;
use crate::web::octets;
use crate::web::post;
use crate::xvsctl;

/// Full-size segments go through every tunnel: what does not fit its client sends
/// again in smaller ones.
fn uploads(mode: Mode) {
    let lab = Lab::new(1);
    let _web = Web::start_all(&lab);
    let decap = take_out(&lab, mode);
    let balancer = balancer(&lab, options(&lab).mode(mode));
    let mut before = 0;
    for number in [0, 1] {
        let service = Service::tcp(vip(number, PORT).ip(), PORT);
        for family in [0, 1] {
            for tunnel in all_tunnels(FOU[0]) {
                let server = address(&lab.backends[0], family);
                println!("{}:", title(tunnel, service.address, server));
                // A service anew has counted nothing.
                let _ = balancer.remove_service(&service);
                serve(&balancer, &service, &[Destination::new(server).tunnel(tunnel)]);
                upload(&lab, &balancer, &service, 2_000_000, 1_500 - tunnel.overhead(server));
                let stats = balancer.service(&service).expect("it is there").stats;
                assert!(stats.reasons.too_big_replied > 0, "the client was told");

                let reasons = decap[0].stats().expect("counters");
                let all = reasons.ipip + reasons.gre + reasons.fou + reasons.gue;
                assert!(all - before >= 2_000_000 / 1_460, "tunnelled: {reasons:?}");
                before = all;
            }
        }
    }
    let reasons = decap[0].stats().expect("counters");
    println!("{reasons:?}");
    assert_eq!(reasons.udp_checksum, 0, "{reasons:?}");
}

#[test]
fn full_size_segments_cross_every_tunnel() {
    uploads(Mode::Native);
}

#[test]
fn full_size_segments_cross_every_tunnel_in_generic_mode() {
    uploads(Mode::Generic);
}

/// `xvsctl decap`, killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The command line of docs/backends.md; and what it says about segments that fit.
#[test]
fn a_server_is_set_up_as_documented() {
    let lab = Lab::with_two_subnets(1);
    let _web = Web::start_all(&lab);
    let backend = &lab.backends[0];
    manual::set_up_vips(backend);
    let command = manual::commands("With `xvsctl decap`");
    let words: Vec<&str> = command.split_whitespace().collect();
    assert_eq!(words[0], "xvsctl");
    let mut child = backend.namespace.enter(|| {
        let mut command = Command::new(xvsctl::program());
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::piped());
        Running(command.spawn().expect("the program starts"))
    });
    let mut line = String::new();
    let output = child.0.stdout.take().expect("it is piped");
    BufReader::new(output).read_line(&mut line).expect("it tells when it is ready");
    assert!(line.starts_with("ready"), "{line}");

    let balancer = lab.balancer_with(options(&lab), &["eth0", "eth1"]).expect("it starts");
    for number in [0, 1] {
        let to = vip(number, PORT);
        let service = Service::tcp(to.ip(), to.port());
        for family in [0, 1] {
            for tunnel in all_tunnels(FOU[0]) {
                let server = address(backend, family);
                serve(&balancer, &service, &[Destination::new(server).tunnel(tunnel)]);
                let answered = lab.client.enter(|| get(to));
                let title = title(tunnel, to.ip(), server);
                assert_eq!(answered.expect(&title), "b1", "{title}");
            }
        }
    }

    // Nothing that is sent is too large now.
    backend.namespace.sh(&manual::commands("Segments that fit"));
    for number in [0, 1] {
        let to = vip(number, PORT);
        let service = Service::tcp(to.ip(), to.port());
        let _ = balancer.remove_service(&service);
        let tunnel = Tunnel::gue(GUE);
        serve(&balancer, &service, &[Destination::new(backend.v6).tunnel(tunnel)]);
        forget_paths(&lab);
        let answer = lab.client.enter(|| post(to, &octets(100_000))).expect("it is answered");
        let stats = balancer.service(&service).expect("it is there").stats;
        println!("{to}: segments of {}", answer.segment);
        assert_eq!(stats.reasons.too_big_replied, 0, "{stats:?}");
    }
}
