//! Which flows are asked for.

use std::net::IpAddr;

use super::Flow;
use super::FlowState;
use crate::Prefix;
use crate::ServiceKey;

/// Flows that have everything that is set; by default all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlowFilter {
    /// To this service.
    pub service: Option<ServiceKey>,
    /// To this real server.
    pub destination: Option<IpAddr>,
    /// From clients in this prefix.
    pub client: Option<Prefix>,
    /// This far.
    pub state: Option<FlowState>,
}

impl FlowFilter {
    /// All flows.
    pub const fn new() -> Self {
        Self { service: None, destination: None, client: None, state: None }
    }

    /// Those to a service.
    pub const fn service(mut self, service: ServiceKey) -> Self {
        self.service = Some(service);
        self
    }

    /// Those to a real server.
    pub const fn destination(mut self, address: IpAddr) -> Self {
        self.destination = Some(address);
        self
    }

    /// Those from clients in a prefix.
    pub const fn client(mut self, prefix: Prefix) -> Self {
        self.client = Some(prefix);
        self
    }

    /// Those that are open, or closing.
    pub const fn state(mut self, state: FlowState) -> Self {
        self.state = Some(state);
        self
    }

    /// Whether a flow has everything that is set.
    pub fn matches(&self, flow: &Flow) -> bool {
        self.client.is_none_or(|client| client.contains(flow.source.ip()))
            && self.service.is_none_or(|service| service == flow.service)
            && self.destination.is_none_or(|address| flow.destination == Some(address))
            && self.state.is_none_or(|state| state == flow.state)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::FlowAge;
    use crate::Protocol;

    #[test]
    fn a_flow_must_have_all_that_is_set() {
        let service = |port| ServiceKey {
            address: IpAddr::from([192, 168, 100, 1]),
            port,
            protocol: Protocol::Tcp,
        };
        let server = IpAddr::from([10, 1, 2, 3]);
        let flow = Flow {
            source: "10.7.7.7:40000".parse().expect("an address"),
            service: service(80),
            destination: Some(server),
            state: FlowState::Open,
            idle: Duration::ZERO,
            age: FlowAge::Once,
        };
        let prefix = |text: &str| text.parse::<Prefix>().expect("a prefix");
        let all = FlowFilter::new();
        let exact = all
            .service(service(80))
            .destination(server)
            .client(prefix("10.7.0.0/16"))
            .state(FlowState::Open);
        assert!(all.matches(&flow) && exact.matches(&flow));
        for other in [
            exact.service(service(81)),
            exact.destination(IpAddr::from([10, 1, 2, 4])),
            exact.client(prefix("10.8.0.0/16")),
            exact.client(prefix("::/0")),
            exact.state(FlowState::Closing),
        ] {
            assert!(!other.matches(&flow), "{other:?}");
        }
        let gone = Flow { destination: None, ..flow };
        assert!(!exact.matches(&gone) && FlowFilter { destination: None, ..exact }.matches(&gone));
    }
}
