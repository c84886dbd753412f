//! The VLAN table follows the network and the configuration, and no flow is lost.

use std::time::Duration;
use std::time::Instant;

use xvs::Client;
use xvs::Config;
use xvs::Event;
use xvs::Service;
use xvs::VlanInfo;
use xvs::VlanStatus;

use super::web::serve;
use super::web::usable;
use crate::lab::Lab;
use crate::lab::VIPS;
use crate::lab::ip;
use crate::lab::vip;
use crate::lab::wait;
use crate::server::Connection;
use crate::server::PATIENCE;
use crate::xdp;

fn vlan(balancer: &Client, prefix: &str) -> VlanInfo {
    let prefix = prefix.parse().expect("a prefix");
    let vlans = balancer.instance().vlans().expect("it runs");
    vlans.into_iter().find(|vlan| vlan.prefix == prefix).expect("it is configured")
}

/// How long it takes until a change of the balancer's network, told by a command
/// that has ended, has made this of a VLAN.
fn followed(
    lab: &Lab,
    balancer: &Client,
    prefix: &str,
    change: &str,
    is: impl Fn(&VlanInfo) -> bool,
) -> Duration {
    lab.lb.sh(change);
    let start = Instant::now();
    wait(change, PATIENCE, || is(&vlan(balancer, prefix)).then_some(()));
    start.elapsed()
}

#[test]
fn the_table_follows_the_network() {
    const V4: &str = "10.1.2.0/24";
    const V6: &str = "fd00:1:2::/64";
    let lab = Lab::with_two_subnets(0);
    let options = lab.options().vlan(9, "10.1.9.0/24".parse().expect("a prefix"));
    let options = options.vlan(7, "10.7.0.0/16".parse().expect("a prefix"));
    let balancer = &lab.balancer_with(options, &["eth0"]).expect("it starts");
    let elsewhere = vlan(balancer, "10.1.9.0/24");
    assert_eq!((elsewhere.status, elsewhere.interface), (VlanStatus::Elsewhere, None));
    assert_eq!(vlan(balancer, "10.7.0.0/16").status, VlanStatus::NoInterface);
    let told = balancer.events();
    let missing = Event::Vlan {
        vlan: 7,
        prefix: "10.7.0.0/16".parse().expect("a prefix"),
        status: VlanStatus::NoInterface,
    };
    assert!(told.contains(&missing), "{told:?}");

    let seen = vlan(balancer, V4);
    assert_eq!((seen.status, seen.id, seen.mtu), (VlanStatus::Usable, 1, Some(1500)));
    assert_eq!((seen.address, seen.gateway), (Some(ip("10.1.2.1")), None));

    let gateway = |address: &str| {
        let address = Some(ip(address));
        move |vlan: &VlanInfo| vlan.gateway == address
    };
    let mut times = Vec::new();
    let mut follow = |prefix, change, is: &dyn Fn(&VlanInfo) -> bool| {
        times.push(followed(&lab, balancer, prefix, change, is));
    };
    follow(V4, "ip route add default via 10.1.2.254 metric 10", &gateway("10.1.2.254"));
    follow(V4, "ip route add default via 10.1.2.253 metric 5", &gateway("10.1.2.253"));
    follow(V4, "ip route replace default via 10.1.2.252 metric 5", &gateway("10.1.2.252"));
    follow(V4, "ip route del default metric 5", &gateway("10.1.2.254"));
    follow(V6, "ip route add default via fd00:1:2::fe dev eth0", &gateway("fd00:1:2::fe"));
    follow(V6, "ip route del default via fd00:1:2::fe", &|vlan| vlan.gateway.is_none());
    let several = "ip route add default metric 1 nexthop via 10.1.9.254 nexthop via 10.1.2.251";
    follow(V4, several, &gateway("10.1.2.251"));

    follow(V4, "ip link set eth0 mtu 3000", &|vlan| vlan.mtu == Some(3000));
    follow(V4, "ip link set eth0 mtu 1500", &|vlan| vlan.mtu == Some(1500));
    // IPv6 leaves such an interface by itself, IPv4 does not.
    follow(V6, "ip link set eth0 mtu 1200", &|vlan| vlan.status == VlanStatus::MtuTooSmall);
    assert_eq!(vlan(balancer, V4).status, VlanStatus::Usable);
    let back = "ip link set eth0 mtu 1500 && ip addr add fd00:1:2::1/64 dev eth0 nodad";
    follow(V6, back, &|vlan| vlan.status == VlanStatus::Usable && vlan.address.is_some());

    let second = "ip addr add 10.7.0.1/16 dev eth0";
    follow("10.7.0.0/16", second, &|vlan| vlan.status == VlanStatus::Usable);
    follow(V4, "ip link set eth0 down", &|vlan| vlan.status == VlanStatus::Down);
    assert_eq!(vlan(balancer, V4).gateway, None, "its routes went with it");
    follow(V4, "ip link set eth0 up", &|vlan| vlan.status == VlanStatus::Usable);
    follow(V4, "ip link del eth0", &|vlan| vlan.status == VlanStatus::NoInterface);
    times.sort_unstable();
    let median = times[times.len() / 2];
    println!("changes are followed in {median:?} (median), {:?} (longest)", times[times.len() - 1]);
    assert!(median <= Duration::from_millis(50), "{times:?}");
}

/// All connections held over a change of what is configured, or of interfaces.
fn held(lab: &Lab, change: impl FnOnce()) {
    let mut held: Vec<Connection> = lab.client.enter(|| {
        let open = |number| Connection::open(vip(number, 80), PATIENCE).expect("a server answers");
        (0..40).map(|i| open(i % 2)).collect()
    });
    change();
    for connection in &mut held {
        connection.exchange(b"still there?").expect("the same server goes on");
    }
}

fn serve_both(lab: &Lab, balancer: &Client) -> [Service; 2] {
    [0, 1].map(|number| {
        let service = Service::tcp(ip(VIPS[number]), 80);
        serve(lab, balancer, &service);
        service
    })
}

#[test]
fn a_new_configuration_moves_everything_and_loses_no_flow() {
    let lab = Lab::new(3);
    let balancer = lab.balancer();
    let services = serve_both(&lab, &balancer);
    held(&lab, || {
        let vlan = |config: Config, id, prefix: &str| config.vlan(id, prefix.parse().expect("one"));
        // Other ids, and prefixes that were one.
        let split = ["10.1.2.0/25", "10.1.2.128/25", "fd00:1:2::/64"];
        let config = split.into_iter().fold(Config::default(), |c, prefix| vlan(c, 30, prefix));
        balancer.set_config(config.clone().mtu(30, 1400)).expect("it is well");
        assert_eq!(balancer.config(), config.mtu(30, 1400));
        let read = balancer.instance().config().expect("it runs");
        assert_eq!(read, balancer.config());
        services.iter().for_each(|service| usable(&balancer, service, 3));
        assert_eq!(super::vlans::vlan(&balancer, "10.1.2.0/25").mtu, Some(1400));
    });
}

#[test]
fn an_interface_that_is_made_anew_is_attached_to_again() {
    let lab = Lab::new(2);
    let balancer = lab.balancer();
    let services = serve_both(&lab, &balancer);
    held(&lab, || {
        lab.lb.sh("ip link del eth0");
        services.iter().for_each(|service| usable(&balancer, service, 0));
        lab.plug_balancer();
        services.iter().for_each(|service| usable(&balancer, service, 2));
        wait("the program is on it", PATIENCE, || xdp::attached(&lab.lb, "eth0"));
        let told = Event::Attached { interface: "eth0".to_owned() };
        wait("that is told", PATIENCE, || balancer.events().contains(&told).then_some(()));
    });
    let info = balancer.info().expect("it runs");
    let index = lab.lb.sh("ip -o link show eth0");
    let index = index.split(':').next().expect("it has an index").trim();
    assert_eq!(info.interfaces[0].index.to_string(), index);
    drop(balancer);
    assert_eq!(xdp::attached(&lab.lb, "eth0"), None);
}
