//! Reads the many ways in which files write a moment.
//!
//! # Invariants
//! - What has no offset is UTC; nothing depends on the time zone of the machine that imports.
//! - A text that is no moment is an error, never a guess.

use annals::Timestamp;
use jiff::civil;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;

/// Reads a moment: RFC 3339 (`T` or a blank between date and time; no offset means UTC), a date alone (midnight UTC),
/// or a number since 1970-01-01T00:00:00Z, whose size tells the unit: up to 11 digits before the point are seconds,
/// 12 to 14 milliseconds, more microseconds.
pub(crate) fn parse_time(text: &str) -> Result<Timestamp, String> {
    let text = text.trim();
    let micros = |t: jiff::Timestamp| Timestamp::from_micros(t.as_microsecond());
    if let Ok(t) = text.parse::<jiff::Timestamp>() {
        return Ok(micros(t));
    }
    if let Some(t) = epoch(text) {
        return t;
    }
    if let Ok(t) = text.parse::<civil::DateTime>() {
        return t
            .to_zoned(TimeZone::UTC)
            .map(|z| micros(z.timestamp()))
            .map_err(|e| not_a_time(text, &e.to_string()));
    }
    Err(not_a_time(text, "--time-format says how else they are written"))
}

/// Reads a moment by a `strptime` format such as `%d.%m.%Y %H:%M:%S`; without an offset in it, it is UTC.
pub(crate) fn parse_time_by(format: &str, text: &str) -> Result<Timestamp, String> {
    let error = |e: jiff::Error| format!("`{text}` is not a time by the format `{format}`: {e}");
    let broken = strtime::parse(format, text.trim()).map_err(error)?;
    let t = match broken.to_timestamp() {
        Ok(t) => t,
        Err(_) => {
            let civil = match broken.to_datetime() {
                Ok(t) => t,
                Err(_) => broken.to_date().map_err(error)?.to_datetime(civil::Time::midnight()),
            };
            civil.to_zoned(TimeZone::UTC).map_err(error)?.timestamp()
        }
    };
    Ok(Timestamp::from_micros(t.as_microsecond()))
}

fn not_a_time(text: &str, why: &str) -> String {
    let shown: String = text.chars().take(40).collect();
    format!("`{shown}` is not a time such as 2026-01-31T12:00:00Z, 2026-01-31 or 1769860800: {why}")
}

fn epoch(text: &str) -> Option<Result<Timestamp, String>> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    // Fewer than five digits would be a year, and eight without a point the date 20260131.
    if whole.len() < 5
        || !all_digits(whole)
        || !all_digits(fraction)
        || (whole.len() == 8 && fraction.is_empty())
    {
        return None;
    }
    let unit: i64 = match whole.len() {
        ..=11 => 1_000_000,
        12..=14 => 1_000,
        _ => 1,
    };
    let part: i64 = format!("{fraction:0<6.6}").parse().ok()?;
    let micros =
        whole.parse::<i64>().ok().and_then(|n| n.checked_mul(unit)?.checked_add(part * unit / 1_000_000));
    Some(match micros {
        Some(micros) => Ok(Timestamp::from_micros(if negative { -micros } else { micros })),
        None => Err(not_a_time(text, "the number is too large")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_ways_to_write_a_moment_are_read() {
        for (text, expected) in [
            ("2019-05-20 07:07:47.000Z", "2019-05-20T07:07:47Z"),
            ("2018-01-02T12:53:00+00:00", "2018-01-02T12:53:00Z"),
            ("1970-01-01T01:00:00.250+01:00", "1970-01-01T00:00:00.25Z"),
            ("2010-12-30T11:02:00.000+0100", "2010-12-30T10:02:00Z"),
            ("1948-01-26T22:59:00Z", "1948-01-26T22:59:00Z"),
            ("2019-05-20 07:07:47", "2019-05-20T07:07:47Z"),
            ("2019-05-20T07:07", "2019-05-20T07:07:00Z"),
            (" 2019-05-20 ", "2019-05-20T00:00:00Z"),
            ("20190520", "2019-05-20T00:00:00Z"),
            ("1769860800", "2026-01-31T12:00:00Z"),
            ("1769860800.25", "2026-01-31T12:00:00.25Z"),
            ("1769860800250", "2026-01-31T12:00:00.25Z"),
            ("1769860800250001", "2026-01-31T12:00:00.250001Z"),
            ("-86400", "1969-12-31T00:00:00Z"),
        ] {
            let t = parse_time(text).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(t.to_string(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in [
            "",
            "noon",
            "2019",
            "2019-13-01",
            "2019-02-30 10:00",
            "99999999999999999999",
            "12:00",
            "1e9",
            "-",
        ] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_format_of_the_callers_own_is_followed() {
        for (format, text, expected) in [
            ("%d.%m.%Y %H:%M:%S", "20.05.2019 07:07:47", "2019-05-20T07:07:47Z"),
            ("%d/%m/%Y", "20/05/2019", "2019-05-20T00:00:00Z"),
            ("%d/%m/%Y %H:%M %z", "20/05/2019 09:07 +0200", "2019-05-20T07:07:00Z"),
        ] {
            let t = parse_time_by(format, text).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(t.to_string(), expected, "{text}");
        }
        assert!(parse_time_by("%d/%m/%Y", "2019-05-20").is_err());
        assert!(parse_time_by("%", "2019-05-20").is_err());
    }
}
