//! Random numbers that are the same for the same seed, on every machine.

/// How many random things a test does that would do so many: one in
/// `XVS_TEST_SHARE`, if the environment has that, for machines that are slow.
pub fn share(number: usize) -> usize {
    let share = std::env::var("XVS_TEST_SHARE").map_or(1, |text| {
        text.parse().ok().filter(|share| *share > 0).expect("XVS_TEST_SHARE is a number from 1")
    });
    number.div_ceil(share)
}

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Random(u64);

impl Random {
    /// The seed decides every number that follows.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The seed in the environment variable `XVS_TEST_SEED`, or this one; it
    /// is printed, so that a failure can be repeated.
    pub fn from_environment(default: u64) -> Self {
        let seed = std::env::var("XVS_TEST_SEED")
            .map_or(default, |text| text.parse().expect("XVS_TEST_SEED is a decimal number"));
        println!("XVS_TEST_SEED={seed}");
        Self::new(seed)
    }

    /// 64 random bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub const fn below(&mut self, end: usize) -> usize {
        ((self.next() as u128 * end as u128) >> 64) as usize
    }

    /// Whether a chance of `percent` in a hundred came true.
    pub const fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// A random octet.
    pub const fn octet(&mut self) -> u8 {
        (self.next() >> 56) as u8
    }

    /// Random octets.
    pub fn octets(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.octet()).collect()
    }

    /// One of these.
    pub const fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}
