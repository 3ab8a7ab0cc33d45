//! Where a record stands: positions, revisions, partitions, and places that span partitions.

use std::fmt;

/// Number of a record in its partition, from 0, dense on append (compaction leaves gaps). Ranges are half-open.
pub type Position = u64;

/// Number of an event in its stream, from 0, assigned without gap.
pub type Revision = u64;

/// Number of a partition in its topic, from 0.
pub type PartitionId = u32;

/// Number of a partition's history, from 1; repair and restore raise it, so that a place kept from before is refused
/// instead of silently meaning something else.
pub type Incarnation = u32;

/// A record's partition and position; written `partition:position`, or the bare position in a topic of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordPlace {
    /// The partition, from 0.
    pub partition: PartitionId,
    /// The position in it.
    pub position: Position,
}

impl fmt::Display for RecordPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.position)
    }
}

/// The next position to read of one partition, bound to that partition's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PartitionPlace {
    /// The history that `position` counts in.
    pub incarnation: Incarnation,
    /// The next position to read; everything before it has been read.
    pub position: Position,
}

/// The next position to read of every partition of a topic, in the order of the partitions.
///
/// A topic of one partition has a place of one element.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place(pub Vec<PartitionPlace>);

impl Place {
    /// The position in `partition`, or `None` where the topic has no such partition.
    #[must_use]
    pub fn position(&self, partition: PartitionId) -> Option<Position> {
        self.0.get(partition as usize).map(|p| p.position)
    }

    /// Sum of the positions: how many records lie before this place, where nothing has been removed.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.0.iter().map(|p| p.position).sum()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [only] => write!(f, "{}", only.position),
            many => {
                for (i, p) in many.iter().enumerate() {
                    let comma = if i == 0 { "" } else { "," };
                    write!(f, "{comma}{i}:{}", p.position)?;
                }
                Ok(())
            }
        }
    }
}

/// What an append expects of its stream; the words of the event stores that went before (EventStoreDB's
/// `ExpectedVersion`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ExpectedRevision {
    /// Nothing is expected.
    #[default]
    Any,
    /// The stream has no event yet.
    NoStream,
    /// The stream has at least one event.
    Exists,
    /// The stream's last event has this revision.
    Exact(Revision),
}

impl ExpectedRevision {
    /// Whether a stream whose last revision is `actual` (`None`: no event yet) is as expected.
    #[must_use]
    pub fn holds(self, actual: Option<Revision>) -> bool {
        match self {
            ExpectedRevision::Any => true,
            ExpectedRevision::NoStream => actual.is_none(),
            ExpectedRevision::Exists => actual.is_some(),
            ExpectedRevision::Exact(revision) => actual == Some(revision),
        }
    }
}

impl fmt::Display for ExpectedRevision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExpectedRevision::Any => f.write_str("any revision"),
            ExpectedRevision::NoStream => f.write_str("no stream"),
            ExpectedRevision::Exists => f.write_str("an existing stream"),
            ExpectedRevision::Exact(revision) => write!(f, "revision {revision}"),
        }
    }
}

/// When an append counts as done.
///
/// The order is that of strength: `Buffered < Synced`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// Done when the operating system has it: it survives the death of the process, not a power cut. The store syncs
    /// behind, after at most its sync interval.
    Buffered,
    /// Done when stable storage has it: it survives a power cut. The default.
    #[default]
    Synced,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Durability::Buffered => "buffered",
            Durability::Synced => "synced",
        })
    }
}
