//! `xvsctl capture`: frames, by what became of them.

mod packet;
mod pcapng;
mod text;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::BufWriter;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use clap::builder::PossibleValuesParser;
use serde_json::json;
use xvs::Capture;
use xvs::CaptureOptions;
use xvs::CaptureStats;
use xvs::Frame;
use xvs::Instance;
use xvs::Reasons;

use self::pcapng::Pcapng;
use crate::balance::input::Signals;
use crate::balance::seconds;
use crate::global::Global;
use crate::global::is_alive;
use crate::global::runs;
use crate::output::Links;
use crate::words;
use crate::words::Outcome;

/// How often it is looked whether the instance is still there.
const TICK: Duration = Duration::from_millis(500);

/// Capture frames by what became of them, until SIGINT, SIGTERM or SIGHUP
///
/// Without --write, a line is printed for each frame. A frame that was dropped or
/// passed is captured as it came; one that was sent, as it leaves. At the end it is
/// told on standard error how many frames there were, how many more than the rate,
/// and how many were lost.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  xvsctl capture --reason malformed,no_service
  xvsctl capture --write dropped.pcapng --duration 60
  xvsctl capture --write - --snaplen 2000 | tshark -r -")]
pub struct Args {
    /// Reasons, as `xvsctl show` names them; may be repeated (default: of what is
    /// dropped, any)
    #[arg(
        long = "reason",
        value_name = "NAME[,...]",
        value_delimiter = ',',
        value_parser = PossibleValuesParser::new(reasons(|_| true))
    )]
    reasons: Vec<String>,

    /// Write frames to a pcapng file, for tcpdump and Wireshark, with the reason as a
    /// comment; `-` is standard output
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    write: Option<String>,

    /// The most octets of a frame, from 38 to 65000
    #[arg(
        long,
        value_name = "N",
        default_value = "256",
        value_parser = clap::value_parser!(u32).range(38..=65_000)
    )]
    snaplen: u32,

    /// The most frames in a second, of each CPU
    #[arg(
        long,
        value_name = "N",
        default_value = "1000",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    rate: u32,

    /// Stop after so many frames
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Stop after this time
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    duration: Option<Duration>,

    /// Print JSON, one object per line
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let signals = Signals::block()?;
    let instance = global.open()?;
    let mut options = CaptureOptions::new().snaplen(args.snaplen).rate(args.rate);
    options.reasons.clone_from(&args.reasons);
    if args.reasons.is_empty() {
        let dropped = reasons(|outcome| outcome == Outcome::Dropped);
        options.reasons = dropped.into_iter().map(str::to_owned).collect();
    }
    let mut capture = Capture::new(&instance, options)?;
    let mut output = Output::new(args)?;
    let started = Instant::now();
    tell(&format!("capturing frames of instance `{}`", instance.name()));

    let names = Names { instance: &instance, known: BTreeMap::new() };
    let mut session = Session { args, signals: &signals, names, started, printed: 0 };
    let ended = session.serve(&mut capture, &mut output);
    capture.stop();
    let cause = match &ended {
        Ok(cause) => *cause,
        Err(error) if crate::is_closed_pipe(error) => "reader gone",
        Err(_) => "failed",
    };
    // What had been sent before.
    if ended.is_ok() {
        let left = capture.frames(Duration::ZERO)?;
        session.print(&mut output, &left)?;
    }
    summarize(args, session.printed, &capture.stats(), cause, started)?;
    ended.map(|_| ExitCode::SUCCESS)
}

/// The names of reasons by what they say has become of a packet.
fn reasons(keep: impl Fn(Outcome) -> bool) -> Vec<&'static str> {
    let all = Reasons::default();
    all.iter().map(|(name, _)| name).filter(|name| keep(words::outcome(name))).collect()
}

/// A capture that runs.
struct Session<'a> {
    args: &'a Args,
    signals: &'a Signals,
    names: Names<'a>,
    started: Instant,
    printed: u64,
}

impl Session<'_> {
    /// Works until there is a reason to stop, and returns that.
    fn serve(
        &mut self,
        capture: &mut Capture,
        output: &mut Output,
    ) -> anyhow::Result<&'static str> {
        let instance = self.names.instance;
        let process = instance.info()?.process;
        let was_alive = is_alive(process);
        loop {
            let left = self.args.duration.map(|all| all.saturating_sub(self.started.elapsed()));
            if left == Some(Duration::ZERO) {
                return Ok("duration");
            }
            self.signals.wait_or_read(capture, left.map_or(TICK, |left| left.min(TICK)))?;
            let frames = capture.frames(Duration::ZERO)?;
            self.print(output, &frames)?;
            if self.args.count.is_some_and(|count| self.printed >= count) {
                return Ok("count");
            }
            if let Some(signal) = self.signals.received()? {
                return Ok(signal);
            }
            if was_alive && frames.is_empty() && !is_alive(process) && !runs(instance) {
                anyhow::bail!("process {process} of instance `{}` is gone", instance.name());
            }
        }
    }

    /// Prints frames, as many as there may be.
    fn print(&mut self, output: &mut Output, frames: &[Frame]) -> anyhow::Result<()> {
        let room = self.args.count.map_or(u64::MAX, |count| count - self.printed);
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let frames = &frames[..room.min(frames.len())];
        if frames.is_empty() {
            return Ok(());
        }
        output.print(frames, &mut self.names)?;
        self.printed += frames.len() as u64;
        Ok(())
    }
}

/// Where frames go.
enum Output {
    Text,
    Json,
    File(Pcapng<BufWriter<Box<dyn Write>>>, String),
}

impl Output {
    fn new(args: &Args) -> anyhow::Result<Self> {
        let Some(path) = &args.write else {
            return Ok(if args.json { Self::Json } else { Self::Text });
        };
        let file: Box<dyn Write> = match path.as_str() {
            "-" => Box::new(io::stdout()),
            path => Box::new(create(Path::new(path)).with_context(|| path.to_owned())?),
        };
        let pcapng = Pcapng::new(BufWriter::new(file), args.snaplen);
        Ok(Self::File(pcapng.with_context(|| path.clone())?, path.clone()))
    }

    fn print(&mut self, frames: &[Frame], names: &mut Names<'_>) -> anyhow::Result<()> {
        match self {
            Self::File(pcapng, path) => {
                let written = frames
                    .iter()
                    .try_for_each(|frame| pcapng.write(frame, names.name(frame.interface)))
                    // What is there is whole, whenever we are killed.
                    .and_then(|()| pcapng.flush());
                match written {
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(error.into()),
                    written => written.with_context(|| path.clone()),
                }
            }
            Self::Text => print_lines(frames, names, text::line),
            Self::Json => print_lines(frames, names, text::object),
        }
    }
}

fn print_lines<T: Display>(
    frames: &[Frame],
    names: &mut Names<'_>,
    line: impl Fn(&Frame, &str) -> T,
) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for frame in frames {
        writeln!(out, "{}", line(frame, names.name(frame.interface)))?;
    }
    Ok(())
}

/// Clients' data is for its owner alone.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// What interfaces are called, each read when it is first seen.
struct Names<'a> {
    instance: &'a Instance,
    known: BTreeMap<u32, String>,
}

impl Names<'_> {
    fn name(&mut self, index: u32) -> &str {
        let read = || Links::read(self.instance).map(|links| links.name(index));
        self.known.entry(index).or_insert_with(|| read().unwrap_or_else(|_| format!("#{index}")))
    }
}

/// Tells what there was.
fn summarize(
    args: &Args,
    printed: u64,
    stats: &CaptureStats,
    cause: &str,
    started: Instant,
) -> io::Result<()> {
    let seconds = started.elapsed().as_secs_f64();
    let CaptureStats { over_rate, lost, .. } = stats;
    if args.json {
        let object = json!({
            "type": "stopped",
            "cause": cause,
            "duration_seconds": seconds,
            "frames": printed,
            "over_rate": over_rate,
            "lost": lost,
        });
        return writeln!(io::stdout(), "{object}");
    }
    tell(&format!(
        "stopped ({cause}) after {seconds:.1} s; frames: {printed}, over the rate: {over_rate}, \
         lost: {lost}"
    ));
    Ok(())
}

/// For people, beside what is captured.
fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
