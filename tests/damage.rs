//! D4, B2, S1: one piece of damage at a time, in process: every bit, every length, every sector, every file.
//!
//! Goal: damage is refused on opening, or answered with `Corrupt` where it is and rightly everywhere else, or does no
//! harm; only the last batch after a power cut, of which nothing proves that it was durable, may be dropped, and is
//! reported. Never a panic, never a wrong answer, also not a wrong "not there", never a silent loss.
//!
//! Method: a store of two segments with all its files, once as its owner closed it and once as a power cut left it. Each
//! image is a copy with one piece of damage, on which everything is asked in every way (`damaged.rs`). By default all
//! heads and short files are taken bit by bit and the rest by chance; with `ANNALS_DAMAGE=all` it is every bit of every
//! byte in use, and every length.

use annals_tests::Random;
use annals_tests::damaged::{Damage, Sample, Verdicts, bits, some_bits};

/// Of so many images one is also verified as a whole.
const VERIFIED: u64 = 8;

fn all() -> bool {
    std::env::var("ANNALS_DAMAGE").is_ok_and(|what| what == "all")
}

fn judged(
    sample: &Sample,
    damages: impl Iterator<Item = (std::path::PathBuf, Damage)>,
    what: &str,
) -> Verdicts {
    let mut verdicts = Verdicts::default();
    for (i, (file, damage)) in damages.enumerate() {
        let verdict = sample.judge(&file, damage, (i as u64).is_multiple_of(VERIFIED));
        *verdicts.0.entry(verdict).or_default() += 1;
    }
    println!("{what}: {} images of {} bytes: {:?}", verdicts.total(), sample.bytes(), verdicts.0);
    assert!(verdicts.total() > 0);
    verdicts
}

fn flips(sample: &Sample, count: usize) -> Verdicts {
    let damages = sample.files.iter().enumerate().flat_map(|(i, (file, used))| {
        let chosen: Vec<usize> = if all() {
            (0..used * 8).collect()
        } else {
            bits(&sample.heads(file)).chain(some_bits(i as u64, *used, count)).collect()
        };
        chosen.into_iter().map(|bit| (file.clone(), Damage::Flip(bit)))
    });
    judged(sample, damages, "bits flipped")
}

fn cuts(sample: &Sample, count: u64) -> Verdicts {
    let damages = sample.files.iter().enumerate().flat_map(|(i, (file, used))| {
        let mut random = Random::new(i as u64);
        let every = all() || *used <= 300;
        let some = (0..count).map(|_| random.below((*used).max(1) as u64) as usize);
        let chosen: Vec<usize> = if every { (0..*used).collect() } else { some.collect() };
        chosen.into_iter().map(|len| (file.clone(), Damage::Cut(len)))
    });
    judged(sample, damages, "files cut")
}

fn sectors(sample: &Sample) -> Verdicts {
    let damages = sample.files.iter().flat_map(|(file, used)| {
        let count = used.div_ceil(annals_log::simulated::SECTOR);
        let mut random = Random::new(count as u64);
        let zeroed = (0..count).map(Damage::Zero);
        let swapped = (1..count).map(|i| Damage::Swap(i - 1, i));
        let far: Vec<_> =
            (0..count).map(|i| Damage::Swap(i, random.below(count.max(1) as u64) as usize)).collect();
        let chosen: Vec<Damage> = zeroed.chain(swapped).chain(far).chain([Damage::Delete]).collect();
        chosen.into_iter().map(|damage| (file.clone(), damage))
    });
    judged(sample, damages, "sectors zeroed and swapped, files deleted")
}

#[test]
fn any_bit_of_a_closed_store_may_be_flipped() {
    let verdicts = flips(&Sample::closed(), 400);
    assert!(verdicts.0.len() == 3, "nothing that was proven durable is dropped: {verdicts:?}");
}

#[test]
fn any_bit_of_a_store_may_be_flipped_after_a_power_cut() {
    flips(&Sample::cut(), 400);
}

#[test]
fn any_file_may_be_cut_anywhere() {
    for sample in [Sample::closed(), Sample::cut()] {
        cuts(&sample, 150);
    }
}

#[test]
fn any_sector_may_be_zeroed_or_swapped_and_any_file_deleted() {
    for sample in [Sample::closed(), Sample::cut()] {
        sectors(&sample);
    }
}
