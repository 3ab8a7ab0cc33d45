//! Typed events: an enum whose variants are event types.
//!
//! # Invariants
//! - An event type that nothing here knows is [`Decoded::Unknown`] to a reader, never an error and never a wrong variant.
//! - A known type that cannot be read is an error with its place, never passed over.
//!
//! Elsewhere: bytes (`codec`), variants (`variant`), earlier shapes (`upcast`).

use std::fmt::{Display, Write};
use std::marker::PhantomData;
use std::ops::Deref;

use annals_model::{Error, ErrorKind, EventView, Events, NewEvent, Query, QueryItem, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{Codec, CodecError, Json};
use crate::upcast::Upcasts;
use crate::variant::{Fields, FieldsSeed};

/// The events of a category: an enum, by `#[derive(Event)]` beside serde's derives. Each variant is an event type.
///
/// - Of the enum is said: `category = "order"`, which begins its streams' names (`order-42`); if need be
///   `prefix = "Order"`, which begins its event types' names (`OrderPlaced` for `Placed`), `codec = Bincode` ([`Json`] otherwise), `upcasts = function` (see [`Upcasts`]), and which other event types an
///   aggregate may pass over that meets them in its streams: `ignore("TypeA", "TypeB")` or `ignore_unknown`.
/// - Of a variant: `name = "…"` where its event type has another name than the variant, `version = 2` (the schema version,
///   1 if nothing is said).
/// - Of a field: `tag`, which makes its value the tag `field:value`, or `tag = "name"`. An `Option` gives a tag or none, a
///   `Vec` one for each element; see [`TagValue`].
///
/// ```
/// use annals_projection::{Event, decode, encode};
/// use serde::{Deserialize, Serialize};
///
/// # use annals_projection as annals;
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
/// # #[event(crate = annals_projection)]
/// #[event(category = "order", prefix = "Order")]
/// enum OrderEvent {
///     Placed { #[event(tag)] customer: u64, cents: u64 },
///     #[event(name = "OrderDispatched", version = 2)]
///     Shipped { carrier: String },
/// }
///
/// let event = encode(&OrderEvent::Placed { customer: 7, cents: 1250 })?;
/// assert_eq!(event.event_type, "OrderPlaced");
/// assert_eq!(event.tags, ["customer:7"]);
/// assert_eq!(event.data.as_deref(), Some(br#"{"customer":7,"cents":1250}"#.as_slice()));
/// assert_eq!(OrderEvent::stream("42"), "order-42");
/// # Ok::<(), annals_model::Error>(())
/// ```
pub trait Event: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What payloads are written in.
    type Codec: Codec;
    /// What the names of its streams begin with.
    const CATEGORY: &'static str;
    /// Its event types, one for each variant, in their order.
    const TYPES: &'static [EventType];
    /// Which other event types the fold of an aggregate passes over.
    const IGNORED: Ignored;

    /// The number of this value's variant.
    fn variant(&self) -> u32;

    /// Gives each tag's name and value.
    fn tags(&self, tag: &mut dyn FnMut(&str, &dyn Display));

    /// The steps by which earlier shapes become today's.
    fn upcasts() -> &'static Upcasts;

    /// This value's event type.
    #[must_use]
    fn event_type(&self) -> &'static EventType {
        // The derive numbers variants and types alike.
        &Self::TYPES[self.variant() as usize]
    }

    /// The stream of this id: the category, `-` and the id.
    #[must_use]
    fn stream(id: &str) -> String {
        format!("{}-{id}", Self::CATEGORY)
    }

    /// Selects all of its event types, those of earlier shapes too.
    #[must_use]
    fn query() -> Query {
        let mut names: Vec<&str> = Self::TYPES.iter().map(|t| t.name).collect();
        names.extend(Self::upcasts().sources().map(|(name, _)| name));
        names.sort_unstable();
        names.dedup();
        Query::item(QueryItem::types(names))
    }
}

/// An event type, as a variant of an [`Event`] stands for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventType {
    /// Its name, as it is stored.
    pub name: &'static str,
    /// The version of the shape that is written today, from 1.
    pub schema_version: u32,
    /// The number of the variant.
    pub variant: u32,
}

/// Which event types that an [`Event`] does not know an aggregate passes over. All others stop it: a fold that leaves out
/// what it does not understand decides on a wrong state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// These.
    Types(&'static [&'static str]),
    /// All that are unknown.
    Unknown,
}

impl Ignored {
    /// Whether this unknown type is passed over.
    #[must_use]
    pub fn accepts(self, event_type: &str) -> bool {
        match self {
            Ignored::Types(types) => types.contains(&event_type),
            Ignored::Unknown => true,
        }
    }
}

/// What a field's tag is made of.
///
/// Implement it for an id type of one's own by what it is made of:
///
/// ```
/// use annals_projection::TagValue;
/// struct CustomerId(u64);
/// impl TagValue for CustomerId {
///     fn each(&self, tag: &mut dyn FnMut(&dyn std::fmt::Display)) {
///         tag(&self.0);
///     }
/// }
/// let mut tags = Vec::new();
/// vec![Some(CustomerId(7)), None].each(&mut |value| tags.push(value.to_string()));
/// assert_eq!(tags, ["7"]);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be made a tag",
    note = "implement `TagValue` for it by what it is made of, or leave `#[event(tag)]` out"
)]
pub trait TagValue {
    /// Gives each value that there is to be a tag of.
    fn each(&self, tag: &mut dyn FnMut(&dyn Display));
}

macro_rules! tag_values {
    ($($of:ty)+) => {
        $(impl TagValue for $of {
            fn each(&self, tag: &mut dyn FnMut(&dyn Display)) {
                tag(&self);
            }
        })+
    };
}

tag_values! { bool char i8 i16 i32 i64 i128 isize u8 u16 u32 u64 u128 usize str String annals_model::EventId }

impl<T: TagValue + ?Sized> TagValue for &T {
    fn each(&self, tag: &mut dyn FnMut(&dyn Display)) {
        (**self).each(tag);
    }
}

impl<T: TagValue + ?Sized> TagValue for Box<T> {
    fn each(&self, tag: &mut dyn FnMut(&dyn Display)) {
        (**self).each(tag);
    }
}

impl<T: TagValue> TagValue for Option<T> {
    fn each(&self, tag: &mut dyn FnMut(&dyn Display)) {
        self.iter().for_each(|value| value.each(tag));
    }
}

impl<T: TagValue> TagValue for Vec<T> {
    fn each(&self, tag: &mut dyn FnMut(&dyn Display)) {
        self.iter().for_each(|value| value.each(tag));
    }
}

/// The event to append for a value: type, schema version, content type, data and tags.
///
/// # Errors
/// `Invalid` where the codec cannot say the value.
pub fn encode<E: Event>(event: &E) -> Result<NewEvent<'static>> {
    let of = event.event_type();
    let mut data = Vec::new();
    E::Codec::encode(&Fields(event), &mut data)
        .map_err(|e| Error::with_source(ErrorKind::Invalid, format!("cannot write a {}", of.name), e))?;
    let mut new = NewEvent::new(of.name)
        .schema_version(of.schema_version)
        .content_type(E::Codec::CONTENT_TYPE)
        .data(data);
    event.tags(&mut |name, value| {
        let mut tag = String::with_capacity(name.len() + 24);
        // Writing into a string does not fail.
        let _ = write!(tag, "{name}:{value}");
        if !new.tags.iter().any(|t| *t == tag) {
            new.tags.push(tag.into());
        }
    });
    Ok(new)
}

/// What a stored event is to somebody who knows the types of `E`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<E> {
    /// One of its types.
    Known(E),
    /// Another type.
    Unknown,
}

impl<E> Decoded<E> {
    /// The event, where its type is known.
    pub fn known(self) -> Option<E> {
        match self {
            Decoded::Known(event) => Some(event),
            Decoded::Unknown => None,
        }
    }

    /// The same, borrowed.
    pub fn as_known(&self) -> Option<&E> {
        match self {
            Decoded::Known(event) => Some(event),
            Decoded::Unknown => None,
        }
    }
}

/// Reads a stored event as one of the types of `E`, by way of its upcasts where an earlier version wrote it.
///
/// # Errors
/// [`Unreadable`](ErrorKind::Unreadable) where the type is known and its data, or its version, cannot be read.
pub fn decode<E: Event>(view: &EventView<'_>) -> Result<Decoded<E>> {
    let mut event = None;
    decode_into(&mut event, view)?;
    Ok(event.map_or(Decoded::Unknown, Decoded::Known))
}

/// The same to where the event is wanted; nothing where its type is unknown.
///
/// An event that comes back from function to function is copied by each of them, which costs more than reading its
/// numbers. So it is put in place by the innermost, and what hardly ever happens is not in the way.
#[inline]
pub(crate) fn decode_into<E: Event>(into: &mut Option<E>, view: &EventView<'_>) -> Result<()> {
    if let Some(known) = E::TYPES.iter().find(|t| t.name == view.event_type)
        && known.schema_version == view.schema_version
        && view.content_type == E::Codec::CONTENT_TYPE
    {
        let seed = FieldsSeed { variant: known.variant, into };
        return match E::Codec::decode(seed, view.data.unwrap_or_default()) {
            Ok(()) => Ok(()),
            Err(why) => Err(unreadable(*view, why)),
        };
    }
    decode_otherwise(into, *view)
}

/// Reads an event that another version or another codec wrote, or of an unknown type.
#[inline(never)]
fn decode_otherwise<E: Event>(into: &mut Option<E>, view: EventView<'_>) -> Result<()> {
    let known = E::TYPES.iter().find(|t| t.name == view.event_type);
    let data = view.data.unwrap_or_default();
    let decoded = match known {
        Some(known) if known.schema_version == view.schema_version => {
            decode_as(into, known.variant, view.content_type, data)
        }
        _ => upcast_into(into, known, &view, data),
    };
    decoded.map_err(|why| unreadable(view, why))
}

/// Reads an event whose type or version is not one of today's, by way of upcasts.
fn upcast_into<E: Event>(
    into: &mut Option<E>,
    known: Option<&EventType>,
    view: &EventView<'_>,
    data: &[u8],
) -> Result<(), CodecError> {
    match E::upcasts().run(view.event_type, view.schema_version, view.content_type, data)? {
        Some(current) => {
            let today = E::TYPES
                .iter()
                .find(|t| (t.name, t.schema_version) == (current.event_type, current.schema_version));
            let Some(today) = today else {
                let (name, version) = (current.event_type, current.schema_version);
                return Err(format!(
                    "the upcasts end at version {version} of {name}, which is no type of today"
                )
                .into());
            };
            decode_as(into, today.variant, current.content_type, &current.data)
        }
        None => match known {
            None => Ok(()),
            Some(known) => {
                let today = known.schema_version;
                Err(if view.schema_version > today {
                    format!("a later program wrote it: this one knows version {today}").into()
                } else {
                    format!("no upcast leads from it to version {today}").into()
                })
            }
        },
    }
}

#[cold]
fn unreadable(view: EventView<'_>, why: CodecError) -> Error {
    Error::with_source(
        ErrorKind::Unreadable {
            place: view.place(),
            event_type: view.event_type.to_owned(),
            schema_version: view.schema_version,
        },
        format!(
            "the event at {} is a {} of version {} that cannot be read",
            view.place(),
            view.event_type,
            view.schema_version
        ),
        why,
    )
}

fn decode_as<E: Event>(
    into: &mut Option<E>,
    variant: u32,
    content_type: &str,
    data: &[u8],
) -> Result<(), CodecError> {
    let seed = FieldsSeed { variant, into };
    if content_type == E::Codec::CONTENT_TYPE {
        E::Codec::decode(seed, data)
    } else if content_type == Json::CONTENT_TYPE {
        Json::decode(seed, data)
    } else if content_type == crate::codec::Bincode::CONTENT_TYPE {
        crate::codec::Bincode::decode(seed, data)
    } else {
        let reads = E::Codec::CONTENT_TYPE;
        Err(format!("it is written in {content_type}, and what is read is {reads}").into())
    }
}

/// A stored event, decoded, with everything that is recorded about it.
#[derive(Clone, Copy, Debug)]
pub struct Recorded<'a, E> {
    /// What happened.
    pub event: Decoded<E>,
    view: EventView<'a>,
}

impl<'a, E: Event> Recorded<'a, E> {
    /// Decodes a stored event.
    ///
    /// # Errors
    /// As [`decode`].
    pub fn new(view: EventView<'a>) -> Result<Self> {
        Ok(Recorded { event: decode(&view)?, view })
    }
}

impl<'a, E> Recorded<'a, E> {
    /// The event, where its type is known.
    #[must_use]
    pub fn known(&self) -> Option<&E> {
        self.event.as_known()
    }

    /// What is recorded about it: position, stream, revision, times, metadata, tags.
    #[must_use]
    pub fn view(&self) -> &EventView<'a> {
        &self.view
    }
}

impl<'a, E> Deref for Recorded<'a, E> {
    type Target = EventView<'a>;

    fn deref(&self) -> &EventView<'a> {
        &self.view
    }
}

/// The events of a read, decoded one after the other.
pub struct TypedEvents<E> {
    events: Box<dyn Events>,
    event: PhantomData<fn() -> E>,
}

impl<E: Event> TypedEvents<E> {
    /// Decodes what a read gives.
    #[must_use]
    pub fn new(events: Box<dyn Events>) -> Self {
        TypedEvents { events, event: PhantomData }
    }

    /// The next event, `None` behind the last.
    ///
    /// # Errors
    /// As [`Events::next_view`] and [`decode`].
    #[expect(clippy::should_implement_trait, reason = "what it gives borrows from the read")]
    pub fn next(&mut self) -> Result<Option<Recorded<'_, E>>> {
        self.events.next_view()?.map(Recorded::new).transpose()
    }
}
