//! News of flows, for other balancers.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::Error;
use crate::FlowRecord;
use crate::Instance;
use crate::Result;
use crate::bpf::NewsRing;
use crate::bpf::StoredFlow;
use crate::clock::duration;
use crate::clock::now_tick;
use crate::readable::wait_readable;

/// Reads what has become of flows, for other balancers; see
/// [`Client::flow_reader`](crate::Client::flow_reader).
///
/// Its file ([`AsFd`]) can be waited for by poll or epoll, level-triggered. Whoever reads
/// with a timeout of 0 should let a millisecond pass between two reads: each news that
/// comes when all others were read costs its packet a wake-up.
#[derive(Debug)]
pub struct FlowReader {
    ring: NewsRing,
    instance: Instance,
    /// Whether there is a reader.
    taken: Arc<AtomicBool>,
    /// When it looked last, if it saw all that there was.
    looked: Option<Instant>,
}

impl FlowReader {
    /// The most records that one call gives.
    pub const MOST: usize = 4096;

    pub(crate) fn new(instance: &Instance, taken: &Arc<AtomicBool>) -> Result<Self> {
        if instance.maps.instance.read(0).settings.share == 0 {
            return Err(Error::SharingOff { instance: instance.name().to_owned() });
        }
        if taken.swap(true, Ordering::AcqRel) {
            return Err(Error::FlowReaderTaken { instance: instance.name().to_owned() });
        }
        let ring = NewsRing::new(&instance.maps).inspect_err(|_| {
            taken.store(false, Ordering::Release);
        })?;
        let (instance, taken) = (instance.clone(), Arc::clone(taken));
        Ok(Self { ring, instance, taken, looked: None })
    }

    /// Waits for news, at most so long, and gives what there are, oldest first, at most
    /// [`FlowReader::MOST`]. None when the time is over.
    ///
    /// # Errors
    ///
    /// When a system call fails.
    pub fn read(&mut self, timeout: Duration) -> Result<Vec<FlowRecord>> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            self.pause(timeout);
            let news = self.ring.take(Self::MOST)?;
            self.looked = (news.len() < Self::MOST).then(Instant::now);
            let now = now_tick();
            let flows = news.iter().filter_map(|news| self.instance.maps.flow_of(news));
            let records: Vec<FlowRecord> =
                flows.filter_map(|flow| self.instance.flow_record(&flow, now)).collect();
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if !records.is_empty() || left == Some(Duration::ZERO) {
                return Ok(records);
            }
            self.wait(left)?;
        }
    }

    /// Lets news gather: the first one after the reader has seen all costs its packet a
    /// wake-up, which takes far longer than the news.
    fn pause(&self, most: Duration) {
        const PAUSE: Duration = Duration::from_millis(1);
        if let Some(looked) = self.looked {
            thread::sleep(PAUSE.saturating_sub(looked.elapsed()).min(most));
        }
    }

    fn wait(&self, time: Option<Duration>) -> Result<()> {
        match wait_readable(self, time) {
            Ok(_) => Ok(()),
            Err(source) => Err(Error::System { call: "poll", source }),
        }
    }
}

impl AsFd for FlowReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl Drop for FlowReader {
    fn drop(&mut self) {
        self.taken.store(false, Ordering::Release);
    }
}

impl Instance {
    /// A flow as other balancers are told of it, unless its destination is gone.
    pub(crate) fn flow_record(&self, flow: &StoredFlow, now: u32) -> Option<FlowRecord> {
        let service = flow.service()?;
        let generation = flow.destination.generation;
        let destination = self.destination_address(flow.slot, generation)?;
        // What was read before was all of one destination.
        let still = self.maps.destinations.read(flow.slot).generation == generation;
        still.then_some(FlowRecord {
            state: flow.state(),
            seen: flow.age() as u8 + 1,
            idle: duration(flow.silence(now)),
            ..FlowRecord::new(flow.source(), service, destination)
        })
    }
}
