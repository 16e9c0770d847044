//! The files and folders of the faulty disk, as programs see them and as they are
//! after a power cut. It is strict: a name is durable once its folder was synced,
//! a content once its file was.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rand::RngExt as _;
use rand::rngs::StdRng;

use super::content::{Content, Loss, PAGE_BYTES};

/// Names a file or folder, whatever its paths are.
pub(crate) type Inode = u64;

/// The folder that all are in.
pub(crate) const ROOT: Inode = 1;

type Names = BTreeMap<OsString, Inode>;

/// What is behind a name.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// A file.
    File(Content),
    /// A folder: its names now, and those that were synced.
    Folder { now: Names, durable: Names },
}

/// A file or folder.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) changed: SystemTime,
    /// Handles that programs have.
    opened: u32,
}

/// All that is on the disk.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    entries: BTreeMap<Inode, Entry>,
    next: Inode,
    used_pages: u64,
    capacity_pages: u64,
}

impl Tree {
    /// An empty disk.
    pub(crate) fn new(capacity_bytes: u64) -> Self {
        let mut tree = Self {
            entries: BTreeMap::new(),
            next: ROOT + 1,
            used_pages: 0,
            capacity_pages: capacity_bytes / PAGE_BYTES,
        };
        tree.entries.insert(ROOT, entry(folder()));
        tree
    }

    pub(crate) fn set_capacity(&mut self, bytes: u64) {
        self.capacity_pages = bytes / PAGE_BYTES;
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_pages * PAGE_BYTES
    }

    /// The pages of the disk, and those that are free.
    pub(crate) fn space(&self) -> (u64, u64) {
        (self.capacity_pages, self.capacity_pages.saturating_sub(self.used_pages))
    }

    pub(crate) fn entry(&self, inode: Inode) -> Result<&Entry, ErrorKind> {
        self.entries.get(&inode).ok_or(ErrorKind::NotFound)
    }

    fn entry_mut(&mut self, inode: Inode) -> Result<&mut Entry, ErrorKind> {
        self.entries.get_mut(&inode).ok_or(ErrorKind::NotFound)
    }

    fn names(&mut self, folder: Inode) -> Result<&mut Names, ErrorKind> {
        match &mut self.entry_mut(folder)?.kind {
            Kind::Folder { now, .. } => Ok(now),
            Kind::File(_) => Err(ErrorKind::NotADirectory),
        }
    }

    fn content(&mut self, file: Inode) -> Result<&mut Content, ErrorKind> {
        let entry = self.entry_mut(file)?;
        entry.changed = SystemTime::now();
        match &mut entry.kind {
            Kind::File(content) => Ok(content),
            Kind::Folder { .. } => Err(ErrorKind::IsADirectory),
        }
    }

    pub(crate) fn look_up(&self, folder: Inode, name: &OsStr) -> Result<Inode, ErrorKind> {
        match &self.entry(folder)?.kind {
            Kind::Folder { now, .. } => now.get(name).copied().ok_or(ErrorKind::NotFound),
            Kind::File(_) => Err(ErrorKind::NotADirectory),
        }
    }

    pub(crate) fn create_file(&mut self, folder: Inode, name: &OsStr) -> Result<Inode, ErrorKind> {
        self.create(folder, name, Kind::File(Content::default()))
    }

    pub(crate) fn create_folder(
        &mut self,
        parent: Inode,
        name: &OsStr,
    ) -> Result<Inode, ErrorKind> {
        self.create(parent, name, folder())
    }

    fn create(&mut self, folder: Inode, name: &OsStr, kind: Kind) -> Result<Inode, ErrorKind> {
        let inode = self.next;
        let names = self.names(folder)?;
        if names.contains_key(name) {
            return Err(ErrorKind::AlreadyExists);
        }
        names.insert(name.to_owned(), inode);
        self.next += 1;
        self.entries.insert(inode, entry(kind));
        Ok(inode)
    }

    /// Gives a file another name.
    pub(crate) fn link(
        &mut self,
        file: Inode,
        folder: Inode,
        name: &OsStr,
    ) -> Result<(), ErrorKind> {
        let names = self.names(folder)?;
        if names.contains_key(name) {
            return Err(ErrorKind::AlreadyExists);
        }
        names.insert(name.to_owned(), file);
        Ok(())
    }

    pub(crate) fn remove(&mut self, folder: Inode, name: &OsStr) -> Result<(), ErrorKind> {
        let inode = self.look_up(folder, name)?;
        if matches!(&self.entry(inode)?.kind, Kind::Folder { now, .. } if !now.is_empty()) {
            return Err(ErrorKind::DirectoryNotEmpty);
        }
        self.names(folder)?.remove(name);
        self.forget_unused(inode);
        Ok(())
    }

    pub(crate) fn rename(
        &mut self,
        folder: Inode,
        name: &OsStr,
        to_folder: Inode,
        to_name: &OsStr,
    ) -> Result<(), ErrorKind> {
        let inode = self.look_up(folder, name)?;
        self.names(to_folder)?;
        self.names(folder)?.remove(name);
        let replaced = self.names(to_folder)?.insert(to_name.to_owned(), inode);
        if let Some(replaced) = replaced {
            self.forget_unused(replaced);
        }
        Ok(())
    }

    pub(crate) fn open(&mut self, inode: Inode) -> Result<(), ErrorKind> {
        self.entry_mut(inode)?.opened += 1;
        Ok(())
    }

    pub(crate) fn close(&mut self, inode: Inode) {
        if let Some(entry) = self.entries.get_mut(&inode) {
            entry.opened = entry.opened.saturating_sub(1);
            self.forget_unused(inode);
        }
    }

    pub(crate) fn write(&mut self, file: Inode, offset: u64, data: &[u8]) -> Result<(), ErrorKind> {
        let (_, free) = self.space();
        let content = self.content(file)?;
        let new = content.new_pages(offset, data.len());
        if new > free {
            return Err(ErrorKind::StorageFull);
        }
        content.write(offset, data);
        self.used_pages += new;
        Ok(())
    }

    pub(crate) fn resize(&mut self, file: Inode, size: u64) -> Result<(), ErrorKind> {
        let content = self.content(file)?;
        let before = content.pages();
        content.resize(size);
        let after = content.pages();
        self.used_pages = self.used_pages + after - before;
        Ok(())
    }

    /// Syncs a file's content or a folder's names.
    pub(crate) fn sync(&mut self, inode: Inode) -> Result<(), ErrorKind> {
        let gone: Vec<Inode> = match &mut self.entry_mut(inode)?.kind {
            Kind::File(content) => {
                content.sync();
                Vec::new()
            }
            Kind::Folder { now, durable } => {
                std::mem::replace(durable, now.clone()).into_values().collect()
            }
        };
        gone.into_iter().for_each(|inode| self.forget_unused(inode));
        Ok(())
    }

    /// A sync that fails: see [`Content::fail_sync`].
    pub(crate) fn fail_sync(&mut self, inode: Inode) {
        if let Some(Entry { kind: Kind::File(content), .. }) = self.entries.get_mut(&inode) {
            content.fail_sync();
        }
    }

    /// What is left after a power cut. Names that were not synced are lost
    /// together or kept together, as the file system's journal was written or not.
    pub(crate) fn cut_power(&mut self, loss: Loss, random: &mut StdRng) {
        let keeps_names = loss != Loss::Everything && random.random_bool(0.5);
        for entry in self.entries.values_mut() {
            entry.opened = 0;
            match &mut entry.kind {
                Kind::File(content) => content.cut_power(loss, random),
                Kind::Folder { now, durable } if keeps_names => durable.clone_from(now),
                Kind::Folder { now, durable } => now.clone_from(durable),
            }
        }
        let named: Vec<Inode> = self.entries.values().flat_map(Entry::names).copied().collect();
        self.entries.retain(|inode, _| *inode == ROOT || named.contains(inode));
        self.used_pages = self.entries.values().map(Entry::pages).sum();
    }

    /// Turns a bit of a file over, on the disk.
    pub(crate) fn flip_bit(&mut self, path: &Path, offset: u64, bit: u32) -> Result<(), ErrorKind> {
        let file = self.find(path)?;
        self.content(file)?.flip_bit(offset, bit);
        Ok(())
    }

    /// The file or folder at a path below the root.
    pub(crate) fn find(&self, path: &Path) -> Result<Inode, ErrorKind> {
        path.iter().try_fold(ROOT, |folder, name| self.look_up(folder, name))
    }

    /// The path of a file or folder, empty for one that has lost its name.
    pub(crate) fn path_of(&self, inode: Inode) -> PathBuf {
        let named = self.named().into_iter().find(|(_, named)| *named == inode);
        named.map(|(path, _)| path).unwrap_or_default()
    }

    /// All files: their paths and contents.
    pub(crate) fn files(&self) -> Vec<(PathBuf, &Content)> {
        let named = self.named().into_iter();
        named
            .filter_map(|(path, inode)| match &self.entries.get(&inode)?.kind {
                Kind::File(content) => Some((path, content)),
                Kind::Folder { .. } => None,
            })
            .collect()
    }

    /// All files and folders below the root, by their paths.
    fn named(&self) -> Vec<(PathBuf, Inode)> {
        let mut found = Vec::new();
        let mut folders = vec![(PathBuf::new(), ROOT)];
        while let Some((path, inode)) = folders.pop() {
            let Some(Entry { kind: Kind::Folder { now, .. }, .. }) = self.entries.get(&inode)
            else {
                continue;
            };
            let children = now.iter().map(|(name, inode)| (path.join(name), *inode));
            found.extend(children.clone());
            folders.extend(children);
        }
        found
    }

    /// Lets go of what has no name, neither now nor after a power cut, and is not
    /// open.
    fn forget_unused(&mut self, inode: Inode) {
        let is_named = |entry: &Entry| entry.names().any(|named| *named == inode);
        let is_open = self.entries.get(&inode).is_some_and(|entry| entry.opened > 0);
        if inode == ROOT || is_open || self.entries.values().any(is_named) {
            return;
        }
        if let Some(entry) = self.entries.remove(&inode) {
            self.used_pages -= entry.pages();
        }
    }
}

impl Entry {
    /// What a folder names, now or after a power cut.
    fn names(&self) -> impl Iterator<Item = &Inode> {
        let (now, durable) = match &self.kind {
            Kind::File(_) => (None, None),
            Kind::Folder { now, durable } => (Some(now), Some(durable)),
        };
        now.into_iter().chain(durable).flat_map(Names::values)
    }

    fn pages(&self) -> u64 {
        match &self.kind {
            Kind::File(content) => content.pages(),
            Kind::Folder { .. } => 0,
        }
    }
}

fn folder() -> Kind {
    Kind::Folder { now: Names::new(), durable: Names::new() }
}

fn entry(kind: Kind) -> Entry {
    Entry { kind, changed: SystemTime::now(), opened: 0 }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn paths(tree: &Tree) -> Vec<String> {
        let mut paths: Vec<_> =
            tree.files().iter().map(|(path, _)| path.display().to_string()).collect();
        paths.sort();
        paths
    }

    #[test]
    fn a_name_is_durable_once_its_folder_was_synced() {
        let random = &mut StdRng::seed_from_u64(1);
        let mut tree = Tree::new(1 << 20);
        let folder = tree.create_folder(ROOT, "a".as_ref()).expect("new");
        let file = tree.create_file(folder, "old".as_ref()).expect("new");
        tree.write(file, 0, &[1; 5000]).expect("room");
        tree.sync(file).expect("there");
        tree.sync(folder).expect("there");
        tree.sync(ROOT).expect("there");
        tree.rename(folder, "old".as_ref(), folder, "new".as_ref()).expect("there");
        tree.create_file(folder, "other".as_ref()).expect("new");
        let mut again = tree.clone();
        tree.cut_power(Loss::Everything, random);
        assert_eq!(paths(&tree), ["a/old"]);
        again.sync(folder).expect("there");
        again.cut_power(Loss::Everything, random);
        assert_eq!(paths(&again), ["a/new", "a/other"]);
        let file = again.find("a/new".as_ref()).expect("there");
        assert!(matches!(&again.entry(file).expect("there").kind,
            Kind::File(content) if content.read(0, 5000) == vec![1; 5000]));
    }

    #[test]
    fn what_is_removed_takes_room_until_nobody_can_see_it() {
        let mut tree = Tree::new(3 * PAGE_BYTES);
        let file = tree.create_file(ROOT, "a".as_ref()).expect("new");
        tree.open(file).expect("there");
        tree.write(file, 0, &[1; 3 * 4096]).expect("room");
        let other = tree.create_file(ROOT, "b".as_ref()).expect("new");
        assert_eq!(tree.write(other, 0, &[1]), Err(ErrorKind::StorageFull));
        tree.sync(ROOT).expect("there");
        tree.remove(ROOT, "a".as_ref()).expect("there");
        tree.close(file);
        assert_eq!(tree.space(), (3, 0), "a power cut would bring it back");
        tree.sync(ROOT).expect("there");
        assert_eq!(tree.space(), (3, 3));
        tree.write(other, 0, &[1]).expect("room again");
    }
}
