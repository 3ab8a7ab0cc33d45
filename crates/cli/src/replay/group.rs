//! What a replay groups events by: their stream, type, key, tags, or a field of their data.
//!
//! # Invariants
//! - An event that has nothing of what is grouped by belongs to no group, and is counted as such.
//!
//! Elsewhere: the state of a group (`state`).

use annals::EventView;

use crate::event_json::is_json_type;
use crate::import::row::{Texts, Value};
use crate::json::member_of;

/// What events are grouped by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GroupBy {
    /// Not at all: one group of everything.
    Nothing,
    Stream,
    Type,
    /// The key, or the stream's name where there is none.
    Key,
    /// Each tag that begins with this is a group.
    Tag(String),
    /// The value of this metadata.
    Meta(String),
    /// The value at this path in JSON data; each element, where it is a list.
    Data(String),
}

impl GroupBy {
    /// Reads what `--group-by` was given.
    pub(crate) fn parse(text: &str) -> Result<GroupBy, String> {
        let field = |name: &str| match name {
            "" => Err("the name of a field may not be empty".to_owned()),
            name => Ok(name.to_owned()),
        };
        Ok(match text {
            "stream" => GroupBy::Stream,
            "type" => GroupBy::Type,
            "key" => GroupBy::Key,
            "tag" => GroupBy::Tag(String::new()),
            _ => match (text.strip_prefix("tag:"), text.strip_prefix("meta."), text.strip_prefix("data.")) {
                (Some(prefix), _, _) => GroupBy::Tag(prefix.to_owned()),
                (_, Some(name), _) => GroupBy::Meta(field(name)?),
                (_, _, Some(path)) => GroupBy::Data(field(path)?),
                _ => GroupBy::Data(field(text)?),
            },
        })
    }

    /// Calls `f` with the name of each group that the event belongs to; none twice.
    pub(crate) fn each(&self, event: &EventView<'_>, f: &mut dyn FnMut(&str)) {
        match self {
            GroupBy::Nothing => f(""),
            GroupBy::Stream => f(event.stream),
            GroupBy::Type => f(event.event_type),
            GroupBy::Key => f(&String::from_utf8_lossy(event.key_or_stream())),
            GroupBy::Tag(prefix) => {
                for (i, tag) in event.tags.iter().enumerate() {
                    if tag.starts_with(prefix.as_str()) && !event.tags.iter().take(i).any(|t| t == tag) {
                        f(tag);
                    }
                }
            }
            GroupBy::Meta(name) => {
                if let Some(value) = event.metadata.get(name) {
                    f(&String::from_utf8_lossy(value));
                }
            }
            GroupBy::Data(path) => {
                let Some(json) = event.data.filter(|_| is_json_type(event.content_type)) else { return };
                let Some(value) = std::str::from_utf8(json).ok().and_then(|json| member_of(json, path))
                else {
                    return;
                };
                match Value::Json(value).texts() {
                    Texts::None => {}
                    Texts::One(text) => f(&text),
                    Texts::Many(texts) => {
                        for (i, text) in texts.iter().enumerate() {
                            if !texts[..i].contains(text) {
                                f(text);
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use annals::{EventId, Metadata, RecordedEvent, Timestamp};

    fn event() -> RecordedEvent {
        RecordedEvent {
            partition: 0,
            position: 0,
            revision: 0,
            recorded_time: Timestamp::EPOCH,
            event_time: None,
            id: EventId::from_name("x"),
            stream: "order-1".into(),
            key: None,
            event_type: "Placed".into(),
            schema_version: 1,
            content_type: "application/json".into(),
            data: Some(
                br#"{"customer":{"id":7},"items":["a","b","a"],"stream":"s","none":null}"#.to_vec().into(),
            ),
            metadata: Metadata(vec![("user".into(), b"eve".to_vec().into())]),
            tags: vec!["item:a".into(), "order:1".into(), "item:b".into(), "item:a".into()],
        }
    }

    #[test]
    fn an_event_belongs_to_the_groups_that_it_names() {
        for (by, groups) in [
            ("stream", vec!["order-1"]),
            ("type", vec!["Placed"]),
            ("key", vec!["order-1"]),
            ("tag:item:", vec!["item:a", "item:b"]),
            ("tag", vec!["item:a", "order:1", "item:b"]),
            ("tag:none", vec![]),
            ("meta.user", vec!["eve"]),
            ("customer.id", vec!["7"]),
            ("data.stream", vec!["s"]),
            ("items", vec!["a", "b"]),
            ("none", vec![]),
            ("missing", vec![]),
        ] {
            let mut out = Vec::new();
            GroupBy::parse(by).expect(by).each(&event().view(), &mut |g| out.push(g.to_owned()));
            assert_eq!(out, groups, "{by}");
        }
        for bad in ["", "data.", "meta."] {
            assert!(GroupBy::parse(bad).is_err(), "{bad}");
        }
        let mut binary = event();
        binary.data = Some(b"\xff".to_vec().into());
        GroupBy::Data("a".into()).each(&binary.view(), &mut |g| panic!("{g}"));
    }
}
