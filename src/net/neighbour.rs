//! Keeps neighbour entries resolved, without harm to those of others.

use std::io;
use std::net::IpAddr;

use neli::Size;
use neli::ToBytes;
use neli::consts::nl::NlmF;
use neli::consts::rtnl::Nda;
use neli::consts::rtnl::Ntf;
use neli::consts::rtnl::Nud;
use neli::consts::rtnl::RtAddrFamily;
use neli::consts::rtnl::Rtm;
use neli::consts::rtnl::Rtn;
use neli::rtnl::NdmsgBuilder;
use neli::types::RtBuffer;
use nix::errno::Errno;

use super::Net;
use super::absent_is_none;
use super::attribute;
use super::message;
use super::message::Entry;
use super::message::NDA_FLAGS_EXT;
use super::message::NTF_EXT_MANAGED;
use super::netlink;
use super::snapshot::Neighbour;
use super::snapshot::NeighbourState;
use crate::Result;

/// Learned by a control plane, such as a routing daemon (linux/neighbour.h).
const NTF_EXT_LEARNED: Ntf = Ntf::from_bits_retain(0x10);

/// Where a kept entry came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// There was none.
    Created,
    /// There was one that the kernel resolved on demand.
    Found,
}

impl Net {
    /// Asks the kernel to keep a neighbour resolved, without traffic to it.
    ///
    /// A permanent entry, one without resolution and one that is managed
    /// already stay as they are; one that has a MAC address keeps it. The
    /// kernel forgets managed entries when their interface goes down or loses
    /// its carrier: ask again when a neighbour is no longer managed. Where
    /// [`keeps_managed`](Self::keeps_managed) is `Some(false)`, this starts
    /// resolution once.
    pub(crate) fn keep(&mut self, index: u32, address: IpAddr) -> Result<()> {
        self.try_keep(index, address).map_err(netlink("request to keep a neighbour resolved"))
    }

    /// Whether the kernel has managed entries (5.16); `None` until the first
    /// entry was kept.
    pub(crate) fn keeps_managed(&self) -> Option<bool> {
        self.manages
    }

    /// Starts resolution if the entry has no MAC address or a stale one;
    /// permanent entries and those without resolution stay as they are.
    pub(crate) fn kick(&mut self, index: u32, address: IpAddr) -> Result<()> {
        self.try_kick(index, address).map_err(netlink("request to resolve a neighbour"))
    }

    /// Undoes [`keep`](Self::keep): an entry that it made is deleted, one
    /// that it found is managed no longer. Entries that others have changed
    /// since, or that were never kept, stay as they are.
    pub(crate) fn release(&mut self, index: u32, address: IpAddr) -> Result<()> {
        self.try_release(index, address).map_err(netlink("request to release a neighbour"))
    }

    /// Takes the `keep` of another process over: [`release`](Self::release) ends it.
    pub(crate) fn adopt(&mut self, index: u32, address: IpAddr) {
        self.kept.entry((index, address)).or_insert(Origin::Found);
    }

    /// Undoes the `keep` of a process that has died: the entry is managed no
    /// longer.
    pub(crate) fn disown(&mut self, index: u32, address: IpAddr) -> Result<()> {
        self.adopt(index, address);
        self.release(index, address)
    }

    fn try_keep(&mut self, index: u32, address: IpAddr) -> io::Result<()> {
        let found = self.entry(index, address)?;
        let flags = match &found {
            Some(entry) if entry.neighbour.state.is_fixed() || entry.neighbour.managed => {
                return Ok(());
            }
            Some(entry) => entry.flags & NTF_EXT_LEARNED,
            None => Ntf::empty(),
        };
        let () = self.resolve_managed(index, address, flags)?;
        let key = (index, address);
        match found {
            // One that was kept before keeps its origin.
            Some(_) if self.kept.contains_key(&key) => None,
            Some(_) => self.kept.insert(key, Origin::Found),
            None => self.kept.insert(key, Origin::Created),
        };
        if self.manages.is_none() {
            // Kernels before 5.16 ignore the attribute.
            self.manages = self.entry(index, address)?.map(|entry| entry.neighbour.managed);
        }
        Ok(())
    }

    fn resolve_managed(&mut self, index: u32, address: IpAddr, flags: Ntf) -> io::Result<()> {
        if self.manages == Some(false) {
            return self.resolve(index, address, flags, false);
        }
        match self.resolve(index, address, flags, true) {
            Err(error) if self.manages.is_none() && is_refusal(&error) => {
                let () = self.resolve(index, address, flags, false)?;
                self.manages = Some(false);
                Ok(())
            }
            result => result,
        }
    }

    fn try_kick(&mut self, index: u32, address: IpAddr) -> io::Result<()> {
        match self.entry(index, address)? {
            Some(entry) if entry.neighbour.state.is_fixed() => Ok(()),
            // The request replaces both marks, so they are sent along.
            Some(entry) => {
                let flags = entry.flags & NTF_EXT_LEARNED;
                self.resolve(index, address, flags, entry.neighbour.managed)
            }
            None => self.resolve(index, address, Ntf::empty(), false),
        }
    }

    fn try_release(&mut self, index: u32, address: IpAddr) -> io::Result<()> {
        let Some(origin) = self.kept.remove(&(index, address)) else {
            return Ok(());
        };
        let Some(entry) = self.entry(index, address)? else {
            return Ok(());
        };
        let Neighbour { state, managed, .. } = entry.neighbour;
        // Who sets an entry anew takes the managed mark off.
        let unmarked = self.manages == Some(false)
            && origin == Origin::Created
            && state != NeighbourState::Permanent;
        if !managed && !unmarked {
            return Ok(());
        }
        let request = if origin == Origin::Found && entry.neighbour.usable().is_some() {
            // Stale is the state that promises nothing and keeps the address.
            let flags = entry.flags & NTF_EXT_LEARNED;
            let request = request(index, address, Nud::STALE, flags, None)?;
            self.socket.request(Rtm::Newneigh.into(), NlmF::empty(), request)
        } else {
            // One that was found and has no address any more is worth nothing.
            let request = request(index, address, Nud::empty(), Ntf::empty(), None)?;
            self.socket.request(Rtm::Delneigh.into(), NlmF::empty(), request)
        };
        absent_is_none(request).map(drop)
    }

    /// Has the kernel resolve the entry now, and ever after if managed.
    ///
    /// `NTF_USE` keeps kernels that do not know managed entries from taking
    /// the request for one to clear the state. Kernels from 5.16 drop a
    /// permanent state at it: 3dc20f4762c6 ("net, neigh: Enable state
    /// migration between NUD_PERMANENT and NTF_USE").
    fn resolve(
        &mut self,
        index: u32,
        address: IpAddr,
        flags: Ntf,
        managed: bool,
    ) -> io::Result<()> {
        let extended = managed.then_some(NTF_EXT_MANAGED);
        let request = request(index, address, Nud::empty(), flags | Ntf::USE, extended)?;
        self.socket.request(Rtm::Newneigh.into(), NlmF::CREATE, request).map(drop)
    }

    fn entry(&mut self, index: u32, address: IpAddr) -> io::Result<Option<Entry>> {
        let request = request(index, address, Nud::empty(), Ntf::empty(), None)?;
        let answers = self.socket.request(Rtm::Getneigh.into(), NlmF::empty(), request);
        let answers = absent_is_none(answers)?.unwrap_or_default();
        Ok(answers.iter().find_map(message::entry))
    }
}

/// A request for all entries of a family.
pub(super) fn list_request(family: RtAddrFamily) -> io::Result<impl Size + ToBytes> {
    NdmsgBuilder::default()
        .ndm_family(family)
        .ndm_index(0)
        .ndm_state(Nud::empty())
        .ndm_flags(Ntf::empty())
        .ndm_type(Rtn::Unspec)
        .build()
        .map_err(io::Error::other)
}

/// A request about one entry.
fn request(
    index: u32,
    address: IpAddr,
    state: Nud,
    flags: Ntf,
    extended: Option<u32>,
) -> io::Result<impl Size + ToBytes> {
    let (family, octets) = match address {
        IpAddr::V4(v4) => (RtAddrFamily::Inet, v4.octets().to_vec()),
        IpAddr::V6(v6) => (RtAddrFamily::Inet6, v6.octets().to_vec()),
    };
    let mut attributes = RtBuffer::from_iter([attribute(Nda::Dst, octets)?]);
    if let Some(extended) = extended {
        attributes.push(attribute(Nda::from(NDA_FLAGS_EXT), extended.to_ne_bytes().to_vec())?);
    }
    NdmsgBuilder::default()
        .ndm_family(family)
        .ndm_index(index.try_into().map_err(io::Error::other)?)
        .ndm_state(state)
        .ndm_flags(flags)
        .ndm_type(Rtn::Unspec)
        .rtattrs(attributes)
        .build()
        .map_err(io::Error::other)
}

/// Whether the kernel does not know what was asked.
fn is_refusal(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EINVAL | Errno::EOPNOTSUPP))
}
