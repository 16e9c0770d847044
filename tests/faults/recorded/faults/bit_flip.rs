//! A bit of what was synced turns over while a node is down. It refuses to open
//! and says why, its peers go on, and on an empty disk it takes back what they
//! have. What nothing rests on, or what no opening reads, may be opened: with all
//! that was there, and never with anything else.

use interlock_core::identity::{LogName, Mark};
use rand::RngExt as _;
use rand::seq::IndexedRandom as _;
use xtask::mesh::Mesh;

use super::super::disk_reading;
use super::super::faulty_mesh::log_of;
use super::Scene;
use crate::disk::Loss;

/// Of the write-ahead log: a flip in a shorter one may hit nothing that matters.
const LEAST_WRITE_AHEAD_BYTES: u64 = 64 * 1024;

/// What rots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rot {
    /// What was synced last, and only there.
    WriteAhead,
    /// What was moved out of it.
    Table,
    /// Which tables there are.
    Manifest,
    /// The file beside the database.
    DurableMarks,
}

impl Rot {
    fn is_file(self, name: &str) -> bool {
        match self {
            Self::WriteAhead => name.ends_with(".log"),
            Self::Table => name.ends_with(".sst"),
            Self::Manifest => name.starts_with("MANIFEST-"),
            Self::DurableMarks => name == "durable-marks",
        }
    }
}

pub(super) async fn one(at: &mut Scene<'_>) {
    let (victim, others) = at.choose();
    let before = at.random.random_range(50..150);
    at.load.progress(victim, before).await;
    at.mesh.kill(victim).await;
    // What was not synced may be damaged without a word.
    at.mesh.disk(victim).cut_power(Loss::Everything, at.random).expect("mounted again");
    at.mesh.see_on_disk(victim);
    let held = disk_reading::marks(&at.mesh.disk(victim).copy()).expect("only a power cut");
    let rot = [Rot::WriteAhead, Rot::Table, Rot::Manifest, Rot::DurableMarks];
    let rot = if at.random.random_bool(0.4) {
        Rot::WriteAhead
    } else {
        *rot.choose(at.random).expect("there are some")
    };
    let Some((name, offset)) = flip(at, victim, rot) else {
        // A file that has just begun: nothing is damaged.
        at.mesh.start_node(victim).await;
        return;
    };
    check_what_opens(at, victim, &held);
    start(at, victim, rot, &name, offset).await;
    at.load.progress(others[0], 20).await;
    at.load.progress(others[1], 20).await;
    at.mesh.replace(victim, None).await;
    at.mesh.start_behind(victim).await;
}

fn flip(at: &mut Scene<'_>, victim: &str, rot: Rot) -> Option<(String, u64)> {
    let is_file = |name: &str| rot.is_file(name);
    let disk = at.mesh.disk(victim);
    let flipped = match rot {
        // Well before its end, so that messages follow.
        Rot::WriteAhead => {
            let part = |size| size / 4..size / 2;
            disk.flip_bit(is_file, LEAST_WRITE_AHEAD_BYTES, part, at.random)
        }
        _ => disk.flip_bit(is_file, 1, |size| 0..size, at.random),
    };
    let (path, offset) = flipped.expect("mounted again")?;
    Some((path.file_name().expect("a file").to_string_lossy().into_owned(), offset))
}

/// Whatever opens has all that was there, unchanged.
fn check_what_opens(at: &mut Scene<'_>, victim: &str, held: &[(LogName, Mark)]) {
    let copy = at.mesh.disk(victim).copy();
    let Ok(found) = disk_reading::logs(&copy) else { return };
    for (log, mark) in held {
        let hash = found.get(log).filter(|found| found.mark == *mark).map(|found| {
            let start = found.row.start_hash();
            found.messages.iter().fold(start, |hash, (_, bytes)| hash.then(bytes))
        });
        if hash != Some(mark.hash) {
            at.incident(victim, &format!("opens, and does not have {log} up to {mark:?}"));
        }
    }
}

/// Starts the node on its damaged disk, and ends it if it opens.
async fn start(at: &mut Scene<'_>, victim: &str, rot: Rot, name: &str, offset: u64) {
    let node = Mesh::push_node(victim);
    let said_before = log_of(at.mesh, victim).len();
    if at.mesh.processes.start_one(&node).is_ok() {
        println!("  {victim}: opens with a bit of {name} at {offset} turned over");
        if rot == Rot::WriteAhead {
            at.incident(victim, &format!("opens though {name} is wrong at {offset}"));
        }
        if at.mesh.processes.take_ended().iter().all(|ended| ended.name != node) {
            at.mesh.kill_at_once(victim);
        }
        return;
    }
    let said = log_of(at.mesh, victim).split_off(said_before);
    let says_why = match rot {
        Rot::WriteAhead => said.contains("is damaged") && said.contains(name),
        _ => said.contains("is damaged"),
    };
    if !says_why {
        at.incident(victim, &format!("does not say that {name} is damaged: {said}"));
    }
}
