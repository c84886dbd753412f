//! The other end of the balancer's tunnels: a real server takes packets out of
//! them.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::io::ErrorKind;
use std::net::IpAddr;

use crate::Error;
use crate::Mode;
use crate::Result;
use crate::attachments::check_headers;
use crate::attachments::check_unoccupied;
use crate::attachments::refusal;
use crate::bpf::Attachment;
use crate::bpf::DecapProgram;
use crate::bpf::DecapReasonCode;
use crate::bpf::DecapRoleCode;
use crate::bpf::has_frags;
use crate::host;
use crate::net::Net;
use crate::net::Snapshot;
use crate::ports;
use crate::ports::Device;
use crate::ports::Port;
use crate::service::address_fault;

/// Takes packets out of tunnels on a real server, before its stack sees them.
///
/// An XDP program does that to packets from the balancers to the host's own
/// addresses which carry one for a virtual address: IP-in-IP, GRE (RFC 2784, with
/// key and sequence number of RFC 2890), FOU and GUE, over and with both families.
/// Others are left as they are, those of other tunnels between the same hosts too.
/// The host needs no tunnel devices.
///
/// ```no_run
/// use xvs::{Decap, DecapOptions};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let options = DecapOptions::new()
///     .balancer("10.1.2.1".parse()?)
///     .vip("192.168.100.1".parse()?)
///     .gue(6080);
/// let decap = Decap::new(options, &["eth0"])?;
/// println!("{} packets from GUE", decap.stats()?.gue);
/// # Ok(())
/// # }
/// ```
///
/// The program is on the interfaces until this is dropped. Interfaces that are
/// removed and made anew, and members that join a bond whose members have the
/// program one by one, are not followed.
pub struct Decap {
    // Dropped in this order: first nothing reaches the program any more.
    attachments: Vec<Attachment>,
    program: DecapProgram,
    options: DecapOptions,
    net: Net,
    /// What the program knows of addresses.
    roles: BTreeMap<IpAddr, u32>,
    interfaces: Vec<String>,
    mode: Mode,
    fallback: Option<String>,
}

impl Decap {
    /// Loads the program and attaches it to interfaces, in this network namespace.
    ///
    /// # Errors
    ///
    /// When an option is wrong, an interface is not there, is down, or has an XDP
    /// program already, or the process lacks capabilities. Nothing is attached
    /// then.
    pub fn new(options: DecapOptions, interfaces: &[&str]) -> Result<Self> {
        options.validate()?;
        host::check_kernel()?;
        host::check_capabilities()?;
        let mut net = Net::new()?;
        let observed = net.snapshot()?;
        let ports = ports::resolve(interfaces, &observed)?;
        check_unoccupied(&ports, &observed, &[])?;
        let roles = options.roles(&net.addresses()?)?;

        let start = |mode| start(&options, &roles, &ports, &observed, mode);
        let (started, mode, fallback) = match options.mode {
            Mode::Auto => match start(Mode::Native) {
                Err(Error::NativeUnsupported { interface, source }) => {
                    let why = format!("interface `{interface}`: {source}");
                    (start(Mode::Generic)?, Mode::Generic, Some(why))
                }
                started => (started?, Mode::Native, None),
            },
            mode => (start(mode)?, mode, None),
        };
        let (program, attachments) = started;
        let interfaces = ports.into_iter().map(|port| port.name).collect();
        Ok(Self { attachments, program, options, net, roles, interfaces, mode, fallback })
    }

    /// How many packets ended with each reason so far.
    pub fn stats(&self) -> Result<DecapReasons> {
        Ok(DecapReasons::from_counts(&self.program.counts()?))
    }

    /// Reads the host's addresses again, unless they were given. An application
    /// calls this now and then if the host's addresses may change.
    pub fn refresh(&mut self) -> Result<()> {
        if !self.options.local.is_empty() {
            return Ok(());
        }
        let wanted = self.options.roles(&self.net.addresses()?)?;
        for (address, roles) in &wanted {
            if self.roles.get(address) != Some(roles) {
                self.program.set_roles(*address, *roles)?;
            }
        }
        for address in self.roles.keys().filter(|address| !wanted.contains_key(address)) {
            self.program.set_roles(*address, 0)?;
        }
        self.roles = wanted;
        Ok(())
    }

    /// The names of the interfaces; of a bond whose members have the program, the
    /// bond's.
    pub fn interfaces(&self) -> &[String] {
        &self.interfaces
    }

    /// [`Mode::Native`] or [`Mode::Generic`], for all interfaces.
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Why it is generic when [`Mode::Auto`] was asked for.
    pub fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }
}

impl fmt::Debug for Decap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decap")
            .field("options", &self.options)
            .field("attachments", &self.attachments)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// Which packets a real server takes out of tunnels.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct DecapOptions {
    /// The addresses that balancers send from, of either family: 1 to 1,024.
    pub balancers: Vec<IpAddr>,
    /// The virtual addresses: 1 to 4,096.
    pub vips: Vec<IpAddr>,
    /// The host's addresses that balancers send to, up to 4,096. If there are
    /// none, all that the host has but the virtual and loopback addresses.
    pub local: Vec<IpAddr>,
    /// The UDP port of FOU; it is not taken out without one.
    pub fou: Option<u16>,
    /// The UDP port of GUE; it is not taken out without one.
    pub gue: Option<u16>,
    /// How the program is attached.
    pub mode: Mode,
}

impl DecapOptions {
    /// No balancers, no virtual addresses, no ports.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a balancer.
    pub fn balancer(mut self, address: IpAddr) -> Self {
        self.balancers.push(address);
        self
    }

    /// Adds a virtual address.
    pub fn vip(mut self, address: IpAddr) -> Self {
        self.vips.push(address);
        self
    }

    /// Adds one of the host's addresses; those that are not added do not count
    /// then.
    pub fn local(mut self, address: IpAddr) -> Self {
        self.local.push(address);
        self
    }

    /// Sets the UDP port of FOU.
    pub const fn fou(mut self, port: u16) -> Self {
        self.fou = Some(port);
        self
    }

    /// Sets the UDP port of GUE.
    pub const fn gue(mut self, port: u16) -> Self {
        self.gue = Some(port);
        self
    }

    /// Sets how the program is attached.
    pub const fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Checks every option; the error names the one that is wrong.
    pub fn validate(&self) -> Result<()> {
        let fault = |option, reason: String| Err(Error::DecapOption { option, reason });
        for (option, limit, addresses, maximum) in [
            ("balancer", "balancers", &self.balancers, MAX_BALANCERS),
            ("vip", "virtual addresses", &self.vips, MAX_VIPS),
            ("local", "local addresses", &self.local, MAX_LOCAL),
        ] {
            if addresses.is_empty() && option != "local" {
                return fault(option, "name at least one address".to_owned());
            }
            if addresses.len() > maximum {
                return Err(Error::LimitExceeded { limit, maximum, remedy: "name fewer" });
            }
            let mut seen = BTreeSet::new();
            for address in addresses {
                if let Some(reason) = address_fault(*address) {
                    return fault(option, format!("{address} cannot be one: {reason}"));
                }
                if !seen.insert(address) {
                    return fault(option, format!("{address} is named twice"));
                }
            }
        }
        for (option, addresses) in [("balancer", &self.balancers), ("local", &self.local)] {
            if let Some(address) = addresses.iter().find(|address| self.vips.contains(address)) {
                return fault(option, format!("{address} is a virtual address too"));
            }
        }
        for (option, port) in [("fou", self.fou), ("gue", self.gue)] {
            if port == Some(0) {
                return fault(option, "port 0: it must be from 1 to 65535".to_owned());
            }
        }
        match (self.fou, self.gue) {
            (Some(fou), Some(gue)) if fou == gue => {
                fault("gue", format!("port {gue} is that of FOU; choose another one"))
            }
            _ => Ok(()),
        }
    }

    /// What each address is, if the host has these.
    fn roles(&self, host: &[IpAddr]) -> Result<BTreeMap<IpAddr, u32>> {
        let mut local = self.local.clone();
        if local.is_empty() {
            let counts = |a: &&IpAddr| !a.is_loopback() && !self.vips.contains(a);
            local = host.iter().filter(counts).copied().collect();
        }
        if local.len() > MAX_LOCAL {
            return Err(Error::LimitExceeded {
                limit: "addresses of the host",
                maximum: MAX_LOCAL,
                remedy: "name those that balancers send to (option local)",
            });
        }
        let mut roles = BTreeMap::new();
        for (role, addresses) in [
            (DecapRoleCode::XVS_DECAP_BALANCER, &self.balancers),
            (DecapRoleCode::XVS_DECAP_LOCAL, &local),
            (DecapRoleCode::XVS_DECAP_VIP, &self.vips),
        ] {
            for address in addresses {
                *roles.entry(*address).or_default() |= role.0;
            }
        }
        Ok(roles)
    }
}

/// What a real server did with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecapOutcome {
    /// It was passed to the host's stack as it came.
    Passed,
    /// It was passed without its tunnel.
    TakenOut,
    /// It was dropped.
    Dropped,
}

/// Makes [`DecapReasons`] of names and the data plane's codes, by outcome.
macro_rules! reasons {
    ($($outcome:ident { $($(#[$doc:meta])* $name:ident: $code:ident,)* })*) => {
        /// Packets by what became of them on a real server.
        ///
        /// Passed is what is not certainly for a virtual address, from a balancer
        /// and to an address of the host. What is, is taken out, or dropped if
        /// something is wrong with it.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct DecapReasons {
            $($($(#[$doc])* pub $name: u64,)*)*
        }

        impl DecapReasons {
            /// The name and the count of each reason.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$($((stringify!($name), self.$name),)*)*].into_iter()
            }

            /// The same for the reasons with an outcome.
            pub fn of(&self, outcome: DecapOutcome) -> impl Iterator<Item = (&'static str, u64)> {
                [$($((stringify!($name), self.$name, DecapOutcome::$outcome),)*)*]
                    .into_iter()
                    .filter(move |(_, _, its)| *its == outcome)
                    .map(|(name, count, _)| (name, count))
            }

            /// Takes the counts that the program has by number.
            fn from_counts(counts: &[u64]) -> Self {
                Self { $($($name: counts[DecapReasonCode::$code.0 as usize],)*)* }
            }
        }
    };
}

reasons! {
    Passed {
        /// Passed: of no tunnel that is taken out; also later fragments of UDP, whose
        /// port nobody knows.
        not_tunnel: XVS_DECAP_NOT_TUNNEL,
        /// Passed: of a tunnel, but not from a balancer.
        foreign_source: XVS_DECAP_FOREIGN_SOURCE,
        /// Passed: from a balancer, but not to an address of this host.
        not_local: XVS_DECAP_NOT_LOCAL,
        /// Passed: lengths, versions or headers contradict each other, up to the
        /// address that the packet inside is for.
        outer_malformed: XVS_DECAP_OUTER_MALFORMED,
        /// Passed: the outer packet has IPv4 options or IPv6 extension headers.
        outer_options: XVS_DECAP_OUTER_OPTIONS,
        /// Passed: the outer packet is a fragment.
        outer_fragment: XVS_DECAP_OUTER_FRAGMENT,
        /// Passed: GRE or GUE of another version, GRE with a checksum, GUE with a
        /// control message, with optional fields or without an IP packet.
        unsupported: XVS_DECAP_UNSUPPORTED,
        /// Passed: what is in the tunnel is for no virtual address.
        not_vip: XVS_DECAP_NOT_VIP,
    }
    TakenOut {
        /// Taken out of IP-in-IP.
        ipip: XVS_DECAP_IPIP,
        /// Taken out of GRE.
        gre: XVS_DECAP_GRE,
        /// Taken out of FOU.
        fou: XVS_DECAP_FOU,
        /// Taken out of GUE.
        gue: XVS_DECAP_GUE,
    }
    Dropped {
        /// Dropped: the lengths of the packet inside contradict each other or those
        /// of the tunnel.
        malformed: XVS_DECAP_MALFORMED,
        /// Dropped: a tunnel in the tunnel.
        nested: XVS_DECAP_NESTED,
        /// Dropped: the checksum of the outer IPv4 header is wrong.
        outer_checksum: XVS_DECAP_OUTER_CHECKSUM,
        /// Dropped: the checksum of the outer UDP header is wrong.
        udp_checksum: XVS_DECAP_UDP_CHECKSUM,
        /// Dropped: the outer UDP checksum cannot be verified: what is inside is a
        /// fragment or has no checksum of its own, and is longer than 9,216 octets or
        /// not in the frame's first buffer.
        unverifiable: XVS_DECAP_UNVERIFIABLE,
        /// Dropped: congestion was met that the inner packet cannot tell of (RFC
        /// 6040).
        ce_not_ect: XVS_DECAP_CE_NOT_ECT,
    }
}

/// The most balancers.
const MAX_BALANCERS: usize = 1_024;
/// The most virtual addresses.
const MAX_VIPS: usize = 4_096;
/// The most addresses of the host.
const MAX_LOCAL: usize = 4_096;
/// The most addresses that the program knows.
const MAX_ADDRESSES: usize = MAX_BALANCERS + MAX_VIPS + MAX_LOCAL;

/// Loads the program and attaches it to all ports, all native or all generic.
fn start(
    options: &DecapOptions,
    roles: &BTreeMap<IpAddr, u32>,
    ports: &[Port],
    observed: &Snapshot,
    mode: Mode,
) -> Result<(DecapProgram, Vec<Attachment>)> {
    let port = Option::unwrap_or_default;
    // A generic program that cannot have them gets frames in one buffer.
    let frags = mode == Mode::Native && has_frags();
    let program =
        DecapProgram::load(port(options.fou), port(options.gue), MAX_ADDRESSES as u32, frags)?;
    for (address, roles) in roles {
        program.set_roles(*address, *roles)?;
    }
    let mut attachments = Vec::new();
    for port in ports {
        attachments.extend(attach_port(&program, port, observed, mode)?);
    }
    Ok((program, attachments))
}

/// Attaches to a bond where the kernel can, elsewhere to its members. A generic
/// program on a bond would see what was joined on its members before.
fn attach_port(
    program: &DecapProgram,
    port: &Port,
    observed: &Snapshot,
    mode: Mode,
) -> Result<Vec<Attachment>> {
    let bond = observed.links.get(&port.index).is_some_and(ports::is_bond);
    if mode == Mode::Native {
        let members = observed.members(port.index).filter(|_| bond);
        observed.links.get(&port.index).into_iter().chain(members).try_for_each(check_headers)?;
    }
    let attach = |split| {
        let devices = Port { split, ..port.clone() }.devices(observed);
        devices.iter().map(|device| attach(program, device, mode)).collect()
    };
    match attach(bond && mode == Mode::Generic) {
        // v5.15: 9e2ee5c7e7c3 ("net, bonding: Add XDP support to the bonding
        // driver"), for some modes of bonds, and if all members can.
        Err(Error::NativeUnsupported { .. }) if bond => attach(true),
        attached => attached,
    }
}

fn attach(program: &DecapProgram, device: &Device, mode: Mode) -> Result<Attachment> {
    let interface = || device.name.clone();
    program.attach(device.index, mode).map_err(|error| match error.kind() {
        // Somebody was faster than the look at the interface before.
        ErrorKind::ResourceBusy | ErrorKind::AlreadyExists => {
            Error::ForeignProgram { interface: interface(), program: "not there before".to_owned() }
        }
        _ if mode == Mode::Generic => Error::Attach { interface: interface(), source: error },
        _ => Error::NativeUnsupported { interface: interface(), source: refusal(device, error) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn options() -> DecapOptions {
        DecapOptions::new().balancer(address("10.1.2.1")).vip(address("192.168.100.1"))
    }

    #[test]
    fn options_are_checked() {
        options().validate().unwrap();
        options().fou(5555).gue(6080).local(address("10.1.2.3")).validate().unwrap();
        let many = |n: u32| (0..n).map(|i| IpAddr::from((0x0a00_0000 + i).to_be_bytes()));
        let with = |change: fn(&mut DecapOptions)| {
            let mut options = options();
            change(&mut options);
            options
        };
        for (options, part) in [
            (DecapOptions::new().vip(address("192.168.100.1")), "balancer"),
            (DecapOptions::new().balancer(address("10.1.2.1")), "vip"),
            (options().balancer(address("10.1.2.1")), "10.1.2.1 is named twice"),
            (options().vip(address("192.168.100.1")), "192.168.100.1 is named twice"),
            (options().vip(address("10.1.2.1")), "10.1.2.1 is a virtual address too"),
            (options().local(address("192.168.100.1")), "192.168.100.1"),
            (options().balancer(address("0.0.0.0")), "0.0.0.0"),
            (options().vip(address("::ffff:10.0.0.1")), "::ffff:10.0.0.1"),
            (options().fou(0), "fou"),
            (options().gue(0), "gue"),
            (options().fou(6080).gue(6080), "6080"),
            (with(|o| o.balancers.clear()), "balancer"),
            (DecapOptions { balancers: many(1_025).collect(), ..options() }, "1024 balancers"),
            (DecapOptions { vips: many(4_097).collect(), ..options() }, "4096 virtual"),
            (DecapOptions { local: many(4_097).collect(), ..options() }, "4096 local"),
        ] {
            let error = options.validate().unwrap_err().to_string();
            assert!(error.contains(part), "{error} lacks {part}");
        }
    }

    #[test]
    fn an_address_is_what_it_is_listed_as() {
        let host = ["127.0.0.1", "10.1.2.3", "192.168.100.1", "::1", "fd00::3"].map(address);
        let codes = |roles: BTreeMap<IpAddr, u32>| -> Vec<(String, u32)> {
            roles.into_iter().map(|(address, roles)| (address.to_string(), roles)).collect()
        };
        let named = |list: &[(&str, u32)]| -> Vec<(String, u32)> {
            list.iter().map(|(address, roles)| ((*address).to_owned(), *roles)).collect()
        };
        assert_eq!(
            codes(options().roles(&host).unwrap()),
            named(&[("10.1.2.1", 1), ("10.1.2.3", 2), ("192.168.100.1", 4), ("fd00::3", 2)])
        );
        let given = options().local(address("10.1.2.1"));
        assert_eq!(
            codes(given.roles(&host).unwrap()),
            named(&[("10.1.2.1", 3), ("192.168.100.1", 4)])
        );
        let many: Vec<IpAddr> = (0..10_000_u32).map(|i| i.to_be_bytes().into()).collect();
        let error = options().roles(&many).unwrap_err().to_string();
        assert!(error.contains("option local"), "{error}");
    }

    #[test]
    fn threads_may_share_it() {
        const fn shared<T: Send + Sync>() {}
        shared::<Decap>();
    }

    #[test]
    fn every_reason_has_a_name() {
        let names = DecapReasons::default().iter().count();
        assert_eq!(names, DecapReasonCode::XVS_DECAP_REASONS.0 as usize);
    }
}
