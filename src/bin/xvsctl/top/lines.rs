//! Rates as lines of text that fit a terminal.

use super::rates::Rates;
use super::rates::Top;
use crate::output;

/// The room that there is for lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub width: usize,
    pub height: usize,
}

impl Size {
    /// Room for anything.
    pub const UNLIMITED: Self = Self { width: usize::MAX, height: usize::MAX };
}

/// The title, the total and as many services and destinations as there is room for.
pub fn lines(title: &str, top: &Top, size: Size) -> Vec<String> {
    let mut rows = vec![row("all", &top.total)];
    for service in &top.services {
        rows.push(row(&service.service.to_string(), &service.rates));
        let destinations = service.destinations.iter();
        rows.extend(destinations.map(|(address, rates)| row(&format!("  {address}"), rates)));
    }
    let headings = ["", "PACKETS/S", "BITS/S", "FLOWS/S", "SYN/S", "LIVE", "REFUSED/S", ""];
    let widths = output::widths(headings, &rows);
    let line = |row: &[String; 8]| {
        let [name, .., reasons] = row;
        let mut line = format!("{name:0$}", widths[0]);
        for (cell, width) in row.iter().zip(widths).skip(1).take(6) {
            line.push_str(&format!("  {cell:>width$}"));
        }
        format!("{line}  {reasons}")
    };
    let mut lines = vec![title.to_owned(), line(&headings.map(str::to_owned))];
    lines.extend(rows.iter().map(line));
    if lines.len() > size.height {
        let kept = size.height.saturating_sub(1);
        let more = format!("... {} more", lines.len() - kept);
        lines.truncate(kept);
        lines.push(more);
        lines.truncate(size.height);
    }
    let cut = |line: String| line.trim_end().chars().take(size.width).collect();
    lines.into_iter().map(cut).collect()
}

fn row(name: &str, rates: &Rates) -> [String; 8] {
    let reasons: Vec<String> =
        rates.refused.iter().map(|(name, rate)| format!("{name} {}", short(*rate))).collect();
    [
        name.to_owned(),
        short(rates.packets),
        short(rates.bits),
        short(rates.flows),
        short(rates.syn),
        rates.live.to_string(),
        short(rates.refused()),
        reasons.join(", "),
    ]
}

/// A number with three digits or more, and a unit of thousands.
fn short(number: f64) -> String {
    let (mut number, mut unit) = (number, "");
    for next in ["k", "M", "G", "T"] {
        if number < 999.5 {
            break;
        }
        (number, unit) = (number / 1_000.0, next);
    }
    match number {
        0.0 => "0".to_owned(),
        ..9.95 => format!("{number:.2}{unit}"),
        ..99.5 => format!("{number:.1}{unit}"),
        _ => format!("{number:.0}{unit}"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use xvs::Protocol;
    use xvs::ServiceKey;

    use super::super::rates::ServiceRates;
    use super::*;

    fn top() -> Top {
        let rates = |packets| Rates { packets, bits: 800.0 * packets, ..Rates::default() };
        let service = |host| ServiceRates {
            service: ServiceKey {
                address: IpAddr::from([192, 168, 100, host]),
                port: 80,
                protocol: Protocol::Tcp,
            },
            rates: Rates { refused: vec![("no_destination", 12.5)], ..rates(1_500.0) },
            destinations: vec![(IpAddr::from([10, 1, 2, 3]), Rates { live: 7, ..rates(1_500.0) })],
        };
        let services = (1..=3).map(service).collect();
        Top { interval: Duration::from_secs(1), total: rates(4_500.0), services }
    }

    #[test]
    fn everything_is_told_where_there_is_room() {
        let lines = lines("title", &top(), Size::UNLIMITED);
        assert_eq!(
            lines[..4],
            [
                "title",
                "                      PACKETS/S  BITS/S  FLOWS/S  SYN/S  LIVE  REFUSED/S",
                "all                       4.50k   3.60M        0      0     0          0",
                "192.168.100.1:80/tcp      1.50k   1.20M        0      0     0       12.5  \
             no_destination 12.5",
            ]
        );
        assert_eq!(
            lines[4],
            "  10.1.2.3                1.50k   1.20M        0      0     7          0"
        );
        assert_eq!(lines.len(), 2 + 1 + 3 * 2);
    }

    #[test]
    fn no_line_is_longer_or_lower_than_the_terminal() {
        for (width, height) in [(80, 24), (40, 5), (1, 1), (10, 2), (0, 0)] {
            let lines = lines("a title", &top(), Size { width, height });
            assert!(lines.len() <= height && lines.iter().all(|l| l.len() <= width), "{lines:?}");
        }
        let cut = lines("title", &top(), Size { width: 80, height: 5 });
        assert_eq!(cut[4], "... 5 more");
    }

    #[test]
    fn numbers_have_three_digits_and_a_unit() {
        for (number, text) in [
            (0.0, "0"),
            (0.4, "0.40"),
            (12.34, "12.3"),
            (999.4, "999"),
            (999.6, "1.00k"),
            (123_456.0, "123k"),
            (10e6, "10.0M"),
            (2.5e12, "2.50T"),
            (5e16, "50000T"),
        ] {
            assert_eq!(short(number), text);
        }
    }
}
