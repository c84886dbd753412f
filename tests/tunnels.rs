//! Real servers behind tunnels and routers: real sockets in network namespaces,
//! through a balancer, to servers that take the packets out by our program or by
//! the kernel's own devices.

#[path = "common/following.rs"]
mod following;
#[path = "common/frame.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod frame;
#[path = "common/lab.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod lab;
#[path = "common/netns.rs"]
mod netns;
#[path = "common/server.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod server;
#[path = "common/sniffer.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod sniffer;
#[path = "common/tunnelled.rs"]
mod tunnelled;
#[path = "common/wire.rs"]
mod wire;
#[path = "common/xdp.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod xdp;
#[path = "common/xvsctl.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod xvsctl;

#[path = "tunnels/decap.rs"]
mod decap;
#[path = "tunnels/destinations.rs"]
mod destinations;
#[path = "tunnels/errors.rs"]
mod errors;
#[path = "tunnels/kernel.rs"]
mod kernel;
#[path = "tunnels/manual.rs"]
mod manual;
#[path = "tunnels/paths.rs"]
mod paths;
#[path = "tunnels/routes.rs"]
mod routes;
#[path = "tunnels/upload.rs"]
mod upload;
#[path = "tunnels/web.rs"]
mod web;

use lab::Lab;
use tunnelled::FOU;
use tunnelled::GUE;
use tunnelled::address;
use tunnelled::all_tunnels;
use tunnelled::serve;
use tunnelled::take_out;
use tunnelled::title;
use xvs::Client;
use xvs::Options;

/// Options for a balancer here. One client does to it what many do elsewhere.
fn options(lab: &Lab) -> Options {
    lab.options().icmp_source_rate(1_000)
}

/// A balancer with these options.
fn balancer(lab: &Lab, options: Options) -> Client {
    lab.balancer_with(options, &["eth0"]).expect("the balancer starts")
}
