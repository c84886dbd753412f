//! An IP prefix: an address and the number of its leading bits that count.

use std::fmt;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::str::FromStr;

use crate::Error;
use crate::Result;

/// An IP prefix such as `10.1.2.0/24` or `2001:db8::/64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// The prefix of `length` bits that `address` is in; `None` when the
    /// length is over 32 (IPv4) or 128 (IPv6).
    pub fn containing(address: IpAddr, length: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(v4) if length <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) if length <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
            _ => return None,
        };
        Some(Self { address, length })
    }

    /// The first address of the prefix.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// The number of leading bits that count.
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// Whether the address is in the prefix.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && Self::containing(address, self.length) == Some(*self)
    }

    /// Whether any address is in both prefixes.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.address, self.length))
    }
}

impl FromStr for Prefix {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let invalid = |reason: String| Error::InvalidPrefix { prefix: s.to_owned(), reason };
        let (address, length) =
            s.split_once('/').ok_or_else(|| invalid("there is no `/LENGTH`".to_owned()))?;
        let address: IpAddr =
            address.parse().map_err(|_| invalid(format!("`{address}` is no IP address")))?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = length
            .parse()
            .ok()
            .and_then(|length| Self::containing(address, length))
            .ok_or_else(|| invalid(format!("the length is no number from 0 to {bits}")))?;
        if prefix.address != address {
            return Err(invalid(format!("it has host bits set; the prefix is {prefix}")));
        }
        Ok(prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_contains_and_overlaps() {
        let p: Prefix = "10.1.2.0/24".parse().unwrap();
        assert!(p.contains("10.1.2.255".parse().unwrap()));
        assert!(!p.contains("10.1.3.0".parse().unwrap()));
        assert!(!p.contains("::ffff:10.1.2.1".parse().unwrap()));
        assert!(p.overlaps(&"10.0.0.0/8".parse().unwrap()));
        assert!("0.0.0.0/0".parse::<Prefix>().unwrap().contains("1.2.3.4".parse().unwrap()));
        let p: Prefix = "2001:db8::/64".parse().unwrap();
        assert!(p.contains("2001:db8::1".parse().unwrap()));
        assert!(!p.contains("2001:db8:0:1::".parse().unwrap()));
        assert_eq!(p.to_string(), "2001:db8::/64");
    }

    #[test]
    fn bad_prefixes_are_named() {
        for (text, part) in [
            ("10.1.2.0", "no `/LENGTH`"),
            ("10.1.2/24", "no IP address"),
            ("10.1.2.0/33", "0 to 32"),
            ("::/129", "0 to 128"),
            ("10.1.2.3/24", "10.1.2.0/24"),
        ] {
            let error = text.parse::<Prefix>().unwrap_err().to_string();
            assert!(error.contains(part) && error.contains(text), "{error}");
        }
    }
}
