//! `xvsctl top`: live rates of all services and destinations.

mod lines;
mod rates;
mod screen;

use std::io;
use std::io::IsTerminal;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;
use xvs::Instance;

use crate::balance::input::Signals;
use crate::balance::seconds;
use crate::global::Global;
use crate::global::runs;
use crate::output;
use crate::words;
use lines::Size;
use lines::lines;
use rates::Rates;
use rates::Reading;
use rates::Top;
use rates::compare;
use screen::Screen;

/// Show live rates of all services and real servers, the busiest first
///
/// On a terminal they are drawn anew in place until SIGINT (Ctrl-C); elsewhere they
/// are printed one below the other.
#[derive(clap::Args)]
pub struct Args {
    /// The time that rates are taken over, from 0.1 to 3600
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: Duration,

    /// Stop after one interval, and print its rates
    #[arg(long)]
    once: bool,

    /// Print JSON, one object per interval and line
    #[arg(long)]
    json: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = seconds(text)?;
    match (0.1..=3_600.0).contains(&interval.as_secs_f64()) {
        true => Ok(interval),
        false => Err("it is not from 0.1 to 3600 seconds".to_owned()),
    }
}

pub fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let signals = Signals::block()?;
    let instance = global.open()?;
    let mut before = Reading::take(&instance)?;
    let mut output = Output::new(args)?;
    loop {
        let due = before.at + args.interval;
        while let Some(left) = due.checked_duration_since(Instant::now()).filter(|t| !t.is_zero()) {
            signals.wait(left)?;
            if signals.received()?.is_some() {
                return Ok(ExitCode::SUCCESS);
            }
        }
        let after = Reading::take(&instance)?;
        output.tell(&compare(&before, &after), &instance)?;
        if args.once {
            return Ok(ExitCode::SUCCESS);
        }
        if !runs(&instance) {
            // The message is not for the screen that goes.
            drop(output);
            global.tell_ended();
            return Ok(ExitCode::SUCCESS);
        }
        before = after;
    }
}

/// Where rates go.
enum Output {
    Json,
    Text { is_first: bool },
    Screen(Screen),
}

impl Output {
    fn new(args: &Args) -> io::Result<Self> {
        match args.json {
            true => Ok(Self::Json),
            false if args.once || !io::stdout().is_terminal() => Ok(Self::Text { is_first: true }),
            false => Screen::enter().map(Self::Screen),
        }
    }

    fn tell(&mut self, top: &Top, instance: &Instance) -> anyhow::Result<()> {
        let mut out = io::stdout();
        match self {
            Self::Json => writeln!(out, "{}", object(top))?,
            Self::Text { is_first } => {
                if !std::mem::take(is_first) {
                    writeln!(out)?;
                }
                for line in lines(&title(top, instance)?, top, Size::UNLIMITED) {
                    writeln!(out, "{line}")?;
                }
            }
            Self::Screen(screen) => {
                screen.draw(&lines(&title(top, instance)?, top, Screen::size()))?;
            }
        }
        Ok(())
    }
}

fn title(top: &Top, instance: &Instance) -> xvs::Result<String> {
    let info = instance.info()?;
    Ok(format!(
        "{} instance `{}`, up {}: rates over {:.1} s",
        words::utc(SystemTime::now()),
        info.instance,
        words::time(info.uptime),
        top.interval.as_secs_f64()
    ))
}

fn object(top: &Top) -> Value {
    let services: Vec<Value> = top
        .services
        .iter()
        .map(|service| {
            let destinations: Vec<Value> = service
                .destinations
                .iter()
                .map(|(address, rates)| json!({"address": address, "rates": rates_object(rates)}))
                .collect();
            json!({
                "service": service.service.to_string(),
                "rates": rates_object(&service.rates),
                "destinations": destinations,
            })
        })
        .collect();
    json!({
        "type": "top",
        "time": output::time(SystemTime::now()),
        "interval_seconds": top.interval.as_secs_f64(),
        "rates": rates_object(&top.total),
        "services": services,
    })
}

fn rates_object(rates: &Rates) -> Value {
    let refused: Map<String, Value> =
        rates.refused.iter().map(|(name, rate)| ((*name).to_owned(), (*rate).into())).collect();
    json!({
        "packets": rates.packets,
        "bits": rates.bits,
        "flows": rates.flows,
        "syn": rates.syn,
        "live": rates.live,
        "refused": rates.refused(),
        "reasons": refused,
    })
}
