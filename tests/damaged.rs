//! One piece of damage at a time, and whether what a store makes of it keeps the promises.
//!
//! A [`Sample`] is a small store of two segments with all that belongs to it, as its owner closed it or as a power cut left
//! it. [`Sample::judge`] opens a copy with one [`Damage`] done to it, asks for everything in every way, and says which of
//! the allowed [`Verdict`]s it came to; everything else panics.
//!
//! # Invariants
//! - What is asked of a damaged store does not depend on the damage: only what may be answered does.
//! - Only the part that the damage touches may be `Corrupt`; everything else has to be answered as on the whole store.
//!
//! Elsewhere: which damage is done (`damage.rs`, `guards.rs`).

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use annals_log::env::{Access, Disk, Env};
use annals_log::format::{
    FRAME_HEADER_LEN, FRAMES_START, FrameHeader, RecordContext, SEGMENT_HEADER_LEN, SegmentHeader,
};
use annals_log::simulated::{SECTOR, SimulatedClock, SimulatedDisk, SimulatedEntropy, Survivors};
use annals_model::{
    At, Batch, Error, ErrorKind, EventId, Events, ExpectedRevision, NewEvent, Place, Query, Read,
    RecordPlace, RecordedEvent, Result,
};
use annals_store::{Finding, Store, StoreOptions, Topic, TopicOptions};

use crate::{DIR, Random, contents, files_below};

/// So much later is too late for a record of the same segment.
const ANOTHER_SEGMENT: u64 = 14 * 24 * 3600 * 1_000_000;

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// This bit is the other one.
    Flip(usize),
    /// It ends here.
    Cut(usize),
    /// A sector reads as zeros.
    Zero(usize),
    /// Two sectors stand in each other's place.
    Swap(usize, usize),
    /// It is gone.
    Delete,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Opening was refused.
    Refused,
    /// Everything was as before.
    Harmless,
    /// What was touched is `Corrupt`, everything else as before.
    Corrupt,
    /// The last batch, of which nothing proves that it was durable, is gone, and that was reported.
    Dropped,
    /// The same without a report, since nothing of it was left that could be told from room never written.
    Vanished,
}

/// How often each came to be.
#[derive(Clone, Debug, Default)]
pub struct Verdicts(pub BTreeMap<Verdict, u64>);

impl Verdicts {
    /// All together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

/// How the sample was named.
struct Names {
    id: EventId,
    options: TopicOptions,
    start: Place,
}

/// A frame of the sample.
#[derive(Clone, Debug)]
struct Frame {
    file: PathBuf,
    bytes: Range<usize>,
    events: Range<usize>,
    /// File range of each record.
    records: Vec<Range<usize>>,
}

/// A small store, and what is in it.
pub struct Sample {
    /// Its disk.
    pub disk: SimulatedDisk,
    /// Its files, with how much of each means something.
    pub files: Vec<(PathBuf, usize)>,
    closed: bool,
    store: Names,
    events: Vec<RecordedEvent>,
    frames: Vec<Frame>,
    files_with_frames: Vec<PathBuf>,
}

fn options() -> StoreOptions {
    StoreOptions {
        // One thread and no timer that fires: the same each time.
        index_thread: false,
        scrub: None,
        sync_interval: Duration::MAX,
        index_run_bytes: 14 * 1024,
        cached_streams_max: 2,
        ..StoreOptions::default()
    }
}

fn given(number: usize) -> NewEvent<'static> {
    let data: Vec<u8> = (0..30 + number * 37 % 200).map(|i| (i * 7 + number) as u8).collect();
    NewEvent::new(if number.is_multiple_of(2) { "Even" } else { "Odd" })
        .data(data)
        .tag(format!("n:{number}"))
        .id(id_of(number))
}

fn id_of(number: usize) -> EventId {
    EventId::from_name(&format!("sample {number}"))
}

fn stream_of(number: usize) -> String {
    format!("s-{}", number % 5)
}

fn batch_of(events: Range<usize>) -> Batch<'static> {
    events.fold(Batch::default(), |batch, n| batch.and_to(stream_of(n)).event(given(n)))
}

impl Sample {
    /// As its owner closed it.
    #[must_use]
    pub fn closed() -> Sample {
        Sample::new(true, 24)
    }

    /// As a power cut left it that took everything not synced.
    #[must_use]
    pub fn cut() -> Sample {
        Sample::new(false, 24)
    }

    fn new(closed: bool, batches: usize) -> Sample {
        let disk = SimulatedDisk::new();
        let clock = Arc::new(SimulatedClock::default());
        let env = Env {
            disk: Arc::new(disk.clone()),
            clock: Arc::<SimulatedClock>::clone(&clock),
            entropy: Arc::new(SimulatedEntropy::new(11)),
        };
        let store = Store::open_with(&env, DIR, options()).expect("it opens");
        let segments = TopicOptions { segment_bytes_max: 64 * 1024, ..TopicOptions::default() };
        let topic = store.create_topic("topic", segments).expect("it is allowed");
        let mut count = 0;
        for i in 0..batches * 2 {
            if i == batches {
                clock.pass(ANOTHER_SEGMENT);
            }
            clock.pass(1000);
            let events = count..count + 1 + i % 3;
            count = events.end;
            topic.append(&batch_of(events)).wait().expect("it is allowed");
        }
        let events: Vec<_> =
            topic.read(&Read::all()).expect("it is whole").collect::<Result<_>>().expect("it is whole");
        assert_eq!(events.len(), count);
        let names = Names { id: store.id(), options: topic.options(), start: topic.start() };
        drop(topic);
        let disk = if closed {
            store.close().expect("nothing fails");
            disk.fork()
        } else {
            disk.cut(Survivors::Synced, 0)
        };
        let (mut files, mut frames, mut files_with_frames) = (Vec::new(), Vec::new(), Vec::new());
        for file in files_below(&disk, DIR.as_ref()) {
            let bytes = contents(&disk, &file);
            let mut used = bytes.len();
            if file.extension().is_some_and(|e| e == "seg") {
                used = read_frames(&file, &bytes, &mut frames);
                files_with_frames.push(file.clone());
            }
            files.push((file, used));
        }
        assert_eq!(frames.last().map(|f| f.events.end), Some(count), "all of it is in the files");
        assert_eq!(files_with_frames.len(), 2, "the first segment is sealed, the second is active");
        Sample { disk, files, closed, store: names, events, frames, files_with_frames }
    }

    /// How many bytes the files have.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.files.iter().map(|(_, used)| used).sum()
    }

    /// The file whose name ends so.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn file(&self, end: &str) -> &Path {
        let found = self.files.iter().find(|(path, _)| path.to_string_lossy().ends_with(end));
        &found.unwrap_or_else(|| panic!("no file `{end}` among {:?}", self.files)).0
    }

    /// The bytes of a file that matter most: heads and all of the short files.
    #[must_use]
    pub fn heads(&self, file: &Path) -> Vec<Range<usize>> {
        let used = self.files.iter().find(|(path, _)| path == file).map_or(0, |(_, used)| *used);
        if file.extension().is_some_and(|e| e == "seg") {
            let frames = self.frames.iter().filter(|f| f.file == file);
            let heads = frames.map(|f| f.bytes.start..f.bytes.start + FRAME_HEADER_LEN + 16);
            return std::iter::once(0..SEGMENT_HEADER_LEN).chain(heads).collect();
        }
        if file.extension().is_some_and(|e| e == "idx") {
            return std::iter::once(0..96).collect();
        }
        match file.file_name().and_then(|name| name.to_str()) {
            Some("mark") => vec![0..64, 512..576],
            Some("manifest") => std::iter::once(0..256).collect(),
            _ => std::iter::once(0..used).collect(),
        }
    }

    /// Does the damage to a copy and judges it.
    ///
    /// # Panics
    /// Where a promise is broken.
    pub fn judge(&self, file: &Path, damage: Damage, verifies: bool) -> Verdict {
        struct Tell<'a>(&'a Path, Damage, bool);
        impl Drop for Tell<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    eprintln!("{:?} of {}, closed {}", self.1, self.0.display(), self.2);
                }
            }
        }
        let _tell = Tell(file, damage, self.closed);
        let image = self.disk.fork();
        let touched = apply(&image, file, damage);
        let left =
            if matches!(damage, Damage::Flip(_)) { Vec::new() } else { contents_or_nothing(&image, file) };
        let store = match Store::open_with(&image.env(7), DIR, options()) {
            Ok(store) => store,
            Err(e) => match e.kind() {
                ErrorKind::Corrupt { .. } | ErrorKind::Incompatible { .. } => return Verdict::Refused,
                _ => panic!("it is refused for another reason: {e:?}"),
            },
        };
        let topic = store.topic("topic").expect("the topic is there");
        let mut case =
            Case { sample: self, topic, file, damage, touched, kept: self.events.len(), met: false };
        let verdict = case.dropped(&store, &left);
        case.names(&store);
        case.reads();
        case.look_ups();
        case.repeats();
        let last = (case.met, verdict);
        if verifies {
            self.verified(&store, &case);
        }
        match last {
            (_, Some(verdict)) => verdict,
            (true, None) => Verdict::Corrupt,
            (false, None) => Verdict::Harmless,
        }
    }

    /// Damage to what means something is found.
    fn verified(&self, store: &Store, case: &Case<'_>) {
        let mut findings: Vec<Finding> = Vec::new();
        let report = store
            .verify(true, &mut |_, _| {}, &mut |finding| findings.push(finding))
            .expect("it can be read");
        assert_eq!(report.findings, findings.len() as u64);
        let used = self.frames.iter().filter(|f| f.file == case.file && f.events.start < case.kept);
        let head =
            case.file.extension().is_some_and(|e| e == "seg") && case.touches(&(0..SEGMENT_HEADER_LEN));
        let harmed = used.filter(|f| case.touches(&f.bytes)).count() + usize::from(head);
        let lost = findings.iter().filter(|f| !f.derived).count();
        assert_eq!(harmed > 0, lost > 0, "{harmed} frames and heads are harmed, found: {findings:?}");
    }
}

/// One damaged copy, open.
struct Case<'a> {
    sample: &'a Sample,
    topic: Topic,
    file: &'a Path,
    damage: Damage,
    /// File ranges that changed.
    touched: Vec<Range<usize>>,
    /// So many events are left.
    kept: usize,
    /// Something was `Corrupt`.
    met: bool,
}

impl Case<'_> {
    fn touches(&self, bytes: &Range<usize>) -> bool {
        self.touched.iter().any(|t| t.start < bytes.end && bytes.start < t.end)
    }

    /// Whether all of a segment may be unreadable: it is too short to be mapped, or its header is not whole.
    fn is_lost(&self, file: &Path) -> bool {
        let whole = matches!(self.damage, Damage::Cut(_) | Damage::Delete);
        file == self.file && (whole || self.touches(&(0..SEGMENT_HEADER_LEN)))
    }

    fn frame(&self, event: usize) -> &Frame {
        let frames = &self.sample.frames;
        &frames[frames.partition_point(|f| f.events.end <= event)]
    }

    /// Whether a look-up of this event by its address may be `Corrupt`.
    fn record_is_harmed(&self, event: usize) -> bool {
        let frame = self.frame(event);
        let record = &frame.records[event - frame.events.start];
        frame.file == self.file && (self.is_lost(self.file) || self.touches(record))
    }

    /// Whether walking to this event may be `Corrupt`: the walk begins at the segment's start.
    fn way_is_harmed(&self, event: usize) -> bool {
        let frame = self.frame(event);
        let before = FRAMES_START as usize..frame.bytes.end;
        frame.file == self.file && (self.is_lost(self.file) || self.touches(&before))
    }

    /// What an answer is, where it is one; a `Corrupt` that may be is none.
    #[track_caller]
    fn answer<T>(&mut self, answer: Result<T>, may_be_corrupt: bool, what: &str) -> Option<T> {
        match answer {
            Ok(answer) => Some(answer),
            Err(e) if may_be_corrupt && matches!(e.kind(), ErrorKind::Corrupt { .. }) => {
                self.met = true;
                None
            }
            Err(e) => panic!("{what}: {e:?}"),
        }
    }

    /// Whether events at the end are gone, and whether they may be.
    fn dropped(&mut self, store: &Store, left: &[u8]) -> Option<Verdict> {
        let there = self.topic.high_watermark().records() as usize;
        if there == self.kept {
            return None;
        }
        assert!(there < self.kept, "there are more than were appended");
        assert!(!self.sample.closed, "{there} of {} are left of what was proven durable", self.kept);
        let gone: Vec<&Frame> = self.sample.frames.iter().filter(|f| f.events.start >= there).collect();
        let harmed = |f: &&Frame| f.file == self.file && self.touches(&f.bytes);
        assert!(gone.iter().all(harmed), "a batch is gone that was not touched");
        let first = gone.first().map_or(0, |f| f.bytes.start);
        assert_eq!(self.frame(there).events.start, there, "a batch is gone in part");
        self.kept = there;
        let torn: u64 = store.recovery().iter().map(|r| r.torn_bytes).sum();
        if torn > 0 {
            return Some(Verdict::Dropped);
        }
        assert!(
            !matches!(self.damage, Damage::Flip(_)) && left.iter().skip(first).all(|b| *b == 0),
            "a batch is gone, and that was not reported"
        );
        Some(Verdict::Vanished)
    }

    /// It is the same store with the same topic.
    fn names(&self, store: &Store) {
        let whole = &self.sample.store;
        assert_eq!(store.id(), whole.id, "the store's id");
        assert_eq!(self.topic.options(), whole.options, "the topic's options");
        assert_eq!(self.topic.start(), whole.start, "its start, with its incarnation");
        assert_eq!(
            self.topic.high_watermark().0[0].incarnation,
            whole.start.0[0].incarnation,
            "its incarnation"
        );
    }

    /// Reads everything in several ways.
    fn reads(&mut self) {
        let kept = self.kept;
        let events = &self.sample.events;
        let all: Vec<usize> = (0..kept).collect();
        let back: Vec<usize> = (0..kept).rev().collect();
        let of = |wanted: &dyn Fn(&RecordedEvent) -> bool| -> Vec<usize> {
            all.iter().copied().filter(|&i| wanted(&events[i])).collect()
        };
        let time = events[events.len() / 2 + 7].recorded_time;
        let early = events[9].recorded_time;
        let first = (events[5].revision, events[5].stream.clone());
        let reads = [
            (Read::all(), all.clone()),
            (Read::all().backward(), back),
            (Read::stream("s-1"), of(&|e| e.stream == "s-1")),
            (Read::stream("s-3").backward(), of(&|e| e.stream == "s-3").into_iter().rev().collect()),
            (Read::query(Query::types(["Odd"])), of(&|e| e.event_type == "Odd")),
            (Read::all().from(At::Recorded(time)), of(&|e| e.recorded_time >= time)),
            (Read::all().from(At::Recorded(early)).limit(3), {
                let mut found = of(&|e| e.recorded_time >= early);
                found.truncate(3);
                found
            }),
            (
                Read::stream(first.1.clone()).from(At::Revision(first.0)),
                of(&|e| e.stream == first.1 && e.revision >= first.0),
            ),
        ];
        for (read, expected) in reads {
            self.read(&read, &expected);
        }
    }

    fn read(&mut self, read: &Read, expected: &[usize]) {
        // A segment that a read comes by may be harmed in a place that it only walks over.
        let may = self.sample.files_with_frames.iter().any(|file| file == self.file);
        let topic = self.topic.clone();
        let Some(mut reader) = self.answer(topic.read(read), may, "beginning a read") else { return };
        for &i in expected {
            let next = reader.next_view().map(|view| {
                let view = view.unwrap_or_else(|| panic!("{read:?} ends before {i}"));
                assert_eq!(
                    view,
                    self.sample.events[i].view(),
                    "{read:?} gives another event in place of {i}"
                );
            });
            if self.answer(next, may, "reading").is_none() {
                let before_harm =
                    !self.way_is_harmed(i) && read.direction == annals_model::Direction::Forward;
                let scans_only = read.selection == annals_model::Selection::All && read.query.is_all();
                assert!(!(before_harm && scans_only), "{read:?} fails at {i}, which lies before the damage");
                return;
            }
        }
        let next = reader.next_view().map(|view| assert!(view.is_none(), "{read:?} goes on: {view:?}"));
        _ = self.answer(next, may, "ending a read");
    }

    /// Asks again where the index was found damaged, which has it rebuilt.
    #[track_caller]
    fn settled<T>(&mut self, harmed: bool, what: &str, ask: impl Fn(&Topic) -> Result<T>) -> Option<T> {
        let topic = self.topic.clone();
        let unavailable = |e: &Error| e.kind() == &ErrorKind::Unavailable;
        let answer = match ask(&topic) {
            Err(e) if unavailable(&e) => ask(&topic),
            answer => answer,
        };
        self.answer(answer, harmed, what)
    }

    fn look_ups(&mut self) {
        let mut last: BTreeMap<String, usize> = BTreeMap::new();
        for i in 0..self.sample.events.len() {
            let expected = Some(&self.sample.events[i]).filter(|_| i < self.kept);
            let id = id_of(i);
            let harmed = self.record_is_harmed(i);
            if let Some(found) = self.settled(harmed, "a look-up by id", |topic| topic.get_by_id(id)) {
                assert_eq!(found.as_ref(), expected, "by id");
            }
            let place = RecordPlace { partition: 0, position: i as u64 };
            let harmed = self.way_is_harmed(i);
            if let Some(found) = self.settled(harmed, "a look-up by position", |topic| topic.get(place)) {
                assert_eq!(found.as_ref(), expected, "by position");
            }
            if i < self.kept {
                last.insert(stream_of(i), i);
            }
        }
        for (stream, i) in last {
            let harmed = self.record_is_harmed(i);
            let revision = self.sample.events[i].revision;
            if let Some(found) = self.settled(harmed, "a revision", |topic| topic.stream_revision(&stream)) {
                assert_eq!(found, Some(revision), "the revision of {stream}");
            }
            // Appends decide by the same.
            let batch =
                Batch::to(stream.clone()).expect(ExpectedRevision::NoStream).event(NewEvent::new("New"));
            let refused = self.settled(harmed, "an append", |topic| match topic.append(&batch).wait() {
                Err(e) => match e.kind() {
                    ErrorKind::Conflict { actual, .. } => Ok(*actual),
                    _ => Err(e),
                },
                Ok(appended) => panic!("`{stream}` is taken for new: {appended:?}"),
            });
            if let Some(actual) = refused {
                assert_eq!(actual, Some(revision), "the revision of {stream} in a conflict");
            }
        }
        let nobody =
            self.settled(false, "a look-up of nothing", |topic| topic.get_by_id(EventId::from_name("x")));
        assert_eq!(nobody, Some(None));
        let nowhere = self.settled(false, "a look-up of nothing", |topic| topic.stream_revision("s-9"));
        assert_eq!(nowhere, Some(None));
    }

    /// A batch appended again is found.
    fn repeats(&mut self) {
        let frames = &self.sample.frames;
        let harmed = frames.iter().position(|f| f.file == self.file && self.touches(&f.bytes));
        let some = [Some(0), Some(frames.len() / 2), Some(frames.len() - 1), harmed];
        for i in some.into_iter().flatten() {
            let events = frames[i].events.clone();
            if events.start >= self.kept {
                continue;
            }
            let harmed = self.way_is_harmed(events.start) || events.clone().any(|e| self.record_is_harmed(e));
            let again =
                self.settled(harmed, "a repeat", |topic| topic.append(&batch_of(events.clone())).wait());
            if let Some(again) = again {
                assert!(again.repeated, "a batch is taken for new");
                assert_eq!(again.positions, events.start as u64..events.end as u64);
            }
        }
    }
}

/// Does the damage; gives what it changed.
///
/// # Panics
/// Where there is no such file.
pub fn apply(disk: &SimulatedDisk, path: &Path, damage: Damage) -> Vec<Range<usize>> {
    if let Damage::Flip(bit) = damage {
        disk.flip(path, bit);
        return std::iter::once(bit / 8..bit / 8 + 1).collect();
    }
    let bytes = contents(disk, path);
    if damage == Damage::Delete {
        disk.remove(path).expect("it is there");
        return std::iter::once(0..bytes.len()).collect();
    }
    let file = disk.open(path, Access::ReadWrite).expect("it is there");
    let sector = |i: usize| i * SECTOR..((i + 1) * SECTOR).min(bytes.len());
    match damage {
        Damage::Cut(len) => {
            file.set_len(len as u64).expect("it can be cut");
            std::iter::once(len..bytes.len()).collect()
        }
        Damage::Zero(i) => {
            let range = sector(i);
            file.write_all_at(&vec![0; range.len()], range.start as u64).expect("it can be written");
            changed(&bytes, disk, path)
        }
        Damage::Swap(i, k) => {
            let (one, other) = (sector(i), sector(k));
            let len = one.len().min(other.len());
            file.write_all_at(&bytes[one.start..one.start + len], other.start as u64)
                .expect("it can be written");
            file.write_all_at(&bytes[other.start..other.start + len], one.start as u64)
                .expect("it can be written");
            changed(&bytes, disk, path)
        }
        Damage::Flip(_) | Damage::Delete => unreachable!("done above"),
    }
}

/// The ranges in which a file differs from what it was.
fn changed(before: &[u8], disk: &SimulatedDisk, path: &Path) -> Vec<Range<usize>> {
    let after = contents(disk, path);
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for i in (0..before.len()).filter(|&i| before[i] != after[i]) {
        match ranges.last_mut() {
            Some(last) if last.end == i => last.end = i + 1,
            _ => ranges.push(i..i + 1),
        }
    }
    ranges
}

fn contents_or_nothing(disk: &SimulatedDisk, path: &Path) -> Vec<u8> {
    match disk.kind(path) {
        Ok(Some(_)) => contents(disk, path),
        _ => Vec::new(),
    }
}

/// Adds a segment's frames; gives their end.
fn read_frames(file: &Path, bytes: &[u8], frames: &mut Vec<Frame>) -> usize {
    let header = SegmentHeader::decode(bytes).expect("it is whole");
    let context =
        RecordContext { salt: header.salt, base_position: header.base_position, base_time: header.base_time };
    let mut at = FRAMES_START as usize;
    while let Some(frame) = bytes.get(at..).and_then(|b| FrameHeader::decode(b, header.salt)) {
        let end = at + frame.frame_len() as usize;
        let mut records = Vec::new();
        let mut record = at + FRAME_HEADER_LEN;
        while record < end {
            let len = context.peek_len(&bytes[record..]).expect("it is whole");
            records.push(record..record + len);
            record += len;
        }
        let events = frame.first_position as usize..frame.end_position() as usize;
        frames.push(Frame { file: file.to_owned(), bytes: at..end, events, records });
        at = end;
    }
    at
}

/// Every bit of these ranges.
pub fn bits(ranges: &[Range<usize>]) -> impl Iterator<Item = usize> + '_ {
    ranges.iter().flat_map(|range| range.start * 8..range.end * 8)
}

/// So many bits of a file by chance.
#[must_use]
pub fn some_bits(seed: u64, bytes: usize, count: usize) -> Vec<usize> {
    let mut random = Random::new(seed);
    (0..if bytes == 0 { 0 } else { count }).map(|_| random.below(bytes as u64 * 8) as usize).collect()
}
