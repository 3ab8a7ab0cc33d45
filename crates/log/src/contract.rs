//! What every [`Disk`] keeps, run against the real one and the one in memory.
//!
//! Each function here is one sentence of the contract. It gets a disk and an empty directory on it.

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::env::{Access, Advice, Disk, DiskFile, EntryKind, LockAttempt, MemoryDisk, RealDisk};
use crate::sync::Arc;

macro_rules! contract {
    ($($sentence:ident)*) => {
        mod real {
            $(#[test] fn $sentence() {
                let dir = tempfile::tempdir().unwrap();
                super::$sentence(&super::RealDisk, dir.path());
            })*
        }
        mod memory {
            $(#[test] fn $sentence() {
                super::$sentence(&super::MemoryDisk::new(), std::path::Path::new("/"));
            })*
        }
    };
}

/// The simulated disk moves no directories, and keeps a lock's text to itself.
macro_rules! simulated {
    ($($sentence:ident)*) => {
        mod simulated {
            $(#[test] fn $sentence() {
                super::$sentence(&crate::simulated::SimulatedDisk::new(), std::path::Path::new("/"));
            })*
        }
    };
}

simulated! {
    create_new_refuses_what_is_there
    open_finds_only_files
    a_handle_for_reading_changes_nothing
    a_read_stops_at_the_end_of_the_file
    a_write_behind_the_end_leaves_zeros_between
    a_file_that_was_cut_grows_again_by_zeros
    allocated_room_reads_as_zeros_and_holds_no_data
    allocating_inside_the_file_changes_nothing
    random_writes_and_cuts_leave_what_a_plain_vector_would_hold
    threads_write_and_read_one_handle_at_once
    a_removed_file_lives_on_in_handles_and_maps
    list_names_what_a_directory_holds_and_no_more
    kind_tells_files_from_directories_from_nothing
    names_need_a_directory_to_stand_in
    a_lock_excludes_other_openers_until_it_is_dropped
    a_lock_with_no_text_is_held_by_an_unknown_process
    a_map_holds_the_first_bytes_and_refuses_more_than_there_are
    a_map_survives_rename_and_removal
}

contract! {
    create_new_refuses_what_is_there
    open_finds_only_files
    a_handle_for_reading_changes_nothing
    a_read_stops_at_the_end_of_the_file
    a_write_behind_the_end_leaves_zeros_between
    a_file_that_was_cut_grows_again_by_zeros
    allocated_room_reads_as_zeros_and_holds_no_data
    allocating_inside_the_file_changes_nothing
    places_no_file_can_reach_are_refused
    random_writes_and_cuts_leave_what_a_plain_vector_would_hold
    threads_write_and_read_one_handle_at_once
    rename_replaces_and_open_handles_go_on
    rename_moves_a_directory_with_what_is_in_it
    a_removed_file_lives_on_in_handles_and_maps
    list_names_what_a_directory_holds_and_no_more
    kind_tells_files_from_directories_from_nothing
    names_need_a_directory_to_stand_in
    a_lock_excludes_other_openers_until_it_is_dropped
    a_lock_with_no_text_is_held_by_an_unknown_process
    a_later_holder_leaves_nothing_of_an_earlier_text
    a_map_holds_the_first_bytes_and_refuses_more_than_there_are
    a_map_survives_rename_and_removal
}

fn create_new_refuses_what_is_there(disk: &dyn Disk, dir: &Path) {
    put(disk, &dir.join("a"), b"kept");
    disk.create_dir(&dir.join("d")).unwrap();
    assert_kind(disk.open(&dir.join("a"), Access::CreateNew), std::io::ErrorKind::AlreadyExists);
    assert_kind(disk.open(&dir.join("d"), Access::CreateNew), std::io::ErrorKind::AlreadyExists);
    assert_kind(disk.create_dir(&dir.join("a")), std::io::ErrorKind::AlreadyExists);
    assert_kind(disk.create_dir(&dir.join("d")), std::io::ErrorKind::AlreadyExists);
    assert_eq!(get(disk, &dir.join("a")), b"kept");
}

fn open_finds_only_files(disk: &dyn Disk, dir: &Path) {
    disk.create_dir(&dir.join("d")).unwrap();
    for access in [Access::Read, Access::ReadWrite] {
        assert_kind(disk.open(&dir.join("nothing"), access), std::io::ErrorKind::NotFound);
        assert_kind(disk.open(&dir.join("d"), access), std::io::ErrorKind::IsADirectory);
    }
    assert!(disk.remove(&dir.join("d")).is_err());
    assert_eq!(disk.kind(&dir.join("d")).unwrap(), Some(EntryKind::Directory));
}

fn a_handle_for_reading_changes_nothing(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("a");
    put(disk, &path, b"kept");
    let file = disk.open(&path, Access::Read).unwrap();
    assert!(file.write_at(b"x", 0).is_err());
    assert!(file.set_len(0).is_err());
    assert!(file.allocate(0, 100).is_err());
    assert_eq!(get(disk, &path), b"kept");
}

fn a_read_stops_at_the_end_of_the_file(disk: &dyn Disk, dir: &Path) {
    let file = put(disk, &dir.join("a"), b"abc");
    let mut buf = [9; 8];
    assert_eq!(file.read_at(&mut buf, 1).unwrap(), 2);
    assert_eq!(&buf, b"bc\x09\x09\x09\x09\x09\x09");
    for offset in [3, 4, 1 << 50, i64::MAX as u64, u64::MAX] {
        assert_eq!(file.read_at(&mut buf, offset).unwrap(), 0, "at {offset}");
    }
    assert_kind(file.read_exact_at(&mut buf, 0), std::io::ErrorKind::UnexpectedEof);
    assert_eq!(file.len().unwrap(), 3);
}

fn a_write_behind_the_end_leaves_zeros_between(disk: &dyn Disk, dir: &Path) {
    let file = put(disk, &dir.join("a"), b"a");
    assert_eq!(file.write_at(b"", 50).unwrap(), 0);
    assert_eq!(file.len().unwrap(), 1, "an empty write lengthens nothing");
    file.write_all_at(b"z", 200_000).unwrap();
    file.sync().unwrap();
    let mut expected = vec![0; 200_001];
    (expected[0], expected[200_000]) = (b'a', b'z');
    assert!(get(disk, &dir.join("a")) == expected);
}

fn a_file_that_was_cut_grows_again_by_zeros(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("a");
    let file = put(disk, &path, &[7; 200_000]);
    file.set_len(70_000).unwrap();
    file.set_len(100_000).unwrap();
    file.set_len(10).unwrap();
    file.allocate(0, 200_000).unwrap();
    let mut expected = vec![0; 200_000];
    expected[..10].fill(7);
    assert!(get(disk, &path) == expected);
}

fn allocated_room_reads_as_zeros_and_holds_no_data(disk: &dyn Disk, dir: &Path) {
    let mib = 1 << 20;
    let file = disk.open(&dir.join("a"), Access::CreateNew).unwrap();
    assert_eq!(file.next_data(0).unwrap(), None);
    file.allocate(0, 64 * mib).unwrap();
    assert_eq!(file.len().unwrap(), 64 * mib);
    let mut buf = [9; 4096];
    file.read_exact_at(&mut buf, 64 * mib - 4096).unwrap();
    assert_eq!(buf, [0; 4096]);
    file.write_all_at(&[1], 20 * mib).unwrap();
    for from in [0, mib, 20 * mib] {
        let found = file.next_data(from).unwrap().expect("there is data ahead");
        assert!((from..=20 * mib).contains(&found), "{found} from {from}");
    }
    for from in [64 * mib, u64::MAX] {
        assert_eq!(file.next_data(from).unwrap(), None);
    }
}

fn allocating_inside_the_file_changes_nothing(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("a");
    let file = put(disk, &path, &[7; 100_000]);
    file.allocate(0, 0).unwrap();
    file.allocate(10, 50_000).unwrap();
    file.allocate(500_000, 0).unwrap();
    assert!(get(disk, &path) == [7; 100_000]);
    file.allocate(60_000, 50_000).unwrap();
    let mut expected = vec![7; 100_000];
    expected.resize(110_000, 0);
    assert!(get(disk, &path) == expected);
}

fn places_no_file_can_reach_are_refused(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("a");
    let file = put(disk, &path, b"kept");
    for far in [i64::MAX as u64 + 1, u64::MAX - 1, u64::MAX] {
        assert!(file.write_at(b"xy", far).is_err(), "write at {far}");
        assert!(file.set_len(far).is_err(), "cut at {far}");
        assert!(file.allocate(far, 2).is_err(), "allocate at {far}");
        assert!(file.allocate(2, far).is_err(), "allocate {far}");
        assert!(file.map(far).is_err(), "map {far}");
    }
    assert_eq!(get(disk, &path), b"kept");
}

#[derive(Clone, Debug)]
enum Op {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
    Allocate { offset: usize, len: usize },
    Read { offset: usize, len: usize },
    NextData(usize),
    Map(usize),
}

fn op() -> impl Strategy<Value = Op> {
    // Most places lie near a border of the memory disk's chunks, and near a page's.
    let place = prop_oneof![
        0..300_000_usize,
        (0..5_usize, 0..7_usize).prop_map(|(chunk, near)| (chunk * 65_536 + near).saturating_sub(3)),
        (0..20_usize, 0..7_usize).prop_map(|(page, near)| (page * 4096 + near).saturating_sub(3)),
    ];
    let bytes =
        prop_oneof![vec(any::<u8>(), 0..40), (1_u8.., 0..150_000_usize).prop_map(|(b, n)| vec![b; n])];
    prop_oneof![
        4 => (place.clone(), bytes).prop_map(|(offset, bytes)| Op::Write { offset, bytes }),
        1 => place.clone().prop_map(Op::SetLen),
        1 => (place.clone(), 0..100_000_usize).prop_map(|(offset, len)| Op::Allocate { offset, len }),
        3 => (place.clone(), 0..100_000_usize).prop_map(|(offset, len)| Op::Read { offset, len }),
        2 => place.clone().prop_map(Op::NextData),
        1 => place.prop_map(Op::Map),
    ]
}

fn random_writes_and_cuts_leave_what_a_plain_vector_would_hold(disk: &dyn Disk, dir: &Path) {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) };
    proptest!(config, |(ops in vec(op(), 1..40))| {
        let path = dir.join("a");
        let file = disk.open(&path, Access::CreateNew).unwrap();
        let mut model: Vec<u8> = Vec::new();
        for op in ops {
            match op {
                Op::Write { offset, bytes } => {
                    file.write_all_at(&bytes, offset as u64).unwrap();
                    let end = offset + bytes.len();
                    if !bytes.is_empty() {
                        model.resize(model.len().max(end), 0);
                        model[offset..end].copy_from_slice(&bytes);
                    }
                }
                Op::SetLen(len) => {
                    file.set_len(len as u64).unwrap();
                    model.resize(len, 0);
                }
                Op::Allocate { offset, len } => {
                    file.allocate(offset as u64, len as u64).unwrap();
                    if len > 0 {
                        model.resize(model.len().max(offset + len), 0);
                    }
                }
                Op::Read { offset, len } => {
                    let mut buf = vec![9; len];
                    let n = file.read_at(&mut buf, offset as u64).unwrap();
                    let expected = model.get(offset..).unwrap_or_default();
                    let expected = &expected[..len.min(expected.len())];
                    prop_assert!(&buf[..n] == expected, "read {len} at {offset}");
                }
                Op::NextData(offset) => {
                    let found = file.next_data(offset as u64).unwrap().map(|found| found as usize);
                    prop_assert!(found.is_none_or(|found| (offset..model.len()).contains(&found)), "{found:?} from {offset}");
                    let skipped = offset.min(model.len())..found.unwrap_or(model.len());
                    prop_assert!(model[skipped].iter().all(|byte| *byte == 0), "{found:?} from {offset} skips data");
                }
                Op::Map(len) => {
                    let mapped = file.map(len as u64);
                    match model.get(..len) {
                        Some(expected) => prop_assert!(*mapped.unwrap() == *expected, "map {len}"),
                        None => prop_assert_eq!(mapped.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof),
                    }
                }
            }
            prop_assert_eq!(file.len().unwrap(), model.len() as u64);
        }
        prop_assert!(get(disk, &path) == model);
        disk.remove(&path).unwrap();
    });
}

fn threads_write_and_read_one_handle_at_once(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("a");
    let file = disk.open(&path, Access::CreateNew).unwrap();
    file.allocate(0, 400_000).unwrap();
    std::thread::scope(|scope| {
        for mark in 1..=4_u8 {
            let file = &file;
            scope.spawn(move || {
                for block in (0..400_u64).filter(|block| block % 4 == u64::from(mark) - 1) {
                    file.write_all_at(&[mark; 1000], block * 1000).unwrap();
                    let mut buf = [0; 1000];
                    file.read_exact_at(&mut buf, block * 1000).unwrap();
                    assert_eq!(buf, [mark; 1000]);
                }
            });
        }
    });
    let expected: Vec<u8> = (0..400_000).map(|at| (at / 1000 % 4 + 1) as u8).collect();
    assert!(get(disk, &path) == expected);
}

fn rename_replaces_and_open_handles_go_on(disk: &dyn Disk, dir: &Path) {
    let (a, b) = (dir.join("a"), dir.join("b"));
    let new = put(disk, &a, b"new");
    let old = put(disk, &b, b"old");
    disk.rename(&a, &b).unwrap();
    disk.sync_dir(dir).unwrap();
    assert_eq!(disk.kind(&a).unwrap(), None);
    assert_eq!(get(disk, &b), b"new");
    assert_eq!(contents(&*old), b"old");
    new.write_all_at(b"NEW", 0).unwrap();
    assert_eq!(get(disk, &b), b"NEW");
    disk.rename(&b, &b).unwrap();
    assert_eq!(get(disk, &b), b"NEW");
    assert_kind(disk.rename(&a, &b), std::io::ErrorKind::NotFound);
    disk.create_dir(&dir.join("d")).unwrap();
    assert!(disk.rename(&b, &dir.join("d")).is_err(), "a directory is not replaced by a file");
    assert_eq!(get(disk, &b), b"NEW");
}

fn rename_moves_a_directory_with_what_is_in_it(disk: &dyn Disk, dir: &Path) {
    let from = dir.join("from");
    disk.create_dir(&from).unwrap();
    disk.create_dir(&from.join("inner")).unwrap();
    put(disk, &from.join("inner").join("a"), b"inside");
    put(disk, &dir.join("from-not"), b"beside");
    assert!(disk.rename(&from, &from.join("inner").join("itself")).is_err());
    assert!(disk.rename(&from, &dir.join("from-not")).is_err(), "a file is not replaced by a directory");
    disk.rename(&from, &dir.join("to")).unwrap();
    assert_eq!(get(disk, &dir.join("to").join("inner").join("a")), b"inside");
    assert_eq!(sorted(disk, dir), ["from-not", "to"]);
    disk.create_dir(&from).unwrap();
    assert!(disk.rename(&from, &dir.join("to")).is_err(), "a directory with something in it is not replaced");
    disk.rename(&dir.join("to"), &from).unwrap();
    assert_eq!(get(disk, &from.join("inner").join("a")), b"inside");
}

fn a_removed_file_lives_on_in_handles_and_maps(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("a");
    let file = put(disk, &path, b"still here");
    disk.remove(&path).unwrap();
    assert_eq!(disk.kind(&path).unwrap(), None);
    assert_kind(disk.remove(&path), std::io::ErrorKind::NotFound);
    put(disk, &path, b"another");
    file.write_all_at(b"S", 0).unwrap();
    assert_eq!(contents(&*file), b"Still here");
    assert_eq!(get(disk, &path), b"another");
}

fn list_names_what_a_directory_holds_and_no_more(disk: &dyn Disk, dir: &Path) {
    assert!(sorted(disk, dir).is_empty());
    put(disk, &dir.join("b"), b"");
    disk.create_dir(&dir.join("a")).unwrap();
    put(disk, &dir.join("a").join("inside"), b"");
    put(disk, &dir.join("a b"), b"");
    assert_eq!(sorted(disk, dir), ["a", "a b", "b"]);
    assert_eq!(sorted(disk, &dir.join("a")), ["inside"]);
    disk.remove(&dir.join("b")).unwrap();
    assert_eq!(sorted(disk, dir), ["a", "a b"]);
    assert_kind(disk.list(&dir.join("nothing")), std::io::ErrorKind::NotFound);
    assert_kind(disk.list(&dir.join("a b")), std::io::ErrorKind::NotADirectory);
}

fn kind_tells_files_from_directories_from_nothing(disk: &dyn Disk, dir: &Path) {
    put(disk, &dir.join("file"), b"");
    disk.create_dir(&dir.join("directory")).unwrap();
    assert_eq!(disk.kind(&dir.join("file")).unwrap(), Some(EntryKind::File));
    assert_eq!(disk.kind(&dir.join("directory")).unwrap(), Some(EntryKind::Directory));
    assert_eq!(disk.kind(&dir.join("nothing")).unwrap(), None);
    assert_eq!(disk.kind(dir).unwrap(), Some(EntryKind::Directory));
}

fn names_need_a_directory_to_stand_in(disk: &dyn Disk, dir: &Path) {
    put(disk, &dir.join("a"), b"");
    let (lost, under_file) = (dir.join("nothing").join("x"), dir.join("a").join("x"));
    for path in [&lost, &under_file] {
        assert!(disk.open(path, Access::CreateNew).is_err());
        assert!(disk.create_dir(path).is_err());
        assert!(disk.rename(&dir.join("a"), path).is_err());
        assert!(disk.try_lock(path, "me").is_err());
    }
    assert!(disk.sync_dir(&lost).is_err());
    assert!(disk.sync_dir(&dir.join("a")).is_err());
    assert_eq!(sorted(disk, dir), ["a"]);
}

fn a_lock_excludes_other_openers_until_it_is_dropped(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("LOCK");
    let first = disk.try_lock(&path, " process 17\n");
    assert!(matches!(first, Ok(LockAttempt::Taken(_))));
    for _ in 0..2 {
        let LockAttempt::HeldBy(holder) = disk.try_lock(&path, "process 18").unwrap() else {
            panic!("taken twice")
        };
        assert_eq!(holder, "process 17");
    }
    let other = disk.try_lock(&dir.join("LOCK-2"), "process 17");
    assert!(matches!(other, Ok(LockAttempt::Taken(_))), "each file has its own lock");
    drop(first);
    assert!(matches!(disk.try_lock(&path, "process 18"), Ok(LockAttempt::Taken(_))));
}

fn a_lock_with_no_text_is_held_by_an_unknown_process(disk: &dyn Disk, dir: &Path) {
    let _held = disk.try_lock(&dir.join("LOCK"), " \n").unwrap();
    let LockAttempt::HeldBy(holder) = disk.try_lock(&dir.join("LOCK"), "me").unwrap() else {
        panic!("taken twice")
    };
    assert_eq!(holder, "unknown process");
}

fn a_later_holder_leaves_nothing_of_an_earlier_text(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("LOCK");
    drop(disk.try_lock(&path, "a holder with a long name").unwrap());
    let _held = disk.try_lock(&path, "short").unwrap();
    assert_eq!(get(disk, &path), b"short");
}

fn a_map_holds_the_first_bytes_and_refuses_more_than_there_are(disk: &dyn Disk, dir: &Path) {
    let bytes: Vec<u8> = (0..200_000_u32).map(|at| (at / 7) as u8).collect();
    let file = put(disk, &dir.join("a"), &bytes);
    for len in [0, 1, 4096, 65_536, 100_001, 200_000] {
        let map = file.map(len as u64).unwrap();
        assert!(*map == bytes[..len], "{len} bytes");
        map.advise(Advice::Random, 0..0);
        map.advise(Advice::WillNeed, 5..len);
        // Nonsense is ignored.
        map.advise(Advice::WillNeed, usize::MAX - 1..usize::MAX);
        map.advise(Advice::WillNeed, 1..usize::MAX);
        assert!(map.as_ref() == &bytes[..len], "{len} bytes after advice");
    }
    assert_kind(file.map(200_001), std::io::ErrorKind::UnexpectedEof);
    let read_only = disk.open(&dir.join("a"), Access::Read).unwrap();
    assert!(*read_only.map(200_000).unwrap() == *bytes);
}

fn a_map_survives_rename_and_removal(disk: &dyn Disk, dir: &Path) {
    let (a, b) = (dir.join("a"), dir.join("b"));
    let map = Arc::new(put(disk, &a, &[7; 100_000]).map(100_000).unwrap());
    disk.rename(&a, &b).unwrap();
    put(disk, &a, &[8; 100_000]);
    disk.remove(&b).unwrap();
    let whole = bytes::Bytes::from_owner(Mapped(map));
    let part = whole.slice(50_000..);
    drop(whole);
    assert!(*part == [7; 50_000]);
}

/// How the log hands out parts of a map.
struct Mapped(Arc<crate::env::Map>);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[test]
fn the_real_disk_refuses_links_in_a_files_place() {
    let dir = tempfile::tempdir().unwrap();
    let (target, link, dangling) =
        (dir.path().join("target"), dir.path().join("link"), dir.path().join("dangling"));
    put(&RealDisk, &target, b"kept");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    std::os::unix::fs::symlink(dir.path().join("nothing"), &dangling).unwrap();
    for path in [&link, &dangling] {
        for access in [Access::Read, Access::ReadWrite, Access::CreateNew] {
            assert!(RealDisk.open(path, access).is_err(), "{access:?}");
        }
        assert!(RealDisk.try_lock(path, "me").is_err());
        assert!(RealDisk.kind(path).is_err());
    }
    assert_eq!(get(&RealDisk, &target), b"kept");
    assert!(!dir.path().join("nothing").exists());
}

#[test]
fn the_real_disk_does_not_wait_for_a_pipe_in_a_files_place() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    // Opening it the plain way would wait for the other end for ever.
    assert!(RealDisk.open(&pipe, Access::Read).is_err());
    assert!(RealDisk.try_lock(&pipe, "me").is_err());
}

#[test]
fn clones_of_a_memory_disk_share_files_and_locks() {
    let disk = MemoryDisk::new();
    let clone = disk.clone();
    let file = put(&disk, Path::new("/a"), b"shared");
    assert_eq!(get(&clone, Path::new("a")), b"shared");
    let mapped = file.map(6).unwrap();
    assert_eq!(file.map(3).unwrap().as_ptr(), mapped.as_ptr(), "one copy serves all maps");
    let _held = disk.try_lock(Path::new("/LOCK"), "me").unwrap();
    assert!(matches!(clone.try_lock(Path::new("/LOCK"), "you"), Ok(LockAttempt::HeldBy(_))));
    assert!(clone.open(Path::new("/../a"), Access::Read).is_err());
}

#[test]
fn a_memory_disk_reserves_far_more_than_there_is_memory() {
    let disk = MemoryDisk::new();
    for n in 0..1000 {
        let file = disk.open(Path::new(&format!("/{n}")), Access::CreateNew).unwrap();
        file.allocate(0, 1 << 40).unwrap();
        assert_eq!(file.next_data(0).unwrap(), None);
    }
}

fn put(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Arc<dyn DiskFile> {
    let file = disk.open(path, Access::CreateNew).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

fn get(disk: &dyn Disk, path: &Path) -> Vec<u8> {
    contents(&*disk.open(path, Access::Read).unwrap())
}

fn contents(file: &dyn DiskFile) -> Vec<u8> {
    let mut bytes = vec![9; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn sorted(disk: &dyn Disk, dir: &Path) -> Vec<String> {
    let mut names = disk.list(dir).unwrap();
    names.sort();
    names
}

#[track_caller]
fn assert_kind<T>(result: std::io::Result<T>, kind: std::io::ErrorKind) {
    assert_eq!(result.err().map(|e| e.kind()), Some(kind));
}
