//! What balancers tell each other of a flow: 64 octets that mean the same on
//! every host.

use std::fmt;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;

use crate::FlowState;
use crate::Protocol;
use crate::ServiceKey;
use crate::bpf::address_octets;
use crate::bpf::octets_address;
use crate::hash::HashKey;
use crate::hash::siphash13;

/// A flow as one balancer tells it to others, by any transport.
///
/// It has neither MAC addresses nor numbers nor times that mean something on one host
/// alone: the server is known by its address, and time by how long the flow has been
/// silent. The checksum finds what was corrupted on its way. It is no authentication: who
/// can write records chooses the servers of clients, so the transport has to
/// authenticate them.
///
/// ```text
///  0  magic (0x78)  version (1)  octets of the record (64)  protocol
///  4  closing (1 bit)  seen, less 1 (2 bits)  idle (29 bits, hundredths of a second)
///  8  client's port                      VIP's port
/// 12  checksum
/// 16  client's address, IPv4 mapped into IPv6 (RFC 4291, section 2.5.5.2)
/// 32  VIP
/// 48  server's address
/// ```
///
/// Numbers are big-endian. The checksum is the low half of SipHash-1-3, with a key of
/// zeros, of the record with a checksum of zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlowRecord {
    /// The client.
    pub source: SocketAddr,
    /// The service.
    pub service: ServiceKey,
    /// The real server it goes to.
    pub destination: IpAddr,
    /// How far it is.
    pub state: FlowState,
    /// In how many ticks of 2^30 ns packets came: 1 to 4, which stands for any more.
    /// The better known a flow is, the more right it has to be remembered.
    pub seen: u8,
    /// How long it had been silent when the record was made; told in hundredths of
    /// a second, at most 62 days.
    pub idle: Duration,
}

const MAGIC: u8 = 0x78;
const VERSION: u8 = 1;
/// The head that records of all versions begin with.
const HEAD: usize = 4;
/// Where the checksum is.
const CHECKSUM: std::ops::Range<usize> = 12..16;

const CLOSING: u32 = 1 << 31;
const SEEN_SHIFT: u32 = 29;
const IDLE: u32 = (1 << SEEN_SHIFT) - 1;
/// What idle time is told in.
const IDLE_MS: u32 = 10;

impl FlowRecord {
    /// Octets of a record.
    pub const LENGTH: usize = 64;

    /// An open flow, of which a packet was seen just now and none before.
    pub const fn new(source: SocketAddr, service: ServiceKey, destination: IpAddr) -> Self {
        let (state, seen, idle) = (FlowState::Open, 1, Duration::ZERO);
        Self { source, service, destination, state, seen, idle }
    }

    /// The record as it travels.
    pub fn to_bytes(&self) -> [u8; Self::LENGTH] {
        let idle = self.idle.as_millis() / u128::from(IDLE_MS);
        let known = (u32::from(self.seen.clamp(1, 4)) - 1) << SEEN_SHIFT
            | u32::try_from(idle).unwrap_or(IDLE).min(IDLE)
            | if self.state == FlowState::Closing { CLOSING } else { 0 };
        let mut octets = [0; Self::LENGTH];
        octets[..HEAD].copy_from_slice(&[
            MAGIC,
            VERSION,
            Self::LENGTH as u8,
            self.service.protocol.number(),
        ]);
        octets[4..8].copy_from_slice(&known.to_be_bytes());
        octets[8..10].copy_from_slice(&self.source.port().to_be_bytes());
        octets[10..12].copy_from_slice(&self.service.port.to_be_bytes());
        octets[16..32].copy_from_slice(&address_octets(self.source.ip()));
        octets[32..48].copy_from_slice(&address_octets(self.service.address));
        octets[48..].copy_from_slice(&address_octets(self.destination));
        let checksum = checksum(&octets);
        octets[CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
        octets
    }

    /// The record that the octets begin with.
    ///
    /// # Errors
    ///
    /// When there are too few octets, they are no record, or one of another version,
    /// or one that was corrupted.
    pub fn from_bytes(octets: &[u8]) -> Result<Self, RecordError> {
        let short = RecordError::Truncated { octets: octets.len() };
        let head: &[u8; HEAD] = octets.first_chunk().ok_or(short)?;
        if head[0] != MAGIC {
            return Err(RecordError::NoRecord);
        }
        if head[1] != VERSION {
            return Err(RecordError::Version { version: head[1] });
        }
        let octets: &[u8; Self::LENGTH] = octets.first_chunk().ok_or(short)?;
        let part = |start: usize| octets[start..].first_chunk::<4>().copied().unwrap_or_default();
        if u32::from_be_bytes(part(CHECKSUM.start)) != checksum(octets) {
            return Err(RecordError::Corrupted);
        }
        if usize::from(head[2]) != Self::LENGTH {
            return Err(RecordError::Field { field: "length" });
        }
        let known = u32::from_be_bytes(part(4));
        let [port @ .., _, _] = part(8);
        let [vip_port @ .., _, _] = part(10);
        let record = Self {
            source: SocketAddr::new(address(&octets[16..]), u16::from_be_bytes(port)),
            service: ServiceKey {
                address: address(&octets[32..]),
                port: u16::from_be_bytes(vip_port),
                protocol: Protocol::from_number(head[3])
                    .ok_or(RecordError::Field { field: "protocol" })?,
            },
            destination: address(&octets[48..]),
            state: if known & CLOSING == 0 { FlowState::Open } else { FlowState::Closing },
            seen: (known >> SEEN_SHIFT) as u8 % 4 + 1,
            idle: Duration::from_millis(u64::from(known & IDLE) * u64::from(IDLE_MS)),
        };
        if record.service.port == 0 {
            return Err(RecordError::Field { field: "VIP's port" });
        }
        if record.source.is_ipv4() != record.service.address.is_ipv4() {
            return Err(RecordError::Field { field: "VIP's family, which is not the client's" });
        }
        Ok(record)
    }
}

/// The records of a buffer that has them in a row.
///
/// One that is wrong, or of another version, is an error among the others; what follows
/// it is found by its length. Where no record begins, or one is cut off, is the end.
///
/// ```
/// use xvs::{FlowRecord, Service, records};
///
/// let vip = Service::tcp("192.168.100.1".parse()?, 80).key();
/// let flow = FlowRecord::new("198.51.100.7:4711".parse()?, vip, "10.1.2.3".parse()?);
/// let sent = [flow.to_bytes(), flow.to_bytes()].concat();
/// assert!(records(&sent).all(|record| record == Ok(flow)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub const fn records(octets: &[u8]) -> Records<'_> {
    Records { octets }
}

/// See [`records`].
#[derive(Clone, Debug)]
pub struct Records<'a> {
    octets: &'a [u8],
}

impl Iterator for Records<'_> {
    type Item = Result<FlowRecord, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.octets.is_empty() {
            return None;
        }
        let record = FlowRecord::from_bytes(self.octets);
        let length = match record {
            Err(RecordError::NoRecord | RecordError::Truncated { .. }) => None,
            Err(RecordError::Version { .. }) => {
                let length = usize::from(self.octets[2]);
                if length > self.octets.len() {
                    let octets = self.octets.len();
                    self.octets = &[];
                    return Some(Err(RecordError::Truncated { octets }));
                }
                Some(length).filter(|length| *length >= HEAD)
            }
            _ => Some(FlowRecord::LENGTH),
        };
        self.octets = length.and_then(|length| self.octets.get(length..)).unwrap_or_default();
        Some(record)
    }
}

/// Why octets are no [`FlowRecord`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are what the message names")]
pub enum RecordError {
    /// The octets end before the record does.
    Truncated { octets: usize },
    /// No record begins with these octets.
    NoRecord,
    /// The record is of a version that this one does not know.
    Version { version: u8 },
    /// The checksum is another one.
    Corrupted,
    /// A field has a value that it cannot have.
    Field { field: &'static str },
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { octets } => {
                write!(f, "{octets} octets are no whole flow record; it has 64")
            }
            Self::NoRecord => f.write_str("the octets are no flow record"),
            Self::Version { version } => write!(
                f,
                "a flow record of version {version}, of which only {VERSION} is known; \
                 balancers that share flows need versions of xvs that have one in common"
            ),
            Self::Corrupted => f.write_str("the flow record was corrupted on its way"),
            Self::Field { field } => write!(f, "the flow record has a wrong {field}"),
        }
    }
}

impl std::error::Error for RecordError {}

/// The address of the first 16 octets, of which there are so many.
fn address(octets: &[u8]) -> IpAddr {
    octets_address(octets.first_chunk().copied().unwrap_or_default())
}

fn checksum(octets: &[u8; FlowRecord::LENGTH]) -> u32 {
    let mut octets = *octets;
    octets[CHECKSUM].fill(0);
    siphash13(HashKey { k0: 0, k1: 0 }, &octets) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(v4: bool) -> FlowRecord {
        let [source, vip, server] = match v4 {
            true => ["198.51.100.7", "192.168.100.1", "10.1.2.3"],
            false => ["2001:db8:7::7", "2001:db8:100::1", "fd00:1:2::3"],
        }
        .map(|text| text.parse().expect("an address"));
        FlowRecord {
            source: SocketAddr::new(source, 0xabcd),
            service: ServiceKey { address: vip, port: 443, protocol: Protocol::Udp },
            destination: server,
            state: FlowState::Closing,
            seen: 3,
            idle: Duration::from_millis(12_340),
        }
    }

    /// Another record of the present version, made right by its checksum.
    fn changed(change: impl FnOnce(&mut [u8; 64])) -> [u8; 64] {
        let mut octets = example(true).to_bytes();
        change(&mut octets);
        let checksum = checksum(&octets);
        octets[CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
        octets
    }

    #[test]
    fn the_octets_are_these() {
        let octets = example(true).to_bytes();
        assert_eq!(octets[..4], [0x78, 1, 64, 17]);
        assert_eq!(octets[4..8], (1 << 31 | 2 << 29 | 1_234_u32).to_be_bytes());
        assert_eq!(octets[8..12], [0xab, 0xcd, 1, 187]);
        let mapped = |last: [u8; 4]| [&[0; 10][..], &[255; 2], &last].concat();
        assert_eq!(octets[16..32], mapped([198, 51, 100, 7]));
        assert_eq!(octets[32..48], mapped([192, 168, 100, 1]));
        assert_eq!(octets[48..], mapped([10, 1, 2, 3]));
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        for v4 in [true, false] {
            for state in [FlowState::Open, FlowState::Closing] {
                for seen in 1..=4 {
                    for idle in [0, 10, 7_200_000, u64::from(IDLE) * 10] {
                        let idle = Duration::from_millis(idle);
                        let record = FlowRecord { state, seen, idle, ..example(v4) };
                        assert_eq!(FlowRecord::from_bytes(&record.to_bytes()), Ok(record));
                    }
                }
            }
        }
        let long = FlowRecord { idle: Duration::MAX, ..example(true) };
        let back = FlowRecord::from_bytes(&long.to_bytes()).expect("a record");
        assert_eq!(back.idle.as_millis(), u128::from(IDLE) * 10);
    }

    #[test]
    fn every_changed_octet_is_noticed() {
        for v4 in [true, false] {
            let octets = example(v4).to_bytes();
            for at in 0..octets.len() {
                for change in 1..=255 {
                    let mut octets = octets;
                    octets[at] ^= change;
                    let error = FlowRecord::from_bytes(&octets).expect_err("it is refused");
                    let right = match at {
                        0 => RecordError::NoRecord,
                        1 => RecordError::Version { version: VERSION ^ change },
                        _ => RecordError::Corrupted,
                    };
                    assert_eq!(error, right, "octet {at} changed by {change:#x}");
                }
            }
        }
    }

    #[test]
    fn a_record_that_is_cut_off_is_refused() {
        let octets = example(true).to_bytes();
        for length in 0..octets.len() {
            let error = RecordError::Truncated { octets: length };
            assert_eq!(FlowRecord::from_bytes(&octets[..length]), Err(error));
            let buffer = [&octets[..], &octets[..length]].concat();
            let all: Vec<_> = records(&buffer).collect();
            let tail = (length > 0).then_some(Err(error));
            let right: Vec<_> = [Ok(example(true))].into_iter().chain(tail).collect();
            assert_eq!(all, right, "{length} octets of the second");
        }
    }

    #[test]
    fn values_that_cannot_be_are_refused() {
        type Case = (fn(&mut [u8; 64]), &'static str);
        let cases: [Case; 4] = [
            (|octets| octets[2] = 72, "length"),
            (|octets| octets[3] = 1, "protocol"),
            (|octets| octets[10..12].fill(0), "VIP's port"),
            (|octets| octets[16] = 0x20, "family"),
        ];
        for (change, field) in cases {
            let error = FlowRecord::from_bytes(&changed(change)).expect_err("it is refused");
            assert!(error.to_string().contains(field), "{error} lacks {field}");
        }
    }

    #[test]
    fn what_another_version_has_is_skipped() {
        let record = example(false);
        let newer = |length: u8| {
            let mut octets = vec![0xaa; length.into()];
            octets[..3].copy_from_slice(&[MAGIC, 2, length]);
            octets
        };
        let octets = record.to_bytes().to_vec();
        let version = Err(RecordError::Version { version: 2 });
        for length in [4, 63, 64, 65, 255] {
            let buffer = [octets.clone(), newer(length), octets.clone()].concat();
            let all: Vec<_> = records(&buffer).collect();
            assert_eq!(all, [Ok(record), version, Ok(record)], "{length} octets");
            let cut = &buffer[..64 + usize::from(length) - 1];
            let cut: Vec<_> = records(cut).collect();
            let truncated = RecordError::Truncated { octets: usize::from(length) - 1 };
            assert_eq!(cut, [Ok(record), Err(truncated)], "{length} octets, cut off");
        }
        // A length that leads nowhere ends it.
        let nowhere = [&[MAGIC, 2, 3, 0][..], &octets].concat();
        assert_eq!(records(&nowhere).collect::<Vec<_>>(), [version]);
    }

    /// What begins like records and goes on at random is refused, and comes to an end.
    #[test]
    fn noise_is_no_record() {
        let mut state = 0x5eed_u64;
        let mut octet = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        for round in 0..20_000 {
            let length = usize::from(octet()) * 3;
            let mut buffer: Vec<u8> = (0..length).map(|_| octet()).collect();
            if round % 2 == 0 {
                for record in buffer.chunks_mut(64) {
                    record[0] = MAGIC;
                    if let Some(version) = record.get_mut(1) {
                        *version %= 3;
                    }
                }
            }
            let all: Vec<_> = records(&buffer).collect();
            assert!(all.iter().all(Result::is_err), "{all:?}");
            assert!(all.len() <= length / HEAD + 1, "{} of {length} octets", all.len());
        }
    }

    #[test]
    fn a_corrupted_record_among_others_is_one() {
        let record = example(true);
        let mut buffer = [record.to_bytes(); 3].concat();
        buffer[64 + 20] ^= 1;
        let all: Vec<_> = records(&buffer).collect();
        assert_eq!(all, [Ok(record), Err(RecordError::Corrupted), Ok(record)]);
        buffer[64] ^= 1;
        let all: Vec<_> = records(&buffer).collect();
        assert_eq!(all, [Ok(record), Err(RecordError::NoRecord)]);
    }
}
