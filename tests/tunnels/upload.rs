//! Uploads in segments as large as the path takes.

use xvs::Client;
use xvs::Service;

use crate::lab::Lab;
use crate::server::PATIENCE;
use crate::web::octets;
use crate::web::post;

/// Forgets what the client's kernel has learned of paths.
pub fn forget_paths(lab: &Lab) {
    lab.client.sh("ip route flush cache && ip -6 route flush cache");
}

/// Sends a service so many octets by a path that takes packets of `mtu` octets,
/// which the client's kernel has to find out.
pub fn upload(lab: &Lab, balancer: &Client, service: &Service, length: usize, mtu: u32) {
    forget_paths(lab);
    let to = (service.address, service.port).into();
    let answer = lab.client.enter(|| post(to, &octets(length)));
    let answer = answer.unwrap_or_else(|error| {
        let service = balancer.service(service).expect("it is there");
        panic!("{error}: {:?}", service.stats);
    });
    assert!(answer.time < PATIENCE, "it stalled: {answer:?}");
    let route = lab.client.sh(&format!("ip route get {}", service.address));
    assert!(route.contains(&format!("mtu {mtu}")), "not {mtu}: {route}");
    // Time stamps take 12 octets.
    let segment = mtu - if service.address.is_ipv4() { 40 } else { 60 };
    assert!((segment - 12..=segment).contains(&answer.segment), "{answer:?}");
    let stats = balancer.service(service).expect("it is there").stats;
    assert!(stats.octets > length as u64, "all of it came by: {stats:?}");
    println!(
        "{length} octets in {:?}, segments of {}; the client was told {} times",
        answer.time, answer.segment, stats.reasons.too_big_replied
    );
}
