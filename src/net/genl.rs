//! Requests to generic netlink families, which have names instead of numbers.

use std::io;
use std::io::Cursor;

use neli::FromBytesWithInput;
use neli::consts::genl::CtrlAttr;
use neli::consts::genl::CtrlCmd;
use neli::consts::nl::GenlId;
use neli::consts::nl::NlmF;
use neli::genl::AttrTypeBuilder;
use neli::genl::Genlmsghdr;
use neli::genl::GenlmsghdrBuilder;
use neli::genl::Nlattr;
use neli::genl::NlattrBuilder;
use neli::types::Buffer;
use neli::types::GenlBuffer;
use nix::sys::socket::SockProtocol;

use super::socket::Message;
use super::socket::Socket;

/// An answer of a family.
pub(super) type Genl = Genlmsghdr<u8, u16>;

/// A family, in the network namespace of the thread that opened it; another
/// thread may use it afterwards.
pub(super) struct Family {
    socket: Socket,
    id: u16,
}

impl Family {
    /// Opens the family of this name; `None` if the kernel has none.
    pub(super) fn open(name: &str) -> io::Result<Option<Self>> {
        let mut socket = Socket::for_requests(SockProtocol::NetlinkGeneric)?;
        let name = text(CtrlAttr::FamilyName.into(), name)?;
        let control = GenlId::Ctrl.into();
        let answers = match send(&mut socket, control, CtrlCmd::Getfamily.into(), vec![name]) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            answers => answers?,
        };
        let id = answers.iter().find_map(|answer| {
            let attributes = answer.attrs().get_attr_handle();
            attributes.get_attr_payload_as(CtrlAttr::FamilyId.into()).ok()
        });
        Ok(id.map(|id| Self { socket, id }))
    }

    /// Sends a command; the kernel's errno comes back as the error.
    pub(super) fn ask(
        &mut self,
        command: u8,
        attributes: Vec<Nlattr<u16, Buffer>>,
    ) -> io::Result<Vec<Genl>> {
        send(&mut self.socket, self.id, command, attributes)
    }
}

fn send(
    socket: &mut Socket,
    family: u16,
    command: u8,
    attributes: Vec<Nlattr<u16, Buffer>>,
) -> io::Result<Vec<Genl>> {
    let request = GenlmsghdrBuilder::default()
        .cmd(command)
        .version(1)
        .attrs(GenlBuffer::from_iter(attributes))
        .build()
        .map_err(io::Error::other)?;
    let answers = socket.request(family, NlmF::empty(), request)?;
    Ok(answers.iter().filter_map(payload).collect())
}

/// An attribute of a request.
pub(super) fn attribute(kind: u16, payload: &[u8]) -> io::Result<Nlattr<u16, Buffer>> {
    let kind = AttrTypeBuilder::default().nla_type(kind).build().map_err(io::Error::other)?;
    NlattrBuilder::default()
        .nla_type(kind)
        .nla_payload(Buffer::from(payload))
        .build()
        .map_err(io::Error::other)
}

/// A string in a request, which ends with a NUL.
pub(super) fn text(kind: u16, text: &str) -> io::Result<Nlattr<u16, Buffer>> {
    let mut octets = text.as_bytes().to_vec();
    octets.push(0);
    attribute(kind, &octets)
}

fn payload(message: &Message) -> Option<Genl> {
    let bytes = message.get_payload()?;
    Genl::from_bytes_with_input(&mut Cursor::new(bytes.as_ref()), bytes.len()).ok()
}
