//! A load balancer in a few lines:
//!
//!     balancer eth0 10.1.2.0/24 192.168.100.1 10.1.2.3 10.1.2.4
//!
//! balances port 80 of 192.168.100.1 over two web servers in 10.1.2.0/24,
//! until it is interrupted.

use std::env;
use std::error::Error;

use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;
use xvs::Client;
use xvs::Destination;
use xvs::Options;
use xvs::Service;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [interface, prefix, vip, reals @ ..] = arguments.as_slice() else {
        return Err("usage: balancer <IFACE> <PREFIX> <VIP> <RIP>...".into());
    };

    // Before the client, so that its threads leave the signals to us.
    let stop = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    stop.thread_block()?;

    let client = Client::with_options(Options::new().vlan(1, prefix.parse()?), &[interface])?;
    let service = Service::tcp(vip.parse()?, 80);
    client.create_service(&service)?;
    for real in reals {
        client.create_destination(&service, &Destination::new(real.parse()?))?;
    }

    stop.wait()?;
    Ok(())
}
