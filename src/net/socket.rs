//! A netlink socket: requests with their answers, and multicast messages.
//!
//! neli makes and reads the messages. Its sockets have no [`AsFd`], which
//! timeouts and buffer sizes need without `unsafe`, so the socket is nix's.

use std::io;
use std::io::Cursor;
use std::io::IoSliceMut;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::time::Duration;

use neli::FromBytes;
use neli::Header;
use neli::Size;
use neli::ToBytes;
use neli::consts::nl::NlmF;
use neli::consts::nl::Nlmsg;
use neli::nl::NlPayload;
use neli::nl::Nlmsghdr;
use neli::nl::NlmsghdrBuilder;
use neli::types::Buffer;
use nix::errno::Errno;
use nix::sys::socket;
use nix::sys::socket::AddressFamily;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::NetlinkAddr;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockProtocol;
use nix::sys::socket::SockType;
use nix::sys::socket::sockopt;
use nix::sys::time::TimeVal;

/// How long an answer may take; the kernel answers while it takes a request.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The kernel fills at most 32 KiB of it in a dump.
const DATAGRAM: usize = 64 * 1024;

/// How often a dump is begun again when what it lists changes meanwhile.
const DUMP_ATTEMPTS: u32 = 20;

/// A netlink message whose payload is not read yet.
pub(super) type Message = Nlmsghdr<u16, Buffer>;

/// What one read brought.
pub(super) enum Received {
    /// The messages of one datagram.
    Messages(Vec<Message>),
    /// The queue overflowed, or a datagram could not be read to its end.
    Lost,
    /// Nothing is queued (non-blocking), or nothing came in time.
    Nothing,
}

/// A netlink socket in the network namespace of the thread that opened it.
pub(super) struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Socket {
    /// A socket for requests.
    pub(super) fn for_requests(protocol: SockProtocol) -> io::Result<Self> {
        let socket = Self::open(protocol, SockFlag::empty(), 0)?;
        let timeout = TimeVal::new(TIMEOUT.as_secs() as _, 0);
        socket::setsockopt(&socket.fd, sockopt::ReceiveTimeout, &timeout)?;
        Ok(socket)
    }

    /// A non-blocking socket that hears the multicast groups (1 to 32).
    pub(super) fn for_groups(groups: &[u32], receive_buffer: usize) -> io::Result<Self> {
        let mask = groups.iter().fold(0, |mask, group| mask | 1 << (group - 1));
        let socket = Self::open(SockProtocol::NetlinkRoute, SockFlag::SOCK_NONBLOCK, mask)?;
        // Beyond net.core.rmem_max only CAP_NET_ADMIN of the first user namespace may go.
        socket::setsockopt(&socket.fd, sockopt::RcvBufForce, &receive_buffer)
            .or_else(|_| socket::setsockopt(&socket.fd, sockopt::RcvBuf, &receive_buffer))?;
        Ok(socket)
    }

    fn open(protocol: SockProtocol, flags: SockFlag, groups: u32) -> io::Result<Self> {
        let flags = flags | SockFlag::SOCK_CLOEXEC;
        let fd = socket::socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        socket::bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self { fd, buffer: vec![0; DATAGRAM], sequence: 0 })
    }

    /// Asks for one thing, or for one to be done, and waits for the
    /// acknowledgement; the kernel's errno comes back as the error.
    pub(super) fn request<P: Size + ToBytes>(
        &mut self,
        kind: u16,
        flags: NlmF,
        payload: P,
    ) -> io::Result<Vec<Message>> {
        self.send(kind, flags | NlmF::ACK, payload)?;
        Ok(self.answers(Some)?.0)
    }

    /// Asks for all there is of a kind, again if it changed meanwhile; what `read`
    /// makes of it, and whether it kept changing to the end.
    pub(super) fn dump<P: Size + ToBytes, T>(
        &mut self,
        kind: u16,
        payload: impl Fn() -> io::Result<P>,
        read: impl Fn(&Message) -> Option<T>,
    ) -> io::Result<(Vec<T>, bool)> {
        let mut attempts = 1;
        loop {
            self.send(kind, NlmF::DUMP, payload()?)?;
            let (found, interrupted) = self.answers(|message| read(&message))?;
            if !interrupted || attempts == DUMP_ATTEMPTS {
                return Ok((found, interrupted));
            }
            attempts += 1;
        }
    }

    fn send<P: Size + ToBytes>(&mut self, kind: u16, flags: NlmF, payload: P) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let message = NlmsghdrBuilder::<u16, P>::default()
            .nl_type(kind)
            .nl_flags(flags | NlmF::REQUEST)
            .nl_seq(self.sequence)
            .nl_payload(NlPayload::Payload(payload))
            .build()
            .map_err(io::Error::other)?;
        let mut bytes = Cursor::new(Vec::new());
        message.to_bytes(&mut bytes).map_err(io::Error::other)?;
        socket::send(self.fd.as_raw_fd(), bytes.get_ref(), MsgFlags::empty())?;
        Ok(())
    }

    /// The answers to the last request, and whether they contradict each
    /// other because the kernel's state changed in between.
    fn answers<T>(&mut self, read: impl Fn(Message) -> Option<T>) -> io::Result<(Vec<T>, bool)> {
        let mut answers = Vec::new();
        let mut interrupted = false;
        loop {
            let messages = match self.receive()? {
                Received::Messages(messages) => messages,
                Received::Lost => return Err(Errno::ENOBUFS.into()),
                Received::Nothing => return Err(Errno::ETIMEDOUT.into()),
            };
            for message in messages {
                // An answer to an earlier request that was given up.
                if *message.nl_seq() != self.sequence {
                    continue;
                }
                interrupted |= message.nl_flags().contains(NlmF::DUMP_INTR);
                match message.nl_payload() {
                    NlPayload::Err(error) => {
                        return Err(io::Error::from_raw_os_error(-error.error()));
                    }
                    NlPayload::DumpExtAck(done) if *done.error() < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.error()));
                    }
                    NlPayload::Ack(_) | NlPayload::DumpExtAck(_) => {
                        return Ok((answers, interrupted));
                    }
                    _ if *message.nl_type() == u16::from(Nlmsg::Done) => {
                        return Ok((answers, interrupted));
                    }
                    _ => answers.extend(read(message)),
                }
            }
        }
    }

    /// Reads one datagram.
    pub(super) fn receive(&mut self) -> io::Result<Received> {
        loop {
            let mut slices = [IoSliceMut::new(&mut self.buffer)];
            let fd = self.fd.as_raw_fd();
            let (length, sender, flags) =
                match socket::recvmsg::<NetlinkAddr>(fd, &mut slices, None, MsgFlags::empty()) {
                    Ok(received) => (received.bytes, received.address, received.flags),
                    Err(Errno::EINTR) => continue,
                    Err(Errno::EAGAIN) => return Ok(Received::Nothing),
                    Err(Errno::ENOBUFS) => return Ok(Received::Lost),
                    Err(error) => return Err(error.into()),
                };
            // Other processes than the kernel, which is 0, may send too.
            if sender.is_some_and(|sender| sender.pid() != 0) {
                continue;
            }
            if flags.contains(MsgFlags::MSG_TRUNC) {
                return Ok(Received::Lost);
            }
            return Ok(match messages(&self.buffer[..length]) {
                Some(messages) => Received::Messages(messages),
                None => Received::Lost,
            });
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The messages of a datagram; `None` if their lengths contradict it.
pub(super) fn messages(datagram: &[u8]) -> Option<Vec<Message>> {
    let mut cursor = Cursor::new(datagram);
    let mut messages = Vec::new();
    loop {
        let rest = &datagram[cursor.position() as usize..];
        let Some(length) = rest.first_chunk() else {
            return rest.is_empty().then_some(messages);
        };
        // neli takes for granted that the header is not longer than the message.
        if (u32::from_ne_bytes(*length) as usize) < Message::header_size() {
            return None;
        }
        messages.push(Message::from_bytes(&mut cursor).ok()?);
    }
}
