//! The address of an Ethernet interface.

use std::fmt;
use std::str::FromStr;

/// An Ethernet (MAC) address; it prints as `02:00:5e:10:00:01`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether it can be the address of one interface: neither a group's
    /// (the broadcast address is one) nor all zero.
    pub(crate) const fn is_unicast(self) -> bool {
        let [a, b, c, d, e, f] = self.0;
        a & 1 == 0 && a | b | c | d | e | f != 0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        formatter.pad(&format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"))
    }
}

impl FromStr for Mac {
    type Err = InvalidMac;

    fn from_str(s: &str) -> Result<Self, InvalidMac> {
        let octet = |part: &str| match part.as_bytes() {
            [high, low] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                u8::from_str_radix(part, 16).ok()
            }
            _ => None,
        };
        s.split(':')
            .map(octet)
            .collect::<Option<Vec<u8>>>()
            .and_then(|octets| octets.try_into().ok())
            .map(Self)
            .ok_or_else(|| InvalidMac(s.to_owned()))
    }
}

/// The text is no MAC address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidMac(String);

impl fmt::Display for InvalidMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no MAC address such as 02:00:5e:10:00:01", self.0)
    }
}

impl std::error::Error for InvalidMac {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_parses() {
        let mac = Mac([0x02, 0, 0x5e, 0x10, 0, 0xff]);
        assert_eq!(mac.to_string(), "02:00:5e:10:00:ff");
        assert_eq!("02:00:5E:10:00:FF".parse(), Ok(mac));
        assert_eq!(format!("{mac:>20}"), "   02:00:5e:10:00:ff");
    }

    #[test]
    fn bad_text_is_named() {
        for text in
            ["", "02:00:5e:10:00", "02:00:5e:10:00:01:02", "2:0:5e:10:0:1", "+2:00:5e:1:0:1"]
        {
            let error = text.parse::<Mac>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }

    #[test]
    fn unicast() {
        assert!(Mac([2, 0, 0, 0, 0, 1]).is_unicast());
        assert!(!Mac([0xff; 6]).is_unicast());
        assert!(!Mac([0x33, 0x33, 0, 0, 0, 1]).is_unicast());
        assert!(!Mac::default().is_unicast());
    }
}
