//! What is told of flows, and of which.

use std::cell::RefCell;
use std::net::IpAddr;
use std::net::SocketAddr;

use xvs::FlowAge;
use xvs::FlowFilter;
use xvs::FlowState;
use xvs::Prefix;
use xvs::Service;

use crate::VIP4;
use crate::client;
use crate::common::dataplane::Dataplane;
use crate::common::dataplane::wait_for;
use crate::common::frame::ACK;
use crate::common::frame::FIN;
use crate::send;
use crate::servers;

/// Filters pick flows by all that they name, and a flow's age is told as far as it
/// is known.
#[test]
fn flows_are_told_by_filter_and_with_their_age() {
    Dataplane::with(
        |options| options.flows(1_024),
        |dataplane| {
            let [web, mail] = [80, 25].map(|port| Service::tcp(VIP4, port));
            dataplane.serve(&web, &servers([3, 4]));
            dataplane.serve(&mail, &servers([4]));
            let all: Vec<SocketAddr> = (0..20).map(|n| client(VIP4, n, 1)).collect();
            for client in &all {
                for service in [&web, &mail] {
                    // Flows of one packet each would be a flood.
                    send(dataplane, *client, service, ACK);
                    send(dataplane, *client, service, ACK);
                }
            }
            send(dataplane, all[0], &web, ACK | FIN);
            let instance = dataplane.client.instance();
            let told = |filter: FlowFilter| {
                let flows = instance.flows_matching(&filter, usize::MAX).expect("flows");
                let counts = instance.count_flows(&filter).expect("flows");
                assert_eq!(counts.values().sum::<u64>(), flows.len() as u64, "{filter:?}");
                assert!(flows.iter().all(|flow| filter.matches(flow)), "{filter:?}: {flows:?}");
                flows
            };
            let every = FlowFilter::new();
            assert_eq!(told(every).len(), 40);
            assert_eq!(instance.flows_matching(&every, 7).expect("flows").len(), 7);
            assert_eq!(told(every.service(mail.key())).len(), 20);
            let server = |host| IpAddr::from([10, 1, 2, host]);
            let [three, four] = [3, 4].map(|host| told(every.destination(server(host))).len());
            assert!(three > 0 && four > 20 && three + four == 40, "{three}, {four}");
            let counts = instance.count_flows(&every.service(web.key())).expect("flows");
            assert_eq!(counts[&(web.key(), Some(server(3)))], three as u64);
            assert_eq!(told(every.client("10.64.0.0/29".parse().expect("a prefix"))).len(), 16);
            let closing = told(every.state(FlowState::Closing));
            assert!(closing.len() == 1 && closing[0].source == all[0], "{closing:?}");
            assert_eq!(told(every.state(FlowState::Open).service(web.key())).len(), 19);

            let one = every.client(Prefix::containing(all[1].ip(), 32).expect("a prefix"));
            let age = || told(one.service(web.key()))[0].age;
            let ages = RefCell::new(vec![age()]);
            wait_for("whether it is as old as can be told", &true, || {
                send(dataplane, all[1], &web, ACK);
                ages.borrow_mut().push(age());
                age() == FlowAge::Often
            });
            let mut ages = ages.into_inner();
            ages.dedup();
            // The first two packets may have come in two ticks.
            let order = [FlowAge::Once, FlowAge::Twice, FlowAge::Thrice, FlowAge::Often];
            assert!(order.ends_with(&ages) && ages.len() >= 3, "{ages:?}");
            assert_eq!(told(one.service(mail.key()))[0].age.max(FlowAge::Twice), FlowAge::Twice);
        },
    );
}
