//! What processes take of the machine: promise I9 in real processes, whatever breaks.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use xtask::mesh::{Mesh, REGIONS};

/// What one process has taken at the most since its start, or takes now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Of memory, at the most: what was resident.
    memory_bytes: u64,
    /// Files, sockets and the like that are open.
    open_files: u64,
}

/// The kinds of processes, each with what one may take. The load of a round is small:
/// what is beyond this grows.
const BOUNDS: [(&str, Usage); 3] = [
    ("push-node", Usage { memory_bytes: 512 << 20, open_files: 512 }),
    ("subscriber-gateway", Usage { memory_bytes: 256 << 20, open_files: 256 }),
    ("control-plane", Usage { memory_bytes: 128 << 20, open_files: 256 }),
];

/// The most that any process of each kind has taken.
#[derive(Debug, Default)]
pub(crate) struct MostUsed(BTreeMap<&'static str, Usage>);

impl MostUsed {
    /// Looks at all processes, which have to run; those that took too much, a sentence
    /// each.
    pub(crate) fn look(&mut self, mesh: &Mesh) -> Vec<String> {
        let mut beyond = Vec::new();
        for (kind, bound) in BOUNDS {
            for name in names(kind) {
                let usage = mesh.process_number(&name).and_then(usage_of);
                let usage = usage.unwrap_or_else(|| panic!("{name} does not run"));
                let most = self.0.entry(kind).or_default();
                most.memory_bytes = most.memory_bytes.max(usage.memory_bytes);
                most.open_files = most.open_files.max(usage.open_files);
                if usage.memory_bytes > bound.memory_bytes || usage.open_files > bound.open_files {
                    beyond.push(format!("I9: {name} took {usage}, more than {bound}"));
                }
            }
        }
        beyond
    }
}

impl fmt::Display for MostUsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = self.0.iter().map(|(kind, usage)| format!("{kind} {usage}"));
        write!(f, "one process took at the most: {}", kinds.collect::<Vec<_>>().join("; "))
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB and {} open files", self.memory_bytes >> 20, self.open_files)
    }
}

fn names(kind: &str) -> Vec<String> {
    match kind {
        "push-node" => REGIONS.iter().map(|region| Mesh::push_node(region)).collect(),
        "subscriber-gateway" => REGIONS.iter().map(|region| Mesh::gateway(region)).collect(),
        other => vec![other.to_owned()],
    }
}

/// What the kernel says of a process; nothing if it has just ended.
fn usage_of(process: u32) -> Option<Usage> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = peak.trim().trim_end_matches("kB").trim().parse().ok()?;
    let open_files = fs::read_dir(format!("/proc/{process}/fd")).ok()?.count() as u64;
    Some(Usage { memory_bytes: kibibytes << 10, open_files })
}
