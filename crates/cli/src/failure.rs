//! How the command fails: what, why and what to do next, in three short lines, and one exit code for each next step.
//!
//! # Invariants
//! - Every exit code is an [`Exit`]; nothing else in the command names a number.
//! - A reader that went away (`annals read | head`) is no failure: it ends quietly with 0.
//!
//! Elsewhere: the store's own error kinds (`annals::ErrorKind`), the lines of `append --stdin` (`verbs::append`).

use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use annals::{Error, ErrorKind};

/// `Result` with a [`Failure`].
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// How the command ended, as its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: done.
    Ok,
    /// 1: checked, and found something.
    Found,
    /// 2: the call or its input is wrong.
    Usage,
    /// 3: a conflict: the expectation, or the id, was decided by another event, or the delivery is another member's.
    Conflict,
    /// 4: not there.
    NotFound,
    /// 5: another process owns the store.
    Locked,
    /// 6: bytes on disk are damaged.
    Damaged,
    /// 7: the store cannot be reached or used just now.
    Unreachable,
    /// 8: a consumer group has stopped itself at a bound of its policy.
    Stopped,
    /// 128 and the signal's number: 130 for Ctrl-C.
    Interrupted(u8),
}

impl Exit {
    /// The number.
    pub(crate) fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Found => 1,
            Exit::Usage => 2,
            Exit::Conflict => 3,
            Exit::NotFound => 4,
            Exit::Locked => 5,
            Exit::Damaged => 6,
            Exit::Unreachable => 7,
            Exit::Stopped => 8,
            Exit::Interrupted(signal) => 128 + signal,
        }
    }

    /// What to do after an error of this kind, told by the number.
    pub(crate) fn of(kind: &ErrorKind) -> Exit {
        match kind {
            ErrorKind::Conflict { .. }
            | ErrorKind::ConditionFailed { .. }
            | ErrorKind::IdReused { .. }
            | ErrorKind::LeaseExpired => Exit::Conflict,
            ErrorKind::Stopped => Exit::Stopped,
            ErrorKind::Invalid => Exit::Usage,
            ErrorKind::NotFound | ErrorKind::HistoryTruncated { .. } => Exit::NotFound,
            ErrorKind::Locked { .. } => Exit::Locked,
            ErrorKind::Corrupt { .. } => Exit::Damaged,
            _ => Exit::Unreachable,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// The table that the long help and `annals help exit-codes` print.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    done (also when the reader of a pipe went away)
  1    checked, and found something
  2    the call or its input is wrong
  3    conflict: not the expected revision, an id that belongs to another event, or a delivery that expired
  4    not found: no such store, topic, stream, event, consumer group or dead letter
  5    locked: another process owns the store (it is named)
  6    damaged: bytes on disk are not what was written
  7    unreachable: the disk is full or fails, or the store needs a newer `annals`
  8    stopped: a consumer group has reached a bound of its policy, or is paused
  130  interrupted (Ctrl-C)";

/// What went wrong, why, and what to do next.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What went wrong, as a sentence without a full stop.
    pub(crate) what: String,
    /// Why, where there is more to say.
    pub(crate) why: Option<String>,
    /// What to do next.
    pub(crate) next: Option<String>,
    /// How the command ends.
    pub(crate) exit: Exit,
    quiet: bool,
}

impl Failure {
    /// A failure that ends with `exit`.
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Failure { what: what.into(), why: None, next: None, exit, quiet: false }
    }

    /// The call is wrong.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Failure::new(Exit::Usage, what)
    }

    /// What was asked for is not there.
    pub(crate) fn not_found(what: impl Into<String>) -> Self {
        Failure::new(Exit::NotFound, what)
    }

    /// Nobody reads the output any more: the command ends with 0 and says nothing.
    pub(crate) fn closed_pipe() -> Self {
        Failure { quiet: true, ..Failure::new(Exit::Ok, "the reader of the output went away") }
    }

    /// Writing the output failed: quiet where the reader of a pipe went away.
    pub(crate) fn output(e: &io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::BrokenPipe => Failure::closed_pipe(),
            _ => Failure::new(Exit::Unreachable, "cannot write the output")
                .why(e.to_string())
                .next("see to where the output goes, then run it again (an append with the same ids)"),
        }
    }

    /// Reading or writing a file that is no part of a store failed.
    pub(crate) fn file(doing: &str, path: &Path, e: &io::Error) -> Self {
        let exit = match e.kind() {
            io::ErrorKind::NotFound => Exit::NotFound,
            io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => Exit::Usage,
            _ => Exit::Unreachable,
        };
        Failure::new(exit, format!("cannot {doing} `{}`", path.display())).why(e.to_string())
    }

    /// Says why.
    #[must_use]
    pub(crate) fn why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    /// Says what to do next.
    #[must_use]
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// Whether this is only a reader that went away.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        self.quiet
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        if let Some(why) = &self.why {
            write!(f, "\n  why:  {why}")?;
        }
        if let Some(next) = &self.next {
            write!(f, "\n  next: {next}")?;
        }
        Ok(())
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        let (why, mut next) = advice(e.kind());
        let source = std::error::Error::source(&e);
        if let Some(better) = source.and_then(|s| s.downcast_ref()).and_then(system_advice) {
            next = Some(better);
        }
        let source = source.map(ToString::to_string);
        let what = match e.kind() {
            ErrorKind::Conflict { stream, .. } => {
                format!("the stream `{stream}` is not at the expected revision")
            }
            _ => e.context().to_owned(),
        };
        Failure {
            what,
            why: source.or(why),
            next: next.map(str::to_owned),
            exit: Exit::of(e.kind()),
            quiet: false,
        }
    }
}

/// ENFILE and EMFILE: they are [`ErrorKind::Full`], too.
const TOO_MANY_FILES: [i32; 2] = [23, 24];

/// What to do about an error of the system, where it can be said better than by our own kind.
fn system_advice(e: &io::Error) -> Option<&'static str> {
    match e.kind() {
        io::ErrorKind::PermissionDenied => Some("run it as a user who may do this"),
        io::ErrorKind::ReadOnlyFilesystem => Some("mount it writable, or use a verb that only reads"),
        _ if e.raw_os_error().is_some_and(|code| TOO_MANY_FILES.contains(&code)) => {
            Some("allow more open files (`ulimit -n`), then run it again")
        }
        _ => None,
    }
}

/// What a kind of error says by itself: why it is one, and what comes next.
fn advice(kind: &ErrorKind) -> (Option<String>, Option<&'static str>) {
    let why = match kind {
        ErrorKind::Conflict { stream, expected, actual } => Some(match actual {
            Some(actual) => format!("`{stream}` is at revision {actual}; {expected} was expected"),
            None => format!("`{stream}` has no event; {expected} was expected"),
        }),
        ErrorKind::ConditionFailed { position } => {
            Some(format!("the event at position {position} matches the condition"))
        }
        ErrorKind::IdReused { original } => {
            Some(format!("the id belongs to the event at {original}, which says something else"))
        }
        ErrorKind::Locked { holder } => Some(format!("it is held by {holder}")),
        ErrorKind::Corrupt { .. } => Some("the bytes on disk are not what was written".to_owned()),
        ErrorKind::HistoryTruncated { start } => {
            Some(format!("what lies before position {start} has been removed"))
        }
        ErrorKind::Incompatible { found, supported } => {
            Some(format!("it has format version {found}; this program reads up to {supported}"))
        }
        _ => None,
    };
    let next = match kind {
        ErrorKind::Conflict { .. } | ErrorKind::ConditionFailed { .. } => {
            Some("read the stream again and decide anew; nothing was appended")
        }
        ErrorKind::IdReused { .. } => Some("give a new fact a new id; nothing was appended"),
        ErrorKind::Invalid => None,
        ErrorKind::NotFound => None,
        ErrorKind::Locked { .. } => Some("wait until it ends, or use a verb that only reads"),
        ErrorKind::Unavailable => Some("wait a moment and try again"),
        ErrorKind::Closed => Some("run the command again: opening the store recovers it"),
        ErrorKind::Corrupt { .. } => {
            Some("run `annals verify --deep` to see all of it; what lies behind it can be read with --from")
        }
        ErrorKind::OutcomeUnknown => {
            Some("run it again with the same ids: what is there is not appended twice")
        }
        ErrorKind::HistoryTruncated { .. } => Some("begin at `start`"),
        ErrorKind::Full => Some("make room, then run it again"),
        ErrorKind::Io => Some("see to the cause, then run it again"),
        ErrorKind::Incompatible { .. } => Some("use a newer `annals`"),
        ErrorKind::LeaseExpired => Some("drop the work: the event is delivered again"),
        ErrorKind::Stopped => Some(
            "work through its dead letters (`annals dlq`), or raise the bound (`annals groups alter`); then `annals groups resume`",
        ),
        _ => None,
    };
    (why, next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use annals::{ExpectedRevision, RecordPlace};

    #[test]
    fn each_kind_of_error_has_its_exit_code() {
        let place = RecordPlace { partition: 0, position: 7 };
        for (kind, code) in [
            (
                ErrorKind::Conflict {
                    stream: "s".into(),
                    expected: ExpectedRevision::NoStream,
                    actual: Some(1),
                },
                3,
            ),
            (ErrorKind::ConditionFailed { position: 1 }, 3),
            (ErrorKind::IdReused { original: place }, 3),
            (ErrorKind::Invalid, 2),
            (ErrorKind::NotFound, 4),
            (ErrorKind::HistoryTruncated { start: 5 }, 4),
            (ErrorKind::Locked { holder: "pid 1".into() }, 5),
            (ErrorKind::Corrupt { segment: "x".into(), file_offset: 3 }, 6),
            (ErrorKind::Unavailable, 7),
            (ErrorKind::Closed, 7),
            (ErrorKind::OutcomeUnknown, 7),
            (ErrorKind::Full, 7),
            (ErrorKind::Io, 7),
            (ErrorKind::Incompatible { found: 9, supported: 1 }, 7),
            (ErrorKind::LeaseExpired, 3),
            (ErrorKind::Stopped, 8),
        ] {
            assert_eq!(Exit::of(&kind).code(), code, "{kind:?}");
        }
        assert_eq!(Exit::Interrupted(2).code(), 130);
    }

    #[test]
    fn a_failure_says_what_why_and_what_next_in_three_lines() {
        let kind = ErrorKind::Conflict {
            stream: "order-1".into(),
            expected: ExpectedRevision::Exact(3),
            actual: Some(5),
        };
        let failure = Failure::from(Error::new(kind, "cannot append to `order-1`"));
        let lines: Vec<String> = failure.to_string().lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 3, "{failure}");
        assert_eq!(lines[0], "the stream `order-1` is not at the expected revision");
        assert_eq!(lines[1], "  why:  `order-1` is at revision 5; revision 3 was expected");
    }

    #[test]
    fn an_error_of_the_system_says_what_to_do_about_it() {
        for (code, part) in [
            (28, "make room"),
            (24, "ulimit -n"),
            (5, "see to the cause"),
            (13, "a user who may"),
            (30, "only reads"),
        ] {
            let e = Error::io("cannot do it", io::Error::from_raw_os_error(code));
            let failure = Failure::from(e);
            assert!(failure.next.as_deref().is_some_and(|next| next.contains(part)), "{failure}");
        }
    }

    #[test]
    fn a_closed_pipe_is_quiet_and_another_output_error_is_not() {
        assert!(Failure::output(&io::Error::from(io::ErrorKind::BrokenPipe)).is_closed_pipe());
        assert!(!Failure::output(&io::Error::from(io::ErrorKind::StorageFull)).is_closed_pipe());
    }
}
