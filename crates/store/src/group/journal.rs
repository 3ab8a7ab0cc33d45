//! What a group writes down: changes, in the order in which they happened, in the group's internal partition.
//!
//! # Invariants
//! - The state of a group is the fold of its journal, from the last image onward. Nothing else of it is kept.
//! - Changes that belong together are one batch.
//! - An image is whole or is not there: what was written of one that was never closed is passed over.
//!
//! Elsewhere: what a change does ([`super::state`]).

use std::collections::BTreeMap;
use std::time::Duration;

use annals_model::{
    At, Batch, Durability, Error, ErrorKind, Failure, GroupOptions, GroupPolicy, NewEvent, OnPark,
    ParkReason, Position, Query, QueryItem, Read, Result, Revision, Selection,
};
use serde::{Deserialize, Serialize};

use super::state::State;
use crate::append::Ticket;
use crate::topic::Topic;

const STREAM: &str = "group";
const IMAGE_CLOSED: &str = "ImageClosed";
const IMAGE_PART: &str = "ImagePart";
/// An image is written when the changes since the last one have grown beyond this, and beyond several images.
const CHANGED_BYTES_MIN: u64 = 256 * 1024;
const IMAGES: u64 = 4;
/// One event of an image holds about so many entries.
pub(super) const PART_ENTRIES: usize = 500;
const IMAGE_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Ranges of positions, as they are written.
pub(super) type Spans = Vec<(Position, Position)>;

/// One thing that happened to a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Change {
    /// It was made.
    Created { topic: String, options: StoredOptions, places: Vec<(u32, Position)>, time: i64 },
    /// Its policy was changed.
    Configured { policy: StoredPolicy },
    /// It was taken away.
    Deleted,
    /// These are about to be handed to members; with the id of the last, since on a `Buffered` topic a power cut may take
    /// it, and others get its position.
    Claimed { partition: u32, positions: Spans, last: String },
    /// These are handled, or are none of the group's.
    Acked { partition: u32, positions: Spans },
    /// These were claimed, and given back untried.
    Released { partition: u32, positions: Spans },
    /// A try failed; the next one is due at a time.
    Failed { partition: u32, position: Position, failure: StoredFailure, time: i64, due: i64 },
    /// The process ended while these were claimed.
    Interrupted { time: i64 },
    /// A try failed, and there is no other.
    Parked {
        partition: u32,
        position: Position,
        key: Octets,
        stream: String,
        event_type: String,
        reason: StoredReason,
        failure: StoredFailure,
        /// Whether the try that failed had been counted already.
        counted: bool,
        time: i64,
        holds: bool,
    },
    /// These wait behind a dead letter of their key.
    Held { partition: u32, key: Octets, positions: Vec<Position> },
    /// A dead letter is sent back.
    Redriven { partition: u32, position: Position, edited: Option<Octets> },
    /// A dead letter is given up.
    Discarded { partition: u32, position: Position, reason: String, time: i64 },
    /// It was moved.
    Reset { places: Vec<(u32, Position)> },
    /// Nothing is delivered.
    Paused,
    /// It delivers again.
    Resumed,
    /// It reached a bound of its policy.
    Stopped { why: String },
}

impl Change {
    fn name(&self) -> &'static str {
        match self {
            Change::Created { .. } => "Created",
            Change::Configured { .. } => "Configured",
            Change::Deleted => "Deleted",
            Change::Claimed { .. } => "Claimed",
            Change::Acked { .. } => "Acked",
            Change::Released { .. } => "Released",
            Change::Failed { .. } => "Failed",
            Change::Interrupted { .. } => "Interrupted",
            Change::Parked { .. } => "Parked",
            Change::Held { .. } => "Held",
            Change::Redriven { .. } => "Redriven",
            Change::Discarded { .. } => "Discarded",
            Change::Reset { .. } => "Reset",
            Change::Paused => "Paused",
            Change::Resumed => "Resumed",
            Change::Stopped { .. } => "Stopped",
        }
    }
}

/// Bytes, written as text where they are text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Octets {
    Text(String),
    Hex(String),
}

impl Octets {
    pub(super) fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Octets::Text(text.to_owned()),
            Err(_) => Octets::Hex(bytes.iter().map(|b| format!("{b:02x}")).collect()),
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        match self {
            Octets::Text(text) => text.clone().into_bytes(),
            Octets::Hex(hex) => hex
                .as_bytes()
                .chunks(2)
                .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
                .collect(),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredFailure {
    pub(super) name: String,
    pub(super) message: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) chain: Vec<String>,
}

/// Most of a failure's texts that is kept, in bytes each.
const FAILURE_TEXT_MAX: usize = 16 * 1024;
const FAILURE_CHAIN_MAX: usize = 32;

impl From<&Failure> for StoredFailure {
    fn from(failure: &Failure) -> Self {
        let short = |text: &str| {
            let end = (0..=text.len().min(FAILURE_TEXT_MAX)).rev().find(|&i| text.is_char_boundary(i));
            text[..end.unwrap_or(0)].to_owned()
        };
        StoredFailure {
            name: short(&failure.name),
            message: short(&failure.message),
            chain: failure.chain.iter().take(FAILURE_CHAIN_MAX).map(|t| short(t)).collect(),
        }
    }
}

impl From<StoredFailure> for Failure {
    fn from(stored: StoredFailure) -> Self {
        Failure { name: stored.name, message: stored.message, chain: stored.chain }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum StoredReason {
    TriesExhausted,
    NotRetried,
    Rejected,
    Interrupted,
    LeaseExpired,
}

impl From<ParkReason> for StoredReason {
    fn from(reason: ParkReason) -> Self {
        match reason {
            ParkReason::TriesExhausted => StoredReason::TriesExhausted,
            ParkReason::NotRetried => StoredReason::NotRetried,
            ParkReason::Rejected => StoredReason::Rejected,
            ParkReason::Interrupted => StoredReason::Interrupted,
            ParkReason::LeaseExpired => StoredReason::LeaseExpired,
        }
    }
}

impl From<StoredReason> for ParkReason {
    fn from(reason: StoredReason) -> Self {
        match reason {
            StoredReason::TriesExhausted => ParkReason::TriesExhausted,
            StoredReason::NotRetried => ParkReason::NotRetried,
            StoredReason::Rejected => ParkReason::Rejected,
            StoredReason::Interrupted => ParkReason::Interrupted,
            StoredReason::LeaseExpired => ParkReason::LeaseExpired,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredOptions {
    selection: StoredSelection,
    query: Vec<(Vec<String>, Vec<String>)>,
    key: Option<Octets>,
    policy: StoredPolicy,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum StoredSelection {
    All,
    Stream(String),
    Prefix(String),
}

impl From<&GroupOptions> for StoredOptions {
    fn from(options: &GroupOptions) -> Self {
        StoredOptions {
            selection: match &options.selection {
                Selection::All => StoredSelection::All,
                Selection::Stream(name) => StoredSelection::Stream(name.clone()),
                Selection::Prefix(prefix) => StoredSelection::Prefix(prefix.clone()),
            },
            query: options.query.items.iter().map(|i| (i.types.clone(), i.tags.clone())).collect(),
            key: options.key.as_deref().map(Octets::of),
            policy: (&options.policy).into(),
        }
    }
}

impl From<StoredOptions> for GroupOptions {
    fn from(stored: StoredOptions) -> Self {
        GroupOptions {
            selection: match stored.selection {
                StoredSelection::All => Selection::All,
                StoredSelection::Stream(name) => Selection::Stream(name),
                StoredSelection::Prefix(prefix) => Selection::Prefix(prefix),
            },
            query: Query {
                items: stored.query.into_iter().map(|(types, tags)| QueryItem { types, tags }).collect(),
            },
            key: stored.key.as_ref().map(Octets::bytes),
            from: At::Start,
            policy: stored.policy.into(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredPolicy {
    tries_max: u32,
    backoff_first_us: u64,
    backoff_max_us: u64,
    backoff_jitter: f64,
    not_retried: Vec<String>,
    lease_us: u64,
    in_flight_max: u32,
    goes_on: bool,
    held_per_key_max: u64,
    held_max: u64,
    dead_letters_max: u64,
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl From<&GroupPolicy> for StoredPolicy {
    fn from(policy: &GroupPolicy) -> Self {
        StoredPolicy {
            tries_max: policy.tries_max,
            backoff_first_us: micros(policy.backoff_first),
            backoff_max_us: micros(policy.backoff_max),
            backoff_jitter: policy.backoff_jitter,
            not_retried: policy.not_retried.clone(),
            lease_us: micros(policy.lease),
            in_flight_max: policy.in_flight_max,
            goes_on: policy.on_park == OnPark::GoOn,
            held_per_key_max: policy.held_per_key_max,
            held_max: policy.held_max,
            dead_letters_max: policy.dead_letters_max,
        }
    }
}

impl From<StoredPolicy> for GroupPolicy {
    fn from(stored: StoredPolicy) -> Self {
        GroupPolicy {
            tries_max: stored.tries_max,
            backoff_first: Duration::from_micros(stored.backoff_first_us),
            backoff_max: Duration::from_micros(stored.backoff_max_us),
            backoff_jitter: stored.backoff_jitter,
            not_retried: stored.not_retried,
            lease: Duration::from_micros(stored.lease_us),
            in_flight_max: stored.in_flight_max,
            on_park: if stored.goes_on { OnPark::GoOn } else { OnPark::Hold },
            held_per_key_max: stored.held_per_key_max,
            held_max: stored.held_max,
            dead_letters_max: stored.dead_letters_max,
        }
    }
}

/// What the end of an image says of it.
#[derive(Serialize, Deserialize)]
struct Image {
    first_revision: Revision,
    parts: u64,
}

/// A group's internal partition.
pub(super) struct Journal {
    pub(super) topic: Topic,
    changed_bytes: u64,
    image_bytes: u64,
}

impl Journal {
    /// The state that a journal's readable part adds up to; `None` where there is no group in it.
    pub(super) fn load(topic: Topic) -> Result<(Journal, Option<State>)> {
        loop {
            // Beside a live owner an image may be closed while the fold begins from the one before.
            if let Some((state, changed_bytes, image_bytes)) = fold(&topic, true)? {
                return Ok((Journal { topic, changed_bytes, image_bytes }, state));
            }
        }
    }

    /// Appends changes, all or none. The ticket's answer is theirs.
    pub(super) fn append(&mut self, changes: &[Change]) -> Result<Ticket> {
        let mut batch = Batch::to(STREAM).durability(Durability::Buffered);
        for change in changes {
            let data = encode(change)?;
            self.changed_bytes += data.len() as u64 + 64;
            batch = batch.event(NewEvent::new(change.name()).data(data));
        }
        Ok(self.topic.append(&batch))
    }

    /// Whether enough has changed for an image to pay.
    pub(super) fn wants_image(&self) -> bool {
        self.changed_bytes > CHANGED_BYTES_MIN.max(self.image_bytes * IMAGES)
    }

    /// Writes the whole state down, so that the next fold begins there. Nobody else may write meanwhile.
    pub(super) fn write_image(&mut self, state: &State) -> Result<()> {
        let (mut parts, mut bytes, mut batch_bytes) = (0, 0, 0);
        let mut first_revision = None;
        let mut batch = Batch::to(STREAM).durability(Durability::Buffered);
        let mut all = state.to_parts().into_iter().peekable();
        while let Some(part) = all.next() {
            let data = encode(&part)?;
            parts += 1;
            bytes += data.len() as u64;
            batch_bytes += data.len();
            batch = batch.event(NewEvent::new(IMAGE_PART).data(data));
            if batch_bytes > IMAGE_BATCH_BYTES || all.peek().is_none() {
                let appended = self.topic.append(&batch).wait()?;
                first_revision = first_revision.or(appended.revisions.first().copied());
                batch = Batch::to(STREAM).durability(Durability::Buffered);
                batch_bytes = 0;
            }
        }
        let closed = encode(&Image { first_revision: first_revision.unwrap_or(0), parts })?;
        let closed = Batch::to(STREAM).event(NewEvent::new(IMAGE_CLOSED).data(closed));
        self.topic.append(&closed.durability(Durability::Buffered)).wait()?;
        (self.changed_bytes, self.image_bytes) = (0, bytes);
        Ok(())
    }
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|e| Error::with_source(ErrorKind::Invalid, "cannot write down what a group did", e))
}

type Folded = (Option<State>, u64, u64);

/// The fold, from the last image where they are to be used; `None` where meanwhile there is a later image.
fn fold(topic: &Topic, images: bool) -> Result<Option<Folded>> {
    let unreadable = |view: &annals_model::EventView<'_>, why: serde_json::Error| {
        let kind = ErrorKind::Unreadable {
            place: view.place(),
            event_type: view.event_type.to_owned(),
            schema_version: view.schema_version,
        };
        let what = format!("the event at {} of `{}` is not of a group's journal", view.place(), topic.name());
        Error::with_source(kind, what, why)
    };
    let mut image: Option<Image> = None;
    let last = Read::stream(STREAM).matching(Query::types([IMAGE_CLOSED])).backward().limit(1);
    if images && let Some(event) = topic.read(&last)?.next() {
        let event = event?;
        let data = event.data.as_deref().unwrap_or_default();
        image = Some(serde_json::from_slice(data).map_err(|e| unreadable(&event.view(), e))?);
    }
    let mut read = Read::stream(STREAM);
    if let Some(image) = &image {
        read = read.from(At::Revision(image.first_revision));
    }
    let (mut state, mut changed_bytes, mut image_bytes) = (None, 0, 0);
    let mut parts = 0;
    let mut closed = image.is_none();
    let mut drafted: Option<State> = None;
    let mut events = topic.read(&read)?;
    while let Some(view) = annals_model::Events::next_view(&mut events)? {
        let data = view.data.unwrap_or_default();
        match (view.event_type, &image) {
            (IMAGE_PART, Some(of)) if !closed && parts < of.parts => {
                let part = serde_json::from_slice(data).map_err(|e| unreadable(&view, e))?;
                State::take_part(&mut drafted, part);
                parts += 1;
                image_bytes += data.len() as u64;
            }
            (IMAGE_CLOSED, Some(of)) if !closed && parts < of.parts => {
                // A repair has lost some of it. The journal still says everything.
                tracing::warn!(topic = topic.name(), "an image of a consumer group is not whole");
                return fold(topic, false);
            }
            (IMAGE_CLOSED, Some(_)) if !closed => {
                state = drafted.take();
                closed = true;
            }
            // Of an image that was never closed.
            (IMAGE_PART, _) => {}
            (IMAGE_CLOSED, _) if images => return Ok(None),
            (IMAGE_CLOSED, _) => {}
            _ => {
                changed_bytes += data.len() as u64 + 64;
                let change: Change = serde_json::from_slice(data).map_err(|e| unreadable(&view, e))?;
                State::apply(&mut state, &change);
            }
        }
    }
    Ok(Some((state, changed_bytes, image_bytes)))
}

/// Positions by partition, as they are written.
pub(super) fn spans(positions: impl IntoIterator<Item = (u32, Position)>) -> BTreeMap<u32, Spans> {
    let mut all: Vec<(u32, Position)> = positions.into_iter().collect();
    all.sort_unstable();
    let mut spans: BTreeMap<u32, Spans> = BTreeMap::new();
    for (partition, position) in all {
        let spans = spans.entry(partition).or_default();
        match spans.last_mut() {
            Some(last) if last.1 >= position => last.1 = last.1.max(position + 1),
            _ => spans.push((position, position + 1)),
        }
    }
    spans
}
