//! The append path: batches are staged as frames, one write and one sync take what is staged, and the watermark moves.
//!
//! # Invariants
//! - `durable <= written <= staged`, in positions and in file offsets; only this module moves them.
//! - A position is shown to readers only when the durability of the log has been reached for it: `durable` on a
//!   `Synced` log, `written` on a `Buffered` one.
//! - At most one write and at most one sync are under way; a sync covers what was written before it began.
//! - A frame goes to a segment only after the manifest names that segment durably, and only into room that has been
//!   reserved; so a full disk is noticed before anything of a batch is staged.
//! - After a failed write or sync nothing is staged, written or acknowledged until the log is reopened.
//! - A roll begins only when all of the old segment is durable.
//!
//! There is no timer in the way of an append: whoever waits first becomes the leader and takes along what the others
//! have staged meanwhile, so the group grows with the latency of the sync (PostgreSQL, RocksDB and others do the same).
//! Who awaits instead of blocking is served by the flusher thread, which also syncs behind `Buffered` appends.
//!
//! Elsewhere: bytes (`format`), opening after a crash (`recovery`), reading (`reader`).

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use annals_model::{Durability, Error, ErrorKind, Position, Result, Timestamp};

use crate::env::DiskFile;
use crate::error::io_error;
use crate::format::{
    ALIGN, FRAME_BYTES_MAX, FRAME_HEADER_LEN, FRAMES_START, FrameHeader, RECORD_HEADER_LEN, RecordContext,
};
use crate::guard::{self, Guard};
use crate::manifest::{MANIFEST_NAME, Manifest, SegmentEntry};
use crate::mark::{Mark, MarkFile};
use crate::segment::{SPARSE_DISTANCE, Seal, Segment, SparseEntry};
use crate::sync::{Arc, Condvar, Mutex, MutexGuard, spawn};
use crate::{Inner, Log, Watermark};

/// Room is reserved in steps that double from the first of these to the second.
const PREPARE_MIN: u64 = 256 * 1024;
const PREPARE_MAX: u64 = 32 * 1024 * 1024;
/// A staging buffer that grew beyond this for one large batch is given back.
const SPARE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Behind the last frame of some stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) position: Position,
    pub(crate) file_offset: u64,
    pub(crate) recorded_time: Timestamp,
    /// Checksum over the headers of the segment's frames up to here.
    pub(crate) checksum: u32,
}

pub(crate) struct State {
    active: Arc<Segment>,
    file: Arc<dyn DiskFile>,
    /// Room in the active segment is reserved up to here.
    prepared_end: u64,
    staging: Vec<u8>,
    spare: Vec<u8>,
    in_flight: Option<(u64, Arc<Vec<u8>>)>,
    sparse_staged: Vec<SparseEntry>,
    sparse_next: u64,
    staged: End,
    written: End,
    durable: End,
    writing: bool,
    syncing: bool,
    rolling: bool,
    fault: Option<Error>,
    closing: bool,
    waiting: Vec<(Durability, Position, Waker)>,
    flush_wanted: Option<Durability>,
    unsynced_since: Option<Duration>,
    mark_sequence: u64,
    mark_dirty: bool,
    flusher_started: bool,
    /// The flusher waits for a call, without a time.
    flusher_sleeps: bool,
    closed: bool,
    segments: Vec<SegmentEntry>,
}

pub(crate) struct Writer {
    state: Mutex<State>,
    /// Something in `state` changed that a blocked appender may wait for.
    changed: Condvar,
    /// There is something for the flusher.
    flusher_called: Condvar,
    marks: MarkFile,
}

/// What opening hands to the writer.
pub(crate) struct Begin {
    pub(crate) active: Arc<Segment>,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) prepared_end: u64,
    pub(crate) end: End,
    pub(crate) marks: MarkFile,
    pub(crate) mark_sequence: u64,
    pub(crate) segments: Vec<SegmentEntry>,
}

impl Writer {
    pub(crate) fn new(begin: Begin) -> Self {
        let sparse_next = begin.end.file_offset;
        Writer {
            state: Mutex::new(State {
                active: begin.active,
                file: begin.file,
                prepared_end: begin.prepared_end,
                staging: Vec::new(),
                spare: Vec::new(),
                in_flight: None,
                sparse_staged: Vec::new(),
                sparse_next,
                staged: begin.end,
                written: begin.end,
                durable: begin.end,
                writing: false,
                syncing: false,
                rolling: false,
                fault: None,
                closing: false,
                waiting: Vec::new(),
                flush_wanted: None,
                unsynced_since: None,
                mark_sequence: begin.mark_sequence,
                mark_dirty: true,
                flusher_started: false,
                flusher_sleeps: false,
                closed: false,
                segments: begin.segments,
            }),
            changed: Condvar::new(),
            flusher_called: Condvar::new(),
            marks: begin.marks,
        }
    }
}

/// Where a batch was staged. It is not written yet: see [`Log::commit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staged {
    /// Position of the first record.
    pub first_position: Position,
    /// Behind the last record's position.
    pub end_position: Position,
    /// When the batch was recorded.
    pub recorded_time: Timestamp,
    /// Address behind the frame.
    pub end_address: u64,
}

/// Takes the records of one batch, straight into the staging buffer.
pub struct FrameWriter<'a> {
    buf: &'a mut Vec<u8>,
    context: RecordContext,
    /// Address of the buffer's first byte.
    buf_address: u64,
    position: Position,
    recorded_time: Timestamp,
    records_sum: u32,
}

impl FrameWriter<'_> {
    /// Writes one record, whose body `encode` appends to the buffer it is given, and returns the record's address.
    pub fn record(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> u64 {
        let start = self.buf.len();
        self.buf.extend_from_slice(&[0; RECORD_HEADER_LEN]);
        encode(self.buf);
        let address = self.buf_address + start as u64;
        let crc = self.context.seal_record(self.buf, start, address, self.position, self.recorded_time);
        self.records_sum = self.records_sum.wrapping_add(crc);
        self.position += 1;
        address
    }

    /// When the batch is recorded.
    #[must_use]
    pub fn recorded_time(&self) -> Timestamp {
        self.recorded_time
    }

    /// Position of the record that [`record`](Self::record) writes next.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Address of the record that [`record`](Self::record) writes next; behind the last one, of the frame's end.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.buf_address + self.buf.len() as u64
    }
}

impl Log {
    /// Stages one batch: `records` records whose [`record_len`](crate::format::record_len)s add up to `records_len`,
    /// which `fill` then writes. Blocks while the staging buffer is full or a segment is being begun. Appends are
    /// ordered by the order of these calls.
    ///
    /// Nothing is durable, or shown to readers, before a [`commit`](Self::commit) is through; as the commit of another
    /// batch takes this one along, that can be before this call returns, but never before `fill` does.
    ///
    /// # Errors
    /// In all cases nothing was staged. `Invalid`: no record, too large, or `fill` did not keep to what was said.
    /// `Full`: no room for the frame; try again once there is. `Closed`: a write or sync failed before; reopen.
    pub fn stage<R>(
        &self,
        records: u32,
        records_len: usize,
        fill: impl FnOnce(&mut FrameWriter<'_>) -> R,
    ) -> Result<(Staged, R)> {
        let inner = &*self.inner;
        let writer = inner.writer()?;
        let frame_len = (FRAME_HEADER_LEN + records_len) as u64;
        if records == 0 || frame_len > FRAME_BYTES_MAX || !records_len.is_multiple_of(ALIGN) {
            return Err(Error::invalid(format!("a batch of {records} records in {records_len} bytes")));
        }
        let (mut st, recorded_time) = inner.make_room(writer, records, frame_len)?;
        let context = st.active.context();

        let st_ref = &mut *st;
        let start = st_ref.staging.len();
        let staging_offset = st_ref.staged.file_offset - start as u64;
        st_ref.staging.extend_from_slice(&[0; FRAME_HEADER_LEN]);
        let mut frame = FrameWriter {
            buf: &mut st_ref.staging,
            context,
            buf_address: st_ref.active.address(staging_offset),
            position: st_ref.staged.position,
            recorded_time,
            records_sum: 0,
        };
        let filled = fill(&mut frame);
        let (end_position, records_sum) = (frame.position, frame.records_sum);
        let count = end_position - st_ref.staged.position;
        let body_len = st_ref.staging.len() - start - FRAME_HEADER_LEN;
        if count != u64::from(records) || body_len != records_len {
            st_ref.staging.truncate(start);
            return Err(Error::invalid(format!(
                "a batch said to be {records} records in {records_len} bytes was {count} in {body_len}"
            )));
        }
        let header = FrameHeader {
            body_len: body_len as u32,
            first_position: st_ref.staged.position,
            recorded_time,
            synced_end: st_ref.durable.position,
            count: records,
            records_sum,
        }
        .encode(context.salt);
        st_ref.staging[start..start + FRAME_HEADER_LEN].copy_from_slice(&header);

        if st_ref.staged.file_offset >= st_ref.sparse_next {
            st_ref.sparse_staged.push(SparseEntry {
                position: st_ref.staged.position,
                file_offset: st_ref.staged.file_offset,
                time: recorded_time,
            });
            st_ref.sparse_next = st_ref.staged.file_offset + SPARSE_DISTANCE;
        }
        let first_position = st_ref.staged.position;
        st_ref.staged = End {
            position: end_position,
            file_offset: st_ref.staged.file_offset + frame_len,
            recorded_time,
            checksum: chain(st_ref.staged.checksum, &header),
        };
        // Whoever appends may never wait; then the flusher sees to it.
        if !st_ref.flusher_started {
            inner.start_flusher(st_ref);
        } else if st_ref.flusher_sleeps {
            writer.flusher_called.notify_one();
        }
        let end_address = st_ref.active.address(st_ref.staged.file_offset);
        Ok((Staged { first_position, end_position, recorded_time, end_address }, filled))
    }

    /// The answer to when everything before `end` has reached `durability`, or the log's own if that is stronger.
    pub fn commit(&self, end: Position, durability: Durability) -> Commit {
        let durability = durability.max(self.inner.options.durability);
        Commit { inner: Arc::clone(&self.inner), end, durability, resolved: false, waker: None }
    }

    /// Behind the last staged record's position.
    ///
    /// # Errors
    /// `Invalid` on a log opened to read.
    pub fn staged_end(&self) -> Result<Position> {
        Ok(self.inner.writer()?.state.lock().staged.position)
    }

    /// Behind the last record that is known to be durable.
    ///
    /// # Errors
    /// `Invalid` on a log opened to read.
    pub fn durable_end(&self) -> Result<Position> {
        Ok(self.inner.writer()?.state.lock().durable.position)
    }

    /// Address behind the last staged record.
    ///
    /// # Errors
    /// `Invalid` on a log opened to read.
    pub fn staged_end_address(&self) -> Result<u64> {
        let st = self.inner.writer()?.state.lock();
        Ok(st.active.address(st.staged.file_offset))
    }

    /// Whether appends are taken.
    ///
    /// # Errors
    /// `Closed` after a failed write or sync and when the log is closed; `Invalid` on a log opened to read.
    pub fn check_takes_appends(&self) -> Result<()> {
        self.inner.writer()?.state.lock().refusal().map_or(Ok(()), Err)
    }

    /// Writes and syncs everything staged so far.
    ///
    /// # Errors
    /// `OutcomeUnknown` or `Closed` after a failed write or sync.
    pub fn sync(&self) -> Result<()> {
        let end = self.staged_end()?;
        self.commit(end, Durability::Synced).wait()
    }
}

/// A commit under way: a future, with [`wait`](Self::wait) as its blocking twin. Dropping it cancels nothing.
#[must_use = "an append is not acknowledged before its commit is through"]
pub struct Commit {
    inner: Arc<Inner>,
    end: Position,
    durability: Durability,
    resolved: bool,
    /// Who was told to the writer to be woken.
    waker: Option<Waker>,
}

impl Commit {
    /// Blocks until the commit is through; this thread may do the write and the sync for all that wait.
    ///
    /// # Errors
    /// `OutcomeUnknown`: the write or the sync failed, and what became of the records shows on reopening.
    pub fn wait(mut self) -> Result<()> {
        self.resolved = true;
        self.inner.reach(self.end, self.durability)
    }

    /// Whether the answer is there; does not wait.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.inner.writer().is_ok_and(|w| w.state.lock().answer(self.end, self.durability).is_some())
    }
}

impl Future for Commit {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let this = &mut *self;
        let writer = match this.inner.writer() {
            Ok(writer) => writer,
            Err(e) => return Poll::Ready(Err(e)),
        };
        let mut st = writer.state.lock();
        if let Some(answer) = st.answer(this.end, this.durability) {
            this.resolved = true;
            return Poll::Ready(answer);
        }
        // However often it is polled, one entry is enough: it stays until there is an answer.
        if this.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            st.waiting.push((this.durability, this.end, cx.waker().clone()));
            this.waker = Some(cx.waker().clone());
            this.inner.call_flusher(writer, &mut st, this.durability);
        }
        // Where the flusher could not be started, nobody will wake us.
        match st.answer(this.end, this.durability) {
            Some(answer) => {
                this.resolved = true;
                Poll::Ready(answer)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        // Nobody waits any more, but what was staged still has to get to the disk.
        if self.resolved {
            return;
        }
        if let Ok(writer) = self.inner.writer() {
            let mut st = writer.state.lock();
            if st.answer(self.end, self.durability).is_none() {
                self.inner.call_flusher(writer, &mut st, self.durability);
            }
        }
    }
}

impl State {
    fn reached(&self, durability: Durability) -> Position {
        match durability {
            Durability::Buffered => self.written.position,
            Durability::Synced => self.durable.position,
        }
    }

    fn answer(&self, end: Position, durability: Durability) -> Option<Result<()>> {
        if self.reached(durability) >= end {
            return Some(Ok(()));
        }
        self.fault.as_ref().map(|fault| {
            Err(Error::with_source(
                ErrorKind::OutcomeUnknown,
                "the append may or may not have become durable; reopen the store and repeat it with the same event ids",
                fault.clone(),
            ))
        })
    }

    fn refusal(&self) -> Option<Error> {
        if guard::on(Guard::Refusal)
            && let Some(fault) = &self.fault
        {
            return Some(Error::with_source(
                ErrorKind::Closed,
                "the partition takes no more appends after a failed write or sync; reopen the store",
                fault.clone(),
            ));
        }
        self.closing.then(|| Error::new(ErrorKind::Closed, "the store is closed"))
    }
}

fn chain(checksum: u32, frame_header: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(checksum);
    crc.update(&frame_header[..4]);
    crc.finalize()
}

/// The checksum of a segment after one more frame.
pub(crate) fn chain_checksum(checksum: u32, frame_header: &[u8]) -> u32 {
    chain(checksum, frame_header)
}

type Locked<'a> = MutexGuard<'a, State>;

/// Why a segment was not begun.
enum NotBegun {
    /// Nothing has happened; it can be tried again.
    Refused(Error),
    /// A sync failed, so it cannot be known whether the manifest names it.
    Unknown(Error),
}

impl Inner {
    /// Blocks until everything before `end` has reached `durability`, leading where nobody else does.
    pub(crate) fn reach(&self, end: Position, durability: Durability) -> Result<()> {
        let writer = self.writer()?;
        let mut st = writer.state.lock();
        loop {
            if let Some(answer) = st.answer(end, durability) {
                return answer;
            }
            st = self.advance(writer, st, durability);
        }
    }

    /// Does the next thing that brings `durability` nearer, or waits for the one who is doing it.
    fn advance<'a>(&self, writer: &'a Writer, mut st: Locked<'a>, durability: Durability) -> Locked<'a> {
        let synced = durability == Durability::Synced;
        // While a sync is under way, those that wait for a sync let more appends gather for the next write.
        let gathers = synced && st.syncing;
        if !st.writing && !st.staging.is_empty() && !gathers {
            return self.write_staged(writer, st);
        }
        if synced && !st.syncing && !st.writing && st.written.position > st.durable.position {
            return self.sync_written(writer, st);
        }
        writer.changed.wait(&mut st);
        st
    }

    /// One write of everything staged.
    fn write_staged<'a>(&self, writer: &'a Writer, mut st: Locked<'a>) -> Locked<'a> {
        let buf = {
            let spare = std::mem::take(&mut st.spare);
            Arc::new(std::mem::replace(&mut st.staging, spare))
        };
        let end = st.staged;
        let file_offset = end.file_offset - buf.len() as u64;
        let sparse = std::mem::take(&mut st.sparse_staged);
        let (file, active) = (Arc::clone(&st.file), Arc::clone(&st.active));
        st.writing = true;
        st.in_flight = Some((file_offset, Arc::clone(&buf)));
        drop(st);

        let written = file.write_all_at(&buf, file_offset);
        let written = if guard::on(Guard::WriteFailure) { written } else { Ok(()) };
        if written.is_ok() && !sparse.is_empty() {
            active.push_sparse(&self.env, &sparse);
        }

        let mut st = writer.state.lock();
        st.writing = false;
        st.in_flight = None;
        match written {
            Ok(()) => {
                st.written = end;
                if st.unsynced_since.is_none() {
                    st.unsynced_since = Some(self.env.clock.monotonic());
                    if self.options.durability == Durability::Buffered {
                        writer.flusher_called.notify_one();
                    }
                }
                if self.options.durability == Durability::Buffered || !guard::on(Guard::ShownAfterSync) {
                    self.show(&st, end);
                }
            }
            Err(e) => {
                let e = io_error(|| format!("write to the segment {}", active.path.display()))(e);
                self.fail(&mut st, e);
            }
        }
        if let Ok(mut buf) = Arc::try_unwrap(buf)
            && buf.capacity() <= SPARE_BYTES_MAX
        {
            buf.clear();
            st.spare = buf;
        }
        self.wake(writer, st)
    }

    /// One sync of everything written.
    fn sync_written<'a>(&self, writer: &'a Writer, mut st: Locked<'a>) -> Locked<'a> {
        let end = st.written;
        let (file, active) = (Arc::clone(&st.file), Arc::clone(&st.active));
        let began = self.env.clock.monotonic();
        st.syncing = true;
        st.unsynced_since = None;
        drop(st);

        let synced = if guard::on(Guard::SegmentSync) { file.sync() } else { Ok(()) };
        let synced = if guard::on(Guard::SyncFailure) { synced } else { Ok(()) };
        metrics::counter!("annals_syncs_total").increment(1);
        metrics::histogram!("annals_sync_duration_seconds")
            .record(self.env.clock.monotonic().saturating_sub(began).as_secs_f64());

        let mut st = writer.state.lock();
        st.syncing = false;
        match synced {
            Ok(()) => {
                st.durable = end;
                self.write_mark(writer, &mut st, false);
                if self.options.durability == Durability::Synced {
                    self.show(&st, end);
                }
            }
            Err(e) => {
                metrics::counter!("annals_sync_failures_total").increment(1);
                let e = io_error(|| format!("sync the segment {}", active.path.display()))(e);
                self.fail(&mut st, e);
            }
        }
        self.wake(writer, st)
    }

    /// Notes the durable end for other processes and the next opening.
    fn write_mark(&self, writer: &Writer, st: &mut State, clean: bool) {
        let mark = Mark {
            sequence: st.mark_sequence + 1,
            position: st.durable.position,
            segment: st.active.header.number,
            file_offset: st.durable.file_offset,
            incarnation: self.incarnation,
            recorded_time: st.durable.recorded_time,
            checksum: st.durable.checksum,
            clean,
        };
        match writer.marks.store(&mark) {
            Ok(()) => {
                st.mark_sequence += 1;
                st.mark_dirty = true;
            }
            // The mark is a proof, not a promise: without it the next opening looks at more frames.
            Err(error) => tracing::warn!(%error, "cannot write the mark"),
        }
    }

    fn show(&self, st: &State, end: End) {
        self.publish(Watermark { position: end.position, address: st.active.address(end.file_offset) });
    }

    fn fail(&self, st: &mut State, error: Error) {
        tracing::error!(%error, "the partition takes no more appends");
        if st.fault.is_none() {
            st.fault = Some(error);
        }
    }

    /// Wakes those whose answer is there. The lock is given back meanwhile: a waker may run what it wakes, or let go of
    /// the last handle of the log.
    fn wake<'a>(&self, writer: &'a Writer, mut st: Locked<'a>) -> Locked<'a> {
        writer.changed.notify_all();
        if st.waiting.is_empty() {
            return st;
        }
        let waiting = std::mem::take(&mut st.waiting);
        let (ready, waiting): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|(durability, end, _)| st.answer(*end, *durability).is_some());
        st.waiting = waiting;
        drop(st);
        ready.into_iter().for_each(|(_, _, waker)| waker.wake());
        writer.state.lock()
    }

    /// The state, with room in the active segment and in the staging buffer for a frame, and the time that the frame is
    /// recorded at.
    fn make_room<'a>(
        &self,
        writer: &'a Writer,
        records: u32,
        frame_len: u64,
    ) -> Result<(Locked<'a>, Timestamp)> {
        let mut st = writer.state.lock();
        loop {
            if let Some(refusal) = st.refusal() {
                return Err(refusal);
            }
            if st.rolling {
                writer.changed.wait(&mut st);
                continue;
            }
            let staged = st.staging.len() as u64;
            if staged > 0 && staged + frame_len > self.options.staging_bytes_max as u64 {
                // Bounded: this caller helps along whoever is writing, or writes itself.
                if st.writing {
                    writer.changed.wait(&mut st);
                } else {
                    st = self.write_staged(writer, st);
                }
                continue;
            }
            let now = self.env.clock.now();
            let time = if guard::on(Guard::TimeForward) { st.staged.recorded_time.max(now) } else { now };
            let last = st.staged.position + u64::from(records) - 1;
            let end = st.staged.file_offset + frame_len;
            let empty = st.staged.file_offset == FRAMES_START;
            let fits = end <= self.options.segment_bytes_max || empty;
            let holds = !guard::on(Guard::RecordHolds) || st.active.context().holds(last, time);
            if !fits || !holds {
                st = self.roll(writer, st, frame_len)?;
                continue;
            }
            if end > st.prepared_end && guard::on(Guard::RoomReserved) {
                self.prepare(&mut st, end)?;
            }
            return Ok((st, time));
        }
    }

    /// Reserves room in the active segment up to `end` and some way beyond.
    fn prepare(&self, st: &mut State, end: u64) -> Result<()> {
        let step = st.prepared_end.clamp(PREPARE_MIN, PREPARE_MAX);
        let wanted = (end + step).min(self.options.segment_bytes_max).max(end).next_multiple_of(4096);
        let what = || format!("reserve room in the segment {}", st.active.path.display());
        let exact = end.next_multiple_of(4096);
        let from = st.prepared_end;
        let reserved = match st.file.allocate(from, wanted - from) {
            Ok(()) => wanted,
            // No room for the step; perhaps for the frame.
            Err(_) if exact < wanted => {
                st.file.allocate(from, exact - from).map_err(io_error(what))?;
                exact
            }
            Err(e) => return Err(io_error(what)(e)),
        };
        st.prepared_end = reserved;
        Ok(())
    }

    /// Begins a new segment. Every appender waits; everything staged becomes durable first.
    fn roll<'a>(&self, writer: &'a Writer, mut st: Locked<'a>, frame_len: u64) -> Result<Locked<'a>> {
        st.rolling = true;
        let end_rolling = |st: &mut State| {
            st.rolling = false;
            writer.changed.notify_all();
        };
        let waits_for = if guard::on(Guard::RollWaits) { Durability::Synced } else { Durability::Buffered };
        while st.reached(waits_for) < st.staged.position {
            if let Some(refusal) = st.refusal() {
                end_rolling(&mut st);
                return Err(refusal);
            }
            st = self.advance(writer, st, waits_for);
        }
        let old = Arc::clone(&st.active);
        let old_end = st.staged;
        let known = st.segments.len();
        let old_file = Arc::clone(&st.file);
        drop(st);

        let begun = self.begin_segment(&old, old_end, known, frame_len);

        let mut st = writer.state.lock();
        match begun {
            Ok((entry, segment, file, prepared_end)) => {
                // The old file's unused room goes back. Only now: until the manifest named the successor, it was active.
                if let Err(error) = old_file.set_len(old_end.file_offset).and_then(|()| old_file.sync()) {
                    tracing::warn!(%error, "cannot give back the unused room of a sealed segment");
                }
                old.save_sparse(&self.env);
                old.set_seal(Seal {
                    len: old_end.file_offset,
                    end_position: old_end.position,
                    checksum: old_end.checksum,
                });
                let start = End {
                    position: old_end.position,
                    file_offset: FRAMES_START,
                    // Not the old end's time: a clock that goes back must not lead behind the base.
                    recorded_time: entry.base_time,
                    checksum: 0,
                };
                st.segments.push(entry);
                st.active = Arc::clone(&segment);
                st.file = file;
                st.prepared_end = prepared_end;
                st.sparse_next = FRAMES_START;
                (st.staged, st.written, st.durable) = (start, start, start);
                self.add_segment(segment);
                // The address of the watermark moves on although its position does not.
                self.show(&st, start);
                self.write_mark(writer, &mut st, false);
                metrics::counter!("annals_segments_begun_total").increment(1);
                end_rolling(&mut st);
                Ok(st)
            }
            Err(NotBegun::Refused(e)) => {
                end_rolling(&mut st);
                Err(e)
            }
            Err(NotBegun::Unknown(e)) => {
                // Whether the manifest names the new segment shows on reopening; a second try could name another.
                self.fail(&mut st, e);
                end_rolling(&mut st);
                Err(st.refusal().unwrap_or_else(|| Error::new(ErrorKind::Closed, "the partition has failed")))
            }
        }
    }

    #[expect(clippy::type_complexity, reason = "used once, by the one function above")]
    fn begin_segment(
        &self,
        old: &Segment,
        old_end: End,
        known: usize,
        frame_len: u64,
    ) -> Result<(SegmentEntry, Arc<Segment>, Arc<dyn DiskFile>, u64), NotBegun> {
        let _span = tracing::info_span!("begin_segment", after = old.header.number).entered();
        let entry = SegmentEntry {
            number: old.header.number + 1,
            salt: self.new_salt(),
            base_position: old_end.position,
            base_address: old.address(old_end.file_offset.next_multiple_of(4096)),
            base_time: old_end.recorded_time.max(self.env.clock.now()),
            previous_len: old_end.file_offset,
            previous_checksum: old_end.checksum,
        };
        let segment = Segment::new(&self.dir, &entry, self.partition_id);
        let step = old_end.file_offset.clamp(PREPARE_MIN, PREPARE_MAX);
        let prepared =
            (FRAMES_START + frame_len).max(step.min(self.options.segment_bytes_max)).next_multiple_of(4096);
        let file = segment.create(&self.env, prepared).map_err(NotBegun::Refused)?;
        let written = Manifest::write_entry(&self.env, &self.dir, &self.partition_id, known, &entry);
        let manifest = written.map_err(|e| {
            // Room taken by a segment that nobody names would keep a full disk full.
            let _ = self.env.disk.remove(&segment.path);
            NotBegun::Refused(e)
        })?;
        if guard::on(Guard::ManifestEntrySync) {
            manifest
                .sync()
                .map_err(io_error(|| format!("sync {}", self.dir.join(MANIFEST_NAME).display())))
                .map_err(NotBegun::Unknown)?;
        }
        Ok((entry, Arc::new(segment), file, prepared))
    }

    /// Bytes that are staged or being written, at an address; `None` where they are on disk already.
    pub(crate) fn copy_staged(&self, address: u64, into: &mut Vec<u8>) -> Option<RecordContext> {
        let st = self.writer().ok()?.state.lock();
        let file_offset = address.checked_sub(st.active.header.base_address)?;
        let staged_from = st.staged.file_offset - st.staging.len() as u64;
        let bytes = if (staged_from..st.staged.file_offset).contains(&file_offset) {
            &st.staging[(file_offset - staged_from) as usize..]
        } else {
            let (from, buf) = st.in_flight.as_ref()?;
            buf.get(usize::try_from(file_offset.checked_sub(*from)?).ok()?..)?
        };
        let context = st.active.context();
        let len = context.peek_len(bytes)?;
        into.clear();
        into.extend_from_slice(bytes.get(..len)?);
        Some(context)
    }

    /// Address behind which nothing has been written to a file yet.
    pub(crate) fn written_end_address(&self) -> Option<u64> {
        let st = self.writer().ok()?.state.lock();
        Some(st.active.address(st.written.file_offset))
    }

    /// Behind everything written.
    pub(crate) fn written(&self) -> Result<Watermark> {
        let st = self.writer()?.state.lock();
        let address = st.active.address(st.written.file_offset);
        Ok(Watermark { position: st.written.position, address })
    }

    /// Bytes reserved in the active segment, and its file's end of use.
    pub(crate) fn active_room(&self) -> Option<(u64, u64)> {
        let st = self.writer().ok()?.state.lock();
        Some((st.prepared_end, st.staged.file_offset))
    }

    /// Syncs everything, marks the log clean and stops the flusher. The second call waits for the first and tells the
    /// same. On a log opened to read it only ends the waits.
    pub(crate) fn close(&self) -> Result<()> {
        let Ok(writer) = self.writer() else {
            // A log opened to read has nothing to sync, but perhaps somebody who waits for news.
            self.publish_closed();
            let polling = self.flusher.lock().take();
            if let Some(polling) = polling {
                polling.join();
            }
            return Ok(());
        };
        let mut st = writer.state.lock();
        if st.closing {
            while !st.closed {
                writer.changed.wait(&mut st);
            }
            return st.answer(st.staged.position, Durability::Synced).unwrap_or(Ok(()));
        }
        st.closing = true;
        while st.rolling {
            writer.changed.wait(&mut st);
        }
        let end = st.staged.position;
        drop(st);
        let synced = self.reach(end, Durability::Synced);
        writer.state.lock().active.save_sparse(&self.env);

        let mut st = writer.state.lock();
        if synced.is_ok() && st.fault.is_none() {
            // Room that was reserved and not used goes back. What is in the file ends here, so nothing is cut off.
            let given_back = st.file.set_len(st.durable.file_offset).and_then(|()| st.file.sync());
            if let Err(error) = given_back {
                tracing::warn!(%error, "cannot give back the unused room of the active segment");
            }
            self.write_mark(writer, &mut st, true);
        }
        st.closed = true;
        writer.flusher_called.notify_all();
        drop(self.wake(writer, st));
        let flusher = self.flusher.lock().take();
        if let Some(flusher) = flusher {
            flusher.join();
        }
        let marked = if guard::on(Guard::MarkSyncOnClose) { writer.marks.sync() } else { Ok(()) };
        let marked = marked.map_err(io_error(|| "sync the mark".to_owned()));
        self.publish_closed();
        synced.and(marked)
    }

    fn call_flusher(&self, writer: &Writer, st: &mut State, durability: Durability) {
        st.flush_wanted = st.flush_wanted.max(Some(durability));
        self.start_flusher(st);
        writer.flusher_called.notify_one();
    }

    /// The flusher is started with the first batch: a log that is only read never has one.
    fn start_flusher(&self, st: &mut State) {
        if st.closing || st.fault.is_some() {
            return;
        }
        let mut flusher = self.flusher.lock();
        if flusher.is_some() {
            return;
        }
        let Some(inner) = self.myself.upgrade() else { return };
        match spawn("annals-flusher", move || inner.flush_behind()) {
            Ok(thread) => {
                *flusher = Some(thread);
                st.flusher_started = true;
            }
            Err(e) => self.fail(st, Error::io("cannot start the flusher thread", e)),
        }
    }

    /// What the flusher thread does until the log closes.
    fn flush_behind(&self) {
        let Ok(writer) = self.writer() else { return };
        let mut st = writer.state.lock();
        loop {
            if st.closed || st.fault.is_some() {
                return;
            }
            if let Some(durability) = st.flush_wanted.take() {
                let end = st.staged.position;
                while st.answer(end, durability).is_none() {
                    st = self.advance(writer, st, durability);
                }
                continue;
            }
            let interval = self.options.sync_interval;
            if let Some(since) = st.unsynced_since {
                let age = self.env.clock.monotonic().saturating_sub(since);
                if age < interval {
                    writer.flusher_called.wait_for(&mut st, interval - age);
                } else if st.syncing || st.writing {
                    writer.changed.wait(&mut st);
                } else if guard::on(Guard::SyncBehind) {
                    st = self.sync_written(writer, st);
                } else {
                    st.unsynced_since = None;
                }
                continue;
            }
            if !st.mark_dirty && st.staging.is_empty() {
                st.flusher_sleeps = true;
                writer.flusher_called.wait(&mut st);
                st.flusher_sleeps = false;
                continue;
            }
            let before = (st.mark_sequence, st.written.position);
            let waited = writer.flusher_called.wait_for(&mut st, interval);
            if !waited.timed_out() || before != (st.mark_sequence, st.written.position) {
                continue;
            }
            if !st.staging.is_empty() {
                // Staged, and nobody has waited for it: it gets to the disk all the same.
                st.flush_wanted = st.flush_wanted.max(Some(self.options.durability));
            } else if st.mark_dirty && guard::on(Guard::MarkSyncWhenIdle) {
                // Idle: nothing came for an interval, so the mark itself is made durable.
                st.mark_dirty = false;
                drop(st);
                if let Err(error) = writer.marks.sync() {
                    tracing::warn!(%error, "cannot sync the mark");
                }
                st = writer.state.lock();
            }
        }
    }
}
