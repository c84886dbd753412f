//! The kernel's main routing table.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::Prefix;

/// The routes of both families that packets to anybody may take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Routes {
    /// By family (whether it is IPv4) and length of the prefix, the longest first,
    /// and by the prefix's address: of one prefix the preferred ones first.
    tables: BTreeMap<(bool, Reverse<u8>), BTreeMap<IpAddr, Vec<Route>>>,
}

/// A route to a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// Of several to a prefix the one with the least metric counts.
    pub(crate) metric: u32,
    /// The next hops, all of which are used. Without any it is there to say that
    /// nothing leads to the prefix (unreachable, blackhole, prohibit).
    pub(crate) hops: Vec<Hop>,
    /// The nexthop object that it is by.
    pub(crate) object: Option<u32>,
}

/// A next hop of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hop {
    /// The interface that it is on.
    pub(crate) interface: u32,
    /// Its address, which may be of the other family (RFC 5549); without one the
    /// prefix is on-link.
    pub(crate) gateway: Option<IpAddr>,
    /// Its share among the next hops of the route, 1 to 256.
    pub(crate) weight: u16,
    /// Our address that packets are best sent from.
    pub(crate) source: Option<IpAddr>,
    /// The longest packet for it in octets, if the route says so.
    pub(crate) mtu: Option<u32>,
}

/// Where a new route goes among those to the same prefix with the same metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Before them.
    First,
    /// Behind them.
    Last,
    /// In the place of the first one.
    Instead,
}

impl Routes {
    /// The route to an address: that of the longest prefix, then with the least
    /// metric.
    pub(crate) fn to(&self, address: IpAddr) -> Option<&Route> {
        let v4 = address.is_ipv4();
        let tables = self.tables.range((v4, Reverse(u8::MAX))..=(v4, Reverse(0)));
        tables.into_iter().find_map(|(&(_, Reverse(length)), table)| {
            table.get(&Prefix::containing(address, length)?.address())?.first()
        })
    }

    /// The default routes of a family, the preferred ones first.
    pub(super) fn defaults(&self, v4: bool) -> impl Iterator<Item = &Route> {
        let table = self.tables.get(&(v4, Reverse(0)));
        table.into_iter().flat_map(BTreeMap::values).flatten()
    }

    /// The routes that share addresses with a prefix, each with its own: those of the
    /// longest prefix first.
    pub(super) fn overlapping(&self, prefix: Prefix) -> impl Iterator<Item = (Prefix, &Route)> {
        let v4 = prefix.address().is_ipv4();
        let tables = self.tables.range((v4, Reverse(u8::MAX))..=(v4, Reverse(0)));
        tables.flat_map(move |(&(_, Reverse(length)), table)| {
            let around = Prefix::containing(prefix.address(), length.min(prefix.length()));
            let around = around.unwrap_or(prefix);
            let inside = table.range(around.address()..);
            let inside = inside.take_while(move |(address, _)| around.contains(**address));
            inside.flat_map(move |(address, routes)| {
                let to = Prefix::containing(*address, length);
                routes.iter().filter_map(move |route| Some((to?, route)))
            })
        })
    }

    /// Adds a route; returns whether it was news.
    pub(super) fn add(&mut self, prefix: Prefix, mut route: Route, order: Order) -> bool {
        if prefix.address().is_ipv6() {
            route.hops.sort_unstable();
        }
        let table = self.tables.entry(key(prefix)).or_default();
        let routes = table.entry(prefix.address()).or_default();
        if routes.is_empty() {
            // There may be a million routes, with room for no more than one each.
            *routes = vec![route];
            return true;
        }
        let before = routes.clone();
        match prefix.address() {
            IpAddr::V4(_) => add4(routes, route, order),
            IpAddr::V6(_) => add6(routes, route, order),
        }
        *routes != before
    }

    /// Takes a route away, or of an IPv6 route these next hops; returns whether it
    /// was there.
    pub(super) fn remove(&mut self, prefix: Prefix, route: &Route) -> bool {
        let Some(table) = self.tables.get_mut(&key(prefix)) else {
            return false;
        };
        let Some(routes) = table.get_mut(&prefix.address()) else {
            return false;
        };
        let before = routes.clone();
        match prefix.address() {
            IpAddr::V4(_) => {
                if let Some(place) = routes.iter().position(|other| other == route) {
                    routes.remove(place);
                }
            }
            IpAddr::V6(_) => routes.retain_mut(|other| {
                if other.metric != route.metric {
                    return true;
                }
                let same = |a: &Hop, b: &Hop| (a.interface, a.gateway) == (b.interface, b.gateway);
                other.hops.retain(|hop| !route.hops.iter().any(|gone| same(gone, hop)));
                !other.hops.is_empty()
            }),
        }
        let news = *routes != before;
        if routes.is_empty() {
            table.remove(&prefix.address());
        }
        if table.is_empty() {
            self.tables.remove(&key(prefix));
        }
        news
    }

    /// Takes the routes away of which every next hop is on such an interface. IPv6
    /// routes without a gateway are together here, and go one by one.
    pub(super) fn remove_by(&mut self, is_down: impl Fn(u32) -> bool) {
        self.retain(|v4, route| {
            if route.hops.is_empty() {
                return true;
            }
            if !v4 {
                route.hops.retain(|hop| hop.gateway.is_some() || !is_down(hop.interface));
            }
            !route.hops.iter().all(|hop| is_down(hop.interface))
        });
    }

    /// Follows the loss of an address of ours: IPv4 routes from it go, others lose
    /// their preference.
    pub(super) fn remove_source(&mut self, address: IpAddr) {
        self.retain(|v4, route| {
            let mut from = route.hops.iter_mut().filter(|hop| hop.source == Some(address));
            if v4 {
                return from.next().is_none();
            }
            from.for_each(|hop| hop.source = None);
            true
        });
    }

    fn retain(&mut self, keep: impl Fn(bool, &mut Route) -> bool) {
        self.tables.retain(|&(v4, _), table| {
            table.retain(|_, routes| {
                routes.retain_mut(|route| keep(v4, route));
                !routes.is_empty()
            });
            !table.is_empty()
        });
    }
}

fn key(prefix: Prefix) -> (bool, Reverse<u8>) {
    (prefix.address().is_ipv4(), Reverse(prefix.length()))
}

/// Of IPv4 routes with the same metric the first one counts, and those behind it
/// wait until it is gone.
fn add4(routes: &mut Vec<Route>, route: Route, order: Order) {
    if order == Order::Instead
        && let Some(place) = routes.iter().position(|other| other.metric == route.metric)
    {
        routes.remove(place);
    }
    // What is heard may have been read already.
    routes.retain(|other| *other != route);
    let place = match order {
        Order::First | Order::Instead => routes.partition_point(|r| r.metric < route.metric),
        Order::Last => routes.partition_point(|r| r.metric <= route.metric),
    };
    routes.insert(place, route);
}

/// IPv6 routes with the same metric are used together; each message tells of some
/// of their next hops. One of those through gateways takes the place of them all
/// (fib6_add_rt2node in net/ipv6/ip6_fib.c).
fn add6(routes: &mut Vec<Route>, route: Route, order: Order) {
    let place = routes.partition_point(|other| other.metric < route.metric);
    let Some(all) = routes.get_mut(place).filter(|other| other.metric == route.metric) else {
        routes.insert(place, route);
        return;
    };
    let through = |hops: &[Hop]| hops.iter().any(|hop| hop.gateway.is_some());
    if order == Order::Instead {
        if through(&route.hops) && through(&all.hops) {
            all.hops.retain(|hop| hop.gateway.is_none());
        } else if !all.hops.is_empty() {
            let gateway = through(&route.hops) || all.hops.iter().all(|h| h.gateway.is_some());
            let place = all.hops.iter().position(|hop| hop.gateway.is_some() == gateway);
            all.hops.remove(place.unwrap_or(0));
        }
    }
    let told = |hop: &Hop| {
        route.hops.iter().any(|new| (new.interface, new.gateway) == (hop.interface, hop.gateway))
    };
    all.hops.retain(|hop| !told(hop));
    all.hops.extend(&route.hops);
    all.hops.sort_unstable();
    all.object = route.object;
}
