//! The conformance suite on RocksDB, and what only real files can suffer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{RocksOptions, RocksStorage};
use crate::conformance::{TestDisk, conformance_suite};
use crate::contract::{OpenError, OpenOptions, Recovery};

/// A data folder that is replaced by a copy of itself at each kill: the copy is
/// what the page cache would have, and its process is gone.
struct Folder {
    folder: TempDir,
    generation: u32,
}

impl Folder {
    fn path(&self) -> PathBuf {
        self.folder.path().join(self.generation.to_string())
    }
}

impl TestDisk for Folder {
    type Storage = RocksStorage;

    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder"), generation: 0 }
    }

    fn open_with(&self, open: OpenOptions) -> Result<(Self::Storage, Recovery), OpenError> {
        RocksStorage::open(self.path(), RocksOptions { open, ..small() })
    }

    fn kill(&mut self, storage: Self::Storage) {
        let old = self.path();
        self.generation += 1;
        copy_folder(&old, &self.path());
        drop(storage);
        std::fs::remove_dir_all(old).expect("removable");
    }
}

/// Little memory, so that tests meet flushes and several write-ahead files.
fn small() -> RocksOptions {
    RocksOptions { write_buffer_bytes: 1024 * 1024, ..RocksOptions::default() }
}

/// Copies a folder as it is at one moment: again, if RocksDB changed it meanwhile.
fn copy_folder(from: &Path, to: &Path) {
    loop {
        let before = files(from);
        let copied = before.keys().try_for_each(|file| {
            let target = to.join(file);
            std::fs::create_dir_all(target.parent().expect("below the folder"))?;
            std::fs::copy(from.join(file), target).map(|_| ())
        });
        if copied.is_ok() && files(from) == before {
            return;
        }
        std::fs::remove_dir_all(to).expect("removable");
    }
}

/// The files below a folder with their sizes.
fn files(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).expect("readable").flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                Ok(metadata) => {
                    let path = entry.path();
                    let path = path.strip_prefix(folder).expect("below the folder");
                    files.insert(path.to_owned(), metadata.len());
                }
                Err(_) => {}
            }
        }
    }
    files
}

mod conformance {
    super::conformance_suite!(super::Folder);
}
