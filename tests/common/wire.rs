//! Whole frames on the interfaces of a namespace, sent and received by a packet
//! socket.

use std::io::IoSliceMut;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket;
use nix::sys::socket::AddressFamily;
use nix::sys::socket::ControlMessageOwned;
use nix::sys::socket::LinkAddr;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockProtocol;
use nix::sys::socket::SockType;
use nix::sys::socket::SockaddrLike;

/// A frame that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The index of the interface.
    pub interface: u32,
    /// All its octets.
    pub frame: Vec<u8>,
}

/// A packet socket on all interfaces of a namespace.
pub struct Wire(OwnedFd);

impl Wire {
    /// Opens one in the namespace of the thread.
    pub fn new() -> Self {
        let socket = socket::socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::EthAll,
        );
        let socket = socket.expect("root may open packet sockets");
        ask_for_auxiliary_data(&socket);
        Self(socket)
    }

    /// Sends a frame out by an interface.
    pub fn send(&self, interface: u32, frame: &[u8]) {
        let to = link_address(interface);
        let sent = socket::sendto(self.0.as_raw_fd(), frame, &to, MsgFlags::empty());
        assert_eq!(sent, Ok(frame.len()), "the interface is up and takes the frame");
    }

    /// The next frame that is there, sent to a single host.
    pub fn receive(&self) -> Option<Arrival> {
        loop {
            let arrival = self.receive_any()?;
            // Hosts multicast of their own accord.
            if let Some(arrival) = arrival.filter(|arrival| arrival.frame[0] & 1 == 0) {
                return Some(arrival);
            }
        }
    }

    /// The next frame that is there, unless that one was sent from here.
    fn receive_any(&self) -> Option<Option<Arrival>> {
        let mut frame = [0; 4096];
        let mut control = nix::cmsg_space!([u8; 64]);
        let mut parts = [IoSliceMut::new(&mut frame)];
        let message = socket::recvmsg::<LinkAddr>(
            self.0.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::empty(),
        );
        let message = match message {
            Err(Errno::EAGAIN) => return None,
            message => message.expect("a packet socket can be read"),
        };
        let from = message.address.expect("the kernel tells where a frame came from");
        let tag = message.cmsgs().expect("there was room for them").find_map(|data| match data {
            ControlMessageOwned::Unknown(data) => taken_tag(&data.data_bytes),
            _ => None,
        });
        let length = message.bytes;
        if from.pkttype() == libc::PACKET_OUTGOING {
            return Some(None);
        }
        let mut frame = frame[..length].to_vec();
        if let Some(tag) = tag {
            frame.splice(12..12, tag);
        }
        Some(Some(Arrival { interface: from.ifindex() as u32, frame }))
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The tag that the kernel has taken from a frame, by its `struct tpacket_auxdata`.
fn taken_tag(data: &[u8]) -> Option<[u8; 4]> {
    let word = |at: usize| [data[at], data[at + 1]];
    let status = u32::from_ne_bytes([data[0], data[1], data[2], data[3]]);
    if status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let control = u16::from_ne_bytes(word(16)).to_be_bytes();
    let protocol = u16::from_ne_bytes(word(18)).to_be_bytes();
    Some([protocol[0], protocol[1], control[0], control[1]])
}

#[expect(unsafe_code, reason = "nix has not this option")]
fn ask_for_auxiliary_data(socket: &OwnedFd) {
    let yes: libc::c_int = 1;
    // SAFETY: the pointer is to a value of the size that is told.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_AUXDATA,
            (&raw const yes).cast(),
            size_of_val(&yes) as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "packet sockets have auxiliary data");
}

#[expect(unsafe_code, reason = "nix makes no link-layer addresses")]
fn link_address(interface: u32) -> LinkAddr {
    // SAFETY: all zeros is a value of it.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = interface as i32;
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the pointer is to an address of this length.
    let address = unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(length)) };
    address.expect("it is a link-layer address")
}
