//! One frame, and all that must come of it.

use std::collections::BTreeMap;

use xvs::DecapOptions;
use xvs::DecapOutcome;
use xvs::DecapReasons;

use crate::frame::hex;
use crate::frame::tagged;
use crate::real::Real;
use crate::real::Verdict;
use crate::real::options;

/// Priority 3, VLAN 7.
const TAG: u16 = 0x6007;

/// A frame and what must come of it.
pub struct Case {
    name: String,
    frame: Vec<u8>,
    verdict: Verdict,
    reason: &'static str,
    output: Vec<u8>,
}

impl Case {
    /// The frame is passed as it is.
    pub fn passes(name: impl Into<String>, frame: Vec<u8>, reason: &'static str) -> Self {
        let output = frame.clone();
        Self { name: name.into(), frame, verdict: Verdict::Pass, reason, output }
    }

    /// The frame is dropped.
    pub fn drops(name: impl Into<String>, frame: Vec<u8>, reason: &'static str) -> Self {
        Self { verdict: Verdict::Drop, ..Self::passes(name, frame, reason) }
    }

    /// It is passed as this one.
    pub fn takes_out(
        name: impl Into<String>,
        frame: Vec<u8>,
        reason: &'static str,
        output: Vec<u8>,
    ) -> Self {
        Self { output, ..Self::passes(name, frame, reason) }
    }

    /// Runs it without a tag and with one; what is not as it must be is the error.
    fn run(&self, real: &Real) -> Result<(), String> {
        self.run_as(real, "", &self.frame, &self.output)?;
        if self.frame.len() < 14 {
            return Ok(());
        }
        let tag = |frame: &[u8]| tagged(frame.to_vec(), TAG);
        self.run_as(real, ", tagged", &tag(&self.frame), &tag(&self.output))
    }

    fn run_as(&self, real: &Real, how: &str, frame: &[u8], right: &[u8]) -> Result<(), String> {
        let before = real.reasons();
        let (verdict, output) = real.run(frame);
        let moved: BTreeMap<&str, u64> = real
            .reasons()
            .into_iter()
            .map(|(name, count)| (name, count - before[name]))
            .filter(|(_, count)| *count != 0)
            .collect();
        let mut faults = String::new();
        let outcome = match self.verdict {
            Verdict::Drop => DecapOutcome::Dropped,
            Verdict::Pass if self.output == self.frame => DecapOutcome::Passed,
            Verdict::Pass => DecapOutcome::TakenOut,
        };
        if DecapReasons::default().of(outcome).all(|(name, _)| name != self.reason) {
            faults += &format!("  {} is no reason of packets {outcome:?}\n", self.reason);
        }
        if verdict != self.verdict {
            faults += &format!("  verdict {verdict:?}, must be {:?}\n", self.verdict);
        }
        if moved != BTreeMap::from([(self.reason, 1)]) {
            faults += &format!("  counted {moved:?}, must be {}\n", self.reason);
        }
        if output != right {
            faults += &format!("  octets out:\n{}  must be:\n{}", hex(&output), hex(right));
        }
        if faults.is_empty() {
            return Ok(());
        }
        Err(format!("{}{how}\n{faults}  frame in:\n{}", self.name, hex(frame)))
    }
}

/// Runs all cases on one real server, and panics with those that failed.
pub fn run_all(cases: &[Case]) {
    run_all_with(options(), cases);
}

/// The same with other options.
pub fn run_all_with(options: DecapOptions, cases: &[Case]) {
    let failed: Vec<String> = Real::with_options(options, |real| {
        cases.iter().filter_map(|case| case.run(real).err()).collect()
    });
    let (number, all) = (failed.len(), cases.len());
    assert_eq!(number, 0, "{number} of {all} failed:\n{}", failed[..number.min(8)].join("\n"));
    println!("{all} cases, each without a tag and with one");
}
