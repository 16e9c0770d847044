//! A mesh of as many regions as a work needs, fresh for each work.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use xtask::interlock_command::Interlock;
use xtask::mesh::{Mesh, REGIONS};

use super::rounds::Turn;

/// The channel that everything is published to.
pub const CHANNEL: &str = "bench/channel";
/// Where it is published, and where it is replicated to.
pub const A: &str = REGIONS[0];
pub const B: &str = REGIONS[1];

const PATIENCE: Duration = Duration::from_secs(300);

/// Processes of ours.
pub struct OurMesh {
    /// The processes.
    pub mesh: Mesh,
    /// The command against them.
    pub interlock: Interlock,
}

impl OurMesh {
    /// A control-plane, push-nodes in the first so many regions, and gateways in some.
    pub fn start(
        folder: &Path,
        binaries: &Path,
        regions: usize,
        gateways: &[&str],
    ) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(folder).context("removing the mesh of another run")?;
        }
        let mut mesh = Mesh::new(folder, binaries, BTreeMap::new())?;
        let interlock = Interlock::new(binaries, &mesh.context_file());
        mesh.start_control_plane()?;
        for region in &REGIONS[..regions] {
            mesh.start_push_node(region)?;
        }
        for region in gateways {
            mesh.start_gateway(region)?;
        }
        let started = Self { mesh, interlock };
        let regions = REGIONS[..regions].join(",");
        started.interlock.json(A, &["group", "apply", "all", "--regions", &regions])?;
        started.interlock.json(A, &["namespace", "create", "bench", "--groups", "all"])?;
        let created = || started.interlock.json(A, &["channel", "create", CHANNEL]).map(|_| ());
        until("the channel", created)?;
        for region in regions.split(',') {
            until("the channel everywhere", || {
                started.interlock.json(region, &["channel", "show", CHANNEL]).map(|_| ())
            })?;
        }
        Ok(started)
    }

    /// One turn of `interlock bench`.
    pub fn bench(&self, arguments: &[&str]) -> Result<Turn> {
        Turn::of(&self.interlock.json(A, &[&["bench"], arguments].concat())?)
    }

    /// How many messages a region's node holds.
    pub fn held(&self, region: &str) -> Result<u64> {
        let node = self.node(region)?;
        let namespaces = node["namespaces"].as_array().map_or(&[][..], Vec::as_slice);
        Ok(namespaces.iter().filter_map(|namespace| namespace["messages"].as_u64()).sum())
    }

    /// The longest queue that any node has for another.
    pub fn queue(&self) -> Result<u64> {
        let lag = self.interlock.json(A, &["lag"])?;
        let queues = lag["queues"].as_array().map_or(&[][..], Vec::as_slice);
        let lengths = queues.iter().filter_map(|queue| queue["queue_messages"].as_u64());
        lengths.max().context("there is no queue")
    }

    fn node(&self, region: &str) -> Result<Value> {
        self.interlock.json(region, &["node", "show", &Mesh::push_node(region)])
    }

    /// The most memory that a region's node has had, in MiB.
    pub fn peak_memory(&self, region: &str) -> Result<f64> {
        let number = self.mesh.process_number(&Mesh::push_node(region)).context("it runs")?;
        let status = fs::read_to_string(format!("/proc/{number}/status"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = peak.and_then(|it| it.trim().split(' ').next()?.parse::<f64>().ok());
        Ok(kibibytes.context("/proc names no peak")? / 1024.0)
    }

    /// Stops all of it and removes what it wrote.
    pub fn end(mut self) -> Result<()> {
        self.mesh.stop_all()?;
        fs::remove_dir_all(self.mesh.folder()).context("removing the mesh")
    }
}

/// Waits until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> Result<()>) -> Result<()> {
    let begun = Instant::now();
    loop {
        match holds() {
            Ok(()) => return Ok(()),
            Err(error) if begun.elapsed() > PATIENCE => bail!("{what}: not in time: {error:#}"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
