//! The options of every subcommand: which instance, and where it is pinned.

use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use anyhow::anyhow;
use xvs::Error;
use xvs::Info;
use xvs::Instance;
use xvs::OnExit;
use xvs::Options;

#[derive(clap::Args)]
pub struct Global {
    /// The instance: a name of 1 to 64 letters, digits, `-` and `_`
    #[arg(
        long,
        global = true,
        help_heading = "Instance",
        value_name = "NAME",
        default_value = "default"
    )]
    pub instance: String,

    /// Where the BPF file system is mounted
    #[arg(
        long,
        global = true,
        help_heading = "Instance",
        value_name = "PATH",
        default_value = "/sys/fs/bpf"
    )]
    pub bpffs: PathBuf,
}

impl Global {
    /// Opens the instance, of whatever process; when that has died, says so.
    pub fn open(&self) -> anyhow::Result<Instance> {
        self.check_name()?;
        let instance =
            Instance::open(&self.bpffs, &self.instance).map_err(|error| self.with_others(error))?;
        let info = instance.info()?;
        if !is_alive(info.process) {
            let (name, process) = (&self.instance, info.process);
            let rest = match info.persist {
                OnExit::Detach => "nothing is forwarded; `xvsctl detach` removes what it left",
                OnExit::Keep => "it goes on without one",
                OnExit::KeepFor(_) => "it goes on without one for a time",
            };
            let _ = writeln!(
                io::stderr(),
                "xvsctl: process {process} of instance `{name}` is gone: {rest}"
            );
        }
        Ok(instance)
    }

    /// Refuses a name that no instance can have: it becomes part of a path.
    pub fn check_name(&self) -> xvs::Result<()> {
        Options::new().instance(&self.instance).validate()
    }

    /// When there is no such instance, adds those there are to the error.
    pub fn with_others(&self, error: Error) -> anyhow::Error {
        if !matches!(error, Error::InstanceNotFound { .. }) {
            return error.into();
        }
        match Instance::list(&self.bpffs) {
            Ok(names) if !names.is_empty() => {
                anyhow!("{error}; the instances there are: {}", names.join(", "))
            }
            Ok(_) => anyhow!("{error}; there are no instances"),
            Err(_) => error.into(),
        }
    }

    /// Tells that the instance has ended, to whoever was following it.
    pub fn tell_ended(&self) {
        let _ = writeln!(io::stderr(), "xvsctl: instance `{}` has ended", self.instance);
    }
}

/// Whether an instance runs still: its pins are there, and its process is, or it goes on
/// without one.
pub fn runs(instance: &Instance) -> bool {
    let goes_on = |info: &Info| info.persist != OnExit::Detach || is_alive(info.process);
    instance.is_current() && instance.info().is_ok_and(|info| goes_on(&info))
}

/// Whether a process lives, as far as this PID namespace can tell.
pub fn is_alive(process: u32) -> bool {
    Path::new("/proc").join(process.to_string()).exists()
}
