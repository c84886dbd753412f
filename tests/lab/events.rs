//! What happens is told to the application and to any other process.

use std::os::fd::BorrowedFd;
use std::time::Duration;
use std::time::SystemTime;

use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use xvs::Destination;
use xvs::Event;
use xvs::Instance;
use xvs::Service;
use xvs::Since;

use super::web::usable;
use crate::lab::Lab;
use crate::lab::vip;
use crate::server::PATIENCE;

/// Events that the log keeps.
const KEPT: u64 = 1_024;

fn is_readable(file: BorrowedFd<'_>, timeout: Duration) -> bool {
    let timeout = PollTimeout::try_from(timeout).expect("it is short");
    let mut files = [PollFd::new(file, PollFlags::POLLIN)];
    poll(&mut files, timeout).expect("it can be asked") == 1
}

#[test]
fn events_reach_the_application_and_others_alike() {
    let lab = Lab::new(1);
    let balancer = lab.balancer();
    let service = Service::tcp(vip(0, 80).ip(), 80);
    let other = Instance::open(lab.bpffs(), "lab").expect("it is pinned");
    let before = SystemTime::now();
    let (mut all, mut fresh) = (other.events(Since::Oldest), other.events(Since::Now));

    let real = Destination::new(lab.backends[0].v4);
    balancer.set_service(&service, std::slice::from_ref(&real)).expect("it is made");
    usable(&balancer, &service, 1);
    let mut told = Vec::new();
    let rebuilt = Event::TableRebuilt { service: service.key(), destinations: 1 };
    while !told.contains(&rebuilt) {
        let events = balancer.wait_events(PATIENCE);
        assert!(!events.is_empty(), "it is resolved, then the table is rebuilt: {told:?}");
        told.extend(events);
    }
    let resolved = Event::Resolved { service: service.key(), address: real.address };
    assert!(told.contains(&resolved), "{told:?}");

    assert!(balancer.events().is_empty() && !is_readable(balancer.events_fd(), Duration::ZERO));
    balancer.update_destination(&service, &real.clone().disabled(true)).expect("it is there");
    assert!(is_readable(balancer.events_fd(), PATIENCE));
    told.extend(balancer.events());
    let empty = Event::TableRebuilt { service: service.key(), destinations: 0 };
    assert!(told.contains(&empty), "{told:?}");

    // All that was told so far, and what may have happened since.
    let fresh = fresh.read();
    let logged = all.read();
    assert!(logged.iter().map(|(_, event)| event).take(told.len()).eq(&told), "{logged:?}");
    assert!(logged.iter().any(|(time, _)| *time >= before && *time <= SystemTime::now()));
    let shared = logged.windows(fresh.len()).any(|window| window == fresh);
    assert!(!fresh.is_empty() && shared, "nobody takes {fresh:?} away from others");
    assert!(fresh.iter().any(|(_, event)| *event == empty));
}

#[test]
fn a_reader_that_is_too_slow_is_told_how_much_it_missed() {
    let lab = Lab::new(1);
    let options = lab.options().table_size(251);
    let balancer = lab.balancer_with(options, &["eth0"]).expect("it starts");
    let service = Service::tcp(vip(0, 80).ip(), 80);
    let real = Destination::new(lab.backends[0].v4);
    balancer.set_service(&service, std::slice::from_ref(&real)).expect("it is made");
    usable(&balancer, &service, 1);
    let other = Instance::open(lab.bpffs(), "lab").expect("it is pinned");
    let mut slow = other.events(Since::Now);
    let rebuilt = Event::TableRebuilt { service: service.key(), destinations: 1 };
    for number in 0..KEPT + 7 {
        let weight = if number % 2 == 0 { 2 } else { 1 };
        balancer.update_destination(&service, &real.clone().weight(weight)).expect("it is there");
    }
    let read: Vec<Event> = slow.read().into_iter().map(|(_, event)| event).collect();
    assert_eq!(read[0], Event::Dropped(7), "{:?}", &read[..2]);
    assert_eq!(read.len() as u64, 1 + KEPT);
    assert!(read[1..].iter().all(|event| *event == rebuilt));
    let kept = other.events(Since::Oldest).read();
    assert!(kept.iter().map(|(_, event)| event).eq(&read[1..]), "no gap, nothing twice");

    // The log is the instance's: the next one begins anew.
    drop(balancer);
    assert!(Instance::open(lab.bpffs(), "lab").is_err(), "its pins went with it");
    let _next = lab.balancer();
    let next = Instance::open(lab.bpffs(), "lab").expect("it is pinned");
    let told = next.events(Since::Oldest).read();
    assert!(!told.iter().any(|(_, event)| *event == rebuilt), "{told:?}");
}
