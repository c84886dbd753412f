//! A reference model beside the real program: after thousands of random
//! operations every packet still goes where the model says.

mod common;
mod model {
    pub mod maglev;
    pub mod operation;
    pub mod reference;
}

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use common::cpu;
use common::dataplane::Dataplane;
use common::dataplane::FlowKey;
use common::dataplane::Port;
use common::dataplane::Verdict;
use common::dataplane::now;
use common::dataplane::server_mac;
use common::dataplane::ticks;
use common::frame;
use common::random::Random;
use common::random::share;
use model::operation;
use model::operation::Operation;
use model::reference::Model;
use model::reference::Outcome;
use model::reference::Packet;
use model::reference::Storing;
use xvs::Destination;
use xvs::ServiceKey;

const KEY: [u8; 16] = *b"a key of sixteen";

/// The program and the model, side by side.
struct Pair<'a> {
    dataplane: &'a Dataplane,
    model: Model,
    macs: BTreeMap<IpAddr, [u8; 6]>,
    reasons: BTreeMap<&'static str, u64>,
    flows: u64,
    /// How many flows were certain to be stored.
    certain: u64,
    /// How many were not stored, as their service had stored enough.
    limited: u64,
}

impl Pair<'_> {
    fn apply(&mut self, operation: &Operation) -> Result<(), String> {
        if let Operation::UpdateService(service) | Operation::SetService(service, _) = operation {
            for (client, key) in self.model.forget_dead(&service.key(), now()) {
                let vip = std::net::SocketAddr::new(key.address, key.port);
                self.dataplane.tables.free(&FlowKey::new(client, vip, key.protocol));
            }
        }
        let client = &self.dataplane.client;
        let failed = |error: xvs::Error| error.to_string();
        match operation {
            Operation::CreateService(service) => {
                let () = client.create_service(service).map_err(failed)?;
                self.set(&service.key(), service, &[])
            }
            Operation::UpdateService(service) => {
                let () = client.update_service(service).map_err(failed)?;
                let destinations = self.model.destinations(&service.key());
                self.set(&service.key(), service, &destinations)
            }
            Operation::RemoveService(service) => {
                let () = client.remove_service(service).map_err(failed)?;
                self.model.remove_service(&service.key());
                Ok(())
            }
            Operation::SetService(service, destinations) => {
                let () = client.set_service(service, destinations).map_err(failed)?;
                self.set(&service.key(), service, destinations)
            }
            Operation::CreateDestination(service, destination) => {
                let () = client.create_destination(service, destination).map_err(failed)?;
                let mut destinations = self.model.destinations(&service.key());
                destinations.push(destination.clone());
                self.set(&service.key(), service, &destinations)
            }
            Operation::UpdateDestination(service, destination) => {
                let () = client.update_destination(service, destination).map_err(failed)?;
                let mut destinations = self.model.destinations(&service.key());
                destinations.retain(|other| other.address != destination.address);
                destinations.push(destination.clone());
                self.set(&service.key(), service, &destinations)
            }
            Operation::RemoveDestination(service, destination) => {
                let () = client.remove_destination(service, destination).map_err(failed)?;
                let mut destinations = self.model.destinations(&service.key());
                destinations.retain(|other| other.address != destination.address);
                self.set(&service.key(), service, &destinations)
            }
            Operation::Move(address, mac) => {
                self.macs.insert(*address, *mac);
                let uses = |d: &Destination| d.address == *address;
                for service in self.model.services() {
                    if self.model.destinations(&service.key()).iter().any(uses) {
                        self.dataplane.move_server(&service, *address, *mac);
                    }
                }
                Ok(())
            }
            Operation::AgeFlow((client, service), by) => {
                self.age_flow(&(*client, *service), *by);
                Ok(())
            }
            Operation::AgeFragments(by) => {
                self.age_fragments(*by);
                Ok(())
            }
            Operation::Send(packet) => self.send(packet),
            Operation::Flood(packets) => packets.iter().try_for_each(|packet| self.send(packet)),
            Operation::Repeat(packet, times) => (0..*times).try_for_each(|_| self.send(packet)),
        }
    }

    fn set(
        &mut self,
        key: &ServiceKey,
        service: &xvs::Service,
        destinations: &[Destination],
    ) -> Result<(), String> {
        self.model.set_service(service, destinations, now());
        self.dataplane.settle(service, self.model.usable(key));
        Ok(())
    }

    fn age_flow(&mut self, flow: &(std::net::SocketAddr, ServiceKey), by: Duration) {
        let (client, service) = flow;
        let vip = std::net::SocketAddr::new(service.address, service.port);
        let key = FlowKey::new(*client, vip, service.protocol);
        // The control plane may have removed what lives no more.
        let _ = self.dataplane.age_flow(&key, by);
        self.model.age_flow(flow, ticks(by));
    }

    fn age_fragments(&mut self, by: Duration) {
        self.dataplane.age_fragments(by);
        self.model.age_fragments(ticks(by));
    }

    fn send(&mut self, packet: &Packet) -> Result<(), String> {
        let margin = Duration::from_secs(11);
        while let Some(flow) = self.model.flow_on_edge(packet, now()) {
            self.age_flow(&flow, margin);
        }
        while self.model.fragment_on_edge(packet, now()) {
            self.age_fragments(margin);
        }
        let frame = operation::frame(packet);
        let time = now();
        let (verdict, output) = self.dataplane.run(Port::Lb0, &frame);
        let stats = self.dataplane.client.info().expect("info").stats;
        let stored = stats.flows - std::mem::replace(&mut self.flows, stats.flows);
        let limited = stats.limited - std::mem::replace(&mut self.limited, stats.limited);
        let storing = self.model.storing(packet, time);
        match (storing, stored, limited) {
            (Storing::Never, 0, 0) | (Storing::Perhaps, 1, 0) | (Storing::Perhaps, 0, 1) => {}
            (Storing::Certain, 1, 0) => self.certain += 1,
            _ => {
                return Err(format!(
                    "{packet:?}: must be stored {storing:?}, {stored} are, {limited} limited"
                ));
            }
        }
        let right = self.model.process(packet, time, stored == 1);
        let reasons: BTreeMap<_, _> = stats.reasons.iter().collect();
        let moved: Vec<_> =
            reasons.iter().filter(|(name, value)| self.reasons[*name] != **value).collect();
        let reason = match moved[..] {
            [(name, value)] if *value == self.reasons[name] + 1 => *name,
            _ => return Err(format!("must be {right:?}; reasons that moved: {moved:?}")),
        };
        self.reasons = reasons;
        let mac = |address: IpAddr| {
            self.macs.get(&address).copied().unwrap_or_else(|| server_mac(address))
        };
        let matches = match &right {
            Outcome::Refused(right_verdict, right_reason) => {
                verdict == *right_verdict
                    && reason == *right_reason
                    && (verdict == Verdict::Tx || output == frame)
            }
            Outcome::Forwarded(right_reason, address) => {
                let egress = Port::of(*address);
                reason == *right_reason
                    && verdict == self.dataplane.forwards(Port::Lb0, egress)
                    && output == frame::forwarded(&frame, egress.mac(), mac(*address))
            }
        };
        if matches {
            return Ok(());
        }
        Err(format!(
            "must be {right:?}, is {verdict:?} {reason} to {:02x?}\n{}",
            frame::destination_mac(&output),
            frame::hex(&frame)
        ))
    }
}

fn compare(table_size: u32, operations: usize, seed: u64) {
    let mut random = Random::from_environment(seed);
    Dataplane::with(
        |options| options.table_size(table_size).hash_key(KEY),
        |dataplane| {
            cpu::stay();
            let stats = dataplane.client.info().expect("info").stats;
            let mut pair = Pair {
                dataplane,
                model: Model::new(table_size, KEY),
                macs: BTreeMap::new(),
                reasons: stats.reasons.iter().collect(),
                flows: stats.flows,
                certain: 0,
                limited: 0,
            };
            let before = pair.reasons.clone();
            let mut recent = VecDeque::new();
            for number in 0..operations {
                let operation = operation::draw(&mut random, &pair.model);
                recent.push_back(format!("{number}: {operation:?}"));
                if recent.len() > 20 {
                    recent.pop_front();
                }
                if let Err(error) = pair.apply(&operation) {
                    let recent = recent.make_contiguous().join("\n");
                    panic!("{error}\nthe last operations:\n{recent}");
                }
            }
            let counts: BTreeMap<_, _> = pair
                .reasons
                .iter()
                .map(|(name, value)| (*name, value - before[name]))
                .filter(|(_, value)| *value > 0)
                .collect();
            println!("{operations} operations, table of {table_size}: {counts:?}");
            println!(
                "{} flows stored, {} certain to be, {} not",
                pair.flows, pair.certain, pair.limited
            );
            if operations < COVERING {
                return;
            }
            assert!(pair.certain > 0 && pair.limited > 0, "there was a flood, and not always one");
            for reason in [
                "forwarded_flow",
                "forwarded_new",
                "forwarded_syn",
                "forwarded_fragment",
                "forwarded_icmp",
                "no_service",
                "no_destination",
                "ttl_expired",
                "fragment_orphan",
                "echo_replied",
            ] {
                assert!(counts.contains_key(reason), "no packet was {reason}");
            }
        },
    );
}

/// So many operations do all there is.
const COVERING: usize = 1_000;

#[test]
fn ten_thousand_operations_with_a_table_of_251() {
    compare(251, share(10_000), 0x5eed_0002);
}

#[test]
fn ten_thousand_operations_with_a_table_of_1021() {
    compare(1021, share(10_000), 0x5eed_0003);
}

#[test]
fn operations_with_a_table_of_65537() {
    compare(65_537, share(2_000), 0x5eed_0004);
}
