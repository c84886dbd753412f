//! Maglev: a lookup table that changes little when destinations do
//! (Eisenbud et al., "Maglev", NSDI 2016, section 3.4), with exact weights.
//!
//! The table depends on the destinations' addresses and weights, the key and
//! the size alone: not on slots, nor on the order they are given in. So
//! balancers with the same configuration choose alike. With 500 entries or
//! more for each member, one that comes or goes moves at most twice its share.
//!
//! 1. Members are sorted by their addresses, written as 16 octets (IPv4
//!    mapped into IPv6).
//! 2. Each gets `floor(size * weight / sum)` entries; what is left goes, one
//!    each, to the largest remainders, among equals to the first in order.
//!    Then each that has none takes one from the largest share (among equals
//!    the first).
//! 3. Each prefers the entries `offset + n * skip mod size`, n = 0, 1, ..,
//!    where offset is SipHash-1-3 of the 16 octets and a zero octet, modulo
//!    size, and skip that of the 16 octets and a one octet, modulo size - 1,
//!    plus 1.
//! 4. In rounds, in order, each adds its share to its credit; when the credit
//!    reaches the largest share, it pays that and takes its next preferred
//!    entry that is free.

use std::net::IpAddr;

use crate::hash::HashKey;
use crate::hash::siphash13;

/// One destination with the weight it has in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) address: IpAddr,
    pub(crate) weight: u32,
}

/// A member's position in its permutation of the table.
struct Walk {
    member: u32,
    next: u32,
    skip: u32,
}

/// With so few entries free, looking at each of them takes less time than the
/// way through those that are taken.
const FEW: usize = 128;

/// For each entry the index into `members` of its destination; empty when
/// there are no members. `size` is a prime, and there are at most that many
/// members, with distinct addresses and weights over 0.
pub(crate) fn table(size: u32, key: HashKey, members: &[Member]) -> Vec<u32> {
    if members.is_empty() {
        return Vec::new();
    }
    let mut order: Vec<u32> = (0..members.len() as u32).collect();
    order.sort_by_key(|i| octets(members[*i as usize].address));
    let weights: Vec<u32> = order.iter().map(|i| members[*i as usize].weight).collect();
    let mut walks: Vec<Walk> = order
        .iter()
        .map(|member| {
            let octets = octets(members[*member as usize].address);
            Walk {
                member: *member,
                next: (domain_hash(key, octets, 0) % u64::from(size)) as u32,
                skip: (domain_hash(key, octets, 1) % u64::from(size - 1)) as u32 + 1,
            }
        })
        .collect();

    let turns = turns(&shares(size, &weights));
    let (many, few) = turns.split_at(turns.len().saturating_sub(FEW));
    let mut table = vec![0; size as usize];
    let mut taken = vec![0u64; size as usize / 64 + 1];
    for turn in many {
        let walk = &mut walks[*turn as usize];
        let entry = loop {
            let entry = walk.step(size);
            let bit = 1 << (entry % 64);
            let word = &mut taken[entry as usize / 64];
            if *word & bit == 0 {
                *word |= bit;
                break entry;
            }
        };
        table[entry as usize] = walk.member;
    }
    let is_free = |entry: &u32| taken[*entry as usize / 64] & (1 << (entry % 64)) == 0;
    let mut free: Vec<u32> = (0..size).filter(is_free).collect();
    for turn in few {
        let walk = &mut walks[*turn as usize];
        let steps = walk.steps(size);
        if let Some(first) = (0..free.len()).min_by_key(|i| steps(free[*i])) {
            walk.next = free.swap_remove(first);
            table[walk.step(size) as usize] = walk.member;
        }
    }
    table
}

impl Walk {
    /// The next entry, taken or not.
    fn step(&mut self, size: u32) -> u32 {
        let entry = self.next;
        let next = entry + self.skip;
        // Without a branch, for nobody can predict it.
        self.next = next.min(next.wrapping_sub(size));
        entry
    }

    /// How many steps away an entry is.
    fn steps(&self, size: u32) -> impl Fn(u32) -> u64 + use<> {
        let (size, next) = (u64::from(size), u64::from(self.next));
        // By Fermat's little theorem, for the size is a prime.
        let inverse = power(u64::from(self.skip), size - 2, size);
        move |entry| (u64::from(entry) + size - next) * inverse % size
    }
}

fn power(base: u64, exponent: u64, modulus: u64) -> u64 {
    let mut result = 1;
    for bit in (0..u64::BITS - exponent.leading_zeros()).rev() {
        result = result * result % modulus;
        if exponent >> bit & 1 == 1 {
            result = result * base % modulus;
        }
    }
    result
}

/// Who takes an entry, in order. In round n (from 1 on) a share has been paid
/// for `floor(n * share / largest)` times, so its turn k comes in round
/// `ceil(k * largest / share)`.
fn turns(shares: &[u32]) -> Vec<u32> {
    let largest = shares.iter().copied().max().unwrap_or(0);
    let rounds = |share: u32| {
        let (whole, part) = (largest / share, largest % share);
        let mut round = 0;
        let mut credit = 0;
        (0..share).map(move |_| {
            let more = u32::from(credit < part);
            round += whole + more;
            credit = credit + more * share - part;
            round as usize - 1
        })
    };
    // A counting sort by round.
    let mut next = vec![0u32; largest as usize];
    for share in shares {
        rounds(*share).for_each(|round| next[round] += 1);
    }
    let mut sum = 0;
    for turns in &mut next {
        sum += std::mem::replace(turns, sum);
    }
    let mut turns = vec![0; sum as usize];
    for (member, share) in (0..).zip(shares) {
        for round in rounds(*share) {
            turns[next[round] as usize] = member;
            next[round] += 1;
        }
    }
    turns
}

/// How many of `size` entries each weight gets.
fn shares(size: u32, weights: &[u32]) -> Vec<u32> {
    let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
    let exact = |w: u32| u64::from(size) * u64::from(w);
    let mut shares: Vec<u32> = weights.iter().map(|w| (exact(*w) / sum) as u32).collect();
    let rest = size - shares.iter().sum::<u32>();
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by_key(|i| std::cmp::Reverse(exact(weights[*i]) % sum));
    for i in &by_remainder[..rest as usize] {
        shares[*i] += 1;
    }
    while let Some(none) = shares.iter().position(|s| *s == 0) {
        let most = shares.iter().copied().max().unwrap_or(0);
        if let Some(largest) = shares.iter().position(|s| *s == most) {
            shares[largest] -= 1;
            shares[none] += 1;
        }
    }
    shares
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn domain_hash(key: HashKey, octets: [u8; 16], domain: u8) -> u64 {
    let mut data = [domain; 17];
    data[..16].copy_from_slice(&octets);
    siphash13(key, &data)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u32 = 65_537;

    fn key() -> HashKey {
        HashKey::from(*b"sixteen octets!!")
    }

    fn members(weights: impl IntoIterator<Item = u32>) -> Vec<Member> {
        let member = |(i, weight): (usize, u32)| {
            let i = i as u16;
            let address = match i % 3 {
                0 => IpAddr::from([10, 1, (i >> 8) as u8, i as u8]),
                _ => IpAddr::from([0xfd00, 1, 2, 0, 0, 0, 0, i]),
            };
            Member { address, weight }
        };
        weights.into_iter().enumerate().map(member).collect()
    }

    /// The table by address, which is what must not depend on order.
    fn addresses(members: &[Member]) -> Vec<IpAddr> {
        let table = table(SIZE, key(), members);
        table.into_iter().map(|i| members[i as usize].address).collect()
    }

    fn counts(members: &[Member]) -> Vec<u32> {
        let mut counts = vec![0; members.len()];
        for i in table(SIZE, key(), members) {
            counts[i as usize] += 1;
        }
        counts
    }

    #[test]
    fn shares_follow_weights() {
        let cases: [Vec<u32>; 6] = [
            vec![1],
            vec![1; 3],
            vec![1; 100],
            vec![1, 2, 3, 4],
            (1..=100).collect(),
            vec![65_535, 1, 30_000],
        ];
        for weights in cases {
            let sum: u32 = weights.iter().sum();
            for (count, weight) in counts(&members(weights.iter().copied())).iter().zip(&weights) {
                let ideal = f64::from(SIZE) * f64::from(*weight) / f64::from(sum);
                let off = (f64::from(*count) - ideal).abs();
                assert!(off <= 1.0, "weight {weight} of {sum}: {count} entries, ideal {ideal}");
                assert!(off / ideal <= 0.01 || *weight * 600 < sum, "{weight}: {count} {ideal}");
            }
        }
    }

    #[test]
    fn nobody_is_left_out() {
        let mut weights = vec![65_535; 200];
        weights.extend([1; 50]);
        assert!(counts(&members(weights)).iter().all(|count| *count >= 1));
        let full = members(vec![1; 251]);
        let table = table(251, key(), &full);
        assert!((0..251).all(|i| table.contains(&i)));
    }

    /// Rule 4 as it is written, round by round.
    #[test]
    fn turns_are_those_of_the_rounds() {
        let cases: [&[u32]; 6] =
            [&[7], &[1, 1, 1], &[1, 2, 3, 4], &[250, 1], &[3, 100, 97, 51, 1], &[12, 18, 30, 6]];
        for shares in cases {
            let largest = *shares.iter().max().unwrap();
            let mut credits = vec![0; shares.len()];
            let mut expected = Vec::new();
            while expected.len() < shares.iter().sum::<u32>() as usize {
                for (member, share) in (0..).zip(shares) {
                    credits[member as usize] += share;
                    if credits[member as usize] >= largest {
                        credits[member as usize] -= largest;
                        expected.push(member);
                    }
                }
            }
            assert_eq!(turns(shares), expected, "{shares:?}");
        }
    }

    #[test]
    fn steps_lead_to_their_entry() {
        for (next, skip) in [(0, 1), (3, 250), (250, 17), (100, 99)] {
            let steps = Walk { member: 0, next, skip }.steps(251);
            let mut walk = Walk { member: 0, next, skip };
            assert!((0..251).all(|n| steps(walk.step(251)) == n), "{next} {skip}");
        }
    }

    #[test]
    fn order_does_not_matter() {
        let given = members((1..=50).map(|i| i % 7 + 1));
        let mut shuffled = given.clone();
        shuffled.reverse();
        shuffled.rotate_left(17);
        assert_eq!(addresses(&given), addresses(&shuffled));
    }

    #[test]
    fn key_matters() {
        let m = members([1; 10]);
        assert_ne!(table(SIZE, key(), &m), table(SIZE, HashKey::from([0; 16]), &m));
    }

    #[test]
    fn little_moves_when_one_comes_or_goes() {
        for n in [2, 3, 5, 10, 50, 100, 130] {
            for weights in [vec![1; n], (0..n as u32).map(|i| i % 4 + 1).collect()] {
                let all = members(weights.iter().copied());
                let with = addresses(&all);
                for gone in [0, n / 2, n - 1] {
                    let mut fewer = all.clone();
                    let lost = fewer.remove(gone);
                    let without = addresses(&fewer);
                    let moved = with.iter().zip(&without).filter(|(a, b)| a != b).count();
                    let sum: u32 = weights.iter().sum();
                    // What a light member frees is less than the shifts among
                    // the heavy ones: those are held against the mean share.
                    let share = f64::from(lost.weight) / f64::from(sum);
                    let ideal = f64::from(SIZE) * share.max(1.0 / n as f64);
                    assert!(
                        moved as f64 <= 2.0 * ideal,
                        "{n} members, one of weight {}: {moved} of {SIZE} moved, ideal {ideal}",
                        lost.weight
                    );
                }
            }
        }
    }

    #[test]
    fn known_tables_stay() {
        let m: Vec<Member> = [("10.0.0.1", 1), ("10.0.0.2", 2), ("fd00::1", 1)]
            .map(|(a, weight)| Member { address: a.parse().unwrap(), weight })
            .to_vec();
        let table = table(251, HashKey::from([0; 16]), &m);
        let line: String = table[..40].iter().map(ToString::to_string).collect();
        assert_eq!(line, KNOWN);
    }

    /// The start of a table that must be the same on every machine, for ever.
    const KNOWN: &str = "1111111111111111111111120121111110202200";
}
