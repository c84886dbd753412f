//! The records of services, destinations and prefixes, as `include/xvs.h` has
//! them.

use super::Balanced;
use super::Control;
use super::Target;
use super::ways::checksum_code;
use super::ways::way_record;
use crate::DestinationStatus;
use crate::Protocol;
use crate::ServiceKey;
use crate::VlanStatus;
use crate::bpf::DestinationInfo;
use crate::bpf::DestinationRecord;
use crate::bpf::PrefixRecord;
use crate::bpf::ServiceKeyRecord;
use crate::bpf::ServiceRecord;
use crate::bpf::StatusCode;
use crate::bpf::VlanCode;
use crate::bpf::WayRecord;
use crate::bpf::address_octets;
use crate::bpf::octets_address;
use crate::clock::ticks;
use crate::vlans::VlanPrefix;

impl Control {
    pub(super) fn write_service(&self, balanced: &Balanced, vip: u32) {
        let service = &balanced.service;
        let previous = balanced.transition.previous.as_ref();
        self.maps.services.write(
            balanced.id,
            &ServiceRecord {
                previous: previous.map_or(0, |previous| previous.table),
                until: previous.map_or(0, |previous| previous.tick),
                table: balanced.table,
                vip,
                sticky: u8::from(service.sticky),
                used: 1,
                address: address_octets(service.address),
                port: service.port.to_be(),
                protocol: service.protocol.number(),
                idle_ns: service.idle.as_nanos() as u64,
                closing_ns: service.closing.as_nanos() as u64,
                new_flows: service.new_flows,
                transition_ms: service.transition.as_millis() as u32,
                ..Default::default()
            },
        );
    }

    pub(super) fn write_target(&mut self, balanced: &Balanced, target: &Target) {
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
        record.way = match target.ways.first() {
            Some(way) => way_record(&way.hop, target.mtu(way)),
            // A packet may be on its way with what it has read.
            None => WayRecord { ifindex: 0, mtu: 0, ..old.way },
        };
        if !target.is_direct() {
            // SANITY: the headers of any tunnel are at most 52 octets.
            record.overhead = target.overhead() as u8;
            self.write_tunnel(target);
        }
        if (old.way.ifindex, old.way.vlan, old.overhead)
            != (record.way.ifindex, record.way.vlan, record.overhead)
        {
            // No packet leaves by the new way with addresses of the old one.
            let mut gone = old;
            gone.way.ifindex = 0;
            self.maps.destinations.write(target.slot, &gone);
        }
        self.maps.destinations.write(target.slot, &record);
        let before = self.maps.destination_infos.read(target.slot);
        let info = DestinationInfo {
            address: address_octets(target.destination.address),
            service: balanced.id,
            generation,
            weight: target.destination.weight,
            disabled: u32::from(target.destination.disabled),
            status: target.status.code(),
            tunnel: target.destination.tunnel.code(),
            port: target.destination.tunnel.udp().map_or(0, |udp| udp.port.to_be()),
            checksum: checksum_code(target.destination.tunnel),
            nat: target.nat,
            base: before.base,
            disabled_ns: target.drained.map_or(0, |drained| drained.since),
            deadline_ns: target.destination.deadline.map_or(0, |time| time.as_nanos() as u64),
            drained: target.drained.map_or(0, |drained| u32::from(drained.done)),
            ..Default::default()
        };
        if before.service == 0 {
            // What says that there is one comes last.
            let unknown = DestinationInfo { service: 0, generation: 0, ..info };
            self.maps.destination_infos.write(target.slot, &unknown);
        }
        self.maps.destination_infos.write(target.slot, &info);
        self.write_nat(target);
    }

    /// Writes the prefixes for readers.
    pub(super) fn write_prefixes(&self) {
        for (place, prefix) in (0..).zip(&self.prefixes) {
            self.maps.prefixes.write(place, &self.prefix_record(prefix));
        }
        let mut instance = self.maps.instance.read(0);
        instance.prefixes = self.prefixes.len() as u32;
        self.maps.instance.write(0, &instance);
    }

    fn prefix_record(&self, prefix: &VlanPrefix) -> PrefixRecord {
        let (address, length) = (prefix.prefix.address(), u32::from(prefix.prefix.length()));
        let v4 = address.is_ipv4();
        let link = prefix.link(&self.observed);
        let own = prefix.own_address(&self.observed);
        let gateway = link.and_then(|link| self.observed.gateway(link.index, v4));
        PrefixRecord {
            address: address_octets(address),
            own: own.map_or([0; 16], address_octets),
            gateway: gateway.map_or([0; 16], address_octets),
            length: if v4 { length + 96 } else { length },
            vlan: u32::from(prefix.vlan),
            ifindex: prefix.place.map_or(0, |place| place.interface),
            mtu: link.map_or(0, |link| prefix.mtu(link)),
            limit: prefix.limit.unwrap_or(0),
            tag: prefix.place.map_or(0, |place| place.exit.tag.into()),
            status: prefix.status(&self.ports, &self.observed).code(),
            ..Default::default()
        }
    }
}

impl ServiceKeyRecord {
    /// The reverse of [`key_record`]; none if the protocol is none that is balanced.
    pub(crate) fn key(&self) -> Option<ServiceKey> {
        Some(ServiceKey {
            address: octets_address(self.address),
            port: u16::from_be(self.port),
            protocol: Protocol::from_number(self.protocol)?,
        })
    }
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
    pub(crate) const fn code(self) -> StatusCode {
        match self {
            Self::Reachable => StatusCode::XVS_REACHABLE,
            Self::NoPrefix => StatusCode::XVS_NO_PREFIX,
            Self::InterfaceDown => StatusCode::XVS_INTERFACE_DOWN,
            Self::Resolving => StatusCode::XVS_RESOLVING,
            Self::NoNeighbour => StatusCode::XVS_NO_NEIGHBOUR,
            Self::NoInterface => StatusCode::XVS_NO_INTERFACE,
            Self::MtuTooSmall => StatusCode::XVS_MTU_TOO_SMALL,
            Self::NotAttached => StatusCode::XVS_NOT_ATTACHED,
            Self::NoRoute => StatusCode::XVS_NO_ROUTE,
            Self::NoAddress => StatusCode::XVS_NO_ADDRESS,
        }
    }
}

impl VlanStatus {
    pub(crate) const fn code(self) -> VlanCode {
        match self {
            Self::Usable => VlanCode::XVS_VLAN_USABLE,
            Self::NoInterface => VlanCode::XVS_VLAN_NO_INTERFACE,
            Self::Elsewhere => VlanCode::XVS_VLAN_ELSEWHERE,
            Self::Down => VlanCode::XVS_VLAN_DOWN,
            Self::MtuTooSmall => VlanCode::XVS_VLAN_MTU_TOO_SMALL,
            Self::NotAttached => VlanCode::XVS_VLAN_NOT_ATTACHED,
        }
    }
}
