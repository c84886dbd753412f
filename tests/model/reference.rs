//! The data plane again, as plainly as it can be said: what must become of a
//! packet, given the services and the packets before it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;

use siphasher::sip::SipHasher13;
use xvs::Destination;
use xvs::Protocol;
use xvs::Service;
use xvs::ServiceKey;

use super::maglev;
use crate::common::dataplane::Verdict;
use crate::common::frame::ACK;
use crate::common::frame::FIN;
use crate::common::frame::RST;
use crate::common::frame::SYN;

/// How long a SYN still goes where its flow went.
const SYN_IDLE: Duration = Duration::from_secs(60);
/// How long later fragments follow their first one.
const FRAGMENT_IDLE: Duration = Duration::from_secs(30);

/// Whole or in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Whole,
    First(u32),
    Later(u32),
}

/// A packet for a virtual address.
#[derive(Clone, Debug)]
pub enum Packet {
    /// TCP or UDP; the flags are those of TCP.
    Transport { client: SocketAddr, service: ServiceKey, flags: u8, ttl: u8, shape: Shape },
    /// An ICMP error about a packet from the service to the client.
    Error { client: SocketAddr, service: ServiceKey, ttl: u8 },
    /// An ICMP echo request.
    Echo { client: IpAddr, vip: IpAddr },
}

/// What must become of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Refused(Verdict, &'static str),
    Forwarded(&'static str, IpAddr),
}

/// Whether the flow of a packet is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storing {
    /// It has one that lives, or leaves none.
    Never,
    Certain,
    /// The service may have stored all that it may in this tick, by one clock or another.
    Perhaps,
}

/// A destination from its creation to its removal.
struct Live {
    destination: Destination,
    incarnation: u64,
}

struct Balanced {
    service: Service,
    destinations: BTreeMap<IpAddr, Live>,
    table: Vec<IpAddr>,
    /// The ticks in which flows were stored, or the service got another limit.
    busy: Vec<Busy>,
}

/// A tick, the limit that may have been in force, and the flows that were stored.
struct Busy {
    tick: u32,
    limit: u32,
    stored: u32,
}

struct Flow {
    incarnation: u64,
    destination: IpAddr,
    seen: i64,
    closing: bool,
}

struct First {
    service: ServiceKey,
    incarnation: u64,
    destination: IpAddr,
    seen: i64,
}

type FlowId = (SocketAddr, ServiceKey);
type FirstId = (IpAddr, IpAddr, u32, Protocol);

/// Services, flows and fragments.
pub struct Model {
    size: u32,
    key: [u8; 16],
    services: BTreeMap<ServiceKey, Balanced>,
    flows: BTreeMap<FlowId, Flow>,
    firsts: BTreeMap<FirstId, First>,
    incarnations: u64,
}

impl Model {
    /// Without services.
    pub const fn new(size: u32, key: [u8; 16]) -> Self {
        Self {
            size,
            key,
            services: BTreeMap::new(),
            flows: BTreeMap::new(),
            firsts: BTreeMap::new(),
            incarnations: 0,
        }
    }

    /// The services there are.
    pub fn services(&self) -> Vec<Service> {
        self.services.values().map(|balanced| balanced.service.clone()).collect()
    }

    /// Whether this service exists.
    pub fn has_service(&self, service: &ServiceKey) -> bool {
        self.services.contains_key(service)
    }

    /// The destinations of a service, by address.
    pub fn destinations(&self, service: &ServiceKey) -> Vec<Destination> {
        self.services.get(service).map_or(Vec::new(), |balanced| {
            balanced.destinations.values().map(|live| live.destination.clone()).collect()
        })
    }

    /// How many destinations of a service get new flows.
    pub fn usable(&self, service: &ServiceKey) -> usize {
        self.destinations(service).iter().filter(|d| !d.disabled).count()
    }

    /// How many destinations there are in all.
    pub fn count(&self) -> usize {
        self.services.values().map(|balanced| balanced.destinations.len()).sum()
    }

    /// The flows that were stored, living or not.
    pub fn flows(&self) -> Vec<FlowId> {
        self.flows.keys().copied().collect()
    }

    /// The first fragments that were forwarded: of which service, from which
    /// address, with which identification.
    pub fn firsts(&self) -> Vec<(ServiceKey, IpAddr, u32)> {
        let of = |(id, first): (&FirstId, &First)| (first.service, id.0, id.2);
        self.firsts.iter().map(of).collect()
    }

    /// Makes a service and its destinations exactly these.
    pub fn set_service(&mut self, service: &Service, destinations: &[Destination], now: u32) {
        let (mut old, mut busy) = (BTreeMap::new(), Vec::new());
        if let Some(present) = self.services.remove(&service.key()) {
            (old, busy) = (present.destinations, present.busy);
            // This tick's limit stays, if it has begun for the service.
            busy.push(Busy { tick: now, limit: present.service.new_flows, stored: 0 });
        }
        let mut balanced = Balanced {
            service: service.clone(),
            destinations: BTreeMap::new(),
            table: Vec::new(),
            busy,
        };
        for destination in destinations {
            let incarnation = old.remove(&destination.address).map_or_else(
                || {
                    self.incarnations += 1;
                    self.incarnations
                },
                |live| live.incarnation,
            );
            let live = Live { destination: destination.clone(), incarnation };
            balanced.destinations.insert(destination.address, live);
        }
        let members: Vec<(IpAddr, u32)> = destinations
            .iter()
            .filter(|destination| !destination.disabled)
            .map(|destination| (destination.address, destination.weight))
            .collect();
        balanced.table = maglev::table(self.size, &self.key, &members);
        self.services.insert(service.key(), balanced);
    }

    /// Removes a service.
    pub fn remove_service(&mut self, service: &ServiceKey) {
        self.services.remove(service).expect("only services that exist are removed");
    }

    /// Forgets the flows of a service that live no more, or nearly: which these
    /// were. The program may have forgotten them or not, and would know them
    /// again if they were to live longer.
    pub fn forget_dead(&mut self, service: &ServiceKey, now: u32) -> Vec<FlowId> {
        let Some(balanced) = self.services.get(service) else {
            return Vec::new();
        };
        let (idle, closing) = (balanced.service.idle, balanced.service.closing);
        let dead = |(id, flow): &(&FlowId, &mut Flow)| {
            let limit = if flow.closing { closing } else { idle };
            id.1 == *service && i64::from(now) - flow.seen > in_ticks(limit) - 4
        };
        let gone: Vec<FlowId> = self.flows.iter_mut().filter(dead).map(|(id, _)| *id).collect();
        for id in &gone {
            self.flows.remove(id);
        }
        gone
    }

    /// A flow's last packet came so many ticks earlier.
    pub fn age_flow(&mut self, flow: &FlowId, ticks: u32) {
        self.flows.get_mut(flow).expect("only flows that exist age").seen -= i64::from(ticks);
    }

    /// Every first fragment came so many ticks earlier.
    pub fn age_fragments(&mut self, ticks: u32) {
        for first in self.firsts.values_mut() {
            first.seen -= i64::from(ticks);
        }
    }

    /// The flow that decides on the packet when it is so near one of its
    /// limits that the clocks of model and program may differ.
    pub fn flow_on_edge(&self, packet: &Packet, now: u32) -> Option<FlowId> {
        let (Packet::Transport { client, service, .. } | Packet::Error { client, service, .. }) =
            packet
        else {
            return None;
        };
        let flow = self.flows.get(&(*client, *service))?;
        let balanced = self.services.get(service)?;
        let limits = [balanced.service.idle, balanced.service.closing, SYN_IDLE];
        let idle = i64::from(now) - flow.seen;
        limits.iter().any(|limit| is_near(idle, *limit)).then_some((*client, *service))
    }

    /// Whether the first fragment that decides on the packet is so near its
    /// limit.
    pub fn fragment_on_edge(&self, packet: &Packet, now: u32) -> bool {
        let Packet::Transport { client, service, shape: Shape::Later(id), .. } = packet else {
            return false;
        };
        let first = self.firsts.get(&(client.ip(), service.address, *id, service.protocol));
        first.is_some_and(|first| is_near(i64::from(now) - first.seen, FRAGMENT_IDLE))
    }

    /// Whether the packet's flow is stored.
    pub fn storing(&self, packet: &Packet, now: u32) -> Storing {
        let Packet::Transport { client, service, flags, ttl, shape } = packet else {
            return Storing::Never;
        };
        if !self.services.contains_key(service)
            || matches!(shape, Shape::Later(_))
            || *ttl <= 1
            || is_syn(*flags)
            || self.live_flow(&(*client, *service), now).is_some()
            || self.hashed(*client, *service).is_none()
        {
            return Storing::Never;
        }
        self.services[service].storing(now)
    }

    /// What becomes of a packet, and what is remembered of it: its flow if that
    /// was stored.
    pub fn process(&mut self, packet: &Packet, now: u32, stored: bool) -> Outcome {
        let vip = match packet {
            Packet::Transport { service, .. } | Packet::Error { service, .. } => service.address,
            Packet::Echo { vip, .. } => *vip,
        };
        if !self.services.keys().any(|service| service.address == vip) {
            return Outcome::Refused(Verdict::Pass, "not_vip");
        }
        match packet {
            Packet::Echo { .. } => Outcome::Refused(Verdict::Tx, "echo_replied"),
            Packet::Error { client, service, ttl } => self.error(*client, *service, *ttl, now),
            Packet::Transport { client, service, ttl, shape: Shape::Later(id), .. } => {
                self.later(&(client.ip(), vip, *id, service.protocol), *ttl, now)
            }
            Packet::Transport { client, service, flags, ttl, shape } => {
                let outcome = self.transport(*client, *service, *flags, *ttl, now, stored);
                if let (Outcome::Forwarded(_, address), Shape::First(id)) = (&outcome, shape) {
                    let live = &self.services[service].destinations[address];
                    let first = First {
                        service: *service,
                        incarnation: live.incarnation,
                        destination: *address,
                        seen: now.into(),
                    };
                    self.firsts.insert((client.ip(), vip, *id, service.protocol), first);
                }
                outcome
            }
        }
    }

    fn later(&self, id: &FirstId, ttl: u8, now: u32) -> Outcome {
        let orphan = drop("fragment_orphan");
        let Some(first) = self.firsts.get(id) else {
            return orphan;
        };
        if i64::from(now) - first.seen > in_ticks(FRAGMENT_IDLE)
            || !self.lives(&first.service, first.destination, first.incarnation)
        {
            return orphan;
        }
        if ttl <= 1 {
            return drop("ttl_expired");
        }
        Outcome::Forwarded("forwarded_fragment", first.destination)
    }

    fn error(&self, client: SocketAddr, service: ServiceKey, ttl: u8, now: u32) -> Outcome {
        if !self.services.contains_key(&service) {
            return drop("no_service");
        }
        if ttl <= 1 {
            return drop("ttl_expired");
        }
        let owner = self.live_flow(&(client, service), now).map(|flow| flow.destination);
        match owner.or_else(|| self.hashed(client, service)) {
            Some(address) => Outcome::Forwarded("forwarded_icmp", address),
            None => drop("no_destination"),
        }
    }

    fn transport(
        &mut self,
        client: SocketAddr,
        service: ServiceKey,
        flags: u8,
        ttl: u8,
        now: u32,
        stored: bool,
    ) -> Outcome {
        let id = (client, service);
        if !self.services.contains_key(&service) {
            return drop("no_service");
        }
        if ttl <= 1 {
            return drop("ttl_expired");
        }
        let live = self.live_flow(&id, now).map(|flow| {
            let idle = i64::from(now) - flow.seen;
            (flow.destination, !flow.closing && idle <= in_ticks(SYN_IDLE))
        });
        if is_syn(flags) {
            if let Some((address, true)) = live {
                return Outcome::Forwarded("forwarded_flow", address);
            }
            let Some(address) = self.hashed(client, service) else {
                return drop("no_destination");
            };
            self.flows.remove(&id);
            return Outcome::Forwarded("forwarded_syn", address);
        }
        let closes = flags & (FIN | RST) != 0;
        if let Some((address, _)) = live {
            let flow = self.flows.get_mut(&id).expect("it lives");
            flow.seen = now.into();
            flow.closing |= closes;
            return Outcome::Forwarded("forwarded_flow", address);
        }
        let Some(address) = self.hashed(client, service) else {
            return drop("no_destination");
        };
        if stored {
            let incarnation = self.services[&service].destinations[&address].incarnation;
            let seen = now.into();
            let flow = Flow { incarnation, destination: address, seen, closing: closes };
            self.flows.insert(id, flow);
            let balanced = self.services.get_mut(&service).expect("it was found");
            let limit = balanced.service.new_flows;
            balanced.busy.push(Busy { tick: now, limit, stored: 1 });
        }
        Outcome::Forwarded("forwarded_new", address)
    }

    fn lives(&self, service: &ServiceKey, address: IpAddr, incarnation: u64) -> bool {
        let balanced = self.services.get(service);
        let live = balanced.and_then(|balanced| balanced.destinations.get(&address));
        live.is_some_and(|live| live.incarnation == incarnation)
    }

    fn live_flow(&self, id: &FlowId, now: u32) -> Option<&Flow> {
        let flow = self.flows.get(id)?;
        let service = &self.services.get(&id.1)?.service;
        let limit = if flow.closing { service.closing } else { service.idle };
        let lives = self.lives(&id.1, flow.destination, flow.incarnation)
            && i64::from(now) - flow.seen <= in_ticks(limit);
        lives.then_some(flow)
    }

    fn hashed(&self, client: SocketAddr, service: ServiceKey) -> Option<IpAddr> {
        let balanced = &self.services[&service];
        if balanced.table.is_empty() {
            return None;
        }
        let octets = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let mut data = octets(client.ip());
        if !balanced.service.sticky {
            data.extend(octets(service.address));
            data.extend(client.port().to_be_bytes());
            data.extend(service.port.to_be_bytes());
            data.push(service.protocol.number());
        }
        let hash = SipHasher13::new_with_key(&self.key).hash(&data) as u32;
        Some(balanced.table[((u64::from(hash) * u64::from(self.size)) >> 32) as usize])
    }
}

impl Balanced {
    /// Whether another flow is stored. The clocks of model and program may differ by a
    /// tick at its edges.
    fn storing(&self, now: u32) -> Storing {
        let near = || self.busy.iter().rev().take_while(|busy| now - busy.tick <= 2);
        let limits = near().map(|busy| busy.limit).chain([self.service.new_flows]);
        let stored: u32 = near().map(|busy| busy.stored).sum();
        if limits.min().is_some_and(|limit| stored < limit) {
            Storing::Certain
        } else {
            Storing::Perhaps
        }
    }
}

fn drop(reason: &'static str) -> Outcome {
    Outcome::Refused(Verdict::Drop, reason)
}

const fn is_syn(flags: u8) -> bool {
    flags & (SYN | ACK) == SYN
}

fn in_ticks(duration: Duration) -> i64 {
    (duration.as_nanos() >> 30) as i64
}

fn is_near(idle: i64, limit: Duration) -> bool {
    (idle - in_ticks(limit)).abs() <= 4
}
