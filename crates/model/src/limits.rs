//! Every limit on what an application may append, in one place. Beyond a limit an append is
//! [`Invalid`](crate::ErrorKind::Invalid) and nothing of it is stored.

use crate::{Error, NewEvent, Result};

/// Longest name of a stream, in bytes of UTF-8.
pub const STREAM_NAME_BYTES_MAX: usize = 1024;
/// Longest name of a topic, in bytes of UTF-8.
pub const TOPIC_NAME_BYTES_MAX: usize = 255;
/// Longest event type, in bytes of UTF-8.
pub const EVENT_TYPE_BYTES_MAX: usize = 255;
/// Longest content type, in bytes.
pub const CONTENT_TYPE_BYTES_MAX: usize = 255;
/// Most tags of one event.
pub const TAGS_MAX: usize = 1024;
/// Longest tag, in bytes of UTF-8.
pub const TAG_BYTES_MAX: usize = 1024;
/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 64 * 1024;
/// Most metadata pairs of one event.
pub const METADATA_PAIRS_MAX: usize = 256;
/// Longest name of a metadata pair, in bytes of UTF-8.
pub const METADATA_NAME_BYTES_MAX: usize = 255;
/// Most bytes of all names and values of one event's metadata.
pub const METADATA_BYTES_MAX: usize = 1024 * 1024;
/// Largest event in bytes, everything counted, unless the store's options say less or more.
pub const EVENT_BYTES_MAX_DEFAULT: usize = 16 * 1024 * 1024;
/// The most that [`EVENT_BYTES_MAX_DEFAULT`] can be raised to.
pub const EVENT_BYTES_MAX_CEILING: usize = 256 * 1024 * 1024;
/// Most events of one batch.
pub const BATCH_EVENTS_MAX: usize = 65_536;
/// Most bytes of one batch, everything counted, or of one event where that is larger.
pub const BATCH_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most items of a query, and most types and tags of an item.
pub const QUERY_TERMS_MAX: usize = 1024;
/// Most partitions of a topic.
pub const PARTITIONS_MAX: u32 = 1024;

/// Checks the name of a stream: any printable text. Names never become paths.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid): empty, too long, or with a control character.
pub fn check_stream_name(name: &str) -> Result<()> {
    check_text("stream name", name, STREAM_NAME_BYTES_MAX)
}

/// Checks the name of a topic: any printable text. Names never become paths.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid): empty, too long, or with a control character.
pub fn check_topic_name(name: &str) -> Result<()> {
    check_text("topic name", name, TOPIC_NAME_BYTES_MAX)
}

/// Checks everything about an event that has a limit of its own, but not its size as a whole.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) names the limit.
pub fn check_event(event: &NewEvent<'_>) -> Result<()> {
    check_text("event type", &event.event_type, EVENT_TYPE_BYTES_MAX)?;
    check_text("content type", &event.content_type, CONTENT_TYPE_BYTES_MAX)?;
    check_count("tags", event.tags.len(), TAGS_MAX)?;
    for tag in &event.tags {
        check_text("tag", tag, TAG_BYTES_MAX)?;
    }
    if let Some(key) = &event.key {
        check_count("bytes of key", key.len(), KEY_BYTES_MAX)?;
    }
    check_count("metadata pairs", event.metadata.len(), METADATA_PAIRS_MAX)?;
    let mut bytes = 0;
    for (name, value) in &event.metadata {
        check_text("metadata name", name, METADATA_NAME_BYTES_MAX)?;
        bytes += name.len() + value.len();
    }
    check_count("bytes of metadata", bytes, METADATA_BYTES_MAX)
}

fn check_count(what: &str, count: usize, max: usize) -> Result<()> {
    if count > max {
        return Err(Error::invalid(format!("{count} {what}, but at most {max} are allowed")));
    }
    Ok(())
}

fn check_text(what: &str, text: &str, bytes_max: usize) -> Result<()> {
    if text.is_empty() {
        return Err(Error::invalid(format!("the {what} may not be empty")));
    }
    if text.len() > bytes_max {
        return Err(Error::invalid(format!(
            "the {what} is {} bytes long, but at most {bytes_max} are allowed",
            text.len()
        )));
    }
    // A byte test first: ASCII without control characters is what nearly every name is.
    if text.bytes().all(|b| (0x20..0x7f).contains(&b)) {
        return Ok(());
    }
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(Error::invalid(format!(
            "the {what} {text:?} holds the control character {c:?}; names are printable text"
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_any_printable_text_and_nothing_else() {
        for good in ["order-42", "../etc/passwd", "Bestellung ✓ 42", "a b", "C:\\x", &"x".repeat(1024)] {
            check_stream_name(good).expect(good);
        }
        for bad in ["", "a\0b", "a\nb", "\u{85}", &"x".repeat(1025)] {
            assert!(check_stream_name(bad).is_err(), "{bad:?}");
        }
    }
}
