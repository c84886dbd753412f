//! The data plane goes on while its process is away, and the next one takes it over.

#[path = "common/lab.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod lab;
#[path = "common/netns.rs"]
mod netns;
#[path = "common/random.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod random;
#[path = "common/server.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod server;
#[path = "common/stream.rs"]
mod stream;
#[path = "common/talk.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod talk;
#[path = "common/xdp.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod xdp;
#[path = "common/xvsctl.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod xvsctl;

#[path = "persist/cycles.rs"]
mod cycles;
#[path = "persist/exits.rs"]
mod exits;
#[path = "persist/inherited.rs"]
mod inherited;
#[path = "persist/killed.rs"]
mod killed;
#[path = "persist/refusals.rs"]
mod refusals;
