//! Probes by NAT addresses: real sockets on the balancer's host, real servers.

#[path = "common/features.rs"]
mod features;
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
#[path = "common/tunnelled.rs"]
mod tunnelled;
#[path = "common/vlans.rs"]
mod vlans;
#[path = "common/wire.rs"]
mod wire;
#[path = "common/xdp.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod xdp;

#[path = "probes/addresses.rs"]
mod addresses;
#[path = "probes/checker.rs"]
mod checker;
#[path = "probes/errors.rs"]
mod errors;
#[path = "probes/faults.rs"]
mod faults;
#[path = "probes/frames.rs"]
mod frames;
#[path = "probes/hosts.rs"]
mod hosts;
#[path = "probes/kinds.rs"]
mod kinds;
#[path = "probes/many.rs"]
mod many;
#[path = "probes/outsiders.rs"]
mod outsiders;
#[path = "probes/traffic.rs"]
mod traffic;

use lab::wait;
use server::PATIENCE;
use xvs::Client;
use xvs::Reasons;

/// What became of all packets so far.
fn reasons(balancer: &Client) -> Reasons {
    balancer.info().expect("the balancer runs").stats.reasons
}

/// Waits until a counter has grown by so much since `before`; it must not be more.
fn counted(balancer: &Client, what: &str, before: u64, more: u64, counter: fn(&Reasons) -> u64) {
    wait(&format!("{what} after {before}"), PATIENCE, || {
        let now = counter(&reasons(balancer)) - before;
        assert!(now <= more, "{what}: {now} instead of {more}");
        (now == more).then_some(())
    });
}
