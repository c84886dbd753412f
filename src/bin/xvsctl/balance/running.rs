//! A balancer at work: what it tells, and what it is told.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::io::Write;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;
use xvs::Client;
use xvs::Destination;
use xvs::DestinationStatus;
use xvs::Event;
use xvs::Service;
use xvs::ServiceStatus;
use xvs::Tunnel;

use super::commands::Command;
use super::input::Input;
use super::input::Signals;
use super::input::wait;
use crate::events;
use crate::output;
use crate::words;
use crate::words::Outcome;

/// How often it is looked whether all is ready.
const TICK: Duration = Duration::from_millis(200);

/// How long destinations may take before it is said what they lack.
const PATIENCE: Duration = Duration::from_secs(3);

/// How far the announcement of readiness is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Waiting,
    /// What is missing has been told.
    Told,
    Ready,
}

/// A client at work.
pub struct Balancer {
    client: Client,
    services: Vec<Service>,
    /// Those of every service.
    destinations: Vec<Destination>,
    /// How packets travel to all of them.
    tunnel: Tunnel,
    progress: Progress,
    started: Instant,
    json: bool,
}

impl Balancer {
    /// The client has these services, all with these destinations.
    pub fn new(
        client: Client,
        services: Vec<Service>,
        destinations: Vec<Destination>,
        json: bool,
    ) -> Self {
        let (progress, started) = (Progress::Waiting, Instant::now());
        let tunnel = destinations.first().map_or(Tunnel::None, |first| first.tunnel);
        Self { client, services, destinations, tunnel, progress, started, json }
    }

    /// Works until there is a reason to stop, and returns that.
    pub fn serve(
        &mut self,
        signals: &Signals,
        duration: Option<Duration>,
    ) -> anyhow::Result<&'static str> {
        let mut input = Input::new();
        loop {
            for event in self.client.events() {
                self.tell_event(&event);
            }
            if self.progress != Progress::Ready {
                self.check_readiness()?;
            }
            let left = duration.map(|duration| duration.saturating_sub(self.started.elapsed()));
            if left == Some(Duration::ZERO) {
                return Ok("duration");
            }
            let time = left.map_or(TICK, |left| left.min(TICK));
            wait(signals, &input, self.client.events_fd(), time)?;
            if let Some(signal) = signals.received()? {
                return Ok(signal);
            }
            for line in input.lines() {
                if self.obey(&line) == Some(Command::Quit) {
                    return Ok("quit");
                }
            }
        }
    }

    /// Tells once when everything is resolved, and once, after a while, what
    /// is not.
    fn check_readiness(&mut self) -> anyhow::Result<()> {
        let mut unresolved = BTreeMap::new();
        let mut silent = Vec::new();
        for (service, destinations) in self.client.all()? {
            for destination in destinations {
                if destination.status != DestinationStatus::Reachable {
                    unresolved.insert(destination.destination.address, destination.status);
                }
            }
            if service.status != ServiceStatus::Forwarding {
                silent.push(service);
            }
        }

        if unresolved.is_empty() && silent.is_empty() {
            self.progress = Progress::Ready;
            return self.tell_ready();
        }
        if self.progress == Progress::Told || self.started.elapsed() < PATIENCE {
            return Ok(());
        }
        self.progress = Progress::Told;
        if self.json {
            let destinations: Vec<Value> = unresolved
                .iter()
                .map(|(address, status)| {
                    json!({
                        "address": address,
                        "status": words::destination_status_name(*status),
                        "reason": status.to_string(),
                    })
                })
                .collect();
            let services: Vec<Value> = silent
                .iter()
                .map(|service| {
                    json!({
                        "service": service.service.to_string(),
                        "status": words::service_status_name(service.status),
                        "reason": words::service_status(service.status),
                    })
                })
                .collect();
            tell(&json!({
                "event": "waiting",
                "destinations": destinations,
                "services": services,
            }));
            return Ok(());
        }
        for (address, status) in &unresolved {
            warn(&format!("not ready: {address}: {status}"));
        }
        if unresolved.is_empty() {
            for service in silent {
                let status = words::service_status(service.status);
                warn(&format!("not ready: {} {status}", service.service));
            }
        }
        Ok(())
    }

    fn tell_ready(&self) -> anyhow::Result<()> {
        if !self.json {
            tell(&"ready");
            return Ok(());
        }
        let info = self.client.info()?;
        let interfaces: Vec<Value> = info
            .interfaces
            .iter()
            .map(|interface| json!({"name": interface.name, "mode": words::mode(interface.mode)}))
            .collect();
        let services: Vec<String> = self.services.iter().map(ToString::to_string).collect();
        tell(&json!({
            "event": "ready",
            "instance": info.instance,
            "interfaces": interfaces,
            "services": services,
        }));
        Ok(())
    }

    fn tell_event(&self, event: &Event) {
        if self.json {
            tell(&events::object(event));
            return;
        }
        match event {
            // At the start `ready` says the same of all of them.
            Event::Resolved { .. } if self.progress == Progress::Waiting => return,
            // What that follows from is told.
            Event::TableRebuilt { .. } => return,
            _ => {}
        }
        warn(&event.to_string());
    }

    /// Does what a line of input says and answers it.
    fn obey(&mut self, line: &str) -> Option<Command> {
        let line = line.trim();
        if line.is_empty() {
            return None;
        }
        let result = line.parse().and_then(|command| self.change(command));
        match (&result, self.json) {
            (Ok(_), false) => tell(&"ok"),
            (Err(error), false) => tell(&format!("error: {error}")),
            (Ok(_), true) => tell(&json!({"event": "ok", "input": line})),
            (Err(error), true) => {
                tell(&json!({"event": "error", "input": line, "message": error}));
            }
        }
        result.ok()
    }

    /// Changes the destinations of all services, or of none.
    fn change(&mut self, command: Command) -> Result<Command, String> {
        let destinations = command.apply(&self.destinations, self.tunnel)?;
        if destinations == self.destinations {
            return Ok(command);
        }
        for (done, service) in self.services.iter().enumerate() {
            let Err(error) = self.client.set_service(service, &destinations) else {
                continue;
            };
            for service in &self.services[..done] {
                if let Err(error) = self.client.set_service(service, &self.destinations) {
                    warn(&format!("{service} keeps the change: {error}"));
                }
            }
            return Err(error.to_string());
        }
        self.destinations = destinations;
        Ok(command)
    }

    /// Tells what was done in all.
    pub fn summarize(&self, cause: &str) -> anyhow::Result<()> {
        let stats = self.client.info()?.stats;
        let seconds = self.started.elapsed().as_secs_f64();
        if self.json {
            tell(&json!({
                "event": "stopped",
                "cause": cause,
                "duration_seconds": seconds,
                "stats": output::stats(&stats),
            }));
            return Ok(());
        }
        let mut line = format!(
            "stopped ({cause}) after {seconds:.1} s: forwarded {} packets, {} octets; {} stored",
            stats.packets,
            stats.octets,
            words::count(stats.flows, "flow"),
        );
        let dropped = words::counted(&stats.reasons, |outcome| outcome == Outcome::Dropped);
        if !dropped.is_empty() {
            line = format!("{line}; dropped: {dropped}");
        }
        tell(&line);
        Ok(())
    }
}

/// Prints a line. A balancer does not stop because nobody reads what it says.
fn tell(line: &impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

fn warn(line: &str) {
    let _ = writeln!(io::stderr(), "xvsctl: {line}");
}
