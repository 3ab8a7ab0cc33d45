//! SIGKILL of an owner that consumes: a process that waits takes over, nothing is lost, and the order of each key is kept.
//!
//! Checks C1 and C2 on the built command. Workers write what they handled to a file, a line each: which owner's they are,
//! and which event it was. `ANNALS_FAULTS=all` runs five times as many rounds, `ANNALS_SEED` other ones.

mod common;

use std::collections::BTreeMap;

use common::Place;
use common::faults::{Random, rounds};
use common::owner::Owner;

/// Streams, which are the keys.
const STREAMS: usize = 5;

/// How many events there are: more for a worker that stays, since it is faster.
fn events(stays: bool) -> usize {
    if stays { 1_500 } else { 250 }
}

/// Each of these is of a stream of its own, and kills its worker.
fn is_poison(n: usize) -> bool {
    n == 49 || n == 149
}

fn filled(events: usize) -> Place {
    let place = Place::with_store();
    let line = |n: usize| match is_poison(n) {
        true => format!("{{\"stream\":\"poison-{n}\",\"type\":\"Poison\"}}\n"),
        false => format!("{{\"stream\":\"s-{}\",\"type\":\"T\"}}\n", n % STREAMS),
    };
    place
        .run_with(&["append", "-q", "--stdin", "--batch", "50"], (0..events).map(line).collect::<String>())
        .exits(0);
    // What is in hand when an owner dies counts as tried, so more tries than owners.
    place.run(&["groups", "create", "g", "--tries", "8", "--backoff", "1ms"]).exits(0);
    place
}

/// A worker for each event, or one that stays: both write a line, and then say so on stderr.
fn worker(stays: bool) -> String {
    let handle = "echo $PPID $position $stream $revision >> handled; echo handled >&2";
    match stays {
        false => format!(
            "case $ANNALS_TYPE in Poison) kill -9 $$;; esac
             position=$ANNALS_POSITION stream=$ANNALS_STREAM revision=$ANNALS_REVISION; {handle}"
        ),
        true => format!(
            r#"while IFS= read -r line; do case $line in *\"Poison\"*) kill -9 $$;; esac
position=${{line#*\"position\":}}; position=${{position%%,*}}
stream=${{line#*\"stream\":\"}}; stream=${{stream%%\"*}}
revision=${{line#*\"revision\":}}; revision=${{revision%%,*}}
{handle}; echo "{{\"place\":\"0:$position\",\"answer\":\"ack\"}}"; done"#
        ),
    }
}

fn waiting(place: &Place, stays: bool) -> Owner {
    let worker = worker(stays);
    let mut args =
        vec!["consume", "--group", "g", "--wait", "--until-caught-up", "--workers", "3", "--exec", &worker];
    if stays {
        args.extend(["--batch", "4"]);
    }
    Owner::start(&mut place.command(&args))
}

/// What a worker handled.
struct Handled {
    owner: u64,
    position: u64,
    stream: String,
    revision: u64,
}

fn handled(place: &Place) -> Vec<Handled> {
    let text = std::fs::read_to_string(place.beside("handled")).expect("written");
    let line = |line: &str| {
        let mut words = line.split(' ');
        let number = |words: &mut std::str::Split<'_, char>| words.next().and_then(|w| w.parse().ok());
        let (owner, position) = (number(&mut words)?, number(&mut words)?);
        let stream = words.next()?.to_owned();
        Some(Handled { owner, position, stream, revision: number(&mut words)? })
    };
    text.lines().map(|text| line(text).unwrap_or_else(|| panic!("{text}"))).collect()
}

#[test]
fn a_waiting_process_takes_over_from_a_killed_one_with_nothing_lost_and_order_kept() {
    let (mut random, mut killed) = (Random::seeded(0xc1), 0);
    for round in 0..rounds(6) {
        let stays = round % 2 == 1;
        let events = events(stays);
        let place = filled(events);
        let kills = 2 + random.below(4);
        let mut owner = waiting(&place, stays);
        let (mut committed, mut pids) = (Vec::new(), vec![owner.id()]);
        for _ in 0..kills {
            // Who waits can only be known once the other one owns the store. On a busy machine an owner may be through
            // before it is killed; then there is nobody left to kill.
            if !owner.says_unless_it_ends("handled") {
                break;
            }
            let mut next = waiting(&place, stays);
            pids.push(next.id());
            let waits = next.says_unless_it_ends("waiting for the end of process");
            let enough = random.below(events / kills / 2);
            if !waits || !(0..enough).all(|_| owner.says_unless_it_ends("handled")) {
                owner = next;
                break;
            }
            // Everything before this place is done for good, whenever it dies from now on.
            let at = place.run(&["groups", "describe", "g", "-q"]).exits(0).json()[0]["committed"].clone();
            committed.push(at.as_str().and_then(|at| at.parse::<u64>().ok()).expect("a position"));
            owner.kill();
            killed += 1;
            owner = next;
        }
        assert_eq!(owner.ends(), Some(0), "{:#?}", owner.said);
        let mut handled = handled(&place);
        let mut owners: Vec<u64> = Vec::new();
        let mut first: BTreeMap<&str, u64> = BTreeMap::new();
        let mut of_owner: BTreeMap<(u64, &str), u64> = BTreeMap::new();
        for line in &mut handled {
            if !pids.contains(&line.owner) {
                // Its owner died while it was starting: it is an orphan, for as long as it lived.
                line.owner = *owners.last().expect("an owner came before");
            }
            if owners.last() != Some(&line.owner) {
                assert!(!owners.contains(&line.owner), "two owners' workers were at work at once");
                owners.push(line.owner);
            }
            let line = &*line;
            let next = first.entry(&line.stream).or_insert(0);
            assert!(
                line.revision <= *next,
                "{} came before revision {next} of {}",
                line.revision,
                line.stream
            );
            if line.revision == *next {
                *next += 1;
            } else {
                let before = owners.len().checked_sub(2).and_then(|n| committed.get(n));
                let before = *before.expect("an owner repeats what it has handled itself");
                assert!(
                    line.position >= before,
                    "position {} was acked, and {before} committed",
                    line.position
                );
            }
            // Within an owner there is no failure, so each comes once, in order, without a gap.
            let last = of_owner.insert((line.owner, &line.stream), line.revision);
            assert!(
                last.is_none_or(|last| line.revision == last + 1),
                "after {last:?} came {}",
                line.revision
            );
        }
        let expected: BTreeMap<String, u64> =
            (0..events).filter(|n| !is_poison(*n)).fold(BTreeMap::new(), |mut all, n| {
                *all.entry(format!("s-{}", n % STREAMS)).or_insert(0) += 1;
                all
            });
        assert_eq!(
            first.into_iter().map(|(s, n)| (s.to_owned(), n)).collect::<BTreeMap<_, _>>(),
            expected,
            "lost"
        );
        let letters = place.run(&["dlq", "list", "g"]).exits(0).json();
        let parked: Vec<_> =
            letters.iter().map(|l| l["place"].as_str().expect("a place").to_owned()).collect();
        let poison: Vec<_> = (0..events).filter(|n| is_poison(*n)).map(|n| format!("0:{n}")).collect();
        assert_eq!(parked, poison, "what kills its worker, and nothing else: {letters:#?}");
        place.run(&["verify", "--deep", "-q"]).exits(0);
    }
    eprintln!("{killed} owners were killed");
    assert!(killed > 0, "every owner was through before it could be killed");
}

#[test]
fn an_event_that_kills_the_owner_is_parked_after_its_tries_and_the_rest_goes_on() {
    for batch in [&[][..], &["--batch", "4"]] {
        let place = Place::with_store();
        let line = |n: u32| format!("{{\"stream\":\"s-{}\",\"type\":\"T\",\"data\":{{\"n\":{n}}}}}\n", n % 6);
        place.run_with(&["append", "--stdin"], (0..24).map(line).collect::<String>()).exits(0);
        place.run(&["groups", "create", "g", "--tries", "3", "--backoff", "1ms"]).exits(0);
        let worker = match batch.is_empty() {
            true => "[ $ANNALS_POSITION = 7 ] && kill -9 $PPID; echo $ANNALS_POSITION >&2".to_owned(),
            false => r#"while IFS= read -r line; do p=${line#*\"position\":}; p=${p%%,*}
[ $p = 7 ] && kill -9 $PPID; echo $p >&2; echo "{\"place\":\"0:$p\",\"answer\":\"ack\"}"; done"#
                .to_owned(),
        };
        let args =
            ["consume", "--group", "g", "--wait", "--until-caught-up", "--workers", "2", "--exec", &worker];
        let args = [&args, batch].concat();
        let mut said = Vec::new();
        let mut deaths = 0;
        loop {
            let mut owner = Owner::start(&mut place.command(&args));
            let code = owner.ends();
            said.append(&mut owner.said);
            match code {
                None => deaths += 1,
                code => break assert_eq!(code, Some(0), "{said:#?}"),
            }
            assert!(deaths <= 3, "it is tried for ever: {said:#?}");
        }
        assert_eq!(deaths, 3, "{said:#?}");
        let letters = place.run(&["dlq", "list", "g"]).exits(0).json();
        assert_eq!(letters.len(), 1, "{letters:#?}");
        let letter = &letters[0];
        assert_eq!((&letter["place"], &letter["reason"]), (&"0:7".into(), &"interrupted".into()));
        assert_eq!((&letter["tries"], &letter["held"]), (&3.into(), &2.into()));
        // All others were handled, but for those that are held behind it.
        let mut handled: Vec<u32> = said.iter().filter_map(|l| l.parse().ok()).collect();
        handled.sort_unstable();
        handled.dedup();
        assert_eq!(handled, (0..24).filter(|n| ![7, 13, 19].contains(n)).collect::<Vec<_>>());
        let shown = &place.run(&["groups", "describe", "g"]).exits(0).json()[0];
        assert_eq!((&shown["lag_events"], &shown["retrying"]), (&0.into(), &0.into()));
    }
}
