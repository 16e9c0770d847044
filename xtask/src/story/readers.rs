//! Who reads along in the story: `interlock subscribe` to a file, and
//! `interlock history` for what is stored.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;

use anyhow::{Context as _, Result, ensure};

use super::Story;
use xtask::interlock_command::{eventually, finish};
use xtask::mesh::REGIONS;

/// A running `interlock subscribe` and its file.
pub struct Subscriber {
    /// Where it reads.
    pub region: &'static str,
    /// Where it writes payloads, each with one `\n` behind it.
    pub file: PathBuf,
    child: Child,
    what: String,
}

impl Story<'_> {
    /// Starts a subscriber that ends when it has the lines and so many closing
    /// messages. One that comes twice takes the place of another.
    pub(super) fn subscribe(
        &self,
        name: &str,
        region: &'static str,
        channel: &str,
        from: &str,
        closings: usize,
    ) -> Result<Subscriber> {
        let file = self.folder.join(format!("{name}-{region}.bin"));
        let ready = self.folder.join(format!("{name}-{region}.cursor"));
        let count = (self.input.lines().len() + closings).to_string();
        let arguments = [
            "subscribe",
            channel,
            "--from",
            from,
            "--raw",
            "--count",
            &count,
            "--output-file",
            path(&file)?,
            "--cursor-file",
            path(&ready)?,
        ];
        let child = self.interlock.start(region, &arguments)?;
        // The cursor file appears once the subscription stands.
        eventually("the subscription", self.limit, || {
            ensure!(ready.exists(), "{name} in {region} has no position yet");
            Ok(())
        })?;
        let what = format!("the subscriber of {channel} in {region}");
        Ok(Subscriber { region, file, child, what })
    }

    /// One in each region, for the closing messages of all.
    pub(super) fn subscribe_everywhere(
        &self,
        name: &str,
        channel: &str,
        from: &str,
    ) -> Result<Vec<Subscriber>> {
        REGIONS
            .into_iter()
            .map(|region| self.subscribe(name, region, channel, from, REGIONS.len()))
            .collect()
    }

    /// Waits for a subscriber's end and looks at all it got.
    pub(super) fn got(&self, subscriber: Subscriber, closings: &[String]) -> Result<()> {
        finish(subscriber.child, &subscriber.what, self.limit)?;
        self.input.compare(&fs::read(&subscriber.file)?, closings, &subscriber.what)
    }

    /// The same of several, and of what each region has stored: whatever came twice
    /// behind a subscriber's end is there.
    pub(super) fn all_got(
        &self,
        subscribers: Vec<Subscriber>,
        channel: &str,
        closings: &[String],
    ) -> Result<()> {
        for subscriber in subscribers {
            self.got(subscriber, closings)?;
        }
        REGIONS.into_iter().try_for_each(|region| self.stored(region, channel, closings))
    }

    /// Reads a channel's history to its end.
    fn stored(&self, region: &str, channel: &str, closings: &[String]) -> Result<()> {
        let what = format!("the history of {channel} in {region}");
        let everything = u32::MAX.to_string();
        let arguments = ["history", channel, "--from", "oldest", "--raw", "--limit", &everything];
        let output = self.interlock.command(region, &arguments).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success() && said.is_empty(), "{what}: {}: {said}", output.status);
        self.input.compare(&output.stdout, closings, &what)
    }

    /// Publishes what the origin of the lines and then the other regions say last.
    pub(super) fn close(&self, channel: &str, regions: &[&str]) -> Result<Vec<String>> {
        regions
            .iter()
            .map(|region| {
                let closing = self.input.closing(channel, region);
                self.interlock.json(region, &["publish", channel, &closing])?;
                Ok(closing)
            })
            .collect()
    }
}

/// A path as an argument.
pub(super) fn path(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}
