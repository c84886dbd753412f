//! What is in a pcapng file, read by the draft (draft-ietf-opsawg-pcapng) alone.

use std::collections::BTreeMap;

/// A frame of a file.
#[derive(Debug)]
pub struct Frame {
    pub interface: String,
    /// ns since 1970.
    pub time: u64,
    pub length: u32,
    pub octets: Vec<u8>,
    pub comment: String,
    /// Of an XDP program.
    pub verdict: u64,
}

/// Everything in a file of one section, whose blocks must be whole.
pub fn read(file: &[u8]) -> Vec<Frame> {
    let mut rest = file;
    let mut interfaces = Vec::new();
    let mut frames = Vec::new();
    let mut first = true;
    while !rest.is_empty() {
        let (kind, length) = (word(rest, 0), word(rest, 4) as usize);
        assert!(length.is_multiple_of(4) && length >= 12, "a block of {length} octets");
        assert_eq!(word(rest, length - 4) as usize, length, "both lengths of a block");
        let body = &rest[8..length - 4];
        assert_eq!(first, kind == 0x0a0d_0d0a, "the section's header is the first block");
        match kind {
            0x0a0d_0d0a => {
                assert_eq!(word(body, 0), 0x1a2b_3c4d, "little-endian");
                assert_eq!(&body[4..8], [1, 0, 0, 0], "version 1.0");
            }
            1 => {
                assert_eq!(&body[..2], [1, 0], "Ethernet");
                let options = options(&body[8..]);
                assert_eq!(options[&9], [9], "times in ns");
                interfaces.push(text(&options[&2]));
            }
            6 => frames.push(frame(body, &interfaces)),
            other => panic!("a block of type {other}"),
        }
        first = false;
        rest = &rest[length..];
    }
    frames
}

fn frame(body: &[u8], interfaces: &[String]) -> Frame {
    let captured = word(body, 12) as usize;
    let options = options(&body[20 + captured.next_multiple_of(4)..]);
    let (kind, verdict) = options[&7].split_first().expect("a verdict has a type");
    assert_eq!(*kind, 2, "an XDP program's");
    Frame {
        interface: interfaces[word(body, 0) as usize].clone(),
        time: u64::from(word(body, 4)) << 32 | u64::from(word(body, 8)),
        length: word(body, 16),
        octets: body[20..20 + captured].to_vec(),
        comment: text(&options[&1]),
        verdict: u64::from_le_bytes(verdict.try_into().expect("it has 64 bits")),
    }
}

fn options(mut rest: &[u8]) -> BTreeMap<u16, Vec<u8>> {
    let mut options = BTreeMap::new();
    loop {
        let head = word(rest, 0);
        let (code, length) = (head as u16, (head >> 16) as usize);
        if code == 0 {
            assert_eq!((length, rest.len()), (0, 4), "nothing follows the end of options");
            return options;
        }
        options.insert(code, rest[4..4 + length].to_vec());
        rest = &rest[4 + length.next_multiple_of(4)..];
    }
}

fn text(octets: &[u8]) -> String {
    String::from_utf8(octets.to_vec()).expect("it is UTF-8")
}

fn word(octets: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*octets[at..].first_chunk().expect("there are four octets"))
}
