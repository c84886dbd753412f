//! End to end: real sockets in network namespaces, through a balancer.

#[path = "common/following.rs"]
mod following;
#[path = "common/lab.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod lab;
#[path = "common/netns.rs"]
mod netns;
#[path = "common/random.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod random;
#[path = "common/server.rs"]
mod server;
#[path = "common/sniffer.rs"]
mod sniffer;
#[path = "common/talk.rs"]
mod talk;
#[path = "common/xdp.rs"]
mod xdp;
#[path = "common/xvsctl.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod xvsctl;

#[path = "lab/affinity.rs"]
mod affinity;
#[path = "lab/capabilities.rs"]
mod capabilities;
#[path = "lab/connections.rs"]
mod connections;
#[path = "lab/drain.rs"]
mod drain;
#[path = "lab/events.rs"]
mod events;
#[path = "lab/explain.rs"]
mod explain;
#[path = "lab/jumbo.rs"]
mod jumbo;
#[path = "lab/lifecycle.rs"]
mod lifecycle;
#[path = "lab/neighbours.rs"]
mod neighbours;
#[path = "lab/offloads.rs"]
mod offloads;
#[path = "lab/refusals.rs"]
mod refusals;
#[path = "lab/stats.rs"]
mod stats;
#[path = "lab/vlans.rs"]
mod vlans;
#[path = "lab/web.rs"]
mod web;
