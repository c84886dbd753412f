//! What the subcommands do to and tell of balancers that run.

use std::io;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::Value;
use serde_json::json;
use xvs::Reasons;

use crate::assert_fails;
use crate::finished;
use crate::lab::Lab;
use crate::lab::keys;
use crate::lab::wait_until;
use crate::netns::Namespace;

const WEB: [&str; 5] = ["eth0", "10.1.2.0/24", "192.168.100.1", "10.1.2.3", "10.1.2.4"];

#[test]
fn what_the_host_lacks_is_named() {
    let Some(lab) = Lab::new("lacks") else { return };
    for (arguments, parts) in [
        (["balance", "eth7", "10.1.2.0/24", "192.168.100.1", "10.1.2.3"], ["eth7", "no interface"]),
        (["balance", "down0", "10.1.2.0/24", "192.168.100.1", "10.1.2.3"], ["down0", "down"]),
        (["balance", "eth0,eth0", "10.1.2.0/24", "192.168.100.1", "10.1.2.3"], ["eth0", "list"]),
    ] {
        assert_fails(&arguments, lab.run(&arguments), &parts);
    }
    for arguments in [
        &["show"][..],
        &["show", "flows", "--json"],
        &["detach"],
        &["explain", "tcp", "10.0.0.1", "192.168.100.1:80"],
        &["probe", "192.168.100.1:80", "10.1.2.3"],
        &["capture"],
    ] {
        assert_fails(arguments, lab.run(arguments), &[&lab.instance, "no instance"]);
    }
}

#[test]
fn balance_runs_obeys_and_leaves_nothing() {
    let Some(lab) = Lab::new("runs") else { return };
    let options = ["--port", "80", "--port", "53/udp", "--weight", "10.1.2.4=3"];
    let mut balance = lab.balance(&[&WEB[..], &options].concat());
    let ready = balance.event("ready");
    assert_eq!(keys(&ready), "event instance interfaces services");
    assert_eq!(ready["instance"], lab.instance);
    assert_eq!(ready["interfaces"][0]["name"], "eth0");

    let weights = || {
        let all = lab.objects(&["show", "destinations"]);
        assert_eq!(all.len() % 2, 0, "both services have the same: {all:?}");
        all.iter()
            .map(|d| (d["address"].to_string(), d["weight"].as_u64(), d["disabled"].as_bool()))
            .collect::<Vec<_>>()
    };
    assert!(weights().contains(&("\"10.1.2.4\"".to_owned(), Some(3), Some(false))));
    balance.tell("weight 10.1.2.3 7", "ok");
    balance.tell("disable 10.1.2.3", "ok");
    let changed = ("\"10.1.2.3\"".to_owned(), Some(7), Some(true));
    assert_eq!(weights().iter().filter(|d| **d == changed).count(), 2);
    balance.tell("enable 10.1.2.3", "ok");
    balance.tell("remove 10.1.2.4", "ok");
    assert_eq!(weights().len(), 2);
    balance.tell("add 10.1.2.4", "ok");
    assert_eq!(weights().len(), 4);
    for (command, part) in [
        ("weight 10.1.2.3 0", "weight 0"),
        ("disable 10.1.2.9", "10.1.2.9"),
        ("add 10.1.2.3", "already"),
        ("dance", "dance"),
    ] {
        let message = balance.tell(command, "error")["message"].to_string();
        assert!(message.contains(part), "{message}");
    }

    let again = [&["balance"][..], &WEB].concat();
    assert_fails(&again, lab.run(&again), &["is run by process"]);
    let process = balance.child.id().to_string();
    let same = ["balance", "eth1", "10.1.3.0/24", "192.168.100.2", "10.1.3.3"];
    assert_fails(&same, lab.run(&same), &[&lab.instance, &process]);
    assert_fails(&["detach"], lab.run(&["detach"]), &[&lab.instance, &process]);

    balance.signal(Signal::SIGTERM);
    let stopped = balance.event("stopped");
    assert_eq!(keys(&stopped), "cause duration_seconds event stats");
    assert_eq!(stopped["cause"], "SIGTERM");
    assert_eq!(balance.child.wait().unwrap().code(), Some(0));
    assert!(!lab.balancer.sh("ip link show eth0").contains("xdp"));
    assert_eq!(lab.run(&["show"]).0, 1);
}

#[test]
fn nat_addresses_are_where_they_are_set_and_nobody_is() {
    let Some(lab) = Lab::new("nat") else { return };
    for (prefix, other) in
        [("10.1.0.0/16", "10.1.2.1/24 of `eth0`"), ("10.1.3.128/25", "10.1.3.1/24 of `eth1`")]
    {
        let arguments = [&["balance"][..], &WEB, &["--nat4", prefix]].concat();
        assert_fails(&arguments, lab.run(&arguments), &[prefix, other]);
    }
    let options = ["--nat4", "10.200.0.0/24", "--nat6", "fd00:200::/64"];
    let mut balance = lab.balance(&[&WEB[..], &options].concat());
    balance.event("ready");
    let routes = || lab.balancer.sh("ip route; ip -6 route");
    for part in ["10.200.0.0/24 dev xvs-", "fd00:200::/96 dev xvs-"] {
        assert!(routes().contains(part), "{}", routes());
    }
    balance.tell("quit", "ok");
    balance.event("stopped");
    assert_eq!(balance.child.wait().unwrap().code(), Some(0));
    assert!(!routes().contains("xvs-"), "{}", routes());
}

#[test]
fn balance_ends_by_time_and_by_command() {
    let Some(lab) = Lab::new("ends") else { return };
    let arguments = [&["balance"][..], &WEB, &["--duration", "1.5"]].concat();
    let (code, stdout, stderr) = lab.run(&arguments);
    assert_eq!(code, 0, "{stderr}");
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(matches!(lines[..], ["ready", summary] if summary.starts_with("stopped (duration)")));

    let mut balance = lab.balance(&WEB);
    balance.event("ready");
    balance.tell("quit", "ok");
    assert_eq!(balance.event("stopped")["cause"], "quit");
    assert_eq!(balance.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_vlan_that_cannot_be_reached_is_told_with_the_reason() {
    let Some(lab) = Lab::new("vlans") else { return };
    let vlans = ["--vlan", "9=10.9.9.0/24", "--mtu", "9=1400"];
    let arguments = ["eth0", "10.1.2.0/24", "192.168.100.1", "10.9.9.3"];
    let balance = lab.balance(&[&arguments[..], &vlans].concat());
    // The carrier of the other VLAN's interface may come late, which is told too.
    let told = || loop {
        let event = balance.event("vlan");
        if event["vlan"] == 9 {
            return event;
        }
    };
    let first = told();
    assert_eq!(
        (&first["vlan"], &first["prefix"], &first["status"]),
        (&json!(9), &json!("10.9.9.0/24"), &json!("no_interface"))
    );
    assert_eq!(balance.event("waiting")["destinations"][0]["status"], "no_interface");
    let shown = &lab.objects(&["show", "vlans"])[1];
    assert_eq!((&shown["status"], &shown["interface"]), (&json!("no_interface"), &json!(null)));
    let (_, table, _) = lab.run(&["show", "vlans"]);
    assert!(table.contains("no interface has an address in it"), "{table}");

    lab.balancer.sh("ip link add other type veth peer name unused && ip link set other up
         ip addr add 10.9.9.1/24 dev other");
    let shown = || lab.objects(&["show", "vlans"])[1].clone();
    assert_eq!(told()["status"], "elsewhere");
    assert_eq!(shown()["status"], "elsewhere");
    lab.balancer.sh("ip addr add 10.9.9.2/24 dev eth0
         ip route add default via 10.9.9.254 dev eth0");
    assert_eq!(told()["status"], "usable");
    wait_until("the gateway is seen", || shown()["gateway"] == "10.9.9.254");
    let shown = shown();
    assert_eq!(
        (&shown["interface"], &shown["address"], &shown["mtu"]),
        (&json!("eth0"), &json!("10.9.9.2"), &json!(1400))
    );
}

#[test]
fn several_interfaces_are_balanced_on_and_told() {
    let Some(lab) = Lab::new("several") else { return };
    let balance = lab.balance(&[
        "eth0,eth1",
        "10.1.2.0/24",
        "192.168.100.1",
        "10.1.2.3",
        "--vlan=9=10.1.3.0/24",
    ]);
    let ready = balance.event("ready");
    let names = |list: &Value| -> Vec<String> {
        let all = list.as_array().expect("a list").iter();
        all.map(|object| object["name"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(names(&ready["interfaces"]), ["eth0", "eth1"]);
    let info = &lab.objects(&["show", "info"])[0];
    assert_eq!(names(&info["interfaces"]), ["eth0", "eth1"]);
    let vlans = lab.objects(&["show", "vlans"]);
    let shown: Vec<_> =
        vlans.iter().map(|vlan| (&vlan["vlan"], &vlan["interface"], &vlan["status"])).collect();
    let (one, nine) = (json!(1), json!(9));
    let [eth0, eth1, usable, down] = ["eth0", "eth1", "usable", "down"].map(|word| json!(word));
    // The other end of eth1 is down.
    assert_eq!(shown, [(&one, &eth0, &usable), (&nine, &eth1, &down)]);
}

#[test]
fn an_unreachable_server_is_told_with_the_reason() {
    let Some(lab) = Lab::new("unreachable") else {
        return;
    };
    let balance = lab.balance(&["eth0", "10.1.2.0/24", "192.168.100.1", "10.1.2.3", "10.9.9.9"]);
    let waiting = balance.event("waiting");
    assert_eq!(waiting["destinations"][0]["address"], "10.9.9.9");
    assert_eq!(waiting["destinations"][0]["status"], "no_prefix");
    let service = &lab.objects(&["show", "services"])[0];
    assert_eq!(
        (service["status"].as_str(), service["usable"].as_u64()),
        (Some("forwarding"), Some(1))
    );
    let (_, table, _) = lab.run(&["show", "destinations"]);
    assert!(table.contains("in no VLAN's prefix"), "{table}");
    drop(balance);

    let balance = lab.balance(&["eth0", "10.1.2.0/24", "192.168.100.1", "10.9.9.9"]);
    assert_eq!(balance.event("waiting")["services"][0]["status"], "unreachable");
    let (_, table, _) = lab.run(&["show", "services"]);
    assert!(table.contains("forwards nothing: ") && table.contains("(10.9.9.9: "), "{table}");
}

#[test]
fn what_a_dead_process_left_is_detached() {
    let Some(lab) = Lab::new("dead") else { return };
    let balance = lab.balance(&WEB);
    balance.event("ready");
    drop(balance);
    let (code, _, stderr) = lab.run(&["show"]);
    assert!(code == 0 && stderr.contains("is gone"), "{stderr}");
    let (code, stdout, stderr) = lab.run(&["detach"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains(&lab.instance), "{stdout}");
    assert!(!lab.balancer.sh("ip link show eth0").contains("xdp"));
    assert_eq!(lab.run(&["detach"]).0, 1);
}

const STATS: &str = "active fin flows limited live octets packets reasons recent rst syn";

#[test]
fn show_tells_all_with_stable_keys() {
    let Some(lab) = Lab::new("show") else { return };
    let balance = lab.balance(&WEB);
    balance.event("ready");

    let both = lab.objects(&["show"]);
    let [info, service] = both.as_slice() else { panic!("info and one service: {both:?}") };
    assert_eq!(
        keys(info),
        "alive destinations destinations_limit flows flows_limit flows_replaced instance \
         interfaces latency_ns persist_seconds process services services_limit sharing stats \
         table_size type uptime_seconds vips"
    );
    assert_eq!(info["process"], balance.child.id());
    assert_eq!(
        keys(&info["interfaces"][0]),
        "attached driver index mode mtu name offloads_off offloads_on rx_queues tx_queues up"
    );
    assert_eq!(info["interfaces"][0]["mtu"], 1500);
    assert_eq!(keys(&info["vips"][0]), "address services stats");
    assert_eq!(keys(&info["stats"]), STATS);
    assert_eq!(keys(&info["sharing"]), "accepted enabled lost");
    assert_eq!(
        keys(&info["sharing"]["accepted"]),
        "bad expired kept no_destination no_room no_service refreshed stored"
    );
    assert_eq!(
        keys(&info["stats"]["reasons"]).split(' ').count(),
        Reasons::default().iter().count()
    );
    assert_eq!(
        keys(service),
        "address closing_seconds destinations idle_seconds new_flows port protocol reason service \
         stats status sticky transition_seconds type unreachable usable"
    );
    assert_eq!(service["status"], "forwarding");
    assert_eq!(service["usable"], 2);
    assert_eq!(
        (&service["new_flows"], &service["transition_seconds"]),
        (&json!(10_000), &json!(60.0))
    );
    assert_eq!(keys(&service["stats"]), STATS);

    let destinations = lab.objects(&["show", "destinations"]);
    assert_eq!(destinations.len(), 2);
    assert_eq!(
        keys(&destinations[0]),
        "address disabled drain interface interface_index mac mtu reason service source stats \
         status tunnel type weight"
    );
    assert_eq!(destinations[0]["interface"], "eth0");
    assert_eq!(destinations[0]["mac"].as_str().map(str::len), Some(17));

    assert!(lab.objects(&["show", "flows"]).is_empty());
    let vlans = lab.objects(&["show", "vlans"]);
    assert_eq!(
        keys(&vlans[0]),
        "address gateway interface interface_index mtu prefix reason status tag type vlan"
    );
    assert_eq!(
        (&vlans[0]["prefix"], &vlans[0]["interface"]),
        (&"10.1.2.0/24".into(), &"eth0".into())
    );
    let neighbours = lab.objects(&["show", "neighbours"]);
    assert_eq!(keys(&neighbours[0]), "address interface interface_index mac managed state type");
    assert!(neighbours.iter().any(|neighbour| neighbour["address"] == "10.1.2.3"));

    let nats = lab.objects(&["show", "nat"]);
    assert_eq!(nats.len(), 2);
    assert_eq!(keys(&nats[0]), "destination mtu nat reason service source status tunnel type");
    assert_eq!((&nats[0]["service"], &nats[0]["mtu"]), (&service["service"], &json!(1500)));

    for subject in ["info", "services", "destinations", "flows", "vlans", "neighbours", "nat"] {
        let (code, stdout, stderr) = lab.run(&["show", subject]);
        assert_eq!((code, stderr.as_str()), (0, ""), "{subject}");
        assert!(!stdout.is_empty(), "{subject}");
    }

    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let output = lab.balancer.enter(|| lab.command(&["show"]).stdout(writer).output().unwrap());
    assert_eq!(finished(&["show"], output), (0, String::new(), String::new()));
}

#[test]
fn explain_tells_where_packets_go_and_why() {
    let Some(lab) = Lab::new("explain") else {
        return;
    };
    let mut balance = lab.balance(&WEB);
    balance.event("ready");
    let explain = |arguments: &[&str]| {
        let mut all = lab.objects(&[&["explain"], arguments].concat());
        assert_eq!(all.len(), 1);
        all.remove(0)
    };

    let syn = explain(&["tcp", "10.7.7.7:1234", "192.168.100.1:80", "--syn"]);
    assert_eq!(
        keys(&syn),
        "destination flow previous_table reason service shares steps table_index type verdict"
    );
    assert_eq!((&syn["verdict"], &syn["reason"]), (&"forward".into(), &"forwarded_syn".into()));
    assert!(syn["table_index"].is_u64() && syn["destination"]["mac"].is_string());
    let ack = explain(&["tcp", "10.7.7.7:1234", "192.168.100.1:80"]);
    assert_eq!(ack["reason"], "forwarded_new");
    assert_eq!(ack["table_index"], syn["table_index"]);
    assert_eq!((&ack["previous_table"], &syn["previous_table"]), (&false.into(), &false.into()));

    let any = explain(&["tcp", "10.7.7.7", "192.168.100.1:80"]);
    assert_eq!(any["shares"].as_array().map(Vec::len), Some(2));
    let sum: f64 =
        any["shares"].as_array().unwrap().iter().filter_map(|s| s["share"].as_f64()).sum();
    assert!((sum - 1.0).abs() < 1e-6, "{any}");

    assert_eq!(explain(&["tcp", "10.7.7.7:1", "192.168.100.9:80"])["reason"], "not_vip");
    let (_, steps, _) = lab.run(&["explain", "udp", "10.7.7.7:1", "192.168.100.1:53"]);
    assert!(steps.contains("no_service") && steps.contains("192.168.100.1:80/tcp"), "{steps}");
    balance.tell("disable 10.1.2.3", "ok");
    balance.tell("disable 10.1.2.4", "ok");
    let (_, steps, _) = lab.run(&["explain", "tcp", "10.7.7.7:1", "192.168.100.1:80", "--syn"]);
    assert!(steps.contains("no_destination") && steps.contains("disabled"), "{steps}");
}

#[test]
fn services_have_the_settings_that_were_given() {
    let Some(lab) = Lab::new("settings") else { return };
    let options = ["--new-flows", "7", "--transition", "600", "--sticky"];
    let mut balance = lab.balance(&[&WEB[..], &options].concat());
    balance.event("ready");
    let ready = Instant::now();
    let service = lab.objects(&["show", "services"]).remove(0);
    assert_eq!(service["new_flows"], 7);
    assert_eq!(service["transition_seconds"], 600.0);
    assert_eq!(service["sticky"], true);

    // Tables count that stood for 5 seconds.
    wait_until("the table has stood", || ready.elapsed() > Duration::from_secs(5));
    balance.tell("disable 10.1.2.3", "ok");
    balance.tell("disable 10.1.2.4", "ok");
    let packet = ["explain", "tcp", "10.7.7.7:1", "192.168.100.1:80"];
    let told = lab.objects(&packet).remove(0);
    assert_eq!((&told["verdict"], &told["previous_table"]), (&"forward".into(), &true.into()));
    let (_, steps, _) = lab.run(&packet);
    assert!(steps.contains("table from before its last change"), "{steps}");
    let syn = lab.objects(&[&packet[..], &["--syn"]].concat()).remove(0);
    assert_eq!(syn["reason"], "no_destination");
}

#[test]
fn probe_names_what_it_lacks() {
    let Some(lab) = Lab::new("probe") else { return };
    let balance = lab.balance(&["eth0", "10.1.2.0/24", "192.168.100.1", "10.1.2.3", "10.9.9.9"]);
    balance.event("waiting");
    // The port need not be a service's.
    for to in ["192.168.100.1:80", "192.168.100.1:81"] {
        let (code, stdout, stderr) = lab.run(&["probe", to, "10.9.9.9", "--json"]);
        assert_eq!((code, stderr.as_str()), (1, ""), "{stdout}");
        let report: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(keys(&report), "destination failure nat ok port reason service steps type");
        assert_eq!((&report["ok"], &report["failure"]), (&json!(false), &json!("no_route")));
        assert_eq!(report["service"], "192.168.100.1:80/tcp");
        assert_eq!(keys(&report["steps"][0]), "detail ms ok step");
    }
    let (code, stdout, _) = lab.run(&["probe", "192.168.100.1:80", "10.9.9.9"]);
    assert!(code == 1 && stdout.contains("failed: 10.9.9.9 cannot be reached"), "{stdout}");
    for (arguments, parts) in [
        (["probe", "192.168.100.9:80", "10.1.2.3"], ["no service on", "192.168.100.9"]),
        (["probe", "192.168.100.1:80", "10.1.2.9"], ["192.168.100.1:80/tcp", "10.1.2.9"]),
        (["probe", "192.168.100.1:81", "10.1.2.9"], ["192.168.100.1:81/tcp", "10.1.2.9"]),
    ] {
        assert_fails(&arguments, lab.run(&arguments), &parts);
    }
    let elsewhere = Namespace::new("elsewhere");
    let arguments = ["probe", "192.168.100.1:80", "10.1.2.3"];
    let output = elsewhere.enter(|| lab.command(&arguments).output().unwrap());
    let nsenter = format!("nsenter --net=/proc/{}/ns/net", balance.child.id());
    assert_fails(&arguments, finished(&arguments, output), &[&lab.instance, &nsenter]);
}

#[test]
fn check_judges_the_host_and_its_interfaces() {
    let Some(lab) = Lab::new("check") else { return };
    let (code, table, stderr) = lab.run(&["check", "eth0"]);
    assert_eq!((code, stderr.as_str()), (0, ""), "{table}");
    for line in table.lines().skip(1) {
        assert!(["ok ", "warn "].iter().any(|level| line.starts_with(level)), "{line}");
    }
    let findings = lab.objects(&["check", "eth0"]);
    for finding in &findings {
        assert_eq!(keys(finding), "found interface level remedy subject type");
    }
    for subject in ["kernel", "BTF", "bpffs", "JIT", "capabilities", "memlock", "XDP", "MTU"] {
        assert!(findings.iter().any(|finding| finding["subject"] == subject), "{subject}");
    }
    for (interface, part) in [("eth7", "no such interface"), ("down0", "ip link set down0 up")] {
        let (code, table, _) = lab.run(&["check", interface]);
        assert_eq!(code, 1, "{table}");
        assert!(table.lines().any(|l| l.starts_with("fail") && l.contains(part)), "{table}");
    }
    assert_eq!(lab.run(&["check", "eth0", "--bpffs", "/nowhere"]).0, 1);

    let balance = lab.balance(&WEB);
    balance.event("ready");
    let (code, table, _) = lab.run(&["check", "eth0"]);
    assert_eq!(code, 0, "{table}");
    assert!(table.contains(&format!("instance `{}` is attached", lab.instance)), "{table}");
}
