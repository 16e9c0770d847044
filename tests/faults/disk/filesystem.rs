//! The faulty disk as the kernel mounts it: what FUSE asks, answered from the
//! tree; and the errors that the disk was told to make.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::content::PAGE_BYTES;
use super::tree::{Inode, Kind, Tree};

/// Nobody else changes the disk while it is mounted: the kernel may remember.
const REMEMBERED: Duration = Duration::from_secs(3600);
const GENERATION: Generation = Generation(0);
const FILE_PERMISSIONS: u16 = 0o644;
const FOLDER_PERMISSIONS: u16 = 0o755;
const LONGEST_NAME: u32 = 255;

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failing {
    /// Writing a file.
    Write,
    /// Syncing a file.
    Sync,
}

/// An error that the disk is to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlannedError {
    pub(crate) what: Failing,
    /// Only of files whose names end so.
    pub(crate) suffix: &'static str,
    /// So many go well before.
    pub(crate) after: u64,
    /// Whether all fail from then on, or one.
    pub(crate) lasts: bool,
}

/// A disk: what is on it, and what it is about to do.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) tree: Tree,
    pub(crate) planned: Option<PlannedError>,
    /// What it failed at.
    pub(crate) failed: Vec<PathBuf>,
    /// It says that it has synced, and has not.
    pub(crate) lies: bool,
}

impl State {
    /// Counts a write or sync down: whether it fails.
    fn fails(&mut self, what: Failing, inode: INodeNo) -> bool {
        let Some(planned) = self.planned.as_mut().filter(|planned| planned.what == what) else {
            return false;
        };
        let path = self.tree.path_of(inode.0);
        if !path.to_string_lossy().ends_with(planned.suffix) {
            return false;
        }
        if planned.after > 0 {
            planned.after -= 1;
            return false;
        }
        if !planned.lasts {
            self.planned = None;
        }
        self.failed.push(path);
        true
    }
}

/// What is mounted.
#[derive(Debug)]
pub(crate) struct FaultyFilesystem(pub(crate) Arc<Mutex<State>>);

impl FaultyFilesystem {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics with it")
    }

    /// Does something to the tree.
    fn with<T>(&self, act: impl FnOnce(&mut Tree) -> Result<T, ErrorKind>) -> Result<T, Errno> {
        act(&mut self.state().tree).map_err(number_of)
    }

    fn attributes(&self, inode: Inode) -> Result<FileAttr, Errno> {
        self.with(|tree| attributes(tree, inode))
    }

    /// Answers with what a new or found entry is.
    fn tell(&self, found: Result<Inode, Errno>, reply: ReplyEntry) {
        match found.and_then(|inode| self.attributes(inode)) {
            Ok(attributes) => reply.entry(&REMEMBERED, &attributes, GENERATION),
            Err(error) => reply.error(error),
        }
    }

    fn synced(&self, inode: INodeNo) -> Result<(), Errno> {
        let mut state = self.state();
        if state.fails(Failing::Sync, inode) {
            state.tree.fail_sync(inode.0);
            return Err(Errno::EIO);
        }
        if state.lies {
            return Ok(());
        }
        state.tree.sync(inode.0).map_err(number_of)
    }
}

fn number_of(kind: ErrorKind) -> Errno {
    match kind {
        ErrorKind::NotFound => Errno::ENOENT,
        ErrorKind::AlreadyExists => Errno::EEXIST,
        ErrorKind::NotADirectory => Errno::ENOTDIR,
        ErrorKind::IsADirectory => Errno::EISDIR,
        ErrorKind::DirectoryNotEmpty => Errno::ENOTEMPTY,
        ErrorKind::StorageFull => Errno::ENOSPC,
        _ => Errno::EIO,
    }
}

fn done(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn attributes(tree: &Tree, inode: Inode) -> Result<FileAttr, ErrorKind> {
    let entry = tree.entry(inode)?;
    let (kind, perm, size, pages) = match &entry.kind {
        Kind::File(content) => {
            (FileType::RegularFile, FILE_PERMISSIONS, content.size(), content.pages())
        }
        Kind::Folder { .. } => (FileType::Directory, FOLDER_PERMISSIONS, 0, 0),
    };
    Ok(FileAttr {
        ino: INodeNo(inode),
        size,
        blocks: pages * PAGE_BYTES / 512,
        atime: entry.changed,
        mtime: entry.changed,
        ctime: entry.changed,
        crtime: entry.changed,
        kind,
        perm,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    })
}

impl Filesystem for FaultyFilesystem {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.tell(self.with(|tree| tree.look_up(parent.0, name)), reply);
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode.0) {
            Ok(attributes) => reply.attr(&REMEMBERED, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        _mode: Option<u32>,
        _user: Option<u32>,
        _group: Option<u32>,
        size: Option<u64>,
        _accessed: Option<TimeOrNow>,
        _modified: Option<TimeOrNow>,
        _changed: Option<SystemTime>,
        _: Option<FileHandle>,
        _created: Option<SystemTime>,
        _checked: Option<SystemTime>,
        _backed_up: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let resized = size.map_or(Ok(()), |size| self.with(|tree| tree.resize(inode.0, size)));
        match resized.and_then(|()| self.attributes(inode.0)) {
            Ok(attributes) => reply.attr(&REMEMBERED, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _mask: u32,
        reply: ReplyEntry,
    ) {
        self.tell(self.with(|tree| tree.create_folder(parent.0, name)), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(self.with(|tree| tree.remove(parent.0, name)), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(self.with(|tree| tree.remove(parent.0, name)), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        done(self.with(|tree| tree.rename(parent.0, name, new_parent.0, new_name)), reply);
    }

    fn link(&self, _: &Request, inode: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let linked = self.with(|tree| tree.link(inode.0, parent.0, name));
        self.tell(linked.map(|()| inode.0), reply);
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _mask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let created = self.with(|tree| {
            let inode = tree.create_file(parent.0, name)?;
            tree.open(inode)?;
            attributes(tree, inode)
        });
        match created {
            Ok(attributes) => {
                let (handle, flags) = (FileHandle(0), FopenFlags::empty());
                reply.created(&REMEMBERED, &attributes, GENERATION, handle, flags);
            }
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.with(|tree| tree.open(inode.0)) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.with(|tree| match &tree.entry(inode.0)?.kind {
            Kind::File(content) => Ok(content.read(offset, size as usize)),
            Kind::Folder { .. } => Err(ErrorKind::IsADirectory),
        });
        match read {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut state = self.state();
        if state.fails(Failing::Write, inode) {
            return reply.error(Errno::EIO);
        }
        match state.tree.write(inode.0, offset, data) {
            Ok(()) => reply.written(u32::try_from(data.len()).expect("a request is smaller")),
            Err(kind) => reply.error(number_of(kind)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.state().tree.close(inode.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _data: bool, reply: ReplyEmpty) {
        done(self.synced(inode), reply);
    }

    fn fsyncdir(&self, _: &Request, inode: INodeNo, _: FileHandle, _data: bool, reply: ReplyEmpty) {
        done(self.synced(inode), reply);
    }

    fn readdir(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let state = self.state();
        let now = match state.tree.entry(inode.0).map(|entry| &entry.kind) {
            Ok(Kind::Folder { now, .. }) => now,
            Ok(Kind::File(_)) => return reply.error(Errno::ENOTDIR),
            Err(kind) => return reply.error(number_of(kind)),
        };
        // By inode: where a name is found again does not change when others come or
        // go, hard links aside, which only have to be told once.
        let mut children: Vec<_> = now.iter().filter(|(_, child)| **child > offset).collect();
        children.sort_by_key(|(_, child)| **child);
        for (name, child) in children {
            let is_folder =
                matches!(state.tree.entry(*child).map(|it| &it.kind), Ok(Kind::Folder { .. }));
            let kind = if is_folder { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(*child), *child, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let (pages, free) = self.state().tree.space();
        let bytes = u32::try_from(PAGE_BYTES).expect("a page is small");
        reply.statfs(pages, free, free, 0, 0, bytes, LONGEST_NAME, bytes);
    }
}
