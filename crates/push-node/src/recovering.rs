//! Opening what is left of a damaged data folder, by an operator's word
//! (docs/runbook/damaged-data.md).

use std::path::Path;

use interlock_storage::{OpenError, OpenOptions, Recovery, RocksOptions, RocksStorage};

/// What was found in a data folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// What is damaged, a sentence each. Empty after a recovery, and where nothing is.
    pub damage: Vec<String>,
    /// What was taken off the logs.
    pub cut: Vec<LostEnd>,
}

/// The end of a log that could not be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostEnd {
    /// The log.
    pub log: String,
    /// Its last message that is kept; `None` when the whole log is gone.
    pub kept: Option<u64>,
    /// The highest number that is known of it.
    pub found: u64,
    /// Why.
    pub reason: String,
}

/// Looks whether a data folder can be opened, and says what is damaged if not. It
/// changes nothing; the folder must not be in use.
pub fn examine(data_dir: &Path) -> Result<Recovered, OpenError> {
    let findings = RocksStorage::examine(data_dir)?;
    let damage = findings.iter().map(ToString::to_string).collect();
    Ok(Recovered { damage, cut: Vec::new() })
}

/// Opens what is left of a damaged data folder and cuts off what is lost, so that the
/// push-node opens it as any other. What it takes off is gone from this folder; the
/// members give back what they hold of it.
pub fn recover(data_dir: &Path) -> Result<Recovered, OpenError> {
    // An opening would make a database where there is none.
    if let Err(error @ OpenError::NoDatabase { .. }) = RocksStorage::examine(data_dir) {
        return Err(error);
    }
    let open = OpenOptions { accept_loss: true };
    let options = RocksOptions { open, ..RocksOptions::default() };
    let (_, recovery) = RocksStorage::open(data_dir, options)?;
    Ok(lost(&recovery))
}

fn lost(recovery: &Recovery) -> Recovered {
    let cut = recovery.cut.iter().map(|cut| LostEnd {
        log: cut.log.to_string(),
        kept: cut.kept.map(|kept| kept.get()),
        found: cut.found.get(),
        reason: cut.reason.to_string(),
    });
    Recovered { damage: Vec::new(), cut: cut.collect() }
}
