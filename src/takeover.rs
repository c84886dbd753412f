//! What a process that is gone has left forwarding, and whether this one can go on
//! with it.

use std::time::Duration;

use crate::Error;
use crate::Instance;
use crate::OnExit;
use crate::Options;
use crate::Result;
use crate::bpf::Attachment;
use crate::bpf::Directory;
use crate::bpf::InstanceRecord;
use crate::bpf::LinkInfo;
use crate::bpf::Settings;
use crate::bpf::address_octets;
use crate::net::Snapshot;
use crate::net::XdpMode;

/// A data plane without a process.
#[derive(Debug)]
pub(crate) struct Left {
    /// Its maps.
    pub(crate) instance: Instance,
    /// The links to interfaces. One at least is there.
    pub(crate) links: Vec<(LinkInfo, Attachment)>,
    /// The links to both ends of the probe interface, as far as they are there.
    pub(crate) probe_links: [Option<(LinkInfo, Attachment)>; 2],
    /// Whether its programs are in the stack, not in drivers.
    pub(crate) generic: bool,
}

impl Left {
    /// Finds what is left in the folder, if that is on any interface.
    ///
    /// # Errors
    ///
    /// When it is, and this process cannot go on with it: it is in another network
    /// namespace, or what was fixed when it was loaded is not what the options say.
    pub(crate) fn find(
        options: &Options,
        directory: &Directory,
        observed: &Snapshot,
    ) -> Result<Option<Self>> {
        let links = directory.links()?;
        if links.is_empty() {
            return Ok(None);
        }
        let instance = Instance::open(&options.bpffs, &options.instance)?;
        if !instance.is_here() {
            let reason = "it is in another network namespace; start it there".to_owned();
            return Err(Error::TakeOver { instance: options.instance.clone(), reason });
        }
        let program = |info: &LinkInfo| {
            let xdp = observed.links.get(&info.ifindex)?.xdp;
            xdp.filter(|xdp| xdp.id == info.program)
        };
        // Others have the indices of interfaces that went to another namespace.
        let (links, elsewhere): (Vec<_>, Vec<_>) =
            links.into_iter().partition(|(info, _)| program(info).is_some());
        for (info, mut link) in elsewhere {
            link.take(directory.link_pin(info.ifindex));
        }
        let Some(first) = links.first().and_then(|(info, _)| program(info)) else {
            return Ok(None);
        };
        let generic = first.mode == XdpMode::Generic;
        Ok(Some(Self { instance, links, probe_links: directory.probe_links(), generic }))
    }

    /// Its record for readers.
    pub(crate) fn record(&self) -> InstanceRecord {
        self.instance.maps.instance.read(0)
    }

    /// The constants to load the program with: those that are wanted, as far as the
    /// maps do not depend on them.
    pub(crate) fn settings(&self, options: &Options, wanted: Settings) -> Result<Settings> {
        let record = self.record();
        let found = record.settings;
        let nat = options.nat_prefixes();
        let same = [
            ("hash_key", (found.k0, found.k1) == (wanted.k0, wanted.k1)),
            ("flows", found.flow_groups == wanted.flow_groups),
            ("table_size", found.table_size == wanted.table_size),
            ("services", found.services == wanted.services),
            ("destinations", found.destinations == wanted.destinations),
            (
                "nat4",
                record.nat4 == address_octets(nat.used4().address())
                    && self.instance.maps.gate.read(0).nat4_mask == nat.mask4(),
            ),
            ("nat6", record.nat6 == address_octets(nat.used6().address())),
            ("kind of buffers", found.frags == wanted.frags),
        ];
        let others: Vec<&str> =
            same.iter().filter(|(_, same)| !same).map(|(name, _)| *name).collect();
        if !others.is_empty() {
            let reason =
                format!("it runs with another {}; start with the same options", others.join(", "));
            return Err(Error::TakeOver { instance: options.instance.clone(), reason });
        }
        let Settings { flow_k0, flow_k1, cpus, .. } = found;
        Ok(Settings { flow_k0, flow_k1, cpus, ..wanted })
    }
}

impl OnExit {
    /// Whether the links are pinned, so that they outlive the process.
    pub(crate) fn pins(self) -> bool {
        self != Self::Detach
    }

    /// As the instance's record has it.
    pub(crate) fn keep_ns(self) -> u64 {
        match self {
            Self::Detach => 0,
            Self::Keep => u64::MAX,
            Self::KeepFor(time) => time.as_nanos() as u64,
        }
    }

    /// The reverse.
    pub(crate) const fn from_keep_ns(keep_ns: u64) -> Self {
        match keep_ns {
            0 => Self::Detach,
            u64::MAX => Self::Keep,
            time => Self::KeepFor(Duration::from_nanos(time)),
        }
    }
}
