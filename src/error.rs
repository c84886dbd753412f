//! One error for everything that can go wrong; each variant names the thing.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::Prefix;
use crate::ServiceKey;

/// The result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, and with what.
#[derive(Debug)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are what the message names")]
pub enum Error {
    /// No interface has this name.
    InterfaceNotFound { interface: String },
    /// The interface is administratively down.
    InterfaceDown { interface: String },
    /// The list of interfaces is empty, too long or names one twice.
    InterfaceList { reason: String },
    /// An interface has the name of one for probes, and is none.
    ProbeInterface { interface: String, reason: String },
    /// The text is no prefix.
    InvalidPrefix { prefix: String, reason: String },
    /// Two prefixes share addresses.
    PrefixOverlap { prefix: Prefix, other: Prefix },
    /// The VLAN id is not from 1 to 4,094.
    InvalidVlan { vlan: u16 },
    /// The MTU of the VLAN is below the least that IP asks for.
    InvalidMtu { vlan: u16, mtu: u32, least: u32 },
    /// Something is said of a VLAN that has no prefix.
    UnknownVlan { vlan: u16 },
    /// The route cannot be used.
    InvalidRoute { prefix: Prefix, reason: String },
    /// The address cannot be a virtual address.
    InvalidVip { address: IpAddr, reason: &'static str },
    /// The service's port is 0.
    InvalidPort { service: ServiceKey },
    /// The text is no protocol that services are balanced for.
    InvalidProtocol { protocol: String },
    /// A time of the service is out of range.
    InvalidTimeout { service: ServiceKey, name: &'static str, value: Duration },
    /// The transition of the service is too long.
    InvalidTransition { service: ServiceKey, value: Duration },
    /// The limit of new flows is 0 or over the greatest.
    InvalidNewFlows { service: ServiceKey, new_flows: u32 },
    /// The address cannot be a real server's.
    InvalidDestination { address: IpAddr, reason: &'static str },
    /// The weight is 0 or over the limit.
    InvalidWeight { address: IpAddr, weight: u32 },
    /// The deadline for a destination's flows is out of range, or the destination is
    /// not disabled.
    InvalidDeadline { address: IpAddr, deadline: Duration, disabled: bool },
    /// A tunnel over UDP has no port.
    InvalidTunnelPort { address: IpAddr, tunnel: &'static str },
    /// The instance's name has characters that a file name should not have.
    InvalidInstance { instance: String },
    /// An option is out of range.
    OptionRange { option: &'static str, value: u32, least: u32, most: u32 },
    /// The table size is no prime number.
    TableSize { size: u32 },
    /// What a real server is to take out of tunnels is not told, or told wrongly.
    DecapOption { option: &'static str, reason: String },
    /// The prefix cannot have NAT addresses.
    NatPrefix { prefix: Prefix, reason: String },
    /// NAT addresses would be what the host has or reaches otherwise.
    NatOverlap { prefix: Prefix, other: String },
    /// The service exists already.
    ServiceExists { service: ServiceKey },
    /// There is no such service.
    ServiceNotFound { service: ServiceKey },
    /// The service has this destination already.
    DestinationExists { service: ServiceKey, address: IpAddr },
    /// The service has no such destination.
    DestinationNotFound { service: ServiceKey, address: IpAddr },
    /// The deadline of the disabled destination is over: it takes no flows.
    DestinationDrained { service: ServiceKey, address: IpAddr },
    /// There is no service on this address.
    VipNotFound { address: IpAddr },
    /// A limit is reached; `remedy` tells how to raise it.
    LimitExceeded { limit: &'static str, maximum: usize, remedy: &'static str },
    /// The interface has an XDP program that is not ours.
    ForeignProgram { interface: String, program: String },
    /// The driver has no native XDP, and only native was asked for.
    NativeUnsupported { interface: String, source: io::Error },
    /// The program could not be attached.
    Attach { interface: String, source: io::Error },
    /// The kernel refused the programs or maps.
    Load { source: Box<dyn std::error::Error + Send + Sync> },
    /// The running kernel lacks what the data plane needs.
    Kernel { release: String, needs: &'static str },
    /// The process lacks capabilities.
    MissingCapability { missing: Vec<&'static str> },
    /// The BPF file system is not there or not usable.
    Bpffs { path: PathBuf, source: io::Error },
    /// The folder of an instance's pins cannot be used.
    Pins { path: PathBuf, source: io::Error },
    /// The pins of an instance may be used by their owner alone.
    PinAccess { path: PathBuf, source: io::Error },
    /// The pinned instance has another layout version.
    Layout { path: PathBuf, found: u32, expected: u32 },
    /// A packet cannot have addresses of two families.
    MixedFamilies { source: IpAddr, destination: IpAddr },
    /// Another process runs this instance.
    InstanceBusy { instance: String, process: Option<u32> },
    /// The data plane that a process left forwarding cannot be taken over.
    TakeOver { instance: String, reason: String },
    /// No such instance is pinned.
    InstanceNotFound { instance: String, path: PathBuf },
    /// News of flows were asked for, and are not told.
    SharingOff { instance: String },
    /// The news of flows have a reader already.
    FlowReaderTaken { instance: String },
    /// The flow has been silent for longer than its service remembers flows.
    FlowExpired { source: SocketAddr, service: ServiceKey, idle: Duration, limit: Duration },
    /// All places that the flow can have are of flows with as much right to stay.
    FlowRoom { source: SocketAddr, service: ServiceKey },
    /// A map operation failed.
    Map { map: &'static str, operation: &'static str, source: io::Error },
    /// A netlink request failed.
    Netlink { request: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
    /// There is no such reason, or captures do not see it.
    UnknownReason { reason: String, known: Vec<&'static str> },
    /// The kernel gave no buffers for frames. `restriction` is the sysctl
    /// `kernel.perf_event_paranoid` where it is over 2, the most that Linux itself
    /// knows: Debian then takes CAP_SYS_ADMIN.
    CaptureBuffers { source: Box<dyn std::error::Error + Send + Sync>, restriction: Option<u32> },
    /// The instance that a capture is of has ended, or has another program.
    InstanceEnded { instance: String },
    /// A system call failed.
    System { call: &'static str, source: io::Error },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InterfaceNotFound { interface } => {
                write!(f, "no interface `{interface}`; `ip link` lists those there are")
            }
            Self::InterfaceDown { interface } => {
                write!(f, "interface `{interface}` is down; `ip link set {interface} up` starts it")
            }
            Self::InterfaceList { reason } => write!(f, "the list of interfaces: {reason}"),
            Self::ProbeInterface { interface, reason } => write!(
                f,
                "interface `{interface}` has the name of one for probes: {reason}; rename it, \
                 delete it with `ip link del {interface}`, or give the instance another name"
            ),
            Self::InvalidPrefix { prefix, reason } => {
                write!(f, "`{prefix}` is no prefix such as 10.1.2.0/24: {reason}")
            }
            Self::NatPrefix { prefix, reason } => {
                write!(
                    f,
                    "no NAT addresses can be in {prefix}: {reason}; `Options::nat4` and \
                     `Options::nat6` (`xvsctl balance --nat4`, `--nat6`) set others"
                )
            }
            Self::NatOverlap { prefix, other } => {
                write!(
                    f,
                    "NAT addresses would be in {prefix}, which overlaps {other}; `Options::nat4` \
                     or `Options::nat6` (`xvsctl balance --nat4`, `--nat6`) sets another prefix"
                )
            }
            Self::PrefixOverlap { prefix, other } => {
                write!(f, "prefix {prefix} overlaps {other}; each address must be in one VLAN only")
            }
            Self::InvalidVlan { vlan } => write!(f, "VLAN {vlan}: ids go from 1 to 4094"),
            Self::InvalidMtu { vlan, mtu, least } => {
                write!(f, "VLAN {vlan}: an MTU of {mtu} is not from {least} to 65535")
            }
            Self::UnknownVlan { vlan } => {
                write!(f, "VLAN {vlan} has an MTU and no prefix; a VLAN is made by its prefixes")
            }
            Self::InvalidRoute { prefix, reason } => write!(f, "route to {prefix}: {reason}"),
            Self::InvalidVip { address, reason } => {
                write!(f, "{address} cannot be a virtual address: {reason}")
            }
            Self::InvalidPort { service } => {
                write!(f, "service {service}: the port must be from 1 to 65535")
            }
            Self::InvalidProtocol { protocol } => {
                write!(f, "`{protocol}` is no protocol of services; there are tcp and udp")
            }
            Self::InvalidTimeout { service, name, value } => {
                write!(f, "service {service}: {name} of {value:?} is not from 1 second to 30 days")
            }
            Self::InvalidTransition { service, value } => write!(
                f,
                "service {service}: transition of {value:?} is longer than 30 days; 0 turns it off"
            ),
            Self::InvalidNewFlows { service, new_flows } => write!(
                f,
                "service {service}: new_flows of {new_flows} is not from 1 to {}",
                crate::MAX_NEW_FLOWS
            ),
            Self::InvalidDestination { address, reason } => {
                write!(f, "{address} cannot be a destination: {reason}")
            }
            Self::InvalidWeight { address, weight } => write!(
                f,
                "destination {address}: weight {weight} is not from 1 to {}; \
                 disable a destination to give it no new flows",
                crate::MAX_WEIGHT
            ),
            Self::InvalidDeadline { address, deadline, disabled: true } => write!(
                f,
                "destination {address}: a deadline of {deadline:?} is not from 1 second to 30 days; \
                 without one its flows stay as long as they live"
            ),
            Self::InvalidDeadline { address, deadline, disabled: false } => write!(
                f,
                "destination {address}: a deadline of {deadline:?} is for one that is disabled; \
                 disable it too, or leave the deadline out"
            ),
            Self::InvalidTunnelPort { address, tunnel } => write!(
                f,
                "destination {address}: a {tunnel} tunnel needs the UDP port that the server \
                 takes it on, from 1 to 65535"
            ),
            Self::InvalidInstance { instance } => {
                write!(f, "instance `{instance}`: a name has 1 to 64 letters, digits, `-` and `_`")
            }
            Self::OptionRange { option, value, least, most } => {
                write!(f, "option {option}: {value} is not from {least} to {most}")
            }
            Self::TableSize { size } => write!(
                f,
                "option table_size: {size} is no prime number (65537, for example, is one)"
            ),
            Self::DecapOption { option, reason } => write!(f, "option {option}: {reason}"),
            Self::ServiceExists { service } => write!(f, "service {service} exists already"),
            Self::ServiceNotFound { service } => write!(f, "there is no service {service}"),
            Self::DestinationExists { service, address } => {
                write!(f, "service {service} has a destination {address} already")
            }
            Self::DestinationNotFound { service, address } => {
                write!(f, "service {service} has no destination {address}")
            }
            Self::DestinationDrained { service, address } => write!(
                f,
                "destination {address} of service {service} is disabled, and its deadline is \
                 over: it takes no flows"
            ),
            Self::VipNotFound { address } => write!(f, "there is no service on {address}"),
            Self::LimitExceeded { limit, maximum, remedy } => {
                write!(f, "the limit of {maximum} {limit} is reached; {remedy}")
            }
            Self::ForeignProgram { interface, program } => write!(
                f,
                "interface `{interface}` has another XDP program, {program}; \
                 it is left alone: stop what attached it first"
            ),
            Self::NativeUnsupported { interface, source } => write!(
                f,
                "interface `{interface}` takes no native XDP program ({source}); \
                 mode `auto` or `generic` works with every driver"
            ),
            Self::Attach { interface, source } => {
                write!(f, "cannot attach to interface `{interface}`: {source}")
            }
            Self::Load { source } => write!(f, "cannot load the data plane: {source}"),
            Self::Kernel { release, needs } => write!(f, "kernel {release}: xvs needs {needs}"),
            Self::MissingCapability { missing } => write!(
                f,
                "the process lacks {}; run as root or give it these capabilities",
                missing.join(", ")
            ),
            Self::Bpffs { path, source } => write!(
                f,
                "no usable BPF file system at {}: {source}; \
                 `mount -t bpf bpf {0}` makes one",
                path.display()
            ),
            Self::Pins { path, source } => write!(f, "pins at {}: {source}", path.display()),
            Self::PinAccess { path, source } => write!(
                f,
                "{}: {source}; run as root, or as the user who owns the instance",
                path.display()
            ),
            Self::Layout { path, found, expected } => write!(
                f,
                "{} was made by another version (layout {found}, this one is {expected}), which \
                 can take it over; when its process is stopped, `xvsctl detach` removes it",
                path.display()
            ),
            Self::InstanceBusy { instance, process: Some(process) } => {
                write!(f, "instance `{instance}` is run by process {process}; choose another name")
            }
            Self::InstanceBusy { instance, process: None } => {
                write!(f, "instance `{instance}` is run by another process; choose another name")
            }
            Self::TakeOver { instance, reason } => write!(
                f,
                "instance `{instance}`, which goes on without a process, cannot be taken over: \
                 {reason}; `xvsctl detach` ends it"
            ),
            Self::InstanceNotFound { instance, path } => {
                write!(f, "no instance `{instance}` is running ({} is not there)", path.display())
            }
            Self::MixedFamilies { source, destination } => {
                write!(f, "{source} and {destination} are not of the same family")
            }
            Self::SharingOff { instance } => {
                write!(f, "instance `{instance}` shares no flows; `Options::share_flows` lets it")
            }
            Self::FlowReaderTaken { instance } => write!(
                f,
                "the flows of instance `{instance}` are read already; drop the `FlowReader` that \
                 there is, and do not mix it with `Client::read_flow`"
            ),
            Self::FlowExpired { source, service, idle, limit } => write!(
                f,
                "the flow of {source} to service {service} has been silent for {idle:?}; the \
                 service remembers it for {limit:?}"
            ),
            Self::FlowRoom { source, service } => write!(
                f,
                "there is no room for the flow of {source} to service {service}; \
                 `Options::flows` makes more"
            ),
            Self::Map { map, operation, source } => {
                write!(f, "map {map}: {operation} failed: {source}")
            }
            Self::Netlink { request, source } => write!(f, "netlink {request}: {source}"),
            Self::UnknownReason { reason, known } => {
                write!(f, "`{reason}` is no reason to capture; there are {}", known.join(", "))
            }
            Self::CaptureBuffers { source, restriction: None } => write!(
                f,
                "no buffers for captured frames: {source}; it takes CAP_PERFMON, and memory \
                 that the process may lock (`ulimit -l`): a smaller snaplen takes less"
            ),
            Self::CaptureBuffers { source, restriction: Some(level) } => write!(
                f,
                "no buffers for captured frames: {source}; kernel.perf_event_paranoid is \
                 {level}, with which it can take CAP_SYS_ADMIN: have that, or set it to 2 \
                 (`sysctl kernel.perf_event_paranoid=2`), where CAP_PERFMON is enough"
            ),
            Self::InstanceEnded { instance } => write!(
                f,
                "instance `{instance}` has ended, or was started anew: nothing more can be \
                 captured of it"
            ),
            Self::System { call, source } => write!(f, "{call}: {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NativeUnsupported { source, .. }
            | Self::Attach { source, .. }
            | Self::Bpffs { source, .. }
            | Self::Pins { source, .. }
            | Self::PinAccess { source, .. }
            | Self::Map { source, .. }
            | Self::System { source, .. } => Some(source),
            Self::Load { source }
            | Self::Netlink { source, .. }
            | Self::CaptureBuffers { source, .. } => Some(source.as_ref()),
            _ => None,
        }
    }
}
