//! A real server that is taken away is shown with its last flows.

use serde_json::Value;
use serde_json::json;

use crate::lab::Lab;
use crate::lab::keys;
use crate::lab::wait_until;

#[test]
fn a_draining_server_is_told_until_it_is_drained() {
    let Some(lab) = Lab::new("drain") else { return };
    let mut balance =
        lab.balance(&["eth0", "10.1.2.0/24", "192.168.100.1", "10.1.2.4", "--port=53/udp"]);
    balance.event("ready");
    lab.send("192.168.100.1:53", 6, 4);
    let shown = || lab.objects(&["show", "destinations"])[0].clone();
    assert_eq!(shown()["drain"], json!(null));

    balance.tell("disable 10.1.2.4 8", "ok");
    wait_until("its flows are counted", || shown()["drain"]["flows"] == 6);
    let drain = shown()["drain"].clone();
    assert_eq!(
        keys(&drain),
        "done flows left_seconds newest_seconds packets_per_second since_seconds"
    );
    let seconds = |key: &str| drain[key].as_f64().expect("it is known");
    assert_eq!(drain["done"], false);
    assert!((seconds("left_seconds") + seconds("since_seconds") - 8.0).abs() < 0.001, "{drain}");
    assert!(seconds("newest_seconds") < 8.0, "{drain}");
    let (_, table, _) = lab.run(&["show", "destinations"]);
    for part in ["disabled for ", "6 flows, the last packet ", " left; reachable"] {
        assert!(table.contains(part), "{part} in {table}");
    }

    let drained: Value = balance.event("drained");
    assert_eq!(keys(&drained), "address event message moved service");
    assert_eq!((&drained["address"], &drained["moved"]), (&json!("10.1.2.4"), &json!(6)));
    assert_eq!(shown()["drain"]["done"], true);
    let (_, table, _) = lab.run(&["show", "destinations"]);
    assert!(table.contains(", drained; reachable"), "{table}");
    balance.tell("enable 10.1.2.4", "ok");
    assert_eq!(shown()["drain"], json!(null));
}
