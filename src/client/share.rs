//! Flows shared with other balancers: records out and in. How they travel is the
//! application's.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::Client;
use crate::FlowReader;
use crate::FlowRecord;
use crate::Result;

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
    /// on, twice a minute. Flows that [`Client::write_flow`] wrote are told only when
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
}
