//! What to read: a selection, a query, bounds, a direction and a limit.

use crate::{Place, Position, Query, Revision, Timestamp};

/// Which way a read goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// From the first record of the range to the last.
    #[default]
    Forward,
    /// From the last record of the range to the first.
    Backward,
}

/// Which streams a read takes in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// The whole topic. With several partitions it is merged by recorded time, which is *not* a total order: events of
    /// different partitions with close times may come in another order on another read.
    #[default]
    All,
    /// One stream.
    Stream(String),
    /// Every stream whose name begins with this text; `order-` is a category.
    Prefix(String),
}

/// One end of a range. A range includes its `from` and excludes its `to`, whichever way it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum At {
    /// The first record that is there (as `from`) or before it (as `to`).
    Start,
    /// Behind the last readable record; for a subscription's `from`: what comes from now on.
    #[default]
    End,
    /// A position, the same number in every partition.
    Position(Position),
    /// A position for each partition; refused where its incarnation is not the partition's.
    Place(Place),
    /// A revision; only with [`Selection::Stream`].
    Revision(Revision),
    /// The first record recorded at this moment or later.
    Recorded(Timestamp),
    /// Events whose own time is at this moment or later (as `from`), earlier (as `to`). Event times are in no order,
    /// so this selects from the whole range instead of bounding it.
    Event(Timestamp),
}

/// A read: which events, from where to where, which way, how many.
///
/// ```
/// use annals_model::{At, Direction, Read};
/// let last_two = Read::stream("order-42").backward().limit(2);
/// assert_eq!(last_two.direction, Direction::Backward);
/// let later = Read::all().from(At::Position(100));
/// assert_eq!(later.to, At::End);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Which streams.
    pub selection: Selection,
    /// Which of their events.
    pub query: Query,
    /// Beginning of the range, inclusive.
    pub from: At,
    /// End of the range, exclusive.
    pub to: At,
    /// Which way.
    pub direction: Direction,
    /// At most so many events.
    pub limit: Option<u64>,
}

impl Default for Read {
    fn default() -> Self {
        Read {
            selection: Selection::All,
            query: Query::all(),
            from: At::Start,
            to: At::End,
            direction: Direction::Forward,
            limit: None,
        }
    }
}

impl Read {
    /// The whole topic from its start.
    #[must_use]
    pub fn all() -> Self {
        Read::default()
    }

    /// One stream from its start.
    pub fn stream(name: impl Into<String>) -> Self {
        Read { selection: Selection::Stream(name.into()), ..Read::default() }
    }

    /// Every stream whose name begins with `prefix`, from the topic's start.
    pub fn prefix(prefix: impl Into<String>) -> Self {
        Read { selection: Selection::Prefix(prefix.into()), ..Read::default() }
    }

    /// The whole topic's events that match `query`.
    #[must_use]
    pub fn query(query: Query) -> Self {
        Read { query, ..Read::default() }
    }

    /// Only events that match `query`.
    #[must_use]
    pub fn matching(mut self, query: Query) -> Self {
        self.query = query;
        self
    }

    /// Begins here, inclusive.
    #[must_use]
    pub fn from(mut self, at: At) -> Self {
        self.from = at;
        self
    }

    /// Ends before here.
    #[must_use]
    pub fn to(mut self, at: At) -> Self {
        self.to = at;
        self
    }

    /// From the last to the first.
    #[must_use]
    pub fn backward(mut self) -> Self {
        self.direction = Direction::Backward;
        self
    }

    /// At most `events` events.
    #[must_use]
    pub fn limit(mut self, events: u64) -> Self {
        self.limit = Some(events);
        self
    }
}
