//! What became of flows that balancers share.

use std::ops::ControlFlow;

use crate::Error;
use crate::FlowRecord;
use crate::Instance;
use crate::Result;
use crate::bpf::ShareRecord;
use crate::clock::now_tick;
use crate::flows::is_live;

/// What became of a flow that another balancer told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Written {
    /// It is remembered.
    Stored,
    /// It was known with this server; what the record knew more of it is remembered.
    Refreshed,
    /// It is known with another server, and stays with that.
    Kept,
}

/// Makes [`Accepted`] of names.
macro_rules! accepted {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// How many records from other balancers came to what.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Accepted {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Accepted {
            /// The name and the number of each.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }

            pub(crate) fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }
        }

        impl From<ShareRecord> for Accepted {
            fn from(record: ShareRecord) -> Self {
                Self { $($name: record.$name,)* }
            }
        }

        impl From<Accepted> for ShareRecord {
            fn from(accepted: Accepted) -> Self {
                Self { $($name: accepted.$name,)* }
            }
        }
    };
}

accepted! {
    /// Remembered.
    stored,
    /// Known already, with the same server.
    refreshed,
    /// Known with another server, which they stay with.
    kept,
    /// Refused: for no service of this balancer.
    no_service,
    /// Refused: of a server that the service does not have here.
    no_destination,
    /// Refused: silent for longer than the service remembers flows.
    expired,
    /// Refused: no place in the flow table.
    no_room,
    /// Refused: truncated, corrupted, or of another version.
    bad,
}

impl Accepted {
    /// How many were refused.
    pub const fn refused(&self) -> u64 {
        self.no_service + self.no_destination + self.expired + self.no_room + self.bad
    }

    pub(crate) fn count(&mut self, result: &Result<Written>) {
        *match result {
            Ok(Written::Stored) => &mut self.stored,
            Ok(Written::Refreshed) => &mut self.refreshed,
            Ok(Written::Kept) => &mut self.kept,
            Err(Error::ServiceNotFound { .. }) => &mut self.no_service,
            Err(Error::DestinationNotFound { .. } | Error::DestinationDrained { .. }) => {
                &mut self.no_destination
            }
            Err(Error::FlowExpired { .. }) => &mut self.expired,
            Err(Error::FlowRoom { .. }) => &mut self.no_room,
            Err(_) => &mut self.bad,
        } += 1;
    }
}

/// How flows are shared with other balancers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sharing {
    /// Whether news of flows are told
    /// ([`Options::share_flows`](crate::Options::share_flows)).
    pub enabled: bool,
    /// News that found no room, for those before were not read in time.
    pub lost: u64,
    /// Records from other balancers.
    pub accepted: Accepted,
}

impl Instance {
    pub(crate) fn sharing(&self) -> Sharing {
        let cpus = &self.maps.cpus;
        Sharing {
            enabled: self.maps.instance.read(0).settings.share != 0,
            lost: (0..cpus.len()).map(|row| cpus.read(row).news_lost).sum(),
            accepted: self.maps.share.read(0).into(),
        }
    }

    /// Calls `each` with the records of all flows that live, some at a time.
    pub(crate) fn export_flows(&self, mut each: impl FnMut(&[FlowRecord])) {
        const SOME: usize = 1024;
        let mut records = Vec::with_capacity(SOME);
        let mut now = now_tick();
        self.maps.for_each_flow(|place| {
            let live = place.flow.as_ref().filter(|flow| is_live(flow, now));
            records.extend(live.and_then(|flow| self.flow_record(flow, now)));
            if records.len() == SOME {
                each(&records);
                records.clear();
                now = now_tick();
            }
            ControlFlow::Continue(())
        });
        if !records.is_empty() {
            each(&records);
        }
    }
}
