//! Bytes that are whole, but belong to another history or another file: stale sectors and copies put back.

use std::ops::ControlFlow;
use std::path::Path;

use annals_log::Check;
use annals_log::env::{Disk, Env};
use annals_log::format::{FRAMES_START, FrameHeader, SegmentHeader, record_len};
use annals_log::simulated::{SimulatedDisk, Survivors};
use annals_log::{Log, LogOptions};
use annals_model::{Batch, Durability, ErrorKind, NewEvent, Result};
use annals_tests::contents;

use super::cuts::at_every_call;
use super::{PARTITION, all, open, patch, put};

const DIR: &str = "/log";

fn options() -> LogOptions {
    LogOptions { durability: Durability::Buffered, segment_bytes_max: 1 << 20, ..LogOptions::default() }
}

fn open_log(env: &Env, dir: &str) -> Log {
    if env.disk.kind(dir.as_ref()).expect("it can be looked at").is_none() {
        env.disk.create_dir(dir.as_ref()).expect("its parent is there");
    }
    Log::open(env, dir.as_ref(), options()).expect("it opens").0
}

fn append(log: &Log, bodies: &[Vec<u8>]) {
    let len = bodies.iter().map(|body| record_len(body.len())).sum();
    let stage = log.stage(bodies.len() as u32, len, |frame| {
        for body in bodies {
            frame.record(|out| out.extend_from_slice(body));
        }
    });
    let (staged, ()) = stage.expect("there is room");
    log.commit(staged.end_position, Durability::Buffered).wait().expect("nothing fails");
}

fn bodies(log: &Log) -> Result<Vec<Vec<u8>>> {
    let mut scan = log.scan(0, log.watermark())?;
    let mut found = Vec::new();
    while let Some(record) = scan.next()? {
        assert_eq!(record.position, found.len() as u64, "positions follow each other");
        found.push(record.body.to_vec());
    }
    Ok(found)
}

/// What the disk holds after a process that appended these batches, each with one write, was killed. All histories of the
/// same seed begin alike.
fn killed(batches: &[&[Vec<u8>]]) -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    let log = open_log(&disk.env(3), DIR);
    for batch in batches {
        append(&log, batch);
    }
    let image = disk.fork();
    drop(log);
    image
}

fn segment(dir: &str, number: u64) -> std::path::PathBuf {
    Path::new(dir).join(format!("{number:016}.seg"))
}

fn body(byte: u8, len: usize) -> Vec<u8> {
    vec![byte; len]
}

pub(crate) fn half_of_another_batch_is_not_taken() {
    let one = killed(&[&[body(1, 480), body(2, 480)]]);
    let other = killed(&[&[body(3, 480), body(4, 480)]]);
    let at = FRAMES_START as usize + 48 + record_len(480);
    let stale = contents(&other, &segment(DIR, 1))[at..at + record_len(480)].to_vec();
    patch(&one, &segment(DIR, 1), at as u64, &stale);
    let found = bodies(&open_log(&one.env(4), DIR)).expect("it is whole");
    assert!(
        found.is_empty(),
        "a batch is all or nothing: {:?}",
        found.iter().map(|b| b[0]).collect::<Vec<_>>()
    );
}

pub(crate) fn what_another_file_left_is_not_taken() {
    let disk = SimulatedDisk::new();
    let (one, other) = (open_log(&disk.env(3), "/one"), open_log(&disk.env(4), "/other"));
    append(&one, &[body(1, 40)]);
    append(&other, &[body(2, 40)]);
    append(&other, &[body(3, 40)]);
    let image = disk.fork();
    drop((one, other));
    let (start, len) = (FRAMES_START as usize + 48 + record_len(40), 48 + record_len(40));
    let stale = contents(&image, &segment("/other", 1))[start..start + len].to_vec();
    patch(&image, &segment("/one", 1), start as u64, &stale);
    let found = bodies(&open_log(&image.env(5), "/one")).expect("it is whole");
    assert_eq!(found, [body(1, 40)], "a record was never appended");
}

pub(crate) fn a_frame_of_another_history_is_not_taken() {
    // Two records of 40 bytes take as much room as one of 96.
    assert_eq!(2 * record_len(40), record_len(96));
    let one = killed(&[&[body(1, 40), body(2, 40)]]);
    let other = killed(&[&[body(3, 96)], &[body(4, 40)]]);
    let (start, len) = (FRAMES_START as usize + 48 + record_len(96), 48 + record_len(40));
    let stale = contents(&other, &segment(DIR, 1))[start..start + len].to_vec();
    patch(&one, &segment(DIR, 1), start as u64, &stale);
    let found = bodies(&open_log(&one.env(4), DIR)).expect("it is whole");
    assert_eq!(found, [body(1, 40), body(2, 40)]);
}

/// What a log without a store around it relies on, in the hands of the process that made it and of the one that follows
/// one that died at any call.
pub(crate) fn a_log_alone_survives_cuts() {
    let disk = SimulatedDisk::new();
    let synced = |env: &Env, byte: u8| {
        let log = open_log(env, DIR);
        append(&log, &[body(byte, 40)]);
        log.sync().expect("nothing fails");
        log
    };
    let look = move |disk: &SimulatedDisk, call: u64| {
        let image = disk.fork();
        if image.kind(DIR.as_ref()).expect("it can be looked at").is_none() {
            return;
        }
        // The directory itself is its maker's affair.
        image.sync_dir("/".as_ref()).expect("nothing fails");
        let log = synced(&image.env(call), 2);
        let left = image.cut(Survivors::Synced, 0);
        drop(log);
        let found = bodies(&open_log(&left.env(5), DIR)).expect("it is whole");
        assert_eq!(found.last(), Some(&body(2, 40)), "what was acknowledged is gone");
    };
    at_every_call(&disk, look, || {
        let log = synced(&disk.env(3), 1);
        disk.sync_dir("/".as_ref()).expect("nothing fails");
        let left = disk.cut(Survivors::Synced, 0);
        let found = bodies(&open_log(&left.env(5), DIR)).expect("it is whole");
        assert_eq!(found, [body(1, 40)], "what was acknowledged is gone");
        drop(log);
    });
}

/// Frames that fill sectors exactly: the cut decides of each alone.
const SECTOR_BODY: usize = 512 - 48 - 16;

#[track_caller]
fn third_is_not_there(image: &SimulatedDisk) {
    let found = bodies(&open_log(&image.env(6), DIR)).expect("it is whole");
    assert!(!found.contains(&body(3, SECTOR_BODY)), "what a recovery dropped is there again");
}

pub(crate) fn what_a_recovery_dropped_stays_away_through_a_cut() {
    let disk = SimulatedDisk::new();
    let log = open_log(&disk.env(3), DIR);
    append(&log, &[body(1, SECTOR_BODY)]);
    // Known to be durable, so that recovery has nothing to write again, and no other sync than that of the cut.
    log.sync().expect("nothing fails");
    append(&log, &[body(2, SECTOR_BODY)]);
    append(&log, &[body(3, SECTOR_BODY)]);
    let image = disk.fork();
    drop(log);
    // A cut that left the first and the third.
    patch(&image, &segment(DIR, 1), FRAMES_START + 512, &[0; 512]);
    let log = open_log(&image.env(4), DIR);
    assert_eq!(
        bodies(&log).expect("it is whole"),
        [body(1, SECTOR_BODY)],
        "the third is dropped with the second"
    );
    let look = |disk: &SimulatedDisk, call: u64| {
        for seed in 0..40 {
            third_is_not_there(&disk.cut(Survivors::Subset, call * 64 + seed));
        }
    };
    at_every_call(&image, look, || {
        append(&log, &[body(4, SECTOR_BODY)]);
        log.sync().expect("nothing fails");
    });
}

pub(crate) fn swapped_segments_are_told_apart() {
    let batches: Vec<Vec<Vec<u8>>> = (0..6).map(|i| vec![body(i, 200_000)]).collect();
    let image = killed(&batches.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let (one, other) = (contents(&image, &segment(DIR, 1)), contents(&image, &segment(DIR, 2)));
    put(&image, &segment(DIR, 1), &other);
    put(&image, &segment(DIR, 2), &one);
    let opened = Log::open(&image.env(4), DIR.as_ref(), options()).map(|_| ()).map_err(|e| e.kind().clone());
    assert!(matches!(opened, Err(ErrorKind::Corrupt { .. })), "{opened:?}");
    assert!(contents(&image, &segment(DIR, 2)) == one, "a segment in another's place was cut off");
}

pub(crate) fn a_segment_of_another_history_is_found() {
    let filled = |byte: u8| {
        let batches: Vec<Vec<Vec<u8>>> = (0..6).map(|_| vec![body(byte, 200_000)]).collect();
        killed(&batches.iter().map(Vec::as_slice).collect::<Vec<_>>())
    };
    let (one, other) = (filled(1), filled(2));
    put(&one, &segment(DIR, 1), &contents(&other, &segment(DIR, 1)));
    let log = open_log(&one.env(4), DIR);
    assert_eq!(log.segments().len(), 2);
    let mut faults = Vec::new();
    let (progress, fault) = (&mut |_| ControlFlow::Continue(()), &mut |fault| faults.push(fault));
    log.verify(log.watermark(), &mut Check { progress, fault }).expect("it can be read");
    assert!(!faults.is_empty(), "a segment of another history passes");
}

pub(crate) fn places_of_another_history_are_passed_over() {
    let closed = |len: usize| {
        let disk = SimulatedDisk::new();
        let log = open_log(&disk.env(3), DIR);
        for i in 0..400_000 / len {
            append(&log, &[body(i as u8, len)]);
        }
        log.close().expect("nothing fails");
        disk
    };
    let (one, other) = (closed(7001), closed(10_003));
    let places = segment(DIR, 1).with_extension("pos");
    put(&one, &places, &contents(&other, &places));
    let log = open_log(&one.env(4), DIR);
    let until = log.watermark();
    for position in 0..until.position {
        let mut scan = log.scan(position, until).expect("it can be found");
        let record = scan.next().expect("it is whole").expect("it is there");
        assert_eq!((record.position, record.body), (position, body(position as u8, 7001).as_slice()));
    }
}

pub(crate) fn hostile_events_are_refused() {
    let id = [9; 16];
    let event = |flags: u8, rest: &[u8]| [id.as_slice(), &[flags, 0], rest].concat();
    let name = b"\x01s\x01E".as_slice();
    let hostile = [
        // Shorter than an id; without a stream; a stream that is longer than the event; a length of ten bytes and more.
        vec![1, 2, 3],
        event(0, &[]),
        event(0, b"\x05s"),
        event(0, &[0xff; 12]),
        event(1, &[name, &[1, 2]].concat()),
        event(1 << 1, &[name, &[200, 1]].concat()),
        event(1 << 5, &[name, &[3, 2, b'a']].concat()),
        event(1 << 6, &[name, &[3, 1, b'a', 9]].concat()),
        // No text; more than there should be; a flag that nobody knows.
        event(0, b"\x01\xff\x01E"),
        event(0, b"\x01s\x01Emore"),
        event(1 << 7, name),
    ];
    for body in hostile {
        let disk = SimulatedDisk::new();
        let (store, topic) = open(&disk.env(1), Durability::Synced).expect("it opens");
        topic.append(&Batch::to("s").event(NewEvent::new("E"))).wait().expect("it is allowed");
        drop(topic);
        store.close().expect("nothing fails");
        let log = open_log(&disk.env(2), PARTITION);
        append(&log, std::slice::from_ref(&body));
        log.close().expect("nothing fails");
        let read = open(&disk.env(3), Durability::Synced).and_then(|(_, topic)| all(&topic));
        let kind = read.map_err(|e| e.kind().clone());
        assert!(matches!(kind, Err(ErrorKind::Corrupt { .. })), "{body:?} is read as {kind:?}");
    }
}

pub(crate) fn hostile_frames_do_no_harm() {
    let image = killed(&[&[body(1, 40)], &[body(2, 40)]]);
    let bytes = contents(&image, &segment(DIR, 1));
    let salt = SegmentHeader::decode(&bytes).expect("it is whole").salt;
    let second = FRAMES_START as usize + 48 + record_len(40);
    let frame = FrameHeader::decode(&bytes[second..], salt).expect("it is whole");
    let hostile = [
        FrameHeader { first_position: u64::MAX, ..frame },
        FrameHeader { count: 0, ..frame },
        FrameHeader { count: u32::MAX, ..frame },
        FrameHeader { body_len: 0, ..frame },
        FrameHeader { body_len: u32::MAX - 7, ..frame },
        FrameHeader { body_len: 33, ..frame },
    ];
    for header in hostile {
        // As the owner of both would find it: what follows is read, verified, and recovered.
        let log = open_log(&image.fork().env(4), DIR);
        let damaged = image.fork();
        patch(&damaged, &segment(DIR, 1), second as u64, &header.encode(salt));
        let until = log.watermark();
        drop(log);
        let log = Log::follow(&damaged.env(5), DIR.as_ref(), options()).expect("it opens");
        let mut faults = 0;
        let (progress, fault) = (&mut |_| ControlFlow::Continue(()), &mut |_| faults += 1);
        log.verify(until, &mut Check { progress, fault }).expect("it can be read");
        assert!(faults > 0, "{header:?} is not found");
        let mut scan = log.scan(0, until).expect("it can be found");
        while let Ok(Some(record)) = scan.next() {
            assert_eq!(record.body, body(1, 40));
        }
        drop(log);
        assert_eq!(bodies(&open_log(&damaged.env(6), DIR)).expect("it is whole"), [body(1, 40)]);
    }
}
