//! What the tests that need root share.

#![allow(dead_code, reason = "each test binary uses a part")]

pub mod cpu;
pub mod dataplane;
pub mod flowtable;
pub mod frame;
pub mod netns;
pub mod random;
pub mod test_run;
pub mod vlans;
pub mod wire;
pub mod xdp;
