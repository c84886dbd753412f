//! The probe interface: a veth, by which what the host sends to NAT addresses gets to
//! the data plane, and answers get back.

use std::fmt;
use std::net::IpAddr;

use crate::Error;
use crate::Event;
use crate::Mode;
use crate::Options;
use crate::Prefix;
use crate::Result;
use crate::bpf::Attachment;
use crate::bpf::Dataplane;
use crate::bpf::Maps;
use crate::bpf::ProbeLinkRecord;
use crate::event::Events;
use crate::net::Net;
use crate::net::ProbePair;
use crate::net::Snapshot;
use crate::net::overlap;
use crate::net::probe_names;

/// The probe interface of an instance with its programs. It goes when this is dropped.
pub(crate) struct ProbeLink {
    // Dropped in this order: programs before what they are on.
    _attachments: Vec<Attachment>,
    pair: Pair,
}

/// The interface itself.
struct Pair {
    net: Net,
    host: String,
}

impl ProbeLink {
    /// Makes the interface in the network namespace of the thread. One that a process
    /// left which has died is taken over.
    pub(crate) fn new(
        options: &Options,
        dataplane: &Dataplane,
        generic: bool,
        observed: &Snapshot,
        maps: &Maps,
        events: &Events,
    ) -> Result<Self> {
        let (host, wire) = probe_names(&options.instance);
        let prefixes = options.nat_prefixes();
        let left = observed.link(&host).map(|link| link.index);
        for prefix in [prefixes.used4(), prefixes.used6()] {
            if let Some(other) = overlap(&prefix, observed, left) {
                return Err(Error::NatOverlap { prefix, other });
            }
        }
        let mut net = Net::new()?;
        let of = |prefix: Prefix| (prefix.address(), prefix);
        let wanted = ProbePair {
            host: host.clone(),
            wire: wire.clone(),
            v4: match of(prefixes.used4()) {
                (IpAddr::V4(address), prefix) => Some((address, prefix)),
                _ => None,
            },
            v6: match of(prefixes.used6()) {
                (IpAddr::V6(address), prefix) => Some((address, prefix)),
                _ => None,
            },
        };
        let ends = net.make_probe_pair(&wanted)?;
        if !ends.v6 {
            events.push(Event::Failed(
                "IPv6 VIPs have no NAT addresses: IPv6 is disabled on this host".to_owned(),
            ));
        }
        let pair = Pair { net, host: host.clone() };
        let mode = if generic { Mode::Generic } else { Mode::Native };
        let fault = |interface: &str| {
            let interface = interface.to_owned();
            move |source| Error::Attach { interface, source }
        };
        let probes = dataplane.probes();
        let request = probes.attach_request(ends.wire.index, mode).map_err(fault(&wire))?;
        // Native, whatever the others are: the kernel gives an end frames of another
        // native program only if it has one.
        let pass = probes.attach_pass(ends.host.index, Mode::Native).map_err(fault(&host))?;
        maps.probe_link.write(
            0,
            &ProbeLinkRecord {
                ifindex: ends.wire.index,
                host_mac: ends.host.mac.0,
                mac: ends.wire.mac.0,
                ..Default::default()
            },
        );
        Ok(Self { _attachments: vec![request, pass], pair })
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // It may be gone already, with its network namespace.
        let _ = self.net.remove_probe_pair(&self.host);
    }
}

impl fmt::Debug for ProbeLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProbeLink").field("host", &self.pair.host).finish_non_exhaustive()
    }
}
