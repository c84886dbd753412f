//! The ratios that a change must not make worse: `benches/baseline.json`.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use super::cases::Case;
use super::cases::Subject;
use super::cases::USUAL;
use super::measure::Measured;
use super::measure::median;
use super::report::in_project;
use super::report::write_json;

const BASELINE: &str = "benches/baseline.json";
const REMEDY: &str = "`make bench`, then `make bench-baseline` makes it anew";

/// A ratio is worse when it is more than so many times as large.
const FACTOR: f64 = 1.15;
/// The same of a path that waits for memory, which others on the machine slow down more
/// than the reference.
const FACTOR_WAITING: f64 = 1.5;
/// So many nanoseconds are noise.
const NOISE: f64 = 8.0;

/// A path's ratio and what it should be.
pub struct Worse {
    /// The path.
    pub name: String,
    right: f64,
    ratio: f64,
    /// Nanoseconds more than it should be.
    more: f64,
}

/// Makes the baseline of what was measured last.
pub fn make() -> Result<(), String> {
    let last = read("target/bench.json").map_err(|e| format!("{e}; `make bench` writes it"))?;
    let fault = || "target/bench.json has no paths; `make bench` writes it".to_owned();
    let mut ratios = BTreeMap::new();
    for path in last["paths"].as_array().ok_or_else(fault)? {
        if path["reference"] == Value::Bool(true) {
            continue;
        }
        let name = path["path"].as_str().ok_or_else(fault)?;
        let ratio = path["ratio_beside"].as_f64().ok_or_else(fault)?;
        ratios.insert(name, (ratio * 1000.0).round() / 1000.0);
    }
    write_json(BASELINE, &serde_json::json!(ratios));
    println!("{BASELINE} has {} paths", ratios.len());
    Ok(())
}

/// The ratio of each path but new ones, which are told, or what is wrong with the
/// baseline for these paths.
pub fn load(groups: &[Vec<Case>]) -> Result<BTreeMap<String, f64>, String> {
    let value = read(BASELINE).map_err(|e| format!("{e}; {REMEDY}"))?;
    let ratios: BTreeMap<String, f64> =
        serde_json::from_value(value).map_err(|e| format!("{BASELINE}: {e}; {REMEDY}"))?;
    let measured: Vec<&str> = groups
        .iter()
        .flatten()
        .filter(|case| case.subject != Subject::Reference)
        .map(|case| case.name.as_str())
        .collect();
    let faults: Vec<String> = ratios
        .keys()
        .filter(|name| !measured.contains(&name.as_str()))
        .map(|name| format!("{BASELINE} has \"{name}\", which is no path any more"))
        .collect();
    if !faults.is_empty() {
        return Err(format!("{}\n{REMEDY}", faults.join("\n")));
    }
    let new: Vec<&str> = measured.into_iter().filter(|name| !ratios.contains_key(*name)).collect();
    if !new.is_empty() {
        println!("new, so compared with nothing: \"{}\"\n{REMEDY}", new.join("\", \""));
    }
    Ok(ratios)
}

/// The paths that are worse than they should be.
pub fn compare(measured: &Measured, ratios: &BTreeMap<String, f64>) -> Vec<Worse> {
    measured
        .paths
        .iter()
        .filter_map(|path| {
            let right = *ratios.get(&path.name)?;
            let ratio = median(&path.beside_ratios);
            let more = (1.0 - right / ratio) * median(&path.times);
            let factor = if path.beside > USUAL { FACTOR_WAITING } else { FACTOR };
            let worse = ratio > right * factor && more > NOISE;
            worse.then(|| Worse { name: path.name.clone(), right, ratio, more })
        })
        .collect()
}

/// Prints the paths that are worse.
pub fn print(worse: &[Worse]) {
    println!("{:43}{:>9}{:>9}{:>9}{:>9}", "worse", "baseline", "ratio", "times", "ns more");
    for w in worse {
        let Worse { name, right, ratio, more } = w;
        println!("{name:43}{right:9.2}{ratio:9.2}{:9.2}{more:9.1}", ratio / right);
    }
}

fn read(path: &str) -> Result<Value, String> {
    let text = fs::read_to_string(in_project(path)).map_err(|e| format!("{path}: {e}"))?;
    serde_json::from_str(&text).map_err(|e| format!("{path}: {e}"))
}
