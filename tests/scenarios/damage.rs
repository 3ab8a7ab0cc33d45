//! One piece of damage, mostly a flipped bit.

use std::ops::Range;
use std::path::Path;

use annals_log::env::Disk;
use annals_log::simulated::SimulatedDisk;
use annals_model::{Durability, ErrorKind};
use annals_tests::contents;
use annals_tests::damaged::{Damage, Sample, Verdict, some_bits};

use super::{PARTITION, open, patch, segment};

/// Flips every bit of a range of a file; `may` says what may become of it.
fn flips(sample: &Sample, file: &str, range: Range<usize>, may: &[Verdict]) {
    let file = sample.file(file);
    for bit in range.start * 8..range.end * 8 {
        let verdict = sample.judge(file, Damage::Flip(bit), true);
        assert!(may.contains(&verdict), "bit {bit} of {}: {verdict:?}", file.display());
    }
}

pub(crate) fn every_bit_of_the_catalogue_counts() {
    flips(&Sample::closed(), "catalogue", 0..100, &[Verdict::Refused, Verdict::Harmless]);
}

pub(crate) fn every_bit_of_the_manifest_counts() {
    // The header, and an entry for each of two segments; the last may be one that a roll did not come to the end of.
    flips(&Sample::closed(), "manifest", 64..192, &[Verdict::Refused, Verdict::Harmless]);
}

pub(crate) fn every_bit_of_a_head_counts() {
    flips(&Sample::closed(), "manifest", 0..64, &[Verdict::Refused, Verdict::Harmless]);
}

pub(crate) fn every_bit_of_a_mark_counts() {
    for slot in [0..60, 512..572] {
        flips(&Sample::closed(), "mark", slot, &[Verdict::Harmless]);
    }
}

pub(crate) fn every_bit_of_a_place_counts() {
    flips(&Sample::closed(), "1.pos", 0..32, &[Verdict::Harmless]);
}

pub(crate) fn every_bit_of_a_frame_header_counts() {
    let sample = Sample::closed();
    let heads = sample.heads(sample.file("1.seg"));
    for head in &heads[3..6] {
        let header = head.start..head.start + 48;
        flips(&sample, "1.seg", header, &[Verdict::Corrupt, Verdict::Harmless]);
    }
}

pub(crate) fn every_bit_of_a_record_counts() {
    let sample = Sample::closed();
    let heads = sample.heads(sample.file("1.seg"));
    let records = heads[1].start + 48..heads[2].start;
    flips(&sample, "1.seg", records, &[Verdict::Corrupt, Verdict::Harmless]);
}

pub(crate) fn every_bit_of_an_index_header_counts() {
    flips(&Sample::closed(), ".idx", 0..88, &[Verdict::Harmless]);
}

pub(crate) fn bits_of_index_pages_count() {
    let sample = Sample::closed();
    for (i, (file, bytes)) in sample.files.iter().enumerate() {
        if file.extension().is_some_and(|e| e == "idx") {
            // The tables and directories stand at the end and are not full.
            let pages = (4096..*bytes).step_by(4096);
            let starts = pages.flat_map(|page| (page * 8..page * 8 + 800).step_by(7));
            for bit in starts.chain(some_bits(i as u64, *bytes, 200)) {
                let verdict = sample.judge(file, Damage::Flip(bit), true);
                assert_eq!(verdict, Verdict::Harmless, "bit {bit} of {}", file.display());
            }
        }
    }
}

pub(crate) fn damage_before_the_last_batch_is_no_torn_tail() {
    let sample = Sample::cut();
    let heads = sample.heads(sample.file("2.seg"));
    for head in &heads[1..heads.len() - 1] {
        for byte in [head.start + 9, head.start + 60] {
            let verdict = sample.judge(sample.file("2.seg"), Damage::Flip(byte * 8), false);
            assert_eq!(verdict, Verdict::Refused, "byte {byte}");
        }
    }
}

pub(crate) fn damage_before_the_mark_is_no_torn_tail() {
    let sample = Sample::closed();
    let heads = sample.heads(sample.file("2.seg"));
    for head in &heads[1..] {
        for byte in [head.start + 9, head.start + 60] {
            let verdict = sample.judge(sample.file("2.seg"), Damage::Flip(byte * 8), true);
            assert_eq!(verdict, Verdict::Corrupt, "byte {byte}");
        }
    }
}

pub(crate) fn a_segment_cut_short_is_missed() {
    let sample = Sample::closed();
    for (file, verdict) in [("1.seg", Verdict::Corrupt), ("2.seg", Verdict::Refused)] {
        let used = contents(&sample.disk, sample.file(file)).len();
        for len in [used - 1, used - 100, 5000, 4096] {
            assert_eq!(
                sample.judge(sample.file(file), Damage::Cut(len), true),
                verdict,
                "{file} cut to {len}"
            );
        }
    }
}

pub(crate) fn lost_files_are_missed() {
    for sample in [Sample::closed(), Sample::cut()] {
        for file in ["1.seg", "2.seg", "manifest", "catalogue"] {
            assert_eq!(sample.judge(sample.file(file), Damage::Delete, false), Verdict::Refused, "{file}");
        }
    }
}

pub(crate) fn a_lost_entry_is_missed() {
    // The last mark that was synced is in the segment before, so it proves nothing of the next.
    let sample = Sample::cut();
    for bit in [128 * 8, 140 * 8 + 3, 170 * 8] {
        assert_eq!(
            sample.judge(sample.file("manifest"), Damage::Flip(bit), false),
            Verdict::Refused,
            "bit {bit}"
        );
    }
}

#[track_caller]
fn is_refused(image: &SimulatedDisk) {
    let opened =
        open(&image.env(5), Durability::Synced).map(|(_, topic)| super::all(&topic).map(|e| e.len()));
    let kind = opened.map_err(|e| e.kind().clone());
    assert!(matches!(kind, Err(ErrorKind::Corrupt { .. })), "{kind:?}");
}

pub(crate) fn a_lost_segment_is_missed_with_its_entry() {
    let image = Sample::closed().disk.fork();
    patch(&image, &Path::new(PARTITION).join("manifest"), 128, &[0; 64]);
    image.remove(&segment(2)).expect("it is there");
    is_refused(&image);
}

pub(crate) fn swapped_sectors_are_told_apart() {
    let sample = Sample::closed();
    for file in ["1.seg", "2.seg"] {
        let sectors = contents(&sample.disk, sample.file(file)).len() / 512;
        for i in 8..sectors {
            for k in i + 1..sectors {
                sample.judge(sample.file(file), Damage::Swap(i, k), true);
            }
        }
    }
}

pub(crate) fn a_length_is_not_allocated_before_it_is_checked() {
    let sample = Sample::closed();
    let file = sample.file("2.seg");
    for head in &sample.heads(file)[1..] {
        // A record of a mebibyte more, at the end of a file that is much shorter.
        let length = (head.start + 48 + 4) * 8 + 20;
        assert_eq!(sample.judge(file, Damage::Flip(length), false), Verdict::Corrupt);
    }
}
