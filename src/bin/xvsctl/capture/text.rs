//! A frame as a line of text, or as an object.

use std::net::IpAddr;
use std::net::SocketAddr;

use serde_json::Value;
use serde_json::json;
use xvs::Frame;

use super::packet::Packet;
use crate::output;
use crate::words;

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
        words::utc(frame.time),
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
        "time": output::time(frame.time),
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
