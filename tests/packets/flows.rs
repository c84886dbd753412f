//! Flows: how long they live, and what becomes of them when servers change.

use std::time::Duration;

use xvs::Destination;
use xvs::Service;

use super::case::Case;
use super::case::Entry;
use super::case::On;
use super::case::Server;
use super::case::Step;
use super::world::*;
use crate::common::dataplane::Dataplane;
use crate::common::dataplane::FlowKey;
use crate::common::dataplane::Port;
use crate::common::frame::*;

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Idle and closing times of TCP.
pub fn tcp(w: &World) -> Vec<Case> {
    let web = w.web();
    let (a, b, c, d, e, f, g) =
        (w.unique(), w.unique(), w.unique(), w.unique(), w.unique(), w.unique(), w.unique());
    let send = |source: u16, flags: u8| w.ip().tcp((source, WEB), flags, b"data");
    let key = |source: u16| w.key(source, WEB);
    let age = |source: u16, n: u64| Step::AgeFlow(key(source), seconds(n));
    let ack = |name: &str, source: u16| w.case(name, send(source, ACK));
    let syn = |name: &str, source: u16| w.case(name, send(source, SYN));
    let flow = |case: Case| case.forwards("forwarded_flow", web);
    let new = |case: Case| case.forwards("forwarded_new", web);
    let hashed = |case: Case| case.forwards("forwarded_syn", web).counts(&["syn"]);
    vec![
        // Life of a connection.
        hashed(syn("a SYN opens no flow", a)).leaves(&key(a), Entry::Absent),
        hashed(syn("a SYN again", a)).leaves(&key(a), Entry::Absent),
        new(ack("the first ACK stores the flow", a)).leaves(&key(a), Entry::Open),
        flow(ack("data of the flow", a)).leaves(&key(a), Entry::Open),
        flow(w.case("PSH and ACK of the flow", send(a, PSH | ACK))).leaves(&key(a), Entry::Open),
        flow(w.case("SYN and ACK of the flow", send(a, SYN | ACK))).leaves(&key(a), Entry::Open),
        flow(ack("a live flow is refreshed", a)).step(age(a, 300)).leaves(&key(a), Entry::Open),
        flow(ack("7,190 s after the last packet", a))
            .step(age(a, 7190))
            .leaves(&key(a), Entry::Open),
        new(ack("7,210 s after the last packet", a))
            .step(age(a, 7210))
            .leaves(&key(a), Entry::Open),
        new(ack("30 days after the last packet", a))
            .step(age(a, 30 * 86_400))
            .leaves(&key(a), Entry::Open),
        // SYN.
        flow(syn("a SYN of a flow", a)).counts(&["syn"]).leaves(&key(a), Entry::Unchanged),
        flow(syn("a SYN of a flow, 55 s after the last packet", a))
            .step(age(a, 55))
            .counts(&["syn"])
            .leaves(&key(a), Entry::Unchanged),
        flow(w.case("a SYN with FIN of a flow", send(a, SYN | FIN)))
            .counts(&["syn", "fin"])
            .leaves(&key(a), Entry::Unchanged),
        hashed(syn("a SYN of a flow, 65 s after the last packet", a))
            .step(age(a, 10))
            .leaves(&key(a), Entry::Absent),
        new(ack("an ACK after that SYN", a)).leaves(&key(a), Entry::Open),
        // Closing.
        flow(w.case("a FIN of a flow", send(a, FIN | ACK)))
            .counts(&["fin"])
            .leaves(&key(a), Entry::Closing),
        flow(ack("an ACK of a closing flow", a)).step(age(a, 55)).leaves(&key(a), Entry::Closing),
        flow(w.case("a RST of a closing flow", send(a, RST)))
            .counts(&["rst"])
            .leaves(&key(a), Entry::Closing),
        hashed(syn("a SYN after the FIN: the port is used again", a))
            .leaves(&key(a), Entry::Absent),
        new(ack("the new connection's first ACK", a)).leaves(&key(a), Entry::Open),
        flow(w.case("all flags of a flow", send(a, ALL_FLAGS)))
            .counts(&["fin", "rst"])
            .leaves(&key(a), Entry::Closing),
        new(ack("65 s after a FIN", b))
            .after(send(b, FIN | ACK))
            .step(age(b, 65))
            .leaves(&key(b), Entry::Open),
        flow(w.case("a RST of a flow", send(b, RST)))
            .counts(&["rst"])
            .leaves(&key(b), Entry::Closing),
        hashed(syn("a SYN after a RST", b)).leaves(&key(b), Entry::Absent),
        new(w.case("a FIN 65 s after a RST", send(c, FIN | ACK)))
            .after(send(c, RST))
            .step(age(c, 65))
            .counts(&["fin"])
            .leaves(&key(c), Entry::Closing),
        hashed(syn("a SYN to a flow that is over", d))
            .after(send(d, ACK))
            .step(age(d, 7300))
            .leaves(&key(d), Entry::Absent),
        // Another CPU's clock may be ahead.
        flow(ack("a flow whose last packet came a tick from now", e))
            .after(send(e, ACK))
            .change(ahead(key(e)))
            .leaves(&key(e), Entry::Open),
        flow(syn("a SYN of a flow whose last packet came a tick from now", f))
            .after(send(f, ACK))
            .change(ahead(key(f)))
            .counts(&["syn"])
            .leaves(&key(f), Entry::Unchanged),
        // The same numbers otherwise.
        new(w.case("another port of the same client", send(g, ACK))).leaves(&key(g), Entry::Open),
        w.case(
            "the same ports of another client",
            Ip::new(w.router, w.vip).tcp((g, WEB), ACK, b""),
        )
        .forwards("forwarded_new", web),
        w.case("the same ports to another service", w.ip().tcp((g, FAR), ACK, b""))
            .forwards("forwarded_new", w.far()),
        w.case("the same ports of UDP", w.ip().udp((g, DNS), b""))
            .forwards("forwarded_new", w.dns()),
    ]
}

fn ahead(key: FlowKey) -> impl Fn(&Dataplane) + Send + 'static {
    move |dataplane| {
        let mut entry = dataplane.flow(&key).expect("the flow is there");
        entry.set_seen(crate::common::dataplane::now() + 1);
        dataplane.set_flow(&key, &entry);
    }
}

/// Times that a service sets, and those of UDP.
pub fn times(w: &World) -> Vec<Case> {
    let hasty = Server::new(&w.tcp(HASTY), w.server(Port::Lb0, 3));
    let (a, b) = (w.unique(), w.unique());
    let send = |source: u16, flags: u8| w.ip().tcp((source, HASTY), flags, b"");
    let age = |source: u16, n: u64| Step::AgeFlow(w.key(source, HASTY), seconds(n));
    let query = || w.ip().udp((b, DNS), b"query");
    let quiet = |n: u64| Step::AgeFlow(w.udp_key(b, DNS), seconds(n));
    vec![
        w.case("idle for less than the service's time", send(a, ACK))
            .after(send(a, ACK))
            .step(age(a, 7))
            .forwards("forwarded_flow", hasty),
        w.case("idle for more than the service's time", send(a, ACK))
            .step(age(a, 13))
            .forwards("forwarded_new", hasty),
        w.case("a SYN after more than the service's time", send(a, SYN))
            .step(age(a, 13))
            .forwards("forwarded_syn", hasty)
            .counts(&["syn"])
            .leaves(&w.key(a, HASTY), Entry::Absent),
        w.case("closing for less than the service's time", send(a, ACK))
            .after(send(a, FIN))
            .step(age(a, 3))
            .forwards("forwarded_flow", hasty)
            .leaves(&w.key(a, HASTY), Entry::Closing),
        w.case("closing for more than the service's time", send(a, ACK))
            .step(age(a, 8))
            .forwards("forwarded_new", hasty)
            .leaves(&w.key(a, HASTY), Entry::Open),
        w.case("UDP, 110 s after the last packet", query())
            .after(query())
            .step(quiet(110))
            .forwards("forwarded_flow", w.dns()),
        w.case("UDP, 130 s after the last packet", query())
            .step(quiet(130))
            .forwards("forwarded_new", w.dns()),
        w.case("UDP again", query())
            .forwards("forwarded_flow", w.dns())
            .leaves(&w.udp_key(b, DNS), Entry::Open),
        w.case("a flow that was silent for nearly as long as the clock runs", query())
            .change({
                let key = w.udp_key(b, DNS);
                move |dataplane| {
                    let mut entry = dataplane.flow(&key).expect("the flow is there");
                    entry.set_seen(entry.seen().wrapping_sub(0xff_0000));
                    dataplane.set_flow(&key, &entry);
                }
            })
            .forwards("forwarded_new", w.dns()),
    ]
}

/// Servers that come, go, are disabled and move while flows live.
pub fn changes(w: &World, port: u16) -> Vec<Case> {
    let service = w.tcp(port);
    let (x, y) = (w.server(Port::Lb0, 15), w.server(Port::Lb1, 16));
    let z = w.server(Port::Lb0, 17);
    let to = |address| Server::new(&service, address);
    let (a, b, c, d) = (w.unique(), w.unique(), w.unique(), w.unique());
    let send = |source: u16, flags: u8| w.ip().tcp((source, port), flags, b"data");
    let key = |source: u16| w.key(source, port);
    let moved = [0x02, 0xcc, 0, 0, 0, 0x15];
    let serve = |destinations: &[Destination]| {
        let (service, destinations) = (service.clone(), destinations.to_vec());
        move |dataplane: &Dataplane| dataplane.serve(&service, &destinations)
    };
    let on = Destination::new;
    let off = |address| Destination::new(address).disabled(true);
    let follows = {
        let service = service.clone();
        move |dataplane: &Dataplane| dataplane.move_server(&service, x, moved)
    };
    let vanishes = {
        let service = service.clone();
        move |dataplane: &Dataplane| {
            dataplane.client.remove_service(&service).expect("the service is there");
        }
    };
    let refused = |name: &str, frame: Vec<u8>| w.case(name, frame).drops("no_service", w.on_vip());
    vec![
        w.case("a flow of a service that will change", send(a, ACK))
            .change(serve(&[on(x)]))
            .forwards("forwarded_new", to(x)),
        w.case("a flow of a disabled server stays", send(a, ACK))
            .change(serve(&[off(x), on(y)]))
            .forwards("forwarded_flow", to(x)),
        w.case("a SYN of a flow of a disabled server stays", send(a, SYN))
            .forwards("forwarded_flow", to(x))
            .counts(&["syn"]),
        w.case("a new flow goes to the enabled server", send(b, ACK))
            .forwards("forwarded_new", to(y)),
        w.case("a new SYN goes to the enabled server", send(c, SYN))
            .forwards("forwarded_syn", to(y))
            .counts(&["syn"]),
        w.case("a flow of a disabled server, idle too long", send(d, ACK))
            .change(serve(&[on(x), off(y)]))
            .after(send(d, ACK))
            .change(serve(&[off(x), on(y)]))
            .step(Step::AgeFlow(key(d), seconds(7300)))
            .forwards("forwarded_new", to(y)),
        w.case("a flow follows its server's MAC address", send(a, ACK))
            .change(follows)
            .forwards("forwarded_flow", to(x).mac(moved)),
        w.case("a flow when no server is enabled", send(a, ACK))
            .change(serve(&[off(x), off(y)]))
            .forwards("forwarded_flow", to(x).mac(moved)),
        w.case("a new flow when no server is enabled", send(w.unique(), ACK))
            .drops("no_destination", w.on_tcp(port)),
        w.case("a SYN after a FIN when no server is enabled", send(a, SYN))
            .after(send(a, FIN))
            .drops("no_destination", w.on_tcp(port))
            .leaves(&key(a), Entry::Closing),
        w.case("a flow of a removed server is hashed again", send(a, ACK))
            .change(serve(&[on(x), off(y)]))
            .after(send(a, ACK))
            .change(serve(&[on(y)]))
            .forwards("forwarded_new", to(y)),
        w.case("and stays there", send(a, ACK)).forwards("forwarded_flow", to(y)),
        w.case("a SYN of a flow of a removed server", send(b, SYN))
            .change(serve(&[on(z)]))
            .forwards("forwarded_syn", to(z))
            .counts(&["syn"])
            .leaves(&key(b), Entry::Absent),
        w.case("a flow whose server's slot has another server", send(a, ACK))
            .change(serve(&[]))
            .change(serve(&[on(z)]))
            .forwards("forwarded_new", to(z)),
        w.case("a flow whose server was removed and is there again", send(a, ACK))
            .change(serve(&[]))
            .change(serve(&[on(z)]))
            .forwards("forwarded_new", to(z)),
        w.case("a flow of a service without servers", send(a, ACK))
            .change(serve(&[]))
            .drops("no_destination", w.on_tcp(port)),
        w.case("a flow of a service that has servers again", send(a, ACK))
            .change(serve(&[on(y)]))
            .forwards("forwarded_new", to(y)),
        refused("a flow of a service that was removed", send(a, ACK)).change(vanishes),
        refused("a SYN to a service that was removed", send(a, SYN)),
        w.case("a flow of a service that is there again", send(a, ACK))
            .change(serve(&[on(y)]))
            .forwards("forwarded_new", to(y)),
        w.case("a FIN of that flow", send(a, FIN | ACK))
            .forwards("forwarded_flow", to(y))
            .counts(&["fin"]),
    ]
}

/// A virtual address comes with its first service and goes with its last.
pub fn addresses(w: &World) -> Vec<Case> {
    let service = Service::tcp(w.stranger, WEB);
    let server = Server::new(&service, w.server(Port::Lb0, 3));
    let source = w.unique();
    let frame = || Ip::new(w.client, w.stranger).tcp((source, WEB), ACK, b"x");
    let (first, last) = (service.clone(), service.clone());
    let closed = Ip::new(w.client, w.stranger).tcp((source, CLOSED), ACK, b"x");
    let address = server.address;
    vec![
        w.case("before the address has a service", frame()).passes("not_vip", On::Nobody),
        w.case("the address has a service", frame())
            .change(move |dataplane| dataplane.serve(&first, &[Destination::new(address)]))
            .forwards("forwarded_new", server),
        w.case("another port of the address", closed).drops("no_service", On::Vip(w.stranger)),
        w.case("the address has no service any more", frame())
            .change(move |dataplane| {
                dataplane.client.remove_service(&last).expect("the service is there");
            })
            .passes("not_vip", On::Nobody),
    ]
}
