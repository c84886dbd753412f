//! Flows that other balancers tell of.

use super::Control;
use crate::Error;
use crate::FlowRecord;
use crate::FlowState;
use crate::Result;
use crate::Service;
use crate::ServiceKey;
use crate::Written;
use crate::bpf::FlowKey;
use crate::bpf::FlowWriter;
use crate::bpf::Outcome;
use crate::bpf::StoredFlow;
use crate::clock::now_tick;
use crate::clock::ticks;
use crate::sharing::Accepted;

impl Control {
    /// Remembers a flow, whose destination must be one of a service.
    pub(crate) fn write_flow(
        &mut self,
        writer: &FlowWriter<'_>,
        record: &FlowRecord,
    ) -> Result<Written> {
        let key = FlowKey {
            source: record.source.ip().to_canonical(),
            destination: record.service.address.to_canonical(),
            source_port: record.source.port(),
            destination_port: record.service.port,
            protocol: record.service.protocol.number(),
        };
        if key.source.is_ipv4() != key.destination.is_ipv4() {
            return Err(Error::MixedFamilies { source: key.source, destination: key.destination });
        }
        let service = ServiceKey { address: key.destination, ..record.service };
        let balanced = self.services.get(&service).ok_or(Error::ServiceNotFound { service })?;
        let address = record.destination.to_canonical();
        let target = balanced.targets.get(&address);
        let target = target.ok_or(Error::DestinationNotFound { service, address })?;
        let slot = target.slot;

        let FlowRecord { source, idle, state, seen, .. } = *record;
        let now = now_tick();
        let is_closing = state == FlowState::Closing;
        let Service { idle: open, closing, .. } = balanced.service;
        let limit = if is_closing { closing } else { open };
        if idle > limit {
            return Err(Error::FlowExpired { source, service, idle, limit });
        }
        let () = self.reopen_drain(service, address)?;
        let destination = self.maps.destinations.read(slot);
        let flow = StoredFlow::new(key, slot, destination, now.wrapping_sub(ticks(idle)))
            .aged(u32::from(seen.max(1)) - 1);
        let flow = if is_closing { flow.closed() } else { flow };
        match writer.write(&flow, now) {
            Outcome::Stored => Ok(Written::Stored),
            Outcome::Refreshed => Ok(Written::Refreshed),
            Outcome::Kept => Ok(Written::Kept),
            Outcome::NoRoom => Err(Error::FlowRoom { source, service }),
        }
    }

    /// Adds to the counts that readers of the instance see.
    pub(crate) fn count_accepted(&self, accepted: &Accepted) {
        let mut all = Accepted::from(self.maps.share.read(0));
        all.add(accepted);
        self.maps.share.write(0, &all.into());
    }
}
