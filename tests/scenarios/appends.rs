//! What an append keeps to.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use annals_log::env::{Access, Disk, DiskFile, EntryKind, Env, LockAttempt, Map};
use annals_log::manifest::Manifest;
use annals_log::simulated::{SimulatedClock, SimulatedDisk, SimulatedEntropy};
use annals_model::{AppendCondition, Batch, Durability, ErrorKind, ExpectedRevision, NewEvent, Query};
use annals_store::index::{TermHasher, TermKind};
use annals_tests::{TestClock, contents, env_on, event, files_below};

use super::{PARTITION, all, ids, open};

pub(crate) fn a_second_owner_is_refused() {
    let disk = SimulatedDisk::new();
    let _one = open(&disk.env(1), Durability::Synced).expect("it opens");
    let second = open(&disk.env(2), Durability::Synced).map(|_| ());
    let kind = second.map_err(|e| e.kind().clone());
    assert!(matches!(kind, Err(ErrorKind::Locked { .. })), "{kind:?}");
}

pub(crate) fn a_full_disk_is_an_ordinary_answer() {
    for room in [0, 3000, 20_000, 70_000] {
        let disk = SimulatedDisk::new();
        let (_store, topic) = open(&disk.env(1), Durability::Synced).expect("it opens");
        let append = |n| topic.append(&Batch::to("s").event(event(n, 9000))).wait();
        append(0).expect("there is room");
        let used: usize =
            files_below(&disk, "/".as_ref()).iter().map(|file| contents(&disk, file).len()).sum();
        disk.set_capacity(Some((used + room) as u64));
        let mut n = 1;
        let full = loop {
            match append(n) {
                Ok(_) => n += 1,
                Err(e) => break e,
            }
        };
        assert_eq!(full.kind(), &ErrorKind::Full, "{full:?}");
        assert_eq!(ids(&topic).len() as u64, n);
        disk.set_capacity(None);
        append(n).expect("there is room again");
    }
}

pub(crate) fn time_never_goes_back() {
    let clock = TestClock::new();
    let env = env_on(Arc::new(SimulatedDisk::new()), Arc::clone(&clock), 1);
    let (_store, topic) = open(&env, Durability::Synced).expect("it opens");
    for step in [3_600_000_000, -1_800_000_000, -60_000_000, 5] {
        clock.advance(step);
        topic.append(&Batch::to("s").event(NewEvent::new("E"))).wait().expect("it is allowed");
    }
    let events = all(&topic).expect("it is whole");
    assert!(events.is_sorted_by_key(|e| e.recorded_time), "{events:?}");
}

pub(crate) fn a_clock_that_jumps_ahead_begins_a_segment() {
    let disk = SimulatedDisk::new();
    let clock = Arc::new(SimulatedClock::default());
    let env = Env {
        disk: Arc::new(disk),
        clock: Arc::<SimulatedClock>::clone(&clock),
        entropy: Arc::new(SimulatedEntropy::new(1)),
    };
    let (_store, topic) = open(&env, Durability::Synced).expect("it opens");
    for _ in 0..4 {
        topic.append(&Batch::to("s").event(NewEvent::new("E"))).wait().expect("it is allowed");
        clock.pass(14 * 24 * 3600 * 1_000_000);
    }
    let events = all(&topic).expect("it is whole");
    assert_eq!(events.len(), 4);
    for pair in events.windows(2) {
        assert!(
            pair[1].recorded_time.as_micros() - pair[0].recorded_time.as_micros()
                >= 14 * 24 * 3600 * 1_000_000
        );
    }
}

type Deed = Box<dyn FnOnce() + Send>;

/// A disk on which something is done amid the next read of a segment.
#[derive(Clone)]
struct Interrupted {
    disk: SimulatedDisk,
    deed: Arc<Mutex<Option<Deed>>>,
}

impl Interrupted {
    fn new() -> Self {
        Interrupted { disk: SimulatedDisk::new(), deed: Arc::default() }
    }

    fn env(&self) -> Env {
        Env { disk: Arc::new(self.clone()), ..self.disk.env(1) }
    }

    fn amid_the_next_read(&self, deed: impl FnOnce() + Send + 'static) {
        *self.deed.lock().expect("no panic") = Some(Box::new(deed));
    }

    fn is_done(&self) -> bool {
        self.deed.lock().expect("no panic").is_none()
    }
}

struct InterruptedFile {
    file: Arc<dyn DiskFile>,
    deed: Arc<Mutex<Option<Deed>>>,
}

impl Disk for Interrupted {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(path, access)?;
        if path.extension().is_some_and(|e| e == "seg") {
            return Ok(Arc::new(InterruptedFile { file, deed: Arc::clone(&self.deed) }));
        }
        Ok(file)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.disk.list(path)
    }

    fn kind(&self, path: &Path) -> io::Result<Option<EntryKind>> {
        self.disk.kind(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn try_lock(&self, path: &Path, holder: &str) -> io::Result<LockAttempt> {
        self.disk.try_lock(path, holder)
    }
}

impl DiskFile for InterruptedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = self.file.read_at(buf, offset);
        let deed = self.deed.lock().expect("no panic").take();
        if let Some(deed) = deed {
            deed();
        }
        read
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(buf, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.allocate(offset, len)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.file.next_data(offset)
    }

    fn map(&self, len: u64) -> io::Result<Map> {
        self.file.map(len)
    }
}

pub(crate) fn of_two_appends_at_once_one_passes() {
    // By a condition: the look at the event that it goes on from is interrupted by one that it forbids.
    let disk = Interrupted::new();
    let (_store, topic) = open(&disk.env(), Durability::Synced).expect("it opens");
    topic.append(&Batch::to("s").event(event(0, 10).tag("t"))).wait().expect("it is allowed");
    let guarded = |n| {
        let condition = AppendCondition::none_match_after(Query::tags(["t"]), 0);
        Batch::to("s").event(event(n, 10).tag("t")).condition(condition)
    };
    let other = topic.clone();
    disk.amid_the_next_read(move || _ = other.append(&guarded(1)).wait().expect("it is the first"));
    let second = topic.append(&guarded(2)).wait().map_err(|e| e.kind().clone());
    assert!(disk.is_done());
    assert!(matches!(second, Err(ErrorKind::ConditionFailed { position: 1 })), "{second:?}");

    // By an id: the look for the stream's revision is interrupted by the same append.
    let batch = || Batch::to("s").event(event(3, 10));
    let other = topic.clone();
    topic
        .append(&Batch::to("a").and_to("b").event(event(8, 10)).and_to("c").event(event(9, 10)))
        .wait()
        .expect("two");
    disk.amid_the_next_read(move || _ = other.append(&batch()).wait().expect("it is the first"));
    let second = topic.append(&batch()).wait().expect("it is allowed");
    assert!(disk.is_done());
    assert!(second.repeated, "an id stands twice");
}

pub(crate) fn a_stream_that_was_forgotten_meanwhile_is_looked_up_again() {
    let disk = Interrupted::new();
    let (_store, topic) = open(&disk.env(), Durability::Synced).expect("it opens");
    let plain = |stream: &str| Batch::to(stream.to_owned()).event(NewEvent::new("E"));
    for stream in ["s", "a", "b", "c"] {
        topic.append(&plain(stream)).wait().expect("it is allowed");
    }
    // While `s` is looked up, it is appended to, and forgotten again for others.
    let other = topic.clone();
    disk.amid_the_next_read(move || {
        for stream in ["s", "a", "b", "c"] {
            other.append(&plain(stream)).wait().expect("it is allowed");
        }
    });
    let late = topic.append(&plain("s").expect(ExpectedRevision::Exact(0))).wait();
    assert!(disk.is_done());
    let kind = late.map_err(|e| e.kind().clone());
    assert!(matches!(kind, Err(ErrorKind::Conflict { actual: Some(1), .. })), "{kind:?}");
}

pub(crate) fn two_streams_of_one_hash_are_told_apart() {
    let disk = SimulatedDisk::new();
    let (_store, topic) = open(&disk.env(1), Durability::Synced).expect("it opens");
    let manifest =
        Manifest::load(&disk.env(1), PARTITION.as_ref()).expect("it is whole").expect("it is there");
    let hasher = TermHasher::new(manifest.secret);
    let hash = |n: u32| hasher.hash(TermKind::Stream, n.to_string().as_bytes()).bits();
    // Of so many names some have the same forty bits.
    let mut hashes: Vec<(u64, u32)> = (0..3_000_000).map(|n| (hash(n), n)).collect();
    hashes.sort_unstable();
    let same = hashes.windows(2).find(|pair| pair[0].0 == pair[1].0).expect("with this seed there are some");
    let (one, other) = (same[0].1.to_string(), same[1].1.to_string());
    topic.append(&Batch::to(one.as_str()).event(NewEvent::new("E"))).wait().expect("it is allowed");
    for stream in ["a", "b", "c"] {
        topic.append(&Batch::to(stream).event(NewEvent::new("E"))).wait().expect("it is allowed");
    }
    assert_eq!(topic.stream_revision(&one).expect("it can be said"), Some(0));
    assert_eq!(topic.stream_revision(&other).expect("it can be said"), None);
    let new = Batch::to(other.as_str()).expect(ExpectedRevision::NoStream).event(NewEvent::new("E"));
    topic.append(&new).wait().expect("there is no such stream");
}
