//! Claiming: which events a member gets next, and writing down that it has them.
//!
//! # Invariants
//! - A suspect is claimed when nothing else is in hand, and nothing else while it is.
//! - What was read goes to the member, to wait for its key, or to be held behind it; nothing that was read is forgotten but by a
//!   failure that leaves the group to be loaded anew.
//!
//! Elsewhere: what is done with answers ([`super`], [`super::failing`]).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use annals_log::sync::Arc;
use annals_model::{Error, Position, RecordPlace, Result};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::super::journal::{Change, Octets, spans};
use super::super::state::PartitionState;
use super::{Busy, Chunk, Hands, Item, Key, Live, key_bytes};

/// Most bytes that a member claims at once.
const CLAIM_BYTES_MAX: usize = 1024 * 1024;
/// Most events that wait in memory for their keys; nothing more is read meanwhile.
const WAITING_MAX: usize = 1 << 20;

/// Held events, by partition and key.
type Held = BTreeMap<(u32, Vec<u8>), Vec<Position>>;

/// What a member gets, before it is written down.
#[derive(Default)]
pub(super) struct Gathered {
    items: Vec<Item>,
    /// Their bodies.
    chunk: Vec<u8>,
    changes: Vec<Change>,
    failed: Option<Error>,
}

impl Live {
    pub(super) fn is_suspect(&self, at: RecordPlace) -> bool {
        self.state.tries.get(&at).is_some_and(|tries| tries.suspect)
    }

    /// Claims up to so many events for a member.
    pub(in crate::group) fn claim(&mut self, hands: &Hands, want: usize) -> Result<Vec<Item>> {
        self.expire()?;
        if !self.recovering.is_empty() {
            // What is held behind it goes on.
            self.write(Vec::new())?;
        }
        let Gathered { mut items, chunk, mut changes, failed } = self.gather(hands.id, want);
        let chunk = Arc::new(Chunk { bytes: chunk, since_beginning: Arc::clone(&self.beginning) });
        for item in &mut items {
            item.chunk = Arc::clone(&chunk);
        }
        for (partition, positions) in spans(items.iter().map(|i| (i.at.partition, i.at.position))) {
            let here = items.iter().filter(|item| item.at.partition == partition);
            let last =
                here.max_by_key(|item| item.at.position).map_or_else(String::new, |i| i.id.to_string());
            changes.push(Change::Claimed { partition, positions, last });
        }
        let written = self.write_claim(changes);
        // What was gathered is with nobody.
        self.broken |= written.is_err();
        written?;
        // What was gathered before the failure is delivered first; then the failure is come to again.
        match failed {
            Some(e) if items.is_empty() => Err(e),
            _ => Ok(items),
        }
    }

    pub(super) fn write_claim(&mut self, changes: Vec<Change>) -> Result<()> {
        for change in &changes {
            if let Change::Held { partition, positions, .. } = change
                && let Some(last) = positions.last()
            {
                self.sync_source(RecordPlace { partition: *partition, position: *last })?;
            }
        }
        self.write(changes)
    }

    pub(super) fn gather(&mut self, me: u64, want: usize) -> Gathered {
        let mut gathered = Gathered::default();
        self.dry = false;
        self.looked_at_due = false;
        if self.state.paused || self.state.stopped.is_some() || self.alone {
            return gathered;
        }
        gathered.failed = self.gather_into(&mut gathered, me, want).err();
        gathered
    }

    pub(super) fn gather_into(&mut self, gathered: &mut Gathered, me: u64, want: usize) -> Result<()> {
        let Gathered { items, chunk, changes, .. } = gathered;
        let now = self.now();
        self.looked_at_due = true;
        while let Some(due) = self.due.first_entry().filter(|due| due.key().0 <= now) {
            self.ready.push_back(due.remove());
        }
        let in_flight_max = u64::from(self.state.options.policy.in_flight_max.max(1));
        let room = in_flight_max.saturating_sub(self.in_flight).min(want as u64) as usize;
        let (mut held, mut held_count) = (Held::new(), 0);
        let mut failed = None;
        let mut dry = 0;
        let nobody = Arc::new(Chunk { bytes: Vec::new(), since_beginning: Arc::clone(&self.beginning) });
        while items.len() < room && chunk.len() < CLAIM_BYTES_MAX {
            if let Some(&(at, key)) = self.ready.front() {
                let suspect = self.is_suspect(at);
                if suspect && self.in_flight > 0 {
                    break;
                }
                let mut item = match self.load(at, key, chunk, &nobody) {
                    Ok(item) => item,
                    Err(e) => {
                        failed = Some(e);
                        break;
                    }
                };
                self.ready.pop_front();
                self.dress(&mut item);
                self.take(key, me);
                items.push(item);
                if suspect {
                    self.alone = true;
                    break;
                }
                continue;
            }
            if self.keys.waiting >= WAITING_MAX {
                break;
            }
            if dry >= self.feeds.len() {
                self.dry = true;
                break;
            }
            let number = self.turn % self.feeds.len();
            let secret = self.secret;
            let Live { feeds, state, keys, pending, read, .. } = self;
            let (feed, pending) = (&mut feeds[number], &mut pending[number]);
            match feed.advance(read, pending) {
                Ok(true) => {}
                Ok(false) => {
                    dry += 1;
                    self.turn = self.turn.wrapping_add(1);
                    continue;
                }
                Err(e) => {
                    failed = Some(e);
                    feed.reading = None;
                    break;
                }
            }
            dry = 0;
            let Some(reading) = &feed.reading else { continue };
            let (record, view) = match reading.record().and_then(|r| Ok((r, reading.view()?))) {
                Ok(both) => both,
                Err(e) => {
                    failed = Some(e);
                    feed.go_back_to(feed.next);
                    break;
                }
            };
            let bytes = key_bytes(&view);
            let (at, id) = (view.place(), view.id);
            feed.next = at.position + 1;
            if state.options.key.as_deref().is_some_and(|wanted| bytes != wanted) {
                continue;
            }
            pending.insert(feed.gap_from..at.position);
            feed.gap_from = at.position + 1;
            if state.is_done(at) {
                continue;
            }
            let PartitionState { holds, .. } = &state.partitions[number];
            if !holds.is_empty()
                && let Some(hold) = holds.get(bytes).filter(|hold| hold.letter.is_some())
            {
                let policy = &state.options.policy;
                let more = held.get(&(at.partition, bytes.to_vec())).map_or(0, Vec::len);
                let of_key = (hold.queue.len() + more) as u64;
                let why = if of_key >= policy.held_per_key_max {
                    format!(
                        "{of_key} events of the key `{}` are held, the most that the policy allows",
                        bytes.escape_ascii()
                    )
                } else if state.held + held_count >= policy.held_max {
                    format!("{} events are held, the most that the policy allows", state.held + held_count)
                } else {
                    held.entry((at.partition, bytes.to_vec())).or_default().push(at.position);
                    held_count += 1;
                    continue;
                };
                tracing::warn!(%why, "a consumer group has stopped");
                changes.push(Change::Stopped { why });
                feed.gap_from = at.position;
                feed.go_back_to(at.position);
                break;
            }
            let key = xxh3_128_with_seed(bytes, secret ^ u64::from(at.partition));
            let tried = !state.tries.is_empty() && state.tries.contains_key(&at);
            match keys.get(key) {
                Some(busy) if busy.holder == me && busy.count > 0 && busy.waiting.is_empty() && !tried => {
                    busy.count += 1;
                }
                Some(busy) => {
                    busy.waiting.push_back(at.position);
                    keys.waiting += 1;
                    continue;
                }
                None if tried => {
                    // As one that waited; it may be due later, or be a suspect.
                    self.add_busy(key, at.partition, VecDeque::new());
                    self.make_head(at, key);
                    continue;
                }
                None => keys.add(Busy {
                    key,
                    partition: at.partition,
                    holder: me,
                    count: 1,
                    waiting: VecDeque::new(),
                }),
            }
            self.in_flight += 1;
            let start = chunk.len();
            chunk.extend_from_slice(record.body);
            items.push(Item {
                at,
                key,
                id,
                tries: 1,
                redriven: false,
                edited: None,
                recorded_time: record.recorded_time,
                chunk: Arc::clone(&nobody),
                body: start..chunk.len(),
                since: Duration::ZERO,
            });
            if self.feeds.len() > 1 {
                self.turn = self.turn.wrapping_add(1);
            }
        }
        changes.extend(held.into_iter().map(|((partition, key), positions)| Change::Held {
            partition,
            key: Octets::of(&key),
            positions,
        }));
        failed.map_or(Ok(()), Err)
    }

    /// The first of its key is in a member's hands.
    pub(super) fn take(&mut self, key: Key, me: u64) {
        self.in_flight += 1;
        if let Some(busy) = self.keys.get(key) {
            busy.holder = me;
            busy.count = 1;
        }
    }

    /// Reads an event at its place.
    pub(super) fn load(
        &self,
        at: RecordPlace,
        key: Key,
        chunk: &mut Vec<u8>,
        nobody: &Arc<Chunk>,
    ) -> Result<Item> {
        let partition = self.partition(at.partition)?;
        let watermark = partition.log.watermark();
        let mut scan = partition.log.scan(at.position, watermark)?;
        if !scan.advance()? || scan.record().position != at.position {
            return Err(Error::not_found(format!("the event at {at} is not there any more")));
        }
        let record = scan.record();
        let start = chunk.len();
        chunk.extend_from_slice(record.body);
        Ok(Item {
            at,
            key,
            id: partition.decode(&record)?.id,
            tries: 1,
            redriven: false,
            edited: None,
            recorded_time: record.recorded_time,
            chunk: Arc::clone(nobody),
            body: start..chunk.len(),
            since: Duration::ZERO,
        })
    }

    /// Says of an event which try it is, and of a dead letter that it is one.
    pub(super) fn dress(&self, item: &mut Item) {
        item.tries = self.state.tries.get(&item.at).map_or(1, |t| t.count + 1);
        if let Some(letter) = self.state.letters.get(&item.at) {
            item.redriven = true;
            item.edited = letter.edited.as_ref().map(|e| Arc::new(e.bytes()));
        }
    }
}
