//! Random calls of a client, and what is wanted after them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use xvs::Client;
use xvs::Config;
use xvs::Destination;
use xvs::Service;
use xvs::ServiceKey;
use xvs::Tunnel;

use super::state::keys;
use crate::common::random::Random;

/// The most destinations at once: there are slots for more.
const DESTINATIONS: usize = 48;

/// One call.
#[derive(Clone, Debug)]
pub enum Operation {
    CreateService(Service),
    UpdateService(Service),
    SetService(Service, Vec<Destination>),
    RemoveService(Service),
    CreateDestination(Service, Destination),
    UpdateDestination(Service, Destination),
    RemoveDestination(Service, Destination),
    SetConfig(Config),
}

impl Operation {
    /// Makes the call.
    pub fn apply(&self, client: &Client) -> xvs::Result<()> {
        match self {
            Self::CreateService(service) => client.create_service(service),
            Self::UpdateService(service) => client.update_service(service),
            Self::SetService(service, destinations) => client.set_service(service, destinations),
            Self::RemoveService(service) => client.remove_service(service),
            Self::CreateDestination(service, new) => client.create_destination(service, new),
            Self::UpdateDestination(service, new) => client.update_destination(service, new),
            Self::RemoveDestination(service, old) => client.remove_destination(service, old),
            Self::SetConfig(config) => client.set_config(config.clone()),
        }
    }
}

/// What is wanted of a client.
#[derive(Clone, Debug)]
pub struct Wanted {
    config: Config,
    services: BTreeMap<ServiceKey, (Service, Vec<Destination>)>,
}

impl Wanted {
    /// What a client has now.
    pub fn of(client: &Client) -> Self {
        let all = client.all().expect("services").into_iter().map(|(service, destinations)| {
            let destinations = destinations.into_iter().map(|d| d.destination).collect();
            (service.service.key(), (service.service, destinations))
        });
        Self { config: client.config(), services: all.collect() }
    }

    /// Has a client have just that.
    pub fn restore(&self, client: &Client) {
        let () = client.set_config(self.config.clone()).expect("it was so before");
        for (key, (service, _)) in Self::of(client).services {
            if !self.services.contains_key(&key) {
                let () = client.remove_service(&service).expect("it is there");
            }
        }
        for (service, destinations) in self.services.values() {
            let () = client.set_service(service, destinations).expect("it was so before");
        }
    }

    /// Draws a call that can be made now.
    pub fn draw(&self, random: &mut Random) -> Operation {
        let new: Vec<Service> = keys().filter(|s| !self.services.contains_key(&s.key())).collect();
        let number: usize = self.services.values().map(|(_, all)| all.len()).sum();
        let has_room = number < DESTINATIONS;
        let roll = random.below(100);
        if !new.is_empty() && (self.services.is_empty() || roll < 25) {
            let service = random.pick(&new).clone();
            let service = settings(random, service);
            return match has_room && roll >= 5 {
                true => Operation::SetService(service, destinations(random, &[])),
                false => Operation::CreateService(service),
            };
        }
        let known: Vec<&(Service, Vec<Destination>)> = self.services.values().collect();
        let (service, present) = *random.pick(&known);
        let service = service.clone();
        match roll {
            25..30 => Operation::RemoveService(service),
            30..40 => Operation::UpdateService(settings(random, service)),
            40..50 => Operation::SetConfig(self.config(random)),
            50..65 if !present.is_empty() => {
                let mut changed = any(random);
                changed.address = random.pick(present).address;
                Operation::UpdateDestination(service, changed)
            }
            65..75 if !present.is_empty() => {
                Operation::RemoveDestination(service, random.pick(present).clone())
            }
            _ if !has_room => Operation::RemoveService(service),
            75..85 => {
                let kept: Vec<Destination> =
                    present.iter().filter(|_| random.chance(50)).cloned().collect();
                Operation::SetService(settings(random, service), destinations(random, &kept))
            }
            _ => {
                let new = any(random);
                match present.iter().any(|d| d.address == new.address) {
                    true => Operation::UpdateDestination(service, new),
                    false => Operation::CreateDestination(service, new),
                }
            }
        }
    }

    /// The prefixes without one of them, or all of them.
    fn config(&self, random: &mut Random) -> Config {
        let prefix = |text: &str| text.parse().expect("a prefix");
        let all = [(2, "10.1.2.0/24"), (2, "fd00:1:2::/64"), (3, "10.1.3.0/24")];
        let left_out = random.below(all.len() + 1);
        let kept = all.iter().enumerate().filter(|(place, _)| *place != left_out);
        kept.fold(Config::default(), |config, (_, (id, text))| config.vlan(*id, prefix(text)))
            .vlan(3, prefix("fd00:1:3::/64"))
    }
}

fn settings(random: &mut Random, service: Service) -> Service {
    let seconds = Duration::from_secs;
    let (idle, closing) = (*random.pick(&[30, 120, 7200]), *random.pick(&[10, 60]));
    // What packets do shall not depend on how long ago the last change was.
    service
        .sticky(random.chance(30))
        .idle(seconds(idle))
        .closing(seconds(closing))
        .transition(Duration::ZERO)
}

/// Some destinations, these among them.
fn destinations(random: &mut Random, kept: &[Destination]) -> Vec<Destination> {
    let mut all = kept.to_vec();
    for _ in 0..1 + random.below(3) {
        let new = any(random);
        if all.iter().all(|d| d.address != new.address) {
            all.push(new);
        }
    }
    all
}

fn any(random: &mut Random) -> Destination {
    let (net, host) = (2 + random.below(2) as u8, 3 + random.below(8) as u8);
    let address = match random.chance(50) {
        true => IpAddr::from([10, 1, net, host]),
        false => IpAddr::from([0xfd00, 1, u16::from(net), 0, 0, 0, 0, u16::from(host)]),
    };
    let tunnels = [
        Tunnel::None,
        Tunnel::None,
        Tunnel::None,
        Tunnel::Ipip,
        Tunnel::Gre,
        Tunnel::fou(5555),
        Tunnel::gue(6080),
    ];
    let tunnel = *random.pick(&tunnels);
    let weight = *random.pick(&[1, 1, 2, 3, 100]);
    Destination::new(address).tunnel(tunnel).weight(weight).disabled(random.chance(10))
}
