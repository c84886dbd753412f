//! The probe interface: a veth, by which what the host sends to NAT addresses gets to
//! the data plane, and answers get back.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::Error;
use crate::Event;
use crate::Options;
use crate::Prefix;
use crate::Result;
use crate::bpf::Attachment;
use crate::bpf::Dataplane;
use crate::bpf::Maps;
use crate::bpf::ProbeLinkRecord;
use crate::event::Events;
use crate::net::Net;
use crate::net::ProbeEnds;
use crate::net::ProbePair;
use crate::net::Snapshot;
use crate::net::overlap;
use crate::net::probe_names;

/// The probe interface of an instance with its programs. It goes when this is dropped.
pub(crate) struct ProbeLink {
    maps: Arc<Maps>,
    net: Net,
    wanted: ProbePair,
    present: Option<Present>,
}

/// The interface as it is.
struct Present {
    _attachments: [Attachment; 2],
    ends: ProbeEnds,
    /// Whether all of it was heard of.
    seen: bool,
}

/// Checks that NAT addresses are none that the host has, or a route for. The probe
/// interface that a process has left which has died does not count.
pub(crate) fn check_prefixes(options: &Options, observed: &Snapshot) -> Result<()> {
    let (host, _) = probe_names(&options.instance);
    let left = observed.link(&host).map(|link| link.index);
    let prefixes = options.nat_prefixes();
    for prefix in [prefixes.used4(), prefixes.used6()] {
        if let Some(other) = overlap(&prefix, observed, left) {
            return Err(Error::NatOverlap { prefix, other });
        }
    }
    Ok(())
}

impl ProbeLink {
    /// Makes the interface in the network namespace of the thread. One that a process
    /// left which has died is taken over.
    pub(crate) fn new(
        options: &Options,
        dataplane: &Dataplane,
        maps: Arc<Maps>,
        events: &Events,
    ) -> Result<Self> {
        let (host, wire) = probe_names(&options.instance);
        let prefixes = options.nat_prefixes();
        let of = |prefix: Prefix| (prefix.address(), prefix);
        let wanted = ProbePair {
            host,
            wire,
            v4: match of(prefixes.used4()) {
                (IpAddr::V4(address), prefix) => Some((address, prefix)),
                _ => None,
            },
            v6: match of(prefixes.used6()) {
                (IpAddr::V6(address), prefix) => Some((address, prefix)),
                _ => None,
            },
        };
        let mut link = Self { maps, net: Net::new()?, wanted, present: None };
        if !link.make(dataplane)?.v6 {
            let what = "IPv6 VIPs have no NAT addresses: IPv6 is disabled on this host";
            events.push(Event::Failed(what.to_owned()));
        }
        Ok(link)
    }

    /// Makes the interface, whole or not at all.
    fn make(&mut self, dataplane: &Dataplane) -> Result<ProbeEnds> {
        let ends = self.net.make_probe_pair(&self.wanted)?;
        match self.attach(dataplane, ends) {
            Ok(attachments) => {
                let _attachments = attachments;
                self.present = Some(Present { _attachments, ends, seen: false });
                Ok(ends)
            }
            Err(error) => {
                let _ = self.net.remove_probe_pair(&self.wanted.host);
                Err(error)
            }
        }
    }

    fn attach(&self, dataplane: &Dataplane, ends: ProbeEnds) -> Result<[Attachment; 2]> {
        let fault = |interface: &String| {
            let interface = interface.clone();
            move |source| Error::Attach { interface, source }
        };
        let ProbePair { host, wire, .. } = &self.wanted;
        let probes = dataplane.probes();
        let request = probes.attach_request(ends.wire.index).map_err(fault(wire))?;
        let pass = probes.attach_pass(ends.host.index).map_err(fault(host))?;
        let record = ProbeLinkRecord {
            ifindex: ends.wire.index,
            host_mac: ends.host.mac.0,
            mac: ends.wire.mac.0,
            ..Default::default()
        };
        self.maps.probe_link.write(0, &record);
        Ok([request, pass])
    }

    /// Whether somebody took the interface away or down, or an address or route of it.
    pub(crate) fn is_broken(&mut self, observed: &Snapshot) -> bool {
        let Some(present) = &mut self.present else { return true };
        let whole = self.wanted.is_whole(&present.ends, observed);
        // What was made just now is heard of soon.
        let broken = present.seen && !whole;
        present.seen |= whole;
        broken
    }

    /// Makes the interface anew.
    pub(crate) fn renew(&mut self, dataplane: &Dataplane) -> Result<()> {
        self.present = None;
        let _ = self.net.remove_probe_pair(&self.wanted.host);
        self.make(dataplane).map(drop)
    }

    /// The name of the host's end.
    pub(crate) fn name(&self) -> &str {
        &self.wanted.host
    }
}

impl ProbePair {
    /// Whether all of a pair is there and up.
    fn is_whole(&self, ends: &ProbeEnds, observed: &Snapshot) -> bool {
        let runs = |index| observed.links.get(&index).is_some_and(|link| link.running);
        let has = |address: IpAddr| {
            let mut all = observed.addresses.iter();
            all.any(|own| own.index == ends.host.index && own.address == address)
        };
        let v4 = self.v4.is_none_or(|(address, prefix)| {
            has(address.into())
                && observed.routes.to(prefix.address()).is_some_and(|route| {
                    route.hops.iter().any(|hop| hop.interface == ends.host.index)
                })
        });
        let v6 = self.v6.is_none_or(|(address, _)| !ends.v6 || has(address.into()));
        runs(ends.host.index) && runs(ends.wire.index) && v4 && v6
    }
}

impl Drop for ProbeLink {
    fn drop(&mut self) {
        // Programs before what they are on, which may be gone already, with its
        // network namespace.
        if self.present.take().is_some() {
            let _ = self.net.remove_probe_pair(&self.wanted.host);
        }
    }
}

impl fmt::Debug for ProbeLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProbeLink").field("host", &self.wanted.host).finish_non_exhaustive()
    }
}
