//! 802.1Q tags around the frames of a case.

use crate::common::frame::ETHERNET;
use crate::common::frame::tagged;
use crate::common::frame::untagged;

/// The tags that frames come in with, and that destinations' ways out have.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tagging {
    /// The control word of frames that come in: priority, DEI and id.
    pub ingress: Option<u16>,
    /// The id that frames leave with.
    pub egress: Option<u16>,
}

impl Tagging {
    /// The frame as it comes in; one without an Ethernet header stays as it is.
    pub fn wrap(self, frame: &[u8]) -> Vec<u8> {
        match self.ingress {
            Some(control) if frame.len() >= ETHERNET => tagged(frame.to_vec(), control),
            _ => frame.to_vec(),
        }
    }

    /// A frame that goes back, without the tag that it must have.
    pub fn unwrap_reply(self, frame: &[u8]) -> Result<Vec<u8>, String> {
        unwrap(frame, self.ingress.filter(|_| frame.len() >= ETHERNET))
    }

    /// A frame that leaves for a server, without the tag that it must have.
    pub fn unwrap_forwarded(self, frame: &[u8]) -> Result<Vec<u8>, String> {
        // Its priority stays.
        let control = self.egress.map(|id| self.ingress.unwrap_or(0) & 0xf000 | id);
        unwrap(frame, control)
    }
}

fn unwrap(frame: &[u8], control: Option<u16>) -> Result<Vec<u8>, String> {
    let Some(control) = control else {
        return Ok(frame.to_vec());
    };
    match untagged(frame) {
        Some((found, frame)) if found == control => Ok(frame),
        _ => Err(format!("has no tag {control:#06x}")),
    }
}
