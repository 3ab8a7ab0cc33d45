//! D4, S1: damage is read around, reported position by position, and repaired by explicit command.
//!
//! Goal: whatever is damaged, a store opened to read serves every event that is whole and `Corrupt` for every other,
//! never silence; `verify` names the positions; a repair loses exactly those, keeps everything else at its position and
//! revision, keeps the damaged bytes, raises the incarnation, and leaves a store that opens for writing and checks clean.
//!
//! Method: a store of several segments, with batches, on a disk in memory. Bytes are flipped and zeroed, files are cut and
//! removed, all over; what is read is compared with what was appended.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use annals_log::env::{Access, Disk, Env, MemoryDisk};
use annals_log::simulated::{SimulatedDisk, Survivors};
use annals_model::{At, Batch, ErrorKind, Events, Read, RecordPlace, RecordedEvent};
use annals_store::{Finding, Repair, Store, StoreOptions, Topic};
use annals_tests::{
    DIR, Random, TestClock, contents, copy_disk, damage, env_on, event, files_below, open, open_topic, quiet,
    small_segments,
};

const PARTITION: &str = "/store/topics/00000001/00000000";

fn env(disk: &MemoryDisk) -> Env {
    env_on(Arc::new(disk.clone()), TestClock::new(), 5)
}

/// A store of some segments, with batches of one to five events of three streams; closed, or left as a crash would.
fn filled(close: bool) -> (MemoryDisk, Vec<RecordedEvent>) {
    let disk = MemoryDisk::new();
    let env = env(&disk);
    let options = StoreOptions { index_run_bytes: 40_000, index_thread: false, ..quiet() };
    let (store, topic) = open_topic(&env, options, small_segments()).expect("it opens");
    let mut random = Random::new(3);
    let mut number = 0;
    for _ in 0..90 {
        let stream = format!("s-{}", random.below(3));
        let events = (0..1 + random.below(5)).map(|_| {
            number += 1;
            event(number, 10 + random.below(1500) as usize)
        });
        let batch = events.fold(Batch::to(stream), Batch::event);
        topic.append(&batch).wait().expect("appended");
    }
    let all = annals_tests::events(&topic, &Read::all()).expect("read");
    let copy = copy_disk(&disk, Path::new(DIR));
    if close {
        drop(topic);
        store.close().expect("closed");
        return (copy_disk(&disk, Path::new(DIR)), all);
    }
    (copy, all)
}

fn read_only() -> StoreOptions {
    StoreOptions { read_only: true, create: false, ..quiet() }
}

/// Reads forward from the start, and on behind each damage that is met.
fn around(topic: &Topic, read: &Read) -> (Vec<RecordedEvent>, u64) {
    let (mut found, mut met) = (Vec::new(), 0);
    let mut from = At::Start;
    loop {
        let error = match topic.read(&read.clone().from(from.clone())) {
            Err(e) => e,
            Ok(mut reader) => loop {
                match reader.next_view() {
                    Ok(Some(event)) => found.push(event.to_owned()),
                    Ok(None) => return (found, met),
                    Err(e) => break e,
                }
            },
        };
        assert!(matches!(error.kind(), ErrorKind::Corrupt { .. }), "{error:?}");
        met += 1;
        let Some(next) = topic.readable_behind(&error).expect("it can be told") else { return (found, met) };
        if let At::Position(before) = from {
            assert!(next.position > before, "it goes on: {before} {next} {error:?}");
        }
        from = At::Position(next.position);
    }
}

fn verify(store: &Store) -> Vec<Finding> {
    let mut findings = Vec::new();
    store.verify(true, &mut |_, _| {}, &mut |f| findings.push(f)).expect("verified");
    findings
}

/// What is missing of all that was appended; what is there is as it was.
fn missing(all: &[RecordedEvent], found: &[RecordedEvent], what: &str) -> BTreeSet<u64> {
    let known: BTreeMap<u64, &RecordedEvent> = all.iter().map(|e| (e.position, e)).collect();
    for event in found {
        assert_eq!(known.get(&event.position), Some(&event), "{what}: a wrong event was served");
    }
    assert!(found.windows(2).all(|w| w[0].position < w[1].position), "{what}: out of order");
    let there: BTreeSet<u64> = found.iter().map(|e| e.position).collect();
    all.iter().map(|e| e.position).filter(|p| !there.contains(p)).collect()
}

fn findings_positions(findings: &[Finding]) -> BTreeSet<u64> {
    let of = |f: &Finding| f.place.map_or(0..0, |p| p.position..p.position + f.records);
    findings.iter().filter(|f| !f.derived).flat_map(of).collect()
}

/// Everything that a store opened to read says is right or `Corrupt`, and `verify` names what cannot be read.
fn check_reading(disk: &MemoryDisk, all: &[RecordedEvent], what: &str) -> BTreeSet<u64> {
    let store = open(&env(disk), read_only()).unwrap_or_else(|e| panic!("{what}: it opens to read: {e:?}"));
    let topic = store.topic("topic").expect("it is there");
    let (found, met) = around(&topic, &Read::all());
    let missing = missing(all, &found, what);
    assert!(missing.is_empty() || met > 0, "{what}: {missing:?} are missing without a word");
    let findings = verify(&store);
    assert_eq!(findings_positions(&findings), missing, "{what}: {findings:?}");

    // One by one, and from each position.
    for event in all.iter().step_by(7) {
        let place = RecordPlace { partition: 0, position: event.position };
        match topic.get(place) {
            Ok(got) => assert_eq!(got.as_ref(), Some(event), "{what}: {place}"),
            Err(e) => {
                assert!(matches!(e.kind(), ErrorKind::Corrupt { .. }), "{what}: {e:?}");
                assert!(missing.contains(&event.position), "{what}: {place} is whole and refused");
            }
        }
        let from = Read::all().from(At::Position(event.position));
        let first = topic.read(&from).and_then(|mut r| r.next_view().map(|v| v.map(|v| v.to_owned())));
        match first {
            Ok(first) => assert_eq!(first.as_ref(), Some(event), "{what}: from {place}"),
            Err(_) => assert!(missing.contains(&event.position), "{what}: from {place}"),
        }
        // Backward from there: what is before it, or damage.
        let back = Read::all().to(At::Position(event.position)).backward().limit(3);
        let mut reader = match topic.read(&back) {
            Ok(reader) => reader,
            Err(e) => panic!("{what}: a read back from {place} cannot begin: {e:?}"),
        };
        let mut expected = event.position;
        loop {
            match reader.next_view() {
                Ok(Some(view)) => {
                    assert_eq!(view.position + 1, expected, "{what}: backward from {place}");
                    expected = view.position;
                }
                Ok(None) => break,
                Err(e) => {
                    assert!(matches!(e.kind(), ErrorKind::Corrupt { .. }), "{what}: {e:?}");
                    assert!(
                        missing.contains(&(expected - 1)),
                        "{what}: backward from {place} at {expected}: {e:?} {missing:?}"
                    );
                    break;
                }
            }
        }
    }
    // A stream: nothing of it is passed over in silence.
    for stream in ["s-0", "s-1", "s-2"] {
        let (found, met) = around(&topic, &Read::stream(stream));
        let of_stream = all.iter().filter(|e| e.stream == stream);
        let lost = of_stream.filter(|e| !found.iter().any(|f| f.position == e.position));
        let lost: Vec<u64> = lost.map(|e| e.position).collect();
        assert!(lost.iter().all(|p| missing.contains(p)), "{what}: {stream} {lost:?} {missing:?}");
        assert!(lost.is_empty() || met > 0, "{what}: {stream} lacks {lost:?} without a word");
    }
    missing
}

fn segments(disk: &MemoryDisk) -> Vec<PathBuf> {
    let mut files = files_below(disk, Path::new(PARTITION));
    files.retain(|f| f.extension().is_some_and(|e| e == "seg"));
    files
}

#[test]
fn undamaged_everything_is_served_and_nothing_reported() {
    for close in [true, false] {
        let (disk, all) = filled(close);
        assert!(segments(&disk).len() > 2, "{:?}", segments(&disk));
        assert_eq!(check_reading(&disk, &all, "undamaged").len(), 0);
    }
}

#[test]
fn around_one_damaged_byte_everything_else_is_served() {
    for close in [true, false] {
        let (disk, all) = filled(close);
        let mut random = Random::new(9);
        let mut lost_some = 0;
        for round in 0..60 {
            let files = segments(&disk);
            let path = random.pick(&files).clone();
            // Within what is in use; behind it there may be reserved room.
            let len = contents(&disk, &path).iter().rposition(|&b| b != 0).expect("data") as u64;
            let offset = random.below(len);
            let copy = copy_disk(&disk, Path::new(DIR));
            damage(&copy, &path, offset, 1 << random.below(8));
            let what = format!("round {round}, closed {close}, {} at {offset}", path.display());
            let lost = check_reading(&copy, &all, &what);
            assert!(lost.len() <= 1, "{what}: {lost:?}");
            lost_some += lost.len();
        }
        assert!(lost_some > 20, "{lost_some}");
    }
}

#[test]
fn around_zeroed_sectors_cut_and_lost_segments_everything_else_is_served() {
    let (disk, all) = filled(true);
    let mut random = Random::new(11);
    for round in 0..40 {
        let copy = copy_disk(&disk, Path::new(DIR));
        let files = segments(&disk);
        let path = random.pick(&files).clone();
        let len = contents(&disk, &path).len() as u64;
        let what = match round % 4 {
            0 => {
                let sector = random.below(len / 512) * 512;
                zero(&copy, &path, sector, 512);
                format!("round {round}: {} zeroed at {sector}", path.display())
            }
            1 => {
                let at = random.below(len);
                copy.open(&path, Access::ReadWrite).expect("there").set_len(at).expect("cut");
                format!("round {round}: {} cut at {at}", path.display())
            }
            2 => {
                copy.remove(&path).expect("removed");
                format!("round {round}: {} removed", path.display())
            }
            _ => {
                let from = random.below(len - 9000);
                zero(&copy, &path, from, 9000);
                format!("round {round}: {} zeroed from {from}", path.display())
            }
        };
        check_reading(&copy, &all, &what);
    }
}

#[test]
fn a_damaged_manifest_is_read_around() {
    let (disk, all) = filled(true);
    let path = Path::new(PARTITION).join("manifest");
    let entries = segments(&disk).len();
    for offset in (0..64 * (entries + 1)).step_by(5) {
        let copy = copy_disk(&disk, Path::new(DIR));
        damage(&copy, &path, offset as u64, 0x10);
        let what = format!("manifest damaged at {offset}");
        let lost = check_reading(&copy, &all, &what);
        assert!(lost.is_empty(), "{what}: {lost:?}");
    }
    let copy = copy_disk(&disk, Path::new(DIR));
    copy.remove(&path).expect("removed");
    assert_eq!(check_reading(&copy, &all, "the manifest is gone").len(), 0);
}

fn zero(disk: &MemoryDisk, path: &Path, from: u64, len: u64) {
    let file = disk.open(path, Access::ReadWrite).expect("there");
    let len = len.min(file.len().expect("a length") - from);
    file.write_all_at(&vec![0; len as usize], from).expect("written");
}

/// Repairs a damaged copy; everything but `missing` is as it was, and the store goes on.
fn check_repair(disk: &MemoryDisk, all: &[RecordedEvent], missing: &BTreeSet<u64>, what: &str) {
    let env = env(disk);
    // A reader may recover the store first.
    let old = open(&env, read_only()).ok().and_then(|s| Some(s.topic("topic").ok()?.high_watermark()));
    let before = files_below(disk, Path::new(DIR)).into_iter().map(|f| (f.clone(), contents(disk, &f)));
    let before: BTreeMap<PathBuf, Vec<u8>> = before.collect();
    let repair = Repair::plan(&env, DIR).unwrap_or_else(|e| panic!("{what}: no plan: {e:?}"));
    assert!(repair.is_needed(), "{what}: there is nothing to repair");
    let lost: BTreeSet<u64> = repair.lost().into_iter().flat_map(|l| l.positions).collect();
    assert_eq!(&lost, missing, "{what}: what the plan says is lost: {:?}", repair.steps());
    for (file, bytes) in &before {
        if !file.ends_with("lock") {
            assert!(contents(disk, file) == *bytes, "{what}: the plan changed {}", file.display());
        }
    }
    let report = repair.execute(None).unwrap_or_else(|e| panic!("{what}: not repaired: {e:?}"));
    // The damaged bytes are kept.
    for aside in &report.aside {
        for kept in disk.list(aside).expect("it is there") {
            let original = aside.parent().expect("it is in the partition").join(&kept);
            if let Some(bytes) = before.get(&original) {
                assert!(contents(disk, &aside.join(&kept)) == *bytes, "{what}: {kept} is not kept as it was");
            }
        }
    }
    let again = Repair::plan(&env, DIR).expect("it can be looked at");
    assert!(!again.is_needed(), "{what}: it is not repaired: {:?}", again.steps());
    drop(again);

    let store = open(&env, quiet()).unwrap_or_else(|e| panic!("{what}: it does not open: {e:?}"));
    assert_eq!(verify(&store), [], "{what}");
    let topic = store.topics().remove(0);
    let found = annals_tests::events(&topic, &Read::all()).unwrap_or_else(|e| panic!("{what}: {e:?}"));
    let expected: Vec<&RecordedEvent> = all.iter().filter(|e| !missing.contains(&e.position)).collect();
    assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{what}");
    let mut back = annals_tests::events(&topic, &Read::all().backward()).expect("read");
    back.reverse();
    assert_eq!(back, found, "{what}: backward");
    for stream in ["s-0", "s-1", "s-2"] {
        let read = annals_tests::events(&topic, &Read::stream(stream)).expect("read");
        let expected: Vec<_> = expected.iter().filter(|e| e.stream == stream).collect();
        assert_eq!(
            read.iter().collect::<Vec<_>>(),
            expected.iter().map(|e| **e).collect::<Vec<_>>(),
            "{what}: {stream}"
        );
    }
    for position in missing {
        let place = RecordPlace { partition: 0, position: *position };
        assert_eq!(topic.get(place).expect("a gap is no error"), None, "{what}: {place}");
        let next = topic.read(&Read::all().from(At::Position(*position))).expect("begins");
        let next = next.map(|e| e.expect("read").position).next();
        let expected = expected.iter().map(|e| e.position).find(|p| p > position);
        assert_eq!(next, expected, "{what}: from the lost {position}");
    }
    // Places from before are refused, and new records get new positions.
    if let Some(old) = old {
        let e =
            topic.read(&Read::all().from(At::Place(old))).map(drop).expect_err("it is of another history");
        assert_eq!(e.kind(), &ErrorKind::Invalid, "{what}: {e:?}");
    }
    let appended = topic.append(&Batch::to("after").event(event(1 << 40, 10))).wait();
    let appended = appended.unwrap_or_else(|e| panic!("{what}: no append: {e:?}"));
    let end = all.last().map_or(0, |e| e.position) + 1;
    assert!(appended.positions.start >= end, "{what}: {:?} below {end}", appended.positions);
}

#[test]
fn a_whole_store_needs_no_repair() {
    for close in [true, false] {
        let (disk, all) = filled(close);
        let repair = Repair::plan(&env(&disk), DIR).expect("planned");
        assert!(!repair.is_needed(), "{:?}", repair.steps());
        drop(repair);
        check_reading(&disk, &all, "after planning");
    }
}

#[test]
fn a_repair_loses_what_is_damaged_and_nothing_else() {
    for close in [true, false] {
        let (disk, all) = filled(close);
        let mut random = Random::new(21);
        for round in 0..60 {
            let files = segments(&disk);
            let path = random.pick(&files).clone();
            let bytes = contents(&disk, &path);
            let len = bytes.iter().rposition(|&b| b != 0).expect("data") as u64;
            let copy = copy_disk(&disk, Path::new(DIR));
            let what = match round % 6 {
                0..=2 => {
                    let offset = 4096 + random.below(len - 4096);
                    damage(&copy, &path, offset, 1 << random.below(8));
                    format!("{} flipped at {offset}", path.display())
                }
                3 => {
                    let sector = random.below(len / 512) * 512;
                    zero(&copy, &path, sector, 512);
                    format!("{} zeroed at {sector}", path.display())
                }
                4 => {
                    let from = random.below(len);
                    let length = random.below(len - from) + 1;
                    zero(&copy, &path, from, length);
                    format!("{} zeroed from {from}, {length} bytes", path.display())
                }
                _ => {
                    for _ in 0..5 {
                        let path = random.pick(&files).clone();
                        damage(&copy, &path, 4096 + random.below(len.min(9000) - 4096), 1);
                    }
                    "five bytes flipped".to_owned()
                }
            };
            let what = format!("round {round}, closed {close}: {what}");
            let missing = check_reading(&copy, &all, &what);
            let verified = open(&env(&copy), read_only()).map(|s| verify(&s)).expect("it opens to read");
            if verified.iter().all(|f| f.derived) {
                continue;
            }
            check_repair(&copy, &all, &missing, &what);
        }
    }
}

#[test]
fn lost_and_cut_files_are_repaired() {
    let (disk, all) = filled(true);
    let files = segments(&disk);
    for path in &files {
        let copy = copy_disk(&disk, Path::new(DIR));
        copy.remove(path).expect("removed");
        let what = format!("{} removed", path.display());
        let missing = check_reading(&copy, &all, &what);
        check_repair(&copy, &all, &missing, &what);
        for len in [0, 50, 4096, 4100, 30_000] {
            let copy = copy_disk(&disk, Path::new(DIR));
            let file = copy.open(path, Access::ReadWrite).expect("there");
            if file.len().expect("a length") <= len {
                continue;
            }
            file.set_len(len).expect("cut");
            let what = format!("{} cut to {len}", path.display());
            let missing = check_reading(&copy, &all, &what);
            check_repair(&copy, &all, &missing, &what);
        }
    }
    let manifest = Path::new(PARTITION).join("manifest");
    let copy = copy_disk(&disk, Path::new(DIR));
    copy.remove(&manifest).expect("removed");
    check_repair(&copy, &all, &BTreeSet::new(), "the manifest is gone");
    for offset in [3, 30, 44, 64, 70, 130, 192 + 60] {
        let copy = copy_disk(&disk, Path::new(DIR));
        damage(&copy, &manifest, offset, 0x40);
        check_repair(&copy, &all, &BTreeSet::new(), &format!("the manifest is damaged at {offset}"));
    }
    // An entry and the segment that it names, both.
    for (index, path) in files.iter().enumerate() {
        let copy = copy_disk(&disk, Path::new(DIR));
        copy.remove(path).expect("removed");
        damage(&copy, &manifest, 64 * (index as u64 + 1) + 9, 0x40);
        let what = format!("{} removed, with its entry", path.display());
        let missing = check_reading(&copy, &all, &what);
        assert!(!missing.is_empty(), "{what}");
        check_repair(&copy, &all, &missing, &what);
    }
}

#[test]
fn a_damaged_or_lost_catalogue_is_repaired() {
    let (disk, all) = filled(true);
    let catalogue = Path::new(DIR).join("catalogue");
    let len = contents(&disk, &catalogue).len() as u64;
    for offset in 0..len {
        let copy = copy_disk(&disk, Path::new(DIR));
        damage(&copy, &catalogue, offset, 0x04);
        let e = open(&env(&copy), quiet()).expect_err("it is refused");
        assert!(matches!(e.kind(), ErrorKind::Corrupt { .. }), "{e:?}");
        check_catalogue(&copy, &all, &format!("the catalogue is damaged at {offset}"));
    }
    let copy = copy_disk(&disk, Path::new(DIR));
    copy.remove(&catalogue).expect("removed");
    check_catalogue(&copy, &all, "the catalogue is gone");
}

fn check_catalogue(disk: &MemoryDisk, all: &[RecordedEvent], what: &str) {
    let repair = Repair::plan(&env(disk), DIR).unwrap_or_else(|e| panic!("{what}: {e:?}"));
    assert!(repair.is_needed() && repair.lost().is_empty(), "{what}");
    repair.execute(None).unwrap_or_else(|e| panic!("{what}: {e:?}"));
    let store = open(&env(disk), quiet()).unwrap_or_else(|e| panic!("{what}: {e:?}"));
    let topics = store.topics();
    assert_eq!(topics.len(), 1, "{what}");
    assert_eq!(annals_tests::events(&topics[0], &Read::all()).expect("read"), all, "{what}");
}

#[test]
fn a_lost_partition_is_refused_and_repaired_with_another_history() {
    let (disk, _) = filled(true);
    for file in files_below(&disk, Path::new(PARTITION)) {
        disk.remove(&file).expect("removed");
    }
    for options in [quiet(), read_only()] {
        let e = open(&env(&disk), options).expect_err("it is refused");
        assert!(matches!(e.kind(), ErrorKind::Corrupt { .. }), "{e:?}");
    }
    let repair = Repair::plan(&env(&disk), DIR).expect("planned");
    assert!(repair.is_needed());
    repair.execute(None).expect("repaired");
    let store = open(&env(&disk), quiet()).expect("it opens");
    assert!(store.topics()[0].high_watermark().0[0].incarnation > 1);
}

/// The same store on a disk that loses power.
fn filled_simulated(seed: u64) -> (SimulatedDisk, Vec<RecordedEvent>) {
    let disk = SimulatedDisk::new();
    let options = StoreOptions {
        index_thread: false,
        sync_interval: Duration::MAX,
        scrub: None,
        ..StoreOptions::default()
    };
    let (store, topic) = open_topic(&disk.env(seed), options, small_segments()).expect("it opens");
    for number in 0..24 {
        let batch = (0..3).fold(Batch::to(format!("s-{}", number % 3)), |batch, i| {
            batch.event(event(number * 3 + i, 2500))
        });
        topic.append(&batch).wait().expect("appended");
    }
    let all = annals_tests::events(&topic, &Read::all()).expect("read");
    drop(topic);
    store.close().expect("closed");
    (disk.fork(), all)
}

#[test]
fn a_repair_that_a_power_cut_interrupts_anywhere_can_be_made_again() {
    let images = Arc::new(AtomicU64::new(0));
    for (seed, damaged) in [(1, vec![1]), (2, vec![2, 3]), (3, vec![1, 4])] {
        let (disk, all) = filled_simulated(seed);
        let segments = disk.files().into_iter().filter(|f| f.extension().is_some_and(|e| e == "seg"));
        assert!(segments.count() > 3);
        for number in &damaged {
            let path = Path::new(PARTITION).join(format!("{number:016}.seg"));
            disk.flip(&path, (9000 + 2000 * *number as usize) * 8 + 3);
            disk.flip(&path, 4096 * 8 + 3);
        }
        let missing: BTreeSet<u64> = {
            let store = open(&disk.fork().env(9), read_only()).expect("it opens to read");
            let (found, _) = around(&store.topics()[0], &Read::all());
            missing(&all, &found, "before")
        };
        assert!(!missing.is_empty());
        let repair = Repair::plan(&disk.env(5), DIR).expect("planned");
        let failure: Arc<Mutex<Option<String>>> = Arc::default();
        let (failed, all_then, missing_then) = (Arc::clone(&failure), all.clone(), missing.clone());
        let counter = Arc::clone(&images);
        disk.observe(move |disk, call| {
            for (i, survivors) in Survivors::KINDS.into_iter().enumerate() {
                if failed.lock().expect("no panic").is_some() {
                    return;
                }
                let image = disk.cut(survivors, call * 8 + i as u64);
                counter.fetch_add(1, Ordering::Relaxed);
                let check = std::panic::AssertUnwindSafe(|| check_cut(&image, &all_then, &missing_then));
                let looked = std::panic::catch_unwind(check);
                if let Err(panic) = looked {
                    let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                    *failed.lock().expect("no panic") = Some(format!("call {call}, {survivors:?}: {text}"));
                }
            }
        });
        let report = repair.execute(None).expect("repaired");
        disk.stop_observing();
        if let Some(failure) = failure.lock().expect("no panic").take() {
            panic!("{failure}");
        }
        assert_eq!(report.incarnations.len(), 1);
    }
    println!("{} images", images.load(Ordering::Relaxed));
    assert!(images.load(Ordering::Relaxed) > 100);
}

/// What a cut during a repair left: nothing more is lost, to readers and by the next repair.
fn check_cut(image: &SimulatedDisk, all: &[RecordedEvent], lost: &BTreeSet<u64>) {
    let there = {
        let store = open(&image.fork().env(9), read_only()).expect("it opens to read");
        let (found, _) = around(&store.topics()[0], &Read::all());
        missing(all, &found, "what a reader finds")
    };
    assert_eq!(&there, lost, "what a reader finds");
    let repair = Repair::plan(&image.env(6), DIR).expect("planned again");
    assert!(repair.lost().iter().all(|l| l.positions.clone().all(|p| lost.contains(&p))));
    repair.execute(None).expect("repaired again");
    let store = open(&image.env(7), quiet()).expect("it opens");
    let found = annals_tests::events(&store.topics()[0], &Read::all()).expect("all is whole");
    assert_eq!(&missing(all, &found, "after the second repair"), lost);
    let mut findings = verify(&store);
    // Lists of places are never synced.
    findings.retain(|f| !f.derived);
    assert_eq!(findings, []);
}
