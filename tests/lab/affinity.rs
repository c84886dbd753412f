//! A UDP client stays with its server while the table changes.

use std::net::UdpSocket;
use std::time::Duration;

use xvs::Destination;
use xvs::Service;

use super::web::serve;
use super::web::usable;
use crate::lab::CLIENTS;
use crate::lab::Lab;
use crate::lab::UDP;
use crate::lab::ip;
use crate::lab::vip;
use crate::server::ask;
use crate::server::udp_from;

const RETRY: Duration = Duration::from_secs(1);

#[test]
fn a_udp_client_stays_with_its_server() {
    let lab = Lab::new(4);
    let balancer = lab.balancer();
    for number in [0, 1] {
        let to = vip(number, UDP);
        let service = Service::udp(to.ip(), to.port());
        serve(&lab, &balancer, &service);
        let any = ip(["0.0.0.0", "::"][number]);
        let sockets: Vec<UdpSocket> =
            lab.client.enter(|| (0..100).map(|_| udp_from(any, 0)).collect());
        let server = |socket: &UdpSocket| {
            let [first, rest @ ..] = [(); 4].map(|()| ask(socket, to, RETRY).expect("an answer"));
            assert!(rest.iter().all(|server| *server == first), "{first}, then {rest:?}");
            first
        };
        let servers = || -> Vec<String> { sockets.iter().map(server).collect() };
        let at_first = servers();
        assert_eq!(servers(), at_first);

        let b = &lab.backends;
        let real = |n: usize| if number == 0 { b[n].v4 } else { b[n].v6 };
        balancer
            .update_destination(&service, &Destination::new(real(0)).disabled(true))
            .expect("b1 is disabled");
        usable(&balancer, &service, 3);
        assert_eq!(servers(), at_first, "after b1 was disabled");
        balancer
            .update_destination(&service, &Destination::new(real(1)).weight(20))
            .expect("b2 gets more");
        assert_eq!(servers(), at_first, "after b2 got more weight");

        balancer.remove_destination(&service, &Destination::new(real(2))).expect("b3 is removed");
        usable(&balancer, &service, 2);
        let now = servers();
        for (before, after) in at_first.iter().zip(&now) {
            match before.as_str() {
                "b3" => assert!(after == "b2" || after == "b4", "{after} is not usable"),
                _ => assert_eq!(before, after, "after b3 was removed"),
            }
        }
        assert_eq!(servers(), now, "the moved ones stay where they are");
    }
}

#[test]
fn a_sticky_client_stays_on_every_port() {
    let lab = Lab::new(4);
    let balancer = lab.balancer();
    for (number, first) in [(0, "10.1.2.1"), (1, "fd00:1:2::1")] {
        let to = vip(number, UDP);
        serve(&lab, &balancer, &Service::udp(to.ip(), to.port()).sticky(true));
        let mut all = Vec::new();
        for client in 0..CLIENTS {
            let address = ip(&format!("{first}{client:02}"));
            let mut servers: Vec<String> = lab.client.enter(|| {
                (0..8)
                    .map(|_| ask(&udp_from(address, 0), to, RETRY).expect("a server answers"))
                    .collect()
            });
            servers.dedup();
            assert_eq!(servers.len(), 1, "{address}: {servers:?}");
            all.append(&mut servers);
        }
        all.sort();
        all.dedup();
        assert!(all.len() >= 2, "all clients on {all:?}");
    }
}
