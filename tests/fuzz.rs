//! What a fuzzer calls: each takes any bytes, asks something of them, and panics where an answer is wrong.
//!
//! # Invariants
//! - The same bytes do the same.
//! - Where bytes are changed and no checksum is made to fit, what is served is what was stored. Where one is (an attacker
//!   who rewrites files with fresh checksums is no part of the fault model), nothing panics all the same.
//!
//! Elsewhere: the fuzz targets (`fuzz/`), which only hand bytes over; the test that replays their corpora (`fuzzed.rs`);
//! what the command reads (`crates/cli/src/fuzz.rs`).

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use annals_log::env::{Access, Disk, MemoryDisk};
use annals_log::format::{
    ALIGN, FRAME_HEADER_LEN, FRAMES_START, FrameHeader, RECORD_HEADER_LEN, RecordContext, SEGMENT_HEADER_LEN,
    SegmentHeader, frame_is_whole, record_len,
};
use annals_log::manifest::{MANIFEST_ENTRY_LEN, MANIFEST_NAME, Manifest};
use annals_log::mark::{MARK_NAME, MARK_SLOT_DISTANCE, MARK_SLOT_LEN};
use annals_log::{Log, LogOptions, Scratch};
use annals_model::{Batch, ErrorKind, ExpectedRevision, NewEvent, Query, Read, RecordedEvent, Timestamp};
use annals_store::index::layout::{ENTRIES_PER_PAGE, PAGE, PAGE_ROOM};
use annals_store::{StoreOptions, Topic};

use crate::{
    DIR, Random, TestClock, against_model, append, contents, copy_disk, env_on, events, files_below, open,
    open_topic, quiet, small_segments,
};

/// Takes any bytes, and panics where an answer is wrong.
pub type Target = fn(&[u8]);

/// All targets of this crate, by name.
pub const TARGETS: [(&str, Target); 5] = [
    ("frame", frame),
    ("recovery", recovery),
    ("manifest", manifest),
    ("index", index),
    ("append_model", append_model),
];

/// The decoders of segments, frames and records: what they take they write again in the same way, and no changed byte
/// passes.
///
/// # Panics
/// Where that is not so.
pub fn frame(bytes: &[u8]) {
    let mut tape = Random::of_bytes(bytes);
    let context = RecordContext {
        salt: tape.next() | 1,
        base_position: tape.below(1 << 16),
        base_time: Timestamp::from_micros(tape.next() as i64 >> 8),
    };
    let address = tape.below(1 << 16) * ALIGN as u64;
    let rest = bytes.get(24..).unwrap_or_default();
    if let Ok(header) = SegmentHeader::decode(rest) {
        assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
    }
    if let Some(header) = FrameHeader::decode(rest, context.salt) {
        assert_eq!(header.encode(context.salt), rest[..FRAME_HEADER_LEN]);
        _ = frame_is_whole(&header, rest, address, &context);
    }
    _ = context.decode(rest, address);
    let header = FrameHeader {
        body_len: tape.next() as u32,
        first_position: tape.next(),
        recorded_time: Timestamp::from_micros(tape.next() as i64),
        synced_end: tape.next(),
        count: tape.next() as u32,
        records_sum: tape.next() as u32,
    };
    if let Some(read) = FrameHeader::decode(&header.encode(context.salt), context.salt) {
        assert_eq!(read, header);
        _ = frame_is_whole(&read, rest, address, &context);
    }

    // A frame as it should be, of records of what is left, and then with one byte changed.
    let mut frame = vec![0; FRAME_HEADER_LEN];
    let (first, time) = (context.base_position, context.base_time);
    let mut header = FrameHeader { first_position: first, recorded_time: time, count: 0, ..header };
    header.records_sum = 0;
    for body in rest.chunks(1 + tape.below(200) as usize).take(20) {
        let (start, position) = (frame.len(), first + u64::from(header.count));
        frame.extend_from_slice(&[0; RECORD_HEADER_LEN]);
        frame.extend_from_slice(body);
        let crc = context.seal_record(&mut frame, start, address + start as u64, position, time);
        header.records_sum = header.records_sum.wrapping_add(crc);
        header.count += 1;
        let (record, _) = context.decode(&frame[start..], address + start as u64).expect("it was just made");
        assert_eq!((record.position, record.recorded_time, record.body), (position, time, body));
    }
    if header.count == 0 {
        return;
    }
    header.body_len = (frame.len() - FRAME_HEADER_LEN) as u32;
    frame[..FRAME_HEADER_LEN].copy_from_slice(&header.encode(context.salt));
    let whole = |frame: &[u8]| {
        let header = FrameHeader::decode(frame, context.salt);
        header.is_some_and(|header| frame_is_whole(&header, frame, address, &context))
    };
    assert!(whole(&frame));
    let at = tape.below(frame.len() as u64) as usize;
    frame[at] ^= 1 + tape.below(255) as u8;
    assert!(!whole(&frame), "byte {at} was changed");
}

/// Opening a log whose active segment, mark and manifest hold what the bytes make of them.
///
/// # Panics
/// Where opening does, or where it serves what is not whole or takes no appends.
pub fn recovery(bytes: &[u8]) {
    let (image, original) = log_image();
    let mut tape = Random::of_bytes(bytes);
    let mut files = image.clone();
    let active = files.iter().map(|(name, _)| name).filter(|n| n.ends_with(".seg")).max().cloned();
    let active = active.expect("there is one");
    let mut fits = false;
    match tape.below(4) {
        // Any bytes for frames.
        0 => {
            let frames = bytes.get(1..).unwrap_or_default();
            let segment = file(&mut files, &active);
            segment.truncate(FRAMES_START as usize);
            segment.extend_from_slice(frames);
        }
        1 => edit(file(&mut files, &active), &mut tape),
        // Frames with right checksums that say what they like.
        2 => {
            fits = true;
            let segment = file(&mut files, &active);
            forge_frames(segment, &mut tape);
        }
        _ => {
            for name in [active.as_str(), MARK_NAME, MANIFEST_NAME] {
                if tape.one_in(2) {
                    edit(file(&mut files, name), &mut tape);
                }
            }
            if tape.one_in(2) {
                fits = true;
                let partition = partition_of(file(&mut files, MANIFEST_NAME));
                seal_mark(file(&mut files, MARK_NAME), partition);
                seal_manifest(file(&mut files, MANIFEST_NAME));
            }
        }
    }
    open_and_use(&files, (!fits).then_some(original));
}

/// A manifest of any bytes, as they are and with checksums that fit; and a log that has it.
///
/// # Panics
/// Where reading it does, or opening the log.
pub fn manifest(bytes: &[u8]) {
    let (image, original) = log_image();
    let mut tape = Random::of_bytes(bytes);
    let mut made = match tape.below(3) {
        0 => bytes.get(1..).unwrap_or_default().to_vec(),
        _ => {
            let mut made =
                image.iter().find(|(name, _)| name == MANIFEST_NAME).expect("it is there").1.clone();
            edit(&mut made, &mut tape);
            made
        }
    };
    let mut files = image.clone();
    if let Ok(read) = Manifest::decode(&made) {
        assert!(!read.segments.is_empty());
    }
    *file(&mut files, MANIFEST_NAME) = made.clone();
    open_and_use(&files, Some(original));
    seal_manifest(&mut made);
    if let Ok(read) = Manifest::decode(&made) {
        assert!(!read.segments.is_empty());
    }
    *file(&mut files, MANIFEST_NAME) = made;
    open_and_use(&files, None);
}

/// A store whose index files hold what the bytes make of them: answers are right, or `Unavailable`.
///
/// # Panics
/// Where they are not.
pub fn index(bytes: &[u8]) {
    let (image, expected) = store_image();
    let mut tape = Random::of_bytes(bytes);
    let disk = copy_disk(image, DIR.as_ref());
    let indexes: Vec<PathBuf> = files_below(&disk, DIR.as_ref())
        .into_iter()
        .filter(|p| p.extension().is_some_and(|e| e == "idx"))
        .collect();
    assert!(indexes.len() > 1, "the image has index files");
    let fits = tape.one_in(3);
    for _ in 0..1 + tape.below(3) {
        let path = tape.pick(&indexes).as_path();
        let mut made = contents(&disk, path);
        if tape.one_in(8) {
            made = contents(&disk, tape.pick(&indexes).as_path());
        }
        edit(&mut made, &mut tape);
        if fits {
            seal_index(&mut made);
        }
        replace(&disk, path, &made);
    }
    let env = env_on(Arc::new(disk), TestClock::new(), 2);
    let store = open(&env, store_options()).expect("an index is no reason not to open");
    let topic = store.topic("topic").expect("there");
    ask(&topic, expected, !fits);
    drop(topic);
    // Writing what is missing may fail; it does not panic.
    _ = store.close();
}

/// What is asked of a topic, and what a list of events answers.
///
/// # Panics
/// Where the two differ.
pub fn append_model(bytes: &[u8]) {
    let mut tape = Random::of_bytes(bytes);
    let partitions = *tape.pick(&[1, 3]);
    against_model::run(tape, 0, partitions, 200);
}

/// Inputs to begin with, for each target: what is really stored, and some choices of each kind.
#[must_use]
pub fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let mut random = Random::new(target.len() as u64);
    let mut chosen = |first: u8, len: u64| {
        let mut bytes = vec![first];
        bytes.extend((0..len).map(|_| random.next() as u8));
        bytes
    };
    let (files, _) = log_image();
    let of = |name: &str| files.iter().find(|(n, _)| n == name).expect("it is there").1.as_slice();
    let segment = files.iter().map(|(n, _)| n).filter(|n| n.ends_with(".seg")).max().expect("there is one");
    let (header, frames) = of(segment).split_at(FRAMES_START as usize);
    let mut seeds: Vec<(String, Vec<u8>)> = match target {
        "frame" => {
            let behind = |bytes: &[u8]| [&[7; 24], bytes].concat();
            vec![
                ("segment".to_owned(), behind(&header[..SEGMENT_HEADER_LEN])),
                ("frames".to_owned(), behind(&frames[..frames.len().min(600)])),
            ]
        }
        "recovery" => vec![("frames".to_owned(), [&[0], frames].concat())],
        "manifest" => vec![("manifest".to_owned(), [&[0], of(MANIFEST_NAME)].concat())],
        _ => Vec::new(),
    };
    let len = if target == "append_model" { 700 } else { 60 };
    seeds.extend((0..6).map(|first| (format!("chosen-{first}"), chosen(first, len))));
    seeds
}

// ---- images

type Files = Vec<(String, Vec<u8>)>;

fn log_options() -> LogOptions {
    LogOptions { segment_bytes_max: 8192, sync_interval: Duration::from_secs(3600), ..LogOptions::default() }
}

/// The files of a log of two segments, closed, and what is in it.
fn log_image() -> (&'static Files, &'static [Vec<u8>]) {
    static IMAGE: OnceLock<(Files, Vec<Vec<u8>>)> = OnceLock::new();
    let (files, bodies) = IMAGE.get_or_init(|| {
        let disk = MemoryDisk::new();
        disk.create_dir(DIR.as_ref()).expect("made");
        let env = env_on(Arc::new(disk.clone()), TestClock::new(), 5);
        let (log, _) = Log::open(&env, DIR.as_ref(), log_options()).expect("opened");
        let mut bodies = Vec::new();
        for number in 0..24u64 {
            let body = vec![number as u8; 40 + 37 * number as usize % 300];
            let stage =
                log.stage(1, record_len(body.len()), |f| f.record(|out| out.extend_from_slice(&body)));
            let (staged, _) = stage.expect("staged");
            log.commit(staged.end_position, annals_model::Durability::Synced).wait().expect("durable");
            bodies.push(body);
        }
        assert!(log.segments().len() > 1);
        log.close().expect("closed");
        drop(log);
        let names = disk.list(DIR.as_ref()).expect("listed");
        let files =
            names.into_iter().map(|n| (n.clone(), contents(&disk, &Path::new(DIR).join(n)))).collect();
        (files, bodies)
    });
    (files, bodies)
}

fn file<'f>(files: &'f mut Files, name: &str) -> &'f mut Vec<u8> {
    &mut files.iter_mut().find(|(n, _)| n == name).expect("it is there").1
}

fn store_options() -> StoreOptions {
    StoreOptions { index_run_bytes: 2000, index_thread: false, ..quiet() }
}

/// A store with index files, closed, and its events.
fn store_image() -> (&'static MemoryDisk, &'static [RecordedEvent]) {
    static IMAGE: OnceLock<(MemoryDisk, Vec<RecordedEvent>)> = OnceLock::new();
    let (disk, expected) = IMAGE.get_or_init(|| {
        let disk = MemoryDisk::new();
        let env = env_on(Arc::new(disk.clone()), TestClock::new(), 2);
        let (store, topic) = open_topic(&env, store_options(), small_segments()).expect("opened");
        for number in 0..70 {
            append(&topic, &format!("s-{}", number % 5), number, 60).expect("appended");
        }
        let all = events(&topic, &Read::all()).expect("whole");
        drop(topic);
        store.close().expect("closed");
        (disk, all)
    });
    (disk, expected)
}

fn replace(disk: &MemoryDisk, path: &Path, bytes: &[u8]) {
    let file = disk.open(path, Access::ReadWrite).expect("it is there");
    file.set_len(0).expect("memory does not fail");
    file.write_all_at(bytes, 0).expect("memory does not fail");
}

// ---- changes

/// Changes bytes as damage does, and as a clever hand does.
/// Changes bytes as the tape says: bits, numbers, lengths, pieces.
pub fn edit(bytes: &mut Vec<u8>, tape: &mut Random) {
    for _ in 0..1 + tape.below(4) {
        if tape.is_at_end() {
            return;
        }
        let len = bytes.len().max(1) as u64;
        let (kind, at) = (tape.below(8), tape.below(len) as usize);
        let to = (at + tape.below(256) as usize).min(bytes.len());
        match kind {
            0 => bytes.iter_mut().skip(at).take(1).for_each(|b| *b ^= 1 << tape.below(8)),
            1 => bytes[at.min(to)..to].fill(tape.below(256) as u8),
            2 => bytes.truncate(at),
            3 => bytes.extend((0..to - at.min(to)).map(|_| tape.below(256) as u8)),
            4 | 5 => {
                // A number becomes small, large, or a little other.
                let at = at / 8 * 8;
                if let Some(place) = bytes.get_mut(at..at + 8) {
                    let old = u64::from_le_bytes(place.try_into().expect("eight bytes"));
                    let new = match tape.below(6) {
                        0 => tape.next(),
                        1 => old.wrapping_add(tape.below(256)),
                        2 => old.wrapping_sub(tape.below(256)),
                        3 => u64::MAX >> tape.below(64),
                        4 => 1 << tape.below(64),
                        _ => 0,
                    };
                    place.copy_from_slice(&new.to_le_bytes());
                }
            }
            6 => {
                // Something moves to where something else was.
                let piece = bytes[at.min(to)..to].to_vec();
                let there = tape.below(len) as usize / 8 * 8;
                for (place, byte) in bytes.iter_mut().skip(there).zip(piece) {
                    *place = byte;
                }
            }
            _ => {
                for place in bytes.iter_mut().skip(at).take(8) {
                    *place = tape.below(256) as u8;
                }
            }
        }
    }
}

/// Puts frames with right checksums, and with headers and records that the tape makes up, behind some of those there.
fn forge_frames(segment: &mut Vec<u8>, tape: &mut Random) {
    let header = SegmentHeader::decode(&segment[..SEGMENT_HEADER_LEN]).expect("the image is whole");
    let context =
        RecordContext { salt: header.salt, base_position: header.base_position, base_time: header.base_time };
    let (mut at, mut position, mut time) = (FRAMES_START as usize, header.base_position, header.base_time);
    for _ in 0..tape.below(6) {
        let Some(frame) = FrameHeader::decode(&segment[at.min(segment.len())..], header.salt) else { break };
        at += frame.frame_len() as usize;
        (position, time) = (frame.end_position(), frame.recorded_time);
    }
    segment.truncate(at);
    while !tape.is_at_end() && segment.len() < 32 * 1024 {
        let start = segment.len();
        let mut about = |number: u64| match tape.below(8) {
            0 => number.wrapping_add(tape.below(256)),
            1 => number.wrapping_sub(tape.below(256)),
            2 => u64::MAX >> tape.below(64),
            _ => number,
        };
        let made = FrameHeader {
            body_len: 0,
            first_position: about(position),
            recorded_time: Timestamp::from_micros(about(time.as_micros() as u64) as i64),
            synced_end: about(position),
            count: 0,
            records_sum: 0,
        };
        let (count, body_len) = (about(1), about(0));
        segment.extend_from_slice(&[0; FRAME_HEADER_LEN]);
        let mut made = made;
        for i in 0..1 + tape.below(3) {
            let at = segment.len();
            segment.extend_from_slice(&[0; RECORD_HEADER_LEN]);
            segment.extend((0..tape.below(64)).map(|n| n as u8));
            let place = position.saturating_add(i).clamp(header.base_position, header.base_position + 0xffff);
            let crc = context.seal_record(
                segment,
                at,
                header.base_address + at as u64,
                place,
                time.max(header.base_time),
            );
            made.records_sum = made.records_sum.wrapping_add(crc);
            made.count += 1;
        }
        made.count = made.count.wrapping_add(count as u32).wrapping_sub(1);
        made.body_len =
            ((segment.len() - start - FRAME_HEADER_LEN) as u32).wrapping_add(body_len as u32 & !7);
        segment[start..start + FRAME_HEADER_LEN].copy_from_slice(&made.encode(header.salt));
        position = position.saturating_add(u64::from(made.count));
        if tape.one_in(4) {
            segment.extend(std::iter::repeat_n(0, 8 * tape.below(80) as usize));
        }
    }
}

fn crc_from(start: u32, bytes: &[u8]) -> [u8; 4] {
    let mut crc = crc32fast::Hasher::new_with_initial(start);
    crc.update(bytes);
    crc.finalize().to_le_bytes()
}

/// What a partition's checksums begin with, by its manifest.
#[must_use]
pub fn partition_of(manifest: &[u8]) -> u32 {
    crc32fast::hash(manifest.get(24..40).unwrap_or_default())
}

/// Gives the slots of a mark the checksums that their bytes ask for.
pub fn seal_mark(mark: &mut [u8], partition: u32) {
    for slot in mark.chunks_mut(MARK_SLOT_DISTANCE as usize) {
        if let Some(slot) = slot.get_mut(..MARK_SLOT_LEN) {
            let crc = crc_from(partition, &slot[8..]);
            slot[4..8].copy_from_slice(&crc);
        }
    }
}

/// The same for the header and the entries of a manifest.
pub fn seal_manifest(manifest: &mut [u8]) {
    let partition = partition_of(manifest);
    for (i, entry) in manifest.chunks_exact_mut(MANIFEST_ENTRY_LEN).enumerate() {
        if i == 0 {
            entry[20..24].fill(0);
            let crc = crc_from(0, entry);
            entry[20..24].copy_from_slice(&crc);
        } else if entry.iter().any(|b| *b != 0) {
            let crc = crc_from(partition, &entry[4..]);
            entry[..4].copy_from_slice(&crc);
        }
    }
}

/// The same for the pages of an index file.
fn seal_index(bytes: &mut [u8]) {
    let Some(header) = bytes.get_mut(..PAGE) else { return };
    let crc = crc_from(0, &header[..PAGE_ROOM]);
    header[PAGE_ROOM..].copy_from_slice(&crc);
    let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    let salt = number(20) as u32;
    let (postings, table) =
        (number(80).div_ceil(PAGE_ROOM as u64), number(64).div_ceil(ENTRIES_PER_PAGE as u64));
    for (i, page) in (0..).zip(bytes[PAGE..].chunks_exact_mut(PAGE)) {
        let (section, number) = match i {
            i if i < postings => (0, i),
            i if i < postings.saturating_add(table) => (1, i - postings),
            i => (2, i - postings - table),
        };
        let crc = crc_from(
            salt.wrapping_add((number as u32).wrapping_mul(4)).wrapping_add(section),
            &page[..PAGE_ROOM],
        );
        page[PAGE_ROOM..].copy_from_slice(&crc);
    }
}

// ---- questions

/// Opens a log of these files, to read and to write; where it opens, reads all, appends, and opens it again. `original`
/// are the bodies of which it may serve a beginning and nothing else.
fn open_and_use(files: &Files, original: Option<&[Vec<u8>]>) {
    let disk = MemoryDisk::new();
    disk.create_dir(DIR.as_ref()).expect("made");
    for (name, bytes) in files {
        let file = disk.open(&Path::new(DIR).join(name), Access::CreateNew).expect("made");
        file.write_all_at(bytes, 0).expect("memory does not fail");
    }
    let env = env_on(Arc::new(disk.clone()), TestClock::new(), 6);
    if let Ok(follower) = Log::follow(&env, DIR.as_ref(), log_options()) {
        read_all(&disk, &follower, original);
        _ = follower.refresh();
        _ = follower.unproven_bytes();
    }
    let Ok((log, _)) = Log::open(&env, DIR.as_ref(), log_options()) else { return };
    let before = read_all(&disk, &log, original);
    let watermark = log.watermark();
    let (progress, fault) = (&mut |_| std::ops::ControlFlow::Continue(()), &mut |_| {});
    _ = log.verify(watermark, &mut annals_log::Check { progress, fault });
    _ = log.position_at_time(Timestamp::EPOCH, watermark);
    let appended = log.stage(1, record_len(3), |f| f.record(|out| out.extend_from_slice(b"new")));
    let appended = appended.is_ok_and(|(staged, address)| {
        let durable = log.commit(staged.end_position, annals_model::Durability::Synced).wait().is_ok();
        let mut scratch = Scratch::default();
        assert!(!durable || log.record_at(address, &mut scratch).expect("just appended").body == b"new");
        durable
    });
    let closed = log.close();
    drop(log);
    if original.is_none() || closed.is_err() {
        return;
    }
    let (log, recovery) = Log::open(&env, DIR.as_ref(), log_options()).expect("what was opened opens again");
    assert_eq!((recovery.records_kept, recovery.torn_bytes), (0, 0), "it was closed");
    let after = read_all(&disk, &log, None);
    if let (Some(mut before), Some(after)) = (before, after) {
        before.extend(appended.then(|| b"new".to_vec()));
        assert_eq!(after, before);
    }
}

/// The bodies of all records; `None` where some are damaged. Each that is given is whole in its file.
fn read_all(disk: &MemoryDisk, log: &Log, original: Option<&[Vec<u8>]>) -> Option<Vec<Vec<u8>>> {
    let segments = log.segments();
    let mut scan = log.scan(log.start(), log.watermark()).ok()?;
    let mut bodies = Vec::new();
    let mut last = None;
    loop {
        let record = match scan.next() {
            Ok(Some(record)) => record,
            Ok(None) => return Some(bodies),
            Err(e) => {
                assert!(matches!(e.kind(), ErrorKind::Corrupt { .. }), "{e:?}");
                return None;
            }
        };
        assert!(last.is_none_or(|last| last < record.position), "positions ascend");
        last = Some(record.position);
        // Those of a forged manifest may overlap.
        let whole = segments.iter().any(|segment| {
            let bytes = contents(disk, &segment.path);
            let header = bytes.get(..SEGMENT_HEADER_LEN).and_then(|b| SegmentHeader::decode(b).ok());
            let offset = record.address.checked_sub(segment.base_address);
            let Some(offset) = offset.filter(|at| *at < bytes.len() as u64) else { return false };
            // Where the header is damaged, what is behind it is read by what the manifest says, which is not known here.
            let Some(header) = header else { return true };
            let (base_position, base_time) = (segment.base_position, header.base_time);
            let context = RecordContext { salt: segment.salt, base_position, base_time };
            let found = bytes.get(offset as usize..).and_then(|b| context.decode(b, record.address));
            found.is_some_and(|(found, _)| found == record)
        });
        assert!(whole, "what is served at {} is not in its file", record.address);
        if let Some(original) = original {
            assert_eq!(Some(record.body), original.get(record.position as usize).map(Vec::as_slice));
        }
        bodies.push(record.body.to_vec());
    }
}

/// Asks a topic what its index answers. With `exact` answers are right or `Unavailable`; otherwise they may be missing.
fn ask(topic: &Topic, expected: &[RecordedEvent], exact: bool) {
    let of = |stream: &str| expected.iter().filter(|e| e.stream == stream).cloned().collect::<Vec<_>>();
    for read in [Read::stream("s-3"), Read::stream("s-1").backward(), Read::query(Query::tags(["n:33"]))] {
        let Ok(found) = events(topic, &read) else { continue };
        let right = |e: &RecordedEvent| expected.get(e.position as usize) == Some(e);
        assert!(found.iter().all(right));
        if exact {
            let all = match &read {
                read if *read == Read::stream("s-3") => of("s-3"),
                read if *read == Read::stream("s-1").backward() => of("s-1").into_iter().rev().collect(),
                _ => vec![expected[33].clone()],
            };
            assert_eq!(found, all, "{read:?}");
        }
    }
    for event in expected.iter().step_by(9) {
        match topic.get_by_id(event.id) {
            Ok(found) if exact => assert_eq!(found.as_ref(), Some(event)),
            Ok(Some(found)) => assert_eq!(found, *event),
            _ => {}
        }
        let revision = topic.stream_revision(&event.stream);
        if exact && let Ok(revision) = revision {
            assert_eq!(revision, of(&event.stream).last().map(|e| e.revision));
        }
    }
    if let Ok(streams) = topic.streams("s-") {
        let names: Vec<_> = streams.map_while(|s| s.ok()).map(|s| s.name).collect();
        assert!(names.len() <= 5);
    }
    // A wrong "not there" would admit a second copy, or a second beginning.
    if exact {
        if let Ok(appended) = append(topic, "s-2", 12, 60) {
            assert!(appended.repeated, "{appended:?}");
            assert_eq!(appended.positions, 12..13);
        }
        let begin = Batch::to("s-4").expect(ExpectedRevision::NoStream).event(NewEvent::new("Begun"));
        let begun = topic.append(&begin).wait();
        assert!(begun.is_err(), "{begun:?}");
    } else {
        _ = append(topic, "s-2", 12, 60);
        _ = append(topic, "s-2", 1000, 60);
    }
}
