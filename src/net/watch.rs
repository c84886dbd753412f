//! Hears what changes in the network.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;

use super::message;
use super::netlink;
use super::snapshot::Change;
use super::snapshot::Snapshot;
use super::socket::Received;
use super::socket::Socket;
use crate::Result;

/// The groups of linux/rtnetlink.h that are heard.
const GROUPS: [u32; 7] = [
    RTNLGRP_LINK,
    RTNLGRP_NEIGH,
    RTNLGRP_IPV4_IFADDR,
    RTNLGRP_IPV4_ROUTE,
    RTNLGRP_IPV6_IFADDR,
    RTNLGRP_IPV6_ROUTE,
    RTNLGRP_NEXTHOP,
];
const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_NEIGH: u32 = 3;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV6_IFADDR: u32 = 9;
const RTNLGRP_IPV6_ROUTE: u32 = 11;
const RTNLGRP_NEXTHOP: u32 = 32;

/// Room for some 10,000 changes at once.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;

/// Hears changes of links, addresses, neighbours and routes.
///
/// Its file descriptor is readable when there is something to
/// [`drain`](Self::drain).
pub(crate) struct Watcher {
    socket: Socket,
}

/// What [`Watcher::drain`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Whether the snapshot changed, but for routes to some.
    pub(crate) any: bool,
    /// Whether routes to some changed, which are many and matter to few.
    pub(crate) routes: bool,
    /// Whether messages were lost: read everything again.
    pub(crate) lost: bool,
    /// Whether something changed of which no message tells all: read everything
    /// again.
    pub(crate) outdated: bool,
}

impl Watcher {
    /// Starts to listen in the network namespace that the calling thread is
    /// in; another thread may use it afterwards.
    pub(crate) fn new() -> Result<Self> {
        Self::with_receive_buffer(RECEIVE_BUFFER)
    }

    pub(super) fn with_receive_buffer(octets: usize) -> Result<Self> {
        let socket = Socket::for_groups(&GROUPS, octets).map_err(netlink("subscription"))?;
        Ok(Self { socket })
    }

    /// Takes all that is queued into the snapshot; never blocks.
    pub(crate) fn drain(&mut self, snapshot: &mut Snapshot) -> Result<Changes> {
        let mut changes = Changes::default();
        loop {
            match self.socket.receive().map_err(netlink("notification"))? {
                Received::Messages(messages) => {
                    for change in messages.iter().filter_map(message::change) {
                        changes.outdated |= snapshot.is_outdated_by(&change);
                        let to_some = match &change {
                            Change::Route(to, ..) | Change::RouteGone(to, _) => to.length() != 0,
                            _ => false,
                        };
                        let news = snapshot.apply(change);
                        changes.any |= news && !to_some;
                        changes.routes |= news && to_some;
                    }
                }
                // What is still queued is older than what was lost: go on.
                Received::Lost => changes.lost = true,
                Received::Nothing => return Ok(changes),
            }
        }
    }
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
