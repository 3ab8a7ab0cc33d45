//! Moments in time, as the log keeps them: microseconds since the Unix epoch.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// A moment, in microseconds since 1970-01-01T00:00:00Z; negative before it.
///
/// The year range is that of RFC 3339 (years -9999 to 9999); digits below a microsecond are cut off on parsing.
///
/// ```
/// use annals_model::Timestamp;
/// let t: Timestamp = "2026-01-31T12:00:00.25Z".parse()?;
/// assert_eq!(t.as_micros(), 1_769_860_800_250_000);
/// assert_eq!(t.to_string(), "2026-01-31T12:00:00.25Z");
/// # Ok::<(), annals_model::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The Unix epoch.
    pub const EPOCH: Timestamp = Timestamp(0);

    /// The moment `micros` microseconds after (before, if negative) the Unix epoch.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Timestamp(micros)
    }

    /// The moment `millis` milliseconds after the Unix epoch, held at the ends of the range.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Timestamp(millis.saturating_mul(1_000))
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Whole milliseconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// This moment moved by `micros` microseconds, held at the ends of the range.
    #[must_use]
    pub const fn saturating_add_micros(self, micros: i64) -> Self {
        Timestamp(self.0.saturating_add(micros))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with as many digits of the second as are not zero; the bare number of microseconds where the
    /// year has no RFC 3339 form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(t) => write!(f, "{t}"),
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}

impl FromStr for Timestamp {
    type Err = Error;

    /// Reads RFC 3339 with an offset (`Z`, `+02:00`), a blank allowed in place of the `T`.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) where the text is no such moment.
    fn from_str(text: &str) -> Result<Self> {
        let t: jiff::Timestamp = text.trim().parse().map_err(|e| {
            Error::invalid(format!("`{text}` is not a time such as 2026-01-31T12:00:00Z: {e}"))
        })?;
        Ok(Timestamp(t.as_microsecond()))
    }
}
