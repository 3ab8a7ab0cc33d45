//! The index as a whole against an oracle: what any order of appends, freezes, flushes, merges and openings must answer;
//! and against damage: what any bytes on disk must never make it answer.

#![expect(clippy::single_range_in_vec_init, reason = "a list of one hole is meant")]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::Path;

use annals_log::env::{Access, Disk, DiskFile, EntryKind, Env, LockAttempt};
use annals_log::sync::{Arc, AtomicBool, AtomicU64, Ordering, spawn};
use annals_model::{ErrorKind, Result};
use proptest::prelude::*;

use super::file::{
    ENTRIES_PER_PAGE, HASHES_PER_PAGE, IndexFile, PAGE, PAGE_ROOM, Postings, Section, page_seed,
};
use super::writer::{Covering, FileWriter, file_name};
use super::*;

const DIR: &str = "/index";
const SEED: u64 = 0x5eed;

fn config() -> IndexConfig {
    IndexConfig { seed: SEED, run_bytes: 512, run_postings: 10_000, tail_bytes_max: u64::MAX, writable: true }
}

fn identity(_: Range<u64>) -> Option<u64> {
    Some(1)
}

fn at(address: u64) -> LogPoint {
    LogPoint { address, position: address / 8 }
}

fn term(n: u64) -> TermHash {
    TermHash::from_bits(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24)
}

fn list(env: &Env) -> Vec<String> {
    let mut names = env.disk.list(Path::new(DIR)).unwrap();
    names.sort();
    names
}

fn open(env: &Env, config: IndexConfig, end: u64) -> Opened {
    IndexSet::open(env, Path::new(DIR), config, at(0)..at(end), &identity).unwrap()
}

fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|e| e.kind().clone())
}

/// What the log holds.
#[derive(Clone, Default)]
struct Oracle {
    events: Vec<(u64, Vec<TermHash>)>,
    postings: BTreeMap<TermHash, BTreeSet<u64>>,
    end: u64,
}

impl Oracle {
    /// Adds an event of `bytes` behind all others.
    fn event(&mut self, bytes: u64, terms: Vec<TermHash>) {
        for term in &terms {
            self.postings.entry(*term).or_default().insert(self.end);
        }
        self.events.push((self.end, terms));
        self.end += bytes;
    }

    /// An event as they mostly are: one term of its own, one shared by all, one by a tenth, one by a few.
    fn usual(&mut self) {
        let n = self.events.len() as u64;
        self.event(8 + n % 5 * 24, vec![term(0), term(1 + n % 10), term(100 + n % 97), term(1000 + n)]);
    }

    fn append_to(&self, set: &IndexSet, from: u64, to: u64) {
        let events = self.events.iter().filter(|(address, _)| (from..to).contains(address));
        set.append(events.map(|(address, terms)| (at(*address), terms.as_slice())), at(to));
    }

    fn postings(&self, term: TermHash, limit: u64) -> Vec<u64> {
        self.postings.get(&term).map(|p| p.range(..limit).copied().collect()).unwrap_or_default()
    }

    fn terms(&self) -> Vec<TermHash> {
        self.postings.keys().copied().chain([term(77_777), term(88_888)]).collect()
    }

    /// Asks everything about every term.
    fn check(&self, set: &IndexSet, limit: u64) {
        let snapshot = set.snapshot(limit);
        for term in self.terms() {
            let expected = self.postings(term, limit);
            let mut cursor = snapshot.cursor(term);
            assert!(cursor.count_upper_bound().unwrap() >= expected.len() as u64);
            check_cursor(&mut cursor, &expected, self.end);
            let newest: Vec<u64> = snapshot.candidates(term).collect::<Result<_>>().unwrap();
            assert!(newest.iter().rev().eq(&expected), "candidates of {term:?}");
        }
    }
}

/// Compares a cursor with the addresses it must have: walked both ways, sought at random, and at the ends.
fn check_cursor(cursor: &mut dyn Cursor, expected: &[u64], end: u64) {
    assert_eq!(cursor.first().unwrap(), expected.first().copied());
    assert_eq!(cursor.last().unwrap(), expected.last().copied());
    let mut place = 0;
    for address in expected {
        assert_eq!(cursor.seek(place).unwrap(), Some(*address));
        place = address + 1;
    }
    assert_eq!(cursor.seek(place).unwrap(), None);
    let mut random = 1u64;
    for _ in 0..40 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let address = (random >> 20) % (end + 20);
        let after = expected.partition_point(|e| *e < address);
        assert_eq!(cursor.seek(address).unwrap(), expected.get(after).copied(), "at or behind {address}");
        let through = expected.partition_point(|e| *e <= address);
        assert_eq!(
            cursor.seek_back(address).unwrap(),
            expected[..through].last().copied(),
            "at or before {address}"
        );
    }
    let mut place = Some(u64::MAX);
    for address in expected.iter().rev() {
        let asked = place.expect("the first address has none before it");
        assert_eq!(cursor.seek_back(asked).unwrap(), Some(*address));
        place = address.checked_sub(1);
    }
    if let Some(place) = place {
        assert_eq!(cursor.seek_back(place).unwrap(), None);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<(u64, Vec<u64>)>),
    Usual(usize),
    Freeze,
    Write,
    Merge,
    Reopen,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let event = (1u64..20, prop::collection::vec(0u64..40, 0..6));
    prop_oneof![
        4 => prop::collection::vec(event, 0..40).prop_map(Step::Append),
        2 => (1usize..400).prop_map(Step::Usual),
        1 => Just(Step::Freeze),
        2 => Just(Step::Write),
        2 => Just(Step::Merge),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_history_answers_as_the_oracle_does(
        steps in prop::collection::vec(step(), 1..24),
        limit in 0.0f64..1.2,
        run_postings in 1usize..2000,
    ) {
        let env = Env::in_memory();
        let config = IndexConfig { run_postings, ..config() };
        let mut set = open(&env, config, 0).set;
        let mut oracle = Oracle::default();
        for step in steps {
            let end = oracle.end;
            match step {
                Step::Append(events) => {
                    for (units, terms) in events {
                        oracle.event(units * 8, terms.into_iter().map(term).collect());
                    }
                    oracle.append_to(&set, end, oracle.end);
                }
                Step::Usual(events) => {
                    (0..events).for_each(|_| oracle.usual());
                    oracle.append_to(&set, end, oracle.end);
                }
                Step::Freeze => set.freeze(),
                Step::Write => { set.write_frozen(end / 2, &identity).unwrap(); }
                Step::Merge => while set.merge_once(&identity).unwrap() {},
                Step::Reopen => {
                    set.close(&identity).unwrap();
                    let opened = open(&env, config, end);
                    prop_assert_eq!(opened.covered_to, at(end), "a clean close leaves nothing to scan");
                    set = opened.set;
                }
                Step::Crash => {
                    let opened = open(&env, config, end);
                    set = opened.set;
                    oracle.append_to(&set, opened.covered_to.address, end);
                }
            }
            prop_assert_eq!(set.uncovered(), vec![]);
        }
        oracle.check(&set, u64::MAX);
        oracle.check(&set, (oracle.end as f64 * limit) as u64 / 8 * 8);
    }

    #[test]
    fn and_and_or_answer_as_sets_do(
        terms in prop::collection::vec(0u64..14, 0..5),
        events in 1usize..600,
        written in any::<bool>(),
    ) {
        let env = Env::in_memory();
        let set = open(&env, config(), 0).set;
        let mut oracle = Oracle::default();
        (0..events).for_each(|_| oracle.usual());
        oracle.append_to(&set, 0, oracle.end);
        if written {
            set.close(&identity).unwrap();
        }
        let snapshot = set.snapshot(u64::MAX);
        let cursors = || terms.iter().map(|t| Box::new(snapshot.cursor(term(*t))) as BoxCursor).collect::<Vec<_>>();
        let sets: Vec<BTreeSet<u64>> =
            terms.iter().map(|t| oracle.postings(term(*t), u64::MAX).into_iter().collect()).collect();
        let all = sets.iter().skip(1).fold(sets.first().cloned().unwrap_or_default(), |a, b| &a & b);
        let any = sets.iter().fold(BTreeSet::new(), |a, b| &a | b);
        check_cursor(&mut And::new(cursors()).unwrap(), &Vec::from_iter(all.clone()), oracle.end);
        check_cursor(&mut Or::new(cursors()), &Vec::from_iter(any.clone()), oracle.end);
        // And both in one, as a query of types and tags is.
        let both: Vec<u64> = any.intersection(&oracle.postings(term(0), u64::MAX).into_iter().collect()).copied().collect();
        let nested = vec![Box::new(Or::new(cursors())) as BoxCursor, Box::new(snapshot.cursor(term(0)))];
        check_cursor(&mut And::new(nested).unwrap(), &both, oracle.end);
    }
}

/// An index of `events` usual events in files of `run_bytes`.
fn written(env: &Env, events: usize, config: IndexConfig) -> (IndexSet, Oracle) {
    let set = open(env, config, 0).set;
    let mut oracle = Oracle::default();
    (0..events).for_each(|_| oracle.usual());
    oracle.append_to(&set, 0, oracle.end);
    set.close(&identity).unwrap();
    (set, oracle)
}

fn one_file() -> IndexConfig {
    IndexConfig { run_bytes: u64::MAX, run_postings: usize::MAX, ..config() }
}

#[test]
fn the_hash_of_a_term_is_the_same_for_ever() {
    let hasher = TermHasher::new(0x0123_4567_89ab_cdef);
    let hashes: Vec<String> = [
        (TermKind::Stream, "order-42"),
        (TermKind::Category, "order"),
        (TermKind::Type, "OrderPlaced"),
        (TermKind::Tag, "customer:7"),
        (TermKind::EventId, "0123456789abcdef"),
        (TermKind::Births, ""),
    ]
    .into_iter()
    .map(|(kind, name)| format!("{:010x}", hasher.hash(kind, name.as_bytes()).bits()))
    .collect();
    assert_eq!(hashes, PINNED);
    assert_ne!(hasher.hash(TermKind::Tag, b"a"), hasher.hash(TermKind::Type, b"a"));
    assert_ne!(hasher.hash(TermKind::Tag, b"a"), TermHasher::new(1).hash(TermKind::Tag, b"a"));
}

const PINNED: [&str; 6] =
    ["a66cffc083", "d55e91e499", "91b7f6bc67", "4ef2ceadaf", "73571daddf", "3985f1acaf"];

#[test]
fn terms_that_collide_keep_the_postings_of_both() {
    let env = Env::in_memory();
    let (mut oracle, same) = (Oracle::default(), TermHash::from_bits(12));
    let set = open(&env, config(), 0).set;
    // Two terms of one event, then each alone.
    oracle.event(8, vec![same, same]);
    oracle.event(8, vec![same]);
    oracle.event(8, vec![TermHash::from_bits(13)]);
    oracle.event(8, vec![same]);
    oracle.append_to(&set, 0, oracle.end);
    oracle.check(&set, u64::MAX);
    assert_eq!(set.snapshot(u64::MAX).candidates(same).collect::<Result<Vec<_>>>().unwrap(), [24, 8, 0]);
    set.close(&identity).unwrap();
    oracle.check(&set, u64::MAX);
}

#[test]
fn a_table_of_many_pages_finds_every_hash_and_no_other() {
    // More pages than one page of the directory names; hashes in dense runs across the pages' bounds, then far apart.
    let env = Env::in_memory();
    env.disk.create_dir(Path::new(DIR)).unwrap();
    let terms = (ENTRIES_PER_PAGE * HASHES_PER_PAGE + 5_000) as u64;
    let hash = |i: u64| if i < 2_000 { 5 + 2 * i } else { 1_000_000 + i * 2_900_001 };
    let covering = Covering { from: at(0), to: at(terms * 8), binding: 9 };
    let mut writer = FileWriter::create(&env, Path::new(DIR), covering).unwrap();
    for i in 0..terms {
        writer.one(TermHash::from_bits(hash(i)), i as u32).unwrap();
    }
    let name = writer.finish().unwrap();
    let file = IndexFile::open(&*env.disk, Path::new(DIR), &name, &|_| Some(9)).unwrap();
    assert!(file.table_pages() > HASHES_PER_PAGE as u64);
    for i in (0..terms).step_by(61).chain(0..3_000).chain(terms - 500..terms) {
        let entry = file.find(TermHash::from_bits(hash(i))).unwrap().expect("it was written");
        assert_eq!(file.postings(entry).unwrap(), Postings::One(i as u32));
        assert_eq!(file.find(TermHash::from_bits(hash(i) + 1)).unwrap(), None);
        assert_eq!(file.find(TermHash::from_bits(hash(i) - 1)).unwrap(), None);
    }
    assert_eq!(file.find(TermHash::from_bits(0)).unwrap(), None);
    assert_eq!(file.find(TermHash::from_bits(u64::MAX)).unwrap(), None);
}

#[test]
fn lists_of_every_length_around_a_block_come_back() {
    let env = Env::in_memory();
    let set = open(&env, IndexConfig { run_postings: usize::MAX, ..one_file() }, 0).set;
    let mut oracle = Oracle::default();
    let lengths = [1u64, 2, 3, 127, 128, 129, 130, 255, 256, 257, 400, 1000];
    for n in 0..1000 {
        let terms = lengths.iter().filter(|length| n < **length).map(|length| term(*length)).collect();
        oracle.event(if n % 50 == 0 { 80_000 } else { 8 }, terms);
    }
    oracle.append_to(&set, 0, oracle.end);
    set.close(&identity).unwrap();
    assert_eq!(set.stats().files, 1);
    oracle.check(&set, u64::MAX);
}

#[test]
fn eight_files_of_a_size_become_one_and_the_old_ones_go() {
    let env = Env::in_memory();
    let (set, oracle) = written(&env, 2_000, config());
    let before = set.stats();
    assert!(before.files > 64, "{before:?}");
    let generation = set.generation();
    while set.merge_once(&identity).unwrap() {}
    let after = set.stats();
    assert!(after.files < 24, "{after:?}");
    assert!(set.generation() > generation);
    assert_eq!(list(&env).len(), after.files);
    oracle.check(&set, u64::MAX);
    oracle.check(&open(&env, config(), oracle.end).set, u64::MAX);
}

#[test]
fn long_lists_are_merged_twice_and_lose_nothing() {
    let env = Env::in_memory();
    let (set, oracle) = written(&env, 12_000, IndexConfig { run_bytes: 4096, ..config() });
    let one_merge = set.stats().files / 8;
    let mut merges = 0;
    while set.merge_once(&identity).unwrap() {
        merges += 1;
    }
    assert!(merges > one_merge, "{merges} merges");
    let snapshot = set.snapshot(u64::MAX);
    for n in (0..120).chain((1000..13_000).step_by(977)) {
        let expected = oracle.postings(term(n), u64::MAX);
        let mut cursor = snapshot.cursor(term(n));
        assert_eq!(cursor.count_upper_bound().unwrap(), expected.len() as u64);
        check_cursor(&mut cursor, &expected, oracle.end);
    }
}

#[test]
fn a_place_out_of_order_is_refused_by_a_rebuild() {
    let env = Env::in_memory();
    let set = open(&env, IndexConfig { tail_bytes_max: 0, ..config() }, 800).set;
    let mut rebuild = set.rebuild(at(0), &identity);
    rebuild.event(at(80), &[term(1)]).unwrap();
    for wrong in
        [at(80), at(72), LogPoint { address: 89, position: 90 }, LogPoint { address: 800, position: 3 }]
    {
        assert_eq!(kind(rebuild.event(wrong, &[term(1)])), Some(ErrorKind::Invalid), "{wrong:?}");
    }
    assert_eq!(kind(rebuild.finish(at(80))), Some(ErrorKind::Invalid));
    assert_eq!(set.uncovered(), [0..800]);
    let mut rebuild = set.rebuild(at(0), &identity);
    rebuild.event(at(800), &[term(1)]).unwrap();
    assert_eq!(kind(rebuild.finish(at(808))), Some(ErrorKind::Invalid), "it is no longer a hole there");
    assert!(list(&env).iter().all(|name| name == &file_name(0, 800)), "{:?}", list(&env));
}

#[test]
fn a_snapshot_outlives_the_files_it_was_taken_of() {
    let env = Env::in_memory();
    let (set, mut oracle) = written(&env, 500, config());
    let (snapshot, limit) = (set.snapshot(oracle.end), oracle.end);
    let mut cursor = snapshot.cursor(term(0));
    let expected = oracle.postings(term(0), limit);
    assert_eq!(cursor.seek(100).unwrap(), expected.iter().copied().find(|a| *a >= 100));
    (0..500).for_each(|_| oracle.usual());
    oracle.append_to(&set, limit, oracle.end);
    set.close(&identity).unwrap();
    while set.merge_once(&identity).unwrap() {}
    check_cursor(&mut cursor, &expected, oracle.end);
    check_cursor(&mut snapshot.cursor(term(0)), &expected, oracle.end);
}

#[test]
fn a_snapshot_taken_between_appends_is_whole_up_to_its_limit() {
    let env = Env::in_memory();
    let set = Arc::new(open(&env, IndexConfig { run_bytes: 4096, ..config() }, 0).set);
    let (appended, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let writer = {
        let (set, appended, done) = (Arc::clone(&set), Arc::clone(&appended), Arc::clone(&done));
        spawn("appender", move || {
            for i in 0..30_000 {
                if set.append([(at(i * 8), [term(0), term(1 + i % 3)].as_slice())], at(i * 8 + 8)) {
                    set.write_frozen(i * 8 + 8, &identity).unwrap();
                    set.merge_once(&identity).unwrap();
                }
                appended.store(i + 1, Ordering::Release);
            }
            done.store(true, Ordering::Release);
        })
        .unwrap()
    };
    loop {
        let last = done.load(Ordering::Acquire);
        let n = appended.load(Ordering::Acquire);
        let snapshot = set.snapshot(n * 8);
        let mut all = snapshot.cursor(term(0));
        assert_eq!(all.last().unwrap(), n.checked_sub(1).map(|n| n * 8));
        let middle = n / 2 * 8;
        assert_eq!(all.seek(middle).unwrap(), (n > 0).then_some(middle));
        let thirds: Vec<u64> = snapshot.candidates(term(1)).take(500).collect::<Result<_>>().unwrap();
        let expected = (0..n).rev().filter(|i| i % 3 == 0).take(500).map(|i| i * 8);
        assert!(thirds.into_iter().eq(expected), "up to {n}");
        if last {
            break;
        }
    }
    writer.join();
    assert_eq!(appended.load(Ordering::Acquire), 30_000);
}

/// What every term answers in files that were changed: what the oracle says, or that it cannot be told.
fn right_or_unavailable(
    env: &Env,
    oracle: &Oracle,
    terms: &[TermHash],
    what: &dyn std::fmt::Display,
) -> bool {
    let opened = open(env, IndexConfig { writable: false, tail_bytes_max: 0, ..one_file() }, oracle.end);
    let mut told = true;
    for term in terms {
        // Each with a snapshot of its own, since the one before may have seen the file go.
        let mut cursor = opened.set.snapshot(u64::MAX).cursor(*term);
        let mut all = || -> Result<Vec<u64>> {
            let (mut found, mut place) = (Vec::new(), 0);
            while let Some(address) = cursor.seek(place)? {
                found.push(address);
                place = address + 1;
            }
            Ok(found)
        };
        match all() {
            Ok(found) => assert_eq!(found, oracle.postings(*term, u64::MAX), "{term:?} with {what}"),
            Err(e) => {
                assert_eq!(e.kind(), &ErrorKind::Unavailable, "{what}");
                assert_ne!(opened.set.uncovered(), vec![], "{what}");
                told = false;
            }
        }
    }
    told
}

/// A file with a page of each section and lists of each form.
fn small_file() -> (Env, Oracle, String) {
    let env = Env::in_memory();
    let (_, oracle) = written(&env, 140, one_file());
    let names = list(&env);
    assert_eq!(names.len(), 1);
    (env, oracle, names[0].clone())
}

fn bytes_of(env: &Env, name: &str) -> (Arc<dyn DiskFile>, Vec<u8>) {
    let file = env.disk.open(&Path::new(DIR).join(name), Access::ReadWrite).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    (file, bytes)
}

#[test]
fn no_flipped_bit_makes_an_answer_wrong() {
    let (env, oracle, name) = small_file();
    let (file, bytes) = bytes_of(&env, &name);
    assert_eq!(bytes.len(), 4 * PAGE, "one page each of header, postings, table and directory");
    // A term of each form, and one that is not there: together they touch every page.
    let terms = [term(0), term(1), term(100), term(1000), term(77_777)];
    assert!(right_or_unavailable(&env, &oracle, &terms, &"nothing changed"));
    for (i, byte) in bytes.iter().enumerate() {
        for bit in 0..8 {
            file.write_all_at(&[byte ^ 1 << bit], i as u64).unwrap();
            let told =
                right_or_unavailable(&env, &oracle, &terms, &format_args!("bit {bit} of byte {i} flipped"));
            assert!(!told, "bit {bit} of byte {i} went unnoticed");
        }
        file.write_all_at(&[*byte], i as u64).unwrap();
    }
}

#[test]
fn a_file_cut_anywhere_or_lengthened_is_not_used() {
    let (env, oracle, name) = small_file();
    let (file, bytes) = bytes_of(&env, &name);
    for len in (0..bytes.len() as u64).rev().chain([bytes.len() as u64 + 1, 2 * bytes.len() as u64]) {
        file.set_len(len).unwrap();
        assert!(!right_or_unavailable(&env, &oracle, &[term(0)], &format_args!("{len} bytes left")), "{len}");
    }
}

/// Gives every page the checksum that its bytes ask for, as an attacker would.
fn seal(bytes: &mut [u8]) {
    let crc = crc32fast::hash(&bytes[..PAGE_ROOM]);
    bytes[PAGE_ROOM..PAGE].copy_from_slice(&crc.to_le_bytes());
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let salt = u32::from_le_bytes(bytes[20..24].try_into().unwrap());
    let postings = number(80).div_ceil(PAGE_ROOM as u64);
    let table = number(64).div_ceil(ENTRIES_PER_PAGE as u64);
    for (i, page) in (0..).zip(bytes[PAGE..].chunks_exact_mut(PAGE)) {
        let (section, number) = match i {
            i if i < postings => (Section::Postings, i),
            i if i < postings.saturating_add(table) => (Section::Table, i - postings),
            i => (Section::Directory, i - postings - table),
        };
        let mut crc = crc32fast::Hasher::new_with_initial(page_seed(salt, section, number as u32));
        crc.update(&page[..PAGE_ROOM]);
        page[PAGE_ROOM..].copy_from_slice(&crc.finalize().to_le_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn bytes_made_up_with_right_checksums_do_no_harm(
        changes in prop::collection::vec((0usize..4, 0.0f64..1.0, prop::collection::vec(any::<u8>(), 1..9)), 1..6),
    ) {
        let (env, oracle, name) = small_file();
        let (file, mut bytes) = bytes_of(&env, &name);
        let used = [88, 700, 245 * 9, 5];
        for (page, place, change) in changes {
            let at = page * PAGE + (used[page] as f64 * place) as usize;
            bytes[at..at + change.len()].copy_from_slice(&change);
        }
        seal(&mut bytes);
        file.write_all_at(&bytes, 0).unwrap();
        let set = open(&env, IndexConfig { writable: false, ..one_file() }, oracle.end).set;
        for term in oracle.terms() {
            // It may lie, but it must end, in ascending order, without a panic.
            let mut cursor = set.snapshot(u64::MAX).cursor(term);
            let (mut place, mut steps) = (0, 0);
            while let Ok(Some(found)) = cursor.seek(place) {
                prop_assert!(found >= place);
                place = found + 1;
                steps += 1;
                prop_assert!(steps < 10_000);
            }
            let _ = (cursor.last(), cursor.seek_back(place / 2), cursor.count_upper_bound());
        }
        // And merged with others.
        let set = open(&env, IndexConfig { run_bytes: oracle.end, ..config() }, oracle.end).set;
        for i in 0..8 {
            let place = oracle.end + i * oracle.end / 8 * 8;
            set.append([(at(place), [term(0)].as_slice())], at(place + oracle.end / 8 * 8));
        }
        set.close(&identity).unwrap();
        while set.merge_once(&identity).unwrap() {}
    }
}

#[test]
fn a_damaged_file_is_reported_and_rebuilt() {
    let env = Env::in_memory();
    let (set, oracle) = written(&env, 400, IndexConfig { run_bytes: 4096, ..config() });
    while set.merge_once(&identity).unwrap() {}
    drop(set);
    let names = list(&env);
    assert!(names.len() > 3, "{names:?}");
    let (file, bytes) = bytes_of(&env, &names[1]);
    file.write_all_at(&[bytes[2 * PAGE] ^ 1], 2 * PAGE as u64).unwrap();

    let set = open(&env, config(), oracle.end).set;
    assert_eq!(set.uncovered(), vec![], "pages are checked when they are touched");
    let generation = set.generation();
    assert_eq!(kind(set.snapshot(u64::MAX).cursor(term(77_777)).first()), Some(ErrorKind::Unavailable));
    assert!(set.generation() > generation);
    let holes = set.uncovered();
    assert_eq!(holes.len(), 1);
    // What does not look there goes on.
    let hole = holes[0].clone();
    assert!(set.snapshot(hole.start).cursor(term(77_777)).first().unwrap().is_none());
    let newest = set.snapshot(u64::MAX).cursor(term(0)).last().unwrap();
    assert_eq!(newest, oracle.postings(term(0), u64::MAX).last().copied());

    rebuild(&set, &oracle, hole);
    assert_eq!(set.uncovered(), vec![]);
    oracle.check(&set, u64::MAX);
    let reopened = open(&env, config(), oracle.end);
    assert_eq!((reopened.covered_to, reopened.set.uncovered()), (at(oracle.end), vec![]));
    oracle.check(&reopened.set, u64::MAX);
}

fn rebuild(set: &IndexSet, oracle: &Oracle, hole: Range<u64>) {
    let mut rebuild = set.rebuild(at(hole.start), &identity);
    for (address, terms) in oracle.events.iter().filter(|(address, _)| hole.contains(address)) {
        rebuild.event(at(*address), terms).unwrap();
    }
    rebuild.finish(at(hole.end)).unwrap();
}

#[test]
fn damage_found_by_a_merge_is_reported_and_nothing_is_lost() {
    let env = Env::in_memory();
    let (set, oracle) = written(&env, 300, config());
    drop(set);
    let names = list(&env);
    let (file, bytes) = bytes_of(&env, &names[2]);
    file.write_all_at(&[bytes[PAGE] ^ 1], PAGE as u64).unwrap();
    let set = open(&env, config(), oracle.end).set;
    while set.merge_once(&identity).unwrap() {}
    let holes = set.uncovered();
    assert_eq!(holes.len(), 1);
    rebuild(&set, &oracle, holes[0].clone());
    while set.merge_once(&identity).unwrap() {}
    oracle.check(&set, u64::MAX);
}

#[test]
fn a_file_of_another_log_or_seed_or_behind_the_end_is_not_used() {
    let env = Env::in_memory();
    let (set, oracle) = written(&env, 100, one_file());
    drop(set);
    let look = IndexConfig { writable: false, ..one_file() };
    let opened = |config, end, id: Option<u64>| {
        IndexSet::open(&env, Path::new(DIR), config, at(0)..at(end), &|_| id).unwrap()
    };
    assert_eq!(opened(look, oracle.end, Some(1)).covered_to, at(oracle.end));
    for (config, end, id) in [
        (look, oracle.end, Some(2)),
        (look, oracle.end, None),
        (IndexConfig { seed: SEED + 1, ..look }, oracle.end, Some(1)),
        (look, oracle.end - 8, Some(1)),
    ] {
        let opened = opened(config, end, id);
        assert_eq!((opened.covered_to, opened.unused.len()), (at(0), 1));
    }
    assert_eq!(list(&env).len(), 1, "who only reads removes nothing");
    assert_eq!(opened(one_file(), oracle.end - 8, Some(1)).unused.len(), 1);
    assert_eq!(list(&env).len(), 0);
}

#[test]
fn what_a_crash_leaves_is_removed_and_the_larger_file_is_taken() {
    let env = Env::in_memory();
    let (set, oracle) = written(&env, 300, config());
    let dir = Path::new(DIR);
    let old: Vec<(String, Vec<u8>)> =
        list(&env).into_iter().map(|name| (name.clone(), bytes_of(&env, &name).1)).collect();
    while set.merge_once(&identity).unwrap() {}
    drop(set);
    let merged = list(&env);
    for (name, bytes) in
        old.iter().chain([&("0000-00.table.tmp".to_owned(), vec![1]), &("x.tmp".to_owned(), vec![])])
    {
        if !merged.contains(name) {
            env.disk.open(&dir.join(name), Access::CreateNew).unwrap().write_all_at(bytes, 0).unwrap();
        }
    }
    env.disk.open(&dir.join("note.txt"), Access::CreateNew).unwrap();
    let opened = open(&env, config(), oracle.end);
    assert!(opened.unused.len() > 8, "{:?}", opened.unused);
    let mut expected = merged;
    expected.push("note.txt".to_owned());
    assert_eq!(list(&env), expected);
    oracle.check(&opened.set, u64::MAX);
}

#[test]
fn any_files_deleted_are_reported_as_the_holes_they_leave() {
    let env = Env::in_memory();
    let (set, oracle) = written(&env, 70, config());
    drop(set);
    let files: Vec<(String, Vec<u8>)> =
        list(&env).into_iter().map(|name| (name.clone(), bytes_of(&env, &name).1)).collect();
    let ranges: Vec<(u64, u64)> =
        files.iter().map(|(n, _)| super::writer::parse_file_name(n).unwrap()).collect();
    assert!((5..9).contains(&files.len()), "{}", files.len());
    for kept in 0u32..1 << files.len() {
        let env = Env::in_memory();
        env.disk.create_dir(Path::new(DIR)).unwrap();
        let is_kept = |i: usize| kept >> i & 1 == 1;
        for (_, (name, bytes)) in files.iter().enumerate().filter(|(i, _)| is_kept(*i)) {
            let file = env.disk.open(&Path::new(DIR).join(name), Access::CreateNew).unwrap();
            file.write_all_at(bytes, 0).unwrap();
        }
        let last = ranges
            .iter()
            .enumerate()
            .filter(|(i, _)| is_kept(*i))
            .map(|(_, range)| range.1)
            .max()
            .unwrap_or(0);
        let mut holes: Vec<Range<u64>> = Vec::new();
        for (_, (from, to)) in ranges.iter().enumerate().filter(|(i, range)| !is_kept(*i) && range.1 <= last)
        {
            match holes.last_mut() {
                Some(hole) if hole.end == *from => hole.end = *to,
                _ => holes.push(*from..*to),
            }
        }
        let opened = open(&env, config(), oracle.end);
        assert_eq!(opened.covered_to.address, last, "kept {kept:b}");
        assert_eq!(opened.set.uncovered(), holes, "kept {kept:b}");
        oracle.append_to(&opened.set, last, oracle.end);
        for hole in holes {
            assert_eq!(
                kind(opened.set.snapshot(u64::MAX).cursor(term(77_777)).seek(hole.start)),
                Some(ErrorKind::Unavailable)
            );
            rebuild(&opened.set, &oracle, hole);
        }
        oracle.check(&opened.set, u64::MAX);
    }
}

#[test]
fn a_long_uncovered_tail_becomes_a_hole() {
    let env = Env::in_memory();
    let mut oracle = Oracle::default();
    (0..100).for_each(|_| oracle.usual());
    let opened = open(&env, IndexConfig { tail_bytes_max: oracle.end - 1, ..config() }, oracle.end);
    assert_eq!(opened.covered_to, at(oracle.end));
    assert_eq!(opened.set.uncovered(), [0..oracle.end]);
    let (middle, end) = (oracle.end, oracle.end + 80);
    for _ in 0..10 {
        oracle.event(8, vec![term(0)]);
    }
    oracle.append_to(&opened.set, middle, end);
    assert_eq!(opened.set.snapshot(u64::MAX).cursor(term(0)).last().unwrap(), Some(end - 8));
    assert_eq!(opened.set.snapshot(u64::MAX).uncovered(), [0..middle]);
    rebuild(&opened.set, &oracle, 0..middle);
    oracle.check(&opened.set, u64::MAX);
}

#[test]
fn retention_forgets_files_and_compaction_makes_holes_of_them() {
    let env = Env::in_memory();
    let (set, oracle) = written(&env, 200, config());
    let names = list(&env);
    let ranges: Vec<(u64, u64)> = names.iter().map(|n| super::writer::parse_file_name(n).unwrap()).collect();
    set.forget_before(ranges[2].0 + 8);
    assert_eq!(set.uncovered(), vec![]);
    assert_eq!(set.snapshot(u64::MAX).cursor(term(0)).first().unwrap(), Some(ranges[2].0));
    set.invalidate(ranges[4].0 + 8..ranges[5].0 + 8);
    assert_eq!(set.uncovered(), [ranges[4].0..ranges[5].1]);
    set.write_frozen(0, &identity).unwrap();
    assert_eq!(list(&env).len(), names.len() - 4);
    rebuild(&set, &oracle, ranges[4].0..ranges[5].1);
    let expected: Vec<u64> =
        oracle.postings(term(0), u64::MAX).into_iter().filter(|a| *a >= ranges[2].0).collect();
    check_cursor(&mut set.snapshot(u64::MAX).cursor(term(0)), &expected, oracle.end);
}

#[test]
fn only_what_is_durable_is_written() {
    let env = Env::in_memory();
    let set = open(&env, config(), 0).set;
    let mut oracle = Oracle::default();
    (0..100).for_each(|_| oracle.usual());
    oracle.append_to(&set, 0, oracle.end);
    let frozen = set.stats().frozen;
    assert!(frozen > 3);
    assert_eq!(set.write_frozen(500, &identity).unwrap(), 0);
    assert_eq!(set.write_frozen(1500, &identity).unwrap(), 2);
    assert!(list(&env).iter().all(|name| super::writer::parse_file_name(name).unwrap().1 <= 1500));
    assert_eq!(set.stats().frozen, frozen - 2);
    assert_eq!(kind(set.write_frozen(u64::MAX, &|_| None)), Some(ErrorKind::NotFound));
    oracle.check(&set, u64::MAX);
}

#[test]
fn an_address_far_behind_the_others_begins_a_table_of_its_own() {
    let env = Env::in_memory();
    let set = open(&env, one_file(), 0).set;
    let mut oracle = Oracle::default();
    oracle.event(8, vec![term(1)]);
    oracle.event(1 << 35, vec![term(1)]);
    oracle.event(8, vec![term(1)]);
    oracle.append_to(&set, 0, oracle.end);
    set.close(&identity).unwrap();
    assert_eq!(list(&env)[1], file_name(8 + (1 << 35), 16 + (1 << 35)));
    oracle.check(&set, u64::MAX);
}

/// A disk that fails for good after so many changes.
struct FailingDisk {
    inner: Arc<dyn Disk>,
    left: Arc<AtomicU64>,
}

struct FailingFile {
    inner: Arc<dyn DiskFile>,
    left: Arc<AtomicU64>,
}

fn spend(left: &AtomicU64) -> io::Result<()> {
    let spent = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
    spent.map(|_| ()).map_err(|_| io::ErrorKind::StorageFull.into())
}

impl Disk for FailingDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        if access != Access::Read {
            spend(&self.left)?;
        }
        let inner = self.inner.open(path, access)?;
        Ok(Arc::new(FailingFile { inner, left: Arc::clone(&self.left) }))
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        spend(&self.left).and_then(|()| self.inner.sync_dir(path))
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.inner.list(path)
    }
    fn kind(&self, path: &Path) -> io::Result<Option<EntryKind>> {
        self.inner.kind(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        spend(&self.left).and_then(|()| self.inner.rename(from, to))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        spend(&self.left).and_then(|()| self.inner.remove(path))
    }
    fn try_lock(&self, path: &Path, holder: &str) -> io::Result<LockAttempt> {
        self.inner.try_lock(path, holder)
    }
}

impl DiskFile for FailingFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        spend(&self.left)?;
        self.inner.write_at(buf, offset)
    }
    fn sync(&self) -> io::Result<()> {
        spend(&self.left).and_then(|()| self.inner.sync())
    }
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.allocate(offset, len)
    }
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.inner.next_data(offset)
    }
    fn map(&self, len: u64) -> io::Result<annals_log::env::Map> {
        self.inner.map(len)
    }
}

#[test]
fn a_disk_that_fills_up_at_any_write_costs_no_answer_before_or_after_reopening() {
    let mut finished = false;
    for writes in 0..400 {
        let good = Env::in_memory();
        let left = Arc::new(AtomicU64::new(u64::MAX));
        let disk = FailingDisk { inner: Arc::clone(&good.disk), left: Arc::clone(&left) };
        let env = Env { disk: Arc::new(disk), ..good.clone() };
        let set = open(&env, config(), 0).set;
        let mut oracle = Oracle::default();
        (0..150).for_each(|_| oracle.usual());
        oracle.append_to(&set, 0, oracle.end);
        left.store(writes, Ordering::SeqCst);
        let work = || -> Result<()> {
            set.write_frozen(u64::MAX, &identity)?;
            while set.merge_once(&identity)? {}
            Ok(())
        };
        let failed = kind(work());
        assert!(failed.is_none_or(|kind| kind == ErrorKind::Full));
        oracle.check(&set, u64::MAX);
        let opened = open(&good, config(), oracle.end);
        oracle.append_to(&opened.set, opened.covered_to.address, oracle.end);
        assert_eq!(opened.set.uncovered(), vec![]);
        oracle.check(&opened.set, u64::MAX);
        drop(opened);
        if left.load(Ordering::SeqCst) > 0 {
            finished = true;
            break;
        }
    }
    assert!(finished, "with enough writes everything is done");
}
