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

/// Sends a command to the family of this name; `None` if the kernel has none.
pub(super) fn ask(
    family: &str,
    command: u8,
    attributes: Vec<Nlattr<u16, Buffer>>,
) -> io::Result<Option<Vec<Genl>>> {
    let mut socket = Socket::for_requests(SockProtocol::NetlinkGeneric)?;
    // A string attribute ends with a NUL.
    let mut name = family.as_bytes().to_vec();
    name.push(0);
    let name = attribute(CtrlAttr::FamilyName.into(), &name)?;
    let control = GenlId::Ctrl.into();
    let answers = match send(&mut socket, control, CtrlCmd::Getfamily.into(), vec![name]) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        answers => answers?,
    };
    let id = answers.iter().find_map(|answer| {
        let attributes = answer.attrs().get_attr_handle();
        attributes.get_attr_payload_as(CtrlAttr::FamilyId.into()).ok()
    });
    id.map(|id| send(&mut socket, id, command, attributes)).transpose()
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

fn payload(message: &Message) -> Option<Genl> {
    let bytes = message.get_payload()?;
    Genl::from_bytes_with_input(&mut Cursor::new(bytes.as_ref()), bytes.len()).ok()
}
