//! Files of frames that tcpdump and Wireshark read: draft-ietf-opsawg-pcapng.

use std::io;
use std::io::Write;
use std::time::UNIX_EPOCH;

use xvs::Frame;

// Types of blocks, sections 4.1, 4.2 and 4.3.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;

/// Tells a reader the order of octets.
const ORDER: u32 = 0x1a2b_3c4d;
/// Not known: the section goes to the end of the file.
const NO_LENGTH: u64 = u64::MAX;
/// From the list of link types of tcpdump.
const ETHERNET: u16 = 1;

// Options.
const COMMENT: u16 = 1;
const APPLICATION: u16 = 4;
const NAME: u16 = 2;
const RESOLUTION: u16 = 9;
const VERDICT: u16 = 7;
/// A time in powers of a tenth of a second: ns.
const NANOSECONDS: u8 = 9;
/// A verdict's kind: of an XDP program, 64 bits.
const XDP: u8 = 2;

/// A file of one section.
pub struct Pcapng<W> {
    file: W,
    snaplen: u32,
    /// The indices of those that are described, in the order in which they are.
    interfaces: Vec<u32>,
}

impl<W: Write> Pcapng<W> {
    /// Begins the file.
    pub fn new(file: W, snaplen: u32) -> io::Result<Self> {
        let mut pcapng = Self { file, snaplen, interfaces: Vec::new() };
        let mut body = Vec::new();
        body.extend(ORDER.to_le_bytes());
        // Version 1.0.
        body.extend(1_u16.to_le_bytes());
        body.extend(0_u16.to_le_bytes());
        body.extend(NO_LENGTH.to_le_bytes());
        option(&mut body, APPLICATION, concat!("xvsctl ", env!("CARGO_PKG_VERSION")).as_bytes());
        end_options(&mut body);
        pcapng.block(SECTION, &body)?;
        pcapng.flush()?;
        Ok(pcapng)
    }

    /// Appends a frame, and before it its interface, if that is the first one there.
    pub fn write(&mut self, frame: &Frame, name: &str) -> io::Result<()> {
        let known = self.interfaces.iter().position(|index| *index == frame.interface);
        let interface = match known {
            Some(position) => position,
            None => {
                self.describe(name)?;
                self.interfaces.push(frame.interface);
                self.interfaces.len() - 1
            }
        };
        let time = frame.time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let mut body = Vec::with_capacity(frame.octets.len() + 64);
        for word in [
            interface as u32,
            (time >> 32) as u32,
            time as u32,
            frame.octets.len() as u32,
            frame.length,
        ] {
            body.extend(word.to_le_bytes());
        }
        padded(&mut body, &frame.octets);
        option(&mut body, COMMENT, frame.reason.as_bytes());
        let verdict = u64::from(frame.action.number()).to_le_bytes();
        option(&mut body, VERDICT, &[&[XDP], &verdict[..]].concat());
        end_options(&mut body);
        self.block(PACKET, &body)
    }

    /// Gives what there is to the reader.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    fn describe(&mut self, name: &str) -> io::Result<()> {
        let mut body = Vec::new();
        body.extend(ETHERNET.to_le_bytes());
        body.extend(0_u16.to_le_bytes());
        body.extend(self.snaplen.to_le_bytes());
        option(&mut body, NAME, name.as_bytes());
        option(&mut body, RESOLUTION, &[NANOSECONDS]);
        end_options(&mut body);
        self.block(INTERFACE, &body)
    }

    fn block(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        let length = (12 + body.len() as u32).to_le_bytes();
        self.file.write_all(&kind.to_le_bytes())?;
        self.file.write_all(&length)?;
        self.file.write_all(body)?;
        self.file.write_all(&length)
    }
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    padded(body, value);
}

fn end_options(body: &mut Vec<u8>) {
    body.extend([0; 4]);
}

/// With zeros up to whole words of 4 octets.
fn padded(body: &mut Vec<u8>, octets: &[u8]) {
    body.extend(octets);
    body.resize(body.len().next_multiple_of(4), 0);
}
