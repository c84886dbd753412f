//! Real servers take packets out of tunnels: single frames with exact octets, and
//! datagrams that reach a socket.

#[path = "common/frame.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod frame;
#[path = "common/netns.rs"]
mod netns;
#[path = "common/random.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod random;
#[path = "common/test_run.rs"]
mod test_run;
#[path = "common/wire.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod wire;
#[path = "common/xdp.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod xdp;

#[path = "decap/attach.rs"]
mod attach;
#[path = "decap/case.rs"]
mod case;
#[path = "decap/ecn.rs"]
mod ecn;
#[path = "decap/live.rs"]
mod live;
#[path = "decap/mutation.rs"]
mod mutation;
#[path = "decap/real.rs"]
mod real;
#[path = "decap/refusals.rs"]
mod refusals;
#[path = "decap/sums.rs"]
mod sums;
#[path = "decap/taken.rs"]
mod taken;
#[path = "decap/tunnel.rs"]
mod tunnel;
