//! States, reasons and times in words.

use std::fmt;
use std::time::Duration;
use std::time::SystemTime;

use xvs::DestinationStatus;
use xvs::Drain;
use xvs::Failure;
use xvs::FlowAge;
use xvs::FlowState;
use xvs::Mode;
use xvs::Offload;
use xvs::Reasons;
use xvs::ServiceStatus;
use xvs::Verdict;
use xvs::VlanStatus;

/// The name of a destination's status in JSON.
pub fn destination_status_name(status: DestinationStatus) -> &'static str {
    match status {
        DestinationStatus::Reachable => "reachable",
        DestinationStatus::NoPrefix => "no_prefix",
        DestinationStatus::InterfaceDown => "interface_down",
        DestinationStatus::Resolving => "resolving",
        DestinationStatus::NoNeighbour => "no_neighbour",
        DestinationStatus::NoInterface => "no_interface",
        DestinationStatus::MtuTooSmall => "mtu_too_small",
        DestinationStatus::NotAttached => "not_attached",
        DestinationStatus::NoRoute => "no_route",
        DestinationStatus::NoAddress => "no_address",
        _ => "unknown",
    }
}

/// The name of a VLAN's status in JSON.
pub fn vlan_status_name(status: VlanStatus) -> &'static str {
    match status {
        VlanStatus::Usable => "usable",
        VlanStatus::NoInterface => "no_interface",
        VlanStatus::Elsewhere => "elsewhere",
        VlanStatus::Down => "down",
        VlanStatus::MtuTooSmall => "mtu_too_small",
        VlanStatus::NotAttached => "not_attached",
        _ => "unknown",
    }
}

/// The name of a service's status in JSON.
pub fn service_status_name(status: ServiceStatus) -> &'static str {
    match status {
        ServiceStatus::Forwarding => "forwarding",
        ServiceStatus::Starting => "starting",
        ServiceStatus::Empty => "empty",
        ServiceStatus::Disabled => "disabled",
        ServiceStatus::Unreachable(..) => "unreachable",
        _ => "unknown",
    }
}

/// The name of a probe's failure in JSON.
pub fn probe_failure_name(failure: &Failure) -> &'static str {
    match failure {
        Failure::NoRoute { .. } => "no_route",
        Failure::NoNeighbour { .. } => "no_neighbour",
        Failure::Unusable { .. } => "unusable",
        Failure::NoSource { .. } => "no_source",
        Failure::NoNatRoute { .. } => "no_nat_route",
        Failure::TunnelNotAnswered { .. } => "tunnel_not_answered",
        Failure::NoAnswer { .. } => "no_answer",
        Failure::Silent { .. } => "silent",
        Failure::PortClosed { .. } => "port_closed",
        Failure::PortFiltered { .. } => "port_filtered",
        Failure::NoReply { .. } => "no_reply",
        Failure::Mtu { .. } => "mtu",
        Failure::NoEcho { .. } => "no_echo",
        Failure::Closed { .. } => "closed",
        Failure::NotHttp { .. } => "not_http",
        Failure::HttpStatus { .. } => "http_status",
        Failure::Local { .. } => "local",
        _ => "unknown",
    }
}

/// How far a disabled destination is with its last flows.
pub fn drain(drain: &Drain) -> String {
    let mut parts = vec![format!("disabled for {}", time(drain.since))];
    if drain.done {
        parts.push("drained".to_owned());
        return parts.join(", ");
    }
    let mut flows = count(drain.flows, "flow");
    if let Some(newest) = drain.newest {
        flows = format!("{flows}, the last packet {} ago", time(newest));
    }
    parts.push(flows);
    parts.extend(drain.packets_per_second.map(|rate| format!("{rate:.1} packets/s")));
    parts.extend(drain.left.map(|left| format!("{} left", time(left))));
    parts.join(", ")
}

/// A service's status for people.
pub fn service_status(status: ServiceStatus) -> String {
    match status {
        ServiceStatus::Forwarding => status.to_string(),
        _ => format!("forwards nothing: {status}"),
    }
}

pub fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Auto => "auto",
        Mode::Native => "native",
        Mode::Generic => "generic",
    }
}

/// What was turned off on an interface and what could not be, to go on a line
/// about it.
pub fn offloads(off: &[Offload], on: &[Offload]) -> String {
    let list = |label: &str, offloads: &[Offload]| match offloads {
        [] => String::new(),
        _ => {
            let names: Vec<&str> = offloads.iter().map(|offload| offload.name()).collect();
            format!("; {label}: {}", names.join(", "))
        }
    };
    list("turned off", off) + &list("ON, cannot be turned off", on)
}

pub fn flow_state(state: FlowState) -> &'static str {
    match state {
        FlowState::Open => "open",
        FlowState::Closing => "closing",
        _ => "unknown",
    }
}

/// The name of a flow's age in JSON.
pub fn flow_age_name(age: FlowAge) -> &'static str {
    match age {
        FlowAge::Once => "once",
        FlowAge::Twice => "twice",
        FlowAge::Thrice => "thrice",
        FlowAge::Often => "often",
        _ => "unknown",
    }
}

pub fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Drop => "drop",
        Verdict::Forward => "forward",
    }
}

/// What the name of a reason says has become of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Forwarded,
    Answered,
    Dropped,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Passed => "passed",
            Self::Forwarded => "forwarded",
            Self::Answered => "answered",
            Self::Dropped => "dropped",
        })
    }
}

pub fn outcome(reason: &str) -> Outcome {
    let passed = ["other_host", "neighbour_discovery", "probe_answered", "unattended"];
    if reason.starts_with("not_") || passed.contains(&reason) {
        Outcome::Passed
    } else if reason.starts_with("forwarded_") || reason == "probe_forwarded" {
        Outcome::Forwarded
    } else if reason.ends_with("_replied") {
        Outcome::Answered
    } else {
        Outcome::Dropped
    }
}

/// What a reason means, and for those that want mending, what to do.
pub fn reason(name: &str) -> &'static str {
    match name {
        "not_ip" => "no IP packet; the host's stack has it",
        "not_vip" => "for no virtual address; the host's stack has it",
        "other_host" => "in a frame to another host's MAC address; the host's stack has it",
        "neighbour_discovery" => "IPv6 neighbour discovery; the host's stack has it",
        "forwarded_flow" => "to the destination of a known flow",
        "forwarded_new" => "no flow was known; the hash chose, and the flow is stored if it may",
        "forwarded_syn" => "a SYN; the hash chose",
        "forwarded_fragment" => "a later fragment, after its first one",
        "forwarded_icmp" => "an ICMP error, to the owner of the packet it quotes",
        "echo_replied" => "an ICMP echo request",
        "too_big_replied" => "too large for the way out, and the client was told",
        "too_big_limited" => "too large for the way out, and enough clients were told",
        "no_service" => "no service has this port and protocol; create it, or stop the sender",
        "no_destination" => {
            "the service has no usable destination; `xvsctl show destinations` tells why"
        }
        "ttl_expired" => "its time to live was used up: look for a routing loop",
        "malformed" => "its lengths, versions or headers contradict each other",
        "fragment_orphan" => "a later fragment, and its first one was not seen here",
        "icmp_unsupported" => "an ICMP message that is neither echo request nor error",
        "icmp_unowned" => "an ICMP error that quotes no packet of the virtual address",
        "no_headroom" => "the driver leaves no room in front of a frame for a VLAN tag",
        "nat_from_wire" => "from outside to a NAT address, which are for this host alone",
        "probe_refused" => {
            "to a NAT address that no destination has, or an answer that came in by another way"
        }
        "probe_forwarded" => "a probe of this host's to a NAT address",
        "probe_answered" => "an answer to a probe; the host's stack has it",
        "unattended" => "no process sees to the balancer; start it again",
        _ => "",
    }
}

/// The reasons that were counted and are for `keep`, as `name count, ...`.
pub fn counted(reasons: &Reasons, keep: impl Fn(Outcome) -> bool) -> String {
    let counted: Vec<String> = reasons
        .iter()
        .filter(|(name, count)| *count > 0 && keep(outcome(name)))
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    counted.join(", ")
}

/// A time in at most two units, such as `2 h 5 min` or `1.5 s`.
pub fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// A moment in UTC, to microseconds, as RFC 3339 has it.
pub fn utc(time: SystemTime) -> String {
    let time = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (time.as_secs() / 86_400, time.as_secs() % 86_400);
    // Years that begin in March have their leap day last.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..10 => (era * 400 + year, month + 3),
        _ => (era * 400 + year + 1, month - 9),
    };
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let micros = time.subsec_micros();
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// `1 service`, `2 services`.
pub fn count<N: Copy + fmt::Display + PartialEq + From<u8>>(number: N, noun: &str) -> String {
    let plural = if number == N::from(1) { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_words_and_an_outcome() {
        for (name, _) in Reasons::default().iter() {
            assert!(!reason(name).is_empty(), "{name}");
        }
        assert_eq!(outcome("not_vip"), Outcome::Passed);
        assert_eq!(outcome("other_host"), Outcome::Passed);
        assert_eq!(outcome("forwarded_icmp"), Outcome::Forwarded);
        assert_eq!(outcome("too_big_replied"), Outcome::Answered);
        assert_eq!(outcome("too_big_limited"), Outcome::Dropped);
        assert_eq!(outcome("no_service"), Outcome::Dropped);
    }

    #[test]
    fn offloads_are_told_if_there_are_any() {
        let [tags, _, lro, gro] = Offload::ALL;
        assert_eq!(offloads(&[], &[]), "");
        assert_eq!(
            offloads(&[tags, gro], &[lro]),
            "; turned off: rxvlan, rx-gro-hw; ON, cannot be turned off: lro"
        );
    }

    #[test]
    fn moments_are_told_in_utc() {
        for (milliseconds, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000000Z"),
            (1_795_747_847_123, "2026-11-27T02:50:47.123000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000000Z"),
            (4_102_444_799_000, "2099-12-31T23:59:59.000000Z"),
        ] {
            assert_eq!(utc(SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds)), text);
        }
    }

    #[test]
    fn times_have_two_units() {
        assert_eq!(time(Duration::from_millis(1_500)), "1.5 s");
        assert_eq!(time(Duration::from_secs(61)), "1 min 1 s");
        assert_eq!(time(Duration::from_secs(7_500)), "2 h 5 min");
        assert_eq!(time(Duration::from_secs(90_000)), "1 d 1 h");
    }
}
