//! Following the network: what changes there is derived anew for every
//! destination, and what differs is written.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;
use std::time::Instant;

use super::Balanced;
use super::Control;
use super::entries;
use crate::Destination;
use crate::DestinationStatus;
use crate::Event;
use crate::Result;
use crate::Service;
use crate::ServiceKey;
use crate::Tunnel;
use crate::VlanStatus;
use crate::config::least_mtu;
use crate::discovery;
use crate::net::Address;
use crate::net::PathError;
use crate::pathmtu;
use crate::pathmtu::Outer;
use crate::ports::Device;
use crate::ports::Exit;
use crate::routing;
use crate::routing::Way;
use crate::vlans;
use crate::vlans::VlanPrefix;

impl Control {
    /// Follows a change of the observed network; [`Self::rebuild`] completes it.
    pub(crate) fn observe(&mut self) {
        for port in &mut self.ports {
            port.follow(&self.observed);
            let up = port.runs(&self.observed);
            if up != port.up {
                let interface = port.name.clone();
                self.events.push(match up {
                    true => Event::InterfaceUp { interface },
                    false => Event::InterfaceDown { interface },
                });
                port.up = up;
            }
        }
        self.tell_members();
        self.find_vlans();
        self.write_gate();
        self.refresh();
    }

    /// Tells of members of bonds that can be used now and could not, or the other
    /// way round.
    pub(super) fn tell_members(&mut self) {
        let links = self.ports.iter().flat_map(|port| self.observed.members(port.index));
        let members: BTreeMap<String, bool> =
            links.map(|link| (link.name.clone(), link.running)).collect();
        for (interface, up) in &members {
            let interface = interface.clone();
            match (self.members.get(&interface), up) {
                (Some(true), false) => self.events.push(Event::InterfaceDown { interface }),
                (Some(false), true) => self.events.push(Event::InterfaceUp { interface }),
                _ => {}
            }
        }
        self.members = members;
    }

    /// Finds the interfaces of all prefixes, and tells which of them can be
    /// reached from now on, or no longer.
    pub(super) fn find_vlans(&mut self) {
        self.prefixes =
            vlans::resolve(&self.config, &self.port_indices(), &self.observed, &self.prefixes);
        self.write_prefixes();
        self.tell_vlans();
    }

    /// Tells of each prefix that can be reached now and could not, or the other
    /// way round; at first of those that cannot.
    fn tell_vlans(&mut self) {
        let mut statuses = BTreeMap::new();
        for prefix in &self.prefixes {
            let VlanPrefix { vlan, prefix: key, .. } = *prefix;
            let status = prefix.status(&self.ports, &self.observed);
            let last = self.vlan_statuses.get(&key).copied().unwrap_or(VlanStatus::Usable);
            if status != last {
                self.events.push(Event::Vlan { vlan, prefix: key, status });
            }
            statuses.insert(key, status);
        }
        self.vlan_statuses = statuses;
    }

    /// Follows what the program is on now; [`Self::rebuild`] completes it.
    pub(crate) fn set_attached(&mut self, attached: &[u32]) {
        self.ports.iter_mut().for_each(|port| port.attached = attached.to_vec());
        self.find_vlans();
        self.refresh();
    }

    /// Has the program on the members of these bonds from now on.
    pub(crate) fn split(&mut self, bonds: &[u32]) {
        let ports = self.ports.iter_mut().filter(|port| bonds.contains(&port.index));
        ports.for_each(|port| port.split = true);
    }

    /// The interfaces that the program has to be on.
    pub(crate) fn devices(&self) -> Vec<Device> {
        self.ports.iter().flat_map(|port| port.devices(&self.observed)).collect()
    }

    pub(super) fn port_indices(&self) -> Vec<u32> {
        self.ports.iter().map(|port| port.index).collect()
    }

    /// Brings every destination up to date with the network; tables that
    /// must change for that are changed by [`Self::rebuild`].
    pub(super) fn refresh(&mut self) {
        self.neighbours_changed = true;
        let senders = self.senders();
        let keys: Vec<ServiceKey> = self.services.keys().copied().collect();
        for key in keys {
            let Some(mut balanced) = self.services.remove(&key) else {
                continue;
            };
            self.refresh_targets(&mut balanced, &senders);
            if entries(&balanced.targets) != balanced.entries {
                self.stale.insert(key);
            }
            self.services.insert(key, balanced);
        }
    }

    fn refresh_targets(&mut self, balanced: &mut Balanced, senders: &[(Address, Exit)]) {
        let mut changed = Vec::new();
        for target in balanced.targets.values_mut() {
            let (status, ways) = self.resolve(&balanced.service, &target.destination, &target.ways);
            let origin = self.origin(balanced.service.address, &ways, senders);
            if status == target.status && ways == target.ways && origin == target.origin {
                continue;
            }
            target.origin = origin;
            if status != target.status {
                let (service, address) = (balanced.service.key(), target.destination.address);
                self.events.push(match status {
                    DestinationStatus::Reachable => Event::Resolved { service, address },
                    _ => Event::Unreachable { service, address, status },
                });
            }
            target.status = status;
            target.ways = ways;
            changed.push(target.destination.address);
        }
        for address in changed {
            self.write_target(balanced, &balanced.targets[&address]);
        }
    }

    /// Builds tables that destinations' changes have made stale, for so long;
    /// whether there are more of them.
    pub(crate) fn rebuild(&mut self, time: Duration) -> bool {
        let start = Instant::now();
        while start.elapsed() < time
            && let Some(key) = self.stale.pop_first()
        {
            match self.rebuild_table(key) {
                Ok(()) => _ = self.unbuilt.remove(&key),
                Err(error) => {
                    if self.unbuilt.insert(key) {
                        self.events.push(Event::Failed(format!("service {key}: {error}")));
                    }
                }
            }
        }
        !self.stale.is_empty()
    }

    /// Tries again what failed; [`Self::rebuild`] completes it.
    pub(crate) fn retry(&mut self) {
        self.write_due_nats();
        self.stale.extend(&self.unbuilt);
    }

    fn rebuild_table(&mut self, key: ServiceKey) -> Result<()> {
        let Some(balanced) = self.services.get(&key) else {
            return Ok(());
        };
        let entries = entries(&balanced.targets);
        if balanced.has_table_of(&entries) {
            return Ok(());
        }
        let table = self.build_table(&entries)?;
        let destinations = entries.len();
        self.swap_table(key, table, entries);
        self.events.push(Event::TableRebuilt { service: key, destinations });
        Ok(())
    }

    /// The ways to a destination. While no neighbour answers, the last ways are
    /// kept for the flows there are: they are lost for certain when they are sent
    /// elsewhere.
    pub(super) fn resolve(
        &self,
        service: &Service,
        destination: &Destination,
        last: &[Way],
    ) -> (DestinationStatus, Vec<Way>) {
        let Destination { address, tunnel, .. } = *destination;
        let (prefixes, ports, observed) = (&self.prefixes, &self.ports, &self.observed);
        if tunnel == Tunnel::None {
            let last = last.first().map(|way| way.hop);
            return match discovery::next_hop(address, last, prefixes, ports, observed) {
                Ok(hop) => (DestinationStatus::Reachable, vec![Way::direct(address, hop)]),
                Err(unreachable) => {
                    let last = unreachable.last.map(|hop| Way::direct(address, hop));
                    (unreachable.status, last.into_iter().collect())
                }
            };
        }
        let routes = &self.config.routes;
        // That of a new service is not among them yet.
        let is_vip = |own| own == service.address || self.vips.contains_key(&own);
        let found = routing::ways(address, last, routes, prefixes, ports, observed, &is_vip);
        let (status, mut ways) = match found {
            Ok(ways) => (DestinationStatus::Reachable, ways),
            Err(unreachable) => (unreachable.status, unreachable.last),
        };
        let least = least_mtu(service.address) + tunnel.overhead(address);
        let found = !ways.is_empty();
        ways.retain(|way| way.hop.mtu >= least);
        if let Some(learned) = self.path_mtus.mtu(address) {
            // Clients can be told of no less, and some router's word shall not be
            // what makes a destination unusable.
            ways.iter_mut().for_each(|way| way.hop.mtu = way.hop.mtu.min(learned.max(least)));
        }
        match ways.is_empty() {
            true if found => (DestinationStatus::MtuTooSmall, ways),
            _ => (status, ways),
        }
    }

    /// Whether the way to any destination may be by a route.
    pub(crate) fn is_routed(&self) -> bool {
        let mut targets = self.services.values().flat_map(|b| b.targets.values());
        targets.any(|target| !target.is_direct())
    }

    /// The neighbours that must be kept resolved, with whether they are.
    pub(crate) fn neighbours(&self) -> BTreeMap<(u32, IpAddr), bool> {
        let targets = self.services.values().flat_map(|b| b.targets.values());
        let (mut servers, mut tunnelled) = (HashMap::new(), HashSet::new());
        // Services often have the same servers.
        for target in targets {
            let address = target.destination.address;
            match target.is_direct() {
                true => _ = servers.insert(address, target.status),
                false => _ = tunnelled.insert(address),
            }
        }
        let direct = servers.into_iter().filter_map(|(address, status)| {
            let prefix = self.prefixes.iter().find(|p| p.prefix.contains(address))?;
            // Nothing can be asked on an interface that is gone.
            let interface = prefix.link(&self.observed)?.index;
            let resolved = status == DestinationStatus::Reachable;
            (!self.observed.is_own(address)).then_some(((interface, address), resolved))
        });
        let (routes, prefixes) = (&self.config.routes, &self.prefixes);
        let routed = tunnelled.into_iter().flat_map(|server| {
            routing::neighbours(server, routes, prefixes, &self.ports, &self.observed)
        });
        let mut neighbours: BTreeMap<(u32, IpAddr), bool> = direct.collect();
        for (neighbour, resolved) in routed {
            *neighbours.entry(neighbour).or_insert(true) &= resolved;
        }
        neighbours
    }

    /// Lowers the path MTUs of tunnels that routers say are too small for what was
    /// sent; [`Self::rebuild`] completes it.
    pub(crate) fn learn(&mut self, errors: &[PathError], now: Instant) {
        let tunnels = self.outers();
        let mut changed = false;
        for error in errors {
            let (server, mtu) = (error.destination, error.mtu);
            let sent = pathmtu::matches(error, &tunnels, |source| self.sends(server, source));
            // Nobody needs to tell that there is room for what is sent.
            let known = self.path_mtus.mtu(server).is_some();
            if !sent || !known && self.longest(server).is_none_or(|longest| mtu >= longest) {
                continue;
            }
            if self.path_mtus.learn(server, mtu, now) {
                let mtu = self.path_mtus.mtu(server);
                self.events.push(Event::PathMtu { server, mtu });
                changed = true;
            }
        }
        if changed {
            self.refresh();
        }
    }

    /// The ways through all tunnels to a server.
    fn ways_to(&self, server: IpAddr) -> impl Iterator<Item = &Way> {
        let targets = self.services.values().filter_map(move |b| b.targets.get(&server));
        targets.filter(|target| !target.is_direct()).flat_map(|target| &target.ways)
    }

    /// Whether packets in tunnels to a server come from this address.
    fn sends(&self, server: IpAddr, source: IpAddr) -> bool {
        self.ways_to(server).any(|way| way.local == source)
    }

    /// The longest packet that is sent to a server, with a tunnel's headers.
    fn longest(&self, server: IpAddr) -> Option<u32> {
        self.ways_to(server).map(|way| way.hop.mtu).max()
    }

    /// Forgets path MTUs that are too old, or whose servers are gone;
    /// [`Self::rebuild`] completes it.
    pub(crate) fn forget_path_mtus(&mut self, now: Instant) {
        if self.path_mtus.is_empty() {
            return;
        }
        let servers: HashSet<IpAddr> = self.outers().iter().map(|outer| outer.server).collect();
        self.path_mtus.retain(|server| servers.contains(&server));
        let expired = self.path_mtus.expire(now);
        if !expired.is_empty() {
            self.refresh();
        }
        for server in expired {
            self.events.push(Event::PathMtu { server, mtu: None });
        }
    }

    /// When the next path MTU is too old, or the next transition of a service over.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        let end = self.ends.first().map(|(end, _)| *end);
        self.path_mtus.next_expiry().into_iter().chain(end).min()
    }

    /// The headers of all tunnels.
    fn outers(&self) -> BTreeSet<Outer> {
        let targets = self.services.iter().flat_map(|(key, balanced)| {
            balanced.targets.values().map(|target| (key.address, &target.destination))
        });
        targets.filter_map(|(vip, destination)| destination.outer(vip)).collect()
    }
}
