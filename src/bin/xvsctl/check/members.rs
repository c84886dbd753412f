//! What the members of a bond should have in common: a packet may come by any.

use std::collections::BTreeMap;

use xvs::host::HostLink;
use xvs::host::ReceiveQueues;

use super::Finding;

/// What a driver or the kernel does not tell.
const UNKNOWN: &str = "unknown";

/// What is compared of a member. What is not known is `None`.
#[derive(Clone, Debug)]
pub struct Member {
    name: String,
    mtu: u32,
    queues: Option<u32>,
    /// How the indirection table spreads packets.
    spread: Option<String>,
    function: Option<&'static str>,
    /// Whether the hash has a key.
    keyed: Option<bool>,
}

impl Member {
    pub fn new(link: &HostLink, queues: &ReceiveQueues) -> Self {
        let rss = queues.rss.as_ref();
        Self {
            name: link.name.clone(),
            mtu: link.mtu,
            queues: queues.count,
            spread: rss.map(|rss| spread(&rss.indirection)),
            function: rss.and_then(|rss| rss.function),
            keyed: rss.map(|rss| rss.keyed),
        }
    }
}

/// What differs between the members of a bond.
pub fn compare(bond: &str, members: &[Member]) -> Vec<Finding> {
    if members.len() < 2 {
        return Vec::new();
    }
    let texts = |text: fn(&Member) -> Option<String>| -> Vec<(String, &str)> {
        let text = |member| text(member).unwrap_or_else(|| UNKNOWN.to_owned());
        members.iter().map(|member| (text(member), member.name.as_str())).collect()
    };
    let mtu = format!("`ip link set {bond} mtu OCTETS` sets that of all members");
    let compared = [
        ("members' MTU", texts(|m| Some(m.mtu.to_string())), mtu.as_str()),
        (
            "members' queues",
            texts(|m| m.queues.map(|queues| queues.to_string())),
            "`ethtool -L MEMBER combined N` (or `rx N`) makes them the same",
        ),
        (
            "members' indirection",
            texts(|m| m.spread.clone()),
            "`ethtool -X MEMBER equal N` makes them the same",
        ),
        (
            "members' hash",
            texts(|m| m.function.map(str::to_owned)),
            "`ethtool -X MEMBER hfunc NAME` makes them the same, where drivers have both",
        ),
        (
            "members' hash key",
            texts(|m| m.keyed.map(|keyed| if keyed { "set" } else { "none" }.to_owned())),
            "`ethtool -X MEMBER hkey KEY` sets one, where the driver takes it",
        ),
    ];
    let findings: Vec<Finding> = compared
        .iter()
        .filter_map(|(subject, texts, remedy)| {
            Some(Finding::warn(subject, difference(texts)?, *remedy))
        })
        .collect();
    if !findings.is_empty() {
        return findings;
    }
    let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
    let known = compared.iter().filter(|(_, texts, _)| texts[0].0 != UNKNOWN);
    let known: Vec<&str> =
        known.filter_map(|(subject, ..)| subject.strip_prefix("members' ")).collect();
    let found = format!("{}: alike in {}", names.join(", "), known.join(", "));
    vec![Finding::ok("members", found)]
}

/// Who has what, such as `8 on eth0, eth2; 4 on eth1`, unless it is the same.
fn difference(texts: &[(String, &str)]) -> Option<String> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for (text, name) in texts {
        match groups.iter_mut().find(|(other, _)| other == text) {
            Some((_, names)) => names.push(name),
            None => groups.push((text, vec![name])),
        }
    }
    let told = |(text, names): &(&str, Vec<&str>)| format!("{text} on {}", names.join(", "));
    (groups.len() > 1).then(|| groups.iter().map(told).collect::<Vec<_>>().join("; "))
}

/// The queues of an indirection table, and the shares of those that have
/// unequal ones.
fn spread(indirection: &[u32]) -> String {
    let mut entries: BTreeMap<u32, usize> = BTreeMap::new();
    for queue in indirection {
        *entries.entry(*queue).or_default() += 1;
    }
    let (least, most) = (entries.values().min(), entries.values().max());
    let (Some(least), Some(most)) = (least, most) else {
        return "no table".to_owned();
    };
    // The table's size need not be a multiple of the number of queues.
    let equal = most - least <= 1;
    // Neighbours that have the same: first, last, entries of each.
    let mut runs: Vec<(u32, u32, usize)> = Vec::new();
    for (queue, count) in &entries {
        match runs.last_mut() {
            Some((_, last, of_each))
                if last.checked_add(1) == Some(*queue) && (equal || of_each == count) =>
            {
                *last = *queue;
            }
            _ => runs.push((*queue, *queue, *count)),
        }
    }
    let told = |(first, last, count): &(u32, u32, usize)| {
        let queues = if first == last { first.to_string() } else { format!("{first}-{last}") };
        if equal { queues } else { format!("{queues} ({count} of {})", indirection.len()) }
    };
    let runs: Vec<String> = runs.iter().map(told).collect();
    format!("to queues {}", runs.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;

    fn member(name: &str) -> Member {
        Member {
            name: name.to_owned(),
            mtu: 1500,
            queues: Some(8),
            spread: Some("to queues 0-7".to_owned()),
            function: Some("toeplitz"),
            keyed: Some(true),
        }
    }

    fn told(members: &[Member]) -> Vec<(&'static str, String)> {
        let findings = compare("bond0", members);
        let remedies = findings.iter().all(|f| (f.level == Level::Ok) == f.remedy.is_none());
        assert!(remedies, "{findings:?}");
        findings.into_iter().map(|finding| (finding.subject, finding.found)).collect()
    }

    #[test]
    fn members_that_are_alike_are_told_so() {
        assert!(told(&[]).is_empty());
        assert!(told(&[member("eth0")]).is_empty());
        let alike = "eth0, eth1: alike in MTU, queues, indirection, hash, hash key".to_owned();
        assert_eq!(told(&[member("eth0"), member("eth1")]), [("members", alike)]);
        let silent = |name| Member { spread: None, function: None, keyed: None, ..member(name) };
        let alike = "eth0, eth1: alike in MTU, queues".to_owned();
        assert_eq!(told(&[silent("eth0"), silent("eth1")]), [("members", alike)]);
    }

    #[test]
    fn each_difference_names_members_and_values() {
        let other = Member { queues: Some(4), ..member("eth1") };
        assert_eq!(
            told(&[member("eth0"), other, member("eth2")]),
            [("members' queues", "8 on eth0, eth2; 4 on eth1".to_owned())]
        );
        let other = Member {
            mtu: 9000,
            queues: None,
            spread: Some("to queues 0-3".to_owned()),
            function: Some("xor"),
            keyed: Some(false),
            ..member("eth1")
        };
        let expected = [
            ("members' MTU", "1500 on eth0; 9000 on eth1"),
            ("members' queues", "8 on eth0; unknown on eth1"),
            ("members' indirection", "to queues 0-7 on eth0; to queues 0-3 on eth1"),
            ("members' hash", "toeplitz on eth0; xor on eth1"),
            ("members' hash key", "set on eth0; none on eth1"),
        ]
        .map(|(subject, found)| (subject, found.to_owned()));
        assert_eq!(told(&[member("eth0"), other]), expected);
    }

    #[test]
    fn tables_are_told_by_their_queues_and_shares() {
        let cycle = |queues: u32, entries: u32| (0..entries).map(|i| i % queues).collect();
        let expected: [(Vec<u32>, &str); 7] = [
            (Vec::new(), "no table"),
            (vec![0; 128], "to queues 0"),
            (cycle(8, 128), "to queues 0-7"),
            (cycle(6, 128), "to queues 0-5"),
            (cycle(6, 512), "to queues 0-5"),
            (vec![0, 1, 4, 5], "to queues 0-1, 4-5"),
            (vec![0, 0, 0, 1, 1, 1, 2, 4], "to queues 0-1 (3 of 8), 2 (1 of 8), 4 (1 of 8)"),
        ];
        for (table, text) in expected {
            assert_eq!(spread(&table), text, "{table:?}");
        }
    }
}
