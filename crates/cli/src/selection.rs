//! Which events a verb takes in: a stream, a prefix or category, types, tags, or a whole query in JSON.
//!
//! # Invariants
//! - `read`, `tail` and whoever else selects events take the same arguments with the same meaning.
//!
//! Elsewhere: where to begin and end (`positions`), what a query means (`annals::Query`).

use annals::{ErrorKind, Query, QueryItem, Selection, Topic};
use serde::Deserialize;

use crate::failure::{Failure, Result};

/// Arguments that select events.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct SelectionArgs {
    /// Stream; the whole topic if nothing is said
    #[arg(conflicts_with_all = ["prefix", "category"])]
    pub(crate) stream: Option<String>,
    /// Streams whose names begin with this
    #[arg(long, value_name = "TEXT", conflicts_with = "category")]
    pub(crate) prefix: Option<String>,
    /// Streams of this category: `order` is that of `order-1`, `order-2` and so on
    #[arg(long, value_name = "NAME")]
    pub(crate) category: Option<String>,
    /// Only events of this type; repeated: of one of these types
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) types: Vec<String>,
    /// Only events with this tag; repeated: with all of these tags
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,
    /// Only events that match a query: {"items":[{"types":["A","B"],"tags":["t:1"]}]}; an item matches one of its
    /// types and all of its tags, a query one of its items
    #[arg(long, value_name = "JSON", conflicts_with_all = ["types", "tags"])]
    pub(crate) query: Option<String>,
}

impl SelectionArgs {
    /// Which streams.
    pub(crate) fn selection(&self) -> Selection {
        match (&self.stream, &self.prefix, &self.category) {
            (Some(stream), _, _) => Selection::Stream(stream.clone()),
            (None, Some(prefix), _) => Selection::Prefix(prefix.clone()),
            (None, None, Some(category)) => Selection::Prefix(format!("{category}-")),
            (None, None, None) => Selection::All,
        }
    }

    /// Which of their events.
    pub(crate) fn query(&self) -> Result<Query> {
        if let Some(json) = &self.query {
            return parse_query(json);
        }
        if self.types.is_empty() && self.tags.is_empty() {
            return Ok(Query::all());
        }
        Ok(Query::item(QueryItem { types: self.types.clone(), tags: self.tags.clone() }))
    }
}

/// Fails where a selection is of a stream that is not there.
pub(crate) fn check_stream_is_there(topic: &Topic, selection: &Selection) -> Result<()> {
    let Selection::Stream(stream) = selection else { return Ok(()) };
    let last = match topic.stream_revision(stream) {
        // It cannot be told; the read will come to what is damaged.
        Err(e) if matches!(e.kind(), ErrorKind::Corrupt { .. } | ErrorKind::Unavailable) => return Ok(()),
        last => last?,
    };
    if last.is_none() {
        return Err(Failure::not_found(format!(
            "there is no stream `{stream}` in the topic `{}`",
            topic.name()
        ))
        .next(
            "list what is there with `annals streams`, or what begins alike with `annals streams PREFIX`",
        ));
    }
    Ok(())
}

/// Reads a query: an object with `items`, an array of items, or one item.
pub(crate) fn parse_query(json: &str) -> Result<Query> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Item {
        #[serde(default)]
        types: Vec<String>,
        #[serde(default)]
        tags: Vec<String>,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Items {
        items: Vec<Item>,
    }
    let items: Result<Vec<Item>, serde_json::Error> = match serde_json::from_str::<serde_json::Value>(json) {
        Ok(value) if value.is_array() => serde_json::from_value(value),
        Ok(value) if value.get("items").is_some() => serde_json::from_value::<Items>(value).map(|q| q.items),
        Ok(value) => serde_json::from_value::<Item>(value).map(|item| vec![item]),
        Err(e) => Err(e),
    };
    let items = items.map_err(|e| {
        Failure::usage("the query cannot be read")
            .why(e.to_string())
            .next(r#"write it as {"items":[{"types":["A","B"],"tags":["t:1"]}]}"#)
    })?;
    Ok(Query { items: items.into_iter().map(|i| QueryItem { types: i.types, tags: i.tags }).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_an_object_of_items_an_array_of_them_or_one() {
        let one = Query::item(QueryItem::types(["A", "B"]).tag("t:1"));
        for json in [
            r#"{"items":[{"types":["A","B"],"tags":["t:1"]}]}"#,
            r#"[{"types":["A","B"],"tags":["t:1"]}]"#,
            r#"{"types":["A","B"],"tags":["t:1"]}"#,
        ] {
            assert_eq!(parse_query(json).expect(json), one);
        }
        for bad in
            ["", "x", "{\"type\":\"A\"}", "{\"items\":[{\"tag\":\"A\"}]}", "{\"items\":1}", "1", "\"A\""]
        {
            assert!(parse_query(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_category_is_the_streams_before_its_dash() {
        let args = SelectionArgs { category: Some("order".into()), ..SelectionArgs::default() };
        assert_eq!(args.selection(), Selection::Prefix("order-".into()));
    }
}
