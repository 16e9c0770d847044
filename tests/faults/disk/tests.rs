//! The disk as programs meet it, through the kernel.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};

use rand::SeedableRng as _;

use super::*;
use crate::requirements;

fn disk() -> (tempfile::TempDir, Disk) {
    requirements::demand(&requirements::DISK);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disk = Disk::mount(&folder.path().join("disk")).expect("it is mounted");
    (folder, disk)
}

fn random() -> StdRng {
    StdRng::seed_from_u64(7)
}

#[test]
fn a_power_cut_takes_what_was_not_synced() {
    let (_folder, mut disk) = disk();
    let path = disk.path().join("database");
    fs::create_dir(&path).expect("room");
    let mut file = File::create(path.join("a")).expect("room");
    file.write_all(&[1; 10_000]).expect("room");
    file.sync_data().expect("it works");
    File::open(&path).and_then(|folder| folder.sync_all()).expect("it works");
    File::open(disk.path()).and_then(|folder| folder.sync_all()).expect("it works");
    file.write_all(&[2; 10_000]).expect("room");
    fs::write(path.join("b"), [3; 10]).expect("room");
    fs::rename(path.join("b"), path.join("c")).expect("it is there");
    assert_eq!(fs::read(path.join("a")).expect("there").len(), 20_000);
    drop(file);
    let old = disk.copy();
    disk.cut_power(Loss::Everything, &mut random()).expect("mounted again");
    assert_eq!(fs::read(path.join("a")).expect("there"), vec![1; 10_000]);
    assert_eq!(fs::read_dir(&path).expect("there").count(), 1);
    disk.restore(old).expect("mounted again");
    assert_eq!(fs::read(path.join("c")).expect("there"), [3; 10]);
}

#[test]
fn it_fails_when_it_is_told_to_and_fills_up() {
    let (_folder, disk) = disk();
    let mut file = File::create(disk.path().join("a")).expect("room");
    disk.plan_error(PlannedError { what: Failing::Sync, suffix: "a", after: 1, lasts: false });
    file.write_all(b"one").expect("room");
    file.sync_data().expect("the first goes well");
    file.write_all(b"two").expect("room");
    let error = file.sync_data().expect_err("the second fails");
    assert_eq!(error.raw_os_error(), Some(5), "{error}");
    file.sync_data().expect("one fails, not all");
    assert_eq!(disk.failed(), [Path::new("a")]);
    let other = PlannedError { what: Failing::Write, suffix: "b", after: 0, lasts: true };
    disk.plan_error(other);
    file.write_all(b"three").expect("it is another file");
    disk.end_errors();
    disk.leave_free(Some(8192));
    let space = rustix::fs::statvfs(disk.path()).expect("it answers");
    assert_eq!(space.f_bavail * space.f_frsize, 8192);
    let error = file.write_all(&[0; 20_000]).expect_err("full");
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    disk.leave_free(None);
    file.write_all(&[0; 20_000]).expect("room again");
}
