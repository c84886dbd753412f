//! Many connections at once, in use while something else happens.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;

use super::lab::Lab;
use super::lab::vip;
use super::lab::wait;
use super::server::Connection;
use super::server::PATIENCE;

/// How many threads talk on them.
const THREADS: usize = 4;

/// Opens so many connections by turns to the first VIP of each family.
pub fn open(lab: &Lab, number: usize) -> Vec<Connection> {
    lab.client.enter(|| {
        (0..number)
            .map(|i| {
                let mut connection =
                    Connection::open(vip(i % 2, 80), PATIENCE).expect("a server answers");
                connection.exchange(b"hello").expect("it goes on");
                connection
            })
            .collect()
    })
}

/// How many connections each server has.
pub fn by_server(connections: &[Connection]) -> BTreeMap<String, usize> {
    let mut number = BTreeMap::new();
    for connection in connections {
        *number.entry(connection.server.clone()).or_default() += 1;
    }
    number
}

/// Connections in use: each exchanges octets in every round.
pub struct Talk<'a> {
    rounds: &'a [AtomicUsize],
    broken: &'a Mutex<BTreeMap<String, usize>>,
}

impl Talk<'_> {
    /// Waits until every connection was used twice more, the second time
    /// certainly after this was called; the broken ones so far.
    pub fn go_on(&self) -> BTreeMap<String, usize> {
        for round in self.rounds {
            let now = round.load(Ordering::Relaxed);
            wait("two more rounds", 4 * PATIENCE, || {
                (round.load(Ordering::Relaxed) >= now + 2).then_some(())
            });
        }
        self.broken.lock().expect("no thread panics with it").clone()
    }
}

/// Lets threads talk on the connections while a closure looks on.
pub fn talk(connections: Vec<Connection>, closure: impl FnOnce(&Talk<'_>)) {
    let stop = AtomicBool::new(false);
    let broken = Mutex::new(BTreeMap::new());
    let rounds: [AtomicUsize; THREADS] = std::array::from_fn(|_| AtomicUsize::new(0));
    let mut parts: [Vec<Connection>; THREADS] = std::array::from_fn(|_| Vec::new());
    for (i, connection) in connections.into_iter().enumerate() {
        parts[i % THREADS].push(connection);
    }
    thread::scope(|scope| {
        for (mut part, round) in parts.into_iter().zip(&rounds) {
            let (stop, broken) = (&stop, &broken);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    part.retain_mut(|connection| {
                        let goes_on = connection.exchange(b"a line of text\n").is_ok();
                        if !goes_on {
                            let mut broken = broken.lock().expect("no thread panics with it");
                            *broken.entry(connection.server.clone()).or_default() += 1;
                        }
                        goes_on
                    });
                    round.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Stops the threads also when the closure panics.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _stop = Stop(&stop);
        closure(&Talk { rounds: &rounds, broken: &broken });
    });
}
