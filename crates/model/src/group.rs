//! Consumer groups: shared, ordered, at-least-once consumption of a topic, and the dead letters of what could not be handled.
//!
//! # Invariants
//! - A delivery is at least once. Of one key (within its partition) at most one event is handed out at a time, in the order
//!   of positions; different keys go on side by side.
//! - A committed position never goes back but by [`reset`](ConsumerGroup::reset), and never passes an event that was not
//!   acked, parked, or held behind its key.
//! - What is parked, held or redriven changes together with the committed position or not at all, whatever crashes.
//!
//! Begin with [`ConsumerGroup`] and [`GroupMember`]; the embedded store's `Topic::create_group` has an example.
//!
//! The words are those of Kafka and of work queues; `docs/groups.md` maps them to Kafka Connect's, Spring Kafka's and
//! KIP-1191's.
//!
//! Elsewhere: the embedded implementation (`annals-store`, module `group`).

use std::time::Duration;

use crate::{
    Appended, At, Batch, EventId, EventStore, EventView, PartitionId, Pending, Place, Position, Query,
    RecordPlace, Result, Selection, Timestamp,
};

/// What a group consumes, where it begins, and how it treats what fails. Fixed when the group is made, but for the policy.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupOptions {
    /// Which streams.
    pub selection: Selection,
    /// Which of their events.
    pub query: Query,
    /// Only events of this key; an event that was given none has its stream for one.
    pub key: Option<Vec<u8>>,
    /// Where it begins: the start, the end, a position, a place, or a recorded time.
    pub from: At,
    /// How it delivers.
    pub policy: GroupPolicy,
}

impl Default for GroupOptions {
    fn default() -> Self {
        GroupOptions {
            selection: Selection::All,
            query: Query::all(),
            key: None,
            from: At::Start,
            policy: GroupPolicy::default(),
        }
    }
}

/// How a group delivers, and what it does with what fails.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupPolicy {
    /// An event that failed so many times is parked; at least 1.
    pub tries_max: u32,
    /// Wait before the second try; each further one waits twice as long.
    pub backoff_first: Duration,
    /// Longest wait between tries.
    pub backoff_max: Duration,
    /// Up to this share of a wait is taken off at random, 0 to 1, so that what failed together is not tried together.
    pub backoff_jitter: f64,
    /// A failure of one of these [names](Failure::name) is parked at once; a `*` at the end stands for any ending.
    pub not_retried: Vec<String>,
    /// What was handed out and not answered for so long is delivered to another member, and counts as tried.
    pub lease: Duration,
    /// Most events of the group that are with members at a time.
    pub in_flight_max: u32,
    /// What becomes of the later events of a parked event's key.
    pub on_park: OnPark,
    /// The group stops where more events of one key would be held.
    pub held_per_key_max: u64,
    /// The group stops where more events would be held in all.
    pub held_max: u64,
    /// The group stops where there would be more dead letters.
    pub dead_letters_max: u64,
}

impl Default for GroupPolicy {
    fn default() -> Self {
        GroupPolicy {
            tries_max: 5,
            backoff_first: Duration::from_millis(500),
            backoff_max: Duration::from_secs(60),
            backoff_jitter: 0.5,
            not_retried: Vec::new(),
            lease: Duration::from_secs(30),
            in_flight_max: 10_000,
            on_park: OnPark::Hold,
            held_per_key_max: 10_000,
            held_max: 1_000_000,
            dead_letters_max: 100_000,
        }
    }
}

/// What becomes of the later events of a parked event's key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnPark {
    /// They are held behind it until it is redriven or discarded.
    #[default]
    Hold,
    /// They are delivered.
    GoOn,
}

/// Why an event was not handled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// What kind of error: a type's or class's name. Dead letters are grouped by it, and
    /// [`not_retried`](GroupPolicy::not_retried) names it.
    pub name: String,
    /// What it says.
    pub message: String,
    /// What caused it, outermost first.
    pub chain: Vec<String>,
}

impl Failure {
    /// A failure of this name.
    pub fn new(name: impl Into<String>, message: impl Into<String>) -> Self {
        Failure { name: name.into(), message: message.into(), chain: Vec::new() }
    }

    /// What an error and its sources say; the name is the error's type.
    #[must_use]
    pub fn of<E: std::error::Error + 'static>(error: &E) -> Self {
        let mut chain = Vec::new();
        let mut source = error.source();
        while let Some(e) = source {
            chain.push(e.to_string());
            source = e.source();
        }
        Failure { name: std::any::type_name::<E>().to_owned(), message: error.to_string(), chain }
    }
}

/// An event as it is handed to a member.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'e> {
    /// The event. Of an edited copy, the data are the edited ones, all else the original's.
    pub event: EventView<'e>,
    /// Which try this is, from 1. A redriven dead letter begins again at 1.
    pub tries: u32,
    /// It was a dead letter, and is redriven.
    pub redriven: bool,
    /// Its data are an edited copy's.
    pub edited: bool,
}

impl Delivery<'_> {
    /// Where the event stands, and what it is acked by.
    #[must_use]
    pub fn place(&self) -> RecordPlace {
        self.event.place()
    }
}

/// What became of an event that was not handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nacked {
    /// It is delivered again after this wait.
    Retried(Duration),
    /// It is a dead letter now.
    Parked,
}

/// One of those that share a group's work. It serves one thread; a group may have any number.
///
/// Answers take effect at once for what is delivered next, and are durable when [`commit`](Self::commit) returns, or soon
/// after without it. What was not durable at a crash is delivered again.
pub trait GroupMember: Send {
    /// The next event for this member; waits at most `timeout` for one. `None`: none came, or the group is paused.
    ///
    /// Several may be with the member unanswered, each of another key, up to the group's limit in flight.
    ///
    /// # Errors
    /// `Stopped` where the group has stopped itself; `Closed` with the store, and where the group was deleted; `Corrupt`
    /// where the event's bytes are damaged; those of storing.
    fn next(&mut self, timeout: Duration) -> Result<Option<Delivery<'_>>>;

    /// It is handled.
    ///
    /// # Errors
    /// `LeaseExpired` where it is not, or no longer, with this member: it is or was delivered to another.
    fn ack(&mut self, place: RecordPlace) -> Result<()>;

    /// It was not handled: it is tried again after `delay` (`None`: the policy's wait), or parked after the last try.
    ///
    /// # Errors
    /// As [`ack`](Self::ack), and those of storing.
    fn nack(&mut self, place: RecordPlace, failure: &Failure, delay: Option<Duration>) -> Result<Nacked>;

    /// It is not worth another try: it becomes a dead letter now.
    ///
    /// # Errors
    /// As [`nack`](Self::nack).
    fn park(&mut self, place: RecordPlace, failure: &Failure) -> Result<()>;

    /// Gives it back without having tried; it is delivered again, and the try is not counted.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    fn release(&mut self, place: RecordPlace) -> Result<()>;

    /// Begins the lease of all that is with this member anew.
    ///
    /// # Errors
    /// `LeaseExpired` where something had been taken from it meanwhile.
    fn renew(&mut self) -> Result<()>;

    /// Waits until all that this member has answered is as durable as the topic asks.
    ///
    /// # Errors
    /// Those of storing. What was not stored is delivered again.
    fn commit(&mut self) -> Result<()>;
}

/// A consumer group of a topic.
///
/// ```
/// use std::time::Duration;
///
/// use annals_model::{ConsumerGroup, Failure, Result};
///
/// /// Has all that is there handled, on this thread. Others may do the same beside it.
/// fn consume(group: &dyn ConsumerGroup, handle: impl Fn(&[u8]) -> Result<()>) -> Result<u64> {
///     let mut member = group.join()?;
///     let mut handled = 0;
///     while let Some(delivery) = member.next(Duration::from_millis(100))? {
///         let place = delivery.place();
///         match handle(delivery.event.data.unwrap_or_default()) {
///             Ok(()) => member.ack(place)?,
///             // Tried again after the policy's wait, and parked after the last try.
///             Err(e) => _ = member.nack(place, &Failure::of(&e), None)?,
///         }
///         handled += 1;
///     }
///     member.commit()?;
///     Ok(handled)
/// }
/// ```
pub trait ConsumerGroup: Send + Sync {
    /// Its name.
    fn name(&self) -> &str;

    /// A new member, which consumes until it is dropped. Dropping it gives back what is with it, uncounted.
    ///
    /// # Errors
    /// `Invalid` on a store opened to read, and where the group's place is of another history of its topic (restored or
    /// repaired): reset it. `HistoryTruncated` where what comes next was removed.
    fn join(&self) -> Result<Box<dyn GroupMember>>;

    /// How it stands.
    ///
    /// # Errors
    /// Those of reading it.
    fn info(&self) -> Result<GroupInfo>;

    /// How much is before it. Of a group with a filter the events that it selects are counted one by one.
    ///
    /// # Errors
    /// Those of reading.
    fn lag(&self) -> Result<Lag>;

    /// Delivers nothing more until it is resumed, also after reopening. What is with members goes on.
    ///
    /// # Errors
    /// Those of storing.
    fn pause(&self) -> Result<()>;

    /// Delivers again, after a pause or after it had stopped itself.
    ///
    /// # Errors
    /// Those of storing.
    fn resume(&self) -> Result<()>;

    /// Delivers nothing more to its present members and waits until what is with them is answered, at most `timeout`;
    /// whether all of it is. What was answered is durable then.
    ///
    /// # Errors
    /// Those of storing.
    fn drain(&self, timeout: Duration) -> Result<bool>;

    /// Changes how it delivers.
    ///
    /// # Errors
    /// `Invalid` policies; those of storing.
    fn set_policy(&self, policy: &GroupPolicy) -> Result<()>;

    /// What a [`reset`](Self::reset) would do.
    ///
    /// # Errors
    /// As [`reset`](Self::reset).
    fn plan_reset(&self, to: &ResetTo) -> Result<ResetPlan>;

    /// Moves its place. Deliveries under way are no longer its own; dead letters, held events and tries at or behind the new
    /// place are forgotten, since their events are delivered anew.
    ///
    /// # Errors
    /// `Invalid` where the place lies outside the topic or is of another history.
    fn reset(&self, to: &ResetTo) -> Result<ResetPlan>;

    /// Its dead letters, in the order of their places.
    ///
    /// # Errors
    /// Those of reading.
    fn dead_letters(&self) -> Result<Vec<DeadLetter>>;

    /// The keys that are held, in the order of their dead letters' places.
    ///
    /// # Errors
    /// Those of reading.
    fn held(&self) -> Result<Vec<HeldKey>>;

    /// Sends a dead letter back to the group, as it is or with other data, before what is held behind it. It stays in the
    /// list, as [`Redriving`](LetterState::Redriving), until it is acked. The topic is not touched.
    ///
    /// # Errors
    /// `NotFound` where there is no such dead letter; `Invalid` where it is being redriven.
    fn redrive(&self, letter: RecordPlace, edited: Option<&[u8]>) -> Result<()>;

    /// Gives a dead letter up; what is held behind it goes on.
    ///
    /// # Errors
    /// As [`redrive`](Self::redrive).
    fn discard(&self, letter: RecordPlace, reason: &str) -> Result<()>;
}

/// The consumer groups of a topic.
pub trait ConsumerGroups: EventStore {
    /// Makes a group.
    ///
    /// # Errors
    /// `Invalid` where there is one of this name, the name is not 1 to 200 bytes of printable text without `/`, or the options
    /// make no sense.
    fn create_group(&self, name: &str, options: &GroupOptions) -> Result<Box<dyn ConsumerGroup>>;

    /// The group of this name.
    ///
    /// # Errors
    /// `NotFound`, which names those that there are.
    fn group(&self, name: &str) -> Result<Box<dyn ConsumerGroup>>;

    /// The names of its groups, sorted.
    ///
    /// # Errors
    /// Those of reading.
    fn groups(&self) -> Result<Vec<String>>;

    /// Takes a group away, with its place and its dead letters; its members get `Closed`.
    ///
    /// # Errors
    /// `NotFound`; those of storing.
    fn delete_group(&self, name: &str) -> Result<()>;
}

/// How a group stands.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupInfo {
    /// Its name.
    pub name: String,
    /// Its topic.
    pub topic: String,
    /// As it was made; `from` is the place that it began at.
    pub options: GroupOptions,
    /// When it was made.
    pub created_time: Timestamp,
    /// Everything before it was acked, parked, held, or is none of the group's.
    pub committed: Place,
    /// By partition, how many positions behind the committed one are done too.
    pub done_ahead: Vec<u64>,
    /// Events that failed and are tried again.
    pub retrying: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Events held behind dead letters.
    pub held: u64,
    /// Events with members. Known to the owner only.
    pub in_flight: u64,
    /// Members. Known to the owner only.
    pub members: u32,
    /// Whether it is paused.
    pub paused: bool,
    /// Why it stopped itself, where it did.
    pub stopped: Option<String>,
    /// What it has done since it was made.
    pub counts: GroupCounts,
}

/// What a group has done since it was made. Equal to a fold of its internal partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupCounts {
    /// Deliveries that failed.
    pub failed: u64,
    /// Deliveries interrupted by the death of the process.
    pub interrupted: u64,
    /// Events parked; again counts again.
    pub parked: u64,
    /// Dead letters sent back.
    pub redriven: u64,
    /// Dead letters that were sent back and then acked.
    pub recovered: u64,
    /// Dead letters given up.
    pub discarded: u64,
}

/// How much is before a group: what it selects, and has not acked, parked or held.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lag {
    /// Events.
    pub events: u64,
    /// Their bytes in the log.
    pub bytes: u64,
    /// When the oldest of them was recorded.
    pub oldest: Option<Timestamp>,
    /// Seconds since the oldest of them was recorded; 0 where there is none.
    pub seconds: f64,
}

/// Where a group is moved to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResetTo {
    /// The start, the end, a position, a place, or a recorded time.
    At(At),
    /// So many positions on (back, if negative) in each partition, held at the ends of the topic. By 0 it takes its old
    /// position over into another history, after a restore or repair.
    Shift(i64),
}

/// What a reset does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResetPlan {
    /// Where the group stands.
    pub from: Place,
    /// Where it is moved to.
    pub to: Place,
    /// Positions that are delivered again, where the group selects them.
    pub again: u64,
    /// Positions that are passed over unhandled, where the group selects them.
    pub skipped: u64,
    /// Dead letters that are forgotten, since their events are delivered again.
    pub dead_letters: u64,
    /// Held events that are no longer, since they are delivered again.
    pub held: u64,
}

/// An event that was given up after its last try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Where its event stands; what it is named by.
    pub place: RecordPlace,
    /// Its event's stream.
    pub stream: String,
    /// Its event's type.
    pub event_type: String,
    /// Its event's key.
    pub key: Vec<u8>,
    /// Why it was parked.
    pub reason: ParkReason,
    /// How the last try failed.
    pub failure: Failure,
    /// How often it was tried, in all.
    pub tries: u32,
    /// When it failed first.
    pub first_time: Timestamp,
    /// When it failed last.
    pub last_time: Timestamp,
    /// How often it was redriven.
    pub redrives: u32,
    /// Whether it is being redriven.
    pub state: LetterState,
    /// The data that it was redriven with last, where they were edited.
    pub edited: Option<Vec<u8>>,
    /// Events held behind it.
    pub held: u64,
}

/// Why an event was parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParkReason {
    /// The last try failed.
    TriesExhausted,
    /// Its failure is one that is not retried.
    NotRetried,
    /// A member said so.
    Rejected,
    /// The process died during the last try.
    Interrupted,
    /// It was not answered in time at the last try.
    LeaseExpired,
}

impl ParkReason {
    /// Its name in output and metadata, such as `tries-exhausted`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ParkReason::TriesExhausted => "tries-exhausted",
            ParkReason::NotRetried => "not-retried",
            ParkReason::Rejected => "rejected",
            ParkReason::Interrupted => "interrupted",
            ParkReason::LeaseExpired => "lease-expired",
        }
    }
}

/// Whether a dead letter waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetterState {
    /// It waits to be redriven or discarded.
    Parked,
    /// It was sent back, and is not acked yet.
    Redriving,
}

/// A key whose events are held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldKey {
    /// The partition.
    pub partition: PartitionId,
    /// The key.
    pub key: Vec<u8>,
    /// The dead letter that they are held behind; `None` where it was resolved, and they are being delivered.
    pub behind: Option<Position>,
    /// The held events, in their order.
    pub positions: Vec<Position>,
}

/// The id of the `index`th event that a group makes of the event at `place` of a topic: the same however often the event is
/// delivered, and no other's.
#[must_use]
pub fn produced_id(source: &dyn EventStore, group: &str, place: RecordPlace, index: usize) -> EventId {
    // Names hold no control characters, so the lines are what separates them.
    let (store, topic) = (source.store_id(), source.topic());
    EventId::from_name(&format!("produced\n{store}\n{topic}\n{group}\n{place}\n{index}"))
}

/// Appends what a group makes of the event at `place` of a topic, each event with its [`produced_id`]: wait for the answer,
/// then ack the event. Delivered again, the same outputs find their ids and are not doubled.
///
/// The outputs of one event are one batch and go to one partition. They must be a function of the event: other outputs under
/// the same ids are `IdReused`.
///
/// # Errors
/// Those of [`EventStore::append`].
pub fn produce(
    source: &dyn EventStore,
    group: &str,
    place: RecordPlace,
    target: &dyn EventStore,
    mut outputs: Batch<'_>,
) -> Pending<Appended> {
    for (index, (_, event)) in outputs.events.iter_mut().enumerate() {
        event.id = Some(produced_id(source, group, place, index));
    }
    target.append(&outputs)
}

/// What a dead letter says of its event, as ordered pairs of name and text: the metadata of a copy that leaves the store.
///
/// The first six are the fields of KIP-1191, Kafka's dead letters of share groups, in its order. `docs/groups.md` has the
/// names of Kafka, Kafka Connect and Spring Kafka beside these. The event's key and data are the copy's own.
///
/// ```
/// use annals_model::{DeadLetter, Failure, LetterState, ParkReason, RecordPlace, Timestamp, dead_letter_metadata};
///
/// let letter = DeadLetter {
///     place: RecordPlace { partition: 0, position: 17 },
///     stream: "order-42".to_owned(),
///     event_type: "OrderPlaced".to_owned(),
///     key: b"order-42".to_vec(),
///     reason: ParkReason::TriesExhausted,
///     failure: Failure::new("NoStock", "there are 2 left"),
///     tries: 5,
///     first_time: Timestamp::EPOCH,
///     last_time: Timestamp::EPOCH,
///     redrives: 0,
///     state: LetterState::Parked,
///     edited: None,
///     held: 3,
/// };
/// let metadata = dead_letter_metadata(&letter, "orders", "stock");
/// assert_eq!(metadata[2], ("dlq.position", "17".to_owned()));
/// assert_eq!(metadata[5], ("dlq.message", "there are 2 left".to_owned()));
/// assert_eq!(metadata[6], ("dlq.reason", "tries-exhausted".to_owned()));
/// ```
#[must_use]
pub fn dead_letter_metadata(letter: &DeadLetter, topic: &str, group: &str) -> Vec<(&'static str, String)> {
    let mut pairs = vec![
        ("dlq.topic", topic.to_owned()),
        ("dlq.partition", letter.place.partition.to_string()),
        ("dlq.position", letter.place.position.to_string()),
        ("dlq.group", group.to_owned()),
        ("dlq.tries", letter.tries.to_string()),
        ("dlq.message", letter.failure.message.clone()),
        ("dlq.reason", letter.reason.name().to_owned()),
        ("dlq.error", letter.failure.name.clone()),
    ];
    pairs.extend(letter.failure.chain.iter().map(|cause| ("dlq.cause", cause.clone())));
    pairs.extend([
        ("dlq.stream", letter.stream.clone()),
        ("dlq.type", letter.event_type.clone()),
        ("dlq.first_time", letter.first_time.to_string()),
        ("dlq.last_time", letter.last_time.to_string()),
        ("dlq.redrives", letter.redrives.to_string()),
        ("dlq.edited", letter.edited.is_some().to_string()),
    ]);
    pairs
}
