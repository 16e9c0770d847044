//! A nats-server of one's own: its configuration, its start, its end.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::settings::{Installation, Syncing};

/// How long a server may take to start or to stop; with many messages stored it reads
/// them first.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at what it has come to.
const LOOK: Duration = Duration::from_millis(2);

/// What it logs: where it listens, and that it does.
const CLIENTS: &str = "Listening for client connections on";
const LEAFNODES: &str = "Listening for leafnode connections on";
const READY: &str = "Server is ready";

/// How a server is joined with others.
pub(crate) enum Leafnodes {
    /// Not at all.
    None,
    /// Others join it.
    Listen,
    /// It joins the one at this address.
    Remote(String),
}

/// What a server is started with.
pub(crate) struct Configuration {
    /// Its name, which is also its folder's and its JetStream domain.
    pub(crate) name: &'static str,
    /// What is stored, if anything is, and when it is synced.
    pub(crate) jetstream: Option<Syncing>,
    pub(crate) leafnodes: Leafnodes,
}

impl Configuration {
    /// In the server's language: <https://docs.nats.io/running-a-nats-service/configuration>.
    ///
    /// Port -1 is any free one, and the server logs which it took: the file that it
    /// writes for `ports_file_dir` names none for leaf nodes. Leaf nodes keep the default compression, `s2_auto`, which compresses
    /// nothing where a round trip takes less than 10 ms.
    fn to_text(&self, folder: &Path) -> String {
        let Self { name, jetstream, leafnodes } = self;
        let listen = "listen: \"127.0.0.1:-1\"";
        let mut text = format!("server_name: {name}\n{listen}\n");
        if let Some(syncing) = jetstream {
            let sync = match syncing {
                Syncing::Always => "sync_interval: always",
                Syncing::Default => "",
            };
            let store = folder.join("jetstream");
            text += &format!("jetstream {{\nstore_dir: {store:?}\ndomain: {name}\n{sync}\n}}\n");
        }
        match leafnodes {
            Leafnodes::None => {}
            Leafnodes::Listen => text += &format!("leafnodes {{\n{listen}\n}}\n"),
            Leafnodes::Remote(address) => {
                text += &format!("leafnodes {{\nremotes: [{{ url: \"nats://{address}\" }}]\n}}\n");
            }
        }
        text
    }
}

/// A server that runs, until it is dropped.
pub(crate) struct Server {
    child: Child,
    /// Where its clients connect, as host and port.
    pub(crate) clients: String,
    /// Where leaf nodes connect, if it lets them.
    pub(crate) leafnodes: Option<String>,
}

impl Server {
    /// Starts one with a folder of its name in a folder of this run, and returns once
    /// clients can connect. What it has stored there before is there again.
    pub(crate) async fn start(
        installation: &Installation,
        run: &Path,
        configuration: &Configuration,
    ) -> Result<Self> {
        let folder = run.join(configuration.name);
        let writing = || format!("cannot write to {}", folder.display());
        fs::create_dir_all(&folder).with_context(writing)?;
        let file = folder.join("nats-server.conf");
        fs::write(&file, configuration.to_text(&folder)).with_context(writing)?;
        let log = folder.join("nats-server.log");
        let output = File::create(&log).with_context(writing)?;
        let child = Command::new(&installation.server)
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .with_context(|| installation.not_started())?;
        let mut server = Self { child, clients: String::new(), leafnodes: None };
        let begun = Instant::now();
        loop {
            let ended = server.child.try_wait()?;
            let said = fs::read_to_string(&log).with_context(|| log.display().to_string())?;
            if let Some(status) = ended {
                bail!("nats-server ended with {status}: {}", last_lines(&said));
            }
            if said.contains(READY) {
                let clients = address(&said, CLIENTS);
                server.clients = clients.context("nats-server names no port for clients")?;
                server.leafnodes = address(&said, LEAFNODES);
                return Ok(server);
            }
            if begun.elapsed() > PATIENCE {
                bail!("nats-server is not up after {PATIENCE:?}: {}", last_lines(&said));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Stops it as a service manager does, so that it stores what it needs to go on.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let id = id.ok_or_else(|| anyhow!("nats-server has no process id"))?;
        kill_process(id, Signal::TERM).context("cannot stop nats-server")?;
        let begun = Instant::now();
        while self.child.try_wait()?.is_none() {
            if begun.elapsed() > PATIENCE {
                bail!("nats-server still runs {PATIENCE:?} after it was told to stop");
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

impl Drop for Server {
    /// Ends it at once, and waits so that its folder can go. One that has ended already
    /// is left alone by both.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address at the end of the line that says so.
fn address(log: &str, says: &str) -> Option<String> {
    let line = log.lines().find(|line| line.contains(says))?;
    Some(line.rsplit(' ').next()?.to_owned())
}

fn last_lines(log: &str) -> String {
    const SHOWN: usize = 5;
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(SHOWN)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ports_are_found_in_the_log() {
        let log = "[7] 2026/01/01 00:00:00.000000 [INF] Listening for leafnode connections on \
                   127.0.0.1:7000\n\
                   [7] 2026/01/01 00:00:00.000000 [INF] Listening for client connections on \
                   127.0.0.1:4000\n";
        assert_eq!(address(log, CLIENTS).as_deref(), Some("127.0.0.1:4000"));
        assert_eq!(address(log, LEAFNODES).as_deref(), Some("127.0.0.1:7000"));
        assert_eq!(address("", CLIENTS), None);
    }

    #[test]
    fn only_what_is_asked_for_is_configured() {
        let folder = Path::new("/somewhere/A");
        let plain = Configuration { name: "A", jetstream: None, leafnodes: Leafnodes::None }
            .to_text(folder);
        assert!(!plain.contains("jetstream") && !plain.contains("leafnodes"), "{plain}");
        let joined = Configuration {
            name: "B",
            jetstream: Some(Syncing::Always),
            leafnodes: Leafnodes::Remote("127.0.0.1:7000".to_owned()),
        };
        let joined = joined.to_text(folder);
        assert!(joined.contains("sync_interval: always"), "{joined}");
        assert!(joined.contains("url: \"nats://127.0.0.1:7000\""), "{joined}");
    }
}
