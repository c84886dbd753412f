//! What was measured, as tables and as JSON.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use serde_json::json;

use super::cases::Subject;
use super::harness::FRAME;
use super::measure::Measured;
use super::measure::Path;
use super::measure::ROUNDS;
use super::measure::median;
use super::measure::range;
use super::steps::Step;

/// Shares below this are not worth a word: what the kernel sends by itself.
const SHARE: f64 = 0.0001;

/// Prints the paths.
pub fn print_paths(measured: &Measured) {
    let harness = median(&measured.harness);
    println!("ns per frame of {FRAME} octets, net of the harness ({harness:.1}); {ROUNDS} rounds");
    println!("ratio: to the reference with 1,024 flows; beside: to that which waits as much");
    println!("{:43}{:>9}{:>9}{:>9}{:>9}{:>9}", "", "median", "least", "most", "ratio", "beside");
    for path in &measured.paths {
        let (least, most) = range(&path.times);
        let others = path.others.iter().filter(|(_, share)| **share >= SHARE);
        let others: String =
            others.map(|(reason, share)| format!("  {:.2} % {reason}", share * 100.0)).collect();
        println!(
            "{:43}{:9.1}{least:9.1}{most:9.1}{:9.2}{:9.2}{others}",
            path.name,
            median(&path.times),
            median(&path.ratios),
            median(&path.beside_ratios),
        );
    }
}

/// Prints the steps.
pub fn print_steps(steps: &[Step]) {
    println!("ns per step");
    println!("{:43}{:>9}{:>9}{:>9}", "", "median", "least", "most");
    for step in steps {
        let (least, most) = range(&step.times);
        println!("{:43}{:9.1}{least:9.1}{most:9.1}", step.name, median(&step.times));
    }
}

/// Writes all of it to `target/bench.json`.
pub fn write(measured: &Measured, steps: &[Step]) {
    let kernel = xvs::host::kernel_release().expect("every kernel tells its release");
    let value = json!({
        "kernel": kernel,
        "cpu": cpu_model(),
        "rounds": ROUNDS,
        "harness_ns": median(&measured.harness),
        "paths": measured.paths.iter().map(path_json).collect::<Vec<_>>(),
        "steps": steps.iter().map(step_json).collect::<Vec<_>>(),
    });
    write_json("target/bench.json", &value);
}

fn path_json(path: &Path) -> Value {
    let (least, most) = range(&path.times);
    json!({
        "path": path.name,
        "reference": path.subject == Subject::Reference,
        "packets": path.packets,
        "median_ns": median(&path.times),
        "least_ns": least,
        "most_ns": most,
        "ratio": median(&path.ratios),
        "ratio_beside": median(&path.beside_ratios),
    })
}

fn step_json(step: &Step) -> Value {
    let (least, most) = range(&step.times);
    json!({
        "step": step.name,
        "median_ns": median(&step.times),
        "least_ns": least,
        "most_ns": most,
    })
}

/// Writes a file of the project.
pub fn write_json(path: &str, value: &Value) {
    let path = in_project(path);
    fs::create_dir_all(path.parent().expect("it is in a folder")).expect("folders can be made");
    fs::write(&path, format!("{value:#}\n"))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// A file of the project, by its path there.
pub fn in_project(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A number with a comma after each thousand.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn cpu_model() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find(|line| line.starts_with("model name"));
    let model = line.and_then(|line| line.split_once(':'));
    model.map_or("unknown", |(_, model)| model.trim()).to_owned()
}
