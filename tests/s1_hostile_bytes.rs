//! S1: hostile bytes do no harm.
//!
//! Goal: whatever bytes lie on the disk and whatever names callers give, nothing panics, nothing is allocated before its
//! length was checked, nothing outside the store's directory is touched.
//!
//! Method: every file of a store replaced by garbage, cut, lengthened, overwritten at random, from seeds; then everything
//! is asked, and answers are right or errors. Names that look like paths, on a real disk. Bytes read are counted where
//! damage could make a read go over the same bytes again and again.

use std::path::Path;
use std::sync::Arc;

use annals_log::env::{Access, Disk, Env, MemoryDisk};
use annals_log::format::record_len;
use annals_log::{Log, LogOptions};
use annals_model::{
    Batch, Durability, EventId, NewEvent, Query, Read, RecordPlace, RecordedEvent, Timestamp,
};
use annals_store::{Store, StoreOptions, TopicOptions};
use annals_tests::{
    DIR, FaultyDisk, Random, TestClock, append, contents, copy_disk, damage, env_on, event, events,
    files_below, for_seeds, open, open_topic, quiet, small_segments,
};

fn options() -> StoreOptions {
    StoreOptions { index_run_bytes: 8192, ..quiet() }
}

fn store() -> (MemoryDisk, Vec<RecordedEvent>) {
    let disk = MemoryDisk::new();
    let env = env_on(Arc::new(disk.clone()), TestClock::new(), 2);
    let (store, topic) = open_topic(&env, options(), small_segments()).expect("it opens");
    for n in 0..60 {
        append(&topic, &format!("s-{}", n % 7), n, 2500).expect("it is allowed");
    }
    let all = events(&topic, &Read::all()).expect("it is whole");
    drop((topic, store));
    (disk, all)
}

/// Asks everything, and takes errors for an answer.
fn ask_everything(env: &Env, expected: &[RecordedEvent], options: StoreOptions) {
    let Ok(store) = open(env, options) else { return };
    let verified = store.verify(true, &mut |_, _| {}, &mut |_| {});
    drop(verified);
    let Ok(topic) = store.topic("topic") else { return };
    let right = |e: &RecordedEvent| {
        // Events appended below, by an earlier look, are behind the others.
        let known = expected.get(e.position as usize).is_none_or(|known| known == e);
        assert!(known, "another event is served at {}", e.position);
    };
    let whats = [
        Read::all(),
        Read::all().backward(),
        Read::stream("s-3"),
        Read::prefix("s-").backward(),
        Read::query(Query::tags(["n:7"])),
        Read::all().from(annals_model::At::Recorded(Timestamp::EPOCH)),
        Read::stream("s-2").from(annals_model::At::Revision(2)),
    ];
    for what in &whats {
        if let Ok(mut reader) = topic.read(what) {
            while let Some(Ok(event)) = reader.next() {
                right(&event);
            }
        }
    }
    if let Ok(mut feed) = topic.subscribe(&Read::all()) {
        while let Ok(Some(event)) = feed.next_ready() {
            right(&event.to_owned());
        }
    }
    for event in expected.iter().step_by(7) {
        let place = RecordPlace { partition: 0, position: event.position };
        for found in [topic.get(place), topic.get_by_id(event.id)].into_iter().flatten().flatten() {
            assert_eq!(found, *event);
        }
        _ = topic.stream_revision(&event.stream);
        _ = topic.stream(&event.stream);
    }
    _ = topic.stats();
    if let Ok(streams) = topic.streams("s-") {
        streams.for_each(drop);
    }
    _ = append(&topic, "s-3", 3, 2500);
    _ = append(&topic, "s-3", 1_000_000, 100);
    _ = topic.append(&Batch::to("s-3").event(NewEvent::new("E"))).wait();
    _ = store.close();
}

#[test]
fn any_bytes_in_any_file_give_right_answers_or_errors() {
    let (disk, expected) = store();
    let files = files_below(&disk, DIR.as_ref());
    for_seeds(700, |seed| {
        let mut random = Random::new(seed);
        let copy = copy_disk(&disk, DIR.as_ref());
        for _ in 0..random.below(3) + 1 {
            let path = random.pick(&files).as_path();
            let mut bytes = contents(&copy, path);
            let len = bytes.len().max(1) as u64;
            match random.below(7) {
                0 => bytes.iter_mut().for_each(|b| *b = random.next() as u8),
                1 => bytes.truncate(random.below(len) as usize),
                2 => bytes.extend((0..random.below(9000)).map(|_| random.next() as u8)),
                3 => {
                    let from = random.below(len) as usize;
                    let to = (from + random.below(600) as usize).min(bytes.len());
                    bytes.get_mut(from..to).into_iter().flatten().for_each(|b| *b = 0xff);
                }
                4 => {
                    // A number somewhere becomes as large as it can be, or small.
                    let at = random.below(len) as usize / 8 * 8;
                    let number =
                        *random.pick(&[u64::MAX, i64::MAX as u64, u64::from(u32::MAX), 1 << 40, 0, 1]);
                    if let Some(place) = bytes.get_mut(at..at + 8) {
                        place.copy_from_slice(&number.to_le_bytes());
                    }
                }
                5 => bytes = contents(&copy, random.pick(&files).as_path()),
                _ => {
                    for _ in 0..random.below(20) + 1 {
                        let at = random.below(len) as usize;
                        if let Some(byte) = bytes.get_mut(at) {
                            *byte ^= 1 << random.below(8);
                        }
                    }
                }
            }
            let file = copy.open(path, Access::ReadWrite).expect("it is there");
            file.set_len(0).expect("memory does not fail");
            file.write_all_at(&bytes, 0).expect("memory does not fail");
        }
        let env = env_on(Arc::new(copy), TestClock::new(), seed);
        let read_only = StoreOptions { read_only: true, create: false, ..options() };
        ask_everything(&env, &expected, read_only);
        ask_everything(&env, &expected, options());
        ask_everything(&env, &expected, options());
    });
}

#[test]
fn a_directory_in_a_files_place_is_an_error() {
    let (disk, expected) = store();
    for path in files_below(&disk, DIR.as_ref()) {
        let copy = copy_disk(&disk, DIR.as_ref());
        copy.remove(&path).expect("it is there");
        copy.create_dir(&path).expect("its parent is there");
        let env = env_on(Arc::new(copy), TestClock::new(), 1);
        ask_everything(&env, &expected, options());
    }
}

#[test]
fn files_that_claim_to_be_huge_are_refused_without_taking_memory() {
    let (disk, _) = store();
    for path in files_below(&disk, DIR.as_ref()) {
        let copy = copy_disk(&disk, DIR.as_ref());
        // A sparse file, as anybody can make one for nothing.
        let file = copy.open(&path, Access::ReadWrite).expect("it is there");
        if path.extension().is_some_and(|e| e == "seg") {
            // Of an active segment all of it is looked at, but holes cost nothing.
            continue;
        }
        file.set_len(1 << 39).expect("memory does not fail");
        let env = env_on(Arc::new(copy), TestClock::new(), 1);
        let read_only = StoreOptions { read_only: true, create: false, ..options() };
        drop(open(&env, read_only));
        drop(open(&env, options()));
    }
}

#[test]
fn names_never_become_paths() {
    let dir = tempfile::tempdir().expect("there is room");
    let path = dir.path().join("deep/er/store");
    let names =
        ["../../escaped", "/etc/passwd", "..", ".", "a/b", "C:\\x", "con", "topics", "lock", "✓ наме", "a b"];
    {
        let store = Store::open(&path).expect("it opens");
        for name in names {
            let topic =
                store.create_topic(name, TopicOptions::default()).expect("any printable name will do");
            let event = NewEvent::new(name).tag(name).metadata(name, name.as_bytes()).key(name.as_bytes());
            topic
                .append(&Batch::to(name).event(event.id(EventId::from_name(name))))
                .wait()
                .expect("it is allowed");
        }
        for bad in ["", "a\0b", "a\nb", "\u{1b}[2J", &"x".repeat(256)] {
            assert!(store.create_topic(bad, TopicOptions::default()).is_err(), "{bad:?}");
            let topic = store.topic(names[0]).expect("it is there");
            if bad.len() < 200 {
                assert!(topic.append(&Batch::to(bad).event(NewEvent::new("E"))).wait().is_err(), "{bad:?}");
                assert!(topic.append(&Batch::to("s").event(NewEvent::new(bad))).wait().is_err(), "{bad:?}");
                assert!(
                    topic.append(&Batch::to("s").event(NewEvent::new("E").tag(bad))).wait().is_err(),
                    "{bad:?}"
                );
            }
        }
    }
    let store = Store::open(&path).expect("it opens");
    for name in names {
        let topic = store.topic(name).expect("it is there");
        let all = events(&topic, &Read::stream(name)).expect("it is whole");
        assert_eq!(all.len(), 1);
        assert_eq!((&*all[0].stream, &*all[0].event_type), (name, name));
    }
    // Only the way to the store is there, and in it only what it made.
    let outside = |dir: &Path| dir.read_dir().expect("it is there").count();
    assert_eq!((outside(dir.path()), outside(&dir.path().join("deep"))), (1, 1));
    let is_plain = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-');
    for file in files_below(&annals_log::env::RealDisk, &path) {
        let inside = file.strip_prefix(&path).expect("it lies in it");
        assert!(inside.iter().all(|part| part.to_str().is_some_and(is_plain)), "{}", inside.display());
    }
}

#[test]
fn calls_with_nonsense_are_answered() {
    let (disk, expected) = store();
    let env = env_on(Arc::new(disk), TestClock::new(), 1);
    let store = open(&env, options()).expect("it opens");
    let topic = store.topic("topic").expect("it is there");
    use annals_model::At::{End, Event, Position, Recorded, Revision, Start};
    let ends = [0, 1, 59, 60, 61, u64::MAX - 1, u64::MAX];
    let times = [i64::MIN, -1, 0, i64::MAX - 1, i64::MAX].map(Timestamp::from_micros);
    let mut bounds = vec![Start, End];
    bounds.extend(ends.into_iter().flat_map(|n| [Position(n), Revision(n)]));
    bounds.extend(times.into_iter().flat_map(|t| [Recorded(t), Event(t)]));
    for from in &bounds {
        for to in &bounds {
            for what in [Read::all(), Read::stream("s-1"), Read::prefix(""), Read::query(Query::tags([""]))] {
                for limit in [None, Some(0), Some(1), Some(u64::MAX)] {
                    let mut what = what.clone().from(from.clone()).to(to.clone());
                    what.limit = limit;
                    let forward = events(&topic, &what);
                    let mut backward = events(&topic, &what.clone().backward());
                    if let (Ok(forward), Ok(backward), None | Some(u64::MAX)) =
                        (&forward, &mut backward, limit)
                    {
                        backward.reverse();
                        assert!(forward == backward, "{what:?}");
                    }
                    assert_eq!(forward.is_ok(), backward.is_ok(), "{what:?}");
                }
            }
        }
        if let Ok(mut feed) = topic.subscribe(&Read::all().from(from.clone())) {
            while feed.next_ready().expect("it is whole").is_some() {}
        }
    }
    for position in ends {
        for partition in [0, 1, u32::MAX] {
            let found = topic.get(RecordPlace { partition, position }).expect("nothing is damaged");
            assert_eq!(found.is_some(), partition == 0 && position < expected.len() as u64);
        }
    }
    assert_eq!(topic.get_by_id(EventId::from_bytes([0; 16])).expect("it can be said"), None);
    assert_eq!(topic.stream_revision("").expect("it can be said"), None);
    for partitions in [0, 1025, u32::MAX] {
        assert!(store.create_topic("t", TopicOptions { partitions, ..TopicOptions::default() }).is_err());
    }
    for segment_bytes_max in [0, 1, 1 << 31, u64::MAX] {
        assert!(
            store.create_topic("t", TopicOptions { segment_bytes_max, ..TopicOptions::default() }).is_err()
        );
    }
    drop(event(1, 1));
}

#[test]
fn reading_around_damage_costs_by_how_much_there_is() {
    let disk = FaultyDisk::new();
    let env = env_on(Arc::new(disk.clone()), TestClock::new(), 2);
    let dir = Path::new("/log");
    env.disk.create_dir(dir).expect("made");
    let (log, _) = Log::open(&env, dir, LogOptions::default()).expect("opened");
    let (frames, body) = (400u64, [7; 100]);
    let mut addresses = Vec::new();
    for _ in 0..frames {
        let staged = log.stage(1, record_len(body.len()), |f| f.record(|out| out.extend_from_slice(&body)));
        let (staged, address) = staged.expect("staged");
        log.commit(staged.end_position, Durability::Synced).wait().expect("durable");
        addresses.push(address);
    }
    log.close().expect("closed");
    drop(log);
    let path = &files_below(&disk, dir).into_iter().find(|p| p.extension().is_some_and(|e| e == "seg"));
    let path = path.as_ref().expect("there is one");
    // One byte of every record but the last.
    for address in &addresses[..frames as usize - 1] {
        damage(&disk, path, address + 20, 1);
    }
    let log = Log::follow(&env, dir, LogOptions::default()).expect("opened");
    let before = disk.bytes_read();
    assert_eq!(log.readable_from(0, log.watermark()).expect("it can be read"), frames - 1);
    let read = disk.bytes_read() - before;
    // Each damage is looked at once, from its frame's header on; a scan reads 256 KiB at once.
    assert!(read < frames * 16 * 1024 + 2 * 256 * 1024, "{read} bytes were read");
}
