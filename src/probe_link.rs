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
use crate::bpf::LinkInfo;
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
    /// Whether the links are pinned.
    pins: bool,
    /// Whether it stays when this is dropped.
    stays: bool,
}

/// The interface as it is.
struct Present {
    /// Of the wire end, and of the host's.
    attachments: [Attachment; 2],
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
    /// Makes the interface in the network namespace of the thread, or takes over the one
    /// that another process has left with its programs.
    pub(crate) fn new(
        options: &Options,
        dataplane: &Dataplane,
        maps: Arc<Maps>,
        events: &Events,
        left: Option<[Option<(LinkInfo, Attachment)>; 2]>,
        observed: &Snapshot,
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
        let pins = options.persist.pins();
        let stays = left.is_some();
        let mut link = Self { maps, net: Net::new()?, wanted, present: None, pins, stays };
        let ends = match left {
            Some(left) => link.take_over(dataplane, left, observed)?,
            None => None,
        };
        let ends = match ends {
            Some(ends) => ends,
            None => link.make(dataplane)?,
        };
        if !ends.v6 {
            let what = "IPv6 VIPs have no NAT addresses: IPv6 is disabled on this host";
            events.push(Event::Failed(what.to_owned()));
        }
        Ok(link)
    }

    /// Puts this process's programs on the interface that another one has left, if it is
    /// whole; otherwise that goes.
    fn take_over(
        &mut self,
        dataplane: &Dataplane,
        left: [Option<(LinkInfo, Attachment)>; 2],
        observed: &Snapshot,
    ) -> Result<Option<ProbeEnds>> {
        let indices = left.each_ref().map(|link| link.as_ref().map(|(info, _)| info.ifindex));
        let found = self.net.probe_pair(&self.wanted)?.filter(|ends| {
            indices == [Some(ends.wire.index), Some(ends.host.index)]
                && self.wanted.is_whole(ends, observed)
        });
        if let (Some(ends), [Some((_, request)), Some((_, pass))]) = (found, &left) {
            let replaced = dataplane.probes().replace([request, pass]);
            let interface = || self.wanted.host.clone();
            replaced.map_err(|source| Error::Attach { interface: interface(), source })?;
            self.write_record(ends);
        }
        let taken = left.into_iter().zip(dataplane.directory().probe_pins());
        let taken = taken.filter_map(|(link, pin)| {
            let (_, mut link) = link?;
            link.take(pin);
            Some(link)
        });
        let attachments: Vec<Attachment> = taken.collect();
        match (found, <[Attachment; 2]>::try_from(attachments)) {
            (Some(ends), Ok(attachments)) => {
                self.present = Some(Present { attachments, ends, seen: true });
                Ok(found)
            }
            (_, attachments) => {
                drop(attachments);
                let _ = self.net.remove_probe_pair(&self.wanted.host)?;
                Ok(None)
            }
        }
    }

    /// Has the interface lose its programs with this process, also if that is killed.
    pub(crate) fn unpin(&mut self) -> Result<()> {
        self.pins = false;
        let mut attachments = self.present.iter_mut().flat_map(|p| &mut p.attachments);
        let unpinned = attachments.try_for_each(Attachment::unpin);
        let interface = || self.wanted.host.clone();
        unpinned.map_err(|source| Error::Attach { interface: interface(), source })
    }

    /// Has the interface stay when this is dropped, or go.
    pub(crate) const fn set_stays(&mut self, stays: bool) {
        self.stays = stays;
    }

    /// Makes the interface, whole or not at all.
    fn make(&mut self, dataplane: &Dataplane) -> Result<ProbeEnds> {
        let ends = self.net.make_probe_pair(&self.wanted)?;
        match self.attach(dataplane, ends) {
            Ok(attachments) => {
                self.present = Some(Present { attachments, ends, seen: false });
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
        let mut request = probes.attach_request(ends.wire.index).map_err(fault(wire))?;
        let mut pass = probes.attach_pass(ends.host.index).map_err(fault(host))?;
        if self.pins {
            let [request_pin, pass_pin] = dataplane.directory().probe_pins();
            request.pin(request_pin).map_err(fault(wire))?;
            pass.pin(pass_pin).map_err(fault(host))?;
        }
        self.write_record(ends);
        Ok([request, pass])
    }

    /// Tells the data plane.
    fn write_record(&self, ends: ProbeEnds) {
        let record = ProbeLinkRecord {
            ifindex: ends.wire.index,
            host_mac: ends.host.mac.0,
            mac: ends.wire.mac.0,
            ..Default::default()
        };
        self.maps.probe_link.write(0, &record);
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
        if self.stays {
            if let Some(present) = &mut self.present {
                present.attachments.iter_mut().for_each(Attachment::leave);
            }
            return;
        }
        // Programs before what they are on, which may be gone already, with its
        // network namespace.
        if self.present.take().is_some() {
            // Again if a request or an answer was lost: nobody else removes it.
            let removed = self.net.remove_probe_pair(&self.wanted.host);
            let _ = removed.or_else(|_| self.net.remove_probe_pair(&self.wanted.host));
        }
    }
}

impl fmt::Debug for ProbeLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProbeLink").field("host", &self.wanted.host).finish_non_exhaustive()
    }
}
