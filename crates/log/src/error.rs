//! Ways to make the errors of this crate.

use std::io;
use std::path::Path;

use annals_model::{Error, ErrorKind};

use crate::format::{FORMAT_VERSION, HeaderFault};

/// Turns an error of the system into ours; `what` says what was being done, as an imperative.
pub(crate) fn io_error(what: impl Fn() -> String) -> impl Fn(io::Error) -> Error {
    move |e| Error::io(format!("cannot {}", what()), e)
}

/// Damage in a file.
pub(crate) fn corrupt(path: &Path, file_offset: u64, what: &str) -> Error {
    let name = path.display();
    Error::new(
        ErrorKind::Corrupt { segment: name.to_string(), file_offset },
        format!("{name} is damaged at byte {file_offset}: {what}"),
    )
}

/// Whether an error says that bytes on disk are damaged.
pub(crate) fn is_corrupt(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt { .. })
}

/// A file's header that cannot be used.
pub(crate) fn header_fault(path: &Path, fault: HeaderFault) -> Error {
    let name = path.display();
    match fault {
        HeaderFault::Damaged => corrupt(path, 0, "its header is not whole"),
        HeaderFault::Version(found) => Error::new(
            ErrorKind::Incompatible { found: u32::from(found), supported: u32::from(FORMAT_VERSION) },
            format!("{name} has format version {found}, but this program knows only up to {FORMAT_VERSION}"),
        ),
        HeaderFault::Features(bits) => Error::new(
            ErrorKind::Incompatible {
                found: u32::from(FORMAT_VERSION),
                supported: u32::from(FORMAT_VERSION),
            },
            format!("{name} needs the features {bits:#x}, which this program does not know"),
        ),
    }
}
