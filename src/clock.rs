//! The clock of the data plane: CLOCK_MONOTONIC, in ticks of 2^30 ns.

use std::fs;
use std::sync::OnceLock;
use std::time::Duration;

use nix::time::ClockId;
use nix::time::clock_getres;
use nix::time::clock_gettime;

use crate::bpf::Tick;

const SHIFT: u32 = Tick::XVS_TICK_SHIFT.0;

/// Nanoseconds of CLOCK_MONOTONIC, as programs in the kernel have it.
pub(crate) fn now_ns() -> u64 {
    // SANITY: every Linux has this clock, and it is not before its start.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the monotonic clock can be read");
    (Duration::from(now).as_nanos() as u64).wrapping_add_signed(-namespace_ns())
}

/// By how much the clock of this process's time namespace is ahead.
fn namespace_ns() -> i64 {
    static OFFSET: OnceLock<i64> = OnceLock::new();
    *OFFSET.get_or_init(|| {
        // Kernels without time namespaces have no such file.
        let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
        monotonic_offset(&offsets).unwrap_or(0)
    })
}

/// Of lines such as `monotonic  86400  0`: seconds and nanoseconds.
fn monotonic_offset(offsets: &str) -> Option<i64> {
    let line = offsets.lines().find_map(|line| line.strip_prefix("monotonic"))?;
    let mut numbers = line.split_whitespace().map(str::parse::<i64>);
    let (seconds, nanoseconds) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(seconds * 1_000_000_000 + nanoseconds)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_of_a_time_namespace_are_read() {
        let text = "monotonic           -90         5\nboottime              1         0\n";
        assert_eq!(monotonic_offset(text), Some(-89_999_999_995));
        assert_eq!(monotonic_offset(""), None);
    }
}
