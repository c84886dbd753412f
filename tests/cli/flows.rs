//! `xvsctl flows` lists, picks and counts what a balancer remembers.

use std::collections::BTreeSet;

use serde_json::Value;
use serde_json::json;

use crate::assert_fails;
use crate::lab::Lab;
use crate::lab::keys;
use crate::lab::wait_until;

const UDP: [&str; 6] =
    ["eth0", "10.1.2.0/24", "192.168.100.1", "10.1.2.3", "10.1.2.4", "--port=53/udp"];

#[test]
fn flows_are_picked_and_counted() {
    let Some(lab) = Lab::new("flows") else { return };
    assert_fails(&["flows"], lab.run(&["flows"]), &[&lab.instance, "no instance"]);
    let balance = lab.balance(&UDP);
    balance.event("ready");
    assert!(lab.objects(&["flows"]).is_empty());
    lab.send("192.168.100.1:53", 16, 4);
    wait_until("all flows are stored", || lab.objects(&["flows"]).len() == 16);

    let flows = lab.objects(&["flows"]);
    assert_eq!(
        keys(&flows[0]),
        "age destination idle_seconds service source source_port state type"
    );
    assert_eq!(flows[0]["service"], "192.168.100.1:53/udp");
    let ages = ["once", "twice"].map(Value::from);
    assert!(flows.iter().all(|flow| ages.contains(&flow["age"])), "{flows:?}");
    let ports = |flows: &[Value]| -> BTreeSet<u64> {
        flows.iter().filter_map(|flow| flow["source_port"].as_u64()).collect()
    };
    assert_eq!(ports(&flows).len(), 16);
    let of = |arguments: &[&str]| lab.objects(&[&["flows"], arguments].concat());
    assert_eq!(ports(&of(&["--service", "192.168.100.1:53/udp"])), ports(&flows));
    assert_eq!(ports(&of(&["--client", "10.1.2.3", "--state", "open"])), ports(&flows));
    assert!(of(&["--client", "10.1.2.4/30", "--state", "open"]).is_empty());
    assert!(of(&["--state", "closing"]).is_empty());
    assert_eq!(of(&["--limit", "3"]).len(), 3);
    let [three, four] = ["10.1.2.3", "10.1.2.4"].map(|server| of(&["--server", server]));
    assert!(three.iter().all(|flow| flow["destination"] == "10.1.2.3"), "{three:?}");
    assert_eq!(three.len() + four.len(), 16);

    let counts = of(&["--count", "--server", "10.1.2.3"]);
    assert_eq!(counts.len(), usize::from(!three.is_empty()));
    assert_eq!(keys(&counts[0]), "destination flows service type");
    assert_eq!(counts[0]["flows"], json!(three.len()));
    let (code, table, stderr) = lab.run(&["flows", "--count"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(table.lines().last().is_some_and(|line| line.ends_with(" 16")), "{table}");
    let (_, listed, _) = lab.run(&["flows", "--server", "10.1.2.4"]);
    assert_eq!(listed.lines().count(), 1 + four.len(), "{listed}");
    assert_eq!(lab.run(&["show", "flows"]).1.lines().count(), 1 + 16);

    for (arguments, part) in [
        (&["flows", "--service", "192.168.100.1:80"][..], "192.168.100.1:80/tcp"),
        (&["flows", "--server", "10.1.2.9"], "10.1.2.9"),
        (&["flows", "--service=192.168.100.1:53/udp", "--server=10.1.2.9"], "not 192.168.100.1:53"),
    ] {
        assert_fails(arguments, lab.run(arguments), &[part]);
    }
}
