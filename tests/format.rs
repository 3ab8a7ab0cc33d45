//! Goal: `docs/format.md` is true of the bytes that this code writes, and stays so.
//!
//! Method: the page's tables are parsed. Each must be dense (no byte unnamed, none named twice) and as long as the
//! code's constant says. Then files written by a store on a memory disk, with a fixed clock and counted randomness, are
//! read *by the tables alone*, with a CRC written here from the page's words, and compared with what was appended. The
//! worked example is generated from the same bytes and compared with the page.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::time::Duration;

use annals_log::env::{Access, Clock, Entropy, Env};
use annals_log::format::{
    ALIGN, FORMAT_VERSION, FRAME_BYTES_MAX, FRAME_HEADER_LEN, FRAMES_START, POSITION_DELTA_BITS,
    RECORD_HEADER_LEN, SEGMENT_HEADER_LEN, SEGMENT_MAGIC, TIME_DELTA_BITS,
};
use annals_log::manifest::{MANIFEST_ENTRY_LEN, MANIFEST_MAGIC, MANIFEST_NAME, Manifest};
use annals_log::mark::{MARK_NAME, MARK_SLOT_DISTANCE, MARK_SLOT_LEN};
use annals_log::simulated::SimulatedDisk;
use annals_log::{SPARSE_DISTANCE, SPARSE_ENTRY_LEN};
use annals_model::{
    At, Batch, ConsumerGroup, Durability, EventId, Failure, GroupMember, GroupOptions, GroupPolicy, NewEvent,
    Read, RecordedEvent, ResetTo, Timestamp, limits,
};
use annals_store::index::{IndexConfig, IndexSet, LogPoint, TermHash, TermHasher, TermKind, layout};
use annals_store::{Store, StoreOptions, TopicOptions};
use serde_json::Value;

const PAGE: &str = include_str!("../docs/format.md");
const FIELDS: &str = "| file offset | size | field | meaning |";
const BODY: &str = "| order | form | field | present | meaning |";
const PARTITION: &str = "/store/topics/00000001/00000000";

// ---------------------------------------------------------------------------------------------- tests

#[test]
fn every_table_names_each_byte_once_and_is_as_long_as_the_code_says() {
    let lengths = [
        ("The head of a file", 24),
        ("Catalogue header", 64),
        ("Catalogue entry", 32),
        ("Manifest header", MANIFEST_ENTRY_LEN),
        ("Manifest entry", MANIFEST_ENTRY_LEN),
        ("Mark slot", MARK_SLOT_LEN),
        ("Segment header", SEGMENT_HEADER_LEN),
        ("Frame header", FRAME_HEADER_LEN),
        ("Record header", RECORD_HEADER_LEN),
        ("Places entry", SPARSE_ENTRY_LEN),
        ("Index header", layout::PAGE),
        ("Index page", layout::PAGE),
        ("Index table entry", layout::ENTRY),
    ];
    for (heading, len) in lengths {
        let mut next = 0;
        for field in Table::of(heading).fields {
            assert_eq!(field.offset, next, "`{}` of `{heading}` leaves a gap or overlaps", field.name);
            next += field.size;
        }
        assert_eq!(next, len, "`{heading}`");
    }
    assert_eq!(PAGE.matches(FIELDS).count(), lengths.len(), "a table that this test does not know");
}

#[test]
fn magics_and_numbers_in_the_text_are_the_codes() {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("magics are text");
    let (index, entries, hashes) = (layout::MAGIC, layout::ENTRIES_PER_PAGE, layout::HASHES_PER_PAGE);
    let said = [
        ("Segment", format!("Magic `{}`.", text(&SEGMENT_MAGIC))),
        ("Segment", format!("the first {FRAMES_START} bytes of the file")),
        ("Segment", format!("of which {SEGMENT_HEADER_LEN} carry meaning")),
        ("Segment", format!("from file offset {FRAMES_START} on")),
        ("Frame header", format!("Frames begin at multiples of {ALIGN}.")),
        ("Frame header", format!("at least {RECORD_HEADER_LEN} times `count`")),
        ("Frame header", format!("at most 2^{} bytes long", FRAME_BYTES_MAX.ilog2())),
        ("Record header", format!("upper {POSITION_DELTA_BITS} bits: position")),
        ("Record header", format!("lower {TIME_DELTA_BITS} bits: recorded time")),
        ("Record header", format!("at most 2^{POSITION_DELTA_BITS} records")),
        ("Record header", format!("at most 2^{TIME_DELTA_BITS} microseconds")),
        ("Manifest", format!("Magic `{}`.", text(&MANIFEST_MAGIC))),
        ("Manifest", format!("one entry of {MANIFEST_ENTRY_LEN} bytes")),
        ("Mark", format!("Two slots of {MARK_SLOT_LEN} bytes, at file offsets 0 and {MARK_SLOT_DISTANCE}")),
        ("Catalogue entry", format!("1 to {}; never changes", limits::PARTITIONS_MAX)),
        ("Places in a segment", format!("at least {SPARSE_DISTANCE} bytes")),
        ("Index file", format!("Magic `{}`.", text(&index))),
        ("Index file", format!("rows of pages of {} bytes", layout::PAGE)),
        ("Index file", format!("A page of a section holds {} bytes", layout::PAGE_ROOM)),
        ("Index file", format!("ceil(terms / {entries})")),
        ("Index file", format!("ceil(table pages / {hashes})")),
        ("Index table entry", format!("The table holds {entries} entries to a page")),
        ("Index table entry", format!("{hashes} of 5 bytes to a page")),
        ("Index table entry", format!("A list of 2 to {} postings", layout::BLOCK)),
        ("Versions", format!("All are {FORMAT_VERSION}.")),
    ];
    for (heading, words) in said {
        assert!(words_of(heading).contains(&words), "`{heading}` does not say: {words}");
    }
    assert!(PAGE.contains(&format!("Format version: **{FORMAT_VERSION}**")));
    assert_eq!(layout::VERSION, FORMAT_VERSION, "the page says that all versions are one number");
    assert_eq!(crc32(0, b"123456789"), 0xcbf4_3926, "the page's example of a checksum");
}

#[test]
fn a_catalogue_reads_by_the_table() {
    let env = fixed_env();
    let store = Store::open_with(&env, "/store", StoreOptions::default()).expect("made");
    let options =
        TopicOptions { partitions: 3, durability: Durability::Buffered, segment_bytes_max: 1 << 20 };
    store.create_topic("orders", TopicOptions::default()).expect("made");
    store.create_topic("Bestellungen ✓", options).expect("made");
    let bytes = file(&env, "/store/catalogue");
    let header = Table::of("Catalogue header");
    check_head(&bytes, b"ANNALSDB", &bytes);
    assert_eq!(header.bytes("store_id", &bytes), store.id().as_bytes());
    assert_eq!(header.number("topics", &bytes), 2);

    let entry = Table::of("Catalogue entry");
    let mut rest = &bytes[header.len()..];
    for (number, name, partitions, durability, segment_bytes_max) in
        [(1, "orders", 1, 0, 256 << 20), (2, "Bestellungen ✓", 3, 1, 1 << 20)]
    {
        assert_eq!(entry.number("number", rest), number);
        assert_eq!(entry.number("partitions", rest), partitions);
        assert_eq!(entry.number("durability", rest), durability);
        assert_eq!(entry.number("segment_bytes_max", rest), segment_bytes_max);
        entry.check_zeros(rest);
        let name_end = entry.len() + entry.number("name_len", rest) as usize;
        assert_eq!(&rest[entry.len()..name_end], name.as_bytes());
        rest = &rest[name_end..];
    }
    assert!(rest.is_empty());
}

#[test]
fn manifest_marks_segments_frames_and_places_read_by_the_tables() {
    let env = fixed_env();
    let store = Store::open_with(&env, "/store", StoreOptions::default()).expect("made");
    let options = TopicOptions { segment_bytes_max: 256 * 1024, ..TopicOptions::default() };
    let topic = store.create_topic("orders", options).expect("made");
    let data = vec![7u8; 1000];
    for _ in 0..200 {
        let events = (0..3).map(|_| NewEvent::new("Filled").data(data.as_slice()));
        topic.append(&Batch::to("order-1").events(events)).wait().expect("appended");
    }
    drop(topic);
    store.close().expect("closed");

    let manifest = file(&env, &format!("{PARTITION}/{MANIFEST_NAME}"));
    let header = Table::of("Manifest header");
    check_head(&manifest, &MANIFEST_MAGIC, &manifest[..header.len()]);
    header.check_zeros(&manifest);
    let partition_id = header.bytes("partition_id", &manifest);
    let partition_seed = crc32(0, partition_id);
    let known = Manifest::load(&env, Path::new(PARTITION)).expect("read").expect("there");
    assert_eq!(partition_id, known.partition_id);
    assert_eq!(header.number("incarnation", &manifest), u64::from(known.incarnation));
    assert_eq!(header.number("secret", &manifest), known.secret);
    assert!(known.segments.len() > 2, "the segments are small, so that there are several");

    let (entry, segment) = (Table::of("Manifest entry"), Table::of("Segment header"));
    let (frame, record) = (Table::of("Frame header"), Table::of("Record header"));
    let place = Table::of("Places entry");
    let room = manifest[header.len()..].chunks(entry.len());
    let (entries, unused): (Vec<&[u8]>, Vec<&[u8]>) = room.partition(|e| entry.number("number", e) > 0);
    assert!(unused.concat().iter().all(|&b| b == 0), "what is not used is zero");
    assert_eq!(entries.len(), known.segments.len());
    let (mut position, mut end, mut end_address, mut checksum, mut place_count) = (0, 0, 0, 0, 0);
    for (i, (e, known)) in entries.iter().zip(&known.segments).enumerate() {
        assert_eq!(entry.number("crc", e) as u32, crc32(partition_seed, &e[4..64]));
        assert_eq!(entry.number("number", e), i as u64 + 1);
        assert_eq!(entry.number("salt", e), known.salt);
        assert_eq!(entry.number("base_position", e), position);
        assert_eq!(entry.number("base_address", e), u64::next_multiple_of(end_address, 4096));
        assert_eq!(entry.number("base_time", e) as i64, known.base_time.as_micros());
        assert_eq!(entry.number("previous_len", e), end);
        assert_eq!(entry.number("previous_checksum", e), u64::from(checksum));
        entry.check_zeros(e);

        let bytes = file(&env, &format!("{PARTITION}/{:016}.seg", i + 1));
        check_head(&bytes, &SEGMENT_MAGIC, &bytes[..segment.len()]);
        for field in ["salt", "number", "base_position", "base_address", "base_time"] {
            assert_eq!(segment.number(field, &bytes), entry.number(field, e), "{field}");
        }
        assert_eq!(segment.bytes("partition_id", &bytes), partition_id);
        segment.check_zeros(&bytes);
        assert!(bytes[segment.len()..FRAMES_START as usize].iter().all(|&b| b == 0));

        let salt = segment.number("salt", &bytes);
        let seed = (salt >> 32) as u32;
        assert_eq!(salt & 1, 1);
        let (base_position, base_time) =
            (segment.number("base_position", &bytes), segment.number("base_time", &bytes));
        let mut at = FRAMES_START as usize;
        let mut frames = BTreeMap::new();
        checksum = 0;
        while at + frame.len() <= bytes.len() && frame.number("salt", &bytes[at..]) == salt & 0xffff_ffff {
            let f = &bytes[at..];
            assert_eq!(frame.number("crc", f) as u32, crc32(seed, &f[4..48]));
            assert_eq!(frame.number("first_position", f), position);
            assert_eq!((frame.number("count", f), frame.number("flags", f)), (3, 0));
            // One thread that waits for each: everything before was durable.
            assert_eq!(frame.number("synced_end", f), position);
            frame.check_zeros(f);
            checksum = crc32(checksum, &f[0..4]);
            frames.insert(at as u64, (position, frame.number("recorded_time", f)));
            let (mut inside, mut sum) = (frame.len(), 0u32);
            let len = frame.len() + frame.number("body_len", f) as usize;
            while inside < len {
                let r = &f[inside..len];
                let body_end = record.len() + record.number("body_len", r) as usize;
                let address = segment.number("base_address", &bytes) + (at + inside) as u64;
                let crc = crc32(seed ^ address as u32, &r[4..body_end]);
                assert_eq!(record.number("crc", r) as u32, crc);
                sum = sum.wrapping_add(crc);
                let packed = record.number("place", r);
                assert_eq!(base_position + (packed >> 40), position);
                assert_eq!(base_time + (packed & ((1 << 40) - 1)), frame.number("recorded_time", f));
                position += 1;
                inside += body_end.next_multiple_of(8);
                assert!(r[body_end..body_end.next_multiple_of(8)].iter().all(|&b| b == 0));
            }
            assert_eq!((inside, frame.number("records_sum", f)), (len, u64::from(sum)));
            at += len;
        }
        end = at as u64;
        end_address = segment.number("base_address", &bytes) + end;
        assert_eq!(bytes.len() as u64, end, "sealed, or cut on closing: it ends with its last frame");

        let places = file(&env, &format!("{PARTITION}/{:016}.pos", i + 1));
        let mut last = None;
        for p in places.chunks(place.len()) {
            assert_eq!(place.number("crc", p) as u32, crc32(seed, &p[4..32]));
            let file_offset = place.number("file_offset", p);
            let expected = frames.get(&file_offset).copied();
            assert_eq!(Some((place.number("position", p), place.number("time", p))), expected);
            assert!(last.is_none_or(|last| file_offset >= last + SPARSE_DISTANCE));
            last = Some(file_offset);
            place_count += 1;
        }
    }
    assert_eq!(position, 600);
    assert!(place_count > 5, "{place_count} places");

    let marks = file(&env, &format!("{PARTITION}/{MARK_NAME}"));
    assert_eq!(marks.len() as u64, 2 * MARK_SLOT_DISTANCE);
    let slot = Table::of("Mark slot");
    let mut sequences = Vec::new();
    for (i, at) in [0, MARK_SLOT_DISTANCE as usize].into_iter().enumerate() {
        let m = &marks[at..];
        assert_eq!(slot.bytes("magic", m), b"MARK");
        assert_eq!(slot.number("crc", m) as u32, crc32(partition_seed, &m[8..64]));
        assert_eq!(slot.number("sequence", m) % 2, i as u64, "the slot of its turn");
        slot.check_zeros(m);
        sequences.push((slot.number("sequence", m), m));
    }
    let (_, newest) = sequences.into_iter().max_by_key(|(sequence, _)| *sequence).expect("two");
    assert_eq!(slot.number("flags", newest), 1, "the log was closed");
    assert_eq!(slot.number("position", newest), position);
    assert_eq!(slot.number("segment", newest), entries.len() as u64);
    assert_eq!(slot.number("file_offset", newest), end);
    assert_eq!(slot.number("checksum", newest), u64::from(checksum));
    assert_eq!(slot.number("recorded_time", newest) as i64, env.clock.now().as_micros());
    assert_eq!(slot.number("incarnation", newest), 1);
}

#[test]
fn an_event_body_reads_by_the_table_whichever_fields_it_has() {
    let env = fixed_env();
    let store = Store::open_with(&env, "/store", StoreOptions::default()).expect("made");
    let topic = store.create_topic("orders", TopicOptions::default()).expect("made");
    let id = EventId::from_name("an id");
    let time = Timestamp::from_micros(-5);
    let long_tag = "t".repeat(200);
    let full = NewEvent::new("Full")
        .id(id)
        .event_time(time)
        .schema_version(300)
        .content_type("text/plain")
        .key(b"\0key".as_slice())
        .tag("a:1")
        .tag(long_tag.as_str())
        .metadata("m", b"\xff".as_slice())
        .metadata("m", b"".as_slice())
        .data(b"data".as_slice());
    let cases = [
        full.clone(),
        NewEvent::new("Bare"),
        NewEvent::new("Empty").data(b"".as_slice()),
        NewEvent { event_time: None, ..full.clone() },
        NewEvent { key: None, tags: Vec::new(), ..full.clone() },
        NewEvent { data: None, metadata: Vec::new(), schema_version: 1, ..full },
    ];
    for (revision, event) in cases.iter().enumerate() {
        let mut event = event.clone();
        event.id = event.id.map(|_| EventId::from_name(&format!("id {revision}")));
        topic.append(&Batch::to("stream-ü").event(event)).wait().expect("appended");
    }
    drop(topic);
    store.close().expect("closed");

    let segment = file(&env, &format!("{PARTITION}/0000000000000001.seg"));
    let bodies = bodies(&segment);
    assert_eq!(bodies.len(), cases.len());
    for (revision, (event, body)) in cases.iter().zip(bodies).enumerate() {
        let fields = read_body(body);
        let get = |name: &str| fields.iter().find(|f| f.name == name).map(|f| f.content.clone());
        if event.id.is_some() {
            let id = EventId::from_name(&format!("id {revision}"));
            assert_eq!(get("id").as_deref(), Some(id.as_bytes().as_slice()));
        }
        assert_eq!(get("revision"), Some(varint(revision as u64)));
        assert_eq!(get("stream"), Some("stream-ü".as_bytes().to_vec()));
        assert_eq!(get("type"), Some(event.event_type.as_bytes().to_vec()));
        assert_eq!(get("event_time"), event.event_time.map(|t| t.as_micros().to_le_bytes().to_vec()));
        let version = (event.schema_version != 1).then(|| varint(u64::from(event.schema_version)));
        assert_eq!(get("schema_version"), version);
        let other =
            (event.content_type != "application/json").then(|| event.content_type.as_bytes().to_vec());
        assert_eq!(get("content_type"), other);
        assert_eq!(get("key"), event.key.as_ref().map(|k| k.to_vec()));
        let pack = |out: &mut Vec<u8>, bytes: &[u8]| {
            out.extend(varint(bytes.len() as u64));
            out.extend_from_slice(bytes);
        };
        let mut tags = Vec::new();
        event.tags.iter().for_each(|t| pack(&mut tags, t.as_bytes()));
        assert_eq!(get("tags"), (!tags.is_empty()).then_some(tags));
        let mut metadata = Vec::new();
        for (name, value) in &event.metadata {
            pack(&mut metadata, name.as_bytes());
            pack(&mut metadata, value);
        }
        assert_eq!(get("metadata"), (!metadata.is_empty()).then_some(metadata));
        assert_eq!(get("data"), event.data.as_ref().map(|d| d.to_vec()));
    }
}

#[test]
fn an_index_file_reads_by_the_tables_with_lists_of_every_kind() {
    // Terms of one posting (inline), of a few (a short list) and of many (blocks); enough terms for two directory pages.
    let env = fixed_env();
    let config = IndexConfig { seed: 99, run_postings: 1 << 23, ..IndexConfig::default() };
    let start = LogPoint { address: 4096, position: 0 };
    let identity = |_| Some(17);
    env.disk.create_dir(Path::new("/log")).expect("made");
    let dir = Path::new("/log/index");
    let set = IndexSet::open(&env, dir, config, start..start, &identity).expect("made").set;
    let hasher = set.hasher();
    let events = 400_000u64;
    let address = |i: u64| 4096 + i * 40;
    let mut expected: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for i in 0..events {
        let mut terms = vec![hasher.hash(TermKind::EventId, &i.to_le_bytes())];
        if i % 1000 == 0 {
            terms.push(hasher.hash(TermKind::Type, b"Seldom"));
        }
        if i % 3 == 0 {
            terms.push(hasher.hash(TermKind::Tag, &(i / 15).to_le_bytes()));
        }
        for term in &terms {
            let list = expected.entry(term.bits()).or_default();
            if list.last() != Some(&address(i)) {
                list.push(address(i));
            }
        }
        set.append(
            [(LogPoint { address: address(i), position: i }, terms.as_slice())],
            LogPoint { address: address(i + 1), position: i + 1 },
        );
    }
    set.close(&identity).expect("written");
    let names: Vec<String> = env.disk.list(dir).expect("listed");
    let name = format!("{:016x}-{:016x}.idx", 4096, address(events));
    assert_eq!(names, [name.as_str()], "the name is that of the range");
    let bytes = file(&env, &format!("/log/index/{name}"));

    let header = Table::of("Index header");
    assert_eq!(header.bytes("magic", &bytes), layout::MAGIC);
    assert_eq!(header.number("version", &bytes), u64::from(layout::VERSION));
    assert_eq!(header.number("crc", &bytes) as u32, crc32(0, &bytes[..4092]));
    assert_eq!(header.number("from_address", &bytes), 4096);
    assert_eq!(header.number("to_address", &bytes), address(events));
    assert_eq!((header.number("from_position", &bytes), header.number("to_position", &bytes)), (0, events));
    assert_eq!(header.number("terms", &bytes), expected.len() as u64);
    assert_eq!(header.number("postings", &bytes), expected.values().map(|l| l.len() as u64).sum::<u64>());
    header.check_zeros(&bytes);
    let postings_bytes = header.number("postings_bytes", &bytes);
    let (postings_pages, table_pages) =
        (postings_bytes.div_ceil(4092), (expected.len() as u64).div_ceil(454));
    let directory_pages = table_pages.div_ceil(818);
    assert!(directory_pages > 1);
    assert_eq!(bytes.len() as u64, 4096 * (1 + postings_pages + table_pages + directory_pages));

    let (page, salt) = (Table::of("Index page"), header.number("salt", &bytes) as u32);
    let mut pages = bytes[4096..].chunks(4096);
    let mut section = |number: u32, count: u64| -> Vec<&[u8]> {
        let section = pages.by_ref().take(count as usize).enumerate().map(|(i, p)| {
            let seed = salt.wrapping_add(4 * i as u32).wrapping_add(number);
            assert_eq!(page.number("crc", p) as u32, crc32(seed, &p[..4092]), "page {i} of section {number}");
            page.bytes("content", p)
        });
        section.collect()
    };
    let postings: Vec<u8> = section(0, postings_pages).concat();
    let (table, directory) = (section(1, table_pages), section(2, directory_pages));

    let entry = Table::of("Index table entry");
    let mut kinds = [0; 3];
    let mut walked = expected.iter();
    for (i, content) in table.iter().enumerate() {
        let first = &directory[i / 818][i % 818 * 5..][..5];
        assert_eq!(entry.bytes("hash", content), first, "the directory holds the first hash of page {i}");
        for e in content.chunks_exact(entry.len()).take(454) {
            let Some((hash, addresses)) = walked.next() else { break };
            assert_eq!(entry.number("hash", e), *hash);
            let (kind, list) = read_postings(entry.number("reference", e) as u32, &postings);
            kinds[kind] += 1;
            let list: Vec<u64> = list.iter().map(|unit| 4096 + u64::from(*unit) * 8).collect();
            assert_eq!(&list, addresses, "hash {hash:#x}");
        }
    }
    assert!(walked.next().is_none());
    assert!(kinds.iter().all(|&k| k > 0), "lists of every kind: {kinds:?}");

    for (number, kind) in [
        (1, TermKind::Stream),
        (2, TermKind::Category),
        (3, TermKind::Type),
        (4, TermKind::Tag),
        (5, TermKind::EventId),
        (6, TermKind::Births),
    ] {
        let seed = 99 ^ 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(number);
        let hash = xxhash_rust::xxh3::xxh3_64_with_seed(b"name", seed) >> 24;
        assert_eq!(TermHasher::new(99).hash(kind, b"name"), TermHash::from_bits(hash), "{kind:?}");
        let row = PAGE.lines().filter(|l| l.contains(&format!(" | {number} | "))).count();
        assert!(row >= 1, "the page names the kind {number}");
    }
    let binding = xxhash_rust::xxh3::xxh3_64_with_seed(&17u64.to_le_bytes(), 99);
    assert_eq!(header.number("binding", &bytes), binding);
}

#[test]
fn the_binding_of_an_index_file_is_what_the_page_says() {
    let env = fixed_env();
    let store = Store::open_with(&env, "/store", StoreOptions::default()).expect("made");
    let topic = store.create_topic("orders", TopicOptions::default()).expect("made");
    topic.append(&Batch::to("order-1").event(NewEvent::new("Placed"))).wait().expect("appended");
    drop(topic);
    store.close().expect("closed");
    let known = Manifest::load(&env, Path::new(PARTITION)).expect("read").expect("there");
    let index = format!("{PARTITION}/index");
    let names = env.disk.list(Path::new(&index)).expect("listed");
    let [name] = names.as_slice() else { panic!("one index file, not {names:?}") };
    let bytes = file(&env, &format!("{index}/{name}"));
    let mut identity = known.partition_id.to_vec();
    identity.extend(known.incarnation.to_le_bytes());
    identity.extend(known.segments[0].number.to_le_bytes());
    identity.extend(known.segments[0].salt.to_le_bytes());
    let identity = xxhash_rust::xxh3::xxh3_64(&identity);
    let binding = xxhash_rust::xxh3::xxh3_64_with_seed(&identity.to_le_bytes(), known.secret);
    assert_eq!(Table::of("Index header").number("binding", &bytes), binding);
}

#[test]
fn the_journal_of_a_consumer_group_has_the_types_and_fields_of_the_tables() {
    const JOURNAL: &str = "The journal of a consumer group";
    let names =
        |cell: &str| -> BTreeSet<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let table = |head| -> BTreeMap<String, BTreeSet<String>> {
        let rows = rows(JOURNAL, head).into_iter();
        rows.map(|row| (row[0].trim_matches('`').to_owned(), names(&row[1]))).collect()
    };
    let types = table("| type | fields | what happened |");
    let objects = table("| object | fields |");

    let (mut seen, mut seen_objects) = (BTreeMap::new(), BTreeMap::new());
    for event in journal_with_everything() {
        let data: Value = serde_json::from_slice(event.data.as_deref().expect("data")).expect("JSON");
        match event.event_type.as_ref() {
            "ImagePart" => continue,
            "ImageClosed" => {
                let fields: Vec<&String> = data.as_object().expect("an object").keys().collect();
                assert_eq!(fields, ["first_revision", "parts"]);
                seen.insert("ImageClosed".to_owned(), BTreeSet::new());
                continue;
            }
            _ => {}
        }
        let fields = match &data {
            Value::String(name) => {
                assert_eq!(name.as_str(), &*event.event_type);
                BTreeSet::new()
            }
            data => {
                let outer = data.as_object().expect("an object");
                assert_eq!(outer.len(), 1);
                let inner = outer.get(&*event.event_type).and_then(Value::as_object).expect("its fields");
                inner.keys().cloned().collect()
            }
        };
        assert_eq!(seen.entry(event.event_type.to_string()).or_insert_with(|| fields.clone()), &fields);
        note_objects(&data, &objects, &mut seen_objects);
    }
    assert!(seen.remove("ImageClosed").is_some(), "an image was written");
    assert_eq!(seen, types);
    assert_eq!(seen_objects, objects);
}

/// The fields of each object that the page has a table line for, wherever it stands.
fn note_objects(
    data: &Value,
    known: &BTreeMap<String, BTreeSet<String>>,
    seen: &mut BTreeMap<String, BTreeSet<String>>,
) {
    for (name, value) in data.as_object().into_iter().flatten() {
        if known.contains_key(name) {
            let fields = value.as_object().expect("an object").keys().cloned();
            seen.entry(name.clone()).or_default().extend(fields);
        }
        note_objects(value, known, seen);
    }
}

/// What a group writes that has done everything there is to do.
fn journal_with_everything() -> Vec<RecordedEvent> {
    let disk = SimulatedDisk::new();
    let open = |disk: &SimulatedDisk| {
        let store = Store::open_with(&disk.env(1), "/store", StoreOptions::default()).expect("opened");
        let orders = match store.topic("orders") {
            Ok(topic) => topic,
            Err(_) => store.create_topic("orders", TopicOptions::default()).expect("made"),
        };
        (store, orders)
    };
    let (store, orders) = open(&disk);
    for stream in ["a", "a", "b", "c"] {
        orders.append(&Batch::to(stream).event(NewEvent::new("E"))).wait().expect("appended");
    }
    let policy = GroupPolicy {
        tries_max: 2,
        backoff_first: Duration::ZERO,
        dead_letters_max: 1,
        ..GroupPolicy::default()
    };
    let options = GroupOptions { policy: policy.clone(), ..GroupOptions::default() };
    let group = orders.create_group("g", &options).expect("made");
    group.pause().expect("paused");
    group.resume().expect("resumed");
    let failure = Failure { chain: vec!["cause".to_owned()], ..Failure::new("Bad", "no") };
    let mut member = group.join().expect("joined");
    let next = |member: &mut annals_store::Member| {
        member.next(Duration::ZERO).expect("delivered").expect("one").place()
    };
    for _ in 0..2 {
        let first = next(&mut member);
        member.nack(first, &failure, None).expect("in hand");
    }
    let letter = group.dead_letters().expect("read").remove(0).place;
    // No room for another.
    let other = next(&mut member);
    member.park(other, &failure).expect_err("stopped");
    group.set_policy(&GroupPolicy { not_retried: vec!["x".repeat(300_000)], ..policy }).expect("set");
    group.resume().expect("resumed");
    let other = next(&mut member);
    member.release(other).expect("in hand");
    let other = next(&mut member);
    member.ack(other).expect("in hand");
    member.commit().expect("committed");
    // The process dies with something in hand.
    next(&mut member);
    let after = disk.fork();
    drop((member, group, orders));
    store.close().expect("closed");
    let (store, orders) = open(&after);
    let group = orders.group("g").expect("there");
    drop(group.join().expect("joined"));
    group.redrive(letter, Some(&[0xff])).expect("there");
    let mut member = group.join().expect("joined");
    while let Some(delivery) = member.next(Duration::ZERO).expect("delivered") {
        let place = delivery.place();
        member.park(place, &failure).expect("in hand");
        group.discard(place, "no use").expect("there");
    }
    drop(member);
    group.reset(&ResetTo::At(At::Start)).expect("reset");
    orders.delete_group("g").expect("deleted");
    let journal = store.internal_topic("$group/1/g").expect("there");
    journal.read(&Read::all()).expect("read").map(|event| event.expect("whole")).collect()
}

#[test]
fn the_worked_example_is_what_the_code_writes() {
    let segment = example_segment();
    let mut out = Listing { bytes: &segment, at: 0, lines: Vec::new() };
    out.fields(&Table::of("The head of a file"));
    for field in Table::of("Segment header").fields.into_iter().skip(1) {
        out.field(&field.name, field.size);
    }
    out.skip_zeros(FRAMES_START as usize, "the rest of the header's block");
    let frame = Table::of("Frame header");
    let frame_end = out.at + frame.len() + frame.number("body_len", &segment[out.at..]) as usize;
    out.line(&[], "frame");
    out.fields(&frame);
    while out.at < frame_end {
        let record = Table::of("Record header");
        let start = out.at;
        let body_len = record.number("body_len", &segment[start..]) as usize;
        out.line(&[], "record");
        out.fields(&record);
        for part in read_body(&segment[out.at..out.at + body_len]) {
            out.field(&part.name, part.len);
        }
        out.skip_zeros((start + record.len() + body_len).next_multiple_of(8), "padding");
    }
    assert_eq!(segment.len(), frame_end, "closing the store cut the file behind the last frame");
    let expected = out.lines.join("\n");
    let (_, from) = PAGE.split_once("## Worked example").expect("the page has an example");
    let shown = from.split("```text\n").nth(1).and_then(|b| b.split("\n```").next()).unwrap_or_default();
    assert!(shown == expected, "the example should be\n```text\n{expected}\n```");
}

// ---------------------------------------------------------------------------------------------- the page

struct Field {
    offset: usize,
    size: usize,
    name: String,
}

/// A table of the page.
struct Table {
    fields: Vec<Field>,
}

/// The lines under a heading, up to the next heading.
fn section_of(heading: &str) -> Vec<&'static str> {
    let mut lines =
        PAGE.lines().skip_while(|l| l.trim_start_matches('#').trim() != heading || !l.starts_with('#'));
    assert!(lines.next().is_some(), "the page has no heading `{heading}`");
    lines.take_while(|l| !l.starts_with('#')).collect()
}

/// The text under a heading, on one line.
fn words_of(heading: &str) -> String {
    section_of(heading).join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn rows(heading: &str, head: &str) -> Vec<Vec<String>> {
    let lines = section_of(heading).into_iter().skip_while(|l| *l != head).skip(2);
    let rows: Vec<Vec<String>> = lines
        .take_while(|l| l.starts_with('|'))
        .map(|l| l.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect();
    assert!(!rows.is_empty(), "`{heading}` has no table {head}");
    rows
}

impl Table {
    fn of(heading: &str) -> Table {
        let fields = rows(heading, FIELDS).into_iter().map(|row| Field {
            offset: row[0].parse().expect("an offset"),
            size: row[1].parse().expect("a size"),
            name: row[2].clone(),
        });
        Table { fields: fields.collect() }
    }

    fn len(&self) -> usize {
        self.fields.iter().map(|f| f.size).sum()
    }

    fn bytes<'b>(&self, name: &str, bytes: &'b [u8]) -> &'b [u8] {
        let field = self.fields.iter().find(|f| f.name == name);
        let field = field.unwrap_or_else(|| panic!("no field `{name}`"));
        &bytes[field.offset..field.offset + field.size]
    }

    /// A little-endian number of at most eight bytes.
    fn number(&self, name: &str, bytes: &[u8]) -> u64 {
        let bytes = self.bytes(name, bytes);
        assert!(bytes.len() <= 8, "`{name}` is no number");
        bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b))
    }

    fn check_zeros(&self, bytes: &[u8]) {
        for field in self.fields.iter().filter(|f| f.name == "zero") {
            assert!(bytes[field.offset..field.offset + field.size].iter().all(|&b| b == 0));
        }
    }
}

/// The head that files share; the checksum is over `covered`.
fn check_head(bytes: &[u8], magic: &[u8], covered: &[u8]) {
    let head = Table::of("The head of a file");
    assert_eq!(head.bytes("magic", bytes), magic);
    assert_eq!(head.number("version", bytes), u64::from(FORMAT_VERSION));
    assert_eq!(head.number("required features", bytes), 0);
    assert_eq!(head.number("optional features", bytes), 0);
    let mut covered = covered.to_vec();
    covered[20..24].fill(0);
    assert_eq!(head.number("crc", bytes) as u32, crc32(0, &covered));
}

struct BodyField {
    name: String,
    /// Bytes it takes, its length included.
    len: usize,
    /// Without its length.
    content: Vec<u8>,
}

/// The fields of an event's body, by the page's table alone.
fn read_body(body: &[u8]) -> Vec<BodyField> {
    let (mut at, mut flags, mut fields) = (0, 0u8, Vec::new());
    for row in rows("Event body", BODY) {
        let present = match row[3].strip_prefix("bit ") {
            Some(bit) => flags >> bit.parse::<u32>().expect("a bit") & 1 == 1,
            None => row[3] == "always",
        };
        if !present {
            continue;
        }
        let start = at;
        let content = match row[1].as_str() {
            "varint" => {
                take_varint(body, &mut at);
                start..at
            }
            "text" | "bytes" => {
                let len = take_varint(body, &mut at) as usize;
                at += len;
                at - len..at
            }
            "rest" => {
                at = body.len();
                start..at
            }
            form => {
                at +=
                    form.split(' ').next().and_then(|n| n.parse::<usize>().ok()).expect("a number of bytes");
                start..at
            }
        };
        if row[2] == "flags" {
            flags = body[start];
        }
        fields.push(BodyField { name: row[2].clone(), len: at - start, content: body[content].to_vec() });
    }
    assert_eq!(at, body.len(), "nothing is left behind");
    fields
}

/// The bodies of the records of a closed store's segment of one-record frames.
fn bodies(segment: &[u8]) -> Vec<&[u8]> {
    let (frame, record) = (Table::of("Frame header"), Table::of("Record header"));
    let (mut at, mut bodies) = (FRAMES_START as usize, Vec::new());
    while at < segment.len() {
        let start = at + frame.len() + record.len();
        bodies
            .push(&segment[start..start + record.number("body_len", &segment[at + frame.len()..]) as usize]);
        at += frame.len() + frame.number("body_len", &segment[at..]) as usize;
    }
    bodies
}

/// The postings that a reference of an index table means, as units, and how they are kept: 0 inline, 1 short, 2 blocks.
fn read_postings(reference: u32, postings: &[u8]) -> (usize, Vec<u32>) {
    if reference >> 31 == 1 {
        return (0, vec![reference & (u32::MAX >> 1)]);
    }
    let list = reference as usize * 2;
    let mut at = list;
    let count = take_varint(postings, &mut at) as usize;
    let mut units = Vec::new();
    if count <= 128 {
        let mut unit = take_varint(postings, &mut at) as u32;
        units.push(unit);
        for _ in 1..count {
            unit += take_varint(postings, &mut at) as u32;
            units.push(unit);
        }
        return (1, units);
    }
    let blocks = take_varint(postings, &mut at) as usize;
    let blocks_bytes = take_varint(postings, &mut at) as usize;
    let start = list - blocks_bytes.next_multiple_of(2);
    let word = |at: usize| u32::from_le_bytes(postings[at..at + 4].try_into().expect("four bytes"));
    for block in 0..blocks {
        let mut unit = word(at + block * 8);
        let mut inside = start + word(at + block * 8 + 4) as usize;
        let end = if block + 1 < blocks { word(at + block * 8 + 12) as usize } else { blocks_bytes } + start;
        units.push(unit);
        while inside < end {
            unit += take_varint(postings, &mut inside) as u32;
            units.push(unit);
        }
    }
    assert_eq!(units.len(), count);
    (2, units)
}

fn take_varint(bytes: &[u8], at: &mut usize) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes[*at];
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            return value;
        }
    }
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// The checksum as the page describes it, a bit at a time.
fn crc32(seed: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let (mut crc, mut bit) = (i as u32, 0);
            while bit < 8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!seed, |crc, &b| crc >> 8 ^ TABLE[((crc ^ u32::from(b)) & 0xff) as usize])
}

// ---------------------------------------------------------------------------------------------- the bytes

/// A clock that stands still until it is set.
struct SetClock(AtomicI64);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

/// Randomness that counts up from 1.
struct Counted(AtomicU8);

impl Entropy for Counted {
    fn fill(&self, buf: &mut [u8]) {
        buf.fill_with(|| self.0.fetch_add(1, Ordering::SeqCst).wrapping_add(1));
    }
}

fn noon() -> Timestamp {
    "2026-01-31T12:00:00Z".parse().expect("a time")
}

fn fixed_env() -> Env {
    let clock = Arc::new(SetClock(AtomicI64::new(noon().as_micros())));
    Env { clock, entropy: Arc::new(Counted(AtomicU8::new(0))), ..Env::in_memory() }
}

fn file(env: &Env, path: &str) -> Vec<u8> {
    let file = env.disk.open(Path::new(path), Access::Read).unwrap_or_else(|e| panic!("{path}: {e}"));
    let mut bytes = vec![0; file.len().expect("asked") as usize];
    file.read_exact_at(&mut bytes, 0).expect("read");
    bytes
}

/// The segment of the page's worked example.
fn example_segment() -> Vec<u8> {
    let clock = Arc::new(SetClock(AtomicI64::new(noon().as_micros())));
    let env = Env { clock: Arc::clone(&clock) as Arc<dyn Clock>, ..fixed_env() };
    let store = Store::open_with(&env, "/store", StoreOptions::default()).expect("made");
    let orders = store.create_topic("orders", TopicOptions::default()).expect("made");
    clock.0.fetch_add(1_500_000, Ordering::SeqCst);
    let id = |last: u8| EventId::from_bytes([0, 0, 0, 0, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, last]);
    let placed =
        NewEvent::new("OrderPlaced").id(id(1)).tag("customer:7").data(br#"{"total":300}"#.as_slice());
    let paid = NewEvent::new("PaymentReceived").id(id(2)).event_time(noon());
    orders.append(&Batch::to("order-42").event(placed).event(paid)).wait().expect("appended");
    drop(orders);
    store.close().expect("closed");
    file(&env, &format!("{PARTITION}/0000000000000001.seg"))
}

/// Bytes with their names, as the example shows them.
struct Listing<'b> {
    bytes: &'b [u8],
    at: usize,
    lines: Vec<String>,
}

impl Listing<'_> {
    fn fields(&mut self, table: &Table) {
        for field in &table.fields {
            self.field(&field.name, field.size);
        }
    }

    fn field(&mut self, name: &str, len: usize) {
        let content = &self.bytes[self.at..self.at + len];
        if len > 16 && content.iter().all(|&b| b == 0) {
            return self.skip_zeros(self.at + len, name);
        }
        let content = content.to_vec();
        let mut name = name.to_owned();
        let text: String = content.iter().skip_while(|&&b| b < 0x20).map(|&b| char::from(b)).collect();
        if content.len() >= 4 && text.len() + 2 >= content.len() && text.chars().all(|c| c.is_ascii_graphic())
        {
            name = format!("{name}: {text}");
        }
        for (i, row) in content.chunks(8).enumerate() {
            self.line(row, if i == 0 { &name } else { "" });
        }
    }

    fn line(&mut self, bytes: &[u8], name: &str) {
        let hex: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let line = match bytes {
            [] => format!("      -- {name} --"),
            _ => format!("{:04x}  {:23}  {name}", self.at, hex.join(" ")),
        };
        self.lines.push(line.trim_end().to_owned());
        self.at += bytes.len();
    }

    fn skip_zeros(&mut self, to: usize, name: &str) {
        let zeros = to - self.at;
        assert!(self.bytes[self.at..to].iter().all(|&b| b == 0));
        if zeros > 0 {
            self.lines.push(format!("{:04x}  {:23}  {name}", self.at, format!("{zeros} zeros")));
        }
        self.at = to;
    }
}
