//! A frame as a line of text, or as an object.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use serde_json::Value;
use serde_json::json;
use xvs::Frame;

use super::packet::Packet;

/// Time, interface, reason, verdict, what is in the frame, and its length.
pub fn line(frame: &Frame, interface: &str) -> String {
    let what = match Packet::parse(&frame.octets) {
        Some(packet) => {
            let (from, to) = packet.ports.unzip();
            let [from, to] = [(packet.source, from), (packet.destination, to)].map(end);
            format!("{from} > {to} {}", packet.protocol_name())
        }
        None => "no IP packet".to_owned(),
    };
    format!(
        "{} {interface} {} {} {what}, {} octets",
        time(frame.time),
        frame.reason,
        frame.action.name(),
        frame.length
    )
}

pub fn object(frame: &Frame, interface: &str) -> Value {
    let packet = Packet::parse(&frame.octets);
    let ports = packet.and_then(|packet| packet.ports);
    json!({
        "type": "frame",
        "time": since_epoch(frame.time).as_secs_f64(),
        "interface": interface,
        "interface_index": frame.interface,
        "reason": frame.reason,
        "verdict": frame.action.name(),
        "source": packet.map(|packet| packet.source),
        "source_port": ports.map(|(source, _)| source),
        "destination": packet.map(|packet| packet.destination),
        "destination_port": ports.map(|(_, destination)| destination),
        "protocol": packet.map(|packet| packet.protocol),
        "length": frame.length,
        "octets": hex(&frame.octets),
    })
}

fn end((address, port): (IpAddr, Option<u16>)) -> String {
    port.map_or_else(|| address.to_string(), |port| SocketAddr::new(address, port).to_string())
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// By RFC 3339, in UTC.
fn time(time: SystemTime) -> String {
    let since = since_epoch(time);
    let seconds = since.as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let [hour, minute, second] = [seconds / 3600 % 24, seconds / 60 % 60, seconds % 60];
    let micros = since.subsec_micros();
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// Year, month and day of a day since 1970-01-01, in the Gregorian calendar.
fn date(days: u64) -> (u64, u64, u64) {
    // Years begin in March here, so that a leap day is the last one.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_utc() {
        let at = |seconds| time(UNIX_EPOCH + Duration::new(seconds, 1_500));
        assert_eq!(at(0), "1970-01-01T00:00:00.000001Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59.000001Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000001Z");
        assert_eq!(at(1_709_251_200), "2024-03-01T00:00:00.000001Z");
        assert_eq!(at(4_102_444_799), "2099-12-31T23:59:59.000001Z");
    }
}
