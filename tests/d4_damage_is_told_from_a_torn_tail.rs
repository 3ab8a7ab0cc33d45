//! D4: damage is told from a torn tail.
//!
//! Goal: a torn tail is dropped on opening and reported. Damage to what is proven durable is never served and never
//! silently cut off: opening refuses where it reads it, naming file and offset, and every reader gets `Corrupt`.
//!
//! Method: a store of several segments; bytes flipped, sectors zeroed, files cut, lost and swapped, one by one, each on a
//! copy of its disk; afterwards every read gives what was there or `Corrupt`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use annals_log::env::{Access, Disk, Env, MemoryDisk};
use annals_model::{Batch, ErrorKind, Events, Query, Read, RecordPlace, RecordedEvent};
use annals_store::{Finding, Store};
use annals_tests::{
    DIR, Random, TestClock, append, assert_same, contents, copy_disk, damage, env_on, event, events,
    files_below, open, open_topic, quiet, small_segments,
};

const PARTITION: &str = "/store/topics/00000001/00000000";
const FRAMES_START: u64 = annals_log::format::FRAMES_START;

fn env(disk: &MemoryDisk) -> Env {
    env_on(Arc::new(disk.clone()), TestClock::new(), 5)
}

/// A store of three segments and a bit, as its owner left it: closed, or dead.
fn store(closes: bool) -> (MemoryDisk, Vec<RecordedEvent>) {
    let disk = MemoryDisk::new();
    let (store, topic) = open_topic(&env(&disk), quiet(), small_segments()).expect("it opens");
    for i in 0..53 {
        let batch = Batch::to(format!("s-{}", i % 3)).events([event(i * 2, 1500), event(i * 2 + 1, 2700)]);
        topic.append(&batch).wait().expect("it is allowed");
    }
    let all = events(&topic, &Read::all()).expect("it is whole");
    assert!(topic.stats().expect("it can be said").partitions[0].segments >= 3);
    if closes {
        drop(topic);
        store.close().expect("nothing fails");
        (copy_disk(&disk, DIR.as_ref()), all)
    } else {
        (copy_disk(&disk, DIR.as_ref()), all)
    }
}

fn segment(number: u64) -> PathBuf {
    Path::new(PARTITION).join(format!("{number:016}.seg"))
}

/// File offsets of a segment's frames, and behind the last of them.
fn frames(disk: &dyn Disk, path: &Path) -> Vec<u64> {
    let bytes = contents(disk, path);
    let header = annals_log::format::SegmentHeader::decode(&bytes).expect("it is whole");
    let mut at = FRAMES_START;
    let mut found = vec![at];
    while let Some(frame) =
        bytes.get(at as usize..).and_then(|b| annals_log::format::FrameHeader::decode(b, header.salt))
    {
        at += frame.frame_len();
        found.push(at);
    }
    found
}

#[track_caller]
fn names(kind: &ErrorKind, file: &str) -> u64 {
    match kind {
        ErrorKind::Corrupt { segment, file_offset } if segment.ends_with(file) => *file_offset,
        other => panic!("{other:?} is not damage in {file}"),
    }
}

/// Everything that reads gives what was there, or `Corrupt` in this file; whether anything did.
fn served_right_or_corrupt(store: &Store, expected: &[RecordedEvent], file: &str) -> bool {
    let topic = store.topic("topic").expect("it is there");
    let mut met = false;
    let mut check = |what: &Read, expected: Vec<&RecordedEvent>| {
        let mut given = 0;
        let mut reader = match topic.read(what) {
            Ok(reader) => reader,
            Err(e) => {
                names(e.kind(), file);
                met = true;
                return;
            }
        };
        loop {
            match reader.next_view() {
                Ok(Some(view)) => {
                    assert_eq!(Some(&view.to_owned()), expected.get(given).copied(), "{what:?}");
                    given += 1;
                }
                Ok(None) => {
                    assert_eq!(given, expected.len(), "{what:?} was cut off silently");
                    return;
                }
                Err(e) => {
                    names(e.kind(), file);
                    met = true;
                    return;
                }
            }
        }
    };
    check(&Read::all(), expected.iter().collect());
    check(&Read::all().backward(), expected.iter().rev().collect());
    check(&Read::stream("s-1"), expected.iter().filter(|e| e.stream == "s-1").collect());
    let tag = &expected[40].tags[0];
    check(&Read::query(Query::tags([tag.as_str()])), vec![&expected[40]]);
    for event in expected {
        let place = RecordPlace { partition: 0, position: event.position };
        for found in [topic.get(place), topic.get_by_id(event.id)] {
            match found {
                Ok(found) => assert_eq!(found.as_ref(), Some(event)),
                Err(e) => {
                    names(e.kind(), file);
                    met = true;
                }
            }
        }
    }
    met
}

fn findings(store: &Store) -> Vec<Finding> {
    let mut found = Vec::new();
    store.verify(false, &mut |_, _| {}, &mut |f| found.push(f)).expect("it can be read");
    found
}

#[test]
fn flipped_bits_in_durable_data_are_never_served() {
    for closes in [true, false] {
        let (disk, expected) = store(closes);
        let mut random = Random::new(3);
        for round in 0..90 {
            let number = round % 3 + 1;
            let path = segment(number);
            let ends = frames(&disk, &path);
            let used = ends[ends.len() - 1];
            let offset = match round / 3 % 3 {
                // A frame's header, the first bytes of a record, anywhere.
                0 => ends[random.below(ends.len() as u64 - 1) as usize] + random.below(44),
                1 => ends[random.below(ends.len() as u64 - 1) as usize] + 48 + random.below(40),
                _ => FRAMES_START + random.below(used - FRAMES_START),
            };
            let copy = copy_disk(&disk, DIR.as_ref());
            damage(&copy, &path, offset, 1 << random.below(8));
            let file = path.file_name().and_then(|n| n.to_str()).expect("it has a name").to_owned();
            let store = match open(&env(&copy), quiet()) {
                Ok(store) => store,
                Err(e) => {
                    let at = names(e.kind(), &file);
                    assert!(at <= offset, "{e:?} for damage at {offset}");
                    continue;
                }
            };
            let met = served_right_or_corrupt(&store, &expected, &file);
            let found = findings(&store);
            assert!(!found.is_empty(), "damage at {offset} of {file} was not found by checking");
            let frame = ends.partition_point(|&at| at <= offset) - 1;
            let near = ends[frame]..=offset;
            assert!(found[0].file.ends_with(&file) && near.contains(&found[0].file_offset), "{found:?}");
            // What no reader needs is found by checking only: padding.
            let padding = contents(&disk, &path)[offset as usize] == 0;
            assert!(met || padding, "damage at {offset} of {file} was not noticed by any reader");
        }
        assert_eq!(findings(&open(&env(&disk), quiet()).expect("it opens")), []);
    }
}

#[test]
fn zeroed_and_lost_sectors_are_not_an_end() {
    let (disk, expected) = store(true);
    for number in 1..=3 {
        let path = segment(number);
        let used = *frames(&disk, &path).last().expect("there is one");
        for sector in [FRAMES_START, used / 2 / 512 * 512, (used - 1) / 512 * 512] {
            let copy = copy_disk(&disk, DIR.as_ref());
            let file = copy.open(&path, Access::ReadWrite).expect("it is there");
            file.write_all_at(&vec![0; (used - sector).min(512) as usize], sector)
                .expect("memory does not fail");
            let name = path.to_string_lossy().into_owned();
            match open(&env(&copy), quiet()) {
                Ok(store) => assert!(served_right_or_corrupt(&store, &expected, &name)),
                Err(e) => assert!(names(e.kind(), &name) <= sector),
            }
        }
    }
}

#[test]
fn without_the_mark_a_later_frame_proves_what_was_durable() {
    let (disk, expected) = store(false);
    let last = segment(frames_of_all(&disk));
    let ends = frames(&disk, &last);
    assert!(ends.len() > 4, "several frames are in the active segment");
    let first = open(&env(&copy_disk(&disk, DIR.as_ref())), quiet()).expect("it opens");
    drop(first);
    for (i, frame) in ends[..ends.len() - 1].iter().enumerate() {
        for offset in [0, 20, 60, 1000] {
            let copy = copy_disk(&disk, DIR.as_ref());
            copy.remove(&Path::new(PARTITION).join("mark")).expect("it is there");
            damage(&copy, &last, frame + offset, 0x10);
            let opened = open(&env(&copy), quiet());
            if i + 2 == ends.len() {
                // Nothing proves the last one: it is taken for torn, dropped and reported.
                let store = opened.expect("it opens");
                let report = store.recovery();
                assert_eq!(report.len(), 1);
                assert!(report[0].torn_bytes > 0, "{report:?}");
                assert_eq!(report[0].records_kept, (i * 2) as u64);
                let topic = store.topic("topic").expect("it is there");
                assert_same(
                    &events(&topic, &Read::all()).expect("it is whole"),
                    &expected[..expected.len() - 2],
                );
            } else {
                let error = opened.expect_err("it was durable");
                assert_eq!(names(error.kind(), &last.to_string_lossy()), *frame, "frame {i}");
                // Refusing changed nothing: without the damage all is there.
                damage(&copy, &last, frame + offset, 0x10);
                let store = open(&env(&copy), quiet()).expect("it opens");
                let topic = store.topic("topic").expect("it is there");
                assert_same(&events(&topic, &Read::all()).expect("it is whole"), &expected);
            }
        }
    }
}

fn frames_of_all(disk: &MemoryDisk) -> u64 {
    files_below(disk, PARTITION.as_ref()).iter().filter(|p| p.extension().is_some_and(|e| e == "seg")).count()
        as u64
}

#[test]
fn a_torn_last_frame_is_dropped_and_reported_and_earlier_ones_survive() {
    let (disk, expected) = store(false);
    let last = segment(frames_of_all(&disk));
    let end = *frames(&disk, &last).last().expect("there is one");
    let mut random = Random::new(9);
    for round in 0..40 {
        let copy = copy_disk(&disk, DIR.as_ref());
        // A part of what another append would have written, or garbage.
        let mut torn = vec![0; 300 + random.below(3000) as usize];
        torn.iter_mut().for_each(|b| *b = random.next() as u8);
        if round % 2 == 0 {
            let again = copy_disk(&disk, DIR.as_ref());
            let (_store, topic) = open_topic(&env(&again), quiet(), small_segments()).expect("it opens");
            append(&topic, "s-1", 1_000_000, 2000).expect("it is allowed");
            let bytes = contents(&again, &last);
            let len = torn.len();
            torn.copy_from_slice(&bytes[end as usize..end as usize + len]);
            let cut = random.below(len.min(1800) as u64 - 100) as usize;
            torn[cut..len.min(cut + 512)].fill(0xab);
        }
        let file = copy.open(&last, Access::ReadWrite).expect("it is there");
        file.write_all_at(&torn, end).expect("memory does not fail");
        for opening in 0..2 {
            let store = open(&env(&copy), quiet()).expect("it opens");
            let torn_bytes: u64 = store.recovery().iter().map(|r| r.torn_bytes).sum();
            assert_eq!(torn_bytes > 0, opening == 0, "round {round}: it is reported once");
            assert!(torn_bytes <= torn.len() as u64 + 8);
            let topic = store.topic("topic").expect("it is there");
            assert_same(&events(&topic, &Read::all()).expect("it is whole"), &expected);
            drop(store);
        }
    }
}

#[test]
fn a_lost_file_is_noticed() {
    let (disk, expected) = store(true);
    for file in files_below(&disk, DIR.as_ref()) {
        let copy = copy_disk(&disk, DIR.as_ref());
        copy.remove(&file).expect("it is there");
        let name = file.to_string_lossy();
        let opened = open(&env(&copy), quiet());
        if name.ends_with(".seg") || name.ends_with("manifest") || name.ends_with("catalogue") {
            let short = file.file_name().and_then(|n| n.to_str()).expect("it has a name");
            names(opened.expect_err(&name).kind(), short);
            // It is still so when asked again: nothing was made in its place.
            names(open(&env(&copy), quiet()).expect_err(&name).kind(), short);
        } else {
            let store = opened.unwrap_or_else(|e| panic!("without {name}: {e:?}"));
            let topic = store.topic("topic").expect("it is there");
            assert_same(&events(&topic, &Read::all()).expect("it is whole"), &expected);
            assert_eq!(topic.get_by_id(expected[3].id).expect("it can be said").as_ref(), Some(&expected[3]));
        }
    }
}

#[test]
fn a_file_cut_short_is_noticed() {
    let (disk, expected) = store(true);
    for number in 1..=frames_of_all(&disk) {
        let path = segment(number);
        let used = *frames(&disk, &path).last().expect("there is one");
        for len in [0, 100, FRAMES_START, used / 2, used - 1] {
            let copy = copy_disk(&disk, DIR.as_ref());
            copy.open(&path, Access::ReadWrite)
                .expect("it is there")
                .set_len(len)
                .expect("memory does not fail");
            let name = path.to_string_lossy().into_owned();
            match open(&env(&copy), quiet()) {
                Err(e) => _ = names(e.kind(), &name),
                Ok(store) => {
                    assert!(served_right_or_corrupt(&store, &expected, &name), "{name} cut to {len}");
                    assert!(!findings(&store).is_empty());
                }
            }
        }
    }
}

#[test]
fn swapped_segments_are_noticed() {
    let (disk, expected) = store(true);
    let count = frames_of_all(&disk);
    for (a, b) in [(1, 2), (1, count)] {
        let copy = copy_disk(&disk, DIR.as_ref());
        let temporary = Path::new(PARTITION).join("x");
        copy.rename(&segment(a), &temporary).expect("it is there");
        copy.rename(&segment(b), &segment(a)).expect("it is there");
        copy.rename(&temporary, &segment(b)).expect("it is there");
        match open(&env(&copy), quiet()) {
            Err(e) => _ = names(e.kind(), ".seg"),
            Ok(store) => assert!(served_right_or_corrupt(&store, &expected, ".seg")),
        }
    }
}

#[test]
fn a_damaged_mark_costs_nothing_but_time() {
    for closes in [true, false] {
        let (disk, expected) = store(closes);
        let mark = Path::new(PARTITION).join("mark");
        for offsets in [vec![0], vec![512], vec![0, 512], vec![20], vec![30, 540], vec![]] {
            let copy = copy_disk(&disk, DIR.as_ref());
            if offsets.is_empty() {
                copy.remove(&mark).expect("it is there");
            }
            for offset in &offsets {
                damage(&copy, &mark, *offset, 0x40);
            }
            let (store, topic) = open_topic(&env(&copy), quiet(), small_segments()).expect("it opens");
            assert_same(&events(&topic, &Read::all()).expect("it is whole"), &expected);
            assert!(store.recovery().iter().all(|r| r.torn_bytes == 0));
            append(&topic, "s-1", 1_000_000, 100).expect("it is allowed");
            drop((store, topic));
            let (_store, topic) = open_topic(&env(&copy), quiet(), small_segments()).expect("it opens");
            assert_eq!(events(&topic, &Read::all()).expect("it is whole").len(), expected.len() + 1);
        }
    }
}

#[test]
fn a_damaged_manifest_or_catalogue_is_refused() {
    let (disk, expected) = store(true);
    let segments = frames_of_all(&disk);
    for (path, used) in [
        (Path::new(PARTITION).join("manifest"), (segments + 1) * 64),
        (Path::new(DIR).join("catalogue"), contents(&disk, "/store/catalogue".as_ref()).len() as u64),
    ] {
        let short = path.file_name().and_then(|n| n.to_str()).expect("it has a name").to_owned();
        for offset in 0..used {
            let copy = copy_disk(&disk, DIR.as_ref());
            damage(&copy, &path, offset, 1 << (offset % 8));
            let error = open(&env(&copy), quiet()).expect_err("it is damaged");
            names(error.kind(), &short);
        }
        for len in [0, 10, used / 2, used - 1] {
            let copy = copy_disk(&disk, DIR.as_ref());
            copy.open(&path, Access::ReadWrite)
                .expect("it is there")
                .set_len(len)
                .expect("memory does not fail");
            names(open(&env(&copy), quiet()).expect_err("it is cut").kind(), &short);
        }
    }
    let store = open(&env(&disk), quiet()).expect("the original is whole");
    let topic = store.topic("topic").expect("it is there");
    assert_same(&events(&topic, &Read::all()).expect("it is whole"), &expected);
}

#[test]
fn reading_goes_on_behind_damage_by_a_new_read() {
    let (disk, expected) = store(true);
    let ends = frames(&disk, &segment(1));
    damage(&disk, &segment(1), ends[2] + 100, 1);
    let store = open(&env(&disk), quiet()).expect("the damage lies before the mark");
    let topic = store.topic("topic").expect("it is there");
    let mut reader = topic.read(&Read::all()).expect("the beginning is whole");
    let before: Vec<_> = reader.by_ref().map_while(Result::ok).collect();
    assert_same(&before, &expected[..4]);
    assert!(reader.next().is_none(), "what is damaged is said once");
    let behind = topic.read(&Read::all().from(annals_model::At::Position(6))).expect("frames can be skipped");
    assert_same(&behind.collect::<Result<Vec<_>, _>>().expect("it is whole"), &expected[6..]);
}

#[test]
fn a_lost_manifest_is_damage_also_where_first_frames_are_damaged() {
    let (disk, _) = store(true);
    for number in 1..frames_of_all(&disk) {
        damage(&disk, &segment(number), 4096 + 20, 1);
    }
    disk.remove(&Path::new(PARTITION).join("manifest")).expect("it is there");
    let before = contents(&disk, &segment(1));
    names(open(&env(&disk), quiet()).expect_err("it is lost").kind(), "manifest");
    assert_eq!(contents(&disk, &segment(1)), before, "nothing is thrown away");
}
