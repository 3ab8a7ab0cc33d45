//! How things fail: one error type whose kind names what the caller does next.

use std::fmt;
use std::sync::Arc;

use crate::{ExpectedRevision, Position, RecordPlace, Revision};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, named by what the caller does next.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The stream is not at the expected revision: read it again and decide anew. Nothing was appended.
    Conflict {
        /// The stream that the expectation was about.
        stream: String,
        /// What the append expected.
        expected: ExpectedRevision,
        /// The stream's last revision, `None` where it has no event.
        actual: Option<Revision>,
    },
    /// The append condition failed: an event at this position matches its query. Read again and decide anew. Nothing
    /// was appended.
    ConditionFailed {
        /// The first matching position found after the condition's `after`.
        position: Position,
    },
    /// An event id was used before for other content, or the batch repeats an earlier one only in part or regrouped.
    /// Nothing was appended. Find out which of the two is meant; a new fact needs a new id.
    IdReused {
        /// Where the earlier event with this id stands.
        original: RecordPlace,
    },
    /// The call is wrong: fix it. Nothing was appended.
    Invalid,
    /// What was asked for is not there.
    NotFound,
    /// Another process has the store open for writing: wait for it, or open read-only.
    Locked {
        /// Who holds the lock, as it wrote it down: process id, host and program.
        holder: String,
    },
    /// Not possible just now: wait and try again. Nothing was appended.
    Unavailable,
    /// The store, or this partition of it, takes no more appends: reopen it.
    Closed,
    /// Bytes on disk are damaged: read around them, or repair by explicit command.
    Corrupt {
        /// The file's path.
        segment: String,
        /// The byte in it where the damage was found.
        file_offset: u64,
    },
    /// The append may or may not have become durable: reopen, and repeat it with the same event ids.
    OutcomeUnknown,
    /// The answer needs events that retention removed: decide without them.
    HistoryTruncated {
        /// The first position that is still there.
        start: Position,
    },
    /// No room on the disk, or no more file descriptors: make room and try again. Nothing was appended.
    Full,
    /// Written by a newer version: upgrade.
    Incompatible {
        /// The version found on disk.
        found: u32,
        /// The newest version that this program reads.
        supported: u32,
    },
    /// The event is whole, but today's types cannot read it: add an upcast, or mend the type.
    Unreadable {
        /// Where it stands.
        place: RecordPlace,
        /// Its type, as it is stored.
        event_type: String,
        /// The version of its shape.
        schema_version: u32,
    },
    /// A projection cannot apply the event, however often it is tried: mend the projection, and run it again. Nothing of the
    /// event, and nothing behind it, is in the projection's state.
    NotApplied {
        /// Where it stands.
        place: RecordPlace,
        /// Its type, as it is stored.
        event_type: String,
    },
    /// The delivery is not, or no longer, with this member of a consumer group: its lease ran out, or the group was reset.
    /// Drop the work; the event is delivered again.
    LeaseExpired,
    /// The consumer group has stopped itself, since a bound of its policy was reached: work through its dead letters, or
    /// raise the bound, and resume it.
    Stopped,
    /// The operating system refused something else; see the source.
    Io,
}

/// An error: its [kind](ErrorKind), what was being done, and what caused it.
///
/// Cheap to clone, since one failed sync fails every append that waited for it.
///
/// ```
/// use annals_model::{Error, ErrorKind};
/// let e = Error::invalid("a stream name may not be empty");
/// assert_eq!(e.kind(), &ErrorKind::Invalid);
/// assert_eq!(e.to_string(), "a stream name may not be empty");
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    context: String,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `context` says what was being done and what is wrong, as a sentence without a full stop.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Error(Arc::new(Inner { kind, context: context.into(), source: None }))
    }

    /// The same with the error that caused it.
    pub fn with_source(
        kind: ErrorKind,
        context: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Error(Arc::new(Inner { kind, context: context.into(), source: Some(Arc::from(source.into())) }))
    }

    /// An [`Invalid`](ErrorKind::Invalid) error.
    pub fn invalid(context: impl Into<String>) -> Self {
        Error::new(ErrorKind::Invalid, context)
    }

    /// A [`NotFound`](ErrorKind::NotFound) error.
    pub fn not_found(context: impl Into<String>) -> Self {
        Error::new(ErrorKind::NotFound, context)
    }

    /// An error of the operating system: [`Full`](ErrorKind::Full) where it means a lack of room or of descriptors,
    /// [`Io`](ErrorKind::Io) otherwise.
    pub fn io(context: impl Into<String>, source: std::io::Error) -> Self {
        use std::io::ErrorKind as Os;
        const EMFILE: i32 = 24;
        const ENFILE: i32 = 23;
        let full = matches!(source.kind(), Os::StorageFull | Os::QuotaExceeded)
            || matches!(source.raw_os_error(), Some(EMFILE | ENFILE));
        let kind = if full { ErrorKind::Full } else { ErrorKind::Io };
        Error::with_source(kind, context, source)
    }

    /// What the caller does next.
    #[must_use]
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// What was being done and what is wrong, without the source.
    #[must_use]
    pub fn context(&self) -> &str {
        &self.0.context
    }

    /// The same error with `what` said before its context.
    #[must_use]
    pub fn context_before(self, what: impl fmt::Display) -> Self {
        let context = format!("{what}: {}", self.0.context);
        Error(Arc::new(Inner { kind: self.0.kind.clone(), context, source: self.0.source.clone() }))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut d = f.debug_struct("Error");
        d.field("kind", &self.0.kind).field("context", &self.0.context);
        if let Some(source) = &self.0.source {
            d.field("source", source);
        }
        d.finish()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.context)?;
        match &self.0.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|s| s.as_ref() as _)
    }
}
