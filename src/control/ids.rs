//! Small numbers that name things in the data plane.

use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// Longer than a packet is on its way through the program. What a packet may
/// still refer to is not used for anything else before.
pub(super) const GRACE: Duration = Duration::from_millis(10);

/// Numbers from 1 to a limit, each given to one thing at a time.
#[derive(Debug)]
pub(super) struct Ids {
    limit: u32,
    fresh: u32,
    unused: Vec<u32>,
    freed: VecDeque<(Instant, u32)>,
}

impl Ids {
    pub(super) const fn new(limit: u32) -> Self {
        Self { limit, fresh: 1, unused: Vec::new(), freed: VecDeque::new() }
    }

    /// The same with some of them given away. What others have had is not known.
    pub(super) fn with_taken(limit: u32, taken: &BTreeSet<u32>) -> Self {
        Self::with_given(limit, taken.last().copied().unwrap_or(0), taken)
    }

    /// The same where numbers up to one were given away at some time.
    pub(super) fn with_given(limit: u32, given: u32, taken: &BTreeSet<u32>) -> Self {
        let fresh = given.min(limit) + 1;
        let now = Instant::now();
        let free = (1..fresh).filter(|id| !taken.contains(id));
        let freed = free.map(|id| (now, id)).collect();
        Self { limit, fresh, unused: Vec::new(), freed }
    }

    /// A number that nothing has; `None` when all are taken. Numbers are
    /// reused late: only when there is no other is one waited for.
    pub(super) fn take(&mut self) -> Option<u32> {
        if let Some(id) = self.unused.pop() {
            return Some(id);
        }
        if self.fresh <= self.limit {
            self.fresh += 1;
            return Some(self.fresh - 1);
        }
        let (freed, id) = self.freed.pop_front()?;
        thread::sleep(GRACE.saturating_sub(freed.elapsed()));
        Some(id)
    }

    /// A number that nothing has had for so long; `None` when there is none.
    pub(super) fn take_rested(&mut self, rest: Duration) -> Option<u32> {
        if self.fresh <= self.limit || !self.unused.is_empty() {
            return self.take();
        }
        let rested = self.freed.front().is_some_and(|(freed, _)| freed.elapsed() >= rest);
        rested.then(|| self.take())?
    }

    /// Gives a number back.
    pub(super) fn free(&mut self, id: u32) {
        self.freed.push_back((Instant::now(), id));
    }

    /// Gives a number back that nothing came to have.
    pub(super) fn put_back(&mut self, id: u32) {
        self.unused.push(id);
    }

    /// How many can be taken.
    pub(super) fn left(&self) -> usize {
        (self.limit + 1 - self.fresh) as usize + self.unused.len() + self.freed.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_once_and_reused_oldest_first() {
        let mut ids = Ids::new(3);
        assert_eq!([ids.take(), ids.take()], [Some(1), Some(2)]);
        ids.free(2);
        ids.free(1);
        assert_eq!(ids.left(), 3);
        assert_eq!(
            [ids.take(), ids.take(), ids.take(), ids.take()],
            [Some(3), Some(2), Some(1), None]
        );
        assert_eq!(ids.left(), 0);
    }

    #[test]
    fn numbers_that_are_taken_over_are_not_given_again() {
        let mut ids = Ids::with_taken(5, &BTreeSet::from([2, 4]));
        assert_eq!(ids.left(), 3);
        let all: Vec<Option<u32>> = (0..4).map(|_| ids.take()).collect();
        assert_eq!(all, [Some(5), Some(1), Some(3), None]);
        assert_eq!(Ids::with_taken(2, &BTreeSet::new()).take(), Some(1));

        // What others had just now rests.
        let mut ids = Ids::with_given(5, 3, &BTreeSet::from([1]));
        let rest = Duration::from_secs(60);
        let rested: Vec<Option<u32>> = (0..3).map(|_| ids.take_rested(rest)).collect();
        assert_eq!(rested, [Some(4), Some(5), None]);
        assert_eq!(ids.left(), 2);
    }

    #[test]
    fn numbers_rest_if_something_had_them() {
        let mut ids = Ids::new(2);
        let rest = Duration::from_secs(60);
        assert_eq!([ids.take_rested(rest), ids.take_rested(rest)], [Some(1), Some(2)]);
        ids.free(1);
        assert_eq!((ids.take_rested(rest), ids.left()), (None, 1));
        ids.put_back(2);
        assert_eq!(ids.left(), 2);
        assert_eq!([ids.take_rested(rest), ids.take_rested(rest)], [Some(2), None]);
        assert_eq!(ids.take_rested(Duration::ZERO), Some(1));
    }
}
