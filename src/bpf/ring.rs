//! The ring that the data plane puts news of flows into.
#![allow(unsafe_code, reason = "libbpf-rs tells the ring's file as a number")]

use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use libbpf_rs::RingBuffer;
use libbpf_rs::RingBufferBuilder;

use super::Maps;
use super::map_fault;
use super::types::FlowNews;
use super::types::record;
use crate::Error;
use crate::Result;

const NAME: &str = "flow_news";

/// The reading end of the ring, of which there must be one only.
#[derive(Debug)]
pub(crate) struct NewsRing {
    ring: RingBuffer<'static>,
    /// What the ring's callback puts what it is given.
    taken: Arc<Mutex<Vec<FlowNews>>>,
}

impl NewsRing {
    pub(crate) fn new(maps: &Maps) -> Result<Self> {
        let taken = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&taken);
        let take = move |octets: &[u8]| {
            let mut taken = sink.lock().unwrap_or_else(PoisonError::into_inner);
            taken.push(record(octets));
            0
        };
        let mut builder = RingBufferBuilder::new();
        let fault = |error| map_fault(NAME, "mapping into memory", &error);
        builder.add(&maps.flow_news, take).map_err(fault)?;
        Ok(Self { ring: builder.build().map_err(fault)?, taken })
    }

    /// Takes what is there, at most so many.
    pub(crate) fn take(&mut self, limit: usize) -> Result<Vec<FlowNews>> {
        let count = self.ring.consume_raw_n(limit);
        if count < 0 {
            let source = io::Error::from_raw_os_error(-count);
            return Err(Error::Map { map: NAME, operation: "reading", source });
        }
        Ok(std::mem::take(&mut *self.taken.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl AsFd for NewsRing {
    /// A file that can be read from while there are news.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring has the file open as long as it lives.
        unsafe { BorrowedFd::borrow_raw(self.ring.epoll_fd()) }
    }
}
