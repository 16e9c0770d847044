//! The directories as far as they are durable: what reads and followers see.
//! The log writer has its own, which is ahead of these.

use std::sync::{Arc, RwLock};

use interlock_core::directory::Directory;
use interlock_core::identity::NamespaceNumber;
use interlock_core::projection::DirectoryProjection;

const LOCK: &str = "no holder of the directories' lock panics";

/// All namespaces' directories. Clones are handles to the same; the projector
/// alone changes them.
#[derive(Clone, Debug)]
pub struct Directories {
    projection: Arc<RwLock<DirectoryProjection>>,
}

impl Directories {
    /// What the opening rebuilt.
    pub fn new(projection: DirectoryProjection) -> Self {
        Self { projection: Arc::new(RwLock::new(projection)) }
    }

    /// One namespace's directory.
    pub fn namespace(&self, namespace: NamespaceNumber) -> NamespaceDirectory {
        NamespaceDirectory { directories: self.clone(), namespace }
    }

    /// Looks at all of them.
    pub fn read<T>(&self, look: impl FnOnce(&DirectoryProjection) -> T) -> T {
        look(&self.projection.read().expect(LOCK))
    }

    /// Changes them; the projector only.
    pub fn write<T>(&self, change: impl FnOnce(&mut DirectoryProjection) -> T) -> T {
        change(&mut self.projection.write().expect(LOCK))
    }
}

/// One namespace's directory.
#[derive(Clone, Debug)]
pub struct NamespaceDirectory {
    directories: Directories,
    namespace: NamespaceNumber,
}

impl NamespaceDirectory {
    /// Looks at it; it is empty while nothing is known of the namespace.
    pub fn read<T>(&self, look: impl FnOnce(&Directory) -> T) -> T {
        self.directories.read(|projection| match projection.directory(self.namespace) {
            Some(directory) => look(directory),
            None => look(&Directory::new()),
        })
    }
}
