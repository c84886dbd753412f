//! Random calls of a running client.

use std::collections::BTreeMap;
use std::slice;

use xvs::Config;
use xvs::Destination;
use xvs::Event;
use xvs::Service;

use crate::common::dataplane::Dataplane;
use crate::common::dataplane::wait_for;
use crate::common::random::Random;
use crate::common::random::share;
use crate::injection::Call;
use crate::injection::Faults;
use crate::operation::Operation;
use crate::operation::Wanted;
use crate::state;
use crate::state::same;

/// A client whose calls fail.
struct Under<'a> {
    dataplane: &'a Dataplane,
    faults: &'a Faults,
    /// How often each system call has failed: what came to nothing, and what did not.
    failed: BTreeMap<Call, (usize, usize)>,
}

impl Under<'_> {
    /// Makes a call with its first system call failing, its second and so on, each
    /// time from an equal state, until it goes through unharmed.
    fn sweep(&mut self, operation: &Operation) {
        let client = &self.dataplane.client;
        let wanted = Wanted::of(client);
        let before = self.settled();
        let number = state::entries(self.dataplane).len();
        let mut swallowed = Vec::new();
        for nth in 0.. {
            let packets = state::packets(self.dataplane, packets());
            let (all, entries) = (state::everything(client), state::entries(self.dataplane));
            let (result, calls) = self.faults.fail(nth..nth + 1, || operation.apply(client));
            let Some(call) = calls.get(nth) else {
                result.expect("no system call failed");
                break;
            };
            let failed = self.failed.entry(*call).or_default();
            let what = format!("{operation:?} with {call} ({nth}): {result:?}");
            if result.is_err() {
                failed.0 += 1;
                same(&what, &all, &state::everything(client));
                same(&what, &entries, &state::entries(self.dataplane));
                same(&what, &packets, &state::packets(self.dataplane, self::packets()));
            } else {
                failed.1 += 1;
                swallowed.push((what.clone(), self.settled()));
                wanted.restore(client);
                same(&format!("undone: {what}"), &before, &self.settled());
                let left = state::entries(self.dataplane);
                assert_eq!(left.len(), number, "undone: {what}: {left:#?}");
            }
        }
        let after = self.settled();
        for (what, state) in swallowed {
            same(&what, &after, &state);
        }
    }

    /// What follows from what is wanted.
    fn settled(&self) -> Vec<String> {
        let mut state = state::wanted(&self.dataplane.client);
        state.extend(state::packets(self.dataplane, state::firsts()));
        state
    }
}

fn packets() -> impl Iterator<Item = Vec<u8>> {
    state::firsts().chain(state::laters())
}

#[test]
fn random_calls_are_whole_or_not_at_all() {
    let mut random = Random::from_environment(0x5eed_0010);
    for _ in 0..share(4) {
        Dataplane::with(
            |options| options,
            |dataplane| {
                Faults::with(|faults| {
                    let mut under = Under { dataplane, faults, failed: BTreeMap::new() };
                    for _ in 0..60 {
                        let wanted = Wanted::of(&dataplane.client);
                        under.sweep(&wanted.draw(&mut random));
                    }
                    for (call, (nothing, whole)) in &under.failed {
                        println!("{call}: {nothing} times no change, {whole} times a whole one");
                    }
                    assert!(!under.failed.is_empty(), "calls are made and fail");
                });
            },
        );
    }
}

#[test]
fn tables_that_cannot_be_built_are_built_later() {
    let service = Service::tcp([192, 168, 100, 1].into(), 80);
    let far = Destination::new([10, 1, 3, 3].into());
    Dataplane::with(
        |options| options,
        |dataplane| {
            let client = &dataplane.client;
            let config = client.config();
            let near = Config::default().vlan(2, "10.1.2.0/24".parse().expect("a prefix"));
            let () = client.set_config(near).expect("it is right");
            let () = client.set_service(&service, slice::from_ref(&far)).expect("it fits");
            let before = state::packets(dataplane, state::firsts());
            let failed = Faults::with(|faults| {
                // There was no table yet, and there is no memory for one.
                let (result, calls) =
                    faults.fail(0..usize::MAX, || client.set_config(config.clone()));
                result.expect("a service whose destinations change is no error");
                assert!(!calls.is_empty(), "a table takes system calls");
            });
            if failed.is_none() {
                return;
            }
            let told = client.events().iter().filter(|e| matches!(e, Event::Failed(_))).count();
            assert_eq!(told, 2, "of the table and of the NAT address");
            dataplane.settle(&service, 1);
            wait_for("packets go to the server", &true, || {
                state::packets(dataplane, state::firsts()) != before
            });
        },
    );
}
