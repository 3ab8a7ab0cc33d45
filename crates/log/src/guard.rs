//! The guards: each thing that is done only so that a failure does no harm, by name, so that a test can do without it.
//!
//! A guard that nothing misses is a guard that nobody knows to work. `tests/guards.rs` switches each of these off in turn
//! and requires that a scenario breaks a promise.
//!
//! # Invariants
//! - In a build without debug assertions, or without the feature `guards`, [`on`] is the constant `true`: nothing can be
//!   switched off, and nothing is paid for it.
//! - Where they can be switched, one is off for the whole life of a process: the one that the variable
//!   `ANNALS_GUARD_OFF` names.
//! - A guard that is off leaves the rest of the code as somebody would have written it who did not think of the danger.
//!
//! Elsewhere: what notices that a guard is missing (`tests/guards.rs`).

macro_rules! guards {
    ($($(#[doc = $doc:expr])+ $guard:ident,)+) => {
        /// Something that is done only so that a failure does no harm; each says what breaks without it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Guard {
            $($(#[doc = $doc])+ $guard,)+
        }

        impl Guard {
            /// All of them.
            pub const ALL: &[Guard] = &[$(Guard::$guard,)+];
        }
    };
}

guards! {
    // What is synced before anybody relies on it.
    /// The sync of an append. Without it a power cut takes what was acknowledged.
    SegmentSync,
    /// The sync of a new segment's header. Without it the manifest names a segment whose file is empty.
    SegmentHeaderSync,
    /// The sync of the directory that a new segment is in. Without it the manifest names a file that is gone.
    SegmentNameSync,
    /// The sync of the manifest's new entry. Without it a segment with records in it is not named.
    ManifestEntrySync,
    /// The sync of a new manifest's bytes before its name. Without it the name comes to stand for an empty file.
    ManifestFileSync,
    /// The sync of a new manifest's name. Without it a partition that has been appended to has no manifest.
    ManifestNameSync,
    /// On opening, while no mark proves that it was durable: the manifest's last entry is written again. Without it an
    /// entry that a failed sync left in the cache is built upon.
    ManifestRewriteOnOpen,
    /// And synced. Without it an entry that a dead process wrote and did not sync is built upon.
    ManifestSyncOnOpen,
    /// And its directory too. Without it a name that a dead process made and did not sync is built upon.
    ManifestNameSyncOnOpen,
    /// The sync of the mark on opening. Without it damage to what a recovery kept and showed passes for a torn tail.
    MarkSyncOnOpen,
    /// The sync of the mark on closing. Without it damage to the last batch passes for a torn tail.
    MarkSyncOnClose,
    /// The sync of the mark when nothing comes. Without it damage to the last batch of an idle owner passes for a torn tail.
    MarkSyncWhenIdle,
    /// The flusher's sync behind `Buffered` appends. Without it they stay unsynced until somebody closes the store.
    SyncBehind,
    /// The sync of a new catalogue's bytes before its name. Without it the name comes to stand for an empty file.
    CatalogueFileSync,
    /// The sync of a new catalogue's name. Without it a topic that has been appended to is not named.
    CatalogueNameSync,
    /// The same on opening. Without it a catalogue that a dead process did not make durable is built upon.
    CatalogueNameSyncOnOpen,
    /// The sync of the directory above a new one. Without it a topic's or a partition's directory is gone.
    DirectoryNameSync,
    /// The same of the store's own on opening. Without it a directory that a dead process made is built upon.
    StoreNameSyncOnOpen,
    /// The sync of an index file's bytes before its name. Without it the name comes to stand for half a file.
    IndexFileSync,
    /// The sync of an index file's name. Without it opening reads again what had been indexed.
    IndexNameSync,
    /// The sync of the directory above that of the index. Without it opening reads all of the log again.
    IndexDirectorySync,
    /// The sync of removed index files' names. Without it a file that tells of another history comes back.
    IndexRemovalSync,
    /// An index file is written only of what is durable. Without it the file tells of records that a power cut takes.
    IndexWaitsForSync,

    // What recovery does.
    /// Recovery writes what it keeps again. Without it what a failed sync left in the cache is shown and then lost.
    TailRewrite,
    /// And syncs it. Without it what a dead process wrote is shown and then lost.
    TailSync,
    /// Recovery cuts a torn tail off. Without it a frame that it dropped comes back behind the next append.
    Cut,
    /// And syncs the cut. Without it a power cut brings the dropped frame back.
    CutSync,
    /// Recovery leaves out the notes of places that are no more. Without it a search by time begins too late.
    PlaceCut,
    /// Recovery checks the records of a frame, not only its header. Without it half a batch is kept.
    WholeFrames,
    /// A frame's `synced_end` proves what was durable. Without it damage is cut off as a torn tail, and all behind it.
    SyncedEnd,
    /// The mark proves what was durable. Without it damage to the last batch passes for a torn tail.
    MarkProof,
    /// A segment is as long as the mark says. Without it what is cut off a file is not missed.
    MarkLength,
    /// The manifest names the segment that the mark is in. Without it a lost segment with its entry is not missed.
    MarkSegment,
    /// Each segment that the manifest names is there. Without it a lost segment is noticed by nobody but its readers.
    SegmentsAreThere,
    /// No segment that the manifest does not name has records. Without it a lost entry takes its segment along.
    SegmentsAreNamed,
    /// A partition whose manifest is gone is not made anew over its segments. Without it they are removed.
    ManifestIsThere,
    /// A store whose catalogue is gone is not made anew over its topics. Without it they are hidden, and new ones get their files.
    CatalogueIsThere,
    /// A segment's header is the one that the manifest names. Without it another segment's file is taken and cut.
    SegmentIdentity,

    // What is checked of bytes.
    /// The CRC at the head of each file. Without it a changed incarnation is believed.
    FileHeadCrc,
    /// The CRC of a manifest's entry. Without it a changed length hides records.
    ManifestEntryCrc,
    /// The CRC of a mark. Without it a changed mark is believed.
    MarkCrc,
    /// The CRC of the catalogue. Without it a changed name or durability is believed.
    CatalogueCrc,
    /// The CRC of a frame's header. Without it changed times are believed.
    FrameCrc,
    /// The CRC of a record. Without it changed data is handed out.
    RecordCrc,
    /// The sum of a frame's records. Without it a record of another batch, left in the same place, is taken for one of it.
    RecordsSum,
    /// The segment's salt in frames and records. Without it what another file left on the disk is taken for records.
    Salt,
    /// A frame begins where the one before it ends. Without it a frame in another's place is taken.
    FramePosition,
    /// The record's address in its CRC. Without it a record in another's place is handed out for it, or hides it.
    RecordPlace,
    /// What fills a record up is zero. Without it damage to it is not found.
    Padding,
    /// A sealed segment is as long as the manifest says. Without it the loss of its end is not told as damage.
    SealLength,
    /// A sealed segment has the checksum that the manifest says. Without it one from a copy of the store is not found.
    SealChecksum,
    /// The CRC of a note of a place. Without it a search by time begins at a wrong one.
    PlaceCrc,
    /// A note of a place has to prove itself. Without it one of another history is damage.
    PlaceProof,
    /// The CRC of an index file's header. Without it changed positions are believed.
    IndexHeaderCrc,
    /// The CRC of an index file's page. Without it a changed page says a wrong "not there".
    IndexPageCrc,
    /// An index file is bound to its partition and segments. Without it another partition's says a wrong "not there".
    IndexBinding,
    /// An index file ends where the log does, or before. Without it one of another history is believed.
    IndexEnd,
    /// A record ends where its bytes do. Without it a length read from the disk panics.
    RecordBounds,
    /// Room is made for a record of the active segment only where the file reaches so far. Without it a length read from
    /// the disk is allocated.
    RecordFits,
    /// A frame's header does not contradict itself. Without it a position read from the disk overflows.
    FrameSane,
    /// A topic's entry ends where the catalogue does. Without it a length read from the disk panics.
    CatalogueBounds,
    /// A block of postings ends where it can. Without it a length read from the disk panics.
    IndexBounds,
    /// A part of an event ends where the event does. Without it a length read from the disk panics.
    EventBounds,
    /// An event has no flag that this code does not know. Without it what is behind the flag is read as something else.
    EventFlags,

    // What a backup and a restore keep to.
    /// The sync of a copied segment before anything names it. Without it a backup, or a restored store, has empty files.
    CopySync,
    /// The records of a frame are checked while it is copied. Without it a backup carries damage on in silence.
    CopyFrames,
    /// A copied segment ends where the manifest or the mark says, with its checksum. Without it one of another history
    /// is taken for it.
    CopyEnds,
    /// The sync of a copy's mark before its name. Without it the name comes to stand for an empty file.
    CopyMarkSync,
    /// The sync of that name. Without it a backup that was reported is the one before.
    CopyMarkNameSync,
    /// A `Buffered` log is synced before it is backed up. Without it a power cut takes what the backup has from the store.
    BackupSync,
    /// A backup's mark comes after the manifest. Without it the mark is in a segment that is not named.
    BackupMarkLast,
    /// The file that makes a directory a backup comes last. Without it half of one is taken for a whole.
    BackupNameLast,
    /// A whole backup is built on only where that was asked for. Without it somebody's backup is changed unasked.
    BackupIsAsked,
    /// A backup is continued only by the same partitions of the same store. Without it two stores become one.
    BackupIdentity,
    /// And only where its events are the store's still. Without it a store that went back takes its newer backup along.
    BackupHistory,
    /// A restore needs an empty directory. Without it what is there is mixed with what is restored.
    RestoreIntoNothing,
    /// A restored store's catalogue comes last. Without it half a store is taken for a whole.
    RestoreNameLast,
    /// A restored store has another history. Without it places from before lead to other events.
    RestoreIncarnation,
    /// What is restored are events. Without it bytes that no program can read become a part of a store.
    RestoreEvents,
    /// Two topics of a backup are two directories. Without it one is restored over the other.
    RestoreTopics,
    /// Links in a backup are refused. Without it a restore reads, and a backup writes, what is elsewhere.
    NoLinks,

    // What an append keeps to.
    /// A failed sync fails the appends that waited for it. Without it they are acknowledged.
    SyncFailure,
    /// A failed write fails the appends that it was of. Without it they are acknowledged.
    WriteFailure,
    /// After a failure nothing more is appended. Without it a later sync acknowledges what the disk does not have.
    Refusal,
    /// The watermark moves after the sync. Without it readers are shown what is then lost.
    ShownAfterSync,
    /// Readers stop at the watermark. Without it they are shown what is then lost.
    BelowWatermark,
    /// The index shows nothing behind the watermark. Without it a look-up is shown what is then lost.
    IndexBelowWatermark,
    /// A segment is ended when all of it is durable. Without it records behind a hole are named durable.
    RollWaits,
    /// Room is reserved before anything is staged. Without it a full disk is a failed write, and final.
    RoomReserved,
    /// Recorded time never goes back. Without it it follows the clock.
    TimeForward,
    /// A segment is ended when a record's position or time does not fit its header. Without it they wrap around.
    RecordHolds,
    /// One process owns the store. Without it two overwrite each other.
    Lock,
    /// An answer that rests on a staged record waits for it. Without it a repeat is told of what is then lost.
    AnswerWaits,
    /// Ids and conditions are looked at again behind the lock. Without it two appends at once both pass.
    RecheckTerms,
    /// A revision that was looked up is used only while no stream was forgotten meanwhile. Without it two appends at once
    /// both pass.
    EvictionEpoch,
    /// What the index does not cover is `Unavailable`. Without it an id that is there is not found.
    IndexHoles,
    /// Names are compared, not only hashes. Without it a stream is mistaken for another of the same hash.
    ExactNames,
}

/// Whether a guard is on: always, except in a test that does without it.
#[cfg(not(all(feature = "guards", debug_assertions)))]
#[inline(always)]
#[must_use]
pub const fn on(_guard: Guard) -> bool {
    true
}

/// Whether a guard is on: always, except in a test that does without it.
///
/// # Panics
/// Where the variable `ANNALS_GUARD_OFF` names no guard.
#[cfg(all(feature = "guards", debug_assertions))]
#[must_use]
pub fn on(guard: Guard) -> bool {
    static OFF: std::sync::OnceLock<Option<Guard>> = std::sync::OnceLock::new();
    let off = OFF.get_or_init(|| {
        let name = std::env::var("ANNALS_GUARD_OFF").ok()?;
        let named = Guard::ALL.iter().find(|guard| format!("{guard:?}") == name);
        Some(*named.unwrap_or_else(|| panic!("there is no guard `{name}`")))
    });
    *off != Some(guard)
}
