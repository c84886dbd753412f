//! What a router says about a tunnel's packets is learned, and told to clients.

use xvs::Destination;
use xvs::Mode;
use xvs::OnExit;
use xvs::Service;
use xvs::Tunnel;

use crate::FOU;
use crate::GUE;
use crate::address;
use crate::balancer;
use crate::lab::Lab;
use crate::lab::vip;
use crate::options;
use crate::serve;
use crate::take_out;
use crate::title;
use crate::upload::upload;
use crate::web::PORT;
use crate::web::Web;

/// A server behind a router.
fn lab() -> Lab {
    let lab = Lab::behind_routers(1, 1);
    let router = &lab.routers[0];
    lab.lb.sh(&format!(
        "ip route add 10.1.9.0/24 via {}
         ip route add fd00:1:9::/64 via {}",
        router.gateways[0], router.gateways[1]
    ));
    lab
}

#[test]
fn the_mtu_of_a_path_is_learned_and_told() {
    let lab = lab();
    let _web = Web::start_all(&lab);
    let _decap = take_out(&lab, Mode::Native);
    let router = &lab.routers[0];
    let balancer = balancer(&lab, options(&lab));
    // An MTU that is learned holds for ten minutes, so each is smaller than the last.
    let mut mtu = 1_500;
    for family in [0, 1] {
        let server = address(&lab.backends[0], family);
        for tunnel in [Tunnel::Ipip, Tunnel::Gre, Tunnel::fou(FOU[0]), Tunnel::gue(GUE)] {
            for number in [0, 1] {
                // The least of IPv6 are 1,280 octets, inside as well as outside.
                mtu -= 10;
                router.namespace.sh(&format!("ip link set eth9 mtu {mtu}"));
                let to = vip(number, PORT);
                let service = Service::tcp(to.ip(), to.port());
                println!("{}, {mtu} octets:", title(tunnel, to.ip(), server));
                let _ = balancer.remove_service(&service);
                serve(&balancer, &service, &[Destination::new(server).tunnel(tunnel)]);
                upload(&lab, &balancer, &service, 300_000, mtu - tunnel.overhead(server));
            }
        }
    }
}

/// The next process goes on with what was learned, before any router tells it again.
#[test]
fn the_mtu_of_a_path_outlives_the_process() {
    let lab = lab();
    let _web = Web::start_all(&lab);
    let _decap = take_out(&lab, Mode::Native);
    let start = || balancer(&lab, options(&lab).persist(OnExit::Keep));
    let mut balancer = start();
    for (number, family, path) in [(0, 0, 1_400), (0, 1, 1_390), (1, 0, 1_380), (1, 1, 1_370)] {
        let to = vip(number, PORT);
        let service = Service::tcp(to.ip(), to.port());
        let server = address(&lab.backends[0], family);
        let tunnel = Tunnel::gue(GUE);
        let mtu = path - tunnel.overhead(server);
        lab.routers[0].namespace.sh(&format!("ip link set eth9 mtu {path}"));
        serve(&balancer, &service, &[Destination::new(server).tunnel(tunnel)]);
        upload(&lab, &balancer, &service, 300_000, mtu);
        drop(balancer);
        balancer = start();
        let told = balancer.destinations(&service).expect("it is there");
        assert_eq!(told[0].mtu, Some(mtu), "{told:?}");
        upload(&lab, &balancer, &service, 300_000, mtu);
    }
    balancer.detach().expect("its pins can be removed");
}
