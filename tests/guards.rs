//! All promises: without any one of the guards, a promise is broken and a scenario says so.
//!
//! Goal: each [`Guard`] is needed, and a test knows: a sync or a check that somebody takes out does not go unnoticed.
//!
//! Method: short scenarios, each a promise under one kind of failure (`scenarios/`). With all guards on, every one of them
//! passes. Then, for each guard, this program is started again without it, to run the scenario that has to notice; it
//! has to fail within ten seconds. To see one fail: `ANNALS_GUARD_OFF=SegmentSync cargo test --test guards
//! small_batches`.

mod scenarios;

use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use annals_log::guard::{self, Guard};
use scenarios::{appends, backups, cuts, damage, files, histories};

/// A guard that is off has to be noticed in this time.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);
/// So many guards are done without at a time.
const AT_ONCE: usize = 2;
/// In a child: the scenario to run.
const SCENARIO: &str = "ANNALS_SCENARIO";

type Scenario = fn();

macro_rules! scenarios {
    ($($module:ident :: $name:ident,)+) => {
        /// Every scenario by name.
        const SCENARIOS: &[(&str, Scenario)] = &[$((stringify!($name), $module::$name),)+];

        $(#[test]
        fn $name() {
            $module::$name();
        })+
    };
}

scenarios! {
    cuts::small_batches_survive_cuts_at_every_call,
    cuts::segments_survive_cuts_at_every_call,
    cuts::buffered_segments_have_no_hole_after_cuts_at_every_call,
    cuts::what_a_dead_process_left_is_made_durable_before_it_is_shown_or_built_on,
    cuts::after_a_failed_sync_only_what_is_durable_is_acknowledged_or_shown,
    cuts::after_a_failed_write_only_what_was_written_is_acknowledged,
    cuts::an_answer_fails_with_the_sync_it_rests_on,
    cuts::what_was_buffered_is_synced_behind,
    cuts::damage_after_closing_is_no_torn_tail,
    cuts::damage_to_what_a_recovery_kept_is_no_torn_tail,
    cuts::damage_while_idle_is_no_torn_tail,
    cuts::what_a_recovery_dropped_stays_away,
    cuts::a_search_by_time_forgets_what_a_recovery_dropped,
    damage::every_bit_of_the_catalogue_counts,
    damage::every_bit_of_the_manifest_counts,
    damage::every_bit_of_a_head_counts,
    damage::every_bit_of_a_mark_counts,
    damage::every_bit_of_a_place_counts,
    damage::every_bit_of_a_frame_header_counts,
    damage::every_bit_of_a_record_counts,
    damage::every_bit_of_an_index_header_counts,
    damage::bits_of_index_pages_count,
    damage::damage_before_the_last_batch_is_no_torn_tail,
    damage::damage_before_the_mark_is_no_torn_tail,
    damage::a_segment_cut_short_is_missed,
    damage::lost_files_are_missed,
    damage::a_lost_entry_is_missed,
    damage::a_lost_segment_is_missed_with_its_entry,
    damage::swapped_sectors_are_told_apart,
    damage::a_length_is_not_allocated_before_it_is_checked,
    histories::hostile_frames_do_no_harm,
    files::hostile_catalogues_do_no_harm,
    files::hostile_index_pages_do_no_harm,
    histories::half_of_another_batch_is_not_taken,
    histories::what_another_file_left_is_not_taken,
    histories::a_frame_of_another_history_is_not_taken,
    histories::a_log_alone_survives_cuts,
    histories::what_a_recovery_dropped_stays_away_through_a_cut,
    histories::swapped_segments_are_told_apart,
    histories::a_segment_of_another_history_is_found,
    histories::places_of_another_history_are_passed_over,
    histories::hostile_events_are_refused,
    files::a_closed_store_keeps_its_index,
    files::index_files_tell_of_durable_records_only,
    files::an_index_file_of_another_partition_is_not_used,
    files::an_index_file_of_another_history_is_not_used,
    files::an_index_file_that_was_removed_stays_away,
    files::what_the_index_lacks_is_unavailable,
    appends::a_second_owner_is_refused,
    appends::a_full_disk_is_an_ordinary_answer,
    appends::time_never_goes_back,
    appends::a_clock_that_jumps_ahead_begins_a_segment,
    appends::of_two_appends_at_once_one_passes,
    appends::a_stream_that_was_forgotten_meanwhile_is_looked_up_again,
    appends::two_streams_of_one_hash_are_told_apart,
    backups::a_first_backup_survives_cuts_at_every_call,
    backups::an_incremental_backup_survives_cuts_at_every_call,
    backups::a_restore_survives_cuts_at_every_call,
    backups::what_is_backed_up_is_durable_in_the_store,
    backups::a_backup_carries_no_damage,
    backups::a_segment_of_another_history_is_not_restored,
    backups::a_backup_is_continued_only_when_that_is_asked_for,
    backups::a_backup_is_continued_only_by_its_own_store,
    backups::a_store_that_was_put_back_leaves_its_newer_backup_alone,
    backups::a_restore_needs_an_empty_directory,
    backups::a_place_from_before_a_restore_is_refused,
    backups::what_is_no_event_is_not_restored,
    backups::two_topics_in_one_directory_are_not_restored,
    backups::links_are_not_followed,
}

/// The scenario that notices that a guard is missing.
fn notices(guard: Guard) -> Scenario {
    match guard {
        Guard::SegmentSync
        | Guard::SegmentHeaderSync
        | Guard::ManifestFileSync
        | Guard::CatalogueFileSync
        | Guard::CatalogueNameSync
        | Guard::DirectoryNameSync
        | Guard::WholeFrames => cuts::small_batches_survive_cuts_at_every_call,
        Guard::SegmentNameSync | Guard::ManifestEntrySync => cuts::segments_survive_cuts_at_every_call,
        Guard::RollWaits => cuts::buffered_segments_have_no_hole_after_cuts_at_every_call,
        Guard::ManifestSyncOnOpen
        | Guard::CatalogueNameSyncOnOpen
        | Guard::StoreNameSyncOnOpen
        | Guard::TailSync => cuts::what_a_dead_process_left_is_made_durable_before_it_is_shown_or_built_on,
        Guard::ManifestRewriteOnOpen
        | Guard::TailRewrite
        | Guard::SyncFailure
        | Guard::Refusal
        | Guard::ShownAfterSync
        | Guard::BelowWatermark
        | Guard::IndexBelowWatermark => {
            cuts::after_a_failed_sync_only_what_is_durable_is_acknowledged_or_shown
        }
        Guard::WriteFailure => cuts::after_a_failed_write_only_what_was_written_is_acknowledged,
        Guard::AnswerWaits => cuts::an_answer_fails_with_the_sync_it_rests_on,
        Guard::SyncBehind => cuts::what_was_buffered_is_synced_behind,
        Guard::MarkSyncOnClose => cuts::damage_after_closing_is_no_torn_tail,
        Guard::MarkSyncOnOpen => cuts::damage_to_what_a_recovery_kept_is_no_torn_tail,
        Guard::MarkSyncWhenIdle => cuts::damage_while_idle_is_no_torn_tail,
        Guard::Cut => cuts::what_a_recovery_dropped_stays_away,
        Guard::ManifestNameSync | Guard::ManifestNameSyncOnOpen => histories::a_log_alone_survives_cuts,
        Guard::CutSync => histories::what_a_recovery_dropped_stays_away_through_a_cut,
        Guard::PlaceCut => cuts::a_search_by_time_forgets_what_a_recovery_dropped,
        Guard::CatalogueCrc => damage::every_bit_of_the_catalogue_counts,
        Guard::ManifestEntryCrc => damage::every_bit_of_the_manifest_counts,
        Guard::FileHeadCrc => damage::every_bit_of_a_head_counts,
        Guard::MarkCrc => damage::every_bit_of_a_mark_counts,
        Guard::PlaceCrc => damage::every_bit_of_a_place_counts,
        Guard::FrameCrc => damage::every_bit_of_a_frame_header_counts,
        Guard::RecordCrc | Guard::RecordBounds | Guard::Padding => damage::every_bit_of_a_record_counts,
        Guard::IndexHeaderCrc => damage::every_bit_of_an_index_header_counts,
        Guard::IndexPageCrc => damage::bits_of_index_pages_count,
        Guard::SyncedEnd => damage::damage_before_the_last_batch_is_no_torn_tail,
        Guard::MarkProof => damage::damage_before_the_mark_is_no_torn_tail,
        Guard::MarkLength | Guard::SealLength => damage::a_segment_cut_short_is_missed,
        Guard::SegmentsAreThere | Guard::ManifestIsThere | Guard::CatalogueIsThere => {
            damage::lost_files_are_missed
        }
        Guard::SegmentsAreNamed => damage::a_lost_entry_is_missed,
        Guard::MarkSegment => damage::a_lost_segment_is_missed_with_its_entry,
        Guard::SegmentIdentity => histories::swapped_segments_are_told_apart,
        Guard::RecordPlace => damage::swapped_sectors_are_told_apart,
        Guard::RecordsSum => histories::half_of_another_batch_is_not_taken,
        Guard::Salt => histories::what_another_file_left_is_not_taken,
        Guard::FramePosition => histories::a_frame_of_another_history_is_not_taken,
        Guard::SealChecksum => histories::a_segment_of_another_history_is_found,
        Guard::PlaceProof => histories::places_of_another_history_are_passed_over,
        Guard::RecordFits => damage::a_length_is_not_allocated_before_it_is_checked,
        Guard::FrameSane => histories::hostile_frames_do_no_harm,
        Guard::CatalogueBounds => files::hostile_catalogues_do_no_harm,
        Guard::IndexBounds => files::hostile_index_pages_do_no_harm,
        Guard::EventBounds | Guard::EventFlags => histories::hostile_events_are_refused,
        Guard::IndexFileSync | Guard::IndexNameSync | Guard::IndexDirectorySync => {
            files::a_closed_store_keeps_its_index
        }
        Guard::IndexWaitsForSync => files::index_files_tell_of_durable_records_only,
        Guard::IndexBinding => files::an_index_file_of_another_partition_is_not_used,
        Guard::IndexEnd => files::an_index_file_of_another_history_is_not_used,
        Guard::IndexRemovalSync => files::an_index_file_that_was_removed_stays_away,
        Guard::IndexHoles => files::what_the_index_lacks_is_unavailable,
        Guard::Lock => appends::a_second_owner_is_refused,
        Guard::RoomReserved => appends::a_full_disk_is_an_ordinary_answer,
        Guard::TimeForward => appends::time_never_goes_back,
        Guard::RecordHolds => appends::a_clock_that_jumps_ahead_begins_a_segment,
        Guard::RecheckTerms => appends::of_two_appends_at_once_one_passes,
        Guard::EvictionEpoch => appends::a_stream_that_was_forgotten_meanwhile_is_looked_up_again,
        Guard::ExactNames => appends::two_streams_of_one_hash_are_told_apart,
        Guard::CopySync | Guard::CopyMarkSync | Guard::CopyMarkNameSync | Guard::BackupNameLast => {
            backups::a_first_backup_survives_cuts_at_every_call
        }
        Guard::BackupSync => backups::what_is_backed_up_is_durable_in_the_store,
        Guard::BackupMarkLast => backups::an_incremental_backup_survives_cuts_at_every_call,
        Guard::RestoreNameLast => backups::a_restore_survives_cuts_at_every_call,
        Guard::CopyFrames => backups::a_backup_carries_no_damage,
        Guard::CopyEnds => backups::a_segment_of_another_history_is_not_restored,
        Guard::BackupIsAsked => backups::a_backup_is_continued_only_when_that_is_asked_for,
        Guard::BackupIdentity => backups::a_backup_is_continued_only_by_its_own_store,
        Guard::BackupHistory => backups::a_store_that_was_put_back_leaves_its_newer_backup_alone,
        Guard::RestoreIntoNothing => backups::a_restore_needs_an_empty_directory,
        Guard::RestoreIncarnation => backups::a_place_from_before_a_restore_is_refused,
        Guard::RestoreEvents => backups::what_is_no_event_is_not_restored,
        Guard::RestoreTopics => backups::two_topics_in_one_directory_are_not_restored,
        Guard::NoLinks => backups::links_are_not_followed,
    }
}

fn name_of(scenario: Scenario) -> &'static str {
    let found = SCENARIOS.iter().find(|(_, other)| std::ptr::fn_addr_eq(*other, scenario));
    found.expect("every scenario is in the list").0
}

/// Runs the scenario in a process without the guard: what it said when it failed, or why that does not count.
fn without(guard: Guard) -> Result<String, String> {
    let scenario = name_of(notices(guard));
    let mut child = Command::new(std::env::current_exe().expect("this program has a path"))
        .args(["--exact", "one_scenario_alone", "--ignored", "--nocapture", "--test-threads=1"])
        .env("ANNALS_GUARD_OFF", format!("{guard:?}"))
        .env(SCENARIO, scenario)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this program can be started");
    let mut stderr = child.stderr.take().expect("it was asked for");
    let (said, hears) = channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut text = Vec::new();
            _ = std::io::Read::read_to_end(&mut stderr, &mut text);
            _ = said.send(String::from_utf8_lossy(&text).into_owned());
        });
        // It ends with the child.
        let Ok(text) = hears.recv_timeout(NOTICED_WITHIN) else {
            _ = child.kill();
            _ = child.wait();
            return Err(format!("{scenario} was not through within {NOTICED_WITHIN:?}"));
        };
        let status = child.wait().expect("it can be waited for");
        // The program of a test that failed ends with 101.
        match status.code() {
            Some(101) => {
                let why =
                    text.lines().skip_while(|line| !line.contains("panicked at")).nth(1).unwrap_or_default();
                Ok(format!("{scenario}: {}", why.chars().take(120).collect::<String>()))
            }
            Some(0) => Err(format!("{scenario} did not notice")),
            _ => Err(format!("{scenario} ended with {status}: {text}")),
        }
    })
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "guards can be switched off in builds with debug assertions only")]
fn no_guard_can_be_missed() {
    // Whoever tries one guard by hand wants to see the scenarios only.
    if Guard::ALL.iter().any(|g| !guard::on(*g)) {
        return;
    }
    let queue = Mutex::new(Guard::ALL.iter().copied());
    let missed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("no panic").next();
                    let Some(guard) = next else { return };
                    match without(guard) {
                        Ok(noticed) => println!("{guard:?}: {noticed}"),
                        Err(why) => missed.lock().expect("no panic").push(format!("{guard:?}: {why}")),
                    }
                }
            });
        }
    });
    let missed = missed.into_inner().expect("no panic");
    assert!(missed.is_empty(), "{} of {} guards:\n{}", missed.len(), Guard::ALL.len(), missed.join("\n"));
    println!("{} guards, {} scenarios", Guard::ALL.len(), SCENARIOS.len());
}

#[test]
#[ignore = "for the children of the test above"]
fn one_scenario_alone() {
    let Ok(name) = std::env::var(SCENARIO) else { return };
    let found = SCENARIOS.iter().find(|(other, _)| *other == name);
    found.unwrap_or_else(|| panic!("there is no scenario `{name}`")).1();
}
