//! A topic: what an application appends to and reads from.
//!
//! # Invariants
//! - A stream lives in the partition that its name hashes to, for ever; so a batch that touches two streams may be
//!   refused on a topic of several partitions.
//!
//! Elsewhere: deciding and staging (`append`), reading (`read`), what it all lies in (`annals_log`).

use std::fmt;

use annals_log::sync::Arc;
use annals_log::{Scratch, Watermark};
use annals_model::{
    Appended, Batch, Error, ErrorKind, EventId, EventStore, Events, PartitionId, PartitionPlace, Pending,
    Place, Position, Read, RecordPlace, RecordedEvent, Result, Revision, StreamInfo, Subscribed, Timestamp,
};
use xxhash_rust::xxh3::xxh3_64;

use crate::append::Ticket;
use crate::index::{BoxCursor, TermKind};
use crate::partition::{Partition, category_of};
use crate::query::{all_of, term};
use crate::read::Reader;
use crate::store::{StoreInner, TopicInner};
use crate::subscription::Subscription;
use crate::{TopicOptions, TopicStats};

/// A topic of a store. Cheap to clone; all clones are the same topic, and each keeps the store open.
#[derive(Clone)]
pub struct Topic {
    pub(crate) store: Arc<StoreInner>,
    pub(crate) inner: Arc<TopicInner>,
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topic").field("name", &self.inner.name).finish_non_exhaustive()
    }
}

impl Topic {
    /// The topic's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// What was fixed when it was made.
    #[must_use]
    pub fn options(&self) -> TopicOptions {
        self.inner.options.clone()
    }

    /// How many partitions it has.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.inner.options.partitions
    }

    /// The partition that a stream lives in: XXH3 of its name, modulo their number.
    #[must_use]
    pub fn partition_of(&self, stream: &str) -> PartitionId {
        match self.inner.options.partitions {
            1 => 0,
            many => (xxh3_64(stream.as_bytes()) % u64::from(many)) as u32,
        }
    }

    /// Appends a batch, all or none. The decision is made before this returns; the [`Ticket`] says when it holds.
    ///
    /// It blocks only while the staging buffer is full or a new segment is being begun, never for a sync.
    ///
    /// After `Ok` under [`Durability::Synced`](annals_model::Durability::Synced) no crash of process, system or power
    /// takes the events away; under `Buffered` none of the process.
    ///
    /// # Errors
    /// From the ticket. Decided, nothing appended: `Conflict`, `ConditionFailed`, `IdReused`. Refused, nothing appended:
    /// `Invalid` (a limit, or streams of several partitions), `Full`, `Unavailable` (the index is being rebuilt),
    /// `Closed`. `OutcomeUnknown`: a write or sync failed; reopen and repeat with the same event ids.
    ///
    /// ```
    /// use annals_model::{Batch, ErrorKind, EventId, ExpectedRevision, NewEvent};
    /// # use annals_store::{Store, TopicOptions};
    /// # let orders = Store::in_memory()?.create_topic("orders", TopicOptions::default())?;
    /// let placed = || NewEvent::new("OrderPlaced").data(br#"{"total":300}"#.as_slice()).id(EventId::from_name("cmd-1"));
    /// let first = orders.append(&Batch::to("order-42").expect(ExpectedRevision::NoStream).event(placed())).wait()?;
    /// assert_eq!((first.positions, first.repeated), (0..1, false));
    ///
    /// // The same again: the original places, whatever was expected, and no second copy.
    /// let again = orders.append(&Batch::to("order-42").expect(ExpectedRevision::NoStream).event(placed())).wait()?;
    /// assert_eq!((again.positions, again.repeated), (0..1, true));
    ///
    /// // Another writer was faster.
    /// let late = Batch::to("order-42").expect(ExpectedRevision::NoStream).event(NewEvent::new("OrderPlaced"));
    /// let e = orders.append(&late).wait().unwrap_err();
    /// assert!(matches!(e.kind(), ErrorKind::Conflict { actual: Some(0), .. }));
    /// # Ok::<(), annals_model::Error>(())
    /// ```
    pub fn append(&self, batch: &Batch<'_>) -> Ticket {
        let partition = match self.partition_of_batch(batch) {
            Ok(partition) => partition,
            Err(e) => return Ticket::ready(Err(e)),
        };
        let mut ticket = partition.append(batch);
        if std::mem::take(&mut ticket.index_waits) {
            self.store.call_maintenance(partition);
        }
        ticket
    }

    /// Has the index rebuilt where a look-up found that it cannot answer.
    fn cared_for<T>(&self, partition: &Arc<Partition>, looked_up: Result<T>) -> Result<T> {
        if let Err(e) = &looked_up
            && e.kind() == &ErrorKind::Unavailable
            && partition.log.is_owner()
        {
            self.store.call_maintenance(partition);
        }
        looked_up
    }

    /// Has the index rebuilt where it is known not to be whole.
    fn care(&self) {
        for partition in self.inner.partitions.iter().filter(|p| p.log.is_owner()) {
            if !partition.index().uncovered().is_empty() {
                self.store.call_maintenance(partition);
            }
        }
    }

    fn partition_of_batch(&self, batch: &Batch<'_>) -> Result<&Arc<Partition>> {
        let mut id = None;
        if self.inner.options.partitions > 1 {
            for (stream, _) in &batch.streams {
                let of_stream = self.partition_of(stream);
                if id.is_some_and(|id| id != of_stream) {
                    return Err(Error::invalid(
                        "the batch's streams live in several partitions, and a batch is one partition's",
                    ));
                }
                id = Some(of_stream);
            }
        }
        let partition = self.inner.partitions.get(id.unwrap_or(0) as usize);
        partition.ok_or_else(|| Error::invalid("the topic has no such partition"))
    }

    /// Writes and syncs everything appended so far, whoever waits for it.
    ///
    /// # Errors
    /// `OutcomeUnknown` or `Closed` after a failed write or sync; `Invalid` on a store opened to read.
    pub fn sync(&self) -> Result<()> {
        self.inner.partitions.iter().try_for_each(|p| p.log.sync())
    }

    /// Reads what is readable now. What is appended meanwhile is not seen by the read.
    ///
    /// # Errors
    /// `Invalid` where the bounds do not fit the selection, or a place is of another incarnation; `Corrupt` where the
    /// beginning cannot be found for damage.
    pub fn read(&self, read: &Read) -> Result<Reader> {
        let reader = Reader::new(&self.inner.partitions, read);
        self.care();
        reader
    }

    /// Reads what is there and then what comes; forward and without an end.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn subscribe(&self, read: &Read) -> Result<Subscription> {
        Subscription::new(&self.inner.partitions, read)
    }

    /// The event at a place; `None` where none is readable there.
    ///
    /// # Errors
    /// `Corrupt` where its bytes are damaged.
    pub fn get(&self, place: RecordPlace) -> Result<Option<RecordedEvent>> {
        let Some(partition) = self.inner.partitions.get(place.partition as usize) else { return Ok(None) };
        let (watermark, _) = partition.readable()?;
        if place.position >= watermark.position {
            return Ok(None);
        }
        let mut scan = partition.log.scan(place.position, watermark)?;
        if !scan.advance()? || scan.record().position != place.position {
            return Ok(None);
        }
        Ok(Some(partition.decode(&scan.record())?.to_owned()))
    }

    /// The event with this id; `None` where there is none.
    ///
    /// # Errors
    /// `Unavailable` while the index is being rebuilt, `Corrupt` where the event's bytes are damaged.
    pub fn get_by_id(&self, id: EventId) -> Result<Option<RecordedEvent>> {
        let mut scratch = Scratch::default();
        for partition in &self.inner.partitions {
            let (_, snapshot) = partition.readable()?;
            let hash = partition.hasher().hash(TermKind::EventId, id.as_bytes());
            let found =
                partition.newest(&snapshot, hash, 0, &mut scratch, |e| (e.id == id).then(|| e.to_owned()));
            let found = self.cared_for(partition, found)?;
            if let Some((_, event)) = found {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// The last readable revision of a stream; `None` where it has no event.
    ///
    /// # Errors
    /// `Unavailable` while the index is being rebuilt.
    pub fn stream_revision(&self, stream: &str) -> Result<Option<Revision>> {
        let Some(partition) = self.inner.partitions.get(self.partition_of(stream) as usize) else {
            return Ok(None);
        };
        let (_, snapshot) = partition.readable()?;
        let last = partition.last_revision(&snapshot, stream, &mut Scratch::default());
        self.cared_for(partition, last)
    }

    /// One stream; `None` where it has no event.
    ///
    /// # Errors
    /// `Unavailable` while the index is being rebuilt.
    pub fn stream(&self, stream: &str) -> Result<Option<StreamInfo>> {
        let Some(partition) = self.inner.partitions.get(self.partition_of(stream) as usize) else {
            return Ok(None);
        };
        self.care();
        let (_, snapshot) = partition.readable()?;
        let cursor = &mut *term(&snapshot, &partition.hasher(), TermKind::Stream, stream);
        let mut scratch = Scratch::default();
        let mut at = cursor.first()?;
        while let Some(address) = at {
            let event = partition.decode(&partition.log.record_at(address, &mut scratch)?)?;
            if event.stream == stream {
                let first = event.position;
                return stream_info(partition, &snapshot, stream, first, &mut scratch);
            }
            at = cursor.seek(address + 8)?;
        }
        Ok(None)
    }

    /// The streams whose names begin with `prefix` (empty: all), in the order of their first events, partition by
    /// partition. Memory does not grow with their number.
    ///
    /// # Errors
    /// `Unavailable` while the index is being rebuilt.
    pub fn streams(&self, prefix: &str) -> Result<Streams> {
        self.care();
        let mut partitions = Vec::with_capacity(self.inner.partitions.len());
        for partition in &self.inner.partitions {
            let (watermark, snapshot) = partition.readable()?;
            let hasher = partition.hasher();
            let mut cursors = vec![term(&snapshot, &hasher, TermKind::Births, "")];
            if prefix.contains('-') {
                cursors.push(term(&snapshot, &hasher, TermKind::Category, category_of(prefix)));
            }
            let cursor = all_of(cursors)?;
            partitions.push((Arc::clone(partition), snapshot, watermark, cursor, 0));
        }
        partitions.reverse();
        Ok(Streams { partitions, prefix: prefix.to_owned(), scratch: Scratch::default(), failed: false })
    }

    /// Where reading can go on behind the damage that a read's error named; `None` where nothing follows it, or the error
    /// names none of this topic's segments.
    ///
    /// # Errors
    /// The system's.
    pub fn readable_behind(&self, damage: &Error) -> Result<Option<RecordPlace>> {
        let ErrorKind::Corrupt { segment, file_offset } = damage.kind() else { return Ok(None) };
        for partition in &self.inner.partitions {
            let until = partition.log.watermark();
            if let Some(position) = partition.log.readable_behind(segment, *file_offset, until)? {
                return Ok(Some(RecordPlace { partition: partition.id, position }));
            }
        }
        Ok(None)
    }

    /// First readable position of each partition.
    #[must_use]
    pub fn start(&self) -> Place {
        self.place(|p| p.log.start())
    }

    /// Behind the last readable record of each partition. On a store opened to read it looks at what the owner has done
    /// since, and stays where it was if that fails.
    #[must_use]
    pub fn high_watermark(&self) -> Place {
        self.place(|p| {
            if let Err(error) = p.log.refresh() {
                tracing::debug!(%error, "cannot look for news");
            }
            p.log.watermark().position
        })
    }

    fn place(&self, position: impl Fn(&Partition) -> Position) -> Place {
        let place =
            |p: &Arc<Partition>| PartitionPlace { incarnation: p.log.incarnation(), position: position(p) };
        Place(self.inner.partitions.iter().map(place).collect())
    }

    /// Sizes and counts.
    ///
    /// # Errors
    /// `Unavailable` while the index is being rebuilt; `Corrupt` where what is counted is damaged.
    pub fn stats(&self) -> Result<TopicStats> {
        self.care();
        let partitions = self.inner.partitions.iter().map(crate::stats::of_partition);
        Ok(TopicStats { partitions: partitions.collect::<Result<_>>()? })
    }
}

impl EventStore for Topic {
    fn partitions(&self) -> u32 {
        Topic::partitions(self)
    }

    fn append(&self, batch: &Batch<'_>) -> Pending<Appended> {
        Pending::new(Topic::append(self, batch))
    }

    fn read(&self, read: &Read) -> Result<Box<dyn Events>> {
        Ok(Box::new(Topic::read(self, read)?))
    }

    fn subscribe(&self, read: &Read) -> Result<Box<dyn Subscribed>> {
        Ok(Box::new(Topic::subscribe(self, read)?))
    }

    fn stream_revision(&self, stream: &str) -> Result<Option<Revision>> {
        Topic::stream_revision(self, stream)
    }

    fn start(&self) -> Place {
        Topic::start(self)
    }

    fn store_id(&self) -> EventId {
        self.store.store_id
    }

    fn topic(&self) -> &str {
        self.name()
    }

    fn high_watermark(&self) -> Place {
        Topic::high_watermark(self)
    }
}

fn stream_info(
    partition: &Partition,
    snapshot: &crate::index::Snapshot,
    stream: &str,
    first_position: Position,
    scratch: &mut Scratch,
) -> Result<Option<StreamInfo>> {
    let hash = partition.hasher().hash(TermKind::Stream, stream.as_bytes());
    let last = |e: &annals_model::EventView<'_>| {
        (e.stream == stream).then_some((e.position, e.revision, e.recorded_time))
    };
    let found: Option<(u64, (Position, Revision, Timestamp))> =
        partition.newest(snapshot, hash, 0, scratch, last)?;
    Ok(found.map(|(_, (last_position, last_revision, last_recorded_time))| StreamInfo {
        name: stream.to_owned(),
        partition: partition.id,
        first_position,
        last_position,
        last_revision,
        last_recorded_time,
    }))
}

/// Streams, one after the other.
pub struct Streams {
    /// Those still to be listed, the next one last.
    partitions: Vec<(Arc<Partition>, crate::index::Snapshot, Watermark, BoxCursor, u64)>,
    prefix: String,
    scratch: Scratch,
    failed: bool,
}

impl Streams {
    fn advance(&mut self) -> Result<Option<StreamInfo>> {
        loop {
            let Some((partition, snapshot, watermark, cursor, at)) = self.partitions.last_mut() else {
                return Ok(None);
            };
            let Some(address) = cursor.seek(*at)?.filter(|&a| a < watermark.address) else {
                self.partitions.pop();
                continue;
            };
            *at = address + 8;
            let (name, first) = {
                let event = partition.decode(&partition.log.record_at(address, &mut self.scratch)?)?;
                if event.revision != 0 || !event.stream.starts_with(&self.prefix) {
                    continue;
                }
                (event.stream.to_owned(), event.position)
            };
            if let Some(info) = stream_info(partition, snapshot, &name, first, &mut self.scratch)? {
                return Ok(Some(info));
            }
        }
    }
}

impl Iterator for Streams {
    type Item = Result<StreamInfo>;

    fn next(&mut self) -> Option<Result<StreamInfo>> {
        if self.failed {
            return None;
        }
        let next = self.advance();
        self.failed = next.is_err();
        next.transpose()
    }
}
