//! Queries and append conditions, in the words of the Dynamic Consistency Boundary specification (dcb.events).

use crate::{EventView, Position};

/// Selects events: those that match at least one item. A query without items matches every event.
///
/// ```
/// use annals_model::{Query, QueryItem};
/// let q = Query::item(QueryItem::types(["OrderPlaced", "OrderFulfilled"]).tag("customer:7"))
///     .or(QueryItem::tags(["order:42"]));
/// assert_eq!(q.items.len(), 2);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// The items, of which one must match.
    pub items: Vec<QueryItem>,
}

/// Matches events of one of the types (any type, if none is named) that carry all of the tags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryItem {
    /// Types, of which one must be the event's; empty: any type.
    pub types: Vec<String>,
    /// Tags, all of which the event must carry; empty: any event.
    pub tags: Vec<String>,
}

impl Query {
    /// Matches every event.
    #[must_use]
    pub fn all() -> Self {
        Query::default()
    }

    /// Matches what this item matches.
    #[must_use]
    pub fn item(item: QueryItem) -> Self {
        Query { items: vec![item] }
    }

    /// Matches events of one of these types.
    pub fn types<S: Into<String>>(types: impl IntoIterator<Item = S>) -> Self {
        Query::item(QueryItem::types(types))
    }

    /// Matches events that carry all of these tags.
    pub fn tags<S: Into<String>>(tags: impl IntoIterator<Item = S>) -> Self {
        Query::item(QueryItem::tags(tags))
    }

    /// Matches also what `item` matches.
    #[must_use]
    pub fn or(mut self, item: QueryItem) -> Self {
        self.items.push(item);
        self
    }

    /// Whether every event matches.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.items.is_empty() || self.items.iter().any(|i| i.types.is_empty() && i.tags.is_empty())
    }

    /// Whether this event matches.
    #[must_use]
    pub fn matches(&self, event: &EventView<'_>) -> bool {
        self.items.is_empty() || self.items.iter().any(|item| item.matches(event))
    }
}

impl QueryItem {
    /// Events of one of these types.
    pub fn types<S: Into<String>>(types: impl IntoIterator<Item = S>) -> Self {
        QueryItem { types: types.into_iter().map(Into::into).collect(), tags: Vec::new() }
    }

    /// Events that carry all of these tags.
    pub fn tags<S: Into<String>>(tags: impl IntoIterator<Item = S>) -> Self {
        QueryItem { types: Vec::new(), tags: tags.into_iter().map(Into::into).collect() }
    }

    /// And this tag.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Or of this type.
    #[must_use]
    pub fn event_type(mut self, event_type: impl Into<String>) -> Self {
        self.types.push(event_type.into());
        self
    }

    /// Whether this event matches.
    #[must_use]
    pub fn matches(&self, event: &EventView<'_>) -> bool {
        (self.types.is_empty() || self.types.iter().any(|t| t == event.event_type))
            && self.tags.iter().all(|tag| event.tags.contains(tag))
    }
}

/// Lets an append through only if no event after a position matches a query: what was read to decide is what the
/// decision is conditioned on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendCondition {
    /// The append fails if an event matches this.
    pub fail_if_events_match: Query,
    /// Only events *after* this position count (the one exclusive bound in Annals, as in the specification): the last
    /// position that the decision has seen. `None`: every event counts.
    pub after: Option<Position>,
}

impl AppendCondition {
    /// Fails if any event at all matches.
    #[must_use]
    pub fn none_match(query: Query) -> Self {
        AppendCondition { fail_if_events_match: query, after: None }
    }

    /// Fails if an event after `position` matches.
    #[must_use]
    pub fn none_match_after(query: Query, position: Position) -> Self {
        AppendCondition { fail_if_events_match: query, after: Some(position) }
    }
}
