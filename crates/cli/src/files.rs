//! Files of the caller's, which are no part of a store.
//!
//! # Invariants
//! - A file is read up to a bound, so that a wrong name cannot take all memory.
//!
//! Elsewhere: files to import (`import::source`).

use std::io::Read as _;
use std::path::Path;

use annals::limits;

use crate::failure::{Failure, Result};

/// What a file holds, or stdin where it is called `-`.
pub(crate) fn read_file_or_stdin(path: &Path) -> Result<Vec<u8>> {
    const MOST: u64 = limits::EVENT_BYTES_MAX_CEILING as u64;
    let mut data = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(MOST + 1).read_to_end(&mut data)
    } else {
        #[expect(clippy::disallowed_methods, reason = "a file of the caller's, no part of a store")]
        std::fs::File::open(path).and_then(|file| file.take(MOST + 1).read_to_end(&mut data))
    };
    read.map_err(|e| Failure::file("read", path, &e))?;
    if data.len() as u64 > MOST {
        return Err(Failure::usage(format!(
            "`{}` is larger than anything that is read from it",
            path.display()
        )));
    }
    Ok(data)
}
