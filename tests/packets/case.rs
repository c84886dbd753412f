//! A case is data: a frame in, and all that must come of it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use xvs::Service;
use xvs::ServiceKey;

use super::tagging::Tagging;
use crate::common::dataplane::Dataplane;
use crate::common::dataplane::FlowKey;
use crate::common::dataplane::Port;
use crate::common::dataplane::Verdict;
use crate::common::dataplane::now;
use crate::common::dataplane::server_mac;
use crate::common::frame;

/// Something that happens before the frame of a case.
pub enum Step {
    /// A frame comes in, whatever becomes of it.
    Send(Vec<u8>),
    /// The flow looks as if its last packet had come so much earlier.
    AgeFlow(FlowKey, Duration),
    /// The first fragments look as if they had come so much earlier.
    AgeFragments(Duration),
    /// The control plane or the network changes.
    Do(Box<dyn Fn(&Dataplane) + Send>),
}

/// Whose counters tell of a frame that was not forwarded.
#[derive(Clone, Copy)]
pub enum On {
    /// Only those of the instance.
    Nobody,
    /// The virtual address's.
    Vip(IpAddr),
    /// The service's, and so the virtual address's.
    Service(ServiceKey),
}

/// A real server of a service.
#[derive(Clone, Copy)]
pub struct Server {
    pub service: ServiceKey,
    pub address: IpAddr,
    pub mac: [u8; 6],
}

impl Server {
    /// The server of a service at an address, with its usual MAC address.
    pub fn new(service: &Service, address: IpAddr) -> Self {
        Self { service: service.key(), address, mac: server_mac(address) }
    }

    /// The same server with another MAC address.
    pub const fn mac(mut self, mac: [u8; 6]) -> Self {
        self.mac = mac;
        self
    }
}

/// What must be in the flow table afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// No entry.
    Absent,
    /// An open flow, its last packet just now.
    Open,
    /// A closing flow, its last packet just now.
    Closing,
    /// What was there before, not a bit changed.
    Unchanged,
    /// The same of a dead flow, which the census may free at any time.
    Dead,
}

enum Outcome {
    Undecided,
    /// The frame comes back as it was.
    Untouched(Verdict, On),
    Forwarded(Server),
    Replied(Vec<u8>, On),
    /// Forwarded as these octets instead of those that follow from the frame.
    ForwardedAs(Server, Vec<u8>),
}

/// One frame and what must come of it.
pub struct Case {
    name: String,
    before: Vec<Step>,
    frame: Vec<u8>,
    ingress: Port,
    is_whole: bool,
    outcome: Outcome,
    reason: &'static str,
    moved: Vec<&'static str>,
    entry: Option<(FlowKey, Entry)>,
}

/// No frame that is shorter is in several buffers.
const ONE_BUFFER: usize = 3_000;

impl Case {
    /// A frame that comes in on lb0.
    pub fn new(name: impl Into<String>, frame: Vec<u8>) -> Self {
        Self {
            name: name.into(),
            before: Vec::new(),
            frame,
            ingress: Port::Lb0,
            is_whole: true,
            outcome: Outcome::Undecided,
            reason: "",
            moved: Vec::new(),
            entry: None,
        }
    }

    /// The frame comes in on lb1.
    pub fn on_lb1(mut self) -> Self {
        self.ingress = Port::Lb1;
        self.frame[..6].copy_from_slice(&Port::Lb1.mac());
        self
    }

    /// A frame comes in before, whatever becomes of it.
    pub fn after(mut self, frame: Vec<u8>) -> Self {
        self.before.push(Step::Send(frame));
        self
    }

    /// Something else happens before.
    pub fn step(mut self, step: Step) -> Self {
        self.before.push(step);
        self
    }

    /// The control plane or the network changes before.
    pub fn change(self, change: impl Fn(&Dataplane) + Send + 'static) -> Self {
        self.step(Step::Do(Box::new(change)))
    }

    /// It is passed to the host.
    pub fn passes(mut self, reason: &'static str, on: On) -> Self {
        self.outcome = Outcome::Untouched(Verdict::Pass, on);
        self.reason = reason;
        self
    }

    /// It is dropped.
    pub fn drops(mut self, reason: &'static str, on: On) -> Self {
        self.outcome = Outcome::Untouched(Verdict::Drop, on);
        self.reason = reason;
        self
    }

    /// It is malformed, for a virtual address.
    pub fn malformed(self, vip: IpAddr) -> Self {
        self.drops("malformed", On::Vip(vip))
    }

    /// It is answered with these octets.
    pub fn replies(mut self, reason: &'static str, reply: Vec<u8>, on: On) -> Self {
        self.outcome = Outcome::Replied(reply, on);
        self.reason = reason;
        self
    }

    /// It is answered with these octets, whose checksums are as wrong as the
    /// frame's.
    pub fn replies_broken(self, reason: &'static str, reply: Vec<u8>, on: On) -> Self {
        let mut case = self.replies(reason, reply, on);
        case.is_whole = false;
        case
    }

    /// It is forwarded to a server.
    pub fn forwards(mut self, reason: &'static str, to: Server) -> Self {
        self.outcome = Outcome::Forwarded(to);
        self.reason = reason;
        if reason == "forwarded_new" {
            self.moved.push("flows");
        }
        self
    }

    /// It is forwarded to a server as these octets.
    pub fn forwards_as(self, reason: &'static str, to: Server, octets: Vec<u8>) -> Self {
        let mut case = self.forwards(reason, to);
        case.outcome = Outcome::ForwardedAs(to, octets);
        case
    }

    /// These counters of the server go up by one as well.
    pub fn counts(mut self, counters: &[&'static str]) -> Self {
        self.moved.extend(counters);
        self
    }

    /// This is in the flow table afterwards.
    pub fn leaves(mut self, key: &FlowKey, entry: Entry) -> Self {
        self.entry = Some((key.clone(), entry));
        self
    }

    /// Runs it; everything that is not as it must be goes into the error.
    pub fn run(&self, dataplane: &Dataplane) -> Result<(), String> {
        self.run_tagged(dataplane, Tagging::default())
    }

    /// Runs it with these tags around its frames.
    pub fn run_tagged(&self, dataplane: &Dataplane, tagging: Tagging) -> Result<(), String> {
        if tagging.ingress.is_some_and(|control| control & 0xfff != 0) {
            dataplane.join_all_vlans();
        }
        for step in &self.before {
            match step {
                Step::Send(frame) => {
                    dataplane.run(Port::Lb0, &tagging.wrap(frame));
                }
                Step::AgeFlow(key, by) => {
                    assert!(dataplane.age_flow(key, *by), "{}: the flow is there", self.name);
                }
                Step::AgeFragments(by) => dataplane.age_fragments(*by),
                Step::Do(change) => change(dataplane),
            }
        }
        let entry = self.entry.as_ref().and_then(|(key, _)| dataplane.flow(key));
        let counters = dataplane.counters();
        if tagging.ingress.is_some_and(|control| control & 0xfff != 0) {
            dataplane.join_all_vlans();
        }
        if let Some(id) = tagging.egress {
            dataplane.tag_ways_out(id);
        }
        let began = now();
        let (verdict, output) = dataplane.run(self.ingress, &tagging.wrap(&self.frame));
        let moved = moved(&counters, &dataplane.counters());

        let mut faults = String::new();
        let mut fault = |what: &str, found: &dyn std::fmt::Debug, right: &dyn std::fmt::Debug| {
            faults += &format!("  {what}: {found:?}, must be {right:?}\n");
        };
        let right = self.verdict(dataplane);
        if verdict != right {
            fault("verdict", &verdict, &right);
        }
        let right = self.moved();
        if moved != right {
            fault("counters moved", &moved, &right);
        }
        if let Some((key, state)) = &self.entry {
            let after = dataplane.flow(key);
            let right = match state {
                Entry::Absent => after.is_none(),
                Entry::Unchanged => after == entry,
                Entry::Dead => after.is_none() || after == entry,
                Entry::Open | Entry::Closing => after.as_ref().is_some_and(|after| {
                    after.is_closing() == (*state == Entry::Closing)
                        // The program's clock may be a jiffy ahead, and the machine may
                        // have stood still meanwhile.
                        && (now() + 1).wrapping_sub(after.seen()) & 0xff_ffff
                            <= now() - began + 3
                }),
            };
            if !right {
                fault("flow", &after, state);
            }
        }
        let unwrapped = match self.outcome {
            Outcome::Forwarded(_) | Outcome::ForwardedAs(..) => tagging.unwrap_forwarded(&output),
            _ => tagging.unwrap_reply(&output),
        };
        let output = unwrapped.unwrap_or_else(|error| {
            faults += &format!("  the frame {error}\n");
            output
        });
        let right = self.output();
        let output = match self.outcome {
            Outcome::Replied(..) => self.without_rest(output, right.len()),
            _ => output,
        };
        let same = match self.outcome {
            Outcome::Replied(..) => frame::is_same(&output, &right),
            _ => output == right,
        };
        if !same {
            faults += &format!("  octets out:\n{}", frame::hex(&output));
            faults += &format!("  must be:\n{}", frame::hex(&right));
        } else if let Outcome::Replied(..) = self.outcome
            && self.is_whole
            && let Err(error) = frame::verify(&output)
        {
            faults += &format!("  octets out are no whole packet: {error}\n");
        }
        if faults.is_empty() {
            return Ok(());
        }
        let frame = frame::hex(&self.frame);
        let (name, ingress) = (&self.name, self.ingress);
        Err(format!("{name}\n{faults}  frame in, {ingress:?}, {tagging:?}:\n{frame}"))
    }

    /// A reply without what is left behind it of a frame in several buffers, which
    /// stays as long as it was.
    fn without_rest(&self, mut output: Vec<u8>, length: usize) -> Vec<u8> {
        if self.frame.len() > ONE_BUFFER && is_left(&self.frame, &output, length) {
            output.truncate(length);
        }
        output
    }

    fn verdict(&self, dataplane: &Dataplane) -> Verdict {
        match &self.outcome {
            Outcome::Undecided => panic!("{} expects nothing", self.name),
            Outcome::Untouched(verdict, _) => *verdict,
            Outcome::Replied(..) => Verdict::Tx,
            Outcome::Forwarded(server) | Outcome::ForwardedAs(server, _) => {
                dataplane.forwards(self.ingress, Port::of(server.address))
            }
        }
    }

    fn output(&self) -> Vec<u8> {
        match &self.outcome {
            Outcome::Undecided | Outcome::Untouched(..) => self.frame.clone(),
            Outcome::Replied(reply, _) => reply.clone(),
            Outcome::Forwarded(server) => {
                frame::forwarded(&self.frame, Port::of(server.address).mac(), server.mac)
            }
            Outcome::ForwardedAs(_, octets) => octets.clone(),
        }
    }

    fn moved(&self) -> BTreeMap<String, i128> {
        let mut moved = BTreeMap::from([(format!("all {}", self.reason), 1)]);
        match &self.outcome {
            Outcome::Undecided => {}
            Outcome::Untouched(_, on) | Outcome::Replied(_, on) => {
                let vip = match on {
                    On::Nobody => return moved,
                    On::Vip(address) => *address,
                    On::Service(service) => {
                        moved.insert(format!("{service} {}", self.reason), 1);
                        service.address
                    }
                };
                moved.insert(format!("{vip} {}", self.reason), 1);
            }
            Outcome::Forwarded(Server { service, address, .. })
            | Outcome::ForwardedAs(Server { service, address, .. }, _) => {
                for whose in [
                    "all".to_owned(),
                    service.address.to_string(),
                    service.to_string(),
                    format!("{service} at {address}"),
                ] {
                    moved.insert(format!("{whose} packets"), 1);
                    let octets = frame::ip_length(&self.frame);
                    moved.insert(format!("{whose} octets"), octets.into());
                    for counter in &self.moved {
                        moved.insert(format!("{whose} {counter}"), 1);
                    }
                }
            }
        }
        moved
    }
}

/// Whether what a reply has behind so many octets is what the frame had there,
/// before the reply's headers were put in front of it.
pub fn is_left(frame: &[u8], output: &[u8], length: usize) -> bool {
    let moved = [28, 48].map(|headers| &frame[length - headers..]);
    output.len() == frame.len() && moved.iter().any(|left| left.starts_with(&output[length..]))
}

/// The counters that differ, and by how much.
fn moved(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, i128> {
    let names = before.keys().chain(after.keys());
    let difference = |name: &String| {
        let value = |counters: &BTreeMap<String, u64>| {
            i128::from(counters.get(name).copied().unwrap_or_default())
        };
        value(after) - value(before)
    };
    names.map(|name| (name.clone(), difference(name))).filter(|(_, d)| *d != 0).collect()
}
