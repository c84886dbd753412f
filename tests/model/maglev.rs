//! The lookup table, written from its rules alone: every member's share and
//! permutation in full, then the rounds.

use std::net::IpAddr;

use siphasher::sip::SipHasher13;

/// Who has each entry; empty without members.
pub fn table(size: u32, key: &[u8; 16], members: &[(IpAddr, u32)]) -> Vec<IpAddr> {
    let mut members = members.to_vec();
    members.sort_by_key(|(address, _)| octets(*address));
    if members.is_empty() {
        return Vec::new();
    }
    let weights: Vec<u32> = members.iter().map(|(_, weight)| *weight).collect();
    let shares = shares(size, &weights);
    let largest = *shares.iter().max().expect("there are members");
    let hash = |address: IpAddr, domain: u8| {
        let mut data = octets(address).to_vec();
        data.push(domain);
        SipHasher13::new_with_key(key).hash(&data)
    };
    let mut preferences: Vec<_> = members
        .iter()
        .map(|(address, _)| {
            let offset = hash(*address, 0) % u64::from(size);
            let skip = hash(*address, 1) % u64::from(size - 1) + 1;
            (0..u64::from(size)).map(move |n| ((offset + n * skip) % u64::from(size)) as usize)
        })
        .collect();
    let mut table = vec![None; size as usize];
    let mut credits = vec![0; members.len()];
    let mut free = table.len();
    while free > 0 {
        for (member, (address, _)) in members.iter().enumerate() {
            credits[member] += shares[member];
            if credits[member] < largest {
                continue;
            }
            credits[member] -= largest;
            let entry = preferences[member].find(|entry| table[*entry].is_none());
            table[entry.expect("a permutation reaches every entry")] = Some(*address);
            free -= 1;
        }
    }
    table.into_iter().flatten().collect()
}

/// How many entries each weight gets.
fn shares(size: u32, weights: &[u32]) -> Vec<u32> {
    let size = u64::from(size);
    let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    let mut shares: Vec<u64> = weights.iter().map(|w| size * u64::from(*w) / sum).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    // Stable, so the first in order stays first among equals.
    order.sort_by_key(|i| std::cmp::Reverse(size * u64::from(weights[*i]) % sum));
    let left = size - shares.iter().sum::<u64>();
    for i in order.into_iter().take(left as usize) {
        shares[i] += 1;
    }
    while let Some(none) = shares.iter().position(|share| *share == 0) {
        let largest = *shares.iter().max().expect("there are weights");
        let giver = shares.iter().position(|share| *share == largest);
        shares[giver.expect("one has the largest")] -= 1;
        shares[none] = 1;
    }
    shares.into_iter().map(|share| share as u32).collect()
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
