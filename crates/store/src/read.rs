//! Reads: a scan of the log or a walk over postings, filtered exactly, over one partition or merged over several.
//!
//! # Invariants
//! - Nothing at or behind the high watermark of the moment the read began is given out.
//! - Each event given out has been compared with the whole read, name by name: the index only says where to look.
//! - A read of one partition is in the order of positions, or exactly against it. Over several partitions it is merged
//!   by recorded time, which is not a total order.
//! - Where the index cannot serve, a read scans instead: it never fails for want of an index.
//!
//! Elsewhere: finding records (`annals_log`), postings (`index`), what a read can ask for (`annals_model::Read`).

use annals_log::format::Record;
use annals_log::sync::Arc;
use annals_log::{Scan, Scratch, Watermark};
use annals_model::{
    At, Direction, Error, ErrorKind, EventView, Events, Position, Query, Read, RecordedEvent, Result,
    Revision, Selection, Timestamp,
};

use crate::codec;
use crate::index::{BoxCursor, Cursor, Snapshot, TermKind};
use crate::partition::{Partition, category_of};
use crate::query::{all_of, cursor_of, term};

/// What of a read is compared with each event.
#[derive(Clone, Debug)]
struct Filter {
    selection: Selection,
    query: Query,
    positions: std::ops::Range<Position>,
    revisions: std::ops::Range<Revision>,
    event_times: (Option<Timestamp>, Option<Timestamp>),
    /// Only the positions matter.
    trivial: bool,
    /// Query and event times do not matter.
    plain: bool,
}

impl Filter {
    /// Whether the event in a record is of this read.
    fn accepts(&self, partition: &Partition, record: &Record<'_>) -> Result<bool> {
        // Most reads by stream want no more of an event, which is decoded when it is given out.
        if self.plain
            && let Selection::Stream(name) = &self.selection
            && let Some((stream, revision)) = codec::stream_of(record)
        {
            return Ok(stream == name.as_bytes() && self.revisions.contains(&revision));
        }
        Ok(self.accepts_event(&partition.decode(record)?))
    }

    fn accepts_event(&self, event: &EventView<'_>) -> bool {
        let selected = match &self.selection {
            Selection::All => true,
            Selection::Stream(name) => event.stream == name,
            Selection::Prefix(prefix) => event.stream.starts_with(prefix.as_str()),
        };
        selected
            && self.revisions.contains(&event.revision)
            && self.event_times.0.is_none_or(|from| event.time() >= from)
            && self.event_times.1.is_none_or(|to| event.time() < to)
            && self.query.matches(event)
    }
}

/// Where a read's records come from.
enum Source {
    Nothing,
    Scan(Box<Scan>),
    /// Against the order of positions, a piece at a time.
    ScanBack {
        before: u64,
        until: Watermark,
        addresses: Vec<u64>,
        scratch: Scratch,
    },
    /// Where the index says; `next` is the address to go on from.
    Postings {
        cursor: BoxCursor,
        next: Option<u64>,
        limit: u64,
        scratch: Scratch,
    },
}

/// A read of one partition.
pub(crate) struct PartitionRead {
    partition: Arc<Partition>,
    filter: Filter,
    source: Source,
    direction: Direction,
    /// The position given last.
    last: Option<Position>,
    /// Where the read ends: what came later is not seen by it.
    pub(crate) until: Position,
}

impl PartitionRead {
    /// Begins a read of what is readable now, in the given positions only.
    pub(crate) fn begin(
        partition: &Arc<Partition>,
        read: &Read,
        within: std::ops::Range<Position>,
    ) -> Result<PartitionRead> {
        let (watermark, snapshot) = partition.readable()?;
        let log = &partition.log;
        let mut positions = within.start.max(log.start())..within.end.min(watermark.position);
        let mut filter = Filter {
            selection: read.selection.clone(),
            query: read.query.clone(),
            positions: 0..0,
            revisions: 0..Revision::MAX,
            event_times: (None, None),
            trivial: false,
            plain: false,
        };
        let by_stream = matches!(read.selection, Selection::Stream(_));
        let revision = |r: Revision| {
            if by_stream {
                Ok(r)
            } else {
                Err(Error::invalid("a revision bounds a read of one stream, not one of several"))
            }
        };
        match &read.from {
            At::Start => {}
            At::End => positions.start = watermark.position,
            At::Revision(r) => filter.revisions.start = revision(*r)?,
            At::Event(time) => filter.event_times.0 = Some(*time),
            other => positions.start = positions.start.max(resolve(partition, other, watermark)?),
        }
        match &read.to {
            At::Start => positions.end = positions.start,
            At::End => {}
            At::Revision(r) => filter.revisions.end = revision(*r)?,
            At::Event(time) => filter.event_times.1 = Some(*time),
            other => positions.end = positions.end.min(resolve(partition, other, watermark)?),
        }
        filter.plain = filter.query.is_all() && filter.event_times == (None, None);
        filter.trivial = filter.plain && read.selection == Selection::All;
        let until = positions.end;
        filter.positions = positions;
        let mut this = PartitionRead {
            partition: Arc::clone(partition),
            filter,
            source: Source::Nothing,
            direction: read.direction,
            last: None,
            until,
        };
        if !this.filter.positions.is_empty() && !this.filter.revisions.is_empty() {
            this.source = this.source(watermark, &snapshot)?;
        }
        Ok(this)
    }

    fn source(&self, watermark: Watermark, snapshot: &Snapshot) -> Result<Source> {
        if !snapshot.uncovered().is_empty() {
            return self.scan(watermark);
        }
        match self.postings(watermark, snapshot) {
            Ok(Some(source)) => Ok(source),
            Ok(None) => self.scan(watermark),
            Err(e) if e.kind() == &ErrorKind::Unavailable => {
                tracing::debug!(error = %e, "a read goes without the index");
                self.scan(watermark)
            }
            Err(e) => Err(e),
        }
    }

    /// The postings to go by; `None` where the read has to look at everything.
    fn postings(&self, watermark: Watermark, snapshot: &Snapshot) -> Result<Option<Source>> {
        let Filter { positions, revisions, .. } = &self.filter;
        let log = &self.partition.log;
        let backward = self.direction == Direction::Backward;
        let Some(mut cursor) = self.cursor(snapshot)? else { return Ok(None) };
        let mut scratch = Scratch::default();
        let mut next = 0;
        if backward {
            next = log.address_upto(positions.end, watermark)?.saturating_sub(8);
        } else {
            if positions.start > log.start() {
                next = log.address_from(positions.start, watermark)?;
            }
            if revisions.start > 0 {
                next = self.seek_revision(&mut *cursor, next..watermark.address, &mut scratch)?;
            }
        }
        let next = Some(next);
        Ok(Some(Source::Postings { cursor, next, limit: watermark.address, scratch }))
    }

    /// The postings of what is selected; `None` where that is everything, or cannot be said by postings.
    fn cursor(&self, snapshot: &Snapshot) -> Result<Option<BoxCursor>> {
        let hasher = self.partition.hasher();
        let mut cursors = Vec::with_capacity(2);
        match &self.filter.selection {
            Selection::All => {}
            Selection::Stream(name) => cursors.push(term(snapshot, &hasher, TermKind::Stream, name)),
            // Only a prefix that ends a category, or goes beyond it, says which category it is in.
            Selection::Prefix(prefix) if prefix.contains('-') => {
                cursors.push(term(snapshot, &hasher, TermKind::Category, category_of(prefix)));
            }
            Selection::Prefix(_) => {}
        }
        if !self.filter.query.is_all() {
            cursors.push(cursor_of(snapshot, &hasher, &self.filter.query)?);
        }
        if cursors.is_empty() { Ok(None) } else { all_of(cursors).map(Some) }
    }

    /// Where a stream reaches the first revision wanted: revisions ascend with addresses, so it is found by halving.
    fn seek_revision(
        &self,
        cursor: &mut dyn Cursor,
        within: std::ops::Range<u64>,
        scratch: &mut Scratch,
    ) -> Result<u64> {
        let (mut low, mut high) = (within.start, within.end);
        while low < high {
            let middle = low + (high - low) / 16 * 8;
            let mut at = cursor.seek(middle)?;
            // A record of another stream, whose name has the same hash, says nothing: the next one may.
            let reached = loop {
                let Some(address) = at.filter(|&a| a < high) else { break None };
                match self.revision_at(address, scratch) {
                    Ok(Some(revision)) => break Some((address, revision)),
                    Ok(None) => {}
                    // The next one says enough: if it is before what is wanted, so is the damaged one.
                    Err(e) if matches!(e.kind(), ErrorKind::Corrupt { .. }) => {}
                    Err(e) => return Err(e),
                }
                at = cursor.seek(address + 8)?;
            };
            match reached {
                Some((address, revision)) if revision < self.filter.revisions.start => low = address + 8,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// The revision of the record at an address, where it is of the stream that is read.
    fn revision_at(&self, address: u64, scratch: &mut Scratch) -> Result<Option<Revision>> {
        let record = self.partition.log.record_at(address, scratch)?;
        let event = self.partition.decode(&record)?;
        let selected = matches!(&self.filter.selection, Selection::Stream(name) if event.stream == name);
        Ok(selected.then_some(event.revision))
    }

    /// The first position that it may give.
    pub(crate) fn from(&self) -> Position {
        self.filter.positions.start
    }

    /// Goes to the next event, which [`view`](Self::view) then gives; `false` at the end.
    pub(crate) fn advance(&mut self) -> Result<bool> {
        match self.step() {
            Ok(more) => Ok(more),
            Err(e) => self.advance_without_index(e),
        }
    }

    /// The same behind an error.
    #[cold]
    fn advance_without_index(&mut self, e: Error) -> Result<bool> {
        if e.kind() != &ErrorKind::Unavailable || !matches!(self.source, Source::Postings { .. }) {
            return Err(e);
        }
        // The index turned out damaged under way: what is left is scanned.
        tracing::debug!(error = %e, "a read goes on without the index");
        let (watermark, _) = self.partition.readable()?;
        let left = match (self.last, self.direction) {
            (None, _) => self.filter.positions.clone(),
            (Some(last), Direction::Forward) => last + 1..self.filter.positions.end,
            (Some(last), Direction::Backward) => self.filter.positions.start..last,
        };
        self.filter.positions = left;
        self.source = self.scan(watermark)?;
        self.advance()
    }

    /// A scan of the whole of the positions.
    fn scan(&self, watermark: Watermark) -> Result<Source> {
        let positions = &self.filter.positions;
        let log = &self.partition.log;
        if self.direction == Direction::Forward {
            return Ok(Source::Scan(Box::new(log.scan(positions.start, watermark)?)));
        }
        let before = log.address_upto(positions.end, watermark)?;
        let scratch = Scratch::default();
        Ok(Source::ScanBack { before, until: watermark, addresses: Vec::new(), scratch })
    }

    #[inline(always)]
    fn step(&mut self) -> Result<bool> {
        let PartitionRead { partition, filter, source, direction, last, .. } = self;
        let backward = *direction == Direction::Backward;
        loop {
            let record = match source {
                Source::Nothing => return Ok(false),
                Source::Scan(scan) => {
                    if !scan.advance()? {
                        *source = Source::Nothing;
                        return Ok(false);
                    }
                    scan.record()
                }
                Source::ScanBack { before, until, addresses, scratch } => {
                    if addresses.is_empty() {
                        match partition.log.addresses_before(*before, *until, addresses)? {
                            Some(start) => *before = start,
                            None => {
                                *source = Source::Nothing;
                                return Ok(false);
                            }
                        }
                    }
                    let Some(address) = addresses.pop() else { continue };
                    partition.log.record_at(address, scratch)?
                }
                Source::Postings { cursor, next, limit, scratch } => {
                    let found = match *next {
                        None => None,
                        Some(at) if backward => cursor.seek_back(at)?,
                        Some(at) => cursor.seek(at)?,
                    };
                    let Some(address) = found.filter(|a| a < limit) else {
                        *source = Source::Nothing;
                        return Ok(false);
                    };
                    *next = if backward { address.checked_sub(8) } else { Some(address + 8) };
                    partition.log.record_at(address, scratch)?
                }
            };
            let past_end = if backward {
                record.position < filter.positions.start
            } else {
                record.position >= filter.positions.end
            };
            if past_end {
                *source = Source::Nothing;
                return Ok(false);
            }
            if !filter.positions.contains(&record.position) {
                continue;
            }
            if filter.trivial || filter.accepts(partition, &record)? {
                *last = Some(record.position);
                return Ok(true);
            }
        }
    }

    /// The event that [`advance`](Self::advance) came to.
    #[inline(always)]
    pub(crate) fn view(&self) -> Result<EventView<'_>> {
        let record = self.record()?;
        match codec::decode_here(&record, self.partition.id) {
            Some(event) => Ok(event),
            None => Err(self.partition.no_event(&record)),
        }
    }

    /// The record that it is in.
    #[inline]
    pub(crate) fn record(&self) -> Result<Record<'_>> {
        let record = match &self.source {
            Source::Nothing => None,
            Source::Scan(scan) => Some(scan.record()),
            Source::ScanBack { scratch, .. } | Source::Postings { scratch, .. } => scratch.record(),
        };
        record.ok_or_else(|| Error::invalid("the read is at its end"))
    }
}

/// The position in a partition that a bound means.
fn resolve(partition: &Partition, at: &At, watermark: Watermark) -> Result<Position> {
    match at {
        At::Start => Ok(partition.log.start()),
        At::End => Ok(watermark.position),
        At::Position(position) => Ok(*position),
        At::Place(place) => {
            let here = place.0.get(partition.id as usize).ok_or_else(|| {
                Error::invalid(format!("the place says nothing of partition {}", partition.id))
            })?;
            if here.incarnation != partition.log.incarnation() {
                return Err(Error::invalid(format!(
                    "the place is of incarnation {} of partition {}, which is at {} since a repair or restore",
                    here.incarnation,
                    partition.id,
                    partition.log.incarnation()
                )));
            }
            Ok(here.position)
        }
        At::Recorded(time) => partition.log.position_at_time(*time, watermark),
        At::Revision(_) | At::Event(_) => {
            Err(Error::new(ErrorKind::Invalid, "a revision or an event time is no position"))
        }
    }
}

/// A read under way.
///
/// [`next_view`](Events::next_view) gives events borrowed from where they lie, which is by far the cheapest; as an
/// iterator it gives owned ones.
pub struct Reader {
    parts: Vec<Part>,
    left: u64,
    backward: bool,
    /// The part that the last event was given out from.
    given: Option<usize>,
}

struct Part {
    read: PartitionRead,
    state: PartState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PartState {
    /// It has to go on before it has something to give.
    Behind,
    /// It has an event, recorded at this time.
    Ready(Timestamp),
    Done,
}

impl Reader {
    pub(crate) fn new(partitions: &[Arc<Partition>], read: &Read) -> Result<Reader> {
        let mut parts = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let read = PartitionRead::begin(partition, read, 0..Position::MAX)?;
            parts.push(Part { read, state: PartState::Behind });
        }
        Ok(Reader {
            parts,
            left: read.limit.unwrap_or(u64::MAX),
            backward: read.direction == Direction::Backward,
            given: None,
        })
    }

    fn advance(&mut self) -> Result<Option<usize>> {
        if self.left == 0 {
            return Ok(None);
        }
        if let [only] = self.parts.as_mut_slice() {
            let more = only.state != PartState::Done && only.read.advance()?;
            if more {
                self.left -= 1;
                return Ok(Some(0));
            }
            only.state = PartState::Done;
            return Ok(None);
        }
        if let Some(given) = self.given.take() {
            self.parts[given].state = PartState::Behind;
        }
        let mut best: Option<(Timestamp, usize)> = None;
        for (i, part) in self.parts.iter_mut().enumerate() {
            if part.state == PartState::Behind {
                part.state = match part.read.advance()? {
                    true => PartState::Ready(part.read.record()?.recorded_time),
                    false => PartState::Done,
                };
            }
            let PartState::Ready(time) = part.state else { continue };
            let better = match best {
                None => true,
                Some((t, _)) => (time < t) != self.backward && time != t,
            };
            if better {
                best = Some((time, i));
            }
        }
        let Some((_, i)) = best else { return Ok(None) };
        self.given = Some(i);
        self.left -= 1;
        Ok(Some(i))
    }
}

impl Events for Reader {
    fn next_view(&mut self) -> Result<Option<EventView<'_>>> {
        match self.advance()? {
            Some(part) => Ok(Some(self.parts[part].read.view()?)),
            None => Ok(None),
        }
    }
}

impl Iterator for Reader {
    type Item = Result<RecordedEvent>;

    fn next(&mut self) -> Option<Result<RecordedEvent>> {
        match self.next_view() {
            Ok(Some(view)) => Some(Ok(view.to_owned())),
            Ok(None) => None,
            Err(e) => {
                // What is damaged is said once; a new read from behind it may go on.
                self.left = 0;
                Some(Err(e))
            }
        }
    }
}
