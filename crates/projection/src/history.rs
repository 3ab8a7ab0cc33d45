//! A history check: whether today's types still read everything that is stored. For before a deploy.
//!
//! # Invariants
//! - Every stored event is decoded, not a sample of them.
//! - What an aggregate would stop at is reported, also where a reader would pass it over.

use std::collections::BTreeMap;
use std::fmt;

use annals_model::{ErrorKind, EventStore, Read, RecordPlace, Result};

use crate::event::{Decoded, Event, decode};

/// What of a history today's types read, and what not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryReport {
    /// Events that are read.
    pub readable: u64,
    /// Those that are not, by type and schema version.
    pub unreadable: Vec<Unreadable>,
}

/// Events of one type and schema version that today's types do not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The event type, as it is stored.
    pub event_type: String,
    /// The schema version.
    pub schema_version: u32,
    /// How many there are.
    pub events: u64,
    /// Where the first of them stands.
    pub first: RecordPlace,
    /// Its stream.
    pub stream: String,
    /// Why it is not read.
    pub why: Why,
}

/// Why an event is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its type is known, and its data or its version cannot be read: a projection stops there, and so does an aggregate.
    Broken(String),
    /// Its type is not known and not ignored, and it stands in a stream of the category: an aggregate stops there.
    Unknown,
}

impl HistoryReport {
    /// Whether everything is read.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.unreadable.is_empty()
    }
}

impl fmt::Display for HistoryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} events are read", self.readable)?;
        for Unreadable { event_type, schema_version, events, first, stream, why } in &self.unreadable {
            let why = match why {
                Why::Broken(why) => why,
                Why::Unknown => "the type is not known",
            };
            let of = format!("{event_type} version {schema_version}");
            write!(f, "\n{events} of {of} are not, the first at {first} in `{stream}`: {why}")?;
        }
        Ok(())
    }
}

/// Decodes every stored event of the types of `E`, and every event in streams of its category, with today's code.
///
/// ```
/// use annals_projection::{Event, Typed, check_history};
/// use annals_model::{Batch, EventStore, ExpectedRevision, NewEvent};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Debug, Serialize, Deserialize, Event)]
/// # #[event(crate = annals_projection)]
/// #[event(category = "order")]
/// enum OrderEvent { OrderPlaced { cents: u64 } }
///
/// let store = annals_store::Store::in_memory()?;
/// let orders = store.create_topic("orders", annals_store::TopicOptions::default())?;
/// orders.append_typed("1", ExpectedRevision::NoStream, &[OrderEvent::OrderPlaced { cents: 5 }])?;
/// assert!(check_history::<OrderEvent>(&orders)?.is_clean());
///
/// // What an earlier program wrote, in another shape.
/// let old = NewEvent::new("OrderPlaced").data(br#"{"euros":5}"#.as_slice());
/// orders.append(&Batch::to("order-2").event(old)).wait()?;
/// let report = check_history::<OrderEvent>(&orders)?;
/// assert_eq!((report.readable, report.unreadable[0].first.position), (1, 1));
/// # Ok::<(), annals_model::Error>(())
/// ```
///
/// # Errors
/// Those of reading; what cannot be decoded is no error here.
pub fn check_history<E: Event>(store: &(impl EventStore + ?Sized)) -> Result<HistoryReport> {
    let mut report = HistoryReport::default();
    let mut unreadable: BTreeMap<(String, u32, bool), Unreadable> = BTreeMap::new();
    let mut events = store.read(&Read::all())?;
    while let Some(view) = events.next_view()? {
        let why = match decode::<E>(&view) {
            Ok(Decoded::Known(_)) => {
                report.readable += 1;
                continue;
            }
            Ok(Decoded::Unknown) => {
                let category = view.stream.split_once('-').map_or(view.stream, |(category, _)| category);
                if category != E::CATEGORY || E::IGNORED.accepts(view.event_type) {
                    continue;
                }
                Why::Unknown
            }
            Err(e) if matches!(e.kind(), ErrorKind::Unreadable { .. }) => {
                let why = std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string);
                Why::Broken(why)
            }
            Err(e) => return Err(e),
        };
        let key = (view.event_type.to_owned(), view.schema_version, why == Why::Unknown);
        let found = unreadable.entry(key).or_insert_with(|| Unreadable {
            event_type: view.event_type.to_owned(),
            schema_version: view.schema_version,
            events: 0,
            first: view.place(),
            stream: view.stream.to_owned(),
            why,
        });
        found.events += 1;
    }
    report.unreadable = unreadable.into_values().collect();
    Ok(report)
}
