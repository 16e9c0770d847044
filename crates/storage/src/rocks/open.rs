//! Opening a data folder (METHOD M12).
//!
//! RocksDB changes its files as it opens: what it could not replay is gone
//! afterwards. So the database is first opened for reading only, walked, and
//! compared with the durable marks. Only when nothing that was synced is missing
//! is it opened for writing; otherwise the folder stays as it is. An opening that
//! accepts loss builds a new database of what can be read and puts the damaged
//! one aside. Nothing that may hold data is ever deleted.

use std::collections::BTreeMap;
use std::path::Path;

use interlock_core::identity::{LogName, Mark};

use super::RocksStorage;
use super::data_folder::{DataFolder, FolderContent, file_error};
use super::engine::{RocksEngine, engine_error};
use super::options::{Replay, RocksOptions};
use super::write_ahead_check::{first_damage, newest_witness};
use crate::durable_marks::{self, DurableMarksError, DurableMarksFile, sync_folder};
use crate::engine::{Engine as _, EngineError, Table};
use crate::keys::format_version;
use crate::keys::sync_witness::SyncWitness;
use crate::opening::{WalkError, Walked, walk};
use crate::opening_outcome::{CutLog, CutReason, DamageFinding, OpenError, Recovery};
use crate::recovering::copy_kept;

type Marks = BTreeMap<LogName, Mark>;

impl RocksStorage {
    /// Opens the database in a data folder, or creates both.
    pub fn open(
        path: impl AsRef<Path>,
        options: RocksOptions,
    ) -> Result<(Self, Recovery), OpenError> {
        let folder = DataFolder::lock(path.as_ref())?;
        folder.finish_recovery()?;
        let content = folder.content()?;
        let (marks_file, durable) = read_durable_marks(&folder, content, &options)?;
        let accept_loss = options.open.accept_loss;
        let opening = Opening { folder, durable, options };
        match content {
            FolderContent::Database => opening.existing(marks_file),
            FolderContent::Nothing if opening.durable.is_empty() || accept_loss => {
                opening.new_database()
            }
            FolderContent::WithoutCurrent if accept_loss => {
                // It would be taken for one that only waits to be put in place.
                opening.folder.remove_unfinished_recovery()?;
                opening.folder.put_aside()?;
                opening.new_database()
            }
            FolderContent::Nothing | FolderContent::WithoutCurrent => {
                Err(opening.missing_database(content))
            }
        }
    }
}

impl RocksStorage {
    /// Looks at the database in a data folder as an opening does, and changes nothing:
    /// what is damaged of it. A tail that was never synced is no damage.
    pub fn examine(path: impl AsRef<Path>) -> Result<Vec<DamageFinding>, OpenError> {
        let folder = DataFolder::lock_to_look(path.as_ref())?;
        match look_into(folder) {
            Ok(()) => Ok(Vec::new()),
            Err(OpenError::Damaged { findings, .. }) => Ok(findings),
            Err(error) => Err(error),
        }
    }
}

fn look_into(folder: DataFolder) -> Result<(), OpenError> {
    let options = RocksOptions::default();
    let content = folder.content()?;
    let (_, durable) = read_durable_marks(&folder, content, &options)?;
    // It is under another name where a recovery was interrupted.
    let is_there = !durable.is_empty() || folder.recovered().exists();
    let opening = Opening { folder, durable, options };
    match content {
        FolderContent::Database => {
            let walked = opening.look(Replay::PointInTime)?;
            match walked.findings.is_empty() {
                true => Ok(()),
                false => Err(damaged(&opening.folder, opening.with_file(walked.findings))),
            }
        }
        FolderContent::Nothing if !is_there => {
            Err(OpenError::NoDatabase { folder: opening.label() })
        }
        FolderContent::Nothing | FolderContent::WithoutCurrent => {
            Err(opening.missing_database(content))
        }
    }
}

/// The marks of the last checkpoint. Without a database there may be no file.
fn read_durable_marks(
    folder: &DataFolder,
    content: FolderContent,
    options: &RocksOptions,
) -> Result<(Option<DurableMarksFile>, Marks), OpenError> {
    let file = folder.path().join(durable_marks::FILE_NAME);
    let detail = match DurableMarksFile::open(folder.path()) {
        Ok(Some((file, marks))) => return Ok((Some(file), marks.into_iter().collect())),
        Ok(None) if content == FolderContent::Nothing || options.open.accept_loss => {
            return Ok((None, Marks::new()));
        }
        Ok(None) => "the durable marks are missing".to_owned(),
        Err(DurableMarksError::Io(error)) => {
            return Err(file_error("read the durable marks", &file)(error));
        }
        Err(DurableMarksError::NewerLayout(found)) => {
            let (folder, found) = (file.display().to_string(), u32::from(found));
            let supported = u32::from(durable_marks::VERSION);
            return Err(OpenError::NewerLayout { folder, found, supported });
        }
        Err(DurableMarksError::Damaged(_)) if options.open.accept_loss => {
            return Ok((None, Marks::new()));
        }
        Err(DurableMarksError::Damaged(detail)) => detail,
    };
    let file = file.display().to_string();
    Err(damaged(folder, vec![DamageFinding::Unreadable { file, detail }]))
}

struct Opening {
    folder: DataFolder,
    durable: Marks,
    options: RocksOptions,
}

impl Opening {
    /// Creates a database under another name, and gives it its own when all of it
    /// is durable: a start that is killed leaves nothing that the next would take
    /// for a database.
    fn new_database(self) -> Result<(RocksStorage, Recovery), OpenError> {
        let label = self.label();
        let on_engine = |error| from_engine(&label, error);
        self.folder.remove_unfinished_creation()?;
        let path = self.folder.new_database();
        let engine = RocksEngine::create_beside(&path, &self.options);
        let engine = engine.map_err(|error| on_engine(engine_error(error)))?;
        let mut batch = Default::default();
        let version = format_version::encode(format_version::CURRENT);
        engine.put(&mut batch, Table::Meta, &format_version::KEY, &version);
        engine.write_durably(batch).map_err(on_engine)?;
        drop(engine);
        sync_folder(&path).map_err(file_error("sync the folder", &path))?;

        // Before the database: from its first message on there are marks.
        let marks_file = self.create_marks_file(&[])?;
        self.folder.swap_in_new()?;
        let lost = self.durable.iter().map(|(log, mark)| CutLog {
            log: *log,
            kept: None,
            found: mark.m_id,
            reason: CutReason::SyncedDataLost,
        });
        let cut: Vec<CutLog> = lost.collect();
        let empty = Self { durable: Marks::new(), ..self };
        let (storage, mut recovery) = empty.existing(Some(marks_file))?;
        recovery.cut = cut;
        Ok((storage, recovery))
    }

    fn missing_database(&self, content: FolderContent) -> OpenError {
        let database = self.folder.database();
        let (file, detail) = match content {
            FolderContent::WithoutCurrent => {
                (database.join("CURRENT"), "the file that the database begins with is missing")
            }
            FolderContent::Nothing | FolderContent::Database => {
                (database, "the database is missing")
            }
        };
        let detail = format!("{detail}; {} logs had been synced", self.durable.len());
        let file = file.display().to_string();
        damaged(&self.folder, vec![DamageFinding::Unreadable { file, detail }])
    }

    fn existing(
        self,
        marks_file: Option<DurableMarksFile>,
    ) -> Result<(RocksStorage, Recovery), OpenError> {
        let looked = self.look(Replay::PointInTime);
        match (looked, marks_file) {
            (Ok(walked), Some(marks_file)) if walked.findings.is_empty() => {
                self.open_walked(walked, marks_file)
            }
            (looked, marks_file) if self.options.open.accept_loss => {
                drop((looked, marks_file));
                self.recover()
            }
            (Ok(walked), _) => Err(damaged(&self.folder, self.with_file(walked.findings))),
            (Err(error), _) => Err(error),
        }
    }

    /// Walks the database without changing anything.
    fn look(&self, replay: Replay) -> Result<Walked, OpenError> {
        let label = self.label();
        let path = self.folder.database();
        let engine = RocksEngine::open_to_read(&path, &self.options, replay);
        let engine = engine.map_err(|error| from_engine(&label, engine_error(error)))?;
        let mut walked = walk(&engine, &self.durable).map_err(|error| from_walk(&label, error))?;
        if replay == Replay::PointInTime {
            self.compare_with_witness(&mut walked)?;
        }
        Ok(walked)
    }

    /// The marks are of the last second at the best. What was appended since says how
    /// much before it had been synced, also behind damage.
    fn compare_with_witness(&self, walked: &mut Walked) -> Result<(), OpenError> {
        let database = self.folder.database();
        let newest = newest_witness(&database);
        let newest = newest.map_err(file_error("read the write-ahead files", &database))?;
        if let Some((file, witness)) = newest.filter(|(_, it)| it.synced > walked.appends) {
            let SyncWitness { synced, .. } = witness;
            let detail = format!(
                "says that {synced} appends had been synced, {} of them can be read",
                walked.appends
            );
            let file = file.display().to_string();
            walked.findings.push(DamageFinding::Unreadable { file, detail });
        }
        Ok(())
    }

    /// Opens for writing what was found sound.
    fn open_walked(
        self,
        walked: Walked,
        marks_file: DurableMarksFile,
    ) -> Result<(RocksStorage, Recovery), OpenError> {
        let label = self.label();
        let path = self.folder.database();
        let engine = RocksEngine::open(self.folder, &path, marks_file, &self.options);
        let engine = engine.map_err(|error| from_engine(&label, engine_error(error)))?;
        settle(engine, walked, &label)
    }

    /// Builds a new database of what can be read, and opens that.
    fn recover(self) -> Result<(RocksStorage, Recovery), OpenError> {
        let label = self.label();
        let on_engine = |error| from_engine(&label, error);
        self.folder.remove_unfinished_recovery()?;
        let path = self.folder.database();
        let source = RocksEngine::open_to_read(&path, &self.options, Replay::Salvage);
        let source = source.map_err(|error| on_engine(engine_error(error)))?;
        let mut walked = walk(&source, &self.durable).map_err(|error| from_walk(&label, error))?;
        walked.add_lost_to_cuts(&self.durable);

        let target = RocksEngine::create_beside(&self.folder.recovered(), &self.options);
        let target = target.map_err(|error| on_engine(engine_error(error)))?;
        copy_kept(&source, &walked, &target).map_err(on_engine)?;
        drop((source, target));

        // In this order: interrupted between, the marks refuse once more.
        self.folder.swap_in_recovered()?;
        let marks_file = self.create_marks_file(&walked.durable_marks())?;
        let cut: Vec<CutLog> = std::mem::take(&mut walked.cut);
        let durable = walked.durable_marks().into_iter().collect();
        let (storage, mut recovery) = Self { durable, ..self }.recovered(marks_file)?;
        recovery.cut = cut;
        Ok((storage, recovery))
    }

    fn recovered(
        self,
        marks_file: DurableMarksFile,
    ) -> Result<(RocksStorage, Recovery), OpenError> {
        let walked = self.look(Replay::PointInTime)?;
        if walked.findings.is_empty() {
            self.open_walked(walked, marks_file)
        } else {
            Err(damaged(&self.folder, walked.findings))
        }
    }

    fn create_marks_file(&self, marks: &[(LogName, Mark)]) -> Result<DurableMarksFile, OpenError> {
        let path = self.folder.path();
        DurableMarksFile::create(path, marks).map_err(file_error("create the durable marks", path))
    }

    /// Adds the file to findings that name logs only.
    fn with_file(&self, mut findings: Vec<DamageFinding>) -> Vec<DamageFinding> {
        if let Ok(Some((file, offset))) = first_damage(&self.folder.database()) {
            let file = file.display().to_string();
            let detail = format!("damaged at byte {offset}, what follows is not read");
            findings.insert(0, DamageFinding::Unreadable { file, detail });
        }
        findings
    }

    fn label(&self) -> String {
        self.folder.path().display().to_string()
    }
}

fn settle(
    engine: RocksEngine,
    walked: Walked,
    label: &str,
) -> Result<(RocksStorage, Recovery), OpenError> {
    walked.settle(&engine).map_err(|error| from_engine(label, error))?;
    RocksStorage::after_walk(engine, walked).map_err(|error| from_engine(label, error))
}

fn damaged(folder: &DataFolder, findings: Vec<DamageFinding>) -> OpenError {
    OpenError::Damaged { folder: folder.path().display().to_string(), findings }
}

fn from_engine(label: &str, error: EngineError) -> OpenError {
    let folder = label.to_owned();
    match error {
        EngineError::Damaged(detail) => {
            let file = "the database".to_owned();
            OpenError::Damaged {
                folder,
                findings: vec![DamageFinding::Unreadable { file, detail }],
            }
        }
        EngineError::Failed(detail) => OpenError::Engine { folder, detail },
    }
}

fn from_walk(label: &str, error: WalkError) -> OpenError {
    match error {
        WalkError::NewerLayout(found) => {
            let (folder, supported) = (label.to_owned(), format_version::CURRENT);
            OpenError::NewerLayout { folder, found, supported }
        }
        WalkError::Engine(error) => from_engine(label, error),
    }
}
