//! Which ways lead to a server behind a tunnel: pure, no I/O.

use std::net::IpAddr;

use crate::DestinationStatus;
use crate::discovery;
use crate::discovery::NextHop;
use crate::net::Snapshot;
use crate::ports::Port;
use crate::vlans::VlanPrefix;

/// One way to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) hop: NextHop,
    pub(crate) neighbour: IpAddr,
    pub(crate) local: IpAddr,
    pub(crate) weight: u32,
}

pub(crate) struct NoWay {
    pub(crate) status: DestinationStatus,
    pub(crate) last: Vec<Way>,
}

impl Way {
    pub(crate) fn direct(server: IpAddr, hop: NextHop) -> Self {
        Self { hop, neighbour: server, local: server, weight: 1 }
    }
}

pub(crate) fn ways(
    server: IpAddr,
    last: &[Way],
    prefixes: &[VlanPrefix],
    ports: &[Port],
    snapshot: &Snapshot,
) -> Result<Vec<Way>, NoWay> {
    let local =
        prefixes.iter().find(|p| p.prefix.contains(server)).and_then(|p| p.own_address(snapshot));
    let local = local.ok_or(NoWay { status: DestinationStatus::NoPrefix, last: vec![] })?;
    let way = |hop| Way { hop, neighbour: server, local, weight: 1 };
    match discovery::next_hop(server, last.first().map(|w| w.hop), prefixes, ports, snapshot) {
        Ok(hop) => Ok(vec![way(hop)]),
        Err(e) => Err(NoWay { status: e.status, last: e.last.map(way).into_iter().collect() }),
    }
}
