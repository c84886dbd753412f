//! What fails often takes nothing away: the limits can be reached afterwards.

use xvs::Destination;
use xvs::Error;
use xvs::Service;

use crate::common::dataplane::Dataplane;
use crate::injection::Faults;
use crate::state;
use crate::state::same;

const SERVICES: u32 = 3;
const DESTINATIONS: u32 = 6;
/// More often than there are numbers of anything.
const TIMES: usize = 20;

/// Lets a call fail with each of its system calls failing, many times each, until it
/// goes through unharmed; how often it failed.
fn fail_often(
    faults: &Faults,
    call: impl Fn() -> xvs::Result<()>,
    undo: impl Fn() -> xvs::Result<()>,
) -> usize {
    let mut failed = 0;
    for nth in 0.. {
        for _ in 0..TIMES {
            let (result, calls) = faults.fail(nth..nth + 1, &call);
            if calls.len() <= nth {
                result.expect("no system call failed");
                return failed;
            }
            if result.is_ok() {
                undo().expect("it was so before");
                break;
            }
            failed += 1;
        }
    }
    failed
}

#[test]
fn failures_use_nothing_up() {
    let vip = |host| Service::tcp([192, 168, 100, host].into(), 80);
    let server = |host| Destination::new([10, 1, 2, host].into());
    Dataplane::with(
        |options| {
            // Of those that were in use each rests for a minute.
            let few = "10.99.0.0/26".parse().expect("a prefix");
            options.services(SERVICES).destinations(DESTINATIONS).nat4(few)
        },
        |dataplane| {
            let client = &dataplane.client;
            Faults::with(|faults| {
                let entries = state::entries(dataplane);
                let (first, two) = (vip(1), [server(3), server(4)]);
                let failed = fail_often(
                    faults,
                    || client.set_service(&first, &two),
                    || client.remove_service(&first),
                );
                assert!(failed > SERVICES as usize, "{failed}");
                let failed = fail_often(
                    faults,
                    || client.create_destination(&first, &server(5)),
                    || client.remove_destination(&first, &server(5)),
                );
                assert!(failed > DESTINATIONS as usize, "{failed}");
                let failed = fail_often(
                    faults,
                    || client.remove_service(&first),
                    || client.set_service(&first, &two),
                );
                assert!(failed > 0, "{failed}");
                same("all is removed", &entries, &state::entries(dataplane));

                for (host, servers) in [(1, 3..5), (2, 5..7), (3, 7..9)] {
                    let servers: Vec<Destination> = servers.map(server).collect();
                    let () = client.set_service(&vip(host), &servers).expect("it fits");
                }
                let full = |result: xvs::Result<()>| {
                    assert!(matches!(result, Err(Error::LimitExceeded { .. })), "{result:?}");
                };
                full(client.create_service(&vip(4)));
                full(client.create_destination(&vip(3), &server(9)));
            });
        },
    );
}
