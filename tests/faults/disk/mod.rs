//! A disk that can be cut off from power, fail, fill up and rot: a file system of
//! our own under the real RocksDB, mounted by FUSE.
//!
//! It is in memory and has two layers: what programs see, and what was synced.
//! A power cut leaves the second one, and of the first what the cut chooses. All
//! that a node writes goes through it: the database, the durable marks and the
//! lock.

mod content;
mod filesystem;
mod tree;

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};

use fuser::{BackgroundSession, Config, MountOption};
use rand::RngExt as _;
use rand::rngs::StdRng;

pub(crate) use content::Loss;
pub(crate) use filesystem::{Failing, PlannedError};
use filesystem::{FaultyFilesystem, State};
use tree::Tree;

/// Far more than a test writes, and than the limits at which a node refuses.
pub(crate) const CAPACITY_BYTES: u64 = 8 << 30;

/// What mounts are called; the number of the process that made them follows.
const PREFIX: &str = "interlock-faults-";

/// One node's disk.
pub(crate) struct Disk {
    path: PathBuf,
    state: Arc<Mutex<State>>,
    mounted: Option<BackgroundSession>,
}

/// What was on a disk at some moment.
#[derive(Clone)]
pub(crate) struct Copy(Tree);

impl Disk {
    /// An empty disk, mounted at a folder that is made for it.
    pub(crate) fn mount(path: &Path) -> io::Result<Self> {
        unmount_leftovers();
        fs::create_dir_all(path)?;
        let state = State {
            tree: Tree::new(CAPACITY_BYTES),
            planned: None,
            failed: Vec::new(),
            lies: false,
        };
        let mut disk =
            Self { path: path.to_owned(), state: Arc::new(Mutex::new(state)), mounted: None };
        disk.attach()?;
        Ok(disk)
    }

    fn attach(&mut self) -> io::Result<()> {
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName(format!("{PREFIX}{}", std::process::id())),
            MountOption::NoAtime,
        ];
        let filesystem = FaultyFilesystem(Arc::clone(&self.state));
        self.mounted = Some(fuser::spawn_mount(filesystem, &self.path, &config)?);
        Ok(())
    }

    /// Changes what is on the disk while no program has it open, and so that the
    /// kernel remembers nothing of it.
    fn change(&mut self, change: impl FnOnce(&mut State)) -> io::Result<()> {
        if let Some(mounted) = self.mounted.take() {
            mounted.umount_and_join()?;
        }
        change(&mut self.state());
        self.attach()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Cuts the power: what was not synced is gone, but for what the loss leaves.
    /// The node's process has been killed.
    pub(crate) fn cut_power(&mut self, loss: Loss, random: &mut StdRng) -> io::Result<()> {
        self.change(|state| state.tree.cut_power(loss, random))
    }

    /// What is on it, as programs see it.
    pub(crate) fn copy(&self) -> Copy {
        Copy(self.state().tree.clone())
    }

    /// Puts a copy in the place of what is on it.
    pub(crate) fn restore(&mut self, copy: Copy) -> io::Result<()> {
        self.change(|state| state.tree = copy.0)
    }

    /// Puts an empty disk in its place.
    pub(crate) fn wipe(&mut self) -> io::Result<()> {
        self.restore(Copy(Tree::new(CAPACITY_BYTES)))
    }

    /// Leaves so much free, or all that there was.
    pub(crate) fn leave_free(&self, bytes: Option<u64>) {
        let mut state = self.state();
        let capacity = bytes.map_or(CAPACITY_BYTES, |bytes| state.tree.used_bytes() + bytes);
        state.tree.set_capacity(capacity);
    }

    /// Makes it fail.
    pub(crate) fn plan_error(&self, planned: PlannedError) {
        let mut state = self.state();
        state.planned = Some(planned);
        state.failed.clear();
    }

    /// What it has failed at since it was told to.
    pub(crate) fn failed(&self) -> Vec<PathBuf> {
        self.state().failed.clone()
    }

    /// Says from now on that it has synced, without doing it, or no longer.
    pub(crate) fn lie(&self, lies: bool) {
        self.state().lies = lies;
    }

    /// Lets it fail no more.
    pub(crate) fn end_errors(&self) {
        self.state().planned = None;
    }

    /// Turns over one bit of what was synced of the newest file of a kind that has
    /// `least_bytes`, somewhere in a part of it. The path and the place.
    pub(crate) fn flip_bit(
        &mut self,
        is_of_kind: impl Fn(&str) -> bool,
        least_bytes: u64,
        part: impl Fn(u64) -> Range<u64>,
        random: &mut StdRng,
    ) -> io::Result<Option<(PathBuf, u64)>> {
        let mut found: Vec<(PathBuf, u64)> = self
            .state()
            .tree
            .files()
            .into_iter()
            .filter(|(path, _)| {
                path.file_name().is_some_and(|it| is_of_kind(&it.to_string_lossy()))
            })
            .map(|(path, content)| (path, content.size()))
            .filter(|(_, size)| *size >= least_bytes)
            .collect();
        found.sort();
        let Some((path, size)) = found.pop() else { return Ok(None) };
        let offset = random.random_range(part(size));
        let bit = random.random_range(0..8);
        self.change(|state| {
            state.tree.flip_bit(&path, offset, bit).expect("it was there");
        })?;
        Ok(Some((path, offset)))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(mounted) = self.mounted.take() {
            // Nothing can be done for one that stays.
            if let Err(error) = mounted.umount_and_join() {
                eprintln!("{} stays mounted: {error}", self.path.display());
            }
        }
    }
}

/// Unmounts what runs left that were killed.
fn unmount_leftovers() {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for mount in mounts.lines() {
        let mut words = mount.split(' ');
        let (Some(name), Some(path)) = (words.next(), words.next()) else { continue };
        let Some(process) = name.strip_prefix(PREFIX) else { continue };
        if !Path::new("/proc").join(process).exists() {
            // Somebody else may have been quicker.
            let _ = Command::new("umount").args(["--lazy", path]).status();
        }
    }
}

impl Copy {
    /// Writes all files below a folder.
    pub(crate) fn write_to(&self, folder: &Path) -> io::Result<()> {
        for (path, content) in self.0.files() {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().expect("it is below the folder"))?;
            let size = usize::try_from(content.size()).expect("it is in memory");
            fs::write(path, content.read(0, size))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
