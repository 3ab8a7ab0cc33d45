//! A small file system that fills up under the built command: lines are refused with an error of their own, what was
//! acknowledged is there, reads go on, and appends work again once there is room, in the same process too.
//!
//! Checks D1, D3, D6 and O3 on a tmpfs, and on ext4 on a loop device. Both need root; skipped where they cannot be mounted.

#![cfg(target_os = "linux")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::Place;
use common::faults::{Acknowledged, Input, Watchdog, acknowledged, in_lock_step, is_clear};

/// A small file system, unmounted at the end of the test.
struct Mounted {
    dir: PathBuf,
    /// Whether it is full where it says so.
    is_exact: bool,
    /// Where the mount point and the image are.
    _outside: tempfile::TempDir,
}

impl Mounted {
    /// A tmpfs of this size.
    fn tmpfs(mib: u64) -> Option<Self> {
        Mounted::new(true, |dir| {
            let size = format!("size={mib}m");
            run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "annals-test"]).arg(dir))
        })
    }

    /// An ext4 of this size in a file.
    fn ext4(mib: u64) -> Option<Self> {
        Mounted::new(false, |dir| {
            let image = dir.with_file_name("image");
            #[expect(clippy::disallowed_methods, reason = "no part of a store")]
            let file = std::fs::File::create(&image).expect("a file");
            file.set_len(mib << 20).expect("a sparse file");
            run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image))?;
            run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(dir))
        })
    }

    /// `None`, with a word why, where this machine does not let us.
    fn new(is_exact: bool, mount: impl FnOnce(&Path) -> Result<(), String>) -> Option<Self> {
        let outside = tempfile::tempdir().expect("a temporary directory");
        let dir = outside.path().join("mounted");
        std::fs::create_dir(&dir).expect("a directory");
        match mount(&dir) {
            Ok(()) => Some(Mounted { dir, is_exact, _outside: outside }),
            Err(why) => {
                eprintln!("skipped: {}", why.trim());
                None
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Also where a child of a failed test still has a file open.
        if let Err(why) = run(Command::new("umount").arg("-l").arg(&self.dir)) {
            eprintln!("{}: {why}", self.dir.display());
        }
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// A file that takes up to so much room. Gives how much there was.
fn ballast(path: &Path, bytes_max: usize) -> usize {
    use rustix::fs::{FallocateFlags, fallocate};
    let mut taken = 0;
    loop {
        let before = taken;
        #[expect(clippy::disallowed_methods, reason = "no part of a store")]
        let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = file.expect("a name at least");
        for piece in [256 << 10, 4096] {
            while taken + piece <= bytes_max {
                match fallocate(&file, FallocateFlags::empty(), taken as u64, piece as u64) {
                    Ok(()) => taken += piece,
                    Err(rustix::io::Errno::NOSPC) => break,
                    Err(e) => panic!("{}: {e}", path.display()),
                }
            }
        }
        // ext4 gives back what it kept for a file when that is closed, and what was removed a moment ago.
        file.sync_all().expect("nothing is written");
        if taken == before {
            return taken;
        }
    }
}

/// Removes a file, so that its room is there at once.
#[expect(clippy::disallowed_methods, reason = "no part of a store")]
fn remove(path: &Path) {
    std::fs::remove_file(path).expect("it is there");
    // ext4 gives the room back when its journal has the removal.
    let dir = std::fs::File::open(path.parent().expect("it lies in a directory")).expect("a directory");
    rustix::fs::syncfs(&dir).expect("the file system is there");
}

/// Bytes that files could still take.
fn free(dir: &Path) -> usize {
    let free = rustix::fs::statvfs(dir).expect("the file system is there");
    (free.f_bavail * free.f_frsize) as usize
}

/// Whether an answer is a refusal for want of room.
fn is_full(answer: &str) -> bool {
    answer.starts_with("error\tfull\t")
}

/// What holds of a store on a full disk: what was acknowledged is there, and nothing is wrong.
#[track_caller]
fn readable(place: &Place, input: &Input, batch: usize, acked: &Acknowledged) {
    let stored = input.holds(place, batch, acked);
    assert_eq!(stored.len(), acked.len(), "something refused is there");
    place.run(&["verify", "--deep", "-q"]).exits(0);
    place.run(&["get", "0", "-q"]).exits(0);
    assert!(!place.run(&["streams", "-q"]).exits(0).stdout.is_empty());
}

fn fills_up_and_goes_on(mounted: &Mounted, batch: usize) {
    // Of several sizes: where one does not fit any more, another may.
    let input = Input::new(500, &[9_000, 100, 30_000, 0, 3_000]);
    let place = Place::below(&mounted.dir);
    let (first, second) = (mounted.dir.join("ballast-1"), mounted.dir.join("ballast-2"));
    place.run(&["init", "--segment-mb", "1"]).exits(0);
    ballast(&first, 1 << 20);
    ballast(&second, 1 << 20);
    let rest = mounted.dir.join("ballast-3");
    // What is left is for a segment and a half.
    ballast(&rest, free(&mounted.dir).saturating_sub(1_500 << 10));

    let size = batch.to_string();
    let mut owner = place.start(&["append", "--stdin", "-o", "tsv", "--batch", &size]);
    let _watchdog = Watchdog::over(&owner);
    let mut acked = Acknowledged::new();
    let mut next = 0;
    for ballast in [&first, &second] {
        let answers = in_lock_step(&mut owner, &input, next, batch, is_full);
        assert!(answers.lines().last().is_some_and(is_full), "the disk did not fill up: {answers:.300}");
        let mut now = acknowledged(next, &answers);
        assert!(!now.is_empty(), "nothing fitted");
        acked.append(&mut now);
        readable(&place, &input, batch, &acked);

        // The same ones again are refused again, and appended once there is room.
        next = acked.len();
        let refused = in_lock_step(&mut owner, &input, next, batch, |_| true);
        assert!(refused.lines().all(is_full), "{refused}");
        remove(ballast);
        let taken = in_lock_step(&mut owner, &input, next, batch, |_| true);
        let mut now = acknowledged(next, &taken);
        assert_eq!(now.len(), batch, "there is room again: {taken}");
        acked.append(&mut now);
        next = acked.len();
    }
    let answers = in_lock_step(&mut owner, &input, next, batch, is_full);
    acked.append(&mut acknowledged(next, &answers));
    let ran = owner.finish().exits(7);
    is_clear(&ran);
    let ran = ran.says(&["make room", "lines are refused", "there is room again", "No space left"]);
    assert_eq!(ran.stderr.matches("lines are refused").count(), 3, "{}", ran.stderr);
    readable(&place, &input, batch, &acked);

    // Full to the last byte, also for an owner that dies and the next one.
    let last = mounted.dir.join("ballast-4");
    ballast(&last, usize::MAX);
    readable(&place, &input, batch, &acked);
    let ran = place.run(&["append", "s-0", "--type", "T", "--data", &format!("\"{}\"", "x".repeat(60_000))]);
    is_clear(&ran.exits(7).says(&["make room"]));
    let mut owner = place.start(&["append", "--stdin", "-o", "tsv", "--batch", &size]);
    let _watchdog = Watchdog::over(&owner);
    let before = acked.len();
    let answers = in_lock_step(&mut owner, &input, before, batch, |_| true);
    acked.append(&mut acknowledged(before, &answers));
    owner.kill();
    readable(&place, &input, batch, &acked);

    for ballast in [&last, &rest] {
        remove(ballast);
    }
    let stored = input.stored(&place, batch);
    input.complete(&place, batch, &stored);
}

fn refuses_a_whole_input(mounted: &Mounted, batch: usize) {
    let input = Input::new(3_000, &[100, 2_000, 20, 5_000]);
    let place = Place::below(&mounted.dir);
    place.run(&["init", "--segment-mb", "1"]).exits(0);
    let full = mounted.dir.join("ballast");
    let room = 2_500 << 10;
    ballast(&full, free(&mounted.dir) - room);
    let args = ["append", "--stdin", "-o", "tsv", "--batch", &batch.to_string()];
    let ran = place.run_with(&args, input.text()).exits(7);
    is_clear(&ran);
    assert_eq!(ran.lines().len(), input.len(), "a line without an answer");
    assert!(ran.lines().iter().any(|a| is_full(a)), "the disk did not fill up");
    readable(&place, &input, batch, &acknowledged(0, &ran.stdout));
    remove(&full);
    // Lines behind a refused one may have been appended before it, so only what is there counts.
    let args = [args.as_slice(), &["-q"]].concat();
    let again = place.run_with(&args, input.text()).exits(0);
    let stored = input.holds(&place, batch, &acknowledged(0, &again.stdout));
    assert_eq!(stored.len(), input.len());
    place.run(&["verify", "--deep", "-q"]).exits(0);
}

fn makes_and_imports_with_and_without_room(mounted: &Mounted) {
    let full = mounted.dir.join("ballast");
    let place = Place::below(&mounted.dir);
    ballast(&full, usize::MAX);
    let ran = place.run(&["init"]);
    // ext4 keeps some room for itself, which may just do for a store.
    if mounted.is_exact || ran.code != Some(0) {
        is_clear(&ran.exits(7).says(&["make room"]));
    }
    remove(&full);
    place.run(&["init"]).exits(0);

    let rows: String = (0..9_000).map(|n| format!("{{\"n\":{n},\"pad\":\"{n:0300}\"}}\n")).collect();
    let room = 2 << 20;
    ballast(&full, free(&mounted.dir) - room);
    let args = ["import", "-", "--format", "jsonl", "--stream", "s-{n}", "--type", "Row"];
    is_clear(&place.run_with(&args, &rows).exits(7).says(&["make room"]));
    let read = |place: &Place| {
        let read = place.run(&["read", "-q", "-o", "tsv", "--fields", "position,data.n"]).exits(0);
        let rows = read.lines().len();
        for (n, row) in read.lines().into_iter().enumerate() {
            assert_eq!(row, format!("{n}\t{n}"));
        }
        rows
    };
    let before = read(&place);
    assert!(before > 0 && before % 500 == 0, "{before}");
    place.run(&["verify", "--deep", "-q"]).exits(0);
    remove(&full);
    place.run_with(&args, &rows).exits(0);
    assert_eq!(read(&place), 9_000);
    place.run(&["verify", "--deep", "-q"]).exits(0);
}

#[test]
fn a_tmpfs_that_fills_up_refuses_lines_until_there_is_room() {
    for batch in [1, 4] {
        if let Some(mounted) = Mounted::tmpfs(12) {
            fills_up_and_goes_on(&mounted, batch);
        }
    }
}

#[test]
fn an_ext4_that_fills_up_refuses_lines_until_there_is_room() {
    for batch in [1, 4] {
        if let Some(mounted) = Mounted::ext4(24) {
            fills_up_and_goes_on(&mounted, batch);
        }
    }
}

#[test]
fn a_whole_input_on_a_full_disk_has_an_answer_for_each_line() {
    for mounted in [Mounted::tmpfs(24), Mounted::ext4(40)].iter().flatten() {
        refuses_a_whole_input(mounted, 1);
    }
    for mounted in [Mounted::tmpfs(24), Mounted::ext4(40)].iter().flatten() {
        refuses_a_whole_input(mounted, 7);
    }
}

#[test]
fn a_store_is_made_and_filled_on_a_disk_that_was_full() {
    for mounted in [Mounted::tmpfs(24), Mounted::ext4(40)].iter().flatten() {
        makes_and_imports_with_and_without_room(mounted);
    }
}
