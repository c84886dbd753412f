//! NAT addresses: who has which number, and what probes are sent from.

use std::net::IpAddr;
use std::time::Duration;

use super::Control;
use super::Target;
use crate::Error;
use crate::Event;
use crate::Result;
use crate::ServiceKey;
use crate::bpf::NatRecord;
use crate::bpf::address_octets;
use crate::config::is_link_local6;
use crate::net::Address;
use crate::net::Rank;
use crate::ports;
use crate::ports::Exit;
use crate::routing::Way;

/// No NAT address is another destination's before this.
const REST: Duration = Duration::from_secs(60);

/// Where probes come from, and their answers come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// Our address.
    pub(super) address: IpAddr,
    /// The port and the tag of the interface that has it.
    exit: Exit,
}

impl Control {
    /// Refuses addresses that are where NAT addresses are.
    pub(super) fn check_nat(&self, address: IpAddr, what: &str) -> Result<()> {
        for prefix in [self.nat.used4(), self.nat.used6()] {
            if prefix.contains(address) {
                return Err(Error::NatOverlap { prefix, other: format!("the {what} {address}") });
            }
        }
        Ok(())
    }

    /// The NAT address of a service's destination.
    pub(crate) fn nat_of(&self, service: ServiceKey, destination: IpAddr) -> Result<IpAddr> {
        let balanced = self.services.get(&service).ok_or(Error::ServiceNotFound { service })?;
        let target = balanced.targets.get(&destination);
        let target = target.ok_or(Error::DestinationNotFound { service, address: destination })?;
        Ok(self.nat.address(service.address, target.nat))
    }

    /// That of a VIP's first service which has the destination.
    pub(crate) fn nat(&self, vip: IpAddr, destination: IpAddr) -> Result<IpAddr> {
        let services = || self.services.iter().filter(|(key, _)| key.address == vip);
        let has = services().find(|(_, b)| b.targets.contains_key(&destination));
        let (key, _) =
            has.or_else(|| services().next()).ok_or(Error::VipNotFound { address: vip })?;
        self.nat_of(*key, destination)
    }

    /// A NAT address for the destination of a slot; its number.
    pub(super) fn take_nat(&mut self, slot: u32, origin: Option<Origin>) -> Result<u32> {
        let number = self.nats.take_rested(REST).ok_or_else(|| Error::LimitExceeded {
            limit: "NAT addresses",
            maximum: self.nat.numbers() as usize,
            remedy: "`Options::nat4` (`xvsctl balance --nat4`) tells how many, down to a /11, for \
                     VIPs of both families; those of removed destinations rest for a minute",
        })?;
        let mut instance = self.maps.instance.read(0);
        if number > instance.nats {
            // The next process knows by that which numbers may have to rest.
            instance.nats = number;
            self.maps.instance.write(0, &instance);
        }
        if let Err(error) = self.maps.nats.insert(&number, &record(slot, origin)) {
            self.nats.put_back(number);
            return Err(error);
        }
        Ok(number)
    }

    /// Gives back that of a destination which came to nothing.
    pub(super) fn put_back_nat(&mut self, number: u32) {
        match self.maps.nats.remove(&number) {
            Ok(()) => self.nats.put_back(number),
            Err(_) => _ = self.nats_due.insert(number, None),
        }
    }

    /// Gives back that of a destination which goes.
    pub(super) fn retire_nat(&mut self, number: u32) {
        self.nats_due.insert(number, None);
        self.write_due_nats();
    }

    /// Writes the record of a destination's NAT address.
    pub(super) fn write_nat(&mut self, target: &Target) {
        let record = record(target.slot, target.origin);
        let same = |old: NatRecord| {
            (old.slot, old.source, old.vlan, old.port)
                == (record.slot, record.source, record.vlan, record.port)
        };
        if self.maps.nats.get(&target.nat).ok().flatten().is_some_and(same) {
            self.nats_due.remove(&target.nat);
            return;
        }
        match self.maps.nats.insert(&target.nat, &record) {
            Ok(()) => _ = self.nats_due.remove(&target.nat),
            Err(error) => {
                let address = target.destination.address;
                self.events.push(Event::Failed(format!("NAT address of {address}: {error}")));
                self.nats_due.insert(target.nat, Some(record));
            }
        }
    }

    /// Writes and removes records of NAT addresses for which that failed before. It is
    /// tried before a slot gets another destination.
    pub(super) fn write_due_nats(&mut self) {
        let (nats, numbers) = (&self.maps.nats, &mut self.nats);
        self.nats_due.retain(|number, record| match record {
            Some(record) => nats.insert(number, record).is_err(),
            None => {
                let left = nats.remove(number).is_err();
                if !left {
                    numbers.free(*number);
                }
                left
            }
        });
    }

    /// Our address that probes of a VIP are sent from on their way to a server: the
    /// one that its tunnel's packets have, else one in the server's prefix, of the
    /// interface, of any that a port has.
    pub(super) fn origin(
        &self,
        vip: IpAddr,
        ways: &[Way],
        senders: &[(Address, Exit)],
    ) -> Option<Origin> {
        let way = ways.first()?;
        let fits = |(own, _): &&(Address, Exit)| {
            own.address.is_ipv4() == vip.is_ipv4() && own.address != vip
        };
        let (own, exit) = senders.iter().filter(fits).min_by_key(|(own, _)| {
            (
                own.address != way.local,
                !own.prefix.contains(way.neighbour),
                own.index != way.hop.interface,
                own.rank,
            )
        })?;
        Some(Origin { address: own.address, exit: *exit })
    }

    /// Our addresses that answers come in to by a port.
    pub(super) fn senders(&self) -> Vec<(Address, Exit)> {
        let ports = self.port_indices();
        let fits = |own: &&Address| {
            !is_link_local6(own.address)
                && own.rank != Rank::Unfit
                && !self.vips.contains_key(&own.address)
        };
        let all = self.observed.addresses.iter().filter(fits);
        all.filter_map(|own| Some((*own, ports::exit(own.index, &ports, &self.observed)?)))
            .collect()
    }
}

/// Where a NAT address leads, and what probes are sent from.
fn record(slot: u32, origin: Option<Origin>) -> NatRecord {
    let mut record = NatRecord { slot, ..Default::default() };
    if let Some(Origin { address, exit }) = origin {
        record.source = address_octets(address);
        record.vlan = exit.tag.to_be();
        record.port = exit.port;
    }
    record
}
