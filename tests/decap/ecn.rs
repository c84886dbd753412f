//! Congestion notification at the end of a tunnel: RFC 6040, figure 4.

use crate::case::Case;
use crate::case::run_all;
use crate::frame::*;
use crate::tunnel::*;

const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;

/// For each inner and outer field what leaves, in the order of the figure: Not-ECT,
/// ECT(0), ECT(1), CE outside; none if it is dropped.
const FIGURE: [(u8, [Option<u8>; 4]); 4] = [
    (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
    (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
    (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
    (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
];

#[test]
fn every_row_of_the_figure() {
    let mut cases = Vec::new();
    for tunnel in Tunnel::all() {
        for family in Family::ALL {
            for (inner, row) in FIGURE {
                for (outer, result) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                    // The rest of the octet is nobody's business but its own.
                    let packet = |ecn| client(family).class(0xb8 | ecn).tcp((1, 80), ACK, b"ecn");
                    let ip = tunnel.ip.clone().class(0x48 | outer);
                    let frame = tunnel.clone().ip(ip).wrap(&packet(inner));
                    let name = format!("{} of {family:?}: {outer} with {inner}", tunnel.name());
                    cases.push(match result {
                        None => Case::drops(name, frame, "ce_not_ect"),
                        Some(ecn) => {
                            let reason = tunnel.kind.reason();
                            Case::takes_out(name, frame, reason, packet(ecn))
                        }
                    });
                }
            }
        }
    }
    run_all(&cases);
}

/// The incremental update must give what a sum over all of the header does, whatever
/// the checksum was.
#[test]
fn the_checksum_follows_for_every_identification() {
    let mut cases = Vec::new();
    let tunnel = Tunnel::new(Kind::Ipip, Family::V4);
    let tunnel = tunnel.clone().ip(tunnel.ip.class(CE));
    for identification in (0..=u16::MAX).step_by(37) {
        let packet = |ecn| {
            client(Family::V4).class(ecn).identification(identification).tcp((1, 80), ACK, b"")
        };
        let frame = tunnel.wrap(&packet(ECT_0));
        cases.push(Case::takes_out(format!("{identification}"), frame, "ipip", packet(CE)));
    }
    run_all(&cases);
}
