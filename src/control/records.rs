//! The records of services, destinations and prefixes, as `include/xvs.h` has
//! them.

use super::Balanced;
use super::Control;
use super::Port;
use super::Target;
use crate::DestinationStatus;
use crate::ServiceKey;
use crate::bpf::DestinationInfo;
use crate::bpf::DestinationRecord;
use crate::bpf::InterfaceRecord;
use crate::bpf::Maps;
use crate::bpf::PrefixRecord;
use crate::bpf::ServiceKeyRecord;
use crate::bpf::ServiceRecord;
use crate::bpf::StatusCode;
use crate::bpf::address_octets;
use crate::clock::ticks;

impl Control {
    pub(super) fn write_service(&self, balanced: &Balanced, vip: u32) {
        let service = &balanced.service;
        self.maps.services.write(
            balanced.id,
            &ServiceRecord {
                table: balanced.table,
                vip,
                sticky: u32::from(service.sticky),
                used: 1,
                address: address_octets(service.address),
                port: service.port.to_be(),
                protocol: service.protocol.number(),
                idle_ns: service.idle.as_nanos() as u64,
                closing_ns: service.closing.as_nanos() as u64,
                ..Default::default()
            },
        );
    }

    pub(super) fn write_target(&self, balanced: &Balanced, target: &Target) {
        let generation = self.generations[target.slot as usize];
        let mut record = DestinationRecord {
            generation,
            service: balanced.id,
            address: address_octets(balanced.service.address),
            port: balanced.service.port.to_be(),
            protocol: balanced.service.protocol.number(),
            idle: ticks(balanced.service.idle),
            closing: ticks(balanced.service.closing),
            ..Default::default()
        };
        let old = self.maps.destinations.read(target.slot);
        // A packet may be on its way with what it has read.
        record.mac = old.mac;
        record.source_mac = old.source_mac;
        record.vlan = old.vlan;
        if let Some(hop) = target.hop {
            record.ifindex = hop.exit.port;
            record.vlan = hop.exit.tag.to_be();
            record.mtu = hop.mtu;
            record.mac = hop.destination.0;
            record.source_mac = hop.source.0;
        }
        if (old.ifindex, old.vlan) != (record.ifindex, record.vlan) {
            // No packet leaves by the new way with addresses of the old one.
            self.maps.destinations.write(target.slot, &DestinationRecord { ifindex: 0, ..old });
        }
        self.maps.destinations.write(target.slot, &record);
        self.maps.destination_infos.write(
            target.slot,
            &DestinationInfo {
                address: address_octets(target.destination.address),
                service: balanced.id,
                generation,
                weight: target.destination.weight,
                disabled: u32::from(target.destination.disabled),
                status: target.status.code(),
                base: self.maps.destination_infos.read(target.slot).base,
                ..Default::default()
            },
        );
    }

    /// Writes the prefixes and the interfaces for readers.
    pub(super) fn write_prefixes(&self) {
        let mut written = 0;
        for (vlan, prefix) in self.config.prefixes() {
            let found = self.prefixes.iter().find(|p| p.prefix == prefix);
            let (address, length) = (prefix.address(), u32::from(prefix.length()));
            self.maps.prefixes.write(
                written,
                &PrefixRecord {
                    address: address_octets(address),
                    length: if address.is_ipv4() { length + 96 } else { length },
                    vlan: u32::from(vlan),
                    ifindex: found.map_or(0, |p| p.interface),
                    ..Default::default()
                },
            );
            written += 1;
        }
        let mut instance = self.maps.instance.read(0);
        instance.prefixes = written;
        self.maps.instance.write(0, &instance);
    }

    /// Tells readers what the program is attached to, and in which mode.
    pub(crate) fn describe_ports(maps: &Maps, ports: &[(Port, bool)]) {
        for (port, generic) in ports {
            describe_interface(maps, port.index, &port.name, |record| {
                record.generic = u32::from(*generic);
            });
        }
    }
}

/// Changes what readers are told of an interface, from the first time on.
///
/// Nobody else may be writing the instance's record.
pub(crate) fn describe_interface(
    maps: &Maps,
    index: u32,
    name: &str,
    change: impl FnOnce(&mut InterfaceRecord),
) {
    let mut instance = maps.instance.read(0);
    let place = instance.interfaces.iter_mut().find(|i| [index, 0].contains(&i.ifindex));
    let Some(record) = place else { return };
    record.ifindex = index;
    for (to, from) in record.name.iter_mut().zip(name.bytes()).take(15) {
        *to = from as i8;
    }
    change(record);
    maps.instance.write(0, &instance);
}

pub(crate) fn key_record(key: ServiceKey) -> ServiceKeyRecord {
    ServiceKeyRecord {
        address: address_octets(key.address),
        port: key.port.to_be(),
        protocol: key.protocol.number(),
        pad: 0,
    }
}

impl DestinationStatus {
    const fn code(self) -> StatusCode {
        match self {
            Self::Reachable => StatusCode::XVS_REACHABLE,
            Self::NoPrefix => StatusCode::XVS_NO_PREFIX,
            Self::InterfaceDown => StatusCode::XVS_INTERFACE_DOWN,
            Self::Resolving => StatusCode::XVS_RESOLVING,
            Self::NoNeighbour => StatusCode::XVS_NO_NEIGHBOUR,
        }
    }
}
