//! The clock of the data plane: CLOCK_MONOTONIC, in ticks of 2^30 ns.

use std::time::Duration;

use nix::time::ClockId;
use nix::time::clock_getres;
use nix::time::clock_gettime;

use crate::bpf::Tick;

const SHIFT: u32 = Tick::XVS_TICK_SHIFT.0;

/// Nanoseconds of CLOCK_MONOTONIC.
pub(crate) fn now_ns() -> u64 {
    // SANITY: every Linux has this clock, and it is not before its start.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the monotonic clock can be read");
    Duration::from(now).as_nanos() as u64
}

/// Nanoseconds in one of the kernel's jiffies: the resolution of the clocks that
/// it moves on with these.
pub(crate) fn jiffy_ns() -> u64 {
    let resolution = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE);
    // SANITY: every Linux since 2.6.32 has this clock.
    Duration::from(resolution.expect("the coarse clock has a resolution")).as_nanos() as u64
}

/// The tick now; it wraps.
pub(crate) fn now_tick() -> u32 {
    (now_ns() >> SHIFT) as u32
}

/// The fewest ticks that last as long.
pub(crate) fn ticks(duration: Duration) -> u32 {
    (duration.as_nanos().div_ceil(1 << SHIFT)) as u32
}

/// How long so many ticks last.
pub(crate) fn duration(ticks: u32) -> Duration {
    Duration::from_nanos(u64::from(ticks) << SHIFT)
}
