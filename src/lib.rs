//! A layer-4 load balancer for Linux: XDP programs forward the packets, this
//! crate loads them and gives an application services and destinations.
//!
//! It works by Direct Server Return. Every real server has the virtual address
//! (VIP) on its loopback interface; the balancer sends it the client's packet
//! with nothing changed but MAC addresses, VLAN tag and TTL, or whole in a tunnel
//! ([`Tunnel`]), and the answer goes straight from the server to the client.
//!
//! ```no_run
//! use xvs::{Client, Destination, Options, Service};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let options = Options::new().vlan(1, "10.1.2.0/24".parse()?);
//! let client = Client::with_options(options, &["eth0"])?;
//! let service = Service::tcp("192.168.100.1".parse()?, 80);
//! client.create_service(&service)?;
//! for real in ["10.1.2.3", "10.1.2.4"] {
//!     client.create_destination(&service, &Destination::new(real.parse()?))?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Traffic goes to the destinations until the client is dropped. What happens
//! meanwhile is told by [`Client::events`], and to other processes by [`Instance::events`]; what is counted, by
//! [`Client::services`] and its like; [`Instance`] tells the same to other
//! processes.

mod attachments;
mod bpf;
mod capture;
mod census;
mod client;
mod clock;
mod config;
mod control;
mod decap;
mod discovery;
mod error;
mod event;
mod explain;
mod flood;
mod flow_reader;
mod flow_record;
mod flows;
mod hash;
pub mod host;
mod instance;
mod lease;
mod maglev;
mod monitor;
mod nat;
mod net;
mod offloads;
mod pathmtu;
mod ports;
mod prefix;
mod probe;
mod probe_link;
mod readable;
mod routing;
mod service;
mod sharing;
mod start;
mod stats;
mod takeover;
mod tunnel;
mod vlans;

pub use capture::Action;
pub use capture::Capture;
pub use capture::CaptureOptions;
pub use capture::CaptureStats;
pub use capture::Frame;
pub use client::Client;
pub use config::Config;
pub use config::MAX_PREFIXES;
pub use config::MAX_ROUTES;
pub use config::Mode;
pub use config::OnExit;
pub use config::Options;
pub use config::Route;
pub use decap::Decap;
pub use decap::DecapOptions;
pub use decap::DecapOutcome;
pub use decap::DecapReasons;
pub use error::Error;
pub use error::Result;
pub use event::Event;
pub use event::EventReader;
pub use event::Since;
pub use explain::Explanation;
pub use explain::Packet;
pub use explain::Verdict;
pub use flow_reader::FlowReader;
pub use flow_record::FlowRecord;
pub use flow_record::RecordError;
pub use flow_record::Records;
pub use flow_record::records;
pub use flows::Flow;
pub use flows::FlowAge;
pub use flows::FlowFilter;
pub use flows::FlowState;
pub use instance::Detached;
pub use instance::Instance;
pub use instance::PutBack;
pub use nat::Nat;
pub use net::InvalidMac;
pub use net::Mac;
pub use offloads::Offload;
pub use prefix::Prefix;
pub use probe::Check;
pub use probe::Failure;
pub use probe::Probe;
pub use probe::Report;
pub use probe::Size;
pub use probe::Step;
pub use service::Destination;
pub use service::MAX_IDLE;
pub use service::MAX_NEW_FLOWS;
pub use service::MAX_WEIGHT;
pub use service::Protocol;
pub use service::Service;
pub use service::ServiceKey;
pub use sharing::Accepted;
pub use sharing::Sharing;
pub use sharing::Written;
pub use stats::DestinationExtended;
pub use stats::DestinationStatus;
pub use stats::Drain;
pub use stats::Info;
pub use stats::Interface;
pub use stats::Reasons;
pub use stats::ServiceExtended;
pub use stats::ServiceStatus;
pub use stats::Stats;
pub use stats::Vip;
pub use stats::VlanInfo;
pub use stats::VlanStatus;
pub use tunnel::Tunnel;
pub use tunnel::Udp;
