use super::*;
use crate::Config;
use crate::net::Neighbour;
use crate::net::NeighbourState;
use crate::net::Stacked;
use crate::net::sample::ROUTER;
use crate::net::sample::add_route;
use crate::net::sample::bonded;
use crate::net::sample::hop;
use crate::net::sample::link;
use crate::net::sample::snapshot;
use crate::vlans;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The address of the neighbour with this number.
fn mac(number: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, number])
}

/// A network to find ways in, each in words.
struct Network {
    config: Config,
    ports: Vec<Port>,
    snapshot: Snapshot,
    last: Vec<Way>,
    vips: Vec<IpAddr>,
}

impl Network {
    /// `eth0` and `eth1`, both ports and running, and `eth2`, which is none.
    fn new() -> Self {
        let own = [
            (1, "10.7.7.7/32"),
            (2, "10.1.2.1/24"),
            (2, "2001:db8::1/64"),
            (2, "fe80::1/64"),
            (3, "10.1.3.1/24"),
            (3, "fe80::1/64"),
            (4, "10.1.4.1/24"),
        ];
        let mut snapshot = snapshot(&own);
        snapshot.links.get_mut(&4).unwrap().running = true;
        let mut ports = ports::resolve(&["eth0", "eth1"], &snapshot).unwrap();
        ports.iter_mut().for_each(|port| port.attached = vec![2, 3]);
        let config = Config::default()
            .vlan(1, "10.1.2.0/24".parse().unwrap())
            .vlan(1, "2001:db8::/64".parse().unwrap());
        Self { config, ports, snapshot, last: Vec::new(), vips: Vec::new() }
    }

    fn with(mut self, prefix: &str, metric: u32, hops: &[Hop]) -> Self {
        add_route(&mut self.snapshot, prefix, metric, hops);
        self
    }

    fn configured(mut self, prefix: &str, vlan: u16, gateway: &str) -> Self {
        self.config = self.config.route(prefix.parse().unwrap(), vlan, ip(gateway));
        self
    }

    /// Neighbours with their numbers as addresses.
    fn knows(mut self, neighbours: &[(u32, &str, u8)]) -> Self {
        for (interface, address, number) in neighbours {
            self.hears(*interface, address, NeighbourState::Reachable, *number);
        }
        self
    }

    fn hears(&mut self, interface: u32, address: &str, state: NeighbourState, number: u8) {
        let neighbour = Neighbour { mac: Some(mac(number)), state, managed: true };
        self.snapshot.neighbours.insert((interface, ip(address)), neighbour);
    }

    fn prefixes(&self) -> Vec<VlanPrefix> {
        let ports: Vec<u32> = self.ports.iter().map(|port| port.index).collect();
        vlans::resolve(&self.config, &ports, &self.snapshot, &[])
    }

    fn ways(&self, server: &str) -> Result<Vec<Way>, Unreachable> {
        let (routes, prefixes) = (&self.config.routes, self.prefixes());
        let is_vip = |address| self.vips.contains(&address);
        ways(ip(server), &self.last, routes, &prefixes, &self.ports, &self.snapshot, &is_vip)
    }

    /// Interface, neighbour and our address of each way, or why there is none.
    fn words(&self, server: &str) -> String {
        match self.ways(server) {
            Ok(ways) => {
                let words = |w: &Way| format!("{} {} {}", w.hop.interface, w.neighbour, w.local);
                ways.iter().map(words).collect::<Vec<_>>().join(", ")
            }
            Err(unreachable) => format!("{:?}", unreachable.status),
        }
    }

    fn neighbours(&self, server: &str) -> String {
        let (routes, prefixes) = (&self.config.routes, self.prefixes());
        let all = neighbours(ip(server), routes, &prefixes, &self.ports, &self.snapshot);
        let words = |((interface, address), resolved)| format!("{interface} {address} {resolved}");
        all.into_iter().map(words).collect::<Vec<_>>().join(", ")
    }
}

const DEFAULT: &str = "0.0.0.0/0";

/// What everybody's neighbours are.
const KNOWN: [(u32, &str, u8); 10] = [
    (2, "10.1.2.9", 9),
    (2, "10.1.2.254", 1),
    (2, "10.1.2.253", 2),
    (3, "10.1.3.254", 3),
    (3, "10.9.9.9", 4),
    (2, "fe80::fe", 5),
    (3, "fe80::fe", 6),
    (2, "2001:db8::fe", 7),
    (4, "10.1.4.254", 8),
    (2, "10.1.2.1", 10),
];

#[test]
fn servers_are_reached_by_the_right_way() {
    let new = || Network::new().knows(&KNOWN);
    let one = |prefix, gateway| new().with(prefix, 0, &[hop(2, gateway)]);
    let both = [hop(3, "10.1.3.254"), hop(2, "10.1.2.254")];
    let own_source = Hop { source: Some(ip("10.7.7.7")), ..hop(2, "10.1.2.254") };
    let no_source = Hop { source: Some(ip("10.7.7.8")), ..hop(2, "10.1.2.254") };
    let by_254 = "2 10.1.2.254 10.1.2.1";
    let by_253 = "2 10.1.2.253 10.1.2.1";
    let by_eth1 = "3 10.1.3.254 10.1.3.1";
    let six = "2001:db8:9::9";
    let cases = [
        ("on-link in a VLAN", new(), "10.1.2.9", "2 10.1.2.9 10.1.2.1"),
        (
            "in a VLAN whatever routes say",
            new().with("10.1.2.9/32", 0, &[hop(3, "10.1.3.254")]),
            "10.1.2.9",
            "2 10.1.2.9 10.1.2.1",
        ),
        ("no route", new(), "10.9.9.9", "NoRoute"),
        ("the other family's", one("::/0", "fe80::fe"), "10.9.9.9", "NoRoute"),
        ("our own", one(DEFAULT, "10.1.2.254"), "10.1.3.1", "NoNeighbour"),
        ("by default", one(DEFAULT, "10.1.2.254"), "10.9.9.9", by_254),
        (
            "the longest prefix",
            one(DEFAULT, "10.1.2.254").with("10.9.0.0/16", 9, &[hop(3, "10.1.3.254")]).with(
                "10.9.8.0/24",
                0,
                &[hop(2, "10.1.2.253")],
            ),
            "10.9.9.9",
            by_eth1,
        ),
        (
            "the least metric",
            new()
                .with(DEFAULT, 20, &[hop(3, "10.1.3.254")])
                .with(DEFAULT, 10, &[hop(2, "10.1.2.253")])
                .with(DEFAULT, 30, &[hop(2, "10.1.2.254")]),
            "10.9.9.9",
            by_253,
        ),
        (
            "unreachable stops",
            one(DEFAULT, "10.1.2.254").with("10.9.0.0/16", 0, &[]),
            "10.9.9.9",
            "NoRoute",
        ),
        (
            "unreachable with a greater metric",
            one("10.9.0.0/16", "10.1.2.254").with("10.9.0.0/16", 5, &[]),
            "10.9.9.9",
            by_254,
        ),
        (
            "configured",
            new().with("10.9.9.0/24", 0, &both).configured("10.0.0.0/8", 1, "10.1.2.253"),
            "10.9.9.9",
            by_253,
        ),
        (
            "configured, where the kernel says unreachable",
            new().with("10.9.9.9/32", 0, &[]).configured("10.0.0.0/8", 1, "10.1.2.253"),
            "10.9.9.9",
            by_253,
        ),
        (
            "the longest prefix of those configured",
            new()
                .configured("10.9.0.0/16", 1, "10.1.2.253")
                .configured("10.9.9.0/24", 1, "10.1.2.254")
                .configured("10.0.0.0/8", 1, "10.1.2.252"),
            "10.9.9.9",
            by_254,
        ),
        (
            "configured, and the gateway silent",
            one(DEFAULT, "10.1.2.254").configured(DEFAULT, 1, "10.1.2.77"),
            "10.9.9.9",
            "Resolving",
        ),
        (
            "configured for others",
            one(DEFAULT, "10.1.2.254").configured("10.8.0.0/16", 1, "10.1.2.253"),
            "10.9.9.9",
            by_254,
        ),
        (
            "configured, IPv6",
            new().configured("::/0", 1, "2001:db8::fe"),
            six,
            "2 2001:db8::fe 2001:db8::1",
        ),
        (
            "configured, link-local",
            new().configured("::/0", 1, "fe80::fe"),
            six,
            "2 fe80::fe 2001:db8::1",
        ),
        (
            "configured, IPv4 by IPv6",
            new().configured(DEFAULT, 1, "2001:db8::fe"),
            "10.9.9.9",
            "2 2001:db8::fe 10.1.2.1",
        ),
        ("a link-local gateway", one("::/0", "fe80::fe"), six, "2 fe80::fe 2001:db8::1"),
        ("a global IPv6 gateway", one("::/0", "2001:db8::fe"), six, "2 2001:db8::fe 2001:db8::1"),
        ("IPv4 by an IPv6 gateway", one(DEFAULT, "fe80::fe"), "10.9.9.9", "2 fe80::fe 10.1.2.1"),
        (
            "no address but a link-local one",
            new().with("::/0", 0, &[hop(3, "fe80::fe")]),
            six,
            "NoAddress",
        ),
        (
            "the route's own source",
            new().with(DEFAULT, 0, &[own_source]),
            "10.9.9.9",
            "2 10.1.2.254 10.7.7.7",
        ),
        ("a source that is gone", new().with(DEFAULT, 0, &[no_source]), "10.9.9.9", by_254),
        (
            "all next hops",
            new().with(DEFAULT, 0, &both),
            "10.9.9.9",
            "2 10.1.2.254 10.1.2.1, 3 10.1.3.254 10.1.3.1",
        ),
        (
            "all but the one that is not known",
            new().with(DEFAULT, 0, &[hop(2, "10.1.2.77"), both[0]]),
            "10.9.9.9",
            by_eth1,
        ),
        (
            "all but the one that is no port's",
            new().with(DEFAULT, 0, &[hop(4, "10.1.4.254"), both[1]]),
            "10.9.9.9",
            by_254,
        ),
        (
            "several IPv6 routes",
            one("::/0", "fe80::fe").with("::/0", 0, &[hop(2, "2001:db8::fe")]),
            six,
            "2 2001:db8::fe 2001:db8::1, 2 fe80::fe 2001:db8::1",
        ),
        ("no port's", new().with(DEFAULT, 0, &[hop(4, "10.1.4.254")]), "10.9.9.9", "NoInterface"),
        ("gone", new().with(DEFAULT, 0, &[hop(9, "10.1.2.254")]), "10.9.9.9", "NoInterface"),
        (
            "on-link by a route",
            new().with("10.9.0.0/16", 0, &[hop(3, "")]),
            "10.9.9.9",
            "3 10.9.9.9 10.1.3.1",
        ),
        ("by ourselves", one(DEFAULT, "10.1.2.1"), "10.9.9.9", "NoNeighbour"),
        (
            "what lacks least is told",
            new().with(DEFAULT, 0, &[hop(4, "10.1.4.254"), hop(2, "10.1.2.77")]),
            "10.9.9.9",
            "Resolving",
        ),
    ];
    for (what, network, server, expected) in cases {
        network.config.validate().unwrap();
        assert_eq!(network.words(server), expected, "{what}");
    }
}

/// Servers list the address that tunnels' packets come from.
#[test]
fn packets_are_sent_from_an_address_that_lasts() {
    use Rank::{Primary, Secondary, Unfit};
    const FOUR: &str = "10.9.9.9";
    const SIX: &str = "2001:db8:9::9";
    const NEAR: &str = "10.1.2.9";
    type Case = (
        &'static str,
        &'static str,
        &'static [(&'static str, Rank)],
        &'static [&'static str],
        &'static str,
        &'static str,
    );
    // What it is, the server, our addresses, those that are VIPs, the one used so far,
    // the one to use.
    let cases: [Case; 23] = [
        // a: no temporary, deprecated, tentative or duplicate one.
        (
            "unfit",
            SIX,
            &[("2001:db8::1/64", Unfit), ("2001:db8::2/64", Primary)],
            &[],
            "",
            "2001:db8::2",
        ),
        (
            "unfit in a VLAN",
            NEAR,
            &[("10.1.2.1/24", Unfit), ("10.1.2.2/24", Primary)],
            &[],
            "",
            "10.1.2.2",
        ),
        ("unfit alone", SIX, &[("2001:db8::1/64", Unfit)], &[], "", ""),
        ("unfit alone in a VLAN", NEAR, &[("10.1.2.1/24", Unfit)], &[], "", ""),
        (
            "unfit by now",
            SIX,
            &[("2001:db8::1/64", Primary), ("2001:db8::2/64", Unfit)],
            &[],
            "2001:db8::2",
            "2001:db8::1",
        ),
        ("unfit by now, and alone", FOUR, &[("10.1.2.1/24", Unfit)], &[], "10.1.2.1", ""),
        (
            "fit in another prefix",
            FOUR,
            &[("10.1.2.1/24", Unfit), ("10.7.7.1/24", Primary)],
            &[],
            "",
            "10.7.7.1",
        ),
        // b: the one that was used.
        (
            "a lower secondary one",
            FOUR,
            &[("10.1.2.1/24", Secondary), ("10.1.2.2/24", Primary)],
            &[],
            "",
            "10.1.2.2",
        ),
        (
            "the same, used",
            FOUR,
            &[("10.1.2.1/24", Secondary), ("10.1.2.2/24", Primary)],
            &[],
            "10.1.2.2",
            "10.1.2.2",
        ),
        (
            "used, secondary",
            FOUR,
            &[("10.1.2.1/24", Primary), ("10.1.2.2/24", Secondary)],
            &[],
            "10.1.2.2",
            "10.1.2.2",
        ),
        (
            "used, in a VLAN",
            NEAR,
            &[("10.1.2.1/24", Primary), ("10.1.2.2/24", Secondary)],
            &[],
            "10.1.2.2",
            "10.1.2.2",
        ),
        (
            "a lower IPv6 one",
            SIX,
            &[("2001:db8::1/64", Primary), ("2001:db8::2/64", Primary)],
            &[],
            "2001:db8::2",
            "2001:db8::2",
        ),
        (
            "used, in another prefix",
            FOUR,
            &[("10.1.2.1/24", Primary), ("10.7.7.1/24", Primary)],
            &[],
            "10.7.7.1",
            "10.7.7.1",
        ),
        ("used, gone", FOUR, &[("10.1.2.1/24", Primary)], &[], "10.1.2.2", "10.1.2.1"),
        (
            "used, of the other family",
            FOUR,
            &[("10.1.2.1/24", Primary), ("2001:db8::1/64", Primary)],
            &[],
            "2001:db8::1",
            "10.1.2.1",
        ),
        // At first.
        (
            "the neighbour's prefix",
            FOUR,
            &[("10.0.0.1/24", Primary), ("10.1.2.2/24", Primary)],
            &[],
            "",
            "10.1.2.2",
        ),
        (
            "the VLAN's prefix",
            NEAR,
            &[("10.1.0.1/16", Primary), ("10.1.2.2/32", Primary)],
            &[],
            "",
            "10.1.2.2",
        ),
        (
            "the VLAN's length",
            NEAR,
            &[("10.1.2.1/16", Primary), ("10.1.2.2/24", Primary)],
            &[],
            "",
            "10.1.2.2",
        ),
        ("secondary alone", FOUR, &[("10.1.2.1/24", Secondary)], &[], "", "10.1.2.1"),
        // c: no VIP.
        (
            "a VIP",
            FOUR,
            &[("10.1.2.1/24", Primary), ("10.1.2.2/24", Secondary)],
            &["10.1.2.1"],
            "",
            "10.1.2.2",
        ),
        (
            "a VIP in a VLAN",
            NEAR,
            &[("10.1.2.1/24", Primary), ("10.1.2.2/24", Secondary)],
            &["10.1.2.1"],
            "",
            "10.1.2.2",
        ),
        (
            "a VIP by now",
            SIX,
            &[("2001:db8::1/64", Primary), ("2001:db8::2/64", Primary)],
            &["2001:db8::2"],
            "2001:db8::2",
            "2001:db8::1",
        ),
        ("a VIP alone", FOUR, &[("10.1.2.1/24", Primary)], &["10.1.2.1"], "", ""),
    ];
    let network = |own: &[(&str, Rank)], last: &str, gateway: Hop| {
        let mut network = Network::new().knows(&KNOWN);
        network.config = Config::default().vlan(1, "10.1.2.0/24".parse().unwrap());
        let network = network.with(DEFAULT, 0, &[gateway]);
        let mut network = network.with("::/0", 0, &[hop(2, "fe80::fe")]);
        if !last.is_empty() {
            network.last = network.ways(FOUR).unwrap();
            network.last[0].local = ip(last);
        }
        let all: Vec<_> = own.iter().map(|(address, _)| (2, *address)).collect();
        network.snapshot.addresses = snapshot(&all).addresses;
        for address in &mut network.snapshot.addresses {
            let is_it = |text: &str| text.split('/').next() == Some(&address.address.to_string());
            address.rank = own.iter().find(|(text, _)| is_it(text)).unwrap().1;
        }
        network
    };
    let source = |network: &Network, server| match network.ways(server) {
        Ok(ways) => ways[0].local.to_string(),
        Err(unreachable) => {
            assert_eq!(unreachable.status, DestinationStatus::NoAddress);
            String::new()
        }
    };
    for (what, server, own, vips, last, expected) in cases {
        let mut network = network(own, last, hop(2, "10.1.2.254"));
        network.vips = vips.iter().map(|vip| ip(vip)).collect();
        assert_eq!(source(&network, server), expected, "{what}");
        // All are ours nevertheless, and the VLAN is there.
        assert!(network.snapshot.addresses.iter().all(|a| network.snapshot.is_own(a.address)));
        let four = own.iter().any(|(address, _)| address.starts_with("10.1.2."));
        assert_eq!(network.prefixes()[0].place.is_some(), four, "{what}");
    }

    // What a route says goes before all that.
    let by_route = Hop { source: Some(ip("10.1.2.3")), ..hop(2, "10.1.2.254") };
    let own = [("10.1.2.1/24", Primary), ("10.1.2.3/24", Unfit)];
    let mut network = network(&own, "10.1.2.1", by_route);
    network.vips = vec![ip("10.1.2.3")];
    assert_eq!(source(&network, FOUR), "10.1.2.3");
}

/// Each of several ways keeps its own address.
#[test]
fn the_address_used_so_far_is_that_of_the_same_way() {
    let hops = [hop(2, "10.1.2.253"), hop(2, "10.1.2.254"), hop(3, "10.1.3.254")];
    let mut network = Network::new().knows(&KNOWN).with(DEFAULT, 0, &hops);
    let more = [(2, "10.1.2.2/24"), (2, "10.1.2.3/24"), (3, "10.1.3.2/24")];
    network.snapshot.addresses.extend(snapshot(&more).addresses);
    network.snapshot.addresses.sort();
    network.last = network.ways("10.9.9.9").unwrap();
    for (way, local) in network.last.iter_mut().zip(["10.1.2.3", "10.1.2.2", "10.1.3.2"]) {
        way.local = ip(local);
    }
    assert_eq!(network.ways("10.9.9.9").unwrap(), network.last);
    // A new neighbour has one that is in use on its interface.
    network.last.remove(0);
    assert_eq!(network.ways("10.9.9.9").unwrap()[0].local, ip("10.1.2.2"));
}

#[test]
fn a_way_out_that_cannot_be_used_is_told() {
    let new = || Network::new().knows(&KNOWN).with(DEFAULT, 0, &[hop(2, "10.1.2.254")]);
    let after = |change: fn(&mut Network)| {
        let mut network = new();
        change(&mut network);
        network
    };
    for (what, network, expected) in [
        ("well", new(), "2 10.1.2.254 10.1.2.1"),
        (
            "no carrier",
            after(|n| n.snapshot.links.get_mut(&2).unwrap().running = false),
            "InterfaceDown",
        ),
        ("no program", after(|n| n.ports[0].attached = vec![3]), "NotAttached"),
        ("silent", after(|n| n.hears(2, "10.1.2.254", NeighbourState::Failed, 1)), "NoNeighbour"),
        ("no address", after(|n| n.snapshot.addresses.retain(|a| a.index != 2)), "NoAddress"),
    ] {
        assert_eq!(network.words("10.9.9.9"), expected, "{what}");
    }
    let mut six = new().with("::/0", 0, &[hop(2, "fe80::fe")]);
    six.snapshot.links.get_mut(&2).unwrap().mtu = 1_279;
    assert_eq!(six.words("2001:db8:9::9"), "MtuTooSmall");
    assert_eq!(six.ways("10.9.9.9").unwrap()[0].hop.mtu, 1_279);
}

#[test]
fn a_way_has_tag_addresses_weight_and_the_least_mtu() {
    let mut network = Network::new().knows(&[(10, "10.1.7.254", 7)]);
    let stacked = Some(Stacked { lower: 2, tag: Some((0x8100, 70)) });
    network.snapshot.links.insert(10, crate::net::Link { stacked, ..link(10, "eth0.70", true) });
    let address = ip("10.1.7.1");
    let prefix = "10.1.7.0/24".parse().unwrap();
    network.snapshot.addresses.push(Address { index: 10, prefix, address, rank: Rank::Primary });
    let routed = |mtu| Hop { weight: 256, mtu, ..hop(10, "10.1.7.254") };
    let network = network.with("10.8.0.0/16", 0, &[routed(None)]);
    let mut network = network.with("10.9.0.0/16", 0, &[routed(Some(1_400))]);
    let next = NextHop {
        interface: 10,
        egress: 2,
        tag: 70,
        source: ROUTER,
        destination: mac(7),
        mtu: 1_500,
    };
    let way = Way { hop: next, neighbour: ip("10.1.7.254"), local: address, weight: 256 };
    assert_eq!(network.ways("10.8.8.8"), Ok(vec![way]));
    let mtu = |network: &Network, server| network.ways(server).unwrap()[0].hop.mtu;
    assert_eq!(mtu(&network, "10.9.9.9"), 1_400, "the route's");
    network.config = network.config.vlan(7, prefix).mtu(7, 1_450);
    assert_eq!(mtu(&network, "10.8.8.8"), 1_450, "the VLAN's");
    assert_eq!(mtu(&network, "10.9.9.9"), 1_400, "the least");
    network.config.mtus.insert(7, 1_300);
    assert_eq!(mtu(&network, "10.9.9.9"), 1_300, "the least");
}

#[test]
fn a_split_bond_has_the_member_in_use_for_its_way_out() {
    let mut network = Network::new();
    network.snapshot = bonded(&[(10, "10.1.2.1/24")]);
    network.ports = ports::resolve(&["bond0"], &network.snapshot).unwrap();
    network.ports[0].attached = vec![2, 3];
    network.ports[0].split = true;
    let network = network.knows(&[(10, "10.1.2.254", 1)]);
    let mut network = network.with(DEFAULT, 0, &[hop(10, "10.1.2.254")]);
    let egress = |network: &Network| network.ways("10.9.9.9").map(|ways| ways[0].hop.egress);
    assert_eq!(egress(&network), Ok(2));
    for (member, backup) in [(2, true), (3, false)] {
        network.snapshot.links.get_mut(&member).unwrap().backup = backup;
    }
    assert_eq!(egress(&network), Ok(3));
    network.snapshot.links.get_mut(&3).unwrap().running = false;
    assert_eq!(network.words("10.9.9.9"), "InterfaceDown");
}

/// Live flows stay with neighbours that do not answer, by the ways that there are
/// now.
#[test]
fn silent_neighbours_keep_their_addresses() {
    let both = [hop(2, "10.1.2.254"), hop(3, "10.1.3.254")];
    let mut network = Network::new().knows(&KNOWN).with(DEFAULT, 0, &both);
    let before = network.ways("10.9.9.9").unwrap();
    network.last = before.clone();
    let kept = |network: &Network| {
        let Unreachable { status, last } = network.ways("10.9.9.9").unwrap_err();
        let words = |w: &Way| (w.hop.interface, w.neighbour.to_string(), w.hop.destination.0[5]);
        (format!("{status:?}"), last.iter().map(words).collect::<Vec<_>>())
    };
    let first = (2, "10.1.2.254".to_owned(), 1);
    let second = (3, "10.1.3.254".to_owned(), 3);

    network.hears(2, "10.1.2.254", NeighbourState::Failed, 1);
    assert_eq!(network.ways("10.9.9.9").unwrap(), before[1..], "the other one works");
    network.hears(3, "10.1.3.254", NeighbourState::Incomplete, 3);
    let all = vec![first.clone(), second];
    assert_eq!(kept(&network), ("Resolving".to_owned(), all), "none works");
    network.snapshot.links.get_mut(&3).unwrap().running = false;
    let last = network.ways("10.9.9.9").unwrap_err().last;
    assert_eq!(last, before[..1], "by one there is no way");

    // Another gateway, of which nothing is known yet.
    let mut network = Network::new().with(DEFAULT, 0, &[hop(2, "10.1.2.253")]);
    network.last = before.clone();
    network.snapshot.links.get_mut(&2).unwrap().mtu = 1_400;
    assert_eq!(kept(&network), ("Resolving".to_owned(), vec![first]), "the old one's");
    assert_eq!(network.ways("10.9.9.9").unwrap_err().last[0].hop.mtu, 1_400);
    let network = network.knows(&[(2, "10.1.2.253", 2)]);
    assert_eq!(network.words("10.9.9.9"), "2 10.1.2.253 10.1.2.1");

    // Nothing of the old way is left.
    let mut network = Network::new().with("10.9.0.0/16", 0, &[]);
    network.last = before;
    assert_eq!(kept(&network), ("NoRoute".to_owned(), Vec::new()));
}

#[test]
fn neighbours_to_keep_are_those_of_all_ways() {
    let hops =
        [hop(2, "10.1.2.254"), hop(3, "10.1.3.77"), hop(4, "10.1.4.254"), hop(9, "10.1.9.9")];
    let network = Network::new()
        .knows(&KNOWN)
        .with(DEFAULT, 0, &hops)
        .with("::/0", 0, &[hop(2, "fe80::fe"), hop(3, "")])
        .with("10.8.0.0/16", 0, &[hop(2, "10.1.2.1")])
        .with("10.7.0.0/16", 0, &[])
        .configured("10.6.0.0/16", 1, "10.1.2.253");
    for (server, expected) in [
        ("10.9.9.9", "2 10.1.2.254 true, 3 10.1.3.77 false"),
        ("2001:db8:9::9", "2 fe80::fe true, 3 2001:db8:9::9 false"),
        ("10.8.8.8", ""),
        ("10.7.7.7", ""),
        ("10.6.6.6", "2 10.1.2.253 true"),
        ("10.1.2.9", "2 10.1.2.9 true"),
        ("10.1.3.1", ""),
    ] {
        assert_eq!(network.neighbours(server), expected, "{server}");
    }
}
