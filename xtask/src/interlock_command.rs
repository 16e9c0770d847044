//! The `interlock` command as a user runs it: a process with a context file.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// How to run the command against one mesh.
pub struct Interlock {
    binary: PathBuf,
    context_file: PathBuf,
}

impl Interlock {
    /// The command in `binaries`, with the mesh of `context_file`.
    pub fn new(binaries: &Path, context_file: &Path) -> Self {
        Self { binary: binaries.join("interlock"), context_file: context_file.to_owned() }
    }

    /// A command with the context and a region set.
    pub fn command(&self, region: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .arg("--context-file")
            .arg(&self.context_file)
            .args(["--region", region])
            .args(arguments);
        command
    }

    /// Runs to the end; the JSON it printed.
    pub fn json(&self, region: &str, arguments: &[&str]) -> Result<Value> {
        let mut all = vec!["-o", "json"];
        all.extend(arguments);
        let output = self
            .command(region, &all)
            .stdin(Stdio::null())
            .output()
            .context("running interlock")?;
        if !output.status.success() {
            bail!(
                "`interlock {}` in {region} failed with {}: {}",
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        if output.stdout.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("`interlock {}` printed no JSON", arguments.join(" ")))
    }

    /// Runs to the end; its exit code and what it said on stderr.
    pub fn refused(&self, region: &str, arguments: &[&str]) -> Result<(i32, String)> {
        let output = self
            .command(region, arguments)
            .stdin(Stdio::null())
            .output()
            .context("running interlock")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            bail!(
                "`interlock {}` in {region} succeeded but should have been refused",
                arguments.join(" ")
            );
        }
        Ok((output.status.code().unwrap_or(-1), said))
    }

    /// Starts and leaves it running.
    pub fn start(&self, region: &str, arguments: &[&str]) -> Result<Child> {
        self.command(region, arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting interlock")
    }
}

/// Waits for a started command to end by itself.
pub fn finish(mut child: Child, what: &str, limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            if status.success() {
                return Ok(());
            }
            let output = child.wait_with_output()?;
            bail!(
                "{what} failed with {status}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill()?;
    let output = child.wait_with_output()?;
    bail!("{what} did not end within {limit:?}: {}", String::from_utf8_lossy(&output.stderr).trim())
}

/// Asks again until `condition` holds; the last thing it said otherwise.
pub fn eventually(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<()>,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        match condition() {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("{what}: not within {limit:?}")));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}
