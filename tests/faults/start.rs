//! Starting a client, taking over what one has left, and dropping it.

use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

use xvs::Client;
use xvs::Destination;
use xvs::Instance;
use xvs::OnExit;
use xvs::Options;
use xvs::Service;
use xvs::Tunnel;

use crate::common::dataplane::Dataplane;
use crate::common::dataplane::wait_for;
use crate::common::random::Random;
use crate::common::random::share;
use crate::host::PORTS;
use crate::host::host;
use crate::host::packets;
use crate::host::restored;
use crate::injection::Call;
use crate::injection::Faults;
use crate::state;
use crate::state::same;

/// How long a test goes on with other calls.
const TIME: Duration = Duration::from_secs(40);
/// How many calls fail at most, one at a time.
const TIMES: usize = 400;

/// The calls that are to fail, by their place: of each kind the first two and the
/// last, then others by lot.
fn chosen(random: &mut Random, calls: &[Call]) -> Vec<usize> {
    let mut kinds: BTreeMap<Call, Vec<usize>> = BTreeMap::new();
    for (place, call) in calls.iter().enumerate() {
        kinds.entry(*call).or_default().push(place);
    }
    println!("{} system calls", calls.len());
    for (call, places) in &kinds {
        println!("{call}: {} times", places.len());
    }
    let mut chosen: Vec<usize> =
        kinds.values().flat_map(|all| all.iter().take(2).chain(all.last())).copied().collect();
    chosen.sort_unstable();
    chosen.dedup();
    // Kinds come in no order, should there be no time for all of them.
    for place in (1..chosen.len()).rev() {
        chosen.swap(place, random.below(place + 1));
    }
    chosen.extend((0..TIMES).map(|_| random.below(calls.len())));
    chosen.truncate(share(TIMES));
    chosen
}

/// Lets some of an action's calls fail, each once, as long as there is time.
fn each(calls: &[Call], mut action: impl FnMut(usize)) {
    let mut random = Random::from_environment(0x5eed_0011);
    let (start, mut times) = (Instant::now(), 0);
    for nth in chosen(&mut random, calls) {
        if start.elapsed() > TIME {
            break;
        }
        action(nth);
        times += 1;
    }
    println!("{times} of them failed, in {:?}", start.elapsed());
    assert!(times > 0, "calls are made and fail");
}

fn start(options: &Options) -> xvs::Result<Client> {
    Client::with_options(options.clone(), &PORTS)
}

/// Two services, with servers behind tunnels and without.
fn serve(client: &Client) {
    let v4 = Service::tcp([192, 168, 100, 1].into(), 80);
    let v6 = Service::udp([0xfd00, 0x100, 0, 0, 0, 0, 0, 1].into(), 53);
    let direct = |net, host| Destination::new([10, 1, net, host].into());
    let tunnel = |net, host| {
        Destination::new([0xfd00, 1, net, 0, 0, 0, 0, host].into()).tunnel(Tunnel::gue(6080))
    };
    for service in [v4, v6] {
        let all = [direct(2, 3), direct(3, 4), tunnel(2, 5), tunnel(3, 6)];
        let () = client.set_service(&service, &all).expect("it fits");
        wait_for("usable destinations", &all.len(), || {
            client.service(&service).expect("it is there").usable
        });
    }
}

fn frames() -> impl Iterator<Item = Vec<u8>> {
    state::firsts().chain(state::laters())
}

/// What readers are told of services.
fn told(options: &Options) -> Vec<String> {
    let instance = Instance::open(&options.bpffs, &options.instance).expect("it runs");
    let all = instance.all().expect("services").into_iter();
    let lines = all.flat_map(|(service, destinations)| {
        let service = format!("{:?} {}", service.service, service.status);
        let destination = |d: xvs::DestinationExtended| {
            format!("{:?} {} {:?} {:?}", d.destination, d.status, d.mac, d.mtu)
        };
        [service].into_iter().chain(destinations.into_iter().map(destination)).collect::<Vec<_>>()
    });
    lines.collect()
}

/// Makes a call fail on the way to a client; whether it came to one.
fn fail(faults: &Faults, nth: usize, options: &Options) -> (String, Result<Client, xvs::Error>) {
    let (result, calls) = faults.fail(nth..nth + 1, || start(options));
    let what = match (calls.get(nth), &result) {
        (Some(call), result) => format!("{call} ({nth}): {:?}", result.as_ref().err()),
        (None, Err(error)) => panic!("no system call failed ({nth}): {error:?}"),
        (None, Ok(_)) => format!("({nth}): no system call failed"),
    };
    (what, result)
}

#[test]
fn a_start_is_whole_or_leaves_nothing() {
    Dataplane::without(|options, _peer| {
        Faults::with(|faults| {
            let before = host(&options);
            let (client, calls) = faults.fail(0..0, || start(&options));
            drop(client.expect("nothing fails"));
            restored("after a client", &before, &options);
            each(&calls, |nth| {
                let (what, result) = fail(faults, nth, &options);
                if let Ok(client) = result {
                    serve(&client);
                    let seen = packets(frames());
                    drop(client);
                    let unserved = start(&options).expect("nothing fails");
                    assert_ne!(seen, packets(frames()), "{what}: nothing is forwarded");
                    drop(unserved);
                }
                restored(&what, &before, &options);
            });
        });
    });
}

#[test]
fn what_is_taken_over_goes_on_in_any_case() {
    Dataplane::without(|options, _peer| {
        let options = options.persist(OnExit::Keep);
        Faults::with(|faults| {
            let host_before = host(&options);
            let client = start(&options).expect("nothing fails");
            serve(&client);
            // The flows are stored from now on.
            let _ = packets(frames());
            drop(client);
            let (seen, told_before) = (packets(frames()), told(&options));
            let (client, calls) = faults.fail(0..0, || start(&options));
            drop(client.expect("nothing fails"));
            each(&calls, |nth| {
                let (what, result) = fail(faults, nth, &options);
                same(&what, &seen, &packets(frames()));
                same(&what, &told_before, &told(&options));
                drop(result);
                same(&format!("dropped: {what}"), &seen, &packets(frames()));
            });
            let client = start(&options).expect("nothing fails");
            same("at the end", &seen, &packets(frames()));
            client.detach().expect("nothing fails");
            restored("detached", &host_before, &options);
        });
    });
}

/// Lets each system call of the end of a client fail in turn: the next one starts, and
/// leaves nothing.
fn ends(options: &Options, end: impl Fn(Client) + Sync) {
    Faults::with(|faults| {
        let before = host(options);
        let client = start(options).expect("nothing fails");
        let ((), calls) = faults.fail(0..0, || end(client));
        restored("after a client", &before, options);
        each(&calls, |nth| {
            let client = start(options).expect("nothing fails");
            serve(&client);
            let ((), calls) = faults.fail(nth..nth + 1, || end(client));
            let what = calls.get(nth).map(|call| format!("{call} ({nth})")).unwrap_or_default();
            let next = start(options);
            let next = next.unwrap_or_else(|error| panic!("after {what}: {error}"));
            serve(&next);
            end(next);
            restored(&what, &before, options);
        });
    });
}

#[test]
fn the_next_start_works_after_a_drop_that_fails() {
    Dataplane::without(|options, _peer| ends(&options, drop));
}

#[test]
fn the_next_start_works_after_a_detachment_that_fails() {
    let detach = |client: Client| drop(client.detach());
    Dataplane::without(|options, _peer| ends(&options.persist(OnExit::Keep), detach));
}
