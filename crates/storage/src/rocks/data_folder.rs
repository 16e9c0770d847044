//! The data folder: who holds it, what is in it, how full its disk is.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::contract::Space;
use crate::durable_marks::sync_folder;
use crate::opening_outcome::OpenError;

const LOCK: &str = "lock";
const DATABASE: &str = "database";
const NEW: &str = "database.new";
const RECOVERED: &str = "database.recovered";
const DAMAGED: &str = "database.damaged";

/// A data folder that this handle alone has open.
#[derive(Debug)]
pub(super) struct DataFolder {
    path: PathBuf,
    /// The lock goes with the file, also when the process is killed. None where there is
    /// no such file, and the folder is only looked at.
    lock: Option<File>,
}

impl Drop for DataFolder {
    fn drop(&mut self) {
        // Closing the file is not enough: a child that this process has just begun has it
        // open too, until it runs its own program.
        if let Some(lock) = &self.lock {
            // The close that follows is what is left to try.
            let _ = lock.unlock();
        }
    }
}

impl DataFolder {
    /// Creates the folder if it is not there, and takes its lock.
    pub(super) fn lock(path: &Path) -> Result<Self, OpenError> {
        let on_folder = file_error("create the data folder", path);
        std::fs::create_dir_all(path).map_err(on_folder)?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_folder(parent).map_err(file_error("sync the folder", parent))?;
        }
        let lock_path = path.join(LOCK);
        let opened = File::options().create(true).truncate(false).write(true).open(&lock_path);
        let lock = opened.map_err(file_error("create the lock file", &lock_path))?;
        take_lock(path, &lock)?;
        Ok(Self { path: path.to_owned(), lock: Some(lock) })
    }

    /// Takes the lock of a folder to look at it: creates nothing.
    pub(super) fn lock_to_look(path: &Path) -> Result<Self, OpenError> {
        let lock_path = path.join(LOCK);
        let lock = match File::open(&lock_path) {
            Ok(lock) => Some(lock),
            // Nobody can have it open.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(file_error("read the lock file", &lock_path)(error)),
        };
        if let Some(lock) = &lock {
            take_lock(path, lock)?;
        }
        Ok(Self { path: path.to_owned(), lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// Where a recovery builds the database that takes the damaged one's place.
    pub(super) fn recovered(&self) -> PathBuf {
        self.path.join(RECOVERED)
    }

    /// Where a first start creates the database.
    pub(super) fn new_database(&self) -> PathBuf {
        self.path.join(NEW)
    }

    /// What is in the place of the database.
    pub(super) fn content(&self) -> Result<FolderContent, OpenError> {
        let database = self.database();
        if database.join("CURRENT").exists() {
            return Ok(FolderContent::Database);
        }
        let entries = match std::fs::read_dir(&database) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(FolderContent::Nothing);
            }
            Err(error) => return Err(file_error("read the folder", &database)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(file_error("read the folder", &database))?;
            if may_hold_data(&entry.file_name().to_string_lossy()) {
                return Ok(FolderContent::WithoutCurrent);
            }
        }
        Ok(FolderContent::Nothing)
    }

    /// Removes what an interrupted first start had created so far: nothing was
    /// ever accepted into it.
    pub(super) fn remove_unfinished_creation(&self) -> Result<(), OpenError> {
        remove_if_there(&self.new_database())
    }

    /// Puts a complete new database in its place. It is there after a crash, too.
    pub(super) fn swap_in_new(&self) -> Result<(), OpenError> {
        let (new, database) = (self.new_database(), self.database());
        // Files without data, or no folder at all: see `content`.
        remove_if_there(&database)?;
        self.rename(&new, &database)
    }

    /// Finishes a recovery that was interrupted between its two renames.
    pub(super) fn finish_recovery(&self) -> Result<(), OpenError> {
        let (recovered, database) = (self.recovered(), self.database());
        if !database.exists() && recovered.exists() {
            self.rename(&recovered, &database)?;
        }
        Ok(())
    }

    /// Removes what an interrupted recovery had built so far.
    pub(super) fn remove_unfinished_recovery(&self) -> Result<(), OpenError> {
        remove_if_there(&self.recovered())
    }

    /// Puts the damaged database aside and the recovered one in its place.
    pub(super) fn swap_in_recovered(&self) -> Result<(), OpenError> {
        self.put_aside()?;
        self.rename(&self.recovered(), &self.database())
    }

    /// Puts the damaged database aside.
    pub(super) fn put_aside(&self) -> Result<(), OpenError> {
        let mut aside = (1..).map(|number| self.path.join(format!("{DAMAGED}-{number}")));
        let aside = aside.find(|aside| !aside.exists()).expect("some number is free");
        self.rename(&self.database(), &aside)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), OpenError> {
        std::fs::rename(from, to).map_err(file_error("rename", from))?;
        sync_folder(&self.path).map_err(file_error("sync the folder", &self.path))
    }

    pub(super) fn space(&self) -> io::Result<Space> {
        let disk = rustix::fs::statvfs(&self.path)?;
        let free_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
        Ok(Space { free_bytes, used_bytes: folder_bytes(&self.path)? })
    }
}

/// What is in the place of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FolderContent {
    /// Nothing that could hold data.
    Nothing,
    /// RocksDB's files, without the one that it begins with: damage, since a
    /// database is put in its place only when it is complete.
    WithoutCurrent,
    /// A database.
    Database,
}

fn take_lock(folder: &Path, lock: &File) -> Result<(), OpenError> {
    match lock.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            Err(OpenError::Locked { folder: folder.display().to_string() })
        }
        Err(TryLockError::Error(error)) => Err(file_error("lock", &folder.join(LOCK))(error)),
    }
}

/// Whether a file of RocksDB's, by its name, may hold what was written.
fn may_hold_data(name: &str) -> bool {
    name.ends_with(".sst") || name.ends_with(".log") || name.starts_with("MANIFEST-")
}

fn remove_if_there(folder: &Path) -> Result<(), OpenError> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(file_error("remove", folder)(error))
        }
        _ => Ok(()),
    }
}

/// The sizes of all files below a folder. Files that go meanwhile count nothing.
fn folder_bytes(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes += folder_bytes(&entry.path())?,
            Ok(metadata) => bytes += metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

pub(super) fn file_error<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> OpenError + 'a {
    move |source| OpenError::File { action, path: path.to_owned(), source }
}
