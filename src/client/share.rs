//! Flows shared with other balancers: records out and in. How they travel is the
//! application's.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::Client;
use crate::Accepted;
use crate::FlowReader;
use crate::FlowRecord;
use crate::Result;
use crate::Written;
use crate::bpf::FlowWriter;
use crate::records;

/// Who reads the news of flows.
#[derive(Debug, Default)]
pub(super) struct Reading {
    taken: Arc<AtomicBool>,
    /// The reader that [`Client::read_flow`] has.
    own: Mutex<Option<FlowReader>>,
}

impl Client {
    /// What becomes of flows from now on, for other balancers: of each flow that is
    /// stored, that its client closes, that becomes better known, and of each that goes
    /// on, twice a minute, or every 8 seconds where its service forgets it within two
    /// minutes. Flows that [`Client::write_flow`] wrote are told only when
    /// packets of theirs come here, so that no record goes in circles.
    ///
    /// News that are not read in time are lost, and counted ([`Info`](crate::Info)); a
    /// flow that goes on is told again.
    ///
    /// # Errors
    ///
    /// [`Error::SharingOff`](crate::Error::SharingOff) without
    /// [`Options::share_flows`](crate::Options::share_flows);
    /// [`Error::FlowReaderTaken`](crate::Error::FlowReaderTaken) while there is a reader.
    pub fn flow_reader(&self) -> Result<FlowReader> {
        FlowReader::new(&self.instance, &self.reading.taken)
    }

    /// The same in one call, with a reader that this client keeps: waits for news, at
    /// most so long, and gives what there are.
    ///
    /// # Errors
    ///
    /// As [`Client::flow_reader`] and [`FlowReader::read`].
    pub fn read_flow(&self, timeout: Duration) -> Result<Vec<FlowRecord>> {
        let mut own = self.reading.own.lock().unwrap_or_else(PoisonError::into_inner);
        let reader = match &mut *own {
            Some(reader) => reader,
            none => none.insert(self.flow_reader()?),
        };
        reader.read(timeout)
    }

    /// Remembers a flow that another balancer told of, so that its packets go to its
    /// server should they come here. A flow that lives here with another server stays,
    /// unless the record knows better: when the flow here was seen in one tick only
    /// and the record's in more (a packet was here before its record), or when the client
    /// has opened the connection anew since.
    ///
    /// # Errors
    ///
    /// [`Error::ServiceNotFound`](crate::Error::ServiceNotFound) and
    /// [`Error::DestinationNotFound`](crate::Error::DestinationNotFound) when they are
    /// none of this balancer's,
    /// [`Error::DestinationDrained`](crate::Error::DestinationDrained), [`Error::FlowExpired`](crate::Error::FlowExpired),
    /// [`Error::FlowRoom`](crate::Error::FlowRoom), and
    /// [`Error::MixedFamilies`](crate::Error::MixedFamilies). All are counted
    /// ([`Info`](crate::Info)).
    pub fn write_flow(&self, record: &FlowRecord) -> Result<Written> {
        let mut control = self.shared.control();
        let mut accepted = Accepted::default();
        let result = control.write_flow(&FlowWriter::new(&self.instance.maps), record);
        accepted.count(&result);
        control.count_accepted(&accepted);
        result
    }

    /// The same with all records of a buffer that has them in a row ([`records`]), and what
    /// became of them. Records may come in any order, and more than once.
    pub fn write_flows(&self, octets: &[u8]) -> Accepted {
        /// Between so many, other calls have their turn.
        const TURN: usize = 256;
        let writer = FlowWriter::new(&self.instance.maps);
        let mut all = Accepted::default();
        let mut records = records(octets).peekable();
        while records.peek().is_some() {
            let mut control = self.shared.control();
            let mut accepted = Accepted::default();
            for record in records.by_ref().take(TURN) {
                match record {
                    Ok(record) => accepted.count(&control.write_flow(&writer, &record)),
                    Err(_) => accepted.bad += 1,
                }
            }
            control.count_accepted(&accepted);
            all.add(&accepted);
        }
        all
    }

    /// Calls `each` with the records of all flows that live here, some at a time, in no
    /// order: for a balancer that joins others. What changes meanwhile is told by
    /// [`Client::flow_reader`], from which records have to be sent there already.
    pub fn export_flows(&self, each: impl FnMut(&[FlowRecord])) {
        self.instance.export_flows(each);
    }
}
